"""Who is at a post, from pictures: the learned picture of the empty post against the present one,
and whether anything has moved there lately.

Everything is measured on the grey picture 320 pixels wide, in the post's region (chair and torso on
the staff side).  Per sample:

===========  ======================================================================================
lighting     the median of the present grey level for each of 16 grey levels of the reference, over
             pixels outside all regions: how the light is now.  The reference is brought to it.
difference   share of the region that is off by more than 25 grey levels, less where the hall
             has less contrast, 6 at least
structure    share of the region's edges that are not where the reference has them
D            difference and structure both above their thresholds: the post does not look empty
motion       share of the region that changed since the sample before, or in 20 s; where there is a
             reference, only where both samples differ from it: what passes by is not motion here
M            motion above three times what an empty post shows
P            a person detector's answer, if it was asked
===========  ======================================================================================

Both shares weigh the middle of the region more than its rim: somebody who leans in from a side or
over the counter reaches the rim, somebody who sits there fills the middle.

``occupied``: P, or D with M in the last 120 s; told after 2 samples and 3 s, as of the first.
``still``: D, but no M for ``still_after``: somebody who reads or sleeps, or a coat on the chair.
``empty``: neither D nor P for 20 s, but for what passes by; told as of the last moment it did not
look empty.
``learning``: the empty post is not known, neither in this light nor in one in which the hall has
the same edges.
``unknown``: the picture has any fault (a ``moved`` one that can be compensated is none), or is not
known, or for up to 60 s after a start or a gap; clear presence ends that at once.

While the picture is ``held`` (light switched, exposure jumping) nothing is decided, for a minute at
most.  Thresholds follow ``person_share``, the share of the region that a seated person fills, or
where both were shown, the geometric mean of what the empty and the occupied post measure.

This sees that something man-sized is there and moves, not that it is a person.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import cv2
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from drivers.picture import Pace

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Weights = NDArray[np.float32]

PRESENT_AFTER = 3_000
VACANT_AFTER = 20_000
MOTION_COUNTS = 120_000
"""How long one movement lets a post that does not look empty count as occupied."""
STIRS_WITHIN = 30_000
"""What stood still is occupied again after two movements within this."""
PERSON_COUNTS = 12_000
"""A detector is asked every few seconds; its yes holds this long."""
PASSING = 3
"""Who passes by does not make a vacant post start anew; but each second of it takes back three of
vacancy, so that somebody who is hard to see and is seen a quarter of the time is not gone."""
SETTLING = 60_000
GAP = 20_000
"""Milliseconds without a picture after which nothing is known any more, at least; three times the
usual spacing where pictures come seldom."""
VOUCHES = 10_000
"""For how long one picture of a vacant post counts at most."""
SURE_AFTER = 90_000
"""Where nothing is known yet, a difference without motion is believed after this.  Longer than a
displaced picture takes to be noticed, which would look the same."""
HELD_AT_MOST = 60_000
ANCHOR_EVERY = 20_000
"""Somebody who reads moves too slowly to be seen from one picture to the next; not over this."""
BLEND_AFTER = 60_000
BLEND_EVERY = 10_000
BLEND = 0.02
USUAL_SPREAD = 36.0
"""Standard deviation of the grey levels of a hall in good light; where the reference has less, a
person stands out less by as much."""
STRANGE = 20
"""Grey levels by which a place in the surroundings is off what the light makes of it."""
LEARN_AFTER = 300_000
LEARN_EVERY = 8_000
LEARN_FRAMES = 15
ALIKE, STILL_ALIKE = 0.5, 0.35
"""How well the edges of the surroundings must agree with those of a reference that was learned in
another light, for it to do until this light is known.  A dimmed hall keeps its edges; infrared
does not, for cloth and paint look otherwise in it."""
ODD_AFTER = 4 * 3_600_000
"""A closed post that never looked empty for so long has other furniture."""

_SINCE_NOW = "it is being watched only since a moment ago"

LEAST_MOTION = 0.003
PUSHED = 0.055
"""Share of the surroundings that changes when the camera is displaced by 2 % or more.  People who
walk about change less; when many do, the next movement at the post counts."""
FLOOR_AT_MOST = 0.01
"""Of the learned motion floor: a fan in the region may hide movements, not all of them."""

COARSE = 4
"""The surroundings are kept at a quarter of the size: enough for the light."""
RIM = 8
"""Pixels kept around the region for the gradients at its border."""
SMEAR = 3
"""Pixels beyond a mask that smoothing lets it reach."""
LARGEST = 1 << 20
"""Bytes of references after decompression; what is more is not ours."""


@dataclass(frozen=True, slots=True)
class PostOptions:
    region: tuple[tuple[float, float], ...]
    person_share: float = 0.35
    still_after: int = 300
    masks: tuple[tuple[float, float, float, float], ...] = ()
    """Left, top, right, bottom, 0 to 1: what the camera or the recorder writes there is no part of
    the hall."""

    def __post_init__(self) -> None:
        if len(self.region) < 3:
            raise ValueError("region needs at least 3 corners")
        if not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in self.region):
            raise ValueError("region: corners are shares of width and height, 0 to 1")
        if _area(self.region) < 0.01:
            raise ValueError("region must cover at least 1 % of the picture")
        if not 0.05 <= self.person_share <= 1:
            raise ValueError("person_share is the share of the region a person fills, 0.05 to 1")
        if self.still_after < 30:
            raise ValueError("still_after must be at least 30 s")
        for x0, y0, x1, y1 in self.masks:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError("masks: left, top, right, bottom as shares of 0 to 1")


class Watched(Protocol):
    """What this needs to know of the picture's health."""

    @property
    def known(self) -> bool: ...
    @property
    def faults(self) -> tuple[str, ...]: ...
    @property
    def roi_shift(self) -> tuple[float, float] | None: ...
    @property
    def held(self) -> bool: ...
    @property
    def bucket(self) -> str: ...


