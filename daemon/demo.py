"""The demo hall: emulated devices that speak their real protocols to the real daemon.

The people are invented.  A day of the script has somebody on time, late, very late, leaving
early, forgetting a punch, staying away, on leave, and excused afterwards; a terminal that loses its
network and delivers its log late, and one whose clock is fast.  At the counter visitors take
tickets, are called, served and asked to rate; one is not satisfied, one has gone.

A camera sees who is at window 01: its clerk leaves for eight minutes, which is a notice, and for
twenty while visitors wait, which is a violation; when its lens is covered, nobody is accused.

A day played as fast as it can be has keypads and pads on a serial line, a queue system on MQTT and
a terminal that posts, which cost little while nobody touches them, a camera that takes its time,
and what another queue system tells over the API.  Devices that are asked every few seconds
(displays, boards, a fingerprint module, a pad on the network, a Hikvision terminal) are there when
the demo runs on.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from rich.console import Console
from rich.table import Table

from api.views import POST_ZH, VERDICT_ZH
from config.load import Hall, load
from daemon.app import App
from daemon.camera import store_learned
from daemon.control import Request, change_tokens, new_secret
from daemon.database import FILE_NAME, open_reader
from daemon.emulate import DeviceTable, table_text
from daemon.simulation import Simulation, simulate
from daemon.store import stored_record
from drivers.emulators.camera import PICTURE, EmulatedCamera
from drivers.emulators.fingerprint import FingerprintModule
from drivers.emulators.hikvision import HikTerminal
from drivers.emulators.http_terminal import UfaceTerminal
from drivers.emulators.led_board import Board, BoardLine
from drivers.emulators.mqtt_counter import QueueHost
from drivers.emulators.network_pad import HttpPad, MqttPad
from drivers.emulators.queue_display import DisplayLine, DisplayUnit
from drivers.emulators.rating_pad import Keypad, Pad, SerialBus
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from rules.model import (
    MINUTE,
    Absence,
    Body,
    FollowUpStep,
    Instant,
    Person,
    QueueEvent,
    Reading,
    Slot,
)
from rules.post import PostRecord
from rules.video import FAULT_ZH
from rules.workdays import at_minute

FIRST_DAY = date(2026, 3, 2)
ZONE = ZoneInfo("Asia/Shanghai")
HIK_PASSWORD = "Demo12345"
POST_TOKEN = "demo-lobby"
ROOT = "hall/demo"
"""Of the topics on which the second floor's queue system and pad tell what happens."""
PEOPLE = (
    ("1001", "林一鸣", "civil", "01"), ("1002", "周二妮", "civil", "02"),
    ("1003", "吴三省", "tax", "03"), ("1004", "郑四喜", "tax", "04"),
    ("1005", "王五味", "land", "05"), ("1006", "冯六月", "land", "06"),
    ("1007", "陈七夕", "social", "07"), ("1008", "褚八方", "social", "08"),
    ("1009", "卫九如", "market", "09"), ("1010", "蒋十全", "market", "10"),
    ("1011", "沈小满", "market", "11"),
)  # fmt: skip
UNITS = {
    "civil": "民政局",
    "tax": "税务局",
    "land": "自然资源局",
    "social": "人社局",
    "market": "市场监管局",
}

SCRIPT = """
08:12:10 east  1001
08:21:40 east  1005
08:22:05 west  1010
08:23:30 door  1009
08:24:15 cable off
08:26:02 north 1008
08:27:44 south 1004
08:28:50 lobby 1011
08:28:55 lobby 1011
08:42:20 east  1002
08:52:00 south 1003
09:20:00 cable on
12:01:10 east  1001
12:02:20 east  1002
12:03:00 south 1003
12:03:30 south 1004
12:04:00 west  1010
12:04:40 north 1008
12:05:00 door  1009
12:06:00 lobby 1011
14:10:00 west  7777
14:18:00 east  1001
14:19:00 east  1002
14:20:00 south 1003
14:21:00 south 1004
14:22:00 east  1005
14:22:30 west  7777
14:23:00 north 1007
14:24:00 north 1008
14:25:00 door  1009
14:38:00 west  1010
14:27:00 lobby 1011
15:10:00 leave 1010 14:30 15:00
16:00:00 west  7777
17:52:00 south 1004
18:01:00 east  1001
18:02:00 east  1002
18:02:30 south 1003
18:03:00 east  1005
18:03:30 north 1007
18:04:00 north 1008
18:05:00 door  1009
18:06:00 west  1010
18:07:00 lobby 1011
"""
"""What happens: at a terminal somebody punches; north's cable is pulled and plugged in again; leave
is entered afterwards.  1006 never comes; 1007 has leave in the morning."""

COUNTER_SCRIPT = """
08:30:10 login 01
08:30:40 ticket A001
08:31:15 ticket A002
08:32:00 ticket B001
08:32:30 call 01 A001
08:39:05 finish 01
08:39:20 rate 01 5
08:43:30 login 02
08:44:00 call 02 A002
08:50:10 finish 02
08:50:25 rate 02 4
08:53:00 login 03
08:54:00 call 03 B001
09:02:00 finish 03
09:02:15 rate 03 2
09:04:00 follow 03 assigned
09:05:00 login 05
09:06:00 ticket D001
09:08:00 call 05 D001
09:10:00 ticket A003
09:11:00 call 01 A003
09:17:40 finish 01
09:19:00 finish 05
09:19:20 rate 05 5
09:30:00 follow 03 contacting
09:40:00 ticket A004
09:41:00 call 01 A004
09:42:00 recall 01
09:44:00 give_up 01
09:50:00 follow 03 fix_now
10:05:00 ticket B002
10:12:00 ticket D002
10:13:30 call 05 D002
10:15:00 recall 05
10:24:00 call 03 B002
10:26:00 finish 05
10:26:10 rate 05 4
10:30:00 follow 03 fed_back
10:31:00 finish 03
10:31:20 rate 03 3
11:00:00 follow 03 rechecked
11:05:00 follow 03 closed
14:40:00 ticket A005
14:41:00 call 02 A005
14:49:00 finish 02
14:49:30 rate 02 5
15:00:00 pause 03
15:09:00 pause 03
15:30:00 ticket A006
15:32:00 call 01 A006
15:40:00 finish 01
15:40:15 rate 01 4
16:02:00 ticket A007
16:21:00 call 01 A007
16:28:00 finish 01
16:28:20 rate 01 5
"""
"""At the windows: staff log in to the queue system, visitors take tickets, the keys of the windows'
keypads and pads are pressed; a bad rating is followed up.  Window 05 is on the second floor, whose
queue system and pad speak MQTT."""

