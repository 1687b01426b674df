"""The words of the field: what devices and people tell us, and what is concluded from it.

Instants are whole milliseconds since 1970-01-01T00:00Z (``Instant``): integers compare, sort and
store exactly, and a person-day is judged in microseconds instead of milliseconds.  They become
RFC 3339 text with the hall's offset only at the edges (API, MQTT, reports).

Two kinds of value live here.  *Readings* are facts: one thing a device, a person or another system
told us, never changed after it was journalled.  *Records, violations and alerts* are conclusions:
a function of readings, settings, calendar and ``as_of``, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from hashlib import blake2b
from typing import Literal, Protocol
from unicodedata import normalize

from msgspec import Struct
from msgspec import json as msgspec_json

Instant = int
"""Milliseconds since the Unix epoch, UTC."""

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


# --------------------------------------------------------------------------------------------
# Readings: what we were told
# --------------------------------------------------------------------------------------------


class Punch(Struct, frozen=True, tag="punch", omit_defaults=True, gc=False):
    """打卡: one attendance reading.

    ``verify`` and ``state`` are the terminal's raw codes (``state`` is the direction key: a hint,
    people press the wrong one).  ``live`` is true where the driver knows that the terminal reported
    the punch as it happened, and false for a record read from a log or a backlog.
    ``record_no`` is the device's own number of the record, if it has one.
    ``source`` is ``terminal``, ``manual`` (paper sheet) or ``correction`` (补卡).
    """

    person: str
    verify: int | None = None
    state: int | None = None
    live: bool = False
    record_no: str = ""
    work_code: str = ""
    source: str = "terminal"
    note: str = ""


class Link(Struct, frozen=True, tag="link", omit_defaults=True, gc=False):
    """A device came up or was lost.  ``Reading.at`` is the moment of the fact: for a loss the last
    moment at which the device was known to be alive."""

    up: bool
    reason: str = ""


class ClockCheck(Struct, frozen=True, tag="clock", omit_defaults=True, gc=False):
    """The device's clock showed ``Reading.at`` when the reading was received."""

    method: str = "read"
    """``read``: asked for and answered; ``live``: estimated from live records."""


class LogComplete(Struct, frozen=True, tag="complete", omit_defaults=True, gc=False):
    """Everything the device recorded until ``Reading.at`` (our clock) has been journalled."""


class DeviceInfo(Struct, frozen=True, tag="info", omit_defaults=True):
    """What a device says of itself (serial, model, firmware, users, records, capacity...)."""

    facts: dict[str, str | int]


class DeviceEvent(Struct, frozen=True, tag="event", omit_defaults=True):
    """An operation or alarm the device logged: ``tamper``, ``power_on``, ``time_set``..."""

    name: str
    code: int = 0
    detail: str = ""


class TerminalUser(Struct, frozen=True, tag="user", omit_defaults=True, gc=False):
    """A person as enrolled on a terminal.  Passwords, cards and templates never get here."""

    person: str
    name: str = ""
    privilege: int = 0


class Unreadable(Struct, frozen=True, tag="unreadable", omit_defaults=True):
    """Bytes that could not be understood; ``Reading.raw`` holds (the beginning of) them."""

    reason: str


class DaemonAlive(Struct, frozen=True, tag="alive", omit_defaults=True, gc=False):
    """hallwatch itself was running and watching."""


class DaemonStarted(Struct, frozen=True, tag="started", omit_defaults=True, gc=False):
    """hallwatch started.  ``Reading.at`` is when its last run was certainly still watching: from
    then on no device was watched until its next ``Link``."""

    version: str = ""


class Absence(Struct, frozen=True, tag="absence", omit_defaults=True):
    """An approved absence (请假, 外出, 培训, 集体免责) of one or more people, half-open."""

    absence_id: str
    people: tuple[str, ...]
    kind: str
    starts: Instant
    ends: Instant
    punch_required: bool = False
    approved_by: str = ""
    source: str = ""
    note: str = ""


class AbsenceRevoked(Struct, frozen=True, tag="absence_revoked", omit_defaults=True):
    absence_id: str
    reason: str = ""


