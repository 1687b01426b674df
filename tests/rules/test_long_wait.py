from __future__ import annotations

import pytest

from rules.counter import Window, follow_counter, wait_mean
from rules.long_wait import LongWait
from rules.model import MINUTE, SEVERITY
from tests.rules.counter_facts import W1, Facts, at

RULE = LongWait()


def waits(*told: tuple[str, str], facts: Facts | None = None, window: str = "w1") -> Facts:
    """Tickets as (taken, called)."""
    facts = facts or Facts()
    for number, (taken, called) in enumerate(told):
        ticket = f"{window[1]}A{number:03}"
        facts.taken(taken, ticket)
        facts.event(called, "called", ticket, window)
    return facts


@pytest.mark.parametrize(
    ("called", "severity"),
    [
        ("09:15", None),
        ("09:15:01", "notice"),
        ("09:30", "notice"),
        ("09:30:01", "yellow"),
    ],
)
def test_a_mean_over_fifteen_minutes_is_a_notice_and_over_thirty_yellow(
    called: str, severity: str | None
) -> None:
    alerts = waits(("09:00", called)).judge(RULE, "09:31").alerts

    assert [one.severity for one in alerts] == ([SEVERITY[severity]] if severity else [])
    for one in alerts:
        limit = 30 if severity == "yellow" else 15
        assert one.title == f"等候过长：综合区域 30 分钟内平均等候超过 {limit} 分钟"
        assert (one.subject_kind, one.subject) == ("area", "综合")
        assert one.opened_at == at(called)


def test_the_mean_of_the_area_counts_not_the_longest_wait() -> None:
    short = [("09:10", f"09:{minute}:30") for minute in range(11, 15)]

    assert (
        waits(("09:00", "09:40"), *[("09:39", f"09:39:{s}") for s in (10, 20, 30, 40)])
        .judge(RULE, "09:41")
        .alerts
        == ()
    )
    assert len(waits(*short, ("09:00", "09:20")).judge(RULE, "09:21").alerts) == 0


def test_a_wait_leaves_the_mean_after_thirty_minutes_and_five_more_settle_it() -> None:
    facts = waits(("09:00", "09:20"))
    running = facts.judge(RULE, "09:49:59")
    gone = facts.judge(RULE, "09:50")
    settled = facts.judge(RULE, "09:55")

    assert (running.alerts[0].state, running.ask_again) == ("open", at("09:50"))
    assert (gone.alerts[0].state, gone.ask_again) == ("open", at("09:55"))
    assert (settled.alerts[0].state, settled.alerts[0].ends_at) == ("resolved", at("09:50"))


def test_a_mean_that_swings_round_the_limit_is_one_alert() -> None:
    facts = waits(
        ("09:00", "09:16"), ("09:10", "09:17"), ("09:00", "09:20"), ("08:55", "09:21"),
    )  # fmt: skip
    means = [
        mean for _, mean in wait_mean(follow_counter(facts.hall("09:30")), "综合", 30 * MINUTE)
    ]

    assert [round(mean or 0, 1) for mean in means[:4]] == [16.0, 11.5, 14.3, 17.2]
    assert len(facts.judge(RULE, "09:30").alerts) == 1


def test_areas_are_judged_apart() -> None:
    other = Window("w2", "2号窗口", "civil", "税务")
    facts = Facts(W1, other)
    waits(("09:00", "09:20"), facts=facts)
    waits(("09:00", "09:05"), facts=facts, window="w2")
    (alert,) = facts.judge(RULE, "09:21").alerts

    assert alert.subject == "综合"


def test_windows_without_an_area_are_the_hall() -> None:
    facts = Facts(Window("w1", "1号窗口"))
    (alert,) = waits(("09:00", "09:20"), facts=facts).judge(RULE, "09:21").alerts

    assert (alert.subject_kind, alert.subject) == ("hall", "h1")
    assert "大厅" in alert.title


def test_a_call_without_its_taking_tells_no_wait() -> None:
    facts = Facts()
    facts.serve("A001", "17:00")

    assert facts.judge(RULE).alerts == ()


def test_what_is_learnt_later_withdraws_the_alert() -> None:
    facts = waits(("09:00", "09:20"))
    assert len(facts.judge(RULE, "12:00").alerts) == 1

    facts.event("09:02", "called", "1A000", received="11:59")
    assert facts.judge(RULE, "12:00").alerts == ()
