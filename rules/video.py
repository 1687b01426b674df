"""What cameras and recorders told of a date or a month: bad pictures, missing recordings, figures.

Nothing here looks beyond ``as_of``.  What nobody told is unknown and counts neither way: while a
camera is lost its picture is unknown until one is told again, and time that a recorder was not
asked about is neither recorded nor missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from msgspec import Struct

from rules.counter import Ratio
from rules.losses import losses_of, wall_time
from rules.model import (
    DAY,
    MINUTE,
    PICTURE_FAULTS,
    CameraMonth,
    DeviceDay,
    HallDay,
    Instant,
    Picture,
    Recorded,
    VideoMonth,
    merge_intervals,
    stable_id,
)

Span = tuple[Instant, Instant]

FAULT_ZH = {
    "black": "黑屏", "frozen": "画面冻结", "covered": "遮挡", "moved": "镜头移位",
    "view_changed": "视角改变", "partly_covered": "部分遮挡", "blurred": "模糊", "dark": "过暗",
}  # fmt: skip
FAULT_EN = {fault: fault.replace("_", " ") for fault in PICTURE_FAULTS}
BY_LIGHT = frozenset(("black", "dark"))
"""Faults that are none outside the hall's working time, when the lights are off."""

PICTURE_PATIENCE = 5 * MINUTE
"""How long a picture is bad before somebody is told, where the settings say nothing else."""
OFFLINE_FAULT = 15 * MINUTE
PICTURE_FAULT = 30 * MINUTE
"""Lost, or with a bad picture, for so long of a day's working time, a camera was not in order."""
_LONG = 30 * DAY
"""Longer than a day's ``hours`` reach."""


# --------------------------------------------------------------------------------------------
# Spans
# --------------------------------------------------------------------------------------------


