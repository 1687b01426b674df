"""Plays a face terminal that posts each record over HTTP (Uface 宇泛).

For the demo, for commissioning without hardware, and for tests; shares nothing with the driver.

    POST {path}   application/x-www-form-urlencoded
      record      deviceKey personId time type ip path imgBase64 data searchScore livenessScore
                  temperature mask; time is ms since 1970 as text; the picture is part of it
      heartbeat   deviceKey ip personCount faceCount version
    answer        200 with "result":1 and either "success":true or "code":"000"; after anything else
                  the record is kept and sent again, in order

Source: the maker's HTTP interface document for its identify and heartbeat callbacks.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

PICTURE = "QUJD" * 512
"""What stands for a face; a real one has 60 kB."""


class UfaceTerminal:
    """One terminal.  Set an attribute at any time to play a fault; all of them start harmless."""

    def __init__(
        self,
        serial: str,
        server: tuple[str, int],
        path: str,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        heartbeat: float = 60.0,
    ) -> None:
        """``clock``: the true time, with its zone; ``path``: what it was told to post to."""
        self.serial = serial
        self.server = server
        self.path = path
        self.offset = 0.0
        """Seconds by which its clock is ahead."""
        self.offline = False
        self.forget_answers = 0
        """So many answers do not reach it: it sends the same again."""
        self.unsent: deque[dict[str, str]] = deque()
        """Records that were not acknowledged yet, the oldest first."""
        self._clock = clock
        self._sleep = sleep
        self._heartbeat = heartbeat
        self._beating: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()

    async def start(self) -> None:
        """Begin to send heartbeats, and records again that were not acknowledged."""
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None

    async def recognise(self, person: str, kind: str = "face_0") -> None:
        """Somebody stands before it: ``kind`` is ``face_0`` recognised, ``face_1`` outside the
        allowed time, ``face_2`` a stranger, or ``card_0`` and so on."""
        at = self._clock() + timedelta(seconds=self.offset)
        self.unsent.append({
            "deviceKey": self.serial, "personId": person, "type": kind, "ip": "192.168.1.64",
            "time": str(int(at.timestamp() * 1000)), "path": "ftp://192.168.1.64/1.jpg",
            "imgBase64": PICTURE, "data": "{}", "searchScore": "97.1", "livenessScore": "99",
            "temperature": "36.5", "mask": "0",
        })  # fmt: skip
        await self.deliver()

    async def deliver(self) -> None:
        """Send what is unsent, up to the first that is not acknowledged."""
        async with self._sending:
            while self.unsent and await self._post(self.unsent[0]):
                self.unsent.popleft()

    async def _beat(self) -> None:
        alive = {
            "deviceKey": self.serial, "ip": "192.168.1.64", "personCount": "11",
            "faceCount": "11", "version": "GD-V31.4011",
        }  # fmt: skip
        while True:
            await self._post(alive)
            await self.deliver()
            await self._sleep(self._heartbeat)

    async def _post(self, fields: dict[str, str]) -> bool:
        """Whether it was acknowledged."""
        if self.offline:
            return False
        body = urlencode(fields).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.server[0]}:{self.server[1]}\r\n"
            "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        answer = b""
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*self.server)
            try:
                writer.write(head.encode() + body)
                answer = await reader.read()
            finally:
                writer.close()
        if self.forget_answers:
            self.forget_answers -= 1
            return False
        status, _, rest = answer.partition(b"\r\n")
        told: Any = None
        with suppress(ValueError):
            told = json.loads(rest.partition(b"\r\n\r\n")[2])
        return (
            status.startswith(b"HTTP/1.1 200")
            and isinstance(told, dict)
            and told.get("result") == 1
            and (told.get("success") is True or told.get("code") == "000")
        )
