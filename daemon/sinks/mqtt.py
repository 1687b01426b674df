"""Changes to an MQTT broker: retained states for who has just been switched on, events for who
listens.

JSON is under ``hall/{hall}/`` alone, finished texts for simple boards are under ``hallt/{hall}/``;
docs/mqtt.md has the topics, payloads and access rules.  States are retained, describe themselves
and are sent again after every connect, because a broker may have lost them; events are never
retained and keep their id when they are repeated.

MQTT 5 is tried first, then 3.1.1.  paho-mqtt speaks the protocol but queues nothing for us: we
publish only while connected, and a change counts as delivered when the broker has acknowledged all
its messages.  ``deliver`` writes to the socket from the outbox's thread, without a detour; a thread
of our own connects, reads, sends heartbeats and answers commands.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from random import uniform
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import structlog
from msgspec import Raw, Struct
from msgspec import json as msgspec_json
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.boards import (
    CALLS,
    LIVE,
    AtWindow,
    Content,
    Counter,
    Places,
    board_line,
    compact,
    instant,
    plain_ticket,
    printable,
)
from daemon.outbox import Change, Delivered, SinkDown
from rules.model import DAY, Instant

log = structlog.get_logger()

HEARTBEAT = 60.0
SNAPSHOT = 600.0
SWEEP = 2.0
"""Seconds between two ``bridge/state``, two snapshots of all states, and from the connect until
retained topics that nobody knows any more are cleared."""

STATES_PER_SECOND = 200
"""A snapshot is slower than the broker could take it: small readers lose messages in a burst."""

ANSWER_TIMEOUT = 5.0
"""For the broker's greeting and for our own test message to come back."""

ACK_TIMEOUT = 30.0
"""A broker that answers pings but acknowledges nothing for so long is taken for lost."""

TAKEOVERS, TAKEOVER_SPAN = 3, 60.0
COMMANDS_KEPT = 1000
COMMAND_LIMIT = 4096
ANSWERS_KEPT = 100
FOUND_LIMIT = 10_000

OPEN = ("open", "acknowledged")
"""States of an alert that is not closed; an acknowledged one is still waiting for its end."""

ENVELOPE = frozenset(("v", "id", "ts", "seq", "type"))
SEGMENT = re.compile(r"[a-z0-9_-]{1,64}")

NO_PERSON = (
    "state",
    "since",
    "reason",
    "clock_offset_ms",
    "clock_checked_at",
    "complete_until",
    "last_reading_at",
    "punches",
    "unreadable",
    "info",
)
"""The fields of a device's row that go on ``dev/{device}/state``.  Boards and technicians' tools
may read that topic, so what is not known to be free of people is left out."""

EVENT_EXPIRY = 30
"""Seconds after which an MQTT 5 broker drops what happened at a window: nobody wants to hear of an
old call."""

NO_PLACES = Places()

QUOTA_EXCEEDED = 0x97
UNSUPPORTED_VERSION = 0x84
TAKEN_OVER = 0x8E
REFUSAL = 0x80
TRANSIENT = frozenset((0x88, 0x89, 0x8B, 0x97, 0x9F))
"""MQTT 5 reason codes: from ``REFUSAL`` on they are errors; ``TRANSIENT`` ones of CONNACK pass
(unavailable, busy, shutting down, quota, rate)."""

BRIDGE = "bridge"
"""The target of commands to hallwatch itself."""

WINDOW_SPARE = 2
"""Places under the broker's limit that are kept for heartbeats and answers."""

PACKET_OVERHEAD = 12
"""Bytes of a PUBLISH beside topic and payload, at most."""

GOODBYE_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Where the broker is and who we are to it.  ``client_id`` must be fixed for a hall and known
    to nobody else; ``keepalive`` and the waits are seconds; ``window`` is the number of messages
    on their way at a time."""

    hall: str
    host: str
    port: int = 1883
    name: str = "mqtt"
    client_id: str = ""
    username: str = ""
    password: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive: int = 30
    window: int = 100
    retry_min: float = 1.0
    retry_max: float = 60.0

    def __post_init__(self) -> None:
        if not SEGMENT.fullmatch(self.hall):
            raise ValueError(f"hall {self.hall!r} cannot be a topic: use a-z, 0-9, '-' and '_'")
        if not 1 <= self.window <= 10_000:
            raise ValueError("window must be between 1 and 10000 messages")
        if (self.cert_file or self.key_file or self.ca_file) and not self.tls:
            raise ValueError("certificate files are given, but tls is off")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")


class MqttHealth(Struct, frozen=True):
    """``link``: ``connecting ready down refused stopped``.  ``code`` is ``duplicate_client_id``
    when the sink has stopped because somebody else uses its client id."""

    link: str
    protocol: str
    error: str
    code: str
    commands_refused: int
    cleared: int
    other_boot: str
    """Boot id of another hallwatch that publishes for this hall, if one was seen."""
    replaced: int = 0
    cut: int = 0
    """Characters of boards' texts that became ``?``, and that did not fit."""


class _Message(NamedTuple):
    topic: str
    payload: bytes
    retain: bool
    qos: int = 1
    expires: bool = False


class _RatingRow(Struct, frozen=True):
    """All that is read of a rating."""

    rating_id: str
    window: str
    level: int | None
    channel: str
    scale_id: str
    pressed_at: str


class _Command(Struct, frozen=True):
    id: str
    op: str
    expires: str = ""


