"""Camera upkeep 视频点位维护 (VID-06): nobody is named, or nobody cares.

On working days the cameras without a named technician (``maintainer``) are one notice for the hall,
from the beginning of its working time to midnight.

A camera that is lost (VID-01) or whose picture is bad (VID-03) is a yellow alert when nobody has
acknowledged that alert within ``acknowledge_hours`` (4) of the hall's working time, until somebody
does or the fault is over; and another when it lasts ``mend_hours`` (24), until it is over.  Both
are counted from when that alert was opened with its default thresholds.  A camera that was lost
with the whole hall (DEV-02) is left out: it is not the camera.

Faults are judged on the date on which they began, however long they last; working time is known a
fortnight ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import PATIENCE, offline_id, outages, turning_points
from rules.model import HOUR, SEVERITY, Alert, AskAgain, DeviceDay, HallDay, Instant, stable_id
from rules.video import (
    FAULT_EN,
    FAULT_ZH,
    PICTURE_PATIENCE,
    bad_picture_id,
    bad_pictures,
    hours_of,
    reached,
    worked,
)

CODES = ("VID-06",)
SCOPE = "hall"

NAMED = 5
"""So many cameras are named in one alert."""


class _Fault(Struct, frozen=True):
    """A fault of which somebody was told at ``opened`` by the alert ``alert_id``."""

    device: DeviceDay
    alert_id: str
    opened: Instant
    ended: Instant | None
    zh: str
    en: str


class CameraUpkeep(Struct, frozen=True, forbid_unknown_fields=True):
    acknowledge_hours: Annotated[int, Meta(ge=1)] = 4
    mend_hours: Annotated[int, Meta(ge=1)] = 24

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        yield from _unnamed(day)
        acknowledged: dict[str, Instant] = {}
        for id_, at in day.acted:
            acknowledged[id_] = min(at, acknowledged.get(id_, at))
        for fault in _faults(day):
            if isinstance(fault, AskAgain):
                if fault.at > day.as_of:
                    yield fault
                continue
            ended = fault.ended
            mend = fault.opened + self.mend_hours * HOUR
            yield from _late(
                day, fault, "mend", mend, ended,
                f"{self.mend_hours} 小时未修复", f"not mended within {self.mend_hours} h",
            )  # fmt: skip
            answer = worked(fault.opened, self.acknowledge_hours * HOUR, day)
            if answer is None:
                continue
            acted = acknowledged.get(fault.alert_id)
            if acted is not None and acted <= day.as_of:
                ended = acted if ended is None else min(ended, acted)
            yield from _late(
                day, fault, "acknowledge", answer, ended,
                f"{self.acknowledge_hours} 个工作小时内无人确认",
                f"not acknowledged within {self.acknowledge_hours} working hours",
            )  # fmt: skip


RULE = CameraUpkeep


def _unnamed(day: HallDay) -> Iterator[Alert | AskAgain]:
    names = [
        device.name or device.device
        for device in day.devices
        if device.camera and not device.maintainer
    ]
    if not names or not day.kind.works:
        return
    opened = next((begins for begins, _ in hours_of(day)), day.midnight)
    past = day.as_of >= day.next_midnight
    if not past:
        yield AskAgain(opened if day.as_of < opened else day.next_midnight)
    if day.as_of < opened:
        return
    more = len(names) > NAMED
    listed, and_more = "、".join(names[:NAMED]), " and others" if more else ""
    yield Alert(
        id=stable_id("VID-06", day.hall, day.work_date),
        rule="camera_upkeep",
        code="VID-06",
        subject_kind="hall",
        subject=day.hall,
        unit="",
        severity=SEVERITY["notice"],
        opened_at=opened,
        ends_at=day.next_midnight if past else None,
        state="expired" if past else "open",
        title=f"{len(names)} 个视频点位未指定维护人员：{listed}{'等' if more else ''}",
        detail=f"{len(names)} cameras without a named technician: {listed}{and_more}.",
    )


def _faults(day: HallDay) -> Iterator[_Fault | AskAgain]:
    """Also when there may be others."""
    found = outages(day)
    for root in found.hall:
        if root.until is not None:
            yield AskAgain(root.until + PATIENCE.minimum)
    for one in found.devices:
        if one.device.camera:
            yield from map(AskAgain, turning_points(one.losses, one.told, PATIENCE))
            for loss, cause in zip(one.told, one.causes, strict=True):
                if not cause:
                    yield _Fault(
                        one.device, offline_id(one.device, loss), loss.due, loss.ended,
                        "离线", "offline",
                    )  # fmt: skip
    for device in day.devices:
        for spell in bad_pictures(device, day):
            opened = reached(spell.spans(), PICTURE_PATIENCE)
            if opened is not None and opened > day.as_of:
                yield AskAgain(opened)
            elif opened is not None:
                fault = spell.gravest(opened)
                yield _Fault(
                    device, bad_picture_id(device, spell), opened, spell.ended,
                    f"画面异常（{FAULT_ZH[fault]}）", f"picture {FAULT_EN[fault]}",
                )  # fmt: skip


def _late(
    day: HallDay,
    fault: _Fault,
    duty: str,
    limit: Instant,
    done: Instant | None,
    zh: str,
    en: str,
) -> Iterator[Alert | AskAgain]:
    """A duty that was not ``done`` by its ``limit``; what is done at the limit is in time."""
    if done is not None and done <= limit:
        return
    if day.as_of < limit:
        yield AskAgain(limit)
        return
    device = fault.device
    who = f"（维护：{device.maintainer}）" if device.maintainer else ""
    yield Alert(
        id=stable_id("VID-06", fault.alert_id, duty),
        rule="camera_upkeep",
        code="VID-06",
        subject_kind="device",
        subject=device.device,
        unit="",
        severity=SEVERITY["yellow"],
        opened_at=limit,
        ends_at=done,
        state="open" if done is None else "resolved",
        title=f"视频故障 {zh}：{device.name or device.device} {fault.zh}{who}",
        detail=f"{device.device}, {fault.en}: {en}.",
    )
