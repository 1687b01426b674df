"""The commands, as a technician uses them: the installed console script in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
import tty
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.load import load

SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[units]]
id = "tax"
name = "税务局"
[[people]]
code = "1001"
name = "林一鸣"
[api]
port = 0
[storage]
state_dir = "state"
"""


def hallwatch(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [Path(sys.executable).with_name("hallwatch"), *words],
        input=stdin,
        capture_output=True,
        timeout=90,
        env={**os.environ, "COLUMNS": "160"},
    )
    return subprocess.CompletedProcess(
        ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode()
    )


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "hallwatch.toml"
    path.write_text(SETTINGS, "utf-8")
    return path


class Daemon:
    """``hallwatch run`` in a process of its own."""

    def __init__(self, settings: Path) -> None:
        self.settings = settings
        self.log = settings.with_name("log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("hallwatch"), "run", "-c", settings],
                stderr=log,
                stdout=log,
            )
        self.api = ""
        deadline = time.monotonic() + 60
        while not self.api:
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() < deadline, self.log.read_text("utf-8")
            time.sleep(0.05)
            for line in self.log.read_text("utf-8").splitlines():
                if "api=http" in line:
                    self.api = line.split("api=")[1].split()[0]

    def get(self, path: str, token: str = "") -> tuple[int, object]:
        request = urllib.request.Request(self.api + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def daemon(settings: Path) -> Iterator[Daemon]:
    running = Daemon(settings)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait(10)


def test_every_command_has_a_help_with_an_example():
    for command in ("run", "demo", "check", "replay", "decode", "emulate", "import", "backup"):
        shown = hallwatch(command, "--help")

        assert shown.returncode == 0
        assert f"Example: hallwatch {command}" in shown.stdout
    for command in ("aim", "learn-empty", "learn-occupied"):
        assert (
            f"Example: hallwatch camera {command}" in hallwatch("camera", command, "--help").stdout
        )


def test_check_lists_every_error_and_exits_2(settings):
    settings.write_text(SETTINGS + '[[devices]]\nid = "X"\ndriver = "none"\n[hal]\n', "utf-8")

    checked = hallwatch("check", "-c", settings)

    assert checked.returncode == 2
    assert "devices[1].id" in checked.stderr
    assert "hal" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_check_probe_tells_which_device_answers(settings):
    settings.write_text(
        SETTINGS + '[[devices]]\nid = "east"\ndriver = "zkteco"\nhost = "127.0.0.1"\nport = 9\n'
        'protocol = "tcp"\n',
        "utf-8",
    )

    checked = hallwatch("check", "-c", settings, "--probe")

    assert checked.returncode == 1
    row = next(line for line in checked.stdout.splitlines() if "east" in line)
    assert row.startswith("✗")
    assert "127.0.0.1:9" in row


def test_check_probe_tells_which_displays_answer_and_which_ports_are_there(settings, playing):
    where = playing("queue_display", "--port", "0", "--address", "3")
    port = re.search(r"tcp_port = (\d+)", where)
    line = re.search(r'port = "(/dev/pts/\d+)"', playing("led_board"))
    assert port
    assert line
    display = (
        '[[devices]]\nid = "d{unit}"\ndriver = "queue_display"\nhost = "127.0.0.1"\n'
        'tcp_port = {port}\nunit = {unit}\nprofile = "dm36"\nattendance = false\n'
    )
    more = [display.format(unit=unit, port=port[1]) for unit in (3, 4)]
    more += [
        f'[[devices]]\nid = "strip"\ndriver = "led_board"\nprofile = "strip-aa"\n'
        f'port = "{line[1]}"\nattendance = false\n',
        '[[devices]]\nid = "pad"\ndriver = "rating_pad"\nprofile = "keybyte"\n'
        'port = "/dev/serial/by-id/none"\nattendance = false\n',
    ]
    settings.write_text(SETTINGS + "".join(more), "utf-8")

    checked = hallwatch("check", "-c", settings, "--probe")

    assert checked.returncode == 1, checked.stderr
    rows = {line.split()[1]: line for line in checked.stdout.splitlines() if line[:1] in "✓✗?"}
    assert re.match(r"✓ +d3 +127.0.0.1:\d+ unit 3 +shows", rows["d3"])
    assert rows["d4"].startswith("✗")
    assert "unit 4 does not answer" in rows["d4"]
    assert rows["strip"].startswith("?")
    assert "the port is open" in rows["strip"]
    assert rows["pad"].startswith("✗")
    assert "There is no serial port /dev/serial/by-id/none" in checked.stdout.replace("\n", " ")


@pytest.fixture
def playing() -> Iterator[Callable[..., str]]:
    """``playing(family, ...)`` starts an emulator; gives what it says of itself."""
    started: list[subprocess.Popen[bytes]] = []

    def play(*words: str) -> str:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("hallwatch"), "emulate", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        assert process.stdout is not None
        told = ""
        deadline = time.monotonic() + 60
        while not told.endswith("\n\n") or ("driver = " not in told and "--line" not in words):
            assert time.monotonic() < deadline, told
            if select.select([process.stdout], [], [], 1)[0]:
                chunk = os.read(process.stdout.fileno(), 4096)
                assert chunk, told
                told += chunk.decode()
        return told

    yield play
    for process in started:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("zkteco", "--port", "0"),
        ("hikvision", "--port", "0"),
        ("http_terminal",),
        ("fingerprint",),
        ("fingerprint", "--port", "0"),
        ("rating_pad",),
        ("rating_pad", "--profile", "bank-ascii"),
        ("network_pad", "--serial", "PAD-1"),
        ("queue_display",),
        ("led_board", "--profile", "bx5", "--port", "0"),
        ("video", "--port", "0"),
        ("recorder", "--port", "0"),
    ],
    ids=" ".join,
)
def test_an_emulator_says_how_it_is_reached_and_ends_with_ctrl_c(playing, words, tmp_path):
    told = playing(*words)
    table = told[told.index("[[devices]]") :]
    for name in re.findall(r'"(a file that holds .*)"', table):
        (tmp_path / name).write_text("secret\n")
    window = '[[windows]]\nid = "01"\nname = "1号窗口"\n'
    (tmp_path / "hallwatch.toml").write_text(SETTINGS + window + table, "utf-8")

    (device,) = load(tmp_path / "hallwatch.toml").devices

    assert device.driver == words[0]


