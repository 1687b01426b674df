"""The counter over the API, from what other systems tell to what is answered, with the daemon's own
pipeline and database in between."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.reader import Remembered
from config.load import load
from daemon.database import FILE_NAME
from daemon.pipeline import Pipeline
from daemon.simulation import SimulatedClock
from rules.counter import Window
from rules.model import Instant, Person, Rating, Reading
from tests.api.conftest import FakeDaemon, ms

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
[[windows]]
id = "11"
name = "11号窗口"
area = "B区"
[storage]
state_dir = "."
"""


class LiveDaemon(FakeDaemon):
    """The real pipeline on a clock that stands still between steps."""

    def __init__(self, folder: Path) -> None:
        (folder / "hallwatch.toml").write_text(SETTINGS, "utf-8")
        self.settings = load(folder / "hallwatch.toml")
        self.path = folder / FILE_NAME
        self.ticks = SimulatedClock(ms("2026-03-02 08:00"))
        self.pipeline = Pipeline(self.path, self.settings, self.ticks)
        self.pipeline.start()
        self.pipeline.settle().result(10)
        self.database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.served = self.connect()
        self.staff = {"1001": Person("1001", "林一鸣")}
        self.terminals = []

    def now(self) -> Instant:
        return self.ticks.now()

    def windows(self) -> Mapping[str, Window]:
        return self.pipeline.counter.windows

    async def record(self, readings: Sequence[Reading], remember: Remembered | None) -> None:
        row = None if remember is None else msgspec.structs.astuple(remember)
        await self.pipeline.tell(readings, remember=row)
        await asyncio.wrap_future(self.pipeline.settle())

    def until(self, clock: str) -> None:
        moment = ms(clock)
        while (due := self.pipeline.next_wake) is not None and due <= moment:
            self.ticks.jump(max(due, self.ticks.now()))
            self.pipeline.settle().result(10)
        self.ticks.jump(moment)
        self.pipeline.settle().result(10)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.database.execute(sql).fetchall()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LiveDaemon]:
    made = LiveDaemon(tmp_path)
    made.until("2026-03-02 09:30:00")
    yield made
    made.pipeline.stop()
    made.database.close()


DAY = "2026-03-02"


def queue(clock: str, kind: str, ticket: str = "", window: str = "05", **more: Any) -> Any:
    return {"type": kind, "at": f"{DAY}T{clock}+08:00", "window": window, "ticket": ticket, **more}


def rating(number: int, level: int | None, **more: Any) -> Any:
    told = {"rating_id": f"qr:{number}", "window": "05", "level": level, "scale_id": "five"}
    return {**told, "channel": "qr", "pressed_at": f"{DAY}T09:21:00+08:00", **more}


def step(name: str, clock: str, by: str = "值班长", **more: Any) -> Any:
    told = {"kind": "follow_up", "rating_id": "qr:1", "step": name, "by": by}
    return {**told, "at": f"{DAY}T{clock}+08:00", **more}


def visit(ticket: str, called: str, finished: str, window: str = "05") -> list[Any]:
    return [
        queue(called, "called", ticket, window, person="1001", queue="A"),
        queue(finished, "finished", ticket, window, queue="A"),
    ]


def post(client: httpx.Client, body: Any) -> Any:
    answer = client.post("/v1/events", json=body)
    assert answer.status_code in (200, 201), answer.text
    told = answer.json()
    if not isinstance(body, list):
        assert len(told["items"]) == 1
    return told


def statuses(told: Any) -> list[str]:
    return [item["status"] for item in told["items"]]


# -- what is told


