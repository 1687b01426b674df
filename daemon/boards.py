"""What boards show: from the newest rows of windows and service areas to texts.

Pure; whoever shows the texts says what time it is.  Of a window's row only what stands in
``AtWindow`` is ever decoded, so the person who serves cannot get on any board.

A board that has a line for each of its windows keeps it there, with the call, the idle text or the
paused text.  One with fewer lines shows the newest calls, the newest on top, and its other lines
are idle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from unicodedata import category, normalize

import msgspec
from msgspec import Struct, structs

from config.settings import BoardSettings
from drivers.counter_json import masked
from rules.counter import WindowRecord
from rules.model import Instant

LIVE: Instant = 60_000
"""What happened longer ago is shown, but neither announced nor told as an event."""
PACE: Instant = 200
"""Between two contents of one board, at least: at most five a second, the newest wins."""
STAY: Instant = 3_000
"""A called ticket is on a board with newer calls so long, at least, if not for a newer call of its
own window."""
COMPACT = 200
"""Bytes of a board's whole content as JSON: small controllers have room for no more."""

CALLS = frozenset(("called", "recalled"))
CLOSED = frozenset(("paused", "closed"))
IDLE_TICKET, CLOSED_TICKET = "----", "STOP"


class AtWindow(Struct, frozen=True):
    """What boards may know of a window.  ``work_date`` and the times are as its row has them."""

    window: str
    work_date: str
    name: str = ""
    area: str = ""
    state: str = "unknown"
    since: str | None = None
    ticket: str = ""
    queue: str = ""
    called_at: str | None = None
    repeat: int | None = None
    call_seq: int | None = None
    waiting: int | None = None
    event: str = ""
    event_at: str | None = None
    updated_at: str = ""


class InArea(Struct, frozen=True):
    """What boards may know of a service area."""

    area: str
    work_date: str
    waiting: int | None = None
    open_windows: int = 0
    updated_at: str = ""


def instant(told: str) -> Instant:
    """The times of rows.  Raises ``ValueError`` for what is none."""
    return int(datetime.fromisoformat(told).timestamp() * 1000)


read_window = msgspec.json.Decoder(AtWindow).decode
read_area = msgspec.json.Decoder(InArea).decode


def at_window(record: WindowRecord, call_seq: int | None) -> AtWindow:
    """The same from a record."""
    return AtWindow(
        window=record.window.id,
        work_date=record.work_date.isoformat(),
        name=record.window.name,
        area=record.window.area,
        state=record.state,
        ticket=public_ticket(record.ticket),
        call_seq=call_seq,
        waiting=record.waiting,
    )


def public_ticket(ticket: str) -> str:
    """Some halls take a telephone number for a ticket: of such a one the end, by which people know
    it."""
    return ticket if masked(ticket) == ticket else f"*{ticket[-4:]}"


def of_today(window: AtWindow, today: str) -> AtWindow:
    """What an older date came to says nothing about now."""
    if window.work_date >= today:
        return window
    return AtWindow(window.window, today, window.name, window.area)


def plain_ticket(window: AtWindow) -> str:
    """For boards that can show a ticket and nothing else."""
    if window.state in CLOSED:
        return CLOSED_TICKET
    return printable(window.ticket) or IDLE_TICKET


def area_topics(areas: Iterable[str]) -> dict[str, str]:
    """A part of a topic for each area, in the order of the settings: its letters and digits where
    it has any that no area before it has (A区 is ``a``), else its number (``area-2``)."""
    topics: dict[str, str] = {}
    for number, area in enumerate(dict.fromkeys(one for one in areas if one), 1):
        told = normalize("NFKC", area).lower()
        kept = "".join(one for one in told if one.isascii() and (one.isalnum() or one in "_-"))[:16]
        topics[area] = kept if kept and kept not in topics.values() else f"area-{number}"
    return topics


# --------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Without control and formatting characters; a picture, a half of a pair and what has no
    meaning become ``?``."""
    kept = []
    for one in text:
        kind = category(one)
        if kind in ("Cc", "Cf"):
            continue
        pictured = kind in ("So", "Sk") and ord(one) > 0xFFFF
        kept.append("?" if pictured or kind in ("Cs", "Cn", "Co") else one)
    return "".join(kept)


class Line(NamedTuple):
    """A line as a board takes it, and how many of its characters became ``?`` or were cut off."""

    data: bytes
    replaced: int
    cut: int


def board_line(text: str, encoding: str, max_bytes: int) -> Line:
    """The text in the board's encoding, cut between two characters where it is too long."""
    shown = printable(text)
    replaced = shown.count("?") - text.count("?")
    data = bytearray()
    for place, one in enumerate(shown):
        try:
            encoded = one.encode(encoding)
        except UnicodeEncodeError:
            encoded = b"?"
            replaced += 1
        if len(data) + len(encoded) > max_bytes:
            return Line(bytes(data), replaced, len(shown) - place)
        data += encoded
    return Line(bytes(data), replaced, 0)


