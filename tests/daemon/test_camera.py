"""``hallwatch camera``, as a technician uses it: against an emulated camera, in real files."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from config.load import load
from daemon import camera as commands
from daemon.camera import (
    CameraProblem,
    camera_of,
    check_file,
    in_time,
    learned_of,
    store_learned,
    teach,
)
from daemon.control import Request, ask
from daemon.database import FILE_NAME, open_writer
from daemon.emulate import table_text
from drivers import aim
from drivers.capture import decode_jpeg
from drivers.emulators.camera import PICTURE, EmulatedCamera
from drivers.picture import PictureOptions, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView
from drivers.video import Post

HALL = """
[hall]
id = "h1"
name = "测试大厅"
[[windows]]
id = "01"
name = "1号窗口"
[[windows]]
id = "02"
name = "2号窗口"
[storage]
state_dir = "state"
"""


@pytest.fixture
def camera() -> Iterator[EmulatedCamera]:
    """Running in a thread; a second of its clock is a second of ours."""
    loop = asyncio.new_event_loop()
    began = time.monotonic_ns()
    emulated = EmulatedCamera(
        lambda: 36_000_000 + (time.monotonic_ns() - began) // 1_000_000, usual="away"
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(emulated.start(), loop).result(10)
    yield emulated
    asyncio.run_coroutine_threadsafe(emulated.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def settings(camera: EmulatedCamera, tmp_path: Path) -> Path:
    (tmp_path / "password").write_text("Abc12345\n")
    (tmp_path / "wrong").write_text("nothing\n")
    tables: list[dict[str, Any]] = [
        {
            "id": "cam-1", "name": "大厅摄像头", "driver": "video", "username": "admin",
            "url": f"http://127.0.0.1:{camera.port}{PICTURE}", "password_file": "password",
            "posts": [{"window": "01", "region": [list(corner) for corner in camera.region]}],
        },
        {
            "id": "cam-2", "driver": "video", "username": "admin", "password_file": "wrong",
            "url": f"http://127.0.0.1:{camera.port}{PICTURE}",
        },
        {"id": "gone", "driver": "video", "url": "http://127.0.0.1:9/x"},
        {"id": "gate", "driver": "zkteco", "host": "127.0.0.1"},
    ]  # fmt: skip
    path = tmp_path / "hallwatch.toml"
    path.write_text(HALL + "".join(table_text(table) for table in tables), "utf-8")
    return path


def hallwatch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("hallwatch"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=90,
        env={**os.environ, "COLUMNS": "160"},
    )


def frames(camera: EmulatedCamera, what: str, count: int = 15, step: int = 2143) -> list[Any]:
    camera.usual = what
    return [decode_jpeg(camera.picture(40_000_000 + n * step), colour=True) for n in range(count)]


def lessons(camera: EmulatedCamera, monkeypatch: Any, what: str) -> None:
    """The next half minute shows this, and is over at once."""

    def apart(work: str, options: Any, learned: Any, *more: Any) -> Any:
        assert work == "learn"
        try:
            return aim.taught(options, learned, *more, frames(camera, what), aim.LEARN_SECONDS)
        except ValueError as error:
            raise CameraProblem(str(error)) from None

    monkeypatch.setattr(commands, "_apart", apart)


# Aiming --------------------------------------------------------------------------------------


def test_aim_shows_the_posts_and_writes_a_picture_for_its_owner_only(settings, camera, tmp_path):
    options = load(settings).devices[0].options
    learned = aim.taught(options, {}, ("01",), False, frames(camera, "away"), 30)
    marks = {"post:01": b64encode(learned.marks["01"]).decode()}
    ask(load(settings), Request("marks", device="cam-1", marks=marks))
    camera.usual = "seated"
    (tmp_path / "seen.jpg").write_bytes(b"old")
    (tmp_path / "seen.jpg").chmod(0o644)

    shown = hallwatch(tmp_path, "camera", "aim", "cam-1", "-c", "hallwatch.toml", "-o", "seen.jpg")

    assert shown.returncode == 0, shown.stderr
    assert "大厅摄像头" in shown.stdout
    assert "640x360 jpeg" in shown.stdout
    row = next(line.split() for line in shown.stdout.splitlines() if line.startswith("01"))
    assert float(row[1]) > 0.8
    assert row[2:7] == ["0.50", "有人", "occupied", "白天", "day"]
    assert "看完请删除" in shown.stderr
    assert "Abc12345" not in shown.stdout + shown.stderr
    assert stat.S_IMODE((tmp_path / "seen.jpg").stat().st_mode) == 0o600
    picture = cv2.imdecode(np.fromfile(tmp_path / "seen.jpg", np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    # The camera's picture, and beside it the empty post as it was learned.
    assert picture.shape[0] == 360
    assert picture.shape[1] > 640
    assert camera.wrong == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("aim", "cam-9"), "there is no device 'cam-9'; cameras: cam-1, cam-2, gone"),
        (("aim", "gate"), "gate is no camera: its driver is zkteco"),
        (("aim", "cam-2"), "the camera refused the user name or the password"),
        (("aim", "gone"), "no picture"),
        (("aim", "cam-1", "-o", "state/x.jpg"), "must not lie in the state directory"),
        (("aim", "cam-1", "-o", "nowhere/x.jpg"), "there is no such folder"),
        (("learn-empty", "cam-2"), "cam-2 watches no post"),
        (("learn-occupied", "cam-1", "--window", "02"), "does not watch window '02'"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("settings")
def test_what_cannot_be_done_is_told_in_a_sentence(tmp_path, camera, words, expected):
    said = hallwatch(tmp_path, "camera", *words, "-c", "hallwatch.toml")

    assert said.returncode == 1
    assert expected in said.stderr.replace("\n", " ")
    assert "Traceback" not in said.stderr
    assert list(tmp_path.glob("**/*.jpg")) == []
    assert camera.wrong <= 1


def test_aim_says_what_is_wrong_with_the_picture(settings, camera):
    options = load(settings).devices[0].options

    aimed = aim.aimed(options, {}, frames(camera, "black", 6, 1000), 5)

    assert aimed.faults == ("black",)
    assert aimed.posts[0].score is None


def test_aim_tells_an_empty_post_from_an_occupied_one(settings, camera):
    options = load(settings).devices[0].options
    known = {"post:01": aim.taught(
        options, {}, ("01",), False, frames(camera, "away"), 30).marks["01"]}  # fmt: skip

    empty, seated = (
        aim.aimed(options, known, frames(camera, what, 6, 1000), 5).posts[0]
        for what in ("away", "seated")
    )

    assert empty.score is not None
    assert seated.score is not None
    assert empty.score < 0.2 < 0.8 < seated.score
    assert (empty.learned, empty.restless < aim.RESTLESS) == (("day",), True)
    assert seated.restless > aim.RESTLESS


def test_aim_goes_on_without_what_is_damaged(settings, camera):
    options = load(settings).devices[0].options
    known = {"post:01": b"damaged", "picture": b"damaged too"}

    aimed = aim.aimed(options, known, frames(camera, "away", 6, 1000), 5)

    assert len(aimed.problems) == 2
    assert aimed.posts[0].learned == ()


# Learning ------------------------------------------------------------------------------------


def test_what_was_learned_is_kept_where_the_driver_finds_it(settings, camera, monkeypatch):
    hall, out = load(settings), StringIO()
    lessons(camera, monkeypatch, "away")

    said = teach(Console(file=out), hall, "cam-1", "", occupied=False)

    assert said == ()
    assert "已学习 learned: 01" in out.getvalue()
    kept = learned_of(hall, "cam-1")
    assert list(kept) == ["post:01"]
    view = PostView(PostOptions(hall.devices[0].options.posts[0].region), kept["post:01"])
    view.learn_occupied(
        [shrink(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY)) for one in frames(camera, "seated")], "day"
    )


def test_the_occupied_post_is_learned_after_the_empty_one(settings, camera, monkeypatch):
    hall, out = load(settings), Console(file=StringIO())
    lessons(camera, monkeypatch, "seated")
    with pytest.raises(CameraProblem, match="01: the empty post must be learned first"):
        teach(out, hall, "cam-1", "01", occupied=True)
    lessons(camera, monkeypatch, "away")
    teach(out, hall, "cam-1", "01", occupied=False)
    before = learned_of(hall, "cam-1")
    lessons(camera, monkeypatch, "seated")

    assert teach(out, hall, "cam-1", "01", occupied=True) == ()
    assert learned_of(hall, "cam-1") != before


def test_whoever_sits_there_while_the_empty_post_is_learned_is_noticed(
    settings, camera, monkeypatch
):
    hall, out = load(settings), Console(file=StringIO())
    lessons(camera, monkeypatch, "away")
    teach(out, hall, "cam-1", "", occupied=False)
    lessons(camera, monkeypatch, "seated")

    moved, differs = teach(out, hall, "cam-1", "", occupied=False)

    assert "something moved in the region" in moved
    assert "does not look like the empty post that was learned before" in differs


@pytest.mark.parametrize("what", ["black", "frozen"])
def test_a_bad_picture_teaches_nothing(settings, camera, monkeypatch, what):
    hall = load(settings)
    camera.script = [(0, 90_000_000, what)]
    lessons(camera, monkeypatch, what)

    with pytest.raises(CameraProblem, match=f"the picture is bad: {what}"):
        teach(Console(file=StringIO()), hall, "cam-1", "", occupied=False)

    assert learned_of(hall, "cam-1") == {}


def test_a_camera_that_looks_elsewhere_for_good_is_learned_anew(settings, camera, monkeypatch):
    hall, out = load(settings), StringIO()
    watch = PictureWatch(PictureOptions())
    watch.adopt([shrink(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY)) for one in frames(camera, "away")],
        "day")  # fmt: skip
    lessons(camera, monkeypatch, "away")
    teach(Console(file=out), hall, "cam-1", "", occupied=False)
    post = learned_of(hall, "cam-1")["post:01"]
    store_learned(hall, "cam-1", aim.Learned("day", {}, {}, {}, watch.reference()))
    before = learned_of(hall, "cam-1")["picture"]
    assert "learned anew" not in out.getvalue()
    camera.script = [(0, 90_000_000, "moved")]
    lessons(camera, monkeypatch, "away")
    with pytest.raises(CameraProblem, match="the picture is bad: "):
        teach(Console(file=out), hall, "cam-1", "", occupied=True)

    said = teach(Console(file=out), hall, "cam-1", "", occupied=False)

    assert said == ()
    assert "learned anew: cam-1 画面 the picture" in out.getvalue()
    kept = learned_of(hall, "cam-1")
    assert kept["picture"] != before
    assert kept["post:01"] != post
    fresh = PictureWatch(PictureOptions(), kept["picture"])
    for n, one in enumerate(frames(camera, "away")):
        state = fresh.see(2000 * n, shrink(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY)))
        assert (state.faults, state.suspected) == ((), ())


def test_all_posts_of_a_camera_that_looks_elsewhere_are_learned_at_once(settings, camera):
    posts = tuple(
        Post(window, load(settings).devices[0].options.posts[0].region) for window in ("01", "02")
    )
    options = replace(load(settings).devices[0].options, posts=posts)
    watch = PictureWatch(PictureOptions())
    watch.adopt(
        [shrink(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY)) for one in frames(camera, "away")], "day"
    )
    camera.script = [(0, 90_000_000, "moved")]
    pictures = frames(camera, "away")

    with pytest.raises(ValueError, match="learn all its posts at once"):
        aim.taught(options, {"picture": watch.reference()}, ("01",), False, pictures, 30.0)


def test_a_mark_that_is_no_base64_is_passed_over(settings):
    hall = load(settings)
    hall.state_dir.mkdir()
    with closing(open_writer(hall.state_dir / FILE_NAME)) as connection:
        rows = [("cam-1", "picture", "AAAA"), ("cam-1", "post:01", "!"), ("cam-1", "refused", "1")]
        connection.executemany("INSERT INTO mark VALUES (?, ?, ?)", rows)

    assert learned_of(hall, "cam-1") == {"picture": b"\0\0\0"}
    assert learned_of(hall, "cam-2") == {}


def test_the_cameras_are_told_apart(settings, tmp_path):
    hall = load(settings)

    assert camera_of(hall, "cam-1").name == "大厅摄像头"
    check_file(hall, tmp_path / "x.jpg")
    with pytest.raises(CameraProblem):
        check_file(hall, tmp_path / "state" / ".." / "state" / "x.jpg")


# The process that looks ----------------------------------------------------------------------


def doubled(number: int) -> int:
    return 2 * number


def refused() -> None:
    raise ValueError("it cannot be")


def hanging() -> None:
    threading.Event().wait()


def dying() -> None:
    os._exit(7)


def test_what_was_made_in_a_process_of_its_own_comes_back():
    assert in_time(30, doubled, 21) == 42


@pytest.mark.parametrize(
    ("work", "seconds", "sentence"),
    [
        (refused, 30, "it cannot be"),
        (dying, 30, "ended without an answer"),
        (hanging, 2, "gave no pictures in 2 s"),
    ],
)
def test_a_process_that_refuses_dies_or_hangs_ends_the_command(work, seconds, sentence):
    began = time.monotonic()

    with pytest.raises(CameraProblem, match=sentence):
        in_time(seconds, work)

    assert time.monotonic() - began < 15