class PresenceEvidence(Struct, frozen=True, tag="evidence", omit_defaults=True):
    """Something that shows a person at work without a punch: ``ticket_called``, ``case_closed``
    or ``seen`` (then ``sensor`` names what saw them)."""

    person: str
    kind: str
    window: str = ""
    sensor: str = ""


class GapExplained(Struct, frozen=True, tag="gap_explained", omit_defaults=True):
    """Somebody found out whether a terminal that hallwatch could not reach was usable meanwhile."""

    device: str
    starts: Instant
    ends: Instant
    usable: bool
    by: str = ""


class PersonEntry(Struct, frozen=True, tag="person", omit_defaults=True):
    """A staff member as imported or pushed; the newest entry of a code holds."""

    person: Person


class RosterEntry(Struct, frozen=True, tag="roster", omit_defaults=True):
    """What one person is to do on one date, instead of the hall's timetable."""

    person: str
    work_date: date
    timetable: str = ""
    """Name of the timetable to follow; empty with ``duty=rest`` for no obligation."""
    duty: str = ""
    removed: bool = False


class AlertAction(Struct, frozen=True, tag="alert_action", omit_defaults=True):
    """A person acknowledged or resolved an alert."""

    alert_id: str
    action: Literal["acknowledge", "resolve"]
    by: str
    note: str = ""


class Rating(Struct, frozen=True, tag="rating", omit_defaults=True):
    """评价: one press on a pad, or a rating from elsewhere.  ``Reading.at`` is when it was given.

    ``level``: 5 very satisfied to 1 very dissatisfied; none for silence, a time-out or a key that
    has no level: never a guess.  ``raw_key``: what the pad sent, hexadecimal.  ``scale_id``: which
    scale the level belongs to.  ``channel``: ``pad qr kiosk sms web app hotline paper``.
    ``person``: the staff member logged in when the rating was asked for.  ``service_ref``: the
    ticket or case.
    ``defaulted``: somebody else counted silence as this level.  ``origin``: ``visitor staff
    unknown``.  ``problem`` names what is odd about it: ``unmapped_code timed_out no_session
    paused nobody_logged_in clock_skew``.
    """

    rating_id: str
    window: str = ""
    level: int | None = None
    scale_id: str = ""
    raw_key: str = ""
    channel: str = "pad"
    person: str = ""
    service_ref: str = ""
    session: str = ""
    options: tuple[str, ...] = ()
    indicator_version: str = ""
    text: str = ""
    named: bool = False
    defaulted: bool = False
    origin: str = "visitor"
    problem: str = ""


class RatingPrompt(Struct, frozen=True, tag="prompt", omit_defaults=True):
    """A pad was asked to invite a rating.  ``session`` stands in the rating that answers."""

    session: str
    window: str = ""
    ticket: str = ""
    person: str = ""


class QueueEvent(Struct, frozen=True, tag="queue", omit_defaults=True):
    """叫号: something happened in the queue.  ``Reading.at`` is when, by the source's clock.

    ``event``: one of ``QUEUE_EVENTS``.  ``ticket``: normalised (``normal_ticket``), ``ticket_raw``
    as it came where that differs.  ``call_no``: 1 for the first call.  ``to``: window or queue of a
    transfer.  ``waiting``: people waiting, none where unknown, never a guessed 0.  ``source``:
    ``api bus display sniffed``, in order of trust.  ``uncertainty``: ms either way.
    """

    event_id: str
    event: str
    window: str = ""
    ticket: str = ""
    ticket_raw: str = ""
    queue: str = ""
    service_code: str = ""
    person: str = ""
    call_no: int | None = None
    to: str = ""
    waiting: int | None = None
    priority: bool = False
    source: str = "api"
    uncertainty: int = 0


QUEUE_EVENTS = (
    "ticket_taken", "called", "recalled", "started", "finished", "abandoned", "transferred", "held",
    "called_back", "window_paused", "window_resumed", "window_opened", "window_closed",
    "window_login", "window_logout", "batch_abandoned",
)  # fmt: skip

