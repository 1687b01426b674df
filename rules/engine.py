"""Judging a day by the rules in force, and explaining what was concluded.

Outcomes are functions of what is given: the day with everything known of it at ``as_of``, and the
rulebook.  Nothing is remembered from one call to the next.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import NamedTuple, cast

from msgspec import Struct, structs

from rules.attendance import Expected, assess, expectations, is_eligible
from rules.counter import CounterRule, SeenEvent, WindowRule
from rules.findings import clock, segment_name
from rules.model import (
    DAY,
    MINUTE,
    TRUST,
    AbsenceSpan,
    Adjustment,
    Alert,
    AskAgain,
    DayKind,
    DayRecord,
    Evidence,
    HallDay,
    HallRule,
    Instant,
    Outcome,
    PersonDay,
    PersonRule,
    PostReview,
    QueueEvent,
    SeenPunch,
    Slot,
    Violation,
    stable_id,
)
from rules.paths import path_state, usable_paths, working
from rules.post import (
    Duty,
    Hours,
    PostDay,
    PostRule,
    SeenReview,
    Vacancy,
    follow_post,
    judge_post,
)


class RuleEntry(NamedTuple):
    """A rule with its thresholds from a date on, until the next entry of the same name."""

    name: str
    effective_from: date
    enabled: bool
    rule: object


class _InForce(NamedTuple):
    person: tuple[PersonRule, ...]
    hall: tuple[HallRule, ...]
    window: tuple[WindowRule, ...]
    counter: tuple[CounterRule, ...]
    post: tuple[PostRule, ...]
    version: str


_NOTHING = _InForce((), (), (), (), (), stable_id("rules")[:12])


class Rulebook:
    """All rules of a hall, each in force from its date on.  Of two entries with the same name and
    date the later one holds."""

    def __init__(self, entries: Iterable[RuleEntry | tuple[str, date, bool, object]]) -> None:
        listed = [RuleEntry(*entry) for entry in entries]
        self._starts = sorted({entry.effective_from for entry in listed})
        self._periods = [self._in_force(listed, start) for start in self._starts]

    @staticmethod
    def _in_force(entries: list[RuleEntry], day: date) -> _InForce:
        newest: dict[str, RuleEntry] = {}
        for entry in sorted(entries, key=lambda entry: entry.effective_from):
            if entry.effective_from <= day:
                newest[entry.name] = entry
        rules = [entry for _, entry in sorted(newest.items()) if entry.enabled]
        person = [entry for entry in rules if hasattr(entry.rule, "judge")]
        return _InForce(
            tuple(cast(PersonRule, entry.rule) for entry in person),
            tuple(
                cast(HallRule, entry.rule) for entry in rules if hasattr(entry.rule, "judge_hall")
            ),
            tuple(
                cast(WindowRule, entry.rule)
                for entry in rules
                if hasattr(entry.rule, "judge_window")
            ),
            tuple(
                cast(CounterRule, entry.rule)
                for entry in rules
                if hasattr(entry.rule, "judge_counter")
            ),
            tuple(
                cast(PostRule, entry.rule) for entry in rules if hasattr(entry.rule, "judge_post")
            ),
            stable_id("rules", *((entry.name, repr(entry.rule)) for entry in person))[:12],
        )

    def _on(self, day: date) -> _InForce:
        index = bisect_right(self._starts, day) - 1
        return self._periods[index] if index >= 0 else _NOTHING

    def person_rules(self, day: date) -> tuple[PersonRule, ...]:
        return self._on(day).person

    def hall_rules(self, day: date) -> tuple[HallRule, ...]:
        return self._on(day).hall

    def window_rules(self, day: date) -> tuple[WindowRule, ...]:
        return self._on(day).window

    def counter_rules(self, day: date) -> tuple[CounterRule, ...]:
        return self._on(day).counter

    def post_rules(self, day: date) -> tuple[PostRule, ...]:
        return self._on(day).post

    def rule_version(self, day: date) -> str:
        """12 hexadecimal digits that stay the same while the rules about people and their
        thresholds do."""
        return self._on(day).version


def judge_person(day: PersonDay, book: Rulebook, locked: PersonDay | None = None) -> Outcome:
    """Everything concluded about a person's day; no record for one who is not to be judged.

    ``locked`` is the same day with only what had been received when its month was closed.  If it
    was final then, its record and violations stay, and what has changed since becomes an
    adjustment.
    """
    present = _judge(day, book)
    if locked is None:
        return present
    closed = _judge(locked, book)
    if closed.record is None or closed.record.finality != "locked":
        return present
    adjustments: tuple[Adjustment, ...] = ()
    if present.record is not None:
        before = sum(violation.points for violation in closed.violations)
        after = sum(violation.points for violation in present.violations)
        if before != after or closed.record.verdict != present.record.verdict:
            period = _period(day, locked)
            adjustments = (
                Adjustment(
                    stable_id("adjustment", day.person.code, day.work_date, period),
                    day.person.code,
                    day.person.unit,
                    day.work_date,
                    period,
                    before,
                    after,
                    closed.record.verdict,
                    present.record.verdict,
                ),
            )
    return Outcome(closed.record, closed.violations, closed.alerts, None, adjustments)


def _period(day: PersonDay, locked: PersonDay) -> str:
    """The month in which the newest reading came that the closed month did not have; the present
    month if that cannot be told (an absence was revoked)."""
    had = {punch.reading_id for punch in locked.punches}
    told = [punch.received_at for punch in day.punches if punch.reading_id not in had]
    told += [span.received_at for span in day.absences if span not in locked.absences]
    at = max(told, default=0)
    if not day.locks_at <= at <= day.as_of:
        at = day.as_of
    return f"{day.work_date + timedelta(days=(at - day.midnight) // DAY):%Y-%m}"


def _judge(day: PersonDay, book: Rulebook) -> Outcome:
    if not is_eligible(day):
        return Outcome(None, (), (), None)
    in_force = book._on(day.work_date)
    record, ask_again = assess(day, in_force.version)
    violations: list[Violation] = []
    alerts: list[Alert] = []
    for rule in in_force.person:
        for found in rule.judge(day, record):
            if isinstance(found, Violation):
                violations.append(found)
            elif isinstance(found, Alert):
                alerts.append(found)
            elif found.at > day.as_of and (ask_again is None or found.at < ask_again):
                ask_again = found.at
    if len(violations) > 1:
        violations.sort(key=lambda one: (one.since, one.id))
    return Outcome(record, tuple(violations), tuple(alerts), ask_again)


def judge_hall(day: HallDay, book: Rulebook) -> Outcome:
    """Everything concluded about a hall's devices on a date; there is no record."""
    alerts: list[Alert] = []
    ask_again: Instant | None = None
    for rule in book.hall_rules(day.work_date):
        for found in rule.judge_hall(day):
            if isinstance(found, AskAgain):
                if found.at > day.as_of and (ask_again is None or found.at < ask_again):
                    ask_again = found.at
            else:
                alerts.append(found)
    return Outcome(None, (), tuple(alerts), ask_again)


