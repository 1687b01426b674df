"""What a driver is given and what it may raise.

A driver module is one device family.  It has, from top to bottom: the wire format as a table; pure
functions over bytes; a frozen options class; and ``DRIVER``, the class that does the talking.

``DRIVER`` is constructed with the devices that share one link (one socket, one listening port, one
serial line), and ``run`` talks to them until it is cancelled.  The supervisor groups devices by
``Options.link()``: equal links are one ``DRIVER``.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol
from zoneinfo import ZoneInfo

from msgspec import Struct

from rules.model import Instant, Reading


class DeviceLost(Exception):
    """The device cannot be reached or stopped answering: try again soon, with back-off."""


class DeviceRefused(Exception):
    """The device said no (comm key, registration, firmware): try again rarely, tell somebody."""


class BadFrame(ValueError):
    """Bytes that break the protocol; the message says what was expected and where."""


class AskForRating(Struct, frozen=True):
    """Have the pad invite a rating for the service that was just finished."""

    session: str
    """Comes back in the ``Rating`` that answers."""
    ticket: str = ""
    person: str = ""
    """Who served, as the ``Rating`` shall say."""
    seconds: int = 30


class Show(Struct, frozen=True):
    """Show this on a board.  ``state`` is the window's (``idle calling serving finished paused
    closed unknown``); ``announce`` asks for flashing, where the board can: a live call.
    ``lines``: finished texts, one for each line of a hall screen (a window strip has one).
    ``waiting``: people waiting, none where unknown."""

    lines: tuple[str, ...]
    window: str = ""
    ticket: str = ""
    state: str = "unknown"
    waiting: int | None = None
    announce: bool = False


class LookAgain(Struct, frozen=True):
    """The device's marks were changed (a camera's references were learned anew): read them."""


Order = AskForRating | Show | LookAgain


class Options(Protocol):
    """A driver's own settings for one device: a frozen dataclass, checked by its type hints.

    ``__post_init__`` may raise ``ValueError`` with a sentence for what types cannot express.
    """

    def link(self) -> Hashable:
        """Devices with equal links share one connection, hence one ``DRIVER.run``."""
        ...


class Device(Protocol):
    """One device of the settings."""

    @property
    def id(self) -> str: ...
    @property
    def window(self) -> str:
        """Id of the window (窗口) it stands at; empty if none."""
        ...

    @property
    def options(self) -> Any: ...


class Context(Protocol):
    """What the daemon lends to a driver.  Drivers read no clock and open no database themselves."""

    @property
    def zone(self) -> ZoneInfo:
        """The hall's zone: terminals tell local wall time."""
        ...

    @property
    def windows(self) -> Collection[str]:
        """The ids of the hall's windows, for devices that tell of any of them."""
        ...

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        """Journal the readings, in one transaction, with ``marks``.

        Returns, once they are on the disk, how many were new.  Only after that may a device be
        acknowledged.  Raises ``OSError`` when they could not be stored: then do not acknowledge.
        ``marks`` maps ``(device id, name)`` to a resume point that ``mark`` gives back later.
        """
        ...

    def mark(self, device: str, name: str) -> str | None:
        """The resume point last emitted for this device under this name."""
        ...

    @property
    def closed(self) -> bool:
        """Whether nobody is to be at the windows now: outside the hall's working time."""
        ...

    @property
    def snapshots(self) -> bool:
        """Whether evidence pictures are wanted at all."""
        ...

    def keep_snapshot(self, device: str, at: Instant, subject: str, jpeg: bytes) -> str:
        """Keep an evidence picture, already made harmless; returns its name, or nothing where it
        could not be kept.  ``subject``: what it shows, such as ``w07-empty``: letters, digits and
        hyphens, no person."""
        ...

    def now(self) -> Instant: ...

    async def sleep(self, seconds: float) -> None:
        """Wait by the daemon's clock (a simulated clock in the demo's fast day)."""
        ...

    def contact(self, device: str) -> None:
        """The device gave a sign of life just now.  The first one after a loss (or after the start)
        journals ``Link(up=True)``; cheap, call it for every frame."""
        ...

    def lost(self, device: str, reason: str) -> None:
        """The device no longer answers; journals ``Link(up=False)`` dated to its last contact.
        Calling it for a device that is lost already only updates the reason."""
        ...

    def note(self, device: str, **facts: Any) -> None:
        """Live health for ``GET /v1/devices``: counters and states that need no journal, such as
        ``decode_errors=3`` or ``last_error='...'``.  Later values replace earlier ones."""
        ...

    async def order(self) -> tuple[str, Order]:
        """The next thing to do, with the id of the device of this link that shall do it; waits for
        one.  Only the newest ``Show`` of a device is kept; an ``AskForRating`` that has waited
        longer than its ``seconds`` is dropped.  Orders are wishes: a device that is away misses
        them, and after its return gets the newest ``Show`` again.
        """
        ...


class Driver(Protocol):
    """One link and the devices behind it."""

    options: ClassVar[type]
    attendance: ClassVar[bool]
    """Whether its devices tell punches: their outages excuse who could not punch."""
    # ``camera: ClassVar[bool] = True`` where its devices are cameras.  The windows whose posts one
    # of them sees are its own and those that its options' ``windows()`` names.

    def __init__(self, devices: Sequence[Device]) -> None: ...

    async def run(self, context: Context) -> None:
        """Talk until cancelled.  Raise ``DeviceLost`` or ``DeviceRefused`` to be called again
        after a back-off; anything else is a defect and restarts this link alone."""
        ...
