"""What a technician wants to see of a camera, and what it is to learn: pictures to conclusions.

For a process of its own, as ``capture`` is: ``hallwatch camera`` starts it.  No clock and no state;
what was learned before is handed in, what is learned anew is handed back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.capture import Frame, NoPicture, Source, Stream, look, with_credentials
from drivers.picture import PictureOptions, PictureState, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView
from drivers.video_lines import read_password

Grey = NDArray[np.uint8]
Region = tuple[tuple[float, float], ...]

AIM_PICTURES, AIM_SECONDS = 6, 5.0
LEARN_PICTURES, LEARN_SECONDS = 15, 30.0
RESTLESS = 0.03
"""Share of the region that differs from the median of the pictures: somebody moved there."""
ELSEWHERE = ("moved", "view_changed", "partly_covered")
"""Faults of a camera that looks at something else than it did: what it sees now can be learned."""
THRESHOLD = 0.5
"""Of the score: what is above it does not look empty."""


class Post(Protocol):
    @property
    def window(self) -> str: ...
    @property
    def region(self) -> Region: ...
    @property
    def person_share(self) -> float: ...
    @property
    def still_after(self) -> int: ...


class Camera(Source, Protocol):
    """The options of a camera, as far as they matter here."""

    @property
    def osd_masks(self) -> tuple[tuple[float, float, float, float], ...]: ...
    @property
    def posts(self) -> Sequence[Post]: ...


class PostAimed(NamedTuple):
    """``score`` is none where nothing could be compared; ``learned``: in which light the empty post
    is known; ``restless``: share of the region in which something moved."""

    window: str
    score: float | None
    reason: str
    learned: tuple[str, ...]
    restless: float


class Aimed(NamedTuple):
    """``known``: whether the whole picture was learned.  ``faults``: what most of these pictures
    speak for; those that must last have not been waited for.  ``jpeg``: the picture with the
    regions, people and all."""

    width: int
    height: int
    codec: str
    bucket: str
    known: bool
    faults: tuple[str, ...]
    shift: tuple[float, float] | None
    measures: dict[str, float]
    posts: tuple[PostAimed, ...]
    jpeg: bytes
    problems: tuple[str, ...]


class Learned(NamedTuple):
    """``marks``: what is to be stored, by window.  ``restless`` and ``score`` as in ``PostAimed``,
    the score by what was known before.  ``picture``: what is to be stored of the whole picture,
    because the camera looks elsewhere; empty where it does not."""

    bucket: str
    marks: dict[str, bytes]
    restless: dict[str, float]
    score: dict[str, float | None]
    picture: bytes


def aim(camera: Camera, learned: Mapping[str, bytes]) -> Aimed:
    """Look for some seconds.  ``learned``: what the driver keeps, by the names of its marks.

    Raises ``NoPicture``, and ``ValueError`` for a password that cannot be read.
    """
    frames = look(camera, AIM_PICTURES, AIM_SECONDS)
    return aimed(camera, learned, frames, AIM_SECONDS, _codec(camera))


def learn(
    camera: Camera, learned: Mapping[str, bytes], windows: Sequence[str], occupied: bool
) -> Learned:
    """Look for half a minute, and learn the posts of these windows, empty or occupied.

    Raises ``NoPicture``, and ``ValueError`` with a sentence where these pictures cannot teach.
    """
    frames = look(camera, LEARN_PICTURES, LEARN_SECONDS)
    return taught(camera, learned, windows, occupied, frames, LEARN_SECONDS)


def aimed(
    camera: Camera,
    learned: Mapping[str, bytes],
    frames: Sequence[Frame],
    seconds: float,
    codec: str = "",
) -> Aimed:
    """What these pictures, spread over so many seconds, show."""
    problems: list[str] = []
    smalls = _smalls(frames)
    states = _watched(camera, learned.get("picture"), smalls, seconds, problems)
    last = states[-1]
    faults = _suspected(states)
    posts: list[PostAimed] = []
    drawn = _as_colour(frames[-1])
    strips: list[Frame] = []
    others = _others(camera, smalls[-1].shape)
    for number, post in enumerate(camera.posts):
        view = _view(camera, post, learned.get(f"post:{post.window}"), problems)
        score, reason = _scored(view, smalls, states, seconds, others)
        restless = _restless(camera, smalls, post.region)
        empties = view.learned
        posts.append(PostAimed(post.window, score, reason, tuple(sorted(empties)), restless))
        _draw(drawn, post, score, number)
        if last.bucket in empties:
            strips.append(_strip(post.window, empties[last.bucket]))
    whole = _beside(drawn, strips)
    _, jpeg = cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 90])
    height, width = frames[-1].shape[:2]
    return Aimed(
        width, height, codec, last.bucket, last.known, faults, last.shift, dict(last.measures),
        tuple(posts), jpeg.tobytes(), tuple(problems),
    )  # fmt: skip


def taught(
    camera: Camera,
    learned: Mapping[str, bytes],
    windows: Sequence[str],
    occupied: bool,
    frames: Sequence[Frame],
    seconds: float,
) -> Learned:
    """What these pictures teach about the posts of these windows."""
    smalls = _smalls(frames)
    states = _watched(camera, learned.get("picture"), smalls, seconds, [])
    faults = _suspected(states)
    elsewhere = bool(faults) and not occupied and set(faults) <= set(ELSEWHERE)
    if faults and not elsewhere:
        raise ValueError(f"画面异常，未学习 / the picture is bad: {', '.join(faults)}")
    if elsewhere and any(post.window not in windows for post in camera.posts):
        raise ValueError(
            f"镜头已改变视角（{', '.join(faults)}），请不带 --window 一次学完全部岗位 / the camera"
            " looks elsewhere than before: learn all its posts at once, without --window"
        )
    bucket = states[-1].bucket
    others = _others(camera, smalls[-1].shape)
    picture = b""
    if elsewhere:
        watch = PictureWatch(PictureOptions(masks=camera.osd_masks))
        watch.adopt(smalls, bucket)
        picture = watch.reference() or b""
        # What was learned of the posts, in whatever light, lies elsewhere now.
        learned = {}
    found = Learned(bucket, {}, {}, {}, picture)
    for post in camera.posts:
        if post.window not in windows:
            continue
        view = _view(camera, post, learned.get(f"post:{post.window}"), [])
        found.score[post.window], _ = _scored(view, smalls, states, seconds, others)
        found.restless[post.window] = _restless(camera, smalls, post.region)
        try:
            (view.learn_occupied if occupied else view.learn_empty)(smalls, bucket)
        except ValueError as error:
            raise ValueError(f"{post.window}: {error}") from None
        found.marks[post.window] = view.references() or b""
    return found


# --------------------------------------------------------------------------------------------
# Looking
# --------------------------------------------------------------------------------------------


def _codec(camera: Source) -> str:
    """What the stream is coded in; empty where that cannot be told."""
    if camera.url.startswith("http"):
        return "jpeg"
    password = read_password(camera.password_file) if camera.password_file else ""
    address = with_credentials(camera.url, camera.username, password)
    try:
        stream = Stream(address, camera.open_timeout, camera.read_timeout)
    except NoPicture:
        return ""
    try:
        return stream.codec
    finally:
        stream.close()


def _smalls(frames: Sequence[Frame]) -> list[Grey]:
    smalls = []
    for frame in frames:
        luma = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        smalls.append(shrink(np.asarray(luma, dtype=np.uint8)))
    return smalls


def _moments(count: int, seconds: float) -> list[int]:
    return [1 + round(1000 * seconds * number / max(1, count - 1)) for number in range(count)]


def _watched(
    camera: Camera, learned: bytes | None, smalls: Sequence[Grey], seconds: float, problems: Any
) -> list[PictureState]:
    options = PictureOptions(masks=camera.osd_masks)
    try:
        watch = PictureWatch(options, learned or None)
    except ValueError as error:
        problems.append(f"picture: {error}")
        watch = PictureWatch(options)
    moments = _moments(len(smalls), seconds)
    return [watch.see(at, small) for at, small in zip(moments, smalls, strict=True)]


def _suspected(states: Sequence[PictureState]) -> tuple[str, ...]:
    """What more than half of the pictures speak for, in the order of the last."""
    counts = Counter(fault for state in states for fault in state.suspected)
    return tuple(fault for fault, n in counts.items() if 2 * n > len(states))


def _view(camera: Camera, post: Post, learned: bytes | None, problems: list[str]) -> PostView:
    options = PostOptions(post.region, post.person_share, post.still_after, camera.osd_masks)
    try:
        return PostView(options, learned or None, settling=0)
    except ValueError as error:
        problems.append(f"{post.window}: {error}")
        return PostView(options, settling=0)


def _scored(
    view: PostView,
    smalls: Sequence[Grey],
    states: Sequence[PictureState],
    seconds: float,
    others: NDArray[np.bool_],
) -> tuple[float | None, str]:
    """The median score, and why there is none."""
    scores, reason = [], ""
    for at, small, state in zip(_moments(len(smalls), seconds), smalls, states, strict=True):
        # That the whole picture has not been learned yet does not keep a post from being compared.
        seat = view.see(at, small, state._replace(known=True), others)
        reason = seat.reason
        if seat.score is not None:
            scores.append(seat.score)
    return (round(float(np.median(scores)), 3), "") if scores else (None, reason)


def _others(camera: Camera, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels of all posts."""
    mask = np.zeros(shape[:2], np.uint8)
    for post in camera.posts:
        cv2.fillPoly(mask, [_corners(post.region, shape)], (1,))
    return mask > 0


