from __future__ import annotations

import pytest

from rules.model import SEVERITY
from rules.unmatched_display import UnmatchedDisplay
from tests.rules.counter_facts import Facts, at, up

RULE = UnmatchedDisplay()


@pytest.fixture
def facts() -> Facts:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05")
    facts.event("09:30", "called", "A777", source="display")
    return facts


def test_a_ticket_never_called_is_told_after_thirty_seconds(facts: Facts) -> None:
    before, after = facts.judge_window(RULE, "09:30:29.9"), facts.judge_window(RULE, "09:30:30")

    assert (before.alerts, before.ask_again) == ((), at("09:30:30"))
    (alert,) = after.alerts
    assert alert.title == "显示与叫号不符：1号窗口 显示 A777，叫号系统未叫该号"
    assert (alert.severity, alert.opened_at, alert.state) == (
        SEVERITY["notice"],
        at("09:30:30"),
        "open",
    )


def test_it_is_resolved_when_the_display_shows_something_else(facts: Facts) -> None:
    facts.show("09:40", "")
    (alert,) = facts.judge_window(RULE).alerts

    assert (alert.state, alert.ends_at) == ("resolved", at("09:40"))


def test_shown_for_less_than_thirty_seconds_is_nothing(facts: Facts) -> None:
    facts.show("09:30:20", "")

    assert facts.judge_window(RULE).alerts == ()


@pytest.mark.parametrize(("called", "count"), [("09:30:30", 0), ("09:30:31", 1), ("09:29", 0)])
def test_the_queue_system_may_tell_of_the_call_a_little_later(
    facts: Facts, called: str, count: int
) -> None:
    facts.event(called, "called", "A777")
    alerts = facts.judge_window(RULE).alerts

    assert len(alerts) == count
    for one in alerts:
        assert (one.state, one.ends_at) == ("resolved", at("09:30:31"))


def test_small_displays_show_the_last_digits_of_a_called_ticket() -> None:
    facts = Facts()
    facts.serve("A037", "09:00")
    facts.event("09:00:20", "called", "037", source="display")

    assert facts.judge_window(RULE).alerts == ()


def test_another_windows_call_does_not_explain_it(facts: Facts) -> None:
    facts.event("09:29", "called", "A777", "w2")

    assert len(facts.judge_window(RULE).alerts) == 1


def test_where_the_queue_system_tells_no_calls_there_is_nothing_to_compare() -> None:
    facts = Facts()
    facts.serve("A777", "09:30", source="display")

    assert facts.judge_window(RULE).alerts == ()


def test_while_the_queue_systems_link_is_down_nothing_is_compared(facts: Facts) -> None:
    link = up("qms", "queue", ("08:00", "09:20"), window="")

    assert facts.judge_window(RULE, device_up=(link,)).alerts == ()


def test_each_showing_is_told_once(facts: Facts) -> None:
    facts.show("09:30", "A777")
    facts.show("09:35", "A777", baseline=False)
    facts.event("09:45", "called", "A888", source="display")

    assert [one.state for one in facts.judge_window(RULE).alerts] == ["resolved", "open"]


def test_a_first_look_after_a_reconnection_is_not_compared(facts: Facts) -> None:
    facts.show("09:40", "A999", baseline=True)
    (alert,) = facts.judge_window(RULE).alerts

    assert (alert.state, alert.ends_at) == ("resolved", at("09:40"))
