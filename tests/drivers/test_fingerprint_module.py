"""The driver against an emulated module, on pseudo-terminals and sockets."""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import serial

from drivers import fingerprint
from drivers.base import DeviceLost, DeviceRefused, Order
from drivers.emulators.fingerprint import FingerprintModule
from drivers.fingerprint import Fingerprint, FingerprintOptions
from rules.model import (
    HOUR,
    MINUTE,
    Body,
    DeviceEvent,
    DeviceInfo,
    Instant,
    LogComplete,
    Punch,
    Reading,
    Unreadable,
    reading_id,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
NINE = 1_741_914_000_000  # 2025-03-14 09:00:00 +08:00
PAGES = {"5": "9001", "6": "9001", "17": "9002"}
GET_IMAGE, FEATURES, SEARCH, VERIFY, IDENTIFY, CANCEL = 0x01, 0x02, 0x04, 0x13, 0x32, 0x30
TEMPLATES, INDEX, CHECK_SENSOR = 0x1D, 0x1F, 0x36
HARMLESS = {0x01, 0x02, 0x04, 0x0F, 0x13, 0x1D, 0x1F, 0x30, 0x32, 0x36}


@dataclass
class Box:
    """A device of the settings."""

    options: FingerprintOptions
    id: str = "finger-1"
    window: str = ""


@dataclass
class Hall:
    """What the daemon lends to a driver, with a journal in memory and a clock that flies: sleeping
    takes no time, but lets it pass."""

    time: Instant = NINE
    zone: ZoneInfo = SHANGHAI
    journal: dict[bytes, Reading] = field(default_factory=dict)
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    links: list[tuple[bool, Instant, str]] = field(default_factory=list)
    """Whenever the device came up or was lost, as the supervisor would tell it."""
    contact_at: Instant = 0
    broken: bool = False
    """The disk is full."""
    slept: list[float] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("database or disk is full")
        known = len(self.journal)
        for reading in readings:
            assert reading.device == "finger-1"
            assert reading_id(reading) not in self.journal
            self.journal[reading_id(reading)] = reading
        self.marks.update(marks or {})
        self._changed.set()
        return len(self.journal) - known

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> Instant:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += round(seconds * 1000)
        self.slept.append(seconds)
        self._changed.set()
        await asyncio.sleep(0)

    def contact(self, device: str) -> None:
        assert device == "finger-1"
        self.contact_at = self.time
        if not self.links or not self.links[-1][0]:
            self.links.append((True, self.time, ""))
        self._changed.set()

    def lost(self, device: str, reason: str) -> None:
        assert device == "finger-1"
        if not self.links or self.links[-1][0]:
            self.links.append((False, self.contact_at or self.time, reason))
        self._changed.set()

    def note(self, device: str, **facts: Any) -> None:
        assert device == "finger-1"
        self.facts.update(facts)
        if "state" in facts and self.states[-1:] != [facts["state"]]:
            self.states.append(facts["state"])
        self._changed.set()

    async def order(self) -> tuple[str, Order]:
        raise AssertionError("there is nothing to order")

    def readings(self, kind: type[Body]) -> list[Reading]:
        return [reading for reading in self.journal.values() if type(reading.body) is kind]

    def bodies(self, kind: type[Body]) -> list[Any]:
        return [reading.body for reading in self.readings(kind)]

    @property
    def people(self) -> list[str]:
        return [punch.person for punch in self.bodies(Punch)]

    @property
    def events(self) -> list[str]:
        return [event.name for event in self.bodies(DeviceEvent)]

    async def until(self, said: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not said():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def plugged(*pages: int, **settings: Any) -> AsyncIterator[FingerprintModule]:
    module = FingerprintModule(pages or (5, 6, 17), **settings)
    await module.start()
    try:
        yield module
    finally:
        await module.stop()
        assert module.forbidden == []
        assert set(module.asked) <= HARMLESS
        assert module.rejected == 0


def driver_at(port: str, **options: Any) -> Fingerprint:
    return Fingerprint([Box(FingerprintOptions(port, **{"pages": PAGES, **options}))])


@asynccontextmanager
async def watching(
    hall: Hall, module: FingerprintModule, driver: Fingerprint | None = None, **options: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """The driver at work; at the end it is stopped as the daemon stops it."""
    driver = driver or driver_at(module.port, **options)
    hall.facts.pop("state", None)
    task = asyncio.create_task(driver.run(hall))
    ready = asyncio.create_task(hall.until(lambda: hall.facts.get("state") == "ready"))
    try:
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        async with asyncio.timeout(20):
            yield task
    finally:
        ready.cancel()
        task.cancel()
        await asyncio.gather(task, ready, return_exceptions=True)


async def lifted(module: FingerprintModule) -> None:
    """The finger is away for long enough to be noticed."""
    module.lift()
    looks = module.empty_looks
    await module.until(lambda: module.empty_looks >= looks + 2)


async def ends(hall: Hall, driver: Fingerprint) -> str:
    """Why the driver gave up."""
    async with asyncio.timeout(20):
        with pytest.raises(DeviceLost) as lost:
            await driver.run(hall)
    return str(lost.value)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs of the wire, a tenth of what a real module needs."""
    monkeypatch.setattr(fingerprint, "PROBE_PATIENCE", 0.1)
    monkeypatch.setattr(fingerprint, "USUAL_PATIENCE", 0.1)
    monkeypatch.setattr(fingerprint, "PATIENCE", {})
    monkeypatch.setattr(fingerprint, "SILENCE", 0.1)
    monkeypatch.setattr(fingerprint, "STALL", 0.02)


# Touches -------------------------------------------------------------------------------------


def test_a_touch_is_a_punch_of_the_person_behind_the_page() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            began = hall.time
            await module.touch(5)
            await module.touch(17)
            await module.touch(6)
            ended = hall.time

        first, second, third = hall.readings(Punch)
        assert hall.people == ["9001", "9002", "9001"]
        assert first.body == Punch("9001", live=True)
        assert began <= first.at < second.at < third.at <= ended
        assert [told.raw.hex(" ") for told in (first, second)] == ["00 00 05", "00 00 11"]
        assert hall.links[0][0]
        assert module.spans == [(0, 200)] * 3
        assert hall.facts["attempts"] == 3
        assert module.asked[VERIFY] >= 1

    run(test)


def test_the_score_of_a_match_leaves_no_trace() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.score = 0x4D4D
            await module.touch(5)

        assert "4d4d" not in "".join(reading.raw.hex() for reading in hall.journal.values())
        assert str(0x4D4D) not in f"{hall.journal} {hall.facts} {hall.marks}"

    run(test)


def test_a_finger_that_rests_is_one_touch() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.place(5)
            await hall.until(lambda: hall.people)
            looks = module.asked[GET_IMAGE]
            await module.until(lambda: module.asked[GET_IMAGE] >= looks + 50)
            resting = list(hall.people)
            await lifted(module)
            await module.touch(5)

        assert resting == ["9001"]
        assert hall.people == ["9001", "9001"]

    run(test)


def test_one_look_without_a_finger_does_not_end_a_touch() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.place(5)
            await hall.until(lambda: hall.people)
            for _ in range(3):
                module.codes[GET_IMAGE] = [0x02, 0x00]
                looks = module.asked[GET_IMAGE]
                await module.until(lambda looks=looks: module.asked[GET_IMAGE] > looks + 3)

        assert hall.people == ["9001"]

    run(test)


def test_a_finger_nobody_knows_is_an_event() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(5, 99) as module, watching(hall, module):
            module.stale_page = 5
            await module.touch(None)
            await module.touch(99)

        assert hall.people == []
        assert hall.bodies(DeviceEvent) == [
            DeviceEvent("unknown_person", 9),
            DeviceEvent("unknown_page", 99, "page 99 has no person in the settings"),
        ]
        assert hall.facts["pages_without_person"] == "99"
        assert hall.facts["people_without_page"] == "6, 17"

    run(test)


def test_many_unknown_fingers_do_not_flood_the_journal() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module, poll_s=0.05):
            for _ in range(40):
                await module.touch(None)
            minutes = (hall.time - NINE) / MINUTE
            await module.touch(5)

        assert minutes < 1
        assert hall.events == ["unknown_person"] * 12
        assert hall.facts["unknown_fingers"] == 40
        assert hall.people == ["9001"]

    run(test)


def test_a_poor_image_is_tried_again_while_the_finger_rests() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.codes = {GET_IMAGE: [0x03, 0x00], FEATURES: [0x06, 0x07, 0x15, 0x17, 0x00]}
            await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["poor_images"] == 5
        assert hall.facts["attempts"] == 6
        assert hall.events == []

    run(test)


def test_dirty_glass_is_told_once() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            for _ in range(30):
                module.codes[FEATURES] = [0x06, 0x00]
                await module.touch(5)

        assert hall.events == ["clean_sensor"]
        assert hall.bodies(DeviceEvent)[0].detail == "25 of 50 images"
        assert len(hall.people) == 30

    run(test)


def test_a_covered_sensor_is_no_place_to_punch_from_the_moment_it_was_covered() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            await module.until(lambda: module.empty_looks > 1)
            module.place(None)
            await hall.until(lambda: "sensor_covered" in hall.events)
            await hall.until(lambda: len(hall.links) == 2)
            covered = hall.time
            looks = module.asked[GET_IMAGE]
            await module.until(lambda: module.asked[GET_IMAGE] > looks + 400)
            await lifted(module)
            await hall.until(lambda: len(hall.links) == 3)
            await module.touch(5)

        assert hall.events == ["unknown_person", "sensor_covered"]
        assert [up for up, _, _ in hall.links] == [True, False, True]
        assert 59_000 < covered - hall.links[1][1] < 63_000
        assert "sensor is covered" in hall.links[1][2]
        assert hall.people == ["9001"]

    run(test)


def test_poor_images_of_fingers_that_come_and_go_do_not_cover_the_sensor() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.codes[FEATURES] = [0x06]
            for _ in range(40):
                looks = module.asked[FEATURES]
                module.place(5)
                await module.until(lambda looks=looks: module.asked[FEATURES] > looks + 8)
                await lifted(module)

        assert hall.time - NINE > MINUTE
        assert hall.events == ["clean_sensor"]
        assert [up for up, _, _ in hall.links] == [True]

    run(test)


# What is told beside touches -----------------------------------------------------------------


def test_a_module_is_described_once_and_its_silence_is_complete() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            async with watching(hall, module, poll_s=10.0):
                await hall.until(lambda: hall.time > NINE + 2 * HOUR + MINUTE)
            async with watching(hall, module):
                await hall.until(lambda: len(hall.readings(LogComplete)) == 4)

        facts = {
            "address": "FFFFFFFF",
            "baud": 57600,
            "capacity": 200,
            "packet_size": 128,
            "security": 3,
            "system": 9,
            "templates": 3,
        }
        assert hall.bodies(DeviceInfo) == [DeviceInfo(facts)]
        first, second, third, _ = (told.at for told in hall.readings(LogComplete))
        assert first < NINE + 5000
        assert HOUR <= second - first < HOUR + MINUTE
        assert HOUR <= third - second < HOUR + MINUTE
        assert hall.facts["templates"] == 3
        assert hall.facts["differs"] is None
        assert hall.bodies(DeviceEvent) == []
        assert hall.bodies(Unreadable) == []

    run(test)


@pytest.mark.parametrize("running", [True, False])
def test_a_changed_library_is_told_even_if_it_changed_meanwhile(running: bool) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            async with watching(hall, module):
                if running:
                    module.pages = {5, 17, 40}
                    await hall.until(lambda: hall.events)
            module.pages = {5, 17, 40}
            async with watching(hall, module):
                await hall.until(lambda: hall.events)

        assert hall.bodies(DeviceEvent) == [
            DeviceEvent("library_changed", detail="added 40; removed 6")
        ]

    run(test)


def test_a_large_library_is_looked_at_in_tables() -> None:
    async def test() -> None:
        hall = Hall()
        pages = {"999": "9009"}
        async with (
            plugged(0, 255, 256, 999, capacity=1000) as module,
            watching(hall, module, pages=pages),
        ):
            await module.touch(999)

        assert module.asked[INDEX] == 4
        assert hall.marks["finger-1", "library"] == "0,255,256,999"
        assert hall.people == ["9009"]
        assert module.spans == [(0, 1000)]

    run(test)


@pytest.mark.parametrize("code", [0x09, 0x24])
def test_an_empty_library_is_told_once_and_is_no_place_to_punch(code: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.pages = set()
            module.empty_code = code
            async with watching(hall, module):
                for _ in range(3):
                    await module.touch(None)
                empty = [*hall.events, *(up for up, _, _ in hall.links)]
                module.pages = {5}
                await hall.until(lambda: hall.links[-1][0])
                await module.touch(5)

        assert empty == ["library_empty", False]
        assert [up for up, _, _ in hall.links] == [False, True]
        assert hall.people == ["9001"]

    run(test)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["fc", "01", "silence"])
@pytest.mark.parametrize("index", [True, False])
def test_without_a_count_the_index_is_counted(how: str, index: bool) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            for op in (TEMPLATES, CHECK_SENSOR, *(() if index else (INDEX,))):
                if how == "silence":
                    module.mute.add(op)
                else:
                    module.unsupported[op] = int(how, 16)
            async with watching(hall, module, poll_s=5.0):
                await module.touch(5)
                await hall.until(lambda: hall.time > NINE + 30 * MINUTE)

        assert hall.bodies(DeviceInfo)[0].facts["templates"] == (3 if index else "unknown")
        assert module.asked[TEMPLATES] <= 2
        assert hall.people == ["9001"]
        assert hall.events == []

    run(test)


def test_a_count_that_differs_from_the_index_is_told_once() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.count_error = 1
            async with watching(hall, module, poll_s=5.0):
                await hall.until(lambda: hall.time > NINE + 30 * MINUTE)

        assert hall.bodies(DeviceEvent) == [
            DeviceEvent("template_count_differs", detail="the module counts 4, its index has 3")
        ]

    run(test)


def test_a_full_disk_loses_no_touch() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            driver = driver_at(module.port)
            async with watching(hall, module, driver):
                await module.touch(17)
                hall.broken = True
                began = hall.time
                await module.touch(5)
                ended = hall.time
                await hall.until(lambda: hall.time > ended + 10 * MINUTE)
                assert hall.facts["waiting"] == 1
            hall.broken = False
            async with watching(hall, module, driver):
                await hall.until(lambda: len(hall.people) == 2)

        late = hall.readings(Punch)[1]
        assert late.body == Punch("9001", live=False)
        assert began <= late.at <= ended
        assert hall.facts["waiting"] == 0
        assert hall.facts["journal_error"] is None

    run(test)


# The line ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_dead_line_says_that_nothing_came() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.silent = True
            reason = await ends(hall, driver_at(module.port))

        assert "not one byte came" in reason
        assert hall.links == []
        assert hall.slept.count(0.6) == 5

    run(test)


@pytest.mark.usefixtures("impatient")
def test_noise_is_shown_with_its_beginning() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(baud=38400) as module:
            module.wrong_rate_noise = bytes(range(0x80, 0x9C))
            module.mute.add(VERIFY)
            reason = await ends(hall, driver_at(module.port))

        assert "no valid frame at any rate: 112 bytes came" in reason
        assert "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f" in reason
        assert "90" not in reason.partition("8e 8f")[2]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_another_kind_of_device_is_named() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(baud=9600) as module:
            module.mute.add(VERIFY)
            module.wrong_rate_noise = bytes.fromhex("aaaaaa9669000400008084")
            reason = await ends(hall, driver_at(module.port))

        assert "ID card reader" in reason

    run(test)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("baud", [9600, 19200, 38400, 115200])
def test_a_module_at_another_rate_is_found_and_kept(baud: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(baud=baud) as module:
            module.wrong_rate_noise = b"\xf8\x00\x1c"
            driver = driver_at(module.port)
            async with watching(hall, module, driver):
                await module.touch(5)
            hall.slept.clear()
            async with watching(hall, module, driver):
                await module.touch(5)

        assert hall.people == ["9001", "9001"]
        assert hall.slept.count(0.6) == 1
        assert hall.facts["differs"] == f"baud {baud}, settings 57600"
        assert hall.bodies(Unreadable) == []

    run(test)


def test_a_port_that_somebody_else_holds_is_said_so() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            with serial.Serial(module.port, exclusive=True):
                reason = await ends(hall, driver_at(module.port))
            async with watching(hall, module):
                await module.touch(5)

        assert "Another program holds the serial port" in reason
        assert hall.people == ["9001"]

    run(test)


def test_a_pulled_adapter_comes_back_under_another_number(tmp_path: Path) -> None:
    async def test() -> None:
        hall = Hall()
        module = FingerprintModule((5,))
        port = await module.start(tmp_path / "usb-CH340-if00")
        driver = driver_at(port)
        try:
            async with watching(hall, module, driver) as task:
                module.unplug()
                with pytest.raises(DeviceLost, match="unplugged"):
                    await task
            absent = await ends(hall, driver)
            module.plug()
            async with watching(hall, module, driver):
                await module.touch(5)
        finally:
            await module.stop()

        assert "is the adapter plugged in?" in absent
        assert hall.people == ["9001"]
        assert "absent" in hall.states

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_module_that_stops_answering_is_lost() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module) as task:
            await module.until(lambda: module.empty_looks > 3)
            module.silent = True
            with pytest.raises(DeviceLost, match="no answer to command 0x01"):
                await task

        assert hall.facts["timeouts"] == 3
        assert hall.states[-3:] == ["ready", "degraded", "absent"]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_two_answers_that_stay_away_are_overcome() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            for _ in range(2):
                module.corrupt_next = 2
                await module.until(lambda: not module.corrupt_next)
                await module.touch(5)

        assert hall.people == ["9001", "9001"]
        assert hall.facts["sum_errors"] == 4
        assert hall.facts["timeouts"] == 4
        assert hall.states[-4:] == ["ready", "degraded", "ready", "absent"]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_late_answer_is_not_taken_for_that_of_the_next_command() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            looks = module.asked[GET_IMAGE]
            module.late_next = 0.13
            module.place(5)
            await module.until(lambda: module.asked[GET_IMAGE] > looks)
            await lifted(module)
            await module.touch(17)

        assert hall.people == ["9002"]
        assert module.asked[FEATURES] == 1
        assert hall.facts["timeouts"] == 1
        assert hall.facts["stale_answers"] == 1
        assert hall.facts["odd_answers"] == 0

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_late_hit_is_dropped_and_the_finger_is_searched_again() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            sane = module._answer

            def answer(op: int, arguments: bytes) -> bytes:
                if op == SEARCH and not module.searches:
                    module.late_next = 0.13
                return sane(op, arguments)

            module._answer = answer  # type: ignore[method-assign]
            module.place(5)
            await hall.until(lambda: hall.people)
            module.lift()

        assert hall.people == ["9001"]
        assert module.searches == 2
        assert hall.facts["stale_answers"] == 1
        assert hall.facts["odd_answers"] == 0

    run(test)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(bytes.fromhex("e3d0d6b53a31300a"), id="text between packets"),
        pytest.param(b"\xef\x01", id="doubled header"),
        pytest.param(bytes.fromhex("ef01ffffffff07000300000b"), id="packet with a wrong sum"),
    ],
)
def test_noise_between_packets_costs_nothing(text: bytes) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.chatter = text
            await module.touch(5)
            await module.touch(17)

        assert hall.people == ["9001", "9002"]
        assert hall.facts["timeouts"] == 0
        assert hall.facts["discarded_bytes"] >= 5 * len(text)
        assert len(hall.bodies(Unreadable)) == 1
        assert hall.readings(Unreadable)[0].raw.startswith(text[:8])
        assert len(hall.readings(Unreadable)[0].raw) <= 16

    run(test)


def test_answers_of_another_address_are_not_the_modules() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.chatter = bytes.fromhex("ef01000000090700030000 0a")
            await module.touch(5)
            await module.touch(17)

        assert hall.people == ["9001", "9002"]
        assert module.asked[FEATURES] == 2

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_false_header_does_not_hide_the_packet_behind_it() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.chatter = bytes.fromhex("ef01ffffffff0700ff")
            await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["timeouts"] == 0

    run(test)


def test_bytes_behind_a_packet_do_not_spoil_the_next() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.behind = b"\xef\x01\xff\xff"
            await module.touch(5)
            await module.touch(17)

        assert hall.people == ["9001", "9002"]
        assert hall.facts["timeouts"] == 0

    run(test)


def test_packets_that_are_no_acknowledgements_are_passed_over() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.chatter = bytes.fromhex("ef01ffffffff02000a000102030405060700 28")
            await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["unexpected_packets"] > 0
        assert all(b"\x01\x02\x03\x04" not in reading.raw for reading in hall.journal.values())

    run(test)


# Behind a converter --------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [0, 1, 5])
def test_a_module_behind_a_converter_is_watched(piece: int) -> None:
    async def test() -> None:
        hall = Hall()
        module = FingerprintModule((5,))
        await module.listen()
        module.fragment = piece
        driver = driver_at(module.port)
        try:
            async with watching(hall, module, driver) as task:
                await module.touch(5)
                module.hang_up()
                with pytest.raises(DeviceLost, match="broke"):
                    await task
            async with watching(hall, module, driver):
                await module.touch(5)
        finally:
            await module.stop()
        gone = await ends(hall, driver)

        assert hall.people == ["9001", "9001"]
        assert "no connection to socket://127.0.0.1" in gone

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_half_open_connection_is_given_up() -> None:
    async def test() -> None:
        hall = Hall()
        module = FingerprintModule((5,))
        await module.listen()
        try:
            async with watching(hall, module) as task:
                module.silent = True
                with pytest.raises(DeviceLost, match="no answer"):
                    await task
            assert "not one byte came" in await ends(hall, driver_at(module.port))
        finally:
            await module.stop()

    run(test)


# Password, address, start ----------------------------------------------------------------------


def test_a_password_is_read_from_its_file(tmp_path: Path) -> None:
    async def test() -> None:
        hall = Hall()
        secret = tmp_path / "module.password"
        secret.write_text("0x12345678\n")
        async with (
            plugged(password=0x12345678) as module,
            watching(hall, module, password_file=str(secret)),
        ):
            await module.touch(5)

        assert hall.people == ["9001"]
        assert "12345678" not in f"{hall.journal} {hall.facts} {hall.marks}"
        assert "305419896" not in f"{hall.journal} {hall.facts} {hall.marks}"

    run(test)


@pytest.mark.parametrize("content", ["", "secret", "-1", "0x123456789", "1 2"])
def test_a_password_file_without_a_password_is_refused(tmp_path: Path, content: str) -> None:
    async def test() -> None:
        secret = tmp_path / "module.password"
        secret.write_text(content)
        with pytest.raises(DeviceRefused, match="expected a number"):
            await driver_at("/dev/null", password_file=str(secret)).run(Hall())
        with pytest.raises(DeviceRefused, match="password_file"):
            await driver_at("/dev/null", password_file=str(tmp_path / "none")).run(Hall())

    run(test)


def test_a_refused_password_is_told_once_and_shown_again_after_an_hour(tmp_path: Path) -> None:
    async def test() -> None:
        hall = Hall()
        secret = tmp_path / "module.password"
        secret.write_text("1")
        async with plugged(password=2) as module:
            driver = driver_at(module.port, password_file=str(secret))
            for _ in range(2):
                with pytest.raises(DeviceRefused, match="refused the password"):
                    await driver.run(hall)
            refusals = module.asked[VERIFY]
            waited = hall.time - NINE

            hall.sleep, sleep = changing(hall, secret), hall.sleep  # type: ignore[method-assign]
            began = hall.time
            with pytest.raises(DeviceRefused):
                await driver.run(hall)
            shortly = hall.time - began
            hall.sleep = sleep  # type: ignore[method-assign]
            async with watching(hall, module, driver):
                await module.touch(5)

        assert hall.events == ["wrong_password"]
        assert refusals == 2
        assert 2 * HOUR <= waited < 2 * HOUR + 5000
        assert shortly < 3 * MINUTE
        assert hall.links[0][0] is False
        assert "refused the password" in hall.links[0][2]
        assert hall.people == ["9001"]

    run(test)


def changing(hall: Hall, secret: Path) -> Callable[[float], Coroutine[Any, Any, None]]:
    """Somebody writes the right password into the file while the driver waits."""
    sleep = hall.sleep

    async def sleeping(seconds: float) -> None:
        await sleep(seconds)
        if seconds == 60:
            secret.write_text("2")

    return sleeping


@pytest.mark.parametrize("word", [b"", b"\x55"])
def test_a_module_that_started_anew_gets_its_password_again(tmp_path: Path, word: bytes) -> None:
    async def test() -> None:
        hall = Hall()
        secret = tmp_path / "module.password"
        secret.write_text("7")
        async with (
            plugged(password=7) as module,
            watching(hall, module, password_file=str(secret)),
        ):
            await module.touch(5)
            verified = module.asked[VERIFY]
            if word:
                module.reboot()
            else:
                module._verified = False
            await module.until(lambda: module.asked[VERIFY] > verified)
            await module.touch(17)

        assert hall.people == ["9001", "9002"]
        assert hall.facts["reboots"] == 1
        assert hall.facts["timeouts"] == 0
        assert hall.bodies(Unreadable) == []

    run(test)


def test_a_module_with_another_address_is_found_and_shown() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(address=0x12345678) as module:
            async with watching(hall, module):
                await module.touch(5)
            differs = hall.facts["differs"]
            async with watching(hall, module, address="12345678"):
                await module.touch(5)

        assert hall.people == ["9001", "9001"]
        assert differs == "address 12345678, settings FFFFFFFF"
        assert hall.facts["differs"] is None

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_module_that_ignores_other_addresses_needs_its_own_in_the_settings() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(address=0x12345678) as module:
            module.tells_wrong_address = False
            assert "not one byte came" in await ends(hall, driver_at(module.port))
            async with watching(hall, module, address="12345678"):
                await module.touch(5)

        assert hall.people == ["9001"]

    run(test)


def test_an_address_that_changes_meanwhile_is_looked_for_anew() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            driver = driver_at(module.port)
            async with watching(hall, module, driver) as task:
                module.codes[GET_IMAGE] = [0x20]
                with pytest.raises(DeviceLost, match="another address"):
                    await task
            module.codes.clear()
            module.address = 0x00000002
            async with watching(hall, module, driver):
                await module.touch(5)

        assert hall.people == ["9001"]

    run(test)


@pytest.mark.parametrize("wrong", ["short", "code", "capacity"])
def test_a_module_without_parameters_is_not_guessed_about(wrong: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            match wrong:
                case "short":
                    module.short[0x0F] = 12
                case "code":
                    module.codes[0x0F] = [0x1A]
                case "capacity":
                    module.capacity = 0
            reason = await ends(hall, driver_at(module.port))

        assert "expected 17 with a capacity" in reason
        assert hall.links == []

    run(test)


# Answers that are odd --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x18, 0x19, 0x1D, 0x29, 0xFC, 0xFD, 0xFE])
@pytest.mark.parametrize("op", [GET_IMAGE, FEATURES, SEARCH])
def test_a_fault_is_told_once_however_often_it_is_met(code: int, op: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            driver = driver_at(module.port)
            module.place(5)
            module.codes[op] = [code]
            for _ in range(3):
                reason = await ends(hall, driver)
            met = list(hall.bodies(DeviceEvent))
            module.codes.clear()
            module.lift()
            async with watching(hall, module, driver):
                await module.touch(5)
                module.codes[op] = [code]
                module.place(5)
                await hall.until(lambda: len(hall.events) == 2)

        assert f"0x{code:02x}" in reason
        assert met == [DeviceEvent("fault", code, f"0x{op:02x}")]
        assert hall.people == ["9001"]

    run(test)


def test_a_broken_sensor_is_no_place_to_punch() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.codes[CHECK_SENSOR] = [0x29]
            driver = driver_at(module.port)
            for _ in range(2):
                await ends(hall, driver)

        assert hall.events == ["fault"]
        assert hall.links == []

    run(test)


@pytest.mark.parametrize("code", [0x01, 0x19])
def test_a_command_that_did_not_arrive_well_is_said_once_more(code: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.codes = {
                GET_IMAGE: [code, 0x00],
                FEATURES: [code, 0x00],
                SEARCH: [code, 0x00],
            }
            await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.events == []

    run(test)


@pytest.mark.parametrize("code", [0x0A, 0x0B, 0x1A, 0x1F, 0x22, 0x26, 0x5A, 0xC0])
def test_a_code_with_no_place_here_is_told_and_lived_with(code: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            for op in (GET_IMAGE, FEATURES, SEARCH):
                module.codes[op] = [code, 0x00]
                await module.touch(5)
            await module.touch(17)

        assert hall.people[-1] == "9002"
        assert hall.bodies(DeviceEvent) == [DeviceEvent("odd_answer", code, "0x01")]
        assert f"0x{code:02x}" in hall.facts["last_answer"]

    run(test)


def test_a_hit_without_a_page_is_no_punch() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            module.short[SEARCH] = 2
            module.place(5)
            await module.until(lambda: module.searches > 5)
            guessed = list(hall.people)
            module.short.clear()
            await hall.until(lambda: hall.people)

        assert guessed == []
        assert hall.people == ["9001"]
        assert hall.bodies(Unreadable) == [
            Unreadable("answer to command 0x04: 2 bytes, expected 5")
        ]
        assert hall.facts["protocol_errors"] >= 5

    run(test)


def test_a_long_answer_is_read_by_its_beginning() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module):
            answer = module._answer
            module._answer = lambda op, arguments: answer(op, arguments) + b"\x77" * 9  # type: ignore[method-assign]
            await module.touch(5)
            await module.touch(None)

        assert hall.people == ["9001"]
        assert hall.events == ["unknown_person"]

    run(test)


@pytest.mark.parametrize("step", [-3 * HOUR, 3 * HOUR, -400 * 24 * HOUR])
def test_a_clock_that_is_set_changes_nothing_but_the_times(step: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module, watching(hall, module, poll_s=0.5):
            await module.touch(5)
            module.place(5)
            await hall.until(lambda: len(hall.people) == 2)
            hall.time += step
            stepped, tables = hall.time, module.asked[INDEX]
            looks = module.asked[GET_IMAGE]
            await module.until(lambda: module.asked[GET_IMAGE] > looks + 50)
            await lifted(module)
            await module.touch(17)
            await hall.until(lambda: hall.time > stepped + 6 * MINUTE)

        assert hall.people == ["9001", "9001", "9002"]
        assert hall.events == []
        assert module.asked[INDEX] > tables + 1

    run(test)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", range(6))
def test_a_module_gone_mad_brings_nothing_down(seed: int) -> None:
    async def test() -> None:
        chance = random.Random(seed)
        hall = Hall()
        async with plugged() as module:
            sane = module._answer

            def answer(op: int, arguments: bytes) -> bytes:
                roll = chance.random()
                if roll < 0.2:
                    module.say(chance.randbytes(chance.randrange(1, 300)))
                if roll < 0.6:
                    return chance.randbytes(chance.randrange(1, 40))
                module._present = not module._present
                return sane(op, arguments)

            module._answer = answer  # type: ignore[method-assign]
            driver = driver_at(module.port)
            for _ in range(12):
                await ends(hall, driver)
            module._answer = sane  # type: ignore[method-assign]
            module.lift()
            async with watching(hall, module, driver):
                await module.touch(5)

        assert hall.people[-1] == "9001"
        assert len(hall.bodies(Unreadable)) <= 2

    run(test)


# The module waits by itself --------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["zw", "r503"])
def test_a_module_that_waits_by_itself_tells_each_touch_once(layout: Any) -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged(layout=layout) as module:
            module.stale_page = 17
            module.auto_patience = 0.02
            async with watching(hall, module, watch=f"auto_{layout}"):
                await hall.until(lambda: hall.links)
                await module.until(lambda: module.asked[IDENTIFY] > 2)
                module.place(5)
                await hall.until(lambda: hall.people)
                looks = module.asked[GET_IMAGE]
                await module.until(lambda: module.asked[GET_IMAGE] > looks + 10)
                resting = list(hall.people)
                await lifted(module)
                await module.touch(None)
                await module.touch(6)

        assert resting == ["9001"]
        assert hall.people == ["9001", "9001"]
        assert hall.events == ["unknown_person"]
        assert set(module.spans) == {(0, 200)}
        assert module.asked[SEARCH] == 0
        assert [told.raw for told in hall.readings(Punch)] == [b"\0\0\5", b"\0\0\6"]

    run(test)


def test_a_run_that_is_under_way_is_ended_when_the_daemon_stops() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            driver = driver_at(module.port, watch="auto_zw")
            for expected in (1, 2):
                async with watching(hall, module, driver):
                    await module.until(lambda: module.asked[IDENTIFY] == expected)  # noqa: B023
                assert module.cancelled == expected
            async with watching(hall, module):
                await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["odd_answers"] == 0

    run(test)


def test_a_run_left_by_a_killed_daemon_is_ended_at_the_start() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            with serial.Serial(module.port, 57600) as port:
                port.write(bytes.fromhex("ef01ffffffff0100083200ffff0006023f"))
                await module.until(lambda: module.asked[IDENTIFY] == 1)
            async with watching(hall, module, watch="auto_zw"):
                await module.until(lambda: module.cancelled == 1)
                await hall.until(lambda: hall.links)
                await module.touch(5)

        assert hall.people == ["9001"]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_run_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        hall = Hall()
        monkeypatch.setattr(fingerprint, "AUTO_PATIENCE", 0.2)
        async with plugged() as module, watching(hall, module, watch="auto_zw") as task:
            await module.until(lambda: module.asked[IDENTIFY] == 1)
            module.silent = True
            with pytest.raises(DeviceLost, match="no answer"):
                await task

        assert module.asked[IDENTIFY] == 1

    run(test)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("layout", ["zw", "r503"])
def test_a_module_that_starts_anew_while_it_waits_is_asked_again(
    layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        hall = Hall()
        monkeypatch.setattr(fingerprint, "AUTO_PATIENCE", 0.2)
        async with (
            plugged(layout=layout) as module,
            watching(hall, module, watch=f"auto_{layout}"),
        ):
            await module.until(lambda: module.asked[IDENTIFY] == 1)
            module.reboot()
            await module.until(lambda: module.asked[IDENTIFY] == 2)
            module.needs_password, module._verified = True, False
            module._end_auto()
            await module.until(lambda: module.asked[IDENTIFY] > 2)
            await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["reboots"] >= 1

    run(test)


def test_poor_images_of_a_module_that_waits_are_tried_again() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.codes[IDENTIFY] = [0x07, 0x06, 0x00]
            async with watching(hall, module, watch="auto_zw"):
                await module.until(lambda: module.asked[IDENTIFY] == 3)
                await module.touch(5)

        assert hall.people == ["9001"]
        assert hall.facts["poor_images"] == 2

    run(test)


def test_a_module_that_cannot_wait_by_itself_says_so() -> None:
    async def test() -> None:
        hall = Hall()
        async with plugged() as module:
            module.unsupported[IDENTIFY] = 0xFC
            reason = await ends(hall, driver_at(module.port, watch="auto_r503"))

        assert "0x32" in reason
        assert "not supported" in reason

    run(test)


def test_a_library_too_large_for_one_byte_is_refused_in_that_layout() -> None:
    async def test() -> None:
        async with plugged(capacity=1000, layout="r503") as module:
            with pytest.raises(DeviceRefused, match="expected watch = poll"):
                await driver_at(module.port, watch="auto_r503").run(Hall())

    run(test)


# A foreign client ------------------------------------------------------------------------------


def foreign_library() -> Any:
    """pyfingerprint, which wants an imaging library only for what is never asked for here."""
    if importlib.util.find_spec("PIL") is None:
        pil = ModuleType("PIL")
        pil.Image = None  # type: ignore[attr-defined]
        sys.modules["PIL"] = pil
    try:
        return pytest.importorskip("pyfingerprint.pyfingerprint").PyFingerprint
    finally:
        if getattr(sys.modules.get("PIL"), "Image", 0) is None:
            del sys.modules["PIL"]


def looked_up(client: Any, module: FingerprintModule, loop: asyncio.AbstractEventLoop) -> list[Any]:
    """What the foreign client makes of the module."""
    told: list[Any] = [client.verifyPassword(), client.getSystemParameters()]
    told += [client.getTemplateCount(), client.getTemplateIndex(0)[:18], client.readImage()]
    for page in (17, None):
        loop.call_soon_threadsafe(module.place, page)
        while not client.readImage():
            pass
        told += [client.convertImage(1), client.searchTemplate()]
    return told


def test_a_foreign_client_and_ours_agree_about_the_module() -> None:
    library = foreign_library()

    async def test() -> None:
        hall = Hall()
        loop = asyncio.get_running_loop()
        async with plugged(0, 5, 17, password=0x01020304) as module:
            told: list[Any] = []

            def ask() -> None:
                client = library(module.port, 57600, 0xFFFFFFFF, 0x01020304)
                told.extend(looked_up(client, module, loop))

            thread = threading.Thread(target=ask)
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0.01)
            module.lift()
            module.password, module.needs_password = 0, False
            async with watching(hall, module):
                await module.touch(17)

        index = [page in (0, 5, 17) for page in range(18)]
        assert told == [
            True,
            (0, 9, 200, 3, 0xFFFFFFFF, 2, 6),
            3,
            index,
            False,
            True,
            (17, 119),
            True,
            (-1, -1),
        ]
        facts = hall.bodies(DeviceInfo)[0].facts
        assert (facts["system"], facts["capacity"], facts["security"]) == (9, 200, 3)
        assert (facts["baud"], facts["packet_size"], facts["templates"]) == (57600, 128, 3)
        assert hall.marks["finger-1", "library"] == "0,5,17"
        assert hall.people == ["9002"]

    run(test)
