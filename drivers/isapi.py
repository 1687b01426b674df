"""ISAPI as Hikvision's devices speak it: HTTP, Digest, JSON and XML, multipart event streams.

For every driver whose device is asked over ISAPI: terminals, recorders, cameras.

    GET  /ISAPI/System/deviceInfo                   model, serialNumber, firmwareVersion, macAddress
    GET  /ISAPI/System/time                         localTime, timeZone
    GET  /ISAPI/Event/notification/alertStream      multipart that never ends

A device locks the account after five to seven wrong passwords.  One refusal of a fresh challenge
is the last attempt for ten minutes, also across restarts.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from hashlib import md5, sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast
from urllib.parse import urlsplit
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import httpx

from drivers.base import Context, DeviceLost, DeviceRefused
from drivers.text import wall_instant
from rules.model import Instant

DEVICE_INFO = "/ISAPI/System/deviceInfo"
SYSTEM_TIME = "/ISAPI/System/time"
ALERT_STREAM = "/ISAPI/Event/notification/alertStream"

# --------------------------------------------------------------------------------------------
# Pure functions: Digest
# --------------------------------------------------------------------------------------------


class Challenge(NamedTuple):
    """What a device asks for with 401."""

    realm: str
    nonce: str
    opaque: str | None = None
    algorithm: str | None = None
    """As it was written; none where it was not."""
    qop: bool = False
    stale: bool = False


_PARAMETER = re.compile(r'\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*(?:,|$)')
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][\w-]*)(?:\s+|\s*,|$)(?!\s*=)")
_HASHES = {"MD5": md5, "SHA-256": sha256}


def challenge_of(fields: Iterable[str]) -> Challenge | None:
    """The first Digest challenge that can be answered, of all WWW-Authenticate header fields, read
    as Latin-1."""
    for field in fields:
        for scheme, told in _challenges(field):
            algorithm = told.get("algorithm")
            base = (algorithm or "MD5").upper().removesuffix("-SESS")
            offered = {word.strip().lower() for word in told.get("qop", "").split(",")} - {""}
            if scheme != "digest" or base not in _HASHES or "nonce" not in told:
                continue
            if offered and "auth" not in offered:
                continue
            return Challenge(
                told.get("realm", ""),
                told["nonce"],
                told.get("opaque"),
                algorithm,
                bool(offered),
                told.get("stale", "").lower() == "true",
            )
    return None


def _challenges(field: str) -> Iterator[tuple[str, dict[str, str]]]:
    at, scheme, told = 0, "", dict[str, str]()
    while at < len(field):
        if parameter := _PARAMETER.match(field, at):
            name, quoted, plain = parameter.groups()
            told.setdefault(name.lower(), quoted if quoted is not None else plain)
            at = parameter.end()
        elif (word := _SCHEME.match(field, at)) and word.end() > at:
            if scheme:
                yield scheme, told
            scheme, told = word.group(1).lower(), {}
            at = word.end()
        else:
            break
    if scheme:
        yield scheme, told


def guise(text: str) -> str:
    """The bytes of a text in UTF-8, as Latin-1."""
    return text.encode("utf-8", "replace").decode("latin-1")


def as_sent(text: str) -> str:
    """A field read as Latin-1 stays as it is; one that was read otherwise was UTF-8."""
    return text if all(sign <= "\xff" for sign in text) else guise(text)


def digest_answer(
    challenge: Challenge, user: str, password: str, method: str, target: str, nc: int, cnonce: str
) -> str:
    """The Authorization field, to be sent as Latin-1.  ``target`` is the request target with its
    query."""
    name = (challenge.algorithm or "MD5").upper()
    hashed = _HASHES[name.removesuffix("-SESS")]

    def h(text: str) -> str:
        return hashed(text.encode("latin-1")).hexdigest()

    # Headers are bytes in the guise of Latin-1; what is told in signs goes as UTF-8.
    user, hidden, target = guise(user), guise(password), as_sent(target)
    challenge = challenge._replace(
        realm=as_sent(challenge.realm),
        nonce=as_sent(challenge.nonce),
        opaque=None if challenge.opaque is None else as_sent(challenge.opaque),
    )
    secret = h(f"{user}:{challenge.realm}:{hidden}")
    if name.endswith("-SESS"):
        secret = h(f"{secret}:{challenge.nonce}:{cnonce}")
    asked = h(f"{method}:{target}")
    count = f"{nc:08x}"
    middle = f":{count}:{cnonce}:auth" if challenge.qop else ""
    response = h(f"{secret}:{challenge.nonce}{middle}:{asked}")
    parts = [
        f'username="{user}"',
        f'realm="{challenge.realm}"',
        f'nonce="{challenge.nonce}"',
        f'uri="{target}"',
        f'response="{response}"',
    ]
    if challenge.algorithm is not None:
        parts.append(f"algorithm={challenge.algorithm}")
    if challenge.opaque is not None:
        parts.append(f'opaque="{challenge.opaque}"')
    if challenge.qop:
        parts += ["qop=auth", f"nc={count}"]
    if challenge.qop or name.endswith("-SESS"):
        parts.append(f'cnonce="{cnonce}"')
    return "Digest " + ", ".join(parts)


# --------------------------------------------------------------------------------------------
# Pure functions: documents
# --------------------------------------------------------------------------------------------

Document = dict[str, Any]

DEEPEST = 32
RAW_LIMIT = 4096
_CONTROL = re.compile(r"[\x00-\x1f]+")
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


def document(data: bytes) -> Document:
    """A JSON or XML document as nested dicts; XML by local names, repeated elements as lists.

    Raises ``ValueError`` with a sentence.
    """
    data = data.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n\0")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # Old firmware writes names in GBK whatever it announces.
        text = data.decode("gb18030", "replace")
    try:
        if text.startswith("{"):
            return _json(text)
        if text.startswith("<"):
            return _xml(text)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    raise ValueError("expected { or < at the beginning")


def _json(text: str) -> Document:
    try:
        told = json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        mended = _TRAILING_COMMA.sub(r"\1", _CONTROL.sub(" ", text))
        try:
            told = json.loads(mended)
        except json.JSONDecodeError:
            raise ValueError(f"JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(told, dict):
        raise ValueError("JSON: expected an object")
    level: list[Any] = [told]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError("JSON: nested too deeply")
    return told


def _xml(text: str) -> Document:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("XML: document types are not accepted")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"XML: {error}") from None
    told = _element(root, 0)
    return told if isinstance(told, dict) else {}


def _element(element: ElementTree.Element, depth: int) -> Document | str:
    if depth > DEEPEST:
        raise ValueError("XML: nested too deeply")
    if not len(element):
        return (element.text or "").strip()
    told: Document = {}
    for child in element:
        name = child.tag.rpartition("}")[2]
        value = _element(child, depth + 1)
        if name not in told:
            told[name] = value
        elif isinstance(told[name], list):
            told[name].append(value)
        else:
            told[name] = [told[name], value]
    return told


def inside(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """JSON wraps what XML has as its root."""
    inner = told.get(name, told)
    return inner if isinstance(inner, dict) else {}


def told_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if type(value) is int and abs(value) < 10**18 else ""


def told_whole(value: object) -> int | None:
    text = told_text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


_TIME = re.compile(
    r"\s*(\d{4})-(\d\d?)-(\d\d?)[T ](\d\d?):(\d\d?):(\d\d)(?:\.\d{1,9})?"
    r"(?:(Z)|([+-])(\d\d?):?(\d\d))?"
)


def instant_of(text: str, zone: ZoneInfo) -> Instant:
    """An ISO 8601 time.  Without an offset, or with a broken one (``11:46:3100:00``), it is wall
    time in ``zone``.  Never before 1970.  Raises ``ValueError`` where there is no such time."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"time {text[:32]!r}: expected YYYY-MM-DDThh:mm:ss")
    numbers = [int(part) for part in match.groups()[:6]]
    if not 1970 <= numbers[0] < 2200:
        raise ValueError(f"time {text[:32]!r}: the year is not possible")
    utc, sign, hours, minutes = match.groups()[6:]
    if not utc and sign is None:
        year, month, day, hour, minute, second = numbers
        return max(0, wall_instant(year, month, day, hour, minute, second, zone))
    offset = timedelta(0)
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if offset > timedelta(hours=15):
            raise ValueError(f"time {text[:32]!r}: no zone is that far from UTC")
    aware = datetime(*numbers, tzinfo=timezone(-offset if sign == "-" else offset))  # type: ignore[misc, arg-type]
    return max(0, int(aware.timestamp()) * 1000)


