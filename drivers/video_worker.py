"""The process that sees: a thread for each camera, from the stream to what its picture shows.

``python -m drivers.video_worker`` talks ``drivers.video_lines`` with the daemon over its standard
input and output.  It is a process of its own because native decoders hang and abort.  Nothing that
it sees leaves it but conclusions, and evidence pictures that ``snapshot`` made harmless.

    connect -> grab -> luma, 320 wide -> health of the picture -> posts -> message

Frames are never queued.  Whoever finds no free core skips a picture.  When the whole process uses
more than its share, cameras are looked at less often: those without posts first.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np

from drivers import capture
from drivers.capture import Frame, NoPicture, Stream
from drivers.detector import Detector, DetectorProblem
from drivers.picture import PictureOptions, PictureState, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView, SeatState
from drivers.rtsp_probe import Found, flows, probe
from drivers.snapshot import snapshot
from drivers.video_lines import (
    KEPT_LIMIT,
    LINE_LIMIT,
    PROVEN,
    STEADY,
    Analyse,
    Beat,
    Box,
    CameraSetup,
    Cause,
    Done,
    Facts,
    Hello,
    Hours,
    Keep,
    LostSight,
    Message,
    NeedsFull,
    Opened,
    PictureTold,
    PostSetup,
    References,
    SeatTold,
    Start,
    Stop,
    Trouble,
    account,
    command,
    line,
    pause,
)

BEAT = 1.0
FACTS_EVERY = 60_000
KEEP_EVERY = 600_000
OPENS = 4
"""Streams that are opened at once: 50 cameras that come back together must not starve the rest."""
WARMING_UP = 2
"""Frames after an opening that may still be half grey."""
GOP_KEPT = 4.0
GOP_ENDURED = 10.0
SMALL = 640 * 480
LONGEST_TIMEOUT = 60.0
ANALYSIS = 30.0
"""Seconds for one picture: loading a detector's file on a slow machine takes some."""
UNDECODABLE = 5
"""Frames in a row of which no picture could be made."""
ASK_EVERY = 5_000
"""ms between two questions to the detector about one post."""
MEMORY = 1 << 30
MEMORY_EACH = 64 << 20
BACKLOG = 16 << 20
"""Bytes of messages that wait for a daemon that does not read; the oldest go first."""


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


# --------------------------------------------------------------------------------------------
# What follows from measures
# --------------------------------------------------------------------------------------------

BUDGET = 0.6
"""Of one core."""
RELAX = 0.7
SLOWEST = 10.0
_STRETCHES = ((1, 1), (2, 1), (4, 1), (4, 2), (8, 4))
"""By how much the intervals grow at each level, of cameras without posts and with."""


def next_level(level: int, load: float) -> int:
    """``load`` is the share of the budget that is used."""
    if load > 1:
        return min(level + 1, len(_STRETCHES) - 1)
    return max(0, level - 1) if load < RELAX else level


def stretched(interval: float, posts: bool, level: int) -> float:
    return max(interval, min(SLOWEST, interval * _STRETCHES[level][posts]))


def needs_full(gop: float, posts: bool, width: int, height: int) -> bool:
    """Whether key frames come too rarely and the stream is small enough to decode all of it."""
    return gop > (GOP_KEPT if posts else GOP_ENDURED) and 0 < width * height <= SMALL


ADVICE = (
    "关键帧间隔过长，请在子码流上设为帧率的 1 到 2 倍并关闭智能编码 / key frames come too rarely:"
    " on the substream, set the I-frame interval to 1 to 2 times the frame rate and switch the"
    " smart codec off"
)

# --------------------------------------------------------------------------------------------
# One camera's pictures
# --------------------------------------------------------------------------------------------


