"""Facts gathered from the journal into what rules may see: a person's day, a hall's day."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from statistics import median
from typing import Any, NamedTuple

import msgspec

from config.load import DeviceSpec, Hall
from daemon.journal import LocalDays, StoredReading, of_kind
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    Absence,
    AbsenceRevoked,
    AbsenceSpan,
    AlertAction,
    CameraMonth,
    DeviceDay,
    DeviceEvent,
    DevicePath,
    Evidence,
    GapExplained,
    HallDay,
    Instant,
    Link,
    Person,
    PersonDay,
    PersonEntry,
    Picture,
    PostReview,
    PresenceEvidence,
    Punch,
    Recorded,
    RosterEntry,
    SeenPunch,
    Segment,
    SegmentRule,
    Substitution,
    VideoMonth,
    merge_intervals,
)
from rules.workdays import at_minute, local_midnight, segments_of

_punch = msgspec.json.Decoder(Punch)
_link = msgspec.json.Decoder(Link)
_gap = msgspec.json.Decoder(GapExplained)
_event = msgspec.json.Decoder(DeviceEvent)
_picture = msgspec.json.Decoder(Picture)
_recorded = msgspec.json.Decoder(Recorded)
_evidence = msgspec.json.Decoder(PresenceEvidence)

_PUNCH_COLUMNS = "person, event_at, at, device, id, trust, earliest, received_at, body, day, kind"
BOOT = 20_000
"""Out of contact for no longer than this (ms), a terminal cannot have been without power: none
starts so fast.  A restart of hallwatch is such a gap."""
EDGE = 3 * MINUTE
"""A loss of contact is dated to the last sign of life, and the way back takes a while too.  A punch
this near to either end of the gap says only that the terminal worked until then, or from then on:
the terminal may have had no power in all the rest of the gap."""

FORTNIGHT = 14
"""Days after a hall's date whose working time counts limits that begin on it."""

DayRows = dict[str, list[SeenPunch | Evidence]]


_Event = tuple[Instant, Instant, int, str, str]
"""``(received_at, at, seq, kind, body)`` of a reading that bears on a device's path."""


class _Expected(NamedTuple):
    segments: tuple[Segment, ...]
    starts: Instant
    ends: Instant


class _Absence(msgspec.Struct, frozen=True):
    fact: Absence
    received_at: Instant