def is_heartbeat(told: Mapping[str, Any]) -> bool:
    kind = told_text(told.get("eventType")).lower()
    if kind == "videoloss":
        return told_text(told.get("eventState")).lower() == "inactive"
    return kind == "heartbeat"


_SECRET_VALUE = re.compile(
    rb'(?i)("?\b(?:name|cardNo|QRCodeInfo|pictureURL|faceURL|currTemperature)\b"?\s*[:>]\s*)'
    rb'("(?:[^"\\]|\\.)*"?|[^,}<]*)'
)
_CITIZEN_ID_WITHIN = re.compile(rb"\d{15,}[Xx]?")
_BASE64 = re.compile(rb"[A-Za-z0-9+/=]{40,}")
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def scrub(raw: bytes) -> bytes:
    """The beginning of something unreadable, fit to be kept."""
    raw = raw[: 2 * RAW_LIMIT]
    if _NOT_TEXT.search(raw):
        return b""
    raw = _SECRET_VALUE.sub(rb'\1"*"', raw)
    return _BASE64.sub(b"*", _CITIZEN_ID_WITHIN.sub(b"*", raw))[:RAW_LIMIT]


# --------------------------------------------------------------------------------------------
# Pure functions: multipart streams
# --------------------------------------------------------------------------------------------

