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
    normal_ticket,
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

    ``events``: the window's own; ``batch_abandoned`` of no window in particular; of the tickets it
    called ``ticket_taken`` and, from other windows, ``transferred``.  Any order, repeats allowed.
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


class Service(Struct, frozen=True, gc=False):
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


class Due(Struct, frozen=True, gc=False):
    """A limit of a follow-up.  ``step``: ``assigned contact review closed outer``.  ``at`` is none
    where too few workdays are known."""

    step: str
    at: Instant | None
    done_at: Instant | None


class FollowUp(Struct, frozen=True, gc=False):
    """差评整改: how far the follow-up of a bad rating has come.

    ``state``: ``opened assigned contacting unreachable classified acting fed_back rechecked closed
    reopened``.  ``kind``: ``fix_now plan explain mistaken malicious``, empty before.
    ``opened_at`` is the last (re)opening, from which ``dues`` count; ``taken_up_at`` the very first
    step by anybody.  ``excluded``: found mistaken, or malicious by two people, and reviewed after
    that by somebody else than who said so first; then the rating counts in no rate.
    ``earlier``: for each time before it was opened again, the limits that were passed.
    """

    state: str
    opened_at: Instant
    taken_up_at: Instant | None
    handler: str
    kind: str
    tries: int
    contacted: bool
    closed_at: Instant | None
    reopened: int
    excluded: bool
    dues: tuple[Due, ...]
    flags: tuple[str, ...]
    earlier: tuple[tuple[Due, ...], ...] = ()


class RatingRecord(Struct, frozen=True, gc=False):
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


class HourFigures(Struct, frozen=True, gc=False):
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


class Ticket(Struct, frozen=True, gc=False):
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
_Told = tuple[Instant, bytes, QueueEvent | Shown, tuple[bytes, ...]]
"""When, which reading, what, and all readings that told it."""


class _Draft(Struct, gc=False):
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
    return body.queue or _letters(body.ticket)


def _letters(ticket: str) -> str:
    return ticket.rstrip("0123456789")


def _in_order(
    events: Sequence[SeenEvent], policy: CounterPolicy
) -> list[tuple[Instant, bytes, SeenEvent]]:
    skew = policy.skew_seconds * 1000
    told = {event.reading_id: event for event in events}
    if len(told) < len(events):
        for event in events:
            if event.received_at < told[event.reading_id].received_at:
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
        apply = self._apply
        tied: list[_Told] = []
        for one, following in zip(told, [*told[1:], None], strict=False):
            if following is not None and following[0] == one[0]:
                tied.append(one)
            elif tied:
                # Teller clocks of whole seconds: of one second's events the one that fits first.
                tied.append(one)
                while tied:
                    fits = next((each for each in tied if self._fits(each[2])), tied[0])
                    tied.remove(fits)
                    apply(fits)
            else:
                apply(one)

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
            fitted = apply(self, at, body, readings) if apply else self._side(at, body)
            if not fitted:
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
            self._reopen(before, readings)
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
            self._reopen(before, readings)
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

    def _side(self, at: Instant, body: QueueEvent) -> bool:
        """What happens to the window itself, whatever becomes of its service."""
        match body.event:
            case "window_paused":
                return self._paused(body.source == "bus")
            case "window_resumed":
                return self._resumed(body.source == "bus")
            case "window_opened":
                if self.side == "closed":
                    self.side = ""
                self._awake()
            case "window_closed":
                # A service that goes on is left to end: halls lock the queue before the last one.
                self.side = "closed"
                return self.main not in _BUSY
            case "window_login":
                self.person = body.person
                self._awake()
            case "window_logout":
                if body.person not in ("", self.person):
                    return False
                self.person = ""
            case "batch_abandoned":
                self._batch(at, body)
            case _:
                return False
        return True

    def _paused(self, toggle: bool) -> bool:
        if self.side == "paused":
            if toggle:
                # One press of the key was lost, now or before.
                self.side = "unknown"
            return False
        fitted = self.side != "closed"
        self.side = "paused"
        return fitted

    def _resumed(self, toggle: bool) -> bool:
        if self.side == "paused" or (self.side == "unknown" and not toggle):
            self.side = ""
        elif self.side or self.main != "unknown":
            if toggle and self.side != "closed":
                self.side = "unknown"
            return False
        self._awake()
        return True

    def _awake(self) -> None:
        if self.main == "unknown":
            self.main = "idle"

    def _batch(self, at: Instant, body: QueueEvent) -> None:
        for one in self.drafts:
            if one.ended not in ("open", "held") or (body.queue and one.queue != body.queue):
                continue
            # One who is being served is not sent away by a clock time.
            self._end(at, one, "ended_unknown" if one.started_at else "abandoned", body)
            one.flags = (*one.flags, "batch")
            if one is self.current:
                self.current = None
                self.main = "idle"

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

    def _reopen(self, draft: _Draft, readings: tuple[bytes, ...]) -> None:
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
        queues = (draft.queue, _letters(draft.ticket))
        return any(queue in queues and at > ended for queue, at in self.resets)

    def _lose_sight(self, at: Instant) -> None:
        """The service ended unseen."""
        if self.current is not None:
            self.current.ended, self.current.ended_at = "ended_unknown", at
            self.current = None


