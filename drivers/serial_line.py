"""A serial line as bytes in and out, for drivers whose device hangs on RS-232, RS-485 or USB.

Chunks are read as they come: ``readline`` and reads of single bytes cost a hundred times more.
"""

from __future__ import annotations

import asyncio
import errno
import os
import termios
from types import TracebackType

import serial

from drivers.base import DeviceLost

CHUNK = 4096
_FORMATS = {
    f"{bits}{parity}{stops}": (bits, parity, stops)
    for bits in (7, 8)
    for parity in "NEO"
    for stops in (1, 2)
}


def line_format(told: str) -> tuple[int, str, int]:
    """``8N1`` as data bits, parity and stop bits; ``ValueError`` with a sentence otherwise."""
    try:
        return _FORMATS[told.upper()]
    except KeyError:
        raise ValueError(
            f"{told!r} is no line format: expected data bits, parity (N, E, O) and stop bits,"
            " such as 8N1"
        ) from None


class SerialLine:
    """One open port, for one task at a time.  ``DeviceLost`` says why it cannot be opened, or that
    the adapter was pulled out."""

    def __init__(self, port: str, baud: int, line: str = "8N1") -> None:
        bits, parity, stops = line_format(line)
        self.port = port
        try:
            self._serial = serial.Serial(
                port, baud, bits, parity, stops, timeout=0, write_timeout=0, exclusive=True
            )
        except (OSError, ValueError, termios.error) as error:
            raise DeviceLost(_why_closed(port, error)) from error
        self._fd: int = self._serial.fileno()

    def __enter__(self) -> SerialLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._serial.close()
        except (OSError, termios.error):
            pass  # Closing what was pulled out.

    async def read(self, timeout: float | None = None) -> bytes:
        """What has come, at least one byte; nothing once ``timeout`` (s) is over."""
        chunk = self._read_now()
        if chunk or (timeout is not None and timeout <= 0) or not await self._ready(timeout):
            return chunk
        chunk = self._read_now()
        if not chunk:
            # Readable without bytes: the other end of the adapter hung up.
            raise DeviceLost(_why_lost(self.port, OSError(errno.EIO, "hung up")))
        return chunk

    async def write(self, data: bytes) -> None:
        """Done when the bytes are with the port; on a slow line they may still be leaving."""
        sent = 0
        while sent < len(data):
            try:
                sent += os.write(self._fd, data[sent:])
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except OSError as error:
                raise DeviceLost(_why_lost(self.port, error)) from error

    def flush_input(self) -> bytes:
        """Take what has come unread, without waiting."""
        taken = b""
        while chunk := self._read_now():
            taken += chunk
        return taken

    def _read_now(self) -> bytes:
        try:
            return os.read(self._fd, CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise DeviceLost(_why_lost(self.port, error)) from error

    async def _ready(self, timeout: float | None) -> bool:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def readable() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._fd, readable)
        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that comes together with a byte.
            async with asyncio.timeout(timeout):
                await ready
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)
        return True


def _why_closed(port: str, error: Exception) -> str:
    told = str(error)
    number = getattr(error, "errno", None)
    if number == errno.ENOENT or "No such file" in told:
        return f"There is no serial port {port}; is the adapter plugged in?"
    if number == errno.EACCES or "Permission denied" in told:
        return f"No permission to open the serial port {port}; add the user to the group dialout."
    if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or "exclusively lock" in told:
        return f"Another program holds the serial port {port}."
    return f"The serial port {port} cannot be opened: {told}"


def _why_lost(port: str, error: OSError) -> str:
    if error.errno in (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF):
        return f"The serial port {port} is gone; was the adapter unplugged?"
    return f"The serial port {port} failed: {error.strerror or error}"
