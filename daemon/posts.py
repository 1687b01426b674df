"""Facts of posts gathered from the journal: who was to be there, who was seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import date

import msgspec

from config.load import Hall
from daemon.facts import Gatherer, Paths
from rules.counter import SeenEvent, WindowDay, WindowRecord, queue_of
from rules.model import (
    DAY,
    Instant,
    Person,
    PostReview,
    QueueEvent,
    Seat,
    Segment,
    merge_intervals,
)
from rules.post import (
    Duty,
    Hours,
    PostDay,
    PostOutcome,
    PostPunch,
    PostRecord,
    SeenReview,
    SeenSeat,
    Sensor,
    follow_post,
    judge_post,
    needs_line,
    queues_of,
    with_line,
)

_seat = msgspec.json.Decoder(Seat).decode
_event = msgspec.json.Decoder(QueueEvent).decode
_COLUMNS = "at, received_at, device, id, body"
_SEATS = (
    f"SELECT {_COLUMNS} FROM reading INDEXED BY reading_ref"
    " WHERE kind = 'seat' AND kind <> 'punch' AND kind <> 'queue' AND ref = ?"
)


WaitsOn = tuple[tuple[str, Instant], ...]
"""Queues, and until when it matters to a post how many wait for them."""


class PostGatherer:
    """Builds what the rules about posts see from one connection; the same for the daemon and a
    replay."""

    def __init__(self, connection: sqlite3.Connection, hall: Hall, gatherer: Gatherer) -> None:
        self._execute = connection.execute
        self._hall = hall
        self._gatherer = gatherer
        self._sensors: dict[str, list[str]] = {}
        """By window."""
        for device in hall.devices:
            for window in device.watches if device.in_service else ():
                self._sensors.setdefault(window, []).append(device.id)
        self.paths = Paths(
            connection, sorted({one for ids in self._sensors.values() for one in ids}), 0
        )
        self._assigned: dict[str, list[Person]] | None = None

    def watched(self) -> Iterable[str]:
        """The windows that some camera sees."""
        return self._sensors

    def seen_by(self, device: str) -> Iterator[str]:
        """The windows that a device sees."""
        return (window for window, devices in self._sensors.items() if device in devices)

    def windows_of(self, people: Iterable[str]) -> Iterator[str]:
        """The watched windows of these people."""
        for code in people:
            person = self._gatherer.person(code)
            if person is not None and person.window in self._sensors:
                yield person.window

    def forget_people(self) -> None:
        """Somebody came, went or changed windows."""
        self._assigned = None

    def _people_of(self, window: str) -> list[Person]:
        if self._assigned is None:
            self._assigned = {}
            for person in self._gatherer.people().values():
                if person.window:
                    self._assigned.setdefault(person.window, []).append(person)
        return self._assigned.get(window, [])

    def post_day(self, counter: WindowDay, record: WindowRecord) -> PostDay:
        """The post's date as known at ``counter.as_of``, without the line of those who wait."""
        window, work_date, as_of = counter.window.id, counter.work_date, counter.as_of
        segments = self._hours(window, work_date, as_of)
        people = self._people_of(window)
        devices = self._sensors.get(window, ())
        said = self._gatherer.said
        duties, absent = self._duties(window, people, counter)
        return PostDay(
            counter=counter,
            record=record,
            hours=tuple(Hours(one.rule.name, one.starts, one.ends) for one in segments),
            required=self._hall.windows[window].required_open,
            assigned=tuple(sorted(person.code for person in people)),
            duties=duties,
            absent=absent,
            seats=tuple(self._seats(window, devices, counter, segments)) if devices else (),
            sensors=self._contacts(devices, counter) if devices else (),
            punches=tuple(self._punches(people, counter)) if devices and people else (),
            reviews=tuple(
                SeenReview(one.at, one.received_at, one.device, one.id, one.body)
                for one in said.reviews.get((window, work_date), ())
                if one.received_at <= as_of and isinstance(one.body, PostReview)
            ),
            appeal_ends=self._hall.appeal_ends(work_date),
            locks_at=self._hall.locks_at(work_date),
            policy=self._hall.presence,
        )

    def followed(self, counter: WindowDay, record: WindowRecord) -> tuple[PostDay, PostRecord]:
        """The post's date with everything that matters to it, and what it comes to."""
        day = self.post_day(counter, record)
        post = follow_post(day)
        if needs_line(day, post) is not None:
            day = with_line(day, self._queue_events(counter))
            post = follow_post(day)
        return day, post

    def judge(
        self, counter: WindowDay, record: WindowRecord
    ) -> tuple[PostRecord | None, PostOutcome, WaitsOn]:
        """No record of a post that nothing watches."""
        day, post = self.followed(counter, record)
        outcome = judge_post(day, post, self._hall.rulebook.post_rules(counter.work_date))
        until = needs_line(day, post)
        waits = () if until is None else tuple((queue, until) for queue in queues_of(counter))
        return (post if day.sensors else None), outcome, waits

    def waiting_on(self, body: QueueEvent, day: int, at: Instant) -> Iterator[str]:
        """The windows whose posts are judged by how many wait for the queue of this event.  One
        that names neither queue nor ticket may be about any."""
        queue = queue_of(body)
        for (window,) in self._execute(
            "SELECT DISTINCT window FROM waits_on WHERE work_date = ? AND until >= ?"
            " AND queue BETWEEN ? AND ?",
            (date.fromordinal(day).isoformat(), at, queue, queue or "\U0010ffff"),
        ):
            if window != body.window:
                yield window

    def _hours(self, window: str, work_date: date, as_of: Instant) -> tuple[Segment, ...]:
        return self._gatherer.expected(Person("", window=window), work_date, as_of).segments

    def dates_of(self, window: str, day: int, at: Instant) -> Iterator[date]:
        """The work dates of a post that what happened on this local date bears on."""
        yield date.fromordinal(day)
        before = date.fromordinal(day - 1)
        if any(one.ends > at for one in self._hours(window, before, at)):
            yield before

    def _duties(
        self, window: str, people: Iterable[Person], counter: WindowDay
    ) -> tuple[tuple[Duty, ...], tuple[Duty, ...]]:
        """Who is on duty when, and who would be but for an approved absence."""
        starts, ends = counter.midnight, counter.next_midnight + DAY // 2
        said = self._gatherer.said
        there: list[Duty] = []
        absent: list[Duty] = []
        for person in people:
            segments = self._gatherer.expected(person, counter.work_date, counter.as_of).segments
            away = merge_intervals(
                (span.starts, span.ends)
                for span in said.absences(person.code, starts, ends, counter.as_of)
            )
            for segment in segments:
                begin = segment.starts
                for gone, back in away:
                    if begin < min(gone, segment.ends):
                        there.append(Duty(person.code, person.unit, begin, min(gone, segment.ends)))
                    begin = max(begin, back)
                    lost = max(gone, segment.starts), min(back, segment.ends)
                    if lost[0] < lost[1]:
                        absent.append(Duty(person.code, person.unit, *lost))
                if begin < segment.ends:
                    there.append(Duty(person.code, person.unit, begin, segment.ends))
        for one in said.stand_ins(window, starts, ends, counter.as_of):
            substitute = self._gatherer.person(one.substitute)
            unit = substitute.unit if substitute else ""
            there.append(Duty(one.substitute, unit, one.starts, one.ends, stands_in=True))
        return tuple(there), tuple(absent)

    def _seats(
        self,
        window: str,
        devices: Iterable[str],
        counter: WindowDay,
        segments: Iterable[Segment],
    ) -> Iterator[SeenSeat]:
        day = counter.work_date.toordinal()
        last = day + any(one.ends > counter.next_midnight for one in segments)
        rows = self._execute(
            f"{_SEATS} AND day BETWEEN ? AND ? AND received_at <= ?",
            (window, day, last, counter.as_of),
        ).fetchall()
        for device in devices:
            rows += self._execute(
                f"{_SEATS} AND day < ? AND device = ? AND received_at <= ?"
                " ORDER BY day DESC, at DESC LIMIT 1",
                (window, day, device, counter.as_of),
            ).fetchall()
        for at, received_at, device, id_, body in rows:
            yield SeenSeat(at, received_at, device, id_, _seat(body))

    def _contacts(self, devices: Iterable[str], counter: WindowDay) -> tuple[Sensor, ...]:
        paths = self.paths.of(
            counter.work_date,
            counter.midnight - DAY // 2,
            counter.next_midnight + DAY,
            counter.as_of,
        )
        return tuple(Sensor(path.device, path.up) for path in paths if path.device in devices)

    def _punches(self, people: Iterable[Person], counter: WindowDay) -> Iterator[PostPunch]:
        for person in people:
            for at, id_ in self._execute(
                "SELECT event_at, id FROM reading WHERE day = ? AND person = ? AND kind = 'punch'"
                " AND received_at <= ? AND trust <> 3",
                (counter.work_date.toordinal(), person.code, counter.as_of),
            ):
                yield PostPunch(at, person.code, id_)

    def _queue_events(self, counter: WindowDay) -> Iterator[SeenEvent]:
        """Everything told on the date of the queues that the window serves."""
        queues = queues_of(counter)
        if not queues:
            return
        for at, received_at, device, id_, told in self._execute(
            f"SELECT {_COLUMNS} FROM reading INDEXED BY reading_ticket"
            " WHERE kind = 'queue' AND day = ? AND received_at <= ?",
            (counter.work_date.toordinal(), counter.as_of),
        ):
            body = _event(told)
            queue = queue_of(body)
            if queue in queues or (body.event == "batch_abandoned" and not queue):
                yield SeenEvent(at, received_at, device, id_, body)
