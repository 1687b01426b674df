"""Weeks of a hall whose true movements are known, played through the real path.

Emulated terminals that speak their real wire formats, the real drivers, the pipeline and its
database; only the time is simulated.  People come and go, are late, forget to punch, punch twice,
press the wrong key, take leave (some of it entered afterwards).  Networks and power fail, clocks
drift, jump and are set, logs come twice, the daemon dies and starts again.  Then time passes until
every verdict is final or held back, and each final violation is compared with what really happened.
A final violation whose claim is untrue is a false accusation; there must be none.

Run it by ``make truth``, or ``tests/truth/generator.py --seed N --weeks N --people N``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import structlog

from config.load import Hall, load
from daemon.database import FILE_NAME, open_reader
from daemon.facts import Gatherer
from daemon.pipeline import Pipeline
from daemon.replay import verify
from daemon.simulation import SimulatedClock, Simulation, simulate
from daemon.store import stored_record
from daemon.supervisor import Supervisor
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from rules.engine import explain
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    Absence,
    DaemonAlive,
    DayRecord,
    GapExplained,
    HalfDay,
    Instant,
    Reading,
    Slot,
    Violation,
)
from rules.workdays import at_minute

ZONE = ZoneInfo("Asia/Shanghai")
FIRST_DAY = date(2026, 3, 2)
"""A Monday; no holidays until Qingming on 4 April, and those the calendar knows."""
SECOND: Instant = 1_000
SEGMENTS = (("am", 510, 720), ("pm", 870, 1080))
"""Name, start and end in minutes: 08:30 to 12:00, 14:30 to 18:00."""
CLASSES = (1, 15, 30)
"""Minutes from which on somebody is late, seriously late, absent for the half-day."""
CLEAR = 40 * SECOND
"""A terminal up to 30 s off is taken as right, drift is told in steps of 5 s, and terminals show
whole seconds: nobody here acts so near to the edge of a class that this could decide."""
DARK_AT_LEAST = 25 * MINUTE
"""A power cut while hallwatch has no contact shows only by what the late log does not contain.  A
record proves 10 minutes around itself, so a shorter cut can hide between two records."""
PROOF = 10 * MINUTE
CUT_AT_LEAST = 5 * MINUTE
"""A terminal that pushes is missed after three polls; shorter power cuts are never seen."""
DAY_STEP, NIGHT_STEP = 90 * SECOND, 180 * SECOND
"""Between two things that happen the time passes in steps, so that sleepers are a little late: as
long as nobody takes that for a loss."""
MORNING, EVENING = 420, 1150
"""Minutes between which the time passes in short steps; 07:00 and 19:10."""
ALIVE_EVERY = 300


# --------------------------------------------------------------------------------------------
# What really happens
# --------------------------------------------------------------------------------------------


@dataclass
class TrueSlot:
    """Coming or going as it really was.  ``at`` is when the person stood at the terminals."""

    segment: str
    kind: str
    target: Instant
    at: Instant
    forgot: bool = False
    made_at: Instant | None = None
    """When a terminal took the punch."""

    @property
    def made(self) -> bool:
        return self.made_at is not None

    @property
    def minutes(self) -> int:
        """Whole minutes late or early."""
        off = self.at - self.target if self.kind == "on" else self.target - self.at
        if self.kind == "on" and off >= MINUTE and self.made_at is not None:
            # Who comes late and then finds no power is late until the punch: an outage counts only
            # in the time in which a good punch could have been made.
            off = self.made_at - self.target
        return max(0, off) // MINUTE


@dataclass
class TrueHalf:
    segment: str
    state: str
    """``works``, ``absent`` or ``leave``."""
    on: TrueSlot | None = None
    off: TrueSlot | None = None

    @property
    def slots(self) -> Iterator[TrueSlot]:
        for slot in (self.on, self.off):
            if slot is not None:
                yield slot

    def breach(self) -> str:
        """What the half-day really deserves, or nothing."""
        if self.state == "leave":
            return ""
        if self.state == "absent":
            return "absent"
        worst = max(slot.minutes for slot in self.slots)
        if worst >= CLASSES[2]:
            return "absent"
        if worst >= CLASSES[0]:
            return "late or early"
        return "forgot" if any(slot.forgot for slot in self.slots) else ""


@dataclass
class TrueDay:
    person: str
    day: date
    halves: list[TrueHalf] = field(default_factory=list)

    def half(self, segment: str) -> TrueHalf:
        return next(half for half in self.halves if half.segment == segment)

    def story(self) -> str:
        told = []
        for half in self.halves:
            if half.state != "works":
                told.append(f"{half.segment} {half.state}")
                continue
            for slot in half.slots:
                how = "forgot" if slot.forgot else "made" if slot.made else "could not punch"
                told.append(f"{half.segment} {slot.kind} {clock(slot.at)} {how}")
        return ", ".join(told)


def undeserved(truth: TrueDay, violation: Violation) -> str:
    """Why a violation says something untrue; empty if it does not."""
    if violation.segment:
        return _undeserved(truth.half(violation.segment), violation)
    working = [half for half in truth.halves if half.state != "leave"]
    if not working:
        return "on leave all day"
    reasons = [_undeserved(half, violation) for half in working]
    return "; ".join(reason for reason in reasons if reason)


def _undeserved(half: TrueHalf, violation: Violation) -> str:
    if half.state == "leave":
        return "on leave"
    if half.state == "absent":
        return ""
    assert half.on is not None
    assert half.off is not None
    if violation.rule == "absence":
        if max(half.on.minutes, half.off.minutes) >= CLASSES[2]:
            return ""
        return "" if half.on.forgot and half.off.forgot else "was there"
    if violation.rule == "missing_punch":
        slot = half.on if violation.since < half.on.target else half.off
        if slot.forgot or slot.minutes:
            return ""
        return "punched" if slot.made else "could not punch"
    slot = half.on if violation.rule == "late_arrival" else half.off
    least = CLASSES[violation.code in ("ATT-02", "ATT-04")]
    return "" if slot.minutes >= least else f"was off by {slot.minutes} minutes"


# --------------------------------------------------------------------------------------------
# The plan of a week: what everybody does, and what fails
# --------------------------------------------------------------------------------------------

Action = Callable[[], object]


@dataclass(frozen=True)
class Span:
    """A time in which a terminal (all of them for none) has no network, or no power."""

    starts: Instant
    ends: Instant
    devices: tuple[str, ...]
    kind: str

    def meets(self, other: Span, margin: int = 15 * MINUTE) -> bool:
        """Whether they overlap or nearly do: what a late log proves reaches beyond it."""
        return (
            self.starts < other.ends + margin
            and other.starts < self.ends + margin
            and bool(set(self.devices) & set(other.devices))
        )


RUSH = ((465, 525), (710, 735), (840, 885), (1070, 1100))
"""Minutes at which most people punch: what fails then matters."""


class Planner:
    """Draws days from a seed."""

    def __init__(self, rng: random.Random, devices: Sequence[str]) -> None:
        self._rng = rng
        self._devices = tuple(devices)
        self.blind: list[Span] = []
        """When hallwatch has no contact: no network, or no daemon."""
        self.dark: list[Span] = []

    # -- people

    def person_day(self, person: str, day: date) -> TrueDay:
        rng = self._rng
        truth = TrueDay(person, day)
        fate = rng.random()
        for name, starts, ends in SEGMENTS:
            if fate < 0.03 or rng.random() < 0.02:
                truth.halves.append(TrueHalf(name, "absent"))
            elif fate < 0.06:
                truth.halves.append(TrueHalf(name, "leave"))
            else:
                on, off = at_minute(day, starts, ZONE), at_minute(day, ends, ZONE)
                truth.halves.append(self._works(name, on, off))
        return truth

    def _works(self, name: str, on: Instant, off: Instant) -> TrueHalf:
        rng = self._rng
        return TrueHalf(
            name,
            "works",
            TrueSlot(name, "on", on, self._time(on, 1), rng.random() < 0.03),
            TrueSlot(name, "off", off, self._time(off, -1), rng.random() < 0.03),
        )

    def _time(self, target: Instant, sign: int) -> Instant:
        """When somebody comes (``sign`` 1) or goes (-1)."""
        rng = self._rng
        fate = rng.random()
        if fate < 0.07:  # near the edge of a class, on either side of it
            edge = rng.choice(CLASSES) * MINUTE
            off = edge + rng.choice((-1, 1)) * rng.randint(CLEAR, 90 * SECOND)
        elif fate < 0.13:
            off = rng.randint(MINUTE, 14 * MINUTE)
        elif fate < 0.15:
            off = rng.randint(15 * MINUTE, 29 * MINUTE)
        elif fate < 0.165:
            off = rng.randint(30 * MINUTE, 80 * MINUTE)
        elif fate < 0.5:
            off = -rng.randint(5 * SECOND, 5 * MINUTE)
        else:
            off = -rng.randint(5 * MINUTE, 25 * MINUTE)
        for minutes in CLASSES:
            edge = minutes * MINUTE
            if edge - CLEAR < off < edge + CLEAR:
                off = edge + CLEAR if off >= edge else edge - CLEAR
        return target + sign * off

    def leave(self, truth: TrueDay) -> tuple[list[tuple[Instant, Instant]], bool]:
        """Spans of leave of a day that may get some, and whether it is told only afterwards; the
        truth is changed to fit."""
        rng = self._rng
        spans = [
            (at_minute(truth.day, starts, ZONE), at_minute(truth.day, ends, ZONE))
            for name, starts, ends in SEGMENTS
            if truth.half(name).state == "leave"
        ]
        fate = rng.random()
        late = rng.random() < 0.4
        if fate < 0.03:  # a half-day more
            half = rng.choice(truth.halves)
            if half.state == "works" and not (late and rng.random() < 0.5):
                half.on = half.off = None
            if half.state != "leave":
                # Who has leave but came all the same is on leave.
                half.state = "leave"
                _, starts, ends = next(one for one in SEGMENTS if one[0] == half.segment)
                spans.append((at_minute(truth.day, starts, ZONE), at_minute(truth.day, ends, ZONE)))
        elif fate < 0.06:  # some hours at the beginning or the end
            half = rng.choice(truth.halves)
            slot = rng.choice((half.on, half.off))
            if half.state == "works" and slot is not None:
                hours = rng.choice((30, 60, 90)) * MINUTE
                sign = 1 if slot.kind == "on" else -1
                before, slot.target = slot.target, slot.target + sign * hours
                slot.at = self._time(slot.target, sign)
                spans.append((min(before, slot.target), max(before, slot.target)))
        return spans, late

    # -- what fails

    def faults(self, day: date) -> list[Span]:
        """Losses of network and power, and of the daemon (kind ``crash`` or ``restart``)."""
        rng = self._rng
        found: list[Span] = []

        def at(rush: bool) -> Instant:
            first, last = rng.choice(RUSH) if rush else (440, 1080)
            return at_minute(day, first, ZONE) + rng.randint(0, (last - first) * MINUTE)

        def add(kind: str, devices: Sequence[str], starts: Instant, length: Instant) -> None:
            span = Span(starts, starts + length, tuple(devices), kind)
            blind = kind in ("network", "crash", "restart")
            if kind == "power":
                if not _fair(span) or any(span.meets(other) for other in (*self.blind, *self.dark)):
                    return
            elif any(span.meets(other) for other in (self.dark if blind else self.blind)):
                return
            if kind in ("crash", "restart") and any(
                other.kind in ("crash", "restart") and span.meets(other) for other in self.blind
            ):
                return
            (self.blind if blind else self.dark).append(span)
            found.append(span)

        def one() -> tuple[str]:
            return (rng.choice(self._devices),)

        if rng.random() < 0.12:
            found += self._dark_outage(day)
        if rng.random() < 0.35:
            add("network", one(), at(rng.random() < 0.5), rng.randint(5, 300) * MINUTE)
        if rng.random() < 0.15:
            add("network", self._devices, at(True), rng.randint(10, 240) * MINUTE)
        if rng.random() < 0.15:
            add("power", one(), at(True), rng.randint(5, 120) * MINUTE)
        if rng.random() < 0.15:
            add("power", self._devices, at(True), rng.randint(5, 60) * MINUTE)
        if rng.random() < 0.12:
            add("crash", self._devices, at(rng.random() < 0.5), rng.randint(1, 120) * MINUTE)
        if rng.random() < 0.08:
            add("restart", self._devices, at(False), rng.randint(5, 60) * SECOND)
        return found

    def _dark_outage(self, day: date) -> list[Span]:
        """No network anywhere, and inside it no power for a while.

        The cut shows only as a hole in the late logs, ``PROOF`` shorter at each end.  Where that
        hole misses the span in which a slot's good punch could be made, the rule cannot know that
        somebody stood before a dead terminal: such cuts are left out here.
        """
        rng = self._rng
        for _ in range(50):
            first, last = rng.choice(RUSH)
            starts = at_minute(day, first, ZONE) + rng.randint(-30, last - first) * MINUTE
            length = rng.randint(DARK_AT_LEAST // MINUTE, 90) * MINUTE
            cut = Span(starts, starts + length, self._devices, "power")
            around = rng.randint(5, 60) * MINUTE, rng.randint(5, 60) * MINUTE
            outage = Span(starts - around[0], cut.ends + around[1], self._devices, "network")
            others = (*self.blind, *self.dark)
            met = any(outage.meets(other) for other in others)
            if not met and _shows(cut, day) and _fair(cut):
                self.blind.append(outage)
                self.dark.append(cut)
                return [outage, cut]
        return []


def _fair(cut: Span) -> bool:
    """Less than a whole minute late or early is nothing, but the span in which an outage excuses
    ends at the very target: a cut that begins in the minute after a target, or ends in the minute
    before one, is left out."""
    half_hour = 30 * MINUTE
    return cut.starts % half_hour >= MINUTE and cut.ends % half_hour < half_hour - MINUTE


def _shows(cut: Span, day: date) -> bool:
    for _, first, last in SEGMENTS:
        for starts, ends in ((first - 60, first), (last, last + 60)):
            a, b = at_minute(day, starts, ZONE), at_minute(day, ends, ZONE)
            if cut.starts >= b + MINUTE or cut.ends <= a - MINUTE:
                continue
            if min(b, cut.ends - PROOF) - max(a, cut.starts + PROOF) <= MINUTE:
                return False
    return True


# --------------------------------------------------------------------------------------------
# The hall
# --------------------------------------------------------------------------------------------

DEVICES = ("east", "north", "door", "west", "south")
"""The first three are asked (``door`` over UDP), the others push."""


@dataclass(frozen=True)
class Worker:
    code: str
    order: tuple[str, ...]
    """The terminals that this person tries, one after the other."""
    devices: tuple[str, ...] = ()
    """The terminals this person is bound to by the settings; none: all."""


def workers(rng: random.Random, number: int, terminals: Sequence[str]) -> list[Worker]:
    found = []
    for index in range(number):
        bound: tuple[str, ...] = ()
        if rng.random() < 0.3:
            bound = tuple(rng.sample(terminals, rng.choice((1, 1, 2))))
        order = rng.sample(bound or terminals, len(bound or terminals))
        found.append(Worker(str(1001 + index), tuple(order), bound))
    return found


class TruthHall:
    """Terminals, daemon and everything that is done to them."""

    def __init__(self, simulation: Simulation, rng: random.Random, folder: Path, weeks: int,
                 people: Sequence[Worker], devices: Sequence[str]) -> None:  # fmt: skip
        self.simulation = simulation
        self.clock = simulation.clock
        self.rng = rng
        self.folder = folder
        self.people = people
        self.devices = tuple(devices)
        self.last_day = FIRST_DAY + timedelta(days=7 * weeks - 3)
        self.facts: Counter[str] = Counter()
        self.log: list[str] = []
        self._no_network = dict.fromkeys(self.devices, 0)
        self._no_power = dict.fromkeys(self.devices, 0)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._supervisor: Supervisor | None = None
        self._alive: asyncio.Task[None] | None = None
        users = [ZkUser(n, worker.code) for n, worker in enumerate(people, 1)]
        common: dict[str, Any] = {"clock": self.wall, "sleep": self.clock.sleep}
        polled = {
            "east": ZkTerminal("TRUTH0000001", users=users, transport="tcp", **common),
            "north": ZkTerminal("TRUTH0000002", users=users, transport="tcp", **common),
            "door": ZkTerminal(
                "TRUTH0000003", users=users, transport="udp", record_layout=16, **common
            ),
        }
        self.push_port = free_port()
        pushing = {
            name: PushTerminal(
                f"TRUTH000000{number}", ("127.0.0.1", self.push_port),
                users=[PushUser(worker.code) for worker in people],
                follows_server_clock=False, **common,
            )
            for number, name in ((4, "west"), (5, "south"))
        }  # fmt: skip
        self.polled = {name: polled[name] for name in polled if name in devices}
        self.pushing = {name: pushing[name] for name in pushing if name in devices}
        self.terminals: dict[str, ZkTerminal | PushTerminal] = {**self.polled, **self.pushing}
        self.hall: Hall

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now() / 1000, ZONE).replace(tzinfo=None)

    # -- the daemon

    async def start(self) -> None:
        ports = {name: await terminal.start() for name, terminal in self.polled.items()}
        self.hall = load(self._write_settings(ports))
        for terminal in self.terminals.values():
            # Of a pushing terminal only the fastest of 50 punches tells that its clock loses time,
            # which takes days: it may not lose much meanwhile.
            most = 2 if isinstance(terminal, PushTerminal) else 5
            terminal.clock.drift = self.rng.uniform(-most, most)
        await self.start_daemon()
        for terminal in self.pushing.values():
            await terminal.start()

    def _write_settings(self, ports: dict[str, int]) -> Path:
        lines = [f'[hall]\nid = "truth"\nname = "真值大厅"\nstart_date = {FIRST_DAY}\n']
        for worker in self.people:
            devices = ", ".join(f'"{device}"' for device in worker.devices)
            lines.append(
                f'[[people]]\ncode = "{worker.code}"\nname = "员工{worker.code}"\n'
                f"employed_from = {FIRST_DAY}\nemployed_until = {self.last_day}\n"
                f"devices = [{devices}]\n"
            )
        for id_, port in ports.items():
            lines.append(
                f'[[devices]]\nid = "{id_}"\ndriver = "zkteco"\nhost = "127.0.0.1"\nport = {port}\n'
                f'protocol = "{"udp" if id_ == "door" else "tcp"}"\nkeepalive_s = 90\n'
            )
        for id_, terminal in self.pushing.items():
            lines.append(
                f'[[devices]]\nid = "{id_}"\ndriver = "zk_push"\nserial = "{terminal.serial}"\n'
                f"port = {self.push_port}\ndelay = 60\n"
            )
        lines.append('[api]\nport = 0\n[storage]\nstate_dir = "."\nsynchronous = "normal"\n')
        path = self.folder / "truth.toml"
        path.write_text("\n".join(lines), "utf-8")
        return path

    async def start_daemon(self) -> None:
        if self._supervisor is not None:
            return
        path = self.folder / FILE_NAME
        pipeline = Pipeline(path, self.hall, self.clock, synchronous="normal")
        pipeline.start()
        self.simulation.pipeline = pipeline
        self._supervisor = Supervisor(pipeline, self.clock)
        await self._supervisor.apply(self.hall.devices, self.hall.zone)
        self._alive = asyncio.create_task(self._stay_alive(pipeline))

    async def _stay_alive(self, pipeline: Pipeline) -> None:
        """As the daemon does: a sign of life when nothing else was written for a while."""
        while True:
            before = pipeline.readings
            await self.clock.sleep(ALIVE_EVERY)
            if pipeline.readings == before:
                reading = Reading("hallwatch", self.clock.now(), DaemonAlive())
                pipeline.submit((reading,), lambda _: None)

    async def stop_daemon(self, *, warned: bool) -> None:
        supervisor, pipeline = self._supervisor, self.simulation.pipeline
        if supervisor is None or pipeline is None or self._alive is None:
            return
        self._supervisor = None
        self._alive.cancel()
        await self._finish(supervisor.stop())
        if warned:
            await pipeline.tell((Reading("hallwatch", self.clock.now(), DaemonAlive()),))
        self.simulation.pipeline = None
        pipeline.stop()
        self.facts["stored again"] += pipeline.repeats
        self.facts["failed judgements"] += pipeline.failures

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something end that may wait for time to pass."""
        task = asyncio.create_task(work)
        await self.simulation.rest()
        while not task.done():
            self.clock.jump(self.clock.now() + SECOND)
            await self.simulation.rest()
        task.result()

    async def tell(self, body: Absence | GapExplained) -> None:
        """What people enter; while the daemon is down they try again later."""
        while self.simulation.pipeline is None or self._supervisor is None:
            await self.clock.sleep(600)
        await self.simulation.pipeline.tell((Reading("api", self.clock.now(), body),))

    # -- what happens

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def works(self, device: str) -> bool:
        return not self._no_power[device]

    def punch(self, worker: Worker, state: int) -> Instant | None:
        """At the first terminal that works: when; none if no terminal does."""
        for device in worker.order:
            if self.works(device):
                terminal = self.terminals[device]
                if isinstance(terminal, PushTerminal):
                    assert terminal.record(worker.code, state=state)
                else:
                    self.spawn(terminal.punch(worker.code, state=state))
                self.facts["punches"] += 1
                return self.clock.now()
        self.facts["punches that could not be made"] += 1
        return None

    async def attempt(self, worker: Worker, slot: TrueSlot) -> None:
        rng = self.rng
        if slot.forgot:
            return
        state = rng.choice((0, 0, 0, 0, 1, 4, 5, 255))
        if slot.kind == "off" and rng.random() < 0.8:
            state = 1
        slot.made_at = self.punch(worker, state)
        if slot.made and rng.random() < 0.08:
            await self.clock.sleep(rng.randint(2, 50))
            self.punch(worker, state)
            self.facts["double touches"] += 1
        for _ in range(2):
            if slot.made or rng.random() < 0.3 + 0.3 * (slot.kind == "off"):
                return
            await self.clock.sleep(rng.randint(120, 1200))
            slot.made_at = self.punch(worker, state)

    async def cut(self, span: Span, network: bool) -> None:
        counts = self._no_network if network else self._no_power
        for device in span.devices:
            counts[device] += 1
            if counts[device] == 1:
                terminal = self.terminals[device]
                await self._finish(terminal.unplug() if network else terminal.power_off())

    async def mend(self, span: Span, network: bool) -> None:
        counts = self._no_network if network else self._no_power
        for device in span.devices:
            counts[device] -= 1
            if counts[device] == 0:
                terminal = self.terminals[device]
                await self._finish(terminal.plug_in() if network else terminal.power_on())

    def blind(self, device: str) -> bool:
        """Hallwatch cannot see this terminal."""
        cut = self._no_network[device] or self._no_power[device]
        return bool(cut) or self._supervisor is None

    def set_clock(self, device: str, seconds: float) -> None:
        self.terminals[device].set_clock_offset(seconds)

    async def set_right(self, device: str) -> None:
        """Somebody sets the clock, while hallwatch sees the terminal and has read the wrong time:
        a clock that went wrong and right again unseen leaves no trace but false times."""
        while True:
            if not self.blind(device):
                await self.clock.sleep(300)
                if not self.blind(device):
                    break
            await self.clock.sleep(300)
        self.set_clock(device, self.rng.uniform(-3, 3))

    # -- time

    async def until(self, at: Instant, step: Instant) -> None:
        while (now := self.clock.now()) < at:
            self.clock.jump(min(at, now - now % step + step))
            await self.simulation.rest()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def clock(at: Instant) -> str:
    return f"{datetime.fromtimestamp(at / 1000, ZONE):%H:%M:%S}"


