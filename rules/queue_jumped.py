"""Queue jumped 插号 (QUE-05), and numbers that begin again 号码重新开始 (``queue_reset``).

A ticket was called before one of the same queue and service that was taken earlier, and neither has
priority nor was held, transferred or called back: one notice for each window on a date, to the
windows that called out of turn.  ``seconds`` (5): takings or calls closer than that have no order.
A ticket that was never called tells nothing of the order.

When a queue's numbers begin again in the middle of the day, that is told to the administrator, and
orders are compared from there on anew.  Both expire at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, Ticket, Window, till_midnight
from rules.losses import wall_time
from rules.model import SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("QUE-05", "queue_reset")
SCOPE = "counter"


class QueueJumped(Struct, frozen=True, forbid_unknown_fields=True):
    seconds: Annotated[float, Meta(ge=0)] = 5

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        windows = {one.window.id: one.window for one in record.windows}
        jumps: dict[str, list[tuple[Ticket, Ticket]]] = {}
        for first, passed in self._jumps(record):
            jumps.setdefault(first.window, []).append((first, passed))
        for window_id, found in sorted(jumps.items()):
            if window_id in windows:
                yield _jumped(day, windows[window_id], found)
        for queue, at in record.resets:
            yield _reset(day, queue, at)
        if (jumps or record.resets) and day.as_of < day.next_midnight:
            yield AskAgain(day.next_midnight)

    def _jumps(self, record: CounterRecord) -> Iterator[tuple[Ticket, Ticket]]:
        """Each ticket called out of turn, with the one that had waited longest of those passed."""
        slack = int(self.seconds * 1000)
        queues: dict[tuple[str, int, str], list[tuple[Instant, Instant, Ticket]]] = {}
        for one in record.tickets:
            if one.taken_at is None or one.called_at is None or one.priority or one.back:
                continue
            name = (one.queue, one.epoch, one.service_code)
            queues.setdefault(name, []).append((one.taken_at, one.called_at, one))
        for tickets in queues.values():
            tickets.sort(key=lambda one: (one[0], one[2].ticket))
            before = 0
            latest_called = -slack
            for taken, called, ticket in tickets:
                while taken - tickets[before][0] > slack:
                    latest_called = max(latest_called, tickets[before][1])
                    before += 1
                if latest_called - called > slack:
                    passed = (one for _, at, one in tickets[:before] if at - called > slack)
                    yield ticket, next(passed)


RULE = QueueJumped


def _jumped(day: CounterDay, window: Window, found: list[tuple[Ticket, Ticket]]) -> Alert:
    found = sorted(found, key=lambda one: (one[0].called_at or 0, one[0].ticket))
    first, passed = found[0]
    ends_at, state = till_midnight(day)
    return Alert(
        id=stable_id("QUE-05", day.hall, window.id, day.work_date),
        rule="queue_jumped",
        code="QUE-05",
        subject_kind="window",
        subject=window.id,
        unit=window.unit,
        severity=SEVERITY["notice"],
        # Known only when the passed one was called, too.
        opened_at=passed.called_at or 0,
        ends_at=ends_at,
        state=state,
        title=f"插号：{window.name or window.id} 先叫 {first.ticket}，后叫更早取号的"
        f" {passed.ticket}，当日 {len(found)} 次",
        detail=f"Window {window.id} called {first.ticket} before {passed.ticket}, which was taken"
        f" earlier; {len(found)} times on the date.",
        evidence=tuple(one.reading_id.hex() for pair in found for one in pair),
    )


def _reset(day: CounterDay, queue: str, at: Instant) -> Alert:
    ends_at, state = till_midnight(day)
    since = wall_time(at, day.midnight)
    return Alert(
        id=stable_id("queue_reset", day.hall, queue, at),
        rule="queue_jumped",
        code="queue_reset",
        subject_kind="hall",
        subject=day.hall,
        unit="",
        severity=SEVERITY["notice"],
        opened_at=at,
        ends_at=ends_at,
        state=state,
        title=f"排队号码当日重新开始：队列 {queue or '（未命名）'}，{since}",
        detail=f"The ticket numbers of queue {queue or '(unnamed)'} began again at {since}.",
    )
