"""``hallwatch emulate``: one emulated device, for commissioning without hardware.

A device on a serial line is played on a pseudo-terminal, whose name is printed, or on a real port
(``line``).  What is to stand in the settings to reach it is printed, too.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console

from drivers.base import DeviceLost
from drivers.emulators.camera import PICTURE, SHOWN, EmulatedCamera
from drivers.emulators.fingerprint import FingerprintModule
from drivers.emulators.hikvision import HikTerminal
from drivers.emulators.led_board import HEARS, Board, BoardLine
from drivers.emulators.network_pad import HttpPad, MqttPad, request
from drivers.emulators.queue_display import DisplayLine, DisplayUnit
from drivers.emulators.rating_pad import (
    BankTerminal,
    KeybytePad,
    Keypad,
    Pad,
    SerialBus,
    SimPad,
)
from drivers.emulators.recorder import EmulatedRecorder
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkRecord, ZkTerminal, ZkUser
from drivers.serial_line import SerialLine

DeviceTable = dict[str, Any]
"""A ``[[devices]]`` of the settings."""


def table_text(table: DeviceTable) -> str:
    """The device as it stands in the settings."""
    pairs = (f"{key} = {_toml(value)}\n" for key, value in table.items())
    return f"[[devices]]\n{''.join(pairs)}"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Wanted:
    """What to play.  ``port``, ``server``, ``profile`` and ``baud`` have a default for each family;
    without a ``port`` devices of serial lines are on a pseudo-terminal."""

    family: str
    serial: str
    zone: ZoneInfo
    host: str = "127.0.0.1"
    port: int | None = None
    server: str = ""
    line: str = ""
    baud: int = 0
    profile: str = ""
    address: int = 1
    root: str = "hall/h1"
    people: int = 10
    records: int = 0
    comm_key: int = 0
    password: str = ""
    clock_offset: float = 0

    @property
    def codes(self) -> list[str]:
        return [str(1001 + number) for number in range(self.people)]

    def wall(self) -> datetime:
        return self.now().replace(tzinfo=None)

    def now(self) -> datetime:
        return datetime.now(self.zone)

    def called(self, usual: int) -> tuple[str, int]:
        """Where the device calls."""
        name, colon, number = (self.server or f"127.0.0.1:{usual}").rpartition(":")
        if not colon or not number.isdigit() or not 0 < int(number) < 65536:
            raise ValueError(f"--server {self.server!r}: expected HOST:PORT")
        return name, int(number)


@dataclass(frozen=True)
class Played:
    """A device that is there.  ``act`` has it do the next thing and says what that was; nothing
    where nothing happened."""

    where: str
    settings: DeviceTable
    act: Callable[[int], Awaitable[str]]
    stop: Callable[[], Awaitable[None]]


async def play_device(out: Console, wanted: Wanted, every: float) -> None:
    """Play until cancelled; something happens every ``every`` seconds.

    Raises ``ValueError`` for a family without an emulator or an option that it cannot have, and
    ``OSError`` where a port cannot be had.
    """
    player = PLAYERS.get(wanted.family)
    if player is None:
        known = ", ".join(sorted(PLAYERS))
        raise ValueError(f"There is no emulator for {wanted.family!r}; there are: {known}.")
    if wanted.line and wanted.family not in _SERIAL:
        raise ValueError(f"--line: a device of {wanted.family} has no serial line.")
    if wanted.line and wanted.port is not None:
        raise ValueError("--line and --port cannot go together.")
    played = await player(wanted)
    joined: _Joined | None = None
    try:
        where = played.where
        if wanted.line:
            try:
                joined = _Joined(wanted.line, where, wanted.baud or _SERIAL[wanted.family])
            except DeviceLost as error:
                raise OSError(str(error)) from None
            where = wanted.line
        out.print(
            f"{wanted.family} {where}; Ctrl-C 结束 / Ctrl-C ends it\n", markup=False, soft_wrap=True
        )
        table = {"id": "emulated", "driver": wanted.family} | played.settings
        if not wanted.line:
            out.print(table_text(table), markup=False, soft_wrap=True)
        for number in count():
            await asyncio.sleep(every)
            if joined is not None and joined.failed is not None:
                raise OSError(str(joined.failed))
            try:
                told = await played.act(number)
            except OSError as error:
                told = f"({error or type(error).__name__})"
            if told:
                out.print(f"{wanted.now():%H:%M:%S} {told}", markup=False, soft_wrap=True)
    finally:
        if joined is not None:
            await joined.close()
        await played.stop()


class _Joined:
    """A real port and an emulator's pseudo-terminal as one line.  Raises ``DeviceLost``."""

    def __init__(self, line: str, path: str, baud: int) -> None:
        real = SerialLine(line, baud)
        try:
            played = SerialLine(path, baud)
        except DeviceLost:
            real.close()
            raise
        self._ends = (real, played)
        self._tasks = [
            asyncio.create_task(self._pass(one, other))
            for one, other in (self._ends, self._ends[::-1])
        ]

    @staticmethod
    async def _pass(one: SerialLine, other: SerialLine) -> None:
        while True:
            await other.write(await one.read())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.close()

    @property
    def failed(self) -> BaseException | None:
        """Why bytes pass no more."""
        return next((task.exception() for task in self._tasks if task.done()), None)