# --------------------------------------------------------------------------------------------
# Why: a person's day
# --------------------------------------------------------------------------------------------


class ReadingUse(Struct, frozen=True):
    """A punch or another reading near the violation and what it was used for: the slot it fills,
    ``beside`` for another punch of the same moment, ``stray``, ``untrusted`` or ``seen``."""

    reading_id: str
    device: str
    device_at: Instant
    event_at: Instant
    trust: str
    source: str
    used_for: str


class TerminalState(Struct, frozen=True):
    """Whether a terminal worked in ``[starts, ends]``, and when: ``up partial down``."""

    device: str
    segment: str
    slot: str
    starts: Instant
    ends: Instant
    state: str
    worked: tuple[tuple[Instant, Instant], ...]
    complete_until: Instant


class WouldChange(Struct, frozen=True):
    """Something that would have changed the verdict, found by judging the day with it.  ``kind``:
    ``punch leave outage clock evidence``.  ``instead``: titles of what would stand then."""

    kind: str
    zh: str
    en: str
    instead: tuple[str, ...]


class Explanation(Struct, frozen=True):
    """Why there is a violation: what was expected, known and in force."""

    violation: Violation
    rule: str
    rule_version: str
    thresholds: dict[str, dict[str, object]]
    """``rule``: its options; ``policy``; ``segment <name>``: the timetable's tolerances."""
    slots: tuple[Slot, ...]
    calendar: DayKind
    absences: tuple[AbsenceSpan, ...]
    readings: tuple[ReadingUse, ...]
    terminals: tuple[TerminalState, ...]
    would_change: tuple[WouldChange, ...]
    as_of: Instant


