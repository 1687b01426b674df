"""Keeps every device's driver running, and says how each device is.

One task for each link (a socket, a listening port, a serial line).  What goes wrong with one costs
the others nothing: a lost device is tried again after a growing, jittered pause, one that refuses
only rarely, and a defect in a driver restarts that link alone.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import structlog
from msgspec import structs

from config.load import DeviceSpec
from daemon.clock import Clock
from daemon.pipeline import Pipeline
from drivers.base import AskForRating, DeviceLost, DeviceRefused, LookAgain, Order, Show
from rules.model import Instant, Link, Reading

log = structlog.get_logger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
REFUSED_PAUSE = 300.0
"""Seconds; a device that says no (a wrong comm key) must not be hammered."""
STEADY = 60_000
"""A link that lasted this many ms was a good one: its next loss starts with the first pause."""


class Contacts:
    """Which devices are in contact; tells the pipeline of each change, once."""

    def __init__(self, pipeline: Pipeline, clock: Clock) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._started = clock.now()
        self._last: dict[str, Instant] = {}
        self._up: dict[str, bool] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        """Live health by device: what needs no journal."""

    def contact(self, device: str) -> None:
        now = self._last[device] = self._clock.now()
        if not self._up.get(device):
            log.info("device_found", device=device)
            self._up[device] = True
            self.notes.setdefault(device, {}).pop("last_error", None)
            self._tell(device, now, Link(True))

    def lost(self, device: str, reason: str) -> None:
        self.note(device, last_error=reason)
        if self._up.get(device) is not False:
            log.warning("device_lost", device=device, reason=reason)
            self._up[device] = False
            self._tell(device, self._last.get(device, self._started), Link(False, reason))

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    def forget(self, device: str) -> None:
        """The device is no longer watched (it left the settings)."""
        if self._up.pop(device, None):
            self._tell(
                device, self._last.get(device, self._started), Link(False, "no longer configured")
            )
        self.notes.pop(device, None)

    def _tell(self, device: str, at: Instant, link: Link) -> None:
        self._pipeline.submit((Reading(device, at, link),), lambda _: None)


class Pictures(Protocol):
    """Where evidence pictures go."""

    @property
    def wanted(self) -> bool: ...

    def keep(self, device: str, at: Instant, subject: str, jpeg: bytes) -> str:
        """Returns the picture's name; empty where it could not be kept."""
        ...


class NoPictures:
    """Evidence pictures are switched off."""

    wanted = False

    def keep(self, device: str, at: Instant, subject: str, jpeg: bytes) -> str:  # noqa: ARG002
        return ""


class DriverContext:
    """What one driver is lent; see ``drivers.base.Context``."""

    def __init__(
        self,
        pipeline: Pipeline,
        contacts: Contacts,
        clock: Clock,
        zone: ZoneInfo,
        windows: Collection[str],
        marks: Mapping[tuple[str, str], str],
        pictures: Pictures,
        closed: Callable[[Instant], bool],
    ) -> None:
        self._pipeline = pipeline
        self.keep_snapshot = pictures.keep
        self._pictures = pictures
        self._closed = closed
        self._marks = dict(marks)
        self.zone = zone
        self.windows = windows
        self.contact = contacts.contact
        self.lost = contacts.lost
        self.note = contacts.note
        self.now = clock.now
        self.sleep = clock.sleep
        self._shows: dict[str, Show] = {}
        self._last_shows: dict[str, Show] = {}
        self._asks: deque[tuple[Instant, str, AskForRating]] = deque(maxlen=100)
        self._again: dict[str, None] = {}
        """Devices whose marks were changed."""
        self._wished = asyncio.Event()

    @property
    def snapshots(self) -> bool:
        return self._pictures.wanted

    @property
    def closed(self) -> bool:
        return self._closed(self.now())

    def wish(self, device: str, order: Order) -> None:
        """From the event loop only."""
        if isinstance(order, Show):
            self._shows.pop(device, None)
            self._shows[device] = order
            self._last_shows[device] = order
        elif isinstance(order, AskForRating):
            self._asks.append((self.now() + order.seconds * 1000, device, order))
        else:
            self._again[device] = None
        self._wished.set()

    def set_marks(self, device: str, marks: Mapping[str, str]) -> None:
        """Somebody else stored these resume points."""
        self._marks.update({(device, name): value for name, value in marks.items()})
        self.wish(device, LookAgain())

    def again(self) -> None:
        """The driver begins anew: its boards may have forgotten what they showed."""
        quiet = {
            device: structs.replace(show, announce=False)
            for device, show in self._last_shows.items()
        }
        self._shows.update(quiet)
        if self._shows:
            self._wished.set()

    async def order(self) -> tuple[str, Order]:
        while True:
            while self._asks:
                until, device, order = self._asks.popleft()
                if self.now() <= until:
                    return device, order
            if self._shows:
                device = next(iter(self._shows))
                return device, self._shows.pop(device)
            if self._again:
                return self._again.popitem()[0], LookAgain()
            self._wished.clear()
            await self._wished.wait()

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        new = await self._pipeline.tell(readings, marks)
        if marks:
            self._marks.update(marks)
        return new

    def mark(self, device: str, name: str) -> str | None:
        return self._marks.get((device, name))


