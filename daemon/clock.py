"""The only place that reads the time."""

from __future__ import annotations

import asyncio
import time

from rules.model import Instant


class Clock:
    """The machine's clock."""

    runs = True
    """Whether the time passes by itself (it does not in a simulation)."""

    def now(self) -> Instant:
        """Milliseconds since 1970-01-01T00:00Z."""
        return time.time_ns() // 1_000_000

    def steady(self) -> Instant:
        """Milliseconds since some moment; only goes forward, whatever the clock is set to."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
