"""Options, lines and everything of the video driver that needs no camera."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from drivers import capture, video, video_lines, video_worker
from drivers.capture import NoPicture, decode_jpeg, jpeg_size, with_credentials
from drivers.detector import DetectorProblem
from drivers.emulators.scene import Scene
from drivers.picture import PictureOptions, PictureState, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView, SeatState
from drivers.rtsp_probe import Found
from drivers.video import Post, VideoOptions, decode, substream
from drivers.video_lines import (
    CameraSetup,
    PictureTold,
    PostSetup,
    SeatTold,
    Trouble,
    command,
    line,
    message,
    pause,
    read_password,
)
from drivers.video_worker import Analysis, Minds, needs_full, next_level, stretched
from rules.model import DeviceEvent, Picture, Reading, Seat, Unreadable

SHANGHAI = ZoneInfo("Asia/Shanghai")
SQUARE = ((0.2, 0.2), (0.6, 0.2), (0.6, 0.8), (0.2, 0.8))
URL = "rtsp://10.1.2.3:554/Streaming/Channels/102"

# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        (VideoOptions(URL), "keyframes"),
        (VideoOptions(URL, mode="full"), "full"),
        (VideoOptions("https://10.1.2.3/picture"), "snapshot"),
        (VideoOptions("/clips/hall.mp4"), "full"),
        (VideoOptions("/clips/hall.mp4", mode="keyframes"), "keyframes"),
    ],
)
def test_the_way_of_decoding_follows_from_address_and_mode(
    options: VideoOptions, decoding: str
) -> None:
    assert options.decoding == decoding
    assert options.link() == VideoOptions("/x").link()


def test_the_windows_of_the_posts_are_told() -> None:
    options = VideoOptions(URL, posts=(Post("w07", SQUARE), Post("w08", SQUARE)))

    assert options.windows() == ("w07", "w08")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": "rtsp://admin:top-secret@10.1.2.3/x"}, "url holds a password"),
        ({"url": "http://10.1.2.3/s.jpg?user=a&password=top-secret"}, "url holds a password"),
        ({"url": "rtsp://10.1.2.3/user=a_password=top-secret_channel=1"}, "url holds a password"),
        ({"url": "rtsp://10.1.2.3/user=a&pass%77ord=top-secret"}, "url holds a password"),
        ({"url": "http://10.1.2.3/s.jpg?auth=top-secret"}, "url holds a password"),
        ({"url": "http://10.1.2.3/s.jpg?u=a&pass=top-secret"}, "url holds a password"),
        ({"url": "http://10.1.2.3/s.jpg?access_token=top-secret"}, "url holds a password"),
        ({"url": "ftp://10.1.2.3/x"}, "expected rtsp, rtsps, http or https"),
        ({"url": "rtsp://10.1.2.3:99999/x"}, "expected scheme://host:port/path"),
        ({"url": "rtsp:///x"}, "expected scheme://host:port/path"),
        ({"url": "rtsp://10.1.2.3/a b"}, "visible ASCII"),
        ({"url": "rtsp://10.1.2.3/\r\nx: y"}, "visible ASCII"),
        ({"url": ""}, "visible ASCII"),
        ({"mode": "snapshot"}, "needs the http address"),
        ({"url": "http://10.1.2.3/x", "mode": "full"}, "by http there are only snapshots"),
        ({"url": "/clip.mp4", "mode": "snapshot"}, "a file cannot be read"),
        ({"username": "a:b"}, "username: expected no colon"),
        ({"password_file": "/x"}, "password_file is given, but no username"),
        ({"interval": 0.1}, "interval is 0.1; expected 0.5 to 10 seconds"),
        ({"read_timeout": 300}, "read_timeout is 300"),
        ({"frozen_after": 0}, "frozen_after is 0"),
        ({"osd_masks": ((0.5, 0.0, 0.4, 0.1),)}, "is no box"),
        ({"osd_masks": ((0.0, 0.0, 1.0, 1.0),)}, "hide more than three quarters"),
        ({"ignore": ("ugly",)}, "ignore: 'ugly' is none of black"),
        ({"detector": "person.onnx"}, "expected the absolute name"),
        ({"posts": (Post("w1", SQUARE), Post("w1", SQUARE))}, "the window w1 is given twice"),
        ({"posts": tuple(Post(f"w{n}", SQUARE) for n in range(17))}, "at most 16"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        VideoOptions(**{"url": URL} | given)

    assert "top-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"window": ""}, "window is empty"),
        ({"region": SQUARE[:2]}, "has 2 corners; expected 3 to 64"),
        ({"region": ((0.0, 0.0), (1.2, 0.0), (0.5, 1.0))}, "expected corners between 0 and 1"),
        ({"region": ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))}, "its sides cross"),
        ({"region": ((0.0, 0.0), (1.0, 0.0), (0.5, 0.01))}, "covers 0.5% of the picture"),
        ({"region": ((0.1, 0.1), (0.1, 0.1), (0.1, 0.1))}, "covers 0.0%"),
        ({"person_share": 0.0}, "person_share is 0.0"),
        ({"still_after": 1}, "still_after is 1"),
    ],
)
def test_wrong_posts_are_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Post(**{"window": "w1", "region": SQUARE} | given)


def test_settings_are_checked_by_their_types_down_to_the_posts() -> None:
    read = TypeAdapter(VideoOptions).validate_json
    post = {"window": "w1", "region": [list(corner) for corner in SQUARE]}

    assert read(json.dumps({"url": URL, "posts": [post]})).posts == (Post("w1", SQUARE),)
    with pytest.raises(ValidationError, match="sort"):
        read(json.dumps({"url": URL, "posts": [post | {"sort": 1}]}))


@pytest.mark.parametrize(
    ("main", "sub"),
    [
        ("rtsp://h/Streaming/Channels/101", "rtsp://h/Streaming/Channels/102"),
        ("rtsp://h/Streaming/Channels/1601?x=1", "rtsp://h/Streaming/Channels/1602?x=1"),
        (
            "rtsp://h/cam/realmonitor?channel=1&subtype=0",
            "rtsp://h/cam/realmonitor?channel=1&subtype=1",
        ),
        ("rtsp://h/h264/ch1/main/av_stream", "rtsp://h/h264/ch1/sub/av_stream"),
        ("rtsp://h/Streaming/Channels/102", ""),
        ("rtsp://h/cam/realmonitor?channel=1&subtype=1", ""),
        ("rtsp://h/live", ""),
    ],
)
def test_the_main_stream_of_known_makers_is_noticed(main: str, sub: str) -> None:
    assert substream(main) == sub


def test_the_daemon_does_not_load_opencv() -> None:
    script = "import sys, drivers.video; print([m for m in ('cv2', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


# Lines ---------------------------------------------------------------------------------------


def test_a_capture_of_the_worker_becomes_readings() -> None:
    data = (
        b'{"kind":"hello","opencv":"4.14.0"}\n'
        b'{"kind":"picture","camera":"c","since":1200,"known":true,"faults":["covered"],'
        b'"shift":null}\n'
        b'{"kind":"seat","camera":"c","window":"w1","since":900,"state":"empty",'
        b'"evidence":["difference"],"score":0.1}\n'
        b'{"kind":"trouble","text":"no such file"}\nnonsense\n'
        b'{"kind":"seat","camera":"c","window":"w1","since":1,"state":"asleep"}\n'
    )

    readings = list(decode(data, SHANGHAI))

    assert readings[:3] == [
        Reading("capture", 1200, Picture(("covered",))),
        Reading("capture", 900, Seat("w1", "empty", ("difference",), 0.1)),
        Reading("capture", 0, DeviceEvent("camera_trouble", detail="no such file")),
    ]
    assert [type(one.body) for one in readings[3:]] == [Unreadable, Unreadable]
    assert "line 5" in str(readings[3].body)
    assert "asleep" in str(readings[4].body)


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["kind", "camera", "since", "known", "faults", "jpeg", "seen", "state"]),
        st.sampled_from(["picture", "seat", "beat", "c", 1, True, None, ["x"], {}, -1e300]),
    ).map(lambda told: json.dumps(told).encode())
)
def test_any_line_is_a_message_or_an_unreadable(data: bytes) -> None:
    for reading in decode(data, SHANGHAI):
        assert isinstance(reading.body, Picture | Seat | DeviceEvent | Unreadable)
    try:
        command(data)
    except ValueError:
        pass


def test_lines_are_read_as_they_were_written() -> None:
    setup = CameraSetup(
        "c", URL, "admin", "密码", reference=b"\x00\xff", posts=(PostSetup("w", SQUARE),)
    )
    told = SeatTold("c", "w1", 5, "empty", ("motion",), 0.5, "", b"\xff\xd8")

    assert command(line(setup)) == setup
    assert message(line(told)) == told
    assert "密码" not in repr(setup)
    with pytest.raises(ValueError, match="no message of a worker"):
        message(line(setup))
    with pytest.raises(ValueError, match="nested too deeply"):
        message(b'{"kind":"facts","camera":"c","facts":' + b'{"a":' * 100_000)


def test_back_off_grows_and_a_refused_password_ends_it() -> None:
    assert [pause("timeout", n, 0) for n in range(1, 8)] == [1, 2, 4, 8, 15, 30, 30]
    assert pause("sessions", 1, 0) == pause("not_found", 1, 0) == 60
    assert [pause("auth", 1, 1), pause("auth", 2, 2), pause("auth", 3, 3)] == [1, 1800, 1800]


def test_a_password_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("密 p@:/%\r\n\n")

    assert read_password(str(file)) == "密 p@:/%"
    file.write_text("\n")
    with pytest.raises(ValueError, match="expected one line"):
        read_password(str(file))
    with pytest.raises(ValueError, match="无法读取"):
        read_password(str(tmp_path / "none"))


def test_a_password_is_percent_encoded_in_the_address() -> None:
    assert with_credentials("rtsp://h:1/x?a=1", "a@b", "p:/@%?#") == (
        "rtsp://a%40b:p%3A%2F%40%25%3F%23@h:1/x?a=1"
    )
    assert with_credentials("rtsp://h/x", "", "") == "rtsp://h/x"


# JPEG ----------------------------------------------------------------------------------------


def jpeg(width: int, height: int) -> bytes:
    picture = np.tile(np.arange(width, dtype=np.uint8), (height, 1))
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.mark.parametrize(
    ("width", "height", "seen"),
    [(1920, 1080, (270, 480)), (1280, 720, (360, 640)), (640, 360, (360, 640)), (33, 17, (17, 33))],
)
def test_jpegs_are_decoded_no_larger_than_needed(
    width: int, height: int, seen: tuple[int, int]
) -> None:
    data = jpeg(width, height)

    assert jpeg_size(data) == (width, height)
    assert decode_jpeg(data).shape == seen
    assert decode_jpeg(data, colour=True).shape == (*seen, 3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "expected a JPEG"),
        (b"\x89PNG\r\n", "expected a JPEG"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "expected a frame header"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", "65535x65535 pixels"),
        (jpeg(640, 360)[:300], "JPEG"),
    ],
)
def test_what_is_no_usable_jpeg_is_refused_unread(data: bytes, why: str) -> None:
    with pytest.raises(NoPicture, match=why):
        decode_jpeg(data)


GOOD = jpeg(64, 48)


@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.booleans())
def test_damaged_jpegs_are_pictures_or_refused(more: bytes, at: int, head: bool) -> None:
    data = GOOD[:at] + more + GOOD[at + len(more) :] if head else b"\xff\xd8" + more
    try:
        frame = decode_jpeg(data)
    except NoPicture:
        return
    assert frame.dtype == np.uint8


# What the worker concludes -------------------------------------------------------------------


def test_intervals_grow_first_where_there_are_no_posts_and_end_at_ten_seconds() -> None:
    assert [stretched(2, False, level) for level in range(5)] == [2, 4, 8, 8, 10]
    assert [stretched(2, True, level) for level in range(5)] == [2, 2, 2, 4, 8]
    assert stretched(10, False, 4) == 10
    assert [next_level(0, 1.2), next_level(4, 9), next_level(2, 0.8), next_level(2, 0.5)] == [
        1, 4, 2, 1,
    ]  # fmt: skip
    assert next_level(0, 0) == 0


@pytest.mark.parametrize(
    ("gop", "posts", "size", "full"),
    [
        (2, True, (640, 360), False), (6, True, (640, 360), True), (6, False, (640, 360), False),
        (12, False, (640, 480), True), (12, True, (1920, 1080), False), (12, True, (0, 0), False),
    ],
)  # fmt: skip
def test_small_streams_with_rare_key_frames_are_decoded_whole(
    gop: float, posts: bool, size: tuple[int, int], full: bool
) -> None:
    assert needs_full(gop, posts, *size) is full


SCENE = Scene(320, 180, seed=3)


def learned() -> tuple[bytes, bytes]:
    """What is known of the scene: the picture, and the empty post."""
    watch = PictureWatch(PictureOptions())
    state: PictureState | None = None
    for n in range(90):
        state = watch.see(2000 * n, shrink(SCENE.luma(2 * n, seated=n % 3 > 0)))
    assert state is not None
    assert state.known
    view = PostView(PostOptions(SCENE.region))
    view.learn_empty([shrink(SCENE.luma(n, seated=False)) for n in range(15)], state.bucket)
    reference, references = watch.reference(), view.references()
    assert reference is not None
    assert references is not None
    return reference, references


LEARNED = learned()


def setup(**more: Any) -> CameraSetup:
    post = PostSetup("w1", SCENE.region, references=LEARNED[1])
    return CameraSetup(**{"id": "c", "url": URL, "posts": (post,), "reference": LEARNED[0]} | more)


def watched(analysis: Analysis, since: int, seconds: int, **scene: Any) -> list[Any]:
    told: list[Any] = []
    for at in range(since, since + seconds, 2):
        told += analysis.see(1000 * at, SCENE.frame(at, **scene))
    return told


def test_pictures_become_messages_on_change_and_after_a_reconnection_only() -> None:
    analysis = Analysis(setup(), True, Minds())

    first = watched(analysis, 0, 60)
    later = watched(analysis, 60, 60)
    analysis.reconnected()
    again = watched(analysis, 120, 2)
    emptied = watched(analysis, 122, 60, seated=False)

    assert [type(one) for one in first[:2]] == [PictureTold, SeatTold]
    seats = [one.state for one in first if isinstance(one, SeatTold)]
    assert seats == ["unknown", "unknown", "occupied"]  # the picture first had to be known
    assert later == []
    assert [(type(one), getattr(one, "state", "")) for one in again] == [
        (PictureTold, ""), (SeatTold, "occupied"),
    ]  # fmt: skip
    (empty,) = (one for one in emptied if isinstance(one, SeatTold))
    assert (empty.state, empty.window) == ("empty", "w1")
    assert 118_000 <= empty.since <= 126_000
    assert jpeg_size(empty.jpeg) == (320, 180)


def test_a_covered_camera_is_told_with_its_picture_and_nothing_of_the_post() -> None:
    analysis = Analysis(setup(), True, Minds())
    watched(analysis, 0, 60)

    told = watched(analysis, 60, 14, covered=1.0)

    (picture,) = (one for one in told if isinstance(one, PictureTold))
    assert picture.faults
    assert picture.fault == picture.faults[0]
    assert jpeg_size(picture.jpeg) == (320, 180)
    assert [one.state for one in told if isinstance(one, SeatTold)] == ["unknown"]


def test_no_snapshot_is_made_where_none_is_wanted() -> None:
    analysis = Analysis(setup(), False, Minds())
    told = watched(analysis, 0, 30) + watched(analysis, 30, 60, seated=False)

    assert any(isinstance(one, SeatTold) and one.state == "empty" for one in told)
    assert not any(one.jpeg for one in told if isinstance(one, SeatTold | PictureTold))


def test_the_size_of_the_pictures_may_change() -> None:
    analysis = Analysis(setup(), True, Minds())
    told = watched(analysis, 0, 20)
    large = Scene(640, 360, seed=3)
    for at in range(20, 60, 2):
        told += analysis.see(1000 * at, large.frame(at))

    pictures = [one for one in told if isinstance(one, PictureTold)]
    assert [(one.known, one.faults) for one in pictures] == [(False, ()), (True, ())]
    assert told[-1].state == "occupied"


def test_damaged_references_are_a_trouble_and_a_new_beginning() -> None:
    analysis = Analysis(setup(reference=b"garbage"), True, Minds())

    told = analysis.see(0, SCENE.frame(0))

    assert any(isinstance(one, Trouble) and "cannot be used" in one.text for one in told)
    assert any(isinstance(one, PictureTold) and not one.known for one in told)


def test_what_was_learned_is_told_every_ten_minutes_and_at_the_end() -> None:
    analysis = Analysis(setup(reference=b""), True, Minds())
    watched(analysis, 0, 200)

    first = analysis.learned(200_000)
    assert [one.name for one in first if isinstance(one, video_lines.Keep)] == ["picture"]
    assert analysis.learned(201_000) == []
    watched(analysis, 200, 300)
    assert analysis.learned(700_000) == []
    kept = analysis.learned(700_000, ending=True) or analysis.learned(900_000)
    assert all(isinstance(one, video_lines.Keep) for one in kept)


@dataclass
class Asked(Minds):
    """A detector of which it is known when it was asked."""

    answer: list[tuple[float, float, float, float]] | DetectorProblem

    def __post_init__(self) -> None:
        self.times = 0
        self.shape: tuple[int, ...] = ()

    def ask(self, path: str, crop: Any) -> list[tuple[float, float, float, float]]:
        assert path == "/person.onnx"
        self.times += 1
        self.shape = crop.shape
        if isinstance(self.answer, DetectorProblem):
            raise self.answer
        return self.answer


class Doubtful(PostView):
    """Is never sure."""

    def see(self, *args: Any, **more: Any) -> SeatState:
        self.persons = [*getattr(self, "persons", []), more.get("person", args[4])]
        return SeatState("occupied", 0, uncertain=True)


def test_the_detector_is_asked_about_doubts_and_at_most_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video_worker, "PostView", Doubtful)
    minds = Asked([(0.0, 0.0, 1000.0, 1000.0), (30.0, 30.0, 40.0, 40.0)])
    analysis = Analysis(setup(detector="/person.onnx"), False, minds)

    watched(analysis, 0, 22)

    assert minds.times == 4  # at 2, 8, 14 and 20 s
    assert minds.shape[2] == 3
    assert analysis._posts[0].view.persons.count(True) == 4


def test_a_box_counts_where_enough_of_it_is_in_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_worker, "PostView", Doubtful)
    minds = Asked([(0.0, 0.0, 3.0, 3.0)])  # a corner of the crop, outside the region
    analysis = Analysis(setup(detector="/person.onnx"), False, minds)

    watched(analysis, 0, 4)

    assert analysis._posts[0].view.persons == [None, False]


def test_a_detector_that_fails_is_told_once_and_missed_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video_worker, "PostView", Doubtful)
    minds = Asked(DetectorProblem("/person.onnx is no ONNX file"))
    analysis = Analysis(setup(detector="/person.onnx"), False, minds)

    told = watched(analysis, 0, 30)

    assert [one.text for one in told if isinstance(one, Trouble)] == [
        "/person.onnx is no ONNX file"
    ]
    assert minds.times == 1
    assert not analysis.wants_colour


def test_a_detectors_file_that_is_missing_is_a_trouble_not_a_crash() -> None:
    with pytest.raises(DetectorProblem, match=r"none\.onnx"):
        Minds().ask("/none.onnx", np.zeros((32, 32, 3), np.uint8))


def test_what_a_file_that_is_no_clip_gives_is_no_picture(tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no clip at all" * 100)
    capture.decode_as("full")

    with pytest.raises(NoPicture, match="cannot be opened"):
        capture.Stream(str(file), 1, 1)


def test_a_driver_declares_what_is_asked_of_it() -> None:
    assert video.DRIVER.attendance is False
    assert video.DRIVER.options is VideoOptions


# The daemon's side, without a worker ---------------------------------------------------------


class Desk:
    """A context of which is kept what was told."""

    zone = SHANGHAI
    windows = frozenset({"w1"})
    closed = snapshots = False

    def __init__(self) -> None:
        self.at = 1_700_000_000_000
        self.told: list[Reading] = []
        self.notes: dict[str, Any] = {}
        self.contacts = 0
        self.marks: dict[Any, str] = {}

    def now(self) -> int:
        return self.at

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    def lost(self, device: str, reason: str) -> None:
        self.note(device, lost=reason)

    def contact(self, device: str) -> None:  # noqa: ARG002
        self.contacts += 1

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    async def emit(self, readings: Any, marks: Any = None) -> int:
        self.told += readings
        self.marks.update(marks or {})
        return len(readings)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


@dataclass(frozen=True)
class Spec:
    id: str
    options: VideoOptions
    window: str = ""


class Remembering:
    """A worker of which is kept what it was told to begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def begin(self, camera: video.Camera) -> None:
        self.begun.append(camera.id)

    async def renew(self, camera: video.Camera) -> None: ...

    async def close(self) -> None: ...