# --------------------------------------------------------------------------------------------
# Playing it
# --------------------------------------------------------------------------------------------


@dataclass
class Played:
    """What came of it."""

    seed: int
    days: dict[tuple[str, date], TrueDay]
    hall: Hall
    path: Path
    facts: Counter[str]
    faults: list[str]
    as_of: Instant


def play(
    seed: int, weeks: int, people: int, folder: Path, show: Callable[[str], None],
    devices: Sequence[str] = DEVICES,
) -> Played:  # fmt: skip
    """The whole story of one seed; the database stays in ``folder``."""
    random.seed(seed)  # the supervisor's jitter

    async def played(simulation: Simulation) -> Played:
        # Timeouts inside drivers count by the loop's clock: let simulated time pass there, too.
        loop = asyncio.get_running_loop()
        simulated = simulation.clock
        loop.time = lambda: simulated.now() / 1000 + time.monotonic()  # type: ignore[method-assign]
        return await _play(simulation, seed, weeks, people, folder, show, devices)

    return simulate(at_minute(FIRST_DAY, MORNING, ZONE), played)


async def _play(
    simulation: Simulation, seed: int, weeks: int, people: int, folder: Path,
    show: Callable[[str], None], devices: Sequence[str],
) -> Played:  # fmt: skip
    rng = random.Random(seed)
    staff = workers(rng, people, devices)
    hall = TruthHall(simulation, rng, folder, weeks, staff, devices)
    planner = Planner(rng, devices)
    truth: dict[tuple[str, date], TrueDay] = {}
    await hall.start()
    try:
        day = FIRST_DAY
        while day <= hall.last_day:
            works = hall.hall.calendar.kind(day).works
            show(f"{day} {'workday' if works else 'day off'}")
            if works:
                for at, _, action in sorted(_script(hall, planner, day, truth)):
                    await hall.until(at, DAY_STEP)
                    result = action()
                    if isawaitable(result):
                        await result
                    await simulation.rest()
                await hall.until(at_minute(day, EVENING, ZONE), DAY_STEP)
            await hall.until(at_minute(day + timedelta(days=1), MORNING, ZONE), NIGHT_STEP)
            day += timedelta(days=1)
        show("everything is mended; waiting until verdicts are final")
        await hall.until(hall.clock.now() + HOUR, DAY_STEP)
        end = hall.hall.appeal_ends(hall.last_day) + HOUR
        await hall.until(end, NIGHT_STEP)
        head = hall.clock.now()
    finally:
        await hall.stop_daemon(warned=True)
        for terminal in hall.terminals.values():
            await hall._finish(terminal.stop())
    return Played(seed, truth, hall.hall, folder / FILE_NAME, hall.facts, hall.log, head)


