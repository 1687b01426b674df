"""The driver against an emulated terminal on real sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from drivers import zkteco
from drivers.base import DeviceLost, DeviceRefused
from drivers.emulators.zkteco import ZkRecord, ZkTerminal, ZkUser
from drivers.zkteco import ZkTeco, ZkTecoOptions
from rules.model import (
    HOUR,
    Body,
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    Instant,
    LogComplete,
    Punch,
    Reading,
    TerminalUser,
    Unreadable,
    reading_id,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
NINE = 1_741_914_000_000  # 2025-03-14 09:00:00 +08:00
GET_TIME, SET_TIME, REGISTER, READ_LOG, EXIT = 201, 202, 500, 13, 1001
PREPARE_BUFFER, FREE_BUFFER, DISABLE = 1503, 1502, 1003

ZHANG = ZkUser(1, "9001", "张三", card=1001, password="31415926")
LI = ZkUser(2, "9002", "李四", privilege=14)


@dataclass
class Box:
    """A device of the settings."""

    options: ZkTecoOptions
    id: str = "terminal-1"


@dataclass
class Hall:
    """What the daemon lends to a driver, with a journal in memory and a clock that is moved."""

    time: Instant = NINE
    zone: ZoneInfo = SHANGHAI
    journal: dict[bytes, Reading] = field(default_factory=dict)
    told: list[Reading] = field(default_factory=list)
    """Every reading emitted, known or not."""
    received: list[tuple[Instant, Reading]] = field(default_factory=list)
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    contacts: int = 0
    broken: bool = False
    """The disk is full."""
    _sleeper: tuple[Instant, asyncio.Future[None]] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("database or disk is full")
        known = len(self.journal)
        for reading in readings:
            key = reading_id(reading)
            if key not in self.journal:
                self.journal[key] = reading
                self.received.append((self.time, reading))
        self.told += readings
        self.marks.update(marks or {})
        self._changed.set()
        return len(self.journal) - known

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> Instant:
        return self.time

    async def sleep(self, seconds: float) -> None:
        assert self._sleeper is None, "only the periodic work sleeps"
        woken = asyncio.get_running_loop().create_future()
        self._sleeper = self.time + round(seconds * 1000), woken
        self._changed.set()
        try:
            await woken
        finally:
            self._sleeper = None

    def contact(self, device: str) -> None:
        assert device == "terminal-1"
        self.contacts += 1

    def lost(self, device: str, reason: str) -> None:
        raise AssertionError(f"the supervisor says that {device} is lost: {reason}")

    def note(self, device: str, **facts: Any) -> None:
        assert device == "terminal-1"
        self.facts.update(facts)
        self._changed.set()

    def bodies(self, kind: type[Body]) -> list[Any]:
        return [reading.body for reading in self.journal.values() if type(reading.body) is kind]

    @property
    def punches(self) -> list[tuple[str, Instant, bool]]:
        return [
            (reading.body.person, reading.at, reading.body.live)
            for reading in self.journal.values()
            if type(reading.body) is Punch
        ]

    async def until(self, said: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not said():
                self._changed.clear()
                await self._changed.wait()

    async def live(self) -> None:
        """The driver has caught up and waits for what comes."""
        await self.until(lambda: self.facts.get("state") == "live" and self.idle())

    def idle(self) -> bool:
        return self._sleeper is not None

    async def pass_time(self, seconds: float) -> None:
        """Let the driver do what is due, each thing at its own moment."""
        ends = self.time + round(seconds * 1000)
        while True:
            await self.until(self.idle)
            assert self._sleeper is not None
            due, woken = self._sleeper
            if due > ends:
                break
            self.time = due
            self._sleeper = None
            woken.set_result(None)
        self.time = ends

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.time / 1000, SHANGHAI).replace(tzinfo=None)


def log(count: int, people: Sequence[ZkUser] = (ZHANG, LI)) -> list[ZkRecord]:
    """Punches of the days before, the last one an hour ago."""
    last = datetime(2025, 3, 14, 8)  # noqa: DTZ001
    return [
        ZkRecord(people[n % len(people)].user_id, last - timedelta(minutes=7 * (count - 1 - n)))
        for n in range(count)
    ]


@asynccontextmanager
async def terminal_in(
    hall: Hall, users: Iterable[ZkUser] = (ZHANG, LI), **settings: Any
) -> AsyncIterator[ZkTerminal]:
    terminal = ZkTerminal("HW20250001", clock=hall.wall, users=users, **settings)
    await terminal.start()
    try:
        yield terminal
    finally:
        await terminal.stop()


def driver_for(terminal: ZkTerminal, **options: Any) -> ZkTeco:
    return ZkTeco([Box(ZkTecoOptions("127.0.0.1", terminal.port, **options))])


@asynccontextmanager
async def watching(
    hall: Hall, terminal: ZkTerminal, **options: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """The driver at work, caught up; at the end it is stopped as the daemon stops it."""
    hall.facts.pop("state", None)
    task = asyncio.create_task(driver_for(terminal, **options).run(hall))
    live = asyncio.create_task(hall.live())
    try:
        await asyncio.wait((task, live), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield task
    finally:
        live.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, DeviceLost):
            await task


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


# Catching up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("protocol", ["auto", "same"])
def test_a_terminal_is_read_whole(transport: str, protocol: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(3), transport=transport) as terminal:
            chosen = transport if protocol == "same" else "auto"
            async with watching(hall, terminal, protocol=chosen):
                kinds = [type(reading.body) for reading in hall.journal.values()]

        assert kinds == [
            ClockCheck,
            DeviceInfo,
            TerminalUser,
            TerminalUser,
            Punch,
            Punch,
            Punch,
            LogComplete,
        ]
        assert {reading.serial for reading in hall.journal.values()} == {"HW20250001"}
        last = hall.punches[-1]
        assert last == ("9001", NINE - HOUR, False)
        assert hall.bodies(TerminalUser) == [
            TerminalUser("9001", "张三"),
            TerminalUser("9002", "李四", 14),
        ]
        assert hall.facts["records"] == 3
        assert hall.facts["firmware"] == "Ver 6.60 Apr 28 2017"
        assert hall.contacts > 8
        assert terminal.asked[DISABLE] == 0
        assert terminal.asked[SET_TIME] == 0
        assert terminal.asked[EXIT] == 1
        assert terminal.rejected == 0
        assert terminal.sessions == 0

    run(test)


@pytest.mark.parametrize("layout", [8, "8alt", 16, 40, 49])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_every_record_layout_is_understood_in_many_chunks(layout: Any, transport: str) -> None:
    async def test() -> None:
        hall = Hall()
        people = [ZkUser(uid, str(7000 + uid), "王五") for uid in range(1, 60)]
        records = log(4000, people)
        async with (
            terminal_in(
                hall,
                people,
                records=records,
                record_layout=layout,
                user_layout=28 if layout in (8, "8alt", 16) else 72,
                transport=transport,
            ) as terminal,
            watching(hall, terminal),
        ):
            pass

        expected = [
            (record.user_id, round(record.at.replace(tzinfo=SHANGHAI).timestamp()) * 1000, False)
            for record in records
            if isinstance(record.at, datetime)
        ]
        assert hall.punches == expected
        assert len(hall.bodies(LogComplete)) == 1
        assert hall.bodies(Unreadable) == []

    run(test)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("count", [2, 3000])
@pytest.mark.parametrize("fault", ["buffered_read", "prefix_counts", "ack_data"])
def test_old_firmware_is_read(transport: str, count: int, fault: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(count), transport=transport) as terminal:
            match fault:
                case "buffered_read":
                    terminal.buffered_read = False
                case "prefix_counts":
                    terminal.prefix_counts = True
                case "ack_data":
                    terminal.buffered_read = False
                    terminal.inline_code = 2002
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == count
        assert len(hall.bodies(LogComplete)) == 1

    run(test)


def test_a_long_log_on_a_slow_looking_stream_of_small_pieces() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2000)) as terminal:
            terminal.fragment = 700
            terminal.tcp_packet = 1000
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == 2000
        assert hall.facts["log_error"] is None

    run(test)


def test_every_packet_may_come_byte_by_byte() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(5)) as terminal:
            terminal.fragment = 1
            async with watching(hall, terminal):
                await terminal.punch("9001")

        assert len(hall.punches) == 6

    run(test)


def test_lost_datagrams_of_a_chunk_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "PAUSE_IN_BURST", 0.3)
        hall = Hall()
        async with terminal_in(hall, records=log(2000), transport="udp") as terminal:

            async def lose_one(command: int) -> None:
                terminal.lose_next = int(command == 1504 and terminal.asked[1504] in (1, 3))

            terminal.before_answer = lose_one
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == 2000
        assert len(hall.bodies(LogComplete)) == 1
        assert terminal.asked[1504] == 5 + 2

    run(test)


def test_a_list_that_stays_incomplete_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "PAUSE_IN_BURST", 0.1)
        hall = Hall()
        async with terminal_in(hall, records=log(2000), transport="udp") as terminal:

            async def lose_all(command: int) -> None:
                terminal.lose_next = 5 if command == 1504 else 0

            terminal.before_answer = lose_all
            with pytest.raises(DeviceLost, match="command 1504, three times: 11264 of 16384 bytes"):
                await driver_for(terminal).run(hall)

            assert terminal.asked[FREE_BUFFER] == 2  # at the start, and on the way out
            assert terminal.asked[EXIT] == 1
        assert hall.punches == []
        assert hall.bodies(LogComplete) == []

    run(test)


def test_the_next_visit_reads_only_what_is_new() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(100)) as terminal:
            async with watching(hall, terminal):
                pass
            for _ in range(3):
                terminal.record("9002")
            before = len(hall.told)
            async with watching(hall, terminal):
                pass

        again = [type(reading.body) for reading in hall.told[before:]]
        # No users and no description of the terminal either: they are as they were.
        assert again == [ClockCheck, Punch, Punch, Punch, LogComplete]

    run(test)


def test_a_cleared_log_is_read_from_its_new_beginning() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(10)) as terminal:
            async with watching(hall, terminal):
                pass
            terminal.clear_log()
            terminal.record("9002")
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == 11
        (event,) = hall.bodies(DeviceEvent)
        assert event == DeviceEvent("log_cleared", detail="400 bytes -> 40")

    run(test)


def test_an_emptied_log_is_complete_where_there_was_one_before() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(10)) as terminal:
            async with watching(hall, terminal):
                pass
            terminal.clear_log()
            hall.time += HOUR
            async with watching(hall, terminal):
                await hall.pass_time(900)

        assert hall.bodies(DeviceEvent) == [DeviceEvent("log_cleared", detail="400 bytes -> 0")]
        times = [r.at - NINE for r in hall.journal.values() if type(r.body) is LogComplete]
        assert times == [0, HOUR]

    run(test)


def test_a_log_that_was_always_empty_says_nothing() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall) as terminal, watching(hall, terminal):
            assert hall.bodies(LogComplete) == []
            terminal.record("9001")
            await hall.pass_time(900)
            assert len(hall.bodies(LogComplete)) == 1

    run(test)


def test_a_log_that_overwrites_its_oldest_rows_is_read_again() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(10), capacity=10) as terminal:
            terminal.overwrites_when_full = True
            async with watching(hall, terminal):
                terminal.record("9002")
                await hall.pass_time(900)

        assert len(hall.punches) == 11
        assert hall.facts["capacity_percent"] == 100

    run(test)


def test_one_impossible_record_is_kept_as_bytes_and_told_once() -> None:
    async def test() -> None:
        hall = Hall()
        records = [*log(30), ZkRecord("9001", 808794123), *log(4)]
        async with terminal_in(hall, records=records) as terminal:
            async with watching(hall, terminal):
                pass
            hall.marks.clear()
            async with watching(hall, terminal):
                pass

        (unreadable,) = [r for r in hall.journal.values() if type(r.body) is Unreadable]
        assert unreadable.raw[27:31].hex() == "0b383530"
        assert len(hall.punches) == 30  # the last four are repeats

    run(test)


def test_a_log_that_fits_no_layout_is_told_once_and_live_punches_go_on() -> None:
    async def test() -> None:
        hall = Hall()
        records = [ZkRecord("9001", 0xFFFFFFFF)] * 30
        async with (
            terminal_in(hall, records=records, record_layout=16) as terminal,
            watching(hall, terminal),
        ):
            await hall.pass_time(1800)
            await terminal.punch("9002")

        (unreadable,) = hall.bodies(Unreadable)
        assert "480 bytes of attendance log fit no known record size" in unreadable.reason
        assert hall.facts["log_error"] == unreadable.reason
        assert [person for person, _, live in hall.punches if live] == ["9002"]
        assert hall.bodies(LogComplete) == []

    run(test)


# Complete or not -----------------------------------------------------------------------------


def test_the_log_is_complete_until_the_read_began() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(3)) as terminal:

            async def slowly(command: int) -> None:
                if command == PREPARE_BUFFER:
                    hall.time += 7000

            terminal.before_answer = slowly
            async with watching(hall, terminal):
                pass

        (complete,) = [r for r in hall.journal.values() if type(r.body) is LogComplete]
        assert complete.at == NINE + 7000  # the list of users took as long, before

    run(test)


def test_an_unchanged_count_is_completeness_told_once_an_hour() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            terminal_in(hall, records=log(3)) as terminal,
            watching(hall, terminal),
        ):
            read = terminal.asked[PREPARE_BUFFER]
            await hall.pass_time(2.2 * 3600)
            assert terminal.asked[PREPARE_BUFFER] == read

        times = [r.at - NINE for r in hall.journal.values() if type(r.body) is LogComplete]
        assert times == [0, HOUR, 2 * HOUR]

    run(test)


def test_the_log_is_read_once_a_day_in_any_case() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            terminal_in(hall, records=log(3)) as terminal,
            watching(hall, terminal, keepalive_s=900),
        ):
            read = terminal.asked[PREPARE_BUFFER]
            await hall.pass_time(24 * 3600)
            assert terminal.asked[PREPARE_BUFFER] == read + 1

    run(test)


def test_a_log_shorter_than_its_count_is_not_complete() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(5)) as terminal:

            async def lose_rows(command: int) -> None:
                if command == PREPARE_BUFFER and terminal.asked[PREPARE_BUFFER] == 2:
                    terminal.clear_log()
                    terminal.record("9001")

            terminal.before_answer = lose_rows
            async with watching(hall, terminal):
                assert "counts 5 records and gave 1" in hall.facts["log_error"]
                assert hall.bodies(LogComplete) == []
                await hall.pass_time(900)
                assert hall.facts["log_error"] is None
                assert len(hall.bodies(LogComplete)) == 1

    run(test)


def test_a_punch_while_the_log_is_read_is_found_by_the_next_read() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(5)) as terminal:

            async def punch_after_the_list(command: int) -> None:
                if command == 50 and terminal.asked[PREPARE_BUFFER] == 2:
                    terminal.before_answer = None
                    terminal.record("9002")

            terminal.before_answer = punch_after_the_list
            async with watching(hall, terminal):
                assert len(hall.punches) == 5
                await hall.pass_time(900)

        assert hall.punches[5:] == [("9002", NINE, False)]

    run(test)


def test_short_records_are_joined_with_the_users_of_the_same_read() -> None:
    async def test() -> None:
        hall = Hall()
        people = [ZkUser(1, "9001"), ZkUser(2, "9002")]
        async with (
            terminal_in(hall, people, records=log(4), record_layout=8, user_layout=28) as terminal,
            watching(hall, terminal),
        ):
            # Somebody leaves, and his uid goes to a newcomer.
            terminal.users[1] = ZkUser(2, "9100", "赵六")
            terminal.record("9100")
            await hall.pass_time(900)

        assert [person for person, _, _ in hall.punches] == ["9001", "9002", "9001", "9002", "9100"]

    run(test)


def test_nothing_follows_from_a_terminal_in_access_control_mode() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(5)) as terminal:
            terminal.access_control_mode = True
            async with watching(hall, terminal):
                await terminal.punch("9001")
                await hall.pass_time(900)

        assert hall.bodies(LogComplete) == []
        assert "use PUSH instead" in hall.facts["log_error"]
        assert len(hall.punches) == 1

    run(test)


# Live ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("length", [10, 12, 14, 32, 36, 37, 52])
def test_a_punch_is_journalled_before_it_is_acknowledged(transport: str, length: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(
            hall, records=log(2), transport=transport, event_layout=length
        ) as terminal:
            terminal.event_ack_required = True
            async with watching(hall, terminal):
                await terminal.punch("9002", verify=15, state=1)
                assert ("9002", NINE, True) in hall.punches
                await terminal.punch("9001")
                assert ("9001", NINE, True) in hall.punches

    run(test)


def test_a_punch_that_could_not_be_stored_is_not_acknowledged_and_comes_from_the_log() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.event_ack_required = True
            terminal.ack_wait = 0.2
            async with watching(hall, terminal):
                hall.broken = True
                await terminal.punch("9001")
                assert "could not be stored" in hall.facts["last_error"]
                (session,) = terminal._sessions.values()
                assert session.deaf  # no acknowledgement came
                hall.broken = False
                await hall.pass_time(45)

        assert hall.punches[-1] == ("9001", NINE, False)

    run(test)


def test_a_log_that_could_not_be_stored_is_read_again_at_the_next_step() -> None:
    async def test() -> None:
        hall = Hall(broken=True)
        async with terminal_in(hall, records=log(2)) as terminal, watching(hall, terminal):
            assert hall.journal == {}
            hall.broken = False
            await hall.pass_time(45)

            assert len(hall.punches) == 2
            assert len(hall.bodies(LogComplete)) == 1

    run(test)


def test_the_same_punch_told_live_and_by_the_log_is_one() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal, watching(hall, terminal):
            await terminal.punch("9001")
            await hall.pass_time(900)
            assert [body.person for body in hall.bodies(Punch)][2:] == ["9001"]
            assert sum(type(reading.body) is Punch for reading in hall.told) == 4
            assert hall.facts["repeats"] == 1
            # The log has grown, so it is complete until later.
            assert len(hall.bodies(LogComplete)) == 2

    run(test)


def test_glued_events_are_all_journalled() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.glue = 3
            async with watching(hall, terminal):
                await asyncio.gather(*(terminal.punch("9001", verify=v) for v in (1, 3, 15)))

        assert sorted(body.verify for body in hall.bodies(Punch) if body.live) == [1, 3, 15]

    run(test)


def test_an_event_in_the_middle_of_a_list_is_no_data() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(3000)) as terminal:
            waiting: list[asyncio.Task[bool]] = []

            async def somebody_punches(command: int) -> None:
                if command == 1504 and not waiting:
                    terminal.glue = 2  # it waits for the next answer
                    waiting.append(asyncio.create_task(terminal.punch("9001")))
                    await asyncio.sleep(0)

            terminal.before_answer = somebody_punches
            async with watching(hall, terminal):
                assert await waiting[0]

        assert len(hall.punches) == 3001
        assert ("9001", NINE, True) in hall.punches

    run(test)


def test_a_terminal_that_forgot_its_events_is_registered_with_again() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            terminal_in(hall, records=log(2)) as terminal,
            watching(hall, terminal, keepalive_s=60),
        ):
            registered = terminal.asked[REGISTER]
            terminal.record("9002")
            await hall.pass_time(300)

            assert terminal.asked[REGISTER] == registered + 1
            assert ("9002", NINE, False) in hall.punches

    run(test)


def test_a_number_that_is_no_user_id_is_a_uid() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            terminal_in(hall, records=log(2), event_layout=12) as terminal,
            watching(hall, terminal),
        ):
            await terminal.punch("2")

        assert hall.punches[-1] == ("9002", NINE, True)

    run(test)


def test_alarms_and_unreadable_events_are_journalled_and_small_talk_is_not() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal, watching(hall, terminal):
            await terminal.send_event(512, bytes.fromhex("37000000"))
            await terminal.send_event(1, b"\1\2\3")
            for session in terminal._sessions.values():
                session.mask = 0xFFFF
            await terminal.send_event(2)
            read = terminal.asked[PREPARE_BUFFER]
            await hall.pass_time(45)
            # What could not be read may have been a punch.
            assert terminal.asked[PREPARE_BUFFER] > read

        assert hall.bodies(DeviceEvent) == [DeviceEvent("tamper", 512)]
        (unreadable,) = hall.bodies(Unreadable)
        assert "event of 3 bytes" in unreadable.reason

    run(test)


def test_only_the_changed_users_are_told_and_never_their_passwords() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal, watching(hall, terminal):
            terminal.users.append(ZkUser(3, "0042", "欧阳娜娜", password="27182818", card=77))
            await terminal.send_event(4, bytes(4) + b"0042".ljust(9, b"\0") + b"\0")
            await hall.pass_time(45)

        assert hall.bodies(TerminalUser)[2:] == [TerminalUser("0042", "欧阳娜娜")]
        everything = repr(hall.journal.values()) + repr(hall.facts) + repr(hall.marks)
        assert "31415926" not in everything
        assert "27182818" not in everything

    run(test)


# The clock -----------------------------------------------------------------------------------


def test_the_clock_is_told_when_it_moves_and_once_an_hour() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.set_clock_offset(120)
            async with watching(hall, terminal):
                await hall.pass_time(90)
                terminal.set_clock_offset(124)
                await hall.pass_time(90)
                terminal.set_clock_offset(-400)
                await hall.pass_time(90)
                assert hall.facts["clock_offset_s"] == -400
                await hall.pass_time(3600)

        checks = [
            (at - NINE, reading.at - at)
            for at, reading in hall.received
            if type(reading.body) is ClockCheck
        ]
        assert checks == [(0, 120_000), (225_000, -400_000), (3_825_000, -400_000)]
        assert terminal.asked[SET_TIME] == 0

    run(test)


def test_the_clock_is_set_only_where_allowed_and_after_the_log_was_read() -> None:
    async def test() -> None:
        hall = Hall()
        order: list[int] = []
        async with terminal_in(hall, records=log(2)) as terminal:

            async def note(command: int) -> None:
                order.append(command)

            terminal.before_answer = note
            terminal.set_clock_offset(-3600)
            async with watching(hall, terminal, set_clock=True):
                assert abs(terminal.clock.offset) < 1

        assert order.index(SET_TIME) > order.index(PREPARE_BUFFER)
        assert order.count(SET_TIME) == 1
        offsets = [r.at - NINE for r in hall.journal.values() if type(r.body) is ClockCheck]
        assert offsets == [-HOUR, 0]
        assert hall.bodies(DeviceEvent) == [DeviceEvent("time_set", detail="offset -3600000 ms")]

    run(test)


# Refused, busy, lost -------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_comm_key_opens_the_terminal(tmp_path: Path, late: bool, transport: str) -> None:
    async def test() -> None:
        (tmp_path / "key").write_text("1234\n")
        hall = Hall()
        async with terminal_in(hall, records=log(2), comm_key=1234, transport=transport) as t:
            t.late_auth = late
            async with watching(hall, t, comm_key_file=str(tmp_path / "key")):
                assert t.asked[1102] == 1

        assert len(hall.punches) == 2

    run(test)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("4321", "refused the comm key"),
        (None, "wants a comm key and the settings name none: expected comm_key_file"),
        ("secret", "expected one whole number"),
        ("absent", "comm_key_file: .*No such file"),
    ],
)
def test_without_the_right_comm_key_the_terminal_refuses(
    tmp_path: Path, key: str | None, sentence: str
) -> None:
    async def test() -> None:
        if key != "absent":
            (tmp_path / "key").write_text(key or "")
        hall = Hall()
        async with terminal_in(hall, comm_key=1234) as terminal:
            path = str(tmp_path / "key") if key else ""
            with pytest.raises(DeviceRefused, match=sentence) as refused:
                await driver_for(terminal, comm_key_file=path).run(hall)

            assert terminal.asked[1102] <= 1
        assert "secret" not in str(refused.value)
        assert hall.journal == {}

    run(test)


def test_another_terminal_at_the_address_is_refused() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall) as terminal:
            with pytest.raises(DeviceRefused, match="HW20250001, expected HW7"):
                await driver_for(terminal, serial="HW7").run(hall)

            assert terminal.sessions == 0
        assert hall.journal == {}
        assert hall.contacts == 0

    run(test)


def test_a_terminal_that_takes_connections_and_stays_silent_is_called_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "PATIENCE", 0.05)
        hall = Hall()
        async with terminal_in(hall, records=log(1)) as terminal:
            terminal.silent = True
            driver = driver_for(terminal)
            for sentence in ("no answer to command 1000", "no answer", "busy", "busy"):
                with pytest.raises(DeviceLost, match=sentence):
                    await driver.run(hall)
            terminal.silent = False
            monkeypatch.setattr(zkteco, "PATIENCE", 10)
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == 1

    run(test)


def test_nobody_at_the_address_is_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "PATIENCE", 0.3)
        hall = Hall()
        async with terminal_in(hall) as terminal:
            port = terminal.port
        for protocol in ("tcp", "udp", "auto"):
            options = ZkTecoOptions("127.0.0.1", port, protocol)
            with pytest.raises(DeviceLost):
                await ZkTeco([Box(options)]).run(hall)

    run(test)


def test_a_remembered_protocol_is_forgotten_when_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(1), transport="tcp") as terminal:
            hall.marks["terminal-1", "protocol"] = "udp"
            monkeypatch.setattr(zkteco, "PATIENCE", 0.3)
            with pytest.raises(DeviceLost):
                await driver_for(terminal).run(hall)
            monkeypatch.setattr(zkteco, "PATIENCE", 10)
            async with watching(hall, terminal):
                pass

        assert hall.marks["terminal-1", "protocol"] == "tcp"

    run(test)


def test_a_connection_cut_in_the_middle_of_the_log_loses_nothing() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(3000)) as terminal:
            terminal.cut_after = 70_000
            with pytest.raises(DeviceLost, match="closed the connection"):
                await driver_for(terminal).run(hall)
            assert hall.punches == []
            async with watching(hall, terminal):
                pass

        assert len(hall.punches) == 3000

    run(test)


def test_punches_made_while_the_cable_was_out_come_from_the_log() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            async with watching(hall, terminal) as task:
                await terminal.unplug()
                with pytest.raises(DeviceLost):
                    await task
            await terminal.punch("9001")
            await terminal.plug_in()
            async with watching(hall, terminal):
                pass

        assert hall.punches[-1] == ("9001", NINE, False)

    run(test)


def test_a_terminal_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            terminal_in(hall, records=log(2)) as terminal,
            watching(hall, terminal) as task,
        ):
            monkeypatch.setattr(zkteco, "PATIENCE", 0.1)
            monkeypatch.setattr(zkteco, "FAREWELL", 0.1)
            terminal.silent = True
            assert hall._sleeper is not None
            hall._sleeper[1].set_result(None)
            with pytest.raises(DeviceLost, match="no answer to command 201"):
                await task

    run(test)


def test_a_terminal_that_does_not_say_goodbye_is_left_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "FAREWELL", 0.1)
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.answers_exit = False
            async with asyncio.timeout(5), watching(hall, terminal):
                pass

        assert terminal.asked[EXIT] == 1

    run(test)


def test_stale_answers_and_requests_to_repeat_do_no_harm() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:

            async def oddly(command: int) -> None:
                terminal.stale_replies = 1
                terminal.ask_to_repeat = int(command == GET_TIME and terminal.asked[command] == 1)

            terminal.before_answer = oddly
            async with watching(hall, terminal):
                await hall.pass_time(90)
                assert hall.facts["stale_answers"] > 5

        assert len(hall.punches) == 2
        (checked,) = [at for at, r in hall.received if type(r.body) is ClockCheck]
        assert checked == NINE  # at once, not at the next occasion

    run(test)


def test_checksums_off_by_one_are_counted_and_accepted() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.checksum_error = 1
            async with watching(hall, terminal):
                await hall.pass_time(45)
                assert hall.facts["checksums_off_by_one"] > 5
                assert hall.facts["decode_errors"] == 0

        assert len(hall.punches) == 2
        assert terminal.asked[PREPARE_BUFFER] == 2  # users and log, once

    run(test)


def test_other_wrong_checksums_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(zkteco, "PATIENCE", 0.1)
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.checksum_error = 5
            with pytest.raises(DeviceLost):
                await driver_for(terminal).run(hall)

        assert hall.contacts == 0

    run(test)


def test_unknown_options_and_odd_counters_are_no_failure() -> None:
    async def test() -> None:
        hall = Hall()
        async with terminal_in(hall, records=log(2)) as terminal:
            terminal.options.clear()
            terminal.sizes_length = 16
            async with watching(hall, terminal, serial="HW20250001"):
                pass

        assert len(hall.punches) == 2
        assert {reading.serial for reading in hall.journal.values()} == {"HW20250001"}

    run(test)


def test_a_port_that_speaks_something_else_is_a_lost_device() -> None:
    async def test() -> None:
        async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(web_server, "127.0.0.1", 0)
        async with server:
            options = ZkTecoOptions("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(DeviceLost):
                await ZkTeco([Box(options)]).run(Hall())

    run(test)


def test_one_address_is_one_terminal() -> None:
    box = Box(ZkTecoOptions("10.0.0.5"))

    with pytest.raises(ValueError, match="2 devices at one address and port"):
        ZkTeco([box, box])
    assert box.options.link() == ("10.0.0.5", 4370)


def test_a_hundred_thousand_records_come_in_seconds() -> None:
    async def test() -> None:
        hall = Hall()
        people = [ZkUser(uid, str(7000 + uid)) for uid in range(1, 251)]
        start = datetime(2024, 1, 1)  # noqa: DTZ001
        records = [
            ZkRecord(people[n % 250].user_id, start + timedelta(seconds=300 * n), uid=n % 250 + 1)
            for n in range(100_000)
        ]
        async with (
            terminal_in(hall, people, records=records, capacity=200_000) as terminal,
            watching(hall, terminal),
        ):
            pass

        assert len(hall.punches) == 100_000
        assert len(hall.bodies(LogComplete)) == 1

    run(test)


@pytest.mark.parametrize("seed", range(25))
def test_a_terminal_that_talks_nonsense_is_lost_or_endured(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well-formed packets with the right reply id, and codes, lengths and contents by chance."""
    for name in ("PATIENCE", "BULK_PATIENCE", "PAUSE_IN_BURST", "FAREWELL"):
        monkeypatch.setattr(zkteco, name, 0.02)
    dice = random.Random(seed)
    codes = (2000,) * 12 + (1500, 1501, 1501, 2001, 2002, 2003, 2005, 500, 65535, 64)
    sizes = (0, 1, 4, 5, 8, 12, 13, 32, 44, 76, 80, 84, 92, 300)

    def nonsense(length: int) -> bytes:
        some = dice.randbytes(length) if dice.random() < 0.5 else bytes(length)
        return (length - 4).to_bytes(4, "little", signed=True) + some[4:] if length > 4 else some

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while request := await reader.read(4096):
                packets, _, _ = zkteco.split(request)
                for packet in packets:
                    code = 2000 if packet.command == 1000 else dice.choice(codes)
                    out = zkteco.pack(code, 7, packet.reply_id, nonsense(dice.choice(sizes)))
                    if dice.random() < 0.3:
                        out = zkteco.pack(500, dice.choice((1, 8, 512)), 0, nonsense(32))
                    writer.write(zkteco.wrap(out))
                    if dice.random() < 0.05:
                        writer.write(dice.randbytes(20))
        writer.close()

    async def test() -> None:
        hall = Hall()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            options = ZkTecoOptions("127.0.0.1", server.sockets[0].getsockname()[1])
            for _ in range(8):
                visit = asyncio.create_task(ZkTeco([Box(options)]).run(hall))
                quiet = asyncio.create_task(hall.until(hall.idle))
                await asyncio.wait((visit, quiet), return_when=asyncio.FIRST_COMPLETED)
                quiet.cancel()
                visit.cancel()
                with suppress(DeviceLost, DeviceRefused, asyncio.CancelledError):
                    await visit
        for reading in hall.journal.values():
            assert len(reading.raw) <= 4096
            msgspec.json.encode(reading.body)

    run(test)
