"""``POST /v1/events``: what happened, as other systems tell it.

Events about people and terminals are recorded all or none.  Events of the counter (queue events,
ratings, steps of a follow-up) come in batches from systems that cannot mend a bad row: each is
answered for itself, and a list with one of them is answered so altogether.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from fastapi import Body, Request
from msgspec import structs
from pydantic import TypeAdapter, ValidationError

from api.auth import Token
from api.problems import Offence, Problem, invalid, wrong
from api.reads import local_date
from api.routing import Desk, Write
from api.shapes import (
    EventBatch,
    ExplainedGap,
    FollowUpIn,
    ManualPunch,
    PunchCorrection,
    StaffEvent,
    StandIn,
    VacancyReview,
)
from api.views import Row
from api.writes import DEVICE
from drivers.counter_json import (
    SCALES,
    BadBody,
    FieldError,
    Scale,
    TellerClock,
    masked,
    placed,
    queue_event,
    rating,
)
from rules.model import (
    MINUTE,
    FollowUpStep,
    GapExplained,
    Instant,
    PostReview,
    PresenceEvidence,
    Punch,
    QueueEvent,
    Rating,
    Reading,
    Substitution,
    reading_id,
)
from rules.model import Body as ReadingBody
from rules.post import PostRecord

AHEAD = 5 * MINUTE
"""How far another system's clock may be ahead of ours."""

COUNTER_KINDS = ("queue", "rating", "follow_up")
_MARKS = {"type": "queue", "level": "rating", "step": "follow_up"}
"""The field by which an item without ``kind`` is known: bodies may be those of MQTT and pads."""

_staff_events: TypeAdapter[list[Any]] = TypeAdapter(list[StaffEvent])
_steps: TypeAdapter[list[FollowUpIn]] = TypeAdapter(list[FollowUpIn])
_post = msgspec.json.Decoder(PostRecord).decode
_queue_event = msgspec.json.Decoder(QueueEvent).decode
_rating = msgspec.json.Decoder(Rating).decode


def counter_kind(item: object) -> str:
    """Which event of the counter this is meant to be; empty for anything else."""
    if not isinstance(item, dict):
        return ""
    kind = item.get("kind")
    if kind is None:
        return next((kind for mark, kind in _MARKS.items() if mark in item), "")
    return kind if kind in COUNTER_KINDS else ""