def driver(desk: Desk, *specs: Spec) -> video.Video:
    made = video.Video(specs or [Spec("c1", VideoOptions(URL, posts=(Post("w1", SQUARE),)))])
    made._context = desk  # type: ignore[assignment]
    made._workers = {"keyframes": Remembering(), "full": Remembering()}
    return made


@pytest.mark.parametrize(
    "raw",
    [
        b'{"kind":"lost","camera":"c1","cause":"auth","at":1,"wait":1e308,"refusals":2}',
        b'{"kind":"lost","camera":"c1","cause":"auth","at":9223372036854775807,"refusals":'
        b'9223372036854775807,"status":9223372036854775807}',
        b'{"kind":"facts","camera":"c1","facts":{"self":1,"device":2,"good":3}}',
        b'{"kind":"opened","camera":"c1","at":9223372036854775807}',
        b'{"kind":"beat","seen":{"c1":9223372036854775807}}',
    ],
)
def test_no_line_of_a_worker_ends_the_driver_or_stops_the_clock(raw: bytes) -> None:
    async def test() -> None:
        desk = Desk()
        made = driver(desk)
        await made.hear_raw(raw, "keyframes", 5)
        before = desk.contacts
        await made.hear_raw(b'{"kind":"beat","seen":{"c1":6}}', "keyframes", 6)
        assert desk.contacts == before + 1
        told = desk.notes["c1"]
        assert told.get("next_try_s", 0) <= 1800
        assert not {"self", "device"} & told.keys()

    asyncio.run(test())


