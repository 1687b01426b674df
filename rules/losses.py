"""When devices, and a hall as a whole, were lost: what the rules about devices read of a day.

Spans are half-open ``[lost_at, back_at)`` in milliseconds; ``back_at`` is none while a loss lasts.
Nothing here looks beyond ``as_of``: a loss after it is not there yet, a return after it has not
happened, so what was concluded about an earlier moment stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    CameraMonth,
    DeviceDay,
    HallDay,
    Instant,
    stable_id,
)


class Loss(Struct, frozen=True):
    """Contact was lost at ``lost_at`` and came back at ``back_at``."""

    lost_at: Instant
    back_at: Instant | None
    reason: str = ""

    def lasted(self, as_of: Instant) -> int:
        return (as_of if self.back_at is None else self.back_at) - self.lost_at


class Patience(Struct, frozen=True):
    """What is put up with, in ms: a loss shorter than ``minimum``, fewer than ``flaps`` losses
    within ``flap_window``; contact that is up or down for ``stable`` no longer flaps."""

    minimum: int
    flaps: int
    flap_window: int
    stable: int


class Spell(Struct, frozen=True):
    """Somebody is to be told: of a loss that lasts, or of contact that comes and goes.

    ``started`` is the (first) loss, ``due`` when it was long or often enough; ``until`` is when
    contact came back, ``ended`` when that was believed; ``losses`` counts them, and more than one
    is flapping.
    """

    started: Instant
    due: Instant
    until: Instant | None
    ended: Instant | None
    losses: int
    reason: str

    @property
    def flapping(self) -> bool:
        return self.losses > 1


PATIENCE = Patience(3 * MINUTE, 4, 10 * MINUTE, 15 * MINUTE)
HALL_PERCENT = 50
HALL_WITHIN = 2 * MINUTE
"""What is put up with where the settings say nothing else."""


class DeviceOutages(Struct, frozen=True):
    """A device's losses of a date, and what is to be told of them.  ``causes``: for each spell the
    id of the hall's alert that explains it, or nothing."""

    device: DeviceDay
    losses: tuple[Loss, ...]
    told: tuple[Spell, ...]
    causes: tuple[str, ...]


class Outages(Struct, frozen=True):
    """The losses that began on a date: of the hall as a whole, and of each device."""

    together: tuple[Loss, ...]
    hall: tuple[Spell, ...]
    devices: tuple[DeviceOutages, ...]


def outages(
    day: HallDay,
    patience: Patience = PATIENCE,
    percent: int = HALL_PERCENT,
    within: int = HALL_WITHIN,
) -> Outages:
    """What was lost on a date, until ``day.as_of``."""
    losses = [
        [loss for loss in losses_of(device, day.as_of) if loss.lost_at >= day.midnight]
        for device in day.devices
    ]
    together = hall_losses(losses, percent, within)
    hall = tuple(spells(together, patience, day.as_of))
    found = []
    for device, own in zip(day.devices, losses, strict=True):
        told = tuple(spells(own, patience, day.as_of))
        causes = (
            [
                hall_offline_id(day.hall, root)
                for root in hall
                if _explains(root, spell, patience.minimum, day.as_of)
            ]
            for spell in told
        )
        found.append(
            DeviceOutages(device, tuple(own), told, tuple(one[0] if one else "" for one in causes))
        )
    return Outages(tuple(together), hall, tuple(found))


def offline_code(device: DeviceDay) -> str:
    """The catalogue's number of the alert about a device that is lost."""
    return "VID-01" if device.camera else "DEV-01"


def offline_id(device: DeviceDay, spell: Spell) -> str:
    """The id of that alert."""
    flapping = ["flapping"] * spell.flapping
    return stable_id(offline_code(device), device.device, spell.started, *flapping)


def hall_offline_id(hall: str, spell: Spell) -> str:
    """The id of the alert about a hall that is lost."""
    return stable_id("DEV-02", hall, spell.started, *["flapping"] * spell.flapping)


def _explains(root: Spell, spell: Spell, grace: int, as_of: Instant) -> bool:
    """Whether the device's trouble began in the hall's and was over soon after it."""
    if spell.started < root.started or root.until is None:
        return spell.started >= root.started
    over = as_of + 1 if spell.until is None else spell.until
    return spell.started < root.until and over <= root.until + grace


def losses_of(device: DeviceDay | CameraMonth, as_of: Instant) -> list[Loss]:
    """A device's losses until ``as_of``: in order, disjoint, none of them empty."""
    losses: list[Loss] = []
    for lost_at, end, reason in sorted(
        (lost_at, as_of + 1 if back_at is None else back_at, reason)
        for lost_at, back_at, reason in device.losses
        if lost_at <= as_of
    ):
        back_at = end if end <= as_of else None
        before = losses[-1] if losses else None
        if before and (before.back_at is None or lost_at < before.back_at):
            if before.back_at is not None and (back_at is None or back_at > before.back_at):
                losses[-1] = Loss(before.lost_at, back_at, before.reason)
        elif lost_at < end:
            losses.append(Loss(lost_at, back_at, reason))
    return losses