class Events:
    """The answer to ``POST /v1/events``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reader = desk.reader
        self._clocks: dict[str, TellerClock] = {}
        """Of queue systems, by the token with which they tell."""

    async def events(self, request: Request, body: Annotated[EventBatch, Body()]) -> Write:
        """登记事件: what happened, one event or up to 500.

        Events about people and terminals: all or none.  Queue events, ratings and steps of a
        follow-up, and whatever is sent in one list with them, are answered one by one, `stored`,
        `duplicate` or `rejected`; 200 if nothing was new.  A single one that is rejected is 422.
        """
        items: list[object] = body if isinstance(body, list) else [body]
        if not any(map(counter_kind, items)):
            return self._all_or_none(items, request.scope["token"].name)
        token: Token = request.scope["token"]
        told = [self._read(item, token.name) for item in items]
        zone = self._desk.zone
        receipts = await self._desk.aside(lambda connection: _receipts(connection, told, zone))
        if not isinstance(body, list) and receipts[0]["status"] == "rejected":
            offences = told[0].errors if isinstance(told[0], BadBody) else ()
            raise _refused(offences or [FieldError(receipts[0]["field"], receipts[0]["reason"])])
        stored = [
            one
            for one, receipt in zip(told, receipts, strict=True)
            if isinstance(one, Reading) and receipt["status"] == "stored"
        ]
        row = {"recorded": len(stored), "items": receipts}
        return Write(stored, 201 if stored else 200, row)

    # -- people and terminals

    def _all_or_none(self, items: Sequence[object], teller: str) -> Write:
        try:
            events = _staff_events.validate_python(items)
        except ValidationError as error:
            raise invalid(error, "body") from None
        readings = []
        for number, event in enumerate(events):
            try:
                readings.append(self._staff_event(event, teller))
            except BadBody as error:
                field, detail = error.errors[0].field, error.errors[0].detail
                raise wrong(f"{number}.{field}", detail) from None
        row = {
            "recorded": len(readings),
            "readings": [reading_id(reading).hex() for reading in readings],
        }
        return Write(readings, 201, row)

    def _staff_event(self, event: Any, teller: str) -> Reading:
        """Raises ``BadBody``."""
        if isinstance(event, ExplainedGap):
            self._not_ahead("ends", event.ends)
            if event.device not in {device.id for device in self._reader.devices()}:
                raise _bad("device", f"there is no device '{event.device}' in the settings")
            # Dated by what it says, so that the same statement twice is one fact.
            gap = GapExplained(event.device, event.starts, event.ends, event.usable, event.by)
            return Reading(DEVICE, event.ends, gap)
        if isinstance(event, VacancyReview | StandIn):
            return self._post_event(event, teller)
        self._not_ahead("at", event.at)
        if event.person not in self._reader.people():
            raise _bad("person", f"nobody is known by the code '{event.person}'")
        body: ReadingBody
        if isinstance(event, ManualPunch | PunchCorrection):
            source = "manual" if isinstance(event, ManualPunch) else "correction"
            note = ": ".join(part for part in (event.by, event.note) if part)
            body = Punch(event.person, source=source, note=note)
        else:
            body = PresenceEvidence(event.person, event.kind, event.window, event.sensor)
        return Reading(DEVICE, event.at, body)

    def _post_event(self, event: VacancyReview | StandIn, teller: str) -> Reading:
        """Raises ``BadBody``."""
        if event.window not in self._reader.windows():
            raise _bad("window", f"there is no window '{event.window}' in the settings")
        if isinstance(event, VacancyReview):
            self._not_ahead("at", event.at)
            began, ended = self._vacancy(event)
            review = PostReview(
                event.window, event.work_date, event.vacancy, event.verdict, event.by or teller,
                masked(event.note), began, ended,
            )  # fmt: skip
            return Reading(DEVICE, event.at, review)
        for field in ("substitute", "person"):
            code = getattr(event, field)
            if code and code not in self._reader.people():
                raise _bad(field, f"nobody is known by the code '{code}'")
        stands_in = Substitution(
            event.substitution_id, event.window, event.substitute, event.starts, event.ends,
            event.person, event.revoked,
        )  # fmt: skip
        # Two entries that differ in nothing are one fact, unless another stood between them.
        return Reading(DEVICE, self._reader.now(), stands_in)

    def _vacancy(self, event: VacancyReview) -> tuple[Instant, Instant]:
        """When the vacancy began and ended, as far as is known now.  Raises ``BadBody``."""
        row = self._desk.connection.execute(
            "SELECT body FROM post_day WHERE work_date = ? AND window = ?",
            (event.work_date.isoformat(), event.window),
        ).fetchone()
        for one in _post(row[0]).vacancies if row else ():
            if one.id == event.vacancy:
                return one.began_at, one.parts[-1][1]
        raise _bad("vacancy", "there is no such vacancy at this window on this date")

    def _not_ahead(self, field: str, at: Instant) -> None:
        if at > self._reader.now() + AHEAD:
            raise _bad(field, "lies in the future")

    # -- the counter

    def _read(self, item: object, teller: str) -> Reading | BadBody:
        """One item as a reading, or what is wrong with it.  ``teller``: who sends it."""
        kind = counter_kind(item)
        try:
            if kind == "queue":
                return self._queue_event(item, teller)
            if kind == "rating":
                return self._rating(item)
            if kind == "follow_up":
                return self._step(item, teller)
            (event,) = _staff_events.validate_python([item])
            return self._staff_event(event, teller)
        except BadBody as error:
            return error
        except ValidationError as error:
            found = invalid(error, "body").errors
            return BadBody(*(FieldError(one.field.partition(".")[2], one.detail) for one in found))

    def _queue_event(self, item: object, teller: str) -> Reading:
        windows = self._reader.windows()
        told = queue_event(item, windows=windows)
        self._at_home(told.hall, told.body.window, windows)
        clock = self._clocks.setdefault(teller, TellerClock())
        at, skewed = clock.placed(told.at, self._reader.now())
        return Reading(DEVICE, at, told.body, told.at_text.encode() if skewed else b"")

    def _rating(self, item: object) -> Reading:
        windows = self._reader.windows()
        name = item.get("scale_id") if isinstance(item, dict) else None
        scale = SCALES.get(name) if isinstance(name, str) else None
        # Keys have been turned into levels already: only which levels there are matters.
        told = rating(item, scale=scale and Scale(scale.id, scale.levels), windows=windows)
        body = told.body
        if not body.window:
            raise _bad("window", "required, but missing")
        self._at_home(told.hall, body.window, windows)
        at, skewed = placed(told.pressed_at, self._reader.now())
        if not skewed:
            return Reading(DEVICE, at, body)
        body = structs.replace(body, problem="clock_skew")
        return Reading(DEVICE, at, body, told.pressed_text.encode())

    def _at_home(self, hall: str, window: str, windows: Collection[str]) -> None:
        if hall and hall != self._reader.hall:
            raise _bad("hall", f"expected {self._reader.hall}")
        if window and window not in windows:
            raise _bad("window", f"there is no window '{window}' in the settings")

    def _step(self, item: object, teller: str) -> Reading:
        (step,) = _steps.validate_python([item])
        self._not_ahead("at", step.at)
        body = FollowUpStep(
            step.rating_id, step.step, step.by or teller, step.handler, masked(step.note)
        )
        return Reading(DEVICE, step.at, body)


def _bad(field: str, detail: str) -> BadBody:
    return BadBody(FieldError(field, detail))


def _refused(errors: Sequence[FieldError]) -> Problem:
    first = errors[0]
    more = f" ({len(errors)} errors in all)" if len(errors) > 1 else ""
    return Problem(
        422,
        f"{first.field or 'body'}: {first.detail}{more}.",
        [Offence(one.field, "body", one.detail) for one in errors],
    )


# --------------------------------------------------------------------------------------------
# What is known already
# --------------------------------------------------------------------------------------------


def _receipts(
    connection: sqlite3.Connection, told: Sequence[Reading | BadBody], zone: ZoneInfo
) -> list[Row]:
    """What becomes of each item: of two with one id in the batch the first counts."""
    fresh: dict[bytes, ReadingBody] = {}
    ratings = {
        one.body.rating_id: one.body
        for one in reversed(told)
        if isinstance(one, Reading) and isinstance(one.body, Rating)
    }
    receipts: list[Row] = []
    for one in told:
        if isinstance(one, BadBody):
            receipts.append(_rejected(*one.errors))
            continue
        id_, body = reading_id(one), one.body
        if isinstance(body, FollowUpStep) and (
            why := _no_follow_up(connection, body.rating_id, ratings)
        ):
            receipts.append(_rejected(why))
            continue
        before = fresh.get(id_)
        known = _known(connection, one, id_, zone) if before is None else _same(before, body)
        if known is None:
            fresh[id_] = body
            receipts.append({"status": "stored", "reading": id_.hex()})
        elif known:
            receipts.append({"status": "duplicate", "reading": id_.hex()})
        else:
            field = "rating_id" if isinstance(body, Rating) else "event_id"
            receipts.append(_rejected(FieldError(field, "stands for another one already")))
    return receipts


def _rejected(*errors: FieldError) -> Row:
    first = errors[0]
    reason = first.detail
    if len(errors) > 1:
        reason = "; ".join(f"{one.field}: {one.detail}" for one in errors)
    return {"status": "rejected", "field": first.field, "reason": reason}


def _no_follow_up(
    connection: sqlite3.Connection, rating_id: str, coming: dict[str, Rating]
) -> FieldError | None:
    row = connection.execute(
        "SELECT follow_up FROM rating WHERE rating_id = ?", (rating_id,)
    ).fetchone()
    if row is None:
        told = coming.get(rating_id)
        if told is None:
            return FieldError("rating_id", f"there is no rating '{rating_id}'")
        followed = told.level is not None and told.level <= 2 and not told.defaulted
    else:
        followed = row[0] != ""
    return None if followed else FieldError("rating_id", "is no bad rating; nothing is followed up")


def _same(before: ReadingBody, now: ReadingBody) -> bool:
    """Whether two with one id tell the same.  A rating is told by its pad and by others, each with
    what it knows: level and window decide."""
    if isinstance(before, Rating) and isinstance(now, Rating):
        return (before.level, before.window) == (now.level, now.window)
    return before == now


def _known(
    connection: sqlite3.Connection, reading: Reading, id_: bytes, zone: ZoneInfo
) -> bool | None:
    """None for news; else whether what is known by this id is the same."""
    body = reading.body
    if isinstance(body, Rating):
        row = connection.execute(
            "SELECT level, window FROM rating WHERE rating_id = ?", (body.rating_id,)
        ).fetchone()
        if row is not None:
            return bool(row == (body.level, body.window))
        row = connection.execute(
            "SELECT body FROM reading WHERE kind = 'rating' AND id = ?", (id_,)
        ).fetchone()
        return None if row is None else _same(_rating(row[0]), body)
    row = connection.execute(
        "SELECT body FROM reading WHERE at = ? AND id = ?", (reading.at, id_)
    ).fetchone()
    if isinstance(body, QueueEvent):
        # A teller whose clock is not believed tells the same at another time of receipt.
        if row is None:
            row = connection.execute(
                "SELECT body FROM reading WHERE kind = 'queue' AND day = ? AND ref = ? AND id = ?",
                (local_date(reading.at, zone).toordinal(), body.ticket, id_),
            ).fetchone()
        return None if row is None else _same(_queue_event(row[0]), body)
    return None if row is None else True
