from __future__ import annotations

from typing import Any

import pytest

from rules.model import SEVERITY, Alert
from rules.queue_jumped import QueueJumped
from tests.rules.counter_facts import W1, W2, Facts, at

RULE = QueueJumped()


def jumps(facts: Facts, as_of: str = "17:00") -> list[Alert]:
    return [one for one in facts.judge(RULE, as_of).alerts if one.code == "QUE-05"]


def resets(facts: Facts) -> list[Alert]:
    return [one for one in facts.judge(RULE).alerts if one.code == "queue_reset"]


def two(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> Facts:
    """A001 is taken first and called last, by another window."""
    facts = Facts(W1, W2)
    facts.taken("09:00", "A001", **(first or {}))
    facts.taken("09:05", "A002", **(second or {}))
    facts.event("09:10", "called", "A002")
    facts.event("09:20", "called", "A001", "w2")
    return facts


def test_the_window_that_called_out_of_turn_is_told() -> None:
    (alert,) = jumps(two())

    assert alert.title == "插号：1号窗口 先叫 A002，后叫更早取号的 A001，当日 1 次"
    assert (alert.severity, alert.subject, alert.unit) == (SEVERITY["notice"], "w1", "tax")
    assert (alert.opened_at, alert.state) == (at("09:20"), "open")


def test_in_turn_is_nothing() -> None:
    facts = Facts()
    facts.taken("09:00", "A001")
    facts.taken("09:05", "A002")
    facts.serve("A001", "09:10", "09:12")
    facts.serve("A002", "09:13", "09:15")

    assert jumps(facts) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"priority": True}),
        ({"priority": True}, {}),
        ({"queue": "1"}, {"queue": "2"}),
        ({"service_code": "tax"}, {"service_code": "car"}),
    ],
)
def test_priority_and_other_queues_and_services_have_no_common_order(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert jumps(two(first, second)) == []


def test_a_ticket_that_was_never_called_tells_nothing() -> None:
    facts = Facts()
    facts.taken("09:00", "A001")
    facts.taken("09:05", "A002")
    facts.serve("A002", "09:10", "09:12")

    assert jumps(facts) == []


@pytest.mark.parametrize("how", ["held", "transferred"])
def test_a_ticket_put_aside_has_lost_its_place(how: str) -> None:
    facts = two()
    facts.event("09:11", how, "A002")

    assert jumps(facts) == []


@pytest.mark.parametrize(
    ("taken", "called", "count"),
    [("09:00:05", "09:30", 0), ("09:00:05.1", "09:10:05.1", 1), ("09:05", "09:10:05", 0)],
)
def test_what_is_too_close_has_no_order(taken: str, called: str, count: int) -> None:
    facts = Facts(W1, W2)
    facts.taken("09:00", "A001")
    facts.taken(taken, "A002")
    facts.event("09:10", "called", "A002")
    facts.event(called, "called", "A001", "w2")

    assert len(jumps(facts)) == count


def test_a_windows_jumps_of_a_date_are_one_alert_that_expires_at_midnight() -> None:
    facts = two()
    facts.taken("10:00", "A003")
    facts.taken("10:05", "A004")
    facts.taken("10:06", "A005")
    facts.event("10:10", "called", "A004")
    facts.event("10:12", "called", "A005")
    facts.event("10:20", "called", "A003", "w2")
    (alert,) = jumps(facts, "24:00")

    assert alert.title == "插号：1号窗口 先叫 A002，后叫更早取号的 A001，当日 3 次"
    assert (alert.state, alert.ends_at) == ("expired", at("24:00"))
    assert facts.judge(RULE).ask_again == at("24:00")


def test_a_first_call_that_was_not_seen_tells_no_order() -> None:
    facts = Facts(W1, W2)
    facts.taken("09:00", "A001")
    facts.taken("09:05", "A002")
    facts.event("09:10", "called", "A002")
    facts.event("09:20", "started", "A001", "w2")

    assert jumps(facts) == []


# Numbers that begin again


def test_numbers_that_begin_again_are_told_and_compared_apart() -> None:
    facts = Facts(W1, W2)
    facts.taken("09:00", "A001")
    facts.taken("09:05", "A002")
    facts.taken("11:00", "A001")
    facts.event("11:10", "called", "A001")
    facts.event("11:20", "called", "A002", "w2")
    (alert,) = resets(facts)

    assert alert.title == "排队号码当日重新开始：队列 A，11:00"
    assert (alert.subject_kind, alert.subject) == ("hall", "h1")
    assert jumps(facts) == []


@pytest.mark.parametrize(
    ("first", "again", "count"),
    [
        (("A017", "A040"), "A001", 1),
        (("A017", "A018"), "A016", 0),
        (("A001", "A040"), "A005", 0),
        (("A001", "A040"), "A001", 1),
        (("A001", "A040"), "B001", 0),
    ],
)
def test_only_a_fall_to_the_beginning_is_a_new_beginning(
    first: tuple[str, str], again: str, count: int
) -> None:
    facts = Facts()
    facts.taken("09:00", first[0])
    facts.taken("09:30", first[1])
    facts.taken("11:00", again)

    assert len(resets(facts)) == count


def test_the_same_ticket_told_twice_or_put_back_in_the_queue_is_none() -> None:
    facts = Facts()
    facts.taken("09:00", "A001")
    facts.taken("09:00:03", "A001", source="bus")
    assert resets(facts) == []

    facts.serve("A001", "09:10")
    facts.event("09:12", "transferred", "A001")
    facts.taken("09:12:01", "A001")
    assert resets(facts) == []
