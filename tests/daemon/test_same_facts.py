"""The same facts give the same verdicts, however late, often and in whatever order they come.

A day's punches are told to the real pipeline twice: once each as it happens, once shuffled,
doubled, delayed by up to two days, live or from a log, with the daemon restarted in between.  What
is derived must be the same in the end, and judging the journal again must find nothing else.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import groupby
from pathlib import Path
from zoneinfo import ZoneInfo

from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.load import Hall, load
from daemon.database import FILE_NAME, open_reader
from daemon.pipeline import Pipeline
from daemon.replay import verify
from daemon.simulation import SimulatedClock
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    Absence,
    Body,
    ClockCheck,
    DaemonAlive,
    Instant,
    Link,
    LogComplete,
    Punch,
    Reading,
)
from rules.workdays import at_minute

ZONE = ZoneInfo("Asia/Shanghai")
MONDAY = date(2026, 3, 2)
MIDNIGHT = at_minute(MONDAY, 0, ZONE)
PEOPLE = ("1001", "1002", "1003")
DEVICES = ("east", "west", "north")
COMPLETE = MIDNIGHT + 3 * DAY + 20 * HOUR
"""When every terminal's log has been read to its end."""
END = MIDNIGHT + 5 * DAY
SECOND = 1_000


@dataclass(frozen=True)
class Told:
    """A reading and when it is received."""

    at: Instant
    reading: Reading


@dataclass(frozen=True)
class Tellings:
    """A punch and the delays, in ms, with which it is told: as it happened, and from the log."""

    person: str
    device: str
    at: Instant
    live: tuple[int, ...]
    log: tuple[int, ...]

    def readings(self) -> Iterator[Told]:
        for live, delays in ((True, self.live), (False, self.log)):
            for delay in delays:
                punch = Punch(self.person, verify=1, live=live)
                yield Told(
                    self.at + delay, Reading(self.device, self.at, punch, serial=self.device)
                )

    def as_it_happened(self) -> Told:
        punch = Punch(self.person, verify=1, live=True)
        return Told(self.at, Reading(self.device, self.at, punch, serial=self.device))


def about(minute: int) -> st.SearchStrategy[int]:
    return st.integers(minute * 60 - 40 * 60, minute * 60 + 45 * 60)


TIMES = st.one_of(
    about(510), about(720), about(870), about(1080), st.integers(7 * 3600, 19 * 3600)
).map(lambda second: MIDNIGHT + second * SECOND)
# A live report that was minutes under way is dated by the moment it came: then it is another fact.
LIVE = st.lists(st.integers(0, 30 * SECOND), max_size=2).map(tuple)
LATER = st.one_of(st.integers(0, 10 * MINUTE), st.integers(0, 2 * DAY))
LOG = st.lists(LATER, min_size=1, max_size=2).map(tuple)
PUNCHES = st.lists(
    st.builds(Tellings, st.sampled_from(PEOPLE), st.sampled_from(DEVICES), TIMES, LIVE, LOG),
    max_size=16,
    unique_by=lambda one: (one.person, one.device, one.at),
)
SPANS = st.sampled_from(((510, 720), (510, 600), (990, 1080), (870, 1080)))
LEAVES = st.lists(st.tuples(st.sampled_from(PEOPLE), SPANS, LATER), max_size=1)
RESTARTS = st.lists(
    # Not while an arrival is awaited (from 10:00 or 16:00 on by those with leave): whom nobody
    # watched is not reported as not arrived.
    st.one_of(st.integers(10 * 60 + 1, 13 * 60), st.integers(15 * 60, 3 * 1440)).filter(
        lambda minute: minute % 1440 > 890 or 601 <= minute % 1440 < 800
    ),
    max_size=2,
).map(lambda minutes: sorted(MIDNIGHT + minute * MINUTE for minute in minutes))


@cache
def the_hall() -> Hall:
    lines = [f'[hall]\nid = "same"\nname = "同一大厅"\nstart_date = {MONDAY}\n']
    for code in PEOPLE:
        lines.append(
            f'[[people]]\ncode = "{code}"\nname = "员工{code}"\nemployed_from = {MONDAY}\n'
            f"employed_until = {MONDAY}\n"
        )
    for number, device in enumerate(DEVICES):
        lines.append(
            f'[[devices]]\nid = "{device}"\ndriver = "zkteco"\nhost = "127.0.0.1"\n'
            f"port = {4370 + number}\n"
        )
    with fast_folder() as folder:
        path = folder / "same.toml"
        path.write_text("\n".join(lines), "utf-8")
        return load(path)


