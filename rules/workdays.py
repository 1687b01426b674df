"""Workdays and timetables: what kind of day a date is, which segments it has, where it begins.

Everything here is a function of the settings' calendar and timetables.  A *work date* is the local
date on which a segment starts; minutes count from local midnight of that date, so 1560 is 02:00 of
the next day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import Struct, structs

from rules.model import DAY, MINUTE, DayKind, Instant, Segment, SegmentRule

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ONE_DAY = timedelta(days=1)
_MAKEUP_WEEKDAY = 0
_LUNCH_GAP = 15 * MINUTE


class Calendar(Struct, frozen=True):
    """What each date is.  The first source that knows the date decides.

    ``exceptions``: the hall's own exceptions and local notices.  ``official``: the State Council's
    holidays and make-up workdays.  ``years``: the years that ``official`` covers.  ``weekly``: the
    hall's pattern from Monday to Sunday, of ``workday duty_only rest``.  ``as_weekday``: dates that
    follow another weekday's timetable (0 is Monday), for make-up workdays.
    """

    exceptions: dict[date, DayKind] = {}
    official: dict[date, DayKind] = {}
    years: frozenset[int] = frozenset()
    weekly: tuple[str, ...] = ("workday",) * 5 + ("rest",) * 2
    as_weekday: dict[date, int] = {}

    def kind(self, day: date) -> DayKind:
        """The day's kind with its source.

        In a year without an official table the fixed statutory days and the weekly pattern answer,
        and the answer is not ``known``: nothing judged by it may become final.
        """
        kind = self.exceptions.get(day) or self.official.get(day)
        if kind is not None:
            return kind
        known = day.year in self.years
        if not known and _is_fixed_holiday(day):
            return DayKind("holiday", "statutory", "法定节假日", known=False)
        return DayKind(self.weekly[day.weekday()], "weekly", known=known)

    def weekday(self, day: date) -> int:
        """The weekday whose timetable the date follows."""
        given = self.as_weekday.get(day)
        return day.weekday() if given is None else given


def _is_fixed_holiday(day: date) -> bool:
    """New Year, Labour Day (two days since 2025) and National Day; lunar ones need the notice."""
    when = (day.month, day.day)
    if when in ((1, 1), (5, 1), (10, 1), (10, 2), (10, 3)):
        return True
    return when == (5, 2) and day.year >= 2025


class TimetableVersion(Struct, frozen=True):
    """The segments from a date on; ``season`` is ((month, day), (month, day)), both inclusive, and
    may wrap the year's end; ``weekdays`` counts from Monday as 0; none of them means always."""

    effective_from: date
    segments: tuple[SegmentRule, ...]
    season: tuple[tuple[int, int], tuple[int, int]] | None = None
    weekdays: tuple[int, ...] | None = None

    def covers(self, day: date, weekday: int) -> bool:
        if day < self.effective_from:
            return False
        if self.weekdays is not None and weekday not in self.weekdays:
            return False
        if self.season is None:
            return True
        first, last = self.season
        when = (day.month, day.day)
        if first <= last:
            return first <= when <= last
        return when >= first or when <= last


class Timetable(Struct, frozen=True):
    """作息时间: a named list of versions."""

    name: str
    versions: tuple[TimetableVersion, ...]

    def on(self, day: date, weekday: int | None = None) -> tuple[SegmentRule, ...]:
        """The segments in force: of the versions that cover the date the one with the latest
        ``effective_from``, a seasonal or weekday one before a plain one of the same date.

        ``weekday`` is the one to follow (``Calendar.weekday``).  A Saturday or Sunday that no
        version names can only be a make-up workday, and follows Monday's.
        """
        follows = day.weekday() if weekday is None else weekday
        best = self._best(day, follows)
        if best is None and follows >= 5:
            best = self._best(day, _MAKEUP_WEEKDAY)
        return () if best is None else best.segments

    def _best(self, day: date, weekday: int) -> TimetableVersion | None:
        best: TimetableVersion | None = None
        best_rank: tuple[date, int] | None = None
        for version in self.versions:
            if version.covers(day, weekday):
                special = (version.season is not None) + (version.weekdays is not None)
                rank = (version.effective_from, special)
                if best_rank is None or rank >= best_rank:
                    best, best_rank = version, rank
        return best


# --------------------------------------------------------------------------------------------
# Dates to instants and back
# --------------------------------------------------------------------------------------------


def _wall_instant(wall: datetime, zone: ZoneInfo) -> Instant:
    """A wall time that daylight saving skips is taken by the offset before the change, one that it
    repeats is the first of the two."""
    return (wall.replace(tzinfo=zone) - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=4096)
def local_midnight(day: date, zone: ZoneInfo) -> Instant:
    """The instant at which the date begins in the zone."""
    return _wall_instant(datetime(day.year, day.month, day.day), zone)  # noqa: DTZ001


