"""Was there a terminal to punch at, and has everything it recorded been read?

A terminal worked while hallwatch was in contact with it, around each record of its late log, and
where somebody found out that it was usable; not where somebody found out that it was not.
"""

from __future__ import annotations

from collections.abc import Sequence

from rules.model import MINUTE, DevicePath, Instant, PersonDay, Policy, merge_intervals


def usable_paths(day: PersonDay) -> tuple[DevicePath, ...]:
    """The terminals this person may use."""
    allowed = day.person.devices
    if not allowed:
        return day.paths
    return tuple(path for path in day.paths if path.device in allowed)


def path_state(paths: Sequence[DevicePath], starts: Instant, ends: Instant, policy: Policy) -> str:
    """``up`` if one terminal worked for the whole span, ``down`` if none worked at any instant of
    it, else ``partial``."""
    for path in paths:
        if not path.unusable:
            for a, b in path.up:
                if a <= starts and ends <= b:
                    return "up"
    some = False
    for path in paths:
        worked = working(path, starts, ends, policy)
        if worked:
            if worked[0] == (starts, ends):
                return "up"
            some = True
    return "partial" if some else "down"


def working(
    path: DevicePath, starts: Instant, ends: Instant, policy: Policy
) -> list[tuple[Instant, Instant]]:
    """When one terminal worked within the span: in contact, proved by its late log, or found out
    to be usable, and not found out to be unusable.  An instant counts as a span of itself."""
    proof = policy.outage_proof * MINUTE
    spans = [*path.up, *path.usable, *((at - proof, at + proof) for at in path.proofs)]
    worked = merge_intervals(spans)
    for a, b in path.unusable:
        worked = [
            piece
            for x, y in worked
            for piece in ((x, min(y, a)), (max(x, b), y))
            if piece[0] < piece[1]
        ]
    if starts == ends:
        return [(starts, ends)] if any(a <= starts <= b for a, b in worked) else []
    return [(max(a, starts), min(b, ends)) for a, b in worked if max(a, starts) < min(b, ends)]


def explained(paths: Sequence[DevicePath], starts: Instant, ends: Instant, policy: Policy) -> bool:
    """At each instant of the span a terminal worked, or somebody found out about one that did
    not."""
    known: list[tuple[Instant, Instant]] = []
    for path in paths:
        known += working(path, starts, ends, policy)
        known += path.unusable
    return any(a <= starts and ends <= b for a, b in merge_intervals(known))


def log_gap_explained(path: DevicePath, closes: Instant) -> bool:
    """What a terminal may still hold of the time before ``closes`` was found out by people."""
    if path.complete_until >= closes:
        return True
    told = merge_intervals([*path.usable, *path.unusable])
    return any(a <= path.complete_until and closes <= b for a, b in told)


def in_contact(paths: Sequence[DevicePath], starts: Instant, ends: Instant) -> bool:
    """One terminal was in contact for the whole span: what was known when it happened."""
    return any(a <= starts and ends <= b for path in paths for a, b in path.up)