HEADER_LIMIT = 8 * 1024
TEXT_LIMIT = 256 * 1024
PICTURE_LIMIT = 4 * 1024 * 1024
PREAMBLE_LIMIT = 64 * 1024
OFF_BY = 16
"""Bytes by which a Content-Length is forgiven to be too large."""

_HEAD_ENDS = re.compile(rb"\r?\n\r?\n")
_FIRST_LINE = re.compile(rb"(?:^|\n)(--[^\r\n]{1,200})\r?\n")
_BOUNDARY = re.compile(r'(?i);\s*boundary\s*=\s*(?:"([^"]*)"|([^;]*))')
_NAME = re.compile(r'(?i);\s*name\s*=\s*"?([^";]*)')
_EVENT_NAMES = ("event_log", "accesscontrollerevent")


class Part(NamedTuple):
    """A document of a stream, or the sentence that says why it is none."""

    told: Document
    problem: str = ""
    raw: bytes = b""


def part_of(body: bytes) -> Part:
    """A document that came alone."""
    try:
        return Part(document(body))
    except ValueError as error:
        return Part({}, str(error), scrub(body))


def boundary_of(content_type: str) -> bytes | None:
    """The boundary as it stands, without double quotes; none if the first line has to show it."""
    match = _BOUNDARY.search(content_type)
    value = (match.group(1) or match.group(2) or "").strip() if match else ""
    return value.encode("latin-1", "replace") or None


