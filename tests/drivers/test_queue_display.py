"""The driver on real sockets and pseudo-terminals: the schedule of a line, displays that misbehave,
boards of ours, and a line that somebody else drives."""

from __future__ import annotations

import asyncio
import itertools
import os
import pty
import threading
import tty
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import modbus_tk.defines
import modbus_tk.modbus_rtu
import pytest
import serial
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.base import DeviceLost, DeviceRefused, Order, Show
from drivers.emulators.queue_display import DisplayLine, DisplayUnit, QueueHost
from drivers.queue_display import QueueDisplay, QueueDisplayOptions
from rules.model import Body, DeviceEvent, Instant, QueueEvent, Reading, Shown, Unreadable

NINE = 1_741_914_000_000


@dataclass
class Box:
    id: str
    options: QueueDisplayOptions
    window: str = "05"


@dataclass
class Hall:
    """What the daemon lends, with a clock that jumps over every pause."""

    time: Instant = NINE
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Asia/Shanghai"))
    told: list[Reading] = field(default_factory=list)
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    contacts: dict[str, int] = field(default_factory=dict)
    losses: dict[str, list[str]] = field(default_factory=dict)
    """Reasons since the last contact."""
    broken: bool = False
    real: bool = False
    """Whether a pause takes its time."""
    orders: asyncio.Queue[tuple[str, Order]] = field(default_factory=asyncio.Queue)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("database or disk is full")
        self.told += readings
        self.marks.update(marks or {})
        self._changed.set()
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> Instant:
        return round(asyncio.get_running_loop().time() * 1000) if self.real else self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds if self.real else 0.0005)
        self.time += round(seconds * 1000)

    def contact(self, device: str) -> None:
        self.contacts[device] = self.contacts.get(device, 0) + 1
        self.losses.pop(device, None)
        self._changed.set()

    def lost(self, device: str, reason: str) -> None:
        self.losses.setdefault(device, []).append(reason)
        self._changed.set()

    def note(self, device: str, **facts: Any) -> None:
        self.facts.setdefault(device, {}).update(facts)
        self._changed.set()

    async def order(self) -> tuple[str, Order]:
        return await self.orders.get()

    async def until(self, said: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not said():
                self._changed.clear()
                await self._changed.wait()

    async def rounds(self, device: str, number: int = 3) -> None:
        """So many good answers more."""
        wanted = self.contacts.get(device, 0) + number
        await self.until(lambda: self.contacts.get(device, 0) >= wanted)

    def bodies(self, *kinds: type[Body]) -> list[Any]:
        return [reading.body for reading in self.told if type(reading.body) in kinds]

    @property
    def called(self) -> list[str]:
        return [body.ticket for body in self.bodies(QueueEvent) if body.event == "called"]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def box(peer: DisplayLine, number: int = 5, profile: str = "dm36", **options: Any) -> Box:
    options = {"timeout_ms": 100, "quiet_ms": 50} | options
    if peer.path:
        options["port"] = peer.path
    else:
        options |= {"host": "127.0.0.1", "tcp_port": peer.port}
        options.setdefault("framing", "tcp" if peer.framing == "tcp" else "rtu-over-tcp")
    ident = options.pop("id", f"display-{number}")
    return Box(ident, QueueDisplayOptions(number, profile, **options), f"{number:02}")


def display(number: int = 5, text: str = "A037") -> DisplayUnit:
    unit = DisplayUnit(number)
    unit.show(text)
    return unit


@asynccontextmanager
async def line_of(
    *units: DisplayUnit, framing: Any = "tcp", **how: Any
) -> AsyncIterator[DisplayLine]:
    peer = DisplayLine(units, "tcp" if framing == "tcp" else "rtu", **how)
    if framing == "rtu":
        peer.start_pty()
    else:
        await peer.start_tcp()
    try:
        yield peer
    finally:
        await peer.stop()


@asynccontextmanager
async def watching(hall: Hall, *boxes: Box) -> AsyncIterator[asyncio.Task[None]]:
    """The driver at work; at the end it is stopped as the daemon stops it."""
    task = asyncio.create_task(QueueDisplay(boxes).run(hall))
    task.add_done_callback(lambda _: hall._changed.set())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, DeviceLost, DeviceRefused):
            await task


FRAMINGS = ["rtu", "rtu-over-tcp", "tcp"]


# Calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_called_ticket_is_read_from_its_display(framing: str) -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit, framing=framing) as peer, watching(hall, box(peer)):
            await hall.rounds("display-5")
            unit.show("A038")
            await hall.until(lambda: bool(hall.called))

        baseline, shown, called = hall.told
        assert baseline.body == Shown("05", "A037", "ticket", baseline=True)
        assert baseline.raw == bytes.fromhex("0041 0030 0033 0037 0020 0020")
        assert shown.body == Shown("05", "A038", "ticket")
        assert (called.body.ticket, called.body.window) == ("A038", "05")
        assert (called.body.ticket_raw, called.body.source) == ("A038  ", "display")
        assert called.body.uncertainty == 500
        assert called.at == shown.at
        assert NINE < called.at < hall.time
        assert hall.marks == {("display-5", "ticket"): "A038"}
        assert not hall.losses

    run(test)


def test_the_frames_asked_are_the_published_ones() -> None:
    async def test() -> None:
        hall, one, five = Hall(), display(1), DisplayUnit(5, {0x70: 0x4130, 0x71: 0x3337})
        five.registers |= {0x72: 0x2020, 0x73: 0x2020}
        async with (
            line_of(one, five, framing="rtu") as peer,
            watching(hall, box(peer, 1), box(peer, 5, "armfly")),
        ):
            await hall.rounds("display-1", 2)
            await hall.rounds("display-5", 1)

            assert bytes.fromhex("01 03 00 00 00 06 C5 C8") in peer.heard
            assert bytes.fromhex("05 03 00 70 00 04") in [frame[:-2] for frame in peer.heard]
        assert [body.text for body in hall.bodies(Shown)] == ["A037", "A037"]

    run(test)


def test_after_a_restart_the_first_look_is_no_call() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer:
            async with watching(hall, box(peer)):
                await hall.rounds("display-5")
            unit.show("A039")
            async with watching(hall, box(peer)):
                await hall.rounds("display-5", 4)

        assert [body.text for body in hall.bodies(Shown)] == ["A037", "A039"]
        assert hall.bodies(Shown)[1].baseline
        assert hall.called == []

    run(test)


def test_a_call_that_can_not_be_stored_is_kept_until_it_can() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer)) as task:
            await hall.rounds("display-5")
            hall.broken = True
            unit.show("A038")
            await hall.until(lambda: "not stored" in hall.facts["display-5"].get("last_error", ""))
            unit.show("A039")
            await hall.rounds("display-5", 5)
            assert hall.called == []
            hall.broken = False
            await hall.until(lambda: len(hall.called) == 2)
            assert not task.done()

        assert hall.called == ["A038", "A039"]
        assert hall.marks == {("display-5", "ticket"): "A039"}

    run(test)


def test_what_makes_no_sense_is_journalled_once_a_minute() -> None:
    async def test() -> None:
        hall, unit = Hall(), DisplayUnit(5, {0x80: 0x1200, 0x81: 0x0000})
        async with line_of(unit) as peer, watching(hall, box(peer, profile="led485_segments")):
            await hall.rounds("display-5", 20)
            unit.registers[0x80] = 0x773F
            await hall.until(lambda: bool(hall.bodies(Shown)))
            until = hall.time + 6000
            await hall.until(lambda: hall.time > until)

        (unreadable,) = hall.bodies(Unreadable)
        assert unreadable.reason == "segment code 12 in place 1 is in no table"
        assert hall.told[0].raw == bytes.fromhex("1200 0000")
        assert hall.facts["display-5"]["decode_errors"] >= 20
        assert not hall.losses

    run(test)


# One line, many displays ---------------------------------------------------------------------


def test_windows_on_one_board_are_read_in_one_go_until_it_refuses_that() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        unit.show("", 6)
        unit.show("B012", 10)
        async with line_of(unit) as peer:
            boxes = [box(peer, id="one"), box(peer, id="two", address=10)]
            async with watching(hall, *boxes):
                await hall.rounds("two")
                assert {pdu.hex() for pdu in unit.asked} == {"0300000010"}, "registers 0 to 15"
                unit.asked.clear()
                unit.fails("refuse", times=1, code=2)
                await hall.rounds("two")

            assert {pdu.hex() for pdu in unit.asked[1:]} == {"0300000006", "03000a0006"}
        assert {r.device: r.body.text for r in hall.told if isinstance(r.body, Shown)} == {
            "one": "A037",
            "two": "B012",
        }
        assert not hall.losses

    run(test)


def test_a_hole_in_the_middle_of_a_board_splits_the_read() -> None:
    """Registers 6 to 9 do not exist here: the board refuses what covers them."""

    async def test() -> None:
        hall, unit = Hall(), display()
        unit.show("B012", 10)
        async with (
            line_of(unit) as peer,
            watching(hall, box(peer, id="one"), box(peer, id="two", address=10)),
        ):
            await hall.rounds("one")
            await hall.rounds("two")

        assert [body.text for body in hall.bodies(Shown)] == ["A037", "B012"]

    run(test)


