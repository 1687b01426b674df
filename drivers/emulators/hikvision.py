"""Plays a Hikvision attendance terminal: ISAPI over HTTP with Digest, an event stream, and posts.

For the demo, for commissioning without hardware, and for tests.

    GET  /ISAPI/System/deviceInfo                       XML
    GET  /ISAPI/System/time                             XML
    GET  /ISAPI/AccessControl/AcsEvent/capabilities     JSON, how long a page may be
    POST /ISAPI/AccessControl/AcsEvent?format=json      a page of the log
    GET  /ISAPI/Event/notification/alertStream          multipart/mixed without an end

Every request needs Digest; five wrong answers lock the account.  The terminal numbers its records
and never tells a number twice until it is wiped.  A post (host notification) is one event as JSON,
XML or multipart/form-data with a picture.

Source: the vendor's guide for person-based access control and field notes about real terminals.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import md5, sha256
from itertools import count
from typing import Any, Literal

from drivers.emulators.clock import TerminalClock
from drivers.emulators.http_peer import HttpPeer, read_request

NAMES = {"9001": "张三", "9002": "李四"}
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 40 + b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class HikRecord:
    """One record.  ``at`` is the terminal's wall time."""

    serial_no: int
    at: datetime
    major: int = 5
    minor: int = 75
    person: str = ""
    status: str = "undefined"
    front: int = 0


