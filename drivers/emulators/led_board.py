"""Plays LED boards on a serial line, a TCP port or a UDP port: they decode what they are sent and
keep the text they show.

Written from the wire formats alone; it shares the checksums with the driver, nothing else.

=============  =====================================================================
profile        frame a board listens for
=============  =====================================================================
strip-aa       AA addr BB 51 54 sum8, (01 00 | 08 02) 99 00 63 text FF
strip-a090     A0 90 addr A5 length(2, big) data xor8; 00 after each character
strip-nibble   80-BF, C0-FF, 44, data, 1A; a byte from 80 on comes as two nibbles
strip-fe       addr FE length seq (86 3C 00 05 00 | 8C 00) text 00 crc(2, big)
count-3a       3A colour low high info sum8 0A, answered with the same or 2A in front
board4         id high low sum8, apart from others by 5 ms of silence
dollar-ascii   $ddd,text#
bx5            A5... header command crc(2, little) 5A with escapes, answered by A0 00
=============  =====================================================================

The names in ``fault`` are what a board may do wrong; ``Board.fault`` may change at any time.
"""

from __future__ import annotations

import asyncio
import os
import re
import tty
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from struct import Struct
from struct import error as StructError
from typing import Literal, NamedTuple

from drivers.frames import CHECKSUMS

Fault = Literal["", "silent", "cut", "refuse", "garbled", "stranger"]
"""``silent``: takes it and says nothing; ``cut``: half an answer; ``refuse``: a NAK, and what was
sent is not shown; ``garbled``: an answer with a wrong checksum; ``stranger``: an answer with
another board's address."""

SILENCE = 0.005
"""Seconds that end a frame of board4."""
KEPT = 2048

_HEADER = Struct("<HH3xBBBBBH")  # to, from, bar code, check, display, device type, version, length
_AREA = Struct("<B4HBBBHBB7BI")
_TURNS = ((b"\xa6", b"\xa6\x01"), (b"\xa5", b"\xa6\x02"), (b"\x5b", b"\x5b\x01"))
_TURN_LAST = (b"\x5a", b"\x5b\x02")


class Frame(NamedTuple):
    """A good frame in a stream, wherever it begins."""

    start: int
    end: int
    address: int | None
    text: bytes | None
    command: bytes = b""


class Area(NamedTuple):
    """A dynamic area as the card was told to show it, in pixels."""

    text: str
    x: int
    y: int
    width: int
    height: int
    mode: int
    timeout: int


def wrap(to: int, sender: int, command: bytes) -> bytes:
    """A frame of the bx5 family."""
    plain = _HEADER.pack(to, sender, 0, 0, 0, 0xFE, 2, len(command)) + command
    plain += CHECKSUMS["crc16_arc"](plain).to_bytes(2, "little")
    for byte, turned in (*_TURNS, _TURN_LAST):
        plain = plain.replace(byte, turned)
    return b"\xa5" * 8 + plain + b"\x5a"


# --------------------------------------------------------------------------------------------
# Listening
# --------------------------------------------------------------------------------------------

_AA = re.compile(
    rb"(?s)(?=\xaa(.)\xbb\x51\x54(.)((?:\x01\x00|\x08\x02)\x99\x00\x63([^\xff]*)\xff))"
)
_A090 = re.compile(rb"(?s)(?=\xa0\x90(.)\xa5(..))")
_NIBBLE = re.compile(
    rb"(?=([\x80-\xbf])([\xc0-\xff])\x44((?:[\x08-\x0f][\x00-\x0f]|[\x20-\x7f])*)\x1a)"
)
_FE = re.compile(rb"(?s)(?=(.)\xfe(.).(\x86\x3c\x00\x05\x00|\x8c\x00))")
_COUNT = re.compile(rb"(?s)(?=\x3a([\x00-\x02])(..)(.)(.)\x0a)")
_DOLLAR = re.compile(rb"(?=\$(\d{3}),([^$#&]*)#)")
_BX5 = re.compile(rb"\xa5+([^\xa5\x5a]*)\x5a")


def _hears_aa(stream: bytes) -> Iterator[Frame]:
    for found in _AA.finditer(stream):
        address, told, summed, text = found.groups()
        if CHECKSUMS["sum8"](summed) == told[0]:
            yield Frame(found.start(), found.end(3), address[0], text)


def _hears_a090(stream: bytes) -> Iterator[Frame]:
    for found in _A090.finditer(stream):
        end = found.end(2) + int.from_bytes(found[2], "big")
        if end >= len(stream) or CHECKSUMS["xor8"](stream[found.start(1) : end]) != stream[end]:
            continue
        data = stream[found.end(2) : end]
        if re.fullmatch(rb"(?s)(?:[\x00-\x7f]\x00|[\x80-\xff].\x00)*", data):
            text = re.sub(rb"(?s)([\x00-\x7f]|[\x80-\xff].)\x00", rb"\1", data)
            yield Frame(found.start(), end + 1, found[1][0], text)


