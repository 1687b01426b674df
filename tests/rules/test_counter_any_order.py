"""Whatever is told, in whatever order and how often: one answer, and none that breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rules.abandoned_tickets import AbandonedTickets
from rules.broken_scale import BrokenScale
from rules.counter import (
    CounterDay,
    CounterOutcome,
    SeenEvent,
    SeenRating,
    follow_counter,
    follow_window,
    judge_counter,
    judge_window,
    window_days,
)
from rules.long_queue import LongQueue
from rules.long_wait import LongWait
from rules.low_rating import LowRating
from rules.model import FOLLOW_UP_STEPS, QUEUE_EVENTS, QUEUE_SOURCES
from rules.not_invited import NotInvited
from rules.queue_jumped import QueueJumped
from rules.staff_pressed import StaffPressed
from rules.turned_away import TurnedAway
from rules.unmatched_display import UnmatchedDisplay
from tests.rules.counter_facts import MIDNIGHT, W1, W2, Facts, at, up

WINDOW_RULES = (LowRating(), UnmatchedDisplay(seconds=1))
COUNTER_RULES = (
    NotInvited(percent=0, services=1),
    StaffPressed(presses=1, percent=0, odd=1, burst=2),
    BrokenScale(),
    LongWait(minutes=0, yellow_minutes=1),
    LongQueue(waiting=0),
    AbandonedTickets(percent=0, tickets=1),
    TurnedAway(),
    QueueJumped(seconds=0),
)
"""So eager that a short day sets them off."""

TICKETS = ("A001", "A002", "A003", "B001", "001", "")
MOMENTS = tuple(
    f"{hour:02}:{minute:02}:{second:02}"
    for hour, minute in ((8, 0), (9, 0), (9, 1), (9, 5), (9, 14), (10, 30), (18, 5))
    for second in (0, 1, 4, 30)
)
moments = st.sampled_from(MOMENTS)

events = st.tuples(
    moments,
    st.sampled_from((*QUEUE_EVENTS, "called", "called", "finished", "finished", "ticket_taken")),
    st.sampled_from(TICKETS),
    st.sampled_from(("w1", "w1", "w2", "")),
    st.sampled_from(QUEUE_SOURCES),
    st.sampled_from((None, 0, 3, 999)),
)
ratings = st.tuples(
    moments,
    st.sampled_from((None, 1, 2, 3, 4, 5)),
    st.sampled_from(("w1", "w2")),
    st.sampled_from(("five", "three")),
    st.sampled_from(("", "A001", "s0")),
    st.booleans(),
)
prompts = st.tuples(moments, st.sampled_from(TICKETS), st.sampled_from(("w1", "w2")))
shows = st.tuples(moments, st.sampled_from(("A001", "001", "", "暂停服务")), st.booleans())
steps = st.tuples(moments, st.integers(0, 3), st.sampled_from(FOLLOW_UP_STEPS))


@st.composite
def days(draw: st.DrawFn) -> CounterDay:
    facts = Facts(W1, W2)
    for when, event, ticket, window, source, waiting in draw(st.lists(events, max_size=30)):
        facts.event(when, event, ticket, window, source=source, waiting=waiting)
    for number, one in enumerate(draw(st.lists(ratings, max_size=8))):
        when, level, window, scale, ref, named = one
        facts.rating(
            when, level, name=f"r{number}", window=window, scale_id=scale, service_ref=ref,
            session="s09:00:00" if ref == "s0" else "", named=named, person="1001",
        )  # fmt: skip
    for when, ticket, window in draw(st.lists(prompts, max_size=5)):
        facts.prompt(when, ticket, window)
    for when, text, baseline in draw(st.lists(shows, max_size=5)):
        facts.show(when, text, baseline=baseline)
    if facts.ratings:
        for when, index, step in draw(st.lists(steps, max_size=6)):
            facts.step(when, facts.ratings[index % len(facts.ratings)], step, by="9001")
    pad = up("pad-1", "pad", ("08:00", "18:00"))
    as_of = draw(st.sampled_from(("18:10", "24:00")))
    return facts.hall(as_of=as_of, device_up=(pad,) if draw(st.booleans()) else ())


def everything(day: CounterDay) -> tuple[Any, list[CounterOutcome]]:
    shares = window_days(day)
    records = {name: follow_window(share) for name, share in shares.items()}
    record = follow_counter(day, records)
    outcomes = [judge_window(shares[name], records[name], WINDOW_RULES) for name in shares]
    return record, [*outcomes, judge_counter(day, record, COUNTER_RULES)]


def again(draw: Callable[..., Any], facts: Sequence[Any]) -> tuple[Any, ...]:
    """The same facts, some of them more than once, in any order."""
    doubled = draw(st.lists(st.sampled_from(facts), max_size=5)) if facts else []
    return tuple(draw(st.permutations([*facts, *doubled])))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_order_repetition_and_delay_change_nothing(data: st.DataObject) -> None:
    day = data.draw(days())
    late = data.draw(st.sampled_from((0, 1000, 5 * 60_000)))
    moved = structs.replace(
        day,
        events=tuple(
            structs.replace(one, received_at=min(one.at + late, day.as_of))
            for one in again(data.draw, day.events)
        ),
        ratings=again(data.draw, day.ratings),
        prompts=again(data.draw, day.prompts),
        shown=again(data.draw, day.shown),
        steps=again(data.draw, day.steps),
    )

    assert everything(day) == everything(moved)


@settings(max_examples=80, deadline=None)
@given(days())
def test_what_is_concluded_adds_up(day: CounterDay) -> None:
    record, outcomes = everything(day)

    for window in record.windows:
        figures = window.figures
        assert 0 <= figures.rated.n <= figures.rated.of == figures.finished
        assert figures.rated.n == sum(one.satisfied.of for one in figures.scales)
        assert figures.rated.n == sum(one.counted for one in window.ratings)
        assert figures.prompted.n <= figures.prompted.of
        for scale in figures.scales:
            mine = [one.level for one in window.ratings
                    if one.counted and one.scale_id == scale.scale_id]  # fmt: skip
            assert sorted(mine) == [
                level for level, count in enumerate(scale.levels, 1) for _ in range(count)
            ]
            assert scale.satisfied.n + scale.bad.n == scale.bad.of == len(mine)
        given_here = [one for one in day.ratings if one.body.window == window.window.id]
        assert len(window.ratings) == len({one.reading_id for one in given_here})
        assert [at for at, _ in window.states] == sorted(at for at, _ in window.states)
        assert all(one[1] != other[1] for one, other in pairwise(window.states))
        assert window.state == (window.states[-1][1] if window.states else "unknown")
        for service in window.services:
            assert (service.finished_at is not None) == (service.ended == "finished")
            assert (service.ended == "open") == (service.ended_at is None)
            assert (service.waited or 0) >= 0
            assert (service.served or 0) >= 0
        open_services = [one for one in window.services if one.ended == "open"]
        assert len(open_services) <= 1
    for area in record.areas:
        assert all(waiting is None or waiting >= 0 for _, waiting, _ in area.line)
        assert all(windows >= 0 for _, _, windows in area.line)
    alerts = [alert for outcome in outcomes for alert in outcome.alerts]
    assert len({alert.id for alert in alerts}) == len(alerts)
    for outcome in outcomes:
        assert outcome.ask_again is None or outcome.ask_again > day.as_of
    for alert in alerts:
        assert alert.opened_at <= day.as_of
        assert (alert.ends_at is None) == (alert.state == "open")
        assert alert.title
        assert alert.detail.endswith(".")
        assert "1001" not in alert.title + alert.detail


@settings(max_examples=40, deadline=None)
@given(days(), st.sampled_from(("09:00:02", "09:10", "10:30")))
def test_between_two_moments_nothing_changes_unless_it_was_said(
    day: CounterDay, moment: str
) -> None:
    """With the same facts, an answer holds until the moment it named itself."""
    early = structs.replace(
        day,
        as_of=at(moment),
        events=tuple(one for one in day.events if one.at <= at(moment)),
        ratings=tuple(one for one in day.ratings if one.at <= at(moment)),
        prompts=tuple(one for one in day.prompts if one.at <= at(moment)),
        shown=tuple(one for one in day.shown if one.at <= at(moment)),
        steps=tuple(one for one in day.steps if one.at <= at(moment)),
    )
    _, outcomes = everything(early)
    asks = [one.ask_again for one in outcomes if one.ask_again is not None]
    until = min([*asks, MIDNIGHT + 20 * 3_600_000]) - 1
    if until <= early.as_of:
        return
    _, later = everything(structs.replace(early, as_of=until))

    assert [one.alerts for one in later] == [one.alerts for one in outcomes]


def test_no_data_no_alert() -> None:
    for as_of in ("07:00", "12:00", "18:00", "24:00"):
        record, outcomes = everything(Facts(W1, W2).hall(as_of))

        assert [alert for one in outcomes for alert in one.alerts] == []
        assert all(window.state == "unknown" for window in record.windows)


def test_a_hall_without_windows_is_judged_too() -> None:
    facts = Facts()
    facts.taken("08:40", "A001")
    day = structs.replace(facts.hall(), windows=())

    assert judge_counter(day, follow_counter(day), COUNTER_RULES).alerts == ()


def test_the_same_reading_told_twice_keeps_its_first_receipt() -> None:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05")
    first = facts.rating("09:06", 1)
    facts.ratings.append(structs.replace(first, received_at=at("12:00")))
    (rating,) = facts.follow().ratings

    assert rating.received_at == at("09:06")


def test_two_prompts_of_one_session_are_taken_in_their_own_order() -> None:
    facts = Facts()
    facts.serve("A001", "09:00", "09:01")
    facts.serve("A002", "09:02", "09:03")
    facts.prompt("09:01", "A001", session="s1")
    facts.prompt("09:03", "A002", session="s1")
    facts.rating("09:03:10", 5, session="s1")
    day = facts.window()
    turned = structs.replace(day, prompts=day.prompts[::-1])

    assert follow_window(day) == follow_window(turned)
    assert follow_window(day).ratings[0].ticket == "A001"


def test_facts_are_plain_values() -> None:
    """The engine keeps them in sets and compares them."""
    event, rating = Facts().event("09:00", "called", "A1"), Facts().rating("09:00", 5)

    assert isinstance(event, SeenEvent)
    assert isinstance(rating, SeenRating)
    assert len({event, structs.replace(event)}) == 1