QUEUE_SOURCES = ("api", "bus", "display", "sniffed")


class Shown(Struct, frozen=True, tag="shown", omit_defaults=True):
    """What a window's number display shows, told when that changed.

    ``state``: ``ticket blank paused lamp_test unknown``.  ``baseline``: the first look after a
    start or a reconnection, which tells nothing of when it changed.  ``confirmed`` is false where
    only the writing of it was overheard.
    """

    window: str
    text: str
    state: str
    baseline: bool = False
    confirmed: bool = True


class FollowUpStep(Struct, frozen=True, tag="follow_up", omit_defaults=True):
    """A step in the follow-up of a bad rating (差评整改), done elsewhere and told to us.  ``step``:
    one of ``FOLLOW_UP_STEPS``."""

    rating_id: str
    step: str
    by: str = ""
    handler: str = ""
    note: str = ""


FOLLOW_UP_STEPS = (
    "assigned", "contacting", "unreachable", "fix_now", "plan", "explain", "mistaken", "malicious",
    "acting", "fed_back", "rechecked", "closed", "reopened",
)  # fmt: skip


class Seat(Struct, frozen=True, tag="seat", omit_defaults=True):
    """在岗: what a camera, or a sensor, sees of a window's post, told when that changed and after
    every start or reconnection.  ``Reading.at`` is when it began.

    ``state``: ``occupied``; ``still`` (occupied, but nothing has moved there for minutes: somebody
    who reads, or a coat on the chair); ``empty``; ``learning`` (the empty post is not known yet);
    ``unknown``, with the ``reason`` in words.  ``evidence``: what it rests on: ``difference motion
    detector vendor``.  ``score``: 0 looks empty, 1 certainly is not; none where nothing was
    measured.  ``snapshot``: name of the kept picture, if one was.
    """

    window: str
    state: str
    evidence: tuple[str, ...] = ()
    score: float | None = None
    reason: str = ""
    snapshot: str = ""


SEAT_STATES = ("occupied", "still", "empty", "learning", "unknown")


class Picture(Struct, frozen=True, tag="picture", omit_defaults=True):
    """画面: the state of a camera's picture, told when that changed and after every start or
    reconnection.  ``Reading.at`` is when it began.

    ``faults``: of ``PICTURE_FAULTS``, gravest first; none at all is a good picture.  ``known`` is
    false while there is nothing to compare with.  ``shift``: displacement of a ``moved`` picture in
    percent of its width, right and down.
    """

    faults: tuple[str, ...] = ()
    known: bool = True
    shift: tuple[float, float] | None = None
    snapshot: str = ""


PICTURE_FAULTS = (
    "black", "frozen", "covered", "moved", "view_changed", "partly_covered", "blurred", "dark",
)  # fmt: skip


class Recorded(Struct, frozen=True, tag="recorded", omit_defaults=True):
    """录像: what a recorder holds of a camera, as it answered at ``Reading.at``.

    ``spans``: recordings within ``[since, until]``, sorted and disjoint.  ``oldest``: beginning of
    the oldest recording of all; none where the recorder has none or does not tell.
    """

    since: Instant
    until: Instant
    spans: tuple[tuple[Instant, Instant], ...] = ()
    oldest: Instant | None = None


class PostReview(Struct, frozen=True, tag="post_review", omit_defaults=True):
    """A person looked at a vacancy that was found at a window and ``confirmed`` or ``dismissed``
    it; the newest review holds.

    ``vacancy``: its id, which is the alert's too.  ``began_at``, ``ended_at``: as it was found then
    (0 where unknown): later facts can move its ends, and the review holds for what it overlaps.
    """

    window: str
    work_date: date
    vacancy: str
    verdict: Literal["confirmed", "dismissed"]
    by: str
    note: str = ""
    began_at: Instant = 0
    ended_at: Instant = 0


