"""Facts of the counter gathered from the journal: a window's day, the hall's counter day."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from config.load import Hall
from daemon.facts import Gatherer, Paths
from daemon.posts import PostGatherer, WaitsOn
from rules.counter import (
    CounterDay,
    CounterOutcome,
    CounterRecord,
    ScaleHistory,
    SeenEvent,
    SeenPrompt,
    SeenRating,
    SeenShown,
    SeenStep,
    SourceUp,
    Window,
    WindowDay,
    WindowRecord,
    follow_counter,
    follow_window,
    judge_counter,
    judge_window,
    queue_resets,
)
from rules.model import (
    DAY,
    FollowUpStep,
    Instant,
    Person,
    PostReview,
    QueueEvent,
    Rating,
    RatingPrompt,
    Seat,
    Shown,
    Substitution,
    normal_ticket,
)
from rules.post import PostDay, PostOutcome, PostRecord
from rules.workdays import at_minute, local_midnight, workdays_after

LATE_RATING_DAYS = 30
"""A rating of a service is accepted so many days after it."""
FOLLOW_UP_WORKDAYS = 15
LONGEST_STAND_IN = 400
"""Days of a substitution that are judged anew when it is told."""
SCALE_DAYS = 30
"""Over which it is looked for levels that a pad cannot give."""
KEYS = {
    "five": (1, 2, 3, 4, 5),
    "four": (2, 3, 4, 5),
    "three": (2, 3, 4),
    "sle300": (1, 3, 5),
    "jtt905": (1, 2, 3, 4),
}
"""Levels that a scale has keys for; of any other, those that some window's pads have told."""
SOURCES = {"rating_pad": "pad", "network_pad": "pad", "queue_display": "display"}
"""What a device of a window tells of, by driver; any other tells of the queue."""

_COLUMNS = "at, received_at, device, id, kind, body"
_rating = msgspec.json.Decoder(Rating).decode
_SEEN: dict[str, tuple[type, Any]] = {
    "queue": (SeenEvent, msgspec.json.Decoder(QueueEvent).decode),
    "rating": (SeenRating, _rating),
    "prompt": (SeenPrompt, msgspec.json.Decoder(RatingPrompt).decode),
    "shown": (SeenShown, msgspec.json.Decoder(Shown).decode),
    "follow_up": (SeenStep, msgspec.json.Decoder(FollowUpStep).decode),
}
_REFS_AT_ONCE = 400
_NOT_QUEUE = "kind <> 'punch' AND kind <> 'queue'"
"""By which SQLite sees that the partial index ``reading_ref`` will do."""


def _batches(refs: Iterable[str], number: int) -> Iterator[list[str]]:
    listed = list(refs)
    for place in range(0, len(listed), number):
        yield listed[place : place + number]


class _Facts(msgspec.Struct):
    events: list[SeenEvent]
    ratings: list[SeenRating]
    prompts: list[SeenPrompt]
    shown: list[SeenShown]
    steps: list[SeenStep]


class WindowJudgement(NamedTuple):
    """What a window's date comes to, and its post's, which is not judged anew once the month is
    closed; ``post`` is none where nothing watches it."""

    record: WindowRecord
    outcome: CounterOutcome
    post: PostRecord | None
    post_outcome: PostOutcome
    waits_on: WaitsOn