def test_a_call_that_is_told_is_the_state_of_its_window_at_once(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    taken = queue("09:00:00", "ticket_taken", "a 037", "", queue="A")
    call = {**queue("09:14:05", "called", "Ａ037", "5号", queue="A"), "event_id": "q-1"}

    answer = client.post("/v1/events", json=[taken, call])
    (row,) = client.get("/v1/queue?window=05").json()["items"]

    assert answer.status_code == 201
    assert statuses(answer.json()) == ["stored", "stored"]
    assert answer.json()["recorded"] == 2
    assert (row["window"], row["name"], row["area"]) == ("05", "5号窗口", "A区")
    assert (row["state"], row["state_zh"], row["ticket"]) == ("calling", "叫号中", "A037")
    assert row["called_at"] == "2026-03-02T09:14:05+08:00"
    assert (row["work_date"], row["revision"] > 0) == ("2026-03-02", True)
    assert daemon.ask("SELECT device, kind, window FROM reading WHERE kind = 'queue'") == [
        ("api", "queue", ""),
        ("api", "queue", "05"),
    ]


def test_a_bad_row_refuses_itself_and_nothing_else(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    told = post(
        client,
        [
            queue("09:14:05", "called", "A037"),
            queue("09:14:05", "called", "A037"),
            queue("09:15:00", "shouted", "A037"),
            queue("09:15:00", "called", "A038", "99"),
            queue("09:15:00", "called", ""),
            {**queue("09:15:00", "called", "A038"), "at": "09:15"},
            {**queue("09:15:00", "called", "A038"), "hall": "h2"},
            {**queue("09:15:00", "called", "A038"), "waiting": -1, "call_no": 0},
            "A038",
            None,
            {"kind": "queue"},
            {"kind": "lunch"},
            {"kind": "manual_punch", "person": "1001", "at": f"{DAY}T08:31:00+08:00"},
            {"kind": "manual_punch", "person": "8888", "at": f"{DAY}T08:31:00+08:00"},
            {"kind": "manual_punch", "person": "1001", "at": f"{DAY}T08:31:00"},
            rating(1, 5),
            rating(2, 6),
            rating(3, 5, window=""),
            rating(4, 5, scale_id="three"),
            queue("09:16:00", "recalled", "A037"),
        ],
    )

    assert [item.get("field", item["status"]) for item in told["items"]] == [
        "stored", "duplicate", "type", "window", "ticket", "at", "hall", "call_no", "", "", "type",
        "", "stored", "person", "at", "stored", "level", "window", "level", "stored",
    ]  # fmt: skip
    assert told["recorded"] == 4
    assert told["items"][1]["reading"] == told["items"][0]["reading"]
    assert told["items"][3]["reason"] == "there is no window '99' in the settings"
    assert told["items"][7]["reason"].startswith("call_no: expected a whole number")
    assert "waiting: expected" in told["items"][7]["reason"]
    assert daemon.ask("SELECT count(*) FROM reading WHERE device = 'api'") == [(4,)]


def test_a_batch_of_which_nothing_is_new_is_200(client: httpx.Client) -> None:
    batch = [queue("09:14:05", "called", "A037"), queue("09:15:00", "called", "")]

    first = client.post("/v1/events", json=batch)
    again = client.post("/v1/events", json=batch)

    assert (first.status_code, again.status_code) == (201, 200)
    assert statuses(first.json()) == ["stored", "rejected"]
    assert statuses(again.json()) == ["duplicate", "rejected"]
    assert again.json()["recorded"] == 0


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (queue("09:15:00", "called", "A038", "99"), ["window"]),
        ({**queue("09:15:00", "called"), "at": "soon"}, ["at", "ticket"]),
        (step("assigned", "09:22:00"), ["rating_id"]),
        (step("pondering", "09:22:00"), ["step"]),
        (step("assigned", "09:36:00"), ["at"]),
        ({**step("assigned", "09:22:00"), "mood": "bad"}, ["mood"]),
        (rating(1, 9), ["level"]),
        (rating(1, 5, channel="fax"), ["channel"]),
    ],
)
def test_a_single_event_that_is_wrong_is_a_problem(
    client: httpx.Client, daemon: LiveDaemon, event: Any, fields: list[str]
) -> None:
    answer = client.post("/v1/events", json=event)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert sorted(error["field"] for error in answer.json()["errors"]) == fields
    assert daemon.ask("SELECT count(*) FROM reading WHERE device = 'api'") == [(0,)]


def test_more_than_500_or_none_are_refused_altogether(client: httpx.Client) -> None:
    call = queue("09:14:05", "called", "A037")
    wrong: tuple[Any, ...] = ([call] * 501, [], "A037", 7, [[]])
    for batch in wrong:
        assert client.post("/v1/events", json=batch).status_code == 422


def test_500_events_are_taken_at_once(client: httpx.Client) -> None:
    batch = [queue(f"09:{n // 60:02}:{n % 60:02}", "ticket_taken", f"A{n}", "") for n in range(500)]

    assert post(client, batch)["recorded"] == 500
    assert set(statuses(post(client, batch))) == {"duplicate"}