def test_what_is_told_of_the_worker_stands_with_its_cameras() -> None:
    async def test() -> None:
        desk = Desk()
        await driver(desk).hear(video_lines.Beat({}, {}, 0.5), "keyframes", 1)
        expected = {"video_load": 0.5, "cameras_stuck": 0, "worker_restarts": 0}
        assert desk.notes == {"c1": expected}

    asyncio.run(test())


def test_a_camera_whose_thread_was_late_and_tells_nothing_is_begun_anew() -> None:
    async def test() -> None:
        desk = Desk()
        made = driver(desk)
        await made.hear(SeatTold("c1", "w1", 500, "occupied"), "keyframes", 1000)
        await made.hear(video_lines.Beat({"c1": 900}, {"c1": 30.0}), "keyframes", 1000)
        assert [one.body.state for one in desk.told] == ["occupied", "unknown"]  # type: ignore[union-attr]
        worker = made._workers["keyframes"]
        assert isinstance(worker, Remembering)
        async with asyncio.TaskGroup() as made._tasks:
            for at in range(2000, 62_000, 1000):
                await made.hear(video_lines.Beat({"c1": at}), "keyframes", at)
        assert worker.begun == ["c1"]

    asyncio.run(test())


def test_a_wall_clock_that_was_set_back_is_followed() -> None:
    async def test() -> None:
        desk = Desk()
        made = driver(desk)
        await made.hear(SeatTold("c1", "w1", 1000, "occupied"), "keyframes", 1000)
        desk.at -= 3 * 3_600_000
        await made.hear(SeatTold("c1", "w1", 1000, "empty"), "keyframes", 1000)
        assert desk.told[-1].at == desk.at

    asyncio.run(test())


