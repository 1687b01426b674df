"""Late arrival 迟到 (ATT-01) and serious late arrival 严重迟到 (ATT-02).

The punch at the start of a segment, or on the return from an outing that must be punched, comes
after its target plus the timetable's ``grace``.  From the timetable's ``serious`` minutes (15) on
it is serious; from its ``absent`` minutes (30) on the half-day is an absence and this rule is
silent.  ``points`` and ``severity`` hold for the first, ``serious_points`` and
``serious_severity`` for the second.  The minutes told are counted from the target, less than a
full minute is nothing, and leave over the start of the segment moves the target.  The finding is
told as soon as the punch is there.

Where the hall takes a missing punch for lateness (``missing_punch_as = "late_or_early"``), a
segment's start without a punch is found here.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.findings import Severity, clock, half_of, segment_name, slot_violation
from rules.model import DayRecord, PersonDay, Violation


class LateArrival(Struct, frozen=True):
    points: float = 1
    serious_points: float = 2
    severity: Severity = "notice"
    serious_severity: Severity = "yellow"

    def judge(self, day: PersonDay, record: DayRecord) -> Iterator[Violation]:
        for slot in record.slots:
            if slot.slot not in ("on", "back"):
                continue
            serious = slot.verdict == "serious_late"
            missing = (
                slot.verdict == "missing_punch" and day.policy.missing_punch_as == "late_or_early"
            )
            if not (serious or missing or slot.verdict == "late"):
                continue
            half = half_of(record, slot)
            if half.verdict != "present" and (missing or half.verdict != "pending"):
                continue
            segment, target = segment_name(slot.segment), clock(day, slot.target)
            if slot.event_time is None:
                title = f"迟到（{segment} {target}，未打卡）"
                detail = f"Late: no punch for {target} ({slot.segment}), taken for lateness"
            else:
                at = clock(day, slot.event_time)
                title = (
                    f"{'严重迟到' if serious else '迟到'} {slot.minutes} 分钟"
                    f"（{segment} {target}，打卡 {at}）"
                )
                detail = (
                    f"{'Seriously late' if serious else 'Late'} by {slot.minutes} min: "
                    f"due {target} ({slot.segment}), punched {at}"
                )
            yield slot_violation(
                record,
                slot,
                rule="late_arrival",
                code="ATT-02" if serious else "ATT-01",
                severity=self.serious_severity if serious else self.severity,
                points=self.serious_points if serious else self.points,
                since=slot.target,
                until=slot.closes if slot.event_time is None else slot.event_time,
                title=title,
                detail=detail,
            )


RULE = LateArrival
CODES = ("ATT-01", "ATT-02")
SCOPE = "person"
