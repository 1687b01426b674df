"""Everything derived, and the outbox: outcomes in, differences out."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import blake2b
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import structs

from api.views import (
    window_event,
    wire_adjustment,
    wire_alert,
    wire_area,
    wire_day,
    wire_device,
    wire_post,
    wire_rating,
    wire_violation,
    wire_window,
)
from daemon.journal import StoredReading
from rules.counter import (
    AreaRecord,
    CounterOutcome,
    CounterRecord,
    LastCall,
    RatingRecord,
    Ratio,
    WindowRecord,
)
from rules.model import (
    DAY,
    Adjustment,
    Alert,
    AlertAction,
    ClockCheck,
    DayRecord,
    DeviceInfo,
    Instant,
    Link,
    LogComplete,
    Outcome,
    PersonDay,
    Slot,
    Unreadable,
    Violation,
)
from rules.post import PostFigures, PostOutcome, PostRecord

_encode = msgspec.json.Encoder().encode
_violation = msgspec.json.Decoder(Violation).decode
_alert = msgspec.json.Decoder(Alert).decode
_window = msgspec.json.Decoder(WindowRecord).decode
_post = msgspec.json.Decoder(PostRecord).decode
_rating = msgspec.json.Decoder(RatingRecord).decode
_slots = msgspec.json.Decoder(tuple[Slot, ...]).decode

_NO_FIGURES = PostFigures(Ratio(), Ratio())
_EPOCH = date(1970, 1, 1).toordinal()

RESOLVED_BY_PERSON = "resolved_by_person"
"""A person's word that a matter is closed stands although the rule would still show it."""

DEVICE_COLUMNS = (
    "device, state, since, reason, clock_offset, clock_at, complete_until, last_reading_at,"
    " punches, unreadable, info"
)


