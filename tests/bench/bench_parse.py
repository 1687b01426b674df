"""A terminal's log, from bytes to readings and on to judged days, against pyzk's parsing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from struct import pack
from threading import Event
from typing import Any

from halls import PUNCH_MINUTES, StandingClock, code, make_hall, workdays
from rows import Row, at_least, at_most, seconds, timed
from zk import ZK

from config.load import Hall
from daemon.pipeline import Pipeline
from drivers.zkteco import LAYOUTS, read_log, time_value
from rules.model import DAY, ClockCheck, Link, LogComplete, Reading
from rules.workdays import local_midnight

START = date(2025, 3, 3)
PEOPLE = 250
BATCH = 2_000


def log_bytes(number: int, dates: list[date]) -> bytes:
    """Records of 40 bytes as a terminal keeps them: date by date, in order of time."""
    chance = random.Random(40)
    told: list[bytes] = []
    for work_date in dates:
        times = []
        for person in range(PEOPLE):
            for minute in PUNCH_MINUTES:
                wall = datetime.combine(work_date, datetime.min.time())
                wall += timedelta(minutes=minute, seconds=chance.randrange(540))
                times.append((time_value(wall), person))
        for value, person in sorted(times):
            told.append(pack("<H24sBIB8x", person + 1, code(person).encode(), 1, value, 0))
    return b"".join(told[:number])


def pyzk_parse(body: bytes) -> int:
    """pyzk's own ``get_attendance`` with the transport taken out: the users and the log are handed
    to it as if they had just come."""
    terminal: Any = ZK("127.0.0.1")
    terminal.read_sizes = lambda: None
    terminal.get_users = list
    terminal.records = len(body) // 40
    told = len(body).to_bytes(4, "little") + body
    terminal.read_with_buffer = lambda *_: (told, len(told))
    return len(terminal.get_attendance())


def our_parse(body: bytes, hall: Hall) -> int:
    return sum(1 for _ in read_log(body, LAYOUTS["40"], hall.zone, device="t0", serial="S"))


def import_all(body: bytes, hall: Hall, clock: StandingClock, took: list[float]) -> None:
    """As the driver does it: parse, emit in batches, each acknowledged, then wait for judgement.
    Appends the seconds until everything was journalled, and until everything was judged."""
    pipeline = Pipeline(hall.state_dir / "hallwatch.db", hall, clock)
    pipeline.start()
    hello = [Reading("t0", clock.now(), body) for body in (Link(True), ClockCheck())]
    pipeline.submit(hello, lambda _: None)
    pipeline.settle().result()

    def work() -> None:
        batch: list[Reading] = []
        answers: list[int] = []

        def emit() -> None:
            done = Event()

            def answer(new: int | BaseException) -> None:
                assert isinstance(new, int)
                answers.append(new)
                done.set()

            pipeline.submit(batch, answer)
            done.wait()

        for reading in read_log(body, LAYOUTS["40"], hall.zone, device="t0", serial="S"):
            batch.append(reading)
            if len(batch) == BATCH:
                emit()
                batch = []
        batch.append(Reading("t0", clock.now(), LogComplete()))
        emit()
        assert sum(answers) == len(body) // 40 + 1

    took.append(timed(work))
    took.append(took[-1] + timed(lambda: pipeline.settle().result()))
    pipeline.stop()


def measure(folder: Path) -> Iterator[Row]:
    hall = make_hall(folder / "parse", PEOPLE, START)
    dates = workdays(hall, START, 100)
    body = log_bytes(100_000, dates)
    goals = {10_000: 10, 100_000: 50}
    theirs = 0.0
    for number, goal in goals.items():
        part = body[: number * 40]
        assert our_parse(part, hall) == number
        ours = median(timed(partial(our_parse, part, hall)) for _ in range(5))
        found: list[int] = []
        theirs = timed(lambda: found.append(pyzk_parse(part)))  # noqa: B023
        assert found == [number]
        yield at_least(
            goal, f"{number:,} records of 40 bytes to readings, pyzk's time over ours",
            seconds(ours), seconds(theirs), theirs / ours,
        )  # fmt: skip
    took: list[float] = []
    import_all(body, hall, StandingClock(local_midnight(dates[-1], hall.zone) + 2 * DAY), took)
    told = seconds(theirs)
    yield Row("import of 100,000 until durable", seconds(took[0]), told, took[0] / theirs)
    yield at_most(
        0.25, "import of 100,000: parse, de-duplicate, commit, judge", seconds(took[1]), told,
        took[1] / theirs,
    )  # fmt: skip
