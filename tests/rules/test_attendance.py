"""Half-days, days, outages, doubtful clocks and finality."""

from __future__ import annotations

import random
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rules.attendance import judge_attendance
from rules.engine import judge_person
from rules.model import DAY, MINUTE, DayKind, Person, Policy, SegmentRule

MORNING_ONLY = (SegmentRule("am", 510, 720),)
ON = {
    "ok": "08:20",
    "late": "08:42",
    "absent": "09:10",
    "missing": None,
    "unverified": None,
}
OFF = {"ok": "12:05", "early": "11:45", "absent": "11:20", "missing": None, "unverified": None}
# (on, off): verdict and findings
TABLE = {
    ("ok", "ok"): "present",
    ("ok", "early"): "present serious_early_leave",
    ("ok", "absent"): "absent_half",
    ("ok", "missing"): "present missing_off",
    ("ok", "unverified"): "present",
    ("late", "ok"): "present late",
    ("late", "early"): "present late serious_early_leave",
    ("late", "absent"): "absent_half",
    ("late", "missing"): "present late missing_off",
    ("late", "unverified"): "present late",
    ("absent", "ok"): "absent_half",
    ("absent", "early"): "absent_half",
    ("absent", "absent"): "absent_half",
    ("absent", "missing"): "absent_half",
    ("absent", "unverified"): "absent_half",
    ("missing", "ok"): "present missing_on",
    ("missing", "early"): "present missing_on serious_early_leave",
    ("missing", "absent"): "absent_half",
    ("missing", "missing"): "absent_half",
    ("missing", "unverified"): "unverified",
    ("unverified", "ok"): "present",
    ("unverified", "early"): "present serious_early_leave",
    ("unverified", "absent"): "absent_half",
    ("unverified", "missing"): "unverified",
    ("unverified", "unverified"): "unverified",
}


def said(half):
    return " ".join((half.verdict, *half.findings))


def slot_of(record, segment, kind):
    return next(one for one in record.slots if (one.segment, one.slot) == (segment, kind))


@pytest.mark.parametrize(("on", "off"), TABLE, ids=lambda text: text)
def test_every_cell_of_the_half_day_table(standard, on, off):
    """Narrow windows, so that a missing punch cannot be stood in for by the other one."""
    rule = SegmentRule("am", 510, 720, accept_on=(450, 600), accept_off=(660, 780))
    up = [("08:31", "11:59")] if on == off == "unverified" else []
    if on == "unverified" and off != "unverified":
        up = [("08:31", "20:00")]
    elif off == "unverified" and on != "unverified":
        up = [("05:00", "11:59")]
    punches = " ".join(text for text in (ON[on], OFF[off]) if text)
    day = standard.day(punches, rules=(rule,), paths=(standard.path(*up),))

    (half,) = judge_attendance(day).halves

    assert said(half) == TABLE[on, off]


@pytest.mark.parametrize(
    ("punches", "absences", "verdict", "attended"),
    [
        ("08:25 12:01 14:20 18:02", [], "present", 1.0),
        ("08:25 12:01", [], "absent", 0.5),
        ("", [], "absent_day", 0.0),
        ("14:20 18:02", [("08:30", "12:00", "sick")], "present", 0.5),
        ("", [("08:30", "12:00", "sick")], "absent", 0.0),
        ("", [("08:30", "18:00", "annual")], "leave", 0.0),
        ("", [("08:30", "18:00", "training")], "present", 1.0),
        ("10:00 12:01 14:20 18:02", [("08:30", "10:00", "sick")], "present", 0.7857),
        ("10:00 12:01 14:20 18:02", [("08:30", "10:00", "meeting")], "present", 1.0),
    ],
)
def test_the_day_is_the_sum_of_its_halves(standard, punches, absences, verdict, attended):
    spans = tuple(standard.absence(*one) for one in absences)
    record = judge_attendance(standard.day(punches, absences=spans))

    assert (record.verdict, record.attended, record.expected) == (verdict, attended, 1.0)


def test_three_segments_weigh_their_minutes(standard):
    rules = (SegmentRule("a", 480, 600), SegmentRule("b", 660, 720), SegmentRule("c", 840, 900))
    record = judge_attendance(standard.day("07:55 10:05 13:50 15:05", rules=rules))

    assert [half.weight for half in record.halves] == [0.5, 0.25, 0.25]
    assert (record.verdict, record.attended) == ("absent", 0.75)


