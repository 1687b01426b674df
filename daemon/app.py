"""The wiring: the one file that knows everybody."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from collections.abc import (
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import count
from shutil import disk_usage
from typing import Any, TypeVar
from uuid import uuid4
from zoneinfo import ZoneInfo

import msgspec
import structlog
import uvicorn

from api.reader import ConfiguredDevice, Health, Metric, Remembered
from api.views import instant_text, wire_device
from config.load import Hall, read_secret
from config.settings import InfluxSinkSettings, MqttSinkSettings
from daemon.boards import Places
from daemon.broker import EmbeddedBroker
from daemon.charts import Charts, readings_after
from daemon.clock import Clock
from daemon.counter import CounterGatherer
from daemon.database import FILE_NAME, StateLock, open_reader
from daemon.facts import Gatherer
from daemon.orders import Orders
from daemon.outbox import Change, Outbox
from daemon.pipeline import Happening, Pipeline
from daemon.sinks.mqtt import MqttSettings, MqttSink
from daemon.snapshots import Snapshots
from daemon.store import DEVICE_COLUMNS, device_row
from daemon.supervisor import Supervisor
from rules import self_check
from rules.counter import Window, WindowRecord
from rules.engine import Explanation, PostExplanation, explain, explain_post
from rules.model import MINUTE, DaemonAlive, DeviceEvent, Instant, Person, Reading, VideoMonth

T = TypeVar("T")
log = structlog.get_logger(__name__)

ALIVE_EVERY = 300.0
"""Seconds between two signs of life in the journal: how exactly a power cut of the box is dated."""
SINK_DOWN = 10 * MINUTE
CHANGES_KEPT = 30 * 24 * 60 * MINUTE
"""Delivered changes stay this long for ``GET /v1/changes``."""


class App:
    """hallwatch on one hall: pipeline, drivers, deliveries and API, from ``start`` to ``stop``."""

    def __init__(self, hall: Hall, clock: Clock | None = None) -> None:
        self.hall = hall
        self.clock = clock or Clock()
        self.version = version("hallwatch")
        self._lock = StateLock(hall.state_dir)
        self.path = hall.state_dir / FILE_NAME
        try:
            self.pipeline = Pipeline(
                self.path,
                hall,
                self.clock,
                synchronous=hall.storage.synchronous,
                version=self.version,
            )
        except BaseException:
            self._lock.release()
            raise
        self.snapshots = Snapshots(
            hall.state_dir / "snapshots", hall.snapshots.keep_days, hall.snapshots.max_mb
        )
        self.snapshots.wanted = hall.snapshots.enabled
        self.supervisor = Supervisor(self.pipeline, self.clock, self.snapshots)
        self.supervisor.closed = lambda at: self.hall.closed(at)
        self.api: ApiServer | None = None
        self._broker: EmbeddedBroker | None = None
        self._broker_loop = LoopThread("broker")
        self._sinks: list[MqttSink] = []
        self.outbox: Outbox | None = None
        self.reading_feed: Outbox | None = None
        """The journal's readings to those who chart them."""
        self._charts = Charts((), hall.id, hall.zone)
        self._outbox_reader: sqlite3.Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._noted: dict[str, int] = {}
        """The day on which each shortage was last journalled."""
        self._watchers: list[Callable[[int], None]] = []
        self.pipeline.changed = self._changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: Orders | None = None
        self.pipeline.at_windows = self._at_windows

    @property
    def broker_address(self) -> str:
        """``mqtt://host:port`` of the embedded broker, if it runs."""
        return f"mqtt://{self._broker.host}:{self._broker.port}" if self._broker else ""

    def watch(self, watcher: Callable[[int], None]) -> None:
        """Call ``watcher`` with the number of the last change after each commit that brought any,
        in the pipeline's thread."""
        self._watchers.append(watcher)

    def _changed(self, head: int) -> None:
        if self.outbox is not None:
            self.outbox.notify(head)
        if self.reading_feed is not None:
            self.reading_feed.notify(self.pipeline.journal.last_seq)
        for watcher in self._watchers:
            watcher(head)

    def _at_windows(self, news: Sequence[Happening]) -> None:
        """In the pipeline's thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hear, news)

    def _hear(self, news: Sequence[Happening]) -> None:
        if self._orders is not None:
            self._orders.hear(news)

    async def _begin_orders(self) -> None:
        """Boards get what windows are at; from then on they follow."""
        if self._orders is not None:
            self._orders.close()
        self._loop = asyncio.get_running_loop()
        orders = self._orders = Orders(self.hall, self.supervisor.wish, self.clock)
        today = date.fromordinal(self.pipeline.gatherer.days.day(self.clock.now())).isoformat()
        rows = await asyncio.wrap_future(
            self.pipeline.call(
                lambda connection: connection.execute(
                    "SELECT body, call_seq FROM window_day WHERE work_date = ?", (today,)
                ).fetchall()
            )
        )
        orders.begin(
            (msgspec.json.decode(body, type=WindowRecord), call_seq) for body, call_seq in rows
        )

    async def start(self) -> None:
        """Everything up; returns once readings can be taken."""
        self.pipeline.start()
        if self.hall.broker.embedded:
            self._broker = EmbeddedBroker(self.hall.broker.host, self.hall.broker.port)
            self._broker_loop.start()
            await self._broker_loop.run(self._broker.start())
        await asyncio.to_thread(self._start_outbox)
        reader = AppReader(self)
        self.watch(reader.changed)
        self.api = ApiServer(
            reader,
            self.hall.api.host,
            self.hall.api.port,
            self.snapshots if self.hall.snapshots.enabled else None,
        )
        await asyncio.to_thread(self.api.start)
        await self.supervisor.apply(self.hall.devices, self.hall.zone, list(self.hall.windows))
        await self._begin_orders()
        self._tasks.append(asyncio.create_task(self._stay_alive(), name="alive"))
        self._tasks.append(asyncio.create_task(self._prune(), name="prune"))

    async def stop(self) -> None:
        """Everything down: devices first, so that nothing unjournalled is acknowledged."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loop = None
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        await self.supervisor.stop()
        if self.api is not None:
            await asyncio.to_thread(self.api.stop)
        if self.pipeline.alive:
            await self.pipeline.tell((Reading("hallwatch", self.clock.now(), DaemonAlive()),))
        await asyncio.to_thread(self._stop_outbox)
        await asyncio.to_thread(self.pipeline.stop)
        if self._broker is not None:
            await self._broker_loop.run(self._broker.stop())
            self._broker_loop.stop()
        self._lock.release()

    async def reload(self, hall: Hall) -> None:
        """Apply changed settings; connections that did not change stay up.

        The state directory, the API's address and the broker cannot change while running; such a
        change is logged and waits for a restart.
        """
        for name in ("state_dir", "api", "broker", "storage", "snapshots"):
            if getattr(hall, name) != getattr(self.hall, name):
                log.warning("needs_restart", settings=name)
        await asyncio.wrap_future(self.pipeline.reload(hall))
        sinks_changed = any(
            getattr(hall, name) != getattr(self.hall, name)
            for name in ("sinks", "zone", "windows", "boards")
        )
        self.hall = hall
        self.snapshots.wanted = hall.snapshots.enabled
        if sinks_changed:
            await asyncio.to_thread(self._stop_outbox)
            await asyncio.to_thread(self._start_outbox)
        await self.supervisor.apply(hall.devices, hall.zone, list(hall.windows))
        await self._begin_orders()

    # -- deliveries

    def _start_outbox(self) -> None:
        self._sinks = list(self._make_sinks())
        self._charts = Charts(
            [sink for sink in self.hall.sinks if isinstance(sink, InfluxSinkSettings)],
            self.hall.id,
            self.hall.zone,
        )
        reader = open_reader(self.path)
        self._outbox_reader = reader
        guard = threading.Lock()

        def read(after: int, limit: int) -> list[Change]:
            with guard:
                return [
                    Change(seq, kind, op, key, at, reason, row.encode())
                    for seq, kind, op, key, at, reason, row in reader.execute(
                        "SELECT seq, kind, op, key, at, reason, row FROM change"
                        " WHERE seq > ? ORDER BY seq LIMIT ?",
                        (after, limit),
                    )
                ]

        def cursor(sink: str) -> int:
            with guard:
                row = reader.execute("SELECT seq FROM cursor WHERE sink = ?", (sink,)).fetchone()
            return row[0] if row else 0

        def advance(sink: str, seq: int, rejected: Sequence[tuple[int, str]]) -> None:
            if rejected:
                now = self.clock.now()
                rows = [(sink, number, reason, now) for number, reason in rejected]
                self.pipeline.call(
                    lambda connection: connection.executemany(
                        "INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", rows
                    )
                ).result()
            self.pipeline.advance(sink, seq)

        def read_journal(after: int, limit: int) -> list[Change]:
            with guard:
                return readings_after(reader, after, limit)

        self.outbox = Outbox(
            [*self._sinks, *self._charts.changes],
            read=read,
            cursor=cursor,
            advance=advance,
            now=self.clock.now,
        )
        self.reading_feed = Outbox(
            self._charts.readings,
            read=read_journal,
            cursor=cursor,
            advance=advance,
            now=self.clock.now,
        )
        self.outbox.start()
        self.reading_feed.start()
        for sink in self._sinks:
            sink.start()

    def _make_sinks(self) -> Iterator[MqttSink]:
        source = self._source_id()
        targets = [
            MqttSettings(
                hall=self.hall.id,
                name=sink.name,
                host=sink.host,
                port=sink.port or (8883 if sink.tls else 1883),
                client_id=sink.client_id,
                username=sink.username,
                password=read_secret(sink.password_file) if sink.password_file else "",
                tls=sink.tls,
                ca_file=sink.ca_file,
                cert_file=sink.cert_file,
                key_file=sink.key_file,
                protocol=sink.protocol,
                keepalive=sink.keepalive,
            )
            for sink in self.hall.sinks
            if isinstance(sink, MqttSinkSettings)
        ]
        if self._broker is not None:
            targets.append(
                MqttSettings(
                    hall=self.hall.id,
                    name="embedded",
                    host=self._broker.host,
                    port=self._broker.port,
                    protocol="3.1.1",
                )
            )
        for target in targets:
            yield MqttSink(
                target,
                zone=self.hall.zone,
                source=source,
                version=self.version,
                snapshot=self._snapshot,
                now=self.clock.now,
                ready=partial(self._sink_ready, target.name),
                places=Places(
                    windows=tuple(self.hall.windows),
                    areas=tuple(window.area for window in self.hall.windows.values()),
                    boards=self.hall.boards,
                ),
            )

    def _sink_ready(self, name: str) -> None:
        if self.outbox is not None:
            self.outbox.retry(name)

    def _source_id(self) -> str:
        """Names this database in message ids, so that another one never gives the same id."""

        def ask(connection: sqlite3.Connection) -> str:
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('source', ?)", (uuid4().hex[:8],)
            )
            row: tuple[str] = connection.execute(
                "SELECT value FROM meta WHERE name = 'source'"
            ).fetchone()
            return row[0]

        return self.pipeline.call(ask).result()

    def _snapshot(self) -> list[Change]:
        """The present rows that MQTT keeps retained: devices, alerts that are open or young, the
        newest of every window and service area."""
        with closing(open_reader(self.path)) as reader:
            devices = reader.execute(
                f"SELECT change_seq, {DEVICE_COLUMNS} FROM device_state ORDER BY device"
            )
            found = []
            while (row := devices.fetchone()) is not None:
                fields = device_row(devices, row)
                seq = fields.pop("change_seq")
                found.append(
                    Change(
                        seq, "device", "amended", fields["device"], fields["since"],
                        fields["reason"],
                        msgspec.json.encode(wire_device(zone=self.hall.zone, **fields)),
                    )
                )  # fmt: skip
            young = self.clock.now() - 24 * 60 * MINUTE
            found += [
                Change(seq, "alert", op, key, at, reason, body.encode())
                for seq, op, key, at, reason, body in reader.execute(
                    "SELECT c.seq, c.op, c.key, c.at, c.reason, c.row FROM alert a"
                    " JOIN change c ON c.seq = a.change_seq"
                    " WHERE a.state = 'open' OR a.changed_at > ? ORDER BY c.seq",
                    (young,),
                )
            ]
            # Older ones say nothing about now.
            recent = date.fromordinal(self.pipeline.gatherer.days.day(young) - 7).isoformat()
            for kind in ("window", "area"):
                found += [
                    Change(seq, kind, op, key, at, reason, body.encode())
                    for seq, op, key, at, reason, body, _ in reader.execute(
                        "SELECT c.seq, c.op, c.key, c.at, c.reason, c.row,"
                        f" max(d.work_date) FROM {kind}_day d JOIN change c ON c.seq ="
                        f" d.change_seq WHERE d.work_date >= ? GROUP BY d.{kind} ORDER BY c.seq",
                        (recent,),
                    )
                ]
        return found

    def _stop_outbox(self) -> None:
        if self.outbox is not None:
            self.outbox.close()
            self.outbox = None
        if self.reading_feed is not None:
            self.reading_feed.close()
            self.reading_feed = None
        for sink in self._sinks:
            sink.close()
        self._sinks = []
        self._charts.close()
        if self._outbox_reader is not None:
            self._outbox_reader.close()
            self._outbox_reader = None

    # -- housekeeping

    async def _stay_alive(self) -> None:
        """A sign of life in the journal when nothing else was written for a while."""
        while True:
            before = self.pipeline.readings
            await self.clock.sleep(ALIVE_EVERY)
            if self.pipeline.readings == before:
                reading = Reading("hallwatch", self.clock.now(), DaemonAlive())
                self.pipeline.submit((reading,), lambda _: None)

    async def _prune(self) -> None:
        """Drop changes that every sink has and that are old, once an hour; look for shortages."""
        for minute in count(1):
            await self.clock.sleep(60.0)
            self._note_shortages()
            if minute % 60 == 1:
                await asyncio.to_thread(self.snapshots.tidy, self.clock.now())
            await asyncio.to_thread(self._charts.write_metrics, self.clock.now(), self._metrics())
            if minute % 60:
                continue
            before = self.clock.now() - CHANGES_KEPT
            sinks = [sink.name for sink in self._sinks]
            sinks += [sink.name for sink in self._charts.changes]
            limit = self.hall.storage.outbox_limit_rows

            def prune(
                connection: sqlite3.Connection,
                before: Instant = before,
                sinks: Sequence[str] = sinks,
                limit: int = limit,
            ) -> None:
                places = dict(connection.execute("SELECT sink, seq FROM cursor"))
                delivered = min((places.get(sink, 0) for sink in sinks), default=1 << 62)
                connection.execute(
                    "DELETE FROM change WHERE seq IN (SELECT seq FROM change"
                    " WHERE seq <= ? AND at < ? ORDER BY seq LIMIT 10000)",
                    (delivered, before),
                )
                connection.execute("DELETE FROM idempotency WHERE at < ?", (before,))
                # Over the limit the oldest states go, newer ones say the same; never a fact.
                (rows,) = connection.execute("SELECT count(*) FROM change").fetchone()
                connection.execute(
                    "DELETE FROM change WHERE seq IN (SELECT seq FROM change old"
                    " WHERE kind IN ('device', 'window', 'area', 'post') AND EXISTS (SELECT 1 FROM"
                    " change new WHERE new.kind = old.kind AND new.key = old.key"
                    " AND new.seq > old.seq)"
                    " ORDER BY seq LIMIT ?)",
                    (max(0, rows - limit),),
                )

            self.pipeline.call(prune)

    def _metrics(self) -> dict[str, float]:
        """Our own figures, for charts."""
        values: dict[str, float] = {
            "readings_total": self.pipeline.readings,
            "repeats_total": self.pipeline.repeats,
            "judgement_failures_total": self.pipeline.failures,
            "snapshot_errors_total": self.snapshots.errors,
        }
        for state in self.outbox.state() if self.outbox else ():
            values[f"sink_lag.{state.sink}"] = state.lag
        return values

    def _note_shortages(self) -> None:
        """Journal what runs short, for the alert; the next day again if it still does."""
        today = self.pipeline.gatherer.days.day(self.clock.now())
        for name, detail in self._shortages():
            if self._noted.get(name) == today:
                continue
            self._noted[name] = today
            event = DeviceEvent(name, detail=detail)
            reading = Reading("hallwatch", self.clock.now(), event)
            self.pipeline.submit((reading,), lambda _: None)

    def _shortages(self) -> Iterator[tuple[str, str]]:
        free = disk_usage(self.hall.state_dir).free >> 20
        if free < self.hall.storage.min_free_mb:
            yield "disk_low", f"{free} MB free, {self.hall.storage.min_free_mb} wanted"
        limit = self.hall.storage.outbox_limit_rows
        for state in self.outbox.state() if self.outbox else ():
            if state.lag > limit * 0.8:
                yield "outbox_full", f"{state.sink} is {state.lag} changes behind of {limit}"
            if state.down_since and self.clock.now() - state.down_since > SINK_DOWN:
                yield "sink_down", f"{state.sink}: {state.error}"

    # -- health

    def health(self) -> Health:
        """Liveness and readiness with the reasons, for the API and the watchdog."""
        reasons: list[str] = []
        if not self.pipeline.alive:
            reasons.append("日志线程已停止 / the pipeline's thread has ended")
        reasons += [
            f"{self_check.TITLES[name]} / {detail}"
            for name, detail in self._shortages()
            # Deliveries that wait keep nobody from telling us something.
            if name == "disk_low"
        ]
        return Health(alive=self.pipeline.alive, ready=not reasons, reasons=tuple(reasons))