def test_a_dead_display_is_asked_ever_more_rarely_and_costs_the_others_little() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2), display(3)]
        dead = units[1]
        async with line_of(*units, framing="rtu-over-tcp") as peer:
            async with watching(
                hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2, 3))
            ):
                await hall.rounds("display-2")
                dead.fails("silent")
                dead.asked.clear()
                await hall.until(lambda: bool(hall.losses.get("display-2")))
                assert hall.losses["display-2"] == ["unit 2 does not answer"]
                asked, since = len(dead.asked), hall.time
                assert asked == 6, "three polls, each with its retry"
                await hall.until(lambda: hall.time > since + 140_000)
                probes = len(dead.asked) - asked
                dead.heals()
                dead.show("A099")
                await hall.rounds("display-2", 5)

            assert probes == 5, "after 5, 10, 20, 40 and 60 s"
            assert "display-1" not in hall.losses
            assert hall.contacts["display-1"] > 250
            assert [r.body for r in hall.told if r.device == "display-2"] == [
                Shown("02", "A037", "ticket", baseline=True),
                Shown("02", "A099", "ticket", baseline=True),
            ]

    run(test)


def test_two_dead_displays_are_never_asked_back_to_back() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(number) for number in (1, 2, 3, 4)]
        for unit in units[1:]:
            unit.fails("silent")
        async with line_of(*units, framing="rtu-over-tcp") as peer:
            boxes = [box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2, 3, 4)]
            async with watching(hall, *boxes):
                await hall.until(lambda: len(hall.losses) == 3)
                begin = len(peer.heard)
                until = hall.time + 130_000
                await hall.until(lambda: hall.time > until)

            order = [frame[0] for frame in peer.heard[begin:]]
            assert {2, 3, 4} <= set(order)
            assert not [pair for pair in itertools.pairwise(order) if 1 not in pair]

    run(test)


def test_when_nobody_answers_one_unit_a_second_is_asked_and_the_line_named() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        async with line_of(*units, framing="rtu") as peer:
            async with watching(
                hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2))
            ):
                await hall.rounds("display-1")
                for unit in units:
                    unit.fails("silent")
                await hall.until(
                    lambda: all(
                        "check power" in hall.losses.get(f"display-{n}", [""])[-1] for n in (1, 2)
                    )
                )
                begin, since = len(peer.heard), hall.time
                await hall.until(lambda: hall.time >= since + 20_000)
                order = [frame[0] for frame in peer.heard[begin:]]
                for unit in units:
                    unit.heals()
                await hall.rounds("display-2")

            reason = f"no unit on the line {peer.path} answers; check power and wiring"
            assert 18 <= len(order) <= 21
            assert order[:4] in ([1, 2, 1, 2], [2, 1, 2, 1])
            assert reason.startswith("no unit on the line /dev/pts/")

    run(test)


def test_only_damaged_bytes_on_all_units_point_to_speed_and_parity() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        for unit in units:
            unit.fails("wrong_crc")
        async with (
            line_of(*units, framing="rtu") as peer,
            watching(hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2))),
        ):
            await hall.until(
                lambda: "check speed, parity" in hall.losses.get("display-1", [""])[-1]
            )

        assert len(hall.bodies(Unreadable)) <= 4
        assert hall.contacts == {}

    run(test)


def test_damage_at_one_address_only_hints_at_two_displays_with_it() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        units[1].fails("wrong_crc")
        async with (
            line_of(*units, framing="rtu") as peer,
            watching(hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2))),
        ):
            await hall.until(lambda: "display-2" in hall.losses)

        assert "do two displays have this address?" in hall.losses["display-2"][-1]
        assert "display-1" not in hall.losses

    run(test)


def test_answers_of_another_unit_are_dropped_and_told_after_three() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        units[1].fails("wrong_unit", unit=7)
        async with (
            line_of(*units, framing="rtu") as peer,
            watching(hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2))),
        ):
            await hall.until(lambda: bool(hall.bodies(DeviceEvent)))

        (event,) = hall.bodies(DeviceEvent)
        assert (event.name, event.code) == ("address_conflict", 7)
        assert event.detail == "unit 7 answered in place of 2"
        assert "display-2" not in {r.device for r in hall.told if isinstance(r.body, Shown)}

    run(test)


# What displays and gateways say no to ----------------------------------------------------------


def test_a_busy_display_is_asked_again_soon_and_then_left_until_its_next_turn() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer, every_ms=10_000)):
            await hall.rounds("display-5", 1)
            unit.fails("busy", times=3)
            since = hall.time
            await hall.rounds("display-5", 1)

            assert since + 10_000 <= hall.time + 10_000 <= since + 21_000
            assert len(unit.asked) == 5
        assert not hall.losses

    run(test)


def test_a_wrong_profile_is_refused_by_the_display() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer, profile="armfly")) as task:
            await hall.until(task.done)
            with pytest.raises(DeviceRefused, match="registers 112 to 115: no such register"):
                task.result()
            assert len(unit.asked) == 3

    run(test)


