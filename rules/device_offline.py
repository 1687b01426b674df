"""Device offline 设备离线 (DEV-01; of a camera VID-01) and hall offline 全厅离线 (DEV-02).

A device that cannot be reached for ``minutes`` (3) is a notice, for ``yellow_minutes`` (15) a
yellow alert, until it is back.  Shorter losses are told to nobody: many terminals restart by
themselves each night and are away for one to three minutes.  A loss is counted from the last moment
at which the device was known to be alive; the driver decides when it gives a device up.

When more than ``hall_percent`` (50) of the hall's devices are lost within ``hall_minutes`` (2) of
each other, the cause is the hall's power or network: one yellow alert for the hall, and the
devices' own alerts are inhibited by it.  It is told ``minutes`` after the first loss, if as many
are lost then.  A device that is still lost ``minutes`` after the hall came back stands for itself
again.  ``hall_percent = 100`` turns DEV-02 off.

The ``flap_losses``-th (4th) loss within ``flap_minutes`` (10) makes one alert ``flapping`` 时断时续
instead of many.  It stays as it is until contact has been steady for ``stable_minutes`` (15); a
loss that lasts that long is then told as a loss.  The hall as a whole can flap, too.

Losses are judged on the date on which they began, however long they last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import (
    Patience,
    Spell,
    duration,
    hall_offline_id,
    offline_code,
    offline_id,
    outages,
    turning_points,
    wall_time,
)
from rules.model import (
    MINUTE,
    SEVERITY,
    Alert,
    AskAgain,
    DeviceDay,
    HallDay,
)

CODES = ("DEV-01", "DEV-02", "VID-01")
SCOPE = "hall"


class DeviceOffline(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds in minutes; a threshold that is reached counts."""

    minutes: Annotated[int, Meta(ge=1)] = 3
    yellow_minutes: Annotated[int, Meta(ge=1)] = 15
    hall_percent: Annotated[int, Meta(ge=0, le=100)] = 50
    hall_minutes: Annotated[int, Meta(ge=0)] = 2
    flap_losses: Annotated[int, Meta(ge=2)] = 4
    flap_minutes: Annotated[int, Meta(ge=1)] = 10
    stable_minutes: Annotated[int, Meta(ge=1)] = 15

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        as_of = day.as_of
        patience = Patience(
            self.minutes * MINUTE,
            self.flap_losses,
            self.flap_minutes * MINUTE,
            self.stable_minutes * MINUTE,
        )
        found = outages(day, patience, self.hall_percent, self.hall_minutes * MINUTE)
        moments = set(turning_points(found.together, found.hall, patience))
        for spell in found.hall:
            yield self._hall_alert(day, spell)
            if spell.until is not None:
                moments.add(spell.until + patience.minimum)
        for one in found.devices:
            for spell, cause in zip(one.told, one.causes, strict=True):
                yield self._device_alert(day, one.device, spell, cause)
            moments.update(turning_points(one.losses, one.told, patience))
            if one.losses and one.losses[-1].back_at is None:
                moments.add(one.losses[-1].lost_at + self.yellow_minutes * MINUTE)
        yield from (AskAgain(at) for at in sorted(moments) if at > as_of)

    def _hall_alert(self, day: HallDay, spell: Spell) -> Alert:
        since = wall_time(spell.started, day.midnight)
        share = f"more than {self.hall_percent} % of {len(day.devices)} devices"
        zh_share = f"{len(day.devices)} 台设备中超过 {self.hall_percent}%"
        if spell.flapping:
            title, detail = self._flapping_words(spell, "全厅设备", "the hall", since)
            detail = f"{detail} Each time {share} were lost together."
        elif spell.until is None:
            title = f"全厅设备离线：{zh_share} 自 {since} 起同时失联"
            detail = f"Hall offline: {share} lost together since {since}; power or network?"
        else:
            zh, en = duration(spell.until - spell.started)
            title = f"全厅设备离线 {zh}，已恢复：{zh_share} 自 {since} 起同时失联"
            detail = f"Hall was offline for {en}: {share} lost together from {since} on."
        return Alert(
            id=hall_offline_id(day.hall, spell),
            rule="device_offline",
            code="DEV-02",
            subject_kind="hall",
            subject=day.hall,
            unit="",
            severity=SEVERITY["yellow"],
            opened_at=spell.due,
            ends_at=spell.ended,
            state="open" if spell.ended is None else "resolved",
            title=title,
            detail=detail,
        )

    def _device_alert(self, day: HallDay, device: DeviceDay, spell: Spell, cause: str) -> Alert:
        name = device.name or device.device
        since = wall_time(spell.started, day.midnight)
        lasted = (day.as_of if spell.until is None else spell.until) - spell.started
        yellow = not spell.flapping and lasted >= self.yellow_minutes * MINUTE
        if spell.flapping:
            title, detail = self._flapping_words(spell, name, device.device, since)
        elif spell.until is None:
            # The threshold, not the minutes so far: an alert changes only when it says more.
            minutes = self.yellow_minutes if yellow else self.minutes
            title = f"设备离线 {minutes} 分钟：{name}"
            detail = f"{device.device} has been offline for {minutes} min, since {since}"
        else:
            zh, en = duration(lasted)
            title = f"设备离线 {zh}，已恢复：{name}"
            detail = f"{device.device} was offline for {en} from {since} on"
        if not spell.flapping:
            detail += f": {spell.reason}" if spell.reason else "."
        return Alert(
            id=offline_id(device, spell),
            rule="device_offline",
            code=offline_code(device),
            subject_kind="device",
            subject=device.device,
            unit="",
            severity=SEVERITY["yellow" if yellow else "notice"],
            opened_at=spell.due,
            ends_at=spell.ended,
            state="open" if spell.ended is None else "resolved",
            title=title,
            detail=detail,
            inhibited_by=cause,
        )

    def _flapping_words(self, spell: Spell, name: str, who: str, since: str) -> tuple[str, str]:
        if spell.ended is None:
            return (
                f"时断时续（flapping）：{name}"
                f" {self.flap_minutes} 分钟内断开 {self.flap_losses} 次",
                f"Flapping: {who} was lost {self.flap_losses} times within {self.flap_minutes} min"
                f" from {since} on; quiet until it is steady for {self.stable_minutes} min.",
            )
        return (
            f"时断时续（flapping），已稳定：{name} 共断开 {spell.losses} 次",
            f"Flapping: {who} was lost {spell.losses} times from {since} on; steady since.",
        )


RULE = DeviceOffline
