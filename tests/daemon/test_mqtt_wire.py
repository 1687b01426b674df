"""The MQTT sink against a broker that misbehaves on purpose, byte by byte."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import daemon.sinks.mqtt as mqtt_module
from daemon.outbox import Change, Delivered, SinkDown
from daemon.sinks.mqtt import MqttSettings, MqttSink

NOON = 1_772_424_000_000

# Answers as MQTT 5.0 has them.
CONNACK_5 = bytes.fromhex("20 03 00 00 00")
CONNACK_311 = bytes.fromhex("20 02 00 00")
NO_RETAIN = bytes.fromhex("20 05 00 00 02 25 00")  # property 37, retain available, 0
QOS_0_ONLY = bytes.fromhex("20 05 00 00 02 24 00")  # property 36, maximum QoS, 0
SERVER_BUSY = bytes.fromhex("20 03 00 89 00")
BAD_PASSWORD = bytes.fromhex("20 03 00 86 00")
TAKEN_OVER = bytes.fromhex("E0 02 8E 00")
SUCCESS, UNSPECIFIED, NOT_AUTHORIZED, QUOTA_EXCEEDED = 0x00, 0x80, 0x87, 0x97


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


def change(seq: int) -> Change:
    return Change(seq, "violation", "opened", f"v{seq}", NOON, "", b'{"code":"ATT-01"}')


class OddBroker:
    """Speaks just enough MQTT for one client at a time.

    ``greeting(level)`` answers a CONNECT of that protocol level, ``acknowledge(number)`` the
    event of that number in the connection: a reason code, None for silence, or bytes to send
    before hanging up.
    """

    def __init__(self) -> None:
        self.greeting: Callable[[int], bytes] = lambda level: (
            CONNACK_5 if level == 5 else CONNACK_311
        )
        self.acknowledge: Callable[[int], int | bytes | None] = lambda _: SUCCESS
        self.after_subscribing = b""
        self.events: list[bytes] = []
        self.levels: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                try:
                    self._talk(peer, stream)
                except (OSError, IndexError):
                    pass

    def _talk(self, peer: socket.socket, stream: Any) -> None:
        level = events = subscriptions = 0
        while True:
            kind = stream.read(1)[0]
            length = shift = 0
            while (byte := stream.read(1)[0]) & 0x80:
                length |= (byte & 0x7F) << shift
                shift += 7
            body = stream.read(length | byte << shift)
            if kind == 0x10:
                level = body[6]
                self.levels.append(level)
                answer = self.greeting(level)
                peer.sendall(answer)
                if not answer.startswith(b"\x20") or answer[3]:
                    stream.read()
                    return
            elif kind == 0x82:
                end = b"\x00\x01" if level == 5 else b"\x01"
                peer.sendall(bytes((0x90, 2 + len(end))) + body[:2] + end)
                subscriptions += 1
                if subscriptions == 2 and self.after_subscribing:
                    peer.sendall(self.after_subscribing)
                    return
            elif kind >> 4 == 3:
                size = struct.unpack_from(">H", body)[0]
                topic, mid = body[2 : 2 + size], body[2 + size : 4 + size]
                payload = body[4 + size + (level == 5) :]
                answer = SUCCESS
                if topic.endswith(b"bridge/state"):
                    echo = body[: 2 + size] + (b"\x00" if level == 5 else b"") + payload
                    peer.sendall(bytes((0x30, len(echo))) + echo)
                else:
                    events += 1
                    self.events.append(payload)
                    answer = self.acknowledge(events)
                if isinstance(answer, bytes):
                    peer.sendall(answer)
                    return
                if answer is not None:
                    code = bytes((answer, 0)) if level == 5 else b""
                    peer.sendall(bytes((0x40, 2 + len(code))) + mid + code)
            elif kind == 0xC0:
                peer.sendall(b"\xd0\x00")


@pytest.fixture
def broker() -> Iterator[OddBroker]:
    odd = OddBroker()
    yield odd
    odd.close()


@pytest.fixture
def connect(broker: OddBroker) -> Iterator[Callable[..., MqttSink]]:
    sinks: list[MqttSink] = []

    def start(link: str = "ready", **settings: Any) -> MqttSink:
        sink = MqttSink(
            MqttSettings(hall="h1", host="127.0.0.1", port=broker.port, retry_min=0.02, **settings),
            zone=ZoneInfo("Asia/Shanghai"),
            source="db7",
            version="1.0",
            snapshot=list,
            now=lambda: NOON,
            ready=lambda: None,
        )
        sinks.append(sink)
        sink.start()
        until(lambda: sink.health().link == link)
        return sink

    yield start
    for sink in sinks:
        sink.close()


def test_only_what_was_acknowledged_without_a_gap_counts_when_the_connection_breaks(
    broker, connect
) -> None:
    # 1 and 2 are acknowledged, 3 is not, 4 and 5 are, then the broker is gone.
    broker.acknowledge = lambda number: {3: None, 6: b"\x00"}.get(number, SUCCESS)
    sink = connect()

    delivered = sink.deliver([change(seq) for seq in range(101, 107)])

    assert delivered == Delivered(102)
    first = list(broker.events)
    until(lambda: sink.health().link == "ready")
    broker.acknowledge = lambda _: SUCCESS
    assert sink.deliver([change(seq) for seq in range(103, 107)]) == Delivered(106)
    assert broker.events[6:] == first[2:6]  # the same ids and bytes again


def test_nothing_acknowledged_means_the_sink_is_down(broker, connect) -> None:
    broker.acknowledge = lambda _: b"\x00"
    sink = connect()

    with pytest.raises(SinkDown, match="connection to the broker was lost"):
        sink.deliver([change(1), change(2)])


def test_a_broker_that_acknowledges_nothing_is_given_up(broker, connect, monkeypatch) -> None:
    monkeypatch.setattr(mqtt_module, "ACK_TIMEOUT", 0.2)
    broker.acknowledge = lambda _: None
    sink = connect()

    with pytest.raises(SinkDown, match="acknowledged nothing"):
        sink.deliver([change(1)])


def test_a_window_is_never_exceeded_and_its_end_is_waited_for(broker, connect) -> None:
    broker.acknowledge = lambda number: None if number > 3 else SUCCESS
    sink = connect(window=5)
    result: list[object] = []

    def deliver() -> None:
        try:
            result.append(sink.deliver([change(seq) for seq in range(1, 50)]))
        except SinkDown as error:
            result.append(error)

    thread = threading.Thread(target=deliver)
    thread.start()
    until(lambda: len(broker.events) >= 5)
    thread.join(0.2)

    assert thread.is_alive()
    assert len(broker.events) <= 3 + 5
    sink.close()
    thread.join(5)
    assert result == [Delivered(3)]


def test_the_receive_maximum_of_the_broker_is_kept(broker, connect) -> None:
    # Property 33, receive maximum, 5: two places are kept for heartbeats and answers.
    broker.greeting = lambda _: bytes.fromhex("20 06 00 00 03 21 00 05")
    broker.acknowledge = lambda _: None
    sink = connect()

    def deliver() -> None:
        with pytest.raises(SinkDown):
            sink.deliver([change(seq) for seq in range(1, 50)])

    thread = threading.Thread(target=deliver)
    thread.start()
    until(lambda: len(broker.events) >= 2)
    thread.join(0.2)

    assert thread.is_alive()
    assert len(broker.events) <= 3
    sink.close()
    thread.join(5)


@pytest.mark.parametrize("code", [NOT_AUTHORIZED, UNSPECIFIED])
def test_a_refusal_is_for_one_change_and_for_good(broker, connect, code: int) -> None:
    broker.acknowledge = lambda number: code if number == 2 else SUCCESS
    sink = connect()

    delivered = sink.deliver([change(1), change(2), change(3)])

    assert delivered.accepted == 3
    assert [seq for seq, _ in delivered.rejected] == [2]


def test_a_quota_is_a_reason_to_try_later_not_to_reject(broker, connect) -> None:
    broker.acknowledge = lambda number: QUOTA_EXCEEDED if number >= 2 else SUCCESS
    sink = connect()

    assert sink.deliver([change(1), change(2), change(3)]) == Delivered(1)
    with pytest.raises(SinkDown, match="Quota exceeded"):
        sink.deliver([change(2)])
    assert sink.health().link == "ready"


@pytest.mark.parametrize(
    ("greeting", "link", "error"),
    [
        (NO_RETAIN, "refused", "keeps no retained messages"),
        (QOS_0_ONLY, "refused", "QoS 0 only"),
        (BAD_PASSWORD, "refused", "Bad user name or password"),
        (SERVER_BUSY, "down", "Server busy"),
    ],
)
def test_a_greeting_that_says_no_is_told_in_words(
    broker, connect, greeting: bytes, link: str, error: str
) -> None:
    broker.greeting = lambda _: greeting
    sink = connect(link, protocol="5")

    assert error in sink.health().error


@pytest.mark.parametrize("answer", [b"", b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"])
def test_a_broker_that_does_not_take_mqtt_5_is_asked_with_3_1_1(
    broker, connect, monkeypatch, answer: bytes
) -> None:
    monkeypatch.setattr(mqtt_module, "ANSWER_TIMEOUT", 0.3)
    broker.greeting = lambda level: CONNACK_311 if level == 4 else answer
    sink = connect()

    assert broker.levels == [5, 4]
    assert sink.health().protocol == "3.1.1"
    assert sink.deliver([change(1)]) == Delivered(1)


def test_with_the_protocol_set_there_is_no_fallback(broker, connect) -> None:
    broker.greeting = lambda level: CONNACK_311 if level == 4 else b"\x20\x02\x00\x01"
    sink = connect("down", protocol="5")

    assert "does not speak" in sink.health().error
    assert set(broker.levels) == {5}


def test_three_takeovers_within_a_minute_stop_the_sink(broker, connect) -> None:
    broker.after_subscribing = TAKEN_OVER
    sink = connect("stopped")

    assert sink.health().code == "duplicate_client_id"
    assert len(broker.levels) == 3
    with pytest.raises(SinkDown, match="another client uses the id 'hallwatch-h1'"):
        sink.deliver([change(1)])


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff" * 64,
        b"\x00" * 64,
        b"\x30\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\xff\xff",
        b"\x32\x04\xff\xff\x00\x00",
        b"\x40\x01\x00",
        b"\x90\x00",
        b"\x20\x03\x00\x00\x00",
        b"\xe0\x02\x03\x00",
        b"\x30\x06\x00\x03\xff\xfe\xfd\x00",
        b"\x30\x18\x00\x11hall/h1/cmd/bridge",
    ],
)
def test_rubbish_from_the_broker_ends_a_connection_and_never_the_sink(
    broker, connect, rubbish: bytes
) -> None:
    broker.after_subscribing = rubbish
    sink = connect("down")
    broker.after_subscribing = b""

    until(lambda: sink.health().link == "ready")

    assert sink.deliver([change(1)]) == Delivered(1)
