"""What runs short in the hall itself: the calendar, the disk, the room for deliveries."""

from __future__ import annotations

from datetime import date

import pytest

from rules.calendar_missing import CalendarMissing
from rules.device_trouble import DeviceTrouble
from rules.model import DAY, HOUR, Alert, AskAgain, DayKind, HallDay
from rules.self_check import SelfCheck

MIDNIGHT = 1_763_740_800_000  # 2025-11-22 00:00 +08:00


def hall_day(as_of=MIDNIGHT + 9 * HOUR, until=date(2025, 12, 31), events=(), device_events=()):
    return HallDay(
        hall="h1",
        work_date=date(2025, 11, 22),
        kind=DayKind("rest", "weekly"),
        midnight=MIDNIGHT,
        next_midnight=MIDNIGHT + DAY,
        devices=(),
        orphans=(),
        as_of=as_of,
        calendar_until=until,
        events=events,
        device_events=device_events,
    )


def alerts(rule, day):
    return [found for found in rule.judge_hall(day) if isinstance(found, Alert)]


@pytest.mark.parametrize(("until", "told"), [(date(2026, 1, 5), 1), (date(2026, 1, 6), 0)])
def test_a_calendar_that_ends_in_less_than_45_days_is_a_notice(until, told):
    found = alerts(CalendarMissing(), hall_day(until=until))

    assert [alert.code for alert in found] == ["CAL-01"] * told
    for alert in found:
        assert until.isoformat() in alert.title


def test_the_calendar_notice_is_daily():
    (open_one,) = alerts(CalendarMissing(), hall_day())
    (expired,) = alerts(CalendarMissing(), hall_day(as_of=MIDNIGHT + DAY))

    assert (open_one.id, open_one.state, expired.state) == (expired.id, "open", "expired")
    asked = [one for one in CalendarMissing().judge_hall(hall_day()) if isinstance(one, AskAgain)]
    assert asked == [AskAgain(MIDNIGHT + DAY)]


def test_each_shortage_is_told_once_a_day_from_its_first_note_on():
    at = MIDNIGHT + HOUR
    events = (
        (at, "disk_low", "150 MB free, 200 wanted"),
        (at + HOUR, "disk_low", "90 MB free, 200 wanted"),
        (at + HOUR, "outbox_full", "mqtt is 900000 changes behind of 1000000"),
        (at, "power_on", ""),
    )

    found = alerts(SelfCheck(), hall_day(events=events))

    assert [(alert.opened_at, alert.title.partition("：")[0]) for alert in found] == [
        (at, "磁盘空间不足"),
        (at + HOUR, "待发送消息积压"),
    ]
    assert len({alert.id for alert in found}) == 2


def test_a_devices_trouble_is_told_once_a_date_and_ends_where_the_device_says_so():
    at = MIDNIGHT + 8 * HOUR
    events = (
        (at, "pad-05", "unmapped_code", "key 07"),
        (at + HOUR, "pad-05", "unmapped_code", "key 08"),
        (at, "strip-05", "board_failed", ""),
        (at + HOUR, "strip-05", "board_recovered", ""),
        (at, "gate-2", "tamper", ""),
        (at, "gate-2", "power_on", ""),
    )

    found = {one.subject: one for one in alerts(DeviceTrouble(), hall_day(device_events=events))}

    assert (found["pad-05"].opened_at, found["pad-05"].state) == (at, "open")
    assert "key 07" in found["pad-05"].detail
    assert (found["strip-05"].ends_at, found["strip-05"].state) == (at + HOUR, "resolved")
    assert (found["gate-2"].code, found["gate-2"].severity) == ("DEV-06", 5)
    assert len(found) == 3


def test_a_trouble_that_comes_back_is_open_again_and_expires_at_midnight():
    at = MIDNIGHT + 8 * HOUR
    names = ("board_failed", "board_recovered", "board_failed")
    events = tuple((at + n * HOUR, "strip-05", name, "") for n, name in enumerate(names))

    (day_after,) = alerts(DeviceTrouble(), hall_day(MIDNIGHT + DAY, device_events=events))

    assert (day_after.state, day_after.ends_at) == ("expired", MIDNIGHT + DAY)
