"""The counter's day: from queue events, pads and displays to services, ratings and states.

``follow_window`` turns one window's facts of a date into what happened there: a state machine
(``idle calling serving finished``, beside them ``paused closed unknown``), the services with their
tickets, and the ratings with the service each belongs to.  ``follow_counter`` puts a hall's windows
together: tickets from taking to calling, and the waiting in each service area.

Facts are taken in order of their own time, never of arrival, and each once.  No event is dropped
for coming in the wrong order: what it can still tell is applied, and it is flagged
``out_of_order``.  What was not seen is unknown, never counted against anybody: a service whose end
nobody told is ``ended_unknown``, and silence at a pad is no rating.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Protocol

from msgspec import Struct, structs

from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    QUEUE_SOURCES,
    Alert,
    AskAgain,
    FollowUpStep,
    Instant,
    QueueEvent,
    Rating,
    RatingPrompt,
    Shown,
)

# --------------------------------------------------------------------------------------------
# What is given
# --------------------------------------------------------------------------------------------


class SeenEvent(Struct, frozen=True, gc=False):
    """A queue event as told by ``device`` (or another system)."""

    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: QueueEvent


class SeenRating(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: Rating


class SeenPrompt(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: RatingPrompt


class SeenShown(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: Shown


class SeenStep(Struct, frozen=True, gc=False):
    at: Instant
    received_at: Instant
    device: str
    reading_id: bytes
    body: FollowUpStep


class Window(Struct, frozen=True, omit_defaults=True):
    """窗口 as the settings name it."""

    id: str
    name: str = ""
    unit: str = ""
    area: str = ""


class SourceUp(Struct, frozen=True):
    """When one source of a window's facts was in contact: sorted, disjoint, half-open spans; one
    that lasts ends after ``as_of``.  ``kind``: ``pad queue display``.  ``window`` is empty for a
    source of the whole hall.  Of a source that is not listed nothing is known."""

    device: str
    window: str
    kind: str
    up: tuple[tuple[Instant, Instant], ...]


class ScaleHistory(Struct, frozen=True):
    """Presses on a window's pads by one scale over a longer time, for RAT-06.

    ``offered``: the levels the scale has keys for.  ``levels``: counts of the levels 1 to 5, since
    the software changed at ``changed_at`` if it did, and ``before`` that.  ``complaints``: about
    the window, in the same time, by other ways than its pads.
    """

    window: str
    scale_id: str
    offered: tuple[int, ...]
    levels: tuple[int, int, int, int, int]
    complaints: int = 0
    changed_at: Instant | None = None
    before: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)


class CounterPolicy(Struct, frozen=True, omit_defaults=True):
    """Hall-wide choices about the counter that are not thresholds of one rule."""

    same_event_seconds: int = 5
    """Two sources that tell the same within this time tell one event."""
    repeat_seconds: int = 5
    """The same ticket called again within this time is a repeat, not a call."""
    skew_seconds: int = 120
    """A time further in the future than this is not believed; the time of receipt is."""
    match_before: int = 10
    """Minutes after the end of a service in which a press belongs to it."""
    match_after: int = 2
    """Minutes before the end of a service in which a press belongs to it."""
    late_rating_days: int = 30
    live_minutes: int = 60
    """A rating received later than this after the press is nothing to run for."""
    assign_minutes: int = 5
    contact_workdays: int = 1
    close_workdays: int = 5
    plan_workdays: int = 10
    outer_workdays: int = 15
    review_workdays: int = 3
    contact_tries: int = 3
    contact_days: int = 2


class WindowDay(Struct, frozen=True):
    """Everything that decides one window's date; only what was received by ``as_of`` is in it.

    ``events``: the window's own; the hall's ``batch_abandoned``; and of the tickets it called
    ``ticket_taken`` and, from other windows, ``transferred``.  Any order, repeats allowed.
    ``ratings``: each rating belongs to one date: that of the service which its prompt or
    ``service_ref`` names, and otherwise the date on which it was given.
    ``opens``, ``closes``: the hall's working time on that date; none where unknown.
    ``workdays_after``: the ends of the workdays after ``work_date``, in order; a limit beyond the
    last of them is not due.
    ``resets``: when a queue's ticket numbers began again, as ``queue_resets`` finds them.
    """

    hall: str
    window: Window
    work_date: date
    midnight: Instant
    next_midnight: Instant
    opens: Instant | None
    closes: Instant | None
    as_of: Instant
    works: bool
    events: tuple[SeenEvent, ...] = ()
    ratings: tuple[SeenRating, ...] = ()
    prompts: tuple[SeenPrompt, ...] = ()
    shown: tuple[SeenShown, ...] = ()
    steps: tuple[SeenStep, ...] = ()
    device_up: tuple[SourceUp, ...] = ()
    workdays_after: tuple[Instant, ...] = ()
    resets: tuple[tuple[str, Instant], ...] = ()
    policy: CounterPolicy = CounterPolicy()


class CounterDay(Struct, frozen=True):
    """A whole hall's counter on one date: ``WindowDay`` for all windows together, with the events
    that belong to none (``ticket_taken``, ``batch_abandoned``, tickets abandoned uncalled)."""

    hall: str
    work_date: date
    midnight: Instant
    next_midnight: Instant
    opens: Instant | None
    closes: Instant | None
    as_of: Instant
    works: bool
    windows: tuple[Window, ...] = ()
    events: tuple[SeenEvent, ...] = ()
    ratings: tuple[SeenRating, ...] = ()
    prompts: tuple[SeenPrompt, ...] = ()
    shown: tuple[SeenShown, ...] = ()
    steps: tuple[SeenStep, ...] = ()
    device_up: tuple[SourceUp, ...] = ()
    workdays_after: tuple[Instant, ...] = ()
    scales: tuple[ScaleHistory, ...] = ()
    policy: CounterPolicy = CounterPolicy()


# --------------------------------------------------------------------------------------------
# What is concluded
# --------------------------------------------------------------------------------------------


class Ratio(Struct, frozen=True, gc=False):
    """``n`` of ``of``: a share is never told without both."""

    n: int = 0
    of: int = 0


class Durations(Struct, frozen=True, gc=False):
    """``n`` durations: their sum in ms, mean and longest in minutes (none without any)."""

    n: int = 0
    total: int = 0
    mean: float | None = None
    longest: float | None = None


class LastCall(Struct, frozen=True):
    """The newest call or recall.  ``readings``: everything that told it, most trusted first; when
    another source tells of the same call, they are more but none of them is lost: a call of which
    one reading was announced has been announced."""

    at: Instant
    kind: str
    """``called`` or ``recalled``."""
    ticket: str
    readings: tuple[bytes, ...]


class Service(Struct, frozen=True):
    """What became of a ticket at the window.

    ``ended``: ``finished abandoned held transferred ended_unknown open``; only ``finished`` can be
    rated.  ``recalls``: none where only a display told of the calls, which cannot show recalls.
    ``waited``: ms from taking the ticket (from the transfer here; from opening, if the ticket was
    taken before) to the first call; ``served``: ms from the start (or the call) to the end.
    ``person``: who called the ticket.  ``epoch``: how often the queue's numbers had begun again.
    """

    ticket: str
    queue: str
    service_code: str
    person: str
    epoch: int
    taken_at: Instant | None
    called_at: Instant | None
    started_at: Instant | None
    finished_at: Instant | None
    ended: str
    ended_at: Instant | None
    waited: int | None
    served: int | None
    recalls: int | None
    priority: bool
    to: str
    sources: tuple[str, ...]
    prompted: bool
    rating_id: str
    additional: tuple[str, ...]
    flags: tuple[str, ...]
    readings: tuple[bytes, ...]


class Due(Struct, frozen=True):
    """A limit of a follow-up.  ``step``: ``assigned contact review closed outer``.  ``at`` is none
    where too few workdays are known."""

    step: str
    at: Instant | None
    done_at: Instant | None


class FollowUp(Struct, frozen=True):
    """差评整改: how far the follow-up of a bad rating has come.

    ``state``: ``opened assigned contacting unreachable classified acting fed_back rechecked closed
    reopened``.  ``kind``: ``fix_now plan explain mistaken malicious``, empty before.
    ``excluded``: reviewed and found mistaken, or malicious by two people; then the rating counts
    in no rate.  ``dues`` are those since the last (re)opening.
    """

    state: str
    opened_at: Instant
    handler: str
    kind: str
    tries: int
    contacted: bool
    closed_at: Instant | None
    reopened: int
    excluded: bool
    dues: tuple[Due, ...]
    flags: tuple[str, ...]


class RatingRecord(Struct, frozen=True):
    """A rating and what it belongs to.

    ``match``: ``matched`` to a service; ``additional`` (追评) after the one that counts;
    ``unmatched``.  ``counted``: it is in the window's rates.  ``person``: who served.
    ``live``: it came while somebody can still run.  ``delay``: ms from the end of the service to
    the press.  ``flags``: ``out_of_order`` (given while the service went on), ``paused``,
    ``closed``, ``after_hours``, ``too_late``.
    """

    rating_id: str
    reading_id: bytes
    at: Instant
    received_at: Instant
    window: str
    level: int | None
    scale_id: str
    channel: str
    person: str
    ticket: str
    match: str
    counted: bool
    named: bool
    defaulted: bool
    origin: str
    problem: str
    live: bool
    delay: int | None
    flags: tuple[str, ...]
    follow_up: FollowUp | None


class ScaleFigures(Struct, frozen=True):
    """Counted ratings by one scale; figures of two scales are never added up.
    ``levels``: counts of the levels 1 to 5; ``mean`` holds within this scale only."""

    scale_id: str
    satisfied: Ratio
    """满意率: levels 3 to 5."""
    strict: Ratio
    """Levels 4 and 5."""
    bad: Ratio
    """Levels 1 and 2."""
    levels: tuple[int, int, int, int, int]
    mean: float


class HourFigures(Struct, frozen=True):
    """One hour from ``midnight + hour``: calls and waits by the call, the rest by its end."""

    hour: int
    called: int
    finished: int
    abandoned: int
    waits: Durations
    services: Durations


class WindowFigures(Struct, frozen=True):
    called: int
    finished: int
    abandoned: int
    held: int
    transferred: int
    ended_unknown: int
    rated: Ratio
    """测评率: rated services of the rateable ones."""
    prompted: Ratio
    scales: tuple[ScaleFigures, ...]
    additional: int
    unmatched: int
    unrated_presses: int
    """Presses without a level, and levels that others made of silence."""
    waits: Durations
    services: Durations
    hours: tuple[HourFigures, ...]
    callbacks: Ratio
    """Named bad ratings called back, of those closed or due."""
    rectified: Ratio
    """Follow-ups closed, of those closed or due."""
    in_time: Ratio


class Unmatched(Struct, frozen=True):
    """A display shows a ticket that the queue system never called at this window."""

    ticket: str
    since: Instant
    until: Instant | None
    device: str
    reading_id: bytes


class WindowRecord(Struct, frozen=True):
    """What one window's date comes to.

    ``state``: ``idle calling serving finished paused closed unknown``, ``since`` when (none while
    nothing is known).  ``ticket``, ``queue`` and ``called_at`` are those of the service in
    ``calling``, ``serving`` and ``finished``; ``repeat`` its recalls (none where unknown).
    ``waiting``: as last told, none where unknown.  ``calls``: calls and recalls so far.
    ``states``: every state with its beginning.  ``out_of_order``: reading ids, hexadecimal.
    ``changes_at``: when this can change by time alone.
    """

    window: Window
    work_date: date
    state: str
    since: Instant | None
    ticket: str
    queue: str
    person: str
    called_at: Instant | None
    repeat: int | None
    waiting: int | None
    last_call: LastCall | None
    calls: int
    states: tuple[tuple[Instant, str], ...]
    services: tuple[Service, ...]
    ratings: tuple[RatingRecord, ...]
    figures: WindowFigures
    unmatched_shown: tuple[Unmatched, ...]
    out_of_order: tuple[str, ...]
    changes_at: Instant | None


class Ticket(Struct, frozen=True):
    """号票 in the whole hall, from taking to its first call.  ``back``: held, transferred or called
    back, so that its place in the queue tells nothing.  ``batch``: abandoned with all others."""

    ticket: str
    queue: str
    epoch: int
    area: str
    service_code: str
    priority: bool
    taken_at: Instant | None
    called_at: Instant | None
    window: str
    ended: str
    """Empty while it waits or was called and no end is known."""
    ended_at: Instant | None
    back: bool
    batch: bool
    reading_id: bytes


class AreaHour(Struct, frozen=True):
    """``waiting``: the most people waiting at once in this hour; none where unknown."""

    hour: int
    taken: int
    called: int
    finished: int
    abandoned: int
    waits: Durations
    waiting: int | None


class AreaRecord(Struct, frozen=True):
    """A service area: all its windows together.  ``line``: ``(at, waiting, open windows)`` from
    each instant on."""

    area: str
    waiting: int | None
    open_windows: int
    waits: Durations
    hours: tuple[AreaHour, ...]
    line: tuple[tuple[Instant, int | None, int], ...] = ()


class CounterRecord(Struct, frozen=True):
    """What a whole hall's date comes to."""

    windows: tuple[WindowRecord, ...]
    tickets: tuple[Ticket, ...]
    areas: tuple[AreaRecord, ...]
    resets: tuple[tuple[str, Instant], ...]
    batches: tuple[tuple[Instant, str], ...]
    """``(at, queue)`` of each time at which all open tickets were abandoned."""


