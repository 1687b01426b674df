"""Pictures out of streams, files and JPEGs, by OpenCV's FFmpeg backend.

For the worker's process: OpenCV reads what stands in the environment before it is loaded, and the
options of a capture hold for the whole process, so ``decode_as`` is called once, before the first
``Stream``.

What the backend does, measured with OpenCV 4.14 and 5.0 and relied upon here:

    ``avdiscard;nonkey`` leaves all but the key frames undecoded: a third to a ninth of the work
    without ``OPENCV_FFMPEG_IS_THREAD_SAFE`` one dead camera delays the opening of all others
    ``grab`` decodes; its timeout covers the wait for a key frame too
    after a stall ``grab`` gives a stale frame at the timeout: whatever took 0.95 of it is a loss
    a capture that failed never recovers: let it go and open anew
    an interpreter that ends while a thread is in ``grab`` aborts: leave by ``os._exit``
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from drivers.rtsp_probe import Login, cause_of, probe
from drivers.video_lines import in_words, read_password

os.environ["OPENCV_FFMPEG_IS_THREAD_SAFE"] = "1"
# FFmpeg prints addresses with the password.
os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""Height by width of luma, or by three of blue, green and red."""

STALE = 0.95
MOST_PIXELS = 40_000_000
_LUMA = {"I420", "J420", "NV12", "YV12"}


class NoPicture(Exception):
    """What was read is no picture that can be used; says why."""


def decode_as(decoding: Literal["keyframes", "full"], patient: bool = False) -> None:
    """How every stream of this process is opened and decoded from now on.  ``patient``: look
    longer for the size of the picture, as H.265 without parameter sets in its SDP needs."""
    options = ["rtsp_transport;tcp"]
    if not patient:
        # A fifth of the time that opening takes otherwise.
        options.append("analyzeduration;200000|probesize;100000")
    if decoding == "keyframes":
        options.append("avdiscard;nonkey")
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(options)


def with_credentials(url: str, username: str, password: str) -> str:
    """The address as FFmpeg wants it; for nobody else's eyes."""
    if not username:
        return url
    parts = urlsplit(url)
    secret = f"{quote(username, safe='')}:{quote(password, safe='')}@{parts.netloc}"
    return urlunsplit(parts._replace(netloc=secret))


class Stream:
    """An opened stream or file, for one thread.  ``NoPicture`` if it could not be opened."""

    def __init__(
        self,
        address: str,
        open_timeout: float,
        read_timeout: float,
        colour: bool = False,
    ) -> None:
        self._limit = read_timeout
        self._capture = cv2.VideoCapture(
            address,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                round(open_timeout * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                round(read_timeout * 1000),
                cv2.CAP_PROP_N_THREADS,
                1,
            ],
        )
        if not self._capture.isOpened():
            raise NoPicture("the stream cannot be opened")
        self.width = self._whole(cv2.CAP_PROP_FRAME_WIDTH)
        self.height = self._whole(cv2.CAP_PROP_FRAME_HEIGHT)
        self.codec = _fourcc(self._whole(cv2.CAP_PROP_FOURCC))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = round(rate, 1) if 0 < rate <= 240 else 0.0
        pixels = _fourcc(self._whole(cv2.CAP_PROP_CODEC_PIXEL_FORMAT))
        # Of MJPEG, the raw bytes would come.
        if not colour and pixels in _LUMA and self.codec.upper() not in ("MJPG", "JPEG"):
            self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)

    def grab(self) -> bool:
        """Decode the next frame; false when the stream ended, and after ``read_timeout``, when it
        ``stalled``."""
        began = time.monotonic()
        came = self._capture.grab()
        self.stalled = time.monotonic() - began >= STALE * self._limit
        return bool(came) and not self.stalled

    def frame(self) -> Frame:
        """The frame that was grabbed.  ``NoPicture`` if nothing can be made of it."""
        try:
            good, picture = self._capture.retrieve()
        except cv2.error as error:
            raise NoPicture(f"OpenCV: {error.err}") from None
        if not good or picture is None or picture.dtype != np.uint8 or picture.size == 0:
            raise NoPicture("expected a picture of 8 bits")
        return _plane(picture)

    def position(self) -> float:
        """Seconds into a file."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def close(self) -> None:
        self._capture.release()

    def _whole(self, name: int) -> int:
        told = self._capture.get(name)
        return int(told) if -(2**31) <= told < 2**32 else 0


def _plane(picture: Any) -> Frame:
    """Without an axis of length one, which some versions add to luma."""
    frame: Frame = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3):
        raise NoPicture(f"expected luma or three colours, not the shape {picture.shape}")
    if min(frame.shape[:2]) < 16:
        raise NoPicture(f"expected at least 16x16 pixels, not the shape {picture.shape}")
    return frame


def _fourcc(code: int) -> str:
    letters = (code & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
    return "".join(letter for letter in letters if letter.isascii() and letter.isalnum())


# --------------------------------------------------------------------------------------------
# JPEG
# --------------------------------------------------------------------------------------------


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG tells of itself.  ``NoPicture`` if it is none."""
    if not data.startswith(b"\xff\xd8"):
        raise NoPicture("expected a JPEG, which begins with FF D8")
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise NoPicture(f"JPEG: expected a marker at byte {at}")
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        elif kind in (0xD9, 0xDA):
            break
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    raise NoPicture("JPEG: expected a frame header")


