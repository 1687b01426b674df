"""A post's day 在岗: from cameras, calls, pauses, rosters and stand-ins to who was there when.

``follow_post`` turns a window's day into a line of states and the *vacancies*: stretches in which
the post was to be staffed and was not.  A post is covered while somebody is seen there, calls
tickets, or has paused the window validly.  What is not known is not empty: where the picture is
bad, the camera away and nobody calls, the state is ``unknown``, and a vacancy's time stands still.

Several kinds of signal are weighed, because a camera alone only proposes: a vacancy is *confirmed*
where another kind agrees (visitors waited and nobody was called; the person punched or logged out)
or where a person looked and said so.  A person may also dismiss it.

A vacancy ends where a segment does, and where others come on duty: it concerns those who were on
duty in it, and is *left* only where the post had been covered since they were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

from msgspec import Struct, structs

from rules.counter import Ratio, SeenEvent, WindowDay, WindowRecord, queue_of
from rules.losses import wall_time
from rules.model import (
    MINUTE,
    SEVERITY,
    Alert,
    AskAgain,
    Instant,
    PostReview,
    Seat,
    Violation,
    merge_intervals,
    stable_id,
)

# --------------------------------------------------------------------------------------------
# What is given
# --------------------------------------------------------------------------------------------

Span = tuple[Instant, Instant]


class SeenSeat(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: Seat


class SeenReview(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: PostReview


class Sensor(Struct, frozen=True):
    """A camera that sees the post, and when it was in contact: sorted, disjoint, half-open spans;
    one that lasts ends after ``as_of``."""

    device: str
    up: tuple[Span, ...]


class Hours(Struct, frozen=True):
    """A segment in which the post is to be staffed."""

    segment: str
    starts: Instant
    ends: Instant


class Duty(Struct, frozen=True):
    """Who is rostered at the post in ``[starts, ends)``, without leave and outings.  ``stands_in``:
    as a substitute, before whom the others are not asked.  Empty ones are nothing."""

    person: str
    unit: str
    starts: Instant
    ends: Instant
    stands_in: bool = False


class PostPunch(Struct, frozen=True, gc=False):
    at: Instant
    person: str
    reading_id: bytes


class PostPolicy(Struct, frozen=True, omit_defaults=True):
    """Hall-wide choices about posts that are not thresholds of one rule."""

    return_seconds: int = 10
    """Somebody who is at the post for less has not come back."""
    activity_seconds: int = 120
    """A call, or another act at the window, shows somebody there for so long."""
    pause_minutes: int = 20
    """A pause covers the post for so long."""
    still_counts_as_absent: bool = False
    """Whether a seat where nothing has moved for minutes counts as empty."""


class PostDay(Struct, frozen=True):
    """Everything that decides one post's date; only what was received by ``as_of`` is in it.

    ``counter`` and ``record`` are the window's day and what it came to.  ``required``: the post is
    to be staffed in ``hours``.  ``seats`` are sorted by nothing in particular and may repeat; of
    each sensor the last one before midnight is among them.  ``assigned``: everybody whose window it
    is, on duty or not.  ``punches``: theirs, of the date.  ``line``: from each instant on how many
    wait for this window's queues, none where unknown; it is needed where ``needs_line`` says so.
    """

    counter: WindowDay
    record: WindowRecord
    hours: tuple[Hours, ...]
    required: bool
    assigned: tuple[str, ...]
    duties: tuple[Duty, ...]
    seats: tuple[SeenSeat, ...]
    sensors: tuple[Sensor, ...]
    punches: tuple[PostPunch, ...]
    reviews: tuple[SeenReview, ...]
    appeal_ends: Instant
    locks_at: Instant
    line: tuple[tuple[Instant, int | None], ...] = ()
    absent: tuple[Duty, ...] = ()
    """Who would be on duty, but for an approved absence."""
    policy: PostPolicy = PostPolicy()


# --------------------------------------------------------------------------------------------
# What is concluded
# --------------------------------------------------------------------------------------------


class PostSpan(Struct, frozen=True, gc=False):
    """``state``: ``present still away excused learning unknown closed``; ``evidence``: what it
    rests on: ``difference motion detector vendor calls pause closed``."""

    at: Instant
    state: str
    evidence: tuple[str, ...] = ()


class Vacancy(Struct, frozen=True):
    """空岗: a stretch within one segment in which the post was not covered.

    ``parts``: the times in which it certainly was not, ``ended_at`` none while it may go on.
    ``left``: somebody had been there before, in the same segment and since ``people`` were on duty.
    ``people``: who was on duty, all the time; ``person`` where that is one.  ``signals``: the kinds
    that agree: ``seat queue punch logout``.  ``review``: ``confirmed dismissed``, empty without
    one.  ``waiting``: the most who were known to wait meanwhile.  ``readings``: evidence,
    hexadecimal: what was told before, at its beginning and at its end, and whatever confirms it;
    ``snapshots``: names of kept pictures.
    """

    id: str
    segment: str
    began_at: Instant
    ended_at: Instant | None
    parts: tuple[Span, ...]
    left: bool
    people: tuple[str, ...]
    person: str
    unit: str
    signals: tuple[str, ...]
    review: str
    waiting: int | None
    readings: tuple[str, ...]
    snapshots: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        """Whether more than a camera says so, and nobody denied it."""
        return self.review == "confirmed" or (not self.review and len(self.signals) > 1)

    @property
    def lasted(self) -> int:
        """ms."""
        return sum(ends - starts for starts, ends in self.parts)

    def reached(self, duration: int) -> Instant | None:
        """When it had lasted so many ms; none if it did not."""
        for starts, ends in self.parts:
            if ends - starts >= duration:
                return starts + duration
            duration -= ends - starts
        return None

    def will_reach(self, duration: int, as_of: Instant) -> Instant | None:
        """When it will have lasted so many ms if it goes on as at ``as_of``; none if it has, or if
        its time stands still."""
        ends = self.parts[-1][1]
        if self.ended_at is not None or ends < as_of or self.lasted >= duration:
            return None
        return ends + duration - self.lasted


class PostFigures(Struct, frozen=True):
    """Minutes of the date's required hours so far: ``staffed`` of those in which it is known;
    ``unknown`` of all."""

    staffed: Ratio
    unknown: Ratio


class PostRecord(Struct, frozen=True):
    """What one post's date comes to.  ``state`` and ``evidence`` are the last span's; ``since``:
    when that state began.  ``changes_at``: when this can change by time alone."""

    window: str
    state: str
    since: Instant
    evidence: tuple[str, ...]
    spans: tuple[PostSpan, ...]
    vacancies: tuple[Vacancy, ...]
    figures: PostFigures
    changes_at: Instant | None


class PostOutcome(Struct, frozen=True):
    violations: tuple[Violation, ...]
    alerts: tuple[Alert, ...]
    ask_again: Instant | None


class PostRule(Protocol):
    """A rule about one post's date (``SCOPE = "post"``)."""

    def judge_post(
        self, day: PostDay, post: PostRecord
    ) -> Iterator[Violation | Alert | AskAgain]: ...


