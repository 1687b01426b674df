"""A burst of the counter: what 200 windows tell in a rush, or after a week without a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from bench_journal import one_row_commits
from halls import ZONE, StandingClock, write_settings
from rows import Row, per_second, timed

from config.load import load
from daemon.database import FILE_NAME, open_reader
from daemon.pipeline import Pipeline
from rules.model import HOUR, QueueEvent, Rating, RatingPrompt, Reading
from rules.workdays import local_midnight

WINDOWS = 200
VISITS = 5_000
"""Each of five readings: taken, called, finished, invited, rated."""
WORK_DATE = date(2026, 3, 3)
MORNING = local_midnight(WORK_DATE, ZONE) + 9 * HOUR


def window_tables() -> str:
    return "".join(
        f'[[windows]]\nid = "w{n:03}"\nname = "{n}号窗口"\narea = "区{n % 8}"\n'
        for n in range(WINDOWS)
    )


def visits(number: int) -> list[Reading]:
    """Everything of so many visits, in order of time."""
    told: list[Reading] = []
    for n in range(number):
        window, ticket = f"w{n % WINDOWS:03}", f"A{n:05}"
        at = MORNING + n // WINDOWS * 300_000 + n % WINDOWS * 100
        for name, place, later in (
            ("ticket_taken", "", -600_000),
            ("called", window, 0),
            ("finished", window, 200_000),
        ):
            body = QueueEvent(f"{n}-{name}", name, place, ticket, queue=f"q{n % 8}")
            told.append(Reading("api", at + later, body))
        session = f"s{n}"
        told.append(Reading("api", at + 200_500, RatingPrompt(session, window, ticket)))
        rating = Rating(f"pad:{window}:{n}", window, 5 - n % 4, "five", session=session)
        told.append(Reading("api", at + 207_000, rating))
    return sorted(told, key=lambda one: one.at)


def measure(folder: Path) -> Iterator[Row]:
    yardstick = one_row_commits(folder)
    path = write_settings(folder / "hall", 10, WORK_DATE, devices=[window_tables()])
    hall = load(path)
    told = visits(VISITS)
    pipeline = Pipeline(hall.state_dir / FILE_NAME, hall, StandingClock(told[-1].at + 1_000))
    pipeline.start()
    pipeline.settle().result()
    places = threading.Semaphore(2_000)

    def feed() -> None:
        for reading in told:
            places.acquire()
            pipeline.submit((reading,), lambda _: places.release())
        pipeline.settle().result()

    took = timed(feed)
    pipeline.stop()
    reader = open_reader(hall.state_dir / FILE_NAME)
    stored, ratings, finished = reader.execute(
        "SELECT (SELECT count(*) FROM reading WHERE device = 'api'), (SELECT count(*) FROM rating),"
        " (SELECT sum(json_extract(body, '$.figures.finished')) FROM window_day)"
    ).fetchone()
    reader.close()
    if (stored, ratings, finished) != (len(told), VISITS, VISITS):
        raise AssertionError(f"{stored} of {len(told)} readings, {ratings}, {finished}")
    rate = len(told) / took
    yield Row(
        f"{len(told):,} queue events and ratings of {WINDOWS} windows at once, judged, none lost",
        per_second(rate), f"SQLite FULL {per_second(yardstick)}", rate / yardstick,
    )  # fmt: skip