def _hears_nibble(stream: bytes) -> Iterator[Frame]:
    for found in _NIBBLE.finditer(stream):
        low, high, data = found.groups()
        text = re.sub(
            rb"(?s)([\x08-\x0f])(.)", lambda pair: bytes((pair[1][0] * 16 + pair[2][0],)), data
        )
        yield Frame(found.start(), found.end(3) + 1, low[0] % 64 + high[0] % 64 * 64, text)


def _hears_fe(stream: bytes) -> Iterator[Frame]:
    for found in _FE.finditer(stream):
        whole = stream[found.start() : found.start() + found[2][0]]
        if len(whole) < found[2][0] or len(whole) < found.end(3) - found.start() + 3:
            continue
        told = int.from_bytes(whole[-2:], "big")
        if CHECKSUMS["crc16_xmodem"](whole[:-2]) == told and not whole[-3]:
            text = whole[found.end(3) - found.start() : -3]
            yield Frame(found.start(), found.start() + len(whole), found[1][0], text)


def _hears_count(stream: bytes) -> Iterator[Frame]:
    for found in _COUNT.finditer(stream):
        if CHECKSUMS["sum8"](stream[found.start() : found.end(3)]) == found[4][0]:
            number = b"%d" % int.from_bytes(found[2], "little")
            said = stream[found.start(1) : found.end(3)]
            yield Frame(found.start(), found.end(4) + 1, None, number, said)


def _hears_board4(stream: bytes) -> Iterator[Frame]:
    for start in range(0, len(stream) - 3, 4):
        frame = stream[start : start + 4]
        if CHECKSUMS["sum8"](frame[:3]) == frame[3]:
            number = b"%d" % int.from_bytes(frame[1:3], "big")
            yield Frame(start, start + 4, frame[0], number)


def _hears_dollar(stream: bytes) -> Iterator[Frame]:
    for found in _DOLLAR.finditer(stream):
        yield Frame(found.start(), found.end(2) + 1, int(found[1]), found[2])


def _hears_bx5(stream: bytes) -> Iterator[Frame]:
    for found in _BX5.finditer(stream):
        plain = found[1]
        for byte, turned in (_TURN_LAST, *reversed(_TURNS)):
            plain = plain.replace(turned, byte)
        if len(plain) < 21:
            continue
        *_, length = _HEADER.unpack_from(plain)
        told = int.from_bytes(plain[-2:], "little")
        if length == len(plain) - 16 and CHECKSUMS["crc16_arc"](plain[:-2]) == told:
            to = int.from_bytes(plain[:2], "little")
            yield Frame(found.start(), found.end(), to, None, plain[14:-2])


HEARS: dict[str, Callable[[bytes], Iterator[Frame]]] = {
    "strip-aa": _hears_aa,
    "strip-a090": _hears_a090,
    "strip-nibble": _hears_nibble,
    "strip-fe": _hears_fe,
    "count-3a": _hears_count,
    "board4": _hears_board4,
    "dollar-ascii": _hears_dollar,
    "bx5": _hears_bx5,
}


# --------------------------------------------------------------------------------------------
# A board
# --------------------------------------------------------------------------------------------


