from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.clock_fault import ClockFault
from rules.device_offline import DeviceOffline
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    SEVERITY,
    Alert,
    AskAgain,
    DayKind,
    DeviceDay,
    HallDay,
    HallRule,
    Instant,
)
from rules.orphan_punches import OrphanPunches
from rules.silent_device import SilentDevice

MIDNIGHT = 1_784_476_800_000
"""2026-07-20T00:00+08:00, a Monday."""
SECOND = 1000
NO_READINGS = (0,) * 24
NOTHING_USUAL = (0.0,) * 24


def at(text: str) -> Instant:
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    return MIDNIGHT + hours * HOUR + minutes * MINUTE + (seconds[0] * SECOND if seconds else 0)


def device(name: str = "men-1", **facts: Any) -> DeviceDay:
    told: dict[str, Any] = {
        "name": "1号考勤机" if name == "men-1" else name,
        "attendance": True,
        "losses": (),
        "clock": (),
        "hourly": NO_READINGS,
        "usual": NOTHING_USUAL,
        "up_since": MIDNIGHT - DAY,
    }
    return DeviceDay(device=name, **{**told, **facts})


def lost(*spans: tuple[str, str | None], name: str = "men-1", reason: str = "") -> DeviceDay:
    return device(
        name,
        losses=tuple((at(out), None if back is None else at(back), reason) for out, back in spans),
    )


def hall_day(
    as_of: Instant | str,
    *devices: DeviceDay,
    kind: str = "workday",
    orphans: tuple[tuple[str, tuple[Instant, ...]], ...] = (),
) -> HallDay:
    return HallDay(
        hall="hall",
        work_date=date(2026, 7, 20),
        kind=DayKind(kind, "state_council"),
        midnight=MIDNIGHT,
        next_midnight=MIDNIGHT + DAY,
        devices=devices,
        orphans=orphans,
        as_of=at(as_of) if isinstance(as_of, str) else as_of,
    )


def alerts(rule: HallRule, day: HallDay) -> list[Alert]:
    return [told for told in rule.judge_hall(day) if isinstance(told, Alert)]


def asked(rule: HallRule, day: HallDay) -> set[Instant]:
    return {told.at for told in rule.judge_hall(day) if isinstance(told, AskAgain)}


def the_alert(rule: HallRule, day: HallDay) -> Alert:
    (alert,) = alerts(rule, day)
    return alert


OFFLINE = DeviceOffline()


# DEV-01


@pytest.mark.parametrize(
    ("as_of", "severity", "title"),
    [
        ("10:02:59", None, ""),
        ("10:03", "notice", "设备离线 3 分钟：1号考勤机"),
        ("10:14:59", "notice", "设备离线 3 分钟：1号考勤机"),
        ("10:15", "yellow", "设备离线 15 分钟：1号考勤机"),
        ("23:59", "yellow", "设备离线 15 分钟：1号考勤机"),
    ],
)
def test_a_lost_device_is_a_notice_after_3_and_yellow_after_15_minutes(
    as_of: str, severity: str | None, title: str
) -> None:
    told = alerts(OFFLINE, hall_day(as_of, lost(("10:00", None))))

    expected = [] if severity is None else [(SEVERITY[severity], title, at("10:03"), None, "open")]
    assert expected == [(a.severity, a.title, a.opened_at, a.ends_at, a.state) for a in told]


@pytest.mark.parametrize(("back", "count"), [("02:02:59", 0), ("02:03", 1)])
def test_a_nightly_restart_under_three_minutes_is_told_to_nobody(back: str, count: int) -> None:
    assert count == len(alerts(OFFLINE, hall_day("08:00", lost(("02:00", back)))))


def test_the_alert_is_the_same_one_from_the_loss_until_long_after_the_return() -> None:
    early = the_alert(OFFLINE, hall_day("10:04", lost(("10:00", None))))
    late = the_alert(OFFLINE, hall_day("10:40", lost(("10:00", None))))
    back = the_alert(OFFLINE, hall_day("20:00", lost(("10:00", "10:27"))))

    assert early.id == late.id == back.id
    assert ("resolved", at("10:27"), at("10:03")) == (back.state, back.ends_at, back.opened_at)
    assert back.title == "设备离线 27 分钟，已恢复：1号考勤机"
    assert back.severity == SEVERITY["yellow"]
    assert (back.code, back.subject_kind, back.subject) == ("DEV-01", "device", "men-1")


