"""Modbus: frames, values in registers, an ear for lines that others drive, and the one owner of a
line that hallwatch drives itself.

======  =========================================================================================
RTU     unit 1, function 1, data, CRC 2 (low byte first); 4 to 256 bytes
TCP     transaction 2, protocol 2 (0), length 2 (what follows: 2 to 254), unit 1, function 1, data
======  =========================================================================================

RTU over TCP is RTU bytes on a socket.  All numbers in data are big-endian::

    03 04    request: address 2, count 2             answer: bytes 1, registers
    06       request and answer: address 2, value 2
    10       request: address 2, count 2, bytes 1, registers      answer: address 2, count 2
    fn | 80  answer: code 1: 1 function, 2 address, 3 value, 4 failure, 5 accepted, 6 busy, 7 NAK,
             8 parity, 0A gateway has no path, 0B the gateway's target is silent

An RTU answer does not say which request it answers.  So a late one is taken for the answer to the
next request of the same unit and function, unless the line is kept quiet until it has come in.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import struct
import termios
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ModbusPDU

from drivers.base import BadFrame, DeviceLost
from drivers.serial_line import SerialLine, line_format

# pymodbus logs every unit that does not answer; here that is counted and told once.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE = 3, 4, 6, 16
LONGEST_FRAME = 264
"""Bytes; nothing longer is a frame."""

REFUSALS = {
    1: "function not supported",
    2: "no such register",
    3: "value not accepted",
    4: "device failure",
    5: "accepted, not done yet",
    6: "busy",
    7: "not acknowledged",
    8: "memory parity error",
    10: "the gateway has no path to it",
    11: "the gateway got no answer from it",
}


# --------------------------------------------------------------------------------------------
# Frames
# --------------------------------------------------------------------------------------------


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def crc16(data: bytes) -> int:
    """CRC16-Modbus; it goes over the wire low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc


def is_sealed(frame: bytes) -> bool:
    """Whether an RTU frame ends with its own CRC."""
    return len(frame) >= 4 and crc16(frame[:-2]) == int.from_bytes(frame[-2:], "little")


def _answer_length(data: bytes) -> int:
    """Of the RTU answer that begins here: 0 if none can, -1 if that cannot be told yet."""
    function = data[1]
    if function & 0x80:
        return 5
    if 1 <= function <= 4:
        return 5 + data[2] if len(data) > 2 else -1
    return 8 if function in (5, 6, 15, 16) else 0


def answer_in(data: bytes, request: bytes) -> bytes:
    """The first whole RTU answer of the asked unit and function among the bytes that came since
    the request; nothing if there is none (yet).

    What stands before it is passed over: noise, other units' frames, the request's own echo.  Only
    the echo of functions 05 and 06 looks like their answer.
    """
    unit, function = request[0], request[1]
    start = 0
    if function not in (5, 6):
        if data.startswith(request):
            start = len(request)
        elif request.startswith(data):
            return b""
    for at in range(start, len(data) - 4):
        if data[at] != unit or data[at + 1] & 0x7F != function:
            continue
        length = _answer_length(data[at:])
        frame = data[at : at + length]
        if 5 <= length == len(frame) and is_sealed(frame) and _is_whole(frame[1:-2], function):
            return frame
    return b""


def tcp_answer_in(data: bytes, request: bytes) -> bytes:
    """The same with TCP framing, where the transaction tells late answers apart.

    ``BadFrame`` when the stream has lost its step: nothing after that can be believed.
    """
    at = 0
    while len(data) - at >= 6:
        protocol, length = struct.unpack_from(">HH", data, at + 2)
        if protocol or not 3 <= length <= 254:
            raise BadFrame(
                f"Modbus TCP header {data[at : at + 6].hex(' ')}: expected protocol 0 and a length"
                " of 3 to 254"
            )
        frame = data[at : at + 6 + length]
        if len(frame) < 6 + length:
            return b""
        at += len(frame)
        if frame[:2] == request[:2] and frame[6] == request[6] and _is_whole(frame[7:], request[7]):
            return frame
    return b""


