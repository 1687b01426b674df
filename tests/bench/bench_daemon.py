"""The daemon as a process: its memory, and how soon it works again after a SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from bench_pipeline import readings_told
from brokers import connect, free_port, messages, mosquitto, subscribe
from halls import ZONE, code, push_table, terminal_table, workdays, write_history, write_settings
from rows import Row, limit

from config.load import load
from daemon.clock import Clock
from daemon.database import FILE_NAME, open_reader
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from rules.model import Punch, Reading, reading_id

PEOPLE = 250
TERMINALS = 200
SETTLE = 3.0
"""Seconds after which the memory of a daemon that has everything up is read."""


@contextmanager
def hallwatch(settings: Path, api: int) -> Iterator[subprocess.Popen[bytes]]:
    """``hallwatch run`` until it can take readings; killed in the end."""
    process = start(settings)
    wait_until_ready(process, api)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()


def start(settings: Path) -> subprocess.Popen[bytes]:
    run = "from daemon.__main__ import main; main()"
    return subprocess.Popen([sys.executable, "-c", run, "run", "-c", str(settings)])


def wait_until_ready(process: subprocess.Popen[bytes], api: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if urlopen(f"http://127.0.0.1:{api}/readyz").status == 200:
                return
        except (URLError, ConnectionError):
            time.sleep(0.02)
    raise RuntimeError("hallwatch did not start")


def resident(process: subprocess.Popen[bytes]) -> float:
    """Bytes."""
    time.sleep(SETTLE)
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@contextmanager
def emulated(family: str, port: int) -> Iterator[list[int]]:
    """``TERMINALS`` terminals in another process; their ports, where they listen."""
    process = subprocess.Popen(
        [sys.executable, __file__, family, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield [int(word) for word in process.stdout.readline().split()]
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def wait_until_online(path: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    with closing(open_reader(path)) as connection:
        while time.monotonic() < deadline:
            found = connection.execute(
                "SELECT count(*) FROM device_state WHERE state = 'online'"
            ).fetchone()
            if found[0] >= number:
                return
            time.sleep(0.1)
    raise RuntimeError(f"{found[0]} of {number} terminals are online")


def memory(folder: Path, devices: Sequence[str]) -> float:
    api = free_port()
    settings = write_settings(folder, PEOPLE, today(), api=api, devices=devices)
    with hallwatch(settings, api) as process:
        if devices:
            wait_until_online(folder / FILE_NAME, len(devices))
        return resident(process)


def today() -> date:
    return datetime.fromtimestamp(Clock().now() / 1000, ZONE).date()


def measure(folder: Path) -> Iterator[Row]:
    rest = memory(folder / "rest", ())
    note = f"{PEOPLE} people, API on, no devices"
    yield limit("memory at rest", rest / 1e6, 75, "MB", note)
    with emulated("zkteco", 0) as ports:
        tables = [terminal_table(n, port=port) for n, port in enumerate(ports)]
        asked = memory(folder / "asked", tables)
    few = memory_with_one_pusher(folder / "pushed1")
    port = free_port()
    with emulated("zk_push", port):
        tables = [push_table(n, port) for n in range(TERMINALS)]
        pushed = memory(folder / "pushed", tables)
    note = f"({TERMINALS} emulated ones in another process)"
    yield limit(
        f"memory of a terminal that is asked {note}", (asked - rest) / TERMINALS / 1e3, 100, "kB"
    )
    yield limit(
        f"memory of a terminal that pushes {note}",
        (pushed - few) / (TERMINALS - 1) / 1e3,
        100,
        "kB",
    )
    yield from first_decision(folder)


def memory_with_one_pusher(folder: Path) -> float:
    """The listener itself is not a terminal's share."""
    port = free_port()
    with emulated("zk_push", port):
        return memory(folder, [push_table(0, port)])


# --------------------------------------------------------------------------------------------
# After a SIGKILL
# --------------------------------------------------------------------------------------------

HISTORY = 1_000_000