def test_an_emulated_display_is_read_through_a_real_port(playing, settings):
    ours, theirs = pty.openpty()
    far, near = pty.openpty()
    for end in (ours, theirs, far, near):
        tty.setraw(end)
    ends = threading.Event()

    def cable() -> None:
        while not ends.is_set():
            for end in select.select([ours, far], [], [], 0.1)[0]:
                os.write(far if end == ours else ours, os.read(end, 4096))

    joined = threading.Thread(target=cable)
    joined.start()
    try:
        playing("queue_display", "--line", os.ttyname(theirs), "--address", "7")
        settings.write_text(
            SETTINGS + '[[devices]]\nid = "d7"\ndriver = "queue_display"\nunit = 7\n'
            f'profile = "dm36"\nport = "{os.ttyname(near)}"\nattendance = false\n',
            "utf-8",
        )

        checked = hallwatch("check", "-c", settings, "--probe")
    finally:
        ends.set()
        joined.join()
        for end in (ours, theirs, far, near):
            os.close(end)

    assert checked.returncode == 0, checked.stdout
    assert re.search(r"✓ +d7 .*unit 7 +shows", checked.stdout)


def test_an_emulated_pad_and_display_cannot_be_what_they_are_not():
    for words, expected in (
        (("rating_pad", "--profile", "none"), "expected caller-ff68, sim-aa55"),
        (("rating_pad", "--port", "5000"), "played on a serial line"),
        (("led_board", "--profile", "none"), "expected one of strip-aa"),
        (("video", "--profile", "none"), "expected one of seated, away"),
        (("queue_display", "--line", "/dev/none"), "There is no serial port /dev/none"),
        (("queue_display", "--line", "/dev/none", "--port", "1"), "cannot go together"),
        (("zkteco", "--line", "/dev/none"), "a device of zkteco has no serial line"),
        (("network_pad", "--server", "nowhere"), "expected HOST:PORT"),
        (("mqtt_counter", "--server", "127.0.0.1:9"), "The broker at 127.0.0.1:9 cannot be"),
    ):
        said = hallwatch("emulate", *words)

        assert said.returncode == 2, words
        assert expected in said.stderr
        assert "Traceback" not in said.stderr


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The demo's day; the last argument of the command is its state."""
    return hallwatch("demo", "--once", "--state", tmp_path_factory.mktemp("demo"))