def judge_post(day: PostDay, post: PostRecord, rules: Sequence[PostRule]) -> PostOutcome:
    """Everything concluded about one post; ``post`` is ``follow_post(day)``."""
    violations: list[Violation] = []
    alerts: list[Alert] = []
    ask_again = post.changes_at
    for rule in rules:
        for found in rule.judge_post(day, post):
            if isinstance(found, Violation):
                violations.append(found)
            elif isinstance(found, Alert):
                alerts.append(found)
            elif found.at > day.counter.as_of and (ask_again is None or found.at < ask_again):
                ask_again = found.at
    return PostOutcome(tuple(violations), tuple(alerts), ask_again)


# --------------------------------------------------------------------------------------------
# From signals to a line of states
# --------------------------------------------------------------------------------------------

ACTS = frozenset(
    ("called", "recalled", "called_back", "started", "finished", "transferred", "held",
     "window_paused", "window_resumed", "window_login", "window_opened")
)  # fmt: skip
"""Queue events that somebody at the window causes."""
NEAR = 10 * MINUTE
"""A punch or logout so long before a vacancy belongs to it."""
WAITED = 5 * MINUTE
"""Visitors who waited so long without a break, and nobody was called, confirm a vacancy."""

_STATE = {
    "occupied": "present", "still": "still", "empty": "away", "learning": "learning",
    "unknown": "unknown",
}  # fmt: skip
_RANK = ("occupied", "still", "empty", "learning", "unknown")