class Supervisor:
    """One task a link."""

    def __init__(self, pipeline: Pipeline, clock: Clock, pictures: Pictures | None = None) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self.pictures: Pictures = pictures or NoPictures()
        self.closed: Callable[[Instant], bool] = lambda _at: False
        """Whether an instant lies outside the hall's working time."""
        self.contacts = Contacts(pipeline, clock)
        self._links: dict[Hashable, tuple[tuple[DeviceSpec, ...], asyncio.Task[None]]] = {}
        self._contexts: dict[str, DriverContext] = {}
        """By device."""
        self._hall: tuple[ZoneInfo, set[str]] | None = None

    async def apply(
        self, devices: Sequence[DeviceSpec], zone: ZoneInfo, windows: Collection[str] = ()
    ) -> None:
        """Watch these devices.  Links whose devices did not change are left alone, but where the
        hall's zone or windows did."""
        wanted: dict[Hashable, list[DeviceSpec]] = {}
        for device in devices:
            if device.in_service:
                wanted.setdefault((device.driver, device.options.link()), []).append(device)
        stopped = [
            key
            for key, (present, _) in self._links.items()
            if tuple(wanted.get(key, ())) != present or (zone, set(windows)) != self._hall
        ]
        still = {device.id for specs in wanted.values() for device in specs}
        for key in stopped:
            present, task = self._links.pop(key)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for device in present:
                self._contexts.pop(device.id, None)
                if device.id not in still:
                    self.contacts.forget(device.id)
        self._hall = (zone, set(windows))
        started = [key for key in wanted if key not in self._links]
        if not started:
            return
        marks = await asyncio.wrap_future(
            self._pipeline.call(
                lambda connection: {
                    (device, name): value
                    for device, name, value in connection.execute("SELECT * FROM mark")
                }
            )
        )
        for key in started:
            specs = tuple(wanted[key])
            context = DriverContext(
                self._pipeline,
                self.contacts,
                self._clock,
                zone,
                windows,
                marks,
                self.pictures,
                lambda at: self.closed(at),
            )
            task = asyncio.create_task(self._keep(specs, context), name=f"driver {specs[0].id}")
            self._links[key] = (specs, task)
            self._contexts.update({spec.id: context for spec in specs})

    def wish(self, device: str, order: Order) -> None:
        """Have a device do something, if it is there; from the event loop only."""
        context = self._contexts.get(device)
        if context is not None:
            context.wish(device, order)

    def set_marks(self, device: str, marks: Mapping[str, str]) -> None:
        """Tell a device's driver that these resume points were stored; from the event loop only."""
        context = self._contexts.get(device)
        if context is not None:
            context.set_marks(device, marks)

    async def stop(self) -> None:
        tasks = [task for _, task in self._links.values()]
        self._links.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, devices: Sequence[DeviceSpec], context: DriverContext) -> None:
        """Run the driver of one link for ever."""
        driver = import_module(f"drivers.{devices[0].driver}").DRIVER(devices)
        pause = FIRST_PAUSE
        while True:
            began = self._clock.now()
            context.again()
            try:
                await driver.run(context)
                reason, longest = "The driver ended without an error.", False
            except DeviceRefused as error:
                reason, longest = str(error), True
            except (DeviceLost, OSError) as error:
                reason, longest = str(error), False
            except Exception as error:  # noqa: BLE001 - a defect is one driver's alone
                # Never its text: it may hold a password or what a device sent.
                defect = _defect(error)
                log.error(
                    "driver_failed",
                    device=devices[0].id,
                    driver=devices[0].driver,
                    defect=defect,
                )
                reason, longest = f"defect in the driver: {defect}", False
            for device in devices:
                self.contacts.lost(device.id, reason)
            if self._clock.now() - began > STEADY:
                pause = FIRST_PAUSE
            wait = REFUSED_PAUSE if longest else pause
            pause = min(LONGEST_PAUSE, pause * 2)
            await self._clock.sleep(wait * random.uniform(0.75, 1.25))


def _defect(error: BaseException) -> str:
    """Of what kind, and where."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_defect(one) for one in error.exceptions[:5])
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames[::-1])
    return f"{type(error).__name__} at {places}"
