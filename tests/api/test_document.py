"""The OpenAPI document: true of what is answered, and readable without the internet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import api
from api import shapes
from rules.model import Absence, Reading
from tests.api.conftest import FakeDaemon, ms

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    told: dict[str, Any] = client.get("/openapi.json").json()
    return told


def test_the_document_names_every_path_with_its_good_answer_and_its_refusals(
    document: dict[str, Any],
) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["tags"], path
            for status, answer in operation["responses"].items():
                kinds = set(answer["content"])
                if status.startswith("2"):
                    assert kinds <= {
                        "application/json", "image/jpeg", "text/event-stream", "text/plain"
                    }  # fmt: skip
                else:
                    assert kinds == {"application/problem+json"}, (path, status)
            if path.startswith("/v1"):
                assert {"401", "403", "503"} <= set(operation["responses"])
                assert operation["security"]


def test_every_write_can_be_repeated_by_the_document(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = {told["name"] for told in operation.get("parameters", ())}
            assert ("Idempotency-Key" in names) == (method != "get"), path


def test_every_reference_in_the_document_leads_somewhere(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    known = document["components"]["schemas"]

    for name in re.findall(r"#/components/schemas/(\w+)", client.get("/openapi.json").text):
        assert name in known
    assert "HTTPValidationError" not in known


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/attendance/slots", shapes.SlotRow),
        ("/v1/attendance/days", shapes.DayRow),
        ("/v1/punches", shapes.PunchRow),
        ("/v1/violations", shapes.ViolationRow),
        ("/v1/alerts", shapes.AlertRow),
        ("/v1/devices", shapes.DeviceRow),
        ("/v1/absences", shapes.AbsenceRow),
        ("/v1/changes", shapes.ChangeRow),
        ("/v1/queue", shapes.WindowRow),
        ("/v1/queue/services", shapes.ServiceRow),
        ("/v1/ratings", shapes.RatingRow),
    ],
)
def test_rows_have_exactly_the_documented_fields(
    client: httpx.Client, busy_daemon: FakeDaemon, path: str, shape: Any
) -> None:
    absence = Absence("l1", ("1001",), "sick", ms("2026-03-02 08:00"), ms("2026-03-02 12:00"))
    busy_daemon.journal(Reading("api", busy_daemon.clock, absence), busy_daemon.clock)

    row = client.get(path).json()["items"][0]

    assert list(row) == list(shape.model_fields)
    shape.model_validate(row)


@pytest.mark.usefixtures("busy_daemon")
def test_answers_that_are_no_lists_have_exactly_the_documented_fields(client: httpx.Client) -> None:
    detail = client.get("/v1/ratings/qr:2026-03-02/1").json()
    figures = client.get("/v1/ratings/figures?from=2026-03-02&to=2026-03-06").json()
    queue = client.get("/v1/queue").json()

    assert sorted(detail) == sorted(shapes.RatingDetail.model_fields)
    assert sorted(detail["follow_up"]) == sorted(shapes.FollowUpRow.model_fields)
    assert sorted(detail["steps"][0]) == sorted(shapes.StepRow.model_fields)
    assert sorted(figures["hall"]) == sorted(shapes.HallRatings.model_fields)
    assert sorted(figures["items"][0]) == sorted(shapes.WindowRatings.model_fields)
    assert sorted(figures["hall"]["scales"][0]) == sorted(shapes.FairScaleRow.model_fields)
    assert sorted(queue) == sorted(shapes.QueueListing.model_fields)
    assert sorted(queue["items"][0]["figures"]) == sorted(shapes.WindowFiguresRow.model_fields)
    assert sorted(queue["areas"][0]) == sorted(shapes.AreaRow.model_fields)
    shapes.RatingDetail.model_validate(detail)
    shapes.RatingFigures.model_validate(figures)
    shapes.QueueListing.model_validate(queue)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_is_asked_is_answered_as_the_document_says(
    address: str, busy_daemon: FakeDaemon, secrets: dict[str, str], mode: GenerationMode
) -> None:
    """Random requests made from the document, well formed and not: never a defect, and always an
    answer that the document describes."""
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    endless = schema.exclude(path="/v1/stream")
    asked: dict[str, set[int]] = {}

    for found in endless.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            assume(len(str(case.query)) < 8_000)  # the server itself refuses endless addresses
            answer = case.call(headers=headers)
            asked.setdefault(case.operation.label, set()).add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        try:
            check()
        except Unsatisfiable:  # a path without parameters cannot be asked wrongly
            assert mode is GenerationMode.NEGATIVE

    busy_daemon.clock += 1
    assert len(asked) > 12
    statuses = set().union(*asked.values())
    assert 200 in statuses
    assert 422 in statuses
    assert 500 not in statuses


def test_the_docs_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    answer = client.get("/docs")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", answer.text)
    assert "openapi.json" in answer.text
    assert len(answer.content) < 40_000


def test_the_docs_page_is_part_of_the_package() -> None:
    assert (Path(api.__path__[0]) / "docs" / "index.html").is_file()