class Multipart:
    """Cuts a stream into documents as soon as each is whole; pictures are counted and discarded.

    A part ends where its Content-Length says if it is a document by then, and else before the next
    delimiter.  Holds no more than one part of text.
    """

    def __init__(self, boundary: bytes | None) -> None:
        self._delimiter = b"--" + boundary if boundary else b""
        self._buffer = bytearray()
        self._state: Literal["seek", "head", "text", "picture", "after"] = "seek"
        self._length: int | None = None
        self._sought = 0
        self._scanned = 0
        self._fresh = True
        """Nothing of the buffer's line was dropped, so its beginning is the beginning of a line."""
        self.pictures = 0
        self.resyncs = 0

    def feed(self, chunk: bytes) -> list[Part]:
        self._buffer += chunk
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """What is left when the stream ends."""
        if self._state != "text" or not self._buffer.strip():
            return []
        body = bytes(self._buffer)
        self._buffer.clear()
        return [part_of(body)]

    def _step(self, parts: list[Part]) -> bool:
        """Whether something was understood, so that it is worth looking again."""
        match self._state:
            case "seek":
                return self._seek(parts)
            case "after":
                return self._after()
            case "head":
                return self._head(parts)
            case "text":
                return self._text(parts)
            case "picture":
                return self._picture()

    # -- delimiters

    def _find(self, start: int) -> tuple[int, int] | None:
        """Where the next delimiter's line begins and ends; ends is -1 while it is cut off."""
        delimiter, buffer = self._delimiter, self._buffer
        at = start
        while (at := buffer.find(delimiter, at)) >= 0:
            if (at == 0 and self._fresh) or (at > 0 and buffer[at - 1] in b"\r\n"):
                ends = self._line_end(at)
                if ends:
                    return at, ends
            at += 1
        return None

    def _line_end(self, at: int) -> int:
        """0: this is no delimiter; -1: cannot be told yet."""
        rest = self._buffer[at + len(self._delimiter) : at + len(self._delimiter) + 80]
        if rest.startswith(b"--"):
            return at + len(self._delimiter) + 2
        ends = rest.find(b"\n")
        if ends >= 0 and not rest[:ends].strip():
            return at + len(self._delimiter) + ends + 1
        return -1 if ends < 0 and (rest == b"-" or not rest.strip()) and len(rest) < 80 else 0

    def _open(self, ends: int) -> None:
        closing = self._buffer[ends - 2 : ends] == b"--"
        self._drop(ends)
        self._state = "seek" if closing else "head"
        self._sought = 0
        self._fresh = True

    def _drop(self, count: int) -> None:
        if count:
            self._fresh = self._buffer[count - 1] in b"\r\n"
            del self._buffer[:count]
        self._scanned = 0

    def _seek(self, parts: list[Part]) -> bool:
        if not self._delimiter:
            first = _FIRST_LINE.search(self._buffer)
            if first is not None:
                self._delimiter = bytes(first.group(1)).rstrip()
                self._drop(first.start(1))
                return True
            keep = 256
        else:
            found = self._find(0)
            if found is not None and found[1] > 0:
                self._open(found[1])
                return True
            keep = len(self._buffer) - found[0] if found else len(self._delimiter) + 1
        dropped = len(self._buffer) - keep
        if dropped > 0:
            self._sought += dropped
            self._drop(dropped)
        if self._sought > PREAMBLE_LIMIT:
            self._sought = 0
            parts.append(Part({}, f"no delimiter within {PREAMBLE_LIMIT} bytes"))
        return False

    def _after(self) -> bool:
        blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
        if blank:
            self._drop(blank)
        if not self._buffer:
            return False
        if self._buffer.startswith(self._delimiter):
            ends = self._line_end(0)
            if ends > 0:
                self._open(ends)
                return True
            if ends < 0:
                return False
        elif self._delimiter.startswith(self._buffer):
            return False
        self.resyncs += 1
        self._state = "seek"
        return True

    # -- parts

    def _head(self, parts: list[Part]) -> bool:
        self._drop(len(self._buffer) - len(self._buffer.lstrip(b"\r\n")))
        buffer = self._buffer
        if not buffer:
            return False
        if buffer.startswith(self._delimiter) and self._line_end(0):
            self._state = "after"
            return True
        headers: dict[str, str] = {}
        if not buffer.startswith((b"{", b"<")):
            end = _HEAD_ENDS.search(buffer)
            if end is None and len(buffer) <= HEADER_LIMIT:
                return False
            if end is None or end.start() > HEADER_LIMIT:
                parts.append(Part({}, f"a part's headers exceed {HEADER_LIMIT} bytes"))
                self._state = "seek"
                return True
            for line in buffer[: end.start()].decode("latin-1").split("\n")[:64]:
                name, colon, value = line.partition(":")
                if colon:
                    headers.setdefault(name.strip().lower(), value.strip())
            start = end.end()
        else:
            start = 0
        first = bytes(buffer[start : start + 64]).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if not first and len(buffer) < start + 64:
            return False
        self._drop(start)
        self._fresh = True
        length = headers.get("content-length", "")
        known = length.isascii() and length.isdigit() and len(length) < 10
        self._length = int(length) if known else None
        named = _NAME.search(headers.get("content-disposition", ""))
        kind = headers.get("content-type", "").lower()
        expected = "json" in kind or "xml" in kind
        expected |= named is not None and named.group(1).lower() in _EVENT_NAMES
        if first in (b"{", b"<") or expected:
            self._state = "text"
        else:
            self._picture_begins()
        return True

    def _picture_begins(self) -> None:
        self.pictures += 1
        bounded = self._length is not None and self._length <= PICTURE_LIMIT
        self._state = "picture" if bounded else "seek"
        self._sought = -2 * PICTURE_LIMIT

    def _text(self, parts: list[Part]) -> bool:
        buffer, length = self._buffer, self._length
        if length is not None and len(buffer) >= length and self._try(length, parts):
            return True
        found = self._find(self._scanned)
        if found is not None and found[1] > 0:
            if self._try(found[0], parts):
                return True
            if length is None or length > TEXT_LIMIT or len(buffer) >= length:
                if buffer[: found[0]].strip():
                    parts.append(part_of(bytes(buffer[: found[0]])))
                self._drop(found[0])
                self._state = "after"
                return True
        elif found is None:
            self._scanned = max(0, len(buffer) - len(self._delimiter) - 1)
        near = length is None or abs(length - len(buffer)) <= OFF_BY
        if near and buffer.rstrip().endswith((b"}", b">")) and self._try(len(buffer), parts):
            return True
        if len(buffer) > TEXT_LIMIT:
            parts.append(Part({}, f"a document exceeds {TEXT_LIMIT} bytes", scrub(bytes(buffer))))
            self._drop(TEXT_LIMIT)
            self._state = "seek"
            self._sought = -PICTURE_LIMIT
            return True
        return False

    def _try(self, end: int, parts: list[Part]) -> bool:
        if end > TEXT_LIMIT:
            return False
        try:
            told = document(bytes(self._buffer[:end]))
        except ValueError:
            return False
        parts.append(Part(told))
        self._drop(end)
        self._state = "after"
        return True

    def _picture(self) -> bool:
        assert self._length is not None
        # A delimiter inside means that the length was too large; a picture has none by chance.
        found = self._find(0)
        if found is not None and found[1] > 0 and found[0] <= self._length:
            self._drop(found[0])
            self._state = "after"
            return True
        if len(self._buffer) >= self._length:
            self._drop(self._length)
            self._state = "after"
            return True
        tail = len(self._buffer) - found[0] if found else len(self._delimiter) + 1
        dropped = max(0, len(self._buffer) - tail)
        self._length -= dropped
        self._drop(dropped)
        return False


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------