def decode_jpeg(data: bytes, colour: bool = False) -> Frame:
    """A JPEG at the smallest scale that is at least 480 wide.  ``NoPicture`` if it is none."""
    width, height = jpeg_size(data)
    if not (width >= 16 and height >= 16 and width * height <= MOST_PIXELS):
        raise NoPicture(f"JPEG: {width}x{height} pixels")
    gray = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}
    gray |= {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 1: cv2.IMREAD_GRAYSCALE}
    full = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4}
    full |= {2: cv2.IMREAD_REDUCED_COLOR_2, 1: cv2.IMREAD_COLOR}
    scale = next((scale for scale in (8, 4, 2) if width >= scale * 480), 1)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), (full if colour else gray)[scale])
    except cv2.error as error:
        raise NoPicture(f"OpenCV: {error.err}") from None
    if picture is None:
        raise NoPicture("JPEG: damaged")
    return _plane(picture)


# --------------------------------------------------------------------------------------------
# Looking without a driver
# --------------------------------------------------------------------------------------------


class Source(Protocol):
    """The options of a camera, as far as they say where pictures come from."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password_file(self) -> str: ...
    @property
    def open_timeout(self) -> float: ...
    @property
    def read_timeout(self) -> float: ...


def look(source: Source, count: int = 1, seconds: float = 0) -> list[Frame]:
    """``count`` colour pictures, spread over ``seconds``, for aiming a camera and for teaching.

    Raises ``NoPicture``, and ``ValueError`` for a password that cannot be read.  In a process of
    its own: a stream may keep it waiting for ever.
    """
    password = read_password(source.password_file) if source.password_file else ""
    shots = _fetched if source.url.startswith("http") else _streamed
    frames: list[Frame] = []
    began = time.monotonic()
    for frame in shots(source, password):
        due = began + seconds * len(frames) / max(1, count - 1)
        if source.url.startswith("http"):
            time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() >= due:
            frames.append(frame())
        if len(frames) == count:
            return frames
    raise NoPicture(f"the stream ended after {len(frames)} of {count} pictures")


def _streamed(source: Source, password: str) -> Iterator[Callable[[], Frame]]:
    if not source.url.startswith("/"):
        found = probe(source.url, source.username, password, source.open_timeout)
        if found.cause is not None:
            raise NoPicture(in_words(found.cause, found.status))
    decode_as("full")
    address = with_credentials(source.url, source.username, password)
    stream = Stream(address, source.open_timeout, source.read_timeout, colour=True)
    try:
        while stream.grab():
            yield stream.frame
    finally:
        stream.close()


def _fetched(source: Source, password: str) -> Iterator[Callable[[], Frame]]:
    def fetch() -> Frame:
        try:
            answer = client.get(source.url)
        except httpx.HTTPError as error:
            raise NoPicture(f"no picture: {type(error).__name__}") from None
        if answer.status_code != 200:
            raise NoPicture(in_words(cause_of(answer.status_code) or "decode", answer.status_code))
        return decode_jpeg(answer.content, colour=True)

    login = Login(source.username, password)
    with httpx.Client(
        auth=login, timeout=source.read_timeout, verify=False, trust_env=False
    ) as client:
        while True:
            yield fetch
