"""One person's day through the rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from halls import code, make_hall
from rows import Row, in_turn, limit

from config.load import Hall
from daemon.database import FILE_NAME, open_writer
from daemon.facts import Gatherer
from daemon.journal import Journal
from rules.engine import judge_person
from rules.model import (
    DAY,
    MINUTE,
    Absence,
    Instant,
    Link,
    LogComplete,
    PersonDay,
    Punch,
    Reading,
)
from rules.workdays import local_midnight

WORK_DATE = date(2026, 3, 3)
ORDINARY = "08:21 12:04 14:22 18:06"
HARD = (
    "08:37 08:37 08:38 09:31 09:31 10:44 10:45 12:00 12:01 13:20 14:29 14:31 14:31 16:02 17:20"
    " 17:58 18:05 18:05 21:10"
)
TIMES = 400


def days(folder: Path) -> tuple[PersonDay, PersonDay, Hall]:
    """The ordinary day of one person; and of another one that is late, has two outings to be
    punched and a leave, punches often, while three of eight terminals were lost for a while."""
    hall = make_hall(folder, 2, date(2026, 3, 2))
    midnight = local_midnight(WORK_DATE, hall.zone)

    def at(clock: str) -> Instant:
        hour, minute = clock.split(":")
        return midnight + (int(hour) * 60 + int(minute)) * MINUTE

    told = [Reading(device.id, midnight - DAY, Link(True)) for device in hall.devices]
    for number, times in enumerate((ORDINARY, HARD)):
        told += [
            Reading(f"t{place % 8}", at(clock) + place, Punch(code(number), 1, 0, True))
            for place, clock in enumerate(times.split())
        ]
    for name, kind, starts, ends in (
        ("a1", "official", "09:30", "10:45"),
        ("a2", "outing", "16:00", "17:20"),
        ("a3", "personal", "14:30", "15:00"),
    ):
        absence = Absence(name, (code(1),), kind, at(starts), at(ends), kind != "personal")
        told.append(Reading("api", midnight, absence))
    for device, lost, back in (("t1", "08:00", "09:10"), ("t2", "11:50", "14:40")):
        told += [Reading(device, at(lost), Link(False)), Reading(device, at(back), Link(True))]
    evening = at("23:00")
    told += [Reading(device.id, evening, LogComplete()) for device in hall.devices]
    connection = open_writer(hall.state_dir / FILE_NAME)
    journal = Journal(connection, hall.zone)
    journal.append([([one], one.at) for one in sorted(told, key=lambda one: one.at)])
    gatherer = Gatherer(connection, hall, WORK_DATE)
    ordinary, hard = (
        gatherer.person_day(hall.people[code(number)], WORK_DATE, midnight + DAY)
        for number in range(2)
    )
    connection.close()
    return ordinary, hard, hall


def measure(folder: Path) -> Iterator[Row]:
    ordinary, hard, hall = days(folder)
    book = hall.rulebook
    assert len(ordinary.punches) == 4
    assert len(hard.punches) == len(HARD.split())

    def judge(day: PersonDay) -> None:
        for _ in range(TIMES):
            judge_person(day, book)

    usual, worst = in_turn(9, lambda: judge(ordinary), lambda: judge(hard))
    note = "record with evidence of each slot; the median of 9"
    yield limit("rules: an ordinary person-day", usual / TIMES * 1e6, 100, "µs", note)
    found = judge_person(hard, book)
    yield Row(
        "rules: a hard day (19 punches, 2 outings, a leave, 2 outages)",
        f"{worst / TIMES * 1e6:.3g} µs",
        f"{len(found.violations)} violations",
        worst / usual,
    )
