"""Cameras' seats, calls and reviews through the real pipeline and database."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import load
from daemon.database import FILE_NAME
from daemon.simulation import SimulatedClock
from rules.model import (
    Absence,
    DaemonAlive,
    Link,
    Picture,
    PostReview,
    Punch,
    QueueEvent,
    Reading,
    Seat,
    Substitution,
)
from tests.daemon.test_counter import Counter, at

SETTINGS = """
[hall]
id = "h1"
name = "测试大厅"
start_date = 2026-03-02
[[units]]
id = "u1"
name = "甲单位"
[[people]]
code = "1001"
name = "林一鸣"
unit = "u1"
window = "05"
[[people]]
code = "1002"
name = "赵可欣"
unit = "u1"
[[windows]]
id = "05"
name = "5号窗口"
unit = "u1"
[[devices]]
id = "cam-1"
name = "1号摄像头"
driver = "video"
url = "rtsp://192.0.2.7/102"
maintainer = "钱技术"
[[devices.posts]]
window = "05"
region = [[0.4, 0.1], [0.7, 0.1], [0.7, 0.9], [0.4, 0.9]]
[storage]
state_dir = "."
"""
DAY = date(2026, 3, 2)


class Posts(Counter):
    def __init__(self, folder: Path, more: str = "") -> None:
        (folder / "hallwatch.toml").write_text(SETTINGS + more, "utf-8")
        self.hall = load(folder / "hallwatch.toml")
        self.path = folder / FILE_NAME
        self.clock = SimulatedClock(at("08:00"))
        self.heard = []
        self.start()

    def day(self, *told: tuple[str, str]) -> None:
        """The camera comes up at 08:10 and tells these states at these times."""
        self.until("08:10")
        self.tell(Reading("cam-1", at("08:10"), Link(True)))
        for clock, state in told:
            self.until(clock)
            self.tell(seat(clock, state))

    def alerts(self) -> list[tuple[object, ...]]:
        return self.ask(
            "SELECT code, severity, state FROM alert WHERE scope = 'post' AND state <> 'withdrawn'"
            " ORDER BY opened_at"
        )

    def violations(self) -> list[tuple[object, ...]]:
        return self.ask(
            "SELECT code, person, points, state FROM violation WHERE window = '05' ORDER BY code"
        )

    def post(self) -> dict[str, object]:
        (row,) = self.ask("SELECT body FROM post_day WHERE window = '05'")
        post: dict[str, object] = json.loads(str(row[0]))
        return post

    def vacancy(self) -> str:
        return str(self.post()["vacancies"][0]["id"])  # type: ignore[index]


def seat(clock: str, state: str, day: str = "2026-03-02", **more: object) -> Reading:
    return Reading("cam-1", at(clock, day), Seat("05", state, **more))  # type: ignore[arg-type]


@pytest.fixture
def posts(tmp_path: Path) -> Iterator[Posts]:
    made = Posts(tmp_path)
    yield made
    if made.pipeline.alive:
        made.pipeline.stop()


def test_an_empty_seat_is_a_notice_after_five_minutes_and_is_proposed_after_fifteen(posts):
    posts.day(("08:35", "occupied"), ("09:00", "empty"))
    posts.until("09:04:59")
    before = posts.alerts()
    posts.until("09:05")
    short = posts.alerts()
    posts.until("09:15")
    long = posts.alerts()
    posts.until("09:21")
    posts.tell(seat("09:21", "occupied"))
    posts.until("09:22")

    assert before == []
    assert short == [("PRE-01", 1, "open")]
    assert [code for code, _, _ in long] == ["PRE-02"]
    assert posts.alerts()[0][2] == "resolved"
    assert posts.violations() == []
    assert posts.verify() == []


def test_a_person_who_confirms_makes_it_a_violation_and_one_who_dismisses_takes_it_back(posts):
    posts.day(("08:35", "occupied"), ("09:00", "empty"), ("09:20", "occupied"))
    posts.until("10:00")
    vacancy = posts.vacancy()
    posts.tell(Reading("api", at("10:00"), PostReview("05", DAY, vacancy, "confirmed", "督查员")))
    confirmed = posts.violations()
    posts.until("11:00")
    posts.tell(Reading("api", at("11:00"), PostReview("05", DAY, vacancy, "dismissed", "主任")))

    assert confirmed == [("PRE-02", "1001", 3.0, "active")]
    assert [one[3] for one in posts.violations()] == ["withdrawn"]
    assert posts.alerts() == []
    assert posts.verify() == []


def test_a_camera_that_is_lost_leaves_the_post_unknown_and_accuses_nobody(posts):
    posts.day(("08:35", "occupied"), ("09:00", "empty"))
    posts.until("09:03")
    posts.tell(Reading("cam-1", at("09:02:50"), Link(False, "no answer")))
    posts.until("11:00")

    assert posts.post()["state"] == "unknown"
    assert posts.alerts() == []
    assert posts.verify() == []


def test_leave_that_is_entered_later_withdraws_the_violation(posts):
    posts.day(("08:35", "occupied"), ("09:00", "empty"), ("09:20", "occupied"))
    posts.until("10:00")
    review = PostReview("05", DAY, posts.vacancy(), "confirmed", "督查员")
    posts.tell(Reading("api", at("10:00"), review))
    posts.until("15:00")
    leave = Absence("l1", ("1001",), "outing", at("08:50"), at("09:30"))
    posts.tell(Reading("api", at("15:00"), leave))

    assert [one[3] for one in posts.violations()] == ["withdrawn"]
    assert posts.verify() == []


def test_who_stands_in_is_the_one_who_was_away(posts):
    posts.until("08:05")
    stands_in = Substitution("s1", "05", "1002", at("08:30"), at("12:00"), "1001")
    posts.tell(Reading("api", at("08:05"), stands_in))
    posts.day(("08:35", "occupied"), ("09:00", "empty"), ("09:20", "occupied"))
    posts.until("10:00")
    review = PostReview("05", DAY, posts.vacancy(), "confirmed", "督查员")
    posts.tell(Reading("api", at("10:00"), review))
    before = posts.violations()
    posts.until("10:30")
    posts.tell(
        Reading("api", at("10:30"), Substitution("s1", "05", "1002", at("08:30"), at("12:00"),
                                                 "1001", True))
    )  # fmt: skip

    assert [one[1] for one in before] == ["1002"]
    active = [one for one in posts.violations() if one[3] == "active"]
    assert [one[1] for one in active] == ["1001"]
    assert posts.verify() == []


def test_a_restart_in_an_absence_neither_forgets_it_nor_counts_the_time_nobody_watched(posts):
    posts.day(("08:35", "occupied"), ("09:00", "empty"))
    posts.until("09:04")
    posts.tell(Reading("hallwatch", at("09:04"), DaemonAlive()))
    posts.pipeline.stop()
    posts.clock.jump(at("09:10"))
    posts.start()
    posts.tell(Reading("cam-1", at("09:10:05"), Link(True)))
    posts.until("09:10:10")
    posts.tell(seat("09:10:10", "empty"))
    posts.until("09:11")
    early = posts.alerts()
    posts.until("09:12")

    assert early == []
    assert posts.alerts() == [("PRE-01", 1, "open")]
    assert posts.verify() == []


def test_a_bad_picture_is_an_alert_about_the_camera_until_it_is_good_again(posts):
    posts.day(("08:35", "occupied"))
    posts.until("10:00")
    posts.tell(Reading("cam-1", at("10:00"), Picture(("covered",))))
    posts.until("10:04:59")
    before = posts.ask("SELECT code FROM alert WHERE code = 'VID-03'")
    posts.until("10:31")
    grave = posts.ask("SELECT severity, state FROM alert WHERE code = 'VID-03'")
    posts.tell(Reading("cam-1", at("10:31"), Picture()))
    posts.until("10:32")

    assert before == []
    assert grave == [(2, "open")]
    assert posts.ask("SELECT state FROM alert WHERE code = 'VID-03'") == [("resolved",)]
    assert posts.verify() == []


STORY = (
    Reading("cam-1", at("08:10"), Link(True)),
    seat("08:35", "occupied"),
    seat("09:00", "empty"),
    Reading("gate", at("09:01"), Punch("1001")),
    seat("09:20", "occupied"),
    Reading("api", at("09:21"), QueueEvent("e1", "called", "05", "A001")),
    seat("10:00", "empty"),
    Reading("api", at("10:02"), QueueEvent("e2", "called", "05", "A002")),
    seat("10:30", "still"),
    seat("10:40", "unknown", reason="dark"),
    seat("10:50", "empty"),
    Reading("api", at("10:55"), Absence("l1", ("1001",), "outing", at("10:45"), at("11:10"))),
    seat("11:20", "occupied"),
    Reading("cam-1", at("11:30"), Link(False, "gone")),
)


def _end(folder: Path, order: list[Reading]) -> tuple[object, ...]:
    folder.mkdir()
    posts = Posts(folder)
    try:
        posts.until("12:30")
        for reading in order:
            posts.tell(reading)
        posts.until("13:00")
        found = posts.post(), posts.alerts(), posts.violations()
        assert posts.verify() == []
    finally:
        posts.pipeline.stop()
    # Ids of readings depend on what was told alone.
    return found


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 1 << 32))
def test_order_and_repeats_change_nothing(tmp_path_factory, seed):
    rng = random.Random(seed)
    links = [one for one in STORY if isinstance(one.body, Link)]
    others = [one for one in STORY if not isinstance(one.body, Link)]
    shuffled = [*others, *rng.sample(others, 4)]
    rng.shuffle(shuffled)
    folder = tmp_path_factory.mktemp("posts")

    plain = _end(folder / "plain", [*links[:1], *others, *links[1:]])
    mixed = _end(folder / "mixed", [*links[:1], *shuffled, *links[1:]])

    assert mixed == plain


def test_a_vacancy_is_judged_again_when_somebody_elsewhere_takes_a_ticket_of_its_queue(posts):
    posts.until("08:20")
    taken = QueueEvent("t0", "ticket_taken", "", "A000", queue="A")
    called = QueueEvent("c0", "called", "05", "A000", queue="A")
    posts.tell(Reading("api", at("08:20"), taken))
    posts.day(("08:35", "occupied"))
    posts.until("08:40")
    posts.tell(Reading("api", at("08:40"), called))
    posts.until("09:00")
    posts.tell(seat("09:00", "empty"))
    posts.until("09:06")
    alone = posts.alerts()
    more = QueueEvent("t1", "ticket_taken", "", "A001", queue="A")
    posts.tell(Reading("api", at("09:06"), more))
    waiting = posts.alerts()
    posts.until("09:16")

    assert alone == [("PRE-01", 1, "open")]
    assert waiting == [("PRE-01", 2, "open")]
    # Ten minutes of somebody waiting and nobody being called confirm what the camera saw.
    assert posts.alerts() == [("PRE-02", 5, "converted")]
    assert posts.violations() == [("PRE-02", "1001", 3.0, "active")]
    assert posts.verify() == []
