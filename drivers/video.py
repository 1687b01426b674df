"""Cameras: whether the picture is good, and whether somebody is at the post (在岗).

This is the daemon's side.  What looks at pictures runs in processes of its own, one for each way of
decoding, because native decoders hang and abort; ``drivers.video_lines`` is what they write to each
other, and a capture of it (the worker's output) is what ``decode`` reads.

    mode        what is asked of the camera
    auto        rtsp: ``keyframes``, and ``full`` where key frames come too rarely for a small
                stream; http: ``snapshot``; a file: ``full``, again and again
    keyframes   only the key frames are decoded: a third to a ninth of the work
    full        everything is decoded
    snapshot    a JPEG by HTTP each ``interval``, fetched here

    reading     when
    Picture     on change and after every (re)connection; not known once the camera is lost
    Seat        likewise, for each post; ``unknown`` once the camera is lost or the worker died
    DeviceEvent ``relearn_proposed``: a post has looked different, without any movement, for a
                closed night: furniture was moved, or something stands there
    DeviceEvent ``camera_trouble``: what stops nothing but must be known, such as a detector's file
                that cannot be used

A device that refuses a user's password twice is left alone for half an hour, with all cameras that
are asked of it as this user, also across restarts, or until the login or the password's file
changes: Hikvision shuts the address out after five to seven wrong ones.  A dead worker makes every
post unknown and no camera lost; it is restarted.

Certificates of cameras are not checked: they have none that could be.
Nothing is recorded, nobody is identified; kept pictures come from the worker already harmless.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from asyncio.subprocess import Process
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Protocol
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import httpx
from msgspec import structs

from drivers.base import Context, Device, DeviceRefused, LookAgain
from drivers.rtsp_probe import Login, cause_of
from drivers.video_lines import (
    KEPT_LIMIT,
    LINE_LIMIT,
    PICTURE_LIMIT,
    PROVEN,
    REFUSALS,
    REFUSED_PAUSE,
    STEADY,
    Analyse,
    Beat,
    CameraSetup,
    Cause,
    Command,
    Decoding,
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
    in_words,
    line,
    message,
    pause,
    read_password,
)
from rules.model import (
    PICTURE_FAULTS,
    SEAT_STATES,
    DeviceEvent,
    Instant,
    Picture,
    Reading,
    Seat,
    Unreadable,
)

FAMILY = "video"

SILENT = 15.0
"""Seconds without a beat after which a worker hangs; it gives one every second."""
WAKING_UP = 90.0
"""Seconds for a worker to load OpenCV on a slow, busy machine."""
EXCHANGE = 20.0
STUCK_LONG = 300.0
STUCK_MANY = 3
STOPPING = 3.0
BLIND = 3
"""Failures of a worker in a row after which nobody can say that its cameras are there."""
FACTS_LIMIT = 100
REFUSED_STATUS = 401
"""Of a wrong password; with 403 a camera is forbidden to a user whose password is right."""
MOST_POSTS = 16
LONGEST_AGO = 366 * 86_400_000
TROUBLES_AN_HOUR = 6
UNREADABLE_AN_HOUR = 20
SET_BACK = 60_000
"""ms by which the wall clock may run backwards unnoticed."""
LATE_BEATS = 20
PASSWORDS_EVERY = 10.0
"""Seconds between two looks at a password file that is missing or was refused."""

# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Post:
    """A window's post in the picture.

    ``region``: corners around the chair and the body on the staff's side, 0 to 1 across and down,
    without the visitors, screens, fans and doors.  ``person_share``: how much of it a seated person
    fills.  ``still_after``: seconds without any movement after which it is told.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    window: str
    region: tuple[tuple[float, float], ...]
    person_share: float = 0.35
    still_after: int = 300

    def __post_init__(self) -> None:
        if not self.window:
            raise ValueError("post: window is empty; expected the id of a window")
        where = f"post {self.window}: region"
        if not 3 <= len(self.region) <= 64:
            raise ValueError(f"{where} has {len(self.region)} corners; expected 3 to 64")
        if not all(0 <= part <= 1 for corner in self.region for part in corner):
            raise ValueError(f"{where}: expected corners between 0 and 1, across and down")
        if crosses_itself(self.region):
            raise ValueError(f"{where}: its sides cross; give the corners in order, around it")
        if area(self.region) < 0.01:
            raise ValueError(
                f"{where} covers {area(self.region):.1%} of the picture; expected at least 1 %"
            )
        if not 0.05 <= self.person_share <= 1:
            raise ValueError(
                f"post {self.window}: person_share is {self.person_share}; expected 0.05 to 1"
            )
        if not 30 <= self.still_after <= 7200:
            raise ValueError(
                f"post {self.window}: still_after is {self.still_after}; expected 30 to 7200 s"
            )


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """A camera.

    ``url``: rtsp, rtsps, http or https (a JPEG), or the absolute name of a file; take the
    substream, and never write the password into it: ``password_file`` holds that of ``username``.
    ``mode``: see the table above.  ``interval``: seconds between two looks.  ``open_timeout`` and
    ``read_timeout``: seconds.  ``osd_masks``: boxes (left, top, right, bottom, 0 to 1) over clocks
    and names written into the picture.  ``ignore``: faults not to be told.  The five ``_after``:
    seconds that a fault must last.  ``detector``: the absolute name of an ONNX file, if the site
    has one.
    """

    url: str
    username: str = ""
    password_file: str = ""
    mode: Literal["auto", "keyframes", "full", "snapshot"] = "auto"
    interval: float = 2.0
    open_timeout: float = 5.0
    read_timeout: float = 8.0
    osd_masks: tuple[tuple[float, float, float, float], ...] = ()
    ignore: tuple[str, ...] = ()
    frozen_after: float = 30
    covered_after: float = 8
    blurred_after: float = 60
    moved_after: float = 60
    dark_after: float = 60
    detector: str = ""
    posts: tuple[Post, ...] = ()

    def __post_init__(self) -> None:
        self._check_address()
        for name, least, most in (
            ("interval", 0.5, 10),
            ("open_timeout", 1, 60),
            ("read_timeout", 1, 60),
            ("frozen_after", 1, 3600),
            ("covered_after", 1, 3600),
            ("blurred_after", 1, 3600),
            ("moved_after", 1, 3600),
            ("dark_after", 1, 3600),
        ):
            seconds = getattr(self, name)
            if not least <= seconds <= most:
                raise ValueError(f"{name} is {seconds}; expected {least} to {most} seconds")
        for box in self.osd_masks:
            x0, y0, x1, y1 = box
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(
                    f"osd_masks: {list(box)} is no box; expected left, top, right, bottom from 0 to"
                    " 1"
                )
        if sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self.osd_masks) > 0.75:
            raise ValueError("osd_masks hide more than three quarters of the picture")
        for fault in self.ignore:
            if fault not in PICTURE_FAULTS:
                raise ValueError(f"ignore: {fault!r} is none of {', '.join(PICTURE_FAULTS)}")
        if self.detector and not self.detector.startswith("/"):
            raise ValueError(f"detector {self.detector!r}: expected the absolute name of a file")
        if len(self.posts) > MOST_POSTS:
            raise ValueError(f"posts: {len(self.posts)}; expected at most {MOST_POSTS}")
        windows = self.windows()
        for window in windows:
            if windows.count(window) > 1:
                raise ValueError(f"posts: the window {window} is given twice")

    def _check_address(self) -> None:
        # Whatever is wrong with it, an address may hold a password: it is not repeated.
        if self.url.startswith("/"):
            if self.mode == "snapshot":
                raise ValueError('a file cannot be read in mode "snapshot"')
            return
        if not re.fullmatch(r"[!-~]+", self.url):
            raise ValueError("url: expected visible ASCII signs; write others as %XX")
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise ValueError("url: expected scheme://host:port/path") from None
        if parts.scheme not in ("rtsp", "rtsps", "http", "https"):
            raise ValueError("url: expected rtsp, rtsps, http or https, or an absolute file name")
        tail = unquote(f"{parts.path}?{parts.query}#{parts.fragment}")
        if "@" in parts.netloc or _SECRET.search(tail):
            raise ValueError("url holds a password; give it by username and password_file")
        if not parts.hostname or port == 0:
            raise ValueError("url: expected scheme://host:port/path")
        fetched = parts.scheme in ("http", "https")
        if fetched and self.mode not in ("auto", "snapshot"):
            raise ValueError(f'mode is "{self.mode}"; by http there are only snapshots')
        if not fetched and self.mode == "snapshot":
            raise ValueError('mode "snapshot" needs the http address of a JPEG')
        if ":" in self.username or not self.username.isprintable():
            raise ValueError("username: expected no colon and no control signs")
        if self.password_file and not self.username:
            raise ValueError("password_file is given, but no username")

    def link(self) -> str:
        return "video"

    def windows(self) -> tuple[str, ...]:
        """The windows whose posts this camera sees."""
        return tuple(post.window for post in self.posts)

    @property
    def decoding(self) -> Decoding:
        if self.mode != "auto":
            return self.mode
        if self.url.startswith("/"):
            return "full"
        return "snapshot" if self.url.startswith("http") else "keyframes"