def test_a_wrong_profile_beside_a_right_one_stops_nobody_else() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        async with line_of(*units) as peer, watching(hall, box(peer, 1), box(peer, 2, "armfly")):
            await hall.until(lambda: "display-2" in hall.losses)
            since = hall.time
            await hall.until(lambda: hall.time > since + 200_000)

            assert len(units[1].asked) == 3, "it is not asked again for a while"
            assert "is the profile right?" in hall.losses["display-2"][0]
            assert "display-1" not in hall.losses

    run(test)


def test_a_failing_display_is_told_after_five_times() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        unit.fails("refuse", times=5, code=4)
        async with line_of(unit) as peer, watching(hall, box(peer)):
            await hall.rounds("display-5", 1)

        (event,) = hall.bodies(DeviceEvent)
        assert (event.name, event.code) == ("device_failure", 4)

    run(test)


def test_a_silent_target_behind_a_gateway_is_offline_and_the_connection_stays() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            line_of(display(1), gateway=True) as peer,
            watching(hall, box(peer, 1), box(peer, 2)),
        ):
            await hall.until(lambda: "display-2" in hall.losses)
            await hall.rounds("display-1", 5)

            assert "the gateway got no answer from it (code 0B)" in hall.losses["display-2"][0]
            assert peer.connections == 1
        assert "display-1" not in hall.losses

    run(test)


def test_a_gateway_without_a_path_is_told() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        units[1].fails("refuse", code=10)
        async with line_of(*units) as peer, watching(hall, box(peer, 1), box(peer, 2)):
            await hall.until(lambda: "display-2" in hall.losses)

            assert [body.name for body in hall.bodies(DeviceEvent)] == ["gateway_path"]
            assert peer.connections == 1

    run(test)


def test_a_gateway_that_never_answers_is_connected_to_anew() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        for unit in units:
            unit.fails("silent")
        async with line_of(*units) as peer:
            async with watching(
                hall, *(box(peer, number, timeout_ms=30, quiet_ms=1) for number in (1, 2))
            ):
                await hall.until(lambda: peer.connections == 2)
                since = hall.time
                await hall.until(lambda: hall.time > since + 5000)

            assert peer.connections == 2, "at most every 10 s"

    run(test)


# The line itself -----------------------------------------------------------------------------


def test_a_port_that_is_not_there_is_lost_and_tried_again_by_the_daemon() -> None:
    async def test() -> None:
        boxes = [Box("d", QueueDisplayOptions(5, "dm36", port="/dev/serial/by-id/usb-EXAMPLE"))]
        with pytest.raises(DeviceLost, match="is the adapter plugged in"):
            await QueueDisplay(boxes).run(Hall())

    run(test)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_line_that_is_cut_is_lost(framing: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with line_of(display(), framing=framing) as peer, watching(hall, box(peer)) as task:
            await hall.rounds("display-5")
            await peer.stop()
            await hall.until(task.done)
            with pytest.raises(DeviceLost):
                task.result()

    run(test)


def test_overdue_polls_are_skipped_after_a_sleep_of_the_machine() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer)):
            await hall.rounds("display-5")
            asked, since = len(unit.asked), hall.time
            hall.time += 600_000
            await hall.until(lambda: hall.time > since + 610_000)

            assert 18 <= len(unit.asked) - asked <= 23

    run(test)


def test_a_clock_set_back_does_not_stop_the_polls() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer)):
            await hall.rounds("display-5")
            hall.time -= 3_600_000
            since = hall.time
            await hall.rounds("display-5", 10)

            assert hall.time - since < 7000

    run(test)


class SlowHall(Hall):
    """Every answer takes 400 ms."""

    def contact(self, device: str) -> None:
        self.time += 400
        super().contact(device)


def test_more_than_the_line_can_do_is_stretched_evenly_and_said() -> None:
    async def test() -> None:
        hall, units = SlowHall(), [display(number) for number in (1, 2, 3)]
        async with line_of(*units) as peer:
            boxes = [box(peer, number) for number in (1, 2, 3)]
            async with watching(hall, *boxes):
                await hall.until(lambda: hall.time > NINE + 100_000)

        facts = hall.facts["display-3"]
        asked = [len(unit.asked) for unit in units]
        assert facts["stretch"] == pytest.approx(3 * 400 / 500, abs=0.1)
        assert facts["busy_share"] > 0.9
        assert facts["polls_per_s"] == pytest.approx(2.5, abs=0.2)
        assert max(asked) - min(asked) <= 1
        assert sum(asked) == pytest.approx(250, abs=8)

    run(test)


