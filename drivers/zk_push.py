"""ZKTeco PUSH (ADMS): terminals that upload their punches to us over HTTP.

The terminal is the HTTP client; all terminals of one listening address share one ``ZkPush``.

    request (last path segment, any case)    what it is                         answer
    GET  cdata?SN=&options=all               hello of an attendance terminal    option block
    GET  cdata?...&DeviceType=acc            hello of an access terminal        OK, or its options
    POST registry, POST push                 access terminal signs on           a code, its options
    POST cdata?table=ATTLOG                  punches                            OK: n
    POST cdata?table=OPERLOG                 operations, users, templates       OK: n
    POST cdata?table=BIODATA|IDCARD|ERRORLOG                                    OK: n
    POST cdata?table=rtlog|rtstate           events, door state (access)        OK
    POST cdata?table=tabledata&tablename=T   rows of a table (access)           T=n
    POST cdata?table=options|ATTPHOTO|other                                     OK
    GET  getrequest                          heartbeat; asks for commands       OK, or C:id:command
    GET  ping                                heartbeat during long uploads      OK
    POST devicecmd                           results of commands                OK
    POST querydata                           rows that a command asked for      OK
    POST exchange                            wants to encrypt                   404

    ATTLOG row    pin TAB time TAB state TAB verify TAB work code TAB 2 reserved TAB mask
                  TAB 2 temperatures TAB seconds east of UTC TAB more
    OPERLOG row   OPLOG op TAB admin TAB time TAB 4 objects, or USER key=value TAB key=value ...
    rtlog row     key=value TAB key=value ...

A terminal forgets a batch when it is answered ``OK`` and repeats it for ever otherwise.  So the
answer is sent after the rows are journalled; n counts every row received, also the unreadable and
the repeated ones; and 503 means "keep it".  Only terminals named in the settings are listened to:
any other is told 403, nothing of it is kept, and it is listed under ``LISTENER_ID``.

Templates, photographs, passwords, card numbers, temperatures and citizen ID numbers end here.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import formatdate
from hashlib import md5
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote
from zoneinfo import ZoneInfo

import msgspec

from drivers import http_listener
from drivers.base import Context, Device
from drivers.http_listener import Gone, Receive, Scope, Send
from drivers.text import decode_name, is_citizen_id, wall_instant
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
    TerminalUser,
    Unreadable,
)

FAMILY = "zk_push"
LISTENER_ID = "zk-push"
"""What the listener itself has to tell (terminals that nobody configured) is noted under this."""

RAW_LIMIT = 4096
BODY_LIMIT = 32 * 1024 * 1024
"""A terminal that was off the net for weeks sends 5 MB at once; templates can be larger."""
BODIES_LIMIT = 64 * 1024 * 1024
"""All bodies being received at one time."""
BODY_SECONDS = 600
LIMITS = http_listener.Limits(connections=512)
BATCH = 1_000
"""Rows journalled at a time, so that other terminals need not wait for a long backlog."""
UNREADABLE_LIMIT = 1_000
"""Unreadable rows of one upload that are journalled; the rest are counted."""
STRANGERS_LIMIT = 200

GAP = 90_000
SETTLED = 120_000
"""In contact for this long without a gap, a terminal has nothing left from before."""
QUIET = 60_000
LIVE_ROWS = 5
AHEAD = 5 * MINUTE
COMMAND_POLLS = 10
COMMAND_TRIES = 3

# --------------------------------------------------------------------------------------------
# Codes
# --------------------------------------------------------------------------------------------

OPERATIONS = {
    0: "power_on",
    1: "power_off",
    2: "verify_failed",
    3: "alarm",
    4: "menu_entered",
    5: "setting_changed",
    6: "finger_enrolled",
    7: "password_enrolled",
    8: "card_enrolled",
    9: "user_deleted",
    10: "finger_deleted",
    11: "password_deleted",
    12: "card_deleted",
    13: "data_cleared",
    **dict.fromkeys(range(14, 21), "mifare"),
    21: "time_set",
    22: "factory_reset",
    23: "attendance_log_deleted",
    24: "admins_cleared",
    29: "door_opened",
    30: "user_added",
    32: "duress",
    35: "photos_deleted",
    36: "user_changed",
    **dict.fromkeys(range(40, 44), "usb"),
    53: "exit_button",
    54: "door",
    55: "alarm",
    68: "photo",
    69: "photo",
    70: "user_changed",
    71: "user_changed",
    **dict.fromkeys(range(76, 80), "network_changed"),
    82: "server_address_changed",
    83: "server_port_changed",
    92: "usb_upgrade",
    101: "face_added",
    106: "face_deleted",
    **dict.fromkeys(range(110, 113), "proxy_changed"),
    117: "operator_password_wrong",
    118: "operator_locked",
}
ALARMS = {
    50: "door_closed",
    51: "door_open",
    53: "exit_button",
    54: "door_forced",
    55: "tamper",
    58: "repeated_failure",
    65535: "alarm_cancelled",
}
"""First object of operation 3."""
SECRET_OPERATIONS = frozenset({7, 8, 11, 12, *range(14, 21), 117, 118})
"""Their objects may be a card or a password: not kept."""

PUNCH_EVENTS = frozenset(
    {0, 1, 2, 3, 14, 15, 16, 17, 18, 19, 203, 207, 208, 215, 216, 218, 222, 232}
)
UNKNOWN_EVENTS = frozenset({27, 30, 34})
EVENTS = {
    28: "door_held",
    54: "battery",
    55: "battery",
    77: "network_cable",
    100: "tamper",
    101: "duress",
    102: "door_forced",
    103: "duress",
    104: "invalid_card",
    105: "server_lost",
    106: "battery",
    107: "mains",
    109: "reader_tamper",
    110: "reader_offline",
    206: "power_on",
    214: "server_connected",
    248: "network_cable",
}
REFUSALS = {
    20: "too fast",
    21: "wrong time",
    22: "invalid zone",
    23: "no right",
    24: "anti-passback",
    25: "interlock",
    26: "waiting for a second person",
    29: "expired",
    32: "waiting for a second person",
    33: "expired",
    35: "wrong time",
    38: "lost card",
    39: "blacklist",
    40: "several persons, failed",
    41: "wrong mode",
    48: "several persons, failed",
    49: "wrong time",
    51: "waiting for a second person",
    52: "several persons, failed",
    53: "expired",
    61: "repeat",
    62: "banned",
    68: "temperature",
    69: "no mask",
}
DOOR_ALARMS = (
    "door_forced",
    "tamper",
    "duress",
    "duress",
    "door_held",
    "mains",
    "battery",
    "reader_tamper",
)
"""Bits 0 to 7 of a door's byte in rtstate."""

FACTS = {
    "devicename": "model",
    "fwversion": "firmware",
    "firmver": "firmware",
    "mac": "mac",
    "ipaddress": "ip",
    "platform": "platform",
    "language": "language",
    "maxattlogcount": "record_capacity",
}
"""Options worth keeping.  ``record_capacity`` is as told: on many boxes in units of 10,000."""
COUNTS = {
    "usercount": "users",
    "transactioncount": "records",
    "fpcount": "fingers",
    "facecount": "faces",
}
INFO_FACTS = {0: "firmware", 4: "ip"}
INFO_COUNTS = {1: "users", 2: "fingers", 3: "records", 8: "faces"}
"""Positions in the INFO list of a poll."""

