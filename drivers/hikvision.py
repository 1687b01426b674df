"""Hikvision attendance and face terminals (DS-K1T, DS-K1A) over ISAPI: HTTP, Digest, JSON and XML.

We are the HTTP client; optionally the terminal also posts to a port of ours.

    request                                              answer
    GET  /ISAPI/System/deviceInfo                        model, serialNumber, firmwareVersion, MAC
    GET  /ISAPI/System/time                              localTime, timeZone
    GET  .../AccessControl/AcsEvent/capabilities         how long a page may be
    POST .../AccessControl/AcsEvent?format=json          a page of the log: the truth
    GET  /ISAPI/Event/notification/alertStream           multipart that never ends: the same, sooner
    POST to us: /anything/<token>                        the same, pushed; answered 200 once stored

    event, as searched / as streamed and pushed
    major / majorEventType       1 alarm, 2 exception, 3 operation, 5 access
    minor / subEventType         what happened and how: see the tables of minors
    time / outer dateTime        2025-03-14T08:59:01+08:00, sometimes without or with broken offset
    serialNo                     number of the record; frontSerialNo: of the one before it
    employeeNoString, employeeNo the person; absent, empty or 0: nobody was identified
    attendanceStatus             checkIn, checkOut, breakOut, breakIn, overtimeIn, overtimeOut
    currentEvent                 true: happening now; false: replayed from the terminal's store

A refusal names a person too, so only the minor decides what is a punch.  ``currentVerifyMode`` is
what the reader would accept, not what was used.

The search is read by record number: clocks may be wrong, numbers are not.  What the stream tells
is journalled at once, but the place up to which everything is known moves only without a gap; after
a gap, a reconnection and every ``catch_up_s`` the log is searched from there.  Some firmware
(DS-K1T342 V3.3.5) replays its whole store on the stream before anything new; it is polled.

A terminal locks the account after five to seven wrong passwords.  One refusal of a fresh challenge
is the last attempt for ten minutes, also across restarts.

Names, cards, pictures, temperatures and citizen ID numbers end here; pictures are never fetched.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from zoneinfo import ZoneInfo

import httpx
import msgspec

from drivers import http_listener
from drivers.base import BadFrame, Context, Device, DeviceLost, DeviceRefused
from drivers.isapi import (
    ALERT_STREAM,
    DEVICE_INFO,
    PICTURE_LIMIT,
    SYSTEM_TIME,
    TEXT_LIMIT,
    Busy,
    Document,
    Isapi,
    Multipart,
    NotAccepted,
    NotSupported,
    Part,
    Visit,
    WrongPassword,
    address_of,
    boundary_of,
    captured,
    check_reachable,
    chunks_of,
    document,
    inside,
    instant_of,
    is_heartbeat,
    part_of,
    printable,
    scrub,
    told_text,
    told_whole,
)
from rules.model import (
    DAY,
    HOUR,
    MINUTE,
    Body,
    ClockCheck,
    DeviceEvent,
    DeviceInfo,
    Instant,
    LogComplete,
    Punch,
    Reading,
    Unreadable,
)

FAMILY = "hikvision"
LISTENER_ID = "hikvision"
"""What the listener has to tell of posts that nobody configured is noted under this."""

ACS_EVENT = "/ISAPI/AccessControl/AcsEvent?format=json"
ACS_EVENT_CAPABILITIES = "/ISAPI/AccessControl/AcsEvent/capabilities?format=json"

# --------------------------------------------------------------------------------------------
# Codes
# --------------------------------------------------------------------------------------------

ALARM, EXCEPTION, OPERATION, ACCESS = 1, 2, 3, 5

VERIFIED = {
    1: "card",
    2: "card and password",
    16: "several people",
    38: "fingerprint",
    40: "card and fingerprint",
    43: "card, fingerprint and password",
    46: "fingerprint and password",
    54: "face and fingerprint",
    57: "face and password",
    60: "face and card",
    63: "face, password and fingerprint",
    66: "face, card and fingerprint",
    69: "number and fingerprint",
    72: "number, fingerprint and password",
    75: "face",
    77: "number and face",
    101: "number and password",
    105: "person and ID card",
    156: "QR code",
    181: "password",
}
"""Minors of major 5 by which somebody was let in: punches."""

REFUSED = {
    3: "card and password wrong",
    4: "card and password timed out",
    6: "no right",
    7: "wrong period",
    8: "expired",
    9: "unknown card",
    10: "anti-passback",
    39: "fingerprint does not match",
    41: "card and fingerprint wrong",
    44: "card, fingerprint and password wrong",
    47: "fingerprint and password wrong",
    49: "fingerprint not found",
    55: "face and fingerprint wrong",
    58: "face and password wrong",
    61: "face and card wrong",
    64: "face, password and fingerprint wrong",
    67: "face, card and fingerprint wrong",
    76: "face wrong",
    78: "number and face wrong",
    80: "face not recognised",
    102: "number and password wrong",
    104: "not a live face",
    112: "person is not the one of the ID card",
    113: "blocklist",
    150: "password wrong",
    151: "password wrong",
    157: "QR code wrong",
}
DOOR_ALARMS = {27: "door_forced", 28: "door_held"}
DOOR = frozenset({21, 22, 23, 24, 25, 26, 37})
"""Lock, exit button, door, doorbell: several for each punch; not kept."""

EXCEPTIONS = {39: "network_down"}
OPERATIONS = {80: "local_login", 123: "reboot"}
REMOTE_LOGINS = frozenset({112, 113})
"""Every request of ours may leave one: counted, not kept."""

DIRECTIONS = {
    "checkin": 0,
    "checkout": 1,
    "breakout": 2,
    "breakin": 3,
    "overtimein": 4,
    "overtimeout": 5,
}

# --------------------------------------------------------------------------------------------
# Pure functions: events
# --------------------------------------------------------------------------------------------

_PERSON = re.compile(r"[!-~]{1,32}")


class Event(NamedTuple):
    """One record, however it was told.  ``front``: number of the record before it, if told."""

    at: Instant
    major: int
    minor: int
    serial_no: int = 0
    front: int = 0
    person: str = ""
    state: int | None = None
    current: bool | None = None
    raw: bytes = b""


def event_of(told: Mapping[str, Any], zone: ZoneInfo) -> Event:
    """An item of a search, or the outer document of a stream or push.

    Raises ``ValueError`` with a sentence.
    """
    inner = told.get("AccessControllerEvent", told)
    if not isinstance(inner, dict):
        raise ValueError("AccessControllerEvent: expected an object")
    major = told_whole(inner.get("majorEventType", inner.get("major")))
    minor = told_whole(inner.get("subEventType", inner.get("minor")))
    if major is None or minor is None or major > 0xFFFF or minor > 0xFFFFFF:
        raise ValueError("expected whole numbers as major and minor")
    time = told_text(told.get("dateTime") or inner.get("time") or inner.get("dateTime"))
    person = told_text(inner.get("employeeNoString"))
    if person in ("", "0"):
        number = told_text(inner.get("employeeNo"))
        person = "" if number == "0" else number
    if person and not _PERSON.fullmatch(person):
        raise ValueError("employeeNoString: expected 1 to 32 visible ASCII signs")
    if is_citizen_id(person):
        person = ""
    current = str(inner.get("currentEvent")).lower()
    serial_no = told_whole(inner.get("serialNo")) or 0
    kept: dict[str, str | int] = {"major": major, "minor": minor}
    if time.isascii():
        kept["time"] = time[:32]
    for name in ("cardReaderNo", "doorNo", "serialNo"):
        if (value := told_whole(inner.get(name))) is not None:
            kept[name] = value
    for name in ("attendanceStatus", "currentVerifyMode", "userType"):
        if (word := told_text(inner.get(name))) and word.isascii() and word.isalnum():
            kept[name] = word[:48]
    if person:
        kept["employeeNoString"] = person
    return Event(
        instant_of(time, zone),
        major,
        minor,
        serial_no if serial_no <= 0xFFFFFFFF else 0,
        told_whole(inner.get("frontSerialNo")) or 0,
        person,
        DIRECTIONS.get(told_text(inner.get("attendanceStatus")).lower()),
        {"true": True, "false": False}.get(current),
        msgspec.json.encode(kept),
    )


def body_of(event: Event) -> Body | None:
    """What an event says; none for what is rightly not kept."""
    if event.major == ACCESS and event.minor in VERIFIED:
        if event.person:
            number = str(event.serial_no) if event.serial_no else ""
            return Punch(event.person, event.minor, event.state, record_no=number)
        return _device_event("unknown_person", event, VERIFIED[event.minor])
    if event.major == ACCESS:
        if event.minor in REFUSED:
            return _device_event("refused", event, REFUSED[event.minor])
        if event.minor in DOOR:
            return None
        return _device_event(DOOR_ALARMS.get(event.minor, "other"), event)
    if event.major == ALARM:
        return _device_event("alarm", event)
    if event.major == EXCEPTION:
        return _device_event(EXCEPTIONS.get(event.minor, "exception"), event)
    if event.major == OPERATION:
        if event.minor in REMOTE_LOGINS:
            return None
        return _device_event(OPERATIONS.get(event.minor, "operation"), event)
    return _device_event("other", event)


def reading_of(event: Event, device: str, serial: str, live: bool = False) -> Reading | None:
    body = body_of(event)
    if body is None:
        return None
    if type(body) is Punch:
        return Reading(
            device, event.at, msgspec.structs.replace(body, live=live), event.raw, serial
        )
    # An event's bytes differ between the ways it comes; it has to be the same reading.
    keep = type(body) is DeviceEvent and body.name == "other"
    return Reading(device, event.at, body, event.raw if keep else b"", serial)


def _device_event(name: str, event: Event, words: str = "") -> DeviceEvent:
    parts = [words] if words else []
    if event.person:
        parts.append(f"person={event.person}")
    if event.serial_no:
        parts.append(f"serialNo={event.serial_no}")
    return DeviceEvent(name, event.minor, " ".join(parts))


class Page(NamedTuple):
    """One answer to a search.  ``problems``: ``(sentence, raw)`` of records that were unreadable.
    ``received`` counts all records, ``matches`` what the terminal says it counts."""

    events: tuple[Event, ...]
    problems: tuple[tuple[str, bytes], ...]
    received: int
    matches: int
    total: int | None
    more: bool


def page_of(answer: Document, zone: ZoneInfo) -> Page:
    """Raises ``ValueError`` with a sentence where it is no page of a search."""
    told = answer.get("AcsEvent")
    if not isinstance(told, dict):
        raise ValueError("answer to AcsEvent: expected an object AcsEvent")
    items = told.get("InfoList") or []
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        raise ValueError("answer to AcsEvent: InfoList is no list")
    events: list[Event] = []
    problems: list[tuple[str, bytes]] = []
    for place, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise ValueError("expected an object")
            events.append(event_of(item, zone))
        except ValueError as error:
            raw = json.dumps(item, ensure_ascii=False).encode("utf-8", "replace")
            problems.append((f"InfoList[{place}]: {error}", scrub(raw)))
    matches = told_whole(told.get("numOfMatches"))
    if matches is None:
        matches = len(items)
    return Page(
        tuple(events),
        tuple(problems),
        len(items),
        matches,
        told_whole(told.get("totalMatches")),
        told_text(told.get("responseStatusStrg")).upper() == "MORE" and matches > 0,
    )


def is_citizen_id(code: str) -> bool:
    """An 18-digit citizen ID number by its check digit (ISO 7064 MOD 11-2)."""
    if not re.fullmatch(r"\d{17}[\dXx]", code, re.ASCII):
        return False
    total = sum(int(code[17 - place]) * pow(2, place, 11) for place in range(1, 18))
    return "10X98765432"[total % 11] == code[17].upper()


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """Readings in a capture: HTTP messages one after another, a bare stream, or one document."""
    for part in captured(data):
        events: Iterable[Event] = ()
        problems = [(part.problem, part.raw)] if part.problem else []
        try:
            if "AcsEvent" in part.told:
                page = page_of(part.told, zone)
                events, problems = page.events, list(page.problems)
            elif "AccessControllerEvent" in part.told:
                events = [event_of(part.told, zone)]
        except ValueError as error:
            problems = [(str(error), scrub(json.dumps(part.told).encode()))]
        for event in events:
            if reading := reading_of(event, "capture", ""):
                yield reading
        for sentence, raw in problems:
            yield Reading("capture", 0, Unreadable(sentence), raw)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HikvisionOptions:
    """A terminal that is asked over ISAPI.

    ``password_file`` holds the password of ``user``.  ``serial``, if given, is the only terminal
    accepted at this address.  ``certificate_sha256`` pins the certificate (https); without it the
    first one seen is.  ``stream`` may be ``false`` for a terminal that shall only be polled, every
    ``poll_s``.  ``first_days``: how far back the log is read at first contact.
    ``listen_port``: also take what terminals post to ``listen`` at this port, each to a path that
    ends with what its ``token_file`` holds; 0 for none.
    """

    host: str
    password_file: str
    port: int = 0
    scheme: Literal["http", "https"] = "http"
    user: str = "admin"
    serial: str = ""
    certificate_sha256: str = ""
    stream: bool = True
    poll_s: float = 5
    catch_up_s: float = 600
    first_days: int = 31
    listen: str = "127.0.0.1"
    listen_port: int = 0
    token_file: str = ""

    def __post_init__(self) -> None:
        check_reachable(self)
        for name in ("poll_s", "catch_up_s"):
            if not 1 <= getattr(self, name) <= 86_400:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 to 86400 seconds")
        if not 1 <= self.first_days <= 3660:
            raise ValueError(f"first_days is {self.first_days}; expected 1 to 3660")
        if not 0 <= self.listen_port <= 65535:
            raise ValueError(f"listen_port {self.listen_port}: expected 1 to 65535, or 0 for none")
        if self.listen_port and not self.token_file:
            raise ValueError("listen_port needs token_file: posts are told apart by their token")

    @property
    def address(self) -> tuple[str, int]:
        return address_of(self)

    def link(self) -> tuple[str, ...] | tuple[str, int]:
        """Terminals that post to one port share it."""
        return (self.listen, self.listen_port) if self.listen_port else self.address


# --------------------------------------------------------------------------------------------
# One terminal
# --------------------------------------------------------------------------------------------

PAGE = 30
SMALL_PAGE = 10
PAGES_LIMIT = 50_000
LAST_NUMBER = 3_000_000_000
BREATH = 1.0
"""Seconds between two searches, however much the terminal asks for them."""
KEEP_ALIVE = 60
SILENCE = 90.0
"""Seconds without a byte before a stream is doubted; three times the terminal's heartbeat if that
is more."""
LIVE = 60_000
LAG_LIMIT = 2 * MINUTE
QUIET = 5 * MINUTE
BUSY_PAUSE = 10 * MINUTE
SHORT_STREAM = 5.0
"""A stream that ended sooner (s) is not opened again at once."""
LONGEST_PAUSE = 60.0
REFUSED_PAUSE = 300.0
CLOCK_MOVED = 5_000
UNREADABLE_AN_HOUR = 20


class Abilities(msgspec.Struct):
    """What a terminal with this firmware can do, found out by asking, once a day."""

    firmware: str
    asked: Instant
    page: int = PAGE
    search: bool = True
    stream: bool = True
    by_number: bool = True
    """It searches by record number."""
    naive: bool = False
    """It wants times without an offset."""


class Place(NamedTuple):
    """How far the log is known."""

    last: int
    """Everything numbered up to here was journalled."""
    anchor: int = 0
    """The newest access record among it, and its time: after a reset numbers are given again."""
    at: Instant = 0


class Found(NamedTuple):
    newest: Place
    met: bool
    """The record that the search began with was there, so the numbers still mean the same."""


class Unordered(Exception):
    """The answers cannot be walked through by number."""


class Replaying(Exception):
    """The stream tells old events while the log has newer ones."""


class Terminal:
    """One terminal: what is asked of it, what it tells, and how far that is known."""

    def __init__(self, device: Device) -> None:
        self.id = device.id
        self.options: HikvisionOptions = device.options
        self.token = ""
        self._context: Context
        self._isapi: Isapi
        self._serial = ""
        self._offset: int | None = None
        self._offset_told: tuple[int, Instant] | None = None
        self._abilities = Abilities("", 0)
        self._place: Place | None = None
        self._recent: Instant = 0
        self._whole = True
        """The last search gave as many records as the terminal counted."""
        self._seen = 0
        self._stream_seen = 0
        self._heard_event: Instant | None = None
        self._pushed: Instant | None = None
        self._behind_since: Instant | None = None
        self._poll_until: Instant = 0
        self._complete_told: Instant | None = None
        self._unreadable: tuple[Instant, int] = (0, 0)
        self._counts: Counter[str] = Counter()
        self._taking = asyncio.Lock()
        self._catching = asyncio.Lock()
        self._wanted = asyncio.Event()

    def begin(self, context: Context) -> None:
        """What is known from before."""
        self._context = context
        self._serial = self.options.serial or context.mark(self.id, "serial") or ""
        self._load_place()

    def _load_place(self) -> None:
        parts = (self._context.mark(self.id, "place") or "").split(" ", 3)
        known = len(parts) == 4 and parts[3] == self._serial
        self._place = Place(*map(int, parts[:3])) if known else None

    # -- one connection

    async def visit(self) -> None:
        """Ask and listen until cancelled; raises ``DeviceLost`` or ``DeviceRefused``."""
        context, options = self._context, self.options
        visit = Visit(self.id, options, context)
        self._isapi = await visit.open()
        context.note(self.id, state="connecting")
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._identify()
            if marks := visit.accepted(self._isapi):
                await self._emit([], marks)
            await self._check_clock(tell=True)
            await self._learn_abilities()
            context.note(self.id, state="catching_up")
            tasks += map(
                asyncio.create_task, (self._catch_ups(), self._follow_stream(), self._keep_alive())
            )
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WrongPassword as error:
            await self._emit([], visit.refused(error))
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._isapi.close()
            context.note(self.id, state="down")

    async def _identify(self) -> None:
        """Raises ``DeviceRefused`` where another terminal answers at this address."""
        context = self._context
        try:
            answer = await self._isapi.ask("GET", DEVICE_INFO)
            told = inside(document(answer.body), "DeviceInfo")
        except (NotSupported, NotAccepted, Busy, ValueError) as error:
            raise DeviceLost(
                f"终端不报身份 / the terminal does not say who it is: {error}"
            ) from None
        serial = printable(told.get("serialNumber"))
        mac = printable(told.get("macAddress")).lower()
        if not serial and not mac:
            raise DeviceLost("终端不报身份 / deviceInfo has neither serialNumber nor macAddress")
        serial = serial or mac
        if self.options.serial and serial != self.options.serial:
            raise DeviceRefused(
                f"此地址上是另一台终端 / the terminal at {self.options.host} has serial number"
                f" {serial}, expected {self.options.serial}"
            )
        context.contact(self.id)
        facts: dict[str, str | int] = {
            name: value
            for name, value in (
                ("serial", serial),
                ("model", printable(told.get("model"))),
                ("firmware", printable(told.get("firmwareVersion"))),
                ("mac", mac),
            )
            if value
        }
        before = context.mark(self.id, "serial")
        kept = context.mark(self.id, "facts")
        self._serial = serial
        readings: list[Reading] = []
        if before and before != serial:
            readings.append(
                self._reading(DeviceEvent("device_replaced", detail=f"{before} {serial}"))
            )
            self._seen = 0
        elif kept is not None:
            old = msgspec.json.decode(kept, type=dict[str, str | int]).get("mac")
            if old != facts.get("mac"):
                event = DeviceEvent("mac_changed", detail=f"{old} {facts.get('mac', '')}")
                readings.append(self._reading(event))
        encoded = msgspec.json.encode(facts).decode()
        if encoded != kept:
            readings.append(self._reading(DeviceInfo(facts)))
            await self._emit(readings, {"serial": serial, "facts": encoded})
        self._load_place()
        context.note(self.id, **{name: facts.get(name) for name in ("serial", "model", "firmware")})

    async def _learn_abilities(self) -> None:
        firmware = self._serial + " " + (self._context.mark(self.id, "facts") or "")
        kept = self._context.mark(self.id, "abilities")
        if kept is not None:
            abilities = msgspec.json.decode(kept, type=Abilities)
            if abilities.firmware == firmware and self._context.now() - abilities.asked < DAY:
                self._abilities = abilities
                return
        self._abilities = Abilities(firmware, self._context.now())
        try:
            answer = await self._isapi.ask("GET", ACS_EVENT_CAPABILITIES)
            page = page_limit(document(answer.body))
            if page:
                self._abilities.page = min(max(page, 1), 100)
        except (NotSupported, NotAccepted, Busy, ValueError):
            pass  # many cannot say it and search all the same
        await self._keep_abilities()

    async def _keep_abilities(self) -> None:
        told = msgspec.json.encode(self._abilities).decode()
        await self._emit([], {"abilities": told})
        self._context.note(
            self.id, search=self._abilities.search, alert_stream=self._abilities.stream
        )

    # -- its clock

    async def _keep_alive(self) -> None:
        while True:
            await self._context.sleep(KEEP_ALIVE)
            await self._check_clock()

    async def _check_clock(self, tell: bool = False) -> None:
        context = self._context
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            answer = await self._isapi.ask("GET", SYSTEM_TIME)
            told = inside(document(answer.body), "Time")
            at = instant_of(told_text(told.get("localTime")), context.zone)
        except (NotSupported, NotAccepted, Busy, ValueError) as error:
            context.note(self.id, clock_error=str(error))
            await self._probe()
            return
        context.contact(self.id)
        now = context.now()
        offset = self._offset = at - now
        context.note(
            self.id,
            clock_offset_s=round(offset / 1000),
            time_zone=printable(told.get("timeZone")),
            clock_error=None,
        )
        # A slow answer looks like a slow clock.
        slow = (loop.time() - asked) * 1000
        before = self._offset_told
        moved = before is not None and abs(offset - before[0]) - slow >= CLOCK_MOVED
        told_anew = [Reading(self.id, at, ClockCheck(), serial=self._serial)]
        due = tell or before is None or moved or now - before[1] >= HOUR
        if due and await self._emit(told_anew):
            self._offset_told = (offset, now)

    async def _probe(self) -> None:
        """Whether it is alive; raises ``DeviceLost`` if not."""
        try:
            await self._isapi.ask("GET", DEVICE_INFO)
        except (NotSupported, NotAccepted, Busy):
            pass  # an answer is a sign of life
        self._context.contact(self.id)

    # -- its log

    @property
    def _polled(self) -> bool:
        streaming = self.options.stream and self._abilities.stream
        return not streaming or self._context.now() < self._poll_until

    async def _catch_ups(self) -> None:
        while True:
            done = await self._catch_up()
            if not self._abilities.search:
                if not (self.options.stream and self._abilities.stream):
                    raise DeviceRefused(
                        "终端既不能查询也不能推流 / the terminal has neither AcsEvent"
                        " nor alertStream"
                    )
                self._context.note(self.id, state="live")
                await asyncio.Event().wait()
            await self._context.sleep(BREATH)
            often = self._polled or not done
            self._context.note(self.id, state="polling" if self._polled else "live")
            seconds = self.options.poll_s if often else self.options.catch_up_s
            await self._wanted_or(max(0.0, seconds - BREATH))

    async def _wanted_or(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self._context.sleep(seconds)),
            asyncio.ensure_future(self._wanted.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _catch_up(self) -> bool:
        """Journal every access record that is not known yet; false if that did not succeed."""
        context = self._context
        async with self._catching:
            if not self._abilities.search:
                return False
            self._wanted.clear()
            began, before, self._whole = context.now(), self._place, True
            try:
                place = await self._search(before, self._seen)
                now = self._place
                if before and now and place and place.anchor >= before.anchor:
                    # Meanwhile the stream may have gone further.
                    place = _moved(now, place, 0)
                await self._tell_complete(began, place)
            except NotSupported as error:
                self._abilities.search = False
                context.note(self.id, last_error=str(error))
                await self._keep_abilities()
            except (Busy, BadFrame) as error:
                self._counts["searches_failed"] += 1
                context.note(
                    self.id,
                    searches_failed=self._counts["searches_failed"],
                    last_error=str(error),
                )
            except OSError as error:
                context.note(
                    self.id, last_error=f"读数未能保存 / readings could not be stored: {error}"
                )
            else:
                return True
            return False

    async def _search(self, before: Place | None, seen: int) -> Place | None:
        """The place after everything newer than ``before`` was journalled."""
        context = self._context
        since = context.mark(self.id, "since") or ""
        if since.partition(" ")[2] != self._serial:
            since = f"{context.now() - self.options.first_days * DAY} {self._serial}"
            await self._store([], {"since": since, "complete": "", "search": ""})
        earliest = int(since.partition(" ")[0])
        complete = context.mark(self.id, "complete")
        self._recent = max(earliest, int(complete) - DAY) if complete else earliest
        if before is None or not self._abilities.by_number:
            newest = (await self._read(self._recent, None)).newest
            return _moved(before, newest, seen) if newest.anchor else before
        found = await self._read(None, before)
        if found.met or not self._abilities.by_number:
            return _moved(before, found.newest, seen)
        # The record is gone: overwritten, or the log was cleared and the numbers began anew.
        newest = (await self._read(self._recent, None)).newest
        if newest.anchor >= before.anchor:
            return _moved(before, newest, seen)
        if newest.anchor:
            detail = f"serialNo {before.anchor} -> {newest.anchor}"
            await self._store([self._reading(DeviceEvent("log_cleared", detail=detail))], {})
        self._seen = 0
        return newest if newest.anchor else None

    async def _read(self, starts: Instant | None, begin: Place | None) -> Found:
        if self._abilities.by_number:
            try:
                return await self._read_by_number(starts, begin)
            except Unordered as error:
                self._context.note(self.id, search_error=str(error))
        return await self._read_by_position(starts, begin)

    async def _read_by_number(self, starts: Instant | None, begin: Place | None) -> Found:
        """Each page begins after the highest number of the one before: nothing that is added
        meanwhile can shift it, and an interruption costs one page."""
        first = begin.anchor if begin else 1
        key = f"{starts} {first} {self._serial}"
        following, total, count, newest, met = first, -1, 0, Place(0), begin is None
        kept = (self._context.mark(self.id, "search") or "").split(" ", 6)
        if len(kept) == 7 and kept[6] == key:
            following, total, count, met = int(kept[0]), int(kept[1]), int(kept[2]), kept[3] == "1"
            newest = Place(int(kept[4]), int(kept[4]), int(kept[5]))
        while True:
            page = await self._page(starts, following, 0, secrets.token_hex(16))
            if not self._abilities.by_number:
                raise Unordered("the terminal does not search by record number")
            numbers = [event.serial_no for event in page.events]
            if numbers and min(numbers) < following:
                self._abilities.by_number = False
                await self._keep_abilities()
                raise Unordered("the terminal ignores beginSerialNo, or its records have no number")
            if page.more and not numbers:
                raise Unordered("a page without records says that there are more")
            if total < 0:
                total = page.total or 0
            count += page.received
            newest = _newest(newest, page.events)
            met = met or any((event.serial_no, event.at) == begin[1:] for event in page.events)  # type: ignore[index]
            following = max(numbers, default=following) + 1
            mark = f"{following} {total} {count} {met:d} {newest.anchor} {newest.at} {key}"
            await self._store_page(page, {"search": mark} if page.more else {})
            if not page.more:
                break
        if count < total:
            # Sorted by time and not by number, after the clock was set back: some were jumped over.
            raise Unordered(f"{count} of {total} records came")
        return Found(newest, met)

    async def _read_by_position(self, starts: Instant | None, begin: Place | None) -> Found:
        newest, met, position, total, count = Place(0), begin is None, 0, -1, 0
        search_id = secrets.token_hex(16)
        for _ in range(PAGES_LIMIT):
            page = await self._page(starts, begin.anchor if begin else 1, position, search_id)
            newest = _newest(newest, page.events)
            met = met or any((event.serial_no, event.at) == begin[1:] for event in page.events)  # type: ignore[index]
            await self._store_page(page, {})
            total = (page.total or 0) if total < 0 else total
            count += page.received
            if not page.more:
                if count < total:
                    self._context.note(self.id, search_error=f"{count} of {total} records came")
                    self._whole = False
                return Found(newest, met)
            position += page.matches
        raise DeviceLost(f"the search did not end after {PAGES_LIMIT} pages")

    async def _page(
        self, starts: Instant | None, begin: int, position: int, search_id: str
    ) -> Page:
        """One page, asked for in the way that this terminal accepts."""
        now = self._abilities
        ways = [(now.naive, now.page, now.by_number)]
        ways += product(
            (now.naive, not now.naive),
            sorted({now.page, min(now.page, SMALL_PAGE)}, reverse=True),
            sorted({now.by_number, False}, reverse=True),
        )
        refused: NotAccepted | None = None
        for naive, size, by_number in dict.fromkeys(ways):
            wanted: dict[str, Any] = {
                "searchID": search_id,
                "searchResultPosition": position,
                "maxResults": size,
                "major": ACCESS,
                "minor": 0,
                "startTime": self._wall(
                    starts if by_number else max(starts or 0, self._recent), naive
                ),
                "endTime": "2037-12-31T23:59:59" + ("" if naive else self._utc_offset()),
                "timeReverseOrder": False,
                "picEnable": False,
            }
            if by_number:
                wanted |= {"beginSerialNo": begin, "endSerialNo": LAST_NUMBER}
            try:
                answer = await self._isapi.ask(
                    "POST", ACS_EVENT, msgspec.json.encode({"AcsEventCond": wanted})
                )
            except NotAccepted as error:
                refused = refused or error
                continue
            self._context.contact(self.id)
            try:
                page = page_of(document(answer.body), self._context.zone)
            except ValueError as error:
                await self._cannot_read(str(error), scrub(answer.body))
                raise BadFrame(str(error)) from None
            if (naive, size, by_number) != ways[0]:
                now.naive, now.page, now.by_number = naive, size, by_number
                await self._keep_abilities()
            return page
        assert refused is not None
        raise NotSupported(f"查询不被接受 / the terminal accepts no search: {refused}")

    def _wall(self, at: Instant | None, naive: bool) -> str:
        if at is None:
            return "1970-01-01T08:00:00" + ("" if naive else self._utc_offset())
        wall = datetime.fromtimestamp(at // 1000, self._context.zone)
        return wall.replace(tzinfo=None).isoformat() + ("" if naive else self._utc_offset())

    def _utc_offset(self) -> str:
        now = datetime.fromtimestamp(self._context.now() // 1000, self._context.zone)
        return now.isoformat()[19:]

    async def _store_page(self, page: Page, marks: Mapping[str, str]) -> None:
        readings = [self._told(event, False) for event in page.events]
        await self._store([reading for reading in readings if reading is not None], marks)
        for sentence, raw in page.problems:
            await self._cannot_read(sentence, raw)

    async def _tell_complete(self, began: Instant, place: Place | None) -> None:
        moved = place != self._place
        self._place = place
        if not self._whole:
            await self._store([], {"search": "", "place": self._place_mark(place)})
            return
        told = self._complete_told
        if told is not None and began - told < HOUR and not moved:
            return
        marks = {"complete": str(began), "search": "", "place": self._place_mark(place)}
        complete = Reading(self.id, began, LogComplete(), serial=self._serial)
        await self._store([complete], marks)
        self._complete_told = began

    def _place_mark(self, place: Place | None) -> str:
        return f"{place.last} {place.anchor} {place.at} {self._serial}" if place else ""

    # -- its stream

    async def _follow_stream(self) -> None:
        context = self._context
        pause = 1.0
        while True:
            if not (self.options.stream and self._abilities.stream):
                await asyncio.Event().wait()
            if (rest := self._poll_until - context.now()) > 0:
                await context.sleep(rest / 1000)
                continue
            opened = asyncio.get_running_loop().time()
            told = False
            try:
                async with self._isapi.stream(ALERT_STREAM) as response:
                    told = await self._listen(response)
            except NotSupported as error:
                # 403 is also what a second subscriber gets, so it is not for ever.
                if "answered 403" in str(error) and "notSupport" not in str(error):
                    self._poll(BUSY_PAUSE, str(error))
                else:
                    self._abilities.stream = False
                    await self._keep_abilities()
                    self._wanted.set()
                continue
            except (NotAccepted, Busy) as error:
                self._poll(BUSY_PAUSE, str(error))
                continue
            except Replaying:
                self._poll(DAY, "推流只重放旧事件，改为轮询 / the stream replays old events")
                continue
            self._counts["stream_closed"] += 1
            context.note(self.id, stream_closed=self._counts["stream_closed"])
            if told and asyncio.get_running_loop().time() - opened >= SHORT_STREAM:
                pause = 1.0
            else:
                await context.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
            self._wanted.set()

    def _poll(self, milliseconds: int, reason: str) -> None:
        self._poll_until = self._context.now() + milliseconds
        self._behind_since = None
        self._context.note(self.id, polling_because=reason)
        self._wanted.set()

    async def _listen(self, response: httpx.Response) -> bool:
        """Whether anything came before the stream ended."""
        parser = Multipart(boundary_of(response.headers.get("content-type", "")))
        loop = asyncio.get_running_loop()
        silence, beat, came = SILENCE, 0.0, False
        self._behind_since = None
        self._stream_seen = self._place.anchor if self._place else 0
        async with aclosing(chunks_of(response, lambda: silence)) as incoming:
            async for chunk in incoming:
                if chunk is None:
                    if await self._stream_is_dead():
                        return came
                    continue
                came = True
                parts = parser.feed(chunk)
                if any(not part.problem for part in parts):
                    self._context.contact(self.id)
                if any(is_heartbeat(part.told) for part in parts):
                    if beat:
                        silence = max(silence, min(3 * (loop.time() - beat), 600))
                    beat = loop.time()
                await self._take(parts, stream=True)
                self._context.note(
                    self.id, pictures_discarded=parser.pictures, stream_resyncs=parser.resyncs
                )
        await self._take(parser.finish(), stream=True)
        return came

    async def _stream_is_dead(self) -> bool:
        """A silent stream is kept while the terminal answers, unless its log grew meanwhile."""
        await self._probe()
        await self._catch_up()
        return self._place is not None and self._place.anchor > self._stream_seen

    # -- what it tells

    async def take_push(self, parts: Sequence[Part]) -> bool:
        """Journal what was posted; false if it should be sent again."""
        if not self._serial:
            # Its events could not be told from the same ones out of the log.
            return False
        self._context.contact(self.id)
        self._pushed = self._context.now()
        return await self._take(parts, stream=False)

    async def _take(self, parts: Sequence[Part], stream: bool) -> bool:
        stored = True
        for part in parts:
            if part.problem:
                # It may have been a punch.
                self._wanted.set()
                await self._cannot_read(part.problem, part.raw)
            elif "AccessControllerEvent" in part.told:
                try:
                    event = event_of(part.told, self._context.zone)
                except ValueError as error:
                    self._wanted.set()
                    await self._cannot_read(str(error), scrub(json.dumps(part.told).encode()))
                    continue
                stored = await self._take_event(event) and stored
                if stream:
                    self._stream_seen = max(self._stream_seen, event.serial_no)
                    self._watch_lag(event)
            elif not is_heartbeat(part.told):
                self._counts["other_events"] += 1
                self._context.note(self.id, other_events=self._counts["other_events"])
        return stored

    async def _take_event(self, event: Event) -> bool:
        context = self._context
        if event.major == OPERATION and event.minor in REMOTE_LOGINS:
            self._counts["remote_logins"] += 1
            context.note(self.id, remote_logins=self._counts["remote_logins"])
        async with self._taking:
            now = context.now()
            if self._heard_event is not None and now - self._heard_event > QUIET:
                self._wanted.set()
            self._heard_event = now
            place = self._advanced(event)
            reading = self._told(event, self._is_live(event))
            marks = {} if place == self._place else {"place": self._place_mark(place)}
            if reading is not None or marks:
                try:
                    await self._store([reading] if reading else [], marks)
                except OSError as error:
                    context.note(
                        self.id, last_error=f"读数未能保存 / readings could not be stored: {error}"
                    )
                    self._wanted.set()
                    return False
            if place is not None and (self._place is None or place.last > self._place.last):
                self._place = place
            self._seen = max(self._seen, event.serial_no)
            return True

    def _advanced(self, event: Event) -> Place | None:
        """The place after this event, if it follows without a gap; a gap is looked into."""
        place, number = self._place, event.serial_no
        if not number:
            return place
        if place is None:
            self._wanted.set()
            return None
        if number <= place.last:
            return place
        if place.last not in (event.front, number - 1):
            self._wanted.set()
            return place
        if event.major != ACCESS:
            return place._replace(last=number)
        return Place(number, number, event.at)

    def _is_live(self, event: Event) -> bool:
        """Only where the terminal says so and its own clock agrees; 1970 is a known fault of
        terminals whose clock is right."""
        if event.current is not True:
            return False
        if event.at < DAY:
            return True
        return self._offset is not None and self._lag(event) <= LIVE

    def _lag(self, event: Event) -> int:
        return abs(self._context.now() + (self._offset or 0) - event.at)

    def _watch_lag(self, event: Event) -> None:
        """Raises ``Replaying`` where the stream stays behind the log for two minutes."""
        now = self._context.now()
        lag = now + (self._offset or 0) - event.at
        self._context.note(self.id, stream_lag_s=round(lag / 1000))
        if lag <= LIVE or event.at < DAY:
            self._behind_since = None
            return
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since < LAG_LIMIT or not self._abilities.search:
            return
        place = self._place
        newer = place is not None and (
            place.anchor > event.serial_no if event.serial_no else place.at > event.at
        )
        if newer:
            raise Replaying
        self._wanted.set()

    # -- words

    def _told(self, event: Event, live: bool) -> Reading | None:
        return reading_of(event, self.id, self._serial, live)

    def _reading(self, body: Body, raw: bytes = b"") -> Reading:
        return Reading(self.id, self._context.now(), body, raw, self._serial)

    async def _cannot_read(self, sentence: str, raw: bytes) -> None:
        now = self._context.now()
        self._counts["decode_errors"] += 1
        self._context.note(self.id, decode_errors=self._counts["decode_errors"])
        since, told = self._unreadable
        if now - since >= HOUR:
            since, told = now, 0
        self._unreadable = (since, told + 1)
        if told < UNREADABLE_AN_HOUR:
            await self._emit([self._reading(Unreadable(sentence), raw)])

    async def _store(self, readings: Sequence[Reading], marks: Mapping[str, str]) -> None:
        """Raises ``OSError`` where they could not be stored."""
        if readings or marks:
            keyed = {(self.id, name): value for name, value in marks.items()}
            await self._context.emit(readings, keyed)

    async def _emit(
        self, readings: Sequence[Reading], marks: Mapping[str, str] | None = None
    ) -> bool:
        """False if they could not be stored."""
        try:
            await self._store(readings, marks or {})
        except OSError as error:
            self._context.note(
                self.id, last_error=f"读数未能保存 / readings could not be stored: {error}"
            )
            return False
        return True

    def lost(self, reason: str) -> None:
        """It cannot be asked; while it posts to us it is not lost."""
        now = self._context.now()
        if self._pushed is not None and now - self._pushed < SILENCE * 1000:
            self._context.note(self.id, last_error=reason)
        else:
            self._context.lost(self.id, reason)


def page_limit(told: Mapping[str, Any]) -> int | None:
    """``maxResults``' upper end, wherever in a capability document it stands."""
    level: list[Any] = [told]
    while level:
        for one in level:
            limit = one.get("maxResults") if isinstance(one, dict) else None
            if isinstance(limit, dict) and (most := told_whole(limit.get("@max"))):
                return most
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return None