def explain(day: PersonDay, book: Rulebook, violation_id: str) -> Explanation | None:
    """Why the day has this violation; none if it does not have it."""
    outcome = _judge(day, book)
    record = outcome.record
    violation = next((one for one in outcome.violations if one.id == violation_id), None)
    if record is None or violation is None:
        return None
    concerned = [
        (want, slot)
        for want, slot in zip(expectations(day)[1], record.slots, strict=True)
        if not violation.segment or slot.segment == violation.segment
    ]
    thresholds: dict[str, dict[str, object]] = {
        "rule": _rule_options(book, day.work_date, violation.rule),
        "policy": structs.asdict(day.policy),
    }
    for want, _ in concerned:
        thresholds[f"segment {want.rule.name}"] = structs.asdict(want.rule)
    since = min((want.first for want, _ in concerned), default=day.midnight)
    until = max((want.last for want, _ in concerned), default=day.next_midnight)
    return Explanation(
        violation,
        violation.rule,
        record.rule_version,
        thresholds,
        tuple(slot for _, slot in concerned),
        day.kind,
        tuple(span for span in day.absences if span.starts <= until and span.ends >= since),
        tuple(_readings(day, record, since, until)),
        tuple(_terminals(day, concerned)),
        tuple(_would_change(day, book, outcome, violation, concerned)),
        day.as_of,
    )


def _rule_options(book: Rulebook, day: date, name: str) -> dict[str, object]:
    for rule in book.person_rules(day):
        if type(rule).__module__.rpartition(".")[2] == name:
            if dataclasses.is_dataclass(rule) and not isinstance(rule, type):
                return dataclasses.asdict(rule)
            if isinstance(rule, Struct):
                return structs.asdict(rule)
    return {}


def _readings(
    day: PersonDay, record: DayRecord, since: Instant, until: Instant
) -> Iterator[ReadingUse]:
    uses: dict[str, str] = {}
    for slot in record.slots:
        for index, one in enumerate(slot.evidence):
            first = index == 0 and slot.event_time is not None
            uses[one] = slot.slot if first else "beside"
    for punch in day.punches:
        if not (punch.event_at >= since and (punch.earliest or punch.event_at) <= until):
            continue
        one = punch.reading_id.hex()
        use = "untrusted" if punch.trust == 3 else uses.get(one, "stray")
        yield ReadingUse(
            one,
            punch.device,
            punch.device_at,
            punch.event_at,
            TRUST[punch.trust],
            punch.source,
            use,
        )
    for seen in day.evidence:
        if since <= seen.at <= until:
            yield ReadingUse(
                seen.reading_id.hex(), seen.sensor, seen.at, seen.at, TRUST[0], seen.kind, "seen"
            )