COUNTED_TABLES = frozenset({"biodata", "idcard"})
ROW_TABLES = frozenset({"attlog", "operlog", "errorlog", "rtlog", "rtstate", "tabledata"})
ENDPOINTS = frozenset(
    {"cdata", "getrequest", "ping", "devicecmd", "registry", "push", "querydata", "exchange"}
)

# --------------------------------------------------------------------------------------------
# Pure functions over bytes
# --------------------------------------------------------------------------------------------

_SERIAL = re.compile(r"[A-Za-z0-9_-]{4,32}")
_LINE = re.compile(rb"[^\r\n]+")
_NOT_TEXT = b"\0\x1a"
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f]")
_TIME = re.compile(
    rb"(\d{4})-(\d\d?)-(\d\d?)[ T]+(\d\d?):(\d\d?):(\d\d?)|(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)"
)
_SPACED = re.compile(rb"(\S+)[ \t]+(\d{4}-\d\d?-\d\d?)[ \t]+(\d\d?:\d\d?:\d\d?)(?:[ \t]+(.*))?")
_OPERATION = re.compile(
    rb"(\d{1,6})[ \t]+(\S*)[ \t]+(\d{4}-\d\d?-\d\d?[ T]\d\d?:\d\d?:\d\d?|\d{14})(?:[ \t]+(.*))?"
)
_WORD = re.compile(rb"([A-Za-z][A-Za-z0-9_]{1,15})[ \t]+(.*)", re.DOTALL)
_OFFSET = re.compile(rb"[+-]?\d{1,5}")
_NUMBER = re.compile(rb"\d{1,6}")
_PERSON = re.compile(rb"[!-~]{1,32}")
_CITIZEN_ID = re.compile(rb"\d{15}|\d{17}[\dXx]")
_CITIZEN_ID_WITHIN = re.compile(rb"\d{15,}[Xx]?")
_SECRET_VALUE = re.compile(rb"(?i)\b(passwd|password|card|cardno|vicecard)=[^\t\r\n]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/=]{40,}")
_SUSPECT = re.compile(
    rb"[\x00-\x08\x0b-\x1f]|\d{15}|(?i:passwd|password|card|cardno)=|[A-Za-z0-9+/=]{40}"
)
_STAMP = re.compile(r"[0-9A-Za-z]{1,32}")
_TABLE = re.compile(r"[a-z0-9_]{1,32}")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}")


class Row(NamedTuple):
    """What one row of an upload says.

    ``body`` is none for a row that is counted and rightly not kept (templates, door events).
    ``at`` is none where the row tells no time.
    """

    body: Body | None
    at: Instant | None = None
    raw: bytes = b""


class DoorState(NamedTuple):
    """One rtstate row: the alarms that are on, as ``(name, door)``."""

    at: Instant
    alarms: frozenset[tuple[str, int]]
    raw: bytes


class CommandResult(NamedTuple):
    """``code`` is none where the terminal gave no readable one."""

    id: str
    code: int | None
    values: dict[str, str]


def endpoint(path: str) -> str | None:
    """The last path segment without extension, lower case; none for a path that is not iclock's."""
    segments = [segment for segment in path.lower().split("/") if segment]
    if "iclock" not in segments[:-1]:
        return None
    return segments[-1].partition(".")[0]


def parse_query(query: bytes) -> dict[str, str]:
    """Query values by lower-case key; the first of repeated ones.  ``ValueError`` beyond 64."""
    pairs = parse_qsl(
        query.decode("latin-1"), keep_blank_values=True, errors="replace", max_num_fields=64
    )
    values: dict[str, str] = {}
    for key, value in pairs:
        values.setdefault(key.lower(), value)
    return values


def lines(body: bytes) -> Iterator[bytes]:
    """The non-empty rows of a text body: ended by LF, CRLF or CR; NUL, 0x1A and BOM taken out."""
    for match in _LINE.finditer(body):
        line = match.group().translate(None, _NOT_TEXT).replace(_BOM, b"").strip(b" ")
        if line and not line.isspace():
            yield line


def pairs(text: bytes, separator: bytes = b"\t") -> dict[str, bytes]:
    """``key=value`` fields by lower-case key without ``~``; values may contain ``=`` and blanks."""
    values: dict[str, bytes] = {}
    for part in text.split(separator):
        key, equals, value = part.partition(b"=")
        if equals:
            values.setdefault(key.strip().lstrip(b"~").lower().decode("latin-1"), value)
    return values


def device_time(text: bytes, zone: ZoneInfo) -> Instant:
    """``YYYY-MM-DD HH:MM:SS`` or ``YYYYMMDDHHMMSS`` on a wall in ``zone``; ``ValueError`` else."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("expected a time such as 2025-03-14 08:59:01")
    year, month, day, hour, minute, second = map(int, filter(None, match.groups()))
    try:
        return wall_instant(year, month, day, hour, minute, second, zone)
    except (ValueError, OverflowError):
        raise ValueError("the time is not in the calendar") from None


def packed_time(seconds: int, zone: ZoneInfo) -> Instant:
    """Seconds since 2000 with twelve months of 31 days each, as in transaction tables."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    months, day = divmod(days, 31)
    years, month = divmod(months, 12)
    try:
        return wall_instant(2000 + years, month + 1, day + 1, hour, minute, second, zone)
    except (ValueError, OverflowError):
        raise ValueError("the time is not in the calendar") from None


def attlog_row(line: bytes, zone: ZoneInfo) -> Row:
    """One punch.  Rows have 2 to 12 columns; only person and time are certain."""
    fields = line.split(b"\t")
    if fields[0].strip().upper() == b"ATTLOG":
        # Some clones begin every row with the table's name.
        del fields[0]
    fields = [part.strip(b" ") for part in fields]
    if len(fields) < 2 or _TIME.fullmatch(fields[1]) is None:
        # Tabs turned into blanks on the way: person, date, time, then the rest.
        spaced = _SPACED.fullmatch(b"\t".join(fields))
        if spaced is None:
            return _unreadable(line, "ATTLOG row: expected a person code, TAB and a time")
        person, date, time, rest = spaced.groups()
        fields = [person, date + b" " + time, *(rest or b"").split()]
    try:
        at = device_time(fields[1], zone)
    except ValueError as error:
        return _unreadable(line, f"ATTLOG row: {error}")
    if len(fields) > 10 and _OFFSET.fullmatch(fields[10]) and abs(int(fields[10])) <= 14 * 3600:
        # The row's own distance from UTC is nearer to the truth than our settings.
        at = device_time(fields[1], _UTC) - int(fields[10]) * 1000

    person = fields[0]
    raw = _attlog_raw(fields)
    if len(fields) > 8 and _CITIZEN_ID.fullmatch(fields[7]) and fields[8] == b"1":
        # An ID-card terminal compared a visitor with his card: 0 same, 1 different, 2 blacklisted.
        return Row(DeviceEvent("identity_check", _number(fields, 2) or 0), at, raw)
    if not person.strip(b"0"):
        return Row(DeviceEvent("unknown_person"), at, raw)
    if not _PERSON.fullmatch(person):
        return _unreadable(line, "ATTLOG row: the person code is not 1 to 32 visible ASCII signs")
    if is_citizen_id(person.decode("ascii")):
        return _unreadable(
            line, "ATTLOG row: the person code is a citizen ID number, which is not kept", at
        )
    work_code = fields[4].decode("latin-1")[:32] if len(fields) > 4 else ""
    return Row(
        Punch(
            person.decode("ascii"),
            verify=_number(fields, 3),
            state=_number(fields, 2),
            work_code="" if work_code == "0" else work_code,
        ),
        at,
        raw,
    )


