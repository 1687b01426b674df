"""Long pause 暂停过久 (PRE-08): a window is paused while visitors wait for it.

In working time it is paused, and somebody waits all the while, for more than ``minutes`` (10): a
notice; for more than ``yellow_minutes`` (20): yellow.  It is over when the window works again,
nobody waits any more, or the segment ends.  Where it is not known how many wait, nothing is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import wall_time
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, Instant, stable_id
from rules.post import PostDay, PostRecord, pauses, waited

CODES = ("PRE-08",)
SCOPE = "post"


class LongPause(Struct, frozen=True, forbid_unknown_fields=True):
    """Minutes; as many do not count yet."""

    minutes: Annotated[int, Meta(ge=5)] = 10
    yellow_minutes: Annotated[int, Meta(ge=5)] = 20

    def judge_post(self, day: PostDay, _: PostRecord) -> Iterator[Alert | AskAgain]:
        as_of = day.counter.as_of
        states = day.record.states
        waits = waited(day)
        for paused, resumed in pauses(day):
            for hours in day.hours:
                since, until = max(paused, hours.starts), min(resumed, hours.ends)
                if since >= until:
                    continue
                lasts = until == as_of < hours.ends and states[-1][1] == "paused"
                if lasts:
                    yield AskAgain(since + self.minutes * MINUTE + 1)
                for starts, ends in waits:
                    starts, ends = max(starts, since), min(ends, until)
                    if starts < ends:
                        yield from self._judge(day, starts, ends, lasts and ends == until)

    def _judge(
        self, day: PostDay, starts: Instant, ends: Instant, lasts: bool
    ) -> Iterator[Alert | AskAgain]:
        if lasts:
            yield AskAgain(starts + self.minutes * MINUTE + 1)
            yield AskAgain(starts + self.yellow_minutes * MINUTE + 1)
        yellow = ends - starts > self.yellow_minutes * MINUTE
        if not yellow and ends - starts <= self.minutes * MINUTE:
            return
        window, midnight = day.counter.window, day.counter.midnight
        since = wall_time(starts, midnight)
        if lasts:
            minutes = self.yellow_minutes if yellow else self.minutes
            zh, en = (
                f"{since} 起，超过 {minutes} 分钟",
                f"for more than {minutes} min, since {since}",
            )
        else:
            until, minutes = wall_time(ends, midnight), (ends - starts) // MINUTE
            zh = f"{since}–{until}，共 {minutes} 分钟"
            en = f"for {minutes} min, from {since} to {until}"
        yield Alert(
            id=stable_id("PRE-08", day.counter.hall, window.id, starts),
            rule="long_pause",
            code="PRE-08",
            subject_kind="window",
            subject=window.id,
            unit=window.unit,
            severity=SEVERITY["yellow" if yellow else "notice"],
            opened_at=starts + self.minutes * MINUTE,
            ends_at=None if lasts else ends,
            state="open" if lasts else "resolved",
            title=f"暂停服务过久：{window.name or window.id} 有群众等候，{zh}",
            detail=f"Window {window.id} was paused while visitors waited, {en}.",
        )


RULE = LongPause
