"""Posts over the API: who was there, and what people say of vacancies."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rules.counter import Ratio
from rules.model import PostReview, Substitution
from rules.post import PostFigures, PostRecord, PostSpan, Vacancy
from tests.api.conftest import FakeDaemon, encode, ms


def post(daemon: FakeDaemon, window: str, day: str, state: str = "away") -> None:
    nine = ms(f"{day} 09:00")
    vacancy = Vacancy(
        id=f"v-{window}-{day}", segment="am", began_at=nine, ended_at=None,
        parts=((nine, nine + 7 * 60_000),), left=True, people=("1001",), person="1001",
        unit="tax", signals=("seat", "queue"), review="", waiting=3, readings=("ab",),
        snapshots=("20260302T010000000_cam-1_05-empty.jpg",),
    )  # fmt: skip
    record = PostRecord(
        window=window, state=state, since=nine, evidence=("difference",),
        spans=(PostSpan(nine, state, ("difference",)),), vacancies=(vacancy,),
        figures=PostFigures(Ratio(50, 57), Ratio(3, 60)), changes_at=None,
    )  # fmt: skip
    daemon.database.execute(
        "INSERT INTO post_day VALUES (?, ?, ?, ?, ?, 1, ?, 7)",
        (day, window, state, encode(record).decode(), nine, nine),
    )


def test_without_dates_only_today_is_told(client: httpx.Client, daemon: FakeDaemon) -> None:
    post(daemon, "05", "2026-03-02")
    post(daemon, "05", "2026-03-03", "present")
    post(daemon, "11", "2026-03-03", "unknown")

    rows = client.get("/v1/presence").json()["items"]

    assert [(row["window"], row["state"], row["state_zh"]) for row in rows] == [
        ("05", "present", "在岗"), ("11", "unknown", "未知"),
    ]  # fmt: skip
    assert rows[0]["staffed_minutes"] == {"n": 50, "of": 57}


def test_a_past_date_has_its_vacancies_with_what_agrees(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    post(daemon, "05", "2026-03-02")

    (row,) = client.get("/v1/presence?from=2026-03-01&to=2026-03-02").json()["items"]

    (vacancy,) = row["vacancies"]
    assert vacancy["began_at"] == "2026-03-02T09:00:00+08:00"
    assert vacancy["ended_at"] is None
    assert (vacancy["minutes"], vacancy["confirmed"], vacancy["waiting"]) == (7, True, 3)


def test_posts_are_found_by_window_and_area_and_page_by_page(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    for window in ("05", "06", "11"):
        post(daemon, window, "2026-03-03")

    def windows(query: str) -> tuple[list[str], str | None]:
        told = client.get(f"/v1/presence?{query}").json()
        return [row["window"] for row in told["items"]], told["next"]

    first, following = windows("limit=2")

    assert windows("area=A区")[0] == ["05", "06"]
    assert windows("area=A区&window=11")[0] == []
    assert windows("window=11")[0] == ["11"]
    assert first == ["05", "06"]
    assert windows(f"limit=2&cursor={following}") == (["11"], None)


REVIEW: dict[str, Any] = {
    "kind": "post_review", "window": "05", "work_date": "2026-03-02", "vacancy": "v-05-2026-03-02",
    "verdict": "confirmed", "at": "2026-03-02T10:00:00+08:00",
}  # fmt: skip
STAND_IN: dict[str, Any] = {
    "kind": "substitution", "substitution_id": "s1", "window": "05", "substitute": "1002",
    "starts": "2026-03-03T08:30:00+08:00", "ends": "2026-03-03T12:00:00+08:00",
}  # fmt: skip


def test_a_review_is_journalled_with_who_gave_it(client: httpx.Client, daemon: FakeDaemon) -> None:
    post(daemon, "05", "2026-03-02")
    answer = client.post("/v1/events", json=[REVIEW, REVIEW | {"by": "督查员"}])

    assert answer.status_code == 201, answer.text
    reviews = [one.body for one in daemon.recorded]
    assert all(isinstance(body, PostReview) for body in reviews)
    assert [body.by for body in reviews] == ["admin", "督查员"]
    nine = ms("2026-03-02 09:00")
    assert {(body.began_at, body.ended_at) for body in reviews} == {(nine, nine + 7 * 60_000)}


def test_a_substitution_is_journalled(client: httpx.Client, daemon: FakeDaemon) -> None:
    assert client.post("/v1/events", json=STAND_IN).status_code == 201

    (reading,) = daemon.recorded
    assert isinstance(reading.body, Substitution)
    assert (reading.body.substitute, reading.body.revoked) == ("1002", False)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (REVIEW | {"window": "99"}, "0.window"),
        (REVIEW | {"vacancy": "v2"}, "0.vacancy"),
        (REVIEW | {"work_date": "2026-03-01"}, "0.vacancy"),
        (REVIEW | {"verdict": "perhaps"}, "0.verdict"),
        (REVIEW | {"at": "2027-03-02T10:00:00+08:00"}, "0.at"),
        (STAND_IN | {"substitute": "9999"}, "0.substitute"),
        (STAND_IN | {"person": "9999"}, "0.person"),
        (STAND_IN | {"ends": "2026-03-03T08:00:00+08:00"}, "0.starts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_with_its_field(
    client: httpx.Client, daemon: FakeDaemon, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/events", json=[body])

    assert answer.status_code == 422
    assert field in [one["field"] for one in answer.json()["errors"]]
    assert daemon.recorded == []
