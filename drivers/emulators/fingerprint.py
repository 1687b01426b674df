"""Plays a serial fingerprint module of the "EF 01" family, on a pseudo-terminal or behind TCP as a
serial-to-TCP converter would show it.

For the demo, for commissioning without hardware, and for tests: it is written from the wire format
alone and shares nothing with the driver, so that one mistake cannot hide in both.

======  ====  =====================================================================
offset  size  field, big-endian
======  ====  =====================================================================
0       2     ``EF 01``
2       4     address
6       1     01 command, 02 data, 07 acknowledgement, 08 last data
7       2     bytes of content, plus 2
9       n     content: opcode and arguments, or code and results
9+n     2     sum of the bytes from offset 6 on, modulo 65536
======  ====  =====================================================================

It holds page numbers only: there is nothing biometric to play with.  Commands that store, delete,
change or hand out something are counted in ``forbidden`` and refused.
"""

from __future__ import annotations

import asyncio
import os
import pty
import termios
import tty
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

GET_IMAGE, FEATURES, SEARCH, FAST_SEARCH = 0x01, 0x02, 0x04, 0x1B
PARAMETERS, PASSWORD, RANDOM = 0x0F, 0x13, 0x14
TEMPLATES, INDEX = 0x1D, 0x1F
CANCEL, IDENTIFY, CHECK_SENSOR, HANDSHAKE = 0x30, 0x32, 0x36, 0x40
FORBIDDEN = frozenset(
    (0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x12, 0x15, 0x18, 0x31)
)

OK, RECEPTION_ERROR, NO_FINGER, NOT_FOUND = 0x00, 0x01, 0x02, 0x09
WRONG_PASSWORD, NO_IMAGE, WRONG_ADDRESS, VERIFY_FIRST = 0x13, 0x15, 0x20, 0x21
NO_TEMPLATES, TIMED_OUT, SENSOR_FAULT, UNSUPPORTED = 0x24, 0x26, 0x29, 0xFC

_SPEEDS = {
    termios.B9600: 9600,
    termios.B19200: 19200,
    termios.B38400: 38400,
    termios.B57600: 57600,
    termios.B115200: 115200,
}


def packet(content: bytes, address: int = 0xFFFFFFFF, kind: int = 0x07) -> bytes:
    """An acknowledgement, or a packet of another kind."""
    length = len(content) + 2
    total = kind + (length >> 8) + (length & 0xFF) + sum(content)
    return b"".join(
        (
            b"\xef\x01",
            address.to_bytes(4, "big"),
            bytes((kind, length >> 8, length & 0xFF)),
            content,
            (total % 65536).to_bytes(2, "big"),
        )
    )