def _moved(before: Place | None, newest: Place, seen: int) -> Place:
    if before is None:
        return newest._replace(last=max(newest.last, seen))
    return Place(max(before.last, newest.last, seen), *max(newest[1:], before[1:]))


def _newest(before: Place, events: Iterable[Event]) -> Place:
    places = (Place(event.serial_no, event.serial_no, event.at) for event in events)
    return max((before, *places), key=lambda place: place.anchor)


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------

BODY_LIMIT = TEXT_LIMIT + 2 * PICTURE_LIMIT
_OK = b'{"statusCode":1,"statusString":"OK","subStatusCode":"ok"}'


class Hikvision:
    """One terminal, or the terminals that post to one port."""

    options: ClassVar[type] = HikvisionOptions
    attendance: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self._terminals = [Terminal(device) for device in devices]
        first: HikvisionOptions = devices[0].options
        self._listens = first.listen_port > 0
        self.address: tuple[str, int] | None = None
        """Where it really listens, once it does."""
        for what, values in (
            ("address", [terminal.options.address for terminal in self._terminals]),
            ("token_file", [terminal.options.token_file for terminal in self._terminals]),
        ):
            for value, times in Counter(values).items():
                if times > 1:
                    raise ValueError(f"{what} {value} is given to {times} terminals")

    async def run(self, context: Context) -> None:
        for terminal in self._terminals:
            terminal.begin(context)
        if not self._listens:
            await self._terminals[0].visit()
            return
        for terminal in self._terminals:
            terminal.token = await asyncio.to_thread(_read_token, terminal.options.token_file)
        options = self._terminals[0].options
        listening = http_listener.listen(options.listen, options.listen_port)
        self.address = listening.getsockname()[:2]
        listener = Listener(self._terminals, context)
        tasks = [asyncio.create_task(http_listener.serve(listener, listening))]
        tasks += [asyncio.create_task(self._keep(one, context)) for one in self._terminals]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise DeviceLost(f"the listener on {self.address} stopped")
        finally:
            self.address = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listening.close()

    async def _keep(self, terminal: Terminal, context: Context) -> None:
        """Ask one terminal for ever: what goes wrong with it costs the others nothing."""
        pause = 1.0
        while True:
            began = context.now()
            try:
                await terminal.visit()
                wait = pause
            except DeviceRefused as error:
                terminal.lost(str(error))
                wait = REFUSED_PAUSE
            except (DeviceLost, OSError) as error:
                terminal.lost(str(error))
                wait = pause
            if context.now() - began > MINUTE:
                pause = 1.0
            await context.sleep(wait)
            pause = min(LONGEST_PAUSE, pause * 2)


