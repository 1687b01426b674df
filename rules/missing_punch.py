"""Missing punch 缺卡 (ATT-05).

One required punch of a half-day is missing although a terminal worked, and the other one is there.
It is told when the half-day is decided: the slot has closed and ``settle`` minutes have passed, and
so has its partner, for two missing punches are an absence instead.  It costs ``points``.

A punch that comes late from a terminal's log, a paper sheet or a correction removes the finding.
Where the hall takes a missing punch for lateness, early leave or absence (``missing_punch_as``),
this rule is silent about the start and end of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.findings import SLOT_NAMES, Severity, clock, half_of, segment_name, slot_violation
from rules.model import DayRecord, PersonDay, Violation


class MissingPunch(Struct, frozen=True):
    points: float = 2
    severity: Severity = "notice"

    def judge(self, day: PersonDay, record: DayRecord) -> Iterator[Violation]:
        if day.policy.missing_punch_as == "late_or_early":
            return
        for slot in record.slots:
            if slot.verdict != "missing_punch" or half_of(record, slot).verdict != "present":
                continue
            segment, target = segment_name(slot.segment), clock(day, slot.target)
            opens, closes = clock(day, slot.opens), clock(day, slot.closes)
            yield slot_violation(
                record,
                slot,
                rule="missing_punch",
                code="ATT-05",
                severity=self.severity,
                points=self.points,
                since=slot.opens,
                until=slot.closes,
                title=f"缺卡：{SLOT_NAMES[slot.slot]}（{segment} {target}）",
                detail=f"No {slot.slot} punch for {target} ({slot.segment}), "
                f"looked for from {opens} to {closes}",
            )


RULE = MissingPunch
CODES = ("ATT-05",)
SCOPE = "person"
