"""Plays a Hikvision recorder: ISAPI over HTTP with Digest, an event stream, and searches.

For the demo, for commissioning without hardware, and for tests.

    GET  /ISAPI/System/deviceInfo                         XML
    GET  /ISAPI/System/time                               XML, wall clock with offset
    GET  /ISAPI/ContentMgmt/InputProxy/channels/status    XML, which cameras it reaches
    GET  /ISAPI/Event/notification/alertStream            multipart/mixed without an end
    POST /ISAPI/ContentMgmt/search                        XML, a page of recordings of a track

Every request needs Digest; five wrong answers lock the account.  Channels count from 1, the main
track of channel 3 is 301.  Searches take and give the wall clock with a Z behind it.  The search
keeps the vendor's spelling ``searchResultPostion``; the right one is an invalid document.

Source: the vendor's developer guide and field notes about DS-7600 and DS-7200 recorders.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from hashlib import md5
from itertools import count

from drivers.emulators.clock import TerminalClock
from drivers.emulators.http_peer import HttpPeer, read_request

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 40 + b"\xff\xd9"
NAMESPACE = 'version="2.0" xmlns="http://www.hikvision.com/ver20/XMLSchema"'

Kept = tuple[int, datetime, datetime]
"""Channel, begin and end by the recorder's wall clock."""


