"""A real broker for the tests of deliveries."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A mosquitto process that can be killed and started again on the same port.  It keeps nothing
    on the disk, so retained messages are lost with it."""

    def __init__(self, folder: Path, lines: list[str]) -> None:
        self.port = free_port()
        self._settings = folder / f"mosquitto-{self.port}.conf"
        self._log = folder / f"mosquitto-{self.port}.log"
        text = [
            "per_listener_settings false",
            f"user {getpass.getuser()}",
            "persistence false",
            "set_tcp_nodelay true",
            f"listener {self.port} 127.0.0.1",
            *(lines or ["allow_anonymous true"]),
        ]
        self._settings.write_text("\n".join(text) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._settings)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, self.log()
                time.sleep(0.01)
            else:
                return
        raise AssertionError(f"mosquitto does not listen: {self.log()}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """``start_mosquitto(*lines)`` starts one with these lines in its settings, besides a listener
    on a free port; without any, everybody may connect."""
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.fail("these tests need mosquitto: apt-get install mosquitto mosquitto-clients")
    started: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        broker = Mosquitto(tmp_path, list(lines))
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def mosquitto(start_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A broker that lets everybody in, on ``mosquitto.port``."""
    return start_mosquitto()
