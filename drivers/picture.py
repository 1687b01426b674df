"""Camera picture health 画面: black, frozen, covered, knocked aside, out of focus, too dark.

Pure arithmetic on pictures ``WIDTH`` pixels wide in grey; no clock, no files.  What is measured of
each picture, and from when on it counts as evidence against it::

    fault           evidence                                                  raised    cleared
    black           brightness < 24, spread < 3, the brightest 3 % left out   10 s      4 s
    frozen          share of pixels that differ by > 2 from a picture at      30 s      2 pictures
                    least 1 s older: < 0.015, or 0.4 of what is usual here;
                    a live picture in between makes it begin anew
    covered         three tiles of four keep < 1 tenth of their edges,         8 s       8 s
                    and the coarse picture is another one
    moved           the edges fit better elsewhere: at zero < 0.2,            60 s      60 s, > 0.3
                    at their best displacement >= 0.3
    view_changed    they fit nowhere                                          60 s      60 s, > 0.3
    partly_covered  share of tiles whose edges are gone, nothing moving       60 s      60 s, < 0.3
                    there: > 0.45
    blurred         fineness of the edges that are there < 0.4 of usual       60 s      60 s, > 0.6
    dark            brightness < 30 and not black                             60 s      4 s

Every verdict needs three pictures at least; the times do not depend on how often one comes.

What is usual is learned from healthy pictures of the first two minutes, for bright and for dim
light apart (``bucket``), and then follows slowly.  Edges (where, and which way they point) hardly
depend on light; that is why nearly everything hangs on them, and why a camera before a bare wall,
or one whose scene never looks the same twice, has only the first two checks and ``dark``.

The recorder's text needs no mask as a rule: it is small.  Masks are for large or lively ones.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rules.model import PICTURE_FAULTS

WIDTH = 320
"""Everything is measured at this width."""

_TALLEST = 640
"""Pixels; what is taller is squeezed, so that no picture costs more than four usual ones."""

Grey = NDArray[np.uint8]
Field = NDArray[np.float32]
_Indices = NDArray[np.intp]

_BLACK_AFTER = 10
_FEWEST = 3
"""Pictures before anything is said."""
_SPACING = 950
"""Milliseconds between two pictures that are compared: neighbours may be identical in a live
stream."""
_GAP, _LONGEST_GAP = 60_000, 120_000
"""Milliseconds without a picture after which pending evidence is stale; the latter where pictures
come seldom."""
_HOLD = 10_000
_LONGEST_HOLD = 60_000
"""Milliseconds; lights that flicker for ever do not suspend judgement for ever."""

_TILES = (8, 5)
_EDGE_FLOOR = 5.0
"""Grey levels per pixel; sensor noise stays below it after smoothing."""
_EDGE_SHARE = 90
"""Percentile of steepness above which a pixel of the reference is an edge."""
_POOR = 0.012
"""Share of edge pixels below which a scene has nothing to go by."""
_REACH = 0.35
"""Share of width and height within which a displaced picture is looked for."""
_AT_ZERO = 2
"""Pixels that count as no displacement: vibration."""

_LEARN_FRAMES = 15
_LEARN_EVERY = 8_000
_LEARN_SPAN = 120_000
_REFRESH_EVERY = 60_000
_REFRESH = 0.02
_KEEP_EVERY = 6 * 3_600_000
"""Milliseconds of slow refreshing after which what was learned is worth keeping anew."""
_LARGEST = 200_000

_STABLE = 600_000
_COMPENSATED = 0.08
"""Share of the width up to which a displacement that stays is compensated for."""

_CHANGED, _STEP = 2, 12
"""Grey levels: a pixel differs; it differs by more than noise."""
_SAME = 0.01
"""Share of pixels that differ at all: a still picture with the recorder's clock on it."""
_REENCODED = 0.1
"""Share of pixels that differ at all in a still picture that is encoded again and again; in a live
one that is merely calm, the sensor's noise reaches more."""
_SETTLES = 10_000
"""Milliseconds in which an encoder goes on to refine a picture that stands still, once."""
_LEAST_CALM = 0.001
"""Where less than this moves, only a picture that is the same is told from a frozen one."""
_LOOK_EVERY = 10_000
_TWICE, _LATELY = 1_500, 12_000
"""Milliseconds: what moves again after the first is busy for the second."""
_AWAY = 4_000
"""Milliseconds out of place before regions are no longer trusted."""


