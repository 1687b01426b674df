"""Ratings and queue events that others publish on an MQTT broker.

    topic                            payload (drivers/counter_json.py)         reading
    {root}/in/pad/{pad}/rating       one rating; its pad_id is {pad}           Rating
    {root}/in/queue/event            one queue event, or a list of them        QueueEvent

QoS 1 from the pad or the queue system to the broker and from the broker to us: a message is
acknowledged after it was journalled.  The session outlives a broken connection and a restart of
hallwatch, so the broker keeps meanwhile what is published; for a week, where it speaks MQTT 5.

Refused, counted and journalled as unreadable: what is retained (it would come again with every
start), what is larger than 4 KiB, what is no JSON, what lacks or misstates a field, and what names
a window that there is not.  A message that came before is the same reading and is stored once.

A queue system whose clock is slow is dated by ours once its messages have shown it; what it told
stays beside.

One device of the settings is one connection to one broker; its id stands in the readings, the
window in their bodies.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import structs
from paho.mqtt import MQTTException
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from drivers import counter_json
from drivers.base import Context, Device, DeviceLost, DeviceRefused
from drivers.counter_json import BadBody, FieldError, TellerClock
from rules.model import HOUR, Body, DeviceEvent, Instant, QueueEvent, Rating, Reading, Unreadable

FAMILY = "mqtt_counter"

PAYLOAD_LIMIT = 4096
PACKET_LIMIT = 65_536
"""An MQTT 5 broker does not send us more than this at once."""
WINDOW = 50
"""Messages that are here and not acknowledged; an MQTT 5 broker sends no more."""
WAITING_LIMIT = 1_000
"""The same for a broker that sends more, and for what nobody wants acknowledged (QoS 0)."""
SESSION_SECONDS = 7 * 86_400
ANSWER_SECONDS = 5.0
STEP_SECONDS = 1.0
UNREADABLE_AN_HOUR = 100
"""Refused messages that are journalled in an hour; the rest are counted."""

TAKEOVERS, TAKEOVER_SPAN = 3, 60_000
"""A client id that two use makes the broker hang up on one of them again and again.  Neither 3.1.1
nor Mosquitto 2.0.11 with MQTT 5 says that this is why."""
TAKEN_OVER = 0x8E
SILENCE = 0x8D
"""Nothing was heard for the time of ``keepalive``."""
UNSUPPORTED_VERSION = 0x84
TRANSIENT = frozenset((0x88, 0x89, 0x8B, 0x97, 0x9F))
"""MQTT 5 reasons that pass: unavailable, busy, shutting down, quota, rate."""

PAD_TOPIC = re.compile(r"(?P<root>.+)/in/pad/(?P<pad>[^/]+)/rating")
QUEUE_TOPIC = re.compile(r"(?P<root>.+)/in/queue/event")
ROOT = re.compile(r"[A-Za-z0-9_-]{1,64}(?:/[A-Za-z0-9_-]{1,64}){0,7}")

# --------------------------------------------------------------------------------------------
# Messages
# --------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a message says: ``at`` by the teller's clock, none if it has none; ``raw`` what the
    journal keeps of the bytes; ``time`` how the moment was written."""

    body: Body
    at: Instant | None = None
    raw: bytes = b""
    time: str = ""