class SeatState(Struct, frozen=True):
    """``since``: when ``state`` began; of ``empty``, the last moment it did not look empty.

    ``score``: 0 looks empty, 0.5 at the threshold, towards 1 certainly is not; none where nothing
    could be measured.  ``motion_age``: seconds since the last movement, if one was seen.
    ``uncertain``: a detector's opinion is wanted now.  ``looks``: what this one picture shows,
    ``empty`` or ``occupied`` (D or P), before anything must last; empty where that is not known.
    """

    state: str
    since: int
    evidence: tuple[str, ...] = ()
    score: float | None = None
    motion_age: float | None = None
    reason: str = ""
    uncertain: bool = False
    looks: str = ""


class PostView:
    """One post in one camera's picture.  Times are milliseconds of one monotone time base."""

    def __init__(
        self, options: PostOptions, references: bytes | None = None, settling: int = SETTLING
    ) -> None:
        """Raises ``ValueError`` with a sentence for references that are damaged or belong to
        another region.  ``settling``: how long nothing is concluded after a start or a gap."""
        self._options = options
        self._settling = settling
        self._empty: dict[str, _Reference] = _unpacked(references, options) if references else {}
        self._kept = {name: one.region.copy() for name, one in self._empty.items()}
        self._dirty = False
        self._frame: _Frame | None = None
        self._others: Mask | None = None
        self._odd_from: int | None = None
        self._wants_relearning = False
        self._last: int | None = None
        self._pace = Pace(GAP)
        self._borrows = False
        self._settled_at = 0
        self._judged_at = 0
        self._blended_at = 0
        self._person_at: int | None = None
        self._watch = _Watch()
        self._told = SeatState("unknown", 0)

    @property
    def dirty(self) -> bool:
        """``references()`` would give something else than when it was last asked."""
        return self._dirty

    @property
    def wants_relearning(self) -> bool:
        """The closed post has not looked like the learned one for hours, though nothing moved:
        somebody should look and have the empty post learned again."""
        return self._wants_relearning

    @property
    def learned(self) -> dict[str, Grey]:
        """The empty region as it was learned, by light; not to be changed."""
        return {name: one.region for name, one in self._empty.items()}

    def references(self) -> bytes | None:
        """What was learned, to be kept over restarts; none if nothing was."""
        self._dirty = False
        self._kept = {name: one.region.copy() for name, one in self._empty.items()}
        return _packed(self._empty, self._options) if self._empty else None

    def learn_empty(self, frames: Sequence[Grey], bucket: str) -> None:
        """These pictures show the empty post.  Raises ``ValueError`` if they are of no use."""
        self._learn([self._cut(small, None) for small in _usable(frames)], bucket)

    def learn_occupied(self, frames: Sequence[Grey], bucket: str) -> None:
        """These pictures show the post with somebody there: sets the thresholds."""
        samples = [self._cut(small, None) for small in _usable(frames)]
        empty = self._empty.get(bucket)
        if empty is None or not empty.fits(samples[0]):
            raise ValueError("the empty post must be learned first, in the same light")
        scores = [self._compare(sample, empty) for sample in samples]
        # The quarter with the least: somebody who leans back is there as well.
        seen = [float(np.quantile([s[i] for s in scores], 0.25)) for i in (0, 1)]
        if seen[0] <= 2 * empty.empty[0] or seen[1] <= 2 * empty.empty[1]:
            raise ValueError("these pictures look like the empty post")
        empty.occupied = (seen[0], seen[1])
        self._dirty = True

    def see(
        self,
        at: int,
        small: Grey,
        picture: Watched,
        others: Mask | None = None,
        person: bool | None = None,
        closed: bool = False,
    ) -> SeatState:
        """What is known of the post after this picture.

        ``others``: the pixels of all this camera's regions.  ``person``: a detector's answer for
        this picture.  ``closed``: nobody is to be there; then an empty post that is not known yet
        is learned by itself after five minutes without motion.
        """
        passed = 0 if self._last is None else at - self._last
        if self._last is None or passed < 0 or self._pace.broken(passed):
            self._forget()
            self._person_at = None
            self._settled_at = at + self._settling
            self._judged_at = at
            self._told = SeatState("unknown", at, reason=_SINCE_NOW)
        self._last = at
        if others is not None and others.shape == small.shape:
            self._others = others

        if person is not None:
            self._person_at = at if person else None
        problem = _problem(picture)
        if problem:
            self._forget()
            return self._tell("unknown", at, problem)
        if picture.held:
            self._watch.before = self._watch.anchor = None
            self._watch.quiet_from = None
            if at - self._judged_at > HELD_AT_MOST:
                self._forget()
                return self._tell("unknown", at, "the light keeps changing")
            return msgspec.structs.replace(self._told, looks="")
        self._judged_at = at

        sample = self._cut(small, picture.roi_shift)
        if not sample.weights.any():
            self._forget()
            return self._tell("unknown", at, "the region lies outside the picture, or under masks")
        empty = self._reference(sample, picture.bucket)
        return self._judge(at, sample, empty, picture.bucket, closed)

    # -- measuring ----------------------------------------------------------------------------

    def _cut(self, small: Grey, shift: tuple[float, float] | None) -> _Sample:
        if self._frame is None or self._frame.shape != small.shape:
            self._frame = _frame(self._options.region, small.shape, self._options.masks)
            self._others = None
        frame = self._frame
        dx, dy = (0, 0) if shift is None else (round(shift[0]), round(shift[1]))
        weights, written = frame.weights, frame.written
        if dx or dy:
            back = np.array([[1, 0, -dx], [0, 1, -dy]], dtype=np.float32)
            size = (small.shape[1], small.shape[0])
            small = _u8(cv2.warpAffine(small, back, size, borderMode=cv2.BORDER_REPLICATE))
            there = np.ones(small.shape, dtype=np.uint8)
            weights = weights * cv2.warpAffine(there, back, size)[frame.box]
            if weights.sum() < 0.5 * frame.weights.sum():
                weights = np.zeros_like(weights)
            # What is written into the picture does not move with the camera.
            written = _u8(cv2.warpAffine(written, back, size))
        own = frame.inside if self._others is None else self._others | frame.inside
        if self._options.masks:
            weights = weights * (written[frame.box] == 0)
            own = own | (written > 0)
        around = _u8(cv2.resize(small, frame.coarse, interpolation=cv2.INTER_AREA))
        hidden = cv2.resize(own.astype(np.uint8), frame.coarse, interpolation=cv2.INTER_AREA)
        return _Sample(
            small[frame.box], around, np.asarray(hidden) == 0, weights, (dx, dy), small.shape
        )

    def _reference(self, sample: _Sample, bucket: str) -> _Reference | None:
        """The empty post in this light, or in another that shows the same edges."""
        own = self._empty.get(bucket)
        if own is not None and own.fits(sample):
            self._borrows = False
            return own
        least = STILL_ALIKE if self._borrows else ALIKE
        for other in self._empty.values():
            if other.fits(sample) and _alike(other.around, sample.around, sample.outside) >= least:
                self._borrows = True
                return other
        self._borrows = False
        return None

    def _compare(self, sample: _Sample, empty: _Reference) -> _Comparison:
        table, gain = _light(empty.around, sample.around, sample.outside)
        expected = _blurred(table[empty.region])
        present = _blurred(sample.region)
        grain = _grain(sample.region)
        contrast = min(1.0, gain * empty.contrast)
        off = np.abs(present - expected) > max(6.0, 25.0 * contrast, 5.0 * grain)

        across, down = _gradient(present)
        across_then, down_then = _gradient(expected)
        energy = _box(across * across + down * down)
        energy_then = _box(across_then * across_then + down_then * down_then)
        common = _box(across * across_then + down * down_then)
        larger = np.maximum(energy, energy_then)
        least = max(900.0 * contrast**2, 60.0 * grain * grain, 150.0)
        edges = larger > least
        strange = edges & (common < 0.35 * larger)
        total = float(sample.weights.sum())
        found = float(sample.weights[edges].sum())
        # A few edges on a smooth wall are no basis for a share.
        structure = float(sample.weights[strange].sum()) / max(found, 0.1 * total)
        return _Comparison(float(sample.weights[off].sum()) / total, structure, off, contrast)

    def _motion(self, now: _Look, then: _Look | None) -> _Motion | None:
        """What changed between the two; none if that tells nothing."""
        if then is None:
            return None
        sample, before = now.sample, then.sample
        if before.shift != sample.shift or before.shape != sample.shape:
            return None
        table, _ = _light(before.around, sample.around, sample.outside)
        apart = np.abs(table[before.around] - sample.around)[sample.outside] > STRANGE
        around = float(apart.mean()) if apart.size else 0.0
        if around > 0.25:
            return None  # the whole picture changed: light, or the camera was pushed
        grain = max(_grain(sample.region), _grain(before.region))
        change = np.abs(_blurred(sample.region) - _blurred(table[before.region]))
        changed = change > max(5.0, 8.0 * now.contrast, 3.5 * grain)
        inside = sample.weights > 0
        anywhere = float(changed[inside].mean())
        if now.differs is None:
            return _Motion(around, anywhere, anywhere)
        if then.differs is None:
            return _Motion(around, anywhere, 0.0)
        both = cv2.erode((now.differs & then.differs).astype(np.uint8), _AROUND)
        within = float((changed & (np.asarray(both) > 0))[inside].mean())
        return _Motion(around, anywhere, within)

    # -- concluding ---------------------------------------------------------------------------

    def _judge(
        self, at: int, sample: _Sample, empty: _Reference | None, bucket: str, closed: bool
    ) -> SeatState:
        differs, ratio, contrast = None, None, 1.0
        if empty is not None:
            difference, structure, differs, contrast = self._compare(sample, empty)
            least = empty.thresholds(self._options.person_share)
            ratio = min(difference / least[0], structure / least[1])
        looked = self._watch.looks
        if ratio is not None:
            # Once it looks occupied, it takes a little less to go on doing so.
            self._watch.looks = ratio >= (0.8 if looked else 1.0)
        watch = self._watch
        look = _Look(at, sample, differs, contrast)
        least_motion = max(LEAST_MOTION, 3 * empty.floor if empty else 0.0)
        motion = self._motion(look, watch.before)
        moved = motion is not None and motion.within > least_motion
        if motion is not None and watch.looks and not looked:
            # Somebody came, if it is not the camera that was pushed a little.
            moved = motion.anywhere > least_motion and motion.around < PUSHED
        if watch.anchor is None or at - watch.anchor.at >= ANCHOR_EVERY:
            slowly = self._motion(look, watch.anchor)
            moved = moved or (slowly is not None and slowly.within > least_motion)
            watch.anchor = look
        watch.before = look
        watch.motion(at, moved)

        person = self._person_at is not None and at - self._person_at <= PERSON_COUNTS
        if empty is None or ratio is None:
            return self._while_learning(at, sample, bucket, closed, moved, person)

        if self._borrows:
            self._gather(at, sample, bucket, closed and not person and not watch.looks, moved)
        elif not watch.looks and not person and motion is not None:
            empty.floor += 0.02 * (min(motion.anywhere, FLOOR_AT_MOST) - empty.floor)
        lively = watch.looks and watch.moved_within(at, MOTION_COUNTS)
        watch.taken(at, watch.looks or person)
        watch.present(at, person or lively)
        if not self._borrows:
            self._keep_up(at, sample, empty, bucket)
        self._look_for_furniture(at, closed, moved, person)

        leaving = self._told.state in ("occupied", "still") and watch.vacant_from is not None
        frozen = watch.looks and watch.still_for(at) >= 60_000
        state, since, reason = self._conclusion(at, person, ratio)
        score = ratio / (1 + ratio)
        self._told = SeatState(
            state,
            since,
            evidence=self._evidence(at, person),
            score=round(max(score, 0.95) if person else score, 3),
            motion_age=self._motion_age(at),
            reason=reason,
            uncertain=leaving or frozen or 0.6 <= ratio < 1.6,
            looks="occupied" if watch.looks or person else "empty",
        )
        return self._told

    def _while_learning(
        self, at: int, sample: _Sample, bucket: str, closed: bool, moved: bool, person: bool
    ) -> SeatState:
        watch = self._watch
        watch.nothing_known()
        self._gather(at, sample, bucket, closed and not person, moved)
        watch.present(at, person)
        age = self._motion_age(at)
        if person and (self._told.state == "occupied" or watch.arrived(at)):
            since = self._told.since
            if self._told.state != "occupied":
                assert watch.present_from is not None
                since = max(since, watch.present_from)
            self._told = SeatState("occupied", since, ("detector",), 0.95, age, looks="occupied")
        else:
            self._tell("learning", at, "the empty post has not been learned yet in this light")
            self._told = msgspec.structs.replace(
                self._told, motion_age=age, uncertain=True, looks="occupied" if person else ""
            )
        return self._told

    def _conclusion(self, at: int, person: bool, ratio: float) -> tuple[str, int, str]:
        """State, since when, why."""
        now, since, watch = self._told.state, self._told.since, self._watch
        if now == "learning":
            now, since = "unknown", at
        clear = person or (ratio >= 1.5 and watch.stirs(at))
        if now == "unknown" and at < self._settled_at and not (clear and watch.arrived(at)):
            return now, since, _SINCE_NOW
        if now != "empty" and watch.left():
            assert watch.vacant_from is not None
            began = watch.vacant_from if watch.seen is None else watch.seen
            return "empty", max(since, began), ""
        if now == "still":
            stirs = watch.stirs(at) and watch.moved[0] > since
            if stirs or (person and watch.arrived(at)):
                return "occupied", watch.moved[0] if stirs else at, ""
            return now, since, ""
        still_for = watch.still_for(at)
        if watch.looks and not person and still_for >= self._options.still_after * 1000:
            return "still", max(since, at - still_for), ""
        if now != "occupied" and watch.arrived(at):
            assert watch.present_from is not None
            return "occupied", max(since, watch.present_from), ""
        if now == "unknown":
            if watch.looks and still_for >= SURE_AFTER:
                return "occupied", max(since, at - still_for), ""
            return now, since, _SINCE_NOW
        return now, since, ""

    def _motion_age(self, at: int) -> float | None:
        return (at - self._watch.moved[-1]) / 1000 if self._watch.moved else None

    def _evidence(self, at: int, person: bool) -> tuple[str, ...]:
        found = []
        if self._watch.looks:
            found.append("difference")
            if self._watch.moved_within(at, MOTION_COUNTS):
                found.append("motion")
        if person:
            found.append("detector")
        return tuple(found)

    def _tell(self, state: str, at: int, reason: str) -> SeatState:
        """A state without a measurement; it began when it was first told."""
        told = self._told
        since = told.since if told.state == state else at
        self._told = SeatState(state, since, reason=reason)
        return self._told

    def _forget(self) -> None:
        """What was seen so far says nothing of what comes; what was learned stays."""
        self._watch = _Watch()

    # -- learning -----------------------------------------------------------------------------

    def _gather(self, at: int, sample: _Sample, bucket: str, fit: bool, moved: bool) -> None:
        """Keeps pictures of a post where nobody is to be, until they teach what it looks like."""
        watch = self._watch
        if not fit:
            watch.quiet.clear()
            watch.quiet_from = at
        elif not moved:
            assert watch.quiet_from is not None
            if not watch.quiet or at - watch.quiet_at >= LEARN_EVERY:
                copied = sample._replace(region=sample.region.copy(), around=sample.around.copy())
                watch.quiet.append(copied)
                watch.quiet_at = at
            if at - watch.quiet_from >= LEARN_AFTER and len(watch.quiet) == LEARN_FRAMES:
                self._learn(list(watch.quiet), bucket)

    def _learn(self, samples: list[_Sample], bucket: str) -> None:
        first = samples[0]
        if any(sample.shape != first.shape for sample in samples):
            raise ValueError("the pictures are not all of one size")
        if not first.weights.any():
            raise ValueError("the region lies outside these pictures")
        learned = _Reference(
            region=_median([sample.region for sample in samples]),
            around=_median([sample.around for sample in samples]),
            shape=first.shape,
        )
        scores = [self._compare(sample, learned) for sample in samples]
        learned.empty = (max(s[0] for s in scores), max(s[1] for s in scores))
        self._empty[bucket] = learned
        self._dirty = True
        self._odd_from = None
        self._wants_relearning = False
        self._watch.quiet.clear()

    def _keep_up(self, at: int, sample: _Sample, empty: _Reference, bucket: str) -> None:
        """A post that has been vacant and without motion for a minute is what empty looks like
        now: dust, seasons and the camera's ageing go into the reference, slowly."""
        if (
            self._told.state != "empty"
            or self._watch.taken_now
            or self._watch.vacant < BLEND_AFTER
            or self._watch.moved_within(at, BLEND_AFTER)
            or at - self._blended_at < BLEND_EVERY
            or sample.shift != (0, 0)
        ):
            return
        self._blended_at = at
        empty.blend(sample)
        kept = self._kept.get(bucket)
        if kept is None or float(np.abs(empty.region - kept.astype(np.float32)).mean()) > 2:
            self._dirty = True

    def _look_for_furniture(self, at: int, closed: bool, moved: bool, person: bool) -> None:
        if not closed or not self._watch.looks or moved or person:
            self._odd_from = None
            self._wants_relearning &= self._watch.looks
        elif self._odd_from is None:
            self._odd_from = at
        elif at - self._odd_from >= ODD_AFTER:
            self._wants_relearning = True


