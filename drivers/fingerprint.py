"""Serial fingerprint modules (指纹模块) of the "EF 01" family: ZFM-20, R30x, R5xx, AS608, FPM10A,
HLK-ZW and their relatives, on a UART, a USB adapter or a serial-to-TCP converter.

Everything is big-endian.  A packet::

    0    2  EF 01
    2    4  address of the module, FF FF FF FF from the factory
    6    1  01 command, 02 data (more follows), 07 acknowledgement, 08 last data
    7    2  length of the content + 2
    9    n  content, at most 256 bytes: opcode and arguments, or code and results
    9+n  2  sum of everything from offset 6 on, modulo 65536

The commands used here, and the results behind the code ``00``::

    01  take an image           -                        (02: no finger)
    02  features of the image   buffer 1
    04  search the library      buffer 1, page 2, count 2   page 2, score 2  (09: not found)
    0F  parameters              -                        status 2, system 2, capacity 2, security 2,
                                                         address 4, packet size 2, line rate / 9600
    13  verify the password     password 4
    1D  number of templates     -                        count 2
    1F  index of the library    table 1                  32 bytes: a bit for each of 256 pages,
                                                         the lowest first
    30  end a run of 32         -
    32  wait and identify       two layouts, see ``auto_arguments``; several acknowledgements of
                                                         step 1, page 2, score 2
    36  check the sensor        -                        (29: broken)

A module knows pages, no names; it has no clock and no log: a finger that is not asked for while it
rests on the glass was never there.  Acknowledgements name neither the command nor a number, so one
command is outstanding at a time and a late answer is waited out.

This driver only ever reads.  Commands that enrol, store, delete, change or hand out what is stored
(templates, images) do not exist in it, and the score of a match leaves it neither.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from drivers.base import Context, Device, DeviceLost, DeviceRefused
from drivers.serial_line import CHUNK, SerialLine
from rules.model import (
    HOUR,
    MINUTE,
    Body,
    DeviceEvent,
    DeviceInfo,
    Instant,
    LogComplete,
    Punch,
    Reading,
    Unreadable,
)

FAMILY = "fingerprint"

HEADER = b"\xef\x01"
COMMAND, DATA, ACK, LAST_DATA = 0x01, 0x02, 0x07, 0x08
ANY_ADDRESS = None
BOOTED = b"\x55"
"""What many modules say, outside of any packet, when they have started."""


class Op(IntEnum):
    """The commands this driver can send."""

    GET_IMAGE = 0x01
    FEATURES = 0x02
    SEARCH = 0x04
    PARAMETERS = 0x0F
    VERIFY = 0x13
    TEMPLATES = 0x1D
    INDEX = 0x1F
    CANCEL = 0x30
    IDENTIFY = 0x32
    CHECK_SENSOR = 0x36


DONE, RECEPTION_ERROR, NO_FINGER, NOT_FOUND = 0x00, 0x01, 0x02, 0x09
WRONG_PASSWORD, UNDEFINED, WRONG_ADDRESS, VERIFY_FIRST = 0x13, 0x19, 0x20, 0x21
EMPTY, TIMED_OUT, SENSOR_BROKEN, UNSUPPORTED = 0x24, 0x26, 0x29, 0xFC
POOR_IMAGE = frozenset((0x03, 0x06, 0x07, 0x15, 0x17))
MISSED = frozenset((0x08, NOT_FOUND))
FAULTS = frozenset((0x18, UNDEFINED, 0x1D, SENSOR_BROKEN, UNSUPPORTED, 0xFD, 0xFE))
"""Answers after which no finger can be read.  ``01`` and ``19`` only when they repeat."""

MEANINGS = {
    0x00: "完成 / done",
    0x01: "数据包接收错误 / packet not received well, or command unknown",
    0x02: "无手指 / no finger",
    0x03: "图像采集失败 / no image could be taken",
    0x06: "图像太乱 / image too messy",
    0x07: "特征点太少 / too few features",
    0x08: "指纹不匹配 / no match",
    0x09: "未搜索到指纹 / not in the library",
    0x0B: "页码超出范围 / page out of range",
    0x13: "口令错误 / wrong password",
    0x15: "缓冲区无有效图像 / no valid image",
    0x17: "残留指纹或手指未移动 / residual print",
    0x18: "闪存错误 / flash error",
    0x19: "未定义错误 / undefined error",
    0x1D: "端口操作失败 / port failure",
    0x1F: "指纹库已满 / library full",
    0x20: "地址错误 / wrong address",
    0x21: "须先验证口令 / password must be verified first",
    0x24: "指纹库为空 / library empty",
    0x26: "超时 / timed out",
    0x29: "传感器硬件故障 / sensor hardware fault",
    0xFC: "不支持的命令 / command not supported",
    0xFD: "硬件错误 / hardware fault",
    0xFE: "命令执行失败 / execution failed",
}


def meaning(code: int) -> str:
    """A confirmation code in words, where it has any."""
    known = MEANINGS.get(code)
    return f"0x{code:02x} {known}" if known else f"0x{code:02x}"


# --------------------------------------------------------------------------------------------
# Packets
# --------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    kind: int
    address: int
    content: bytes


class Split(NamedTuple):
    packets: list[Packet]
    rest: bytes
    """The beginning of a packet, to be kept for more; never longer than one packet."""
    junk: bytes
    """What belongs to no packet."""
    wrong_sums: int


def pack(op: Op, arguments: bytes = b"", address: int = 0xFFFFFFFF) -> bytes:
    """A command as it goes over the line."""
    body = bytes((COMMAND,)) + (len(arguments) + 3).to_bytes(2, "big") + bytes((op,)) + arguments
    return HEADER + address.to_bytes(4, "big") + body + (sum(body) & 0xFFFF).to_bytes(2, "big")


def split(buffer: bytes, address: int | None = ANY_ADDRESS) -> Split:
    """The packets of one module (or of any) in what came over the line.

    Where no packet can begin, one byte is dropped and the next tried: a false header must not
    swallow the true one behind it.  Never raises.
    """
    wanted = HEADER if address is None else HEADER + address.to_bytes(4, "big")
    packets: list[Packet] = []
    junk = bytearray()
    wrong_sums = at = 0
    while at < len(buffer):
        head = buffer[at : at + 9]
        if head[: len(wanted)] != wanted[: len(head)] or not _plausible(head):
            junk.append(buffer[at])
            at += 1
            continue
        end = at + 9 + int.from_bytes(head[7:9], "big")
        if len(head) < 9 or end > len(buffer):
            break
        body = buffer[at + 6 : end - 2]
        if sum(body) & 0xFFFF != int.from_bytes(buffer[end - 2 : end], "big"):
            wrong_sums += 1
            junk.append(buffer[at])
            at += 1
            continue
        packets.append(Packet(head[6], int.from_bytes(head[2:6], "big"), body[3:]))
        at = end
    return Split(packets, bytes(buffer[at:]), bytes(junk), wrong_sums)


def _plausible(head: bytes) -> bool:
    """Whether the id and the length, as far as they came, can be those of a packet."""
    if len(head) > 6 and head[6] not in (COMMAND, DATA, ACK, LAST_DATA):
        return False
    if len(head) > 7 and head[7] > 1:
        return False
    least = 3 if len(head) > 6 and head[6] in (COMMAND, ACK) else 2
    return len(head) < 9 or least <= int.from_bytes(head[7:9], "big") <= 258


def other_family(junk: bytes) -> str:
    """The family of a device that is no module of this kind, by its header; empty if unknown."""
    if b"\xaa\xaa\xaa\x96\x69" in junk:
        return "公安身份证阅读器 / an ID card reader (AA AA AA 96 69)"
    if re.search(rb"\x55\xaa\x01\x00", junk):
        return "GT-511 指纹模块 / a GT-511 fingerprint module (55 AA)"
    if re.search(rb"\xf5[^\xf5]{6}\xf5", junk, re.DOTALL):
        return "电容指纹板 / a capacitive fingerprint board (F5 .. F5)"
    return ""


# --------------------------------------------------------------------------------------------
# What the answers say
# --------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """``ReadSysPara``.  ``packet_size`` in bytes, ``baud`` in bits a second."""

    status: int
    system: int
    capacity: int
    security: int
    address: int
    packet_size: int
    baud: int


def parameters_in(content: bytes) -> Parameters | None:
    """Of the acknowledgement's content; none if it failed or is too short."""
    if len(content) < 17 or content[0] != DONE:
        return None
    word = [int.from_bytes(content[at : at + 2], "big") for at in range(1, 17, 2)]
    size = 32 << word[6] if word[6] < 4 else 0
    address = int.from_bytes(content[9:13], "big")
    return Parameters(word[0], word[1], word[2], word[3], address, size, word[7] * 9600)


