"""Deliveries: every derived change goes to every sink, in order, at least once.

The table of changes is the queue and each sink has a durable cursor on it; nothing is kept in
memory but the batch under way.  Every sink has a thread of its own, so one that is down for days
stops nothing else and gets everything later.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from msgspec import Struct

from rules.model import Instant

log = structlog.get_logger()

BATCH = 500
"""Changes read and delivered at once; their rows are a few kilobytes each at most."""

SHORTEST_WAIT = 1.0
LONGEST_WAIT = 60.0
"""Seconds between two attempts at a sink that is down; doubled each time, with jitter."""


class Change(Struct, frozen=True, gc=False):
    """One derived change.  ``seq`` counts up for ever and orders everything.

    ``kind``: ``attendance violation alert device adjustment window rating area``; ``op``: ``opened
    amended withdrawn``; ``key`` names the row: its id, a device's id, ``person/work_date``,
    ``window/work_date`` or ``area/work_date``.
    ``row`` is the whole new row as the API shows it, a JSON object.
    """

    seq: int
    kind: str
    op: str
    key: str
    at: Instant
    reason: str
    row: bytes


class Delivered(Struct, frozen=True):
    """``accepted``: every change up to this seq is settled, taken by the receiver or listed in
    ``rejected`` as ``(seq, reason)`` because it never will be."""

    accepted: int
    rejected: tuple[tuple[int, str], ...] = ()


class SinkDown(Exception):
    """The receiver cannot be reached or takes nothing now: keep all and try again.  The message is
    a sentence for the people who look after the hall."""


class Sink(Protocol):
    """A receiver of changes."""

    @property
    def name(self) -> str: ...

    def deliver(self, changes: Sequence[Change]) -> Delivered:
        """Hand over the changes, in order; returns when the receiver has confirmed some or all.

        Called from the sink's own thread only, with at least one change.  May settle fewer than
        given: the rest is offered again.  Raises ``SinkDown`` when none could be settled.
        """
        ...


class SinkState(Struct, frozen=True):
    """How deliveries to one sink are doing.  ``down_since`` and ``error`` are set while it is
    down; ``lag`` is the number of sequence numbers between the last change and the cursor."""

    sink: str
    cursor: int
    lag: int
    delivered: int
    rejected: int
    delivered_at: Instant | None
    down_since: Instant | None
    error: str


class Outbox:
    """Delivers to ``sinks``, each from its own cursor and thread.

    ``read(after, limit)`` gives the changes behind ``after`` in order of ``seq``;
    ``cursor(sink)`` where a sink stands; ``advance(sink, seq, rejected)`` stores durably that
    everything up to ``seq`` is settled.  All three are called from the sinks' threads.
    ``now`` is the daemon's clock.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        read: Callable[[int, int], list[Change]],
        cursor: Callable[[str], int],
        advance: Callable[[str, int, Sequence[tuple[int, str]]], None],
        now: Callable[[], Instant],
    ) -> None:
        self._deliveries = {
            sink.name: _Delivery(sink, read, cursor, advance, now) for sink in sinks
        }
        if len(self._deliveries) != len(sinks):
            raise ValueError("two sinks have the same name")

    def start(self) -> None:
        for delivery in self._deliveries.values():
            delivery.thread.start()

    def notify(self, head: int) -> None:
        """A commit brought changes up to ``head``.  Cheap; from any thread."""
        for delivery in self._deliveries.values():
            delivery.notify(head)

    def retry(self, sink: str) -> None:
        """The sink can be reached again: try at once instead of waiting."""
        self._deliveries[sink].retry()

    def state(self) -> list[SinkState]:
        return [delivery.state() for delivery in self._deliveries.values()]

    def close(self) -> None:
        """Stop after the batches under way."""
        for delivery in self._deliveries.values():
            delivery.stop()
        for delivery in self._deliveries.values():
            if delivery.thread.ident is not None:
                delivery.thread.join()


