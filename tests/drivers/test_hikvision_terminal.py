"""The Hikvision driver against an emulated terminal, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from drivers import hikvision, isapi
from drivers.base import DeviceLost, DeviceRefused
from drivers.emulators.hikvision import HikRecord, HikTerminal
from drivers.hikvision import Hikvision, HikvisionOptions
from rules.model import (
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    LogComplete,
    Punch,
    Unreadable,
)
from tests.drivers.small_hall import ZONE, SmallHall

NINE = int(datetime(2025, 3, 14, 9, 0, 0, tzinfo=ZONE).timestamp()) * 1000
MORNING = datetime(2025, 3, 14, 8, 0, 0)  # noqa: DTZ001
SERIAL = "DS-K1T342MFWX20250101V030305ENG12345678"


@dataclass(frozen=True)
class Spec:
    id: str
    options: HikvisionOptions
    window: str = ""


class Hall(SmallHall):
    def __init__(self) -> None:
        super().__init__(NINE)

    def people(self) -> list[str]:
        return [punch.person for punch in self.bodies(Punch)]

    def events(self) -> list[str]:
        return [event.name for event in self.bodies(DeviceEvent)]

    def note_of(self, name: str, device: str = "gate") -> Any:
        return self.notes.get(device, {}).get(name)


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No defect hides behind a 500."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("Abc12345\n")
    return path


def log_of(count: int, start: int = 1) -> list[HikRecord]:
    return [
        HikRecord(start + n, MORNING + timedelta(seconds=10 * n), 5, 75, str(9001 + n))
        for n in range(count)
    ]


class Stage:
    """A terminal, a driver at work, and the hall."""

    def __init__(self, hall: Hall, terminal: HikTerminal, options: HikvisionOptions) -> None:
        self.hall, self.terminal, self.options = hall, terminal, options
        self.driver = Hikvision([Spec("gate", options)])
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.task = asyncio.create_task(self.driver.run(self.hall))
        await asyncio.sleep(0)

    async def end(self) -> None:
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def failure(self) -> BaseException:
        assert self.task
        async with asyncio.timeout(20):
            await asyncio.wait({self.task})
        error = self.task.exception()
        assert error is not None
        return error

    async def settled(self) -> None:
        """Caught up, and listening if it can be."""
        await self.hall.until(self.caught_up)
        if self.options.stream and self.terminal.streamable:
            await self.hall.until(lambda: self.terminal.streams)

    def caught_up(self) -> bool:
        if self.task and self.task.done():
            self.task.result()
        return bool(self.hall.bodies(LogComplete))


def play(
    story: Callable[[Stage], Awaitable[None]],
    secret: Path,
    hall: Hall | None = None,
    prepare: Callable[[HikTerminal], None] | None = None,
    records: Sequence[HikRecord] = (),
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> Hall:
    async def whole() -> Hall:
        present = hall or Hall()
        terminal = HikTerminal(SERIAL, clock=present.wall, records=records, tls=tls)
        if prepare:
            prepare(terminal)
        port = await terminal.start()
        given = {"host": "127.0.0.1", "port": port, "password_file": str(secret), **options}
        stage = Stage(present, terminal, HikvisionOptions(**given))
        await stage.begin()
        try:
            async with asyncio.timeout(40):
                await story(stage)
        finally:
            await stage.end()
            await terminal.stop()
        return present

    return asyncio.run(whole())


async def settles(stage: Stage) -> None:
    await stage.settled()


# -- the log


def test_the_log_is_read_whole_and_said_to_be(secret: Path) -> None:
    hall = play(settles, secret, records=log_of(75))

    assert hall.people() == [str(9001 + n) for n in range(75)]
    assert hall.bodies(Punch)[0] == Punch("9001", 75, record_no="1")
    assert {reading.serial for reading in hall.readings} == {SERIAL}
    assert [reading.at for reading in hall.readings if type(reading.body) is LogComplete] == [NINE]
    assert hall.bodies(DeviceInfo) == [
        DeviceInfo(
            {
                "serial": SERIAL,
                "model": "DS-K1T342MFWX",
                "firmware": "V3.3.5",
                "mac": "24:28:fd:00:00:01",
            }
        )
    ]
    assert hall.marks[("gate", "place")] == f"75 75 {hall.readings[-2].at} {SERIAL}"


def test_what_is_asked_is_what_the_document_says(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        first, second, third = stage.terminal.searches
        assert len(first["searchID"]) == 32
        assert len({one["searchID"] for one in (first, second, third)}) == 3
        assert first | {"searchID": ""} == {
            "searchID": "",
            "searchResultPosition": 0,
            "maxResults": 30,
            "major": 5,
            "minor": 0,
            "startTime": "2025-02-11T09:00:00+08:00",
            "endTime": "2037-12-31T23:59:59+08:00",
            "timeReverseOrder": False,
            "picEnable": False,
            "beginSerialNo": 1,
            "endSerialNo": 3000000000,
        }
        assert [one["beginSerialNo"] for one in (second, third)] == [31, 61]
        asked = {target for _, target in stage.terminal.requests}
        assert asked == {
            "/ISAPI/System/deviceInfo",
            "/ISAPI/System/time",
            "/ISAPI/AccessControl/AcsEvent/capabilities?format=json",
            "/ISAPI/AccessControl/AcsEvent?format=json",
            "/ISAPI/Event/notification/alertStream",
        }
        assert {method for method, _ in stage.terminal.requests} == {"GET", "POST"}

    play(story, secret, records=log_of(75))


def test_only_the_last_days_are_read_at_first_contact(secret: Path) -> None:
    old = [HikRecord(1, MORNING - timedelta(days=40), 5, 75, "9000")]
    hall = play(settles, secret, records=[*old, *log_of(2, 2)], first_days=31)

    assert hall.people() == ["9001", "9002"]


def test_after_a_restart_only_what_is_new_is_asked_for(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall, records=log_of(40))
    told = len(hall.readings)

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.bodies(LogComplete)) == 2)
        assert [one["beginSerialNo"] for one in stage.terminal.searches] == [40]
        assert stage.terminal.searches[0]["startTime"] == "1970-01-01T08:00:00+08:00"

    hall.time += 60_000
    play(story, secret, hall, records=log_of(43))

    assert [one.person for one in hall.bodies(Punch)] == [str(9001 + n) for n in range(43)]
    assert told < len(hall.readings)


def test_a_catch_up_that_was_cut_off_goes_on_where_it_was(secret: Path) -> None:
    hall = Hall()

    def cut(terminal: HikTerminal) -> None:
        def stop_at_the_third(data: bytes) -> bytes:
            if len(terminal.searches) == 3:
                hall.stuck = asyncio.Event()
            return data

        terminal.mend = stop_at_the_third

    async def stuck(stage: Stage) -> None:
        await stage.hall.until(lambda: hall.stuck is not None)

    play(stuck, secret, hall, cut, log_of(100))
    assert len(hall.people()) == 60
    hall.stuck = None

    async def story(stage: Stage) -> None:
        await stage.settled()
        assert [one["beginSerialNo"] for one in stage.terminal.searches] == [61, 91]

    play(story, secret, hall, records=log_of(100))

    assert len(hall.people()) == 100


def test_punches_made_while_pages_are_read_are_read_too(secret: Path) -> None:
    def busy(terminal: HikTerminal) -> None:
        def punch(data: bytes) -> bytes:
            if b"InfoList" in data and len(terminal.records) < 70:
                terminal.punch(f"7{len(terminal.records)}", tell=False)
            return data

        terminal.mend = punch

    hall = play(settles, secret, prepare=busy, records=log_of(60))

    assert sorted(int(one.record_no) for one in hall.bodies(Punch))[:62] == list(range(1, 63))


@pytest.mark.parametrize("order", ["time", "reverse"])
@pytest.mark.parametrize("knows_numbers", [True, False])
def test_no_record_is_jumped_over_whatever_their_order(
    secret: Path, order: Any, knows_numbers: bool
) -> None:
    """The clock was set back: the newest numbers have the oldest times."""
    early = [
        HikRecord(61 + n, MORNING - timedelta(days=2, seconds=-n), 5, 75, f"8{n:03}")
        for n in range(40)
    ]

    def prepare(terminal: HikTerminal) -> None:
        terminal.order, terminal.knows_numbers = order, knows_numbers

    hall = play(settles, secret, prepare=prepare, records=[*log_of(60), *early])

    assert sorted(int(one.record_no) for one in hall.bodies(Punch)) == list(range(1, 101))


def test_records_with_impossible_dates_are_read_too(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall, records=log_of(3))
    lost = HikRecord(4, datetime(1970, 1, 1, 8, 0, 5), 5, 75, "9100")  # noqa: DTZ001

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.people()) == 4)

    play(story, secret, hall, records=[*log_of(3), lost])

    assert hall.people()[-1] == "9100"


FAULTS: dict[str, Callable[[HikTerminal], None]] = {
    "rejects offsets": lambda t: setattr(t, "rejects_offsets", True),
    "small pages": lambda t: setattr(t, "most", 10),
    "clips": lambda t: (setattr(t, "most", 16), setattr(t, "clips", True))[0],
    "no numbers": lambda t: setattr(t, "knows_numbers", False),
    "no serials": lambda t: setattr(t, "knows_serials", False),
    "no offsets told": lambda t: setattr(t, "offset", ""),
    "broken offsets": lambda t: setattr(t, "event_offset", "00:00"),
    "an object for a list": lambda t: setattr(t, "single_as_object", True),
    "names in GBK": lambda t: setattr(
        t, "mend", lambda data: data.decode().replace("UTF-8", "x").encode("gb18030")
    ),
    "trailing commas": lambda t: setattr(t, "mend", lambda data: data.replace(b"}", b",\t}")
        if data[:1] == b"{" else data),
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 31, 65])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_log_is_read_whole_in_spite_of(fault: str, count: int, secret: Path) -> None:
    hall = play(settles, secret, prepare=FAULTS[fault], records=log_of(count))

    assert sorted(hall.people()) == [str(9001 + n) for n in range(count)]
    assert {one.at for one in hall.readings if type(one.body) is Punch} >= {NINE - 3_600_000}


def test_what_a_terminal_accepts_is_remembered(secret: Path) -> None:
    hall = Hall()

    def prepare(terminal: HikTerminal) -> None:
        terminal.rejects_offsets = True

    play(settles, secret, hall, prepare, log_of(5))

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.terminal.searches)
        await stage.hall.until(lambda: stage.terminal.streams)
        assert len(stage.terminal.searches) == 1
        assert stage.terminal.searches[0]["startTime"] == "1970-01-01T08:00:00"
        assert not any("capabilities" in target for _, target in stage.terminal.requests)

    play(story, secret, hall, prepare, log_of(5))


def test_records_left_out_of_a_page_are_asked_for_again(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.short_pages = 2

        def heal(data: bytes) -> bytes:
            if b"InfoList" in data:
                terminal.short_pages = 0
            return data

        terminal.mend = heal

    hall = play(settles, secret, prepare=prepare, records=log_of(35))

    assert hall.people() == [str(9001 + n) for n in range(35)]


def test_a_log_of_which_records_are_left_out_is_not_said_to_be_complete(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.short_pages = 1

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.hall.note_of("state") == "live", 1)
        assert stage.hall.note_of("search_error") == "4 of 5 records came"

    hall = play(story, secret, prepare=prepare, records=log_of(5))

    assert len(hall.people()) == 4
    assert hall.bodies(LogComplete) == []


def test_pages_without_records_that_promise_more_come_to_an_end(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.short_pages = 30

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.hall.note_of("search_error"))
        await stage.hall.until(lambda: stage.hall.note_of("state") == "live", 1)
        assert len(stage.terminal.searches) == 5

    assert play(story, secret, prepare=prepare, records=log_of(95)).people() == []


def test_without_search_by_number_a_day_before_the_last_time_is_read_again(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.knows_numbers = False

    hall = Hall()
    old = [HikRecord(1, MORNING - timedelta(days=3), 5, 75, "9000")]
    play(settles, secret, hall, prepare, [*old, *log_of(2, 2)])

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.people()) == 4)
        assert [one["startTime"] for one in stage.terminal.searches] == [
            "2025-03-13T09:00:00+08:00"
        ]

    play(story, secret, hall, prepare, [*old, *log_of(3, 2)])


def test_a_terminal_that_stops_searching_by_number_is_not_read_from_the_beginning(
    secret: Path,
) -> None:
    hall = Hall()
    play(settles, secret, hall, records=log_of(2))

    def prepare(terminal: HikTerminal) -> None:
        terminal.knows_numbers = False

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.people()) == 3)
        assert {
            one["startTime"] for one in stage.terminal.searches if "beginSerialNo" not in one
        } == {"2025-03-13T09:00:00+08:00"}

    play(story, secret, hall, prepare, log_of(3))


def test_what_the_stream_tells_during_a_search_is_not_forgotten_by_it(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        terminal, hall = stage.terminal, stage.hall
        await stage.settled()
        terminal.hold = asyncio.Event()
        await hall.until(lambda: len(terminal.searches) == 2, 5)
        terminal.punch("9101")
        await hall.until(lambda: "9101" in hall.people())
        terminal.hold.set()
        terminal.hold = None
        await hall.until(lambda: len(hall.bodies(LogComplete)) == 2, 5)
        terminal.punch("9102")
        await hall.until(lambda: "9102" in hall.people())
        assert (hall.mark("gate", "place") or "").startswith("5 5 ")
        searches = len(terminal.searches)
        await hall.pass_seconds(5)
        assert len(terminal.searches) == searches

    play(story, secret, records=log_of(3))


def test_a_cleared_log_begins_anew(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.wipe()
        stage.terminal.punch("9050", tell=False)
        await stage.hall.until(lambda: "9050" in stage.hall.people(), 5)

    hall = play(story, secret, records=log_of(40))

    assert hall.events() == ["log_cleared"]
    assert hall.bodies(DeviceEvent)[0].detail == "serialNo 40 -> 1"
    assert hall.marks[("gate", "place")].startswith("1 1 ")


def test_a_cleared_log_that_grew_past_the_old_numbers_is_read_whole(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall, records=log_of(5))
    anew = [
        HikRecord(1 + n, MORNING + timedelta(minutes=30, seconds=n), 5, 75, str(9101 + n))
        for n in range(20)
    ]

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.people()) == 25)

    play(story, secret, hall, records=anew)

    assert set(hall.people()) == {str(9001 + n) for n in range(5)} | {
        str(9101 + n) for n in range(20)
    }


def test_nothing_is_said_to_be_complete_that_was_not_stored(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.hall.disk_full = True
        stage.terminal.punch("9050", tell=False)
        stage.terminal.punch("9051")
        await stage.hall.until(lambda: "stored" in str(stage.hall.note_of("last_error")), 1)
        assert len(stage.hall.bodies(LogComplete)) == 1
        stage.hall.disk_full = False
        await stage.hall.until(lambda: len(stage.hall.people()) == 4, 1)
        await stage.hall.until(lambda: len(stage.hall.bodies(LogComplete)) == 2, 1)

    hall = play(story, secret, records=log_of(2))

    assert sorted(hall.people()) == ["9001", "9002", "9050", "9051"]


def test_a_busy_terminal_is_asked_again_soon_and_is_not_lost(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.busy = 2

    async def story(stage: Stage) -> None:
        await stage.hall.until(stage.caught_up, 1)

    hall = play(story, secret, prepare=prepare, records=log_of(3))

    assert len(hall.people()) == 3
    assert hall.note_of("searches_failed") == 2
    assert hall.losses == []


def test_a_page_that_is_unreadable_is_journalled_and_asked_for_again(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        def break_once(data: bytes) -> bytes:
            if b"InfoList" in data:
                terminal.mend = bytes
                return data[:-9]
            return data

        terminal.mend = break_once

    async def story(stage: Stage) -> None:
        await stage.hall.until(stage.caught_up, 1)

    hall = play(story, secret, prepare=prepare, records=log_of(3))

    assert len(hall.people()) == 3
    assert len(hall.bodies(Unreadable)) == 1
    raw = next(reading.raw for reading in hall.readings if type(reading.body) is Unreadable)
    assert "张三".encode() not in raw
    assert b"3141592653" not in raw


# -- who it is, and its password


@pytest.mark.parametrize(
    "prepare",
    [
        {},
        {"qop": None},
        {"opaque": None},
        {"algorithm": None},
        {"algorithm": '"MD5"'},
        {"algorithm": "SHA-256"},
        {"realm": "DS (hall 1), east"},
        {"basic_too": True},
        {"nonce_uses": 1},
        {"nonce_uses": 2, "says_stale": False},
    ],
)
def test_every_kind_of_digest_is_answered(secret: Path, prepare: dict[str, Any]) -> None:
    def change(terminal: HikTerminal) -> None:
        for name, value in prepare.items():
            setattr(terminal, name, value)

    async def story(stage: Stage) -> None:
        await stage.settled()
        assert stage.terminal.attempts == 0
        assert stage.terminal.reused_counts == 0
        for counts in stage.terminal.nonce_counts.values():
            assert stage.terminal.qop is None or counts == sorted(set(counts))

    assert len(play(story, secret, prepare=change, records=log_of(65)).people()) == 65


def test_a_stream_and_a_request_never_share_a_nonce_and_are_two_connections(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        assert len(stage.terminal.nonce_counts) == 2
        assert stage.terminal.open_most <= 2

    play(story, secret, records=log_of(3))


def test_a_wrong_password_is_tried_once_and_not_again_for_ten_minutes(secret: Path) -> None:
    hall = Hall()
    secret.write_text("wrong")

    async def refused(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert "refused user and password" in str(error)
        assert stage.terminal.attempts == 1
        for _ in range(5):
            await stage.begin()
            assert isinstance(await stage.failure(), DeviceRefused)
            await hall.pass_seconds(100)
        assert stage.terminal.attempts == 1
        await hall.pass_seconds(101)
        await stage.begin()
        await stage.failure()
        assert stage.terminal.attempts == 2
        secret.write_text("Abc12345")
        await stage.begin()
        await stage.settled()

    play(refused, secret, hall)

    assert hall.marks[("gate", "refused")] == ""


def test_a_wrong_password_is_not_tried_again_after_a_restart(secret: Path) -> None:
    hall = Hall()
    secret.write_text("wrong")

    async def refused(stage: Stage) -> None:
        assert isinstance(await stage.failure(), DeviceRefused)

    async def not_asked(stage: Stage) -> None:
        assert "to avoid a lock-out" in str(await stage.failure())
        assert stage.terminal.requests == []

    play(refused, secret, hall)
    play(not_asked, secret, hall)


def test_a_locked_account_is_left_alone_for_as_long_as_it_says(secret: Path) -> None:
    hall = Hall()

    def prepare(terminal: HikTerminal) -> None:
        terminal.wrong = 5

    async def locked(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert "locked" in str(error)
        assert stage.terminal.attempts == 0

    play(locked, secret, hall, prepare)

    assert hall.marks[("gate", "refused")].startswith(str(NINE + 1_790_000))


def test_a_password_file_that_cannot_be_read_is_told(secret: Path) -> None:
    secret.unlink()

    async def story(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert "password_file" in str(error)

    play(story, secret)


def test_another_terminal_at_the_address_is_refused(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert f"has serial number {SERIAL}, expected DS-OTHER" in str(error)

    assert play(story, secret, serial="DS-OTHER", records=log_of(3)).people() == []


def test_a_terminal_that_was_replaced_begins_with_its_own_log(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall, records=log_of(40))

    def prepare(terminal: HikTerminal) -> None:
        terminal.serial = "DS-NEW"

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(hall.people()) == 45)

    play(story, secret, hall, prepare, log_of(5))

    assert hall.events() == ["device_replaced"]
    assert {reading.serial for reading in hall.readings} == {SERIAL, "DS-NEW"}


def test_a_new_mac_is_told(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall)

    def prepare(terminal: HikTerminal) -> None:
        terminal.mac = "24:28:fd:00:00:99"

    async def story(stage: Stage) -> None:
        await stage.hall.until(hall.events)

    play(story, secret, hall, prepare)

    assert hall.events() == ["mac_changed"]


def test_nobody_there_is_a_loss(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.terminal.stop()
        await stage.begin()
        error = await stage.failure()
        assert isinstance(error, DeviceLost)
        assert "no exchange with http://127.0.0.1" in str(error)

    play(story, secret)


def test_a_terminal_that_never_answers_is_a_loss(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isapi, "ANSWER_SECONDS", 0.2)

    def prepare(terminal: HikTerminal) -> None:
        terminal.silent = True

    async def story(stage: Stage) -> None:
        assert isinstance(await stage.failure(), DeviceLost)

    play(story, secret, prepare=prepare)


# -- its clock


def test_the_clock_is_read_and_followed(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        await stage.hall.until(lambda: stage.hall.note_of("clock_offset_s") == 40)
        stage.terminal.clock.offset = -200
        await stage.hall.until(lambda: len(stage.hall.bodies(ClockCheck)) == 2, 30)

    def prepare(terminal: HikTerminal) -> None:
        terminal.clock.offset = 40

    hall = play(story, secret, prepare=prepare)
    first, second = (one for one in hall.readings if type(one.body) is ClockCheck)

    assert first.at == NINE + 40_000
    assert second.at < NINE + 60_000
    assert hall.note_of("time_zone") == "CST-8:00:00"


def test_a_wrong_zone_shows_as_hours(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.offset = "+00:00"

    hall = play(settles, secret, prepare=prepare)

    assert hall.note_of("clock_offset_s") == 8 * 3600


# -- the stream


def test_a_punch_is_told_at_once_and_live(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        searches = len(stage.terminal.searches)
        stage.terminal.punch("9001", status="checkIn")
        await stage.hall.until(lambda: len(stage.hall.people()) == 4)
        assert len(stage.terminal.searches) == searches
        assert stage.hall.mark("gate", "place") == f"4 4 {NINE} {SERIAL}"

    hall = play(story, secret, records=log_of(3))

    assert hall.bodies(Punch)[-1] == Punch("9001", 75, 0, live=True, record_no="4")


STREAM_FAULTS: dict[str, dict[str, Any]] = {
    "byte by byte": {"piece": 1},
    "in sevens": {"piece": 7},
    "chunked": {"chunked": True},
    "LF alone": {"newline": "\n"},
    "blank lines": {"blank_lines": 3},
    "no length": {"tells_length": False},
    "length too large": {"length_error": 3},
    "length too small": {"length_error": -3},
    "pictures": {"pictures": True},
    "brackets": {"boundary": "<boundary>"},
    "dashes": {"boundary": "--myboundary"},
    "no boundary told": {"content_type": "multipart/mixed"},
    "quoted boundary": {"content_type": 'multipart/mixed; boundary="MIME_boundary"'},
}


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_the_stream_is_understood_in_spite_of(fault: str, secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        for name, value in STREAM_FAULTS[fault].items():
            setattr(terminal, name, value)

    async def story(stage: Stage) -> None:
        await stage.settled()
        for n in range(4):
            stage.terminal.punch(str(9101 + n))
            stage.terminal.heartbeat()
        await stage.hall.until(lambda: len(stage.hall.people()) == 4)

    hall = play(story, secret, prepare=prepare)

    assert all(one.live for one in hall.bodies(Punch))
    assert hall.bodies(Unreadable) == []


def test_what_is_told_twice_is_one_reading(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        record = stage.terminal.punch("77001")
        for _ in range(5):
            told = stage.terminal.event(record, True) | {"activePostCount": 3}
            stage.terminal.send(json.dumps(told).encode())
        stage.terminal.punch("77002")
        await stage.hall.until(lambda: "77002" in stage.hall.people())
        await stage.hall.pass_seconds(3)
        for n in range(3):
            stage.terminal.punch(f"8800{n}")
            await stage.hall.until(lambda n=n: f"8800{n}" in stage.hall.people())
        assert len(stage.terminal.searches) == 1

    hall = play(story, secret, records=log_of(1))

    assert hall.people() == ["9001", "77001", "77002", "88000", "88001", "88002"]


def test_a_gap_is_looked_into(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("9101", tell=False)
        stage.terminal.punch("9102")
        await stage.hall.until(lambda: len(stage.hall.people()) == 4, 1)
        await stage.hall.until(lambda: (stage.hall.mark("gate", "place") or "").startswith("4 "), 1)

    hall = play(story, secret, records=log_of(2))

    assert sorted(hall.people()) == ["9001", "9002", "9101", "9102"]


def test_doors_between_punches_are_no_gap(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        searches = len(stage.terminal.searches)
        for n in range(3):
            stage.terminal.punch(str(9101 + n))
            for minor in (21, 25, 26, 22):
                stage.terminal.punch("", minor)
        await stage.hall.until(lambda: (stage.hall.mark("gate", "place") or "").startswith("16 "))
        assert len(stage.terminal.searches) == searches

    hall = play(story, secret, records=log_of(1))

    assert hall.events() == []


def test_refusals_and_alarms_are_events_and_no_punches(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("9001", 8)
        stage.terminal.punch("9001", 76)
        stage.terminal.punch("", 27)
        stage.terminal.punch("", 1028, major=1)
        stage.terminal.punch("", 39, major=2)
        stage.terminal.punch("", 123, major=3)
        stage.terminal.punch("", 112, major=3)
        await stage.hall.until(lambda: stage.hall.note_of("remote_logins") == 1)

    hall = play(story, secret, records=log_of(1))

    assert hall.people() == ["9001"]
    assert hall.events() == ["refused", "refused", "door_forced", "alarm", "network_down", "reboot"]


@pytest.mark.parametrize("current", [None, False])
def test_what_is_not_said_to_be_current_is_not_live(secret: Path, current: bool | None) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.current = current

    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("9001")
        await stage.hall.until(stage.hall.people)

    assert [one.live for one in play(story, secret, prepare=prepare).bodies(Punch)] == [False]


def test_a_current_event_that_was_long_under_way_is_not_live(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("9001", at=stage.hall.wall() - timedelta(minutes=5))
        stage.terminal.punch("9002", at=datetime(1970, 1, 1, 8, 0, 0))  # noqa: DTZ001
        await stage.hall.until(lambda: len(stage.hall.people()) == 2)

    hall = play(story, secret)

    # 1970 is a fault of terminals whose clock is right: the judgement takes our clock.
    assert [(one.person, one.live) for one in hall.bodies(Punch)] == [
        ("9001", False),
        ("9002", True),
    ]
    assert [one.at for one in hall.readings if type(one.body) is Punch][1] == 0


def test_a_replay_is_not_live_and_a_stream_that_only_replays_is_left(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.replays = -1
        terminal.replay_pause = 0.005

    async def story(stage: Stage) -> None:
        terminal, hall = stage.terminal, stage.hall
        await stage.settled()
        terminal.punch("77001")
        await hall.until(lambda: hall.note_of("polling_because"), 1)
        await hall.until(lambda: "77001" in hall.people(), 1)
        streams = sum("alertStream" in target for _, target in terminal.requests)
        terminal.punch("77002")
        before = hall.now()
        await hall.until(lambda: "77002" in hall.people(), 0.5)
        assert hall.now() - before < 20_000
        await hall.until(lambda: hall.note_of("state") == "polling", 0.5)
        assert sum("alertStream" in target for _, target in terminal.requests) == streams

    hall = play(story, secret, prepare=prepare, records=log_of(2000))

    assert not any(one.live for one in hall.bodies(Punch))
    assert len(hall.people()) == len(set(hall.people())) == 2002


def test_a_second_subscriber_is_polled(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.subscribers_limit = 0

    async def story(stage: Stage) -> None:
        terminal, hall = stage.terminal, stage.hall
        await hall.until(stage.caught_up)
        await hall.until(lambda: "deployExceedMax" in str(hall.note_of("polling_because")))
        terminal.punch("9001")
        await hall.until(hall.people, 1)
        terminal.subscribers_limit = 1
        await hall.until(lambda: terminal.streams, 10)

    play(story, secret, prepare=prepare)


def test_a_terminal_without_a_stream_is_polled(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.streamable = False

    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("9001")
        await stage.hall.until(stage.hall.people, 1)

    play(story, secret, prepare=prepare)


def test_a_terminal_without_a_search_is_listened_to(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.searchable = False
        terminal.replays = 5

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.terminal.streams)
        stage.terminal.punch("9100")
        await stage.hall.until(lambda: "9100" in stage.hall.people())
        stage.terminal.cut_streams()
        await stage.hall.until(
            lambda: stage.terminal.told["parts"] == 1 and not stage.terminal.streams
        )
        await stage.hall.until(lambda: stage.terminal.streams, 1)

    hall = play(story, secret, prepare=prepare, records=log_of(5))

    # Nothing is known to be complete, and the replay is the same again.
    assert hall.bodies(LogComplete) == []
    assert hall.people() == ["9001", "9002", "9003", "9004", "9005", "9100"]


def test_a_terminal_that_can_do_neither_is_refused(secret: Path) -> None:
    def prepare(terminal: HikTerminal) -> None:
        terminal.searchable = terminal.streamable = False

    async def story(stage: Stage) -> None:
        with pytest.raises(DeviceRefused, match="neither AcsEvent nor alertStream"):
            await stage.hall.until(stage.caught_up, 1)

    play(story, secret, prepare=prepare, stream=False)


def test_a_stream_that_closes_is_opened_again_and_nothing_is_missed(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hikvision, "SHORT_STREAM", 0.0)

    async def story(stage: Stage) -> None:
        terminal = stage.terminal
        await stage.settled()
        terminal.heartbeat()
        for n in range(3):
            terminal.cut_streams()
            terminal.punch(f"910{n}", tell=False)
            await stage.hall.until(lambda n=n: f"910{n}" in stage.hall.people(), 0.5)
            await stage.hall.until(lambda: terminal.streams, 0.5)
            terminal.heartbeat()
        assert terminal.attempts == 0

    hall = play(story, secret)

    assert hall.people() == ["9100", "9101", "9102"]
    assert hall.losses == []


def test_a_stream_that_sends_nothing_is_opened_ever_more_rarely(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        terminal, hall = stage.terminal, stage.hall
        await stage.settled()
        opened: list[int] = []
        for _ in range(5):
            await hall.until(lambda: terminal.streams, 0.25)
            opened.append(hall.now())
            terminal.cut_streams()
            await hall.until(lambda: not terminal.streams)
        pauses = [later - sooner for sooner, later in itertools.pairwise(opened)]
        assert pauses[0] < 3_000
        assert pauses[3] >= 7_000

    play(story, secret)


def test_a_silent_stream_of_a_living_terminal_is_kept(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hikvision, "SILENCE", 0.05)
    monkeypatch.setattr(isapi, "ANSWER_SECONDS", 0.4)

    async def story(stage: Stage) -> None:
        terminal = stage.terminal
        await stage.settled()

        def probes() -> int:
            return sum("deviceInfo" in target for _, target in terminal.requests)

        before = probes()
        await stage.hall.until(lambda: probes() >= before + 16)
        assert sum("alertStream" in target for _, target in terminal.requests) == 2
        # Nothing came over it though there was something to tell: it is dead.
        opened = sum("alertStream" in target for _, target in terminal.requests)
        terminal.punch("9001", tell=False)
        await stage.hall.until(
            lambda: sum("alertStream" in target for _, target in terminal.requests) > opened, 0.5
        )

    assert play(story, secret, records=log_of(1)).people() == ["9001", "9001"]


def test_a_silent_stream_of_a_dead_terminal_is_a_loss(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hikvision, "SILENCE", 0.05)
    monkeypatch.setattr(isapi, "ANSWER_SECONDS", 0.2)

    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.silent = True
        assert isinstance(await stage.failure(), DeviceLost)

    play(story, secret)


def test_garbage_on_the_stream_is_journalled_a_few_times_and_looked_into(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        for n in range(50):
            stage.terminal.send(b'{"AccessControllerEvent":{"name":"x","n":%d}}' % n)
        stage.terminal.send(b'{"broken": ')
        stage.terminal.punch("9001")
        await stage.hall.until(stage.hall.people)
        assert stage.hall.note_of("decode_errors") == 51

    hall = play(story, secret)

    assert len(hall.bodies(Unreadable)) == 20
    assert all(b'"x"' not in reading.raw for reading in hall.readings)


def test_the_first_event_after_silence_is_followed_by_a_look_at_the_log(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.terminal.punch("77001")
        await stage.hall.until(lambda: "77001" in stage.hall.people())
        await stage.hall.pass_seconds(2)
        await stage.hall.pass_seconds(400)
        assert len(stage.terminal.searches) == 1
        stage.terminal.punch("77002")
        await stage.hall.until(lambda: len(stage.terminal.searches) == 2)

    play(story, secret, records=log_of(1))


# -- https


@pytest.fixture
def certificate() -> tuple[ssl.SSLContext, str]:
    pem = Path(__file__).parents[1] / "frames" / "hikvision" / "terminal.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    der = ssl.PEM_cert_to_DER_cert(pem.read_text()[pem.read_text().index("-----BEGIN CERT") :])
    return context, sha256(der).hexdigest()


def test_the_first_certificate_is_remembered_and_no_other_taken(
    secret: Path, certificate: tuple[ssl.SSLContext, str]
) -> None:
    context, fingerprint = certificate
    hall = play(settles, secret, records=log_of(3), tls=context, scheme="https")

    assert len(hall.people()) == 3
    assert hall.marks[("gate", "certificate")] == fingerprint

    async def story(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert fingerprint in str(error)
        assert stage.terminal.requests == []

    hall.marks[("gate", "certificate")] = "00" * 32
    play(story, secret, hall, tls=context, scheme="https")
    play(story, secret, tls=context, scheme="https", certificate_sha256="ab" * 32)
    pinned = ":".join(fingerprint[n : n + 2] for n in range(0, 64, 2)).upper()
    play(settles, secret, tls=context, scheme="https", certificate_sha256=pinned)


def test_a_redirect_to_https_is_followed_once_and_remembered(
    secret: Path, certificate: tuple[ssl.SSLContext, str]
) -> None:
    async def story(stage: Stage) -> None:
        await stage.failure()
        hall = stage.hall
        there = HikTerminal(SERIAL, clock=hall.wall, records=log_of(3), tls=certificate[0])
        port = await there.start()
        try:
            stage.terminal.redirect = f"https://127.0.0.1:{port}"
            for times in (1, 2):
                await stage.begin()
                await hall.until(
                    lambda times=times: (
                        sum("alertStream" in target for _, target in there.requests) == 2 * times
                    )
                )
                await stage.end()
            assert len(stage.terminal.requests) == 2
            assert hall.marks[("gate", "base")].endswith(f" https://127.0.0.1:{port}")
        finally:
            await there.stop()

    def prepare(terminal: HikTerminal) -> None:
        terminal.redirect = "https://192.0.2.1"

    play(story, secret, prepare=prepare)


# -- what terminals post


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s3cret-path\n")
    return path


def posting(
    story: Callable[[Stage, tuple[str, int]], Awaitable[None]],
    secret: Path,
    token: Path,
    **how: Any,
) -> Hall:
    async def whole(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.driver.address)
        assert stage.driver.address
        await stage.settled()
        await story(stage, stage.driver.address)

    port = free_port()
    return play(whole, secret, listen_port=port, token_file=str(token), stream=False, **how)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("form", ["json", "xml", "multipart"])
def test_a_posted_punch_is_stored_and_then_answered(secret: Path, token: Path, form: Any) -> None:
    async def story(stage: Stage, address: tuple[str, int]) -> None:
        record = stage.terminal.punch("9001", status="checkOut")
        stage.hall.stuck = asyncio.Event()
        posted = asyncio.create_task(
            stage.terminal.notify(record, address, "/hik/s3cret-path", form, True)
        )
        done, _ = await asyncio.wait({posted}, timeout=0.1)
        assert not done
        stage.hall.stuck.set()
        assert await posted == 200
        stage.hall.stuck = None

    hall = posting(story, secret, token)

    assert hall.bodies(Punch) == [Punch("9001", 75, 1, live=True, record_no="1")]


def test_a_post_and_the_log_tell_the_same_punch(secret: Path, token: Path) -> None:
    async def story(stage: Stage, address: tuple[str, int]) -> None:
        record = stage.terminal.punch("9001")
        for form in ("json", "xml", "multipart"):
            assert await stage.terminal.notify(record, address, "/hik/s3cret-path", form) == 200
        stage.terminal.punch("9002")
        await stage.hall.until(lambda: "9002" in stage.hall.people(), 1)

    hall = posting(story, secret, token)

    assert hall.people() == ["9001", "9002"]
    assert not any(one.live for one in hall.bodies(Punch))


def test_a_post_that_could_not_be_stored_is_not_acknowledged(secret: Path, token: Path) -> None:
    async def story(stage: Stage, address: tuple[str, int]) -> None:
        record = stage.terminal.punch("9001")
        stage.hall.disk_full = True
        assert await stage.terminal.notify(record, address, "/hik/s3cret-path") == 503
        stage.hall.disk_full = False
        assert await stage.terminal.notify(record, address, "/hik/s3cret-path") == 200

    assert posting(story, secret, token).people() == ["9001"]


def test_posts_of_strangers_probes_and_nonsense(secret: Path, token: Path) -> None:
    async def story(stage: Stage, address: tuple[str, int]) -> None:
        post = stage.terminal.post
        record = stage.terminal.punch("9001", tell=False)
        assert await stage.terminal.notify(record, address, "/hik/guess") == 404
        assert stage.hall.people() == []
        path = "/hik/s3cret-path"
        assert await post(address, path, "", b"", "GET") == 200
        assert await post(address, path, "", b"", "HEAD") == 200
        assert await post(address, path, "", b"", "PUT") == 405
        assert await post(address, path, "application/json", b"what") == 200
        assert await post(address, path, "application/json", b"") == 200
        assert await post(address, path, "application/json", b"x" * 300_000) in (0, 413)
        beat = b'{"eventType":"heartBeat"}'
        assert await post(address, path, "application/json", beat) == 200

    hall = posting(story, secret, token)

    assert len(hall.bodies(Unreadable)) == 1
    assert hall.note_of("unknown_posts", hikvision.LISTENER_ID) == 1


def test_a_terminal_that_still_posts_is_not_lost(secret: Path, token: Path) -> None:
    async def story(stage: Stage, address: tuple[str, int]) -> None:
        record = stage.terminal.punch("9001", tell=False)
        assert await stage.terminal.notify(record, address, "/hik/s3cret-path") == 200
        await stage.terminal.stop()
        await stage.hall.until(lambda: "no exchange" in str(stage.hall.note_of("last_error")), 1)
        assert stage.hall.losses == []
        await stage.hall.until(lambda: stage.hall.losses, 10)
        assert await stage.terminal.notify(record, address, "/hik/s3cret-path") == 200

    posting(story, secret, token)


def test_terminals_of_one_port_are_told_apart(secret: Path, tmp_path: Path) -> None:
    async def whole() -> Hall:
        hall = Hall()
        port = free_port()
        terminals = [HikTerminal(f"DS-{n}", clock=hall.wall) for n in range(3)]
        specs = []
        for n, terminal in enumerate(terminals):
            file = tmp_path / f"token{n}"
            file.write_text(f"token-{n}")
            specs.append(
                Spec(
                    f"gate-{n}",
                    HikvisionOptions(
                        "127.0.0.1",
                        str(secret),
                        port=await terminal.start(),
                        listen_port=port,
                        token_file=str(file),
                    ),
                )
            )
        await terminals[2].stop()
        assert len({spec.options.link() for spec in specs}) == 1
        task = asyncio.create_task(Hikvision(specs).run(hall))
        try:
            await hall.until(lambda: len(hall.bodies(LogComplete)) == 2)
            for n in (0, 1):
                record = terminals[n].punch(str(9001 + n))
                assert (
                    await terminals[n].notify(record, ("127.0.0.1", port), f"/hik/token-{n}") == 200
                )
            # Not known by its serial yet: its events could not be told from those of the log.
            record = terminals[2].punch("9003")
            assert await terminals[2].notify(record, ("127.0.0.1", port), "/hik/token-2") == 503
            await hall.until(lambda: hall.losses)
            assert {device for device, _ in hall.losses} == {"gate-2"}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for terminal in terminals:
                await terminal.stop()
        return hall

    hall = asyncio.run(whole())

    punches = [reading for reading in hall.readings if type(reading.body) is Punch]
    assert {(one.device, one.serial) for one in punches} == {("gate-0", "DS-0"), ("gate-1", "DS-1")}


def test_terminals_that_cannot_share_are_refused() -> None:
    one = HikvisionOptions("192.0.2.1", "/p")
    two = HikvisionOptions("192.0.2.2", "/p", listen_port=8090, token_file="/t")

    with pytest.raises(ValueError, match="address"):
        Hikvision([Spec("a", one), Spec("b", one)])
    with pytest.raises(ValueError, match="token_file /t is given to 2"):
        Hikvision(
            [
                Spec("a", two),
                Spec("b", HikvisionOptions("192.0.2.3", "/p", listen_port=8090, token_file="/t")),
            ]
        )