def test_health_is_told_for_every_display() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit, framing="rtu") as peer, watching(hall, box(peer)):
            await hall.rounds("display-5", 8)
            unit.fails("wrong_crc", times=1)
            until = hall.time + 6000
            await hall.until(lambda: hall.time > until)

        facts = hall.facts["display-5"]
        assert (facts["shown"], facts["shown_state"]) == ("A037", "ticket")
        assert facts["crc_errors"] == 1
        assert facts["polls_per_s"] == pytest.approx(2, abs=0.5)
        assert NINE < facts["last_good"] <= hall.time

    run(test)


def test_a_line_that_is_busy_for_five_minutes_is_told_once() -> None:
    async def test() -> None:
        slow, unit = SlowHall(), display()
        async with line_of(unit) as peer, watching(slow, box(peer, every_ms=200)):
            await slow.until(lambda: slow.time > NINE + 900_000)

        (event,) = slow.bodies(DeviceEvent)
        assert event.name == "line_busy"
        assert event.code > 80
        assert "2.0 times less often" in event.detail

    run(test)


# Which displays can share a line -------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"baud": 9600}, {"baud": 19200}, "one line has one baud: a says 9600, b says 19200"),
        ({"format": "8N1"}, {"format": "8E1"}, "one line has one format: a says 8N1, b says 8E1"),
        ({"role": "master"}, {"role": "listen"}, "one line has one role"),
        ({"timeout_ms": 300}, {"timeout_ms": 500}, "one line has one timeout_ms"),
        ({}, {"unit": 1}, "a and b are both unit 1, register 0"),
    ],
)
def test_displays_that_disagree_about_their_line_are_refused(
    first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    common = {"port": "/dev/ttyS1", "profile": "dm36"}
    boxes = [
        Box("a", QueueDisplayOptions(**(common | {"unit": 1} | first))),
        Box("b", QueueDisplayOptions(**(common | {"unit": 2} | second))),
    ]

    with pytest.raises(ValueError, match=problem):
        QueueDisplay(boxes)


def test_framings_of_one_converter_may_not_be_mixed() -> None:
    boxes = [
        Box("a", QueueDisplayOptions(1, "dm36", host="10.0.0.9", framing="tcp")),
        Box("b", QueueDisplayOptions(2, "dm36", host="10.0.0.9", framing="rtu-over-tcp")),
    ]

    with pytest.raises(
        ValueError, match="one line has one framing: a says tcp, b says rtu-over-tcp"
    ):
        QueueDisplay(boxes)


def test_one_unit_has_one_order(tmp_path: Any) -> None:
    path = tmp_path / "swapped.toml"
    path.write_text('decode = "uint16"\naddress = 20\ncount = 1\norder = "BADC"', "utf-8")
    boxes = [
        Box("a", QueueDisplayOptions(1, "dm36", port="/dev/ttyS1")),
        Box("b", QueueDisplayOptions(1, str(path), port="/dev/ttyS1")),
    ]

    with pytest.raises(ValueError, match="unit 1 has one order: a says ABCD, b says BADC"):
        QueueDisplay(boxes)


# Boards of ours ------------------------------------------------------------------------------


def show(ticket: str, state: str = "calling") -> Show:
    return Show((f"请{ticket}号到05号窗口",), "05", ticket, state)


def test_a_board_of_ours_shows_what_it_is_told_and_is_read_back() -> None:
    async def test() -> None:
        hall, unit = Hall(), display(text="")
        async with line_of(unit, framing="rtu") as peer, watching(hall, box(peer, write=True)):
            await hall.rounds("display-5")
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: hall.facts["display-5"].get("write_state") == "shown")
            assert unit.shown() == "A038  "
            await hall.until(lambda: len(hall.bodies(Shown)) == 2)

        assert hall.bodies(Shown)[1].text == "A038"
        assert hall.bodies(QueueEvent) == [], "our own writing is no call"
        written = [pdu for pdu in unit.asked if pdu[0] == 16]
        assert [pdu.hex() for pdu in written] == ["10000000060c004100300033003800200020"]

    run(test)


def test_a_single_register_is_written_with_function_six() -> None:
    async def test() -> None:
        hall, unit = Hall(), DisplayUnit(5, {0: 0})
        async with line_of(unit) as peer, watching(hall, box(peer, profile="led485", write=True)):
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: unit.registers[0] == 38)

        assert bytes.fromhex("06 0000 0026") in unit.asked

    run(test)


def test_a_board_that_keeps_its_old_text_is_found_out() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer, write=True, every_ms=60_000)):
            await hall.rounds("display-5", 1)
            deaf = unit._write
            unit._write = lambda *_: b""  # type: ignore[method-assign]
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: "differs" in hall.facts["display-5"].get("write_state", ""))

            assert deaf is not None
        assert hall.facts["display-5"]["write_state"].startswith("differs: 0041 0030 0033 0037")

    run(test)