class Substitution(Struct, frozen=True, tag="substitution", omit_defaults=True):
    """顶岗: somebody stands in at a window in ``[starts, ends)``.  The newest entry of an id holds;
    one that is ``revoked`` never was."""

    substitution_id: str
    window: str
    substitute: str
    starts: Instant
    ends: Instant
    person: str = ""
    """Who is replaced; empty: whoever is rostered."""
    revoked: bool = False


Body = (
    Punch
    | Rating
    | Seat
    | Picture
    | Recorded
    | PostReview
    | Substitution
    | RatingPrompt
    | QueueEvent
    | Shown
    | FollowUpStep
    | Link
    | ClockCheck
    | LogComplete
    | DeviceInfo
    | DeviceEvent
    | TerminalUser
    | Unreadable
    | DaemonAlive
    | DaemonStarted
    | Absence
    | AbsenceRevoked
    | PresenceEvidence
    | GapExplained
    | PersonEntry
    | RosterEntry
    | AlertAction
)


class Reading(Struct, frozen=True, gc=False):
    """One thing a device (or a person, or another system) told us.

    ``device``: id from the settings; ``hallwatch``, ``api`` or ``import`` for what has no device.
    ``at``: when, by the teller's own clock.  A terminal's wall clock is read in the hall's zone.
    ``raw``: the bytes as sent, without anything biometric; at most 4 KiB.
    ``serial``: what the device calls itself; identifies it across changes of id and protocol.
    """

    device: str
    at: Instant
    body: Body
    raw: bytes = b""
    serial: str = ""


def reading_id(reading: Reading) -> bytes:
    """The same fact gives the same 16 bytes, whichever way and how often it was told.

    A punch is known by terminal, the device's own record number if it has one, person, device time
    and verify mode; whether it came live or from the log, from PUSH or a pull, does not matter.
    A rating is known by its ``rating_id``, a queue event by its teller and ``event_id``.
    """
    body = reading.body
    who = reading.serial or reading.device
    if type(body) is Punch:
        told = f"{who}\0{body.record_no}\0{body.person}\0{reading.at}\0{body.verify}\0{body.source}"
        return blake2b(told.encode(), digest_size=16).digest()
    if type(body) is Rating:
        told = f"rating\0{body.rating_id}"
        return blake2b(told.encode(), digest_size=16).digest()
    if type(body) is QueueEvent:
        told = f"queue\0{reading.device}\0{body.event_id}"
        return blake2b(told.encode(), digest_size=16).digest()
    digest = blake2b(f"{who}\0{reading.at}\0".encode(), digest_size=16)
    digest.update(msgspec_json.encode(body))
    digest.update(reading.raw)
    return digest.digest()


# --------------------------------------------------------------------------------------------
# People and what is expected of them
# --------------------------------------------------------------------------------------------


class Person(Struct, frozen=True, omit_defaults=True):
    """工作人员.  ``code`` is the user id on the terminals, as text.  ``employed`` are spells
    ``(first day, last day or None)``; none at all means always."""

    code: str
    name: str = ""
    unit: str = ""
    window: str = ""
    attendance_required: bool = True
    employed: tuple[tuple[date, date | None], ...] = ()
    devices: tuple[str, ...] = ()
    """Terminals this person may use; empty means every attendance terminal of the hall."""


class SegmentRule(Struct, frozen=True, omit_defaults=True):
    """班段 as the timetable states it: minutes from local midnight of the work date (1560 is 02:00
    of the next day) and the tolerances, in minutes."""

    name: str
    starts: int
    ends: int
    grace: int = 0
    serious: int = 15
    absent: int = 30
    open_before: int = 60
    close_after: int = 60
    min_gap: int = 5
    residual: int = 15
    accept_on: tuple[int, int] | None = None
    """Narrow band for the on punch, minutes from midnight, instead of ``open_before``."""
    accept_off: tuple[int, int] | None = None
    weight: float = 0.5


class Segment(Struct, frozen=True):
    """A segment on a date: ``starts`` and ``ends`` are instants; ``rule`` has the tolerances."""

    rule: SegmentRule
    starts: Instant
    ends: Instant


