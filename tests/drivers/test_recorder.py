"""Recorders: the bytes, and the driver against an emulated recorder over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import isapi, recorder
from drivers.base import DeviceLost, DeviceRefused
from drivers.emulators.recorder import EmulatedRecorder
from drivers.isapi import Multipart, document
from drivers.recorder import (
    Alarm,
    Form,
    Recorder,
    RecorderOptions,
    alarm_of,
    body_of,
    channels_of,
    decode,
    joined,
    matches_of,
    search_of,
    wall_of,
)
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    Instant,
    Link,
    Picture,
    Reading,
    Recorded,
    Seat,
    Unreadable,
)
from tests.drivers.small_hall import ZONE, SmallHall

SERIAL = "DS-7616NXI-K20020250101CCRRK12345678WCVU"


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def instant(text: str) -> Instant:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()) * 1000


NINE = instant("2025-03-14T09:00:00")

# The vendor guide's example of a search's answer, whole.
ANSWER = b"""<?xml version="1.0" encoding="UTF-8" ?>
<CMSearchResult version="2.0" xmlns="http://www.isapi.org/ver20/XMLSchema">
    <searchID>{88c2cd4d-d3fa-4ad4-bd80-555c18205dcc}</searchID>
    <responseStatus>true</responseStatus>
    <responseStatusStrg>OK</responseStatusStrg>
    <numOfMatches>1</numOfMatches>
    <matchList>
        <searchMatchItem>
            <sourceID>{00000000-0000-0000-0000-000000000000}</sourceID>
            <trackID>101</trackID>
            <timeSpan>
                <startTime>2021-08-18T15:18:15Z</startTime>
                <endTime>2021-08-18T15:19:08Z</endTime>
            </timeSpan>
            <mediaSegmentDescriptor>
            <contentType>video</contentType>
            <codecType>H.264-BP</codecType>
            <playbackURI>rtsp://10.14.97.40/Streaming/tracks/101/?starttime=20210818T151815Z&amp;endtime=20210818T151908Z&amp;name=00000004667000100&amp;size=1400788</playbackURI>
            <lockStatus>unlock</lockStatus>
            <name>00000004667000100</name>
            </mediaSegmentDescriptor>
            <metadataMatches>
                <metadataDescriptor>recordType.meta..com/timing</metadataDescriptor>
            </metadataMatches>
        </searchMatchItem>
    </matchList>