def test_a_board_that_can_not_be_read_is_written_and_unverified() -> None:
    async def test() -> None:
        hall = Hall()
        unit = DisplayUnit(5, dict.fromkeys(range(1000, 1016), 0), readable=False)
        async with (
            line_of(unit) as peer,
            watching(hall, box(peer, profile="embeddedart", write=True)),
        ):
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: "write_state" in hall.facts.get("display-5", {}))
            assert hall.facts["display-5"]["write_state"] == "unverified"
            assert hall.contacts == {"display-5": 1}
            unit.fails("silent")
            await hall.orders.put(("display-5", show("A039")))
            await hall.until(lambda: "display-5" in hall.losses)

        text = b"".join(unit.registers[place].to_bytes(2, "big") for place in range(1000, 1016))
        assert text.decode("gbk").rstrip() == "请A038号到05号窗口"
        assert {pdu[0] for pdu in unit.asked} == {16}

    run(test)


def test_a_write_that_fails_is_tried_three_times() -> None:
    async def test() -> None:
        hall, unit = Hall(), display()
        async with line_of(unit) as peer, watching(hall, box(peer, write=True, every_ms=60_000)):
            await hall.rounds("display-5", 1)
            unit.fails("busy", times=2)
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: hall.facts["display-5"].get("write_state") == "shown")
            unit.asked.clear()
            unit.fails("busy", times=3)
            await hall.orders.put(("display-5", show("A039")))
            await hall.until(lambda: not unit.faults)
            await hall.orders.put(("display-5", show("A040")))
            await hall.until(lambda: unit.shown() == "A040  ")

        written = [bytes(pdu[6:])[1::2].decode() for pdu in unit.asked if pdu[0] == 16]
        assert written == ["A039  "] * 3 + ["A040  "]

    run(test)


def test_what_does_not_fit_is_said_and_the_line_goes_on() -> None:
    async def test() -> None:
        hall, unit = Hall(), DisplayUnit(5, {0: 0})
        async with line_of(unit) as peer, watching(hall, box(peer, profile="led485", write=True)):
            await hall.orders.put(("display-5", show("A99999")))
            await hall.until(
                lambda: "fit" in hall.facts.get("display-5", {}).get("write_state", "")
            )
            await hall.rounds("display-5")

        assert unit.registers[0] == 0

    run(test)


def test_a_display_that_is_not_ours_is_never_written() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(1), display(2)]
        async with line_of(*units) as peer, watching(hall, box(peer, 1, write=True), box(peer, 2)):
            await hall.orders.put(("display-2", show("A038")))
            await hall.orders.put(("display-1", show("A038")))
            await hall.until(lambda: units[0].shown() == "A038  ")
            await hall.rounds("display-2")

        assert {pdu[0] for pdu in units[1].asked} == {3}

    run(test)


def test_many_orders_do_not_stop_the_polls() -> None:
    async def test() -> None:
        hall, units = Hall(), [display(number, "") for number in range(1, 11)]
        async with line_of(*units) as peer:
            boxes = [box(peer, number, write=True) for number in range(1, 11)]
            for number in range(1, 11):
                await hall.orders.put((f"display-{number}", show("A038")))
            async with watching(hall, *boxes):
                await hall.until(lambda: all(unit.shown() == "A038  " for unit in units))

            functions = "".join("w" if frame[7] == 16 else "r" for frame in peer.heard)
            assert functions.count("w") == 10
            assert "wrwrwr" in functions, "writes go first, each is read back"
            assert "wrwrwrwr" not in functions, "but after three somebody is asked"

    run(test)


# A line that somebody else drives ------------------------------------------------------------


@asynccontextmanager
async def overhearing(hall: Hall, *units: DisplayUnit, **options: Any) -> AsyncIterator[QueueHost]:
    host = QueueHost(units)
    boxes = [
        Box(
            f"display-{unit.number}",
            QueueDisplayOptions(
                unit.number, options.get("profile", "dm36"), port=host.path, role="listen"
            ),
            f"{unit.number:02}",
        )
        for unit in units
    ]
    async with watching(hall, *boxes):
        # Until the port is open, what is said is not heard.
        while not _is_open(host):
            await asyncio.sleep(0.005)
        yield host
        assert host.sent_back() == b""
    host.stop()


def _is_open(host: QueueHost) -> bool:
    """Whether somebody but us has the terminal open."""
    target = os.stat(host.path).st_rdev
    number = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            number += os.fstat(int(fd)).st_rdev == target
    return number > 1


