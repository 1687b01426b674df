"""No official calendar 缺少节假日表 (CAL-01): the coming weeks are not covered by a State Council
notice.

Every day on which less than ``days_ahead`` (45) of the days to come have an official table is a
notice to the hall's administrator.  Dates without a table are judged by the weekly pattern and the
fixed statutory days, stay provisional, and are judged again when the table is there: import it with
``[calendar] tables``.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.model import SEVERITY, Alert, AskAgain, HallDay, stable_id


class CalendarMissing(Struct, frozen=True):
    days_ahead: int = 45

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        left = (day.calendar_until - day.work_date).days
        if left >= self.days_ahead:
            return
        over = day.as_of >= day.next_midnight
        if not over:
            yield AskAgain(day.next_midnight)
        until = day.calendar_until.isoformat()
        yield Alert(
            stable_id("CAL-01", day.hall, day.work_date),
            "calendar_missing",
            "CAL-01",
            "hall",
            day.hall,
            "",
            SEVERITY["notice"],
            day.midnight,
            day.next_midnight if over else None,
            "expired" if over else "open",
            f"节假日表只到 {until}：请导入下一年的放假安排",
            f"The official calendar ends on {until}: import the next year's notice.",
        )


RULE = CalendarMissing
CODES = ("CAL-01",)
SCOPE = "hall"
