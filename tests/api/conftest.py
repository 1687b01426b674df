"""A daemon for the API to stand before: a real database with the real schema and rows written by
hand, and a real uvicorn on a loopback port."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest
import uvicorn

from api.app import create_app
from api.reader import ConfiguredDevice, Health, Metric, Remembered
from daemon.store import Store
from rules.counter import (
    CounterDay,
    CounterOutcome,
    SeenEvent,
    SeenRating,
    SeenStep,
    Window,
    follow_counter,
    follow_window,
    window_days,
)
from rules.model import (
    DAY,
    HOUR,
    Alert,
    DayRecord,
    FollowUpStep,
    HalfDay,
    Instant,
    Person,
    PersonEntry,
    Punch,
    QueueEvent,
    Rating,
    Reading,
    Slot,
    VideoMonth,
    Violation,
    reading_id,
)

ZONE = ZoneInfo("Asia/Shanghai")
encode = msgspec.json.Encoder().encode

TOKENS = {
    "attendance": "attendance:read",
    "supervision": "supervision:read",
    "supervisor": "supervision:read supervision:write",
    "leave-system": "absences:write",
    "queue-system": "events:write",
    "technician": "devices:read",
    "case-system": "attendance:read supervision:read devices:read",
    "admin": "admin",
}


def ms(text: str) -> Instant:
    """Milliseconds of a local time of the hall, such as ``2026-03-02 08:30``."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=moment.tzinfo or ZONE).timestamp() * 1000)