def operlog_row(line: bytes, zone: ZoneInfo, encoding: str = "auto") -> Row:
    """One operation or user; templates and pictures give a row without a body."""
    match = _WORD.fullmatch(line)
    if match is None:
        return _unreadable(line, "OPERLOG row: expected a word such as OPLOG or USER")
    word, rest = match.group(1).upper(), match.group(2)
    if word == b"OPLOG":
        return _operation(line, rest, zone)
    if word == b"USER":
        return _user(rest, encoding)
    if b"=" in rest[:64]:
        # FP, FACE, FVEIN, BIODATA, USERPIC, BIOPHOTO and whatever firmware invents next.
        return Row(None)
    return _unreadable(line, "OPERLOG row: begins with an unknown word")


def _operation(line: bytes, rest: bytes, zone: ZoneInfo) -> Row:
    match = _OPERATION.fullmatch(rest)
    if match is None:
        return _unreadable(line, "OPLOG row: expected a code, TAB, an administrator, TAB, a time")
    code, admin, time, tail = match.groups()
    try:
        at = device_time(time, zone)
    except ValueError as error:
        return _unreadable(line, f"OPLOG row: {error}")
    operation = int(code)
    objects = (tail or b"").split(b"\t") if b"\t" in (tail or b"") else (tail or b"").split()
    name = OPERATIONS.get(operation, "operation")
    if operation == 3:
        name = ALARMS.get(_number(objects, 0) or 0, name)
    detail = f"admin={_shown(admin)}"
    if operation in SECRET_OPERATIONS:
        return Row(DeviceEvent(name, operation, detail), at)
    shown = ",".join(_shown(part) for part in objects[:4])
    return Row(DeviceEvent(name, operation, f"{detail} objects={shown}"), at, scrub(line))


def _user(rest: bytes, encoding: str) -> Row:
    values = pairs(rest)
    person = values.get("pin", b"").strip()
    if not _PERSON.fullmatch(person) or is_citizen_id(person.decode("ascii")):
        return Row(Unreadable("USER row: PIN is not 1 to 32 visible ASCII signs"))
    privilege = values.get("pri", values.get("privilege", b"")).strip()
    return Row(
        TerminalUser(
            person.decode("ascii"),
            decode_name(values.get("name", b"")[:256], encoding),
            int(privilege) if _NUMBER.fullmatch(privilege) else 0,
        )
    )


def errorlog_row(line: bytes) -> Row:
    """The terminal reports a fault of its own."""
    values = pairs(line.partition(b"ERRORLOG ")[2] or line)
    code = values.get("errcode", b"").strip()
    detail = " ".join(_shown(values.get(key, b"")) for key in ("errmsg", "dataorigin"))
    return Row(
        DeviceEvent(
            "device_error", int(code) if _NUMBER.fullmatch(code) else 0, detail.strip()[:200]
        )
    )


def rtlog_row(line: bytes, zone: ZoneInfo) -> Row:
    """One event of an access terminal, from rtlog or from its transaction table.

    The record number (``index``) stays out of the punch: ATTLOG and a pull over port 4370 tell
    the same punch without it, and one punch must be one fact.
    """
    values = {key: value.strip() for key, value in pairs(line).items()}
    try:
        if "time" in values:
            at = device_time(values["time"], zone)
        elif _digits(values.get("time_second", b""), 10):
            at = packed_time(int(values["time_second"]), zone)
        else:
            raise ValueError("expected time=")
    except ValueError as error:
        return _unreadable(line, f"rtlog row: {error}")
    told = values.get("event", values.get("eventtype", b""))
    if not _NUMBER.fullmatch(told):
        return _unreadable(line, "rtlog row: expected event= and a number", at)
    event = int(told)
    person = values.get("pin", b"")
    raw = b"\t".join(
        b"%s=%s" % (key.encode("latin-1"), value)
        for key, value in values.items()
        if key in _RTLOG_KEPT
    )[:RAW_LIMIT]
    raw = scrub(raw)
    known = bool(person.strip(b"0"))
    if event in UNKNOWN_EVENTS or (event in PUNCH_EVENTS and not known):
        return Row(DeviceEvent("unknown_person", event), at, raw)
    if event in PUNCH_EVENTS:
        if not _PERSON.fullmatch(person) or is_citizen_id(person.decode("ascii")):
            return _unreadable(raw, "rtlog row: pin is not 1 to 32 visible ASCII signs", at)
        way = _value(values, "inoutstatus", "inoutstate")
        verify = _value(values, "verifytype", "verified")
        state = way if way in (0, 1) else None
        return Row(Punch(person.decode("ascii"), verify=verify, state=state), at, raw)
    if event in EVENTS:
        return Row(DeviceEvent(EVENTS[event], event, _about(person)), at, raw)
    if 20 <= event <= 99 or 5000 <= event <= 5999:
        reason = REFUSALS.get(event, "refused")
        return Row(DeviceEvent("refused", event, f"{reason} {_about(person)}".strip()), at, raw)
    if 100 <= event <= 199 or 6000 <= event <= 6999:
        return Row(DeviceEvent("alarm", event, _about(person)), at, raw)
    return Row(None)


def rtstate_row(line: bytes, zone: ZoneInfo) -> DoorState:
    """The state of the doors; ``ValueError`` says what is wrong with the row."""
    values = pairs(line)
    at = device_time(values.get("time", b"").strip(), zone)
    told = values.get("alarm", b"").strip()[:128]
    try:
        doors = bytes.fromhex(told.decode("latin-1"))
    except ValueError:
        raise ValueError("expected alarm= and hexadecimal bytes") from None
    alarms = frozenset(
        (name, door)
        for door, state in enumerate(doors, 1)
        for bit, name in enumerate(DOOR_ALARMS)
        if state >> bit & 1
    )
    return DoorState(at, alarms, scrub(line))


def tabledata_row(line: bytes, zone: ZoneInfo, encoding: str = "auto") -> Row:
    """One row of a table of an access terminal; only users and transactions are kept."""
    word, _, rest = line.partition(b" ")
    if word.lower() == b"user":
        return _user(rest, encoding)
    if word.lower() == b"transaction":
        return rtlog_row(rest, zone)
    return Row(None)


def rows(table: str, body: bytes, zone: ZoneInfo, encoding: str = "auto") -> Iterator[Row]:
    """One ``Row`` for every non-empty row of an upload.  ``rtstate`` alarms come as events."""
    if body[:2] == b"\x1f\x8b":
        yield Row(Unreadable("a packed body, which hallwatch does not ask for"))
        return
    if b"CMD=uploadphoto" in body[:4096]:
        yield Row(None)
        return
    for line in lines(body):
        if table == "attlog":
            word = line[:12].split(b" ", 1)[0].upper()
            yield Row(None) if word in _BIOMETRIC else attlog_row(line, zone)
        elif table == "operlog":
            yield operlog_row(line, zone, encoding)
        elif table == "errorlog":
            yield errorlog_row(line)
        elif table == "rtlog":
            yield rtlog_row(line, zone)
        elif table == "tabledata":
            yield tabledata_row(line, zone, encoding)
        else:
            yield Row(None)


def option_facts(
    text: bytes, separator: bytes = b","
) -> tuple[dict[str, str | int], dict[str, int]]:
    """``(facts, counts)`` of an options post, a registration or the answer to INFO."""
    facts: dict[str, str | int] = {}
    counts: dict[str, int] = {}
    for key, raw in pairs(text, separator).items():
        value = raw.strip(b" \r\n\t\0")[:128]
        if key in FACTS and value:
            facts[FACTS[key]] = decode_name(value, "auto")
        elif key in COUNTS and _digits(value, 9):
            counts[COUNTS[key]] = int(value)
    return facts, counts