def test_two_losses_are_two_alerts_with_ids_of_their_own() -> None:
    day = hall_day("12:00", lost(("09:00", "09:05"), ("10:00", "10:20")))

    first, second = alerts(OFFLINE, day)

    assert first.id != second.id
    assert (SEVERITY["notice"], SEVERITY["yellow"]) == (first.severity, second.severity)


def test_the_reason_the_driver_gave_is_in_the_detail() -> None:
    alert = the_alert(OFFLINE, hall_day("11:00", lost(("10:00", None), reason="no answer")))

    assert alert.detail == "men-1 has been offline for 15 min, since 10:00: no answer"


def test_a_loss_of_last_week_ends_on_the_day_on_which_it_began() -> None:
    losses = ((at("17:00"), at("17:00") + 3 * DAY, ""),)

    alert = the_alert(OFFLINE, hall_day(at("17:00") + 4 * DAY, device(losses=losses)))

    assert alert.title == "设备离线 3 天，已恢复：1号考勤机"


def test_a_loss_that_began_before_midnight_is_told_by_the_day_before() -> None:
    losses = ((MIDNIGHT - HOUR, None, ""),)

    assert alerts(OFFLINE, hall_day("09:00", device(losses=losses))) == []


def test_time_alone_is_asked_for_at_the_moments_of_the_thresholds() -> None:
    day = hall_day("10:00", lost(("10:00", None)))

    assert {at("10:03"), at("10:15")} == asked(OFFLINE, day)
    assert set() == asked(OFFLINE, hall_day("10:15", lost(("10:00", None))))
    assert set() == asked(OFFLINE, hall_day("10:10", lost(("10:00", "10:05"))))


def test_thresholds_are_settings() -> None:
    rule = msgspec.convert({"minutes": 5, "yellow_minutes": 20}, DeviceOffline)

    assert alerts(rule, hall_day("10:04:59", lost(("10:00", None)))) == []
    alert = the_alert(rule, hall_day("10:20", lost(("10:00", None))))
    assert alert.title == "设备离线 20 分钟：1号考勤机"


def test_a_flapping_device_that_is_away_is_asked_for_when_it_has_been_long_enough() -> None:
    rule = DeviceOffline(yellow_minutes=30, stable_minutes=20)
    day = hall_day("10:12", lost(*FOUR_FLAPS[:3], ("10:10", None)))

    assert {at("10:13"), at("10:30"), at("10:40")} == asked(rule, day)


# DEV-02 and inhibition


def four(*spans: tuple[str, str | None] | None) -> list[DeviceDay]:
    """Four devices ``men-1`` to ``men-4``, each with one loss or none."""
    return [
        lost(*([span] if span else []), name=f"men-{number}")
        for number, span in enumerate(spans, 1)
    ]


def test_more_than_half_lost_within_two_minutes_is_one_alert_and_the_rest_inhibited() -> None:
    devices = four(("10:00", None), ("10:01", None), ("10:02", None), None)

    hall, *rest = alerts(OFFLINE, hall_day("10:20", *devices))

    assert (hall.code, hall.subject_kind, hall.subject) == ("DEV-02", "hall", "hall")
    assert (SEVERITY["yellow"], at("10:03"), "open") == (hall.severity, hall.opened_at, hall.state)
    assert hall.title == "全厅设备离线：4 台设备中超过 50% 自 10:00 起同时失联"
    assert [("DEV-01", hall.id)] * 3 == [(a.code, a.inhibited_by) for a in rest]


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param((("10:00", None), ("10:01", None), None, None), id="half is not more"),
        pytest.param(
            (("10:00", None), ("10:01", None), ("10:02:01", None), None), id="over two minutes"
        ),
        pytest.param(
            (("10:00", "10:00:30"), ("10:01", None), ("10:02", None), None), id="never together"
        ),
        pytest.param(
            (("10:00", "10:03"), ("10:00", "10:02:59"), ("10:00", "10:02:59"), None),
            id="a common restart",
        ),
    ],
)
def test_fewer_or_slower_or_shorter_losses_are_no_hall_outage(
    spans: Sequence[tuple[str, str | None] | None],
) -> None:
    told = alerts(OFFLINE, hall_day("10:20", *four(*spans)))

    assert {("DEV-01", "")} == {(alert.code, alert.inhibited_by) for alert in told}


