from __future__ import annotations

import pytest

from rules.model import SEVERITY
from rules.uncovered_post import UncoveredPost
from tests.rules.counter_facts import at
from tests.rules.posts import PostFacts, duty

RULE = UncoveredPost()
NOTICE, YELLOW, RED = (SEVERITY[name] for name in ("notice", "yellow", "red"))


@pytest.fixture
def facts() -> PostFacts:
    facts = PostFacts()
    facts.saw("08:00 empty")
    return facts


@pytest.mark.parametrize(
    ("as_of", "alone", "confirmed"),
    [
        ("08:34:59.999", 0, 0),
        ("08:35", NOTICE, NOTICE),
        ("08:44:59.999", NOTICE, NOTICE),
        ("08:45", NOTICE, YELLOW),
        ("08:59:59.999", NOTICE, YELLOW),
        ("09:00", YELLOW, RED),
    ],
)
def test_it_rises_and_what_only_a_camera_says_is_one_step_lower(
    facts: PostFacts, as_of: str, alone: int, confirmed: int
) -> None:
    assert [one.severity for one in facts.judge_post(RULE, as_of).alerts] == [alone][: bool(alone)]

    facts.event("08:29", "window_logout", person="1001")
    found = facts.judge_post(RULE, as_of).alerts
    assert [one.severity for one in found] == [confirmed][: bool(confirmed)]


def test_it_is_about_the_post_and_names_nobody(facts: PostFacts) -> None:
    facts.saw("09:02 occupied")
    outcome = facts.judge_post(RULE, "10:00")
    (alert,) = outcome.alerts

    assert outcome.violations == ()
    assert (alert.id, alert.code) == (facts.post("10:00").vacancies[0].id, "PRE-04")
    assert (alert.subject_kind, alert.subject, alert.unit) == ("window", "w1", "tax")
    assert (alert.opened_at, alert.ends_at, alert.state) == (at("08:35"), at("09:02"), "resolved")
    assert alert.title == (
        "空岗 32 分钟：1号窗口，08:30–09:02，当班人员未到（待确认：仅摄像头发现）"
    )
    assert alert.detail == (
        "The post of window w1 was not staffed for 32 min, from 08:30 to 09:02:"
        " those on duty have not come; the camera alone says so."
    )


def test_it_says_that_an_absence_was_approved_without_a_substitute(facts: PostFacts) -> None:
    facts.duties = []
    (alert,) = facts.judge_post(
        RULE, "09:00", assigned=("1001",), absent=(duty("1001", "08:30", "12:00"),)
    ).alerts

    assert "已批准请假或外出，未安排顶岗" in alert.title
    assert "approved without a substitute" in alert.detail


@pytest.mark.parametrize(
    ("assigned", "words"), [((), "未安排人员"), (("1001",), "无人当班")]
)  # fmt: skip
def test_it_says_that_nobody_is_assigned_or_on_duty(
    facts: PostFacts, assigned: tuple[str, ...], words: str
) -> None:
    facts.duties = []

    assert words in facts.judge_post(RULE, "09:00", assigned=assigned).alerts[0].title


def test_an_hours_leave_without_a_substitute_is_the_posts(facts: PostFacts) -> None:
    facts.saw("08:20 occupied, 09:30 empty, 10:00 occupied")
    facts.duties = [duty("1001", "08:30", "09:30"), duty("1001", "10:00", "12:00")]
    (alert,) = facts.judge_post(RULE, "11:00").alerts

    assert (alert.opened_at, alert.ends_at) == (at("09:35"), at("10:00"))


def test_with_a_substitute_there_it_is_covered(facts: PostFacts) -> None:
    facts.duties = [duty("2002", "08:30", "12:00", "civil", stands_in=True)]
    facts.saw("08:32 occupied")

    assert facts.judge_post(RULE, "11:00").alerts == ()


def test_who_left_is_another_rules(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty")

    assert facts.judge_post(RULE, "11:00").alerts == ()


def test_a_post_that_need_not_be_staffed_is_nothing(facts: PostFacts) -> None:
    assert facts.judge_post(RULE, "11:00", required=False).alerts == ()


def test_on_a_day_without_working_time_nothing_is_required(facts: PostFacts) -> None:
    facts.hours = ()

    assert facts.judge_post(RULE, "11:00").alerts == ()


def test_what_a_person_dismissed_was_nothing(facts: PostFacts) -> None:
    facts.review("09:30", facts.post("09:00").vacancies[0].id, "dismissed")

    assert facts.judge_post(RULE, "10:00").alerts == ()


def test_waiting_visitors_raise_it_by_one_step(facts: PostFacts) -> None:
    facts.waits("08:31-08:32")

    assert [facts.judge_post(RULE, one).alerts[0].severity for one in ("08:35", "09:00")] == [
        NOTICE, RED,
    ]  # fmt: skip
    assert "有群众等候" in facts.judge_post(RULE, "08:35").alerts[0].title


def test_it_asks_to_be_called_at_each_threshold(facts: PostFacts) -> None:
    asks = [facts.judge_post(RULE, one).ask_again for one in ("08:31", "08:36", "08:46")]

    assert asks == [at("08:35"), at("08:45"), at("09:00")]