def write_long_history(settings: Path) -> int:
    """A year of ``PEOPLE`` people by the journal, repeated by SQL at other dates until there are
    ``HISTORY`` punches; told to be judged already."""
    hall = load(settings)
    assert hall.start_date is not None
    written = write_history(hall, workdays(hall, hall.start_date, 10), PEOPLE)
    with closing(sqlite3.connect(hall.state_dir / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        days = 14
        while written < HISTORY:
            connection.execute(
                "INSERT INTO reading SELECT NULL, randomblob(16), device, kind, person,"
                " at + :ms, received_at + :ms, event_at + :ms, trust, earliest, day + :days, body,"
                " raw, serial, window, ref FROM reading WHERE person IS NOT NULL AND seq <= :last",
                {"ms": days * 86_400_000, "days": days, "last": 10_200},
            )
            (written,) = connection.execute(
                "SELECT count(*) FROM reading WHERE person IS NOT NULL"
            ).fetchone()
            days += 14
        day = today().toordinal()
        meta = {"settings": hall.settings_hash, "rolled": str(day)}
        (meta["judged_seq"],) = connection.execute(
            "SELECT CAST(max(seq) AS TEXT) FROM reading"
        ).fetchone()
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
        connection.execute("COMMIT")
    return int(written)


def push(port: int, wall: datetime, person: str) -> bool:
    """One punch as a terminal uploads it; whether it was acknowledged."""
    body = f"{person}\t{wall:%Y-%m-%d %H:%M:%S}\t0\t1\t0\t0\t0\n".encode()
    url = f"http://127.0.0.1:{port}/iclock/cdata?SN=BENCH00000&table=ATTLOG&Stamp=1"
    try:
        return urlopen(Request(url, body), timeout=5).read().startswith(b"OK")
    except (URLError, ConnectionError):
        return False


def first_decision(folder: Path) -> Iterator[Row]:
    api, port = free_port(), free_port()
    home = folder / "history"
    start_date = today() - timedelta(days=4 * 365)
    with mosquitto(folder) as broker:
        settings = write_settings(
            home, PEOPLE, start_date, broker=broker, api=api, devices=[push_table(0, port)]
        )
        written = write_long_history(settings)
        with hallwatch(settings, api):
            now = datetime.fromtimestamp(Clock().now() / 1000, ZONE)
            while not push(port, now, code(0)):
                time.sleep(0.05)
        took = [again(settings, port, broker, now + timedelta(seconds=n)) for n in (1, 2, 3)]
    yield limit(
        "first decision on MQTT after SIGKILL, from the start of the process",
        sorted(took)[1], 1.2, "s", f"{written:,} punches of history",
    )  # fmt: skip


def again(settings: Path, port: int, broker: int, wall: datetime) -> float:
    """Seconds from the start of the process until the broker has a message that knows a punch,
    which a terminal tries to upload all the time."""
    person = code(wall.second % PEOPLE)
    at = int(wall.replace(microsecond=0).timestamp() * 1000)
    wanted = reading_id(Reading("p0", at, Punch(person, 1), serial="BENCH00000")).hex()
    wire = connect(broker, f"waiting{time.monotonic_ns()}")
    subscribe(wire, "hall/bench/attendance/event")
    wire.settimeout(30)
    begin = time.monotonic()
    process = start(settings)
    while not push(port, wall, person):
        time.sleep(0.01)
    buffer = bytearray()
    took = 0.0
    while not took:
        told = wire.recv(1 << 16)
        if not told:
            raise ConnectionError("the broker hung up")
        buffer += told
        if any(wanted in readings_told(payload) for _, payload in messages(buffer)):
            took = time.monotonic() - begin
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wire.close()
    return took


# --------------------------------------------------------------------------------------------
# The terminals' process
# --------------------------------------------------------------------------------------------


async def _emulate(family: str, port: int) -> None:
    def wall() -> datetime:
        return datetime.now(ZONE).replace(tzinfo=None)

    codes = [code(n) for n in range(PEOPLE)]
    terminals: list[ZkTerminal] | list[PushTerminal]
    if family == "zkteco":
        users = [ZkUser(n + 1, one, f"演示{n}") for n, one in enumerate(codes)]
        asked = [ZkTerminal(f"BENCH{n:05}", clock=wall, users=users) for n in range(TERMINALS)]
        print(*[await terminal.start() for terminal in asked], flush=True)
        terminals = asked
    else:
        people = [PushUser(one, f"演示{n}") for n, one in enumerate(codes)]
        terminals = pushing = [
            PushTerminal(f"BENCH{n:05}", ("127.0.0.1", port), clock=wall, users=people)
            for n in range(TERMINALS)
        ]
        for terminal in pushing:
            await terminal.start()
        print(flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for one in terminals:
        await one.stop()


if __name__ == "__main__":
    asyncio.run(_emulate(sys.argv[1], int(sys.argv[2])))