def test_a_single_segment_that_is_the_whole_day_is_absent_all_day(standard):
    whole = SegmentRule("day", 510, 1050, weight=1)

    assert judge_attendance(standard.day("", rules=(whole,))).verdict == "absent_day"
    assert judge_attendance(standard.day("", rules=MORNING_ONLY)).verdict == "absent"


# -- no obligations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdict"), [("rest", "rest"), ("holiday", "rest"), ("duty_only", "off")]
)
def test_on_a_day_off_punches_are_extra(standard, kind, verdict):
    day = standard.day("09:00 11:00", rules=(), kind=DayKind(kind, "weekly"))
    record = judge_attendance(day)

    assert (record.verdict, record.slots, record.expected) == (verdict, (), 0.0)
    assert len(record.strays) == 2
    assert record.finality == "final"


def test_a_makeup_workday_is_an_ordinary_workday(standard, book):
    kind = DayKind("makeup_workday", "official", "国庆节调休")
    outcome = judge_person(standard.day("08:42 12:01 14:20 18:02", kind=kind), book)

    assert [one.code for one in outcome.violations] == ["ATT-01"]
    assert outcome.record.calendar == "official:国庆节调休"


@pytest.mark.parametrize(
    "person",
    [
        Person("1", attendance_required=False),
        Person("1", employed=((date(2026, 11, 4), None),)),
    ],
)
def test_who_is_not_to_be_judged_has_no_record(standard, book, person):
    outcome = judge_person(standard.day("09:50", person=person), book)

    assert (outcome.record, outcome.violations, outcome.ask_again) == (None, (), None)


# -- absences ---------------------------------------------------------------------------------


def test_an_outing_that_must_be_punched_adds_two_slots(standard):
    away = standard.absence("09:30", "11:00", "site_survey", punch_required=True)
    record = judge_attendance(standard.day("08:20 09:31 11:04 12:01 14:20 18:02", absences=(away,)))

    assert [(one.slot, one.verdict, one.minutes) for one in record.slots[:4]] == [
        ("on", "ok", 0),
        ("out", "ok", 0),
        ("back", "late", 4),
        ("off", "ok", 0),
    ]
    assert record.halves[0].findings == ("late",)


def test_leave_inside_a_segment_adds_no_slot(standard):
    record = judge_attendance(
        standard.day("08:20 12:01 14:20 18:02", absences=(standard.absence("09:30", "10:30"),))
    )

    assert [one.slot for one in record.slots] == ["on", "off", "on", "off"]
    assert record.halves[0].minutes_due == 150


def test_leaves_that_touch_count_as_one(standard):
    spans = (standard.absence("09:00", "10:00"), standard.absence("08:30", "09:00", "sick"))
    record = judge_attendance(standard.day("10:00 12:01 14:20 18:02", absences=spans))

    on = slot_of(record, "am", "on")
    assert (on.target, on.verdict, on.absence_ref) == (
        standard.at("10:00"),
        "ok",
        "L08:30,L09:00",
    )


def test_a_group_exemption_excuses_the_start(standard, book):
    bus = standard.absence("08:30", "09:10", "group_exemption")
    outcome = judge_person(standard.day("09:08 12:01 14:20 18:02", absences=(bus,)), book)

    assert (outcome.violations, outcome.record.attended) == ((), 1.0)


def test_leave_approved_afterwards_takes_the_violation_back(standard, book):
    late = standard.day("08:42 12:01 14:20 18:02")
    excused = structs.replace(late, absences=(standard.absence("08:30", "09:00"),))

    assert len(judge_person(late, book).violations) == 1
    assert judge_person(excused, book).violations == ()


# -- what the hall may choose -----------------------------------------------------------------


def test_seconds_may_matter(standard, book):
    day = standard.day("08:30:01 12:01 14:20 18:02", policy=Policy(seconds_matter=True))
    (violation,) = judge_person(day, book).violations

    assert (violation.code, violation.minutes) == ("ATT-01", 1)


@pytest.mark.parametrize(
    ("choice", "codes"),
    [("missing", ["ATT-05"]), ("late_or_early", ["ATT-01"]), ("absent_half", ["ATT-06"])],
)
def test_a_missing_punch_may_count_as_something_else(standard, book, choice, codes):
    day = standard.day("12:01 14:20 18:02", policy=Policy(missing_punch_as=choice))

    assert [one.code for one in judge_person(day, book).violations] == codes


