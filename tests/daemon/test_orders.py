"""What devices are asked to do when something happens at a window, through the real pipeline."""

from __future__ import annotations

import asyncio
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from config.load import load
from daemon.boards import STAY
from daemon.database import FILE_NAME, open_reader
from daemon.orders import Orders
from daemon.pipeline import Happening, Pipeline
from daemon.simulation import SimulatedClock
from drivers.base import AskForRating, Order, Show
from drivers.counter_json import TellerClock
from rules.counter import SeenEvent, Window, WindowDay, WindowRecord, follow_window
from rules.model import Instant, QueueEvent, Reading

ZONE = ZoneInfo("Asia/Shanghai")
SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[people]]
code = "1001"
name = "林一鸣"
[[windows]]
id = "05"
name = "5号窗口"
[[windows]]
id = "06"
name = "6号窗口"
[[devices]]
id = "pad-05"
driver = "network_pad"
window = "05"
mac = "02:00:00:00:00:05"
[[devices]]
id = "pad-06"
driver = "network_pad"
window = "06"
mac = "02:00:00:00:00:06"
[[devices]]
id = "strip-05"
driver = "led_board"
window = "05"
profile = "strip-aa"
port = "/dev/ttyS9"
address = 5
[[devices]]
id = "screen"
driver = "led_board"
profile = "strip-fe"
kind = "hall"
port = "/dev/ttyS8"
[[boards]]
id = "main"
device = "screen"
texts = { call = "{ticket} {name}", idle = "欢迎" }
[storage]
state_dir = "."
"""


def at(clock: str) -> Instant:
    """A time of Monday 2 March, or of the day that stands before it."""
    day, _, wall = clock.rpartition(" ")
    moment = datetime.fromisoformat(f"{day or '2026-03-02'} {wall}").replace(tzinfo=ZONE)
    return int(moment.timestamp() * 1000)


def event(clock: str, name: str, ticket: str = "A037", window: str = "05") -> Reading:
    body = QueueEvent(f"{clock}-{name}-{ticket}", name, window, ticket, person="1001")
    return Reading("api", at(clock), body)


class Hall:
    """Pipeline and orders; ``wished`` are the orders so far."""

    def __init__(self, folder: Path) -> None:
        (folder / "hallwatch.toml").write_text(SETTINGS, "utf-8")
        self.hall = load(folder / "hallwatch.toml")
        self.path = folder / FILE_NAME
        self.clock = SimulatedClock(at("08:00"))
        self.news: list[Happening] = []
        self.wished: list[tuple[str, Order]] = []
        self.pipeline = Pipeline(self.path, self.hall, self.clock)
        self.pipeline.at_windows = self.news.extend
        self.pipeline.start()
        self.pipeline.settle().result(10)
        self.begin()

    def begin(self) -> None:
        reader = open_reader(self.path)
        rows = reader.execute("SELECT body, call_seq FROM window_day").fetchall()
        reader.close()
        self.orders = Orders(
            self.hall, lambda device, order: self.wished.append((device, order)), self.clock
        )
        self.orders.begin((msgspec.json.decode(body, type=WindowRecord), n) for body, n in rows)

    async def tell(self, clock: str, *readings: Reading) -> None:
        await self.until(clock)
        done = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self.pipeline.submit(readings, lambda _: loop.call_soon_threadsafe(done.set_result, None))
        await done
        await asyncio.wrap_future(self.pipeline.settle())
        news, self.news[:] = list(self.news), []
        self.orders.hear(news)

    async def until(self, clock: str) -> None:
        """Whoever sleeps till then wakes, in order."""
        while True:
            await asyncio.sleep(0)
            due = self.clock.next_sleeper()
            if due is None or due > at(clock):
                break
            self.clock.jump(due)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        self.clock.jump(at(clock))

    def shows(self, device: str) -> list[tuple[tuple[str, ...], bool]]:
        return [
            (order.lines, order.announce)
            for name, order in self.wished
            if name == device and isinstance(order, Show)
        ]

    def asks(self) -> list[tuple[str, AskForRating]]:
        return [(name, order) for name, order in self.wished if isinstance(order, AskForRating)]


def play(folder: Path, story) -> Hall:
    hall: list[Hall] = []

    async def run() -> None:
        hall.append(Hall(folder))
        await story(hall[0])
        hall[0].orders.close()

    asyncio.run(run())
    hall[0].pipeline.stop()
    return hall[0]


IDLE, CALL = ("热情为您服务",), ("请A037号到05号窗口",)


def test_a_live_call_is_announced_once_on_the_window_s_strip_and_the_hall_s_screen(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:14:06", event("09:14:05", "called"))
        await hall.until("09:20")

    hall = play(tmp_path, story)

    assert hall.shows("strip-05") == [(IDLE, False), (CALL, True), (CALL, False)]
    assert hall.shows("screen") == [
        (("欢迎",), False), (("A037 5号窗口",), True), (("A037 5号窗口",), False),
    ]  # fmt: skip
    assert hall.asks() == []
    assert STAY == 3000


def test_a_recall_is_announced_again(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:14:06", event("09:14:05", "called"))
        await hall.tell("09:15:01", event("09:15:00", "recalled"))

    assert play(tmp_path, story).shows("strip-05") == [
        (IDLE, False), (CALL, True), (CALL, False), (CALL, True),
    ]  # fmt: skip


def test_an_old_call_is_shown_and_not_announced(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:20", event("09:14:05", "called"))

    assert play(tmp_path, story).shows("strip-05") == [(IDLE, False), (CALL, False)]


def test_at_the_start_boards_get_what_is_at_the_windows_and_nobody_is_asked(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:14:06", event("09:14:05", "called"))
        await hall.tell("09:15", event("09:14:59", "called", "B001", "06"))
        await hall.tell("09:16", event("09:15:59", "finished", "B001", "06"))
        hall.wished.clear()
        hall.orders.close()
        hall.begin()

    hall = play(tmp_path, story)

    assert hall.shows("strip-05") == [(CALL, False)]
    assert hall.shows("screen") == [(("B001 6号窗口",), False)]
    assert hall.asks() == []


def test_when_a_service_is_finished_its_pad_asks_once(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:14:06", event("09:14:05", "called"))
        await hall.tell("09:20:01", event("09:20:00", "finished"))
        await hall.tell("09:20:03", event("09:20:02", "called", "B001", "06"))
        await hall.tell("09:20:05", event("09:20:00", "finished"))

    (asked,) = play(tmp_path, story).asks()

    device, order = asked
    assert (device, order.ticket, order.person) == ("pad-05", "A037", "1001")
    window, day, number, ticket = order.session.split(":")
    assert (window, day, ticket) == ("05", "2026-03-02", "A037")
    assert int(number) > 0


def test_the_same_ticket_called_again_is_another_session_and_old_ends_are_not_asked(tmp_path):
    async def story(hall: Hall) -> None:
        await hall.tell("09:14:06", event("09:14:05", "called"))
        await hall.tell("09:20:01", event("09:20:00", "finished"))
        await hall.tell("09:30:01", event("09:30:00", "called", "B002"))
        await hall.tell("09:40:01", event("09:40:00", "finished", "B002"))
        await hall.tell("10:00", event("09:50", "called", "B003", "06"))
        await hall.tell("10:01", event("09:55", "finished", "B003", "06"))

    asked = play(tmp_path, story).asks()

    assert [(device, order.ticket) for device, order in asked] == [
        ("pad-05", "A037"), ("pad-05", "B002"),
    ]  # fmt: skip
    assert len({order.session for _, order in asked}) == 2


def test_the_same_ticket_on_another_day_is_asked_for_again(tmp_path):
    """Of a queue system that tells of no calls."""

    async def story(hall: Hall) -> None:
        for day in ("2026-03-02", "2026-03-03", "2026-03-04"):
            await hall.tell(f"{day} 09:20:01", event(f"{day} 09:20:00", "finished"))

    asked = play(tmp_path, story).asks()

    assert [device for device, _ in asked] == ["pad-05"] * 3
    assert len({order.session for _, order in asked}) == 3


@pytest.mark.parametrize("slow", [31, 70, 300, 720])
def test_what_a_slow_clock_tells_is_announced_and_asked_once_it_is_known(tmp_path, slow):
    async def story(hall: Hall) -> None:
        clock = TellerClock()
        for number in range(6):
            for minute, name in ((0, "called"), (2, "finished")):
                now = at(f"09:{number * 5 + minute:02}")
                body = QueueEvent(f"{number}{name}", name, "05", f"A{number:03}", person="1001")
                told, _ = clock.placed(now - slow * 1000, now)
                await hall.tell(f"09:{number * 5 + minute:02}", Reading("api", told, body))

    hall = play(tmp_path, story)

    announced = [lines[0] for lines, announce in hall.shows("strip-05") if announce]
    assert announced[-4:] == [f"请A{number:03}号到05号窗口" for number in range(2, 6)]
    assert [order.ticket for _, order in hall.asks()][-5:] == [
        f"A{number:03}" for number in range(1, 6)
    ]


class SetClock(SimulatedClock):
    """Its wall clock is set back by ``behind``; what passes goes on."""

    behind = 0

    def now(self) -> Instant:
        return super().now() - self.behind


def test_a_board_goes_on_when_the_clock_is_set_back(tmp_path):
    (tmp_path / "hallwatch.toml").write_text(SETTINGS, "utf-8")
    clock = SetClock(at("10:00"))
    wished: list[tuple[str, Order]] = []

    def call(ticket: str, number: int) -> Happening:
        now = clock.now()
        told = SeenEvent(now, now, "api", b"1", QueueEvent("1", "called", "05", ticket))
        monday = date(2026, 3, 2)
        facts = WindowDay(
            "h1", Window("05"), monday, at("00:00"), at("23:59"), None, None, now, True, (told,)
        )
        return Happening(follow_window(facts), "called", number)

    async def until(moment: str) -> None:
        await asyncio.sleep(0)
        clock.jump(at(moment))
        for _ in range(3):
            await asyncio.sleep(0)

    async def story() -> None:
        orders = Orders(load(tmp_path / "hallwatch.toml"), lambda *one: wished.append(one), clock)
        orders.hear([call("A001", 1)])
        await until("10:00:05")
        clock.behind = 3_600_000
        orders.hear([call("A002", 2)])
        await until("10:00:09")
        orders.close()

    asyncio.run(story())

    shown = [(one.ticket, one.announce) for name, one in wished if name == "strip-05"]
    assert shown[-2:] == [("A002", True), ("A002", False)]
