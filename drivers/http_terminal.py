"""Terminals of other makers that post each record to us: Dahua (大华) and Uface (宇泛).

The terminal is the HTTP client; all terminals of one listening port share one ``HttpTerminal`` and
are told apart by the end of the path, which each was given with its settings.

    uface     POST, form fields            deviceKey  serial of the terminal
                                           personId   the person; empty or STRANGERBABY: nobody
                                           time       ms since 1970, UTC
                                           type       face_0 recognised, face_1 outside the allowed
                                                      time, face_2 stranger or failed; card_0...
              a post without type and time is a heartbeat
              answer                       {"result":1,"success":true}, or it is sent again
    uface_hf  the same (port 8190)         answer {"result":1,"code":"000"}
    dahua     POST, JSON                   {"Events":[{"Code":"AccessControl","Data":{...}}]}
              or text                      Code=AccessControl;action=Pulse;index=0;data={...}
                                           several in one body; or the word Heartbeat
              Data                         UserID, Status (1 ok, 0 failed), Method, Type (Entry,
                                           Exit), UTC (seconds since 1970), ErrorCode, Door
              maybe gzip or deflate

Some Dahua units write local wall time as if it were UTC.  ``times = "auto"`` finds out by the first
event that comes as it happens; what comes before is journalled as unreadable, never at a guess.

Neither maker says which records it still holds, so nothing is ever said to be complete.

Names, cards, pictures, temperatures, scores and citizen ID numbers end here.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import msgspec

from drivers import http_listener
from drivers.base import Context, Device, DeviceRefused
from drivers.text import is_citizen_id
from rules.model import HOUR, MINUTE, Body, DeviceEvent, Instant, Punch, Reading, Unreadable

FAMILY = "http_terminal"
LISTENER_ID = "http-terminal"
"""What the listener has to tell of posts that nobody configured is noted under this."""

BODY_LIMIT = 8 * 1024 * 1024
"""A Uface record brings its picture along."""
EVENTS_LIMIT = 1_000
RAW_LIMIT = 4096
NEAR = 10 * MINUTE
"""Between an event that came as it happened and its arrival."""
UNREADABLE_AN_HOUR = 20

# --------------------------------------------------------------------------------------------
# Pure functions
# --------------------------------------------------------------------------------------------

_PERSON = re.compile(r"[!-~]{1,32}")
_EPOCH = re.compile(r"\d{1,14}", re.ASCII)
_KIND = re.compile(r"([a-z]{1,16})_(\d)", re.ASCII)
_CODE = re.compile(r"Code=(\w+);action=(\w+);index=-?\d+(?:;data=\s*)?", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]{1,64}")


class Told(NamedTuple):
    """One record or event.  ``at`` is as the terminal wrote it; none where it tells no time."""

    body: Body
    at: Instant | None
    raw: bytes = b""


def uface_record(body: bytes) -> tuple[str, Told | None]:
    """``(deviceKey, record)``, no record for a heartbeat.  Raises ``ValueError``."""
    fields: dict[str, str] = {}
    for name, value in parse_qsl(
        body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=64
    ):
        if len(value) <= 64:
            fields.setdefault(name, value.strip())
    key = fields.get("deviceKey", "")
    if not _PRINTABLE.fullmatch(key):
        raise ValueError("deviceKey: expected 1 to 64 visible ASCII signs")
    if "time" not in fields and "type" not in fields:
        return key, None
    if not _EPOCH.fullmatch(fields.get("time", "")):
        raise ValueError("time: expected milliseconds since 1970")
    kind = _KIND.fullmatch(fields.get("type", ""))
    if kind is None:
        raise ValueError("type: expected a word, _ and a digit, such as face_0")
    person = _person(fields.get("personId", ""), "personId")
    if person == "STRANGERBABY":
        person = ""
    kept = {"deviceKey": key, "time": fields["time"], "type": kind.group()}
    if person:
        kept["personId"] = person
    raw = msgspec.json.encode(kept)
    about = f"{kind.group()} person={person}" if person else kind.group()
    at = int(fields["time"])
    match kind.group(2):
        case "0" if person:
            return key, Told(Punch(person), at, raw)
        case "0":
            return key, Told(DeviceEvent("unknown_person", 0, about), at, raw)
        case "1":
            return key, Told(DeviceEvent("refused", 1, f"wrong period {about}"), at, raw)
        case "2":
            return key, Told(DeviceEvent("refused", 2, f"not recognised {about}"), at, raw)
    return key, Told(DeviceEvent("other", int(kind.group(2)), about), at, raw)


def dahua_events(body: bytes) -> Iterator[Told]:
    """The events in a post; what cannot be read is ``Unreadable``.  Heartbeats are nothing."""
    text = _decoded(body).strip()
    if text.startswith("{"):
        try:
            told = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            yield _unreadable(f"JSON: {type(error).__name__}", text)
            return
        events = told.get("Events", [told]) if isinstance(told, dict) else []
        for event in events[:EVENTS_LIMIT] if isinstance(events, list) else []:
            if isinstance(event, dict):
                yield from _dahua(event.get("Code"), event.get("Data"), str(event))
        return
    at = 0
    found = 0
    decoder = json.JSONDecoder(strict=False)
    while (head := _CODE.search(text, at)) and found < EVENTS_LIMIT:
        found += 1
        at = head.end()
        data: object = None
        if head.group().rstrip().endswith("data="):
            try:
                # Not by counting braces: they stand in strings too.
                data, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                yield _unreadable(f"data: {type(error).__name__}", text[head.start() :])
                continue
        yield from _dahua(head.group(1), data, text[head.start() : at])
    if not found and text and "Heartbeat" not in text:
        yield _unreadable("expected Code=...;action=...;index=...;data={...}, or JSON", text)


def _dahua(code: object, data: object, text: str) -> Iterator[Told]:
    if code != "AccessControl":
        if isinstance(code, str) and code.isascii() and code.isalnum():
            utc = data.get("UTC") if isinstance(data, dict) else None
            yield Told(DeviceEvent("other", detail=code[:32]), _seconds(utc))
        return
    if not isinstance(data, dict):
        yield _unreadable("AccessControl: expected Data", text)
        return
    at = _seconds(data.get("UTC"))
    status, method = _whole(data.get("Status")), _whole(data.get("Method"))
    if at is None or status is None:
        yield _unreadable("AccessControl: expected UTC and Status as whole numbers", text)
        return
    try:
        person = _person(str(data.get("UserID") or ""), "UserID")
    except ValueError as error:
        yield _unreadable(str(error), text)
        return
    direction = {"Entry": 0, "Exit": 1}.get(str(data.get("Type")))
    kept: dict[str, str | int] = {"UTC": at // 1000, "Status": status}
    for name in ("Method", "Door", "ErrorCode"):
        if (number := _whole(data.get(name))) is not None:
            kept[name] = number
    if person:
        kept["UserID"] = person
    if direction is not None:
        kept["Type"] = str(data["Type"])
    raw = msgspec.json.encode(kept)
    if status == 1 and person:
        yield Told(Punch(person, method, direction), at, raw)
    elif status == 1:
        yield Told(DeviceEvent("unknown_person", method or 0), at, raw)
    else:
        error_code = kept.get("ErrorCode", "")
        detail = f"ErrorCode={error_code}" + (f" person={person}" if person else "")
        yield Told(DeviceEvent("refused", method or 0, detail), at, raw)


def inflated(body: bytes, encoding: str) -> bytes:
    """A body without its gzip or deflate.  Raises ``ValueError`` with a sentence."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError("content-encoding: expected gzip or deflate")
    for bits in (47, -15):  # with a gzip or zlib head, or bare
        unpack = zlib.decompressobj(bits)
        try:
            out = unpack.decompress(body, BODY_LIMIT)
        except zlib.error:
            continue
        if unpack.unconsumed_tail:
            raise ValueError(f"content-encoding: more than {BODY_LIMIT} bytes when unpacked")
        return out
    raise ValueError(f"content-encoding: {encoding} is damaged")