# --------------------------------------------------------------------------------------------
# Pure functions
# --------------------------------------------------------------------------------------------

Corners = Sequence[tuple[float, float]]

_SECRET = re.compile(
    r"(?:passw[a-z]*|pwd|psw|token|(?<![a-z])(?:pass?|loginpas|auth|secret))=", re.IGNORECASE
)
"""In a query, or as some makers write it, in the path: /user=admin_password=..._channel=1."""


def area(region: Corners) -> float:
    """Of a polygon, as a share of the picture."""
    total = 0.0
    for (x0, y0), (x1, y1) in zip(region, (*region[1:], region[0]), strict=True):
        total += x0 * y1 - x1 * y0
    return abs(total) / 2


def crosses_itself(region: Corners) -> bool:
    sides = list(zip(region, (*region[1:], region[0]), strict=True))
    return any(
        _cross(*sides[one], *sides[other])
        for one in range(len(sides))
        for other in range(one + 2, len(sides))
        if (other + 1) % len(sides) != one
    )


def _cross(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]
) -> bool:
    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def substream(url: str) -> str:
    """The substream's address, where this is the main stream of a maker that is known."""
    if match := re.search(r"(/Streaming/(?:Channels|tracks)/\d*?0)1(?=/?(?:\?|$))", url, re.I):
        return url[: match.start()] + match.group(1) + "2" + url[match.end() :]
    if match := re.search(r"(/realmonitor\?(?:.*&)?subtype=)0(?=&|$)", url):
        return url[: match.start()] + match.group(1) + "1" + url[match.end() :]
    if match := re.search(r"/(h264|h265)/(ch\d+)/main/", url, re.IGNORECASE):
        return url.replace(match.group(), f"/{match.group(1)}/{match.group(2)}/sub/")
    return ""


