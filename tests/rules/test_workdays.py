"""Day kinds, timetables, instants of a date, and deadlines in workdays."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.attendance import judge_attendance
from rules.findings import clock
from rules.model import DAY, HOUR, MINUTE, DayKind, SegmentRule
from rules.workdays import (
    Calendar,
    Timetable,
    TimetableVersion,
    appeal_ends,
    at_minute,
    local_date,
    local_midnight,
    month_locks,
    reach,
    segments_of,
    work_dates,
    workdays_after,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
CAIRO = ZoneInfo("Africa/Cairo")
NATIONAL = {date(2026, 10, 1) + timedelta(days=i): DayKind("holiday", "official") for i in range(7)}
MAKEUP = DayKind("makeup_workday", "official", "国庆节调休")
CALENDAR = Calendar(official=NATIONAL | {date(2026, 10, 10): MAKEUP}, years=frozenset({2026}))
MORNING = SegmentRule("am", 510, 720)
LATER = SegmentRule("pm", 900, 1110)


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


# -- what a date is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "kind", "works"),
    [
        (date(2026, 9, 30), "workday", True),
        (date(2026, 10, 1), "holiday", False),
        (date(2026, 10, 10), "makeup_workday", True),
        (date(2026, 10, 11), "rest", False),
    ],
)
def test_the_official_table_comes_before_the_weekly_pattern(day, kind, works):
    found = CALENDAR.kind(day)

    assert (found.kind, found.works, found.known) == (kind, works, True)


def test_the_halls_own_exceptions_come_first():
    closed = DayKind("closed", "exception", "搬迁")
    calendar = Calendar({date(2026, 10, 10): closed}, CALENDAR.official, CALENDAR.years)

    assert calendar.kind(date(2026, 10, 10)) is closed


@pytest.mark.parametrize(
    ("day", "kind"),
    [
        (date(2027, 1, 1), "holiday"),
        (date(2027, 1, 4), "workday"),
        (date(2027, 5, 2), "holiday"),
        (date(2027, 10, 3), "holiday"),
        (date(2027, 10, 9), "rest"),
        (date(2024, 5, 2), "workday"),
    ],
)
def test_a_year_without_a_table_is_unknown(day, kind):
    found = CALENDAR.kind(day)

    assert (found.kind, found.known) == (kind, False)


def test_a_township_hall_works_on_its_own_days():
    weekly = ("duty_only", "workday", "duty_only", "workday", "duty_only", "rest", "rest")
    calendar = Calendar(years=frozenset({2026}), weekly=weekly)

    assert [calendar.kind(date(2026, 11, 2 + i)).works for i in range(7)] == [
        False, True, False, True, False, False, False,
    ]  # fmt: skip


# -- timetables -------------------------------------------------------------------------------


def version(start, name, **given):
    return TimetableVersion(start, (SegmentRule(name, 510, 720),), **given)


def named(timetable, day, weekday=None):
    return [one.name for one in timetable.on(day, weekday)]


def test_the_newest_version_in_force_holds():
    table = Timetable("t", (version(date(2026, 6, 1), "new"), version(date(2026, 1, 1), "old")))

    assert named(table, date(2025, 12, 31)) == []
    assert named(table, date(2026, 5, 31)) == ["old"]
    assert named(table, date(2026, 6, 1)) == ["new"]


def test_a_season_may_wrap_the_years_end():
    start = date(2025, 1, 1)
    table = Timetable(
        "t",
        (
            version(start, "summer", season=((5, 1), (9, 30))),
            version(start, "winter", season=((10, 1), (4, 30))),
        ),
    )

    assert named(table, date(2026, 4, 30)) == ["winter"]
    assert named(table, date(2026, 5, 1)) == ["summer"]
    assert named(table, date(2026, 9, 30)) == ["summer"]
    assert named(table, date(2026, 12, 31)) == ["winter"]


def test_a_friday_version_beats_the_plain_one_of_the_same_date():
    start = date(2026, 1, 1)
    table = Timetable("t", (version(start, "friday", weekdays=(4,)), version(start, "plain")))

    assert named(table, date(2026, 11, 6)) == ["friday"]
    assert named(table, date(2026, 11, 5)) == ["plain"]
    assert named(table, date(2026, 11, 8), weekday=4) == ["friday"]


def test_a_makeup_sunday_follows_monday_unless_told_otherwise():
    start = date(2026, 1, 1)
    table = Timetable(
        "t",
        (
            version(start, "usual", weekdays=(0, 1, 2, 3)),
            version(start, "friday", weekdays=(4,)),
        ),
    )
    sunday = date(2026, 10, 11)

    assert named(table, sunday, CALENDAR.weekday(sunday)) == ["usual"]
    told = Calendar(as_weekday={sunday: 4})
    assert named(table, sunday, told.weekday(sunday)) == ["friday"]


# -- instants ---------------------------------------------------------------------------------


def test_midnight_is_local():
    assert local_midnight(date(2026, 11, 3), SHANGHAI) == milliseconds("2026-11-03T00:00+08:00")
    assert at_minute(date(2026, 11, 3), 1560, SHANGHAI) == milliseconds("2026-11-04T02:00+08:00")


@pytest.mark.parametrize(
    ("day", "minute", "instant"),
    [
        (date(2026, 3, 29), 60, "2026-03-29T01:00+01:00"),
        (date(2026, 3, 29), 510, "2026-03-29T08:30+02:00"),
        (date(2026, 3, 28), 1440 + 510, "2026-03-29T08:30+02:00"),
        (date(2026, 10, 25), 510, "2026-10-25T08:30+01:00"),
        (date(2026, 10, 25), 60, "2026-10-25T01:00+02:00"),
    ],
)
def test_the_clock_on_the_wall_counts_when_clocks_change(day, minute, instant):
    assert at_minute(day, minute, BERLIN) == milliseconds(instant)


def test_a_date_may_begin_at_one_in_the_morning():
    """Egypt moves its clocks at midnight."""
    day = date(2026, 4, 24)

    assert local_midnight(day, CAIRO) == milliseconds("2026-04-24T01:00+03:00")
    assert local_midnight(day + timedelta(days=1), CAIRO) - local_midnight(day, CAIRO) == 23 * HOUR
    assert local_date(local_midnight(day, CAIRO), CAIRO) == day


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25), date(2026, 11, 3)])
def test_a_day_of_changing_clocks_is_judged_by_the_wall(standard, day):
    def at(minute):
        return at_minute(day, minute, BERLIN)

    made = []
    for index, minute in enumerate((505, 721, 865, 1081)):
        made.append(standard.punch("08:00", event_at=at(minute), reading_id=bytes([index]) * 16))
    person_day = standard.day(
        made,
        work_date=day,
        segments=segments_of((MORNING, SegmentRule("pm", 870, 1080)), day, BERLIN),
        midnight=at(0),
        next_midnight=at(1440),
        as_of=at(0) + 2 * DAY,
        paths=(),
    )
    record = judge_attendance(person_day)

    assert [one.verdict for one in record.slots] == ["ok"] * 4
    assert [clock(person_day, one.event_time) for one in record.slots] == [
        "08:25",
        "12:01",
        "14:25",
        "18:01",
    ]


def test_times_beside_the_work_date_are_told_with_the_day(standard):
    day = standard.day("")

    assert clock(day, standard.at("26:05")) == "+1 02:05"
    assert clock(day, standard.midnight - 20 * MINUTE) == "-1 23:40"


@given(st.integers(1_600_000_000_000, 1_900_000_000_000), st.sampled_from([SHANGHAI, BERLIN]))
def test_the_local_date_of_an_instant(at, zone):
    assert local_date(at, zone) == datetime.fromtimestamp(at / 1000, zone).date()


def test_a_punch_may_belong_to_the_day_before_or_after():
    day = date(2026, 11, 3)
    before, after = day - timedelta(days=1), day + timedelta(days=1)

    def dates(text, **given):
        return work_dates(milliseconds(f"2026-11-03T{text}+08:00"), SHANGHAI, **given)

    assert dates("08:25") == (before, day)
    assert dates("15:00") == (day,)
    assert dates("23:30") == (day, after)
    assert dates("08:25", before=0, after=0) == (day,)
    assert dates("02:05", before=0, after=180) == (before, day)
    assert dates("03:01", before=0, after=180) == (day,)


def test_how_far_timetables_reach_past_midnight():
    night = SegmentRule("night", 1200, 1560)
    early = SegmentRule("early", 30, 300)

    assert reach((MORNING, LATER)) == (0, 0)
    assert reach((MORNING, night)) == (0, 180)
    assert reach((early, MORNING)) == (30, 0)


# -- segments ---------------------------------------------------------------------------------


def spans(*rules, single=False):
    day = date(2026, 11, 3)
    midnight = local_midnight(day, SHANGHAI)
    return [
        (one.rule.name, (one.starts - midnight) // MINUTE, (one.ends - midnight) // MINUTE)
        for one in segments_of(rules, day, SHANGHAI, single)
    ]


def test_segments_are_in_order_and_touching_ones_stay_apart():
    assert spans(SegmentRule("pm", 720, 1020), MORNING) == [("am", 510, 720), ("pm", 720, 1020)]


def test_a_duty_segment_merges_with_the_one_it_touches():
    duty = SegmentRule("duty", 720, 780)

    assert spans(LATER, duty, MORNING) == [("am+duty", 510, 780), ("pm", 900, 1110)]
    assert spans(SegmentRule("duty", 840, 900), LATER) == [("duty+pm", 840, 1110)]
    assert spans(MORNING, SegmentRule("duty", 730, 780)) == [("am", 510, 720), ("duty", 730, 780)]


def test_a_merged_segment_keeps_the_tolerances_of_the_ordinary_one():
    day = date(2026, 11, 3)
    duty = SegmentRule("duty", 450, 510, grace=3, weight=0.1)
    (merged,) = segments_of((duty, MORNING), day, SHANGHAI)

    assert (merged.rule.grace, merged.rule.weight, merged.rule.starts) == (0, 0.5, 450)


def test_a_short_lunch_gap_vanishes_where_one_punch_is_enough():
    short, long = SegmentRule("pm", 734, 1020), SegmentRule("pm", 735, 1020)

    assert spans(MORNING, short, single=True)[0] == ("am", 510, 734)
    assert spans(MORNING, long, single=True)[0] == ("am", 510, 720)
    assert spans(MORNING, short)[0] == ("am", 510, 720)


# -- deadlines --------------------------------------------------------------------------------


def test_workdays_are_counted_over_holidays_and_makeup_days():
    assert workdays_after(date(2026, 9, 30), 1, CALENDAR) == date(2026, 10, 8)
    assert workdays_after(date(2026, 10, 9), 1, CALENDAR) == date(2026, 10, 10)
    assert workdays_after(date(2026, 10, 9), 2, CALENDAR) == date(2026, 10, 12)
    assert workdays_after(date(2026, 10, 9), 0, CALENDAR) == date(2026, 10, 9)


def test_a_hall_that_never_works_has_deadlines_all_the_same():
    closed = Calendar(years=frozenset({2026}), weekly=("rest",) * 7)

    assert workdays_after(date(2026, 1, 1), 3, closed) == date(2026, 1, 1) + timedelta(days=63)


def test_appeals_end_with_the_last_workday():
    ends = appeal_ends(date(2026, 9, 29), 3, CALENDAR, SHANGHAI)

    assert ends == milliseconds("2026-10-10T00:00+08:00")


def test_a_month_is_closed_with_the_fifth_workday_of_the_next():
    november = milliseconds("2026-11-07T00:00+08:00")

    assert month_locks(date(2026, 10, 1), 5, CALENDAR, SHANGHAI) == november
    assert month_locks(date(2026, 10, 31), 5, CALENDAR, SHANGHAI) == november
    assert month_locks(date(2026, 9, 30), 5, CALENDAR, SHANGHAI) == milliseconds(
        "2026-10-14T00:00+08:00"
    )
