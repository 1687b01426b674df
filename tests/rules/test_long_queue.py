from __future__ import annotations

import pytest

from rules.long_queue import LongQueue
from rules.model import SEVERITY
from tests.rules.counter_facts import W1, W2, Facts, at

RULE = LongQueue()


def queue(waiting: int, windows: int = 1) -> Facts:
    facts = Facts(W1, W2)
    for number in range(1, windows + 1):
        facts.event("08:30", "called", f"A{900 + number}", f"w{number}")
    facts.taken("09:00", *[f"A{number:03}" for number in range(1, waiting + 1)])
    return facts


@pytest.mark.parametrize(
    ("waiting", "windows", "count"), [(10, 1, 0), (11, 1, 1), (20, 2, 0), (21, 2, 1)]
)
def test_more_than_ten_for_each_open_window(waiting: int, windows: int, count: int) -> None:
    alerts = queue(waiting, windows).judge(RULE, "09:01").alerts

    assert len(alerts) == count
    for one in alerts:
        assert one.title == "排队过长：综合区域 每个开放窗口等候超过 10 人"
        assert (one.severity, one.opened_at, one.state) == (SEVERITY["notice"], at("09:00"), "open")


def test_a_window_that_pauses_is_not_open() -> None:
    facts = queue(15, 2)
    assert facts.judge(RULE, "09:30").alerts == ()

    facts.event("09:10", "window_paused", window="w2")
    (alert,) = facts.judge(RULE, "09:30").alerts
    assert alert.opened_at == at("09:10")


def test_an_area_without_an_open_window_is_not_judged() -> None:
    facts = queue(15)
    facts.event("08:59", "window_closed")

    assert facts.judge(RULE, "09:30").alerts == ()


def test_it_ends_when_it_has_been_shorter_for_five_minutes() -> None:
    facts = queue(11)
    facts.event("09:10", "called", "A001")
    shorter = facts.judge(RULE, "09:14:59")
    settled = facts.judge(RULE, "09:15")

    assert (shorter.alerts[0].state, shorter.ask_again) == ("open", at("09:15"))
    assert (settled.alerts[0].state, settled.alerts[0].ends_at) == ("resolved", at("09:10"))


def test_what_the_queue_system_says_of_people_waiting_wins_over_counting() -> None:
    facts = queue(15)
    facts.event("09:05", "called", "A001", waiting=3)
    told = facts.judge(RULE, "09:30").alerts
    facts.event("09:20", "called", "A002", waiting=12)
    again = facts.judge(RULE, "09:30").alerts

    assert [(one.state, one.ends_at) for one in told] == [("resolved", at("09:05"))]
    assert [one.opened_at for one in again] == [at("09:00"), at("09:20")]


def test_unknown_is_not_nought_and_not_many() -> None:
    facts = Facts()
    facts.serve("A001", "09:00")
    facts.serve("A002", "09:10")

    assert facts.judge(RULE).alerts == ()


def test_tickets_given_up_wait_no_more() -> None:
    facts = queue(12)
    facts.event("09:01", "abandoned", "A011", "")
    facts.event("09:01", "abandoned", "A012", "")
    (alert,) = facts.judge(RULE, "09:30").alerts

    assert (alert.state, alert.ends_at) == ("resolved", at("09:01"))