def test_a_hall_with_one_device_has_device_alerts_alone() -> None:
    assert the_alert(OFFLINE, hall_day("11:00", lost(("10:00", None)))).code == "DEV-01"


def test_the_hall_alert_comes_no_later_than_the_first_device_alert() -> None:
    devices = four(("10:00", None), ("10:01", None), ("10:02", None), None)

    assert alerts(OFFLINE, hall_day("10:02:59", *devices)) == []
    hall, first = alerts(OFFLINE, hall_day("10:03", *devices))
    assert hall.id == first.inhibited_by


def test_the_hall_is_back_when_no_more_than_half_is_lost() -> None:
    devices = four(("10:00", "10:30"), ("10:00", "10:31"), ("10:00", "10:32"), ("10:00", "10:33"))

    hall, *rest = alerts(OFFLINE, hall_day("12:00", *devices))

    assert ("resolved", at("10:31")) == (hall.state, hall.ends_at)
    assert hall.title.startswith("全厅设备离线 31 分钟，已恢复：")
    assert {hall.id} == {alert.inhibited_by for alert in rest}


def test_a_device_that_stays_lost_after_the_hall_is_back_stands_for_itself_again() -> None:
    devices = four(("10:00", "10:30"), ("10:00", "10:30"), ("10:00", None), None)

    before = hall_day("10:32:59", *devices)
    hall, _, _, straggler = alerts(OFFLINE, before)
    assert (hall.id, "men-3") == (straggler.inhibited_by, straggler.subject)
    assert at("10:33") in asked(OFFLINE, before)

    inhibited = {a.subject: a.inhibited_by for a in alerts(OFFLINE, hall_day("10:33", *devices))}
    assert {"hall": "", "men-1": hall.id, "men-2": hall.id, "men-3": ""} == inhibited


def test_a_device_lost_before_the_hall_has_its_own_cause() -> None:
    devices = four(("09:30", None), ("10:00", None), ("10:00", None), ("10:00", None))

    hall, own, *rest = alerts(OFFLINE, hall_day("10:20", *devices))

    assert (own.subject, own.inhibited_by) == ("men-1", "")
    assert [hall.id] * 3 == [alert.inhibited_by for alert in rest]


def test_a_device_lost_while_the_hall_is_offline_is_inhibited_too() -> None:
    devices = four(("10:00", None), ("10:00", None), ("10:00", None), ("10:25", None))

    hall, *rest = alerts(OFFLINE, hall_day("10:40", *devices))

    assert {("men-4", hall.id)} <= {(alert.subject, alert.inhibited_by) for alert in rest}


def test_a_device_lost_after_the_hall_is_back_is_not_inhibited() -> None:
    devices = four(("10:00", "10:10"), ("10:00", "10:10"), ("10:00", "10:10"), ("10:10", "10:13"))

    last = alerts(OFFLINE, hall_day("10:40", *devices))[-1]

    assert (last.subject, last.inhibited_by) == ("men-4", "")


def test_a_device_lost_before_the_hall_keeps_its_own_cause_when_it_is_back_first() -> None:
    devices = four(("09:50", "10:05"), ("10:00", "10:10"), ("10:00", "10:10"), ("10:00", "10:10"))

    hall, own, *_ = alerts(OFFLINE, hall_day("10:40", *devices))

    assert (own.subject, own.inhibited_by) == ("men-1", "")
    assert (hall.code, hall.ends_at) == ("DEV-02", at("10:10"))


def test_a_device_lost_before_the_hall_does_not_keep_the_hall_offline() -> None:
    devices = four(("09:50", None), ("10:00", "10:20"), ("10:00", None), ("10:00", None))

    hall = alerts(OFFLINE, hall_day("10:40", *devices))[0]

    assert ("resolved", at("10:20")) == (hall.state, hall.ends_at)


def test_a_loss_that_was_over_at_once_is_none() -> None:
    devices = four(("10:00", "10:00"), ("10:00", "10:00"), ("10:00", "10:00"), ("10:00", "10:30"))

    assert the_alert(OFFLINE, hall_day("10:40", *devices)).subject == "men-4"


def test_at_100_percent_no_hall_outage_is_told_and_nothing_is_inhibited() -> None:
    devices = four(*[("10:00", None)] * 4)

    told = alerts(DeviceOffline(hall_percent=100), hall_day("10:20", *devices))

    assert [(alert.code, alert.inhibited_by) for alert in told] == [("DEV-01", "")] * 4