def shrink(luma: NDArray[np.uint8]) -> Grey:
    """The picture at ``WIDTH``, its height by its proportions."""
    height, width = luma.shape[:2]
    tall = min(_TALLEST, max(24, round(height * WIDTH / max(1, width))))
    if (tall, WIDTH) == (height, width):
        return luma
    return np.asarray(cv2.resize(luma, (WIDTH, tall), interpolation=cv2.INTER_AREA), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """How long evidence must last, in seconds; ``ignore``: faults that are not told (a camera on
    a preset tour: ``moved``, ``view_changed``); ``masks``: rectangles x0, y0, x1, y1 in 0..1 that
    are not looked at."""

    frozen_after: float = 30.0
    covered_after: float = 8.0
    blurred_after: float = 60.0
    moved_after: float = 60.0
    dark_after: float = 60.0
    ignore: tuple[str, ...] = ()
    masks: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("frozen", "covered", "blurred", "moved", "dark"):
            seconds = getattr(self, f"{name}_after")
            if not 1 <= seconds <= 86_400:
                raise ValueError(f"{name}_after is {seconds}: expected 1 to 86400 seconds")
        for name in self.ignore:
            if name not in PICTURE_FAULTS:
                raise ValueError(
                    f"ignore names {name!r}: expected one of {', '.join(PICTURE_FAULTS)}"
                )
        for mask in self.masks:
            x0, y0, x1, y1 = mask
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(
                    f"mask {list(mask)}: expected left, top, right, bottom as shares of 0 to 1"
                )
        if self.masks and np.count_nonzero(_unmasked((180, WIDTH), self.masks)) < 180 * WIDTH / 4:
            raise ValueError("the masks hide more than three quarters of the picture")


class PictureState(NamedTuple):
    """What is to be said of the picture now.

    ``known`` is false while there is nothing to compare with.  ``faults``: gravest first.
    ``since``: when the present ``known`` and ``faults`` began.  ``shift``: displacement of a moved
    picture in percent of the width, right and down.  ``roi_shift``: by how many pixels regions are
    displaced, none where they cannot be trusted.  ``held``: the light has just changed everywhere:
    decide nothing.  ``bucket``: ``day`` or ``night``.  ``measures``: figures for live health, those
    that could be taken.  ``suspected``: what this one picture speaks for.
    """

    known: bool
    faults: tuple[str, ...]
    since: int
    shift: tuple[float, float] | None
    roi_shift: tuple[int, int] | None
    held: bool
    bucket: str
    measures: dict[str, float]
    suspected: tuple[str, ...]


# --------------------------------------------------------------------------------------------
# Measures of one picture
# --------------------------------------------------------------------------------------------


class _Tone(NamedTuple):
    brightness: float
    spread: float
    black: bool


_LEVELS = np.arange(256, dtype=np.float64)


def _tone(small: Grey, unmasked: Grey | None) -> _Tone:
    counts = cv2.calcHist([small], [0], unmasked, [256], [0, 256]).ravel().astype(np.float64)
    brightness, spread = _moments(counts)
    # The recorder's text on a black picture is the brightest of it.
    lit = np.cumsum(counts[::-1])[::-1]
    rest = np.where(lit <= 0.03 * lit[0], 0.0, counts)
    mean, deviation = _moments(rest)
    return _Tone(brightness, spread, mean < 24 and deviation < 3)


def _moments(counts: NDArray[np.float64]) -> tuple[float, float]:
    total = max(1.0, float(counts.sum()))
    mean = float(counts @ _LEVELS) / total
    return mean, float(np.sqrt(max(0.0, float(counts @ (_LEVELS - mean) ** 2) / total)))


class _Change(NamedTuple):
    at_all: float
    share: float
    steps: float
    tiles: Field


def _change(small: Grey, earlier: Grey, unmasked: Grey | None, area: int) -> _Change:
    difference = cv2.absdiff(small, earlier)
    if unmasked is not None:
        difference = cv2.bitwise_and(difference, unmasked)
    steps = np.asarray(difference > _STEP, dtype=np.float32)
    return _Change(
        cv2.countNonZero(difference) / area,
        int(np.count_nonzero(difference > _CHANGED)) / area,
        float(steps.sum()) / area,
        _by_tile(steps),
    )


def _by_tile(values: Field) -> Field:
    return np.asarray(cv2.resize(values, _TILES, interpolation=cv2.INTER_AREA), dtype=np.float32)


class _Slopes(NamedTuple):
    """Gradient of the smoothed picture, and how steep it is."""

    x: Field
    y: Field
    steep: Field


def _slopes(small: Grey, unmasked: Grey | None) -> _Slopes:
    smooth = cv2.GaussianBlur(small, (5, 5), 1.0)
    x = np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.25), dtype=np.float32)
    y = np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.25), dtype=np.float32)
    steep = np.asarray(cv2.magnitude(x, y), dtype=np.float32)
    if unmasked is not None:
        steep[unmasked == 0] = 0.0
    return _Slopes(x, y, steep)