# --------------------------------------------------------------------------------------------
# Attendance
# --------------------------------------------------------------------------------------------


async def _zkteco(wanted: Wanted) -> Played:
    codes = wanted.codes
    terminal = ZkTerminal(
        wanted.serial,
        clock=wanted.wall,
        comm_key=wanted.comm_key,
        users=[ZkUser(1 + n, code, f"演示{code}") for n, code in enumerate(codes)],
        records=[
            ZkRecord(
                codes[n % len(codes)],
                wanted.wall() - timedelta(minutes=wanted.records - n),
                1,
                0,
            )
            for n in range(wanted.records)
        ],
    )
    terminal.set_clock_offset(wanted.clock_offset)
    port = await terminal.start(wanted.host, 4370 if wanted.port is None else wanted.port)

    async def act(_: int) -> str:
        code = random.choice(codes)
        done = await terminal.punch(code)
        return f"punch {code}{'' if done else ' (refused)'}"

    settings: DeviceTable = {"host": wanted.host, "port": port, "serial": wanted.serial}
    if wanted.comm_key:
        settings["comm_key_file"] = f"a file that holds {wanted.comm_key}"
    return Played(f"{wanted.serial} {wanted.host}:{port} (TCP, UDP)", settings, act, terminal.stop)


async def _zk_push(wanted: Wanted) -> Played:
    server = wanted.called(8088)
    terminal = PushTerminal(
        wanted.serial,
        server,
        clock=wanted.wall,
        users=[PushUser(code, f"演示{code}") for code in wanted.codes],
        follows_server_clock=wanted.clock_offset == 0,
    )
    terminal.clock.offset = wanted.clock_offset
    await terminal.start()

    async def act(_: int) -> str:
        code = random.choice(wanted.codes)
        done = await terminal.punch(code)
        return f"punch {code}{'' if done else ' (refused)'}"

    where = f"{wanted.serial} → {server[0]}:{server[1]}"
    return Played(where, {"serial": wanted.serial, "port": server[1]}, act, terminal.stop)


async def _hikvision(wanted: Wanted) -> Played:
    password = wanted.password or "Abc12345"
    terminal = HikTerminal(wanted.serial, clock=wanted.wall, password=password)
    terminal.clock.offset = wanted.clock_offset
    port = await terminal.start(wanted.host, 8000 if wanted.port is None else wanted.port)
    for number in range(wanted.records):
        code = wanted.codes[number % wanted.people]
        terminal.punch(code, at=terminal.clock.now() - timedelta(minutes=wanted.records - number))

    async def act(_: int) -> str:
        return f"punch {terminal.punch(random.choice(wanted.codes)).person}"

    settings: DeviceTable = {
        "host": wanted.host,
        "port": port,
        "password_file": f"a file that holds {password}",
    }
    return Played(f"{wanted.serial} {wanted.host}:{port}", settings, act, terminal.stop)


