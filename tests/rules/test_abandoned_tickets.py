from __future__ import annotations

import pytest

from rules.abandoned_tickets import AbandonedTickets
from rules.model import SEVERITY
from tests.rules.counter_facts import Facts, at

RULE = AbandonedTickets()


def hour(facts: Facts, hour: int, count: int, gone: int) -> Facts:
    for number in range(count):
        ticket = f"{chr(65 + hour - 8)}{number:03}"
        facts.event(f"{hour:02}:{number:02}", "called", ticket)
        end = "abandoned" if number < gone else "finished"
        facts.event(f"{hour:02}:{number:02}:30", end, ticket)
    return facts


@pytest.mark.parametrize(
    ("count", "gone", "alerts"), [(20, 3, 0), (20, 4, 1), (19, 19, 0), (40, 6, 0), (40, 7, 1)]
)
def test_more_than_fifteen_percent_of_twenty_tickets_of_an_hour(
    count: int, gone: int, alerts: int
) -> None:
    told = hour(Facts(), 9, count, gone).judge(RULE, "10:00").alerts

    assert len(told) == alerts
    for one in told:
        assert one.title == "弃号过多：综合区域 09:00–10:00 弃号超过 15%"
        assert (one.severity, one.subject_kind) == (SEVERITY["notice"], "area")
        assert (one.opened_at, one.state) == (at("10:00"), "open")


def test_an_hour_is_judged_when_it_is_over() -> None:
    outcome = hour(Facts(), 9, 20, 20).judge(RULE, "09:59")

    assert (outcome.alerts, outcome.ask_again) == ((), at("10:00"))


def test_hours_in_a_row_are_one_alert_until_the_first_better_one_is_over() -> None:
    facts = hour(Facts(), 9, 20, 10)
    hour(facts, 10, 20, 10)
    hour(facts, 11, 20, 0)
    running, over = facts.judge(RULE, "11:59"), facts.judge(RULE, "12:00")

    (one,) = running.alerts
    assert (one.opened_at, one.state, running.ask_again) == (at("10:00"), "open", at("12:00"))
    (one,) = over.alerts
    assert (one.state, one.ends_at) == ("resolved", at("12:00"))


def test_tickets_given_up_uncalled_count_too() -> None:
    facts = hour(Facts(), 9, 20, 0)
    tickets = [f"B{number:03}" for number in range(100, 110)]
    facts.taken("09:00", *tickets)
    for ticket in tickets:
        facts.event("09:50", "abandoned", ticket, "")

    assert len(facts.judge(RULE, "10:00").alerts) == 1


def test_a_batch_is_no_alert_for_its_tickets() -> None:
    facts = hour(Facts(), 9, 20, 0)
    facts.taken("09:00", *[f"B{number:03}" for number in range(100, 130)])
    facts.event("09:55", "batch_abandoned", "", "")

    assert facts.judge(RULE, "10:00").alerts == ()


def test_tickets_that_were_called_back_and_served_were_not_abandoned() -> None:
    facts = hour(Facts(), 9, 20, 4)
    for number in range(4):
        facts.event(f"09:{40 + number}", "called_back", f"B{number:03}")
        facts.event(f"09:{40 + number}:30", "finished", f"B{number:03}")

    assert facts.judge(RULE, "10:00").alerts == ()
