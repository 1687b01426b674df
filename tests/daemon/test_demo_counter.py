"""The demo hall's counter: the keys of a serial line, displays, boards and pads, and the day's
tables."""

from __future__ import annotations

import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from config.load import load
from daemon.demo import BUS_WINDOWS, CAMERA_SCRIPT, COUNTER_SCRIPT, LIVE_SCRIPT, PAD_KEYS
from daemon.emulate import table_text
from drivers.emulators.camera import SHOWN

HALLWATCH = Path(sys.executable).with_name("hallwatch")


class Demo:
    """``hallwatch demo`` running on, in a process of its own."""

    def __init__(self, state: Path, speed: int, words: Sequence[str | Path] = ()) -> None:
        with (state / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                words or [HALLWATCH, "demo", "--speed", str(speed), "--state", state],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
            )
        self.state = state
        self.told = ""

    def until(self, *patterns: str, seconds: float = 80) -> None:
        """Read until each pattern was found in a line."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while missing := [one for one in patterns if not re.search(one, self.told)]:
            assert time.monotonic() < deadline, f"{missing} not in:\n{self.told}"
            assert self.process.poll() is None, (self.state / "errors").read_text("utf-8")
            if select.select([self.process.stdout], [], [], 0.5)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                self.told += data.decode("utf-8", "replace")

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)
        return self.process.returncode


def test_the_demo_that_runs_on_tells_of_the_counter_and_ends_with_ctrl_c(tmp_path):
    demo = Demo(tmp_path, 300)
    try:
        demo.until(
            r"接口 API +http://127\.0\.0\.1:\d+/docs",
            r"取号 ticket +A001",
            r"叫号 called +01号窗口 A001",
            r"显示 shown +01号窗口显示屏  A001",
            r"办结 finished +01号窗口 A001",
            r"评价 rating +01号窗口 A001  非常满意 / very satisfied",
            r"评价 rating +04号窗口 C001",
            r"叫号 called +05号窗口 D001",
            r"打卡 punch +1011 沈小满  大厅宇泛人脸机",
            r"岗位 post +01号窗口  在岗 present（",
            r"画面 picture +01号窗口摄像头  正常 good",
            r"已连接 found",
        )

        assert demo.end() == 0
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.communicate(timeout=10)
    assert (tmp_path / "errors").read_text("utf-8") == ""
    verified = subprocess.run(
        [HALLWATCH, "replay", "-c", tmp_path / "demo.toml", "--verify"],
        capture_output=True,
        timeout=60,
    )
    assert (verified.returncode, verified.stdout.decode().strip()) == (0, "没有不同 no differences")
    with closing(sqlite3.connect(tmp_path / "hallwatch.db")) as connection:
        drivers = {device.driver for device in load(tmp_path / "demo.toml").devices}
        found = dict(connection.execute("SELECT device, state FROM device_state"))
        unread = connection.execute("SELECT device, body FROM reading WHERE kind = 'unreadable'")
        assert unread.fetchall() == []
    assert drivers >= {
        "rating_pad",
        "network_pad",
        "queue_display",
        "led_board",
        "fingerprint",
        "video",
    }
    assert found["cam-1"] == found["lobby"] == found["floor-2"] == "online"
    assert found["finger"] == found["hik"] == found["display-01"] == found["pad-01"] == "online"


HIDE_OPENCV = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "cv2" else find(name, *more)
from daemon.__main__ import main
sys.argv[1:] = ["demo", "--speed", "600", "--state", sys.argv[1]]
main()
"""


def test_without_opencv_the_demo_says_so_and_goes_on(tmp_path):
    demo = Demo(tmp_path, 600, (sys.executable, "-c", HIDE_OPENCV, tmp_path))
    try:
        demo.until(
            "没有安装视频组件，演示中没有摄像头 / OpenCV is not installed",
            r"打卡 punch +1001 林一鸣",
        )

        assert demo.end() == 0
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.communicate(timeout=10)
    assert all(one.driver != "video" for one in load(tmp_path / "demo.toml").devices)


def test_the_camera_sees_one_thing_after_another():
    spells = [line.split() for line in CAMERA_SCRIPT.split("\n") if line]
    times = [moment for starts, ends, _ in spells for moment in (starts, ends)]

    assert times == sorted(times)
    assert {what for _, _, what in spells} <= SHOWN.keys()


@pytest.mark.parametrize("script", [COUNTER_SCRIPT, LIVE_SCRIPT], ids=["counter", "live"])
def test_every_line_of_a_script_begins_with_its_time(script):
    lines = [line for line in script.split("\n") if line]

    assert lines
    assert all(re.match(r"\d\d:\d\d:\d\d \w+ \w", line) for line in lines)


def test_only_tickets_that_were_taken_are_called_and_only_once():
    taken: list[str] = []
    for line in sorted((COUNTER_SCRIPT + LIVE_SCRIPT).split("\n")):
        words = line.split()
        if "ticket" in words:
            taken.append(words[2])
        elif "call" in words:
            taken.remove(words[3])

    assert taken == []


def test_the_settings_of_a_device_say_what_was_meant(tmp_path):
    table = {
        "id": "pad-01", "name": "1号“窗口”\\评价器", "driver": "rating_pad", "port": "/dev/pts/1",
        "profile": "caller-ff68", "address": 1, "role": "both", "scale_id": "four",
        "attendance": False, "prompt_seconds": 20.5,
        "scale": {f"{key:02X}": level for level, key in PAD_KEYS.items()},
    }  # fmt: skip
    hall = '[hall]\nid = "h1"\nname = "测试大厅"\n'
    (tmp_path / "hallwatch.toml").write_text(hall + table_text(table), "utf-8")

    (device,) = load(tmp_path / "hallwatch.toml").devices

    assert (device.name, device.attendance) == ("1号“窗口”\\评价器", False)
    assert device.options.scale == {"00": 5, "01": 4, "02": 3, "03": 2}
    assert device.options.prompt_seconds == 20.5
    assert len(BUS_WINDOWS) == 3
