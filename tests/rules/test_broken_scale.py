from __future__ import annotations

from datetime import date

import pytest

from rules.broken_scale import BrokenScale
from rules.model import DAY, SEVERITY
from tests.rules.counter_facts import MIDNIGHT, Facts, at, scale

RULE = BrokenScale()


@pytest.mark.parametrize(
    ("levels", "complaints", "count"),
    [
        ((0, 10, 90, 900, 1000), 1, 1),
        ((0, 10, 90, 900, 999), 1, 0),
        ((0, 10, 90, 900, 1000), 0, 0),
        ((1, 10, 90, 900, 1000), 1, 0),
    ],
)
def test_a_level_never_seen_in_two_thousand_while_there_are_complaints(
    levels: tuple[int, ...], complaints: int, count: int
) -> None:
    alerts = Facts().judge(RULE, scales=(scale(levels, complaints=complaints),)).alerts

    assert len(alerts) == count
    for one in alerts:
        assert one.title == (
            "评价量表失真：1号窗口 的 1 级在 2000 次以上评价中从未出现，但有投诉（量表 five）"
        )
        assert (one.severity, one.subject, one.state) == (SEVERITY["yellow"], "w1", "open")


def test_a_level_the_scale_does_not_have_is_not_missed() -> None:
    three = scale((0, 20, 80, 2000, 0), scale_id="three", offered=(2, 3, 4), complaints=9)

    assert Facts().judge(RULE, scales=(three,)).alerts == ()


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ((10, 10, 80, 400, 500), (0, 0, 30, 100, 120), 1),
        ((10, 10, 80, 400, 500), (0, 0, 30, 100, 119), 0),
        ((10, 10, 80, 400, 500), (0, 1, 30, 100, 120), 0),
        ((0, 0, 80, 400, 500), (0, 0, 300, 1000, 1200), 0),
    ],
)
def test_bad_levels_that_vanish_after_a_software_change(
    before: tuple[int, ...], after: tuple[int, ...], count: int
) -> None:
    told = scale(after, before=before, changed_at=at("07:00"))
    alerts = Facts().judge(RULE, scales=(told,)).alerts

    assert len(alerts) == count
    for one in alerts:
        assert "软件变更后 1、2 级不再出现" in one.title
        assert one.opened_at == at("07:00")


def test_each_scale_is_judged_by_itself() -> None:
    five = scale((0, 5, 5, 490, 700), complaints=3)
    other = scale((0, 5, 5, 490, 700), complaints=3, scale_id="four")

    assert Facts().judge(RULE, scales=(five, other)).alerts == ()


def test_a_window_that_is_gone_is_not_judged() -> None:
    gone = scale((0, 10, 90, 900, 1000), complaints=1, window="w9")

    assert Facts().judge(RULE, scales=(gone,)).alerts == ()


def test_it_expires_at_midnight_and_each_date_is_looked_at_by_itself() -> None:
    told = (scale((0, 10, 90, 900, 1000), complaints=1),)
    today, over = (Facts().judge(RULE, as_of, scales=told) for as_of in ("18:30", "24:00"))
    (tomorrow,) = Facts().judge(
        RULE, "+1 18:30", scales=told, work_date=date(2026, 7, 21), midnight=MIDNIGHT + DAY,
        next_midnight=MIDNIGHT + 2 * DAY,
    ).alerts  # fmt: skip

    assert today.ask_again == at("24:00")
    assert (over.alerts[0].state, over.alerts[0].ends_at) == ("expired", at("24:00"))
    assert over.alerts[0].id == today.alerts[0].id != tomorrow.id
    assert tomorrow.opened_at == at("24:00")
