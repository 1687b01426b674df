from __future__ import annotations

import pytest

from rules.counter import Window
from rules.model import SEVERITY
from rules.turned_away import TurnedAway
from tests.rules.counter_facts import W1, W2, Facts, at

RULE = TurnedAway()


@pytest.fixture
def facts() -> Facts:
    facts = Facts(W1, W2)
    facts.taken("17:00", "A001")
    facts.serve("A001", "17:10", "17:20")
    return facts


def close(facts: Facts, when: str, window: str = "w1") -> None:
    facts.event(when, "window_closed", window=window)


def test_a_ticket_still_waiting_when_the_last_window_closes(facts: Facts) -> None:
    facts.taken("17:30", "A002", "A003")
    close(facts, "18:02")
    (alert,) = facts.judge(RULE, "18:30").alerts

    assert alert.title == "未办即闭窗：综合区域 18:02 闭窗时仍有 2 个已取号未叫号"
    assert (alert.severity, alert.subject, alert.state) == (SEVERITY["yellow"], "综合", "open")
    assert alert.opened_at == at("18:02")
    assert len(alert.evidence) == 2


def test_it_expires_at_midnight(facts: Facts) -> None:
    facts.taken("17:30", "A002")
    close(facts, "18:02")
    before, over = facts.judge(RULE, "23:59"), facts.judge(RULE, "24:00")

    assert before.ask_again == at("24:00")
    assert (over.alerts[0].state, over.alerts[0].ends_at) == ("expired", at("24:00"))


def test_a_ticket_taken_at_closing_time_or_after_was_too_late(facts: Facts) -> None:
    facts.taken("18:00", "A002")
    close(facts, "18:02")

    assert facts.judge(RULE, "18:30").alerts == ()


def test_windows_that_close_early_turn_away_too(facts: Facts) -> None:
    facts.taken("17:30", "A002")
    close(facts, "17:40")
    before = facts.judge(RULE, "17:41")

    assert (before.alerts, before.ask_again) == ((), at("18:00"))
    assert facts.judge(RULE, "18:00").alerts[0].opened_at == at("17:40")


def test_nobody_is_turned_away_while_another_window_of_the_area_is_open(facts: Facts) -> None:
    facts.serve("A900", "17:00", "17:01", "w2")
    facts.taken("17:30", "A002")
    close(facts, "18:02")
    assert facts.judge(RULE, "18:30").alerts == ()

    close(facts, "18:05", "w2")
    assert facts.judge(RULE, "18:30").alerts[0].opened_at == at("18:05")


def test_another_areas_tickets_are_its_own() -> None:
    facts = Facts(W1, Window("w2", "2号窗口", "", "税务"))
    facts.taken("17:00", "A001", "B001")
    facts.serve("A001", "17:10", "17:20")
    facts.serve("B001", "17:10", "17:20", "w2")
    facts.taken("17:30", "B002")
    close(facts, "18:02")

    assert facts.judge(RULE, "18:30").alerts == ()


def test_a_ticket_called_afterwards_was_not_turned_away(facts: Facts) -> None:
    facts.taken("17:30", "A002")
    close(facts, "18:02")
    facts.event("18:03", "window_opened")
    facts.serve("A002", "18:04", "18:10")
    close(facts, "18:11")

    assert facts.judge(RULE, "18:30").alerts == ()


def test_a_batch_is_one_alert_not_one_for_each_ticket(facts: Facts) -> None:
    facts.taken("17:30", *[f"A{number:03}" for number in range(2, 42)])
    facts.event("18:00", "batch_abandoned", "", "")
    (alert,) = facts.judge(RULE, "18:30").alerts

    assert "仍有 40 个" in alert.title
    assert alert.opened_at == at("18:00")


def test_a_batch_with_nobody_waiting_is_nothing(facts: Facts) -> None:
    facts.event("18:00", "batch_abandoned", "", "")

    assert facts.judge(RULE, "18:30").alerts == ()


def test_a_ticket_called_in_vain_was_not_turned_away(facts: Facts) -> None:
    facts.taken("17:30", "A002")
    facts.serve("A002", "17:40")
    facts.event("18:00", "batch_abandoned", "", "")

    assert facts.judge(RULE, "18:30").alerts == ()


def test_where_no_closing_is_told_or_no_hours_are_known_nothing_is_judged(facts: Facts) -> None:
    facts.taken("17:30", "A002")
    assert facts.judge(RULE, "23:00").alerts == ()

    close(facts, "18:02")
    assert facts.judge(RULE, "23:00", closes=None).alerts == ()


def test_windows_that_close_for_lunch_turn_nobody_away() -> None:
    facts = Facts(W1, W2)
    facts.serve("A001", "09:00", "09:05")
    facts.taken("11:50", "A002")
    close(facts, "12:00")

    assert facts.judge(RULE, "12:30").alerts == ()

    facts.event("14:30", "window_opened")
    facts.serve("A002", "14:31", "14:40")
    close(facts, "18:01")
    assert facts.judge(RULE, "18:30").alerts == ()


def test_who_waited_while_the_numbers_began_again_and_was_called_is_no_ghost(facts: Facts) -> None:
    facts.taken("17:22", "A037")
    facts.taken("17:30", "A001")
    facts.serve("A037", "17:32", "17:35")
    facts.serve("A001", "17:36", "17:38")
    close(facts, "18:02")

    assert facts.judge(RULE, "18:30").alerts == ()
