"""A day as it happens: what is told at each moment, and when to look again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rules.engine import judge_person
from rules.model import DAY, MINUTE, SEVERITY, DayKind, Policy, SegmentRule


def at_moment(standard, book, as_of, punches="", **given):
    """The day with the punches made by then."""
    moment = standard.at(as_of) if isinstance(as_of, str) else as_of
    made = [standard.punch(text) for text in punches.split() if standard.at(text) <= moment]
    return judge_person(standard.day(made, as_of=moment, **given), book)


def alert_of(outcome, code="not_arrived"):
    return next((one for one in outcome.alerts if one.code == code), None)


def test_the_morning_of_a_late_comer(standard, book):
    def told(as_of):
        outcome = at_moment(standard, book, as_of, "08:42")
        alert = alert_of(outcome)
        half = outcome.record.halves[0]
        return (
            half.live,
            alert and (alert.state, alert.severity),
            [(one.code, one.finality) for one in outcome.violations],
        )

    late = [("ATT-01", "pending")]
    assert told("08:29") == ("", None, [])
    assert told("08:30:59") == ("", None, [])
    assert told("08:31") == ("not_arrived", ("open", SEVERITY["notice"]), [])
    assert told("08:42") == ("", ("resolved", SEVERITY["notice"]), late)
    assert told("12:10") == ("", ("resolved", SEVERITY["notice"]), late)
    assert told("13:10") == (
        "",
        ("resolved", SEVERITY["notice"]),
        [("ATT-01", "provisional"), ("ATT-05", "provisional")],
    )


def test_the_alert_turns_yellow_and_then_into_an_absence(standard, book):
    def told(as_of):
        outcome = at_moment(standard, book, as_of)
        alert = alert_of(outcome)
        codes = [one.code for one in outcome.violations]
        return outcome.record.halves[0].live, alert.state, alert.severity, alert.ends_at, codes

    notice, yellow = SEVERITY["notice"], SEVERITY["yellow"]
    assert told("08:44:59") == ("not_arrived", "open", notice, None, [])
    assert told("08:45") == ("not_arrived", "open", yellow, None, [])
    assert told("09:00") == ("absent_half_provisional", "open", yellow, None, [])
    assert told("12:05") == ("", "open", yellow, None, [])
    assert told("12:10") == ("", "converted", yellow, standard.at("12:00"), [])
    assert told("13:10") == ("", "converted", yellow, standard.at("12:00"), ["ATT-06"])
    assert told("19:10")[-1] == ["ATT-07"]


def test_a_late_violation_keeps_its_id_when_the_minutes_change(standard, book):
    first = at_moment(standard, book, "08:50", "08:42").violations[0]
    then = at_moment(standard, book, "08:50", "08:48").violations[0]
    punctual = at_moment(standard, book, "08:50", "08:25 08:42").violations

    assert (first.code, then.code, first.id == then.id) == ("ATT-01", "ATT-02", True)
    assert punctual == ()


def test_titles_say_what_happened(standard, book):
    late = at_moment(standard, book, "08:50", "08:42").violations[0]
    alert = alert_of(at_moment(standard, book, "08:50"))

    assert late.title == "迟到 12 分钟（上午班 08:30，打卡 08:42）"
    assert late.detail == "Late by 12 min: due 08:30 (am), punched 08:42"
    assert alert.title == "未到岗：李明（上午班 08:30，已过 15 分钟）"
    missing, early = at_moment(standard, book, "20:00", "08:25 14:20 17:50").violations
    assert missing.title == "缺卡：下班（上午班 12:00）"
    assert early.title == "早退 10 分钟（下午班 18:00，打卡 17:50）"


def test_a_punch_before_noon_leaves_nobody_early_until_the_slot_has_closed(standard, book):
    def told(as_of):
        outcome = at_moment(standard, book, as_of, "08:20 11:50")
        slot = outcome.record.slots[1]
        return slot.verdict, [one.code for one in outcome.violations], outcome.record.strays

    stray = standard.punch("11:50").reading_id.hex()
    assert told("11:59") == ("pending", [], (stray,))
    assert told("12:00") == ("early_leave", [], ())
    assert told("13:09") == ("early_leave", [], ())
    assert told("13:10") == ("early_leave", ["ATT-03"], ())


def test_a_night_shift_is_decided_the_next_morning(standard, book):
    rules = (SegmentRule("night", 1200, 1560),)

    evening = at_moment(standard, book, "23:00", "20:20", rules=rules)
    morning = at_moment(standard, book, "27:10", "20:20 26:05", rules=rules)

    assert [one.code for one in evening.violations] == ["ATT-02"]
    assert evening.record.verdict == "pending"
    assert (morning.record.verdict, morning.record.finality) == ("present", "provisional")
    assert morning.violations[0].detail == (
        "Seriously late by 20 min: due 20:00 (night), punched 20:20"
    )


@pytest.mark.parametrize(
    ("given", "live"),
    [
        ({"paths": ()}, "unknown"),
        ({"kind": DayKind("workday", "weekly", known=False)}, "not_arrived"),
    ],
)
def test_no_alert_about_people_without_a_terminal_or_a_calendar(standard, book, given, live):
    outcome = at_moment(standard, book, "08:40", **given)

    assert (outcome.alerts, outcome.record.halves[0].live) == ((), live)


def test_a_late_log_does_not_alarm_afterwards(standard, book):
    """The terminal was out of reach at the time; its log shows now that it worked."""
    out_of_reach = standard.path(
        ("00:00", "07:00"),
        ("09:00", "20:00"),
        proofs=tuple(standard.at(f"{m // 60}:{m % 60}") for m in range(430, 541, 10)),
    )
    made = "08:42 12:01 14:20 18:02"
    outcome = at_moment(standard, book, "20:00", made, paths=(out_of_reach,))

    assert outcome.record.slots[0].path == "up"
    assert [one.code for one in outcome.violations] == ["ATT-01"]
    assert alert_of(outcome) is None


def test_leave_withdraws_the_alert(standard, book):
    leave = (standard.absence("08:30", "09:00"),)

    assert at_moment(standard, book, "08:50", absences=leave).alerts == ()
    assert alert_of(at_moment(standard, book, "09:01", absences=leave)).opened_at == standard.at(
        "09:01"
    )


def test_the_alert_expires_where_nothing_can_be_decided(standard, book):
    hidden = standard.punch("12:30", trust=3, earliest=standard.at("08:00"))
    outcome = judge_person(standard.day([hidden], as_of="12:10"), book)

    assert (alert_of(outcome).state, alert_of(outcome).ends_at) == (
        "expired",
        standard.at("12:00"),
    )


def test_who_calls_tickets_without_a_punch_is_reminded(standard, book):
    called = (
        standard.evidence("08:50", "ticket_called"),
        standard.evidence("08:40", "ticket_called"),
    )

    def told(as_of, punches=""):
        found = alert_of(
            at_moment(standard, book, as_of, punches, evidence=called), "working_without_punch"
        )
        return found and (found.state, found.opened_at, found.ends_at)

    opened = standard.at("08:40")
    assert told("08:55") == ("open", opened, None)
    assert told("09:00", "08:58") == ("resolved", opened, standard.at("08:58"))
    assert told("12:10") == ("expired", opened, standard.at("12:00"))
    assert told("08:55", "08:35") is None


def test_when_to_look_again(standard, book):
    """Each answer names the next moment; together they are the day's time-table."""
    moments = []
    as_of = standard.at("07:00")
    while True:
        outcome = judge_person(standard.day("", as_of=as_of), book)
        if outcome.ask_again is None:
            break
        as_of = outcome.ask_again
        moments.append(as_of)

    of_the_day = [standard.at(text) for text in (
        "08:31", "08:45", "09:00", "12:00", "12:10", "13:10",
        "14:31", "14:45", "15:00", "18:00", "18:10", "19:10",
    )]  # fmt: skip
    later = [standard.midnight + 4 * DAY, standard.midnight + 35 * DAY]
    assert [one for one in moments if one in of_the_day] == of_the_day
    assert moments[-2:] == later


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(7 * 60, 19 * 60), max_size=5, unique=True),
    st.integers(6 * 60, 48 * 60),
    st.floats(0, 1),
    st.sampled_from(["", "leave", "outing", "offline", "behind", "unknown"]),
    st.booleans(),
)
def test_nothing_changes_before_the_moment_named(
    standard, book, minutes, start, part, case, single
):
    as_of = standard.midnight + start * MINUTE
    moments = [standard.midnight + one * MINUTE for one in minutes]
    punches = [
        standard.punch(f"{one // 60}:{one % 60}")
        for one, at in zip(minutes, moments, strict=True)
        if at <= as_of
    ]
    more = {}
    if case == "leave":
        more["absences"] = (standard.absence("08:30", "09:20"),)
    elif case == "outing":
        more["absences"] = (standard.absence("09:30", "10:20", "meeting", punch_required=True),)
    elif case == "offline":
        more["paths"] = (standard.path(("00:00", "05:30")),)
    elif case == "behind":
        told = ((standard.at("05:00"), standard.at("72:00")),)
        more["paths"] = (standard.path(complete_until=standard.at("06:00"), usable=told),)
        more["appeal_ends"] = standard.at("20:00")
    elif case == "unknown":
        more["kind"] = DayKind("workday", "weekly", known=False)
    day = standard.day(punches, as_of=as_of, policy=Policy(single_lunch_punch=single), **more)
    outcome = judge_person(day, book)
    if outcome.ask_again is None:
        return
    assert outcome.ask_again > as_of

    between = as_of + int((outcome.ask_again - 1 - as_of) * part)
    later = judge_person(structs.replace(day, as_of=between), book)

    assert later == outcome
