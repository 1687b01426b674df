"""Judging a year of the journal again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

from halls import StandingClock, make_hall, workdays, write_history
from rows import Row, at_most, limit, seconds, timed

from daemon import replay
from daemon.database import FILE_NAME
from rules.model import DAY
from rules.workdays import local_midnight

PEOPLE = 250
YEAR = 250
"""Workdays."""
START = date(2025, 1, 2)


def silent(_done: int, _of: int) -> None:
    """No progress is shown."""


def measure(folder: Path) -> Iterator[Row]:
    took: dict[int, tuple[float, float, int]] = {}
    for number in (YEAR // 2, YEAR):
        hall = make_hall(folder / f"replay{number}", PEOPLE, START)
        dates = workdays(hall, START, number)
        punches = write_history(hall, dates, PEOPLE)
        path = hall.state_dir / FILE_NAME
        clock = StandingClock(local_midnight(dates[-1], hall.zone) + 2 * DAY)
        judging = timed(partial(replay.rejudge, path, hall, clock, None, None, silent))
        found: list[replay.Difference] = []
        verifying = timed(
            lambda: found.extend(replay.verify(path, hall, clock, None, None, silent))  # noqa: B023
        )
        if found:
            raise AssertionError(f"{len(found)} differences, the first: {found[0]}")
        took[number] = (judging, verifying, punches)
    half, year = took[YEAR // 2], took[YEAR]
    note = f"{year[2]:,} punches of {PEOPLE} people"
    yield limit("replay --verify, a year", year[1], 15, "s", note)
    yield limit("replay and store, a year", year[0], 15, "s", note)
    for name, place in (("--verify", 1), ("and store", 0)):
        share = year[place] / year[2] / (half[place] / half[2])
        yield at_most(
            1.25, f"replay {name}: cost of a punch, year against half",
            f"{seconds(year[place] / year[2])}", f"{seconds(half[place] / half[2])}", share,
        )  # fmt: skip
