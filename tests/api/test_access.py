"""Who may ask, and how the API says no."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.auth import SCOPES
from api.reader import Health
from tests.api.conftest import TOKENS, FakeDaemon, serving

ABSENCE = {
    "id": "l1",
    "people": ["1001"],
    "kind": "sick",
    "starts": "2026-03-02T08:30:00+08:00",
    "ends": "2026-03-02T12:00:00+08:00",
}
EVENT = {"kind": "ticket_called", "person": "1001", "at": "2026-03-02T09:00:00+08:00"}

NEEDS: list[tuple[str, str, Any, str]] = [
    ("GET", "/v1/punches", None, "attendance:read"),
    ("GET", "/v1/attendance/slots", None, "attendance:read"),
    ("GET", "/v1/attendance/days", None, "attendance:read"),
    ("GET", "/v1/absences", None, "attendance:read"),
    ("GET", "/v1/violations", None, "supervision:read"),
    ("GET", "/v1/violations/v1", None, "supervision:read"),
    ("GET", "/v1/violations/v1/explanation", None, "supervision:read"),
    ("GET", "/v1/alerts", None, "supervision:read"),
    ("GET", "/v1/queue", None, "supervision:read"),
    ("GET", "/v1/queue/services", None, "supervision:read"),
    ("GET", "/v1/presence", None, "supervision:read"),
    ("GET", "/v1/ratings", None, "supervision:read"),
    ("GET", "/v1/ratings/figures", None, "supervision:read"),
    ("GET", "/v1/ratings/r1", None, "supervision:read"),
    ("GET", "/v1/snapshots", None, "supervision:read"),
    ("GET", "/v1/snapshots/20260302T013000250_c_w.jpg", None, "supervision:read"),
    ("GET", "/v1/changes", None, "supervision:read"),
    ("GET", "/v1/stream", None, "supervision:read"),
    ("GET", "/v1/devices", None, "devices:read"),
    ("GET", "/v1/devices/figures", None, "devices:read"),
    ("GET", "/metrics", None, "devices:read"),
    ("POST", "/v1/alerts/a1/acknowledge", {}, "supervision:write"),
    ("POST", "/v1/alerts/a1/resolve", {}, "supervision:write"),
    ("POST", "/v1/absences", ABSENCE, "absences:write"),
    ("DELETE", "/v1/absences/l0", None, "absences:write"),
    ("POST", "/v1/events", EVENT, "events:write"),
    ("PUT", "/v1/people/1001", {}, "admin"),
    ("PUT", "/v1/rosters/1001/2026-03-02", {"duty": "rest"}, "admin"),
]


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """A problem in the form that every refusal has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["type"] == f"urn:hallwatch:problem:{status}"
    assert not told["title"].isascii()
    assert told["detail"].isascii()
    return told


def answer_to(
    client: httpx.Client, method: str, path: str, body: Any, **headers: str
) -> httpx.Response:
    """The answer, of a stream its head alone."""
    request = client.build_request(method, path, json=body, headers=headers)
    answer = client.send(request, stream=True)
    if answer.headers["content-type"].startswith("text/event-stream"):
        answer.close()
    else:
        answer.read()
    return answer


def test_every_path_wants_its_own_scope_and_admin_may_all(
    address: str, daemon: FakeDaemon, secrets: dict[str, str]
) -> None:
    daemon.violation("v1", "1001", "2026-03-02")
    daemon.alert("a1", "2026-03-02 09:00")
    with httpx.Client(base_url=address, verify=False, timeout=10) as client:
        for method, path, body, scope in NEEDS:
            for name, scopes in TOKENS.items():
                answer = answer_to(
                    client, method, path, body, Authorization=f"Bearer {secrets[name]}"
                )
                if name == "admin" or scope in scopes.split():
                    assert answer.status_code in (200, 201, 404), (path, name, answer.status_code)
                else:
                    told = is_problem(answer, 403)
                    assert scope in told["detail"]
                    assert f'scope="{scope}"' in answer.headers["www-authenticate"]


