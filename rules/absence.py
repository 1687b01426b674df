"""Absence 旷工: half a day (ATT-06), the whole day (ATT-07), and contested absence (ATT-11).

A half-day is an absence when both its punches are missing although a terminal worked, or when one
of them is late or early by the timetable's ``absent`` minutes (30) or more.  It replaces every
lesser finding of the same half-day, so points are taken once: ``points`` for a half-day,
``day_points`` when every segment of the day is an absence, which is one finding for the day.

When both punches are missing but tickets called, cases closed or sensors show the person at work,
the absence is contested: it is told, costs nothing, and waits for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.findings import Severity, clock, flags_of, segment_name
from rules.model import (
    SEVERITY,
    DayRecord,
    HalfDay,
    PersonDay,
    Slot,
    Violation,
    stable_id,
)


class AbsenceRule(Struct, frozen=True):
    points: float = 5
    day_points: float = 10
    severity: Severity = "yellow"
    day_severity: Severity = "red"
    contested_severity: Severity = "yellow"

    def judge(self, day: PersonDay, record: DayRecord) -> Iterator[Violation]:
        if record.verdict == "absent_day":
            yield self._whole_day(day, record)
            return
        for half in record.halves:
            if half.verdict in ("absent_half", "absent_half_contested"):
                yield self._half_day(day, record, half)

    def _whole_day(self, day: PersonDay, record: DayRecord) -> Violation:
        since, until = day.segments[0].starts, day.segments[-1].ends
        return Violation(
            stable_id("absence", record.person, record.work_date, ""),
            "absence",
            "ATT-07",
            record.person,
            record.unit,
            record.work_date,
            "",
            SEVERITY[self.day_severity],
            self.day_points,
            sum(half.minutes_due for half in record.halves),
            since,
            until,
            record.finality,
            tuple(one for slot in record.slots for one in slot.evidence),
            f"旷工一天（{_why_zh(day, record.slots)}）",
            f"Absent all day: {_why(day, record.slots)}",
            flags_of(record, *record.slots),
        )

    def _half_day(self, day: PersonDay, record: DayRecord, half: HalfDay) -> Violation:
        segment = next(one for one in day.segments if one.rule.name == half.segment)
        slots = [slot for slot in record.slots if slot.segment == half.segment]
        contested = half.verdict == "absent_half_contested"
        name = segment_name(half.segment)
        evidence = [one for slot in slots for one in slot.evidence]
        if not any(slot.verdict in ("absent_class", "missing_punch") for slot in slots):
            slots = list(record.slots)  # it shares its punches with the segment beside it
        if contested:
            evidence += [
                one.reading_id.hex()
                for one in day.evidence
                if segment.starts <= one.at <= segment.ends
            ]
            title = f"旷工存疑（{name}）：无打卡，但有在岗证据 {len(evidence)} 条"
            detail = (
                f"Contested absence ({half.segment}): no punch, but {len(evidence)} readings "
                "show the person at work"
            )
        else:
            title = f"旷工半天（{name}，{_why_zh(day, slots)}）"
            detail = f"Absent for half a day ({half.segment}): {_why(day, slots)}"
        return Violation(
            stable_id("absence", record.person, record.work_date, half.segment),
            "absence",
            "ATT-11" if contested else "ATT-06",
            record.person,
            record.unit,
            record.work_date,
            half.segment,
            SEVERITY[self.contested_severity if contested else self.severity],
            0.0 if contested else self.points,
            half.minutes_due,
            segment.starts,
            segment.ends,
            half.finality,
            tuple(evidence),
            title,
            detail,
            flags_of(record, *slots),
        )


def _why_zh(day: PersonDay, slots: list[Slot] | tuple[Slot, ...]) -> str:
    told = [
        f"{'迟到' if slot.slot in ('on', 'back') else '早退'} {slot.minutes} 分钟，"
        f"打卡 {clock(day, slot.event_time)}"
        for slot in slots
        if slot.verdict == "absent_class" and slot.event_time is not None
    ]
    return "；".join(told) or "未打卡"


def _why(day: PersonDay, slots: list[Slot] | tuple[Slot, ...]) -> str:
    told = [
        f"{slot.minutes} min {'late' if slot.slot in ('on', 'back') else 'early'}, "
        f"punched {clock(day, slot.event_time)}"
        for slot in slots
        if slot.verdict == "absent_class" and slot.event_time is not None
    ]
    return "; ".join(told) or "no punch"


RULE = AbsenceRule
CODES = ("ATT-06", "ATT-07", "ATT-11")
SCOPE = "person"
