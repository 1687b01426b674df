"""What the API needs from the daemon, and nothing more."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from msgspec import Struct

from rules.counter import Window
from rules.model import Instant, Person, Reading, VideoMonth


class Health(Struct, frozen=True):
    """``alive``: the daemon's own tasks run; ``ready``: it can take readings.  ``reasons`` say in
    Chinese and English why one of them is false."""

    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()


class ConfiguredDevice(Struct, frozen=True):
    """A device as the settings name it."""

    id: str
    name: str
    driver: str
    window: str = ""
    attendance: bool = True
    in_service: bool = True


class Metric(Struct, frozen=True):
    """One Prometheus metric: ``name`` without the prefix, ``kind`` is ``counter`` or ``gauge``."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]


class Snapshot(Struct, frozen=True):
    """An evidence picture that is kept: ``subject`` is what it shows, ``size`` its bytes.  Names
    sort by time."""

    name: str
    device: str
    at: Instant
    subject: str
    size: int


class SnapshotFolder(Protocol):
    """The evidence pictures.  It is asked in threads, and raises nothing."""

    def all(self) -> Sequence[Snapshot]:
        """The pictures there are, oldest first."""
        ...

    def read(self, name: str) -> bytes | None:
        """A picture; none where there is none of this name, whatever the name."""
        ...


class Remembered(Struct, frozen=True):
    """The answer to a request with an ``Idempotency-Key``: one row of the table ``idempotency``."""

    token: str
    key: str
    request: bytes
    status: int
    answer: str
    at: Instant


class Reader(Protocol):
    """The daemon as the API sees it.  Everything here is called in the API's event loop and, but
    for ``explain``, ``video_month``, ``record`` and ``wait_change``, must answer from memory at
    once."""

    @property
    def zone(self) -> ZoneInfo:
        """The hall's zone."""
        ...

    @property
    def hall(self) -> str:
        """The hall's id."""
        ...

    def connect(self) -> sqlite3.Connection:
        """A new read-only connection to the database, usable from any one thread at a time.  The
        API opens two, asks them by SQL on the tables of the schema, and closes them."""
        ...

    def now(self) -> Instant:
        """The daemon's clock."""
        ...

    def health(self) -> Health: ...

    def people(self) -> Mapping[str, Person]:
        """Everybody known, by code."""
        ...

    def timetables(self) -> Collection[str]:
        """Names of the timetables that a roster may name."""
        ...

    def devices(self) -> Sequence[ConfiguredDevice]: ...

    def windows(self) -> Mapping[str, Window]:
        """The windows of the settings, by id."""
        ...

    def notes(self) -> Mapping[str, Mapping[str, Any]]:
        """The latest ``Context.note`` facts by device or listener id, ready for JSON.  A listener's
        ``seen_not_configured`` is a list of what called it without being in the settings."""
        ...

    def serials(self) -> Mapping[str, str]:
        """Device id to what the device last called itself, where that is known."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """The daemon's own metrics; the API adds those of its requests."""
        ...

    async def explain(self, violation_id: str) -> Mapping[str, Any] | None:
        """Why a stored violation was found: ready for JSON, instants already text.  None where
        there is no such violation or what it rested on was erased."""
        ...

    async def video_month(self, first: date) -> VideoMonth:
        """What is known now of the cameras in the month that begins on ``first``."""
        ...

    async def record(self, readings: Sequence[Reading], remember: Remembered | None) -> None:
        """Journal the readings, together with ``remember`` in one transaction, and judge what they
        touch; returns when both are committed.  Raises ``OSError`` when they could not be stored:
        then nothing was.  A ``remember`` whose token and key exist already changes nothing."""
        ...

    async def wait_change(self, after: int, seconds: float) -> None:
        """Return when a change with ``seq > after`` is committed, or after ``seconds``."""
        ...