class _Seen(Struct, frozen=True, gc=False):
    """A seat's state in ``[starts, ends)`` by one sensor."""

    starts: Instant
    ends: Instant
    state: str
    told: SeenSeat


def _seats(day: PostDay) -> list[list[_Seen]]:
    """What each sensor saw, in order, and only while it was in contact: after a break it must say
    anew."""
    over = day.counter.as_of + 1
    still = "empty" if day.policy.still_counts_as_absent else "still"
    by_device: dict[str, dict[bytes, SeenSeat]] = {}
    for seat in day.seats:
        told = by_device.setdefault(seat.device, {})
        known = told.get(seat.reading_id)
        if known is None or seat.received_at < known.received_at:
            told[seat.reading_id] = seat
    seen: list[list[_Seen]] = []
    for sensor in sorted(day.sensors, key=lambda one: one.device):
        begins, ends = [up[0] for up in sensor.up], [up[1] for up in sensor.up]
        within: list[list[SeenSeat]] = [[] for _ in begins]
        for one in sorted(
            by_device.get(sensor.device, {}).values(),
            key=lambda one: (one.at, one.received_at, one.reading_id),
        ):
            # Those contacts in which it was known, and true.
            for index in range(bisect_right(ends, one.at), bisect_right(begins, one.received_at)):
                within[index].append(one)
        spans: list[_Seen] = []
        for (up_from, up_until), mine in zip(sensor.up, within, strict=True):
            for one, following in zip(mine, [*mine[1:], None], strict=False):
                starts = one.at if one.at > up_from else up_from
                until = following.at if following and following.at < up_until else up_until
                if until > over:
                    until = over
                if starts < until:
                    state = still if one.body.state == "still" else one.body.state
                    spans.append(_Seen(starts, until, state, one))
        seen.append(spans)
    return seen


def _own(day: PostDay) -> list[SeenEvent]:
    """What happened at the window, each once and in order."""
    window, skew = day.counter.window.id, day.counter.policy.skew_seconds * 1000
    own = {
        one.reading_id: one
        for one in day.counter.events
        if one.body.window == window and one.at - one.received_at <= skew
    }
    return sorted(own.values(), key=lambda one: (one.at, one.reading_id))


def _acts(own: Iterable[SeenEvent]) -> list[SeenEvent]:
    return [one for one in own if one.body.event in ACTS]


def _side_spans(day: PostDay) -> Iterator[tuple[Instant, Instant, str]]:
    """Pauses, as long as they cover the post, and times at which the window was closed.

    A post that is to be staffed is closed only for the rest of the segment in which that was told:
    one that was closed before and is not opened is empty.
    """
    states = day.record.states
    limit = day.policy.pause_minutes * MINUTE
    for (at, state), following in zip(states, [*states[1:], None], strict=False):
        ends = following[0] if following else day.counter.next_midnight
        if state == "paused":
            yield at, min(ends, at + limit), "pause"
        elif state == "closed":
            if not day.required:
                yield at, ends, "closed"
            for hours in day.hours if day.required else ():
                if hours.starts <= at < hours.ends:
                    yield at, min(ends, hours.ends), "closed"


_IN_HOURS, _CALLS, _PAUSE, _CLOSED, _FIRST_SEAT = range(5)
_Now = list[tuple[str, tuple[str, ...]] | None]
"""What holds at a moment: the four above, then each sensor's seat."""


