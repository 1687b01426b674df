"""VID-01 to VID-06: cameras that are lost, show nothing useful, or are not recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.camera_upkeep import CameraUpkeep
from rules.counter import Ratio
from rules.device_offline import DeviceOffline
from rules.losses import HALL_PERCENT, HALL_WITHIN, PATIENCE, Patience
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    PICTURE_FAULTS,
    SEVERITY,
    Alert,
    AskAgain,
    CameraMonth,
    DayKind,
    DeviceDay,
    HallDay,
    HallRule,
    Instant,
    Picture,
    Recorded,
    VideoMonth,
)
from rules.picture_fault import PictureFault
from rules.recording_gap import RecordingGap
from rules.retention_short import RetentionShort
from rules.video import (
    FAULT_ZH,
    PICTURE_PATIENCE,
    Span,
    VideoFigures,
    both,
    hall_figures,
    month_figures,
    reached,
    total,
    without,
)
from rules.video_health import VideoHealth

MIDNIGHT = 1_784_476_800_000
"""2026-07-20T00:00+08:00, a Monday."""
SECOND = 1000
GOOD = Picture()
UNKNOWN = Picture(known=False)


def at(text: str, days: int = 0) -> Instant:
    """A wall time of Monday, or of some days later."""
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    rest = seconds[0] * SECOND if seconds else 0
    return MIDNIGHT + days * DAY + hours * HOUR + minutes * MINUTE + rest


def span(begins: str, ends: str, days: int = 0) -> Span:
    return at(begins, days), at(ends, days)


def moment(told: Instant | str) -> Instant:
    return at(told) if isinstance(told, str) else told


HOURS = tuple(
    part
    for days in range(15)
    if days % 7 < 5
    for part in (span("08:30", "12:00", days), span("14:30", "18:00", days))
)


def bad(*faults: str, **told: Any) -> Picture:
    return Picture(faults, **told)


def camera(
    *pictures: tuple[Instant | str, Picture], name: str = "cam-1", **facts: Any
) -> DeviceDay:
    told: dict[str, Any] = {
        "name": "1号摄像机" if name == "cam-1" else name,
        "attendance": False,
        "losses": (),
        "clock": (),
        "hourly": (0,) * 24,
        "usual": (),
        "up_since": MIDNIGHT - DAY,
        "camera": True,
        "maintainer": "孙工",
        "pictures": tuple((moment(when), picture) for when, picture in pictures),
    }
    return DeviceDay(device=name, **{**told, **facts})


def lost(*spans: tuple[str, str | None], **facts: Any) -> DeviceDay:
    losses = tuple((at(out), None if back is None else at(back), "") for out, back in spans)
    return camera(losses=losses, **facts)


def hall_day(as_of: Instant | str, *devices: DeviceDay, **facts: Any) -> HallDay:
    told: dict[str, Any] = {
        "hall": "hall",
        "work_date": date(2026, 7, 20),
        "kind": DayKind("workday", "state_council"),
        "midnight": MIDNIGHT,
        "next_midnight": MIDNIGHT + DAY,
        "orphans": (),
        "hours": HOURS,
    }
    return HallDay(devices=devices, as_of=moment(as_of), **{**told, **facts})


def tuesday(as_of: Instant, *devices: DeviceDay) -> HallDay:
    return hall_day(
        as_of,
        *devices,
        work_date=date(2026, 7, 21),
        midnight=MIDNIGHT + DAY,
        next_midnight=MIDNIGHT + 2 * DAY,
        hours=tuple(one for one in HOURS if one[0] >= MIDNIGHT + DAY),
    )


def alerts(rule: HallRule, day: HallDay) -> list[Alert]:
    return [told for told in rule.judge_hall(day) if isinstance(told, Alert)]


def asked(rule: HallRule, day: HallDay) -> set[Instant]:
    return {told.at for told in rule.judge_hall(day) if isinstance(told, AskAgain)}


def the_alert(rule: HallRule, day: HallDay) -> Alert:
    (alert,) = alerts(rule, day)
    return alert


# Spans

spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


def covered(some: Sequence[Span]) -> set[int]:
    return {one for begins, ends in some for one in range(begins, ends)}


@given(spans, spans)
def test_both_and_without_cover_what_their_names_say(some: list[Span], others: list[Span]) -> None:
    common, rest = both(some, others), without(some, others)

    assert covered(common) == covered(some) & covered(others)
    assert covered(rest) == covered(some) - covered(others)
    for found in (common, rest):
        assert found == sorted(found)
        assert all(begins < ends for begins, ends in found)
        assert total(found) == len(covered(found))


@given(spans, st.integers(1, 40))
def test_an_amount_is_reached_when_so_much_is_over(some: list[Span], amount: int) -> None:
    merged = both(some, [(0, 100)])

    found = reached(merged, amount)

    if found is None:
        assert total(merged) < amount
    else:
        assert total(both(merged, [(0, found)])) == amount


# VID-01

OFFLINE = DeviceOffline()


@pytest.mark.parametrize(
    ("as_of", "severity"),
    [("10:02:59", None), ("10:03", "notice"), ("10:14:59", "notice"), ("10:15", "yellow")],
)
def test_a_lost_camera_is_told_as_vid_01_with_the_thresholds_of_every_device(
    as_of: str, severity: str | None
) -> None:
    told = alerts(OFFLINE, hall_day(as_of, lost(("10:00", None))))

    expected = [] if severity is None else [("VID-01", SEVERITY[severity], at("10:03"))]
    assert expected == [(alert.code, alert.severity, alert.opened_at) for alert in told]


def test_cameras_count_as_devices_of_the_hall_and_keep_their_own_code() -> None:
    devices = (
        lost(("10:00", None)),
        lost(("10:00", None), name="cam-2"),
        lost(("10:00", None), name="gate-1", camera=False),
    )

    hall, *rest = alerts(OFFLINE, hall_day("10:03", *devices))

    assert hall.code == "DEV-02"
    assert [alert.code for alert in rest] == ["VID-01", "VID-01", "DEV-01"]
    assert {hall.id} == {alert.inhibited_by for alert in rest}


# VID-03

FAULT = PictureFault()


@pytest.mark.parametrize(
    ("as_of", "severity", "minutes"),
    [
        ("10:04:59", None, 0),
        ("10:05", "notice", 5),
        ("10:29:59", "notice", 5),
        ("10:30", "yellow", 30),
        ("23:59", "yellow", 30),
    ],
)
def test_a_bad_picture_is_a_notice_after_5_and_yellow_after_30_minutes(
    as_of: str, severity: str | None, minutes: int
) -> None:
    told = alerts(FAULT, hall_day(as_of, camera(("10:00", bad("covered")))))

    title = f"画面异常（遮挡）{minutes} 分钟：1号摄像机"
    expected = [] if severity is None else [(SEVERITY[severity], title, at("10:05"), None, "open")]
    assert expected == [(a.severity, a.title, a.opened_at, a.ends_at, a.state) for a in told]


@pytest.mark.parametrize(("good", "count"), [("10:04:59", 0), ("10:05", 1)])
def test_a_picture_that_is_good_again_within_5_minutes_is_told_to_nobody(
    good: str, count: int
) -> None:
    day = hall_day("18:00", camera(("10:00", bad("frozen")), (good, GOOD)))

    assert count == len(alerts(FAULT, day))


def test_the_alert_is_resolved_by_the_first_good_picture_and_names_how_long() -> None:
    told = camera(("10:00", bad("frozen")), ("11:05", GOOD))

    alert = the_alert(FAULT, hall_day("18:00", told))

    assert alert.title == "画面异常（画面冻结）1 小时 5 分钟，已恢复：1号摄像机"
    assert alert.detail == "cam-1: picture frozen for 1 h 5 min from 10:00 on."
    assert ("resolved", at("11:05")) == (alert.state, alert.ends_at)
    assert (alert.code, alert.subject_kind, alert.subject) == ("VID-03", "device", "cam-1")
    assert alert.severity == SEVERITY["yellow"]


def test_from_one_fault_to_another_is_one_alert_that_names_the_gravest() -> None:
    told = camera(
        ("10:00", bad("blurred")),
        ("10:10", bad("covered", "dark")),
        ("10:20", bad("moved", shift=(12.0, 0.0))),
        ("10:40", GOOD),
    )

    early = the_alert(FAULT, hall_day("10:06", told))
    later = the_alert(FAULT, hall_day("10:25", told))
    over = the_alert(FAULT, hall_day("12:00", told))

    assert early.id == later.id == over.id
    assert tuple(alert.title[5 : alert.title.index("）")] for alert in (early, later, over)) == (
        "模糊",
        "遮挡",
        "遮挡",
    )
    assert over.severity == SEVERITY["yellow"]


def test_two_spells_are_two_alerts() -> None:
    told = camera(
        ("09:00", bad("covered")), ("09:10", GOOD), ("10:00", bad("covered")), ("10:10", GOOD)
    )

    first, second = alerts(FAULT, hall_day("12:00", told))

    assert first.id != second.id
    assert (at("09:05"), at("10:05")) == (first.opened_at, second.opened_at)


@pytest.mark.parametrize("fault", PICTURE_FAULTS)
def test_every_fault_has_a_chinese_name(fault: str) -> None:
    alert = the_alert(FAULT, hall_day("10:30", camera(("10:00", bad(fault)))))

    assert FAULT_ZH[fault] in alert.title
    assert not FAULT_ZH[fault].isascii()


@pytest.mark.parametrize("fault", ["black", "dark"])
def test_black_and_dark_count_only_in_the_halls_hours(fault: str) -> None:
    told = camera(("11:57", bad(fault)))

    assert alerts(FAULT, hall_day("14:31:59", told)) == []
    assert {at("14:32"), at("14:57")} == asked(FAULT, hall_day("12:30", told))
    assert the_alert(FAULT, hall_day("14:32", told)).opened_at == at("14:32")


def test_a_picture_that_is_dark_all_night_is_told_to_nobody() -> None:
    told = camera(("18:00", bad("dark")), (at("08:29", 1), GOOD))

    assert alerts(FAULT, hall_day(at("12:00", 1), told)) == []


def test_a_picture_that_is_still_dark_on_monday_is_told_by_the_friday() -> None:
    """The 20th is taken as a Friday here: two days without hours follow."""
    hours = (span("08:30", "18:00"), span("08:30", "18:00", 3))
    told = camera(("18:30", bad("black")))
    as_of = at("08:35", 3)

    assert at("08:35", 3) in asked(FAULT, hall_day("20:00", told, hours=hours))
    alert = the_alert(FAULT, hall_day(as_of, told, hours=hours))
    assert (alert.opened_at, alert.title) == (as_of, "画面异常（黑屏）5 分钟：1号摄像机")
    assert alert.detail.endswith("since 2026-07-23 08:30.")


def test_outside_hours_the_fault_that_counts_is_named() -> None:
    told = camera(("18:30", bad("black", "blurred")))

    assert "模糊" in the_alert(FAULT, hall_day("18:35", told)).title
    tomorrow = the_alert(FAULT, hall_day(at("09:00", 1), told))
    assert "黑屏" in tomorrow.title
    assert at("08:30", 1) in asked(FAULT, hall_day("19:05", told))


def test_a_lost_camera_makes_the_spell_stand_still_until_a_picture_is_told() -> None:
    losses = ((at("10:03"), at("11:00"), ""),)
    before = camera(("10:00", bad("covered")), losses=losses)
    after = camera(("10:00", bad("covered")), ("11:10", bad("covered")), losses=losses)

    assert alerts(FAULT, hall_day("11:30", before)) == []
    assert set() == asked(FAULT, hall_day("11:30", before))
    assert alerts(FAULT, hall_day("11:11:59", after)) == []
    assert the_alert(FAULT, hall_day("11:12", after)).opened_at == at("11:12")
    assert {at("11:37")} == asked(FAULT, hall_day("11:12", after))


def test_how_long_a_picture_was_bad_leaves_out_when_it_was_unknown() -> None:
    told = camera(
        ("10:00", bad("covered")), ("10:10", UNKNOWN), ("11:00", bad("covered")), ("11:08", GOOD)
    )

    alert = the_alert(FAULT, hall_day("12:00", told))

    assert alert.title == "画面异常（遮挡）18 分钟，已恢复：1号摄像机"


def test_a_camera_lost_at_the_moment_of_its_bad_picture_shows_it_no_longer() -> None:
    told = camera(("10:00", bad("covered")), losses=((at("10:00"), None, ""),))

    assert list(FAULT.judge_hall(hall_day("12:00", told))) == []


def test_an_unknown_picture_stands_still_and_ends_nothing() -> None:
    told = camera(("10:00", bad("covered")), ("10:06", UNKNOWN), ("10:50", bad("covered")))

    early = the_alert(FAULT, hall_day("10:40", told))
    late = the_alert(FAULT, hall_day("11:13:59", told))

    assert early.id == late.id
    assert (early.severity, early.state) == (SEVERITY["notice"], "open")
    assert late.severity == SEVERITY["notice"]
    assert the_alert(FAULT, hall_day("11:14", told)).severity == SEVERITY["yellow"]


def test_a_camera_without_anything_to_compare_with_is_no_fault() -> None:
    assert list(FAULT.judge_hall(hall_day("18:00", camera(("08:00", UNKNOWN))))) == []


def test_a_black_picture_is_one_even_while_nothing_is_learned() -> None:
    told = camera(("10:00", bad("black", known=False)))

    assert "黑屏" in the_alert(FAULT, hall_day("10:05", told)).title


def test_a_spell_is_judged_on_the_date_on_which_it_began_however_long() -> None:
    told = camera(("17:00", bad("moved")), (at("09:00", 2), GOOD))
    same = camera((at("17:00"), bad("moved")), (at("09:00", 2), GOOD))

    alert = the_alert(FAULT, hall_day(at("12:00", 2), told))

    assert (alert.state, alert.ends_at) == ("resolved", at("09:00", 2))
    assert list(FAULT.judge_hall(tuesday(at("12:00", 2), same))) == []


def test_a_spell_unknown_at_midnight_is_told_by_one_date_and_the_next_by_the_other() -> None:
    night = ((at("20:00"), UNKNOWN), (at("03:00", 1), UNKNOWN))
    morning = ((at("08:00", 1), bad("covered")), (at("10:00", 1), GOOD))
    noon = at("12:00", 1)
    before = camera(("17:00", bad("covered")), *night)
    after = camera(("17:00", bad("covered")), *night, *morning)

    waiting = the_alert(FAULT, hall_day(at("07:00", 1), before))
    yesterday = the_alert(FAULT, hall_day(noon, after))
    today = the_alert(FAULT, tuesday(noon, camera(*night, *morning)))

    assert (waiting.state, waiting.ends_at) == ("open", None)
    assert ("resolved", at("08:00", 1)) == (yesterday.state, yesterday.ends_at)
    assert ("resolved", at("10:00", 1)) == (today.state, today.ends_at)
    assert yesterday.id == waiting.id != today.id


def test_what_is_told_after_as_of_is_not_there_yet() -> None:
    told = camera(("10:00", bad("covered")), ("10:20", GOOD))

    assert the_alert(FAULT, hall_day("10:10", told)).state == "open"
    assert list(FAULT.judge_hall(hall_day("09:59", told))) == []


def test_the_kept_picture_is_named() -> None:
    told = camera(
        ("10:00", bad("covered", snapshot="20260720T100000_cam-1_covered.jpg")),
        ("10:02", bad("frozen", snapshot="other.jpg")),
    )

    alert = the_alert(FAULT, hall_day("10:05", told))

    assert alert.detail.endswith("Kept picture: 20260720T100000_cam-1_covered.jpg")


def test_thresholds_of_pictures_are_settings() -> None:
    rule = msgspec.convert({"minutes": 2, "yellow_minutes": 4}, PictureFault)
    told = camera(("10:00", bad("covered")))

    assert alerts(rule, hall_day("10:01:59", told)) == []
    assert the_alert(rule, hall_day("10:04", told)).severity == SEVERITY["yellow"]


# VID-02

GAP = RecordingGap()


def recorded(*answers: tuple[str, str, Sequence[tuple[str, str]]], **facts: Any) -> DeviceDay:
    """Answers about ``[since, until]``, each given at its end."""
    told = tuple(
        (at(until), Recorded(at(since), at(until), tuple(span(*one) for one in spans)))
        for since, until, spans in answers
    )
    return camera(recorded=told, **facts)


@pytest.mark.parametrize(
    ("resumed", "count"), [("09:05", 0), ("09:05:01", 1), ("09:04:59", 0), ("10:00", 1)]
)
def test_more_than_5_minutes_without_a_recording_are_a_gap(resumed: str, count: int) -> None:
    told = recorded(("08:30", "11:00", [("08:30", "09:00"), (resumed, "11:00")]))

    found = alerts(GAP, hall_day("11:00", told))

    assert [(SEVERITY["yellow"], "resolved", at("09:05"), at(resumed))] * count == [
        (alert.severity, alert.state, alert.opened_at, alert.ends_at) for alert in found
    ]


def test_a_gap_is_told_with_its_length_once_it_is_over() -> None:
    told = recorded(("08:30", "11:00", [("08:30", "09:00"), ("10:10", "11:00")]))

    alert = the_alert(GAP, hall_day("11:00", told))

    assert alert.title == "录像中断 1 小时 10 分钟：1号摄像机 09:00–10:10 无录像"
    assert (alert.code, alert.subject) == ("VID-02", "cam-1")


def test_while_nothing_is_recorded_the_alert_stays_as_it_is() -> None:
    first = ("08:30", "10:00", [("08:30", "09:00")])
    second: tuple[str, str, list[tuple[str, str]]] = ("10:00", "11:00", [])

    early = the_alert(GAP, hall_day("10:00", recorded(first)))
    late = the_alert(GAP, hall_day("11:00", recorded(first, second)))

    assert early == late
    assert (early.state, early.title) == ("open", "录像中断：1号摄像机 自 09:00 起无录像")
    assert {MIDNIGHT + DAY} == asked(GAP, hall_day("11:00", recorded(first)))


def test_a_gap_that_goes_on_expires_at_midnight() -> None:
    told = recorded(("08:30", "18:00", [("08:30", "17:00")]))

    alert = the_alert(GAP, hall_day("24:00", told))

    assert (alert.state, alert.ends_at) == ("expired", MIDNIGHT + DAY)
    assert alert.title == "录像中断 1 小时：1号摄像机 17:00–18:00 无录像"
    assert set() == asked(GAP, hall_day("24:00", told))


def test_a_recording_after_midnight_resolves_nothing_of_the_date() -> None:
    told = recorded(("08:30", "24:30", [("08:30", "17:00"), ("24:10", "24:30")]))

    alert = the_alert(GAP, hall_day("25:00", told))

    assert (alert.state, alert.ends_at) == ("expired", MIDNIGHT + DAY)


def test_what_was_not_asked_is_unknown() -> None:
    told = recorded(
        ("08:30", "09:00", [("08:30", "09:00")]), ("10:00", "11:00", [("10:00", "11:00")])
    )

    assert alerts(GAP, hall_day("18:00", told)) == []
    assert alerts(GAP, hall_day("18:00", camera())) == []


def test_several_answers_are_taken_together() -> None:
    told = recorded(
        ("08:30", "10:00", [("08:30", "09:00")]),
        ("08:30", "11:00", [("09:00", "11:00")]),
    )

    assert len(alerts(GAP, hall_day("10:30", told))) == 1
    assert alerts(GAP, hall_day("11:00", told)) == []


def test_the_time_to_come_was_not_asked_about() -> None:
    answer = Recorded(at("08:30"), at("18:00"), (span("08:30", "09:58"),))

    assert alerts(GAP, hall_day("11:00", camera(recorded=((at("10:00"), answer),)))) == []


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([("08:00", "18:00")], []),
        ([("08:30", "11:58"), ("14:33", "18:00")], []),
        ([("08:30", "11:57"), ("14:33", "18:00")], [(at("14:32"), at("14:33"))]),
        ([("08:36", "18:00")], [(at("08:35"), at("08:36"))]),
        ([("08:35", "12:01"), ("14:29", "18:00")], []),
    ],
)
def test_only_the_halls_hours_count_and_a_gap_over_noon_is_one(
    spans: list[tuple[str, str]], expected: list[tuple[Instant, Instant]]
) -> None:
    found = alerts(GAP, hall_day("20:00", recorded(("00:00", "20:00", spans))))

    assert expected == [(alert.opened_at, alert.ends_at) for alert in found]


def test_each_gap_is_an_alert_of_its_own() -> None:
    told = recorded(
        ("08:30", "18:00", [("08:30", "09:00"), ("09:30", "10:00"), ("10:30", "18:00")])
    )

    first, second = alerts(GAP, hall_day("20:00", told))

    assert first.id != second.id
    assert (at("09:30"), at("10:30")) == (first.ends_at, second.ends_at)


def test_before_the_first_recording_of_all_nothing_is_missing() -> None:
    answer = Recorded(at("00:00"), at("12:00"), (span("10:00", "12:00"),), at("10:00"))
    older = Recorded(at("00:00") - HOUR, at("00:00"), (), MIDNIGHT - 3 * DAY)
    new = camera(recorded=((at("12:00"), answer),))
    old = camera(recorded=((at("00:00"), older), (at("12:00"), answer)))

    assert alerts(GAP, hall_day("12:00", new)) == []
    assert the_alert(GAP, hall_day("12:00", old)).opened_at == at("08:35")


def test_a_recorder_that_holds_nothing_at_all_has_a_gap() -> None:
    assert len(alerts(GAP, hall_day("10:00", recorded(("08:30", "10:00", []))))) == 1


def test_on_a_day_without_hours_nothing_is_required() -> None:
    told = recorded(("00:00", "20:00", []))

    assert alerts(GAP, hall_day("20:00", told, hours=HOURS[2:])) == []


def test_how_much_may_be_missing_is_a_setting() -> None:
    told = recorded(("08:30", "11:00", [("08:30", "09:00"), ("09:00:01", "11:00")]))

    assert len(alerts(RecordingGap(minutes=0), hall_day("11:00", told))) == 1
    assert alerts(RecordingGap(minutes=60), hall_day("11:00", told)) == []


# VID-04

SHORT = RetentionShort()


def reaching(*answers: tuple[Instant | str, float | None]) -> DeviceDay:
    """Answers with the age in days of the oldest recording."""
    told = []
    for when, days in answers:
        given_at = moment(when)
        oldest = None if days is None else round(given_at - days * DAY)
        told.append((given_at, Recorded(given_at - HOUR, given_at, (), oldest)))
    return camera(recorded=tuple(told))


def test_a_recorder_that_deletes_too_early_is_yellow() -> None:
    told = reaching((MIDNIGHT - HOUR, 20.5), ("09:00", 20))

    alert = the_alert(SHORT, hall_day("10:00", told))

    assert alert.title == "录像保存期不足：1号摄像机 仅存 20 天（要求 30 天）"
    assert (alert.code, alert.severity, alert.state) == ("VID-04", SEVERITY["yellow"], "open")
    assert (alert.opened_at, alert.ends_at) == (at("09:00"), None)
    assert {MIDNIGHT + DAY} == asked(SHORT, hall_day("10:00", told))


@pytest.mark.parametrize(("age", "count"), [(29.0, 0), (28.999, 1)])
def test_one_day_less_than_required_is_enough(age: float, count: int) -> None:
    told = reaching((MIDNIGHT - HOUR, 29.5), ("09:00", age))

    assert count == len(alerts(SHORT, hall_day("10:00", told)))


def test_a_recorder_that_fills_up_is_no_matter() -> None:
    grows = reaching((MIDNIGHT - HOUR, 4), ("08:00", 4 + 9 / 24), ("09:00", 4 + 10 / 24))

    assert alerts(SHORT, hall_day("10:00", grows)) == []
    assert alerts(SHORT, hall_day("10:00", reaching(("09:00", 4)))) == []
    assert alerts(SHORT, hall_day("10:00", reaching(("08:00", None), ("09:00", 4)))) == []


def test_an_answer_that_reaches_back_far_enough_resolves_it() -> None:
    told = reaching((MIDNIGHT - HOUR, 31), ("09:00", 20), ("11:00", 30))

    alert = the_alert(SHORT, hall_day("12:00", told))

    assert (alert.state, alert.ends_at) == ("resolved", at("11:00"))
    assert set() == asked(SHORT, hall_day("12:00", told))


@pytest.mark.parametrize(
    ("age", "state", "ends_at"), [(30.2, "resolved", at("11:00")), (20, "open", None)]
)
def test_a_later_answer_confirms_or_takes_back_that_it_reaches_back_far_enough(
    age: float, state: str, ends_at: Instant | None
) -> None:
    told = reaching((MIDNIGHT - HOUR, 31), ("09:00", 20), ("11:00", 30), ("12:00", age))

    alert = the_alert(SHORT, hall_day("13:00", told))

    assert (alert.state, alert.ends_at, alert.opened_at) == (state, ends_at, at("09:00"))


def test_the_alert_of_the_date_expires_at_midnight_and_tells_the_same_all_day() -> None:
    told = reaching((MIDNIGHT - HOUR, 20.5), ("09:00", 20), ("15:00", 19.9))

    early, late = (
        the_alert(SHORT, hall_day("10:00", told)),
        the_alert(SHORT, hall_day("16:00", told)),
    )
    over = the_alert(SHORT, hall_day("24:00", told))

    assert early == late
    assert (over.id, over.state, over.ends_at) == (early.id, "expired", MIDNIGHT + DAY)


def test_yesterdays_last_answer_is_no_alert_of_today() -> None:
    told = reaching((MIDNIGHT - 2 * HOUR, 21), (MIDNIGHT - HOUR, 20), (at("01:00", 1), 18))

    assert alerts(SHORT, hall_day(at("09:00", 1), told)) == []


def test_how_many_days_are_required_is_a_setting() -> None:
    told = reaching((MIDNIGHT - HOUR, 20.5), ("09:00", 20))

    assert alerts(RetentionShort(days=21), hall_day("10:00", told)) == []
    assert len(alerts(RetentionShort(days=90), hall_day("10:00", told))) == 1


# The figures of a month, and VID-05

MONTH_HOURS = tuple((span("08:00", "12:00", days),) for days in range(5))


def filmed(
    name: str = "cam-1",
    *,
    losses: Sequence[tuple[Instant, Instant | None]] = (),
    pictures: Sequence[tuple[Instant, Picture]] = (),
    answers: Sequence[tuple[Instant, Recorded]] = (),
) -> CameraMonth:
    return CameraMonth(name, tuple((*one, "") for one in losses), tuple(pictures), tuple(answers))


def month(
    *cameras: CameraMonth,
    as_of: Instant = MIDNIGHT + 5 * DAY,
    first: Instant | None = MIDNIGHT - DAY,
) -> VideoMonth:
    seen = tuple((one.device, first) for one in cameras)
    return VideoMonth(cameras, seen, MONTH_HOURS, as_of)


def figures(told: CameraMonth, **facts: Any) -> VideoFigures:
    return month_figures(month(told, **facts))[told.device]


def test_minutes_online_are_those_in_required_hours() -> None:
    told = filmed(losses=[(at("07:00"), at("08:30")), (at("11:50", 1), at("15:00", 1))])

    assert figures(told).online == Ratio(1200 - 30 - 10, 1200)


def test_a_loss_that_lasts_counts_until_now_and_the_time_to_come_on_neither_side() -> None:
    told = filmed(losses=[(at("09:00", 1), None)])

    assert figures(told, as_of=at("10:00", 1)).online == Ratio(300, 360)


def test_time_before_a_camera_was_first_seen_is_on_neither_side() -> None:
    found = figures(filmed(losses=[(at("08:00"), at("12:00"))]), first=at("10:00", 3))

    assert found.online == Ratio(120 + 240, 360)
    assert found.healthy == Ratio(2, 2)
    assert figures(filmed(), first=None) == VideoFigures()


@pytest.mark.parametrize(("back", "good"), [("09:14:59", 5), ("09:15", 4)])
def test_15_minutes_offline_in_a_days_hours_are_a_day_with_a_fault(back: str, good: int) -> None:
    assert figures(filmed(losses=[(at("09:00"), at(back))])).healthy == Ratio(good, 5)


def test_short_losses_of_a_day_add_up() -> None:
    twice = [(at("08:00"), at("08:08")), (at("10:00"), at("10:07"))]

    assert figures(filmed(losses=twice)).healthy == Ratio(4, 5)
    assert figures(filmed(losses=[twice[0], (at("10:00", 1), at("10:07", 1))])).healthy == Ratio(
        5, 5
    )
    assert figures(filmed(losses=[(at("12:00"), at("08:00", 1))])).healthy == Ratio(5, 5)


@pytest.mark.parametrize(("good", "days"), [("09:29:59", 5), ("09:30", 4)])
def test_30_minutes_of_a_bad_picture_are_a_day_with_a_fault(good: str, days: int) -> None:
    told = filmed(pictures=[(at("09:00"), bad("dark")), (at(good), GOOD)])

    assert figures(told).healthy == Ratio(days, 5)


def test_a_bad_picture_counts_until_the_camera_is_lost() -> None:
    pictures = [(at("09:00"), bad("covered")), (at("11:40"), bad("covered")), (at("11:50"), GOOD)]
    told = filmed(pictures=pictures, losses=[(at("09:19"), at("09:30"))])
    longer = filmed(pictures=pictures, losses=[(at("09:20"), at("09:30"))])

    assert figures(told).healthy == Ratio(5, 5)
    assert figures(longer).healthy == Ratio(4, 5)


def test_a_bad_picture_of_last_month_that_goes_on_is_a_fault_of_each_day() -> None:
    assert figures(filmed(pictures=[(MIDNIGHT - DAY, bad("moved"))])).healthy == Ratio(0, 5)


def test_recorded_minutes_are_of_those_that_were_asked_about() -> None:
    answer = Recorded(at("07:00"), at("11:00"), (span("07:00", "08:30"), span("10:00", "11:00")))

    assert figures(filmed(answers=[(at("11:00"), answer)])).recorded == Ratio(90, 180)
    assert figures(filmed()).recorded == Ratio(0, 0)


def test_the_halls_figures_are_the_sums() -> None:
    one = filmed("cam-1", losses=[(at("08:00"), at("10:00"))])
    told = month_figures(month(one, filmed("cam-2")))

    found = hall_figures(told.values())

    assert found.online == Ratio(2400 - 120, 2400)
    assert found.healthy == Ratio(9, 10)


moments = st.integers(-20, 5 * 48).map(lambda halves: MIDNIGHT + halves * 30 * MINUTE)


@given(
    st.lists(st.tuples(moments, st.one_of(st.none(), moments)), max_size=5),
    st.lists(st.tuples(moments, st.sampled_from([GOOD, UNKNOWN, bad("covered")])), max_size=6),
    st.lists(st.tuples(moments, moments, moments, st.one_of(st.none(), moments)), max_size=4),
    moments,
    st.one_of(st.none(), moments),
)
def test_no_share_of_a_month_is_more_than_the_whole(
    losses: list[tuple[Instant, Instant | None]],
    pictures: list[tuple[Instant, Picture]],
    answers: list[tuple[Instant, Instant, Instant, Instant | None]],
    as_of: Instant,
    first: Instant | None,
) -> None:
    told = [
        (until, Recorded(since, until, ((since, half),), oldest))
        for since, half, until, oldest in answers
    ]
    found = figures(
        filmed(losses=losses, pictures=pictures, answers=told), as_of=as_of, first=first
    )

    for ratio in (found.online, found.healthy, found.recorded):
        assert 0 <= ratio.n <= ratio.of
    assert found.recorded.of <= found.online.of


HEALTH = VideoHealth()


def last_of_month(as_of: Instant, good: int, of: int) -> HallDay:
    """The 31st of July with cameras of a single required day, ``good`` of them in order."""
    cameras = tuple(
        filmed(f"cam-{one}", losses=() if one < good else [(at("08:00"), at("09:00"))])
        for one in range(of)
    )
    told = VideoMonth(
        cameras, tuple((one.device, MIDNIGHT) for one in cameras), MONTH_HOURS[:1], as_of
    )
    return hall_day(
        as_of,
        camera(),
        work_date=date(2026, 7, 31),
        month=told if as_of >= MIDNIGHT + DAY else None,
    )


@pytest.mark.parametrize(("good", "of", "count"), [(95, 100, 0), (94, 100, 1), (19, 20, 0)])
def test_less_than_95_percent_of_the_camera_days_in_order_is_yellow(
    good: int, of: int, count: int
) -> None:
    found = alerts(HEALTH, last_of_month(at("24:00"), good, of))

    assert count == len(found)
    for alert in found:
        assert alert.title == "2026-07 视频完好率 94%（94/100），低于 95%"
        assert (alert.code, alert.subject_kind) == ("VID-05", "hall")
        assert (alert.severity, alert.state) == (SEVERITY["yellow"], "open")
        assert (alert.opened_at, alert.ends_at) == (MIDNIGHT + DAY, None)


def test_the_month_is_judged_when_it_is_over_and_the_alert_stands_for_a_week() -> None:
    week = MIDNIGHT + 8 * DAY

    assert list(HEALTH.judge_hall(last_of_month(at("23:59"), 1, 9))) == [AskAgain(MIDNIGHT + DAY)]
    assert {week} == asked(HEALTH, last_of_month(week - 1, 1, 9))
    early = the_alert(HEALTH, last_of_month(week - 1, 1, 9))
    late = the_alert(HEALTH, last_of_month(week, 1, 9))
    assert early.id == late.id
    assert ("open", "expired", week) == (early.state, late.state, late.ends_at)
    assert set() == asked(HEALTH, last_of_month(week, 1, 9))


def test_other_dates_and_halls_without_cameras_say_nothing_of_the_month() -> None:
    day = last_of_month(at("24:00"), 1, 9)

    other = msgspec.structs.replace(day, work_date=date(2026, 7, 30))
    assert list(HEALTH.judge_hall(other)) == []
    bare = hall_day("12:00", camera(camera=False), work_date=date(2026, 7, 31))
    assert list(HEALTH.judge_hall(bare)) == []
    assert list(HEALTH.judge_hall(last_of_month(at("24:00"), 0, 0))) == []


def test_the_required_share_is_a_setting() -> None:
    assert alerts(VideoHealth(percent=90), last_of_month(at("24:00"), 90, 100)) == []
    assert len(alerts(VideoHealth(percent=100), last_of_month(at("24:00"), 99, 100))) == 1


# VID-06

UPKEEP = CameraUpkeep()


def by_state(day: HallDay) -> dict[str, Alert]:
    """Alerts about faults, by what was not done."""
    return {
        "acknowledge" if "确认" in alert.title else "mend": alert for alert in alerts(UPKEEP, day)
    }


def test_cameras_without_a_technician_are_one_notice_on_working_days() -> None:
    cameras = [camera(name=f"cam-{n}", maintainer="") for n in range(2, 9)]
    day = hall_day("08:30", camera(), *cameras, camera(name="gate", camera=False, maintainer=""))

    alert = the_alert(UPKEEP, day)

    assert alert.title == "7 个视频点位未指定维护人员：cam-2、cam-3、cam-4、cam-5、cam-6等"
    assert (alert.code, alert.subject_kind, alert.severity) == ("VID-06", "hall", 1)
    assert (alert.opened_at, alert.state) == (at("08:30"), "open")
    assert {MIDNIGHT + DAY} == asked(UPKEEP, day)


def test_the_notice_about_technicians_is_of_the_date() -> None:
    told = camera(maintainer="")

    assert list(UPKEEP.judge_hall(hall_day("08:29", told))) == [AskAgain(at("08:30"))]
    alert = the_alert(UPKEEP, hall_day("24:00", told))
    assert (alert.state, alert.ends_at) == ("expired", MIDNIGHT + DAY)
    assert set() == asked(UPKEEP, hall_day("24:00", told))
    rest = hall_day("12:00", told, kind=DayKind("rest", "weekly"))
    assert list(UPKEEP.judge_hall(rest)) == []


@pytest.mark.parametrize(("as_of", "count"), [("15:32:59", 0), ("15:33", 1)])
def test_a_lost_camera_that_nobody_acknowledges_in_4_working_hours_is_yellow(
    as_of: str, count: int
) -> None:
    """Told at 10:03: 1 h 57 min before noon, and 2 h 3 min after the hall opens again at 13:30."""
    hours = (span("08:30", "12:00"), span("13:30", "18:00"))
    day = hall_day(as_of, lost(("10:00", None)), hours=hours)

    found = alerts(UPKEEP, day)

    assert [(SEVERITY["yellow"], at("15:33"), "open")] * count == [
        (alert.severity, alert.opened_at, alert.state) for alert in found
    ]
    if found:
        title = "视频故障 4 个工作小时内无人确认：1号摄像机 离线（维护：孙工）"
        assert found[0].title == title
    else:
        assert {at("15:33"), at("10:03", 1)} == asked(UPKEEP, day)


def test_working_hours_go_on_on_the_next_working_day() -> None:
    day = hall_day(at("15:00", 1), lost(("17:57", None)))

    assert by_state(day)["acknowledge"].opened_at == at("15:00", 1)
    assert "acknowledge" not in by_state(hall_day(at("14:59", 1), lost(("17:57", None))))


@pytest.mark.parametrize(("acted", "told"), [("16:33", False), ("16:33:01", True)])
def test_the_alert_that_was_opened_is_the_one_to_acknowledge(acted: str, told: bool) -> None:
    device = lost(("10:00", None))
    vid_01 = the_alert(OFFLINE, hall_day("12:00", device))
    told_of = ((vid_01.id, at(acted)), (vid_01.id, at("17:30")), ("other", at("10:05")))
    day = hall_day("18:00", device, acted=told_of)

    found = by_state(day)

    assert ("acknowledge" in found) == told
    if told:
        late = found["acknowledge"]
        assert ("resolved", at("16:33"), at(acted)) == (late.state, late.opened_at, late.ends_at)


def test_an_acknowledgement_after_the_fault_was_over_changes_nothing() -> None:
    device = lost(("10:00", "17:00"))
    vid_01 = the_alert(OFFLINE, hall_day("12:00", device))

    late = by_state(hall_day("18:00", device, acted=((vid_01.id, at("17:30")),)))

    assert late["acknowledge"].ends_at == at("17:00")


def test_an_acknowledgement_to_come_is_not_there_yet() -> None:
    device = lost(("10:00", None))
    vid_01 = the_alert(OFFLINE, hall_day("12:00", device))

    day = hall_day("16:40", device, acted=((vid_01.id, at("17:00")),))

    assert by_state(day)["acknowledge"].state == "open"


@pytest.mark.parametrize(("back", "count"), [("16:33", 0), ("16:33:01", 1)])
def test_a_fault_that_is_over_in_time_needs_nobody(back: str, count: int) -> None:
    found = alerts(UPKEEP, hall_day("20:00", lost(("10:00", back))))

    assert [("resolved", at(back))] * count == [(alert.state, alert.ends_at) for alert in found]


@pytest.mark.parametrize(("as_of", "told"), [("10:02:59", False), ("10:03", True)])
def test_what_is_not_mended_in_24_hours_is_yellow_though_acknowledged(
    as_of: str, told: bool
) -> None:
    device = lost(("10:00", None))
    vid_01 = the_alert(OFFLINE, hall_day("12:00", device))
    acted = ((vid_01.id, at("10:30")),)

    found = by_state(hall_day(at(as_of, 1), device, acted=acted))

    assert set(found) == ({"mend"} if told else set())
    if told:
        assert found["mend"].title == "视频故障 24 小时未修复：1号摄像机 离线（维护：孙工）"
        assert found["mend"].severity == SEVERITY["yellow"]
        assert found["mend"].state == "open"


def test_what_is_mended_late_is_resolved() -> None:
    device = camera(losses=((at("10:00"), at("09:00", 3), ""),))

    found = by_state(hall_day(at("12:00", 3), device))

    assert {name: alert.state for name, alert in found.items()} == {
        "acknowledge": "resolved",
        "mend": "resolved",
    }
    assert {at("09:00", 3)} == {alert.ends_at for alert in found.values()}
    assert len({alert.id for alert in found.values()}) == 2


def test_a_bad_picture_is_looked_after_like_a_loss() -> None:
    device = camera(("10:00", bad("covered")))
    vid_03 = the_alert(FAULT, hall_day("11:00", device))

    early = by_state(hall_day("16:35", device))
    acted = by_state(hall_day("18:00", device, acted=((vid_03.id, at("16:35")),)))
    late = by_state(hall_day(at("10:05", 1), device))

    assert early["acknowledge"].opened_at == at("16:35")
    assert early["acknowledge"].title == (
        "视频故障 4 个工作小时内无人确认：1号摄像机 画面异常（遮挡）（维护：孙工）"
    )
    assert acted == {}
    assert late["mend"].opened_at == at("10:05", 1)


def test_a_picture_that_was_bad_for_a_moment_needs_nobody() -> None:
    told = camera(("10:00", bad("covered")), ("10:04:59", GOOD))

    assert list(UPKEEP.judge_hall(hall_day(at("12:00", 2), told))) == []


def test_a_flapping_camera_is_to_be_acknowledged_by_its_own_alert() -> None:
    flaps = [(f"10:0{minute}", f"10:0{minute}:30") for minute in range(4)]
    flaps += [
        (f"{hour}:{minute:02}", f"{hour}:{minute + 5:02}")
        for hour in range(10, 18)
        for minute in range(0 if hour > 10 else 10, 60, 10)
    ]
    device = lost(*flaps)
    vid_01 = the_alert(OFFLINE, hall_day("17:30", device))

    late = by_state(hall_day("17:30", device))
    good = by_state(hall_day("17:30", device, acted=((vid_01.id, at("11:00")),)))

    assert "flapping" in vid_01.title
    assert set(late) == {"acknowledge"}
    assert good == {}


def test_a_camera_that_was_lost_with_the_hall_is_left_out() -> None:
    devices = (lost(("10:00", None)), lost(("10:00", None), name="gate-1", camera=False))

    assert alerts(OFFLINE, hall_day("12:00", *devices))[0].code == "DEV-02"
    assert list(UPKEEP.judge_hall(hall_day(at("12:00", 3), *devices))) == []


def test_a_camera_that_stays_away_when_the_hall_is_back_is_to_be_looked_after() -> None:
    devices = (
        lost(("10:00", None)),
        lost(("10:00", "10:30"), name="gate-1", camera=False),
        lost(("10:00", "10:30"), name="gate-2", camera=False),
    )

    assert asked(UPKEEP, hall_day("10:31", *devices)) == {at("10:33")}
    assert asked(UPKEEP, hall_day("10:33", *devices)) == {at("16:33"), at("10:03", 1)}


def test_other_devices_need_no_technician_and_no_acknowledgement() -> None:
    told = lost(("10:00", None), camera=False, maintainer="")

    assert list(UPKEEP.judge_hall(hall_day(at("12:00", 3), told))) == []


def test_alerts_are_opened_as_the_rules_about_them_open_them_by_default() -> None:
    rule = OFFLINE
    limits = (rule.minutes * MINUTE, rule.flap_losses, rule.flap_minutes * MINUTE)

    assert Patience(*limits, rule.stable_minutes * MINUTE) == PATIENCE
    assert (rule.hall_percent, rule.hall_minutes * MINUTE) == (HALL_PERCENT, HALL_WITHIN)
    assert FAULT.minutes * MINUTE == PICTURE_PATIENCE


def test_the_limits_of_upkeep_are_settings() -> None:
    rule = msgspec.convert({"acknowledge_hours": 1, "mend_hours": 2}, CameraUpkeep)
    day = hall_day("12:03", lost(("10:00", None)))

    assert {at("11:03"), at("12:03")} == {alert.opened_at for alert in alerts(rule, day)}


def test_without_known_hours_nobody_is_late() -> None:
    day = hall_day(at("12:00", 1), lost(("10:00", None)), hours=())

    assert set(by_state(day)) == {"mend"}


# What holds on every day

RULES: list[HallRule] = [FAULT, GAP, SHORT, UPKEEP, OFFLINE]
minutes = st.integers(0, 30 * 12).map(lambda five: at("06:00") + five * 5 * MINUTE)


@st.composite
def camera_days(draw: st.DrawFn) -> DeviceDay:
    turns = sorted(draw(st.sets(minutes, max_size=8)))
    states = st.sampled_from([GOOD, UNKNOWN, bad("covered"), bad("dark"), bad("black", "blurred")])
    cuts = sorted(draw(st.sets(minutes, max_size=4)))
    losses = [(one, other, "") for one, other in zip(cuts[::2], cuts[1::2], strict=False)]
    answers = []
    for until in sorted(draw(st.sets(minutes, max_size=4))):
        since, first = (until - draw(st.integers(1, 40)) * 5 * MINUTE for _ in range(2))
        age = draw(st.integers(20, 32)) * DAY
        answers.append((until, Recorded(since, until, ((since, first),), until - age)))
    return camera(
        *((turn, draw(states)) for turn in turns),
        losses=tuple(losses),
        recorded=tuple(answers),
        maintainer=draw(st.sampled_from(["", "孙工"])),
    )


def changes(device: DeviceDay) -> set[Instant]:
    found = {turn for turn, _ in device.pictures} | {told for told, _ in device.recorded}
    return found | {one for out, back, _ in device.losses for one in (out, back) if one is not None}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(camera_days())
def test_between_what_is_told_and_the_moments_asked_for_nothing_changes(
    rule: HallRule, device: DeviceDay
) -> None:
    told, now, end = changes(device), at("05:00"), at("12:00", 3)
    while now < end:
        day = hall_day(now, device)
        until = min([*(one for one in asked(rule, day) | told if one > now), end])

        assert alerts(rule, day) == alerts(rule, hall_day(until - 1, device))
        assert all(alert.opened_at <= now for alert in alerts(rule, day))
        assert len({alert.id for alert in alerts(rule, day)}) == len(alerts(rule, day))
        now = until


@given(camera_days(), st.lists(st.integers(1, 12 * 40), min_size=1, max_size=3))
def test_a_bad_picture_that_was_told_is_not_taken_back(device: DeviceDay, steps: list[int]) -> None:
    now, before = at("06:00"), dict[str, Alert]()
    for step in steps:
        now += step * 5 * MINUTE
        found = {alert.id: alert for alert in alerts(FAULT, hall_day(now, device))}

        for id_, alert in before.items():
            assert found[id_].opened_at == alert.opened_at
            assert found[id_].severity >= alert.severity
            assert alert.ends_at in (None, found[id_].ends_at)
        before = found


@given(camera_days())
def test_each_date_tells_its_own_bad_pictures(device: DeviceDay) -> None:
    """Tuesday sees the last picture of Monday, and what follows: no spell is told by both."""
    as_of = at("12:00", 3)
    before = [one for one in device.pictures if one[0] < MIDNIGHT + DAY]
    rest = [one for one in device.pictures if one[0] >= MIDNIGHT + DAY]
    second = msgspec.structs.replace(device, pictures=(*before[-1:], *rest))

    monday = alerts(FAULT, hall_day(as_of, device))
    next_day = alerts(FAULT, tuesday(as_of, second))

    assert {one.id for one in monday}.isdisjoint(one.id for one in next_day)
    for one in monday:
        for other in next_day:
            assert one.ends_at is not None
            assert one.ends_at <= other.opened_at - 5 * MINUTE
