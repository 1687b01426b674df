"""The rows the outside sees.

The ``wire_*`` functions are pure and are used for answers, for the rows of the change feed and for
messages, so that a row reads the same wherever it is met.  What they return is ready for
``msgspec.json.encode``.  Inside, instants are milliseconds; here they are RFC 3339 text with the
hall's offset.  ``api.shapes`` describes the same rows for OpenAPI.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from rules.counter import (
    AreaRecord,
    Durations,
    RatingRecord,
    Service,
    WindowFigures,
    WindowRecord,
)
from rules.model import (
    MINUTE,
    TRUST,
    Absence,
    Adjustment,
    Alert,
    DayRecord,
    HalfDay,
    Instant,
    Punch,
    Slot,
    Violation,
)
from rules.post import PostRecord

Row = dict[str, Any]
NO_SERIALS: Mapping[str, str] = MappingProxyType({})

VERDICT_ZH = {
    "pending": "未到时",
    "ok": "正常",
    "late": "迟到",
    "serious_late": "严重迟到",
    "early_leave": "早退",
    "serious_early_leave": "严重早退",
    "absent_class": "达到旷工时限",
    "missing_punch": "缺卡",
    "unverified": "待核",
    "present": "出勤",
    "absent": "旷工",
    "absent_half": "旷工半天",
    "absent_half_contested": "旷工半天(存疑)",
    "absent_day": "旷工一天",
    "excused": "已免责",
    "leave": "请假",
    "rest": "休息",
    "off": "无需出勤",
}
"""Verdicts of slots, half-days and days in the words of hall staff."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = -62_135_000_000_000
_LAST = 253_402_000_000_000


@lru_cache(maxsize=8192)
def instant_text(at: Instant, zone: ZoneInfo) -> str:
    """RFC 3339 with the hall's offset; milliseconds only where there are any.

    Terminals have claimed impossible times: what is outside the years 1 to 9999 becomes the nearest
    day inside, so that one such reading does not hide the rows beside it.
    """
    if not _FIRST <= at <= _LAST:
        at = _FIRST if at < _FIRST else _LAST
    moment = (_EPOCH + timedelta(milliseconds=at)).astimezone(zone)
    return moment.isoformat(timespec="milliseconds" if at % 1000 else "seconds")


def _text_or_none(at: Instant | None, zone: ZoneInfo) -> str | None:
    return None if at is None else instant_text(at, zone)


class DayBody(Struct, frozen=True):
    """``DayRecord`` without its slots, as the day's row keeps it."""

    person: str
    unit: str
    work_date: date
    day_kind: str
    calendar: str
    verdict: str
    attended: float
    expected: float
    halves: tuple[HalfDay, ...]
    strays: tuple[str, ...]
    finality: str
    favoured: bool
    rule_version: str


class DayKey(Struct, frozen=True):
    """What a slot's row repeats of its day; decodes from the day's body."""

    person: str
    unit: str
    work_date: date
    rule_version: str


class WireSlot(Struct, frozen=True, gc=False):
    """A slot's row.  A structure and not a dict because a page of them is made twice as fast."""

    person_code: str
    unit: str
    work_date: date
    segment: str
    slot: str
    target: str
    opens: str
    closes: str
    event_time: str | None
    verdict: str
    verdict_zh: str
    minutes: int
    finality: str
    revision: int
    absence_ref: str
    evidence: tuple[str, ...]
    device: str
    device_sn: str
    source: str
    path: str
    flags: tuple[str, ...]
    rule_version: str
    updated_at: str


class WireHalf(Struct, frozen=True, gc=False):
    """A half-day within a day's row."""

    segment: str
    verdict: str
    verdict_zh: str
    findings: tuple[str, ...]
    minutes_due: int
    weight: float
    excused_as: str
    finality: str
    live: str


