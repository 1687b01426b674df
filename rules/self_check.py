"""hallwatch's own troubles 系统自检 (SYS-01): the disk, or deliveries.

hallwatch itself notes when less than ``storage.min_free_mb`` is free, when a sink has not been
reached for ten minutes, and when a sink has fallen behind by four fifths of
``storage.outbox_limit_rows``.  Nothing is lost yet: somebody has to make room, or bring the
receiver back.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.model import SEVERITY, Alert, AskAgain, HallDay, stable_id

TITLES = {
    "disk_low": "磁盘空间不足",
    "sink_down": "消息无法送达",
    "outbox_full": "待发送消息积压",
}


class SelfCheck(Struct, frozen=True):
    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]:
        over = day.as_of >= day.next_midnight
        told: set[str] = set()
        for at, name, detail in day.events:
            if name not in TITLES or name in told:
                continue
            told.add(name)
            if not over:
                yield AskAgain(day.next_midnight)
            yield Alert(
                stable_id("SYS-01", day.hall, day.work_date, name),
                "self_check",
                "SYS-01",
                "hall",
                day.hall,
                "",
                SEVERITY["yellow"],
                at,
                day.next_midnight if over else None,
                "expired" if over else "open",
                f"{TITLES[name]}：{detail}",
                f"{name}: {detail}",
            )


RULE = SelfCheck
CODES = ("SYS-01",)
SCOPE = "hall"