def both(some: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What lies within spans of the one and of the other kind, as sorted, disjoint spans."""
    ones, twos = merge_intervals(some), merge_intervals(others)
    found = []
    i = j = 0
    while i < len(ones) and j < len(twos):
        begins, ends = max(ones[i][0], twos[j][0]), min(ones[i][1], twos[j][1])
        if begins < ends:
            found.append((begins, ends))
        if ones[i][1] < twos[j][1]:
            i += 1
        else:
            j += 1
    return found


def without(some: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of the first lies outside the others, as sorted, disjoint spans."""
    left = []
    taken = merge_intervals(others)
    first = 0
    for begins, ends in merge_intervals(some):
        while first < len(taken) and taken[first][1] <= begins:
            first += 1
        for starts, stops in taken[first:]:
            if starts >= ends:
                break
            if begins < starts:
                left.append((begins, starts))
            begins = stops
        if begins < ends:
            left.append((begins, ends))
    return left


def total(spans: Iterable[Span]) -> int:
    """The sum of their lengths, in ms."""
    return sum(ends - begins for begins, ends in spans)


def reached(spans: Iterable[Span], amount: int) -> Instant | None:
    """When ``amount`` ms of the sorted spans were over; none if they are shorter."""
    for begins, ends in spans:
        if ends - begins >= amount:
            return begins + amount
        amount -= ends - begins
    return None


def hours_of(day: HallDay) -> list[Span]:
    """The hall's working time on the date itself."""
    return both(day.hours, [(day.midnight, day.next_midnight)])


def worked(since: Instant, amount: int, day: HallDay) -> Instant | None:
    """When ``amount`` ms of working time have passed since then; none if that is not known."""
    return reached(both(day.hours, [(since, since + _LONG)]), amount)


def time_of(at: Instant, day: HallDay) -> str:
    """``HH:MM`` on the date itself, with the date before it on others."""
    days = (at - day.midnight) // DAY
    if not days:
        return wall_time(at, day.midnight)
    return f"{day.work_date + timedelta(days=days)} {wall_time(at, day.midnight + days * DAY)}"


# --------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------


class Stretch(Struct, frozen=True):
    """A camera's picture was this from ``begins`` until another was told at ``ends`` (none: not
    yet); until ``seen`` that is known, which is earlier where the camera was lost meanwhile."""

    begins: Instant
    ends: Instant | None
    seen: Instant | None
    picture: Picture

    @property
    def unknown(self) -> bool:
        return not self.picture.known and not self.picture.faults


def stretches(camera: DeviceDay | CameraMonth, as_of: Instant) -> list[Stretch]:
    """What its picture was, in order.  Unknown pictures one after another are one."""
    told: list[tuple[Instant, Picture]] = []
    for at, picture in sorted(camera.pictures, key=lambda one: one[0]):
        nothing = not picture.known and not picture.faults
        if at > as_of or (nothing and told and not told[-1][1].known and not told[-1][1].faults):
            continue
        told.append((at, picture))
    losses = losses_of(camera, as_of)
    found = []
    for number, (at, picture) in enumerate(told):
        ends = told[number + 1][0] if number + 1 < len(told) else None
        cut = (
            loss.lost_at
            for loss in losses
            if at <= loss.lost_at and (ends is None or loss.lost_at < ends)
        )
        found.append(Stretch(at, ends, next(cut, ends), picture))
    return found


class BadPicture(Struct, frozen=True):
    """A camera's picture was bad from ``began``, its first fault, to ``ended``, its first good
    picture (none: not yet), whatever the faults were meanwhile.

    ``counted``: when that counts, in order, each with the faults that count then; what will count
    if nothing changes is in it, too.  ``snapshot``: name of the first kept picture.
    """

    began: Instant
    ended: Instant | None
    counted: tuple[tuple[Instant, Instant, tuple[str, ...]], ...]
    snapshot: str

    def spans(self) -> list[Span]:
        return [(begins, ends) for begins, ends, _ in self.counted]

    def gravest(self, as_of: Instant) -> str:
        """The gravest fault of those that have counted."""
        faults = {fault for begins, _, some in self.counted if begins <= as_of for fault in some}
        return min(faults, key=PICTURE_FAULTS.index)

    def worsens(self, as_of: Instant) -> Instant | None:
        """When the gravest fault is another one, if nothing changes: a black picture that is
        blurred, too, is a black one in the hall's working time; none if it will not be."""
        for begins, _, _ in self.counted:
            if begins > as_of >= self.counted[0][0] and self.gravest(begins) != self.gravest(as_of):
                return begins
        return None


def bad_pictures(device: DeviceDay, day: HallDay) -> Iterator[BadPicture]:
    """The spells of bad pictures that began on the date.

    Where the picture is unknown at midnight, a spell does not go on: a bad picture that is told
    afterwards is another one, of the date on which it is told.
    """
    began: list[Stretch] = []
    for stretch in stretches(device, day.as_of):
        if stretch.picture.faults:
            began.append(stretch)
        elif began and (not stretch.unknown or _over_midnight(stretch, day)):
            ended = stretch.ends if stretch.unknown else stretch.begins
            yield from _spell(began, ended, day)
            began = []
    if began:
        yield from _spell(began, None, day)


def bad_picture_id(device: DeviceDay, spell: BadPicture) -> str:
    """The id of the alert about it."""
    return stable_id("VID-03", device.device, spell.began)


def _over_midnight(stretch: Stretch, day: HallDay) -> bool:
    ends = day.as_of if stretch.ends is None else stretch.ends
    return (stretch.begins - day.midnight) // DAY < (ends - day.midnight) // DAY


def _spell(bad: Sequence[Stretch], ended: Instant | None, day: HallDay) -> Iterator[BadPicture]:
    if not day.midnight <= bad[0].begins < day.next_midnight:
        return
    counted: list[tuple[Instant, Instant, tuple[str, ...]]] = []
    for one in bad:
        whole = (one.begins, day.as_of + _LONG if one.seen is None else one.seen)
        in_hours = both([whole], day.hours)
        counted += ((*span, one.picture.faults) for span in in_hours)
        always = tuple(fault for fault in one.picture.faults if fault not in BY_LIGHT)
        if always:
            counted += ((*span, always) for span in without([whole], in_hours))
    snapshot = next((one.picture.snapshot for one in bad if one.picture.snapshot), "")
    yield BadPicture(bad[0].begins, ended, tuple(sorted(counted)), snapshot)


# --------------------------------------------------------------------------------------------
# Recordings
# --------------------------------------------------------------------------------------------


def recordings(
    told: Iterable[tuple[Instant, Recorded]], as_of: Instant
) -> tuple[list[Span], list[Span]]:
    """What the answers were about, and what of it is recorded.

    The answers are taken together: what one of them held was recorded, whatever others say.  Before
    the oldest recording that was ever told nothing is missing: it was not recorded yet.
    """
    answers = [(at, answer) for at, answer in told if at <= as_of]
    first = min((one.oldest for _, one in answers if one.oldest is not None), default=None)
    asked = merge_intervals((one.since, min(one.until, at)) for at, one in answers)
    if first is not None and asked:
        asked = both(asked, [(first, asked[-1][1])])
    return asked, both(asked, (span for _, one in answers for span in one.spans))


# --------------------------------------------------------------------------------------------
# Figures of a month
# --------------------------------------------------------------------------------------------


class VideoFigures(Struct, frozen=True):
    """``online``: minutes in contact of the minutes in which it was required.  ``healthy``: days in
    order of days.  ``recorded``: minutes recorded of the required minutes that were asked about."""

    online: Ratio = Ratio()
    healthy: Ratio = Ratio()
    recorded: Ratio = Ratio()


def month_figures(month: VideoMonth) -> dict[str, VideoFigures]:
    """The figures of each camera, by id.  Time before it was first seen is on neither side."""
    seen = dict(month.first_seen)
    return {one.device: _figures(one, seen.get(one.device), month) for one in month.cameras}


def hall_figures(cameras: Iterable[VideoFigures]) -> VideoFigures:
    """The sums over the cameras."""
    every = tuple(cameras)

    def added(ratios: Iterable[Ratio]) -> Ratio:
        found = tuple(ratios)
        return Ratio(sum(one.n for one in found), sum(one.of for one in found))

    return VideoFigures(
        added(one.online for one in every),
        added(one.healthy for one in every),
        added(one.recorded for one in every),
    )


def _figures(camera: CameraMonth, first: Instant | None, month: VideoMonth) -> VideoFigures:
    if first is None:
        return VideoFigures()
    known = [(first, month.as_of)]
    days = [hours for one in month.hours if (hours := both(one, known))]
    lost = merge_intervals(
        (loss.lost_at, month.as_of if loss.back_at is None else loss.back_at)
        for loss in losses_of(camera, month.as_of)
    )
    bad = merge_intervals(
        (one.begins, month.as_of if one.seen is None else one.seen)
        for one in stretches(camera, month.as_of)
        if one.picture.faults
    )
    good = sum(
        total(both(hours, lost)) < OFFLINE_FAULT and total(both(hours, bad)) < PICTURE_FAULT
        for hours in days
    )
    required = [span for hours in days for span in hours]
    asked, held = (both(required, spans) for spans in recordings(camera.recorded, month.as_of))
    return VideoFigures(
        _minutes(total(without(required, lost)), total(merge_intervals(required))),
        Ratio(good, len(days)),
        _minutes(total(held), total(asked)),
    )


def _minutes(n: int, of: int) -> Ratio:
    """In whole minutes; all of a time stays all of it."""
    return Ratio(n // MINUTE, of // MINUTE)
