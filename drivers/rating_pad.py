"""Rating pads (满意度评价器) and caller keypads (叫号键盘) on serial lines.

The wire formats are data: ``drivers/profiles/*.toml``, read by ``drivers.frames``.

    profile        devices                                    frame
    caller-ff68    keypads and four-key pads on an RS-485     FF 68 L L 68 addr func data sum8 16
                   bus, with or without a queue host
    bank-ascii     bank counter terminals, command SE         SE00 accepted, SE20n the key n
    bank-ascii-pj  the same, older command PJ                 PK00nn the option nn
    bank-ascii-ph  the same, compact command PH               00 00 accepted, 00 00 nn
    keybyte        one byte for each press                    33 34 35, 00 for nobody pressed
    sim-aa55       no real device                             AA 55 len addr cmd data xor8

    what comes            what is told                         what is answered
    rating                Rating                               ack_rating, after the commit
    staff key             QueueEvent; finished also starts a   ack_key (the same bytes), after the
                          rating at a pad of that address      commit
    the same again        nothing: one rating, one press       the same answer
    heartbeat             contact                              ack_heartbeat

A pad has no clock: a rating is dated to its receipt.  A rating that answers a prompt carries the
prompt's session, ticket and person, as they were when it was asked for; one without a prompt is of
unknown origin.  Silence is no reading.

Where a queue host owns the bus (``listen_only``) nothing is ever written.  Its echo of a key cannot
be told from the key: of the same bytes within half a second the first is the press.

An open port counts as contact, as a pad that nobody touches says nothing; ``unverified`` is true in
the live health until the first frame of the device.

In a capture (``decode``) no profile is named: the shipped one that leaves the fewest bytes over is
taken.  Its times are 0, the bus address stands in ``serial``, every frame is shown, the host's too.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct, structs

from drivers.base import AskForRating, BadFrame, Context, Device, Order, Show
from drivers.frames import (
    Frame,
    Meaning,
    Profile,
    Split,
    build,
    load_profile,
    shipped_profiles,
    split,
    with_scale,
)
from drivers.frames import decode as meaning_of
from drivers.serial_line import SerialLine, line_format
from rules.model import (
    MINUTE,
    QUEUE_EVENTS,
    Body,
    DeviceEvent,
    Instant,
    QueueEvent,
    Rating,
    RatingPrompt,
    Reading,
    Unreadable,
    normal_ticket,
)

FAMILY = "rating_pad"

KEY_WINDOW = 500
"""Ms within which the same key frame again is the host's echo or the keypad's repeat."""
UNANSWERED = 3
"""Presses in a row that the queue host did not echo before it counts as silent."""
CRASHED = 30_000
"""Ms for which a frame that was journalled and never acknowledged is expected to come again."""
ALREADY_STARTED = 5_000
"""Ms after the staff key within which an order means the rating that the key has started."""
QUIET = 0.03
"""Seconds of silence before we begin to send: 30 characters at 9600 baud."""
ECHO = 0.15
"""Seconds by which an adapter's echo of our own bytes may be late (USB adapters collect bytes)."""
LATE = 0.05
CONFLICTS = 3
TROUBLE_MINUTES = 5
TROUBLE_LEAST = 3
"""One broken frame among a handful is no trouble yet."""
STRANGERS_LIMIT = 256
UNMAPPED_LIMIT = 256
RAW_LIMIT = 4096
BLANK = 0x0A
"""A dark digit of a keypad's display."""

# --------------------------------------------------------------------------------------------
# Pure functions over bytes
# --------------------------------------------------------------------------------------------


def display_digits(waiting: int | None, ticket: str) -> tuple[bytes, bytes]:
    """A keypad's two displays: people waiting (at most 999) and the ticket's last three digits,
    one byte a digit, blank for what is not known."""
    left = bytes((BLANK,) * 3)
    if waiting is not None:
        left = bytes(int(digit) for digit in f"{min(max(waiting, 0), 999):03}")
    digits = [int(one) for one in normal_ticket(ticket) if one in "0123456789"][-3:]
    return left, bytes([BLANK] * (3 - len(digits)) + digits)