def test_a_refused_login_is_left_alone_by_all_cameras_of_the_device() -> None:
    """Also after a restart, and by those of another worker; a forbidden channel only by itself."""
    channel = "rtsp://10.1.2.3:554/ch"
    specs = [
        Spec("k", VideoOptions(channel + "1", username="viewer")),
        Spec("f", VideoOptions(channel + "2", mode="full", username="viewer")),
        Spec("other", VideoOptions("rtsp://10.1.2.4/ch1", mode="full", username="viewer")),
    ]

    async def lost(status: int) -> tuple[Desk, video.Video]:
        desk = Desk()
        made = driver(desk, *specs)
        async with asyncio.TaskGroup() as made._tasks:
            told = video_lines.LostSight("k", "auth", 1, 1800, status, 2)
            await made.hear(told, "keyframes", 1)
        return desk, made

    async def test() -> None:
        desk, _ = await lost(403)
        assert {name for name, _ in desk.marks} == {"k"}
        desk, made = await lost(401)
        assert {name for name, _ in desk.marks} == {"k", "f"}
        assert made._workers["full"].begun == ["f"]  # type: ignore[attr-defined]
        assert all("10.1.2.3" not in mark for mark in desk.marks.values())
        del desk.marks["f", "refused"]
        again = driver(desk, *specs)
        again._keep_out()
        kept = {one.id for one in again._cameras.values() if one.keep_out}
        assert kept == {"k", "f"}

    asyncio.run(test())


