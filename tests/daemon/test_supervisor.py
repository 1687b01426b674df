"""One task a link: what goes wrong with one costs the others nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from config.load import DeviceSpec, Hall, load
from daemon.database import FILE_NAME, open_reader
from daemon.pipeline import Pipeline
from daemon.simulation import Simulation, simulate
from daemon.supervisor import REFUSED_PAUSE, Supervisor
from drivers.base import DeviceLost, DeviceRefused
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from drivers.zkteco import ZkTecoOptions
from rules.model import MINUTE, Punch, Reading

ZONE = ZoneInfo("Asia/Shanghai")
START = 1_772_407_800_000  # 2026-03-02 07:30 +08:00
SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[people]]
code = "1001"
name = "林一鸣"
[storage]
state_dir = "."
"""


@dataclass(frozen=True)
class Behaviour:
    """Options of the driver that tests play: ``does`` is its ``run``."""

    does: Callable[[Any, str], Coroutine[Any, Any, None]]
    at: str = ""

    def link(self) -> str:
        return self.at


class PlayedDriver:
    options = Behaviour

    def __init__(self, devices: Any) -> None:
        self.devices = devices

    async def run(self, context: Any) -> None:
        for device in self.devices:
            await device.options.does(context, device.id)


@pytest.fixture(autouse=True)
def played_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("drivers.played")
    module.DRIVER = PlayedDriver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "drivers.played", module)


def device(
    id_: str, does: Callable[[Any, str], Coroutine[Any, Any, None]], at: str = ""
) -> DeviceSpec:
    return DeviceSpec(id_, id_, "played", "", "", True, True, Behaviour(does, at or id_))


async def healthy(context: Any, name: str) -> None:
    while True:
        context.contact(name)
        await context.sleep(30)


class Hallway:
    """A pipeline and a supervisor on a simulated clock."""

    def __init__(self, simulation: Simulation, folder: Path) -> None:
        settings = folder / "h.toml"
        settings.write_text(SETTINGS, "utf-8")
        self.hall: Hall = load(settings)
        self.path = folder / FILE_NAME
        self.simulation = simulation
        self.pipeline = simulation.pipeline = Pipeline(self.path, self.hall, simulation.clock)
        self.pipeline.start()
        self.supervisor = Supervisor(self.pipeline, simulation.clock)

    async def minutes(self, number: float) -> None:
        await self.simulation.play(self.simulation.clock.now() + round(number * MINUTE))

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        reader = open_reader(self.path)
        try:
            return reader.execute(sql).fetchall()
        finally:
            reader.close()

    def links(self, name: str) -> list[bool]:
        return [
            '"up":true' in body
            for (body,) in self.ask(
                f"SELECT body FROM reading WHERE kind = 'link' AND device = '{name}' ORDER BY seq"
            )
        ]

    async def stop(self) -> None:
        await self.supervisor.stop()
        self.pipeline.stop()


