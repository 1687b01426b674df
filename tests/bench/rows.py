"""One line of the benchmark's table, and how lines are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from msgspec import Struct


class Row(Struct, frozen=True):
    """``ratio`` is ``measured / reference`` (or the other way round where the row says so); ``met``
    is none where there is no goal: such a row is told for the sake of those beside it."""

    what: str
    measured: str
    reference: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def at_least(goal: float, what: str, measured: str, reference: str, ratio: float) -> Row:
    return Row(what, measured, reference, ratio, f"≥ {goal:g}", ratio >= goal)


def at_most(goal: float, what: str, measured: str, reference: str, ratio: float) -> Row:
    return Row(what, measured, reference, ratio, f"≤ {goal:g}", ratio <= goal)


def limit(what: str, value: float, most: float, unit: str, note: str = "") -> Row:
    """A goal that is a figure and no ratio."""
    return Row(what, f"{value:,.3g} {unit}", note, None, f"≤ {most:g} {unit}", value <= most)


def per_second(number: float) -> str:
    return f"{number:,.0f}/s"


def seconds(number: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 1e6:.3g} µs"


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(rounds: int, *work: Callable[[], object]) -> list[float]:
    """The median seconds of each, taken in turn so that a slow moment of the machine hits all."""
    took: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        for times, one in zip(took, work, strict=True):
            times.append(timed(one))
    return [median(times) for times in took]


def percentile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def cpu_seconds(used: list[float]) -> Iterator[None]:
    """Appends what this process used meanwhile, all threads together."""
    begin = time.process_time()
    yield
    used.append(time.process_time() - begin)