def wire_slot(
    slot: Slot,
    day: DayRecord | DayBody | DayKey,
    zone: ZoneInfo,
    revision: int,
    changed_at: Instant,
    serials: Mapping[str, str] = NO_SERIALS,
) -> WireSlot:
    """考勤点.  ``serials`` maps device ids to what the devices call themselves; where a serial is
    not known the device's id stands for it."""
    device = slot.device
    verdict = slot.verdict
    return WireSlot(
        day.person,
        day.unit,
        day.work_date,
        slot.segment,
        slot.slot,
        instant_text(slot.target, zone),
        instant_text(slot.opens, zone),
        instant_text(slot.closes, zone),
        _text_or_none(slot.event_time, zone),
        verdict,
        VERDICT_ZH.get(verdict, verdict),
        slot.minutes,
        slot.finality,
        revision,
        slot.absence_ref,
        slot.evidence,
        device,
        serials.get(device, device),
        slot.source,
        slot.path,
        slot.flags,
        day.rule_version,
        instant_text(changed_at, zone),
    )


def wire_day(
    record: DayRecord | DayBody,
    zone: ZoneInfo,
    revision: int,
    changed_at: Instant,
    *,
    points: float,
    serials: Mapping[str, str] = NO_SERIALS,
) -> Row:
    """考勤日.  A ``DayRecord`` brings its slots along (rows of the change feed and messages); the
    listing of days is made from the body alone and leaves them out."""
    row: Row = {
        "person_code": record.person,
        "unit": record.unit,
        "work_date": record.work_date,
        "day_kind": record.day_kind,
        "calendar": record.calendar,
        "verdict": record.verdict,
        "verdict_zh": VERDICT_ZH.get(record.verdict, record.verdict),
        "attended": record.attended,
        "expected": record.expected,
        "points": points,
        "halves": [_wire_half(half) for half in record.halves],
        "strays": record.strays,
        "finality": record.finality,
        "favoured": record.favoured,
        "rule_version": record.rule_version,
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }
    if isinstance(record, DayRecord):
        row["slots"] = [
            wire_slot(slot, record, zone, revision, changed_at, serials) for slot in record.slots
        ]
    return row


def _wire_half(half: HalfDay) -> WireHalf:
    return WireHalf(
        half.segment,
        half.verdict,
        VERDICT_ZH.get(half.verdict, half.verdict),
        half.findings,
        half.minutes_due,
        half.weight,
        half.excused_as,
        half.finality,
        half.live,
    )


