"""The listener for network pads over real sockets: HTTP, WebSocket, and what pads do to it."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers import network_pad
from drivers.base import AskForRating, DeviceLost, Show
from drivers.emulators.network_pad import Answer, HttpPad, PollPad, SocketPad, request
from drivers.network_pad import LISTENER_ID, NetworkPadOptions, NetworkPads
from rules.model import (
    ClockCheck,
    DeviceEvent,
    Rating,
    RatingPrompt,
    Unreadable,
)
from tests.drivers.small_hall import ZONE, SmallHall

NINE = int(datetime(2026, 3, 2, 9, 0, tzinfo=ZONE).timestamp()) * 1000
RATING = {"rating_id": "1", "level": 5, "service_ref": "A037"}


@dataclass(frozen=True)
class Spec:
    id: str
    options: NetworkPadOptions
    window: str = ""


class Hall(SmallHall):
    def __init__(self) -> None:
        super().__init__(NINE)


class Net:
    """A listener at work and ways to talk to it."""

    def __init__(self, hall: Hall, driver: NetworkPads) -> None:
        self.hall = hall
        assert driver.address is not None
        self.address = driver.address

    def pad(self, name: str = "pad-05", **more: Any) -> HttpPad:
        return HttpPad(name, self.address, self.hall.true_time, **more)

    def socket(self, work_no: str = "10086", key: str = "123456", **more: Any) -> SocketPad:
        return SocketPad(
            work_no, key, self.address, self.hall.true_time, sleep=self.hall.sleep, **more
        )

    async def rate(self, told: object, *headers: str, pad: str = "pad-05") -> Answer:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return await self.pad(pad).post("ratings", body, *headers)

    async def get(self, target: str) -> Answer:
        return await request(self.address, [f"GET {target} HTTP/1.1"])

    async def raw(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(20):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask(self, order: AskForRating, pad: str = "pad-05") -> None:
        self.hall.orders.put_nowait((pad, order))
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def listening(hall: Hall, *specs: Spec) -> AsyncIterator[Net]:
    driver = NetworkPads(specs or (Spec("pad-05", NetworkPadOptions(port=0), "05"),))
    task = asyncio.create_task(driver.run(hall))
    while driver.address is None and not task.done():
        await asyncio.sleep(0)
    if task.done():
        task.result()
    try:
        yield Net(hall, driver)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(story: Callable[[Net], Awaitable[None]], *specs: Spec, hall: Hall | None = None) -> Hall:
    """Run a story with a listener; the hall that it leaves behind."""

    async def whole() -> Hall:
        present = hall or Hall()
        # They belong to the loop that used them first.
        present.orders, present.entered = asyncio.Queue(), asyncio.Event()
        async with listening(present, *specs) as net, asyncio.timeout(60):
            await story(net)
        return present

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """No defect hides behind a 500."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def login(tmp_path: Path) -> Spec:
    """A pad of window 05 that logs in over the WebSocket."""
    key = tmp_path / "key"
    key.write_text("123456\n")
    options = NetworkPadOptions(port=0, work_no="10086", key_file=str(key))
    return Spec("pad-05", options, "05")


@pytest.fixture
def guarded(tmp_path: Path) -> Spec:
    token = tmp_path / "token"
    token.write_text("pad-secret\n")
    return Spec("pad-05", NetworkPadOptions(port=0, token_file=str(token)), "05")


# -- ratings over HTTP


def test_a_rating_is_journalled_before_it_is_acknowledged() -> None:
    async def story(net: Net) -> None:
        net.hall.stuck = asyncio.Event()
        waiting = asyncio.create_task(net.rate(RATING | {"pad_id": "pad-05"}))
        await net.hall.entered.wait()
        done, _ = await asyncio.wait({waiting}, timeout=0.05)

        assert not done
        net.hall.stuck.set()
        assert (await waiting).status == 201

    hall = play(story)

    (reading,) = hall.readings
    assert (reading.device, reading.at, reading.raw) == ("pad-05", NINE, b"")
    assert reading.body == Rating("pad:pad-05:1", "05", 5, "five", service_ref="A037")
    assert set(hall.contacts) == {"pad-05"}


@pytest.mark.parametrize("split", [1, 7, 64])
def test_a_request_in_pieces_is_one_request(split: int) -> None:
    async def story(net: Net) -> None:
        assert await net.pad(split=split).press(4)

    assert [body.level for body in play(story).bodies(Rating)] == [4]