def _is_whole(pdu: bytes, function: int) -> bool:
    if pdu[0] == function | 0x80:
        return len(pdu) == 2
    if pdu[0] != function:
        return False
    if function in (READ_HOLDING, READ_INPUT):
        return len(pdu) >= 2 and pdu[1] % 2 == 0 and len(pdu) == 2 + pdu[1]
    return len(pdu) == 5


def other_speaker(data: bytes, unit: int) -> int | None:
    """The unit of a whole RTU answer of another unit among these bytes, if there is one."""
    for at in range(len(data) - 4):
        length = _answer_length(data[at:])
        if length > 0 and data[at] != unit and is_sealed(data[at : at + length]):
            return data[at]
    return None


def poll_ms(baud: int, registers: int, delay_ms: float, character_bits: int = 10) -> float:
    """How long a read of registers takes on a serial line: 8 characters there, 5 and two for each
    register back, a gap after both, and what the device needs itself."""
    characters = 8 + 5 + 2 * registers
    return characters * character_bits * 1000 / baud + 2 * gap_ms(baud, character_bits) + delay_ms


def gap_ms(baud: int, character_bits: int = 10) -> float:
    """3.5 characters, but 1.75 ms above 19200 Bd."""
    return 1.75 if baud > 19_200 else 3500 * character_bits / baud


# --------------------------------------------------------------------------------------------
# A line that somebody else drives
# --------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """A frame overheard.  ``role``: ``request``, ``answer``, ``refusal`` (``values`` is the code).

    ``address`` and ``values`` are those of the registers read or written; an answer has the
    address of its request, and the values where either of the two has them.
    """

    role: Literal["request", "answer", "refusal"]
    unit: int
    function: int
    address: int
    values: tuple[int, ...]


class Ear:
    """Finds the frames on an RTU line by their CRC, whatever the pauses between chunks: USB
    adapters and serial servers merge bytes.

    Keeps at most 512 bytes.  The bytes passed over are counted in ``noise``.
    """

    PATIENCE = 1000
    """Milliseconds after which a request has no answer any more and half a frame no other half."""

    def __init__(self) -> None:
        self.noise = 0
        self._buffer = b""
        self._asked: Heard | None = None
        self._asked_at = self._last_at = 0

    def hear(self, data: bytes, at: int) -> list[Heard]:
        """The frames that are whole with these bytes, which came at ``at`` (ms).  Without bytes it
        only lets time pass."""
        heard: list[Heard] = []
        if self._buffer and at - self._last_at > self.PATIENCE:
            heard += self.finish(self._last_at)
        if data:
            self._last_at = at
        for begin in range(0, len(data), 240):
            self._buffer += data[begin : begin + 240]
            heard += self._frames(at, last=False)
        return heard

    def finish(self, at: int) -> list[Heard]:
        """No more bytes will come for what has begun."""
        return self._frames(at, last=True)

    def _frames(self, at: int, last: bool) -> list[Heard]:
        heard = []
        data, here = self._buffer, 0
        while here < len(data):
            asked = self._asked if at - self._asked_at <= self.PATIENCE else None
            length, found = _frame_at(data[here : here + LONGEST_FRAME], asked)
            if found is None:
                if not length and not last:
                    break
                self.noise += 1
                here += 1
                continue
            here += length
            heard.append(found)
            self._asked, self._asked_at = (found if found.role == "request" else None), at
        self._buffer = data[here:]
        return heard


def _frame_at(data: bytes, asked: Heard | None) -> tuple[int, Heard | None]:
    """The frame that begins here and its length; without a frame 0 if one may still come, else
    -1."""
    if len(data) < 2:
        return 0, None
    unit, function = data[0], data[1]
    of_ours = asked is not None and (asked.unit, asked.function) == (unit, function & 0x7F)
    address = asked.address if asked and of_ours else 0
    waiting = False
    if function & 0x80:
        if is_sealed(data[:5]) and len(data) >= 5:
            return 5, Heard("refusal", unit, function & 0x7F, address, (data[2],))
        waiting |= len(data) < 5
    elif asked and of_ours:
        length = _answer_length(data)
        if 0 < length <= len(data) and is_sealed(data[:length]) and _answers(data, asked):
            read = function in (READ_HOLDING, READ_INPUT)
            values = _words(data[3 : length - 2]) if read else asked.values
            return length, Heard("answer", unit, function, address, values)
        waiting |= not 0 < length <= len(data)
    length = 8 if 1 <= function <= 6 else 0
    if function in (15, 16):
        length = 9 + data[6] if len(data) > 6 else LONGEST_FRAME
    if 0 < length <= len(data) and is_sealed(data[:length]):
        address, number = struct.unpack_from(">HH", data, 2)
        values = (number,) if function in (5, WRITE_ONE) else ()
        if function == WRITE:
            values = _words(data[7 : length - 2])
        return length, Heard("request", unit, function, address, values)
    waiting |= length > len(data)
    return 0 if waiting else -1, None


def _answers(frame: bytes, asked: Heard) -> bool:
    """A write's answer repeats what was written, or where; another value is another request."""
    if asked.function <= 4:
        return True
    address, number = struct.unpack_from(">HH", frame, 2)
    return address == asked.address and (asked.function > 6 or asked.values == (number,))


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2])


