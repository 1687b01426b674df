"""A real Mosquitto, a listener in a process of its own, and the bare way through the broker."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A broker with TCP_NODELAY on a free port; ended by its process id."""
    port = free_port()
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"user {getpass.getuser()}\npersistence false\nset_tcp_nodelay true\n"
        f"max_queued_messages 0\nmax_inflight_messages 0\n"
        f"listener {port} 127.0.0.1\nallow_anonymous true\n"
    )
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=log)
    try:
        wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port: int, limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


Heard = list[tuple[float, str, bytes]]
"""``(time.monotonic() of the arrival, topic, payload)``."""


class Listener:
    """A subscriber in another process; ``close`` gives what it heard."""

    def __init__(self, folder: Path, port: int, topic: str) -> None:
        self._path = folder / f"heard-{time.monotonic_ns()}"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "brokers.py"), str(port), topic, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the listener could not subscribe")

    def close(self, quiet: float = 0.5) -> Heard:
        """Ends it once nothing has come for ``quiet`` seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{quiet}\n".encode())
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return msgspec.msgpack.decode(self._path.read_bytes(), type=Heard)


def connect(port: int, name: str) -> socket.socket:
    """MQTT 3.1.1 by hand: as little as possible between the clock and the broker."""
    wire = socket.create_connection(("127.0.0.1", port), 10)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    told = b"\x00\x04MQTT\x04\x02\x00\x00" + _text(name)
    wire.sendall(b"\x10" + bytes([len(told)]) + told)
    if wire.recv(4) != b"\x20\x02\x00\x00":
        raise ConnectionError("the broker refused")
    return wire


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _length(size: int) -> bytes:
    told = bytearray()
    while True:
        size, digit = divmod(size, 128)
        told.append(digit | (128 if size else 0))
        if not size:
            return bytes(told)


def subscribe(wire: socket.socket, topic: str) -> None:
    told = b"\x00\x01" + _text(topic) + b"\x00"
    wire.sendall(b"\x82" + _length(len(told)) + told)
    if wire.recv(5)[0] != 0x90:
        raise ConnectionError("the broker refused the subscription")


def publish_packet(topic: str, payload: bytes, number: int) -> bytes:
    """QoS 1."""
    told = _text(topic) + number.to_bytes(2, "big") + payload
    return b"\x32" + _length(len(told)) + told


def messages(buffer: bytearray) -> Iterator[tuple[str, bytes]]:
    """Whole messages at the beginning of ``buffer``, which are taken out of it."""
    at = 0
    while True:
        size = shift = 0
        place = at + 1
        while place < len(buffer) and shift < 28:
            size |= (buffer[place] & 127) << shift
            shift += 7
            place += 1
            if buffer[place - 1] < 128:
                break
        else:
            break
        if place + size > len(buffer):
            break
        if buffer[at] >> 4 == 3:
            name = int.from_bytes(buffer[place : place + 2], "big")
            begin = place + 2 + name + (2 if buffer[at] & 6 else 0)
            topic = buffer[place + 2 : place + 2 + name].decode()
            yield topic, bytes(buffer[begin : place + size])
        at = place + size
    del buffer[:at]


def broker_latencies(folder: Path, port: int, rate: int, payload: int, lasts: float) -> list[float]:
    """Seconds from writing a message (QoS 1) to its arrival in another process, sorted."""
    listener = Listener(folder, port, "bare/#")
    wire = connect(port, f"bare{time.monotonic_ns()}")
    wire.settimeout(0)
    filler = b" " * payload
    begin = time.monotonic()
    number = 0
    while number < rate * lasts:
        early = begin + number / rate - time.monotonic()
        if early > 0:
            time.sleep(early)
        number += 1
        packet = publish_packet("bare/x", b"%.9f" % time.monotonic() + filler, number % 65_535 + 1)
        wire.settimeout(10)
        wire.sendall(packet)
        wire.settimeout(0)
        try:
            wire.recv(65_536)
        except BlockingIOError:
            pass
    heard = listener.close()
    wire.close()
    return sorted(at - float(told[: told.index(b" ")]) for at, _, told in heard)


def _listen(port: int, topic: str, path: str) -> None:
    import select

    wire = connect(port, f"listener{os.getpid()}")
    subscribe(wire, topic)
    print("ready", flush=True)
    poller = select.poll()
    poller.register(wire, select.POLLIN)
    poller.register(0, select.POLLIN)
    heard: Heard = []
    buffer = bytearray()
    quiet: float | None = None
    while True:
        events = dict(poller.poll(None if quiet is None else quiet * 1000))
        if not events:
            break
        if wire.fileno() in events:
            told = wire.recv(1 << 18)
            now = time.monotonic()
            if not told:
                break
            buffer += told
            heard += [(now, *message) for message in messages(buffer)]
        if 0 in events:
            quiet = float(sys.stdin.readline() or "0.5")
            poller.unregister(0)
    Path(path).write_bytes(msgspec.msgpack.encode(heard))


if __name__ == "__main__":
    _listen(int(sys.argv[1]), sys.argv[2], sys.argv[3])