class _BridgeState(Struct, frozen=True):
    state: str = ""
    boot: str = ""


class _Refused(Exception):
    """The broker will say no again: try rarely."""


class _VersionRefused(Exception):
    """The broker does not speak this version of the protocol, as far as one can tell."""


class _Pace:
    """How early the next state of a snapshot would be."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._sent = 0

    def early(self) -> float:
        early = self._started + self._sent / STATES_PER_SECOND - time.monotonic()
        self._sent += 1
        return early


class _Batch:
    """Messages on their way: how many of each change are not acknowledged yet, and what the broker
    refused.  Positions are those of the changes in the batch."""

    def __init__(self, changes: int) -> None:
        self.unsettled = [0] * changes
        self.refused: dict[int, str] = {}
        self.try_later = ""


class MqttSink:
    """One broker as a sink.

    ``source`` tells this installation's database from every other one: event ids are
    ``{source}-{seq}``.  ``snapshot()`` gives the present rows of all devices, and of all alerts
    that are open or were closed in the last 24 hours; a state that it does not name is removed
    from the broker; of windows and service areas the newest rows.  ``places`` are the windows,
    areas and boards of the settings.  ``now`` is the daemon's clock, ``ready`` is called after each
    connect, when changes can be delivered again.  Both are called from the sink's own thread.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        zone: ZoneInfo,
        source: str,
        version: str,
        snapshot: Callable[[], Iterable[Change]],
        now: Callable[[], Instant],
        ready: Callable[[], None],
        places: Places = NO_PLACES,
    ) -> None:
        self.name = settings.name
        self.boot = secrets.token_hex(4)
        self._settings = settings
        self._root = f"hall/{settings.hall}"
        self._plain = f"hallt/{settings.hall}"
        self._bridge = f"{self._root}/bridge/state"
        self._client_id = settings.client_id or f"hallwatch-{settings.hall}"
        self._zone = zone
        self._source = source
        self._version = version
        self._snapshot = snapshot
        self._now = now
        self._ready = ready
        self._counter = Counter(places)
        self._replaced = 0
        self._cut = 0
        self._boards_due = float("inf")
        """By ``time.monotonic``: when a board may change that could not sooner."""
        self._unsent: dict[str, _Message] = {}
        """Boards' topics, each with its newest text, for which the window had no room yet."""
        expiry = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        expiry.MessageExpiryInterval = EVENT_EXPIRY
        self._expiry = expiry

        # One lock around every call into paho and everything below: paho's own locks do not keep
        # two writers from cutting each other's packets in half.
        self._wire = threading.Condition(threading.Lock())
        self._client: Client | None = None
        self._link = "connecting"
        self._error = ""
        self._code = ""
        self._protocol = ""
        self._closing = False
        self._greeting: tuple[ReasonCode, Properties | None] | None = None
        self._granted: list[ReasonCode] | None = None
        self._echo = b""
        self._echoed = False
        self._pending: dict[int, tuple[_Batch, int, str]] = {}
        self._window = settings.window
        self._largest = 0
        self._shown: dict[str, tuple[int, int]] = {}
        """Retained topics as we left them in this connection: seq and hash of the payload."""
        self._cleared: dict[str, int] = {}
        """The same for emptied topics, until the snapshot is done that may be older than that."""
        self._found: set[str] | None = None
        """Retained topics the broker had at the connect, while they are being collected."""
        self._answers: deque[_Message] = deque(maxlen=ANSWERS_KEPT)
        self._commands: deque[str] = deque(maxlen=COMMANDS_KEPT)
        self._refresh: set[str] = set()
        self._heartbeat_due = False
        self._takeovers: deque[float] = deque(maxlen=TAKEOVERS)
        self._dropped = False
        self._commands_refused = 0
        self._topics_cleared = 0
        self._other_boot = ""

        # poll() cannot be woken by a lock.
        self._bell, self._bell_rope = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_rope.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{self.name}", daemon=True)

    @property
    def _place(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    # -- what others call ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; returns at once, whether there is a broker or not."""
        self._thread.start()

    def close(self) -> None:
        """Say that hallwatch goes offline, disconnect, and end the thread."""
        with self._wire:
            if self._closing:
                return
            self._closing = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._bell.close()
        self._bell_rope.close()

    def health(self) -> MqttHealth:
        with self._wire:
            return MqttHealth(
                link=self._link,
                protocol=self._protocol,
                error=self._error,
                code=self._code,
                commands_refused=self._commands_refused,
                cleared=self._topics_cleared,
                other_boot=self._other_boot,
                replaced=self._replaced,
                cut=self._cut,
            )

    def deliver(self, changes: Sequence[Change]) -> Delivered:
        """See ``daemon.outbox.Sink``.  Keeps up to ``window`` messages on their way and returns
        when all are acknowledged, or the connection is lost."""
        batch = _Batch(len(changes))
        offered = 0
        with self._wire:
            # The first connect is under way: no reason to call the sink down.
            self._wire.wait_for(lambda: self._link != "connecting", ANSWER_TIMEOUT)
            client = self._client
            if client is None or self._link != "ready":
                raise SinkDown(self._error or "not connected to the broker yet")
            newest = {_subject(change): change.seq for change in sorted(changes, key=_age)}
            for change in changes:
                batch.unsettled[offered] += 1  # until all its messages are on their way
                current = newest[_subject(change)] == change.seq
                for message in self._messages(change, batch, offered, current):
                    if len(self._pending) >= self._window:
                        self._drain(client, self._window // 2)
                    if self._client is client:
                        self._send(client, message, batch, offered, change.seq)
                if self._client is not client or batch.try_later:
                    break
                batch.unsettled[offered] -= 1
                offered += 1
            self._show_boards(client)
            self._drain(client, 0)
            error = batch.try_later or self._error
        settled = 0
        while settled < offered and not batch.unsettled[settled]:
            settled += 1
        if not settled:
            raise SinkDown(error)
        return Delivered(
            accepted=changes[settled - 1].seq,
            rejected=tuple(
                (changes[position].seq, reason)
                for position, reason in sorted(batch.refused.items())
                if position < settled
            ),
        )

    # -- from changes to messages -------------------------------------------------------------

    def _messages(
        self, change: Change, batch: _Batch, position: int, current: bool
    ) -> Iterator[_Message]:
        """The messages of one change; ``current`` is false when a later change of the batch has
        the same state, which then is not shown."""
        try:
            if change.kind in ("device", "alert") and current:
                yield from self._news(self._states(change), change.seq)
            if change.kind == "window":
                yield from self._at_window(change, current)
            elif change.kind == "area":
                area = self._counter.take_area(change.seq, change.row)
                if area is not None and current:
                    seq, messages = self._shown_of("area", area.area)
                    yield from self._news(messages, seq)
            elif change.kind == "rating":
                if change.op == "opened":
                    yield self._rating(change)
            elif change.kind not in ("device", "post"):
                yield self._event(change)
        except (KeyError, ValueError) as error:
            batch.refused[position] = f"cannot be published: {error}"

    def _news(self, messages: Iterable[_Message], seq: int) -> Iterator[_Message]:
        for message in messages:
            if self._is_news(message, seq):
                yield message

    def _at_window(self, change: Change, current: bool) -> Iterator[_Message]:
        """The states and, if it is news, the event of a window.  Events of old calls are left out:
        nobody wants to hear them announced."""
        window = self._counter.take_window(change.seq, change.row)
        if window is None:
            return
        if current:
            seq, messages = self._shown_of("window", window.window)
            yield from self._news(messages, seq)
            if ("area", window.area) in self._counter.names():
                seq, messages = self._shown_of("area", window.area)
                yield from self._news(messages, seq)
        if not window.event or not window.event_at:
            return
        if self._now() - instant(window.event_at) >= LIVE:
            return
        event: dict[str, Any] = {
            "v": 1,
            "id": f"{self._source}-{change.seq}",
            "ts": window.event_at,
            "seq": change.seq,
            "type": window.event,
            "window": window.window,
        }
        if window.ticket:
            event["ticket"] = printable(window.ticket)
        if window.call_seq is not None:
            event["call_seq"] = window.call_seq
        payload = msgspec_json.encode(event)
        yield _Message(f"{self._root}/win/{window.window}/event", payload, False, expires=True)
        if window.event in CALLS:
            yield _Message(f"{self._plain}/flash/{window.window}", b"1", False, qos=0)

    def _rating(self, change: Change) -> _Message:
        """Only what is named here: no person, no text, no ticket."""
        row = msgspec_json.decode(change.row, type=_RatingRow)
        event = {
            "v": 1,
            "id": row.rating_id,
            "ts": row.pressed_at,
            "seq": change.seq,
            "window": row.window,
            "level": row.level,
            "channel": row.channel,
            "scale_id": row.scale_id,
        }
        return _Message(f"{self._root}/rating/event", msgspec_json.encode(event), False)

    def _shown_of(self, kind: str, name: str) -> tuple[int, list[_Message]]:
        """The retained topics of a window or area as of now, and the change they rest on."""
        today = self._today()
        if kind == "area":
            seq, area, ticket = self._counter.area(name, today)
            queue = self._counter.topics[name]
            told: dict[str, Any] = {
                "v": 1,
                "ts": area.updated_at or self._midnight(today),
                "queue": queue,
                "area": name,
                "waiting": area.waiting,
                "open_windows": area.open_windows,
            }
            if ticket:
                told["last_ticket"] = ticket
            return seq, [self._json(f"{self._root}/queue/{queue}/state", told)]
        seq, window = self._counter.window(name, today)
        topic = f"{self._root}/win/{name}/state"
        plain = _Message(f"{self._plain}/w/{name}", plain_ticket(window).encode(), True)
        return seq, [self._json(topic, self._window_state(window)), plain]

    def _window_state(self, window: AtWindow) -> dict[str, Any]:
        """The number of an old call is left out: to a board that is connected, a state that is sent
        again after the broker was away looks like any other, and it announces a higher number."""
        told: dict[str, Any] = {
            "v": 1,
            "ts": window.since or window.updated_at or self._midnight(window.work_date),
            "window": window.window,
            "state": window.state,
        }
        if window.ticket:
            told["ticket"] = printable(window.ticket)
            if window.queue:
                told["queue"] = printable(window.queue)
            if window.called_at:
                told["called_at"] = window.called_at
            if window.repeat is not None:
                told["repeat"] = window.repeat
        if window.call_seq in self._counter.live(self._now()):
            told["call_seq"] = window.call_seq
        return told | {"waiting": window.waiting, "stale": window.state == "unknown"}

    def _json(self, topic: str, told: dict[str, Any]) -> _Message:
        return _Message(topic, msgspec_json.encode(told), True)

    def _board(self, board: str, content: Content | None) -> Iterator[_Message]:
        if content is None:
            return
        settings = self._counter.screens[board].board
        live = self._counter.live(self._now())
        yield _Message(f"{self._root}/board/{board}/state", compact(content, live), True)
        for number, text in enumerate(content.lines, 1):
            line = board_line(text, settings.encoding, settings.max_bytes)
            topic = f"{self._plain}/b/{board}/{number}"
            shown = self._shown.get(topic)
            if shown is None or shown[1] != hash(line.data):
                self._replaced += line.replaced
                self._cut += line.cut
            yield _Message(topic, line.data, True)

    def _states(self, change: Change) -> list[_Message]:
        if not SEGMENT.fullmatch(change.key):
            raise ValueError(f"{change.key!r} cannot be part of a topic")
        row = msgspec_json.decode(change.row, type=dict[str, Any])
        if change.kind == "device":
            topic = f"{self._root}/dev/{change.key}"
            since = row.get("since") or self._rfc3339(change.at)
            avail = {"v": 1, "ts": since, "state": row["state"], "since": since}
            if row.get("reason"):
                avail["reason"] = row["reason"]
            state = {"v": 1, "ts": self._rfc3339(change.at), "device": change.key}
            state |= {field: row[field] for field in NO_PERSON if row.get(field) is not None}
            return [
                _Message(f"{topic}/avail", msgspec_json.encode(avail), True),
                _Message(f"{topic}/state", msgspec_json.encode(state), True),
            ]
        topic = f"{self._root}/alert/{change.key}/state"
        old = self._now() - change.at > DAY
        if row["state"] not in OPEN and (row.get("acknowledged_by") or old):
            return [_Message(topic, b"", True)]
        shown = {"v": 1, "ts": self._rfc3339(change.at)}
        return [_Message(topic, msgspec_json.encode(self._with_row(shown, change)), True)]

    def _event(self, change: Change) -> _Message:
        kind, name = change.kind, change.op
        if kind == "adjustment":
            kind, name = "attendance", f"adjustment_{change.op}"
        elif kind not in ("attendance", "violation", "alert"):
            raise ValueError(f"there is no topic for changes of kind {kind!r}")
        event: dict[str, Any] = {
            "v": 1,
            "id": f"{self._source}-{change.seq}",
            "ts": self._rfc3339(change.at),
            "seq": change.seq,
            "type": name,
        }
        event = self._with_row(event, change)
        if change.reason:
            event["reason"] = change.reason
        payload = msgspec_json.encode(event)
        return _Message(f"{self._root}/{kind}/event", payload, False)

    def _with_row(self, event: dict[str, Any], change: Change) -> dict[str, Any]:
        """The row's fields beside the envelope's; where both have one, the row's is prefixed:
        the ``id`` of a violation becomes ``violation_id``."""
        for field, value in msgspec_json.decode(change.row, type=dict[str, Raw]).items():
            event[f"{change.kind}_{field}" if field in ENVELOPE else field] = value
        return event

    def _rfc3339(self, at: Instant) -> str:
        seconds, millis = divmod(at, 1000)
        moment = datetime.fromtimestamp(seconds, self._zone).replace(microsecond=millis * 1000)
        return moment.isoformat(timespec="milliseconds" if millis else "seconds")

    def _bridge_state(self, state: str) -> bytes:
        return msgspec_json.encode(
            {
                "v": 1,
                "ts": self._rfc3339(self._now()),
                "state": state,
                "version": self._version,
                "boot": self.boot,
            }
        )

    def _midnight(self, day: str) -> str:
        return datetime.fromisoformat(day).replace(tzinfo=self._zone).isoformat()

    def _today(self) -> str:
        return datetime.fromtimestamp(self._now() / 1000, self._zone).date().isoformat()

    # -- sending; the caller holds the lock ---------------------------------------------------

    def _show_boards(self, client: Client) -> None:
        """Publish the boards' texts that changed and may.  Nobody waits for them to be
        acknowledged: after a lost connection all are published again."""
        self._renew_boards()
        for topic in list(self._unsent):
            if self._client is not client or len(self._pending) >= self._window:
                break  # our own thread goes on as soon as something is acknowledged
            message = self._unsent.pop(topic)
            shown = self._shown.get(topic)
            if shown is None or shown[1] != hash(message.payload):
                self._send(client, message, _Batch(1), 0, 0)

    def _renew_boards(self) -> None:
        today, at = self._today(), round(time.monotonic() * 1000)
        due = float("inf")
        for board, screen in self._counter.screens.items():
            content = self._counter.show(board, today, at)
            if screen.due is not None:
                due = min(due, screen.due / 1000)
            if content is not None:
                self._unsent |= {message.topic: message for message in self._board(board, content)}
        if due < self._boards_due:
            self._wake()
        self._boards_due = due

    def _is_news(self, message: _Message, seq: int) -> bool:
        """Whether a state is newer than what the broker has from us, and different."""
        shown = self._shown.get(message.topic)
        same = shown is not None and shown[1] == hash(message.payload)
        return seq > self._last_seq(message.topic) and not same

    def _last_seq(self, topic: str) -> int:
        shown = self._shown.get(topic)
        return shown[0] if shown else self._cleared.get(topic, -1)

    def _drain(self, client: Client, left: int) -> bool:
        """Wait, on the outbox's thread, until at most ``left`` messages are on their way; false
        when the connection is lost."""
        deadline = time.monotonic() + ACK_TIMEOUT
        while self._client is client and (before := len(self._pending)) > left:
            self._wire.wait(max(deadline - time.monotonic(), 0))
            if len(self._pending) < before:
                deadline = time.monotonic() + ACK_TIMEOUT
            elif time.monotonic() >= deadline:
                self._lose(client, f"the broker acknowledged nothing for {ACK_TIMEOUT:.0f} s")
        return self._client is client

    def _send(
        self, client: Client, message: _Message, batch: _Batch, position: int, seq: int
    ) -> None:
        """Hand one message to the broker.  ``seq`` tells older from newer states of a topic."""
        size = len(message.topic) + len(message.payload) + PACKET_OVERHEAD
        if self._largest and size > self._largest:
            batch.refused[position] = (
                f"{message.topic}: {size} bytes, but the broker takes at most {self._largest}"
            )
            return
        if message.retain:
            if message.payload:
                self._shown[message.topic] = (seq, hash(message.payload))
                self._cleared.pop(message.topic, None)
            else:
                self._shown.pop(message.topic, None)
                self._cleared[message.topic] = seq
        expires = message.expires and client.protocol == MQTTProtocolVersion.MQTTv5
        sent = client.publish(
            message.topic,
            message.payload,
            qos=message.qos,
            retain=message.retain,
            properties=self._expiry if expires else None,
        )
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lose(client, f"the connection was lost while writing: {sent.rc.name}")
            return
        if message.qos:
            self._pending[sent.mid] = (batch, position, message.topic)
            batch.unsettled[position] += 1
        if client.want_write():
            self._wake()

    def _lose(self, client: Client, error: str) -> None:
        if self._client is not client:
            return
        self._client = None
        self._pending.clear()
        self._link = "down"
        self._error = f"{error} ({self._place})"
        self._wire.notify_all()
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._bell_rope.send(b"!")

    # -- what paho calls; all with the lock held, from the thread that is inside paho ---------

    def _on_socket_open(self, _client: Client, _userdata: object, sock: Any) -> None:
        # Without it a small message waits up to 40 ms for the acknowledgement of the one before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        _flags: object,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._greeting = (reason, properties)

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        self._granted = reasons

    def _on_publish(
        self,
        client: Client,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is not self._client or mid not in self._pending:
            return
        batch, position, topic = self._pending.pop(mid)
        if reason.value == QUOTA_EXCEEDED:
            batch.try_later = f"the broker takes no more messages now ({reason})"
            return
        batch.unsettled[position] -= 1
        if reason.value >= REFUSAL:
            batch.refused[position] = f"{topic}: {reason}"

    def _on_disconnect(
        self,
        client: Client,
        _userdata: object,
        _flags: object,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is not self._client:
            return
        if reason.value == TAKEN_OVER:
            self._taken_over()
        else:
            self._dropped = True
        self._lose(client, f"the connection to the broker was lost: {reason}")

    def _on_message(self, client: Client, _userdata: object, message: MQTTMessage) -> None:
        if client is not self._client:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if topic == self._bridge:
            self._hear_bridge(bytes(message.payload))
            return
        if topic.startswith(f"{self._root}/cmd/"):
            self._hear_command(topic, message)
        found = self._found
        if found is not None and message.retain and message.payload and len(found) < FOUND_LIMIT:
            found.add(topic)

    # -- what comes from the broker; the caller holds the lock --------------------------------

    def _hear_bridge(self, payload: bytes) -> None:
        if payload == self._echo:
            self._echoed = True
            return
        try:
            told = msgspec_json.decode(payload, type=_BridgeState)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = _BridgeState()
        if told.boot and told.boot != self.boot:
            if self._dropped:
                # 3.1.1 does not tell why it hangs up, nor does Mosquitto 2.0.11 with MQTT 5; but
                # somebody has spoken in our place since.
                self._dropped = False
                self._taken_over()
            if self._echoed and told.state == "online" and told.boot != self._other_boot:
                self._other_boot = told.boot
                log.warning("another hallwatch", hall=self._settings.hall, boot=told.boot)
        if self._echoed and told.state != "online":
            # The will of an earlier connection, or rubbish, hides that we are here.
            self._heartbeat_due = True

    def _taken_over(self) -> None:
        self._takeovers.append(time.monotonic())
        span = self._takeovers[-1] - self._takeovers[0]
        if len(self._takeovers) == TAKEOVERS and span <= TAKEOVER_SPAN:
            self._code = "duplicate_client_id"

    def _hear_command(self, topic: str, message: MQTTMessage) -> None:
        target = topic.removeprefix(f"{self._root}/cmd/")
        if not message.payload:
            return
        try:
            if len(message.payload) > COMMAND_LIMIT or not SEGMENT.fullmatch(target):
                raise ValueError("too long")
            command = msgspec_json.decode(message.payload, type=_Command)
            if not 1 <= len(command.id) <= 64:
                raise ValueError("id must have 1 to 64 characters")
        except ValueError:
            self._commands_refused += 1
            return
        error = self._refusal(command, message.retain) or self._perform(command, target)
        answer: dict[str, Any] = {"v": 1, "ts": self._rfc3339(self._now()), "id": command.id}
        answer["ok"] = not error
        if error:
            self._commands_refused += 1
            answer["error"] = error
        elif command.op == "identify":
            answer |= {"version": self._version, "boot": self.boot}
        self._answers.append(
            _Message(f"{self._root}/ack/{target}", msgspec_json.encode(answer), False)
        )

    def _refusal(self, command: _Command, retained: bool) -> str:
        if retained:
            return "retained commands are refused"
        try:
            expires = datetime.fromisoformat(command.expires)
        except ValueError:
            return "expires must be a time such as 2026-03-02T09:20:00+08:00"
        if expires.tzinfo is None:
            return "expires must have an offset, such as +08:00"
        if expires.timestamp() * 1000 <= self._now():
            return "expired"
        if command.id in self._commands:
            return "this id was used before"
        self._commands.append(command.id)
        return ""

    def _perform(self, command: _Command, target: str) -> str:
        """Do it, or the reason why not.  Nothing that changes records goes over MQTT."""
        known = target == BRIDGE or any(
            f"{self._root}/{kind}/{target}/state" in self._shown for kind in ("dev", "win", "board")
        )
        match command.op:
            case "refresh" if known:
                self._refresh.add(target)
                return ""
            case "identify" if target == BRIDGE:
                return ""
            case "refresh":
                return f"there is no {target}"
            case "identify" | "test_text":
                return f"{target} cannot do {command.op}"
            case _:
                return "unknown op: expected refresh, identify or test_text"

    # -- the thread of our own ----------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing:
            link, error = "down", ""
            try:
                self._session()
                failures = 0
            except _Refused as refused:
                link, error = "refused", str(refused)
            except OSError as lost:
                error = f"no connection to the broker at {self._place}: {lost}"
            except Exception as defect:
                log.exception("mqtt sink failed", sink=self.name)
                error = f"{type(defect).__name__}: {defect}"
            with self._wire:
                if self._code:
                    link = "stopped"
                    error = (
                        f"stopped: another client uses the id {self._client_id!r}; "
                        "give each hallwatch its own client_id and restart this one"
                    )
                news = bool(error) and error != self._error
                self._link, self._error = link, error or self._error
                self._wire.notify_all()
            report = log.warning if news else log.debug
            report("mqtt broker lost", sink=self.name, error=self._error)
            if link == "stopped":
                return
            wait = self._settings.retry_max
            if link == "down":
                wait = min(self._settings.retry_min * 2 ** min(failures, 16), wait)
            failures += 1
            self._pause(wait * uniform(0.75, 1.0))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closing and (left := until - time.monotonic()) > 0:
            self._poll(None, left)

    def _poll(self, client: Client | None, seconds: float) -> bool:
        """Wait for the network or the bell; true when there is something to read."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        wire = -1
        if client is not None:
            with self._wire:
                peer = client.socket()
                wire = -1 if peer is None else peer.fileno()
                events = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
            if wire < 0:
                return False
            poller.register(wire, events)
        events_seen = dict(poller.poll(max(seconds, 0) * 1000))
        if self._bell.fileno() in events_seen:
            with suppress(BlockingIOError):
                self._bell.recv(4096)
        return bool(events_seen.get(wire, 0) & ~select.POLLOUT)

    def _step(self, client: Client, seconds: float) -> None:
        """Wait at most so long for the network, then let paho read, write and ping."""
        readable = self._poll(client, seconds)
        with self._wire:
            if readable and client.socket() is not None:
                client.loop_read()
                # What TLS has already decrypted does not make the socket readable again.
                while (peer := client.socket()) is not None and _decrypted(peer):
                    client.loop_read()
            if client.want_write():
                client.loop_write()
            client.loop_misc()
            self._wire.notify_all()

    def _until(self, client: Client, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or client.socket() is None:
                return False
            self._step(client, left)
        return True

    def _session(self) -> None:
        """One connection, from the greeting to its end."""
        client = self._connect()
        try:
            self._adapt(client)
            self._say_online(client)
            self._show_states(client)
            self._serve(client)
            self._say_goodbye(client)
        finally:
            with self._wire:
                self._lose(client, "disconnected")
            _hang_up(client)

    def _connect(self) -> Client:
        versions = {
            "auto": (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
            "5": (MQTTProtocolVersion.MQTTv5,),
            "3.1.1": (MQTTProtocolVersion.MQTTv311,),
        }[self._settings.protocol]
        for version in versions[:-1]:
            with suppress(_VersionRefused):
                return self._greet(version)
        try:
            return self._greet(versions[-1])
        except _VersionRefused as refused:
            raise ConnectionError(str(refused)) from None

    def _greet(self, version: MQTTProtocolVersion) -> Client:
        """Connect and wait for CONNACK.  A client is made for one connection only, so that paho
        has nothing left over to send again on its own."""
        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = ANSWER_TIMEOUT
        client.max_inflight_messages_set(0)  # the window is ours; paho's would be a queue
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        if settings.username:
            client.username_pw_set(settings.username, settings.password)
        will = {"v": 1, "state": "offline", "version": self._version, "boot": self.boot}
        client.will_set(self._bridge, msgspec_json.encode(will), qos=1, retain=True)
        self._greeting = None
        try:
            if settings.tls:
                client.tls_set_context(self._tls_context())
            client.connect(settings.host, settings.port, settings.keepalive)
        except ssl.SSLError as error:
            raise _Refused(f"TLS with the broker at {self._place} failed: {error}") from error
        if not self._until(client, lambda: self._greeting is not None, ANSWER_TIMEOUT):
            # Some brokers take the properties of an MQTT 5 CONNECT for the length of something
            # and wait for the rest.
            hung_up = client.socket() is None
            _hang_up(client)
            raise _VersionRefused(
                "the broker hung up without an answer to CONNECT"
                if hung_up
                else f"no answer to CONNECT within {ANSWER_TIMEOUT:.0f} s"
            )
        assert self._greeting is not None
        reason = self._greeting[0]
        if not reason.is_failure:
            with self._wire:
                self._client = client
                self._protocol = "5" if version == MQTTProtocolVersion.MQTTv5 else "3.1.1"
                self._shown.clear()
                self._cleared.clear()
                self._answers.clear()
                self._found = set()
                self._unsent.clear()
                self._echoed = False
            return client
        _hang_up(client)
        if reason.value == UNSUPPORTED_VERSION:
            raise _VersionRefused("the broker does not speak this version of MQTT")
        if reason.value in TRANSIENT:
            raise ConnectionError(f"the broker answered: {reason}")
        who = f"user {settings.username!r}" if settings.username else "a client without a user name"
        raise _Refused(f"the broker at {self._place} refused {who}: {reason}")

    def _tls_context(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        return context

    def _adapt(self, client: Client) -> None:
        """Keep to what the broker said it can do, and subscribe."""
        assert self._greeting is not None
        limits = self._greeting[1]
        if not getattr(limits, "RetainAvailable", 1):
            raise _Refused(f"the broker at {self._place} keeps no retained messages")
        if not getattr(limits, "MaximumQoS", 1):
            raise _Refused(f"the broker at {self._place} acknowledges nothing (QoS 0 only)")
        receive = getattr(limits, "ReceiveMaximum", 65_535)
        with self._wire:
            self._largest = getattr(limits, "MaximumPacketSize", 0)
            self._window = max(1, min(self._settings.window, receive - WINDOW_SPARE))
        log.debug("mqtt limits", sink=self.name, window=self._window, largest=self._largest)
        self._subscribe(client, f"{self._root}/#", own=False)
        self._subscribe(client, f"{self._plain}/#", own=False, needed=False)
        self._subscribe(client, self._bridge, own=True)

    def _subscribe(self, client: Client, topic: str, *, own: bool, needed: bool = True) -> None:
        """``own``: also get what we publish ourselves (3.1.1 brokers always send it)."""
        with self._wire:
            self._granted = None
            if client.protocol == MQTTProtocolVersion.MQTTv5:
                client.subscribe(
                    topic, options=SubscribeOptions(1, noLocal=not own, retainAsPublished=not own)
                )
            else:
                client.subscribe(topic, 1)
        self._until(client, lambda: self._granted is not None, ANSWER_TIMEOUT)
        if self._granted is None:
            raise ConnectionError(self._error or f"no answer to the subscription of {topic}")
        if needed and any(reason.is_failure for reason in self._granted):
            raise _Refused(f"the broker at {self._place} refused the subscription of {topic}")

    def _say_online(self, client: Client) -> None:
        """Publish ``online``, and see it come back: a broker whose access rules drop what we
        publish, or what we want to read, does not say so by itself."""
        batch = _Batch(1)
        with self._wire:
            if self._client is not client:
                return
            self._heartbeat_due = False
            self._echo = self._bridge_state("online")
            self._send(client, _Message(self._bridge, self._echo, True), batch, 0, 0)
        if self._echoed:
            return
        self._until(client, lambda: self._echoed or bool(batch.refused), ANSWER_TIMEOUT)
        if not self._echoed and self._client is client:
            who = self._settings.username or "without a user name"
            raise _Refused(
                f"the broker at {self._place} does not let {who} read and write "
                f"{self._root}/#: {batch.refused.get(0, 'our own message did not come back')}"
            )

    def _show_states(self, client: Client, target: str = "") -> None:
        """Publish the retained states, all or those of one device, window or board, and empty what
        is gone."""
        with self._wire:
            before, known = dict(self._shown), self._counter.names()
        changes = list(self._snapshot())  # holds at least what is shown by now
        batch = _Batch(1)
        named = {self._bridge}
        pace = _Pace()
        present: set[tuple[str, str]] = set()
        for change in changes:
            try:
                with self._wire:
                    place = self._take(change)
                    counter = change.kind in ("window", "area")
                    messages = [] if counter else self._states(change)
            except (KeyError, ValueError) as error:
                log.warning("state not published", sink=self.name, key=change.key, error=str(error))
                continue
            if place:
                present.add(place)
            if target and change.key != target:
                continue
            for message in messages:
                named.add(message.topic)
                self._make_room(client, pace)
                with self._wire:
                    if self._client is not client:
                        return
                    if change.seq >= self._last_seq(message.topic):
                        self._send(client, message, batch, 0, change.seq)
        with self._wire:
            self._counter.forget(known - present)
            places = sorted(self._counter.names())
        for kind, name in places:
            if target and name != target:
                continue
            with self._wire:
                topics = [message.topic for message in self._shown_of(kind, name)[1]]
            for topic in topics:
                named.add(topic)
                self._make_room(client, pace)
                with self._wire:
                    if self._client is not client:
                        return
                    seq, messages = self._shown_of(kind, name)
                    newest = next(one for one in messages if one.topic == topic)
                    self._send(client, newest, batch, 0, seq)
        for board, screen in self._counter.screens.items():
            if target and board != target:
                continue
            with self._wire:
                if self._client is not client:
                    return
                self._renew_boards()
                topics = [message.topic for message in self._board(board, screen.content)]
            for topic in topics:
                named.add(topic)
                self._make_room(client, pace)
                with self._wire:
                    if self._client is not client:
                        return
                    now = self._board(board, screen.content)
                    newest = next(one for one in now if one.topic == topic)
                    self._unsent.pop(topic, None)
                    self._send(client, newest, batch, 0, 0)
        if not target:
            self._empty(client, [topic for topic in before if topic not in named], before)
            with self._wire:
                self._cleared.clear()  # the next snapshot will be newer than all of them
        self._until(client, lambda: not batch.unsettled[0], ACK_TIMEOUT)
        if batch.refused:
            log.warning("state refused by the broker", sink=self.name, error=batch.refused[0])

    def _take(self, change: Change) -> tuple[str, str] | None:
        """Kind and name of the window or area whose row this is; none if it is none or not one of
        the settings'."""
        if change.kind == "window":
            window = self._counter.take_window(change.seq, change.row)
            return ("window", window.window) if window else None
        if change.kind == "area":
            area = self._counter.take_area(change.seq, change.row)
            return ("area", area.area) if area else None
        return None

    def _make_room(self, client: Client, pace: _Pace) -> None:
        """Wait until one more state of a snapshot may be sent."""
        early = pace.early()
        if early > 0.1:
            self._until(client, lambda: False, early)
        self._until(client, lambda: len(self._pending) < self._window, ACK_TIMEOUT)

    def _empty(
        self, client: Client, topics: Iterable[str], unless_changed: Mapping[str, tuple[int, int]]
    ) -> None:
        """Remove retained topics; not those that got a state since they were looked at."""
        for topic in topics:
            self._until(client, lambda: len(self._pending) < self._window, ACK_TIMEOUT)
            with self._wire:
                if self._client is not client:
                    return
                now = self._shown.get(topic)
                if now == unless_changed.get(topic):
                    seq = now[0] if now else 0
                    self._send(client, _Message(topic, b"", True), _Batch(1), 0, seq)
                    self._topics_cleared += 1
                    log.info("retained topic removed", sink=self.name, topic=topic)

    def _sweep(self, client: Client) -> None:
        """Remove what an older version or another tool left under our root, and go on with the
        commands alone."""
        with self._wire:
            found, self._found = self._found or set(), None
            rubbish = [
                topic
                for topic in found
                if topic not in self._shown and not topic.startswith(f"{self._root}/peer/")
            ]
        self._empty(client, rubbish, {})
        self._subscribe(client, f"{self._root}/cmd/+", own=False)
        with self._wire:
            client.unsubscribe(f"{self._root}/#")
            client.unsubscribe(f"{self._plain}/#")

    def _serve(self, client: Client) -> None:
        with self._wire:
            if self._client is not client:
                return
            self._link, self._error = "ready", ""
            self._wire.notify_all()
        log.info("mqtt broker ready", sink=self.name, broker=self._place, protocol=self._protocol)
        self._ready()
        now = time.monotonic()
        heartbeat, snapshot, sweep = now + HEARTBEAT, now + SNAPSHOT, now + SWEEP
        idle = min(self._settings.keepalive / 4, 5.0)
        while self._client is client and not self._closing:
            now = time.monotonic()
            if self._heartbeat_due or now >= heartbeat:
                self._say_online(client)
                heartbeat = now + HEARTBEAT
            if now >= sweep:
                self._sweep(client)
                sweep = float("inf")
            if now >= snapshot:
                self._show_states(client)
                snapshot = now + SNAPSHOT
            with self._wire:
                if now >= self._boards_due or self._unsent:
                    self._show_boards(client)
                boards = self._boards_due
            while self._refresh:
                target = self._refresh.pop()
                self._show_states(client, "" if target == BRIDGE else target)
            self._answer(client)
            self._step(
                client, min(heartbeat - now, snapshot - now, sweep - now, boards - now, idle)
            )

    def _answer(self, client: Client) -> None:
        with self._wire:
            while self._answers and self._client is client and len(self._pending) < self._window:
                self._send(client, self._answers.popleft(), _Batch(1), 0, 0)

    def _say_goodbye(self, client: Client) -> None:
        """After a clean disconnect the broker publishes no will: say it ourselves."""
        batch = _Batch(1)
        with self._wire:
            if self._client is not client:
                return
            offline = _Message(self._bridge, self._bridge_state("offline"), True)
            self._link = "down"
            self._send(client, offline, batch, 0, 0)
        self._until(client, lambda: not batch.unsettled[0], GOODBYE_TIMEOUT)
        with self._wire:
            self._lose(client, "disconnected")
            client.disconnect()


def _subject(change: Change) -> tuple[str, str]:
    """What has one state: windows and areas have one row for each date."""
    key = change.key
    return change.kind, key.rpartition("/")[0] if change.kind in ("window", "area") else key


def _age(change: Change) -> tuple[str, int]:
    date = change.key.rpartition("/")[2] if change.kind in ("window", "area") else ""
    return date, change.seq


def _decrypted(peer: Any) -> bool:
    return isinstance(peer, ssl.SSLSocket) and peer.pending() > 0


def _hang_up(client: Client) -> None:
    peer = client.socket()
    if peer is not None:
        peer.close()