def test_an_event_id_means_one_event(client: httpx.Client) -> None:
    call = {**queue("09:14:05", "called", "A037"), "event_id": "q-1"}

    told = post(client, [call, call, {**call, "window": "06"}])
    later = post(client, [{**call, "at": f"{DAY}T09:14:09+08:00"}, {**call, "person": "1001"}])

    assert statuses(told) == ["stored", "duplicate", "rejected"]
    assert statuses(later) == ["duplicate", "rejected"]
    assert told["items"][2]["field"] == "event_id"


def test_a_clock_that_is_ahead_is_not_believed_and_a_repeat_is_still_known(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    call = {**queue("11:14:05", "called", "A037"), "event_id": "q-1"}

    first = post(client, call)
    daemon.until("2026-03-02 09:31:00")
    again = post(client, call)

    assert (statuses(first), statuses(again)) == (["stored"], ["duplicate"])
    assert daemon.ask("SELECT at, raw FROM reading WHERE kind = 'queue'") == [
        (ms("2026-03-02 09:30:00"), b"2026-03-02T11:14:05+08:00")
    ]


def test_a_queue_systems_slow_clock_shows_itself_in_what_it_tells(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    for minute in range(31, 36):
        daemon.until(f"2026-03-02 09:{minute}:00")
        post(client, queue(f"09:{minute - 12}:00", "called", f"A{minute}"))

    told = daemon.ask("SELECT at, raw FROM reading WHERE kind = 'queue' ORDER BY at")
    assert told == [
        *[(ms(f"2026-03-02 09:{minute - 12}:00"), b"") for minute in (31, 32)],
        *[
            (ms(f"2026-03-02 09:{minute}:00"), f"2026-03-02T09:{minute - 12}:00+08:00".encode())
            for minute in (33, 34, 35)
        ],
    ]


def test_a_rating_without_a_time_that_is_told_again_the_next_day_is_known(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    first = post(client, rating(1, 5, pressed_at=None))
    daemon.until("2026-03-03 08:00:00")
    again = post(client, [rating(1, 5, pressed_at=None), rating(1, 1, pressed_at=None)])

    assert (statuses(first), statuses(again)) == (["stored"], ["duplicate", "rejected"])


def test_the_id_of_a_rating_means_one_rating_whoever_tells_it(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    press = Rating("qr:1", "05", 4, "five", "04", problem="no_session")
    daemon.pipeline.submit((Reading("pad-05", ms(f"{DAY} 09:20:58"), press),), lambda _: None)
    daemon.pipeline.settle().result(10)

    told = post(client, [rating(1, 4), rating(1, 2), rating(2, 5), rating(2, 4)])

    assert statuses(told) == ["duplicate", "rejected", "stored", "rejected"]
    assert told["items"][1] == {
        "status": "rejected",
        "field": "rating_id",
        "reason": "stands for another one already",
    }


def test_a_rating_without_a_time_was_given_when_it_came(client: httpx.Client) -> None:
    first = post(client, rating(1, 5, pressed_at=None))
    again = post(client, rating(1, 5, pressed_at=None))

    assert (statuses(first), statuses(again)) == (["stored"], ["duplicate"])
    assert client.get("/v1/ratings/qr:1").json()["pressed_at"] == "2026-03-02T09:30:00+08:00"


def test_the_same_request_under_its_key_gets_the_same_answer(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    batch = [queue("09:14:05", "called", "A037"), queue("09:15:00", "called", "")]
    headers = {"Idempotency-Key": "batch-1"}

    first, again = (client.post("/v1/events", json=batch, headers=headers) for _ in range(2))
    other = client.post("/v1/events", json=batch[:1], headers=headers)
    refused = client.post("/v1/events", json=batch[1], headers={"Idempotency-Key": "single"})
    mended = client.post("/v1/events", json=batch[0], headers={"Idempotency-Key": "single"})

    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, refused.status_code, mended.status_code) == (409, 422, 200)
    assert daemon.ask("SELECT count(*) FROM reading WHERE device = 'api'") == [(1,)]


def test_a_follow_up_goes_on_by_steps_and_malicious_takes_two_people(
    client: httpx.Client,
) -> None:
    post(client, [*visit("A037", "09:14:05", "09:20:00"), rating(1, 1, named=True)])
    told = post(
        client,
        [
            step("assigned", "09:22:00", handler="1001", note="请联系 13800138000"),
            step("assigned", "09:22:00", handler="1001", note="请联系 13800138000"),
            step("malicious", "09:24:00", ""),
            {**step("malicious", "09:25:00"), "rating_id": "qr:9"},
        ],
    )

    one = client.get("/v1/ratings/qr:1").json()
    post(client, [step("malicious", "09:26:00", "刘主任"), step("closed", "09:27:00")])
    two = client.get("/v1/ratings/qr:1").json()

    assert statuses(told) == ["stored", "duplicate", "stored", "rejected"]
    assert (one["follow_up"]["state"], one["follow_up"]["handler"]) == ("classified", "1001")
    assert one["follow_up"]["flags"] == ["one_reviewer"]
    assert {due["step"]: due["done_at"] for due in one["follow_up"]["dues"]}["assigned"] == (
        "2026-03-02T09:22:00+08:00"
    )
    assert one["steps"][0] == {
        "at": "2026-03-02T09:22:00+08:00",
        "step": "assigned",
        "by": "值班长",
        "handler": "1001",
        "note": "请联系 ***********",
    }
    assert one["steps"][1]["by"] == "admin"  # the token's name
    assert (one["counted"], two["counted"]) == (True, False)
    assert (two["follow_up"]["state"], two["follow_up"]["excluded"]) == ("closed", True)


def test_a_rating_and_its_first_step_may_come_together(client: httpx.Client) -> None:
    told = post(client, [step("assigned", "09:22:00"), rating(1, 2), rating(2, 4)])
    good = client.post("/v1/events", json={**step("assigned", "09:22:00"), "rating_id": "qr:2"})

    assert statuses(told) == ["stored"] * 3
    assert client.get("/v1/ratings/qr:1").json()["follow_up"]["state"] == "assigned"
    assert good.status_code == 422


# -- the state of the windows


def test_every_window_of_the_settings_is_there_before_anything_was_told(
    client: httpx.Client,
) -> None:
    told = client.get("/v1/queue").json()

    assert [row["window"] for row in told["items"]] == ["05", "06", "11"]
    assert {row["state"] for row in told["items"]} == {"unknown"}
    assert {(row["stale"], row["updated_at"], row["waiting"]) for row in told["items"]} == {
        (True, None, None)
    }
    assert (told["areas"], told["next"], told["today"]) == ([], None, "2026-03-02")


def test_the_date_of_today_is_that_of_the_hall(client: httpx.Client, daemon: LiveDaemon) -> None:
    daemon.until("2026-03-03 00:30:00")  # 16:30 of the day before in Greenwich

    assert client.get("/v1/queue").json()["today"] == "2026-03-03"
    assert client.get("/v1/ratings/figures").json()["from"] == "2026-03-03"


def test_areas_come_with_their_windows(client: httpx.Client) -> None:
    taken = [queue(f"09:0{n}:00", "ticket_taken", f"A0{n}", "", queue="A") for n in range(1, 6)]
    post(client, [*taken, queue("09:09:00", "called", "A01", queue="A")])
    post(client, queue("09:10:00", "called", "B01", "11", queue="B"))

    whole = client.get("/v1/queue").json()
    a = client.get("/v1/queue", params={"area": "A区"}).json()
    none = client.get("/v1/queue", params={"area": "C区"}).json()

    assert (whole["areas"][0]["area"], whole["areas"][0]["waiting"]) == ("A区", 4)
    assert [row["area"] for row in whole["areas"]] == ["A区", "B区"]
    assert [row["window"] for row in a["items"]] == ["05", "06"]
    assert [row["area"] for row in a["areas"]] == ["A区"]
    assert (none["items"], none["areas"]) == ([], [])


def test_yesterdays_ticket_is_not_shown_as_today_s(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    post(client, queue("09:14:05", "called", "A037"))
    daemon.until("2026-03-03 07:00:00")

    (row,) = client.get("/v1/queue?window=05").json()["items"]
    (past,) = client.get("/v1/queue?window=05&from=2026-03-02&to=2026-03-02").json()["items"]

    assert (row["work_date"], row["ticket"], row["stale"]) == ("2026-03-03", "", True)
    assert past["work_date"] == "2026-03-02"
    assert past["figures"]["called"] == 1


def test_a_window_that_was_quiet_for_days_shows_its_newest_row(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    post(client, queue("09:14:05", "called", "A037"))
    daemon.until("2026-03-09 09:00:00")
    post(client, {**queue("09:00:00", "called", "B001", "11"), "at": "2026-03-09T09:00:00+08:00"})

    rows = {row["window"]: row for row in client.get("/v1/queue").json()["items"]}

    assert rows["11"]["ticket"] == "B001"
    assert (rows["05"]["work_date"], rows["05"]["state"]) == ("2026-03-03", "unknown")
    assert (rows["06"]["work_date"], rows["06"]["updated_at"]) == ("2026-03-09", None)


def test_services_tell_what_became_of_each_ticket(client: httpx.Client) -> None:
    post(
        client,
        [
            queue("09:00:00", "ticket_taken", "A037", "", queue="A"),
            *visit("A037", "09:14:05", "09:20:00"),
            *visit("B001", "09:16:00", "09:18:00", "11"),
            rating(1, 2, service_ref="A037"),
        ],
    )

    first, second = client.get("/v1/queue/services").json()["items"]

    assert (first["window"], first["ticket"], first["ended"]) == ("05", "A037", "finished")
    assert (first["person_code"], first["rating_id"]) == ("1001", "qr:1")
    assert (first["waited_seconds"], first["served_seconds"]) == (845.0, 355.0)
    assert (second["window"], second["ticket"]) == ("11", "B001")
    chosen = client.get("/v1/queue/services", params={"area": "B区"}).json()["items"]
    assert [row["window"] for row in chosen] == ["11"]
    assert client.get("/v1/queue/services?from=2026-03-03").json()["items"] == []


# -- ratings


@pytest.fixture
def rated(client: httpx.Client) -> httpx.Client:
    """At 05 levels 5, 2 and 4 by scale ``five``; at 11 one 4 by ``three``; one bad without a
    service; one that somebody else made of silence; one time-out."""
    batch: list[Any] = []
    for n, level in enumerate((5, 2, 4)):
        batch += visit(f"A{n}", f"09:1{n}:00", f"09:1{n}:30")
        batch.append(
            rating(n, level, service_ref=f"A{n}", text="窗口排队太久" if level < 3 else "")
        )
    batch += visit("A9", "09:18:00", "09:18:30")
    batch += visit("B1", "09:10:00", "09:11:00", "11")
    batch += [
        rating(7, 4, window="11", scale_id="three", channel="app", service_ref="B1"),
        rating(8, 1, pressed_at=f"{DAY}T08:01:00+08:00", channel="hotline"),
        rating(9, 1, window="06", defaulted=True),
        rating(10, None, window="06"),
    ]
    assert statuses(post(client, batch)) == ["stored"] * len(batch)
    return client


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["qr:8", "qr:0", "qr:1", "qr:2", "qr:10", "qr:9", "qr:7"]),
        ({"window": "11"}, ["qr:7"]),
        ({"window": ["06", "11"]}, ["qr:10", "qr:9", "qr:7"]),
        ({"level": 4}, ["qr:2", "qr:7"]),
        ({"bad": "true"}, ["qr:8", "qr:1"]),
        ({"bad": "false"}, ["qr:0", "qr:2", "qr:10", "qr:9", "qr:7"]),
        ({"bad": "true", "level": 5}, []),
        ({"follow_up": "any"}, ["qr:8", "qr:1"]),
        ({"follow_up": "opened"}, ["qr:8", "qr:1"]),
        ({"follow_up": "closed"}, []),
        ({"channel": "app"}, ["qr:7"]),
        ({"matched": "false"}, ["qr:8", "qr:10", "qr:9"]),
        ({"matched": "true"}, ["qr:0", "qr:1", "qr:2", "qr:7"]),
        ({"from": DAY, "to": DAY, "window": "05"}, ["qr:8", "qr:0", "qr:1", "qr:2"]),
        ({"from": "2026-03-03"}, []),
        ({"to": "2026-03-01"}, []),
    ],
)
def test_ratings_are_chosen(rated: httpx.Client, query: Any, expected: list[str]) -> None:
    whole = [row["rating_id"] for row in rated.get("/v1/ratings", params=query).json()["items"]]
    paged: list[str] = []
    cursor = ""
    while cursor is not None:
        told = rated.get(
            "/v1/ratings", params={**query, "limit": 2, **({"cursor": cursor} if cursor else {})}
        ).json()
        paged += [row["rating_id"] for row in told["items"]]
        cursor = told["next"]

    assert whole == expected
    assert paged == expected


def test_what_a_visitor_wrote_is_with_the_single_rating_and_nowhere_else(
    rated: httpx.Client, daemon: LiveDaemon
) -> None:
    one = rated.get("/v1/ratings/qr:1").json()
    lists = [
        rated.get(path).text
        for path in (
            "/v1/ratings", "/v1/queue", "/v1/queue/services", "/v1/ratings/figures", "/v1/alerts",
            "/v1/changes?limit=500",
        )
    ]  # fmt: skip

    assert one["text"] == "窗口排队太久"
    assert [text for text in lists if "排队太久" in text] == []
    assert "排队太久" not in json.dumps(daemon.ask("SELECT row FROM change"), ensure_ascii=False)


def test_telephone_numbers_are_masked_and_who_rated_has_no_field(client: httpx.Client) -> None:
    told = rating(1, 2, text="请回电 13800138000", applicantName="张三", mobile="13800138000")
    post(client, told)

    one = client.get("/v1/ratings/qr:1")

    assert one.json()["text"] == "请回电 ***********"
    assert "张三" not in one.text
    assert "13800138000" not in one.text


def test_a_rating_whose_words_were_erased_still_has_its_level(
    rated: httpx.Client, daemon: LiveDaemon
) -> None:
    daemon.database.execute("DELETE FROM reading WHERE kind = 'rating'")

    one = rated.get("/v1/ratings/qr:1").json()

    assert (one["level"], one["text"], one["options"]) == (2, "", [])


def test_an_id_with_a_slash_can_be_asked_for(client: httpx.Client) -> None:
    post(client, {**rating(1, 5), "rating_id": "省平台/2026/1"})

    assert client.get("/v1/ratings/省平台/2026/1").json()["level"] == 5
    assert client.get("/v1/ratings/%E7%9C%81平台%2F2026%2F1").json()["level"] == 5


def test_figures_keep_scales_apart_and_tell_numerator_and_denominator(
    rated: httpx.Client,
) -> None:
    told = rated.get("/v1/ratings/figures").json()

    assert (told["from"], told["to"]) == (DAY, DAY)
    rows = {row["window"]: row for row in told["items"]}
    five = rows["05"]
    assert (five["name"], five["area"], five["days"]) == ("5号窗口", "A区", 1)
    assert five["rated"] == {"n": 3, "of": 4}
    assert five["unmatched"] == 1
    assert five["scales"] == [
        {
            "scale_id": "five",
            "satisfied": {"n": 2, "of": 3},
            "strict": {"n": 2, "of": 3},
            "bad": {"n": 1, "of": 3},
            "levels": [0, 1, 0, 1, 1],
            "mean": 3.67,
            # The hall's rate by this scale is 2 of 3.
            "fair": {"n": 15.333, "of": 23},
        }
    ]
    assert rows["11"]["scales"][0]["fair"] == {"n": 21.0, "of": 21}
    assert rows["06"]["unrated_presses"] == 2
    assert told["hall"]["rated"] == {"n": 4, "of": 5}
    assert [scale["scale_id"] for scale in told["hall"]["scales"]] == ["five", "three"]
    assert told["hall"]["scales"][0]["levels"] == [0, 1, 0, 1, 1]


def test_the_rate_of_the_hall_counts_though_other_windows_were_not_asked_for(
    rated: httpx.Client,
) -> None:
    post(rated, [*visit("C1", "09:19:00", "09:19:30", "06"),
                 rating(20, 1, window="06", service_ref="C1")])  # fmt: skip

    whole = rated.get("/v1/ratings/figures").json()
    one = rated.get("/v1/ratings/figures?window=05").json()
    area = rated.get("/v1/ratings/figures", params={"area": "B区"}).json()

    assert [row["window"] for row in one["items"]] == ["05"]
    assert [row["window"] for row in area["items"]] == ["11"]
    assert one["hall"] == whole["hall"]
    # Two of four in the hall: (2 + 20 * 0.5) of (3 + 20).
    assert one["items"][0]["scales"][0]["fair"] == {"n": 12.0, "of": 23}


def test_figures_add_up_over_dates(rated: httpx.Client, daemon: LiveDaemon) -> None:
    daemon.until("2026-03-03 09:30:00")
    later = [
        {**item, "at": item["at"].replace(DAY, "2026-03-03")}
        for item in visit("A1", "09:14:05", "09:20:00")
    ]
    at = "2026-03-03T09:21:00+08:00"
    post(rated, [*later, rating(30, 3, service_ref="A1", pressed_at=at)])

    two = rated.get("/v1/ratings/figures?from=2026-03-02&to=2026-03-03&window=05").json()
    today = rated.get("/v1/ratings/figures?window=05").json()
    (row,) = two["items"]

    assert row["rated"] == {"n": 4, "of": 5}
    assert row["scales"][0]["levels"] == [0, 1, 1, 1, 1]
    assert row["days"] == 2
    assert today["items"][0]["rated"] == {"n": 1, "of": 1}


def test_follow_ups_count_when_they_are_closed_or_due(rated: httpx.Client) -> None:
    before = rated.get("/v1/ratings/figures?window=05").json()["items"][0]
    post(rated, [step("assigned", "09:23:00"), step("fix_now", "09:24:00"),
                 step("closed", "09:25:00")])  # fmt: skip
    after = rated.get("/v1/ratings/figures?window=05").json()["items"][0]

    assert before["rectified"] == {"n": 0, "of": 0}
    assert after["rectified"] == after["in_time"] == {"n": 1, "of": 1}


# -- the feed


def test_what_happens_at_the_counter_is_in_the_feed(rated: httpx.Client) -> None:
    items = rated.get("/v1/changes?limit=500").json()["items"]
    told = {item["kind"]: item for item in items}

    assert {"window", "rating", "area"} <= set(told)
    assert told["rating"]["key"] == told["rating"]["row"]["rating_id"]
    assert told["window"]["key"].endswith("/2026-03-02")
    single = rated.get(f"/v1/ratings/{told['rating']['key']}").json()
    assert told["rating"]["row"].items() <= single.items()


# -- anything at all

_words = st.text(max_size=12) | st.integers() | st.none() | st.booleans()
_anything = st.dictionaries(
    st.sampled_from(
        ("kind", "type", "at", "window", "ticket", "level", "rating_id", "step", "event_id",
         "channel", "pressed_at", "scale_id", "waiting", "text", "options", "hall", "by", "person")
    ),
    _words
    | st.sampled_from(
        ("queue", "rating", "follow_up", "called", "05", "A037", "2026-03-02T09:00:00+08:00", "qr",
         "assigned", "five", "manual_punch", "9999-12-31T23:59:59+00:00")
    )
    | st.floats()
    | st.lists(_words, max_size=3),
    max_size=10,
)  # fmt: skip


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(batch=st.lists(_anything | _words, min_size=1, max_size=6))
def test_whatever_is_told_is_answered_item_by_item_or_refused(
    client: httpx.Client, daemon: LiveDaemon, batch: list[Any]
) -> None:
    before = daemon.ask("SELECT count(*) FROM reading WHERE device = 'api'")[0][0]
    body = json.dumps(batch).encode()

    answer = client.post("/v1/events", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in (200, 201, 400, 422), answer.text
    after = daemon.ask("SELECT count(*) FROM reading WHERE device = 'api'")[0][0]
    told = answer.json()
    if answer.status_code < 300 and "items" in told:
        assert len(told["items"]) == len(batch)
        assert after - before == told["recorded"]
        assert (answer.status_code == 201) == (told["recorded"] > 0)
    for path in ("/v1/queue", "/v1/ratings", "/v1/queue/services", "/v1/ratings/figures"):
        assert client.get(path).status_code == 200


def test_what_was_kept_while_the_line_was_down_belongs_to_its_own_date(
    client: httpx.Client, daemon: LiveDaemon
) -> None:
    daemon.until("2026-03-03 09:00:00")

    post(client, visit("A037", "23:58:00", "23:59:00"))

    (service,) = client.get("/v1/queue/services").json()["items"]
    assert (service["work_date"], service["ended"]) == ("2026-03-02", "finished")