LIVE_SCRIPT = """
08:40:00 login 04
08:41:00 ticket C001
08:42:00 call 04 C001
08:48:00 finish 04
08:48:20 rate 04 5
09:00:00 finger 1004
09:20:00 display off 02
09:35:00 display on 02
10:50:00 ticket C002
10:51:00 call 04 C002
10:57:00 finish 04
10:57:15 rate 04 4
12:10:00 finger 1001
12:11:00 hik 1002
15:45:00 hik 1011
16:10:00 ticket C003
16:11:00 call 04 C003
16:18:00 finish 04
16:18:10 rate 04 3
"""
"""What the devices do that are there only when the demo runs on."""

CAMERA_SCRIPT = """
00:00:00 08:26:30 away
10:39:55 10:47:45 away
12:00:55 14:20:00 away
15:59:55 16:19:45 away
17:10:00 17:20:00 covered
18:00:55 24:00:00 away
"""
"""What the camera sees, from when until when; at other times the clerk sits there."""

AT_THE_COUNTER = frozenset(
    ("ticket", "login", "call", "recall", "give_up", "pause", "finish", "rate", "follow", "display")
)
LULL, LULL_PACE = 5 * MINUTE, 5
"""Where nothing is to happen for so long, the time goes faster by so much."""
STAFF = {window: code for code, _, _, window in PEOPLE}
BUS_WINDOWS = ("01", "02", "03")
NETWORK_WINDOW = "04"
MQTT_WINDOW, MQTT_QUEUE = "05", "D"
CAMERA, CAMERA_WINDOW, CAMERA_PASSWORD = "cam-1", "01", "Demo12345"
CAMERA_INTERVAL, CAMERA_PACE, CAMERA_SLOWEST = 10, 60, 600
"""Seconds between two pictures: the camera takes its time, so that hours of them go by quickly."""
CAMERA_BUSY = 4 * MINUTE
PAD_KEYS = {5: 0, 4: 1, 3: 2, 2: 3}
"""A pad's keys from left to right, by level: 非常满意 满意 基本满意 不满意."""


