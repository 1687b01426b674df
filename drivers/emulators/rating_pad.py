"""Plays rating pads and caller keypads on a serial line, for the demo, for commissioning and tests.

``SerialBus`` is the line: a pseudo-terminal whose other end hallwatch opens, or a real port.  What
is attached to it speaks:

    Pad, Keypad      FF 68 L L 68 addr func data sum8 16, several on one RS-485 line.  A pad sends
                     func 11 and its key and wants func 01 and the key; a keypad sends a key and
                     wants the frame back.  Both repeat until they are answered.
    QueueHost        the software that owns such a bus: answers pads and keypads
    SimPad           AA 55 len addr cmd data xor8: 11 rating, 12 alive, 06 answer, 01 prompt
    BankTerminal     SE, PJ or PH payloads in, SE00 and SE20n, PK00nn or 00 00 and 00 00 nn out
    KeybytePad       one byte for each press

Devices hear everything on the line, as on RS-485.  Faults are attributes; all start harmless.

Source: notes on public programs that drive such devices, and frames computed by hand.
"""

from __future__ import annotations

import asyncio
import os
import pty
import tty
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import serial

KEYS = {
    "call": b"\x0c",
    "recall": b"\x0d",
    "finish": b"\x0b",
    "cancel": b"\x0e",
    "give_up": b"\x06\x0f",
    "hold": b"\x00\x0f",
    "call_back": b"\x03\x0f",
    "stand_behind": b"\x11",
    "pause": b"\x12",
    "transfer": b"\x13",
}
"""What a keypad sends for a key, or for a digit and the confirm key."""


class _Attached(Protocol):
    def hear(self, data: bytes) -> None:
        """Bytes from the host or from another device of the line."""
        ...


class SerialBus:
    """One line.  ``path`` is what hallwatch opens; ``link``, if given, is a stable name for it that
    comes and goes with the plug.  With ``port`` the line is a real port instead."""

    def __init__(self, link: Path | None = None, port: str = "", baud: int = 9600) -> None:
        self._link = link
        self._port = port
        self._baud = baud
        self._real: serial.Serial | None = None
        self._ours = self._theirs = -1
        self._devices: list[_Attached] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.path = ""
        self.heard = bytearray()
        """Everything the host wrote."""
        self.echoes = False
        """The host's adapter hears what it sends."""
        self.fragment = 0
        """Devices' frames come in pieces of so many bytes."""
        self.gap = 0.0
        """Seconds between two pieces."""

    async def start(self) -> str:
        self.plug()
        return self.path

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.unplug()

    def plug(self) -> None:
        if self._port:
            self._real = serial.Serial(self._port, self._baud, timeout=0, write_timeout=0)
            self._ours = self._real.fileno()
            self.path = self._port
        else:
            # The other end stays open here, so that the line survives a host that closes it.
            self._ours, self._theirs = pty.openpty()
            tty.setraw(self._theirs)
            self.path = os.ttyname(self._theirs)
            if self._link is not None:
                self._link.unlink(missing_ok=True)
                self._link.symlink_to(self.path)
                self.path = str(self._link)
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._readable)

    def unplug(self) -> None:
        """The adapter is pulled out."""
        if self._ours < 0:
            return
        asyncio.get_running_loop().remove_reader(self._ours)
        if self._real is not None:
            self._real.close()
            self._real = None
        else:
            os.close(self._ours)
            os.close(self._theirs)
            if self._link is not None:
                self._link.unlink(missing_ok=True)
        self._ours = self._theirs = -1

    def attach(self, device: _Attached) -> None:
        self._devices.append(device)

    def post(self, data: bytes, sender: _Attached | None = None) -> None:
        """A device talks (or nobody: noise).  The host and the other devices hear it."""
        if self._ours >= 0:
            with suppress(BlockingIOError):
                # A line has no memory: what the host does not take is gone.
                os.write(self._ours, data)
        for device in self._devices:
            if device is not sender:
                device.hear(data)

    async def say(self, data: bytes, sender: _Attached | None = None) -> None:
        """``post``, in pieces if the line is to cut."""
        step = self.fragment or len(data) or 1
        for at in range(0, len(data), step):
            if at:
                await asyncio.sleep(self.gap)
            self.post(data[at : at + step], sender)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _readable(self) -> None:
        try:
            data = os.read(self._ours, 4096)
        except OSError:
            return
        self.heard += data
        if self.echoes:
            with suppress(BlockingIOError):
                os.write(self._ours, data)
        for device in list(self._devices):
            device.hear(data)


# FF 68 -----------------------------------------------------------------------------------------


def ff68(address: int, func: int, data: bytes = b"") -> bytes:
    body = bytes((address, func)) + data
    size = len(body)
    return bytes((0xFF, 0x68, size, size, 0x68)) + body + bytes((sum(body) % 256, 0x16))