def wall_as_utc(at: Instant, zone: ZoneInfo) -> Instant:
    """The instant meant by a terminal that writes wall time as if it were UTC."""
    wall = datetime.fromtimestamp(at / 1000, ZoneInfo("UTC")).replace(tzinfo=zone)
    return int(wall.timestamp()) * 1000


def which_times(at: Instant, now: Instant, zone: ZoneInfo) -> str:
    """``utc`` or ``local`` if an event written like this came as it happened, or empty."""
    if abs(now - at) <= NEAR:
        return "utc"
    return "local" if abs(now - wall_as_utc(at, zone)) <= NEAR else ""


def _person(text: str, name: str) -> str:
    if text in ("", "0"):
        return ""
    if not _PERSON.fullmatch(text):
        raise ValueError(f"{name}: expected at most 32 visible ASCII signs")
    return "" if is_citizen_id(text) else text


def _whole(value: object) -> int | None:
    if type(value) is int and 0 <= value < 2**31:
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def _seconds(value: object) -> Instant | None:
    seconds = value if type(value) is int else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        seconds = int(value)
    return seconds * 1000 if seconds is not None and 0 <= seconds < 7_000_000_000 else None


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("gb18030", "replace")


_SECRET_VALUE = re.compile(
    r"""(?i)(["']?\b(?:CardName|Name|CardNo|URL|imgBase64|path|Similarity)\b["']?\s*[:=]\s*)"""
    r"""("(?:[^"\\]|\\.)*"?|'[^']*'?|[^,}&;]*)"""
)
_LONG_NUMBER = re.compile(r"\d{15,}[Xx]?")
_BASE64 = re.compile(r"[A-Za-z0-9+/=%]{40,}")


