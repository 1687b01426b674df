"""The lists.  Each is one query along an index, oldest rows first, so that a page stays what it was
while rows are added; the rows become dicts by ``api.views`` and bytes by msgspec, and never pass
through a model."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from fastapi import Query, Response

from api.pages import seal, unseal
from api.problems import Offence, Problem
from api.routing import JSON, Desk, encode
from api.shapes import (
    AbsenceQuery,
    AlertQuery,
    DayQuery,
    DeviceFiguresQuery,
    DeviceQuery,
    PunchQuery,
    ViolationQuery,
)
from api.views import (
    DayBody,
    DayKey,
    Row,
    WireSlot,
    instant_text,
    wire_absence,
    wire_alert,
    wire_day,
    wire_device,
    wire_punch,
    wire_slot,
    wire_violation,
)
from rules.model import Absence, AbsenceRevoked, Alert, Instant, Punch, Slot, Violation
from rules.video import VideoFigures, hall_figures, month_figures

_slots = msgspec.json.Decoder(tuple[Slot, ...])
_day_key = msgspec.json.Decoder(DayKey)
_day_body = msgspec.json.Decoder(DayBody)
_violation = msgspec.json.Decoder(Violation)
_alert = msgspec.json.Decoder(Alert)
_punch = msgspec.json.Decoder(Punch)
_absence = msgspec.json.Decoder(Absence)
_revocation = msgspec.json.Decoder(AbsenceRevoked)
_info = msgspec.json.Decoder(dict[str, Any])

_VIOLATION = (
    "SELECT body, state, reason, revision, changed_at, work_date, person, id, window FROM violation"
)
_ALERT = (
    "SELECT body, work_date, state, reason, acknowledged_by, acknowledged_at, note, revision,"
    " changed_at, opened_at, id FROM alert"
)
_DEVICE = (
    "SELECT state, since, reason, clock_offset, clock_at, complete_until, last_reading_at, punches,"
    " unreadable, info FROM device_state WHERE device = ?"
)
_PUNCH = (
    "SELECT body, id, device, serial, at, received_at, event_at, trust, earliest, day, person, seq"
    " FROM reading"
)


class Where:
    """Conditions joined by AND, with their values."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.values: list[Any] = []

    def add(self, condition: str, *values: Any) -> None:
        self._conditions.append(condition)
        self.values += values

    def one_of(self, column: str, values: Sequence[str]) -> None:
        if len(values) == 1:
            self.add(f"{column} = ?", values[0])
        elif values:
            self.add(f"{column} IN ({', '.join('?' * len(values))})", *values)

    def __str__(self) -> str:
        return f" WHERE {' AND '.join(self._conditions)}" if self._conditions else ""


def page(items: Sequence[Row | WireSlot], following: str | None) -> Response:
    """A list as it is answered."""
    return Response(encode({"items": items, "next": following}), media_type=JSON)


