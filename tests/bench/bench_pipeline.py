"""Punches in, messages out: how many a second, and how soon after the acknowledgement."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
from bench_journal import flush_times, one_row_commits
from brokers import Heard, Listener, broker_latencies, free_port, mosquitto
from halls import PUNCH_MINUTES, ZONE, code, push_table, terminal_table, write_settings
from rows import Row, at_least, at_most, per_second, percentile, seconds

from config.load import Hall, load
from daemon.app import App
from daemon.clock import Clock
from daemon.database import FILE_NAME, open_writer
from daemon.journal import Journal
from rules.model import (
    MINUTE,
    ClockCheck,
    DaemonAlive,
    DaemonStarted,
    Instant,
    Link,
    Punch,
    Reading,
    reading_id,
)
from rules.workdays import local_midnight

WORK_DATE = date(2026, 3, 3)
TERMINALS = 8
RUSH = local_midnight(WORK_DATE, ZONE) + (18 * 60 + 4) * MINUTE + 30_000
BEGIN = RUSH + 30_000
RATES = (100, 1000, 5000)
LASTS = 2.0
"""Seconds at each rate."""
DRAIN = 20.0
"""Seconds after which what was not published yet is given up."""


class Rush(Clock):
    """Runs, from 18:05 of the work date on: people go home."""

    def __init__(self) -> None:
        self._shift = BEGIN - super().now()

    def now(self) -> Instant:
        return super().now() + self._shift


def write_morning(hall: Hall, people: int) -> None:
    """Journal what came before: terminals in contact and in step, everybody's first three punches,
    in time."""
    connection = open_writer(hall.state_dir / FILE_NAME)
    journal = Journal(connection, hall.zone)
    midnight = local_midnight(WORK_DATE, ZONE)
    begin = [Reading("hallwatch", midnight, DaemonStarted("bench"))]
    for one in hall.devices:
        begin += [Reading(one.id, midnight, Link(True)), Reading(one.id, midnight, ClockCheck())]
    devices = [one.id for one in hall.devices]
    told: list[tuple[Sequence[Reading], Instant]] = [(begin, midnight)]
    for minute in PUNCH_MINUTES[:3]:
        for n in range(people):
            at = midnight + minute * MINUTE + n
            punch = Punch(code(n), 1, 0, True)
            told.append(([Reading(devices[n % len(devices)], at, punch)], at + 500))
    told.append(([Reading("hallwatch", BEGIN - 1_000, DaemonAlive())], BEGIN - 1_000))
    connection.execute("BEGIN")
    journal.append(told)
    connection.execute("COMMIT")
    connection.close()


class _Day(msgspec.Struct):
    slots: list[dict[str, Any]] = []
    strays: list[str] = []


_event = msgspec.json.Decoder(_Day)


def readings_told(payload: bytes) -> set[str]:
    """The ids of the readings that a message of a person's day rests on."""
    day = _event.decode(payload)
    return {*day.strays, *(one for slot in day.slots for one in slot["evidence"])}


class Daemon:
    """hallwatch in this process, in its own thread and event loop, as ``hallwatch run`` has it."""

    def __init__(self, folder: Path, broker: int, people: int, push_port: int = 0) -> None:
        devices = [terminal_table(n, port=1 + n) for n in range(TERMINALS)]
        if push_port:
            devices = [push_table(n, push_port) for n in range(TERMINALS)]
        hall = load(write_settings(folder, people, WORK_DATE, broker=broker, devices=devices))
        write_morning(hall, people)
        self.app = App(hall, Rush())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.app.start(), self._loop).result()
        now = self.app.clock.now()
        self.app.pipeline.submit(
            [
                Reading(one.id, now, body)
                for one in hall.devices
                for body in (Link(True), ClockCheck())
            ],
            lambda _: None,
        )
        self.settle()

    def settle(self) -> None:
        """Everything judged and published."""
        self.app.pipeline.settle().result()
        deadline = time.monotonic() + DRAIN
        outbox = self.app.outbox
        assert outbox is not None
        while time.monotonic() < deadline:
            if outbox.state()[0].cursor >= self.app.pipeline.store.head:
                return
            time.sleep(0.005)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.app.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def running(folder: Path, broker: int, people: int, push_port: int = 0) -> Iterator[Daemon]:
    daemon = Daemon(folder, broker, people, push_port)
    yield daemon
    daemon.stop()