_START_LINE = re.compile(rb"(?:HTTP/1\.[01] \d{3}|(?:POST|GET|HEAD|PUT) \S+ HTTP/1\.[01])[^\n]*\n")


def captured(data: bytes) -> Iterator[Part]:
    """Documents in a capture: HTTP messages one after another, a bare stream, or one document."""
    at = 0
    while start := _START_LINE.match(data, at):
        end = _HEAD_ENDS.search(data, start.end() - 1)
        if end is None:
            return
        head = data[start.end() : end.start()].decode("latin-1")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\n"))
        }
        length = headers.get("content-length", "")
        known = length.isascii() and length.isdigit() and len(length) < 10
        at = end.end() + int(length) if known else len(data)
        body = data[end.end() : at]
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = _unchunked(body)
        yield from _parts(body, headers.get("content-type", ""))
        while data[at : at + 1] in (b"\r", b"\n"):
            at += 1
    if data[at:].strip():
        yield from _parts(data[at:], "")


def _parts(body: bytes, content_type: str) -> Iterable[Part]:
    if not body.strip():
        return []
    if "multipart" in content_type.lower() or body.lstrip().startswith(b"--"):
        parser = Multipart(boundary_of(content_type))
        return [*parser.feed(body), *parser.finish()]
    return [part_of(body)]


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while match := re.compile(rb"([0-9A-Fa-f]{1,7})[^\n]*\n").match(body, at):
        size = int(match.group(1), 16)
        parts.append(body[match.end() : match.end() + size])
        at = match.end() + size
        at += len(body[at : at + 2]) - len(body[at : at + 2].lstrip(b"\r\n"))
        if not size:
            break
    return b"".join(parts)


# --------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
"""Without a byte; searches were seen to take 3.5 s."""
REQUEST_SECONDS = 60.0
ANSWER_LIMIT = 2 * 1024 * 1024
LOCKED_OUT = 600
"""Seconds after a wrong password before another attempt."""
STALE_LIMIT = 2


