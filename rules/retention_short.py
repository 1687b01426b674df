"""Retention short 录像保存期不足 (VID-04): a recorder deletes recordings that must still be kept.

``days`` (30) must be kept.  A recorder whose oldest recording is younger than that less one day,
and that is seen to delete, is a yellow alert: its oldest recording is a later one than it told
before.  One that only has not been recording for so long is filling up, and no matter for an alert.

One alert for a camera and date, from the first such answer on; resolved by an answer with a
recording that is old enough, else it expires at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.model import DAY, SEVERITY, Alert, AskAgain, DeviceDay, HallDay, Instant, stable_id

CODES = ("VID-04",)
SCOPE = "hall"


class RetentionShort(Struct, frozen=True, forbid_unknown_fields=True):
    days: Annotated[int, Meta(ge=2)] = 30

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        for device in day.devices:
            alert = self._judge(device, day)
            if alert is not None:
                if alert.state == "open":
                    yield AskAgain(day.next_midnight)
                yield alert

    def _judge(self, device: DeviceDay, day: HallDay) -> Alert | None:
        first: tuple[Instant, Instant] | None = None
        ended: Instant | None = None
        earliest: Instant | None = None
        for at, told in sorted(device.recorded, key=lambda one: one[0]):
            if told.oldest is None or at > day.as_of or at >= day.next_midnight:
                continue
            short = at - told.oldest < (self.days - 1) * DAY
            deleted = earliest is not None and told.oldest > earliest
            if at >= day.midnight:
                if short and deleted and first is None:
                    first = at, told.oldest
                if first is not None:
                    ended = None if short else at if ended is None else ended
            earliest = told.oldest if earliest is None else min(earliest, told.oldest)
        if first is None:
            return None
        past = day.as_of >= day.next_midnight
        name = device.name or device.device
        kept = (first[0] - first[1]) // DAY
        return Alert(
            id=stable_id("VID-04", device.device, day.work_date),
            rule="retention_short",
            code="VID-04",
            subject_kind="device",
            subject=device.device,
            unit="",
            severity=SEVERITY["yellow"],
            opened_at=first[0],
            ends_at=ended if ended is not None else day.next_midnight if past else None,
            state="resolved" if ended is not None else "expired" if past else "open",
            title=f"录像保存期不足：{name} 仅存 {kept} 天（要求 {self.days} 天）",
            detail=f"The recordings of {device.device} reach back {kept} days and older ones are"
            f" being deleted; {self.days} days are required.",
        )


RULE = RetentionShort
