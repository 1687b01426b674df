"""Plays Modbus displays on one line, over a pseudo-terminal or TCP, and a queue system that writes
to such displays, for those who only listen.

For the demo, for commissioning without hardware, and for tests: it is written from the wire format
alone and shares nothing with the driver, so that one mistake cannot hide in both.

======  =========================================================================================
RTU     unit, function, data, CRC-16 (polynomial A001 reflected, from FFFF), low byte first
TCP     transaction 2, protocol 2 (0), length 2, unit, function, data; big-endian throughout
======  =========================================================================================

Functions 3 and 4 (read), 6 (write one), 16 (write several).  Exceptions: function | 80, code.
"""

from __future__ import annotations

import asyncio
import os
import pty
import tty
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Trouble = Literal[
    "late", "short", "long", "wrong_unit", "wrong_function", "wrong_address", "noisy", "glued",
    "echo", "split", "silent", "wrong_crc", "busy", "refuse", "bad_header", "close",
    "raw",
]  # fmt: skip


@dataclass
class Fault:
    """``late`` takes ``seconds``; ``refuse`` the exception ``code``; ``noisy`` puts ``data`` before
    the answer, ``raw`` in its place; ``glued`` an answer of unit ``unit``, which is also who
    answers for ``wrong_unit``.  It ends after so many ``times``, or never."""

    trouble: Trouble
    times: int | None = None
    seconds: float = 0.0
    code: int = 0
    data: bytes = b"\x00"
    unit: int = 99


def crc(data: bytes) -> bytes:
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return bytes((value & 0xFF, value >> 8))


def rtu(unit: int, pdu: bytes) -> bytes:
    frame = bytes([unit]) + pdu
    return frame + crc(frame)