class FingerprintModule:
    """One module.  ``pages`` are those that hold a template.

    Set an attribute at any time to play a fault; all of them start harmless.
    """

    def __init__(
        self,
        pages: Iterable[int] = (),
        *,
        capacity: int = 200,
        password: int = 0,
        address: int = 0xFFFFFFFF,
        baud: int = 57600,
        layout: Literal["zw", "r503"] = "zw",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pages = set(pages)
        self.capacity = capacity
        self.password = password
        self.address = address
        self.baud = baud
        self.layout = layout
        self.score = 119

        self.silent = False
        """Powered off, or TX and RX crossed."""
        self.mute: set[int] = set()
        """Opcodes that are never answered."""
        self.unsupported: dict[int, int] = {}
        """Opcodes answered with this code instead of being obeyed."""
        self.codes: dict[int, list[int]] = {}
        """Codes for the next answers to an opcode, one after the other; the last one stays."""
        self.short: dict[int, int] = {}
        """Opcodes whose answers are cut to so many bytes of content."""
        self.late_next = 0.0
        """Seconds before the next answer."""
        self.corrupt_next = 0
        """So many next packets have a wrong sum."""
        self.chatter = b""
        """Debug text before every packet."""
        self.behind = b""
        """Bytes after every packet."""
        self.fragment = 0
        """Bytes go out in pieces of this many."""
        self.wrong_rate_noise = b""
        """What a host at another rate reads."""
        self.tells_wrong_address = True
        """Answers 20 to a wrong address, instead of nothing."""
        self.empty_code = NOT_FOUND
        """What a search in an empty library is answered with."""
        self.count_error = 0
        """Added to the number of templates."""
        self.needs_password = bool(password)
        """Nothing is obeyed before the password was verified."""
        self.auto_patience = 10.0
        """Seconds a run of command 32 waits for a finger."""
        self.stale_page = 0
        """Left in the results of answers that have none."""

        self.asked: Counter[int] = Counter()
        self.forbidden: list[int] = []
        """Opcodes received that change or expose what is stored."""
        self.rejected = 0
        """Commands received with a wrong sum."""
        self.searches = 0
        self.empty_looks = 0
        self.cancelled = 0
        """Runs of command 32 ended by command 30."""
        self.spans: list[tuple[int, int]] = []
        """First page and count of each search."""
        self.port = ""

        self._sleep = sleep
        self._verified = False
        self._image = self._features = False
        self._finger: int | None = None
        self._present = False
        self._buffer = bytearray()
        self._received: asyncio.Queue[bytes]
        self._changed: asyncio.Event
        self._master = self._slave = -1
        self._link: Path | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._auto: asyncio.Task[None] | None = None

    # Where it hangs

    async def start(self, link: Path | None = None) -> str:
        """On a pseudo-terminal; ``link`` is a name for it that stays when it is plugged anew."""
        self._begin()
        self._link = link
        self.plug()
        return self.port

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Behind a converter; gives its URL."""
        self._begin()
        self._server = await asyncio.start_server(self._serve, host, port)
        name = self._server.sockets[0].getsockname()
        self.port = f"socket://{name[0]}:{name[1]}"
        return self.port

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._auto] if self._auto else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.unplug()
        self.hang_up()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def plug(self) -> None:
        """Into another port than before; the link follows."""
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        path = os.ttyname(self._slave)
        self.port = path
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(path)
            self.port = str(self._link)
        self._verified = False
        asyncio.get_running_loop().add_reader(self._master, self._read_pty)

    def unplug(self) -> None:
        """The USB adapter is pulled out."""
        if self._master < 0:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def hang_up(self) -> None:
        """The converter closes its connection."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    # What people do

    def place(self, page: int | None) -> None:
        """A finger comes to rest; none: one that is not enrolled."""
        self._finger, self._present = page, True
        self._changed.set()

    def lift(self) -> None:
        self._present = False
        self._changed.set()

    async def touch(self, page: int | None) -> None:
        """A finger stays until it was looked up, and is away for long enough to be noticed."""
        searches = self.searches
        self.place(page)
        await self.until(lambda: self.searches > searches)
        self.lift()
        looks = self.empty_looks
        await self.until(lambda: self.empty_looks >= looks + 2)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something that the module counts has happened."""
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    def reboot(self) -> None:
        """A brown-out."""
        self._verified = self._image = self._features = False
        self._end_auto()
        self._put(b"\x55")

    def say(self, data: bytes) -> None:
        """Anything, unasked."""
        self._put(data)

    # What it does

    def _begin(self) -> None:
        self._received = asyncio.Queue()
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._work())]

    def _read_pty(self) -> None:
        with suppress(BlockingIOError, OSError):
            chunk = os.read(self._master, 4096)
            if _SPEEDS.get(termios.tcgetattr(self._master)[4]) == self.baud:
                self._received.put_nowait(chunk)
            elif not self.silent:
                self._put(self.wrong_rate_noise)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with suppress(OSError):
            while chunk := await reader.read(4096):
                self._received.put_nowait(chunk)
        writer.close()

    async def _work(self) -> None:
        while True:
            self._buffer += await self._received.get()
            while command := self._next_command():
                await self._obey(*command)

    def _next_command(self) -> tuple[int, int, bytes] | None:
        """Address, opcode and arguments of the next whole command."""
        buffer = self._buffer
        while True:
            start = buffer.find(b"\xef\x01")
            if start < 0:
                del buffer[: max(0, len(buffer) - 1)]
                return None
            del buffer[:start]
            if len(buffer) < 9:
                return None
            length = buffer[7] * 256 + buffer[8]
            if buffer[6] != 0x01 or not 3 <= length <= 258:
                del buffer[:1]
                continue
            if len(buffer) < 9 + length:
                return None
            told = bytes(buffer[: 9 + length])
            del buffer[: 9 + length]
            if sum(told[6:-2]) % 65536 != told[-2] * 256 + told[-1]:
                self.rejected += 1
                continue
            return int.from_bytes(told[2:6], "big"), told[9], told[10:-2]

    async def _obey(self, address: int, op: int, arguments: bytes) -> None:
        if self.silent or (address != self.address and not self.tells_wrong_address):
            return
        self.asked[op] += 1
        self._changed.set()
        if op in FORBIDDEN:
            self.forbidden.append(op)
        if op not in self.mute:
            if self._auto is not None and op != CANCEL:
                self._end_auto()
            if address != self.address:
                answer = bytes((WRONG_ADDRESS,))
            elif op == PASSWORD:
                answer = self._check_password(arguments)
            elif self.needs_password and not self._verified:
                answer = bytes((VERIFY_FIRST,))
            else:
                answer = self._answer(op, arguments)
            if answer:
                await self._acknowledge(answer[: self.short.get(op, len(answer))])
        self._changed.set()

    def _check_password(self, arguments: bytes) -> bytes:
        if PASSWORD in self.codes:
            return bytes((self._code(PASSWORD),))
        self._verified = arguments == self.password.to_bytes(4, "big")
        return bytes((OK if self._verified else WRONG_PASSWORD,))

    def _code(self, op: int) -> int:
        codes = self.codes[op]
        return codes.pop(0) if len(codes) > 1 else codes[0]

    def _answer(self, op: int, arguments: bytes) -> bytes:
        """Code and results; nothing where the answer comes later."""
        if op in self.unsupported:
            return bytes((self.unsupported[op],))
        failed = self._code(op) if op in self.codes else OK
        if failed:
            if op in (SEARCH, FAST_SEARCH):
                self.searches += 1
                return bytes((failed,)) + self.stale_page.to_bytes(2, "big") + bytes(2)
            return bytes((failed,))
        match op:
            case 0x01:
                return self._take_image()
            case 0x02:
                self._features = self._image
                return bytes((OK if self._image else NO_IMAGE,))
            case 0x04 | 0x1B:
                first, count = (int.from_bytes(arguments[at : at + 2], "big") for at in (1, 3))
                return self._search(first, count)
            case 0x0F:
                return self._parameters()
            case 0x14:
                return bytes((OK, 0x5A, 0x17, 0x00, 0x2C))
            case 0x1D:
                return bytes((OK,)) + (len(self.pages) + self.count_error).to_bytes(2, "big")
            case 0x1F:
                bits = sum(1 << page % 256 for page in self.pages if page // 256 == arguments[0])
                return bytes((OK,)) + bits.to_bytes(32, "little")
            case 0x30:
                self.cancelled += self._auto is not None
                self._end_auto()
                return bytes((OK,))
            case 0x32:
                self._auto = asyncio.create_task(self._identify(arguments))
                return b""
            case 0x36 | 0x40:
                return bytes((OK,))
        return bytes((UNSUPPORTED,))

    def _take_image(self) -> bytes:
        self._image = self._present
        if not self._present:
            self.empty_looks += 1
            return bytes((NO_FINGER,))
        return bytes((OK,))

    def _search(self, first: int, count: int) -> bytes:
        self.searches += 1
        self.spans.append((first, count))
        if not self._features:
            return bytes((NO_IMAGE,)) + bytes(4)
        found = self._lookup(first, count)
        if found is None:
            code = NOT_FOUND if self.pages else self.empty_code
            return bytes((code,)) + self.stale_page.to_bytes(2, "big") + bytes(2)
        return bytes((OK,)) + found.to_bytes(2, "big") + self.score.to_bytes(2, "big")

    def _lookup(self, first: int, count: int) -> int | None:
        page = self._finger
        return page if page in self.pages and page in range(first, first + count) else None

    def _parameters(self) -> bytes:
        words = [0, 9, self.capacity, 3, self.address >> 16, self.address & 0xFFFF, 2]
        return bytes((OK,)) + b"".join(
            word.to_bytes(2, "big") for word in (*words, self.baud // 9600)
        )

    async def _identify(self, arguments: bytes) -> None:
        """A run of command 32, in the layout of the module."""
        if self.layout == "r503":
            first, count = arguments[1], arguments[2]
            interim, result = [b"\x01", b"\x02"], b"\x03"
        else:
            wanted = int.from_bytes(arguments[1:3], "big")
            first, count = (0, self.capacity) if wanted == 0xFFFF else (wanted, 1)
            interim, result = [b"\x01"], b"\x05"
            if not arguments[4] & 4:
                await self._acknowledge(b"\x00\x00" + bytes(4))
            else:
                interim = []
        self.spans.append((first, count))
        stale = self.stale_page.to_bytes(2, "big") + bytes(2)
        waiting = asyncio.create_task(self.until(lambda: self._present))
        pausing = asyncio.ensure_future(self._sleep(self.auto_patience))
        try:
            await asyncio.wait((waiting, pausing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            pausing.cancel()
        if not self._present:
            final = bytes((TIMED_OUT,)) + b"\x01" + stale
        else:
            for step in interim:
                await self._acknowledge(b"\x00" + step + stale)
            page = self._lookup(first, count)
            if page is None:
                code = NOT_FOUND if self.pages else self.empty_code
                final = bytes((code,)) + result + stale
            else:
                final = b"\x00" + result + page.to_bytes(2, "big") + self.score.to_bytes(2, "big")
            self.searches += 1
        self._auto = None
        await self._acknowledge(final)
        self._changed.set()

    def _end_auto(self) -> None:
        if self._auto is not None:
            self._auto.cancel()
            self._auto = None

    async def _acknowledge(self, content: bytes) -> None:
        late, self.late_next = self.late_next, 0.0
        if late:
            await self._sleep(late)
        told = packet(content, self.address)
        if self.corrupt_next > 0:
            self.corrupt_next -= 1
            told = told[:-1] + bytes((told[-1] ^ 0x40,))
        told = self.chatter + told + self.behind
        step = self.fragment or len(told)
        for at in range(0, len(told), step):
            self._put(told[at : at + step])
            await asyncio.sleep(0)

    def _put(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)
        elif self._master >= 0:
            with suppress(OSError):
                os.write(self._master, data)