def _unreadable(sentence: str, text: str) -> Told:
    return Told(Unreadable(sentence), None, scrub(text))


def scrub(text: str) -> bytes:
    """The beginning of something unreadable, fit to be kept."""
    text = text[:RAW_LIMIT]
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return b""
    text = _SECRET_VALUE.sub(r'\1"*"', text)
    text = _BASE64.sub("*", _LONG_NUMBER.sub("*", text))
    return text.encode("utf-8", "replace")[:RAW_LIMIT]


_REQUEST = re.compile(rb"POST \S+ HTTP/1\.[01]\r?\n")
_HEAD_ENDS = re.compile(rb"\r?\n\r?\n")
_HEADER = re.compile(rb"(?im)^(content-length|content-encoding):[ \t]*(\S+)")


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Readings in a capture: posts one after another, or the body of one.  Times are as written.

    ``at`` is 0 where none is told.
    """
    at = 0
    while start := _REQUEST.match(data, at):
        end = _HEAD_ENDS.search(data, start.end() - 1)
        if end is None:
            return
        headers = {
            name.lower(): value for name, value in _HEADER.findall(data[start.end() : end.start()])
        }
        length = headers.get(b"content-length", b"0")
        at = end.end() + (int(length) if length.isdigit() and len(length) < 10 else 0)
        body = data[end.end() : at]
        try:
            body = inflated(body, headers.get(b"content-encoding", b"").decode("latin-1").lower())
        except ValueError as error:
            yield Reading("capture", 0, Unreadable(str(error)))
            continue
        yield from _captured(body)
    yield from _captured(data[at:])


def _captured(body: bytes) -> Iterator[Reading]:
    if not body.strip():
        return
    if b"deviceKey=" in body:
        try:
            key, told = uface_record(body)
        except ValueError as error:
            yield Reading("capture", 0, Unreadable(str(error)), scrub(_decoded(body)))
            return
        if told is not None:
            yield Reading("capture", told.at or 0, told.body, told.raw, key)
        return
    for told in dahua_events(body):
        yield Reading("capture", told.at or 0, told.body, told.raw)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpTerminalOptions:
    """A terminal that posts its records to ``listen`` at ``port``.

    ``token_file`` holds what the path ends with that it was told to post to.  ``serial``: what it
    calls itself (deviceKey of a Uface, which may be no other).  ``times``: how a Dahua writes UTC.
    ``silent_s``: seconds without a post after which it is lost.
    """

    maker: Literal["dahua", "uface", "uface_hf"]
    serial: str
    token_file: str
    listen: str = "127.0.0.1"
    port: int = 8090
    times: Literal["auto", "utc", "local"] = "auto"
    silent_s: float = 300

    def __post_init__(self) -> None:
        if not _PRINTABLE.fullmatch(self.serial):
            raise ValueError(f"serial {self.serial!r}: expected 1 to 64 visible ASCII signs")
        if not self.token_file:
            raise ValueError("token_file is empty: posts are told apart by their token")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: expected 1 to 65535")
        if not 10 <= self.silent_s <= 86_400:
            raise ValueError(f"silent_s is {self.silent_s}; expected 10 to 86400 seconds")

    def link(self) -> tuple[str, int]:
        return self.listen, self.port


# --------------------------------------------------------------------------------------------
# The listener
# --------------------------------------------------------------------------------------------

ANSWERS = {
    "uface": b'{"result":1,"success":true}',
    "uface_hf": b'{"result":1,"code":"000"}',
    "dahua": b"OK",
}


class Terminal:
    """One terminal that posts."""

    def __init__(self, device: Device) -> None:
        self.id = device.id
        self.options: HttpTerminalOptions = device.options
        self.token = b""
        self.heard: Instant | None = None
        self.lost = False
        self._counts: Counter[str] = Counter()
        self._unreadable: tuple[Instant, int] = (0, 0)

    async def take(self, body: bytes, context: Context) -> None:
        """Journal what was posted.  Raises ``OSError`` where that could not be done, and
        ``ValueError`` for another terminal's post."""
        now = context.now()
        told: list[Told] = []
        if self.options.maker == "dahua":
            told += dahua_events(body)
        else:
            try:
                key, record = uface_record(body)
            except ValueError as error:
                told.append(_unreadable(str(error), _decoded(body[:RAW_LIMIT])))
            else:
                if key != self.options.serial:
                    raise ValueError(f"a post names {key}, expected {self.options.serial}")
                told += [record] if record else []
        self.heard, self.lost = now, False
        context.contact(self.id)
        marks: dict[tuple[str, str], str] = {}
        readings = [reading for one in told if (reading := self._reading(one, now, context, marks))]
        if readings or marks:
            await context.emit(readings, marks)

    def _reading(
        self, told: Told, now: Instant, context: Context, marks: dict[tuple[str, str], str]
    ) -> Reading | None:
        at = now if told.at is None else told.at
        if told.at is not None and self.options.maker == "dahua":
            times: str = self.options.times
            if times == "auto":
                times = (
                    marks.get((self.id, "times"))
                    or context.mark(self.id, "times")
                    or which_times(told.at, now, context.zone)
                )
                if not times:
                    sentence = "it is not known yet whether this unit writes UTC or local time"
                    told = Told(Unreadable(sentence), told.at, told.raw)
                elif context.mark(self.id, "times") != times:
                    marks[(self.id, "times")] = times
                    context.note(self.id, times=times)
            if times == "local":
                at = wall_as_utc(at, context.zone)
        if type(told.body) is Unreadable:
            self._counts["decode_errors"] += 1
            context.note(self.id, decode_errors=self._counts["decode_errors"])
            since, count = self._unreadable
            since, count = (now, 0) if now - since >= HOUR else (since, count)
            self._unreadable = since, count + 1
            if told.at is None and count >= UNREADABLE_AN_HOUR:
                return None
        return Reading(self.id, at, told.body, told.raw, self.options.serial)