class Board:
    """One board.  ``label`` is what it shows after power-on; ``head`` is the first byte of a
    count-3a's answers, which some print as 2A."""

    def __init__(self, profile: str, address: int = 1, label: str = "", head: int = 0x3A) -> None:
        self.profile = profile
        self.address = address
        self.label = label
        self.head = head
        self.fault: Fault = ""
        self.text = label
        self.history: list[str] = []
        """Every text it was sent and took, in order."""
        self.areas: dict[int, Area] = {}
        """Of a bx5, what it shows by the id of the area."""
        self.commands: Counter[str] = Counter()
        """Of a bx5, what it was asked to do, such as ``A3 06``."""
        self._hears = HEARS[profile]
        self._stream = b""
        self._heard_at = 0.0

    def switch_off_and_on(self) -> None:
        self.text = self.label
        self.areas.clear()
        self._stream = b""

    def feed(self, data: bytes, now: float = 0.0) -> bytes:
        """Take bytes from the line; what the board says to them.  ``now`` in seconds."""
        if self.profile == "board4" and now - self._heard_at >= SILENCE:
            self._stream = b""
        self._heard_at = now
        self._stream += data
        done = 0
        answers = b""
        for frame in self._hears(self._stream):
            if frame.start < done:
                continue
            done = frame.end
            if self.profile == "count-3a" or frame.address == self.address:
                answers += self._obey(frame)
        if self.profile == "board4":
            done = len(self._stream) // 4 * 4
        self._stream = self._stream[done:][-KEPT:]
        return answers

    def _obey(self, frame: Frame) -> bytes:
        refuses = self.fault == "refuse"
        if frame.text is not None:
            if not refuses:
                self._show(frame.text.decode("gbk", "replace"))
            if self.profile != "count-3a":
                return b""
            summed = bytes((self.head,)) + frame.command
            # It has no word for no.
            return b"" if refuses else self._spoilt(summed + bytes((sum(summed) & 0xFF, 0x0A)))
        self.commands[frame.command[:2].hex(" ").upper()] += 1
        good = not refuses and self._command(frame.command)
        if frame.command[2] != 1:
            return b""
        sender = self.address + (self.fault == "stranger")
        answer = b"\xa0\x00\x00\x00\x00" if good else b"\xa0\x01\x02\x00\x00"
        return self._spoilt(wrap(0x8000, sender, answer))

    def _spoilt(self, whole: bytes) -> bytes:
        match self.fault:
            case "silent":
                return b""
            case "cut":
                return whole[: len(whole) // 2]
            case "garbled":
                return whole[:-3] + bytes((whole[-3] ^ 0x01,)) + whole[-2:]
        return whole

    def _command(self, command: bytes) -> bool:
        """Whether the card does it."""
        if command[:2] == b"\xa3\x06":
            areas = _areas(command[5:])
            if areas is None:
                return False
            deleted, written = areas
            for area in deleted:
                self.areas.pop(area, None)
            self.areas.update(written)
            shown = [self.areas[area].text for area in sorted(self.areas)]
            self._show("\n".join(shown))
            return True
        return command[:2] == b"\xa2\x00"

    def _show(self, text: str) -> None:
        self.text = text
        self.history.append(text)


def _areas(told: bytes) -> tuple[Sequence[int], dict[int, Area]] | None:
    try:
        deleted = told[1 : 1 + told[0]]
        count, rest = told[1 + told[0]], told[2 + told[0] :]
        written = {}
        for _ in range(count):
            size = int.from_bytes(rest[:2], "little")
            area, rest = rest[2 : 2 + size], rest[2 + size :]
            _, x, y, width, height, number, _, _, timeout, *_, mode, _, _, _, length = (
                _AREA.unpack_from(area)
            )
            text = area[_AREA.size :]
            if length != len(text) or len(area) != size:
                return None
            # Without bit 15, columns of 8 pixels.
            x, width = (n & 0x7FFF if n & 0x8000 else n * 8 for n in (x, width))
            shown = text.decode("gbk", "replace")
            written[number] = Area(shown, x, y, width, height, mode, timeout)
    except (IndexError, StructError):
        return None
    return None if rest else (deleted, written)


# --------------------------------------------------------------------------------------------
# A line with boards
# --------------------------------------------------------------------------------------------


class BoardLine:
    """Boards on one line.  ``clock`` gives seconds; without it no time passes between bytes."""

    def __init__(self, boards: Sequence[Board], clock: Callable[[], float] | None = None) -> None:
        self.boards = boards
        self.heard: deque[tuple[float, bytes]] = deque(maxlen=1000)
        """What came lately, piece by piece, with the time."""
        self.connections = 0
        self._clock = clock or (lambda: 0.0)
        self._pty: tuple[int, int] | None = None
        self._server: asyncio.Server | None = None
        self._visits: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._datagrams: asyncio.DatagramTransport | None = None

    async def start_pty(self) -> str:
        """The path of the serial port whose other end the boards hang on."""
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        asyncio.get_running_loop().add_reader(ours, self._readable, ours)
        self._pty = ours, theirs
        return os.ttyname(theirs)

    async def start_tcp(self, host: str = "127.0.0.1", port: int = 0) -> int:
        self._server = await asyncio.start_server(self._visit, host, port)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def start_udp(self, host: str = "127.0.0.1", port: int = 0) -> int:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self.say), local_addr=(host, port)
        )
        self._datagrams = transport
        number: int = transport.get_extra_info("sockname")[1]
        return number

    async def stop(self) -> None:
        """The plug is pulled: the port vanishes, connections break."""
        if self._pty:
            asyncio.get_running_loop().remove_reader(self._pty[0])
            for end in self._pty:
                os.close(end)
            self._pty = None
        if self._server:
            self._server.close()
            self._server = None
        self.disconnect()
        await asyncio.gather(*filter(None, self._visits.values()))
        if self._datagrams:
            self._datagrams.close()
            self._datagrams = None

    def disconnect(self) -> None:
        """Whoever is connected over TCP no longer is, and may come again."""
        for writer in self._visits:
            writer.transport.abort()

    def say(self, data: bytes) -> bytes:
        """What the boards answer to these bytes."""
        now = self._clock()
        self.heard.append((now, data))
        return b"".join([board.feed(data, now) for board in self.boards])

    def _readable(self, end: int) -> None:
        with suppress(OSError):
            if answer := self.say(os.read(end, 4096)):
                os.write(end, answer)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._visits[writer] = asyncio.current_task()
        try:
            while data := await reader.read(4096):
                writer.write(self.say(data))
                await writer.drain()
        except OSError:
            pass
        finally:
            del self._visits[writer]
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, say: Callable[[bytes], bytes]) -> None:
        self._say = say
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if answer := self._say(data):
            self._transport.sendto(answer, addr)
