"""Long queue 排队过长 (QUE-02): too many people wait for too few windows.

More than ``waiting`` (10) people wait in a service area for each of its open windows: a notice,
resolved when it has been otherwise for five minutes.  How many wait is what the queue system says,
and where it says nothing the tickets taken and not called yet.  Windows that are paused, closed or
unknown are not open; an area without an open window is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, episodes, place, place_name
from rules.model import SEVERITY, Alert, AskAgain, stable_id

CODES = ("QUE-02",)
SCOPE = "counter"


class LongQueue(Struct, frozen=True, forbid_unknown_fields=True):
    """``waiting``: for each open window; as many do not count yet."""

    waiting: Annotated[float, Meta(ge=0)] = 10

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        for area in record.areas:
            line = [
                (at, waiting / windows if waiting is not None and windows else None)
                for at, waiting, windows in area.line
            ]
            found, asks = episodes(line, self.waiting, day.as_of)
            if asks is not None:
                yield AskAgain(asks)
            name_zh, name_en = place_name(area.area)
            kind, subject = place(day.hall, area.area)
            for one in found:
                yield Alert(
                    id=stable_id("QUE-02", day.hall, area.area, one.since),
                    rule="long_queue",
                    code="QUE-02",
                    subject_kind=kind,
                    subject=subject,
                    unit="",
                    severity=SEVERITY["notice"],
                    opened_at=one.since,
                    ends_at=one.until,
                    state="open" if one.until is None else "resolved",
                    title=f"排队过长：{name_zh} 每个开放窗口等候超过 {self.waiting:g} 人",
                    detail=f"Long queue in {name_en}: more than {self.waiting:g} people waited for"
                    " each open window.",
                )


RULE = LongQueue
