"""Deliveries from a durable cursor, with SQLite behind them as in the daemon."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import daemon.outbox as outbox_module
from daemon.outbox import BATCH, Change, Delivered, Outbox, SinkDown, SinkState

NOON = 1_772_424_000_000


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.001)


class Receiver:
    """A sink that keeps what it gets.  While ``down`` is set it takes nothing; ``limit`` makes it
    settle that many changes at a time, ``refuse`` names what it will never take."""

    def __init__(self, name: str = "mqtt", limit: int = BATCH, refuse: Sequence[int] = ()) -> None:
        self.name = name
        self.down = ""
        self.limit = limit
        self.refuse = frozenset(refuse)
        self.got: list[int] = []
        self.attempts = 0

    def deliver(self, changes: Sequence[Change]) -> Delivered:
        self.attempts += 1
        if self.down:
            raise SinkDown(self.down)
        taken = changes[: self.limit]
        self.got += [change.seq for change in taken if change.seq not in self.refuse]
        rejected = tuple((c.seq, "too large") for c in taken if c.seq in self.refuse)
        return Delivered(taken[-1].seq, rejected)


class Store:
    """The tables of the daemon that the outbox lives on."""

    def __init__(self, path: Path | str) -> None:
        self._guard = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        schema = Path(outbox_module.__file__).with_name("schema") / "001.sql"
        self._database.executescript(schema.read_text())
        self.advances = 0
        self.fail_next_advance = False

    def add(self, count: int) -> int:
        with self._guard:
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO change (kind, op, key, at, row) VALUES (?, ?, ?, ?, ?)",
                [("violation", "opened", "x", NOON, "{}")] * count,
            )
            self._database.execute("COMMIT")
            return int(self._database.execute("SELECT max(seq) FROM change").fetchone()[0])

    def forget(self, until_seq: int) -> None:
        with self._guard:
            self._database.execute("DELETE FROM change WHERE seq <= ?", (until_seq,))

    def read(self, after: int, limit: int) -> list[Change]:
        with self._guard:
            rows = self._database.execute(
                "SELECT seq, kind, op, key, at, reason, row FROM change"
                " WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, limit),
            ).fetchall()
        return [Change(*row[:6], row[6].encode()) for row in rows]

    def cursor(self, sink: str) -> int:
        with self._guard:
            row = self._database.execute("SELECT seq FROM cursor WHERE sink = ?", (sink,))
            found = row.fetchone()
        return found[0] if found else 0

    def advance(self, sink: str, seq: int, rejected: Sequence[tuple[int, str]]) -> None:
        self.advances += 1
        if self.fail_next_advance:
            self.fail_next_advance = False
            raise sqlite3.OperationalError("database or disk is full")
        with self._guard:
            self._database.execute("BEGIN")
            self._database.execute(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (sink, seq, NOON)
            )
            self._database.executemany(
                "INSERT INTO rejected VALUES (?, ?, ?, ?)",
                [(sink, number, reason, NOON) for number, reason in rejected],
            )
            self._database.execute("COMMIT")

    def rejected(self) -> list[tuple[str, int, str]]:
        with self._guard:
            return self._database.execute("SELECT sink, seq, reason FROM rejected").fetchall()

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def run(store: Store) -> Iterator[Callable[..., Outbox]]:
    running: list[Outbox] = []

    def start(*sinks: Receiver) -> Outbox:
        outbox = Outbox(
            sinks, read=store.read, cursor=store.cursor, advance=store.advance, now=lambda: NOON
        )
        running.append(outbox)
        outbox.start()
        return outbox

    yield start
    for outbox in running:
        outbox.close()


def test_what_a_former_run_left_is_delivered_at_the_start(store, run) -> None:
    store.add(3)
    sink = Receiver()

    run(sink)

    until(lambda: sink.got == [1, 2, 3] and store.cursor("mqtt") == 3)


def test_a_restart_goes_on_behind_the_durable_cursor(store, run) -> None:
    store.add(3)
    store.advance("mqtt", 2, ())
    sink = Receiver()

    run(sink)

    until(lambda: store.cursor("mqtt") == 3)
    assert sink.got == [3]


def test_more_than_one_batch_arrives_in_order_and_once(store, run) -> None:
    sink = Receiver()
    outbox = run(sink)

    outbox.notify(store.add(3 * BATCH + 7))

    until(lambda: store.cursor("mqtt") == 3 * BATCH + 7)
    assert sink.got == list(range(1, 3 * BATCH + 8))


def test_a_commit_wakes_the_sink_without_polling(store, run) -> None:
    sink = Receiver()
    outbox = run(sink)
    slowest = 0.0
    for _ in range(50):
        head = store.add(1)
        before = time.perf_counter()
        outbox.notify(head)
        until(lambda head=head: sink.got and sink.got[-1] == head)
        slowest = max(slowest, time.perf_counter() - before)

    assert slowest < 0.5
    attempts = sink.attempts
    assert attempts == 50


def test_a_sink_that_is_down_stops_no_other_one(store, run) -> None:
    down, up = Receiver("down"), Receiver("up")
    down.down = "nobody answers at 127.0.0.1:1883"
    outbox = run(down, up)

    outbox.notify(store.add(5))

    until(lambda: store.cursor("up") == 5)
    until(lambda: outbox.state()[0].down_since is not None)
    state = outbox.state()
    assert state[0] == SinkState("down", 0, 5, 0, 0, None, NOON, "nobody answers at 127.0.0.1:1883")
    assert (state[1].lag, state[1].error, state[1].delivered) == (0, "", 5)


def test_after_an_outage_everything_comes_at_once_and_the_state_is_clear(
    store, run, monkeypatch
) -> None:
    monkeypatch.setattr(outbox_module, "SHORTEST_WAIT", 60.0)
    sink = Receiver()
    sink.down = "down"
    outbox = run(sink)
    head = store.add(1200)
    outbox.notify(head)
    until(lambda: sink.attempts)
    sink.down = ""

    outbox.retry("mqtt")

    until(lambda: store.cursor("mqtt") == head)
    assert sink.got == list(range(1, head + 1))
    state = outbox.state()[0]
    assert (state.down_since, state.error, state.lag) == (None, "", 0)
    assert state.delivered_at == NOON


def test_a_down_sink_is_tried_again_by_itself_less_and_less_often(store, run, monkeypatch) -> None:
    monkeypatch.setattr(outbox_module, "SHORTEST_WAIT", 0.02)
    monkeypatch.setattr(outbox_module, "LONGEST_WAIT", 0.08)
    waits: list[float] = []
    last = time.monotonic()

    class Stubborn(Receiver):
        def deliver(self, changes: Sequence[Change]) -> Delivered:
            nonlocal last
            waits.append(time.monotonic() - last)
            last = time.monotonic()
            return super().deliver(changes)

    sink = Stubborn()
    sink.down = "down"
    store.add(1)
    run(sink)
    until(lambda: len(waits) > 6)
    sink.down = ""

    until(lambda: sink.got == [1])
    assert min(waits[1:]) >= 0.019
    assert min(waits[4:7]) >= 0.039


def test_notifications_do_not_hurry_a_sink_that_is_down(store, run) -> None:
    sink = Receiver()
    sink.down = "down"
    outbox = run(sink)
    outbox.notify(store.add(1))
    until(lambda: outbox.state()[0].down_since is not None)
    tries = sink.attempts

    for _ in range(200):
        outbox.notify(store.add(1))

    assert sink.attempts <= tries + 1


def test_rejected_changes_are_listed_and_the_cursor_passes_them(store, run) -> None:
    sink = Receiver(refuse=(2, 4))
    outbox = run(sink)

    outbox.notify(store.add(5))

    until(lambda: store.cursor("mqtt") == 5)
    assert sink.got == [1, 3, 5]
    assert store.rejected() == [("mqtt", 2, "too large"), ("mqtt", 4, "too large")]
    until(lambda: outbox.state()[0].delivered == 3)
    assert outbox.state()[0].rejected == 2


def test_a_sink_that_takes_a_part_gets_the_rest_offered_again(store, run) -> None:
    sink = Receiver(limit=7)
    outbox = run(sink)

    outbox.notify(store.add(100))

    until(lambda: store.cursor("mqtt") == 100)
    assert sink.got == list(range(1, 101))


def test_a_cursor_that_cannot_be_stored_means_delivering_again_not_losing(
    store, run, monkeypatch
) -> None:
    monkeypatch.setattr(outbox_module, "SHORTEST_WAIT", 0.01)
    store.fail_next_advance = True
    sink = Receiver()
    outbox = run(sink)

    outbox.notify(store.add(2))

    until(lambda: store.cursor("mqtt") == 2)
    assert sink.got == [1, 2, 1, 2]


def test_a_defect_in_a_sink_is_an_error_in_its_state_and_ends_nothing(
    store, run, monkeypatch
) -> None:
    monkeypatch.setattr(outbox_module, "SHORTEST_WAIT", 0.01)

    class Defective(Receiver):
        def deliver(self, changes: Sequence[Change]) -> Delivered:
            if self.attempts < 3:
                self.attempts += 1
                raise ZeroDivisionError("division by zero")
            return super().deliver(changes)

    sink = Defective()
    outbox = run(sink)
    outbox.notify(store.add(1))

    until(lambda: "ZeroDivisionError" in outbox.state()[0].error or sink.got)
    until(lambda: sink.got == [1])


def test_changes_that_were_forgotten_are_no_reason_to_spin(store, run) -> None:
    store.add(10)
    store.advance("mqtt", 4, ())
    store.forget(10)
    reads = 0
    whole = store.read

    def counting(after: int, limit: int) -> list[Change]:
        nonlocal reads
        reads += 1
        return whole(after, limit)

    store.read = counting
    sink = Receiver()
    outbox = run(sink)
    outbox.notify(10)
    until(lambda: reads)
    outbox.notify(store.add(1))

    until(lambda: sink.got == [11])
    assert reads <= 4


def test_closing_waits_for_nothing_but_the_batch_under_way(store, run) -> None:
    sink = Receiver()
    sink.down = "down"
    outbox = run(sink)
    outbox.notify(store.add(1))
    until(lambda: outbox.state()[0].down_since is not None)
    before = time.monotonic()

    outbox.close()

    assert time.monotonic() - before < 0.5
    assert not [t for t in threading.enumerate() if t.name.startswith("outbox-")]


def test_two_sinks_of_one_name_are_refused(store) -> None:
    with pytest.raises(ValueError, match="same name"):
        Outbox(
            [Receiver("a"), Receiver("a")],
            read=store.read,
            cursor=store.cursor,
            advance=store.advance,
            now=lambda: NOON,
        )


@settings(max_examples=30, deadline=None)
@given(
    commits=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    limits=st.lists(st.integers(0, 9), min_size=1, max_size=20),
)
def test_whatever_a_sink_takes_at_a_time_nothing_is_lost_or_out_of_order(
    commits: list[int], limits: list[int]
) -> None:
    """A limit of 0 stands for an attempt at which the sink is down."""

    class Moody(Receiver):
        def deliver(self, changes: Sequence[Change]) -> Delivered:
            mood = limits[self.attempts] if self.attempts < len(limits) else BATCH
            self.limit, self.down = mood, "" if mood else "down"
            try:
                return super().deliver(changes)
            except SinkDown:
                outbox.retry(self.name)
                raise

    store, sink = Store(":memory:"), Moody()
    outbox = Outbox(
        [sink], read=store.read, cursor=store.cursor, advance=store.advance, now=lambda: NOON
    )
    outbox.start()
    for count in commits:
        outbox.notify(store.add(count))
    until(lambda: store.cursor("mqtt") == sum(commits))
    outbox.close()
    store.close()

    assert sink.got == list(range(1, sum(commits) + 1))