class Said:
    """What people and other systems said, kept in memory: absences, rosters, people.

    Everything remembers when it was received, so that any past answer can be computed again.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._absences: dict[str, list[_Absence]] = {}
        self._absence_ids: dict[str, set[str]] = defaultdict(set)
        self._revoked: dict[str, Instant] = {}
        self._rosters: dict[tuple[str, date], list[tuple[Instant, RosterEntry]]] = {}
        self.people: dict[str, Person] = {}
        """The newest entry of each."""
        self._entries: dict[str, list[tuple[Instant, Person]]] = defaultdict(list)
        """Every entry of a person, in order of receipt."""
        self._heard: dict[str, Instant] = {}
        """When something was last said about a person."""
        self.actions: dict[str, list[tuple[Instant, AlertAction]]] = defaultdict(list)
        """What people did about alerts, by alert id, in order of receipt."""
        self.reviews: dict[tuple[str, date], list[StoredReading]] = defaultdict(list)
        """What people said of vacancies, by window and date, in order of receipt."""
        self._substitutions: dict[str, list[tuple[Instant, Substitution]]] = defaultdict(list)
        """Every wording of each, in order of receipt."""
        self._stand_ins: dict[str, set[str]] = defaultdict(set)
        """Ids of the substitutions of which some wording names this window, or this substitute."""
        for stored in sorted(
            of_kind(
                connection,
                "absence",
                "absence_revoked",
                "roster",
                "person",
                "alert_action",
                "post_review",
                "substitution",
            ),
            key=lambda stored: stored.seq,
        ):
            self.hear(stored)

    def hear(self, stored: StoredReading) -> None:
        """Take in one more journalled reading (others than these kinds are ignored)."""
        body = stored.body
        if isinstance(body, Absence):
            self._absences.setdefault(body.absence_id, []).append(
                _Absence(body, stored.received_at)
            )
            for person in body.people:
                self._absence_ids[person].add(body.absence_id)
            for wording in self._absences[body.absence_id]:
                for person in wording.fact.people:
                    self._note(person, stored.received_at)
        elif isinstance(body, AbsenceRevoked):
            self._revoked.setdefault(body.absence_id, stored.received_at)
            for person, ids in self._absence_ids.items():
                if body.absence_id in ids:
                    self._note(person, stored.received_at)
        elif isinstance(body, RosterEntry):
            self._rosters.setdefault((body.person, body.work_date), []).append(
                (stored.received_at, body)
            )
            self._note(body.person, stored.received_at)
        elif isinstance(body, PersonEntry):
            self.people[body.person.code] = body.person
            self._entries[body.person.code].append((stored.received_at, body.person))
        elif isinstance(body, AlertAction):
            self.actions[body.alert_id].append((stored.received_at, body))
        elif isinstance(body, PostReview):
            self.reviews[body.window, body.work_date].append(stored)
        elif isinstance(body, Substitution):
            told = self._substitutions[body.substitution_id]
            insort(told, (stored.received_at, body), key=lambda one: one[0])
            self._stand_ins[body.window].add(body.substitution_id)
            self._stand_ins[body.substitute].add(body.substitution_id)

    def person(self, code: str, as_of: Instant) -> Person | None:
        """What was said of a person, as known at ``as_of``; none if nothing was."""
        known = [one for received_at, one in self._entries.get(code, ()) if received_at <= as_of]
        return known[-1] if known else None

    def entries(self, code: str) -> Iterator[Person]:
        """Everything that was ever said of a person."""
        return (person for _, person in self._entries.get(code, ()))

    def substitutions(self) -> Iterator[Substitution]:
        """Every wording of every substitution."""
        for told in self._substitutions.values():
            yield from (wording for _, wording in told)

    def substitution(self, substitution_id: str) -> Iterator[Substitution]:
        """Every wording of a substitution."""
        return (wording for _, wording in self._substitutions.get(substitution_id, ()))

    def stand_ins(
        self, window: str, starts: Instant, ends: Instant, as_of: Instant
    ) -> list[Substitution]:
        """Who stands in at a window in ``[starts, ends)``, as known at ``as_of``."""
        found = self._standing(window, starts, ends, as_of)
        return [one for one in found if one.window == window]

    def stands_in(
        self, person: str, starts: Instant, ends: Instant, as_of: Instant
    ) -> list[Substitution]:
        """Where somebody stands in in ``[starts, ends)``, as known at ``as_of``."""
        found = self._standing(person, starts, ends, as_of)
        return [one for one in found if one.substitute == person]

    def _standing(
        self, name: str, starts: Instant, ends: Instant, as_of: Instant
    ) -> list[Substitution]:
        found = []
        for substitution_id in self._stand_ins.get(name, ()):
            told = self._substitutions[substitution_id]
            known = [wording for received_at, wording in told if received_at <= as_of]
            if (
                known
                and not known[-1].revoked
                and known[-1].starts < ends
                and known[-1].ends > starts
            ):
                found.append(known[-1])
        return sorted(found, key=lambda one: (one.starts, one.substitution_id))

    def _note(self, person: str, received_at: Instant) -> None:
        self._heard[person] = max(self._heard.get(person, 0), received_at)

    def heard_since(self, person: str, at: Instant) -> bool:
        """Whether an absence or roster of this person came, changed or was revoked after ``at``."""
        return self._heard.get(person, 0) > at

    def absence(self, absence_id: str) -> Iterator[Absence]:
        """Every wording of an absence."""
        return (wording.fact for wording in self._absences.get(absence_id, ()))

    def absences(
        self, person: str, starts: Instant, ends: Instant, as_of: Instant
    ) -> tuple[AbsenceSpan, ...]:
        """The approved absences of a person that meet ``[starts, ends)``, as known at ``as_of``."""
        ids = self._absence_ids.get(person)
        if not ids:
            return ()
        spans = []
        for absence_id in sorted(ids):
            known = [a for a in self._absences[absence_id] if a.received_at <= as_of]
            if not known or self._revoked.get(absence_id, as_of + 1) <= as_of:
                continue
            fact = known[-1].fact
            if person in fact.people and fact.starts < ends and fact.ends > starts:
                spans.append(
                    AbsenceSpan(
                        absence_id, fact.kind, fact.starts, fact.ends, fact.punch_required,
                        known[-1].received_at,
                    )
                )  # fmt: skip
        return tuple(sorted(spans, key=lambda span: (span.starts, span.absence_id)))

    @property
    def has_rosters(self) -> bool:
        return bool(self._rosters)

    def roster(self, person: str, work_date: date, as_of: Instant) -> RosterEntry | None:
        known = [
            entry
            for received_at, entry in self._rosters.get((person, work_date), ())
            if received_at <= as_of
        ]
        return known[-1] if known and not known[-1].removed else None


class Paths:
    """When each attendance terminal could be used, date by date."""

    def __init__(
        self, connection: sqlite3.Connection, devices: Iterable[str], proof: Instant
    ) -> None:
        """``proof``: how long (ms) around a late punch its terminal is known to have worked."""
        self._connection = connection
        self._devices = tuple(devices)
        self._proof = proof
        self._events: dict[tuple[str, date], list[_Event]] = {}
        self._built: dict[tuple[str, date, int, Instant], DevicePath] = {}
        self._tuples: dict[tuple[date, tuple[int, ...]], tuple[DevicePath, ...]] = {}
        self._latest: dict[date, tuple[Instant, tuple[DevicePath, ...]]] = {}
        """The last paths of a date, and from when on they are so."""
        self._complete: dict[str, tuple[Instant, Instant]] = {}

    def forget(self, device: str | None = None) -> None:
        """Something new is known of this device (of all of them)."""
        for cache in (self._events, self._built):
            for key in [key for key in cache if device in (None, key[0])]:
                del cache[key]  # type: ignore[arg-type]
        self._tuples.clear()
        self._latest.clear()
        if device is None:
            self._complete.clear()
        else:
            self._complete.pop(device, None)

    def of(
        self, work_date: date, starts: Instant, ends: Instant, as_of: Instant
    ) -> tuple[DevicePath, ...]:
        """The paths around ``[starts, ends)`` as known at ``as_of``; the span is always the same
        for a date."""
        latest = self._latest.get(work_date)
        if latest is not None and latest[0] <= as_of:
            return latest[1]
        built = [self._path(device, work_date, starts, ends, as_of) for device in self._devices]
        key = (work_date, tuple(map(id, built)))
        known = self._tuples.get(key)
        if known is None:
            if len(self._tuples) > 2_000:
                self._tuples.clear()
                self._latest.clear()
            known = self._tuples[key] = tuple(built)
        settled = max(
            (self._settled(device, work_date, ends) for device in self._devices), default=0
        )
        if settled <= as_of:
            self._latest[work_date] = (settled, known)
        return known

    def _settled(self, device: str, work_date: date, ends: Instant) -> Instant:
        """From when on the path stays as it is until ``forget`` says that something new came."""
        events = self._events.get((device, work_date))
        whole = self._connection.execute(
            "SELECT received_at FROM reading WHERE kind = 'complete' AND kind <> 'punch'"
            " AND device = ? AND at >= ? ORDER BY at LIMIT 1",
            (device, ends),
        ).fetchone()
        complete = whole or self._complete.get(device, (0, 0))[1:]
        return max(events[-1][0] if events else 0, *complete)

    def _path(
        self, device: str, work_date: date, starts: Instant, ends: Instant, as_of: Instant
    ) -> DevicePath:
        events = self._events.get((device, work_date))
        if events is None:
            if len(self._events) > 20_000:
                self.forget()
            events = self._load(device, starts, ends)
            self._events[device, work_date] = events
        known = bisect_right(events, as_of, key=lambda event: event[0])
        complete, completed_at = self._complete_until(device, as_of)
        complete = min(complete, ends)
        key = (device, work_date, known, complete)
        path = self._built.get(key)
        if path is None:
            path = self._built[key] = self._build(
                device, starts, ends, events[:known], complete, completed_at
            )
        return path

    def _complete_until(self, device: str, as_of: Instant) -> tuple[Instant, Instant]:
        latest = self._complete.get(device)
        if latest is not None and latest[1] <= as_of:
            return latest
        query = (
            "SELECT at, received_at FROM reading WHERE kind = 'complete' AND kind <> 'punch'"
            " AND device = ? AND received_at <= ? ORDER BY at DESC LIMIT 1"
        )
        row = self._connection.execute(query, (device, as_of)).fetchone()
        found = (row[0], row[1]) if row else (0, 0)
        if latest is None:
            newest = self._connection.execute(query, (device, 1 << 62)).fetchone()
            self._complete[device] = (newest[0], newest[1]) if newest else (0, 0)
        return found

    def _load(self, device: str, starts: Instant, ends: Instant) -> list[_Event]:
        """What bears on the device in the span, in order of receipt."""
        query = (
            "SELECT received_at, at, seq, kind, body FROM reading"
            " WHERE kind = ? AND kind <> 'punch' AND device = ? AND at {} ORDER BY at"
        )
        execute = self._connection.execute
        rows: list[_Event] = []
        before = execute(query.format("< ?") + " DESC, seq DESC LIMIT 1", ("link", device, starts))
        rows += before.fetchall()
        rows += execute(query.format(">= ? AND at < ?"), ("link", device, starts, ends)).fetchall()
        first = rows[0][1] if rows else starts
        rows += execute(
            query.format(">= ? AND at < ?"), ("started", "hallwatch", min(first, starts), ends)
        ).fetchall()
        rows += execute(
            "SELECT received_at, at, seq, kind, body FROM reading"
            " WHERE kind = 'gap_explained' AND kind <> 'punch'"
        ).fetchall()
        return sorted(rows, key=lambda row: row[0])

    def _build(
        self,
        device: str,
        starts: Instant,
        ends: Instant,
        events: list[_Event],
        complete: Instant,
        completed_at: Instant,
    ) -> DevicePath:
        up: list[tuple[Instant, Instant]] = []
        since: Instant | None = None
        usable: list[tuple[Instant, Instant]] = []
        unusable: list[tuple[Instant, Instant]] = []
        for _, at, _, kind, body in sorted(events, key=lambda event: event[1:3]):
            if kind == "gap_explained":
                gap = _gap.decode(body)
                if gap.device == device:
                    (usable if gap.usable else unusable).append((gap.starts, gap.ends))
            elif kind == "link" and _link.decode(body).up:
                since = at if since is None else since
            elif since is not None:
                up.append((since, max(since, at)))
                since = None
        if since is not None:
            up.append((since, ends))
        up = _bridged(span for span in up if span[1] > starts and span[0] < span[1])
        found = self._proofs(device, starts, ends, up, completed_at) if complete > starts else ()
        proofs: list[Instant] = []
        for at in found:
            lost = max((end for _, end in up if end <= at), default=at - DAY)
            back = min((begin for begin, _ in up if begin > at), default=at + DAY)
            if at - lost <= EDGE:
                usable.append((lost, at + 1))
            if back - at <= EDGE:
                usable.append((at, back))
            if at - lost > EDGE and back - at > EDGE:
                # One between two that meet without it proves nothing more; a late log has
                # thousands, and every slot of everybody looks at them.
                if len(proofs) > 1 and at - proofs[-2] <= 2 * self._proof:
                    proofs[-1] = at
                else:
                    proofs.append(at)
        return DevicePath(
            device, tuple(up), tuple(proofs), tuple(usable), tuple(unusable), complete
        )

    def _proofs(
        self,
        device: str,
        starts: Instant,
        ends: Instant,
        up: list[tuple[Instant, Instant]],
        completed_at: Instant,
    ) -> tuple[Instant, ...]:
        """Punches the terminal recorded while it was out of contact, once its log is complete."""
        covered = sum(min(e, ends) - max(s, starts) for s, e in up)
        if covered >= ends - starts:
            return ()
        days = range(starts // DAY + 719162, ends // DAY + 719165)
        rows = self._connection.execute(
            "SELECT event_at FROM reading WHERE day BETWEEN ? AND ? AND person IS NOT NULL"
            " AND kind = 'punch' AND device = ? AND trust < 2 AND received_at <= ?"
            " ORDER BY event_at",
            (days[0], days[-1], device, completed_at),
        )
        return tuple(at for (at,) in rows if not any(begin <= at < end for begin, end in up))


class Gatherer:
    """Builds the days that rules see from one connection; the same for the daemon and a replay."""

    def __init__(self, connection: sqlite3.Connection, hall: Hall, installed: date) -> None:
        self._connection = connection
        self.hall = hall
        self.said = Said(connection)
        self.installed = installed
        self.days = LocalDays(hall.zone)
        self.paths = Paths(
            connection,
            [d.id for d in hall.devices if d.attendance and d.in_service],
            hall.policy.outage_proof * MINUTE,
        )
        self.doubtful: set[str] = {
            person
            for (person,) in connection.execute(
                "SELECT DISTINCT person FROM reading WHERE trust = 3"
            )
        }
        """People with quarantined punches."""
        self._expected: dict[tuple[date, tuple[SegmentRule, ...]], _Expected] = {}
        self._plain: dict[date, _Expected] = {}
        """What is expected of everybody, where nobody has a roster."""
        self._bounds: dict[date, tuple[Instant, Instant]] = {}

    @property
    def first_date(self) -> date:
        """The first date that is judged."""
        return self.hall.start_date or self.installed

    def people(self) -> Mapping[str, Person]:
        """Everybody known, by code; what was pushed or imported wins over the settings."""
        if not self.said.people:
            return self.hall.people
        return {**self.hall.people, **self.said.people}

    def person(self, code: str) -> Person | None:
        return self.said.people.get(code) or self.hall.people.get(code)

    def person_at(self, code: str, as_of: Instant) -> Person | None:
        """A person as known at ``as_of``; what the settings say was always known."""
        return self.said.person(code, as_of) or self.hall.people.get(code)

    def bounds(self, work_date: date) -> tuple[Instant, Instant]:
        """Local midnight at which a date begins, and the one at which it ends."""
        known = self._bounds.get(work_date)
        if known is None:
            if len(self._bounds) > 5_000:
                self._bounds.clear()
            zone = self.hall.zone
            known = self._bounds[work_date] = (
                local_midnight(work_date, zone),
                local_midnight(work_date + timedelta(days=1), zone),
            )
        return known

    def expected(self, person: Person, work_date: date, as_of: Instant) -> _Expected:
        """What is expected of a person on a date (nothing of somebody not employed then), and the
        span in which a punch can belong to the date."""
        rules: tuple[SegmentRule, ...] = ()
        plain = not person.employed and not self.hall.rosters and not self.said.has_rosters
        if plain and person.attendance_required and (known := self._plain.get(work_date)):
            return known
        if (
            person.attendance_required
            and work_date >= self.first_date
            and (
                not person.employed
                or any(
                    first <= work_date and (last is None or work_date <= last)
                    for first, last in person.employed
                )
            )
        ):
            roster = self.said.roster(person.code, work_date, as_of)
            rules = tuple(self.hall.segment_rules(person, work_date, roster))
        key = (work_date, rules)
        expected = self._expected.get(key)
        if expected is None:
            if len(self._expected) > 10_000:
                self._expected.clear()
            segments = segments_of(
                rules, work_date, self.hall.zone, self.hall.policy.single_lunch_punch
            )
            starts, ends = self.bounds(work_date)
            for segment in segments:
                starts = min(starts, segment.starts - segment.rule.open_before * 60_000)
                ends = max(ends, segment.ends + segment.rule.close_after * 60_000 + 1)
            expected = self._expected[key] = _Expected(segments, starts, ends)
        if plain and person.attendance_required:
            if len(self._plain) > 5_000:
                self._plain.clear()
            self._plain[work_date] = expected
        return expected

    def work_dates(self, person: Person, day: int, as_of: Instant) -> Iterator[date]:
        """The work dates that a punch of this local date can bear on."""
        local = date.fromordinal(day)
        if local >= self.first_date:
            yield local
        starts, ends = self.bounds(local)
        before, after = local - timedelta(days=1), local + timedelta(days=1)
        if self.expected(person, before, as_of).ends > starts:
            yield before
        if self.expected(person, after, as_of).starts < ends:
            yield after

    # -- a person's day

    def rows(self, day: int, people: Sequence[str] | None = None) -> DayRows:
        """The punches and evidence of a local date, by person: for judging many people at once.
        ``people`` may be a few hundred; none means everybody."""
        found: DayRows = defaultdict(list)
        # Beside IN, "person IS NOT NULL" would make SQLite read everybody's rows of the date.
        who = "IS NOT NULL" if people is None else f"IN ({', '.join('?' * len(people))})"
        query = f"SELECT {_PUNCH_COLUMNS} FROM reading WHERE day = ? AND person {who}"
        for row in self._connection.execute(query, (day, *(people or ()))):
            found[row[0]].append(_seen(row))
        return found

    def _rows_of(self, person: str, first: int, last: int) -> list[SeenPunch | Evidence]:
        return [
            _seen(row)
            for row in self._connection.execute(
                f"SELECT {_PUNCH_COLUMNS} FROM reading WHERE day IN (?, ?, ?) AND person = ?",
                (first, (first + last) // 2, last, person),
            )
        ]

    def person_day(
        self,
        person: Person,
        work_date: date,
        as_of: Instant,
        rows: Mapping[int, DayRows] | None = None,
    ) -> PersonDay:
        """The day as known at ``as_of``; ``rows`` are local dates with everything of this person,
        fetched before."""
        segments, starts, ends = self.expected(person, work_date, as_of)
        midnight, next_midnight = self.bounds(work_date)
        first = work_date.toordinal() - (starts < midnight)
        last = work_date.toordinal() + (ends > next_midnight)
        if rows is not None and all(day in rows for day in range(first, last + 1)):
            found = [
                row for day in range(first, last + 1) for row in rows[day].get(person.code, ())
            ]
        else:
            found = self._rows_of(person.code, first, last)
        if person.code in self.doubtful:
            found += self._quarantined(person.code, last, starts, ends)
        punches = sorted(
            (
                row
                for row in found
                if type(row) is SeenPunch
                and row.received_at <= as_of
                and starts <= row.event_at
                and (row.event_at < ends or (row.trust == 3 and row.earliest < ends))
            ),
            key=lambda punch: (punch.event_at, punch.reading_id),
        )
        evidence = sorted(
            (
                row
                for row in found
                if type(row) is Evidence and starts <= row.at < ends and row.received_at <= as_of
            ),
            key=lambda seen: (seen.at, seen.reading_id),
        )
        paths = self.paths.of(work_date, midnight - DAY // 2, next_midnight + DAY, as_of)
        if person.devices:
            paths = tuple(path for path in paths if path.device in person.devices)
        return PersonDay(
            person=person,
            work_date=work_date,
            kind=self.hall.calendar.kind(work_date),
            segments=segments,
            absences=self.said.absences(person.code, starts, ends, as_of),
            punches=tuple(punches),
            evidence=tuple(evidence),
            paths=paths,
            as_of=as_of,
            midnight=midnight,
            next_midnight=next_midnight,
            policy=self.hall.policy,
            appeal_ends=self.hall.appeal_ends(work_date),
            locks_at=self.hall.locks_at(work_date),
        )

    def knew_all(self, day: PersonDay, at: Instant) -> bool:
        """Whether everything in the day was known at ``at`` already, and nothing else then."""
        person, work_date = day.person.code, day.work_date
        if any(punch.received_at > at for punch in day.punches):
            return False
        if any(seen.received_at > at for seen in day.evidence):
            return False
        if self.said.heard_since(person, at):
            return False
        paths = self.paths.of(work_date, day.midnight - DAY // 2, day.next_midnight + DAY, at)
        if day.person.devices:
            return tuple(path for path in paths if path.device in day.person.devices) == day.paths
        return paths is day.paths or paths == day.paths

    def _quarantined(
        self, person: str, last: int, starts: Instant, ends: Instant
    ) -> list[SeenPunch | Evidence]:
        """Punches received later that may have happened on this date (index of trust 3 only)."""
        return [
            _seen(row)
            for row in self._connection.execute(
                f"SELECT {_PUNCH_COLUMNS} FROM reading INDEXED BY reading_quarantined"
                " WHERE trust = 3 AND person = ? AND day > ? AND earliest < ? AND event_at >= ?",
                (person, last, ends, starts),
            )
        ]

    # -- the hall's day

    def hall_day(self, work_date: date, as_of: Instant) -> HallDay:
        """What is known of the hall's devices on a date, as of ``as_of``."""
        midnight, next_midnight = self.bounds(work_date)
        specs = [spec for spec in self.hall.devices if spec.in_service]
        hourly: dict[str, list[int]] = {spec.id: [0] * 24 for spec in specs}
        orphans: dict[str, list[Instant]] = {}
        people = self.people()
        clock: dict[str, list[tuple[Instant, int]]] = {spec.id: [] for spec in specs}
        for device, received_at, offset in self._connection.execute(
            "SELECT device, received_at, at - received_at FROM reading INDEXED BY reading_received"
            " WHERE received_at >= ? AND received_at < ? AND received_at <= ? AND kind = 'clock'"
            " ORDER BY received_at",
            (midnight, next_midnight, as_of),
        ):
            if device in clock:
                clock[device].append((received_at, offset))
        for device, person, event_at in self._connection.execute(
            "SELECT device, person, event_at FROM reading WHERE day = ? AND person IS NOT NULL"
            " AND kind = 'punch' AND received_at <= ?",
            (work_date.toordinal(), as_of),
        ):
            if device in hourly and midnight <= event_at:
                hourly[device][min(23, (event_at - midnight) // HOUR)] += 1
            if person not in people:
                orphans.setdefault(person, []).append(event_at)
        for device, hour, number in self._counter_hours(work_date.toordinal(), midnight, as_of):
            if device in hourly:
                hourly[device][hour] += number
        usual = self._usual(work_date)
        events = self._events(midnight, next_midnight, as_of)
        return HallDay(
            hall=self.hall.id,
            work_date=work_date,
            kind=self.hall.calendar.kind(work_date),
            midnight=midnight,
            next_midnight=next_midnight,
            devices=tuple(
                self._device_day(spec, midnight, next_midnight, as_of, clock, hourly, usual)
                for spec in specs
            ),
            orphans=tuple((code, tuple(sorted(at))) for code, at in sorted(orphans.items())),
            calendar_until=self._calendar_until(work_date),
            events=tuple(
                (at, name, detail) for at, device, name, detail in events if device == "hallwatch"
            ),
            device_events=tuple(one for one in events if one[1] != "hallwatch"),
            as_of=as_of,
            hours=tuple(
                span
                for ahead in range(FORTNIGHT + 1)
                for span in self.hours(work_date + timedelta(days=ahead))
            ),
            acted=self._acted(as_of),
            month=self._month_that_ends(work_date, as_of),
        )

    def hours(self, work_date: date) -> list[tuple[Instant, Instant]]:
        """The hall's working time of a date."""
        zone = self.hall.zone
        return merge_intervals(
            (at_minute(work_date, one.starts, zone), at_minute(work_date, one.ends, zone))
            for one in self.hall.segment_rules(Person(""), work_date)
        )

    def _acted(self, as_of: Instant) -> tuple[tuple[str, Instant], ...]:
        first = ((id_, told[0][0]) for id_, told in self.said.actions.items() if told)
        return tuple(sorted((id_, at) for id_, at in first if at <= as_of))

    def _month_that_ends(self, work_date: date, as_of: Instant) -> VideoMonth | None:
        """The month's cameras, on its last date, once that is over."""
        tomorrow = work_date + timedelta(days=1)
        if tomorrow.month == work_date.month or as_of < self.bounds(work_date)[1]:
            return None
        if not any(spec.camera and spec.in_service for spec in self.hall.devices):
            return None
        return self.video_month(work_date.replace(day=1), as_of)

    def video_month(self, first: date, as_of: Instant) -> VideoMonth:
        """What the figures of a month so far are made of."""
        last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        begins, ends = self.bounds(first)[0], self.bounds(last)[1]
        dates = [first + timedelta(days=ahead) for ahead in range(last.day)]
        specs = [spec for spec in self.hall.devices if spec.camera and spec.in_service]
        return VideoMonth(
            cameras=tuple(
                CameraMonth(
                    spec.id,
                    self._losses(spec.id, begins, ends, as_of)[0],
                    self._pictures(spec.id, begins, ends, as_of),
                    self._recorded(spec.id, begins, ends, as_of),
                )
                for spec in specs
            ),
            first_seen=tuple((spec.id, self._first_seen(spec.id, as_of)) for spec in specs),
            hours=tuple(
                tuple(hours)
                for day in dates
                if day >= self.first_date and (hours := self.hours(day)) and hours[0][0] < as_of
            ),
            as_of=as_of,
        )

    def _first_seen(self, device: str, as_of: Instant) -> Instant | None:
        found: Instant | None = self._connection.execute(
            "SELECT min(at) FROM reading WHERE kind = 'link' AND kind <> 'punch' AND device = ?"
            " AND received_at <= ? AND json_extract(body, '$.up')",
            (device, as_of),
        ).fetchone()[0]
        return found

    def _told(
        self, kind: str, device: str, begins: Instant, as_of: Instant
    ) -> Iterator[tuple[Instant, bytes]]:
        """What a device told of a kind since ``begins``, after the last that it told before."""
        query = (
            "SELECT at, body FROM reading WHERE kind = ? AND kind <> 'punch' AND device = ?"
            " AND received_at <= ? AND at "
        )
        execute = self._connection.execute
        yield from execute(
            f"{query}< ? ORDER BY at DESC, seq DESC LIMIT 1", (kind, device, as_of, begins)
        ).fetchall()
        yield from execute(f"{query}>= ? ORDER BY at, seq", (kind, device, as_of, begins))

    def _pictures(
        self, device: str, begins: Instant, ends: Instant, as_of: Instant
    ) -> tuple[tuple[Instant, Picture], ...]:
        """Also those after ``ends``, until the first good one."""
        found: list[tuple[Instant, Picture]] = []
        for at, body in self._told("picture", device, begins, as_of):
            picture = _picture.decode(body)
            if at >= ends and found and not found[-1][1].faults and found[-1][1].known:
                break
            found.append((at, picture))
            if at >= ends and not picture.faults and picture.known:
                break
        return tuple(found)

    def _recorded(
        self, device: str, begins: Instant, ends: Instant, as_of: Instant
    ) -> tuple[tuple[Instant, Recorded], ...]:
        """Answers about the span, also those given after it."""
        found = []
        for at, body in self._told("recorded", device, begins, as_of):
            recorded = _recorded.decode(body)
            if at >= ends and recorded.since >= ends:
                break
            found.append((at, recorded))
        return tuple(found)

    def _counter_hours(
        self, day: int, midnight: Instant, as_of: Instant
    ) -> Iterator[tuple[str, int, int]]:
        """Device, local hour and number of what pads, keypads and displays told."""
        for device, hour, number in self._connection.execute(
            "SELECT device, (at - ?) / 3600000, count(*) FROM reading"
            " WHERE day = ? AND window IS NOT NULL AND received_at <= ? GROUP BY 1, 2",
            (midnight, day, as_of),
        ):
            if 0 <= hour < 24:
                yield device, hour, number

    def _events(
        self, midnight: Instant, next_midnight: Instant, as_of: Instant
    ) -> list[tuple[Instant, str, str, str]]:
        """When, which device, name and detail; of our own events, and of the watched devices'."""
        watched = ["hallwatch", *(spec.id for spec in self.hall.devices if spec.in_service)]
        found = []
        for device in watched:
            for at, body in self._connection.execute(
                "SELECT at, body FROM reading WHERE kind = 'event' AND kind <> 'punch'"
                " AND device = ? AND at >= ? AND at < ? AND received_at <= ? ORDER BY at, seq",
                (device, midnight, next_midnight, as_of),
            ):
                event = _event.decode(body)
                found.append((at, device, event.name, event.detail))
        return found

    def _calendar_until(self, work_date: date) -> date:
        year = work_date.year
        while year in self.hall.calendar.years:
            year += 1
        return date(year, 1, 1) - timedelta(days=1)

    def _usual(self, work_date: date) -> dict[str, tuple[float, ...]]:
        """Median punches per local hour of the last four same weekdays; none without four."""
        days = [work_date.toordinal() - 7 * week for week in range(1, 5)]
        if days[-1] < self.first_date.toordinal():
            return {}
        counts: dict[str, list[list[int]]] = {}
        for index, day in enumerate(days):
            midnight, _ = self.bounds(date.fromordinal(day))
            for device, hour, number in self._connection.execute(
                "SELECT device, (event_at - ?) / 3600000, count(*) FROM reading"
                " WHERE day = ? AND person IS NOT NULL AND kind = 'punch' GROUP BY 1, 2",
                (midnight, day),
            ):
                table = counts.setdefault(device, [[0] * 4 for _ in range(24)])
                if 0 <= hour < 24:
                    table[hour][index] = number
            for device, hour, number in self._counter_hours(day, midnight, 1 << 62):
                counts.setdefault(device, [[0] * 4 for _ in range(24)])[hour][index] += number
        return {
            device: tuple(float(median(hour)) for hour in table) for device, table in counts.items()
        }

    def _device_day(
        self,
        spec: DeviceSpec,
        midnight: Instant,
        next_midnight: Instant,
        as_of: Instant,
        clock: Mapping[str, list[tuple[Instant, int]]],
        hourly: Mapping[str, list[int]],
        usual: Mapping[str, tuple[float, ...]],
    ) -> DeviceDay:
        losses, up_since = self._losses(spec.id, midnight, next_midnight, as_of)
        before = self._connection.execute(
            "SELECT received_at, at - received_at FROM reading"
            " WHERE kind = 'clock' AND kind <> 'punch' AND device = ? AND received_at < ?"
            " ORDER BY seq DESC LIMIT 1",
            (spec.id, midnight),
        ).fetchall()
        return DeviceDay(
            device=spec.id,
            name=spec.name,
            attendance=spec.attendance,
            losses=losses,
            clock=(*before, *clock[spec.id]),
            hourly=tuple(hourly[spec.id]),
            usual=usual.get(spec.id, ()),
            up_since=up_since,
            camera=spec.camera,
            maintainer=spec.maintainer,
            pictures=(
                self._pictures(spec.id, midnight, next_midnight, as_of) if spec.camera else ()
            ),
            recorded=(
                self._recorded(spec.id, midnight, next_midnight, as_of) if spec.camera else ()
            ),
        )

    def _losses(
        self, device: str, midnight: Instant, next_midnight: Instant, as_of: Instant
    ) -> tuple[tuple[tuple[Instant, Instant | None, str], ...], Instant | None]:
        """Losses that began on the date, each with its end if it has one, the one that lasted at
        midnight before them; and since when there is contact."""
        query = (
            "SELECT at, body FROM reading WHERE kind = 'link' AND kind <> 'punch' AND device = ?"
            " AND at >= ? AND received_at <= ? ORDER BY at, seq"
        )
        losses: list[tuple[Instant, Instant | None, str]] = []
        lost: tuple[Instant, str] | None = None
        up_since: Instant | None = None
        before = self._connection.execute(
            "SELECT at, body FROM reading WHERE kind = 'link' AND kind <> 'punch' AND device = ?"
            " AND at < ? AND received_at <= ? ORDER BY at DESC, seq DESC LIMIT 1",
            (device, midnight, as_of),
        ).fetchone()
        if before:
            link = _link.decode(before[1])
            if link.up:
                up_since = before[0]
            else:
                lost = (before[0], link.reason)
        for at, body in self._connection.execute(query, (device, midnight, as_of)):
            link = _link.decode(body)
            if link.up:
                if lost is not None:
                    losses.append((lost[0], at, lost[1]))
                    lost = None
                up_since = at if up_since is None else up_since
            else:
                if lost is None and at < next_midnight:
                    lost = (at, link.reason)
                up_since = None
            if at >= next_midnight and lost is None:
                break
        if lost is not None:
            losses.append((lost[0], None, lost[1]))
        return tuple(losses), up_since


def _bridged(spans: Iterable[tuple[Instant, Instant]]) -> list[tuple[Instant, Instant]]:
    bridged: list[tuple[Instant, Instant]] = []
    for begin, end in spans:
        if bridged and begin - bridged[-1][1] <= BOOT:
            bridged[-1] = (bridged[-1][0], end)
        else:
            bridged.append((begin, end))
    return bridged


def _seen(row: tuple[Any, ...]) -> SeenPunch | Evidence:
    _, event_at, at, device, id_, trust, earliest, received_at, body, _, kind = row
    if kind == "evidence":
        evidence = _evidence.decode(body)
        return Evidence(event_at, evidence.kind, evidence.sensor, id_, received_at)
    if kind == "queue":
        return Evidence(event_at, "ticket_called", device, id_, received_at)
    punch = _punch.decode(body)
    return SeenPunch(
        event_at, at, device, id_, trust, earliest, punch.source, punch.state, received_at
    )