def _terminals(day: PersonDay, concerned: list[tuple[Expected, Slot]]) -> Iterator[TerminalState]:
    for want, slot in concerned:
        starts, ends = want.good_from, min(want.good_until, day.as_of)
        if starts > ends:
            continue
        for path in usable_paths(day):
            yield TerminalState(
                path.device,
                slot.segment,
                slot.slot,
                starts,
                ends,
                path_state((path,), starts, ends, day.policy),
                tuple(working(path, starts, ends, day.policy)),
                path.complete_until,
            )


class _Trial(NamedTuple):
    kind: str
    zh: str
    en: str
    day: PersonDay


def _would_change(
    day: PersonDay,
    book: Rulebook,
    outcome: Outcome,
    violation: Violation,
    concerned: list[tuple[Expected, Slot]],
) -> Iterator[WouldChange]:
    """The changes of one fact, or of one in each slot, after which the violation is gone or costs
    less: each is tried."""
    before = {(one.id, one.points) for one in outcome.violations}
    accused = [
        (want, slot)
        for want, slot in concerned
        if slot.verdict not in ("ok", "pending", "unverified")
        and (violation.rule != "missing_punch" or slot.verdict == "missing_punch")
    ]
    for trial in _trials(day, accused):
        after = _judge(trial.day, book).violations
        same = next((one for one in after if one.id == violation.id), None)
        if same is not None and same.points >= violation.points:
            continue
        instead = tuple(one.title for one in after if (one.id, one.points) not in before)
        yield WouldChange(trial.kind, trial.zh, trial.en, instead)


def _trials(day: PersonDay, accused: list[tuple[Expected, Slot]]) -> Iterator[_Trial]:
    for want, slot in accused:
        yield _punch_trial(day, [(want, slot)])
    if len(accused) > 1:
        yield _punch_trial(day, accused)
    for want, slot in accused:
        if slot.minutes:
            span = slot.minutes * MINUTE
            starts = want.target if want.arrives else want.target - span
            yield _leave_trial(day, [(starts, starts + span)])
    segments = {slot.segment for _, slot in accused}
    whole = [(one.starts, one.ends) for one in day.segments if one.rule.name in segments]
    for part in whole:
        yield _leave_trial(day, [part])
    if len(whole) > 1:
        yield _leave_trial(day, whole)
    for want, _ in accused:
        yield _outage_trial(day, [want])
    if len(accused) > 1:
        yield _outage_trial(day, [want for want, _ in accused])
    for want, slot in accused:
        if slot.minutes and slot.source == "terminal":
            yield _clock_trial(day, want, slot)
    for segment in day.segments:
        mine = [slot for _, slot in accused if slot.segment == segment.rule.name]
        if len(mine) > 1 and all(slot.verdict == "missing_punch" for slot in mine):
            tickets = day.policy.contested_tickets
            at = (segment.starts + segment.ends) // 2
            seen = tuple(Evidence(at, "ticket_called", "", b"") for _ in range(tickets))
            name = segment_name(segment.rule.name)
            told = f"{clock(day, segment.starts)}–{clock(day, segment.ends)}"
            yield _Trial(
                "evidence",
                f"本人在 {told}（{name}）叫号 {tickets} 次以上（则为存疑）",
                f"{tickets} or more tickets called by the person in {told} (then contested)",
                structs.replace(day, evidence=(*day.evidence, *seen)),
            )


def _punch_trial(day: PersonDay, slots: list[tuple[Expected, Slot]]) -> _Trial:
    added: list[SeenPunch] = []
    spans: list[str] = []
    for want, _ in slots:
        name = stable_id(want.kind, want.target).encode()
        added.append(SeenPunch(want.target, want.target, "", name))
        spans.append(f"{clock(day, want.good_from)}–{clock(day, want.good_until)}")
    punches = sorted((*day.punches, *added), key=lambda punch: (punch.event_at, punch.reading_id))
    many = len(slots) > 1
    return _Trial(
        "punch",
        f"在 {'、'.join(spans)} 之间{'各' if many else ''}有一次打卡",
        f"{'punches' if many else 'a punch'} between {' and between '.join(spans)}",
        structs.replace(day, punches=tuple(punches)),
    )


