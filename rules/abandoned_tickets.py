"""Abandoned tickets 弃号过多 (QUE-03): many who took a ticket were gone when they were called.

More than ``percent`` (15) of a service area's tickets of one clock hour, of at least ``tickets``
(20), were abandoned: a notice from the end of that hour to the end of the first hour in which it is
otherwise.  A ticket counts in the hour in which it was called, or given up without a call.  Tickets
that the queue system gave up all at once at a clock time are left out, and so are the windows'
services whose ticket is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, place, place_name
from rules.losses import wall_time
from rules.model import HOUR, SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("QUE-03",)
SCOPE = "counter"


class AbandonedTickets(Struct, frozen=True, forbid_unknown_fields=True):
    percent: Annotated[int, Meta(ge=0, le=100)] = 15
    tickets: Annotated[int, Meta(ge=1)] = 20

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        hours: dict[str, dict[int, tuple[int, int]]] = {}
        for one in record.tickets:
            at = one.ended_at if one.called_at is None else one.called_at
            if at is None or one.batch or one.area == "?":
                continue
            share = hours.setdefault(one.area, {})
            hour = (at - day.midnight) // HOUR
            count, gone = share.get(hour, (0, 0))
            share[hour] = (count + 1, gone + (one.ended == "abandoned"))
        for area, share in sorted(hours.items()):
            bad = {
                hour
                for hour, (count, gone) in share.items()
                if count >= self.tickets and gone * 100 > self.percent * count
            }
            for hour in sorted(share):
                ends = day.midnight + (hour + 1) * HOUR
                if ends > day.as_of:
                    yield AskAgain(ends)
                elif hour in bad and hour - 1 not in bad:
                    over = hour + 1
                    while over in bad:
                        over += 1
                    until = day.midnight + (over + 1) * HOUR
                    if until > day.as_of:
                        yield AskAgain(until)
                    yield self._alert(day, area, ends, until if until <= day.as_of else None)

    def _alert(
        self, day: CounterDay, area: str, opened_at: Instant, ends_at: Instant | None
    ) -> Alert:
        since, until = opened_at - HOUR, opened_at
        told = f"{wall_time(since, day.midnight)}–{wall_time(until, day.midnight)}"
        name_zh, name_en = place_name(area)
        kind, subject = place(day.hall, area)
        return Alert(
            id=stable_id("QUE-03", day.hall, area, since),
            rule="abandoned_tickets",
            code="QUE-03",
            subject_kind=kind,
            subject=subject,
            unit="",
            severity=SEVERITY["notice"],
            opened_at=opened_at,
            ends_at=ends_at,
            state="open" if ends_at is None else "resolved",
            title=f"弃号过多：{name_zh} {told} 弃号超过 {self.percent}%",
            detail=f"In {name_en}, more than {self.percent} % of the tickets of {told} were"
            " abandoned.",
        )


RULE = AbandonedTickets