async def _http_terminal(wanted: Wanted) -> Played:
    """A terminal of another maker does no more than post; this posts as a Dahua does."""
    if wanted.profile not in ("", "dahua"):
        raise ValueError(f"--profile {wanted.profile!r}: expected dahua")
    server = wanted.called(8090)
    token = wanted.password or "demo-token"

    async def act(_: int) -> str:
        code = random.choice(wanted.codes)
        data = {
            "UserID": code, "Status": 1, "Method": 15, "Type": "Entry", "ErrorCode": 0, "Door": 0,
            "UTC": int(wanted.now().timestamp() + wanted.clock_offset),
        }  # fmt: skip
        events = {"Events": [{"Code": "AccessControl", "Action": "Pulse", "Data": data}]}
        head = [f"POST /terminal/{token} HTTP/1.1"]
        answer = await request(server, head, json.dumps(events).encode())
        return f"punch {code}: answered {answer.status}"

    async def stop() -> None:
        """It keeps no connection."""

    settings = {
        "maker": "dahua",
        "serial": wanted.serial,
        "port": server[1],
        "token_file": f"a file that holds {token}",
    }
    where = f"{wanted.serial} → http://{server[0]}:{server[1]}/terminal/{token}"
    return Played(where, settings, act, stop)


async def _fingerprint(wanted: Wanted) -> Played:
    pages = range(1, wanted.people + 1)
    module = FingerprintModule(
        pages, capacity=max(200, wanted.people), password=wanted.comm_key,
        baud=wanted.baud or _SERIAL["fingerprint"],
    )  # fmt: skip
    if wanted.port is None:
        where = await module.start()
    else:
        where = await module.listen(wanted.host, wanted.port)

    async def act(_: int) -> str:
        page = random.choice(pages)
        await module.touch(page)
        return f"finger of page {page}"

    settings: DeviceTable = {
        "port": where,
        "pages": {str(page): code for page, code in zip(pages, wanted.codes, strict=True)},
    }
    if wanted.comm_key:
        settings["password_file"] = f"a file that holds {wanted.comm_key}"
    return Played(where, settings, act, module.stop)


# --------------------------------------------------------------------------------------------
# Cameras
# --------------------------------------------------------------------------------------------


async def _video(wanted: Wanted) -> Played:
    """``profile``: what is in the picture all the time; without it the clerk comes and goes."""
    if wanted.profile and wanted.profile not in SHOWN:
        raise ValueError(f"--profile {wanted.profile!r}: expected one of {', '.join(SHOWN)}")
    if find_spec("cv2") is None:
        raise ValueError("没有安装视频组件 / OpenCV is not installed; install hallwatch[video].")
    password = wanted.password or "Abc12345"
    camera = EmulatedCamera(
        lambda: round(wanted.wall().replace(tzinfo=UTC).timestamp() * 1000),
        usual=wanted.profile or "seated",
        password=password,
    )
    port = await camera.start(wanted.host, 8081 if wanted.port is None else wanted.port)

    async def act(number: int) -> str:
        if wanted.profile:
            return ""
        camera.usual = ("away", "seated")[number % 2]
        return f"shows {camera.usual}"

    region = [[round(x, 3), round(y, 3)] for x, y in camera.region]
    settings: DeviceTable = {
        "url": f"http://{wanted.host}:{port}{PICTURE}",
        "username": camera.user,
        "password_file": f"a file that holds {password}",
        "posts": [{"window": "01", "region": region}],
    }
    return Played(f"http://{wanted.host}:{port}{PICTURE}", settings, act, camera.stop)


