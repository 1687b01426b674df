"""The one durable path: journal, judgement, changes; on a clock that the test moves."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from config.load import Hall, load
from daemon import replay
from daemon.database import FILE_NAME, open_reader
from daemon.pipeline import Pipeline
from daemon.simulation import SimulatedClock
from rules.model import (
    Absence,
    AbsenceRevoked,
    AlertAction,
    Body,
    ClockCheck,
    Instant,
    Link,
    LogComplete,
    Person,
    PersonEntry,
    Punch,
    Reading,
)

ZONE = ZoneInfo("Asia/Shanghai")
MONDAY = "2026-03-02"


def at(clock: str, day: str = MONDAY) -> Instant:
    return int(datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=ZONE).timestamp() * 1000)


SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[people]]
code = "1001"
name = "林一鸣"
[[people]]
code = "1002"
name = "周二妮"
[[devices]]
id = "east"
name = "东门考勤机"
driver = "zkteco"
host = "127.0.0.1"
[storage]
state_dir = "."
"""


class Played:
    """A pipeline on a clock that stands still between the steps of a test."""

    def __init__(self, folder: Path, start: Instant) -> None:
        settings = folder / "hallwatch.toml"
        settings.write_text(SETTINGS, "utf-8")
        self.hall: Hall = load(settings)
        self.path = folder / FILE_NAME
        self.clock = SimulatedClock(start)
        self.start()

    def start(self) -> None:
        self.pipeline = Pipeline(self.path, self.hall, self.clock)
        self.pipeline.start()
        self.pipeline.settle().result(10)

    def tell(self, *readings: Reading) -> int:
        """Journal and judge; returns how many were new."""
        answers: list[int | BaseException] = []
        done = threading.Event()

        def answer(told: int | BaseException) -> None:
            answers.append(told)
            done.set()

        self.pipeline.submit(readings, answer)
        assert done.wait(10)
        self.pipeline.settle().result(10)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    def until(self, moment: Instant) -> None:
        """Let the time pass, stopping wherever a day is due."""
        while (due := self.pipeline.next_wake) is not None and due <= moment:
            self.clock.jump(max(due, self.clock.now()))
            self.pipeline.settle().result(10)
        self.clock.jump(moment)
        self.pipeline.settle().result(10)

    def punch(self, person: str, clock: str, day: str = MONDAY, live: bool = True) -> Reading:
        return Reading("east", at(clock, day), Punch(person, 1, 0, live=live), serial="T1")

    def device(self, body: Body, clock: str, day: str = MONDAY) -> Reading:
        return Reading("east", at(clock, day), body)

    def ask(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        reader = open_reader(self.path)
        try:
            return reader.execute(sql, values).fetchall()
        finally:
            reader.close()

    def violations(self, person: str = "1001") -> list[str]:
        return [
            str(row[0])
            for row in self.ask(
                "SELECT code FROM violation WHERE person = ? AND state = 'active' ORDER BY code",
                person,
            )
        ]

    def verify(self) -> list[replay.Difference]:
        return list(
            replay.verify(self.path, self.hall, self.clock, None, None, lambda _a, _b: None)
        )


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    """Monday 07:00, the terminal in contact since then."""
    play = Played(tmp_path, at("07:00"))
    play.tell(play.device(Link(True), "07:00"))
    yield play
    if play.pipeline.alive:
        play.pipeline.stop()


def test_a_punch_is_on_the_disk_when_its_teller_is_answered(played):
    played.clock.jump(at("08:20"))

    assert played.tell(played.punch("1001", "08:20")) == 1
    journal = played.ask("SELECT person, at, received_at FROM reading WHERE kind = 'punch'")
    assert journal == [("1001", at("08:20"), at("08:20"))]


def test_the_same_fact_twice_is_one_row_however_it_came(played):
    played.clock.jump(at("08:20"))
    live, logged = played.punch("1001", "08:20"), played.punch("1001", "08:20", live=False)

    assert [played.tell(live), played.tell(live, logged), played.tell(logged)] == [1, 0, 0]
    assert played.pipeline.repeats == 3


def test_readings_that_cannot_be_stored_are_refused_and_the_next_ones_taken(played):
    bad = played.punch("1001", "08:20")
    broken = msgspec.structs.replace(bad, at=1 << 70)  # more than the column can hold

    with pytest.raises((OSError, OverflowError)):
        played.tell(broken)
    assert played.tell(bad) == 1


def test_a_late_comer_is_told_at_once_and_excused_when_leave_comes_afterwards(played):
    played.until(at("08:31"))
    assert played.ask("SELECT code, state FROM alert WHERE subject = '1001'") == [
        ("not_arrived", "open")
    ]

    played.until(at("08:42"))
    played.tell(played.punch("1001", "08:42"))
    assert played.violations() == ["ATT-01"]
    assert played.ask("SELECT state FROM alert WHERE subject = '1001'") == [("resolved",)]

    played.until(at("15:00"))
    leave = Absence("L1", ("1001",), "personal", at("08:30"), at("09:00"))
    played.tell(Reading("api", at("15:00"), leave))
    assert played.violations() == ["ATT-05"]
    assert played.ask("SELECT state, reason FROM violation WHERE code = 'ATT-01'") == [
        ("withdrawn", "retro_leave")
    ]

    played.tell(Reading("api", at("15:00"), AbsenceRevoked("L1", "entered by mistake")))
    assert played.violations() == ["ATT-01", "ATT-05"]
    assert played.verify() == []


def test_who_never_comes_is_absent_though_no_reading_tells_so(played):
    played.until(at("19:30"))

    assert played.violations() == ["ATT-07"]
    assert played.ask("SELECT verdict FROM attendance_day WHERE person = '1001'") == [
        ("absent_day",)
    ]
    assert played.verify() == []


def test_a_dead_terminal_accuses_nobody_and_its_late_log_settles_the_day(played):
    played.until(at("07:25"))
    played.tell(played.device(Link(False, "cable"), "07:25"))
    played.until(at("19:30"))
    assert played.violations() == []
    verdicts = played.ask("SELECT slots FROM attendance_day WHERE person = '1001'")
    assert str(verdicts).count("unverified") == 4

    played.tell(
        played.device(Link(True), "19:30"),
        *(
            played.punch(person, clock, live=False)
            for clock in ("08:21", "12:03", "14:22", "18:01")
            for person in ("1001", "1002")
        ),
        played.device(LogComplete(), "19:30"),
    )
    assert played.ask("SELECT person, verdict FROM attendance_day ORDER BY person") == [
        ("1001", "present"),
        ("1002", "present"),
    ]
    assert played.verify() == []


def test_changes_are_numbered_in_order_and_carry_the_whole_row(played):
    played.until(at("08:42"))
    played.tell(played.punch("1001", "08:42"))

    rows = played.ask("SELECT seq, kind, op, row FROM change ORDER BY seq")
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    violation = next(msgspec.json.decode(str(row[3])) for row in rows if row[1] == "violation")
    assert violation["title"] == "迟到 12 分钟（上午班 08:30，打卡 08:42）"
    assert violation["since"] == "2026-03-02T08:30:00+08:00"


def test_judging_again_without_new_facts_changes_nothing(played):
    played.until(at("19:30"))
    before = played.ask("SELECT count(*) FROM change")
    before_the_start = played.punch("1001", "08:20", "2026-03-01", live=False)
    assert played.tell(before_the_start) == 1

    played.pipeline.reload(played.hall).result(10)
    played.pipeline.settle().result(10)

    assert played.ask("SELECT count(*) FROM change") == before


def test_what_a_killed_daemon_had_journalled_but_not_judged_is_judged_at_the_next_start(played):
    played.until(at("08:42"))
    played.pipeline.stop()
    # As after a kill between the two commits: the journal has the punch, the judgement has not.
    connection = sqlite3.connect(played.path, isolation_level=None)
    from daemon.journal import Journal

    journal = Journal(connection, ZONE)
    journal.append([((played.punch("1001", "08:42"),), at("08:42"))])
    connection.close()

    played.start()

    assert played.violations() == ["ATT-01"]


def test_deleting_everything_derived_and_replaying_gives_the_same_rows(played):
    played.until(at("08:42"))
    played.tell(played.punch("1001", "08:42"), played.device(ClockCheck(), "08:42"))
    played.until(at("19:30"))
    alert_id = str(played.ask("SELECT id FROM alert WHERE subject = '1001'")[0][0])
    played.tell(Reading("api", at("19:30"), AlertAction(alert_id, "acknowledge", "值班长")))
    tables = {
        "attendance_day": "work_date, person, verdict, finality, points, body, slots, inputs_hash",
        "violation": "id, code, points, finality, body",
        "alert": "id, code, state, body, acknowledged_by",
        "device_state": "device, state, since, punches",
    }
    active = {"violation": " WHERE state = 'active'", "alert": " WHERE state <> 'withdrawn'"}
    queries = [
        f"SELECT {columns} FROM {table}{active.get(table, '')} ORDER BY 1, 2"
        for table, columns in tables.items()
    ]
    before = [played.ask(query) for query in queries]
    played.pipeline.stop()
    connection = sqlite3.connect(played.path, isolation_level=None)
    for table in (*tables, "adjustment", "wake"):
        connection.execute(f"DELETE FROM {table}")
    connection.close()

    replay.rejudge(played.path, played.hall, played.clock, None, None, lambda _a, _b: None)

    assert [played.ask(query) for query in queries] == before


def test_a_locked_month_never_moves_a_later_fact_makes_an_adjustment(played):
    for clock in ("08:42", "12:01", "14:20", "18:02"):
        played.until(at(clock))
        played.tell(played.punch("1001", clock))
    played.tell(played.device(LogComplete(), "19:30"))
    played.until(at("12:00", "2026-03-10"))
    played.tell(played.device(LogComplete(), "12:00", "2026-03-10"))
    played.until(at("12:00", "2026-04-10"))
    locked = played.ask(
        "SELECT body, slots, points FROM attendance_day WHERE work_date = ? AND person = '1001'",
        MONDAY,
    )
    assert '"finality":"locked"' in str(locked[0][0])

    leave = Absence("L9", ("1001",), "personal", at("08:30"), at("09:00"))
    played.tell(Reading("api", at("12:00", "2026-04-10"), leave))

    assert (
        played.ask(
            "SELECT body, slots, points FROM attendance_day"
            " WHERE work_date = ? AND person = '1001'",
            MONDAY,
        )
        == locked
    )
    body = msgspec.json.decode(str(played.ask("SELECT body FROM adjustment")[0][0]))
    assert body["period"] == "2026-04"
    assert (body["points_before"], body["points_after"]) == (1.0, 0.0)


def test_somebody_new_is_judged_from_the_import_on(played):
    played.until(at("08:10"))
    entry = PersonEntry(Person("2001", "许新来"))

    played.tell(Reading("import", at("08:10"), entry))
    played.until(at("08:31"))

    assert played.ask("SELECT state FROM alert WHERE subject = '2001'") == [("open",)]


def test_a_clock_far_off_is_an_alert_and_a_live_punch_still_counts_by_our_clock(played):
    played.until(at("08:20"))
    wrong = played.device(ClockCheck(), "10:20")

    played.tell(wrong, Reading("east", at("10:20:30"), Punch("1001", live=True), serial="T1"))
    played.until(at("08:21"))

    assert played.ask("SELECT code FROM alert WHERE subject_kind = 'device'") == [("DEV-03",)]
    assert played.ask("SELECT event_at, trust FROM reading WHERE kind = 'punch'") == [
        (at("08:20"), 2)
    ]


def test_a_call_that_fails_is_told_so_and_undoes_only_itself(played):
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 'done')")
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        played.pipeline.call(fail).result(10)
    assert played.ask("SELECT * FROM meta WHERE name = 'half'") == []
    assert played.tell(played.punch("1001", "08:20")) == 1


def test_a_rule_that_raises_stops_neither_the_journal_nor_the_others(played, monkeypatch):
    from rules import late_arrival

    def broken(_rule, day, _record):
        if day.person.code == "1001":
            raise ZeroDivisionError("a defect")
        return iter(())

    monkeypatch.setattr(late_arrival.RULE, "judge", broken)
    played.until(at("08:42"))

    assert played.tell(played.punch("1001", "08:42"), played.punch("1002", "08:42")) == 2
    assert played.pipeline.failures >= 1
    assert played.ask("SELECT slots FROM attendance_day WHERE person = '1002'")[0][0].count("late")