def picture_of(told: PictureTold) -> Picture:
    """Raises ``ValueError`` for words that do not exist."""
    for fault in (*told.faults, *([told.fault] if told.fault else ())):
        if fault not in PICTURE_FAULTS:
            raise ValueError(f"fault {fault[:40]!r}: expected one of {', '.join(PICTURE_FAULTS)}")
    return Picture(told.faults, told.known, told.shift)


def seat_of(told: SeatTold) -> Seat:
    """Raises ``ValueError`` for words that do not exist."""
    if told.state not in SEAT_STATES:
        raise ValueError(f"state {told.state[:40]!r}: expected one of {', '.join(SEAT_STATES)}")
    return Seat(told.window, told.state, told.evidence, told.score, told.reason[:500])


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Readings in what a worker wrote.  ``at`` is the worker's clock, which began at no date."""
    for number, row in enumerate(data.splitlines(), 1):
        if not row.strip():
            continue
        try:
            told = message(row[:LINE_LIMIT])
            if isinstance(told, PictureTold):
                yield Reading("capture", told.since, picture_of(told))
            elif isinstance(told, SeatTold):
                yield Reading("capture", told.since, seat_of(told))
            elif isinstance(told, Trouble):
                yield Reading("capture", 0, DeviceEvent("camera_trouble", detail=told.text[:500]))
        except ValueError as error:
            yield Reading("capture", 0, Unreadable(f"line {number}: {error}"), row[:200])


# --------------------------------------------------------------------------------------------
# One camera
# --------------------------------------------------------------------------------------------


class Camera:
    """What is known of a camera in the daemon."""

    def __init__(self, device: Device) -> None:
        self.id = device.id
        self.options: VideoOptions = device.options
        self.decoding: Decoding = device.options.decoding
        self.posts = self.options.posts
        self.seen = 0
        """When its last frame came, by the clock of whoever looks."""
        self.clock = 0
        """In snapshot mode: the time base of its pictures."""
        self._wall: Instant = 0
        self.lost = False
        self.judged = False
        """Whether anything is known of its picture, as last told."""
        self.seats: dict[str, str] = {}
        """States as last told, by window."""
        self.proposed: set[str] = set()
        """Windows whose posts look different for good."""
        self.late = 0
        """Beats with new frames since its thread was late and nothing was told; 0: it was not."""
        self.keep_out = 0.0
        """Monotonic seconds before which it is left alone, because it refused the password."""
        self.refusals = 0
        self.refused = ""
        """The fingerprint of what was refused."""
        self.account = account(self.options.url, self.options.username)
        self._dates: dict[str, Instant] = {}
        self._told_of: deque[Instant] = deque(maxlen=TROUBLES_AN_HOUR)

    def setup(self, context: Context, password: str) -> CameraSetup:
        options = self.options
        return CameraSetup(
            self.id,
            options.url,
            options.username,
            password,
            options.interval,
            options.open_timeout,
            options.read_timeout,
            options.mode == "auto" and self.decoding == "keyframes",
            options.osd_masks,
            options.ignore,
            options.frozen_after,
            options.covered_after,
            options.blurred_after,
            options.moved_after,
            options.dark_after,
            tuple(
                PostSetup(
                    post.window,
                    post.region,
                    post.person_share,
                    post.still_after,
                    _learned(context, self.id, f"post:{post.window}"),
                )
                for post in self.posts
            ),
            options.detector,
            _learned(context, self.id, "picture"),
            max(0.0, self.keep_out - time.monotonic()),
            self.refusals,
        )

    def advance(self, now: Instant) -> int:
        """The time base of the next picture: it never goes back, whatever the wall clock does."""
        passed = now - self._wall
        if not self.clock:
            self.clock = now
        else:
            self.clock += passed if passed > 0 else round(self.options.interval * 1000)
        self._wall = now
        return self.clock

    def dated(self, subject: str, at: Instant, now: Instant) -> Instant:
        """When something began, but after whatever else was told of the same: readings are judged
        by their dates, and what is told after a loss holds after it.  A clock that was set back is
        followed."""
        last = self._dates.get(subject, at - 1)
        if now < last - SET_BACK:
            last = at - 1
        at = self._dates[subject] = max(at, last + 1)
        return at

    def references(self, context: Context) -> References:
        return References(
            self.id,
            _learned(context, self.id, "picture"),
            {post.window: _learned(context, self.id, f"post:{post.window}") for post in self.posts},
        )

    def may_tell(self, now: Instant) -> bool:
        """Whether another trouble may be journalled in this hour."""
        told = self._told_of
        if len(told) == told.maxlen and 0 <= now - told[0] < 3_600_000:
            return False
        told.append(now)
        return True

    def fingerprint(self) -> str:
        """Of the login: changes when another password may be tried; tells nothing of it."""
        written, file = 0, self.options.password_file
        with suppress(OSError):
            written = os.stat(file).st_mtime_ns
        told = repr((written, file, self.account))
        return sha256(told.encode("utf-8", "replace")).hexdigest()[:32]


def _learned(context: Context, camera: str, name: str) -> bytes:
    """What the worker once asked to keep; nothing where it is damaged."""
    try:
        return b64decode(context.mark(camera, name) or "", validate=True)
    except ValueError:
        return b""