def test_glued_requests_are_answered_in_order() -> None:
    async def story(net: Net) -> None:
        told = b""
        for number in (1, 2, 1):
            body = json.dumps(RATING | {"rating_id": str(number)}).encode()
            told += (
                b"POST /api/v1/pads/pad-05/ratings HTTP/1.1\r\nHost: x\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
        told += b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"

        answers = re.findall(rb"HTTP/1\.1 (\d+)", await net.raw(told))
        assert answers == [b"201", b"201", b"200", b"404"]

    assert len(play(story).bodies(Rating)) == 2


def test_a_repeated_rating_gets_the_same_answer_and_is_stored_once() -> None:
    async def story(net: Net) -> None:
        told = RATING | {"pressed_at": "2026-03-02T08:59:58+08:00"}
        first, second = await net.rate(told), await net.rate(told)

        assert (first.status, second.status) == (201, 200)
        assert first.body == second.body
        assert first.json() == {
            "rating_id": "pad:pad-05:1",
            "level": 5,
            "scale_id": "five",
            "pressed_at": "2026-03-02T08:59:58+08:00",
        }

    hall = play(story)
    assert len(hall.readings) == 1
    assert hall.notes["pad-05"]["repeats"] == 1


@pytest.mark.parametrize("change", [{"level": 1}, {"text": "x"}, {"service_ref": "A038"}])
def test_another_rating_under_the_same_id_is_a_conflict_over_restarts(
    change: dict[str, Any],
) -> None:
    hall = Hall()

    async def before(net: Net) -> None:
        assert (await net.rate(RATING)).status == 201
        assert (await net.rate(RATING | change)).status == 409

    async def after(net: Net) -> None:
        answer = await net.rate(RATING | change)
        assert answer.status == 409
        assert answer.json()["errors"][0]["field"] == "rating_id"
        assert (await net.rate(RATING)).status == 200

    play(before, hall=hall)
    play(after, hall=hall)
    assert [body.level for body in hall.bodies(Rating)] == [5]


def test_what_is_older_than_is_remembered_counts_as_a_repetition() -> None:
    async def story(net: Net) -> None:
        for number in range(network_pad.RECENT + 1):
            assert (await net.rate(RATING | {"rating_id": str(number)})).status == 201

        assert (await net.rate(RATING | {"rating_id": "0", "level": 1})).status == 200
        # And it was not learnt as what was stored.
        assert (await net.rate(RATING | {"rating_id": "0"})).status == 200
        assert (await net.rate(RATING | {"rating_id": "1", "level": 1})).status == 409

    hall = play(story)
    assert len(hall.bodies(Rating)) == network_pad.RECENT + 1
    assert len(hall.marks[("pad-05", "recent")]) == 32 * network_pad.RECENT


def test_the_same_id_at_the_same_moment_is_stored_once() -> None:
    async def story(net: Net) -> None:
        told = [RATING, RATING | {"level": 1}] * 4
        answers = await asyncio.gather(*(net.rate(one) for one in told))
        assert sorted(answer.status for answer in answers) == [200] * 3 + [201] + [409] * 4

    assert len(play(story).bodies(Rating)) == 1


def test_an_idempotency_key_stands_for_a_missing_rating_id() -> None:
    async def story(net: Net) -> None:
        key = "Idempotency-Key: 3f-77"
        assert (await net.rate({"level": 5}, key)).status == 201
        assert (await net.rate({"level": 5}, key)).status == 200
        assert (await net.rate({"level": 4}, key)).status == 409
        answer = await net.rate({"level": 5})
        assert answer.status == 422
        assert answer.json()["errors"] == [
            {"field": "rating_id", "location": "body", "detail": "required, but missing"}
        ]

    assert [body.rating_id for body in play(story).bodies(Rating)] == ["pad:pad-05:3f-77"]


def test_two_pads_that_both_count_from_one_lose_nothing() -> None:
    async def story(net: Net) -> None:
        assert (await net.rate(RATING)).status == 201
        assert (await net.rate(RATING | {"level": 1}, pad="pad-06")).status == 201

    options = NetworkPadOptions(port=0)
    hall = play(story, Spec("pad-05", options, "05"), Spec("pad-06", options, "06"))
    assert [(body.window, body.level) for body in hall.bodies(Rating)] == [("05", 5), ("06", 1)]


def test_a_bad_level_is_refused_and_what_was_told_is_kept() -> None:
    async def story(net: Net) -> None:
        answer = await net.rate(RATING | {"level": 7, "text": "13800138000"})
        assert answer.status == 422
        told = answer.json()
        assert told["title"] == "参数有误"
        assert told["errors"][0]["field"] == "level"

    hall = play(story)
    (body,) = hall.bodies(Unreadable)
    assert body.reason == "level: expected one of 1, 2, 3, 4, 5 or null, not 7"
    assert b"13800138000" not in hall.readings[0].raw
    assert b'"level": 7' in hall.readings[0].raw


def test_a_flood_of_rubbish_fills_no_journal() -> None:
    async def story(net: Net) -> None:
        for number in range(50):
            assert (await net.rate(b"{" * (number + 1))).status == 400
        await net.hall.pass_seconds(3600)
        assert (await net.rate(b"{")).status == 400

    hall = play(story)
    assert len(hall.bodies(Unreadable)) == network_pad.UNREADABLE_AN_HOUR + 1
    assert hall.notes["pad-05"]["decode_errors"] == 51


def test_pads_that_nobody_configured_are_refused_and_listed() -> None:
    async def story(net: Net) -> None:
        assert (await net.rate(RATING, pad="pad-99")).status == 403
        assert (await net.get("/pad/pad-98")).status == 403
        assert (await net.get("/x/empOnline?mac=00:11:22:33:44:55")).status == 403
        await net.hall.pass_seconds(10)

    hall = play(story)
    assert hall.readings == []
    assert hall.contacts == []
    seen = hall.notes[LISTENER_ID]["seen_not_configured"]
    assert [one.get("pad") or one.get("mac") for one in seen] == [
        "pad-99", "pad-98", "00:11:22:33:44:55",
    ]  # fmt: skip
    assert {one["address"] for one in seen} == {"127.0.0.1"}


def test_strangers_are_listed_up_to_a_bound() -> None:
    async def story(net: Net) -> None:
        for number in range(network_pad.STRANGERS_LIMIT + 5):
            await net.get(f"/pad/stranger-{number}")
        await net.hall.pass_seconds(10)

    hall = play(story)
    seen = hall.notes[LISTENER_ID]["seen_not_configured"]
    assert len(seen) == network_pad.STRANGERS_LIMIT
    assert seen[0]["pad"] == "stranger-5"


def test_a_full_disk_makes_the_pad_send_again() -> None:
    async def story(net: Net) -> None:
        net.hall.disk_full = True
        pad = net.pad()
        assert not await pad.press(2)
        assert pad.answers[-1].status == 503
        assert pad.answers[-1].json()["title"] == "暂时不可用，请稍后重发"
        net.hall.disk_full = False
        assert await pad.deliver()
        assert pad.answers[-1].status == 201

    assert [body.level for body in play(story).bodies(Rating)] == [2]


def test_a_pad_whose_answers_get_lost_is_told_again_and_stored_once() -> None:
    async def story(net: Net) -> None:
        pad = net.pad(forget_answers=2)
        assert await pad.press(3)
        assert [answer.status for answer in pad.answers] == [200]

    assert len(play(story).bodies(Rating)) == 1


def test_a_request_that_breaks_off_leaves_nothing() -> None:
    async def story(net: Net) -> None:
        pad = net.pad(cut=20)
        assert not await pad.press(5)
        assert net.hall.readings == []
        assert await pad.deliver()

    assert len(play(story).bodies(Rating)) == 1


@pytest.mark.parametrize("length", ["65537", "999999999999", "x", "-1"])
def test_a_body_that_is_too_long_is_not_read(length: str) -> None:
    async def story(net: Net) -> None:
        head = f"POST /api/v1/pads/pad-05/ratings HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
        data = await net.raw(head.encode())
        assert data.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
        assert (await net.rate(b"[" + b" " * 65_536)).status == 413

    play(story)


def test_an_endless_chunked_body_is_cut_off() -> None:
    async def story(net: Net) -> None:
        head = b"POST /api/v1/pads/pad-05/ratings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        data = await net.raw(
            head + b"4000\r\n" + b" " * 0x4000 + b"\r\n" + b"ffff\r\n" + b" " * 0xFFFF
        )
        assert data.startswith(b"HTTP/1.1 413 ")

    play(story)


