"""Pressed by staff 代评 (RAT-05): ratings that look as if no visitor gave them.

A yellow alert asks for a review of a window's pad (of several windows that of the most such
presses), one for each sign and date:

- more than ``percent`` (50) of the presses for one person's services, at whatever windows, of at
  least ``presses`` (30), came within ``seconds`` (2) of the end of the service, before or after;
- ``odd`` (2) presses or more that belong to no service came while the window was paused or closed,
  or outside the hall's hours;
- ``burst`` (5) presses or more within ``burst_seconds`` (60) without a service each.

Only presses of a level count; for the last two only good ones, since nobody presses a bad one for
himself.  It is a reason to look, not a finding: presses stay counted until a person decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from rules.counter import CounterDay, CounterRecord, RatingRecord, WindowRecord
from rules.model import SEVERITY, Alert, AskAgain, stable_id

CODES = ("RAT-05",)
SCOPE = "counter"


class StaffPressed(Struct, frozen=True, forbid_unknown_fields=True):
    percent: Annotated[int, Meta(ge=0, le=100)] = 50
    presses: Annotated[int, Meta(ge=1)] = 30
    seconds: Annotated[float, Meta(ge=0)] = 2
    odd: Annotated[int, Meta(ge=1)] = 2
    burst: Annotated[int, Meta(ge=2)] = 5
    burst_seconds: Annotated[float, Meta(gt=0)] = 60

    def judge_counter(self, day: CounterDay, record: CounterRecord) -> Iterator[Alert | AskAgain]:
        pressed = [(window, _presses(window)) for window in record.windows]
        yield from self._hasty(day, pressed)
        for window, presses in pressed:
            if presses:
                yield from self._out_of_service(day, window, presses)
                yield from self._bursts(day, window, presses)

    def _hasty(
        self, day: CounterDay, pressed: list[tuple[WindowRecord, list[RatingRecord]]]
    ) -> Iterator[Alert]:
        by_person: dict[str, list[tuple[WindowRecord, list[RatingRecord]]]] = {}
        for window, presses in pressed:
            theirs: dict[str, list[RatingRecord]] = {}
            for one in presses:
                if one.match == "matched" and one.person:
                    theirs.setdefault(one.person, []).append(one)
            for person, own in theirs.items():
                by_person.setdefault(person, []).append((window, own))
        within = self.seconds * 1000
        for person, windows in sorted(by_person.items()):
            count = sum(len(own) for _, own in windows)
            found = [
                (window, [one for one in own if one.delay is not None and abs(one.delay) <= within])
                for window, own in windows
            ]
            found = [(window, hasty) for window, hasty in found if hasty]
            hasty = sum(len(own) for _, own in found)
            if count < self.presses or hasty * 100 <= self.percent * count:
                continue
            found.sort(key=lambda one: -len(one[1]))
            yield self._alert(
                day,
                [window for window, _ in found],
                sorted((one for _, own in found for one in own), key=lambda one: one.at),
                f"hasty {person}",
                f"同一人员超过 {self.percent}% 的评价在办结前后 {self.seconds:g} 秒内按下",
                f"more than {self.percent} % of one person's presses came within"
                f" {self.seconds:g} s of the end of the service",
            )

    def _out_of_service(
        self, day: CounterDay, window: WindowRecord, presses: list[RatingRecord]
    ) -> Iterator[Alert]:
        odd = [
            one
            for one in presses
            if _good_without_service(one)
            and ({"paused", "closed", "after_hours"}.intersection(one.flags))
        ]
        if len(odd) >= self.odd:
            yield self._alert(
                day,
                [window],
                odd,
                "odd",
                "暂停服务或非工作时间内仍有评价",
                "presses came while the window was paused or closed or after hours",
            )

    def _bursts(
        self, day: CounterDay, window: WindowRecord, presses: list[RatingRecord]
    ) -> Iterator[Alert]:
        idle = [one for one in presses if _good_without_service(one)]
        for first, last in zip(idle, idle[self.burst - 1 :], strict=False):
            if last.at - first.at <= self.burst_seconds * 1000:
                yield self._alert(
                    day,
                    [window],
                    [one for one in idle if first.at <= one.at <= last.at],
                    "burst",
                    f"{self.burst_seconds:g} 秒内 {self.burst} 次以上无业务评价",
                    f"{self.burst} presses or more came within {self.burst_seconds:g} s without"
                    " a service",
                )
                return

    def _alert(
        self,
        day: CounterDay,
        windows: list[WindowRecord],
        presses: list[RatingRecord],
        sign: str,
        zh: str,
        en: str,
    ) -> Alert:
        """About the first of the windows; the others are named beside it."""
        window = windows[0]
        name = "、".join(one.window.name or one.window.id for one in windows)
        ids = ("windows " if windows[1:] else "window ") + ", ".join(
            one.window.id for one in windows
        )
        return Alert(
            id=stable_id("RAT-05", day.hall, window.window.id, day.work_date, sign),
            rule="staff_pressed",
            code="RAT-05",
            subject_kind="window",
            subject=window.window.id,
            unit=window.window.unit,
            severity=SEVERITY["yellow"],
            opened_at=presses[-1].at if sign.startswith("hasty") else presses[0].at,
            ends_at=None,
            state="open",
            title=f"疑似代评，待核查：{name} {zh}",
            detail=f"Ratings at {ids} may have been pressed by staff: {en}.",
            evidence=tuple(one.reading_id.hex() for one in presses),
        )


RULE = StaffPressed


def _presses(window: WindowRecord) -> list[RatingRecord]:
    return [one for one in window.ratings if one.channel == "pad" and one.level is not None]


def _good_without_service(one: RatingRecord) -> bool:
    return one.match != "matched" and one.level is not None and one.level >= 3
