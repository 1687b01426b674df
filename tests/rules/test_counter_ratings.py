"""Ratings: which service each belongs to, what counts, and the follow-up of bad ones."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from rules.counter import FollowUp, RatingRecord, Ratio, SeenRating, WindowRecord, scale_figures
from tests.rules.counter_facts import Facts, at


@pytest.fixture
def facts() -> Facts:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05", person="1001")
    facts.serve("A002", "09:30", "09:40", person="1002")
    return facts


def matches(record: WindowRecord) -> list[tuple[str, str]]:
    return [(one.match, one.ticket) for one in record.ratings]


# Matching


@pytest.mark.parametrize(
    ("pressed", "expected"),
    [
        ("09:02:59.9", ("unmatched", "")),
        ("09:03", ("matched", "A001")),
        ("09:05:08", ("matched", "A001")),
        ("09:15", ("matched", "A001")),
        ("09:15:00.1", ("unmatched", "")),
        ("09:38", ("matched", "A002")),
    ],
)
def test_a_press_belongs_to_the_service_that_ended_ten_minutes_before_to_two_after(
    facts: Facts, pressed: str, expected: tuple[str, str]
) -> None:
    facts.rating(pressed, 5)

    assert matches(facts.follow()) == [expected]


def test_the_latest_service_is_taken(facts: Facts) -> None:
    facts.serve("A003", "09:41", "09:44")
    facts.rating("09:45", 5)

    assert matches(facts.follow()) == [("matched", "A003")]


def test_a_press_belongs_to_no_service_that_was_not_even_called(facts: Facts) -> None:
    facts.serve("A003", "09:40:30", "09:41:30")
    facts.rating("09:40:08", 5)

    assert matches(facts.follow()) == [("matched", "A002")]


def test_a_rating_that_names_its_ticket_goes_there_whenever_it_comes(facts: Facts) -> None:
    facts.rating("+3 20:00", 4, channel="qr", service_ref="a 001")
    facts.rating("09:41", 5, service_ref="A001")
    record = facts.follow(as_of="+4 00:00")

    assert matches(record) == [("matched", "A001"), ("additional", "A001")]


def test_a_rating_names_its_ticket_by_the_session_of_its_prompt(facts: Facts) -> None:
    facts.prompt("09:05:01", "A001", session="s1")
    facts.rating("09:41", 5, session="s1")

    assert matches(facts.follow()) == [("matched", "A001")]


def test_a_reference_nobody_knows_here_leaves_it_to_the_time(facts: Facts) -> None:
    facts.rating("09:41", 5, service_ref="370102-2026-0007")

    assert matches(facts.follow()) == [("matched", "A002")]


def test_a_ticket_whose_service_has_not_ended_takes_no_rating_from_another(facts: Facts) -> None:
    facts.serve("A003", "09:41")
    facts.rating("09:42", 5, service_ref="A003")
    record = facts.follow()

    assert matches(record) == [("unmatched", "")]
    assert record.ratings[0].flags == ("out_of_order",)


@pytest.mark.parametrize(
    ("text", "match"), [("+30 09:05", "matched"), ("+30 09:05:00.1", "unmatched")]
)
def test_a_rating_is_accepted_for_thirty_days(facts: Facts, text: str, match: str) -> None:
    facts.rating(text, 5, channel="qr", service_ref="A001")
    (rating,) = facts.follow(as_of="+31 00:00").ratings

    assert (rating.match, rating.counted) == (match, match == "matched")
    assert rating.flags == (() if match == "matched" else ("too_late",))


@pytest.mark.parametrize("how", ["abandoned", "held", "transferred"])
def test_only_a_finished_service_can_be_rated(how: str) -> None:
    facts = Facts()
    facts.serve("A001", "09:00")
    facts.event("09:05", how, "A001")
    facts.rating("09:06", 5)
    record = facts.follow()

    assert matches(record) == [("unmatched", "")]
    assert record.figures.rated == Ratio(0, 0)


def test_who_served_is_who_called_the_ticket_not_who_sits_there_now(facts: Facts) -> None:
    facts.rating("09:06", 5, person="1009")
    facts.rating("12:00", 5, person="1009")
    record = facts.follow()

    assert [one.person for one in record.ratings] == ["1001", "1009"]


# Counting


def test_the_first_press_counts_and_later_ones_are_additional(facts: Facts) -> None:
    facts.rating("09:06", 5)
    facts.rating("09:07", 1)
    facts.rating("09:08", 4)
    record = facts.follow()

    assert [one.match for one in record.ratings] == ["matched", "additional", "additional"]
    assert [one.counted for one in record.ratings] == [True, False, False]
    assert record.services[0].additional == ("pad:pad-1:09:07", "pad:pad-1:09:08")
    assert record.figures.rated == Ratio(1, 2)
    assert record.figures.additional == 2
    assert record.ratings[1].follow_up is not None


def test_silence_is_no_rating_and_leaves_its_place_to_a_later_one(facts: Facts) -> None:
    facts.rating("09:06", None, problem="timed_out")
    facts.rating("09:08", 4, channel="qr")
    record = facts.follow()

    assert [one.match for one in record.ratings] == ["matched", "matched"]
    assert [one.counted for one in record.ratings] == [False, True]
    assert record.services[0].rating_id == "pad:pad-1:09:08"
    assert record.figures.rated == Ratio(1, 2)
    assert record.figures.unrated_presses == 1


@pytest.mark.parametrize("level", [1, 3, 5])
def test_a_level_that_others_made_of_silence_is_in_no_rate_and_opens_nothing(
    facts: Facts, level: int
) -> None:
    facts.rating("09:06", level, defaulted=True)
    record = facts.follow()

    assert record.figures.rated == Ratio(0, 2)
    assert record.figures.scales == ()
    assert record.ratings[0].follow_up is None


def test_an_unmatched_rating_is_in_no_rate_but_a_bad_one_is_followed_up(facts: Facts) -> None:
    facts.rating("12:00", 2)
    record = facts.follow()

    assert record.figures.rated == Ratio(0, 2)
    assert record.figures.unmatched == 1
    assert record.ratings[0].follow_up is not None


def test_figures_of_two_scales_are_never_added_up(facts: Facts) -> None:
    facts.serve("A003", "10:00", "10:05")
    facts.rating("09:06", 5, scale_id="five")
    facts.rating("09:41", 4, scale_id="three")
    facts.rating("10:06", 2, scale_id="three")
    figures = facts.follow().figures

    five, three = figures.scales
    assert (five.scale_id, five.satisfied, five.mean) == ("five", Ratio(1, 1), 5.0)
    assert (three.scale_id, three.satisfied, three.strict) == ("three", Ratio(1, 2), Ratio(1, 2))
    assert (three.bad, three.mean) == (Ratio(1, 2), 3.0)
    assert figures.rated == Ratio(3, 3)


def test_only_levels_one_and_two_are_bad_and_the_strict_rate_stands_beside() -> None:
    told = scale_figures("five", (1, 2, 3, 4, 10))

    assert (told.satisfied, told.strict, told.bad) == (Ratio(17, 20), Ratio(14, 20), Ratio(3, 20))
    assert told.levels == (1, 2, 3, 4, 10)
    assert told.mean == 4.0


def test_a_rating_ends_the_waiting_for_it(facts: Facts) -> None:
    before = facts.follow()
    facts.rating("09:40:08", 5)
    after = facts.follow()

    assert (before.state, before.ticket) == ("finished", "A002")
    assert (after.state, after.ticket, after.since) == ("idle", "", at("09:40:08"))


def test_a_prompt_marks_its_service_as_invited_and_so_does_a_rating(facts: Facts) -> None:
    facts.serve("A003", "10:00", "10:05")
    facts.prompt("09:05:01", "A001")
    facts.prompt("09:39:59")
    assert [one.prompted for one in facts.follow().services] == [True, True, False]

    facts.rating("10:05:05", 5, channel="qr")
    record = facts.follow()
    assert [one.prompted for one in record.services] == [True, True, True]
    assert record.figures.prompted == Ratio(3, 3)


@pytest.mark.parametrize(
    ("event", "pressed", "flags"),
    [
        ("window_paused", "10:30", ("paused",)),
        ("window_closed", "10:30", ("closed",)),
        ("window_closed", "18:00", ("closed", "after_hours")),
        ("window_opened", "08:29:59", ("after_hours",)),
        ("window_opened", "08:30", ()),
    ],
)
def test_a_press_out_of_service_is_stored_and_flagged(
    facts: Facts, event: str, pressed: str, flags: tuple[str, ...]
) -> None:
    facts.event("10:00", event)
    facts.rating(pressed, 5)

    assert facts.follow(as_of="18:30").ratings[0].flags == flags


def test_a_rating_from_home_at_night_is_nothing_odd(facts: Facts) -> None:
    facts.rating("23:00", 5, channel="qr")

    assert facts.follow(as_of="23:30").ratings[0].flags == ()


def test_the_delay_is_told_from_the_end_of_the_service(facts: Facts) -> None:
    facts.rating("09:05:08", 5)
    facts.rating("09:39:59", 5)

    assert [one.delay for one in facts.follow().ratings] == [8000, -1000]


@pytest.mark.parametrize(("received", "live"), [("10:05:08", True), ("10:05:09", False)])
def test_a_pads_late_batch_is_nothing_to_run_for(facts: Facts, received: str, live: bool) -> None:
    facts.rating("09:05:08", 1, received=received)
    (rating,) = facts.follow().ratings

    assert rating.live is live
    assert rating.follow_up is not None
    assert rating.follow_up.opened_at == at(received)


def test_no_text_and_no_rater_is_in_the_record(facts: Facts) -> None:
    facts.rating("09:06", 1, text="柜台张三让我等了一小时", options=("slow",))

    assert "张三" not in repr(facts.follow())
    assert "text" not in {field.name for field in structs.fields(RatingRecord)}


# Follow-up


def bad(facts: Facts, **given: Any) -> SeenRating:
    return facts.rating("09:06", 1, **given)


def followed(facts: Facts, as_of: str = "+30 00:00", **given: Any) -> FollowUp:
    (rating,) = facts.follow(as_of, **given).ratings
    assert rating.follow_up is not None
    return rating.follow_up


def due(follow_up: FollowUp, step: str) -> tuple[int | None, int | None]:
    return next((one.at, one.done_at) for one in follow_up.dues if one.step == step)


def test_the_limits_are_five_minutes_and_1_5_and_15_workdays(facts: Facts) -> None:
    bad(facts)
    told = followed(facts)

    assert told.state == "opened"
    assert due(told, "assigned") == (at("09:11"), None)
    assert due(told, "contact") == (at("+1 18:00"), None)
    assert due(told, "closed") == (at("+7 18:00"), None)
    assert due(told, "outer") == (at("+21 18:00"), None)


def test_the_limits_count_from_the_receipt(facts: Facts) -> None:
    bad(facts, received="+2 10:00")
    told = followed(facts)

    assert due(told, "assigned")[0] == at("+2 10:05")
    assert due(told, "contact")[0] == at("+3 18:00")
    assert due(told, "closed")[0] == at("+9 18:00")


def test_outside_the_halls_hours_the_next_workday_is_soon_enough(facts: Facts) -> None:
    facts.rating("22:00", 1, channel="qr")

    assert due(followed(facts), "assigned")[0] == at("+1 18:00")


@pytest.mark.parametrize(
    ("received", "limit"),
    [
        ("+1 08:29:59", "+2 18:00"),
        ("+1 08:30", "+1 08:35"),
        ("+1 18:00", "+2 18:00"),
        ("+5 10:00", "+7 18:00"),
    ],
)
def test_on_a_later_date_too_somebody_is_there_only_in_a_workdays_hours(
    facts: Facts, received: str, limit: str
) -> None:
    bad(facts, received=received)

    assert due(followed(facts), "assigned")[0] == at(limit)


def test_a_limit_beyond_the_known_calendar_is_not_due(facts: Facts) -> None:
    bad(facts)
    told = followed(facts, workdays_after=(at("+1 18:00"),))

    assert due(told, "contact")[0] == at("+1 18:00")
    assert due(told, "closed")[0] is None
    assert due(told, "outer")[0] is None


def test_the_steps_are_done_one_after_the_other(facts: Facts) -> None:
    rating = bad(facts, named=True)
    course = [
        ("assigned", "assigned"),
        ("contacting", "contacting"),
        ("fix_now", "classified"),
        ("acting", "acting"),
        ("fed_back", "fed_back"),
        ("rechecked", "rechecked"),
        ("closed", "closed"),
    ]
    for minute, (step, state) in enumerate(course, 10):
        facts.step(f"09:{minute}", rating, step, handler="1001")
        assert followed(facts).state == state

    told = followed(facts)
    assert (told.handler, told.kind, told.tries, told.contacted) == ("1001", "fix_now", 1, True)
    assert (told.taken_up_at, told.closed_at) == (at("09:10"), at("09:16"))
    assert due(told, "assigned") == (at("09:11"), at("09:10"))
    assert due(told, "contact") == (at("+1 18:00"), at("09:11"))
    assert due(told, "closed") == (at("+7 18:00"), at("09:16"))
    assert told.flags == ()


@pytest.mark.parametrize(
    ("kind", "step", "limit"),
    [
        ("fix_now", "closed", "+7 18:00"),
        ("explain", "closed", "+7 18:00"),
        ("plan", "closed", "+14 18:00"),
        ("mistaken", "review", "+4 18:00"),
        ("malicious", "review", "+4 18:00"),
    ],
)
def test_the_limit_depends_on_the_kind(facts: Facts, kind: str, step: str, limit: str) -> None:
    rating = bad(facts)
    facts.step("+1 10:00", rating, kind)

    assert due(followed(facts), step)[0] == at(limit)


def test_unreachable_needs_three_tries_on_two_days(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "contacting")
    facts.step("11:00", rating, "contacting")
    facts.step("12:00", rating, "unreachable")
    early = followed(facts)
    facts.step("+1 10:00", rating, "unreachable")
    late = followed(facts)

    assert (early.state, early.flags) == ("contacting", ("unreachable_too_soon",))
    assert (late.state, late.tries) == ("unreachable", 4)


def test_an_anonymous_bad_rating_needs_no_contact_but_verification(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "explain")
    facts.step("11:00", rating, "closed")
    told = followed(facts)

    assert due(told, "contact")[1] == at("10:00")
    assert told.flags == ()


def test_a_named_one_closed_without_a_call_and_one_closed_unverified_say_so(facts: Facts) -> None:
    rating = bad(facts, named=True)
    facts.step("11:00", rating, "closed")

    assert followed(facts).flags == ("not_verified", "not_called_back")


def test_a_mistaken_rating_counts_no_more_once_it_was_reviewed(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "mistaken", by="1001")
    before = facts.follow()
    facts.step("11:00", rating, "rechecked", by="9001")
    after = facts.follow()

    assert before.figures.rated == Ratio(1, 2)
    assert after.figures.rated == Ratio(0, 2)
    assert after.figures.scales == ()


def test_malicious_needs_two_people(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "malicious", by="9001")
    facts.step("10:30", rating, "malicious", by="9001")
    facts.step("12:00", rating, "rechecked")
    one = followed(facts)
    facts.step("11:00", rating, "malicious", by="9002")
    two = followed(facts)

    assert (one.excluded, one.flags) == (False, ("one_reviewer",))
    assert (two.excluded, two.flags) == (True, ())


def test_who_took_his_opinion_back_does_not_make_two(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "malicious", by="9001")
    facts.step("11:00", rating, "fix_now", by="9001")
    facts.step("12:00", rating, "malicious", by="9002")
    facts.step("13:00", rating, "closed", by="9003")
    told = followed(facts)

    assert (told.excluded, told.flags) == (False, ("one_reviewer",))


def test_only_a_look_after_the_claim_and_by_another_is_its_review(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "rechecked", by="9001")
    facts.step("11:00", rating, "mistaken", by="1001")
    assert not followed(facts).excluded

    facts.step("12:00", rating, "rechecked", by="1001")
    assert not followed(facts).excluded

    facts.step("13:00", rating, "rechecked", by="9001")
    assert followed(facts).excluded
    assert due(followed(facts), "review")[1] == at("13:00")


def test_a_claim_closed_by_who_made_it_counts_on_and_says_so(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "mistaken", by="1001")
    facts.step("11:00", rating, "closed", by="1001")
    told = followed(facts)

    assert (told.excluded, told.flags) == (False, ("not_reviewed",))
    assert due(told, "review")[1] == at("11:00")
    assert facts.follow().figures.rated == Ratio(1, 2)


def test_a_reopened_follow_up_begins_its_limits_again(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "fix_now")
    facts.step("11:00", rating, "closed")
    facts.step("+1 09:00", rating, "reopened")
    told = followed(facts)

    assert (told.state, told.reopened, told.closed_at) == ("reopened", 1, None)
    assert told.taken_up_at == at("10:00")
    assert due(told, "closed") == (at("+8 18:00"), None)


def test_a_step_after_closing_is_out_of_order(facts: Facts) -> None:
    rating = bad(facts)
    facts.step("10:00", rating, "fix_now")
    facts.step("11:00", rating, "closed")
    facts.step("12:00", rating, "acting")
    facts.step("09:30", rating, "teleported")
    told = followed(facts)

    assert (told.state, told.flags) == ("closed", ("out_of_order",))


def test_the_rates_of_following_up_are_over_what_is_closed_or_due(facts: Facts) -> None:
    first = facts.rating("09:06", 1, named=True)
    facts.rating("09:41", 2, named=True)
    facts.step("10:00", first, "contacting")
    facts.step("10:10", first, "fix_now")
    facts.step("10:20", first, "closed")
    early, late = facts.follow(as_of="17:00").figures, facts.follow(as_of="+8 00:00").figures

    assert (early.callbacks, early.rectified, early.in_time) == (
        Ratio(1, 1),
        Ratio(1, 1),
        Ratio(1, 1),
    )
    assert (late.callbacks, late.rectified, late.in_time) == (
        Ratio(1, 2),
        Ratio(1, 2),
        Ratio(1, 2),
    )


def test_the_record_says_when_a_limit_changes_it(facts: Facts) -> None:
    bad(facts)

    assert facts.follow(as_of="09:07").changes_at == at("09:11") + 1
    assert facts.follow(as_of="10:00").changes_at == at("24:00")
    assert facts.follow(as_of="+2 00:00").changes_at == at("+7 18:00") + 1


def test_a_named_one_has_to_be_called_back_even_if_it_was_looked_into(facts: Facts) -> None:
    rating = bad(facts, named=True)
    facts.step("10:00", rating, "explain")

    assert due(followed(facts), "contact")[1] is None


def test_a_rating_before_a_pause_ends_the_waiting_when_the_pause_is_over(facts: Facts) -> None:
    facts.rating("09:40:08", 5)
    facts.event("09:50", "window_paused")
    facts.event("09:55", "window_resumed")
    record = facts.follow()

    assert (record.state, record.since) == ("idle", at("09:55"))
    assert [moment for moment, _ in record.states] == sorted(moment for moment, _ in record.states)


def test_the_rating_of_one_nameless_ticket_says_nothing_of_the_next() -> None:
    facts = Facts()
    for called, finished in (("09:00", "09:05"), ("09:30", "09:40")):
        facts.event(called, "called", source="bus")
        facts.event(finished, "finished", source="bus")
    facts.rating("09:05:08", 5)

    assert facts.follow().state == "finished"