def test_what_the_queue_system_writes_is_overheard_without_a_byte_sent() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.utter(b"\x00\xff")
            host.show(5, "A037")
            await hall.until(lambda: bool(hall.told))
            host.show(5, "A038")
            await hall.until(lambda: bool(hall.called))

        assert hall.bodies(Shown) == [
            Shown("05", "A037", "ticket", baseline=True),
            Shown("05", "A038", "ticket"),
        ]
        (event,) = hall.bodies(QueueEvent)
        assert (event.ticket, event.source, event.uncertainty) == ("A038", "sniffed", 0)
        assert hall.contacts["display-5"] == 2

    run(test)


def test_answers_to_the_queue_systems_own_reads_are_used_too() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.ask(5, bytes.fromhex("03 0000 0006"))
            await hall.until(lambda: bool(hall.told))

        assert hall.bodies(Shown) == [Shown("05", "A037", "ticket", baseline=True)]

    run(test)


def test_a_write_without_an_answer_is_unconfirmed_and_after_three_the_display_lost() -> None:
    async def test() -> None:
        hall, units = Hall(real=True), [display(5), display(6)]
        async with overhearing(hall, *units) as host:
            host.show(5, "A037", answered=False)
            host.show(6, "B001")
            await hall.until(lambda: len(hall.told) == 2)
            host.show(5, "A038", answered=False)
            host.show(5, "A039", answered=False)
            await hall.until(lambda: hall.called == ["A038", "A039"])

        shown = {r.body.text: r.body.confirmed for r in hall.told if isinstance(r.body, Shown)}
        assert shown == {"A037": False, "B001": True, "A038": False, "A039": False}
        assert "does not acknowledge" in hall.losses["display-5"][0]
        assert "display-6" not in hall.losses

    run(test)


def test_a_refused_write_changes_nothing() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.show(5, "A037")
            unit.writable = False
            host.show(5, "A038")
            host.ask(5, bytes.fromhex("03 0000 0006"))
            unit.writable = True
            host.show(5, "A039")
            await hall.until(lambda: bool(hall.called))

        assert hall.called == ["A039"]

    run(test)


class HastyHall(Hall):
    """A second takes a twentieth of one."""

    def now(self) -> Instant:
        return super().now() * 20


def test_a_display_that_was_cleared_is_blank_after_five_seconds() -> None:
    async def test() -> None:
        hall, unit = HastyHall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.show(5, "A037")
            await hall.until(lambda: bool(hall.told))
            host.show(5, "")
            await hall.until(lambda: len(hall.told) == 2)

        assert hall.bodies(Shown)[1] == Shown("05", "", "blank")

    run(test)


def test_digits_written_one_by_one_are_read_when_the_last_has_come() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.show(5, "A039")
            await hall.until(lambda: bool(hall.told))
            host.write(5, [ord("4")], address=2)
            host.write(5, [ord("0")], address=3)
            await hall.until(lambda: bool(hall.called))

        assert [body.text for body in hall.bodies(Shown)] == ["A039", "A040"]

    run(test)


def test_a_text_written_in_two_parts_is_one_call() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.show(5, "A037")
            await hall.until(lambda: bool(hall.told))
            host.write(5, [ord(one) for one in "B1"], address=0)
            host.write(5, [ord(one) for one in "12"], address=2)
            await hall.until(lambda: bool(hall.called))

        assert [body.text for body in hall.bodies(Shown)] == ["A037", "B112"]
        assert hall.called == ["B112"]

    run(test)


def test_a_part_that_is_written_again_and_again_is_read_all_the_same() -> None:
    async def test() -> None:
        hall, unit = Hall(real=True), display()
        async with overhearing(hall, unit) as host:
            host.show(5, "A037")
            await hall.until(lambda: bool(hall.told))
            until = asyncio.get_running_loop().time() + 3
            while not hall.called and asyncio.get_running_loop().time() < until:
                host.write(5, [ord(one) for one in "A038"], address=0)
                await asyncio.sleep(0.1)

        assert hall.called == ["A038"]

    run(test)


def test_a_broadcast_reaches_every_display_unconfirmed() -> None:
    async def test() -> None:
        hall, units = Hall(real=True), [display(5), display(6)]
        async with overhearing(hall, *units) as host:
            host.show(0, "A001", answered=False)
            await hall.until(lambda: len(hall.told) == 2)

        assert {
            (r.device, r.body.text, r.body.confirmed)
            for r in hall.told
            if isinstance(r.body, Shown)
        } == {
            ("display-5", "A001", False),
            ("display-6", "A001", False),
        }
        assert not hall.losses

    run(test)