def test_other_paths_and_methods_are_none_of_ours() -> None:
    async def story(net: Net) -> None:
        assert (await net.get("/v1/ratings")).status == 404
        assert (await net.get("/api/v1/pads/pad-05/ratings")).status == 405
        assert (await net.get("/api/v1/pads/pad-05/heartbeat/x")).status == 404
        await net.hall.pass_seconds(10)

    assert play(story).notes[LISTENER_ID]["foreign_paths"] == 2


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_leave_the_listener_working(data: bytes) -> None:
    async def story(net: Net) -> None:
        _, writer = await asyncio.open_connection(*net.address)
        writer.write(data)
        await writer.drain()
        writer.close()
        assert (await net.rate(RATING)).status == 201

    play(story)


# -- who may


def test_a_token_is_asked_for_where_one_is_set(guarded: Spec) -> None:
    async def story(net: Net) -> None:
        assert (await net.rate(RATING)).status == 401
        assert (await net.rate(RATING, "Authorization: Bearer wrong")).status == 401
        assert (await net.rate(RATING, f"Authorization: Bearer {'0' * 32}")).status == 401
        assert (await net.rate(RATING, "Authorization: Basic pad-secret")).status == 401
        assert net.hall.readings == []
        assert net.hall.contacts == []
        assert await net.pad().heartbeat() is None
        assert await net.pad(token="pad-secret").press(5)

    hall = play(story, guarded)
    assert len(hall.readings) == 1
    assert "pad-secret" not in repr(hall.notes)


