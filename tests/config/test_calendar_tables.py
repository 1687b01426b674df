"""The State Council's days off and make-up workdays, 2024 to 2026 and beyond."""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from pathlib import Path

import chinese_calendar
import pytest

from config import calendar as calendar_module
from config.calendar import (
    YearTable,
    build_calendar,
    disagreements,
    package_tables,
    read_table,
    shipped_tables,
)
from rules.model import DayKind
from rules.workdays import Calendar

WEEK = ("workday",) * 5 + ("rest",) * 2
TABLES = Path(calendar_module.__file__).with_name("workdays")


@pytest.fixture(scope="module")
def calendar() -> Calendar:
    built, warnings = build_calendar(WEEK, {}, {})

    assert warnings == []
    return built


def days_of(year: int) -> list[date]:
    first = date(year, 1, 1)
    return [first + timedelta(n) for n in range((date(year + 1, 1, 1) - first).days)]


@pytest.mark.parametrize(("year", "workdays"), [(2024, 251), (2025, 248), (2026, 248)])
def test_the_year_has_as_many_workdays_as_the_notice_makes(
    calendar: Calendar, year: int, workdays: int
) -> None:
    assert sum(calendar.kind(day).works for day in days_of(year)) == workdays


@pytest.mark.parametrize("table", shipped_tables(), ids=lambda table: str(table.year))
def test_our_table_and_chinesecalendar_agree_on_every_day(
    calendar: Calendar, table: YearTable
) -> None:
    for day in days_of(table.year):
        assert calendar.kind(day).works == chinese_calendar.is_workday(day), day


def test_the_shipped_years_are_all_there_each_with_its_notice() -> None:
    assert [table.year for table in shipped_tables()] == [2024, 2025, 2026]
    for file in sorted(TABLES.glob("*.toml")):
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        assert file.stem == str(table["year"])
        assert table["notice"].startswith(f"国办发明电〔{table['year'] - 1}〕")
        assert table["issued"].year == table["year"] - 1
        assert table["days"] == sorted(table["days"], key=lambda row: row["date"])


@pytest.mark.parametrize(
    ("day", "kind", "name"),
    [
        # From the notices' own words.
        (date(2024, 2, 9), "workday", ""),
        (date(2024, 2, 10), "holiday", "春节"),
        (date(2024, 2, 18), "makeup_workday", "春节"),
        (date(2024, 6, 8), "rest", ""),
        (date(2024, 6, 10), "holiday", "端午节"),
        (date(2025, 1, 2), "workday", ""),
        (date(2025, 1, 26), "makeup_workday", "春节"),
        (date(2025, 10, 8), "holiday", "国庆节、中秋节"),
        (date(2026, 1, 4), "makeup_workday", "元旦"),
        (date(2026, 2, 23), "holiday", "春节"),
        (date(2026, 9, 20), "makeup_workday", "国庆节"),
        (date(2026, 9, 25), "holiday", "中秋节"),
    ],
)
def test_days_are_what_the_notices_say(calendar: Calendar, day: date, kind: str, name: str) -> None:
    found = calendar.kind(day)

    assert (found.kind, found.name, found.known) == (kind, name, True)


def test_an_official_day_says_which_notice_it_is_from(calendar: Calendar) -> None:
    assert calendar.kind(date(2026, 10, 1)).source == "国办发明电〔2025〕7号"
    assert calendar.kind(date(2023, 10, 1)).source == "chinesecalendar"
    assert calendar.kind(date(2023, 1, 22)).name == "春节"


def test_years_without_a_table_are_unknown_where_the_package_would_raise(
    calendar: Calendar,
) -> None:
    beyond = max(table.year for table in package_tables()) + 1
    day = date(beyond, 3, 15)
    with pytest.raises(NotImplementedError):
        chinese_calendar.is_workday(day)

    assert beyond not in calendar.years
    assert not calendar.kind(day).known
    assert not calendar.kind(date(2003, 3, 15)).known


def test_the_halls_exceptions_come_before_the_notice() -> None:
    closed = DayKind("closed", "hall", "搬迁")
    built, _ = build_calendar(WEEK, {date(2026, 10, 10): closed}, {})

    assert built.kind(date(2026, 10, 10)) == closed


def test_tables_are_compared_as_workdays_not_as_rows() -> None:
    """A weekend listed as a holiday by one and left out by the other is no disagreement."""
    holiday = DayKind("holiday", "n")
    ours = YearTable(2030, {date(2030, 5, 4): holiday, date(2030, 5, 1): holiday})
    theirs = YearTable(2030, {date(2030, 5, 2): holiday, date(2030, 5, 1): holiday})

    assert date(2030, 5, 4).weekday() == 5
    assert disagreements(ours, theirs) == [date(2030, 5, 2)]


def test_a_disagreement_is_a_warning_and_ours_holds() -> None:
    days = {**shipped_tables()[-1].days}
    del days[date(2026, 10, 10)]
    built, warnings = build_calendar(WEEK, {}, {}, [YearTable(2026, days)])

    assert len(warnings) == 1
    assert "2026-10-10" in warnings[0]
    assert built.kind(date(2026, 10, 10)).kind == "rest"


def test_a_table_with_a_date_twice_is_refused() -> None:
    row = '{ date = 2031-01-01, kind = "holiday", name = "x" }'
    text = f'year = 2031\nnotice = "n"\nissued = 2030-11-01\ndays = [{row}, {row}]'

    with pytest.raises(ValueError, match="2031-01-01 is given twice"):
        read_table(text.encode())