def punches(people: int, number: int) -> list[Reading]:
    """All within half a minute, no two alike."""
    turns = -(-number // people)
    return [
        Reading(
            f"t{n % TERMINALS}",
            RUSH + n // people * 30_000 // turns + n % people % 97,
            Punch(code(n % people), 1, 0, True),
        )
        for n in range(number)
    ]


def feed(daemon: Daemon, told: list[Reading], window: int) -> dict[str, float]:
    """Hand over one reading at a time with at most ``window`` unacknowledged; returns when each
    was acknowledged."""
    places = threading.Semaphore(window)
    acknowledged: dict[str, float] = {}

    def submit(reading: Reading) -> None:
        name = reading_id(reading).hex()

        def done(_: int | BaseException) -> None:
            acknowledged[name] = time.monotonic()
            places.release()

        daemon.app.pipeline.submit((reading,), done)

    for reading in told:
        places.acquire()
        submit(reading)
    for _ in range(window):
        places.acquire()
    return acknowledged


def sustained(folder: Path, broker: int, people: int, number: int) -> float:
    """Punches a second, from the first one handed over until the last message has arrived."""
    with running(folder, broker, people) as daemon:
        told = punches(people, number)
        listener = Listener(folder, broker, "hall/bench/attendance/event")
        begin = time.monotonic()
        feed(daemon, told, 4_000)
        daemon.settle()
        heard = listener.close()
    check_all_told(told, heard)
    return number / (heard[-1][0] - begin)


def check_all_told(told: list[Reading], heard: Heard) -> None:
    """The last message of every person knows every punch of theirs."""
    last: dict[bytes, bytes] = {}
    for _, _, payload in heard:
        begin = payload.index(b'"person_code":"') + 15
        last[payload[begin : payload.index(b'"', begin)]] = payload
    known = {one for payload in last.values() for one in readings_told(payload)}
    missing = {reading_id(reading).hex() for reading in told} - known
    if missing:
        raise AssertionError(f"{len(missing)} of {len(told)} punches are in no message")


def through_push(folder: Path, broker: int, people: int, number: int) -> float:
    """The same with terminals in another process that send one punch in each request."""
    port = free_port()
    with running(folder, broker, people, push_port=port) as daemon:
        listener = Listener(folder, broker, "hall/bench/attendance/event")
        begin = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, str(port), str(people), str(number)], check=True, timeout=60
        )
        daemon.settle()
        heard = listener.close()
    return number / (heard[-1][0] - begin)


def latencies(folder: Path, broker: int, people: int, rate: int) -> tuple[list[float], int]:
    """Sorted seconds from the acknowledgement of a punch to the first message that knows it; and
    how many were never told."""
    with running(folder, broker, people) as daemon:
        told = punches(people, int(rate * LASTS))
        listener = Listener(folder, broker, "hall/bench/attendance/event")
        acknowledged: dict[str, float] = {}
        answers: queue.SimpleQueue[None] = queue.SimpleQueue()

        def submit(reading: Reading) -> None:
            name = reading_id(reading).hex()

            def done(_: int | BaseException) -> None:
                acknowledged[name] = time.monotonic()
                answers.put(None)

            daemon.app.pipeline.submit((reading,), done)

        begin = time.monotonic()
        for number, reading in enumerate(told):
            early = begin + number / rate - time.monotonic()
            if early > 0:
                time.sleep(early)
            submit(reading)
        for _ in told:
            answers.get()
        daemon.settle()
        heard = listener.close()
    found: dict[str, float] = {}
    for at, _, payload in heard:
        for one in readings_told(payload):
            found.setdefault(one, at)
    took = sorted(max(0.0, found[n] - at) for n, at in acknowledged.items() if n in found)
    return took, len(told) - len(took)


def measure(folder: Path) -> Iterator[Row]:
    with mosquitto(folder) as broker:
        yardstick = one_row_commits(folder)
        told = f"SQLite FULL {per_second(yardstick)}"
        rate = sustained(folder / "hall", broker, 250, 20_000)
        yield at_least(
            4, "judged, durable, published: a hall of 250, 80 punches each", per_second(rate), told,
            rate / yardstick,
        )  # fmt: skip
        rate = sustained(folder / "crowd", broker, 4_000, 4_000)
        yield Row(
            "the same where every punch is another person's day", per_second(rate), told,
            rate / yardstick,
        )  # fmt: skip
        rate = through_push(folder / "push", broker, 250, 4_000)
        yield Row(
            f"the same through PUSH, {TERMINALS} terminals, one punch a request",
            per_second(rate), told, rate / yardstick,
        )  # fmt: skip
        flushes = flush_times(folder)
        for each in RATES:
            took, lost = latencies(folder / f"at{each}", broker, 1_000, each)
            bare = broker_latencies(folder, broker, each, 1_500, 1.0)
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                ours = percentile(took, share)
                floor = percentile(flushes, share) + percentile(bare, share)
                what = f"acknowledged to alert on MQTT at {each:,}/s, {name}"
                if lost:
                    what += f" ({lost} never told)"
                reference = f"{seconds(floor)} fdatasync + broker"
                if name == "p99" and each < 1000:
                    yield Row(what, seconds(ours), reference, ours / floor)
                else:
                    yield at_most(3, what, seconds(ours), reference, ours / floor)


async def _push(port: int, people: int, number: int) -> None:
    """Terminals that send as soon as they are answered."""

    async def terminal(place: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(number // TERMINALS):
            one = turn * TERMINALS + place
            wall = datetime(2026, 3, 3, 18, 4, 30 + one // people)  # noqa: DTZ001
            body = f"{code(one % people)}\t{wall}\t0\t1\t0\t0\t0\n".encode()
            writer.write(
                f"POST /iclock/cdata?SN=BENCH{place:05}&table=ATTLOG&Stamp={turn} HTTP/1.1\r\n"
                f"Host: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    await asyncio.gather(*(terminal(place) for place in range(TERMINALS)))


if __name__ == "__main__":
    asyncio.run(_push(*map(int, sys.argv[1:])))
