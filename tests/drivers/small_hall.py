"""A daemon in small for drivers: a journal that knows repeats, marks, orders, and a
clock that is moved by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from drivers.base import Order
from rules.model import Reading, reading_id

ZONE = ZoneInfo("Asia/Shanghai")


class SmallHall:
    """What a driver is given, and what a test may ask of it."""

    zone = ZONE

    def __init__(self, now: int) -> None:
        self.readings: list[Reading] = []
        self.told: set[bytes] = set()
        self.marks: dict[tuple[str, str], str] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.contacts: list[str] = []
        self.losses: list[tuple[str, str]] = []
        self.orders: asyncio.Queue[tuple[str, Order]] = asyncio.Queue()
        self.disk_full = False
        self.stuck: asyncio.Event | None = None
        """The journal waits for it."""
        self.entered = asyncio.Event()
        """Something was to be journalled."""
        self.time = now
        self._number = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        self.entered.set()
        if self.stuck is not None:
            await self.stuck.wait()
        await asyncio.sleep(0)
        if self.disk_full:
            raise OSError("no space left")
        new = [reading for reading in readings if reading_id(reading) not in self.told]
        self.told |= {reading_id(reading) for reading in new}
        self.readings += new
        self.marks |= dict(marks or {})
        return len(new)

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> int:
        return self.time

    def true_time(self) -> datetime:
        return datetime.fromtimestamp(self.time / 1000, ZONE)

    def wall(self) -> datetime:
        return self.true_time().replace(tzinfo=None)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + int(seconds * 1000), next(self._number), woken))
        await woken

    async def pass_seconds(self, seconds: float) -> None:
        until = self.time + int(seconds * 1000)
        while due := min((one for one in self._sleepers if one[0] <= until), default=None):
            self._sleepers.remove(due)
            self.time = max(self.time, due[0])
            if not due[2].done():
                due[2].set_result(None)
            for _ in range(6):
                await asyncio.sleep(0)
        self.time = until

    async def until(self, condition: Callable[[], object], step: float = 0.0) -> None:
        """Wait for what the network has still to bring; the clock may go on meanwhile."""
        async with asyncio.timeout(20):
            while not condition():
                if step:
                    await self.pass_seconds(step)
                await asyncio.sleep(0.002)

    def contact(self, device: str) -> None:
        self.contacts.append(device)

    def lost(self, device: str, reason: str) -> None:
        self.losses.append((device, reason))

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        return await self.orders.get()

    def bodies(self, *kinds: type) -> list[Any]:
        """Of these kinds, or all."""
        bodies = [reading.body for reading in self.readings]
        return [body for body in bodies if not kinds or type(body) in kinds]

    def at(self, kind: type) -> list[int]:
        return [reading.at for reading in self.readings if type(reading.body) is kind]