def _spectrum(slopes: _Slopes, threshold: float) -> Field:
    """Spectrum of the directions of the edges, right as the real part, down as the imaginary."""
    unit = np.where(slopes.steep > threshold, 1.0 / np.maximum(slopes.steep, 1e-3), 0.0)
    directions = np.dstack([slopes.x * unit, slopes.y * unit]).astype(np.float32)
    return np.asarray(cv2.dft(directions, flags=cv2.DFT_COMPLEX_OUTPUT), dtype=np.float32)


def _coarse(small: NDArray[np.uint8]) -> Field:
    thumbnail = cv2.resize(small, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(thumbnail - thumbnail.mean(), dtype=np.float32)


def _alike(one: Field, other: Field) -> float:
    both = float(np.sqrt(float((one * one).sum()) * float((other * other).sum())))
    return float((one * other).sum()) / both if both > 1 else 0.0


class _Fit(NamedTuple):
    """How the edges of a picture fit those of the reference."""

    agreement: float
    """At no displacement, where nothing moves: 1 the same."""
    quiet: float
    """Share of the reference's edges where nothing moves."""
    lost: float
    """Share of tiles whose edges are gone."""
    bare: float
    """Share of tiles whose edges are gone, without others in their place or anything moving."""
    replaced: float
    """Share of tiles that have other edges instead, and where nothing moves."""
    left: float
    """Three tiles of four have no more of their edges left than this."""
    fineness: float | None
    """Steepness of the edges that are still there, over the picture's contrast."""


class _Reference:
    """What the picture usually is, in one kind of light, and what follows from it."""

    def __init__(self, picture: Field, unmasked: Grey | None) -> None:
        self.picture = picture
        self.fineness = 0.0
        self.calm: float | None = None
        """1st percentile of the share of pixels that differ from a picture a second older."""
        self.agreement = 1.0
        """Least agreement seen when it was learned."""
        self.lost = 0.0
        """95th percentile of the share of lost tiles."""
        self._unmasked = unmasked
        self.derive()

    def derive(self) -> None:
        small = np.clip(np.rint(self.picture), 0, 255).astype(np.uint8)
        slopes = _slopes(small, self._unmasked)
        steep = slopes.steep
        self.threshold = max(_EDGE_FLOOR, float(np.percentile(steep, _EDGE_SHARE)))
        self.at: _Indices = np.flatnonzero(steep > self.threshold)
        steepness = np.maximum(steep.ravel()[self.at], 1e-3)
        self.x = slopes.x.ravel()[self.at] / steepness
        self.y = slopes.y.ravel()[self.at] / steepness
        self.spread = float(small.std())
        self.spectrum = _spectrum(slopes, self.threshold)
        self.coarse = _coarse(small)
        height, width = small.shape
        rows, columns = self.at // width, self.at % width
        self.tile = (rows * _TILES[1] // height) * _TILES[0] + columns * _TILES[0] // width
        self.per_tile = np.bincount(self.tile, minlength=_TILES[0] * _TILES[1])
        self.usable = self.per_tile >= 0.015 * small.size / (_TILES[0] * _TILES[1])
        self.strong = _by_tile((steep > self.threshold).astype(np.float32)).ravel()
        flat = np.flatnonzero(steep < 0.5 * self.threshold)
        self.flat: _Indices = flat[:: max(1, flat.size // 1500)]

    def refresh(self, small: Grey, fit: _Fit) -> None:
        """Moves a little towards a healthy picture."""
        self.picture += np.float32(_REFRESH) * (small - self.picture)
        if fit.fineness is not None:
            self.fineness += _REFRESH * (fit.fineness - self.fineness)
        self.lost = max(0.0, self.lost + (0.019 if fit.lost > self.lost else -0.001))
        self.derive()

    @property
    def rich(self) -> bool:
        """Enough edges, in enough places, to tell anything by them."""
        return self.at.size >= _POOR * self.picture.size and int(self.usable.sum()) >= 12

    @property
    def steady(self) -> bool:
        return self.rich and self.agreement >= 0.3

    def fit(self, small: Grey, slopes: _Slopes, spread: float, busy: NDArray[np.bool_]) -> _Fit:
        """``busy``: the tiles where something moves."""
        threshold = self.steepness(spread)
        steep = slopes.steep.ravel()[self.at]
        along = slopes.x.ravel()[self.at] * self.x + slopes.y.ravel()[self.at] * self.y
        there = steep > 0.5 * threshold
        kept = there & (along > 0.75 * steep)
        tiles = self.per_tile.size
        calm = ~busy[self.tile]
        cosine = np.where(there & calm, along / np.maximum(steep, 1e-3), 0.0)
        quiet = int(calm.sum())
        kept_of_tile = np.bincount(self.tile, weights=kept, minlength=tiles)
        gone = self.usable & (kept_of_tile < 0.3 * self.per_tile)
        usable = max(1, int(self.usable.sum()))
        now = _by_tile((slopes.steep > threshold).astype(np.float32)).ravel()
        bare = now < 0.5 * self.strong
        left = now[self.usable] / self.strong[self.usable]
        return _Fit(
            float(cosine.sum()) / max(1, quiet),
            quiet / max(1, self.at.size),
            int(gone.sum()) / usable,
            int((gone & ~busy & bare).sum()) / usable,
            int((gone & ~busy & ~bare).sum()) / usable,
            float(np.percentile(left, 75)) if left.size else 1.0,
            self._fineness(small, kept, spread),
        )

    def steepness(self, spread: float) -> float:
        """What counts as an edge in a picture of this contrast."""
        contrast = min(1.0, max(0.3, spread / max(1.0, self.spread)))
        return max(_EDGE_FLOOR, self.threshold * contrast)

    def _fineness(self, small: Grey, kept: NDArray[np.bool_], spread: float) -> float | None:
        if int(kept.sum()) < max(50, 0.15 * self.at.size) or self.flat.size < 200:
            return None
        curved = np.asarray(cv2.Laplacian(small, cv2.CV_16S), dtype=np.int16).ravel()
        # Medians: the recorder's text stays sharp.  Noise adds the same everywhere, and what flat
        # places have is noise alone.
        at_edges = float(np.median(np.abs(curved[self.at[kept]])))
        noise = float(np.median(np.abs(curved[self.flat])))
        return float(np.sqrt(max(0.0, at_edges**2 - noise**2))) / max(1.0, spread)

    def displaced(self, slopes: _Slopes, spread: float) -> tuple[float, float, int, int]:
        """Agreement at no displacement, the best at any, and that displacement, right and down."""
        found = _spectrum(slopes, 0.5 * self.steepness(spread))
        product = cv2.mulSpectrums(found, self.spectrum, 0, conjB=True)
        fits = cv2.idft(product, flags=cv2.DFT_SCALE)[:, :, 0]
        height, width = fits.shape
        down = np.arange(-round(_REACH * height), round(_REACH * height) + 1)
        right = np.arange(-round(_REACH * width), round(_REACH * width) + 1)
        within = np.asarray(fits[np.ix_(down % height, right % width)], dtype=np.float32)
        within = within / np.float32(max(1, self.at.size))
        row, column = divmod(int(within.argmax()), right.size)
        middle = within[
            down.size // 2 - _AT_ZERO : down.size // 2 + _AT_ZERO + 1,
            right.size // 2 - _AT_ZERO : right.size // 2 + _AT_ZERO + 1,
        ]
        return float(middle.max()), float(within.max()), int(right[column]), int(down[row])


def _learn(frames: Sequence[Grey], unmasked: Grey | None) -> _Reference:
    """The reference that these healthy pictures of some minutes make."""
    middle = np.median(np.stack(frames), axis=0).astype(np.float32)
    reference = _Reference(middle, unmasked)
    nowhere = np.zeros(_TILES[0] * _TILES[1], dtype=bool)
    fits = [
        reference.fit(f, _slopes(f, unmasked), _tone(f, unmasked).spread, nowhere) for f in frames
    ]
    fine = [fit.fineness for fit in fits if fit.fineness is not None]
    reference.fineness = float(np.median(fine)) if fine else 0.0
    reference.agreement = min(fit.agreement for fit in fits)
    reference.lost = float(np.percentile([fit.lost for fit in fits], 95))
    return reference


def _unmasked(shape: tuple[int, int], masks: Iterable[tuple[float, float, float, float]]) -> Grey:
    height, width = shape
    seen = np.full(shape, 255, dtype=np.uint8)
    for x0, y0, x1, y1 in masks:
        rows = slice(int(y0 * height), int(np.ceil(y1 * height)))
        seen[rows, int(x0 * width) : int(np.ceil(x1 * width))] = 0
    return seen


# --------------------------------------------------------------------------------------------
# What is kept over restarts
# --------------------------------------------------------------------------------------------


class _Kept(Struct, array_like=True, frozen=True):
    bucket: str
    height: int
    pixels: bytes
    fineness: float
    calm: float | None
    agreement: float
    lost: float


def _packed(picture: Field, step: int) -> bytes:
    """The picture in levels of ``step``, each row as differences."""
    levels = np.clip(np.rint(picture), 0, 255).astype(np.uint8) // step * step + step // 2
    levels[:, 1:] = np.diff(levels, axis=1)
    return zlib.compress(levels.tobytes(), 6)


def _unpacked(pixels: bytes, height: int) -> Field:
    size = height * WIDTH
    raw = zlib.decompressobj().decompress(pixels, size + 1)
    if not 24 <= height <= _TALLEST or len(raw) != size:
        raise ValueError(f"a picture of {len(raw)} bytes: expected {height} rows of {WIDTH}")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, WIDTH)
    return np.cumsum(rows, axis=1, dtype=np.uint8).astype(np.float32)


def _restored(blob: bytes) -> list[_Kept]:
    if not 8 <= len(blob) <= _LARGEST:
        raise ValueError(f"{len(blob)} bytes are no kept picture: expected up to {_LARGEST}")
    if zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "big"):
        raise ValueError("the kept picture's check sum is wrong")
    try:
        kept = msgspec.msgpack.decode(blob[4:], type=list[_Kept])
    except msgspec.MsgspecError as problem:
        raise ValueError(f"the kept picture cannot be read: {problem}") from None
    if [k.bucket for k in kept] not in (["day"], ["night"], ["day", "night"]):
        raise ValueError("the kept picture is of no known kind of light")
    if len({k.height for k in kept}) != 1:
        raise ValueError("the kept pictures are of different sizes")
    return kept


# --------------------------------------------------------------------------------------------
# From evidence to verdicts
# --------------------------------------------------------------------------------------------


class _Verdict:
    """One fault: raised and cleared when the evidence lasts.  Evidence is true, false or none;
    it may be interrupted for a sixth of the time it must last.  ``unbroken``: until it is raised,
    evidence against it makes it begin anew, but for one picture soon after it began."""

    def __init__(
        self,
        after: float,
        clear_after: float,
        clear_samples: int = _FEWEST,
        unbroken: bool = False,
    ) -> None:
        self.raised = False
        self._after = (round(after * 1000), round(clear_after * 1000))
        self._samples = (_FEWEST, clear_samples)
        self._unbroken = unbroken
        self.forget()

    def forget(self) -> None:
        self._first = self._last = 0
        self._count = 0
        self._excused = False

    def weigh(self, at: int, evidence: bool | None, began: int, held: bool) -> int | None:
        """Takes one picture's evidence; answers when it began, if the verdict changes with it."""
        after = self._after[self.raised]
        if self._unbroken and self._count and evidence is False and not self.raised:
            if self._excused or at - self._first > _SETTLES:
                self.forget()
            self._excused = self._count > 0
            return None
        if evidence is None or evidence is self.raised:
            if self._count and at - self._last > after / 6:
                self.forget()
            return None
        if not self._count:
            self._first = began
        self._count += 1
        self._last = at
        if held or self._count < self._samples[self.raised] or at - self._first < after:
            return None
        self.raised = not self.raised
        first = self._first
        self.forget()
        return first


class Pace:
    """How far apart pictures come, and whether that was interrupted: by ``least`` milliseconds, by
    ``most``, and in between by three times the largest of the last five spacings.  Smart encoders
    send key frames at irregular times."""

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least, self._most = least, most
        self._spacings: deque[int] = deque(maxlen=5)
        self._interrupted = False

    def broken(self, passed: int) -> bool:
        """Whether the pictures on both sides of this spacing have nothing to do with each other."""
        allowed = max(self._least, 3 * max(self._spacings, default=0))
        interrupted = passed > (allowed if self._most is None else min(self._most, allowed))
        if interrupted and not self._interrupted:
            # One long spacing is an interruption, two are how they come.
            self._spacings.clear()
        else:
            self._spacings.append(passed)
        self._interrupted = interrupted
        return interrupted


class _Sample(NamedTuple):
    at: int
    small: Grey


class PictureWatch:
    """Judges one camera's pictures, one after the other.

    ``reference``: what an earlier watch learned; raises ValueError if it is none.  ``dirty``:
    ``reference()`` has something new since it was last taken.
    """

    def __init__(self, options: PictureOptions, reference: bytes | None = None) -> None:
        self.dirty = False
        self._options = options
        self._references: dict[str, _Reference] = {}
        self._height = 0
        self._unmasked: Grey | None = None
        self._area = 1
        self._verdicts = {
            "black": _Verdict(_BLACK_AFTER, 4),
            "frozen": _Verdict(options.frozen_after, 0, 2, unbroken=True),
            "covered": _Verdict(options.covered_after, 8),
            "moved": _Verdict(options.moved_after, 60),
            "view_changed": _Verdict(options.moved_after, 60),
            "partly_covered": _Verdict(60, 60),
            "blurred": _Verdict(options.blurred_after, 60),
            "dark": _Verdict(options.dark_after, 4),
        }
        self._bucket = ""
        self._known = self._told = False
        self._since = 0
        self._pace = Pace(_GAP, _LONGEST_GAP)
        self._begin()
        if reference is not None:
            for kept in _restored(reference):
                try:
                    picture = _unpacked(kept.pixels, kept.height)
                except zlib.error as problem:
                    raise ValueError(f"the kept picture cannot be read: {problem}") from None
                self._fit_to(kept.height)
                restored = _Reference(picture, self._unmasked)
                restored.fineness, restored.calm = kept.fineness, kept.calm
                restored.agreement, restored.lost = kept.agreement, kept.lost
                self._references[kept.bucket] = restored

    def reference(self) -> bytes | None:
        """Everything learned, in at most 200 kB; nothing before anything was."""
        self.dirty = False
        if not self._references:
            return None
        for step in (1, 2, 4, 8, 16, 32, 64):
            kept = [
                _Kept(
                    bucket,
                    self._height,
                    _packed(learned.picture, step),
                    learned.fineness,
                    learned.calm,
                    learned.agreement,
                    learned.lost,
                )
                for bucket, learned in sorted(self._references.items())
            ]
            body = msgspec.msgpack.encode(kept)
            if len(body) + 4 <= _LARGEST:
                break
        return zlib.crc32(body).to_bytes(4, "big") + body

    def adopt(self, frames: Sequence[NDArray[np.uint8]], bucket: str) -> None:
        """These healthy pictures of half a minute show what the camera sees from now on; what was
        learned of another view, in whatever light, is forgotten.  Raises ``ValueError`` if they are
        of no use."""
        if len(frames) < 3 or any(frame.shape != frames[0].shape for frame in frames):
            raise ValueError("at least 3 pictures of one size are needed")
        smalls = [shrink(frame) for frame in frames]
        self._begin()
        self._fit_to(smalls[0].shape[0])
        self._references = {bucket: _learn(smalls, self._unmasked)}
        self.dirty = True

    def see(self, at: int, small: NDArray[np.uint8]) -> PictureState:
        """Judges the picture taken at ``at`` (milliseconds that only grow)."""
        small = self._fitted(small)
        if self._recent and self._pace.broken(at - self._recent[-1].at):
            self._begin()
        self._samples += 1
        tone = _tone(small, self._unmasked)
        earlier = next((s for s in reversed(self._recent) if at - s.at >= _SPACING), None)
        change = earlier and _change(small, earlier.small, self._unmasked, self._area)
        self._recent.append(_Sample(at, small))
        while len(self._recent) > 2 and at - self._recent[1].at >= _SPACING:
            self._recent.popleft()
        held = self._hold(at, change)
        if change:
            moved = change.tiles.ravel() > 0.06
            moved &= at - self._moved_last >= _TWICE
            self._moved_before[moved] = self._moved_last[moved]
            self._moved_last[moved] = at
        measures = {"brightness": round(tone.brightness, 1)}
        if change:
            measures["change_share"] = round(change.share, 4)

        evidence: dict[str, bool | None] = dict.fromkeys(PICTURE_FAULTS)
        evidence["black"] = tone.black
        evidence["dark"] = tone.brightness < 30 and not tone.black
        if change and not tone.black:
            evidence["frozen"] = self._is_frozen(change, bool(evidence["dark"]))
        slopes: _Slopes | None = None
        fit: _Fit | None = None
        if not tone.black and not evidence["dark"]:
            slopes = _slopes(small, self._unmasked)
            fit = self._compare(at, small, slopes, tone, evidence, measures)
        covered = bool(evidence["covered"])
        self._choose_bucket(at, small, slopes, tone, fit, held, covered)
        state = self._judge(at, earlier, evidence, held, measures)
        if not held and change and change.at_all >= _SAME and not any(evidence.values()):
            self._keep_learning(at, small, change, fit)
        return state

    # The steps of ``see``, in their order.

    def _begin(self) -> None:
        """Nothing of what was seen before counts; what was learned and said stays."""
        self._recent: deque[_Sample] = deque()
        self._samples = 0
        self._hold_from: int | None = None
        self._step_at: int | None = None
        self._away_since: int | None = None
        self._other_since: int | None = None
        self._looked_at: int | None = None
        self._kept_at: int | None = None
        self._stable: tuple[int, int, int] | None = None
        self._moved_last = np.full(_TILES[0] * _TILES[1], -_GAP, dtype=np.int64)
        self._moved_before = self._moved_last.copy()
        for verdict in self._verdicts.values():
            verdict.forget()
        self._forget_lesson()

    def _forget_lesson(self) -> None:
        self._frames: list[Grey] = []
        self._frames_at: list[int] = []
        self._shares: deque[tuple[int, float]] | None = None
        self._refreshed: int | None = None

    def _fitted(self, small: NDArray[np.uint8]) -> Grey:
        small = shrink(small)
        if abs(small.shape[0] - self._height) <= 2 and small.shape[0] != self._height:
            # 1088 rows for 1080 and the like: the same picture.
            size = (WIDTH, self._height)
            small = np.asarray(
                cv2.resize(small, size, interpolation=cv2.INTER_AREA), dtype=np.uint8
            )
        if small.shape[0] != self._height:
            self._references.clear()
            self._begin()
            for name in ("covered", "moved", "view_changed", "partly_covered", "blurred"):
                # What they were told by is gone.
                self._verdicts[name].raised = False
            self._fit_to(small.shape[0])
        return small

    def _fit_to(self, height: int) -> None:
        self._height = height
        self._area = height * WIDTH
        self._unmasked = None
        if self._options.masks:
            self._unmasked = _unmasked((height, WIDTH), self._options.masks)
            self._area = max(1, int(np.count_nonzero(self._unmasked)))

    def _hold(self, at: int, change: _Change | None) -> bool:
        if change and change.steps > 0.7:
            if self._step_at is None or at - self._step_at >= _HOLD:
                self._hold_from = at
            self._step_at = at
            self._shares = deque(maxlen=400)
        if self._step_at is None or self._hold_from is None:
            return False
        return at - self._step_at < _HOLD and at - self._hold_from < _LONGEST_HOLD

    def _busy(self, at: int) -> NDArray[np.bool_]:
        """Tiles where something keeps moving: not those that changed once and for all."""
        return np.asarray(at - self._moved_before <= _LATELY)

    def _is_frozen(self, change: _Change, dark: bool) -> bool | None:
        learned = self._references.get(self._bucket)
        calm = learned.calm if learned and self._shares is None else None
        if calm is None and dark:
            # Strong noise reduction leaves nothing that moves in a dark, empty hall.
            return None
        if change.at_all < _SAME:
            return True
        if int((change.tiles > 0.005).sum()) > 2:
            # More than a clock moves.
            return False
        if calm is None or calm < _LEAST_CALM or change.at_all >= _REENCODED:
            return False
        return change.share < min(0.015, 0.4 * calm)

    def _compare(
        self,
        at: int,
        small: Grey,
        slopes: _Slopes,
        tone: _Tone,
        evidence: dict[str, bool | None],
        measures: dict[str, float],
    ) -> _Fit | None:
        """What the edges tell, put into ``evidence`` and ``measures``."""
        own = self._references.get(self._bucket)
        reference = own or next(iter(self._references.values()), None)
        if reference is None or not reference.rich:
            return None
        fit = reference.fit(small, slopes, tone.spread, self._busy(at))
        measures["edges_left"] = round(fit.left, 3)
        measures["tiles_lost"] = round(fit.lost, 3)
        alike = _alike(_coarse(small), reference.coarse) if fit.left < 0.5 else 0.0
        evidence["covered"] = True if fit.left < 0.1 and alike < 0.6 else None
        if fit.left >= 0.25:
            evidence["covered"] = False
        if evidence["covered"]:
            return fit

        agreement = fit.agreement
        off = None
        if (
            agreement < min(0.8, reference.agreement - 0.1)
            or fit.lost > reference.lost + 0.1
            or self._looked_at is None
            or at - self._looked_at >= _LOOK_EVERY
            or self._verdicts["moved"].raised
        ):
            off = reference.displaced(slopes, tone.spread)
            self._looked_at = at
            agreement = max(agreement, off[0])
        measures["edge_agreement"] = round(agreement, 3)
        if fit.left < 0.5 and alike >= 0.75:
            # So far out of focus that its edges fit nothing.
            evidence["blurred"] = True
            return fit

        if off and self._is_displaced(agreement, *off[1:]):
            evidence["moved"], evidence["view_changed"] = True, False
            self._displacement(at, *off[2:])
            measures["shift_px"] = round(float(np.hypot(*off[2:])), 1)
        elif agreement > 0.3 and fit.replaced < 0.3:
            evidence["moved"] = evidence["view_changed"] = False
        elif own and own.steady and fit.quiet > 0.5 and fit.bare <= max(0.45, fit.replaced):
            replaced = agreement < 0.4 and fit.replaced > max(0.35, fit.bare)
            if agreement < 0.2 or replaced:
                evidence["view_changed"] = True
        if evidence["moved"] or evidence["view_changed"] or own is None:
            return fit

        if own.steady and own.lost < 0.3:
            if fit.bare > 0.45:
                evidence["partly_covered"] = True
            elif fit.lost < 0.3:
                evidence["partly_covered"] = False
        if agreement < 0.2:
            return fit
        if fit.fineness is not None and own.fineness > 0:
            ratio = fit.fineness / own.fineness
            measures["sharpness_ratio"] = round(ratio, 2)
            if ratio < 0.4:
                evidence["blurred"] = True
            elif ratio > 0.6:
                evidence["blurred"] = False
        return fit

    def _is_displaced(self, agreement: float, best: float, right: int, down: int) -> bool:
        if best < 0.3 or max(abs(right), abs(down)) <= _AT_ZERO:
            return False
        return agreement < 0.2 or best - agreement >= 0.2

    def _displacement(self, at: int, right: int, down: int) -> None:
        if (
            self._stable is None
            or max(abs(right - self._stable[1]), abs(down - self._stable[2])) > _AT_ZERO
        ):
            self._stable = (at, right, down)

    def _choose_bucket(
        self,
        at: int,
        small: Grey,
        slopes: _Slopes | None,
        tone: _Tone,
        fit: _Fit | None,
        held: bool,
        covered: bool,
    ) -> None:
        if not self._bucket:
            self._bucket = "night" if tone.brightness < 50 else "day"
            return
        if tone.black or covered or held:
            return
        other = "day" if self._bucket == "night" else "night"
        there = self._references.get(other)
        wanted = tone.brightness > 60 if other == "day" else tone.brightness < 45
        own = fit.agreement if fit and self._bucket in self._references else None
        if not wanted and (own is None or own >= 0.2 or there is None):
            self._other_since = None
            return
        if self._other_since is None:
            self._other_since = at
        if at - self._other_since < _HOLD:
            return
        if there is not None and there.rich and slopes is not None and own is not None:
            agreement = there.fit(small, slopes, tone.spread, self._busy(at)).agreement
            if agreement < (own - 0.1 if wanted else 0.3):
                return
        elif not wanted:
            return
        self._bucket = other
        self._other_since = None
        self._forget_lesson()

    def _judge(
        self,
        at: int,
        earlier: _Sample | None,
        evidence: dict[str, bool | None],
        held: bool,
        measures: dict[str, float],
    ) -> PictureState:
        for name, verdict in self._verdicts.items():
            # The picture has been the same since the earlier one was taken.
            began = earlier.at if name == "frozen" and earlier and evidence[name] else at
            since = verdict.weigh(at, evidence[name], began, held)
            if since is not None and name not in self._options.ignore:
                self._since = max(self._since, since)
        known = bool(self._references) and (self._known or self._samples >= _FEWEST)
        if known != self._known or not self._told:
            self._known, self._told = known, True
            self._since = at
        faults = tuple(
            name
            for name in PICTURE_FAULTS
            if self._verdicts[name].raised and name not in self._options.ignore
        )

        away = evidence["moved"] or evidence["view_changed"]
        if not away:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = at
        moved = self._verdicts["moved"].raised
        if evidence["moved"] is False and not moved:
            self._stable = None
        shift: tuple[float, float] | None = None
        roi_shift: tuple[int, int] | None = (0, 0)
        if moved:
            roi_shift = None
            if self._stable:
                since, right, down = self._stable
                shift = (round(100 * right / WIDTH, 1), round(100 * down / WIDTH, 1))
                small_enough = max(abs(right), abs(down)) <= _COMPENSATED * WIDTH
                if small_enough and at - since >= _STABLE and evidence["moved"] is not False:
                    roi_shift = (right, down)
        elif self._verdicts["view_changed"].raised or (
            self._away_since is not None and at - self._away_since >= _AWAY
        ):
            roi_shift = None
        suspected = tuple(name for name in PICTURE_FAULTS if evidence[name])
        return PictureState(
            known, faults, self._since, shift, roi_shift, held, self._bucket, measures, suspected
        )

    def _keep_learning(self, at: int, small: Grey, change: _Change, fit: _Fit | None) -> None:
        """Learns from a picture that nothing speaks against."""
        learned = self._references.get(self._bucket)
        if learned is None or not learned.rich:
            learned = self._collect(at, small, learned)
        if learned and learned.calm is not None and self._shares is None:
            # Ends where one picture of a hundred is calmer.
            learned.calm *= 0.8 if change.share < learned.calm else 1.002
        else:
            if self._shares is None:
                self._shares = deque(maxlen=400)
            self._shares.append((at, change.share))
            span = at - self._shares[0][0]
            if learned and span >= _LEARN_SPAN and len(self._shares) >= _LEARN_FRAMES - 2:
                learned.calm = float(np.percentile([share for _, share in self._shares], 1))
                self._shares = None
        if learned is None:
            return
        if fit is None or fit.agreement < 0.35 or any(v.raised for v in self._verdicts.values()):
            return
        if self._refreshed is None:
            self._refreshed = self._kept_at = at
        if at - self._refreshed >= _REFRESH_EVERY:
            self._refreshed = at
            learned.refresh(small, fit)
            if self._kept_at is None or at - self._kept_at >= _KEEP_EVERY:
                self._kept_at = at
                self.dirty = True

    def _collect(self, at: int, small: Grey, learned: _Reference | None) -> _Reference | None:
        """Gathers pictures until they make a reference, which may still be a poor one."""
        if self._frames and at - self._frames_at[-1] < _LEARN_EVERY:
            return learned
        self._frames.append(small)
        self._frames_at.append(at)
        if len(self._frames) < _LEARN_FRAMES or at - self._frames_at[0] < _LEARN_SPAN:
            return learned
        found = _learn(self._frames, self._unmasked)
        self._frames, self._frames_at = [], []
        if learned is not None and not found.rich:
            return learned
        found.calm = learned.calm if learned else None
        self._references[self._bucket] = found
        self.dirty = True
        return found
