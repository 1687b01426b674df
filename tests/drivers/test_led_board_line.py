"""The driver and emulated boards on real serial lines, TCP and UDP ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from drivers import led_board
from drivers.base import AskForRating, DeviceLost, Order, Show
from drivers.emulators.led_board import Area, Board, BoardLine, wrap
from drivers.led_board import KEEP_S, REWRITE_S, LedBoardOptions, LedBoards
from rules.model import DeviceEvent, Instant, Reading

SHANGHAI = ZoneInfo("Asia/Shanghai")
NINE = 1_741_914_000_000  # 2025-03-14 09:00:00 +08:00
STRIPS = ["strip-aa", "strip-a090", "strip-nibble", "strip-fe", "dollar-ascii"]


@dataclass(frozen=True)
class Box:
    """A device of the settings."""

    options: LedBoardOptions
    id: str = "board-1"
    window: str = "05"


@dataclass
class Hall:
    """What the daemon lends to a driver, with a clock that is moved."""

    time: Instant = NINE
    zone: ZoneInfo = SHANGHAI
    told: list[Reading] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    contacts: list[str] = field(default_factory=list)
    losses: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False
    """The disk is full."""
    _orders: asyncio.Queue[tuple[str, Order]] = field(default_factory=asyncio.Queue)
    sleepers: list[tuple[Instant, asyncio.Future[None]]] = field(default_factory=list)

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        assert not marks
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("database or disk is full")
        self.told += readings
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        raise AssertionError(f"{device} has no {name}")

    def now(self) -> Instant:
        return self.time

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        sleeper = self.time + round(seconds * 1000), woken
        self.sleepers.append(sleeper)
        try:
            await woken
        finally:
            self.sleepers.remove(sleeper)

    def contact(self, device: str) -> None:
        self.contacts.append(device)

    def lost(self, device: str, reason: str) -> None:
        self.losses.append((device, reason))

    def note(self, device: str, **facts: Any) -> None:
        self.facts.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        return await self._orders.get()

    def show(self, *lines: str, board: str = "board-1", announce: bool = False) -> None:
        self._orders.put_nowait((board, Show(lines, announce=announce)))

    def ask(self) -> None:
        self._orders.put_nowait(("board-1", AskForRating("s1")))

    @property
    def events(self) -> list[tuple[str, str, int]]:
        return [
            (one.device, one.body.name, one.body.code)
            for one in self.told
            if isinstance(one.body, DeviceEvent)
        ]

    async def pass_time(self, seconds: float) -> None:
        """Wake each sleeper at its own moment."""
        ends = self.time + round(seconds * 1000)
        while True:
            await until(lambda: bool(self.sleepers))
            due, woken = min(self.sleepers, key=lambda sleeper: sleeper[0])
            if due > ends:
                break
            self.time = due
            woken.set_result(None)
            await until(woken_up(self.sleepers, woken))
        self.time = ends


def woken_up(
    sleepers: list[tuple[Instant, asyncio.Future[None]]], woken: asyncio.Future[None]
) -> Callable[[], bool]:
    return lambda: all(other is not woken for _, other in sleepers)


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not said():
            await asyncio.sleep(0.002)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts may follow one another on a board at once."""
    monkeypatch.setattr(led_board, "UPDATES_S", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated boards answer at once; to wait long for one that is silent shows nothing more."""
    monkeypatch.setattr(led_board, "ANSWER_S", 0.2)


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


@asynccontextmanager
async def running(hall: Hall, *boxes: Box) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(LedBoards(boxes).run(hall))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def line_with(*boards: Board) -> AsyncIterator[tuple[BoardLine, str]]:
    """Boards on a serial line, and its port."""
    line = BoardLine(boards, asyncio.get_running_loop().time)
    port = await line.start_pty()
    try:
        yield line, port
    finally:
        await line.stop()


@asynccontextmanager
async def card_at(board: Board) -> AsyncIterator[tuple[BoardLine, int]]:
    """A card on a TCP port."""
    line = BoardLine([board], asyncio.get_running_loop().time)
    port = await line.start_tcp()
    try:
        yield line, port
    finally:
        await line.stop()


def box(profile: Any, port: str, address: int = 1, device: str = "board-1", **told: Any) -> Box:
    options = {"port": port, "address": address, "min_gap_ms": 5, **told}
    return Box(LedBoardOptions(profile, **options), device)


def card(port: int, transport: Any = "tcp", **told: Any) -> Box:
    host = {"transport": transport, "host": "127.0.0.1", "ip_port": port}
    return Box(LedBoardOptions("bx5", **{**host, "min_gap_ms": 5, **told}))


async def ended(task: asyncio.Task[None]) -> BaseException | None:
    await asyncio.wait([task], timeout=10)
    return task.exception()


# -- boards that never answer


@pytest.mark.parametrize("profile", STRIPS)
def test_a_strip_shows_what_is_ordered(profile: str) -> None:
    async def scene() -> None:
        strip, other, hall = Board(profile, 5), Board(profile, 6, label="欢迎光临"), Hall()
        async with line_with(strip, other) as (_, port), running(hall, box(profile, port, 5)):
            hall.show("请A037号到05号窗口")
            await until(lambda: strip.text == "请A037号到05号窗口")
            hall.show("暂停服务")
            await until(lambda: strip.text == "暂停服务")

        assert other.text == "欢迎光临"
        assert hall.facts["board-1"]["shows"] == ["暂停服务"]
        assert hall.told == []

    play(scene())


@pytest.mark.parametrize("profile", ["count-3a", "board4"])
def test_a_number_board_shows_the_last_three_digits(profile: str) -> None:
    async def scene() -> None:
        board, hall = Board(profile, 5), Hall()
        async with line_with(board) as (_, port), running(hall, box(profile, port, 5)):
            hall.show("A1037")
            await until(lambda: board.text == "37")
            hall.show("等候 112 人")
            await until(lambda: board.text == "112")

    play(scene())


def test_a_hall_screen_gets_its_own_frames() -> None:
    async def scene() -> None:
        screen, hall = Board("strip-aa", 5), Hall()
        async with (
            line_with(screen) as (line, port),
            running(hall, box("strip-aa", port, 5, kind="hall")),
        ):
            hall.show("A037 到 05", "B012 到 02")
            await until(lambda: screen.text == "A037 到 05 B012 到 02")

        assert b"\x08\x02\x99\x00\x63" in b"".join(data for _, data in line.heard)

    play(scene())


def test_a_board_that_never_answers_is_known_by_its_open_port_alone() -> None:
    async def scene() -> None:
        hall = Hall()
        async with line_with() as (_, port), running(hall, box("strip-aa", port)):
            hall.show("A037")
            await until(lambda: hall.facts.get("board-1", {}).get("written") == 1)

        assert hall.facts["board-1"]["unverified"] is True
        assert set(hall.contacts) == {"board-1"}

    play(scene())


def test_boards_of_one_line_get_each_their_own() -> None:
    async def scene() -> None:
        boards = [Board("strip-aa", address) for address in (1, 2, 3)]
        hall = Hall()
        async with (
            line_with(*boards) as (_, port),
            running(hall, *(box("strip-aa", port, n, f"board-{n}") for n in (1, 2, 3))),
        ):
            for number in (1, 2, 3):
                hall.show(f"A00{number}", board=f"board-{number}")
            await until(lambda: [one.text for one in boards] == ["A001", "A002", "A003"])

    play(scene())


def test_frames_on_a_line_keep_their_distance() -> None:
    async def scene() -> None:
        boards = [Board("strip-aa", address) for address in range(5)]
        hall = Hall()
        async with (
            line_with(*boards) as (line, port),
            running(
                hall, *(box("strip-aa", port, n, f"board-{n}", min_gap_ms=100) for n in range(5))
            ),
        ):
            for number in range(5):
                hall.show("A037", board=f"board-{number}")
            await until(lambda: all(one.text == "A037" for one in boards))

        times = [at for at, _ in line.heard]
        assert len(times) == 5
        assert times[-1] - times[0] >= 0.35

    play(scene())


def test_of_texts_that_come_faster_than_anybody_reads_the_newest_is_shown() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-aa"), Hall()
        async with line_with(strip) as (_, port), running(hall, box("strip-aa", port)):
            for number in range(200):
                hall.show(f"A{number:03}")
            await until(lambda: strip.text == "A199")

        assert len(strip.history) <= 3

    play(scene())


def test_a_board_is_not_written_to_faster_than_anybody_reads() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-aa"), Hall()
        async with line_with(strip) as (line, port), running(hall, box("strip-aa", port)):
            for number in range(4):
                hall.show(f"A{number:03}")
                await until(lambda number=number: strip.text == f"A{number:03}")  # type: ignore[misc]

        assert line.heard[-1][0] - line.heard[0][0] >= 0.5

    play(scene())


@pytest.mark.usefixtures("hurried")
def test_a_text_that_is_shown_already_is_written_again_only_for_a_call() -> None:
    async def scene() -> None:
        strip, other, hall = Board("strip-aa", 1), Board("strip-aa", 2), Hall()
        async with (
            line_with(strip, other) as (_, port),
            running(hall, box("strip-aa", port, 1), box("strip-aa", port, 2, "board-2")),
        ):
            hall.show("A037")
            await until(lambda: strip.history == ["A037"])
            hall.show("B001", board="board-2")
            await until(lambda: other.text == "B001")
            hall.show("A037")
            hall.ask()
            # Whoever was served longest ago comes first: what is due on board-1 would be.
            hall.show("B002", board="board-2")
            await until(lambda: other.text == "B002")
            assert strip.history == ["A037"]

            hall.show("A037", announce=True)
            await until(lambda: strip.history == ["A037", "A037"])

    play(scene())


@pytest.mark.usefixtures("hurried")
def test_a_busy_board_leaves_room_for_the_others() -> None:
    async def scene() -> None:
        boards, hall = [Board("bx5", number) for number in range(3)], Hall()

        class Busy(BoardLine):
            def say(self, data: bytes) -> bytes:
                hall.show(f"A{len(self.heard):03}", board="board-0")
                return super().say(data)

        line = Busy(boards)
        port = await line.start_pty()
        async with running(hall, *(box("bx5", port, n, f"board-{n}") for n in range(3))):
            hall.show("A000", board="board-0")
            hall.show("B001", board="board-1")
            hall.show("C001", board="board-2")
            await until(lambda: boards[2].text == "C001")
        await line.stop()

    play(scene())


def test_a_strip_that_lost_its_power_shows_the_text_again_within_minutes() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-aa", label="欢迎光临"), Hall()
        async with line_with(strip) as (_, port), running(hall, box("strip-aa", port)):
            hall.show("A037")
            await until(lambda: strip.text == "A037")
            strip.switch_off_and_on()
            await hall.pass_time(REWRITE_S - KEEP_S)
            assert strip.text == "欢迎光临"
            await hall.pass_time(KEEP_S)
            await until(lambda: strip.text == "A037")

    play(scene())


def test_what_could_not_be_shown_as_it_is_is_counted() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-a090"), Hall()
        async with (
            line_with(strip) as (_, port),
            running(hall, box("strip-a090", port, max_bytes=9)),
        ):
            hall.show("请𠀀037号到05号窗口")
            await until(lambda: bool(strip.history))
            await until(lambda: hall.facts["board-1"].get("written") == 1)

        assert strip.text == "请?037号"
        assert hall.facts["board-1"]["replaced"] == 1
        assert hall.facts["board-1"]["cut"] == 1

    play(scene())


def test_the_last_text_stays_when_hallwatch_stops() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-aa"), Hall()
        async with line_with(strip) as (line, port):
            async with running(hall, box("strip-aa", port)):
                hall.show("A037")
                await until(lambda: strip.text == "A037")
            sent = len(line.heard)
            await asyncio.sleep(0.05)

            assert (strip.text, len(line.heard)) == ("A037", sent)

    play(scene())


# -- lines


def test_a_port_that_is_not_there_is_told_in_a_sentence() -> None:
    async def scene() -> None:
        with pytest.raises(DeviceLost, match="There is no serial port /dev/nothing-here"):
            await LedBoards([box("strip-aa", "/dev/nothing-here")]).run(Hall())

    play(scene())


def test_an_adapter_that_is_pulled_out_is_lost() -> None:
    async def scene() -> None:
        strip, hall = Board("strip-aa"), Hall()
        async with (
            line_with(strip) as (line, port),
            running(hall, box("strip-aa", port)) as task,
        ):
            hall.show("A037")
            await until(lambda: strip.text == "A037")
            await line.stop()

            assert isinstance(await ended(task), DeviceLost)

    play(scene())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_card_that_is_not_there_is_told_in_a_sentence(transport: str) -> None:
    async def scene() -> None:
        line = BoardLine([])
        port = await (line.start_tcp() if transport == "tcp" else line.start_udp())
        await line.stop()
        hall = Hall()
        with pytest.raises(DeviceLost, match=r"no connection|unreachable"):
            async with asyncio.timeout(10):
                await LedBoards([card(port, transport)]).run(hall)

        assert hall.contacts == []

    play(scene())


def test_after_a_break_the_last_text_is_written_again_without_flashing() -> None:
    async def scene() -> None:
        board, hall = Board("bx5", label="欢迎光临"), Hall()
        async with card_at(board) as (line, port):
            driver = LedBoards([card(port, flash=7)])
            task = asyncio.create_task(driver.run(hall))
            hall.show("A037", "B012", announce=True)
            await until(lambda: hall.facts.get("board-1", {}).get("written") == 1)
            line.disconnect()
            assert isinstance(await ended(task), DeviceLost)
            board.switch_off_and_on()

            task = asyncio.create_task(driver.run(hall))
            await until(lambda: board.text == "A037\nB012")
            assert board.areas[0].mode == 1
            board.fault = "silent"
            hall.show("A037", "B013", announce=True)
            await until(lambda: board.areas[1].text == "B013")
            assert board.areas[1].mode == 7
            line.disconnect()
            assert isinstance(await ended(task), DeviceLost)
            board.fault = ""
            task = asyncio.create_task(driver.run(hall))
            await until(lambda: board.areas[1].mode == 1)
            line.disconnect()
            assert isinstance(await ended(task), DeviceLost)

            hall.show("A038")
            task = asyncio.create_task(driver.run(hall))
            await until(lambda: board.text == "A038")
            assert line.connections == 4
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    play(scene())


@pytest.mark.parametrize("transport", ["serial", "tcp", "udp"])
def test_a_card_shows_what_is_ordered(transport: str) -> None:
    async def scene() -> None:
        board, hall = Board("bx5", 90), Hall()
        line = BoardLine([board])
        match transport:
            case "serial":
                boxed = box("bx5", await line.start_pty(), 90)
            case "tcp":
                boxed = card(await line.start_tcp(), address=90)
            case _:
                boxed = card(await line.start_udp(), "udp", address=90)
        async with running(hall, boxed):
            await until(lambda: hall.contacts == ["board-1"])
            hall.show("A037 Z[", "B012")
            await until(lambda: board.text == "A037 Z[\nB012")
            await until(lambda: hall.facts["board-1"].get("written") == 1)
        await line.stop()

        assert board.areas == {
            0: Area("A037 Z[", 0, 0, 128, 16, 1, 0),
            1: Area("B012", 0, 16, 128, 16, 1, 0),
        }
        assert "unverified" not in hall.facts["board-1"]
        assert board.commands == {"A2 00": 1, "A3 06": 1}
        assert hall.told == []

    play(scene())


def test_a_card_loses_the_lines_that_are_no_more() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port)):
            hall.show("A", "B", "C")
            await until(lambda: board.text == "A\nB\nC")
            hall.show("D")
            await until(lambda: board.text == "D")

        assert set(board.areas) == {0}

    play(scene())


def test_a_call_flashes_for_three_seconds_and_then_stands_still() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port, flash=7)):
            hall.show("A037", announce=True)
            await until(lambda: board.text == "A037")
            assert board.areas[0].mode == 7
            await until(lambda: len(hall.sleepers) == 2)
            await hall.pass_time(2.9)
            assert board.areas[0].mode == 7
            await hall.pass_time(0.2)
            await until(lambda: board.areas[0].mode == 1)

        assert board.history == ["A037", "A037"]

    play(scene())


def test_a_second_call_flashes_for_its_own_three_seconds() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port, flash=7)):
            hall.show("A037", announce=True)
            await until(lambda: len(hall.sleepers) == 2)
            await hall.pass_time(2)
            hall.show("A038", announce=True)
            await until(lambda: hall.facts["board-1"]["written"] == 2)
            await until(lambda: len(hall.sleepers) == 2)
            await hall.pass_time(1.5)
            await asyncio.sleep(0)
            assert board.areas[0] == Area("A038", 0, 0, 128, 32, 7, 0)
            assert len(hall.sleepers) == 2
            await hall.pass_time(1.6)
            await until(lambda: board.areas[0].mode == 1)

    play(scene())


def test_only_the_text_of_a_call_flashes() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        hall.show("A037", announce=True)
        hall.show("暂停服务")
        async with card_at(board) as (_, port), running(hall, card(port, flash=7)):
            await until(lambda: board.text == "暂停服务")
            assert board.areas[0].mode == 1
        again, hall = Board("bx5"), Hall()
        hall.show("A037", announce=True)
        hall.show("A037")
        async with card_at(again) as (_, port), running(hall, card(port, flash=7)):
            await until(lambda: again.text == "A037")
            assert again.areas[0].mode == 7

    play(scene())


def test_what_is_not_called_does_not_flash() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port, flash=7)):
            hall.show("A037")
            await until(lambda: board.text == "A037")

            assert board.areas[0].mode == 1
        plain, hall = Board("bx5"), Hall()
        async with card_at(plain) as (_, port), running(hall, card(port)):
            hall.show("A037", announce=True)
            await until(lambda: hall.facts.get("board-1", {}).get("shows") == ["A037"])

            assert plain.areas[0].mode == 1
            assert len(hall.sleepers) == 1

    play(scene())


# -- boards that answer


@pytest.mark.parametrize("head", [0x3A, 0x2A])
def test_a_count_board_is_known_by_its_answers(head: int) -> None:
    async def scene() -> None:
        board, hall = Board("count-3a", head=head), Hall()
        async with line_with(board) as (_, port), running(hall, box("count-3a", port)):
            hall.show("888")
            await until(lambda: hall.contacts == ["board-1"])
            await until(lambda: hall.facts["board-1"].get("written") == 1)

        assert board.text == "888"
        assert "unverified" not in hall.facts["board-1"]

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_a_silent_board_has_failed_after_three_tries_and_is_found_again() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with line_with(board) as (line, port), running(hall, box("bx5", port)):
            await until(lambda: hall.contacts == ["board-1"])
            board.fault = "silent"
            sent = len(line.heard)
            hall.show("A037")
            await until(lambda: bool(hall.losses))
            assert len(line.heard) - sent == 3
            tries = [at for at, _ in list(line.heard)[sent:]]
            assert min(b - a for a, b in pairwise(tries)) >= 0.1
            await until(lambda: hall.events == [("board-1", "board_failed", 0)])
            assert "no answer" in hall.losses[0][1]

            await hall.pass_time(KEEP_S)
            await until(lambda: hall.facts["board-1"]["unanswered"] == 4)
            assert len(hall.events) == 1
            contacts = len(hall.contacts)

            board.fault = ""
            board.switch_off_and_on()
            await hall.pass_time(KEEP_S)
            await until(lambda: board.text == "A037")
            await until(lambda: len(hall.events) == 2)
            assert hall.events[1] == ("board-1", "board_recovered", 0)
            assert len(hall.contacts) > contacts

            board.fault = "silent"
            hall.show("A039")
            await until(lambda: len(hall.events) == 3)
            assert hall.facts["board-1"]["unanswered"] == 7

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_a_silent_count_board_is_asked_by_telling_it_the_number_again() -> None:
    async def scene() -> None:
        board, hall = Board("count-3a"), Hall()
        board.fault = "silent"
        async with line_with(board) as (_, port), running(hall, box("count-3a", port)):
            hall.show("12")
            await until(lambda: hall.events == [("board-1", "board_failed", 0)])
            board.fault = ""
            await hall.pass_time(KEEP_S)
            await until(lambda: len(hall.events) == 2)

        assert hall.contacts == ["board-1"]

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_between_two_tries_the_newest_text_wins() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with line_with(board) as (_, port), running(hall, box("bx5", port)):
            await until(lambda: hall.contacts == ["board-1"])
            board.fault = "silent"
            hall.show("A037")
            await until(lambda: board.text == "A037")
            hall.show("A038")
            await until(lambda: board.text == "A038")
            assert hall.losses == []

        assert board.history == ["A037", "A038"]

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_a_dead_board_keeps_the_others_of_its_line_waiting_once() -> None:
    async def scene() -> None:
        dead, alive, hall = Board("bx5", 1), Board("bx5", 2), Hall()
        dead.fault = "silent"
        async with (
            line_with(dead, alive) as (_, port),
            running(hall, box("bx5", port, 1), box("bx5", port, 2, "board-2")),
        ):
            await until(lambda: bool(hall.losses))
            for number in range(3):
                hall.show(f"A{number}")
                hall.show(f"B{number}", board="board-2")
                await until(lambda number=number: alive.text == f"B{number}")  # type: ignore[misc]
            await until(lambda: hall.facts["board-2"].get("written") == 3)

        assert "board-1" not in hall.contacts
        assert [event for event in hall.events if event[0] == "board-2"] == []

    play(scene())


def test_a_board_that_refuses_has_failed_and_is_still_there() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        board.fault = "refuse"
        async with card_at(board) as (line, port), running(hall, card(port)) as task:
            await until(lambda: hall.contacts == ["board-1"])
            sent = len(line.heard)
            hall.show("A037")
            await until(lambda: hall.events == [("board-1", "board_failed", 2)])
            tries = [at for at, _ in list(line.heard)[sent:]]
            assert tries[-1] - tries[0] >= 0.18
            assert hall.facts["board-1"]["refused"] == 3
            assert "refuses" in hall.facts["board-1"]["last_error"]
            assert hall.losses == []
            for pings in (2, 3):
                await hall.pass_time(KEEP_S)
                await until(lambda pings=pings: board.commands["A2 00"] == pings)  # type: ignore[misc]
            assert len(hall.events) == 1

            board.fault = ""
            hall.show("A038")
            await until(lambda: board.text == "A038")
            await until(lambda: hall.events[1:] == [("board-1", "board_recovered", 0)])
            await until(lambda: hall.facts["board-1"]["last_error"] is None)
            assert not task.done()

    play(scene())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["cut", "garbled"])
def test_answers_that_cannot_be_read_are_counted_and_hint_at_the_reason(fault: Any) -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        board.fault = fault
        async with line_with(board) as (_, port), running(hall, box("bx5", port)):
            await until(lambda: bool(hall.losses))

        assert "two boards one address" in hall.losses[0][1]
        assert hall.facts["board-1"]["decode_errors"] >= 2
        assert hall.contacts == []

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_answers_of_a_board_nobody_knows_are_dropped_and_told_once() -> None:
    async def scene() -> None:
        board, hall = Board("bx5", 5), Hall()
        board.fault = "stranger"
        async with line_with(board) as (_, port), running(hall, box("bx5", port, 5)):
            await until(lambda: bool(hall.losses))
            await hall.pass_time(KEEP_S)
            await until(lambda: hall.facts["board-1"]["unanswered"] == 4)

        assert hall.events.count(("board-1", "address_conflict", 6)) == 1
        assert hall.contacts == []

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_one_answer_is_never_taken_for_another() -> None:
    class Late(Board):
        """Answers when the next frame is on the line, and twice."""

        late = b""

        def feed(self, data: bytes, now: float = 0.0) -> bytes:
            said, self.late = self.late, super().feed(data, now) * 2
            return said

    async def scene() -> None:
        late, silent, hall = Late("bx5", 1), Board("bx5", 2), Hall()
        silent.fault = "silent"
        async with (
            line_with(late, silent) as (_, port),
            running(hall, box("bx5", port, 1, tries=1), box("bx5", port, 2, "board-2")),
        ):
            await until(lambda: ("board-2", "board_failed", 0) in hall.events)

        assert "board-2" not in hall.contacts

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_an_answer_said_twice_is_no_answer_to_what_comes_next() -> None:
    class Twice(Board):
        def feed(self, data: bytes, now: float = 0.0) -> bytes:
            return super().feed(data, now) * 2

    async def scene() -> None:
        board, hall = Twice("bx5"), Hall()
        async with line_with(board) as (_, port), running(hall, box("bx5", port)):
            await until(lambda: hall.contacts == ["board-1"])
            board.fault = "silent"
            hall.show("A037")
            await until(lambda: bool(hall.losses))

        assert hall.facts["board-1"]["unanswered"] == 3

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_a_connection_on_which_nobody_answers_is_given_up() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port)) as task:
            await until(lambda: hall.contacts == ["board-1"])
            board.fault = "silent"
            hall.show("A037")

            assert "no answer from the board to 3 tries" in str(await ended(task))
        assert hall.events == [("board-1", "board_failed", 0)]

    play(scene())


def test_noise_before_an_answer_does_no_harm() -> None:
    class Noisy(Board):
        def feed(self, data: bytes, now: float = 0.0) -> bytes:
            answer = super().feed(data, now)
            return answer and b"\x00\xa5\xa5\x5a\xff" + wrap(0x8000, 9, b"\xa2") + answer

    async def scene() -> None:
        board, hall = Noisy("bx5"), Hall()
        async with card_at(board) as (_, port), running(hall, card(port)):
            hall.show("A037")
            await until(lambda: hall.facts.get("board-1", {}).get("written") == 1)

        assert hall.facts["board-1"]["decode_errors"] >= 1
        assert hall.facts["board-1"]["unanswered"] == 0

    play(scene())


def test_boards_go_on_while_nothing_can_be_journalled() -> None:
    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        hall.broken = True
        board.fault = "refuse"
        async with card_at(board) as (_, port), running(hall, card(port)) as task:
            hall.show("A037")
            await until(lambda: hall.facts.get("board-1", {}).get("refused") == 3)
            hall.broken = False
            hall.show("A038")
            await until(lambda: hall.events == [("board-1", "board_failed", 2)])
            assert not task.done()

    play(scene())


def test_a_board_that_floods_the_line_is_written_to_all_the_same() -> None:
    class Babbling(BoardLine):
        def say(self, data: bytes) -> bytes:
            return b"\xa5\x01\x5a" * 2000 + super().say(data)

    async def scene() -> None:
        board, hall = Board("bx5"), Hall()
        line = Babbling([board])
        async with running(hall, card(await line.start_tcp())):
            hall.show("A037")
            await until(lambda: hall.facts.get("board-1", {}).get("written") == 1)
        await line.stop()

        assert board.text == "A037"

    play(scene())
