"""No recording 录像中断 (VID-02): a recorder holds nothing of a camera although it should.

More than ``minutes`` (5) of the hall's working time without a recording are a yellow alert, one for
each gap.  What the recorder was not asked about is unknown and never a gap; neither is the time
before its first recording.  Several answers are taken together, so that a recording that the camera
delivers later closes its gap.

It is open until there is a recording again, and expires at midnight: the next date has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import duration
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, DeviceDay, HallDay, Instant, stable_id
from rules.video import Span, both, hours_of, reached, recordings, time_of, total, without

CODES = ("VID-02",)
SCOPE = "hall"


class RecordingGap(Struct, frozen=True, forbid_unknown_fields=True):
    """``minutes`` are still put up with."""

    minutes: Annotated[int, Meta(ge=0)] = 5

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        past = day.as_of >= day.next_midnight
        required = hours_of(day)
        for device in day.devices:
            asked, held = recordings(device.recorded, day.as_of)
            for gap in without(asked, held):
                missing = both([gap], required)
                due = reached(missing, self.minutes * MINUTE)
                if due is None or due == missing[-1][1]:
                    continue
                resumed = next((begins for begins, _ in held if begins >= gap[1]), None)
                if resumed is not None and resumed >= day.next_midnight:
                    resumed = None
                if resumed is None and not past:
                    yield AskAgain(day.next_midnight)
                yield _alert(day, device, missing, due, resumed)


RULE = RecordingGap


def _alert(
    day: HallDay, device: DeviceDay, missing: list[Span], due: Instant, resumed: Instant | None
) -> Alert:
    name = device.name or device.device
    since = time_of(missing[0][0], day)
    past = day.as_of >= day.next_midnight
    if resumed is None and not past:
        title = f"录像中断：{name} 自 {since} 起无录像"
        detail = f"No recording of {device.device} since {since}."
    else:
        zh, en = duration(total(missing))
        until = time_of(missing[-1][1], day)
        title = f"录像中断 {zh}：{name} {since}–{until} 无录像"
        detail = f"No recording of {device.device} for {en} between {since} and {until}."
    return Alert(
        id=stable_id("VID-02", device.device, missing[0][0]),
        rule="recording_gap",
        code="VID-02",
        subject_kind="device",
        subject=device.device,
        unit="",
        severity=SEVERITY["yellow"],
        opened_at=due,
        ends_at=resumed if resumed is not None else day.next_midnight if past else None,
        state="resolved" if resumed is not None else "expired" if past else "open",
        title=title,
        detail=detail,
    )