def wire_violation(
    violation: Violation,
    zone: ZoneInfo,
    *,
    state: str,
    reason: str,
    revision: int,
    changed_at: Instant,
    window: str = "",
) -> Row:
    """违规.  ``state`` is ``active`` or ``withdrawn``; ``reason`` says why it was withdrawn."""
    return {
        "id": violation.id,
        "rule": violation.rule,
        "code": violation.code,
        "person_code": violation.person,
        "unit": violation.unit,
        "work_date": violation.work_date,
        "segment": violation.segment,
        "window": window,
        "severity": violation.severity,
        "points": violation.points,
        "minutes": violation.minutes,
        "since": instant_text(violation.since, zone),
        "until": instant_text(violation.until, zone),
        "finality": violation.finality,
        "state": state,
        "reason": reason,
        "title": violation.title,
        "detail": violation.detail,
        "flags": violation.flags,
        "evidence": violation.evidence,
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


def alert_state(state: str, acknowledged_at: Instant | None) -> str:
    """An open alert that somebody acknowledged is ``acknowledged``; every other state stands."""
    return "acknowledged" if state == "open" and acknowledged_at is not None else state


def wire_alert(
    alert: Alert,
    zone: ZoneInfo,
    *,
    work_date: str,
    state: str,
    reason: str,
    acknowledged_by: str,
    acknowledged_at: Instant | None,
    note: str,
    revision: int,
    changed_at: Instant,
) -> Row:
    """告警.  ``state`` as stored (``open resolved converted expired withdrawn``); on the wire an
    open one that was acknowledged reads ``acknowledged``."""
    return {
        "id": alert.id,
        "rule": alert.rule,
        "code": alert.code,
        "subject_kind": alert.subject_kind,
        "subject": alert.subject,
        "unit": alert.unit,
        "work_date": work_date,
        "severity": alert.severity,
        "opened_at": instant_text(alert.opened_at, zone),
        "ends_at": _text_or_none(alert.ends_at, zone),
        "state": alert_state(state, acknowledged_at),
        "reason": reason,
        "title": alert.title,
        "detail": alert.detail,
        "evidence": alert.evidence,
        "inhibited_by": alert.inhibited_by,
        "acknowledged_by": acknowledged_by,
        "acknowledged_at": _text_or_none(acknowledged_at, zone),
        "note": note,
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


def wire_device(
    device: str,
    zone: ZoneInfo,
    *,
    state: str,
    since: Instant,
    reason: str,
    clock_offset: int | None,
    clock_at: Instant | None,
    complete_until: Instant,
    last_reading_at: Instant | None,
    punches: int,
    unreadable: int,
    info: Mapping[str, Any],
) -> Row:
    """设备.  ``clock_offset_ms`` is the device's clock minus ours; ``complete_until`` is the
    watermark: everything the device recorded until then is held.  ``info`` is what it says of
    itself."""
    return {
        "id": device,
        "state": state,
        "since": instant_text(since, zone),
        "reason": reason,
        "clock_offset_ms": clock_offset,
        "clock_checked_at": _text_or_none(clock_at, zone),
        "complete_until": instant_text(complete_until, zone) if complete_until else None,
        "last_reading_at": _text_or_none(last_reading_at, zone),
        "punches": punches,
        "unreadable": unreadable,
        "info": info,
    }


def wire_adjustment(
    adjustment: Adjustment, zone: ZoneInfo, *, revision: int, changed_at: Instant
) -> Row:
    """月结后更正: a change to a locked day, booked in ``period``."""
    return {
        "id": adjustment.id,
        "person_code": adjustment.person,
        "unit": adjustment.unit,
        "work_date": adjustment.work_date,
        "period": adjustment.period,
        "points_before": adjustment.points_before,
        "points_after": adjustment.points_after,
        "verdict_before": adjustment.verdict_before,
        "verdict_after": adjustment.verdict_after,
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


def wire_punch(
    punch: Punch,
    zone: ZoneInfo,
    *,
    reading_id: bytes,
    device: str,
    serial: str,
    at: Instant,
    received_at: Instant,
    event_at: Instant,
    trust: int,
    earliest: Instant,
) -> Row:
    """打卡, as received and judged or not.  ``device_time`` is what the terminal claimed,
    ``event_time`` when it happened as far as is known.  A quarantined punch happened somewhere from
    ``earliest`` to ``event_time``."""
    how = TRUST[trust]
    return {
        "id": reading_id.hex(),
        "person_code": punch.person,
        "device": device,
        "device_sn": serial,
        "device_time": instant_text(at, zone),
        "received_time": instant_text(received_at, zone),
        "event_time": instant_text(event_at, zone),
        "trust": how,
        "earliest": instant_text(earliest, zone) if how == "quarantined" else None,
        "source": punch.source,
        "live": punch.live,
        "verify": punch.verify,
        "state": punch.state,
        "record_no": punch.record_no,
        "work_code": punch.work_code,
        "note": punch.note,
    }


def wire_absence(
    absence: Absence, zone: ZoneInfo, *, received_at: Instant, revoked: str | None
) -> Row:
    """请假、外出、培训、集体免责.  ``revoked`` is why it was revoked, none while it holds."""
    return {
        "id": absence.absence_id,
        "people": absence.people,
        "kind": absence.kind,
        "starts": instant_text(absence.starts, zone),
        "ends": instant_text(absence.ends, zone),
        "punch_required": absence.punch_required,
        "approved_by": absence.approved_by,
        "source": absence.source,
        "note": absence.note,
        "state": "approved" if revoked is None else "revoked",
        "reason": revoked or "",
        "received_at": instant_text(received_at, zone),
    }


WINDOW_ZH = {
    "idle": "空闲",
    "calling": "叫号中",
    "serving": "办理中",
    "finished": "办结待评价",
    "paused": "暂停服务",
    "closed": "关闭",
    "unknown": "未知",
}


def window_event(before: WindowRecord | None, now: WindowRecord, new_call: bool) -> str:
    """What happened at the window between two states, in the words of queue events; empty if
    nothing did."""
    if new_call and now.last_call is not None:
        return now.last_call.kind
    was = "unknown" if before is None else before.state
    if was == now.state:
        return ""
    if now.state == "idle":
        if was in ("paused", "closed"):
            return "window_resumed" if was == "paused" else "window_opened"
        if was == "finished":
            return ""
        ended = now.services[-1].ended if now.services else ""
        return ended if ended in ("finished", "abandoned", "held", "transferred") else ""
    return {
        "serving": "started",
        "finished": "finished",
        "paused": "window_paused",
        "closed": "window_closed",
    }.get(now.state, "")


def wire_window(
    record: WindowRecord,
    zone: ZoneInfo,
    call_seq: int | None,
    event: str,
    revision: int,
    changed_at: Instant,
) -> Row:
    """窗口叫号状态.  ``call_seq`` rises with every call and recall in the hall; ``event`` is what
    just happened, empty where the row only says more.  ``waiting`` is none where unknown."""
    return {
        "window": record.window.id,
        "name": record.window.name,
        "area": record.window.area,
        "unit": record.window.unit,
        "work_date": record.work_date.isoformat(),
        "state": record.state,
        "state_zh": WINDOW_ZH.get(record.state, record.state),
        "since": _text_or_none(record.since, zone),
        "ticket": record.ticket,
        "queue": record.queue,
        "person_code": record.person,
        "called_at": _text_or_none(record.called_at, zone),
        "repeat": record.repeat,
        "call_seq": call_seq,
        "waiting": record.waiting,
        "stale": record.state == "unknown",
        "event": event,
        "event_at": _text_or_none(record.last_call.at, zone)
        if event in ("called", "recalled") and record.last_call
        else _text_or_none(record.since, zone),
        "figures": wire_figures(record.figures),
        "unmatched_shown": [
            {"ticket": one.ticket, "since": instant_text(one.since, zone), "device": one.device}
            for one in record.unmatched_shown
            if one.until is None
        ],
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


POST_ZH = {
    "present": "在岗", "still": "在岗（久未活动）", "away": "离岗", "excused": "暂停服务",
    "learning": "学习中", "unknown": "未知", "closed": "非工作时间",
}  # fmt: skip


def wire_post(
    post: PostRecord, zone: ZoneInfo, work_date: str, revision: int, changed_at: Instant
) -> Row:
    """在岗状态 of a window's post on a date; ``state`` is as of ``updated_at``.  A vacancy's
    ``ended_at`` is none while it goes on; its ``minutes`` are then those so far."""
    return {
        "window": post.window,
        "work_date": work_date,
        "state": post.state,
        "state_zh": POST_ZH[post.state],
        "since": instant_text(post.since, zone),
        "evidence": post.evidence,
        "staffed_minutes": post.figures.staffed,
        "unknown_minutes": post.figures.unknown,
        "vacancies": [
            {
                "id": one.id,
                "segment": one.segment,
                "began_at": instant_text(one.began_at, zone),
                "ended_at": _text_or_none(one.ended_at, zone),
                "minutes": one.lasted // MINUTE,
                "left": one.left,
                "person_code": one.person,
                "people": one.people,
                "signals": one.signals,
                "confirmed": one.confirmed,
                "review": one.review,
                "waiting": one.waiting,
                "snapshots": one.snapshots,
                "evidence": one.readings,
            }
            for one in post.vacancies
        ],
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


def wire_figures(figures: WindowFigures) -> Row:
    """Counts of a window's date; every share as ``n`` of ``of``, scales apart."""
    return {
        "called": figures.called,
        "finished": figures.finished,
        "abandoned": figures.abandoned,
        "held": figures.held,
        "transferred": figures.transferred,
        "ended_unknown": figures.ended_unknown,
        "rated": figures.rated,
        "prompted": figures.prompted,
        "scales": figures.scales,
        "additional": figures.additional,
        "unmatched": figures.unmatched,
        "unrated_presses": figures.unrated_presses,
        "waits": _wire_durations(figures.waits),
        "services": _wire_durations(figures.services),
        "callbacks": figures.callbacks,
        "rectified": figures.rectified,
        "in_time": figures.in_time,
        "hours": [
            {
                "hour": hour.hour,
                "called": hour.called,
                "finished": hour.finished,
                "abandoned": hour.abandoned,
                "waits": _wire_durations(hour.waits),
                "services": _wire_durations(hour.services),
            }
            for hour in figures.hours
        ],
    }


def _wire_durations(told: Durations) -> Row:
    return {
        "n": told.n,
        "minutes_sum": round(told.total / 60_000, 3),
        "mean_minutes": told.mean,
        "longest_minutes": told.longest,
    }


def wire_service(service: Service, zone: ZoneInfo, window: str, work_date: str) -> Row:
    """一次办理: a ticket at a window, from calling to its end."""
    return {
        "window": window,
        "work_date": work_date,
        "ticket": service.ticket,
        "queue": service.queue,
        "service_code": service.service_code,
        "person_code": service.person,
        "taken_at": _text_or_none(service.taken_at, zone),
        "called_at": _text_or_none(service.called_at, zone),
        "started_at": _text_or_none(service.started_at, zone),
        "finished_at": _text_or_none(service.finished_at, zone),
        "ended": service.ended,
        "ended_at": _text_or_none(service.ended_at, zone),
        "waited_seconds": None if service.waited is None else service.waited / 1000,
        "served_seconds": None if service.served is None else service.served / 1000,
        "recalls": service.recalls,
        "priority": service.priority,
        "to": service.to,
        "sources": service.sources,
        "prompted": service.prompted,
        "rating_id": service.rating_id,
        "additional": service.additional,
        "flags": service.flags,
        "evidence": [one.hex() for one in service.readings],
    }


def wire_rating(
    rating: RatingRecord, zone: ZoneInfo, work_date: str, revision: int, changed_at: Instant
) -> Row:
    """评价.  ``level`` is 5 to 1, none where nobody rated; ``follow_up``: 差评整改 of a bad one."""
    follow_up = rating.follow_up
    return {
        "rating_id": rating.rating_id,
        "work_date": work_date,
        "window": rating.window,
        "level": rating.level,
        "scale_id": rating.scale_id,
        "channel": rating.channel,
        "pressed_at": instant_text(rating.at, zone),
        "received_at": instant_text(rating.received_at, zone),
        "person_code": rating.person,
        "ticket": rating.ticket,
        "match": rating.match,
        "counted": rating.counted,
        "named": rating.named,
        "defaulted": rating.defaulted,
        "origin": rating.origin,
        "problem": rating.problem,
        "live": rating.live,
        "flags": rating.flags,
        "follow_up": None
        if follow_up is None
        else {
            "state": follow_up.state,
            "opened_at": instant_text(follow_up.opened_at, zone),
            "taken_up_at": _text_or_none(follow_up.taken_up_at, zone),
            "handler": follow_up.handler,
            "kind": follow_up.kind,
            "tries": follow_up.tries,
            "contacted": follow_up.contacted,
            "closed_at": _text_or_none(follow_up.closed_at, zone),
            "reopened": follow_up.reopened,
            "excluded": follow_up.excluded,
            "dues": [
                {
                    "step": due.step,
                    "at": _text_or_none(due.at, zone),
                    "done_at": _text_or_none(due.done_at, zone),
                }
                for due in follow_up.dues
            ],
            "flags": follow_up.flags,
        },
        "evidence": [rating.reading_id.hex()],
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }


def wire_area(
    area: AreaRecord, zone: ZoneInfo, work_date: str, revision: int, changed_at: Instant
) -> Row:
    """服务区: its windows together.  ``waiting`` is none where unknown."""
    return {
        "area": area.area,
        "work_date": work_date,
        "waiting": area.waiting,
        "open_windows": area.open_windows,
        "waits": _wire_durations(area.waits),
        "hours": [
            {
                "hour": hour.hour,
                "taken": hour.taken,
                "called": hour.called,
                "finished": hour.finished,
                "abandoned": hour.abandoned,
                "waits": _wire_durations(hour.waits),
                "waiting": hour.waiting,
            }
            for hour in area.hours
        ],
        "revision": revision,
        "updated_at": instant_text(changed_at, zone),
    }