class Minds:
    """The detectors of this process, by file: loaded once, asked by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Detector | DetectorProblem] = {}

    def ask(self, path: str, crop: Frame) -> list[tuple[float, float, float, float]]:
        """Boxes of people.  Raises ``DetectorProblem``, for a file that failed once ever after."""
        with self._lock:
            found = self._known.get(path)
            if found is None:
                try:
                    found = Detector(path)
                except DetectorProblem as problem:
                    found = problem
                self._known[path] = found
            if isinstance(found, DetectorProblem):
                raise found
            try:
                return [(one.x, one.y, one.w, one.h) for one in found.detect(crop)]
            except DetectorProblem as problem:
                self._known[path] = problem
                raise


class Post:
    """One post of a camera, and what was last told of it."""

    def __init__(self, setup: PostSetup, masks: tuple[Box, ...] = ()) -> None:
        self.setup = setup
        self.options = PostOptions(
            region=setup.region,
            person_share=setup.person_share,
            still_after=setup.still_after,
            masks=masks,
        )
        self.view = PostView(self.options)
        self.seat: SeatState | None = None
        self.told: tuple[str, str] | None = None
        self.before = ""
        """The state that was told last, of whatever connection."""
        self.asked = -ASK_EVERY


class Analysis:
    """What a camera's pictures show.  ``see`` is for one thread; ``learned`` and ``renew`` for
    any."""

    def __init__(self, setup: CameraSetup, snapshots: bool, minds: Minds) -> None:
        self._setup = setup
        self._snapshots = snapshots
        self._minds = minds
        self._lock = threading.Lock()
        self._options = PictureOptions(
            frozen_after=setup.frozen_after,
            covered_after=setup.covered_after,
            blurred_after=setup.blurred_after,
            moved_after=setup.moved_after,
            dark_after=setup.dark_after,
            ignore=setup.ignore,
            masks=setup.masks,
        )
        self._posts = [Post(post, setup.masks) for post in setup.posts]
        self._trouble: list[Trouble] = []
        self._fresh = True
        self._told: tuple[bool, tuple[str, ...], tuple[float, float] | None] | None = None
        self._kept_at: int | None = None
        self._detector = setup.detector
        self.facts_at = 0
        self._others: tuple[tuple[int, ...], Any] = ((), None)
        self._state: PictureState | None = None
        self.renew(setup.reference, {post.window: post.references for post in setup.posts})

    def renew(self, picture: bytes, posts: dict[str, bytes]) -> None:
        """Begin anew with what was learned."""
        with self._lock:
            self._watch = self._restored(
                "picture", lambda learned: PictureWatch(self._options, learned), picture
            )
            for post in self._posts:
                window, options = post.setup.window, post.options
                post.view = self._restored(
                    window,
                    lambda learned, options=options: PostView(options, learned),  # type: ignore[misc]
                    posts.get(window, b""),
                )

    def _restored(self, name: str, build: Callable[[bytes | None], Any], learned: bytes) -> Any:
        try:
            return build(learned or None)
        except ValueError as error:
            self._problem(f"{name}: what was learned cannot be used: {error}")
            return build(None)

    def _problem(self, text: str) -> None:
        self._trouble.append(Trouble(text, self._setup.id))

    @property
    def wants_colour(self) -> bool:
        return bool(self._detector)

    def reconnected(self) -> None:
        """Everything is told anew with the next picture."""
        self._fresh = True

    def see(self, at: int, frame: Frame, closed: bool = False) -> list[Message]:
        with self._lock:
            return self._see(at, frame, closed)

    def _see(self, at: int, frame: Frame, closed: bool) -> list[Message]:
        told: list[Message] = []
        luma = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        small = shrink(luma)  # type: ignore[arg-type]
        picture = self._watch.see(at, small)
        self._state = picture
        shift = picture.shift if "moved" in picture.faults else None
        if shift is not None:
            shift = (round(shift[0], 1), round(shift[1], 1))
        now = (picture.known, picture.faults, shift)
        if self._fresh or now != self._told:
            news = [fault for fault in picture.faults if fault not in self._before()]
            told.append(
                PictureTold(
                    self._setup.id,
                    picture.since,
                    picture.known,
                    picture.faults,
                    shift,
                    *((news[0], self._evidence(frame, news[0])) if news else ()),
                )
            )
            self._told = now
        others = self._mask(small.shape)
        for post in self._posts:
            person = self._person(post, at, frame)
            seat = post.seat = post.view.see(at, small, picture, others, person, closed)
            reason = seat.reason if seat.state == "unknown" else ""
            if self._fresh or (seat.state, reason) != post.told:
                emptied = seat.state == "empty" and post.before != "empty"
                told.append(
                    SeatTold(
                        self._setup.id,
                        post.setup.window,
                        seat.since,
                        seat.state,
                        seat.evidence,
                        seat.score,
                        seat.reason,
                        self._evidence(frame, "", _region(post, seat, picture, small))
                        if emptied
                        else b"",
                    )
                )
                post.told = (seat.state, reason)
                if seat.state != "unknown":
                    post.before = seat.state
        self._fresh = False
        told += self._trouble
        self._trouble.clear()
        return told

    def _before(self) -> tuple[str, ...]:
        return self._told[1] if self._told else ()

    def _evidence(
        self, frame: Frame, fault: str, region: Sequence[tuple[float, float]] | None = None
    ) -> bytes:
        if not self._snapshots:
            return b""
        # Nothing can be made out in a black picture, and that is what it shows.
        jpeg = snapshot(frame, WHOLE if fault == "black" else region)
        return jpeg if len(jpeg) <= KEPT_LIMIT else b""

    def _mask(self, shape: tuple[int, ...]) -> Any:
        """All posts' pixels."""
        if self._others[0] != shape:
            mask = np.zeros(shape[:2], np.uint8)
            for post in self._posts:
                cv2.fillPoly(mask, [_pixels(post.setup.region, shape)], (1,))
            self._others = (shape, mask.astype(bool) if self._posts else None)
        return self._others[1]

    def _person(self, post: Post, at: int, frame: Frame) -> bool | None:
        """What the detector says, where the picture before this one left a doubt."""
        if not self._detector or post.seat is None or not post.seat.uncertain:
            return None
        if at - post.asked < ASK_EVERY:
            return None
        post.asked = at
        crop, mask = _crop(frame, post.setup.region)
        try:
            boxes = self._minds.ask(self._detector, crop)
        except DetectorProblem as problem:
            self._problem(str(problem))
            self._detector = ""
            return None
        return any(_within(mask, box) >= 0.3 for box in boxes)

    def learned(self, at: int, ending: bool = False) -> list[Message]:
        """What must be kept, at most every ten minutes but at the end."""
        if not ending and self._kept_at is not None and at - self._kept_at < KEEP_EVERY:
            return []
        found: list[tuple[str, bytes | None]] = []
        with self._lock:
            if self._watch.dirty:
                found.append(("picture", self._watch.reference()))
            for post in self._posts:
                if post.view.dirty:
                    found.append((f"post:{post.setup.window}", post.view.references()))
        if found:
            self._kept_at = at
        return [
            Keep(self._setup.id, name, learned)
            for name, learned in found
            if learned and len(learned) <= KEPT_LIMIT
        ]

    def facts(self) -> dict[str, Any]:
        """What this camera shows at present."""
        if self._state is None:
            return {}
        picture = self._state
        faults = list(picture.faults)
        health = faults[0] if faults else "ok" if picture.known else "unknown"
        posts: dict[str, Any] = {}
        for post in self._posts:
            if (seat := post.seat) is not None:
                posts[post.setup.window] = {
                    "state": seat.state,
                    "score": _rounded(seat.score),
                    "motion_age_s": _rounded(seat.motion_age),
                    "evidence": list(seat.evidence),
                    "reason": seat.reason,
                    "relearn": post.view.wants_relearning,
                }
        measures = {name: _rounded(value) for name, value in picture.measures.items()}
        return {**measures, "health": health, "faults": faults} | (
            {"posts": posts} if posts else {}
        )