def level_of(profile: Profile, key: bytes) -> tuple[int | None, str]:
    """The level of a key and what is odd about it; never a guess."""
    if key in profile.scale.timeout:
        return None, "timed_out"
    level = profile.scale.levels.get(key, "unset")
    if level == "unset":
        return None, "unmapped_code"
    return (None if level == "none" else level), ""


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Readings in a capture of one line, in either direction; see above."""
    found = [(name, split(load_profile(name), data, stalled=True)) for name in _framed()]
    name, best = min(found, key=lambda one: (_left_over(one[1]), len(one[1].frames)))
    profile = load_profile(name)
    if not best.frames:
        if data:
            yield Reading(
                "capture", 0, Unreadable("no frame of any known profile"), data[:RAW_LIMIT]
            )
        return
    frames, dropped = deque(best.frames), deque(best.dropped)
    at = 0
    while at < len(data):
        # Where a frame stands, a frame was found.
        if frames and data.startswith(frames[0].raw, at):
            frame = frames.popleft()
            raw = frame.raw
            serial = "" if frame.address is None else str(frame.address)
            yield Reading("capture", 0, _shown(profile, frame, at), raw, serial)
        else:
            piece = dropped.popleft()
            raw = piece.raw
            yield Reading("capture", 0, Unreadable(f"{name}: {piece.reason}"), raw[:RAW_LIMIT])
        at += len(raw)


def _framed() -> list[str]:
    return [name for name in shipped_profiles() if load_profile(name).mode]


def _left_over(found: Split) -> int:
    return sum(len(piece.raw) for piece in found.dropped)


def _shown(profile: Profile, frame: Frame, at: int) -> Body:
    try:
        meaning = meaning_of(profile, frame)
    except BadFrame as error:
        return Unreadable(f"{profile.id}: {error}")
    if meaning is None:
        return Unreadable(f"{profile.id}: a frame of unknown meaning")
    if meaning.emit == "rating":
        level, problem = level_of(profile, meaning.value)
        key = meaning.value.hex().upper()
        return Rating(
            f"pad:capture:{at}:{key}",
            level=level,
            scale_id=profile.scale.id,
            raw_key=key,
            origin="unknown",
            problem=problem or "no_session",
        )
    if meaning.word in QUEUE_EVENTS:
        return QueueEvent(f"capture:{at}:{meaning.word}", meaning.word, source="bus")
    return DeviceEvent(meaning.word or meaning.emit, detail=profile.id)


# --------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatingPadOptions:
    """A pad, a keypad or both in one, on a serial port.

    ``profile`` is the name of a shipped one or the path of a .toml file.  ``address`` is needed on
    a bus.  ``baud`` and ``format`` are the profile's unless given.  ``scale`` maps keys, as the pad
    sends them (hexadecimal), to a level 1 to 5 or "none", by the words printed on them;
    ``scale_id`` names it.  A rating answers a prompt for ``prompt_seconds``; a frame that comes
    again within ``repeat_seconds`` is the same rating, another key within them does not count.
    ``listen_only``: a queue host owns the bus; hallwatch never writes to it.
    """

    port: str
    profile: str
    address: int | None = None
    role: Literal["pad", "keypad", "both"] = "pad"
    baud: int = 0
    format: str = ""
    scale: dict[str, int | str] = field(default_factory=dict)
    scale_id: str = ""
    prompt_seconds: float = 30
    repeat_seconds: float = 3
    listen_only: bool = False

    def __post_init__(self) -> None:
        if not self.port:
            raise ValueError("port is empty; expected one such as /dev/serial/by-id/...")
        if self.baud < 0:
            raise ValueError(f"baud is {self.baud}; expected a speed such as 9600")
        if self.format:
            line_format(self.format)
        profile = self.ready()
        if not profile.mode:
            raise ValueError(
                f"the profile {self.profile} has a scale and no frames: such a pad is read by a"
                " program of its own, which reports over the network"
            )
        line_format(profile.transport.format)
        if profile.multidrop and self.address is None:
            raise ValueError(f"address is missing; devices of {profile.id} share a bus")
        if not profile.multidrop and self.address is not None:
            raise ValueError(f"address is {self.address}, but devices of {profile.id} have none")
        if self.address is not None and not 0 <= self.address <= 255:
            raise ValueError(f"address is {self.address}; expected 0 to 255")
        for name in ("prompt_seconds", "repeat_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0 seconds")

    def link(self) -> tuple[str]:
        return (self.port,)

    def ready(self) -> Profile:
        """The profile with the scale of these settings.  A keypad needs no scale."""
        profile = load_profile(self.profile)
        if not profile.mode or (self.role == "keypad" and not self.scale):
            return profile
        return with_scale(profile, self.scale, self.scale_id)


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------


class _Session(Struct, frozen=True, omit_defaults=True):
    """A rating that was asked for."""

    id: str
    at: Instant
    ticket: str = ""
    person: str = ""
    ordered: bool = False
    over: bool = False
    """It was answered, cancelled or timed out by the pad."""


class _Memory(Struct, frozen=True, omit_defaults=True):
    """What a device's next frame is judged by.  It is stored with the readings, in the same
    transaction, so that a frame sent again after a restart is known."""

    seq: int = 0
    session: _Session | None = None
    rating: str = ""
    rating_at: Instant = 0
    rating_answered: bool = True
    key: str = ""
    key_at: Instant = 0
    key_answered: bool = True
    paused: bool | None = None
    """None where it is not known: the key only toggles."""


class _Press(NamedTuple):
    at: Instant
    frames: int


class _Unit:
    """One device on the line."""

    def __init__(self, device: Device) -> None:
        self.id = device.id
        self.window = device.window
        self.options: RatingPadOptions = device.options
        self.profile = self.options.ready()
        self.memory = _Memory()
        self.counts: Counter[str] = Counter()
        self.verified = False
        self.rating_seen: Instant | None = None
        self.key_seen: Instant | None = None
        self.answered_at = 0.0
        """When our last answer to a rating left, by the event loop's clock."""
        self.conflicts = 0
        self.unmapped: set[bytes] = set()
        self.presses: dict[bytes, _Press] = {}
        self.unanswered = 0

    def recall(self, mark: str | None) -> None:
        try:
            self.memory = msgspec.json.decode(mark or "{}", type=_Memory)
        except msgspec.MsgspecError:
            self.memory = _Memory()

    def session(self, at: Instant) -> _Session | None:
        """The session that a key at this moment answers."""
        session = self.memory.session
        if session is None or session.over:
            return None
        return session if 0 <= at - session.at <= self.options.prompt_seconds * 1000 else None