# Flapping

FOUR_FLAPS: list[tuple[str, str | None]] = [
    ("10:00", "10:01"),
    ("10:03", "10:04"),
    ("10:06", "10:07"),
    ("10:10", "10:11"),
]


def test_four_losses_within_ten_minutes_are_one_flapping_alert() -> None:
    alert = the_alert(OFFLINE, hall_day("10:12", lost(*FOUR_FLAPS)))

    assert alert.title == "时断时续（flapping）：1号考勤机 10 分钟内断开 4 次"
    assert ("open", at("10:10"), None) == (alert.state, alert.opened_at, alert.ends_at)
    assert (alert.code, alert.subject, alert.severity) == ("DEV-01", "men-1", SEVERITY["notice"])


def test_three_losses_or_four_in_more_than_ten_minutes_are_not_flapping() -> None:
    slower = [*FOUR_FLAPS[:3], ("10:10:01", "10:11")]

    assert alerts(OFFLINE, hall_day("10:30", lost(*FOUR_FLAPS[:3]))) == []
    assert alerts(OFFLINE, hall_day("10:30", lost(*slower))) == []


def test_flapping_is_quiet_until_contact_was_steady_for_15_minutes() -> None:
    device_day = lost(*FOUR_FLAPS, ("10:20", "10:25"), ("10:39:59", "10:44"), ("12:00", "12:04"))

    quiet = the_alert(OFFLINE, hall_day("10:22", device_day))
    later = the_alert(OFFLINE, hall_day("10:58:59", device_day))
    over, new = alerts(OFFLINE, hall_day("12:10", device_day))

    assert quiet == later
    assert {at("10:59")} == asked(OFFLINE, hall_day("10:58:59", device_day))
    assert (quiet.id, "resolved", at("10:59")) == (over.id, over.state, over.ends_at)
    assert over.title == "时断时续（flapping），已稳定：1号考勤机 共断开 6 次"
    assert new.title == "设备离线 4 分钟，已恢复：1号考勤机"


def test_fifteen_steady_minutes_end_the_flapping() -> None:
    device_day = lost(*FOUR_FLAPS, ("10:26", "10:30"))

    over, new = alerts(OFFLINE, hall_day("11:00", device_day))

    assert ("resolved", at("10:26")) == (over.state, over.ends_at)
    assert new.title == "设备离线 4 分钟，已恢复：1号考勤机"


def test_a_flapping_device_that_stays_away_is_told_as_offline_in_the_end() -> None:
    device_day = lost(*FOUR_FLAPS[:3], ("10:10", None))

    assert the_alert(OFFLINE, hall_day("10:24:59", device_day)).state == "open"
    assert {at("10:25"), at("10:13")} == asked(OFFLINE, hall_day("10:12", device_day))
    flapping, offline = alerts(OFFLINE, hall_day("10:25", device_day))
    assert ("resolved", at("10:25")) == (flapping.state, flapping.ends_at)
    assert offline.title == "设备离线 15 分钟：1号考勤机"
    assert (SEVERITY["yellow"], at("10:25")) == (offline.severity, offline.opened_at)


def test_an_alert_that_was_told_before_the_flapping_is_not_taken_back() -> None:
    device_day = lost(("10:00", "10:04"), *FOUR_FLAPS[2:], ("10:08", "10:09"), ("10:09:30", None))

    before = the_alert(OFFLINE, hall_day("10:05", device_day))
    first, flapping = alerts(OFFLINE, hall_day("10:11", device_day))

    assert before == first
    assert "flapping" in flapping.title


def test_a_hall_that_flaps_is_one_alert_and_inhibits_those_of_its_devices() -> None:
    devices = [lost(*FOUR_FLAPS, name=f"men-{number}") for number in range(1, 5)]

    hall, *rest = alerts(OFFLINE, hall_day("10:12", *devices))

    assert ("DEV-02", at("10:10")) == (hall.code, hall.opened_at)
    assert hall.title == "时断时续（flapping）：全厅设备 10 分钟内断开 4 次"
    assert [("DEV-01", hall.id)] * 4 == [(alert.code, alert.inhibited_by) for alert in rest]


# DEV-01 and DEV-02: what holds on every day