# --------------------------------------------------------------------------------------------
# What is kept of a picture
# --------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """Where a region lies in pictures of one size."""

    shape: tuple[int, ...]
    box: tuple[slice, slice]
    weights: Weights
    inside: Mask
    written: Grey
    """Not 0 where the masks are."""
    coarse: tuple[int, int]


class _Sample(NamedTuple):
    region: Grey
    around: Grey
    outside: Mask
    """Of ``around``: what belongs to no region."""
    weights: Weights
    shift: tuple[int, int]
    shape: tuple[int, ...]


class _Look(NamedTuple):
    at: int
    sample: _Sample
    differs: Mask | None
    """Where the region differs from the reference, if there is one."""
    contrast: float
    """Of the hall, 1 for a usual one or where it is not known."""


class _Comparison(NamedTuple):
    """The present region against that of the empty post."""

    difference: float
    structure: float
    differs: Mask
    contrast: float
    """Of the hall in the present light."""


class _Motion(NamedTuple):
    """Shares that changed: of the surroundings; of the region; of the region, where it differs
    from the reference before and after."""

    around: float
    anywhere: float
    within: float


@dataclass(slots=True)
class _Watch:
    """What was seen since the picture was last fit without a break."""

    before: _Look | None = None
    anchor: _Look | None = None
    looks: bool = False
    """Whether it does not look empty (D)."""
    moved: deque[int] = field(default_factory=lambda: deque(maxlen=2))
    present_from: int | None = None
    presents: int = 0
    judged: int | None = None
    taken_now: bool = False
    vacant: int = 0
    """For how long it has been vacant, less what passed by meanwhile; a minute at most."""
    vacant_from: int | None = None
    differs_from: int | None = None
    """Since when it has not been vacant long enough to count as empty."""
    seen: int | None = None
    """When it last did not look empty."""
    quiet: deque[_Sample] = field(default_factory=lambda: deque(maxlen=LEARN_FRAMES))
    quiet_from: int | None = None
    quiet_at: int = 0

    def motion(self, at: int, moved: bool) -> None:
        if moved:
            self.moved.append(at)
        if moved or self.quiet_from is None:
            self.quiet_from = at
            self.quiet.clear()

    def present(self, at: int, present: bool) -> None:
        """Whether somebody is there: it looks so and moves, or a detector says so."""
        if not present:
            self.present_from, self.presents = None, 0
            return
        if self.present_from is None:
            self.present_from = at
        self.presents += 1
        if self.arrived(at):
            self.vacant, self.vacant_from, self.seen = 0, None, at

    def taken(self, at: int, taken: bool) -> None:
        """Whether it does not look empty, to a detector or by the reference."""
        passed = 0 if self.judged is None else min(at - self.judged, VOUCHES)
        self.judged = at
        if not taken:
            if self.vacant_from is None:
                self.vacant_from = at
            elif not self.taken_now:
                self.vacant = min(BLEND_AFTER, self.vacant + passed)
        else:
            self.vacant = max(0, self.vacant - PASSING * passed)
            if self.vacant == 0:
                self.seen, self.vacant_from = at, None
            if self.differs_from is None:
                self.differs_from = at
        self.taken_now = taken
        if self.left():
            self.differs_from = None

    def left(self) -> bool:
        return self.vacant >= VACANT_AFTER and not self.taken_now

    def nothing_known(self) -> None:
        self.looks = self.taken_now = False
        self.vacant, self.judged = 0, None
        self.vacant_from = self.differs_from = self.seen = None

    def arrived(self, at: int) -> bool:
        begin = self.present_from
        return begin is not None and self.presents >= 2 and at - begin >= PRESENT_AFTER

    def still_for(self, at: int) -> int:
        """How long nothing has moved at a post that does not look empty."""
        if self.differs_from is None:
            return 0
        return at - max(self.differs_from, self.moved[-1] if self.moved else self.differs_from)

    def moved_within(self, at: int, within: int) -> bool:
        return bool(self.moved) and at - self.moved[-1] <= within

    def stirs(self, at: int) -> bool:
        return len(self.moved) == 2 and at - self.moved[0] <= STIRS_WITHIN