def _script(
    hall: TruthHall, planner: Planner, day: date, truth: dict[tuple[str, date], TrueDay]
) -> Iterator[tuple[Instant, int, Action]]:
    """Everything that happens on a workday, each with its time."""
    rng = hall.rng
    events: list[tuple[Instant, Action]] = []
    for worker in hall.people:
        own = planner.person_day(worker.code, day)
        truth[worker.code, day] = own
        spans, late = planner.leave(own)
        for starts, ends in spans:
            absence = Absence(
                f"leave-{worker.code}-{starts}", (worker.code,), "personal", starts, ends,
                approved_by="主任", source="truth",
            )  # fmt: skip
            told_at = at_minute(day, MORNING, ZONE) + MINUTE
            if late:
                # By the next but one workday's evening at the latest: long before the month locks.
                told_at = rng.randint(ends, ends + 2 * DAY)
                hall.facts["leaves told afterwards"] += 1
            begin = at_minute(day, MORNING, ZONE)
            events.append((begin, _spawning(hall, partial(hall.tell, absence), told_at)))
        for half in own.halves:
            for slot in half.slots:
                attempt = partial(hall.attempt, worker, slot)
                events.append((slot.at, _spawning(hall, attempt, slot.at)))
        usual = all(not s.forgot for h in own.halves for s in h.slots)
        if usual and all(h.state == "works" for h in own.halves) and rng.random() < 0.05:
            stray = at_minute(day, rng.choice((600, 650, 780, 930, 1000)), ZONE)
            events.append((stray, partial(hall.punch, worker, 0)))
    for span in planner.faults(day):
        hall.facts[f"{span.kind} ({'all' if len(span.devices) > 1 else 'one'})"] += 1
        hall.log.append(
            f"{day} {clock(span.starts)}-{clock(span.ends)} {span.kind} {','.join(span.devices)}"
        )
        if span.kind in ("network", "power"):
            network = span.kind == "network"
            events.append((span.starts, partial(hall.cut, span, network)))
            events.append((span.ends, partial(hall.mend, span, network)))
            if network and not any(dark.meets(span, HOUR) for dark in planner.dark):
                events += _explained(hall, span)
        else:
            warned = span.kind == "restart"
            events.append((span.starts, partial(hall.stop_daemon, warned=warned)))
            events.append((span.ends, hall.start_daemon))
    events += _clock_faults(hall, planner, day)
    events += _repeats(hall, day)
    for number, (at, action) in enumerate(events):
        yield at, number, action