class FakeDaemon:
    """Implements ``api.reader.Reader`` over one database file."""

    zone = ZONE
    hall = "h1"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = OFF")
        schema = files("daemon") / "schema"
        for entry in sorted(schema.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".sql"):
                self.database.executescript(entry.read_text("utf-8"))
        self.served = self.connect()  # for the server's thread alone
        self.clock = ms("2026-03-03 09:00")
        self.staff = {
            code: Person(code, name, unit)
            for code, name, unit in (
                ("1001", "张伟", "tax"),
                ("1002", "李娜", "tax"),
                ("1003", "王芳", "social"),
            )
        }
        self.terminals = [
            ConfiguredDevice("gate-1", "1号考勤机", "zkteco"),
            ConfiguredDevice("gate-2", "2号考勤机", "zk_push", window="05"),
        ]
        self.counters = {
            one.id: one
            for one in (
                Window("05", "5号窗口", "tax", "A区"),
                Window("06", "6号窗口", "tax", "A区"),
                Window("11", "11号窗口", "social", "B区"),
            )
        }
        self.told: dict[str, dict[str, Any]] = {}
        self.months: dict[date, VideoMonth] = {}
        self.state = Health(alive=True, ready=True)
        self.recorded: list[Reading] = []
        self.full_disk = False
        self.slow = 0.0

    # -- what the API asks

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{self.path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only = ON")
        return connection

    def now(self) -> Instant:
        return self.clock

    def health(self) -> Health:
        return self.state

    def people(self) -> Mapping[str, Person]:
        return self.staff

    def timetables(self) -> Sequence[str]:
        return ["standard", "summer"]

    def devices(self) -> Sequence[ConfiguredDevice]:
        return self.terminals

    def windows(self) -> Mapping[str, Window]:
        return self.counters

    def notes(self) -> Mapping[str, Mapping[str, Any]]:
        return self.told

    def serials(self) -> Mapping[str, str]:
        return {"gate-1": "CJ5H221260033"}

    def metrics(self) -> Sequence[Metric]:
        return [Metric("readings_total", "counter", "Readings journalled.", [({}, 12.0)])]

    async def explain(self, violation_id: str) -> Mapping[str, Any] | None:
        found = self.served.execute("SELECT 1 FROM violation WHERE id = ?", (violation_id,))
        return {"violation": violation_id, "rule_version": "r1"} if found.fetchone() else None

    async def video_month(self, first: date) -> VideoMonth:
        return self.months.get(first, VideoMonth((), (), (), self.clock))

    async def record(self, readings: Sequence[Reading], remember: Remembered | None) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.full_disk:
            raise OSError(28, "No space left on device")
        with self.lock:
            self.database.execute("BEGIN IMMEDIATE")
            for reading in readings:
                self.journal(reading, self.clock)
                if isinstance(reading.body, PersonEntry):
                    self.staff[reading.body.person.code] = reading.body.person
            if remember is not None:
                self.database.execute(
                    "INSERT OR IGNORE INTO idempotency (token, key, request, status, answer, at)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        remember.token,
                        remember.key,
                        remember.request,
                        remember.status,
                        remember.answer,
                        remember.at,
                    ),
                )
            self.database.execute("COMMIT")
        self.recorded += readings

    async def wait_change(self, after: int, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            row = self.served.execute("SELECT max(seq) FROM change").fetchone()
            if (row[0] or 0) > after:
                return
            await asyncio.sleep(0.005)

    # -- rows by hand

    def journal(self, reading: Reading, received_at: Instant, trust: int = 0) -> None:
        body = reading.body
        kind = str(body.__struct_config__.tag)
        person = body.person if kind in ("punch", "evidence") else None  # type: ignore[union-attr]
        day = datetime.fromtimestamp(reading.at / 1000, ZONE).toordinal()
        window, ref = getattr(body, "window", None), None
        if kind in ("queue", "follow_up"):
            ref = body.ticket if kind == "queue" else body.rating_id  # type: ignore[union-attr]
        self.database.execute(
            "INSERT OR IGNORE INTO reading (id, device, kind, person, at, received_at, event_at,"
            " trust, earliest, day, body, raw, serial, window, ref)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                reading_id(reading), reading.device, kind, person, reading.at, received_at,
                reading.at, trust, 0, day, encode(body).decode(), b"", reading.serial, window, ref,
            ),
        )  # fmt: skip

    def punch(
        self, person: str, at: str, received: str | None = None, device: str = "gate-1"
    ) -> None:
        reading = Reading(device, ms(at), Punch(person, verify=1), serial="CJ5H221260033")
        self.journal(reading, ms(received or at) + 1500)

    def token(self, name: str, scopes: str) -> str:
        secret = f"hw_{name}_secret"
        self.database.execute(
            "INSERT INTO token (id, name, scopes, hash, created_at) VALUES (?, ?, ?, ?, 0)",
            (f"id-{name}", name, scopes, sha256(secret.encode()).digest()),
        )
        return secret

    def day(self, person: str, work_date: str, verdict: str = "present", unit: str = "") -> None:
        """A standard morning: on at 08:30, off at 12:00."""
        unit = unit or self.staff[person].unit
        late = verdict != "present"
        slots = tuple(
            Slot(
                "am",
                kind,
                ms(f"{work_date} {target}"),
                ms(f"{work_date} {opens}"),
                ms(f"{work_date} {closes}"),
                ms(f"{work_date} {punched}") + extra,
                result,
                minutes,
                "provisional",
                "gate-1",
                "terminal",
                "up",
                evidence=(f"{person}{kind}".encode().hex(),),
            )
            for kind, target, opens, closes, punched, extra, result, minutes in (
                ("on", "08:30", "07:30", "12:00", "08:37" if late else "08:25", 0,
                 "late" if late else "ok", 7 if late else 0),
                ("off", "12:00", "08:30", "13:00", "12:01", 250, "ok", 0),
            )
        )  # fmt: skip
        half = HalfDay("am", "present", ("late",) if late else (), 210, 0.5)
        record = DayRecord(
            person, unit, date.fromisoformat(work_date), "workday", "weekly", verdict, 0.5, 0.5,
            (half,), slots, (), "provisional", False, "r1",
        )  # fmt: skip
        body = msgspec.json.decode(encode(record))
        del body["slots"]
        columns = {
            "work_date": work_date, "person": person, "unit": unit, "verdict": verdict,
            "finality": "provisional", "points": float(late), "body": encode(body).decode(),
            "slots": encode(slots).decode(), "inputs_hash": "", "findings": 0, "as_of": 0,
            "revision": 1, "changed_at": ms(f"{work_date} 12:10"), "change_seq": 0,
        }  # fmt: skip
        self._insert("attendance_day", columns)

    def violation(self, id: str, person: str, work_date: str, state: str = "active") -> None:
        found = Violation(
            id, "late_arrival", "ATT-01", person, self.staff[person].unit,
            date.fromisoformat(work_date), "am", 1, 1.0, 7, ms(f"{work_date} 08:30"),
            ms(f"{work_date} 08:37"), "provisional", ("ab" * 16,), "迟到 7 分钟", "Late by 7 min",
        )  # fmt: skip
        columns = {
            "id": id, "rule": "late_arrival", "code": "ATT-01", "person": person,
            "unit": found.unit, "work_date": work_date, "severity": 1, "points": 1.0,
            "finality": "provisional", "state": state,
            "reason": "retro_leave" if state == "withdrawn" else "", "body": encode(found).decode(),
            "revision": 2, "changed_at": ms(f"{work_date} 12:10"), "change_seq": 0,
        }  # fmt: skip
        self._insert("violation", columns)

    def alert(self, id: str, opened: str, state: str = "open", acknowledged: str = "") -> None:
        at = ms(opened)
        ends = None if state == "open" else at + 600_000
        found = Alert(
            id, "device_offline", "DEV-01", "device", "gate-1", "", 2, at, ends, "open",
            "设备离线:1号考勤机", "Device offline: gate-1",
        )  # fmt: skip
        columns = {
            "id": id, "rule": "device_offline", "code": "DEV-01", "subject_kind": "device",
            "subject": "gate-1", "work_date": opened[:10], "severity": 2, "opened_at": at,
            "state": state, "reason": "", "body": encode(found).decode(),
            "acknowledged_by": acknowledged,
            "acknowledged_at": at + 60_000 if acknowledged else None,
            "note": "", "revision": 1, "changed_at": at, "change_seq": 0,
        }  # fmt: skip
        self._insert("alert", columns)

    def change(self, kind: str, key: str, op: str = "opened") -> int:
        with self.lock:
            written = self.database.execute(
                "INSERT INTO change (kind, op, key, at, reason, row) VALUES (?, ?, ?, ?, '', ?)",
                (kind, op, key, self.clock, encode({"id": key, "名": "行"}).decode()),
            )
        return written.lastrowid or 0

    def counter_day(self, work_date: str) -> None:
        """At window 05 a ticket served and badly rated, and one that is being called."""
        told: list[Any] = [
            QueueEvent("1", "ticket_taken", "", "A037", queue="A"),
            QueueEvent("2", "called", "05", "A037", queue="A", person="1001"),
            QueueEvent("3", "finished", "05", "A037", queue="A"),
            Rating(
                f"qr:{work_date}/1", "05", 2, "five", channel="qr", service_ref="A037",
                text="等了太久", options=("slow",),
            ),
            FollowUpStep(f"qr:{work_date}/1", "assigned", "值班长", "1003", "已安排"),
            QueueEvent("5", "called", "05", "A038", queue="A", person="1001"),
        ]  # fmt: skip
        seen: dict[type, list[Any]] = {QueueEvent: [], Rating: [], FollowUpStep: []}
        kinds: dict[type, Any] = {QueueEvent: SeenEvent, Rating: SeenRating, FollowUpStep: SeenStep}
        for minute, body in enumerate(told):
            reading = Reading("api", ms(f"{work_date} 09:0{minute}"), body)
            self.journal(reading, reading.at)
            place = (reading.at, reading.at, "api", reading_id(reading))
            seen[type(body)].append(kinds[type(body)](*place, body))
        begins = ms(f"{work_date} 00:00")
        facts: dict[str, Any] = {
            "hall": "h1", "work_date": date.fromisoformat(work_date), "midnight": begins,
            "next_midnight": begins + DAY, "opens": begins + 8 * HOUR, "closes": begins + 18 * HOUR,
            "as_of": begins + 10 * HOUR, "works": True, "events": tuple(seen[QueueEvent]),
            "ratings": tuple(seen[Rating]), "steps": tuple(seen[FollowUpStep]),
        }  # fmt: skip
        day = CounterDay(**facts, windows=tuple(self.counters.values()))
        shares = {name: follow_window(share) for name, share in window_days(day).items()}
        nothing = CounterOutcome((), None)
        store = Store(self.database, ZONE)
        for record in shares.values():
            store.apply_window(record, nothing, day.as_of)
        store.apply_counter(day.work_date, "h1", follow_counter(day, shares), nothing, day.as_of)
        store.flush()

    def _insert(self, table: str, columns: Mapping[str, Any]) -> None:
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self.database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values())
        )