@pytest.mark.parametrize(
    ("punches", "halves", "codes"),
    [
        ("08:20 17:05", "present|present", []),
        ("08:40 17:05", "present late|present", ["ATT-01"]),
        ("08:20", "present|present missing_off", ["ATT-05"]),
        ("", "absent_half|absent_half", ["ATT-07"]),
        ("12:45 17:05", "absent_half|absent_half", ["ATT-07"]),
        ("12:15 17:05", "absent_half|present", ["ATT-06"]),
        ("08:20 11:00", "absent_half|absent_half", ["ATT-07"]),
        ("08:20 16:00", "present|absent_half", ["ATT-06"]),
    ],
)
def test_without_a_lunch_break_two_punches_are_enough(standard, book, punches, halves, codes):
    rules = (SegmentRule("am", 510, 720), SegmentRule("pm", 730, 1020))
    day = standard.day(punches, rules=rules, policy=Policy(single_lunch_punch=True))
    outcome = judge_person(day, book)

    assert "|".join(said(half) for half in outcome.record.halves) == halves
    assert [(one.segment, one.slot) for one in outcome.record.slots] == [
        ("am", "on"),
        ("pm", "off"),
    ]
    assert [one.code for one in outcome.violations] == codes


def test_a_missing_punch_counts_for_the_segment_that_expects_it(standard):
    rules = (SegmentRule("am", 510, 720), SegmentRule("pm", 720, 1020))
    policy = Policy(single_lunch_punch=True, missing_punch_as="absent_half")

    def told(punches):
        record = judge_attendance(standard.day(punches, rules=rules, policy=policy))
        return [half.verdict for half in record.halves]

    assert told("17:05") == ["absent_half", "present"]
    assert told("08:20") == ["present", "absent_half"]


def test_leave_in_the_middle_brings_the_inner_punches_back(standard):
    rules = (SegmentRule("am", 510, 720), SegmentRule("pm", 720, 1020))
    day = standard.day(
        "08:20 11:01 17:05",
        rules=rules,
        policy=Policy(single_lunch_punch=True),
        absences=(standard.absence("11:00", "12:00"),),
    )

    assert [one.slot for one in judge_attendance(day).slots] == ["on", "off", "on", "off"]


def test_lunch_duty_merges_with_the_morning_and_runs_into_the_afternoon(standard):
    rules = (
        SegmentRule("am", 510, 720),
        SegmentRule("duty", 720, 870),
        SegmentRule("pm", 870, 1080),
    )
    record = judge_attendance(standard.day("08:20 18:05", rules=rules))

    assert [(one.segment, one.slot) for one in record.slots] == [("am+duty", "on"), ("pm", "off")]
    assert (record.verdict, record.attended) == ("present", 1.0)


# -- contested --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        ([("09:00", "ticket_called", ""), ("09:10", "ticket_called", "")], "ATT-06"),
        ([(f"09:{i}0", "ticket_called", "") for i in range(3)], "ATT-11"),
        ([("09:00", "case_closed", ""), ("09:30", "case_closed", "")], "ATT-11"),
        ([("09:00", "seen", "camera1"), ("09:30", "seen", "camera1")], "ATT-06"),
        ([("09:00", "seen", "camera1"), ("09:30", "seen", "pad2")], "ATT-11"),
        ([(f"15:{i}0", "ticket_called", "") for i in range(3)], "ATT-06"),
    ],
)
def test_who_was_seen_at_work_contests_the_absence(standard, book, seen, code):
    evidence = tuple(standard.evidence(*one) for one in seen)
    outcome = judge_person(standard.day("14:20 18:02", evidence=evidence), book)

    (violation,) = outcome.violations
    assert violation.code == code
    assert violation.points == (5 if code == "ATT-06" else 0)
    assert violation.finality == ("final" if code == "ATT-06" else "provisional")


# -- terminals that were down -----------------------------------------------------------------


def test_no_data_is_not_bad_behaviour(standard, book):
    day = standard.day("", paths=(standard.path(("00:00", "07:00")),))
    outcome = judge_person(day, book)

    assert {one.verdict for one in outcome.record.slots} == {"unverified"}
    assert (outcome.record.verdict, outcome.violations) == ("unverified", ())
    assert outcome.record.finality == "provisional"


def test_without_any_terminal_nobody_is_accused(standard, book):
    outcome = judge_person(standard.day("09:50", paths=()), book)

    assert outcome.violations == ()
    assert slot_of(outcome.record, "am", "on").path == "down"


