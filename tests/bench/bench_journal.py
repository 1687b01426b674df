"""The journal against plain SQLite and against the disk itself."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median

from halls import code, make_hall
from rows import Row, at_least, at_most, in_turn, per_second, seconds, timed

from daemon.database import FILE_NAME, open_writer
from daemon.journal import Journal
from rules.model import Punch, Reading
from rules.workdays import local_midnight

START = date(2026, 3, 2)
PLAIN = (
    "CREATE TABLE plain (seq INTEGER PRIMARY KEY, id BLOB, device TEXT, kind TEXT, person TEXT,"
    " at INTEGER, received_at INTEGER, event_at INTEGER, trust INTEGER, earliest INTEGER,"
    " day INTEGER, body TEXT, raw BLOB, serial TEXT, window TEXT, ref TEXT)"
)
INSERT = f"INSERT INTO plain VALUES (NULL{', ?' * 15})"


class Punches:
    """Ever new ones, of 250 people, a second apart."""

    def __init__(self, begin: int) -> None:
        self._at = begin
        self._number = 0

    def take(self, number: int) -> list[Reading]:
        found = []
        for _ in range(number):
            self._number += 1
            self._at += 1000
            person = code(self._number % 250)
            raw = b"%d\t%b\t1\t0" % (self._at, person.encode())
            found.append(Reading(f"t{self._number % 8}", self._at, Punch(person, 1, 0, True), raw))
        return found


def open_plain(path: Path) -> sqlite3.Connection:
    """As a careful program opens it: WAL and a flush for every commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(PLAIN)
    return connection


def one_row_commits(folder: Path, number: int = 500) -> float:
    """Rows a second of plain SQLite with a commit for each: the yardstick of what is durable."""
    connection = open_plain(folder / "yardstick.db")
    row = (
        b"i" * 16,
        "t1",
        "punch",
        "10001",
        1,
        1,
        1,
        0,
        0,
        1,
        "{}" * 40,
        b"r" * 30,
        "",
        None,
        None,
    )

    def write() -> None:
        for _ in range(number):
            connection.execute("BEGIN")
            connection.execute(INSERT, row)
            connection.execute("COMMIT")

    took = min(timed(write) for _ in range(3))
    connection.close()
    return number / took


class Disk:
    """Appends of 4 KiB, each flushed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append(self) -> None:
        os.write(self._file, b"x" * 4096)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def flush_times(folder: Path, number: int = 400) -> list[float]:
    """Seconds of single flushes, sorted."""
    disk = Disk(folder / "flush")
    found = sorted(timed(disk.append) for _ in range(number))
    disk.close()
    return found


def measure(folder: Path) -> Iterator[Row]:
    hall = make_hall(folder, 250, START)
    ours = open_writer(hall.state_dir / FILE_NAME)
    journal = Journal(ours, hall.zone)
    plain = open_plain(folder / "plain.db")
    punches = Punches(local_midnight(START, hall.zone))
    received = local_midnight(START, hall.zone) + 3_600_000
    rate: dict[int, float] = {}
    for size, rounds in ((1, 400), (100, 100), (1000, 30)):
        batches = iter([punches.take(size) for _ in range(2 * rounds)])

        def append(batches: Iterator[list[Reading]] = batches) -> None:
            batch = next(batches)
            ours.execute("BEGIN IMMEDIATE")
            journal.append([(batch, received)])
            ours.execute("COMMIT")

        rows = [journal._row(one, received) for one in next(batches)]

        def insert(rows: list[tuple[object, ...]] = rows) -> None:
            plain.execute("BEGIN IMMEDIATE")
            plain.executemany(INSERT, rows)
            plain.execute("COMMIT")

        took, reference = in_turn(rounds, append, insert)
        rate[size] = size / took
        what = f"journal, {size} readings a commit, against a plain table"
        measured, told = per_second(size / took), per_second(size / reference)
        if size == 1:
            yield Row(what, measured, told, reference / took)
        else:
            yield at_least(0.6, what, measured, told, reference / took)
    yield at_least(
        30, "journal, 1000 a commit against one by one", per_second(rate[1000]),
        per_second(rate[1]), rate[1000] / rate[1],
    )  # fmt: skip
    yield from _one_reading(folder, ours, journal, punches, received)
    ours.close()
    plain.close()


def _one_reading(
    folder: Path, ours: sqlite3.Connection, journal: Journal, punches: Punches, received: int
) -> Iterator[Row]:
    disk = Disk(folder / "disk")

    def append() -> None:
        ours.execute("BEGIN IMMEDIATE")
        journal.append([(punches.take(1), received)])
        ours.execute("COMMIT")

    both: tuple[Callable[[], None], Callable[[], None]] = (append, disk.append)
    times = [[timed(one) for one in both] for _ in range(500)]
    disk.close()
    took, reference = (median(column) for column in zip(*times, strict=True))
    yield at_most(
        2, "one durable reading, p50, against append + fdatasync", seconds(took),
        seconds(reference), took / reference,
    )  # fmt: skip