def test_a_token_that_cannot_be_read_shuts_nobody_in(tmp_path: Path) -> None:
    async def story(net: Net) -> None:
        assert (await net.rate(RATING, "Authorization: Bearer ")).status == 503
        assert (await net.rate(RATING)).status == 503

    missing = tmp_path / "missing"
    options = NetworkPadOptions(port=0, token_file=str(missing))
    hall = play(story, Spec("pad-05", options))
    assert "cannot read token_file" in hall.notes["pad-05"]["last_error"]


# -- late ratings and wrong clocks


def test_what_a_pad_kept_while_offline_keeps_its_time() -> None:
    async def story(net: Net) -> None:
        pad = net.pad(offline=True)
        for level in (5, 1, 4):
            assert not await pad.press(level)
            await net.hall.pass_seconds(1200)
        await net.hall.pass_seconds(86_400)
        pad.offline = False
        await pad.heartbeat()
        assert await pad.deliver()

    hall = play(story)
    assert hall.at(Rating) == [NINE, NINE + 1_200_000, NINE + 2_400_000]
    assert [body.level for body in hall.bodies(Rating)] == [5, 1, 4]
    assert not any(body.problem == "clock_skew" for body in hall.bodies(Rating))
    assert hall.notes["pad-05"]["late_ratings"] == 3


def test_a_pad_without_a_clock_rates_when_it_is_heard() -> None:
    async def story(net: Net) -> None:
        await net.hall.pass_seconds(77)
        assert await net.pad(no_clock=True).press(5)

    assert play(story).at(Rating) == [NINE + 77_000]


def test_a_time_to_come_is_a_wrong_clock() -> None:
    async def story(net: Net) -> None:
        assert await net.pad(offset=121).press(5)
        assert await net.pad("pad-06", offset=119).press(5)

    options = NetworkPadOptions(port=0)
    hall = play(story, Spec("pad-05", options), Spec("pad-06", options))
    wrong, near = hall.readings
    assert isinstance(wrong.body, Rating)
    assert isinstance(near.body, Rating)
    assert (wrong.at, wrong.body.problem) == (NINE, "clock_skew")
    assert wrong.raw == b"2026-03-02T09:02:01.000+08:00"
    assert (near.at, near.body.problem, near.raw) == (NINE + 119_000, "no_session", b"")


def test_a_clock_that_is_behind_shows_in_the_heartbeat() -> None:
    async def story(net: Net) -> None:
        pad = net.pad(offset=-600)
        await pad.heartbeat()
        await pad.heartbeat()
        assert await pad.press(2)
        pad.offset = 0
        await pad.heartbeat()
        assert await pad.press(4)

    hall = play(story)
    assert hall.at(ClockCheck) == [NINE - 600_000, NINE]
    assert hall.at(Rating) == [NINE, NINE]
    assert [body.problem for body in hall.bodies(Rating)] == ["clock_skew", "no_session"]


def test_a_wrong_time_in_a_heartbeat_is_named_and_still_a_sign_of_life() -> None:
    async def story(net: Net) -> None:
        answer = await net.pad().post("heartbeat", b'{"at":"nine"}')
        assert (answer.status, answer.json()["errors"][0]["field"]) == (422, "at")
        assert (await net.pad().post("heartbeat", b"")).json() == {
            "at": "2026-03-02T09:00:00.000+08:00", "prompt": None,
        }  # fmt: skip

    assert set(play(story).contacts) == {"pad-05"}


# -- what keys mean