# --------------------------------------------------------------------------------------------
# Values in registers
# --------------------------------------------------------------------------------------------

Kind = Literal[
    "uint16", "int16", "int16_ones", "int32", "uint32", "float32", "int64", "bcd",
    "char_per_register", "char_pair", "segments", "dm_packed", "bits",
]  # fmt: skip
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]

SIZES = {
    "uint16": 1, "int16": 1, "int16_ones": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4,
    "dm_packed": 2,
}  # fmt: skip
"""Registers of the kinds that have a fixed number."""
TEXTS = ("char_per_register", "char_pair", "segments")

SEGMENTS: Mapping[int, str] = {
    0x3F: "0O", 0x06: "1", 0x5B: "2", 0x4F: "3", 0x66: "4", 0x6D: "5", 0x7D: "6", 0x07: "7",
    0x7F: "8B", 0x6F: "9", 0x77: "A", 0x00: " ", 0x40: "-",
}  # fmt: skip
"""Seven segments (bit 0 is a, bit 6 is g; bit 7 is the dot): what a pattern may stand for, the
likeliest first.  Other letters differ between makers."""
_MOST_SPELLINGS = 4096


def in_order(registers: Sequence[int], order: Order) -> bytes:
    """The registers' bytes, most significant first.  The order says how the device has them:
    ``CDAB`` words swapped, ``BADC`` bytes swapped within words, ``DCBA`` both."""
    words = reversed(registers) if order in ("CDAB", "DCBA") else registers
    byte_order: Literal["big", "little"] = "little" if order in ("BADC", "DCBA") else "big"
    return b"".join(word.to_bytes(2, byte_order) for word in words)


def decode_registers(
    kind: Kind, registers: Sequence[int], order: Order = "ABCD", decimals: int = 0
) -> str:
    """What these registers say, as text.  Never raises anything but ``BadFrame``."""
    if len(registers) != SIZES.get(kind, len(registers)) or not registers:
        raise BadFrame(f"{len(registers)} registers cannot be read as {kind}")
    data = in_order(registers, order)
    match kind:
        case "char_per_register":
            return _characters(data[1::2])
        case "char_pair":
            return _characters(data)
        case "segments":
            return next(spellings(data))
        case "bits":
            return "".join(f"{word:016b}" for word in _words(data))
        case "bcd":
            if not data.hex().isdecimal():
                raise BadFrame(f"{data.hex(' ')} is no BCD: expected digits only")
            number = int(data.hex())
        case "dm_packed":
            sign, decimals = data[0] >> 4, data[0] & 15
            if sign > 1 or decimals > 5:
                raise BadFrame(
                    f"{data.hex(' ')} is no packed number: expected a sign of 0 or 1 and at most"
                    " 5 decimals"
                )
            number = int.from_bytes(data[1:], "big") * (-1 if sign else 1)
        case "float32":
            real = float(struct.unpack(">f", data)[0])
            if not math.isfinite(real):
                raise BadFrame(f"{data.hex(' ')} is no number ({real})")
            return f"{real:.{decimals}f}"
        case "int16_ones":
            number = int.from_bytes(data, "big")
            if number & 0x8000:
                number = -(number ^ 0xFFFF)
        case _:
            number = int.from_bytes(data, "big", signed=not kind.startswith("u"))
    return f"{Decimal(number).scaleb(-decimals):f}"


