"""The one durable path: readings in, journal commit, judgement, derived commit, sinks told.

One thread owns the writing connection.  It takes whatever has queued into one transaction (a burst
shares one flush to the disk, a single punch waits for nobody), answers those who wait, then judges
the days that were touched and commits what changed.  Days whose time has come (``wake``) are judged
in between, a few at a time, so that a punch never waits for a backlog.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import structlog
from msgspec import Struct, structs

from config.load import Hall
from daemon.clock import Clock
from daemon.counter import CounterGatherer
from daemon.database import open_writer
from daemon.facts import DayRows, Gatherer
from daemon.journal import Journal, StoredReading, others_since
from daemon.store import Store
from rules.counter import WindowRecord
from rules.engine import judge_hall, judge_person
from rules.model import (
    MINUTE,
    Absence,
    AbsenceRevoked,
    AlertAction,
    ClockCheck,
    DaemonStarted,
    DeviceEvent,
    FollowUpStep,
    GapExplained,
    Instant,
    Link,
    LogComplete,
    Outcome,
    PersonDay,
    PersonEntry,
    Picture,
    PostReview,
    QueueEvent,
    Rating,
    RatingPrompt,
    Reading,
    Recorded,
    RosterEntry,
    Seat,
    Shown,
    Substitution,
)

log = structlog.get_logger(__name__)
COUNTER_BODIES = (
    QueueEvent | Rating | RatingPrompt | Shown | FollowUpStep | Seat | PostReview | Substitution
)
T = TypeVar("T")

BURST = 20_000
"""Readings taken into one transaction at most."""
TOGETHER = 16
"""Readings that are judged before they are acknowledged, in the transaction that journals them: at
most a few milliseconds."""
AT_ONCE = 200
"""Days judged in one transaction: about 30 ms, the longest that a punch waits for others."""
REJUDGED_AT_ONCE = 2_000
"""The same while nobody waits."""
HALL_PAUSE: Instant = 1_000
"""While readings queue, a hall's day (which is dear) is judged once in so many ms."""
COUNTER_PAUSE: Instant = 1_000
"""The hall's counter as a whole is judged once in so many ms, or in ten times as long as it took:
it is told for people to read, while each window's own state is told at once."""
WINDOWS_AT_ONCE = 30
"""Windows judged in one transaction, where they waited: about 1 ms each at the end of a day."""
LATE: Instant = MINUTE
"""A punch that came later than this may belong to an hour whose counts were judged."""
RETRY = 10 * MINUTE
"""A day whose judgement failed (a defect) is tried again after this."""
CHECKPOINT_ROWS = 5_000
CHECKPOINT_LIMIT = 500_000
"""Rows written between checkpoints: the first when nobody waits, the second in any case."""


class _Told(Struct, frozen=True):
    readings: Sequence[Reading]
    received_at: Instant
    marks: Mapping[tuple[str, str], str]
    done: Callable[[int | BaseException], None]
    remember: tuple[Any, ...] | None = None


class Happening(Struct, frozen=True):
    """What a window's date comes to now, what just happened there (empty: it only says more), and
    the number of its last call."""

    record: WindowRecord
    event: str
    call_seq: int | None


