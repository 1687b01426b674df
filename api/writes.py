"""What other systems push.  Each answer is a ``Write``: readings for the journal and the receipt
that is sent once they are recorded."""

from __future__ import annotations

from secrets import token_hex
from typing import Annotated, Literal

from fastapi import Body, Query, Request

from api.auth import Token
from api.problems import Offence, Problem, wrong
from api.reads import StoredAbsence, stored_absences
from api.routing import Desk, Write
from api.shapes import (
    OUTINGS,
    AbsenceId,
    AbsenceIn,
    AlertNote,
    Code,
    Day,
    PersonIn,
    RevokeQuery,
    RosterIn,
)
from api.views import instant_text
from rules.model import (
    Absence,
    AbsenceRevoked,
    AlertAction,
    Instant,
    Person,
    PersonEntry,
    Reading,
    RosterEntry,
    stable_id,
)
from rules.model import Body as ReadingBody

DEVICE = "api"
"""What readings that came this way have for a device."""


class Writes:
    """The answers to ``POST``, ``PUT`` and ``DELETE``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reader = desk.reader

    def _reading(self, body: ReadingBody, at: Instant | None = None) -> Reading:
        return Reading(DEVICE, self._reader.now() if at is None else at, body)

    def _known(self, code: str, place: str) -> None:
        if code not in self._reader.people():
            raise wrong(place, f"nobody is known by the code '{code}'")

    # -- alerts

    async def acknowledge(
        self, request: Request, alert_id: str, body: Annotated[AlertNote, Body()]
    ) -> Write:
        """签收告警: somebody takes care of it."""
        return self._act(request, alert_id, body, "acknowledge")

    async def resolve(
        self, request: Request, alert_id: str, body: Annotated[AlertNote, Body()]
    ) -> Write:
        """办结告警: it needs no more care."""
        return self._act(request, alert_id, body, "resolve")

    def _act(
        self,
        request: Request,
        alert_id: str,
        body: AlertNote,
        action: Literal["acknowledge", "resolve"],
    ) -> Write:
        row = self._desk.connection.execute(
            "SELECT state FROM alert WHERE id = ?", (alert_id,)
        ).fetchone()
        if row is None:
            raise Problem(
                404,
                f"There is no alert '{alert_id}'.",
                [Offence("alert_id", "path", "not known")],
            )
        if action == "resolve" and row[0] != "open":
            raise Problem(409, f"The alert is {row[0]} already.")
        token: Token = request.scope["token"]
        done = AlertAction(alert_id, action, body.by or token.name, body.note)
        reading = self._reading(done)
        receipt = {
            "alert_id": alert_id,
            "action": action,
            "by": done.by,
            "note": done.note,
            "at": instant_text(reading.at, self._desk.zone),
        }
        return Write([reading], 200, receipt)

    # -- absences

    async def absence(self, request: Request, body: Annotated[AbsenceIn, Body()]) -> Write:
        """登记请假、外出、培训、集体免责: an approved absence."""
        for number, code in enumerate(body.people):
            self._known(code, f"people.{number}")
        required = body.punch_required
        absence = Absence(
            absence_id=body.id or self._new_id(request),
            people=tuple(dict.fromkeys(body.people)),
            kind=body.kind,
            starts=body.starts,
            ends=body.ends,
            punch_required=body.kind in OUTINGS if required is None else required,
            approved_by=body.approved_by,
            source=body.source,
            note=body.note,
        )
        stored = await self._stored_absence(absence.absence_id)
        if stored is not None and stored.revoked is not None:
            raise Problem(
                409,
                f"The absence '{absence.absence_id}' was revoked; send it under another id.",
                [Offence("id", "body", "revoked")],
            )
        if stored is not None and stored.absence == absence:
            return Write([], 200, stored.row(self._desk.zone))
        reading = self._reading(absence)
        told = StoredAbsence(0, absence, reading.at, None)
        return Write([reading], 200 if stored else 201, told.row(self._desk.zone))

    async def revoke(self, absence_id: AbsenceId, query: Annotated[RevokeQuery, Query()]) -> Write:
        """撤销: the absence no longer holds; the days it touched are judged again."""
        stored = await self._stored_absence(absence_id)
        if stored is None:
            raise Problem(
                404,
                f"There is no absence '{absence_id}'.",
                [Offence("absence_id", "path", "not known")],
            )
        if stored.revoked is not None:
            return Write([], 200, stored.row(self._desk.zone))
        revoked = StoredAbsence(stored.seq, stored.absence, stored.received_at, query.reason)
        return Write(
            [self._reading(AbsenceRevoked(absence_id, query.reason))],
            200,
            revoked.row(self._desk.zone),
        )

    def _new_id(self, request: Request) -> str:
        # A request that is repeated after a crash must not make a second absence.
        token: Token = request.scope["token"]
        key = request.headers.get("idempotency-key")
        return stable_id("absence", token.id, key) if key else token_hex(13)

    async def _stored_absence(self, absence_id: str) -> StoredAbsence | None:
        stored = await self._desk.aside(stored_absences)
        return next((told for told in stored if told.absence.absence_id == absence_id), None)

    # -- people and rosters

    async def person(self, code: Code, body: Annotated[PersonIn, Body()]) -> Write:
        """登记人员: a staff member, whole."""
        configured = {device.id for device in self._reader.devices()}
        for number, device in enumerate(body.devices):
            if device not in configured:
                raise wrong(f"devices.{number}", f"there is no device '{device}' in the settings")
        person = Person(
            code=code,
            name=body.name,
            unit=body.unit,
            window=body.window,
            attendance_required=body.attendance_required,
            employed=tuple((spell.from_, spell.to) for spell in body.employed),
            devices=tuple(body.devices),
        )
        row = {
            "code": code,
            "name": person.name,
            "unit": person.unit,
            "window": person.window,
            "attendance_required": person.attendance_required,
            "employed": [{"from": first, "to": last} for first, last in person.employed],
            "devices": person.devices,
        }
        known = self._reader.people().get(code)
        if known == person:
            return Write([], 200, row)
        return Write([self._reading(PersonEntry(person))], 200 if known else 201, row)

    async def roster(
        self, person: Code, work_date: Day, body: Annotated[RosterIn, Body()]
    ) -> Write:
        """排班: what one person is to do on one date."""
        if person not in self._reader.people():
            raise Problem(
                404,
                f"Nobody is known by the code '{person}'.",
                [Offence("person", "path", "not known")],
            )
        if body.timetable and body.timetable not in self._reader.timetables():
            known = ", ".join(sorted(self._reader.timetables()))
            raise wrong("timetable", f"there is no timetable '{body.timetable}', only {known}")
        entry = RosterEntry(person, work_date, body.timetable, body.duty, body.removed)
        row = {
            "person_code": person,
            "work_date": work_date,
            "timetable": entry.timetable,
            "duty": entry.duty,
            "removed": entry.removed,
        }
        return Write([self._reading(entry)], 200, row)
