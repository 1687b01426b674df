"""Telling the service manager how we are: systemd's notification protocol.

A state is one datagram of ``NAME=value`` lines to the Unix socket that ``$NOTIFY_SOCKET`` names (a
leading ``@`` stands for the zero byte of an abstract one).  Without the variable nobody listens and
nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

PATIENCE = 1.0
"""Seconds for which a full socket may hold us up; a manager that is well empties it at once."""


class Notifier:
    """The service manager, if there is one.

    Each message returns whether the manager's socket took it, and none raises: the daemon serves on
    when its manager does not listen.  ``status`` is a line for ``systemctl status``.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = _watchdog_seconds(environment)

    def ready(self, status: str = "") -> bool:
        """Started, or done with reloading."""
        return self._send("READY=1", status)

    def reloading(self) -> bool:
        """The settings are being read again; ``ready`` must follow, whatever comes of it."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", status)

    def watchdog(self) -> bool:
        """Alive."""
        return self._send("WATCHDOG=1")

    def watchdog_seconds(self) -> float | None:
        """After how long without ``watchdog`` we are given up; none: never."""
        return self._watchdog

    def _send(self, lines: str, status: str = "") -> bool:
        if not self._address.startswith(("/", "\0")):
            return False
        if status:
            lines += f"\nSTATUS={' '.join(status.split())}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.settimeout(PATIENCE)
                manager.connect(self._address)
                manager.sendall(lines.encode())
        except OSError:
            return False
        return True


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
        addressee = int(environment.get("WATCHDOG_PID") or os.getpid())
    except ValueError:
        return None
    return microseconds / 1_000_000 if microseconds > 0 and addressee == os.getpid() else None