def info_facts(info: str) -> tuple[dict[str, str | int], dict[str, int]]:
    """``(facts, counts)`` of the INFO list of a poll; its tail is optional."""
    parts = [part.strip() for part in info.split(",")]
    facts: dict[str, str | int] = {
        name: parts[place][:128]
        for place, name in INFO_FACTS.items()
        if place < len(parts) and parts[place]
    }
    counts = {
        name: int(parts[place])
        for place, name in INFO_COUNTS.items()
        if place < len(parts) and _digits(parts[place].encode(), 9)
    }
    return facts, counts


def command_results(body: bytes) -> list[CommandResult]:
    """Results of commands: ``ID=..&Return=..&CMD=..`` lines, or one value a line after ``ID=``."""
    found: list[dict[str, str]] = []
    for line in lines(body):
        text = line.decode("utf-8", "replace")[:512]
        together = "&" in text and "ID=" in text
        parts = text.split("&") if together else [text]
        if together or text.upper().startswith("ID="):
            if len(found) == 200:
                break
            found.append({})
        for part in parts:
            key, equals, value = part.partition("=")
            if equals and found and len(found[-1]) < 256:
                found[-1].setdefault(key.strip().lower(), value.strip())
    return [
        CommandResult(
            values["id"],
            int(values["return"])
            if re.fullmatch(r"-?[0-9]{1,6}", values.get("return", ""))
            else None,
            values,
        )
        for values in found
        if values.get("id")
    ]


def session_token(registry_code: str, serial: str, session: str) -> str:
    """The token an access terminal shows after its registration."""
    # The vendor's rule; the samples it prints do not follow it, and no terminal was at hand.
    return md5((registry_code + serial + session).encode(), usedforsecurity=False).hexdigest()


def version_of(text: str) -> tuple[int, ...]:
    """``2.4.1`` as numbers; empty where it is not a version."""
    return tuple(map(int, text.split("."))) if _VERSION.fullmatch(text) else ()


def zone_option(zone: ZoneInfo, now: Instant) -> int:
    """Whole hours east of UTC as hours, anything else as minutes."""
    offset = datetime.fromtimestamp(now / 1000, zone).utcoffset() or timedelta()
    minutes = int(offset.total_seconds()) // 60
    return minutes // 60 if minutes % 60 == 0 else minutes


def option_block(
    serial: str,
    stamps: Mapping[str, str | None],
    version: str,
    delay: int,
    time_zone: int,
) -> str:
    """The answer to an attendance terminal's hello.  ``stamps`` by table, none where not known."""
    told = {table: stamps.get(table) or "None" for table in ("ATTLOG", "OPERLOG", "ATTPHOTO")}
    block = [f"GET OPTION FROM: {serial}"]
    block += [f"{table}Stamp={stamp}" for table, stamp in told.items()]
    if version_of(version) < (2, 4, 0):
        # Old firmware knows the stamps by other names.
        block += [
            f"Stamp={told['ATTLOG']}",
            f"OpStamp={told['OPERLOG']}",
            f"PhotoStamp={told['ATTPHOTO']}",
        ]
    block += [
        "ErrorDelay=30",
        f"Delay={delay}",
        "TransTimes=00:00;14:05",
        "TransInterval=1",
        # No templates, no photographs.
        "TransFlag=TransData AttLog\tOpLog\tEnrollUser\tChgUser",
        f"TimeZone={time_zone}",
        "Realtime=1",
        "Encrypt=None",
        f"ServerVer={version}",
        f"PushProtVer={version}",
        "PushOptionsFlag=1",
        "SupportPing=1",
    ]
    return "\n".join(block) + "\n"


def access_options(version: str, delay: int, session: str) -> str:
    """Options for an access terminal.  What would make it send templates is left out."""
    return (
        f"ServerVersion={version}\nServerName=ADMS\nPushProtVer={version}\nErrorDelay=60\n"
        f"RequestDelay={delay}\nTransTimes=00:00;14:00\nTransInterval=1\n"
        f"TransTables=User Transaction\nRealtime=1\nSessionID={session}\nTimeoutSec=10\n"
    )


def scrub(text: bytes) -> bytes:
    """A row fit to be kept: no cards, passwords, citizen ID numbers or templates; at most 4 KiB."""
    if not _SUSPECT.search(text):
        return text[:RAW_LIMIT]
    if _CONTROL.search(text):
        return b""
    text = _SECRET_VALUE.sub(rb"\1=*", text[: 4 * RAW_LIMIT])
    text = _CITIZEN_ID_WITHIN.sub(lambda match: b"*" * len(match.group()), text)
    return _BASE64.sub(b"*", text)[:RAW_LIMIT]


_UTC = ZoneInfo("UTC")
_BIOMETRIC = frozenset(
    {b"FP", b"FACE", b"FVEIN", b"BIODATA", b"USERPIC", b"BIOPHOTO", b"PALM", b"IDCARD", b"USER"}
)
_RTLOG_KEPT = frozenset(
    {"time", "time_second", "pin", "sitecode", "linkid", "eventaddr", "event", "eventtype"}
    | {"inoutstatus", "inoutstate", "verifytype", "verified", "doorid", "index"}
)


def _attlog_raw(fields: list[bytes]) -> bytes:
    """The row without mask, temperatures, citizen ID number and place."""
    kept = [
        b"" if column in (7, 8, 9) or column > 10 else part for column, part in enumerate(fields)
    ]
    return scrub(b"\t".join(kept[:16]))


def _unreadable(line: bytes, reason: str, at: Instant | None = None) -> Row:
    return Row(Unreadable(reason), at, scrub(line))


def _number(fields: Sequence[bytes], column: int) -> int | None:
    if column < len(fields) and _NUMBER.fullmatch(fields[column]):
        return int(fields[column])
    return None


def _value(values: Mapping[str, bytes], *keys: str) -> int | None:
    """The first of these keys as a number.  Bit strings (new verify styles) have no number."""
    for key in keys:
        if _NUMBER.fullmatch(values.get(key, b"")):
            return int(values[key])
    return None


def _digits(text: bytes, most: int) -> bool:
    return 0 < len(text) <= most and text.isdigit()


def _shown(text: bytes) -> str:
    return scrub(text.strip())[:64].decode("utf-8", "replace")


def _about(person: bytes) -> str:
    return f"person={_shown(person)}" if person.strip(b"0") else ""