def device_row(selected: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of a SELECT of ``DEVICE_COLUMNS``, by name."""
    named: dict[str, Any] = dict(
        zip((column[0] for column in selected.description), row, strict=True)
    )
    named["info"] = msgspec.json.decode(named["info"])
    return named


def record_json(record: DayRecord) -> tuple[str, str]:
    """A record as stored: without its slots, and the slots."""
    return (
        _encode(msgspec.structs.replace(record, slots=())).decode(),
        _encode(record.slots).decode(),
    )


def stored_record(body: str, slots: str) -> DayRecord:
    """The record that ``record_json`` wrote."""
    record = msgspec.json.decode(body, type=DayRecord)
    return msgspec.structs.replace(record, slots=_slots(slots))


def window_json(record: WindowRecord) -> tuple[str, list[str], dict[str, str]]:
    """A window's date as stored: itself, its services in order, its ratings by id."""
    return (
        _encode(structs.replace(record, services=(), ratings=())).decode(),
        [_encode(service).decode() for service in record.services],
        {rating.rating_id: _encode(rating).decode() for rating in record.ratings},
    )


def _told(post: PostRecord) -> PostRecord:
    """A post's date without what changes by time alone."""
    vacancies = tuple(
        structs.replace(one, parts=(*one.parts[:-1], (one.parts[-1][0], 0)))
        if one.ended_at is None
        else one
        for one in post.vacancies
    )
    return structs.replace(post, vacancies=vacancies, figures=_NO_FIGURES, changes_at=None)


def area_json(area: AreaRecord) -> str:
    """A service area as stored: without its line, which its hours sum up."""
    return _encode(structs.replace(area, line=())).decode()


def inputs_hash(day: PersonDay, rule_version: str) -> str:
    """16 hexadecimal digits over the facts and rules that a record rests on."""
    digest = blake2b(rule_version.encode(), digest_size=8)
    for punch in day.punches:
        digest.update(punch.reading_id)
    for seen in day.evidence:
        digest.update(seen.reading_id)
    if day.absences:
        digest.update(_encode(day.absences))
    for segment in day.segments:
        digest.update(b"%d-%d" % (segment.starts, segment.ends))
    return digest.hexdigest()


class _StoredAlert(NamedTuple):
    body: str
    state: str
    reason: str
    by: str
    done_at: Instant | None
    note: str
    revision: int


_ALERT_COLUMNS = "body, state, reason, acknowledged_by, acknowledged_at, note, revision"
_NO_ALERT = _StoredAlert("", "", "", "", None, "", 0)


class _Findings(NamedTuple):
    violations: dict[str, tuple[str, str, int]]
    """Body, state and revision by id."""
    alerts: dict[str, _StoredAlert]


class StoredDays:
    """What is stored of some people's days; findings are read, for all of them, only when one of
    them has any."""

    def __init__(
        self, execute: Callable[..., sqlite3.Cursor], people: Mapping[date, Sequence[str]]
    ) -> None:
        self._execute = execute
        self._people = people
        self._findings: dict[date, dict[str, _Findings]] = {}
        self._days: dict[tuple[str, date], tuple[str, str, int, int]] = {}
        for work_date in people:
            for person, *row in self._of("body, slots, revision, findings", work_date):
                self._days[person, work_date] = (row[0], row[1], row[2], row[3])

    def day(self, person: str, work_date: date) -> tuple[str, str, int, int] | None:
        """Body, slots, revision and number of findings."""
        return self._days.get((person, work_date))

    def findings(self, person: str, work_date: date) -> _Findings:
        found = self._findings.get(work_date)
        if found is None:
            found = self._findings[work_date] = {
                code: _Findings({}, {}) for code in self._people[work_date]
            }
            columns = "id, body, state, revision"
            for code, id_, *row in self._of(columns, work_date, "violation"):
                found[code].violations[id_] = (row[0], row[1], row[2])
            for code, id_, *row in self._of(f"id, {_ALERT_COLUMNS}", work_date, "alert"):
                found[code].alerts[id_] = _StoredAlert(*row)
        return found[person]

    def _of(self, columns: str, work_date: date, table: str = "attendance_day") -> sqlite3.Cursor:
        codes = self._people[work_date]
        who = {
            "alert": "subject_kind = 'person' AND subject",
            "violation": "scope = 'person' AND person",
        }.get(table, "person")
        return self._execute(
            f"SELECT {'subject' if table == 'alert' else 'person'}, {columns} FROM {table}"
            f" WHERE work_date = ? AND {who} IN ({', '.join('?' * len(codes))})",
            (work_date.isoformat(), *codes),
        )


class Store:
    """The derived tables on the writing connection; all runs in the transaction of the caller, who
    calls ``flush`` before the commit, or ``forget`` after a rollback."""

    def __init__(self, connection: sqlite3.Connection, zone: ZoneInfo) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self.zone = zone
        self.head = 0
        """Number of the last change."""
        # What is written often waits here, to be written many rows at a time.
        self._changes: list[tuple[object, ...]] = []
        self._days: list[tuple[object, ...]] = []
        self._days_confirmed: list[tuple[object, ...]] = []
        self._violation_rows: list[tuple[object, ...]] = []
        self._alert_rows: list[tuple[object, ...]] = []
        self._wakes: dict[tuple[str, str, str], Instant | None] = {}
        self.forget()
        self.actions: Mapping[str, Sequence[tuple[Instant, AlertAction]]] = {}
        """What people did about alerts, by alert id."""
        self.serials: Mapping[str, str] = {}
        """Device id to what the device calls itself."""
        self.quiet = False
        """While old readings are heard again: devices' former states are no changes."""

    def forget(self) -> None:
        """After a transaction that was rolled back."""
        self._changes.clear()
        self._days.clear()
        self._days_confirmed.clear()
        self._violation_rows.clear()
        self._alert_rows.clear()
        self._wakes.clear()
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
        self.head = row[0] if row else 0

    def flush(self) -> None:
        """Write what waits; before anything reads it and before the commit."""
        if self._changes:
            self._executemany("INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?)", self._changes)
            self._changes.clear()
        if self._days:
            self._executemany(
                "INSERT OR REPLACE INTO attendance_day (work_date, person, unit, verdict,"
                " finality, points, body, slots, inputs_hash, findings, as_of, revision,"
                " changed_at, change_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._days,
            )
            self._days.clear()
        if self._days_confirmed:
            self._executemany(
                "UPDATE attendance_day SET as_of = ?, findings = ?, inputs_hash = ?"
                " WHERE work_date = ? AND person = ?",
                self._days_confirmed,
            )
            self._days_confirmed.clear()
        if self._violation_rows:
            self._executemany(
                "INSERT OR REPLACE INTO violation (id, rule, code, person, unit, work_date,"
                " severity, points, finality, state, reason, body, revision, changed_at,"
                " change_seq, scope, window)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._violation_rows,
            )
            self._violation_rows.clear()
        if self._alert_rows:
            self._executemany(
                "INSERT OR REPLACE INTO alert (id, rule, code, subject_kind, subject, work_date,"
                " severity, opened_at, state, reason, body, acknowledged_by, acknowledged_at,"
                " note, revision, changed_at, change_seq, scope)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._alert_rows,
            )
            self._alert_rows.clear()
        if self._wakes:
            over = [day for day, at in self._wakes.items() if at is None]
            if over:
                self._executemany(
                    "DELETE FROM wake WHERE subject_kind = ? AND subject = ? AND work_date = ?",
                    over,
                )
            self._executemany(
                "INSERT OR REPLACE INTO wake (subject_kind, subject, work_date, at)"
                " VALUES (?, ?, ?, ?)",
                [(*day, at) for day, at in self._wakes.items() if at is not None],
            )
            self._wakes.clear()

    def _change(
        self, kind: str, op: str, key: str, at: Instant, reason: str, row: dict[str, object]
    ) -> int:
        self.head += 1
        self._changes.append((self.head, kind, op, key, at, reason, _encode(row).decode()))
        return self.head

    # -- a person's day

    def stored_days(self, people: Mapping[date, Sequence[str]]) -> StoredDays:
        """What is stored of these people's days: all that ``apply_person`` needs to know."""
        self.flush()
        return StoredDays(self._execute, people)

    def apply_person(
        self, day: PersonDay, outcome: Outcome, rule_version: str, stored: StoredDays
    ) -> None:
        """Make the stored rows of a person's day those of ``outcome``; record what changed."""
        person, work_date, at = day.person.code, day.work_date.isoformat(), day.as_of
        found = stored.day(person, day.work_date)
        old_body, old_slots, revision, findings = found or ("", "", 0, 0)
        record = outcome.record
        reason = _withdrawal_reason(day)
        if findings or outcome.violations or outcome.alerts or outcome.adjustments:
            before = stored.findings(person, day.work_date)
            findings += self._violations(before.violations, outcome.violations, at, reason)
            findings += self._alerts("person", before.alerts, work_date, outcome.alerts, at, reason)
            findings += self._adjustments(person, work_date, outcome.adjustments, at)
        if record is not None and (record.slots or record.strays):
            body, slots = record_json(record)
            if (body, slots) != (old_body, old_slots):
                revision += 1
                points = sum(violation.points for violation in outcome.violations)
                seq = self._change(
                    "attendance", "amended" if found else "opened", f"{person}/{work_date}", at, "",
                    wire_day(
                        record, self.zone, revision, at, points=points, serials=self.serials
                    ),
                )  # fmt: skip
                self._days.append(
                    (
                        work_date, person, record.unit, record.verdict, record.finality,
                        points, body, slots,
                        inputs_hash(day, rule_version), findings, at, revision, at, seq,
                    )
                )  # fmt: skip
            else:
                self._days_confirmed.append(
                    (at, findings, inputs_hash(day, rule_version), work_date, person)
                )
        elif found:
            self._change(
                "attendance", "withdrawn", f"{person}/{work_date}", at, reason,
                wire_day(
                    stored_record(old_body, old_slots), self.zone, revision + 1, at, points=0
                ),
            )  # fmt: skip
            self._execute(
                "DELETE FROM attendance_day WHERE work_date = ? AND person = ?", (work_date, person)
            )
        self.set_wake("person", person, work_date, outcome.ask_again)

    def set_wake(self, subject_kind: str, subject: str, work_date: str, at: Instant | None) -> None:
        """Judge this day again at ``at`` (never, if none)."""
        self._wakes[subject_kind, subject, work_date] = at

    def wake_soon(self, days: Sequence[tuple[str, str, str]], at: Instant) -> None:
        """Have these ``(subject kind, subject, work date)`` judged again when there is time."""
        self.flush()
        # A date's people come together, a ms for each day of age apart from the next date's, so
        # that its punches are read once for all of them.
        today = at // DAY + _EPOCH
        due = {
            day: at - max(0, today - date.fromisoformat(day).toordinal())
            for day in {day for _, _, day in days}
        }
        self._executemany(
            "INSERT INTO wake (subject_kind, subject, work_date, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET at = min(at, excluded.at)",
            [(*day, due[day[2]]) for day in days],
        )

    def _violations(
        self,
        stored: dict[str, tuple[str, str, int]],
        violations: Sequence[Violation],
        at: Instant,
        reason: str,
        window: str = "",
    ) -> int:
        """Returns how many rows were added.  ``window``: they are of its post, not of a person's
        day."""
        added = 0
        if any(violation.id not in stored for violation in violations):
            # A heavier finding has taken the place of a lesser one.
            reason = "superseded"
        for violation in violations:
            body = _encode(violation).decode()
            old_body, state, revision = stored.pop(violation.id, ("", "", 0))
            if body == old_body and state == "active":
                continue
            added += not revision
            op = "amended" if state == "active" else "opened"
            self._write_violation(violation, body, op, "active", "", revision + 1, at, window)
        for old_body, state, revision in stored.values():
            if state != "withdrawn":
                violation = _violation(old_body)
                self._write_violation(
                    violation, old_body, "withdrawn", "withdrawn", reason, revision + 1, at, window
                )
        return added

    def _write_violation(
        self,
        violation: Violation,
        body: str,
        op: str,
        state: str,
        reason: str,
        revision: int,
        at: Instant,
        window: str,
    ) -> None:
        seq = self._change(
            "violation", op, violation.id, at, reason,
            wire_violation(
                violation, self.zone,
                state=state, reason=reason, revision=revision, changed_at=at, window=window,
            ),
        )  # fmt: skip
        self._violation_rows.append(
            (
                violation.id, violation.rule, violation.code, violation.person, violation.unit,
                violation.work_date.isoformat(), violation.severity, violation.points,
                violation.finality, state, reason, body, revision, at, seq,
                "post" if window else "person", window,
            )
        )  # fmt: skip

    def _alerts(
        self,
        scope: str,
        stored: dict[str, _StoredAlert],
        work_date: str,
        alerts: Sequence[Alert],
        at: Instant,
        reason: str,
    ) -> int:
        """Returns how many rows were added."""
        added = 0
        for alert in alerts:
            body = _encode(alert).decode()
            old = stored.pop(alert.id, _NO_ALERT)
            by_person = old.reason == RESOLVED_BY_PERSON and alert.state == "open"
            state = "resolved" if by_person else alert.state
            if body == old.body and old.state == state:
                continue
            added += not old.revision
            op = "opened" if old.state in ("", "withdrawn") else "amended"
            why = old.reason if by_person else ""
            self._write_alert(alert, body, scope, work_date, op, state, why, old, at)
            if not old.revision:
                for acted_at, action in self.actions.get(alert.id, ()):
                    self.act_on_alert(action, acted_at, at)
        for old in stored.values():
            if old.state != "withdrawn":
                gone = _alert(old.body)
                self._write_alert(
                    gone, old.body, scope, work_date, "withdrawn", "withdrawn", reason, old, at
                )
        return added

    def _write_alert(
        self,
        alert: Alert,
        body: str,
        scope: str,
        work_date: str,
        op: str,
        state: str,
        reason: str,
        old: _StoredAlert,
        at: Instant,
    ) -> None:
        by, done_at, note, revision = old.by, old.done_at, old.note, old.revision + 1
        seq = self._change(
            "alert", op, alert.id, at, reason,
            wire_alert(
                alert, self.zone, work_date=work_date, state=state, reason=reason,
                acknowledged_by=by, acknowledged_at=done_at, note=note, revision=revision,
                changed_at=at,
            ),
        )  # fmt: skip
        self._alert_rows.append(
            (
                alert.id, alert.rule, alert.code, alert.subject_kind, alert.subject, work_date,
                alert.severity, alert.opened_at, state, reason, body, by, done_at, note, revision,
                at, seq, scope,
            )
        )  # fmt: skip

    def act_on_alert(self, action: AlertAction, acted_at: Instant, at: Instant) -> date | None:
        """A person acknowledged an alert (resolving implies it).  An alert that is not there (yet)
        is acted on when it comes: in a replay it does.  Returns the date of the hall's devices that
        this bears on, if it does."""
        self.flush()
        found = self._execute(
            f"SELECT scope, work_date, {_ALERT_COLUMNS} FROM alert WHERE id = ?",
            (action.alert_id,),
        ).fetchone()
        if found is None:
            return None
        scope, work_date = found[:2]
        old = _StoredAlert(*found[2:])
        state, reason = old.state, old.reason
        if action.action == "resolve" and state == "open":
            state, reason = "resolved", RESOLVED_BY_PERSON
        acted = old._replace(
            by=old.by or action.by, done_at=old.done_at or acted_at, note=action.note or old.note
        )
        self._write_alert(
            _alert(old.body), old.body, scope, work_date, "amended", state, reason, acted, at
        )
        return date.fromisoformat(work_date) if scope == "hall" else None

    def _adjustments(
        self, person: str, work_date: str, adjustments: Sequence[Adjustment], at: Instant
    ) -> int:
        stored = {
            row[0]: row[1:]
            for row in self._execute(
                "SELECT id, body, revision FROM adjustment WHERE work_date = ? AND person = ?",
                (work_date, person),
            )
        }
        added = 0
        for adjustment in adjustments:
            body = _encode(adjustment).decode()
            old_body, revision = stored.pop(adjustment.id, ("", 0))
            if body == old_body:
                continue
            added += not revision
            op = "amended" if revision else "opened"
            seq = self._change(
                "adjustment", op, adjustment.id, at, "",
                wire_adjustment(adjustment, self.zone, revision=revision + 1, changed_at=at),
            )  # fmt: skip
            self._execute(
                "INSERT OR REPLACE INTO adjustment (id, person, work_date, period, body, revision,"
                " changed_at, change_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (adjustment.id, person, work_date, adjustment.period, body, revision + 1, at, seq),
            )
        for id_, (old_body, revision) in stored.items():
            adjustment = msgspec.json.decode(old_body, type=Adjustment)
            self._change(
                "adjustment", "withdrawn", id_, at, "",
                wire_adjustment(adjustment, self.zone, revision=revision + 1, changed_at=at),
            )  # fmt: skip
            self._execute("DELETE FROM adjustment WHERE id = ?", (id_,))
        return added

    # -- the hall and its devices

    def apply_hall(self, work_date: date, hall: str, outcome: Outcome, as_of: Instant) -> None:
        """Make the stored alerts about devices and the hall of a date those of ``outcome``."""
        day = work_date.isoformat()
        stored = self._stored_alerts("hall", day)
        self._alerts("hall", stored, day, outcome.alerts, as_of, "facts_changed")
        self.set_wake("hall", hall, day, outcome.ask_again)

    def _stored_alerts(
        self, scope: str, work_date: str, subject: str | None = None
    ) -> dict[str, _StoredAlert]:
        self.flush()
        return {
            row[0]: _StoredAlert(*row[1:])
            for row in self._execute(
                f"SELECT id, {_ALERT_COLUMNS} FROM alert WHERE work_date = ? AND scope = ?"
                " AND (? IS NULL OR subject = ?)",
                (work_date, scope, subject, subject),
            )
        }

    # -- the counter

    def apply_window(
        self, record: WindowRecord, outcome: CounterOutcome, as_of: Instant
    ) -> tuple[str, int | None]:
        """Make the stored rows of a window's date those of ``record``.  Returns what happened at
        the window, if that is new (``called recalled finished window_paused``..., else empty), and
        the number of its last call."""
        window, work_date = record.window.id, record.work_date.isoformat()
        self.flush()
        row = self._execute(
            "SELECT body, revision, call_seq FROM window_day WHERE work_date = ? AND window = ?",
            (work_date, window),
        ).fetchone()
        old_body, revision, old_call = row or ("", 0, None)
        call, new_call = self._number_of(record.last_call, work_date, as_of)
        body, services, ratings = window_json(record)
        happened = ""
        if (body, call) != (old_body, old_call):
            before = _window(old_body) if old_body else None
            happened = window_event(before, record, new_call)
            seq = self._change(
                "window", "amended" if row else "opened", f"{window}/{work_date}", as_of, "",
                wire_window(record, self.zone, call, happened, revision + 1, as_of),
            )  # fmt: skip
            self._execute(
                "INSERT OR REPLACE INTO window_day VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (work_date, window, record.state, call, body, as_of, revision + 1, as_of, seq),
            )
        else:
            self._execute(
                "UPDATE window_day SET as_of = ? WHERE work_date = ? AND window = ?",
                (as_of, work_date, window),
            )
        self._services(window, work_date, services)
        self._ratings(record, work_date, ratings, as_of)
        stored = self._stored_alerts("window", work_date, window)
        self._alerts("window", stored, work_date, outcome.alerts, as_of, "facts_changed")
        return happened, call

    def apply_post(
        self,
        window: str,
        work_date: date,
        post: PostRecord | None,
        outcome: PostOutcome,
        waits_on: Sequence[tuple[str, Instant]],
        as_of: Instant,
    ) -> None:
        """Make the stored rows of a post's date those of ``post`` and ``outcome``.  That time goes
        on is no change."""
        day = work_date.isoformat()
        self.flush()
        row = self._execute(
            "SELECT body, revision FROM post_day WHERE work_date = ? AND window = ?", (day, window)
        ).fetchone()
        if post is not None:
            body = _encode(post).decode()
            if row is None or _told(_post(row[0])) != _told(post):
                revision = row[1] + 1 if row else 1
                seq = self._change(
                    "post", "amended" if row else "opened", f"{window}/{day}", as_of, "",
                    wire_post(post, self.zone, day, revision, as_of),
                )  # fmt: skip
                self._execute(
                    "INSERT OR REPLACE INTO post_day VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (day, window, post.state, body, as_of, revision, as_of, seq),
                )
            else:
                self._execute(
                    "UPDATE post_day SET as_of = ?, body = ? WHERE work_date = ? AND window = ?",
                    (as_of, body, day, window),
                )
        elif row is not None:
            # The settings no longer have a camera for it.
            gone = _post(row[0])
            self._change(
                "post", "withdrawn", f"{window}/{day}", as_of, "facts_changed",
                wire_post(gone, self.zone, day, row[1] + 1, as_of),
            )  # fmt: skip
            self._execute("DELETE FROM post_day WHERE work_date = ? AND window = ?", (day, window))
        alerts = self._stored_alerts("post", day, window)
        self._alerts("post", alerts, day, outcome.alerts, as_of, "facts_changed")
        if post is not None or row is not None or outcome.violations:
            violations = {
                id_: (old, state, revision)
                for id_, old, state, revision in self._execute(
                    "SELECT id, body, state, revision FROM violation"
                    " WHERE work_date = ? AND window = ? AND window <> ''",
                    (day, window),
                )
            }
            self._violations(violations, outcome.violations, as_of, "facts_changed", window)
        self._execute("DELETE FROM waits_on WHERE work_date = ? AND window = ?", (day, window))
        self._executemany(
            "INSERT INTO waits_on VALUES (?, ?, ?, ?)",
            [(day, window, queue, until) for queue, until in waits_on],
        )

    def _number_of(
        self, call: LastCall | None, work_date: str, at: Instant
    ) -> tuple[int | None, bool]:
        """The number of a call, by which boards know a new one; and whether it is new."""
        if call is None:
            return None, False
        known = self._execute(
            "SELECT min(seq) FROM call WHERE work_date = ?"
            f" AND reading IN ({', '.join('?' * len(call.readings))})",
            (work_date, *call.readings),
        ).fetchone()[0]
        # A database that was lost must not begin again below what boards have seen.
        number = (
            known
            or self._execute(
                "SELECT max(ifnull(max(seq), 0) + 1, ?) FROM call", (at // 10_000,)
            ).fetchone()[0]
        )
        self._executemany(
            "INSERT OR IGNORE INTO call VALUES (?, ?, ?)",
            [(work_date, one, number) for one in call.readings],
        )
        return number, known is None

    def _services(self, window: str, work_date: str, services: Sequence[str]) -> None:
        stored = dict(
            self._execute(
                "SELECT number, body FROM service WHERE work_date = ? AND window = ?",
                (work_date, window),
            ).fetchall()
        )
        rows = []
        for number, body in enumerate(services):
            if stored.pop(number, "") != body:
                rows.append((work_date, window, number, body))
        self._executemany("INSERT OR REPLACE INTO service VALUES (?, ?, ?, ?)", rows)
        self._executemany(
            "DELETE FROM service WHERE work_date = ? AND window = ? AND number = ?",
            [(work_date, window, number) for number in stored],
        )

    def _ratings(
        self, record: WindowRecord, work_date: str, bodies: Mapping[str, str], at: Instant
    ) -> None:
        window = record.window.id
        stored = {
            row[0]: row[1:]
            for row in self._execute(
                "SELECT rating_id, body, revision FROM rating WHERE work_date = ? AND window = ?",
                (work_date, window),
            )
        }
        for rating in record.ratings:
            body = bodies[rating.rating_id]
            old_body, revision = stored.pop(rating.rating_id, ("", 0))
            if body == old_body:
                continue
            if not revision:
                # It may have belonged to another date.
                (revision,) = self._execute(
                    "SELECT ifnull(max(revision), 0) FROM rating WHERE rating_id = ?",
                    (rating.rating_id,),
                ).fetchone()
            seq = self._change(
                "rating", "amended" if revision else "opened", rating.rating_id, at, "",
                wire_rating(rating, self.zone, work_date, revision + 1, at),
            )  # fmt: skip
            self._execute(
                "INSERT OR REPLACE INTO rating VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    rating.rating_id, work_date, window, rating.at, rating.level,
                    rating.follow_up.state if rating.follow_up else "", body, revision + 1, at, seq,
                ),
            )  # fmt: skip
        for rating_id, (old_body, revision) in stored.items():
            self._change(
                "rating", "withdrawn", rating_id, at, "facts_changed",
                wire_rating(_rating(old_body), self.zone, work_date, revision + 1, at),
            )  # fmt: skip
            self._execute(
                "DELETE FROM rating WHERE rating_id = ? AND work_date = ?", (rating_id, work_date)
            )

    def apply_counter(
        self,
        work_date: date,
        hall: str,
        record: CounterRecord,
        outcome: CounterOutcome,
        as_of: Instant,
    ) -> None:
        """Make the stored service areas and alerts of the hall's counter those of ``outcome``."""
        day = work_date.isoformat()
        self.flush()
        stored = {
            row[0]: row[1:]
            for row in self._execute(
                "SELECT area, body, revision FROM area_day WHERE work_date = ?", (day,)
            )
        }
        for area in record.areas:
            body = area_json(area)
            old_body, revision = stored.pop(area.area, ("", 0))
            if body == old_body:
                continue
            seq = self._change(
                "area", "amended" if revision else "opened", f"{area.area}/{day}", as_of, "",
                wire_area(area, self.zone, day, revision + 1, as_of),
            )  # fmt: skip
            self._execute(
                "INSERT OR REPLACE INTO area_day VALUES (?, ?, ?, ?, ?, ?, ?)",
                (day, area.area, body, as_of, revision + 1, as_of, seq),
            )
        self._executemany(
            "DELETE FROM area_day WHERE work_date = ? AND area = ?", [(day, one) for one in stored]
        )
        self._execute("UPDATE area_day SET as_of = ? WHERE work_date = ?", (as_of, day))
        alerts = self._stored_alerts("counter", day)
        self._alerts("counter", alerts, day, outcome.alerts, as_of, "facts_changed")
        self.set_wake("counter", hall, day, outcome.ask_again)

    def count_readings(self, counts: Counter[str], latest: dict[str, Instant]) -> None:
        """Punches journalled for each device, and when the last one came."""
        self._executemany(
            "INSERT INTO device_state (device, state, since, punches, last_reading_at)"
            " VALUES (?, 'unknown', ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " punches = punches + excluded.punches, last_reading_at = excluded.last_reading_at",
            [(device, latest[device], number, latest[device]) for device, number in counts.items()],
        )

    def see_device(self, stored: StoredReading, at: Instant) -> None:
        """Keep a device's state in step with one reading of or about it."""
        body = stored.body
        device = stored.device
        self._execute(
            "INSERT OR IGNORE INTO device_state (device, state, since) VALUES (?, 'unknown', ?)",
            (device, stored.received_at),
        )
        update = "UPDATE device_state SET last_reading_at = ?"
        if isinstance(body, Link):
            state = "online" if body.up else "offline"
            self._execute(
                f"{update}, state = ?, reason = ?,"
                " since = CASE WHEN state = ? THEN since ELSE ? END WHERE device = ?",
                (stored.received_at, state, body.reason, state, stored.at, device),
            )
        elif isinstance(body, ClockCheck):
            self._execute(
                f"{update}, clock_offset = ?, clock_at = ? WHERE device = ?",
                (stored.received_at, stored.at - stored.received_at, stored.received_at, device),
            )
        elif isinstance(body, LogComplete):
            self._execute(
                f"{update}, complete_until = max(complete_until, ?) WHERE device = ?",
                (stored.received_at, stored.at, device),
            )
            return
        elif isinstance(body, DeviceInfo):
            self._execute(
                f"{update}, info = ? WHERE device = ?",
                (stored.received_at, _encode(body.facts).decode(), device),
            )
        elif isinstance(body, Unreadable):
            self._execute(
                f"{update}, unreadable = unreadable + 1 WHERE device = ?",
                (stored.received_at, device),
            )
        else:
            return
        self._device_change(device, at)

    def _device_change(self, device: str, at: Instant) -> None:
        if self.quiet:
            return
        found = self._execute(
            f"SELECT {DEVICE_COLUMNS} FROM device_state WHERE device = ?", (device,)
        )
        row = device_row(found, found.fetchone())
        seq = self._change(
            "device", "amended", device, at, row["reason"], wire_device(zone=self.zone, **row)
        )
        self._execute("UPDATE device_state SET change_seq = ? WHERE device = ?", (seq, device))


def _withdrawal_reason(day: PersonDay) -> str:
    """Why a finding of this day no longer holds, as far as the facts tell: the newest of them."""
    leave = max((span.received_at for span in day.absences), default=0)
    punch = max((punch.received_at for punch in day.punches), default=0)
    if leave > punch:
        return "retro_leave"
    if punch:
        return "late_punch"
    return "facts_changed"