def _line(day: PostDay, seats: Sequence[Sequence[_Seen]], acts: list[SeenEvent]) -> list[PostSpan]:
    """The post's state from each instant on, from midnight to ``as_of``."""
    midnight, over = day.counter.midnight, day.counter.as_of + 1
    edges: list[tuple[Instant, int, int, tuple[str, tuple[str, ...]] | None]] = []
    """When, whether something begins, what of ``_Now``, and what it is."""

    def cover(starts: Instant, ends: Instant, what: int, is_: tuple[str, tuple[str, ...]]) -> None:
        starts, ends = max(starts, midnight), min(ends, over)
        if starts < ends:
            edges.append((starts, 1, what, is_))
            edges.append((ends, 0, what, None))

    active = day.policy.activity_seconds * 1000
    for starts, ends in merge_intervals((one.at, one.at + active) for one in acts):
        cover(starts, ends, _CALLS, ("calls", ("calls",)))
    for starts, ends, kind in _side_spans(day):
        cover(starts, ends, _PAUSE if kind == "pause" else _CLOSED, (kind, (kind,)))
    for starts, ends in merge_intervals((hours.starts, hours.ends) for hours in day.hours):
        cover(starts, ends, _IN_HOURS, ("hours", ()))
    for number, seen in enumerate(seats, _FIRST_SEAT):
        for one, following in zip(seen, [*seen[1:], None], strict=False):
            if one.ends <= midnight:
                continue
            starts = one.starts if one.starts > midnight else midnight
            edges.append((starts, 1, number, (one.state, one.told.body.evidence)))
            if following is None or following.starts > one.ends:
                edges.append((one.ends, 0, number, None))
    edges.sort(key=lambda edge: edge[:3])
    now: _Now = [None] * (_FIRST_SEAT + len(seats))
    spans = [PostSpan(midnight, *_state_of(now))]
    for index, (at, _, what, is_) in enumerate(edges):
        now[what] = is_
        if at < over and (index + 1 == len(edges) or edges[index + 1][0] > at):
            state, evidence = _state_of(now)
            if spans[-1].at == at:
                spans.pop()
            if not spans or (spans[-1].state, spans[-1].evidence) != (state, evidence):
                spans.append(PostSpan(at, state, evidence))
    return spans


def _state_of(now: _Now) -> tuple[str, tuple[str, ...]]:
    if now[_IN_HOURS] is None:
        return "closed", ()
    seats = [one for one in now[_FIRST_SEAT:] if one is not None]
    if len(seats) == 1:
        seat, evidence = seats[0]
    else:
        # Of two that see the post, one that sees somebody is enough.
        seat = min((one[0] for one in seats), key=_RANK.index, default="unknown")
        told = (kind for state, evidence in seats if state == seat for kind in evidence)
        evidence = tuple(dict.fromkeys(told))
    if seat == "occupied" or now[_CALLS] is not None:
        return "present", (*(evidence if seat == "occupied" else ()), *_evidence(now[_CALLS]))
    if seat == "still":
        return "still", evidence
    for what in (_PAUSE, _CLOSED):
        if now[what] is not None:
            return "excused", _evidence(now[what])
    return _STATE[seat], evidence


def _evidence(what: tuple[str, tuple[str, ...]] | None) -> tuple[str, ...]:
    return () if what is None else what[1]


# --------------------------------------------------------------------------------------------
# From the line to vacancies
# --------------------------------------------------------------------------------------------

_RUN = {"present": "staffed", "still": "staffed", "excused": "excused", "away": "away"}


_Run = tuple[Instant, Instant, str]


class _Stint(Struct, frozen=True):
    """A time in one segment in which the same people were on duty; ``since``: the longest of them,
    in this segment."""

    segment: str
    starts: Instant
    ends: Instant
    duties: tuple[Duty, ...]
    since: Instant


class _Open(Struct):
    """A vacancy while it is being followed."""

    stint: _Stint
    parts: list[Span]
    left: bool
    back_at: Instant | None = None
    """Since when it is covered again, which may be too short to count."""