def _spawning(
    hall: TruthHall, work: Callable[[], Coroutine[Any, Any, None]], at: Instant
) -> Action:
    """Begin ``work`` at its time, today or later."""

    async def later() -> None:
        if (left := at - hall.clock.now()) > 0:
            await hall.clock.sleep(left / 1000)
        await work()

    return lambda: hall.spawn(later())


def _explained(hall: TruthHall, span: Span) -> Iterator[tuple[Instant, Action]]:
    """Sometimes somebody finds out that the terminals worked all the time."""
    if hall.rng.random() < 0.4:
        for device in span.devices:
            body = GapExplained(
                device, span.starts - HOUR // 4, span.ends + HOUR // 4, True, "网管"
            )
            yield span.ends, _spawning(hall, partial(hall.tell, body), span.ends)


def _clock_faults(hall: TruthHall, planner: Planner, day: date) -> Iterator[tuple[Instant, Action]]:
    """Clocks that are minutes off, and clocks that jump, until somebody sets them.

    A pushing terminal has no clock that could be read: only live punches show how it goes.  What it
    recorded with a wrong clock while nobody listened comes with times that look right, and cannot
    be told from true ones; so its clock goes wrong only on a day without such a time.
    """
    rng = hall.rng
    for chance, jumps in ((0.25, False), (0.2, True)):
        device = rng.choice(hall.devices)
        at = at_minute(day, rng.randint(420, 1060), ZONE)
        right = at + rng.randint(30, 1200) * MINUTE
        hours = rng.choice((-2, -1, 1, 3, 120, None)) if jumps else None
        offset = rng.choice((-1, 1)) * rng.uniform(31, 295)
        if rng.random() > chance:
            continue
        if device in hall.pushing:
            right = min(right, at_minute(day, 1200, ZONE))
            wrong = Span(at, right, (device,), "clock")
            if any(wrong.meets(blind, HOUR) for blind in planner.blind):
                continue
            if -65 < offset < 0:
                # By less than a minute slower is not told from a late delivery (50 punches long).
                offset = -offset

        def go_wrong(
            device: str = device, jumps: bool = jumps, hours: int | None = hours,
            offset: float = offset,
        ) -> None:  # fmt: skip
            if jumps:
                lost_date = (datetime(2000, 1, 1) - hall.wall()).total_seconds()  # noqa: DTZ001
                offset = lost_date if hours is None else hours * 3600.0
            hall.set_clock(device, offset)

        yield at, go_wrong
        yield at, _spawning(hall, partial(hall.set_right, device), right)
        hall.facts["clock jumps" if jumps else "clock offsets"] += 1
        how = f"{offset:+.0f} s" if not jumps else f"{hours:+d} h" if hours else "to 2000"
        hall.log.append(f"{day} {clock(at)}-{clock(right)} clock of {device} {how}")


