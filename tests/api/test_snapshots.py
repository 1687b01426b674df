"""Evidence pictures over the API: listed to whoever supervises, shown for a reason, and every look
in the journal before the picture is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.snapshots import SnapshotRow
from daemon.snapshots import Snapshots
from rules.counter import Window
from rules.model import DeviceEvent, Reading
from tests.api.conftest import FakeDaemon, Stage, ms

JPEG = b"\xff\xd8" + bytes(range(256)) + b"\xff\xd9"


@pytest.fixture
def folder(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "snapshots", 7, 200)


@pytest.fixture
def address(stage: tuple[Stage, str], daemon: FakeDaemon, folder: Snapshots) -> Iterator[str]:
    stage[0].app = create_app(daemon, snapshots=folder)
    yield stage[1]
    stage[0].leave(daemon)


@pytest.fixture
def names(folder: Snapshots) -> list[str]:
    """Of two cameras, two windows, and three dates of the hall."""
    return [
        folder.keep(device, ms(at), subject, JPEG + bytes(extra))
        for extra, (device, at, subject) in enumerate(
            (
                ("hall-03", "2026-03-01 23:59:59.999", "05-empty"),
                ("hall-03", "2026-03-02 00:00", "05-still"),
                ("hall-03", "2026-03-02 09:30:00.250", "06-empty"),
                ("hall-04", "2026-03-02 23:59:59", "covered"),
                ("hall-04", "2026-03-03 00:00", "05-empty"),
            )
        )
    ]


def audit(daemon: FakeDaemon) -> list[tuple[str, str]]:
    rows = daemon.database.execute(
        "SELECT device, body FROM reading WHERE kind = 'event' ORDER BY seq"
    )
    return [(device, json.loads(body)["detail"]) for device, body in rows]


# -- the list


def test_pictures_are_listed_oldest_first_as_documented(
    client: httpx.Client, names: list[str]
) -> None:
    told = client.get("/v1/snapshots").json()

    assert [row["name"] for row in told["items"]] == names
    assert told["next"] is None
    assert told["items"][2] == {
        "name": "20260302T013000250_hall-03_06-empty.jpg",
        "device": "hall-03",
        "at": "2026-03-02T09:30:00.250+08:00",
        "subject": "06-empty",
        "bytes": len(JPEG) + 2,
    }
    assert list(told["items"][0]) == list(SnapshotRow.model_fields)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("device=hall-04", [3, 4]),
        ("device=hall-0", []),
        ("window=05", [0, 1, 4]),
        ("window=06&window=05", [0, 1, 2, 4]),
        ("window=0", []),
        ("from=2026-03-02", [1, 2, 3, 4]),
        ("to=2026-03-02", [0, 1, 2, 3]),
        ("from=2026-03-02&to=2026-03-02", [1, 2, 3]),
        ("from=2026-03-02&to=2026-03-02&window=05&device=hall-03", [1]),
    ],
)
def test_the_list_can_be_narrowed(
    client: httpx.Client, names: list[str], query: str, expected: list[int]
) -> None:
    found = [row["name"] for row in client.get(f"/v1/snapshots?{query}").json()["items"]]

    assert found == [names[number] for number in expected]


def test_a_window_whose_id_begins_like_anothers_is_told_apart(
    client: httpx.Client, daemon: FakeDaemon, folder: Snapshots
) -> None:
    daemon.counters["05-a"] = Window("05-a", "5号窗口甲", "tax", "A区")
    for subject in ("05-empty", "05-a-empty", "05-a", "05-b-empty"):
        folder.keep("hall-03", ms("2026-03-02 09:00"), subject, JPEG)

    def of(window: str) -> list[str]:
        rows = client.get("/v1/snapshots", params={"window": window}).json()["items"]
        return [row["subject"] for row in rows]

    assert of("05") == ["05-b-empty", "05-empty"]
    assert of("05-a") == ["05-a-empty", "05-a"]
    assert of("05-b") == ["05-b-empty"]  # no longer in the settings


def test_a_page_follows_the_other_while_pictures_come_and_go(
    client: httpx.Client, names: list[str], folder: Snapshots
) -> None:
    first = client.get("/v1/snapshots?limit=2").json()
    folder.tidy(ms("2026-03-02 00:00") + 7 * 86_400_000)
    folder.keep("hall-05", ms("2026-03-04 08:00"), "black", JPEG)
    second = client.get("/v1/snapshots", params={"limit": 3, "cursor": first["next"]}).json()
    third = client.get("/v1/snapshots", params={"cursor": second["next"]}).json()

    assert [row["name"] for row in first["items"]] == names[:2]
    assert [row["name"] for row in second["items"]] == names[2:]
    assert [row["device"] for row in third["items"]] == ["hall-05"]
    assert third["next"] is None
    assert client.get("/v1/snapshots?limit=6").json()["next"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=2026-03-03&to=2026-03-02", "from"),
        ("from=2026-01-01&to=2026-03-02", "to"),
        ("cursor=abc", "cursor"),
        ("limit=501", "limit"),
        ("camera=hall-03", "camera"),
    ],
)
def test_a_list_that_is_asked_for_wrongly_names_the_field(
    client: httpx.Client, query: str, field: str
) -> None:
    answer = client.get(f"/v1/snapshots?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_listing_is_no_look_at_a_picture(
    client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    assert len(client.get("/v1/snapshots").json()["items"]) == len(names)
    assert audit(daemon) == []


# -- a picture


def test_a_picture_is_given_for_a_reason_and_the_look_is_journalled(
    client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    answer = client.get(f"/v1/snapshots/{names[0]}", params={"reason": " 核实离岗 "})

    assert answer.status_code == 200
    assert answer.content == JPEG
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    assert daemon.recorded == [
        Reading(
            "api",
            daemon.clock,
            DeviceEvent("snapshot_viewed", detail=f"{names[0]} by admin (id-admin): 核实离岗"),
        )
    ]


def test_every_look_is_a_line_even_within_one_millisecond(
    client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    for _ in range(3):
        client.get(f"/v1/snapshots/{names[0]}?reason=x")

    assert audit(daemon) == [("api", f"{names[0]} by admin (id-admin): x")] * 3


def test_the_look_is_in_the_journal_before_the_picture_is_given(
    client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    daemon.full_disk = True
    answer = client.get(f"/v1/snapshots/{names[0]}?reason=x")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "No picture without a record" in answer.json()["detail"]
    assert JPEG[:20] not in answer.content


@pytest.mark.parametrize("query", ["", "?reason=", "?reason=%20%20", "?reason=%E3%80%80"])
def test_without_a_reason_there_is_no_picture(
    client: httpx.Client, daemon: FakeDaemon, names: list[str], query: str
) -> None:
    answer = client.get(f"/v1/snapshots/{names[0]}{query}")

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [
        {"field": "reason", "location": "query", "detail": "say why the picture is looked at"}
    ]
    assert audit(daemon) == []


@pytest.mark.parametrize("query", ["?reason=a%0Ab", "?reason=" + "x" * 201, "?reason=x&why=y"])
def test_a_reason_is_one_short_line(client: httpx.Client, names: list[str], query: str) -> None:
    assert client.get(f"/v1/snapshots/{names[0]}{query}").status_code == 422


def test_what_is_not_there_is_not_found_and_no_look(
    client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    gone = names[0].replace("05-empty", "05-gone")
    answer = client.get(f"/v1/snapshots/{gone}?reason=x")

    assert answer.status_code == 404
    assert answer.json()["errors"][0] == {
        "field": "name", "location": "path", "detail": "not known"
    }  # fmt: skip
    assert audit(daemon) == []


@pytest.mark.parametrize(
    "name", ["..%2Fhallwatch.db", "%2Fetc%2Fpasswd", "..", "hallwatch.db", "a_b_c.jpg%0A", "%00"]
)
def test_no_path_leads_out_of_the_folder(
    client: httpx.Client, daemon: FakeDaemon, names: list[str], name: str
) -> None:
    assert names
    answer = client.get(f"/v1/snapshots/{name}?reason=x")

    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert audit(daemon) == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
def test_there_is_no_other_way_to_a_picture(
    client: httpx.Client, names: list[str], method: str
) -> None:
    assert client.request(method, f"/v1/snapshots/{names[0]}?reason=x").status_code == 405


@pytest.mark.parametrize("who", ["technician", "attendance", "leave-system"])
def test_only_supervision_sees_them(
    client: httpx.Client, daemon: FakeDaemon, secrets: dict[str, str], names: list[str], who: str
) -> None:
    headers = {"Authorization": f"Bearer {secrets[who]}"}

    for path in ("/v1/snapshots", f"/v1/snapshots/{names[0]}?reason=x"):
        assert client.get(path, headers=headers).status_code == 403
        assert client.get(path, headers={"Authorization": ""}).status_code == 401
    assert audit(daemon) == []


def test_who_supervises_may_look(
    client: httpx.Client, daemon: FakeDaemon, secrets: dict[str, str], names: list[str]
) -> None:
    headers = {"Authorization": f"Bearer {secrets['supervision']}"}
    answer = client.get(f"/v1/snapshots/{names[3]}?reason=x", headers=headers)

    assert answer.content == JPEG + bytes(3)
    assert audit(daemon) == [("api", f"{names[3]} by supervision (id-supervision): x")]


# -- switched off, and the document


def test_switched_off_there_are_none_and_the_answer_says_why(
    stage: tuple[Stage, str], client: httpx.Client, daemon: FakeDaemon, names: list[str]
) -> None:
    on = stage[0].app
    stage[0].app = create_app(daemon)
    try:
        answers = [
            client.get("/v1/snapshots"),
            client.get(f"/v1/snapshots/{names[0]}"),
            client.get(f"/v1/snapshots/{names[0]}?reason=x"),
        ]
    finally:
        stage[0].app.state.desk.close()
        stage[0].app = on

    assert [answer.status_code for answer in answers] == [404] * 3
    assert all("switched off" in answer.json()["detail"] for answer in answers)
    assert audit(daemon) == []


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_is_asked_is_answered_as_the_document_says(
    address: str, secrets: dict[str, str], names: list[str], mode: GenerationMode
) -> None:
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    given_out = [
        f"{address}/v1/snapshots/{names[0]}?reason=x",
        f"{address}/v1/snapshots/{names[0]}",
        f"{address}/v1/snapshots",
    ]
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    asked: set[int] = set()

    for found in schema.include(path_regex="^/v1/snapshots").get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            answer = case.call(headers=headers)
            asked.add(answer.status_code)
            case.validate_response(answer, checks=checks)

        check()

    documented = httpx.get(f"{address}/openapi.json").json()["paths"]
    for url in given_out:
        answer = httpx.get(url, headers=headers)
        template = "/v1/snapshots" if url.endswith("snapshots") else "/v1/snapshots/{name}"
        told = documented[template]["get"]["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"] in told
    assert asked <= {200, 400, 401, 404, 422}
    assert len(asked) > 1