class _Heard(NamedTuple):
    chunk: bytes
    at: Instant
    loop_time: float


def _within(at: Instant, since: Instant | None, ms: float) -> bool:
    """False also when the clock was set back: better a rating twice than a rating lost."""
    return since is not None and 0 <= at - since <= ms


class _Line:
    """One run: the port is open.

    One task reads, so that a slow disk does not blur the time of what comes; one takes orders; one
    does everything else, so that there is one writer on a line where only one may talk.
    """

    def __init__(self, context: Context, line: SerialLine, units: Sequence[_Unit]) -> None:
        self._context = context
        self._line = line
        self._units = {unit.options.address: unit for unit in units}
        self._by_id = {unit.id: unit for unit in units}
        self._first = units[0]
        self._profile = units[0].profile
        self._silent = units[0].options.listen_only
        self._baud = units[0].options.baud or self._profile.transport.baud
        self._inbox: asyncio.Queue[_Heard | tuple[str, Order]] = asyncio.Queue(64)
        self._buffer = b""
        self._orders: dict[tuple[str, type], Order] = {}
        self._clock = asyncio.get_running_loop().time
        self._heard_at = 0.0
        self._wrote_at = 0.0
        self._echoes: deque[tuple[bytes, float]] = deque(maxlen=8)
        self._counts: Counter[str] = Counter()
        self._unreadable_at: Instant | None = None
        self._unreadable_since = 0
        self._minutes: deque[list[int]] = deque(maxlen=TROUBLE_MINUTES)
        self._troubled: int | None = None
        self._strangers: list[str] = []

    async def run(self) -> None:
        for unit in self._by_id.values():
            unit.recall(self._context.mark(unit.id, "state"))
            self._context.contact(unit.id)
            self._context.note(unit.id, unverified=True)
        self._strangers = (self._context.mark(self._first.id, "strangers") or "").split()
        tasks = [
            asyncio.create_task(work) for work in (self._read(), self._take_orders(), self._work())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            chunk = await self._line.read()
            await self._inbox.put(_Heard(chunk, self._context.now(), self._clock()))

    async def _take_orders(self) -> None:
        while True:
            await self._inbox.put(await self._context.order())

    async def _work(self) -> None:
        while True:
            due = self._due()
            try:
                async with asyncio.timeout_at(due):
                    item = await self._inbox.get()
            except TimeoutError:
                await self._on_time(due)
                continue
            if not isinstance(item, _Heard):
                device, order = item
                self._orders[device, type(order)] = order
                continue
            self._heard_at = item.loop_time
            self._buffer = self._without_echo(self._buffer + item.chunk)
            await self._understand(item.at, item.loop_time)

    # When something is due ------------------------------------------------------------------

    def _due(self) -> float | None:
        """The next moment, by the loop's clock, at which something is to be done by itself."""
        dues = []
        if self._buffer:
            dues.append(self._heard_at + self._profile.inter_byte_ms / 1000)
        elif self._orders:
            dues.append(max(self._heard_at, self._wrote_at) + QUIET)
        if any(unit.presses for unit in self._units.values()):
            dues.append(self._clock() + KEY_WINDOW / 1000)
        return min(dues, default=None)

    async def _on_time(self, due: float | None) -> None:
        now = self._clock()
        at = self._context.now()
        if due is not None and now - due > LATE:
            # An order came, or the loop was busy: there may be bytes that were not read yet.
            self._heard_at = now
            return
        if self._buffer and now - self._heard_at >= self._profile.inter_byte_ms / 1000:
            await self._understand(at, self._heard_at, stalled=True)
        await self._close_presses(at)
        if self._orders and not self._buffer and now - self._heard_at >= QUIET:
            (device, kind), order = next(iter(self._orders.items()))
            del self._orders[device, kind]
            await self._obey(self._by_id[device], order)

    # What comes -----------------------------------------------------------------------------

    def _without_echo(self, buffer: bytes) -> bytes:
        """Adapters of two-wire lines hear what we send: it is taken out, once, soon after."""
        while self._echoes and self._echoes[0][1] < self._heard_at:
            self._echoes.popleft()
        for echo in list(self._echoes):
            if echo[0] in buffer:
                buffer = buffer.replace(echo[0], b"", 1)
                self._echoes.remove(echo)
        return buffer

    async def _understand(self, at: Instant, heard: float, stalled: bool = False) -> None:
        found = split(self._profile, self._buffer, stalled)
        self._buffer = found.rest
        for frame in found.frames:
            await self._tally(at, 1, 0)
            await self._frame(frame, at, heard)
        for piece in found.dropped:
            self._count("noise_bytes", len(piece.raw))
            if piece.checksums:
                self._count("bad_frames", piece.checksums)
                await self._tally(at, 0, piece.checksums)
            await self._unreadable(self._first, at, piece.reason, piece.raw)
        await self._close_presses(at)

    async def _frame(self, frame: Frame, at: Instant, heard: float) -> None:
        unit = self._units.get(frame.address)
        if unit is None:
            await self._stranger(frame, at)
            return
        self._context.contact(unit.id)
        if not unit.verified:
            unit.verified = True
            self._context.note(unit.id, unverified=False)
        try:
            meaning = meaning_of(unit.profile, frame)
        except BadFrame as error:
            await self._unreadable(unit, at, str(error), frame.raw)
            return
        if meaning is None:
            stored = await self._unreadable(unit, at, "a frame of unknown meaning", frame.raw)
            if stored and "ack_key" in unit.profile.actions:
                # A keypad repeats a key, any key, until it is answered.
                await self._answer(unit, "ack_key", frame)
        elif meaning.emit == "rating":
            await self._rating(unit, frame, meaning.value, at, heard)
        elif meaning.emit == "staff_key":
            await self._key(unit, frame, meaning.word, at)
        elif meaning.emit == "heartbeat":
            await self._answer(unit, "ack_heartbeat", frame)
        elif meaning.emit == "refused":
            await self._refused(unit, frame, meaning, at)

    async def _stranger(self, frame: Frame, at: Instant) -> None:
        self._count("unknown_address")
        address = str(frame.address)
        if address in self._strangers or len(self._strangers) >= STRANGERS_LIMIT:
            return
        known = [*self._strangers, address]
        body = DeviceEvent("unknown_address", frame.address or 0, "no device of the settings")
        mark = {(self._first.id, "strangers"): " ".join(known)}
        if await self._emit([Reading(self._first.id, at, body, frame.raw)], mark):
            self._strangers = known

    async def _refused(self, unit: _Unit, frame: Frame, meaning: Meaning, at: Instant) -> None:
        told = meaning.value.decode("ascii", "replace")
        body = DeviceEvent("prompt_refused", int(told) if told.isdecimal() else 0, told)
        session = unit.memory.session
        over = session and structs.replace(session, over=True)
        await self._store(
            unit,
            [Reading(unit.id, at, body, frame.raw)],
            structs.replace(unit.memory, session=over),
        )

    # Ratings --------------------------------------------------------------------------------

    async def _rating(
        self, unit: _Unit, frame: Frame, key: bytes, at: Instant, heard: float
    ) -> None:
        memory = unit.memory
        raw = key.hex().upper()
        repeat = unit.options.repeat_seconds * 1000
        if raw == memory.rating and (
            _within(at, memory.rating_at, repeat if memory.rating_answered else CRASHED)
            or _within(at, unit.rating_seen, repeat)
        ):
            unit.rating_seen = at
            self._count("repeats", unit=unit)
            await self._answer(unit, "ack_rating", frame)
            return
        session = unit.session(at)
        if _within(at, memory.rating_at, repeat) and (
            session is None or session.at <= memory.rating_at
        ):
            # Two keys at once: the first counts.
            self._count("extra_presses", unit=unit)
            await self._conflict(unit, frame, at, heard)
            await self._answer(unit, "ack_rating", frame)
            return
        if session is None and unit.profile.mode == "keybyte":
            # A bare byte that nobody waits for is as likely noise.
            self._count("outside_session", unit=unit)
            await self._unreadable(unit, at, "a key byte outside a rating session", frame.raw)
            return
        level, problem = level_of(unit.profile, key)
        seq = memory.seq + 1
        answers = session if problem != "unmapped_code" else None
        if not problem:
            problem = self._problem(unit, session)
        body = Rating(
            f"pad:{unit.id}:{answers.id}"
            if answers
            else f"pad:{unit.id}:{at // MINUTE}:{raw}:{seq}",
            window=unit.window,
            level=level,
            scale_id=unit.profile.scale.id,
            raw_key=raw,
            person=session.person if session else "",
            service_ref=session.ticket if session else "",
            session=answers.id if answers else "",
            origin="visitor" if session and problem != "timed_out" else "unknown",
            problem=problem,
        )
        readings = [Reading(unit.id, at, body, frame.raw)]
        if problem == "unmapped_code" and key not in unit.unmapped:
            readings.append(
                Reading(unit.id, at, DeviceEvent("unmapped_code", key[0], f"key {raw}"), frame.raw)
            )
        told = structs.replace(
            memory,
            seq=seq,
            session=structs.replace(answers, over=True) if answers else memory.session,
            rating=raw,
            rating_at=at,
            rating_answered=not self._answers(unit, "ack_rating"),
        )
        if not await self._store(unit, readings, told):
            return
        unit.rating_seen = at
        if problem == "unmapped_code" and len(unit.unmapped) < UNMAPPED_LIMIT:
            unit.unmapped.add(key)
        await self._answer(unit, "ack_rating", frame)
        unit.answered_at = self._clock()

    def _problem(self, unit: _Unit, session: _Session | None) -> str:
        if any(one.memory.paused and one.window == unit.window for one in self._units.values()):
            return "paused"
        if session is None:
            return "no_session"
        return "nobody_logged_in" if session.ordered and not session.person else ""

    async def _conflict(self, unit: _Unit, frame: Frame, at: Instant, heard: float) -> None:
        """A pad waits for its answer: another key before it left is another pad's."""
        if heard >= unit.answered_at or unit.conflicts >= CONFLICTS:
            return
        unit.conflicts += 1
        if unit.conflicts == CONFLICTS:
            body = DeviceEvent(
                "address_conflict", frame.address or 0, "two devices answer to this address"
            )
            await self._emit([Reading(unit.id, at, body, frame.raw)])

    # Staff keys -----------------------------------------------------------------------------

    async def _key(self, unit: _Unit, frame: Frame, word: str, at: Instant) -> None:
        memory = unit.memory
        raw = frame.raw.hex()
        known = raw == memory.key and (
            _within(at, memory.key_at, KEY_WINDOW if memory.key_answered else CRASHED)
            or (not self._silent and _within(at, unit.key_seen, KEY_WINDOW))
        )
        if self._silent:
            press = unit.presses.get(frame.raw)
            if press is not None and _within(at, press.at, KEY_WINDOW):
                unit.presses[frame.raw] = press._replace(frames=press.frames + 1)
                return
            await self._close_presses(at)
            unit.presses[frame.raw] = _Press(at, 1)
        if known:
            unit.key_seen = at
            self._count("repeats", unit=unit)
            await self._answer(unit, "ack_key", frame)
            return
        told = structs.replace(
            memory,
            seq=memory.seq + 1,
            key=raw,
            key_at=at,
            key_answered=not self._answers(unit, "ack_key"),
        )
        bodies, told = self._pressed(unit, word, at, told)
        readings = [Reading(unit.id, at, body, frame.raw) for body in bodies]
        if not await self._store(unit, readings, told):
            return
        unit.key_seen = at
        await self._answer(unit, "ack_key", frame)

    def _pressed(
        self, unit: _Unit, word: str, at: Instant, memory: _Memory
    ) -> tuple[list[Body], _Memory]:
        """What a press means, and what is to be remembered of it."""
        bodies: list[Body] = []
        event = word
        if word == "pause":
            if memory.paused is None:
                bodies.append(
                    DeviceEvent("pause_unknown", detail="pause or resume: the key is a toggle")
                )
            else:
                event = "window_resumed" if memory.paused else "window_paused"
                memory = structs.replace(memory, paused=not memory.paused)
        elif word in QUEUE_EVENTS:
            if memory.paused:
                # No host serves a paused window: a press of the pause key was missed.
                memory = structs.replace(memory, paused=None)
                bodies.append(DeviceEvent("pause_unknown", detail=f"{word} while paused"))
            elif memory.paused is None and word == "finished":
                memory = structs.replace(memory, paused=False)
        if event in QUEUE_EVENTS:
            if unit.options.role == "pad":
                # What the queue host sends to start a pad looks like the key for it.
                self._count("staff_keys", unit=unit)
            else:
                name = f"{unit.id}:{at}:{event}:{memory.seq}"
                bodies.append(QueueEvent(name, event, window=unit.window, source="bus"))
        elif event != "pause":
            bodies.append(DeviceEvent(event))
        if word == "cancel" and memory.session:
            memory = structs.replace(memory, session=structs.replace(memory.session, over=True))
        if word == "finished" and unit.options.role != "keypad":
            session = _Session(f"{unit.id}:{at}:{memory.seq}", at)
            bodies.append(RatingPrompt(session.id, unit.window))
            memory = structs.replace(memory, session=session)
        return bodies, memory

    async def _close_presses(self, at: Instant) -> None:
        """Presses whose echo would have come by now."""
        for unit in self._units.values():
            for raw, press in list(unit.presses.items()):
                if _within(at, press.at, KEY_WINDOW):
                    continue
                del unit.presses[raw]
                if press.frames > 1 or unit.options.role == "pad":
                    unit.unanswered = 0
                    continue
                unit.unanswered += 1
                if unit.unanswered == UNANSWERED:
                    body = DeviceEvent(
                        "queue_host_silent", UNANSWERED, f"{UNANSWERED} keys without its echo"
                    )
                    await self._emit([Reading(unit.id, at, body, raw)])

    # Orders ---------------------------------------------------------------------------------

    async def _obey(self, unit: _Unit, order: Order) -> None:
        if isinstance(order, Show):
            if self._answers(unit, "show") and unit.options.role != "pad":
                left, right = display_digits(order.waiting, order.ticket)
                await self._write(unit, "show", waiting=left, ticket=right)
        elif isinstance(order, AskForRating) and unit.options.role != "keypad":
            await self._ask(unit, order)

    async def _ask(self, unit: _Unit, order: AskForRating) -> None:
        running = unit.session(self._context.now())
        started = (
            running is not None
            and not running.ordered
            and _within(self._context.now(), running.at, ALREADY_STARTED)
        )
        if self._answers(unit, "prompt") and not started:
            seconds = min(round(unit.options.prompt_seconds), 255)
            await self._write(unit, "prompt", seconds=seconds, person=order.person)
        at = self._context.now()
        session = _Session(order.session, at, order.ticket, order.person, ordered=True)
        told = structs.replace(unit.memory, session=session)
        body = RatingPrompt(order.session, unit.window, order.ticket, order.person)
        # Whether a queue host invited anybody is not known unless its key was heard.
        invited = started or not self._silent
        await self._store(unit, [Reading(unit.id, at, body)] if invited else [], told)

    # What leaves ----------------------------------------------------------------------------

    def _answers(self, unit: _Unit, action: str) -> bool:
        return not self._silent and action in unit.profile.actions

    async def _answer(self, unit: _Unit, action: str, frame: Frame) -> None:
        if not self._answers(unit, action):
            return
        await self._write(unit, action, data=frame.data, raw=frame.raw)
        told = unit.memory
        if action == "ack_rating":
            told = structs.replace(told, rating_answered=True)
        elif action == "ack_key":
            told = structs.replace(told, key_answered=True)
        if told != unit.memory:
            await self._store(unit, [], told)

    async def _write(self, unit: _Unit, action: str, **values: int | bytes | str) -> None:
        data = build(unit.profile, action, address=unit.options.address or 0, **values)
        leaves = self._clock() + len(data) * 10 / self._baud
        self._echoes.append((data, leaves + ECHO))
        await self._line.write(data)
        self._wrote_at = leaves

    async def _store(self, unit: _Unit, readings: Sequence[Reading], memory: _Memory) -> bool:
        mark = {(unit.id, "state"): msgspec.json.encode(memory).decode()}
        stored = await self._emit(readings, mark)
        if stored:
            unit.memory = memory
        return stored

    async def _emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> bool:
        """False if they could not be stored: then nothing is acknowledged, and it comes again."""
        try:
            await self._context.emit(readings, marks)
        except OSError as error:
            for unit in self._by_id.values():
                self._context.note(
                    unit.id,
                    last_error=f"读数未能保存 / readings could not be stored: {error}",
                )
            return False
        return True

    # What is wrong --------------------------------------------------------------------------

    def _count(self, name: str, more: int = 1, unit: _Unit | None = None) -> None:
        counts = self._counts if unit is None else unit.counts
        counts[name] += more
        for one in self._by_id.values() if unit is None else (unit,):
            self._context.note(one.id, **{name: counts[name]})

    async def _unreadable(self, unit: _Unit, at: Instant, reason: str, raw: bytes) -> bool:
        """Journal the bytes, at most once a minute for the line; false if that failed."""
        if _within(at, self._unreadable_at, MINUTE - 1):
            self._unreadable_since += 1
            return True
        more = f" ({self._unreadable_since} more before it)" if self._unreadable_since else ""
        reading = Reading(unit.id, at, Unreadable(reason + more), raw[:RAW_LIMIT])
        if not await self._emit([reading]):
            return False
        self._unreadable_at = at
        self._unreadable_since = 0
        return True

    async def _tally(self, at: Instant, good: int, bad: int) -> None:
        """More than 5 % wrong checksums in five minutes: a bad cable, or two that talk at once."""
        minute = at // MINUTE
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append([minute, 0, 0])
        self._minutes[-1][1] += good
        self._minutes[-1][2] += bad
        recent = [one for one in self._minutes if minute - one[0] < TROUBLE_MINUTES]
        wrong = sum(one[2] for one in recent)
        total = wrong + sum(one[1] for one in recent)
        if wrong * 20 <= total:
            if self._troubled is not None and minute - self._troubled >= TROUBLE_MINUTES:
                self._troubled = None
        elif wrong >= TROUBLE_LEAST and self._troubled is None:
            self._troubled = minute
            body = DeviceEvent(
                "checksum_trouble",
                100 * wrong // total,
                f"{wrong} of {total} frames in {TROUBLE_MINUTES} min, {self._line.port}",
            )
            await self._emit([Reading(self._first.id, at, body)])


class RatingPad:
    """All devices on one serial port."""

    options = RatingPadOptions
    attendance = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        first: RatingPadOptions = devices[0].options
        addresses: dict[int | None, str] = {}
        for device in devices:
            options: RatingPadOptions = device.options
            for name in ("profile", "baud", "format", "listen_only"):
                if getattr(options, name) != getattr(first, name):
                    raise ValueError(
                        f"{name} is {getattr(options, name)!r} for {device.id} and"
                        f" {getattr(first, name)!r} for {devices[0].id}; expected one for the port"
                    )
            if options.address in addresses:
                raise ValueError(
                    f"{device.id} and {addresses[options.address]} have the same address; a pad and"
                    " a keypad in one are one device with the role both"
                    if options.address is not None
                    else f"{device.id} and {addresses[None]} cannot share a port without addresses"
                )
            addresses[options.address] = device.id

    async def run(self, context: Context) -> None:
        units = [_Unit(device) for device in self._devices]
        options, transport = units[0].options, units[0].profile.transport
        with SerialLine(
            options.port, options.baud or transport.baud, options.format or transport.format
        ) as line:
            await _Line(context, line, units).run()


DRIVER = RatingPad
