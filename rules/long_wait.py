"""Long wait 等候过长 (QUE-01): people of a service area wait too long.

The mean wait of those called in a service area within the last ``span`` minutes (30) is over
``minutes`` (15): a notice; over ``yellow_minutes`` (30): yellow.  A wait counts from taking the
ticket (or from the transfer, or from the hall's opening if the ticket was taken before) to the
first call.  It is resolved when the mean has been under the limit for five minutes, since when it
was; nobody being called any more is no wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, episodes, place, place_name, wait_mean
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, stable_id

CODES = ("QUE-01",)
SCOPE = "counter"


class LongWait(Struct, frozen=True, forbid_unknown_fields=True):
    """Minutes; a mean has to be over a threshold, not at it."""

    span: Annotated[int, Meta(ge=1)] = 30
    minutes: Annotated[float, Meta(ge=0)] = 15
    yellow_minutes: Annotated[float, Meta(ge=0)] = 30

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        for area in record.areas:
            line = wait_mean(record, area.area, self.span * MINUTE)
            found, asks = episodes(line, self.minutes, day.as_of)
            if asks is not None:
                yield AskAgain(asks)
            changes = (at for at, _ in line if at > day.as_of)
            later = next(changes, None)
            if later is not None:
                yield AskAgain(later)
            name_zh, name_en = place_name(area.area)
            kind, subject = place(day.hall, area.area)
            for one in found:
                yellow = one.peak > self.yellow_minutes
                limit = self.yellow_minutes if yellow else self.minutes
                yield Alert(
                    id=stable_id("QUE-01", day.hall, area.area, one.since),
                    rule="long_wait",
                    code="QUE-01",
                    subject_kind=kind,
                    subject=subject,
                    unit="",
                    severity=SEVERITY["yellow" if yellow else "notice"],
                    opened_at=one.since,
                    ends_at=one.until,
                    state="open" if one.until is None else "resolved",
                    title=f"等候过长：{name_zh} {self.span} 分钟内平均等候超过 {limit:g} 分钟",
                    detail=f"Long wait in {name_en}: the mean wait within {self.span} min was over"
                    f" {limit:g} min.",
                )


RULE = LongWait