def test_codes_of_a_pad_are_mapped_by_its_scale_and_unknown_ones_reported_once() -> None:
    async def story(net: Net) -> None:
        pad = net.pad(scale_id="whatever")
        for code in (1, 3, 5, 9, 9, 9):
            assert await pad.press(code, session="s")

    hall = play(story, Spec("pad-05", NetworkPadOptions(port=0, scale_id="sle300")))
    assert [(body.level, body.raw_key, body.problem) for body in hall.bodies(Rating)] == [
        (5, "31", ""), (1, "33", ""), (None, "35", "timed_out"),
        (None, "39", "unmapped_code"), (None, "39", "unmapped_code"), (None, "39", "unmapped_code"),
    ]  # fmt: skip
    assert {body.scale_id for body in hall.bodies(Rating)} == {"sle300"}
    assert hall.bodies(DeviceEvent) == [DeviceEvent("unmapped_code", detail="39")]


def test_the_window_of_the_settings_holds_against_what_a_moved_pad_says() -> None:
    async def story(net: Net) -> None:
        assert await net.pad(window="5号").press(5)
        assert "window_told" not in net.hall.notes["pad-05"]
        assert await net.pad(window="07").press(5, rating_id="x")

    hall = play(story)
    assert [body.window for body in hall.bodies(Rating)] == ["05", "05"]
    assert hall.notes["pad-05"]["window_told"] == "07"


# -- Android pads


def test_an_android_pad_is_told_that_it_is_online() -> None:
    async def story(net: Net) -> None:
        pad = PollPad("00-11-22-aa-bb-cc", net.address)
        assert await pad.poll()
        assert not await PollPad("00:11:22:AA:BB:CD", net.address).poll()
        assert await PollPad("001122AABBCC", net.address, path="/emponline").poll()
        assert (await net.get("/a/b/empOnline?card=&mac=00:11:22:AA:BB:CC")).body == b"online"

    options = NetworkPadOptions(port=0, mac="00:11:22:AA:BB:CC")
    hall = play(story, Spec("pad-05", options))
    assert hall.contacts == ["pad-05"] * 3


def test_a_rating_with_no_card_in_the_pad_is_flagged_and_the_card_is_kept_nowhere() -> None:
    async def story(net: Net) -> None:
        pad = PollPad("00:11:22:AA:BB:CC", net.address)
        await pad.poll()
        assert await net.pad().press(5, session="a")
        pad.card = "0007654321"
        await pad.poll()
        assert await net.pad().press(5, session="b", rating_id="2")

    options = NetworkPadOptions(port=0, mac="00:11:22:AA:BB:CC")
    hall = play(story, Spec("pad-05", options))
    assert [body.problem for body in hall.bodies(Rating)] == ["nobody_logged_in", ""]
    assert "7654321" not in repr((hall.readings, hall.notes))


def test_a_silent_pad_is_lost_after_three_heartbeats_and_found_again() -> None:
    async def story(net: Net) -> None:
        pad = net.pad()
        await pad.heartbeat()
        await net.hall.pass_seconds(175)
        assert net.hall.losses == []
        await net.hall.pass_seconds(10)
        assert net.hall.losses == [("pad-05", "nothing heard for 180 s")]
        await net.hall.pass_seconds(3600)
        assert len(net.hall.losses) == 1
        await pad.heartbeat()
        await net.hall.pass_seconds(185)

    hall = play(story)
    assert hall.contacts == ["pad-05", "pad-05"]
    assert len(hall.losses) == 2


# -- prompts


def test_a_pad_that_polls_is_asked_in_its_next_heartbeat_once() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1", "A037", "1001", 30))
        await net.hall.pass_seconds(10)
        pad = net.pad()
        prompt = await pad.heartbeat()
        assert prompt == {
            "session": "s-1",
            "ticket": "A037",
            "seconds": 30,
            "url": f"http://127.0.0.1:{net.address[1]}/pad/pad-05?session=s-1&seconds=30",
        }
        assert await pad.heartbeat() is None
        # A simple pad does not say what it was asked for.
        await net.hall.pass_seconds(5)
        assert await pad.press(2)

    hall = play(story)
    assert hall.bodies(RatingPrompt) == [RatingPrompt("s-1", "05", "A037", "1001")]
    assert hall.at(RatingPrompt) == [NINE + 10_000]
    (body,) = hall.bodies(Rating)
    assert (body.session, body.person, body.service_ref) == ("s-1", "1001", "A037")
    assert (body.origin, body.problem) == ("visitor", "")


def test_a_press_after_the_prompt_is_over_belongs_to_no_session() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1", "A037", "1001", 30))
        pad = net.pad()
        assert await pad.heartbeat() is not None
        await net.hall.pass_seconds(31)
        assert await pad.press(2)

    (body,) = play(story).bodies(Rating)
    assert (body.session, body.person, body.origin) == ("", "", "unknown")
    assert body.problem == "no_session"