# Mostly short, so that devices flap and are lost together.
steps = st.one_of(st.integers(1, 12), st.integers(1, 80)).map(lambda n: n * 15 * SECOND)


@st.composite
def losing_devices(draw: st.DrawFn) -> tuple[DeviceDay, ...]:
    """Up to five devices with losses of seconds to minutes, in the same hour or two."""
    devices = []
    for number in range(draw(st.integers(1, 5))):
        moment = at("10:00")
        losses: list[tuple[Instant, Instant | None, str]] = []
        for up, down in draw(st.lists(st.tuples(steps, steps), max_size=7)):
            lost_at, moment = moment + up, moment + up + down
            losses.append((lost_at, moment, ""))
        if losses and moment % MINUTE:
            losses[-1] = (losses[-1][0], None, "")
        devices.append(device(f"men-{number}", losses=tuple(losses)))
    return tuple(devices)


def facts_of(devices: Iterable[DeviceDay]) -> set[Instant]:
    return {
        moment
        for told in devices
        for lost_at, back_at, _ in told.losses
        for moment in (lost_at, back_at)
        if moment is not None
    }


def known(alert: Alert) -> tuple[object, ...]:
    return alert.id, alert.opened_at, alert.code, alert.subject


@given(losing_devices())
def test_between_facts_and_asked_moments_nothing_changes(devices: tuple[DeviceDay, ...]) -> None:
    facts = facts_of(devices)
    now = at("10:00")
    while now < at("16:00"):
        day = hall_day(now, *devices)
        coming = [moment for moment in asked(OFFLINE, day) | facts if moment > now]
        until = min([*coming, at("16:00")])

        assert alerts(OFFLINE, day) == alerts(OFFLINE, hall_day(until - 1, *devices))
        now = until


@given(losing_devices())
def test_no_alert_of_a_lost_device_is_taken_back_as_time_passes(
    devices: tuple[DeviceDay, ...],
) -> None:
    before: dict[str, Alert] = {}
    for now in range(at("10:00"), at("13:00"), MINUTE):
        told = {alert.id: alert for alert in alerts(OFFLINE, hall_day(now, *devices))}

        assert all(alert.opened_at <= now for alert in told.values())
        for alert_id, alert in before.items():
            later = told[alert_id]
            assert known(alert) == known(later)
            assert alert.severity <= later.severity
            if alert.ends_at is not None:
                assert (alert.state, alert.ends_at) == (later.state, later.ends_at)
        before = told


@given(losing_devices(), st.integers(0, 240), st.randoms(use_true_random=False))
def test_the_order_in_which_losses_and_devices_are_listed_does_not_matter(
    devices: tuple[DeviceDay, ...], minutes: int, shuffle: random.Random
) -> None:
    now = at("10:00") + minutes * MINUTE
    mixed = [
        msgspec.structs.replace(
            told, losses=tuple(shuffle.sample(told.losses * 2, k=2 * len(told.losses)))
        )
        for told in devices
    ]
    shuffle.shuffle(mixed)

    def judged(day: HallDay) -> list[Alert]:
        return sorted(alerts(OFFLINE, day), key=lambda alert: alert.id)

    assert judged(hall_day(now, *devices)) == judged(hall_day(now, *mixed))


@given(losing_devices())
def test_every_long_loss_is_told_by_somebody(devices: tuple[DeviceDay, ...]) -> None:
    now = at("16:00")

    told = alerts(OFFLINE, hall_day(now, *devices))

    ids = {alert.id for alert in told}
    assert all(not alert.inhibited_by or alert.inhibited_by in ids for alert in told)
    for lost_device in devices:
        ours = [alert for alert in told if alert.subject == lost_device.device]
        for lost_at, back_at, _ in lost_device.losses:
            if (now if back_at is None else back_at) - lost_at >= 15 * MINUTE:
                assert any(lost_at < alert.opened_at <= lost_at + 15 * MINUTE for alert in ours)


# DEV-03

CLOCK = ClockFault()


def checked(*checks: tuple[str, float]) -> DeviceDay:
    return device(clock=tuple((at(moment), round(offset * 1000)) for moment, offset in checks))


@pytest.mark.parametrize(("offset", "count"), [(300, 0), (-300, 0), (300.001, 1), (-300.001, 1)])
def test_a_clock_more_than_300_seconds_off_is_a_fault(offset: float, count: int) -> None:
    told = alerts(CLOCK, hall_day("10:00", checked(("09:00", offset))))

    assert [(SEVERITY["yellow"], at("09:00"), "open")] * count == [
        (alert.severity, alert.opened_at, alert.state) for alert in told
    ]


