"""What devices at the windows are to do when something happens there: pads invite a rating, boards
that hallwatch writes to show the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from config.load import DeviceSpec, Hall
from config.settings import BoardSettings
from daemon.boards import CALLS, LIVE, STAY, AtWindow, Content, Screen, at_window
from daemon.clock import Clock
from daemon.pipeline import Happening
from drivers.base import AskForRating, Order, Show
from rules.counter import WindowRecord
from rules.model import Instant

PADS = ("rating_pad", "network_pad")
SESSIONS_KEPT = 10_000


class Orders:
    """Turns what is new at windows into wishes to devices.  From the event loop only.

    ``wish`` hands an order to a device, if it is there.  Boards get contents at most five times a
    second, the newest; what was announced is wished again as a steady text a little later, so that
    a board that comes back after that does not announce an old call.
    """

    def __init__(self, hall: Hall, wish: Callable[[str, Order], None], clock: Clock) -> None:
        self._wish = wish
        self._clock = clock
        self._windows: dict[str, AtWindow] = {}
        self._screens = {board.device: Screen(board) for board in hall.boards if board.device}
        self._pads: dict[str, list[str]] = {}
        for device in hall.devices:
            if not device.window or not device.in_service:
                continue
            if _shows(device) and device.id not in self._screens:
                strip = BoardSettings(id=device.id, windows=(device.window,))
                self._screens[device.id] = Screen(strip)
            if device.driver in PADS:
                self._pads.setdefault(device.window, []).append(device.id)
        self._asked: dict[str, None] = {}
        self._fresh: dict[str, set[int]] = {device: set() for device in self._screens}
        """Live calls that a board has not announced yet."""
        self._steady: dict[str, tuple[Instant, Show]] = {}
        """What to wish when, by the clock's ``steady``."""
        self._timers: dict[str, asyncio.Task[None]] = {}

    def begin(self, windows: Iterable[tuple[WindowRecord, int | None]]) -> None:
        """Show how windows stand today, each with the number of its last call; nothing is announced
        and nobody asked.  What was heard of a window before is newer."""
        for record, call_seq in windows:
            self._windows.setdefault(record.window.id, at_window(record, call_seq))
            if record.state == "finished":
                self._asked[_session(record, call_seq)] = None
        for device in self._screens:
            self._refresh(device)

    def hear(self, news: Sequence[Happening]) -> None:
        """What is new today."""
        now = self._clock.now()
        touched: set[str] = set()
        for one in news:
            record, window = one.record, at_window(one.record, one.call_seq)
            self._windows[window.window] = window
            touched.add(window.window)
            called = record.last_call
            if one.event in CALLS and called and one.call_seq and now - called.at < LIVE:
                for device, screen in self._screens.items():
                    if window.window in screen.board.windows:
                        self._fresh[device].add(one.call_seq)
            if record.state == "finished" and record.since and now - record.since < LIVE:
                self._ask(record, one.call_seq)
        for device, screen in self._screens.items():
            if not touched.isdisjoint(screen.board.windows):
                self._refresh(device)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _ask(self, record: WindowRecord, call_seq: int | None) -> None:
        session = _session(record, call_seq)
        if session in self._asked:
            return
        self._asked[session] = None
        if len(self._asked) > SESSIONS_KEPT:
            del self._asked[next(iter(self._asked))]
        for pad in self._pads.get(record.window.id, ()):
            self._wish(pad, AskForRating(session, record.ticket, record.person))

    def _refresh(self, device: str) -> None:
        screen, now = self._screens[device], self._clock.steady()
        content = screen.show(self._windows, {}, now)
        if content is not None:
            shown = {call.number for call in content.calls}
            announce = not self._fresh[device].isdisjoint(shown)
            # A call that is not on the board waits for its line, or was overtaken.
            self._fresh[device] -= shown
            if screen.due is None:
                self._fresh[device].clear()
            show = _show(content)
            self._steady.pop(device, None)
            if announce:
                self._steady[device] = now + STAY, show
                show = _show(content, announce=True)
            self._wish(device, show)
        elif device in self._steady and now >= self._steady[device][0]:
            self._wish(device, self._steady.pop(device)[1])
        dues = [due for due in (screen.due, self._steady.get(device, (None,))[0]) if due]
        if (timer := self._timers.pop(device, None)) is not None:
            timer.cancel()
        if dues:
            self._timers[device] = asyncio.create_task(self._later(device, min(dues) - now))

    async def _later(self, device: str, wait: Instant) -> None:
        await self._clock.sleep(max(0, wait) / 1000)
        del self._timers[device]
        self._refresh(device)


def _shows(device: DeviceSpec) -> bool:
    """Whether it is a board, or has one, that hallwatch writes to."""
    match device.driver:
        case "led_board":
            return True
        case "queue_display":
            return bool(device.options.write)
        case "rating_pad":
            return bool(device.options.role != "pad")
    return False


def _session(record: WindowRecord, call_seq: int | None) -> str:
    """The same for the same service however often it is judged, and another one for every other."""
    ticket = record.ticket or record.since
    return f"{record.window.id}:{record.work_date}:{call_seq or 0}:{ticket}"


def _show(content: Content, *, announce: bool = False) -> Show:
    return Show(
        lines=content.lines,
        window=content.window,
        ticket=content.calls[0].ticket if content.calls else "",
        state=content.state,
        waiting=content.waiting,
        announce=announce,
    )