@contextmanager
def serving(app: Any, lifespan: Literal["on", "off"] = "on") -> Iterator[str]:
    """A real server on a free loopback port."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="error",
        lifespan=lifespan,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "hallwatch.db")
    yield fake
    fake.database.close()


@pytest.fixture
def secrets(daemon: FakeDaemon) -> dict[str, str]:
    """A token for each of ``TOKENS``."""
    return {name: daemon.token(name, scopes) for name, scopes in TOKENS.items()}


class Stage:
    """Hands every request to the application of the test that is running, so that one server is
    enough for all of them."""

    app: Any = None
    loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        await self.app(scope, receive, send)

    def leave(self, daemon: FakeDaemon) -> None:
        """Close what the server's thread uses, in that thread."""

        async def close() -> None:
            self.app.state.desk.close()
            daemon.served.close()

        if self.loop is not None:
            asyncio.run_coroutine_threadsafe(close(), self.loop).result(10)


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    stage = Stage()
    with serving(stage, lifespan="off") as url:
        yield stage, url


@pytest.fixture
def address(stage: tuple[Stage, str], daemon: FakeDaemon) -> Iterator[str]:
    app = create_app(daemon, version="1.2.3", heartbeat=0.2)
    stage[0].app = app
    yield stage[1]
    stage[0].leave(daemon)


@pytest.fixture
def client(address: str, secrets: dict[str, str]) -> Iterator[httpx.Client]:
    """Somebody with the token of an administrator."""
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    with httpx.Client(base_url=address, headers=headers, verify=False, timeout=10) as client:
        yield client


@pytest.fixture
def busy_daemon(daemon: FakeDaemon) -> FakeDaemon:
    """Three people over a week, with violations, alerts and changes."""
    for offset in range(5):
        work_date = str(date(2026, 3, 2) + timedelta(days=offset))
        for person in daemon.staff:
            verdict = "absent" if person == "1002" else "present"
            daemon.day(person, work_date, verdict)
            daemon.punch(person, f"{work_date} 08:25")
            daemon.punch(person, f"{work_date} 12:01")
        daemon.violation(f"v{offset}", "1002", work_date, "withdrawn" if offset == 4 else "active")
        daemon.alert(f"a{offset}", f"{work_date} 09:00", "resolved" if offset % 2 else "open")
        daemon.change("attendance", f"1002/{work_date}")
        daemon.change("violation", f"v{offset}")
        daemon.change("device", "gate-1")
        daemon.counter_day(work_date)
    daemon.clock = ms("2026-03-06 10:00")
    return daemon
