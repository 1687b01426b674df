"""Picture fault 画面异常 (VID-03): a camera is there, but shows nothing useful.

A picture that was bad for ``minutes`` (5) is a notice, for ``yellow_minutes`` (30) a yellow alert,
until the first good picture.  It is black 黑屏, frozen 画面冻结, covered 遮挡, moved 镜头移位,
shows another view 视角改变, or is partly covered 部分遮挡, blurred 模糊 or dark 过暗.  Black and
dark count only during the hall's working time.

From the first fault to the first good picture it is one alert, which names the gravest of the
faults.  While the camera is lost its picture is unknown: that time does not count until a picture
is told again, and ends nothing.  A bad picture is judged on the date on which it began, however
long it lasts; where it was unknown at midnight, a bad one that follows is told anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import duration
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, DeviceDay, HallDay, Instant
from rules.video import (
    FAULT_EN,
    FAULT_ZH,
    BadPicture,
    bad_picture_id,
    bad_pictures,
    reached,
    time_of,
    total,
)

CODES = ("VID-03",)
SCOPE = "hall"


class PictureFault(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds in minutes; a threshold that is reached counts."""

    minutes: Annotated[int, Meta(ge=1)] = 5
    yellow_minutes: Annotated[int, Meta(ge=1)] = 30

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        for device in day.devices:
            for spell in bad_pictures(device, day):
                spans = spell.spans()
                due = reached(spans, self.minutes * MINUTE)
                yellow = reached(spans, self.yellow_minutes * MINUTE)
                for at in (due, yellow, spell.worsens(day.as_of)):
                    if at is not None and at > day.as_of:
                        yield AskAgain(at)
                if due is not None and due <= day.as_of:
                    grave = yellow is not None and yellow <= day.as_of
                    yield self._alert(day, device, spell, due, grave)

    def _alert(
        self, day: HallDay, device: DeviceDay, spell: BadPicture, due: Instant, yellow: bool
    ) -> Alert:
        name = device.name or device.device
        fault = spell.gravest(day.as_of)
        since = time_of(spell.counted[0][0], day)
        if spell.ended is None:
            # The threshold, not the minutes so far: an alert changes only when it says more.
            minutes = self.yellow_minutes if yellow else self.minutes
            title = f"画面异常（{FAULT_ZH[fault]}）{minutes} 分钟：{name}"
            detail = f"{device.device}: picture {FAULT_EN[fault]} for {minutes} min, since {since}."
        else:
            zh, en = duration(total(spell.spans()))
            title = f"画面异常（{FAULT_ZH[fault]}）{zh}，已恢复：{name}"
            detail = f"{device.device}: picture {FAULT_EN[fault]} for {en} from {since} on."
        if spell.snapshot:
            detail += f" Kept picture: {spell.snapshot}"
        return Alert(
            id=bad_picture_id(device, spell),
            rule="picture_fault",
            code="VID-03",
            subject_kind="device",
            subject=device.device,
            unit="",
            severity=SEVERITY["yellow" if yellow else "notice"],
            opened_at=due,
            ends_at=spell.ended,
            state="open" if spell.ended is None else "resolved",
            title=title,
            detail=detail,
        )


RULE = PictureFault
