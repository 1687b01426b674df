"""Ratings and queue events as JSON, field by field."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import counter_json
from drivers.counter_json import BadBody, Scale, scale_of
from rules.model import QUEUE_EVENTS, QueueEvent, Rating

MINIMAL = {"rating_id": "418", "level": 5}
AT = 1_772_414_561_000
"""2026-03-02T09:22:41+08:00"""


def fields(error: pytest.ExceptionInfo[BadBody]) -> list[str]:
    return [one.field for one in error.value.errors]


def test_a_whole_rating_keeps_every_field() -> None:
    told = counter_json.rating(
        {
            "rating_id": "pad-05:418:1",
            "hall": "h1",
            "window": "05",
            "level": 2,
            "scale_id": "five",
            "raw_key": "0a",
            "channel": "pad",
            "pad_id": "pad-05",
            "pressed_at": "2026-03-02T09:22:41+08:00",
            "received_at": "2026-03-02T09:22:42+08:00",
            "person": "1001",
            "service_ref": "A037",
            "session": "s-1",
            "options": ["101", "204"],
            "indicator_version": "3",
            "text": "等了很久",
            "named": True,
            "defaulted": False,
            "origin": "visitor",
            "finality": "final",
        }
    )

    assert told.body == Rating(
        "pad-05:418:1", "05", 2, "five", "0A", "pad", "1001", "A037", "s-1", ("101", "204"), "3",
        "等了很久", named=True, defaulted=False, origin="visitor",
    )  # fmt: skip
    assert (told.pressed_at, told.pad, told.hall) == (AT, "pad-05", "h1")
    assert told.pressed_text == "2026-03-02T09:22:41+08:00"


def test_what_only_passes_through_to_the_province_is_kept_nowhere() -> None:
    told = counter_json.rating(
        MINIMAL
        | {"applicantName": "张三", "applicantPhone": "13800138000", "mobile": "13800138000"}
        | {"channel": "web", "applicantCardNumber": "11010519491231002X"}
    )

    kept = repr(told)
    assert "张三" not in kept
    assert "138" not in kept
    assert "110105" not in kept


@pytest.mark.parametrize("level", [0, 6, -1, 2.5, 5.0, True, "six", "", [5], {"a": 1}, 10**40])
def test_a_level_outside_the_scale_is_refused_by_name(level: Any) -> None:
    with pytest.raises(BadBody) as error:
        counter_json.rating(MINIMAL | {"level": level}, pad="pad-05")

    assert fields(error) == ["level"]


@pytest.mark.parametrize(("told", "level"), [(1, 1), (5, 5), ("4", 4), (None, None)])
def test_levels_are_numbers_digits_or_nothing(told: Any, level: int | None) -> None:
    assert counter_json.rating(MINIMAL | {"level": told}, pad="pad-05").body.level == level


def test_silence_must_be_told_as_null() -> None:
    with pytest.raises(BadBody) as error:
        counter_json.rating({"rating_id": "1"}, pad="pad-05")

    assert fields(error) == ["level"]


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(BadBody) as error:
        counter_json.rating(
            {
                "level": 9,
                "raw_key": "xyz",
                "channel": "telepathy",
                "pressed_at": "2026-03-02 09:22:41",
                "person": ["1001"],
                "options": "101,204",
                "named": "yes",
                "origin": "me",
                "session": "s" * 65,
                "text": 7,
            }
        )

    assert set(fields(error)) == {
        "rating_id", "level", "raw_key", "channel", "pressed_at", "person", "options", "named",
        "origin", "session", "text",
    }  # fmt: skip
    assert "pressed_at: expected a time with its offset" in str(error.value)


def test_a_pads_ids_count_for_that_pad_alone() -> None:
    def told(pad: str, rating_id: str) -> str:
        return counter_json.rating(MINIMAL | {"rating_id": rating_id}, pad=pad).body.rating_id

    assert told("pad-05", "1") == "pad:pad-05:1"
    assert told("pad-06", "1") == "pad:pad-06:1"
    assert told("pad-05", "pad:pad-05:s-1") == "pad:pad-05:s-1"


def test_the_pad_in_the_body_must_be_the_one_that_sent_it() -> None:
    with pytest.raises(BadBody) as error:
        counter_json.rating(MINIMAL | {"pad_id": "pad-06"}, pad="pad-05")

    assert fields(error) == ["pad_id"]


def test_a_rating_that_belongs_to_nothing_says_so() -> None:
    alone = counter_json.rating(MINIMAL, pad="pad-05").body
    with_ticket = counter_json.rating(MINIMAL | {"service_ref": "A037"}, pad="pad-05").body

    assert (alone.origin, alone.problem) == ("unknown", "no_session")
    assert (with_ticket.origin, with_ticket.problem) == ("visitor", "")


@pytest.mark.parametrize(
    ("scale_id", "code", "level", "problem"),
    [
        ("sle300", 1, 5, ""),
        ("sle300", 2, 3, ""),
        ("sle300", 3, 1, ""),
        ("sle300", 5, None, "timed_out"),
        ("sle300", 4, None, "unmapped_code"),
        ("jtt905", 0, None, "timed_out"),
        ("jtt905", 1, 4, ""),
        ("jtt905", 2, 3, ""),
        ("jtt905", 3, 2, ""),
        ("jtt905", 4, 1, ""),
    ],
)
def test_documented_pads_are_mapped_by_what_their_keys_say(
    scale_id: str, code: int, level: int | None, problem: str
) -> None:
    told = MINIMAL | {"level": code, "session": "s-1"}
    body = counter_json.rating(told, pad="p", scale=scale_of(scale_id, {})).body

    assert (body.level, body.problem, body.scale_id) == (level, problem, scale_id)
    assert body.raw_key == str(code).encode().hex()


def test_with_a_table_the_raw_key_decides() -> None:
    scale = scale_of("counter-4", {"00": 5, "01": 4, "02": 3, "0f": 2})
    told = {"rating_id": "1", "raw_key": "0F", "level": 5, "session": "s"}

    assert counter_json.rating(told, pad="p", scale=scale).body.level == 2
    assert counter_json.rating(told | {"raw_key": "03"}, pad="p", scale=scale).body == Rating(
        "pad:p:1", "", None, "counter-4", "03", session="s", problem="unmapped_code"
    )


def test_a_three_key_pad_cannot_tell_very_satisfied() -> None:
    with pytest.raises(BadBody) as error:
        counter_json.rating(MINIMAL, pad="p", scale=scale_of("three", {}))

    assert str(error.value) == "level: expected one of 2, 3, 4 or null, not 5"


@pytest.mark.parametrize(
    ("scale_id", "table", "sentence"),
    [
        ("six", {}, "expected one of five"),
        ("five", {"1": 5}, "scale_id of its own"),
        ("", {"1": 5}, "scale_id of its own"),
        ("own", {"1": "unset"}, "key 1 is 'unset'"),
        ("own", {"1": 6}, "key 1 is 6"),
        ("own", {"1": 0}, "key 1 is 0"),
        ("own", {"good": 5}, "hexadecimal"),
        ("own", {"1": "none"}, "no key has a level"),
        ("own", {"1": 5, "2": 4, "3": 3, "4": 2, "5": 2}, "the same level"),
    ],
)
def test_a_scale_that_guesses_is_refused(
    scale_id: str, table: dict[str, int | str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        scale_of(scale_id, table)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("打我电话13800138000谢谢", "打我电话***********谢谢"),
        ("138 0013 8000", "*************"),
        ("+86-13800138000", "***************"),
        ("０１３８００１３８０００号", "************号"),
        ("我是１３８００１３８０００", "我是***********"),
        ("身份证11010519491231002X。", "身份证******************。"),
        ("身份证110105194912310021", "身份证******************"),
        ("旧证110105491231002", "旧证***************"),
        ("座机0531-88881234", "座机*************"),
        ("等了120分钟，票号A037，2026年3月2日", "等了120分钟，票号A037，2026年3月2日"),
        ("办件1772415845000", "办件1772415845000"),
    ],
)
def test_telephone_and_citizen_id_numbers_are_starred_out_of_free_text(
    told: str, kept: str
) -> None:
    assert counter_json.rating(MINIMAL | {"text": told}, pad="p").body.text == kept


def test_a_citizen_id_number_is_no_person_and_no_id() -> None:
    number = "11010519491231002X"
    told = MINIMAL | {"person": number, "service_ref": number, "session": number}
    body = counter_json.rating(told, pad="p").body

    assert (body.person, body.service_ref, body.session) == ("", "", "")
    with pytest.raises(BadBody) as error:
        counter_json.rating(MINIMAL | {"rating_id": number}, pad="p")
    assert fields(error) == ["rating_id"]
    with pytest.raises(BadBody) as error:
        counter_json.queue_event(
            {"event_id": number, "type": "ticket_taken", "ticket": "A1"} | {"at": "2026-03-02T09Z"}
        )
    assert fields(error) == ["event_id"]


def test_a_case_number_of_eighteen_digits_is_no_citizen_id_number() -> None:
    told = MINIMAL | {"service_ref": "370100202603020001"}

    assert counter_json.rating(told, pad="p").body.service_ref == "370100202603020001"


def test_control_characters_are_dropped_and_long_texts_cut() -> None:
    told = MINIMAL | {"person": "10\x0001\u202e ", "text": "好\x1b[2J" + "长" * 3000}
    body = counter_json.rating(told, pad="p").body

    assert body.person == "1001"
    assert body.text.startswith("好[2J长")
    assert len(body.text) == 2000


# -- JSON


def test_gb18030_is_read_where_a_body_is_not_utf_8() -> None:
    body = '{"rating_id": "1", "level": 4, "text": "态度很好"}'

    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        told = counter_json.rating(counter_json.read(body.encode(encoding)), pad="p")
        assert told.body.text == "态度很好"


@pytest.mark.parametrize(
    "body",
    [b"", b" \n", b"\xef\xbb\xbf", b"{", b'{"a":NaN}', b'"\\ud800"', b"\xff\xfe", b"[" * 100_000],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(BadBody, match=r"JSON|empty"):
        counter_json.read(body)


@pytest.mark.parametrize("told", [None, 5, "x", [], [MINIMAL], True])
def test_a_rating_is_an_object(told: Any) -> None:
    with pytest.raises(BadBody, match="expected an object"):
        counter_json.rating(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KNOWN = st.sampled_from(
    sorted(
        {*Rating.__struct_fields__, *QueueEvent.__struct_fields__}
        | {"type", "at", "pressed_at", "seq", "pad_id", "hall"}
    )
)


@given(st.dictionaries(KNOWN, JSON), st.sampled_from([None, *counter_json.SCALES.values()]))
def test_any_object_is_a_rating_or_a_list_of_errors(told: Any, scale: Scale | None) -> None:
    for read in (
        lambda: counter_json.rating(told, pad="p", scale=scale).body,
        lambda: counter_json.queue_event(told).body,
    ):
        found = b""
        try:
            found = msgspec.json.encode(read())
        except BadBody as error:
            found = str(error).encode()
        assert found


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_an_error(data: bytes) -> None:
    with suppress(BadBody):
        counter_json.read(data)

    assert len(counter_json.masked_bytes(data)) <= 4096


# -- queue events


def event(**told: Any) -> dict[str, Any]:
    return {"type": "called", "window": "05", "ticket": "A037"} | {
        "at": "2026-03-02T09:22:41+08:00",
        **told,
    }


def test_a_whole_queue_event_keeps_every_field() -> None:
    told = counter_json.queue_event(
        event(
            event_id="01JH7Q2M8K", hall="h1", queue="A", service_code="37-1", person="1001",
            call_no=2, to="06", waiting=12, priority=True, source="bus", uncertainty=500,
        )
    )  # fmt: skip

    assert told.body == QueueEvent(
        "01JH7Q2M8K", "called", "05", "A037", "", "A", "37-1", "1001", 2, "06", 12, True, "bus",
        500,
    )  # fmt: skip
    assert (told.at, told.hall) == (AT, "h1")


@pytest.mark.parametrize("kind", QUEUE_EVENTS)
def test_every_kind_of_event_is_known(kind: str) -> None:
    assert counter_json.queue_event(event(type=kind)).body.event == kind


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("called", {"window", "ticket"}),
        ("transferred", {"window", "ticket"}),
        ("ticket_taken", {"ticket"}),
        ("window_paused", {"window"}),
        ("window_login", {"window"}),
        ("batch_abandoned", set()),
    ],
)
def test_an_event_needs_what_it_is_about(kind: str, needed: set[str]) -> None:
    told = {"type": kind, "at": "2026-03-02T09:22:41+08:00"}
    missing: set[str] = set()
    try:
        counter_json.queue_event(told)
    except BadBody as error:
        missing = {one.field for one in error.errors}

    assert missing == needed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "shouted"), ("type", None), ("at", None), ("at", "09:22"), ("at", 1772414561),
        ("call_no", 0), ("waiting", -1), ("waiting", "many"), ("source", "rumour"),
        ("priority", 1), ("uncertainty", -5), ("ticket", {}), ("window", 1.5),
    ],
)  # fmt: skip
def test_a_wrong_field_of_an_event_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadBody) as error:
        counter_json.queue_event(event(**{field: value}))

    assert fields(error) == [field]


@pytest.mark.parametrize(
    ("told", "ticket", "raw"),
    [("A037", "A037", ""), ("ａ０３７．", "A037", "ａ０３７．"), ("a 037", "A037", "a 037"),
     (37, "37", ""), ("社保012", "社保012", "")],
)  # fmt: skip
def test_tickets_are_compared_as_one_writes_them(told: Any, ticket: str, raw: str) -> None:
    body = counter_json.queue_event(event(ticket=told)).body

    assert (body.ticket, body.ticket_raw) == (ticket, raw)


@pytest.mark.parametrize("told", [5, "5", "05", "5号", "５号", "5号窗口", "05窗口", " 5 "])
def test_one_window_has_many_spellings(told: Any) -> None:
    assert counter_json.queue_event(event(window=told)).body.window == "05"
    assert counter_json.queue_event(event(window=told), windows=("5", "6")).body.window == "5"
    assert counter_json.queue_event(event(window=told), windows=("005",)).body.window == "005"


def test_an_event_without_an_id_gets_the_same_one_every_time() -> None:
    first = counter_json.queue_event(event()).body.event_id

    assert first == counter_json.queue_event(event(window="5号", ticket="a037")).body.event_id
    assert first != counter_json.queue_event(event(type="recalled")).body.event_id
    assert first != counter_json.queue_event(event(at="2026-03-02T09:22:42+08:00")).body.event_id
    assert (
        counter_json.queue_event(event(seq=1)).body.event_id
        != counter_json.queue_event(event(seq=2)).body.event_id
    )


def test_waiting_that_is_unknown_is_no_zero() -> None:
    assert counter_json.queue_event(event(waiting=None)).body.waiting is None
    assert counter_json.queue_event(event(waiting=0)).body.waiting == 0


def test_a_body_holds_one_event_or_up_to_five_hundred() -> None:
    assert counter_json.queue_items(event()) == [event()]
    assert len(counter_json.queue_items([event()] * 500)) == 500
    for told in ([], [event()] * 501):
        with pytest.raises(BadBody, match="expected 1 to 500 events"):
            counter_json.queue_items(told)


def test_old_is_not_wrong_but_the_future_and_the_nineties_are() -> None:
    now = AT
    for told, at, skewed in (
        (None, now, False),
        (now - 3 * 86_400_000, now - 3 * 86_400_000, False),
        (now + 120_000, now + 120_000, False),
        (now + 120_001, now, True),
        (946_684_800_000, now, True),
    ):
        assert counter_json.placed(told, now) == (at, skewed)
    assert counter_json.placed(now - 5_000, now, ahead=-121_000) == (now, True)


def test_what_is_kept_of_unreadable_bytes_names_nobody() -> None:
    kept = counter_json.masked_bytes(
        json.dumps({"mobile": "13800138000"}).encode() + b"\xff" * 9000
    )

    assert b"13800138000" not in kept
    assert len(kept) <= 4096


# -- slow clocks


def told(clock: counter_json.TellerClock, *comings: tuple[float, float]) -> list[float]:
    """How many seconds ago each is taken to have been; given when it came and how late, in s."""
    found = []
    for came, late in comings:
        now = AT + round(came * 1000)
        at, skewed = clock.placed(now - round(late * 1000), now)
        assert skewed == (at != now - round(late * 1000))
        found.append((now - at) / 1000)
    return found


@pytest.mark.parametrize(("slow", "seen"), [(30, 30), (31, 0), (70, 0), (720, 0), (-60, -60)])
def test_what_comes_late_by_the_same_each_time_is_a_slow_clock(slow: float, seen: float) -> None:
    clock = counter_json.TellerClock()

    assert told(clock, *[(minute * 60, slow) for minute in range(5)]) == [slow] * 2 + [seen] * 3


def test_events_after_an_outage_keep_their_times() -> None:
    backlog = [(400 + number / 10, 3600 - number * 36) for number in range(101)]
    live = [(0, 1), (60, 2), (120, 1)]
    after = [(500, 1), (560, 1)]

    assert told(counter_json.TellerClock(), *live, *backlog, *after) == [
        late for _, late in [*live, *backlog, *after]
    ]
    assert told(counter_json.TellerClock(), *backlog) == [late for _, late in backlog]


def test_a_slow_clock_is_told_from_what_it_kept_back() -> None:
    clock = counter_json.TellerClock(720_000)

    assert told(clock, (0, 721), (600, 1320), (600.1, 1020), (600.2, 720)) == [1, 600, 300, 0]


def test_a_slow_clock_that_is_set_is_believed_again() -> None:
    clock = counter_json.TellerClock(720_000)

    assert told(clock, (0, 720), (60, 1), (120, 40), (180, 2)) == [0, 1, 40, 2]
    assert clock.slow == 0


def test_a_clock_that_was_set_back_further_is_learnt_anew() -> None:
    clock = counter_json.TellerClock(60_000)

    assert told(clock, *[(minute * 60, 300) for minute in range(4)]) == [240, 240, 0, 0]


def test_many_calls_a_second_show_the_clock_within_half_a_minute() -> None:
    clock = counter_json.TellerClock()

    assert told(clock, *[(number / 2, 300) for number in range(60)])[40:] == [0] * 20
