"""Words for findings: times and segments as hall staff write them, and the violation of a slot."""

from __future__ import annotations

from typing import Literal

from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    SEVERITY,
    DayRecord,
    HalfDay,
    Instant,
    PersonDay,
    Slot,
    Violation,
    stable_id,
)

Severity = Literal["normal", "notice", "yellow", "red", "serious"]

_SEGMENT_NAMES = {"am": "上午班", "pm": "下午班", "duty": "值班", "night": "夜班"}
SLOT_NAMES = {"on": "上班", "off": "下班", "out": "外出", "back": "返回"}


def segment_name(name: str) -> str:
    """What hall staff call a segment."""
    return "+".join(_SEGMENT_NAMES.get(part, part) for part in name.split("+"))


def clock(day: PersonDay, at: Instant) -> str:
    """Wall time of an instant near the work date, such as ``08:42``, ``+1 02:05`` or ``-1 23:40``.

    On a date whose clocks change they do so in the night: later hours are counted from its end.
    """
    begins = day.midnight if at < day.midnight + 4 * HOUR else day.next_midnight - DAY
    days, minutes = divmod((at - begins) // MINUTE, 1440)
    text = f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{days:+d} {text}" if days else text


def half_of(record: DayRecord, slot: Slot) -> HalfDay:
    """The half-day a slot belongs to."""
    return next(half for half in record.halves if half.segment == slot.segment)


def flags_of(record: DayRecord, *slots: Slot) -> tuple[str, ...]:
    """What is to be known about a finding: each slot's flags, and whether the day was judged by
    the milder of two times."""
    flags = dict.fromkeys(flag for slot in slots for flag in slot.flags)
    if record.favoured:
        flags["favoured"] = None
    return tuple(flags)


def slot_violation(
    record: DayRecord,
    slot: Slot,
    *,
    rule: str,
    code: str,
    severity: Severity,
    points: float,
    since: Instant,
    until: Instant,
    title: str,
    detail: str,
) -> Violation:
    """The violation of one slot.  It keeps its id while only its minutes or degree change."""
    place = slot.segment if slot.slot in ("on", "off") else f"{slot.segment}/{slot.slot}"
    return Violation(
        stable_id(rule, record.person, record.work_date, place),
        rule,
        code,
        record.person,
        record.unit,
        record.work_date,
        slot.segment,
        SEVERITY[severity],
        points,
        slot.minutes,
        since,
        until,
        half_of(record, slot).finality,
        slot.evidence,
        title,
        detail,
        flags_of(record, slot),
    )
