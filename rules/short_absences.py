"""Repeated short absences 频繁短时离岗 (PRE-09): often away from the post, each time for minutes.

One person left the post ``episodes`` (6) times or more in a segment, each time for ``minutes`` (5)
to 14: too short to be off post.  A yellow alert, which expires with the segment.  If as many of
them are confirmed by more than a camera, it is a violation (``points`` 1) and the alert is
converted.  Vacancies that go on, or that a person dismissed, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.findings import segment_name
from rules.model import MINUTE, SEVERITY, Alert, AskAgain, Violation, stable_id
from rules.post import Hours, PostDay, PostRecord, Vacancy, finality, span_words

CODES = ("PRE-09",)
SCOPE = "post"


class ShortAbsences(Struct, frozen=True, forbid_unknown_fields=True):
    """``minutes`` to less than ``off_minutes``, which is where off post begins."""

    episodes: Annotated[int, Meta(ge=2)] = 6
    minutes: Annotated[int, Meta(ge=1)] = 5
    off_minutes: Annotated[int, Meta(ge=2)] = 15
    points: Annotated[float, Meta(ge=0)] = 1

    def judge_post(self, day: PostDay, post: PostRecord) -> Iterator[Violation | Alert | AskAgain]:
        for hours in day.hours:
            by_person: dict[str, list[Vacancy]] = {}
            for one in post.vacancies:
                if (
                    hours.starts <= one.began_at < hours.ends
                    and one.left
                    and one.person
                    and one.ended_at is not None
                    and one.review != "dismissed"
                    and self.minutes <= one.lasted // MINUTE < self.off_minutes
                ):
                    by_person.setdefault(one.person, []).append(one)
            for person, found in sorted(by_person.items()):
                if len(found) < self.episodes:
                    continue
                confirmed = [one for one in found if one.confirmed]
                violation = len(confirmed) >= self.episodes
                yield self._alert(day, hours, person, found, violation)
                yield AskAgain(hours.ends)
                if violation:
                    yield self._violation(day, hours, person, confirmed)
                    yield AskAgain(day.appeal_ends)
                    yield AskAgain(day.locks_at)

    def _alert(
        self, day: PostDay, hours: Hours, person: str, found: list[Vacancy], violation: bool
    ) -> Alert:
        counter = day.counter
        last = found[self.episodes - 1].ended_at or counter.as_of
        expired = counter.as_of >= hours.ends
        state = "converted" if violation else "expired" if expired else "open"
        zh, en = "", ""
        if not violation:
            zh, en = "（待确认）", "; to be confirmed"
        name = counter.window.name or counter.window.id
        return Alert(
            id=stable_id("PRE-09", counter.hall, counter.window.id, hours.starts, person),
            rule="short_absences",
            code="PRE-09",
            subject_kind="window",
            subject=counter.window.id,
            unit=found[0].unit,
            severity=SEVERITY["yellow"],
            opened_at=last,
            ends_at=None if state == "open" else last if violation else hours.ends,
            state=state,
            title=f"频繁短时离岗：{name}，{segment_name(hours.segment)} {len(found)} 次，"
            f"工号 {person}{zh}",
            detail=f"Window {counter.window.id}: {person} was away {len(found)} times, each time"
            f" for less than {self.off_minutes} min: {_times(day, found)}{en}.",
            evidence=_evidence(found),
        )

    def _violation(
        self, day: PostDay, hours: Hours, person: str, confirmed: list[Vacancy]
    ) -> Violation:
        counter = day.counter
        name = counter.window.name or counter.window.id
        return Violation(
            id=stable_id("short_absences", person, counter.window.id, hours.starts),
            rule="short_absences",
            code="PRE-09",
            person=person,
            unit=confirmed[0].unit,
            work_date=counter.work_date,
            segment=hours.segment,
            severity=SEVERITY["yellow"],
            points=self.points,
            minutes=sum(one.lasted // MINUTE for one in confirmed),
            since=confirmed[0].began_at,
            until=confirmed[-1].ended_at or counter.as_of,
            finality=finality(day),
            evidence=_evidence(confirmed),
            title=f"频繁短时离岗：{name}，{segment_name(hours.segment)} {len(confirmed)} 次",
            detail=f"Away from window {counter.window.id} {len(confirmed)} times, each time for"
            f" less than {self.off_minutes} min: {_times(day, confirmed)}.",
        )


RULE = ShortAbsences


def _times(day: PostDay, found: list[Vacancy]) -> str:
    return ", ".join(span_words(day, one)[1] for one in found)


def _evidence(found: list[Vacancy]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reading for one in found for reading in one.readings))
