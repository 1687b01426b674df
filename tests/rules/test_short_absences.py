from __future__ import annotations

import pytest

from rules.model import SEVERITY
from rules.short_absences import ShortAbsences
from tests.rules.counter_facts import at
from tests.rules.posts import APPEAL_ENDS, LOCKS_AT, PostFacts, duty

RULE = ShortAbsences()
SIX = tuple(f"09:{10 * number:02}-09:{10 * number + 5:02}" for number in range(6))


@pytest.fixture
def facts() -> PostFacts:
    return PostFacts()


def confirm(facts: PostFacts, count: int) -> None:
    for number, one in enumerate(facts.post("11:50").vacancies[:count]):
        facts.review(f"11:50:{number:02}", one.id, "confirmed")


@pytest.mark.parametrize(("count", "told"), [(5, 0), (6, 1)])
def test_six_in_a_segment_are_told(facts: PostFacts, count: int, told: int) -> None:
    facts.away(*SIX[:count])
    outcome = facts.judge_post(RULE, "11:00")

    assert len(outcome.alerts) == told
    assert outcome.violations == ()


def test_what_it_says(facts: PostFacts) -> None:
    facts.away(*SIX)
    (alert,) = facts.judge_post(RULE, "11:00").alerts

    assert (alert.code, alert.severity, alert.state) == ("PRE-09", SEVERITY["yellow"], "open")
    assert (alert.subject_kind, alert.subject, alert.opened_at) == ("window", "w1", at("09:55"))
    assert alert.title == "频繁短时离岗：1号窗口，上午班 6 次，工号 1001（待确认）"
    assert "from 09:00 to 09:05, from 09:10 to 09:15" in alert.detail
    assert len(alert.evidence) == 13
    assert facts.judge_post(RULE, "11:00").ask_again == at("12:00")
    over = facts.judge_post(RULE, "12:00").alerts[0]
    assert (over.state, over.ends_at) == ("expired", at("12:00"))


@pytest.mark.parametrize(
    ("sixth", "told"),
    [("10:30-10:34:59", 0), ("10:30-10:35", 1), ("10:30-10:44:59", 1), ("10:30-10:45", 0),
     ("10:30", 0)],
)  # fmt: skip
def test_five_to_fourteen_minutes_count_and_only_when_they_are_over(
    facts: PostFacts, sixth: str, told: int
) -> None:
    facts.away(*SIX[:5], sixth)

    assert len(facts.judge_post(RULE, "10:50").alerts) == told


@pytest.mark.parametrize(("confirmed", "points"), [(5, []), (6, [1])])
def test_six_that_are_confirmed_are_a_violation(
    facts: PostFacts, confirmed: int, points: list[float]
) -> None:
    facts.away(*SIX)
    confirm(facts, confirmed)
    outcome = facts.judge_post(RULE, "11:55")

    assert [one.points for one in outcome.violations] == points
    assert outcome.alerts[0].state == ("converted" if points else "open")
    for one in outcome.violations:
        assert (one.person, one.code, one.segment, one.minutes) == ("1001", "PRE-09", "am", 30)
        assert (one.since, one.until, one.finality) == (at("09:00"), at("09:55"), "provisional")
        assert facts.judge_post(RULE, APPEAL_ENDS).violations[0].finality == "final"
        assert facts.judge_post(RULE, LOCKS_AT).violations[0].finality == "locked"


def test_each_segment_and_each_person_counts_alone(facts: PostFacts) -> None:
    facts.away(*SIX[:5], "14:35-14:40")
    assert facts.judge_post(RULE, "17:00").alerts == ()

    facts.away(*SIX)
    facts.duties.append(duty("2002", "09:30", "12:00", stands_in=True))
    assert facts.judge_post(RULE, "17:00").alerts == ()


def test_what_a_person_dismissed_or_nobody_left_is_not_counted(facts: PostFacts) -> None:
    facts.away(*SIX)
    facts.review("11:00", facts.post("10:30").vacancies[0].id, "dismissed")
    assert facts.judge_post(RULE, "11:30").alerts == ()

    never_came = PostFacts()
    never_came.saw("08:20 empty, 08:35 occupied")
    never_came.away(*SIX[:5])
    never_came.seats = [one for one in never_came.seats if one.at != at("08:25")]
    assert never_came.judge_post(RULE, "11:30").alerts == ()
