"""Window displays (窗口显示屏) that show the number called and speak Modbus: asked in turn over a
line that is ours, or overheard where the queue system drives it.

An RTU line has exactly one master.  Where the queue system writes to the displays, hallwatch must
only listen (``role = "listen"``): two masters' frames collide, and calls get lost.

What a display has in its registers is a profile, a TOML file: ``drivers/displays/<name>.toml``, or
one of the hall's own by its absolute path::

    decode          uint16 int16 int16_ones int32 uint32 float32 int64 bcd char_per_register
                    char_pair segments dm_packed bits
    address, count  of the registers; fc 3 holding, 4 input
    base            0: address counts from 0; 40001, 400001 (fc 3), 30001, 300001 (fc 4): as printed
    order           ABCD, words swapped CDAB, bytes swapped BADC, both DCBA
    decimals        places behind the point; range: smallest and largest number to be believed
    strip           characters that say nothing, wherever they stand
    ticket_pattern  what a ticket looks like, after full-width characters and blanks are folded
    blank paused lamp_test    texts that are no ticket; dashes and zeros are blank anyway
    segments        further codes of letters, and all a code may stand for: [["7C", "B"]]
    readable        false: can be written only
    write_fc        16, or 6 for a single register; shows: ticket, or line for boards of text

A ticket counts as called when the text has changed and two looks agree.  Displays can not tell a
recall: it leaves the text as it is.  A ticket that goes dark for less than 5 s is blinking, and one
that comes back after a pause or a lamp test was there all the time.
"""

from __future__ import annotations

import asyncio
import re
import socket
import tomllib
from collections import Counter
from collections.abc import Awaitable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from drivers.base import BadFrame, Context, Device, DeviceLost, DeviceRefused, Show
from drivers.modbus import (
    READ_HOLDING,
    READ_INPUT,
    SEGMENTS,
    SIZES,
    TEXTS,
    WRITE,
    WRITE_ONE,
    BusMaster,
    Ear,
    Heard,
    Kind,
    ModbusLine,
    Order,
    Refusal,
    Silent,
    WrongAnswer,
    decode_registers,
    encode_registers,
    in_order,
    poll_ms,
    spellings,
)
from drivers.serial_line import SerialLine, line_format
from rules.model import (
    Body,
    DeviceEvent,
    DeviceInfo,
    Instant,
    QueueEvent,
    Reading,
    Shown,
    Unreadable,
    normal_ticket,
    stable_id,
)

FAMILY = "queue_display"

BASES = {0: 0, 40001: READ_HOLDING, 400001: READ_HOLDING, 30001: READ_INPUT, 300001: READ_INPUT}
"""How addresses may be counted, and the function that goes with it."""