class DayKind(Struct, frozen=True):
    """What a date is: ``workday makeup_workday holiday rest closed duty_only``; ``known`` is false
    where no official table covers the date.  ``source`` and ``name`` say why."""

    kind: str
    source: str
    name: str = ""
    known: bool = True

    @property
    def works(self) -> bool:
        return self.kind in ("workday", "makeup_workday")


# --------------------------------------------------------------------------------------------
# What a rule may see
# --------------------------------------------------------------------------------------------

TRUST = ("device", "corrected", "received", "quarantined")
"""How ``event_at`` came about: the device's clock; that clock minus its offset; our clock; or not
at all, because the clock cannot be trusted and the punch did not come live."""


class SeenPunch(Struct, frozen=True, gc=False):
    """A punch as judged: ``event_at`` is when it happened as far as can be known.

    For a quarantined punch it happened somewhere in ``[earliest, event_at]``.
    """

    event_at: Instant
    device_at: Instant
    device: str
    reading_id: bytes
    trust: int = 0
    earliest: Instant = 0
    source: str = "terminal"
    state: int | None = None
    received_at: Instant = 0


class AbsenceSpan(Struct, frozen=True):
    absence_id: str
    kind: str
    starts: Instant
    ends: Instant
    punch_required: bool = False
    received_at: Instant = 0


class Evidence(Struct, frozen=True):
    at: Instant
    kind: str
    sensor: str
    reading_id: bytes
    received_at: Instant = 0


class DevicePath(Struct, frozen=True):
    """When one terminal could be used, as far as is known.

    ``up``: intervals in contact, sorted, disjoint (an interval still open ends at ``as_of``).
    ``proofs``: instants in contact gaps at which its late log proves that it worked.
    ``usable``/``unusable``: what somebody found out about gaps.
    ``complete_until``: everything it recorded until then has been read.
    """

    device: str
    up: tuple[tuple[Instant, Instant], ...] = ()
    proofs: tuple[Instant, ...] = ()
    usable: tuple[tuple[Instant, Instant], ...] = ()
    unusable: tuple[tuple[Instant, Instant], ...] = ()
    complete_until: Instant = 0


class PersonDay(Struct, frozen=True):
    """Everything that decides one person's work date.  ``punches`` are sorted and without repeats;
    only what was received by ``as_of`` is in it.  ``punches`` reach from one day before to one day
    after the work date, so that cross-midnight segments find theirs."""

    person: Person
    work_date: date
    kind: DayKind
    segments: tuple[Segment, ...]
    absences: tuple[AbsenceSpan, ...]
    punches: tuple[SeenPunch, ...]
    evidence: tuple[Evidence, ...]
    paths: tuple[DevicePath, ...]
    as_of: Instant
    midnight: Instant
    """Local midnight at which the work date begins; ``next_midnight`` at which it ends."""
    next_midnight: Instant
    policy: Policy
    appeal_ends: Instant
    """End of the appeal window for facts of this date; ``locks_at``: the month is closed."""
    locks_at: Instant


class Policy(Struct, frozen=True, omit_defaults=True):
    """Hall-wide choices that are not thresholds of one rule."""

    seconds_matter: bool = False
    single_lunch_punch: bool = False
    settle: int = 10
    """Minutes between a slot's close and its provisional verdict."""
    appeal_workdays: int = 3
    missing_punch_as: str = "missing"
    """``missing``, ``late_or_early`` or ``absent_half``."""
    outage_proof: int = 10
    """Minutes around a record in a late log for which it proves that the terminal worked."""
    cluster_seconds: int = 60
    contested_tickets: int = 3
    contested_cases: int = 2
    contested_sensors: int = 2
    lock_workday: int = 5
    """The month is closed on this workday of the next month."""


# --------------------------------------------------------------------------------------------
# Conclusions
# --------------------------------------------------------------------------------------------