class Reads:
    """The answers to ``GET``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._zone = desk.zone

    # -- attendance

    async def days(self, query: Annotated[DayQuery, Query()]) -> Response:
        """考勤日: what became of each person's work dates."""
        where = _days_where(query)
        if query.cursor:
            where.add(
                "(work_date, person) > (?, ?)", *unseal("days", query.cursor, tuple[str, str])
            )
        rows = self._desk.connection.execute(
            "SELECT body, points, revision, changed_at, work_date, person FROM attendance_day"
            f"{where} ORDER BY work_date, person LIMIT ?",
            (*where.values, query.limit + 1),
        ).fetchall()
        zone = self._zone
        items = [
            wire_day(_day_body.decode(body), zone, revision, changed_at, points=points)
            for body, points, revision, changed_at, _, _ in rows[: query.limit]
        ]
        return page(items, following("days", rows, query.limit, 4, 5))

    async def slots(self, query: Annotated[DayQuery, Query()]) -> Response:
        """考勤点: every expected punch and what became of it."""
        where = _days_where(query)
        first = 0
        if query.cursor:
            *day, first = unseal("slots", query.cursor, tuple[str, str, int])
            where.add("(work_date, person) >= (?, ?)", *day)
        else:
            day = []
        rows = self._desk.connection.execute(
            "SELECT work_date, person, body, slots, revision, changed_at FROM attendance_day"
            f"{where} ORDER BY work_date, person",
            where.values,
        )
        zone = self._zone
        serials = self._desk.reader.serials()
        items: list[WireSlot] = []
        for work_date, person, body, slots, revision, changed_at in rows:
            key = _day_key.decode(body)
            skipped = first if [work_date, person] == day else 0
            for number, slot in enumerate(_slots.decode(slots)[skipped:], skipped):
                if len(items) == query.limit:
                    rows.close()
                    return page(items, seal("slots", (work_date, person, number)))
                items.append(wire_slot(slot, key, zone, revision, changed_at, serials))
        return page(items, None)

    async def punches(self, query: Annotated[PunchQuery, Query()]) -> Response:
        """打卡: everything received, judged or not.

        By event time or for one person the order is by date, person and receipt; otherwise by
        receipt.
        """
        where = Where()
        where.add("kind = 'punch'")
        where.one_of("person", query.person)
        if query.device:
            where.add("device = ?", query.device)
        by_event = query.event_from is not None or query.event_to is not None
        by_receipt = query.received_from is not None or query.received_to is not None
        columns: tuple[int, ...]
        if by_event or (query.person and not by_receipt):
            listing, order, columns = "punches-by-day", "day, person, seq", (9, 10, 11)
            where.add("person IS NOT NULL")
            if query.event_from is not None:
                where.add("day >= ?", local_date(query.event_from, self._zone).toordinal())
                where.add("event_at >= ?", query.event_from)
            if query.event_to is not None:
                where.add("day <= ?", local_date(query.event_to, self._zone).toordinal())
                where.add("event_at < ?", query.event_to)
            if query.cursor:
                where.add(
                    "(day, person, seq) > (?, ?, ?)",
                    *unseal(listing, query.cursor, tuple[int, str, int]),
                )
        else:
            listing, order, columns = "punches-by-receipt", "received_at, seq", (5, 11)
            if query.received_from is not None:
                where.add("received_at >= ?", query.received_from)
            if query.received_to is not None:
                where.add("received_at < ?", query.received_to)
            if query.cursor:
                where.add(
                    "(received_at, seq) > (?, ?)", *unseal(listing, query.cursor, tuple[int, int])
                )
        index = "reading_received" if listing == "punches-by-receipt" else "reading_person_day"
        sql = f"{_PUNCH} INDEXED BY {index}{where} ORDER BY {order} LIMIT ?"
        values = (*where.values, query.limit + 1)

        def ask(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(sql, values).fetchall()

        # A filter without a span of time may have to pass over the whole journal.
        spans = ((query.event_from, query.event_to), (query.received_from, query.received_to))
        unbounded = (query.person or query.device) and all(None in span for span in spans)
        rows = await self._desk.aside(ask) if unbounded else ask(self._desk.connection)
        zone = self._zone
        items = [
            wire_punch(
                _punch.decode(row[0]),
                zone,
                reading_id=row[1],
                device=row[2],
                serial=row[3],
                at=row[4],
                received_at=row[5],
                event_at=row[6],
                trust=row[7],
                earliest=row[8],
            )
            for row in rows[: query.limit]
        ]
        return page(items, following(listing, rows, query.limit, *columns))

    # -- supervision

    async def violations(self, query: Annotated[ViolationQuery, Query()]) -> Response:
        """违规."""
        where = _days_where(query)
        if query.code:
            where.add("code = ?", query.code)
        if query.state != "any":
            where.add("state = ?", query.state)
        if query.cursor:
            where.add(
                "(work_date, person, id) > (?, ?, ?)",
                *unseal("violations", query.cursor, tuple[str, str, str]),
            )
        index = "violation_person" if len(query.person) == 1 else "violation_day"
        rows = self._desk.connection.execute(
            f"{_VIOLATION} INDEXED BY {index}{where} ORDER BY work_date, person, id LIMIT ?",
            (*where.values, query.limit + 1),
        ).fetchall()
        items = [self._violation(row) for row in rows[: query.limit]]
        return page(items, following("violations", rows, query.limit, 5, 6, 7))

    async def violation(self, violation_id: str) -> Response:
        """One violation, withdrawn or not."""
        row = self._desk.connection.execute(
            f"{_VIOLATION} WHERE id = ?", (violation_id,)
        ).fetchone()
        if row is None:
            raise _no_violation(violation_id)
        return Response(encode(self._violation(row)), media_type=JSON)

    def _violation(self, row: tuple[Any, ...]) -> Row:
        body, state, reason, revision, changed_at, *_, window = row
        return wire_violation(
            _violation.decode(body),
            self._zone,
            state=state,
            reason=reason,
            revision=revision,
            changed_at=changed_at,
            window=window,
        )

    async def explanation(self, violation_id: str) -> Response:
        """为什么: rule version, thresholds, readings, calendar facts, and what would have changed
        the verdict."""
        explanation = await self._desk.reader.explain(violation_id)
        if explanation is None:
            raise _no_violation(violation_id)
        return Response(encode(explanation), media_type=JSON)

    async def alerts(self, query: Annotated[AlertQuery, Query()]) -> Response:
        """告警."""
        where = Where()
        if query.state in ("open", "acknowledged"):
            where.add("state = 'open'")
            where.add(f"acknowledged_at IS {'NOT ' * (query.state == 'acknowledged')}NULL")
        elif query.state != "any":
            where.add("state = ?", query.state)
        work_dates(where, query.from_, query.to)
        if query.subject_kind:
            where.add("subject_kind = ?", query.subject_kind)
        if query.subject:
            where.add("subject = ?", query.subject)
        if query.severity:
            where.add("severity >= ?", query.severity)
        if query.updated_since is not None:
            where.add("changed_at >= ?", query.updated_since)
        if query.cursor:
            where.add(
                "(work_date, opened_at, id) > (?, ?, ?)",
                *unseal("alerts", query.cursor, tuple[str, int, str]),
            )
        # Few alerts are open; of the others there are years.
        index = "" if query.state in ("open", "acknowledged") else " INDEXED BY alert_day"
        rows = self._desk.connection.execute(
            f"{_ALERT}{index}{where} ORDER BY work_date, opened_at, id LIMIT ?",
            (*where.values, query.limit + 1),
        ).fetchall()
        items = [
            wire_alert(
                _alert.decode(row[0]),
                self._zone,
                work_date=row[1],
                state=row[2],
                reason=row[3],
                acknowledged_by=row[4],
                acknowledged_at=row[5],
                note=row[6],
                revision=row[7],
                changed_at=row[8],
            )
            for row in rows[: query.limit]
        ]
        return page(items, following("alerts", rows, query.limit, 1, 9, 10))

    # -- devices

    async def devices(self, query: Annotated[DeviceQuery, Query()]) -> Response:
        """设备: state, since when, last reading, clock offset, watermark, counts, last error."""
        reader = self._desk.reader
        after = unseal("devices", query.cursor, tuple[str])[0] if query.cursor else ""
        devices = sorted((d for d in reader.devices() if d.id > after), key=lambda d: d.id)
        notes = reader.notes()
        items = []
        for device in devices[: query.limit]:
            row = self._desk.connection.execute(_DEVICE, (device.id,)).fetchone()
            live = notes.get(device.id, {})
            told = self._device(device.id, row)
            items.append(
                {
                    "id": device.id,
                    "name": device.name,
                    "driver": device.driver,
                    "window": device.window,
                    "attendance": device.attendance,
                    "in_service": device.in_service,
                    **told,
                    "last_error": live.get("last_error", ""),
                    "live": live,
                }
            )
        more = len(devices) > query.limit
        strangers = [
            stranger for note in notes.values() for stranger in note.get("seen_not_configured", ())
        ]
        listing = {
            "items": items,
            "next": seal("devices", (items[-1]["id"],)) if more else None,
            "seen_not_configured": strangers,
        }
        return Response(encode(listing), media_type=JSON)

    def _device(self, device: str, row: tuple[Any, ...] | None) -> Row:
        if row is None:
            told = wire_device(
                device,
                self._zone,
                state="unknown",
                since=0,
                reason="",
                clock_offset=None,
                clock_at=None,
                complete_until=0,
                last_reading_at=None,
                punches=0,
                unreadable=0,
                info={},
            )
            return {**told, "since": None}
        return wire_device(
            device,
            self._zone,
            state=row[0],
            since=row[1],
            reason=row[2],
            clock_offset=row[3],
            clock_at=row[4],
            complete_until=row[5],
            last_reading_at=row[6],
            punches=row[7],
            unreadable=row[8],
            info=_info.decode(row[9]),
        )

    async def device_figures(self, query: Annotated[DeviceFiguresQuery, Query()]) -> Response:
        """设备月度统计: online, health and recording rate of each camera and of the hall.

        Of the workdays of the month so far, and for each camera from when it was first seen.
        """
        reader = self._desk.reader
        today = local_date(reader.now(), self._zone)
        first = query.month or today.replace(day=1)
        month = await reader.video_month(first)
        cameras = month_figures(month)
        names = {device.id: device.name for device in reader.devices()}
        told = {
            "month": f"{first:%Y-%m}",
            "as_of": instant_text(month.as_of, self._zone),
            "hall": {"cameras": len(cameras), **_rates(hall_figures(cameras.values()))},
            "items": [
                {"device": device, "name": names.get(device, ""), **_rates(figures)}
                for device, figures in sorted(cameras.items())
            ],
        }
        return Response(encode(told), media_type=JSON)

    # -- absences

    async def absences(self, query: Annotated[AbsenceQuery, Query()]) -> Response:
        """请假、外出、培训、集体免责, in the order of their last wording."""
        after = unseal("absences", query.cursor, tuple[int])[0] if query.cursor else 0
        people = set(query.person)
        starts = midnight(query.from_, self._zone) if query.from_ else None
        ends = midnight(query.to + timedelta(days=1), self._zone) if query.to else None

        def wanted(told: StoredAbsence) -> bool:
            fact = told.absence
            return (
                told.seq > after
                and (
                    query.state == "any" or (query.state == "revoked") == (told.revoked is not None)
                )
                and (not people or not people.isdisjoint(fact.people))
                and (starts is None or fact.ends > starts)
                and (ends is None or fact.starts < ends)
            )

        found = [told for told in await self._desk.aside(stored_absences) if wanted(told)]
        items = [told.row(self._zone) for told in found[: query.limit]]
        more = len(found) > query.limit
        return page(items, seal("absences", (found[query.limit - 1].seq,)) if more else None)


def _rates(figures: VideoFigures) -> Row:
    return {
        "online_rate": figures.online,
        "health_rate": figures.healthy,
        "recording_rate": figures.recorded,
    }


class StoredAbsence(msgspec.Struct, frozen=True):
    """The newest wording of an absence; ``revoked`` is why it was revoked, none while it holds."""

    seq: int
    absence: Absence
    received_at: Instant
    revoked: str | None

    def row(self, zone: ZoneInfo) -> Row:
        return wire_absence(self.absence, zone, received_at=self.received_at, revoked=self.revoked)


def stored_absences(connection: sqlite3.Connection) -> list[StoredAbsence]:
    """Every absence in the journal, in the order of its newest wording.

    Looks at all of them, a few milliseconds for each thousand: ask aside.
    """
    said: dict[str, tuple[int, Absence, Instant]] = {}
    revoked: dict[str, str] = {}
    for seq, kind, body, received_at in connection.execute(
        "SELECT seq, kind, body, received_at FROM reading"
        " WHERE kind IN ('absence', 'absence_revoked') AND kind <> 'punch' ORDER BY seq"
    ):
        if kind == "absence":
            absence = _absence.decode(body)
            said.pop(absence.absence_id, None)
            said[absence.absence_id] = (seq, absence, received_at)
        else:
            revocation = _revocation.decode(body)
            revoked[revocation.absence_id] = revocation.reason
    return [
        StoredAbsence(seq, absence, received_at, revoked.get(absence_id))
        for absence_id, (seq, absence, received_at) in said.items()
    ]


def _days_where(query: DayQuery) -> Where:
    where = Where()
    work_dates(where, query.from_, query.to)
    where.one_of("person", query.person)
    if query.unit:
        where.add("unit = ?", query.unit)
    if query.updated_since is not None:
        where.add("changed_at >= ?", query.updated_since)
    return where


def work_dates(where: Where, first: date | None, last: date | None) -> None:
    """Both included."""
    if first:
        where.add("work_date >= ?", first.isoformat())
    if last:
        where.add("work_date <= ?", last.isoformat())


def following(listing: str, rows: list[Any], limit: int, *columns: int) -> str | None:
    """The cursor after a page of ``limit`` rows, if there are more; ``columns`` are its place."""
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return seal(listing, tuple(last[column] for column in columns))


def local_date(at: Instant, zone: ZoneInfo) -> date:
    """The date at the hall."""
    return datetime.fromtimestamp(at / 1000, zone).date()


def midnight(day: date, zone: ZoneInfo) -> Instant:
    """When a date begins at the hall."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000)


def _no_violation(violation_id: str) -> Problem:
    return Problem(
        404,
        f"There is no violation '{violation_id}'.",
        [Offence("violation_id", "path", "not known")],
    )