def _stints(day: PostDay) -> Iterator[_Stint]:
    duties = [one for one in day.duties if one.starts < one.ends]
    edges = sorted({edge for one in duties for edge in (one.starts, one.ends)})
    for hours in sorted(day.hours, key=lambda one: one.starts):
        bounds = [hours.starts, *(e for e in edges if hours.starts < e < hours.ends), hours.ends]
        since: dict[str, Instant] = {}
        last: _Stint | None = None
        for starts, ends in pairwise(bounds):
            there = [one for one in duties if one.starts <= starts < one.ends]
            there = [one for one in there if one.stands_in] or there
            people = {one.person: one for one in there}
            since = {person: since.get(person, starts) for person in people}
            if last is not None and {one.person for one in last.duties} == people.keys():
                last = structs.replace(last, ends=ends)
                continue
            if last is not None:
                yield last
            last = _Stint(
                hours.segment,
                starts,
                ends,
                tuple(people[person] for person in sorted(people)),
                min(since.values(), default=hours.starts),
            )
        if last is not None:
            yield last


def _runs(spans: Sequence[PostSpan], as_of: Instant) -> list[_Run]:
    """The line as ``staffed excused away unknown``, whatever it rests on."""
    runs: list[_Run] = []
    for span, ends in zip(spans, [*(one.at for one in spans[1:]), as_of], strict=True):
        kind = _RUN.get(span.state, "unknown")
        if runs and runs[-1][2] == kind:
            runs[-1] = (runs[-1][0], ends, kind)
        else:
            runs.append((span.at, ends, kind))
    return runs


def _vacancies(day: PostDay, runs: Sequence[_Run]) -> Iterator[tuple[_Open, bool]]:
    """Each vacancy, and whether it may still go on."""
    as_of, back_for = day.counter.as_of, day.policy.return_seconds * 1000
    begins = [run[0] for run in runs]
    last_there = day.counter.midnight
    """The end of the last time at which somebody was there, long enough to count."""
    for stint in _stints(day):
        now: _Open | None = None
        for began, ended, kind in runs[max(0, bisect_right(begins, stint.starts) - 1) :]:
            starts, until = max(began, stint.starts), min(ended, stint.ends)
            if starts >= stint.ends or starts > as_of:
                break
            if starts >= until and starts < as_of:
                continue
            if now is not None and now.back_at is not None and starts - now.back_at >= back_for:
                yield now, False
                now = None
            if kind in ("staffed", "excused"):
                if kind == "staffed" and ended - began >= back_for:
                    last_there = until
                if now is not None and now.back_at is None:
                    now.back_at = starts
            elif kind == "away":
                if now is None:
                    now = _Open(stint, [], last_there > stint.since)
                now.back_at = None
                now.parts.append((starts, until))
            elif now is not None and now.back_at is not None:
                # Nothing is known any more: the return that this cut off was one.
                yield now, False
                now = None
        if now is not None:
            over = as_of >= stint.ends or (
                now.back_at is not None and as_of - now.back_at >= back_for
            )
            yield now, not over


def _person(acts: Sequence[SeenEvent], people: Sequence[str], at: Instant) -> str:
    """The one who was on duty; of several, the one who last called tickets or logged in here."""
    if len(people) == 1:
        return people[0]
    for one in reversed(acts[: bisect_right(acts, at, key=lambda one: one.at)]):
        if one.body.person in people:
            return one.body.person
    return ""


def unwatched(day: PostDay) -> PostRecord:
    """What a post comes to that no camera sees: nothing, and vacancies least of all."""
    at = day.counter.midnight
    return PostRecord(
        window=day.counter.window.id,
        state="unknown",
        since=at,
        evidence=(),
        spans=(PostSpan(at, "unknown"),),
        vacancies=(),
        figures=PostFigures(Ratio(), Ratio()),
        changes_at=None,
    )