# --------------------------------------------------------------------------------------------
# Profiles
# --------------------------------------------------------------------------------------------


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of display; the fields are explained above."""

    decode: Kind
    address: int
    count: int
    fc: Literal[3, 4] = 3
    base: int = 0
    order: Order = "ABCD"
    decimals: int = 0
    range: tuple[float, float] | None = None
    strip: str = " \0"
    ticket_pattern: str = "[A-Z]?[0-9]{3,4}"
    blank: tuple[str, ...] = ("", "----", "0000")
    paused: tuple[str, ...] = ()
    lamp_test: tuple[str, ...] = ("8888", "888888")
    segments: tuple[tuple[str, str], ...] = ()
    readable: bool = True
    write_fc: Literal[6, 16] = 16
    shows: Literal["ticket", "line"] = "ticket"

    def problems(self) -> Iterator[str]:
        size = SIZES.get(self.decode, self.count)
        if not 1 <= self.count <= 123 or self.count != size:
            raised = f"{size}" if self.decode in SIZES else "1 to 123"
            yield f"count is {self.count}; {self.decode} needs {raised}"
        if self.base not in BASES:
            yield f"base is {self.base}; expected one of {', '.join(map(str, BASES))}"
        elif self.base and BASES[self.base] != self.fc:
            yield f"base {self.base} goes with fc {BASES[self.base]}, not with {self.fc}"
        if self.decode in TEXTS and self.order in ("CDAB", "DCBA"):
            yield f"order {self.order} has no meaning for {self.decode}"
        if self.write_fc == WRITE_ONE and self.count > 1:
            yield "write_fc 6 writes one register; expected 16"
        if not 0 <= self.decimals <= 9:
            yield f"decimals is {self.decimals}; expected 0 to 9"
        for code, letters in self.segments:
            if not re.fullmatch("[0-9A-Fa-f]{2}", code) or not letters:
                yield f"segments has {code!r}; expected two hexadecimal digits and their letters"
        try:
            re.compile(self.ticket_pattern)
        except re.error as error:
            yield f"ticket_pattern {self.ticket_pattern!r} is no pattern: {error}"

    def first(self, address: int) -> int:
        """The address as it goes over the wire.  ``ValueError`` with a sentence."""
        first = address - self.base
        if not self.base and address > 9999:
            raise ValueError(
                f"address is {address} with base 0; addresses as printed in manuals need base 40001"
                " or 30001"
            )
        if not 0 <= first <= 0x10000 - self.count:
            raise ValueError(f"address is {address}; with base {self.base} there is no such one")
        return first

    def segment_table(self) -> dict[int, str]:
        return {**SEGMENTS, **{int(code, 16): letters for code, letters in self.segments}}


def load_profile(name: str) -> Profile:
    """By its name or by its path.  ``ValueError`` with a sentence."""
    folder = Path(__file__).parent / "displays"
    if "/" in name:
        path = Path(name)
        if not path.is_absolute():
            raise ValueError(f"profile {name!r}: expected a name or an absolute path")
    elif re.fullmatch("[a-z0-9_]+", name) and (folder / f"{name}.toml").is_file():
        path = folder / f"{name}.toml"
    else:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
        raise ValueError(f"there is no profile {name!r}; there are {known}, or give a path")
    try:
        profile = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Profile)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"the profile {path} cannot be read: {error}") from None
    for problem in profile.problems():
        raise ValueError(f"the profile {path}: {problem}")
    return profile


class Text(NamedTuple):
    """What a display shows.  ``text`` is normalised, ``told`` as it came."""

    text: str
    state: str
    told: str


def read_text(profile: Profile, registers: Sequence[int], pattern: str = "") -> Text:
    """``BadFrame`` where the registers make no sense."""
    ticket = _compiled(pattern or profile.ticket_pattern)
    if profile.decode == "segments":
        data = in_order(registers, profile.order)
        told = ""
        for number, spelled in enumerate(spellings(data, profile.segment_table())):
            fits = ticket.fullmatch(_normal(profile, spelled))
            if not number or fits:
                told = spelled
            if fits:
                break
    else:
        told = decode_registers(profile.decode, registers, profile.order, profile.decimals)
    if profile.range and profile.decode not in TEXTS:
        least, most = profile.range
        if not least <= float(told) <= most:
            raise BadFrame(f"{told} is outside {least:g} to {most:g}; is the order right?")
    text = _normal(profile, told)
    return Text(text, _state(profile, ticket, text), told)


def _normal(profile: Profile, told: str) -> str:
    return normal_ticket("".join(one for one in told if one not in profile.strip))


def _state(profile: Profile, ticket: re.Pattern[str], text: str) -> str:
    for state in ("lamp_test", "paused", "blank"):
        if text in (_normal(profile, one) for one in getattr(profile, state)):
            return state
    if set(text) <= set("-0."):
        return "blank"
    return "ticket" if ticket.fullmatch(text) else "unknown"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


# --------------------------------------------------------------------------------------------
# From looks to calls
# --------------------------------------------------------------------------------------------


class Watch:
    """One display's text over time: what changed, and what that means for the window."""

    BLINK = 5000
    """Milliseconds: dark for less is blinking, and a ticket called again within is a repeat."""

    def __init__(
        self, device: str, window: str, ticket: str = "", looks: int = 2, source: str = "display"
    ) -> None:
        """``looks`` must agree before a change counts.  ``ticket`` is the last one known.  Without
        a ``source`` changes of the text are told, but no events."""
        self.ticket = ticket
        self.uncertainty = 0
        self._device = device
        self._window = window
        self._looks = looks
        self._source = source
        self._shown: Text | None = None
        self._fresh: tuple[Text, Instant, int] | None = None
        self._dark_since: Instant | None = None
        self._was_dark = False
        self._seen: dict[str, Instant] = {}

    @property
    def shown(self) -> Text | None:
        return self._shown

    @property
    def unsettled(self) -> bool:
        """Whether the same look again may tell something."""
        return self._fresh is not None or self._dark_since is not None

    def away(self) -> None:
        """The display was out of reach: the next look tells nothing of when it changed."""
        self._shown = self._fresh = self._dark_since = None

    def look(self, now: Text, at: Instant, confirmed: bool = True) -> list[tuple[Instant, Body]]:
        old = self._shown
        if old is None:
            self._shown = now
            self._was_dark = now.state == "blank"
            if now.state == "ticket":
                self._keep(now.text, at)
            return [(at, Shown(self._window, now.text, now.state, True, confirmed))]
        if (now.text, now.state) == (old.text, old.state):
            self._fresh = self._dark_since = None
            if now.state == "ticket":
                self._seen[now.text] = at
            return []
        if now.state == "blank":
            # Also between two looks at a new ticket: a call often flashes.
            if self._dark_since is None:
                self._dark_since = at
            if abs(at - self._dark_since) < self.BLINK:
                return []
            return self._accept(old, now, self._dark_since, confirmed)
        self._dark_since = None
        first, looks = at, 1
        if self._fresh and self._fresh[0].text == now.text:
            _, first, looks = self._fresh
            looks += 1
        self._fresh = now, first, looks
        if looks < self._looks:
            return []
        return self._accept(old, now, first, confirmed)

    def _accept(
        self, old: Text, new: Text, at: Instant, confirmed: bool
    ) -> list[tuple[Instant, Body]]:
        self._shown, self._fresh, self._dark_since = new, None, None
        told: list[tuple[Instant, Body]] = [
            (at, Shown(self._window, new.text, new.state, confirmed=confirmed))
        ]
        if old.state == "paused":
            told += self._event("window_resumed", at)
        if new.state == "paused":
            told += self._event("window_paused", at)
        if new.state == "blank":
            self._was_dark = True
        if new.state == "ticket":
            repeated = new.text in self._seen and abs(at - self._seen[new.text]) <= self.BLINK
            if (new.text != self.ticket or self._was_dark) and not repeated:
                told += self._event("called", at, new)
            self._was_dark = False
            self._keep(new.text, at)
        return told

    def _keep(self, ticket: str, at: Instant) -> None:
        self.ticket = ticket
        self._seen.pop(ticket, None)
        self._seen[ticket] = at
        if len(self._seen) > 8:
            del self._seen[next(iter(self._seen))]

    def _event(
        self, event: str, at: Instant, new: Text | None = None
    ) -> list[tuple[Instant, Body]]:
        if not self._source:
            return []
        ticket = new.text if new else ""
        body = QueueEvent(
            stable_id(self._device, event, ticket, at),
            event,
            window=self._window,
            ticket=ticket,
            ticket_raw=new.told if new and new.told != ticket else "",
            source=self._source,
            uncertainty=self.uncertainty,
        )
        return [(at, body)]


