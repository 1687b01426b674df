from __future__ import annotations

import pytest

from rules.low_rating import LowRating
from rules.model import SEVERITY, Alert
from tests.rules.counter_facts import Facts, at

RULE = LowRating()


@pytest.fixture
def facts() -> Facts:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05", person="1001")
    return facts


def told(facts: Facts, as_of: str, code: str, rule: LowRating = RULE) -> list[Alert]:
    return [one for one in facts.judge_window(rule, as_of).alerts if one.code == code]


@pytest.mark.parametrize(
    ("level", "words"), [(1, "非常不满意"), (2, "不满意"), (3, ""), (5, ""), (None, "")]
)
def test_levels_one_and_two_are_told_and_nothing_else(
    facts: Facts, level: int | None, words: str
) -> None:
    facts.rating("09:06", level)
    alerts = told(facts, "09:06", "RAT-01")

    assert [one.title for one in alerts] == (
        [f"差评：1号窗口，{words}（{level} 级）"] if words else []
    )
    for one in alerts:
        assert (one.severity, one.state, one.subject) == (SEVERITY["notice"], "open", "w1")
        assert (one.subject_kind, one.unit, one.opened_at) == ("window", "tax", at("09:06"))


def test_neither_the_rater_nor_the_text_nor_the_staff_is_named(facts: Facts) -> None:
    rating = facts.rating("09:06", 1, text="电话13800000000", person="1001", named=True)
    facts.step("09:07", rating, "assigned", handler="1002", by="9001")
    alerts = facts.judge_window(RULE, "+20 12:00").alerts

    assert {one.code for one in alerts} == {"RAT-01", "RAT-02"}
    for one in alerts:
        words = one.title + one.detail
        assert not any(name in words for name in ("1001", "1002", "9001", "138", "A001"))


def test_it_is_resolved_when_somebody_takes_it_up(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("09:08", rating, "assigned", handler="1002")
    (alert,) = told(facts, "09:10", "RAT-01")

    assert (alert.state, alert.ends_at) == ("resolved", at("09:08"))


@pytest.mark.parametrize(("received", "count"), [("10:06", 1), ("10:06:01", 0)])
def test_a_pads_late_batch_raises_no_live_alert_but_opens_the_follow_up(
    facts: Facts, received: str, count: int
) -> None:
    facts.rating("09:06", 1, received=received)

    assert len(told(facts, "10:30", "RAT-01")) == count
    assert len(told(facts, "10:30", "RAT-02")) == 1


def test_what_others_made_of_silence_is_not_told(facts: Facts) -> None:
    facts.rating("09:06", 1, defaulted=True)

    assert facts.judge_window(RULE, "12:00").alerts == ()


def test_an_additional_and_an_unmatched_bad_rating_are_told_too(facts: Facts) -> None:
    facts.rating("09:06", 5)
    facts.rating("09:07", 1)
    facts.rating("12:00", 2)

    assert len(told(facts, "12:00", "RAT-01")) == 2


@pytest.mark.parametrize(
    ("as_of", "late"),
    [
        ("09:11", []),
        ("09:11:00.001", ["未指派处理人"]),
        ("+1 18:00", ["未指派处理人"]),
        ("+1 18:00:00.001", ["未指派处理人", "未联系核实"]),
        ("+7 18:00:00.001", ["未指派处理人", "未联系核实", "未办结"]),
        (
            "+21 18:00:00.001",
            ["未指派处理人", "未联系核实", "未办结", "超过最长时限仍未办结"],
        ),
    ],
)
def test_each_limit_that_is_passed_is_late(facts: Facts, as_of: str, late: list[str]) -> None:
    facts.rating("09:06", 1)
    alerts = told(facts, as_of, "RAT-02")

    assert [one.title for one in alerts] == [f"差评整改超时：1号窗口，{word}" for word in late]
    yellow, red = SEVERITY["yellow"], SEVERITY["red"]
    assert [one.severity for one in alerts] == [yellow, yellow, yellow, red][: len(late)]


def test_a_step_done_in_time_is_not_late_and_one_done_late_is_resolved(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("09:20", rating, "assigned")
    facts.step("10:00", rating, "contacting")
    facts.step("10:30", rating, "fix_now")
    facts.step("11:00", rating, "closed")
    (alert,) = told(facts, "+30 00:00", "RAT-02")

    assert alert.title.endswith("未指派处理人")
    assert (alert.opened_at, alert.ends_at, alert.state) == (at("09:11"), at("09:20"), "resolved")


def test_a_review_has_three_workdays(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("09:07", rating, "assigned")
    facts.step("09:08", rating, "mistaken")

    assert told(facts, "+3 18:00", "RAT-02") == []
    (alert,) = told(facts, "+3 18:00:00.001", "RAT-02")
    assert alert.title.endswith("未完成复核")


def test_it_asks_to_be_called_when_the_next_limit_passes(facts: Facts) -> None:
    facts.rating("09:06", 1)

    assert facts.judge_window(RULE, "09:06").ask_again == at("09:11") + 1
    assert facts.judge_window(RULE, "+1 19:00").ask_again == at("+7 18:00") + 1


def test_halls_that_follow_up_elsewhere_turn_the_limits_off(facts: Facts) -> None:
    facts.rating("09:06", 1)
    rule = LowRating(follow_up=False)

    assert len(told(facts, "+30 00:00", "RAT-01", rule)) == 1
    assert told(facts, "+30 00:00", "RAT-02", rule) == []


def test_a_reopened_follow_up_is_late_by_itself(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("09:07", rating, "assigned")
    facts.step("10:00", rating, "explain")
    facts.step("11:00", rating, "closed")
    facts.step("12:00", rating, "reopened")
    first, *others = told(facts, "+30 00:00", "RAT-02")

    assert first.opened_at == at("12:05")
    assert len(others) == 3


def test_what_was_late_before_it_was_opened_again_stays_late(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("09:30", rating, "assigned")
    facts.step("+9 10:00", rating, "explain")
    facts.step("+9 11:00", rating, "closed")
    before = told(facts, "+9 11:30", "RAT-02")
    facts.step("+9 12:00", rating, "reopened")
    facts.step("+9 12:01", rating, "assigned")
    after = told(facts, "+9 12:02", "RAT-02")

    assert [one.opened_at for one in before] == [at("09:11"), at("+1 18:00"), at("+7 18:00")]
    assert after == before


def test_a_limit_that_passes_while_nobody_acts_ends_when_it_is_opened_again(facts: Facts) -> None:
    rating = facts.rating("09:06", 1)
    facts.step("10:00", rating, "reopened")
    facts.step("10:01", rating, "assigned")
    (alert,) = told(facts, "10:02", "RAT-02")

    assert (alert.opened_at, alert.ends_at, alert.state) == (at("09:11"), at("10:00"), "resolved")