def pages_in(bitmap: bytes, table: int = 0) -> frozenset[int]:
    """The pages in use by 32 bytes of ``ReadIndexTable``."""
    return frozenset(
        table * 256 + at * 8 + bit
        for at, byte in enumerate(bitmap)
        for bit in range(8)
        if byte >> bit & 1
    )


def page_in(content: bytes, before: int = 1) -> int | None:
    """The page of a hit, whose results begin at ``before``.

    None for every other answer: in those the module may leave the page of the last hit.
    """
    if len(content) < before + 4 or content[0] != DONE:
        return None
    return int.from_bytes(content[before : before + 2], "big")


def auto_arguments(layout: str, security: int, capacity: int) -> bytes:
    """Arguments of command 32.  The two layouts are of equal length and mean different things:
    security, first page, count, report steps, tries; or security, page (FFFF: all), flags."""
    if layout == "auto_r503":
        return bytes((security, 0, capacity, 1, 1))
    return bytes((0, 0xFF, 0xFF, 0, 6))  # 6: prepare the image, acknowledge only the end


RESULT_STEP = {"auto_r503": 3, "auto_zw": 5}


def told_by_page(page: int, pages: Mapping[str, str]) -> Body:
    """Who touched, or that nobody is known by this page."""
    person = pages.get(str(page))
    if person is None:
        return DeviceEvent("unknown_page", page, f"page {page} has no person in the settings")
    return Punch(person, live=True)


UNKNOWN_FINGER = DeviceEvent("unknown_person", NOT_FOUND)


def shown_pages(pages: Iterable[int]) -> str:
    """Pages for a sentence, the first 20 of them."""
    numbers = sorted(pages)
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """Readings in a captured line, of the module's direction or of both in their order.

    Pages have no people here.  Transfers of data are left out: they may be templates.
    """
    del zone  # The bytes hold no time.
    packets: list[Packet] = []
    junk = wrong_sums = 0
    beginning = b""
    while data:
        found = split(data)
        packets += found.packets
        stopped = found.rest[:1]
        junk += len(found.junk + stopped)
        beginning = (beginning + found.junk + stopped)[:64]
        wrong_sums += found.wrong_sums
        data = found.rest[1:]
    if not packets:
        family = other_family(beginning)
        reason = "no EF 01 packet in these bytes" + (
            f"; this looks like {family}" if family else ""
        )
        yield _captured(Unreadable(reason), b"" if family else beginning[:16])
        return
    if junk:
        reason = f"{junk} bytes that belong to no packet, {wrong_sums} wrong sums"
        yield _captured(Unreadable(reason))
    asked: int | None = None
    for packet in packets:
        if packet.kind == COMMAND:
            asked = packet.content[0]
        elif packet.kind == ACK:
            body = _told(packet.content, asked)
            if body is not None:
                yield _captured(body)


