"""The PUSH listener over real sockets: requests byte by byte, as terminals send them."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers import zk_push
from drivers.base import DeviceLost
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.zk_push import LISTENER_ID, ZkPush, ZkPushOptions
from rules.model import (
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    LogComplete,
    Punch,
    Reading,
    TerminalUser,
    Unreadable,
)
from tests.drivers.small_hall import ZONE, SmallHall

FRAMES = Path(__file__).parents[1] / "frames" / "zk_push"
NINE = int(datetime(2025, 3, 14, 8, 59, 1, tzinfo=ZONE).timestamp()) * 1000
SN = "HW20250001"


def frame(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


@dataclass(frozen=True)
class Spec:
    id: str
    options: ZkPushOptions


class Hall(SmallHall):
    """Also one whose disk is full after a while."""

    def __init__(self) -> None:
        super().__init__(NINE)
        self.transactions: list[int] = []
        self.room: int | None = None

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        if self.room is not None and len(self.readings) >= self.room:
            raise OSError("no space left")
        new = await super().emit(readings, marks)
        self.transactions.append(len(readings))
        return new


class Net:
    """A listener at work and ways to talk to it."""

    def __init__(self, hall: Hall, driver: ZkPush) -> None:
        self.hall = hall
        assert driver.address is not None
        self.address = driver.address

    async def raw(self, data: bytes, pieces: int = 0) -> bytes:
        """Everything that comes back until the listener hangs up."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for start in range(0, len(data), pieces or len(data) or 1):
                writer.write(data[start : start + (pieces or len(data))])
                await writer.drain()
                if pieces:
                    await asyncio.sleep(0)
            async with asyncio.timeout(50):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def get(self, target: str, extra: str = "") -> tuple[int, bytes]:
        head = f"GET /iclock/{target} HTTP/1.1\r\nConnection: close\r\n{extra}\r\n"
        return answer(await self.raw(head.encode()))

    async def post(self, target: str, body: bytes, extra: str = "") -> tuple[int, bytes]:
        head = (
            f"POST /iclock/{target} HTTP/1.1\r\nConnection: close\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return answer(await self.raw(head.encode() + body))

    async def attlog(self, *punches: str) -> tuple[int, bytes]:
        body = "".join(f"{punch}\n" for punch in punches).encode()
        return await self.post(f"cdata?SN={SN}&table=ATTLOG&Stamp=9999", body)

    async def poll(self) -> bytes:
        status, text = await self.get(f"getrequest?SN={SN}")
        assert status == 200
        return text

    async def keep_polling(self, seconds: int) -> None:
        for _ in range(seconds // 10):
            await self.hall.pass_seconds(10)
            await self.poll()


def answer(data: bytes) -> tuple[int, bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    assert match is not None, data
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    assert int(length.group(1)) == len(body)
    assert b"chunked" not in head.lower()
    return int(match.group(1)), body


def punch(person: str, at: int, verify: int = 1) -> str:
    wall = datetime.fromtimestamp(at / 1000, ZONE)
    return f"{person}\t{wall:%Y-%m-%d %H:%M:%S}\t0\t{verify}\t0\t0\t0"


@asynccontextmanager
async def listening(hall: Hall, *specs: Spec) -> AsyncIterator[Net]:
    driver = ZkPush(specs or (Spec("gate", ZkPushOptions(SN, port=0)),))
    task = asyncio.create_task(driver.run(hall))
    while driver.address is None and not task.done():
        await asyncio.sleep(0)
    if task.done():
        task.result()
    try:
        yield Net(hall, driver)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def play(story: Callable[[Net], Awaitable[None]], *specs: Spec, hall: Hall | None = None) -> Hall:
    """Run a story with a listener; the hall that it leaves behind."""

    async def whole() -> Hall:
        present = hall or Hall()
        async with listening(present, *specs) as net, asyncio.timeout(100):
            await story(net)
        return present

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """No defect hides behind a 500."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- the wire


def test_the_hello_is_answered_with_the_vendors_block_and_the_time() -> None:
    async def story(net: Net) -> None:
        request = frame("hello.http").replace(b"Connection: starting", b"Connection: close")
        data = await net.raw(request)

        assert answer(data) == (200, frame("hello_answer.txt"))
        headers = data.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
        assert "content-type: text/plain" in headers
        assert not any(line.startswith(("server:", "set-cookie:")) for line in headers)
        (date,) = (line[6:] for line in headers if line.startswith("date: "))
        assert parsedate_to_datetime(date).timestamp() * 1000 == NINE

    play(story)


def test_the_vendors_upload_is_journalled_before_it_is_acknowledged() -> None:
    async def story(net: Net) -> None:
        net.hall.stuck = asyncio.Event()
        request = frame("attlog.http").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        waiting = asyncio.create_task(net.raw(request))
        await net.hall.entered.wait()
        done, _ = await asyncio.wait({waiting}, timeout=0.05)

        assert not done
        net.hall.stuck.set()
        assert answer(await waiting) == (200, b"OK: 2")

    hall = play(story)

    assert hall.bodies(Punch) == [Punch("9001", 1, 0), Punch("9002", 15, 1)]
    assert hall.at(Punch) == [NINE, NINE + 6000]
    assert {(reading.device, reading.serial) for reading in hall.readings} == {("gate", SN)}
    assert hall.marks[("gate", "ATTLOGStamp")] == "9999"
    assert set(hall.contacts) == {"gate"}


@pytest.mark.parametrize("pieces", [1, 7, 64])
def test_a_request_in_pieces_is_one_request(pieces: int) -> None:
    async def story(net: Net) -> None:
        request = frame("attlog.http").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        assert answer(await net.raw(request, pieces)) == (200, b"OK: 2")

    assert len(play(story).bodies(Punch)) == 2


def test_several_requests_on_one_connection_are_answered_in_order() -> None:
    async def story(net: Net) -> None:
        last = f"GET /iclock/ping?SN={SN} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        data = await net.raw(frame("hello.http") + frame("attlog.http") + last)
        answers = re.findall(
            rb"HTTP/1\.1 200 OK\r\n.*?\r\n\r\n(?=(.*?)(?:HTTP/1\.1|$))", data, re.S
        )

        assert answers == [frame("hello_answer.txt"), b"OK: 2", b"OK"]

    play(story)


@pytest.mark.parametrize(
    "target",
    [
        "/iclock/cdata.aspx?SN={}&table=ATTLOG",
        "//iclock//cdata?SN={}&table=attlog",
        "/ICLOCK/CDATA?sn={}&TABLE=AttLog&",
        "/iclock/cdata?table=ATTLOG&SN={}&Stamp=",
    ],
)
def test_paths_and_keys_are_understood_however_they_are_spelt(target: str) -> None:
    async def story(net: Net) -> None:
        head = f"POST {target.format(SN)} HTTP/1.1\r\nConnection: close\r\nContent-Length: 28\r\n"
        data = await net.raw(f"{head}\r\n9001\t2025-03-14 08:59:01\t0\t1".encode())
        assert answer(data) == (200, b"OK: 1")

    assert play(story).bodies(Punch) == [Punch("9001", 1, 0)]


def test_http_1_0_without_host_is_accepted() -> None:
    async def story(net: Net) -> None:
        data = await net.raw(f"GET /iclock/ping?SN={SN} HTTP/1.0\r\n\r\n".encode())
        assert answer(data) == (200, b"OK")

    play(story)


def test_a_terminal_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async def story(net: Net) -> None:
        reader, writer = await asyncio.open_connection(*net.address)
        head = frame("attlog.http").partition(b"\r\n\r\n")
        writer.write(head[0] + b"\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")

        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(head[2])
        assert answer(await reader.read()) == (200, b"OK: 2")
        writer.close()

    play(story)


@pytest.mark.parametrize("kind", ["Content-Type: application/x-www-form-urlencoded\r\n", ""])
def test_a_body_is_never_taken_for_a_form(kind: str) -> None:
    async def story(net: Net) -> None:
        body = b"USER PIN=9001\tName=A+B%41&C\tPri=0\n"
        assert await net.post(f"cdata?SN={SN}&table=OPERLOG", body, kind) == (200, b"OK: 1")

    assert play(story).bodies(TerminalUser) == [TerminalUser("9001", "A+B%41&C")]


def test_a_chunked_body_is_taken() -> None:
    async def story(net: Net) -> None:
        head = f"POST /iclock/cdata?SN={SN}&table=ATTLOG HTTP/1.1\r\nConnection: close\r\n"
        body = b"1c\r\n9001\t2025-03-14 08:59:01\t0\t1\r\n0\r\n\r\n"
        data = await net.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert answer(data) == (200, b"OK: 1")

    assert len(play(story).bodies(Punch)) == 1


def test_a_body_cut_on_the_way_leaves_nothing_behind() -> None:
    async def story(net: Net) -> None:
        request = frame("attlog.http")
        for cut in (1, 40, len(request.partition(b"\r\n\r\n")[2]) - 1):
            reader, writer = await asyncio.open_connection(*net.address)
            writer.write(request[:-cut])
            await writer.drain()
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    hall = play(story)

    assert hall.readings == []
    assert hall.marks == {}


def test_an_oversized_body_is_refused_before_it_is_sent() -> None:
    async def story(net: Net) -> None:
        head = f"POST /iclock/cdata?SN={SN}&table=ATTLOG HTTP/1.1\r\nContent-Length: 99999999\r\n"
        status, text = answer(await net.raw(f"{head}\r\n".encode()))
        assert (status, text) == (413, b"")

    assert play(story).readings == []


def test_an_endless_chunked_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zk_push, "BODY_LIMIT", 100_000)

    async def story(net: Net) -> None:
        head = f"POST /iclock/cdata?SN={SN}&table=ATTLOG HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        data = await net.raw(f"{head}\r\n".encode() + chunk * 5)
        assert data == b"" or answer(data)[0] == 413

    assert play(story).readings == []


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zk_push, "BODIES_LIMIT", 50_000)

    async def story(net: Net) -> None:
        head = f"POST /iclock/cdata?SN={SN}&table=ATTLOG HTTP/1.1\r\nContent-Length: 60000\r\n"
        _, first = await asyncio.open_connection(*net.address)
        first.write(f"{head}\r\n".encode() + b"\n" * 40_000)
        await first.drain()
        while not net.hall.contacts:
            await asyncio.sleep(0.01)
        status, _ = await net.post(f"cdata?SN={SN}&table=ATTLOG", b"\n" * 20_000)
        assert status == 503
        first.close()
        async with asyncio.timeout(5):
            while (await net.post(f"cdata?SN={SN}&table=ATTLOG", b"\n" * 20_000))[0] != 200:
                await asyncio.sleep(0.01)

    play(story)


def test_an_endless_head_is_cut() -> None:
    async def story(net: Net) -> None:
        for start in (b"GET /" + b"a" * 200_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000):
            assert len(await net.raw(start)) < 200

    play(story)


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zk_push, "LIMITS", replace(zk_push.LIMITS, head_seconds=0.05))

    async def story(net: Net) -> None:
        assert await net.raw(b"") == b""
        assert await net.raw(b"GET /iclock/ping?SN") == b""
        reader, writer = await asyncio.open_connection(*net.address)
        writer.write(f"GET /iclock/ping?SN={SN} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"OK")
        await reader.readuntil(b"OK")
        writer.write(b"GET /iclock")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    play(story)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zk_push, "LIMITS", replace(zk_push.LIMITS, connections=3))

    async def story(net: Net) -> None:
        open_ones = [await asyncio.open_connection(*net.address) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert await net.raw(f"GET /iclock/ping?SN={SN} HTTP/1.1\r\n\r\n".encode()) == b""
        for _, writer in open_ones:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while not (await net.raw(b"GET /iclock/x HTTP/1.0\r\n\r\n")).endswith(b"OK"):
                await asyncio.sleep(0.01)

    play(story)


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zk_push, "BODY_SECONDS", 0.05)

    async def story(net: Net) -> None:
        assert answer(await net.raw(frame("attlog.http")[:-5])) == (408, b"")

    assert play(story).readings == []


def test_a_slow_upload_is_a_sign_of_life() -> None:
    async def story(net: Net) -> None:
        request = frame("attlog.http")
        reader, writer = await asyncio.open_connection(*net.address)
        for piece in (request[:-60], request[-60:-30], request[-30:]):
            writer.write(piece)
            before = len(net.hall.contacts)
            while len(net.hall.contacts) == before:
                await asyncio.sleep(0.01)
            await net.hall.pass_seconds(60)
        assert (await reader.readuntil(b"OK: 2")).startswith(b"HTTP/1.1 200")
        writer.close()

    assert play(story).losses == []


def test_the_listener_stops_at_once_though_terminals_hang_on() -> None:
    async def whole() -> None:
        hall = Hall()
        async with listening(hall) as net:
            idle = await asyncio.open_connection(*net.address)
            half = await asyncio.open_connection(*net.address)
            half[1].write(frame("attlog.http")[:-5])
            kept = await asyncio.open_connection(*net.address)
            kept[1].write(frame("hello.http"))
            await kept[0].readuntil(b"\r\n\r\n")
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1.5
        for reader, writer in (idle, half, kept):
            try:
                await reader.read()
            except ConnectionResetError:
                pass
            writer.close()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(*net.address)
        assert hall.readings[1:] == []

    asyncio.run(whole())


def test_an_address_that_is_taken_is_a_lost_device() -> None:
    async def story(net: Net) -> None:
        second = ZkPush((Spec("b", ZkPushOptions("HW20250002", port=net.address[1])),))
        with pytest.raises(DeviceLost, match=r"cannot listen on 127\.0\.0\.1 port \d+"):
            await second.run(net.hall)

    play(story)


def test_one_serial_cannot_be_two_devices() -> None:
    with pytest.raises(ValueError, match="HW20250001 is given to 2 devices"):
        ZkPush((Spec("a", ZkPushOptions(SN)), Spec("b", ZkPushOptions(SN))))


# -- who may speak


@pytest.mark.parametrize(
    "serial", ["", ";drop%20table", "abc", "%00%00%00%00", "a" * 33, "张三李四"]
)
def test_a_serial_that_is_none_is_a_bad_request(serial: str) -> None:
    async def story(net: Net) -> None:
        from urllib.parse import quote

        target = f"cdata?SN={quote(serial, safe='%;')}&table=ATTLOG"
        assert await net.post(target, b"9001\t2025-03-14 08:59:01\n") == (400, b"")
        assert await net.get("getrequest") == (400, b"")
        await net.hall.pass_seconds(6)

    hall = play(story)

    assert hall.readings == []
    assert hall.contacts == []
    assert hall.notes[LISTENER_ID]["bad_serials"] == 2


def test_a_terminal_that_nobody_configured_gets_nothing_and_is_listed() -> None:
    async def story(net: Net) -> None:
        assert await net.get("cdata?SN=HW20259999&options=all") == (403, b"")
        target = "cdata?SN=HW20259999&table=ATTLOG&Stamp=1"
        assert await net.post(target, b"9001\t2025-03-14 08:59:01\n") == (403, b"")
        await net.hall.pass_seconds(6)

    hall = play(story)

    assert (hall.readings, hall.contacts, hall.marks) == ([], [], {})
    assert hall.notes[LISTENER_ID]["seen_not_configured"] == [
        {
            "serial": "HW20259999",
            "address": "127.0.0.1",
            "first_seen": NINE,
            "last_seen": NINE,
            "requests": 2,
        }
    ]


def test_the_list_of_strangers_is_bounded_and_keeps_the_latest() -> None:
    async def story(net: Net) -> None:
        requests = [
            f"GET /iclock/ping?SN=HW{number:08} HTTP/1.0\r\n\r\n".encode() for number in range(230)
        ]
        for request in requests:
            await net.raw(request)
        await net.hall.pass_seconds(6)

    seen = play(story).notes[LISTENER_ID]["seen_not_configured"]

    assert len(seen) == 200
    assert seen[-1]["serial"] == "HW00000229"


def test_a_terminal_is_believed_from_its_own_address_alone() -> None:
    spec = Spec("gate", ZkPushOptions(SN, port=0, addresses=("10.9.8.7",)))

    async def story(net: Net) -> None:
        assert await net.attlog(punch("9001", NINE)) == (403, b"")
        assert await net.get(f"ping?SN={SN}", "X-Forwarded-For: 10.9.8.7\r\n") == (403, b"")

    hall = play(story, spec)

    assert (hall.readings, hall.contacts) == ([], [])
    assert "127.0.0.1" in hall.notes["gate"]["last_error"]


def test_a_wrong_key_shuts_the_terminal_out_until_it_shows_the_right_one(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    spec = Spec("gate", ZkPushOptions(SN, port=0, comm_key_file=str(key)))

    async def story(net: Net) -> None:
        hello = f"cdata?SN={SN}&options=all&pushcommkey="
        assert await net.get(f"{hello}wrong") == (403, b"")
        assert await net.attlog(punch("9001", NINE)) == (403, b"")
        assert (await net.get(f"{hello}s3cret"))[0] == 200
        assert await net.attlog(punch("9001", NINE)) == (200, b"OK: 1")

    assert len(play(story, spec).bodies(Punch)) == 1


def test_a_key_that_cannot_be_read_closes_that_terminal_only(tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    closed = Spec("gate", ZkPushOptions(SN, port=0, comm_key_file=path))
    other = Spec("hall", ZkPushOptions("HW20250002", port=0))

    async def story(net: Net) -> None:
        assert await net.get(f"ping?SN={SN}") == (403, b"")
        assert await net.get("ping?SN=HW20250002") == (200, b"OK")

    assert path in play(story, closed, other).notes["gate"]["last_error"]


def test_one_serial_from_two_addresses_within_minutes_is_told_once() -> None:
    async def story(net: Net) -> None:
        async def from_address(host: str) -> None:
            reader, writer = await asyncio.open_connection(*net.address, local_addr=(host, 0))
            writer.write(f"GET /iclock/ping?SN={SN} HTTP/1.0\r\n\r\n".encode())
            await reader.read()
            writer.close()

        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"):
            await from_address(host)
        await net.hall.pass_seconds(400)
        await from_address("127.0.0.3")

    hall = play(story)

    assert hall.bodies(DeviceEvent) == [DeviceEvent("two_addresses", detail="127.0.0.1 127.0.0.2")]
    assert hall.notes["gate"]["addresses"] == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.0", 404),
        ("GET /v1/punches HTTP/1.0", 404),
        ("GET /iclock/whatever HTTP/1.0", 200),
        ("HEAD /iclock/ HTTP/1.0", 404),
        ("POST /iclock/whatever HTTP/1.0", 400),
        ("DELETE /iclock/cdata?SN=HW20250001 HTTP/1.0", 405),
        ("GET /iclock/fdata?SN=HW20250001 HTTP/1.0", 200),
        ("GET /iclock/cdata?SN=HW20250001&table=x HTTP/1.0", 200),
        ("GET /iclock/ping?" + "&".join(f"a{n}=" for n in range(80)) + " HTTP/1.0", 400),
    ],
)
def test_other_paths_get_a_plain_answer(request_line: str, status: int) -> None:
    async def story(net: Net) -> None:
        told, text = answer(await net.raw(f"{request_line}\r\n\r\n".encode()))
        assert told == status
        assert text in ((b"OK",) if status == 200 else (b"",))

    play(story)


def test_head_is_answered_without_a_body() -> None:
    async def story(net: Net) -> None:
        data = await net.raw(f"HEAD /iclock/ping?SN={SN} HTTP/1.0\r\n\r\n".encode())
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert data.endswith(b"\r\n\r\n")

    play(story)


def test_another_makes_json_is_refused_and_counted() -> None:
    async def story(net: Net) -> None:
        body = b'{"cmd":"sendlog","sn":"HW20250001","record":[]}'
        assert await net.post(f"cdata?SN={SN}", body) == (400, b"")

    hall = play(story)

    assert hall.readings == []
    assert hall.notes["gate"]["refused_requests"] == 1


# -- what is kept and what is answered


@pytest.mark.parametrize(
    ("target", "body", "text", "kept"),
    [
        ("table=ATTLOG", b"9001\t2025-03-14 08:59:01\n\n0\t2025-03-14 08:59:01\n", b"OK: 2", 2),
        ("table=OPERLOG", frame("operlog.http").partition(b"\r\n\r\n")[2], b"OK: 4", 3),
        ("table=BIODATA", b"BIODATA Pin=1\tTmp=" + b"TVlT" * 400 + b"\n" * 3, b"OK: 1", 0),
        ("table=IDCARD", b"IDCARD PIN=1\tSNNum=x\n", b"OK: 1", 0),
        ("table=ERRORLOG", b"ERRORLOG ErrCode=1\tErrMsg=x\n", b"OK: 1", 1),
        ("table=ATTPHOTO", frame("attphoto.http").partition(b"\r\n\r\n")[2], b"OK", 0),
        ("table=options", frame("options.txt"), b"OK", 1),
        ("table=OPTIONS", frame("options.txt"), b"OK", 1),
        ("table=NEWTHING", b"anything", b"OK", 0),
        ("table=rtlog", frame("rtlog.txt"), b"OK", 1),
        ("table=rtstate", frame("rtstate_tamper.txt"), b"OK", 1),
        ("table=rtstate", b"time=x\talarm=00\n", b"OK", 1),
        ("table=tabledata&tablename=user&count=1", frame("tabledata_user.txt"), b"user=1", 1),
        ("table=tabledata&tablename=biophoto", b"biophoto pin=1\tcontent=x\n", b"biophoto=1", 0),
        ("table=tabledata&tablename=templatev10", b"templatev10 a=1\n" * 2, b"templatev10=2", 0),
        ("table=tabledata&tablename=%0a", b"x y=1\n", b"OK", 0),
        ("AuthType=device", frame("rtlog.txt"), b"AUTH=TIMEOUT\n" + frame("rtlog.txt"), 0),
    ],
)
def test_every_table_has_its_answer(target: str, body: bytes, text: bytes, kept: int) -> None:
    async def story(net: Net) -> None:
        assert await net.post(f"cdata?SN={SN}&{target}", body) == (200, text)

    hall = play(story)

    assert len(hall.readings) == kept
    everything = b"".join(r.raw + repr(r.body).encode() for r in hall.readings)
    for secret in (b"TVlT", b"JFIF", b"123456", b"15CD5B07"):
        assert secret not in everything


def test_a_clones_punch_in_the_query_is_taken() -> None:
    async def story(net: Net) -> None:
        target = f"cdata?SN={SN}&Pin=9001&DateTime=2025-03-14%2008:59:01&Status=1"
        assert await net.get(target) == (200, b"OK: 1")

    hall = play(story)

    assert hall.bodies(Punch) == [Punch("9001", state=1)]
    assert hall.at(Punch) == [NINE]


def test_a_bad_row_blocks_no_other_and_counts_as_received() -> None:
    async def story(net: Net) -> None:
        for _ in range(2):
            await net.hall.pass_seconds(1)
            assert await net.attlog(punch("9001", NINE), "rubbish", punch("9002", NINE)) == (
                200,
                b"OK: 3",
            )

    hall = play(story)

    assert [body.person for body in hall.bodies(Punch)] == ["9001", "9002"]
    assert len(hall.bodies(Unreadable)) == 1
    assert [r.raw for r in hall.readings if type(r.body) is Unreadable] == [b"rubbish"]
    assert hall.notes["gate"]["decode_errors"] == 2


def test_when_the_store_fails_the_terminal_keeps_its_punches_and_the_resend_is_stored_once() -> (
    None
):
    async def story(net: Net) -> None:
        net.hall.disk_full = True
        assert await net.attlog(punch("9001", NINE)) == (503, b"")
        assert (net.hall.readings, net.hall.marks) == ([], {})
        net.hall.disk_full = False
        assert await net.attlog(punch("9001", NINE)) == (200, b"OK: 1")
        assert await net.attlog(punch("9001", NINE)) == (200, b"OK: 1")

    hall = play(story)

    assert len(hall.bodies(Punch)) == 1
    assert hall.marks[("gate", "ATTLOGStamp")] == "9999"


def test_a_disk_that_fills_in_the_middle_of_a_backlog_moves_no_stamp() -> None:
    async def story(net: Net) -> None:
        rows = [punch(str(9000 + number), NINE) for number in range(2 * zk_push.BATCH)]
        net.hall.room = zk_push.BATCH
        assert await net.attlog(*rows) == (503, b"")
        assert net.hall.marks == {}
        assert len(net.hall.bodies(Punch)) == zk_push.BATCH
        net.hall.room = None
        assert await net.attlog(*rows) == (200, b"OK: 2000")

    hall = play(story)

    assert len(hall.bodies(Punch)) == 2 * zk_push.BATCH
    assert hall.marks == {("gate", "ATTLOGStamp"): "9999"}


def test_unreadable_rows_without_end_do_not_fill_the_journal() -> None:
    async def story(net: Net) -> None:
        body = b"".join(b"rubbish %d\n" % number for number in range(1500))
        assert await net.post(f"cdata?SN={SN}&table=ATTLOG", body) == (200, b"OK: 1500")

    hall = play(story)

    assert len(hall.bodies(Unreadable)) == 1000
    assert hall.notes["gate"]["decode_errors"] == 1500


def test_a_template_is_told_by_its_length_wherever_it_stands() -> None:
    async def story(net: Net) -> None:
        await net.attlog("TVlTUzIx" * 100)
        await net.post(f"cdata?SN={SN}&table=OPERLOG", b"\x01\x02\xff\xd8binary\n")

    hall = play(story)

    assert [r.raw for r in hall.readings] == [b"*", b""]


def test_the_stamp_is_handed_back_once_its_rows_are_journalled() -> None:
    async def story(net: Net) -> None:
        target = f"cdata?SN={SN}&table=ATTLOG&Stamp=82983982"
        await net.post(target, punch("9001", NINE).encode())
        await net.post(
            f"cdata?SN={SN}&table=OPERLOG&OpStamp=17", b"OPLOG 0\t0\t2025-03-14 08:00:00"
        )
        block = (await net.get(f"cdata?SN={SN}&options=all&pushver=2.4.1"))[1]
        assert b"\nATTLOGStamp=82983982\nOPERLOGStamp=17\nATTPHOTOStamp=None\n" in block

    play(story)


def test_a_backlog_of_five_megabytes_is_taken_in_one_request() -> None:
    count = 115_000
    body = b"".join(
        b"%d\t2025-02-%02d %02d:%02d:%02d\t0\t1\t0\t0\t0    \t0\t0\t0\n"
        % (9000 + n // 86400, 1 + n % 28, n % 24, n // 24 % 60, n // 1440 % 60)
        for n in range(count)
    )
    assert len(body) > 5_000_000

    async def story(net: Net) -> None:
        assert await net.post(f"cdata?SN={SN}&table=ATTLOG&Stamp=7", body) == (200, b"OK: 115000")

    hall = play(story)

    assert sum(hall.transactions) == count
    assert max(hall.transactions) <= zk_push.BATCH
    assert not any(body.live for body in hall.bodies(Punch))
    assert hall.marks[("gate", "ATTLOGStamp")] == "7"


def test_a_users_name_is_journalled_only_when_it_changes() -> None:
    async def story(net: Net) -> None:
        for name in ("张三", "张三", "李四"):
            await net.hall.pass_seconds(1)
            body = f"USER PIN=9001\tName={name}\tPasswd=9\n".encode("gbk")
            assert await net.post(f"cdata?SN={SN}&table=OPERLOG", body) == (200, b"OK: 1")

    hall = play(story)

    assert hall.bodies(TerminalUser) == [TerminalUser("9001", "张三"), TerminalUser("9001", "李四")]
    assert {r.raw for r in hall.readings} == {b""}


def test_a_packed_body_is_acknowledged_and_said_to_be_unreadable() -> None:
    async def story(net: Net) -> None:
        target = f"cdata?SN={SN}&table=OPERLOG&ContentType=tgz"
        assert await net.post(target, b"\x1f\x8b\x08\x00 packed") == (200, b"OK: 1")

    hall = play(story)

    assert hall.bodies(Unreadable) == [
        Unreadable("a packed body, which hallwatch does not ask for")
    ]
    assert hall.readings[0].raw == b""


# -- live or not


def test_a_punch_is_live_only_after_two_minutes_of_contact() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.attlog(punch("9001", hall.now()))
        await net.keep_polling(120)
        await net.attlog(punch("9002", hall.now()))

    hall = play(story)

    assert [body.live for body in hall.bodies(Punch)] == [False, True]


def test_a_gap_or_a_failed_upload_makes_what_follows_a_backlog() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.keep_polling(130)
        await hall.pass_seconds(100)
        await net.attlog(punch("9001", hall.now()))
        await net.keep_polling(130)
        hall.disk_full = True
        await net.attlog(punch("9002", hall.now()))
        hall.disk_full = False
        await hall.pass_seconds(30)
        await net.attlog(punch("9002", hall.now()))
        await net.keep_polling(130)
        await net.attlog(punch("9003", hall.now()))

    hall = play(story)

    assert [body.live for body in hall.bodies(Punch)] == [False, False, True]


def test_a_long_batch_and_old_rows_are_not_live() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.keep_polling(130)
        await net.attlog(punch("9001", hall.now()))
        await net.attlog(punch("9002", hall.now() - 3_600_000))
        await net.attlog(*(punch(str(n), hall.now()) for n in range(1, 7)))

    hall = play(story)

    assert [body.live for body in hall.bodies(Punch)] == [True] + [False] * 7


def test_one_date_far_ahead_does_not_make_later_punches_old() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.keep_polling(130)
        await net.attlog("9001\t2099-01-01 00:00:00\t0\t1")
        await net.attlog(punch("9002", hall.now()))

    assert [body.live for body in play(story).bodies(Punch)] == [True, True]


def test_the_clock_is_estimated_from_live_punches() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.attlog(punch("9001", hall.now()))
        assert hall.bodies(ClockCheck) == []
        await net.keep_polling(130)
        # 40 s slow, and 3 s on the way; then 1 s on the way
        await net.attlog(punch("9001", hall.now() - 43_000))
        await net.attlog(punch("9002", hall.now() - 41_000))
        await hall.pass_seconds(20)
        await net.attlog(punch("9003", hall.now() + 7_200_000))

    hall = play(story)

    assert hall.bodies(ClockCheck) == [ClockCheck("live"), ClockCheck("live")]
    first = NINE + 130_000
    assert hall.at(ClockCheck) == [first - 43_000, first + 20_000 + 7_200_000]
    kinds = [type(r.body) for r in hall.readings if type(r.body) in (Punch, ClockCheck)]
    assert kinds == [Punch, ClockCheck, Punch, Punch, ClockCheck, Punch]


def test_a_clock_set_back_is_believed_from_the_second_punch() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.keep_polling(130)
        await net.attlog(punch("9001", hall.now() + 3_600_000))
        for person in ("9002", "9003", "9004"):
            await hall.pass_seconds(10)
            await net.attlog(punch(person, hall.now() - 2_000))

    hall = play(story)

    assert all(body.live for body in hall.bodies(Punch))
    assert [at - NINE for at in hall.at(ClockCheck)] == [130_000 + 3_600_000, 150_000 - 2_000]


def test_answers_lost_on_the_way_do_not_make_the_clock_look_slow() -> None:
    async def story(net: Net) -> None:
        await net.keep_polling(130)
        told = punch("9001", net.hall.now())
        for _ in range(10):
            await net.attlog(told)
            await net.hall.pass_seconds(30)

    assert len(play(story).bodies(ClockCheck)) == 1


def test_the_same_offset_is_told_again_after_an_hour_only() -> None:
    async def story(net: Net) -> None:
        await net.keep_polling(130)
        for person in range(1, 80):
            await net.keep_polling(60)
            await net.attlog(punch(str(person), net.hall.now()))

    assert len(play(story).bodies(ClockCheck)) == 2


# -- heartbeats


def test_a_quiet_heartbeat_proves_the_log_complete() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.attlog(punch("9001", hall.now()))
        await net.keep_polling(110)
        assert hall.bodies(LogComplete) == []
        await net.keep_polling(10)
        assert hall.at(LogComplete) == [NINE + 120_000]
        await net.keep_polling(600)
        assert len(hall.bodies(LogComplete)) == 1
        await net.attlog(punch("9002", hall.now()))
        await net.keep_polling(50)
        assert len(hall.bodies(LogComplete)) == 1
        await net.keep_polling(10)
        assert len(hall.bodies(LogComplete)) == 2
        await net.keep_polling(3600)
        assert len(hall.bodies(LogComplete)) == 3

    play(story)


def test_a_log_is_not_complete_while_an_upload_keeps_failing() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        for _ in range(20):
            await net.keep_polling(30)
            hall.disk_full = True
            await net.attlog(punch("9001", NINE))
            hall.disk_full = False

    assert play(story).bodies(LogComplete) == []


def test_a_refused_terminal_is_lost_with_the_reason() -> None:
    spec = Spec("gate", ZkPushOptions(SN, port=0, addresses=("10.9.8.7",)))

    async def story(net: Net) -> None:
        await net.get(f"ping?SN={SN}")
        await net.hall.pass_seconds(100)

    reason = "a request came from 127.0.0.1, which is not in addresses"
    assert play(story, spec).losses == [("gate", reason)]


def test_a_terminal_that_falls_silent_is_lost_and_found() -> None:
    other = Spec("hall", ZkPushOptions("HW20250002", port=0, delay=60))

    async def story(net: Net) -> None:
        hall = net.hall
        await net.poll()
        await hall.pass_seconds(85)
        assert hall.losses == []
        await hall.pass_seconds(15)
        assert hall.losses == [("gate", "no request for 90 s")]
        await hall.pass_seconds(75)
        assert hall.losses == [("gate", "no request for 90 s")]
        await hall.pass_seconds(15)
        assert hall.losses[1:] == [("hall", "no request for 180 s")]
        await net.poll()
        await hall.pass_seconds(100)
        assert hall.losses[2:] == [("gate", "no request for 90 s")]

    play(story, Spec("gate", ZkPushOptions(SN, port=0)), other)


def test_info_on_a_poll_is_noted_and_only_a_change_is_journalled() -> None:
    async def story(net: Net) -> None:
        info = "Ver%202.0.12-20150625,7,4,23,192.168.16.27,10,7,15,3,111"
        for _ in range(2):
            await net.get(f"getrequest?SN={SN}&INFO={info}")
        await net.get(f"getrequest?SN={SN}&INFO={info.replace('Ver%202', '2')}")
        await net.get(f"getrequest?SN={SN}&INFO={info.replace('7,4,23', '8,4,24')}")

    hall = play(story)

    facts: dict[str, str | int] = {"firmware": "Ver 2.0.12-20150625", "ip": "192.168.16.27"}
    assert hall.bodies(DeviceInfo) == [DeviceInfo(facts)]
    assert (hall.notes["gate"]["users"], hall.notes["gate"]["records"]) == (8, 24)


def test_another_box_under_the_same_serial_is_told() -> None:
    hall = Hall()

    async def story(net: Net) -> None:
        body = frame("options.txt")
        await net.post(f"cdata?SN={SN}&table=options", body)

    async def later(net: Net) -> None:
        body = frame("options.txt").replace(b"12:34:56", b"65:43:21")
        for _ in range(2):
            await net.post(f"cdata?SN={SN}&table=options", body)

    play(story, hall=hall)
    play(later, hall=hall)

    assert hall.bodies(DeviceEvent) == [
        DeviceEvent("mac_changed", detail="00:17:61:12:34:56 00:17:61:65:43:21")
    ]
    assert len(hall.bodies(DeviceInfo)) == 2


# -- commands


def commands_in(text: bytes) -> list[tuple[str, str]]:
    if text == b"OK":
        return []
    found = re.findall(rb"C:([0-9A-Za-z]{1,16}):([^\n]+)\n", text)
    assert b"".join(b"C:%s:%s\n" % pair for pair in found) == text
    return [(number.decode(), command.decode()) for number, command in found]


def test_after_the_hello_the_terminal_is_asked_what_it_is() -> None:
    async def story(net: Net) -> None:
        await net.raw(frame("hello.http").replace(b"starting", b"close"))
        commands = commands_in(await net.poll())
        assert [command for _, command in commands] == ["INFO", "DATA QUERY USERINFO"]
        assert await net.poll() == b"OK"
        body = frame("devicecmd_info.txt").replace(b"ID=17", f"ID={commands[0][0]}".encode())
        body += f"ID={commands[1][0]}&Return=-1&CMD=DATA\n".encode()
        assert await net.post(f"devicecmd?SN={SN}", body) == (200, b"OK")
        assert await net.post(f"devicecmd?SN={SN}", body + b"ID=Z9&Return=0") == (200, b"OK")
        await net.keep_polling(300)

    hall = play(story)

    assert hall.bodies(DeviceInfo)[-1].facts["mac"] == "00:17:61:12:34:56"
    assert hall.notes["gate"]["last_error"] == "DATA QUERY USERINFO answered -1"
    assert "commands_unanswered" not in hall.notes["gate"]


def test_a_command_is_asked_three_times_ten_polls_apart_and_then_dropped() -> None:
    async def story(net: Net) -> None:
        asked = [number for number in range(45) if commands_in(await net.poll())]
        assert asked == [0, 11, 22]

    assert play(story).notes["gate"]["commands_unanswered"] == 1


def test_users_are_asked_for_once_a_day() -> None:
    async def story(net: Net) -> None:
        (first,) = commands_in(await net.poll())
        await net.post(f"devicecmd?SN={SN}", f"ID={first[0]}&Return=0&CMD=DATA".encode())
        for _ in range(60):
            await net.hall.pass_seconds(89)
            assert await net.poll() == b"OK"
        net.hall.time += 86_400_000
        texts = [command.split(" Start")[0] for _, command in commands_in(await net.poll())]
        assert sorted(texts) == ["DATA QUERY ATTLOG", "DATA QUERY USERINFO"]

    play(story)


def test_after_an_hour_without_contact_the_last_days_punches_are_asked_for() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.poll()
        await hall.pass_seconds(3000)
        assert await net.poll() == b"OK"
        await hall.pass_seconds(3601)
        (command,) = commands_in(await net.poll())
        assert command[1] == (
            "DATA QUERY ATTLOG StartTime=2025-03-13 10:49:02\tEndTime=2025-03-14 10:49:02"
        )
        for _ in range(4):
            await hall.pass_seconds(60)
            await net.poll()
        assert hall.bodies(LogComplete) == []
        await net.attlog(punch("9001", hall.now() - 60_000))
        await net.post(f"devicecmd?SN={SN}", f"ID={command[0]}&Return=0&CMD=DATA".encode())
        await net.keep_polling(70)
        assert len(hall.bodies(LogComplete)) == 1

    play(story)


def test_after_a_restart_the_mark_tells_how_long_the_contact_was_lost() -> None:
    hall = Hall()

    async def before(net: Net) -> None:
        await net.keep_polling(130)

    async def after(net: Net) -> None:
        net.hall.time += 4_000_000
        texts = [command.split(" Start")[0] for _, command in commands_in(await net.poll())]
        assert "DATA QUERY ATTLOG" in texts

    async def as_access_terminal(net: Net) -> None:
        net.hall.marks["gate", "registry"] = "CODE"
        net.hall.time += 4_000_000
        assert await net.poll() == b"OK"

    play(before, hall=hall)
    play(after, hall=hall)
    play(as_access_terminal, hall=hall)


# -- access terminals


def test_an_access_terminal_registers_and_always_gets_the_same_code() -> None:
    hall = Hall()
    hello = f"cdata?SN={SN}&options=all&pushver=3.1.2&DeviceType=acc"
    codes = []

    async def first(net: Net) -> None:
        assert await net.get(hello) == (200, b"OK")
        status, text = await net.post(f"registry?SN={SN}", b"DeviceType=acc,MAC=00:11,FirmVer=x")
        assert status == 200
        assert re.fullmatch(rb"RegistryCode=[0-9A-F]{16}", text)
        codes.append(text)
        options = (await net.post(f"push?SN={SN}", b""))[1].decode().splitlines()
        assert options[:3] == ["ServerVersion=3.1.2", "ServerName=ADMS", "PushProtVer=3.1.2"]
        assert "TransTables=User Transaction" in options
        assert not any("Bio" in line for line in options)
        assert await net.poll() == b"OK"

    async def again(net: Net) -> None:
        text = (await net.get(hello))[1]
        assert text.startswith(b"registry=ok\n" + codes[0] + b"\nServerVersion=3.1.2\n")
        assert (await net.post(f"registry?SN={SN}", b"DeviceType=acc"))[1] == codes[0]

    play(first, hall=hall)
    play(again, hall=hall)


def test_a_wrong_token_is_counted_and_the_punch_still_taken() -> None:
    async def story(net: Net) -> None:
        await net.post(f"registry?SN={SN}", b"DeviceType=acc")
        options = (await net.post(f"push?SN={SN}", b""))[1].decode()
        (session,) = re.findall(r"SessionID=(\w+)", options)
        token = zk_push.session_token(net.hall.marks[("gate", "registry")], SN, session)
        target = f"cdata?SN={SN}&table=rtlog"
        for cookie in (f"token={token}", f"{token.upper()}, timestamp=1"):
            await net.post(target, frame("rtlog.txt"), f"Cookie: {cookie}\r\n")
        assert "token_mismatches" not in net.hall.notes.get("gate", {})
        assert await net.post(target, frame("rtlog.txt"), "Cookie: token=0\r\n") == (200, b"OK")

    hall = play(story)

    assert hall.notes["gate"]["token_mismatches"] == 1
    assert len(hall.bodies(Punch)) == 1


def test_a_door_alarm_is_told_when_it_begins_and_its_time_checks_the_clock() -> None:
    async def story(net: Net) -> None:
        hall = net.hall
        await net.keep_polling(130)
        for alarm in ("0200", "0200", "0000", "0300"):
            wall = datetime.fromtimestamp(hall.now() / 1000 - 60, ZONE)
            row = f"time={wall:%Y-%m-%d %H:%M:%S}\tsensor=00\trelay=00\talarm={alarm}\n"
            await net.post(f"cdata?SN={SN}&table=rtstate", row.encode())
            await hall.pass_seconds(5)

    hall = play(story)

    assert [body.name for body in hall.bodies(DeviceEvent)] == ["tamper", "door_forced", "tamper"]
    assert hall.at(ClockCheck) == [NINE + 130_000 - 60_000]


def test_queried_rows_are_taken() -> None:
    async def story(net: Net) -> None:
        row = b"transaction pin=9001\tverified=15\teventtype=0\ttime_second=810032341\n"
        target = f"querydata?SN={SN}&type=tabledata&tablename=transaction&packcnt=1&packidx=1"
        assert await net.post(target, row) == (200, b"OK")
        assert await net.post(f"{target}&datafmt=3", b"\x78\x9c...") == (200, b"OK")

    assert play(story).bodies(Punch) == [Punch("9001", 15)]


def test_a_terminal_that_wants_to_encrypt_is_offered_an_older_version() -> None:
    hall = Hall()

    async def story(net: Net) -> None:
        hello = f"cdata?SN={SN}&options=all&pushver=2.4.1"
        assert b"PushProtVer=2.4.1\n" in (await net.get(hello))[1]
        assert await net.post(f"exchange?SN={SN}&type=publickey", b"x") == (404, b"")
        assert b"PushProtVer=2.3.0\n" in (await net.get(hello))[1]
        assert "last_error" not in hall.notes.get("gate", {})
        for _ in range(2):
            await hall.pass_seconds(1)
            assert await net.post(f"exchange?SN={SN}&type=factors", b"x") == (404, b"")

    play(story, hall=hall)

    assert [body.name for body in hall.bodies(DeviceEvent)] == [
        "encryption_asked",
        "encryption_insisted",
    ]
    assert hall.notes["gate"]["last_error"] == "the terminal insists on encryption"


# -- hostile requests

TARGETS = st.sampled_from(
    [
        *(f"cdata?SN={SN}&table={t}" for t in ("ATTLOG", "OPERLOG", "rtlog", "rtstate", "options")),
        *(f"cdata?SN={SN}&table=tabledata&tablename=user", f"cdata?SN={SN}&AuthType=device"),
        *(f"{e}?SN={SN}" for e in ("devicecmd", "querydata", "registry", "push", "ping", "x")),
        *(f"cdata?SN={SN}&options=all&pushver=9.9.9.9", "cdata?SN=a", "cdata"),
        *(f"getrequest?SN={SN}&INFO=,,,,%ff,,,", f"cdata?SN={SN}&Pin=%00&DateTime=%ff"),
    ]
)


@pytest.fixture(scope="module")
def busy_listener() -> Iterator[tuple[Hall, tuple[str, int]]]:
    """A listener in a thread of its own, for many requests of one test."""
    hall, loop, ready = Hall(), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()
    address: list[tuple[str, int]] = []

    async def whole() -> None:
        async with listening(hall) as net:
            address.append(net.address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(whole(),))
    thread.start()
    assert ready.wait(5)
    yield hall, address[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=5) as connection:
        received = []
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received.append(chunk)
        except ConnectionError:
            pass
        return b"".join(received)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "HEAD", "PUT"]), TARGETS, st.binary(max_size=200)
        ),
        max_size=4,
    ),
    rubbish=st.binary(max_size=200)
    | st.sampled_from(
        [
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"CONNECT a:80 HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET http://h HTTP/1.1\r\n\r\n",
            b"POST /iclock/ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /iclock/ping HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET /iclock/\xd5\xc5 HTTP/1.1\r\n\r\n",
        ]
    ),
)
def test_no_request_makes_the_listener_fail(
    busy_listener: tuple[Hall, tuple[str, int]],
    requests: list[tuple[str, str, bytes]],
    rubbish: bytes,
) -> None:
    hall, address = busy_listener
    data = b"".join(
        f"{method} /iclock/{target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for method, target, body in requests
    )

    assert b" 500 " not in exchange(address, data + rubbish)
    ping = f"GET /iclock/ping?SN={SN} HTTP/1.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(ping.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    assert all(len(reading.raw) <= 4096 for reading in hall.readings)


# -- with an emulated terminal


def with_terminal(
    story: Callable[[Net, PushTerminal], Coroutine[None, None, None]],
    prepare: Callable[[PushTerminal], None] = lambda _: None,
    **settings: Any,
) -> Hall:
    async def whole(net: Net) -> None:
        def wall() -> datetime:
            return datetime.fromtimestamp(net.hall.now() / 1000, ZONE).replace(tzinfo=None)

        terminal = PushTerminal(
            SN,
            net.address,
            clock=wall,
            users=[
                PushUser("9001", "张三", card=123456789, password="4321"),
                PushUser("9002", "李四"),
            ],
            delay=0.01,
            error_delay=0.01,
            **settings,
        )
        prepare(terminal)
        await terminal.start()
        try:
            async with asyncio.timeout(20):
                await story(net, terminal)
        finally:
            await terminal.stop()

    return play(whole)


async def two_punches(net: Net, terminal: PushTerminal) -> None:
    await terminal.punch("9001", verify=15)
    await net.hall.pass_seconds(7)
    await terminal.punch("9002", verify=1, state=1)
    await terminal.delivered()


def oddity(**attributes: Any) -> Callable[[PushTerminal], None]:
    def prepare(terminal: PushTerminal) -> None:
        for name, value in attributes.items():
            assert hasattr(terminal, name)
            setattr(terminal, name, value)

    return prepare


@pytest.mark.parametrize(
    ("attributes", "settings"),
    [
        ({}, {}),
        ({"keep_alive": True}, {}),
        ({"http_version": "1.0", "host_header": False}, {}),
        ({"expect_continue": True}, {}),
        ({"connection_header": "starting", "content_type": ""}, {}),
        ({"split_writes": 9}, {}),
        ({"cut_body_after": 11}, {}),
        ({"columns": 12}, {}),
        ({"columns": 4, "newline": "\r\n"}, {}),
        ({"columns": 6, "newline": "\r"}, {}),
        ({"row_style": "word"}, {}),
        ({"row_style": "first_space"}, {}),
        ({"row_style": "spaces"}, {}),
        ({"compact_time": True, "junk": True}, {}),
        ({"repeat_batches": 3}, {}),
        ({"follows_stamps": True}, {}),
        ({"insists_on_encryption": True}, {}),
        ({}, {"path_prefix": "//iclock", "path_suffix": ".aspx"}),
        ({}, {"encoding": "utf-8"}),
        ({}, {"dialect": "acc"}),
        ({"keep_alive": True, "newline": "\r\n"}, {"dialect": "acc"}),
    ],
)
def test_two_punches_of_any_terminal_arrive_once(
    attributes: dict[str, Any], settings: dict[str, Any]
) -> None:
    hall = with_terminal(two_punches, oddity(**attributes), **settings)

    told = sorted(
        (r.body.person, r.body.verify, r.at) for r in hall.readings if type(r.body) is Punch
    )
    assert told == [("9001", 15, NINE), ("9002", 1, NINE + 7000)]
    users = {(body.person, body.name) for body in hall.bodies(TerminalUser)}
    assert users == {("9001", "张三"), ("9002", "李四")}
    assert hall.bodies(Unreadable) == []
    assert hall.bodies(DeviceInfo)[-1].facts["mac"] == "00:17:61:12:34:56"
    everything = b"".join(r.raw + repr(r.body).encode() for r in hall.readings)
    assert b"4321" not in everything
    assert b"123456789" not in everything


def test_punches_in_the_query_of_a_clone_arrive() -> None:
    hall = with_terminal(two_punches, oddity(punches_in_query=True))

    assert [body.person for body in hall.bodies(Punch)] == ["9001", "9002"]


def test_templates_and_photos_are_acknowledged_and_gone() -> None:
    async def story(net: Net, terminal: PushTerminal) -> None:
        terminal.upload_biometrics("9001")
        await two_punches(net, terminal)

    hall = with_terminal(story)

    assert len(hall.bodies(Punch)) == 2
    everything = b"".join(r.raw + repr(r.body).encode() for r in hall.readings)
    assert b"SW52ZW50" not in everything
    assert b"JFIF" not in everything


def test_a_terminal_waits_out_a_full_disk_and_loses_nothing() -> None:
    async def story(net: Net, terminal: PushTerminal) -> None:
        await terminal.delivered()
        net.hall.disk_full = True
        for number in range(50):
            terminal.record(str(9100 + number))
        await asyncio.sleep(0.1)
        assert net.hall.bodies(Punch) == []
        net.hall.disk_full = False
        await terminal.delivered()

    hall = with_terminal(story)

    assert sorted(body.person for body in hall.bodies(Punch)) == [str(n) for n in range(9100, 9150)]


def test_a_terminal_answers_the_questions_it_is_asked() -> None:
    async def story(net: Net, terminal: PushTerminal) -> None:
        await two_punches(net, terminal)
        await terminal.unplug()
        net.hall.time += 2 * 3_600_000
        await terminal.plug_in()
        while not any("ATTLOG" in command for command in terminal.commands):
            await asyncio.sleep(0.01)
        await terminal.delivered()

    hall = with_terminal(story)

    assert len(hall.bodies(Punch)) == 2
    assert hall.notes["gate"].get("commands_unanswered") is None
