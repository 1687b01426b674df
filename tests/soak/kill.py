"""The real daemon, killed again and again, must lose nothing.

``hallwatch run`` watches two terminals that push and two that are asked (one over UDP), all punched
at without a pause, and delivers to a real Mosquitto.  It gets SIGKILL at random moments, now and
then while it is still starting; Mosquitto is stopped and started meanwhile.  Right after each kill,
and at the end, this is checked:

- each punch that was acknowledged to a pushing terminal is in the journal, once;
- each punch in a polled terminal's log is there after the last catch-up, once;
- each change of attendance, violations and alerts reached an MQTT subscriber at least once, always
  under the same id and with the same content, and no id stands for two changes;
- ``hallwatch replay --verify`` finds no difference.

Run it by ``tests/soak/kill.py --kills N``.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from config.load import load
from daemon.control import Request, ask
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from rules.model import HOUR, GapExplained
from rules.workdays import local_midnight

_EAST = 12 - datetime.now(UTC).hour
ZONE = ZoneInfo(f"Etc/GMT{-_EAST:+d}")
"""Where it is about noon now, so that no date ends during the run."""
PEOPLE = [str(number) for number in range(3001, 3061)]
STRANGER = "9999"
HALLWATCH = Path(sys.executable).with_name("hallwatch")
TOPICS = ("attendance", "violation", "alert")
PATIENCE = 90.0
"""Seconds in which what has queued must have come through at the end."""

Known = tuple[str, str, int]
"""Device, person, device time (ms): what identifies a punch here, where all verify alike."""


@dataclass
class Figures:
    """What was done and what came of it; the lists name what is wrong."""

    kills: int = 0
    early_kills: int = 0
    """Kills of a daemon that had not said yet that it is ready."""
    broker_stops: int = 0
    pushed: int = 0
    polled: int = 0
    unanswered: int = 0
    """Requests of pushing terminals that got no good answer; they sent the same again."""
    checked_after_kills: int = 0
    """Acknowledged punches looked for in the journal right after a kill, all kills together."""
    changes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    events: int = 0
    lost_punches: list[str] = field(default_factory=list)
    double_punches: list[str] = field(default_factory=list)
    lost_events: list[str] = field(default_factory=list)
    wrong_events: list[str] = field(default_factory=list)
    verify: str = ""
    """What ``replay --verify`` said; empty if it found nothing."""

    @property
    def good(self) -> bool:
        wrong = self.lost_punches or self.double_punches or self.lost_events or self.wrong_events
        return not (wrong or self.verify)

    def table(self) -> str:
        rows = (
            ("kills", self.kills),
            ("  of them before it was ready", self.early_kills),
            ("broker stopped and started", self.broker_stops),
            ("punches pushed and acknowledged", self.pushed),
            ("punches in the logs of polled terminals", self.polled),
            ("requests of theirs without a good answer", self.unanswered),
            ("acknowledged punches looked for after kills", self.checked_after_kills),
            *((f"changes: {kind}", self.changes[kind]) for kind in TOPICS),
            ("events received", self.events),
            ("  repeats", self.events - self.changes.total() + len(self.lost_events)),
            ("punches lost", len(self.lost_punches)),
            ("punches doubled", len(self.double_punches)),
            ("events lost", len(self.lost_events)),
            ("events with an unstable id or content", len(self.wrong_events)),
            ("replay --verify", "found differences" if self.verify else "no differences"),
        )
        return "\n".join(f"{name:<50} {value:>10}" for name, value in rows)


class Broker:
    """A mosquitto that keeps sessions and queued messages over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self._settings.write_text(
            f"user {getpass.getuser()}\nlistener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence true\npersistence_location {folder}/\nmax_queued_messages 0\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._settings)], stdout=log, stderr=log
            )

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