class _Delivery:
    """One sink and its thread."""

    def __init__(
        self,
        sink: Sink,
        read: Callable[[int, int], list[Change]],
        cursor: Callable[[str], int],
        advance: Callable[[str, int, Sequence[tuple[int, str]]], None],
        now: Callable[[], Instant],
    ) -> None:
        self._sink = sink
        self._read = read
        self._load_cursor = cursor
        self._advance = advance
        self._now = now
        self._bell = threading.Condition(threading.Lock())
        self._head = 0
        self._seen = -1
        """Everything up to here was read; -1 makes the first look at what a former run left."""
        self._cursor = 0
        self._stopping = False
        self._try_now = False
        self._failures = 0
        self._delivered = 0
        self._rejected = 0
        self._delivered_at: Instant | None = None
        self._down_since: Instant | None = None
        self._error = ""
        self.thread = threading.Thread(target=self._run, name=f"outbox-{sink.name}", daemon=True)

    def notify(self, head: int) -> None:
        with self._bell:
            if head > self._head:
                self._head = head
                self._bell.notify()

    def retry(self) -> None:
        with self._bell:
            self._try_now = True
            self._bell.notify()

    def stop(self) -> None:
        with self._bell:
            self._stopping = True
            self._bell.notify()

    def state(self) -> SinkState:
        with self._bell:
            return SinkState(
                sink=self._sink.name,
                cursor=self._cursor,
                lag=max(self._head - self._cursor, 0),
                delivered=self._delivered,
                rejected=self._rejected,
                delivered_at=self._delivered_at,
                down_since=self._down_since,
                error=self._error,
            )

    def _run(self) -> None:
        loaded = False
        while self._wait():
            try:
                if not loaded:
                    self._cursor = self._load_cursor(self._sink.name)
                    loaded = True
                self._deliver_next()
            except SinkDown as error:
                self._failed(str(error))
            except Exception as error:
                # A defect, or a disk that is full, must not end the thread: nobody would notice
                # that this sink gets nothing any more.
                log.exception("delivery failed", sink=self._sink.name)
                self._failed(f"{type(error).__name__}: {error}")

    def _wait(self) -> bool:
        """Until there is something to do; false when it is time to go."""
        with self._bell:
            if self._failures:
                exponent = min(self._failures - 1, 16)
                longest = min(SHORTEST_WAIT * 2**exponent, LONGEST_WAIT)
                # Full waits would make every sink of every hall come back in the same second.
                wait = max(longest * random.uniform(0.5, 1.0), SHORTEST_WAIT)
                until = time.monotonic() + wait
                while not self._stopping and not self._try_now:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._bell.wait(left)
                self._try_now = False
            else:
                while not self._stopping and self._head <= self._seen:
                    self._bell.wait()
            return not self._stopping

    def _deliver_next(self) -> None:
        with self._bell:
            head = self._head
        changes = self._read(self._cursor, BATCH)
        if not changes:
            self._settled(self._cursor, 0, (), seen=head)
            return
        last = changes[-1].seq
        with self._bell:
            self._head = max(self._head, last)
        result = self._sink.deliver(changes)
        if result.accepted <= self._cursor:
            raise RuntimeError(f"the sink settled nothing after {self._cursor} and did not say why")
        self._advance(self._sink.name, result.accepted, result.rejected)
        everything = result.accepted >= last and len(changes) < BATCH
        settled = sum(change.seq <= result.accepted for change in changes)
        self._settled(
            result.accepted, settled, result.rejected, seen=max(head, last) if everything else -1
        )

    def _settled(
        self, cursor: int, changes: int, rejected: Sequence[tuple[int, str]], *, seen: int
    ) -> None:
        for seq, reason in rejected:
            log.warning("change rejected", sink=self._sink.name, seq=seq, reason=reason)
        with self._bell:
            self._cursor = cursor
            self._seen = seen
            self._failures = 0
            self._delivered += changes - len(rejected)
            self._rejected += len(rejected)
            if changes:
                self._delivered_at = self._now()
            was_down, self._down_since, self._error = self._down_since, None, ""
        if was_down is not None:
            log.info("sink is back", sink=self._sink.name)

    def _failed(self, error: str) -> None:
        with self._bell:
            self._failures += 1
            first = self._down_since is None
            if first:
                self._down_since = self._now()
            self._error = error
        report = log.warning if first else log.debug
        report("sink is down", sink=self._sink.name, error=error)
