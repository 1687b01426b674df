"""Bad rating 差评 (RAT-01), and its follow-up being late 差评整改超时 (RAT-02).

A rating of level 1 or 2 opens a follow-up, whether or not its service was found; levels that others
made of silence do not.  A notice tells of it at once and is resolved when somebody takes the
follow-up up.  A rating that a pad had kept for more than an hour opens the follow-up without the
notice: there is nobody left to run to.

The follow-up's limits count from the receipt of the rating, in workdays: a handler within 5 minutes
(outside the hall's hours by the end of the next workday), contact and verification within 1, put
right or explained within 5 or planned within 10, the review of a rating said to be mistaken or
malicious within 3, and all of it within 15.  A limit that is passed is a yellow alert until the
step is done, the outer one a red alert; that a follow-up is opened again takes none of them back.
With ``follow_up = false`` no limit is watched: for halls
that do not tell hallwatch of their steps.

What is said here names the window and the level: never who rated, never what was written.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rules.counter import Due, RatingRecord, WindowDay, WindowRecord
from rules.model import SEVERITY, Alert, AskAgain, Instant, stable_id

CODES = ("RAT-01", "RAT-02")
SCOPE = "window"

_LEVELS = {1: ("非常不满意", "very dissatisfied"), 2: ("不满意", "dissatisfied")}
_LATE = {
    "assigned": ("未指派处理人", "no handler is assigned"),
    "contact": ("未联系核实", "it was not verified with the visitor"),
    "review": ("未完成复核", "the appeal is not reviewed"),
    "closed": ("未办结", "it is not closed"),
    "outer": ("超过最长时限仍未办结", "it is not closed by the outermost limit"),
}


class LowRating(Struct, frozen=True, forbid_unknown_fields=True):
    follow_up: bool = True
    """Whether the follow-up's limits are watched."""

    def judge_window(self, day: WindowDay, record: WindowRecord) -> Iterator[Alert | AskAgain]:
        for rating in record.ratings:
            followed = rating.follow_up
            if followed is None:
                continue
            if rating.live:
                yield _bad_rating(day, rating, followed.taken_up_at)
            if not self.follow_up:
                continue
            for reopened, passed in enumerate(followed.earlier):
                for due in passed:
                    if due.at is not None:
                        yield _late(day, rating, due, due.at, reopened)
            for due in followed.dues:
                if due.at is None:
                    continue
                if (day.as_of if due.done_at is None else due.done_at) > due.at:
                    yield _late(day, rating, due, due.at, followed.reopened)
                elif due.done_at is None:
                    yield AskAgain(due.at + 1)


RULE = LowRating


def _bad_rating(day: WindowDay, rating: RatingRecord, taken_up_at: Instant | None) -> Alert:
    window = day.window
    level_zh, level_en = _LEVELS[1 if rating.level == 1 else 2]
    return Alert(
        id=stable_id("RAT-01", rating.rating_id),
        rule="low_rating",
        code="RAT-01",
        subject_kind="window",
        subject=window.id,
        unit=window.unit,
        severity=SEVERITY["notice"],
        opened_at=rating.received_at,
        ends_at=taken_up_at,
        state="open" if taken_up_at is None else "resolved",
        title=f"差评：{window.name or window.id}，{level_zh}（{rating.level} 级）",
        detail=f"Bad rating at window {window.id}: {level_en} (level {rating.level}).",
        evidence=(rating.reading_id.hex(),),
    )


def _late(day: WindowDay, rating: RatingRecord, due: Due, at: Instant, reopened: int) -> Alert:
    window = day.window
    late_zh, late_en = _LATE[due.step]
    return Alert(
        id=stable_id("RAT-02", rating.rating_id, due.step, reopened),
        rule="low_rating",
        code="RAT-02",
        subject_kind="window",
        subject=window.id,
        unit=window.unit,
        severity=SEVERITY["red" if due.step == "outer" else "yellow"],
        opened_at=at,
        ends_at=due.done_at,
        state="open" if due.done_at is None else "resolved",
        title=f"差评整改超时：{window.name or window.id}，{late_zh}",
        detail=f"The follow-up of a bad rating at window {window.id} is late: {late_en}.",
        evidence=(rating.reading_id.hex(),),
    )