class Listener:
    """The ASGI application: what terminals post, to readings."""

    def __init__(self, terminals: Iterable[Terminal], context: Context) -> None:
        self._terminals = tuple(terminals)
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
            (one for one in self._terminals if hmac.compare_digest(one.token.encode(), token)),
            None,
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
        if scope["method"] in ("GET", "HEAD"):
            # The terminal's test button.
            await http_listener.answer(send, 200, b"" if scope["method"] == "HEAD" else _OK)
            return
        if scope["method"] != "POST":
            await http_listener.answer(send, 405)
            return
        try:
            parts = await self._parts(scope, receive)
        except http_listener.Gone:
            return
        except http_listener.TooLong:
            await http_listener.answer(send, 413)
            return
        stored = await terminal.take_push(parts)
        await http_listener.answer(send, 200 if stored else 503, _OK if stored else b"")

    async def _parts(
        self, scope: http_listener.Scope, receive: http_listener.Receive
    ) -> list[Part]:
        kind = http_listener.headers_of(scope).get("content-type", "")
        if kind.lower().lstrip().startswith("multipart/"):
            parser = Multipart(boundary_of(kind))
            parts: list[Part] = []
            async for chunk in http_listener.chunks(receive, BODY_LIMIT):
                parts += parser.feed(chunk)
            return parts + parser.finish()
        body = bytearray()
        async for chunk in http_listener.chunks(receive, TEXT_LIMIT):
            body += chunk
        return [part_of(bytes(body))] if body.strip() else []


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise DeviceRefused(f"令牌文件无法读取 / token_file {path}: {error}") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{4,100}", token):
        raise DeviceRefused(
            f"令牌文件内容无效 / token_file {path}: expected 4 to 100 letters, digits, _ or -"
        )
    return token


DRIVER = Hikvision