def test_a_worker_that_does_not_read_is_dead_and_its_process_is_ended() -> None:
    """Whoever told it something is not."""

    async def test() -> None:
        made = driver(Desk())
        worker = video.MovingWorker("keyframes", made._context, made)
        worker._patience = 0.2
        worker._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import time; time.sleep(60)", stdin=-1, stdout=-1
        )
        big = video_lines.References("c1", bytes(400_000))
        with pytest.raises(video.WorkerDied, match=r"nothing was read for 0\.2 s"):
            await worker._send(big)
        await video._begin(worker, made._cameras["c1"])
        worker._patience = 60
        await worker.close()
        assert process.returncode == -9

    video_stopping, video.STOPPING = video.STOPPING, 0.2
    try:
        asyncio.run(test())
    finally:
        video.STOPPING = video_stopping


# Accounts ------------------------------------------------------------------------------------


def test_one_camera_tries_a_password_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_worker, "pause", lambda *_: 0.2)
    tries: list[int] = []
    found: list[Found] = []

    def refused() -> Found:
        tries.append(1)
        time.sleep(0.05)
        return Found("auth", 401)

    known = video_worker.Account()
    known.expect(setup(password="wrong"))
    threads = [threading.Thread(target=lambda: found.append(known.ask(refused))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert found == [Found("auth", 401)] * 8
    assert (len(tries), known.refusals) == (1, 1)
    known.expect(setup(password="wrong"))
    assert known.left
    known.expect(setup(password="right"))
    assert (known.left, known.refusals) == (0, 0)
    assert known.ask(lambda: Found(None, 200)) == Found(None, 200)


def test_one_camera_in_snapshot_mode_tries_a_password_for_all() -> None:
    now, tries = 1000, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += "authorization" in request.headers
        await asyncio.sleep(0.01)
        return httpx.Response(401, headers={"www-authenticate": 'Digest realm="r", nonce="n"'})

    async def test() -> None:
        nonlocal now
        known = video.Account(lambda: now)
        known.expect("wrong", 0)

        async def look() -> tuple[str, int]:
            login = video.SharedLogin("viewer", "wrong", known)
            async with httpx.AsyncClient(
                transport=httpx.MockTransport(answer), auth=login
            ) as client:
                with pytest.raises(video.NoPicture) as failed:
                    await video._fetch(client, "http://c/p")
                return failed.value.cause, failed.value.status

        for expected in (1, 2, 2):
            assert await asyncio.gather(*(look() for _ in range(4))) == [("auth", 401)] * 4
            assert (tries, known.refusals) == (expected, expected)
            now += 1000
        assert known.left == 1798

    asyncio.run(test())


def test_a_channel_that_is_forbidden_is_no_wrong_password() -> None:
    known = video_worker.Account()

    assert known.ask(lambda: Found("auth", 403)) == Found("auth", 403)
    assert (known.left, known.refusals) == (0, 0)


# Evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "shift", "region"),
    [
        (0.1, (0, 0), SQUARE),
        (0.1, (32, -18), ((0.3, 0.1), (0.7, 0.1), (0.7, 0.7), (0.3, 0.7))),
        (0.3, (0, 0), None),
        (None, (0, 0), None),
        (0.1, None, None),
    ],
)
def test_only_a_post_that_is_clearly_empty_is_shown_and_where_it_lies(
    score: float | None, shift: tuple[int, int] | None, region: Any
) -> None:
    post = video_worker.Post(PostSetup("w1", SQUARE))
    picture = PictureState(True, (), 0, None, shift, False, "day", {}, ())
    seat = SeatState("empty", 0, score=score)

    found = video_worker._region(post, seat, picture, np.zeros((180, 320), np.uint8))

    assert (found is None) == (region is None)
    for one, expected in zip(found or (), region or (), strict=True):
        assert one == pytest.approx(expected)


def test_of_a_covered_camera_nothing_is_clear_and_of_a_tall_one_no_side_is_longer() -> None:
    analysis = Analysis(setup(), True, Minds())
    noise = np.random.default_rng(1).integers(0, 255, (1280, 320), np.uint8)

    covered, black = (analysis._evidence(noise, fault) for fault in ("covered", "black"))

    assert jpeg_size(covered) == jpeg_size(black) == (160, 640)
    assert decode_jpeg(covered)[:16, :16].std() < 6 < decode_jpeg(black)[:16, :16].std()


def test_an_analysis_that_was_late_is_told_anew() -> None:
    read, write = os.pipe()
    worker = video_worker.Worker(video_lines.Start("snapshot"), video_worker.Outbox(write))
    sight = video_worker.Sight(setup(), worker)
    sight.analysis._fresh = False

    sight.due = time.monotonic() + 60
    sight._back()
    assert not sight.analysis._fresh
    sight.due = time.monotonic() - 1
    sight._back()
    told: tuple[bool, float | None] = (sight.analysis._fresh, sight.due)
    assert told == (True, None)
    os.close(read)
