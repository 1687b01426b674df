"""The attendance day: from punches and absences to slots, half-days and the day's record.

A segment expects a punch at its start (``on``) and at its end (``off``); an outing inside it that
must be punched adds ``out`` and ``back``.  Approved absences move these targets or excuse the whole
segment.  The punches are then given to the slots so that as few slots as possible stay empty, the
deviations are as mild and as short as possible, and nothing depends on the order of arrival.

What could not be seen is never held against anybody: while no terminal worked, or where a punch of
unknown time may fill the slot, an accusing verdict becomes ``unverified``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import ge

from msgspec import Struct, structs

from rules.model import (
    DAY,
    MINUTE,
    AbsenceSpan,
    DayRecord,
    DevicePath,
    Evidence,
    HalfDay,
    Instant,
    PersonDay,
    Policy,
    SeenPunch,
    Segment,
    SegmentRule,
    Slot,
    merge_intervals,
)
from rules.paths import explained, in_contact, log_gap_explained, path_state, usable_paths
from rules.workdays import is_duty

ON_DUTY_KINDS = frozenset(
    (
        "outing",
        "official",
        "field_visit",
        "site_survey",
        "meeting",
        "training",
        "bureau_errand",
        "group_exemption",
    )
)
"""Absences that count as attended: on duty away from the window, or excused for a common cause."""

FINALITY = ("pending", "provisional", "final", "locked")

_SEVERITY_OF = {
    "ok": 0,
    "late": 1,
    "early_leave": 1,
    "serious_late": 2,
    "serious_early_leave": 2,
    "absent_class": 3,
}
_NOMINAL_POINTS = {
    "late": 1,
    "early_leave": 1,
    "serious_late": 2,
    "serious_early_leave": 2,
    "missing_on": 2,
    "missing_off": 2,
    "missing_out": 2,
    "missing_back": 2,
}
"""What findings usually cost, to tell the milder of two readings of the same day."""

_NOT_ACCUSING = frozenset(("ok", "pending", "unverified"))
_UNSEEN = frozenset(("missing_punch", "unverified"))
_UNDECIDED = frozenset(("unverified", "absent_half_contested"))
_TRUST_FLAGS = ((), ("clock_corrected",), ("received_time",), ())
_OUT_OPENS = 30 * MINUTE
_BACK_CLOSES = 60 * MINUTE


class Expected(Struct, frozen=True, gc=False):
    """A slot before any punch was looked at.

    A punch may fill it from ``first`` to ``last``, both inclusive; ``good_from`` to ``good_until``
    is the span in which a good punch could be made.
    """

    kind: str
    index: int
    rule: SegmentRule
    target: Instant
    opens: Instant
    closes: Instant
    first: Instant
    last: Instant
    good_from: Instant
    good_until: Instant
    absence_ref: str = ""

    @property
    def arrives(self) -> bool:
        return self.kind == "on" or self.kind == "back"


class Stretch(Struct, frozen=True):
    """A segment after absences: what is still due, or the absence that excuses it.

    ``group``: segments of one group have one ``on`` slot in the first and one ``off`` slot in the
    last of them.
    """

    segment: Segment
    starts: Instant
    ends: Instant
    group: int
    excused_as: str = ""
    minutes_due: int = 0
    leave_minutes: int = 0


class _Interval(Struct, frozen=True):
    starts: Instant
    ends: Instant
    spans: tuple[AbsenceSpan, ...]

    @property
    def ref(self) -> str:
        return ",".join(dict.fromkeys(span.absence_id for span in self.spans))


def _merged(absences: Sequence[AbsenceSpan]) -> list[_Interval]:
    merged: list[_Interval] = []
    for span in sorted(absences, key=lambda span: (span.starts, span.ends, span.absence_id)):
        if span.starts >= span.ends:
            continue
        if merged and span.starts <= merged[-1].ends:
            last = merged[-1]
            merged[-1] = _Interval(last.starts, max(last.ends, span.ends), (*last.spans, span))
        else:
            merged.append(_Interval(span.starts, span.ends, (span,)))
    return merged


def _overlap(starts: Instant, ends: Instant, spans: Sequence[tuple[Instant, Instant]]) -> int:
    return sum(max(0, min(ends, b) - max(starts, a)) for a, b in spans)


def _main_kind(segment: Segment, absences: Sequence[AbsenceSpan]) -> str:
    """The kind of the absence that covers most of the segment."""
    best = max(
        absences,
        key=lambda span: (
            min(span.ends, segment.ends) - max(span.starts, segment.starts),
            -span.starts,
            span.absence_id,
        ),
    )
    return best.kind


# --------------------------------------------------------------------------------------------
# What is expected
# --------------------------------------------------------------------------------------------


def expectations(day: PersonDay) -> tuple[list[Stretch], list[Expected]]:
    """The day's segments after absences, and the slots they require in order of time."""
    intervals = _merged(day.absences) if day.absences else []
    stretches: list[Stretch] = []
    refs: list[tuple[str, str]] = []
    inner: list[list[_Interval]] = []
    group = -1
    open_group = False
    previous: Stretch | None = None
    for segment in day.segments:
        rule = segment.rule
        starts, ends = segment.starts, segment.ends
        on_ref = off_ref = ""
        inside: list[_Interval] = []
        leave = 0
        due = ends - starts
        if intervals:
            for interval in intervals:
                if interval.starts <= starts < interval.ends:
                    starts, on_ref = interval.ends, interval.ref
            for interval in reversed(intervals):
                if interval.starts < ends <= interval.ends:
                    ends, off_ref = interval.starts, interval.ref
            if ends - starts < rule.residual * MINUTE:
                kind = _main_kind(segment, day.absences)
                stretches.append(Stretch(segment, starts, ends, -1, kind))
                refs.append(("", ""))
                inner.append(inside)
                open_group = False
                continue
            inside = [one for one in intervals if starts < one.starts and one.ends < ends]
            due = ends - starts - _overlap(starts, ends, [(i.starts, i.ends) for i in inside])
            leave = _leave_minutes(segment, intervals, day.absences)
        joins = (
            open_group
            and previous is not None
            and previous.ends == starts
            and (day.policy.single_lunch_punch or is_duty(previous.segment.rule) or is_duty(rule))
        )
        if not joins:
            group += 1
        previous = Stretch(segment, starts, ends, group, "", due // MINUTE, leave)
        open_group = True
        stretches.append(previous)
        refs.append((on_ref, off_ref))
        inner.append(inside)
    return stretches, _slots_expected(stretches, refs, inner)


def _leave_minutes(
    segment: Segment, intervals: Sequence[_Interval], absences: Sequence[AbsenceSpan]
) -> int:
    """Minutes of the segment on leave; time on duty elsewhere is not leave."""
    away = _overlap(segment.starts, segment.ends, [(one.starts, one.ends) for one in intervals])
    duty = merge_intervals((a.starts, a.ends) for a in absences if a.kind in ON_DUTY_KINDS)
    return (away - _overlap(segment.starts, segment.ends, duty)) // MINUTE


def _slots_expected(
    stretches: Sequence[Stretch],
    refs: Sequence[tuple[str, str]],
    inner: Sequence[Sequence[_Interval]],
) -> list[Expected]:
    expected: list[Expected] = []
    count = len(stretches)
    begins = ends = 0
    for index, stretch in enumerate(stretches):
        group = stretch.group
        if group < 0:
            continue
        rule = stretch.segment.rule
        grace = rule.grace * MINUTE
        first_of_group = index == 0 or stretches[index - 1].group != group
        if first_of_group:
            begins = stretch.starts
            last = index
            while last + 1 < count and stretches[last + 1].group == group:
                last += 1
            ends = stretches[last].ends
            opens, closes, latest = begins - rule.open_before * MINUTE, ends, ends - 1
            if rule.accept_on is not None and begins == stretch.segment.starts:
                opens = begins + (rule.accept_on[0] - rule.starts) * MINUTE
                closes = latest = begins + (rule.accept_on[1] - rule.starts) * MINUTE
            expected.append(
                Expected(
                    kind="on",
                    index=index,
                    rule=rule,
                    target=begins,
                    opens=opens,
                    closes=closes,
                    first=opens,
                    last=latest,
                    good_from=opens,
                    good_until=begins + grace,
                    absence_ref=refs[index][0],
                )
            )
        for away in inner[index]:
            if not any(span.punch_required for span in away.spans):
                continue
            opens = away.starts - _OUT_OPENS
            expected.append(
                Expected(
                    kind="out",
                    index=index,
                    rule=rule,
                    target=away.starts,
                    opens=opens,
                    closes=away.ends,
                    first=opens,
                    last=away.ends - 1,
                    good_from=away.starts - grace,
                    good_until=away.ends,
                    absence_ref=away.ref,
                )
            )
            closes = away.ends + _BACK_CLOSES
            expected.append(
                Expected(
                    kind="back",
                    index=index,
                    rule=rule,
                    target=away.ends,
                    opens=away.starts,
                    closes=closes,
                    first=away.starts + 1,
                    last=closes,
                    good_from=away.starts,
                    good_until=away.ends + grace,
                    absence_ref=away.ref,
                )
            )
        if index + 1 == count or stretches[index + 1].group != group:
            opens, closes, earliest = begins, ends + rule.close_after * MINUTE, begins + 1
            if rule.accept_off is not None and ends == stretch.segment.ends:
                opens = earliest = ends + (rule.accept_off[0] - rule.ends) * MINUTE
                closes = ends + (rule.accept_off[1] - rule.ends) * MINUTE
            expected.append(
                Expected(
                    kind="off",
                    index=index,
                    rule=rule,
                    target=ends,
                    opens=opens,
                    closes=closes,
                    first=earliest,
                    last=closes,
                    good_from=ends - grace,
                    good_until=closes,
                    absence_ref=refs[index][1],
                )
            )
    return expected


# --------------------------------------------------------------------------------------------
# Which punch fills which slot
# --------------------------------------------------------------------------------------------


def deviation(expected: Expected, at: Instant, seconds_matter: bool) -> int:
    """Whole minutes late (``on``, ``back``) or early (``off``, ``out``); part of a minute is
    nothing, or a minute where seconds matter."""
    late = at - expected.target if expected.arrives else expected.target - at
    if late <= 0:
        return 0
    return -(-late // MINUTE) if seconds_matter else late // MINUTE


def slot_verdict(expected: Expected, minutes: int) -> str:
    rule = expected.rule
    if minutes <= rule.grace:
        return "ok"
    if minutes >= rule.absent:
        return "absent_class"
    if minutes >= rule.serious:
        return "serious_late" if expected.arrives else "serious_early_leave"
    return "late" if expected.arrives else "early_leave"


def assign(expected: Sequence[Expected], times: Sequence[Instant], policy: Policy) -> list[int]:
    """For each slot the index of its punch in the sorted ``times``, or -1.

    Two punches used are the segment's ``min_gap`` apart, and never of one cluster.  Among all
    choices in order this is the least of: slots left empty, severities, minutes of violations;
    then slot by slot: filled, ``on`` and ``back`` by the earliest punch, ``off`` and ``out`` by the
    latest.  On most days the best punch of each slot taken alone is that choice already.
    """
    picks: list[int] = []
    count = len(times)
    free_from = -(1 << 62)
    for want in expected:
        if want.arrives:
            index = bisect_left(times, want.first)
            found = index < count and times[index] <= want.last
        else:
            index = bisect_right(times, want.last) - 1
            found = index >= 0 and times[index] >= want.first
        if not found:
            picks.append(-1)
            continue
        if times[index] < free_from:
            return _assign_all(expected, times, policy)
        free_from = times[index] + _gap(want.rule, policy)
        picks.append(index)
    return picks


def _gap(rule: SegmentRule, policy: Policy) -> int:
    return max(rule.min_gap * MINUTE, policy.cluster_seconds * 1000 + 1)


_Choice = tuple[int, int, int, tuple[tuple[int, int], ...], tuple[int, ...]]
"""Empty slots, severities, minutes, preference of each slot, index for each slot."""


def _assign_all(
    expected: Sequence[Expected], times: Sequence[Instant], policy: Policy
) -> list[int]:
    """``assign`` by dynamic programming over (slot, first punch still free), from the end."""
    low = bisect_left(times, min(want.first for want in expected))
    high = bisect_right(times, max(want.last for want in expected))
    nothing: _Choice = (0, 0, 0, (), ())
    later: list[_Choice] = [nothing] * (high - low + 1)
    for want in reversed(expected):
        gap = _gap(want.rule, policy)
        here: list[_Choice] = [nothing] * (high - low + 1)
        best: _Choice | None = None
        for free in range(high, low - 1, -1):
            if free < high and want.first <= times[free] <= want.last:
                at = times[free]
                rest = later[bisect_left(times, at + gap, free + 1, high) - low]
                minutes = deviation(want, at, policy.seconds_matter)
                severity = _SEVERITY_OF[slot_verdict(want, minutes)]
                taken = (
                    rest[0],
                    rest[1] + severity,
                    rest[2] + (minutes if severity else 0),
                    ((0, at if want.arrives else -at), *rest[3]),
                    (free, *rest[4]),
                )
                if best is None or taken < best:
                    best = taken
            rest = later[free - low]
            empty = (rest[0] + 1, rest[1], rest[2], ((1, 0), *rest[3]), (-1, *rest[4]))
            here[free - low] = empty if best is None or empty < best else best
        later = here
    return list(later[0][4])


# --------------------------------------------------------------------------------------------
# The record
# --------------------------------------------------------------------------------------------


def is_eligible(day: PersonDay) -> bool:
    """Whether the person is to be judged on this date at all."""
    person = day.person
    if not person.attendance_required:
        return False
    if not person.employed:
        return True
    on = day.work_date
    return any(first <= on and (last is None or on <= last) for first, last in person.employed)


def judge_attendance(day: PersonDay, rule_version: str = "") -> DayRecord:
    """The person's record of the date as far as it is known at ``day.as_of``.

    Where a terminal's clock was off and has been corrected, the day is judged by both times and the
    milder record holds; ``favoured`` tells that they differed.
    """
    return assess(day, rule_version)[0]


def assess(day: PersonDay, rule_version: str = "") -> tuple[DayRecord, Instant | None]:
    """The record, and the next instant at which it can change though no reading comes."""
    trusted, hidden, corrected = _sorted_out(day.punches)
    times = [punch.event_at for punch in trusted]
    stretches, expected = expectations(day)
    record = _record(day, rule_version, stretches, expected, trusted, times, hidden)
    if corrected and expected:

        def told(by_device: Callable[[SeenPunch], bool]) -> DayRecord:
            """The day with some of the corrected punches as the terminal dated them."""
            dated = sorted(
                (punch.device_at if by_device(punch) else punch.event_at, punch.reading_id, punch)
                for punch in trusted
            )
            return _record(
                day,
                rule_version,
                stretches,
                expected,
                [punch for _, _, punch in dated],
                [at for at, _, _ in dated],
                hidden,
            )

        other = told(lambda punch: punch.trust == 1)
        if _verdicts(record) != _verdicts(other):
            # Each slot by its own milder time: a clock that helps one punch must not spoil another.
            better = {
                new.evidence[0]
                for old, new in zip(record.slots, other.slots, strict=True)
                if new.evidence[:1] == old.evidence[:1] != () and _harm(new) < _harm(old)
            }
            mixed = told(lambda punch: punch.trust == 1 and punch.reading_id.hex() in better)
            record = structs.replace(min(mixed, record, other, key=_mildness), favoured=True)
    return record, _changes_by_time(day, expected, record)


def _sorted_out(
    punches: Sequence[SeenPunch],
) -> tuple[Sequence[SeenPunch], Sequence[SeenPunch], bool]:
    """In order and without repeats: punches that may fill a slot, punches of unknown time, and
    whether a clock was corrected."""
    keys = [(punch.event_at, punch.reading_id) for punch in punches]
    if any(map(ge, keys, keys[1:])):
        unique = {punch.reading_id: punch for punch in punches}
        punches = sorted(unique.values(), key=lambda punch: (punch.event_at, punch.reading_id))
    trusts = {punch.trust for punch in punches}
    if 3 not in trusts:
        return punches, (), 1 in trusts
    return (
        [punch for punch in punches if punch.trust != 3],
        [punch for punch in punches if punch.trust == 3],
        1 in trusts,
    )


def _verdicts(record: DayRecord) -> tuple[object, ...]:
    return (
        tuple(slot.verdict for slot in record.slots),
        tuple(half.verdict for half in record.halves),
    )


def _harm(slot: Slot) -> tuple[int, int]:
    return _SEVERITY_OF.get(slot.verdict, 0), slot.minutes


def _mildness(record: DayRecord) -> tuple[int, int, int, int]:
    points = 0
    for half in record.halves:
        if half.verdict == "absent_half":
            points += 5
        points += sum(_NOMINAL_POINTS[finding] for finding in half.findings)
    empty = sum(slot.event_time is None for slot in record.slots)
    severity = sum(_SEVERITY_OF.get(slot.verdict, 0) for slot in record.slots)
    return points, empty, severity, sum(slot.minutes for slot in record.slots)


class _Judged(Struct, gc=False):
    """A slot with its punch, if it has one, and what that means.  ``final`` indexes ``FINALITY``;
    ``doubts`` are the punches of unknown time that may belong here."""

    want: Expected
    pick: int
    at: Instant | None
    verdict: str
    minutes: int
    path: str
    flags: tuple[str, ...]
    final: int
    doubts: tuple[SeenPunch, ...]


def _record(
    day: PersonDay,
    rule_version: str,
    stretches: Sequence[Stretch],
    expected: Sequence[Expected],
    punches: Sequence[SeenPunch],
    times: Sequence[Instant],
    hidden: Sequence[SeenPunch],
) -> DayRecord:
    settled = _Settled(day)
    paths = usable_paths(day)
    judged = [
        _judge_slot(day, want, pick, punches, times, hidden, paths, settled)
        for want, pick in zip(expected, _picks(day, expected, times), strict=True)
    ]
    halves = _halves(day, stretches, judged, paths, settled)
    mates, strays = _unused(day, judged, punches, times)
    slots: list[Slot] = []
    for one in judged:
        want = one.want
        device = source = ""
        evidence: tuple[str, ...] = ()
        if one.at is not None:
            punch = punches[one.pick]
            device, source = punch.device, punch.source
            evidence = (punch.reading_id.hex(), *mates.get(one.pick, ()))
        if one.doubts:
            evidence += tuple(punch.reading_id.hex() for punch in one.doubts)
        final = one.final
        if final > 1 and halves[want.index].verdict in _UNDECIDED:
            final = 1
        slots.append(
            Slot(
                want.rule.name,
                want.kind,
                want.target,
                want.opens,
                want.closes,
                one.at,
                one.verdict,
                one.minutes,
                FINALITY[final],
                device,
                source,
                one.path,
                one.flags,
                want.absence_ref,
                evidence,
            )
        )
    verdict, attended, weight = _day_verdict(day, stretches, halves)
    kind = day.kind
    if halves:
        finality = min([half.finality for half in halves], key=FINALITY.index)
    else:
        finality = FINALITY[settled.by(day.next_midnight)]
    return DayRecord(
        day.person.code,
        day.person.unit,
        day.work_date,
        kind.kind,
        f"{kind.source}:{kind.name}" if kind.name else kind.source,
        verdict,
        attended,
        weight,
        tuple(halves),
        tuple(slots),
        strays,
        finality,
        False,
        rule_version,
    )


def _picks(day: PersonDay, expected: Sequence[Expected], times: Sequence[Instant]) -> list[int]:
    """Leaving can be judged only when its time has come; arriving as soon as it happened."""
    if not times or not expected:
        return [-1] * len(expected)
    due = [want for want in expected if want.arrives or want.target <= day.as_of]
    picks = assign(due, times, day.policy)
    if len(due) < len(expected):
        for place, want in enumerate(expected):
            if not want.arrives and want.target > day.as_of:
                picks.insert(place, -1)
    return picks


def _judge_slot(
    day: PersonDay,
    want: Expected,
    pick: int,
    punches: Sequence[SeenPunch],
    times: Sequence[Instant],
    hidden: Sequence[SeenPunch],
    paths: Sequence[DevicePath],
    settled: _Settled,
) -> _Judged:
    policy = day.policy
    span_ends = want.good_until if want.good_until < day.as_of else day.as_of
    path = "up"
    if want.good_from <= day.as_of:
        path = path_state(paths, want.good_from, span_ends, policy)
    final = settled.by(want.closes)
    if pick < 0:
        verdict = "missing_punch" if final else "pending"
        # While a slot is pending its path changes by the minute and decides nothing.
        told = path if final else ""
        judged = _Judged(want, pick, None, verdict, 0, told, (), final, ())
    else:
        minutes = deviation(want, times[pick], policy.seconds_matter)
        verdict = slot_verdict(want, minutes)
        flags = _TRUST_FLAGS[punches[pick].trust]
        judged = _Judged(want, pick, times[pick], verdict, minutes, path, flags, final, ())
    if verdict in _NOT_ACCUSING:
        return judged
    starts = want.good_from
    if pick >= 0:
        # Up to a minute beyond the target costs nothing, and whoever came a little late may have
        # had to wait for the terminal: an outage there makes the deviation doubtful, too.
        starts = min(starts - MINUTE + 1, times[pick]) if not want.arrives else starts
        span_ends = max(span_ends + MINUTE - 1, times[pick]) if want.arrives else span_ends
        if path == "up" and path_state(paths, starts, span_ends, policy) != "up":
            judged.path = path = "partial"
    if hidden:
        judged.doubts = tuple(
            one for one in hidden if one.earliest <= want.last and one.event_at >= want.first
        )
    if judged.doubts:
        judged.verdict = "unverified"
        judged.flags += ("clock_untrusted",)
    elif path == "down":
        judged.verdict = "unverified"
    if path == "partial":
        judged.flags += ("outage_overlap",)
        if final > 1 and not explained(paths, starts, span_ends, policy):
            judged.final = 1
    return judged


def _unused(
    day: PersonDay,
    judged: Sequence[_Judged],
    punches: Sequence[SeenPunch],
    times: Sequence[Instant],
) -> tuple[dict[int, list[str]], tuple[str, ...]]:
    """Punches of the same moment as a used one, by its index, and the day's strays: reading ids."""
    used = sorted([one.pick for one in judged if one.pick >= 0])
    used_times = [times[pick] for pick in used]
    low, high = day.midnight, day.next_midnight
    if judged:
        low = min(low, judged[0].want.first)
        high = max(high, judged[-1].want.last + 1)
    cluster = day.policy.cluster_seconds * 1000
    mates: dict[int, list[str]] = {}
    strays: list[str] = []
    for index in range(bisect_left(times, low), bisect_left(times, high)):
        if index in used:
            continue
        name = punches[index].reading_id.hex()
        near = bisect_left(used_times, times[index] - cluster)
        if near < len(used) and used_times[near] - times[index] <= cluster:
            mates.setdefault(used[near], []).append(name)
        else:
            strays.append(name)
    return mates, tuple(strays)


class _Settled:
    """How far everything about a time of the day is decided."""

    __slots__ = ("_as_of", "_day", "_may_be_final", "_settle", "_watermark")

    def __init__(self, day: PersonDay) -> None:
        self._day = day
        self._as_of = day.as_of
        self._settle = day.policy.settle * MINUTE
        self._may_be_final = day.kind.known and day.as_of >= day.appeal_ends
        self._watermark = min([path.complete_until for path in day.paths], default=day.as_of)

    def by(self, closes: Instant) -> int:
        """Index into ``FINALITY`` of something that closed then."""
        if self._as_of < closes + self._settle:
            return 0
        if not self._may_be_final:
            return 1
        if self._watermark < closes and not (
            self._as_of >= closes + DAY
            and all(log_gap_explained(path, closes) for path in self._day.paths)
        ):
            return 1
        return 3 if self._as_of >= self._day.locks_at else 2


def _halves(
    day: PersonDay,
    stretches: Sequence[Stretch],
    judged: Sequence[_Judged],
    paths: Sequence[DevicePath],
    settled: _Settled,
) -> list[HalfDay]:
    """The verdict of each segment."""
    weights = _weights(stretches)
    halves: list[HalfDay] = []
    for index, stretch in enumerate(stretches):
        name = stretch.segment.rule.name
        if stretch.group < 0:
            final = settled.by(stretch.segment.ends)
            kind = stretch.excused_as
            halves.append(HalfDay(name, "excused", (), 0, weights[index], kind, FINALITY[final]))
            continue
        group = [one for one in judged if stretches[one.want.index].group == stretch.group]
        on, off = group[0], group[-1]
        own = [one for one in group if one.want.index == index]
        inner = [one for one in own if one is not on and one is not off]
        final = min([one.final for one in (on, off, *inner)])
        live = ""
        if any(one.verdict == "pending" for one in (on, off, *inner)):
            verdict = "pending"
            if on.verdict == "pending" and on.want.index == index:
                live = _live(day, on.want, stretch, paths)
        else:
            on_is, off_is = _standings(stretch, index, on, off)
            verdict = _half_verdict(day.policy, on_is, off_is)
            if on_is == off_is == "missing_punch" and _seen_at_work(day, stretch.segment):
                verdict = "absent_half_contested"
            elif verdict == "present" and any(one.verdict == "absent_class" for one in inner):
                verdict = "absent_half"
        findings: tuple[str, ...] = ()
        if verdict in ("present", "pending"):
            findings = tuple(
                [
                    f"missing_{one.want.kind}" if one.verdict == "missing_punch" else one.verdict
                    for one in own
                    if one.verdict not in _NOT_ACCUSING and one.verdict != "absent_class"
                ]
            )
        elif verdict in _UNDECIDED:
            final = min(final, 1)
        halves.append(
            HalfDay(
                name,
                verdict,
                findings,
                stretch.minutes_due,
                weights[index],
                "",
                FINALITY[final],
                live,
            )
        )
    return halves


def _standings(stretch: Stretch, index: int, on: _Judged, off: _Judged) -> tuple[str, str]:
    """The verdicts of the ``on`` and ``off`` slots as they bear on this segment.

    Nobody punches between segments that share their slots.  So of a later one only arriving after
    its ``absent`` minutes tells anything, and of an earlier one leaving as long before its end; an
    empty slot tells something only together with the other one.
    """
    absent = stretch.segment.rule.absent * MINUTE
    on_is, off_is = on.verdict, off.verdict
    if on.want.index != index:
        if on.at is None or on_is == "unverified":
            on_is = on_is if off.verdict in _UNSEEN else "ok"
        else:
            on_is = "absent_class" if on.at - stretch.starts >= absent else "ok"
    if off.want.index != index:
        if off.at is None or off_is == "unverified":
            off_is = off_is if on.verdict in _UNSEEN else "ok"
        else:
            off_is = "absent_class" if stretch.ends - off.at >= absent else "ok"
    return on_is, off_is


def _half_verdict(policy: Policy, on: str, off: str) -> str:
    if on == "absent_class" or off == "absent_class":
        return "absent_half"
    if on in _UNSEEN and off in _UNSEEN:
        return "absent_half" if on == off == "missing_punch" else "unverified"
    if policy.missing_punch_as == "absent_half" and "missing_punch" in (on, off):
        return "absent_half"
    return "present"


def _seen_at_work(day: PersonDay, segment: Segment) -> bool:
    """Whether enough shows the person at work in the segment to contest an absence."""
    seen: list[Evidence] = [one for one in day.evidence if segment.starts <= one.at <= segment.ends]
    policy = day.policy
    return (
        sum(one.kind == "ticket_called" for one in seen) >= policy.contested_tickets
        or sum(one.kind == "case_closed" for one in seen) >= policy.contested_cases
        or len({one.sensor for one in seen if one.kind == "seen"}) >= policy.contested_sensors
    )


def _live(day: PersonDay, want: Expected, stretch: Stretch, paths: Sequence[DevicePath]) -> str:
    late_from = want.target + (want.rule.grace + 1) * MINUTE
    if not late_from <= day.as_of < stretch.ends:
        return ""
    if not in_contact(paths, want.good_from, want.good_until):
        return "unknown"
    if day.as_of >= want.target + want.rule.absent * MINUTE:
        return "absent_half_provisional"
    return "not_arrived"


def _weights(stretches: Sequence[Stretch]) -> list[float]:
    """A day of more than two segments is divided by their minutes."""
    if len(stretches) <= 2:
        return [stretch.segment.rule.weight for stretch in stretches]
    lengths = [stretch.segment.ends - stretch.segment.starts for stretch in stretches]
    whole = sum(lengths)
    return [length / whole for length in lengths]


def _day_verdict(
    day: PersonDay, stretches: Sequence[Stretch], halves: Sequence[HalfDay]
) -> tuple[str, float, float]:
    """Verdict, attended and expected days."""
    if not halves:
        rest = day.kind.kind in ("rest", "holiday", "closed")
        return ("rest" if rest else "off"), 0.0, 0.0
    attended = weight = 0.0
    standing: set[str] = set()
    for stretch, half in zip(stretches, halves, strict=True):
        weight += half.weight
        verdict = half.verdict
        if verdict == "excused":
            verdict = "present" if half.excused_as in ON_DUTY_KINDS else "leave"
            if verdict == "present":
                attended += half.weight
        elif verdict == "present":
            if stretch.leave_minutes:
                whole = (stretch.segment.ends - stretch.segment.starts) // MINUTE
                attended += half.weight * (whole - stretch.leave_minutes) / whole
            else:
                attended += half.weight
        standing.add(verdict)
    attended = round(attended, 4)
    weight = round(weight, 4)
    if "pending" in standing:
        return "pending", attended, weight
    if "unverified" in standing or "absent_half_contested" in standing:
        return "unverified", attended, weight
    if "absent_half" in standing:
        whole_day = len(standing) == 1 and (len(halves) > 1 or weight >= 1)
        return ("absent_day" if whole_day else "absent"), attended, weight
    if standing == {"leave"}:
        return "leave", attended, weight
    return "present", attended, weight


# --------------------------------------------------------------------------------------------
# When to look again
# --------------------------------------------------------------------------------------------


def _changes_by_time(
    day: PersonDay, expected: Sequence[Expected], record: DayRecord
) -> Instant | None:
    as_of = day.as_of
    settle = day.policy.settle * MINUTE
    moments = [day.appeal_ends, day.locks_at]
    for segment in day.segments:
        moments += (segment.ends + settle, segment.ends + DAY)
    if not day.segments:
        moments += (day.next_midnight + settle, day.next_midnight + DAY)
    reachable: bool | None = None
    for want, slot in zip(expected, record.slots, strict=True):
        moments += (want.closes + settle, want.closes + DAY)
        if not want.arrives:
            moments.append(want.target)
        elif slot.event_time is None:
            moments += (
                want.target + (want.rule.grace + 1) * MINUTE,
                want.target + want.rule.absent * MINUTE,
                want.closes,
            )
        if want.good_from > as_of:
            if reachable is None:
                reachable = in_contact(usable_paths(day), as_of, as_of)
            if not reachable:
                moments.append(want.good_from)
    return min((at for at in moments if at > as_of), default=None)