class CounterGatherer:
    """Builds what the counter's rules see from one connection; the same for the daemon and a
    replay."""

    def __init__(self, connection: sqlite3.Connection, hall: Hall, gatherer: Gatherer) -> None:
        self._execute = connection.execute
        self._hall = hall
        self._gatherer = gatherer
        self.windows = {
            one.id: Window(one.id, one.name, one.unit or "", one.area)
            for one in hall.windows.values()
        }
        self._sources = [
            (device.id, device.window, SOURCES.get(device.driver, "queue"))
            for device in hall.devices
            if device.in_service and (device.window or device.driver == "mqtt_counter")
        ]
        self.paths = Paths(connection, [device for device, _, _ in self._sources], 0)
        self.posts = PostGatherer(connection, hall, gatherer)
        self._resets: dict[date, tuple[tuple[str, Instant], ...]] = {}
        self._hours: dict[date, tuple[Instant | None, Instant | None, tuple[Instant, ...]]] = {}
        (self._last_rating,) = self._execute(
            "SELECT ifnull(max(day), 0) FROM reading WHERE kind = 'rating' AND kind <> 'punch'"
        ).fetchone()

    # -- which days a reading bears on

    def days_of(self, body: object, day: int, today: int) -> Iterator[tuple[str, date]]:
        """The windows' days that a reading of this local date bears on; of what is entered for
        later none after ``today``.  An empty window is the hall's counter alone."""
        own = date.fromordinal(day)
        if isinstance(body, Rating):
            self._last_rating = max(self._last_rating, day)
            yield body.window, self._date_of(body, day)
        elif isinstance(body, FollowUpStep):
            found = self._execute(
                "SELECT window, work_date FROM rating WHERE rating_id = ?", (body.rating_id,)
            ).fetchone()
            if found:
                yield found[0], date.fromisoformat(found[1])
        elif isinstance(body, RatingPrompt | Shown):
            yield body.window, own
            if isinstance(body, RatingPrompt):
                yield from self._ratings_of(body.session, day)
        elif isinstance(body, Seat):
            yield from ((body.window, on) for on in self.posts.dates_of(body.window, day))
        elif isinstance(body, PostReview):
            yield body.window, body.work_date
        elif isinstance(body, Substitution):
            self.posts.forget_people()
            days = self._gatherer.days
            for wording in self._gatherer.said.substitution(body.substitution_id):
                first = max(days.day(wording.starts) - 1, self._gatherer.first_date.toordinal())
                last = min(days.day(wording.ends), first + LONGEST_STAND_IN, today)
                own_windows = self.posts.windows_of((wording.substitute,))
                for window in {wording.window, *own_windows}:
                    yield from ((window, date.fromordinal(on)) for on in range(first, last + 1))
        elif isinstance(body, QueueEvent):
            yield from ((body.window, on) for on in self.posts.dates_of(body.window, day))
            self.posts.forget_calls(body.window, day)
            if day < today and body.window in self.posts.watched():
                # It may be how the window is known to serve a queue.
                yield body.window, date.fromordinal(today)
            if body.event == "batch_abandoned" and not body.window:
                yield from ((window, own) for window in self.windows)
            elif body.ticket:
                for (window,) in self._execute(
                    "SELECT DISTINCT window FROM reading INDEXED BY reading_ticket"
                    " WHERE day = ? AND ref = ? AND kind = 'queue'",
                    (day, body.ticket),
                ):
                    if window != body.window:
                        yield window, own
                yield from self._ratings_of(body.ticket, day)

    def seen_by(self, device: str, day: int) -> Iterator[tuple[str, date]]:
        """The windows' days that a device being lost or found bears on."""
        for window in self.posts.seen_by(device):
            yield from ((window, on) for on in self.posts.dates_of(window, day))
        for source, window, _ in self._sources:
            if source == device:
                for one in (window,) if window else self.windows:
                    if self._execute(
                        "SELECT 1 FROM reading WHERE day = ? AND window = ? LIMIT 1", (day, one)
                    ).fetchone():
                        yield one, date.fromordinal(day)

    def _ratings_of(self, ref: str, day: int) -> Iterator[tuple[str, date]]:
        """The windows' days that ratings of this session or ticket belonged to and belong to now
        that more is known of it."""
        if not ref or self._last_rating < day:
            return
        for told, text in self._execute(
            "SELECT day, body FROM reading INDEXED BY reading_ref"
            f" WHERE kind = 'rating' AND {_NOT_QUEUE} AND ref = ? AND day BETWEEN ? AND ?",
            (ref, day, day + LATE_RATING_DAYS),
        ).fetchall():
            rating = _rating(text)
            yield rating.window, self._date_of(rating, told)
            before = self._execute(
                "SELECT work_date FROM rating WHERE rating_id = ?", (rating.rating_id,)
            ).fetchone()
            if before:
                yield rating.window, date.fromisoformat(before[0])

    def _date_of(self, rating: Rating, day: int) -> date:
        """The date a rating belongs to: that of the service which it names, or its own."""
        found: int | None = None
        if rating.session:
            (found,) = self._execute(
                "SELECT max(day) FROM reading INDEXED BY reading_ref"
                f" WHERE kind = 'prompt' AND {_NOT_QUEUE} AND ref = ? AND day <= ?",
                (rating.session, day),
            ).fetchone()
        elif rating.service_ref:
            days = range(day, day - LATE_RATING_DAYS - 1, -1)
            (found,) = self._execute(
                "SELECT max(day) FROM reading INDEXED BY reading_ticket"
                " WHERE kind = 'queue' AND ref = ?"
                f" AND day IN ({', '.join('?' * len(days))}) AND window = ?",
                (normal_ticket(rating.service_ref), *days, rating.window),
            ).fetchone()
        if found is None or not day - LATE_RATING_DAYS <= found <= day:
            found = day
        return date.fromordinal(found)

    # -- a window's day

    def window_day(self, window: Window, work_date: date, as_of: Instant) -> WindowDay:
        """One window's date as known at ``as_of``."""
        day = work_date.toordinal()
        facts = _Facts([], [], [], [], [])
        self._read(facts, "reading_window", "day = ? AND window = ?", (day, window.id), as_of)
        self._read(
            facts,
            "reading_ticket",
            "kind = 'queue' AND day = ? AND ref = '' AND window = ''",
            (day,),
            as_of,
        )
        tickets = {
            one.body.ticket: None
            for one in facts.events
            if one.body.ticket and one.body.event != "transferred"
        }
        elsewhere = _Facts([], [], [], [], [])
        for some in _batches(tickets, _REFS_AT_ONCE):
            self._read(
                elsewhere,
                "reading_ticket",
                f"kind = 'queue' AND day = ? AND ref IN ({', '.join('?' * len(some))})"
                " AND window <> ?",
                (day, *some, window.id),
                as_of,
            )
        facts.events += [
            one for one in elsewhere.events if one.body.event in ("ticket_taken", "transferred")
        ]
        self._late_ratings(facts, work_date, as_of)
        facts.ratings = [one for one in facts.ratings if one.body.window == window.id]
        self._read_steps(facts, as_of)
        midnight, next_midnight = self._gatherer.bounds(work_date)
        opens, closes, after = self._working_hours(work_date)
        return WindowDay(
            hall=self._hall.id,
            window=window,
            work_date=work_date,
            midnight=midnight,
            next_midnight=next_midnight,
            opens=opens,
            closes=closes,
            as_of=as_of,
            works=opens is not None,
            events=tuple(facts.events),
            ratings=tuple(facts.ratings),
            prompts=tuple(facts.prompts),
            shown=tuple(facts.shown),
            steps=tuple(facts.steps),
            device_up=self._device_up(work_date, as_of, ("", window.id)),
            workdays_after=after,
            resets=self.resets(work_date, as_of),
            policy=self._hall.counter,
        )

    def counter_day(self, work_date: date, as_of: Instant) -> CounterDay:
        """The whole hall's counter on a date as known at ``as_of``."""
        facts = _Facts([], [], [], [], [])
        day = work_date.toordinal()
        self._read(facts, "reading_window", "day = ? AND window IS NOT NULL", (day,), as_of)
        self._late_ratings(facts, work_date, as_of)
        self._read_steps(facts, as_of)
        midnight, next_midnight = self._gatherer.bounds(work_date)
        opens, closes, after = self._working_hours(work_date)
        return CounterDay(
            hall=self._hall.id,
            work_date=work_date,
            midnight=midnight,
            next_midnight=next_midnight,
            opens=opens,
            closes=closes,
            as_of=as_of,
            works=opens is not None,
            windows=tuple(self.windows.values()),
            events=tuple(facts.events),
            ratings=tuple(facts.ratings),
            prompts=tuple(facts.prompts),
            shown=tuple(facts.shown),
            steps=tuple(facts.steps),
            device_up=self._device_up(work_date, as_of, None),
            workdays_after=after,
            scales=self._scales(work_date, closes, as_of),
            policy=self._hall.counter,
        )

    def _scales(
        self, work_date: date, closes: Instant | None, as_of: Instant
    ) -> tuple[ScaleHistory, ...]:
        """What each window's pads told by each scale in the last weeks; looked at after closing,
        once the day is whole.  A bad rating by another way than a pad counts as a complaint."""
        if closes is None or as_of < closes:
            return ()
        tellers = ["api", *(device.id for device in self._hall.devices)]
        starts = self._gatherer.bounds(work_date)[1] - SCALE_DAYS * DAY
        pressed: dict[tuple[str, str], list[int]] = {}
        complaints: Counter[str] = Counter()
        seen: dict[str, set[int]] = {}
        for device in tellers:
            for window, scale, level, channel, number in self._execute(
                "SELECT window, json_extract(body, '$.scale_id'), json_extract(body, '$.level'),"
                " ifnull(json_extract(body, '$.channel'), 'pad'), count(*) FROM reading"
                " WHERE kind = 'rating' AND kind <> 'punch' AND device = ? AND at >= ? AND day <= ?"
                " AND received_at <= ? GROUP BY 1, 2, 3, 4",
                (device, starts, work_date.toordinal(), as_of),
            ):
                if level is None or window not in self.windows:
                    continue
                if channel == "pad":
                    pressed.setdefault((window, scale or ""), [0] * 5)[level - 1] += number
                    seen.setdefault(scale or "", set()).add(level)
                elif level <= 2:
                    complaints[window] += number
        return tuple(
            ScaleHistory(
                window,
                scale,
                KEYS.get(scale, tuple(sorted(seen[scale]))),
                (levels[0], levels[1], levels[2], levels[3], levels[4]),
                complaints[window],
            )
            for (window, scale), levels in sorted(pressed.items())
        )

    def resets(self, work_date: date, as_of: Instant) -> tuple[tuple[str, Instant], ...]:
        """When queues' ticket numbers began again, as last found for the date."""
        found = self._resets.get(work_date)
        if found is None:
            found = self.find_resets(self.counter_day(work_date, as_of))
        return found

    def find_resets(self, day: CounterDay) -> tuple[tuple[str, Instant], ...]:
        if len(self._resets) > 400:
            self._resets.clear()
        found = self._resets[day.work_date] = queue_resets(day)
        return found

    def forget_resets(self) -> None:
        self._resets.clear()

    def _read(
        self, facts: _Facts, index: str, condition: str, values: Iterable[object], as_of: Instant
    ) -> None:
        """The index is named because SQLite, without statistics, reads whole dates instead."""
        lists = {
            "queue": facts.events, "rating": facts.ratings, "prompt": facts.prompts,
            "shown": facts.shown, "follow_up": facts.steps,
        }  # fmt: skip
        for at, received_at, device, id_, kind, body in self._execute(
            f"SELECT {_COLUMNS} FROM reading INDEXED BY {index}"
            f" WHERE {condition} AND received_at <= ?",
            (*values, as_of),
        ):
            seen, decode = _SEEN[kind]
            lists[kind].append(seen(at, received_at, device, id_, decode(body)))  # type: ignore[attr-defined]

    def _late_ratings(self, facts: _Facts, work_date: date, as_of: Instant) -> None:
        """Leave ratings that belong to other dates; add later ones that belong to this one."""
        day = work_date.toordinal()
        sessions = {one.body.session for one in facts.prompts}
        facts.ratings = [
            one
            for one in facts.ratings
            if not (one.body.session or one.body.service_ref)
            or one.body.session in sessions
            or self._date_of(one.body, day) == work_date
        ]
        if self._last_rating <= day:
            return
        refs = [*sessions, *{one.body.ticket for one in facts.events if one.body.ticket}]
        later = _Facts([], [], [], [], [])
        for some in _batches(refs, _REFS_AT_ONCE):
            self._read(
                later,
                "reading_ref",
                f"kind = 'rating' AND {_NOT_QUEUE} AND ref IN ({', '.join('?' * len(some))})"
                " AND day BETWEEN ? AND ?",
                (*some, day + 1, day + LATE_RATING_DAYS),
                as_of,
            )
        facts.ratings += [
            one
            for one in later.ratings
            if self._date_of(one.body, self._gatherer.days.day(one.at)) == work_date
        ]

    def _read_steps(self, facts: _Facts, as_of: Instant) -> None:
        bad = [
            one.body.rating_id
            for one in facts.ratings
            if one.body.level is not None and one.body.level <= 2
        ]
        for some in _batches(bad, _REFS_AT_ONCE):
            self._read(
                facts,
                "reading_ref",
                f"kind = 'follow_up' AND {_NOT_QUEUE} AND ref IN ({', '.join('?' * len(some))})",
                some,
                as_of,
            )

    def _device_up(
        self, work_date: date, as_of: Instant, windows: Sequence[str] | None
    ) -> tuple[SourceUp, ...]:
        if not self._sources:
            return ()
        midnight, next_midnight = self._gatherer.bounds(work_date)
        paths = self.paths.of(work_date, midnight - DAY // 2, next_midnight + DAY, as_of)
        return tuple(
            SourceUp(device, window, kind, path.up)
            for (device, window, kind), path in zip(self._sources, paths, strict=True)
            if windows is None or window in windows
        )

    def _working_hours(
        self, work_date: date
    ) -> tuple[Instant | None, Instant | None, tuple[Instant, ...]]:
        """When the hall opens and closes, and the ends of the workdays after the date."""
        known = self._hours.get(work_date)
        if known is None:
            if len(self._hours) > 1_000:
                self._hours.clear()
            zone, calendar = self._hall.zone, self._hall.calendar
            rules = self._hall.segment_rules(Person(""), work_date)
            opens = closes = None
            if rules:
                opens = at_minute(work_date, min(one.starts for one in rules), zone)
                closes = at_minute(work_date, max(one.ends for one in rules), zone)
            after: list[Instant] = []
            on = work_date
            for _ in range(FOLLOW_UP_WORKDAYS + LATE_RATING_DAYS):
                on = workdays_after(on, 1, calendar)
                after.append(local_midnight(date.fromordinal(on.toordinal() + 1), zone))
            known = self._hours[work_date] = (opens, closes, tuple(after))
        return known

    # -- judging

    def post_of(self, window: Window, work_date: date, as_of: Instant) -> PostDay:
        """A post's date with everything that its rules see."""
        day = self.window_day(window, work_date, min(as_of, self._hall.locks_at(work_date)))
        return self.posts.followed(*self._for_post(day, follow_window(day)))[0]

    def judge_window(self, window: Window, work_date: date, as_of: Instant) -> WindowJudgement:
        day = self.window_day(window, work_date, as_of)
        record = follow_window(day)
        outcome = judge_window(day, record, self._hall.rulebook.window_rules(work_date))
        locks_at = self._hall.locks_at(work_date)
        if as_of <= locks_at:
            return WindowJudgement(record, outcome, *self.posts.judge(*self._for_post(day, record)))
        closed = self.window_day(window, work_date, locks_at)
        return WindowJudgement(
            record, outcome, *self.posts.judge(*self._for_post(closed, follow_window(closed)))
        )

    def _for_post(self, day: WindowDay, record: WindowRecord) -> tuple[WindowDay, WindowRecord]:
        """The window's date, and what it comes to, with what follows after midnight while a segment
        of the post lasts."""
        over = self.posts.over(day.window.id, day.work_date, day.as_of)
        if over <= day.next_midnight:
            return day, record
        facts = _Facts([], [], [], [], [])
        last = self._gatherer.days.day(over)
        for on in range(day.work_date.toordinal() + 1, last + 1):
            for index, condition, values in (
                (
                    "reading_window",
                    "day = ? AND window = ? AND kind = 'queue'",
                    (on, day.window.id),
                ),
                (
                    "reading_ticket",
                    "kind = 'queue' AND day = ? AND ref = '' AND window = ''",
                    (on,),
                ),
            ):
                self._read(facts, index, f"{condition} AND at < ?", (*values, over), day.as_of)
        longer = structs.replace(day, next_midnight=over, events=(*day.events, *facts.events))
        return longer, follow_window(longer)

    def judge_counter(
        self, work_date: date, as_of: Instant
    ) -> tuple[CounterRecord, CounterOutcome, bool]:
        """The last says whether queues' numbers are now seen to have begun again at other times,
        which bears on all windows of the date."""
        day = self.counter_day(work_date, as_of)
        before = self._resets.get(work_date, ())
        resets = self.find_resets(day)
        record = follow_counter(day)
        outcome = judge_counter(day, record, self._hall.rulebook.counter_rules(work_date))
        return record, outcome, resets != before
