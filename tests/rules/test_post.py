from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rules.late_opening import LateOpening
from rules.long_pause import LongPause
from rules.model import DAY, MINUTE
from rules.off_post import OffPost
from rules.post import (
    Hours,
    PostDay,
    PostOutcome,
    PostPolicy,
    PostRecord,
    follow_post,
    judge_post,
    needs_line,
    queue_line,
    queues_of,
    ready_at,
    with_line,
)
from rules.short_absences import ShortAbsences
from rules.uncovered_post import UncoveredPost
from tests.rules.counter_facts import Facts, at
from tests.rules.posts import ALWAYS, PostFacts, contact, duty, line, vacant, wall


@pytest.fixture
def facts() -> PostFacts:
    return PostFacts()


# -- the line of states


def test_a_seat_is_what_the_camera_says_until_it_says_otherwise(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:20 still, 09:30 unknown, 09:40 learning")

    assert line(facts.post("10:00")) == [
        ("08:30", "present"), ("09:00", "away"), ("09:20", "still"), ("09:30", "unknown"),
        ("09:40", "learning"),
    ]  # fmt: skip


def test_outside_working_time_it_is_closed(facts: PostFacts) -> None:
    facts.saw("08:00 empty")
    post = facts.post("18:30")

    assert [(wall(one.at), one.state) for one in post.spans] == [
        ("00:00", "closed"), ("08:30", "away"), ("12:00", "closed"), ("14:30", "away"),
        ("18:00", "closed"),
    ]  # fmt: skip
    assert (post.state, wall(post.since)) == ("closed", "18:00")


def test_what_is_not_known_is_never_empty(facts: PostFacts) -> None:
    assert line(facts.post("10:00")) == [("08:30", "unknown")]

    facts.saw("08:35 unknown, 08:50 learning")
    post = facts.post("10:00")
    assert post.vacancies == ()
    assert (post.figures.staffed.of, post.figures.unknown.n, post.figures.unknown.of) == (0, 90, 90)


def test_a_post_without_a_camera_is_never_vacant(facts: PostFacts) -> None:
    facts.sensors = []
    facts.saw("08:25 occupied, 09:00 empty")
    facts.serve("A001", "09:30", "09:40")
    post = facts.post("11:00")

    assert ("09:42", "unknown") in line(post)
    assert post.vacancies == ()


def test_after_a_break_a_camera_must_say_anew(facts: PostFacts) -> None:
    facts.sensors = [contact(("08:00", "09:00"), ("09:30", "24:00"))]
    facts.saw("08:25 occupied, 08:50 empty")
    facts.seat("09:32", "empty")

    assert line(facts.post("10:00")) == [
        ("08:30", "present"), ("08:50", "away"), ("09:00", "unknown"), ("09:32", "away"),
    ]  # fmt: skip


def test_what_was_told_in_a_break_holds_from_its_end_on(facts: PostFacts) -> None:
    """A camera that reconnects says since when the seat has been so; not seen is not known."""
    facts.sensors = [contact(("08:00", "09:00"), ("09:30", "24:00"))]
    facts.saw("08:25 occupied")
    facts.seat("09:10", "empty", received="09:31")

    assert line(facts.post("10:00")) == [
        ("08:30", "present"), ("09:00", "unknown"), ("09:30", "away"),
    ]  # fmt: skip


def test_of_two_cameras_one_that_sees_somebody_is_enough(facts: PostFacts) -> None:
    facts.sensors = [contact(("08:00", "10:00")), contact(("08:00", "24:00"), device="cam-2")]
    facts.saw("08:25 empty, 09:00 occupied, 09:10 empty")
    facts.saw("08:25 unknown, 08:40 occupied, 08:50 empty, 09:30 unknown", "cam-2")

    assert line(facts.post("11:00")) == [
        ("08:30", "away"), ("08:40", "present"), ("08:50", "away"), ("09:00", "present"),
        ("09:10", "away"), ("10:00", "unknown"),
    ]  # fmt: skip


def test_a_call_shows_somebody_there_for_two_minutes(facts: PostFacts) -> None:
    facts.saw("08:25 empty")
    facts.event("09:00", "called", "A001")
    facts.event("09:01", "started", "A001")
    post = facts.post("09:10")

    assert line(post) == [("08:30", "away"), ("09:00", "present"), ("09:03", "away")]
    assert [one.evidence for one in post.spans[1:]] == [("difference",), ("calls",),
                                                       ("difference",)]  # fmt: skip


def test_tickets_that_are_taken_or_called_elsewhere_show_nobody(facts: PostFacts) -> None:
    facts.saw("08:25 empty")
    facts.taken("09:00", "A001")
    facts.event("09:01", "called", "A001", "w2")
    facts.event("09:02", "abandoned", "A001")

    assert line(facts.post("09:10")) == [("08:30", "away")]


def test_a_pause_covers_the_post_for_twenty_minutes(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty")
    facts.event("09:00", "window_paused")

    # Pressing the key shows somebody there.
    assert line(facts.post("10:00")) == [
        ("08:30", "present"), ("09:02", "excused"), ("09:20", "away"),
    ]  # fmt: skip


def test_a_pause_covers_the_post_until_it_is_ended(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty")
    facts.event("09:00", "window_paused")
    facts.event("09:10", "window_resumed")

    assert line(facts.post("10:00")) == [
        ("08:30", "present"), ("09:02", "excused"), ("09:10", "present"), ("09:12", "away"),
    ]  # fmt: skip


def test_who_is_seen_during_a_pause_is_there(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:10 empty")
    facts.event("09:00", "window_paused")

    assert line(facts.post("09:15")) == [("08:30", "present"), ("09:10", "excused")]


def test_closing_excuses_the_segment_in_which_it_is_told(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 11:30 empty")
    facts.event("11:30", "window_closed")

    assert line(facts.post("15:00")) == [
        ("08:30", "present"), ("11:30", "excused"), ("14:30", "away"),
    ]  # fmt: skip
    assert facts.post("15:00", required=False).state == "excused"


def test_a_post_that_is_to_be_staffed_and_was_never_opened_is_empty(facts: PostFacts) -> None:
    facts.saw("08:00 empty")
    facts.event("07:50", "window_closed")

    assert vacant(facts.post("09:00")) == ["08:30-"]
    assert vacant(facts.post("09:00", required=False)) == []


def test_a_seat_where_nothing_moves_counts_as_somebody_unless_the_hall_says_otherwise(
    facts: PostFacts,
) -> None:
    facts.saw("08:25 occupied, 09:00 still")

    assert facts.post("10:00").vacancies == ()
    absent = facts.post("10:00", policy=PostPolicy(still_counts_as_absent=True))
    assert vacant(absent) == ["09:00-"]


def test_since_is_when_the_state_began_whatever_it_rested_on(facts: PostFacts) -> None:
    facts.saw("08:25 occupied")
    facts.event("09:00", "called", "A001")
    post = facts.post("09:01")

    assert (post.state, wall(post.since), post.evidence) == (
        "present", "08:30", ("difference", "calls"),
    )  # fmt: skip


def test_figures_are_of_required_time_in_which_something_is_known(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:10 unknown, 09:30 still, 10:00 empty")
    facts.show("10:00", "", baseline=True)
    facts.show("10:05", "暂停服务", baseline=True)
    figures = facts.post("10:15").figures

    assert (figures.staffed.n, figures.staffed.of) == (60, 75)
    assert (figures.unknown.n, figures.unknown.of) == (20, 95)


# -- vacancies


def test_a_vacancy_begins_when_the_post_is_empty_and_ends_when_somebody_is_back(
    facts: PostFacts,
) -> None:
    facts.away("09:00-09:20", "10:00")
    first, second = facts.post("10:30").vacancies

    assert (wall(first.began_at), first.lasted // MINUTE, first.left) == ("09:00", 20, True)
    assert first.ended_at == at("09:20")
    assert (second.ended_at, second.lasted // MINUTE) == (None, 30)
    assert (first.people, first.person, first.unit) == (("1001",), "1001", "tax")
    assert (first.signals, first.confirmed, first.review) == (("seat",), False, "")


@pytest.mark.parametrize(
    ("back", "expected"),
    [("09:10:09.999", ["09:00-09:30"]), ("09:10:10", ["09:00-09:10", "09:10:10-09:30"])],
)
def test_who_comes_back_for_less_than_ten_seconds_has_not_come_back(
    facts: PostFacts, back: str, expected: list[str]
) -> None:
    facts.saw(f"08:25 occupied, 09:00 empty, 09:10 occupied, {back} empty, 09:30 occupied")

    assert vacant(facts.post("10:00")) == expected


def test_a_vacancy_is_open_until_the_return_is_long_enough(facts: PostFacts) -> None:
    facts.away("09:00-09:10")

    assert vacant(facts.post("09:10:05")) == ["09:00-"]
    assert facts.post("09:10:05").changes_at == at("09:10:10")
    assert vacant(facts.post("09:10:10")) == ["09:00-09:10"]


def test_unknown_time_pauses_the_timer_and_does_not_reset_it(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:04 unknown, 09:30 empty, 09:33 occupied")
    (vacancy,) = facts.post("10:00").vacancies

    assert (vacancy.lasted // MINUTE, vacancy.ended_at) == (7, at("09:33"))
    assert vacancy.reached(5 * MINUTE) == at("09:31")
    assert vacancy.reached(8 * MINUTE) is None


def test_while_nothing_is_known_the_timer_of_an_open_vacancy_stands_still(
    facts: PostFacts,
) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:04 unknown")
    (vacancy,) = facts.post("11:00").vacancies

    assert (vacancy.ended_at, vacancy.lasted // MINUTE) == (None, 4)
    assert vacancy.will_reach(5 * MINUTE, at("11:00")) is None
    (running,) = facts.post("09:03").vacancies
    assert running.will_reach(5 * MINUTE, at("09:03")) == at("09:05")


def test_a_return_that_a_failure_cut_off_was_one(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:10 occupied, 09:10:03 unknown, 09:20 empty")

    assert vacant(facts.post("09:30")) == ["09:00-09:10", "09:20-"]


def test_each_segment_has_vacancies_of_its_own(facts: PostFacts) -> None:
    facts.away("11:30")
    morning, afternoon = facts.post("15:00").vacancies

    assert (morning.segment, morning.ended_at, morning.left) == ("am", at("12:00"), True)
    assert (afternoon.segment, wall(afternoon.began_at), afternoon.left) == ("pm", "14:30", False)
    assert morning.id != afternoon.id


def test_nobody_has_left_who_had_not_come(facts: PostFacts) -> None:
    facts.saw("08:00 empty, 09:00 occupied, 09:00:05 empty, 09:10 occupied, 09:30 empty")

    assert [one.left for one in facts.post("10:00").vacancies] == [False, True]


def test_a_display_that_was_left_on_pause_shows_nobody_who_left(facts: PostFacts) -> None:
    facts.saw("08:00 empty")
    facts.show("08:28", "暂停服务", baseline=True)
    (vacancy,) = facts.post("09:00").vacancies

    assert (wall(vacancy.began_at), vacancy.left) == ("08:48", False)


def test_a_pause_that_lasts_too_long_is_a_vacancy_from_its_limit_on(facts: PostFacts) -> None:
    facts.away("09:00")
    facts.event("09:00", "window_paused")
    (vacancy,) = facts.post("10:00").vacancies

    assert (wall(vacancy.began_at), vacancy.left) == ("09:20", True)
    assert facts.post("09:10").changes_at == at("09:20")


def test_a_segment_past_midnight_is_one(facts: PostFacts) -> None:
    facts.hours = (Hours("night", at("20:00"), at("26:00")),)
    facts.duties = [duty("1001", "20:00", "26:00")]
    facts.sensors = [contact(("19:00", "+1 12:00"))]
    facts.saw("19:55 occupied, 23:50 empty, +1 00:20 occupied")
    (vacancy,) = facts.post("+1 01:00").vacancies

    assert (vacancy.began_at, vacancy.ended_at) == (at("23:50"), at("24:20"))
    assert facts.post("+1 03:00").state == "closed"


def test_what_a_camera_said_yesterday_holds_while_it_stays_in_contact(facts: PostFacts) -> None:
    seat = facts.seat("08:00", "empty")
    facts.seats = [structs.replace(seat, at=seat.at - DAY, received_at=seat.received_at - DAY)]

    assert line(facts.post("08:35")) == [("08:30", "away")]
    facts.sensors = [contact(("00:00", "24:00"))]
    assert line(facts.post("08:35")) == [("08:30", "unknown")]


# -- who was to be there


def test_a_stand_in_is_asked_before_whom_he_stands_in_for(facts: PostFacts) -> None:
    facts.duties.append(duty("2002", "09:00", "10:00", "civil", stands_in=True))
    facts.away("09:10-09:30", "10:10-10:30")
    first, second = facts.post("11:00").vacancies

    assert (first.people, first.unit) == (("2002",), "civil")
    assert (second.people, second.unit) == (("1001",), "tax")


def test_a_stand_in_who_has_not_come_has_not_left(facts: PostFacts) -> None:
    facts.duties.append(duty("2002", "09:00", "10:00", "civil", stands_in=True))
    facts.away("08:59-09:30")
    theirs, stand_ins = facts.post("11:00").vacancies

    assert (theirs.people, theirs.lasted // MINUTE, theirs.left) == (("1001",), 1, True)
    assert (stand_ins.people, stand_ins.lasted // MINUTE, stand_ins.left) == (("2002",), 30, False)


def test_on_leave_all_day_nobody_is_on_duty(facts: PostFacts) -> None:
    facts.duties = []
    facts.saw("08:00 empty")
    (vacancy,) = facts.post("09:00").vacancies

    assert (vacancy.people, vacancy.person, vacancy.unit) == ((), "", "tax")


def test_an_hours_leave_within_a_segment_splits_a_vacancy(facts: PostFacts) -> None:
    facts.duties = [duty("1001", "08:30", "09:30"), duty("1001", "10:30", "12:00")]
    facts.away("09:20-10:50")
    before, leave, after = facts.post("11:00").vacancies

    assert vacant(facts.post("11:00")) == ["09:20-09:30", "09:30-10:30", "10:30-10:50"]
    assert [one.people for one in (before, leave, after)] == [("1001",), (), ("1001",)]
    assert (before.left, after.left) == (True, False)


def test_of_two_on_duty_the_one_who_last_called_is_the_person(facts: PostFacts) -> None:
    facts.duties.append(duty("1002", "08:30", "12:00"))
    facts.serve("A001", "08:40", "08:45", person="1001")
    facts.serve("A002", "08:50", "08:55", person="1002")
    facts.away("09:00-09:20")
    (vacancy,) = facts.post("10:00").vacancies

    assert (vacancy.people, vacancy.person) == (("1001", "1002"), "1002")


def test_of_two_on_duty_of_whom_nothing_is_known_none_is_the_person(facts: PostFacts) -> None:
    facts.duties.append(duty("1002", "08:30", "12:00", "civil"))
    facts.duties[-1] = structs.replace(facts.duties[-1], unit="civil")
    facts.away("09:00-09:20")
    (vacancy,) = facts.post("10:00").vacancies

    assert (vacancy.person, vacancy.unit) == ("", "tax")


def test_who_stays_on_duty_when_a_colleague_goes_on_leave_had_been_there(
    facts: PostFacts,
) -> None:
    facts.duties.append(duty("1002", "08:30", "09:30"))
    facts.away("09:20-09:50")
    both, one = facts.post("10:00").vacancies

    assert (both.people, one.people, one.left) == (("1001", "1002"), ("1001",), True)
    assert vacant(facts.post("10:00")) == ["09:20-09:30", "09:30-09:50"]


# -- what confirms a vacancy


@pytest.mark.parametrize(("until", "confirmed"), [("09:09:59", False), ("09:10", True)])
def test_visitors_who_waited_five_minutes_confirm_it(
    facts: PostFacts, until: str, confirmed: bool
) -> None:
    facts.away("09:00-09:30")
    facts.waits(f"09:05-{until}")
    (vacancy,) = facts.post("10:00").vacancies

    assert ("queue" in vacancy.signals, vacancy.confirmed) == (confirmed, confirmed)
    assert vacancy.waiting == 3


def test_it_says_when_waiting_visitors_will_confirm_it(facts: PostFacts) -> None:
    facts.away("09:00")
    facts.waits("08:40")

    assert facts.post("09:01").changes_at == at("09:05")
    assert facts.post("09:05").vacancies[0].confirmed


@pytest.mark.parametrize(
    ("punched", "signals"),
    [("08:29", ("seat",)), ("08:55", ("seat", "punch")), ("08:49", ("seat",)),
     ("09:10", ("seat", "punch")), ("09:20", ("seat",))],
)  # fmt: skip
def test_a_punch_when_leaving_or_while_away_confirms_it(
    facts: PostFacts, punched: str, signals: tuple[str, ...]
) -> None:
    facts.away("09:00-09:20")
    punch = facts.punch(punched)
    (vacancy,) = facts.post("10:00").vacancies

    assert vacancy.signals == signals
    assert (punch.reading_id.hex() in vacancy.readings) == (len(signals) > 1)


def test_the_punch_of_coming_to_work_and_those_of_others_confirm_nothing(
    facts: PostFacts,
) -> None:
    facts.saw("08:33 occupied, 08:38 empty, 09:00 occupied")
    facts.punch("08:32")
    facts.punch("08:45", "1002")

    assert [one.signals for one in facts.post("10:00").vacancies] == [("seat",)]


def test_a_logout_confirms_it_unless_somebody_worked_after_it(facts: PostFacts) -> None:
    facts.away("09:00-09:20", "10:00-10:20", "11:00-11:20")
    facts.event("08:58", "window_logout", person="1001")
    facts.event("09:53", "window_logout", person="1001")
    facts.event("09:54", "window_login", person="1001")
    facts.event("10:55", "window_logout", person="1002")

    assert [one.signals for one in facts.post("11:30").vacancies] == [
        ("seat", "logout"), ("seat",), ("seat",),
    ]  # fmt: skip


def test_the_newest_review_holds(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    facts.waits("09:00-09:20")
    (vacancy,) = facts.post("10:00").vacancies
    assert vacancy.confirmed

    facts.review("10:01", vacancy.id, "dismissed")
    (dismissed,) = facts.post("11:00").vacancies
    assert (dismissed.review, dismissed.confirmed) == ("dismissed", False)

    facts.review("10:05", vacancy.id, "confirmed")
    facts.review("10:03", "another", "dismissed")
    (confirmed,) = facts.post("11:00").vacancies
    assert (confirmed.review, confirmed.confirmed) == ("confirmed", True)


def test_the_evidence_is_what_was_told_before_at_and_after(facts: PostFacts) -> None:
    before, empty = facts.seat("08:25", "occupied"), facts.seat("09:00", "empty", snapshot="s1.jpg")
    facts.saw("09:05 occupied, 09:05:04 empty")
    back = facts.seat("09:20", "occupied", snapshot="face.jpg")
    (vacancy,) = facts.post("10:00").vacancies

    assert vacancy.readings == tuple(one.reading_id.hex() for one in (before, empty, back))
    assert vacancy.snapshots == ("s1.jpg",)


# -- what rules share


def test_the_line_counts_tickets_and_believes_what_is_told_of_their_number() -> None:
    facts = Facts()
    facts.taken("08:40", "A001", "A002")
    facts.event("08:50", "called", "A001")
    facts.event("08:51", "recalled", "A001")
    facts.event("09:00", "abandoned", "A002", "")
    facts.event("09:10", "ticket_taken", "B001", "", queue="B", waiting=7)
    facts.event("18:00", "batch_abandoned", "", "")

    assert [(wall(moment), number) for moment, number in queue_line(facts.events)] == [
        ("08:40", 1), ("08:40", 2), ("08:50", 1), ("09:00", 0), ("09:10", 7), ("18:00", 0),
    ]  # fmt: skip


def test_a_ticket_that_is_taken_and_called_at_once_does_not_wait() -> None:
    for number in range(20):
        facts = Facts()
        facts.taken("08:40", f"A{number:03}")
        facts.event("08:40", "called", f"A{number:03}")

        assert queue_line(facts.events)[-1][1] == 0


def test_before_anything_is_told_of_the_line_it_is_unknown(facts: PostFacts) -> None:
    facts.away("09:00-09:30")
    facts.event("09:00", "called", "A001")

    assert queue_line(facts.events) == ((at("09:00"), None),)
    assert facts.post("10:00").vacancies[0].waiting is None


def test_the_queues_of_a_window_are_those_it_has_called_from(facts: PostFacts) -> None:
    facts.taken("08:40", "B001")
    facts.event("09:00", "called", "A001")
    facts.event("09:01", "called", "7", queue="tax")

    assert queues_of(facts.day().counter) == ("A", "tax")


@pytest.mark.parametrize(("as_of", "needed"), [("09:04", False), ("09:05", True)])
def test_the_line_is_needed_after_five_minutes_of_vacancy(
    facts: PostFacts, as_of: str, needed: bool
) -> None:
    facts.away("09:00")
    day = facts.day(as_of)

    assert (needs_line(day, follow_post(day)) is not None) == needed


def test_the_line_is_needed_for_pauses_and_where_nobody_is_ready(facts: PostFacts) -> None:
    facts.sensors = []
    late = facts.day("08:35")
    assert needs_line(late, follow_post(late))

    facts.event("08:31", "called", "A001")
    ready = facts.day("09:00")
    assert needs_line(ready, follow_post(ready)) is None

    facts.event("09:00", "window_paused")
    paused = facts.day("09:05")
    assert needs_line(paused, follow_post(paused))
    assert with_line(paused, facts.events).line == ((at("08:31"), None),)


def test_the_first_sign_of_somebody(facts: PostFacts) -> None:
    assert ready_at(facts.day("12:00")) is None

    facts.event("07:00", "window_login", person="1001")
    facts.event("08:10", "window_paused")
    assert ready_at(facts.day("12:00")) is None

    facts.saw("08:20 empty, 08:33 occupied")
    assert ready_at(facts.day("12:00")) == at("08:33")

    facts.event("08:31", "window_login", person="1001")
    assert ready_at(facts.day("12:00")) == at("08:31")
    assert ready_at(facts.day("12:00", hours=())) is None


# -- whatever is told, in whatever order

RULES = (
    OffPost(minutes=1, off_minutes=2, long_minutes=4, allowance=1, allowance_minutes=1),
    UncoveredPost(minutes=1, yellow_minutes=2, red_minutes=4),
    LateOpening(),
    LongPause(minutes=5, yellow_minutes=6),
    ShortAbsences(episodes=2, minutes=1, off_minutes=20),
)
"""So eager that a short day sets them off."""

moments = st.one_of(
    st.integers(8 * 60 * 60, 9 * 60 * 60),
    st.integers(8 * 360, 15 * 360).map(lambda one: one * 10),
).map(lambda seconds: f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}")
states = st.sampled_from(("occupied", "empty", "empty", "still", "unknown", "learning"))


@st.composite
def days(draw: st.DrawFn) -> PostFacts:
    facts = PostFacts()
    if draw(st.booleans()):
        facts.sensors.append(structs.replace(facts.sensors[0], device="cam-2"))
    for text, state, device in draw(
        st.lists(st.tuples(moments, states, st.sampled_from(("cam-1", "cam-2"))), max_size=20)
    ):
        facts.seat(text, state, device)
    if draw(st.booleans()):
        facts.sensors[0] = contact(("08:00", "08:45"), ("08:50", "09:20"), ("10:00", "24:00"))
    kinds = st.sampled_from(
        ("called", "finished", "ticket_taken", "window_paused", "window_resumed", "window_closed",
         "window_logout", "batch_abandoned", "window_opened")
    )  # fmt: skip
    for text, kind, waiting in draw(
        st.lists(st.tuples(moments, kinds, st.sampled_from((None, None, 0, 4))), max_size=12)
    ):
        ticket = "" if kind.startswith(("window", "batch")) else "A001"
        window = "" if kind == "ticket_taken" else "w1"
        facts.event(text, kind, ticket, window, waiting=waiting, person="")
    for text in draw(st.lists(moments, max_size=3)):
        facts.punch(text)
    if draw(st.booleans()):
        facts.duties = [duty("1001", "08:30", "09:10"), duty("1001", "09:40", "12:00")]
    if draw(st.booleans()):
        facts.duties.append(duty("2002", "08:50", "10:10", "civil", stands_in=True))
    if draw(st.booleans()):
        found = facts.post("15:00").vacancies
        if found:
            verdict = draw(st.sampled_from(("confirmed", "dismissed")))
            facts.review("15:00", draw(st.sampled_from(found)).id, verdict)
    return facts


def everything(day: PostDay) -> tuple[PostRecord, PostOutcome]:
    post = follow_post(day)
    return post, judge_post(day, post, RULES)


def again(draw: Callable[..., Any], facts: Sequence[Any]) -> tuple[Any, ...]:
    doubled = draw(st.lists(st.sampled_from(facts), max_size=4)) if facts else []
    return tuple(draw(st.permutations([*facts, *doubled])))


@settings(max_examples=80, deadline=None)
@given(days(), st.data())
def test_order_and_repetition_change_nothing(facts: PostFacts, data: st.DataObject) -> None:
    day = facts.day("15:30")
    moved = structs.replace(
        day,
        counter=structs.replace(day.counter, events=again(data.draw, day.counter.events)),
        seats=again(data.draw, day.seats),
        sensors=tuple(data.draw(st.permutations(day.sensors))),
        punches=again(data.draw, day.punches),
        reviews=again(data.draw, day.reviews),
        duties=again(data.draw, day.duties),
        line=queue_line(again(data.draw, facts.events)),
    )

    assert everything(moved) == everything(day)


@settings(max_examples=80, deadline=None)
@given(days(), moments)
def test_time_going_on_takes_nothing_back(facts: PostFacts, moment: str) -> None:
    """What had been so by some moment stays so: only later spans and later vacancies come."""
    early, late = facts.post(moment), facts.post("15:30")
    settled = [one for one in early.spans if one.at < at(moment)]

    assert [(one.at, one.state) for one in late.spans[: len(settled)]] == [
        (one.at, one.state) for one in settled
    ]
    by_id = {one.id: one for one in late.vacancies}
    for one in early.vacancies:
        if one.lasted == 0:
            continue
        after = by_id[one.id]
        assert after.lasted >= one.lasted
        assert (after.people, after.left) == (one.people, one.left)
        assert set(one.signals) <= set(after.signals)
        if one.ended_at is not None:
            assert after.ended_at == one.ended_at


@settings(max_examples=80, deadline=None)
@given(days(), moments)
def test_between_two_moments_nothing_changes_unless_it_was_said(
    facts: PostFacts, moment: str
) -> None:
    day = facts.day(moment)
    post, outcome = everything(day)
    until = min((outcome.ask_again or at("15:30")) - 1, at("15:30"))
    if until <= day.counter.as_of:
        return
    counter = structs.replace(day.counter, as_of=until)
    later = everything(structs.replace(day, counter=counter))

    assert later[1].alerts == outcome.alerts
    assert later[1].violations == outcome.violations
    assert later[0].spans == post.spans


@settings(max_examples=80, deadline=None)
@given(days(), st.sampled_from(("08:40", "09:05", "12:00", "15:30", "+4 12:00", "+20 12:00")))
def test_what_is_concluded_adds_up(facts: PostFacts, as_of: str) -> None:
    day = facts.day(as_of)
    post, outcome = everything(day)

    assert len({one.id for one in outcome.alerts}) == len(outcome.alerts)
    assert len({one.id for one in outcome.violations}) == len(outcome.violations)
    assert outcome.ask_again is None or outcome.ask_again > day.counter.as_of
    for one in post.vacancies:
        assert one.parts[0][0] == one.began_at
        assert all(a <= b <= day.counter.as_of for a, b in one.parts)
        assert any(hours.starts <= one.began_at < hours.ends for hours in day.hours)
        assert all(span.state != "present" or not one.began_at < span.at < one.parts[0][1]
                   for span in post.spans)  # fmt: skip
    for alert in outcome.alerts:
        assert alert.opened_at <= day.counter.as_of
        assert (alert.ends_at is None) == (alert.state == "open")
        assert 1 <= alert.severity <= 5
        assert alert.detail.endswith(".")
    for violation in outcome.violations:
        assert violation.since < violation.until <= day.counter.as_of
    figures = post.figures
    assert 0 <= figures.staffed.n <= figures.staffed.of
    assert 0 <= figures.unknown.n <= figures.unknown.of


def test_a_clerk_who_comes_and_goes_all_morning_is_followed(facts: PostFacts) -> None:
    for number in range(250):
        second = at("08:30") + number * 40_000
        for offset, state in ((0, "empty"), (20_000, "occupied")):
            seat = facts.seat("08:00", state)
            facts.seats[-1] = structs.replace(
                seat,
                at=second + offset,
                received_at=second + offset,
                reading_id=f"{number}{state}".encode(),
            )
    facts.sensors = [structs.replace(facts.sensors[0], up=ALWAYS)]

    assert len(facts.post("12:00").vacancies) == 250