class Slot(Struct, frozen=True, omit_defaults=False):
    """考勤点: an expected punch and what became of it.

    ``verdict``: ``pending ok late serious_late early_leave serious_early_leave absent_class
    missing_punch unverified``.  ``minutes`` is the whole deviation.
    ``path``: ``up partial down``, empty while the slot is pending.
    """

    segment: str
    slot: str
    target: Instant
    opens: Instant
    closes: Instant
    event_time: Instant | None
    verdict: str
    minutes: int
    finality: str
    device: str
    source: str
    path: str
    flags: tuple[str, ...] = ()
    absence_ref: str = ""
    evidence: tuple[str, ...] = ()
    """Reading ids, hexadecimal."""


class HalfDay(Struct, frozen=True):
    """One segment's verdict: ``present absent_half absent_half_contested excused unverified
    pending``; ``findings`` are the slot verdicts that stand beside it."""

    segment: str
    verdict: str
    findings: tuple[str, ...]
    minutes_due: int
    weight: float
    excused_as: str = ""
    finality: str = "pending"
    live: str = ""
    """For boards, before the segment is over: ``not_arrived``, ``absent_half_provisional``..."""


class DayRecord(Struct, frozen=True):
    """考勤记录 of one person and work date.  ``verdict``: ``present absent absent_day leave rest
    pending unverified``, ``off`` where nothing was expected."""

    person: str
    unit: str
    work_date: date
    day_kind: str
    calendar: str
    verdict: str
    attended: float
    expected: float
    halves: tuple[HalfDay, ...]
    slots: tuple[Slot, ...]
    strays: tuple[str, ...]
    finality: str
    favoured: bool
    rule_version: str


class Violation(Struct, frozen=True):
    """违规.  ``id`` is the same for the same rule, subject, date and segment."""

    id: str
    rule: str
    code: str
    """The catalogue's number, such as ``ATT-01``."""
    person: str
    unit: str
    work_date: date
    segment: str
    severity: int
    """0 normal, 1 notice, 2 yellow, 5 red, 6 serious."""
    points: float
    minutes: int
    since: Instant
    until: Instant
    finality: str
    evidence: tuple[str, ...]
    title: str
    """Chinese, for hall staff; ``detail`` is the English beside it."""
    detail: str
    flags: tuple[str, ...] = ()


class Alert(Struct, frozen=True):
    """告警: somebody must be told.  ``ends_at`` is none while it lasts.

    ``state``: ``open resolved converted expired``; being withdrawn is the absence of an alert that
    was there, and acknowledging is done by people, so neither is decided by a rule.
    """

    id: str
    rule: str
    code: str
    subject_kind: str
    """``person``, ``device`` or ``hall``."""
    subject: str
    unit: str
    severity: int
    opened_at: Instant
    ends_at: Instant | None
    state: str
    title: str
    detail: str
    evidence: tuple[str, ...] = ()
    inhibited_by: str = ""


class AskAgain(Struct, frozen=True, gc=False):
    """The rule's answer can change at ``at`` though no reading comes."""

    at: Instant


class Adjustment(Struct, frozen=True):
    """A change to a locked day, booked in ``period`` (YYYY-MM) and pointing at the old record."""

    id: str
    person: str
    unit: str
    work_date: date
    period: str
    points_before: float
    points_after: float
    verdict_before: str
    verdict_after: str


class Outcome(Struct, frozen=True):
    """Everything concluded for one day.  ``ask_again`` is the next instant at which it can change
    by time alone, or none."""

    record: DayRecord | None
    violations: tuple[Violation, ...]
    alerts: tuple[Alert, ...]
    ask_again: Instant | None
    adjustments: tuple[Adjustment, ...] = ()


SEVERITY = {"normal": 0, "notice": 1, "yellow": 2, "red": 5, "serious": 6}


def normal_ticket(told: str) -> str:
    """A ticket number as it is compared: full-width characters folded, upper case, without control
    characters, blanks or a trailing dot."""
    folded = normalize("NFKC", told).upper()
    return "".join(one for one in folded if one.isprintable() and not one.isspace()).rstrip(".")


def stable_id(*parts: object) -> str:
    """26 hexadecimal digits that depend on the parts alone."""
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=13).hexdigest()


# --------------------------------------------------------------------------------------------
# A hall's day, for rules about devices
# --------------------------------------------------------------------------------------------