class _Reference:
    """The empty post in one light."""

    def __init__(
        self,
        region: Grey,
        around: Grey,
        shape: tuple[int, ...],
        floor: float = 0.0,
        empty: tuple[float, float] = (0.0, 0.0),
        occupied: tuple[float, float] | None = None,
    ) -> None:
        self.region, self.around, self.shape = region, around, shape
        self._region = region.astype(np.float32)
        self._around = around.astype(np.float32)
        self.floor, self.empty, self.occupied = floor, empty, occupied

    def fits(self, sample: _Sample) -> bool:
        return self.shape == sample.shape

    @property
    def contrast(self) -> float:
        """Of the hall when this was learned: 1 for a usual one, less in dim light or haze."""
        return float(self.around.std()) / USUAL_SPREAD

    def thresholds(self, person_share: float) -> tuple[float, float]:
        if self.occupied is None:
            return 0.25 * person_share, 0.35 * person_share
        between = [
            min(0.6, max(0.03, float(np.sqrt(max(0.03, low) * high))))
            for low, high in zip(self.empty, self.occupied, strict=True)
        ]
        return between[0], between[1]

    def blend(self, sample: _Sample) -> None:
        table, _ = _light(self.around, sample.around, sample.outside)
        expected = table[self.around]
        # Customers who wait for long are not the hall: where they stand, only the light counts.
        strange = np.abs(expected - sample.around) > STRANGE
        around = np.where(strange, expected, sample.around)
        self._region += BLEND * (sample.region - self._region)
        self._around += BLEND * (around - self._around)
        self.region = np.rint(self._region).astype(np.uint8)
        self.around = np.rint(self._around).astype(np.uint8)


