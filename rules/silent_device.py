"""Silent device 设备无读数 (DEV-05): online, but nobody's punch comes.

On working days, a device that was in contact for a whole hour and gave no reading in it, although
``usual`` (5) or more were normal (the median of the same hour and weekday over the last four
weeks), is a notice from the end of that hour on: a closed door, a covered sensor, people who use
another terminal.  It is resolved at the beginning of the hour in which a reading comes again, or
when contact is lost (a lost device is told otherwise), and expires at midnight.  A late log that
fills the hour withdraws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import Loss, losses_of, wall_time
from rules.model import (
    HOUR,
    SEVERITY,
    Alert,
    AskAgain,
    DeviceDay,
    HallDay,
    Instant,
    stable_id,
)

CODES = ("DEV-05",)
SCOPE = "hall"


class SilentDevice(Struct, frozen=True, forbid_unknown_fields=True):
    """``usual``: readings an hour."""

    usual: Annotated[float, Meta(gt=0)] = 5

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        if not day.kind.works:
            return
        for device in day.devices:
            busy_ends = [
                day.midnight + (hour + 1) * HOUR
                for hour, count in enumerate(device.usual)
                if count >= self.usual
            ]
            for alert in self._silences(day, device):
                yield alert
                if alert.state == "open":
                    busy_ends.append(day.next_midnight)
            yield from (AskAgain(at) for at in busy_ends if at > day.as_of)

    def _silences(self, day: HallDay, device: DeviceDay) -> Iterator[Alert]:
        losses = losses_of(device, day.as_of)
        silent_from: Instant | None = None
        for hour, (count, usual) in enumerate(zip(device.hourly, device.usual, strict=False)):
            starts = day.midnight + hour * HOUR
            ends = starts + HOUR
            lost = [loss.lost_at for loss in losses if starts <= loss.lost_at < ends]
            if silent_from is None:
                silent = count == 0 and usual >= self.usual and ends <= day.as_of
                if silent and _in_contact(device, losses, starts, ends):
                    silent_from = starts
            elif count or lost:
                over = starts if count else lost[0]
                yield _alert(day, device, silent_from, over, "resolved")
                silent_from = None
        if silent_from is not None and day.as_of >= day.next_midnight:
            yield _alert(day, device, silent_from, day.next_midnight, "expired")
        elif silent_from is not None:
            yield _alert(day, device, silent_from, None, "open")


RULE = SilentDevice


def _in_contact(device: DeviceDay, losses: Sequence[Loss], starts: Instant, ends: Instant) -> bool:
    """Whether the device was in contact for the whole hour, as far as the day tells."""
    if not losses:
        # Without a loss on this date, contact missing or begun later means a loss from before it.
        return device.up_since is not None and device.up_since <= starts
    return all(
        loss.lost_at >= ends or (loss.back_at is not None and loss.back_at <= starts)
        for loss in losses
    )


def _alert(
    day: HallDay, device: DeviceDay, silent_from: Instant, ends_at: Instant | None, state: str
) -> Alert:
    name = device.name or device.device
    opened_at = silent_from + HOUR
    usual = device.usual[(silent_from - day.midnight) // HOUR]
    since, until = wall_time(silent_from, day.midnight), wall_time(opened_at, day.midnight)
    return Alert(
        id=stable_id("DEV-05", device.device, silent_from),
        rule="silent_device",
        code="DEV-05",
        subject_kind="device",
        subject=device.device,
        unit="",
        severity=SEVERITY["notice"],
        opened_at=opened_at,
        ends_at=ends_at,
        state=state,
        title=f"设备在线但无读数：{name} {since}–{until} 无人打卡（平时约 {usual:g} 次）",
        detail=f"{device.device} was online from {since} to {until} without any reading;"
        f" {usual:g} are usual.",
    )