def message(
    topic: str, payload: bytes, hall: str = "", windows: Collection[str] = ()
) -> Iterator[Told]:
    """What is in one message.  What cannot be read is ``Unreadable``; in a list, that item alone.

    ``hall``: if given, another hall in the body is refused.  ``windows``: those there are.
    """
    kept = counter_json.masked_bytes(payload, PAYLOAD_LIMIT)
    if len(payload) > PAYLOAD_LIMIT:
        yield Told(
            Unreadable(f"{len(payload)} bytes on {topic}; expected at most {PAYLOAD_LIMIT}"),
            raw=kept,
        )
        return
    pad = PAD_TOPIC.fullmatch(topic)
    if pad is None and not QUEUE_TOPIC.fullmatch(topic):
        yield Told(Unreadable(f"nothing is expected on the topic {topic[:200]}"), raw=kept)
        return
    try:
        told = counter_json.read(payload)
        if pad is not None:
            yield _rating(told, pad["pad"], hall, windows)
            return
        items = counter_json.queue_items(told)
    except BadBody as error:
        yield Told(Unreadable(f"{topic}: {error}"[:500]), raw=kept)
        return
    for place, item in enumerate(items):
        try:
            yield _event(item, hall, windows)
        except BadBody as error:
            where = f"{topic}: " if len(items) == 1 else f"{topic}: event {place + 1}: "
            yield Told(Unreadable(f"{where}{error}"[:500]), raw=kept)


def _rating(told: object, pad: str, hall: str, windows: Collection[str]) -> Told:
    rating = counter_json.rating(told, pad=pad, windows=windows)
    if isinstance(told, dict) and not told.get("pad_id"):
        raise BadBody(FieldError("pad_id", f"required, but missing; expected {pad}"))
    if windows and not rating.body.window:
        raise BadBody(FieldError("window", "required, but missing"))
    _at_home(rating.hall, hall, rating.body.window, windows)
    return Told(rating.body, rating.pressed_at, time=rating.pressed_text)


def _event(told: object, hall: str, windows: Collection[str]) -> Told:
    event = counter_json.queue_event(told, windows=windows)
    _at_home(event.hall, hall, event.body.window, windows)
    return Told(event.body, event.at, time=event.at_text)


def _at_home(told: str, hall: str, window: str, windows: Collection[str]) -> None:
    if told and hall and told != hall:
        raise BadBody(FieldError("hall", f"expected {hall}"))
    if window and windows and window not in windows:
        raise BadBody(FieldError("window", f"there is no window '{window}' in the settings"))


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Readings in a capture: the bytes of MQTT 3.1.1 connections, or the lines that
    ``mosquitto_sub -v`` prints, ``topic payload``.  ``at`` is 0 where no time was told."""
    if data[:1] and data[0] >> 4 in (1, 2, 3) and not data[:1].isalpha() and b"/in/" in data:
        told = list(publications(data))
    else:
        told = []
        for line in data.splitlines():
            name, _, payload = line.strip().partition(b" ")
            if name:
                told.append((name.decode("utf-8", "replace"), payload))
    for topic, payload in told:
        for one in message(topic, payload):
            yield Reading("capture", one.at or 0, one.body, one.raw)


def publications(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each PUBLISH in a stream of whole MQTT 3.1.1 packets; ends where the
    stream is cut or is none."""
    at = 0
    while at + 2 <= len(data):
        kind, size, shift, place = data[at], 0, 0, at + 1
        while place < len(data) and shift <= 21:
            size |= (data[place] & 127) << shift
            shift += 7
            place += 1
            if data[place - 1] < 128:
                break
        else:
            return
        body = data[place : place + size]
        if len(body) < size:
            return
        if kind >> 4 == 3 and size >= 2:
            ends = 2 + int.from_bytes(body[:2], "big")
            begins = ends + (2 if kind & 6 else 0)
            if begins <= size:
                yield body[2:ends].decode("utf-8", "replace"), body[begins:]
        at = place + size


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MqttCounterOptions:
    """One broker.  ``root``: what stands before ``/in/`` in the topics; its last word is the hall.

    ``client_id`` must never change and be nobody else's: the broker keeps messages for it.
    ``protocol``: ``auto`` tries MQTT 5, then 3.1.1.  ``keepalive``: seconds.
    """

    host: str
    root: str
    port: int = 1883
    client_id: str = ""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive: int = 30

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host is empty")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: expected 1 to 65535")
        if not ROOT.fullmatch(self.root):
            raise ValueError(
                f"root {self.root!r}: expected words of letters, digits, _ and -, with / between"
                " them, such as hall/h1"
            )
        if not 5 <= self.keepalive <= 3600:
            raise ValueError(f"keepalive {self.keepalive}: expected 5 to 3600 seconds")
        if self.password_file and not self.username:
            raise ValueError("password_file is given, but no username")
        if (self.ca_file or self.cert_file or self.key_file) and not self.tls:
            raise ValueError("certificate files are given, but tls is off")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")

    @property
    def hall(self) -> str:
        return self.root.rpartition("/")[2]

    @property
    def identity(self) -> str:
        return self.client_id or f"hallwatch-{self.hall}-in"

    def link(self) -> tuple[str, int, str]:
        return (self.host, self.port, self.identity)