</CMSearchResult>
"""
RECORDED_THEN = (instant("2021-08-18T15:18:15"), instant("2021-08-18T15:19:08"))

# As a camera sent it, broken offset and all.
FIELD_EVENT = """<EventNotificationAlert version="2.0" xmlns="http://www.isapi.org/ver20/XMLSchema">
<ipAddress>10.0.1.186</ipAddress><portNo>80</portNo><protocolType>HTTP</protocolType>
<macAddress>f8:4d:fc:f8:ef:1c</macAddress><dynChannelID>1</dynChannelID><channelID>1</channelID>
<dateTime>2020-02-19T18:44:4400:00</dateTime><activePostCount>1</activePostCount>
<eventType>{kind}</eventType><eventState>{state}</eventState>
<eventDescription>alarm</eventDescription></EventNotificationAlert>"""
THEN = instant("2020-02-19T18:44:44")


def event(kind: str, state: str = "active", **fields: Any) -> dict[str, Any]:
    told = document(FIELD_EVENT.format(kind=kind, state=state).encode())
    return {name: value for name, value in {**told, **fields}.items() if value is not None}


# -- events


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("videoloss", "videoloss"),
        ("shelteralarm", "shelter"),
        ("tamperdetection", "tamper"),
        ("scenechangedetection", "scenechange"),
        ("defocus", "defocus"),
        ("defocusDetection", "defocus"),
        ("leavePosition", "leaveposition"),
        ("leavePositionDetection", "leaveposition"),
        ("leave_post", "leaveposition"),
        ("diskfull", "diskfull"),
        ("fielddetection", "field"),
        ("alarm", "alarm"),
    ],
)
def test_the_names_of_events_vary(name: str, kind: str) -> None:
    assert alarm_of(event(name), ZONE) == Alarm(kind, 1, True, THEN)


@pytest.mark.parametrize(
    ("fields", "channel"),
    [
        ({"channelID": "7", "dynChannelID": "9"}, 7),
        ({"channelID": "0", "dynChannelID": "9"}, 9),
        ({"channelID": None, "dynChannelID": "9"}, 9),
        ({"channelID": None, "dynChannelID": None}, 0),
        ({"channelID": 3}, 3),
    ],
)
def test_the_channel_stands_in_one_of_two_places(fields: dict[str, Any], channel: int) -> None:
    alarm = alarm_of(event("shelteralarm", **fields), ZONE)

    assert alarm is not None
    assert alarm.channel == channel


@pytest.mark.parametrize(
    ("state", "posts", "heartbeat"),
    [
        ("inactive", "0", True),
        ("inactive", None, True),
        ("inactive", "1", False),
        ("active", "0", False),
        ("active", "1", False),
    ],
)
def test_only_a_video_loss_that_is_not_is_a_heartbeat(
    state: str, posts: str | None, heartbeat: bool
) -> None:
    alarm = alarm_of(event("videoloss", state, activePostCount=posts), ZONE)

    assert alarm is not None
    assert alarm.heartbeat == heartbeat
    assert alarm.active == (state == "active")


def test_an_event_in_json_is_the_same() -> None:
    told = {"EventNotificationAlert": event("leavePosition")}

    assert alarm_of(json.loads(json.dumps(told)), ZONE) == Alarm("leaveposition", 1, True, THEN)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (event("撤防"), "eventType: expected 1 to 64 visible ASCII signs"),
        (event("x" * 65), "eventType: expected 1 to 64 visible ASCII signs"),
        (event("defocus", channelID="5000"), "channelID 5000: expected 1 to 4096"),
    ],
)
def test_what_is_no_event_is_said(told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        alarm_of(told, ZONE)

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "2025-03-14T09:00:00Z",
        "2025-03-14T09:00:00+08:00",
        "2025-03-14T09:00:00-05:00",
        "2025-03-14T09:00:00",
        "2025-03-14 09:00:00",
        " 2025-3-14T9:00:00-0500",
    ],
)
def test_a_wall_clock_is_read_as_it_shows(text: str) -> None:
    assert wall_of(text, ZONE) == NINE


@pytest.mark.parametrize(
    ("alarm", "body"),
    [
        (Alarm("leaveposition", 1, True), Seat("w07", "empty", ("vendor",))),
        (Alarm("leaveposition", 1, False), Seat("w07", "occupied", ("vendor",))),
        (Alarm("tamper", 1, True), Picture(("covered",))),
        (Alarm("scenechange", 1, True), Picture(("view_changed",))),
        (Alarm("defocus", 1, True), Picture(("blurred",))),
        (Alarm("shelter", 1, False), Picture(())),
        (Alarm("diskfull", 0, True), DeviceEvent("disk_full")),
        (Alarm("diskerror", 2, True), DeviceEvent("disk_error", detail="channel=2")),
        (Alarm("diskerror", 2, False), None),
        (Alarm("videoloss", 1, False, heartbeat=True), None),
        (Alarm("videoloss", 1, False), Link(True)),
        (Alarm("vmd", 1, True), None),
        (Alarm("field", 1, True), None),
    ],
)
def test_what_an_event_says(alarm: Alarm, body: Any) -> None:
    assert body_of(alarm, "w07") == body


def test_the_status_of_channels() -> None:
    answer = document(
        b"<InputProxyChannelStatusList><InputProxyChannelStatus><id>1</id><online>true</online>"
        b"</InputProxyChannelStatus><InputProxyChannelStatus><id>2</id><online>false</online>"
        b"<chanDetectResult>netUnreachable</chanDetectResult></InputProxyChannelStatus>"
        b"<InputProxyChannelStatus><id>x</id></InputProxyChannelStatus>"
        b"</InputProxyChannelStatusList>"
    )

    assert channels_of(answer) == {
        1: "",
        2: "录像机报告通道 2 离线 / the recorder does not reach channel 2 netUnreachable",
    }


# -- recordings


def answer(*spans: tuple[str, str], status: str = "OK", **fields: Any) -> dict[str, Any]:
    items = [{"trackID": "101", "timeSpan": {"startTime": a, "endTime": b}} for a, b in spans]
    return {
        "responseStatusStrg": status,
        "numOfMatches": str(len(items)),
        "matchList": {"searchMatchItem": items} if items else "",
        **fields,
    }


def test_the_published_answer_is_read() -> None:
    matches = matches_of(document(ANSWER), 101, ZONE)

    assert matches == ((RECORDED_THEN,), 1, False)


def test_of_another_track_nothing_is_taken() -> None:
    assert matches_of(document(ANSWER), 201, ZONE) == ((), 1, False)


@pytest.mark.parametrize("status", ["NO MATCHES", "NO MATCH", "OK", "no matches"])
def test_no_recordings_are_no_recordings(status: str) -> None:
    assert matches_of(answer(status=status), 101, ZONE) == ((), 0, False)
    assert matches_of({"responseStatusStrg": status}, 101, ZONE) == ((), 0, False)


def test_more_without_any_ends_the_search() -> None:
    assert not matches_of(answer(status="MORE"), 101, ZONE).more


A, B = "2025-03-14T08:00:00Z", "2025-03-14T08:30:00Z"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "search: responseStatusStrg '', expected OK, MORE or NO MATCHES"),
        (
            {"statusString": "Invalid Operation", "responseStatusStrg": "FAILED"},
            "search: responseStatusStrg 'FAILED', expected OK, MORE or NO MATCHES",
        ),
        (answer(matchList="x"), "search: matchList holds no searchMatchItem"),
        (answer(matchList={"searchMatchItem": "x"}), "search: searchMatchItem is no list"),
        (answer((B, A)), "searchMatchItem[0]: endTime is before startTime"),
        (answer((A, B), (A, "")), "searchMatchItem[1]: time '': expected YYYY-MM-DDThh:mm:ss"),
        (answer((A, "2025-02-30T00:00:00Z")), "searchMatchItem[0]: day is out of range for month"),
        (
            answer(matchList={"searchMatchItem": [{"trackID": "101"}]}),
            "searchMatchItem[0]: expected one timeSpan",
        ),
        (
            answer(matchList={"searchMatchItem": ["x"]}),
            "searchMatchItem[0]: expected an element with timeSpan",
        ),
        (answer((A, B), numOfMatches="2"), "search: numOfMatches 2, but 1 searchMatchItem"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused_whole(told: dict[str, Any], sentence: str) -> None:
    """What is overlooked would look like a gap."""
    with pytest.raises(ValueError, match=":") as caught:
        matches_of(told, 101, ZONE)

    assert str(caught.value) == sentence


def test_recordings_next_to_each_other_are_one() -> None:
    second = 1000
    files = [(20, 30), (0, 10), (12, 20), (33, 40), (38, 50), (90, 95), (60, 60)]
    spans = joined([(a * second, b * second) for a, b in files], 5 * second, 92 * second)

    assert spans == ((5_000, 30_000), (33_000, 50_000), (90_000, 92_000))


def test_a_search_is_written_as_the_vendor_does() -> None:
    search_id = "88C2CD4D-D3FA-4AD4-BD80-555C18205DCC"
    wanted = search_of(Form("trackList", False), search_id, 101, A, B, 40)

    assert wanted == (
        b'<CMSearchDescription version="1.0"><searchID>88C2CD4D-D3FA-4AD4-BD80-555C18205DCC'
        b"</searchID><trackList><trackID>101</trackID></trackList><timeSpanList><timeSpan>"
        b"<startTime>2025-03-14T08:00:00Z</startTime><endTime>2025-03-14T08:30:00Z</endTime>"
        b"</timeSpan></timeSpanList><maxResults>40</maxResults>"
        b"<searchResultPostion>40</searchResultPostion><metadataList><metadataDescriptor>"
        b"//recordType.meta.std-cgi.com</metadataDescriptor></metadataList></CMSearchDescription>"
    )
    assert b"<searchID>{88C2" in search_of(Form("trackList", True), search_id, 1, A, B, 0)


# -- hostile bytes

NAMES = st.sampled_from(
    [
        "matchList",
        "searchMatchItem",
        "timeSpan",
        "startTime",
        "endTime",
        "trackID",
        "responseStatusStrg",
        "numOfMatches",
        "eventType",
        "eventState",
        "channelID",
        "dateTime",
        "activePostCount",
        "id",
        "online",
        "EventNotificationAlert",
        "CMSearchResult",
        "InputProxyChannelStatus",
        "chanDetectResult",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            NAMES,
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["responseStatusStrg", "matchList", "eventType", "InputProxyChannelStatus"])
    | st.text(max_size=8),
    st.sampled_from(["OK", "MORE", "videoloss"]) | JSON,
    max_size=8,
)


@given(DOCUMENTS)
def test_no_document_does_worse_than_a_sentence(told: dict[str, Any]) -> None:
    for read in (
        lambda: matches_of(told, 101, ZONE),
        lambda: alarm_of(told, ZONE),
        lambda: channels_of(told),
    ):
        try:
            read()
        except ValueError as error:
            assert str(error)  # noqa: PT017


@given(st.data())
def test_a_damaged_answer_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(ANSWER)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    for reading in decode(bytes(damaged), ZONE):
        assert isinstance(reading.body, Recorded | Unreadable)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_capture_of_anything_is_decoded(noise: bytes, place: int) -> None:
    stream = stream_of(FIELD_EVENT.format(kind="leavePosition", state="active").encode())
    list(decode(stream[:place] + noise + stream[place:], ZONE))


# -- captures


def stream_of(*bodies: bytes, boundary: str = "boundary", picture: bytes = b"") -> bytes:
    parts = [(b"application/xml", body) for body in bodies]
    if picture:
        parts.insert(1, (b"image/jpeg", picture))
    return b"".join(
        f"--{boundary}\r\nContent-Type: ".encode()
        + kind
        + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        + b"\r\n"
        for kind, body in parts
    )


CAPTURED = [
    Reading("capture", THEN, Seat("", "empty", ("vendor",))),
    Reading("capture", THEN, Picture(("covered",))),
]


def sent() -> bytes:
    return stream_of(
        *(
            FIELD_EVENT.format(kind=kind, state=state).encode()
            for kind, state in (
                ("leavePosition", "active"),
                ("VMD", "active"),
                ("tamper", "active"),
            )
        ),
        picture=b"\xff\xd8" + bytes(range(256)) * 8,
    )


def test_a_capture_is_decoded_and_its_pictures_are_not() -> None:
    readings = list(decode(sent(), ZONE))

    assert readings == CAPTURED
    assert all(not reading.raw for reading in readings)


def test_a_stream_is_the_same_whole_and_byte_by_byte() -> None:
    whole, slowly = Multipart(b"boundary"), Multipart(b"boundary")
    at_once = whole.feed(sent())
    by_and_by = [part for byte in sent() for part in slowly.feed(bytes([byte]))]

    assert by_and_by == at_once
    assert len(at_once) == 3


def test_an_exchange_is_decoded() -> None:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
    exchange = http % (len(ANSWER), ANSWER)

    assert list(decode(exchange + exchange, ZONE)) == 2 * [
        Reading("capture", RECORDED_THEN[1], Recorded(*RECORDED_THEN, (RECORDED_THEN,)))
    ]


def test_a_video_loss_in_a_capture_is_a_loss() -> None:
    (reading,) = decode(FIELD_EVENT.format(kind="videoloss", state="active").encode(), ZONE)

    assert isinstance(reading.body, Link)
    assert not reading.body.up


def test_what_a_capture_cannot_say_is_unreadable() -> None:
    (reading,) = decode(ANSWER.replace(b"OK</resp", b"BAD</resp"), ZONE)

    assert reading.body == Unreadable(
        "search: responseStatusStrg 'BAD', expected OK, MORE or NO MATCHES"
    )
    assert b"numOfMatches" in reading.raw


# -- settings


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"channel": 0}, "channel 0: expected 1 to 4096"),
        ({"recordings_s": 5}, "recordings_s is 5; expected 60 to 86400 seconds"),
        ({"host": "a b"}, "host 'a b': expected the device's name or address"),
        ({"user": 'a"b'}, 'user: expected 1 to 64 visible ASCII signs without ", : and \\'),
        ({"certificate_sha256": "ab"}, "certificate_sha256: expected 64 hexadecimal digits"),
        ({"port": 70000}, "port 70000: expected 1 to 65535, or 0 for the usual one"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        RecorderOptions(**{"host": "nvr", "password_file": "/p", "channel": 1, **wrong})

    assert str(caught.value) == sentence


def test_channels_of_one_recorder_share_its_link() -> None:
    first = RecorderOptions("nvr", "/p", 1)

    assert first.link() == RecorderOptions("nvr", "/p", 2, port=80).link()
    assert first.link() != RecorderOptions("nvr", "/p", 1, user="hall").link()
    assert first.link() != RecorderOptions("nvr", "/p", 1, scheme="https").link()


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"channel": 1}, "channel 1 of nvr is given to 2 devices"),
        ({"password_file": "/q"}, "password_file differs between channels of nvr"),
        ({"recordings_s": 60}, "recordings_s differs between channels of nvr"),
        ({"serial": "x"}, "serial differs between channels of nvr"),
    ],
)
def test_channels_that_cannot_share_are_refused(second: dict[str, Any], sentence: str) -> None:
    options = {"host": "nvr", "password_file": "/p", "channel": 2, **second}
    with pytest.raises(ValueError, match="nvr") as caught:
        Recorder(
            [
                Spec("cam1", RecorderOptions("nvr", "/p", 1)),
                Spec("cam2", RecorderOptions(**options)),
            ]
        )

    assert str(caught.value) == sentence


# -- against a recorder


@dataclass(frozen=True)
class Spec:
    id: str
    options: RecorderOptions
    window: str = ""


class Hall(SmallHall):
    windows = ("w07",)
    snapshots = False

    def __init__(self) -> None:
        super().__init__(NINE)
        self.links: dict[str, list[bool]] = {}
        self.reasons: dict[str, str] = {}

    def keep_snapshot(self, device: str, at: Instant, subject: str, jpeg: bytes) -> str:
        raise AssertionError(f"a picture {subject} of {device} at {at}: {len(jpeg)} bytes")

    def contact(self, device: str) -> None:
        self._link(device, True)

    def lost(self, device: str, reason: str) -> None:
        self.reasons[device] = reason
        self._link(device, False)

    def _link(self, device: str, up: bool) -> None:
        links = self.links.setdefault(device, [])
        if links[-1:] != [up]:
            links.append(up)

    def bodies(self, kind: type, device: str = "cam1") -> list[Any]:
        return [
            reading.body
            for reading in self.readings
            if type(reading.body) is kind and reading.device == device
        ]

    def at(self, kind: type, device: str = "cam1") -> list[Instant]:
        return [
            reading.at
            for reading in self.readings
            if type(reading.body) is kind and reading.device == device
        ]

    def note_of(self, name: str, device: str = "cam1") -> Any:
        return self.notes.get(device, {}).get(name)


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("Abc12345\n")
    return path


class Stage:
    """A recorder, a driver at work on its channels 1 (with a window) and 2, and the hall."""

    def __init__(self, hall: Hall, nvr: EmulatedRecorder, devices: Sequence[Spec]) -> None:
        self.hall, self.nvr = hall, nvr
        self.driver = Recorder(devices)
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.task = asyncio.create_task(self.driver.run(self.hall))
        await asyncio.sleep(0)

    async def end(self) -> None:
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def failure(self) -> BaseException:
        assert self.task
        async with asyncio.timeout(20):
            await asyncio.wait({self.task})
        error = self.task.exception()
        assert error is not None
        return error

    async def listening(self) -> None:
        def ready() -> bool:
            if self.task and self.task.done():
                self.task.result()
            return self.nvr.streams > 0 and self.hall.note_of("state") == "live"

        await self.hall.until(ready)

    async def settled(self) -> None:
        await self.hall.until(lambda: len(self.hall.bodies(Recorded, "cam2")) == 2)

    async def beats(self, seconds: int) -> None:
        """Time passes, with a heartbeat every second, each heard."""
        for _ in range(seconds):
            self.nvr.heartbeat()
            await self.hall.pass_seconds(1)
            await asyncio.sleep(0.004)


def play(
    story: Callable[[Stage], Awaitable[None]],
    secret: Path,
    prepare: Callable[[EmulatedRecorder], None] | None = None,
    hall: Hall | None = None,
    alone: bool = False,
    **options: Any,
) -> Hall:
    async def whole() -> Hall:
        present = hall or Hall()
        nvr = EmulatedRecorder(SERIAL, clock=present.wall)
        for channel in (1, 2):
            nvr.record(channel, wall("2025-03-01T00:00:00"), wall("2025-03-14T08:59:00"))
        if prepare:
            prepare(nvr)
        port = await nvr.start()
        given = {"host": "127.0.0.1", "port": port, "password_file": str(secret), **options}
        devices = [
            Spec("cam1", RecorderOptions(**given, channel=1), "w07"),
            Spec("cam2", RecorderOptions(**given, channel=2)),
        ]
        stage = Stage(present, nvr, devices[:1] if alone else devices)
        await stage.begin()
        try:
            async with asyncio.timeout(40):
                await story(stage)
        finally:
            await stage.end()
            await nvr.stop()
        return present

    return asyncio.run(whole())


EMPTY = Seat("w07", "empty", ("vendor",))
OCCUPIED = Seat("w07", "occupied", ("vendor",))
UNKNOWN = Seat(
    "w07",
    "unknown",
    reason="录像机不报当前状态，待下次事件 / the recorder tells no current state: no event yet",
)
DEAF = Seat("w07", "unknown", reason="事件流中断 / the event stream is interrupted")


def test_at_first_it_is_said_what_is_not_known(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        await stage.beats(3)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN]
    assert hall.bodies(Seat, "cam2") == []
    assert hall.bodies(Picture) == [Picture((), False)]
    assert hall.bodies(Picture, "cam2") == [Picture((), False)]
    assert hall.links == {"cam1": [True], "cam2": [True]}
    assert hall.bodies(DeviceInfo, "cam2") == [
        DeviceInfo(
            {
                "serial": SERIAL,
                "model": "DS-7616NXI-K2",
                "firmware": "V4.84.000",
                "mac": "24:28:fd:00:00:02",
                "channel": 2,
            }
        )
    ]
    assert hall.bodies(ClockCheck) == [ClockCheck()]
    assert hall.bodies(ClockCheck, "cam2") == []


def test_a_post_is_left_and_taken_again(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat))
        await stage.beats(3)
        stage.nvr.event("leavePosition", 1, "inactive")
        await stage.hall.until(lambda: stage.hall.bodies(Seat)[-1] == OCCUPIED)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN, EMPTY, OCCUPIED]
    assert hall.at(Seat) == [NINE, NINE, NINE + 3000]


def test_an_event_that_is_repeated_lasts_and_silence_clears_it(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        for _ in range(30):
            stage.nvr.event("leavePosition", 1, posts=2)
            stage.nvr.event("shelteralarm", 2, dynamic=True, picture=True)
            await stage.hall.pass_seconds(1)
            await asyncio.sleep(0.004)
        assert stage.hall.bodies(Seat) == [UNKNOWN, EMPTY]
        await stage.beats(15)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN, EMPTY, OCCUPIED]
    assert hall.bodies(Picture, "cam2") == [Picture((), False), Picture(("covered",)), Picture()]
    last = NINE + 29_000
    assert hall.at(Seat)[-1] == pytest.approx(last + 1000, abs=1000)
    assert hall.note_of("pictures_discarded") == 30
    assert all(not reading.raw for reading in hall.readings)


def test_silence_of_everything_clears_nothing(secret: Path) -> None:
    """It has heartbeats, so that nobody heard is a stream that hangs."""

    async def story(stage: Stage) -> None:
        await stage.listening()
        await stage.beats(1)
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat))
        for _ in range(30):
            await stage.hall.pass_seconds(1)
        assert stage.hall.bodies(Seat)[-1] == EMPTY
        stage.nvr.heartbeat()
        await stage.hall.until(lambda: stage.hall.bodies(Seat)[-1] == OCCUPIED, 1)

    play(story, secret)


def test_without_heartbeats_time_alone_clears(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("defocus", 2)
        await stage.hall.until(lambda: Picture(("blurred",)) in stage.hall.bodies(Picture, "cam2"))
        await stage.hall.until(lambda: stage.hall.bodies(Picture, "cam2")[-1] == Picture(), 1)

    hall = play(story, secret)

    assert hall.at(Picture, "cam2") == [NINE, NINE, NINE + 1000]


def test_several_faults_are_told_gravest_first(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        for kind in ("defocus", "scenechangedetection", "tamperdetection"):
            stage.nvr.event(kind, 1)
        await stage.hall.until(lambda: len(stage.hall.bodies(Picture)) == 4)

    hall = play(story, secret)

    assert hall.bodies(Picture)[-1] == Picture(("covered", "view_changed", "blurred"))


def test_a_channel_without_video_is_lost_and_the_others_are_not(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        for _ in range(12):
            stage.nvr.event("videoloss", 1)
            stage.nvr.heartbeat()
            await stage.hall.pass_seconds(1)
            await asyncio.sleep(0.004)
        assert stage.hall.links == {"cam1": [True, False], "cam2": [True]}
        await stage.beats(14)

    hall = play(story, secret, lambda nvr: setattr(nvr, "tells_status", False))

    assert hall.links == {"cam1": [True, False, True], "cam2": [True]}
    assert hall.reasons["cam1"] == (
        "录像机报告通道 1 视频丢失 / the recorder reports video loss on channel 1"
    )
    assert hall.bodies(Seat) == [UNKNOWN, UNKNOWN]
    assert hall.bodies(Picture) == 2 * [Picture((), False)]


def test_a_loss_that_is_told_once_lasts_while_the_recorder_says_so(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.offline = {1}
        stage.nvr.event("videoloss", 1)
        await stage.hall.until(lambda: stage.hall.links["cam1"][-1] is False)
        await stage.beats(30)
        assert stage.hall.links["cam1"] == [True, False]
        stage.nvr.offline = set()
        await stage.hall.until(lambda: stage.hall.links["cam1"] == [True, False, True], 1)

    play(story, secret)


def test_a_camera_that_was_away_before_we_came_is_lost(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()

    hall = play(story, secret, lambda nvr: nvr.offline.add(2))

    assert hall.links == {"cam1": [True], "cam2": [False]}
    assert hall.reasons["cam2"].endswith("does not reach channel 2 netUnreachable")
    assert hall.bodies(Picture, "cam2") == []


def test_a_loss_that_is_cleared_is_over_at_once(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("videoloss", 2)
        await stage.hall.until(lambda: stage.hall.links["cam2"] == [True, False])
        stage.nvr.event("videoloss", 2, "inactive", posts=1)
        await stage.hall.until(lambda: stage.hall.links["cam2"] == [True, False, True])

    play(story, secret)


def test_old_events_are_counted_only(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1, at=stage.nvr.clock.now() - timedelta(minutes=5))
        await stage.hall.until(lambda: stage.hall.note_of("old_events") == 1)
        stage.nvr.event("leavePosition", 1, at=wall("1970-01-01T00:00:05"))
        await stage.hall.until(lambda: stage.hall.bodies(Seat)[-1] == EMPTY)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN, EMPTY]


def test_a_recorder_with_a_wrong_clock_tells_live_events_all_the_same(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: stage.hall.bodies(Seat)[-1] == EMPTY)

    hall = play(story, secret, lambda nvr: setattr(nvr.clock, "offset", -7200))

    assert hall.at(Seat) == [NINE, NINE]
    assert hall.at(ClockCheck) == [NINE - 2 * HOUR]


def test_events_of_others_are_counted_only(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("VMD", 1)
        stage.nvr.event("leavePosition", 2)
        stage.nvr.event("shelteralarm", 9)
        stage.nvr.event("shelteralarm", 0)
        await stage.hall.until(lambda: stage.hall.note_of("other_events") == 4)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN]
    assert hall.bodies(Picture) == [Picture((), False)]


def test_a_camera_by_itself_need_not_name_its_channel(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("shelteralarm", 0)
        await stage.hall.until(lambda: Picture(("covered",)) in stage.hall.bodies(Picture))

    play(story, secret, alone=True)


def test_a_full_disk_is_told_once_an_hour(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        for number in range(4):
            stage.nvr.event("diskfull", 0)
            stage.nvr.event("VMD", 1)
            while stage.hall.note_of("other_events") != number + 1:
                await asyncio.sleep(0.002)
            await stage.hall.pass_seconds(1)
        stage.hall.time += HOUR
        stage.nvr.event("diskfull", 0)
        await stage.hall.until(lambda: len(stage.hall.bodies(DeviceEvent)) == 2)

    hall = play(story, secret)

    assert hall.bodies(DeviceEvent) == 2 * [DeviceEvent("disk_full")]


def test_what_cannot_be_read_costs_the_rest_nothing(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        for number in range(40):
            stage.nvr.send(stage.nvr.part("application/xml", b"<broken %d" % number))
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat))

    hall = play(story, secret)

    assert len(hall.bodies(Unreadable)) == 20
    assert hall.note_of("decode_errors") == 40


@pytest.mark.parametrize("boundary", ["MIME_boundary", "<frontier>", "--myboundary"])
def test_a_stream_in_single_bytes_is_understood(secret: Path, boundary: str) -> None:
    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.boundary, nvr.piece = boundary, 1

    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1)
        stage.nvr.event("tamperdetection", 2)
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat))
        await stage.hall.until(lambda: Picture(("covered",)) in stage.hall.bodies(Picture, "cam2"))

    play(story, secret, prepare)


def test_a_stream_that_is_opened_again_soon_goes_on(secret: Path) -> None:
    """Some recorders close it every minute."""

    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat))
        for closed in range(1, 4):
            await stage.beats(6)
            stage.nvr.cut_streams()
            await stage.hall.until(lambda: not stage.nvr.streams)
            await stage.hall.until(lambda: stage.nvr.streams, 0.5)
            assert stage.hall.note_of("stream_closed") == closed
        await stage.beats(6)
        assert stage.hall.bodies(Seat) == [UNKNOWN, EMPTY]
        await stage.beats(6)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN, EMPTY, OCCUPIED]


def test_a_stream_that_stays_away_leaves_the_post_unknown(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.event("leavePosition", 1)
        stage.nvr.event("shelteralarm", 1)
        await stage.hall.until(lambda: Picture(("covered",)) in stage.hall.bodies(Picture))
        stage.nvr.busy.add("alertStream")
        stage.nvr.cut_streams()
        await stage.hall.until(lambda: DEAF in stage.hall.bodies(Seat), 1)
        assert stage.hall.note_of("alert_stream") == "resting"
        opened = sum("alertStream" in target for _, target in stage.nvr.requests)
        stage.nvr.busy.clear()
        await stage.hall.until(lambda: stage.nvr.streams, 60)
        assert sum("alertStream" in target for _, target in stage.nvr.requests) == opened + 1
        assert stage.hall.now() >= NINE + HOUR
        await stage.hall.until(lambda: stage.hall.bodies(Seat)[-1] == UNKNOWN, 1)

    hall = play(story, secret)

    assert hall.bodies(Seat) == [UNKNOWN, EMPTY, DEAF, UNKNOWN]
    assert hall.bodies(Picture) == [Picture((), False), Picture(("covered",)), Picture((), False)]
    assert hall.links["cam1"] == [True]


def test_a_silent_stream_with_heartbeats_is_opened_again(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SILENCE", 0.05)

    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.nvr.heartbeat()
        await stage.hall.until(lambda: stage.hall.note_of("stream_closed"), 1)

    play(story, secret)


def test_a_silent_stream_without_heartbeats_is_kept(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SILENCE", 0.02)

    async def story(stage: Stage) -> None:
        await stage.listening()

        def probes() -> int:
            return sum("deviceInfo" in target for _, target in stage.nvr.requests)

        before = probes()
        await stage.hall.until(lambda: probes() > before + 3)
        assert sum("alertStream" in target for _, target in stage.nvr.requests) == 1

    play(story, secret)


def test_a_recorder_that_never_answers_is_lost(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isapi, "ANSWER_SECONDS", 0.1)

    async def story(stage: Stage) -> None:
        assert isinstance(await stage.failure(), DeviceLost)

    play(story, secret, lambda nvr: setattr(nvr, "silent", True))


def test_what_could_not_be_stored_is_told_later(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        await stage.settled()
        stage.hall.disk_full = True
        stage.nvr.event("leavePosition", 1)
        await stage.hall.until(lambda: stage.hall.note_of("last_error"))
        assert EMPTY not in stage.hall.bodies(Seat)
        stage.hall.disk_full = False
        await stage.hall.until(lambda: EMPTY in stage.hall.bodies(Seat), 1)

    play(story, secret)


# -- the password


def test_a_wrong_password_is_tried_once(secret: Path) -> None:
    hall = Hall()
    secret.write_text("wrong")
    kept: list[EmulatedRecorder] = []

    async def story(stage: Stage) -> None:
        error = await stage.failure()
        assert isinstance(error, DeviceRefused)
        assert "用户名或密码错误" in str(error)
        await stage.begin()
        assert "to avoid a lock-out" in str(await stage.failure())
        kept.append(stage.nvr)

    play(story, secret, hall=hall)

    assert kept[0].wrong == 1
    assert hall.links == {}


def test_a_password_written_anew_is_tried(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.failure()
        secret.write_text("Abc12345")
        await stage.begin()
        await stage.listening()

    right = secret.read_text()
    secret.write_text("wrong")

    assert right == "Abc12345\n"
    play(story, secret)


def test_another_recorder_at_the_address_is_refused(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        assert isinstance(await stage.failure(), DeviceRefused)

    play(story, secret, serial="DS-other")


def test_a_replaced_recorder_is_told(secret: Path) -> None:
    hall = Hall()

    async def story(stage: Stage) -> None:
        await stage.listening()

    play(story, secret, hall=hall)
    play(story, secret, lambda nvr: setattr(nvr, "serial", "DS-NEW"), hall)

    assert hall.bodies(DeviceEvent) == [DeviceEvent("device_replaced", detail=f"{SERIAL} DS-NEW")]


# -- its recordings

UNTIL = NINE - 2 * MINUTE
BACK = UNTIL - 2 * DAY
FIRST = instant("2025-03-01T00:00:00")


async def settles(stage: Stage) -> None:
    await stage.settled()


def test_at_first_two_days_are_asked_for_a_day_at_a_time(secret: Path) -> None:
    hall = play(settles, secret)

    assert hall.bodies(Recorded) == [
        Recorded(BACK, BACK + DAY, ((BACK, BACK + DAY),), FIRST),
        Recorded(BACK + DAY, UNTIL, ((BACK + DAY, UNTIL),), FIRST),
    ]
    assert hall.at(Recorded) == [NINE, NINE]
    assert hall.marks["cam1", "recorded"] == str(UNTIL)


def test_then_only_what_is_new_is_asked_for(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.nvr.searches.clear()
        stage.nvr.record(1, wall("2025-03-14T08:59:00"), wall("2025-03-14T09:30:00"))
        await stage.hall.until(lambda: len(stage.hall.bodies(Recorded)) == 3, 30)
        assert "<startTime>2025-03-14T08:58:00Z</startTime>" in stage.nvr.searches[1]
        assert "<trackList><trackID>101</trackID>" in stage.nvr.searches[1]

    hall = play(story, secret)

    newest = hall.bodies(Recorded)[-1]
    assert newest.since == UNTIL
    assert UNTIL + 13 * MINUTE < newest.until <= hall.at(Recorded)[-1] - 2 * MINUTE
    assert newest.spans == ((newest.since, newest.until),)


def test_after_a_restart_it_goes_on_from_the_mark(secret: Path) -> None:
    hall = Hall()
    play(settles, secret, hall=hall)
    hall.time += HOUR

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: len(stage.hall.bodies(Recorded, "cam2")) == 3)

    play(story, secret, hall=hall)

    newest = hall.bodies(Recorded)[-1]
    assert (newest.since, newest.until) == (UNTIL, UNTIL + HOUR)
    assert newest.spans == ((UNTIL, instant("2025-03-14T08:59:00")),)


def test_a_long_absence_is_caught_up_for_two_days_only(secret: Path) -> None:
    hall = Hall()
    hall.marks["cam1", "recorded"] = str(UNTIL - 10 * DAY)
    play(settles, secret, hall=hall)

    assert hall.bodies(Recorded)[0].since == BACK


def test_a_mark_in_the_future_is_no_mark(secret: Path) -> None:
    hall = Hall()
    hall.marks["cam1", "recorded"] = str(UNTIL + 10 * DAY)
    play(settles, secret, hall=hall)

    assert hall.bodies(Recorded)[0].since == BACK


def test_a_gap_is_seen_and_file_borders_are_not(secret: Path) -> None:
    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.recordings = []
        nvr.record(1, wall("2025-03-12T00:00:00"), wall("2025-03-13T14:00:00"), 7)
        nvr.record(1, wall("2025-03-13T15:30:00"), wall("2025-03-13T18:00:00"))
        nvr.record(1, wall("2025-03-13T18:00:02"), wall("2025-03-14T09:00:00"))

    hall = play(settles, secret, prepare)

    second = hall.bodies(Recorded)[1]
    assert second.spans == (
        (BACK + DAY, instant("2025-03-13T14:00:00")),
        (instant("2025-03-13T15:30:00"), UNTIL),
    )
    assert hall.bodies(Recorded, "cam2") == [
        Recorded(BACK, BACK + DAY),
        Recorded(BACK + DAY, UNTIL),
    ]


def test_the_oldest_moves_when_the_disk_is_full(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.settled()
        stage.nvr.overwrite(wall("2025-03-05T12:00:00"))
        await stage.hall.until(lambda: len(stage.hall.bodies(Recorded)) == 3, 30)

    hall = play(story, secret)

    assert [one.oldest for one in hall.bodies(Recorded)] == [
        FIRST,
        FIRST,
        instant("2025-03-05T12:00:00"),
    ]


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("most", [1, 3, 40, 100])
def test_pages_are_read_to_the_end(secret: Path, most: int, counts: bool) -> None:
    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.most, nvr.counts = most, counts

    asked: list[int] = []

    async def story(stage: Stage) -> None:
        await stage.settled()
        for search in stage.nvr.searches:
            if "<startTime>2025-03-12T08:58:00Z" in search and "<trackID>101<" in search:
                asked.append(int(search.partition("Postion>")[2].partition("<")[0]))

    hall = play(story, secret, prepare)

    # 25 files touch a day that begins at two minutes to nine.
    assert asked == list(range(0, 25, min(most, 40)))
    assert [one.spans for one in hall.bodies(Recorded)] == [
        ((BACK, BACK + DAY),),
        ((BACK + DAY, UNTIL),),
    ]


@pytest.mark.parametrize("form", ["trackList", "trackIDList", "{"])
def test_a_search_is_written_as_the_recorder_wants_it(secret: Path, form: str) -> None:
    hall = play(settles, secret, lambda nvr: setattr(nvr, "wants_form", form))

    assert len(hall.bodies(Recorded)) == 2


@pytest.mark.parametrize("offset", [-7200, 7200, 300, -28800])
def test_a_wrong_clock_is_put_right(secret: Path, offset: int) -> None:
    """Or another zone: what counts is what its clock shows."""

    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.clock.offset = offset
        nvr.recordings = []
        ahead = timedelta(seconds=offset)
        nvr.record(1, wall("2025-03-10T00:00:00") + ahead, wall("2025-03-14T08:00:00") + ahead)

    hall = play(settles, secret, prepare)

    assert hall.bodies(Recorded)[1] == Recorded(
        BACK + DAY,
        UNTIL,
        ((BACK + DAY, instant("2025-03-14T08:00:00")),),
        instant("2025-03-10T00:00:00"),
    )


def test_a_recorder_that_says_its_zone_is_asked_by_its_wall_clock(secret: Path) -> None:
    """Set to London, its clock is right and shows eight hours less."""

    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.clock.offset, nvr.offset = -28_800, "+00:00"
        nvr.recordings = []
        nvr.record(1, wall("2025-03-10T00:00:00"), wall("2025-03-14T00:30:00"))

    hall = play(settles, secret, prepare)

    assert hall.bodies(Recorded)[1].spans == ((BACK + DAY, instant("2025-03-14T08:30:00")),)
    assert hall.at(ClockCheck) == [NINE]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda nvr: setattr(nvr, "searchable", False),
        lambda nvr: nvr.busy.add("search"),
        lambda nvr: setattr(nvr, "wants_form", "other"),
    ],
    ids=["not supported", "busy", "no form is accepted"],
)
def test_a_recorder_that_will_not_search_is_let_alone_for_an_hour(
    secret: Path, prepare: Callable[[EmulatedRecorder], None]
) -> None:
    async def story(stage: Stage) -> None:
        def asked() -> int:
            return sum("search" in target for _, target in stage.nvr.requests)

        await stage.hall.until(lambda: stage.hall.note_of("recordings") == "resting")
        first = asked()
        assert 1 <= first <= 6
        await stage.listening()
        while stage.hall.now() < NINE + HOUR - MINUTE:
            await stage.hall.pass_seconds(60)
            await asyncio.sleep(0.001)
        assert asked() == first
        stage.nvr.busy.clear()
        stage.nvr.searchable, stage.nvr.wants_form = True, ""
        await stage.hall.until(lambda: stage.hall.bodies(Recorded), 60)

    hall = play(story, secret, prepare)

    assert hall.note_of("recordings") is None
    assert hall.links["cam1"] == [True]


def test_pages_that_repeat_are_no_answer(secret: Path) -> None:
    def prepare(nvr: EmulatedRecorder) -> None:
        nvr.most, nvr.repeats_page = 5, True

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.hall.note_of("searches_failed") == 2)

    hall = play(story, secret, prepare)

    assert hall.bodies(Recorded) == []
    assert hall.note_of("last_error") == "search: a page came twice, expected the next one"


def test_an_answer_that_cannot_be_read_claims_no_gap(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.hall.note_of("searches_failed") == 2)
        stage.nvr.mend = bytes
        await stage.hall.until(lambda: stage.hall.bodies(Recorded, "cam2"), 30)

    hall = play(
        story,
        secret,
        lambda nvr: setattr(
            nvr, "mend", lambda told: told.replace(b":00Z</endTime>", b"</endTime>")
        ),
    )

    assert hall.bodies(Unreadable)[0].reason.startswith("searchMatchItem[0]: time '2025-03-0")
    first = hall.bodies(Recorded)[0]
    assert first == Recorded(first.since, first.since + DAY, ((first.since, first.since + DAY),))
    assert first.since > BACK


def test_a_search_that_takes_too_long_does_not_lose_the_recorder(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isapi, "ANSWER_LIMIT", 3000)

    async def story(stage: Stage) -> None:
        await stage.hall.until(lambda: stage.hall.note_of("recordings") == "resting")
        await stage.listening()

    hall = play(story, secret)

    assert hall.links == {"cam1": [True], "cam2": [True]}


def test_a_recorder_too_weak_to_look_for_its_oldest_tells_the_rest(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isapi, "ANSWER_LIMIT", 14_000)

    hall = play(settles, secret)

    assert hall.bodies(Recorded)[0] == Recorded(BACK, BACK + DAY, ((BACK, BACK + DAY),))
    assert hall.note_of("oldest") == "resting"
    assert hall.note_of("recordings") is None


def test_nothing_is_marked_that_was_not_stored(secret: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.listening()
        stage.hall.disk_full = True
        await stage.hall.until(lambda: "search" in stage.nvr.requests[-1][1])
        await stage.hall.until(lambda: stage.hall.note_of("last_error"))
        stage.hall.disk_full = False

    hall = Hall()
    play(story, secret, hall=hall)

    for device in ("cam1", "cam2"):
        ends = [one.until for one in hall.bodies(Recorded, device)]
        assert hall.marks.get((device, "recorded")) == (str(ends[-1]) if ends else None)


def test_only_what_reads_is_asked_of_a_recorder(secret: Path) -> None:
    seen: list[tuple[str, str]] = []

    async def story(stage: Stage) -> None:
        await stage.listening()
        await stage.settled()
        await stage.hall.pass_seconds(130)
        seen.extend(stage.nvr.requests)

    play(story, secret)

    assert set(seen) == {
        ("GET", "/ISAPI/System/deviceInfo"),
        ("GET", "/ISAPI/System/time"),
        ("GET", "/ISAPI/ContentMgmt/InputProxy/channels/status"),
        ("GET", "/ISAPI/Event/notification/alertStream"),
        ("POST", "/ISAPI/ContentMgmt/search"),
    }
