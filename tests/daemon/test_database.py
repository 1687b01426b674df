"""The SQLite file: migrated, refused, copied, locked."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from daemon.database import (
    DatabaseProblem,
    StateLock,
    backup,
    migrate,
    open_reader,
    open_writer,
    schemas,
)
from daemon.journal import others_since


def test_a_new_database_has_the_present_schema_and_a_durable_wal(tmp_path):
    connection = open_writer(tmp_path / "h.db")

    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(schemas())
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    connection.close()


@pytest.mark.parametrize("version", range(len(schemas()) + 1))
def test_every_released_schema_is_migrated_and_a_second_time_changes_nothing(tmp_path, version):
    path = tmp_path / "h.db"
    old = sqlite3.connect(path)
    for schema in schemas()[:version]:
        old.executescript(schema)
    old.execute(f"PRAGMA user_version = {version}")
    old.close()
    fresh = open_writer(tmp_path / "fresh.db")
    expected = fresh.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    fresh.close()

    connection = open_writer(path)
    migrate(connection)

    found = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    assert found == expected
    connection.close()


def test_a_database_of_a_newer_version_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "h.db"
    connection = open_writer(path)
    connection.execute(f"PRAGMA user_version = {len(schemas()) + 1}")
    connection.close()

    with pytest.raises(DatabaseProblem, match=r"newer hallwatch.*restore a backup"):
        open_writer(path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "h.db"
    path.write_bytes(b"something else entirely" * 100)

    with pytest.raises(DatabaseProblem, match=r"h\.db cannot be used as a database"):
        open_writer(path)


def test_a_reader_cannot_write(tmp_path):
    path = tmp_path / "h.db"
    open_writer(path).close()
    reader = open_reader(path)

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO meta VALUES ('a', 'b')")
    reader.close()


def test_a_backup_taken_while_somebody_writes_is_whole(tmp_path):
    path, copy = tmp_path / "h.db", tmp_path / "copy.db"
    writer = open_writer(path)
    writer.execute("INSERT INTO meta VALUES ('before', '1')")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO meta VALUES ('under way', '1')")
    steps = []

    backup(path, copy, lambda done, total: steps.append((done, total)))

    writer.execute("ROLLBACK")
    writer.close()
    copied = sqlite3.connect(copy)
    assert copied.execute("SELECT name FROM meta").fetchall() == [("before",)]
    assert steps[-1][0] == steps[-1][1]
    assert not copy.with_name("copy.db.partial").exists()
    copied.close()


def test_two_processes_cannot_write_one_state_directory(tmp_path):
    lock = StateLock(tmp_path)

    with pytest.raises(DatabaseProblem, match="Another hallwatch is using"):
        StateLock(tmp_path)
    lock.release()
    StateLock(tmp_path).release()


def test_a_database_of_schema_1_keeps_its_rows_and_learns_whose_alerts_they_are(tmp_path):
    path = tmp_path / "hallwatch.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(f"{schemas()[0]}\nPRAGMA user_version = 1;")
        old.execute(
            "INSERT INTO reading VALUES (1, x'01', 'east', 'punch', '1001', 5, 6, 5, 0, 0, 1, '{}',"
            " x'', 'S')"
        )
        for id_, kind in (("a", "person"), ("b", "device"), ("c", "hall")):
            old.execute(
                "INSERT INTO alert (id, rule, code, subject_kind, subject, work_date, severity,"
                " opened_at, state, body, revision, changed_at, change_seq)"
                " VALUES (?, 'r', 'c', ?, 's', '2026-03-02', 1, 0, 'open', '{}', 1, 0, 1)",
                (id_, kind),
            )
        old.commit()

    with closing(open_writer(path)) as new:
        version = new.execute("PRAGMA user_version").fetchone()[0]
        reading = new.execute("SELECT seq, person, serial, window, ref FROM reading").fetchall()
        scopes = dict(new.execute("SELECT id, scope FROM alert"))

    assert version == len(schemas())
    assert reading == [(1, "1001", "S", None, None)]
    assert scopes == {"a": "person", "b": "hall", "c": "hall"}


def test_ratings_that_were_journalled_twice_become_one_and_their_dates_are_judged_again(tmp_path):
    path = tmp_path / "hallwatch.db"
    row = (
        "INSERT INTO reading VALUES"
        " (?, ?, 'mqtt', ?, NULL, ?, ?, ?, 0, 0, 739677, ?, x'', '', ?, ?)"
    )
    body = '{"type":"rating","rating_id":"7"}'
    with closing(sqlite3.connect(path)) as old:
        old.executescript("".join(schemas()[:2]) + "\nPRAGMA user_version = 2;")
        for seq, id_, kind, at, ref in (
            (1, b"7", "rating", 5, "s1"), (2, b"8", "rating", 5, ""), (3, b"7", "rating", 9, ""),
            (4, b"e", "queue", 9, "A1"), (5, b"7", "rating", 11, "s1"),
        ):  # fmt: skip
            old.execute(row, (seq, id_, kind, at, at, at, body, "05", ref))
        old.execute("INSERT INTO call VALUES (?, 418)", (b"e",))
        old.execute("INSERT INTO meta VALUES ('settings', 'x')")
        old.commit()

    with closing(open_writer(path)) as new:
        kinds = new.execute("SELECT seq, kind, window, ref, raw FROM reading ORDER BY 1").fetchall()
        wakes = new.execute("SELECT * FROM wake").fetchall()
        calls = new.execute("SELECT * FROM call").fetchall()
        settings = new.execute("SELECT * FROM meta").fetchall()
        said = [one.kind for one in others_since(new, 0)]

    twice = ("unreadable", None, None, body.encode())
    assert kinds == [
        (1, "rating", "05", "s1", b""), (2, "rating", "05", "", b""), (3, *twice),
        (4, "queue", "05", "A1", b""), (5, *twice),
    ]  # fmt: skip
    assert wakes == [("window", "05", "2026-03-02", 0)]
    assert calls == [("2026-03-02", b"e", 418)]
    assert settings == []
    assert said == ["rating", "rating", "unreadable", "queue", "unreadable"]