class DemoHall:
    """The terminals.  ``live``: with those that are asked every few seconds."""

    def __init__(self, simulation: Simulation, *, live: bool) -> None:
        self._simulation = simulation
        clock, sleep = self.wall, simulation.clock.sleep
        users = [ZkUser(n, code, name) for n, (code, name, *_) in enumerate(PEOPLE, 1)]
        self.polled = {
            "east": ZkTerminal("DEMO20250001", clock=clock, users=users, sleep=sleep),
            "north": ZkTerminal(
                "DEMO20250002", clock=clock, users=users, transport="tcp", sleep=sleep
            ),
            "door": ZkTerminal(
                "DEMO20250003", clock=clock, users=users, transport="udp", record_layout=16,
                comm_key=1234, sleep=sleep,
            ),
        }  # fmt: skip
        self.polled["door"].set_clock_offset(95)
        self.pushing: dict[str, PushTerminal] = {}
        self.lobby = UfaceTerminal(
            "DEMO20250006", ("127.0.0.1", _free_port()), f"/terminal/{POST_TOKEN}",
            clock=self.true_time, sleep=sleep, heartbeat=600,
        )  # fmt: skip
        self.finger: FingerprintModule | None = None
        self.hik: HikTerminal | None = None
        if live:
            self.finger = FingerprintModule(range(1, len(PEOPLE) + 1), sleep=sleep)
            self.hik = HikTerminal(clock=clock, password=HIK_PASSWORD, sleep=sleep)
        self._touches: set[asyncio.Task[None]] = set()

    def true_time(self) -> datetime:
        return datetime.fromtimestamp(self._simulation.clock.now() / 1000, ZONE)

    def wall(self) -> datetime:
        return self.true_time().replace(tzinfo=None)

    async def start_polled(self, folder: Path) -> list[DeviceTable]:
        """Their settings."""
        names = {"east": "东门考勤机", "north": "北门考勤机", "door": "侧门考勤机"}
        (folder / "comm_key").write_text("1234\n")
        tables: list[DeviceTable] = []
        for id_, terminal in self.polled.items():
            table: DeviceTable = {
                "id": id_, "name": names[id_], "driver": "zkteco", "host": "127.0.0.1",
                "port": await terminal.start(), "protocol": "udp" if id_ == "door" else "tcp",
                "keepalive_s": 60,
            }  # fmt: skip
            if id_ == "door":
                table["comm_key_file"] = "comm_key"
            tables.append(table)
        (folder / "lobby_token").write_text(f"{POST_TOKEN}\n")
        tables.append({
            "id": "lobby", "name": "大厅宇泛人脸机", "driver": "http_terminal", "maker": "uface",
            "serial": self.lobby.serial, "port": self.lobby.server[1],
            "token_file": "lobby_token", "silent_s": 1500,
        })  # fmt: skip
        if self.finger is not None:
            pages = {f"{page}": code for page, (code, *_) in enumerate(PEOPLE, 1)}
            tables.append({
                "id": "finger", "name": "大厅指纹模块", "driver": "fingerprint",
                "port": await self.finger.start(), "poll_s": 2.0, "pages": pages,
            })  # fmt: skip
        if self.hik is not None:
            (folder / "hik_password").write_text(f"{HIK_PASSWORD}\n")
            tables.append({
                "id": "hik", "name": "大厅海康人脸机", "driver": "hikvision", "host": "127.0.0.1",
                "port": await self.hik.start(), "password_file": "hik_password",
            })  # fmt: skip
        return tables

    def push_tables(self, port: int) -> list[DeviceTable]:
        return [
            {
                "id": id_, "name": name, "driver": "zk_push", "serial": f"DEMO2025000{number}",
                "port": port, "delay": 30,
            }
            for number, id_, name in ((4, "west", "西门人脸机"), (5, "south", "南门人脸机"))
        ]  # fmt: skip

    async def start_pushing(self, port: int) -> None:
        users = [PushUser(code, name) for code, name, *_ in PEOPLE]
        for number, name in ((4, "west"), (5, "south")):
            terminal = self.pushing[name] = PushTerminal(
                f"DEMO2025000{number}", ("127.0.0.1", port), clock=self.wall, users=users,
                sleep=self._simulation.clock.sleep,
            )  # fmt: skip
            await terminal.start()
        await self.lobby.start()

    async def stop(self) -> None:
        await self.lobby.stop()
        for polled in self.polled.values():
            await polled.stop()
        for pushing in self.pushing.values():
            await pushing.stop()
        for touch in self._touches:
            touch.cancel()
        await asyncio.gather(*self._touches, return_exceptions=True)
        if self.finger is not None:
            await self.finger.stop()
        if self.hik is not None:
            await self.hik.stop()

    async def act(self, app: App, day: date, line: str) -> None:
        """One line of the script, without its time."""
        what, *words = line.split()
        if what == "cable":
            north = self.polled["north"]
            await (north.plug_in() if words[0] == "on" else north.unplug())
        elif what == "leave":
            person, starts, ends = words
            await app.pipeline.tell((self.leave(day, person, starts, ends),))
        elif what == "lobby":
            await self.lobby.recognise(words[0])
        elif what == "finger":
            if self.finger is not None:
                # The finger rests until it is looked for, and for that the time has to go on.
                page = [code for code, *_ in PEOPLE].index(words[0]) + 1
                touch = asyncio.create_task(self.finger.touch(page))
                self._touches.add(touch)
                touch.add_done_callback(self._touches.discard)
        elif what == "hik":
            if self.hik is not None:
                self.hik.punch(words[0])
        else:
            terminal = self.polled.get(what) or self.pushing[what]
            if isinstance(terminal, ZkTerminal):
                await terminal.punch(words[0])
            else:
                terminal.record(words[0])

    def leave(self, day: date, person: str, starts: str, ends: str) -> Reading:
        absence = Absence(
            f"demo-{day}-{person}", (person,), "personal", _at(day, starts), _at(day, ends),
            approved_by="演示分管领导", source="demo",
        )  # fmt: skip
        return Reading("api", self._simulation.clock.now(), absence)


def _at(day: date, clock: str) -> Instant:
    hour, minute, *second = (int(part) for part in clock.split(":"))
    return at_minute(day, hour * 60 + minute, ZONE) + (second[0] if second else 0) * 1000


