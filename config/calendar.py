"""The calendar: the State Council's days off and make-up workdays, from two sources.

Our own tables, ``config/workdays/*.toml`` and those an operator adds, are in force; where they
have nothing for a year the package ``chinesecalendar`` answers.  Where both know a year they are
compared and every date on which they disagree is a warning.  A year that neither knows stays
unknown: its weekends and fixed holidays are a guess, and nothing judged by a guess becomes final.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Literal

import msgspec
from chinese_calendar.constants import Holiday, holidays, workdays
from msgspec import Struct

from rules.model import DayKind
from rules.workdays import Calendar


class _Row(Struct, forbid_unknown_fields=True):
    date: date
    kind: Literal["holiday", "makeup_workday"]
    name: str


class _TableFile(Struct, forbid_unknown_fields=True):
    year: int
    notice: str
    issued: date
    days: list[_Row]


class YearTable(Struct, frozen=True):
    """One year's table: only the dates on which the notice departs from the week's pattern."""

    year: int
    days: dict[date, DayKind]


def read_table(data: bytes) -> YearTable:
    """A table as TOML: ``year``, ``notice`` (its number), ``issued`` and ``days``, each with
    ``date``, ``kind`` (``holiday`` or ``makeup_workday``) and ``name``.

    Raises ``ValueError`` with a sentence for everything else, such as a date of another year.
    """
    file = msgspec.convert(tomllib.loads(data.decode("utf-8-sig")), _TableFile)
    days: dict[date, DayKind] = {}
    for row in file.days:
        if row.date.year != file.year:
            raise ValueError(f"{row.date} is not in the year {file.year}")
        if row.date in days:
            raise ValueError(f"{row.date} is given twice")
        days[row.date] = DayKind(row.kind, file.notice, row.name)
    return YearTable(file.year, days)


def shipped_tables() -> list[YearTable]:
    """The tables that come with hallwatch."""
    folder = Path(__file__).with_name("workdays")
    return [read_table(file.read_bytes()) for file in sorted(folder.glob("*.toml"))]


def package_tables() -> list[YearTable]:
    """The tables of ``chinesecalendar``."""
    names = {holiday.value: holiday.chinese for holiday in Holiday}
    tables: dict[int, dict[date, DayKind]] = {}
    for kind, days in (("holiday", holidays), ("makeup_workday", workdays)):
        for day, name in days.items():
            found = DayKind(kind, "chinesecalendar", names.get(name, name))
            tables.setdefault(day.year, {})[day] = found
    return [YearTable(year, days) for year, days in sorted(tables.items())]


def disagreements(ours: YearTable, theirs: YearTable) -> list[date]:
    """Dates that are a workday for one table and not for the other, in a Monday-to-Friday week."""

    def works(table: YearTable, day: date) -> bool:
        kind = table.days.get(day)
        return day.weekday() < 5 if kind is None else kind.works

    both = ours.days.keys() | theirs.days.keys()
    return sorted(day for day in both if works(ours, day) != works(theirs, day))


def build_calendar(
    weekly: tuple[str, ...],
    exceptions: Mapping[date, DayKind],
    as_weekday: Mapping[date, int],
    added: Iterable[YearTable] = (),
) -> tuple[Calendar, list[str]]:
    """The hall's calendar, and warnings where the sources disagree.

    ``added`` are the operator's tables; one for a year that is shipped replaces it.
    """
    ours = {table.year: table for table in [*shipped_tables(), *added]}
    theirs = {table.year: table for table in package_tables()}
    warnings = []
    for year in sorted(ours.keys() & theirs.keys()):
        if days := disagreements(ours[year], theirs[year]):
            listed = ", ".join(day.isoformat() for day in days[:10])
            more = " ..." if len(days) > 10 else ""
            warnings.append(
                f"{year} 年节假日表与 chinesecalendar 不一致，以本系统的表为准：{listed}{more} / "
                f"the table of {year} and chinesecalendar disagree, the table holds: {listed}{more}"
            )
    official: dict[date, DayKind] = {}
    for table in {**theirs, **ours}.values():
        official.update(table.days)
    calendar = Calendar(
        exceptions=dict(exceptions),
        official=official,
        years=frozenset(ours.keys() | theirs.keys()),
        weekly=weekly,
        as_weekday=dict(as_weekday),
    )
    return calendar, warnings