class Listener:
    """The ASGI application: posts to readings."""

    def __init__(self, terminals: Sequence[Terminal], context: Context) -> None:
        self._terminals = terminals
        self._context = context
        self._strangers = 0

    async def __call__(
        self,
        scope: http_listener.Scope,
        receive: http_listener.Receive,
        send: http_listener.Send,
    ) -> None:
        token = scope["path"].rstrip("/").rpartition("/")[2].encode("utf-8", "replace")
        terminal = next(
            (one for one in self._terminals if hmac.compare_digest(one.token, token)), None
        )
        if terminal is None:
            self._strangers += 1
            client = scope.get("client")
            address = client[0] if client else ""
            self._context.note(
                LISTENER_ID, unknown_posts=self._strangers, last_unknown_address=address
            )
            await http_listener.answer(send, 404)
            return
        if scope["method"] != "POST":
            known = scope["method"] in ("GET", "HEAD")
            await http_listener.answer(send, 200 if known else 405)
            return
        status = await self._post(terminal, http_listener.headers_of(scope), receive)
        if status:
            good = ANSWERS[terminal.options.maker] if status == 200 else b""
            kind = b"text/plain" if good == b"OK" else b"application/json"
            await http_listener.answer(send, status, good, kind)

    async def _post(
        self, terminal: Terminal, headers: Mapping[str, str], receive: http_listener.Receive
    ) -> int:
        """The status to answer with; 0 if there is nobody to answer."""
        body = bytearray()
        try:
            async for chunk in http_listener.chunks(receive, BODY_LIMIT):
                body += chunk
            encoding = headers.get("content-encoding", "").strip().lower()
            await terminal.take(inflated(bytes(body), encoding), self._context)
        except http_listener.Gone:
            return 0
        except http_listener.TooLong:
            return 413
        except ValueError as error:
            self._context.note(terminal.id, last_error=str(error))
            return 400
        except OSError as error:
            self._context.note(
                terminal.id, last_error=f"读数未能保存 / readings could not be stored: {error}"
            )
            return 503
        return 200


