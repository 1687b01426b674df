"""Ratings and queue events over a real broker: mosquitto, with mosquitto_pub as a pad."""

from __future__ import annotations

import asyncio
import gc
import getpass
import json
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from daemon.broker import EmbeddedBroker
from drivers import mqtt_counter
from drivers.base import DeviceLost, DeviceRefused, Order
from drivers.emulators.mqtt_counter import QueueHost
from drivers.emulators.network_pad import MqttPad
from drivers.mqtt_counter import MqttCounter, MqttCounterOptions
from rules.model import DeviceEvent, QueueEvent, Rating, Reading, Unreadable, reading_id

ZONE = ZoneInfo("Asia/Shanghai")
NINE = int(datetime(2026, 3, 2, 9, 0, tzinfo=ZONE).timestamp()) * 1000
ROOT = "hall/h1"
PAD = f"{ROOT}/in/pad/pad-05/rating"
QUEUE = f"{ROOT}/in/queue/event"
RATING = {"rating_id": "1", "pad_id": "pad-05", "window": "05", "level": 5, "service_ref": "A037"}
EVENT = {"event_id": "e-1", "type": "called", "window": "05", "ticket": "A037"} | {
    "at": "2026-03-02T08:59:59+08:00"
}


@dataclass(frozen=True)
class Spec:
    id: str
    options: MqttCounterOptions
    window: str = ""


class Hall:
    """A daemon in small: a journal that knows repeats."""

    zone = ZONE
    windows = ("05",)

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.told: set[bytes] = set()
        self.notes: dict[str, dict[str, Any]] = {}
        self.marks: dict[tuple[str, str], str] = {}
        self.wall = NINE
        self.contacts: list[str] = []
        self.disk_full = 0
        self.stuck = False
        self.tries = 0

    async def emit(
        self,
        readings: Sequence[Reading],
        marks: Mapping[tuple[str, str], str] | None = None,
    ) -> int:
        self.tries += 1
        while self.stuck:
            await asyncio.sleep(0.005)
        if self.disk_full:
            self.disk_full -= 1
            raise OSError("no space left")
        new = [reading for reading in readings if reading_id(reading) not in self.told]
        self.told |= {reading_id(reading) for reading in new}
        self.readings += new
        self.marks.update(marks or {})
        return len(new)

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def now(self) -> int:
        return self.wall

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)

    def contact(self, device: str) -> None:
        self.contacts.append(device)

    def lost(self, device: str, reason: str) -> None:
        raise AssertionError((device, reason))

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        raise AssertionError

    def bodies(self, kind: type) -> list[Any]:
        return [reading.body for reading in self.readings if type(reading.body) is kind]

    def count(self, what: str) -> int:
        counted: int = self.notes.get("broker", {}).get(what, 0)
        return counted


