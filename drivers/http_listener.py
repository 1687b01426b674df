"""Listening for devices that speak HTTP to us: uvicorn, bounded for peers that are not trusted.

A driver gives a bare ASGI callable to ``serve``.  Heads, slowness, bodies and the number of
connections are limited here, so that a driver sees whole requests or none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    MutableMapping,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from drivers.base import DeviceLost

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 60
STOP_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listening address puts up with."""

    connections: int = 256
    head: int = 64 * 1024
    head_seconds: float = 30
    idle_seconds: int = 150
    """A kept connection outlives a few heartbeats."""
    message: int = 64 * 1024
    """Bytes of one WebSocket message."""


LIMITS = Limits()

_LOG = logging.getLogger(__name__)
# Every broken request would be a warning.
_LOG.setLevel(logging.ERROR)


class Gone(Exception):
    """The device hung up, or was too slow, before its request was whole."""


class Slow(Gone):
    """It is still there, but its body did not come in time."""


class TooLong(Exception):
    """The body is longer than allowed."""


class _Connection(HttpToolsProtocol):
    """uvicorn's HTTP over httptools, which takes HTTP/1.0 and requests without Host, with what it
    lacks for peers that are not trusted: bounds on the head, on slowness and on connections.

    Refused by the parser itself, with 400: two Content-Length headers, lines ended by LF alone,
    blanks and bytes above 0x7F in the request line.
    """

    def __init__(
        self, limits: Limits, refused: Callable[[], None] | None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._refused = refused
        self.logger = _LOG
        self.access_log = False
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)
        if self._head_size > self._limits.head:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._head_size = 0
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_size = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._refused is not None:
            self._refused()
        super().send_400_response(msg)

    def shutdown(self) -> None:
        if self.cycle is not None and self.cycle.more_body:
            self.transport.abort()
        else:
            super().shutdown()

    def _expect_head(self) -> None:
        seconds = self._limits.head_seconds
        self._head_timer = self.loop.call_later(seconds, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """uvicorn inside a daemon that minds the signals itself: it does not look ten times a second
    whether to stop, and stops without waiting for devices that hang on."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """What is being stored gets its answer; what is still coming in will be sent again."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := list(self.server_state.tasks):
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises ``DeviceLost`` with a sentence where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its number asyncio knows the protocol and sets TCP_NODELAY on each connection.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise DeviceLost(
            f"无法监听 / cannot listen on {host} port {port}: {error.strerror or error}"
        ) from None
    return listening


async def serve(
    application: Application,
    listening: socket.socket,
    *beside: Coroutine[Any, Any, None],
    limits: Limits = LIMITS,
    refused: Callable[[], None] | None = None,
    websocket: type[asyncio.Protocol] | None = None,
) -> None:
    """Answer requests until cancelled, and run ``beside`` meanwhile; whatever ends first ends all.
    Closes the socket.

    ``refused`` is called for each request that never reaches the application because it is no HTTP.
    ``websocket``: who speaks it, if the application takes any.
    """
    address = listening.getsockname()[:2]
    config = uvicorn.Config(
        application,
        http=partial(_Connection, limits, refused),  # type: ignore[arg-type]
        ws=websocket or "none",
        ws_max_size=limits.message,
        # Heartbeats are the devices' own; not every device's library answers pings.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        # The Date header would be the computer's clock, not the daemon's.
        date_header=False,
        timeout_keep_alive=limits.idle_seconds,
    )
    server = _Server(config)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listening])),
        *(asyncio.create_task(one) for one in beside),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise DeviceLost(f"监听已停止 / the listener on {address} stopped")
    finally:
        for task in tasks[1:]:
            task.cancel()
        server.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        listening.close()


def headers_of(scope: Scope) -> dict[str, str]:
    """Header fields by lower-case name; the first of several holds."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


async def chunks(
    receive: Receive, limit: int, seconds: float = BODY_SECONDS
) -> AsyncIterator[bytes]:
    """A request's body as it arrives.  Raises ``Gone`` or ``TooLong``; ``Slow`` where it did not
    come whole within ``seconds``."""
    received = 0
    more = True
    ends = asyncio.get_running_loop().time() + seconds
    while more:
        try:
            async with asyncio.timeout_at(ends):
                message = await receive()
        except TimeoutError:
            raise Slow from None
        if message["type"] == "http.disconnect":
            raise Gone
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        received += len(chunk)
        if received > limit:
            raise TooLong
        if chunk:
            yield chunk


async def answer(
    send: Send, status: int, body: bytes = b"", kind: bytes = b"application/json"
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status not in (200, 404):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