class EmulatedRecorder(HttpPeer):
    """One recorder.  ``clock`` gives the true local wall time, naive; the recorder's own is
    ``recorder.clock`` and may be wrong.

    ``recordings`` are its files.  Set an attribute at any time to play an oddity; all of them start
    harmless.
    """

    def __init__(
        self,
        serial: str = "DS-7616NXI-K20020250101CCRRK12345678WCVU",
        *,
        clock: Callable[[], datetime],
        user: str = "admin",
        password: str = "Abc12345",
        channels: int = 4,
        recordings: Iterable[Kept] = (),
    ) -> None:
        self.serial = serial
        super().__init__()
        self.clock = TerminalClock(clock)
        self.user, self.password = user, password
        self.channels = channels
        self.recordings = list(recordings)
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._number = count(1)
        self._nonces: set[str] = set()

        # faults
        self.wrong = 0
        """Requests in a row that showed a wrong Digest answer; five lock the account."""
        self.offset = "+08:00"
        self.offline: set[int] = set()
        self.tells_status = True
        self.streamable = True
        self.searchable = True
        self.busy: set[str] = set()
        """Last words of the paths that are answered with deviceBusy."""
        self.wants_form = ""
        """``trackList`` or ``trackIDList``: the only one that it takes; ``{``: an id in braces."""
        self.most = 40
        self.counts = True
        """It says numOfMatches."""
        self.repeats_page = False
        self.mend: Callable[[bytes], bytes] = bytes
        """What is done to the bytes of every answer."""
        self.silent = False
        """Accepts connections and never answers."""
        self.boundary = "boundary"
        self.piece = 1 << 16
        """Bytes of the stream written at a time."""

        # what was asked of it
        self.requests: list[tuple[str, str]] = []
        self.searches: list[str] = []

    # -- life

    @property
    def streams(self) -> int:
        return len(self._streams)

    def record(
        self, channel: int, starts: datetime, ends: datetime, file_minutes: int = 60
    ) -> None:
        """It recorded without a gap, in files of this length."""
        while starts < ends:
            until = min(starts + timedelta(minutes=file_minutes), ends)
            self.recordings.append((channel, starts, until))
            starts = until

    def overwrite(self, until: datetime) -> None:
        """The disk is full: the oldest files make room."""
        self.recordings = [kept for kept in self.recordings if kept[2] > until]

    def event(
        self,
        kind: str,
        channel: int = 1,
        state: str = "active",
        posts: int = 1,
        *,
        picture: bool = False,
        at: datetime | None = None,
        dynamic: bool = False,
    ) -> None:
        """Tell every stream; ``dynamic``: the channel stands in ``dynChannelID``."""
        shown = (at or self.clock.now()).isoformat(timespec="seconds") + self.offset
        field = "dynChannelID" if dynamic else "channelID"
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<EventNotificationAlert {NAMESPACE}>\n'
            f"<ipAddress>192.168.1.64</ipAddress><portNo>80</portNo><protocol>HTTP</protocol>"
            f"<macAddress>24:28:fd:00:00:02</macAddress><{field}>{channel}</{field}>"
            f"<dateTime>{shown}</dateTime><activePostCount>{posts}</activePostCount>"
            f"<eventType>{kind}</eventType><eventState>{state}</eventState>"
            f"<eventDescription>{kind} alarm</eventDescription></EventNotificationAlert>"
        ).encode()
        told = self.part("application/xml", body)
        if picture:
            told += self.part("image/jpeg", JPEG)
        self.send(told)

    def heartbeat(self) -> None:
        self.event("videoloss", 1, "inactive", 0)

    def part(self, kind: str, body: bytes) -> bytes:
        head = f"--{self.boundary}\r\nContent-Type: {kind}; charset=UTF-8\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n"

    def send(self, told: bytes) -> None:
        for stream in self._streams:
            stream.put_nowait(told)

    def cut_streams(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)

    # -- HTTP

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, fields, body = await read_request(reader)
        if self.silent:
            await asyncio.Event().wait()
        refusal = self._authenticate(method, target, fields.get("authorization"))
        if refusal is not None:
            self._answer(writer, 401, refusal, self._challenge())
            await writer.drain()
            return True
        self.requests.append((method, target))
        word = target.rpartition("/")[2]
        if word in self.busy:
            status, answer = self._status(503, "deviceBusy")
        elif word == "alertStream" and self.streamable:
            await self._stream(writer)
            return False
        else:
            status, answer = self._ask(target, body)
        self._answer(writer, status, self.mend(answer))
        await writer.drain()
        return True

    def _answer(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = ""
    ) -> None:
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/xml\r\n{extra}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _authenticate(self, method: str, target: str, shown: str | None) -> bytes | None:
        """The body of a 401; none if the request may pass."""
        if self.wrong >= 5:
            return (
                b"<userCheck><lockStatus>lock</lockStatus><unlockTime>1790</unlockTime></userCheck>"
            )
        if shown is not None:
            told = {
                name: quoted or plain
                for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', shown)
            }
            if told.get("nonce") in self._nonces:
                secret = md5(f"{self.user}:DVR:{self.password}".encode()).hexdigest()
                asked = md5(f"{method}:{target}".encode()).hexdigest()
                middle = f"{told['nonce']}:{told.get('nc')}:{told.get('cnonce')}:auth"
                if told.get("response") == md5(f"{secret}:{middle}:{asked}".encode()).hexdigest():
                    self.wrong = 0
                    return None
                self.wrong += 1
        return b"<userCheck><lockStatus>unlock</lockStatus></userCheck>"

    def _challenge(self) -> str:
        nonce = f"4e7a{next(self._number):08d}"
        self._nonces.add(nonce)
        return (
            f'WWW-Authenticate: Digest qop="auth", realm="DVR", nonce="{nonce}", stale="FALSE"\r\n'
        )

    # -- answers

    def _ask(self, target: str, body: bytes) -> tuple[int, bytes]:
        if target == "/ISAPI/System/deviceInfo":
            return 200, (
                f"<DeviceInfo {NAMESPACE}><deviceName>NVR</deviceName>"
                f"<model>DS-7616NXI-K2</model><serialNumber>{self.serial}</serialNumber>"
                "<macAddress>24:28:fd:00:00:02</macAddress>"
                "<firmwareVersion>V4.84.000</firmwareVersion></DeviceInfo>"
            ).encode()
        if target == "/ISAPI/System/time":
            wall = self.clock.now().isoformat(timespec="seconds")
            return 200, (
                f"<Time {NAMESPACE}><timeMode>NTP</timeMode>"
                f"<localTime>{wall}{self.offset}</localTime>"
                "<timeZone>CST-8:00:00</timeZone></Time>"
            ).encode()
        if target == "/ISAPI/ContentMgmt/InputProxy/channels/status" and self.tells_status:
            return 200, self._channel_status()
        if target == "/ISAPI/ContentMgmt/search" and self.searchable:
            return self._search(body.decode())
        return self._status(403, "notSupport")

    def _status(self, status: int, sub: str) -> tuple[int, bytes]:
        return status, (
            f"<ResponseStatus {NAMESPACE}><requestURL></requestURL><statusCode>4</statusCode>"
            f"<statusString>Invalid Operation</statusString>"
            f"<subStatusCode>{sub}</subStatusCode></ResponseStatus>"
        ).encode()

    def _channel_status(self) -> bytes:
        items = "".join(
            f"<InputProxyChannelStatus><id>{channel}</id><sourceInputPortDescriptor>"
            f"<ipAddress>192.168.1.{100 + channel}</ipAddress></sourceInputPortDescriptor>"
            f"<online>{'false' if channel in self.offline else 'true'}</online>"
            f"<chanDetectResult>{'netUnreachable' if channel in self.offline else 'connect'}"
            "</chanDetectResult></InputProxyChannelStatus>"
            for channel in range(1, self.channels + 1)
        )
        return (
            f"<InputProxyChannelStatusList {NAMESPACE}>{items}</InputProxyChannelStatusList>"
        ).encode()

    def _search(self, wanted: str) -> tuple[int, bytes]:
        self.searches.append(wanted)
        form = re.search(
            r"<searchID>(\{?[0-9A-Fa-f-]{36}\}?)</searchID>.*<(trackList|trackIDList)>"
            r"<trackID>(\d+)</trackID>.*<startTime>([^<]+)</startTime><endTime>([^<]+)</endTime>.*"
            r"<maxResults>(\d+)</maxResults><searchResultPostion>(\d+)</searchResultPostion>",
            wanted,
            re.DOTALL,
        )
        if form is None or self.wants_form not in (form[1] if self.wants_form == "{" else form[2]):
            return self._status(400, "badXmlContent")
        starts, ends = (datetime.fromisoformat(form[n].removesuffix("Z")) for n in (4, 5))
        channel = int(form[3]) // 100
        found = sorted(
            kept for kept in self.recordings if kept[0] == channel and kept[1] < ends > starts
            and kept[2] > starts
        )  # fmt: skip
        at = 0 if self.repeats_page else int(form[7])
        page = found[at : at + min(self.most, int(form[6]))]
        if not page:
            status = "NO MATCHES"
        else:
            status = "MORE" if at + len(page) < len(found) else "OK"
        items = "".join(
            "<searchMatchItem><sourceID>{00000000-0000-0000-0000-000000000000}</sourceID>"
            f"<trackID>{form[3]}</trackID><timeSpan><startTime>{begin.isoformat()}Z</startTime>"
            f"<endTime>{end.isoformat()}Z</endTime></timeSpan><mediaSegmentDescriptor>"
            "<contentType>video</contentType><codecType>H.264-BP</codecType>"
            f"<playbackURI>rtsp://192.168.1.64/Streaming/tracks/{form[3]}/</playbackURI>"
            "</mediaSegmentDescriptor></searchMatchItem>"
            for _, begin, end in page
        )
        number = f"<numOfMatches>{len(page)}</numOfMatches>" if self.counts else ""
        return 200, (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<CMSearchResult {NAMESPACE}>'
            f"<searchID>{form[1]}</searchID><responseStatus>true</responseStatus>"
            f"<responseStatusStrg>{status}</responseStatusStrg>{number}"
            f"<matchList>{items}</matchList></CMSearchResult>"
        ).encode()

    # -- the stream

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        writer.write(
            "HTTP/1.1 200 OK\r\nMIME-Version: 1.0\r\nConnection: close\r\n"
            f"Content-Type: multipart/mixed; boundary={self.boundary}\r\n\r\n".encode()
        )
        await writer.drain()
        self._streams.add(queue)
        try:
            while (told := await queue.get()) is not None:
                for start in range(0, len(told), self.piece):
                    writer.write(told[start : start + self.piece])
                    await writer.drain()
                    await asyncio.sleep(0)
        finally:
            self._streams.discard(queue)
