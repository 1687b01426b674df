"""Off post 离岗 (PRE-01, PRE-02, PRE-03): somebody on duty was at the post, and left it.

The post is vacant for ``minutes`` (5): a notice; for ``off_minutes`` (15): yellow; for
``long_minutes`` (60): red, and it counts as half a day's absence.  One alert for each vacancy,
whose code and severity rise; visitors who wait meanwhile raise the severity by one step.

A camera alone only proposes: until another kind of signal or a person confirms a vacancy, PRE-02
and PRE-03 are told one step lower, as to be confirmed.  Confirmed, and with one person on duty, it
is a violation of that person (``points`` 3, ``long_points`` 5), and the alert is converted.
Vacancies of one person of which each begins within half an hour of the last one's end are one
incident, and cost what the longest costs.  One that a person dismissed was none.  Who punched and
did not come back in the segment left early, which the rules about attendance judge alone.

The first ``allowance`` (2) vacancies of a person in a segment that last ``allowance_minutes`` (10)
or less name nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.model import MINUTE, Alert, AskAgain, Instant, Violation, stable_id
from rules.post import PostDay, PostRecord, Vacancy, finality, level, span_words

CODES = ("PRE-01", "PRE-02", "PRE-03")
SCOPE = "post"

INCIDENT = 30 * MINUTE


class OffPost(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds in minutes; a threshold that is reached counts."""

    minutes: Annotated[int, Meta(ge=1)] = 5
    off_minutes: Annotated[int, Meta(ge=1)] = 15
    long_minutes: Annotated[int, Meta(ge=1)] = 60
    points: Annotated[float, Meta(ge=0)] = 3
    long_points: Annotated[float, Meta(ge=0)] = 5
    allowance: Annotated[int, Meta(ge=0)] = 2
    allowance_minutes: Annotated[int, Meta(ge=0)] = 10

    def judge_post(self, day: PostDay, post: PostRecord) -> Iterator[Violation | Alert | AskAgain]:
        short: Counter[tuple[str, str]] = Counter()
        incidents: list[list[Vacancy]] = []
        as_of = day.counter.as_of
        for one in post.vacancies:
            if not one.left or not one.people or one.review == "dismissed":
                continue
            for minutes in (
                self.minutes,
                self.off_minutes,
                self.long_minutes,
                self.allowance_minutes + 1,
            ):
                moment = one.will_reach(minutes * MINUTE, as_of)
                if moment is not None:
                    yield AskAgain(moment)
            opened_at = one.reached(self.minutes * MINUTE)
            if opened_at is None:
                continue
            named = bool(one.person)
            if one.lasted // MINUTE <= self.allowance_minutes:
                short[one.person, one.segment] += 1
                named = named and short[one.person, one.segment] > self.allowance
            yield self._alert(day, one, opened_at, named)
            if self._is_violation(day, one):
                theirs = [told for told in incidents if told[0].person == one.person]
                if theirs and one.began_at - theirs[-1][-1].parts[-1][1] <= INCIDENT:
                    theirs[-1].append(one)
                else:
                    incidents.append([one])
        for incident in incidents:
            yield self._violation(day, incident)
        if incidents:
            yield AskAgain(day.appeal_ends)
            yield AskAgain(day.locks_at)

    def _degree(self, vacancy: Vacancy) -> int:
        """0, 1 or 2 for PRE-01, PRE-02 or PRE-03."""
        if vacancy.reached(self.long_minutes * MINUTE) is not None:
            return 2
        return int(vacancy.reached(self.off_minutes * MINUTE) is not None)

    def _threshold(self, degree: int) -> int:
        return (self.minutes, self.off_minutes, self.long_minutes)[degree]

    def _minutes(self, vacancy: Vacancy) -> int:
        """While it goes on the threshold: a finding changes only when it says more."""
        if vacancy.ended_at is None:
            return self._threshold(self._degree(vacancy))
        return vacancy.lasted // MINUTE

    def _is_violation(self, day: PostDay, vacancy: Vacancy) -> bool:
        return (
            vacancy.confirmed
            and bool(vacancy.person)
            and self._degree(vacancy) > 0
            and not _punched_out(day, vacancy)
        )

    def _alert(self, day: PostDay, vacancy: Vacancy, opened_at: Instant, named: bool) -> Alert:
        window = day.counter.window
        degree, minutes = self._degree(vacancy), self._minutes(vacancy)
        proposed = degree > 0 and not vacancy.confirmed
        span_zh, span_en = span_words(day, vacancy)
        title = f"{'长时间' if degree == 2 else ''}离岗 {minutes} 分钟"
        detail = f"Nobody was at window {window.id} for {minutes} min, {span_en}"
        if degree == 2:
            title += f"，{'确认后' if proposed else ''}按旷工半天计"
        title += f"：{window.name or window.id}，{span_zh}"
        if named:
            title += f"，工号 {vacancy.person}"
            detail += f"; on duty: {vacancy.person}"
        if proposed:
            title += "（待确认：仅摄像头发现）"
            detail += "; the camera alone says so, a person has to confirm it"
        if degree > 0 and _punched_out(day, vacancy):
            title += "，已打卡离开（由考勤认定）"
            detail += "; they had punched, so attendance decides"
        if vacancy.waiting:
            title += "，有群众等候"
            detail += "; visitors waited"
        if degree == 2:
            detail += f"; {'confirmed, ' if proposed else ''}it counts as half a day's absence"
        ends_at, state = vacancy.ended_at, "open" if vacancy.ended_at is None else "resolved"
        if self._is_violation(day, vacancy):
            state = "converted"
            if ends_at is None:
                ends_at = vacancy.reached(self.off_minutes * MINUTE)
        return Alert(
            id=vacancy.id,
            rule="off_post",
            code=CODES[degree],
            subject_kind="window",
            subject=window.id,
            unit=vacancy.unit,
            severity=level(degree - proposed + bool(vacancy.waiting)),
            opened_at=opened_at,
            ends_at=ends_at,
            state=state,
            title=title,
            detail=f"{detail}.",
            evidence=vacancy.readings,
        )

    def _violation(self, day: PostDay, incident: list[Vacancy]) -> Violation:
        window, worst = day.counter.window, max(incident, key=self._degree)
        first, last, degree = incident[0], incident[-1], self._degree(worst)
        spans = [span_words(day, one) for one in incident]
        minutes = sum(self._minutes(one) for one in incident)
        until = last.ended_at
        if until is None:
            until = last.reached(self._threshold(self._degree(last)) * MINUTE) or last.began_at
        half_zh, half_en = "", ""
        if degree == 2:
            half_zh, half_en = "，按旷工半天计", "; it counts as half a day's absence"
        why = sorted({signal for one in incident for signal in one.signals})
        why += ["review"] * any(one.review for one in incident)
        return Violation(
            id=stable_id(
                "off_post", first.person, day.counter.work_date, window.id, first.began_at
            ),
            rule="off_post",
            code=CODES[degree],
            person=first.person,
            unit=first.unit,
            work_date=day.counter.work_date,
            segment=worst.segment,
            severity=level(degree + any(one.waiting for one in incident)),
            points=self.long_points if degree == 2 else self.points,
            minutes=minutes,
            since=first.began_at,
            until=until,
            finality=finality(day),
            evidence=tuple(dict.fromkeys(one for each in incident for one in each.readings)),
            title=f"{'长时间' if degree == 2 else ''}离岗 {minutes} 分钟{half_zh}："
            f"{window.name or window.id}，{'、'.join(zh for zh, _ in spans)}",
            detail=f"Off post for {minutes} min at window {window.id}:"
            f" {', '.join(en for _, en in spans)}{half_en}; confirmed by {', '.join(why)}.",
        )


def _punched_out(day: PostDay, vacancy: Vacancy) -> bool:
    """Whether the vacancy is the leaving that the person punched within half an hour: one incident,
    which the rules about attendance judge.  Who comes back in the same segment was not on the way
    home."""
    ends = next(one.ends for one in day.hours if one.starts <= vacancy.began_at < one.ends)
    if "punch" not in vacancy.signals or (vacancy.ended_at or ends) < ends:
        return False
    return any(
        one.person == vacancy.person and abs(one.at - vacancy.began_at) <= INCIDENT
        for one in day.punches
    )


RULE = OffPost
