"""Plays rating pads that talk over a network.

For the demo, for commissioning without hardware, and for tests; shares nothing with the drivers.

``HttpPad``    posts ratings as JSON to ``/api/v1/pads/{pad}/ratings``; what cannot be delivered is
               kept and sent later, in order.  201 and 200: delivered; 503 and no answer: kept;
               anything else: given up.
``SocketPad``  a WebSocket: 40001 log in, 40000 heartbeat every 60 s, 50100 opens a page.
``PollPad``    an Android pad: ``GET .../empOnline?mac=&card=`` every 10 s; two tries without the
               text ``online`` and it holds itself for offline.
``MqttPad``    MQTT 3.1.1 at QoS 1: ``{root}/in/pad/{pad}/rating``, its will on
               ``{root}/peer/{pad}/state``.

Source: a pad vendor's page on its WebSocket protocol, public code of an Android pad, and the
descriptions of hallwatch's own pad interface and topics.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

Clock = Callable[[], datetime]
"""The true time, with its zone."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def request(
    server: tuple[str, int],
    head: list[str],
    body: bytes = b"",
    *,
    split: int | None = None,
    cut: int | None = None,
    timeout: float = 10.0,
) -> Answer:
    """One HTTP request, in pieces of ``split`` bytes, broken off ``cut`` bytes into the body."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(*server)
        try:
            lines = [*head, f"Host: {server[0]}:{server[1]}", "Connection: close"]
            if body:
                lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
            told = "\r\n".join([*lines, "", ""]).encode() + body
            if cut is not None:
                told = told[: len(told) - len(body) + cut]
            for at in range(0, len(told), split or len(told)):
                writer.write(told[at : at + (split or len(told))])
                await writer.drain()
                if split:
                    await asyncio.sleep(0)
            if cut is not None:
                raise ConnectionError("the pad lost its network")
            answer = await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
    status, _, rest = answer.partition(b"\r\n")
    if not status.startswith(b"HTTP/1."):
        raise ConnectionError("no answer")
    return Answer(int(status.split()[1]), rest.partition(b"\r\n\r\n")[2])


@dataclass
class HttpPad:
    """One pad.  Set an attribute at any time to play a fault; all of them start harmless."""

    pad: str
    server: tuple[str, int]
    clock: Clock
    token: str = ""
    window: str = ""
    scale_id: str = "five"

    offset: float = 0.0
    """Seconds by which the pad's clock is ahead."""
    no_clock: bool = False
    offline: bool = False
    split: int | None = None
    cut: int | None = None
    """The next request breaks off after so many bytes of its body."""
    forget_answers: int = 0
    """So many answers do not reach the pad: it sends the same again."""
    cache: deque[dict[str, Any]] = field(default_factory=deque)
    """Ratings that were not delivered yet, the oldest first."""
    answers: list[Answer] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    pressed: int = 0

    def now(self) -> datetime:
        return self.clock() + timedelta(seconds=self.offset)

    def record(self, level: int | None, **more: Any) -> dict[str, Any]:
        """A rating as this pad writes it."""
        self.pressed += 1
        told: dict[str, Any] = {
            "rating_id": f"{self.now():%Y%m%d%H%M%S}-{self.pressed}",
            "pad_id": self.pad,
            "level": level,
            "scale_id": self.scale_id,
            "channel": "pad",
            "pressed_at": None if self.no_clock else self.now().isoformat(timespec="milliseconds"),
        }
        if self.window:
            told["window"] = self.window
        return told | more

    async def press(self, level: int | None, **more: Any) -> bool:
        """Somebody rates; true if that was delivered at once."""
        self.cache.append(self.record(level, **more))
        return await self.deliver()

    async def deliver(self) -> bool:
        """Send what is kept; true if nothing is left."""
        while self.cache and not self.offline:
            body = json.dumps(self.cache[0], ensure_ascii=False).encode()
            try:
                answer = await self.post("ratings", body)
            except (OSError, TimeoutError):
                break
            if self.forget_answers:
                self.forget_answers -= 1
                continue
            self.answers.append(answer)
            if answer.status == 503:
                break
            self.cache.popleft()
        return not self.cache

    async def heartbeat(self) -> dict[str, Any] | None:
        """The prompt in the answer, if there was one."""
        told = {} if self.no_clock else {"at": self.now().isoformat(timespec="milliseconds")}
        try:
            answer = await self.post("heartbeat", json.dumps(told).encode())
        except (OSError, TimeoutError):
            return None
        self.answers.append(answer)
        prompt: dict[str, Any] | None = (
            answer.json().get("prompt") if answer.status == 200 else None
        )
        if prompt is not None:
            self.prompts.append(prompt)
        return prompt

    async def post(self, what: str, body: bytes, *headers: str) -> Answer:
        """Any bytes to this pad's ``ratings`` or ``heartbeat``."""
        if self.offline:
            raise ConnectionError("the pad is offline")
        cut, self.cut = self.cut, None
        head = [f"POST /api/v1/pads/{self.pad}/{what} HTTP/1.1", *headers]
        if self.token:
            head.append(f"Authorization: Bearer {self.token}")
        return await request(self.server, head, body, split=self.split, cut=cut)