class Reachable(Protocol):
    """Options of a device that is asked over ISAPI."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def scheme(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password_file(self) -> str: ...
    @property
    def certificate_sha256(self) -> str: ...


def check_reachable(options: Reachable) -> None:
    """Raises ``ValueError`` with a sentence for what cannot be an address or an account."""
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", options.host):
        raise ValueError(f"host {options.host!r}: expected the device's name or address")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"port {options.port}: expected 1 to 65535, or 0 for the usual one")
    if not re.fullmatch(r"[!#-9;-\[\]-~]{1,64}", options.user):
        raise ValueError('user: expected 1 to 64 visible ASCII signs without ", : and \\')
    if options.certificate_sha256 and not re.fullmatch(
        r"[0-9a-f]{64}", options.certificate_sha256.replace(":", "").lower()
    ):
        raise ValueError("certificate_sha256: expected 64 hexadecimal digits")


def address_of(options: Reachable) -> tuple[str, int]:
    return options.host, options.port or (443 if options.scheme == "https" else 80)


class NotSupported(Exception):
    """The device has no such endpoint."""


class Busy(Exception):
    """The device has too much to do, or too many subscribers."""


class NotAccepted(Exception):
    """The device did not like the contents of a request."""


class WrongPassword(DeviceRefused):
    """``seconds`` must pass before the next attempt."""

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Answer(NamedTuple):
    headers: httpx.Headers
    body: bytes


class Login:
    """The Digest state of one sequence of requests; never of two at a time."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._challenge: Challenge | None = None
        self._count = 0

    def challenged(self, challenge: Challenge) -> None:
        if self._challenge is None or challenge.nonce != self._challenge.nonce:
            self._count = 0
        self._challenge = challenge

    def answer(self, method: str, target: str) -> str | None:
        if self._challenge is None:
            return None
        self._count += 1
        return digest_answer(
            self._challenge,
            self._user,
            self._password,
            method,
            target,
            self._count,
            secrets.token_hex(8),
        )