# --------------------------------------------------------------------------------------------
# A capture
# --------------------------------------------------------------------------------------------


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Readings in an RTU line overheard, in both directions.

    The profile is not known: registers are told as text where they can be (one or two characters
    in each), else in hexadecimal, with the unit in place of the window.  Two registers that are no
    text are also told as numbers in each order.
    """
    ear = Ear()
    frames = ear.hear(data, 0)
    frames += ear.finish(0)
    asked: Heard | None = None
    for frame in [*frames, None]:
        unanswered = asked is not None and (frame is None or frame.role == "request")
        if asked and unanswered and asked.function in (WRITE_ONE, WRITE):
            yield from _captured(asked, confirmed=False)
        if frame is None:
            break
        asked = frame if frame.role == "request" else None
        if frame.role == "answer" and frame.function in (
            READ_HOLDING,
            READ_INPUT,
            WRITE_ONE,
            WRITE,
        ):
            yield from _captured(frame, confirmed=True)
        elif frame.role == "refusal":
            name = f"exception {frame.values[0]:02X} to function {frame.function:02X}"
            yield Reading("capture", 0, DeviceEvent("refused", frame.values[0], name))
    if ear.noise:
        yield Reading("capture", 0, Unreadable(f"{ear.noise} bytes that belong to no frame"))


def _captured(frame: Heard, confirmed: bool) -> Iterator[Reading]:
    registers = frame.values
    raw = in_order(registers, "ABCD")
    characters = raw[1::2] if not any(raw[::2]) else raw
    # One character alone may as well be a number.
    printable = len(characters) > 1 and all(32 <= byte < 127 for byte in characters)
    told = characters.decode("ascii") if printable else raw.hex(" ", 2).upper()
    text = normal_ticket(told) if printable else told
    state = _state(_PLAIN, _compiled(_PLAIN.ticket_pattern), text) if printable else "unknown"
    yield Reading("capture", 0, Shown(f"{frame.unit}", text, state, confirmed=confirmed), raw)
    if len(registers) == 2 and not printable:
        facts: dict[str, str | int] = {"unit": frame.unit, "address": frame.address}
        kinds: tuple[Kind, ...] = ("int32", "float32")
        orders: tuple[Order, ...] = ("ABCD", "CDAB", "BADC", "DCBA")
        for kind in kinds:
            for order in orders:
                with suppress(BadFrame):
                    facts[f"{kind} {order}"] = decode_registers(kind, registers, order)
        yield Reading("capture", 0, DeviceInfo(facts))


_PLAIN = Profile("char_pair", 0, 1)


# --------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueDisplayOptions:
    """One display on a line.  The line is ``port`` (a serial device, best by its
    ``/dev/serial/by-id`` name) or ``host`` and ``tcp_port`` (a converter, a gateway or a display
    with a network of its own).  Durations are in milliseconds.

    ``framing``: ``rtu`` on a serial port; ``tcp`` or ``rtu-over-tcp`` to a host.  ``role`` is
    ``listen`` where the queue system is the line's master.  ``address`` replaces the profile's, for
    boards with several windows.  ``write``: the display is ours, and shows what hallwatch says.
    ``timeout_ms`` and ``quiet_ms`` 0 mean what suits the line.
    """

    unit: int
    profile: str
    port: str = ""
    host: str = ""
    tcp_port: int = 502
    framing: Literal["", "rtu", "tcp", "rtu-over-tcp"] = ""
    baud: int = 9600
    format: str = "8N1"
    role: Literal["master", "listen"] = "master"
    timeout_ms: int = 0
    quiet_ms: int = 0
    min_gap_ms: int = 0
    address: int | None = None
    every_ms: int = 500
    ticket_pattern: str = ""
    write: bool = False
    shape: Profile = field(init=False, repr=False)
    first: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if bool(self.port) == bool(self.host):
            raise ValueError("expected either port (a serial device) or host")
        if self.port and self.framing not in ("", "rtu"):
            raise ValueError(f"framing is {self.framing} on a serial port; expected rtu")
        if self.host and self.framing == "rtu":
            raise ValueError("framing is rtu to a host; expected tcp or rtu-over-tcp")
        if not 0 < self.tcp_port < 65536:
            raise ValueError(f"tcp_port is {self.tcp_port}; expected 1 to 65535")
        if not 1 <= self.unit <= 247:
            raise ValueError(f"unit is {self.unit}; expected 1 to 247")
        if not 300 <= self.baud <= 1_000_000:
            raise ValueError(f"baud is {self.baud}; expected 300 to 1000000")
        line_format(self.format)
        for name, most in (("timeout_ms", 60_000), ("quiet_ms", 60_000), ("min_gap_ms", 10_000)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to {most}")
        if not 50 <= self.every_ms <= 3_600_000:
            raise ValueError(f"every_ms is {self.every_ms}; expected 50 to 3600000")
        try:
            re.compile(self.ticket_pattern)
        except re.error as error:
            raise ValueError(f"ticket_pattern {self.ticket_pattern!r}: {error}") from None
        shape = load_profile(self.profile)
        if self.role == "listen":
            if self.write:
                raise ValueError("write is true where hallwatch only listens; choose one")
            if self.line_framing == "tcp":
                raise ValueError("Modbus TCP cannot be overheard; listen on its serial side")
        elif not shape.readable and not self.write:
            raise ValueError(f"displays like {self.profile} cannot be read; expected write = true")
        if self.write and (shape.fc != READ_HOLDING or shape.decode == "bits"):
            raise ValueError(f"displays like {self.profile} cannot be written")
        object.__setattr__(self, "shape", shape)
        address = shape.address if self.address is None else self.address
        object.__setattr__(self, "first", shape.first(address))

    @property
    def line_framing(self) -> Literal["rtu", "tcp", "rtu-over-tcp"]:
        return self.framing or ("rtu" if self.port else "tcp")

    def link(self) -> Hashable:
        return self.port or (self.host.lower(), self.tcp_port)

    def line(self) -> ModbusLine:
        timeout = self.timeout_ms or (300 if self.port else 1000)
        return ModbusLine(
            self.line_framing,
            self.port,
            self.host,
            0 if self.port else self.tcp_port,
            self.baud,
            self.format.upper(),
            timeout,
            self.quiet_ms or max(300, timeout),
        )


# --------------------------------------------------------------------------------------------
# Displays and units
# --------------------------------------------------------------------------------------------


class _Display:
    def __init__(self, device: Device, context: Context) -> None:
        options: QueueDisplayOptions = device.options
        self.id = device.id
        self.options = options
        self.profile = options.shape
        self.first = options.first
        self.last = options.first + options.shape.count
        listens = options.role == "listen"
        source = "" if options.write else "sniffed" if listens else "display"
        self.watch = Watch(
            device.id,
            device.window,
            context.mark(device.id, "ticket") or "",
            1 if listens or options.every_ms >= 2000 else 2,
            source,
        )
        self.counts: Counter[str] = Counter()
        self.last_good: Instant | None = None
        self.unreadable_at: Instant | None = None
        # Of a line overheard:
        self.image: dict[int, int] = {}
        self.written_at: Instant | None = None
        self.confirmed = True
        self.unconfirmed = 0


class Block(NamedTuple):
    """Registers read in one go."""

    function: int
    address: int
    size: int
    displays: tuple[_Display, ...]


WIDEST_HOLE = 8
WIDEST_BLOCK = 64
"""Many displays refuse to tell more registers at once."""


def spans(fields: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """``(function, first, past the last)`` of reads that cover these fields, joined where the hole
    between two is small; a field is never torn."""
    joined: list[tuple[int, int, int]] = []
    for function, first, last in sorted(fields):
        if joined:
            before, begin, end = joined[-1]
            near = before == function and first - end <= WIDEST_HOLE
            if near and max(end, last) - begin <= WIDEST_BLOCK:
                joined[-1] = function, begin, max(end, last)
                continue
        joined.append((function, first, last))
    return joined


class _Unit:
    """A device address on the line: one answer for all displays behind it."""

    WAITS = (5, 10, 20, 40, 60)
    REFUSED_WAIT = 300
    """Seconds until a unit that is away, or says no, is asked again."""
    MOST_MISSES = 3

    def __init__(self, number: int, displays: Sequence[_Display], line: ModbusLine) -> None:
        self.number = number
        self.displays = tuple(displays)
        self.gap_ms = max(display.options.min_gap_ms for display in displays)
        self.every = float(min(display.options.every_ms for display in displays))
        fields = [(d.profile.fc, d.first, d.last) for d in displays if d.profile.readable]
        self.blocks = [self._block(*span) for span in spans(fields)]
        self.due = self.asked_at = 0.0
        self.cost = 2.0
        if line.framing != "tcp":
            self.cost = sum(
                poll_ms(line.baud, block.size, 20, line.character_bits) for block in self.blocks
            )
        self.unread = self.missed = self.refused = self.failed = self.foreign = self.damaged = 0
        self.busy = 0
        self.probes = 0
        self.lost = False

    @property
    def offline(self) -> bool:
        return self.missed >= self.MOST_MISSES

    @property
    def rejects(self) -> bool:
        return self.refused >= self.MOST_MISSES

    def _block(self, function: int, first: int, last: int) -> Block:
        inside = [
            display
            for display in self.displays
            if display.profile.fc == function and first <= display.first and display.last <= last
        ]
        return Block(function, first, last - first, tuple(inside))

    def split(self, block: Block) -> bool:
        """Read its fields one by one from now on, if they were joined."""
        if len(block.displays) < 2:
            return False
        at = self.blocks.index(block)
        self.blocks[at : at + 1] = [
            Block(block.function, display.first, display.last - display.first, (display,))
            for display in block.displays
        ]
        return True


# --------------------------------------------------------------------------------------------
# The line
# --------------------------------------------------------------------------------------------

MOST_UNSAVED = 1000
REPORT_EVERY = 5000
BUSY_SHARE, BUSY_FOR = 0.8, 300_000
BUSY_RETRY, BUSY_RETRIES = 200, 3
PROBE_EVERY = 1000
MOST_TRIES = 3
SETTLED = 300
"""Milliseconds after the last of several single writes."""
SHORTEST_UNREADABLE = 60_000
LISTEN_CHUNK = 4096


class QueueDisplay:
    """One line and the displays on it."""

    options = QueueDisplayOptions
    attendance = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        first = devices[0]
        for device in devices[1:]:
            for name in ("line_framing", "baud", "format", "role", "timeout_ms", "quiet_ms"):
                one, other = getattr(first.options, name), getattr(device.options, name)
                if one != other:
                    raise ValueError(
                        f"one line has one {name.removeprefix('line_')}:"
                        f" {first.id} says {one}, {device.id} says {other}"
                    )
        fields: dict[tuple[int, int], str] = {}
        orders: dict[int, tuple[str, str]] = {}
        for device in devices:
            options: QueueDisplayOptions = device.options
            known, order = orders.setdefault(options.unit, (device.id, options.shape.order))
            if order != options.shape.order:
                raise ValueError(
                    f"unit {options.unit} has one order: {known} says {order},"
                    f" {device.id} says {options.shape.order}"
                )
            field_ = options.unit, options.first
            if field_ in fields:
                raise ValueError(
                    f"{fields[field_]} and {device.id} are both unit {options.unit},"
                    f" register {options.first}"
                )
            fields[field_] = device.id

    async def run(self, context: Context) -> None:
        options: QueueDisplayOptions = self._devices[0].options
        displays = [_Display(device, context) for device in self._devices]
        if options.role == "listen":
            await _Listener(displays, options.line(), context).run()
        else:
            await _Scheduler(displays, options.line(), context).run()


class _Line:
    """What asking and overhearing have in common."""

    def __init__(self, displays: Sequence[_Display], line: ModbusLine, context: Context) -> None:
        self.displays = displays
        self.line = line
        self.context = context
        self._unsaved: list[Reading] = []
        self._marks: dict[tuple[str, str], str] = {}

    def look(
        self, display: _Display, registers: Sequence[int], at: Instant, confirmed: bool = True
    ) -> None:
        raw = in_order(registers, "ABCD")
        try:
            text = read_text(display.profile, registers, display.options.ticket_pattern)
        except BadFrame as error:
            display.counts["decode_errors"] += 1
            self.unreadable(display, at, str(error), raw)
            return
        ticket = display.watch.ticket
        told = display.watch.look(text, at, confirmed)
        if not told:
            return
        self._keep([Reading(display.id, when, body, raw) for when, body in told])
        if display.watch.ticket != ticket:
            self._marks[display.id, "ticket"] = display.watch.ticket
        self.context.note(display.id, shown=text.text, shown_state=text.state)

    def unreadable(self, display: _Display, at: Instant, reason: str, raw: bytes) -> None:
        """Once a minute at most: a bad cable says the same all day."""
        last = display.unreadable_at
        if last is not None and abs(at - last) < SHORTEST_UNREADABLE:
            return
        display.unreadable_at = at
        self._keep([Reading(display.id, at, Unreadable(reason), raw[:256])])

    def tell(self, display: _Display, name: str, code: int, detail: str) -> None:
        at = self.context.now()
        self._keep([Reading(display.id, at, DeviceEvent(name, code, detail))])

    def _keep(self, readings: Sequence[Reading]) -> None:
        self._unsaved += readings
        del self._unsaved[:-MOST_UNSAVED]

    async def save(self) -> None:
        """A display has no memory: what can not be stored now is kept for the next time."""
        if not self._unsaved:
            return
        readings, marks = self._unsaved, self._marks
        try:
            await self.context.emit(tuple(readings), marks)
        except OSError as error:
            self.context.note(self.displays[0].id, last_error=f"readings not stored: {error}")
            return
        self._unsaved, self._marks = [], {}


class _Scheduler(_Line):
    """Asks every unit of a line in its turn."""

    def __init__(self, displays: Sequence[_Display], line: ModbusLine, context: Context) -> None:
        super().__init__(displays, line, context)
        self._bus = BusMaster(line)
        by_unit: dict[int, list[_Display]] = {}
        for display in displays:
            by_unit.setdefault(display.options.unit, []).append(display)
        everyone = [_Unit(number, members, line) for number, members in by_unit.items()]
        self._all = {unit.number: unit for unit in everyone}
        self._units = [unit for unit in everyone if unit.blocks]
        self._shows: dict[str, tuple[Show, int]] = {}
        """What is to be shown, and how often that has been tried."""
        self._woken = asyncio.Event()
        self._last_was_dead = False
        self._silent_in_a_row = 0
        self._stretch = 1.0
        self._now = self._reported_at = self._busy_since = context.now()
        self._busy_ms = 0
        self._polls = 0
        self._busy_told = False

    async def run(self) -> None:
        await self._bus.open()
        listening = None
        if any(display.options.write for display in self.displays):
            listening = asyncio.create_task(self._take_orders())
        try:
            await self._work()
        finally:
            if listening is not None:
                listening.cancel()
                with suppress(asyncio.CancelledError):
                    await listening
            await self._bus.close()

    async def _take_orders(self) -> None:
        while True:
            device, order = await self.context.order()
            if isinstance(order, Show):
                self._shows[device] = order, 0
                self._woken.set()

    async def _work(self) -> None:
        writes = 0
        while True:
            await self.save()
            now = self._pass_time()
            unit, due = self._next(now)
            if self._shows and (writes < 3 or due > now):
                writes += 1
                device = next(iter(self._shows))
                await self._timed(self._show(device, *self._shows.pop(device)))
                continue
            writes = 0
            if unit is None or due > now:
                await self._pause((due - now) / 1000)
                continue
            await self._timed(self._ask(unit))

    async def _pause(self, seconds: float) -> None:
        """Until then, or until there is something to show."""
        self._woken.clear()
        if self._shows:
            return
        waits = {
            asyncio.ensure_future(self.context.sleep(seconds)),
            asyncio.ensure_future(self._woken.wait()),
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in waits:
                one.cancel()

    async def _timed(self, work: Awaitable[None]) -> None:
        began = self.context.now()
        await work
        self._busy_ms += max(0, self.context.now() - began)
        self._polls += 1

    # -- whose turn it is

    def _pass_time(self) -> Instant:
        """The hall's time.  Where the clock was set back, what was due stays as near as it was."""
        now = self.context.now()
        if now < self._now:
            back = self._now - now
            for unit in self._units:
                unit.due -= back
                unit.asked_at -= back
            self._reported_at -= back
            self._busy_since -= back
        self._now = now
        if now - self._reported_at >= REPORT_EVERY:
            self._report(now)
        return now

    def _next(self, now: Instant) -> tuple[_Unit | None, float]:
        """Whose turn is next, and when that is due."""
        if not self._units:
            return None, now + REPORT_EVERY
        if all(unit.offline for unit in self._units):
            unit = min(self._units, key=lambda unit: unit.asked_at)
            return unit, max(unit.asked_at for unit in self._units) + PROBE_EVERY
        units = self._units
        if self._last_was_dead:
            # Between two that cost their time-out comes one that answers.
            live = [unit for unit in units if not unit.offline and not unit.rejects]
            units = live or units
        unit = min(units, key=lambda unit: unit.due)
        return unit, unit.due

    async def _ask(self, unit: _Unit) -> None:
        began = self.context.now()
        was_offline = self._last_was_dead = unit.offline
        unit.asked_at = began
        wait = 0.0
        came: list[tuple[Block, tuple[int, ...]]] = []
        for block in tuple(unit.blocks):
            try:
                values = await self._bus.read(
                    unit.number,
                    block.function,
                    block.address,
                    block.size,
                    unit.gap_ms,
                    not was_offline,
                )
            except Silent as error:
                self._silent_in_a_row += 1
                wait = self._missed(unit, str(error))
                break
            except WrongAnswer as error:
                self._silent_in_a_row = 0
                wait = self._wrong(unit, error)
                break
            except Refusal as error:
                self._silent_in_a_row = 0
                if error.code == 2 and unit.split(block):
                    wait = 1.0
                else:
                    wait = self._refused(unit, block, error)
                break
            self._silent_in_a_row = 0
            came.append((block, values))
        else:
            for block, values in came:
                self._read(unit, block, values)
            unit.unread = unit.missed = unit.refused = unit.failed = unit.foreign = 0
            unit.damaged = unit.busy = unit.probes = 0
            unit.lost = False
        now = self.context.now()
        if not unit.offline and not was_offline:
            unit.cost += 0.2 * (now - began - unit.cost)
        needed = sum(one.cost / one.every for one in self._units if not one.offline)
        self._stretch = max(1.0, needed)
        if wait:
            unit.due = now + wait
        else:
            unit.due = max(now, unit.due + unit.every * self._stretch)
        if self._silent_in_a_row >= 3:
            await self._bus.reopen()

    def _read(self, unit: _Unit, block: Block, values: tuple[int, ...]) -> None:
        at = self.context.now()
        for display in block.displays:
            if unit.lost:
                display.watch.away()
            self.context.contact(display.id)
            display.last_good = at
            display.watch.uncertainty = round(unit.every * self._stretch)
            begin = display.first - block.address
            self.look(display, values[begin : begin + display.profile.count], at)

    # -- what goes wrong.  Each returns how many ms to wait, 0 for the usual.

    def _missed(self, unit: _Unit, reason: str) -> float:
        unit.missed += 1
        self._unread(unit, reason)
        if not unit.offline:
            return 0
        wait = unit.WAITS[min(unit.probes, len(unit.WAITS) - 1)]
        unit.probes += 1
        if all(one.offline for one in self._units) and len(self._units) > 1:
            self._lose(self.displays, self._why_down())
        return wait * 1000

    def _why_down(self) -> str:
        counts = self._bus.counts
        hint = "check power and wiring"
        if counts["crc_errors"] > counts["silent"]:
            hint = "only damaged bytes come; check speed, parity, and whether A and B are swapped"
        return f"no unit on the line {self.line.name} answers; {hint}"

    def _wrong(self, unit: _Unit, error: WrongAnswer) -> float:
        reason = str(error)
        at = self.context.now()
        for display in unit.displays:
            self.unreadable(display, at, reason, error.data)
        if error.unit is not None:
            unit.foreign += 1
            if unit.foreign == 3:
                self.tell(unit.displays[0], "address_conflict", error.unit, reason)
        else:
            unit.damaged += 1
            others = [one for one in self._units if one is not unit and not one.missed]
            if unit.damaged >= 3 and others:
                reason += "; the others' are whole: do two displays have this address?"
        return self._missed(unit, reason)

    def _refused(self, unit: _Unit, block: Block, error: Refusal) -> float:
        code = error.code
        last = block.address + block.size - 1
        reason = f"unit {unit.number}, registers {block.address} to {last}: {error}"
        if code in (5, 6):
            unit.missed = 0
            if unit.busy < BUSY_RETRIES:
                unit.busy += 1
                return BUSY_RETRY
            unit.busy = 0
            self._unread(unit, reason)
            return 0
        if code in (1, 2, 3):
            unit.missed = 0
            unit.refused += 1
            self._unread(unit, f"{reason}; is the profile right?")
            if not unit.rejects:
                return 0
            if all(one.rejects for one in self._units):
                raise DeviceRefused(f"{reason}; is the profile right?")
            return unit.REFUSED_WAIT * 1000
        if code in (10, 11):
            if code == 10 and not unit.missed:
                self.tell(unit.displays[0], "gateway_path", code, reason)
            return self._missed(unit, reason)
        unit.missed = 0
        unit.failed += 1
        self._unread(unit, reason)
        if unit.failed == 5:
            self.tell(unit.displays[0], "device_failure", code, reason)
        return 0

    def _unread(self, unit: _Unit, reason: str) -> None:
        """Unread three times, a display is stale: it keeps its last ticket, but is lost."""
        unit.unread += 1
        if unit.unread >= unit.MOST_MISSES:
            unit.lost = True
            self._lose(unit.displays, reason)

    def _lose(self, displays: Iterable[_Display], reason: str) -> None:
        for display in displays:
            self.context.lost(display.id, reason)

    # -- boards that are ours

    async def _show(self, device: str, show: Show, tried: int) -> None:
        display = next((one for one in self.displays if one.id == device), None)
        if display is None or not display.options.write:
            return
        unit = self._all[display.options.unit]
        profile = display.profile
        text, cut = shown_text(profile, show)
        display.counts["cut"] += cut
        try:
            registers = encode_registers(
                profile.decode,
                text,
                profile.count,
                profile.order,
                profile.decimals,
                profile.segment_table(),
            )
            await self._bus.write(
                unit.number, display.first, registers, profile.write_fc, unit.gap_ms
            )
            self.context.contact(device)
            state = "unverified"
            if profile.readable:
                back = await self._bus.read(
                    unit.number, profile.fc, display.first, profile.count, unit.gap_ms
                )
                same = list(back) == registers
                state = "shown" if same else f"differs: {in_order(back, 'ABCD').hex(' ', 2)}"
            self.context.note(device, written=text, write_state=state)
        except (Silent, WrongAnswer, Refusal) as error:
            self.context.note(device, written=text, write_state=f"failed: {error}")
            if tried + 1 < MOST_TRIES:
                self._shows.setdefault(device, (show, tried + 1))
            elif not unit.blocks:
                self.context.lost(device, str(error))
        except ValueError as error:
            self.context.note(device, written=text, write_state=f"failed: {error}")

    # -- how the line is

    def _report(self, now: Instant) -> None:
        took = max(1, now - self._reported_at)
        busy = min(1.0, self._busy_ms / took)
        counts = self._bus.counts
        for display in self.displays:
            self.context.note(
                display.id,
                busy_share=round(busy, 3),
                polls_per_s=round(self._polls * 1000 / took, 1),
                stretch=round(self._stretch, 2),
                late=counts["late"],
                silent=counts["silent"],
                crc_errors=counts["crc_errors"],
                noise_bytes=counts["noise_bytes"],
                reopened=counts["reopened"],
                last_good=display.last_good,
                **display.counts,
            )
        if busy <= BUSY_SHARE:
            self._busy_since, self._busy_told = now, False
        elif now - self._busy_since >= BUSY_FOR and not self._busy_told:
            self._busy_told = True
            detail = (
                f"the line {self.line.name} is {busy:.0%} busy; every display is asked"
                f" {self._stretch:.1f} times less often than it should be"
            )
            self.tell(self.displays[0], "line_busy", round(busy * 100), detail)
        self._reported_at, self._busy_ms, self._polls = now, 0, 0


