"""Lists: what a row looks like, which rows are chosen, and that pages hold still."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest

from api.app import create_app
from api.pages import seal
from api.views import instant_text, wire_day
from rules.model import Absence, AbsenceRevoked, DayRecord, Punch, Reading
from tests.api.conftest import ZONE, FakeDaemon, ms, serving


def rows(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def all_pages(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert len(told["items"]) <= query["limit"]
        found += told["items"]
        if told["next"] is None:
            return found
        query["cursor"] = told["next"]


# -- rows


def test_a_slot_has_the_fields_that_other_systems_expect(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.day("1001", "2026-03-02", "absent")

    on, off = rows(client, "/v1/attendance/slots")

    assert on == {
        "person_code": "1001",
        "unit": "tax",
        "work_date": "2026-03-02",
        "segment": "am",
        "slot": "on",
        "target": "2026-03-02T08:30:00+08:00",
        "opens": "2026-03-02T07:30:00+08:00",
        "closes": "2026-03-02T12:00:00+08:00",
        "event_time": "2026-03-02T08:37:00+08:00",
        "verdict": "late",
        "verdict_zh": "迟到",
        "minutes": 7,
        "finality": "provisional",
        "revision": 1,
        "absence_ref": "",
        "evidence": ["313030316f6e"],
        "device": "gate-1",
        "device_sn": "CJ5H221260033",
        "source": "terminal",
        "path": "up",
        "flags": [],
        "rule_version": "r1",
        "updated_at": "2026-03-02T12:10:00+08:00",
    }
    assert off["event_time"] == "2026-03-02T12:01:00.250+08:00"


def test_chinese_is_sent_as_it_is(client: httpx.Client, daemon: FakeDaemon) -> None:
    daemon.day("1001", "2026-03-02")

    answer = client.get("/v1/attendance/days")

    assert "出勤".encode() in answer.content
    assert answer.headers["content-type"] == "application/json"


def test_a_day_lists_its_halves_and_leaves_its_slots_to_their_own_list(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.day("1001", "2026-03-02", "absent")

    (day,) = rows(client, "/v1/attendance/days")

    assert "slots" not in day
    assert day["halves"] == [
        {
            "segment": "am",
            "verdict": "present",
            "verdict_zh": "出勤",
            "findings": ["late"],
            "minutes_due": 210,
            "weight": 0.5,
            "excused_as": "",
            "finality": "pending",
            "live": "",
        }
    ]
    assert (day["points"], day["verdict_zh"], day["day_kind"]) == (1.0, "旷工", "workday")


def test_a_day_in_the_change_feed_carries_its_slots(daemon: FakeDaemon) -> None:
    daemon.day("1001", "2026-03-02")
    body, slots = daemon.database.execute("SELECT body, slots FROM attendance_day").fetchone()
    told = {**json.loads(body), "slots": json.loads(slots)}
    record = msgspec.convert(told, DayRecord)

    row = msgspec.json.decode(msgspec.json.encode(wire_day(record, ZONE, 3, 0, points=0.0)))

    assert [slot["slot"] for slot in row["slots"]] == ["on", "off"]
    assert {slot["revision"] for slot in row["slots"]} == {row["revision"]} == {3}
    assert row["slots"][0]["device_sn"] == "gate-1"


def test_instants_become_text_with_the_offset_of_the_hall() -> None:
    assert instant_text(0, ZONE) == "1970-01-01T08:00:00+08:00"
    assert instant_text(1_772_411_400_120, ZONE) == "2026-03-02T08:30:00.120+08:00"


def test_an_impossible_instant_does_not_hide_the_rows_beside_it(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.punch("1001", "2026-03-02 08:25")
    daemon.journal(Reading("gate-1", ms("2026-03-02 08:26"), Punch("1002")), 1 << 61)

    times = [row["received_time"] for row in rows(client, "/v1/punches")]

    assert times[0] == "2026-03-02T08:25:01.500+08:00"
    assert times[1].startswith("9999-12-")


def test_a_punch_tells_its_three_times_and_how_far_they_can_be_trusted(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.punch("9999", "2026-03-02 08:25", received="2026-03-02 10:00")

    (punch,) = rows(client, "/v1/punches")

    assert punch["person_code"] == "9999"
    assert punch["device_time"] == punch["event_time"] == "2026-03-02T08:25:00+08:00"
    assert punch["received_time"] == "2026-03-02T10:00:01.500+08:00"
    assert (punch["trust"], punch["earliest"]) == ("device", None)
    assert (punch["device"], punch["device_sn"]) == ("gate-1", "CJ5H221260033")


def test_a_quarantined_punch_tells_the_span_it_happened_in(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    reading = Reading("gate-1", ms("2026-03-02 08:25"), Punch("1001"))
    daemon.journal(reading, ms("2026-03-02 09:00"), trust=3)
    daemon.database.execute("UPDATE reading SET earliest = ?", (ms("2026-03-02 08:00"),))

    (punch,) = rows(client, "/v1/punches")

    assert (punch["trust"], punch["earliest"]) == ("quarantined", "2026-03-02T08:00:00+08:00")


@pytest.mark.usefixtures("busy_daemon")
def test_a_violation_is_found_by_its_id_even_when_withdrawn(client: httpx.Client) -> None:
    active = client.get("/v1/violations/v0").json()
    withdrawn = client.get("/v1/violations/v4").json()

    assert (active["state"], active["title"], active["code"]) == ("active", "迟到 7 分钟", "ATT-01")
    assert (withdrawn["state"], withdrawn["reason"]) == ("withdrawn", "retro_leave")


def test_an_open_alert_that_was_acknowledged_reads_acknowledged(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.alert("a1", "2026-03-02 09:00", acknowledged="值班长")
    daemon.alert("a2", "2026-03-02 09:10", "resolved", acknowledged="值班长")
    daemon.alert("a3", "2026-03-02 09:20")

    states = {row["id"]: row["state"] for row in rows(client, "/v1/alerts")}

    assert states == {"a1": "acknowledged", "a2": "resolved", "a3": "open"}
    assert [row["id"] for row in rows(client, "/v1/alerts", state="open")] == ["a3"]
    assert [row["id"] for row in rows(client, "/v1/alerts", state="acknowledged")] == ["a1"]


def test_a_device_tells_its_state_and_what_its_driver_noted(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.database.execute(
        "INSERT INTO device_state (device, state, since, reason, clock_offset, clock_at,"
        " complete_until, last_reading_at, punches, unreadable, info)"
        " VALUES ('gate-1', 'offline', ?, '超时', -4200, ?, ?, ?, 17, 2, ?)",
        (
            ms("2026-03-03 08:50"),
            ms("2026-03-03 08:00"),
            ms("2026-03-03 08:45"),
            ms("2026-03-03 08:49"),
            '{"firmware": "6.60"}',
        ),
    )
    daemon.told = {
        "gate-1": {"last_error": "connection refused", "decode_errors": 3},
        "zk-push": {"seen_not_configured": [{"serial": "X1"}]},
    }

    told = client.get("/v1/devices").json()

    assert told["items"][0] == {
        "id": "gate-1",
        "name": "1号考勤机",
        "driver": "zkteco",
        "window": "",
        "attendance": True,
        "in_service": True,
        "state": "offline",
        "since": "2026-03-03T08:50:00+08:00",
        "reason": "超时",
        "clock_offset_ms": -4200,
        "clock_checked_at": "2026-03-03T08:00:00+08:00",
        "complete_until": "2026-03-03T08:45:00+08:00",
        "last_reading_at": "2026-03-03T08:49:00+08:00",
        "punches": 17,
        "unreadable": 2,
        "info": {"firmware": "6.60"},
        "last_error": "connection refused",
        "live": {"last_error": "connection refused", "decode_errors": 3},
    }
    assert told["seen_not_configured"] == [{"serial": "X1"}]


def test_a_device_that_was_never_heard_of_is_unknown(client: httpx.Client) -> None:
    device = rows(client, "/v1/devices")[1]

    assert (device["id"], device["state"], device["since"]) == ("gate-2", "unknown", None)
    assert (device["complete_until"], device["last_reading_at"]) == (None, None)


# -- filters


@pytest.mark.usefixtures("busy_daemon")
def test_days_are_chosen_by_person_unit_and_date(client: httpx.Client) -> None:
    path = "/v1/attendance/days"

    assert len(rows(client, path)) == 15
    assert {row["person_code"] for row in rows(client, path, unit="tax")} == {"1001", "1002"}
    assert len(rows(client, path, person="1003")) == 5
    assert len(rows(client, path, person=["1001", "1003"])) == 10
    chosen = rows(client, path, **{"from": "2026-03-03", "to": "2026-03-04"})
    assert {row["work_date"] for row in chosen} == {"2026-03-03", "2026-03-04"}
    since = rows(client, path, updated_since="2026-03-06T12:10:00+08:00")
    assert {row["work_date"] for row in since} == {"2026-03-06"}


@pytest.mark.usefixtures("busy_daemon")
def test_violations_are_active_ones_unless_asked_otherwise(client: httpx.Client) -> None:
    path = "/v1/violations"

    assert [row["id"] for row in rows(client, path)] == ["v0", "v1", "v2", "v3"]
    assert [row["id"] for row in rows(client, path, state="withdrawn")] == ["v4"]
    assert len(rows(client, path, state="any")) == 5
    assert rows(client, path, code="ATT-02") == []
    assert rows(client, path, person="1001") == []


@pytest.mark.usefixtures("busy_daemon")
def test_alerts_are_chosen_by_subject_severity_and_date(client: httpx.Client) -> None:
    path = "/v1/alerts"

    assert len(rows(client, path, subject_kind="device", subject="gate-1")) == 5
    assert rows(client, path, subject_kind="person") == []
    assert rows(client, path, severity=5) == []
    assert len(rows(client, path, **{"from": "2026-03-05", "to": "2026-03-05"})) == 1


@pytest.mark.parametrize("clock", ["event", "received"])
def test_punches_are_chosen_by_either_clock_from_inclusive_to_exclusive(
    client: httpx.Client, daemon: FakeDaemon, clock: str
) -> None:
    daemon.punch("1001", "2026-03-02 08:25", received="2026-03-04 08:00")
    daemon.punch("1002", "2026-03-03 00:00", received="2026-03-02 00:00")
    query = {
        f"{clock}_from": "2026-03-02T08:25:00+08:00",
        f"{clock}_to": "2026-03-03T00:00:00+08:00",
    }

    found = [row["person_code"] for row in rows(client, "/v1/punches", **query)]

    assert found == (["1001"] if clock == "event" else [])


def test_a_late_upload_is_found_by_when_it_was_received(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.punch("1001", "2026-03-02 08:25", received="2026-03-04 08:00")

    since = "2026-03-04T00:00:00+08:00"

    assert len(rows(client, "/v1/punches", received_from=since)) == 1
    assert rows(client, "/v1/punches", event_from=since) == []


def test_punches_are_chosen_by_person_and_device(
    client: httpx.Client, busy_daemon: FakeDaemon
) -> None:
    busy_daemon.punch("1001", "2026-03-02 18:00", device="gate-2")

    assert len(rows(client, "/v1/punches", person="1001")) == 11
    assert len(rows(client, "/v1/punches", device="gate-2")) == 1
    assert len(rows(client, "/v1/punches", person=["1002", "1003"], device="gate-1")) == 20


def test_other_readings_are_no_punches(client: httpx.Client, daemon: FakeDaemon) -> None:
    absence = Absence("l1", ("1001",), "sick", ms("2026-03-02 08:00"), ms("2026-03-02 12:00"))
    daemon.journal(Reading("api", ms("2026-03-01 08:00"), absence), ms("2026-03-01 08:00"))

    assert rows(client, "/v1/punches") == []


def test_absences_are_the_newest_wordings_that_still_hold(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    def say(at: str, body: Absence | AbsenceRevoked) -> None:
        daemon.journal(Reading("api", ms(at), body), ms(at))

    morning = (ms("2026-03-02 08:30"), ms("2026-03-02 12:00"))
    say("2026-03-01 08:00", Absence("l1", ("1001",), "sick", *morning))
    say("2026-03-01 08:01", Absence("l2", ("1002", "1003"), "meeting", *morning))
    say("2026-03-01 08:02", Absence("l1", ("1001",), "annual", *morning))
    say("2026-03-01 08:03", AbsenceRevoked("l2", "会议取消"))

    path = "/v1/absences"
    (held,) = rows(client, path)
    (revoked,) = rows(client, path, state="revoked")

    assert (held["id"], held["kind"], held["starts"]) == (
        "l1",
        "annual",
        "2026-03-02T08:30:00+08:00",
    )
    assert (revoked["id"], revoked["reason"], revoked["people"]) == (
        "l2",
        "会议取消",
        ["1002", "1003"],
    )
    assert rows(client, path, person="1003") == []
    assert len(rows(client, path, person="1003", state="any")) == 1
    assert len(rows(client, path, **{"from": "2026-03-02", "to": "2026-03-02"})) == 1
    assert rows(client, path, **{"from": "2026-03-03"}) == []
    assert rows(client, path, to="2026-03-01") == []


# -- pages


@pytest.mark.parametrize(
    ("path", "query", "total"),
    [
        ("/v1/attendance/days", {}, 15),
        ("/v1/attendance/days", {"person": ["1001", "1002"]}, 10),
        ("/v1/attendance/days", {"unit": "tax"}, 10),
        ("/v1/attendance/slots", {}, 30),
        ("/v1/attendance/slots", {"unit": "social"}, 10),
        ("/v1/punches", {}, 30),
        ("/v1/punches", {"person": "1002"}, 10),
        ("/v1/punches", {"device": "gate-1"}, 30),
        ("/v1/punches", {"event_from": "2026-03-03T00:00:00+08:00"}, 24),
        ("/v1/punches", {"received_to": "2026-03-03T00:00:00+08:00"}, 6),
        ("/v1/violations", {"state": "any"}, 5),
        ("/v1/alerts", {}, 5),
        ("/v1/devices", {}, 2),
        ("/v1/queue", {}, 3),
        ("/v1/queue", {"area": "A区"}, 2),
        ("/v1/queue", {"from": "2026-03-02"}, 15),
        ("/v1/queue", {"from": "2026-03-03", "to": "2026-03-04", "window": ["05", "11"]}, 4),
        ("/v1/queue/services", {}, 10),
        ("/v1/queue/services", {"window": "05", "to": "2026-03-03"}, 4),
        ("/v1/ratings", {}, 5),
        ("/v1/ratings", {"bad": True}, 5),
    ],
)
@pytest.mark.parametrize("limit", [1, 3, 500])
@pytest.mark.usefixtures("busy_daemon")
def test_pages_together_are_the_list(
    client: httpx.Client,
    path: str,
    query: dict[str, Any],
    total: int,
    limit: int,
) -> None:
    whole = rows(client, path, limit=500, **query)

    paged = all_pages(client, path, limit=limit, **query)

    assert len(whole) == total
    assert paged == whole


@pytest.mark.usefixtures("busy_daemon")
def test_the_last_page_is_known_to_be_the_last(client: httpx.Client) -> None:
    assert client.get("/v1/attendance/slots?limit=30").json()["next"] is None
    assert client.get("/v1/attendance/slots?limit=29").json()["next"] is not None


@pytest.mark.parametrize("path", ["/v1/attendance/slots", "/v1/attendance/days", "/v1/punches"])
def test_rows_added_while_paging_neither_repeat_nor_hide_others(
    client: httpx.Client, busy_daemon: FakeDaemon, path: str
) -> None:
    before = rows(client, path, limit=500)
    first = client.get(path, params={"limit": 7}).json()

    busy_daemon.staff["0999"] = busy_daemon.staff["1001"]
    busy_daemon.day("0999", "2026-03-02")
    busy_daemon.day("0999", "2026-03-09")
    busy_daemon.punch("0999", "2026-03-01 08:00", received="2026-03-10 08:00")
    rest = all_pages(client, path, limit=7, cursor=first["next"])

    paged = first["items"] + rest
    assert [row for row in paged if row["person_code"] != "0999"] == before
    assert any(row["person_code"] == "0999" for row in rest)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cursor: cursor[:-1],
        lambda cursor: cursor + "A",
        lambda cursor: cursor + "!",
        lambda cursor: cursor[:3] + "!!!!" + cursor[3:],
        lambda cursor: ("A" if cursor[0] != "A" else "B") + cursor[1:],
        lambda cursor: cursor[:9] + ("A" if cursor[9] != "A" else "B") + cursor[10:],
        lambda _: "中文",
        lambda _: seal("violations", ("2026-03-02", "1001", "v1")),
        lambda _: seal("days", (1, 2)),
    ],
)
@pytest.mark.usefixtures("busy_daemon")
def test_a_cursor_that_this_list_never_gave_is_refused(client: httpx.Client, spoil: Any) -> None:
    cursor = client.get("/v1/attendance/days?limit=2").json()["next"]

    answer = client.get("/v1/attendance/days", params={"limit": 2, "cursor": spoil(cursor)})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "cursor"


def test_every_list_is_read_along_an_index(
    busy_daemon: FakeDaemon, secrets: dict[str, str]
) -> None:
    """Without statistics, as in a young database: no list sorts or scans a whole table."""
    app = create_app(busy_daemon)
    asked: list[str] = []
    app.state.desk.connection.set_trace_callback(asked.append)
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    span = {"from": "2026-03-02", "to": "2026-03-06"}
    since = "2026-03-02T00:00:00+08:00"
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, verify=False) as client:
        for path, query in (
            ("/v1/attendance/days", {"unit": "tax", **span}),
            ("/v1/attendance/days", {"person": "1001"}),
            ("/v1/attendance/slots", span),
            ("/v1/violations", span),
            ("/v1/violations", {"unit": "tax"}),
            ("/v1/violations", {"person": "1002"}),
            ("/v1/alerts", span),
            ("/v1/alerts", {"state": "resolved"}),
            ("/v1/queue", span),
            ("/v1/queue", {"area": "A区", **span}),
            ("/v1/queue/services", {}),
            ("/v1/queue/services", {"window": "05", **span}),
            ("/v1/ratings", {}),
            ("/v1/ratings", {"window": "05", "bad": "true", "channel": "qr", **span}),
            ("/v1/punches", {}),
            ("/v1/punches", {"event_from": since, "person": "1001"}),
            ("/v1/punches", {"received_from": since, "device": "gate-1"}),
        ):
            all_pages(client, path, limit=2, **query)

    lists = [sql for sql in asked if "ORDER BY" in sql]
    assert len(lists) > 40
    for sql in lists:
        plan = [row[3] for row in busy_daemon.database.execute(f"EXPLAIN QUERY PLAN {sql}")]
        # Rows of one person and date, or of one date, may be put in order among themselves.
        assert not [
            step for step in plan if step.startswith("USE TEMP") and "RIGHT PART" not in step
        ], (sql, plan)
        plan = [step for step in plan if step != "SCAN service"]  # kept in the order of its key
        assert not [step for step in plan if step.startswith("SCAN") and "USING" not in step], (
            sql,
            plan,
        )