def test_late_because_the_terminal_was_down_is_unverified(standard, book):
    day = standard.day("08:42 12:01 14:20 18:02", paths=(standard.path(("08:41", "20:00")),))
    outcome = judge_person(day, book)

    on = slot_of(outcome.record, "am", "on")
    assert (on.verdict, on.minutes, on.path) == ("unverified", 12, "down")
    assert outcome.violations == ()


def test_an_outage_of_part_of_the_time_is_judged_and_flagged(standard, book):
    paths = (standard.path(("00:00", "08:00"), ("08:20", "20:00")),)
    outcome = judge_person(standard.day("12:01 14:20 18:02", paths=paths), book)

    (violation,) = outcome.violations
    assert (violation.code, violation.flags) == ("ATT-05", ("outage_overlap",))
    assert violation.finality == "provisional"
    assert slot_of(outcome.record, "am", "on").path == "partial"


@pytest.mark.parametrize(
    ("found_out", "path", "finality"),
    [
        ({"usable": [("08:00", "08:20")]}, "up", "final"),
        ({"unusable": [("08:00", "08:20")]}, "partial", "final"),
        ({"unusable": [("08:00", "08:10")]}, "partial", "provisional"),
        ({"proofs": ["08:10"]}, "up", "final"),
        ({"proofs": ["08:05"]}, "partial", "provisional"),
    ],
)
def test_a_gap_that_is_explained_lets_the_day_become_final(
    standard, book, found_out, path, finality
):
    given = {
        name: tuple(
            standard.at(one) if isinstance(one, str) else tuple(map(standard.at, one))
            for one in told
        )
        for name, told in found_out.items()
    }
    paths = (standard.path(("00:00", "08:00"), ("08:20", "20:00"), **given),)
    outcome = judge_person(standard.day("12:01 14:20 18:02", paths=paths), book)

    assert slot_of(outcome.record, "am", "on").path == path
    assert outcome.violations[0].finality == finality


def test_what_somebody_found_unusable_did_not_work(standard):
    broken = standard.path(unusable=((standard.at("07:30"), standard.at("08:31")),))

    assert slot_of(judge_attendance(standard.day("", paths=(broken,))), "am", "on").path == "down"


def test_one_terminal_that_worked_all_the_time_is_enough(standard):
    paths = (standard.path(("08:00", "08:10")), standard.path(device="t2"))

    assert slot_of(judge_attendance(standard.day("", paths=paths)), "am", "on").path == "up"


def test_two_terminals_that_worked_in_turn_are_partial(standard):
    paths = (standard.path(("00:00", "08:00")), standard.path(("08:00", "20:00"), device="t2"))

    assert slot_of(judge_attendance(standard.day("", paths=paths)), "am", "on").path == "partial"


def test_only_terminals_the_person_may_use_count(standard):
    person = Person("1001", devices=("t1",))
    paths = (standard.path(("00:00", "01:00")), standard.path(device="t2"))
    record = judge_attendance(standard.day("", person=person, paths=paths))

    assert slot_of(record, "am", "on").path == "down"


# -- clocks in doubt --------------------------------------------------------------------------


def test_a_punch_of_unknown_time_fills_nothing_but_accuses_nobody(standard, book):
    hidden = standard.punch("12:30", trust=3, earliest=standard.at("08:00"))
    day = standard.day([hidden, standard.punch("14:20"), standard.punch("18:02")])
    outcome = judge_person(day, book)

    assert [one.verdict for one in outcome.record.slots] == ["unverified"] * 2 + ["ok"] * 2
    assert outcome.record.slots[0].flags == ("clock_untrusted",)
    assert outcome.record.slots[0].evidence == (hidden.reading_id.hex(),)
    assert (outcome.violations, outcome.record.verdict) == ((), "unverified")


def test_a_punch_of_unknown_time_elsewhere_changes_nothing(standard, book):
    hidden = standard.punch("07:00", trust=3, earliest=standard.at("06:00"))
    day = standard.day([hidden, *(standard.punch(t) for t in ("12:01", "14:20", "18:02"))])

    assert [one.code for one in judge_person(day, book).violations] == ["ATT-05"]