def test_the_table_of_scopes_here_covers_every_documented_path(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    documented = {
        (method.upper(), path): operation["security"][0]["bearer"][0]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "security" in operation
    }
    named = {
        ("GET", "/v1/violations/v1"): "/v1/violations/{violation_id}",
        ("GET", "/v1/violations/v1/explanation"): "/v1/violations/{violation_id}/explanation",
        ("GET", "/v1/ratings/r1"): "/v1/ratings/{rating_id}",
        ("GET", "/v1/snapshots/20260302T013000250_c_w.jpg"): "/v1/snapshots/{name}",
        ("POST", "/v1/alerts/a1/acknowledge"): "/v1/alerts/{alert_id}/acknowledge",
        ("POST", "/v1/alerts/a1/resolve"): "/v1/alerts/{alert_id}/resolve",
        ("DELETE", "/v1/absences/l0"): "/v1/absences/{absence_id}",
        ("PUT", "/v1/people/1001"): "/v1/people/{code}",
        ("PUT", "/v1/rosters/1001/2026-03-02"): "/v1/rosters/{person}/{work_date}",
    }

    here = {(method, named.get((method, path), path)): scope for method, path, _, scope in NEEDS}

    assert documented == here
    assert set(documented.values()) <= set(SCOPES)
    open_paths = {
        path
        for path, operations in document["paths"].items()
        if any("security" not in operation for operation in operations.values())
    }
    assert open_paths == {"/healthz", "/readyz"}


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic YTpi", "hw_admin_secret", "Bearer ÿ"],
)
@pytest.mark.usefixtures("secrets")  # there are tokens, but not this one
def test_without_a_known_token_every_path_is_refused(address: str, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    with httpx.Client(base_url=address, verify=False, timeout=10, headers=headers) as client:
        for method, path, body, _ in NEEDS:
            answer = client.request(method, path, json=body)
            is_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_without_any_token_in_the_table_nothing_is_open(address: str) -> None:
    with httpx.Client(base_url=address, verify=False, timeout=10) as client:
        for method, path, body, _ in NEEDS:
            is_problem(client.request(method, path, json=body), 401)


def test_a_revoked_token_is_refused_at_the_next_request(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    assert client.get("/v1/alerts").status_code == 200

    daemon.database.execute("UPDATE token SET revoked_at = 1 WHERE name = 'admin'")

    is_problem(client.get("/v1/alerts"), 401)


def test_the_secret_itself_is_nowhere_in_the_database(
    daemon: FakeDaemon, secrets: dict[str, str], client: httpx.Client
) -> None:
    client.post("/v1/events", json=EVENT, headers={"Idempotency-Key": "k1"})
    daemon.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    assert secrets["admin"].encode() not in daemon.path.read_bytes()


def test_health_and_documents_need_no_token(address: str) -> None:
    with httpx.Client(base_url=address, verify=False, timeout=10) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"ready": True, "reasons": []}
        assert client.get("/openapi.json").status_code == 200
        assert client.get("/docs").status_code == 200


def test_not_ready_says_why(address: str, daemon: FakeDaemon) -> None:
    daemon.state = Health(alive=True, ready=False, reasons=("磁盘已满 / disk full",))
    with httpx.Client(base_url=address, verify=False, timeout=10) as client:
        told = is_problem(client.get("/readyz"), 503)

        assert told["reasons"] == ["磁盘已满 / disk full"]
        assert client.get("/healthz").status_code == 200

        daemon.state = Health(alive=False, ready=False, reasons=("判定线程停止 / stopped",))
        is_problem(client.get("/healthz"), 503)


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    client.get("/v1/alerts")
    client.get("/v1/alerts?limit=0")

    answer = client.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert "# TYPE hallwatch_readings_total counter" in lines
    assert "hallwatch_readings_total 12" in lines
    for status in (200, 422):
        told = (
            f'hallwatch_http_requests_total{{method="GET",path="/v1/alerts",status="{status}"}} 1'
        )
        assert told in lines


# -- problems


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/attendance/days?limit=0", "limit"),
        ("/v1/attendance/days?limit=501", "limit"),
        ("/v1/attendance/days?limit=x", "limit"),
        ("/v1/attendance/days?limit=5&limit=6", "limit"),
        ("/v1/attendance/days?colour=red", "colour"),
        ("/v1/attendance/days?from=2026-02-30", "from"),
        ("/v1/attendance/days?from=20260302", "from"),
        ("/v1/attendance/days?to=1772411400", "to"),
        ("/v1/attendance/days?from=2026-03-02&to=2026-03-01", "from"),
        ("/v1/attendance/slots?from=2026-03-01&to=2026-04-01", "to"),
        ("/v1/violations?from=2026-03-01&to=2026-04-01", "to"),
        ("/v1/violations?state=gone", "state"),
        ("/v1/alerts?severity=9", "severity"),
        ("/v1/punches?event_from=2026-03-02T08:30:00", "event_from"),
        ("/v1/punches?event_from=2026-03-02", "event_from"),
        ("/v1/punches?received_to=9999-12-31T23:59:59Z", "received_to"),
        (
            "/v1/punches?event_from=2026-03-02T08:30:00Z&received_to=2026-03-03T08:30:00Z",
            "event_from",
        ),
        (
            "/v1/punches?event_from=2026-03-02T08:30:00Z&event_to=2026-05-03T08:30:00Z",
            "event_to",
        ),
        (
            "/v1/punches?received_from=2026-03-02T08:30:00Z&received_to=2026-03-02T08:30:00Z",
            "received_from",
        ),
        ("/v1/queue?from=2026-03-01&to=2026-04-01", "to"),
        ("/v1/queue?state=calling", "state"),
        ("/v1/queue/services?from=2026-3-2", "from"),
        ("/v1/ratings?level=6", "level"),
        ("/v1/ratings?level=none", "level"),
        ("/v1/ratings?bad=perhaps", "bad"),
        ("/v1/ratings?follow_up=done", "follow_up"),
        ("/v1/ratings?channel=fax", "channel"),
        ("/v1/ratings?from=2026-03-02&to=2026-03-01", "from"),
        ("/v1/ratings/figures?from=2026-03-02&to=2026-03-01", "from"),
        ("/v1/ratings/figures?from=2025-03-01&to=2026-03-02", "to"),
        ("/v1/ratings/figures?limit=3", "limit"),
        ("/v1/devices/figures?month=2026-3", "month"),
        ("/v1/devices/figures?month=1999-12", "month"),
        ("/v1/devices/figures?limit=3", "limit"),
        ("/v1/changes?after=-1", "after"),
        ("/v1/stream?after=x", "after"),
    ],
)
def test_a_wrong_parameter_is_named(client: httpx.Client, path: str, field: str) -> None:
    told = is_problem(client.get(path), 422)

    assert [(error["field"], error["location"]) for error in told["errors"]] == [(field, "query")]
    assert field in told["detail"]