def follow_post(day: PostDay) -> PostRecord:
    """What a post's date comes to; a function of the facts, in whatever order they came."""
    as_of = day.counter.as_of
    own = _own(day)
    acts = _acts(own)
    seats = _seats(day)
    spans = _line(day, seats, acts)
    reviews = sorted(day.reviews, key=lambda one: (one.received_at, one.at, one.reading_id))
    runs = _runs(spans, as_of)
    witness = _Witness(day, seats, own, runs)
    vacancies = []
    changes = [edge for hours in day.hours for edge in (hours.starts, hours.ends)]
    for found, goes_on in _vacancies(day, runs):
        vacancies.append(_vacancy(day, found, goes_on, witness, acts, reviews))
        if goes_on and found.back_at is not None:
            changes.append(found.back_at + day.policy.return_seconds * 1000)
        if goes_on and found.parts[-1][1] == as_of and witness.waited and not witness.queue(found):
            changes.append(max(found.parts[-1][0], witness.waited[-1][0]) + WAITED)
    if day.sensors:
        active = day.policy.activity_seconds * 1000
        changes += [moment for act in acts for moment in (act.at, act.at + active)]
        changes += [ends for _, ends, _ in _side_spans(day)]
        changes += [edge for duty in day.duties for edge in (duty.starts, duty.ends)]
        changes += [seat.at for seat in day.seats]
    last = spans[-1]
    since = last.at
    for span in reversed(spans):
        if span.state != last.state:
            break
        since = span.at
    return PostRecord(
        window=day.counter.window.id,
        state=last.state,
        since=since,
        evidence=last.evidence,
        spans=tuple(spans),
        vacancies=tuple(vacancies),
        figures=_figures(day, runs),
        changes_at=min((at for at in changes if at > as_of), default=None),
    )


class _Witness:
    """What else is known of the times at which a post was vacant."""

    def __init__(
        self,
        day: PostDay,
        seats: Sequence[Sequence[_Seen]],
        own: Sequence[SeenEvent],
        runs: Sequence[_Run],
    ) -> None:
        as_of = day.counter.as_of
        self.as_of = as_of
        self.seats = [(seen, [one.starts for one in seen]) for seen in seats]
        self.waited = waited(day)
        ends = [*(at for at, _ in day.line[1:]), min(as_of + 1, day.counter.next_midnight)]
        self.line = [
            (at, until, number)
            for (at, number), until in zip(day.line, ends, strict=False)
            if number is not None and at <= until
        ]
        self.line_ends = [until for _, until, _ in self.line]
        self.punches = sorted(day.punches, key=lambda one: (one.at, one.reading_id))
        self.acts = [one.at for one in own if one.body.event in ACTS]
        self.logouts = [one for one in own if one.body.event == "window_logout"]
        there = [(starts, ends) for starts, ends, kind in runs if kind == "staffed"]
        self.there = [starts for starts, _ in there]
        self.gone = [ends for _, ends in there]

    def holding(self, at: Instant) -> Iterator[SeenSeat]:
        """What the sensors said that was true at ``at``."""
        for seen, starts in self.seats:
            index = bisect_right(starts, at) - 1
            if index >= 0 and seen[index].ends > at and seen[index].state != "unknown":
                yield seen[index].told

    def empty(self, starts: Instant, ends: Instant) -> Iterator[SeenSeat]:
        for seen, begins in self.seats:
            first = max(0, bisect_right(begins, starts) - 1)
            for one in seen[first : bisect_right(begins, ends)]:
                if one.state == "empty" and one.ends > starts:
                    yield one.told

    def waiting(self, found: _Open) -> int | None:
        """The most who waited, as far as is known."""
        most: int | None = None
        for starts, ends in (*found.parts[:-1], (found.parts[-1][0], self._until(found))):
            for at, _, number in self.line[bisect_right(self.line_ends, starts) :]:
                if at >= ends:
                    break
                most = number if most is None else max(most, number)
        return most

    def queue(self, found: _Open) -> bool:
        return any(
            min(ends, until) - max(starts, since) >= WAITED
            for starts, ends in found.parts
            if ends - starts >= WAITED
            for since, until in self.waited
        )

    def _until(self, found: _Open) -> Instant:
        """Its end; one that lasts includes this moment."""
        ended = found.parts[-1][1]
        return ended + (ended == self.as_of and found.back_at is None)

    def punched(self, found: _Open, person: str) -> Iterator[bytes]:
        """Punches of the one who is named, or else of those on duty, after they had been there: not
        those of coming to work."""
        if not found.left:
            return
        began, ended = found.parts[0][0], self._until(found)
        index = bisect_right(self.gone, found.stint.since)
        came = max(self.there[index], found.stint.since, began - NEAR)
        people = {person} if person else {one.person for one in found.stint.duties}
        for one in self.punches:
            if came < one.at < ended and one.person in people:
                yield one.reading_id

    def logged_out(self, found: _Open, person: str) -> Iterator[bytes]:
        """Logouts of the one who is named, or else of those on duty, after which nobody did a thing
        at the window."""
        began, ended = found.parts[0][0], self._until(found)
        index = bisect_right(self.acts, began)
        last_act = self.acts[index - 1] if index else 0
        people = {"", person} if person else {"", *(one.person for one in found.stint.duties)}
        for one in self.logouts:
            if max(began - NEAR, last_act) <= one.at < ended and one.body.person in people:
                yield one.reading_id


