"""Halls to measure on: settings, terminals and years of invented punches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from config.load import Hall, load
from daemon.clock import Clock
from daemon.database import FILE_NAME, open_writer
from daemon.journal import Journal
from rules.model import (
    DAY,
    MINUTE,
    ClockCheck,
    DaemonStarted,
    Instant,
    Link,
    LogComplete,
    Punch,
    Reading,
)
from rules.workdays import local_midnight

ZONE = ZoneInfo("Asia/Shanghai")
TERMINALS = 8
PUNCH_MINUTES = (8 * 60 + 20, 12 * 60 + 5, 14 * 60 + 20, 18 * 60 + 5)


class StandingClock(Clock):
    """Shows what it was set to."""

    def __init__(self, now: Instant) -> None:
        self.at = now

    def now(self) -> Instant:
        return self.at


def code(number: int) -> str:
    return str(10_001 + number)


def write_settings(
    folder: Path,
    people: int,
    start: date,
    *,
    broker: int = 0,
    api: int = 0,
    devices: Sequence[str] = (),
) -> Path:
    """A hall with the standard timetable.  ``devices`` are whole tables; without any there are
    ``TERMINALS`` terminals that are only named, not connected to."""
    lines = [f'[hall]\nid = "bench"\nname = "测速大厅"\nstart_date = {start}\n']
    lines += [f'[[units]]\nid = "u{n}"\nname = "单位{n}"\n' for n in range(20)]
    lines += [
        f'[[people]]\ncode = "{code(n)}"\nname = "演示{n}"\nunit = "u{n % 20}"\n'
        for n in range(people)
    ]
    lines += devices
    if broker:
        lines.append('[[sinks]]\ntype = "mqtt"\nname = "mqtt"\nhost = "127.0.0.1"')
        lines.append(f"port = {broker}\n")
    lines.append(f'[api]\nport = {api}\n[storage]\nstate_dir = "."\n[log]\nlevel = "error"\n')
    path = folder / "hall.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), "utf-8")
    return path


def terminal_table(number: int, *, port: int) -> str:
    """A terminal to be asked."""
    return (
        f'[[devices]]\nid = "t{number}"\nname = "考勤机{number}"\ndriver = "zkteco"\n'
        f'host = "127.0.0.1"\nport = {port}\nprotocol = "tcp"\n'
    )


def push_table(number: int, port: int) -> str:
    return (
        f'[[devices]]\nid = "p{number}"\nname = "人脸机{number}"\ndriver = "zk_push"\n'
        f'serial = "BENCH{number:05}"\nport = {port}\ndelay = 30\n'
    )


def make_hall(folder: Path, people: int, start: date, terminals: int = TERMINALS) -> Hall:
    """For use without drivers."""
    devices = [terminal_table(n, port=1 + n) for n in range(terminals)]
    return load(write_settings(folder, people, start, devices=devices))


def workdays(hall: Hall, first: date, number: int) -> list[date]:
    found: list[date] = []
    while len(found) < number:
        if hall.calendar.kind(first).works:
            found.append(first)
        first += timedelta(days=1)
    return found


def day_of_punches(
    hall: Hall, work_date: date, people: int, chance: random.Random, terminals: int = TERMINALS
) -> Iterator[Reading]:
    """Four punches each: one in twenty is late or early, one in fifty missing."""
    midnight = local_midnight(work_date, hall.zone)
    for number in range(people):
        for place, minute in enumerate(PUNCH_MINUTES):
            luck = chance.random()
            if luck < 0.02:
                continue
            if luck < 0.07:
                minute += 30 if place % 2 == 0 else -25
            at = midnight + minute * MINUTE + chance.randrange(9 * MINUTE) // 1000 * 1000
            yield Reading(f"t{number % terminals}", at, Punch(code(number), 1, 0, True))


def write_history(hall: Hall, dates: Sequence[date], people: int) -> int:
    """Journal the punches of these dates as they would have come, with terminals in contact and in
    step all the time; nothing is judged.  Returns the number of punches."""
    path = hall.state_dir / FILE_NAME
    connection = open_writer(path, "normal")
    journal = Journal(connection, hall.zone)
    chance = random.Random(250)
    begin = local_midnight(dates[0], hall.zone) - DAY
    devices = [device.id for device in hall.devices]
    first = [Reading("hallwatch", begin, DaemonStarted("bench"))]
    first += [Reading(device, begin, Link(True)) for device in devices]
    connection.execute("BEGIN")
    journal.append([(first, begin)])
    written = 0
    for work_date in dates:
        midnight = local_midnight(work_date, hall.zone)
        batches: list[tuple[Sequence[Reading], Instant]] = [
            ([Reading(device, midnight + 200, ClockCheck())], midnight) for device in devices
        ]
        punches = sorted(
            day_of_punches(hall, work_date, people, chance, len(devices)), key=lambda one: one.at
        )
        batches += [([punch], punch.at + 1000) for punch in punches]
        evening = midnight + DAY - 60 * MINUTE
        batches += [([Reading(d, evening, LogComplete())], evening) for d in devices]
        journal.append(batches)
        written += len(punches)
    installed = dates[0].isoformat()
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('installed_on', ?)", (installed,))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return written