class Run:
    """A pipeline on a clock that stands still; every reading comes at its time."""

    def __init__(self, path: Path, hall: Hall) -> None:
        self._path = path
        self._hall = hall
        self.clock = SimulatedClock(MIDNIGHT + 6 * HOUR)
        self._start()

    def _start(self) -> None:
        self.pipeline = Pipeline(self._path, self._hall, self.clock, synchronous="normal")
        self.pipeline.start()
        self.tell([self._now(device, Link(True)) for device in DEVICES])

    def _now(self, device: str, body: Body) -> Reading:
        return Reading(device, self.clock.now(), body, serial=device)

    def tell(self, readings: Sequence[Reading]) -> None:
        self.pipeline.submit(readings, lambda _: None)
        self.pipeline.settle().result()

    def until(self, at: Instant) -> None:
        """Let the time pass, stopping wherever a day is due."""
        while (wake := self.pipeline.next_wake) is not None and wake < at:
            self.clock.jump(wake)
            self.pipeline.settle().result()
        self.clock.jump(at)
        self.pipeline.settle().result()

    def restart(self) -> None:
        self.tell([self._now("hallwatch", DaemonAlive())])
        self.pipeline.stop()
        self._start()

    def play(self, told: Sequence[Told], restarts: Sequence[Instant]) -> None:
        clocks = [
            Reading(device, self.clock.now(), ClockCheck(), serial=device) for device in DEVICES
        ]
        self.tell(clocks)
        left = list(restarts)
        for at, together in groupby(sorted(told, key=lambda one: one.at), key=lambda one: one.at):
            while left and left[0] <= at:
                self.until(left.pop(0))
                self.restart()
            self.until(at)
            self.tell([one.reading for one in together])
        self.until(COMPLETE)
        self.tell([self._now(device, LogComplete()) for device in DEVICES])
        self.until(END)


def derived(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """What was concluded about people."""
    with closing(open_reader(path)) as connection:
        return {
            what: connection.execute(query).fetchall()
            for what, query in {
                "days": "SELECT work_date, person, verdict, finality, points, body, slots"
                " FROM attendance_day ORDER BY 1, 2",
                "violations": "SELECT id, body FROM violation WHERE state = 'active' ORDER BY 1",
                "alerts": "SELECT id, state, body FROM alert WHERE subject_kind = 'person'"
                " AND state <> 'withdrawn' ORDER BY 1",
            }.items()
        }


@contextmanager
def fast_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hallwatch-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def judged(
    told: Sequence[Told], restarts: Sequence[Instant] = ()
) -> dict[str, list[tuple[object, ...]]]:
    hall = the_hall()
    with fast_folder() as folder:
        path = folder / FILE_NAME
        run = Run(path, hall)
        run.play(told, restarts)
        run.pipeline.stop()
        differences = list(verify(path, hall, run.clock, None, None, lambda _done, _of: None))
        assert differences == []
        assert run.pipeline.failures == 0
        return derived(path)


def leave(person: str, span: tuple[int, int], received_at: Instant) -> Told:
    starts, ends = (at_minute(MONDAY, minute, ZONE) for minute in span)
    absence = Absence(f"leave-{person}", (person,), "personal", starts, ends)
    return Told(received_at, Reading("api", starts, absence))


@settings(max_examples=25, deadline=None)
@given(punches=PUNCHES, leaves=LEAVES, restarts=RESTARTS, order=st.integers(0, 1 << 32))
@example(
    punches=[
        Tellings("1001", "east", MIDNIGHT + 500 * MINUTE, (), (2 * HOUR,)),
        Tellings("1002", "east", MIDNIGHT + 520 * MINUTE, (0,), (HOUR, DAY)),
        Tellings("1002", "west", MIDNIGHT + 520 * MINUTE + 20 * SECOND, (), (40 * HOUR,)),
    ],
    leaves=[("1003", (510, 720), DAY)],
    restarts=[MIDNIGHT + 600 * MINUTE],
    order=0,
)
def test_the_same_facts_in_any_order_give_the_same_verdicts(
    punches: list[Tellings],
    leaves: list[tuple[str, tuple[int, int], int]],
    restarts: list[Instant],
    order: int,
) -> None:
    plain = [one.as_it_happened() for one in punches]
    shuffled = [told for one in punches for told in one.readings()]
    for person, span, delay in leaves:
        plain.append(leave(person, span, MIDNIGHT + 7 * HOUR))
        shuffled.append(leave(person, span, MIDNIGHT + 7 * HOUR + delay))
    random.Random(order).shuffle(shuffled)

    expected = judged(plain)

    assert len(expected["days"]) == len(PEOPLE)
    assert all(row[3] == "final" for row in expected["days"])
    assert judged(shuffled, restarts) == expected


def test_a_restart_while_days_are_due_changes_nothing() -> None:
    punches = [
        Tellings(person, "west", MIDNIGHT + minute * MINUTE, (0,), ())
        for person, minutes in (("1001", (505, 722, 868, 1081)), ("1002", (533, 721, 1070)))
        for minute in minutes
    ]
    told = [one.as_it_happened() for one in punches]
    restarts = [MIDNIGHT + minute * MINUTE for minute in (541, 730, 790, 1150, 1440, 3000)]

    expected = judged(told)

    assert [row[1] for row in expected["violations"]] != []
    assert judged(told, restarts) == expected
