"""Plays a queue system that publishes what happens to its tickets over MQTT.

For the demo and for tests; shares nothing with the driver.  MQTT 3.1.1 at QoS 1:
``{root}/in/queue/event`` with one event as JSON, its will on ``{root}/peer/{name}/state``.  What
the broker did not acknowledge is kept and published before the next event; the connection is made
again when it broke.

Source: the description of hallwatch's own topics and queue events.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from drivers.emulators.network_pad import Clock, MqttPad


class QueueHost:
    """One queue system.  ``clock``: the true time, with its zone."""

    def __init__(self, name: str, broker: tuple[str, int], clock: Clock, root: str) -> None:
        self.unsent: deque[dict[str, Any]] = deque()
        """Events that the broker did not acknowledge yet, the oldest first."""
        self._clock = clock
        self._topic = f"{root}/in/queue/event"
        # It connects and publishes as pads do.
        self._link = MqttPad(name, broker, clock, root)
        self._connected = False
        self._told = 0

    async def tell(self, event: str, window: str = "", **more: Any) -> dict[str, Any]:
        """Something happens; returns the event as it was written."""
        now = self._clock()
        self._told += 1
        told: dict[str, Any] = {
            "event_id": f"{now:%Y%m%d%H%M%S}-{self._told}",
            "type": event,
            "at": now.isoformat(timespec="milliseconds"),
        }
        if window:
            told["window"] = window
        self.unsent.append(told | more)
        await self.deliver()
        return told | more

    async def deliver(self) -> None:
        """Publish what is unsent, as far as there is a broker."""
        for _ in range(2):  # a connection may have broken since the last event, without a sign
            try:
                if not self._connected:
                    await self._link.start()
                    self._connected = True
                while self.unsent:
                    payload = json.dumps(self.unsent[0], ensure_ascii=False).encode()
                    await self._link.publish(self._topic, payload)
                    self.unsent.popleft()
            except (OSError, asyncio.IncompleteReadError):
                await self.stop()
            else:
                return

    async def stop(self) -> None:
        self._connected = False
        await self._link.stop()