class CounterOutcome(Struct, frozen=True):
    """``ask_again``: the next instant at which this can change by time alone."""

    alerts: tuple[Alert, ...]
    ask_again: Instant | None
    areas: tuple[AreaRecord, ...] = ()


class WindowRule(Protocol):
    """A rule about one window's date (``SCOPE = "window"``)."""

    def judge_window(self, day: WindowDay, record: WindowRecord) -> Iterator[Alert | AskAgain]: ...


class CounterRule(Protocol):
    """A rule about the hall's counter (``SCOPE = "counter"``)."""

    def judge_counter(
        self, day: CounterDay, record: CounterRecord
    ) -> Iterator[Alert | AskAgain]: ...


def judge_window(
    day: WindowDay, record: WindowRecord, rules: Sequence[WindowRule]
) -> CounterOutcome:
    """Everything concluded about one window; ``record`` is ``follow_window(day)``."""
    found = (one for rule in rules for one in rule.judge_window(day, record))
    return _outcome(found, day.as_of, record.changes_at, ())


def judge_counter(
    day: CounterDay, record: CounterRecord, rules: Sequence[CounterRule]
) -> CounterOutcome:
    """Everything concluded about the hall; ``record`` is ``follow_counter(day)``."""
    found = (one for rule in rules for one in rule.judge_counter(day, record))
    return _outcome(found, day.as_of, None, record.areas)