async def _recorder(wanted: Wanted) -> Played:
    password = wanted.password or "Abc12345"
    recorder = EmulatedRecorder(clock=wanted.wall, password=password)
    recorder.clock.offset = wanted.clock_offset
    port = await recorder.start(wanted.host, 8082 if wanted.port is None else wanted.port)
    hour = timedelta(hours=1)
    now = recorder.clock.now()
    recorder.record(1, now - 24 * hour, now)

    async def act(number: int) -> str:
        kind = ("shelteralarm", "videoloss", "scenechangedetection")[number % 3]
        recorder.event(kind)
        recorder.record(1, recorder.recordings[-1][2], recorder.clock.now())
        return f"event {kind}"

    settings: DeviceTable = {
        "host": wanted.host,
        "port": port,
        "password_file": f"a file that holds {password}",
        "channel": 1,
    }
    return Played(f"{wanted.host}:{port}", settings, act, recorder.stop)


# --------------------------------------------------------------------------------------------
# The counter
# --------------------------------------------------------------------------------------------

_LEVELS = {"00": 5, "01": 4, "02": 3, "03": 2}
_BANK_LEVELS = {"31": 5, "32": 4, "33": 2, "34": "none", "35": 1}


async def _rating_pad(wanted: Wanted) -> Played:
    if wanted.port is not None:
        raise ValueError("--port: rating pads are played on a serial line.")
    profile = wanted.profile or "caller-ff68"
    bus = SerialBus()
    settings: DeviceTable = {"profile": profile}
    match profile:
        case "caller-ff68":
            settings |= {"address": wanted.address, "role": "both"}
            settings |= {"scale_id": "four", "scale": _LEVELS}
            act = _caller(Keypad(bus, wanted.address), Pad(bus, wanted.address))
        case "sim-aa55":
            settings["address"] = wanted.address
            act = _presses(SimPad(bus, wanted.address), range(1, 6))
        case "keybyte":
            act = _keybytes(KeybytePad(bus))
        case "bank-ascii" | "bank-ascii-pj" | "bank-ascii-ph":
            if profile == "bank-ascii":
                settings |= {"scale_id": "bank", "scale": _BANK_LEVELS}
            act = _bank(BankTerminal(bus))
        case _:
            raise ValueError(
                f"--profile {profile!r}: expected caller-ff68, sim-aa55, keybyte, bank-ascii,"
                " bank-ascii-pj or bank-ascii-ph"
            )
    path = await bus.start()
    return Played(path, {"port": path} | settings, act, bus.stop)


def _caller(keypad: Keypad, pad: Pad) -> Callable[[int], Awaitable[str]]:
    async def act(number: int) -> str:
        word = ("call", "finish", "rate")[number % 3]
        if word == "rate":
            key = random.choice((0, 0, 0, 1, 1, 2, 3))
            word, done = f"rating key {key:02X}", await pad.press(key)
        else:
            word, done = f"staff key {word}", await keypad.press(word)
        return word if done else f"{word} (nobody answers)"

    return act


def _presses(pad: SimPad, keys: range) -> Callable[[int], Awaitable[str]]:
    async def act(_: int) -> str:
        key = random.choice(keys)
        done = await pad.press(key)
        return f"rating key {key:02X}{'' if done else ' (nobody answers)'}"

    return act


def _keybytes(pad: KeybytePad) -> Callable[[int], Awaitable[str]]:
    async def act(_: int) -> str:
        key = random.choice((0x33, 0x34, 0x35))
        await pad.press(key)
        return f"rating key {key:02X}"

    return act


def _bank(terminal: BankTerminal) -> Callable[[int], Awaitable[str]]:
    async def act(_: int) -> str:
        if not terminal.prompted.is_set():
            return ""
        terminal.prompted.clear()
        option = random.randint(1, 3)
        await terminal.press(option)
        return f"asked {terminal.asked}, option {option}"

    return act


async def _network_pad(wanted: Wanted) -> Played:
    server = wanted.called(8089)
    pad = HttpPad(wanted.serial.lower()[:16], server, wanted.now, token=wanted.password)
    pad.offset = wanted.clock_offset
    beating = asyncio.create_task(_beat(pad))

    async def act(_: int) -> str:
        level = random.choice((5, 5, 5, 4, 4, 3, 2))
        before = len(pad.answers)
        done = await pad.press(level)
        answers = " ".join(str(answer.status) for answer in pad.answers[before:])
        return f"rating {level}: {f'answered {answers}' if done else 'kept, not delivered yet'}"

    async def stop() -> None:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)

    settings: DeviceTable = {"port": server[1]}
    if wanted.password:
        settings["token_file"] = f"a file that holds {wanted.password}"
    where = f"{pad.pad} → http://{server[0]}:{server[1]}"
    return Played(where, {"id": pad.pad} | settings, act, stop)