class HttpTerminal:
    """One listening port and the terminals that post to it."""

    options: ClassVar[type] = HttpTerminalOptions
    attendance: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self._terminals = [Terminal(device) for device in devices]
        self.address: tuple[str, int] | None = None
        """Where it listens, once it does."""
        files = Counter(terminal.options.token_file for terminal in self._terminals)
        for file, times in files.items():
            if times > 1:
                raise ValueError(f"token_file {file} is given to {times} terminals")

    async def run(self, context: Context) -> None:
        for terminal in self._terminals:
            terminal.token = await asyncio.to_thread(_read_token, terminal.options.token_file)
        listening = http_listener.listen(*self._terminals[0].options.link())
        self.address = listening.getsockname()[:2]
        listener = Listener(self._terminals, context)
        try:
            await http_listener.serve(listener, listening, self._watch(context))
        finally:
            self.address = None

    async def _watch(self, context: Context) -> None:
        """Notices terminals that fell silent; a closed connection means nothing."""
        began = context.now()
        while True:
            await context.sleep(5)
            for terminal in self._terminals:
                silent = context.now() - (terminal.heard if terminal.heard is not None else began)
                if not terminal.lost and silent > terminal.options.silent_s * 1000:
                    terminal.lost = True
                    seconds = f"{terminal.options.silent_s:g} s"
                    context.lost(terminal.id, f"终端没有上报 / no post for {seconds}")


def _read_token(path: str) -> bytes:
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise DeviceRefused(f"令牌文件无法读取 / token_file {path}: {error}") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{4,100}", token):
        raise DeviceRefused(
            f"令牌文件内容无效 / token_file {path}: expected 4 to 100 letters, digits, _ or -"
        )
    return token.encode()


DRIVER = HttpTerminal