def test_a_pad_that_comes_too_late_is_not_asked() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1", seconds=30))
        await net.hall.pass_seconds(31)
        assert await net.pad().heartbeat() is None

    assert play(story).bodies(RatingPrompt) == []


def test_a_late_rating_finds_whom_it_was_for_by_its_session() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1", "A037", "1001", 30))
        pad = net.pad()
        await pad.heartbeat()
        pad.offline = True
        await net.hall.pass_seconds(5)
        await pad.press(1, session="s-1", person="9999")
        await net.ask(AskForRating("s-2", "A038", "1002", 30))
        await net.hall.pass_seconds(7200)
        pad.offline = False
        assert await pad.deliver()

    hall = play(story)
    (body,) = hall.bodies(Rating)
    assert (body.session, body.person, body.service_ref) == ("s-1", "1001", "A037")
    assert hall.at(Rating) == [NINE + 5_000]


def test_a_second_press_in_one_session_is_kept_and_counted() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1"))
        pad = net.pad()
        await pad.heartbeat()
        assert await pad.press(5, session="s-1")
        assert await pad.press(1, session="s-1")

    hall = play(story)
    assert [body.level for body in hall.bodies(Rating)] == [5, 1]
    assert hall.notes["pad-05"]["extra_presses"] == 1


def test_a_prompt_that_could_not_be_journalled_is_offered_again() -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1"))
        net.hall.disk_full = True
        assert await net.pad().heartbeat() is None
        net.hall.disk_full = False
        assert await net.pad().heartbeat() is not None

    assert len(play(story).bodies(RatingPrompt)) == 1


def test_orders_for_boards_and_for_others_are_passed_over() -> None:
    async def story(net: Net) -> None:
        net.hall.orders.put_nowait(("pad-05", Show(("A037",))))
        await net.ask(AskForRating("s-9"), pad="pad-99")
        await net.ask(AskForRating("s-1"))
        prompt = await net.pad().heartbeat()
        assert prompt is not None
        assert prompt["session"] == "s-1"

    play(story)


# -- the page


def test_the_page_of_a_prompt_rates_in_its_session_alone(guarded: Spec) -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s 1", "A037", seconds=20))
        prompt = await net.pad(token="pad-secret").heartbeat()
        assert prompt is not None
        target = prompt["url"].removeprefix(f"http://127.0.0.1:{net.address[1]}")
        key = hmac.new(b"pad-secret", b"pad-05\0s 1", "sha256").hexdigest()[:32]
        assert target == f"/pad/pad-05?session=s%201&seconds=20&key={key}"

        assert (await net.get(target)).status == 200
        key = hmac.new(b"pad-secret", b"pad-05\0s-1", "sha256").hexdigest()[:32]
        page = await net.get(f"/pad/pad-05?session=s-1&seconds=20&key={key}")
        assert page.status == 200
        assert "请您对本次服务进行评价".encode() in page.body
        assert b"pad-secret" not in page.body
        assert (await net.get("/pad/pad-05?session=s-2&seconds=20&key=" + key)).status == 401
        assert (await net.get("/pad/pad-05")).status == 401

        bearer = f"Authorization: Bearer {key}"
        assert (await net.rate(RATING | {"session": "s-2"}, bearer)).status == 401
        assert (await net.rate(RATING, bearer)).status == 401
        assert (await net.rate(b"{", bearer)).status == 401
        assert (await net.rate(RATING | {"session": "s-1"}, bearer)).status == 201

    assert len(play(story, guarded).bodies(Rating)) == 1


@pytest.mark.parametrize(
    "query", ["session=%00", "session=" + "s" * 65, "seconds=-1", "seconds=1e9"]
)
def test_a_page_with_odd_parameters_is_refused(query: str) -> None:
    async def story(net: Net) -> None:
        assert (await net.get(f"/pad/pad-05?{query}")).status == 422

    play(story)


def test_the_page_may_be_framed_but_loads_nothing_from_elsewhere() -> None:
    async def story(net: Net) -> None:
        data = await net.raw(b"GET /pad/pad-05 HTTP/1.1\r\nConnection: close\r\n\r\n")
        head = data.partition(b"\r\n\r\n")[0].decode().lower()
        assert "content-type: text/html; charset=utf-8" in head
        assert "default-src 'none'" in head
        assert "connect-src 'self'" in head
        assert "frame-ancestors" not in head
        assert "x-frame-options" not in head

    play(story)


# -- the WebSocket