WHOLE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
CLEARLY_EMPTY = 0.2


def _region(
    post: Post, seat: SeatState, picture: PictureState, small: Frame
) -> Sequence[tuple[float, float]] | None:
    """Where an empty post lies in the picture now; none while a visitor may lean into it, or while
    nobody knows where it lies."""
    if picture.roi_shift is None or seat.score is None or seat.score >= CLEARLY_EMPTY:
        return None
    right, down = picture.roi_shift
    high, wide = small.shape[:2]
    return [(x + right / wide, y + down / high) for x, y in post.setup.region]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)


def _pixels(region: Sequence[tuple[float, float]], shape: tuple[int, ...]) -> Any:
    return np.array([(round(x * shape[1]), round(y * shape[0])) for x, y in region], np.int32)


def _crop(frame: Frame, region: Sequence[tuple[float, float]]) -> tuple[Frame, Any]:
    """The colour picture around a region, a quarter larger, and the region's mask in it."""
    points = _pixels(region, frame.shape)
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    wide, high = (x1 - x0) // 8 + 1, (y1 - y0) // 8 + 1
    x0, y0 = max(0, x0 - wide), max(0, y0 - high)
    x1, y1 = min(frame.shape[1], x1 + wide), min(frame.shape[0], y1 + high)
    crop = frame[y0:y1, x0:x1]
    mask = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(mask, [points - (x0, y0)], (1,))
    colour = crop if crop.ndim == 3 else cv2.cvtColor(crop, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(colour, np.uint8), mask


def _within(mask: Any, box: tuple[float, float, float, float]) -> float:
    """Share of the box that is in the region."""
    x, y, w, h = (round(one) for one in box)
    part = mask[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
    return float(part.sum()) / max(1, w * h)


# --------------------------------------------------------------------------------------------
# One camera's stream
# --------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    cause: Cause
    status: int = 0


class Account:
    """A user of a device.  Its passwords count for all its cameras: until one was accepted, one
    camera asks at a time, and a refusal holds for all."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self._password = ""
        self._until = 0.0
        self._accepted = -float(PROVEN)
        self.refusals = 0

    def expect(self, setup: CameraSetup) -> None:
        """Another password may be tried at once."""
        if setup.password != self._password:
            self._password, self._until, self.refusals = setup.password, 0.0, 0
        if setup.wait:
            self._until = max(self._until, time.monotonic() + setup.wait)
            self.refusals = max(self.refusals, setup.refusals)

    @property
    def left(self) -> float:
        """Seconds for which no password may be tried."""
        return max(0.0, self._until - time.monotonic())

    def ask(self, question: Callable[[], Found]) -> Found:
        """What came of a question with the password; it is not asked while none may be tried."""
        if time.monotonic() - self._accepted < PROVEN:
            return self._judged(question())
        with self._one:
            return REFUSED if self.left else self._judged(question())

    def _judged(self, found: Found) -> Found:
        if found.status == REFUSED.status:
            self.refusals += 1
            self._until = time.monotonic() + pause("auth", self.refusals, self.refusals)
            self._accepted = -float(PROVEN)
        elif found.cause is None:
            self.refusals, self._accepted = 0, time.monotonic()
        return found


REFUSED = Found("auth", 401)


class Sight(threading.Thread):
    """One camera: opens its stream again and again, and tells what is seen."""

    def __init__(self, setup: CameraSetup, worker: Worker) -> None:
        super().__init__(name=setup.id, daemon=True)
        self.setup = setup
        self._worker = worker
        self._tell = worker.outbox.tell
        self.analysis = Analysis(setup, worker.snapshots, worker.minds)
        self._account = worker.account(setup)
        self.stopping = threading.Event()
        self.seen: int | None = None
        self.due: float | None = None
        """When the thread must have come back from what may hang; none while it is not there."""
        self._file = setup.url.startswith("/")
        self._read_timeout = setup.read_timeout
        self._gaps: deque[float] = deque(maxlen=5)
        self._openings: deque[int] = deque(maxlen=1000)
        self._counts = dict.fromkeys(("frames_skipped", "decode_errors"), 0)
        self._stream: dict[str, Any] = {}
        self._grabbed = 0
        self._facts_at = 0
        self._analysed_at = 0
        self._analysis_ms = 0.0

    # -- the life of the thread

    def run(self) -> None:
        failures, refusals = 0, 0
        if self.setup.wait:
            self.stopping.wait(self.setup.wait)
        while not self.stopping.is_set():
            began = now_ms()
            before = self.seen
            try:
                loss = self._watch()
            except MemoryError:
                os._exit(3)
            except Exception as error:  # noqa: BLE001 - a defect must not cost the camera
                self._tell(Trouble(_defect(error), self.setup.id))
                loss = Loss("decode")
            finally:
                self.due = None
            if loss is None or self.stopping.is_set():
                continue
            if self.seen != before:
                refusals = 0
            if self.seen is not None and self.seen - began > STEADY * 1000:
                failures = 0
            failures += 1
            # A camera may be forbidden to somebody whose password is right.
            refusals += loss.cause == "auth" and loss.status != REFUSED.status
            told = refusals
            if loss.status == REFUSED.status:
                # A moment longer: it must not wake up too early to be asked.
                told, wait = self._account.refusals, self._account.left + 0.01
            else:
                wait = pause(loss.cause, failures, refusals)
                if wait <= 30:
                    wait *= random.uniform(0.8, 1.2)
            self._tell(
                LostSight(self.setup.id, loss.cause, now_ms(), round(wait, 1), loss.status, told)
            )
            self.stopping.wait(wait)

    def _native(self, seconds: float) -> None:
        """Whatever comes next is over after so many seconds, or this thread is stuck."""
        self.due = time.monotonic() + seconds + self.setup.open_timeout + 3 * self._read_timeout

    def _back(self) -> None:
        """It is over.  Who came back late was given up: everything is told anew."""
        due, self.due = self.due, None
        if due is not None and time.monotonic() > due:
            self.analysis.reconnected()

    def _probe(self) -> Loss | None:
        """What speaks against opening the stream; at most one try of the password."""
        setup = self.setup
        if setup.username:
            # Without the password, so that a dead camera does not keep others waiting for theirs.
            self._native(30)
            found = probe(setup.url, timeout=setup.open_timeout)
            if found.cause is not None and found.cause != "auth":
                return Loss(found.cause, found.status)
        # Waiting for another camera's answer may take long.
        self.due = None
        found = self._account.ask(self._log_in)
        self.due = None
        return Loss(found.cause, found.status) if found.cause else None

    def _log_in(self) -> Found:
        setup = self.setup
        self._native(30)
        # Some cameras ask for the password only here: FFmpeg would try it more than once.
        return probe(setup.url, setup.username, setup.password, setup.open_timeout, setup=True)

    def _watch(self) -> Loss | None:
        """One connection; none where it was given up for a better one."""
        setup = self.setup
        if not self._file and (loss := self._probe()) is not None:
            return loss
        self.due = None
        with self._worker.opens:
            if self.stopping.is_set():
                return None
            self._native(setup.open_timeout)
            began = now_ms()
            stream = self._open()
            if stream is None or not stream.width:
                if stream is not None:
                    stream.close()
                if not self._file and (loss := self._probe()) is not None:
                    return loss
                self._worker.be_patient()
                self._native(setup.open_timeout)
                stream = self._open()
        if stream is None:
            return (None if self._file else self._probe()) or Loss("decode")
        self._stream = {
            "codec": stream.codec,
            "open_ms": now_ms() - began,
            "width": stream.width,
            "height": stream.height,
        }
        try:
            return self._read(stream)
        finally:
            self.due = None
            stream.close()

    def _open(self) -> Stream | None:
        setup = self.setup
        address = capture.with_credentials(setup.url, setup.username, setup.password)
        colour = bool(setup.detector)
        try:
            return Stream(address, setup.open_timeout, self._read_timeout, colour)
        except NoPicture:
            return None

    def _read(self, stream: Stream) -> Loss | None:
        frames, bad = 0, 0
        previous, clip_began = 0, time.monotonic()
        while not self.stopping.is_set():
            self._native(0)
            good = stream.grab()
            self._back()
            now = now_ms()
            if not good:
                return self._ended(stream, frames)
            frames += 1
            self._grabbed += 1
            self.seen = now
            if frames == 1 and not (self._file and self._openings):
                self.analysis.reconnected()
                self._tell(Opened(self.setup.id, now))
                self._openings.append(now)
            if self._file:
                ahead = clip_began + stream.position() - time.monotonic()
                if self.stopping.wait(min(max(0.0, ahead), SLOWEST)):
                    return None
                now = now_ms()
            elif self._worker.keyframes and frames > WARMING_UP:
                self._gaps.append((now - previous) / 1000)
                if self._switch(len(self._gaps) >= 4):
                    return None
            previous = now
            if frames <= WARMING_UP and not self._file and self._gop() <= GOP_KEPT:
                continue
            interval = self._interval()
            if now - self._analysed_at >= 1000 * interval - min(500, 250 * interval):
                bad = 0 if self._look(stream, now, interval) else bad + 1
                if bad >= UNDECODABLE:
                    return Loss("decode")
        return None

    def _ended(self, stream: Stream, frames: int) -> Loss | None:
        if self._file:
            return None if frames else Loss("decode")
        if not stream.stalled:
            return Loss("ended")
        if not self._worker.keyframes:
            return Loss("stall")
        setup = self.setup
        self._native(1)
        if not flows(setup.url, setup.username, setup.password, 1):
            return Loss("stall")
        # No loss: the camera sends, but no key frame came for as long as this.
        self._gaps.clear()
        self._gaps.append(self._read_timeout)
        self._tell(Facts(setup.id, {"advice": ADVICE}))
        self._read_timeout = min(LONGEST_TIMEOUT, 2 * self._read_timeout)
        self.seen = now_ms()
        self._switch(True)
        return None

    def _gop(self) -> float:
        return median(self._gaps) if self._gaps else 0.0

    def _switch(self, sure: bool) -> bool:
        """Whether this camera is better off in a worker that decodes everything."""
        gop = self._gop()
        if sure:
            self._read_timeout = max(
                self._read_timeout, min(LONGEST_TIMEOUT, 3 * gop), self.setup.read_timeout
            )
        wide, high = self._stream.get("width", 0), self._stream.get("height", 0)
        if not (sure and self.setup.may_switch):
            return False
        if not needs_full(gop, bool(self.setup.posts), wide, high):
            return False
        self._tell(NeedsFull(self.setup.id, round(gop, 1)))
        self.stopping.set()
        return True

    def _interval(self) -> float:
        return stretched(self.setup.interval, bool(self.setup.posts), self._worker.level)

    def _look(self, stream: Stream, now: int, interval: float) -> bool:
        """Analyse the frame that was grabbed; false if no picture could be made of it."""
        if not self._worker.slots.acquire(timeout=interval / 2):
            self._counts["frames_skipped"] += 1
            return True
        self._analysed_at = now
        self.due = time.monotonic() + ANALYSIS
        try:
            frame = stream.frame()
            told = self.analysis.see(now, frame, self._worker.closed)
        except NoPicture:
            self._counts["decode_errors"] += 1
            return False
        finally:
            self._back()
            self._worker.slots.release()
            self._analysis_ms = now_ms() - now
        self._stream["height"], self._stream["width"] = frame.shape[:2]
        self._tell(*told)
        if told or now - self._facts_at >= FACTS_EVERY:
            self._tell(Facts(self.setup.id, self._facts(now)))
        self._tell(*self.analysis.learned(now))
        return True

    def _facts(self, now: int) -> dict[str, Any]:
        gop = self._gop()
        elapsed = (now - self._facts_at) / 1000
        fps = (
            {"fps_in": round(self._grabbed / elapsed, 1)} if self._facts_at and elapsed > 5 else {}
        )
        self._facts_at, self._grabbed = now, 0
        return {
            **self._stream,
            **fps,
            **self._counts,
            **({"gop_s": round(gop, 1)} if len(self._gaps) >= 3 else {}),
            "advice": ADVICE if gop > GOP_KEPT else "",
            "mode": "keyframes" if self._worker.keyframes else "full",
            "interval_s": self._interval(),
            "analysis_ms": self._analysis_ms,
            "reconnects_1h": sum(now - at <= 3_600_000 for at in list(self._openings)[1:]),
            **self.analysis.facts(),
        }


# --------------------------------------------------------------------------------------------
# The process
# --------------------------------------------------------------------------------------------


class Outbox:
    """Messages on their way out, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="outbox", daemon=True).start()

    def tell(self, *messages: Message) -> None:
        lines = [line(message) for message in messages]
        with self._changed:
            for one in lines:
                self._waiting.append(one)
                self._bytes += len(one)
            while self._bytes > BACKLOG and len(self._waiting) > 1:
                self._bytes -= len(self._waiting.popleft())
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, seconds)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                one = self._waiting.popleft()
            left = memoryview(one)
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                os._exit(0)  # The daemon is gone.
            with self._changed:
                self._bytes -= len(one)
                self._changed.notify_all()