class DeviceDay(Struct, frozen=True):
    """One device's day as the device rules see it.

    ``losses``: ``(lost_at, back_at or None, reason)`` for losses that began on this date, and
    before them the one that lasted at midnight, if there was one.
    ``clock``: ``(received_at, offset_ms)`` of each clock check, with the last one before the day.
    ``hourly``: punches for each local hour of the date; ``usual``: the median of the same weekday
    over the last four weeks.
    """

    device: str
    name: str
    attendance: bool
    losses: tuple[tuple[Instant, Instant | None, str], ...]
    clock: tuple[tuple[Instant, int], ...]
    hourly: tuple[int, ...]
    usual: tuple[float, ...]
    up_since: Instant | None
    """When the present contact began; none while the device is lost."""
    camera: bool = False
    maintainer: str = ""
    pictures: tuple[tuple[Instant, Picture], ...] = ()
    """Of a camera: its picture's states on the date; before them the last one before midnight, and
    after them those until the first good one."""
    recorded: tuple[tuple[Instant, Recorded], ...] = ()
    """Of a recorder's channel: what it answered of the date, when; before them the last answer
    before midnight."""


class CameraMonth(Struct, frozen=True):
    """One camera over a month so far; ``losses``, ``pictures`` and ``recorded`` as in
    ``DeviceDay``."""

    device: str
    losses: tuple[tuple[Instant, Instant | None, str], ...]
    pictures: tuple[tuple[Instant, Picture], ...]
    recorded: tuple[tuple[Instant, Recorded], ...]


class VideoMonth(Struct, frozen=True):
    """What the figures of a month are made of.  ``first_seen``: from when on each camera has been
    known at all (none: never); ``hours``: for each workday so far, the spans in which cameras are
    required."""

    cameras: tuple[CameraMonth, ...]
    first_seen: tuple[tuple[str, Instant | None], ...]
    hours: tuple[tuple[tuple[Instant, Instant], ...], ...]
    as_of: Instant


class HallDay(Struct, frozen=True):
    """What the rules about devices may see of one date."""

    hall: str
    work_date: date
    kind: DayKind
    midnight: Instant
    next_midnight: Instant
    devices: tuple[DeviceDay, ...]
    orphans: tuple[tuple[str, tuple[Instant, ...]], ...]
    """``(person code, punches)`` of codes nobody is known by."""
    as_of: Instant
    calendar_until: date = date.max
    """The last of the dates to come that an official calendar covers without a gap."""
    events: tuple[tuple[Instant, str, str], ...] = ()
    """``(at, name, detail)`` of what hallwatch noted about itself."""
    device_events: tuple[tuple[Instant, str, str, str], ...] = ()
    """``(at, device, name, detail)`` of what devices and their drivers told of themselves."""
    hours: tuple[tuple[Instant, Instant], ...] = ()
    """The hall's working time of the date and the fortnight after it: sorted and disjoint."""
    acted: tuple[tuple[str, Instant], ...] = ()
    """``(alert id, at)`` of each first acknowledgement of an alert about the hall's devices."""
    month: VideoMonth | None = None
    """The whole month, on its last date, once that is over."""


class PersonRule(Protocol):
    """A rule about a person's day: yields violations, alerts and moments to be asked again."""

    def judge(
        self, day: PersonDay, record: DayRecord
    ) -> Iterator[Violation | Alert | AskAgain]: ...


class HallRule(Protocol):
    """A rule about the hall's devices."""

    def judge_hall(self, day: HallDay) -> Iterator[Alert | AskAgain]: ...


def merge_intervals(
    spans: Iterable[tuple[Instant, Instant]],
) -> list[tuple[Instant, Instant]]:
    """Sorted, disjoint, half-open intervals that cover the same instants; empty ones vanish."""
    merged: list[tuple[Instant, Instant]] = []
    for starts, ends in sorted(spans):
        if starts >= ends:
            continue
        if merged and starts <= merged[-1][1]:
            if ends > merged[-1][1]:
                merged[-1] = (merged[-1][0], ends)
        else:
            merged.append((starts, ends))
    return merged