@pytest.mark.parametrize(("second", "count"), [(100, 0), (100.001, 1), (-20.001, 0), (-31, 1)])
def test_a_jump_of_more_than_60_seconds_is_a_fault(second: float, count: int) -> None:
    """From 40 s: to within 30 s of the true time is a repair, not a fault."""
    told = alerts(CLOCK, hall_day("10:00", checked(("09:00", 40), ("09:05", second))))

    assert count == len(told)
    assert all(alert.title.startswith("时钟跳变：1号考勤机") for alert in told)


def test_the_first_check_of_a_day_is_compared_with_the_last_of_the_day_before() -> None:
    yesterday = (MIDNIGHT - HOUR, 0)
    jumped = device(clock=(yesterday, (at("08:00"), 90_000)))

    assert the_alert(CLOCK, hall_day("09:00", jumped)).opened_at == at("08:00")
    assert alerts(CLOCK, hall_day("09:00", device(clock=((at("08:00"), 90_000),)))) == []


def test_a_fault_of_yesterday_is_not_told_again_before_todays_first_check() -> None:
    yesterday = (MIDNIGHT - HOUR, 7_200_000)

    assert alerts(CLOCK, hall_day("09:00", device(clock=(yesterday,)))) == []


def test_a_good_check_resolves_the_fault() -> None:
    day = hall_day("12:00", checked(("09:00", 720), ("10:00", 725), ("11:00", 3)))

    alert = the_alert(CLOCK, day)

    assert ("resolved", at("09:00"), at("11:00")) == (alert.state, alert.opened_at, alert.ends_at)
    assert alert.title == "时钟误差过大：1号考勤机 快 12 分钟，已恢复"
    assert set() == asked(CLOCK, day)


def test_a_jump_to_a_steady_small_offset_is_resolved_by_the_next_check() -> None:
    alert = the_alert(CLOCK, hall_day("12:00", checked(("09:00", 0), ("10:00", 95), ("11:00", 95))))

    assert ("resolved", at("10:00"), at("11:00")) == (alert.state, alert.opened_at, alert.ends_at)
    assert alert.title == "时钟跳变：1号考勤机 快 1 分钟，已恢复"


@pytest.mark.parametrize(
    ("offset", "title"),
    [
        (3600, "时区设置错误（zone_error）：1号考勤机 快 1 小时"),
        (-28_800 + 30, "时区设置错误（zone_error）：1号考勤机 慢 8 小时"),
        (-28_800 - 30, "时区设置错误（zone_error）：1号考勤机 慢 8 小时"),
        (-28_800 + 30.001, "时钟误差过大：1号考勤机 慢 7 小时 59 分钟"),
        (19_800, "时区设置错误（zone_error）：1号考勤机 快 5 小时 30 分钟"),
        (86_400, "日期错误：1号考勤机 快 24 小时"),
        (-9_697 * 86_400, "日期错误：1号考勤机 慢 9697 天"),
        (900, "时钟误差过大：1号考勤机 快 15 分钟"),
    ],
)
def test_whole_half_hours_are_a_zone_error_and_days_a_lost_date(offset: float, title: str) -> None:
    """2026-07-20 less 9697 days is the first day of 2000, at which many clocks begin."""
    assert the_alert(CLOCK, hall_day("10:00", checked(("09:00", offset)))).title == title


def test_an_offset_that_does_not_stay_at_the_half_hour_is_no_zone_error() -> None:
    day = hall_day("12:00", checked(("09:00", 3600), ("10:00", 3600), ("11:00", 3700)))

    alert = the_alert(CLOCK, day)

    assert alert.title == "时钟误差过大：1号考勤机 快 1 小时"
    assert alert.id == the_alert(CLOCK, hall_day("09:30", *day.devices)).id


def test_a_clock_fault_expires_at_midnight() -> None:
    faulty = checked(("09:00", 3600))

    assert {MIDNIGHT + DAY} == asked(CLOCK, hall_day("23:59", faulty))
    alert = the_alert(CLOCK, hall_day("24:00", faulty))
    assert (alert.state, alert.ends_at) == ("expired", MIDNIGHT + DAY)


