"""Ratings and queue events over MQTT: what is in a message, without a broker."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.mqtt_counter import (
    MqttCounter,
    MqttCounterOptions,
    decode,
    message,
    publications,
)
from rules.model import QueueEvent, Rating, Unreadable

ZONE = ZoneInfo("Asia/Shanghai")
AT = 1_772_414_561_000
PAD = "hall/h1/in/pad/pad-05/rating"
QUEUE = "hall/h1/in/queue/event"
RATING = {
    "rating_id": "pad-05:418:1",
    "pad_id": "pad-05",
    "level": 5,
    "window": "05",
    "service_ref": "A037",
    "pressed_at": "2026-03-02T09:22:41+08:00",
}
EVENT = {
    "event_id": "01JH7Q2M8K",
    "type": "called",
    "window": "05",
    "ticket": "A037",
    "at": "2026-03-02T09:22:41+08:00",
}


def payload(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode()


def reasons(topic: str, data: bytes, hall: str = "") -> list[str]:
    return [one.body.reason for one in message(topic, data, hall) if hasattr(one.body, "reason")]


def test_a_pads_message_is_a_rating() -> None:
    (told,) = message(PAD, payload(RATING), "h1")

    wanted = Rating("pad:pad-05:pad-05:418:1", "05", 5, service_ref="A037")
    assert (told.body, told.at, told.raw) == (wanted, AT, b"")


def test_a_queue_message_is_one_event_or_a_list() -> None:
    wanted = QueueEvent("01JH7Q2M8K", "called", "05", "A037")
    (one,) = message(QUEUE, payload(EVENT))
    assert (one.body, one.at) == (wanted, AT)

    bad = EVENT | {"type": "shouted"}
    first, second, third = message(QUEUE, payload([EVENT, bad, EVENT | {"event_id": "2"}]))
    assert first.body == wanted
    assert isinstance(second.body, Unreadable)
    assert second.body.reason.startswith(f"{QUEUE}: event 2: type: expected one of")
    assert isinstance(third.body, QueueEvent)


def test_the_pad_in_the_body_must_be_the_pad_in_the_topic() -> None:
    assert reasons(PAD, payload(RATING | {"pad_id": "pad-06"})) == [
        f"{PAD}: pad_id: expected pad-05, the pad that sent it"
    ]
    told = {key: value for key, value in RATING.items() if key != "pad_id"}
    assert reasons(PAD, payload(told)) == [f"{PAD}: pad_id: required, but missing; expected pad-05"]


@pytest.mark.parametrize(("topic", "told"), [(PAD, RATING), (QUEUE, EVENT)])
def test_another_hall_in_the_body_is_refused(topic: str, told: dict[str, Any]) -> None:
    assert reasons(topic, payload(told | {"hall": "h2"}), "h1") == [f"{topic}: hall: expected h1"]
    assert reasons(topic, payload(told | {"hall": "h1"}), "h1") == []


@pytest.mark.parametrize(
    ("topic", "data", "reason"),
    [
        (PAD, b"", "the body is empty"),
        (PAD, b"5", "expected an object"),
        (PAD, b"{", "not valid JSON"),
        (QUEUE, b"[]", "expected 1 to 500 events"),
        (PAD, payload(RATING | {"level": 9}), "level: expected one of"),
        ("hall/h1/in/pad/a/b/rating", payload(RATING), "nothing is expected on the topic"),
        (PAD, b" " * 4097, "4097 bytes"),
    ],
)
def test_what_cannot_be_read_is_kept_with_its_reason(topic: str, data: bytes, reason: str) -> None:
    (told,) = message(topic, data)

    assert isinstance(told.body, Unreadable)
    assert reason in told.body.reason
    assert told.raw == data[:4096]


def test_four_kibibytes_are_read_and_one_byte_more_is_not() -> None:
    room = 4096 - len(payload(RATING | {"x": ""}))
    (fits,) = message(PAD, payload(RATING | {"x": "x" * room}))
    (over,) = message(PAD, payload(RATING | {"x": "x" * (room + 1)}))

    assert isinstance(fits.body, Rating)
    assert isinstance(over.body, Unreadable)


def test_what_is_kept_of_an_unreadable_message_names_nobody() -> None:
    (told,) = message(PAD, payload(RATING | {"level": 9, "text": "我的电话13800138000"}))

    assert b"13800138000" not in told.raw
    assert "138" not in told.body.reason  # type: ignore[union-attr]


@given(st.sampled_from([PAD, QUEUE, "x"]), st.binary(max_size=200))
def test_any_message_is_something(topic: str, data: bytes) -> None:
    assert list(message(topic, data))


# -- captures


def test_the_lines_of_a_subscriber_are_readings() -> None:
    lines = f"{PAD} ".encode() + payload(RATING) + b"\n\n" + QUEUE.encode() + b" {}\n"
    first, second = decode(lines, ZONE)

    assert (first.device, first.at) == ("capture", AT)
    assert isinstance(first.body, Rating)
    assert isinstance(second.body, Unreadable)


BOARD = bytes.fromhex("33 15 00 0D 68 61 6C 6C 74 2F 68 31 2F 77 2F 30 35 00 01 41 30 33 37")
"""A publisher's bytes at QoS 1: the ticket A037 on the topic of window 05."""


