"""Late opening 晚开窗 (PRE-07): the first segment began, visitors wait, and nobody is ready.

More than ``minutes`` (5) after the start of the first segment there had been no sign of anybody at
a window that is to be staffed, neither at its post nor in the queue system, and visitors waited for
it: a notice, until there is a sign.  Where it is not known how many wait, nothing is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import wall_time
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, stable_id
from rules.post import PostDay, PostRecord, ready_at, waited

CODES = ("PRE-07",)
SCOPE = "post"


class LateOpening(Struct, frozen=True, forbid_unknown_fields=True):
    """``minutes``: as many do not count yet."""

    minutes: Annotated[int, Meta(ge=5)] = 5

    def judge_post(self, day: PostDay, _: PostRecord) -> Iterator[Alert | AskAgain]:
        if not day.hours or not day.required:
            return
        counter, hours = day.counter, day.hours[0]
        late = hours.starts + self.minutes * MINUTE
        yield AskAgain(late + 1)
        yield AskAgain(hours.ends)
        ready = ready_at(day)
        over = hours.ends if ready is None else min(ready, hours.ends)
        if min(over, counter.as_of) <= late:
            return
        waits = [max(starts, late) for starts, ends in waited(day) if ends > late]
        waits = [moment for moment in waits if moment < min(over, counter.as_of + 1)]
        if not waits:
            return
        window = counter.window
        start = wall_time(hours.starts, counter.midnight)
        if over > counter.as_of:
            ends_at, state = None, "open"
            title, detail = f"超过 {self.minutes} 分钟仍未开窗", "had shown nobody ready since"
        else:
            ends_at, state = over, "resolved" if ready == over else "expired"
            opened = wall_time(over, counter.midnight)
            title = f"{opened} 才开窗" if ready == over else "整个班段未开窗"
            detail = f"showed nobody ready before {opened}, due"
        yield Alert(
            id=stable_id("PRE-07", counter.hall, window.id, counter.work_date),
            rule="late_opening",
            code="PRE-07",
            subject_kind="window",
            subject=window.id,
            unit=window.unit,
            severity=SEVERITY["notice"],
            opened_at=waits[0],
            ends_at=ends_at,
            state=state,
            title=f"晚开窗：{window.name or window.id} 应于 {start} 开窗，{title}，有群众等候",
            detail=f"Window {window.id} {detail} {start}, and visitors waited.",
        )


RULE = LateOpening