def _characters(data: bytes) -> str:
    """Bytes that are no text stay visible as U+FFFD; Chinese is written in GBK."""
    return data.decode("gbk", "replace")


def spellings(data: bytes, table: Mapping[int, str] = SEGMENTS) -> Iterator[str]:
    """What seven-segment codes may spell, the likeliest first; dots are written behind their digit.
    ``BadFrame`` for a code that is not in the table."""
    places = []
    for at, code in enumerate(data):
        letters = table.get(code) or table.get(code & 0x7F)
        if not letters:
            raise BadFrame(f"segment code {code:02x} in place {at + 1} is in no table")
        dot = "." if code & 0x80 and code not in table else ""
        places.append([letter + dot for letter in letters])
    for number, spelled in enumerate(product(*places)):
        if number >= _MOST_SPELLINGS:
            return
        yield "".join(spelled)


def encode_registers(
    kind: Kind,
    text: str,
    count: int,
    order: Order = "ABCD",
    decimals: int = 0,
    table: Mapping[int, str] = SEGMENTS,
) -> list[int]:
    """Registers that show the text.  Texts are cut to what there is room for and filled up with
    blanks.  A display of numbers gets the number at the end of the text (37 of ``A037``), 0 if it
    has none.  ``ValueError`` with a sentence where it does not fit."""
    if kind in TEXTS:
        room = count if kind == "char_per_register" else 2 * count
        if kind == "segments":
            codes = {letter: code for code, letters in table.items() for letter in letters}
            data = bytes(codes.get(letter, codes.get("-", 0)) for letter in text[:room])
            data = data.ljust(room, b"\0")
        else:
            data = _cut(text, room).ljust(room)
        if kind == "char_per_register":
            data = b"".join(b"\0%c" % byte for byte in data)
        return list(_words(in_order(_words(data), order)))
    if kind == "bits":
        raise ValueError("bits are read only")
    found = re.search(r"-?[0-9]+(?:\.[0-9]+)?$", text)
    value = Decimal(found[0] if found else "0")
    if kind == "float32" and abs(value) < 1e38:
        return list(_words(in_order(_words(struct.pack(">f", float(value))), order)))
    if kind == "dm_packed":
        sign, digits, exponent = value.as_tuple()
        places = -int(exponent)
        number = int("".join(map(str, digits)))
        if number >= 1 << 24 or places > 5:
            raise ValueError(f"{text!r} does not fit a display of packed numbers")
        packed = bytes([sign << 4 | places]) + number.to_bytes(3, "big")
        return list(_words(in_order(_words(packed), order)))
    number = int(value.scaleb(decimals))
    try:
        if kind == "bcd":
            if number < 0:
                raise OverflowError
            packed = bytes.fromhex(f"{number:0{4 * count}d}")
            if len(packed) > 2 * count:
                raise OverflowError
        elif kind == "int16_ones":
            if abs(number) > 0x7FFF:
                raise OverflowError
            packed = (number if number >= 0 else ~-number & 0xFFFF).to_bytes(2, "big")
        else:
            packed = number.to_bytes(2 * SIZES[kind], "big", signed=not kind.startswith("u"))
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} does not fit {kind} in {count} registers") from None
    return list(_words(in_order(_words(packed), order)))


def _cut(text: str, room: int) -> bytes:
    """GBK, at most so many bytes, never half a character."""
    data = b""
    for letter in text:
        encoded = letter.encode("gbk", "replace")
        if len(data) + len(encoded) > room:
            break
        data += encoded
    return data


# --------------------------------------------------------------------------------------------
# A line that hallwatch drives
# --------------------------------------------------------------------------------------------


