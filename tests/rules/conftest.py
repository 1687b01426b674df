"""A standard day to change: Tuesday 3 November 2026 in Asia/Shanghai, judged a fortnight later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rules import absence, early_leave, late_arrival, missing_punch, not_arrived
from rules.engine import Rulebook
from rules.model import (
    DAY,
    AbsenceSpan,
    DayKind,
    DevicePath,
    Evidence,
    Instant,
    Person,
    PersonDay,
    Policy,
    SeenPunch,
    SegmentRule,
)
from rules.workdays import local_midnight, segments_of

SHANGHAI = ZoneInfo("Asia/Shanghai")
TUESDAY = date(2026, 11, 3)
MORNING = SegmentRule("am", 8 * 60 + 30, 12 * 60)
AFTERNOON = SegmentRule("pm", 14 * 60 + 30, 18 * 60)
WORKDAY = DayKind("workday", "weekly")
FAR = 400 * DAY


class StandardDay:
    """Builds a person's day from wall times; every part of it can be said otherwise."""

    zone = SHANGHAI
    work_date = TUESDAY

    @property
    def midnight(self) -> Instant:
        return local_midnight(self.work_date, self.zone)

    def at(self, text: str) -> Instant:
        """``08:30``, ``08:30:59`` or ``26:05`` (the next morning) of the work date."""
        hours, minutes, *seconds = (int(part) for part in text.split(":"))
        total = (hours * 60 + minutes) * 60 + (seconds[0] if seconds else 0)
        return self.midnight + total * 1000

    def punch(self, text: str, **given: Any) -> SeenPunch:
        at = self.at(text)
        name = blake2b(f"{at}{sorted(given.items())}".encode(), digest_size=16).digest()
        return SeenPunch(
            **{"event_at": at, "device_at": at, "device": "t1", "reading_id": name} | given
        )

    def absence(self, starts: str, ends: str, kind: str = "personal", **given: Any) -> AbsenceSpan:
        return AbsenceSpan(f"L{starts}", kind, self.at(starts), self.at(ends), **given)

    def evidence(self, text: str, kind: str, sensor: str = "") -> Evidence:
        name = blake2b(f"{text}{kind}{sensor}".encode(), digest_size=16).digest()
        return Evidence(self.at(text), kind, sensor, name)

    def path(self, *up: tuple[str, str], device: str = "t1", **given: Any) -> DevicePath:
        """A terminal in contact in these spans (always, if none is given), its log read."""
        spans = tuple((self.at(a), self.at(b)) for a, b in up)
        whole = ((self.midnight - 2 * DAY, self.midnight + FAR),)
        return DevicePath(
            **{"device": device, "up": spans or whole, "complete_until": self.midnight + FAR}
            | given
        )

    def day(
        self,
        punches: str | Sequence[SeenPunch] = "",
        *,
        as_of: str | Instant | None = None,
        rules: Sequence[SegmentRule] = (MORNING, AFTERNOON),
        policy: Policy | None = None,
        **given: Any,
    ) -> PersonDay:
        policy = policy or Policy()
        if isinstance(punches, str):
            punches = [self.punch(text) for text in punches.split()]
        if as_of is None:
            as_of = self.midnight + 14 * DAY
        elif isinstance(as_of, str):
            as_of = self.at(as_of)
        fields: dict[str, Any] = {
            "person": Person("1001", "李明", "gongan"),
            "work_date": self.work_date,
            "kind": WORKDAY,
            "segments": segments_of(rules, self.work_date, self.zone, policy.single_lunch_punch),
            "absences": (),
            "punches": tuple(sorted(punches, key=lambda one: (one.event_at, one.reading_id))),
            "evidence": (),
            "paths": (self.path(),),
            "as_of": as_of,
            "midnight": self.midnight,
            "next_midnight": local_midnight(self.work_date + timedelta(days=1), self.zone),
            "policy": policy,
            "appeal_ends": self.midnight + 4 * DAY,
            "locks_at": self.midnight + 35 * DAY,
        }
        return PersonDay(**fields | given)


@pytest.fixture(scope="session")
def standard() -> StandardDay:
    return StandardDay()


def rulebook_of(**given: object) -> Rulebook:
    modules = (late_arrival, early_leave, missing_punch, absence, not_arrived)
    rules = {module.__name__.rpartition(".")[2]: module.RULE() for module in modules} | given
    return Rulebook((name, date(2026, 1, 1), True, rule) for name, rule in rules.items())


@pytest.fixture(scope="session")
def book() -> Rulebook:
    return rulebook_of()


@pytest.fixture(scope="session")
def make_book() -> Callable[..., Rulebook]:
    return rulebook_of
