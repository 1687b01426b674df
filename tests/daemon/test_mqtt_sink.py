"""The MQTT sink against real brokers, read by ``mosquitto_sub`` as an outsider would."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import daemon.sinks.mqtt as mqtt_module
from daemon.broker import EmbeddedBroker
from daemon.outbox import Change, Delivered, Outbox, SinkDown
from daemon.sinks.mqtt import MqttHealth, MqttSettings, MqttSink

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "mqtt.md"
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = 1_772_424_000_000  # 2026-03-02T12:00:00+08:00


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


# -- rows as the API shows them, of invented people -----------------------------------------------


def change(seq: int, kind: str, key: str, row: dict[str, Any], **rest: Any) -> Change:
    values: dict[str, Any] = {"op": "amended", "at": NOON, "reason": ""} | rest
    return Change(
        seq=seq, kind=kind, key=key, row=json.dumps(row, ensure_ascii=False).encode(), **values
    )


def attendance(seq: int, person: str = "1001", **rest: Any) -> Change:
    row = {"person_code": person, "work_date": "2026-03-02", "verdict": "present", "revision": seq}
    return change(seq, "attendance", f"{person}/2026-03-02", row, **rest)


def violation(seq: int, **rest: Any) -> Change:
    row = {"id": "a1b2c3", "code": "ATT-01", "person_code": "1001", "reason": ""}
    row["title"] = "迟到 12 分钟"
    return change(seq, "violation", "a1b2c3", row, **rest)


def alert(
    seq: int, state: str = "open", key: str = "0f3a", acknowledged_by: str = "", **rest: Any
) -> Change:
    row = {
        "id": key,
        "code": "DEV-01",
        "subject_kind": "device",
        "subject": "term-1",
        "state": state,
        "title": "设备离线 3 分钟：1号考勤机",
        "acknowledged_by": acknowledged_by,
        "revision": seq,
    }
    return change(seq, "alert", key, row, **rest)


def device(seq: int, key: str = "term-1", state: str = "online", **rest: Any) -> Change:
    row = {
        "id": key,
        "state": state,
        "since": "2026-03-02T09:10:00+08:00",
        "reason": "no_reply" if state == "offline" else "",
        "clock_offset_ms": 1200,
        "punches": seq,
        "last_person": "1001",
        "last_error": "user 1001 (张三) refused",
    }
    return change(seq, "device", key, row, **rest)


# -- an outside reader ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    topic: str
    retained: bool
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Reader:
    """``mosquitto_sub`` on everything of the hall."""

    def __init__(self, port: int, topic: str = "hall/#", *options: str) -> None:
        self.heard: list[Heard] = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [
                *("stdbuf", "-oL", "mosquitto_sub", "-p", str(port), "-q", "1", "-d"),
                *("-t", topic, "-F", "=>%r %t %x"),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "mosquitto_sub could not subscribe"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("Subscribed"):
                self._ready.set()
            if line.startswith("=>"):
                retained, topic, *payload = line[2:].split()
                self.heard.append(Heard(topic, retained == "1", bytes.fromhex("".join(payload))))

    def of(self, ending: str) -> list[Heard]:
        return [heard for heard in list(self.heard) if heard.topic.endswith(ending)]

    def events(self) -> list[Heard]:
        return self.of("/event")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def retained(port: int) -> dict[str, bytes]:
    """What a client that is just switched on is told."""
    reader = Reader(port, "#")
    publish(port, "end", "of what was retained")
    until(lambda: reader.of("end"))
    reader.close()
    return {heard.topic: heard.payload for heard in reader.heard if heard.retained}


def publish(port: int, topic: str, payload: str, *options: str) -> None:
    subprocess.run(
        ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", topic, "-m", payload, *options],
        check=True,
    )


# -- the sink under test --------------------------------------------------------------------------


class Hall:
    """A sink with the rows its daemon would have.  ``ready`` counts its connects."""

    def __init__(self, **settings: Any) -> None:
        self.states: list[Change] = []
        self.now = NOON
        self.connects = 0
        values: dict[str, Any] = {"hall": "h1", "host": "127.0.0.1", "retry_min": 0.05} | settings
        self.sink = MqttSink(
            MqttSettings(**values),
            zone=SHANGHAI,
            source="db7",
            version="1.0",
            snapshot=lambda: self.states,
            now=lambda: self.now,
            ready=self._connected,
        )

    def _connected(self) -> None:
        self.connects += 1

    @property
    def health(self) -> MqttHealth:
        return self.sink.health()

    def wait(self, link: str = "ready") -> None:
        until(lambda: self.health.link == link)

    def deliver(self, *changes: Change) -> Delivered:
        return self.sink.deliver(changes)


@pytest.fixture
def open_hall() -> Iterator[Callable[..., Hall]]:
    halls: list[Hall] = []

    def start(states: Sequence[Change] = (), **settings: Any) -> Hall:
        hall = Hall(**settings)
        hall.states += states
        halls.append(hall)
        hall.sink.start()
        return hall

    yield start
    for hall in halls:
        hall.sink.close()


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(port: int, *arguments: str) -> Reader:
        readers.append(Reader(port, *arguments))
        return readers[-1]

    yield start
    for reader in readers:
        reader.close()


# -- topics and payloads --------------------------------------------------------------------------


def test_changes_become_the_messages_of_the_manual(mosquitto, open_hall, read) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port)
    at = NOON + 120

    delivered = hall.deliver(
        attendance(9021, at=at, op="opened"),
        violation(9022, at=at, reason="late log"),
        change(9023, "adjustment", "ad1", {"id": "ad1", "period": "2026-03"}, op="opened", at=at),
        device(9024, state="offline", at=at),
        alert(9025, at=at, op="opened"),
    )

    assert delivered == Delivered(9025)
    until(lambda: len(reader.heard) >= 8)
    heard = {message.topic: message.json for message in reader.heard}
    del heard["hall/h1/bridge/state"]
    ts = "2026-03-02T12:00:00.120+08:00"
    assert heard == {
        "hall/h1/attendance/event": {
            "v": 1,
            "id": "db7-9023",
            "ts": ts,
            "seq": 9023,
            "type": "adjustment_opened",
            "adjustment_id": "ad1",
            "period": "2026-03",
        },
        "hall/h1/violation/event": {
            "v": 1,
            "id": "db7-9022",
            "ts": ts,
            "seq": 9022,
            "type": "amended",
            "reason": "late log",
            "violation_id": "a1b2c3",
            "code": "ATT-01",
            "person_code": "1001",
            "title": "迟到 12 分钟",
        },
        "hall/h1/dev/term-1/avail": {
            "v": 1,
            "ts": "2026-03-02T09:10:00+08:00",
            "state": "offline",
            "since": "2026-03-02T09:10:00+08:00",
            "reason": "no_reply",
        },
        "hall/h1/dev/term-1/state": {
            "v": 1,
            "ts": ts,
            "device": "term-1",
            "state": "offline",
            "reason": "no_reply",
            "since": "2026-03-02T09:10:00+08:00",
            "clock_offset_ms": 1200,
            "punches": 9024,
        },
        "hall/h1/alert/0f3a/state": {
            "v": 1,
            "ts": ts,
            "alert_id": "0f3a",
            "code": "DEV-01",
            "subject": "term-1",
            "subject_kind": "device",
            "state": "open",
            "acknowledged_by": "",
            "revision": 9025,
            "title": "设备离线 3 分钟：1号考勤机",
        },
        "hall/h1/alert/event": {
            "v": 1,
            "id": "db7-9025",
            "ts": ts,
            "seq": 9025,
            "type": "opened",
            "alert_id": "0f3a",
            "code": "DEV-01",
            "subject": "term-1",
            "acknowledged_by": "",
            "revision": 9025,
            "subject_kind": "device",
            "state": "open",
            "title": "设备离线 3 分钟：1号考勤机",
        },
    }
    first = reader.events()[0].json
    assert first == {
        "v": 1,
        "id": "db7-9021",
        "ts": ts,
        "seq": 9021,
        "type": "opened",
        "person_code": "1001",
        "work_date": "2026-03-02",
        "verdict": "present",
        "revision": 9021,
    }
    assert "迟到".encode() in reader.of("/violation/event")[0].payload


def test_states_are_retained_and_events_are_not(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    hall.deliver(attendance(1), violation(2), device(3), alert(4))

    assert set(retained(mosquitto.port)) == {
        "hall/h1/bridge/state",
        "hall/h1/dev/term-1/avail",
        "hall/h1/dev/term-1/state",
        "hall/h1/alert/0f3a/state",
    }


def test_nothing_about_a_person_is_on_the_topics_boards_may_read(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    hall.deliver(device(1), attendance(2), violation(3))

    told = retained(mosquitto.port)
    assert "hall/h1/dev/term-1/state" in told
    assert not [text for text in told.values() if b"1001" in text or "张三".encode() in text]


def test_the_bridge_says_online_after_the_connect_and_offline_when_it_is_closed(
    mosquitto, open_hall, read
) -> None:
    reader = read(mosquitto.port)
    hall = open_hall(port=mosquitto.port)
    hall.wait()
    hall.sink.close()
    until(lambda: len(reader.of("bridge/state")) == 2)

    told = [heard.json for heard in reader.of("bridge/state")]
    common = {"v": 1, "ts": "2026-03-02T12:00:00+08:00", "version": "1.0", "boot": hall.sink.boot}
    assert told == [common | {"state": "online"}, common | {"state": "offline"}]
    assert json.loads(retained(mosquitto.port)["hall/h1/bridge/state"])["state"] == "offline"


def test_a_repeated_delivery_has_the_same_id_and_the_same_bytes(mosquitto, open_hall, read) -> None:
    reader = read(mosquitto.port, "hall/+/+/event")
    first = open_hall(port=mosquitto.port)
    first.wait()
    first.deliver(violation(5))
    first.sink.close()
    second = open_hall(port=mosquitto.port)
    second.wait()
    second.deliver(violation(5))
    until(lambda: len(reader.heard) == 2)

    assert reader.heard[0] == reader.heard[1]
    assert reader.heard[0].json["id"] == "db7-5"


@pytest.mark.parametrize(
    ("state", "acknowledged_by", "age_hours", "shown"),
    [
        ("open", "", 0, True),
        ("open", "", 100, True),
        ("acknowledged", "Li Na", 0, True),
        ("acknowledged", "Li Na", 100, True),
        ("resolved", "", 0, True),
        ("resolved", "", 24, True),
        ("resolved", "", 25, False),
        ("resolved", "Li Na", 0, False),
        ("withdrawn", "Li Na", 1, False),
    ],
)
def test_a_closed_alert_is_shown_until_it_is_acknowledged_or_a_day_old(
    mosquitto, open_hall, state: str, acknowledged_by: str, age_hours: int, shown: bool
) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()
    hall.deliver(alert(1))

    hall.deliver(alert(2, state, acknowledged_by=acknowledged_by, at=NOON - age_hours * 3_600_000))

    assert ("hall/h1/alert/0f3a/state" in retained(mosquitto.port)) == shown


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (change(2, "alert", "0f/#", {"state": "open"}), "cannot be part of a topic"),
        (change(2, "alert", "0f3a", {}), "state"),
        (Change(2, "violation", "opened", "x", NOON, "", b"[1]"), "Expected `object`"),
        (Change(2, "violation", "opened", "x", NOON, "", b"{"), "truncated"),
        (change(2, "weather", "x", {}), "weather"),
    ],
)
def test_a_change_that_fits_no_topic_is_rejected_and_the_others_go_on(
    mosquitto, open_hall, spoilt: Change, reason: str
) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    delivered = hall.deliver(attendance(1), spoilt, attendance(3))

    assert delivered.accepted == 3
    assert [seq for seq, _ in delivered.rejected] == [2]
    assert reason in delivered.rejected[0][1]


# -- connects, losses, restarts -------------------------------------------------------------------


def test_after_a_broker_restart_states_come_back_and_the_outage_arrives_in_order(
    mosquitto, open_hall, read
) -> None:
    changes: list[Change] = []
    hall = open_hall([device(0)], port=mosquitto.port)
    stored: list[int] = []
    outbox = Outbox(
        [hall.sink],
        read=lambda after, limit: changes[after : after + limit],
        cursor=lambda _: 0,
        advance=lambda _sink, seq, _rejected: stored.append(seq),
        now=lambda: NOON,
    )
    outbox.start()
    try:
        hall.wait()
        changes += [attendance(seq) for seq in range(1, 4)]
        outbox.notify(3)
        until(lambda: stored and stored[-1] == 3)
        mosquitto.kill()
        hall.wait("down")
        for seq in range(4, 300):
            changes.append(attendance(seq) if seq % 50 else alert(seq))
            outbox.notify(seq)
        until(lambda: outbox.state()[0].down_since is not None)
        assert "127.0.0.1" in outbox.state()[0].error
        mosquitto.start()
        reader = read(mosquitto.port)
        until(lambda: hall.connects == 2)
        outbox.retry("mqtt")
        until(lambda: stored[-1] == 299)
        until(lambda: len(reader.events()) >= 296)
    finally:
        outbox.close()

    seqs = [heard.json["seq"] for heard in reader.events()]
    assert seqs == list(range(4, 300))
    told = retained(mosquitto.port)
    assert {"hall/h1/bridge/state", "hall/h1/dev/term-1/avail"} < set(told)
    assert json.loads(told["hall/h1/bridge/state"])["state"] == "online"
    assert outbox.state()[0].down_since is None


def test_without_a_broker_nothing_is_accepted_and_it_connects_when_one_comes(
    mosquitto, open_hall
) -> None:
    mosquitto.kill()
    hall = open_hall(port=mosquitto.port)
    hall.wait("down")
    with pytest.raises(SinkDown, match="Connection refused"):
        hall.deliver(attendance(1))

    mosquitto.start()
    hall.wait()

    assert hall.deliver(attendance(1)) == Delivered(1)


def test_the_will_says_offline_when_the_daemon_is_killed(mosquitto, read) -> None:
    program = (
        "import sys, time\n"
        "from zoneinfo import ZoneInfo\n"
        "from daemon.sinks.mqtt import MqttSettings, MqttSink\n"
        f"sink = MqttSink(MqttSettings(hall='h1', host='127.0.0.1', port={mosquitto.port}),\n"
        "    zone=ZoneInfo('Asia/Shanghai'), source='db7', version='1.0', snapshot=list,\n"
        "    now=lambda: 0, ready=lambda: print(sink.boot, file=sys.stderr))\n"
        "sink.start()\n"
        "time.sleep(60)\n"
    )
    reader = read(mosquitto.port)
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stderr=subprocess.PIPE) as it:
        assert it.stderr is not None
        boot = it.stderr.readline().decode().strip()
        os.kill(it.pid, signal.SIGKILL)
    until(lambda: len(reader.of("bridge/state")) == 2)

    online, offline = reader.of("bridge/state")
    assert online.json["state"] == "online"
    assert offline.json == {"v": 1, "state": "offline", "version": "1.0", "boot": boot}
    assert retained(mosquitto.port)["hall/h1/bridge/state"] == offline.payload


@pytest.mark.parametrize("lie", ['{"v":1,"state":"offline","boot":"0ld"}', "", "rubbish"])
def test_a_stale_offline_is_contradicted(mosquitto, open_hall, lie: str) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    publish(mosquitto.port, "hall/h1/bridge/state", lie, "-r")

    until(lambda: b"online" in retained(mosquitto.port).get("hall/h1/bridge/state", b""))
    assert json.loads(retained(mosquitto.port)["hall/h1/bridge/state"])["boot"] == hall.sink.boot


def test_another_hallwatch_for_the_same_hall_is_reported_and_not_fought(
    mosquitto, open_hall, read
) -> None:
    first = open_hall(port=mosquitto.port, client_id="one")
    first.wait()
    reader = read(mosquitto.port, "hall/h1/bridge/state")

    second = open_hall(port=mosquitto.port, client_id="two")
    second.wait()

    until(lambda: first.health.other_boot == second.sink.boot)
    assert len(reader.heard) <= 3
    assert first.health.link == second.health.link == "ready"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_of_two_clients_with_one_id_one_stops_and_says_why(
    mosquitto, open_hall, protocol: str
) -> None:
    first = open_hall(port=mosquitto.port, protocol=protocol)
    second = open_hall(port=mosquitto.port, protocol=protocol)

    until(lambda: "stopped" in (first.health.link, second.health.link))

    stopped, other = (first, second) if first.health.link == "stopped" else (second, first)
    assert stopped.health.code == "duplicate_client_id"
    other.wait()
    with pytest.raises(SinkDown, match="hallwatch-h1"):
        stopped.deliver(attendance(1))
    assert other.deliver(attendance(1)) == Delivered(1)


def test_retained_rubbish_under_our_own_root_is_removed(mosquitto, open_hall, monkeypatch) -> None:
    monkeypatch.setattr(mqtt_module, "SWEEP", 0.3)
    publish(mosquitto.port, "hall/h1/dev/gone/avail", '{"v":1}', "-r")
    publish(mosquitto.port, "hall/h1/old/style", "ON", "-r")
    publish(mosquitto.port, "hall/h1/peer/board-1/state", "online", "-r")
    publish(mosquitto.port, "hall/h2/dev/term-1/avail", "theirs", "-r")

    hall = open_hall([device(1)], port=mosquitto.port)

    until(lambda: hall.health.cleared == 2)
    assert set(retained(mosquitto.port)) == {
        "hall/h1/bridge/state",
        "hall/h1/dev/term-1/avail",
        "hall/h1/dev/term-1/state",
        "hall/h1/peer/board-1/state",
        "hall/h2/dev/term-1/avail",
    }


def test_the_heartbeat_and_the_snapshot_are_repeated(
    mosquitto, open_hall, read, monkeypatch
) -> None:
    monkeypatch.setattr(mqtt_module, "HEARTBEAT", 0.2)
    monkeypatch.setattr(mqtt_module, "SNAPSHOT", 0.3)
    hall = open_hall([device(1)], port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port)

    until(lambda: len(reader.of("bridge/state")) >= 3 and len(reader.of("avail")) >= 3)

    assert not reader.events()


def test_what_the_snapshot_does_not_name_any_more_is_removed(
    mosquitto, open_hall, monkeypatch
) -> None:
    monkeypatch.setattr(mqtt_module, "SNAPSHOT", 0.3)
    hall = open_hall([device(1), alert(2)], port=mosquitto.port)
    hall.wait()

    hall.states.pop()

    until(lambda: hall.health.cleared == 1)
    assert "hall/h1/alert/0f3a/state" not in retained(mosquitto.port)
    assert "hall/h1/dev/term-1/state" in retained(mosquitto.port)


def test_an_older_snapshot_never_replaces_a_newer_state(
    mosquitto, open_hall, monkeypatch, read
) -> None:
    monkeypatch.setattr(mqtt_module, "SNAPSHOT", 0.2)
    hall = open_hall([device(1, "term-2"), alert(2), device(3)], port=mosquitto.port)
    hall.wait()
    hall.deliver(device(5, state="offline"), alert(6, "resolved", acknowledged_by="Li Na"))
    reader = read(mosquitto.port, "hall/h1/dev/term-2/avail")
    until(lambda: len(reader.heard) >= 2)

    told = retained(mosquitto.port)

    assert json.loads(told["hall/h1/dev/term-1/avail"])["state"] == "offline"


def test_a_state_that_is_newer_than_the_snapshot_is_not_removed_by_it(
    mosquitto, open_hall, read, monkeypatch
) -> None:
    monkeypatch.setattr(mqtt_module, "SNAPSHOT", 0.3)
    reader = read(mosquitto.port, "hall/h1/alert/+/state")
    hall = open_hall(port=mosquitto.port)
    hall.wait()
    deliveries: list[threading.Thread] = []

    class Late(list[Change]):
        """Rows that were read before an alert was opened, and come after it was published."""

        def __iter__(self) -> Iterator[Change]:
            if not deliveries:
                delivery = threading.Thread(target=hall.deliver, args=(alert(9),))
                delivery.start()
                deliveries.append(delivery)
                until(lambda: reader.heard)
            return super().__iter__()

    hall.states = Late()
    until(lambda: deliveries)
    deliveries[0].join()
    publish(mosquitto.port, "hall/h1/cmd/bridge", refresh("c-1", op="identify"))

    assert "hall/h1/alert/0f3a/state" in retained(mosquitto.port)
    assert hall.health.cleared == 0


def test_small_messages_do_not_wait_for_each_other(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    assert hall.sink._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_states_of_a_backlog_collapse_to_the_newest_and_events_do_not(
    mosquitto, open_hall, read
) -> None:
    hall = open_hall([device(40, state="offline")], port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port)

    hall.deliver(*(device(seq) for seq in range(1, 40)), device(40, state="offline"))
    hall.deliver(*(alert(seq) for seq in range(41, 60)))
    until(lambda: len(reader.events()) == 19)

    live = [heard for heard in reader.heard if not heard.retained]
    assert not [heard for heard in live if "/dev/" in heard.topic]
    assert len(reader.of("0f3a/state")) == 1
    assert [heard.json["seq"] for heard in reader.events()] == list(range(41, 60))


# -- refusals and limits --------------------------------------------------------------------------


def test_a_wrong_password_is_told_in_words_and_tried_again_slowly(
    start_mosquitto, open_hall, tmp_path: Path
) -> None:
    broker = with_passwords(start_mosquitto, tmp_path)
    for protocol in ("5", "3.1.1"):
        hall = open_hall(
            port=broker.port, username="hallwatch", password="wrong", protocol=protocol
        )
        hall.wait("refused")
        until(lambda: "not authorised" in broker.log())
        tries = broker.log().count("not authorised")
        with pytest.raises(SinkDown, match=r"refused user 'hallwatch': Not authorized"):
            hall.deliver(attendance(1))
        assert broker.log().count("not authorised") == tries


def with_passwords(
    start: Callable[..., Any], folder: Path, *lines: str, users: Sequence[str] = ("hallwatch",)
) -> Any:
    passwords = folder / "passwords"
    for number, user in enumerate(users):
        create = ["-c"] if number == 0 else []
        subprocess.run(
            ["mosquitto_passwd", *create, "-b", str(passwords), user, f"{user}-secret"],
            check=True,
            capture_output=True,
        )
    return start("allow_anonymous false", f"password_file {passwords}", *lines)


def with_access_rules(start: Callable[..., Any], folder: Path, rules: str) -> Any:
    access = folder / "access"
    access.write_text(rules)
    access.chmod(0o700)
    users = re.findall(r"^user (\S+)", rules, re.MULTILINE)
    return with_passwords(start, folder, f"acl_file {access}", users=users)


HALLWATCH = {"username": "hallwatch", "password": "hallwatch-secret"}


def test_a_refused_publish_is_rejected_with_its_topic_and_the_others_go_on(
    start_mosquitto, open_hall, tmp_path: Path
) -> None:
    broker = with_access_rules(
        start_mosquitto,
        tmp_path,
        "user hallwatch\ntopic readwrite hall/h1/#\ntopic deny hall/h1/violation/event\n",
    )
    hall = open_hall(port=broker.port, **HALLWATCH)
    hall.wait()

    delivered = hall.deliver(attendance(1), violation(2), attendance(3))

    assert delivered == Delivered(3, ((2, "hall/h1/violation/event: Not authorized"),))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("rule", ["read hall/h1/#", "write hall/h1/#", "readwrite hall/h2/#"])
def test_access_rules_without_our_root_are_noticed_before_anything_is_lost(
    start_mosquitto, open_hall, tmp_path: Path, monkeypatch, protocol: str, rule: str
) -> None:
    monkeypatch.setattr(mqtt_module, "ANSWER_TIMEOUT", 0.5)
    broker = with_access_rules(start_mosquitto, tmp_path, f"user hallwatch\ntopic {rule}\n")
    hall = open_hall(port=broker.port, protocol=protocol, **HALLWATCH)

    hall.wait("refused")

    with pytest.raises(SinkDown, match=r"does not let hallwatch read and write hall/h1/#"):
        hall.deliver(attendance(1))


def test_the_access_rules_of_the_manual_let_everybody_do_what_they_may(
    start_mosquitto, open_hall, read, tmp_path: Path
) -> None:
    rules = re.search(r"```acl\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert rules is not None
    broker = with_access_rules(start_mosquitto, tmp_path, rules[1])
    account = {
        user: ("-u", user, "-P", f"{user}-secret")
        for user in ("board-1", "application", "inspector")
    }
    hall = open_hall([device(1)], port=broker.port, **HALLWATCH)
    hall.wait()
    readers = {user: read(broker.port, "hall/#", *options) for user, options in account.items()}

    hall.deliver(attendance(2), violation(3), alert(4))
    publish(broker.port, "hall/h1/peer/board-1/state", "online", *account["board-1"])
    publish(broker.port, "hall/h1/peer/board-2/state", "online", *account["board-1"])
    publish(broker.port, "hall/h1/cmd/bridge", refresh("c-1"), *account["application"])
    publish(broker.port, "hall/h1/cmd/bridge", refresh("c-2"), *account["board-1"])
    until(lambda: readers["inspector"].of("ack/bridge") and readers["inspector"].of("alert/event"))

    def heard(user: str) -> set[str]:
        return {message.topic.removeprefix("hall/h1/") for message in readers[user].heard}

    assert heard("board-1") == set()
    assert heard("inspector") >= {"attendance/event", "violation/event", "alert/event"}
    assert heard("inspector") >= {"peer/board-1/state", "dev/term-1/avail", "bridge/state"}
    assert "peer/board-2/state" not in heard("inspector")
    assert {message.json["id"] for message in readers["inspector"].of("ack/bridge")} == {"c-1"}
    assert not heard("application") & {"attendance/event", "violation/event"}
    assert heard("application") >= {"bridge/state", "dev/term-1/avail", "ack/bridge"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("retain_available false", "Retain not supported"),
        ("max_qos 0", "QoS not supported"),
    ],
)
def test_a_broker_that_cannot_do_what_deliveries_need_is_refused(
    start_mosquitto, open_hall, line: str, error: str
) -> None:
    broker = start_mosquitto("allow_anonymous true", line)
    hall = open_hall(port=broker.port)

    hall.wait("refused")

    assert error in hall.health.error


def test_the_broker_s_limits_are_kept(start_mosquitto, open_hall, read) -> None:
    broker = start_mosquitto(
        "allow_anonymous true", "max_packet_size 2000", "max_inflight_messages 3"
    )
    hall = open_hall(port=broker.port)
    hall.wait()
    reader = read(broker.port)
    large = change(150, "violation", "x", {"title": "大" * 1000})

    delivered = hall.deliver(*(attendance(seq) for seq in range(1, 150)), large, attendance(151))

    assert delivered.accepted == 151
    assert [seq for seq, _ in delivered.rejected] == [150]
    assert "at most 2000" in delivered.rejected[0][1]
    until(lambda: len(reader.events()) == 150)
    assert hall.health.link == "ready"


# -- protocol versions and TLS --------------------------------------------------------------------


def test_it_speaks_3_1_1_with_a_broker_that_does_not_know_5(open_hall, read) -> None:
    loop = asyncio.new_event_loop()
    broker = EmbeddedBroker(port=0)
    loop.run_until_complete(broker.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        hall = open_hall([device(1)], port=broker.port)
        hall.wait()
        reader = read(broker.port)
        delivered = hall.deliver(*(attendance(seq) for seq in range(2, 202)))
        until(lambda: len(reader.events()) == 200)
        health = hall.health
        hall.sink.close()
    finally:
        asyncio.run_coroutine_threadsafe(broker.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    assert health.protocol == "3.1.1"
    assert delivered == Delivered(201)
    assert [heard.json["seq"] for heard in reader.events()] == list(range(2, 202))
    assert reader.of("dev/term-1/avail")[0].retained


def test_a_broker_that_knows_5_gets_5(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()

    assert hall.health.protocol == "5"
    assert "p5" in mosquitto.log()


def certificate(folder: Path, name: str, host: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={host}"),
            *("-addext", f"subjectAltName={host}", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_works_with_the_right_certificate_and_refuses_a_wrong_one(
    start_mosquitto, open_hall, tmp_path: Path, read
) -> None:
    cert, key = certificate(tmp_path, "broker", "IP:127.0.0.1")
    other, _ = certificate(tmp_path, "other", "IP:127.0.0.1")
    broker = start_mosquitto("allow_anonymous true", f"certfile {cert}", f"keyfile {key}")
    hall = open_hall(port=broker.port, tls=True, ca_file=str(cert))
    hall.wait()
    reader = read(broker.port, "hall/#", "--cafile", str(cert), "-h", "127.0.0.1")

    assert hall.deliver(*(attendance(seq) for seq in range(1, 300))) == Delivered(299)
    until(lambda: len(reader.events()) == 299)

    stranger = open_hall(port=broker.port, tls=True, ca_file=str(other), client_id="stranger")
    stranger.wait("refused")
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.health.error


# -- commands -------------------------------------------------------------------------------------


def refresh(number: str, expires: str = "2026-03-02T12:00:30+08:00", op: str = "refresh") -> str:
    return json.dumps({"id": number, "op": op, "expires": expires, "args": {}})


def test_refresh_sends_the_states_again_and_is_answered(mosquitto, open_hall, read) -> None:
    hall = open_hall([device(1), device(2, "term-2")], port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port)
    until(lambda: len(reader.of("avail")) == 2)

    publish(mosquitto.port, "hall/h1/cmd/term-2", refresh("c-17"))

    until(lambda: len(reader.of("avail")) == 3 and reader.of("ack/term-2"))
    assert reader.of("avail")[2].topic == "hall/h1/dev/term-2/avail"
    ack = reader.of("ack/term-2")[0]
    assert (ack.json["id"], ack.json["ok"], ack.retained) == ("c-17", True, False)
    publish(mosquitto.port, "hall/h1/cmd/bridge", refresh("c-18"))
    until(lambda: len(reader.of("avail")) == 5)


@pytest.mark.parametrize(
    ("target", "payload", "error"),
    [
        ("bridge", refresh("x", expires="2026-03-02T11:59:59+08:00"), "expired"),
        ("bridge", refresh("x", expires=""), "expires must be a time"),
        ("bridge", refresh("x", expires="2026-03-02T12:30:00"), "offset"),
        ("bridge", refresh("x", op="delete_violation"), "unknown op"),
        ("term-9", refresh("x"), "there is no term-9"),
        ("term-1", refresh("x", op="test_text"), "cannot do test_text"),
        ("term-1", refresh("x", op="identify"), "cannot do identify"),
    ],
)
def test_a_command_that_cannot_be_done_is_answered_with_the_reason(
    mosquitto, open_hall, read, target: str, payload: str, error: str
) -> None:
    hall = open_hall([device(1)], port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port, "hall/h1/ack/+")

    publish(mosquitto.port, f"hall/h1/cmd/{target}", payload)

    until(lambda: reader.heard)
    answer = reader.heard[0].json
    assert (reader.heard[0].topic, answer["id"], answer["ok"]) == (
        f"hall/h1/ack/{target}",
        "x",
        False,
    )
    assert error in answer["error"]


def test_retained_and_repeated_commands_are_refused(
    mosquitto, open_hall, read, monkeypatch
) -> None:
    monkeypatch.setattr(mqtt_module, "SWEEP", 0.3)
    publish(mosquitto.port, "hall/h1/cmd/bridge", refresh("stuck"), "-r")
    reader = read(mosquitto.port, "hall/h1/ack/+")
    hall = open_hall(port=mosquitto.port)
    until(lambda: hall.health.cleared == 1)
    for number in ("c-1", "c-1", "c-2"):
        publish(mosquitto.port, "hall/h1/cmd/bridge", refresh(number, op="identify"))

    until(lambda: len(reader.heard) == 4)
    answers = [(heard.json["id"], heard.json["ok"]) for heard in reader.heard]
    assert answers == [("stuck", False), ("c-1", True), ("c-1", False), ("c-2", True)]
    assert reader.heard[0].json["error"] == "retained commands are refused"
    assert reader.heard[1].json["boot"] == hall.sink.boot
    assert "hall/h1/cmd/bridge" not in retained(mosquitto.port)


def test_rubbish_on_the_command_topic_is_counted_and_nothing_else(
    mosquitto, open_hall, read
) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.wait()
    reader = read(mosquitto.port, "hall/h1/ack/+")
    rubbish = ["{", "[]", '{"id":1,"op":"refresh"}', '{"op":"refresh"}', '{"id":"","op":"x"}']
    rubbish += [refresh("x" * 65), refresh("x" + " " * 5000), "\ud800".encode(errors="replace")]
    for payload in rubbish[:-1]:
        publish(mosquitto.port, "hall/h1/cmd/bridge", payload)
    publish(mosquitto.port, "hall/h1/cmd/BRIDGE%20", refresh("x"))

    until(lambda: hall.health.commands_refused == len(rubbish))
    publish(mosquitto.port, "hall/h1/cmd/bridge", refresh("good", op="identify"))
    until(lambda: reader.heard)
    assert [heard.json["id"] for heard in reader.heard] == ["good"]


# -- settings, properties -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"hall": "Hall 1"}, "cannot be a topic"),
        ({"window": 0}, "window"),
        ({"ca_file": "ca.pem"}, "tls is off"),
        ({"tls": True, "cert_file": "a.pem"}, "belong together"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        MqttSettings(**({"hall": "h1", "host": "broker"} | settings))


@given(
    row=st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20)),
    at=st.integers(0, 4_000_000_000_000),
    seq=st.integers(1, 2**62),
)
def test_no_row_can_hide_the_envelope_of_its_event(row: dict[str, Any], at: int, seq: int) -> None:
    sink = Hall().sink
    message = sink._event(change(seq, "violation", "x", row, at=at))
    sink.close()

    event = json.loads(message.payload)
    assert (event["v"], event["id"], event["seq"]) == (1, f"db7-{seq}", seq)
    assert round(datetime.fromisoformat(event["ts"]).timestamp() * 1000) == at
    assert event["ts"][-6:] in ("+08:00", "+09:00")
    for field, value in row.items():
        name = f"violation_{field}" if field in ("v", "id", "ts", "seq", "type") else field
        assert event[name] == value
