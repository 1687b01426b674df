from __future__ import annotations

import pytest

from rules.long_pause import LongPause
from rules.model import SEVERITY
from tests.rules.counter_facts import at
from tests.rules.posts import PostFacts

RULE = LongPause()
NOTICE, YELLOW = SEVERITY["notice"], SEVERITY["yellow"]


@pytest.fixture
def facts() -> PostFacts:
    facts = PostFacts()
    facts.sensors = []
    facts.waits("08:40")
    facts.event("09:00", "window_paused")
    return facts


@pytest.mark.parametrize(
    ("resumed", "severity"),
    [("09:10", 0), ("09:10:00.001", NOTICE), ("09:20", NOTICE), ("09:20:00.001", YELLOW)],
)
def test_more_than_ten_and_more_than_twenty_minutes(
    facts: PostFacts, resumed: str, severity: int
) -> None:
    facts.event(resumed, "window_resumed")
    found = facts.judge_post(RULE, "10:00").alerts

    assert [one.severity for one in found] == [severity][: bool(severity)]


def test_while_it_lasts_it_says_the_threshold(facts: PostFacts) -> None:
    outcome = facts.judge_post(RULE, "09:15")
    (alert,) = outcome.alerts
    assert alert == facts.judge_post(RULE, "09:19").alerts[0]
    assert (alert.state, alert.code, alert.opened_at) == ("open", "PRE-08", at("09:10"))
    assert (alert.subject_kind, alert.subject, alert.unit) == ("window", "w1", "tax")
    assert alert.title == "暂停服务过久：1号窗口 有群众等候，09:00 起，超过 10 分钟"

    facts.event("09:25", "window_resumed")
    (over,) = facts.judge_post(RULE, "10:00").alerts
    assert (over.id, over.state, over.ends_at) == (alert.id, "resolved", at("09:25"))
    assert over.title.endswith("09:00–09:25，共 25 分钟")


def test_only_the_time_in_which_somebody_waited_counts(facts: PostFacts) -> None:
    facts.event("09:08", "abandoned", "A08:40", "", queue="A", waiting=0)
    facts.waits("09:09")

    assert facts.judge_post(RULE, "09:19").alerts == ()
    (alert,) = facts.judge_post(RULE, "09:19:00.001").alerts
    assert alert.opened_at == at("09:19")


def test_it_is_over_when_nobody_waits_any_more(facts: PostFacts) -> None:
    facts.event("09:15", "abandoned", "A08:40", "", queue="A", waiting=0)
    (alert,) = facts.judge_post(RULE, "09:30").alerts

    assert (alert.state, alert.ends_at, alert.severity) == ("resolved", at("09:15"), NOTICE)


def test_outside_working_time_a_pause_is_nothing(facts: PostFacts) -> None:
    facts.event("09:01", "window_resumed")
    facts.event("11:50", "window_paused")

    assert facts.judge_post(RULE, "14:30").alerts == ()
    assert len(facts.judge_post(RULE, "14:41").alerts) == 1


def test_where_nobody_told_who_waits_nothing_is_judged() -> None:
    facts = PostFacts()
    facts.event("09:00", "window_paused")

    assert facts.judge_post(RULE, "11:00").alerts == ()


def test_it_asks_to_be_called_when_a_threshold_passes(facts: PostFacts) -> None:
    asks = [facts.judge_post(RULE, one).ask_again for one in ("09:01", "09:10", "09:15", "09:20")]

    assert asks == [at("09:10") + 1, at("09:10") + 1, at("09:20") + 1, at("09:20") + 1]


def test_it_asks_to_be_called_although_nobody_waits_yet() -> None:
    facts = PostFacts()
    facts.event("09:00", "window_paused")

    assert facts.judge_post(RULE, "09:05").ask_again == at("09:10") + 1
