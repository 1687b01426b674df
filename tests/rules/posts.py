"""A post's day written as wall times: window w1 on Monday 20 July 2026, 08:30 to 12:00 and 14:30 to
18:00, with one camera and one clerk, 1001, unless something else is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import structs

from rules.counter import follow_window
from rules.model import DAY, Instant, PostReview, Seat
from rules.post import (
    Duty,
    Hours,
    PostDay,
    PostOutcome,
    PostPunch,
    PostRecord,
    PostRule,
    SeenReview,
    SeenSeat,
    Sensor,
    Span,
    follow_post,
    judge_post,
    queue_line,
)
from tests.rules.counter_facts import MIDNIGHT, Facts, at, told_id

AM = Hours("am", at("08:30"), at("12:00"))
PM = Hours("pm", at("14:30"), at("18:00"))
ALWAYS = ((MIDNIGHT - DAY, MIDNIGHT + 2 * DAY),)
APPEAL_ENDS, LOCKS_AT = at("+3 24:00"), at("+18 24:00")


class PostFacts(Facts):
    """Facts of a window and its post.  ``hours``, ``duties``, ``sensors`` may be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.hours: tuple[Hours, ...] = (AM, PM)
        self.duties: list[Duty] = [duty("1001", "08:30", "12:00"), duty("1001", "14:30", "18:00")]
        self.sensors: list[Sensor] = [Sensor("cam-1", ALWAYS)]
        self.seats: list[SeenSeat] = []
        self.punches: list[PostPunch] = []
        self.reviews: list[SeenReview] = []

    def seat(
        self, text: str, state: str, device: str = "cam-1", received: str = "", **given: Any
    ) -> SeenSeat:
        evidence = () if state in ("unknown", "learning") else ("difference",)
        body = Seat("w1", state, **{"evidence": evidence} | given)
        moment = at(text)
        seen = SeenSeat(
            moment,
            at(received) if received else moment,
            device,
            told_id("seat", device, text, state),
            body,
        )
        self.seats.append(seen)
        return seen

    def saw(self, told: str, device: str = "cam-1") -> None:
        """``saw("08:25 occupied, 09:00 empty")``."""
        for one in told.split(", "):
            text, state = one.rsplit(maxsplit=1)
            self.seat(text, state, device)

    def away(self, *spans: str) -> None:
        """Somebody is there from 08:25 on, and not in these spans: ``09:00-09:15``."""
        self.seat("08:25", "occupied")
        for span in spans:
            gone, _, back = span.partition("-")
            self.seat(gone, "empty")
            if back:
                self.seat(back, "occupied")

    def punch(self, text: str, person: str = "1001") -> PostPunch:
        punch = PostPunch(at(text), person, told_id("punch", text, person))
        self.punches.append(punch)
        return punch

    def waits(self, *spans: str) -> None:
        """A queue host says that three wait in these spans, and nobody between."""
        for span in spans:
            starts, _, ends = span.partition("-")
            self.event(starts, "ticket_taken", f"A{starts}", "", queue="A", waiting=3)
            if ends:
                self.event(ends, "abandoned", f"A{starts}", "", queue="A", waiting=0)

    def review(self, text: str, vacancy: str, verdict: Any) -> None:
        body = PostReview("w1", self.hall().work_date, vacancy, verdict, "9001")
        self.reviews.append(SeenReview(at(text), at(text), "api", told_id("review", text), body))

    def day(self, as_of: str | Instant = "17:59", **given: Any) -> PostDay:
        moment = at(as_of) if isinstance(as_of, str) else as_of
        seen = [one for one in self.events if one.received_at <= moment]
        counter = structs.replace(self.window(), as_of=moment)
        counter = structs.replace(
            counter, events=tuple(one for one in counter.events if one.received_at <= moment)
        )
        fields: dict[str, Any] = {
            "counter": counter,
            "record": follow_window(counter),
            "hours": self.hours,
            "required": True,
            "assigned": tuple(sorted({one.person for one in self.duties if not one.stands_in})),
            "duties": tuple(self.duties),
            "seats": tuple(one for one in self.seats if one.received_at <= moment),
            "sensors": tuple(
                Sensor(one.device, tuple(_known(one.up, moment))) for one in self.sensors
            ),
            "punches": tuple(one for one in self.punches if one.at <= moment),
            "reviews": tuple(one for one in self.reviews if one.received_at <= moment),
            "appeal_ends": APPEAL_ENDS,
            "locks_at": LOCKS_AT,
            "line": queue_line(seen),
        }
        return PostDay(**fields | given)

    def post(self, as_of: str | Instant = "17:59", **given: Any) -> PostRecord:
        return follow_post(self.day(as_of, **given))

    def judge_post(
        self, rule: PostRule, as_of: str | Instant = "17:59", **given: Any
    ) -> PostOutcome:
        day = self.day(as_of, **given)
        return judge_post(day, follow_post(day), [rule])


def _known(up: tuple[Span, ...], as_of: Instant) -> Iterator[Span]:
    """Contact as known at a moment: that it will be lost is not."""
    for starts, ends in up:
        if starts <= as_of:
            yield starts, ends if ends <= as_of else ALWAYS[0][1]


def duty(person: str, starts: str, ends: str, unit: str = "tax", stands_in: bool = False) -> Duty:
    return Duty(person, unit, at(starts), at(ends), stands_in)


def contact(*spans: tuple[str, str], device: str = "cam-1") -> Sensor:
    return Sensor(device, tuple((at(a), at(b)) for a, b in spans))


def line(post: PostRecord) -> list[tuple[str, str]]:
    """The states with their beginnings, whatever they rest on."""
    told: list[tuple[str, str]] = []
    for one in post.spans:
        if one.state != "closed" and (not told or told[-1][1] != one.state):
            told.append((wall(one.at), one.state))
    return told


def wall(moment: Instant) -> str:
    seconds = (moment - MIDNIGHT) // 1000
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}"
    return f"{text}:{seconds % 60:02}" if seconds % 60 else text


def vacant(post: PostRecord) -> list[str]:
    """``09:00-09:15`` for each vacancy; open ones have no end."""
    return [
        f"{wall(one.began_at)}-{wall(one.ended_at) if one.ended_at is not None else ''}"
        for one in post.vacancies
    ]