# --------------------------------------------------------------------------------------------
# The connection
# --------------------------------------------------------------------------------------------


_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MQTTException, TypeError,
    ValueError, struct.error,
)  # fmt: skip


class _VersionRefused(Exception):
    """The broker does not speak this version of the protocol, as far as one can tell."""


class _Wire:
    """One connection, from CONNECT to its end, in the event loop; only the connecting itself, which
    paho does blocking, is done in a thread."""

    def __init__(self, options: MqttCounterOptions, version: MQTTProtocolVersion) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._socket: Any = None
        self._changed = asyncio.Event()
        self.heard = 0
        """Times that bytes came."""
        self.greeting: ReasonCode | None = None
        self.granted: dict[int, list[ReasonCode]] = {}
        self.parting: ReasonCode | None = None
        """What the broker said when it ended the connection."""
        self.hung_up = False
        """The broker closed the connection without a reason, or because of the client id."""
        self.broken = ""
        self.ended = False
        self.arrived: deque[MQTTMessage] = deque()
        self.dropped = 0
        self.version = version
        modern = version == MQTTProtocolVersion.MQTTv5
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.identity,
            clean_session=None if modern else False,
            protocol=version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.client.connect_timeout = ANSWER_SECONDS
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        # Before paho closes it: a number that is used anew must not be watched under its old name.
        self.client.on_socket_close = lambda *_: self._forget()

    async def connect(self, password: str) -> None:
        """Until CONNACK; raises ``OSError`` where there is no broker."""
        options = self._options
        if options.username:
            self.client.username_pw_set(options.username, password)
        if options.tls:
            tls = await asyncio.to_thread(_tls_context, options)
            self.client.tls_set_context(tls)
        connecting = asyncio.ensure_future(asyncio.to_thread(self._connect))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # A thread cannot be stopped: what it has opened is closed when it comes to its end.
            connecting.add_done_callback(self._abandon)
            raise
        except ssl.SSLError as error:
            raise DeviceLost(
                f"TLS with the broker at {options.host}:{options.port} failed: {error}"
            ) from None
        self._socket = self.client.socket()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._readable)
        await self.until(lambda: self.greeting is not None, ANSWER_SECONDS)

    def _abandon(self, connecting: asyncio.Future[None]) -> None:
        if not connecting.cancelled():
            connecting.exception()
        self.close()

    def _connect(self) -> None:
        options = self._options
        if self.version != MQTTProtocolVersion.MQTTv5:
            self.client.connect(options.host, options.port, options.keepalive)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_SECONDS
        properties.ReceiveMaximum = WINDOW
        properties.MaximumPacketSize = PACKET_LIMIT
        self.client.connect(
            options.host,
            options.port,
            options.keepalive,
            clean_start=False,
            properties=properties,
        )

    async def subscribe(self, topic: str) -> list[ReasonCode]:
        """Nothing if the broker did not answer."""
        if self.version == MQTTProtocolVersion.MQTTv5:
            # Retained as published, so that what was published to stay is seen for what it is.
            _, number = self.client.subscribe(
                topic, options=SubscribeOptions(qos=1, retainAsPublished=True)
            )
        else:
            _, number = self.client.subscribe(topic, 1)
        await self.until(lambda: number in self.granted, ANSWER_SECONDS)
        return self.granted.get(number or 0, [])

    async def until(self, done: Any, seconds: float) -> bool:
        """Talk with the broker until ``done()``, the end, or so long."""
        deadline = self._loop.time() + seconds
        while not done():
            left = deadline - self._loop.time()
            if self.ended or left <= 0:
                return False
            self._changed.clear()
            self._flush()
            try:
                async with asyncio.timeout(min(left, STEP_SECONDS)):
                    await self._changed.wait()
            except TimeoutError:
                self.keep()
        return True

    def ack(self, arrived: MQTTMessage) -> None:
        if arrived.qos and not self.ended:
            self.client.ack(arrived.mid, arrived.qos)

    def _flush(self) -> None:
        if not self.ended and self.client.want_write():
            self._after(self.client.loop_write())

    def wake(self, _reason: object = None) -> None:
        """Let ``until`` look again."""
        self._changed.set()

    def keep(self) -> None:
        """Keep-alive: asks for a sign of life in time, and ends the connection without one."""
        if not self.ended:
            self._after(self.client.loop_misc())

    def _readable(self) -> None:
        self.heard += 1
        try:
            result = self.client.loop_read()
            # What TLS has already decrypted does not make the socket readable again.
            while (
                result == MQTTErrorCode.MQTT_ERR_SUCCESS
                and isinstance(self._socket, ssl.SSLSocket)
                and self._socket.fileno() >= 0
                and self._socket.pending()
            ):
                result = self.client.loop_read()
        except _BROKEN as error:
            # paho does not expect every kind of packet that is none.
            self.broken = f"sent what is no MQTT: {error!r}"
            result = MQTTErrorCode.MQTT_ERR_PROTOCOL
        self._after(result)

    def _after(self, result: MQTTErrorCode) -> None:
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or self.client.socket() is None:
            self.ended = True
            self._forget()
        self._changed.set()

    def _forget(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket = None

    def close(self) -> None:
        """Say goodbye if there is anybody; the session stays with the broker."""
        self._forget()
        wire = self.client.socket()
        if wire is not None:
            self.client.disconnect()
            self.client.loop_write()
        if (wire := self.client.socket()) is not None:
            wire.close()

    # -- what paho calls

    def _on_connect(
        self, _c: Client, _u: Any, _f: Any, reason: ReasonCode, _p: Properties | None
    ) -> None:
        self.greeting = reason

    def _on_subscribe(
        self, _c: Client, _u: Any, mid: int, reasons: list[ReasonCode], _p: Properties | None
    ) -> None:
        self.granted[mid] = reasons

    def _on_disconnect(
        self, _c: Client, _u: Any, flags: Any, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if self.parting is None:
            # The broker's own word comes first; then paho adds that the socket is closed.
            self.parting = reason
            silent = not flags.is_disconnect_packet_from_server
            self.hung_up = reason.value == TAKEN_OVER or (silent and reason.value != SILENCE)

    def _on_message(self, _c: Client, _u: Any, arrived: MQTTMessage) -> None:
        if len(self.arrived) >= WAITING_LIMIT:
            # Not acknowledged, so it comes again with the next connection if it is worth it.
            self.dropped += 1
            return
        self.arrived.append(arrived)


def _tls_context(options: MqttCounterOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file)
    except OSError as error:
        raise DeviceRefused(f"the certificate files cannot be used: {error}") from None
    return context


class MqttCounter:
    """One broker and what is published there for us."""

    options = MqttCounterOptions
    attendance = False

    def __init__(self, devices: Sequence[Device]) -> None:
        if len(devices) != 1:
            ids = ", ".join(device.id for device in devices)
            raise ValueError(
                f"{ids} would use one client id on one broker and cut each other off;"
                " give each a client_id of its own"
            )
        self._device = devices[0]
        self._options: MqttCounterOptions = devices[0].options
        self._takeovers: deque[Instant] = deque(maxlen=TAKEOVERS)
        self._counts: Counter[str] = Counter()
        self._clock = TellerClock()
        self._retained: set[int] = set()
        self._hour = 0
        self._unreadable = 0

    async def run(self, context: Context) -> None:
        slow = context.mark(self._device.id, "slow") or ""
        self._clock = TellerClock(int(slow) if slow.isdecimal() else 0)
        wire = await self._greeted(context)
        try:
            await self._serve(context, wire)
        finally:
            wire.close()

    async def _greeted(self, context: Context) -> _Wire:
        """A connection that is logged in and subscribed."""
        versions = {
            "auto": (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
            "5": (MQTTProtocolVersion.MQTTv5,),
            "3.1.1": (MQTTProtocolVersion.MQTTv311,),
        }[self._options.protocol]
        password = await asyncio.to_thread(self._password)
        for version in versions[:-1]:
            try:
                return await self._greet(context, version, password)
            except _VersionRefused:
                pass
        try:
            return await self._greet(context, versions[-1], password)
        except _VersionRefused as refused:
            raise DeviceLost(f"{self._place}: {refused}") from None

    @property
    def _place(self) -> str:
        return f"the broker at {self._options.host}:{self._options.port}"

    def _password(self) -> str:
        path = self._options.password_file
        if not path:
            return ""
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise DeviceRefused(f"password_file {path} cannot be read: {error}") from None

    async def _greet(self, context: Context, version: MQTTProtocolVersion, password: str) -> _Wire:
        wire = _Wire(self._options, version)
        try:
            await self._enter(wire, password)
        except BaseException:
            wire.close()
            raise
        context.contact(self._device.id)
        shown = "5" if version == MQTTProtocolVersion.MQTTv5 else "3.1.1"
        context.note(self._device.id, protocol=shown, client_id=self._options.identity)
        return wire

    async def _enter(self, wire: _Wire, password: str) -> None:
        try:
            await wire.connect(password)
        except OSError as error:
            raise DeviceLost(f"{self._place} cannot be reached: {error}") from None
        reason = wire.greeting
        if reason is None:
            # Some brokers take the properties of an MQTT 5 CONNECT for the length of something
            # and wait for the rest.
            raise _VersionRefused(wire.broken or "no answer to CONNECT")
        if reason.is_failure:
            if reason.value == UNSUPPORTED_VERSION:
                raise _VersionRefused("this version of MQTT is not spoken")
            if reason.value in TRANSIENT:
                raise DeviceLost(f"{self._place} answered: {reason}")
            who = self._options.username or "a client without a user name"
            raise DeviceRefused(f"{self._place} refused {who}: {reason}")
        for topic in ("in/queue/event", "in/pad/+/rating"):
            granted = await wire.subscribe(f"{self._options.root}/{topic}")
            if not granted:
                raise DeviceLost(f"{self._place} did not answer the subscription of {topic}")
            if any(code.is_failure for code in granted):
                raise DeviceRefused(
                    f"{self._place} refused the subscription of {self._options.root}/{topic}"
                )

    async def _serve(self, context: Context, wire: _Wire) -> None:
        heard = 0
        while not wire.ended:
            await wire.until(lambda: bool(wire.arrived), STEP_SECONDS)
            wire.keep()
            if wire.heard != heard:
                heard = wire.heard
                context.contact(self._device.id)
            if wire.dropped:
                self._count(context, "dropped", wire.dropped)
                wire.dropped = 0
            batch = [wire.arrived.popleft() for _ in range(min(len(wire.arrived), WINDOW))]
            if batch:
                await self._take(context, wire, batch)
        await self._parted(context, wire)

    async def _take(self, context: Context, wire: _Wire, batch: list[MQTTMessage]) -> None:
        slow = self._clock.slow
        readings = [reading for one in batch for reading in self._readings(context, one)]
        marks = {}
        if self._clock.slow != slow:
            marks[self._device.id, "slow"] = str(self._clock.slow)
            context.note(self._device.id, clock_slow_ms=self._clock.slow)
        pause = 1.0
        while not wire.ended:
            try:
                new = await context.emit(readings, marks)
                break
            except OSError as error:
                # The broker keeps the rest: it is told nothing, and sends no more than its window.
                self._count(context, "not_stored", last_error=str(error))
                wait = asyncio.ensure_future(context.sleep(pause))
                wait.add_done_callback(wire.wake)
                try:
                    while not wait.done() and not wire.ended:
                        await wire.until(wait.done, STEP_SECONDS)
                finally:
                    wait.cancel()
                pause = min(30.0, pause * 2)
        else:
            return
        for one in batch:
            wire.ack(one)
        self._count(context, "messages", len(batch))
        if new < len(readings):
            self._count(context, "repeats", len(readings) - new)

    def _readings(self, context: Context, arrived: MQTTMessage) -> Iterator[Reading]:
        now = context.now()
        try:
            topic = arrived.topic
        except UnicodeDecodeError:
            topic = "?"
        if arrived.retain and not self._asked_for(topic):
            # The broker inside hallwatch sends retained messages to whoever connects.
            self._count(context, "not_asked_for")
            return
        if arrived.retain:
            # The same one comes with every connection.
            if (mark := hash((topic, bytes(arrived.payload)))) in self._retained:
                return
            if len(self._retained) < WAITING_LIMIT:
                self._retained.add(mark)
            kept = counter_json.masked_bytes(bytes(arrived.payload), PAYLOAD_LIMIT)
            told: Iterator[Told] = iter(
                [Told(Unreadable(f"a retained message on {topic[:200]} is refused"), raw=kept)]
            )
            self._count(context, "retained")
        else:
            told = message(topic, bytes(arrived.payload), self._options.hall, context.windows)
        for one in told:
            if isinstance(one.body, Unreadable):
                self._count(context, "decode_errors", last_error=one.body.reason)
                if not self._may_keep(now):
                    continue
            yield _placed(self._device.id, one, now, self._clock)

    def _asked_for(self, topic: str) -> bool:
        found = PAD_TOPIC.fullmatch(topic) or QUEUE_TOPIC.fullmatch(topic)
        return found is not None and found["root"] == self._options.root

    def _may_keep(self, now: Instant) -> bool:
        if self._hour != now // HOUR:
            self._hour, self._unreadable = now // HOUR, 0
        self._unreadable += 1
        return self._unreadable <= UNREADABLE_AN_HOUR

    def _count(self, context: Context, what: str, more: int = 1, **facts: Any) -> None:
        self._counts[what] += more
        context.note(self._device.id, **{what: self._counts[what]}, **facts)

    async def _parted(self, context: Context, wire: _Wire) -> None:
        """Say why the connection ended."""
        reason = wire.parting
        if wire.hung_up:
            now = context.now()
            self._takeovers.append(now)
            if len(self._takeovers) == TAKEOVERS and now - self._takeovers[0] < TAKEOVER_SPAN:
                self._takeovers.clear()
                identity = self._options.identity
                event = DeviceEvent("duplicate_client_id", detail=identity)
                await context.emit([Reading(self._device.id, now, event)])
                raise DeviceRefused(
                    f"{self._place} hung up {TAKEOVERS} times in a minute: probably somebody else"
                    f" uses the client id {identity}, which must be nobody else's"
                )
        why = wire.broken or f"ended the connection{f': {reason}' if reason else ''}"
        raise DeviceLost(f"{self._place} {why}")


def _placed(device: str, told: Told, now: Instant, clock: TellerClock) -> Reading:
    """The reading, at the teller's time if its clock can be believed.  ``clock``: the queue
    system's; pads keep ratings back for hours, so that nothing shows theirs."""
    body = told.body
    queue = isinstance(body, QueueEvent)
    at, skewed = (clock.placed if queue else counter_json.placed)(told.at, now)
    if not skewed:
        return Reading(device, at, body, told.raw)
    if isinstance(body, Rating):
        body = structs.replace(body, problem="clock_skew")
    return Reading(device, at, body, told.time.encode())


DRIVER = MqttCounter
