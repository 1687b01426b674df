from __future__ import annotations

import pytest

from rules.model import SEVERITY
from rules.staff_pressed import StaffPressed
from tests.rules.counter_facts import W1, W2, Facts

RULE = StaffPressed()


def presses(count: int, hasty: int, seconds: float = 2, people: str = "1001") -> Facts:
    """``count`` services that were rated, ``hasty`` of them so soon after their end; by ``people``
    in turn."""
    codes = people.split()
    facts = Facts()
    for number in range(count):
        minute = 8 * 60 + 40 + number * 5
        called = f"{minute // 60}:{minute % 60:02}"
        ended = f"{minute // 60}:{minute % 60 + 3:02}"
        facts.serve(f"A{number:03}", called, ended, person=codes[number % len(codes)])
        facts.rating(f"{ended}:{seconds if number < hasty else 9}", 5)
    return facts


@pytest.mark.parametrize(
    ("count", "hasty", "seconds", "alerts"),
    [(30, 16, 2, 1), (30, 15, 2, 0), (29, 29, 2, 0), (30, 30, 2.1, 0), (60, 31, 0, 1)],
)
def test_more_than_half_within_two_seconds_of_thirty_is_to_be_reviewed(
    count: int, hasty: int, seconds: float, alerts: int
) -> None:
    found = presses(count, hasty, seconds).judge(RULE).alerts

    assert len(found) == alerts
    for one in found:
        assert one.title == "疑似代评，待核查：1号窗口 同一人员超过 50% 的评价在办结前后 2 秒内按下"
        assert (one.severity, one.state) == (SEVERITY["yellow"], "open")
        assert len(one.evidence) == hasty
        assert "1001" not in one.title + one.detail


def test_two_people_at_one_window_are_counted_apart() -> None:
    assert len(presses(40, 40).judge(RULE).alerts) == 1
    assert presses(40, 40, people="1001 1002").judge(RULE).alerts == ()
    assert len(presses(60, 60, people="1001 1002").judge(RULE).alerts) == 2


def paused(*levels: int, event: str = "window_paused") -> Facts:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05")
    facts.event("09:20", event)
    for minute, level in enumerate(levels, 30):
        facts.rating(f"09:{minute}", level)
    return facts


@pytest.mark.parametrize(("levels", "count"), [((5, 5), 1), ((5,), 0), ((5, 1), 0), ((3, 4, 5), 1)])
@pytest.mark.parametrize("event", ["window_paused", "window_closed"])
def test_good_presses_while_the_window_serves_nobody(
    levels: tuple[int, ...], count: int, event: str
) -> None:
    alerts = paused(*levels, event=event).judge(RULE).alerts

    assert len(alerts) == count


def test_presses_after_hours() -> None:
    facts = Facts()
    facts.serve("A001", "17:58", "18:05")
    facts.rating("18:05:08", 5)
    facts.rating("18:40", 5)
    assert facts.judge(RULE, "19:00").alerts == ()

    facts.rating("18:50", 5)
    (alert,) = facts.judge(RULE, "19:00").alerts
    assert "非工作时间" in alert.title
    assert len(alert.evidence) == 2


def test_where_the_hours_are_unknown_nothing_is_after_hours() -> None:
    facts = Facts()
    facts.rating("21:00", 5)
    facts.rating("21:10", 5)

    assert facts.judge(RULE, "22:00", opens=None, closes=None).alerts == ()


def test_the_rating_of_a_service_that_ended_before_the_pause_is_nothing_odd() -> None:
    facts = Facts()
    facts.serve("A001", "09:00", "09:05")
    facts.serve("A002", "09:06", "09:10")
    facts.event("09:10:02", "window_paused")
    facts.rating("09:10:08", 5, service_ref="A001")
    facts.rating("09:10:09", 5, service_ref="A002")

    assert facts.judge(RULE).alerts == ()


@pytest.mark.parametrize(
    ("seconds", "level", "count"), [(15, 5, 1), (15.1, 5, 0), (1, 3, 1), (1, 2, 0)]
)
def test_five_presses_within_a_minute_without_services(
    seconds: float, level: int, count: int
) -> None:
    facts = Facts()
    facts.event("08:40", "window_opened")
    for number in range(5):
        ms = round(number * seconds * 1000)
        facts.rating(f"09:{ms // 60000:02}:{ms % 60000 / 1000}", level)
    alerts = facts.judge(RULE).alerts

    assert len(alerts) == count


def test_presses_that_are_no_level_or_no_pads_are_left_out() -> None:
    facts = Facts()
    for number in range(5):
        facts.rating(f"09:00:0{number}", None)
        facts.rating(f"09:01:0{number}", 5, channel="qr")

    assert facts.judge(RULE).alerts == ()


def test_five_visitors_in_a_minute_at_one_window_have_a_service_each() -> None:
    facts = Facts()
    for number in range(5):
        facts.serve(f"A{number}", f"09:00:{number * 10:02}", f"09:00:{number * 10 + 5:02}")
        facts.rating(f"09:00:{number * 10 + 8:02}", 5)

    assert facts.judge(RULE).alerts == ()


def test_presses_without_a_service_do_not_hide_the_hasty_ones() -> None:
    facts = presses(30, 16)
    for minute in range(10, 40, 2):
        facts.rating(f"17:{minute}", 2, person="1001")

    assert len(facts.judge(RULE).alerts) == 1


@pytest.mark.parametrize(("seconds", "alerts"), [(59, 1), (58, 1), (57.9, 0)])
def test_a_pad_pressed_just_before_the_service_is_ended_is_as_odd(
    seconds: float, alerts: int
) -> None:
    facts = Facts()
    for number in range(30):
        minute = 540 + number * 5
        facts.serve(
            f"A{number:03}", f"{minute // 60}:{minute % 60:02}",
            f"{minute // 60}:{minute % 60 + 1:02}", person="1001",
        )  # fmt: skip
        facts.rating(f"{minute // 60}:{minute % 60:02}:{seconds}", 5)

    assert len(facts.judge(RULE).alerts) == alerts


def test_one_persons_presses_are_counted_over_all_windows() -> None:
    facts = Facts(W1, W2)
    for number in range(30):
        window = "w1" if number < 13 else "w2"
        minute = 540 + number * 5
        told = f"{minute // 60}:{minute % 60:02}"
        ended = f"{minute // 60}:{minute % 60 + 3:02}"
        facts.serve(f"A{number:03}", told, ended, window, person="1001")
        facts.rating(f"{ended}:01", 5, window=window)
    (alert,) = facts.judge(RULE).alerts

    assert alert.subject == "w2"
    assert "2号窗口、1号窗口" in alert.title
    assert "windows w2, w1" in alert.detail
    assert len(alert.evidence) == 30


def closed_day(facts: Facts) -> int:
    return len(facts.judge(RULE, "19:00", opens=None, closes=None, works=False).alerts)


def test_presses_on_a_day_off_are_after_hours() -> None:
    facts = Facts()
    facts.rating("10:00", 5)
    assert closed_day(facts) == 0

    facts.rating("10:10", 5)
    assert closed_day(facts) == 1


def test_a_window_that_works_on_a_day_off_is_not_suspected() -> None:
    facts = Facts()
    facts.event("09:00", "window_opened")
    facts.rating("10:00", 5)
    facts.rating("10:10", 5)

    assert closed_day(facts) == 0