def _repeats(hall: TruthHall, day: date) -> Iterator[tuple[Instant, Action]]:
    rng = hall.rng
    at = at_minute(day, rng.randint(480, 1120), ZONE)
    if rng.random() < 0.3:
        polled = hall.polled[rng.choice(list(hall.polled))]
        yield at, partial(polled.replay, rng.randint(1, 20))
        hall.facts["logs with rows twice"] += 1
    if rng.random() < 0.3:
        pushing = hall.pushing[rng.choice(list(hall.pushing))]

        def again() -> None:
            pushing.repeat_batches += 3

        yield at, again
        hall.facts["batches sent twice"] += 1
    if rng.random() < 0.15:
        sender = hall.pushing[rng.choice(list(hall.pushing))]
        yield at, sender.send_all_again
        hall.facts["whole logs sent again"] += 1


# --------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What the comparison found."""

    person_days: int = 0
    slots: int = 0
    final: int = 0
    held: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    breaches: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    """What judging the whole journal again finds otherwise."""
    facts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.person_days += other.person_days
        self.slots += other.slots
        self.final += other.final
        self.held += other.held
        self.violations += other.violations
        self.breaches += other.breaches
        self.missed += other.missed
        self.false += other.false
        self.unexplained += other.unexplained
        self.different += other.different
        self.facts += other.facts

    @property
    def good(self) -> bool:
        return not (self.false or self.unexplained or self.different)

    def table(self) -> str:
        rows = [
            ("person-days", self.person_days),
            ("slots judged", self.slots),
            ("  final", self.final),
            ("  held", sum(self.held.values())),
            *((f"    {reason}", number) for reason, number in self.held.most_common()),
            ("final violations", self.violations),
            ("half-days with a true breach", self.breaches),
            ("  missed (no final violation)", sum(self.missed.values())),
            *((f"    {reason}", number) for reason, number in self.missed.most_common()),
            *((f"what happened: {fact}", number) for fact, number in sorted(self.facts.items())),
            ("differences when judged again", len(self.different)),
            ("verdicts without an explanation", len(self.unexplained)),
            ("false accusations", len(self.false)),
        ]
        return "\n".join(f"{name:<60} {number:>8}" for name, number in rows)


