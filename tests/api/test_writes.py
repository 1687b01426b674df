"""What other systems push: what is recorded, what is refused, and what a repeat does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import httpx
import pytest

from rules.model import (
    Absence,
    AbsenceRevoked,
    AlertAction,
    GapExplained,
    Person,
    PersonEntry,
    PresenceEvidence,
    Punch,
    RosterEntry,
)
from tests.api.conftest import FakeDaemon, ms

LEAVE = {
    "id": "oa-17",
    "people": ["1001", "1002"],
    "kind": "sick",
    "starts": "2026-03-02T08:30:00+08:00",
    "ends": "2026-03-02T12:00:00+08:00",
    "approved_by": "刘主任",
}


def refused(answer: httpx.Response, field: str, status: int = 422) -> None:
    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


# -- absences


def test_an_absence_is_recorded_and_answered_as_it_will_be_listed(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    answer = client.post("/v1/absences", json=LEAVE)

    assert answer.status_code == 201
    (reading,) = daemon.recorded
    assert (reading.device, reading.at) == ("api", daemon.clock)
    assert reading.body == Absence(
        "oa-17",
        ("1001", "1002"),
        "sick",
        ms("2026-03-02 08:30"),
        ms("2026-03-02 12:00"),
        approved_by="刘主任",
    )
    assert client.get("/v1/absences").json()["items"] == [answer.json()]


def test_times_of_any_offset_are_the_same_instant(client: httpx.Client, daemon: FakeDaemon) -> None:
    client.post("/v1/absences", json={**LEAVE, "starts": "2026-03-02T00:30:00Z"})

    body = daemon.recorded[0].body
    assert isinstance(body, Absence)
    assert body.starts == ms("2026-03-02 08:30")


@pytest.mark.parametrize(
    ("kind", "said", "required"),
    [("sick", None, False), ("meeting", None, True), ("meeting", False, False)],
)
def test_an_outing_needs_its_punches_unless_said_otherwise(
    client: httpx.Client, kind: str, said: bool | None, required: bool
) -> None:
    answer = client.post("/v1/absences", json={**LEAVE, "kind": kind, "punch_required": said})

    assert answer.json()["punch_required"] is required


def test_an_absence_without_an_id_gets_one(client: httpx.Client) -> None:
    body = {name: value for name, value in LEAVE.items() if name != "id"}

    ids = {client.post("/v1/absences", json=body).json()["id"] for _ in range(2)}

    assert len(ids) == 2
    assert all(ids)


def test_an_absence_sent_again_is_no_news_and_a_changed_one_replaces_it(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    client.post("/v1/absences", json=LEAVE)

    same = client.post("/v1/absences", json=LEAVE)
    changed = client.post("/v1/absences", json={**LEAVE, "kind": "annual"})

    assert (same.status_code, changed.status_code) == (200, 200)
    assert len(daemon.recorded) == 2
    (listed,) = client.get("/v1/absences").json()["items"]
    assert listed["kind"] == "annual"


def test_revoking_an_absence_is_recorded_once(client: httpx.Client, daemon: FakeDaemon) -> None:
    client.post("/v1/absences", json=LEAVE)

    for _ in range(2):
        answer = client.delete("/v1/absences/oa-17", params={"reason": "已返岗"})
        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["reason"]) == ("revoked", "已返岗")

    assert [reading.body for reading in daemon.recorded[1:]] == [AbsenceRevoked("oa-17", "已返岗")]
    refused(client.post("/v1/absences", json=LEAVE), "id", 409)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"people": []}, "people"),
        ({"people": ["1001", "8888"]}, "people.1"),
        ({"people": ["a/b"]}, "people.0"),
        ({"people": "1001"}, "people"),
        ({"kind": "holiday"}, "kind"),
        ({"starts": "2026-03-02T08:30:00"}, "starts"),
        ({"starts": "2026-03-02"}, "starts"),
        ({"starts": 1772411400}, "starts"),
        ({"starts": "1772411400"}, "starts"),
        ({"starts": "0001-01-01T00:00:00+14:00"}, "starts"),
        ({"starts": "2026-03-02T08:30:00+99:00"}, "starts"),
        ({"ends": "2026-03-02T08:30:00+08:00"}, "starts"),
        ({"ends": "2027-08-02T08:30:00+08:00"}, "ends"),
        ({"id": "中"}, "id"),
        ({"note": "x" * 501}, "note"),
        ({"note": "a\u0000b"}, "note"),
        ({"punch_required": "yes"}, "punch_required"),
        ({"days": 1}, "days"),
    ],
)
def test_a_wrong_absence_is_refused_and_the_field_is_named(
    client: httpx.Client, daemon: FakeDaemon, change: dict[str, Any], field: str
) -> None:
    refused(client.post("/v1/absences", json={**LEAVE, **change}), field)

    assert daemon.recorded == []


# -- alerts


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_an_alert_is_acted_on_by_name(
    client: httpx.Client, daemon: FakeDaemon, action: Any
) -> None:
    daemon.alert("a1", "2026-03-02 09:00")

    answer = client.post(f"/v1/alerts/a1/{action}", json={"by": "赵值班", "note": "已通知厂家"})

    assert answer.status_code == 200
    assert answer.json() == {
        "alert_id": "a1",
        "action": action,
        "by": "赵值班",
        "note": "已通知厂家",
        "at": "2026-03-03T09:00:00+08:00",
    }
    assert daemon.recorded[0].body == AlertAction("a1", action, "赵值班", "已通知厂家")


def test_who_gives_no_name_acts_in_the_name_of_the_token(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.alert("a1", "2026-03-02 09:00")

    client.post("/v1/alerts/a1/acknowledge", json={})

    assert daemon.recorded[0].body == AlertAction("a1", "acknowledge", "admin")


def test_what_is_over_can_be_acknowledged_but_not_resolved(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.alert("a1", "2026-03-02 09:00", "resolved")

    assert client.post("/v1/alerts/a1/resolve", json={}).status_code == 409
    assert client.post("/v1/alerts/a1/acknowledge", json={}).status_code == 200


# -- people and rosters


def test_a_new_person_is_created_and_then_replaced_whole(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    told = {
        "name": "赵敏",
        "unit": "tax",
        "employed": [{"from": "2026-01-05"}],
        "devices": ["gate-1"],
    }
    created = client.put("/v1/people/1009", json=told)
    same = client.put("/v1/people/1009", json=told)
    replaced = client.put("/v1/people/1009", json={"name": "赵敏"})

    assert (created.status_code, same.status_code, replaced.status_code) == (201, 200, 200)
    assert created.json()["employed"] == [{"from": "2026-01-05", "to": None}]
    assert [reading.body for reading in daemon.recorded] == [
        PersonEntry(
            Person("1009", "赵敏", "tax", employed=((date(2026, 1, 5), None),), devices=("gate-1",))
        ),
        PersonEntry(Person("1009", "赵敏")),
    ]


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"unit": "Tax Office"}, "unit"),
        ({"devices": ["gate-1", "gate-9"]}, "devices.1"),
        ({"employed": [{"from": "2026-02-01", "to": "2026-01-01"}]}, "employed.0.from"),
        ({"employed": [{"to": "2026-01-01"}]}, "employed.0.from"),
        ({"attendance_required": 1}, "attendance_required"),
    ],
)
def test_a_wrong_person_is_refused(client: httpx.Client, told: Any, field: str) -> None:
    refused(client.put("/v1/people/1009", json=told), field)


@pytest.mark.parametrize(
    ("told", "entry"),
    [
        ({"duty": "rest"}, RosterEntry("1001", date(2026, 3, 7), duty="rest")),
        ({"timetable": "summer"}, RosterEntry("1001", date(2026, 3, 7), "summer")),
        ({"removed": True}, RosterEntry("1001", date(2026, 3, 7), removed=True)),
    ],
)
def test_a_roster_names_a_timetable_or_rest_or_goes(
    client: httpx.Client, daemon: FakeDaemon, told: Any, entry: RosterEntry
) -> None:
    assert client.put("/v1/rosters/1001/2026-03-07", json=told).status_code == 200

    assert daemon.recorded[0].body == entry


@pytest.mark.parametrize(
    "told", [{}, {"timetable": "winter"}, {"timetable": "summer", "duty": "rest"}]
)
def test_a_roster_that_says_nothing_or_too_much_is_refused(client: httpx.Client, told: Any) -> None:
    refused(client.put("/v1/rosters/1001/2026-03-07", json=told), "timetable")


# -- events


@pytest.mark.parametrize(
    ("event", "body"),
    [
        (
            {"kind": "manual_punch", "by": "刘", "note": "停电"},
            Punch("1001", source="manual", note="刘: 停电"),
        ),
        ({"kind": "punch_correction"}, Punch("1001", source="correction")),
        (
            {"kind": "ticket_called", "window": "05"},
            PresenceEvidence("1001", "ticket_called", "05"),
        ),
        ({"kind": "case_closed"}, PresenceEvidence("1001", "case_closed")),
        ({"kind": "seen", "sensor": "seat-05"}, PresenceEvidence("1001", "seen", "", "seat-05")),
    ],
)
def test_an_event_about_a_person_is_dated_by_its_own_time(
    client: httpx.Client, daemon: FakeDaemon, event: dict[str, Any], body: Any
) -> None:
    told = {**event, "person": "1001", "at": "2026-03-02T08:31:00+08:00"}

    answer = client.post("/v1/events", json=told)

    assert answer.status_code == 201
    (reading,) = daemon.recorded
    assert (reading.device, reading.at, reading.body) == ("api", ms("2026-03-02 08:31"), body)


def test_an_explained_gap_says_whether_the_terminal_was_usable(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    told = {
        "kind": "gap_explained",
        "device": "gate-1",
        "starts": "2026-03-02T08:00:00+08:00",
        "ends": "2026-03-02T09:00:00+08:00",
        "usable": False,
    }
    assert client.post("/v1/events", json=told).status_code == 201

    starts, ends = ms("2026-03-02 08:00"), ms("2026-03-02 09:00")
    assert daemon.recorded[0].body == GapExplained("gate-1", starts, ends, False)
    refused(client.post("/v1/events", json={**told, "device": "gate-9"}), "0.device")
    refused(client.post("/v1/events", json={**told, "ends": told["starts"]}), "0.starts")


def test_the_same_event_told_twice_is_one_fact(client: httpx.Client, daemon: FakeDaemon) -> None:
    told = {"kind": "manual_punch", "person": "1001", "at": "2026-03-02T08:31:00+08:00"}

    answers = [client.post("/v1/events", json=told).json() for _ in range(2)]

    assert answers[0] == answers[1]
    assert daemon.database.execute("SELECT count(*) FROM reading").fetchone() == (1,)


def test_many_events_are_recorded_all_or_none(client: httpx.Client, daemon: FakeDaemon) -> None:
    event = {"kind": "ticket_called", "person": "1001", "at": "2026-03-02T09:00:00+08:00"}

    refused(client.post("/v1/events", json=[event, {**event, "person": "8888"}]), "1.person")
    assert daemon.recorded == []

    answer = client.post("/v1/events", json=[event, {**event, "person": "1002"}])
    assert answer.json()["recorded"] == len(daemon.recorded) == 2
    refused(client.post("/v1/events", json=[event] * 501), "")
    refused(client.post("/v1/events", json=[]), "")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"at": "2026-03-03T09:06:00+08:00"}, "0.at"),
        ({"at": "2026-03-02T09:00:00"}, "0.at"),
        ({"person": "8888"}, "0.person"),
        ({"kind": "seen"}, "0.sensor"),
        ({"kind": "smoke_break"}, "0"),
        ({"mood": "bad"}, "0.mood"),
    ],
)
def test_a_wrong_event_is_refused(
    client: httpx.Client, daemon: FakeDaemon, change: dict[str, Any], field: str
) -> None:
    event = {"kind": "ticket_called", "person": "1001", "at": "2026-03-02T09:00:00+08:00"}

    refused(client.post("/v1/events", json={**event, **change}), field)

    assert daemon.recorded == []


# -- once only


def test_a_repeat_with_the_same_key_gets_the_same_answer_and_records_nothing(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    body = {name: value for name, value in LEAVE.items() if name != "id"}
    headers = {"Idempotency-Key": "req-1"}

    first = client.post("/v1/absences", json=body, headers=headers)
    daemon.clock += 60_000
    again = client.post("/v1/absences", json=body, headers=headers)

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(daemon.recorded) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_every_kind_of_write_can_be_repeated(
    client: httpx.Client, daemon: FakeDaemon, method: str
) -> None:
    client.post("/v1/absences", json=LEAVE)
    daemon.alert("a1", "2026-03-02 09:00")
    before = len(daemon.recorded)
    path, body = {
        "PUT": ("/v1/people/1009", {"name": "赵敏"}),
        "DELETE": ("/v1/absences/oa-17", None),
        "POST": ("/v1/alerts/a1/resolve", {}),
    }[method]

    answers = [
        client.request(method, path, json=body, headers={"Idempotency-Key": "k"}) for _ in range(3)
    ]

    assert len({(answer.status_code, answer.content) for answer in answers}) == 1
    assert len(daemon.recorded) == before + 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/absences", {**LEAVE, "kind": "annual"}),
        ("DELETE", "/v1/absences/oa-17", None),
        ("POST", "/v1/absences?x=1", LEAVE),
    ],
)
def test_a_key_used_for_another_request_is_a_conflict(
    client: httpx.Client, daemon: FakeDaemon, method: str, path: str, body: Any
) -> None:
    headers = {"Idempotency-Key": "req-1"}
    client.post("/v1/absences", json=LEAVE, headers=headers)

    answer = client.request(method, path, json=body, headers=headers)

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(daemon.recorded) == 1


def test_keys_of_different_tokens_do_not_meet(
    client: httpx.Client, daemon: FakeDaemon, secrets: dict[str, str]
) -> None:
    told = {"kind": "case_closed", "person": "1001", "at": "2026-03-02T09:00:00+08:00"}
    client.post("/v1/absences", json=LEAVE, headers={"Idempotency-Key": "1"})

    other = {"Idempotency-Key": "1", "Authorization": f"Bearer {secrets['queue-system']}"}
    answer = client.post("/v1/events", json=told, headers=other)

    assert answer.status_code == 201
    assert len(daemon.recorded) == 2


def test_a_refused_request_may_be_mended_under_the_same_key(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "req-1"}

    wrong = client.post("/v1/absences", json={**LEAVE, "kind": "nap"}, headers=headers)
    right = client.post("/v1/absences", json=LEAVE, headers=headers)

    assert (wrong.status_code, right.status_code) == (422, 201)


def test_two_attempts_at_once_are_recorded_once(client: httpx.Client, daemon: FakeDaemon) -> None:
    daemon.slow = 0.2
    body = {name: value for name, value in LEAVE.items() if name != "id"}

    def attempt(_: int) -> httpx.Response:
        return client.post("/v1/absences", json=body, headers={"Idempotency-Key": "req-1"})

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(attempt, range(4)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(daemon.recorded) == 1


def test_what_was_recorded_before_a_crash_but_not_answered_is_not_doubled(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    body = {name: value for name, value in LEAVE.items() if name != "id"}
    headers = {"Idempotency-Key": "req-1"}
    first = client.post("/v1/absences", json=body, headers=headers).json()["id"]

    daemon.database.execute("DELETE FROM idempotency")
    second = client.post("/v1/absences", json=body, headers=headers).json()["id"]

    assert first == second
    assert len(daemon.recorded) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_must_be_short_and_visible(client: httpx.Client, key: str) -> None:
    answer = client.post("/v1/absences", json=LEAVE, headers={"Idempotency-Key": key})

    refused(answer, "Idempotency-Key")


def test_when_nothing_can_be_stored_the_answer_says_so_and_the_retry_works(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    headers = {"Idempotency-Key": "req-1"}
    daemon.full_disk = True

    refusal = client.post("/v1/absences", json=LEAVE, headers=headers)
    daemon.full_disk = False
    accepted = client.post("/v1/absences", json=LEAVE, headers=headers)

    assert refusal.status_code == 503
    assert "retry-after" in refusal.headers
    assert accepted.status_code == 201
    assert len(daemon.recorded) == 1
