"""Early leave 早退 (ATT-03) and serious early leave 严重早退 (ATT-04).

The punch at the end of a segment, or on leaving for an outing that must be punched, comes before
its target less the timetable's ``grace``.  From the timetable's ``serious`` minutes (15) on it is
serious; from its ``absent`` minutes (30) on the half-day is an absence and this rule is silent.
``points`` and ``severity`` hold for the first, ``serious_points`` and ``serious_severity`` for the
second.  Leave up to the end of the segment moves the target.  As a later punch may still come, the
finding is told only when the slot has closed.

Where the hall takes a missing punch for early leave (``missing_punch_as = "late_or_early"``), a
segment's end without a punch is found here.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.findings import Severity, clock, half_of, segment_name, slot_violation
from rules.model import DayRecord, PersonDay, Violation


class EarlyLeave(Struct, frozen=True):
    points: float = 1
    serious_points: float = 2
    severity: Severity = "notice"
    serious_severity: Severity = "yellow"

    def judge(self, day: PersonDay, record: DayRecord) -> Iterator[Violation]:
        for slot in record.slots:
            if slot.slot not in ("off", "out") or slot.finality == "pending":
                continue
            serious = slot.verdict == "serious_early_leave"
            missing = (
                slot.verdict == "missing_punch" and day.policy.missing_punch_as == "late_or_early"
            )
            if not (serious or missing or slot.verdict == "early_leave"):
                continue
            half = half_of(record, slot)
            if half.verdict != "present" and (missing or half.verdict != "pending"):
                continue
            segment, target = segment_name(slot.segment), clock(day, slot.target)
            if slot.event_time is None:
                title = f"早退（{segment} {target}，未打卡）"
                detail = f"Early leave: no punch for {target} ({slot.segment}), taken for leaving"
            else:
                at = clock(day, slot.event_time)
                title = (
                    f"{'严重早退' if serious else '早退'} {slot.minutes} 分钟"
                    f"（{segment} {target}，打卡 {at}）"
                )
                detail = (
                    f"Left {'seriously ' if serious else ''}early by {slot.minutes} min: "
                    f"due {target} ({slot.segment}), punched {at}"
                )
            yield slot_violation(
                record,
                slot,
                rule="early_leave",
                code="ATT-04" if serious else "ATT-03",
                severity=self.serious_severity if serious else self.severity,
                points=self.serious_points if serious else self.points,
                since=slot.opens if slot.event_time is None else slot.event_time,
                until=slot.target,
                title=title,
                detail=detail,
            )


RULE = EarlyLeave
CODES = ("ATT-03", "ATT-04")
SCOPE = "person"
