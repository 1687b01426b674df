"""A counter's day written as wall times: Monday 20 July 2026 in Asia/Shanghai, 08:30 to 18:00."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from hashlib import blake2b
from typing import Any

from rules.counter import (
    CounterDay,
    CounterOutcome,
    CounterRule,
    ScaleHistory,
    SeenEvent,
    SeenPrompt,
    SeenRating,
    SeenShown,
    SeenStep,
    SourceUp,
    Window,
    WindowDay,
    WindowRecord,
    WindowRule,
    follow_counter,
    follow_window,
    judge_counter,
    judge_window,
    window_days,
)
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    FollowUpStep,
    Instant,
    QueueEvent,
    Rating,
    RatingPrompt,
    Shown,
)

MIDNIGHT = 1_784_476_800_000
"""2026-07-20T00:00+08:00, a Monday."""
WORKDAYS_AFTER = tuple(
    MIDNIGHT + day * DAY + 18 * HOUR
    for day in (1, 2, 3, 4, 7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 21, 22, 23)
)
"""18:00 of Tuesday to Friday, and of the weeks after."""
W1 = Window("w1", "1号窗口", "tax", "综合")
W2 = Window("w2", "2号窗口", "civil", "综合")


def at(text: str) -> Instant:
    """``09:00``, ``09:00:01.5``, ``26:00`` is 02:00 of the next day; ``+2 09:00`` two days on."""
    days = 0
    if text.startswith("+"):
        ahead, text = text[1:].split()
        days = int(ahead)
    hours, minutes, *seconds = text.split(":")
    ms = round(float(seconds[0]) * 1000) if seconds else 0
    return MIDNIGHT + days * DAY + int(hours) * HOUR + int(minutes) * MINUTE + ms


def told_id(*parts: object) -> bytes:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()


class Facts:
    """Collects what was told; each method returns the fact."""

    def __init__(self, *windows: Window) -> None:
        self.windows = windows or (W1,)
        self.events: list[SeenEvent] = []
        self.ratings: list[SeenRating] = []
        self.prompts: list[SeenPrompt] = []
        self.shown: list[SeenShown] = []
        self.steps: list[SeenStep] = []

    def event(
        self,
        text: str,
        event: str,
        ticket: str = "",
        window: str = "w1",
        *,
        source: str = "api",
        device: str = "",
        received: str = "",
        **given: Any,
    ) -> SeenEvent:
        device = device or {"api": "qms", "bus": "key-1", "display": "strip-1"}.get(source, source)
        name = told_id(device, text, event, ticket, window, sorted(given.items()))
        body = QueueEvent(name.hex(), event, window, ticket, source=source, **given)
        moment = at(text)
        seen = SeenEvent(moment, at(received) if received else moment, device, name, body)
        self.events.append(seen)
        return seen

    def taken(self, text: str, *tickets: str, **given: Any) -> None:
        for ticket in tickets:
            self.event(text, "ticket_taken", ticket, "", **given)

    def serve(
        self, ticket: str, called: str, finished: str = "", window: str = "w1", **given: Any
    ) -> None:
        self.event(called, "called", ticket, window, **given)
        if finished:
            self.event(finished, "finished", ticket, window, **given)

    def rating(
        self,
        text: str,
        level: int | None,
        /,
        *,
        received: str = "",
        name: str = "",
        device: str = "pad-1",
        window: str = "w1",
        **given: Any,
    ) -> SeenRating:
        body = Rating(name or f"pad:{device}:{text}", window, level, **{"scale_id": "five"} | given)
        moment = at(text)
        seen = SeenRating(
            moment,
            at(received) if received else moment,
            device,
            told_id("rating", body.rating_id),
            body,
        )
        self.ratings.append(seen)
        return seen

    def prompt(self, text: str, ticket: str = "", window: str = "w1", session: str = "") -> None:
        body = RatingPrompt(session or f"s{text}", window, ticket)
        self.prompts.append(
            SeenPrompt(at(text), at(text), "pad-1", told_id("prompt", text, ticket, window), body)
        )

    def show(
        self, text: str, shows: str, *, baseline: bool = False, window: str = "w1"
    ) -> SeenShown:
        state = {"": "blank", "暂停服务": "paused", "8888": "lamp_test"}.get(shows, "ticket")
        body = Shown(window, shows, state, baseline)
        seen = SeenShown(
            at(text), at(text), "strip-1", told_id("shown", text, shows, baseline), body
        )
        self.shown.append(seen)
        return seen

    def step(self, text: str, rating: SeenRating, step: str, **given: Any) -> None:
        body = FollowUpStep(rating.body.rating_id, step, **given)
        self.steps.append(SeenStep(at(text), at(text), "api", told_id("step", text, body), body))

    def hall(self, as_of: str = "17:59", **given: Any) -> CounterDay:
        fields: dict[str, Any] = {
            "hall": "h1",
            "work_date": date(2026, 7, 20),
            "midnight": MIDNIGHT,
            "next_midnight": MIDNIGHT + DAY,
            "opens": at("08:30"),
            "closes": at("18:00"),
            "as_of": at(as_of),
            "works": True,
            "windows": self.windows,
            "events": tuple(self.events),
            "ratings": tuple(self.ratings),
            "prompts": tuple(self.prompts),
            "shown": tuple(self.shown),
            "steps": tuple(self.steps),
            "workdays_after": WORKDAYS_AFTER,
        }
        return CounterDay(**fields | given)

    def window(self, as_of: str = "17:59", window: str = "w1", **given: Any) -> WindowDay:
        return window_days(self.hall(as_of, **given))[window]

    def follow(self, as_of: str = "17:59", window: str = "w1", **given: Any) -> WindowRecord:
        return follow_window(self.window(as_of, window, **given))

    def judge_window(self, rule: WindowRule, as_of: str = "17:59", **given: Any) -> CounterOutcome:
        day = self.window(as_of, **given)
        return judge_window(day, follow_window(day), [rule])

    def judge(self, rule: CounterRule, as_of: str = "17:59", **given: Any) -> CounterOutcome:
        day = self.hall(as_of, **given)
        return judge_counter(day, follow_counter(day), [rule])


def up(device: str, kind: str, *spans: tuple[str, str], window: str = "w1") -> SourceUp:
    return SourceUp(device, window, kind, tuple((at(a), at(b)) for a, b in spans))


def scale(levels: Iterable[int], **given: Any) -> ScaleHistory:
    one, two, three, four, five = levels
    fields: dict[str, Any] = {
        "window": "w1",
        "scale_id": "five",
        "offered": (1, 2, 3, 4, 5),
        "levels": (one, two, three, four, five),
    }
    return ScaleHistory(**fields | given)
