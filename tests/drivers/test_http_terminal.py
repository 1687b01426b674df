"""What Dahua and Uface terminals post, over real sockets and as bytes."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drivers.base import DeviceLost, DeviceRefused
from drivers.emulators.http_terminal import PICTURE, UfaceTerminal
from drivers.http_terminal import (
    LISTENER_ID,
    HttpTerminal,
    HttpTerminalOptions,
    dahua_events,
    decode,
    inflated,
    uface_record,
    wall_as_utc,
    which_times,
)
from rules.model import DeviceEvent, Punch, Unreadable, reading_id
from tests.drivers.small_hall import ZONE, SmallHall

NINE = int(datetime(2025, 3, 14, 9, 0, 0, tzinfo=ZONE).timestamp()) * 1000
TOKEN = "s3cret-path"


def uface(**fields: str) -> bytes:
    told = {
        "deviceKey": "84E0F4200001",
        "personId": "9001",
        "time": str(NINE),
        "type": "face_0",
        "ip": "192.168.1.64",
        "path": "ftp://x/1.jpg",
        "imgBase64": "QUJD" * 5000,
        "searchScore": "97.1",
        "temperature": "36.5",
    }
    return urlencode(told | fields).encode()


DATA = {
    "UserID": "9001",
    "CardName": "张三",
    "CardNo": "3141592653",
    "Door": 0,
    "ErrorCode": 0,
    "Method": 15,
    "ReaderID": "1",
    "Status": 1,
    "Type": "Entry",
    "UTC": NINE // 1000,
    "Similarity": 97,
    "URL": "/mnt/a.jpg",
}


def dahua(**fields: object) -> bytes:
    told = {"Events": [{"Code": "AccessControl", "Data": DATA | fields}]}
    return json.dumps(told, ensure_ascii=False).encode()


def dahua_text(**fields: object) -> bytes:
    data = json.dumps(DATA | fields, ensure_ascii=False, indent=2)
    return f"Code=AccessControl;action=Pulse;index=0;data={data}\r\n".encode()


# -- Uface


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, Punch("9001")),
        ({"type": "card_0"}, Punch("9001")),
        ({"type": "face_1"}, DeviceEvent("refused", 1, "wrong period face_1 person=9001")),
        ({"type": "face_2", "personId": "STRANGERBABY"},
         DeviceEvent("refused", 2, "not recognised face_2")),
        ({"type": "face_2", "personId": ""}, DeviceEvent("refused", 2, "not recognised face_2")),
        ({"personId": "STRANGERBABY"}, DeviceEvent("unknown_person", 0, "face_0")),
        ({"personId": "11010519491231002X"}, DeviceEvent("unknown_person", 0, "face_0")),
        ({"type": "face_7"}, DeviceEvent("other", 7, "face_7 person=9001")),
    ],
)  # fmt: skip
def test_uface_records(fields: dict[str, str], body: object) -> None:
    key, told = uface_record(uface(**fields))

    assert told
    assert (key, told.body, told.at) == ("84E0F4200001", body, NINE)
    for private in (b"QUJD", b"36.5", b"97.1", b"ftp", b"11010519491231002X"):
        assert private not in told.raw


def test_a_uface_heartbeat_is_no_record() -> None:
    assert uface_record(b"deviceKey=84E0F4200001&ip=192.168.1.64") == ("84E0F4200001", None)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "deviceKey"),
        (uface(deviceKey=""), "deviceKey"),
        (uface(time="yesterday"), "time"),
        (uface(type="face"), "type"),
        (uface(personId="9" * 33), "personId"),
    ],
)
def test_uface_posts_that_say_too_little(body: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        uface_record(body)


# -- Dahua


@pytest.mark.parametrize("body", [dahua(), dahua_text(), b"Heartbeat\r\n" + dahua_text()])
def test_dahua_events(body: bytes) -> None:
    (told,) = dahua_events(body)

    assert (told.body, told.at) == (Punch("9001", 15, 0), NINE)
    for private in ("张三", "3141592653", "97", "jpg"):
        assert private.encode() not in told.raw


def test_json_with_signs_that_look_like_its_end() -> None:
    body = dahua_text(CardName='a};data={"x;}', UserID="9001") + dahua_text(UserID="9002")

    assert [told.body for told in dahua_events(body)] == [
        Punch("9001", 15, 0),
        Punch("9002", 15, 0),
    ]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"Status": 0, "ErrorCode": 16}, DeviceEvent("refused", 15, "ErrorCode=16 person=9001")),
        ({"UserID": ""}, DeviceEvent("unknown_person", 15)),
        ({"Type": "Exit", "Method": 21}, Punch("9001", 21, 1)),
        ({"UserID": 9001, "UTC": str(NINE // 1000), "Status": "1"}, Punch("9001", 15, 0)),
    ],
)
def test_dahua_outcomes(fields: dict[str, object], body: object) -> None:
    for post in (dahua(**fields), dahua_text(**fields)):
        assert [told.body for told in dahua_events(post)] == [body]


@pytest.mark.parametrize(
    "body",
    [
        dahua(UTC="soon"),
        dahua(Status=None),
        dahua(UserID="a b"),
        b'{"Events":[{"Code":"AccessControl"}]}',
        b"{broken",
        b"what",
        b"Code=AccessControl;action=Pulse;index=0;data={broken",
    ],
)
def test_dahua_posts_that_cannot_be_read(body: bytes) -> None:
    (told,) = dahua_events(body)

    assert isinstance(told.body, Unreadable)
    assert "张三".encode() not in told.raw
    assert b"3141592653" not in told.raw


def test_other_dahua_events_and_heartbeats() -> None:
    body = b"Code=DoorStatus;action=Pulse;index=0;data={}\n" + dahua_text()

    assert [type(told.body) for told in dahua_events(body)] == [DeviceEvent, Punch]
    assert list(dahua_events(b"Heartbeat")) == []
    assert list(dahua_events(b"")) == []


def test_packed_bodies() -> None:
    body = dahua()
    bare = zlib.compressobj(wbits=-15)

    assert inflated(gzip.compress(body), "gzip") == body
    assert inflated(zlib.compress(body), "deflate") == body
    assert inflated(bare.compress(body) + bare.flush(), "deflate") == body
    for wrong, encoding in (
        (b"what", "gzip"),
        (body, "br"),
        (gzip.compress(bytes(1 << 24)), "gzip"),
    ):
        with pytest.raises(ValueError, match="content-encoding"):
            inflated(wrong, encoding)


def test_local_time_written_as_utc() -> None:
    eight_hours = 8 * 3_600_000

    assert wall_as_utc(NINE + eight_hours, ZONE) == NINE
    assert which_times(NINE + 1000, NINE, ZONE) == "utc"
    assert which_times(NINE + eight_hours - 1000, NINE, ZONE) == "local"
    assert which_times(NINE - 3_600_000, NINE, ZONE) == ""


_SOME = st.sampled_from([dahua(), dahua_text(), uface(), b"Heartbeat", b"{", b"}", b"deviceKey=",
                         b"Code=AccessControl;action=Pulse;index=0;data=", b'{"Events":', b"[",
                         b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"])  # fmt: skip


@given(st.lists(_SOME | st.binary(max_size=30), max_size=8).map(b"".join))
@example(b'{"Events":' + b"[" * 5000)
@example(b"Code=A;action=B;index=0;data=" + b"[" * 5000)
@example(b'{"Events":[{"Code":"\\ud800","Data":{"UserID":"\\ud800","UTC":1,"Status":1}}]}')
def test_no_post_breaks_the_parsers(data: bytes) -> None:
    for one in decode(data, ZONE):
        reading_id(one)
    for told in dahua_events(data):
        assert len(told.raw) <= 4096
    try:
        uface_record(data)
    except ValueError:
        pass


def test_a_capture_of_posts_is_decoded() -> None:
    capture = b""
    for body in (uface(), dahua(), b""):
        capture += b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    packed = gzip.compress(dahua_text())
    capture += b"POST /x HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    capture += packed

    assert [(one.body, one.serial) for one in decode(capture, ZONE)] == [
        (Punch("9001"), "84E0F4200001"),
        (Punch("9001", 15, 0), ""),
        (Punch("9001", 15, 0), ""),
    ]
    assert [one.body for one in decode(dahua_text(), ZONE)] == [Punch("9001", 15, 0)]


# -- the listener


@dataclass(frozen=True)
class Spec:
    id: str
    options: HttpTerminalOptions
    window: str = ""


class Hall(SmallHall):
    def __init__(self) -> None:
        super().__init__(NINE)


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


Post = Callable[..., Awaitable[tuple[int, bytes]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def play(story: Callable[[Hall, Post], Awaitable[None]], tmp_path: Path, **options: Any) -> Hall:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    given = {"maker": "uface", "serial": "84E0F4200001", "token_file": str(token)}
    port = options.setdefault("port", free_port())

    async def post(
        body: bytes, path: str = f"/x/{TOKEN}", method: str = "POST", extra: str = ""
    ) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"{method} {path} HTTP/1.1\r\n{extra}Content-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        try:
            answer = await reader.read()
        except ConnectionError:
            return 0, b""
        finally:
            writer.close()
        head_, _, rest = answer.partition(b"\r\n\r\n")
        return int(head_[9:12]), rest

    async def whole() -> Hall:
        hall = Hall()
        driver = HttpTerminal([Spec("gate", HttpTerminalOptions(**{**given, **options}))])
        task = asyncio.create_task(driver.run(hall))
        while driver.address is None and not task.done():
            await asyncio.sleep(0.001)
        try:
            async with asyncio.timeout(20):
                if task.done():
                    task.result()
                await story(hall, post)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return hall

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("maker", "answer"),
    [("uface", {"result": 1, "success": True}), ("uface_hf", {"result": 1, "code": "000"})],
)
def test_a_uface_record_is_stored_and_answered(tmp_path: Path, maker: str, answer: object) -> None:
    async def story(hall: Hall, post: Post) -> None:
        status, body = await post(uface())
        assert (status, json.loads(body)) == (200, answer)
        assert await post(uface()) == (200, body)
        assert await post(b"deviceKey=84E0F4200001") == (200, body)
        assert hall.contacts == ["gate"] * 3

    hall = play(story, tmp_path, maker=maker)

    assert hall.bodies() == [Punch("9001")]
    assert (hall.readings[0].at, hall.readings[0].serial) == (NINE, "84E0F4200001")


def test_what_could_not_be_stored_is_sent_again(tmp_path: Path) -> None:
    async def story(hall: Hall, post: Post) -> None:
        hall.disk_full = True
        assert await post(uface()) == (503, b"")
        hall.disk_full = False
        assert (await post(uface()))[0] == 200

    assert play(story, tmp_path).bodies() == [Punch("9001")]


def test_strangers_probes_and_nonsense(tmp_path: Path) -> None:
    async def story(hall: Hall, post: Post) -> None:
        assert (await post(uface(), "/x/guess"))[0] == 404
        assert (await post(uface(deviceKey="OTHER")))[0] == 400
        assert hall.contacts == []
        assert "a post names OTHER" in hall.notes["gate"]["last_error"]
        assert (await post(b"", method="GET"))[0] == 200
        assert (await post(b"", method="PUT"))[0] == 405
        assert (await post(b"what", extra="Content-Encoding: gzip\r\n"))[0] == 400
        assert (await post(b"x" * (9 << 20)))[0] in (0, 413)
        for _ in range(30):
            assert (await post(uface(time="never")))[0] == 200
        assert hall.notes["gate"]["decode_errors"] == 30
        assert hall.notes[LISTENER_ID]["unknown_posts"] == 1

    hall = play(story, tmp_path)

    assert len(hall.bodies()) == 1  # the same post again is the same reading
    assert isinstance(hall.bodies()[0], Unreadable)
    assert b"QUJD" not in hall.readings[0].raw


def test_how_a_dahua_writes_utc_is_found_out(tmp_path: Path) -> None:
    seconds = NINE // 1000

    async def story(hall: Hall, post: Post) -> None:
        assert await post(dahua(UTC=seconds - 3600)) == (200, b"OK")
        assert isinstance(hall.bodies()[0], Unreadable)
        packed = gzip.compress(dahua(UTC=seconds + 8 * 3600, UserID="9002"))
        assert await post(packed, extra="Content-Encoding: gzip\r\n") == (200, b"OK")
        assert await post(dahua_text(UTC=seconds + 5 * 3600, UserID="9003")) == (200, b"OK")
        assert hall.marks == {("gate", "times"): "local"}

    hall = play(story, tmp_path, maker="dahua", serial="4K00001")

    assert hall.bodies()[1:] == [Punch("9002", 15, 0), Punch("9003", 15, 0)]
    assert [one.at for one in hall.readings[1:]] == [NINE, NINE - 3 * 3_600_000]


@pytest.mark.parametrize(("times", "at"), [("utc", NINE), ("local", NINE - 8 * 3_600_000)])
def test_how_a_dahua_writes_utc_can_be_told(tmp_path: Path, times: str, at: int) -> None:
    async def story(hall: Hall, post: Post) -> None:
        await post(dahua())
        assert hall.marks == {}

    hall = play(story, tmp_path, maker="dahua", serial="4K00001", times=times)

    assert [one.at for one in hall.readings] == [at]


def test_a_silent_terminal_is_lost_once(tmp_path: Path) -> None:
    async def story(hall: Hall, post: Post) -> None:
        await post(uface())
        await hall.pass_seconds(350)
        assert hall.losses == [("gate", "终端没有上报 / no post for 300 s")]

    play(story, tmp_path)


def test_a_port_that_is_taken_or_a_bad_token_is_told(tmp_path: Path) -> None:
    async def nothing(hall: Hall, post: Post) -> None:
        raise AssertionError(hall, post)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DeviceLost, match="cannot listen on 127"):
            play(nothing, tmp_path, port=taken.getsockname()[1])
    short = tmp_path / "short"
    short.write_text("a")
    with pytest.raises(DeviceRefused, match="expected 4 to 100"):
        play(nothing, tmp_path, token_file=str(short))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"serial": ""}, "serial"), ({"token_file": ""}, "token_file"), ({"port": 0}, "port"),
     ({"silent_s": 1}, "silent_s")],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HttpTerminalOptions(**{"maker": "dahua", "serial": "1", "token_file": "/t", **wrong})


def test_two_terminals_need_two_tokens() -> None:
    options = HttpTerminalOptions("dahua", "1", "/t")

    assert options.link() == ("127.0.0.1", 8090)
    with pytest.raises(ValueError, match="given to 2 terminals"):
        HttpTerminal([Spec("a", options), Spec("b", options)])


# -- an emulated terminal


def terminal_of(hall: Hall, port: int) -> UfaceTerminal:
    return UfaceTerminal(
        "84E0F4200001", ("127.0.0.1", port), f"/x/{TOKEN}", clock=hall.true_time, sleep=hall.sleep
    )


def test_an_emulated_terminal_keeps_what_was_not_acknowledged(tmp_path: Path) -> None:
    port = free_port()

    async def story(hall: Hall, _: Post) -> None:
        terminal = terminal_of(hall, port)
        terminal.offline = True
        await terminal.recognise("9001")
        terminal.offline = False
        hall.disk_full = True
        hall.time += 1000
        await terminal.recognise("9002")
        assert (len(terminal.unsent), hall.readings) == (2, [])
        hall.disk_full = False
        terminal.forget_answers = 1
        hall.time += 1000
        terminal.offset = -60
        await terminal.recognise("STRANGERBABY", "face_2")
        assert len(terminal.unsent) == 3
        await terminal.start()
        while terminal.unsent:
            await asyncio.sleep(0.005)
        await terminal.stop()

    hall = play(story, tmp_path, port=port)

    assert hall.bodies() == [
        Punch("9001"), Punch("9002"), DeviceEvent("refused", 2, "not recognised face_2"),
    ]  # fmt: skip
    assert [reading.at - NINE for reading in hall.readings] == [0, 1000, 2000 - 60_000]
    assert PICTURE.encode() not in b"".join(reading.raw for reading in hall.readings)
    assert hall.notes == {"gate": {"last_error": hall.notes["gate"]["last_error"]}}


def test_an_emulated_terminal_that_only_beats_is_there_and_tells_nothing(tmp_path: Path) -> None:
    port = free_port()

    async def story(hall: Hall, _: Post) -> None:
        terminal = terminal_of(hall, port)
        await terminal.start()
        while not hall.contacts:
            await asyncio.sleep(0.005)
        await terminal.stop()

    hall = play(story, tmp_path, port=port)

    assert (hall.readings, set(hall.contacts)) == ([], {"gate"})
