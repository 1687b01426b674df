from __future__ import annotations

import pytest

from rules.model import SEVERITY
from rules.not_invited import NotInvited
from tests.rules.counter_facts import W1, W2, Facts, at, up

RULE = NotInvited()
PAD = up("pad-1", "pad", ("08:00", "20:00"))


def ten_services(invited: int, window: str = "w1") -> Facts:
    facts = Facts(W1, W2)
    for number in range(10):
        called, finished = f"09:{number * 5:02}", f"09:{number * 5 + 2:02}"
        facts.serve(f"A{number:03}", called, finished, window)
        if number < invited:
            facts.prompt(f"{finished}:01", f"A{number:03}", window)
    return facts


@pytest.mark.parametrize(("invited", "count"), [(10, 0), (8, 0), (7, 1), (0, 1)])
def test_more_than_a_fifth_without_a_prompt_is_a_notice(invited: int, count: int) -> None:
    alerts = ten_services(invited).judge(RULE, "18:00", device_up=(PAD,)).alerts

    assert len(alerts) == count
    for one in alerts:
        assert one.title == (
            f"未邀请评价：1号窗口 当日 10 件办结业务中 {10 - invited} 件未邀请评价"
        )
        assert (one.severity, one.subject, one.unit) == (SEVERITY["notice"], "w1", "tax")
        assert (one.opened_at, one.ends_at, one.state) == (at("18:00"), None, "open")


def test_it_is_judged_when_the_hall_has_closed() -> None:
    facts = ten_services(0)
    before = facts.judge(RULE, "17:59", device_up=(PAD,))
    over = facts.judge(RULE, "24:00", device_up=(PAD,))

    assert (before.alerts, before.ask_again) == ((), at("18:00"))
    assert (over.alerts[0].state, over.alerts[0].ends_at) == ("expired", at("24:00"))


def test_a_window_of_whose_pad_nothing_is_known_is_not_judged() -> None:
    assert ten_services(0).judge(RULE, "18:00").alerts == ()


def test_services_while_the_pad_was_away_do_not_count() -> None:
    away = up("pad-1", "pad", ("08:00", "09:20"))
    alerts = ten_services(0).judge(RULE, "18:00", device_up=(away,)).alerts
    assert alerts == ()

    later = up("pad-1", "pad", ("08:00", "09:30"))
    (alert,) = ten_services(0).judge(RULE, "18:00", device_up=(later,)).alerts
    assert "6 件办结业务" in alert.title


def test_a_rating_shows_that_the_visitor_was_invited() -> None:
    facts = ten_services(0)
    for number in range(8):
        facts.rating(f"09:{number * 5 + 2:02}:10", 5, service_ref=f"A{number:03}")

    assert facts.judge(RULE, "18:00", device_up=(PAD,)).alerts == ()


def test_another_windows_pad_says_nothing_of_this_one() -> None:
    assert ten_services(0, "w2").judge(RULE, "18:00", device_up=(PAD,)).alerts == ()


def test_without_known_hours_the_day_is_judged_at_its_end() -> None:
    facts = ten_services(0)

    assert facts.judge(RULE, "23:59", device_up=(PAD,), closes=None).alerts == ()
    assert len(facts.judge(RULE, "24:00", device_up=(PAD,), closes=None).alerts) == 1


@pytest.mark.parametrize(("count", "alerts"), [(4, 0), (5, 1)])
def test_a_handful_of_services_says_nothing(count: int, alerts: int) -> None:
    facts = Facts()
    for number in range(count):
        facts.serve(f"A{number:03}", f"09:{number * 5:02}", f"09:{number * 5 + 2:02}")

    assert len(facts.judge(RULE, "18:00", device_up=(PAD,)).alerts) == alerts
