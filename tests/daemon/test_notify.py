from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon import notify
from daemon.notify import Notifier


class Manager:
    """The service manager's end of the notification socket, and what it tells a service of it."""

    def __init__(self, listening: socket.socket, address: str) -> None:
        self.listening = listening
        self.environment = {"NOTIFY_SOCKET": address}
        self.notifier = Notifier(self.environment)

    def hears(self) -> bytes:
        return self.listening.recv(4096)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        address = named = str(tmp_path / "notify")
    else:
        named = f"@hallwatch-test-{os.getpid()}"
        address = "\0" + named[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield Manager(listening, named)


@pytest.mark.parametrize(
    ("tell", "datagram"),
    [
        (lambda it: it.ready(), "READY=1"),
        (lambda it: it.ready("3 台设备"), "READY=1\nSTATUS=3 台设备"),
        (lambda it: it.ready("one\nSTOPPING=1"), "READY=1\nSTATUS=one STOPPING=1"),
        (lambda it: it.stopping(), "STOPPING=1"),
        (lambda it: it.stopping("saving"), "STOPPING=1\nSTATUS=saving"),
        (lambda it: it.watchdog(), "WATCHDOG=1"),
    ],
)
def test_a_state_is_one_datagram_of_lines(
    manager: Manager, tell: Callable[[Notifier], bool], datagram: str
) -> None:
    assert tell(manager.notifier)
    assert datagram.encode() == manager.hears()


def test_reloading_says_since_when_by_the_monotonic_clock(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    assert manager.notifier.reloading()

    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading, since = manager.hears().decode().split("\n")
    name, microseconds = since.split("=")
    assert (reloading, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(microseconds) <= after


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"])
def test_nothing_is_sent_where_no_manager_listens(address: str | None) -> None:
    environment = {} if address is None else {"NOTIFY_SOCKET": address}

    assert not Notifier(environment).ready()


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    for address in (tmp_path / "gone", "/" + "x" * 200):
        assert not Notifier({"NOTIFY_SOCKET": str(address)}).watchdog()


def test_a_manager_that_does_not_read_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "full"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})

        # How many datagrams fit is the system's choice; at some number it is full.
        sent = next(count for count in range(100_000) if not notifier.watchdog())

    assert sent > 0


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_time_is_known_to_the_process_it_is_meant_for(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert seconds == Notifier(environment).watchdog_seconds()


def test_the_manager_sees_which_process_spoke(manager: Manager) -> None:
    """A manager believes only the service's own process; the environment is the real one here."""
    manager.listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    code = "from daemon.notify import Notifier; assert Notifier().ready()"
    root = Path(__file__).parents[2]
    environment = {**os.environ, **manager.environment}
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment) as child:
        data, ancillary, _, _ = manager.listening.recvmsg(4096, socket.CMSG_SPACE(12))

    ((_, kind, credentials),) = ancillary
    assert (data, kind) == (b"READY=1", socket.SCM_CREDENTIALS)
    assert child.pid == int.from_bytes(credentials[:4], sys.byteorder)