class AppReader:
    """The daemon as the API sees it; see ``api.reader.Reader``."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._guard = threading.Lock()
        self._head = 0

    @property
    def zone(self) -> ZoneInfo:
        return self._app.hall.zone

    @property
    def hall(self) -> str:
        return self._app.hall.id

    def connect(self) -> sqlite3.Connection:
        return open_reader(self._app.path)

    def now(self) -> Instant:
        return self._app.clock.now()

    def health(self) -> Health:
        return self._app.health()

    def people(self) -> Mapping[str, Person]:
        return self._app.pipeline.gatherer.people()

    def timetables(self) -> Collection[str]:
        return self._app.hall.timetables.keys()

    def devices(self) -> Sequence[ConfiguredDevice]:
        return [
            ConfiguredDevice(
                device.id, device.name, device.driver, device.window, device.attendance,
                device.in_service,
            )
            for device in self._app.hall.devices
        ]  # fmt: skip

    def windows(self) -> Mapping[str, Window]:
        return self._app.pipeline.counter.windows

    def notes(self) -> Mapping[str, Mapping[str, Any]]:
        return self._app.supervisor.contacts.notes

    def serials(self) -> Mapping[str, str]:
        return self._app.pipeline.serials

    def metrics(self) -> Iterable[Metric]:
        pipeline = self._app.pipeline
        yield Metric(
            "readings_total", "counter", "Readings journalled since the start.",
            [({}, pipeline.readings)],
        )  # fmt: skip
        yield Metric(
            "repeats_total", "counter", "Readings that were known already.",
            [({}, pipeline.repeats)],
        )  # fmt: skip
        yield Metric(
            "judgement_failures_total", "counter", "Judgements that raised: defects.",
            [({}, pipeline.failures)],
        )  # fmt: skip
        states = self._app.outbox.state() if self._app.outbox else []
        yield Metric(
            "sink_lag", "gauge", "Changes not delivered yet.",
            [({"sink": state.sink}, state.lag) for state in states],
        )  # fmt: skip
        yield Metric(
            "sink_down", "gauge", "1 while a sink cannot be reached.",
            [({"sink": s.sink}, float(s.down_since is not None)) for s in states],
        )  # fmt: skip

    async def explain(self, violation_id: str) -> Mapping[str, Any] | None:
        return await asyncio.to_thread(self._explain, violation_id)

    def _explain(self, violation_id: str) -> Mapping[str, Any] | None:
        with closing(open_reader(self._app.path)) as connection:
            row = connection.execute(
                "SELECT v.person, v.work_date, v.window, d.as_of FROM violation v"
                " LEFT JOIN attendance_day d"
                " ON d.work_date = v.work_date AND d.person = v.person WHERE v.id = ?",
                (violation_id,),
            ).fetchone()
            if row is None:
                return None
            code, work_date, window, as_of = row
            gatherer = self._gatherer(connection)
            if window:
                return self._explain_post(connection, gatherer, window, work_date, violation_id)
            person = gatherer.person(code)
            if person is None:
                return None
            day = gatherer.person_day(
                person, date.fromisoformat(work_date), as_of or self._app.clock.now()
            )
            explanation = explain(day, self._app.hall.rulebook, violation_id)
            return None if explanation is None else explained(explanation, self.zone)

    async def video_month(self, first: date) -> VideoMonth:
        return await asyncio.to_thread(self._video_month, first)

    def _video_month(self, first: date) -> VideoMonth:
        with closing(open_reader(self._app.path)) as connection:
            return self._gatherer(connection).video_month(first, self._app.clock.now())

    def _gatherer(self, connection: sqlite3.Connection) -> Gatherer:
        (installed,) = connection.execute(
            "SELECT value FROM meta WHERE name = 'installed_on'"
        ).fetchone()
        return Gatherer(connection, self._app.hall, date.fromisoformat(installed))

    def _explain_post(
        self,
        connection: sqlite3.Connection,
        gatherer: Gatherer,
        window: str,
        work_date: str,
        violation_id: str,
    ) -> Mapping[str, Any] | None:
        row = connection.execute(
            "SELECT as_of FROM post_day WHERE work_date = ? AND window = ?", (work_date, window)
        ).fetchone()
        counter = CounterGatherer(connection, self._app.hall, gatherer)
        if row is None or window not in counter.windows:
            return None
        day = counter.post_of(counter.windows[window], date.fromisoformat(work_date), row[0])
        why = explain_post(day, self._app.hall.rulebook, violation_id)
        return None if why is None else explained(why, self.zone)

    async def record(self, readings: Sequence[Reading], remember: Remembered | None) -> None:
        row = None if remember is None else msgspec.structs.astuple(remember)
        await self._app.pipeline.tell(readings, remember=row)
        await asyncio.wrap_future(self._app.pipeline.settle_now())

    def changed(self, head: int) -> None:
        """A commit brought changes; called in the pipeline's thread."""
        with self._guard:
            self._head = head
            waiters = list(self._waiters)
        for loop, event in waiters:
            loop.call_soon_threadsafe(event.set)

    async def wait_change(self, after: int, seconds: float) -> None:
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._guard:
            if self._head > after:
                return
            self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter[1].wait()
        except TimeoutError:
            pass
        finally:
            with self._guard:
                self._waiters.discard(waiter)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` there and return its result here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ApiServer:
    """uvicorn in a thread and event loop of its own: a slow question never delays a device."""

    def __init__(
        self, reader: AppReader, host: str, port: int, snapshots: Snapshots | None
    ) -> None:
        self.host = host
        self.port = port
        self._reader = reader
        self._snapshots = snapshots
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _make_app(self) -> Any:
        # Called in the server's thread: devices need not wait until FastAPI is imported.
        from api.app import create_app

        return create_app(self._reader, snapshots=self._snapshots, version=version("hallwatch"))

    def start(self) -> None:
        """Listen and serve.  Raises ``OSError`` when the address cannot be had."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # With its number asyncio knows the protocol and sets TCP_NODELAY on each connection;
        # without, the body of an answer waits 40 ms for the acknowledgement of its head.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
        except OSError as error:
            listener.close()
            raise OSError(
                f"The API cannot listen on {self.host} port {self.port}: {error.strerror}"
            ) from None
        listener.listen(256)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._make_app,
            factory=True,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = self._server = uvicorn.Server(config)

        async def serve() -> None:
            # uvicorn's public serve() takes over the process's signals, which are the daemon's.
            await server._serve([listener])

        self._thread = threading.Thread(
            target=lambda: asyncio.run(serve()), name="api", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()


_INSTANTS = frozenset(
    (
        "as_of", "at", "began_at", "closes", "complete_until", "device_at", "ended_at", "ends",
        "event_at", "event_time", "opens", "received_at", "since", "starts", "target", "until",
    )
)  # fmt: skip


def explained(explanation: Explanation | PostExplanation, zone: ZoneInfo) -> Mapping[str, Any]:
    """An explanation ready for JSON, its instants as text."""

    def told(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: told(inner, key) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [
                told(inner, "starts" if name in ("worked", "parts") else name) for inner in value
            ]
        if name in _INSTANTS and type(value) is int:
            return instant_text(value, zone)
        return value

    shown = told(msgspec.to_builtins(explanation))
    # The tolerances of a segment are minutes of the day, not instants.
    shown["thresholds"] = msgspec.to_builtins(explanation.thresholds)
    return dict(shown)
