"""Twenty worked days: what each half-day is and what the day costs."""

from __future__ import annotations

import pytest

from rules.engine import judge_person
from rules.model import SegmentRule

NINE_TO_FIVE = (SegmentRule("am", 9 * 60, 12 * 60), SegmentRule("pm", 13 * 60, 17 * 60))
NIGHT = (SegmentRule("night", 20 * 60, 26 * 60),)

# name, timetable, absences, punches, verdict and findings of each half, points
VECTORS = [
    ("V1", None, "", "08:25 12:01 14:20 18:02", "present|present", 0),
    ("V2", None, "", "08:30:59 12:00 14:30 17:59:01", "present|present", 0),
    ("V3", None, "", "08:31 11:50 14:30 18:00", "present late 1 early_leave 10|present", 2),
    ("V4", None, "", "08:45 12:00 14:30 18:00", "present serious_late 15|present", 2),
    ("V5", None, "", "09:00 12:00 14:30 18:00", "absent_half|present", 5),
    ("V6", None, "", "08:20 18:05", "present missing_off|present missing_on", 4),
    ("V7", None, "", "08:20 12:03 12:04 18:01", "present|present missing_on", 2),
    ("V8", None, "", "08:20 12:02 13:15 14:10 18:01", "present|present", 0),
    ("V9", None, "", "10:30 14:10 18:01", "absent_half|present", 5),
    ("V10", None, "", "", "absent_half|absent_half", 10),
    ("V11", None, "08:30-12:00", "14:25 18:00", "excused|present", 0),
    ("V12", None, "08:30-10:00", "10:03 12:00 14:25 18:00", "present late 3|present", 1),
    ("V13", None, "16:00-18:00", "08:20 12:00 14:25 15:50", "present|present early_leave 10", 1),
    ("V14", None, "00:00-24:00", "", "excused|excused", 0),
    ("V15", None, "08:30-11:50", "14:25 18:00", "excused|present", 0),
    ("V16", NINE_TO_FIVE, "", "08:55 12:02 12:50 17:01", "present|present", 0),
    ("V17", NINE_TO_FIVE, "", "08:55 12:02 12:02:40 17:01", "present|present missing_on", 2),
    ("V18", NIGHT, "", "19:55 26:05", "present", 0),
    (
        "V19",
        None,
        "",
        "08:20 08:24 08:29 12:00 12:10 14:00 14:29 18:00 18:30",
        "present|present",
        0,
    ),
    ("V20", None, "", "07:20 08:35 12:00 14:30 18:00", "present late 5|present", 1),
]


@pytest.mark.parametrize(
    ("rules", "absences", "punches", "halves", "points"),
    [vector[1:] for vector in VECTORS],
    ids=[vector[0] for vector in VECTORS],
)
def test_the_worked_days(standard, book, rules, absences, punches, halves, points):
    given = {} if rules is None else {"rules": rules}
    spans = tuple(standard.absence(*span.split("-")) for span in absences.split())

    outcome = judge_person(standard.day(punches, absences=spans, **given), book)

    told = []
    for half in outcome.record.halves:
        minutes = {
            slot.verdict: slot.minutes
            for slot in outcome.record.slots
            if slot.segment == half.segment
        }
        words = [half.verdict]
        for finding in half.findings:
            words += [finding] + ([str(minutes[finding])] if finding in minutes else [])
        told.append(" ".join(words))
    assert "|".join(told) == halves
    assert sum(violation.points for violation in outcome.violations) == points
    assert outcome.record.finality == "final"


def slots(outcome):
    return {(slot.segment, slot.slot): slot for slot in outcome.record.slots}


def test_two_punches_at_noon_leave_by_the_later_one(standard, book):
    outcome = judge_person(standard.day("08:20 12:03 12:04 18:01"), book)

    assert slots(outcome)["am", "off"].event_time == standard.at("12:04")


def test_a_punch_between_the_windows_is_a_stray(standard, book):
    day = standard.day("08:20 12:02 13:15 14:10 18:01")

    assert judge_person(day, book).record.strays == (standard.punch("13:15").reading_id.hex(),)


def test_a_lone_morning_punch_goes_to_the_nearer_slot(standard, book):
    outcome = judge_person(standard.day("10:30 14:10 18:01"), book)

    assert slots(outcome)["am", "off"].minutes == 90
    assert slots(outcome)["am", "on"].event_time is None


def test_leave_shifts_the_target_and_is_named(standard, book):
    day = standard.day("10:03 12:00 14:25 18:00", absences=(standard.absence("08:30", "10:00"),))
    on = slots(judge_person(day, book))["am", "on"]

    assert (on.target, on.absence_ref) == (standard.at("10:00"), "L08:30")


def test_a_night_belongs_to_the_date_on_which_it_begins(standard, book):
    outcome = judge_person(standard.day("19:55 26:05", rules=NIGHT), book)

    assert outcome.record.work_date == standard.work_date
    assert slots(outcome)["night", "off"].target == standard.at("26:00")


def test_many_punches_use_first_and_last(standard, book):
    day = standard.day("08:20 08:24 08:29 12:00 12:10 14:00 14:29 18:00 18:30")
    outcome = judge_person(day, book)

    used = [slot.event_time for slot in outcome.record.slots]
    assert used == [standard.at(text) for text in ("08:20", "12:10", "14:00", "18:30")]


def test_a_second_touch_within_a_minute_belongs_to_the_first(standard, book):
    day = standard.day(
        "08:55 12:02 12:02:40 17:01",
        rules=NINE_TO_FIVE,
    )
    outcome = judge_person(day, book)

    off = slots(outcome)["am", "off"]
    assert off.event_time == standard.at("12:02:40")
    assert off.evidence == (
        standard.punch("12:02:40").reading_id.hex(),
        standard.punch("12:02").reading_id.hex(),
    )
    assert outcome.record.strays == ()
