"""Not invited to rate 未邀请评价 (RAT-04): services that ended without the pad asking.

When the hall has closed: more than ``percent`` (20) of a window's finished services on the date had
no rating asked for, by a pad, by a press or by another way, of at least ``services`` (5).  Only
services that ended while a pad of the window was in contact count, and a window of whose pads
nothing is known is not judged.  The notice expires at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, WindowRecord, till_midnight
from rules.model import SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("RAT-04",)
SCOPE = "counter"


class NotInvited(Struct, frozen=True, forbid_unknown_fields=True):
    percent: Annotated[int, Meta(ge=0, le=100)] = 20
    services: Annotated[int, Meta(ge=1)] = 5

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        over = day.next_midnight if day.closes is None else day.closes
        if day.as_of < over:
            yield AskAgain(over)
            return
        if day.as_of < day.next_midnight:
            yield AskAgain(day.next_midnight)
        for window in record.windows:
            alert = self._judge(day, window, over)
            if alert is not None:
                yield alert

    def _judge(self, day: CounterDay, record: WindowRecord, over: Instant) -> Alert | None:
        window = record.window
        up = [
            span
            for source in day.device_up
            if source.kind == "pad" and source.window == window.id
            for span in source.up
        ]
        asked = [
            one.prompted
            for one in record.services
            if one.finished_at is not None and any(a <= one.finished_at < b for a, b in up)
        ]
        missed = len(asked) - sum(asked)
        if len(asked) < self.services or missed * 100 <= self.percent * len(asked):
            return None
        ends_at, state = till_midnight(day)
        return Alert(
            id=stable_id("RAT-04", day.hall, window.id, day.work_date),
            rule="not_invited",
            code="RAT-04",
            subject_kind="window",
            subject=window.id,
            unit=window.unit,
            severity=SEVERITY["notice"],
            opened_at=over,
            ends_at=ends_at,
            state=state,
            title=f"未邀请评价：{window.name or window.id} 当日 {len(asked)} 件办结业务中"
            f" {missed} 件未邀请评价",
            detail=f"Window {window.id} did not ask for a rating after {missed} of {len(asked)}"
            " services.",
        )


RULE = NotInvited