def _vacancy(
    day: PostDay,
    found: _Open,
    goes_on: bool,
    witness: _Witness,
    acts: Sequence[SeenEvent],
    reviews: Sequence[SeenReview],
) -> Vacancy:
    counter = day.counter
    began, ended = found.parts[0][0], found.parts[-1][1]
    id_ = stable_id("vacancy", counter.hall, counter.window.id, began)
    people = tuple(one.person for one in found.stint.duties)
    person = _person(acts, people, began)
    units = {one.unit for one in found.stint.duties if one.person == (person or one.person)}
    signals = ["seat"]
    readings = [
        one.reading_id
        for at in (began - 1, began, *(() if goes_on else (ended,)))
        for one in witness.holding(at)
    ]
    if witness.queue(found):
        signals.append("queue")
    for signal, told in (
        ("punch", list(witness.punched(found, person))),
        ("logout", list(witness.logged_out(found, person))),
    ):
        if told:
            signals.append(signal)
            readings += told
    said = next((one for one in reversed(reviews) if _is_about(one.body, id_, began, ended)), None)
    if said is not None:
        readings.append(said.reading_id)
    pictures = (one.body.snapshot for one in witness.empty(began, ended))
    return Vacancy(
        id=id_,
        segment=found.stint.segment,
        began_at=began,
        ended_at=None if goes_on else ended,
        parts=tuple(found.parts),
        left=found.left,
        people=people,
        person=person,
        unit=units.pop() if len(units) == 1 else counter.window.unit,
        signals=tuple(signals),
        review=said.body.verdict if said else "",
        waiting=witness.waiting(found),
        readings=tuple(dict.fromkeys(one.hex() for one in readings)),
        snapshots=tuple(dict.fromkeys(picture for picture in pictures if picture)),
    )


def _is_about(review: PostReview, vacancy: str, began: Instant, ended: Instant) -> bool:
    if review.vacancy == vacancy:
        return True
    return review.began_at < max(ended, began + 1) and review.ended_at > began


