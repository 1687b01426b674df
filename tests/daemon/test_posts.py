"""Cameras' seats, calls and reviews through the real pipeline and database."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import load
from daemon import replay
from daemon.database import FILE_NAME
from daemon.simulation import SimulatedClock
from rules.model import (
    Absence,
    DaemonAlive,
    Link,
    Person,
    PersonEntry,
    Picture,
    PostReview,
    Punch,
    QueueEvent,
    Reading,
    RosterEntry,
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


# -- what is told later, and about whom

TWO = SETTINGS.replace(
    "[[devices]]\n",
    '[[windows]]\nid = "06"\nname = "6号窗口"\nunit = "u1"\n[[devices]]\n',
).replace(
    "[storage]\n",
    '[[devices.posts]]\nwindow = "06"\n'
    "region = [[0.0, 0.1], [0.3, 0.1], [0.3, 0.9], [0.0, 0.9]]\n[storage]\n",
)
NIGHT = SETTINGS.replace(
    "[[units]]\n",
    'timetable = "night"\n[[timetables]]\nname = "night"\n[[timetables.versions]]\n'
    'segments = [{ name = "night", starts = "20:00", ends = "26:00" }]\n[[units]]\n',
)
NEXT = "2026-03-03"


def event(clock: str, name: str, ticket: str, window: str = "05", day: str = "2026-03-02"):
    body = QueueEvent(f"{clock}-{name}-{ticket}", name, window, ticket, queue="A")
    return Reading("api", at(clock, day), body)


def place(clock: str, day: str, window: str, code: str = "1001") -> Reading:
    return Reading("api", at(clock, day), PersonEntry(Person(code, "林一鸣", "u1", window)))


def confirm(posts: Posts, clock: str, day: str = "2026-03-02") -> None:
    review = PostReview("05", DAY, posts.vacancy(), "confirmed", "督查员")
    posts.until(clock, day)
    posts.tell(Reading("api", at(clock, day), review))


def away(posts: Posts) -> None:
    """Twenty minutes of the morning nobody is at window 05, which a person confirms."""
    posts.day(("08:35", "occupied"), ("09:00", "empty"), ("09:20", "occupied"))
    confirm(posts, "10:00")


def active(posts: Posts, window: str = "05") -> list[tuple[object, ...]]:
    return posts.ask(
        "SELECT code, person FROM violation WHERE window = ? AND state = 'active'", window
    )


def reload(posts: Posts, folder: Path, text: str) -> None:
    (folder / "hallwatch.toml").write_text(text, "utf-8")
    posts.hall = load(folder / "hallwatch.toml")
    posts.pipeline.reload(posts.hall).result(10)
    posts.pipeline.settle().result(10)


@pytest.fixture
def hall(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Posts]:
    """Of the settings that the test names."""
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", request.param)
    made = Posts(tmp_path)
    yield made
    if made.pipeline.alive:
        made.pipeline.stop()


def test_a_person_who_moves_to_another_window_was_not_on_duty_at_the_old_one(posts):
    away(posts)
    before = active(posts)
    posts.until("11:00")
    posts.tell(place("11:00", "2026-03-02", "99"))
    moved = active(posts)
    posts.until("11:10")
    posts.tell(place("11:10", "2026-03-02", "05"))

    assert before == active(posts) == [("PRE-02", "1001")]
    assert moved == []
    assert posts.verify() == []


def test_a_person_who_moves_after_the_month_is_closed_changes_nothing_in_it(posts):
    away(posts)
    posts.until("10:00", "2026-05-20")
    posts.tell(place("10:00", "2026-05-20", ""))
    posts.until("10:01", "2026-05-20")
    posts.tell(
        Reading("api", at("10:01", "2026-05-20"), PostReview("05", DAY, "x", "dismissed", "督查员"))
    )

    assert active(posts) == [("PRE-02", "1001")]
    assert posts.verify() == []


def test_a_punch_that_is_told_late_belongs_to_the_vacancy(posts):
    posts.day(("08:35", "occupied"), ("11:30", "empty"))
    posts.until("14:00")
    before = posts.post()["vacancies"][0]["signals"]
    posts.tell(Reading("gate", at("11:30:30"), Punch("1001")))

    assert before == ["seat"]
    assert posts.post()["vacancies"][0]["signals"] == ["seat", "punch"]
    assert posts.verify() == []


def test_a_stand_ins_punch_belongs_to_the_vacancy(posts):
    posts.until("08:05")
    entry = Substitution("s1", "05", "1002", at("08:30"), at("12:00"), "1001")
    posts.tell(Reading("api", at("08:05"), entry))
    posts.day(("08:35", "occupied"), ("11:30", "empty"))
    posts.until("14:00")
    posts.tell(Reading("gate", at("11:30:30"), Punch("1002")))

    assert posts.post()["vacancies"][0]["signals"] == ["seat", "punch"]


def test_a_stand_in_on_leave_was_not_on_duty(posts):
    posts.until("08:05")
    entry = Substitution("s1", "05", "1002", at("08:30"), at("12:00"), "1001")
    posts.tell(Reading("api", at("08:05"), entry))
    away(posts)
    before = active(posts)
    posts.until("11:00")
    posts.tell(
        Reading("api", at("11:00"), Absence("l2", ("1002",), "sick", at("08:50"), at("12:00")))
    )

    assert before == [("PRE-02", "1002")]
    assert ("PRE-02", "1002") not in active(posts)
    assert posts.verify() == []


@pytest.mark.parametrize("hall", [TWO], indirect=True)
def test_who_stands_in_elsewhere_is_not_on_duty_at_the_own_window(hall):
    away(hall)
    before = active(hall)
    hall.until("11:00")
    entry = Substitution("s1", "06", "1001", at("08:50"), at("11:00"))
    hall.tell(Reading("api", at("11:00"), entry))

    assert before == [("PRE-02", "1001")]
    assert active(hall) == []
    assert hall.verify() == []


def test_of_two_entries_of_a_substitution_told_together_the_last_holds(posts):
    posts.until("08:05")
    entries = [
        Substitution("s1", "05", "1002", at("08:30"), at("12:00"), "1001", revoked)
        for revoked in (False, True)
    ]
    posts.tell(*[Reading("api", at("08:05"), entry) for entry in entries])
    away(posts)

    assert active(posts) == [("PRE-02", "1001")]


def test_an_absence_that_is_worded_anew_touches_those_whom_it_no_longer_names(posts):
    leave = Absence("l1", ("1001",), "outing", at("08:50"), at("09:30"))
    posts.tell(Reading("api", at("08:00"), leave))
    away(posts)
    before = active(posts)
    posts.until("11:00")
    anothers = Absence("l1", ("1002",), "outing", at("15:00"), at("16:00"))
    posts.tell(Reading("api", at("11:00"), anothers))

    assert before == []
    assert active(posts) == [("PRE-02", "1001")]
    assert posts.verify() == []


def test_an_absence_that_is_worded_anew_touches_the_old_persons_day(posts):
    leave = Absence("l1", ("1001",), "outing", at("08:30"), at("12:00"))
    posts.tell(Reading("api", at("08:00"), leave))
    posts.until("13:00")
    slots = "SELECT body FROM attendance_day WHERE person = '1001' AND work_date = '2026-03-02'"
    before = posts.ask(slots)
    anothers = Absence("l1", ("1002",), "outing", at("08:30"), at("12:00"))
    posts.tell(Reading("api", at("13:00"), anothers))

    assert posts.ask(slots) != before
    assert posts.verify() == []


def test_a_post_that_the_settings_no_longer_watch_is_withdrawn(posts, tmp_path):
    away(posts)
    begin, end = SETTINGS.index("[[devices.posts]]"), SETTINGS.index("[storage]")
    reload(posts, tmp_path, SETTINGS[:begin] + SETTINGS[end:])

    assert posts.ask("SELECT window FROM post_day") == []
    assert (posts.alerts(), active(posts)) == ([], [])
    assert posts.verify() == []


def test_other_settings_judge_the_halls_dates_again(posts, tmp_path):
    posts.day(("08:35", "occupied"))
    posts.until("10:00")
    posts.tell(Reading("cam-1", at("10:00"), Picture(("covered",))))
    posts.until("10:40")
    told = "SELECT code FROM alert WHERE code = 'VID-03' AND state <> 'withdrawn'"
    before = posts.ask(told)
    begin, end = SETTINGS.index("[[devices]]"), SETTINGS.index("[storage]")
    reload(posts, tmp_path, SETTINGS[:begin] + SETTINGS[end:])

    assert before == [("VID-03",)]
    assert posts.ask(told) == []
    assert posts.verify() == []


def test_a_bad_picture_is_over_however_often_it_flickered(posts):
    posts.day(("08:35", "occupied"))
    posts.until("10:00")
    posts.tell(Reading("cam-1", at("10:00"), Picture(("covered",))))
    later = "2026-03-04"
    posts.until("10:00", later)
    flicker = [
        Reading("cam-1", at("10:00", later) + number * 60_000, Picture(faults))
        for number, faults in enumerate([("covered", "blurred"), ("covered",)] * 51)
    ]
    posts.tell(*flicker)
    posts.until("17:00", later)
    posts.tell(Reading("cam-1", at("17:00", later), Picture()))
    posts.until("18:00", later)

    assert posts.ask(
        "SELECT state FROM alert WHERE code = 'VID-03' AND work_date = '2026-03-02'"
    ) == [("resolved",)]
    assert posts.verify() == []


def test_what_is_entered_for_later_judges_no_date_before_it_comes(posts):
    entry = Substitution("s1", "05", "1002", at("08:30"), at("12:00", "2026-06-02"), "1001")
    posts.tell(
        Reading("api", at("08:00"), entry),
        Reading("api", at("08:00"), RosterEntry("1001", date(2026, 3, 20), "", "rest")),
    )

    assert posts.ask("SELECT DISTINCT work_date FROM post_day") == [("2026-03-02",)]
    posts.until("08:00", NEXT)
    assert posts.ask("SELECT DISTINCT work_date FROM post_day ORDER BY 1")[-1] == (NEXT,)


@pytest.mark.parametrize("hall", [NIGHT], indirect=True)
def test_calls_after_midnight_cover_the_post_whose_segment_lasts(hall):
    hall.until("19:50")
    hall.tell(Reading("cam-1", at("19:50"), Link(True)))
    hall.until("20:05")
    hall.tell(seat("20:05", "occupied"))
    hall.until("00:10", NEXT)
    hall.tell(seat("00:10", "empty", NEXT))
    hall.until("00:20", NEXT)
    before = hall.ask("SELECT code, state FROM alert WHERE scope = 'post'")
    hall.tell(event("00:20", "called", "A1", day=NEXT))
    state = hall.ask("SELECT state FROM post_day WHERE work_date = '2026-03-02'")
    hall.until("00:21:30", NEXT)
    hall.tell(event("00:21:30", "window_paused", "", day=NEXT))
    hall.until("00:30", NEXT)
    paused = hall.ask("SELECT state FROM post_day WHERE work_date = '2026-03-02'")

    assert before == [("PRE-01", "open")]
    assert state == [("present",)]
    assert paused == [("excused",)]
    assert hall.verify() == []


@pytest.mark.parametrize("hall", [NIGHT], indirect=True)
def test_who_waits_after_midnight_confirms_a_vacancy_of_the_night(hall):
    hall.until("19:50")
    hall.tell(Reading("cam-1", at("19:50"), Link(True)))
    hall.until("20:05")
    hall.tell(seat("20:05", "occupied"))
    hall.until("21:00")
    hall.tell(event("21:00", "ticket_taken", "A1", ""), event("21:00", "called", "A1"))
    hall.until("00:10", NEXT)
    hall.tell(seat("00:10", "empty", NEXT))
    hall.until("00:16", NEXT)
    hall.tell(event("00:16", "ticket_taken", "A2", "", NEXT))
    hall.until("00:40", NEXT)
    (row,) = hall.ask("SELECT body FROM post_day WHERE work_date = '2026-03-02'")

    assert json.loads(str(row[0]))["vacancies"][0]["signals"] == ["seat", "queue"]
    assert active(hall) == [("PRE-02", "1001")]
    assert hall.verify() == []


@pytest.mark.parametrize("hall", [NIGHT], indirect=True)
def test_a_punch_and_a_lost_camera_after_midnight_belong_to_the_night(hall):
    hall.until("19:50")
    hall.tell(Reading("cam-1", at("19:50"), Link(True)))
    hall.until("20:05")
    hall.tell(seat("20:05", "occupied"))
    hall.until("00:10", NEXT)
    hall.tell(seat("00:10", "empty", NEXT))
    hall.until("00:14", NEXT)
    hall.tell(Reading("gate", at("00:10:30", NEXT), Punch("1001")))
    told = "SELECT body FROM post_day WHERE work_date = '2026-03-02'"
    punched = json.loads(str(hall.ask(told)[0][0]))["vacancies"][0]["signals"]
    hall.tell(Reading("cam-1", at("00:13", NEXT), Link(False, "gone")))
    lost = json.loads(str(hall.ask(told)[0][0]))["state"]

    assert punched == ["seat", "punch"]
    assert lost == "unknown"
    assert hall.verify() == []


def test_a_window_is_known_by_yesterdays_calls_to_be_waited_for_while_nobody_comes(posts):
    posts.until("08:40")
    posts.tell(event("08:40", "called", "A900"))
    posts.until("08:20", NEXT)
    posts.tell(
        Reading("cam-1", at("08:20", NEXT), Link(True)),
        seat("08:20", "empty", NEXT),
        event("08:20", "ticket_taken", "A001", "", NEXT),
    )
    posts.until("08:40", NEXT)
    late = "SELECT state FROM alert WHERE code = 'PRE-07' AND work_date = '2026-03-03'"
    waiting = posts.ask(late)
    posts.until("08:45", NEXT)
    posts.tell(event("08:45", "called", "A001", day=NEXT))

    assert waiting == [("open",)]
    assert posts.ask(late) == [("resolved",)]
    assert posts.verify() == []


def test_what_other_settings_would_decide_of_posts_is_told(posts, tmp_path):
    away(posts)
    text = SETTINGS + "\n[rules.off_post]\npoints = 9\n"
    (tmp_path / "other.toml").write_text(text, "utf-8")
    other = load(tmp_path / "other.toml")
    found = list(replay.what_if(posts.path, posts.hall, other, None, None, lambda _a, _b: None))
    same = replay.what_if(posts.path, posts.hall, posts.hall, None, None, lambda _a, _b: None)

    assert [(one.subject, one.what) for one in found] == [("05", "violation")]
    assert '"points":9' in found[0].judged
    assert list(same) == []


def test_a_post_is_unknown_from_the_restart_on_until_its_camera_is_back(posts):
    posts.day(("08:35", "occupied"))
    posts.until("09:03")
    posts.tell(Reading("hallwatch", at("09:03"), DaemonAlive()))
    posts.pipeline.stop()
    posts.clock.jump(at("09:10"))
    posts.start()

    assert posts.post()["state"] == "unknown"
    assert posts.verify() == []


def test_who_waited_is_forgotten_once_the_month_is_closed(posts):
    posts.until("08:20")
    posts.tell(event("08:20", "ticket_taken", "A000", ""))
    posts.day(("08:35", "occupied"))
    posts.until("08:40")
    posts.tell(event("08:40", "called", "A000"))
    posts.until("16:00")
    posts.tell(seat("16:00", "empty"))
    posts.until("12:00", NEXT)
    before = posts.ask("SELECT queue FROM waits_on WHERE work_date = '2026-03-02'")
    posts.until("12:00", "2026-05-20")

    assert before == [("A",)]
    assert posts.ask("SELECT queue FROM waits_on WHERE work_date = '2026-03-02'") == []