class Worker:
    """All cameras of one process."""

    def __init__(self, start: Start, outbox: Outbox) -> None:
        self.keyframes = start.decoding == "keyframes"
        self.snapshots = start.snapshots
        self.outbox = outbox
        self.minds = Minds()
        self.opens = threading.BoundedSemaphore(OPENS)
        self.slots = threading.BoundedSemaphore(max(1, (os.cpu_count() or 1) - 1))
        self.level = 0
        self.closed = False
        self._load = 0.0
        self._decoding = start.decoding
        self._sights: dict[str, Sight] = {}
        self._accounts: dict[tuple[str, int, str], Account] = {}
        self._still: dict[str, Analysis] = {}
        """Cameras in snapshot mode."""
        if start.decoding != "snapshot":
            capture.decode_as(start.decoding)
            threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def account(self, setup: CameraSetup) -> Account:
        found = self._accounts.setdefault(account(setup.url, setup.username), Account())
        found.expect(setup)
        return found

    def be_patient(self) -> None:
        if self._decoding != "snapshot":
            capture.decode_as(self._decoding, patient=True)

    def obey(self, told: CameraSetup | References | Hours | Analyse) -> None:
        match told:
            case Hours():
                self.closed = told.closed
            case CameraSetup() if self._decoding == "snapshot":
                self._still[told.id] = Analysis(told, self.snapshots, self.minds)
                _limit_memory(len(self._still))
            case CameraSetup():
                if (old := self._sights.get(told.id)) is not None:
                    old.stopping.set()
                self._sights[told.id] = sight = Sight(told, self)
                _limit_memory(len(self._sights))
                sight.start()
            case References():
                if told.camera in self._still:
                    self._still[told.camera].renew(told.picture, told.posts)
                elif told.camera in self._sights:
                    self._sights[told.camera].analysis.renew(told.picture, told.posts)
            case Analyse():
                self._analyse(told)

    def _analyse(self, told: Analyse) -> None:
        analysis = self._still.get(told.camera)
        if analysis is None:
            self.outbox.tell(Trouble("no such camera", told.camera), Done(decoded=False))
            return
        began = now_ms()
        try:
            frame = capture.decode_jpeg(told.jpeg, analysis.wants_colour)
        except NoPicture as error:
            why = Facts(told.camera, {"last_error": str(error)})
            self.outbox.tell(why, Done(decoded=False))
            return
        if told.anew:
            analysis.reconnected()
        messages = analysis.see(told.at, frame, told.closed)
        wide, high = capture.jpeg_size(told.jpeg)
        if messages or told.at - analysis.facts_at >= FACTS_EVERY:
            analysis.facts_at = told.at
            size: dict[str, Any] = {
                "width": wide,
                "height": high,
                "codec": "jpeg",
                "mode": "snapshot",
            }
            facts: dict[str, Any] = {**size, "analysis_ms": now_ms() - began, **analysis.facts()}
            messages.append(Facts(told.camera, facts))
        messages += analysis.learned(told.at)
        self.outbox.tell(*messages, Done())

    def _beat(self) -> None:
        wall, used = time.monotonic(), time.process_time()
        while True:
            time.sleep(BEAT)
            now = time.monotonic()
            if now - wall >= 30:
                self._load = (time.process_time() - used) / (now - wall) / BUDGET
                self.level = next_level(self.level, self._load)
                wall, used = now, time.process_time()
            sights = list(self._sights.values())
            seen = {one.setup.id: one.seen for one in sights if one.seen is not None}
            stuck = {
                one.setup.id: round(now - due, 1)
                for one in sights
                if (due := one.due) is not None and now > due
            }
            self.outbox.tell(Beat(seen, stuck, round(self._load, 2)))

    def stop(self) -> None:
        """Tell what was learned and leave, whether or not threads are in native code."""
        for one in self._sights.values():
            one.stopping.set()
        now = now_ms()
        for analysis in (*self._still.values(), *(one.analysis for one in self._sights.values())):
            self.outbox.tell(*analysis.learned(now, ending=True))
        self.leave(0)

    def leave(self, code: int) -> None:
        self.outbox.flush(2)
        os._exit(code)


