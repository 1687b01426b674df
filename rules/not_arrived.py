"""Not arrived 未到岗, and working without a punch 在岗未打卡: live alerts, no violations.

Nobody has punched for the start of a segment one minute after its target and ``grace``: a notice
for the person and the chief representative; ``yellow_after`` minutes (15) after the target it turns
yellow.  It is *resolved* by the punch that ends it, *converted* when it became an absence or a
missing punch, and *expired* when the segment ended without a decision.

There is no such alert where the person is excused, where no terminal was in contact for the whole
time in which a good punch could be made (then the terminal is the matter, not the person), and on a
date for which no official calendar is known.

If the person calls a ticket while the punch is missing, a reminder to punch takes its place beside
it: ``working_without_punch``.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.findings import clock, segment_name
from rules.model import (
    MINUTE,
    SEVERITY,
    Alert,
    AskAgain,
    DayRecord,
    Instant,
    PersonDay,
    Slot,
    stable_id,
)
from rules.paths import in_contact, usable_paths


class NotArrived(Struct, frozen=True):
    yellow_after: int = 15
    reminder: bool = True
    """Whether to remind those who call tickets without a punch."""

    def judge(self, day: PersonDay, record: DayRecord) -> Iterator[Alert | AskAgain]:
        if not day.kind.known:
            return
        for slot in record.slots:
            if slot.slot != "on":
                continue
            if self.reminder and day.evidence:
                yield from _working_without_punch(day, record, slot)
            rule = next(one.rule for one in day.segments if one.rule.name == slot.segment)
            opens = slot.target + (rule.grace + 1) * MINUTE
            if slot.event_time is not None and slot.event_time < opens:
                continue
            if day.as_of < opens:
                yield AskAgain(opens)
                continue
            good_until = slot.target + rule.grace * MINUTE
            if not in_contact(usable_paths(day), slot.opens, good_until):
                continue
            yellow_at = slot.target + self.yellow_after * MINUTE
            ends, state = _end(slot)
            if ends is None and day.as_of < yellow_at:
                yield AskAgain(yellow_at)
            yellow = (day.as_of if ends is None else ends) >= yellow_at
            who = day.person.name or day.person.code
            segment, target = segment_name(slot.segment), clock(day, slot.target)
            yield Alert(
                stable_id("not_arrived", record.person, record.work_date, slot.segment),
                "not_arrived",
                "not_arrived",
                "person",
                record.person,
                record.unit,
                SEVERITY["yellow" if yellow else "notice"],
                opens,
                ends,
                state,
                f"未到岗：{who}（{segment} {target}"
                f"{f'，已过 {self.yellow_after} 分钟' if yellow else ''}）",
                f"Not arrived: {who}, due {target} ({slot.segment})"
                f"{f', more than {self.yellow_after} min ago' if yellow else ''}",
                slot.evidence,
            )


def _end(slot: Slot) -> tuple[Instant | None, str]:
    if slot.event_time is not None:
        return slot.event_time, "converted" if slot.verdict == "absent_class" else "resolved"
    if slot.verdict == "pending":
        return None, "open"
    return slot.closes, "converted" if slot.verdict == "missing_punch" else "expired"


def _working_without_punch(day: PersonDay, record: DayRecord, slot: Slot) -> Iterator[Alert]:
    called = next(
        (
            one
            for one in sorted(day.evidence, key=lambda one: (one.at, one.reading_id))
            if one.kind == "ticket_called" and slot.opens <= one.at < slot.closes
        ),
        None,
    )
    if called is None or (slot.event_time is not None and slot.event_time <= called.at):
        return
    if not in_contact(usable_paths(day), called.at, called.at):
        return
    if slot.event_time is not None:
        ends, state = slot.event_time, "resolved"
    elif slot.verdict == "pending":
        ends, state = None, "open"
    else:
        ends, state = slot.closes, "expired"
    who = day.person.name or day.person.code
    segment, at = segment_name(slot.segment), clock(day, called.at)
    yield Alert(
        stable_id("working_without_punch", record.person, record.work_date, slot.segment),
        "not_arrived",
        "working_without_punch",
        "person",
        record.person,
        record.unit,
        SEVERITY["notice"],
        called.at,
        ends,
        state,
        f"在岗未打卡：{who}（{segment}，{at} 已叫号，请补打卡）",
        f"Working without a punch: {who} called a ticket at {at} ({slot.segment})",
        (called.reading_id.hex(),),
    )


RULE = NotArrived
CODES = ("not_arrived", "working_without_punch")
SCOPE = "person"