@dataclass
class DisplayUnit:
    """One display.  ``registers`` are those it has; others are refused with exception 2.
    ``delay`` is what it needs before it answers, in seconds."""

    number: int
    registers: dict[int, int] = field(default_factory=dict)
    delay: float = 0.0
    readable: bool = True
    writable: bool = True
    faults: list[Fault] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    """Requests, without unit and CRC."""

    def show(self, text: str, address: int = 0, size: int = 6) -> None:
        """One character in each register, in the low byte, as the DM36 has it."""
        for place, letter in enumerate(text[:size].ljust(size)):
            self.registers[address + place] = ord(letter)

    def show_pairs(self, text: str, address: int = 0) -> None:
        """Two characters in each register, the first one high."""
        data = text.encode("gbk") + b" " * (len(text.encode("gbk")) % 2)
        for place in range(len(data) // 2):
            self.registers[address + place] = data[2 * place] << 8 | data[2 * place + 1]

    def shown(self, address: int = 0, size: int = 6) -> str:
        return "".join(chr(self.registers[address + place] & 0xFF) for place in range(size))

    def fails(self, trouble: Trouble, times: int | None = None, **how: Any) -> None:
        self.faults.append(Fault(trouble, times, **how))

    def heals(self) -> None:
        self.faults.clear()

    def next_fault(self) -> Fault | None:
        """What goes wrong with this answer."""
        if not self.faults:
            return None
        fault = self.faults[0]
        if fault.times is not None:
            fault.times -= 1
            if not fault.times:
                self.faults.pop(0)
        return fault

    def answer(self, pdu: bytes) -> bytes:
        function = pdu[0]
        if function not in (3, 4, 6, 16) or len(pdu) < 5:
            return bytes((function | 0x80, 1))
        address, number = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
        if function == 6:
            return self._write(function, address, [number]) or pdu[:5]
        if not 1 <= number <= 125:
            return bytes((function | 0x80, 3))
        if function == 16:
            data = pdu[6 : 6 + 2 * number]
            if pdu[5] != 2 * number or len(data) != 2 * number:
                return bytes((function | 0x80, 3))
            values = [int.from_bytes(data[n : n + 2], "big") for n in range(0, len(data), 2)]
            return self._write(function, address, values) or pdu[:5]
        places = range(address, address + number)
        if not self.readable or any(place not in self.registers for place in places):
            return bytes((function | 0x80, 2))
        data = b"".join(self.registers[place].to_bytes(2, "big") for place in places)
        return bytes((function, len(data))) + data

    def _write(self, function: int, address: int, values: Sequence[int]) -> bytes:
        """The exception, or nothing."""
        if not self.writable or any(address + n not in self.registers for n in range(len(values))):
            return bytes((function | 0x80, 2))
        for place, value in enumerate(values, address):
            self.registers[place] = value
        return b""


class DisplayLine:
    """Displays that share one line, with one master at a time.

    ``baud`` makes every byte take its time (10 bits), in both directions; 0 is as fast as the
    machine.  ``gateway`` answers for absent units with exception 0B; without it nobody does.
    """

    def __init__(
        self,
        units: Sequence[DisplayUnit],
        framing: Literal["rtu", "tcp"] = "rtu",
        baud: int = 0,
        gateway: bool = False,
    ) -> None:
        self.units = {unit.number: unit for unit in units}
        self.framing = framing
        self.gateway = gateway
        self.heard: list[bytes] = []
        """Whole requests as they came."""
        self.asked_at: list[tuple[float, float]] = []
        """When each request began to come and when its answer had left, by the loop's time."""
        self.connections = 0
        self.port = 0
        self.path = ""
        self._character = 10 / baud if baud else 0.0
        self._fds: list[int] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start_tcp(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    def start_pty(self) -> str:
        """The path of a serial port that leads to these displays."""
        ours, theirs = pty.openpty()
        tty.setraw(ours)
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        # The other end stays open, or reading fails whenever nobody has the port.
        self._fds = [ours, theirs]
        self.path = os.ttyname(theirs)
        incoming: asyncio.Queue[bytes] = asyncio.Queue()

        def readable() -> None:
            with suppress(BlockingIOError):
                incoming.put_nowait(os.read(ours, 4096))

        asyncio.get_running_loop().add_reader(ours, readable)
        self._start(self._talk(incoming.get, lambda data: self._put(ours, data)))
        return self.path

    async def stop(self) -> None:
        """Close everything: to the other side the adapter is pulled, or the converter gone."""
        for fd in self._fds[:1]:
            asyncio.get_running_loop().remove_reader(fd)
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _put(fd: int, data: bytes) -> None:
        with suppress(OSError):
            os.write(fd, data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)

        async def get() -> bytes:
            data = await reader.read(4096)
            if not data:
                raise ConnectionResetError
            return data

        try:
            await self._talk(get, writer.write, writer.close)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            if task is not None:
                self._tasks.discard(task)

    async def _talk(
        self,
        get: Callable[[], Awaitable[bytes]],
        put: Callable[[bytes], object],
        hang_up: Callable[[], object] = lambda: None,
    ) -> None:
        buffer = b""
        while True:
            buffer += await get()
            while frame := self._first(buffer):
                buffer = buffer[len(frame) :]
                await self._handle(frame, put, hang_up)
            if len(buffer) > 300:
                buffer = b""

    def _first(self, buffer: bytes) -> bytes:
        """The request the buffer begins with."""
        if self.framing == "tcp":
            length = 6 + int.from_bytes(buffer[4:6], "big")
            return buffer[:length] if 6 < length <= len(buffer) else b""
        if len(buffer) < 8:
            return b""
        length = 9 + buffer[6] if buffer[1] == 16 else 8
        frame = buffer[:length]
        return frame if len(frame) == length and crc(frame[:-2]) == frame[-2:] else b""

    async def _handle(
        self, frame: bytes, put: Callable[[bytes], object], hang_up: Callable[[], object]
    ) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.heard.append(frame)
        head = frame[:4] if self.framing == "tcp" else b""
        body = frame[6:] if self.framing == "tcp" else frame[:-2]
        number, pdu = body[0], body[1:]
        # The bytes came in one go; on a wire the last of them comes this much later, and 3.5
        # characters of silence tell that it was the last.
        due = began + (len(frame) + 3.5) * self._character
        unit = self.units.get(number)
        if unit is None:
            if self.gateway:
                put(self._framed(head, number, bytes((pdu[0] | 0x80, 0x0B))))
            elif number == 0:
                for one in self.units.values():
                    one.answer(pdu)
            return
        unit.asked.append(pdu)
        fault = unit.next_fault()
        trouble = fault.trouble if fault else ""
        if trouble == "silent":
            return
        if trouble == "close":
            hang_up()
            return
        answer = self._spoiled(fault, head, number, frame, unit.answer(pdu))
        due += unit.delay
        if fault and trouble == "late":
            self._start(self._send(answer, due + fault.seconds, put))
            return
        await self._send(answer, due, put, one_by_one=trouble == "split")
        self.asked_at.append((began, loop.time()))

    def _spoiled(
        self, fault: Fault | None, head: bytes, number: int, request: bytes, answer: bytes
    ) -> bytes:
        """The answer as it goes over the line."""
        if fault is None:
            return self._framed(head, number, answer)
        match fault.trouble:
            case "short":
                answer = bytes((answer[0], 2)) + answer[2:4]
            case "long":
                answer = bytes((answer[0], answer[1] + 2)) + answer[2:] + b"\0\0"
            case "wrong_unit":
                number = fault.unit
            case "wrong_function":
                answer = bytes((answer[0] ^ 7,)) + answer[1:]
            case "wrong_address":
                answer = answer[:2] + bytes((answer[2] ^ 1,)) + answer[3:]
            case "busy":
                answer = bytes((answer[0] | 0x80, 6))
            case "refuse":
                answer = bytes((answer[0] | 0x80, fault.code))
        frame = self._framed(head, number, answer)
        match fault.trouble:
            case "wrong_crc":
                return frame[:-1] + bytes((frame[-1] ^ 0x55,))
            case "bad_header":
                return frame[:2] + b"\x01\x01" + frame[4:]
            case "raw":
                return fault.data
            case "noisy":
                return fault.data + frame
            case "glued":
                return self._framed(head, fault.unit, answer) + frame
            case "echo":
                return request + frame
        return frame

    async def _send(
        self, data: bytes, due: float, put: Callable[[bytes], object], one_by_one: bool = False
    ) -> None:
        """So that it begins to leave at ``due``."""
        loop = asyncio.get_running_loop()
        if not self._character and not one_by_one:
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            put(data)
            return
        for place, byte in enumerate(data, 1):
            wait = due + place * (self._character or 0.001) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            put(bytes((byte,)))

    def _framed(self, head: bytes, number: int, pdu: bytes) -> bytes:
        if self.framing == "tcp":
            return head + (len(pdu) + 1).to_bytes(2, "big") + bytes([number]) + pdu
        return rtu(number, pdu)


class QueueHost:
    """A queue system that drives the displays itself; who listens on ``path`` hears both sides."""

    def __init__(self, units: Sequence[DisplayUnit]) -> None:
        self.units = {unit.number: unit for unit in units}
        ours, theirs = pty.openpty()
        tty.setraw(ours)
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        self._fds = [ours, theirs]
        self.path = os.ttyname(theirs)

    def stop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def utter(self, data: bytes) -> None:
        """Any bytes on the line."""
        os.write(self._fds[0], data)

    def sent_back(self) -> bytes:
        """What the listener sent, who should send nothing."""
        try:
            return os.read(self._fds[0], 4096)
        except BlockingIOError:
            return b""

    def ask(self, number: int, pdu: bytes, answered: bool = True) -> None:
        self.utter(rtu(number, pdu))
        unit = self.units.get(number)
        if unit is not None and answered:
            self.utter(rtu(number, unit.answer(pdu)))

    def write(
        self, number: int, values: Sequence[int], address: int = 0, answered: bool = True
    ) -> None:
        """Function 6 for one value, 16 for more."""
        place = address.to_bytes(2, "big")
        data = b"".join(value.to_bytes(2, "big") for value in values)
        if len(values) == 1:
            self.ask(number, b"\x06" + place + data, answered)
        else:
            count = len(values).to_bytes(2, "big") + bytes((len(data),))
            self.ask(number, b"\x10" + place + count + data, answered)

    def show(self, number: int, text: str, size: int = 6, answered: bool = True) -> None:
        """One character in each register."""
        self.write(number, [ord(one) for one in text[:size].ljust(size)], answered=answered)
