"""Unmatched display 显示与叫号不符: a window's display shows a ticket that was never called there.

Where the queue system tells hallwatch of its calls, a display that for ``seconds`` (30) shows a
ticket which the queue system has not called to that window is a notice to the administrator: a
wrong address, a link that loses calls, a display that hangs.  It is resolved when the display
shows something else or the call is told after all.  While the queue system's link is known to be
down, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import WindowDay, WindowRecord
from rules.model import SEVERITY, Alert, AskAgain, stable_id

CODES = ("unmatched_display",)
SCOPE = "window"


class UnmatchedDisplay(Struct, frozen=True, forbid_unknown_fields=True):
    seconds: Annotated[float, Meta(ge=0)] = 30

    def judge_window(self, day: WindowDay, record: WindowRecord) -> Iterator[Alert | AskAgain]:
        window = day.window
        for one in record.unmatched_shown:
            due = one.since + int(self.seconds * 1000)
            if (day.as_of if one.until is None else one.until) < due:
                if one.until is None:
                    yield AskAgain(due)
                continue
            yield Alert(
                id=stable_id("unmatched_display", day.hall, window.id, one.device, one.since),
                rule="unmatched_display",
                code="unmatched_display",
                subject_kind="window",
                subject=window.id,
                unit=window.unit,
                severity=SEVERITY["notice"],
                opened_at=due,
                ends_at=one.until,
                state="open" if one.until is None else "resolved",
                title=f"显示与叫号不符：{window.name or window.id} 显示 {one.ticket}，"
                "叫号系统未叫该号",
                detail=f"The display {one.device} at window {window.id} showed {one.ticket}, which"
                " the queue system has not called there.",
                evidence=(one.reading_id.hex(),),
            )


RULE = UnmatchedDisplay