class _Call(Struct, frozen=True):
    function: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class Pipeline:
    """See the module.  Everything public may be called from any thread."""

    def __init__(
        self, path: Path, hall: Hall, clock: Clock, *, synchronous: str = "full", version: str = ""
    ) -> None:
        self.path = path
        self.clock = clock
        self.changed: Callable[[int], None] = lambda _head: None
        """Called in the pipeline's thread after a commit that brought changes, with the last one's
        number."""
        self._cursors: dict[str, int] = {}
        self.at_windows: Callable[[Sequence[Happening]], None] = lambda _news: None
        """Called in the pipeline's thread after a commit, with what is new at windows today."""
        self._hall_judged: Instant = 0
        self._counter_judged: Instant = 0
        self._counter_pause: Instant = COUNTER_PAUSE
        self._counter_waits: set[str] = set()
        """Dates whose counter is judged when the pause is over."""
        self._happenings: list[Happening] = []
        self._settling: list[Future[None]] = []
        self._told_soon: list[Future[None]] = []
        self._answers: dict[
            asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int], int | BaseException]]
        ] = {}
        self.serials: dict[str, str] = {}
        """Device id to what the device calls itself, where it has said so."""
        self._queue: queue.SimpleQueue[_Told | _Call | None] = queue.SimpleQueue()
        self._connection = open_writer(path, synchronous)
        self._checkpointed = 0
        self._as_of: Instant = 0
        self._closing = False
        self._adopt(hall)
        self.serials.update(
            self._connection.execute(
                "SELECT device, json_extract(info, '$.serial') FROM device_state"
                " WHERE json_extract(info, '$.serial') IS NOT NULL"
            )
        )
        self._judged_seq = int(self._meta("judged_seq") or 0)
        self._rolled = int(self._meta("rolled") or 0)
        self.next_wake: Instant | None = self._query_next_wake()
        """When a day is due to be judged again."""
        self.readings = 0
        """Readings journalled since the start, repeats not counted."""
        self.repeats = 0
        self.failures = 0
        """Judgements that raised: defects, each in the log."""
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._begin(version)

    # -- for other threads

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what has queued, then close the database."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(
        self,
        readings: Sequence[Reading],
        done: Callable[[int | BaseException], None],
        marks: Mapping[tuple[str, str], str] | None = None,
        remember: tuple[Any, ...] | None = None,
    ) -> None:
        """Journal readings received now; ``done`` gets the number of new ones, after the commit, in
        the pipeline's thread, or the error.  ``marks`` and ``remember`` (a row of the table
        ``idempotency``) are stored in the same transaction."""
        self._queue.put(_Told(readings, self.clock.now(), marks or {}, done, remember))

    async def tell(
        self,
        readings: Sequence[Reading],
        marks: Mapping[tuple[str, str], str] | None = None,
        remember: tuple[Any, ...] | None = None,
    ) -> int:
        """``submit`` for coroutines."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[int] = loop.create_future()
        self.submit(readings, lambda answer: self._answer_soon(loop, told, answer), marks, remember)
        return await told

    def _answer_soon(
        self,
        loop: asyncio.AbstractEventLoop,
        told: asyncio.Future[int],
        answer: int | BaseException,
    ) -> None:
        self._answers.setdefault(loop, []).append((told, answer))

    def _wake_loops(self) -> None:
        """Give each event loop its answers at once: waking it costs more than an answer."""
        for loop, answers in self._answers.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:
                pass  # The loop was closed while its answers were under way: nobody waits.
        self._answers.clear()

    def call(self, function: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Run ``function`` in the next transaction; the future is done after its commit."""
        done: Future[T] = Future()
        self._queue.put(_Call(function, done))
        return done

    def advance(self, sink: str, seq: int) -> None:
        """A sink has everything up to ``seq``.  Saved with the next commit, or when it is quiet: a
        crash before that repeats deliveries, under the same ids."""
        self._cursors[sink] = seq

    def _save_cursors(self) -> None:
        for sink in list(self._cursors):
            self._connection.execute(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)",
                (sink, self._cursors.pop(sink), self.clock.now()),
            )

    def settle(self) -> Future[None]:
        """Done when everything queued before is judged, with all that is due at the clock's now."""
        done: Future[None] = Future()

        def after(_: sqlite3.Connection) -> None:
            self._settling.append(done)

        self.call(after)
        return done

    def settle_now(self) -> Future[None]:
        """Done when what was submitted before is judged; does not wait for what is due."""
        done: Future[None] = Future()

        def after(_: sqlite3.Connection) -> None:
            self._told_soon.append(done)

        self.call(after)
        return done

    def reload(self, hall: Hall) -> Future[None]:
        """Judge by other settings from now on; days not locked yet are judged again."""

        def adopt(_: sqlite3.Connection) -> None:
            self._adopt(hall)
            self._rejudge_open_days()

        return self.call(adopt)

    def rejudge(
        self, first: date | None, last: date | None, progress: Callable[[int, int], None]
    ) -> int:
        """Judge these dates (all of them, if none are named) again from the journal and store what
        comes out; returns the number of changes.  Only instead of ``start``: it closes the
        database when it is done."""
        head = self.store.head
        now = self.clock.now()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._connection.execute("BEGIN IMMEDIATE")
        if first is None and last is None:
            self._rehear()
        begin = max(self.gatherer.first_date, first or date.min).toordinal()
        end = min(self.gatherer.days.day(now), (last or date.max).toordinal())
        for day in range(begin, end + 1):
            work_date = date.fromordinal(day).isoformat()
            days = [("person", code, work_date) for code in self.gatherer.people()]
            days += self._counter_days(day)
            self.store.wake_soon([*days, ("hall", self.hall.id, work_date)], now)
        self._connection.execute("COMMIT")
        self.next_wake = now
        count = "SELECT count(*) FROM wake WHERE at <= ?"
        (total,) = self._connection.execute(count, (now,)).fetchone()
        done = 0
        while self.next_wake is not None and self.next_wake <= now:
            progress(min(done, total), total)
            self._judge(waited=False, at_once=REJUDGED_AT_ONCE)
            self._checkpoint()
            done += REJUDGED_AT_ONCE
        progress(total, total)
        self._connection.close()
        return self.store.head - head

    def _counter_days(self, day: int) -> list[tuple[str, str, str]]:
        """The counter's subjects of a local date: windows of which something was told on it or the
        day before (boards must not go on showing yesterday's number), and the hall."""
        work_date = date.fromordinal(day).isoformat()
        told = self._connection.execute(
            "SELECT DISTINCT window, day FROM reading WHERE day IN (?, ?) AND window IS NOT NULL",
            (day, day - 1),
        ).fetchall()
        windows = {window for window, _ in told if window in self.counter.windows}
        if day >= self.gatherer.first_date.toordinal():
            windows.update(self.counter.posts.watched())
        whole = (
            "SELECT 1 FROM reading WHERE kind = 'queue' AND day = ? AND ref = '' AND window = ''"
        )
        if self._connection.execute(whole, (day,)).fetchone():
            windows.update(self.counter.windows)
        # A post that nothing watches any more is to be withdrawn.
        windows.update(
            window
            for (window,) in self._connection.execute(
                "SELECT window FROM post_day WHERE work_date = ?", (work_date,)
            )
            if window in self.counter.windows
        )
        subjects = [("window", window, work_date) for window in sorted(windows)]
        if any(on == day for _, on in told):
            subjects.append(("counter", self.hall.id, work_date))
        return subjects

    def _rehear(self) -> None:
        """Derive anew what does not belong to a date: devices' states, what was done to alerts."""
        self._connection.execute("DELETE FROM device_state")
        self._set_meta("judged_seq", "0")
        self._judged_seq = 0
        self.store.quiet = True

    # -- the thread

    def _adopt(self, hall: Hall) -> None:
        self.hall = hall
        installed = self._meta("installed_on")
        if installed is None:
            days = Journal(self._connection, hall.zone).days
            installed = date.fromordinal(days.day(self.clock.now())).isoformat()
            self._set_meta("installed_on", installed)
        self.journal = Journal(self._connection, hall.zone)
        self.gatherer = Gatherer(self._connection, hall, date.fromisoformat(installed))
        self.counter = CounterGatherer(self._connection, hall, self.gatherer)
        self.store = Store(self._connection, hall.zone)
        self.store.actions = self.gatherer.said.actions
        self.store.serials = self.serials

    def _meta(self, name: str) -> str | None:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _set_meta(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _begin(self, version: str) -> None:
        """Note that a run begins, and since when nothing was watched."""
        row = self._connection.execute(
            "SELECT max(received_at) FROM reading WHERE seq = (SELECT max(seq) FROM reading)"
        ).fetchone()
        now = self.clock.now()
        started = Reading("hallwatch", min(row[0] or now, now), DaemonStarted(version))
        self._queue.put(_Told((started,), now, {}, lambda _: None))
        if self._meta("settings") != self.hall.settings_hash:
            self.call(lambda _: self._rejudge_open_days())

    def _run(self) -> None:
        while not self._closing or not self._queue.empty():
            items = self._take()
            try:
                if items:
                    self._commit_told(items)
                self._judge(waited=not items)
                _all_done(self._told_soon)
            except Exception:
                log.exception("pipeline_error")
                self._undo()
                threading.Event().wait(0.2)
            self._checkpoint()
        _all_done(self._settling)
        self._save_cursors()
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _take(self) -> list[_Told | _Call]:
        """What has queued; waits for something, or until a day is due."""
        timeout: float | None = None
        if self._settling or self._pending():
            timeout = 0.0
        elif self.clock.runs:
            timeout = 1.0 if self._cursors else 30.0
            if self.next_wake is not None:
                timeout = min(timeout, max(0.0, (self.next_wake - self.clock.now()) / 1000))
        items: list[_Told | _Call] = []
        readings = 0
        try:
            item = self._queue.get(timeout=timeout) if timeout != 0.0 else self._queue.get_nowait()
            while True:
                if item is None:
                    self._closing = True
                else:
                    items.append(item)
                    readings += len(item.readings) if isinstance(item, _Told) else 0
                if readings >= BURST:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        return items

    def _pending(self) -> bool:
        return self.journal.last_seq > self._judged_seq

    def _commit_told(self, items: list[_Told | _Call]) -> None:
        """One transaction for everything; whoever cannot be served is told so and harms nobody.

        A handful of readings is judged in the same transaction: one flush to the disk instead of
        two, and what follows from a punch is known when it is acknowledged.
        """
        execute = self._connection.execute
        told = [item for item in items if isinstance(item, _Told)]
        answers: list[tuple[Callable[[Any], None], Any]] = []
        few = sum(len(one.readings) for one in told) <= TOGETHER and not self._pending()
        head = self.store.head
        try:
            execute("BEGIN IMMEDIATE")
            if told:
                counts = self._append(told)
                answers += zip((one.done for one in told), counts, strict=True)
            for item in items:
                if isinstance(item, _Call):
                    execute("SAVEPOINT call")
                    try:
                        answers.append((item.done.set_result, item.function(self._connection)))
                    except Exception as error:  # noqa: BLE001 - handed to whoever called
                        execute("ROLLBACK TO call")
                        answers.append((item.done.set_exception, error))
                    execute("RELEASE call")
            if few and self._pending():
                self._judge_at_once()
            self.store.flush()
            execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - a driver's impossible value is one teller's
            self._undo()
            if len(items) > 1:
                for item in items:
                    self._commit_told([item])
                return
            log.error("store_failed", error=str(error), readings=sum(len(t.readings) for t in told))
            failure = OSError(f"The readings could not be stored: {error}")
            for item in items:
                if isinstance(item, _Told):
                    item.done(failure)
                elif not item.done.done():
                    item.done.set_exception(failure)
            self._wake_loops()
            return
        for done, answer in answers:
            try:
                done(answer)
            except InvalidStateError:
                pass  # Whoever called no longer waits; what was asked is done.
        self._wake_loops()
        self._tell(head)

    def _judge_at_once(self) -> None:
        """Judge what was just journalled before it is committed; if that fails, it is judged (and
        its failure logged) after the commit."""
        execute = self._connection.execute
        execute("SAVEPOINT judged")
        try:
            self._as_of = max(self._as_of, self.clock.now())
            self._take_in(self._as_of)
            self._save_cursors()
            self.store.flush()
            self.next_wake = self._query_next_wake()
        except Exception:
            log.exception("judgement_postponed")
            execute("ROLLBACK TO judged")
            self.store.forget()
            self._happenings.clear()
            self._judged_seq = int(self._meta("judged_seq") or 0)
        execute("RELEASE judged")

    def _append(self, told: list[_Told]) -> list[int]:
        """Journal what was told; returns how many readings of each teller were new."""
        parts = [self.journal.rows(one.readings, one.received_at) for one in told]
        whole = [row for part in parts for row in part]
        counts = [len(part) for part in parts]
        execute = self._connection.execute
        execute("SAVEPOINT told")
        new = self.journal.insert(whole)
        if new != len(whole):
            # Who said it again?  Rare enough to begin anew, one by one.
            execute("ROLLBACK TO told")
            self.journal.last_seq -= new
            counts = [self.journal.insert(part) for part in parts]
            new = sum(counts)
        execute("RELEASE told")
        self.readings += new
        self.repeats += len(whole) - new
        for item in told:
            for (device, name), value in item.marks.items():
                self._connection.execute(
                    "INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", (device, name, value)
                )
            if item.remember is not None:
                self._connection.execute(
                    "INSERT OR IGNORE INTO idempotency VALUES (?, ?, ?, ?, ?, ?)", item.remember
                )
        return counts

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self.journal.forget_clocks()
        self.store.forget()
        self._happenings.clear()
        self.journal.last_seq = self._connection.execute(
            "SELECT ifnull(max(seq), 0) FROM reading"
        ).fetchone()[0]
        self._judged_seq = int(self._meta("judged_seq") or 0)
        self._rolled = int(self._meta("rolled") or 0)
        self.next_wake = self._query_next_wake()

    # -- judging

    def _judge(self, waited: bool, at_once: int = AT_ONCE) -> None:
        now = self._as_of = max(self._as_of, self.clock.now())
        head = self.store.head
        if self._settling and self._counter_waits:
            self._counter_judged = 0
            for day in self._counter_waits:
                self._connection.execute(
                    "UPDATE wake SET at = ? WHERE subject_kind = 'counter' AND work_date = ?",
                    (now, day),
                )
            self._counter_waits.clear()
            self.next_wake = min(self.next_wake or now, now)
        pending = self._pending()
        due = self.next_wake is not None and self.next_wake <= now
        today = self.gatherer.days.day(now)
        rolled = self._rolled
        idle = not (pending or due or rolled < today)
        if idle and waited and self._cursors:
            self._save_cursors()
        if idle:
            _all_done(self._settling)
            return
        self._connection.execute("BEGIN IMMEDIATE")
        if rolled < today:
            self._roll(rolled, today, now)
        if pending:
            self._take_in(now)
        if due or pending or rolled < today:
            self._judge_due(now, at_once)
        self._save_cursors()
        self.store.flush()
        self._connection.execute("COMMIT")
        self.next_wake = self._query_next_wake()
        self._tell(head)

    def _tell(self, head: int) -> None:
        """After a commit: wake who waits for changes after ``head``."""
        if self.store.head > head:
            self.changed(self.store.head)
        if self._happenings:
            news, self._happenings = self._happenings, []
            self.at_windows(news)

    def _roll(self, rolled: int, today: int, now: Instant) -> None:
        """Begin the dates since the last time: who stays away for a whole day sends no reading."""
        first = max(rolled + 1, self.gatherer.first_date.toordinal()) if rolled else today
        if not rolled:
            first = min(today, max(self.gatherer.first_date.toordinal(), today - 400))
        people = self.gatherer.people()
        for day in range(first, today + 1):
            work_date = date.fromordinal(day).isoformat()
            days = [("person", code, work_date) for code in people]
            days.append(("hall", self.hall.id, work_date))
            self.store.wake_soon(days, now)
        self.store.wake_soon(self._counter_days(today), now)
        self._forget_waiting(now)
        self._set_meta("rolled", str(today))
        self._rolled = today

    def _forget_waiting(self, now: Instant) -> None:
        """Who waited matters no more once the month is closed; until then it may be told late."""
        execute = self._connection.execute
        for (day,) in execute("SELECT DISTINCT work_date FROM waits_on").fetchall():
            if self.hall.locks_at(date.fromisoformat(day)) <= now:
                execute("DELETE FROM waits_on WHERE work_date = ?", (day,))

    def _rejudge_open_days(self) -> None:
        now = self.clock.now()
        today = self.gatherer.days.day(now)
        first = max(self.gatherer.first_date.toordinal(), today - 70)
        for day in range(first, today + 1):
            work_date = date.fromordinal(day)
            if self.hall.locks_at(work_date) > now:
                people = self.gatherer.people()
                days = [("person", code, work_date.isoformat()) for code in people]
                days += [*self._counter_days(day), ("hall", self.hall.id, work_date.isoformat())]
                self.store.wake_soon(days, now)
        self._set_meta("settings", self.hall.settings_hash)
        self.next_wake = min(self.next_wake or now, now)

    def _take_in(self, now: Instant) -> None:
        """Turn journal rows that were not judged yet into days to judge."""
        execute = self._connection.execute
        since, until = self._judged_seq, self.journal.last_seq
        touched: set[tuple[str, date]] = set()
        halls: set[date] = set()
        windows: set[tuple[str, date]] = set()
        posts: set[tuple[str, date]] = set()
        counts: Counter[str] = Counter()
        latest: dict[str, Instant] = {}
        for device, number, received_at, serial in execute(
            "SELECT device, count(*), max(received_at), max(serial) FROM reading"
            " WHERE seq > ? AND kind = 'punch' GROUP BY device",
            (since,),
        ):
            counts[device] = number
            latest[device] = received_at
            if serial:
                self.serials[device] = serial
        if counts:
            self.store.count_readings(counts, latest)
        # Without NOT INDEXED SQLite would read the index of the whole history, to group by it.
        for person, day, worst, late, punched in execute(
            "SELECT person, day, max(trust), max(received_at - event_at), max(kind = 'punch')"
            " FROM reading NOT INDEXED WHERE seq > ? AND person IS NOT NULL GROUP BY person, day",
            (since,),
        ).fetchall():
            if late > LATE:
                # Counts of an hour that was judged already have changed.
                halls.add(date.fromordinal(day))
            who = self.gatherer.person(person)
            if who is None:
                halls.add(date.fromordinal(day))
                continue
            touched.update((person, at) for at in self.gatherer.work_dates(who, day, now))
            if worst == 3:
                self.gatherer.doubtful.add(person)
                touched.update((person, at) for at in self._doubted(person, since, day))
            if punched:
                for window in self.counter.posts.windows_of((person,)):
                    dates = self.counter.posts.dates_of(window, day)
                    posts.update((window, on) for on in dates)
        later: set[tuple[str, str, str]] = set()
        for stored in others_since(self._connection, since):
            self._hear(stored, touched, halls, windows, posts, later, now)
        self.store.quiet = False
        self._set_meta("judged_seq", str(until))
        self._judged_seq = until
        yesterday = date.fromordinal(self.gatherer.days.day(now) - 1)
        fresh = sorted((day for day in touched if day[1] >= yesterday), key=lambda day: day[1])
        now_days, rest = fresh[:AT_ONCE], fresh[AT_ONCE:]
        later.update(("person", person, day.isoformat()) for person, day in rest)
        later.update(
            ("person", person, day.isoformat()) for person, day in touched if day < yesterday
        )
        if later:
            self.store.wake_soon(sorted(later), now)
        if halls:
            self.store.wake_soon(
                [("hall", self.hall.id, day.isoformat()) for day in sorted(halls)], now
            )
        self._judge_people(now_days, now)
        for work_date in sorted({day for _, day in windows}):
            self._counter_due(work_date.isoformat(), now)
        self._judge_touched_windows(windows | posts, yesterday, now)

    def _judge_touched_windows(
        self, windows: set[tuple[str, date]], yesterday: date, now: Instant
    ) -> None:
        later = {
            (window, day)
            for window, day in windows
            if day < yesterday and window in self.counter.windows
        }
        fresh = [one for one in windows - later if one[0] in self.counter.windows]
        later.update(fresh[WINDOWS_AT_ONCE:])
        self.store.wake_soon(
            sorted(("window", window, day.isoformat()) for window, day in later), now
        )
        for window, day in sorted(fresh[:WINDOWS_AT_ONCE]):
            self._judge_window_day(window, day, now)

    def _counter_due(self, work_date: str, now: Instant) -> None:
        at = max(now, self._counter_judged + self._counter_pause)
        if at > now:
            self._counter_waits.add(work_date)
        self.store.wake_soon([("counter", self.hall.id, work_date)], at)

    def _doubted(self, person: str, since: int, day: int) -> Iterable[date]:
        (earliest,) = self._connection.execute(
            "SELECT min(earliest) FROM reading NOT INDEXED"
            " WHERE seq > ? AND person = ? AND trust = 3",
            (since, person),
        ).fetchone()
        first = max(self.gatherer.days.day(earliest), day - 60)
        return [date.fromordinal(number) for number in range(first, day + 1)]

    def _hear(
        self,
        stored: StoredReading,
        touched: set[tuple[str, date]],
        halls: set[date],
        windows: set[tuple[str, date]],
        posts: set[tuple[str, date]],
        later: set[tuple[str, str, str]],
        now: Instant,
    ) -> None:
        """What one reading other than a punch touches.  ``posts``: windows' days of which only the
        post is to be judged again, not the hall's counter."""
        body = stored.body
        days = self.gatherer.days
        self.gatherer.said.hear(stored)
        if isinstance(body, Absence | AbsenceRevoked):
            for absence in self.gatherer.said.absence(body.absence_id):
                span = absence.starts, absence.ends
                self._touch_span(absence.people, *span, touched, posts)
        elif isinstance(body, RosterEntry):
            touched.add((body.person, body.work_date))
            if body.work_date.toordinal() <= days.day(now):
                theirs = self.counter.posts.windows_of((body.person,))
                posts.update((window, body.work_date) for window in theirs)
        elif isinstance(body, PersonEntry):
            first = max(self.gatherer.first_date.toordinal(), days.day(now) - 70)
            dates = [date.fromordinal(day) for day in range(first, days.day(now) + 1)]
            touched.update((body.person.code, on) for on in dates)
            self.counter.posts.forget_people()
            for window in self.counter.posts.windows_of((body.person.code,)):
                posts.update((window, on) for on in dates if self.hall.locks_at(on) > now)
        elif isinstance(body, COUNTER_BODIES):
            day = days.day(stored.at)
            windows.update(self.counter.days_of(body, day, days.day(now)))
            if isinstance(body, QueueEvent):
                waiting = self.counter.posts.waiting_on(body, day, stored.at)
                later.update(("window", window, on) for window, on in waiting)
            if stored.device not in ("api", "import"):
                self.store.see_device(stored, now)
        elif isinstance(body, AlertAction):
            hall_day = self.store.act_on_alert(body, stored.received_at, now)
            if hall_day is not None:
                halls.add(hall_day)
        elif isinstance(body, GapExplained):
            self.gatherer.paths.forget()
            later.update(self._everybody(days.day(body.starts), days.day(body.ends)))
        else:
            if stored.device not in ("hallwatch", "api", "import"):
                self.store.see_device(stored, now)
            if isinstance(body, ClockCheck):
                halls.add(date.fromordinal(days.day(stored.received_at)))
            elif isinstance(body, Link | DaemonStarted):
                device = stored.device if isinstance(body, Link) else None
                self.gatherer.paths.forget(device)
                self.counter.paths.forget(device)
                self.counter.posts.paths.forget(device)
                if isinstance(body, Link):
                    windows.update(self.counter.seen_by(stored.device, days.day(stored.at)))
                else:
                    # Since the last run nothing has watched.
                    for window in self.counter.posts.watched():
                        for day in {days.day(stored.at), days.day(now)}:
                            bears_on = self.counter.posts.dates_of(window, day)
                            posts.update((window, on) for on in bears_on)
                first, last = days.day(stored.at), days.day(stored.received_at)
                halls.update(
                    date.fromordinal(day) for day in range(max(first, last - 60), last + 1)
                )
                halls.update(self._outage_dates(stored.device, stored.at))
                later.update(self._everybody(first, last))
            elif isinstance(body, LogComplete):
                self._complete(stored, later)
            elif isinstance(body, DeviceEvent):
                halls.add(date.fromordinal(days.day(stored.at)))
            elif isinstance(body, Picture):
                halls.add(date.fromordinal(days.day(stored.at)))
                halls.update(self._picture_dates(stored.device, stored.at))
            elif isinstance(body, Recorded):
                first, last = days.day(body.since), days.day(body.until)
                halls.update(
                    date.fromordinal(day) for day in range(max(first, last - 60), last + 1)
                )

    def _outage_dates(self, device: str, at: Instant) -> Iterable[date]:
        """An outage is shown on the date it began, so its end touches that date."""
        row = self._connection.execute(
            "SELECT at FROM reading WHERE kind = 'link' AND kind <> 'punch' AND device = ?"
            " AND at < ? ORDER BY at DESC LIMIT 1",
            (device, at),
        ).fetchone()
        return [date.fromordinal(self.gatherer.days.day(row[0]))] if row else []

    def _picture_dates(self, device: str, at: Instant) -> Iterable[date]:
        """Bad pictures are told on the date they began, so the next state touches that date."""
        told = "kind = 'picture' AND kind <> 'punch' AND device = ? AND at < ?"
        good = "json_extract(body, '$.faults') IS NULL AND json_extract(body, '$.known') IS NULL"
        days = self.gatherer.days
        return {
            date.fromordinal(days.day(began))
            for (began,) in self._connection.execute(
                f"SELECT at FROM reading WHERE {told} AND NOT ({good}) AND at >= ifnull("
                f"(SELECT max(at) FROM reading WHERE {told} AND {good}), 0)",
                (device, at, device, at),
            )
        }

    def _complete(self, stored: StoredReading, later: set[tuple[str, str, str]]) -> None:
        """A log that is complete after a gap settles the dates of the gap."""
        previous = self._connection.execute(
            "SELECT max(at) FROM reading WHERE kind = 'complete' AND kind <> 'punch'"
            " AND device = ? AND at < ?",
            (stored.device, stored.at),
        ).fetchone()[0]
        self.gatherer.paths.forget(stored.device)
        gap = self._connection.execute(
            "SELECT 1 FROM reading WHERE kind = 'link' AND kind <> 'punch' AND device = ?"
            " AND at >= ? LIMIT 1",
            (stored.device, previous or 0),
        ).fetchone()
        if gap:
            days = self.gatherer.days
            last = days.day(stored.at)
            first = days.day(previous) if previous else last
            later.update(self._everybody(max(first, last - 60), last))

    def _everybody(self, first: int, last: int) -> Iterable[tuple[str, str, str]]:
        first = max(first, self.gatherer.first_date.toordinal(), last - 60)
        for day in range(first, last + 1):
            work_date = date.fromordinal(day).isoformat()
            for code in self.gatherer.people():
                yield "person", code, work_date

    def _touch_span(
        self,
        people: Iterable[str],
        starts: Instant,
        ends: Instant,
        touched: set[tuple[str, date]],
        posts: set[tuple[str, date]],
    ) -> None:
        days = self.gatherer.days
        today = days.day(self._as_of)
        windows = set(self.counter.posts.windows_of(people))
        first = max(days.day(starts) - 1, self.gatherer.first_date.toordinal())
        for day in range(first, min(days.day(ends), today) + 1):
            touched.update((person, date.fromordinal(day)) for person in people)
            posts.update((window, date.fromordinal(day)) for window in windows)

    def _judge_due(self, now: Instant, at_once: int) -> None:
        self.store.flush()
        due = self._connection.execute(
            "SELECT subject_kind, subject, work_date FROM wake WHERE at <= ? ORDER BY at LIMIT ?",
            (now, at_once),
        ).fetchall()
        people = []
        windows = 0
        for kind, subject, day in due:
            work_date = date.fromisoformat(day)
            if kind == "person":
                people.append((subject, work_date))
            elif kind == "window" and subject in self.counter.windows:
                windows += 1
                if windows <= max(WINDOWS_AT_ONCE, at_once // 10):
                    self._judge_window_day(subject, work_date, now)
            elif kind == "counter" and subject == self.hall.id:
                if at_once == AT_ONCE and self._counter_judged + self._counter_pause > now:
                    self._counter_waits.add(day)
                    at = self._counter_judged + self._counter_pause
                    self.store.set_wake("counter", subject, day, at)
                else:
                    self._judge_counter_day(work_date, now)
            elif kind == "hall" and subject == self.hall.id:
                if self._queue.empty() or now - self._hall_judged > HALL_PAUSE:
                    self._judge_hall_day(work_date, now)
                    self._hall_judged = self.clock.now()
            else:
                self.store.set_wake(kind, subject, day, None)
        self._judge_people(people, now)

    def _judge_people(self, days: Sequence[tuple[str, date]], now: Instant) -> None:
        if not days:
            return
        dates: dict[date, list[str]] = {}
        for code, work_date in days:
            dates.setdefault(work_date, []).append(code)
        codes = tuple({code for code, _ in days})
        rows = {
            work_date.toordinal(): self.gatherer.rows(work_date.toordinal(), codes)
            for work_date, people in dates.items()
            if len(people) > 1
        }
        stored = self.store.stored_days(dates)
        for code, work_date in days:
            person = self.gatherer.person(code)
            if person is None:
                self.store.set_wake("person", code, work_date.isoformat(), None)
                continue
            try:
                day_seen, outcome = judge_day(self.gatherer, person, work_date, now, rows)
            except Exception:
                self.failures += 1
                log.exception("judgement_failed", person=code, work_date=work_date.isoformat())
                self.store.set_wake("person", code, work_date.isoformat(), now + RETRY)
                continue
            self.store.apply_person(
                day_seen, outcome, self.hall.rulebook.rule_version(work_date), stored
            )

    def _judge_hall_day(self, work_date: date, now: Instant) -> None:
        try:
            day = self.gatherer.hall_day(work_date, now)
            outcome = judge_hall(day, self.hall.rulebook)
        except Exception:
            self.failures += 1
            log.exception("judgement_failed", hall=self.hall.id, work_date=work_date.isoformat())
            self.store.set_wake("hall", self.hall.id, work_date.isoformat(), now + RETRY)
            return
        self.store.apply_hall(work_date, self.hall.id, outcome, now)

    def _judge_window_day(self, window: str, work_date: date, now: Instant) -> None:
        try:
            judged = self.counter.judge_window(self.counter.windows[window], work_date, now)
        except Exception:
            self.failures += 1
            log.exception("judgement_failed", window=window, work_date=work_date.isoformat())
            self.store.set_wake("window", window, work_date.isoformat(), now + RETRY)
            return
        record = judged.record
        event, call_seq = self.store.apply_window(record, judged.outcome, now)
        self.store.apply_post(
            window, work_date, judged.post, judged.post_outcome, judged.waits_on, now
        )
        asks = (judged.outcome.ask_again, judged.post_outcome.ask_again)
        at = min((one for one in asks if one is not None), default=None)
        self.store.set_wake("window", window, work_date.isoformat(), at)
        if work_date.toordinal() == self.gatherer.days.day(now):
            self._happenings.append(Happening(record, event, call_seq))

    def _judge_counter_day(self, work_date: date, now: Instant) -> None:
        day = work_date.isoformat()
        began = time.perf_counter()
        self._counter_waits.discard(day)
        try:
            record, outcome, renumbered = self.counter.judge_counter(work_date, now)
        except Exception:
            self.failures += 1
            log.exception("judgement_failed", counter=self.hall.id, work_date=day)
            self.store.set_wake("counter", self.hall.id, day, now + RETRY)
            return
        self.store.apply_counter(work_date, self.hall.id, record, outcome, now)
        if renumbered:
            windows = [("window", window, day) for window in self.counter.windows]
            self.store.wake_soon(windows, now)
        self._counter_judged = now
        self._counter_pause = max(COUNTER_PAUSE, int(10_000 * (time.perf_counter() - began)))

    def _query_next_wake(self) -> Instant | None:
        found: Instant | None = self._connection.execute("SELECT min(at) FROM wake").fetchone()[0]
        return found

    def _checkpoint(self) -> None:
        """Move the WAL into the database when nobody waits (or when it has grown too long)."""
        rows = self._connection.total_changes - self._checkpointed
        if rows > CHECKPOINT_LIMIT or (rows > CHECKPOINT_ROWS and self._queue.empty()):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._checkpointed = self._connection.total_changes


def _all_done(waiting: list[Future[None]]) -> None:
    """Who no longer waits (a cancelled task) is no reason to stop."""
    for done in waiting:
        if done.set_running_or_notify_cancel():
            done.set_result(None)
    waiting.clear()


def _resolve(answers: Sequence[tuple[asyncio.Future[int], int | BaseException]]) -> None:
    for told, answer in answers:
        if told.done():
            continue
        if isinstance(answer, BaseException):
            told.set_exception(answer)
        else:
            told.set_result(answer)


def judge_day(
    gatherer: Gatherer,
    person: Any,
    work_date: date,
    as_of: Instant,
    rows: Mapping[int, DayRows] | None = None,
) -> tuple[PersonDay, Outcome]:
    """Gather and judge one person's day; the same for the daemon and for a replay."""
    book = gatherer.hall.rulebook
    day = gatherer.person_day(person, work_date, as_of, rows)
    if as_of < day.locks_at:
        return day, judge_person(day, book)
    if gatherer.knew_all(day, day.locks_at):
        # Nothing came since the month was closed, which is so for nearly every day of a replay: if
        # time alone changes nothing either, one judgement serves for both.
        locked = structs.replace(day, as_of=day.locks_at)
        closed = judge_person(locked, book)
        final = closed.record is None or closed.record.finality == "locked"
        if final and closed.ask_again is None:
            return day, closed
    else:
        locked = gatherer.person_day(person, work_date, day.locks_at, rows)
    return day, judge_person(day, book, locked)