def compare(played: Played) -> Figures:
    """The stored verdicts beside the truth."""
    figures = Figures(facts=played.facts)
    again = SimulatedClock(played.as_of)
    for row in verify(played.path, played.hall, again, None, None, lambda _done, _of: None):
        figures.different.append(f"seed {played.seed}: {row}")
    with closing(open_reader(played.path)) as connection:
        gatherer = Gatherer(connection, played.hall, FIRST_DAY)
        for (person, day), truth in sorted(played.days.items()):
            row = connection.execute(
                "SELECT body, slots, as_of FROM attendance_day WHERE person = ? AND work_date = ?",
                (person, day.isoformat()),
            ).fetchone()
            record = stored_record(row[0], row[1]) if row else None
            violations = _violations(connection, person, day)
            figures.person_days += 1
            if record is not None:
                _count(figures, record)
            final = [one for one in violations if one.finality in ("final", "locked")]
            figures.violations += len(final)
            for one in final:
                reason = undeserved(truth, one)
                if reason:
                    figures.false.append(_accusation(played, truth, one, reason, record))
            _missed(figures, truth, record, final)
            known = gatherer.person(person)
            assert known is not None
            seen = gatherer.person_day(known, day, row[2] if row else played.as_of)
            for one in violations:
                told = explain(seen, played.hall.rulebook, one.id)
                if told is None or not told.slots or not told.thresholds:
                    figures.unexplained.append(f"{person} {day} {one.code} {one.title}")
    return figures