def _told(content: bytes, asked: int | None) -> Body | None:
    """What an acknowledgement says; where the command was not captured, its length tells."""
    code = content[0]
    if asked in (Op.SEARCH, 0x1B) or (asked is None and len(content) == 5):
        if code in MISSED:
            return UNKNOWN_FINGER
        page = page_in(content)
        return None if page is None else told_by_page(page, {})
    if asked == Op.IDENTIFY or (asked is None and len(content) == 6):
        if code in MISSED:
            return UNKNOWN_FINGER
        page = page_in(content, 2)
        final = content[1:2] in (b"\x03", b"\x05")
        return told_by_page(page, {}) if final and page is not None else None
    parameters = parameters_in(content) if asked in (Op.PARAMETERS, None) else None
    if parameters is not None and len(content) == 17:
        return DeviceInfo(_facts(parameters))
    if asked == Op.TEMPLATES and code == DONE and len(content) == 3:
        return DeviceInfo({"templates": int.from_bytes(content[1:3], "big")})
    if code == WRONG_PASSWORD:
        return DeviceEvent("wrong_password", code)
    return DeviceEvent("fault", code, meaning(code)) if code in FAULTS else None


def _facts(parameters: Parameters) -> dict[str, str | int]:
    return {
        "address": f"{parameters.address:08X}",
        "baud": parameters.baud,
        "capacity": parameters.capacity,
        "packet_size": parameters.packet_size,
        "security": parameters.security,
        "system": parameters.system,
    }


def _captured(body: Body, raw: bytes = b"") -> Reading:
    return Reading("capture", 0, body, raw)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------

BAUDS = (57600, 9600, 115200, 19200, 38400)
"""The order in which other rates are tried where the configured one brings no answer."""
_QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class FingerprintOptions:
    """A module and the people behind its pages.

    ``port`` is a serial port by a name that stays (``/dev/serial/by-id/...``), or
    ``socket://host:port`` of a converter.  ``pages`` gives the person's code for a page; a person
    may have several.  ``address`` is eight hexadecimal digits.  ``password_file`` holds the
    module's password as a number.  ``watch`` is ``poll``, which every module understands, or the
    layout of the command by which the module itself waits for a finger.  ``poll_s`` seconds lie
    between two looks for a finger, ``quiet_poll_s`` during ``quiet_hours`` (``"19:00-07:00"``),
    which spares the lamp of an optical sensor.
    """

    port: str
    pages: dict[str, str] = field(default_factory=dict)
    baud: int = 57600
    address: str = "FFFFFFFF"
    password_file: str = ""
    watch: Literal["poll", "auto_r503", "auto_zw"] = "poll"
    poll_s: float = 0.2
    quiet_hours: str = ""
    quiet_poll_s: float = 2.0

    def __post_init__(self) -> None:
        if self.port.startswith("socket:"):
            converter(self.port)
        elif not self.port.startswith("/"):
            raise ValueError(
                f"port is {self.port!r}; expected the path of a serial port such as"
                " /dev/serial/by-id/usb-..., or socket://host:port"
            )
        if self.baud not in BAUDS:
            raise ValueError(f"baud is {self.baud}; expected one of {sorted(BAUDS)}")
        if not re.fullmatch("[0-9A-Fa-f]{8}", self.address):
            raise ValueError(f"address is {self.address!r}; expected eight hexadecimal digits")
        for page, person in self.pages.items():
            if not re.fullmatch("0|[1-9][0-9]{0,4}", page) or int(page) > 65535:
                raise ValueError(f"pages: {page!r} is no page; expected 0 to 65535")
            if not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,32}", person):
                raise ValueError(
                    f"pages: {person!r} at page {page} is no person's code; expected 1 to 32"
                    " characters without spaces"
                )
        for name in ("poll_s", "quiet_poll_s"):
            if not 0.05 <= getattr(self, name) <= 10:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0.05 to 10 seconds")
        if self.quiet_hours and not _QUIET.fullmatch(self.quiet_hours):
            raise ValueError(
                f'quiet_hours is {self.quiet_hours!r}; expected a span such as "19:00-07:00"'
            )

    def link(self) -> tuple[str, ...]:
        return (self.port,)

    def pause(self, minute: int) -> float:
        """Seconds between two looks at this minute of the hall's day."""
        found = _QUIET.fullmatch(self.quiet_hours)
        if not found:
            return self.poll_s
        starts, ends = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        inside = starts <= minute < ends if starts <= ends else minute >= starts or minute < ends
        return self.quiet_poll_s if inside else self.poll_s


def converter(url: str) -> tuple[str, int]:
    """Host and port of ``socket://host:port``; ``ValueError`` with a sentence otherwise."""
    found = re.fullmatch(r"socket://(?:\[([0-9A-Fa-f:.]+)\]|([^\s/:\[\]]+)):(\d{1,5})", url)
    if not found or not 0 < int(found[3]) < 65536:
        raise ValueError(f"port is {url!r}; expected socket://host:port")
    return found[1] or found[2], int(found[3])


# --------------------------------------------------------------------------------------------
# The line
# --------------------------------------------------------------------------------------------

SETTLE = 0.6
"""Opening the port resets the module on some adapters; until then it answers nothing."""
CONNECT_PATIENCE = 10.0
PROBE_PATIENCE = 0.5
PATIENCE = {Op.FEATURES: 1.5, Op.SEARCH: 3.0}
USUAL_PATIENCE = 1.0
AUTO_PATIENCE = 20.0
"""A run of command 32 waits about 10 s for a finger."""
STALL = 0.15
"""The rest of a packet does not take longer; a false header waits for ever."""
SILENCE = 0.3
"""So long nothing must come before a late answer counts as over."""
LONGEST_SILENCE = 2.0
LOST_AFTER = 3
"""Commands without an answer, one after the other."""


