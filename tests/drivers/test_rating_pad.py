"""The driver against pads, keypads and a queue host on pseudo-terminals."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from drivers.base import AskForRating, DeviceLost, Order, Show
from drivers.emulators.rating_pad import (
    BankTerminal,
    KeybytePad,
    Keypad,
    Pad,
    QueueHost,
    SerialBus,
    SimPad,
    ff68,
)
from drivers.rating_pad import RatingPad, RatingPadOptions
from rules.model import (
    Body,
    DeviceEvent,
    Instant,
    QueueEvent,
    Rating,
    RatingPrompt,
    Reading,
    Unreadable,
    reading_id,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
NINE = 1_741_914_000_000  # 2025-03-14 09:00:00 +08:00
FOUR: dict[str, int | str] = {"00": 5, "01": 4, "02": 3, "03": 2}


@dataclass
class Box:
    """A device of the settings."""

    id: str
    options: RatingPadOptions
    window: str = "05"


class Killed(BaseException):
    """The daemon is killed at this point."""


@dataclass
class Hall:
    """What the daemon lends to a driver, with a journal in memory and a clock that is moved."""

    time: Instant = NINE
    zone: ZoneInfo = SHANGHAI
    journal: dict[bytes, Reading] = field(default_factory=dict)
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    contacts: list[str] = field(default_factory=list)
    orders: asyncio.Queue[tuple[str, Order]] = field(default_factory=asyncio.Queue)
    taken: int = 0
    broken: bool = False
    """The disk is full."""
    killed_after_commit: bool = False
    on_emit: Callable[[], None] = lambda: None

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("database or disk is full")
        self.on_emit()
        known = len(self.journal)
        for reading in readings:
            self.journal.setdefault(reading_id(reading), reading)
        self.marks.update(marks or {})
        if self.killed_after_commit and readings:
            raise Killed
        return len(self.journal) - known

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> Instant:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing here waits for the hall's time ({seconds} s)")

    def contact(self, device: str) -> None:
        self.contacts.append(device)

    def lost(self, device: str, reason: str) -> None:
        raise AssertionError(f"{device} is lost: {reason}")

    def note(self, device: str, **facts: Any) -> None:
        self.facts.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        order = await self.orders.get()
        self.taken += 1
        return order

    def pass_time(self, seconds: float) -> None:
        self.time += round(seconds * 1000)

    def bodies(self, kind: type[Body]) -> list[Any]:
        return [reading.body for reading in self.journal.values() if type(reading.body) is kind]

    async def hears(self, frames: int) -> None:
        """Until the driver has understood so many, when one device is on the line."""
        await until(lambda: len(self.contacts) >= frames + 1)

    @property
    def ratings(self) -> list[Rating]:
        return self.bodies(Rating)

    @property
    def events(self) -> list[str]:
        return [body.event for body in self.bodies(QueueEvent)]

    @property
    def told(self) -> list[str]:
        return [body.name for body in self.bodies(DeviceEvent)]


async def until(said: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not said():
            await asyncio.sleep(0.002)


def pad(bus: SerialBus, device: str = "pad-7", address: int | None = 7, **options: Any) -> Box:
    options = {"profile": "caller-ff68", "scale": FOUR, **options}
    return Box(device, RatingPadOptions(bus.path, address=address, **options))


@asynccontextmanager
async def a_line(**settings: Any) -> AsyncIterator[SerialBus]:
    bus = SerialBus(**settings)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


@asynccontextmanager
async def watching(hall: Hall, *boxes: Box) -> AsyncIterator[asyncio.Task[None]]:
    """The driver at work, the port open; at the end it is stopped as the daemon stops it."""
    before = len(hall.contacts)
    task = asyncio.create_task(RatingPad(boxes).run(hall))
    try:
        await until(lambda: task.done() or len(hall.contacts) >= before + len(boxes))
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, DeviceLost, Killed):
            await task


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(within_time())


ASK = AskForRating("s-418", "A037", "9001")


# Ratings -----------------------------------------------------------------------------------------


def test_a_rating_is_journalled_and_then_acknowledged() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            seven = Pad(bus, 7)
            wrote: list[bytes] = []
            hall.on_emit = lambda: wrote.append(bytes(bus.heard))
            async with watching(hall, pad(bus)):
                assert await seven.press(1)

            assert wrote[0] == b""
            assert bus.heard == bytes.fromhex("FF 68 03 03 68 07 01 01 09 16")
            assert seven.sent == 1
        (reading,) = hall.journal.values()
        assert reading == Reading(
            "pad-7",
            NINE,
            Rating(
                f"pad:pad-7:{NINE // 60_000}:01:1",
                window="05",
                level=4,
                scale_id="four-installer",
                raw_key="01",
                origin="unknown",
                problem="no_session",
            ),
            bytes.fromhex("FF 68 03 03 68 07 11 01 19 16"),
        )

    run(test)


def test_an_address_that_is_the_end_byte_is_an_address() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, address=0x16)):
            assert await Pad(bus, 0x16).press(0)

        assert [rating.level for rating in hall.ratings] == [5]

    run(test)


@pytest.mark.parametrize("fragment", [1, 3, 0])
def test_a_frame_may_come_in_any_pieces_behind_noise(fragment: int) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            bus.fragment = fragment
            seven = Pad(bus, 7)
            seven.noise = b"\x00\xff\xff\x68\x16"
            async with watching(hall, pad(bus)):
                assert await seven.press(2)
                assert hall.facts["pad-7"]["noise_bytes"] == 5
                assert hall.facts["pad-7"]["unverified"] is False

        assert [rating.level for rating in hall.ratings] == [3]

    run(test)


def test_frames_glued_together_are_all_answered() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            glued = b"".join(ff68(address, 0x11, b"\1") for address in (7, 8, 9))
            boxes = [pad(bus, f"pad-{n}", n) for n in (7, 8, 9)]
            async with watching(hall, *boxes):
                bus.post(glued)
                await until(lambda: len(bus.heard) == 30)

            assert bus.heard == b"".join(ff68(address, 0x01, b"\1") for address in (7, 8, 9))
        assert [reading.device for reading in hall.journal.values()] == ["pad-7", "pad-8", "pad-9"]

    run(test)


def test_a_rating_whose_answer_was_lost_is_answered_again_and_stored_once() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            seven = Pad(bus, 7)
            seven.deaf = 2
            async with watching(hall, pad(bus)):
                assert await seven.press(1)
                hall.pass_time(2)
                assert await seven.press(1)
                hall.pass_time(2)
                assert await seven.press(1)
                assert hall.facts["pad-7"]["repeats"] == 4
                hall.pass_time(4)
                assert await seven.press(1)

            assert bus.heard == ff68(7, 1, b"\1") * 6
        assert len(hall.ratings) == 2

    run(test)


@pytest.mark.parametrize(("away", "stored"), [(0.5, 1), (20, 1), (40, 2)])
def test_a_rating_sent_again_after_a_kill_before_its_answer_is_the_same(
    away: float, stored: int
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            seven = Pad(bus, 7)
            seven.tries = 1
            hall.killed_after_commit = True
            async with watching(hall, pad(bus)) as task:
                assert not await seven.press(1)
                with pytest.raises(Killed):
                    await task
            assert bus.heard == b""
            hall.killed_after_commit = False
            hall.pass_time(away)
            seven.tries = 5
            async with watching(hall, pad(bus)):
                assert await seven.press(1)
        assert len(hall.ratings) == stored

    run(test)


def test_after_a_restart_a_later_rating_of_the_same_value_is_a_new_one() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            seven = Pad(bus, 7)
            async with watching(hall, pad(bus)):
                assert await seven.press(1)
            hall.pass_time(10)
            async with watching(hall, pad(bus)):
                assert await seven.press(1)
        assert len({rating.rating_id for rating in hall.ratings}) == 2

    run(test)


def test_nothing_is_acknowledged_while_it_cannot_be_stored() -> None:
    async def test() -> None:
        hall = Hall(broken=True)
        async with a_line() as bus:
            seven = Pad(bus, 7)
            seven.tries = 1
            async with watching(hall, pad(bus)):
                assert not await seven.press(1)
                assert bus.heard == b""
                assert "could not be stored" in hall.facts["pad-7"]["last_error"]
                hall.broken = False
                seven.tries = 5
                assert await seven.press(1)
        assert len(hall.ratings) == 1

    run(test)


def test_no_key_is_answered_while_it_cannot_be_stored() -> None:
    async def test() -> None:
        hall = Hall(broken=True)
        async with a_line() as bus:
            keypad = Keypad(bus, 5)
            keypad.tries = 1
            async with watching(hall, pad(bus, "keys-5", 5, role="keypad")):
                assert not await keypad.press("call")
                assert bus.heard == b""
                hall.broken = False
                keypad.tries = 5
                assert await keypad.press("call")
        assert hall.events == ["called"]

    run(test)


def test_each_pad_of_a_bus_has_its_own_scale_and_window() -> None:
    async def test() -> None:
        hall = Hall()
        three: dict[str, int | str] = {"00": 4, "01": 3, "02": 2, "03": "none"}
        async with a_line() as bus:
            first = pad(bus, "desk-5", 5, role="both")
            second = pad(bus, "pad-6", 6, scale=three, scale_id="three")
            second.window = "06"
            async with watching(hall, first, second):
                keypad = Keypad(bus, 5)
                assert await keypad.press("finish")
                assert await keypad.press("pause")
                assert await Pad(bus, 6).press(0)
                hall.pass_time(10)
                assert await Pad(bus, 6).press(3)
        assert [
            (rating.level, rating.scale_id, rating.window, rating.problem)
            for rating in hall.ratings
        ] == [(4, "three", "06", "no_session"), (None, "three", "06", "no_session")]

    run(test)


def test_a_broken_memory_is_forgotten() -> None:
    async def test() -> None:
        hall = Hall(marks={("pad-7", "state"): '{"seq": "many"}'})
        async with a_line() as bus, watching(hall, pad(bus)):
            assert await Pad(bus, 7).press(1)
        assert len(hall.ratings) == 1

    run(test)


def test_a_key_without_a_level_is_kept_as_it_came_and_told_once() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            assert await seven.press(9)
            hall.pass_time(10)
            assert await seven.press(9)
        first, second = hall.ratings
        assert (first.level, first.raw_key, first.problem) == (None, "09", "unmapped_code")
        assert second.level is None
        assert hall.told == ["unmapped_code"]
        assert hall.bodies(DeviceEvent)[0].code == 9

    run(test)


def test_the_code_for_nobody_pressed_is_no_level_and_ends_the_session() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            a_line() as bus,
            watching(hall, pad(bus, profile="sim-aa55", scale={}, prompt_seconds=20)),
        ):
            seven = SimPad(bus, 7)
            hall.orders.put_nowait(("pad-7", ASK))
            await seven.prompted.wait()
            assert seven.seconds == 20
            assert await seven.press(0)
            hall.pass_time(5)
            assert await seven.press(2)
            assert await seven.beat()
        silence, late = hall.ratings
        assert (silence.level, silence.problem, silence.session) == (None, "timed_out", "s-418")
        assert (silence.origin, silence.raw_key) == ("unknown", "00")
        assert (late.level, late.problem, late.session) == (4, "no_session", "")

    run(test)


# Sessions ----------------------------------------------------------------------------------------


def test_an_order_prompts_the_pad_and_the_answer_carries_who_was_asked_about() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, address=5)):
            five = Pad(bus, 5)
            hall.orders.put_nowait(("pad-7", ASK))
            await until(lambda: hall.bodies(RatingPrompt))
            assert bus.heard == bytes.fromhex("FF 68 03 03 68 05 01 0B 11 16")
            hall.pass_time(12)
            assert await five.press(0)
        assert hall.bodies(RatingPrompt) == [RatingPrompt("s-418", "05", "A037", "9001")]
        assert hall.ratings == [
            Rating(
                "pad:pad-7:s-418",
                window="05",
                level=5,
                scale_id="four-installer",
                raw_key="00",
                person="9001",
                service_ref="A037",
                session="s-418",
            )
        ]

    run(test)


def test_the_first_key_counts_and_later_ones_are_left_to_matching() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            hall.orders.put_nowait(("pad-7", ASK))
            await seven.prompted.wait()
            assert await seven.press(0)
            hall.pass_time(1)
            assert await seven.press(3)
            assert hall.facts["pad-7"]["extra_presses"] == 1
            hall.pass_time(4)
            assert await seven.press(3)
        assert [(rating.level, rating.session) for rating in hall.ratings] == [
            (5, "s-418"),
            (2, ""),
        ]
        assert hall.ratings[1].origin == "unknown"

    run(test)


@pytest.mark.parametrize(("after", "session"), [(29, "s-418"), (31, "")])
def test_a_key_after_the_session_is_stored_without_it(after: float, session: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            hall.orders.put_nowait(("pad-7", ASK))
            await seven.prompted.wait()
            await until(lambda: hall.bodies(RatingPrompt))
            hall.pass_time(after)
            assert await seven.press(1)
        assert [rating.session for rating in hall.ratings] == [session]
        assert hall.ratings[0].person == ("9001" if session else "")

    run(test)


def test_a_session_outlives_a_restart() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            seven = Pad(bus, 7)
            async with watching(hall, pad(bus)):
                hall.orders.put_nowait(("pad-7", ASK))
                await until(lambda: hall.bodies(RatingPrompt))
            hall.pass_time(5)
            async with watching(hall, pad(bus)):
                assert await seven.press(1)
        assert [rating.session for rating in hall.ratings] == ["s-418"]

    run(test)


def test_an_unmapped_key_does_not_use_up_the_session() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            hall.orders.put_nowait(("pad-7", ASK))
            await until(lambda: hall.bodies(RatingPrompt))
            assert await seven.press(9)
            hall.pass_time(5)
            assert await seven.press(1)
        assert [(rating.level, rating.session) for rating in hall.ratings] == [
            (None, ""),
            (4, "s-418"),
        ]

    run(test)


def test_a_rating_for_nobody_is_flagged() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            hall.orders.put_nowait(("pad-7", AskForRating("s-1", "A037")))
            await until(lambda: hall.bodies(RatingPrompt))
            assert await Pad(bus, 7).press(1)
        (rating,) = hall.ratings
        assert (rating.person, rating.problem, rating.level) == ("", "nobody_logged_in", 4)

    run(test)


def test_a_new_prompt_replaces_the_one_before() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            hall.orders.put_nowait(("pad-7", ASK))
            await until(lambda: len(hall.bodies(RatingPrompt)) == 1)
            assert await seven.press(0)
            hall.pass_time(1)
            hall.orders.put_nowait(("pad-7", AskForRating("s-419", "A038", "9002")))
            await until(lambda: len(hall.bodies(RatingPrompt)) == 2)
            hall.pass_time(1)
            assert await seven.press(3)
        assert [(rating.person, rating.level) for rating in hall.ratings] == [
            ("9001", 5),
            ("9002", 2),
        ]

    run(test)


def test_a_prompt_waits_until_the_line_is_quiet() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            frame = ff68(7, 0x11, b"\1")
            bus.post(frame[:5])
            hall.orders.put_nowait(("pad-7", ASK))
            await until(lambda: hall.taken == 1)
            bus.post(frame[5:])
            await until(lambda: len(bus.heard) == 20)
            assert bus.heard == ff68(7, 1, b"\1") + ff68(7, 1, b"\x0b")

    run(test)


# Keypads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("call", "called"),
        ("recall", "recalled"),
        ("finish", "finished"),
        ("give_up", "abandoned"),
        ("hold", "held"),
        ("call_back", "called_back"),
        ("transfer", "transferred"),
    ],
)
def test_a_key_is_an_event_of_the_queue_and_is_echoed_unchanged(key: str, event: str) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "keys-5", 5, role="keypad", scale={})):
            keypad = Keypad(bus, 5, func=0x22)
            assert await keypad.press(key)
            assert keypad.sent == 1
        (reading,) = hall.journal.values()
        assert reading == Reading(
            "keys-5",
            NINE,
            QueueEvent(f"keys-5:{NINE}:{event}:1", event, window="05", source="bus"),
            reading.raw,
        )
        assert bus.heard == reading.raw

    run(test)


def test_a_key_repeated_until_it_is_answered_is_one_press() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "keys-5", 5, role="keypad")):
            keypad = Keypad(bus, 5)
            keypad.deaf = 2
            assert await keypad.press("call")
            hall.pass_time(1)
            assert await keypad.press("call")
            assert len(bus.heard) == 40
        assert hall.events == ["called", "called"]

    run(test)


@pytest.mark.parametrize(("pause", "presses"), [(0.4, 1), (0.6, 4)])
def test_a_key_that_comes_again_within_half_a_second_is_the_same_press(
    pause: float, presses: int
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "keys-5", 5, role="keypad")):
            keypad = Keypad(bus, 5)
            for _ in range(4):
                assert await keypad.press("call")
                hall.pass_time(pause)
        assert hall.events == ["called"] * presses

    run(test)


@pytest.mark.parametrize(("away", "presses"), [(3, 1), (40, 2)])
def test_a_key_repeated_after_a_kill_before_its_answer_is_the_same_press(
    away: float, presses: int
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            box = pad(bus, "keys-5", 5, role="keypad")
            keypad = Keypad(bus, 5)
            keypad.tries = 1
            hall.killed_after_commit = True
            async with watching(hall, box) as task:
                assert not await keypad.press("call")
                with pytest.raises(Killed):
                    await task
            hall.killed_after_commit = False
            hall.pass_time(away)
            keypad.tries = 5
            async with watching(hall, box):
                assert await keypad.press("call")
        assert hall.events == ["called"] * presses

    run(test)


def test_the_finish_key_of_a_keypad_with_a_pad_starts_the_rating() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "desk-5", 5, role="both")):
            assert await Keypad(bus, 5).press("finish")
            (prompt,) = hall.bodies(RatingPrompt)
            assert prompt == RatingPrompt(f"desk-5:{NINE}:1", "05")
            hall.pass_time(9)
            assert await Pad(bus, 5).press(2)
        assert hall.events == ["finished"]
        (rating,) = hall.ratings
        assert (rating.rating_id, rating.level, rating.problem) == (
            f"pad:desk-5:desk-5:{NINE}:1",
            3,
            "",
        )

    run(test)


def test_an_order_for_a_rating_that_the_key_has_started_asks_nobody_twice() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "desk-5", 5, role="both")):
            assert await Keypad(bus, 5).press("finish")
            echo = bytes(bus.heard)
            hall.orders.put_nowait(("desk-5", ASK))
            await until(lambda: len(hall.bodies(RatingPrompt)) == 2)
            assert bus.heard == echo
            assert await Pad(bus, 5).press(2)
            assert hall.ratings[0].session == "s-418"

    run(test)


def test_a_pad_tells_no_events_of_the_queue() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "pad-5", 5)):
            keypad = Keypad(bus, 5)
            assert await keypad.press("call")
            assert await keypad.press("finish")
            assert hall.facts["pad-5"]["staff_keys"] == 2
        assert hall.events == []
        assert len(hall.bodies(RatingPrompt)) == 1

    run(test)


def test_the_pause_key_is_a_toggle_whose_state_is_told_only_when_it_is_known() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            desk = pad(bus, "desk-5", 5, role="both")
            keypad = Keypad(bus, 5)

            async def press(*keys: str) -> None:
                for key in keys:
                    hall.pass_time(60)
                    assert await keypad.press(key)

            async with watching(hall, desk):
                await press("pause")
                assert (hall.events, hall.told) == ([], ["pause_unknown"])
                await press("finish", "pause")
                assert hall.events == ["finished", "window_paused"]
                hall.pass_time(60)
                assert await Pad(bus, 5).press(1)
                assert hall.ratings[0].problem == "paused"
            async with watching(hall, desk):
                await press("pause", "pause", "call", "pause")
        assert hall.events == [
            "finished", "window_paused", "window_resumed", "window_paused", "called",
        ]  # fmt: skip
        assert [body.detail for body in hall.bodies(DeviceEvent)] == [
            "pause or resume: the key is a toggle",
            "called while paused",
            "pause or resume: the key is a toggle",
        ]

    run(test)


def test_cancel_ends_the_session_and_other_keys_are_told_by_name() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "desk-5", 5, role="both")):
            keypad = Keypad(bus, 5)
            assert await keypad.press("finish")
            assert await keypad.press("stand_behind")
            assert await keypad.press("cancel")
            assert await Pad(bus, 5).press(1)
        assert hall.told == ["stand_behind", "cancel"]
        assert [rating.problem for rating in hall.ratings] == ["no_session"]

    run(test)


def test_an_unknown_key_is_kept_as_it_came_and_answered() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "keys-5", 5, role="keypad")):
            keypad = Keypad(bus, 5)
            assert await keypad.send(b"\x09\x0f")
        (reading,) = hall.journal.values()
        assert reading.body == Unreadable("a frame of unknown meaning")
        assert reading.raw == ff68(5, 1, b"\x09\x0f")

    run(test)


@pytest.mark.parametrize(
    ("show", "digits"),
    [
        (Show(("",), ticket="037"), (0x0A, 0x0A, 0x0A, 0, 3, 7)),
        (Show(("",), waiting=12), (0, 1, 2, 0x0A, 0x0A, 0x0A)),
        (Show(("",), ticket="A1037", waiting=2000), (9, 9, 9, 0, 3, 7)),
        (Show(("",), ticket="B7", waiting=0), (0, 0, 0, 0x0A, 0x0A, 7)),
    ],
)
def test_a_keypad_shows_people_waiting_and_the_end_of_the_ticket(
    show: Show, digits: tuple[int, ...]
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus, "keys-5", 5, role="keypad")):
            keypad = Keypad(bus, 5)
            hall.orders.put_nowait(("keys-5", show))
            await until(lambda: keypad.waiting + keypad.ticket != "      ")
            assert bus.heard == ff68(5, 2, bytes(digits))

    run(test)


def test_only_what_can_be_done_is_done() -> None:
    async def test() -> None:
        hall = Hall()
        async with (
            a_line() as bus,
            watching(hall, pad(bus), pad(bus, "keys-5", 5, role="keypad")),
        ):
            hall.orders.put_nowait(("pad-7", Show(("",), ticket="A037")))
            hall.orders.put_nowait(("keys-5", ASK))
            hall.orders.put_nowait(("keys-5", Show(("",), ticket="A001")))
            hall.orders.put_nowait(("pad-7", ASK))
            await until(lambda: hall.bodies(RatingPrompt))
            assert bus.heard == ff68(5, 2, bytes.fromhex("0A0A0A000001")) + ff68(7, 1, b"\x0b")

    run(test)


# A queue host owns the bus ------------------------------------------------------------------------


def listening(bus: SerialBus, role: str = "both") -> Box:
    return pad(bus, "desk-5", 5, role=role, listen_only=True)


def test_a_key_and_the_hosts_echo_are_one_press_and_nothing_is_written() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            host, keypad, seen = QueueHost(bus), Keypad(bus, 5), Pad(bus, 5)
            async with watching(hall, listening(bus)):
                assert await keypad.press("call")
                await hall.hears(2)
                await host.show(5, bytes.fromhex("0A0A0A000307"))
                await hall.hears(3)
                hall.pass_time(1)
                assert await keypad.press("recall")
                await hall.hears(5)
                hall.pass_time(1)
                assert await keypad.press("finish")
                await hall.hears(7)
                assert await seen.press(0)
                await hall.hears(9)
                hall.orders.put_nowait(("desk-5", ASK))
                hall.orders.put_nowait(("desk-5", Show(("",), ticket="A037")))
                hall.pass_time(1)
                assert await keypad.press("call")
                await hall.hears(11)

            assert hall.taken == 2
            assert bus.heard == b""
        assert hall.events == ["called", "recalled", "finished", "called"]
        assert [rating.level for rating in hall.ratings] == [5]
        assert hall.ratings[0].session.startswith("desk-5:")
        assert hall.told == []
        assert hall.bodies(Unreadable) == []

    run(test)


@pytest.mark.parametrize(
    ("times", "presses"),
    [
        ((0, 20), 1),
        ((0, 500), 1),
        ((0, 501), 2),
        ((0, 20, 800, 820), 2),
        ((0, 300, 700, 900), 2),
    ],
)
def test_within_half_a_second_the_same_bytes_are_one_press(
    times: tuple[int, ...], presses: int
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, listening(bus)):
            for number, time in enumerate(times, start=1):
                hall.time = NINE + time
                bus.post(ff68(5, 1, b"\x0c"))
                await hall.hears(number)
            # Another frame behind it: then the ones before have been understood.
            bus.post(ff68(5, 1, b"\x0d"))
            await until(lambda: "recalled" in hall.events)
        assert hall.events.count("called") == presses

    run(test)


def test_an_echo_that_comes_after_a_restart_is_no_press() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            async with watching(hall, listening(bus)):
                bus.post(ff68(5, 1, b"\x0c"))
                await until(lambda: hall.events)
            hall.pass_time(0.4)
            async with watching(hall, listening(bus)):
                bus.post(ff68(5, 1, b"\x0c") + ff68(5, 1, b"\x0d"))
                await until(lambda: len(hall.events) == 2)
        assert hall.events == ["called", "recalled"]

    run(test)


def test_a_silent_queue_host_is_told_after_three_keys_and_again_after_its_return() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            host, keypad = QueueHost(bus), Keypad(bus, 5)
            keypad.tries = 1
            async with watching(hall, listening(bus)):

                async def press(times: int, silent: bool) -> None:
                    host.silent = silent
                    for _ in range(times):
                        heard = len(hall.contacts) - 1
                        assert await keypad.press("call") is not silent
                        await hall.hears(heard + (1 if silent else 2))
                        hall.pass_time(1)

                await press(2, silent=True)
                await press(1, silent=False)
                await press(2, silent=True)
                assert hall.told == []
                await press(3, silent=True)
                await until(lambda: hall.told == ["queue_host_silent"])
                await press(1, silent=False)
                await press(3, silent=True)
                await until(lambda: hall.told == ["queue_host_silent"] * 2)
        assert len(hall.events) == 12

    run(test)


def test_the_hosts_prompt_to_a_pad_is_overheard() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, listening(bus, role="pad")):
            for _ in range(4):
                prompts = len(hall.bodies(RatingPrompt))
                bus.post(ff68(5, 1, b"\x0b"))
                await until(lambda prompts=prompts: len(hall.bodies(RatingPrompt)) > prompts)
                hall.pass_time(60)
            bus.post(ff68(5, 0x11, b"\1") + ff68(5, 1, b"\1"))
            await until(lambda: hall.ratings)
        assert hall.events == []
        assert hall.told == []

    run(test)


def test_who_served_is_known_from_the_order_though_nobody_was_prompted_by_us() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, listening(bus, role="pad")):
            hall.orders.put_nowait(("desk-5", ASK))
            await until(lambda: ("desk-5", "state") in hall.marks)
            bus.post(ff68(5, 0x11, b"\1") + ff68(5, 1, b"\1"))
            await until(lambda: hall.ratings)
            assert bus.heard == b""
        assert hall.bodies(RatingPrompt) == []
        assert (hall.ratings[0].session, hall.ratings[0].person) == ("s-418", "9001")

    run(test)


# Other pads --------------------------------------------------------------------------------------

BANK: dict[str, int | str] = {"31": 5, "32": 4, "33": 3, "34": "none", "35": 2}


@pytest.mark.parametrize(
    ("profile", "scale", "option", "key", "level"),
    [
        ("bank-ascii", BANK, 1, "31", 5),
        ("bank-ascii", BANK, 4, "34", None),
        ("bank-ascii-pj", {}, 2, "3032", 4),
        ("bank-ascii-ph", {}, 5, "05", 1),
    ],
)
def test_a_bank_terminal_is_prompted_and_answers(
    profile: str, scale: dict[str, int | str], option: int, key: str, level: int | None
) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            terminal = BankTerminal(bus)
            box = pad(bus, address=None, profile=profile, scale=scale, prompt_seconds=25)
            async with watching(hall, box):
                hall.orders.put_nowait(("pad-7", ASK))
                await terminal.prompted.wait()
                await until(lambda: hall.bodies(RatingPrompt))
                await terminal.press(option)
                await until(lambda: hall.ratings)
                if profile == "bank-ascii":
                    assert terminal.asked == [
                        "9001", "", "", "请您评价", "谢谢", "请对我的服务进行评价", 5, 25,
                    ]  # fmt: skip
                else:
                    assert terminal.asked[:3] == [10, 5, 25]
        (rating,) = hall.ratings
        assert (rating.raw_key, rating.level, rating.session) == (key, level, "s-418")
        assert rating.problem == ("" if level else "timed_out")

    run(test)


def test_a_bank_terminal_that_declines_is_told_and_waits_for_nobody() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            terminal = BankTerminal(bus)
            terminal.refuses = "05"
            async with watching(hall, pad(bus, address=None, profile="bank-ascii-pj", scale={})):
                hall.orders.put_nowait(("pad-7", ASK))
                await until(lambda: hall.told)
                await terminal.press(1)
                await until(lambda: hall.ratings)
        assert hall.bodies(DeviceEvent) == [DeviceEvent("prompt_refused", 5, "05")]
        assert hall.ratings[0].session == ""

    run(test)


def test_a_bare_byte_counts_once_and_inside_a_session_only() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            keys = KeybytePad(bus)
            async with watching(hall, pad(bus, address=None, profile="keybyte", scale={})):
                await keys.press(0x33)
                await until(lambda: hall.facts["pad-7"].get("outside_session") == 1)
                hall.orders.put_nowait(("pad-7", ASK))
                await until(lambda: hall.bodies(RatingPrompt))
                for byte in (0x41, 0x35, 0x33, 0x35):
                    await keys.press(byte)
                await until(lambda: hall.facts["pad-7"].get("repeats") == 1)
                assert hall.facts["pad-7"]["extra_presses"] == 1
                assert hall.facts["pad-7"]["noise_bytes"] == 1

            assert bus.heard == b""
        assert [(rating.raw_key, rating.level) for rating in hall.ratings] == [("35", 2)]
        assert [body.reason for body in hall.bodies(Unreadable)] == [
            "a key byte outside a rating session"
        ]

    run(test)


# What goes wrong ---------------------------------------------------------------------------------


def test_a_wrong_checksum_is_not_acknowledged() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            seven.broken = 1
            assert await seven.press(1)
            assert seven.sent == 2
            assert hall.facts["pad-7"]["bad_frames"] == 1
            assert bus.heard == ff68(7, 1, b"\1")
        assert len(hall.ratings) == 1

    run(test)


def test_many_wrong_checksums_are_told_once_and_not_when_they_are_few() -> None:
    async def test() -> None:
        hall = Hall()
        good, bad = ff68(7, 3), bytes.fromhex("FF 68 02 02 68 07 03 0B 16")
        async with a_line() as bus, watching(hall, pad(bus)):

            async def hear(frames: int, broken: int) -> None:
                before = hall.facts["pad-7"].get("bad_frames", 0)
                contacts = len(hall.contacts)
                bus.post(good * frames + bad * broken)
                await until(lambda: len(hall.contacts) == contacts + frames)
                await until(lambda: hall.facts["pad-7"].get("bad_frames", 0) == before + broken)

            await hear(60, 3)
            assert hall.told == []
            hall.pass_time(600)
            await hear(50, 3)
            await hear(10, 3)
            assert hall.told == ["checksum_trouble"]
            event = hall.bodies(DeviceEvent)[0]
            assert event.detail.startswith("3 of 53 frames in 5 min")
            hall.pass_time(600)
            await hear(80, 0)
            await hear(1, 9)
            assert hall.told == ["checksum_trouble"] * 2
        # At most one a minute is journalled.
        assert len(hall.bodies(Unreadable)) == 3

    run(test)


def test_half_a_frame_does_not_hold_up_the_next() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            seven.halves = 1
            await seven.send_once(ff68(7, 0x11, b"\1"))
            await until(lambda: hall.facts["pad-7"].get("noise_bytes") == 5)
            assert await seven.press(1)
        assert len(hall.ratings) == 1
        assert [body.reason for body in hall.bodies(Unreadable)] == ["the frame ends after 5 bytes"]

    run(test)


def test_an_unknown_address_is_told_once_and_not_answered() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            stranger, seven = Pad(bus, 9), Pad(bus, 7)
            stranger.tries = 1
            async with watching(hall, pad(bus)):
                assert not await stranger.press(1)
                assert not await stranger.press(2)
                await until(lambda: hall.facts["pad-7"].get("unknown_address") == 2)
            async with watching(hall, pad(bus)):
                assert not await stranger.press(3)
                assert await seven.press(1)
        assert len(hall.ratings) == 1
        assert [(body.name, body.code) for body in hall.bodies(DeviceEvent)] == [
            ("unknown_address", 9)
        ]

    run(test)


def test_two_pads_with_one_address_are_noticed() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            for number in range(1, 5):
                bus.post(ff68(7, 0x11, b"\1") + ff68(7, 0x11, b"\2"))
                await until(lambda number=number: len(bus.heard) == 20 * number)
                hall.pass_time(60)
        assert hall.told == ["address_conflict"]
        assert hall.bodies(DeviceEvent)[0].code == 7

    run(test)


def test_two_keys_of_one_pad_after_another_are_no_conflict() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            seven = Pad(bus, 7)
            for _ in range(5):
                assert await seven.press(1)
                assert await seven.press(2)
                hall.pass_time(60)
            assert hall.facts["pad-7"]["extra_presses"] == 5
        assert hall.told == []

    run(test)


def test_an_adapter_that_hears_itself_is_not_believed() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus:
            bus.echoes = True
            keypad, five = Keypad(bus, 5), Pad(bus, 5)
            async with watching(hall, pad(bus, "desk-5", 5, role="both")):
                hall.orders.put_nowait(("desk-5", ASK))
                await five.prompted.wait()
                assert await five.press(1)
                hall.orders.put_nowait(("desk-5", Show(("",), ticket="A037")))
                await until(lambda: keypad.ticket == "037")
                hall.pass_time(60)
                assert await keypad.press("call")
                hall.pass_time(60)
                assert await keypad.press("recall")
        assert hall.events == ["called", "recalled"]
        assert len(hall.ratings) == 1
        assert len(hall.bodies(RatingPrompt)) == 1
        assert "noise_bytes" not in hall.facts["desk-5"]
        assert "repeats" not in hall.facts["desk-5"]

    run(test)


def test_an_unplugged_adapter_is_lost_and_found_under_its_stable_name(tmp_path: Path) -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line(link=tmp_path / "usb-pad") as bus:
            box = pad(bus)
            seven = Pad(bus, 7)
            async with watching(hall, box) as task:
                assert await seven.press(1)
                bus.unplug()
                with pytest.raises(DeviceLost, match=r"is gone|failed"):
                    await task
            with pytest.raises(DeviceLost, match="There is no serial port"):
                await RatingPad([box]).run(hall)
            bus.plug()
            hall.pass_time(60)
            async with watching(hall, box):
                assert await seven.press(1)
        assert len(hall.ratings) == 2

    run(test)


def test_a_port_that_another_program_holds_is_said_to_be_held() -> None:
    async def test() -> None:
        async with a_line() as bus:
            other = os.open(bus.path, os.O_RDWR | os.O_NOCTTY)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with pytest.raises(DeviceLost, match="Another program holds the serial port"):
                    await RatingPad([pad(bus)]).run(Hall())
            finally:
                os.close(other)

    run(test)


def test_a_flood_of_noise_fills_no_journal_and_hides_no_rating() -> None:
    async def test() -> None:
        hall = Hall()
        noise = random.Random(20250314)
        async with a_line() as bus, watching(hall, pad(bus)):
            sent = 0
            for _ in range(40):
                # The address is not 7, so that no accident is a rating of ours.
                piece = noise.choice([ff68(9, 1, b"\1")[: noise.randrange(9)], noise.randbytes(50)])
                bus.post(piece)
                sent += len(piece)
                await asyncio.sleep(0)
            await until(lambda: hall.facts["pad-7"].get("noise_bytes", 0) > sent - 64)
            assert await Pad(bus, 7).press(1)
        assert [rating.level for rating in hall.ratings] == [4]
        assert len(hall.bodies(Unreadable)) == 1

    run(test)


def test_an_open_port_is_contact_and_a_frame_is_proof() -> None:
    async def test() -> None:
        hall = Hall()
        async with a_line() as bus, watching(hall, pad(bus)):
            assert hall.contacts == ["pad-7"]
            assert hall.facts["pad-7"]["unverified"] is True
            assert await Pad(bus, 7).press(1)
            assert hall.facts["pad-7"]["unverified"] is False
            assert len(hall.contacts) > 1

    run(test)


def test_the_emulated_devices_play_on_a_real_port_too() -> None:
    async def test() -> None:
        ours, theirs = os.openpty()
        try:
            async with a_line(port=os.ttyname(theirs)) as bus:
                seven = Pad(bus, 7)
                pressed = asyncio.create_task(seven.press(1))
                await until(lambda: seven.sent)
                assert os.read(ours, 100) == bytes.fromhex("FF 68 03 03 68 07 11 01 19 16")
                os.write(ours, bytes.fromhex("FF 68 03 03 68 07 01 01 09 16"))
                assert await pressed
        finally:
            os.close(ours)
            os.close(theirs)

    run(test)
