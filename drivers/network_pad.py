"""Rating pads on the network: over HTTP, over a WebSocket, and Android pads that poll.

The pad is the client; all pads of one listening address share one ``NetworkPads``.

    POST /api/v1/pads/{pad}/ratings     a rating (drivers/counter_json.py), with a rating_id or an
                                        Idempotency-Key
         201 stored    200 known already, same answer again    409 same id, another rating
         422 a field is wrong or missing    400 no JSON    413 more than 64 KiB
         401 no or a wrong token    403 no such pad    503 not stored: send it again later
    POST /api/v1/pads/{pad}/heartbeat   {"at": the pad's time}, or nothing
         200 {"at": our time, "prompt": null, or {"session", "ticket", "seconds", "url"}}
    GET  /pad/{pad}?session=&seconds=&key=     the page that a pad shows: keys and a countdown
    GET  .../empOnline?mac=&card=       an Android pad is alive: 200 with the text "online"
    GET  /ws/pads                       WebSocket; JSON texts of code, state (1 or 0), msg, data
         40001 to the pad     state 0: say who you are, or: wrong key; state 1: welcome
         40001 from the pad   data {"work_no", "key"}
         40000 from the pad   data: its time in ms since 1970; answered with ours; every 60 s
         50100 to the pad     data: URL of the page to open
         40002 to the pad     not to be understood
         50000 to the pad     unknown code

A rating is answered after it was journalled.  Pads that were offline send their ratings later:
they keep the time at which they were given.  Only pads of the settings are listened to; who else
calls is listed under ``LISTENER_ID``.

That an id came back with another rating is found among the last ``RECENT`` ratings of a pad, over
restarts; an older id counts as a repetition whatever comes with it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote
from zoneinfo import ZoneInfo

from msgspec import json as msgspec_json
from msgspec import structs
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from drivers import counter_json, http_listener
from drivers.base import AskForRating, Context, Device
from drivers.counter_json import BadBody, FieldError, Scale, ToldRating
from drivers.http_listener import Gone, Receive, Send
from rules.model import (
    HOUR,
    ClockCheck,
    DeviceEvent,
    Instant,
    Rating,
    RatingPrompt,
    Reading,
    Unreadable,
)

FAMILY = "network_pad"
LISTENER_ID = "network-pad"
"""What the listener itself has to tell (pads that nobody configured) is noted under this."""

RECENT = 256
"""Ratings of one pad whose contents are remembered."""
SESSIONS = 32
"""Prompts of one pad that a late rating can still refer to."""
HEARTBEAT: Instant = 60_000
MISSED = 3
PATIENCE: Instant = MISSED * HEARTBEAT
"""A pad that was silent for so long is lost, and its WebSocket is closed."""
UNREADABLE_AN_HOUR = 20
"""Refused bodies of one pad that are journalled in an hour; the rest are counted."""
STRANGERS_LIMIT = 200
UNMAPPED_LIMIT = 100
LOGINS = 3
"""Wrong keys on one connection."""

BODY_LIMIT = 64 * 1024
BODIES_LIMIT = 8 * 1024 * 1024
"""All bodies being received at one time."""
BODY_SECONDS = 30
LIMITS = http_listener.Limits(connections=1024, head=16 * 1024, message=BODY_LIMIT)
LOGIN_SECONDS = 30
SEND_SECONDS = 5

# --------------------------------------------------------------------------------------------
# WebSocket messages
# --------------------------------------------------------------------------------------------

LOGIN, BEAT, MALFORMED, UNKNOWN, OPEN_PAGE = 40001, 40000, 40002, 50000, 50100


class PadMessage(NamedTuple):
    """``problem`` is the code to be answered where the text is no message."""

    code: int
    data: Any = None
    problem: int = 0


def pad_message(text: str | bytes | None) -> PadMessage:
    """A message of a pad; fields that nobody knows are passed over."""
    if not isinstance(text, str):
        return PadMessage(0, problem=MALFORMED)
    try:
        told = counter_json.read(text.encode())
    except (BadBody, UnicodeEncodeError):
        return PadMessage(0, problem=MALFORMED)
    code = told.get("code") if isinstance(told, dict) else None
    if isinstance(code, str) and re.fullmatch(r"[0-9]{1,6}", code):
        code = int(code)
    if not isinstance(code, int) or isinstance(code, bool):
        return PadMessage(0, problem=MALFORMED)
    data = told.get("data")
    if code == LOGIN:
        good = isinstance(data, dict) and all(
            isinstance(data.get(name), str | int) for name in ("work_no", "key")
        )
        return PadMessage(code, data, 0 if good else MALFORMED)
    if code == BEAT:
        if isinstance(data, str) and re.fullmatch(r"[0-9]{1,16}", data):
            data = int(data)
        good = data is None or (type(data) is int and 0 <= data < 1 << 53)
        return PadMessage(code, data, 0 if good else MALFORMED)
    return PadMessage(code, problem=UNKNOWN)


def server_message(code: int, state: int, msg: str, data: object = None) -> str:
    told = {"code": code, "state": state, "msg": msg}
    if data is not None:
        told["data"] = data
    return msgspec_json.encode(told).decode()


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------

_RATINGS = re.compile(
    rb"POST \S*/api/v1/pads/([a-z0-9][a-z0-9-]{0,15})/ratings(?:\?\S*)? HTTP/1\.[01]\r?\n"
)
_REQUEST = re.compile(rb"(?:GET|POST|PUT|HEAD) \S+ HTTP/1\.[01]\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,7})")
_KEY = re.compile(rb"(?im)^idempotency-key:[ \t]*([^\r\n]{1,128})")


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:  # noqa: ARG001
    """Ratings in a capture: HTTP requests one after another, or bare JSON, one rating a line.

    Scales are in the settings: levels are taken as told.  ``at`` is 0 where no time was told.
    """
    requests = list(_REQUEST.finditer(data))
    if not requests:
        for line in data.splitlines():
            if line.strip():
                yield _captured(line, "", "")
        return
    ends_at = 0
    for place, request in enumerate(requests):
        if request.start() < ends_at:
            continue
        ends = requests[place + 1].start() if place + 1 < len(requests) else len(data)
        head, _, body = data[request.end() : ends].replace(b"\r\n", b"\n").partition(b"\n\n")
        wanted = _RATINGS.match(request.group())
        if length := _LENGTH.search(head):
            starts = re.compile(rb"\r?\n\r?\n").search(data, request.end())
            if starts is not None:
                ends_at = min(starts.end() + int(length.group(1)), len(data))
                body = data[starts.end() : ends_at]
        if wanted is not None:
            key = _KEY.search(head)
            yield _captured(
                body, wanted.group(1).decode(), key.group(1).decode("latin-1") if key else ""
            )


def _captured(body: bytes, pad: str, key: str) -> Reading:
    try:
        told = counter_json.rating(counter_json.read(body), pad=pad, key=key)
    except BadBody as error:
        return Reading("capture", 0, Unreadable(str(error)), counter_json.masked_bytes(body))
    return Reading("capture", told.pressed_at or 0, told.body)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkPadOptions:
    """One pad; its id in the settings is its id in paths.

    ``listen`` and ``port`` are where it finds us, the same for all pads of one listener.
    ``scale_id`` says what its keys mean: ``five``, ``four``, ``three`` for pads that tell levels,
    ``sle300``, ``jtt905``, or a name for ``scale``, a table of the pad's codes with levels or
    ``none``.  ``token_file`` holds what it shows as ``Authorization: Bearer``.  ``mac`` is how an
    Android pad calls itself.  ``work_no`` and ``key_file`` are what a pad on the WebSocket logs in
    with.
    """

    listen: str = "127.0.0.1"
    port: int = 8089
    scale_id: str = "five"
    scale: dict[str, int | str] = field(default_factory=dict)
    token_file: str = ""
    mac: str = ""
    work_no: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: expected 1 to 65535")
        counter_json.scale_of(self.scale_id, self.scale)
        if self.mac and not plain_mac(self.mac):
            raise ValueError(f"mac {self.mac!r}: expected six pairs of hexadecimal digits")
        if bool(self.work_no) != bool(self.key_file):
            raise ValueError("work_no and key_file belong together")

    def link(self) -> tuple[str, int]:
        return (self.listen, self.port)


def plain_mac(told: str) -> str:
    """Twelve upper-case digits, however they were grouped; empty if they are not twelve."""
    digits = re.sub(r"[:.\-]", "", told.strip()).upper()
    return digits if re.fullmatch(r"[0-9A-F]{12}", digits) else ""


# --------------------------------------------------------------------------------------------
# One pad
# --------------------------------------------------------------------------------------------


@dataclass
class Prompt:
    """A rating that a pad is to invite, or has invited (``shown_at``)."""

    order: AskForRating
    until: Instant
    shown_at: Instant | None = None

    def open_at(self, at: Instant) -> bool:
        """Clocks may differ by a second."""
        return self.shown_at is not None and self.shown_at - 1000 <= at <= self.until


@dataclass
class Pad:
    """What is known of one pad while the listener runs."""

    device: Device
    scale: Scale
    token: str | None = ""
    """What it must show; none where the file could not be read."""
    key: str | None = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    recent: OrderedDict[str, str] | None = None
    """Digest of the contents by digest of the id, the newest last."""
    last_contact: Instant | None = None
    lost: bool = False
    ahead: Instant = 0
    """By how much its clock differs from ours, as far as it told us."""
    clock_told: tuple[Instant, Instant] | None = None
    has_card: bool | None = None
    """Whether a member of staff has put in a card, where the pad says so."""
    prompt: Prompt | None = None
    sessions: OrderedDict[str, AskForRating] = field(default_factory=OrderedDict)
    rated: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Sessions that were answered."""
    link: Link | None = None
    unreadable_hour: int = 0
    unreadable_told: int = 0
    unmapped: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        return self.device.id

    @property
    def options(self) -> NetworkPadOptions:
        options: NetworkPadOptions = self.device.options
        return options

    def page_key(self, session: str) -> str:
        """What lets a page rate in this session: pages cannot send the token, and must not know
        it."""
        told = f"{self.id}\0{session}".encode()
        return hmac.digest((self.token or "").encode(), told, "sha256").hex()[:32]


