"""The HTTP/1.1 server of emulated devices that are asked: requests, and an orderly stop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple


class Request(NamedTuple):
    method: str
    target: str
    fields: Mapping[str, str]
    """By lower-case name."""
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request.  Raises ``asyncio.IncompleteReadError`` when there is none any more."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, target, _ = f"{head.splitlines()[0]}  ".split(" ", 2)
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
    }
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    return Request(method, target, fields, body)


class HttpPeer:
    """To be derived from: ``_one`` answers one request."""

    def __init__(self, tls: ssl.SSLContext | None = None, head_limit: int = 1 << 16) -> None:
        self.port = 0
        self._tls = tls
        self._head_limit = head_limit
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        self._server = await asyncio.start_server(
            self._serve, host, port, ssl=self._tls, limit=self._head_limit
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            # ``stop`` cancels what waits.
            with suppress(
                OSError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                asyncio.CancelledError,
            ):
                while await self._one(reader, writer):
                    pass
        finally:
            self._handlers.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether there may be another."""
        raise NotImplementedError
