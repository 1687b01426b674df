"""Judging the journal again from the start: to prove, to repair, or to ask what if."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import msgspec
from msgspec import Struct

from config.load import Hall
from daemon.clock import Clock
from daemon.counter import CounterGatherer, WindowJudgement
from daemon.database import DatabaseProblem, open_reader
from daemon.facts import Gatherer
from daemon.journal import LocalDays
from daemon.pipeline import Pipeline, judge_day
from daemon.store import RESOLVED_BY_PERSON, area_json, record_json, window_json
from rules.counter import CounterOutcome
from rules.engine import judge_hall
from rules.model import Instant, Outcome, Punch
from rules.post import PostOutcome
from rules.trust import Clock as TerminalClock

_encode = msgspec.json.encode
_punch = msgspec.json.Decoder(Punch)

Progress = Callable[[int, int], None]


class Difference(Struct, frozen=True):
    """One thing that the journal says otherwise than what it is compared with."""

    work_date: str
    subject: str
    what: str
    stored: str
    judged: str


def _gatherer(connection: sqlite3.Connection, hall: Hall) -> Gatherer:
    row = connection.execute("SELECT value FROM meta WHERE name = 'installed_on'").fetchone()
    if row is None:
        raise DatabaseProblem("The database is empty: the daemon has never run on it.")
    return Gatherer(connection, hall, date.fromisoformat(row[0]))


def _settled_snapshot(connection: sqlite3.Connection) -> None:
    """Begin to read at a moment at which nothing waits to be judged.

    Raises ``DatabaseProblem`` if there is none within 20 seconds.
    """
    for _ in range(200):
        connection.execute("BEGIN")
        pending, due = connection.execute(
            "SELECT (SELECT ifnull(max(seq), 0) FROM reading)"
            " - (SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'judged_seq'),"
            " (SELECT count(*) FROM wake WHERE at <= (SELECT ifnull(max(received_at), 0)"
            " FROM reading))"
        ).fetchone()
        if not pending and not due:
            return
        connection.execute("COMMIT")
        time.sleep(0.1)
    raise DatabaseProblem(
        f"{pending or 0} readings and {due} days still wait to be judged. "
        "Start the daemon and let it finish, then verify."
    )


def verify(
    path: Path, hall: Hall, clock: Clock, first: date | None, last: date | None, progress: Progress
) -> Iterator[Difference]:
    """Every difference between what is stored and what the journal gives, judged again as of the
    same moments.  Stores nothing; the daemon may run meanwhile."""
    with closing(open_reader(path)) as connection:
        _settled_snapshot(connection)
        gatherer = _gatherer(connection, hall)
        yield from _event_times(connection, gatherer.days)
        wakes = {
            (kind, subject, work_date): at
            for kind, subject, work_date, at in connection.execute(
                "SELECT subject_kind, subject, work_date, at FROM wake"
            )
        }
        now = clock.now()
        counter = CounterGatherer(connection, hall, gatherer)
        dates = _dates(connection, gatherer, first, last)
        for number, work_date in enumerate(dates):
            progress(number, len(dates))
            yield from _verify_date(connection, gatherer, work_date, now)
            due = wakes.get(("hall", hall.id, work_date.isoformat()), now + 1)
            yield from _verify_hall(connection, gatherer, work_date, min(now, due - 1))
            yield from _verify_counter(connection, counter, hall.id, work_date)
        progress(len(dates), len(dates))
        yield from _verify_devices(connection)


def what_if(
    path: Path, hall: Hall, other: Hall, first: date | None, last: date | None, progress: Progress
) -> Iterator[Difference]:
    """What ``other`` settings would have decided from the same journal; stores nothing."""
    with closing(open_reader(path)) as connection:
        connection.execute("BEGIN")
        gatherer = _gatherer(connection, other)
        counter = CounterGatherer(connection, other, gatherer)
        dates = _dates(connection, _gatherer(connection, hall), first, last)
        for number, work_date in enumerate(dates):
            progress(number, len(dates))
            for difference in _verify_date(connection, gatherer, work_date, None):
                if difference.what != "record":
                    yield difference
            yield from _compare_posts(connection, counter, work_date)
        progress(len(dates), len(dates))


def rejudge(
    path: Path,
    hall: Hall,
    clock: Clock,
    first: date | None,
    last: date | None,
    progress: Progress,
    synchronous: str = "full",
) -> int:
    """Judge again and store; returns the number of changes.  The daemon must not be running."""
    pipeline = Pipeline(path, hall, clock, synchronous=synchronous)
    return pipeline.rejudge(first, last, progress)


def _dates(
    connection: sqlite3.Connection, gatherer: Gatherer, first: date | None, last: date | None
) -> list[date]:
    rolled = connection.execute("SELECT value FROM meta WHERE name = 'rolled'").fetchone()
    if rolled is None:
        return []
    begin = max(gatherer.first_date, first or date.min).toordinal()
    end = min(int(rolled[0]), (last or date.max).toordinal())
    return [date.fromordinal(day) for day in range(begin, end + 1)]


def _event_times(connection: sqlite3.Connection, days: LocalDays) -> Iterator[Difference]:
    """The times of punches, derived again from what was known when each was received."""
    clocks: dict[str, TerminalClock] = {}
    for (
        device,
        kind,
        person,
        at,
        received_at,
        event_at,
        trust,
        earliest,
        day,
        body,
    ) in connection.execute(
        "SELECT device, kind, person, at, received_at, event_at, trust, earliest, day, body"
        " FROM reading WHERE kind IN ('punch', 'clock', 'complete') ORDER BY seq"
    ):
        terminal = clocks.get(device)
        if terminal is None:
            terminal = clocks[device] = TerminalClock()
        if kind == "clock":
            terminal.check(received_at, at)
        elif kind == "complete":
            terminal.complete_until = max(terminal.complete_until, at)
        else:
            punch = _punch.decode(body)
            found = (
                terminal.event_time(at, received_at, punch.live)
                if punch.source == "terminal"
                else (at, 0, 0)
            )
            if (event_at, trust, earliest) != found or day != days.day(found[0]):
                yield Difference(
                    date.fromordinal(day).isoformat(), person, "event time",
                    repr((event_at, trust, earliest)), repr(found),
                )  # fmt: skip


def _verify_date(
    connection: sqlite3.Connection, gatherer: Gatherer, work_date: date, now: Instant | None
) -> Iterator[Difference]:
    """``now`` none: only days that are stored, and only by what differs for people."""
    day = work_date.isoformat()
    stored = {
        row[0]: row[1:]
        for row in connection.execute(
            "SELECT person, body, slots, as_of, inputs_hash FROM attendance_day"
            " WHERE work_date = ?",
            (day,),
        )
    }
    violations = _by_person(
        connection.execute(
            "SELECT person, id, body FROM violation"
            " WHERE work_date = ? AND state = 'active' AND scope = 'person'",
            (day,),
        )
    )
    alerts = _by_person(
        connection.execute(
            "SELECT subject, id, body FROM alert WHERE work_date = ? AND subject_kind = 'person'"
            " AND state <> 'withdrawn'",
            (day,),
        )
    )
    adjustments = _by_person(
        connection.execute("SELECT person, id, body FROM adjustment WHERE work_date = ?", (day,))
    )
    rows = {work_date.toordinal(): gatherer.rows(work_date.toordinal())}
    people = gatherer.people()
    for code in sorted({*people, *stored}):
        person = people.get(code)
        body, slots, as_of, _ = stored.get(code, ("", "", now, ""))
        if person is None or as_of is None:
            continue
        _, outcome = judge_day(gatherer, person, work_date, as_of, rows)
        yield from _compare(day, code, body, slots, outcome)
        for what, found, judged in (
            ("violation", violations, outcome.violations),
            ("alert", alerts, outcome.alerts),
            ("adjustment", adjustments, outcome.adjustments),
        ):
            expected = {row.id: _encode(row).decode() for row in judged}
            present = found.get(code, {})
            for id_ in sorted({*expected, *present}):
                if expected.get(id_) != present.get(id_):
                    yield Difference(day, code, what, present.get(id_, "-"), expected.get(id_, "-"))


def _compare(day: str, code: str, body: str, slots: str, outcome: Outcome) -> Iterator[Difference]:
    record = outcome.record
    if record is not None and (record.slots or record.strays):
        judged = record_json(record)
    else:
        judged = ("", "")
    if judged != (body, slots):
        yield Difference(day, code, "record", body + slots or "-", "".join(judged) or "-")


def _by_person(rows: sqlite3.Cursor) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for person, id_, body in rows:
        found.setdefault(person, {})[id_] = body
    return found


def _verify_hall(
    connection: sqlite3.Connection, gatherer: Gatherer, work_date: date, as_of: Instant
) -> Iterator[Difference]:
    day = work_date.isoformat()
    stored = {
        id_: (body, state)
        for id_, body, state, reason in connection.execute(
            "SELECT id, body, state, reason FROM alert WHERE work_date = ?"
            " AND scope = 'hall' AND state <> 'withdrawn'",
            (day,),
        )
        if reason != RESOLVED_BY_PERSON
    }
    outcome = judge_hall(gatherer.hall_day(work_date, as_of), gatherer.hall.rulebook)
    judged = {alert.id: (_encode(alert).decode(), alert.state) for alert in outcome.alerts}
    for id_ in sorted({*stored, *judged}):
        if stored.get(id_) != judged.get(id_):
            yield Difference(
                day, gatherer.hall.id, "alert", repr(stored.get(id_)), repr(judged.get(id_))
            )


def _verify_counter(
    connection: sqlite3.Connection, counter: CounterGatherer, hall: str, work_date: date
) -> Iterator[Difference]:
    """What is stored of windows, ratings and service areas, judged again as of the same moments."""
    day = work_date.isoformat()
    alerts = _counter_alerts(connection, hall, day)
    for name, body, as_of in connection.execute(
        "SELECT window, body, as_of FROM window_day WHERE work_date = ?", (day,)
    ).fetchall():
        if name not in counter.windows:
            continue
        window = counter.judge_window(counter.windows[name], work_date, as_of)
        services = connection.execute(
            "SELECT body FROM service WHERE work_date = ? AND window = ? ORDER BY number",
            (day, name),
        )
        ratings = connection.execute(
            "SELECT body FROM rating WHERE work_date = ? AND window = ? ORDER BY rating_id",
            (day, name),
        )
        judged = window_json(window.record)
        for what, stored, now in (
            ("window", [body], [judged[0]]),
            ("services", [one for (one,) in services], judged[1]),
            (
                "ratings",
                [one for (one,) in ratings],
                [text for _, text in sorted(judged[2].items())],
            ),
        ):
            if stored != now:
                yield Difference(day, name, what, " ".join(stored), " ".join(now))
        yield from _compare_alerts(day, name, alerts.get(("window", name), {}), window.outcome)
        yield from _verify_post(connection, day, name, window)
        yield from _compare_post(connection, day, name, window, alerts.get(("post", name), {}))
    areas = connection.execute(
        "SELECT area, body, as_of FROM area_day WHERE work_date = ?", (day,)
    ).fetchall()
    if areas:
        whole, outcome, _ = counter.judge_counter(work_date, max(row[2] for row in areas))
        stored_areas = {area: body for area, body, _ in areas}
        judged_areas = {area.area: area_json(area) for area in whole.areas}
        for area in sorted({*stored_areas, *judged_areas}):
            if stored_areas.get(area) != judged_areas.get(area):
                yield Difference(
                    day, area, "area", stored_areas.get(area, "-"), judged_areas.get(area, "-")
                )
        yield from _compare_alerts(day, hall, alerts.get(("counter", hall), {}), outcome)


def _counter_alerts(
    connection: sqlite3.Connection, hall: str, day: str
) -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """Body and state by id, by scope and subject."""
    alerts: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for scope, subject, id_, body, state in connection.execute(
        "SELECT scope, subject, id, body, state FROM alert WHERE work_date = ?"
        " AND scope IN ('window', 'counter', 'post') AND state <> 'withdrawn' AND reason <> ?",
        (day, RESOLVED_BY_PERSON),
    ):
        key = (scope, hall if scope == "counter" else subject)
        alerts.setdefault(key, {})[id_] = (body, state)
    return alerts


def _compare_posts(
    connection: sqlite3.Connection, counter: CounterGatherer, work_date: date
) -> Iterator[Difference]:
    """What differs for people at their posts."""
    day = work_date.isoformat()
    alerts = _counter_alerts(connection, "", day)
    for name, as_of in connection.execute(
        "SELECT window, as_of FROM window_day WHERE work_date = ?", (day,)
    ).fetchall():
        if name in counter.windows:
            judged = counter.judge_window(counter.windows[name], work_date, as_of)
            yield from _compare_post(connection, day, name, judged, alerts.get(("post", name), {}))


def _verify_post(
    connection: sqlite3.Connection, day: str, window: str, judged: WindowJudgement
) -> Iterator[Difference]:
    row = connection.execute(
        "SELECT body FROM post_day WHERE work_date = ? AND window = ?", (day, window)
    ).fetchone()
    stored = row[0] if row else "-"
    now = _encode(judged.post).decode() if judged.post is not None else "-"
    if stored != now:
        yield Difference(day, window, "post", stored, now)


def _compare_post(
    connection: sqlite3.Connection,
    day: str,
    window: str,
    judged: WindowJudgement,
    alerts: dict[str, tuple[str, str]],
) -> Iterator[Difference]:
    yield from _compare_alerts(day, window, alerts, judged.post_outcome)
    violations = dict(
        connection.execute(
            "SELECT id, body FROM violation"
            " WHERE work_date = ? AND window = ? AND window <> '' AND state = 'active'",
            (day, window),
        ).fetchall()
    )
    found = {one.id: _encode(one).decode() for one in judged.post_outcome.violations}
    for id_ in sorted({*violations, *found}):
        if violations.get(id_) != found.get(id_):
            yield Difference(
                day, window, "violation", violations.get(id_, "-"), found.get(id_, "-")
            )


def _compare_alerts(
    day: str,
    subject: str,
    stored: dict[str, tuple[str, str]],
    outcome: CounterOutcome | PostOutcome,
) -> Iterator[Difference]:
    judged = {alert.id: (_encode(alert).decode(), alert.state) for alert in outcome.alerts}
    for id_ in sorted({*stored, *judged}):
        if stored.get(id_) != judged.get(id_):
            yield Difference(day, subject, "alert", repr(stored.get(id_)), repr(judged.get(id_)))


def _verify_devices(connection: sqlite3.Connection) -> Iterator[Difference]:
    counted = dict(
        connection.execute(
            "SELECT device, count(*) FROM reading WHERE kind = 'punch' GROUP BY device"
        )
    )
    for device, punches in connection.execute("SELECT device, punches FROM device_state"):
        if counted.get(device, 0) != punches:
            yield Difference(
                "-", device, "punches counted", str(punches), str(counted.get(device, 0))
            )