@dataclass
class Link:
    """A WebSocket that has logged in; ``base`` is the address the pad called us by."""

    send: Send
    base: str

    async def say(self, text: str) -> bool:
        """False where the pad does not take it."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send({"type": "websocket.send", "text": text})
        except (TimeoutError, RuntimeError, OSError):
            return False
        return True

    async def close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, RuntimeError, OSError):
            pass  # It is closed already.


def _short(*parts: object) -> str:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def digest_of(told: ToldRating) -> str:
    """The same for the same rating told again."""
    return _short(msgspec_json.encode(told.body).decode(), told.pressed_at)


# --------------------------------------------------------------------------------------------
# The listener
# --------------------------------------------------------------------------------------------

TITLES = {
    400: "请求无法解析",
    401: "需要有效的访问令牌",
    403: "未登记的评价器",
    404: "未找到",
    405: "不支持的请求方法",
    408: "请求超时",
    409: "评价编号重复但内容不同",
    413: "请求体过大",
    422: "参数有误",
    503: "暂时不可用，请稍后重发",
}


class _Refused(Exception):
    def __init__(self, status: int, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = errors


class _Answer(NamedTuple):
    status: int
    body: bytes
    kind: bytes = b"application/json"


class Listener:
    """The ASGI application: pads' requests to readings, readings to answers."""

    def __init__(self, pads: Iterable[Pad], context: Context) -> None:
        self.pads = {pad.id: pad for pad in pads}
        self._context = context
        self._by_mac = {
            plain_mac(pad.options.mac): pad for pad in self.pads.values() if pad.options.mac
        }
        self._by_work_no = {
            pad.options.work_no: pad for pad in self.pads.values() if pad.options.work_no
        }
        self._receiving = 0
        self._counts: Counter[str] = Counter()
        self._strangers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._published: Instant = 0
        self._unpublished = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except _Refused as refused:
            answer = _problem(refused)
        except Gone:
            return
        headers = [
            (b"content-type", answer.kind),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if answer.kind == HTML:
            headers += PAGE_HEADERS
        if answer.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if answer.status >= 400:
            # What is left of the body is not worth reading.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Any, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        try:
            told = scope["query_string"].decode("latin-1")
            query = dict(parse_qsl(told, keep_blank_values=True, max_num_fields=20))
        except ValueError:
            raise self._refuse("bad_requests", 400, "too many fields in the query") from None
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        client = scope.get("client")
        address = client[0] if client else ""
        if path.rpartition("/")[2].lower() == "emponline":
            if method not in ("GET", "HEAD"):
                raise self._refuse("foreign_methods", 405, "expected GET")
            return self._alive(query, address)
        if match := re.fullmatch(r"/pad/([^/]{1,64})", path):
            if method not in ("GET", "HEAD"):
                raise self._refuse("foreign_methods", 405, "expected GET")
            return self._page(self._known(match[1], address), query)
        match = re.fullmatch(r"/api/v1/pads/([^/]{1,64})/(ratings|heartbeat)", path)
        if match is None:
            raise self._refuse("foreign_paths", 404, "there is nothing at this path")
        if method != "POST":
            raise self._refuse("foreign_methods", 405, "expected POST")
        pad = self._known(match[1], address)
        if pad.token is None:
            raise _Refused(503, "the pad's token_file cannot be read")
        bearer = headers.get(b"authorization", "")
        shown = bearer[7:].strip() if bearer[:7].lower() == "bearer " else ""
        whole = not pad.token or hmac.compare_digest(shown.encode(), pad.token.encode())
        if not whole and (match[2] == "heartbeat" or len(shown) != 32):
            raise self._no_token(pad)
        body = await self._body(headers, receive)
        if match[2] == "heartbeat":
            return await self._heartbeat(pad, body, _base(scope, headers))
        key = headers.get(b"idempotency-key", "")
        return await self._rating(pad, body, key, "" if whole else shown)

    # -- who is there

    def _refuse(self, what: str, status: int, detail: str) -> _Refused:
        self._counts[what] += 1
        self._unpublished = True
        return _Refused(status, detail)

    def count_bad_request(self) -> None:
        self._counts["bad_requests"] += 1
        self._unpublished = True

    def _known(self, name: str, address: str) -> Pad:
        pad = self.pads.get(name)
        if pad is None:
            self._stranger("pad", name, address)
            raise _Refused(403, "there is no such pad in the settings")
        return pad

    def _stranger(self, kind: str, name: str, address: str) -> None:
        now = self._context.now()
        name = counter_json.masked(counter_json.cleaned(name))[:64]
        seen = self._strangers.pop(f"{kind} {name}", None)
        if seen is None:
            seen = {kind: name, "first_seen": now, "requests": 0}
            if len(self._strangers) == STRANGERS_LIMIT:
                self._strangers.popitem(last=False)
        seen |= {"address": address, "last_seen": now, "requests": seen["requests"] + 1}
        self._strangers[f"{kind} {name}"] = seen
        self._unpublished = True
        if now - self._published >= 1000:
            self.publish()

    def publish(self) -> None:
        """Note what came from nobody we know, if there is anything new."""
        if self._unpublished:
            self._unpublished = False
            self._published = self._context.now()
            strangers = [dict(seen) for seen in self._strangers.values()]
            self._context.note(LISTENER_ID, seen_not_configured=strangers, **self._counts)

    def _no_token(self, pad: Pad) -> _Refused:
        self._count(pad, "refused_requests", last_error="the pad shows no or a wrong token")
        return _Refused(401, "expected 'Authorization: Bearer' with the pad's token")

    def _count(self, pad: Pad, what: str, **facts: Any) -> None:
        pad.counts[what] += 1
        self._context.note(pad.id, **{what: pad.counts[what]}, **facts)

    def _heard(self, pad: Pad) -> None:
        pad.last_contact = self._context.now()
        pad.lost = False
        self._context.contact(pad.id)

    def _alive(self, query: dict[str, str], address: str) -> _Answer:
        told = {name.lower(): value for name, value in query.items()}
        pad = self._by_mac.get(plain_mac(told.get("mac", "")))
        if pad is None:
            self._stranger("mac", told.get("mac", ""), address)
            raise _Refused(403, "there is no pad with this mac in the settings")
        self._heard(pad)
        if "card" in told:
            # Who it is the pad cannot tell: a card's number is no person, and is not kept.
            pad.has_card = bool(told["card"].strip())
        return _Answer(200, b"online", b"text/plain")

    async def _body(self, headers: dict[bytes, str], receive: Receive) -> bytes:
        length = headers.get(b"content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:12]) > BODY_LIMIT:
            raise _Refused(413, f"expected at most {BODY_LIMIT} bytes")
        body = bytearray()
        try:
            async for chunk in http_listener.chunks(receive, BODY_LIMIT, BODY_SECONDS):
                self._receiving += len(chunk)
                body += chunk
                if self._receiving > BODIES_LIMIT:
                    raise _Refused(503, "too much is coming at once")
            return bytes(body)
        except http_listener.Slow:
            raise _Refused(408, "the body did not come") from None
        except http_listener.TooLong:
            raise _Refused(413, f"expected at most {BODY_LIMIT} bytes") from None
        finally:
            self._receiving -= len(body)

    # -- ratings

    async def _rating(self, pad: Pad, body: bytes, key: str, page_key: str) -> _Answer:
        try:
            told = counter_json.rating(
                counter_json.read(body),
                pad=pad.id,
                key=key,
                scale=pad.scale,
                windows=(pad.device.window,),
            )
        except BadBody as error:
            if page_key:
                raise self._no_token(pad) from None
            self._heard(pad)
            await self._keep_unreadable(pad, body, error)
            status = 422 if any(one.field for one in error.errors) else 400
            raise _Refused(status, str(error), error.errors) from None
        expected = pad.page_key(told.body.session)
        if page_key and not hmac.compare_digest(page_key.encode(), expected.encode()):
            raise self._no_token(pad)
        self._heard(pad)
        new = await self._store(pad, told)
        receipt = {
            "rating_id": told.body.rating_id,
            "level": told.body.level,
            "scale_id": told.body.scale_id,
            "pressed_at": told.pressed_text or None,
        }
        return _Answer(201 if new else 200, msgspec_json.encode(receipt))

    async def _store(self, pad: Pad, told: ToldRating) -> bool:
        """Journal it; false if it was there already."""
        known, digest = _short(told.body.rating_id), digest_of(told)
        async with pad.lock:
            recent = self._recent(pad)
            if (before := recent.get(known)) is not None:
                if before != digest:
                    self._count(pad, "conflicts")
                    raise _Refused(409, "another rating came with this rating_id", (_SAME_ID,))
                self._count(pad, "repeats")
                return False
            now = self._context.now()
            reading = self._reading(pad, told, now)
            after = OrderedDict(recent)
            after[known] = digest
            while len(after) > RECENT:
                after.popitem(last=False)
            if not await self._emit([reading], {(pad.id, "recent"): _packed(after)}):
                # Older than what is remembered: what it said then is not known any more.
                await self._emit([], {(pad.id, "recent"): _packed(recent)})
                self._count(pad, "repeats")
                return False
            pad.recent = after
        rating = reading.body
        assert isinstance(rating, Rating)
        self._answered(pad, rating, now - reading.at)
        if rating.problem == "unmapped_code":
            await self._tell_unmapped(pad, rating.raw_key, now)
        return True

    async def _tell_unmapped(self, pad: Pad, code: str, now: Instant) -> None:
        """Each code once."""
        if code in pad.unmapped or len(pad.unmapped) == UNMAPPED_LIMIT:
            return
        pad.unmapped.add(code)
        try:
            event = DeviceEvent("unmapped_code", detail=code)
            await self._context.emit([Reading(pad.id, now, event)])
        except OSError:
            pad.unmapped.discard(code)

    def _recent(self, pad: Pad) -> OrderedDict[str, str]:
        if pad.recent is None:
            stored = self._context.mark(pad.id, "recent") or ""
            pad.recent = OrderedDict(
                (stored[at : at + 16], stored[at + 16 : at + 32])
                for at in range(0, len(stored) - 31, 32)
            )
        return pad.recent

    def _reading(self, pad: Pad, told: ToldRating, now: Instant) -> Reading:
        rating = told.body
        at, skewed = counter_json.placed(told.pressed_at, now, pad.ahead)
        window = pad.device.window or rating.window
        if rating.window and rating.window != window:
            self._count(pad, "other_window", window_told=rating.window)
        session = rating.session
        prompt = pad.prompt
        if not session and rating.channel == "pad" and prompt is not None and prompt.open_at(at):
            # It has one thing to ask at a time.
            session = prompt.order.session
        order = pad.sessions.get(session)
        problem = rating.problem
        if order is not None and problem == "no_session":
            problem = ""
        person = order.person if order and order.person else rating.person
        if not problem and not person and pad.has_card is False:
            problem = "nobody_logged_in"
        if skewed:
            problem = "clock_skew"
            self._count(pad, "clock_skews")
        rating = structs.replace(
            rating,
            window=window,
            session=session,
            person=person,
            service_ref=rating.service_ref or (order.ticket if order else ""),
            origin="visitor" if order is not None and rating.origin == "unknown" else rating.origin,
            problem=problem,
        )
        return Reading(pad.id, at, rating, told.pressed_text.encode() if skewed else b"")

    def _answered(self, pad: Pad, rating: Rating, age: Instant) -> None:
        self._count(pad, "ratings")
        if age > HOUR:
            self._count(pad, "late_ratings")
        if not rating.session:
            return
        if rating.session in pad.rated:
            self._count(pad, "extra_presses")
        pad.rated[rating.session] = None
        while len(pad.rated) > SESSIONS:
            pad.rated.popitem(last=False)
        if pad.prompt and pad.prompt.order.session == rating.session:
            pad.prompt = None

    async def _keep_unreadable(self, pad: Pad, body: bytes, error: BadBody) -> None:
        now = self._context.now()
        if pad.unreadable_hour != now // HOUR:
            pad.unreadable_hour, pad.unreadable_told = now // HOUR, 0
        self._count(pad, "decode_errors", last_error=str(error)[:500])
        if pad.unreadable_told < UNREADABLE_AN_HOUR:
            pad.unreadable_told += 1
            raw = counter_json.masked_bytes(body)
            await self._emit([Reading(pad.id, now, Unreadable(str(error)[:500]), raw)])

    async def _emit(
        self, readings: Sequence[Reading], marks: dict[tuple[str, str], str] | None = None
    ) -> int:
        try:
            return await self._context.emit(readings, marks)
        except OSError:
            raise _Refused(503, "the rating could not be stored; send it again") from None

    # -- clocks and prompts

    async def _clock(self, pad: Pad, shown: Instant) -> None:
        """The pad's clock showed this just now; told if it is new, moved by 5 s or is an hour
        old."""
        now = self._context.now()
        pad.ahead = shown - now
        if pad.clock_told is not None:
            ahead, at = pad.clock_told
            if abs(ahead - pad.ahead) < 5_000 and now - at < HOUR:
                return
        try:
            await self._context.emit([Reading(pad.id, shown, ClockCheck())])
        except OSError:
            return  # There will be another heartbeat.
        pad.clock_told = (pad.ahead, now)

    async def _heartbeat(self, pad: Pad, body: bytes, base: str) -> _Answer:
        self._heard(pad)
        if body.strip():
            try:
                shown = counter_json.moment(counter_json.read(body), "at")
            except BadBody as error:
                raise _Refused(422, str(error), error.errors) from None
            if shown is not None:
                await self._clock(pad, shown)
        prompt: dict[str, Any] | None = None
        waiting = self._waiting(pad)
        if waiting is not None:
            await self._prompted(pad, waiting)
            prompt = {
                "session": waiting.order.session,
                "ticket": waiting.order.ticket,
                "seconds": waiting.order.seconds,
                "url": page_url(base, pad, waiting.order),
            }
        at = datetime.fromtimestamp(self._context.now() / 1000, self._context.zone)
        told = {"at": at.isoformat(timespec="milliseconds"), "prompt": prompt}
        return _Answer(200, msgspec_json.encode(told))

    async def ask(self, pad: Pad, order: AskForRating) -> None:
        """Have the pad invite a rating, at once or as soon as it calls."""
        pad.prompt = Prompt(order, self._context.now() + order.seconds * 1000)
        pad.sessions[order.session] = order
        while len(pad.sessions) > SESSIONS:
            pad.sessions.popitem(last=False)
        await self._send_prompt(pad)

    async def _send_prompt(self, pad: Pad) -> None:
        waiting = self._waiting(pad)
        if waiting is None or pad.link is None:
            return
        url = page_url(pad.link.base, pad, waiting.order)
        if await pad.link.say(server_message(OPEN_PAGE, 1, "打开网址", url)):
            try:
                await self._prompted(pad, waiting)
            except _Refused:
                pass  # It will be shown once more when the pad comes back.

    def _waiting(self, pad: Pad) -> Prompt | None:
        prompt = pad.prompt
        if prompt is None or prompt.shown_at is not None:
            return None
        if self._context.now() > prompt.until:
            pad.prompt = None
            return None
        return prompt

    async def _prompted(self, pad: Pad, prompt: Prompt) -> None:
        now, order, until = self._context.now(), prompt.order, prompt.until
        prompt.shown_at = now
        prompt.until = now + order.seconds * 1000
        body = RatingPrompt(order.session, pad.device.window, order.ticket, order.person)
        try:
            await self._emit([Reading(pad.id, now, body)])
        except _Refused:
            prompt.shown_at, prompt.until = None, until
            raise
        self._count(pad, "prompts")

    # -- the page

    def _page(self, pad: Pad, query: dict[str, str]) -> _Answer:
        session = query.get("session", "")
        seconds = query.get("seconds", "")
        if counter_json.cleaned(session) != session or len(session) > counter_json.WORD_LIMIT:
            raise _Refused(422, f"session: expected at most {counter_json.WORD_LIMIT} characters")
        if not re.fullmatch(r"[0-9]{0,4}", seconds):
            raise _Refused(422, "seconds: expected a number")
        key = query.get("key", "")
        if pad.token is None:
            raise _Refused(503, "the pad's token_file cannot be read")
        if pad.token and not hmac.compare_digest(key.encode(), pad.page_key(session).encode()):
            raise self._no_token(pad)
        self._heard(pad)
        return _Answer(
            200, page(pad.id, pad.scale, session, int(seconds or 0), key, self._context.now()), HTML
        )

    # -- the WebSocket

    async def _websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] != "/ws/pads":
            self._refuse("foreign_paths", 404, "")
            await send({"type": "websocket.close"})
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        client = scope.get("client")
        link = Link(send, _base(scope, headers))
        await send({"type": "websocket.accept"})
        pad = await self._login(link, client[0] if client else "", receive)
        if pad is None:
            await link.close(4003, "not logged in")
            return
        former, pad.link = pad.link, link
        if former is not None:
            self._count(pad, "taken_over")
            await former.close(4001, "logged in elsewhere")
        try:
            self._context.note(pad.id, websocket=True)
            await self._send_prompt(pad)
            await self._converse(pad, link, receive)
        finally:
            if pad.link is link:
                pad.link = None
                self._context.note(pad.id, websocket=False)
                if not pad.lost:
                    pad.lost = True
                    self._context.lost(pad.id, "the pad's WebSocket was closed")

    async def _login(self, link: Link, address: str, receive: Receive) -> Pad | None:
        if not await link.say(server_message(LOGIN, 0, "请发送工号")):
            return None
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                for _ in range(LOGINS):
                    message = await self._next_message(link, receive)
                    while message is not None and message.code != LOGIN:
                        if not await link.say(server_message(LOGIN, 0, "请发送工号")):
                            return None
                        message = await self._next_message(link, receive)
                    if message is None:
                        return None
                    work_no, key = str(message.data["work_no"]), str(message.data["key"])
                    pad = self._by_work_no.get(work_no)
                    if pad is None:
                        self._stranger("work_no", work_no, address)
                    elif pad.key and hmac.compare_digest(key.encode(), pad.key.encode()):
                        self._heard(pad)
                        await link.say(server_message(LOGIN, 1, "登录成功"))
                        return pad
                    else:
                        self._count(pad, "refused_requests", last_error="wrong key on WebSocket")
                    if not await link.say(server_message(LOGIN, 0, "通讯密钥错误")):
                        return None
        except TimeoutError:
            pass
        return None

    async def _next_message(self, link: Link, receive: Receive) -> PadMessage | None:
        """The next that can be understood; what cannot is answered.  None at the end."""
        while True:
            event = await receive()
            if event["type"] != "websocket.receive":
                return None
            message = pad_message(event.get("text"))
            if not message.problem:
                return message
            self._counts["bad_messages"] += 1
            self._unpublished = True
            msg = "数据包格式错误" if message.problem == MALFORMED else "未知指令"
            if not await link.say(server_message(message.problem, 0, msg)):
                return None

    async def _converse(self, pad: Pad, link: Link, receive: Receive) -> None:
        while (message := await self._next_message(link, receive)) is not None:
            if pad.link is not link:
                return
            self._heard(pad)
            if message.code == LOGIN:
                await link.say(server_message(LOGIN, 1, "登录成功"))
                continue
            await link.say(server_message(BEAT, 1, "收到", self._context.now()))
            if message.data is not None:
                await self._clock(pad, message.data)

    async def look_around(self, began: Instant) -> None:
        """Lose the pads that fell silent."""
        now = self._context.now()
        for pad in self.pads.values():
            last = began if pad.last_contact is None else pad.last_contact
            if now - last <= PATIENCE:
                continue
            if not pad.lost:
                pad.lost = True
                self._context.lost(pad.id, f"nothing heard for {PATIENCE // 1000} s")
            if pad.link is not None:
                link, pad.link = pad.link, None
                self._context.note(pad.id, websocket=False)
                await link.close(4000, "no heartbeat")
        self.publish()


_SAME_ID = FieldError("rating_id", "stands for another rating already")


def _packed(recent: OrderedDict[str, str]) -> str:
    return "".join(known + digest for known, digest in recent.items())


def _problem(refused: _Refused) -> _Answer:
    told: dict[str, Any] = {
        "type": f"urn:hallwatch:problem:{refused.status}",
        "title": TITLES.get(refused.status, "请求失败"),
        "status": refused.status,
        "detail": str(refused),
    }
    if named := [one for one in refused.errors if one.field]:
        told["errors"] = [
            {"field": one.field, "location": "body", "detail": one.detail} for one in named
        ]
    return _Answer(refused.status, msgspec_json.encode(told), b"application/problem+json")


def _base(scope: Any, headers: dict[bytes, str]) -> str:
    """The address by which the pad found us."""
    host = headers.get(b"host", "")
    if not re.fullmatch(
        r"[A-Za-z0-9.\-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:]{2,45}\](?::\d{1,5})?", host
    ):
        server = scope.get("server") or ("127.0.0.1", None)
        host = f"[{server[0]}]" if ":" in server[0] else server[0]
        if server[1]:
            host += f":{server[1]}"
    return f"http://{host}"


def page_url(base: str, pad: Pad, order: AskForRating) -> str:
    """Where the pad finds the page that invites this rating."""
    session = quote(order.session, safe="")
    key = f"&key={pad.page_key(order.session)}" if pad.token else ""
    return f"{base}/pad/{pad.id}?session={session}&seconds={order.seconds}{key}"


# --------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------

HTML = b"text/html; charset=utf-8"
PAGE_HEADERS = [
    # Pages of the hall's own systems may frame it, so no frame-ancestors.
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
        b" connect-src 'self'; base-uri 'none'; form-action 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
WORDS = {
    5: ("非常满意", "Very satisfied"),
    4: ("满意", "Satisfied"),
    3: ("基本满意", "Basically satisfied"),
    2: ("不满意", "Dissatisfied"),
    1: ("非常不满意", "Very dissatisfied"),
}


def page(pad: str, scale: Scale, session: str, seconds: int, key: str, now: Instant) -> bytes:
    """The page: one key for each level, and a countdown if there are ``seconds``.  It sends what
    was pressed until it is answered.  Silence sends nothing.

    Where it is framed or was opened by another page it tells that one ``{resultCode,
    resultMessage, data}``, 0 once the rating is stored; on the second screen of a government
    browser it then has itself closed.
    """
    keys = []
    for level in sorted(scale.levels, reverse=True):
        code = (
            level
            if scale.table is None
            else next(code for code, known in scale.table.items() if known == level)
        )
        zh, en = WORDS[level]
        keys.append({"level": level, "code": code, "zh": zh, "en": en})
    told = {
        "pad": pad,
        "session": session,
        "seconds": seconds,
        "key": key,
        "now": now,
        "codes": scale.table is not None,
        "keys": keys,
    }
    data = json.dumps(told, ensure_ascii=False).replace("<", "\\u003c")
    return _PAGE.replace("@TOLD@", data).encode()


_PAGE = """<!doctype html>
<html lang="zh-CN">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>服务评价 Rating</title>
<style>
  html, body { height: 100%; margin: 0; }
  body { display: flex; flex-direction: column; align-items: center; justify-content: center;
         gap: 4vh; font-family: "Noto Sans CJK SC", "Microsoft YaHei", sans-serif;
         background: #f4f7fb; color: #1d2b3a; text-align: center; }
  h1 { font-size: 6vmin; margin: 0; font-weight: 600; }
  h1 small, button small { display: block; font-size: 50%; font-weight: 400; color: #4a5a6a; }
  #keys { display: flex; flex-wrap: wrap; gap: 3vmin; justify-content: center; }
  button { font: inherit; font-size: 5vmin; padding: 4vmin; min-width: 28vmin; border: 0;
           border-radius: 2vmin; background: #fff; box-shadow: 0 1px 6px #0003; }
  button:disabled { opacity: .5; }
  #left { font-size: 4vmin; min-height: 1.5em; color: #4a5a6a; }
</style>
<h1 id="title">请您对本次服务进行评价<small>Please rate this service</small></h1>
<div id="keys"></div>
<div id="left" role="status"></div>
<script type="application/json" id="told">@TOLD@</script>
<script>
(function () {
  "use strict";
  var told = JSON.parse(document.getElementById("told").textContent);
  var ahead = Date.now() - told.now;
  var title = document.getElementById("title"), left = document.getElementById("left");
  var keys = document.getElementById("keys"), over = false, timer = null;

  function say(zh, en) {
    title.textContent = zh;
    var small = document.createElement("small");
    small.textContent = en;
    title.appendChild(small);
  }

  function finish(code, message, data) {
    var result = { resultCode: code, resultMessage: message, data: data };
    if (window.parent !== window) window.parent.postMessage(result, "*");
    if (window.opener) window.opener.postMessage(result, "*");
    setTimeout(function () {
      var browser = window.zwexplorer;
      if (browser && browser.Evaluator) browser.Evaluator.endEvaluator();
      if (!told.session) location.reload();
    }, 3000);
  }

  function send(body, data) {
    var headers = { "Content-Type": "application/json" };
    if (told.key) headers.Authorization = "Bearer " + told.key;
    fetch("/api/v1/pads/" + told.pad + "/ratings",
          { method: "POST", headers: headers, body: body, cache: "no-store" })
      .then(function (answer) {
        if (answer.status === 503 || answer.status === 408) throw new Error("busy");
        if (answer.status === 201 || answer.status === 200) {
          say("谢谢您的评价", "Thank you");
          finish(0, "ok", data);
        } else if (answer.status === 409) {
          say("本次服务已评价", "This service was rated already");
          finish(409, "rated already", data);
        } else {
          say("评价未能提交", "The rating was refused");
          finish(answer.status, "refused", data);
        }
      })
      .catch(function () { setTimeout(function () { send(body, data); }, 3000); });
  }

  function press(key) {
    if (over) return;
    over = true;
    clearInterval(timer);
    left.textContent = "";
    keys.textContent = "";
    say("正在提交……", "Sending");
    var at = Date.now() - ahead;
    var mark = told.session || at + "-" + Math.random().toString(16).slice(2, 10);
    var rating = { rating_id: "pad:" + told.pad + ":" + mark, pad_id: told.pad, channel: "pad",
                   session: told.session, pressed_at: new Date(at).toISOString(),
                   origin: "visitor" };
    rating[told.codes ? "raw_key" : "level"] = key.code;
    send(JSON.stringify(rating), { session: told.session, level: key.level });
  }

  told.keys.forEach(function (key) {
    var button = document.createElement("button");
    var small = document.createElement("small");
    button.textContent = key.zh;
    small.textContent = key.en;
    button.appendChild(small);
    button.onclick = function () { press(key); };
    keys.appendChild(button);
  });

  if (told.seconds) {
    var ends = Date.now() + told.seconds * 1000;
    var tick = function () {
      var rest = Math.ceil((ends - Date.now()) / 1000);
      left.textContent = rest > 0 ? rest + " 秒" : "";
      if (rest > 0 || over) return;
      over = true;
      clearInterval(timer);
      keys.textContent = "";
      say("评价已结束", "The time for rating is over");
      finish(1, "nobody pressed", { session: told.session, level: null });
    };
    timer = setInterval(tick, 250);
    tick();
  }
})();
</script>
</html>
"""


# --------------------------------------------------------------------------------------------
# HTTP
# --------------------------------------------------------------------------------------------


class PadSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which does not give in to broken handshakes and texts."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None:
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                # As bytes it is answered like any other message that is not understood; as text
                # it would be a traceback in the log.
                self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()


class NetworkPads:
    """One listening address and the pads that call it."""

    options = NetworkPadOptions
    attendance = False

    def __init__(self, devices: Sequence[Device]) -> None:
        self.address: tuple[str, int] | None = None
        """Where it really listens, once it does."""
        self._devices = tuple(devices)
        for name, told in (
            ("mac", [plain_mac(device.options.mac) for device in self._devices]),
            ("work_no", [device.options.work_no for device in self._devices]),
        ):
            for value, times in Counter(told).items():
                if value and times > 1:
                    raise ValueError(f"{name} {value} is given to {times} devices")

    async def run(self, context: Context) -> None:
        pads = [self._pad(device, context) for device in self._devices]
        listener = Listener(pads, context)
        listening = http_listener.listen(*self._devices[0].options.link())
        self.address = listening.getsockname()[:2]
        try:
            await http_listener.serve(
                listener,
                listening,
                self._watch(listener, context),
                self._obey(listener, context),
                limits=LIMITS,
                refused=listener.count_bad_request,
                websocket=PadSocket,
            )
        finally:
            self.address = None

    def _pad(self, device: Device, context: Context) -> Pad:
        options: NetworkPadOptions = device.options
        return Pad(
            device,
            counter_json.scale_of(options.scale_id, options.scale),
            _secret(device.id, "token_file", options.token_file, context),
            _secret(device.id, "key_file", options.key_file, context),
        )

    async def _watch(self, listener: Listener, context: Context) -> None:
        began = context.now()
        while True:
            await context.sleep(5)
            await listener.look_around(began)

    async def _obey(self, listener: Listener, context: Context) -> None:
        while True:
            device, order = await context.order()
            pad = listener.pads.get(device)
            if pad is not None and isinstance(order, AskForRating):
                await listener.ask(pad, order)


def _secret(device: str, option: str, path: str, context: Context) -> str | None:
    """What the file holds; none where it cannot be read: closed rather than open."""
    if not path:
        return ""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        context.note(device, last_error=f"cannot read {option} {path}: {error}")
        return None
    if not secret:
        context.note(device, last_error=f"{option} {path} is empty")
    return secret or None


DRIVER = NetworkPads