Story = Callable[[Hallway], Coroutine[Any, Any, None]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story from 07:30 on."""

    def run(story: Story) -> None:
        async def play(simulation: Simulation) -> None:
            hallway = Hallway(simulation, tmp_path)
            try:
                await story(hallway)
            finally:
                await hallway.stop()

        simulate(START, play)

    return run


def test_a_lost_device_is_tried_again_with_growing_pauses_and_told_once(tell):
    tries: list[int] = []

    async def silent(context: Any, _name: str) -> None:
        tries.append(context.now())
        raise DeviceLost("no answer from 10.0.0.9")

    async def story(hallway: Hallway) -> None:
        await hallway.supervisor.apply([device("east", silent)], ZONE)
        await hallway.minutes(10)

        pauses = [later - earlier for earlier, later in pairwise(tries)]
        for number, pause in enumerate(pauses):
            expected = min(60_000, 1000 * 2**number)
            assert 0.75 * expected <= pause <= 1.25 * expected
        assert len(tries) > 12
        assert hallway.links("east") == [False]
        assert hallway.supervisor.contacts.notes["east"]["last_error"] == "no answer from 10.0.0.9"

    tell(story)


def test_one_broken_driver_costs_the_others_nothing(tell):
    async def broken(_context: Any, _name: str) -> None:
        raise ZeroDivisionError("a defect")

    async def story(hallway: Hallway) -> None:
        devices = [device("bad", broken), device("good", healthy)]
        await hallway.supervisor.apply(devices, ZONE)
        await hallway.minutes(5)

        assert hallway.links("good") == [True]
        assert hallway.links("bad") == [False]
        assert "ZeroDivisionError" in hallway.supervisor.contacts.notes["bad"]["last_error"]

    tell(story)


def test_a_device_that_refuses_is_asked_rarely(tell):
    tries: list[int] = []

    async def refusing(context: Any, _name: str) -> None:
        tries.append(context.now())
        raise DeviceRefused("the comm key is wrong")

    async def story(hallway: Hallway) -> None:
        await hallway.supervisor.apply([device("east", refusing)], ZONE)
        await hallway.minutes(20)

        assert len(tries) <= 1 + 20 * 60 / (REFUSED_PAUSE * 0.75)
        assert min(b - a for a, b in pairwise(tries)) >= REFUSED_PAUSE * 750

    tell(story)


def test_a_loss_is_dated_to_the_last_sign_of_life_and_the_return_is_told_once(tell):
    async def flaky(context: Any, name: str) -> None:
        context.contact(name)
        await context.sleep(240)
        raise DeviceLost("cut")

    async def story(hallway: Hallway) -> None:
        await hallway.supervisor.apply([device("east", flaky)], ZONE)
        await hallway.minutes(4.5)

        rows = hallway.ask("SELECT at, received_at FROM reading WHERE kind = 'link' ORDER BY seq")
        assert hallway.links("east") == [True, False, True]
        assert rows[1][0] == START
        assert rows[1][1] == START + 4 * MINUTE

    tell(story)


def test_a_reload_leaves_unchanged_links_alone_and_stops_what_is_gone(tell):
    began: list[str] = []

    async def counted(context: Any, name: str) -> None:
        began.append(name)
        await healthy(context, name)

    async def story(hallway: Hallway) -> None:
        first = [device("a", counted), device("b", counted), device("c", counted)]
        await hallway.supervisor.apply(first, ZONE)
        await hallway.minutes(1)
        changed = [first[0], replace(first[1], name="renamed"), device("d", counted)]
        await hallway.supervisor.apply(changed, ZONE)
        await hallway.minutes(1)

        assert sorted(began) == ["a", "b", "b", "c", "d"]
        assert hallway.links("c") == [True, False]
        assert hallway.links("a") == [True]

    tell(story)


def test_a_device_out_of_service_is_not_watched(tell):
    async def story(hallway: Hallway) -> None:
        spec = replace(device("east", healthy), in_service=False)
        await hallway.supervisor.apply([spec], ZONE)
        await hallway.minutes(1)

        assert hallway.links("east") == []

    tell(story)


def test_resume_points_are_given_back_after_a_restart(tell):
    seen: list[str | None] = []

    async def marking(context: Any, name: str) -> None:
        seen.append(context.mark(name, "stamp"))
        reading = Reading(name, context.now(), Punch("1001"))
        await context.emit((reading,), {(name, "stamp"): "17"})
        seen.append(context.mark(name, "stamp"))
        await context.sleep(3600)

    async def story(hallway: Hallway) -> None:
        await hallway.supervisor.apply([device("east", marking)], ZONE)
        await hallway.minutes(1)
        await hallway.supervisor.apply([], ZONE)
        await hallway.supervisor.apply([device("east", marking)], ZONE)
        await hallway.minutes(1)

        assert seen == [None, "17", "17", "17"]

    tell(story)


def test_a_real_terminal_that_loses_its_cable_delivers_what_it_recorded_meanwhile(tell):
    async def story(hallway: Hallway) -> None:
        clock = hallway.simulation.clock

        def wall() -> datetime:
            return datetime.fromtimestamp(clock.now() / 1000, ZONE).replace(tzinfo=None)

        terminal = ZkTerminal(
            "T1", clock=wall, users=[ZkUser(1, "1001", "林一鸣")], transport="tcp",
            sleep=clock.sleep,
        )  # fmt: skip
        port = await terminal.start()
        options = ZkTecoOptions("127.0.0.1", port, "tcp")
        spec = DeviceSpec("east", "东门", "zkteco", "", "", True, True, options)
        try:
            await hallway.supervisor.apply([spec], ZONE)
            await hallway.minutes(45)
            assert await terminal.punch("1001")
            await terminal.unplug()
            await hallway.minutes(10)
            assert await terminal.punch("1001")
            await hallway.minutes(10)
            await terminal.plug_in()
            await hallway.minutes(5)
        finally:
            await terminal.stop()

        punches = hallway.ask(
            "SELECT at, body FROM reading WHERE kind = 'punch' ORDER BY at",
        )
        assert [(at - START) // MINUTE for at, _ in punches] == [45, 55]
        assert ['"live":true' in body for _, body in punches] == [True, False]
        assert hallway.links("east") == [True, False, True]

    tell(story)


def test_a_defect_is_told_without_its_text(tell, capsys):
    """It may hold a password."""

    async def broken(_context: Any, _name: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(secret())

    async def secret() -> None:
        "管理员:r:top-secret".encode("latin-1")

    async def story(hallway: Hallway) -> None:
        await hallway.supervisor.apply([device("bad", broken)], ZONE)
        await hallway.minutes(1)

        told = hallway.supervisor.contacts.notes["bad"]["last_error"]
        assert "UnicodeEncodeError at test_supervisor.py" in told
        output = capsys.readouterr()
        assert "top-secret" not in told + output.out + output.err

    tell(story)