def _marks(camera: Camera, told: Keep) -> dict[tuple[str, str], str]:
    names = {"picture", *(f"post:{post.window}" for post in camera.posts)}
    if told.name not in names or len(told.learned) > KEPT_LIMIT:
        return {}
    return {(camera.id, told.name): b64encode(told.learned).decode("ascii")}


def _environment() -> dict[str, str]:
    """A worker finds this package in a checkout as in a wheel, and no other of this name."""
    root = str(Path(__file__).resolve().parents[1])
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH") or name.startswith("LC_")
    }
    # Arenas for every thread would multiply the memory.
    return inherited | {"PYTHONPATH": root, "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "2"}


COMMAND = (sys.executable, "-P", "-m", "drivers.video_worker")


class WorkerDied(Exception):
    """The worker ended, hangs or says what nobody understands."""


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------


class Video:
    """All cameras."""

    options: ClassVar[type] = VideoOptions
    attendance: ClassVar[bool] = False
    camera: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self._cameras = {device.id: Camera(device) for device in devices}
        self._workers: dict[Decoding, Worker] = {}
        self._restarts = 0
        self._garbled = 0
        self._unreadable: deque[Instant] = deque(maxlen=UNREADABLE_AN_HOUR)

    async def run(self, context: Context) -> None:
        if find_spec("cv2") is None:
            raise DeviceRefused(
                "没有安装视频组件 / OpenCV is not installed; install hallwatch[video]"
            )
        self._context = context
        self._workers = {}
        for camera in self._cameras.values():
            camera.decoding = camera.options.decoding
            self._prepare(camera)
        self._keep_out()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._orders(), name="video orders")
                for decoding in {camera.decoding for camera in self._cameras.values()}:
                    self._start(decoding)
        finally:
            await asyncio.gather(
                *(worker.close() for worker in self._workers.values()), return_exceptions=True
            )

    def _start(self, decoding: Decoding) -> None:
        if decoding == "snapshot":
            still = StillWorker(self._context, self)
            self._workers[decoding] = still
            for camera in self.of(decoding):
                self._tasks.create_task(still.watch(camera), name=f"video {camera.id}")
        else:
            moving = MovingWorker(decoding, self._context, self)
            self._workers[decoding] = moving
            self._tasks.create_task(moving.keep(), name=f"video {decoding}")

    def of(self, decoding: Decoding) -> list[Camera]:
        return [one for one in self._cameras.values() if one.decoding == decoding]

    def _prepare(self, camera: Camera) -> None:
        context, options = self._context, camera.options
        known = tuple(post for post in options.posts if post.window in context.windows)
        if len(known) < len(options.posts):
            strange = ", ".join(p.window for p in options.posts if p not in known)
            context.note(camera.id, unknown_windows=strange)
        camera.posts = known
        if better := substream(options.url):
            context.note(
                camera.id, warning=f"这是主码流，建议使用子码流 / the main stream; use {better}"
            )

    def _keep_out(self) -> None:
        """Leave alone all cameras whose login was refused to one of them before the restart."""
        context = self._context
        refused: dict[str, float] = {}
        for camera in self._cameras.values():
            until, _, fingerprint = (context.mark(camera.id, "refused") or "").partition(" ")
            if re.fullmatch("[0-9]{1,15}", until):
                left = (int(until) - context.now()) / 1000
                if 0 < left <= REFUSED_PAUSE:
                    refused[fingerprint] = max(left, refused.get(fingerprint, 0))
        for camera in self._cameras.values():
            if (remaining := refused.get(camera.fingerprint())) is not None:
                camera.keep_out = time.monotonic() + remaining
                camera.refusals, camera.refused = REFUSALS, camera.fingerprint()
                context.lost(camera.id, in_words("auth"))

    def refused_otherwise(self, camera: Camera) -> bool:
        """Whether a camera that is left alone may be asked again: its password file was written."""
        if camera.keep_out <= time.monotonic() or camera.fingerprint() == camera.refused:
            return False
        camera.keep_out, camera.refusals = 0.0, 0
        return True

    async def _orders(self) -> NoReturn:
        while True:
            device, order = await self._context.order()
            camera = self._cameras.get(device)
            if isinstance(order, LookAgain) and camera is not None:
                worker = self._workers.get(camera.decoding)
                if worker is not None:
                    with suppress(WorkerDied, OSError):  # Whoever keeps it finds out.
                        await worker.renew(camera)

    # -- what workers say

    async def hear(self, told: Message, decoding: Decoding, now: int) -> None:
        """``now`` is the present by the clock of whoever looked."""
        context = self._context
        camera = self._cameras.get(getattr(told, "camera", ""))
        match told:
            case Beat():
                await self._beat(told, decoding, now)
            case Trouble():
                await self._trouble(told, camera, decoding)
            case _ if camera is None:
                pass
            case Opened():
                camera.late = 0
                self.in_sight(camera, min(told.at, now))
            case LostSight():
                camera.late = 0
                camera.seen = max(camera.seen, min(told.at, now))
                await self.lose(camera, told)
            case PictureTold():
                picture = picture_of(told)
                camera.late = 0
                at = camera.dated("", self._instant(told.since, now), context.now())
                name = self._keep_snapshot(camera, at, told.fault, told.jpeg)
                picture = Picture(picture.faults, picture.known, picture.shift, name)
                await self.tell([Reading(camera.id, at, picture)])
                camera.judged = picture.known or bool(picture.faults)
            case SeatTold():
                seat = seat_of(told)
                if any(post.window == told.window for post in camera.posts):
                    since = self._instant(told.since, now)
                    at = camera.dated(told.window, since, context.now())
                    name = self._keep_snapshot(camera, at, f"{told.window}-empty", told.jpeg)
                    seat = Seat(
                        seat.window, seat.state, seat.evidence, seat.score, seat.reason, name
                    )
                    await self.tell([Reading(camera.id, at, seat)])
                    camera.seats[told.window] = seat.state
            case Facts():
                context.note(camera.id, **_harmless(told.facts))
                await self._propose(camera, told.facts)
            case Keep():
                await self.tell([], _marks(camera, told))
            case NeedsFull():
                await self._decode_all(camera, told)
            case _:
                pass

    def in_sight(self, camera: Camera, at: int) -> bool:
        """A frame came; false if it was known."""
        if at <= camera.seen:
            return False
        camera.seen, camera.lost, camera.refusals = at, False, 0
        self._context.contact(camera.id)
        return True

    def _instant(self, since: int, now: int) -> Instant:
        return self._context.now() - min(max(0, now - since), LONGEST_AGO)

    def _keep_snapshot(self, camera: Camera, at: Instant, subject: str, jpeg: bytes) -> str:
        if not jpeg or len(jpeg) > KEPT_LIMIT or not self._context.snapshots:
            return ""
        subject = re.sub(r"[^A-Za-z0-9]+", "-", subject)
        return self._context.keep_snapshot(camera.id, at, subject, jpeg)

    async def _beat(self, told: Beat, decoding: Decoding, now: int) -> None:
        for name, at in told.seen.items():
            camera = self._cameras.get(name)
            if camera is not None and self.in_sight(camera, min(at, now)) and camera.late:
                camera.late += 1
                if camera.late > LATE_BEATS:
                    # Its thread came back and tells nothing: nobody knows what holds.
                    camera.late = 0
                    self._watch_anew(camera)
        for name in told.stuck:
            camera = self._cameras.get(name)
            if camera is not None and not camera.lost:
                # Once its thread comes back, all is told again.
                camera.lost, camera.late = True, 1
                self._context.lost(name, in_words("stall"))
                await self.tell(self._unknown([camera], in_words("stall")))
        self._note(
            decoding,
            video_load=told.load,
            cameras_stuck=len(told.stuck),
            worker_restarts=self._restarts,
        )

    def _note(self, decoding: Decoding, **facts: Any) -> None:
        """Of a worker, with each of its cameras."""
        for camera in self.of(decoding):
            self._context.note(camera.id, **facts)

    def _watch_anew(self, camera: Camera) -> None:
        worker = self._workers.get(camera.decoding)
        if worker is not None:
            self._tasks.create_task(_begin(worker, camera), name=f"video begin {camera.id}")

    async def lose(self, camera: Camera, told: LostSight) -> None:
        context = self._context
        camera.lost = True
        wait = min(max(0.0, told.wait), REFUSED_PAUSE)
        reason = in_words(told.cause, told.status if 0 < told.status < 1000 else 0)
        context.lost(camera.id, reason)
        context.note(camera.id, last_cause=told.cause, next_try_s=round(wait))
        marks: dict[tuple[str, str], str] = {}
        if told.cause == "auth":
            camera.refusals = min(max(0, told.refusals), REFUSALS)
            camera.refused = camera.fingerprint()
            if camera.refusals >= REFUSALS:
                camera.keep_out = time.monotonic() + wait
                until = context.now() + round(wait * 1000)
                marks[(camera.id, "refused")] = f"{until} {camera.refused}"
        await self.tell(self._unknown([camera], reason), marks)
        if marks and told.status == REFUSED_STATUS:
            for other in self._cameras.values():
                # Those of the same worker know by themselves.
                if (
                    other.account == camera.account
                    and other.decoding != camera.decoding
                    and other.keep_out <= time.monotonic()
                ):
                    await self.lose(other, structs.replace(told, camera=other.id))
                    self._watch_anew(other)

    def _unknown(self, cameras: Sequence[Camera], reason: str) -> list[Reading]:
        """That nothing is known of these any more, where something was."""
        now = self._context.now()
        readings = []
        for camera in cameras:
            if camera.judged:
                camera.judged = False
                at = camera.dated("", now, now)
                readings.append(Reading(camera.id, at, Picture(known=False)))
            for window, state in camera.seats.items():
                if state != "unknown":
                    camera.seats[window] = "unknown"
                    at = camera.dated(window, now, now)
                    readings.append(Reading(camera.id, at, Seat(window, "unknown", reason=reason)))
        return readings

    async def died(self, decoding: Decoding, why: str, failures: int) -> None:
        """A worker is gone, and with it what was known of its cameras; after some failures in a
        row, the cameras too."""
        self._restarts += 1
        self._note(decoding, worker_restarts=self._restarts, worker_error=why)
        reason = "视频进程重启 / the video worker is being restarted"
        await self.tell(self._unknown(self.of(decoding), reason))
        if failures >= BLIND:
            for camera in self.of(decoding):
                camera.lost = True
                text = f"视频进程无法运行 / the video worker does not run: {why}"
                self._context.lost(camera.id, text)

    async def _trouble(self, told: Trouble, camera: Camera | None, decoding: Decoding) -> None:
        text = told.text[:500]
        if camera is None:
            self._note(decoding, trouble=text)
        else:
            self._context.note(camera.id, trouble=text)
        now = self._context.now()
        if camera is not None and camera.may_tell(now):
            event = DeviceEvent("camera_trouble", detail=text)
            await self.tell([Reading(camera.id, now, event)])

    async def _propose(self, camera: Camera, facts: Mapping[str, Any]) -> None:
        """Tell once of each post that looks different for good."""
        posts = facts.get("posts")
        seen = posts.items() if isinstance(posts, dict) else ()
        windows = {name for name, post in seen if isinstance(post, dict) and post.get("relearn")}
        for window in sorted(windows - camera.proposed):
            event = DeviceEvent("relearn_proposed", detail=str(window))
            await self.tell([Reading(camera.id, self._context.now(), event)])
        camera.proposed = windows

    async def _decode_all(self, camera: Camera, told: NeedsFull) -> None:
        if camera.decoding != "keyframes":
            return
        camera.decoding = "full"
        self._context.note(camera.id, gop_s=told.gop, mode="full")
        worker = self._workers.get("full")
        if worker is None:
            self._start("full")
        else:
            self._watch_anew(camera)

    async def tell(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> None:
        """Journal, however long that takes: what is not told now would never be."""
        if not readings and not marks:
            return
        while True:
            try:
                await self._context.emit(readings, marks)
                return
            except OSError as error:
                why = f"读数未能保存 / readings could not be stored: {error}"
                for device in {one.device for one in readings} | {one for one, _ in marks or ()}:
                    self._context.note(device, last_error=why)
            await self._context.sleep(5)

    async def unreadable(self, raw: bytes, error: ValueError, decoding: Decoding) -> None:
        """What a worker said and nobody understands."""
        now, told = self._context.now(), self._unreadable
        self._garbled += 1
        self._note(decoding, worker_lines_unreadable=self._garbled)
        if len(told) == told.maxlen and 0 <= now - told[0] < 3_600_000:
            return
        told.append(now)
        cameras = self.of(decoding)
        if cameras:
            body = Unreadable(str(error)[:300])
            await self.tell([Reading(cameras[0].id, now, body, raw[:200])])

    async def keep_last(self, raw: bytes) -> None:
        """What a worker that ends has learned; nothing else matters any more."""
        with suppress(ValueError, OSError):
            told = message(raw)
            camera = self._cameras.get(getattr(told, "camera", ""))
            if isinstance(told, Keep) and camera is not None:
                await self._context.emit([], _marks(camera, told))

    async def hear_raw(self, raw: bytes, decoding: Decoding, now: int) -> Message | None:
        """A line of a worker; returns what it said, where that can be read."""
        try:
            told = message(raw)
            await self.hear(told, decoding, now)
        except ValueError as error:
            await self.unreadable(raw, error, decoding)
            return None
        return told


def _harmless(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Live health, without what is no name or means something else; so many facts there are not."""
    return {
        name: fact
        for name, fact in list(facts.items())[:FACTS_LIMIT]
        if name.isidentifier() and len(name) <= 64 and name not in ("self", "device")
    }


async def _begin(worker: Worker, camera: Camera) -> None:
    with suppress(WorkerDied, OSError):  # Whoever keeps it finds out, and begins with all.
        await worker.begin(camera)


# --------------------------------------------------------------------------------------------
# Workers
# --------------------------------------------------------------------------------------------


class Worker(Protocol):
    async def begin(self, camera: Camera) -> None:
        """Watch one more camera."""

    async def renew(self, camera: Camera) -> None:
        """Begin anew with what was learned of this camera."""

    async def close(self) -> None:
        """End the process, after it told what it has learned."""


class MovingWorker:
    """A process that reads streams and tells by itself."""

    def __init__(self, decoding: Decoding, context: Context, video: Video) -> None:
        self._decoding = decoding
        self._context = context
        self._video = video
        self._process: Process | None = None
        self._without: dict[str, Camera] = {}
        """Cameras whose password cannot be read."""
        self._checked = 0.0
        self._failures = 0
        self._patience = WAKING_UP
        """Seconds that the process may take to read or to say something."""
        self._closed = False
        """What the process was told of the hall's working time."""

    async def keep(self) -> NoReturn:
        """Run the process for ever."""
        while True:
            began = time.monotonic()
            why = "the process ended"
            try:
                await self._run()
            except (WorkerDied, OSError) as error:
                why = str(error)
            await self._end()
            self._failures = 1 if time.monotonic() - began > STEADY else self._failures + 1
            await self._video.died(self._decoding, why, self._failures)
            await self._context.sleep(pause("stall", self._failures, 0))

    async def begin(self, camera: Camera) -> None:
        try:
            file = camera.options.password_file
            password = await asyncio.to_thread(read_password, file) if file else ""
        except ValueError as error:
            self._without[camera.id] = camera
            self._context.lost(camera.id, str(error))
            return
        self._without.pop(camera.id, None)
        await self._send(camera.setup(self._context, password))

    async def renew(self, camera: Camera) -> None:
        await self._send(camera.references(self._context))

    async def _send(self, told: Command) -> None:
        if self._process is None or self._process.stdin is None:
            return  # It will be told all at its start.
        try:
            async with asyncio.timeout(self._patience):
                with suppress(ConnectionError):
                    self._process.stdin.write(line(told))
                    await self._process.stdin.drain()
        except TimeoutError:
            raise WorkerDied(f"nothing was read for {self._patience:g} s") from None

    async def _run(self) -> None:
        self._patience = WAKING_UP
        self._process = process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        assert process.stdout is not None
        await self._send(Start(self._decoding, self._context.snapshots))
        self._closed = False
        for camera in self._video.of(self._decoding):
            await self.begin(camera)
        while True:
            try:
                async with asyncio.timeout(self._patience):
                    raw = await process.stdout.readline()
            except TimeoutError:
                raise WorkerDied(f"no sign of life for {self._patience:g} s") from None
            except ValueError:
                raise WorkerDied(f"a line of more than {LINE_LIMIT} bytes") from None
            if not raw:
                return
            told = await self._video.hear_raw(raw, self._decoding, _monotonic())
            if isinstance(told, Hello):
                self._patience = SILENT
            elif isinstance(told, Beat):
                stuck = told.stuck.values()
                if len(stuck) >= STUCK_MANY or any(one > STUCK_LONG for one in stuck):
                    raise WorkerDied(f"{len(stuck)} threads do not come back")
                await self._look_at_passwords()
                if self._closed != self._context.closed:
                    self._closed = self._context.closed
                    await self._send(Hours(self._closed))

    async def _look_at_passwords(self) -> None:
        if time.monotonic() - self._checked < PASSWORDS_EVERY:
            return
        self._checked = time.monotonic()
        for camera in self._video.of(self._decoding):
            if camera.id in self._without or self._video.refused_otherwise(camera):
                await self.begin(camera)

    async def close(self) -> None:
        process = self._process
        try:
            if process is not None and process.returncode is None and process.stdout is not None:
                with suppress(TimeoutError, ValueError, OSError, WorkerDied):
                    async with asyncio.timeout(STOPPING):
                        await self._send(Stop())
                        while raw := await process.stdout.readline():
                            await self._video.keep_last(raw)
        finally:
            await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            # Its own kill() may take the exit of one that just ended from asyncio, which warns.
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
        if process.stdout is not None:
            with suppress(ValueError):
                while await process.stdout.read(65536):
                    pass


class StillWorker:
    """A process that is shown one JPEG after another; what is fetched is fetched here."""

    def __init__(self, context: Context, video: Video) -> None:
        self._context = context
        self._video = video
        self._pipe = Pipe(Start("snapshot", context.snapshots))
        self._failures = 0
        self._accounts: dict[tuple[str, int, str], Account] = {}

    async def begin(self, camera: Camera) -> None:
        """Each is watched by a task of its own."""

    async def renew(self, camera: Camera) -> None:
        await asyncio.to_thread(self._pipe.forget, camera.id)

    async def watch(self, camera: Camera) -> NoReturn:
        """Fetch, show, tell; for ever."""
        options, context = camera.options, self._context
        while True:
            while (left := camera.keep_out - time.monotonic()) > 0:
                await context.sleep(min(PASSWORDS_EVERY, left))
                self._video.refused_otherwise(camera)
            try:
                file = options.password_file
                password = await asyncio.to_thread(read_password, file) if file else ""
            except ValueError as error:
                context.lost(camera.id, str(error))
                await context.sleep(PASSWORDS_EVERY)
                continue
            known = self._accounts.setdefault(camera.account, Account(context.now))
            known.expect(password, camera.refusals)
            async with httpx.AsyncClient(
                auth=SharedLogin(options.username, password, known),
                timeout=options.read_timeout,
                verify=False,
                trust_env=False,
            ) as client:
                await self._look_on(camera, client, known)

    async def _look_on(self, camera: Camera, client: httpx.AsyncClient, known: Account) -> None:
        """Until the password is refused for good."""
        failures = 0
        while camera.keep_out <= time.monotonic():
            failed = await self._look(camera, client)
            if failed is None:
                failures = 0
                await self._context.sleep(camera.options.interval)
                continue
            failures += 1
            if failures == 1 and failed.cause in ("timeout", "ended", "decode"):
                # One picture may get lost.
                await self._context.sleep(camera.options.interval)
                continue
            if failed.status == REFUSED_STATUS and camera.options.username:
                refusals = known.refusals
                wait = known.left
            else:
                refusals = camera.refusals + (failed.cause == "auth")
                wait = pause(failed.cause, failures, refusals)
            lost = LostSight(camera.id, failed.cause, camera.clock, wait, failed.status, refusals)
            await self._video.lose(camera, lost)
            if camera.keep_out <= time.monotonic():
                await self._context.sleep(wait)

    async def _look(self, camera: Camera, client: httpx.AsyncClient) -> NoPicture | None:
        """Look once; what went wrong, if something did."""
        options, video = camera.options, self._video
        try:
            async with asyncio.timeout(options.open_timeout + options.read_timeout):
                jpeg = await _fetch(client, options.url)
        except NoPicture as failed:
            return failed
        except (httpx.HTTPError, OSError) as error:
            return NoPicture(_cause(error))
        except ValueError:
            return NoPicture("decode")
        at = camera.advance(self._context.now())
        look = Analyse(camera.id, at, jpeg, anew=camera.lost, closed=self._context.closed)
        try:
            answer, decoded = await asyncio.to_thread(
                self._pipe.exchange, lambda: camera.setup(self._context, ""), look
            )
        except (WorkerDied, OSError) as error:
            self._failures += 1
            await video.died("snapshot", str(error), self._failures)
            await self._context.sleep(pause("stall", self._failures, 0))
            return None
        self._failures = 0
        if decoded:
            video.in_sight(camera, at)
        for raw in answer:
            await video.hear_raw(raw, "snapshot", at)
        return None if decoded else NoPicture("decode")

    async def close(self) -> None:
        for raw in await asyncio.to_thread(self._pipe.close):
            await self._video.keep_last(raw)


class NoPicture(Exception):
    """Nothing that could be shown to the worker came."""

    def __init__(self, cause: Cause, status: int = 0) -> None:
        super().__init__(cause)
        self.cause: Cause = cause
        self.status = status


NEVER: Instant = -1000 * PROVEN


class Account:
    """A user of a device: until a password was accepted, one camera tries it at a time, and a
    refusal holds for all.  By the hall's clock, which may be set."""

    def __init__(self, now: Callable[[], Instant]) -> None:
        self._now = now
        self.one = asyncio.Lock()
        self._password = ""
        self._refused, self._accepted = 0, NEVER
        self._pause = 0.0
        self.refusals = 0

    def expect(self, password: str, refusals: int) -> None:
        """Another password may be tried at once, and one that was refused after its pause."""
        if password != self._password:
            self._password, self._pause, self.refusals = password, 0.0, 0
        self.refusals = max(self.refusals, refusals)

    @property
    def left(self) -> float:
        """Seconds for which no password may be tried."""
        passed = (self._now() - self._refused) / 1000
        left = self._pause - passed
        return left if passed >= 0 and left > 0.005 else 0.0

    @property
    def proven(self) -> bool:
        return 0 <= self._now() - self._accepted < PROVEN * 1000

    def judge(self, status: int) -> None:
        if status == REFUSED_STATUS:
            self.refusals += 1
            self._pause = pause("auth", self.refusals, self.refusals)
            self._refused, self._accepted = self._now(), NEVER
        else:
            self._accepted, self.refusals = self._now(), 0


class SharedLogin(Login):
    """A login whose refusals count for all cameras of an account."""

    def __init__(self, username: str, password: str, known: Account) -> None:
        super().__init__(username, password)
        self._account = known

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self.auth_flow(request)
        sent = next(flow)
        with suppress(StopIteration):
            while True:
                if "authorization" not in sent.headers or self._account.proven:
                    response = yield sent
                else:
                    async with self._account.one:
                        if self._account.left:
                            raise NoPicture("auth", REFUSED_STATUS)
                        response = yield sent
                        if response.status_code != REFUSED_STATUS:
                            self._account.judge(response.status_code)
                sent = flow.send(response)
        if "authorization" in sent.headers and response.status_code == REFUSED_STATUS:
            self._account.judge(REFUSED_STATUS)


async def _fetch(client: httpx.AsyncClient, url: str) -> bytes:
    async with client.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise NoPicture(cause_of(answer.status_code) or "decode", answer.status_code)
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > PICTURE_LIMIT:
                raise NoPicture("decode")
        return bytes(body)


def _cause(error: BaseException | None) -> Cause:
    """Of a request that failed, by what it was raised from."""
    found: Cause = "timeout"
    for _ in range(10):
        if isinstance(error, socket.gaierror):
            return "dns"
        if isinstance(error, ConnectionRefusedError):
            return "refused"
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            found = "ended"
        if error is None:
            break
        error = error.__cause__ or error.__context__
    return found


class Pipe:
    """The worker of snapshot mode, asked and answered in a thread: under a simulated clock, in no
    time at all."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()
        self._buffer = bytearray()

    def exchange(self, setup: Callable[[], CameraSetup], look: Analyse) -> tuple[list[bytes], bool]:
        """What the worker says to this picture, and whether it could be decoded."""
        with self._lock:
            try:
                return self._exchange(setup, look)
            except (WorkerDied, OSError):
                self._end()
                raise

    def forget(self, camera: str) -> None:
        """Set this camera up anew before its next picture."""
        with self._lock:
            self._known.discard(camera)

    def close(self) -> list[bytes]:
        """End it; its last words."""
        with self._lock:
            said: list[bytes] = []
            if self._process is not None:
                with suppress(WorkerDied, OSError):
                    until = time.monotonic() + STOPPING
                    self._write(line(Stop()), until)
                    while True:
                        said.append(self._read(until))
                self._end()
            return said

    def _exchange(
        self, setup: Callable[[], CameraSetup], look: Analyse
    ) -> tuple[list[bytes], bool]:
        if self._process is None:
            self._begin()
        until = time.monotonic() + EXCHANGE
        if look.camera not in self._known:
            self._write(line(setup()), until)
            self._known.add(look.camera)
        self._write(line(look), until)
        said: list[bytes] = []
        while True:
            raw = self._read(until)
            with suppress(ValueError):
                if isinstance(told := message(raw), Done):
                    return said, told.decoded
            said.append(raw)

    def _begin(self) -> None:
        self._known.clear()
        self._buffer.clear()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        until = time.monotonic() + WAKING_UP
        self._write(line(self._start), until)
        while not isinstance(message(self._read(until)), Hello):
            pass

    def _write(self, data: bytes, until: float) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        left = memoryview(data)
        while left:
            _await(self._process.stdin.fileno(), select.POLLOUT, until)
            left = left[os.write(self._process.stdin.fileno(), left[:65536]) :]

    def _read(self, until: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_LIMIT:
                raise WorkerDied(f"a line of more than {LINE_LIMIT} bytes")
            _await(self._process.stdout.fileno(), select.POLLIN, until)
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise WorkerDied("the process ended")
            self._buffer += chunk
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return raw

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


def _await(descriptor: int, event: int, until: float) -> None:
    waiting = select.poll()
    waiting.register(descriptor, event)
    if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
        raise WorkerDied("no answer in time")


def _monotonic() -> int:
    return time.monotonic_ns() // 1_000_000


DRIVER = Video