class _Line(Protocol):
    async def read(self, timeout: float | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class _Converter:
    """A serial line behind TCP."""

    def __init__(
        self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._url, self._reader, self._writer = url, reader, writer
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def read(self, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                chunk = await self._reader.read(CHUNK)
        except TimeoutError:
            return b""
        except OSError as error:
            raise self._lost(str(error)) from error
        if not chunk:
            raise self._lost("closed")
        return chunk

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            async with asyncio.timeout(USUAL_PATIENCE):
                await self._writer.drain()
        except OSError as error:  # TimeoutError is one
            raise self._lost(str(error) or "it takes no bytes") from error

    def close(self) -> None:
        self._writer.transport.abort()

    def _lost(self, why: str) -> DeviceLost:
        return DeviceLost(f"串口服务器连接中断 / the connection to {self._url} broke: {why}")


async def _open(port: str, baud: int) -> _Line:
    if not port.startswith("socket:"):
        return SerialLine(port, baud)
    host, number = converter(port)
    try:
        async with asyncio.timeout(CONNECT_PATIENCE):
            return _Converter(port, *await asyncio.open_connection(host, number))
    except OSError as error:
        why = str(error) or "timed out"
        raise DeviceLost(f"无法连接串口服务器 / no connection to {port}: {why}") from error


class _Silent(DeviceLost):
    """No answer in time."""


class _WrongPassword(DeviceRefused):
    """The module refused the password."""


class _Module:
    """Commands and their answers, one at a time, on one open line."""

    def __init__(
        self, line: _Line, address: int, password: bytes, counts: Counter[str], *, probing: bool
    ) -> None:
        self.address = address
        self.heard = bytearray()
        """The first bytes that belong to no packet."""
        self.rebooted = False
        self.identifying = False
        self.round_trip = 0.0
        self._line = line
        self._password = password
        self._counts = counts
        self._anybody = probing
        self._buffer = b""
        self._packets: deque[Packet] = deque()
        self._clock = asyncio.get_running_loop().time

    async def ask(self, op: Op, arguments: bytes = b"") -> bytes:
        """Code and results.  What the module did not understand is said once more; a module that
        started anew gets its password again.  Raises ``_Silent``, ``_WrongPassword``."""
        await self._ready()
        content = (await self._exchange(op, arguments)).content
        code = content[0]
        if code == VERIFY_FIRST:
            self._counts["reboots"] += 1
            await self.verify()
        if code in (VERIFY_FIRST, RECEPTION_ERROR, UNDEFINED):
            content = (await self._exchange(op, arguments)).content
        if content[0] == WRONG_ADDRESS:
            raise DeviceLost("模块地址不符 / the module answers to another address now")
        return content

    async def verify(self, patience: float = USUAL_PATIENCE) -> None:
        """Show the password.  While probing any address may answer, and is the module's."""
        began = self._clock()
        packet = await self._exchange(Op.VERIFY, self._password, patience)
        if packet.content[0] == WRONG_ADDRESS and packet.address != self.address and self._anybody:
            self.address = packet.address
            packet = await self._exchange(Op.VERIFY, self._password, patience)
        if packet.content[0] in (RECEPTION_ERROR, UNDEFINED):
            packet = await self._exchange(Op.VERIFY, self._password, patience)
        code = packet.content[0]
        if code == WRONG_PASSWORD:
            raise _WrongPassword(
                "指纹模块口令错误 / the fingerprint module refused the password; see password_file"
            )
        if code != DONE:
            raise DeviceLost(f"口令验证失败 / the password was answered with {meaning(code)}")
        self.address, self._anybody = packet.address, False
        self.rebooted = False
        self.round_trip = self._clock() - began

    async def identify(self, arguments: bytes, result_step: int) -> bytes:
        """The last acknowledgement of a run of command 32: a failure, or the result."""
        await self._ready()
        await self._send(Op.IDENTIFY, arguments)
        self.identifying = True
        ends = self._clock() + AUTO_PATIENCE
        while True:
            try:
                content = (await self._acknowledgement(ends)).content
            except TimeoutError:
                self._counts["timeouts"] += 1
                await self.cancel()
                raise _Silent("指纹模块无应答 / no answer to command 0x32") from None
            if content[0] != DONE or content[1:2] == bytes((result_step,)):
                self.identifying = False
                return content

    async def cancel(self) -> None:
        """End a run of command 32, whoever began it, and take what it still says."""
        self.identifying = False
        await self._send(Op.CANCEL)
        await self._wait_for_silence()

    async def _ready(self) -> None:
        await self._drain()
        if self.rebooted:
            await self.verify()

    async def _drain(self) -> None:
        """Take what came unasked: late answers, the noise of a start."""
        for _ in range(16):
            chunk = await self._line.read(0)
            if not chunk:
                break
            self._feed(chunk)
        self._counts["stale_answers"] += len(self._packets)
        self._packets.clear()
        self._drop(len(self._buffer))

    async def _exchange(
        self, op: Op, arguments: bytes = b"", patience: float | None = None
    ) -> Packet:
        await self._send(op, arguments)
        if patience is None:
            patience = PATIENCE.get(op, USUAL_PATIENCE)
        try:
            return await self._acknowledgement(self._clock() + patience)
        except TimeoutError:
            self._counts["timeouts"] += 1
            await self._wait_for_silence()
            raise _Silent(f"指纹模块无应答 / no answer to command 0x{op:02x}") from None

    async def _send(self, op: Op, arguments: bytes = b"") -> None:
        await self._drain()
        await self._line.write(pack(op, arguments, self.address))

    async def _acknowledgement(self, ends: float) -> Packet:
        while True:
            while self._packets:
                packet = self._packets.popleft()
                if packet.kind == ACK:
                    return packet
                self._counts["unexpected_packets"] += 1
            left = ends - self._clock()
            if left <= 0:
                raise TimeoutError
            chunk = await self._read(min(left, STALL) if self._buffer else left)
            if chunk:
                self._feed(chunk)
                await asyncio.sleep(0)  # A line that never pauses must not stop the others.
            elif self._buffer:
                self._drop(1)

    async def _read(self, patience: float) -> bytes:
        # Not by the line's own time-out: in Python 3.11 that can swallow a cancellation that comes
        # together with a byte, and here bytes come all the time.
        try:
            async with asyncio.timeout(patience):
                return await self._line.read()
        except TimeoutError:
            return b""

    async def _wait_for_silence(self) -> None:
        ends = self._clock() + LONGEST_SILENCE
        while self._clock() < ends and (chunk := await self._read(SILENCE)):
            self._feed(chunk)
            self._counts["stale_answers"] += len(self._packets)
            self._packets.clear()
            await asyncio.sleep(0)

    def _feed(self, chunk: bytes) -> None:
        found = split(self._buffer + chunk, None if self._anybody else self.address)
        self._buffer = found.rest
        self._packets += found.packets
        self._counts["sum_errors"] += found.wrong_sums
        if found.junk == BOOTED and not self._anybody:
            self.rebooted = True
            self._counts["reboots"] += 1
        elif found.junk:
            self._discard(found.junk)

    def _drop(self, count: int) -> None:
        """Give up the first bytes of what may have been a packet."""
        dropped, rest = self._buffer[:count], self._buffer[count:]
        self._buffer = b""
        self._discard(dropped)
        if rest:
            self._feed(rest)

    def _discard(self, junk: bytes) -> None:
        self._counts["discarded_bytes"] += len(junk)
        self.heard += junk[: 64 - len(self.heard)]


# --------------------------------------------------------------------------------------------
# Watching
# --------------------------------------------------------------------------------------------

COVERED_AFTER = 60.0
"""Seconds of a finger that never leaves: a stuck one, sunlight, or a cover."""
LIFTED_AFTER = 2
"""Looks without a finger, in a row, after which the next one counts as a new touch."""
ATTEMPTS = 50
DIRTY_FROM = 0.3
"""Share of poor images among the last attempts from which the glass wants cleaning."""
LIBRARY_EVERY = 5 * MINUTE
COMPLETE_EVERY = HOUR
UNREADABLE_EVERY = HOUR
UNKNOWN_PER_MINUTE = 12
"""Touches without a person that are journalled; more are only counted."""
RETRY_AFTER = 5_000
"""Milliseconds between attempts to journal what could not be journalled."""
UNSAVED = 1000
"""Touches kept in memory meanwhile."""
MOST_TABLES = 16
"""Index tables read: 4096 pages, four times the largest library seen."""
REFUSED_MINUTES = 60
"""Some modules lock after repeated wrong passwords."""


COUNTS = (
    "attempts", "discarded_bytes", "odd_answers", "poor_images", "protocol_errors", "reboots",
    "stale_answers", "sum_errors", "timeouts", "touches_lost", "unexpected_packets",
    "unknown_fingers",
)  # fmt: skip


class _Kept:
    """What outlives one opening of the line."""

    def __init__(self, baud: int) -> None:
        self.baud = baud
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.told: set[tuple[str, int]] = set()
        """Conditions that hold and were told, with their codes."""
        self.unsupported: set[Op] = set()
        self.attempts: deque[bool] = deque(maxlen=ATTEMPTS)
        """Whether the image was poor."""
        self.unsaved: deque[Reading] = deque(maxlen=UNSAVED)
        self.unreadable_at: Instant | None = None


class _Visit:
    """One open line to a module, from the first question to its loss."""

    def __init__(
        self, context: Context, device: str, options: FingerprintOptions, kept: _Kept
    ) -> None:
        self._context = context
        self._device = device
        self._options = options
        self._kept = kept
        self._line: _Line | None = None
        self._module: _Module
        self._parameters: Parameters
        self._templates: int | None = None
        self._unusable: set[str] = set()
        """Why nobody could punch here, though the module answers."""
        self._armed = True
        """A finger that is seen now has just come."""
        self._seen = False
        """The last look was answered."""
        self._away = 0
        self._rested = 0.0
        self._silent = 0
        self._looked_at: Instant | None = None
        self._completed_at: Instant | None = None
        self._retried_at: Instant | None = None
        self._unknown: deque[Instant] = deque(maxlen=UNKNOWN_PER_MINUTE)
        self._discarded = kept.counts["discarded_bytes"]
        self._noted: Counter[str] = Counter()

    # Opening -------------------------------------------------------------------------------

    async def open(self, password: bytes) -> None:
        """A verified module at the rate it has.  ``DeviceLost`` if there is none at any rate."""
        configured = self._options.baud
        bauds = [configured]
        if not self._options.port.startswith("socket:"):
            bauds = list(dict.fromkeys((self._kept.baud, configured, *BAUDS)))
        heard = b""
        discarded = self._kept.counts["discarded_bytes"]
        for baud in bauds:
            self._note(state="opening")
            self._line = await _open(self._options.port, baud)
            self._note(state="probing")
            self._module = _Module(
                self._line, int(self._options.address, 16), password, self._kept.counts,
                probing=True,
            )  # fmt: skip
            await self._context.sleep(SETTLE)
            try:
                if self._options.watch != "poll":
                    await self._module.cancel()
                await self._module.verify(PROBE_PATIENCE)
            except _Silent:
                heard = (heard + self._module.heard)[:64]
                self.close()
                continue
            self._kept.baud = baud
            self._discarded = self._kept.counts["discarded_bytes"]
            return
        count = self._kept.counts["discarded_bytes"] - discarded
        raise DeviceLost(_no_module(heard, count))

    async def prepare(self) -> None:
        """Learn what must be known before the first finger."""
        self._note(state="verifying")
        content = await self._module.ask(Op.PARAMETERS)
        parameters = parameters_in(content)
        if parameters is None or not parameters.capacity:
            raise DeviceLost(
                f"无法读取模块参数 / no use: the parameters came as {meaning(content[0])},"
                f" {len(content)} bytes; expected 17 with a capacity"
            )
        self._parameters = parameters
        if self._options.watch == "auto_r503" and parameters.capacity > 255:
            raise DeviceRefused(
                f"auto_r503 只能搜索 255 页 / auto_r503 can search 255 pages and the module has"
                f" {parameters.capacity}: expected watch = poll"
            )
        await self._look_at_library()

    def close(self) -> None:
        if self._line is not None:
            self._line.close()

    async def leave(self) -> None:
        """A run of command 32 must not answer into the next start."""
        if self._line is not None and self._module.identifying:
            with suppress(DeviceLost):
                await self._module.cancel()

    # Watching ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look for fingers until the module is lost."""
        self._ended("wrong_password")
        self._note(state="ready", last_error=None)
        while True:
            now = datetime.fromtimestamp(self._context.now() / 1000, self._context.zone)
            pause = self._options.pause(now.hour * 60 + now.minute)
            try:
                await self._due()
                # A run of command 32 is too long a wait for a module that may be gone.
                if self._armed and self._seen and self._options.watch != "poll":
                    await self._wait_for_touch(pause)
                else:
                    await self._look(pause)
            except _Silent as error:
                self._silent += 1
                self._note(state="degraded", last_error=str(error))
                if self._silent >= LOST_AFTER:
                    raise
                self._seen = False
            else:
                if self._silent:
                    self._silent = 0
                    self._note(state="ready", last_error=None)
            self._note_counts()
            await self._context.sleep(pause)

    async def _look(self, pause: float) -> None:
        """One look for a finger, and whose it is if it has just come."""
        code = (await self._module.ask(Op.GET_IMAGE))[0]
        self._seen = True
        if code == NO_FINGER:
            await self._no_finger()
        elif code == DONE and self._armed:
            await self._identify()
        elif code in POOR_IMAGE and self._armed:
            await self._attempted(poor=True)
        elif code != DONE and code not in POOR_IMAGE:
            await self._odd_answer(Op.GET_IMAGE, code)
            return
        if code != NO_FINGER:
            await self._finger_rests(pause)

    async def _no_finger(self) -> None:
        self._away += 1
        self._armed = self._armed or self._away >= LIFTED_AFTER
        self._rested = 0.0
        self._ended("fault")
        self._usable("sensor_covered")
        self._contact()

    async def _finger_rests(self, pause: float) -> None:
        # Counted in looks: the machine's clock may be set meanwhile.  While a finger rests, no
        # sign of life is given, so that a covered sensor is lost from the moment it was covered.
        self._away = 0
        self._rested += pause
        if self._rested > COVERED_AFTER:
            await self._condition("sensor_covered")
            self._unusable_for(
                "sensor_covered",
                "传感器被遮挡或有手指一直按住 / the sensor is covered: a finger seems to rest on it"
                f" for more than {COVERED_AFTER:.0f} s",
            )

    async def _identify(self) -> None:
        code = (await self._module.ask(Op.FEATURES, b"\x01"))[0]
        if code in POOR_IMAGE:
            await self._attempted(poor=True)
            return
        if code != DONE:
            await self._odd_answer(Op.FEATURES, code)
            return
        await self._attempted(poor=False)
        span = b"\x01" + (0).to_bytes(2, "big") + self._parameters.capacity.to_bytes(2, "big")
        content = await self._module.ask(Op.SEARCH, span)
        await self._found(Op.SEARCH, content, 1)

    async def _wait_for_touch(self, pause: float) -> None:
        """The module itself waits for a finger and says whose it is."""
        layout = self._options.watch
        arguments = auto_arguments(layout, self._parameters.security, self._parameters.capacity)
        content = await self._module.identify(arguments, RESULT_STEP[layout])
        code = content[0]
        if code in (NO_FINGER, TIMED_OUT):
            await self._no_finger()
        elif code == VERIFY_FIRST:
            self._kept.counts["reboots"] += 1
            await self._module.verify()
        elif code in POOR_IMAGE:
            await self._attempted(poor=True)
            await self._finger_rests(pause)
        else:
            if code == DONE or code in MISSED:
                await self._attempted(poor=False)
            await self._found(Op.IDENTIFY, content, 2)

    async def _found(self, op: Op, content: bytes, before: int) -> None:
        """Journal whose finger it was.  One touch is told once, until the finger has left."""
        code = content[0]
        page = page_in(content, before)
        if page is not None:
            self._disarm()
            self._usable("library_empty")
            body = told_by_page(page, self._options.pages)
            raw = content[:1] + content[before : before + 2]
            if isinstance(body, Punch) or self._may_tell_unknown():
                await self._tell([self._reading(body, raw)])
        elif code == DONE:
            self._kept.counts["protocol_errors"] += 1
            await self._tell_unreadable(
                f"answer to command 0x{op:02x}: {len(content)} bytes, expected {before + 4}"
            )
        elif code == EMPTY:
            self._disarm()
            await self._empty_library()
        elif code in MISSED:
            self._disarm()
            if self._templates != 0 and self._may_tell_unknown():
                await self._tell([self._reading(UNKNOWN_FINGER, content[:1])])
        else:
            self._disarm()
            await self._odd_answer(op, code)

    def _disarm(self) -> None:
        self._armed = False
        self._away = 0
        self._rested = 0.0
        self._contact()

    def _may_tell_unknown(self) -> bool:
        now = self._context.now()
        self._kept.counts["unknown_fingers"] += 1
        full = len(self._unknown) == UNKNOWN_PER_MINUTE
        if full and abs(now - self._unknown[0]) < MINUTE:
            return False
        self._unknown.append(now)
        return True

    async def _attempted(self, *, poor: bool) -> None:
        attempts = self._kept.attempts
        attempts.append(poor)
        self._kept.counts["attempts"] += 1
        self._kept.counts["poor_images"] += poor
        if len(attempts) == ATTEMPTS and sum(attempts) > DIRTY_FROM * ATTEMPTS:
            await self._condition("clean_sensor", detail=f"{sum(attempts)} of {ATTEMPTS} images")
        else:
            self._ended("clean_sensor")

    async def _odd_answer(self, op: Op, code: int) -> None:
        """An answer that is neither a finger nor none."""
        self._note(last_answer=f"0x{op:02x}: {meaning(code)}")
        self._kept.counts["odd_answers"] += 1
        fault = code in FAULTS or code in (RECEPTION_ERROR, VERIFY_FIRST)
        await self._condition("fault" if fault else "odd_answer", code, f"0x{op:02x}")
        if fault:
            raise DeviceLost(f"指纹模块故障 / the module answers 0x{op:02x} with {meaning(code)}")
        self._contact()

    # What is looked at from time to time -----------------------------------------------------

    async def _due(self) -> None:
        now = self._context.now()
        # A clock set back makes these come early, never late.
        writable = _passed(self._retried_at, now, RETRY_AFTER)
        if self._kept.unsaved and writable:
            await self._tell(())
        if _passed(self._looked_at, now, LIBRARY_EVERY):
            await self._module.verify()
            await self._look_at_library()
        # There is no log: what was touched while nobody looked is nowhere.
        complete = writable and _passed(self._completed_at, now, COMPLETE_EVERY)
        if complete and await self._tell([self._reading(LogComplete())]):
            self._completed_at = now
        if self._kept.counts["discarded_bytes"] > self._discarded:
            count = self._kept.counts["discarded_bytes"] - self._discarded
            if await self._tell_unreadable(
                f"{count} bytes that belong to no packet", bytes(self._module.heard[:16])
            ):
                self._discarded = self._kept.counts["discarded_bytes"]
            self._module.heard.clear()

    async def _look_at_library(self) -> None:
        self._looked_at = self._context.now()
        code = await self._optional(Op.CHECK_SENSOR)
        if code and code[0] == SENSOR_BROKEN:
            await self._odd_answer(Op.CHECK_SENSOR, SENSOR_BROKEN)
        counted = await self._count_templates()
        pages = await self._read_index()
        self._templates = counted if counted is not None else None if pages is None else len(pages)
        if counted is not None and pages is not None and counted != len(pages):
            detail = f"the module counts {counted}, its index has {len(pages)}"
            await self._condition("template_count_differs", detail=detail)
        else:
            self._ended("template_count_differs")
        if self._templates == 0:
            await self._empty_library()
        else:
            self._usable("library_empty")
        if pages is not None:
            await self._compare_library(pages)
        await self._tell_info()

    async def _optional(self, op: Op, arguments: bytes = b"") -> bytes | None:
        """The answer to a command that not every module knows."""
        if op in self._kept.unsupported:
            return None
        try:
            content = await self._module.ask(op, arguments)
        except _Silent:
            await self._module.verify()  # It is there; so it does not know this command.
            content = bytes((UNSUPPORTED,))
        if content[0] in (RECEPTION_ERROR, UNSUPPORTED):
            self._kept.unsupported.add(op)
            return None
        return content

    async def _count_templates(self) -> int | None:
        content = await self._optional(Op.TEMPLATES)
        if content is None or content[0] != DONE or len(content) < 3:
            return None
        return int.from_bytes(content[1:3], "big")

    async def _read_index(self) -> frozenset[int] | None:
        pages: frozenset[int] = frozenset()
        for table in range(min(MOST_TABLES, (self._parameters.capacity + 255) // 256)):
            content = await self._optional(Op.INDEX, bytes((table,)))
            if content is None or content[0] != DONE or len(content) < 33:
                return None
            pages |= pages_in(content[1:33], table)
        return pages

    async def _empty_library(self) -> None:
        await self._condition("library_empty")
        self._unusable_for(
            "library_empty", "指纹库为空，无人可以打卡 / the module holds no fingerprint at all"
        )

    async def _compare_library(self, pages: frozenset[int]) -> None:
        """Who stands behind a page may have changed when somebody enrolled it anew."""
        mapped = {int(page) for page in self._options.pages}
        self._note(
            library=blake2b(repr(sorted(pages)).encode(), digest_size=8).hexdigest(),
            pages_without_person=shown_pages(pages - mapped),
            people_without_page=shown_pages(mapped - pages),
        )
        told = ",".join(map(str, sorted(pages)))
        before = self._context.mark(self._device, "library")
        if before == told:
            return
        changes: list[Reading] = []
        if before is not None:
            known = {int(page) for page in before.split(",") if page}
            parts = ("added", pages - known), ("removed", known - pages)
            detail = "; ".join(f"{word} {shown_pages(some)}" for word, some in parts if some)
            changes = [self._reading(DeviceEvent("library_changed", detail=detail))]
        await self._tell(changes, {"library": told})

    async def _tell_info(self) -> None:
        facts = _facts(self._parameters)
        facts["templates"] = "unknown" if self._templates is None else self._templates
        self._note(round_trip_ms=round(self._module.round_trip * 1000), **facts)
        address = f"{self._module.address:08X}"
        differing = [
            f"{name} {found}, settings {configured}"
            for name, found, configured in (
                ("address", address, self._options.address.upper()),
                ("baud", self._kept.baud, self._options.baud),
            )
            if found != configured
        ]
        self._note(differs=", ".join(differing) or None)
        told = repr(sorted(facts.items()))
        if self._context.mark(self._device, "info") != told:
            await self._tell([self._reading(DeviceInfo(facts))], {"info": told})

    # Telling -------------------------------------------------------------------------------

    async def _tell(
        self, readings: Sequence[Reading], marks: Mapping[str, str] | None = None
    ) -> bool:
        """Journal, with what is still waiting for it.  A touch that could not be journalled is
        kept: there is no asking for it again.  What has a mark will be told again by itself."""
        waiting = [*self._kept.unsaved, *readings]
        if not waiting and not marks:
            return True
        named = {(self._device, name): value for name, value in (marks or {}).items()}
        try:
            await self._context.emit(waiting, named)
        except OSError as error:
            self._retried_at = self._context.now()
            if not marks:
                # From the journal's side these now come late; their time is ours all the same.
                late = [
                    replace(told, body=replace(told.body, live=False))
                    if isinstance(told.body, Punch)
                    else told
                    for told in readings
                    if not isinstance(told.body, LogComplete)
                ]
                self._kept.counts["touches_lost"] += max(
                    0, len(self._kept.unsaved) + len(late) - UNSAVED
                )
                self._kept.unsaved += late
            self._note(journal_error=str(error), waiting=len(self._kept.unsaved))
            return False
        if self._kept.unsaved:
            self._kept.unsaved.clear()
            self._note(journal_error=None, waiting=0)
        return True

    async def _tell_unreadable(self, reason: str, raw: bytes = b"") -> bool:
        now = self._context.now()
        if not _passed(self._kept.unreadable_at, now, UNREADABLE_EVERY):
            return False
        self._kept.unreadable_at = now
        return await self._tell([self._reading(Unreadable(reason), raw)])

    async def _condition(self, name: str, code: int = 0, detail: str = "") -> None:
        """Tell a condition once; again only after it had ended."""
        if (name, code) not in self._kept.told:
            self._kept.told.add((name, code))
            await self._tell([self._reading(DeviceEvent(name, code, detail))])

    def _ended(self, name: str) -> None:
        self._kept.told = {told for told in self._kept.told if told[0] != name}

    async def refused(self, error: DeviceRefused) -> None:
        self._note(state="refused")
        await self._condition("wrong_password", WRONG_PASSWORD)
        self._context.lost(self._device, str(error))

    def _contact(self) -> None:
        if not self._unusable:
            self._context.contact(self._device)

    def _unusable_for(self, name: str, sentence: str) -> None:
        """Nobody can punch here: for those who should, the module is as good as away."""
        if name not in self._unusable:
            self._unusable.add(name)
            self._context.lost(self._device, sentence)

    def _usable(self, name: str) -> None:
        self._unusable.discard(name)
        self._ended(name)

    def _note_counts(self) -> None:
        if self._kept.counts != self._noted:
            self._noted = self._kept.counts.copy()
            self._note(**self._noted)

    def _note(self, **facts: object) -> None:
        self._context.note(self._device, **facts)

    def _reading(self, body: Body, raw: bytes = b"") -> Reading:
        return Reading(self._device, self._context.now(), body, raw)


def _passed(since: Instant | None, now: Instant, span: int) -> bool:
    return since is None or abs(now - since) >= span


def _no_module(heard: bytes, count: int) -> str:
    family = other_family(heard)
    if family:
        return f"端口上是其他设备 / this is another device: {family}"
    if not count:
        return (
            "任何波特率下都没有回应 / no valid frame at any rate: not one byte came; are TX and RX"
            " crossed, and has the module power?"
        )
    return (
        f"任何波特率下都没有有效应答 / no valid frame at any rate: {count} bytes came, beginning"
        f" with {heard[:16].hex(' ')}"
    )


class Fingerprint:
    """One module.  hallwatch is its log."""

    options: ClassVar[type] = FingerprintOptions
    attendance: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        if len(devices) != 1:
            raise ValueError(f"{len(devices)} devices on one port; expected one module")
        self._device = devices[0]
        options: FingerprintOptions = self._device.options
        self._kept = _Kept(options.baud)

    async def run(self, context: Context) -> None:
        device = self._device.id
        options: FingerprintOptions = self._device.options
        password = await asyncio.to_thread(_read_password, options.password_file)
        visit = _Visit(context, device, options, self._kept)
        try:
            await visit.open(password)
            await visit.prepare()
            await visit.watch()
        except _WrongPassword as error:
            visit.close()
            await visit.refused(error)
            await self._wait_for_password(context, password)
            raise
        finally:
            await visit.leave()
            visit.close()
            context.note(device, state="absent", **self._kept.counts)

    async def _wait_for_password(self, context: Context, refused: bytes) -> None:
        """An hour, or until the file holds another one."""
        for _ in range(REFUSED_MINUTES):
            await context.sleep(60)
            file: str = self._device.options.password_file
            if await asyncio.to_thread(_read_password, file) != refused:
                return


def _read_password(path: str) -> bytes:
    if not path:
        return bytes(4)
    try:
        number = int(Path(path).read_text("ascii").strip(), 0)
        return number.to_bytes(4, "big")
    except OSError as error:
        raise DeviceRefused(f"口令文件无法读取 / password_file: {error}") from error
    except (ValueError, OverflowError):
        raise DeviceRefused(
            f"口令文件内容无效 / password_file {path}: expected a number from 0 to 0xFFFFFFFF"
        ) from None


DRIVER = Fingerprint