class Broker:
    """A mosquitto that keeps its sessions, and can be killed and started again on its port."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._settings = folder / f"mosquitto-{self.port}.conf"
        self._log = folder / f"mosquitto-{self.port}.log"
        text = [
            "per_listener_settings false",
            f"user {getpass.getuser()}",
            "persistence false",
            f"listener {self.port} 127.0.0.1",
            *(lines or ("allow_anonymous true",)),
        ]
        self._settings.write_text("\n".join(text) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

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
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.01)
            else:
                return
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def publish(self, topic: str, *told: object, more: Sequence[str] = ()) -> None:
        """Messages of mosquitto_pub, one a line."""
        lines = [one if isinstance(one, str) else json.dumps(one) for one in told]
        subprocess.run(
            [
                *("mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-q", "1"),
                *("-t", topic, "-l", *more),
            ],
            input="\n".join(lines).encode(),
            check=True,
            timeout=20,
        )


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    started: list[Broker] = []

    def start(*lines: str) -> Broker:
        started.append(Broker(tmp_path, *lines))
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    return start_broker()


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def options(broker: Broker, **more: Any) -> MqttCounterOptions:
    return MqttCounterOptions("127.0.0.1", ROOT, broker.port, **more)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.005)


def run(
    hall: Hall,
    told: MqttCounterOptions | MqttCounter,
    story: Callable[[], Awaitable[None]],
    *,
    connected: bool = True,
) -> None:
    """Run a story beside the driver; its end ends the driver."""

    async def whole() -> None:
        driver = told if isinstance(told, MqttCounter) else MqttCounter([Spec("broker", told)])
        contacts = len(hall.contacts)
        task = asyncio.create_task(driver.run(hall))
        try:
            if connected:
                await until(lambda: len(hall.contacts) > contacts or task.done())
                if task.done():
                    task.result()
            await story()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, DeviceLost):
                await task

    asyncio.run(whole())


def end_of(hall: Hall, told: MqttCounterOptions | MqttCounter) -> Exception:
    """How the driver ends by itself."""

    async def whole() -> Exception:
        driver = told if isinstance(told, MqttCounter) else MqttCounter([Spec("broker", told)])
        async with asyncio.timeout(30):
            try:
                await driver.run(hall)
            except (DeviceLost, DeviceRefused) as error:
                return error
        raise AssertionError("it ended without a reason")

    return asyncio.run(whole())


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_what_a_pad_and_a_queue_system_publish_is_journalled(broker: Broker, protocol: Any) -> None:
    hall = Hall()

    async def story() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING)
        await asyncio.to_thread(broker.publish, QUEUE, [EVENT, EVENT | {"event_id": "e-2"}])
        await asyncio.to_thread(broker.publish, f"{ROOT}/win/05/state", {"state": "idle"})
        await until(lambda: len(hall.readings) == 3)

    run(hall, options(broker, protocol=protocol), story)

    assert {reading.device for reading in hall.readings} == {"broker"}
    assert hall.bodies(Rating) == [Rating("pad:pad-05:1", "05", 5, service_ref="A037")]
    assert [body.event_id for body in hall.bodies(QueueEvent)] == ["e-1", "e-2"]
    assert [reading.at for reading in hall.readings] == [NINE, NINE - 1000, NINE - 1000]
    assert hall.notes["broker"]["protocol"] == ("5" if protocol == "auto" else protocol)
    assert hall.notes["broker"]["client_id"] == "hallwatch-h1-in"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_only_what_was_journalled_is_acknowledged(broker: Broker, protocol: Any) -> None:
    told = options(broker, protocol=protocol)
    before = Hall()

    async def crash() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING)
        await until(lambda: len(before.readings) == 1)
        before.stuck = True
        await asyncio.to_thread(broker.publish, PAD, RATING | {"rating_id": "2"})
        await until(lambda: before.tries == 2)

    run(before, told, crash)
    assert len(before.readings) == 1
    after = Hall()

    async def again() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING | {"rating_id": "3"})
        await until(lambda: len(after.readings) >= 2)

    run(after, told, again)
    assert [body.rating_id for body in after.bodies(Rating)] == ["pad:pad-05:2", "pad:pad-05:3"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_is_published_while_hallwatch_is_away_comes_later(
    broker: Broker, protocol: Any
) -> None:
    hall = Hall()
    told = options(broker, protocol=protocol)

    async def nothing() -> None:
        pass

    async def all_of_it() -> None:
        await until(lambda: len(hall.readings) == 60)

    run(hall, told, nothing)
    broker.publish(PAD, *(RATING | {"rating_id": str(number)} for number in range(60)))
    run(hall, told, all_of_it)

    ids = [body.rating_id for body in hall.bodies(Rating)]
    assert ids == [f"pad:pad-05:{number}" for number in range(60)]


def test_a_retained_rating_is_counted_at_no_start(broker: Broker) -> None:
    broker.publish(PAD, RATING, more=["-r"])
    told = MqttCounter([Spec("broker", options(broker))])
    hall = Hall()

    async def story() -> None:
        await until(lambda: hall.count("retained") == 1)
        # While we are connected, too: MQTT 5 says how it was published.
        await asyncio.to_thread(broker.publish, PAD, RATING | {"level": 4}, more=["-r"])
        await until(lambda: hall.count("retained") == 2)
        await asyncio.to_thread(broker.publish, PAD, RATING | {"rating_id": "2"})
        await until(lambda: len(hall.bodies(Rating)) == 1)

    run(hall, told, story)

    async def quiet() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING | {"rating_id": "3"})
        await until(lambda: len(hall.bodies(Rating)) == 2)

    run(hall, told, quiet)
    assert [body.rating_id for body in hall.bodies(Rating)] == ["pad:pad-05:2", "pad:pad-05:3"]
    assert hall.bodies(Unreadable) == [
        Unreadable(f"a retained message on {PAD} is refused"),
        Unreadable(f"a retained message on {PAD} is refused"),
    ]


def test_a_retained_rating_is_refused_over_3_1_1(broker: Broker) -> None:
    broker.publish(PAD, RATING, more=["-r"])
    hall = Hall()

    async def story() -> None:
        await until(lambda: hall.count("retained") == 1)

    run(hall, options(broker, protocol="3.1.1"), story)
    assert hall.bodies(Rating) == []


def test_what_comes_twice_is_stored_once(broker: Broker) -> None:
    hall = Hall()

    async def story() -> None:
        pad = MqttPad("pad-05", ("127.0.0.1", broker.port), lambda: datetime.now(ZONE), ROOT)
        await pad.start()
        told = await pad.press(2, window="05", service_ref="A037")
        await pad.publish(PAD, json.dumps(told).encode(), again=True)
        await pad.press(1, window="05", service_ref="A038")
        await until(lambda: hall.count("messages") == 3)
        await pad.stop()

    run(hall, options(broker), story)
    assert [body.level for body in hall.bodies(Rating)] == [2, 1]
    assert hall.count("repeats") == 1


def test_rubbish_stops_nothing(broker: Broker) -> None:
    hall = Hall()

    async def story() -> None:
        await asyncio.to_thread(
            broker.publish,
            PAD,
            "{",
            RATING | {"pad_id": "pad-06"},
            RATING | {"hall": "h2"},
            RATING | {"x": "x" * 5000},
            RATING | {"x": "x" * 60_000},
            RATING,
        )
        await until(lambda: hall.count("messages") == 6)

    run(hall, options(broker), story)
    assert len(hall.bodies(Rating)) == 1
    assert [body.reason.removeprefix(f"{PAD}: ")[:30] for body in hall.bodies(Unreadable)] == [
        "not valid JSON: Input data was",
        "pad_id: expected pad-05, the p",
        "hall: expected h1",
        f"{len(json.dumps(RATING | {'x': 'x' * 5000}))} bytes on {PAD}"[:30],
        f"{len(json.dumps(RATING | {'x': 'x' * 60_000}))} bytes on {PAD}"[:30],
    ]
    assert hall.count("decode_errors") == 5


def test_a_flood_of_rubbish_fills_no_journal(broker: Broker) -> None:
    hall = Hall()

    async def story() -> None:
        await asyncio.to_thread(broker.publish, PAD, *("{" * n for n in range(1, 151)))
        await until(lambda: hall.count("messages") == 150)

    run(hall, options(broker), story)
    assert len(hall.readings) == mqtt_counter.UNREADABLE_AN_HOUR
    assert hall.count("decode_errors") == 150


def test_a_full_disk_keeps_the_messages_with_the_broker(broker: Broker) -> None:
    hall = Hall()
    hall.disk_full = 3

    async def story() -> None:
        many = (RATING | {"rating_id": str(number)} for number in range(200))
        await asyncio.to_thread(broker.publish, PAD, *many)
        await until(lambda: hall.count("messages") == 200)

    run(hall, options(broker), story)
    ids = [body.rating_id for body in hall.bodies(Rating)]
    assert ids == [f"pad:pad-05:{number}" for number in range(200)]
    assert hall.count("not_stored") == 3


def test_a_time_to_come_is_a_wrong_clock(broker: Broker) -> None:
    hall = Hall()
    ahead = "2026-03-02T09:02:01+08:00"

    async def story() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING | {"pressed_at": ahead})
        await asyncio.to_thread(broker.publish, QUEUE, EVENT | {"at": ahead})
        await until(lambda: len(hall.readings) == 2)

    run(hall, options(broker), story)
    rating, event = hall.readings
    assert isinstance(rating.body, Rating)
    assert (rating.at, rating.body.problem, rating.raw) == (NINE, "clock_skew", ahead.encode())
    assert (event.at, event.raw) == (NINE, ahead.encode())


def test_a_queue_systems_slow_clock_shows_itself_and_is_remembered(broker: Broker) -> None:
    hall = Hall()

    async def tell(number: int) -> None:
        """A call at this moment, by a clock that is twelve minutes slow."""
        hall.wall = NINE + number * 300_000
        told = datetime.fromtimestamp(hall.wall / 1000 - 720, ZONE).isoformat()
        event = EVENT | {"event_id": f"e-{number}", "at": told}
        await asyncio.to_thread(broker.publish, QUEUE, event)
        await until(lambda: len(hall.readings) == number)

    async def first() -> None:
        for number in range(1, 5):
            await tell(number)

    run(hall, options(broker), first)
    run(hall, options(broker), lambda: tell(5))

    late = [(NINE + n * 300_000 - one.at) // 1000 for n, one in enumerate(hall.readings, 1)]
    assert late == [720, 720, 0, 0, 0]
    assert hall.readings[4].raw == b"2026-03-02T09:13:00+08:00"
    assert hall.notes["broker"]["clock_slow_ms"] == 720_000


def test_an_unknown_window_is_refused_and_counted(broker: Broker) -> None:
    hall = Hall()

    async def story() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING | {"window": "99"})
        await asyncio.to_thread(broker.publish, QUEUE, EVENT | {"window": "99"})
        await until(lambda: len(hall.readings) == 2)

    run(hall, options(broker), story)

    assert len(hall.bodies(Unreadable)) == hall.count("decode_errors") == 2


# -- brokers that are away, refuse, or are none


def test_a_broker_that_is_not_there_is_said_so(broker: Broker) -> None:
    broker.kill()
    error = end_of(Hall(), options(broker))

    assert isinstance(error, DeviceLost)
    assert str(error).startswith(f"the broker at 127.0.0.1:{broker.port} cannot be reached")


def test_a_broker_that_dies_is_lost_and_found_again(broker: Broker) -> None:
    hall = Hall()
    driver = MqttCounter([Spec("broker", options(broker))])

    async def kill() -> None:
        contacts = len(hall.contacts)
        task = asyncio.create_task(driver.run(hall))
        await until(lambda: len(hall.contacts) > contacts)
        broker.kill()
        with pytest.raises(DeviceLost, match="ended the connection"):
            await asyncio.wait_for(task, 20)

    asyncio.run(kill())
    broker.start()

    async def story() -> None:
        await asyncio.to_thread(broker.publish, PAD, RATING)
        await until(lambda: len(hall.readings) == 1)

    run(hall, driver, story)


def test_a_wrong_password_is_refused_and_shown_nowhere(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "hallwatch", "right"], check=True)
    broker = start_broker("allow_anonymous false", f"password_file {users}")
    password = tmp_path / "password"
    password.write_text("wr0ng\n")
    told = options(broker, username="hallwatch", password_file=str(password))
    error = end_of(Hall(), told)

    assert isinstance(error, DeviceRefused)
    assert "refused hallwatch" in str(error)
    assert "wr0ng" not in str(error)

    password.write_text("right\n")

    async def nothing() -> None:
        pass

    run(Hall(), told, nothing)
    password.unlink()
    error = end_of(Hall(), told)
    assert isinstance(error, DeviceRefused)
    assert "password_file" in str(error)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_two_that_use_one_client_id_are_found_out(broker: Broker, protocol: Any) -> None:
    hall = Hall()
    driver = MqttCounter([Spec("broker", options(broker, protocol=protocol))])

    async def taken_over() -> Exception:
        contacts = len(hall.contacts)
        task = asyncio.create_task(driver.run(hall))
        await until(lambda: len(hall.contacts) > contacts or task.done())
        other = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-i", "hallwatch-h1-in",
            "-t", "x",
        )  # fmt: skip
        try:
            await asyncio.wait_for(task, 20)
        except (DeviceLost, DeviceRefused) as error:
            return error
        finally:
            other.kill()
            await other.wait()
        raise AssertionError

    errors = [asyncio.run(taken_over()) for _ in range(3)]
    assert [type(error) for error in errors] == [DeviceLost, DeviceLost, DeviceRefused]
    assert "somebody else uses the client id hallwatch-h1-in" in str(errors[2])
    assert hall.bodies(DeviceEvent) == [
        DeviceEvent("duplicate_client_id", detail="hallwatch-h1-in")
    ]


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_wants_the_right_certificate(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    made = []
    for name in ("broker", "other"):
        cert, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
            ],
            check=True,
            capture_output=True,
        )
        made.append((cert, key))
    (cert, key), (wrong, _) = made
    broker = start_broker("allow_anonymous true", f"certfile {cert}", f"keyfile {key}")
    hall = Hall()

    async def story() -> None:
        many = (RATING | {"rating_id": str(number)} for number in range(300))
        await asyncio.to_thread(broker.publish, PAD, *many, more=["--cafile", str(cert)])
        await until(lambda: len(hall.readings) == 300)

    run(hall, options(broker, tls=True, ca_file=str(cert)), story)
    error = end_of(Hall(), options(broker, tls=True, ca_file=str(wrong)))
    assert isinstance(error, DeviceLost)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    del error
    gc.collect()


def fake_broker(
    hall: Hall, answers: Callable[[bytes, int], bytes | None], **more: Any
) -> Exception:
    """How the driver ends with a broker that answers packets like this; none: it hangs up."""

    async def whole() -> Exception:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            number = connections
            with suppress(ConnectionError, asyncio.CancelledError):
                while data := await reader.read(4096):
                    answer = answers(data, number)
                    if answer is None:
                        break
                    writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        told = MqttCounterOptions("127.0.0.1", ROOT, server.sockets[0].getsockname()[1], **more)
        try:
            async with asyncio.timeout(30):
                await MqttCounter([Spec("broker", told)]).run(hall)
        except (DeviceLost, DeviceRefused) as error:
            return error
        finally:
            server.close()
            await server.wait_closed()
        raise AssertionError("it ended without a reason")

    return asyncio.run(whole())


def test_a_broker_that_speaks_3_1_1_alone_is_spoken_to_in_3_1_1() -> None:
    levels = []

    def answers(data: bytes, number: int) -> bytes | None:
        if data[0] == 0x10:
            levels.append(data[8])
            # MQTT 5: unsupported protocol version, by a broker that knows 5 well enough.
            return b"\x20\x03\x00\x84\x00" if number == 1 else b"\x20\x02\x00\x00"
        return b"\x90\x03" + data[2:4] + b"\x80"

    hall = Hall()
    error = fake_broker(hall, answers)
    assert levels == [5, 4]
    assert isinstance(error, DeviceRefused)
    assert "refused the subscription of hall/h1/in/queue/event" in str(error)


def test_a_broker_that_hangs_up_on_mqtt_5_is_tried_with_3_1_1() -> None:
    levels = []

    def answers(data: bytes, _: int) -> None:
        if data[0] == 0x10:
            levels.append(data[8])

    error = fake_broker(Hall(), answers)
    assert levels == [5, 4]
    assert isinstance(error, DeviceLost)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x02\x00\x00\x30\x00",
        b"\x20\x02\x00\x00\x32\x02\x00\x00",
        b"\x20\x02\x00\x00\x30\x03\x00\xff\x41",
        b"\x20\x02\x00\x00\x90\x01\x00",
        b"\x20\x02\x00\x00\x90\x02\x00\x01",
        b"\x20\x02\x00\x00\xff\xff\xff\xff\xff\xff",
        b"\x20\x00",
        b"\x20\x01\x00",
        b"\x20\x02\x00\x00\x40\x00\x62\x01\x00",
        b"\x20\x02\x00\x00\x30\x06\x00\x02\xff\xfe{}",
        os.urandom(64),
    ],
)
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_broker_that_is_none_is_lost_with_a_sentence(
    rubbish: bytes, protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some rubbish looks like the beginning of something long.
    monkeypatch.setattr(mqtt_counter, "ANSWER_SECONDS", 0.3)
    error = fake_broker(
        Hall(), lambda data, _: rubbish if data[0] == 0x10 else None, protocol=protocol
    )

    assert str(error).startswith("the broker at 127.0.0.1:")


def test_an_emulated_queue_system_publishes_again_what_the_broker_did_not_take(
    broker: Broker,
) -> None:
    hall = Hall()

    async def story() -> None:
        host = QueueHost("queue", ("127.0.0.1", broker.port), true_time, ROOT)
        await host.tell("called", "05", ticket="A037", queue="A", waiting=3)
        await until(lambda: len(hall.readings) == 1)
        await asyncio.to_thread(broker.kill)
        await host.tell("finished", "05", ticket="A037")
        assert [told["type"] for told in host.unsent] == ["finished"]

    run(hall, options(broker), story)
    broker.start()

    async def later() -> None:
        host = QueueHost("queue", ("127.0.0.1", broker.port), true_time, ROOT)
        first = await host.tell("ticket_taken", ticket="A038", queue="A")
        broker.kill()
        broker.start()
        # Nothing said that the connection broke.
        await host.tell("called", "05", ticket="A038")
        assert not host.unsent
        assert first["at"] == "2026-03-02T09:00:00.000+08:00"
        await host.stop()

    asyncio.run(later())
    (body,) = hall.bodies(QueueEvent)
    assert (body.event, body.window, body.ticket, body.waiting) == ("called", "05", "A037", 3)
    assert hall.readings[0].at == NINE


def true_time() -> datetime:
    return datetime.fromtimestamp(NINE / 1000, ZONE)


def test_retained_states_that_nobody_asked_for_are_no_readings() -> None:
    """The broker inside hallwatch sends them to every new connection, whatever it subscribed to."""
    hall = Hall()

    async def story() -> None:
        embedded = EmbeddedBroker(port=0)
        await embedded.start()
        address = ("127.0.0.1", embedded.port)
        reader, writer = await asyncio.open_connection(*address)
        # CONNECT of a client "all", and its SUBSCRIBE of "#".
        writer.write(bytes.fromhex("10 0F 0004 4D515454 04 02 003C 0003 616C6C"))
        writer.write(bytes.fromhex("82 06 0001 0001 23 00"))
        await reader.readexactly(9)
        pad = MqttPad("pad-05", address, true_time, ROOT)
        await pad.start()
        await pad.publish(f"{ROOT}/win/05/state", b"{}", retain=True)
        await pad.publish("hall/h2/in/queue/event", b"{}", retain=True)
        driver = MqttCounter([Spec("broker", MqttCounterOptions(*address[:1], ROOT, address[1]))])
        task = asyncio.create_task(driver.run(hall))
        await until(lambda: hall.count("not_asked_for") == 3)
        await pad.press(5, window="05", service_ref="A037")
        await until(lambda: len(hall.readings) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pad.stop()
        writer.close()
        await embedded.stop()

    asyncio.run(story())

    assert [body.level for body in hall.bodies(Rating)] == [5]
