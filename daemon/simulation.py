"""Playing hours in seconds with the real drivers, sockets and database.

The time stands still until everything on the event loop has come to rest (no socket readable,
nothing to run, the pipeline idle), then jumps to the next moment somebody waits for.  So a played
day is as exact as a real one: an answer never seems to take minutes because the clock ran on.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

from daemon.clock import Clock
from daemon.pipeline import Pipeline
from rules.model import Instant

T = TypeVar("T")


class SimulatedClock(Clock):
    """A clock that stands still until it is told to go on; sleepers wake in their order."""

    runs = False

    def __init__(self, start: Instant) -> None:
        self._now = start
        self._sleepers: list[tuple[Instant, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> Instant:
        return self._now

    def steady(self) -> Instant:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        until = self._now + max(0, round(seconds * 1000))
        heapq.heappush(self._sleepers, (until, next(self._order), woken))
        await woken

    def next_sleeper(self) -> Instant | None:
        """When the next sleeper wakes, if anybody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def jump(self, to: Instant) -> None:
        """Set the time and wake whoever is due."""
        self._now = max(self._now, to)
        while (due := self.next_sleeper()) is not None and due <= self._now:
            heapq.heappop(self._sleepers)[2].set_result(None)


class _CountingSelector(selectors.DefaultSelector):
    """Knows how much has happened on the loop's sockets."""

    events = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout)
        self.events += len(found)
        return found


class _Inline(ThreadPoolExecutor):
    """Runs what is meant for a thread at once: a simulation has no time to pass elsewhere."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - the caller's, as from a thread
            done.set_exception(error)
        return done


class Simulation:
    """Moves a simulated clock when everything has come to rest."""

    def __init__(self, clock: SimulatedClock, selector: _CountingSelector) -> None:
        self.clock = clock
        self._selector = selector
        self.pipeline: Pipeline | None = None
        self._rested = 0

    async def rest(self) -> None:
        """Return when nothing is under way any more at the present moment."""
        quiet = False
        while not quiet:
            before = self._selector.events
            for _ in range(4):
                await asyncio.sleep(0)
            if self._selector.events > before:
                continue
            if before > self._rested:
                # What was written to a socket is not always there at once when the machine is busy.
                await asyncio.sleep(0.001)
                if self._selector.events > before:
                    continue
            expected = self._selector.events
            if self.pipeline is not None:
                await asyncio.wrap_future(self.pipeline.settle())
                expected += 1  # the pipeline's own answer
                for _ in range(2):
                    await asyncio.sleep(0)
            quiet = self._selector.events <= expected
            self._rested = self._selector.events

    async def play(self, until: Instant) -> None:
        """Let the time pass to ``until``, stopping wherever somebody waits or a day is due."""
        while True:
            await self.rest()
            stops = [until]
            sleeper = self.clock.next_sleeper()
            if sleeper is not None:
                stops.append(sleeper)
            if self.pipeline is not None and self.pipeline.next_wake is not None:
                stops.append(self.pipeline.next_wake)
            if (stop := min(stops)) >= until:
                break
            self.clock.jump(max(stop, self.clock.now()))
        self.clock.jump(until)
        await self.rest()


def simulate(start: Instant, play: Callable[[Simulation], Coroutine[Any, Any, T]]) -> T:
    """Run ``play`` on an event loop whose time is simulated, beginning at ``start``.

    Ctrl-C cancels ``play``, so that it can clean up, and raises ``KeyboardInterrupt``.
    """
    selector = _CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.set_default_executor(_Inline(1))
    asyncio.set_event_loop(loop)
    playing = loop.create_task(play(Simulation(SimulatedClock(start), selector)))
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, playing.cancel)
    try:
        return loop.run_until_complete(playing)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
