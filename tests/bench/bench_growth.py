"""What a punch costs in small and large halls, and in young and old databases."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median

from halls import PUNCH_MINUTES, StandingClock, code, make_hall, workdays, write_history
from rows import Row, at_most, seconds

from config.load import Hall
from daemon.pipeline import Pipeline
from rules.model import HOUR, MINUTE, Link, Punch, Reading
from rules.workdays import local_midnight

START = date(2025, 1, 2)
PEOPLE = 1_000
A_COMMIT = 20
"""Punches that come together: a busy minute of a large hall."""


def cpu_of_a_punch(hall: Hall, day: date, people: int, sample: int) -> float:
    """Seconds of CPU for one punch of a morning, journalled and judged, all terminals in contact;
    the median of its commits."""
    midnight = local_midnight(day, hall.zone)
    clock = StandingClock(midnight + 6 * HOUR)
    pipeline = Pipeline(hall.state_dir / "hallwatch.db", hall, clock, synchronous="normal")
    pipeline.start()
    links = [Reading(device.id, clock.now(), Link(True)) for device in hall.devices]
    pipeline.submit(links, lambda _: None)
    pipeline.settle().result()
    chance = random.Random(day.toordinal())
    told = [
        Reading(
            hall.devices[chance.randrange(len(hall.devices))].id,
            midnight + PUNCH_MINUTES[0] * MINUTE + number * 1000,
            Punch(code(number % people), 1, 0, True),
        )
        for number in range(sample)
    ]
    used = []
    for together in _batches(told, A_COMMIT):
        clock.at = together[-1].at + 1000
        pipeline.settle().result()
        begin = time.process_time()
        for reading in together:
            pipeline.submit((reading,), lambda _: None)
        pipeline.settle_now().result()
        used.append((time.process_time() - begin) / len(together))
    pipeline.stop()
    return median(used)


def _batches(readings: Sequence[Reading], size: int) -> Iterator[Sequence[Reading]]:
    for at in range(0, len(readings), size):
        yield readings[at : at + size]


def measure(folder: Path) -> Iterator[Row]:
    cost: dict[int, float] = {}
    for terminals in (10, 100, 1_000):
        hall = make_hall(folder / f"terminals{terminals}", PEOPLE, START, terminals)
        cost[terminals] = cpu_of_a_punch(hall, START, PEOPLE, PEOPLE)
    for terminals in (100, 1_000):
        yield at_most(
            1.5, f"CPU of a punch, {terminals:,} terminals against 10", seconds(cost[terminals]),
            seconds(cost[10]), cost[terminals] / cost[10],
        )  # fmt: skip
    halls = [make_hall(folder / name, 250, START) for name in ("young", "old")]
    dates = workdays(halls[0], START, 250)
    for hall, told in zip(halls, (dates[:1], dates[:-1]), strict=True):
        write_history(hall, told, 250)
    young = cpu_of_a_punch(halls[0], dates[1], 250, 1_000)
    old = cpu_of_a_punch(halls[1], dates[-1], 250, 1_000)
    yield at_most(
        1.5, "CPU of a punch, day 365 of a database against day 1", seconds(old), seconds(young),
        old / young,
    )  # fmt: skip