def _outcome(
    found: Iterable[Alert | AskAgain],
    as_of: Instant,
    ask_again: Instant | None,
    areas: tuple[AreaRecord, ...],
) -> CounterOutcome:
    alerts: list[Alert] = []
    for one in found:
        if isinstance(one, Alert):
            alerts.append(one)
        elif one.at > as_of and (ask_again is None or one.at < ask_again):
            ask_again = one.at
    return CounterOutcome(tuple(alerts), ask_again, areas)


# --------------------------------------------------------------------------------------------
# One window's events
# --------------------------------------------------------------------------------------------

CALLS = frozenset(("called", "recalled", "called_back"))
_DISPLAYS = frozenset(("display", "sniffed"))
_TRUST = {source: rank for rank, source in enumerate(QUEUE_SOURCES)}
_BUSY = frozenset(("calling", "serving"))
_WITH_TICKET = frozenset(("calling", "serving", "finished"))
_COMPLETES_BEFORE = 1000
"""A display's new ticket read this long (ms) before the key that called it still completes it."""
_BLINK = 5000
"""A display that is blank for less than this (ms) is blinking."""

_Told = tuple[Instant, bytes, QueueEvent | Shown, tuple[bytes, ...]]
"""When, which reading, what, and all readings that told it."""


class _Draft(Struct):
    """A service while it is being followed."""

    ticket: str
    queue: str
    service_code: str
    person: str
    called_at: Instant | None
    readings: list[bytes]
    sources: list[str]
    started_at: Instant | None = None
    finished_at: Instant | None = None
    ended: str = "open"
    ended_at: Instant | None = None
    recalls: int = 0
    priority: bool = False
    to: str = ""
    prompted: bool = False
    rating_id: str = ""
    flags: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()
    told_by_call: bool = False
    """Somebody who would tell of recalls told of the call."""


