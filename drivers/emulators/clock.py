"""The clock inside an emulated terminal: local wall time, wrong by as much as one likes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta


class TerminalClock:
    """Shows the true time plus an offset that grows by ``drift`` seconds a day.

    ``true`` gives the true local wall time, naive, as terminals know no zones.
    """

    def __init__(
        self, true: Callable[[], datetime], offset: float = 0.0, drift: float = 0.0
    ) -> None:
        self._true = true
        self._offset = timedelta(seconds=offset)
        self._drift = drift
        self._since = true()

    def now(self) -> datetime:
        true = self._true()
        return true + self._offset + (true - self._since) * self._drift / 86_400

    @property
    def offset(self) -> float:
        """Seconds by which the clock is ahead at this moment."""
        true = self._true()
        return (self._offset + (true - self._since) * self._drift / 86_400).total_seconds()

    @offset.setter
    def offset(self, seconds: float) -> None:
        self._offset = timedelta(seconds=seconds)
        self._since = self._true()

    @property
    def drift(self) -> float:
        """Seconds the clock gains a day."""
        return self._drift

    @drift.setter
    def drift(self, seconds_a_day: float) -> None:
        self.offset = self.offset
        self._drift = seconds_a_day

    def set(self, wall: datetime) -> None:
        """Somebody (or a server) sets the clock to this wall time."""
        self._since = self._true()
        self._offset = wall - self._since
