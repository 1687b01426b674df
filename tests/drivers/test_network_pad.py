"""Network pads: settings, messages, captures and the page, without a network."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.counter_json import SCALES, scale_of
from drivers.network_pad import (
    BEAT,
    LOGIN,
    MALFORMED,
    UNKNOWN,
    WORDS,
    NetworkPadOptions,
    NetworkPads,
    decode,
    pad_message,
    page,
    server_message,
)
from rules.model import Rating, Unreadable

ZONE = ZoneInfo("Asia/Shanghai")
AT = 1_772_414_561_000
BODY = (
    b'{"rating_id":"418","pad_id":"pad-05","level":4,"scale_id":"five","window":"05",'
    b'"service_ref":"A037","pressed_at":"2026-03-02T09:22:41+08:00"}'
)


@dataclass(frozen=True)
class Spec:
    id: str
    options: NetworkPadOptions
    window: str = ""


# -- settings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"port": 70_000}, "port 70000"),
        ({"mac": "00:11:22"}, "mac '00:11:22'"),
        ({"work_no": "10086"}, "belong together"),
        ({"key_file": "/run/key"}, "belong together"),
        ({"scale_id": "six"}, "scale_id 'six'"),
        ({"scale_id": "own", "scale": {"1": "unset"}}, "key 1 is 'unset'"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(
    options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        NetworkPadOptions(**options)  # type: ignore[arg-type]


def test_pads_of_one_listener_share_a_link_and_no_name() -> None:
    one = NetworkPadOptions(mac="00:11:22:33:44:55", work_no="1", key_file="/k")
    same_mac = NetworkPadOptions(mac="00-11-22-33-44-55")
    same_work_no = NetworkPadOptions(work_no="1", key_file="/k")

    assert one.link() == same_mac.link() == same_work_no.link()
    assert one.link() != NetworkPadOptions(port=9000).link()
    NetworkPads([Spec("a", one), Spec("b", NetworkPadOptions())])
    with pytest.raises(ValueError, match="mac 001122334455 is given to 2 devices"):
        NetworkPads([Spec("a", one), Spec("b", same_mac)])
    with pytest.raises(ValueError, match="work_no 1 is given to 2 devices"):
        NetworkPads([Spec("a", one), Spec("b", same_work_no)])


# -- WebSocket messages


def test_the_vendors_messages_are_understood() -> None:
    login = pad_message('{"code": 40001, "data": {"work_no": "10086", "key": "123456"}}')
    beat = pad_message('{"code": 40000, "data": 1603780630492}')

    assert (login.code, login.data, login.problem) == (
        LOGIN, {"work_no": "10086", "key": "123456"}, 0,
    )  # fmt: skip
    assert (beat.code, beat.data, beat.problem) == (BEAT, 1603780630492, 0)


def test_fields_that_nobody_knows_are_passed_over() -> None:
    told = '{"code":"40000","data":"1603780630492","state":1,"battery":71,"msg":"x"}'

    assert pad_message(told)[:2] == (BEAT, 1603780630492)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", MALFORMED),
        ("hello", MALFORMED),
        ("[]", MALFORMED),
        ("{}", MALFORMED),
        ('{"code":true}', MALFORMED),
        ('{"code":40001}', MALFORMED),
        ('{"code":40001,"data":{"work_no":"1"}}', MALFORMED),
        ('{"code":40001,"data":{"work_no":"1","key":["1"]}}', MALFORMED),
        ('{"code":40000,"data":"soon"}', MALFORMED),
        ('{"code":40000,"data":-1}', MALFORMED),
        ('{"code":40000,"data":1e300}', MALFORMED),
        (b"\x01\x02", MALFORMED),
        (None, MALFORMED),
        ('{"code":12345}', UNKNOWN),
        ('{"code":50100,"data":"http://elsewhere/"}', UNKNOWN),
    ],
)
def test_what_is_no_message_is_told_apart_from_what_is_unknown(
    text: str | bytes | None, problem: int
) -> None:
    assert pad_message(text).problem == problem


@given(st.text() | st.binary() | st.none())
def test_any_text_is_a_message_or_a_problem(text: str | bytes | None) -> None:
    message = pad_message(text)

    assert message.problem in (0, MALFORMED, UNKNOWN)
    assert message.problem or message.code in (LOGIN, BEAT)


def test_our_messages_have_the_vendors_fields() -> None:
    assert json.loads(server_message(40001, 0, "请发送工号")) == {
        "code": 40001, "state": 0, "msg": "请发送工号",
    }  # fmt: skip
    assert json.loads(server_message(40000, 1, "收到", 1603780718130)) == {
        "code": 40000, "state": 1, "msg": "收到", "data": 1603780718130,
    }  # fmt: skip


# -- captures


def request(path: str = "/api/v1/pads/pad-05/ratings", body: bytes = BODY, more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 10.0.0.9\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


WANTED = Rating("pad:pad-05:418", "05", 4, "five", service_ref="A037")


def test_a_captured_request_is_a_rating() -> None:
    (reading,) = decode(request(), ZONE)

    assert (reading.device, reading.at, reading.body) == ("capture", AT, WANTED)


def test_glued_requests_are_told_apart_whatever_lies_between() -> None:
    beat = request("/api/v1/pads/pad-05/heartbeat", b"{}")
    told = BODY.replace(b"418", b"419").replace(b"A037", b"POST / HTTP/1.1")
    capture = b"noise" + request() + beat + request(body=told) + request()

    ids = [reading.body.rating_id for reading in decode(capture, ZONE)]  # type: ignore[union-attr]
    assert ids == ["pad:pad-05:418", "pad:pad-05:419", "pad:pad-05:418"]


def test_an_idempotency_key_names_a_captured_rating() -> None:
    capture = request(body=b'{"level":5}', more="Idempotency-Key: k-1\r\n")
    (reading,) = decode(capture, ZONE)

    assert (reading.at, reading.body) == (
        0, Rating("pad:pad-05:k-1", level=5, origin="unknown", problem="no_session"),
    )  # fmt: skip


def test_bare_json_is_one_rating_a_line() -> None:
    first, second = decode(BODY + b"\n\n{}\n", ZONE)

    assert isinstance(first.body, Rating)
    assert first.body.rating_id == "418"
    assert isinstance(second.body, Unreadable)
    assert second.body.reason.startswith("rating_id: required")
    assert second.raw == b"{}"


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda some: request(body=some)))
def test_any_capture_can_be_looked_at(data: bytes) -> None:
    for reading in decode(data, ZONE):
        assert isinstance(reading.body, Rating | Unreadable)


@pytest.mark.parametrize("cut", range(0, len(request()), 7))
def test_a_cut_capture_tells_no_rating_that_was_not_there(cut: int) -> None:
    assert all(isinstance(reading.body, Unreadable) for reading in decode(request()[:cut], ZONE))


# -- the page


def told_to(html: bytes) -> dict[str, object]:
    found = re.search(rb'id="told">(.*?)</script>', html)
    assert found is not None
    told: dict[str, object] = json.loads(found[1])
    return told


@pytest.mark.parametrize("scale_id", SCALES)
def test_the_page_has_one_key_for_each_level_of_the_scale(scale_id: str) -> None:
    scale = scale_of(scale_id, {})
    told = told_to(page("pad-05", scale, "s-1", 30, "", AT))

    keys = told["keys"]
    assert isinstance(keys, list)
    assert [key["level"] for key in keys] == sorted(scale.levels, reverse=True)
    assert all((key["zh"], key["en"]) == WORDS[key["level"]] for key in keys)
    for key in keys:
        meant = key["code"] if scale.table is None else scale.table[key["code"]]
        assert meant == key["level"]


def test_the_page_cannot_be_broken_out_of() -> None:
    html = page("pad-05", SCALES["five"], "</script><script>alert(1)", 30, "", AT)

    assert b"<script>alert" not in html
    assert told_to(html)["session"] == "</script><script>alert(1)"


def test_the_pages_script_stands_in_the_driver_alone() -> None:
    html = page("pad-05", SCALES["five"], "", 0, "", AT).decode()

    assert not re.search(r"""(?:src|href)\s*=|https?://""", html)