def _leave_trial(day: PersonDay, spans: list[tuple[Instant, Instant]]) -> _Trial:
    added = tuple(AbsenceSpan("", "personal", starts, ends) for starts, ends in spans)
    told = [f"{clock(day, starts)}–{clock(day, ends)}" for starts, ends in spans]
    return _Trial(
        "leave",
        f"有经批准的请假或外出覆盖 {'、'.join(told)}",
        f"approved leave or outing covering {' and '.join(told)}",
        structs.replace(day, absences=(*day.absences, *added)),
    )


def _outage_trial(day: PersonDay, slots: list[Expected]) -> _Trial:
    broken = tuple((want.good_from, want.good_until + 1) for want in slots)
    told = [f"{clock(day, want.good_from)}–{clock(day, want.good_until)}" for want in slots]
    paths = tuple(structs.replace(path, unusable=(*path.unusable, *broken)) for path in day.paths)
    return _Trial(
        "outage",
        f"{'、'.join(told)} 期间所有考勤机均不可用（则为待核实）",
        f"an outage of all terminals during {' and '.join(told)} (then unverified)",
        structs.replace(day, paths=paths),
    )


def _clock_trial(day: PersonDay, want: Expected, slot: Slot) -> _Trial:
    shift = slot.minutes * MINUTE * (-1 if want.arrives else 1)
    used = slot.evidence[0]
    punches = [
        structs.replace(punch, event_at=punch.event_at + shift, device_at=punch.device_at + shift)
        if punch.reading_id.hex() == used
        else punch
        for punch in day.punches
    ]
    punches.sort(key=lambda punch: (punch.event_at, punch.reading_id))
    fast = want.arrives
    return _Trial(
        "clock",
        f"考勤机 {slot.device} 的时钟{'快' if fast else '慢'} {slot.minutes} 分钟以上",
        f"the clock of {slot.device} being {slot.minutes} min or more {'fast' if fast else 'slow'}",
        structs.replace(day, punches=tuple(punches)),
    )


# --------------------------------------------------------------------------------------------
# Why: a post's day
# --------------------------------------------------------------------------------------------


class PostReading(Struct, frozen=True):
    """A reading near the vacancy, and what it says: ``occupied still empty learning unknown``, a
    queue event's name or ``punch``."""

    reading_id: str
    device: str
    at: Instant
    says: str


class PostExplanation(Struct, frozen=True):
    """Why there is a violation at a post."""

    violation: Violation
    rule: str
    rule_version: str
    thresholds: dict[str, dict[str, object]]
    """``rule``: its options; ``presence``: the hall's choices about posts."""
    vacancies: tuple[Vacancy, ...]
    hours: tuple[Hours, ...]
    duties: tuple[Duty, ...]
    readings: tuple[PostReading, ...]
    would_change: tuple[WouldChange, ...]
    as_of: Instant


def explain_post(day: PostDay, book: Rulebook, violation_id: str) -> PostExplanation | None:
    """Why the post's day has this violation; none if it does not have it."""
    rules = book.post_rules(day.counter.work_date)
    post = follow_post(day)
    outcome = judge_post(day, post, rules)
    violation = next((one for one in outcome.violations if one.id == violation_id), None)
    if violation is None:
        return None
    rule = next(one for one in rules if type(one).__module__.rpartition(".")[2] == violation.rule)
    concerned = tuple(
        one
        for one in post.vacancies
        if one.began_at <= violation.until and one.parts[-1][1] >= violation.since
    )
    return PostExplanation(
        violation=violation,
        rule=violation.rule,
        rule_version=stable_id("rules", repr(rule))[:12],
        thresholds={
            "rule": structs.asdict(cast(Struct, rule)),
            "presence": structs.asdict(day.policy),
        },
        vacancies=concerned,
        hours=day.hours,
        duties=tuple(
            one
            for one in day.duties
            if one.starts <= violation.until and one.ends >= violation.since
        ),
        readings=tuple(_post_readings(day, violation)),
        would_change=tuple(_post_would_change(day, rules, violation, concerned)),
        as_of=day.counter.as_of,
    )


