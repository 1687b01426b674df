"""When a punch happened: the terminal's clock, corrected or doubted.

A terminal's wall clock drifts, jumps, loses its date after a power cut and is shifted by whole
hours when a zone is set wrong.  ``Clock`` keeps what is known of one terminal's clock,
``event_time`` says what that means for a punch.  Only what was known when the punch was received
counts, so the answer never changes afterwards and a replay finds the same.
"""

from __future__ import annotations

from bisect import bisect_right

from rules.model import DAY, Instant

DEVICE, CORRECTED, RECEIVED, QUARANTINED = range(4)
"""Indexes into ``rules.model.TRUST``."""

GOOD = 30_000
"""Offsets up to this many ms are ignored."""
CORRECTABLE = 300_000
"""Offsets up to this many ms are taken off; beyond them the clock is not believed."""
JUMP = 60_000
"""A change of the offset by more than this between two checks is a jump, not drift."""
TWENTY_TWENTY: Instant = 1_577_750_400_000
"""No terminal in use has honest records from before 2020-01-01 (in any zone)."""


class Clock:
    """The checks of one terminal's clock by receipt; an offset is its clock minus ours."""

    __slots__ = ("_checked_at", "_offsets", "_worst", "complete_until")

    def __init__(self) -> None:
        self._checked_at: list[Instant] = []
        self._offsets: list[int] = []
        self._worst = 0
        self.complete_until: Instant = 0
        """Everything recorded until then had been read."""

    def check(self, received_at: Instant, device_clock: Instant) -> None:
        """A check received at ``received_at`` showed ``device_clock``."""
        place = bisect_right(self._checked_at, received_at)
        self._checked_at.insert(place, received_at)
        self._offsets.insert(place, device_clock - received_at)
        self._worst = max(self._worst, abs(device_clock - received_at))

    def event_time(
        self, device_at: Instant, received_at: Instant, live: bool
    ) -> tuple[Instant, int, Instant]:
        """``(event_at, trust, earliest)`` of a punch that the terminal dates ``device_at``.

        Within 30 s the terminal is right; up to 5 minutes its offset is taken off; beyond that, or
        where the clock jumped, a live punch is dated by our clock and any other is quarantined: it
        happened between ``earliest`` and ``event_at``, more cannot be said.
        """
        possible = TWENTY_TWENTY <= device_at <= received_at + DAY
        if live:
            return self._live(device_at, received_at, possible)
        if possible and self._worst <= GOOD and device_at <= received_at + JUMP:
            return self._by_good_clock(device_at, received_at)
        return self._from_log(device_at, received_at, possible)

    def _by_good_clock(
        self, device_at: Instant, received_at: Instant
    ) -> tuple[Instant, int, Instant]:
        """A row of the log as its terminal dates it, unless everything of that time had been read
        already: then the clock was set back unseen (or the log had not been whole)."""
        if self.complete_until - DAY <= device_at < self.complete_until - JUMP:
            return received_at, QUARANTINED, device_at
        return device_at, DEVICE, 0

    def _live(
        self, device_at: Instant, received_at: Instant, possible: bool
    ) -> tuple[Instant, int, Instant]:
        sample = device_at - received_at
        offset = self._offsets[-1] if self._offsets else sample
        if not possible or abs(sample - offset) > CORRECTABLE or abs(offset) > CORRECTABLE:
            return received_at, RECEIVED, 0
        if abs(sample - offset) > JUMP:
            # A jump, or a report that was long under way: the judgement takes the milder time.
            return received_at, CORRECTED, 0
        if abs(offset) <= GOOD:
            return device_at, DEVICE, 0
        return device_at - offset, CORRECTED, 0

    def _from_log(
        self, device_at: Instant, received_at: Instant, possible: bool
    ) -> tuple[Instant, int, Instant]:
        checks = self._checked_at
        floor = self.complete_until
        first = max(bisect_right(checks, min(floor, device_at - DAY)) - 1, 0)
        if possible and device_at <= received_at + JUMP:
            recent = self._offsets[first:]
            if all(abs(offset) <= GOOD for offset in recent):
                return self._by_good_clock(device_at, received_at)
        candidates: list[tuple[Instant, int]] = []
        jumped = False
        if possible:
            first = max(bisect_right(checks, floor) - 1, 0)
            for index in range(first, len(checks)):
                offset = self._offsets[index]
                starts = checks[index] if index > first else min(floor, checks[index])
                last = index + 1 == len(checks)
                ends = received_at if last else checks[index + 1]
                after = offset if last else self._offsets[index + 1]
                steady = abs(after - offset) <= JUMP
                for shift in (offset,) if steady else (offset, after):
                    event_at = device_at - shift
                    if starts - JUMP <= event_at <= ends + JUMP and floor - JUMP <= event_at:
                        candidates.append((event_at, shift))
                        jumped = jumped or not steady
        if candidates and not jumped:
            event_at, offset = candidates[0]
            if all(abs(event_at - other) <= JUMP for other, _ in candidates):
                if abs(offset) <= GOOD:
                    return device_at, DEVICE, 0
                if abs(offset) <= CORRECTABLE:
                    return event_at, CORRECTED, 0
        return received_at, QUARANTINED, min(floor, received_at)