def test_a_pad_logs_in_beats_and_is_shown_a_page(login: Spec) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        pad.extra = {"battery": 71}
        await pad.start()
        assert pad.heard == [
            {"code": 40001, "state": 0, "msg": "请发送工号"},
            {"code": 40001, "state": 1, "msg": "登录成功"},
        ]
        await pad.beat()
        await pad.until(lambda: len(pad.heard) == 3)
        assert pad.heard[2] == {"code": 40000, "state": 1, "msg": "收到", "data": NINE}

        await net.ask(AskForRating("s-1", "A037", "1001", 30))
        await pad.until(lambda: len(pad.opened) == 1)
        host = f"http://127.0.0.1:{net.address[1]}"
        assert pad.opened == [f"{host}/pad/pad-05?session=s-1&seconds=30"]
        assert pad.heard[3]["state"] == 1
        assert (await net.get(pad.opened[0].removeprefix(host))).status == 200
        # The page is open; the next heartbeat asks for nothing more.
        assert await net.pad().heartbeat() is None
        await pad.stop()

    hall = play(story, login)
    assert hall.bodies(RatingPrompt) == [RatingPrompt("s-1", "05", "A037", "1001")]
    assert hall.at(ClockCheck) == [NINE]


@pytest.mark.parametrize(("work_no", "key"), [("10086", "654321"), ("10000", "123456")])
def test_a_wrong_key_is_told_so_three_times_and_never_logged(
    login: Spec, work_no: str, key: str
) -> None:
    async def story(net: Net) -> None:
        pad = net.socket(work_no, key)
        await pad.start()
        for tries in (1, 2, 3):
            await pad.until(lambda tries=tries: len(pad.heard) > tries)
            if tries < 3:
                await pad.say(40001, {"work_no": work_no, "key": key})
        await pad.until(lambda: pad.closed is not None)
        assert [one["state"] for one in pad.heard] == [0, 0, 0, 0]
        assert pad.heard[-1]["msg"] == "通讯密钥错误"
        assert pad.closed == 4003
        await pad.stop()
        await net.hall.pass_seconds(10)

    hall = play(story, login)
    assert hall.contacts == []
    assert key not in repr(hall.notes)
    assert "123456" not in repr(hall.notes)
    if work_no == "10000":
        assert hall.notes[LISTENER_ID]["seen_not_configured"][0]["work_no"] == "10000"


def test_a_prompt_waits_for_a_pad_that_is_just_coming(login: Spec) -> None:
    async def story(net: Net) -> None:
        await net.ask(AskForRating("s-1", seconds=30))
        await net.hall.pass_seconds(20)
        pad = net.socket()
        await pad.start()
        await pad.until(lambda: len(pad.opened) == 1)
        await pad.stop()

    assert len(play(story, login).bodies(RatingPrompt)) == 1


def test_what_is_no_message_is_answered_and_costs_nothing(login: Spec) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        await pad.start()
        for told in ("hello", "{}", b"\x00\x01", '{"code":40000,"data":"x"}', '{"code":777}'):
            await pad.send(told)
        await pad.until(lambda: len(pad.heard) == 7)
        assert [one["code"] for one in pad.heard[2:]] == [40002, 40002, 40002, 40002, 50000]
        assert {one["state"] for one in pad.heard[2:]} == {0}
        await pad.beat()
        await pad.until(lambda: pad.heard[-1]["code"] == 40000)
        await pad.stop()
        await net.hall.pass_seconds(10)

    assert play(story, login).notes[LISTENER_ID]["bad_messages"] == 5


def test_a_pad_that_has_not_said_who_it_is_is_asked_again(login: Spec) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        pad.logs_in = False
        await pad.start()
        await pad.beat()
        await pad.until(lambda: len(pad.heard) == 2)
        assert pad.heard[1] == {"code": 40001, "state": 0, "msg": "请发送工号"}
        await pad.stop()

    assert play(story, login).contacts == []


def test_a_pad_that_misses_three_heartbeats_is_dropped(login: Spec) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        await pad.start()
        for _ in range(4):
            await net.hall.pass_seconds(60)
            beats = len(pad.heard)
            await pad.until(lambda beats=beats: len(pad.heard) >= beats)
            await asyncio.sleep(0.02)
        assert net.hall.losses == []
        pad.silent = True
        await net.hall.pass_seconds(190)
        await pad.until(lambda: pad.closed is not None)
        assert pad.closed == 4000
        await pad.stop()

    hall = play(story, login)
    assert hall.losses == [("pad-05", "nothing heard for 180 s")]


