"""False accusations that the truth generator once found, as the few readings that led to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from config.load import load
from daemon.database import FILE_NAME
from daemon.pipeline import Pipeline
from daemon.simulation import SimulatedClock
from rules.model import (
    DAY,
    Body,
    ClockCheck,
    Instant,
    Link,
    LogComplete,
    Punch,
    Reading,
    Slot,
    Violation,
)
from rules.workdays import at_minute

MONDAY = date(2026, 3, 2)
MIDNIGHT = at_minute(MONDAY, 0, ZoneInfo("Asia/Shanghai"))
SETTINGS = """
[hall]
id = "h1"
name = "大厅"
start_date = 2026-03-02
[[people]]
code = "1001"
name = "林一鸣"
employed_from = 2026-03-02
employed_until = 2026-03-02
[[devices]]
id = "east"
driver = "zkteco"
host = "127.0.0.1"
"""


def at(clock: str) -> Instant:
    hours, minutes, seconds = (int(part) for part in f"{clock}:00".split(":")[:3])
    return MIDNIGHT + ((hours * 60 + minutes) * 60 + seconds) * 1000


def judged(
    folder: Path, told: Sequence[tuple[str, str, Body]]
) -> tuple[dict[tuple[str, str], Slot], list[Violation]]:
    """The slots and final violations after ``(received, by its own clock, body)`` were told, and
    everything else of the log was read two days later."""
    path = folder / "h1.toml"
    path.write_text(SETTINGS, "utf-8")
    clock = SimulatedClock(at("06:00"))
    pipeline = Pipeline(folder / FILE_NAME, load(path), clock, synchronous="normal")
    pipeline.start()

    def tell(received_at: Instant, own_time: Instant, body: Body) -> None:
        clock.jump(received_at)
        pipeline.submit((Reading("east", own_time, body, serial="E1"),), lambda _: None)
        pipeline.settle().result()

    tell(at("06:00"), at("06:00"), Link(True))
    for received, own, body in told:
        tell(at(received), at(own), body)
    tell(MIDNIGHT + 2 * DAY, MIDNIGHT + 2 * DAY, LogComplete())
    clock.jump(MIDNIGHT + 5 * DAY)
    pipeline.settle().result()
    pipeline.stop()
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        (slots,) = connection.execute("SELECT slots FROM attendance_day").fetchone()
        violations = [
            msgspec.json.decode(body, type=Violation)
            for (body,) in connection.execute(
                "SELECT body FROM violation WHERE state = 'active' AND finality = 'final'"
            )
        ]
    found = msgspec.json.decode(slots, type=list[Slot])
    return {(slot.segment, slot.slot): slot for slot in found}, violations


def punch(clock: str) -> tuple[str, str, Body]:
    return clock, clock, Punch("1001", verify=1, live=True)


def test_a_row_from_before_what_was_read_already_was_dated_by_a_clock_set_back(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, str, Body]] = [
        ("08:00", "08:00", ClockCheck("live")),
        punch("08:20"),
        ("11:20", "11:20", LogComplete()),
        # At 12:22 by a clock that is two hours slow since 11:30; to the driver it looks old.
        ("12:22", "10:22", Punch("1001", verify=1)),
        punch("14:20"),
        punch("18:05"),
    ]

    slots, violations = judged(tmp_path, told)

    assert slots["am", "off"].verdict == "unverified"
    assert "clock_untrusted" in slots["am", "off"].flags
    assert slots["am", "on"].verdict == "ok"
    assert violations == []


def test_punches_at_both_ends_of_a_power_cut_do_not_bridge_it(tmp_path: Path) -> None:
    told: list[tuple[str, str, Body]] = [
        # No power from 08:26:30 to 08:34:30.  Contact was last at 08:26:00, and is again at
        # 08:35:30; others punched just before and just after.  1001 came at 08:28.
        ("08:29", "08:26", Link(False, "no answer")),
        ("08:35:30", "08:35:30", Link(True)),
        ("08:35:31", "08:26:20", Punch("1002", verify=1)),
        ("08:35:31", "08:35:00", Punch("1003", verify=1)),
        punch("08:45"),
        punch("12:01"),
        punch("14:20"),
        punch("18:05"),
    ]

    slots, violations = judged(tmp_path, told)

    assert slots["am", "on"].verdict == "serious_late"
    assert slots["am", "on"].path == "partial"
    assert slots["am", "on"].finality == "provisional"
    assert violations == []


def test_punches_in_the_midst_of_a_network_outage_still_settle_it(tmp_path: Path) -> None:
    told: list[tuple[str, str, Body]] = [
        ("08:26", "08:23", Link(False, "no answer")),
        ("08:41", "08:41", Link(True)),
        *(("08:41", at_, Punch("1002", verify=1)) for at_ in ("08:24", "08:31", "08:34")),
        punch("08:45"),
        punch("12:01"),
        punch("14:20"),
        punch("18:05"),
    ]

    slots, violations = judged(tmp_path, told)

    assert slots["am", "on"].path == "up"
    assert [violation.code for violation in violations] == ["ATT-02"]
