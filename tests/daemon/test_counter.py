"""Queue events, displays and ratings through the real pipeline and database."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import load
from daemon import replay
from daemon.database import FILE_NAME, open_reader
from daemon.pipeline import Happening, Pipeline
from daemon.simulation import SimulatedClock
from rules.model import (
    FollowUpStep,
    Instant,
    Link,
    QueueEvent,
    Rating,
    RatingPrompt,
    Reading,
    Shown,
)

ZONE = ZoneInfo("Asia/Shanghai")
SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[people]]
code = "1001"
name = "林一鸣"
[[windows]]
id = "05"
name = "5号窗口"
area = "A区"
[[windows]]
id = "06"
name = "6号窗口"
area = "A区"
[storage]
state_dir = "."
"""


def at(clock: str, day: str = "2026-03-02") -> Instant:
    return int(datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=ZONE).timestamp() * 1000)


class Counter:
    """A pipeline of a hall with two windows, on a clock that stands still between steps."""

    def __init__(self, folder: Path) -> None:
        (folder / "hallwatch.toml").write_text(SETTINGS, "utf-8")
        self.hall = load(folder / "hallwatch.toml")
        self.path = folder / FILE_NAME
        self.clock = SimulatedClock(at("08:00"))
        self.heard: list[Happening] = []
        self.start()

    def start(self) -> None:
        self.pipeline = Pipeline(self.path, self.hall, self.clock)
        self.pipeline.at_windows = self.heard.extend
        self.pipeline.start()
        self.pipeline.settle().result(10)

    def tell(self, *readings: Reading) -> None:
        done = threading.Event()
        self.pipeline.submit(readings, lambda _: done.set())
        assert done.wait(10)
        self.pipeline.settle().result(10)

    def until(self, clock: str, day: str = "2026-03-02") -> None:
        moment = at(clock, day)
        while (due := self.pipeline.next_wake) is not None and due <= moment:
            self.clock.jump(max(due, self.clock.now()))
            self.pipeline.settle().result(10)
        self.clock.jump(moment)
        self.pipeline.settle().result(10)

    def ask(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        reader = open_reader(self.path)
        try:
            return reader.execute(sql, values).fetchall()
        finally:
            reader.close()

    def verify(self) -> list[replay.Difference]:
        return list(
            replay.verify(self.path, self.hall, self.clock, None, None, lambda _a, _b: None)
        )


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    made = Counter(tmp_path)
    yield made
    if made.pipeline.alive:
        made.pipeline.stop()


def event(clock: str, name: str, ticket: str = "", window: str = "05", **more: object) -> Reading:
    body = QueueEvent(f"{clock}-{name}-{ticket}", name, window, ticket, **more)  # type: ignore[arg-type]
    return Reading("api", at(clock), body)


VISIT = (
    event("09:00:00", "ticket_taken", "A037", "", queue="A"),
    event("09:14:05", "called", "A037", queue="A", person="1001"),
    event("09:20:00", "finished", "A037", queue="A"),
    Reading("pad-05", at("09:20:01"), RatingPrompt("s1", "05", "A037", "1001")),
    Reading("pad-05", at("09:20:09"), Rating("pad:pad-05:s1", "05", 2, "five", "02", session="s1")),
)


def test_a_call_is_a_state_of_its_window_and_a_change_of_the_feed(counter):
    counter.until("09:14:05")
    counter.tell(*VISIT[:2])

    state, call_seq = counter.ask("SELECT state, call_seq FROM window_day WHERE window = '05'")[0]
    rows = [json.loads(str(row)) for (row,) in counter.ask(
        "SELECT row FROM change WHERE kind = 'window' ORDER BY seq")]  # fmt: skip

    assert state == "calling"
    assert (rows[-1]["ticket"], rows[-1]["event"], rows[-1]["call_seq"]) == (
        "A037", "called", call_seq,
    )  # fmt: skip
    assert [(one.event, one.record.ticket) for one in counter.heard] == [("called", "A037")]


def test_calls_and_recalls_are_numbered_upwards_over_a_restart(counter):
    counter.until("09:30")
    counter.tell(event("09:14:05", "called", "A037"))
    counter.tell(event("09:15:05", "recalled", "A037"))
    first = [one.call_seq for one in counter.heard if one.event]
    counter.pipeline.stop()
    counter.start()
    counter.tell(event("09:16:05", "called", "B001", "06"))

    numbers = [*first, counter.heard[-1].call_seq]

    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    assert numbers[0] >= at("08:00") // 10_000


def test_a_bad_rating_belongs_to_its_service_and_opens_a_follow_up_that_steps_move(counter):
    counter.until("09:21")
    counter.tell(*VISIT)
    before = counter.ask("SELECT level, follow_up FROM rating")
    alert = counter.ask("SELECT code, scope, state FROM alert WHERE code = 'RAT-01'")
    counter.tell(Reading("api", at("09:22"), FollowUpStep("pad:pad-05:s1", "assigned", "值班长")))
    service = json.loads(str(counter.ask("SELECT body FROM service WHERE window = '05'")[0][0]))

    assert before == [(2, "opened")]
    assert alert == [("RAT-01", "window", "open")]
    assert counter.ask("SELECT follow_up FROM rating") == [("assigned",)]
    assert counter.ask("SELECT state FROM alert WHERE code = 'RAT-01'") == [("resolved",)]
    assert service["rating_id"] == "pad:pad-05:s1"
    assert counter.verify() == []


def test_a_ticket_called_is_evidence_of_presence_for_who_called_it(counter):
    counter.until("09:30")
    counter.tell(*VISIT)

    (found,) = counter.ask("SELECT person FROM reading WHERE kind = 'queue' AND person IS NOT NULL")

    assert found == ("1001",)


def test_waiting_is_counted_for_the_whole_service_area(counter):
    counter.until("09:10")
    counter.tell(*[event(f"09:0{n}", "ticket_taken", f"A0{n}", "", queue="A") for n in range(1, 6)])
    counter.tell(event("09:09", "called", "A01", queue="A"))

    rows = counter.ask("SELECT area, json_extract(body, '$.waiting') FROM area_day")

    assert ("A区", 4) in rows


def test_a_rating_of_the_next_day_counts_to_the_date_of_its_service(counter):
    counter.until("09:21")
    counter.tell(*VISIT[:3])
    counter.until("10:00", "2026-03-03")
    late = Rating("qr:1", "05", 5, "five", "05", channel="qr", service_ref="a037")
    counter.tell(Reading("api", at("10:00", "2026-03-03"), late))

    assert counter.ask("SELECT rating_id, work_date FROM rating") == [("qr:1", "2026-03-02")]
    assert counter.verify() == []


def test_yesterdays_number_is_gone_the_next_morning(counter):
    counter.until("09:21")
    counter.tell(*VISIT[:2])
    counter.until("07:00", "2026-03-03")

    rows = counter.ask("SELECT work_date, state FROM window_day WHERE window = '05' ORDER BY 1")

    assert len(rows) == 2
    assert rows[1][1] in ("unknown", "closed", "idle")


def test_a_pad_that_never_gives_a_bad_level_is_told_when_other_ways_complain(counter):
    counter.until("17:59")
    presses = [
        Reading("api", at("09:00") + n * 1000, Rating(f"pad:p:{n}", "05", 3 + n % 3, "five"))
        for n in range(2000)
    ]
    counter.tell(*presses)
    counter.until("18:10")
    before = counter.ask("SELECT code FROM alert WHERE code = 'RAT-06'")
    complaint = Rating("hotline:1", "05", 1, "five", channel="hotline")
    counter.tell(Reading("api", at("18:10"), complaint))

    assert before == []
    assert counter.ask("SELECT code, state FROM alert WHERE code = 'RAT-06'") == [
        ("RAT-06", "open")
    ]
    assert counter.verify() == []


TABLES = {
    "window_day": "work_date, window, state, body",
    "service": "work_date, window, number, body",
    "rating": "rating_id, work_date, window, level, follow_up, body",
    "area_day": "work_date, area, body",
}


def rows_of(counter: Counter) -> list[list[tuple[object, ...]]]:
    tables = [
        counter.ask(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3")
        for table, columns in TABLES.items()
    ]
    alerts = counter.ask(
        "SELECT id, body, state FROM alert WHERE scope IN ('window', 'counter')"
        " AND state <> 'withdrawn' ORDER BY id"
    )
    return [*tables, alerts]


def test_replaying_gives_the_same_rows(counter):
    counter.until("09:21")
    counter.tell(*VISIT, event("09:30", "called", "A038"), event("09:31", "window_paused"))
    counter.until("18:30")
    before = rows_of(counter)
    counter.pipeline.stop()
    connection = sqlite3.connect(counter.path, isolation_level=None)
    for table in (*TABLES, "alert", "wake"):
        connection.execute(f"DELETE FROM {table}")
    connection.close()

    replay.rejudge(counter.path, counter.hall, counter.clock, None, None, lambda _a, _b: None)

    assert rows_of(counter) == before


DAY = (
    *VISIT,
    event("09:01", "ticket_taken", "A038", "", queue="A"),
    event("09:21", "called", "A038", "06", queue="A"),
    event("09:25", "transferred", "A038", "06", to="05", queue="A"),
    event("09:26", "called", "A038", queue="A"),
    event("09:29", "abandoned", "A038", queue="A"),
    Reading("d5", at("09:26:01"), Shown("05", "A038", "ticket")),
    Reading("d5", at("09:00:01"), Link(True)),
    Reading("api", at("09:40"), Rating("qr:7", "05", 4, "five", "04", channel="qr")),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(DAY), cuts=st.lists(st.integers(0, len(DAY)), max_size=4))
def test_order_repeats_and_batches_do_not_matter(tmp_path_factory, order, cuts):
    made = []
    for told in ([list(DAY)], [order[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]):  # noqa: E501 # fmt: skip
        counter = Counter(tmp_path_factory.mktemp("counter"))
        counter.until("09:45")
        for part in told:
            if part:
                counter.tell(*part)
                counter.tell(*part[:2])
        made.append(rows_of(counter))
        assert counter.verify() == []
        counter.pipeline.stop()

    assert made[0] == made[1]


def on(day: str, clock: str, name: str, ticket: str = "A037", **more: object) -> Reading:
    body = QueueEvent(f"{day} {clock} {name} {ticket}", name, "05", ticket, **more)  # type: ignore[arg-type]
    return Reading("api", at(clock, day), body)


FIRST, SECOND = "2026-03-02", "2026-03-03"


def test_a_rating_goes_to_the_date_of_events_that_come_after_it(counter):
    counter.until("09:21")
    counter.tell(on(FIRST, "09:14", "called"), on(FIRST, "09:20", "finished"))
    counter.until("10:00", SECOND)
    rating = Rating("r1", "05", 1, "five", service_ref="A037")
    counter.tell(Reading("api", at("10:00", SECOND), rating))
    before = counter.ask("SELECT rating_id, work_date, revision FROM rating")
    counter.until("10:30", SECOND)
    counter.tell(on(SECOND, "09:50", "called"), on(SECOND, "09:59:30", "finished"))
    rated = counter.ask(
        "SELECT work_date, json_extract(body, '$.figures.rated.n') FROM window_day"
        " WHERE window = '05' ORDER BY 1"
    )

    assert before == [("r1", FIRST, 1)]
    assert counter.ask("SELECT rating_id, work_date FROM rating") == [("r1", SECOND)]
    assert rated == [(FIRST, 0), (SECOND, 1)]
    assert counter.ask("SELECT work_date, state FROM alert WHERE code = 'RAT-01'") == [
        (SECOND, "open")
    ]
    assert counter.verify() == []


def test_a_rating_goes_to_the_date_of_a_prompt_that_comes_after_it(counter):
    counter.until("09:21")
    counter.tell(on(FIRST, "09:14", "called"), on(FIRST, "09:20", "finished"))
    counter.until("10:00", SECOND)
    rating = Rating("r1", "05", 5, "five", session="s9")
    counter.tell(Reading("api", at("10:00", SECOND), rating))
    counter.tell(Reading("pad-05", at("09:20:01"), RatingPrompt("s9", "05", "A037")))

    assert counter.ask("SELECT rating_id, work_date FROM rating") == [("r1", FIRST)]
    assert counter.verify() == []


def test_a_session_that_is_used_again_is_that_of_its_last_prompt(counter):
    counter.until("09:21")
    counter.tell(
        on(FIRST, "09:20", "finished"),
        Reading("pad-05", at("09:20:01"), RatingPrompt("1", "05", "A037")),
    )
    counter.until("09:21", SECOND)
    counter.tell(
        on(SECOND, "09:20", "finished"),
        Reading("pad-05", at("09:20:01", SECOND), RatingPrompt("1", "05", "A037")),
        Reading("pad-05", at("09:20:09", SECOND), Rating("r2", "05", 5, "five", session="1")),
    )

    assert counter.ask("SELECT rating_id, work_date FROM rating") == [("r2", SECOND)]
    assert counter.verify() == []


def test_a_rating_that_is_told_again_after_midnight_is_the_same(counter):
    rating = Rating("pad:p1:7", "05", 1, "five")
    counter.until("23:59:59")
    counter.tell(Reading("broker", counter.clock.now(), rating))
    counter.until("00:00:05", SECOND)
    counter.tell(Reading("broker", counter.clock.now(), rating))

    assert counter.ask("SELECT count(*) FROM reading WHERE kind = 'rating'") == [(1,)]
    assert counter.pipeline.repeats == 1
    assert counter.ask("SELECT rating_id, work_date FROM rating") == [("pad:p1:7", FIRST)]
    assert counter.verify() == []


def test_ids_of_events_used_again_the_next_day_are_new_calls(counter):
    def call(day: str, clock: str, number: int) -> Reading:
        return Reading(
            "broker", at(clock, day), QueueEvent(f"{number}", "called", "05", f"A{number}")
        )

    counter.until("09:30")
    for number in (1, 2, 3):
        counter.tell(call(FIRST, f"09:0{number}", number))
    last = counter.heard[-1].call_seq
    counter.until("09:00", SECOND)
    counter.heard.clear()
    counter.tell(call(SECOND, "08:59", 1))
    numbers = [(one.event, one.call_seq) for one in counter.heard]

    assert last is not None
    assert numbers[0][0] == "called"
    assert numbers[0][1] > last


def test_a_batch_of_one_window_is_one_for_its_view_and_the_halls(counter):
    counter.until("12:00")
    counter.tell(
        event("09:00", "called", "A1"), event("09:02", "called", "B1", "06"),
        event("12:00", "batch_abandoned"),
    )  # fmt: skip

    assert counter.ask("SELECT window, state FROM window_day ORDER BY 1") == [
        ("05", "idle"), ("06", "calling"),
    ]  # fmt: skip
    assert counter.verify() == []