class Subscriber:
    """Keeps every event it is told, over a session that survives broken connections."""

    def __init__(self, port: int) -> None:
        self.heard: dict[int, set[tuple[str, bytes]]] = {}
        """``(id, payload)`` by the number of the change."""
        self.kinds: dict[int, str] = {}
        self.count = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2, "soak", clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
        )  # fmt: skip
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe("hall/+/+/event", 1)
        self._client.connect_async("127.0.0.1", port, 10)
        self._client.loop_start()

    def _hear(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        told = msgspec.json.decode(message.payload)
        self.count += 1
        self.kinds[told["seq"]] = message.topic.split("/")[2]
        self.heard.setdefault(told["seq"], set()).add((told["id"], bytes(message.payload)))

    def connected(self) -> bool:
        return self._client.is_connected()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Daemon:
    """The process, and the terminals' side of it."""

    def __init__(self, settings: Path) -> None:
        self._settings = settings
        self._log = settings.with_name("daemon.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._said = 0

    def start(self) -> None:
        self._said = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(HALLWATCH), "run", "-c", str(self._settings)], stdout=log, stderr=log
            )

    def ready(self) -> bool:
        with self._log.open("rb") as log:
            log.seek(self._said)
            return b"started" in log.read()

    def end(self, number: signal.Signals) -> int:
        """Its exit code; raises when it had ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the daemon ended by itself ({process.returncode}):\n{tail}")
        process.send_signal(number)
        return process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wall() -> datetime:
    return datetime.now(ZONE).replace(tzinfo=None)


def write_settings(
    folder: Path, polled: dict[str, ZkTerminal], pushing: dict[str, PushTerminal], broker: int
) -> Path:
    """One segment that began an hour ago: everybody is late, until an older punch comes."""
    now = wall()
    today = now.date()
    starts, ends = now - timedelta(hours=1), now + timedelta(hours=4)
    lines = [
        f'[hall]\nid = "soak"\nname = "压力大厅"\nzone = "{ZONE.key}"\ntimetable = "now"\n',
        '[[timetables]]\nname = "now"\n[[timetables.versions]]\n[[timetables.versions.segments]]\n'
        f'name = "all"\nstarts = "{starts:%H:%M}"\nends = "{ends:%H:%M}"\nserious = 1440\n'
        "absent = 1440\n",
        f'[[sinks]]\ntype = "mqtt"\nname = "main"\nhost = "127.0.0.1"\nport = {broker}\n',
        '[api]\nport = 0\n[storage]\nstate_dir = "state"\n',
    ]
    for day in (today, today + timedelta(days=1)):
        lines.append(f'[[calendar.overrides]]\ndate = {day}\nkind = "workday"\n')
    lines += [f'[[people]]\ncode = "{code}"\nname = "员工{code}"\n' for code in PEOPLE]
    for name, terminal in polled.items():
        lines.append(
            f'[[devices]]\nid = "{name}"\ndriver = "zkteco"\nhost = "127.0.0.1"\n'
            f'port = {terminal.port}\nprotocol = "{terminal.transport}"\n'
            f"keepalive_s = 1\nsizes_s = 2\ncatch_up_s = 4\n"
        )
    for name, pusher in pushing.items():
        lines.append(
            f'[[devices]]\nid = "{name}"\ndriver = "zk_push"\nserial = "{pusher.serial}"\n'
            f"port = {pusher.server[1]}\ndelay = 2\n"
        )
    path = folder / "soak.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


class Soak:
    """Everything together."""

    def __init__(self, folder: Path, seed: int, show: Callable[[str], None]) -> None:
        self.figures = Figures()
        self._folder = folder
        self._rng = random.Random(seed)
        self._show = show
        self._broker = Broker(folder)
        port = free_port()
        users = [ZkUser(n, code) for n, code in enumerate(PEOPLE, 1)]
        self._polled = {
            "tcp": ZkTerminal("SOAK00000001", clock=wall, users=users, transport="tcp"),
            "udp": ZkTerminal(
                "SOAK00000002", clock=wall, users=users, transport="udp", record_layout=16
            ),
        }
        self._pushing = {
            f"push{number}": PushTerminal(
                f"SOAK0000000{number}", ("127.0.0.1", port), clock=wall,
                users=[PushUser(code) for code in PEOPLE], follows_server_clock=False,
                delay=1, error_delay=0.3, batch=20,
            )
            for number in (3, 4)
        }  # fmt: skip
        for terminal in self._polled.values():
            terminal.ack_wait = 1.0
        self._database = folder / "state" / "hallwatch.db"
        self._told: set[asyncio.Task[bool]] = set()
        self._broker_is_down = False

    async def run(self, kills: int) -> Figures:
        for terminal in self._polled.values():
            await terminal.start()
        settings = write_settings(self._folder, self._polled, self._pushing, self._broker.port)
        daemon = Daemon(settings)
        self._explain_the_past(settings)
        self._broker.start()
        subscriber = Subscriber(self._broker.port)
        await self._wait_for(subscriber.connected, "the subscriber's connection")
        for pusher in self._pushing.values():
            await pusher.start()
        crowd = asyncio.create_task(self._crowd())
        try:
            await self._kill_often(daemon, kills)
            crowd.cancel()
            await asyncio.wait([crowd])
            if self._told:
                await asyncio.wait(self._told)
            self._show("quiet now; waiting for the rest")
            if self._broker_is_down:
                self._broker.start()
            daemon.start()
            await self._settle(subscriber)
            daemon.end(signal.SIGTERM)
            self._check_at_the_end(subscriber)
            self._verify(settings)
        finally:
            crowd.cancel()
            with suppress(RuntimeError):
                daemon.end(signal.SIGKILL)
            subscriber.close()
            self._broker.stop()
            for terminal in self._polled.values():
                await terminal.stop()
            for pusher in self._pushing.values():
                await pusher.stop()
        return self.figures

    def _explain_the_past(self, settings: Path) -> None:
        """Nobody was watching before now: without somebody's word the past hour accuses nobody."""
        now = time.time_ns() // 1_000_000
        gaps = tuple(
            GapExplained(device, now - 3 * HOUR, now + HOUR, usable=True, by="soak")
            for device in (*self._polled, *self._pushing)
        )
        answer = ask(load(settings), Request("record", "api", gaps))
        assert answer.count == len(gaps), answer.error

    async def _kill_often(self, daemon: Daemon, kills: int) -> None:
        rng = self._rng
        for number in range(1, kills + 1):
            daemon.start()
            if rng.random() < 0.15:
                await asyncio.sleep(rng.uniform(0.1, 1.5))
            else:
                await self._wait_for(daemon.ready, "the daemon's start")
                await asyncio.sleep(rng.uniform(0.0, 4.0))
            if number % 5 == 2:
                self._broker.stop()
                self._broker_is_down = True
                await asyncio.sleep(rng.uniform(0.0, 1.0))
            elif self._broker_is_down:
                self._broker.start()
                self._broker_is_down = False
                self.figures.broker_stops += 1
                await asyncio.sleep(rng.uniform(0.0, 2.0))
            if number % 3 == 0:
                # Beyond what is believed, and right again: alerts come and go.
                self._polled["tcp"].set_clock_offset(400 * (number % 2))
            self.figures.early_kills += not daemon.ready()
            daemon.end(signal.SIGKILL)
            self.figures.kills += 1
            await asyncio.sleep(0.1)  # an answer may still be on its way to a terminal
            self._check_after_a_kill()
            self._show(
                f"kill {number} of {kills}, {self.figures.checked_after_kills} punches looked for, "
                f"{len(self.figures.lost_punches)} lost"
            )

    async def _crowd(self) -> None:
        """Punches without a pause; nobody twice in a second at one terminal."""
        rng = self._rng
        used: dict[str, tuple[datetime, set[str]]] = {}
        terminals: dict[str, ZkTerminal | PushTerminal] = {**self._polled, **self._pushing}
        while True:
            name = rng.choice(list(terminals))
            terminal = terminals[name]
            second = wall().replace(microsecond=0)
            since, people = used.get(name, (second, set()))
            if since != second:
                people = set()
            code = STRANGER if rng.random() < 0.01 else rng.choice(PEOPLE)
            used[name] = (second, people | {code})
            if code not in people:
                if isinstance(terminal, PushTerminal):
                    if rng.random() < 0.1:  # from its log of before; some were in time
                        second -= timedelta(seconds=rng.randint(120, 3700))
                    terminal.record(code, second)
                else:
                    task = asyncio.create_task(terminal.punch(code, second))
                    self._told.add(task)
                    task.add_done_callback(self._told.discard)
            await asyncio.sleep(rng.expovariate(60))

    async def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come in {PATIENCE:.0f} s")
            await asyncio.sleep(0.02)

    # -- looking

    def _acknowledged(self) -> set[Known]:
        return {
            (name, row.user_id, instant(row.at))
            for name, pusher in self._pushing.items()
            for row in pusher.records[: len(pusher.records) - pusher.unacknowledged]
        }

    def _in_logs(self) -> set[Known]:
        return {
            (name, row.user_id, instant(row.at))
            for name, terminal in self._polled.items()
            for row in terminal.records
            if isinstance(row.at, datetime)
        }

    def _journalled(self) -> Counter[Known]:
        """The punches in the journal, read from a copy: the next start finds the files as the dead
        process left them."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            for suffix in ("", "-wal"):
                part = self._database.with_name(self._database.name + suffix)
                if part.exists():
                    shutil.copy(part, folder)
            with closing(sqlite3.connect(Path(folder) / self._database.name)) as connection:
                try:
                    rows = connection.execute(
                        "SELECT device, person, at FROM reading WHERE kind = 'punch'"
                    ).fetchall()
                except sqlite3.OperationalError:  # killed before it made its tables
                    rows = []
                assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return Counter((device, person, at) for device, person, at in rows)

    def _check_after_a_kill(self) -> None:
        journalled = self._journalled() if self._database.exists() else Counter[Known]()
        self._compare(self._acknowledged(), journalled)

    def _compare(self, expected: set[Known], journalled: Counter[Known]) -> None:
        self.figures.checked_after_kills += len(expected)
        known = set(self.figures.lost_punches)
        for lost in sorted(expected - journalled.keys()):
            if str(lost) not in known:
                self.figures.lost_punches.append(str(lost))
        self.figures.double_punches += [
            str(punch) for punch, times in journalled.items() if times > 1
        ]

    async def _settle(self, subscriber: Subscriber) -> None:
        """Until nothing is under way any more, or patience ends: then the checks will tell."""
        deadline = time.monotonic() + PATIENCE
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(pusher.delivered() for pusher in self._pushing.values()))
        logs = self._in_logs()
        quiet = 0
        while time.monotonic() < deadline and quiet < 4:
            await asyncio.sleep(0.5)
            with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as reader:
                found = set(
                    reader.execute("SELECT device, person, at FROM reading WHERE kind = 'punch'")
                )
                changes = set(_changes(reader))
            quiet = quiet + 1 if logs <= found and changes <= subscriber.heard.keys() else 0

    def _check_at_the_end(self, subscriber: Subscriber) -> None:
        figures = self.figures
        acknowledged, logs = self._acknowledged(), self._in_logs()
        figures.pushed, figures.polled = len(acknowledged), len(logs)
        figures.unanswered = sum(pusher.failures for pusher in self._pushing.values())
        figures.checked_after_kills -= len(acknowledged | logs)
        self._compare(acknowledged | logs, self._journalled())
        with closing(sqlite3.connect(self._database)) as connection:
            changes = dict(_changes_with_kind(connection))
        figures.changes = Counter(changes.values())
        figures.events = subscriber.count
        figures.lost_events = [
            f"{seq} {kind}" for seq, kind in changes.items() if seq not in subscriber.heard
        ]
        ids: Counter[str] = Counter()
        for seq, told in sorted(subscriber.heard.items()):
            ids.update({id_ for id_, _ in told})
            if len(told) > 1:
                figures.wrong_events.append(f"change {seq} was told in {len(told)} ways")
            if changes.get(seq) != subscriber.kinds[seq]:
                figures.wrong_events.append(f"event {seq} is of no change of its kind")
        figures.wrong_events += [f"id {id_} was used twice" for id_, n in ids.items() if n > 1]

    def _verify(self, settings: Path) -> None:
        done = subprocess.run(
            [str(HALLWATCH), "replay", "-c", str(settings), "--verify"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            self.figures.verify = (
                f"exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-500:]}"
            )


def instant(at: datetime) -> int:
    midnight = local_midnight(date(at.year, at.month, at.day), ZONE)
    return midnight + (at.hour * 3600 + at.minute * 60 + at.second) * 1000


def _changes(connection: sqlite3.Connection) -> Sequence[int]:
    return [seq for seq, _ in _changes_with_kind(connection)]


def _changes_with_kind(connection: sqlite3.Connection) -> Sequence[tuple[int, str]]:
    return connection.execute(
        f"SELECT seq, kind FROM change WHERE kind IN {TOPICS!r} ORDER BY seq"
    ).fetchall()


def run(kills: int, seed: int, folder: Path, show: Callable[[str], None]) -> Figures:
    """Kill the daemon so often; everything it leaves is in ``folder``."""
    return asyncio.run(Soak(folder, seed, show).run(kills))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()

    def show(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="hallwatch-soak-"))
    figures = run(options.kills, options.seed, folder, show)
    print(figures.table())
    wrong = (
        *figures.lost_punches, *figures.double_punches, *figures.lost_events, *figures.wrong_events,
        figures.verify,
    )  # fmt: skip
    for what in wrong[:50]:
        print(what)
    if figures.good:
        shutil.rmtree(folder)
    else:
        print(f"everything is kept in {folder}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