def test_a_pad_that_hangs_up_is_lost_at_once(login: Spec) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        await pad.start()
        assert net.hall.notes["pad-05"]["websocket"] is True
        await pad.stop()
        while not net.hall.losses:
            await asyncio.sleep(0.01)
        assert net.hall.notes["pad-05"]["websocket"] is False

    assert play(story, login).losses == [("pad-05", "the pad's WebSocket was closed")]


def test_a_pad_that_logs_in_twice_is_served_on_the_newer_connection(login: Spec) -> None:
    async def story(net: Net) -> None:
        old, new = net.socket(), net.socket()
        await old.start()
        await new.start()
        await old.until(lambda: old.closed is not None)
        assert old.closed == 4001
        await net.ask(AskForRating("s-1"))
        await new.until(lambda: len(new.opened) == 1)
        assert old.opened == []
        await new.stop()
        await old.stop()

    hall = play(story, login)
    assert hall.notes["pad-05"]["taken_over"] == 1


def test_other_websocket_paths_and_broken_handshakes_are_refused(login: Spec) -> None:
    upgrade = (
        b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

    async def story(net: Net) -> None:
        data = await net.raw(b"GET /ws/others HTTP/1.1\r\n" + upgrade + key + b"\r\n")
        assert data.startswith(b"HTTP/1.1 403 ")
        data = await net.raw(b"GET /ws/pads HTTP/1.1\r\n" + upgrade + b"\r\n")
        assert data == b"" or data.startswith(b"HTTP/1.1 4")
        data = await net.raw(b"POST /ws/pads HTTP/1.1\r\n" + upgrade + key + b"\r\n")
        assert data == b"" or data.startswith(b"HTTP/1.1 4")

        # A frame without a mask.
        reader, writer = await asyncio.open_connection(*net.address)
        writer.write(b"GET /ws/pads HTTP/1.1\r\n" + upgrade + key + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x81\x02hi")
        assert (await reader.read()).endswith(b"incorrect masking")
        writer.close()

        # A text that is no UTF-8.
        pad = net.socket()
        await pad.start()
        assert pad._link is not None
        await pad._link.send(b"\xff\xfe", text=True)
        await pad.until(lambda: pad.heard[-1]["code"] == 40002)
        await pad.stop()

    play(story, login)


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_message_that_is_too_long_ends_the_connection_alone(login: Spec, kind: str) -> None:
    async def story(net: Net) -> None:
        pad = net.socket()
        await pad.start()
        await pad.send("x" * 70_000 if kind == "text" else b"x" * 70_000)
        await pad.until(lambda: pad.closed is not None)
        assert pad.closed == 1009
        await pad.stop()
        assert (await net.rate(RATING)).status == 201

    play(story, login)


# -- starting and stopping


def test_a_port_that_is_taken_is_said_so() -> None:
    async def story(net: Net) -> None:
        driver = NetworkPads([Spec("x", NetworkPadOptions(port=net.address[1]))])
        with pytest.raises(DeviceLost, match=f"cannot listen on 127.0.0.1 port {net.address[1]}"):
            await driver.run(Hall())

    play(story)


def test_stopping_answers_what_is_being_stored(login: Spec) -> None:
    async def whole() -> None:
        hall = Hall()
        async with listening(hall, login) as net:
            pad = net.socket()
            await pad.start()
            hall.stuck = asyncio.Event()
            waiting = asyncio.create_task(net.rate(RATING))
            await hall.entered.wait()
            asyncio.get_running_loop().call_later(0.05, hall.stuck.set)
        assert (await waiting).status == 201
        await pad.until(lambda: pad.closed is not None)
        await pad.stop()

    asyncio.run(whole())


def test_forty_pads_that_come_back_with_a_week_of_ratings_lose_none() -> None:
    specs = [Spec(f"pad-{n:03}", NetworkPadOptions(port=0), f"{n:03}") for n in range(40)]

    async def story(net: Net) -> None:
        pads = [net.pad(spec.id) for spec in specs]
        for pad in pads:
            pad.offline = True
            for level in (5, 4, 3, 2, 1):
                await pad.press(level)
            pad.offline = False
        await net.hall.pass_seconds(7 * 86_400)
        assert all(await asyncio.gather(*(pad.deliver() for pad in pads)))

    hall = play(story, *specs)
    assert len(hall.bodies(Rating)) == 200
    assert {body.window for body in hall.bodies(Rating)} == {spec.window for spec in specs}
    assert set(hall.at(Rating)) == {NINE}
    assert NINE + int(timedelta(days=7).total_seconds()) * 1000 == hall.now()
