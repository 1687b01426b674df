"""``hallwatch check --probe``: is everything that the settings name really there?"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from msgspec import Struct

from config.load import DeviceSpec, Hall
from config.settings import InfluxSinkSettings, SinkSettings
from daemon.clock import Clock
from daemon.database import FILE_NAME, DatabaseProblem, StateLock, open_reader
from drivers.base import Order
from rules.model import ClockCheck, DeviceInfo, Punch, QueueEvent, Rating, Reading, Shown

PATIENCE = 15.0
"""Seconds for a device to show itself."""
NOTHING_NEW = 2.0
"""Seconds after which devices that are all in contact have probably told what they can."""
UNACKNOWLEDGED = Punch | Rating | QueueEvent
"""What must never be acknowledged when it was not stored: the device keeps it for us."""


class Probed(Struct, frozen=True):
    """``good`` is none where nothing can be said: a terminal that calls us and has not yet."""

    what: str
    where: str
    good: bool | None
    found: str


class _Listening:
    """A driver's context that keeps nothing but what a technician wants to know."""

    def __init__(self, zone: ZoneInfo, windows: Collection[str]) -> None:
        self.zone = zone
        self.windows = windows
        clock = Clock()
        self.now = clock.now
        self.sleep = clock.sleep
        self.heard: dict[str, dict[str, str]] = {}
        self.contacts: set[str] = set()
        self.unverified: set[str] = set()
        """In contact as far as their port is open; nothing says that they are there."""
        self.gone: set[str] = set()

    @property
    def told(self) -> tuple[int, int, int]:
        """Grows with everything new."""
        facts = sum(len(found) for found in self.heard.values())
        return facts, len(self.contacts), len(self.unverified) + len(self.gone)

    async def order(self) -> tuple[str, Order]:
        await asyncio.Event().wait()
        raise AssertionError("nobody wishes for anything during a probe")

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        del marks
        for reading in readings:
            facts = self.heard.setdefault(reading.device, {})
            if isinstance(reading.body, ClockCheck):
                facts["clock"] = f"clock {round((reading.at - self.now()) / 1000):+d} s"
            elif isinstance(reading.body, DeviceInfo):
                told = reading.body.facts
                shown = ("serial", "model", "firmware", "users", "records", "capacity", "templates")
                info = ", ".join(f"{key} {told[key]}" for key in shown if key in told)
                if info:
                    facts["info"] = info
            elif isinstance(reading.body, Shown):
                facts["shows"] = f"shows {reading.body.text or reading.body.state}"
        if any(isinstance(reading.body, UNACKNOWLEDGED) for reading in readings):
            await asyncio.Event().wait()
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        del device, name
        return None

    def contact(self, device: str) -> None:
        self.contacts.add(device)
        self.gone.discard(device)

    def lost(self, device: str, reason: str) -> None:
        self.heard.setdefault(device, {})["error"] = reason
        self.gone.add(device)

    def note(self, device: str, **facts: Any) -> None:
        if error := facts.get("last_error"):
            self.heard.setdefault(device, {})["error"] = str(error)
        if facts.get("unverified"):
            self.unverified.add(device)
        elif "unverified" in facts:
            self.unverified.discard(device)


async def probe(hall: Hall) -> list[Probed]:
    """Try every device, sink and the database; at most a few seconds longer than ``PATIENCE``.

    Raises ``DatabaseProblem`` while the daemon runs: most terminals talk to one client at a time.
    """
    if hall.state_dir.exists():
        try:
            StateLock(hall.state_dir).release()
        except DatabaseProblem:
            raise DatabaseProblem(
                "hallwatch is running and holds the devices: see GET /v1/devices for how they are,"
                " or stop it and probe again."
            ) from None
    links: dict[Hashable, list[DeviceSpec]] = {}
    for device in hall.devices:
        if device.in_service:
            links.setdefault((device.driver, device.options.link()), []).append(device)
    tried = await asyncio.gather(*(_devices(specs, hall) for specs in links.values()))
    sinks = await asyncio.gather(
        *(_address(sink.name, *_sink_address(sink)) for sink in hall.sinks)
    )
    return [_database(hall), *sinks, *(row for rows in tried for row in rows)]


async def _devices(specs: Sequence[DeviceSpec], hall: Hall) -> list[Probed]:
    context = _Listening(hall.zone, list(hall.windows))
    failure = ""
    driver = import_module(f"drivers.{specs[0].driver}").DRIVER(specs)
    task = asyncio.create_task(driver.run(context))
    told, same = context.told, 0
    for _ in range(int(PATIENCE * 10)):
        done, _ = await asyncio.wait([task], timeout=0.1)
        same = same + 1 if context.told == told else 0
        told = context.told
        everybody = all(spec.id in context.contacts | context.gone for spec in specs)
        if (
            done
            or all("clock" in context.heard.get(spec.id, {}) for spec in specs)
            or (everybody and same >= NOTHING_NEW * 10)
        ):
            break
    if task.done() and not task.cancelled():
        failure = str(task.exception() or "")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [_row(spec, context, failure) for spec in specs]


def _row(spec: DeviceSpec, context: _Listening, failure: str) -> Probed:
    found = "; ".join(context.heard.get(spec.id, {}).values())
    where = _where(spec)
    if failure:
        return Probed(spec.id, where, False, failure)
    if spec.id in context.gone:
        return Probed(spec.id, where, False, found)
    if spec.id not in context.contacts:
        return Probed(spec.id, where, None, found or f"not heard in {PATIENCE:.0f} s")
    if spec.id in context.unverified:
        found = found or "the port is open; the device itself says nothing by itself"
        return Probed(spec.id, where, None, found)
    return Probed(spec.id, where, True, found or "answers")


def _where(spec: DeviceSpec) -> str:
    """Its line, and its address there."""
    link = spec.options.link()
    where = link if isinstance(link, str) else ":".join(map(str, link))
    for name in ("unit", "address"):
        number = getattr(spec.options, name, None)
        if isinstance(number, int):
            where += f" {name} {number}"
    return where


def _sink_address(sink: SinkSettings) -> tuple[str, int]:
    if isinstance(sink, InfluxSinkSettings):
        url = urlsplit(sink.url)
        return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    return sink.host, sink.port or (8883 if sink.tls else 1883)


async def _address(what: str, host: str, port: int) -> Probed:
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except TimeoutError:
        return Probed(what, where, False, "no answer in 5 s")
    except socket.gaierror as error:
        return Probed(what, where, False, f"the name cannot be resolved: {error}")
    except OSError as error:
        return Probed(what, where, False, f"no connection: {error.strerror or error}")
    return Probed(what, where, True, "accepts connections")


def _database(hall: Hall) -> Probed:
    path = hall.state_dir / FILE_NAME
    if not path.exists():
        return Probed("database", str(path), None, "not there yet: the first start makes it")
    try:
        with closing(open_reader(path)) as connection:
            (readings,) = connection.execute("SELECT count(*) FROM reading").fetchone()
    except sqlite3.Error as error:
        return Probed("database", str(path), False, str(error))
    return Probed("database", str(path), True, f"{readings} readings")