def _ff68_frames(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Takes whole frames from the buffer: address, func, data."""
    while True:
        start = buffer.find(b"\xff\x68")
        if start < 0:
            del buffer[:-1]
            return
        del buffer[:start]
        if len(buffer) < 5:
            return
        size = buffer[2]
        if size != buffer[3] or not 2 <= size <= 8 or buffer[4] != 0x68:
            del buffer[0]
            continue
        if len(buffer) < size + 7:
            return
        body = bytes(buffer[5 : 5 + size])
        if buffer[5 + size] != sum(body) % 256 or buffer[6 + size] != 0x16:
            del buffer[0]
            continue
        del buffer[: size + 7]
        yield body[0], body[1], body[2:]


class _OnBus:
    """What pads and keypads have in common.

    ``patience`` (s) passes before a frame is sent again, ``tries`` times in all.  ``deaf``: so many
    answers are not heard.  ``broken``: so many frames leave with a wrong checksum; ``halves``: with
    their second half missing.  ``noise`` goes before each frame.
    """

    checksum_at = -2

    def __init__(self, bus: SerialBus, address: int) -> None:
        self._bus = bus
        self.address = address
        self.patience = 0.2
        self.tries = 5
        self.deaf = 0
        self.broken = 0
        self.halves = 0
        self.noise = b""
        self.sent = 0
        """Frames that left, repeats included."""
        self.prompts = 0
        self.prompted = asyncio.Event()
        self.stars = 0
        self.beeps = 0
        self._buffer = bytearray()
        self._answered = asyncio.Event()
        bus.attach(self)

    def hear(self, data: bytes) -> None:
        raise NotImplementedError

    def _answer_heard(self) -> None:
        if self.deaf > 0:
            self.deaf -= 1
        else:
            self._answered.set()

    def _prompt_heard(self) -> None:
        self.prompts += 1
        self.prompted.set()

    async def send_once(self, frame: bytes) -> None:
        self.sent += 1
        if self.broken > 0:
            self.broken -= 1
            at = len(frame) + self.checksum_at
            frame = frame[:at] + bytes((frame[at] ^ 0xFF,)) + frame[at + 1 :]
        elif self.halves > 0:
            self.halves -= 1
            frame = frame[: len(frame) // 2]
        await self._bus.say(self.noise + frame, self)

    async def _until_answered(self, frame: bytes) -> bool:
        self._answered.clear()
        for _ in range(self.tries):
            await self.send_once(frame)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience):
                    await self._answered.wait()
                return True
        return False


class Pad(_OnBus):
    """A four-key pad.  ``stars`` are lit and ``beeps`` sounded by the host."""

    def __init__(self, bus: SerialBus, address: int) -> None:
        super().__init__(bus, address)
        self._key = -1

    async def press(self, key: int) -> bool:
        """True once the rating was acknowledged."""
        self._key = key
        return await self._until_answered(ff68(self.address, 0x11, bytes((key,))))

    def hear(self, data: bytes) -> None:
        self._buffer += data
        for address, func, body in _ff68_frames(self._buffer):
            if address != self.address:
                continue
            if func == 0x01 and body == b"\x0b":
                self._prompt_heard()
            elif func == 0x01 and body == bytes((self._key & 0xFF,)):
                self._answer_heard()
            elif func == 0x02 and len(body) == 1:
                self.stars = body[0]
            elif func == 0x03:
                self.beeps += 1


class Keypad(_OnBus):
    """A caller keypad with six digits: ``waiting`` on the left, ``ticket`` on the right; a blank is
    a space."""

    def __init__(self, bus: SerialBus, address: int, func: int = 0x01) -> None:
        super().__init__(bus, address)
        self.func = func
        """Of key frames; real ones are not known."""
        self.waiting = self.ticket = "   "
        self._awaited = b""

    async def press(self, key: str) -> bool:
        """One of ``KEYS``.  True once the host echoed it."""
        return await self.send(KEYS[key])

    async def send(self, keys: bytes) -> bool:
        self._awaited = ff68(self.address, self.func, keys)
        return await self._until_answered(self._awaited)

    def hear(self, data: bytes) -> None:
        self._buffer += data
        for address, func, body in _ff68_frames(self._buffer):
            if address != self.address:
                continue
            if ff68(address, func, body) == self._awaited:
                self._answer_heard()
            elif func == 0x01 and body == b"\x0b":
                self._prompt_heard()
            elif func == 0x02 and len(body) == 6:
                digits = "".join(" " if digit == 0x0A else str(digit) for digit in body)
                self.waiting, self.ticket = digits[:3], digits[3:]
            elif func == 0x03:
                self.beeps += 1


class QueueHost:
    """The queue software on the line.  ``silent``: it is down."""

    def __init__(self, bus: SerialBus, delay: float = 0.01) -> None:
        self._bus = bus
        self._delay = delay
        self._buffer = bytearray()
        self.silent = False
        bus.attach(self)

    def hear(self, data: bytes) -> None:
        self._buffer += data
        for address, func, body in _ff68_frames(self._buffer):
            if self.silent:
                continue
            if func == 0x11:
                self._bus.later(self._say(ff68(address, 0x01, body)))
            else:
                self._bus.later(self._say(ff68(address, func, body)))

    async def show(self, address: int, digits: bytes) -> None:
        """Six digits for a keypad."""
        await self._bus.say(ff68(address, 0x02, digits), self)

    async def _say(self, frame: bytes) -> None:
        await asyncio.sleep(self._delay)
        await self._bus.say(frame, self)


# AA 55 -----------------------------------------------------------------------------------------


def aa55(address: int, command: int, data: bytes = b"") -> bytes:
    body = bytes((len(data) + 2, address, command)) + data
    total = 0
    for byte in body:
        total ^= byte
    return b"\xaa\x55" + body + bytes((total,))


class SimPad(_OnBus):
    """The pad that does not exist.  ``seconds`` is how long the last prompt lasts."""

    checksum_at = -1
    seconds = 0

    async def press(self, key: int) -> bool:
        return await self._until_answered(aa55(self.address, 0x11, bytes((key,))))

    async def beat(self) -> bool:
        return await self._until_answered(aa55(self.address, 0x12))

    def hear(self, data: bytes) -> None:
        self._buffer += data
        while (start := self._buffer.find(b"\xaa\x55")) >= 0:
            del self._buffer[:start]
            if len(self._buffer) < 3:
                return
            size = self._buffer[2] + 4
            if size < 6:
                del self._buffer[0]
                continue
            if len(self._buffer) < size:
                return
            _, _, _, address, command, *body, _ = bytes(self._buffer[:size])
            if aa55(address, command, bytes(body)) != self._buffer[:size]:
                del self._buffer[0]
                continue
            del self._buffer[:size]
            if address == self.address and command == 0x06:
                self._answer_heard()
            elif address == self.address and command == 0x01:
                self.seconds = body[0]
                self._prompt_heard()


# Without a bus ---------------------------------------------------------------------------------


_PROMPTS = {
    b"SE": "2 3 2 3 3 3 =3 =3",
    b"PJ": "=2 =2 =2 3 3 3 3",
    b"PH": "=1 =1 =1 1 1 1",
}
"""The parts of a prompt: a length of so many digits and a text, or ``=`` and a number of so many;
after PH bytes instead of digits."""


class BankTerminal:
    """A counter terminal.  ``asked`` are the parts of the last prompt, in order.  ``refuses``: two
    digits with which it declines."""

    def __init__(self, bus: SerialBus) -> None:
        self._bus = bus
        self._buffer = b""
        self._form = b""
        self.asked: list[str | int] = []
        self.prompted = asyncio.Event()
        self.prompts = 0
        self.refuses = ""
        bus.attach(self)

    async def press(self, option: int) -> None:
        """The visitor chooses an option, from 1; nothing acknowledges it."""
        if self._form == b"SE":
            await self._bus.say(b"SE20%d" % option, self)
        elif self._form == b"PJ":
            await self._bus.say(b"PK00%02d" % option, self)
        else:
            await self._bus.say(bytes((0, 0, option)), self)

    def hear(self, data: bytes) -> None:
        self._buffer += data
        form = self._buffer[:2]
        if form not in _PROMPTS:
            self._buffer = b""
            return
        asked = self._parsed(form)
        if asked is None:
            return
        self._buffer = b""
        self._form = form
        self.asked = asked
        self.prompts += 1
        self.prompted.set()
        if self.refuses:
            prefix = b"SE" if form == b"SE" else b"PK"
            self._bus.post(prefix + self.refuses.encode("ascii"), self)
        elif form == b"SE":
            self._bus.post(b"SE00", self)
        elif form == b"PH":
            self._bus.post(b"\0\0", self)

    def _parsed(self, form: bytes) -> list[str | int] | None:
        """None while the payload is not whole."""
        at = 2
        asked: list[str | int] = []
        for part in _PROMPTS[form].split():
            width = int(part.lstrip("="))
            told = self._buffer[at : at + width]
            if len(told) < width:
                return None
            at += width
            number = told[0] if form == b"PH" else int(told)
            if part[0] == "=":
                asked.append(number)
                continue
            text = self._buffer[at : at + number]
            if len(text) < number:
                return None
            at += number
            asked.append(text.decode("utf-8"))
        return asked


class KeybytePad:
    def __init__(self, bus: SerialBus) -> None:
        self._bus = bus
        bus.attach(self)

    async def press(self, byte: int) -> None:
        await self._bus.say(bytes((byte,)), self)

    def hear(self, data: bytes) -> None:
        """It hears nothing."""