def hall_losses(devices: Sequence[Sequence[Loss]], percent: int, within: int) -> list[Loss]:
    """When more than ``percent`` of the devices were lost together; ``within`` is in ms.

    It begins with the first of enough devices lost within ``within`` of each other, and ends when
    too few of those lost since are still lost.  One device alone is never a hall.
    """

    def enough(count: int) -> bool:
        return count >= 2 and count * 100 > percent * len(devices)

    turns: list[tuple[Instant, bool, int]] = []
    for number, losses in enumerate(devices):
        for loss in losses:
            turns.append((loss.lost_at, True, number))
            if loss.back_at is not None:
                turns.append((loss.back_at, False, number))
    together: list[Loss] = []
    lost: dict[int, Instant] = {}
    began: Instant | None = None
    # At one instant returns (False) come before losses: a span does not contain its end.
    for at, is_loss, number in sorted(turns):
        if is_loss:
            lost[number] = at
            recent = [since for since in lost.values() if at - since <= within]
            if began is None and enough(len(recent)):
                began = min(recent)
        else:
            del lost[number]
            if began is not None and not enough(sum(since >= began for since in lost.values())):
                together.append(Loss(began, at))
                began = None
    if began is not None:
        together.append(Loss(began, None))
    return together


def spells(losses: Sequence[Loss], patience: Patience, as_of: Instant) -> Iterator[Spell]:
    """What is to be told of one device's (or the hall's) losses, in order.

    A loss that lasts ``minimum`` is a spell of its own.  The loss that is the ``flaps``-th within
    ``flap_window`` begins a flapping: it and the following ones are not told until contact was
    steady for ``stable``.  If it is the loss that is steady, then it is told from that moment.
    """
    position = 0
    while position < len(losses):
        loss = losses[position]
        first = losses[max(position + 1 - patience.flaps, 0)]
        too_few = position + 1 < patience.flaps
        if too_few or loss.lost_at - first.lost_at > patience.flap_window:
            yield from _outage(loss, patience.minimum, as_of)
            position += 1
            continue
        last = _last_of_flapping(losses, position, patience.stable, as_of)
        final = losses[last]
        down = final.lasted(as_of) >= patience.stable
        steady = final.lost_at if down else final.back_at
        ended = None if steady is None else steady + patience.stable
        if ended is not None and ended > as_of:
            ended = None
        count = last - position + patience.flaps
        yield Spell(first.lost_at, loss.lost_at, steady, ended, count, loss.reason)
        if down:
            yield from _outage(final, max(patience.minimum, patience.stable), as_of)
        position = last + 1


def _last_of_flapping(losses: Sequence[Loss], position: int, stable: int, as_of: Instant) -> int:
    for index, (loss, following) in enumerate(pairwise(losses[position:]), position):
        lasted = loss.lasted(as_of)
        if lasted >= stable or following.lost_at - loss.lost_at - lasted >= stable:
            return index
    return len(losses) - 1


def _outage(loss: Loss, minimum: int, as_of: Instant) -> Iterator[Spell]:
    if loss.lasted(as_of) >= minimum:
        due = loss.lost_at + minimum
        yield Spell(loss.lost_at, due, loss.back_at, loss.back_at, 1, loss.reason)


def turning_points(
    losses: Sequence[Loss], told: Sequence[Spell], patience: Patience
) -> Iterator[Instant]:
    """Moments at which ``spells``, which told ``told``, can answer differently by time alone."""
    if losses and losses[-1].back_at is None:
        yield losses[-1].lost_at + patience.minimum
        yield losses[-1].lost_at + patience.stable
    yield from (
        spell.until + patience.stable
        for spell in told
        if spell.until is not None and spell.ended is None
    )


def duration(ms: int) -> tuple[str, str]:
    """In Chinese and English: ``("2 小时 5 分钟", "2 h 5 min")``; from two days on in days."""
    if ms >= 2 * DAY:
        return f"{ms // DAY} 天", f"{ms // DAY} days"
    hours, minutes = divmod(ms // MINUTE, HOUR // MINUTE)
    if not hours:
        return f"{minutes} 分钟", f"{minutes} min"
    if not minutes:
        return f"{hours} 小时", f"{hours} h"
    return f"{hours} 小时 {minutes} 分钟", f"{hours} h {minutes} min"


def wall_time(at: Instant, midnight: Instant) -> str:
    """``HH:MM`` of an instant of the day that began at ``midnight``."""
    minutes = (at - midnight) // MINUTE
    return f"{minutes // 60:02}:{minutes % 60:02}"