@given(
    st.lists(st.tuples(st.integers(-HOUR, DAY + HOUR), st.integers(-400_000, 400_000)), max_size=8),
    st.integers(0, DAY + HOUR),
    st.randoms(use_true_random=False),
)
def test_clock_checks_count_in_the_order_of_their_times(
    checks: list[tuple[int, int]], minutes: int, shuffle: random.Random
) -> None:
    told = [(MIDNIGHT + moment, offset) for moment, offset in checks]
    mixed = told * 2
    shuffle.shuffle(mixed)
    day = hall_day(MIDNIGHT + minutes, device(clock=tuple(told)))
    day_mixed = hall_day(MIDNIGHT + minutes, device(clock=tuple(mixed)))

    assert alerts(CLOCK, day) == alerts(CLOCK, day_mixed)


# DEV-05

SILENT = SilentDevice()


def hours(**counts: float) -> list[float]:
    """``h9=6``: six in the hour from 09:00."""
    return [counts.get(f"h{hour}", 0) for hour in range(24)]


def silent(usual: Mapping[str, float], seen: Mapping[str, int], **facts: Any) -> DeviceDay:
    return device(usual=tuple(hours(**usual)), hourly=tuple(int(n) for n in hours(**seen)), **facts)


@pytest.mark.parametrize(
    ("usual", "seen", "as_of", "count"),
    [(5, 0, "10:00", 1), (4.5, 0, "10:00", 0), (5, 1, "10:00", 0), (5, 0, "09:59:59", 0)],
)
def test_an_hour_without_readings_is_a_notice_where_five_are_usual(
    usual: float, seen: int, as_of: str, count: int
) -> None:
    told = alerts(SILENT, hall_day(as_of, silent({"h9": usual}, {"h9": seen})))

    assert [(SEVERITY["notice"], at("10:00"), "open")] * count == [
        (alert.severity, alert.opened_at, alert.state) for alert in told
    ]
    if told:
        title = "设备在线但无读数：1号考勤机 09:00–10:00 无人打卡（平时约 5 次）"
        assert told[0].title == title


def test_only_working_days_can_be_too_silent() -> None:
    quiet = silent({"h9": 9}, {})

    assert alerts(SILENT, hall_day("10:00", quiet, kind="makeup_workday")) != []
    for kind in ("holiday", "rest", "closed", "duty_only"):
        assert list(SILENT.judge_hall(hall_day("10:00", quiet, kind=kind))) == []


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        ({"losses": ((at("08:50"), at("09:00"), ""),), "up_since": at("09:00")}, 1),
        ({"losses": ((at("08:50"), at("09:00") + 1, ""),), "up_since": at("09:00") + 1}, 0),
        ({"losses": ((at("09:20"), at("09:21"), ""),), "up_since": at("09:21")}, 0),
        ({"losses": ((at("10:00"), None, ""),), "up_since": None}, 1),
        ({"losses": ((at("08:00"), None, ""),), "up_since": None}, 0),
        ({"losses": ((MIDNIGHT - HOUR, at("09:30"), ""),), "up_since": at("09:30")}, 0),
        ({"up_since": None}, 0),
        ({"up_since": at("09:00")}, 1),
        ({"up_since": at("09:00") + 1}, 0),
    ],
)
def test_only_an_hour_wholly_in_contact_can_be_too_silent(facts: Any, count: int) -> None:
    day = hall_day("10:01", silent({"h9": 6}, {}, **facts))

    assert count == len(alerts(SILENT, day))


def test_the_silence_goes_on_over_quiet_hours_until_somebody_punches() -> None:
    usual = {"h9": 8, "h10": 8, "h14": 6}

    early = the_alert(SILENT, hall_day("10:00", silent(usual, {})))
    late = the_alert(SILENT, hall_day("15:30", silent(usual, {})))
    heard = the_alert(SILENT, hall_day("15:40", silent(usual, {"h15": 1})))

    assert early == late
    assert (early.id, "resolved", at("15:00")) == (heard.id, heard.state, heard.ends_at)


def test_a_silent_device_that_is_lost_is_no_longer_told_as_silent() -> None:
    losses = ((at("10:20"), None, ""),)

    alert = the_alert(SILENT, hall_day("12:00", silent({"h9": 8}, {}, losses=losses)))

    assert ("resolved", at("10:20")) == (alert.state, alert.ends_at)