def _restless(camera: Camera, smalls: Sequence[Grey], region: Region) -> float:
    inside = np.zeros(smalls[-1].shape, np.uint8)
    cv2.fillPoly(inside, [_corners(region, inside.shape)], (1,))
    for x0, y0, x1, y1 in camera.osd_masks:
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        cv2.fillPoly(inside, [_corners(corners, inside.shape)], (0,))
    if not inside.any():
        return 0.0
    same = [small for small in smalls if small.shape == inside.shape]
    middle = np.asarray(np.median(np.stack(same), axis=0), np.uint8)
    shares = [float((cv2.absdiff(small, middle) > 25)[inside > 0].mean()) for small in same]
    return round(max(shares), 3)


# --------------------------------------------------------------------------------------------
# Drawing
# --------------------------------------------------------------------------------------------

_COLOURS = ((0, 220, 255), (255, 160, 0), (80, 220, 80), (220, 80, 220), (0, 140, 255))


def _corners(region: Region, shape: Sequence[int]) -> NDArray[np.int32]:
    return np.array([(round(x * shape[1]), round(y * shape[0])) for x, y in region], np.int32)


def _as_colour(frame: Frame) -> Frame:
    """A copy of at most 1280 pixels."""
    colour = frame if frame.ndim == 3 else cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    scale = min(1.0, 1280 / colour.shape[1])
    resized = cv2.resize(colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.array(resized, np.uint8)


def _draw(picture: Frame, post: Post, score: float | None, number: int) -> None:
    corners = _corners(post.region, picture.shape)
    colour = _COLOURS[number % len(_COLOURS)]
    cv2.polylines(picture, [corners], True, (0, 0, 0), 4)
    cv2.polylines(picture, [corners], True, colour, 2)
    label = post.window if score is None else f"{post.window} {score:.2f}"
    left, top = (int(v) for v in corners.min(0))
    _write(picture, label, left + 4, max(20, top + 20), colour)


def _write(picture: Frame, words: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, words, (x, y), font, 0.6, (0, 0, 0), 4)
    cv2.putText(picture, words, (x, y), font, 0.6, colour, 1)


def _strip(window: str, region: Grey) -> Frame:
    """The learned empty post, twice its size, under its name."""
    shown = cv2.cvtColor(cv2.resize(region, None, fx=2, fy=2), cv2.COLOR_GRAY2BGR)
    wide = max(200, shown.shape[1])
    strip = np.zeros((shown.shape[0] + 30, wide, 3), np.uint8)
    strip[30:, : shown.shape[1]] = shown
    _write(strip, f"{window} empty", 4, 21, (255, 255, 255))
    return strip


def _beside(picture: Frame, strips: Sequence[Frame]) -> Frame:
    """The strips to the right of the picture, one below the other."""
    if not strips:
        return picture
    wide = max(strip.shape[1] for strip in strips)
    high = max(picture.shape[0], sum(strip.shape[0] for strip in strips))
    whole = np.zeros((high, picture.shape[1] + wide, 3), np.uint8)
    whole[: picture.shape[0], : picture.shape[1]] = picture
    top = 0
    for strip in strips:
        below = top + strip.shape[0]
        whole[top:below, picture.shape[1] : picture.shape[1] + strip.shape[1]] = strip
        top = below
    return whole
