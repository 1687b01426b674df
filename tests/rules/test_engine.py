"""The rulebook, closed months, and explanations."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rules.absence import AbsenceRule
from rules.engine import Rulebook, explain, judge_hall, judge_person
from rules.late_arrival import LateArrival
from rules.model import DAY, Alert, AskAgain, DayKind, HallDay, Policy, SegmentRule

LATE = "08:42 12:01 14:20 18:02"


# -- rulebook ---------------------------------------------------------------------------------


def test_a_rule_holds_from_its_date_on_until_the_next(standard):
    book = Rulebook(
        [
            ("late_arrival", date(2026, 11, 1), True, LateArrival(points=3)),
            ("late_arrival", date(2026, 1, 1), True, LateArrival(points=1)),
            ("late_arrival", date(2026, 12, 1), False, LateArrival()),
        ]
    )

    assert book.person_rules(date(2025, 12, 31)) == ()
    assert book.person_rules(date(2026, 1, 1)) == (LateArrival(points=1),)
    assert book.person_rules(date(2026, 11, 3)) == (LateArrival(points=3),)
    assert book.person_rules(date(2026, 12, 1)) == ()
    assert judge_person(standard.day(LATE), book).violations[0].points == 3


def test_the_version_depends_on_names_and_thresholds_alone():
    start = date(2026, 1, 1)
    one = ("late_arrival", start, True, LateArrival())
    two = ("absence", start, True, AbsenceRule())
    off = ("early_leave", start, False, LateArrival())
    version = Rulebook([one, two]).rule_version(start)

    assert Rulebook([two, one, off]).rule_version(date(2026, 6, 1)) == version
    assert Rulebook([one]).rule_version(start) != version
    changed = ("late_arrival", start, True, LateArrival(points=2))
    assert Rulebook([changed, two]).rule_version(start) != version
    assert len(version) == 12


def test_the_record_names_the_version_of_its_date(standard, book):
    assert judge_person(standard.day(LATE), book).record.rule_version == book.rule_version(
        standard.work_date
    )


class SilentHall(msgspec.Struct, frozen=True):
    def judge_hall(self, day):
        yield AskAgain(day.as_of - 1)
        yield AskAgain(day.as_of + 500)
        yield AskAgain(day.as_of + 200)
        yield Alert("a", "r", "DEV-01", "hall", day.hall, "", 1, 0, None, "open", "", "")


def test_a_hall_is_judged_by_its_own_rules(standard):
    book = Rulebook(
        [
            ("silent", date(2026, 1, 1), True, SilentHall()),
            ("late_arrival", date(2026, 1, 1), True, LateArrival()),
        ]
    )
    day = HallDay(
        "h1", standard.work_date, DayKind("workday", "weekly"), 0, DAY, (), (), as_of=1000
    )
    outcome = judge_hall(day, book)

    assert (outcome.record, outcome.violations, outcome.ask_again) == (None, (), 1200)
    assert [one.subject for one in outcome.alerts] == ["h1"]
    assert book.hall_rules(standard.work_date) == (SilentHall(),)


# -- closed months ----------------------------------------------------------------------------


def closed_and_now(standard, punches_then, punches_now, **given):
    closes = standard.midnight + 35 * DAY
    then = standard.day(punches_then, as_of=closes, **given)
    now = standard.day(punches_now, as_of=closes + 3 * DAY, **given)
    return then, now


def test_a_locked_day_never_moves(standard, book):
    then, now = closed_and_now(standard, LATE, "08:25 " + LATE)
    outcome = judge_person(now, book, locked=then)
    before = judge_person(then, book)

    assert (outcome.record, outcome.violations) == (before.record, before.violations)
    assert outcome.record.finality == "locked"
    (adjustment,) = outcome.adjustments
    assert (adjustment.points_before, adjustment.points_after) == (1, 0)
    assert (adjustment.verdict_before, adjustment.verdict_after) == ("present", "present")
    assert adjustment.period == "2026-12"


def test_an_adjustment_stays_in_the_month_in_which_its_reading_came(standard, book):
    closes = standard.midnight + 35 * DAY
    late = standard.punch("08:25", received_at=closes + 2 * DAY)
    then, _ = closed_and_now(standard, LATE, LATE)
    periods = {
        judge_person(
            standard.day([late, *then.punches], as_of=closes + days * DAY), book, locked=then
        ).adjustments[0]
        for days in (2, 40, 400)
    }

    assert len(periods) == 1


def test_a_locked_day_that_did_not_change_has_no_adjustment(standard, book):
    then, now = closed_and_now(standard, LATE, LATE + " 13:10")

    assert judge_person(now, book, locked=then).adjustments == ()


def test_what_was_undecided_when_the_month_closed_is_decided_afterwards(standard, book):
    then, now = closed_and_now(standard, "", LATE)
    then = structs.replace(then, paths=())
    outcome = judge_person(now, book, locked=then)

    assert (outcome.record.finality, outcome.adjustments) == ("locked", ())
    assert [one.code for one in outcome.violations] == ["ATT-01"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(420, 1140), max_size=6), st.lists(st.integers(420, 1140), max_size=3))
def test_whatever_comes_after_the_month_closed_the_numbers_stay(standard, book, first, more):
    def text(minutes):
        return " ".join(f"{one // 60}:{one % 60}" for one in dict.fromkeys(minutes))

    then, now = closed_and_now(standard, text(first), text(first + more))
    outcome = judge_person(now, book, locked=then)
    before = judge_person(then, book)

    assert (outcome.record, outcome.violations) == (before.record, before.violations)
    after = sum(one.points for one in judge_person(now, book).violations)
    if outcome.adjustments:
        assert outcome.adjustments[0].points_after == after
    else:
        assert sum(one.points for one in before.violations) == after


# -- explanations -----------------------------------------------------------------------------


def explanation_of(standard, book, punches, **given):
    day = standard.day(punches, **given)
    violations = judge_person(day, book).violations
    return day, explain(day, book, violations[0].id)


def test_a_late_arrival_is_explained(standard, book):
    leave = standard.absence("14:30", "15:00")
    day, why = explanation_of(standard, book, LATE + " 10:00", absences=(leave,))

    assert why.violation.code == why.violation.code == "ATT-01"
    assert (why.rule, why.rule_version) == ("late_arrival", book.rule_version(day.work_date))
    assert why.thresholds["rule"]["points"] == 1
    assert why.thresholds["segment am"]["serious"] == 15
    assert why.thresholds["policy"]["settle"] == 10
    assert [(one.segment, one.slot) for one in why.slots] == [("am", "on"), ("am", "off")]
    assert (why.slots[0].target, why.slots[0].opens) == (standard.at("08:30"), standard.at("07:30"))
    assert why.calendar == day.kind
    assert {(one.event_at, one.used_for) for one in why.readings} == {
        (standard.at("08:42"), "on"),
        (standard.at("10:00"), "stray"),
        (standard.at("12:01"), "off"),
    }
    assert [(one.device, one.slot, one.state) for one in why.terminals] == [
        ("t1", "on", "up"),
        ("t1", "off", "up"),
    ]
    assert why.absences == ()


def test_what_would_have_changed_a_late_arrival(standard, book):
    _, why = explanation_of(standard, book, LATE)

    assert [one.en for one in why.would_change] == [
        "a punch between 07:30–08:30",
        "approved leave or outing covering 08:30–08:42",
        "approved leave or outing covering 08:30–12:00",
        "an outage of all terminals during 07:30–08:30 (then unverified)",
        "the clock of t1 being 12 min or more fast",
    ]
    assert why.would_change[0].zh == "在 07:30–08:30 之间有一次打卡"
    assert {one.instead for one in why.would_change} == {()}


def test_what_would_have_changed_an_absence(standard, book):
    _, why = explanation_of(standard, book, "14:20 18:02")
    changes = {one.en: one.instead for one in why.would_change}

    assert changes["a punch between 07:30–08:30"] == ("缺卡：下班（上午班 12:00）",)
    assert changes["punches between 07:30–08:30 and between 12:00–13:00"] == ()
    assert changes["approved leave or outing covering 08:30–12:00"] == ()
    assert changes["3 or more tickets called by the person in 08:30–12:00 (then contested)"] == (
        "旷工存疑（上午班）：无打卡，但有在岗证据 3 条",
    )


def test_only_what_would_have_helped_is_told(standard, book):
    """45 minutes late is an absence; a leave of 20 minutes would not have helped."""
    _, why = explanation_of(standard, book, "09:15 11:20 14:20 18:02")

    for change in why.would_change:
        assert change.en != "a punch between 12:00–13:00"
        assert change.en != "a punch between 07:30–08:30"
    assert "punches between 07:30–08:30 and between 12:00–13:00" in [
        one.en for one in why.would_change
    ]


def test_a_day_without_the_violation_has_no_explanation(standard, book):
    assert explain(standard.day(LATE), book, "nothing") is None


@pytest.mark.parametrize("punches", ["", "08:42", "09:30 11:00", "14:50 17:45", "08:20 18:05"])
@pytest.mark.parametrize("single", [False, True])
def test_every_violation_can_be_explained(standard, book, punches, single):
    rules = (SegmentRule("am", 510, 720), SegmentRule("pm", 720, 1080))
    day = standard.day(punches, rules=rules, policy=Policy(single_lunch_punch=single))
    violations = judge_person(day, book).violations

    for violation in violations:
        why = explain(day, book, violation.id)
        assert why.violation == violation
        assert why.would_change
        assert msgspec.json.encode(why)