def test_a_day_of_the_demo_ends_with_its_tables_and_nothing_to_correct(played):
    state = Path(played.args[-1])
    assert played.returncode == 0, played.stderr
    rows = {line.split()[0]: line for line in played.stdout.splitlines() if line.split()}
    assert "08:42 迟" in rows["1002"]
    assert rows["1006"].count("旷工半天") == 2
    assert "已免责" in rows["1007"]
    assert "08:26 " in rows["1008"]  # came with the late log
    assert "08:23 " in rows["1009"]  # by a clock that is 95 s fast
    counter = played.stdout[played.stdout.index("窗口 counter") :]
    assert re.search(r"01号窗口 +5 +4 +1 +3/4 +3/3 +5\.0 min", counter)
    assert re.search(r"03号窗口 +2 +2 +0 +2/2 +1/2 +20\.5 min", counter)
    assert re.search(r"05号窗口 +2 +2 +0 +2/2 +2/2 +1\.8 min +11\.8 min", counter)  # over MQTT
    assert "08:28 " in rows["1011"]  # posted by the terminal
    assert re.search(r"09:02 +03号窗口 +B001 +不满意 dissatisfied +吴三省 +已办结 closed", counter)
    presence = played.stdout[played.stdout.index("在岗 presence") :]
    assert re.search(r"01号窗口 +\d{3}/\d{3} +\d\d/420 +10:39–10:47 +8 +未印证 nothing", presence)
    assert re.search(r"\n +15:59–16:19 +20 +queue *\n", presence)
    assert presence.split("差评")[0].count("–") == 2  # nobody is accused while the lens is covered
    assert re.search(r"PRE-02 +1001 林一鸣 +3 +有效 +离岗 20 分钟", presence)
    assert re.search(r"10:44 +PRE-01 +resolved +离岗 8 分钟：01号窗口", presence)
    assert re.search(r"17:15 +VID-03 +resolved +画面异常（遮挡）10 分钟，已恢复", presence)
    assert "PRE-04" not in played.stdout
    assert "VID-01" not in played.stdout
    assert "retro_leave" in played.stdout
    assert "DEV-01" in played.stdout
    verified = hallwatch("replay", "-c", state / "demo.toml", "--verify")
    assert (verified.returncode, verified.stdout.strip()) == (0, "没有不同 no differences")


def test_replay_shows_what_other_rules_would_have_decided_and_stores_nothing(played):
    state = Path(played.args[-1])
    other = state / "other.toml"
    other.write_text(
        (state / "demo.toml").read_text("utf-8") + "[rules.late_arrival]\nenabled = false\n",
        "utf-8",
    )

    shown = hallwatch("replay", "-c", state / "demo.toml", "--rules", other)

    assert shown.returncode == 0
    assert "1002" in shown.stdout
    assert "violation" in shown.stdout
    assert hallwatch("replay", "-c", state / "demo.toml", "--verify").returncode == 0


def test_the_daemon_runs_answers_takes_imports_and_stops(settings, daemon, tmp_path):
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/v1/attendance/days")[0] == 401

    made = hallwatch("token", "add", "board", "--scopes", "attendance:read", "-c", settings)
    secret = made.stdout.splitlines()[1]
    assert daemon.get("/v1/attendance/days", secret)[0] == 200
    assert daemon.get("/v1/devices", secret)[0] == 403

    table = tmp_path / "staff.csv"
    table.write_bytes("工号,姓名,单位\n2001,许新来,税务局\n".encode("gb18030"))
    imported = hallwatch("import", "people", table, "-c", settings)
    assert imported.returncode == 0, imported.stderr
    table.write_text("工号,姓名\n2002,\n,某人\n", "utf-8")
    refused = hallwatch("import", "people", table, "-c", settings)
    assert refused.returncode == 1
    assert "第 2 行" in refused.stderr
    assert "第 3 行" in refused.stderr

    copy = tmp_path / "copy.db"
    assert hallwatch("backup", copy, "-c", settings).returncode == 0
    assert copy.stat().st_size > 0

    token_id = made.stdout.split()[1]
    assert hallwatch("token", "revoke", token_id, "-c", settings).returncode == 0
    assert daemon.get("/v1/attendance/days", secret)[0] == 401
    second = hallwatch("run", "-c", settings)
    assert second.returncode == 2
    assert "Another hallwatch is using" in second.stderr
    assert daemon.stop() == 0


