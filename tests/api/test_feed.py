"""The change feed: in order, whole, by scope, and from where the reader left off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.app import create_app
from tests.api.conftest import FakeDaemon, serving


class Event:
    def __init__(self, lines: list[str]) -> None:
        fields = dict(line.split(": ", 1) for line in lines)
        self.id = int(fields["id"])
        self.kind = fields["event"]
        self.data: dict[str, Any] = json.loads(fields["data"])


@contextmanager
def stream(
    client: httpx.Client, last: str | None = None, **query: Any
) -> Iterator[Iterator[Event | None]]:
    """The events of a stream; none for a sign of life."""
    headers = {} if last is None else {"Last-Event-ID": last}

    def events(answer: httpx.Response) -> Iterator[Event | None]:
        lines: list[str] = []
        for line in answer.iter_lines():
            if line:
                lines.append(line)
            elif lines:
                yield None if lines[0].startswith(":") else Event(lines)
                lines = []

    with client.stream("GET", "/v1/stream", params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


def take(events: Iterator[Event | None], count: int) -> list[Event]:
    found: list[Event] = []
    while len(found) < count:
        if (event := next(events)) is not None:
            found.append(event)
    return found


def test_a_change_has_its_whole_new_row(client: httpx.Client, daemon: FakeDaemon) -> None:
    daemon.change("violation", "v1")

    told = client.get("/v1/changes").json()

    assert told == {
        "items": [
            {
                "seq": 1,
                "kind": "violation",
                "op": "opened",
                "key": "v1",
                "at": "2026-03-03T09:00:00+08:00",
                "reason": "",
                "row": {"id": "v1", "名": "行"},
            }
        ],
        "next": None,
        "last": 1,
        "latest": 1,
    }


def test_changes_are_read_page_by_page_in_order(client: httpx.Client, daemon: FakeDaemon) -> None:
    for number in range(7):
        daemon.change("alert", f"a{number}")

    found, after = [], 0
    while after is not None:
        told = client.get("/v1/changes", params={"after": after, "limit": 3}).json()
        found += [item["seq"] for item in told["items"]]
        after = told["next"]

    assert found == [1, 2, 3, 4, 5, 6, 7]
    assert told["last"] == told["latest"] == 7
    assert client.get("/v1/changes?after=7").json()["items"] == []


def test_a_token_sees_the_changes_of_what_it_may_list(
    client: httpx.Client, busy_daemon: FakeDaemon, secrets: dict[str, str]
) -> None:
    def kinds(name: str) -> set[str]:
        headers = {"Authorization": f"Bearer {secrets[name]}"}
        told = client.get("/v1/changes", headers=headers).json()
        assert told["last"] == told["latest"] > 15
        return {item["kind"] for item in told["items"]}

    busy_daemon.clock += 1
    counter = {"window", "rating", "area"}
    assert kinds("supervision") == {"violation"} | counter
    assert kinds("case-system") == {"attendance", "violation", "device"} | counter
    assert kinds("admin") == kinds("case-system")


def test_whoever_missed_changes_that_were_erased_is_told(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    for number in range(5):
        daemon.change("alert", f"a{number}")
    daemon.database.execute("DELETE FROM change WHERE seq <= 3")

    for answer in (
        client.get("/v1/changes?after=2"),
        client.get("/v1/changes"),
        client.get("/v1/stream?after=2"),
        client.get("/v1/stream", headers={"Last-Event-ID": "2"}),
    ):
        assert answer.status_code == 410
        assert "after 3" in answer.json()["detail"]
    assert len(client.get("/v1/changes?after=3").json()["items"]) == 2

    daemon.database.execute("DELETE FROM change")
    assert client.get("/v1/changes?after=4").status_code == 410
    assert client.get("/v1/changes?after=5").json()["latest"] == 5


def test_a_stream_goes_on_after_the_last_event_that_was_seen(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    for number in range(4):
        daemon.change("alert", f"a{number}")

    with stream(client, last="2") as events:
        first = take(events, 2)
        daemon.change("violation", "v1")
        second = take(events, 1)

    assert [event.id for event in first + second] == [3, 4, 5]
    assert second[0].kind == "violation"
    assert second[0].data == client.get("/v1/changes?after=4").json()["items"][0]

    with stream(client, last="4", after=0) as events:
        assert take(events, 1)[0].id == 5


def test_a_new_stream_starts_now_and_shows_that_it_lives(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    daemon.change("alert", "a0")

    with stream(client) as events:
        assert [next(events) for _ in range(3)] == [None, None, None]
        daemon.change("alert", "a1")
        assert take(events, 1)[0].id == 2


def test_a_stream_gets_every_change_that_comes_while_it_is_read(
    client: httpx.Client, daemon: FakeDaemon
) -> None:
    count = 1500

    def write() -> None:
        for number in range(count):
            daemon.change("device" if number % 2 else "alert", f"k{number}")

    writer = threading.Thread(target=write)
    with stream(client, after=0) as events:
        writer.start()
        found = take(events, count)
    writer.join()

    assert [event.id for event in found] == list(range(1, count + 1))


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30])
def test_an_event_id_that_was_never_sent_is_refused(client: httpx.Client, last: str) -> None:
    answer = client.get("/v1/stream", headers={"Last-Event-ID": last})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_streams_are_limited_and_counted(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.feed.STREAMS", 1)

    with stream(client) as events:
        next(events)
        assert client.get("/v1/stream").status_code == 503
        assert "hallwatch_http_streams 1" in client.get("/metrics").text

    for _ in range(100):
        if "hallwatch_http_streams 0" in client.get("/metrics").text:
            break
    with stream(client) as events:
        next(events)


def test_a_server_stops_although_a_stream_is_open(
    daemon: FakeDaemon, secrets: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    with httpx.Client(headers=headers, verify=False, timeout=10) as client:
        with serving(create_app(daemon)) as url:
            client.base_url = httpx.URL(url)
            request = client.build_request("GET", "/v1/stream")
            answer = client.send(request, stream=True)
            assert answer.status_code == 200
        answer.close()
