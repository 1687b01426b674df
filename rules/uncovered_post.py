"""Uncovered post 空岗 (PRE-04): a post that is to be staffed, and nobody is there.

It is vacant although nobody who is on duty has left it: they have not come, all of them are on
leave without a substitute, or nobody is assigned.  For ``minutes`` (5) that is a notice, for
``yellow_minutes`` (15) yellow, for ``red_minutes`` (30) red, to the post and never to a person.
Visitors who wait meanwhile raise the severity by one step; what only a camera says is told one
step lower.  A vacancy that a person dismissed was none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.model import MINUTE, Alert, AskAgain
from rules.post import PostDay, PostRecord, Vacancy, level, span_words

CODES = ("PRE-04",)
SCOPE = "post"


class UncoveredPost(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds in minutes; a threshold that is reached counts."""

    minutes: Annotated[int, Meta(ge=1)] = 5
    yellow_minutes: Annotated[int, Meta(ge=1)] = 15
    red_minutes: Annotated[int, Meta(ge=1)] = 30

    def judge_post(self, day: PostDay, post: PostRecord) -> Iterator[Alert | AskAgain]:
        if not day.required:
            return
        thresholds = (self.minutes, self.yellow_minutes, self.red_minutes)
        for one in post.vacancies:
            if (one.left and one.people) or one.review == "dismissed":
                continue
            for minutes in thresholds:
                moment = one.will_reach(minutes * MINUTE, day.counter.as_of)
                if moment is not None:
                    yield AskAgain(moment)
            opened_at = one.reached(self.minutes * MINUTE)
            if opened_at is None:
                continue
            degree = 0
            for step, minutes in enumerate(thresholds):
                if one.reached(minutes * MINUTE) is not None:
                    degree = step
            minutes = one.lasted // MINUTE if one.ended_at is not None else thresholds[degree]
            window = day.counter.window
            why_zh, why_en = _reason(day, one)
            span_zh, span_en = span_words(day, one)
            mark_zh, mark_en = "", ""
            if not one.confirmed:
                mark_zh, mark_en = "（待确认：仅摄像头发现）", "; the camera alone says so"
            if one.waiting:
                mark_zh, mark_en = f"{mark_zh}，有群众等候", f"{mark_en}; visitors waited"
            yield Alert(
                id=one.id,
                rule="uncovered_post",
                code="PRE-04",
                subject_kind="window",
                subject=window.id,
                unit=one.unit,
                severity=level(degree - (not one.confirmed) + bool(one.waiting)),
                opened_at=opened_at,
                ends_at=one.ended_at,
                state="open" if one.ended_at is None else "resolved",
                title=f"空岗 {minutes} 分钟：{window.name or window.id}，{span_zh}，"
                f"{why_zh}{mark_zh}",
                detail=f"The post of window {window.id} was not staffed for {minutes} min,"
                f" {span_en}: {why_en}{mark_en}.",
                evidence=one.readings,
            )


RULE = UncoveredPost


def _reason(day: PostDay, vacancy: Vacancy) -> tuple[str, str]:
    if vacancy.people:
        return "当班人员未到", "those on duty have not come"
    if any(one.starts <= vacancy.began_at < one.ends for one in day.absent):
        return "已批准请假或外出，未安排顶岗", "an absence was approved without a substitute"
    if not day.assigned:
        return "未安排人员", "nobody is assigned to it"
    return "无人当班", "nobody is on duty"