def test_a_publishers_bytes_are_topic_and_payload() -> None:
    assert list(publications(BOARD)) == [("hallt/h1/w/05", b"A037")]
    assert (
        list(publications(b"\x20\x02\x00\x00" + BOARD + b"\x40\x02\x00\x01" + BOARD))
        == [("hallt/h1/w/05", b"A037")] * 2
    )


def test_a_cut_stream_gives_what_was_whole() -> None:
    for cut in range(len(BOARD)):
        assert list(publications(BOARD[:cut])) == []
        assert len(list(publications(BOARD + BOARD[:cut]))) == 1


def test_the_bytes_of_a_connection_are_readings() -> None:
    connect = bytes.fromhex("10 12 00 04 4D 51 54 54 04 02 00 3C 00 06") + b"pad-05"
    told = payload(RATING)
    body = len(PAD).to_bytes(2, "big") + PAD.encode() + b"\x00\x01" + told
    packet = b"\x32" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body
    (reading,) = decode(connect + packet, ZONE)

    assert isinstance(reading.body, Rating)
    assert reading.at == AT


@given(st.binary(max_size=200))
def test_any_capture_can_be_looked_at(data: bytes) -> None:
    list(publications(data))
    for reading in decode(data, ZONE):
        assert isinstance(reading.body, Rating | QueueEvent | Unreadable)


# -- settings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"host": ""}, "host is empty"),
        ({"port": 0}, "port 0"),
        ({"root": "hall/+"}, "root 'hall/"),
        ({"root": "/hall/h1"}, "root '/hall/h1'"),
        ({"keepalive": 1}, "keepalive 1"),
        ({"password_file": "/p"}, "no username"),
        ({"ca_file": "/ca"}, "tls is off"),
        ({"tls": True, "cert_file": "/c"}, "belong together"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MqttCounterOptions(**{"host": "127.0.0.1", "root": "hall/h1"} | options)


def test_one_client_id_on_one_broker_is_one_device() -> None:
    class Spec:
        def __init__(self, name: str, **more: Any) -> None:
            self.id = name
            self.window = ""
            self.options = MqttCounterOptions("127.0.0.1", "hall/h1", **more)

    one, same, other = Spec("a"), Spec("b", keepalive=60), Spec("c", client_id="other")

    assert one.options.identity == "hallwatch-h1-in"
    assert one.options.link() == same.options.link() != other.options.link()
    MqttCounter([one])
    with pytest.raises(ValueError, match="a, b would use one client id"):
        MqttCounter([one, same])


@pytest.mark.parametrize(
    ("topic", "told", "why"),
    [
        (PAD, RATING | {"window": None}, "window: required, but missing"),
        (PAD, RATING | {"window": "99"}, "window: there is no window '99' in the settings"),
        (QUEUE, EVENT | {"window": "99"}, "window: there is no window '99' in the settings"),
        (QUEUE, EVENT | {"type": "ticket_taken", "window": "99"}, "window: there is no window"),
    ],
)
def test_what_belongs_to_no_window_that_there_is_is_refused(
    topic: str, told: Any, why: str
) -> None:
    (refused,) = message(topic, payload(told), "h1", {"05", "06"})

    assert isinstance(refused.body, Unreadable)
    assert why in refused.body.reason


def test_what_needs_no_window_and_what_names_one_in_other_words_is_taken() -> None:
    taken = {key: value for key, value in EVENT.items() if key != "window"}
    events = [taken | {"type": "ticket_taken"}, EVENT | {"window": "5号"}]

    found = [one.body for one in message(QUEUE, payload(events), "h1", {"05"})]

    assert [getattr(body, "window", None) for body in found] == ["", "05"]
    assert isinstance(
        next(message(PAD, payload(RATING | {"window": 5}), "h1", {"05"})).body, Rating
    )
