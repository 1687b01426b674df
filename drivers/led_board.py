"""LED boards that hallwatch writes to: window strips (窗口条屏), hall screens (综合屏), boards that
count, and Onbon BX-5K font cards (仰邦字库卡).

A frame for each profile; texts are GBK, ``sum8`` and ``xor8`` are one byte::

    strip-aa      AA addr BB 51 54 sum8 x y 99 00 63 text FF
                  x y: 01 00 window strip, 08 02 hall screen; the sum is of all that follows it
    strip-a090    A0 90 addr A5 length(2, high first) data xor8
                  a character is its 1 or 2 bytes and 00; xor8 from addr on
    strip-nibble  80+low 6 bits of addr, C0+its high bits, 44, data, 1A
                  a byte from 80 on is sent as two of its halves, ASCII as it is; no checksum
    strip-fe      addr FE length seq 86 3C 00 05 00 text 00 crc    window strip
                  addr FE length seq 8C 00 text 00 crc             hall screen
                  length of the whole; CRC16-XMODEM, high byte first
    count-3a      3A colour low high info sum8 0A
                  00 green, 01 yellow, 02 red; it answers likewise, some with 2A for 3A
    board4        id high low sum8
    dollar-ascii  $ three digits , text #       a query ends in &
    bx5           A5 (8 times) header command crc 5A; between them A5 is sent as A6 02, A6 as A6 01,
                  5A as 5B 02 and 5B as 5B 01; CRC16-ARC of what is escaped, low byte first

Header of bx5, little-endian: u16 to, u16 from (8000 is us), 3 bytes, u8 bar code, u8 check mode, u8
display mode, u8 device type (FE any), u8 version (02), u16 length of the command.  The command is
group, number, 01 for an answer, 2 bytes, arguments; an answer has a status in the third place, 0
for good, and is A0 00 where nothing else is to be told, A0 01 for a refusal.  A2 00 asks for a sign
of life.  A3 06 writes dynamic areas: u8 areas to delete and their ids, u8 areas to write, each a
u16 length and::

    0   u8   type          9   u8   id                14  u8  speech      20  u8   exit mode
    1   u16  x             10  u8   line spacing      15  u8  extra       21  u8   speed
    3   u16  y             11  u8   run mode          16  u8  align       22  u8   stay
    5   u16  width         12  u16  timeout           17  u8  single line 23  u32  length of text
    7   u16  height                                   18  u8  wrap        27  ...  text
                                                      19  u8  display mode

x and width count 8 pixels, or with bit 15 single ones.  Tickets go to dynamic areas, which are in
the card's memory, and never into stored programs: those are in flash, good for some 100,000 writes.
Brightness and speeds are never written.

Only bx5 and count-3a answer.  Of the others nothing is known but that the port took the bytes: for
them being in contact means an open port, and their health says ``unverified``.  On a line whose
adapter gives back an echo, a count-3a board cannot be told from it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol
from unicodedata import category, normalize
from zoneinfo import ZoneInfo

from drivers.base import Context, Device, DeviceLost, Show
from drivers.frames import CHECKSUMS
from drivers.serial_line import SerialLine, line_format
from rules.model import DeviceEvent, Reading, Shown, Unreadable

FAMILY = "led_board"

sum8, xor8 = CHECKSUMS["sum8"], CHECKSUMS["xor8"]
crc_arc, crc_xmodem = CHECKSUMS["crc16_arc"], CHECKSUMS["crc16_xmodem"]

Profile = Literal[
    "strip-aa",
    "strip-a090",
    "strip-nibble",
    "strip-fe",
    "count-3a",
    "board4",
    "dollar-ascii",
    "bx5",
]
ANSWERING = ("bx5", "count-3a")
NUMBERS = ("count-3a", "board4")
"""Profiles of boards that show a number and nothing else."""

LONGEST = 1024
"""Bytes behind which a frame that has begun is none."""


# --------------------------------------------------------------------------------------------
# Texts
# --------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """``replaced`` characters are not in GBK and became ``?``; ``cut`` ones found no room."""

    data: bytes
    replaced: int = 0
    cut: int = 0


RESERVED = {"dollar-ascii": "$#&", "bx5": "\\"}
"""Characters that mean something to the board; shown as their full-width twins."""


def board_text(text: str, max_bytes: int, reserved: str = "") -> Text:
    """The text as a board can show it: no control characters, never half a character.

    GBK only: no board shows the four-byte characters of GB18030, and where a character is one or
    two bytes they would put everything behind them out of step.
    """
    data = bytearray()
    replaced = 0
    shown = [one for one in text if category(one) not in ("Cc", "Cf", "Zl", "Zp")]
    for place, one in enumerate(shown):
        if one in reserved:
            one = chr(ord(one) + 0xFEE0)
        character = one.encode("gbk", "replace")
        if len(data) + len(character) > max_bytes:
            return Text(bytes(data), replaced, len(shown) - place)
        replaced += character == b"?" and one != "?"
        data += character
    return Text(bytes(data), replaced)


def board_number(text: str, digits: int) -> int:
    """The last ``digits`` of the first number in the text, as small displays show tickets; 0 where
    there is none: these boards cannot be blank."""
    found = re.search("[0-9]+", normalize("NFKC", text))
    return int(found[0][-digits:]) if found else 0


# --------------------------------------------------------------------------------------------
# Frames to send
# --------------------------------------------------------------------------------------------


def strip_aa(address: int, text: bytes, hall: bool = False) -> bytes:
    summed = (b"\x08\x02" if hall else b"\x01\x00") + b"\x99\x00\x63" + text + b"\xff"
    return bytes((0xAA, address, 0xBB, 0x51, 0x54, sum8(summed))) + summed


def strip_a090(address: int, text: bytes) -> bytes:
    data = b"".join(one + b"\0" for one in _characters(text))
    summed = bytes((address, 0xA5)) + len(data).to_bytes(2, "big") + data
    return b"\xa0\x90" + summed + bytes((xor8(summed),))


def strip_nibble(address: int, text: bytes) -> bytes:
    data = bytearray()
    for byte in text:
        data += bytes((byte >> 4, byte & 15)) if byte & 0x80 else bytes((byte,))
    return bytes((0x80 | address & 0x3F, 0xC0 | address >> 6, 0x44)) + data + b"\x1a"


def strip_fe(address: int, seq: int, text: bytes, hall: bool = False) -> bytes:
    """Texts of more than 243 bytes do not fit."""
    data = (b"\x8c\x00" if hall else b"\x86\x3c\x00\x05\x00") + text + b"\0"
    summed = bytes((address, 0xFE, len(data) + 6, seq)) + data
    return summed + crc_xmodem(summed).to_bytes(2, "big")


def count_3a(value: int, colour: int = 0) -> bytes:
    summed = bytes((0x3A, colour, value & 0xFF, value >> 8, 1))
    return summed + bytes((sum8(summed), 0x0A))


def board4(address: int, value: int) -> bytes:
    summed = bytes((address, value >> 8, value & 0xFF))
    return summed + bytes((sum8(summed),))


def dollar_ascii(address: int, text: bytes) -> bytes:
    return b"$%03d,%b#" % (address, text)


US = 0x8000
MOST_A5 = 32
"""Eight stand before a frame, but a line may add some and lose some."""
STEADY = 1
"""Display mode: the text stands still."""
_AREA = struct.Struct("<BHHHHBBBHBBBBBBBBBI")
_ESCAPED = {0xA5: b"\xa6\x02", 0xA6: b"\xa6\x01", 0x5A: b"\x5b\x02", 0x5B: b"\x5b\x01"}
_PLAIN = {told: bytes((byte,)) for byte, told in _ESCAPED.items()}


def bx5_frame(to: int, command: bytes, sender: int = US) -> bytes:
    header = struct.pack("<HH6xBBH", to, sender, 0xFE, 2, len(command))
    summed = header + command
    inside = summed + crc_arc(summed).to_bytes(2, "little")
    escaped = b"".join(_ESCAPED.get(byte) or bytes((byte,)) for byte in inside)
    return b"\xa5" * 8 + escaped + b"\x5a"


def bx5_ping(address: int) -> bytes:
    return bx5_frame(address, b"\xa2\x00\x01\x00\x00")


def bx5_area(area: int, y: int, width: int, height: int, text: bytes, mode: int = STEADY) -> bytes:
    """One dynamic area from the left edge on, ``y`` pixels down; it stays until it is rewritten."""
    described = _AREA.pack(
        0, 0x8000, y, 0x8000 | width, height, area, 0, 0, 0, 0, 0, 1, 1, 1, mode, 0, 1, 5, len(text)
    )
    return described + text


def bx5_show(address: int, areas: Sequence[bytes], delete: Sequence[int] = ()) -> bytes:
    """Write ``areas`` and delete those of the ids ``delete``, and ask for an answer."""
    command = b"\xa3\x06\x01\x00\x00" + bytes((len(delete), *delete, len(areas)))
    for area in areas:
        command += len(area).to_bytes(2, "little") + area
    return bx5_frame(address, command)


def _characters(text: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        size = 1 if text[at] < 0x80 else 2
        yield text[at : at + size]
        at += size


# --------------------------------------------------------------------------------------------
# Frames that came
# --------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """A frame on the line.  ``text`` is what it would have a board show, none for other frames.
    ``answer``: ``good`` or ``refused`` if a board said it, with its ``status``."""

    raw: bytes
    address: int | None = None
    text: str | None = None
    answer: Literal["", "good", "refused"] = ""
    status: int = 0


class Split(NamedTuple):
    heard: list[Heard]
    rest: bytes
    """To be put before the bytes to come; shorter than the longest frame."""
    dropped: list[bytes]
    """Runs of bytes that are no frame."""


_At = Heard | Literal["more"] | None
"""The frame that begins at a place; none if none does; ``more`` if one may."""


def split(profile: Profile, buffer: bytes, complete: bool = False) -> Split:
    """Never raises.  ``complete``: no more bytes will come.

    What fits nowhere is dropped byte by byte: a good frame may begin inside a broken one.
    """
    frame_at = _FRAME_AT[profile]
    heard: list[Heard] = []
    dropped: list[bytes] = []
    at = broken = 0
    while at < len(buffer):
        found = frame_at(buffer, at)
        if found == "more" and not complete:
            break
        if isinstance(found, Heard):
            if broken < at:
                dropped.append(buffer[broken:at])
            heard.append(found)
            at = broken = at + len(found.raw)
        else:
            at += 1
    if broken < at:
        dropped.append(buffer[broken:at])
    return Split(heard, buffer[at:], dropped)


def _begins(buffer: bytes, at: int, *pattern: int | None) -> bool:
    """Whether what is there so far is what a frame begins with."""
    return all(
        wanted is None or byte == wanted
        for byte, wanted in zip(buffer[at : at + len(pattern)], pattern, strict=False)
    )


def _plain(text: bytes) -> str:
    return text.decode("gbk", "replace")


def _strip_aa_at(buffer: bytes, at: int) -> _At:
    if not _begins(buffer, at, 0xAA, None, 0xBB, 0x51, 0x54, None, None, None, 0x99, 0x00, 0x63):
        return None
    end = buffer.find(b"\xff", at + 11, at + LONGEST) + 1
    if not end:
        return "more" if len(buffer) - at < LONGEST else None
    if sum8(buffer[at + 6 : end]) != buffer[at + 5]:
        return None
    return Heard(buffer[at:end], buffer[at + 1], _plain(buffer[at + 11 : end - 1]))


def _strip_a090_at(buffer: bytes, at: int) -> _At:
    if not _begins(buffer, at, 0xA0, 0x90, None, 0xA5):
        return None
    if len(buffer) - at < 6:
        return "more"
    end = at + 7 + int.from_bytes(buffer[at + 4 : at + 6], "big")
    if end - at > LONGEST:
        return None
    if len(buffer) < end:
        return "more"
    if xor8(buffer[at + 2 : end - 1]) != buffer[end - 1]:
        return None
    text = bytearray()
    place = at + 6
    while place < end - 1:
        size = 1 if buffer[place] < 0x80 else 2
        if place + size >= end - 1 or buffer[place + size]:
            return None
        text += buffer[place : place + size]
        place += size + 1
    return Heard(buffer[at:end], buffer[at + 2], _plain(bytes(text)))


def _strip_nibble_at(buffer: bytes, at: int) -> _At:
    head = buffer[at : at + 3]
    for byte, mask, wanted in zip(head, (0xC0, 0xC0, 0xFF), (0x80, 0xC0, 0x44), strict=False):
        if byte & mask != wanted:
            return None
    text = bytearray()
    half: int | None = None
    for place in range(at + 3, min(len(buffer), at + LONGEST)):
        byte = buffer[place]
        if half is not None:
            if byte > 15:
                return None
            text.append(half << 4 | byte)
            half = None
        elif 8 <= byte <= 15:
            half = byte
        elif byte == 0x1A:
            address = head[0] & 0x3F | (head[1] & 0x3F) << 6
            return Heard(buffer[at : place + 1], address, _plain(bytes(text)))
        elif not 0x20 <= byte < 0x80:
            return None
        else:
            text.append(byte)
    return "more" if len(buffer) - at < LONGEST else None


def _strip_fe_at(buffer: bytes, at: int) -> _At:
    for form in (b"\x86\x3c\x00\x05\x00", b"\x8c\x00"):
        if _begins(buffer, at, None, 0xFE, None, None, *form):
            break
    else:
        return None
    if len(buffer) - at < 3:
        return "more"
    end = at + buffer[at + 2]
    begin = at + 4 + len(form)
    if end < begin + 3:
        return None
    if len(buffer) < end:
        return "more"
    if crc_xmodem(buffer[at:end]) or buffer[end - 3]:
        return None
    return Heard(buffer[at:end], buffer[at], _plain(buffer[begin : end - 3]))


def _count_3a_at(buffer: bytes, at: int) -> _At:
    if buffer[at] not in b"\x3a\x2a" or not _begins(buffer, at + 6, 0x0A):
        return None
    frame = buffer[at : at + 7]
    if len(frame) < 7:
        return "more"
    if sum8(frame[:5]) != frame[5]:
        return None
    return Heard(frame, None, str(frame[2] | frame[3] << 8), "good")


def _board4_at(buffer: bytes, at: int) -> _At:
    frame = buffer[at : at + 4]
    if len(frame) < 4:
        return "more"
    if sum8(frame[:3]) != frame[3]:
        return None
    return Heard(frame, frame[0], str(frame[1] << 8 | frame[2]))


def _dollar_ascii_at(buffer: bytes, at: int) -> _At:
    head = buffer[at : at + 5]
    if head[:1] != b"$" or not (head[1:4] + b"000")[:3].isdigit() or head[4:] not in (b"", b","):
        return None
    for place in range(at + 5, min(len(buffer), at + LONGEST)):
        byte = buffer[place]
        if byte in b"#&":
            text = _plain(buffer[at + 5 : place]) if byte == 0x23 else None
            return Heard(buffer[at : place + 1], int(head[1:4]), text)
        if byte < 0x20 or byte == 0x24:
            return None
    return "more" if len(buffer) - at < LONGEST else None


def _bx5_at(buffer: bytes, at: int) -> _At:
    begin = at
    while begin < min(len(buffer), at + MOST_A5) and buffer[begin] == 0xA5:
        begin += 1
    if begin == at:
        return None
    end = buffer.find(b"\x5a", begin, begin + LONGEST)
    again = buffer.find(b"\xa5", begin, end if end >= 0 else begin + LONGEST)
    if again >= 0:
        return None
    if end < 0:
        return "more" if len(buffer) - begin < LONGEST else None
    inside = _unescaped(buffer[begin:end])
    if inside is None or len(inside) < 21 or crc_arc(inside):
        return None
    to, sender, length = struct.unpack_from("<HH8xH", inside)
    command = inside[14:-2]
    if length != len(command):
        return None
    raw = buffer[at : end + 1]
    if sender == US:
        text = _areas_text(command[5:]) if command[:2] == b"\xa3\x06" else None
        return Heard(raw, to, text)
    refused = command[:2] == b"\xa0\x01" or command[2] != 0
    return Heard(raw, sender, None, "refused" if refused else "good", command[2])


def _unescaped(escaped: bytes) -> bytes | None:
    plain = bytearray()
    at = 0
    while at < len(escaped):
        if escaped[at] in (0xA6, 0x5B):
            byte = _PLAIN.get(escaped[at : at + 2])
            if byte is None:
                return None
            plain += byte
            at += 2
        else:
            plain.append(escaped[at])
            at += 1
    return bytes(plain)


def _areas_text(arguments: bytes) -> str | None:
    """What the dynamic areas are to show, one after the other."""
    texts = []
    at = 1 + arguments[0] if arguments else 0
    count = arguments[at] if at < len(arguments) else 0
    at += 1
    for _ in range(count):
        end = at + 2 + int.from_bytes(arguments[at : at + 2], "little")
        area = arguments[at + 2 : end]
        if end > len(arguments) or len(area) < _AREA.size:
            return None
        if int.from_bytes(area[23:27], "little") != len(area) - _AREA.size:
            return None
        texts.append(_plain(area[_AREA.size :]))
        at = end
    return " ".join(texts) if texts else None


_FRAME_AT: Mapping[Profile, Callable[[bytes, int], _At]] = {
    "bx5": _bx5_at,
    "strip-aa": _strip_aa_at,
    "strip-a090": _strip_a090_at,
    "strip-fe": _strip_fe_at,
    "count-3a": _count_3a_at,
    "dollar-ascii": _dollar_ascii_at,
    "strip-nibble": _strip_nibble_at,
    "board4": _board4_at,
}


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """What the boards of a captured line were given to show; ``window`` is the board's address.

    The profile is the one that makes sense of most bytes; ``board4``, which any four bytes may be
    by chance, only of half of them and where no other finds anything.  ``confirmed``: the board's
    answer follows.
    """
    del zone
    best, understood = Split([], b"", [data] if data else []), 0
    for profile in _FRAME_AT:
        found = split(profile, data, complete=True)
        size = sum(len(one.raw) for one in found.heard)
        if profile == "board4" and (understood or 2 * size < len(data)):
            break
        if size > understood:
            best, understood = found, size
    waiting: Heard | None = None
    for one in best.heard:
        answers = waiting is not None and one.answer and _may_answer(one, waiting)
        if waiting is not None:
            yield _shown(waiting, one.answer == "good" if answers else False)
            waiting = None
        if one.text is not None and not answers:
            waiting = one
    if waiting is not None:
        yield _shown(waiting, False)
    for run in best.dropped:
        yield Reading(
            "capture", 0, Unreadable(f"{len(run)} bytes that are no frame of a board"), run[:4096]
        )


def _may_answer(answer: Heard, written: Heard) -> bool:
    if answer.text is None:
        return answer.address == written.address
    # A count board says what it was told, perhaps with the other first byte.
    return answer.raw[1:5] == written.raw[1:5]


def _shown(heard: Heard, confirmed: bool) -> Reading:
    text = heard.text or ""
    if not text.strip(" -0\u3000"):
        state = "blank"
    elif "暂停" in text:
        state = "paused"
    else:
        state = "ticket" if re.search("[0-9]", text) else "unknown"
    window = "" if heard.address is None else str(heard.address)
    return Reading("capture", 0, Shown(window, text, state, confirmed=confirmed), heard.raw)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------

_HIGHEST = {"strip-nibble": 4095, "dollar-ascii": 999, "bx5": 65535}
"""Addresses of the other profiles are one byte."""


@dataclass(frozen=True, slots=True)
class LedBoardOptions:
    """A board that is hallwatch's own to write to.

    ``port`` with ``baud`` and ``format`` is a serial line, ``host`` with ``ip_port`` a network
    card or a serial server.  ``baud`` 0 stands for 57600 with bx5 and 9600 else.  ``kind``:
    strip-aa and strip-fe have other frames for hall screens.  ``max_bytes`` is the room for a line
    of text, 0 for 64; for a board that shows a number how many digits it has, 0 for 3.  ``flash``
    is the display mode in which a bx5 card flashes (7 with many), used for 3 s when a ticket is
    called; 0 for never.  ``width`` and ``height`` in pixels are what the lines share on a bx5,
    ``area`` the id of the first line's dynamic area.
    """

    profile: Profile
    transport: Literal["serial", "tcp", "udp"] = "serial"
    port: str = ""
    baud: int = 0
    format: str = "8N1"
    host: str = ""
    ip_port: int = 5005
    address: int = 1
    kind: Literal["window", "hall"] = "window"
    max_bytes: int = 0
    min_gap_ms: int = 100
    tries: int = 3
    flash: int = 0
    width: int = 128
    height: int = 32
    area: int = 0

    def __post_init__(self) -> None:
        if self.transport == "serial":
            if not self.port:
                raise ValueError("port is empty; expected one such as /dev/serial/by-id/...")
            if self.host:
                raise ValueError("host is for the transports tcp and udp; expected none")
        elif not self.host:
            raise ValueError(f"host is empty; expected where the board listens to {self.transport}")
        elif self.port:
            raise ValueError("port is for the transport serial; expected none")
        if self.transport == "udp" and self.profile not in ANSWERING:
            raise ValueError(
                f"transport is udp, but boards of {self.profile} never answer: nothing would show"
                " whether they are there; expected serial or tcp"
            )
        line_format(self.format)
        numeric = self.profile in NUMBERS
        for name, lowest, highest in (
            ("baud", 0, 4_000_000),
            ("ip_port", 1, 65_535),
            ("address", 0, _HIGHEST.get(self.profile, 255)),
            ("max_bytes", 0, 4 if numeric else 243),
            ("min_gap_ms", 0, 10_000),
            ("tries", 1, 10),
            ("flash", 0, 255),
            ("width", 1, 32_767),
            ("height", 8, 65_535),
            ("area", 0, 255 - MOST_LINES),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ValueError(f"{name} is {value}; expected {lowest} to {highest}")
        if self.profile == "bx5" and self.address == US:
            raise ValueError(f"address is {US}, which is hallwatch's own on this protocol")
        if self.flash and self.profile != "bx5":
            raise ValueError(f"flash is {self.flash}, but boards of {self.profile} cannot flash")

    def link(self) -> tuple[str | int, ...]:
        if self.transport == "serial":
            return "serial", self.port
        return self.transport, self.host, self.ip_port

    @property
    def speed(self) -> int:
        return self.baud or (57_600 if self.profile == "bx5" else 9_600)

    @property
    def room(self) -> int:
        return self.max_bytes or (3 if self.profile in NUMBERS else 64)


MOST_LINES = 8
"""Lines on one bx5 card; how many dynamic areas a card takes depends on its model."""


def board_texts(options: LedBoardOptions, lines: Sequence[str]) -> tuple[Text, ...]:
    """The lines as the board can show them: one for each of its dynamic areas, or one in all."""
    if options.profile in NUMBERS:
        return (Text(b"%d" % board_number(" ".join(lines), options.room)),)
    reserved = RESERVED.get(options.profile, "")
    if options.profile != "bx5":
        return (board_text(" ".join(lines), options.room, reserved),)
    texts = [board_text(line, options.room, reserved) for line in lines or ("",)]
    if left_out := len(texts[MOST_LINES:]):
        texts[MOST_LINES - 1] = texts[MOST_LINES - 1]._replace(cut=left_out)
    return tuple(texts[:MOST_LINES])


def board_frame(
    options: LedBoardOptions,
    texts: Sequence[bytes],
    seq: int = 0,
    mode: int = STEADY,
    areas_before: int = 0,
) -> bytes:
    """The frame that has the board show what ``board_texts`` gave.  ``mode`` and
    ``areas_before``, the number of texts it has shown until then, matter to bx5 alone."""
    address, text, hall = options.address, texts[0], options.kind == "hall"
    match options.profile:
        case "strip-aa":
            return strip_aa(address, text, hall)
        case "strip-a090":
            return strip_a090(address, text)
        case "strip-nibble":
            return strip_nibble(address, text)
        case "strip-fe":
            return strip_fe(address, seq, text, hall)
        case "count-3a":
            return count_3a(int(text))
        case "board4":
            return board4(address, int(text))
        case "dollar-ascii":
            return dollar_ascii(address, text)
    height = options.height // len(texts)
    areas = [
        # What a card makes of an area without any text is written nowhere.
        bx5_area(options.area + n, n * height, options.width, height, text or b" ", mode)
        for n, text in enumerate(texts)
    ]
    deleted = range(options.area + len(texts), options.area + areas_before)
    return bx5_show(address, areas, deleted)


# --------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------

CONNECT_S = 10.0
WRITE_S = 10.0


class _Line(Protocol):
    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class _Tcp:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Boards behind it may never say a word: only the connection itself shows that it is gone.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)

    async def read(self) -> bytes:
        try:
            data = await self._reader.read(4096)
        except OSError as error:
            raise DeviceLost(f"连接中断 / the connection broke: {error}") from error
        if not data:
            raise DeviceLost("屏关闭了连接 / the board closed the connection")
        return data

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        # Not close: that would wait for a peer whose cable is out.
        self._writer.transport.abort()


class _Udp(asyncio.DatagramProtocol):
    MOST_WAITING = 256

    def __init__(self) -> None:
        self._came: asyncio.Queue[bytes | Exception] = asyncio.Queue(self.MOST_WAITING)
        self.transport: asyncio.DatagramTransport

    def datagram_received(self, data: bytes, _: object) -> None:
        with suppress(asyncio.QueueFull):
            self._came.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        with suppress(asyncio.QueueFull):
            self._came.put_nowait(exc)

    async def read(self) -> bytes:
        came = await self._came.get()
        if isinstance(came, Exception):
            raise DeviceLost(f"屏的 UDP 端口无应答 / UDP port unreachable: {came}")
        return came

    async def write(self, data: bytes) -> None:
        self.transport.sendto(data)

    def close(self) -> None:
        self.transport.abort()


async def _open(options: LedBoardOptions) -> _Line:
    if options.transport == "serial":
        return SerialLine(options.port, options.speed, options.format)
    where = f"{options.host}:{options.ip_port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            if options.transport == "tcp":
                return _Tcp(*await asyncio.open_connection(options.host, options.ip_port))
            transport, line = await asyncio.get_running_loop().create_datagram_endpoint(
                _Udp, remote_addr=(options.host, options.ip_port)
            )
            line.transport = transport
            return line
    except TimeoutError:
        raise DeviceLost(f"连接 {where} 超时 / no connection to {where}") from None
    except OSError as error:
        why = error.strerror or error
        raise DeviceLost(f"无法连接 {where} / no connection to {where}: {why}") from error


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------

ANSWER_S = 0.6
"""A card answers within some 100 ms; a serial server adds its own."""
BETWEEN_TRIES_S = 0.1
UPDATES_S = 0.2
"""Least seconds between two texts on one board: what comes faster nobody can read."""
FLASH_S = 3.0
KEEP_S = 30.0
"""How often boards that answer are asked for a sign of life."""
REWRITE_S = 300.0
"""How often the text is written again.  A board that lost its power for a moment shows its own
label, and those that never answer would do so until the next call."""
STRANGERS = 3


class _Board:
    """What one board is to show, and how it is."""

    def __init__(self, device: str, options: LedBoardOptions) -> None:
        self.id = device
        self.options = options
        self.answers = options.profile in ANSWERING
        self.texts: tuple[bytes, ...] | None = None
        """What it is to show; none before the first order."""
        self.shows: tuple[bytes, ...] | None = None
        """What it took since the line was opened."""
        self.due = False
        self.flash = False
        self.ping = False
        self.not_before = 0.0
        self.served_at = 0.0
        self.failed = False
        self.silent = False
        self.strangers = 0
        self.areas = 0
        """How many lines it has had since we know it."""
        self.counts = {"written": 0, "replaced": 0, "cut": 0, "unanswered": 0, "refused": 0}
        self._seq = 0

    def reconnected(self) -> None:
        """Everything that was asked for meanwhile is no live call any more: nothing flashes."""
        self.shows = None
        self.due = self.texts is not None
        self.flash = False
        self.ping = self.options.profile == "bx5"
        self.silent = False

    def take(self, show: Show) -> None:
        told = board_texts(self.options, show.lines)
        self.counts["replaced"] += sum(text.replaced for text in told)
        self.counts["cut"] += sum(text.cut > 0 for text in told)
        texts = tuple(text.data for text in told)
        self.flash = show.announce or (self.flash and texts == self.texts)
        self.due = self.due or show.announce or texts != self.shows
        self.texts = texts

    def frame(self, texts: tuple[bytes, ...]) -> bytes:
        self._seq = (self._seq + 1) & 0xFF
        mode = self.options.flash if self.flash and self.options.flash else STEADY
        return board_frame(self.options, texts, self._seq, mode, self.areas)


class _Outcome(NamedTuple):
    kind: Literal["good", "silent", "refused"]
    status: int = 0


class _Talk:
    """One open line and the boards on it: one frame at a time, with a pause between any two."""

    def __init__(self, context: Context, line: _Line, boards: Sequence[_Board]) -> None:
        self._context = context
        self._line = line
        self._boards = boards
        options = boards[0].options
        self._profile = options.profile
        self._byte_s = 11 / options.speed if options.transport == "serial" else 0.0
        self._gap_s = max(board.options.min_gap_ms for board in boards) / 1000
        self._tcp = options.transport == "tcp"
        self._clock = asyncio.get_running_loop().time
        self._free_at = 0.0
        self._wake = asyncio.Event()
        self._answers: asyncio.Queue[Heard] = asyncio.Queue(16)
        self._errors = 0
        self._settling: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        for board in self._boards:
            board.reconnected()
            if not board.answers:
                self._context.note(board.id, unverified=True)
                self._context.contact(board.id)
        parts = [
            asyncio.create_task(part)
            for part in (self._listen(), self._take_orders(), self._serve_all(), self._keep())
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            parts += self._settling.values()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    # What comes from the hall and from the line ---------------------------------------------

    async def _take_orders(self) -> None:
        boards = {board.id: board for board in self._boards}
        while True:
            device, order = await self._context.order()
            if isinstance(order, Show) and device in boards:
                boards[device].take(order)
                self._wake.set()

    async def _listen(self) -> None:
        buffer = b""
        while True:
            data = await self._line.read()
            if self._profile not in ANSWERING:
                continue
            heard, buffer, dropped = split(self._profile, buffer + data)
            for one in heard:
                if one.answer:
                    await self._hear(one)
            if dropped:
                self._errors += len(dropped)
                for board in self._boards:
                    self._context.note(board.id, decode_errors=self._errors)

    async def _hear(self, answer: Heard) -> None:
        if self._profile != "bx5" or any(
            board.options.address == answer.address for board in self._boards
        ):
            with suppress(asyncio.QueueFull):
                self._answers.put_nowait(answer)
            return
        first = self._boards[0]
        first.strangers += 1
        if first.strangers == STRANGERS:
            detail = f"answers come from screen {answer.address}, which is not in the settings"
            await self._tell(first, "address_conflict", answer.address or 0, detail)

    async def _keep(self) -> None:
        """See to it that boards are known to live, and show what they should."""
        passed = 0.0
        while True:
            await self._context.sleep(KEEP_S)
            passed = (passed + KEEP_S) % REWRITE_S
            for board in self._boards:
                board.ping = board.options.profile == "bx5"
                if board.texts is not None and (not passed or board.options.profile == "count-3a"):
                    board.due = True
            self._wake.set()

    # What goes to the boards ----------------------------------------------------------------

    async def _serve_all(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            waiting = [board for board in self._boards if board.due or board.ping]
            ready = [board for board in waiting if board.not_before <= now]
            if ready:
                await self._serve(min(ready, key=lambda board: board.served_at))
                continue
            until = min((board.not_before for board in waiting), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()

    async def _serve(self, board: _Board) -> None:
        """Write what is due, the newest at each try; without a text, ask for a sign of life."""
        outcome = _Outcome("silent")
        errors = self._errors
        texts: tuple[bytes, ...] | None = None
        flashed = False
        # One that has been silent must not keep the others waiting three times over.
        for attempt in range(1 if board.silent else board.options.tries):
            if attempt:
                await asyncio.sleep(BETWEEN_TRIES_S)
            texts = board.texts if board.due else None
            if texts is None:
                frame = bx5_ping(board.options.address)
            else:
                frame, flashed = board.frame(texts), board.flash
            board.ping = False
            outcome = await self._exchange(board, frame)
            if texts is None and outcome.kind == "refused":
                # Any answer is a sign of life.
                outcome = _Outcome("good")
            if outcome.kind == "good":
                break
            board.counts["unanswered" if outcome.kind == "silent" else "refused"] += 1
        board.served_at = self._clock()
        if texts is not None:
            board.not_before = board.served_at + UPDATES_S
        if texts == board.texts and flashed == board.flash:
            board.due = board.flash = False
        if outcome.kind != "silent":
            self._context.contact(board.id)
            if board.silent and texts is None:
                board.due = board.texts is not None
            board.silent = False
        if outcome.kind != "good":
            await self._failed(board, outcome, garbled=self._errors > errors)
            return
        if texts is not None:
            board.shows = texts
            board.areas = len(texts)
            board.counts["written"] += 1
            if flashed and board.options.flash:
                self._settle(board)
        self._note(board)
        if board.failed and not board.due and board.shows == board.texts:
            self._note(board, last_error=None)
            board.failed = not await self._tell(board, "board_recovered", 0, "")

    async def _exchange(self, board: _Board, frame: bytes) -> _Outcome:
        await asyncio.sleep(self._free_at - self._clock())
        while not self._answers.empty():
            self._answers.get_nowait()
        try:
            async with asyncio.timeout(WRITE_S):
                await self._line.write(frame)
        except TimeoutError:
            raise DeviceLost("线路不接收数据 / the line takes no bytes") from None
        except OSError as error:
            raise DeviceLost(f"写入失败 / writing failed: {error.strerror or error}") from error
        gone = self._clock() + len(frame) * self._byte_s
        try:
            if not board.answers:
                return _Outcome("good")
            async with asyncio.timeout_at(gone + ANSWER_S):
                while True:
                    answer = await self._answers.get()
                    if answer.address in (None, board.options.address):
                        break
        except TimeoutError:
            return _Outcome("silent")
        finally:
            self._free_at = max(gone, self._clock()) + self._gap_s
        return _Outcome("refused" if answer.answer == "refused" else "good", answer.status)

    async def _failed(self, board: _Board, outcome: _Outcome, garbled: bool) -> None:
        if outcome.kind == "refused":
            why = f"屏拒绝显示 / the board refuses the text, status {outcome.status}"
        elif garbled:
            why = (
                "屏的应答校验错误，是否有两块屏同一地址？ / the board's answers are garbled; have"
                " two boards one address?"
            )
        else:
            why = f"屏无应答 / no answer from the board to {board.options.tries} tries"
        self._note(board, last_error=why)
        if not board.failed:
            board.failed = await self._tell(board, "board_failed", outcome.status, why)
        if outcome.kind == "silent":
            board.silent = True
            self._context.lost(board.id, why)
            if self._tcp and all(one.silent for one in self._boards):
                # The connection may be one to a card that has long been switched off.
                raise DeviceLost(why)

    def _settle(self, board: _Board) -> None:
        """Let it stand still after a while."""

        async def later() -> None:
            await self._context.sleep(FLASH_S)
            board.due = True
            self._wake.set()

        if before := self._settling.get(board.id):
            before.cancel()
        self._settling[board.id] = asyncio.create_task(later())

    def _note(self, board: _Board, **facts: object) -> None:
        shows = [text.decode("gbk") for text in board.shows or ()]
        self._context.note(board.id, shows=shows, **board.counts, **facts)

    async def _tell(self, board: _Board, name: str, code: int, detail: str) -> bool:
        """Whether it is journalled; if not, there will be another time."""
        event = Reading(board.id, self._context.now(), DeviceEvent(name, code, detail))
        try:
            await self._context.emit([event])
        except OSError as error:
            self._context.note(board.id, last_error=str(error))
            return False
        return True


class LedBoards:
    """The boards of one line."""

    options: ClassVar[type] = LedBoardOptions
    attendance: ClassVar[bool] = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self._boards = [_Board(device.id, device.options) for device in devices]
        first = self._boards[0].options
        addresses: dict[int, str] = {}
        for board in self._boards:
            options = board.options
            # What is a frame to one kind of board may be half of one to another.
            if options.profile != first.profile:
                raise ValueError(
                    f"profile is {first.profile} for {self._boards[0].id} and {options.profile} for"
                    f" {board.id}; expected one profile on a line"
                )
            if (options.speed, options.format) != (first.speed, first.format):
                raise ValueError(
                    f"baud and format of {self._boards[0].id} and {board.id} differ; expected the"
                    " same on a line"
                )
            if options.profile == "count-3a" and board is not self._boards[0]:
                raise ValueError("boards of count-3a have no address; expected one on a line")
            if (other := addresses.setdefault(options.address, board.id)) != board.id:
                raise ValueError(f"address {options.address} is that of {other} and of {board.id}")

    async def run(self, context: Context) -> None:
        """Write what is ordered until cancelled; the boards then go on showing it."""
        line = await _open(self._boards[0].options)
        try:
            await _Talk(context, line, self._boards).run()
        finally:
            line.close()


DRIVER = LedBoards
