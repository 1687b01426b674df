"""Thirty displays on one line of 9600 Bd whose bytes take as long as they do on a wire: how near
the rounds come to what the line can do, what one dead display costs, and what the guard costs where
no wire slows it down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any
from zoneinfo import ZoneInfo

from pymodbus.client import AsyncModbusTcpClient
from rows import Row, at_least, at_most, per_second, seconds

from drivers.base import Order
from drivers.emulators.queue_display import DisplayLine, DisplayUnit
from drivers.modbus import BusMaster, ModbusLine, poll_ms
from drivers.queue_display import QueueDisplay, QueueDisplayOptions
from rules.model import Instant, Reading

DISPLAYS = 30
BAUD = 9600
REGISTERS = 2
DELAY = 0.020
"""Seconds a display takes to answer."""
ROUNDS = 10
DEAD_FOR = 45.0
TIMEOUT = 0.3
POLLS = 3000
PROFILE = f'decode = "char_pair"\naddress = 0\ncount = {REGISTERS}\n'


@dataclass
class Box:
    id: str
    options: QueueDisplayOptions
    window: str = ""


@dataclass
class RealHall:
    """Real time, no journal; when each display was read."""

    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Asia/Shanghai"))
    read_at: dict[str, list[float]] = field(default_factory=dict)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    lost_ones: set[str] = field(default_factory=set)

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        assert marks is not None
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        assert (device in self.read_at, name) == (False, "ticket")
        return None

    def now(self) -> Instant:
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def contact(self, device: str) -> None:
        self.read_at.setdefault(device, []).append(asyncio.get_running_loop().time())
        self.read.set()

    def lost(self, device: str, reason: str) -> None:
        assert reason
        self.lost_ones.add(device)

    def note(self, device: str, **facts: Any) -> None:
        assert device
        assert facts

    async def order(self) -> tuple[str, Order]:
        return await asyncio.Future()

    async def rounds(self, device: str, number: int) -> float:
        """Seconds for one round, over so many."""
        wanted = len(self.read_at.get(device, ())) + number + 1
        while len(self.read_at.get(device, ())) < wanted:
            self.read.clear()
            await self.read.wait()
        last = self.read_at[device][-number - 1 :]
        return (last[-1] - last[0]) / number


@asynccontextmanager
async def line(folder: Path) -> AsyncIterator[tuple[RealHall, list[DisplayUnit]]]:
    """The driver at work."""
    units = [
        DisplayUnit(number, {0: 0x4130, 1: 0x3337}, delay=DELAY)
        for number in range(1, DISPLAYS + 1)
    ]
    profile = folder / "two_registers.toml"
    profile.write_text(PROFILE, "utf-8")
    peer = DisplayLine(units, baud=BAUD)
    path = peer.start_pty()
    boxes = [
        Box(f"d{unit.number}", QueueDisplayOptions(unit.number, str(profile), port=path, baud=BAUD))
        for unit in units
    ]
    hall = RealHall()
    task = asyncio.create_task(QueueDisplay(boxes).run(hall))
    try:
        yield hall, units
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await peer.stop()


async def rounds(folder: Path) -> tuple[float, float, int]:
    """Seconds of a round with all displays and with a dead one, and how often that was asked."""
    async with line(folder) as (hall, units):
        await hall.rounds("d1", 1)
        healthy = await hall.rounds("d1", ROUNDS)
        dead = units[-1]
        dead.fails("silent")
        asked = len(dead.asked)
        began = asyncio.get_running_loop().time()
        took = []
        while asyncio.get_running_loop().time() - began < DEAD_FOR:
            took.append(await hall.rounds("d1", 1))
        assert hall.lost_ones == {f"d{dead.number}"}
        return healthy, mean(took), len(dead.asked) - asked


async def polls() -> tuple[float, float]:
    """Polls a second over TCP on the loopback: through the guard, and by pymodbus alone."""
    loop = asyncio.get_running_loop()
    peer = DisplayLine([DisplayUnit(5, {0: 0x4130, 1: 0x3337})], "tcp")
    port = await peer.start_tcp()
    bus = BusMaster(ModbusLine("tcp", host="127.0.0.1", tcp_port=port))
    await bus.open()
    alone = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
    await alone.connect()
    ours = theirs = 0.0
    for _ in range(3):
        begin = loop.time()
        for _ in range(POLLS // 3):
            await bus.read(5, 3, 0, 2)
        ours += loop.time() - begin
        begin = loop.time()
        for _ in range(POLLS // 3):
            await alone.read_holding_registers(0, count=2, device_id=5)
        theirs += loop.time() - begin
    await bus.close()
    alone.close()
    await peer.stop()
    return POLLS / ours, POLLS / theirs


def measure(folder: Path) -> Iterator[Row]:
    budget = DISPLAYS * poll_ms(BAUD, REGISTERS, DELAY * 1000) / 1000
    healthy, with_dead, asked = asyncio.run(rounds(folder))
    yield at_most(
        1.15,
        f"bus: a round of {DISPLAYS} displays at {BAUD} Bd",
        seconds(healthy),
        f"{seconds(budget)} by the bytes, gaps and {DELAY * 1000:.0f} ms each",
        healthy / budget,
    )
    always = healthy + TIMEOUT
    yield at_most(
        1.0,
        f"bus: a round with one dead display, over {DEAD_FOR:.0f} s",
        seconds(with_dead),
        f"{seconds(always)} if it were asked each time ({asked} times in fact)",
        with_dead / always,
    )
    guarded, plain = asyncio.run(polls())
    yield at_least(
        0.3,
        "bus: polls over TCP through the guard",
        per_second(guarded),
        f"pymodbus alone {per_second(plain)}, same peer",
        guarded / plain,
    )