# --------------------------------------------------------------------------------------------
# Boards
# --------------------------------------------------------------------------------------------


class Call(Struct, frozen=True):
    """A ticket at a window; ``number`` rises with every call and recall in the hall."""

    ticket: str
    window: str
    number: int


class Content(Struct, frozen=True):
    """All that a board shows.  ``calls``: the newest first; ``areas``: who waits where, none where
    unknown.  ``state`` and ``waiting`` are those of a board's only window."""

    lines: tuple[str, ...]
    calls: tuple[Call, ...]
    areas: tuple[tuple[str, int | None], ...]
    window: str
    state: str
    waiting: int | None


def compact(content: Content, live: Collection[int]) -> bytes:
    """At most ``COMPACT`` bytes: ``n`` number of the newest call that is ``live``, 0 if none is, so
    that it never rises for an old one; ``c`` calls, ``q`` waiting.  What does not fit is left out,
    the oldest calls first."""
    number = max((call.number for call in content.calls if call.number in live), default=0)
    calls = [(printable(call.ticket), call.window) for call in content.calls]
    areas = list(content.areas)
    while True:
        told = msgspec.json.encode({"v": 1, "n": number, "c": calls, "q": areas})
        if len(told) <= COMPACT:
            return told
        if len(calls) > 1 or not areas:
            calls.pop()
        else:
            areas.pop()


class Screen:
    """One board as time goes by: how soon it may change, and which calls it shows."""

    def __init__(self, board: BoardSettings) -> None:
        self.board = board
        self.content: Content | None = None
        """What it shows."""
        self.due: Instant | None = None
        """Ask again then, even if nothing happens."""
        self._changed_at: Instant | None = None
        self._on: dict[str, tuple[Call, Instant]] = {}
        """By window, on a board with fewer lines than windows: its call and since when."""
        self._had: set[int] = set()
        """Numbers of present calls that had their turn on it."""

    def show(
        self,
        windows: Mapping[str, AtWindow],
        waiting: Mapping[str, int | None],
        at: Instant,
    ) -> Content | None:
        """What it shall show from now on; none where that is what it shows, or it is too soon:
        then ``due`` says when it is not.  ``waiting`` is by area, in the order to be shown."""
        if self._changed_at is not None and at < self._changed_at + PACE:
            self.due = self._changed_at + PACE
            return None
        self.due = None
        present = [windows[one] for one in self.board.windows if one in windows]
        calls = sorted(
            (
                Call(one.ticket, one.window, one.call_seq or 0)
                for one in present
                if one.ticket and one.state not in CLOSED
            ),
            key=lambda call: -call.number,
        )
        if len(self.board.windows) <= self.board.lines:
            lines = tuple(self._text(windows.get(one), one) for one in self.board.windows)
        else:
            self._rotate(windows, calls, at)
            calls = sorted((call for call, _ in self._on.values()), key=lambda one: -one.number)
            lines = tuple(self._text(windows[one.window], "", one.ticket) for one in calls)
        idle = self._text(None, "")
        only = windows.get(self.board.windows[0]) if len(self.board.windows) == 1 else None
        areas = {one.area for one in present}
        content = Content(
            lines=lines + (idle,) * (self.board.lines - len(lines)),
            calls=tuple(calls),
            areas=tuple((area, number) for area, number in waiting.items() if area in areas),
            window=only.window if only else "",
            state=only.state if only else ("calling" if calls else "idle"),
            waiting=only.waiting if only else None,
        )
        if content == self.content:
            return None
        self.content, self._changed_at = content, at
        return content

    def _text(self, window: AtWindow | None, name: str, ticket: str = "") -> str:
        texts = self.board.texts
        if window is None:
            return texts.idle.format(window=name, name="")
        ticket = ticket or ("" if window.state in CLOSED else window.ticket)
        if ticket:
            return texts.call.format(ticket=ticket, window=window.window, name=window.name)
        text = texts.paused if window.state in CLOSED else texts.idle
        return text.format(window=window.window, name=window.name)

    def _rotate(self, windows: Mapping[str, AtWindow], calls: Sequence[Call], at: Instant) -> None:
        """Which calls are on a board with fewer lines than windows: the newest, but each new one
        has its turn, and stays.  ``calls``: all there are, the newest first."""
        room = self.board.lines
        current = {call.window: call for call in calls}
        on: dict[str, tuple[Call, Instant]] = {}
        for window, (call, since) in self._on.items():
            now = current.get(window)
            if now is not None:
                on[window] = now, (since if now.number <= call.number else at)
            elif at < since + STAY and window in windows:
                on[window] = call, since
        numbers = {call.number for call in calls}
        self._had = numbers if self.content is None else self._had & numbers
        self._had |= {call.number for call, _ in on.values()}
        fresh = [call for call in calls if call.number not in self._had]
        # After a burst the oldest get no turn any more: the board must catch up.
        turns, late = fresh[: 2 * room], fresh[2 * room :]
        self._had |= {call.number for call in late}

        def place(call: Call, since: Instant, keep: Collection[str] = ()) -> bool:
            if len(on) >= room:
                ripe = [
                    window
                    for window, (_, began) in on.items()
                    if at >= began + STAY and window not in keep
                ]
                if not ripe:
                    return False
                del on[min(ripe, key=lambda window: on[window][0].number)]
            on[call.window] = call, since
            self._had.add(call.number)
            return True

        while turns and place(turns[-1], at):
            turns.pop()
        newest = [call for call in calls[:room] if call.window not in on]
        keep = [call.window for call in calls[:room]]
        while newest and not turns and place(newest[-1], at - STAY, keep):
            newest.pop()
        self._on = on
        if turns or newest or any(window not in current for window in on):
            began = [since for call, since in on.values() if at < since + STAY]
            self.due = min(began, default=at) + STAY