def test_a_wrong_file_is_refused_at_a_reload_and_a_right_one_taken(settings, daemon):
    settings.write_text(SETTINGS + "nonsense = 1\n", "utf-8")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(daemon, "settings_refused")
    assert daemon.get("/healthz")[0] == 200

    more = '[[people]]\ncode = "1002"\nname = "周二妮"\n'
    settings.write_text(SETTINGS + more, "utf-8")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(daemon, "settings_reloaded")
    assert daemon.stop() == 0


def wait_for(daemon: Daemon, event: str) -> None:
    deadline = time.monotonic() + 30
    while event not in daemon.log.read_text("utf-8"):
        assert time.monotonic() < deadline, daemon.log.read_text("utf-8")
        time.sleep(0.05)


def test_decode_prints_a_json_line_for_each_reading():
    event = "50 50 82 7d 28 00 00 00 f4 01 3e 90 01 00 00 00 39 30 30 31" + " 00" * 20
    event += " 01 00 19 03 0e 08 3b 01  # an event from a capture\n"

    shown = hallwatch("decode", "zkteco", stdin=event.encode())

    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(line["person"], line["at"]) for line in lines] == [
        ("9001", "2025-03-14T08:59:01+08:00")
    ]


@pytest.mark.parametrize(
    ("family", "capture", "expected"),
    [
        ("rating_pad", "FF 68 03 03 68 05 11 02 18 16", {"type": "rating", "raw_key": "02"}),
        (
            "queue_display",
            "01 03 00 00 00 06 C5 C8  01 03 0C 00 41 00 30 00 33 00 37 00 20 00 20 60 99",
            {"type": "shown", "text": "A037", "state": "ticket"},
        ),
        (
            "fingerprint",
            "EF 01 FF FF FF FF 07 00 07 00 00 2A 00 77 00 AF",
            {"type": "event", "name": "unknown_page", "code": 42},
        ),
        (
            "mqtt_counter",
            '{"event_id":"e1","type":"called","at":"2026-03-02T09:14:05+08:00","window":"a01",'
            '"ticket":"A037"}',
            {"type": "queue", "event": "called", "ticket": "A037"},
        ),
        (
            "network_pad",
            '{"rating_id":"r1","pad_id":"p1","level":2,"scale_id":"five","channel":"pad"}',
            {"type": "rating", "level": 2},
        ),
    ],
    ids=lambda told: told if isinstance(told, str) and " " not in told else "",
)
def test_decode_knows_the_counters_families(family, capture, expected):
    if family == "mqtt_counter":
        capture = f"hall/h1/in/queue/event {capture}\n"

    shown = hallwatch("decode", family, stdin=capture.encode())

    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert any(expected.items() <= line.items() for line in lines), shown.stdout + shown.stderr


def test_what_does_not_exist_is_told_in_a_sentence(settings, tmp_path):
    for words, expected in (
        (("decode", "nothing"), "There is no device family 'nothing'"),
        (("decode", "zkteco", tmp_path / "none"), "cannot be read"),
        (("emulate", "nothing"), "There is no emulator for 'nothing'"),
        (("replay", "-c", settings), "There is no database"),
        (("run", "-c", tmp_path / "none.toml"), "none.toml"),
        (("token", "add", "x", "--scopes", "all", "-c", settings), "Unknown scopes: all"),
    ):
        said = hallwatch(*words)

        assert said.returncode == 2, words
        assert expected in said.stderr
        assert "Traceback" not in said.stderr