_REQUEST = re.compile(rb"(GET|POST|HEAD) (\S+) HTTP/1\.[01](?=\r?\n)")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,9})")


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """Readings in a capture: HTTP requests one after another, or the bare body of one upload.

    ``at`` is 0 where a row tells no time.
    """
    requests = list(_REQUEST.finditer(data))
    if not requests:
        word = data.lstrip(b"\xef\xbb\xbf\0\r\n ")[:12].split(b" ", 1)[0].upper()
        if b"time=" in data[:512] and b"event=" in data[:1024]:
            table = "rtlog"
        elif word in (b"TRANSACTION",) or data[:5] == b"user ":
            table = "tabledata"
        elif word == b"OPLOG" or word in _BIOMETRIC:
            table = "operlog"
        else:
            table = "attlog"
        yield from _readings(FAMILY, "", rows(table, data, zone))
        return
    ends_at = 0
    for place, request in enumerate(requests):
        if request.start() < ends_at:
            continue
        ends = requests[place + 1].start() if place + 1 < len(requests) else len(data)
        path, _, query_text = request.group(2).partition(b"?")
        try:
            query = parse_query(query_text)
        except ValueError:
            continue
        head, gap, body = _head(data, request.end(), ends)
        length = _LENGTH.search(head)
        if length is not None:
            starts = request.end() + len(head) + gap
            ends_at = min(starts + int(length.group(1)), len(data))
            body = data[starts:ends_at]
        serial = query.get("sn", "")
        name = endpoint(unquote(path.decode("latin-1")))
        table = query.get("table", "").lower()
        if name == "querydata":
            table = "tabledata"
        told: Iterable[Row] = ()
        if name == "cdata" and "pin" in query and "datetime" in query:
            told = [query_punch(query, zone)]
        elif name in ("cdata", "querydata") and request.group(1) == b"POST" and table in ROW_TABLES:
            told = rows(table, body, zone)
        yield from _readings(serial or FAMILY, serial, told)


def _head(data: bytes, start: int, end: int) -> tuple[bytes, int, bytes]:
    """``(rest of the head, length of the blank line, what follows)``."""
    match = re.compile(rb"\r?\n\r?\n").search(data, start, end)
    if match is None:
        return data[start:end], 0, b""
    return data[start : match.start()], len(match.group()), data[match.end() : end]


def _readings(device: str, serial: str, told: Iterable[Row]) -> Iterator[Reading]:
    for body, at, raw in told:
        if body is not None:
            yield Reading(device, at or 0, body, raw, serial)


def query_punch(query: Mapping[str, str], zone: ZoneInfo) -> Row:
    """A punch in the query of a GET, as some single-purpose clones send it."""
    columns = (query.get(key, "") for key in ("pin", "datetime", "status", "verify"))
    line = b"\t".join(re.sub(r"\s+", " ", column).encode() for column in columns)
    return attlog_row(line, zone)


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ZkPushOptions:
    """One terminal that pushes.

    ``serial`` is what it calls itself (SN); ``listen`` and ``port`` are where it finds us, the same
    for all terminals of one listener.  ``delay``: seconds between its polls.  ``comm_key_file``
    holds the key it shows when it says hello.  ``addresses``: it is believed from these alone.
    """

    serial: str
    listen: str = "127.0.0.1"
    port: int = 8088
    encoding: Literal["auto", "gbk", "utf-8"] = "auto"
    delay: int = 10
    comm_key_file: str = ""
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _SERIAL.fullmatch(self.serial):
            raise ValueError(f"serial {self.serial!r}: expected 4 to 32 letters, digits, _ or -")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: expected 1 to 65535")
        if not 2 <= self.delay <= 60:
            raise ValueError(f"delay {self.delay}: terminals take 2 to 60 seconds")
        for address in self.addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(f"addresses: {address!r} is not an IP address") from None

    def link(self) -> tuple[str, int]:
        return (self.listen, self.port)


# --------------------------------------------------------------------------------------------
# One terminal
# --------------------------------------------------------------------------------------------


class ClockEstimate:
    """How far a terminal's clock is off, from records that came as they happened.

    Between the event and its arrival only time can pass, so the smallest of the last 50 delays is
    nearest to the truth.  A clock set back makes all delays large: two of them that agree begin
    anew, one alone may have been held up on the way.
    """

    def __init__(self) -> None:
        self._delays: deque[int] = deque(maxlen=50)
        self._odd: int | None = None
        self._told: tuple[int, Instant] | None = None

    def add(self, delay: int) -> None:
        """``delay``: received minus device time, in ms."""
        if not self._delays or delay <= min(self._delays) + MINUTE:
            self._delays.append(delay)
            self._odd = None
        elif self._odd is not None and abs(delay - self._odd) <= MINUTE // 2:
            self._delays.clear()
            self._delays.extend((self._odd, delay))
            self._odd = None
        else:
            self._odd = delay

    def worth_telling(self, now: Instant) -> int | None:
        """The offset (device clock minus ours, ms) if it is new, moved by 5 s or is an hour old."""
        if not self._delays:
            return None
        offset = -min(self._delays)
        if self._told is not None:
            told, at = self._told
            if abs(offset - told) < 5_000 and now - at < HOUR:
                return None
        return offset

    def told(self, offset: int, now: Instant) -> None:
        self._told = (offset, now)


@dataclass
class Command:
    """A question to a terminal: asked again after ten polls without an answer, three times."""

    id: str
    text: str
    polls: int = 0
    tries: int = 0