class Certificate:
    """The only certificate accepted; none yet: the first that is seen."""

    def __init__(self, expected: str) -> None:
        self.expected = expected.replace(":", "").lower()
        self.shown = ""

    def context(self) -> ssl.SSLContext:
        certificate = self

        class Pinned(ssl.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                certificate.check(self.getpeercert(binary_form=True) or b"")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = Pinned
        return context

    def check(self, der: bytes) -> None:
        self.shown = sha256(der).hexdigest()
        if not self.expected:
            self.expected = self.shown
        if self.shown != self.expected:
            raise ssl.SSLCertVerificationError("the certificate is not the pinned one")


class Isapi:
    """Requests to one device: one at a time, beside one stream."""

    def __init__(
        self, options: Reachable, password: str, base: str, certificate: Certificate
    ) -> None:
        self.base = base
        self._options = options
        self._password = password
        self._certificate = certificate
        self._login = Login(options.user, password)
        self._one = asyncio.Lock()
        self._client = httpx.AsyncClient(
            verify=certificate.context(),
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(
                max_connections=2, max_keepalive_connections=1, keepalive_expiry=15
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "hallwatch"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, method: str, target: str, content: bytes | None = None) -> Answer:
        """The answer to a request, if it is 200.

        Raises ``NotSupported``, ``Busy``, ``NotAccepted``, ``WrongPassword``, ``DeviceRefused`` or
        ``DeviceLost``.
        """
        async with self._one:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    response = await self._send(self._login, method, target, content)
                    try:
                        body = await _body(response)
                    finally:
                        await response.aclose()
            except TimeoutError:
                raise DeviceLost(
                    f"设备应答过慢 / {target} was not answered within {REQUEST_SECONDS:g} s"
                ) from None
            except httpx.HTTPError as error:
                raise self._lost(error) from error
            return Answer(response.headers, body)

    @asynccontextmanager
    async def stream(self, target: str) -> AsyncIterator[httpx.Response]:
        """An answer that never ends.  Raises as ``ask``, or ``httpx.HTTPError`` once it broke."""
        login = Login(self._options.user, self._password)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._send(login, "GET", target, None, endless=True)
        except TimeoutError:
            raise DeviceLost(
                f"设备应答过慢 / {target} was not answered within {REQUEST_SECONDS:g} s"
            ) from None
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(
        self,
        login: Login,
        method: str,
        target: str,
        content: bytes | None,
        endless: bool = False,
    ) -> httpx.Response:
        # Whoever listens to an endless answer minds its silence himself.
        read = None if endless else ANSWER_SECONDS
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=read)
        fresh = False
        stale = broken = redirected = 0
        while True:
            headers = []
            if content is not None:
                kind = b"application/xml" if content.startswith(b"<") else b"application/json"
                headers.append((b"Content-Type", kind))
            if (authorization := login.answer(method, target)) is not None:
                headers.append((b"Authorization", authorization.encode("latin-1")))
            request = self._client.build_request(
                method, self.base + target, headers=headers, content=content, timeout=timeout
            )
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # The device closed the kept connection just then; nothing we ask changes it.
                if broken:
                    raise
                broken += 1
                continue
            if response.status_code == 200:
                return response
            try:
                body = await _body(response)
            finally:
                await response.aclose()
            if response.status_code == 401:
                challenge = challenge_of(_fields(response, b"www-authenticate"))
                self._refuse_if_locked(body)
                if challenge is None:
                    raise DeviceRefused(
                        "设备不支持 Digest 认证 / the device offers no Digest authentication"
                        " that can be answered"
                    )
                if fresh and not (challenge.stale and stale < STALE_LIMIT):
                    if challenge.stale:
                        raise DeviceLost("the device calls every nonce stale")
                    raise WrongPassword(
                        "用户名或密码错误 / the device refused user and password", LOCKED_OUT
                    )
                stale += challenge.stale and fresh
                fresh = True
                login.challenged(challenge)
            elif response.status_code in (301, 302, 307, 308) and not redirected:
                redirected += 1
                self._follow(response.headers.get("location", ""))
            else:
                raise _refusal(response.status_code, target, body)

    def _follow(self, location: str) -> None:
        """The same device by another scheme; never another host."""
        try:
            there = urlsplit(location)
            port = there.port
        except ValueError:
            there, port = urlsplit(""), None
        here = urlsplit(self.base)
        if there.scheme not in ("http", "https") or there.hostname != here.hostname:
            raise DeviceLost(
                f"设备转向别处 / the device sends us to {location[:80]!r},"
                f" expected http or https on {here.hostname}"
            )
        if here.scheme == "https" and there.scheme == "http":
            raise DeviceRefused("设备转向明文 / the device sends us from https to http")
        self.base = base_of(there.scheme, here.hostname or "", port)

    def _refuse_if_locked(self, body: bytes) -> None:
        told = _status_of(body)
        sub = told_text(told.get("subStatusCode")).lower()
        if sub == "notactivated":
            raise DeviceRefused("设备未激活 / the device has not been activated")
        if told_text(told.get("lockStatus")).lower() == "lock" or sub == "userlocked":
            seconds = max(LOCKED_OUT, min(told_whole(told.get("unlockTime")) or 0, 86_400))
            raise WrongPassword("账户已锁定 / the device has locked the account", seconds)

    def _lost(self, error: httpx.HTTPError) -> DeviceLost | DeviceRefused:
        if self._certificate.shown not in ("", self._certificate.expected):
            return DeviceRefused(
                "设备证书与记录不符 / the device shows a certificate with SHA-256"
                f" {self._certificate.shown}, expected {self._certificate.expected}"
            )
        what = str(error) or type(error).__name__
        return DeviceLost(f"无法与设备通信 / no exchange with {self.base}: {what}")


def _fields(response: httpx.Response, name: bytes) -> list[str]:
    raw = response.headers.raw
    return [value.decode("latin-1") for key, value in raw if key.lower() == name]


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > ANSWER_LIMIT:
            raise DeviceLost(f"the device's answer exceeds {ANSWER_LIMIT} bytes")
    return bytes(body)


def base_of(scheme: str, host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port else "")


def _status_of(body: bytes) -> Mapping[str, Any]:
    try:
        return inside(inside(document(body), "ResponseStatus"), "userCheck")
    except ValueError:
        return {}


def _refusal(status: int, target: str, body: bytes) -> Exception:
    """What a status other than 200 means."""
    told = _status_of(body)
    sub, why = printable(told.get("subStatusCode")), printable(told.get("errorMsg"))
    sentence = f"{target.partition('?')[0]} answered {status} {sub} {why}".strip()
    match sub.lower():
        case "deployexceedmax" | "devicebusy":
            return Busy(sentence)
        case "notactivated":
            return DeviceRefused(f"设备未激活 / the device has not been activated: {sentence}")
        case "userlocked":
            return WrongPassword("账户已锁定 / the device has locked the account", LOCKED_OUT)
        case "badauthorization":
            return WrongPassword("用户名或密码错误 / the device refused us", LOCKED_OUT)
        case "notsupport":
            return NotSupported(sentence)
    if status in (403, 404, 405, 501):
        return NotSupported(sentence)
    if status == 400:
        return NotAccepted(sentence)
    if status == 503:
        return Busy(sentence)
    return DeviceLost(sentence)


def printable(value: object) -> str:
    return "".join(sign for sign in told_text(value)[:64] if sign.isprintable())


def _read_password(path: str) -> tuple[str, int]:
    """The secret, and when its file was written."""
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n"), Path(path).stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise DeviceRefused(f"密码文件无法读取 / password_file {path}: {error}") from None


class Visit:
    """One connection, and what is remembered from one to the next in the marks of ``device``:
    where it sent us, its certificate, and that it refused the password."""

    def __init__(self, device: str, options: Reachable, context: Context) -> None:
        self._device = device
        self._options = options
        self._context = context
        self._written = 0
        self._configured = base_of(options.scheme, options.host, options.port or None)
        self._certificate = Certificate("")

    async def open(self) -> Isapi:
        """Raises ``DeviceRefused`` without a password, and while another attempt might lock us
        out."""
        context, options = self._context, self._options
        password, self._written = await asyncio.to_thread(_read_password, options.password_file)
        self._respect_lockout()
        before, _, base = (context.mark(self._device, "base") or "").partition(" ")
        if before != self._configured:
            base = self._configured
        pin = options.certificate_sha256 or context.mark(self._device, "certificate") or ""
        self._certificate = Certificate(pin)
        return Isapi(options, password, base, self._certificate)

    def _respect_lockout(self) -> None:
        """The file written anew is worth an attempt."""
        until, _, then = (self._context.mark(self._device, "refused") or "").partition(" ")
        if until and int(until) > self._context.now() and then == str(self._written):
            seconds = (int(until) - self._context.now()) // 1000
            raise DeviceRefused(
                "用户名或密码错误，为避免锁定暂不重试 / the device refused user and password; to"
                f" avoid a lock-out the next attempt is in {seconds} s, or after password_file is"
                " written anew"
            )

    def accepted(self, isapi: Isapi) -> dict[str, str]:
        """The marks to keep after it answered."""
        marks = {"refused": "", "base": f"{self._configured} {isapi.base}"}
        if self._certificate.shown and not self._options.certificate_sha256:
            marks["certificate"] = self._certificate.shown
        return {
            name: value
            for name, value in marks.items()
            if (self._context.mark(self._device, name) or "") != value
        }

    def refused(self, error: WrongPassword) -> dict[str, str]:
        """The marks to keep after it refused the password."""
        return {"refused": f"{self._context.now() + error.seconds * 1000} {self._written}"}


async def chunks_of(
    response: httpx.Response, silence: Callable[[], float]
) -> AsyncGenerator[bytes | None, None]:
    """What a stream brings; ``None`` whenever ``silence()`` seconds pass without a byte.  Ends
    where the stream ends or breaks."""
    incoming = cast(AsyncGenerator[bytes, None], response.aiter_raw())
    waiting: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.create_task(_next(incoming))
            done, _ = await asyncio.wait({waiting}, timeout=silence())
            if not done:
                yield None
                continue
            try:
                chunk = waiting.result()
            except httpx.HTTPError:
                return
            finally:
                waiting = None
            if chunk is None:
                return
            yield chunk
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await incoming.aclose()


async def _next(incoming: AsyncIterator[bytes]) -> bytes | None:
    return await anext(incoming, None)
