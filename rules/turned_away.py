"""Turned away at closing 未办即闭窗 (QUE-04): people with a ticket were left waiting.

Tickets taken before the hall's closing time were still waiting, uncalled, when the last of the
windows of their service area that worked on the date closed, or when the queue system gave up all
tickets at once: one yellow alert for the area, not one for each ticket.  A ticket that is called
afterwards was not turned away: windows that close at noon open again, so closings are judged from
the hall's closing time on.  Where nobody told of a window closing, nothing is judged; the alert
expires at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.counter import (
    CounterDay,
    CounterRecord,
    Ticket,
    WindowRecord,
    place,
    place_name,
    till_midnight,
)
from rules.losses import wall_time
from rules.model import SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("QUE-04",)
SCOPE = "counter"


class TurnedAway(Struct, frozen=True, forbid_unknown_fields=True):
    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        if day.closes is None:
            return
        for area in record.areas:
            windows = [one for one in record.windows if one.window.area == area.area]
            closed = _closed(day, windows) if day.as_of >= day.closes else None
            left: list[tuple[Instant, Ticket]] = []
            for one in record.tickets:
                if one.area != area.area or one.called_at is not None:
                    continue
                if one.taken_at is None or one.taken_at >= day.closes:
                    continue
                if one.batch and one.ended_at is not None:
                    left.append((one.ended_at, one))
                elif not one.ended and closed is not None and one.taken_at < closed:
                    left.append((closed, one))
            if left:
                yield _alert(day, area.area, min(at for at, _ in left), [one for _, one in left])
                if day.as_of < day.next_midnight:
                    yield AskAgain(day.next_midnight)
        if day.as_of < day.closes:
            yield AskAgain(day.closes)


RULE = TurnedAway


def _closed(day: CounterDay, windows: list[WindowRecord]) -> Instant | None:
    """When the last window that worked closed; none while one is open, or may be."""
    moments = []
    for one in windows:
        states = [told for told in one.states if told[0] < day.next_midnight]
        if all(state in ("closed", "unknown") for _, state in states):
            continue
        at, state = states[-1]
        if state != "closed":
            return None
        moments.append(at)
    return max(moments, default=None)


def _alert(day: CounterDay, area: str, opened_at: Instant, left: list[Ticket]) -> Alert:
    ends_at, state = till_midnight(day)
    at = wall_time(opened_at, day.midnight)
    name_zh, name_en = place_name(area)
    kind, subject = place(day.hall, area)
    return Alert(
        id=stable_id("QUE-04", day.hall, area, day.work_date),
        rule="turned_away",
        code="QUE-04",
        subject_kind=kind,
        subject=subject,
        unit="",
        severity=SEVERITY["yellow"],
        opened_at=opened_at,
        ends_at=ends_at,
        state=state,
        title=f"未办即闭窗：{name_zh} {at} 闭窗时仍有 {len(left)} 个已取号未叫号",
        detail=f"In {name_en}, {len(left)} tickets were still waiting when the windows closed at"
        f" {at}.",
        evidence=tuple(one.reading_id.hex() for one in left),
    )