def same_ticket(one: str, other: str) -> bool:
    """Whether two normalised numbers can be the same ticket: small displays show only the last
    digits of it."""
    if one == other:
        return True
    short, long = (one, other) if len(one) < len(other) else (other, one)
    return len(short) >= 3 and long.endswith(short)


def queue_of(body: QueueEvent) -> str:
    """The queue of a ticket, by its letters where nobody names it."""
    return body.queue or body.ticket.rstrip("0123456789")


def event_time(event: SeenEvent, policy: CounterPolicy) -> Instant:
    """When it happened: as told, unless the teller's clock is far ahead."""
    if event.at - event.received_at > policy.skew_seconds * 1000:
        return event.received_at
    return event.at


def _in_order(day: WindowDay | CounterDay) -> list[tuple[Instant, bytes, SeenEvent]]:
    skew = day.policy.skew_seconds * 1000
    told: dict[bytes, SeenEvent] = {}
    for event in day.events:
        before = told.setdefault(event.reading_id, event)
        if before is not event and event.received_at < before.received_at:
            told[event.reading_id] = event
    ordered = [
        (one.at if one.at - one.received_at <= skew else one.received_at, one.reading_id, one)
        for one in told.values()
    ]
    ordered.sort()
    return ordered


class _Window:
    """The state machine of one window.  ``main`` is where the service stands, ``side`` hides it:
    ``paused``, ``closed``, or ``unknown`` where keys and texts contradict each other."""

    def __init__(self, day: WindowDay) -> None:
        self.repeat_ms = day.policy.repeat_seconds * 1000
        self.resets = day.resets
        self.displays_only = True
        self.main = "unknown"
        self.side = ""
        self.person = ""
        self.current: _Draft | None = None
        self.called_at: Instant | None = None
        self.drafts: list[_Draft] = []
        self.last: dict[str, _Draft] = {}
        self.waiting: int | None = None
        self.calls = 0
        self.last_call: LastCall | None = None
        self.states: list[tuple[Instant, str]] = []
        self.flagged: list[bytes] = []

    def follow(self, told: list[_Told]) -> None:
        position, count = 0, len(told)
        while position < count:
            end = position + 1
            at = told[position][0]
            while end < count and told[end][0] == at:
                end += 1
            if end == position + 1:
                self._apply(told[position])
            else:
                # Teller clocks of whole seconds: of one second's events the one that fits first.
                tied = told[position:end]
                while tied:
                    fits = next((one for one in tied if self._fits(one[2])), tied[0])
                    tied.remove(fits)
                    self._apply(fits)
            position = end

    def _fits(self, body: QueueEvent | Shown) -> bool:
        if type(body) is not QueueEvent:
            return False
        kind = body.event
        if kind == "called" or kind == "called_back":
            return self.main not in _BUSY and not self.side
        if kind == "window_paused" or kind == "window_closed":
            return self.main not in _BUSY
        if kind in ("recalled", "started", "finished", "abandoned", "held", "transferred"):
            current = self.current
            fits = current is not None and self.main in _BUSY and not self.side
            return fits and (not body.ticket or body.ticket == current.ticket)  # type: ignore[union-attr]
        return True

    def _apply(self, told: _Told) -> None:
        at, reading, body, readings = told
        if type(body) is not QueueEvent:
            self._shown(at, body)  # type: ignore[arg-type]
        else:
            if body.waiting is not None:
                self.waiting = body.waiting
            apply = _APPLY.get(body.event)
            if apply is None or not apply(self, at, body, readings):
                self.flagged.append(reading)
        state = self.side or self.main
        if not self.states:
            if state != "unknown":
                self.states.append((at, state))
        elif self.states[-1][1] != state:
            self.states.append((at, state))

    # Each returns whether the event fitted the state it met.

    def _called(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        current = self.current if self.main in _BUSY else None
        ticket = body.ticket
        if current is not None and current.ticket == ticket and ticket:
            current.readings.extend(readings)
            if current.called_at is None:
                current.called_at = at
            last = self.last_call
            if last is not None and last.ticket == ticket and at - last.at < self.repeat_ms:
                self.last_call = LastCall(last.at, last.kind, ticket, last.readings + readings)
                return True
            return self._again(at, current, body, readings)
        fitted = self.side not in ("paused", "closed")
        if current is not None:
            self._lose_sight(at)
            # Displays and sniffers never tell of an end: for them this is how it always goes.
            fitted = fitted and body.source in _DISPLAYS
        self.side = ""
        before = self.last.get(ticket) if ticket else None
        if before is not None and before.ended in ("held", "abandoned"):
            self._reopen(at, before, readings)
        else:
            if before is not None and before.finished_at is not None:
                fitted = fitted and self._reset_since(before)
            before = self._begin(at, body, readings)
        self.main = "calling"
        self.called_at = at
        self.calls += 1
        self.last_call = LastCall(at, "called", ticket, readings)
        if body.call_no is not None and body.call_no > 1:
            before.recalls = max(before.recalls, body.call_no - 1)
        return fitted

    def _again(
        self, at: Instant, current: _Draft, body: QueueEvent, readings: tuple[bytes, ...]
    ) -> bool:
        current.recalls += 1
        if body.source not in _DISPLAYS:
            current.told_by_call = True
        self.calls += 1
        self.last_call = LastCall(at, "recalled", current.ticket, readings)
        fitted = self.main == "calling" and not self.side
        self.side = ""
        return fitted

    def _recalled(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        current = self.current if self.main in _BUSY else None
        if current is not None and body.ticket in ("", current.ticket):
            current.readings.extend(readings)
            return self._again(at, current, body, readings)
        if not body.ticket:
            return False
        # Its call was not seen, nor when that was: no wait can be told.
        if current is not None:
            self._lose_sight(at)
        before = self.last.get(body.ticket)
        if before is not None and before.ended in ("held", "abandoned"):
            self._reopen(at, before, readings)
        else:
            before = self._begin(at, body, readings)
            before.called_at = None
        self.main = "calling"
        self.called_at = None
        self._again(at, before, body, readings)
        return False

    def _called_back(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        if not body.ticket:
            away = [one for one in self.drafts if one.ended in ("held", "abandoned")]
            if self.main in _BUSY or not away:
                return False
            last = max(away, key=lambda one: one.ended_at or 0)
            body = structs.replace(body, ticket=last.ticket)
        return self._called(at, body, readings)

    def _started(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        current = self.current if self.main in _BUSY else None
        fitted = self.main == "calling" and not self.side
        if current is None or body.ticket not in ("", current.ticket):
            fitted = False
            if current is not None:
                self._lose_sight(at)
            current = self._begin(at, body, readings)
            current.called_at = None
            self.called_at = None
        else:
            current.readings.extend(readings)
        if current.started_at is None:
            current.started_at = at
        self.main = "serving"
        if self.side != "closed":
            self.side = ""
        return fitted

    def _ended(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        kind = body.event
        ticket = body.ticket
        current = self.current if self.main in _BUSY else None
        if current is not None and (not ticket or ticket == current.ticket):
            fitted = not self.side and (kind == "finished" or self.main == "calling")
            current.readings.extend(readings)
            self._end(at, current, kind, body)
            self.main = "finished" if kind == "finished" else "idle"
            if kind != "finished":
                self.current = None
            return fitted
        before = self.last.get(ticket) if ticket else None
        if before is not None and before.ended == "ended_unknown":
            # The end of the former service, told after the next one was called.
            before.readings.extend(readings)
            self._end(at, before, kind, body)
        elif before is not None and kind == "abandoned" and before.ended == "held":
            before.readings.extend(readings)
            self._end(at, before, kind, body)
            return True
        elif kind == "finished" and (before is None or before.ended in ("held", "abandoned")):
            if not ticket and self.main == "finished":
                return False  # the key was pressed twice
            if before is None:
                before = self._begin(at, body, readings, becomes_current=current is None)
                before.called_at = None
            else:
                before.readings.extend(readings)
                if current is None:
                    self.current = before
            self._end(at, before, kind, body)
            if current is None:
                self.main = "finished"
                self.called_at = before.called_at
        return False

    def _paused(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        if self.side == "paused":
            if body.source == "bus":
                # The key is a toggle: one press was lost, here or before.
                self.side = "unknown"
            return False
        fitted = self.side != "closed"
        self.side = "paused"
        return fitted

    def _resumed(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        if self.side == "paused" or (self.side == "unknown" and body.source != "bus"):
            self.side = ""
            self._awake()
            return True
        if self.main == "unknown" and not self.side:
            self._awake()
            return True
        if body.source == "bus" and self.side != "closed":
            self.side = "unknown"
        return False

    def _awake(self) -> None:
        if self.main == "unknown":
            self.main = "idle"

    def _opened(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        if self.side == "closed":
            self.side = ""
        self._awake()
        return True

    def _closed(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        # A service that goes on is left to end: the hall may lock the queue before the last one.
        self.side = "closed"
        return self.main not in _BUSY

    def _login(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        self.person = body.person
        self._awake()
        return True

    def _logout(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        fitted = not body.person or body.person == self.person
        if fitted:
            self.person = ""
        return fitted

    def _batch(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        for one in self.drafts:
            if one.ended not in ("open", "held") or (body.queue and one.queue != body.queue):
                continue
            # One who is being served is not sent away by a clock time.
            self._end(at, one, "ended_unknown" if one.started_at else "abandoned", body)
            one.flags = (*one.flags, "batch")
            if one is self.current:
                self.current = None
                self.main = "idle"
        return True

    def _taken(self, at: Instant, body: QueueEvent, readings: tuple[bytes, ...]) -> bool:
        return True

    def _shown(self, at: Instant, shown: Shown) -> None:
        state = shown.state
        if shown.baseline:
            if state == "paused" and not self.side:
                self.side = "paused"
            elif state == "blank" and self.main == "unknown":
                self.main = "idle"
            elif state == "ticket" and self.displays_only:
                current = self.current if self.main in _BUSY else None
                if current is None and self.main != "unknown":
                    return
                if current is not None and same_ticket(current.ticket, shown.text):
                    return
                if current is not None:
                    self._lose_sight(at)
                # What it showed before we looked: nothing says when it was called.
                body = QueueEvent("", "called", shown.window, shown.text, source="display")
                self._begin(at, body, ()).called_at = None
                self.main = "calling"
                self.called_at = None
        elif state == "blank" and self.displays_only and self.main in _BUSY:
            self._lose_sight(at)
            self.main = "idle"
        elif state == "blank" and self.main == "finished":
            self.main = "idle"
            self.current = None

    def _begin(
        self,
        at: Instant,
        body: QueueEvent,
        readings: tuple[bytes, ...],
        becomes_current: bool = True,
    ) -> _Draft:
        draft = _Draft(
            body.ticket,
            queue_of(body),
            body.service_code,
            body.person or self.person,
            at,
            list(readings),
            [body.source],
            priority=body.priority,
            told_by_call=body.source not in _DISPLAYS,
        )
        self.drafts.append(draft)
        if body.ticket:
            self.last[body.ticket] = draft
        if becomes_current:
            self.current = draft
        return draft

    def _reopen(self, at: Instant, draft: _Draft, readings: tuple[bytes, ...]) -> None:
        draft.ended, draft.ended_at = "open", None
        draft.readings.extend(readings)
        if "called_back" not in draft.flags:
            draft.flags = (*draft.flags, "called_back")
        self.current = draft

    def _end(self, at: Instant, draft: _Draft, how: str, body: QueueEvent) -> None:
        draft.ended, draft.ended_at = how, at
        if how == "finished":
            draft.finished_at = at
        elif how == "transferred":
            draft.to = body.to
        if body.source not in draft.sources:
            draft.sources.append(body.source)

    def _reset_since(self, draft: _Draft) -> bool:
        """Whether the queue's numbers began again after this service."""
        ended = draft.finished_at or 0
        return any(queue == draft.queue and at > ended for queue, at in self.resets)

    def _lose_sight(self, at: Instant) -> None:
        """The service ended unseen."""
        if self.current is not None:
            self.current.ended, self.current.ended_at = "ended_unknown", at
            self.current = None


_APPLY = {
    "ticket_taken": _Window._taken,
    "called": _Window._called,
    "recalled": _Window._recalled,
    "started": _Window._started,
    "finished": _Window._ended,
    "abandoned": _Window._ended,
    "transferred": _Window._ended,
    "held": _Window._ended,
    "called_back": _Window._called_back,
    "window_paused": _Window._paused,
    "window_resumed": _Window._resumed,
    "window_opened": _Window._opened,
    "window_closed": _Window._closed,
    "window_login": _Window._login,
    "window_logout": _Window._logout,
    "batch_abandoned": _Window._batch,
}


def _family(event: str) -> str:
    return "call" if event in CALLS else event


def _one_each(
    own: list[tuple[Instant, bytes, SeenEvent]], policy: CounterPolicy
) -> list[tuple[Instant, bytes, QueueEvent, tuple[bytes, ...]]]:
    """What several sources told, each event once: by its most trusted teller, the gaps filled from
    the others."""
    within = policy.same_event_seconds * 1000
    ranks = sorted({_TRUST.get(event.body.source, len(_TRUST)) for _, _, event in own})
    kept: list[tuple[Instant, bytes, QueueEvent, tuple[bytes, ...]]] = []
    for rank in ranks:
        by_family: dict[str, list[int]] = {}
        for index, one in enumerate(kept):
            by_family.setdefault(_family(one[2].event), []).append(index)
        times = {
            family: [kept[index][0] for index in found] for family, found in by_family.items()
        }
        new: list[tuple[Instant, bytes, QueueEvent, tuple[bytes, ...]]] = []
        for at, reading, event in own:
            body = event.body
            if _TRUST.get(body.source, len(_TRUST)) != rank:
                continue
            family = _family(body.event)
            best: int | None = None
            near = times.get(family, [])
            low, high = bisect_left(near, at - within), bisect_right(near, at + within)
            for index in by_family.get(family, ())[low:high]:
                told_at, _, told, _ = kept[index]
                if told.ticket and body.ticket:
                    if not same_ticket(told.ticket, body.ticket):
                        continue
                elif not told.ticket and body.ticket and told_at - at > _COMPLETES_BEFORE:
                    continue
                if best is None or abs(told_at - at) < abs(kept[best][0] - at):
                    best = index
            if best is None:
                new.append((at, reading, body, (reading,)))
            else:
                told_at, first, told, readings = kept[best]
                kept[best] = (told_at, first, _filled(told, body), (*readings, reading))
        kept.extend(new)
        kept.sort(key=lambda one: one[:2])
    return kept


def _filled(told: QueueEvent, other: QueueEvent) -> QueueEvent:
    return structs.replace(
        told,
        ticket=told.ticket or other.ticket,
        queue=told.queue or other.queue,
        service_code=told.service_code or other.service_code,
        person=told.person or other.person,
        to=told.to or other.to,
        call_no=other.call_no if told.call_no is None else told.call_no,
        waiting=other.waiting if told.waiting is None else told.waiting,
        priority=told.priority or other.priority,
    )


def _known_down(day: WindowDay, device: str, at: Instant) -> bool:
    listed = [one.up for one in day.device_up if one.device == device]
    return bool(listed) and not any(a <= at < b for up in listed for a, b in up)


def _believed(
    day: WindowDay, told: list[tuple[Instant, bytes, QueueEvent, tuple[bytes, ...]]], api: set[str]
) -> list[tuple[Instant, bytes, QueueEvent, tuple[bytes, ...]]]:
    """Where the queue system tells of the calls, what only a key or a display tells of one is no
    call: the key was refused, the display shows something old.  Unless that link was down."""
    return [
        one
        for one in told
        if one[2].source == "api"
        or one[2].event not in CALLS
        or all(_known_down(day, device, one[0]) for device in api)
    ]


def _unmatched_shown(
    day: WindowDay, own: list[tuple[Instant, bytes, SeenEvent]], api: set[str], patience: int
) -> tuple[Unmatched, ...]:
    called: dict[str, list[Instant]] = {}
    displays: dict[str, list[tuple[Instant, bytes, str]]] = {}
    for at, reading, event in own:
        body = event.body
        if body.source == "api":
            if body.ticket:
                called.setdefault(body.ticket, []).append(at)
        elif body.source in _DISPLAYS and body.event == "called":
            displays.setdefault(event.device, []).append((at, reading, body.ticket))
    for one in day.shown:
        if one.body.state in ("ticket", "blank", "paused") and one.device in displays:
            text = one.body.text if one.body.state == "ticket" and not one.body.baseline else ""
            displays[one.device].append((one.at, one.reading_id, text))
    found: list[Unmatched] = []
    for device, told in sorted(displays.items()):
        shows = ""
        # At one instant the event stands before the text that shows it.
        for index, (at, reading, ticket) in enumerate(told := sorted(told, key=_showing)):
            fresh = ticket != shows
            shows = ticket
            if not fresh or not ticket:
                continue
            times = called.get(ticket)
            if times is None:
                times = [t for name, at in called.items() if same_ticket(name, ticket) for t in at]
            if any(t <= at + patience for t in times):
                continue
            if all(_known_down(day, one, at) for one in api):
                continue
            ends = [t for t, _, other in told[index + 1 :] if other != ticket][:1] + times
            found.append(Unmatched(ticket, at, min(ends, default=None), device, reading))
    return tuple(found)


def _showing(one: tuple[Instant, bytes, str]) -> tuple[Instant, bool, bytes]:
    at, reading, ticket = one
    return at, not ticket, reading


# --------------------------------------------------------------------------------------------
# Follow-up
# --------------------------------------------------------------------------------------------

_KINDS = frozenset(("fix_now", "plan", "explain", "mistaken", "malicious"))
_ORDER = (
    "opened", "reopened", "assigned", "contacting", "unreachable", "classified", "acting",
    "fed_back", "rechecked", "closed",
)  # fmt: skip
_RANK = {state: rank for rank, state in enumerate(_ORDER)}


def workday_end(day: WindowDay, since: Instant, count: int) -> Instant | None:
    """The end of the ``count``-th workday after the date of ``since``; none beyond what is known of
    the calendar."""
    date_of = (since - day.midnight) // DAY
    later = [at for at in day.workdays_after if (at - 1 - day.midnight) // DAY > date_of]
    return later[count - 1] if count <= len(later) else None


class _Case(Struct):
    """A follow-up since it was (re)opened."""

    opened_at: Instant
    state: str
    handler: str = ""
    kind: str = ""
    first_step: Instant | None = None
    contacted_at: Instant | None = None
    classified_at: Instant | None = None
    reviewed_at: Instant | None = None
    closed_at: Instant | None = None
    tries: int = 0


def follow_up(day: WindowDay, rating: SeenRating, steps: Iterable[SeenStep]) -> FollowUp:
    """How far the follow-up of a bad rating is.  Its limits count from the receipt."""
    policy = day.policy
    case = _Case(rating.received_at, "opened")
    reopened = 0
    dates: set[int] = set()
    accusers: set[str] = set()
    flags: dict[str, None] = {}
    for step in sorted(steps, key=lambda one: (one.at, one.reading_id)):
        at, body = step.at, step.body
        told = body.step
        if told == "reopened":
            case = _Case(at, "reopened", body.handler)
            reopened += 1
            dates, accusers = set(), set()
            continue
        if case.state == "closed":
            flags["out_of_order"] = None
            continue
        if case.first_step is None:
            case.first_step = at
        case.handler = body.handler or case.handler
        state = told
        if told in ("contacting", "unreachable"):
            case.tries += 1
            dates.add((at - day.midnight) // DAY)
            if case.contacted_at is None:
                case.contacted_at = at
            if told == "unreachable" and (
                case.tries < policy.contact_tries or len(dates) < policy.contact_days
            ):
                flags["unreachable_too_soon"] = None
                state = "contacting"
        elif told in _KINDS:
            case.kind, state = told, "classified"
            case.classified_at = at
            if told == "malicious":
                accusers.add(body.by)
        elif told == "rechecked" or told == "closed":
            if case.reviewed_at is None:
                case.reviewed_at = at
            if told == "closed":
                case.closed_at = at
        elif told not in _RANK:
            flags["out_of_order"] = None
            continue
        if _RANK[state] > _RANK[case.state] or (case.state == "unreachable" and told in _RANK):
            case.state = state
    named = rating.body.named
    if case.closed_at is not None:
        if not case.kind:
            flags["not_verified"] = None
        if named and case.contacted_at is None:
            flags["not_called_back"] = None
    agreed = case.kind == "mistaken" or (case.kind == "malicious" and len(accusers) > 1)
    if case.kind == "malicious" and len(accusers) < 2:
        flags["one_reviewer"] = None
    return FollowUp(
        case.state,
        case.opened_at,
        case.handler,
        case.kind,
        case.tries,
        case.contacted_at is not None,
        case.closed_at,
        reopened,
        agreed and case.reviewed_at is not None,
        tuple(_dues(day, case, named)),
        tuple(flags),
    )


def _dues(day: WindowDay, case: _Case, named: bool) -> Iterator[Due]:
    policy = day.policy
    opened, closed = case.opened_at, case.closed_at
    assign = opened + policy.assign_minutes * MINUTE
    if day.opens is None or day.closes is None or not day.opens <= opened < day.closes:
        # Nobody is there to take it up.
        yield Due("assigned", workday_end(day, opened, 1), case.first_step)
    else:
        yield Due("assigned", assign, case.first_step)
    verified = case.contacted_at
    if not named and verified is None:
        verified = case.classified_at  # nobody to call: looking into it is enough
    if verified is None:
        verified = closed
    yield Due("contact", workday_end(day, opened, policy.contact_workdays), verified)
    if case.kind in ("mistaken", "malicious"):
        since = case.classified_at or opened
        yield Due("review", workday_end(day, since, policy.review_workdays), case.reviewed_at)
    else:
        limit = policy.plan_workdays if case.kind == "plan" else policy.close_workdays
        yield Due("closed", workday_end(day, opened, limit), closed)
    yield Due("outer", workday_end(day, opened, policy.outer_workdays), closed)


# --------------------------------------------------------------------------------------------
# One window
# --------------------------------------------------------------------------------------------

SHOWN_PATIENCE = 30_000
"""How long (ms) the queue system may take to tell of a call that a display already shows."""


def follow_window(day: WindowDay) -> WindowRecord:
    """What one window's date comes to, by everything known of it."""
    policy = day.policy
    window_id = day.window.id
    own: list[tuple[Instant, bytes, SeenEvent]] = []
    taken: dict[str, list[Instant]] = {}
    moved: dict[str, list[Instant]] = {}
    sources: set[str] = set()
    api: set[str] = set()
    waiting_from: set[str] = set()
    for one in _in_order(day):
        event = one[2]
        body = event.body
        kind = body.event
        if kind == "ticket_taken":
            taken.setdefault(body.ticket, []).append(one[0])
        elif body.window == window_id or kind == "batch_abandoned":
            own.append(one)
            sources.add(body.source)
            if body.source == "api" and kind in CALLS:
                api.add(event.device)
        elif kind == "transferred":
            moved.setdefault(body.ticket, []).append(one[0])
    told: list[_Told]
    if len(sources) > 1:
        merged = _one_each(own, policy)
        told = list(_believed(day, merged, api) if api else merged)
    else:
        told = [(at, reading, event.body, (reading,)) for at, reading, event in own]
    window = _Window(day)
    window.displays_only = not any(
        event.body.source not in _DISPLAYS and event.body.event != "batch_abandoned"
        for _, _, event in own
    )
    if day.shown:
        shown = {
            one.reading_id: one
            for one in day.shown
            if one.body.window == window_id and (one.body.baseline or one.body.state == "blank")
        }
        if shown:
            told.extend((one.at, one.reading_id, one.body, ()) for one in shown.values())
            told.sort(key=lambda one: one[:2])
    window.follow(told)
    if day.as_of >= day.next_midnight:
        _midnight(window, day.next_midnight)
    unmatched = _unmatched_shown(day, own, api, SHOWN_PATIENCE) if api and len(sources) > 1 else ()
    finished = sorted(
        ((one.finished_at, index) for index, one in enumerate(window.drafts) if one.finished_at),
    )
    _prompted(day, window, finished)
    ratings = _ratings(day, window, finished) if day.ratings else []
    main, drafts = window.main, window.drafts
    if main == "finished" and not window.side and window.current is not None:
        # The rating ends the service's last act; silence that was told does, too.
        over = [
            one.at
            for one in ratings
            if one.ticket == window.current.ticket and one.match != "unmatched"
        ]
        if over:
            main = "idle"
            since = max(over[0], window.current.finished_at or 0)
            window.states.append((since, "idle"))
    services = _services(day, drafts, taken, moved)
    state = window.side or main
    current = window.current if state in _WITH_TICKET else None
    changes = [day.next_midnight] if day.as_of < day.next_midnight else []
    for rating in ratings:
        if rating.follow_up is not None:
            changes += [
                due.at + 1
                for due in rating.follow_up.dues
                if due.done_at is None and due.at is not None and due.at >= day.as_of
            ]
    return WindowRecord(
        day.window,
        day.work_date,
        state,
        window.states[-1][0] if window.states else None,
        current.ticket if current else "",
        current.queue if current else "",
        current.person if current else window.person,
        window.called_at if current else None,
        (current.recalls if current.told_by_call else None) if current else 0,
        window.waiting,
        window.last_call,
        window.calls,
        tuple(window.states),
        services,
        tuple(ratings),
        _figures(day, services, ratings),
        unmatched,
        tuple(one.hex() for one in window.flagged),
        min(changes, default=None),
    )


def _midnight(window: _Window, at: Instant) -> None:
    """Tickets do not survive the day: numbers begin again."""
    for one in window.drafts:
        if one.ended == "open" or one.ended == "held":
            one.ended, one.ended_at = "ended_unknown", at
    window.current = None
    window.main, window.side = "unknown", ""
    if window.states and window.states[-1][1] != "unknown":
        window.states.append((at, "unknown"))


def _service_at(
    drafts: Sequence[_Draft],
    finished: Sequence[tuple[Instant, int]],
    at: Instant,
    before: int,
    after: int,
) -> int | None:
    """The service that a press (or a prompt) at ``at`` belongs to by time alone: the latest that
    ended near it, but rather not one that had not even been called."""
    last = bisect_right(finished, (at + after, len(drafts)))
    fallback: int | None = None
    while last:
        last -= 1
        ended, index = finished[last]
        if ended < at - before:
            break
        called = drafts[index].called_at
        if called is None or called <= at:
            return index
        if fallback is None:
            fallback = index
    return fallback


def _of_ticket(
    window: _Window, finished: Sequence[tuple[Instant, int]], ticket: str, until: Instant
) -> int | None:
    """The latest service of that ticket which ended until then."""
    last = bisect_right(finished, (until, len(window.drafts)))
    for _, index in reversed(finished[:last]):
        if window.drafts[index].ticket == ticket:
            return index
    return None