def _defect(error: Exception) -> str:
    """Where, and of what kind; not the text, which may hold an address with its password."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{os.path.basename(one.filename)}:{one.lineno}" for one in frames[::-1])
    return f"defect: {type(error).__name__} at {places}"


def _limit_memory(cameras: int) -> None:
    limit = MEMORY + cameras * MEMORY_EACH
    # A sandbox may forbid it; then its own limit must do.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _settle_in() -> int:
    """Low in priority, without core dumps, and with an output that no library prints into."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The daemon says when; systemd sends these to all processes of a service at once.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(5)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    own = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return own


def serve(lines: BinaryIO, outbox: Outbox) -> None:
    """Obey until told to stop, or until the daemon is gone."""
    worker: Worker | None = None
    while told := lines.readline(LINE_LIMIT):
        try:
            wanted = command(told)
        except ValueError as error:
            outbox.tell(Trouble(str(error)))
            continue
        if isinstance(wanted, Start):
            worker = worker or Worker(wanted, outbox)
            outbox.tell(Hello(cv2.__version__))
        elif isinstance(wanted, Stop):
            break
        elif worker is not None:
            worker.obey(wanted)
    if worker is not None:
        worker.stop()


def main() -> None:
    outbox = Outbox(_settle_in())
    gc.freeze()
    try:
        serve(sys.stdin.buffer, outbox)
    except Exception as error:  # noqa: BLE001 - the daemon is told, and starts another
        outbox.tell(Trouble(_defect(error)))
        outbox.flush(2)
        os._exit(4)
    os._exit(0)


if __name__ == "__main__":
    main()