def _figures(day: PostDay, runs: Sequence[_Run]) -> PostFigures:
    staffed = known = total = 0
    required = merge_intervals((hours.starts, hours.ends) for hours in day.hours)
    for starts, ends, kind in runs:
        if kind == "excused":
            continue
        lasted = sum(max(0, min(ends, until) - max(starts, since)) for since, until in required)
        total += lasted
        if kind != "unknown":
            known += lasted
            staffed += lasted * (kind == "staffed")
    return PostFigures(
        Ratio(staffed // MINUTE, known // MINUTE),
        Ratio((total - known) // MINUTE, total // MINUTE),
    )


# --------------------------------------------------------------------------------------------
# What rules share
# --------------------------------------------------------------------------------------------


def needs_line(day: PostDay, post: PostRecord, minutes: int = 5) -> Instant | None:
    """Until when it matters how many waited, because the post was vacant, paused or not opened for
    a while (the end of the date where that goes on); none if it does not matter."""
    span, as_of, ongoing = minutes * MINUTE, day.counter.as_of, day.counter.next_midnight
    ends = [one.ended_at or ongoing for one in post.vacancies if one.lasted >= span]
    ends += [
        ongoing if until >= as_of else until
        for starts, until in pauses(day)
        if until - starts >= span
    ]
    ready = ready_at(day)
    for hours in day.hours[:1]:
        late = hours.starts + span
        if as_of >= late and (ready is None or ready >= late):
            ends.append(ongoing if ready is None else ready)
    return max(ends, default=None)


def pauses(day: PostDay) -> list[Span]:
    """When the window was paused, one that lasts until ``as_of``."""
    states = day.record.states
    ends = [at for at, _ in states[1:]] + [day.counter.as_of]
    return [
        (at, until)
        for (at, state), until in zip(states, ends, strict=False)
        if state == "paused" and at < until
    ]


def ready_at(day: PostDay) -> Instant | None:
    """The first sign of somebody at the window on the date, from an hour before it opens on."""
    if not day.hours:
        return None
    first = day.hours[0].starts - 60 * MINUTE
    signs = [
        max(one.starts, first)
        for seen in _seats(day)
        for one in seen
        if one.state == "occupied" and one.ends > first
    ]
    window, skew = day.counter.window.id, day.counter.policy.skew_seconds * 1000
    signs += [
        one.at
        for one in day.counter.events
        if first <= one.at <= day.counter.as_of
        and one.body.event in ACTS
        and one.body.event != "window_paused"
        and one.body.window == window
        and one.at - one.received_at <= skew
    ]
    return min(signs, default=None)


def waited(day: PostDay) -> list[Span]:
    """When somebody is known to have waited for this window's queues, not beyond the date; a time
    that lasts ends after ``as_of``."""
    over = min(day.counter.as_of + 1, day.counter.next_midnight)
    ends = [*(at for at, _ in day.line[1:]), over]
    return merge_intervals(
        (at, until) for (at, number), until in zip(day.line, ends, strict=False) if number
    )


def level(steps: int) -> int:
    """The severity of so many steps above a notice: yellow, red; never less and never more."""
    return SEVERITY[("notice", "yellow", "red")[max(0, min(2, steps))]]


def finality(day: PostDay) -> str:
    """How firm a finding about a person at the post is."""
    if day.counter.as_of < day.appeal_ends:
        return "provisional"
    return "final" if day.counter.as_of < day.locks_at else "locked"


def span_words(day: PostDay, vacancy: Vacancy) -> tuple[str, str]:
    """When a vacancy was, in Chinese and English."""
    since = wall_time(vacancy.began_at, day.counter.midnight)
    if vacancy.ended_at is None:
        return f"{since} 起", f"from {since} on"
    until = wall_time(vacancy.ended_at, day.counter.midnight)
    return f"{since}–{until}", f"from {since} to {until}"


def queue_line(events: Iterable[SeenEvent]) -> tuple[tuple[Instant, int | None], ...]:
    """How many wait for the queues that this window serves, from each instant on.

    ``events``: everything told of these queues on the date.  What a queue system says of the number
    holds; between, each ticket taken adds one and each first call or uncalled abandonment takes one
    away.  Before the first of either, it is unknown.
    """
    waiting: dict[str, int] = {}
    called: set[tuple[str, str]] = set()
    line: list[tuple[Instant, int | None]] = []
    told = {one.reading_id: one for one in events}
    for one in sorted(told.values(), key=_taken_first):
        body = one.body
        queue = queue_of(body)
        ticket = (queue, body.ticket)
        if body.event == "batch_abandoned":
            for known in [queue] if queue else list(waiting):
                waiting[known] = 0
        elif body.event == "ticket_taken":
            waiting[queue] = waiting.get(queue, 0) + 1
        elif body.event in ("called", "abandoned") and ticket not in called:
            called.add(ticket)
            if queue in waiting:
                waiting[queue] = max(0, waiting[queue] - 1)
        if body.waiting is not None:
            waiting[queue] = body.waiting
        number = sum(waiting.values()) if waiting else None
        if not line or line[-1][1] != number:
            line.append((one.at, number))
    return tuple(line)


def _taken_first(one: SeenEvent) -> tuple[Instant, bool, bytes]:
    return one.at, one.body.event != "ticket_taken", one.reading_id


def queues_of(day: WindowDay) -> tuple[str, ...]:
    """The queues this window has called tickets of on the date."""
    return tuple(
        sorted(
            {
                queue_of(one.body)
                for one in day.events
                if one.body.window == day.window.id and one.body.ticket
            }
        )
    )


def with_line(day: PostDay, events: Iterable[SeenEvent]) -> PostDay:
    return structs.replace(day, line=queue_line(events))