class HikTerminal(HttpPeer):
    """One terminal.  ``clock`` gives the true local wall time, naive; the terminal's own clock is
    ``terminal.clock`` and may be wrong.

    Set an attribute at any time to play an oddity; all of them start harmless.
    """

    def __init__(
        self,
        serial: str = "DS-K1T342MFWX20250101V030305ENG12345678",
        *,
        clock: Callable[[], datetime],
        user: str = "admin",
        password: str = "Abc12345",
        records: Iterable[HikRecord] = (),
        firmware: str = "V3.3.5",
        mac: str = "24:28:fd:00:00:01",
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(tls)
        self.serial = serial
        self.clock = TerminalClock(clock)
        self.user, self.password = user, password
        self.records = list(records)
        self.firmware, self.mac = firmware, mac
        self._sleep = sleep
        self._streams: dict[asyncio.Queue[HikRecord | bytes | None], int] = {}
        self._nonce_number = count(1)
        self._nonces: dict[str, int] = {}

        # authentication
        self.realm = "DS-HALL01"
        self.qop: str | None = "auth"
        self.opaque: str | None = ""
        self.algorithm: str | None = "MD5"
        self.basic_too = False
        self.nonce_uses = 1000
        """Requests after which a nonce is stale."""
        self.says_stale = True
        self.lock_after = 5
        self.wrong = 0
        self.attempts = 0
        """Requests that showed a wrong Digest answer."""

        # faults
        self.offset = "+08:00"
        """How its times end; empty: without."""
        self.event_offset: str | None = None
        self.most = 30
        """``maxResults`` beyond this is refused, or clipped if ``clips``."""
        self.clips = False
        self.searchable = True
        self.rejects_offsets = False
        self.knows_numbers = True
        self.knows_serials = True
        """Without, records have no serialNo and searches by number are ignored."""
        self.order: Literal["number", "time", "reverse"] = "number"
        self.short_pages = 0
        """Records left out of each page's InfoList."""
        self.single_as_object = False
        self.hold: asyncio.Event | None = None
        """Searches are answered when it is set, as things were when they were asked."""
        self.busy = 0
        """So many searches are answered with deviceBusy."""
        self.mend: Callable[[bytes], bytes] = bytes
        """What is done to the bytes of every document before they are sent."""
        self.streamable = True
        self.subscribers_limit = 4
        self.replays = 0
        """Newest records replayed at the begin of a stream; -1: all, and nothing live ever."""
        self.replay_pause = 0.0
        self.boundary = "MIME_boundary"
        self.content_type: str | None = None
        self.newline = "\r\n"
        self.blank_lines = 0
        self.tells_length = True
        self.length_error = 0
        self.pictures = False
        self.piece = 1 << 16
        """Bytes written at a time."""
        self.chunked = False
        self.current: bool | None = True
        """What streamed and posted events say; none: nothing."""
        self.redirect = ""
        self.silent = False
        """Accepts connections and never answers."""

        # what was asked of it
        self.requests: list[tuple[str, str]] = []
        self.searches: list[dict[str, Any]] = []
        self.nonce_counts: dict[str, list[int]] = {}
        self.reused_counts = 0
        self.open_now = 0
        self.open_most = 0
        self.told = Counter[str]()

    # -- life

    @property
    def streams(self) -> int:
        return len(self._streams)

    def punch(
        self,
        person: str,
        minor: int = 75,
        *,
        major: int = 5,
        at: datetime | None = None,
        status: str = "undefined",
        tell: bool = True,
    ) -> HikRecord:
        """Somebody stands before it; ``tell`` false: the streams miss it."""
        last = max((record.serial_no for record in self.records), default=0)
        record = HikRecord(last + 1, at or self.clock.now(), major, minor, person, status, last)
        self.records.append(record)
        if tell and self.replays >= 0:
            for stream in self._streams:
                stream.put_nowait(record)
        return record

    def heartbeat(self) -> None:
        beat = {
            "ipAddress": "192.168.1.64",
            "dateTime": self.clock.now().isoformat(timespec="seconds") + self.offset,
            "activePostCount": 0,
            "eventType": "videoloss",
            "eventState": "inactive",
            "eventDescription": "videoloss alarm",
        }
        self.send(json.dumps(beat).encode())

    def send(self, text: bytes) -> None:
        """One part with this body to every stream."""
        for stream in self._streams:
            stream.put_nowait(text)

    def cut_streams(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)

    def wipe(self) -> None:
        """The log is cleared and numbers begin anew."""
        self.records.clear()

    # -- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await super()._serve(reader, writer)
        finally:
            self.open_now -= 1

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, fields, body = await read_request(reader)
        if self.silent:
            await asyncio.Event().wait()
        self.requests.append((method, target))
        if self.redirect:
            self._answer(writer, 301, b"", f"Location: {self.redirect}{target}\r\n")
            await writer.drain()
            return True
        refusal = self._authenticate(method, target, fields.get("authorization"))
        if refusal is not None:
            self._answer(writer, 401, refusal[1], refusal[0])
            await writer.drain()
            return True
        path = target.partition("?")[0]
        if path.endswith("/alertStream"):
            await self._stream(writer)
            return False
        status, answer = self._ask(method, path, body)
        if self.hold is not None and path.endswith("/AcsEvent"):
            await self.hold.wait()
        self._answer(writer, status, self.mend(answer))
        await writer.drain()
        return True

    def _answer(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = ""
    ) -> None:
        kind = "application/json" if body.startswith(b"{") else "application/xml"
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def _authenticate(
        self, method: str, target: str, shown: str | None
    ) -> tuple[str, bytes] | None:
        """The challenge and the body of a 401; none if the request may pass."""
        stale = False
        if self.wrong >= self.lock_after:
            return self._challenge(False), (
                b"<userCheck><statusValue>401</statusValue><lockStatus>lock</lockStatus>"
                b"<unlockTime>1790</unlockTime></userCheck>"
            )
        if shown is not None:
            told = {
                name: quoted or plain
                for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', shown)
            }
            nonce = told.get("nonce", "")
            uses = self._nonces.get(nonce)
            if uses is None or uses >= self.nonce_uses:
                stale = self.says_stale
            elif told.get("response") == self._expected(method, target, told):
                self._nonces[nonce] = uses + 1
                counts = self.nonce_counts.setdefault(nonce, [])
                number = int(told.get("nc", "0"), 16)
                self.reused_counts += bool(self.qop and counts and number <= counts[-1])
                counts.append(number)
                self.wrong = 0
                return None
            else:
                self.wrong += 1
                self.attempts += 1
        left = self.lock_after - self.wrong
        body = (
            f"<userCheck><statusValue>401</statusValue><lockStatus>unlock</lockStatus>"
            f"<retryLoginTime>{left}</retryLoginTime></userCheck>"
        )
        return self._challenge(stale), body.encode()

    def _challenge(self, stale: bool) -> str:
        nonce = f"4e6f6e6365{next(self._nonce_number):06d}"
        self._nonces[nonce] = 0
        parts = [f'realm="{self.realm}"', f'nonce="{nonce}"']
        if self.qop is not None:
            parts.insert(0, f'qop="{self.qop}"')
        if self.opaque is not None:
            parts.append(f'opaque="{self.opaque}"')
        if self.algorithm is not None:
            parts.append(f"algorithm={self.algorithm}")
        if stale:
            parts.append("stale=TRUE")
        basic = f'WWW-Authenticate: Basic realm="{self.realm}"\r\n' if self.basic_too else ""
        return f"{basic}WWW-Authenticate: Digest {', '.join(parts)}\r\n"

    def _expected(self, method: str, target: str, told: dict[str, str]) -> str:
        digest = sha256 if "256" in (self.algorithm or "") else md5
        if told.get("uri") != target:
            return "the uri is not the request target"
        ha1 = digest(f"{self.user}:{self.realm}:{self.password}".encode()).hexdigest()
        ha2 = digest(f"{method}:{target}".encode()).hexdigest()
        if self.qop is None:
            return digest(f"{ha1}:{told['nonce']}:{ha2}".encode()).hexdigest()
        middle = f"{told['nonce']}:{told.get('nc')}:{told.get('cnonce')}:{told.get('qop')}"
        return digest(f"{ha1}:{middle}:{ha2}".encode()).hexdigest()

    # -- answers

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/ISAPI/System/deviceInfo":
            return 200, (
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                '<DeviceInfo version="2.0" xmlns="http://www.isapi.org/ver20/XMLSchema">\n'
                "<deviceName>Access Controller</deviceName><deviceID>255</deviceID>"
                f"<model>DS-K1T342MFWX</model><serialNumber>{self.serial}</serialNumber>"
                f"<macAddress>{self.mac}</macAddress>"
                f"<firmwareVersion>{self.firmware}</firmwareVersion></DeviceInfo>\n"
            ).encode()
        if path == "/ISAPI/System/time":
            wall = self.clock.now().isoformat(timespec="seconds")
            return 200, (
                '<Time version="2.0" xmlns="http://www.isapi.org/ver20/XMLSchema">'
                f"<timeMode>manual</timeMode><localTime>{wall}{self.offset}</localTime>"
                "<timeZone>CST-8:00:00</timeZone></Time>"
            ).encode()
        if path == "/ISAPI/AccessControl/AcsEvent/capabilities" and self.searchable:
            limits = {"maxResults": {"@min": 1, "@max": self.most}}
            return 200, json.dumps({"AcsEvent": {"AcsEventCond": limits}}).encode()
        if path == "/ISAPI/AccessControl/AcsEvent" and method == "POST" and self.searchable:
            return self._search(json.loads(body)["AcsEventCond"])
        return self._status(403, "notSupport")

    def _status(self, status: int, sub: str) -> tuple[int, bytes]:
        told = {"statusCode": 4, "statusString": "Invalid Operation", "subStatusCode": sub}
        return status, json.dumps(told).encode()

    def _search(self, wanted: dict[str, Any]) -> tuple[int, bytes]:
        self.searches.append(wanted)
        if self.busy:
            self.busy -= 1
            return self._status(503, "deviceBusy")
        starts, ends = wanted["startTime"], wanted["endTime"]
        if self.rejects_offsets and ("+" in starts or "+" in ends):
            return self._status(400, "badJsonContent")
        if wanted["maxResults"] > self.most and not self.clips:
            return self._status(400, "badJsonContent")
        by_number = "beginSerialNo" in wanted
        if by_number and not self.knows_numbers:
            return self._status(400, "badJsonContent")
        begin = wanted["beginSerialNo"] if by_number and self.knows_serials else 0
        found = [
            record
            for record in self.records
            if record.major == wanted["major"]
            and record.serial_no >= begin
            and datetime.fromisoformat(starts[:19])
            <= record.at
            <= datetime.fromisoformat(ends[:19])
        ]
        if self.order == "time":
            found.sort(key=lambda record: record.at)
        elif self.order == "reverse":
            found.reverse()
        at = wanted["searchResultPosition"]
        page = found[at : at + min(self.most, wanted["maxResults"])]
        answer: dict[str, Any] = {
            "searchID": wanted["searchID"],
            "totalMatches": len(found),
            "responseStatusStrg": "MORE" if at + len(page) < len(found) else "OK",
            "numOfMatches": len(page),
        }
        if not page:
            answer["responseStatusStrg"] = "NO MATCH"
        else:
            items = [self._item(record) for record in page[: len(page) - self.short_pages]]
            answer["InfoList"] = items[0] if self.single_as_object and len(items) == 1 else items
        return 200, json.dumps({"AcsEvent": answer}, ensure_ascii=False).encode()

    def _item(self, record: HikRecord) -> dict[str, Any]:
        item: dict[str, Any] = {
            "major": record.major,
            "minor": record.minor,
            "time": self._time(record),
            "employeeNoString": record.person,
            "name": NAMES.get(record.person, "王五"),
            "cardNo": "3141592653",
            "userType": "normal",
            "currentVerifyMode": "faceOrFpOrCardOrPw",
            "attendanceStatus": record.status,
            "statusValue": 0,
            "label": "上班",
            "cardReaderNo": 1,
            "doorNo": 1,
            "mask": "no",
            "pictureURL": "http://192.168.1.64/picture/1.jpg",
        }
        if self.knows_serials:
            item["serialNo"] = record.serial_no
        return item

    def _time(self, record: HikRecord) -> str:
        offset = self.offset if self.event_offset is None else self.event_offset
        return record.at.isoformat(timespec="seconds") + offset

    def event(self, record: HikRecord, current: bool | None = None) -> dict[str, Any]:
        """What a stream or a post tells of a record."""
        inner: dict[str, Any] = {
            "deviceName": "Access Controller",
            "majorEventType": record.major,
            "subEventType": record.minor,
            "name": NAMES.get(record.person, "王五"),
            "cardNo": "3141592653",
            "cardReaderNo": 1,
            "doorNo": 1,
            "employeeNoString": record.person,
            "serialNo": record.serial_no,
            "frontSerialNo": record.front,
            "userType": "normal",
            "currentVerifyMode": "faceOrFpOrCardOrPw",
            "attendanceStatus": record.status,
            "label": "上班",
            "mask": "no",
            "FaceRect": {"x": 0.3, "y": 0.2, "width": 0.2, "height": 0.3},
        }
        if current is not None:
            inner["currentEvent"] = current
        return {
            "ipAddress": "192.168.1.64",
            "portNo": 80,
            "protocol": "HTTP",
            "macAddress": self.mac,
            "channelID": 1,
            "dateTime": self._time(record),
            "activePostCount": 1,
            "eventType": "AccessControllerEvent",
            "eventState": "active",
            "eventDescription": "Access Controller Event",
            "AccessControllerEvent": inner,
        }

    # -- the stream

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        if not self.streamable:
            self._answer(writer, *self._status(403, "notSupport"))
            await writer.drain()
            return
        if len(self._streams) >= self.subscribers_limit:
            self._answer(writer, *self._status(403, "deployExceedMax"))
            await writer.drain()
            return
        queue: asyncio.Queue[HikRecord | bytes | None] = asyncio.Queue()
        kind = self.content_type
        if kind is None:
            kind = f"multipart/mixed; boundary={self.boundary}"
        coding = "Transfer-Encoding: chunked\r\n" if self.chunked else "Connection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{coding}\r\n".encode())
        replayed = self.records if self.replays < 0 else self.records[-self.replays :]
        if self.replays == 0:
            replayed = []
        self._streams[queue] = 0
        try:
            for record in list(replayed):
                await self._tell(writer, self._part(self.event(record, False)))
                if self.replay_pause:
                    await self._sleep(self.replay_pause)
            while (told := await queue.get()) is not None:
                if isinstance(told, HikRecord):
                    part = self._part(self.event(told, self.current))
                    if self.pictures:
                        part += self._picture()
                else:
                    part = self._wrap("application/json", told)
                await self._tell(writer, part)
                self.told["parts"] += 1
        finally:
            del self._streams[queue]

    async def _tell(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        for start in range(0, len(part), self.piece):
            piece = part[start : start + self.piece]
            if self.chunked:
                piece = f"{len(piece):X}\r\n".encode() + piece + b"\r\n"
            writer.write(piece)
            await writer.drain()
            if self.piece < len(part):
                await asyncio.sleep(0)

    def _part(self, told: dict[str, Any]) -> bytes:
        text = self.mend(json.dumps(told, ensure_ascii=False).encode())
        return self._wrap('application/json; charset="UTF-8"', text)

    def _picture(self) -> bytes:
        return self._wrap(
            "image/jpeg",
            JPEG,
            'Content-Disposition: form-data; name="Picture"; filename="Picture.jpg"',
        )

    def _wrap(self, kind: str, body: bytes, extra: str = "") -> bytes:
        lines = [f"--{self.boundary}"]
        if extra:
            lines.append(extra)
        lines.append(f"Content-Type: {kind}")
        if self.tells_length:
            lines.append(f"Content-Length: {len(body) + self.length_error}")
        head = self.newline.join([*lines, "", ""]).encode()
        return head + body + self.newline.encode() * (1 + self.blank_lines)

    # -- host notification

    async def notify(
        self,
        record: HikRecord,
        address: tuple[str, int],
        path: str,
        form: Literal["json", "xml", "multipart"] = "json",
        current: bool | None = None,
    ) -> int:
        """Post one record; the status of the answer, 0 if there was none."""
        told = self.event(record, current)
        if form == "json":
            kind, body = "application/json", json.dumps(told, ensure_ascii=False).encode()
        elif form == "xml":
            kind, body = "application/xml", _xml(told).encode()
        else:
            kind = "multipart/form-data; boundary=boundary"
            text = json.dumps(told, ensure_ascii=False).encode()
            body = (
                b'--boundary\r\nContent-Disposition: form-data; name="event_log"\r\n\r\n'
                + text
                + b'\r\n--boundary\r\nContent-Disposition: form-data; name="Picture"; '
                b'filename="Picture.jpg"\r\nContent-Type: image/jpeg\r\n'
                + f"Content-Length: {len(JPEG)}\r\n\r\n".encode()
                + JPEG
                + b"\r\n--boundary--\r\n"
            )
        return await self.post(address, path, kind, body)

    async def post(
        self, address: tuple[str, int], path: str, kind: str, body: bytes, method: str = "POST"
    ) -> int:
        reader, writer = await asyncio.open_connection(*address)
        try:
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            answer = await reader.read()
        except ConnectionError:
            return 0
        finally:
            writer.close()
        match = re.match(rb"HTTP/1\.1 (\d{3})", answer)
        return int(match.group(1)) if match else 0


def _xml(told: dict[str, Any]) -> str:
    def element(name: str, value: object) -> str:
        if isinstance(value, dict):
            value = "".join(element(inner, one) for inner, one in value.items())
        elif isinstance(value, bool):
            value = str(value).lower()
        return f"<{name}>{value}</{name}>"

    inside = "".join(element(name, value) for name, value in told.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<EventNotificationAlert version="2.0"'
        f' xmlns="http://www.hikvision.com/ver20/XMLSchema">{inside}</EventNotificationAlert>'
    )