def test_all_wrong_parameters_are_named_at_once(client: httpx.Client) -> None:
    told = is_problem(client.get("/v1/attendance/days?limit=0&from=x&colour=red"), 422)

    assert {error["field"] for error in told["errors"]} == {"limit", "from", "colour"}


def test_a_range_of_31_days_is_the_longest(client: httpx.Client) -> None:
    assert client.get("/v1/attendance/days?from=2026-03-01&to=2026-03-31").status_code == 200


def test_a_plus_sign_that_was_not_escaped_is_understood(client: httpx.Client) -> None:
    assert client.get("/v1/punches?event_from=2026-03-02T08:30:00+08:00").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/violations/none", 404),
        ("GET", "/v1/violations/none/explanation", 404),
        ("GET", "/v1/ratings/none", 404),
        ("GET", "/v1/ratings/pad:05/none", 404),
        ("POST", "/v1/queue", 405),
        ("POST", "/v1/alerts/none/resolve", 404),
        ("DELETE", "/v1/absences/none", 404),
        ("PUT", "/v1/rosters/9999/2026-03-02", 404),
        ("PUT", "/v1/rosters/1001/2026-3-2", 422),
        ("DELETE", "/v1/absences/%20", 422),
        ("POST", "/v1/punches", 405),
        ("DELETE", "/healthz", 405),
    ],
)
def test_unknown_things_and_methods_are_problems_too(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path, json={"duty": "rest"} if method == "PUT" else {})

    is_problem(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"{}", "application/json; charset=utf-8", 422),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"7", "application/json", 422),
        (b'"x"', "application/json", 422),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    client: httpx.Client, content: bytes, kind: str, status: int
) -> None:
    for path in ("/v1/absences", "/v1/events"):
        answer = client.post(path, content=content, headers={"Content-Type": kind})
        is_problem(answer, status)


def test_a_body_over_the_limit_is_refused_whether_announced_or_not(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    big = json.dumps({"note": "x" * (1 << 20)}).encode()

    is_problem(client.post("/v1/absences", content=big, headers=headers), 413)
    with contextlib.suppress(httpx.TransportError):  # it may be cut off while still sending
        chunks = iter([big[:65536]] * 40)
        is_problem(client.post("/v1/absences", content=chunks, headers=headers), 413)
    assert client.get("/v1/absences").status_code == 200


def test_a_large_body_is_refused_before_it_is_read(address: str, secrets: dict[str, str]) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/absences HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: 99999999\r\n\r\n{"
            % secrets["admin"].encode()
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_a_state_that_cannot_be_read_is_unavailable_and_not_a_defect(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.database.execute("ALTER TABLE alert RENAME TO gone")

    answer = client.get("/v1/alerts")

    is_problem(answer, 503)
    assert answer.headers["retry-after"] == "5"


def test_a_defect_is_a_problem_without_its_traceback(daemon: FakeDaemon) -> None:
    def explode() -> Health:
        raise RuntimeError("secret detail")

    daemon.health = explode  # type: ignore[method-assign]
    transport = httpx.ASGITransport(create_app(daemon), raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/readyz")

    answer = asyncio.run(ask())

    is_problem(answer, 500)
    assert "secret" not in answer.text


def test_the_connections_are_closed_when_the_server_stops(daemon: FakeDaemon) -> None:
    app = create_app(daemon)
    with serving(app):
        pass

    with pytest.raises(Exception, match="closed database"):
        app.state.desk.connection.execute("SELECT 1")
