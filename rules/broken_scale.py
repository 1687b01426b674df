"""Broken scale 评价量表失真 (RAT-06): a pad on which some levels cannot be given.

For the administrator, from what a window's pads told over a longer time, each scale by itself:

- a level the scale offers was never pressed in ``presses`` (2000) or more, while there were
  complaints about the window by other ways;
- levels 1 and 2 were pressed before the pad's software changed and never since, although by their
  former share ``expected`` (5) or more were to be expected.

The yellow alert is of the date on which that is seen and expires at midnight; the next date is
looked at anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, ScaleHistory, till_midnight
from rules.model import SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("RAT-06",)
SCOPE = "counter"


class BrokenScale(Struct, frozen=True, forbid_unknown_fields=True):
    presses: Annotated[int, Meta(ge=1)] = 2000
    expected: Annotated[float, Meta(gt=0)] = 5

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        windows = {one.window.id: one.window for one in record.windows}
        for scale in sorted(day.scales, key=lambda one: (one.window, one.scale_id)):
            window = windows.get(scale.window)
            if window is None:
                continue
            levels = [now + before for now, before in zip(scale.levels, scale.before, strict=True)]
            never = [one for one in scale.offered if not levels[one - 1]]
            if never and sum(levels) >= self.presses and scale.complaints > 0:
                told = "、".join(map(str, never))
                yield self._alert(
                    day,
                    scale,
                    window.unit,
                    "never",
                    day.midnight,
                    f"{window.name or window.id} 的 {told} 级在 {self.presses} 次以上评价中"
                    "从未出现，但有投诉",
                    f"level {', '.join(map(str, never))} was never pressed at window {window.id} in"
                    f" {self.presses} presses or more, though there were complaints",
                )
            if scale.changed_at is not None and self._vanished(scale):
                yield self._alert(
                    day,
                    scale,
                    window.unit,
                    f"vanished {scale.changed_at}",
                    max(scale.changed_at, day.midnight),
                    f"{window.name or window.id} 的评价器软件变更后 1、2 级不再出现",
                    f"levels 1 and 2 are gone at window {window.id} since the pad's software"
                    " changed",
                )

        if day.scales and day.as_of < day.next_midnight:
            yield AskAgain(day.next_midnight)

    def _vanished(self, scale: ScaleHistory) -> bool:
        bad, total, now = sum(scale.before[:2]), sum(scale.before), sum(scale.levels)
        return bad > 0 and not any(scale.levels[:2]) and bad * now >= self.expected * total

    def _alert(
        self,
        day: CounterDay,
        scale: ScaleHistory,
        unit: str,
        sign: str,
        opened_at: Instant,
        zh: str,
        en: str,
    ) -> Alert:
        ends_at, state = till_midnight(day)
        return Alert(
            id=stable_id("RAT-06", day.hall, scale.window, scale.scale_id, day.work_date, sign),
            rule="broken_scale",
            code="RAT-06",
            subject_kind="window",
            subject=scale.window,
            unit=unit,
            severity=SEVERITY["yellow"],
            opened_at=opened_at,
            ends_at=ends_at,
            state=state,
            title=f"评价量表失真：{zh}（量表 {scale.scale_id}）",
            detail=f"Broken scale {scale.scale_id}: {en}.",
        )


RULE = BrokenScale
