"""The SQLite file: opening, migrating and copying it.

One connection, in the pipeline's thread, makes every commit and every checkpoint; readers open the
file read-only.  (SQLite before 3.51.3 can corrupt a WAL when several connections write and
checkpoint it, and Debian 12 has 3.40.)
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path

FILE_NAME = "hallwatch.db"


class DatabaseProblem(Exception):
    """The state cannot be used; the message says why and what to do."""


def schemas() -> list[str]:
    """The migrations in order; version N of the schema is the first N of them applied."""
    folder = files("daemon") / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text("utf-8") for name in names]


def open_writer(path: Path, synchronous: str = "full") -> sqlite3.Connection:
    """The one connection that writes; creates the file and migrates an older one.

    Raises ``DatabaseProblem`` for a file that is newer than this program or is no database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # SQLite gives its other files the mode of this one.
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        migrate(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise DatabaseProblem(f"{path} cannot be used as a database: {error}") from error
    except DatabaseProblem:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the present version, one transaction for each step."""
    known = schemas()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(known):
        raise DatabaseProblem(
            f"The database has schema {version}, this program knows {len(known)}: "
            "it was written by a newer hallwatch. Install that version, or restore a backup."
        )
    for number in range(version, len(known)):
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{known[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;"
        )


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; may be used from any one thread at a time."""
    connection = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def backup(path: Path, copy: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """A consistent copy of the database while the daemon runs; ``copy`` appears only when whole.

    Raises ``DatabaseProblem`` when the copy does not pass SQLite's integrity check.
    """
    partial = copy.with_name(copy.name + ".partial")
    partial.unlink(missing_ok=True)
    # Only for the one who made it: it holds what the state holds.
    partial.touch(mode=0o600)

    def report(_status: int, remaining: int, total: int) -> None:
        if progress:
            progress(total - remaining, total)

    with closing(open_reader(path)) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target, pages=2_000, progress=report)
        target.execute("PRAGMA journal_mode = DELETE")
        verdict = target.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        partial.unlink(missing_ok=True)
        raise DatabaseProblem(f"The copy is damaged ({verdict}); the state itself was not touched.")
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(copy)


class StateLock:
    """One process at a time may write a state directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "lock"
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DatabaseProblem(
                f"Another hallwatch is using {directory}. Stop it first, or name another directory."
            ) from None

    def release(self) -> None:
        self._file.close()