# --------------------------------------------------------------------------------------------
# All of them
# --------------------------------------------------------------------------------------------


class Places(Struct, frozen=True):
    """What the settings say: ids of windows, service areas in their order, boards."""

    windows: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    boards: tuple[BoardSettings, ...] = ()


class Counter:
    """The newest row of each window and service area, and the boards made of them.  Rows of older
    dates and of windows that the settings do not name are left alone."""

    def __init__(self, places: Places) -> None:
        self.topics = area_topics(places.areas)
        self.screens = {board.id: Screen(board) for board in places.boards}
        self._windows: dict[str, tuple[str, int, AtWindow]] = {}
        self._areas: dict[str, tuple[str, int, InArea]] = {}
        self._called: dict[str, tuple[int, Instant]] = {}
        """By window: number of its last call, and when that was."""
        self._known = frozenset(places.windows)

    def take_window(self, seq: int, row: bytes) -> AtWindow | None:
        """The row, if its window is one of ours.  Raises ``ValueError`` for what is no row."""
        window = read_window(row)
        if window.window not in self._known:
            return None
        window = structs.replace(window, ticket=public_ticket(window.ticket))
        known = self._windows.get(window.window)
        if known is None or (window.work_date, seq) >= known[:2]:
            self._remember_call(window)
            self._windows[window.window] = window.work_date, seq, window
        return window

    def _remember_call(self, window: AtWindow) -> None:
        """A recall's time stands in the row that it made, and only there."""
        if window.call_seq is None:
            return
        number, _ = self._called.get(window.window, (None, 0))
        at = window.event_at if window.event in CALLS else None
        if at is None and number != window.call_seq:
            at = window.called_at
        if at is not None:
            self._called[window.window] = window.call_seq, instant(at)

    def take_area(self, seq: int, row: bytes) -> InArea | None:
        area = read_area(row)
        if area.area not in self.topics:
            return None
        known = self._areas.get(area.area)
        if known is None or (area.work_date, seq) >= known[:2]:
            self._areas[area.area] = area.work_date, seq, area
        return area

    def live(self, now: Instant) -> set[int]:
        """Numbers of the calls that boards may still announce."""
        return {number for number, at in self._called.values() if now - at < LIVE}

    def names(self) -> set[tuple[str, str]]:
        """Kind and id of what there is a row of."""
        return {("window", one) for one in self._windows} | {("area", one) for one in self._areas}

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        for kind, name in names:
            (self._windows if kind == "window" else self._areas).pop(name, None)

    def window(self, window: str, today: str) -> tuple[int, AtWindow]:
        """Its newest row as of today, with the number of the change that brought it."""
        _, seq, row = self._windows[window]
        return seq, of_today(row, today)

    def area(self, area: str, today: str) -> tuple[int, InArea, str]:
        """Likewise, with the ticket that was called last in the area."""
        date, seq, row = self._areas[area]
        if date < today:
            row = InArea(area, today)
        last, ticket = 0, ""
        for _, changed, window in self._windows.values():
            if window.area == area:
                seq = max(seq, changed)
                number = window.call_seq or 0
                if number > last and window.ticket and window.work_date >= today:
                    last, ticket = number, printable(window.ticket)
        return seq, row, ticket

    def show(self, board: str, today: str, at: Instant) -> Content | None:
        """See ``Screen.show``; ``at`` is by any clock that only goes forward."""
        windows = {one: of_today(row, today) for one, (_, _, row) in self._windows.items()}
        waiting: dict[str, int | None] = {
            area: self._areas[area][2].waiting
            for area in self.topics
            if area in self._areas and self._areas[area][0] >= today
        }
        return self.screens[board].show(windows, waiting, at)