_APPLY = {
    "called": _Window._called,
    "recalled": _Window._recalled,
    "started": _Window._started,
    "finished": _Window._ended,
    "abandoned": _Window._ended,
    "transferred": _Window._ended,
    "held": _Window._ended,
    "called_back": _Window._called_back,
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
        times = {family: [kept[index][0] for index in found] for family, found in by_family.items()}
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
        told.sort()
        for index, (at, reading, ticket) in enumerate(told):
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
    next_date = day.midnight + ((since - day.midnight) // DAY + 1) * DAY
    place = bisect_right(day.workdays_after, next_date) + count - 1
    return day.workdays_after[place] if place < len(day.workdays_after) else None


def _in_hours(day: WindowDay, at: Instant) -> bool:
    """Whether the hall is open: a later workday has the hours of this one, as far as is known."""
    if day.opens is None or day.closes is None:
        return False
    since = (at - day.midnight) // DAY * DAY
    if since:
        ends = bisect_right(day.workdays_after, day.midnight + since)
        if ends == len(day.workdays_after) or day.workdays_after[ends] > (
            day.next_midnight + since
        ):
            return False
    return day.opens <= at - since < day.closes


class _Case(Struct):
    """A follow-up since it was (re)opened."""

    opened_at: Instant
    state: str
    handler: str = ""
    kind: str = ""
    first_step: Instant | None = None
    contacted_at: Instant | None = None
    classified_at: Instant | None = None
    claimed_by: str = ""
    reviewed_at: Instant | None = None
    closed_at: Instant | None = None
    tries: int = 0


def follow_up(day: WindowDay, rating: SeenRating, steps: Iterable[SeenStep]) -> FollowUp:
    """How far the follow-up of a bad rating is.  Its limits count from the receipt."""
    policy = day.policy
    case = _Case(rating.received_at, "opened")
    taken_up_at: Instant | None = None
    reopened = 0
    dates: set[int] = set()
    accusers: set[str] = set()
    flags: dict[str, None] = {}
    named = rating.body.named
    earlier: list[tuple[Due, ...]] = []
    for step in sorted(steps, key=lambda one: (one.at, one.reading_id)):
        at, body = step.at, step.body
        told = body.step
        if told == "reopened":
            earlier.append(tuple(_passed(_dues(day, case, named), at)))
            case = _Case(at, "reopened", body.handler)
            reopened += 1
            dates, accusers = set(), set()
            continue
        if case.state == "closed":
            flags["out_of_order"] = None
            continue
        if case.first_step is None:
            case.first_step = at
        if taken_up_at is None:
            taken_up_at = at
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
            if told != case.kind:
                # Another opinion takes the former back, and what was looked into before it.
                accusers = set()
                case.claimed_by, case.reviewed_at = body.by, None
            case.kind, state = told, "classified"
            case.classified_at = at
            if told == "malicious":
                accusers.add(body.by)
        elif told == "rechecked" or told == "closed":
            another = not body.by or body.by != case.claimed_by
            if case.reviewed_at is None and case.classified_at is not None and another:
                case.reviewed_at = at
            if told == "closed":
                case.closed_at = at
        elif told not in _RANK:
            flags["out_of_order"] = None
            continue
        if _RANK[state] > _RANK[case.state] or (case.state == "unreachable" and told in _RANK):
            case.state = state
    if case.closed_at is not None:
        if not case.kind:
            flags["not_verified"] = None
        elif case.kind in ("mistaken", "malicious") and case.reviewed_at is None:
            flags["not_reviewed"] = None
        if named and case.contacted_at is None:
            flags["not_called_back"] = None
    agreed = case.kind == "mistaken" or (case.kind == "malicious" and len(accusers) > 1)
    if case.kind == "malicious" and len(accusers) < 2:
        flags["one_reviewer"] = None
    return FollowUp(
        case.state,
        case.opened_at,
        taken_up_at,
        case.handler,
        case.kind,
        case.tries,
        case.contacted_at is not None,
        case.closed_at,
        reopened,
        agreed and case.reviewed_at is not None,
        tuple(_dues(day, case, named)),
        tuple(flags),
        tuple(earlier),
    )


def _passed(dues: Iterable[Due], ended_at: Instant) -> Iterator[Due]:
    """The limits that were passed in a case that ended by being opened again."""
    for due in dues:
        done_at = ended_at if due.done_at is None else due.done_at
        if due.at is not None and done_at > due.at:
            yield Due(due.step, due.at, done_at)


def _dues(day: WindowDay, case: _Case, named: bool) -> Iterator[Due]:
    policy = day.policy
    opened, closed = case.opened_at, case.closed_at
    if _in_hours(day, opened):
        yield Due("assigned", opened + policy.assign_minutes * MINUTE, case.first_step)
    else:
        # Nobody is there to take it up.
        yield Due("assigned", workday_end(day, opened, 1), case.first_step)
    verified = case.contacted_at
    if not named and verified is None:
        verified = case.classified_at  # nobody to call: looking into it is enough
    if verified is None:
        verified = closed
    yield Due("contact", workday_end(day, opened, policy.contact_workdays), verified)
    if case.kind in ("mistaken", "malicious"):
        since = case.classified_at or opened
        reviewed = closed if case.reviewed_at is None else case.reviewed_at
        yield Due("review", workday_end(day, since, policy.review_workdays), reviewed)
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
    taken: dict[str, list[tuple[Instant, str]]] = {}
    moved: dict[str, list[Instant]] = {}
    sources: set[str] = set()
    api: set[str] = set()
    for one in _in_order(day.events, policy):
        event = one[2]
        body = event.body
        kind = body.event
        if kind == "ticket_taken":
            taken.setdefault(body.ticket, []).append((one[0], queue_of(body)))
        elif body.window == window_id or (kind == "batch_abandoned" and not body.window):
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
    finished = _Finished(window.drafts, policy)
    _prompted(day, window, finished)
    ratings = _ratings(day, window, finished) if day.ratings else []
    main, drafts = window.main, window.drafts
    if main == "finished" and not window.side and window.current is not None:
        # The rating ends the service's last act; silence that was told does, too.
        ended = window.current.finished_at or 0
        over = [one.at for one in ratings if one.delay is not None and one.at - one.delay == ended]
        if over:
            main = "idle"
            since = max(over[0], window.states[-1][0])
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


class _Finished:
    """The services that can be rated, by the instant of their end."""

    def __init__(self, drafts: Sequence[_Draft], policy: CounterPolicy) -> None:
        self.drafts = drafts
        self.before = policy.match_before * MINUTE
        self.after = policy.match_after * MINUTE
        self.latest = policy.late_rating_days * DAY
        self.ends = sorted(
            (one.finished_at, index)
            for index, one in enumerate(drafts)
            if one.finished_at is not None and one.ended == "finished"
        )
        self.tickets: dict[str, list[tuple[Instant, int]]] = {}
        for end in self.ends:
            ticket = drafts[end[1]].ticket
            if ticket:
                self.tickets.setdefault(ticket, []).append(end)

    def near(self, at: Instant) -> int | None:
        """The service that a press or a prompt belongs to by its time: the latest that ended near
        it, but rather not one that had not even been called."""
        ends = self.ends
        last = bisect_right(ends, (at + self.after, len(ends)))
        fallback: int | None = None
        while last:
            last -= 1
            ended, index = ends[last]
            if ended < at - self.before:
                break
            called = self.drafts[index].called_at
            if called is None or called <= at:
                return index
            if fallback is None:
                fallback = index
        return fallback

    def of(self, ticket: str, at: Instant) -> int | None:
        """The latest service of the ticket that had ended by then."""
        ends = self.tickets.get(ticket, ())
        for ended, index in reversed(ends):
            if ended <= at + self.after:
                return index
        return None


def _prompted(day: WindowDay, window: _Window, finished: _Finished) -> None:
    for prompt in day.prompts:
        ticket = prompt.body.ticket
        if ticket and ticket in window.last:
            # Asked for just before the end was told, or any time after.
            index = finished.of(ticket, prompt.at)
        else:
            index = finished.near(prompt.at)
        if index is not None:
            window.drafts[index].prompted = True


def _ratings(day: WindowDay, window: _Window, finished: _Finished) -> list[RatingRecord]:
    policy = day.policy
    skew, live = policy.skew_seconds * 1000, policy.live_minutes * MINUTE
    last, drafts = window.last, window.drafts
    unique: dict[bytes, SeenRating] = {}
    for rating in day.ratings:
        before = unique.setdefault(rating.reading_id, rating)
        if before is not rating and rating.received_at < before.received_at:
            unique[rating.reading_id] = rating
    ordered = [
        (one.at if one.at - one.received_at <= skew else one.received_at, one.reading_id, one)
        for one in unique.values()
    ]
    ordered.sort()
    sessions: dict[str, SeenPrompt] = {}
    for prompt in day.prompts:
        first = sessions.setdefault(prompt.body.session, prompt)
        if first is not prompt and (prompt.at, prompt.reading_id) < (first.at, first.reading_id):
            sessions[prompt.body.session] = prompt
    steps: dict[str, dict[bytes, SeenStep]] = {}
    for step in day.steps:
        steps.setdefault(step.body.rating_id, {})[step.reading_id] = step
    records: list[RatingRecord] = []
    for at, reading_id, rating in ordered:
        body = rating.body
        level = body.level
        ticket = body.service_ref
        if ticket not in last:
            ticket = normal_ticket(ticket) if ticket else ""
            if ticket not in last:
                asked = sessions.get(body.session) if body.session else None
                ticket = asked.body.ticket if asked is not None else ""
        index = finished.of(ticket, at) if ticket in last else finished.near(at)
        flags: tuple[str, ...] = ()
        draft: _Draft | None = None
        if index is not None:
            draft = drafts[index]
            if at - (draft.finished_at or 0) > finished.latest:
                draft, flags = None, ("too_late",)
        bad = level is not None and level <= 2 and not body.defaulted
        followed = None
        if bad:
            followed = follow_up(day, rating, steps.get(body.rating_id, {}).values())
        counted = False
        delay = None
        if draft is None:
            match = "unmatched"
            if body.channel == "pad":
                flags += tuple(_flags_at(day, window, at))
        else:
            delay = at - (draft.finished_at or 0)
            match = "matched"
            draft.prompted = True
            if level is not None and not body.defaulted:
                if draft.rating_id:
                    match = "additional"
                    draft.additional = (*draft.additional, body.rating_id)
                else:
                    draft.rating_id = body.rating_id
                    counted = followed is None or not followed.excluded
        records.append(
            RatingRecord(
                body.rating_id,
                reading_id,
                at,
                rating.received_at,
                day.window.id,
                level,
                body.scale_id,
                body.channel,
                (draft.person if draft is not None else "") or body.person,
                draft.ticket if draft is not None else "",
                match,
                counted,
                body.named,
                body.defaulted,
                body.origin,
                body.problem,
                rating.received_at - at <= live,
                delay,
                flags,
                followed,
            )
        )
    return records


def _flags_at(day: WindowDay, window: _Window, at: Instant) -> Iterator[str]:
    index = bisect_right(window.states, at, key=lambda one: one[0]) - 1
    state = window.states[index][1] if index >= 0 else "unknown"
    if state in _BUSY:
        yield "out_of_order"
    elif state in ("paused", "closed"):
        yield state
    if day.opens is not None and day.closes is not None:
        if not day.opens <= at < day.closes:
            yield "after_hours"
    elif not day.works and state in ("paused", "closed", "unknown"):
        # A window that works on a day off is no reason to suspect its presses.
        yield "after_hours"


def _services(
    day: WindowDay,
    drafts: Sequence[_Draft],
    taken: Mapping[str, Sequence[tuple[Instant, str]]],
    moved: Mapping[str, Sequence[Instant]],
) -> tuple[Service, ...]:
    slack = day.policy.same_event_seconds * 1000
    opens, resets = day.opens, day.resets
    services = []
    for one in drafts:
        called, ended = one.called_at, one.ended_at
        first = called or one.started_at or ended or day.next_midnight
        taken_at: Instant | None = None
        taken_from = one.queue
        for at, queue in taken.get(one.ticket, ()):
            if at <= first + slack:
                taken_at, taken_from = at, queue
        waited: int | None = None
        if called is not None:
            since = taken_at
            for at in moved.get(one.ticket, ()):
                if at <= called and (since is None or at > since):
                    since = at
            if since is not None:
                if opens is not None and since < opens:
                    since = opens
                waited = called - since if called > since else 0
        started = one.started_at or called
        served = None
        if one.ended == "finished" and ended is not None and started is not None:
            served = ended - started if ended > started else 0
        # One who took a ticket before the numbers began again waits with the old number.
        epoch = _epoch(resets, taken_from, first if taken_at is None else taken_at)
        services.append(
            Service(
                one.ticket,
                one.queue,
                one.service_code,
                one.person,
                epoch,
                taken_at,
                called,
                one.started_at,
                one.finished_at if one.ended == "finished" else None,
                one.ended,
                ended,
                waited,
                served,
                one.recalls if one.told_by_call else None,
                one.priority,
                one.to,
                tuple(one.sources),
                one.prompted,
                one.rating_id,
                one.additional,
                one.flags,
                tuple(one.readings),
            )
        )
    return tuple(services)


def _durations(told: Sequence[int]) -> Durations:
    if not told:
        return Durations()
    total = sum(told)
    mean = round(total / len(told) / MINUTE, 1)
    return Durations(len(told), total, mean, round(max(told) / MINUTE, 1))


class _Hour(Struct):
    waits: list[int]
    services: list[int]
    called: int = 0
    finished: int = 0
    abandoned: int = 0
    taken: int = 0


class _Hours(dict[int, _Hour]):
    def __missing__(self, hour: int) -> _Hour:
        found = self[hour] = _Hour([], [])
        return found


def _figures(
    day: WindowDay, services: Sequence[Service], ratings: Sequence[RatingRecord]
) -> WindowFigures:
    midnight = day.midnight
    waits: list[int] = []
    durations: list[int] = []
    hours = _Hours()
    ended = dict.fromkeys(
        ("finished", "abandoned", "held", "transferred", "ended_unknown", "open"), 0
    )
    called = prompted = 0
    for one in services:
        how = one.ended
        ended[how] += 1
        if one.called_at is not None:
            called += 1
            hour = hours[(one.called_at - midnight) // HOUR]
            hour.called += 1
            if one.waited is not None:
                waits.append(one.waited)
                hour.waits.append(one.waited)
        if one.ended_at is not None and (how == "finished" or how == "abandoned"):
            hour = hours[(one.ended_at - midnight) // HOUR]
            if how == "finished":
                hour.finished += 1
                if one.served is not None:
                    durations.append(one.served)
                    hour.services.append(one.served)
            else:
                hour.abandoned += 1
        if how == "finished" and one.prompted:
            prompted += 1
    scales: dict[str, list[int]] = {}
    additional = unmatched = unrated = 0
    for rating in ratings:
        if rating.level is None or rating.defaulted:
            unrated += 1
        elif rating.match == "additional":
            additional += 1
        elif rating.match == "unmatched":
            unmatched += 1
        elif rating.counted and 1 <= rating.level <= 5:
            levels = scales.get(rating.scale_id)
            if levels is None:
                levels = scales[rating.scale_id] = [0] * 5
            levels[rating.level - 1] += 1
    rated = sum(map(sum, scales.values()))
    callbacks, rectified, in_time = _follow_up_figures(day, ratings)
    return WindowFigures(
        called,
        ended["finished"],
        ended["abandoned"],
        ended["held"],
        ended["transferred"],
        ended["ended_unknown"],
        Ratio(rated, ended["finished"]),
        Ratio(prompted, ended["finished"]),
        tuple(scale_figures(scale, levels) for scale, levels in sorted(scales.items())),
        additional,
        unmatched,
        unrated,
        _durations(waits),
        _durations(durations),
        tuple(
            HourFigures(
                hour,
                one.called,
                one.finished,
                one.abandoned,
                _durations(one.waits),
                _durations(one.services),
            )
            for hour, one in sorted(hours.items())
        ),
        callbacks,
        rectified,
        in_time,
    )


def scale_figures(scale_id: str, levels: Sequence[int]) -> ScaleFigures:
    """The figures of one scale from its counts of the levels 1 to 5."""
    one, two, three, four, five = levels
    rated = one + two + three + four + five
    points = one + 2 * two + 3 * three + 4 * four + 5 * five
    return ScaleFigures(
        scale_id,
        Ratio(three + four + five, rated),
        Ratio(four + five, rated),
        Ratio(one + two, rated),
        (one, two, three, four, five),
        round(points / rated, 2) if rated else 0.0,
    )


def _follow_up_figures(
    day: WindowDay, ratings: Sequence[RatingRecord]
) -> tuple[Ratio, Ratio, Ratio]:
    called = named = closed = in_time = due_or_closed = 0
    for rating in ratings:
        followed = rating.follow_up
        if followed is None or followed.excluded:
            continue
        limit = next((one for one in followed.dues if one.step in ("closed", "review")), None)
        until = limit.at if limit is not None else None
        over = until is not None and until < day.as_of
        if followed.closed_at is None and not over:
            continue
        due_or_closed += 1
        if followed.closed_at is not None:
            closed += 1
            in_time += until is None or followed.closed_at <= until
        if rating.named:
            named += 1
            called += followed.contacted
    return Ratio(called, named), Ratio(closed, due_or_closed), Ratio(in_time, due_or_closed)


# --------------------------------------------------------------------------------------------
# The whole hall
# --------------------------------------------------------------------------------------------

_RESET_DROP = 10
"""Numbers that fall by this many below the first one seen have begun again."""
_SAME_TICKET = MINUTE
_MOVES = frozenset(("ticket_taken", "batch_abandoned", "abandoned", "held", "transferred"))


def queue_resets(day: CounterDay) -> tuple[tuple[str, Instant], ...]:
    """``(queue, at)`` of each time at which a queue's ticket numbers began again in the day: a
    number not above the lowest is taken again, or one far below everything before it.  Numbers
    without letters of a queue that nobody names may be of several queues with a range each: there
    only the former counts."""
    resets: list[tuple[str, Instant]] = []
    seen: dict[str, dict[str, Instant]] = {}
    lows: dict[str, int] = {}
    highs: dict[str, int] = {}
    moved = {
        one.body.ticket for one in day.events if one.body.event in ("transferred", "called_back")
    }
    taken = [one for one in day.events if one.body.event == "ticket_taken"]
    for at, _, event in _in_order(taken, day.policy):
        body = event.body
        if body.ticket in moved:
            continue
        digits = body.ticket[len(_letters(body.ticket)) :]
        if not digits:
            continue
        queue, number = queue_of(body), int(digits[-9:])
        tickets = seen.setdefault(queue, {})
        if tickets and number <= lows[queue]:
            before = tickets.get(body.ticket)
            again = before is not None and at - before > _SAME_TICKET
            if again or (queue and highs[queue] - number >= _RESET_DROP):
                resets.append((queue, at))
                tickets.clear()
                lows[queue] = highs[queue] = number
        tickets.setdefault(body.ticket, at)
        lows[queue] = min(lows.get(queue, number), number)
        highs[queue] = max(highs.get(queue, number), number)
    return tuple(resets)


def window_days(day: CounterDay) -> dict[str, WindowDay]:
    """Each window's share of the hall's day."""
    resets = queue_resets(day)
    events: dict[str, list[SeenEvent]] = {one.id: [] for one in day.windows}
    tickets: dict[str, dict[str, None]] = {}
    elsewhere: list[SeenEvent] = []
    for event in day.events:
        body = event.body
        if body.event in ("ticket_taken", "transferred"):
            elsewhere.append(event)
        if body.event == "batch_abandoned" and not body.window:
            for share in events.values():
                share.append(event)
        elif body.event != "ticket_taken" and body.window in events:
            events[body.window].append(event)
            if body.ticket and body.event != "transferred":
                tickets.setdefault(body.ticket, {})[body.window] = None
    for event in elsewhere:
        for window in tickets.get(event.body.ticket, ()):
            if event.body.event == "ticket_taken" or event.body.window != window:
                events[window].append(event)
    ratings: dict[str, list[SeenRating]] = {}
    for rating in day.ratings:
        ratings.setdefault(rating.body.window, []).append(rating)
    prompts: dict[str, list[SeenPrompt]] = {}
    for prompt in day.prompts:
        prompts.setdefault(prompt.body.window, []).append(prompt)
    shown: dict[str, list[SeenShown]] = {}
    for one in day.shown:
        shown.setdefault(one.body.window, []).append(one)
    rated_at = {one.body.rating_id: one.body.window for one in day.ratings}
    steps: dict[str, list[SeenStep]] = {}
    for step in day.steps:
        steps.setdefault(rated_at.get(step.body.rating_id, ""), []).append(step)
    return {
        window.id: WindowDay(
            day.hall,
            window,
            day.work_date,
            day.midnight,
            day.next_midnight,
            day.opens,
            day.closes,
            day.as_of,
            day.works,
            tuple(events[window.id]),
            tuple(ratings.get(window.id, ())),
            tuple(prompts.get(window.id, ())),
            tuple(shown.get(window.id, ())),
            tuple(steps.get(window.id, ())),
            tuple(one for one in day.device_up if one.window in ("", window.id)),
            day.workdays_after,
            resets,
            day.policy,
        )
        for window in day.windows
    }


class _Taken(Struct, gc=False):
    """A ticket while it is being followed through the hall."""

    ticket: str
    queue: str
    epoch: int
    service_code: str
    priority: bool
    reading_id: bytes
    taken_at: Instant | None = None
    called_at: Instant | None = None
    window: str = ""
    ended: str = ""
    ended_at: Instant | None = None
    back: bool = False
    batch: bool = False
    area: str = ""


def follow_counter(
    day: CounterDay, windows: Mapping[str, WindowRecord] | None = None
) -> CounterRecord:
    """What the hall's date comes to.  ``windows``: records made from the same day already."""
    if windows is None:
        windows = {name: follow_window(share) for name, share in window_days(day).items()}
    records = [windows[one.id] for one in day.windows if one.id in windows]
    resets = queue_resets(day)
    tickets, batches, told = _tickets(day, records, resets)
    _areas_of(tickets, records)
    areas = _areas(day, records, tickets, told)
    return CounterRecord(
        tuple(records),
        tuple(
            Ticket(
                one.ticket,
                one.queue,
                one.epoch,
                one.area,
                one.service_code,
                one.priority,
                one.taken_at,
                one.called_at,
                one.window,
                one.ended,
                one.ended_at,
                one.back,
                one.batch,
                one.reading_id,
            )
            for one in tickets
        ),
        areas,
        resets,
        batches,
    )


def _epoch(resets: Sequence[tuple[str, Instant]], queue: str, at: Instant) -> int:
    return sum(name == queue and begins <= at for name, begins in resets) if resets else 0


def _tickets(
    day: CounterDay, records: Sequence[WindowRecord], resets: tuple[tuple[str, Instant], ...]
) -> tuple[list[_Taken], tuple[tuple[Instant, str], ...], list[tuple[Instant, str, int]]]:
    """All tickets of the day in order of taking; the batches; and what was told of people waiting,
    as ``(at, queue, waiting)``."""
    by_name: dict[tuple[str, int], _Taken] = {}
    batches: list[tuple[Instant, str]] = []
    told: list[tuple[Instant, str, int]] = []
    ends: list[tuple[Instant, QueueEvent]] = []
    queues: dict[str, str] = {}
    names = _queue_names(day.events)
    relevant = [
        one for one in day.events if one.body.event in _MOVES or one.body.waiting is not None
    ]
    for at, reading, event in _in_order(relevant, day.policy):
        body = event.body
        kind = body.event
        if kind == "ticket_taken":
            queue = queue_of(body)
            name = (body.ticket, _epoch(resets, queue, at))
            queue = queues[body.ticket] = names.get(queue, queue)
            if name not in by_name:
                by_name[name] = _Taken(
                    *name[:1], queue, name[1], body.service_code, body.priority, reading, at
                )
        elif kind == "batch_abandoned":
            # Who still waits does so for no window in particular.
            if not body.window:
                batches.append((at, body.queue))
        elif body.ticket and kind in ("abandoned", "held", "transferred"):
            ends.append((at, body))
        if body.waiting is not None:
            queue = queue_of(body)
            queue = body.queue or queues.get(body.ticket, "") or names.get(queue, queue)
            told.append((at, queue, body.waiting))
    for record in records:
        for one in record.services:
            if not one.ticket:
                continue
            found = by_name.get((one.ticket, one.epoch))
            if found is None:
                reading = one.readings[0] if one.readings else b""
                queue = names.get(one.queue, one.queue)
                found = by_name[one.ticket, one.epoch] = _Taken(
                    one.ticket, queue, one.epoch, one.service_code, one.priority, reading
                )
            first = one.called_at or one.started_at or one.ended_at
            if one.called_at is None:
                found.back = True
            if first is not None and (found.called_at is None or first < found.called_at):
                found.called_at, found.window = first, record.window.id
            found.priority = found.priority or one.priority
            found.service_code = found.service_code or one.service_code
            if one.ended != "open" and (one.ended_at or 0) >= (found.ended_at or 0):
                found.ended, found.ended_at = one.ended, one.ended_at
            found.batch = found.batch or "batch" in one.flags
            found.back = found.back or one.ended in ("held", "transferred") or bool(one.flags)
    for at, body in ends:
        # Tickets that ended before any window called them.
        epochs = range(_epoch(resets, queue_of(body), at), -1, -1)
        found = next((by_name[name] for one in epochs if (name := (body.ticket, one)) in by_name),
                     None)  # fmt: skip
        if found is None:
            continue
        if body.event == "abandoned" and found.called_at is None:
            found.ended, found.ended_at = "abandoned", at
        elif body.event != "abandoned" or (found.called_at or 0) > at:
            found.back = True
    for at, queue in batches:
        queue = names.get(queue, queue)
        for found in by_name.values():
            if queue not in ("", found.queue) or found.ended or found.taken_at is None:
                continue
            if found.taken_at <= at and (found.called_at is None or found.called_at > at):
                found.ended, found.ended_at, found.batch = "abandoned", at, True
    ordered = sorted(
        by_name.values(),
        key=lambda one: (one.taken_at or one.called_at or 0, one.ticket, one.epoch),
    )
    return ordered, tuple(batches), told


def _queue_names(events: Iterable[SeenEvent]) -> dict[str, str]:
    """What the queue of each first letters of tickets is called, where some of what was told names
    it and some does not; letters that two queues share are left out."""
    found: dict[str, str | None] = {}
    for one in events:
        body = one.body
        if body.queue and body.ticket:
            letters = _letters(body.ticket)
            if found.setdefault(letters, body.queue) != body.queue:
                found[letters] = None
    return {letters: queue for letters, queue in found.items() if queue is not None}


def _areas_of(tickets: Sequence[_Taken], records: Sequence[WindowRecord]) -> None:
    """A called ticket belongs to the area that called it, another to the one that calls most of
    its queue."""
    area_of = {one.window.id: one.window.area for one in records}
    votes: dict[str, dict[str, int]] = {}
    for one in tickets:
        if one.window:
            one.area = area_of.get(one.window, "")
            share = votes.setdefault(one.queue, {})
            share[one.area] = share.get(one.area, 0) + 1
    usual = {
        queue: min(share, key=lambda area: (-share[area], area)) for queue, share in votes.items()
    }
    areas = set(area_of.values())
    only = next(iter(areas)) if len(areas) == 1 else None
    for one in tickets:
        if not one.window:
            # Of a queue that nobody has called from yet the area is unknown.
            one.area = usual.get(one.queue, only if only is not None else "?")


def _areas(
    day: CounterDay,
    records: Sequence[WindowRecord],
    tickets: Sequence[_Taken],
    told: Sequence[tuple[Instant, str, int]],
) -> tuple[AreaRecord, ...]:
    lines = _lines(day, records, tickets, told)
    found = []
    for area in sorted({one.window.area for one in records}):
        mine = [one for one in records if one.window.area == area]
        line = lines.get(area, ())
        waits: list[int] = []
        hours = _Hours()
        for record in mine:
            for one in record.services:
                if one.called_at is not None:
                    hour = hours[(one.called_at - day.midnight) // HOUR]
                    hour.called += 1
                    if one.waited is not None:
                        waits.append(one.waited)
                        hour.waits.append(one.waited)
                if one.ended_at is not None and one.ended in ("finished", "abandoned"):
                    hour = hours[(one.ended_at - day.midnight) // HOUR]
                    hour.finished += one.ended == "finished"
                    hour.abandoned += one.ended == "abandoned"
        for ticket in tickets:
            if ticket.area == area and ticket.taken_at is not None:
                hours[(ticket.taken_at - day.midnight) // HOUR].taken += 1
                if ticket.ended == "abandoned" and ticket.ended_at and ticket.called_at is None:
                    hours[(ticket.ended_at - day.midnight) // HOUR].abandoned += 1
        most = _most_waiting(day, line)
        found.append(
            AreaRecord(
                area,
                line[-1][1] if line else None,
                line[-1][2] if line else 0,
                _durations(waits),
                tuple(
                    AreaHour(
                        hour,
                        one.taken,
                        one.called,
                        one.finished,
                        one.abandoned,
                        _durations(one.waits),
                        most.get(hour),
                    )
                    for hour, one in sorted(hours.items())
                ),
                line,
            )
        )
    return tuple(found)


def _lines(
    day: CounterDay,
    records: Sequence[WindowRecord],
    tickets: Sequence[_Taken],
    told: Sequence[tuple[Instant, str, int]],
) -> dict[str, tuple[tuple[Instant, int | None, int], ...]]:
    """For each area, how many wait and how many windows are open, from each instant on.

    What the queue system says of people waiting holds from then on, changed by the tickets taken
    and called since; where it says nothing, the tickets are counted."""
    queue_area: dict[str, dict[str, int]] = {}
    changes: dict[str, list[tuple[Instant, int, str, int]]] = {}
    for one in tickets:
        if one.area != "?":
            share = queue_area.setdefault(one.queue, {})
            share[one.area] = share.get(one.area, 0) + 1
            moves = changes.setdefault(one.area, [])
            left = one.ended_at if one.called_at is None else one.called_at
            if one.taken_at is not None:
                # The printer's clock is another than the caller's.
                came = one.taken_at if left is None or one.taken_at < left else left
                moves.append((came, 0, one.queue, 1))
            if left is not None:
                moves.append((left, 1, one.queue, -1 if one.taken_at is not None else 0))
    areas = {one.window.area for one in records}
    only = next(iter(areas)) if len(areas) == 1 else None
    for at, queue, waiting in told:
        share = queue_area.get(queue, {})
        area = min(share, key=lambda name: (-share[name], name)) if share else only
        if area is not None:
            changes.setdefault(area, []).append((at, 2, queue, waiting))
    for record in records:
        opened = False
        moves = changes.setdefault(record.window.area, [])
        for at, state in record.states:
            is_open = state not in ("paused", "closed", "unknown")
            if is_open != opened:
                moves.append((at, 3, "", 1 if is_open else -1))
                opened = is_open
    lines = {}
    for area, moves in changes.items():
        line: list[tuple[Instant, int | None, int]] = []
        counts: dict[str, int] = {}
        open_windows = total = 0
        for at, kind, queue, value in sorted(moves):
            if at > day.as_of:
                break
            if kind == 3:
                open_windows += value
            else:
                before = counts.get(queue)
                if kind == 2:
                    now = value
                elif before is None and value <= 0:
                    continue  # nothing tells how many wait
                else:
                    now = max((before or 0) + value, 0)
                counts[queue] = now
                total += now - (before or 0)
            step = (at, total if counts else None, open_windows)
            if line and line[-1][0] == at:
                line[-1] = step
            elif not line or line[-1][1:] != step[1:]:
                line.append(step)
        lines[area] = tuple(line)
    return lines


def _most_waiting(
    day: CounterDay, line: Sequence[tuple[Instant, int | None, int]]
) -> dict[int, int]:
    most: dict[int, int] = {}
    last = (min(day.as_of, day.next_midnight - 1) - day.midnight) // HOUR
    for index, (at, waiting, _) in enumerate(line):
        if waiting is None:
            continue
        until = line[index + 1][0] - 1 if index + 1 < len(line) else day.as_of
        ends = min((until - day.midnight) // HOUR, last)
        for hour in range((at - day.midnight) // HOUR, ends + 1):
            most[hour] = max(most.get(hour, 0), waiting)
    return most


# --------------------------------------------------------------------------------------------
# What rules share
# --------------------------------------------------------------------------------------------

STEADY = 5 * MINUTE
"""A condition that is gone for less than this has not ended: queues swing round their limits."""


class Episode(Struct, frozen=True):
    """A value was over a limit from ``since`` to ``until`` (none while it is, or may be so again);
    ``peak`` was its highest, ``at`` first."""

    since: Instant
    until: Instant | None
    peak: float
    at: Instant


def episodes(
    line: Iterable[tuple[Instant, float | None]], limit: float, as_of: Instant
) -> tuple[list[Episode], Instant | None]:
    """When a value that holds from each instant on was above ``limit``, and when that can change
    though nothing happens.  A value of none is not above anything."""
    found: list[Episode] = []
    since: Instant | None = None
    over_until: Instant | None = None
    peak, peak_at = 0.0, 0
    for at, value in line:
        if at > as_of:
            break
        above = value is not None and value > limit
        if since is not None and over_until is not None and at - over_until >= STEADY:
            found.append(Episode(since, over_until, peak, peak_at))
            since = over_until = None
        if above and value is not None:
            if since is None:
                since, peak, peak_at = at, value, at
            elif value > peak:
                peak, peak_at = value, at
            over_until = None
        elif since is not None and over_until is None:
            over_until = at
    if since is None:
        return found, None
    if over_until is not None and as_of - over_until >= STEADY:
        return [*found, Episode(since, over_until, peak, peak_at)], None
    asks = None if over_until is None else over_until + STEADY
    return [*found, Episode(since, None, peak, peak_at)], asks


def till_midnight(day: WindowDay | CounterDay) -> tuple[Instant | None, str]:
    """End and state of an alert that concerns this date alone."""
    if day.as_of >= day.next_midnight:
        return day.next_midnight, "expired"
    return None, "open"


def place(hall: str, area: str) -> tuple[str, str]:
    """The kind and name of an alert's subject: a service area, or the hall where none is named."""
    return ("area", area) if area else ("hall", hall)


def place_name(area: str) -> tuple[str, str]:
    """What a service area is called in Chinese and English."""
    return (f"{area}区域" if area else "大厅", area or "the hall")


def wait_mean(record: CounterRecord, area: str, span: int) -> list[tuple[Instant, float | None]]:
    """Mean wait in minutes of those called in an area within the last ``span`` ms, from each
    instant on at which it changes."""
    calls = sorted(
        (one.called_at, one.waited)
        for window in record.windows
        if window.window.area == area
        for one in window.services
        if one.called_at is not None and one.waited is not None
    )
    changes = [(at, 1, waited) for at, waited in calls]
    changes += [(at + span, 0, waited) for at, waited in calls]
    line: list[tuple[Instant, float | None]] = []
    count = total = 0
    for at, comes, waited in sorted(changes):
        count += 1 if comes else -1
        total += waited if comes else -waited
        mean = total / count / MINUTE if count else None
        if line and line[-1][0] == at:
            line[-1] = (at, mean)
        else:
            line.append((at, mean))
    return line