def test_the_silence_expires_at_midnight() -> None:
    alert = the_alert(SILENT, hall_day("24:00", silent({"h9": 8}, {})))

    assert (alert.state, alert.ends_at) == ("expired", MIDNIGHT + DAY)


def test_a_late_log_that_fills_the_hour_withdraws_the_alert() -> None:
    assert alerts(SILENT, hall_day("12:00", silent({"h9": 8}, {"h9": 7}))) == []


def test_a_device_without_history_is_never_too_silent() -> None:
    assert list(SILENT.judge_hall(hall_day("12:00", device(usual=())))) == []


def test_the_end_of_each_busy_hour_is_asked_for() -> None:
    quiet = silent({"h9": 5, "h10": 8, "h11": 4.5}, {})

    assert {at("10:00"), at("11:00")} == asked(SILENT, hall_day("09:30", quiet))
    assert {at("11:00"), MIDNIGHT + DAY} == asked(SILENT, hall_day("10:00", quiet))
    assert set() == asked(SILENT, hall_day("24:00", quiet))


@given(
    st.lists(st.integers(at("07:00"), at("18:00") - 1), max_size=6),
    st.lists(st.integers(at("07:00"), at("18:00") - 1), max_size=3),
)
def test_silence_changes_only_at_facts_and_asked_moments(
    punches: list[int], loss_starts: list[int]
) -> None:
    losses = tuple((lost_at, lost_at + 5 * MINUTE, "") for lost_at in loss_starts)
    facts = {*punches, *facts_of([device(losses=losses)])}

    def seen(now: Instant) -> HallDay:
        counts = [0] * 24
        for punch in punches:
            counts[(punch - MIDNIGHT) // HOUR] += punch <= now
        usual = tuple(hours(h8=6, h9=6, h11=6, h14=6))
        return hall_day(now, device(hourly=tuple(counts), usual=usual, losses=losses))

    now = at("06:00")
    while now < MIDNIGHT + DAY + HOUR:
        coming = [moment for moment in asked(SILENT, seen(now)) | facts if moment > now]
        until = min([*coming, MIDNIGHT + DAY + HOUR])

        assert alerts(SILENT, seen(now)) == alerts(SILENT, seen(until - 1))
        now = until


# DEV-07

ORPHANS = OrphanPunches()


def test_three_punches_of_one_unknown_code_are_a_notice_and_two_are_not() -> None:
    three = ("9001", (at("17:31"), at("08:20"), at("12:01")))
    two = ("9002", (at("08:20"), at("12:01")))

    alert = the_alert(ORPHANS, hall_day("18:00", orphans=(two, three)))

    assert (SEVERITY["notice"], at("17:31"), "open") == (
        alert.severity,
        alert.opened_at,
        alert.state,
    )
    assert alert.title == "未登记人员打卡：编号 9001 当日打卡 3 次以上"
    assert "08:20, 12:01, 17:31" in alert.detail
    assert (alert.code, alert.subject_kind, alert.subject) == ("DEV-07", "hall", "hall")


def test_further_orphan_punches_of_the_day_change_nothing() -> None:
    three = ("9001", (at("08:20"), at("12:01"), at("13:00")))
    five = ("9001", (*three[1], at("17:31"), at("17:40")))

    assert alerts(ORPHANS, hall_day("18:00", orphans=(three,))) == alerts(
        ORPHANS, hall_day("18:00", orphans=(five,))
    )


def test_each_unknown_code_has_an_alert_of_its_own_which_expires_at_midnight() -> None:
    codes = tuple((code, (at("08:00"), at("09:00"), at("10:00"))) for code in ("9002", "9001"))

    assert {MIDNIGHT + DAY} == asked(ORPHANS, hall_day("12:00", orphans=codes))
    told = alerts(ORPHANS, hall_day("24:00", orphans=codes))
    assert len({alert.id for alert in told}) == 2
    assert [(alert.state, alert.ends_at) for alert in told] == [("expired", MIDNIGHT + DAY)] * 2
    assert told == alerts(ORPHANS, hall_day("24:00", orphans=codes[::-1]))


@pytest.mark.parametrize("rule", [DeviceOffline, ClockFault, SilentDevice, OrphanPunches])
def test_a_day_without_devices_says_nothing(rule: type[HallRule]) -> None:
    assert list(rule().judge_hall(hall_day("12:00"))) == []
