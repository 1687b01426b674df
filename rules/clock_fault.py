"""Clock fault 时钟故障 (DEV-03): a device's clock cannot be believed.

A yellow alert when a check finds the clock more than ``limit_s`` (300) seconds off, or its offset
more than ``jump_s`` (60) seconds away from that of the check before.  A clock that lost its date
(before 2020, or more than a day ahead) is far beyond the limit, too.  The alert is resolved by the
next good check; a clock that jumped to within ``right_s`` (30) seconds of the true time was set
right, which is no fault.

An offset that stays at a whole number of half hours, within ``zone_s`` (30) seconds and less than a
day, is reported as 时区设置错误 ``zone_error``: the device or its server has the wrong time zone.
A day or more is 日期错误, a lost date.

At midnight the day's alert expires; the first bad check of the next day opens that day's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import duration, wall_time
from rules.model import (
    DAY,
    MINUTE,
    SEVERITY,
    Alert,
    AskAgain,
    DeviceDay,
    HallDay,
    Instant,
    stable_id,
)

CODES = ("DEV-03",)
SCOPE = "hall"

_HALF_HOUR = 30 * MINUTE

Check = tuple[Instant, int]
"""When a check was received, and the offset it found, in ms."""


class ClockFault(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds in seconds; an offset or change equal to one is still good."""

    limit_s: Annotated[int, Meta(ge=1)] = 300
    jump_s: Annotated[int, Meta(ge=1)] = 60
    right_s: Annotated[int, Meta(ge=0)] = 30
    zone_s: Annotated[int, Meta(ge=0)] = 30

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        for device in day.devices:
            for alert in self._faults(day, device):
                yield alert
                if alert.state == "open":
                    yield AskAgain(day.next_midnight)

    def _faults(self, day: HallDay, device: DeviceDay) -> Iterator[Alert]:
        checks = sorted(set(device.clock))
        bad: list[tuple[Check, int]] = []
        for before, check in pairwise([*checks[:1], *checks]):
            if check[0] < day.midnight:
                continue
            jump = check[1] - before[1]
            if self._is_bad(check[1], jump):
                bad.append((check, jump))
            elif bad:
                yield self._alert(day, device, bad, check[0], "resolved")
                bad = []
        if bad and day.as_of >= day.next_midnight:
            yield self._alert(day, device, bad, day.next_midnight, "expired")
        elif bad:
            yield self._alert(day, device, bad, None, "open")

    def _is_bad(self, offset: int, jump: int) -> bool:
        if abs(offset) > self.limit_s * 1000:
            return True
        return abs(jump) > self.jump_s * 1000 and abs(offset) > self.right_s * 1000

    def _is_zone_error(self, offsets: Sequence[int]) -> bool:
        steps = round(offsets[0] / _HALF_HOUR)
        return 0 < abs(steps * _HALF_HOUR) < DAY and all(
            abs(offset - steps * _HALF_HOUR) <= self.zone_s * 1000 for offset in offsets
        )

    def _alert(
        self,
        day: HallDay,
        device: DeviceDay,
        bad: Sequence[tuple[Check, int]],
        ends_at: Instant | None,
        state: str,
    ) -> Alert:
        (opened_at, offset), jump = bad[0]
        name = device.name or device.device
        at = wall_time(opened_at, day.midnight)
        if self._is_zone_error([offset for (_, offset), _ in bad]):
            zh, en = "时区设置错误（zone_error）", "wrong time zone (zone_error)"
            amount, en_amount = _amount(round(offset / _HALF_HOUR) * _HALF_HOUR)
        elif abs(offset) >= DAY:
            zh, en = "日期错误", "wrong date"
            amount, en_amount = _amount(offset)
        elif abs(offset) > self.limit_s * 1000:
            zh, en = "时钟误差过大", "clock far off"
            amount, en_amount = _amount(offset)
        else:
            zh, en = "时钟跳变", "clock jumped"
            amount, en_amount = _amount(jump)
        return Alert(
            id=stable_id("DEV-03", device.device, opened_at),
            rule="clock_fault",
            code="DEV-03",
            subject_kind="device",
            subject=device.device,
            unit="",
            severity=SEVERITY["yellow"],
            opened_at=opened_at,
            ends_at=ends_at,
            state=state,
            title=f"{zh}：{name} {amount}" + ("，已恢复" if state == "resolved" else ""),
            detail=f"{device.device}: {en}: {en_amount} the daemon's clock, found at {at}.",
        )


RULE = ClockFault


def _amount(offset: int) -> tuple[str, str]:
    direction, en_direction = ("快", "ahead of") if offset > 0 else ("慢", "behind")
    zh, en = duration(abs(offset))
    return f"{direction} {zh}", f"{en} {en_direction}"