def _post_readings(day: PostDay, violation: Violation) -> Iterator[PostReading]:
    since, until = violation.since - 10 * MINUTE, violation.until + 10 * MINUTE
    window = day.counter.window.id
    found = [
        PostReading(one.reading_id.hex(), one.device, one.at, one.body.state)
        for one in day.seats
        if since <= one.at <= until or one.reading_id.hex() in violation.evidence
    ]
    found += [
        PostReading(one.reading_id.hex(), one.device, one.at, one.body.event)
        for one in day.counter.events
        if one.body.window == window and since <= one.at <= until
    ]
    found += [
        PostReading(one.reading_id.hex(), "", one.at, "punch")
        for one in day.punches
        if since <= one.at <= until and one.person == violation.person
    ]
    yield from sorted(found, key=lambda one: (one.at, one.reading_id))


def _post_would_change(
    day: PostDay, rules: Sequence[PostRule], violation: Violation, vacancies: Sequence[Vacancy]
) -> Iterator[WouldChange]:
    before = {(one.id, one.points) for one in judge_post(day, follow_post(day), rules).violations}
    for kind, zh, en, changed in _post_trials(day, violation, vacancies):
        after = judge_post(changed, follow_post(changed), rules).violations
        same = next((one for one in after if one.id == violation.id), None)
        if same is not None and same.points >= violation.points:
            continue
        instead = tuple(one.title for one in after if (one.id, one.points) not in before)
        yield WouldChange(kind, zh, en, instead)


def _post_trials(
    day: PostDay, violation: Violation, vacancies: Sequence[Vacancy]
) -> Iterator[tuple[str, str, str, PostDay]]:
    since = min(one.began_at for one in vacancies)
    until = max(one.parts[-1][1] for one in vacancies)
    duties = tuple(
        part
        for one in day.duties
        for part in (
            (one,)
            if one.person != violation.person
            else (
                structs.replace(one, ends=min(one.ends, since)),
                structs.replace(one, starts=max(one.starts, until)),
            )
        )
        if part.starts < part.ends
    )
    yield (
        "leave",
        "期间有经批准的请假或外出",
        "approved leave or outing over it",
        structs.replace(day, duties=duties),
    )
    dark = tuple(
        structs.replace(
            one,
            up=tuple(
                part
                for starts, ends in one.up
                for part in ((starts, min(ends, since)), (max(starts, until), ends))
                if part[0] < part[1]
            ),
        )
        for one in day.sensors
    )
    yield (
        "outage",
        "期间摄像机不可用（则为未知）",
        "the camera being out of order meanwhile (then unknown)",
        structs.replace(day, sensors=dark),
    )
    reviews = tuple(
        SeenReview(
            day.counter.as_of, day.counter.as_of, "", b"",
            PostReview(day.counter.window.id, day.counter.work_date, one.id, "dismissed", ""),
        )
        for one in vacancies
    )  # fmt: skip
    yield (
        "review",
        "经人工核查不属实",
        "a person who looked and dismissed it",
        structs.replace(day, reviews=(*day.reviews, *reviews)),
    )
    middle = (since + until) // 2
    call = QueueEvent("", "called", window=day.counter.window.id, ticket="?", source="bus")
    events = (*day.counter.events, SeenEvent(middle, middle, "", b"", call))
    yield (
        "call",
        "期间本窗口叫过号",
        "a ticket called at the window meanwhile",
        structs.replace(day, counter=structs.replace(day.counter, events=events)),
    )