class DemoCounter:
    """The windows' devices, and the queue system that tells of its tickets.  ``live``: with those
    that are asked every few seconds."""

    def __init__(self, simulation: Simulation, *, live: bool) -> None:
        self._clock = simulation.clock
        self._bus = SerialBus()
        self._keypads: dict[str, Keypad] = {}
        self._pads: dict[str, Pad] = {}
        for address, window in enumerate(BUS_WINDOWS, 1):
            self._keypads[window] = Keypad(self._bus, address)
            self._pads[window] = Pad(self._bus, address)
        self._displays = {
            window: DisplayUnit(address) for address, window in enumerate(BUS_WINDOWS, 1)
        }
        self._line = DisplayLine(list(self._displays.values()), "tcp") if live else None
        self.boards: dict[str, Board] = {}
        self._board_lines: list[BoardLine] = []
        self._network_pad: HttpPad | None = None
        self._beating: asyncio.Task[None] | None = None
        self._waiting: list[str] = []
        self._called: dict[str, str] = {}
        self.broker = ("127.0.0.1", _free_port())
        self._queue_host = QueueHost("queue-2", self.broker, self._true_time, ROOT)

    async def start(self) -> list[DeviceTable]:
        """Their settings.  None of them is an attendance terminal."""
        path = await self._bus.start()
        tables: list[DeviceTable] = [
            {
                "id": f"pad-{window}", "name": f"{window}号窗口叫号评价器", "driver": "rating_pad",
                "window": window, "port": path, "profile": "caller-ff68", "address": address,
                "role": "both", "scale_id": "four",
                "scale": {f"{key:02X}": level for level, key in PAD_KEYS.items()},
            }
            for address, window in enumerate(BUS_WINDOWS, 1)
        ]  # fmt: skip
        tables.append({
            "id": "floor-2", "name": "二层排队叫号系统", "driver": "mqtt_counter",
            "host": self.broker[0], "port": self.broker[1], "root": ROOT,
        })  # fmt: skip
        if self._line is not None:
            tables += await self._start_live(self._line)
        return [table | {"attendance": False} for table in tables]

    async def _start_live(self, line: DisplayLine) -> list[DeviceTable]:
        for display in self._displays.values():
            display.show("")
        port = await line.start_tcp()
        tables: list[DeviceTable] = [
            {
                "id": f"display-{window}", "name": f"{window}号窗口显示屏",
                "driver": "queue_display", "window": window, "host": "127.0.0.1", "tcp_port": port,
                "unit": unit.number, "profile": "dm36", "every_ms": 3000,
                "timeout_ms": 20, "quiet_ms": 20,
            }
            for window, unit in self._displays.items()
        ]  # fmt: skip
        strips = {
            f"strip-{window}": Board("strip-aa", address)
            for address, window in enumerate(BUS_WINDOWS, 1)
        }
        strip_line = BoardLine(list(strips.values()))
        screen = Board("bx5", 1)
        screen_line = BoardLine([screen])
        self._board_lines = [strip_line, screen_line]
        path = await strip_line.start_pty()
        self.boards = {f"{id_[-2:]}号窗口条屏": board for id_, board in strips.items()}
        self.boards["大厅综合屏"] = screen
        tables += [
            {
                "id": id_, "name": f"{id_[-2:]}号窗口条屏", "driver": "led_board",
                "window": id_[-2:], "profile": "strip-aa", "port": path, "address": board.address,
            }
            for id_, board in strips.items()
        ]  # fmt: skip
        tables.append({
            "id": "screen", "name": "大厅综合屏", "driver": "led_board", "profile": "bx5",
            "kind": "hall", "transport": "tcp", "host": "127.0.0.1",
            "ip_port": await screen_line.start_tcp(), "width": 256, "height": 64,
        })  # fmt: skip
        server = ("127.0.0.1", _free_port())
        pad = self._network_pad = HttpPad("netpad-04", server, self._true_time)
        self._beating = asyncio.create_task(self._beat(pad))
        tables.append({
            "id": pad.pad, "name": f"{NETWORK_WINDOW}号窗口网络评价器", "driver": "network_pad",
            "window": NETWORK_WINDOW, "port": server[1],
        })  # fmt: skip
        return tables

    async def hang_up(self) -> None:
        """Before the broker ends."""
        await self._queue_host.stop()

    async def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        for line in self._board_lines:
            await line.stop()
        if self._line is not None:
            await self._line.stop()
        await self._bus.stop()

    def _true_time(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now() / 1000, ZONE)

    async def _beat(self, pad: HttpPad) -> None:
        while True:
            await self._clock.sleep(10)
            await pad.heartbeat()

    async def act(self, app: App, line: str) -> None:
        """One line of the script, without its time."""
        what, *words = line.split()
        match what:
            case "ticket":
                (ticket,) = words
                self._waiting.append(ticket)
                await self._tell(app, "ticket_taken", ticket=ticket, queue=ticket[0])
            case "login":
                await self._tell(app, "window_login", words[0])
            case "call":
                window, ticket = words
                self._waiting.remove(ticket)
                self._called[window] = ticket
                await self._tell(app, "called", window, ticket=ticket, queue=ticket[0])
                await self._press(window, "call")
                if window in self._displays:
                    self._displays[window].show(ticket)
            case "recall" | "give_up" | "pause" | "finish":
                if not await self._press(words[0], what):
                    event = {"recall": "recalled", "finish": "finished"}[what]
                    await self._tell(app, event, words[0], ticket=self._called[words[0]])
            case "rate":
                await self._rate(words[0], int(words[1]))
            case "follow":
                await self._follow(app, *words)
            case "display":
                unit = self._displays[words[1]]
                unit.heals() if words[0] == "on" else unit.fails("silent")
        # hallwatch lets the bus be quiet for a moment before it begins to send.
        await asyncio.sleep(0.05)

    async def _tell(self, app: App, event: str, window: str = "", **more: Any) -> None:
        """What a queue system publishes, or posts to ``/v1/events``."""
        second = window == MQTT_WINDOW or more.get("queue") == MQTT_QUEUE
        more["waiting"] = sum((one[0] == MQTT_QUEUE) == second for one in self._waiting)
        if window:
            more["person"] = STAFF[window]
        if second:
            await self._queue_host.tell(event, window, **more)
            return
        now = self._clock.now()
        body = QueueEvent(f"demo-{now}-{event}-{window}", event, window, **more)
        await self._record(app, body)

    async def _record(self, app: App, body: Body) -> None:
        await app.pipeline.tell((Reading("api", self._clock.now(), body),))

    async def _press(self, window: str, key: str) -> bool:
        """False where the window has no keypad."""
        if window not in self._keypads:
            return False
        await self._keypads[window].press(key)
        return True

    async def _rate(self, window: str, level: int) -> None:
        if window in self._pads:
            await self._pads[window].press(PAD_KEYS[level])
        elif window == MQTT_WINDOW:
            pad = MqttPad(f"pad-{window}", self.broker, self._true_time, ROOT)
            await pad.start()
            number = f"{self._true_time():%Y%m%d%H%M%S}"
            await pad.press(
                level, window=window, service_ref=self._called[window], rating_id=number
            )
            await pad.stop()
        elif self._network_pad is not None:
            await self._network_pad.press(level)

    async def _follow(self, app: App, window: str, step: str) -> None:
        """A step of the follow-up of the window's last bad rating, as the main system tells it."""
        await asyncio.wrap_future(app.pipeline.settle_now())
        with closing(open_reader(app.path)) as connection:
            found = connection.execute(
                "SELECT rating_id FROM rating WHERE window = ? AND level <= 2"
                " ORDER BY at DESC LIMIT 1",
                (window,),
            ).fetchone()
        if found:
            by = "演示大厅经理"
            await self._record(app, FollowUpStep(found[0], step, by=by, handler=STAFF[window]))


