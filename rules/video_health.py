"""Video health rate 视频完好率 (VID-05): too many cameras were out of order in a month.

A camera is in order on a workday unless it was lost for 15 minutes of the hall's working time or
had a bad picture for 30.  Less than ``percent`` (95) of a month's camera-days in order is one
yellow alert for the hall, told when the month is over and on its last date.  Days before a camera
was first seen do not count.

A month that is over cannot be mended, so the alert expires after a week.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct

from rules.model import DAY, SEVERITY, Alert, AskAgain, HallDay, stable_id
from rules.video import hall_figures, month_figures

CODES = ("VID-05",)
SCOPE = "hall"

STANDS = 7 * DAY


class VideoHealth(Struct, frozen=True, forbid_unknown_fields=True):
    percent: Annotated[int, Meta(ge=0, le=100)] = 95

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        if (day.work_date + timedelta(days=1)).month == day.work_date.month:
            return
        if day.as_of < day.next_midnight:
            if any(device.camera for device in day.devices):
                yield AskAgain(day.next_midnight)
            return
        if day.month is None:
            return
        rate = hall_figures(month_figures(day.month).values()).healthy
        if rate.n * 100 >= self.percent * rate.of:
            return
        expires = day.next_midnight + STANDS
        past = day.as_of >= expires
        if not past:
            yield AskAgain(expires)
        month = f"{day.work_date:%Y-%m}"
        share = f"{rate.n * 1000 // rate.of / 10:g}%"
        yield Alert(
            id=stable_id("VID-05", day.hall, month),
            rule="video_health",
            code="VID-05",
            subject_kind="hall",
            subject=day.hall,
            unit="",
            severity=SEVERITY["yellow"],
            opened_at=day.next_midnight,
            ends_at=expires if past else None,
            state="expired" if past else "open",
            title=f"{month} 视频完好率 {share}（{rate.n}/{rate.of}），低于 {self.percent}%",
            detail=f"{rate.n} of {rate.of} camera-days of {month} were in order ({share});"
            f" {self.percent} % are required.",
        )


RULE = VideoHealth
