"""Facts of posts gathered from the journal: who was to be there, who was seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from datetime import date

import msgspec
from msgspec import structs

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
    Span,
    follow_post,
    judge_post,
    needs_line,
    queues_of,
    unwatched,
    with_line,
)

_seat = msgspec.json.Decoder(Seat).decode
_event = msgspec.json.Decoder(QueueEvent).decode
_COLUMNS = "at, received_at, device, id, body"
_SEATS = (
    f"SELECT {_COLUMNS} FROM reading INDEXED BY reading_ref"
    " WHERE kind = 'seat' AND kind <> 'punch' AND kind <> 'queue' AND ref = ?"
)


CALLED_DAYS = 7
"""Dates with calls by which the queues of a window are known."""
CALLED_WITHIN = 30
"""Days in which they are looked for."""

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
        self._places: dict[str, set[str]] | None = None
        """By person, the windows that are or were theirs, and where they stand in."""
        self._assigned: dict[str, set[str]] = {}
        """By window, whose it is or was."""
        self._called: dict[tuple[str, int], tuple[tuple[str, Instant], ...]] = {}
        """By window and local date before the one judged, the queues it called tickets of, and
        since when that is known."""

    def watched(self) -> Iterable[str]:
        """The windows that some camera sees."""
        return self._sensors

    def seen_by(self, device: str) -> Iterator[str]:
        """The windows that a device sees."""
        return (window for window, devices in self._sensors.items() if device in devices)

    def windows_of(self, people: Iterable[str]) -> Iterator[str]:
        """The watched windows that these people are, were or stand in at."""
        places = self._places if self._places is not None else self._find_places()
        for code in people:
            yield from (window for window in places.get(code, ()) if window in self._sensors)

    def forget_people(self) -> None:
        """Somebody came, went, changed windows or stands in."""
        self._places = None

    def forget_calls(self, window: str, day: int) -> None:
        """Something was told of the window's calls on this local date."""
        self._called.pop((window, day), None)

    def _find_places(self) -> dict[str, set[str]]:
        said = self._gatherer.said
        places: dict[str, set[str]] = {}
        for code in self._gatherer.people():
            wordings = [*said.entries(code), self._hall.people.get(code)]
            if windows := {one.window for one in wordings if one is not None and one.window}:
                places[code] = windows
        self._assigned = {}
        for code, windows in places.items():
            for window in windows:
                self._assigned.setdefault(window, set()).add(code)
        for one in said.substitutions():
            places.setdefault(one.substitute, set()).add(one.window)
        self._places = places
        return places

    def _people_of(self, window: str, as_of: Instant) -> list[Person]:
        """Whose window it is as known at ``as_of``."""
        if self._places is None:
            self._find_places()
        known = (
            self._gatherer.person_at(code, as_of) for code in sorted(self._assigned.get(window, ()))
        )
        return [person for person in known if person is not None and person.window == window]

    def post_day(self, counter: WindowDay, record: WindowRecord) -> PostDay:
        """The post's date as known at ``counter.as_of``, without the line of those who wait, and of
        a post that nothing watches without people: nobody can be missed there.  ``counter`` and
        ``record`` last until ``over``."""
        window, work_date, as_of = counter.window.id, counter.work_date, counter.as_of
        segments = self._hours(window, work_date, as_of)
        devices = self._sensors.get(window, ())
        people = self._people_of(window, as_of) if devices else []
        said = self._gatherer.said
        duties, absent = self._duties(people, counter) if devices else ((), ())
        return PostDay(
            counter=counter,
            record=record,
            hours=tuple(Hours(one.rule.name, one.starts, one.ends) for one in segments),
            required=self._hall.windows[window].required_open,
            assigned=tuple(sorted(person.code for person in people)),
            duties=duties,
            absent=absent,
            seats=tuple(self._seats(window, devices, counter)) if devices else (),
            sensors=self._contacts(devices, counter) if devices else (),
            punches=tuple(self._punches(people, duties, counter)) if devices else (),
            reviews=tuple(
                SeenReview(one.at, one.received_at, one.device, one.id, one.body)
                for one in said.reviews.get((window, work_date), ())
                if one.received_at <= as_of and isinstance(one.body, PostReview)
            ),
            appeal_ends=self._hall.appeal_ends(work_date),
            locks_at=self._hall.locks_at(work_date),
            policy=self._hall.presence,
        )

    def followed(
        self, counter: WindowDay, record: WindowRecord
    ) -> tuple[PostDay, PostRecord, WaitsOn]:
        """The post's date with everything that matters to it, and what it comes to."""
        day = self.post_day(counter, record)
        follow = follow_post if day.sensors else unwatched
        post = follow(day)
        until = needs_line(day, post)
        if until is None:
            return day, post, ()
        queues = self._queues(counter)
        day = with_line(day, self._queue_events(counter, queues))
        return day, follow(day), tuple((queue, until) for queue in queues)

    def judge(
        self, counter: WindowDay, record: WindowRecord
    ) -> tuple[PostRecord | None, PostOutcome, WaitsOn]:
        """No record of a post that nothing watches."""
        day, post, waits = self.followed(counter, record)
        outcome = judge_post(day, post, self._hall.rulebook.post_rules(counter.work_date))
        return (post if day.sensors else None), outcome, waits

    def waiting_on(self, body: QueueEvent, day: int, at: Instant) -> Iterator[tuple[str, str]]:
        """The windows and work dates whose posts are judged by how many wait for the queue of this
        event.  One that names neither queue nor ticket may be about any."""
        queue = queue_of(body)
        for window, work_date in self._execute(
            "SELECT DISTINCT window, work_date FROM waits_on WHERE work_date IN (?, ?)"
            " AND until >= ? AND queue BETWEEN ? AND ?",
            (
                date.fromordinal(day).isoformat(),
                date.fromordinal(day - 1).isoformat(),
                at,
                queue,
                queue or "\U0010ffff",
            ),
        ):
            if window != body.window:
                yield window, work_date

    def over(self, window: str, work_date: date, as_of: Instant) -> Instant:
        """When a post's date is over: with its last segment, where that ends past midnight."""
        midnight = self._gatherer.bounds(work_date)[1]
        return max([midnight, *(one.ends for one in self._hours(window, work_date, as_of))])

    def _hours(self, window: str, work_date: date, as_of: Instant) -> tuple[Segment, ...]:
        return self._gatherer.expected(Person("", window=window), work_date, as_of).segments

    def dates_of(self, window: str, day: int) -> Iterator[date]:
        """The work dates of a post that what happened on this local date bears on."""
        own, before = date.fromordinal(day), date.fromordinal(day - 1)
        yield own
        midnight = self._gatherer.bounds(own)[0]
        if self.over(window, before, midnight) > midnight:
            yield before

    def _duties(
        self, people: Iterable[Person], counter: WindowDay
    ) -> tuple[tuple[Duty, ...], tuple[Duty, ...]]:
        """Who is on duty when, and who would be but for an approved absence, or for standing in
        elsewhere meanwhile."""
        window, as_of = counter.window.id, counter.as_of
        starts, ends = counter.midnight, counter.next_midnight + DAY // 2
        said = self._gatherer.said
        there: list[Duty] = []
        absent: list[Duty] = []

        def share(duty: Duty, elsewhere: Iterable[Span]) -> None:
            away = [
                (span.starts, span.ends) for span in said.absences(duty.person, starts, ends, as_of)
            ]
            begin = duty.starts
            for gone, back in merge_intervals([*away, *elsewhere]):
                if begin < min(gone, duty.ends):
                    there.append(structs.replace(duty, starts=begin, ends=min(gone, duty.ends)))
                begin = max(begin, back)
                lost = max(gone, duty.starts), min(back, duty.ends)
                if lost[0] < lost[1]:
                    absent.append(structs.replace(duty, starts=lost[0], ends=lost[1]))
            if begin < duty.ends:
                there.append(structs.replace(duty, starts=begin))

        for person in people:
            elsewhere = [
                (one.starts, one.ends)
                for one in said.stands_in(person.code, starts, ends, as_of)
                if one.window != window
            ]
            for one in self._gatherer.expected(person, counter.work_date, as_of).segments:
                share(Duty(person.code, person.unit, one.starts, one.ends), elsewhere)
        for entry in said.stand_ins(window, starts, ends, as_of):
            substitute = self._gatherer.person_at(entry.substitute, as_of)
            unit = substitute.unit if substitute else ""
            share(Duty(entry.substitute, unit, entry.starts, entry.ends, stands_in=True), ())
        return tuple(there), tuple(absent)

    def _seats(
        self,
        window: str,
        devices: Iterable[str],
        counter: WindowDay,
    ) -> Iterator[SeenSeat]:
        day, last = self._days(counter)
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
        midnight, next_midnight = self._gatherer.bounds(counter.work_date)
        paths = self.paths.of(
            counter.work_date, midnight - DAY // 2, next_midnight + DAY, counter.as_of
        )
        return tuple(Sensor(path.device, path.up) for path in paths if path.device in devices)

    def _days(self, counter: WindowDay) -> tuple[int, int]:
        """The first and the last local date that the post's date is on."""
        return counter.work_date.toordinal(), self._gatherer.days.day(counter.next_midnight - 1)

    def _punches(
        self, people: Iterable[Person], duties: Iterable[Duty], counter: WindowDay
    ) -> Iterator[PostPunch]:
        for person in sorted({one.code for one in people} | {one.person for one in duties}):
            for at, id_ in self._execute(
                "SELECT event_at, id FROM reading WHERE day BETWEEN ? AND ? AND person = ?"
                " AND kind = 'punch' AND received_at <= ? AND trust <> 3 AND event_at < ?",
                (*self._days(counter), person, counter.as_of, counter.next_midnight),
            ):
                yield PostPunch(at, person, id_)

    def _queues(self, counter: WindowDay) -> set[str]:
        """The queues that the window serves: those it called on the last dates with calls, for
        while nobody has come it calls none."""
        queues = set(queues_of(counter))
        found = int(bool(queues))
        own = counter.work_date.toordinal()
        for day in range(own - 1, own - CALLED_WITHIN, -1):
            if found == CALLED_DAYS:
                break
            called = {
                queue
                for queue, received_at in self._calls(counter.window.id, day)
                if received_at <= counter.as_of
            }
            queues |= called
            found += bool(called)
        return queues

    def _calls(self, window: str, day: int) -> tuple[tuple[str, Instant], ...]:
        known = self._called.get((window, day))
        if known is None:
            if len(self._called) > 5_000:
                self._called.clear()
            called: dict[str, Instant] = {}
            for received_at, told in self._execute(
                "SELECT received_at, body FROM reading INDEXED BY reading_window"
                " WHERE day = ? AND window = ? AND kind = 'queue' AND ref <> ''",
                (day, window),
            ):
                queue = queue_of(_event(told))
                called[queue] = min(called.get(queue, received_at), received_at)
            known = self._called[window, day] = tuple(called.items())
        return known

    def _queue_events(self, counter: WindowDay, queues: Collection[str]) -> Iterator[SeenEvent]:
        """Everything told on the date of these queues."""
        if not queues:
            return
        for at, received_at, device, id_, told in self._execute(
            f"SELECT {_COLUMNS} FROM reading INDEXED BY reading_ticket"
            " WHERE kind = 'queue' AND day BETWEEN ? AND ? AND received_at <= ? AND at < ?",
            (*self._days(counter), counter.as_of, counter.next_midnight),
        ):
            body = _event(told)
            queue = queue_of(body)
            if queue in queues or (body.event == "batch_abandoned" and not queue):
                yield SeenEvent(at, received_at, device, id_, body)