def _violations(connection: sqlite3.Connection, person: str, day: date) -> list[Violation]:
    return [
        msgspec.json.decode(body, type=Violation)
        for (body,) in connection.execute(
            "SELECT body FROM violation WHERE person = ? AND work_date = ? AND state = 'active'",
            (person, day.isoformat()),
        )
    ]


def _count(figures: Figures, record: DayRecord) -> None:
    halves = {half.segment: half for half in record.halves}
    for slot in record.slots:
        figures.slots += 1
        reason = _held(slot, halves[slot.segment])
        if reason:
            figures.held[reason] += 1
        else:
            figures.final += 1


def _held(slot: Slot, half: HalfDay) -> str:
    """Why a slot's verdict is not final."""
    if slot.verdict == "unverified":
        if "clock_untrusted" in slot.flags:
            return "unverified: a punch of unknown time may belong there"
        return "unverified: no terminal worked"
    if slot.finality in ("final", "locked") and half.finality in ("final", "locked"):
        return ""
    if "outage_overlap" in slot.flags:
        return "provisional: an outage nobody explained"
    if half.finality in ("pending", "provisional") and slot.finality in ("final", "locked"):
        return "provisional: the other punch of the half-day"
    return f"{slot.finality}: half-day {half.verdict}"


def _missed(
    figures: Figures, truth: TrueDay, record: DayRecord | None, final: Sequence[Violation]
) -> None:
    for half in truth.halves:
        breach = half.breach()
        if not breach:
            continue
        figures.breaches += 1
        if any(one.segment in ("", half.segment) for one in final):
            continue
        judged = None
        if record is not None:
            judged = next((one for one in record.halves if one.segment == half.segment), None)
        if judged is None:
            why = "no record"
        elif judged.finality in ("final", "locked"):
            why = f"judged {judged.verdict}"
        else:
            why = "held"
        figures.missed[f"{breach}: {why}"] += 1