class SocketPad:
    """A pad on the WebSocket.  ``opened`` are the pages it was told to open."""

    def __init__(
        self,
        work_no: str,
        key: str,
        server: tuple[str, int],
        clock: Clock,
        *,
        path: str = "/ws/pads",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.work_no = work_no
        self.key = key
        self.clock = clock
        self.offset = 0.0
        self.silent = False
        """No more heartbeats, though the connection stays."""
        self.logs_in = True
        """False: it does not say who it is."""
        self.extra: dict[str, Any] = {}
        """Fields that nobody knows, in every message."""
        self.heard: list[dict[str, Any]] = []
        self.opened: list[str] = []
        self.logged_in = False
        self._url = f"ws://{server[0]}:{server[1]}{path}"
        self._sleep = sleep
        self._link: ClientConnection | None = None
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect; returns when the server has let the pad in, refused it or hung up."""
        self._link = await connect(self._url, compression=None, proxy=None, ping_interval=None)
        self._tasks = [
            asyncio.create_task(self._listen(self._link)),
            asyncio.create_task(self._beat()),
        ]
        await self.until(
            lambda: self.logged_in or self.closed is not None or len(self.heard) > self.logs_in
        )

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()

    @property
    def closed(self) -> int | None:
        """The code with which the connection was closed."""
        return None if self._link is None else self._link.close_code

    async def until(self, done: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(done)

    async def say(self, code: int, data: Any = None) -> None:
        told = {"code": code, **({} if data is None else {"data": data}), **self.extra}
        await self.send(json.dumps(told))

    async def send(self, told: str | bytes) -> None:
        """Any text, or bytes."""
        assert self._link is not None
        await self._link.send(told)

    async def beat(self) -> None:
        at = self.clock() + timedelta(seconds=self.offset)
        await self.say(40000, int(at.timestamp() * 1000))

    async def _beat(self) -> None:
        while True:
            await self._sleep(60)
            if self.logged_in and not self.silent:
                with suppress(WebSocketException):
                    await self.beat()

    async def _listen(self, link: ClientConnection) -> None:
        try:
            async for text in link:
                told = json.loads(text)
                if told["code"] == 40001 and told["state"] == 1:
                    self.logged_in = True
                elif told["code"] == 40001 and not self.heard and self.logs_in:
                    await self.say(40001, {"work_no": self.work_no, "key": self.key})
                elif told["code"] == 50100:
                    self.opened.append(told["data"])
                async with self._changed:
                    self.heard.append(told)
                    self._changed.notify_all()
        except WebSocketException:
            pass
        finally:
            async with self._changed:
                self._changed.notify_all()


@dataclass
class PollPad:
    """An Android pad.  It delivers its ratings as an ``HttpPad`` does, once it is alive."""

    mac: str
    server: tuple[str, int]
    card: str = ""
    path: str = "/sundyn/empOnline"
    online: bool = False
    unplugged: bool = False

    async def poll(self) -> bool:
        """One round: two tries."""
        head = [f"GET {self.path}?{urlencode({'mac': self.mac, 'card': self.card})} HTTP/1.1"]
        self.online = False
        for _ in range(2):
            with suppress(OSError, TimeoutError):
                if self.unplugged:
                    raise ConnectionError
                self.online = (await request(self.server, head)).body == b"online"
            if self.online:
                break
        return self.online


class MqttPad:
    """A pad with a small MQTT library: 3.1.1, clean session, QoS 1."""

    def __init__(self, pad: str, broker: tuple[str, int], clock: Clock, root: str) -> None:
        self.pad = pad
        self.broker = broker
        self.clock = clock
        self.root = root
        self.retain = False
        """The fault of many pads: a rating that stays with the broker."""
        self.pressed = 0
        self._number = 0
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def start(self) -> None:
        reader, writer = await asyncio.open_connection(*self.broker)
        self._link = (reader, writer)
        will = _text(f"{self.root}/peer/{self.pad}/state") + _text("offline")
        # Clean session, will at QoS 1 that is retained.
        told = _text("MQTT") + b"\x04\x2e" + (60).to_bytes(2, "big") + _text(self.pad) + will
        writer.write(b"\x10" + _length(len(told)) + told)
        if await reader.readexactly(4) != b"\x20\x02\x00\x00":
            raise ConnectionError("the broker refused the pad")
        await self.publish(f"{self.root}/peer/{self.pad}/state", b"online", retain=True)

    async def stop(self) -> None:
        if self._link is not None:
            self._link[1].write(b"\xe0\x00")
            self._link[1].close()
            with suppress(ConnectionError):
                await self._link[1].wait_closed()
            self._link = None

    async def press(self, level: int | None, **more: Any) -> dict[str, Any]:
        """Somebody rates; returns what was told once the broker has it."""
        self.pressed += 1
        told = {
            "rating_id": f"{self.pad}:{self.pressed}",
            "pad_id": self.pad,
            "level": level,
            "scale_id": "five",
            "channel": "pad",
            "pressed_at": self.clock().isoformat(timespec="milliseconds"),
        } | more
        payload = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        await self.publish(f"{self.root}/in/pad/{self.pad}/rating", payload, retain=self.retain)
        return told

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, again: bool = False
    ) -> None:
        """``again``: the duplicate flag, as after a lost PUBACK."""
        assert self._link is not None
        reader, writer = self._link
        if not again:
            self._number = self._number % 65_535 + 1
        number = self._number.to_bytes(2, "big")
        told = _text(topic) + number + payload
        first = 0x32 | (0x08 if again else 0) | (0x01 if retain else 0)
        writer.write(bytes([first]) + _length(len(told)) + told)
        # The broker inside hallwatch also sends retained messages that nobody subscribed to.
        while (packet := await _packet(reader))[0] >> 4 == 3:
            pass
        if packet != b"\x40\x02" + number:
            raise ConnectionError("the broker did not acknowledge")


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One whole packet; of a long one the first byte and the body."""
    head = await reader.readexactly(2)
    size, shift, digit = head[1] & 127, 7, head[1]
    while digit & 128:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 127) << shift
        shift += 7
    return head + await reader.readexactly(size)


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def _length(size: int) -> bytes:
    told = bytearray()
    while True:
        size, digit = divmod(size, 128)
        told.append(digit | (128 if size else 0))
        if not size:
            return bytes(told)