async def _beat(pad: HttpPad) -> None:
    while True:
        await pad.heartbeat()
        await asyncio.sleep(10)


async def _mqtt_counter(wanted: Wanted) -> Played:
    broker = wanted.called(1883)
    pad = MqttPad(wanted.serial.lower()[:16], broker, wanted.now, wanted.root)
    try:
        await pad.start()
    except OSError as error:
        raise OSError(f"The broker at {broker[0]}:{broker[1]} cannot be reached: {error}") from None

    async def act(_: int) -> str:
        told = await pad.press(random.choice((5, 5, 4, 4, 3, 2)), window=f"{wanted.address:02}")
        return f"rating {told['level']} at window {told['window']}"

    where = f"{pad.pad} → mqtt://{broker[0]}:{broker[1]} {wanted.root}/in/pad/{pad.pad}/rating"
    settings: DeviceTable = {"host": broker[0], "port": broker[1], "root": wanted.root}
    return Played(where, settings, act, pad.stop)


async def _queue_display(wanted: Wanted) -> Played:
    if wanted.profile not in ("", "dm36"):
        raise ValueError(f"--profile {wanted.profile!r}: expected dm36")
    unit = DisplayUnit(wanted.address)
    unit.show("")
    line = DisplayLine([unit], "rtu" if wanted.port is None else "tcp")
    settings: DeviceTable = {"unit": wanted.address, "profile": "dm36"}
    if wanted.port is None:
        where = line.start_pty()
        settings |= {"port": where}
    else:
        if wanted.host != "127.0.0.1":
            raise ValueError("--host: displays are played on 127.0.0.1.")
        port = await line.start_tcp(wanted.port)
        where = f"127.0.0.1:{port}"
        settings |= {"host": "127.0.0.1", "tcp_port": port}

    async def act(number: int) -> str:
        ticket = f"A{number % 999 + 1:03}"
        unit.show(ticket)
        return f"shows {ticket}"

    return Played(where, settings, act, line.stop)


async def _led_board(wanted: Wanted) -> Played:
    profile = wanted.profile or "strip-aa"
    if profile not in HEARS:
        raise ValueError(f"--profile {profile!r}: expected one of {', '.join(HEARS)}")
    board = Board(profile, wanted.address)
    line = BoardLine([board], asyncio.get_running_loop().time)
    settings: DeviceTable = {"profile": profile, "address": wanted.address}
    if wanted.port is None:
        where = await line.start_pty()
        settings |= {"port": where}
    else:
        port = await line.start_tcp(wanted.host, wanted.port)
        where = f"{wanted.host}:{port}"
        settings |= {"transport": "tcp", "host": wanted.host, "ip_port": port}
    told = 0

    async def act(_: int) -> str:
        nonlocal told
        new, told = board.history[told:], len(board.history)
        return " → ".join(f"shows {text!r}" for text in new)

    return Played(where, settings, act, line.stop)


_SERIAL = {"fingerprint": 57600, "rating_pad": 9600, "queue_display": 9600, "led_board": 9600}
"""Families of serial lines, and how fast these usually are."""

PLAYERS: Mapping[str, Callable[[Wanted], Awaitable[Played]]] = {
    "fingerprint": _fingerprint,
    "hikvision": _hikvision,
    "http_terminal": _http_terminal,
    "led_board": _led_board,
    "mqtt_counter": _mqtt_counter,
    "network_pad": _network_pad,
    "queue_display": _queue_display,
    "rating_pad": _rating_pad,
    "recorder": _recorder,
    "video": _video,
    "zk_push": _zk_push,
    "zkteco": _zkteco,
}