@dataclass
class Terminal:
    """What is known of one terminal while the listener runs."""

    device: Device
    last_contact: Instant | None = None
    since: Instant = 0
    """Start of the present contact without a gap or a failed upload."""
    lost: bool = False
    address: str = ""
    address_seen: Instant = 0
    address_pairs: set[tuple[str, str]] = field(default_factory=set)
    key: str | None = ""
    """What it must show when it says hello; none where the key's file could not be read."""
    key_refused: bool = False
    problem: str = ""
    """Why its last requests were refused."""
    clock: ClockEstimate = field(default_factory=ClockEstimate)
    newest: Instant = 0
    seen_live: deque[tuple[str, Instant, int | None]] = field(
        default_factory=lambda: deque(maxlen=64)
    )
    last_upload: Instant | None = None
    new_rows: bool = False
    complete_at: Instant | None = None
    alarms: frozenset[tuple[str, int]] = frozenset()
    users: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str | int] = field(default_factory=dict)
    dialect: str = "att"
    session: str = ""
    commands: list[Command] = field(default_factory=list)
    command_number: int = 0
    users_asked: Instant | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        return self.device.id

    @property
    def options(self) -> ZkPushOptions:
        options: ZkPushOptions = self.device.options
        return options

    @property
    def patience(self) -> int:
        """ms without a request after which it counts as lost."""
        return max(3 * self.options.delay * 1000, GAP)

    def reading(self, body: Body, at: Instant, raw: bytes = b"") -> Reading:
        return Reading(self.id, at, body, raw, self.options.serial)

    def settled(self, now: Instant) -> bool:
        """In contact without a gap or a failed upload for so long that nothing old is left."""
        return self.last_contact is not None and now - self.since >= SETTLED

    def interrupted(self, now: Instant) -> None:
        """An upload failed, so the terminal holds rows back: what comes next may be old."""
        self.since = now

    def ask(self, text: str, now: Instant) -> None:
        if any(command.text == text for command in self.commands):
            return
        self.command_number = max(self.command_number + 1, now // 1000)
        self.commands.append(Command(f"{self.command_number:X}", text))

    def ask_attendance(self, now: Instant, zone: ZoneInfo) -> None:
        """Have the last day's punches sent again: after a long loss of contact, to be sure."""
        starts, ends = (
            f"{datetime.fromtimestamp(at / 1000, zone):%Y-%m-%d %H:%M:%S}"
            for at in (now - DAY, now)
        )
        self.ask(f"{_QUERY_PUNCHES} StartTime={starts}\tEndTime={ends}", now)

    def awaits_punches(self) -> bool:
        return any(command.text.startswith(_QUERY_PUNCHES) for command in self.commands)

    def due_commands(self, now: Instant) -> str:
        """What to answer a poll: commands, or ``OK``."""
        answer: list[str] = []
        for command in list(self.commands):
            if command.tries and command.polls < COMMAND_POLLS:
                command.polls += 1
                continue
            if command.tries == COMMAND_TRIES:
                self.commands.remove(command)
                self.counts["commands_unanswered"] += 1
                continue
            if len(answer) < 10:
                command.tries += 1
                command.polls = 0
                if command.text.startswith(_QUERY_PUNCHES):
                    self.interrupted(now)
                answer.append(f"C:{command.id}:{command.text}\n")
        return "".join(answer) or "OK"


_QUERY_PUNCHES = "DATA QUERY ATTLOG"
_QUERY_USERS = "DATA QUERY USERINFO"


# --------------------------------------------------------------------------------------------
# The listener
# --------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The request is answered with this status and an empty body."""

    def __init__(self, status: int) -> None:
        self.status = status


class Listener:
    """The ASGI application: terminals' requests to readings, readings to answers."""

    def __init__(self, terminals: Iterable[Terminal], context: Context) -> None:
        self.terminals = {terminal.options.serial: terminal for terminal in terminals}
        self._context = context
        self._receiving = 0
        self._counts: Counter[str] = Counter()
        self._strangers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._published: Instant = 0
        self._unpublished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, text = 200, await self._answer(scope, receive)
        except _Refused as refused:
            status, text = refused.status, ""
        except Gone:
            return
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(body)).encode()),
            # Terminals set their clocks by it.
            (b"date", formatdate(self._context.now() // 1000, usegmt=True).encode()),
        ]
        if status != 200:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> str:
        name = endpoint(scope["path"])
        method = scope["method"]
        if name is None:
            raise self._refuse("foreign_paths", 404)
        if method not in ("GET", "POST", "HEAD"):
            raise self._refuse("foreign_methods", 405)
        try:
            query = parse_query(scope["query_string"])
        except ValueError:
            raise self._refuse("bad_queries", 400) from None
        serial = query.get("sn", "")
        if name not in ENDPOINTS and not serial and method != "POST":
            return "OK"
        if not _SERIAL.fullmatch(serial):
            raise self._refuse("bad_serials", 400)
        client = scope.get("client")
        address = client[0].removeprefix("::ffff:") if client else ""
        terminal = self.terminals.get(serial)
        if terminal is None:
            self._stranger(serial, address)
            raise _Refused(403)
        allowed = terminal.options.addresses
        if allowed and address not in allowed:
            self._note(terminal, f"a request came from {address}, which is not in addresses")
            raise _Refused(403)

        began = self._context.now()
        self._check_key(terminal, name, query)
        await self._heard(terminal, address, began)
        headers = _headers(scope)
        self._check_token(terminal, headers)
        body = b""
        if method == "POST":
            with self._uploading(terminal):
                async with self._body(terminal, headers, receive) as body:
                    return await self._post(terminal, name, query, body, began)
        return await self._get(terminal, name, query, began)

    # -- who is there

    def _refuse(self, what: str, status: int) -> _Refused:
        self._counts[what] += 1
        self._unpublished = True
        return _Refused(status)

    def count_bad_request(self) -> None:
        self._counts["bad_requests"] += 1
        self._unpublished = True

    def _stranger(self, serial: str, address: str) -> None:
        now = self._context.now()
        seen = self._strangers.pop(serial, None)
        if seen is None:
            seen = {"serial": serial, "first_seen": now, "requests": 0}
            if len(self._strangers) == STRANGERS_LIMIT:
                self._strangers.popitem(last=False)
        seen |= {"address": address, "last_seen": now, "requests": seen["requests"] + 1}
        self._strangers[serial] = seen
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

    def _note(self, terminal: Terminal, error: str) -> None:
        terminal.problem = error
        terminal.counts["refused_requests"] += 1
        self._context.note(
            terminal.id, last_error=error, refused_requests=terminal.counts["refused_requests"]
        )

    def _check_key(self, terminal: Terminal, name: str, query: Mapping[str, str]) -> None:
        """Only the hello shows the key; a wrong one shuts the terminal out until the next hello."""
        if terminal.key is None:
            raise _Refused(403)
        if terminal.key and name == "cdata" and "options" in query:
            shown = query.get("pushcommkey", "")
            terminal.key_refused = not hmac.compare_digest(shown.encode(), terminal.key.encode())
        if terminal.key_refused:
            self._note(terminal, "the terminal shows a wrong communication key")
            raise _Refused(403)

    async def _heard(self, terminal: Terminal, address: str, now: Instant) -> None:
        context = self._context
        before = terminal.last_contact
        if before is None:
            stored = context.mark(terminal.id, "complete")
            before = int(stored) if stored else None
            terminal.since = now
            if context.mark(terminal.id, "registry"):
                terminal.dialect = "acc"
        elif now - before > GAP:
            terminal.since = now
        if before is not None and now - before > HOUR and terminal.dialect == "att":
            terminal.ask_attendance(now, context.zone)
        terminal.last_contact = now
        terminal.lost = False
        terminal.problem = ""
        context.contact(terminal.id)

        last, terminal.address = terminal.address, address
        recently = now - terminal.address_seen <= 5 * MINUTE
        terminal.address_seen = now
        pair = (min(last, address), max(last, address))
        if last and last != address and recently and pair not in terminal.address_pairs:
            if len(terminal.address_pairs) < 100:
                terminal.address_pairs.add(pair)
            context.note(terminal.id, addresses=list(pair))
            event = DeviceEvent("two_addresses", detail=f"{pair[0]} {pair[1]}")
            await self._emit([terminal.reading(event, now)])

    def _check_token(self, terminal: Terminal, headers: Mapping[bytes, bytes]) -> None:
        """A wrong token is counted, not refused: restarts on either side make it wrong."""
        cookie = headers.get(b"cookie", b"").decode("latin-1")
        code = self._context.mark(terminal.id, "registry")
        if not cookie or not code or not terminal.session:
            return
        token = session_token(code, terminal.options.serial, terminal.session)
        if token not in re.split(r"[=,; ]+", cookie.lower()):
            terminal.counts["token_mismatches"] += 1
            self._context.note(terminal.id, token_mismatches=terminal.counts["token_mismatches"])

    # -- bodies

    @contextmanager
    def _uploading(self, terminal: Terminal) -> Iterator[None]:
        """Whatever keeps an upload from being acknowledged, the terminal will send it again."""
        try:
            yield
        except (Gone, _Refused):
            terminal.interrupted(self._context.now())
            raise

    @asynccontextmanager
    async def _body(
        self, terminal: Terminal, headers: Mapping[bytes, bytes], receive: Receive
    ) -> AsyncIterator[bytes]:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_LIMIT:
            raise _Refused(413)
        body = bytearray()
        try:
            async for chunk in http_listener.chunks(receive, BODY_LIMIT, BODY_SECONDS):
                self._receiving += len(chunk)
                body += chunk
                if self._receiving > BODIES_LIMIT:
                    raise _Refused(503)
                terminal.last_contact = self._context.now()
                self._context.contact(terminal.id)
            yield bytes(body)
        except http_listener.Slow:
            raise _Refused(408) from None
        except http_listener.TooLong:
            raise _Refused(413) from None
        finally:
            self._receiving -= len(body)

    async def _emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> None:
        try:
            await self._context.emit(readings, marks)
        except OSError:
            raise _Refused(503) from None

    # -- GET

    async def _get(
        self, terminal: Terminal, name: str, query: Mapping[str, str], now: Instant
    ) -> str:
        if name == "cdata":
            if "pin" in query and "datetime" in query:
                with self._uploading(terminal):
                    row = query_punch(query, self._context.zone)
                    return f"OK: {await self._store(terminal, [row], now)}"
            if "options" in query or "table" not in query:
                return await self._hello(terminal, query, now)
        elif name == "getrequest":
            if "info" in query:
                facts, counts = info_facts(query["info"])
                if "firmware" in terminal.facts:
                    # The options name it in fuller words, which must not change to and fro.
                    facts.pop("firmware", None)
                await self._learn(terminal, facts, counts)
            await self._complete(terminal, now)
            return self._commands(terminal, now)
        elif name == "ping":
            await self._complete(terminal, now)
        elif name == "exchange":
            return await self._exchange(terminal, now)
        elif name == "push":
            return self._access_options(terminal)
        return "OK"

    async def _hello(self, terminal: Terminal, query: Mapping[str, str], now: Instant) -> str:
        context = self._context
        version = version_of(query.get("pushver", ""))
        kind = query.get("devicetype", "").lower()
        access = kind == "acc" or (not kind and version >= (3,))
        terminal.dialect = "acc" if access else "att"
        facts: dict[str, str | int] = {}
        if version:
            facts["push_version"] = query["pushver"]
        if _digits(query.get("language", "").encode(), 8):
            facts["language"] = query["language"]
        await self._learn(terminal, facts, {})
        if access:
            code = context.mark(terminal.id, "registry")
            if code is None:
                return "OK"
            return f"registry=ok\nRegistryCode={code}\n{self._access_options(terminal)}"
        terminal.ask("INFO", now)
        # Versions from 2.4.0 on may encrypt; a terminal that insisted is told an older one.
        newest = (2, 3, 0) if context.mark(terminal.id, "plain") else (2, 4, 1)
        agreed = min(version or (2, 2, 14), newest)
        stamps = {
            table: context.mark(terminal.id, f"{table}Stamp")
            for table in ("ATTLOG", "OPERLOG", "ATTPHOTO")
        }
        return option_block(
            terminal.options.serial,
            stamps,
            ".".join(map(str, agreed)),
            terminal.options.delay,
            zone_option(context.zone, now),
        )

    def _access_options(self, terminal: Terminal) -> str:
        told = version_of(str(terminal.facts.get("push_version", "")))
        newest = (3, 0, 1) if self._context.mark(terminal.id, "plain") else (3, 1, 2)
        agreed = min(told, newest) if told >= (3,) else newest
        if not terminal.session:
            terminal.session = secrets.token_hex(8).upper()
        return access_options(".".join(map(str, agreed)), terminal.options.delay, terminal.session)

    async def _exchange(self, terminal: Terminal, now: Instant) -> str:
        """How the key is derived is not published: ask for an older, plain version instead."""
        event = "encryption_asked"
        if self._context.mark(terminal.id, "plain"):
            event = "encryption_insisted"
            self._context.note(terminal.id, last_error="the terminal insists on encryption")
        if terminal.counts[event] == 0:
            marks = {(terminal.id, "plain"): "1"}
            await self._emit([terminal.reading(DeviceEvent(event), now)], marks)
        terminal.counts[event] += 1
        raise _Refused(404)

    async def _complete(self, terminal: Terminal, now: Instant) -> None:
        """A heartbeat of a terminal that has nothing more to send proves its log complete."""
        quiet = terminal.last_upload is None or now - terminal.last_upload >= QUIET
        if not terminal.settled(now) or not quiet or terminal.awaits_punches():
            return
        last = terminal.complete_at
        if terminal.new_rows or last is None or now - last >= HOUR:
            terminal.complete_at, terminal.new_rows = now, False
            try:
                marks = {(terminal.id, "complete"): str(now)}
                await self._emit([terminal.reading(LogComplete(), now)], marks)
            except _Refused:
                terminal.complete_at = None
                raise

    def _commands(self, terminal: Terminal, now: Instant) -> str:
        if terminal.dialect == "att" and (
            terminal.users_asked is None or now - terminal.users_asked >= DAY
        ):
            terminal.users_asked = now
            terminal.ask(_QUERY_USERS, now)
        unanswered = terminal.counts["commands_unanswered"]
        answer = terminal.due_commands(now)
        if terminal.counts["commands_unanswered"] != unanswered:
            self._context.note(terminal.id, commands_unanswered=unanswered + 1)
        return answer

    # -- POST

    async def _post(
        self, terminal: Terminal, name: str, query: Mapping[str, str], body: bytes, began: Instant
    ) -> str:
        if name in ("cdata", "querydata") and body.lstrip()[:1] == b"{":
            # JSON on the same path is another make of terminal.
            self._note(terminal, "a JSON body: not a ZKTeco terminal")
            raise _Refused(400)
        if name == "cdata":
            return await self._upload(terminal, query, body, began)
        if name == "querydata":
            if query.get("datafmt") == "3":
                terminal.counts["packed_bodies"] += 1
            else:
                told = rows("tabledata", body, self._context.zone, terminal.options.encoding)
                await self._store(terminal, told, began)
            return "OK"
        if name == "devicecmd":
            return await self._results(terminal, body)
        if name == "registry":
            return await self._register(terminal, body)
        if name == "push":
            return self._access_options(terminal)
        if name == "exchange":
            return await self._exchange(terminal, began)
        if name in ("getrequest", "ping"):
            return await self._get(terminal, name, query, began)
        terminal.counts["unknown_paths"] += 1
        return "OK"

    async def _upload(
        self, terminal: Terminal, query: Mapping[str, str], body: bytes, began: Instant
    ) -> str:
        zone, encoding = self._context.zone, terminal.options.encoding
        if query.get("authtype", "").lower() == "device":
            # It asks us to let somebody in.  That is not for a monitor to decide.
            echo = body[:RAW_LIMIT].decode("latin-1").encode("ascii", "replace").decode()
            return f"AUTH=TIMEOUT\n{echo}"
        table = query.get("table", "").lower()
        tablename = query.get("tablename", "").lower()
        if table == "options":
            await self._learn(terminal, *option_facts(body))
            return "OK"
        if table == "rtstate":
            await self._door_states(terminal, body, began)
            return "OK"
        if table in COUNTED_TABLES:
            received = sum(1 for _ in lines(body))
            terminal.counts["dropped_rows"] += received
            return f"OK: {received}"
        if table not in ROW_TABLES:
            terminal.counts["dropped_uploads" if table == "attphoto" else "unknown_tables"] += 1
            return "OK"
        marks = {}
        stamp = query.get("stamp", query.get("opstamp", ""))
        if table in ("attlog", "operlog") and _STAMP.fullmatch(stamp):
            marks[(terminal.id, f"{table.upper()}Stamp")] = stamp
        received = await self._store(terminal, rows(table, body, zone, encoding), began, marks)
        if table == "tabledata":
            return f"{tablename}={received}" if _TABLE.fullmatch(tablename) else "OK"
        return "OK" if table == "rtlog" else f"OK: {received}"

    async def _store(
        self,
        terminal: Terminal,
        told: Iterable[Row],
        began: Instant,
        marks: Mapping[tuple[str, str], str] | None = None,
    ) -> int:
        """Journal rows; how many were received.  The marks go with the last of them."""
        now = self._context.now()
        remaining = iter(told)
        batch = list(islice(remaining, BATCH))
        live = len(batch) <= LIVE_ROWS and terminal.settled(began)
        received = unreadable = 0
        while True:
            following = list(islice(remaining, BATCH))
            received += len(batch)
            newest = terminal.newest
            users: dict[str, int] = {}
            readings: list[Reading] = []
            seen: list[tuple[str, Instant, int | None]] = []
            for body, at, raw in batch:
                if body is None:
                    terminal.counts["dropped_rows"] += 1
                    continue
                if type(body) is Punch and at is not None:
                    key = (body.person, at, body.verify)
                    if live and at >= newest and key not in terminal.seen_live:
                        terminal.clock.add(now - at)
                        seen.append(key)
                        body = msgspec.structs.replace(body, live=True)
                    # One date far ahead must not make everything after it look old.
                    if newest < at <= now + AHEAD:
                        newest = at
                elif type(body) is TerminalUser:
                    told_user = hash((body.name, body.privilege))
                    if terminal.users.get(body.person) == told_user:
                        continue
                    users[body.person] = told_user
                elif type(body) is Unreadable:
                    unreadable += 1
                    if unreadable > UNREADABLE_LIMIT:
                        continue
                    at = at or 0  # the same row sent again is the same fact
                readings.append(terminal.reading(body, now if at is None else at, raw))
            offset = terminal.clock.worth_telling(now) if seen else None
            if offset is not None:
                readings.insert(0, terminal.reading(ClockCheck("live"), now + offset))
            last_marks = None if following else self._new_marks(marks)
            if readings or last_marks:
                await self._emit(readings, last_marks)
            terminal.newest = max(terminal.newest, newest)
            terminal.seen_live.extend(seen)
            if len(terminal.users) < 100_000:
                terminal.users |= users
            if offset is not None:
                terminal.clock.told(offset, now)
            if not following:
                break
            batch = following
        if unreadable:
            terminal.counts["decode_errors"] += unreadable
            self._context.note(terminal.id, decode_errors=terminal.counts["decode_errors"])
        terminal.last_upload = self._context.now()
        terminal.new_rows = terminal.new_rows or received > 0
        return received

    def _new_marks(
        self, marks: Mapping[tuple[str, str], str] | None
    ) -> dict[tuple[str, str], str] | None:
        if not marks:
            return None
        return {
            (device, name): value
            for (device, name), value in marks.items()
            if self._context.mark(device, name) != value
        }

    async def _door_states(self, terminal: Terminal, body: bytes, began: Instant) -> None:
        now = self._context.now()
        live = terminal.settled(began)
        alarms = terminal.alarms
        readings: list[Reading] = []
        for line in islice(lines(body), BATCH):
            try:
                state = rtstate_row(line, self._context.zone)
            except ValueError as error:
                terminal.counts["decode_errors"] += 1
                self._context.note(terminal.id, decode_errors=terminal.counts["decode_errors"])
                unreadable = Unreadable(f"rtstate row: {error}")
                if len(readings) < UNREADABLE_LIMIT:
                    readings.append(terminal.reading(unreadable, 0, scrub(line)))
                continue
            for name, door in sorted(state.alarms - alarms):
                event = DeviceEvent(name, detail=f"door={door}")
                readings.append(terminal.reading(event, state.at, state.raw))
            alarms = state.alarms
            if live:
                terminal.clock.add(now - state.at)
        offset = terminal.clock.worth_telling(now) if live else None
        if offset is not None:
            readings.insert(0, terminal.reading(ClockCheck("live"), now + offset))
        if readings:
            await self._emit(readings)
        terminal.alarms = alarms
        if offset is not None:
            terminal.clock.told(offset, now)

    async def _learn(
        self, terminal: Terminal, facts: Mapping[str, str | int], counts: Mapping[str, int]
    ) -> None:
        """Journal what the terminal says of itself where that changed; counts are only noted."""
        context = self._context
        if not terminal.facts:
            stored = context.mark(terminal.id, "facts")
            if stored is not None:
                terminal.facts = msgspec.json.decode(stored, type=dict[str, str | int])
        if counts:
            context.note(terminal.id, **counts)
        merged = terminal.facts | dict(facts)
        if merged == terminal.facts:
            return
        now = context.now()
        readings = [terminal.reading(DeviceInfo(merged), now)]
        old, new = terminal.facts.get("mac"), merged.get("mac")
        if old is not None and old != new:
            event = DeviceEvent("mac_changed", detail=f"{old} {new}")
            readings.append(terminal.reading(event, now))
        marks = {(terminal.id, "facts"): msgspec.json.encode(merged).decode()}
        await self._emit(readings, marks)
        terminal.facts = merged
        if "firmware" in merged:
            context.note(terminal.id, firmware=merged["firmware"])

    async def _results(self, terminal: Terminal, body: bytes) -> str:
        waiting = {command.id: command for command in terminal.commands if command.tries}
        for result in command_results(body):
            command = waiting.pop(result.id, None)
            if command is None:
                # Told twice, or the answer to a question of another server.
                terminal.counts["unknown_results"] += 1
                continue
            terminal.commands.remove(command)
            if command.text == "INFO":
                text = "\n".join(f"{key}={value}" for key, value in result.values.items())
                await self._learn(terminal, *option_facts(text.encode(), b"\n"))
            if result.code is not None and result.code < 0:
                self._context.note(
                    terminal.id, last_error=f"{command.text.split(' S')[0]} answered {result.code}"
                )
        return "OK"

    async def _register(self, terminal: Terminal, body: bytes) -> str:
        """The same code for the same terminal for ever: it registers at every connection."""
        terminal.dialect = "acc"
        await self._learn(terminal, *option_facts(body))
        code = self._context.mark(terminal.id, "registry")
        if code is None:
            code = secrets.token_hex(8).upper()
            await self._emit([], {(terminal.id, "registry"): code})
        return f"RegistryCode={code}"


def _headers(scope: Scope) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    return headers


class ZkPush:
    """One listening address and the terminals that push to it."""

    options = ZkPushOptions
    attendance = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self.address: tuple[str, int] | None = None
        """Where it really listens, once it does."""
        self._devices = tuple(devices)
        serials = Counter(device.options.serial for device in self._devices)
        for serial, times in serials.items():
            if times > 1:
                raise ValueError(f"serial {serial} is given to {times} devices")

    async def run(self, context: Context) -> None:
        terminals = [Terminal(device) for device in self._devices]
        for terminal in terminals:
            self._read_key(terminal, context)
        listener = Listener(terminals, context)
        listening = http_listener.listen(*self._devices[0].options.link())
        self.address = listening.getsockname()[:2]
        try:
            await http_listener.serve(
                listener,
                listening,
                self._watch(listener, context),
                limits=LIMITS,
                refused=listener.count_bad_request,
            )
        finally:
            self.address = None

    def _read_key(self, terminal: Terminal, context: Context) -> None:
        path = terminal.options.comm_key_file
        if not path:
            return
        try:
            terminal.key = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            # Closed rather than open; the terminal keeps its punches meanwhile.
            terminal.key = None
            terminal.problem = f"cannot read comm_key_file {path}: {error}"
            context.note(terminal.id, last_error=terminal.problem)

    async def _watch(self, listener: Listener, context: Context) -> None:
        """Notices terminals that fell silent.  A closed connection means nothing: many boxes open
        one for each request."""
        began = context.now()
        while True:
            await context.sleep(5)
            now = context.now()
            for terminal in listener.terminals.values():
                last = began if terminal.last_contact is None else terminal.last_contact
                if not terminal.lost and now - last > terminal.patience:
                    terminal.lost = True
                    reason = f"no request for {terminal.patience // 1000} s"
                    context.lost(terminal.id, terminal.problem or reason)
            listener.publish()


DRIVER = ZkPush