def test_a_converter_can_be_listened_to_and_its_loss_is_noticed() -> None:
    async def test() -> None:
        hall, writers = Hall(real=True), []

        async def tap(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            for byte in bytes.fromhex(
                "01 10 00 00 00 04 08 00 41 00 30 00 33 00 37 16 A3 01 10 00 00 00 04 C1 CA"
            ):
                writer.write(bytes((byte,)))
                await writer.drain()

        server = await asyncio.start_server(tap, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = QueueDisplayOptions(
            1, "dm36", host="127.0.0.1", tcp_port=port, framing="rtu-over-tcp", role="listen"
        )
        async with watching(hall, Box("d", options)) as task:
            await hall.until(lambda: bool(hall.told))
            writers[0].close()
            await writers[0].wait_closed()
            await hall.until(task.done)
            with pytest.raises(DeviceLost, match="closed the connection"):
                task.result()
        server.close()
        await server.wait_closed()

        assert hall.bodies(Shown) == [Shown("05", "A037", "ticket", baseline=True)]

    run(test)


# Other people's peers ------------------------------------------------------------------------


def test_a_server_of_pymodbus_is_read_and_written() -> None:
    async def test() -> None:
        hall = Hall()
        values = SimData(
            0, values=[0x41, 0x30, 0x33, 0x37, 0x20, 0x20], datatype=DataType.REGISTERS
        )
        server = ModbusTcpServer([SimDevice(5, [values])], address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        options = QueueDisplayOptions(5, "dm36", host="127.0.0.1", tcp_port=port, write=True)
        async with watching(hall, Box("display-5", options)):
            await hall.rounds("display-5")
            await hall.orders.put(("display-5", show("A038")))
            await hall.until(lambda: len(hall.bodies(Shown)) == 2)
        await server.shutdown()

        assert [body.text for body in hall.bodies(Shown)] == ["A037", "A038"]
        assert hall.facts["display-5"]["write_state"] == "shown"

    run(test)


@asynccontextmanager
async def null_modem() -> AsyncIterator[tuple[str, str]]:
    """Two serial ports that lead to each other."""
    fds = [*pty.openpty(), *pty.openpty()]
    loop = asyncio.get_running_loop()
    for fd in fds:
        tty.setraw(fd)
    for here, there in ((fds[0], fds[2]), (fds[2], fds[0])):
        loop.add_reader(here, lambda here=here, there=there: os.write(there, os.read(here, 4096)))
    yield os.ttyname(fds[1]), os.ttyname(fds[3])
    loop.remove_reader(fds[0])
    loop.remove_reader(fds[2])
    for fd in fds:
        os.close(fd)


@pytest.mark.filterwarnings("ignore:isSet:DeprecationWarning")
def test_a_server_of_modbus_tk_is_read_on_a_serial_port() -> None:
    async def test() -> None:
        hall = Hall()
        async with null_modem() as (ours, theirs):
            line = serial.Serial(theirs, 9600)
            server = modbus_tk.modbus_rtu.RtuServer(line)
            slave = server.add_slave(5)
            slave.add_block("text", modbus_tk.defines.HOLDING_REGISTERS, 0, 6)
            slave.set_values("text", 0, [ord(letter) for letter in "A037  "])
            server.start()
            before = threading.active_count()
            boxes = [
                Box(f"display-{unit}", QueueDisplayOptions(unit, "dm36", port=ours, quiet_ms=1))
                for unit in (5, 6)
            ]
            async with watching(hall, *boxes):
                await hall.rounds("display-5")
                slave.set_values("text", 0, [ord(letter) for letter in "A038  "])
                await hall.until(lambda: bool(hall.called))
                await hall.until(lambda: "display-6" in hall.losses)
            await asyncio.to_thread(server.stop)

            assert threading.active_count() <= before + 1
        assert hall.called == ["A038"]
        assert hall.losses == {"display-6": ["unit 6 does not answer"]}

    run(test)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_plain_client_of_pymodbus_reads_and_writes_the_emulator(framing: str) -> None:
    async def test() -> None:
        unit = display()
        client: AsyncModbusSerialClient | AsyncModbusTcpClient
        async with line_of(unit, framing=framing) as peer:
            if framing == "rtu":
                client = AsyncModbusSerialClient(peer.path, timeout=0.5, retries=0)
            else:
                framer = FramerType.SOCKET if framing == "tcp" else FramerType.RTU
                client = AsyncModbusTcpClient(
                    "127.0.0.1", port=peer.port, framer=framer, timeout=0.5, retries=0
                )
            assert await client.connect()
            read = await client.read_holding_registers(0, count=4, device_id=5)
            assert read.registers == [0x41, 0x30, 0x33, 0x37]
            await client.write_registers(0, [0x42, 0x31], device_id=5)
            await client.write_register(2, 0x39, device_id=5)
            assert unit.shown() == "B197  "
            refused = await client.read_holding_registers(100, count=1, device_id=5)
            assert refused.exception_code == 2
            refused = await client.read_coils(0, count=1, device_id=5)
            assert refused.exception_code == 1
            client.close()

    run(test)
