"""The journal: what was told, appended and read back.  Append only; the only truth there is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from rules.model import (
    Body,
    ClockCheck,
    FollowUpStep,
    Instant,
    LogComplete,
    PresenceEvidence,
    Punch,
    QueueEvent,
    Rating,
    RatingPrompt,
    Reading,
    Seat,
    Shown,
    normal_ticket,
    reading_id,
)
from rules.trust import Clock

RAW_LIMIT = 4096

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Body)

_INSERT = (
    "INSERT OR IGNORE INTO reading (id, device, kind, person, at, received_at, event_at, trust,"
    " earliest, day, body, raw, serial, window, ref)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_EPOCH = date(1970, 1, 1).toordinal()


class LocalDays:
    """Local dates (as proleptic ordinals) of instants; asks the zone once for each hour."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._offset: dict[int, int] = {}

    def day(self, at: Instant) -> int:
        hour = at // 900_000
        offset = self._offset.get(hour)
        if offset is None:
            try:
                moment = datetime.fromtimestamp(hour * 900, UTC).astimezone(self._zone)
                shift = moment.utcoffset() or timedelta()
            except (OverflowError, ValueError, OSError):
                shift = timedelta()
            offset = int(shift.total_seconds()) * 1000
            if len(self._offset) > 50_000:
                self._offset.clear()
            self._offset[hour] = offset
        return (at + offset) // 86_400_000 + _EPOCH


class StoredReading(msgspec.Struct, frozen=True):
    """A reading as journalled."""

    seq: int
    id: bytes
    device: str
    kind: str
    person: str | None
    at: Instant
    received_at: Instant
    body: Body


class Journal:
    """The journal on the writing connection; knows each terminal's clock to date punches."""

    def __init__(self, connection: sqlite3.Connection, zone: ZoneInfo) -> None:
        self._connection = connection
        self.days = LocalDays(zone)
        self._clocks: dict[str, Clock] = {}
        self.last_seq: int = connection.execute(
            "SELECT ifnull(max(seq), 0) FROM reading"
        ).fetchone()[0]

    def append(self, batches: Iterable[tuple[Sequence[Reading], Instant]]) -> int:
        """``rows`` and ``insert`` of each batch; returns how many were new.

        The new rows are those with ``seq`` above the ``last_seq`` of before.
        """
        return sum(
            [self.insert(self.rows(readings, received_at)) for readings, received_at in batches]
        )

    def rows(self, readings: Iterable[Reading], received_at: Instant) -> list[tuple[object, ...]]:
        """The readings as rows to ``insert``, dated by what is known of their clocks so far."""
        return [self._row(reading, received_at) for reading in readings]

    def insert(self, rows: Sequence[tuple[object, ...]]) -> int:
        """Insert what is new, inside the caller's transaction; returns how many rows that were."""
        before = self._connection.total_changes
        self._connection.executemany(_INSERT, rows)
        new = self._connection.total_changes - before
        self.last_seq += new
        return new

    def _row(self, reading: Reading, received_at: Instant) -> tuple[object, ...]:
        body = reading.body
        at = reading.at
        device = reading.device
        if type(body) is Punch:
            if body.source == "terminal":
                event_at, trust, earliest = self.clock(device).event_time(
                    at, received_at, body.live
                )
            else:
                event_at, trust, earliest = at, 0, 0
            return (
                reading_id(reading), device, "punch", body.person, at, received_at, event_at, trust,
                earliest, self.days.day(event_at), _encode(body).decode(), reading.raw[:RAW_LIMIT],
                reading.serial, None, None,
            )  # fmt: skip
        if type(body) is ClockCheck:
            self.clock(device).check(received_at, at)
        elif type(body) is LogComplete:
            clock = self.clock(device)
            clock.complete_until = max(clock.complete_until, at)
        kind = body.__struct_config__.tag
        person = None
        if type(body) is PresenceEvidence or (type(body) is QueueEvent and body.event == "called"):
            person = body.person or None
        window, ref = _counter_place(body)
        return (
            reading_id(reading), device, kind, person, at, received_at, at, 0, 0,
            self.days.day(at), _encode(body).decode(), reading.raw[:RAW_LIMIT], reading.serial,
            window, ref,
        )  # fmt: skip

    def clock(self, device: str) -> Clock:
        """What is known of a terminal's clock; read from the journal the first time."""
        clock = self._clocks.get(device)
        if clock is None:
            clock = self._clocks[device] = Clock()
            for at, received_at in self._connection.execute(
                "SELECT at, received_at FROM reading"
                " WHERE kind = 'clock' AND kind <> 'punch' AND device = ? ORDER BY seq",
                (device,),
            ):
                clock.check(received_at, at)
            clock.complete_until = self._connection.execute(
                "SELECT ifnull(max(at), 0) FROM reading"
                " WHERE kind = 'complete' AND kind <> 'punch' AND device = ?",
                (device,),
            ).fetchone()[0]
        return clock

    def forget_clocks(self) -> None:
        """After a transaction that was rolled back: what it taught about clocks did not happen."""
        self._clocks.clear()


def _counter_place(body: Body) -> tuple[str | None, str | None]:
    """The window whose counter a reading belongs to (empty: the hall's), and what it refers to."""
    if isinstance(body, QueueEvent):
        return body.window, body.ticket
    if isinstance(body, Rating):
        return body.window, body.session or normal_ticket(body.service_ref)
    if isinstance(body, RatingPrompt):
        return body.window, body.session
    if isinstance(body, Shown):
        return body.window, None
    if isinstance(body, FollowUpStep):
        return None, body.rating_id
    if isinstance(body, Seat):
        return None, body.window
    return None, None


def others_since(connection: sqlite3.Connection, seq: int) -> Iterator[StoredReading]:
    """Everything but punches with a ``seq`` above this one, in order."""
    yield from _stored(
        connection.execute(
            "SELECT seq, id, device, kind, person, at, received_at, body FROM reading"
            " WHERE seq > ? AND kind <> 'punch' ORDER BY seq",
            (seq,),
        )
    )


def of_kind(connection: sqlite3.Connection, *kinds: str) -> Iterator[StoredReading]:
    """All readings of these kinds (never ``punch``), in order of receipt."""
    for kind in kinds:
        yield from _stored(
            connection.execute(
                "SELECT seq, id, device, kind, person, at, received_at, body FROM reading"
                " WHERE kind = ? AND kind <> 'punch' ORDER BY seq",
                (kind,),
            )
        )


def _stored(rows: Iterable[tuple[Any, ...]]) -> Iterator[StoredReading]:
    for seq, id_, device, kind, person, at, received_at, body in rows:
        yield StoredReading(seq, id_, device, kind, person, at, received_at, _decoder.decode(body))
