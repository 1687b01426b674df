"""A small MQTT broker inside the daemon, for the demo and for halls without one (extra ``broker``).

It speaks MQTT 3.1.1, keeps retained messages in memory and knows no passwords; so it listens on
loopback addresses only.  Boards on the hall's network need a broker with access rules.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from amqtt.broker import Broker

log = structlog.get_logger()

LISTENER = "default"

CONNECT_HEAD = 12
"""Bytes that every CONNECT has at least, and that reach to the protocol level: packet type, 1 to 4
bytes of length, 00 04 "MQTT", level."""

CONNECT_TIMEOUT = 10.0
LEVEL_3_1_1 = 4
UNACCEPTABLE_VERSION = b"\x20\x02\x00\x01"
"""CONNACK, no session present, return code 1."""


class EmbeddedBroker:
    """The broker on ``host`` and ``port``; port 0 takes a free one.

    ``start`` and ``stop`` belong in one event loop, in which the broker runs.  ``stop`` ends every
    connection and leaves no task behind.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 1883) -> None:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f"the embedded broker has no access rules and listens on loopback addresses only, "
                f"not on {host!r}: for other machines install a broker such as Mosquitto"
            )
        self.host = host
        self.port = port
        self._broker: Broker | None = None
        self._server: asyncio.Server | None = None
        self._talks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one.  Raises ``OSError`` when the address is in
        use and ``ModuleNotFoundError`` when the extra is not installed."""
        try:
            from amqtt.broker import Broker
            from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                "the embedded broker needs amqtt: pip install 'hallwatch[broker]'"
            ) from missing
        # Both tell every packet and every state transition.
        for chatty in ("amqtt", "transitions"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        settings = BrokerConfig(
            # We accept the connections ourselves: only so a free port can be asked for, and every
            # connection be ended.
            listeners={LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
        broker = Broker(settings)
        await broker.start()
        self._broker = broker
        try:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
        except OSError:
            await self.stop()
            raise
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        # amqtt swallows the cancellation of a connection that is waiting for bytes; the end of its
        # bytes it understands.
        for writer in self._talks.values():
            writer.transport.abort()
        if self._talks:
            _, stuck = await asyncio.wait(self._talks, timeout=CONNECT_TIMEOUT)
            for talk in stuck:
                talk.cancel()
        if self._broker is not None:
            await self._broker.shutdown()
            self._broker = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._talks[talk] = writer
        talk.add_done_callback(self._talks.pop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from amqtt.adapters import StreamWriterAdapter

        assert self._broker is not None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                head = await reader.readexactly(CONNECT_HEAD)
            name = head.find(b"\x00\x04MQTT")
            if name > 0 and head[name + 6] != LEVEL_3_1_1:
                # amqtt takes the properties of an MQTT 5 CONNECT for the length of the client id
                # and waits for ever; a client that is told goes on with 3.1.1.
                writer.write(UNACCEPTABLE_VERSION)
                return
            await self._broker.external_connected(
                _Resumed(head, reader), StreamWriterAdapter(writer), LISTENER
            )
        except Exception as error:  # noqa: BLE001 - one client's rubbish must end nothing else
            log.debug("mqtt client dropped", error=repr(error))
        finally:
            writer.close()


class _Resumed:
    """A stream, as amqtt reads one, with what was already read of it put back."""

    def __init__(self, head: bytes, rest: asyncio.StreamReader) -> None:
        self._head = head
        self._rest = rest

    async def read(self, n: int = -1) -> bytes:
        if n < 0:
            n = len(self._head)
        head, self._head = self._head[:n], self._head[n:]
        return head + await self._rest.readexactly(n - len(head)) if len(head) < n else head

    def feed_eof(self) -> None:
        self._rest.feed_eof()