@pytest.mark.parametrize(
    ("event", "device", "codes", "favoured"),
    [
        ("08:32", "08:29", [], True),
        ("08:29", "08:32", [], True),
        ("08:33", "08:31", ["ATT-01"], False),
        ("08:25", "08:22", [], False),
        ("09:01", "08:58", ["ATT-02"], True),
    ],
)
def test_of_two_times_the_milder_one_holds(standard, book, event, device, codes, favoured):
    punch = standard.punch(event, trust=1, device_at=standard.at(device))
    day = standard.day([punch, *(standard.punch(t) for t in ("12:01", "14:20", "18:02"))])
    outcome = judge_person(day, book)

    assert [one.code for one in outcome.violations] == codes
    assert outcome.record.favoured == favoured
    assert "clock_corrected" in outcome.record.slots[0].flags
    for violation in outcome.violations:
        assert ("favoured" in violation.flags) == favoured


# -- finality ---------------------------------------------------------------------------------


def finality_at(standard, as_of, **given):
    return judge_attendance(standard.day("08:42 12:01 14:20 18:02", as_of=as_of, **given)).finality


def test_a_day_becomes_final_step_by_step(standard):
    day = standard.midnight

    assert finality_at(standard, "19:09:59") == "pending"
    assert finality_at(standard, "19:10") == "provisional"
    assert finality_at(standard, day + 4 * DAY - 1) == "provisional"
    assert finality_at(standard, day + 4 * DAY) == "final"
    assert finality_at(standard, day + 35 * DAY) == "locked"


def test_an_unread_log_keeps_the_day_provisional_until_explained(standard):
    behind = standard.path(complete_until=standard.at("17:00"))
    told = structs.replace(behind, usable=((standard.at("16:00"), standard.at("20:00")),))

    assert finality_at(standard, None, paths=(behind,)) == "provisional"
    assert finality_at(standard, None, paths=(told,)) == "final"
    assert (
        finality_at(standard, "42:59", paths=(told,), appeal_ends=standard.at("24:00"))
        == "provisional"
    )
    assert (
        finality_at(standard, "43:00", paths=(told,), appeal_ends=standard.at("24:00")) == "final"
    )


def test_a_month_without_official_calendar_stays_provisional(standard, book):
    day = standard.day("", kind=DayKind("workday", "weekly", known=False))
    outcome = judge_person(day, book)

    assert outcome.record.finality == "provisional"
    assert {one.finality for one in outcome.violations} == {"provisional"}


# -- properties -------------------------------------------------------------------------------

TIMES = st.lists(st.integers(6 * 60, 20 * 60), max_size=8, unique=True)


@settings(max_examples=150, deadline=None)
@given(TIMES, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(standard, book, minutes, rng: random.Random):
    punches = [standard.punch(f"{one // 60}:{one % 60}") for one in minutes]
    twins = [structs.replace(one, device="t2", reading_id=one.reading_id[::-1]) for one in punches]
    day = standard.day(punches + twins)
    again = [*day.punches, *rng.choices(day.punches, k=3)] if day.punches else []
    rng.shuffle(again)

    assert judge_person(structs.replace(day, punches=tuple(again)), book) == judge_person(day, book)


@settings(max_examples=150, deadline=None)
@given(TIMES, st.sampled_from(["am", "pm"]), st.integers(0, 90), st.integers(0, 90))
def test_leave_over_a_whole_segment_never_adds_a_violation_there(
    standard, book, minutes, segment, before, after
):
    punches = [standard.punch(f"{one // 60}:{one % 60}") for one in minutes]
    day = standard.day(punches)
    chosen = next(one for one in day.segments if one.rule.name == segment)
    leave = structs.replace(
        standard.absence("00:00", "01:00"),
        starts=chosen.starts - before * MINUTE,
        ends=chosen.ends + after * MINUTE,
    )
    outcome = judge_person(structs.replace(day, absences=(leave,)), book)

    assert not [one for one in outcome.violations if one.segment in (segment, "")]


@settings(max_examples=100, deadline=None)
@given(TIMES, TIMES, TIMES)
def test_punches_of_other_days_change_nothing(standard, book, before, today, after):
    """Judging a day with its neighbours' punches at hand is judging it alone."""
    own = [standard.punch(f"{one // 60}:{one % 60}") for one in today]
    near = [standard.punch(f"{one // 60 - 24}:{one % 60}") for one in before]
    near += [standard.punch(f"{one // 60 + 24}:{one % 60}") for one in after]

    assert judge_person(standard.day(own + near), book) == judge_person(standard.day(own), book)