class _Kept(Struct, array_like=True):
    shape: tuple[int, int]
    region: bytes
    around: bytes
    floor: float
    empty: tuple[float, float]
    occupied: tuple[float, float] | None


class _AllKept(Struct, array_like=True):
    version: int
    polygon: tuple[tuple[float, float], ...]
    buckets: dict[str, _Kept]


def _packed(references: dict[str, _Reference], options: PostOptions) -> bytes:
    buckets = {
        name: _Kept(
            (one.shape[0], one.shape[1]),
            one.region.tobytes(),
            one.around.tobytes(),
            one.floor,
            one.empty,
            one.occupied,
        )
        for name, one in references.items()
    }
    return zlib.compress(msgspec.msgpack.encode(_AllKept(1, options.region, buckets)), 9)


def _unpacked(blob: bytes, options: PostOptions) -> dict[str, _Reference]:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(blob, LARGEST)
        kept = msgspec.msgpack.decode(plain, type=_AllKept)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError("the kept references of the post are damaged") from problem
    if kept.version != 1 or not unpacker.eof:
        raise ValueError("the kept references of the post are damaged")
    if kept.polygon != options.region:
        raise ValueError("the kept references belong to another region of the picture")
    found = {}
    for name, one in kept.buckets.items():
        if not all(1 <= side <= 4096 for side in one.shape):
            raise ValueError("the kept references of the post are damaged")
        frame = _frame(options.region, one.shape)
        region = frame.weights.shape
        across, down = frame.coarse
        numbers = (one.floor, *one.empty, *(one.occupied or ()))
        if (
            len(one.region) != region[0] * region[1]
            or len(one.around) != across * down
            or not all(0 <= number <= 1 for number in numbers)
        ):
            raise ValueError("the kept references of the post are damaged")
        found[name] = _Reference(
            np.frombuffer(one.region, np.uint8).reshape(region),
            np.frombuffer(one.around, np.uint8).reshape(down, across),
            one.shape,
            one.floor,
            one.empty,
            one.occupied,
        )
    return found


