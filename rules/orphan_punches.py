"""Orphan punches 未登记人员打卡 (DEV-07): a code that nobody is known by punches again and again.

``punches`` (3) or more punches of one unknown code on one date are a notice from the third on:
somebody was enrolled on a terminal but not in the hall's list of people, or under another code.
The punches are kept and count once the person is entered; then the alert is withdrawn.  Otherwise
it expires at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.losses import wall_time
from rules.model import SEVERITY, Alert, AskAgain, HallDay, stable_id

CODES = ("DEV-07",)
SCOPE = "hall"


class OrphanPunches(Struct, frozen=True, forbid_unknown_fields=True):
    """``punches``: of one code on one date; as many count."""

    punches: Annotated[int, Meta(ge=1)] = 3

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        over = day.as_of >= day.next_midnight
        found = False
        for code, instants in sorted(day.orphans):
            first = sorted(instants)[: self.punches]
            if len(first) < self.punches:
                continue
            found = True
            times = [wall_time(at, day.midnight) for at in first]
            yield Alert(
                id=stable_id("DEV-07", day.hall, code, day.work_date),
                rule="orphan_punches",
                code="DEV-07",
                subject_kind="hall",
                subject=day.hall,
                unit="",
                severity=SEVERITY["notice"],
                opened_at=first[-1],
                ends_at=day.next_midnight if over else None,
                state="expired" if over else "open",
                title=f"未登记人员打卡：编号 {code} 当日打卡 {self.punches} 次以上",
                detail=f"Nobody is known by code {code}, which punched {self.punches} times or more"
                f" ({', '.join(times)}).",
            )
        if found and not over:
            yield AskAgain(day.next_midnight)


RULE = OrphanPunches
