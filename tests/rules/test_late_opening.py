from __future__ import annotations

import pytest

from rules.late_opening import LateOpening
from rules.model import SEVERITY
from tests.rules.counter_facts import at
from tests.rules.posts import PostFacts

RULE = LateOpening()


@pytest.fixture
def facts() -> PostFacts:
    facts = PostFacts()
    facts.sensors = []
    return facts


@pytest.mark.parametrize(("ready", "late"), [("08:35", False), ("08:35:00.001", True)])
def test_more_than_five_minutes_after_the_start_is_late(
    facts: PostFacts, ready: str, late: bool
) -> None:
    facts.waits("08:20")
    facts.event(ready, "window_login", person="1001")

    assert bool(facts.judge_post(RULE, "09:00").alerts) == late


def test_until_somebody_is_ready_it_is_open(facts: PostFacts) -> None:
    facts.waits("08:20")
    before, during = facts.judge_post(RULE, "08:35"), facts.judge_post(RULE, "08:36")
    assert (before.alerts, before.ask_again) == ((), at("08:35") + 1)
    (alert,) = during.alerts
    assert (alert.state, alert.severity, alert.code) == ("open", SEVERITY["notice"], "PRE-07")
    assert (alert.subject_kind, alert.subject, alert.unit) == ("window", "w1", "tax")
    assert alert.opened_at == at("08:35")
    assert alert.title == "晚开窗：1号窗口 应于 08:30 开窗，超过 5 分钟仍未开窗，有群众等候"

    facts.event("08:47", "called", "A001")
    (resolved,) = facts.judge_post(RULE, "09:00").alerts
    assert (resolved.id, resolved.state, resolved.ends_at) == (alert.id, "resolved", at("08:47"))
    assert "08:47 才开窗" in resolved.title
    assert resolved.detail == (
        "Window w1 showed nobody ready before 08:47, due 08:30, and visitors waited."
    )


def test_a_camera_that_sees_somebody_shows_that_the_window_is_ready(facts: PostFacts) -> None:
    facts.waits("08:20")
    facts.sensors = PostFacts().sensors
    facts.saw("08:00 empty, 08:33 occupied")

    assert facts.judge_post(RULE, "09:00").alerts == ()


def test_it_begins_when_somebody_waits(facts: PostFacts) -> None:
    facts.waits("08:10-08:20", "08:50")
    (alert,) = facts.judge_post(RULE, "09:00").alerts

    assert alert.opened_at == at("08:50")


def test_nobody_waiting_and_nothing_known_of_it_are_nothing(facts: PostFacts) -> None:
    assert facts.judge_post(RULE, "09:00").alerts == ()

    facts.waits("08:10-08:34")
    assert facts.judge_post(RULE, "09:00").alerts == ()


def test_a_window_that_never_opened_expires_with_the_segment(facts: PostFacts) -> None:
    facts.waits("08:20")
    (alert,) = facts.judge_post(RULE, "12:00").alerts

    assert (alert.state, alert.ends_at) == ("expired", at("12:00"))
    assert "整个班段未开窗" in alert.title


def test_only_windows_that_are_to_be_staffed_and_only_in_working_time(facts: PostFacts) -> None:
    facts.waits("08:20")

    assert facts.judge_post(RULE, "09:00", required=False).alerts == ()
    assert facts.judge_post(RULE, "09:00", hours=()).alerts == ()