def shown_text(profile: Profile, show: Show) -> tuple[str, int]:
    """What an order puts on this kind of display, and how many characters did not fit.

    Of a ticket that is too long the end is shown: the beginning alone is another ticket.
    """
    if profile.shows == "line":
        text = show.lines[0] if show.lines else ""
    elif show.state == "paused":
        text = profile.paused[0] if profile.paused else ""
    else:
        text = "" if show.state in ("idle", "closed") else show.ticket
    if profile.decode not in TEXTS:
        return text, 0
    room = profile.count if profile.decode == "char_per_register" else 2 * profile.count
    size = len(text.encode("gbk", "replace"))
    if profile.shows == "ticket" and len(text) > room:
        return text[-room:], len(text) - room
    return text, max(0, size - room)


class _Listener(_Line):
    """Overhears what the queue system writes to its displays; never sends a byte."""

    def __init__(self, displays: Sequence[_Display], line: ModbusLine, context: Context) -> None:
        super().__init__(displays, line, context)
        self._ear = Ear()
        self._write: Heard | None = None
        self._write_at: Instant = 0
        self._reported_at = context.now()

    async def run(self) -> None:
        if self.line.port:
            with SerialLine(self.line.port, self.line.baud, self.line.format) as serial:
                while True:
                    self._hear(await serial.read(0.1))
                    await self.save()
        host, port = self.line.host, self.line.tcp_port
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
        except (OSError, TimeoutError) as error:
            raise DeviceLost(f"No connection to {self.line.name}: {error or 'no answer'}") from None
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            while True:
                try:
                    chunk = await asyncio.wait_for(reader.read(LISTEN_CHUNK), 0.1)
                except TimeoutError:
                    chunk = b""
                else:
                    if not chunk:
                        raise DeviceLost(f"{self.line.name} closed the connection.")
                self._hear(chunk)
                await self.save()
        except OSError as error:
            raise DeviceLost(f"The connection to {self.line.name} broke: {error}") from None
        finally:
            writer.close()

    def _hear(self, chunk: bytes) -> None:
        at = self.context.now()
        for frame in self._ear.hear(chunk, at):
            self._heard(frame, at)
        if self._write and abs(at - self._write_at) > Ear.PATIENCE:
            self._written(confirmed=False)
        for display in self.displays:
            settled = display.written_at is not None and abs(at - display.written_at) >= SETTLED
            if settled:
                self._evaluate(display, display.written_at)
            elif display.written_at is None and display.watch.unsettled:
                self._evaluate(display, at)
        if abs(at - self._reported_at) >= REPORT_EVERY:
            self._reported_at = at
            for display in self.displays:
                self.context.note(
                    display.id,
                    noise_bytes=self._ear.noise,
                    last_good=display.last_good,
                    **display.counts,
                )

    def _heard(self, frame: Heard, at: Instant) -> None:
        if frame.role == "request":
            if self._write:
                self._written(confirmed=False)
            if frame.function in (WRITE_ONE, WRITE):
                self._write, self._write_at = frame, at
            return
        for display in self.displays:
            if display.options.unit == frame.unit:
                display.last_good = at
                self.context.contact(display.id)
        if frame.role == "refusal":
            self._write = None
        elif frame.function in (READ_HOLDING, READ_INPUT):
            self._put(frame, frame.function, at, confirmed=True)
        else:
            self._written(confirmed=True)

    def _written(self, confirmed: bool) -> None:
        write, self._write = self._write, None
        if write:
            self._put(write, READ_HOLDING, self._write_at, confirmed)

    def _put(self, frame: Heard, function: int, at: Instant, confirmed: bool) -> None:
        """Registers are known to hold these values, or were at least told to."""
        for display in self.displays:
            here = display.options.unit == frame.unit or not frame.unit
            past = frame.address + len(frame.values)
            if not here or display.profile.fc != function:
                continue
            if past <= display.first or frame.address >= display.last:
                continue
            changed = display.written_at is None
            for place, value in enumerate(frame.values, frame.address):
                if display.first <= place < display.last:
                    changed = changed or display.image.get(place) != value
                    display.image[place] = value
            display.confirmed = confirmed
            if confirmed:
                display.unconfirmed = 0
            elif frame.unit:
                display.unconfirmed += 1
                display.counts["unconfirmed"] += 1
                if display.unconfirmed >= 3:
                    reason = "the display does not acknowledge what the queue system writes to it"
                    self.context.lost(display.id, reason)
            if changed:
                display.written_at = at
            # A part of the field may be followed by the next part: that is looked at once settled.
            if frame.address <= display.first and past >= display.last:
                self._evaluate(display, at)

    def _evaluate(self, display: _Display, at: Instant | None) -> None:
        display.written_at = None
        text = display.profile.decode in TEXTS
        if at is None or display.first not in display.image:
            return
        # A text shorter than its field says nothing about the rest.
        places = range(display.first, display.last)
        if not text and any(place not in display.image for place in places):
            return
        registers = [display.image.get(place, 0) for place in places]
        self.look(display, registers, at, display.confirmed)


DRIVER = QueueDisplay