# --------------------------------------------------------------------------------------------
# Arithmetic
# --------------------------------------------------------------------------------------------


def _problem(picture: Watched) -> str:
    """Why nothing can be said; empty if the picture is fit."""
    for fault in picture.faults:
        if fault != "moved":
            return f"the picture is {fault.replace('_', ' ')}"
    if picture.roi_shift is None:
        return "the picture has moved"
    if not picture.known:
        return "the picture is not known yet"
    return ""


def _usable(frames: Sequence[Grey]) -> Sequence[Grey]:
    if len(frames) < 3:
        raise ValueError("at least 3 pictures are needed")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError("the pictures are not all of one size")
    return frames


def _area(polygon: Sequence[tuple[float, float]]) -> float:
    """Of a polygon that does not cross itself."""
    following = [*polygon[1:], polygon[0]]
    twice = sum(
        x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(polygon, following, strict=True)
    )
    return abs(twice) / 2


def _frame(
    polygon: Sequence[tuple[float, float]],
    shape: tuple[int, ...],
    masks: Sequence[tuple[float, float, float, float]] = (),
) -> _Frame:
    height, width = shape[0], shape[1]
    corners = np.rint(np.array(polygon) * (width - 1, height - 1)).astype(np.int32)
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(inside, [corners], (1,))
    left, top = np.maximum(corners.min(axis=0) - RIM, 0)
    right, bottom = corners.max(axis=0) + 1 + RIM
    box = (slice(int(top), int(min(bottom, height))), slice(int(left), int(min(right, width))))
    # The picture's own edge is no rim: nobody leans in from there.
    depth = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), dtype=np.float32)
    deepest = float(depth.max())
    weights = np.minimum(1.0, depth / max(1.0, 0.6 * deepest)).astype(np.float32)
    written = np.zeros((height, width), dtype=np.uint8)
    for x0, y0, x1, y1 in masks:
        rows = slice(max(0, int(y0 * height) - SMEAR), int(np.ceil(y1 * height)) + SMEAR)
        columns = slice(max(0, int(x0 * width) - SMEAR), int(np.ceil(x1 * width)) + SMEAR)
        written[rows, columns] = 1
    coarse = (max(1, width // COARSE), max(1, height // COARSE))
    return _Frame(shape, box, weights[box], inside > 0, written, coarse)


def _light(then: Grey, now: Grey, outside: Mask) -> tuple[NDArray[np.float32], float]:
    """How the light is: 256 present grey levels for those of ``then``, and the contrast's gain."""
    before, after = then[outside], now[outside]
    levels, medians = [], []
    if before.size >= 32:
        # One sort by bin and present level instead of sixteen medians: a third of the time.
        bins = before >> 4
        ordered = np.sort((bins.astype(np.uint16) << 8) | after, kind="stable")
        counts = np.bincount(bins, minlength=16)
        sums = np.bincount(bins, weights=before, minlength=16)
        least = max(6, before.size // 400)
        for count, total, end in zip(counts, sums, np.cumsum(counts), strict=True):
            if count >= least:
                first = end - count
                middle = ordered[[first + (count - 1) // 2, first + count // 2]] & 255
                levels.append(float(total / count))
                medians.append(float(middle.mean()))
    whole = np.arange(256, dtype=np.float32)
    if not levels:
        return whole, 1.0
    rising = np.maximum.accumulate(np.array(medians))
    gain = 1.0
    if levels[-1] - levels[0] >= 24:
        gain = float(np.clip((rising[-1] - rising[0]) / (levels[-1] - levels[0]), 0.1, 3.0))
    table = np.interp(whole, levels, rising)
    below, above = whole < levels[0], whole > levels[-1]
    table[below] = rising[0] - gain * (levels[0] - whole[below])
    table[above] = rising[-1] + gain * (whole[above] - levels[-1])
    return np.clip(table, 0, 255).astype(np.float32), gain


def _alike(then: Grey, now: Grey, outside: Mask) -> float:
    """Mean cosine between the edges of the one and those of the other, at the former's."""
    across_then, down_then = _gradient(_blurred(then))
    across, down = _gradient(_blurred(now))
    steep = np.hypot(across_then, down_then)
    if np.count_nonzero(outside) < 32:
        return 0.0
    edges = outside & (steep > max(8.0, float(np.percentile(steep[outside], 80))))
    if np.count_nonzero(edges) < 32:
        return 0.0
    both = steep * np.hypot(across, down)
    common = across * across_then + down * down_then
    return float((common[edges] / np.maximum(both[edges], 1e-3)).mean())


def _blurred(picture: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (3, 3), 0), dtype=np.float32)


def _gradient(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    across = cv2.Sobel(picture, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(picture, cv2.CV_32F, 0, 1)
    return np.asarray(across, dtype=np.float32), np.asarray(down, dtype=np.float32)


def _box(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(energy, (5, 5)), dtype=np.float32)


_AROUND = np.ones((3, 3), dtype=np.uint8)
"""The outermost pixels of what is there mix with what passes behind it."""

_GRAIN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)


def _grain(picture: Grey) -> float:
    """The noise's standard deviation, by what is left of neither planes nor edges."""
    rest = np.abs(np.asarray(cv2.filter2D(picture, cv2.CV_32F, _GRAIN)))
    return float(np.median(rest)) / (6 * 0.6745)


def _median(pictures: list[Grey]) -> Grey:
    return _u8(np.rint(np.median(np.stack(pictures), axis=0)))


def _u8(picture: Any) -> Grey:
    return np.asarray(picture, dtype=np.uint8)