def _accusation(
    played: Played, truth: TrueDay, one: Violation, reason: str, record: DayRecord | None
) -> str:
    slots = []
    for slot in record.slots if record else ():
        at = clock(slot.event_time) if slot.event_time is not None else "-"
        flags = ",".join(slot.flags)
        slots.append(
            f"{slot.segment} {slot.slot} {at} {slot.device} {slot.verdict} {slot.path} {flags}"
        )
    faults = [fault for fault in played.faults if fault.startswith(str(truth.day))]
    return (
        f"seed {played.seed}, person {truth.person}, {truth.day}: {one.code} {one.detail}\n"
        f"    but: {reason}.  Truth: {truth.story()}\n"
        f"    judged: {'; '.join(slots)}\n"
        f"    that day: {'; '.join(faults) or 'nothing failed'}"
    )


def run(
    seed: int, weeks: int, people: int, show: Callable[[str], None], state: Path | None = None,
    devices: Sequence[str] = DEVICES,
) -> Figures:  # fmt: skip
    """Play and compare one seed; the state is kept if a folder is named for it."""
    fast = Path("/dev/shm")
    folder = state or Path(
        tempfile.mkdtemp(prefix="hallwatch-truth-", dir=fast if fast.is_dir() else None)
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return compare(play(seed, weeks, people, folder, show, devices))
    finally:
        if state is None:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=2, help="how many halls, one seed each")
    parser.add_argument("--weeks", type=int, default=2)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--state", type=Path, help="keep the databases in this folder")
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    everything = Figures()
    began = time.monotonic()
    for seed in range(options.seed, options.seed + options.seeds):

        def show(what: str, seed: int = seed) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] seed {seed}: {what}", flush=True)

        state = options.state / str(seed) if options.state else None
        figures = run(seed, options.weeks, options.people, show, state)
        show(f"{figures.person_days} person-days, {len(figures.false)} false accusations")
        everything.add(figures)
    print()
    print(everything.table())
    for what in (*everything.different[:20], *everything.unexplained, *everything.false):
        print(what)
    return 0 if everything.good else 1


if __name__ == "__main__":
    sys.exit(main())