class DemoCamera:
    """A camera that sees one window's post."""

    def __init__(self, simulation: Simulation, speed: float) -> None:
        """``speed`` 0 is as fast as it can."""
        clock = simulation.clock
        self.camera = EmulatedCamera(
            self._wall, password=CAMERA_PASSWORD, sleep=clock.sleep, usual="away"
        )
        self.camera.takes = self._takes
        self._speed = speed
        self._now = clock.now
        self._edges: list[Instant] = []
        """When the picture changes."""

    def _wall(self) -> Instant:
        """The camera's clock shows local time."""
        return self._now() + 8 * 60 * MINUTE

    def _takes(self) -> float:
        """Seconds for a picture.  On the fast day one a minute around what happens, and ever fewer
        while nothing does; otherwise nobody waits for one more than some true seconds."""
        usual = CAMERA_PACE - CAMERA_INTERVAL
        if self._speed:
            return min(usual, 4 * self._speed)
        now = self._wall()
        since = min((now - one for one in self._edges if one <= now), default=0)
        until = min((one - now for one in self._edges if one > now), default=now)
        calm = min((since - CAMERA_BUSY) / 2000, until / 1000 - 2 * CAMERA_PACE, CAMERA_SLOWEST)
        return max(1, calm // CAMERA_PACE) * CAMERA_PACE - CAMERA_INTERVAL

    async def start(self, folder: Path) -> DeviceTable:
        """Its settings."""
        (folder / "camera_password").write_text(f"{CAMERA_PASSWORD}\n")
        region = [[round(x, 3), round(y, 3)] for x, y in self.camera.region]
        return {
            "id": CAMERA, "name": f"{CAMERA_WINDOW}号窗口摄像头", "driver": "video",
            "maintainer": "演示技术员", "attendance": False,
            "url": f"http://127.0.0.1:{await self.camera.start()}{PICTURE}",
            "username": self.camera.user, "password_file": "camera_password",
            "interval": CAMERA_INTERVAL,
            "posts": [{"window": CAMERA_WINDOW, "region": region}],
        }  # fmt: skip

    def teach(self, hall: Hall) -> None:
        """The empty post, before anybody comes: as ``hallwatch camera learn-empty`` does it."""
        from drivers.aim import LEARN_PICTURES, LEARN_SECONDS, taught
        from drivers.capture import decode_jpeg

        begin, step = self._wall(), round(LEARN_SECONDS * 1000 / (LEARN_PICTURES - 1))
        frames = [
            decode_jpeg(self.camera.picture(begin + number * step), colour=True)
            for number in range(LEARN_PICTURES)
        ]
        options = next(one.options for one in hall.devices if one.id == CAMERA)
        learned = taught(options, {}, options.windows(), False, frames, LEARN_SECONDS)
        store_learned(hall, CAMERA, learned)

    def set_day(self, day: date) -> None:
        """What happens on this date."""
        offset = self._wall() - self._now()
        script = []
        for starts, ends, what in (line.split() for line in CAMERA_SCRIPT.split("\n") if line):
            script.append((_at(day, starts) + offset, _at(day, ends) + offset, what))
        self.camera.script, self.camera.usual = script, "seated"
        # The picture itself is learned in the first quarter of an hour.
        begins = (_at(day, "07:20") + offset + n * CAMERA_BUSY for n in range(4))
        self._edges = [*begins, *(edge for starts, ends, _ in script for edge in (starts, ends))]

    async def stop(self) -> None:
        await self.camera.stop()


def write_settings(folder: Path, devices: list[DeviceTable], broker: tuple[str, int]) -> Path:
    """The demo's settings: an ordinary file that every command understands."""
    lines = ['[hall]\nid = "demo"\nname = "演示政务服务中心"\nstart_date = 2026-03-02\n']
    lines += [f'[[units]]\nid = "{id_}"\nname = "{name}"\n' for id_, name in UNITS.items()]
    for code, name, unit, window in PEOPLE:
        area = "一层" if window < "05" else "二层"
        lines.append(
            f'[[windows]]\nid = "{window}"\nname = "{window}号窗口"\nunit = "{unit}"\n'
            f'area = "{area}"\n'
        )
        lines.append(
            f'[[people]]\ncode = "{code}"\nname = "{name}"\nunit = "{unit}"\nwindow = "{window}"\n'
        )
    lines += [table_text(table) for table in devices]
    if any(table["id"] == "screen" for table in devices):
        lines.append(
            '[[boards]]\nid = "hall-screen"\ndevice = "screen"\nlines = 4\n'
            'windows = ["01", "02", "03", "04"]\n'
        )
    lines.append(
        f"[broker]\nembedded = true\nport = {broker[1]}\n[api]\nport = 0\n"
        '[storage]\nstate_dir = "."\n'
    )
    path = folder / "demo.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


def play(out: Console, *, once: bool, speed: float, state: Path | None) -> int:
    """Run the demo; returns the exit code.  ``speed`` matters only without ``once``."""
    with tempfile.TemporaryDirectory(prefix="hallwatch-demo-") as temporary:
        folder = state or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        day = _next_day(folder)

        async def played(simulation: Simulation) -> int:
            ending = asyncio.Event()
            playing = asyncio.create_task(
                _play(simulation, out, folder, day, ending, once=once, speed=speed)
            )
            try:
                return await asyncio.shield(playing)
            except asyncio.CancelledError:
                # Not in the midst of a step, where the pipeline owes an answer; a second Ctrl-C is.
                ending.set()
                await playing
                raise

        try:
            return simulate(_at(day, "07:20"), played)
        except KeyboardInterrupt:
            return 0


def _next_day(folder: Path) -> date:
    """The first day of the script, or the one after what this state has seen already."""
    path = folder / FILE_NAME
    if not path.exists():
        return FIRST_DAY
    with closing(open_reader(path)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'rolled'").fetchone()
    return date.fromordinal(int(row[0]) + 1) if row else FIRST_DAY


async def _play(
    simulation: Simulation,
    out: Console,
    folder: Path,
    day: date,
    ending: asyncio.Event,
    *,
    once: bool,
    speed: float,
) -> int:
    demo = DemoHall(simulation, live=not once)
    counter = DemoCounter(simulation, live=not once)
    push_port = _free_port()
    devices = await demo.start_polled(folder) + demo.push_tables(push_port)
    devices += await counter.start()
    camera = None
    if find_spec("cv2") is None:
        out.print(
            "没有安装视频组件，演示中没有摄像头 / OpenCV is not installed: the demo has no camera"
            " (hallwatch[video])",
            markup=False,
        )
    else:
        camera = DemoCamera(simulation, 0 if once else speed)
        devices.append(await camera.start(folder))
    hall = load(write_settings(folder, devices, counter.broker))
    if camera is not None:
        camera.teach(hall)
    app = App(hall, simulation.clock)
    simulation.pipeline = app.pipeline
    token_id, secret, digest = new_secret()
    request = Request("token_add", token_id=token_id, name="demo", scopes="admin", hash=digest)
    try:
        await app.start()
        now = simulation.clock.now()
        await asyncio.wrap_future(
            app.pipeline.call(lambda connection: change_tokens(connection, request, now))
        )
        assert app.api is not None
        out.print(f"接口 API      {app.api.address}/docs", markup=False)
        out.print(f"令牌 token    {secret}", markup=False, soft_wrap=True)
        out.print(
            f"消息 broker   {app.broker_address}   主题 topic  hall/{hall.id}/#", markup=False
        )
        out.print(f"配置 settings {folder / 'demo.toml'}\n", markup=False)
        teller = Teller(out, app, counter.boards, quiet=once)
        await demo.start_pushing(push_port)
        while not ending.is_set():
            while not hall.calendar.kind(day).works:
                day += timedelta(days=1)
            speed = 0 if once else speed
            if camera is not None:
                camera.set_day(day)
            await _play_day(simulation, demo, counter, app, day, teller, ending, speed)
            if once and not ending.is_set():
                show_day(out, app.path, hall, day)
                break
            day += timedelta(days=1)
        return 0
    finally:
        await demo.stop()
        await counter.hang_up()
        await app.stop()
        await counter.stop()
        if camera is not None:
            await camera.stop()


async def _play_day(
    simulation: Simulation,
    demo: DemoHall,
    counter: DemoCounter,
    app: App,
    day: date,
    teller: Teller,
    ending: asyncio.Event,
    speed: float,
) -> None:
    """The scripts on one date, until ``ending``; ``speed`` 0 is as fast as it can."""

    async def until(at: Instant) -> None:
        clock = simulation.clock
        while clock.now() < at and not ending.is_set():
            pace = speed * (LULL_PACE if at - clock.now() > LULL else 1)
            step = at if speed == 0 else min(at, clock.now() + max(1, round(100 * pace)))
            await simulation.play(step)
            teller.tell()
            if speed:
                await asyncio.sleep(0.1)

    await simulation.play(_at(day, "07:20"))
    await app.pipeline.tell((demo.leave(day, "1007", "08:30", "12:00"),))
    teller.headline(day)
    script = SCRIPT + COUNTER_SCRIPT + (LIVE_SCRIPT if speed else "")
    for line in sorted(script.split("\n")):
        if line:
            clock, _, action = line.partition(" ")
            await until(_at(day, clock))
            if ending.is_set():
                return
            if action.split()[0] in AT_THE_COUNTER:
                await counter.act(app, action)
            else:
                await demo.act(app, day, action)
    await until(_at(day, "19:30"))


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Teller:
    """Prints a line for each thing that happens, Chinese with English beside."""

    def __init__(self, out: Console, app: App, boards: Mapping[str, Board], *, quiet: bool) -> None:
        """``boards``: LED boards by name; what they show is told, too."""
        self._out = out
        self._quiet = quiet
        self._hall = app.hall
        self._boards = boards
        self._shown = dict.fromkeys(boards, "")
        self._follow_ups: dict[str, str] = {}
        self._posts: dict[str, str] = {}
        self._now = app.clock.now
        self._reader = open_reader(app.path)
        self._readings = self._last("reading")
        self._changes = self._last("change")

    def _last(self, table: str) -> int:
        found: int = self._reader.execute(f"SELECT ifnull(max(seq), 0) FROM {table}").fetchone()[0]
        return found

    def headline(self, day: date) -> None:
        if not self._quiet:
            self._out.rule(f"{day:%Y-%m-%d}", align="left")

    def tell(self) -> None:
        if self._quiet:
            return
        lines: list[tuple[Instant, str]] = []
        for seq, device, kind, body, event_at, received_at in self._reader.execute(
            "SELECT seq, device, kind, body, event_at, received_at FROM reading"
            " WHERE seq > ? AND kind IN ('punch', 'link', 'queue', 'prompt', 'shown', 'picture')"
            " ORDER BY seq",
            (self._readings,),
        ):
            self._readings = seq
            line = self._reading_line(
                device, kind, msgspec.json.decode(body), event_at, received_at
            )
            if line:
                lines.append((received_at, line))
        for seq, kind, op, at, reason, row in self._reader.execute(
            "SELECT seq, kind, op, at, reason, row FROM change WHERE seq > ? ORDER BY seq",
            (self._changes,),
        ):
            self._changes = seq
            told = msgspec.json.decode(row)
            line = _change_line(kind, op, reason, told)
            if kind == "rating":
                line = self._rating_line(op, told)
            elif kind == "post":
                line = self._post_line(told)
            if line:
                lines.append((at, line))
        for name, board in self._boards.items():
            if board.text != self._shown[name]:
                self._shown[name] = board.text
                shown = board.text.replace("\n", " | ")
                lines.append((self._now(), f"条屏 board      {name}  {shown}"))
        for moment, line in sorted(lines, key=lambda told: told[0]):
            self._out.print(f"{_clock(moment)}  {line}", markup=False, soft_wrap=True)

    def _reading_line(
        self, device: str, kind: str, body: dict[str, Any], event_at: Instant, received_at: Instant
    ) -> str:
        """Of queue events the tickets taken; what happens at a window is told by its state."""
        name = next((one.name for one in self._hall.devices if one.id == device), device)
        if kind == "punch":
            known = self._hall.people.get(body["person"])
            late = "" if received_at - event_at < 2 * MINUTE else "（补传 late）"
            who = known.name if known else "未登记 unknown"
            return f"打卡 punch      {body['person']} {who}  {name}  {_clock(event_at)}{late}"
        if kind == "link" and body["up"]:
            return f"设备 device     {name}  已连接 found"
        if kind == "link":
            return f"设备 device     {name}  已断开 lost: {body.get('reason', '')}"
        if kind == "queue" and body["event"] == "ticket_taken":
            waiting = f"  等候 waiting {body['waiting']}" if "waiting" in body else ""
            return f"取号 ticket     {body['ticket']}{waiting}"
        if kind == "prompt":
            return f"邀评 invited    {name}"
        if kind == "shown" and not body.get("baseline"):
            return f"显示 shown      {name}  {body['text']}（{body['state']}）"
        if kind == "picture" and body.get("faults"):
            seen = "、".join(f"{FAULT_ZH[one]} {one}" for one in body["faults"])
            return f"画面 picture    {name}  {seen}"
        if kind == "picture" and body.get("known", True):
            return f"画面 picture    {name}  正常 good"
        return ""

    def _post_line(self, row: dict[str, Any]) -> str:
        window, state = row["window"], row["state"]
        if self._posts.get(window) == state:
            return ""
        self._posts[window] = state
        seen = "、".join(row["evidence"])
        why = f"（{seen}）" if seen else ""
        return f"岗位 post       {self._hall.windows[window].name}  {POST_ZH[state]} {state}{why}"

    def _rating_line(self, op: str, row: dict[str, Any]) -> str:
        where = f"{row['window']}号窗口 {row['ticket']}".rstrip()
        if op == "opened":
            self._follow_ups[row["rating_id"]] = "opened"
            zh, en = _LEVELS[row["level"]]
            return f"评价 rating     {where}  {zh} / {en}"
        follow_up = row["follow_up"]
        if follow_up and follow_up["state"] != self._follow_ups.get(row["rating_id"]):
            self._follow_ups[row["rating_id"]] = state = follow_up["state"]
            return f"整改 follow-up  {where}  {_FOLLOW_UP_ZH.get(state, state)} / {state}"
        return ""


_OPS = {"opened": "新 new", "amended": "改 amended", "withdrawn": "撤销 withdrawn"}
_LEVELS = {
    5: ("非常满意", "very satisfied"), 4: ("满意", "satisfied"),
    3: ("基本满意", "basically satisfied"), 2: ("不满意", "dissatisfied"),
    1: ("非常不满意", "very dissatisfied"), None: ("未评级", "no level"),
}  # fmt: skip
_FOLLOW_UP_ZH = {
    "opened": "待派单", "assigned": "已派单", "contacting": "回访中", "classified": "已核实",
    "fed_back": "已反馈", "rechecked": "已复核", "closed": "已办结", "reopened": "重新打开",
}  # fmt: skip
_AT_WINDOWS = {
    "called": "叫号 called    ", "recalled": "重呼 recalled  ", "finished": "办结 finished  ",
    "abandoned": "弃号 abandoned ", "window_paused": "暂停 paused    ",
    "window_resumed": "恢复 resumed   ",
}  # fmt: skip


def _change_line(kind: str, op: str, reason: str, row: dict[str, Any]) -> str:
    if kind == "violation" and (op != "amended"):
        why = f"（{reason}）" if reason else ""
        return f"违规 violation  {_OPS[op]}{why}: {row['title']} / {row['detail']}"
    if kind == "alert":
        return f"告警 alert      {row['state']}: {row['title']} / {row['detail']}"
    # The rating that ends a service's last act tells of the service once more.
    again = row.get("event") == "finished" and not row["ticket"]
    if kind == "window" and row["event"] in _AT_WINDOWS and not again:
        return f"{_AT_WINDOWS[row['event']]} {row['name']} {row['ticket']}".rstrip()
    return ""


def _clock(at: Instant) -> str:
    return datetime.fromtimestamp(at / 1000, ZONE).strftime("%H:%M:%S")


def show_day(out: Console, path: Path, hall: Hall, day: date) -> None:
    """The day's tables: attendance, counter, bad ratings, violations, alerts."""
    with closing(open_reader(path)) as connection:
        _show_attendance(out, connection, hall, day)
        _show_counter(out, connection, hall, day)
        _show_posts(out, connection, hall, day)
        _show_bad_ratings(out, connection, hall, day)
        _show_violations(out, connection, hall, day)
        _show_alerts(out, connection, day)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "what")
    return table


def _show_attendance(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table(
        f"{day} 考勤 attendance",
        "工号\ncode", "姓名\nname", "上班\non", "下班\noff", "上班\non", "下班\noff",
        "上午\nam", "下午\npm", "扣分\npoints",
    )  # fmt: skip
    for person, points, body, slots in connection.execute(
        "SELECT person, points, body, slots FROM attendance_day WHERE work_date = ?"
        " ORDER BY person",
        (day.isoformat(),),
    ):
        record = stored_record(body, slots)
        cells = {(slot.segment, slot.slot): _slot_cell(slot) for slot in record.slots}
        halves = {half.segment: VERDICT_ZH[half.verdict] for half in record.halves}
        table.add_row(
            person, _name(hall.people, person),
            *(cells.get((half, slot), "") for half in ("am", "pm") for slot in ("on", "off")),
            halves["am"], halves["pm"], f"{points:g}",
        )  # fmt: skip
    out.print(table)


def _name(people: Any, code: str) -> str:
    person: Person | None = people.get(code)
    return person.name if person else ""


_MARKS = {
    "ok": "", "late": "迟", "serious_late": "迟", "early_leave": "退",
    "serious_early_leave": "退", "absent_class": "×", "missing_punch": "缺",
}  # fmt: skip
"""As in the paper books of halls."""


def _slot_cell(slot: Slot) -> str:
    at = "--:--" if slot.event_time is None else _clock(slot.event_time)[:5]
    return f"{at} {_MARKS.get(slot.verdict, '?')}".rstrip()


def _show_counter(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table(
        "\n窗口 counter",
        "窗口\nwindow", "叫号\ncalled", "办结\nfinished", "弃号\nabandoned", "测评\nrated",
        "满意\nsatisfied", "平均等候\nmean wait", "平均办理\nmean service",
    )  # fmt: skip
    for window, body in connection.execute(
        "SELECT window, body FROM window_day WHERE work_date = ? ORDER BY window",
        (day.isoformat(),),
    ):
        figures = msgspec.json.decode(body)["figures"]
        if not figures["called"]:
            continue
        satisfied = " ".join(_share(scale["satisfied"]) for scale in figures["scales"])
        table.add_row(
            hall.windows[window].name,
            *(str(figures[name]) for name in ("called", "finished", "abandoned")),
            _share(figures["rated"]), satisfied,
            *(_mean(figures[name]) for name in ("waits", "services")),
        )  # fmt: skip
    out.print(table)


def _show_posts(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table(
        "\n在岗 presence",
        "窗口\nwindow", "在岗分钟\nstaffed", "未知分钟\nunknown", "离岗\nvacant",
        "分钟\nminutes", "印证\nconfirmed by",
    )  # fmt: skip
    for window, body in connection.execute(
        "SELECT window, body FROM post_day WHERE work_date = ? ORDER BY window",
        (day.isoformat(),),
    ):
        post = msgspec.json.decode(body, type=PostRecord)
        figures = post.figures
        cells = [hall.windows[window].name]
        cells += [f"{one.n}/{one.of}" for one in (figures.staffed, figures.unknown)]
        for one in post.vacancies:
            ended = "" if one.ended_at is None else _clock(one.ended_at)[:5]
            others = "、".join(signal for signal in one.signals if signal != "seat")
            table.add_row(
                *cells, f"{_clock(one.began_at)[:5]}–{ended}", f"{one.lasted // MINUTE}",
                others or "未印证 nothing",
            )  # fmt: skip
            cells = ["", "", ""]
        if not post.vacancies:
            table.add_row(*cells)
    if table.rows:
        out.print(table)


def _share(ratio: dict[str, int]) -> str:
    return f"{ratio['n']}/{ratio['of']}"


def _mean(durations: dict[str, Any]) -> str:
    return "" if durations["mean"] is None else f"{durations['mean']:.1f} min"


def _show_bad_ratings(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table(
        "\n差评 bad ratings",
        "时间\nat", "窗口\nwindow", "票号\nticket", "评价\nrating", "经办\nserved by",
        "整改\nfollow-up",
    )  # fmt: skip
    for at, window, body in connection.execute(
        "SELECT at, window, body FROM rating WHERE work_date = ? AND level <= 2 ORDER BY at",
        (day.isoformat(),),
    ):
        rating = msgspec.json.decode(body)
        state = rating["follow_up"]["state"]
        table.add_row(
            _clock(at)[:5], hall.windows[window].name, rating["ticket"],
            " ".join(_LEVELS[rating["level"]]), _name(hall.people, rating["person"]),
            f"{_FOLLOW_UP_ZH.get(state, state)} {state}",
        )  # fmt: skip
    out.print(table)


def _show_violations(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table("\n违规 violations", "code", "person", "points", "state", "what")
    for code, person, points, state, reason, body in connection.execute(
        "SELECT code, person, points, state, reason, body FROM violation WHERE work_date = ?"
        " ORDER BY person, code",
        (day.isoformat(),),
    ):
        row = msgspec.json.decode(body)
        shown = "有效" if state == "active" else "撤销"
        why = f" ({reason})" if reason else ""
        table.add_row(
            code, f"{person} {_name(hall.people, person)}", f"{points:g}", shown,
            f"{row['title']}{why}",
        )  # fmt: skip
    out.print(table)


def _show_alerts(out: Console, connection: sqlite3.Connection, day: date) -> None:
    table = _table("\n告警 alerts", "at", "code", "state", "what")
    for opened_at, code, state, body in connection.execute(
        "SELECT opened_at, code, state, body FROM alert WHERE work_date = ?"
        " ORDER BY opened_at, subject",
        (day.isoformat(),),
    ):
        table.add_row(_clock(opened_at)[:5], code, state, msgspec.json.decode(body)["title"])
    out.print(table)