class ModbusLine(Struct, frozen=True):
    """A serial port (``port``) or a converter (``host``, ``tcp_port``).  Times are in ms."""

    framing: Literal["rtu", "tcp", "rtu-over-tcp"]
    port: str = ""
    host: str = ""
    tcp_port: int = 0
    baud: int = 9600
    format: str = "8N1"
    timeout_ms: int = 300
    quiet_ms: int = 300

    @property
    def name(self) -> str:
        return self.port or f"{self.host}:{self.tcp_port}"

    @property
    def character_bits(self) -> int:
        bits, parity, stops = line_format(self.format)
        return 1 + bits + (parity != "N") + stops


class Silent(Exception):
    """The unit did not answer at all."""


class WrongAnswer(BadFrame):
    """Something came that is not the answer; ``data`` are the bytes.  ``unit`` is who spoke instead
    of the one asked, if that can be told."""

    def __init__(self, told: str, data: bytes = b"", unit: int | None = None) -> None:
        super().__init__(told)
        self.data = data
        self.unit = unit


class Refusal(Exception):
    """The unit, or the gateway in its place, answered with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{REFUSALS.get(code, 'exception')} (code {code:02X})")
        self.code = code


class BusMaster:
    """The one owner of a line: one transaction at a time, a gap before each, quiet after whatever
    went wrong, and every answer checked against its request.

    A caller who is cancelled leaves the transaction running, and the next one waits for it: its
    answer would be taken for that of the next.  ``counts`` has ``polls silent crc_errors foreign
    wrong refused late noise_bytes reopened``.
    """

    LONGEST_QUIET = 3.0
    CONNECT = 3.0
    REOPEN = 10.0
    """Seconds; so often at most is the connection made anew because of bad answers."""

    def __init__(self, line: ModbusLine) -> None:
        self.line = line
        self.counts: Counter[str] = Counter()
        self._timeout = line.timeout_ms / 1000
        self._quiet = line.quiet_ms / 1000
        self._gap = 0.0
        self._character = 0.0
        if line.framing != "tcp":
            self._character = line.character_bits / line.baud
            self._gap = gap_ms(line.baud, line.character_bits) / 1000
        self._client: AsyncModbusSerialClient | AsyncModbusTcpClient | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[ModbusPDU | None]] = set()
        self._wrong_in_a_row = 0
        self._reopened_at = -math.inf
        self._request = b""
        """As sent; the last one stays until the next, to know its answer when it comes late."""
        self._waiting = False
        self._seen = b""
        """What came since the request, or since its transaction ended."""
        self._broken = ""
        self._sent_at = self._last_byte = self._quiet_until = 0.0

    # -- the connection

    async def open(self) -> None:
        """``DeviceLost`` with the reason when that cannot be done."""
        line = self.line
        # The library reconnects only what was connected once, and keeps the reason to itself.
        common: dict[str, Any] = {
            "timeout": self.CONNECT,
            "retries": 0,
            "reconnect_delay": 0,
            "trace_packet": self._trace,
        }
        client: AsyncModbusSerialClient | AsyncModbusTcpClient
        if line.port:
            bits, parity, stops = line_format(line.format)
            client = AsyncModbusSerialClient(
                line.port,
                baudrate=line.baud,
                bytesize=bits,
                parity=parity,
                stopbits=stops,
                **common,
            )
        else:
            framer = FramerType.SOCKET if line.framing == "tcp" else FramerType.RTU
            client = AsyncModbusTcpClient(line.host, port=line.tcp_port, framer=framer, **common)
        # A silent unit says nothing about the connection of those beside it.
        client.set_max_no_responses(1 << 30)
        why: list[OSError] = []
        create = client.ctx.call_create

        async def remembering() -> Any:
            try:
                return await create()
            except OSError as error:
                why.append(error)
                raise

        client.ctx.call_create = remembering
        try:
            connected = await client.connect()
        except (termios.error, ValueError) as error:
            raise DeviceLost(f"The serial port {line.port} cannot be opened: {error}") from error
        if not connected:
            raise DeviceLost(self._why_closed(why))
        connection = client.ctx.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._client = client
        self._waiting, self._seen, self._broken = False, b"", ""
        self._wrong_in_a_row = 0

    def _why_closed(self, why: Sequence[OSError]) -> str:
        line = self.line
        if line.port:
            try:
                SerialLine(line.port, line.baud, line.format).close()
            except DeviceLost as error:
                return str(error)
            return f"The serial port {line.port} could not be opened just now."
        reason = why[0].strerror or str(why[0]) if why else "no answer"
        return (
            f"No connection to {line.name}: {reason}. A converter may allow one client only; is"
            " another program connected to it?"
        )

    async def close(self) -> None:
        """Transactions that run are finished first: half a write is worse than a moment's wait."""
        if self._running:
            await asyncio.wait(self._running)
        self._drop()

    async def reopen(self) -> None:
        """Unless that was done just now: a gateway that restarts must not be kept from it."""
        async with self._turn:
            await self._reopen()

    async def _reopen(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reopened_at < self.REOPEN:
            return
        self._reopened_at = now
        self.counts["reopened"] += 1
        self._drop()
        await self.open()

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
            except (OSError, termios.error):
                pass  # The adapter was pulled out.

    # -- transactions

    async def read(
        self,
        unit: int,
        function: int,
        address: int,
        count: int,
        gap_ms: int = 0,
        retry: bool = True,
    ) -> tuple[int, ...]:
        """``Silent``, ``WrongAnswer`` or ``Refusal`` after one retry; ``DeviceLost`` when the line
        itself is gone."""

        async def ask(client: AsyncModbusSerialClient | AsyncModbusTcpClient) -> ModbusPDU:
            if function == READ_INPUT:
                return await client.read_input_registers(address, count=count, device_id=unit)
            return await client.read_holding_registers(address, count=count, device_id=unit)

        def check(answer: ModbusPDU) -> str:
            if len(answer.registers) != count:
                return f"{len(answer.registers)} registers came when {count} were asked"
            return ""

        answer = await self._transact(ask, check, unit, function, 5 + 2 * count, gap_ms, retry)
        return tuple(answer.registers)

    async def write(
        self, unit: int, address: int, values: Sequence[int], function: int = WRITE, gap_ms: int = 0
    ) -> None:
        """As ``read``.  On a line that echoes, only function 16 tells an acknowledgement from the
        echo."""

        async def ask(client: AsyncModbusSerialClient | AsyncModbusTcpClient) -> ModbusPDU:
            if function == WRITE_ONE:
                return await client.write_register(address, values[0], device_id=unit)
            return await client.write_registers(address, list(values), device_id=unit)

        def check(answer: ModbusPDU) -> str:
            if answer.address != address:
                return f"address {answer.address} was acknowledged instead of {address}"
            if function == WRITE_ONE:
                if answer.registers != [values[0]]:
                    return f"value {answer.registers} was acknowledged instead of {values[0]}"
            elif answer.count != len(values):
                return f"{answer.count} registers were acknowledged instead of {len(values)}"
            return ""

        await self._transact(ask, check, unit, function, 8, gap_ms, True)

    async def _transact(
        self, ask: Any, check: Any, unit: int, function: int, length: int, gap_ms: int, retry: bool
    ) -> ModbusPDU:
        task = asyncio.create_task(
            self._in_turn(ask, check, unit, function, length, gap_ms / 1000, retry)
        )
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever asked may have gone.

    async def _in_turn(
        self, ask: Any, check: Any, unit: int, function: int, length: int, gap: float, retry: bool
    ) -> ModbusPDU:
        async with self._turn:
            try:
                return await self._once(ask, check, unit, function, length, gap)
            except (Silent, WrongAnswer):
                if not retry:
                    raise
            return await self._once(ask, check, unit, function, length, gap)

    async def _once(
        self, ask: Any, check: Any, unit: int, function: int, length: int, gap: float
    ) -> ModbusPDU:
        await self._settle(gap)
        client = self._client
        if client is None or not client.connected:
            raise DeviceLost(f"The connection to {self.line.name} was lost.")
        # On a slow line the bytes alone may take longer than a device may.
        wire = (8 + length) * self._character
        timeout = max(self._timeout, wire + 0.05) if wire else self._timeout
        client.ctx.comm_params.timeout_connect = timeout
        self.counts["polls"] += 1
        try:
            answer: ModbusPDU = await ask(client)
        except ConnectionException:
            raise DeviceLost(f"The connection to {self.line.name} was lost.") from None
        except ModbusException:
            raise await self._failed(unit) from None
        finally:
            self._waiting = False
        if answer.function_code & 0x7F != function or answer.dev_id != unit:
            told = f"unit {answer.dev_id} function {answer.function_code} answered"
            raise await self._wrong(told)
        if answer.isError():
            self._wrong_in_a_row = 0
            self.counts["refused"] += 1
            raise Refusal(answer.exception_code)
        if told := check(answer):
            raise await self._wrong(f"unit {unit}: {told}")
        self._wrong_in_a_row = 0
        return answer

    async def _settle(self, gap: float) -> None:
        """Wait until the line has been free for long enough, and see what came meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            free = max(self._last_byte + max(gap, self._gap), self._quiet_until)
            if (wait := free - loop.time()) <= 0:
                break
            await asyncio.sleep(wait)
        if self._seen:
            self.counts["noise_bytes"] += len(self._seen)
            self._seen = b""

    async def _failed(self, unit: int) -> Exception:
        client = self._client
        if client is None or not client.connected:
            return DeviceLost(
                f"The connection to {self.line.name} was closed by the other end."
                " A converter may allow one client only."
            )
        seen = self._seen
        self._hush()
        if self._broken:
            return await self._wrong(self._broken, seen, reopen=True)
        if not seen:
            self.counts["silent"] += 1
            return Silent(f"unit {unit} does not answer")
        if self.line.framing == "tcp":
            return await self._wrong(f"no answer of unit {unit} among these bytes", seen)
        speaker = other_speaker(seen, unit)
        if speaker is not None:
            self.counts["foreign"] += 1
            return await self._wrong(f"unit {speaker} answered in place of {unit}", seen, speaker)
        self.counts["crc_errors"] += 1
        # Damage is not step lost: a bad cable must not cost a reopening at every second poll.
        return WrongAnswer(f"damaged answer of unit {unit}", seen)

    async def _wrong(
        self, told: str, data: bytes = b"", unit: int | None = None, reopen: bool = False
    ) -> Exception:
        self.counts["wrong"] += 1
        self._wrong_in_a_row += 1
        self._hush()
        if reopen or self._wrong_in_a_row >= 2:
            try:
                await self._reopen()
            except DeviceLost as error:
                return error
        return WrongAnswer(told, data, unit)

    def _hush(self) -> None:
        self._quiet_until = asyncio.get_running_loop().time() + self._quiet

    def _trace(self, sending: bool, data: bytes) -> bytes:
        """What pymodbus sends, and all it received since; it gets to see nothing but the answer."""
        now = asyncio.get_running_loop().time()
        if sending:
            self._request, self._waiting, self._seen, self._broken = data, True, b"", ""
            self._sent_at = now
            self._last_byte = now + len(data) * self._character
            return data
        self._last_byte = now
        self._seen = data
        find = tcp_answer_in if self.line.framing == "tcp" else answer_in
        try:
            answer = find(data, self._request) if self._request else b""
        except BadFrame as error:
            self._broken = str(error)
            return b""
        if not answer:
            return b""
        if not self._waiting:
            # Too late; from now on the line is kept quiet for as long as that one took.
            self.counts["late"] += 1
            late = now - self._sent_at - self._timeout
            self._quiet = min(self.LONGEST_QUIET, max(self._quiet, 1.25 * late))
            self._request = b""
            return b""
        self._waiting = False
        echo = self._request if data.startswith(self._request) and data != answer else b""
        self.counts["noise_bytes"] += max(0, len(data) - len(answer) - len(echo))
        self._request = self._seen = b""
        return answer