def at_minute(day: date, minute: int, zone: ZoneInfo) -> Instant:
    """The instant at which the clock on the wall shows ``minute`` minutes past midnight of ``day``;
    from 1440 on it is the next day's clock."""
    days, rest = divmod(minute, 1440)
    if days:
        day += timedelta(days=days)
    midnight = local_midnight(day, zone)
    if local_midnight(day + _ONE_DAY, zone) - midnight == DAY:
        return midnight + rest * MINUTE
    wall = datetime(day.year, day.month, day.day, rest // 60, rest % 60)  # noqa: DTZ001
    return _wall_instant(wall, zone)


def local_date(at: Instant, zone: ZoneInfo) -> date:
    """The date on the wall at an instant."""
    return (_EPOCH + timedelta(milliseconds=at)).astimezone(zone).date()


def work_dates(
    event_at: Instant, zone: ZoneInfo, *, before: int = 6 * 60, after: int = 12 * 60
) -> tuple[date, ...]:
    """Every work date whose punches this instant may belong to, in order.

    ``after``: how many minutes past midnight the latest slot of any timetable can close;
    ``before``: how many minutes before midnight the earliest one can open.  ``reach`` tells both
    for given timetables; the defaults allow for duty from evening to morning.
    """
    day = local_date(event_at, zone)
    since = event_at - local_midnight(day, zone)
    left = local_midnight(day + _ONE_DAY, zone) - event_at
    dates = [day]
    if since <= after * MINUTE:
        dates.insert(0, day - _ONE_DAY)
    if left <= before * MINUTE:
        dates.append(day + _ONE_DAY)
    return tuple(dates)


def reach(rules: Sequence[SegmentRule]) -> tuple[int, int]:
    """``(before, after)`` of ``work_dates`` in minutes, 0 where nothing crosses midnight."""
    before = after = -1
    for rule in rules:
        opens = rule.starts - rule.open_before if rule.accept_on is None else rule.accept_on[0]
        closes = rule.ends + rule.close_after if rule.accept_off is None else rule.accept_off[1]
        before = max(before, -opens)
        after = max(after, closes - 1440)
    return max(before, 0), max(after, 0)


# --------------------------------------------------------------------------------------------
# Segments of a date
# --------------------------------------------------------------------------------------------


def is_duty(rule: SegmentRule) -> bool:
    """A segment added by a duty roster is named ``duty`` (merged ones ``am+duty``)."""
    return "duty" in rule.name.split("+")


def segments_of(
    rules: Sequence[SegmentRule], day: date, zone: ZoneInfo, single_lunch_punch: bool = False
) -> tuple[Segment, ...]:
    """The date's segments in order of time.

    A duty segment (named ``duty``) merges with the one it touches, the earlier one if it touches
    two; the merged segment has the tolerances and the weight of the other one.  With
    ``single_lunch_punch`` a break of less than 15 minutes vanishes: the segment before it ends
    where the next one begins, and no punch is expected there.
    """
    merged: list[SegmentRule] = []
    for rule in sorted(rules, key=lambda rule: (rule.starts, rule.ends)):
        if merged and merged[-1].ends == rule.starts:
            last = merged[-1]
            if is_duty(rule) or last.name == "duty":
                base = last if is_duty(rule) else rule
                merged[-1] = structs.replace(
                    base,
                    name=f"{last.name}+{rule.name}",
                    starts=last.starts,
                    ends=rule.ends,
                    accept_on=last.accept_on,
                    accept_off=rule.accept_off,
                )
                continue
        merged.append(rule)
    segments = [
        Segment(rule, at_minute(day, rule.starts, zone), at_minute(day, rule.ends, zone))
        for rule in merged
    ]
    if single_lunch_punch:
        for index in range(len(segments) - 1):
            here, following = segments[index], segments[index + 1]
            if 0 < following.starts - here.ends < _LUNCH_GAP:
                segments[index] = Segment(here.rule, here.starts, following.starts)
    return tuple(segments)


# --------------------------------------------------------------------------------------------
# Deadlines in workdays
# --------------------------------------------------------------------------------------------


def workdays_after(day: date, n: int, calendar: Calendar) -> date:
    """The ``n``-th workday after ``day`` (``n`` from 1; 0 gives ``day`` itself).

    A hall that does not work for 60 days running has its deadlines on plain dates, so that there
    always is one.
    """
    found = 0
    idle = 0
    while found < n:
        day += _ONE_DAY
        if calendar.kind(day).works or idle >= 60:
            found += 1
            idle = 0 if idle < 60 else idle
        else:
            idle += 1
    return day


def appeal_ends(day: date, workdays: int, calendar: Calendar, zone: ZoneInfo) -> Instant:
    """End of the appeal window for facts of a date: the end of the ``workdays``-th workday after
    it."""
    return local_midnight(workdays_after(day, workdays, calendar) + _ONE_DAY, zone)


def month_locks(day: date, workday: int, calendar: Calendar, zone: ZoneInfo) -> Instant:
    """When the date's month is closed: the end of the ``workday``-th workday of the next month."""
    first = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return local_midnight(workdays_after(first - _ONE_DAY, workday, calendar) + _ONE_DAY, zone)
