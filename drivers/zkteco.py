"""ZKTeco terminals (中控 / 熵基, and the many boxes built on the same boards) asked for their log
over TCP or UDP port 4370.  The terminal is the server.

Everything is little-endian.  A packet, which is also a whole UDP datagram::

    0   u16  command, or code of the answer
    2   u16  checksum: complement of the ones'-complement sum of all 16-bit words
    4   u16  session, as given by the answer to CONNECT; code of the event in an event
    6   u16  reply id: counted up by us from 0 to 65534, echoed by the answer; 0 in events
    8   ...  data

On TCP each packet follows ``50 50 82 7d`` and its length as u32.

An attendance record by its size::

    8         u16 uid, u8 verify, u32 time, u8 state
    8alt      u16 uid, u8 verify, u8 state, u32 time             (MA300 class)
    16        u32 user id, u32 time, u8 verify, u8 state, 2 bytes, u32 work code
    40, more  u16 uid, 24 bytes user id, u8 verify, u32 time, u8 state, 8 bytes or more

A live event by its length::

    10        u16 id, u8 verify, u8 state, year - 2000, month, day, hour, minute, second
    12, 14    the same with a u32 id, or the form of 10 with 4 bytes more
    32, more  the same with 24 bytes of user id; at 36 a u32 work code follows

A user by its size, without what is never looked at (password, card, groups)::

    28        u16 uid, u8 privilege, 8 bytes name at 8, u32 user id at 24
    72        u16 uid, u8 privilege, 24 bytes name at 11, 24 bytes user id at 48

Log times count seconds in a calendar whose months all have 31 days, from 2000-01-01, in local wall
time.  This driver only ever reads, but for the clock where the settings ask for that; commands
that change, clear, open or disable something do not exist in it.  A terminal that is disabled
while it is read keeps refusing punches when its reader dies.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from drivers.base import BadFrame, Context, Device, DeviceLost, DeviceRefused
from drivers.text import decode_name, wall_instant
from rules.model import (
    DAY,
    HOUR,
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

FAMILY = "zkteco"

CONNECT, EXIT, AUTH = 1000, 1001, 1102
GET_VERSION, GET_OPTION, GET_FREE_SIZES = 1100, 11, 50
GET_TIME, SET_TIME, REFRESH = 201, 202, 1013
REGISTER, EVENT = 500, 500
READ_LOG, READ_USERS = 13, 9
PREPARE_BUFFER, READ_BUFFER, FREE_BUFFER = 1503, 1504, 1502
PREPARE_DATA, DATA = 1500, 1501
ACK_OK, ACK_DATA, ACK_RETRY, ACK_REPEAT, ACK_UNAUTH = 2000, 2002, 2003, 2004, 2005

MAGIC = b"\x50\x50\x82\x7d"
LONGEST_PACKET = 1 << 20
LONGEST_EVENT = 256
LARGEST_BODY = 1 << 26
"""A log of 1,000,000 records of 49 bytes fits; more is not believed."""
OFF_BY_ONE = "checksum_off_by_one"


# --------------------------------------------------------------------------------------------
# Packets
# --------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    command: int
    session: int
    reply_id: int
    data: bytes


def checksum(packet: bytes) -> int:
    """Of a whole packet whose checksum field is zero."""
    # 2**16 is 1 modulo 65535, so the remainder of the whole number is the sum of its words with
    # the carries folded in, odd byte and all; only 0 and 65535 need telling apart.
    number = int.from_bytes(packet, "little")
    return ~(number % 0xFFFF or (0xFFFF if number else 0)) & 0xFFFF


def pack(command: int, session: int, reply_id: int, data: bytes = b"") -> bytes:
    blank = struct.pack("<HHHH", command, 0, session, reply_id) + data
    return blank[:2] + struct.pack("<H", checksum(blank)) + blank[4:]


def wrap(packet: bytes) -> bytes:
    """The packet as it goes over TCP."""
    return MAGIC + struct.pack("<I", len(packet)) + packet


def unpack(packet: bytes) -> tuple[Packet | None, str]:
    """The packet, or none if it is damaged, and a word for what is wrong with it, or nothing.

    A checksum off by exactly one is accepted, since clones are known to compute it so.
    """
    if len(packet) < 8:
        return None, "short_packet"
    number = int.from_bytes(packet, "little")
    rest = number % 0xFFFF
    if rest not in (0, 1, 0xFFFE) or not number:
        return None, "wrong_checksum"
    command, _, session, reply_id = struct.unpack_from("<HHHH", packet)
    return Packet(command, session, reply_id, packet[8:]), OFF_BY_ONE if rest else ""


def split(buffer: bytes | bytearray) -> tuple[list[Packet], bytes | bytearray, list[str]]:
    """Good packets in a TCP stream, the bytes to be kept for more, and a word for each problem.

    ``out_of_step`` says that bytes were dropped up to the next mark of a packet.  Never raises;
    what is kept is never longer than one packet.
    """
    packets: list[Packet] = []
    problems: list[str] = []
    at = 0
    while len(buffer) - at >= 8:
        length = int.from_bytes(buffer[at + 4 : at + 8], "little")
        if buffer[at : at + 4] != MAGIC or not 8 <= length <= LONGEST_PACKET:
            problems.append("out_of_step")
            found = buffer.find(MAGIC, at + 1)
            if found < 0:
                found = len(buffer) - next(n for n in (3, 2, 1, 0) if buffer.endswith(MAGIC[:n]))
            at = found
            continue
        end = at + 8 + length
        if end > len(buffer):
            break
        packet, problem = unpack(bytes(buffer[at + 8 : end]))
        if packet:
            packets.append(packet)
        if problem:
            problems.append(problem)
        at = end
    return packets, buffer[at:] if at else buffer, problems


def scramble(key: int, session: int, ticks: int = 50) -> bytes:
    """The comm key as AUTH sends it: bits reversed, session added, mixed with ZKSO and ticks."""
    number = (int(f"{key & 0xFFFFFFFF:032b}"[::-1], 2) + session) & 0xFFFFFFFF
    _, b, c, d = (x ^ y for x, y in zip(number.to_bytes(4, "little"), b"ZKSO", strict=True))
    ticks &= 0xFF
    return bytes((c ^ ticks, d ^ ticks, ticks, b ^ ticks))


# --------------------------------------------------------------------------------------------
# Times, options, counters
# --------------------------------------------------------------------------------------------


def time_value(wall: datetime) -> int:
    """A wall time as the terminal counts it."""
    days = (wall.year % 100) * 372 + (wall.month - 1) * 31 + wall.day - 1
    return days * 86_400 + wall.hour * 3600 + wall.minute * 60 + wall.second


def instant_of(value: int, zone: ZoneInfo) -> Instant:
    """Raises ``ValueError`` for a day that is in no calendar, and after 2099."""
    days, seconds = divmod(value, 86_400)
    years, days = divmod(days, 372)
    if years > 99:
        raise ValueError(f"year {2000 + years} is out of range")
    return wall_instant(
        2000 + years,
        days // 31 + 1,
        days % 31 + 1,
        seconds // 3600,
        seconds // 60 % 60,
        seconds % 60,
        zone,
    )


class _DayStarts(dict[int, Instant | None]):
    """For a day as the terminal counts days: the instant less the milliseconds counted, or none
    where a time of that day needs the long way (no such day, one on which the zone's offset
    changes, or the very first, which may be no time at all)."""

    def __init__(self, zone: ZoneInfo) -> None:
        super().__init__({0: None})
        self._zone = zone

    def __missing__(self, day: int) -> Instant | None:
        base: Instant | None = None
        first = day * 86_400
        try:
            midnight = instant_of(first, self._zone)
            if instant_of(first + 86_399, self._zone) - midnight == DAY - 1000:
                base = midnight - first * 1000
        except ValueError:
            pass
        self[day] = base
        return base


def free_sizes(data: bytes) -> dict[str, int]:
    """The counters in an answer of any length; those it is too short for, or negative, are left
    out."""
    places = {
        "users": 16,
        "records": 32,
        "user_capacity": 60,
        "record_capacity": 64,
        "records_free": 76,
    }
    return {
        name: value
        for name, at in places.items()
        if at + 4 <= len(data) and (value := int.from_bytes(data[at : at + 4], "little")) < 1 << 31
    }


def option_value(data: bytes) -> bytes:
    """The value in ``name=value``; some firmware writes another ``=`` before it."""
    return data.partition(b"\0")[0].partition(b"=")[2].lstrip(b"=").strip()


def _plain(raw: bytes) -> str:
    text = raw.partition(b"\0")[0][:64].decode("ascii", "replace")
    return "".join(filter(str.isprintable, text)).strip()


# --------------------------------------------------------------------------------------------
# The attendance log
# --------------------------------------------------------------------------------------------

VERIFY_CODES = frozenset((*range(30), 200))
STATES = frozenset((*range(6), 15, 255))


class Layout(NamedTuple):
    """A record's shape.  ``struct`` gives what stands before the time, the time, and what stands
    behind it; ``told`` what the two ends say."""

    name: str
    size: int
    struct: struct.Struct
    told: Callable[[bytes, bytes], Told]


class Told(NamedTuple):
    """``who`` is the field of a user id, or a number: a user id, in short records a uid."""

    who: bytes | int
    verify: int
    state: int
    work_code: int = 0


def _told_by_8(before: bytes, behind: bytes) -> Told:
    codes = before + behind
    return Told(int.from_bytes(codes[:2], "little"), codes[2], codes[3])


def _told_by_16(before: bytes, behind: bytes) -> Told:
    who, work_code = (int.from_bytes(field, "little") for field in (before, behind[4:8]))
    return Told(who, behind[0], behind[1], work_code)


def _told_by_40(before: bytes, behind: bytes) -> Told:
    return Told(before[:24], before[24], behind[0])


def _wide(size: int) -> Layout:
    return Layout(str(size), size, struct.Struct(f"<2x25sI1s{size - 32}x"), _told_by_40)


LAYOUTS = {
    "49": _wide(49),
    "40": _wide(40),
    "16": Layout("16", 16, struct.Struct("<4sI8s"), _told_by_16),
    "8": Layout("8", 8, struct.Struct("<3sI1s"), _told_by_8),
    "8alt": Layout("8alt", 8, struct.Struct("<4sI0s"), _told_by_8),
}
WIDEST = 256
LONGEST_RAW = 49


def records_in(body: bytes) -> tuple[bytes, int, int]:
    """What a bulk answer holds behind its u32: the records, the count if the u32 was one (else 0),
    and the bytes announced there but absent."""
    announced = int.from_bytes(body[:4], "little")
    records = body[4:]
    if announced == len(records):
        return records, 0, 0
    if announced and any(announced * size == len(records) for size in (8, 16, 40, 49)):
        return records, announced, 0
    return records[:announced], 0, max(0, announced - len(records))


def choose_layout(
    records: bytes, counts: Iterable[int], latest: int, configured: str = "auto"
) -> Layout:
    """The layout that makes sense of the records.

    ``counts`` are what the terminal says it holds (0 for unknown), ``latest`` the largest time
    value to be believed.  Sizes alone do not decide: 80 bytes are 2 records of 40, 5 of 16 or 10
    of 8.  Raises ``BadFrame`` with the first 128 bytes rather than guess.
    """
    if configured != "auto":
        return LAYOUTS[configured]
    exact = {len(records) // count for count in counts if count > 0 and not len(records) % count}
    candidates = [layout for layout in LAYOUTS.values() if not len(records) % layout.size]
    known = {layout.size for layout in candidates}
    candidates += [_wide(size) for size in sorted(exact - known) if 40 <= size <= WIDEST]

    best: tuple[tuple[float, int], Layout] | None = None
    for layout in candidates:
        good, sound = _scores(records, layout, latest)
        # A terminal that has often lost its clock is full of impossible times, and new firmware
        # has unknown verify codes; where the count fits and the user ids are in their place, the
        # layout is certain all the same.
        certain = layout.size in exact and layout.size >= 40 and sound >= 0.95
        if good >= 0.95 or certain:
            # A wrong step that skips every other record looks good, too: the smaller one is right.
            rank = (max(good, sound if certain else 0.0), -layout.size)
            if best is None or rank > best[0]:
                best = rank, layout
    if best is None:
        raise BadFrame(
            f"{len(records)} bytes of attendance log fit no known record size"
            f" (terminal counts {list(counts)}); they begin with {records[:128].hex(' ')}"
        )
    return best[1]


def _scores(records: bytes, layout: Layout, latest: int) -> tuple[float, float]:
    """Shares of records that are good, and of those whose user id and date are at least sound:
    of the first 200 and the last 200, whichever is worse."""
    head = records[: 200 * layout.size]
    tail = records[max(0, len(records) - 200 * layout.size) :]
    worst = 1.0, 1.0
    for sample in (head, tail):
        good = sound = 0
        rows = list(layout.struct.iter_unpack(sample))
        for before, value, behind in rows:
            if not _is_day(value // 86_400):
                continue
            who, verify, state, _ = layout.told(before, behind)
            if not _is_identity(who):
                continue
            sound += 1
            good += verify in VERIFY_CODES and state in STATES and 86_400 <= value <= latest
        worst = min(worst[0], good / len(rows)), min(worst[1], sound / len(rows))
        if max(worst) < 0.95:
            break
    return worst


def _is_identity(who: bytes | int) -> bool:
    if isinstance(who, int):
        return bool(who)
    text = who.rstrip(b"\0")
    return bool(text) and text.isascii() and text.decode("ascii").isprintable()


@lru_cache(4096)
def _is_day(days: int) -> bool:
    years, days = divmod(days, 372)
    try:
        date(2000 + years, days // 31 + 1, days % 31 + 1)
    except ValueError:
        return False
    return years <= 99


class _Punches(dict[tuple[bytes, bytes], Punch | None]):
    """The punch for the bytes around a record's time, or none if they name nobody.  A log has few
    different ones."""

    def __init__(self, layout: Layout, people: Mapping[int, str]) -> None:
        super().__init__()
        self._layout = layout
        self._people = people

    def __missing__(self, ends: tuple[bytes, bytes]) -> Punch | None:
        who, verify, state, work_code = self._layout.told(*ends)
        punch: Punch | None = None
        if person := self._person(who):
            punch = Punch(person, verify, state, work_code=str(work_code) if work_code else "")
        self[ends] = punch
        return punch

    def _person(self, who: bytes | int) -> str:
        if isinstance(who, bytes):
            return _user_id(who)
        if self._layout.size > 8:
            return str(who) if who else ""
        # A user who was deleted stays in the log.  The prefix keeps him from becoming whoever has
        # this number as a user id.
        return self._people.get(who) or f"uid:{who}"


def _user_id(field: bytes) -> str:
    """Empty if it can not be a user id."""
    text = field.partition(b"\0")[0].decode("latin-1").strip()
    return text if text.isascii() and text.isprintable() else ""


def read_log(
    records: bytes,
    layout: Layout,
    zone: ZoneInfo,
    *,
    device: str,
    serial: str = "",
    people: Mapping[int, str] | None = None,
    start: int = 0,
) -> Iterator[Reading]:
    """Readings of the records from byte ``start`` on, in the order of the log.

    ``people`` maps uids to user ids, for records that have only the uid.  A record that makes no
    sense becomes ``Unreadable``, dated like the record before it, so that reading it again gives
    the same reading.
    """
    size = layout.size
    end = len(records) - len(records) % size
    starts = _DayStarts(zone)
    punches = _Punches(layout, people or {})
    at = _time_before(records, start, layout, zone) if start else 0
    shown = min(size, LONGEST_RAW)
    part = memoryview(records)[start:end]
    raws = struct.iter_unpack(f"{shown}s{size - shown}x", part)
    for (raw,), (before, value, behind) in zip(raws, layout.struct.iter_unpack(part), strict=True):
        base, punch = starts[value // 86_400], punches[before, behind]
        if base is not None and punch is not None:
            at = base + value * 1000
            yield Reading(device, at, punch, raw, serial)
            continue
        try:
            if punch is None:
                raise ValueError("no user id")
            if not value:
                raise ValueError("no time")
            at = instant_of(value, zone)
        except ValueError as error:
            reason = f"attendance record of {size} bytes: {error}"
            yield Reading(device, at, Unreadable(reason), raw, serial)
        else:
            yield Reading(device, at, punch, raw, serial)
    if end < len(records):
        reason = f"attendance log ends in {len(records) - end} bytes of a record of {size}"
        yield Reading(device, at, Unreadable(reason), records[end : end + LONGEST_RAW], serial)


def _time_before(records: bytes, start: int, layout: Layout, zone: ZoneInfo) -> Instant:
    """The time of the last record before ``start`` that has one."""
    for place in range(start - layout.size, -1, -layout.size):
        value = layout.struct.unpack_from(records, place)[1]
        try:
            if value:
                return instant_of(value, zone)
        except ValueError:
            continue
    return 0


# --------------------------------------------------------------------------------------------
# Users
# --------------------------------------------------------------------------------------------


class User(NamedTuple):
    uid: int
    person: str
    name: str
    privilege: int


PRIVILEGES = frozenset((0, 2, 6, 14))


def read_users(records: bytes, counts: Iterable[int], encoding: str | None) -> list[User]:
    """Users of a bulk answer; those without a readable user id are left out.

    Raises ``BadFrame`` (without any of the bytes, there are passwords in them) if neither layout
    makes sense of them.
    """
    exact = {len(records) // count for count in counts if count > 0 and not len(records) % count}
    best: tuple[tuple[float, bool], list[User]] = (0.0, False), []
    for size, decoded in ((72, _user_of_72), (28, _user_of_28)):
        if len(records) % size:
            continue
        users = [decoded(records[at : at + size], encoding) for at in range(0, len(records), size)]
        good = [
            user for user in users if user.uid and user.person and user.privilege & 14 in PRIVILEGES
        ]
        rank = len(good) / max(1, len(users)), size in exact
        if rank > best[0]:
            best = rank, [user for user in users if user.person]
    if records and best[0][0] < 0.95:
        raise BadFrame(f"{len(records)} bytes of user list fit neither records of 28 nor of 72")
    return best[1]


def _user_of_28(record: bytes, encoding: str | None) -> User:
    uid, privilege, name, person = struct.unpack("<HB5x8s8xI", record)
    return User(uid, str(person) if person else "", decode_name(name, encoding), privilege)


def _user_of_72(record: bytes, encoding: str | None) -> User:
    uid, privilege, name, person = struct.unpack("<HB8x24s13x24s", record)
    return User(uid, _user_id(person), decode_name(name, encoding), privilege)


# --------------------------------------------------------------------------------------------
# Events
# --------------------------------------------------------------------------------------------

PUNCHED, USER_ENROLLED, FINGER_ENROLLED, ALARM = 1, 4, 8, 512
EVENT_NAMES = {
    2: "finger_pressed",
    4: "user_enrolled",
    8: "finger_enrolled",
    16: "key_pressed",
    32: "unlocked",
    128: "verify_attempt",
    256: "enrol_score",
}
SMALL_TALK = frozenset((2, 16, 128, 256))
"""Events nobody supervises; they are acknowledged and forgotten."""
WANTED_EVENTS = PUNCHED | USER_ENROLLED | FINGER_ENROLLED | 32 | ALARM
ALARMS = {0x3A: "misoperation", 0x37: "tamper", 0x35: "exit_button", 0x54: "door_closed"}


class LivePunch(NamedTuple):
    """``who`` is the user id as text, or a number: mostly the user id, on some boards the uid."""

    who: int | str
    verify: int
    state: int
    at: Instant
    work_code: int


def read_event(data: bytes, zone: ZoneInfo) -> LivePunch:
    """An attendance event.  Raises ``ValueError`` saying what is wrong with it."""
    length = len(data)
    who: int | str
    if length >= 32:
        at = 24
        who = _user_id(data[:24])
    elif length in (10, 12, 14):
        at = 4 if length == 12 else 2
        who = int.from_bytes(data[:at], "little")
    else:
        raise ValueError(f"attendance event of {length} bytes; expected 10, 12, 14 or 32 and more")
    if not who:
        raise ValueError("attendance event without a user id")
    verify, state, year, month, day, hour, minute, second = data[at : at + 8]
    work_code = int.from_bytes(data[32:36], "little") if length == 36 else 0
    wall = wall_instant(2000 + year, month, day, hour, minute, second, zone)
    return LivePunch(who, verify, state, wall, work_code)


def other_event(code: int, data: bytes) -> DeviceEvent:
    """What an event that is no punch says; alarms are told apart by their first byte."""
    if code != ALARM:
        detail = _user_id(data[4:13]) if code in (USER_ENROLLED, FINGER_ENROLLED) else ""
        return DeviceEvent(EVENT_NAMES.get(code, "unknown_event"), code, detail)
    if len(data) == 12:
        return DeviceEvent("duress_or_passback", code)
    return DeviceEvent(ALARMS.get(data[0] if data else 0, "alarm"), code)


def _readings_of_event(
    packet: Packet,
    people: Mapping[int, str],
    device: str,
    serial: str,
    now: Instant,
    zone: ZoneInfo,
) -> list[Reading]:
    """``now`` dates what has no time of its own."""
    code, raw = packet.session, packet.data[:LONGEST_RAW]
    if code in SMALL_TALK:
        return []
    if code != PUNCHED:
        return [Reading(device, now, other_event(code, packet.data), raw, serial)]
    try:
        event = read_event(packet.data, zone)
    except ValueError as error:
        return [Reading(device, now, Unreadable(f"attendance event: {error}"), raw, serial)]
    person = str(event.who)
    if isinstance(event.who, int) and person not in people.values():
        person = people.get(event.who, person)
    punch = Punch(
        person,
        event.verify,
        event.state,
        live=True,
        work_code=str(event.work_code) if event.work_code else "",
    )
    return [Reading(device, event.at, punch, raw, serial)]


# --------------------------------------------------------------------------------------------
# Captures
# --------------------------------------------------------------------------------------------


def decode(data: bytes, zone: ZoneInfo) -> Iterator[Reading]:
    """Readings in a captured TCP stream, of the terminal's direction or of both in their order."""
    packets, _, problems = split(data)
    if not packets:
        yield Reading(FAMILY, 0, Unreadable("no packet of port 4370 in these bytes"), data[:4096])
        return
    for problem, times in Counter(problems).items():
        yield Reading(FAMILY, 0, Unreadable(f"{problem} ({times} times)"))
    people: dict[int, str] = {}
    counts: dict[str, int] = {}
    asked, body = 0, bytearray()
    for packet in [*packets, Packet(FREE_BUFFER, 0, 0, b"")]:
        # Our own request for events has the same command, but a reply id.
        if packet.command == EVENT and not packet.reply_id:
            yield from _readings_of_event(packet, people, FAMILY, "", 0, zone)
        elif packet.command == ACK_OK and len(packet.data) >= 80:
            counts = free_sizes(packet.data)
        elif packet.command in (DATA, ACK_DATA):
            body += packet.data
        whole = len(body) >= 4 and len(body) >= 4 + int.from_bytes(body[:4], "little")
        if body and (whole or packet.command in (PREPARE_BUFFER, FREE_BUFFER)):
            yield from _captured(bytes(body), asked, counts, people, zone)
            asked, body = 0, bytearray()
        if packet.command == PREPARE_BUFFER:
            asked = int.from_bytes(packet.data[1:3], "little")
        elif packet.command in (READ_LOG, READ_USERS):
            asked = packet.command


def _captured(
    body: bytes, asked: int, counts: Mapping[str, int], people: dict[int, str], zone: ZoneInfo
) -> Iterator[Reading]:
    """A bulk answer; if the question was not captured, what the bytes look like."""
    records, count, _ = records_in(body)
    if not records:
        return
    if asked != READ_USERS:
        try:
            counted = (counts.get("records", 0), count)
            layout = choose_layout(records, counted, time_value(datetime(2099, 12, 31)))  # noqa: DTZ001
        except BadFrame as error:
            if asked:
                yield Reading(FAMILY, 0, Unreadable(str(error)), records[:128])
                return
        else:
            yield from read_log(records, layout, zone, device=FAMILY, people=people)
            return
    try:
        users = read_users(records, (counts.get("users", 0), count), None)
    except BadFrame as error:
        yield Reading(FAMILY, 0, Unreadable(str(error)))
        return
    people.update((user.uid, user.person) for user in users)
    for user in users:
        yield Reading(FAMILY, 0, TerminalUser(user.person, user.name, user.privilege))


# --------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ZkTecoOptions:
    """A terminal that is asked.  Durations are in seconds.

    ``comm_key_file`` holds the terminal's comm key (通讯密码), a number.  ``serial``, if given, is
    the only terminal accepted at this address.  ``record_layout`` is needed only where a terminal's
    records can not be told by themselves.  ``set_clock`` lets hallwatch set the terminal's clock.
    """

    host: str
    port: int = 4370
    protocol: Literal["auto", "tcp", "udp"] = "auto"
    comm_key_file: str = ""
    encoding: Literal["auto", "gbk", "utf-8"] = "auto"
    serial: str = ""
    record_layout: Literal["auto", "8alt", 8, 16, 40, 49] = "auto"
    set_clock: bool = False
    catch_up_s: float = 900
    keepalive_s: float = 45
    sizes_s: float = 300

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host is empty; expected the terminal's address")
        if not 0 < self.port < 65536:
            raise ValueError(f"port is {self.port}; expected 1 to 65535")
        for name in ("catch_up_s", "keepalive_s", "sizes_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0 seconds")

    def link(self) -> tuple[str, int]:
        return self.host, self.port


# --------------------------------------------------------------------------------------------
# Connections
# --------------------------------------------------------------------------------------------

PATIENCE = 10.0
"""Seconds without a byte before a terminal counts as silent."""
BULK_PATIENCE = 60.0
"""Boards take up to half a minute to prepare a log of 100,000 records."""
PAUSE_IN_BURST = 5.0
"""Seconds after which the rest of an answer that has begun is taken for lost."""
SLOWEST = 500
"""Bytes a second below which a long answer is given up."""
FAREWELL = 2.0
BUSY_FROM = 3
"""Connections taken without an answer after which the terminal is called busy."""


class _Stream(Protocol):
    chunk: int
    attempts: int
    heard_at: float
    """When any byte last came, by the event loop's clock."""
    problems: Counter[str]

    async def read(self) -> list[Packet]: ...
    async def write(self, packet: bytes) -> None: ...
    def close(self) -> None: ...


class _Tcp:
    chunk = 65_472
    attempts = 1

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._buffer: bytes | bytearray = bytearray()
        self.heard_at = 0.0
        self.problems: Counter[str] = Counter()
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def read(self) -> list[Packet]:
        data = await self._reader.read(1 << 16)
        if not data:
            raise DeviceLost("终端关闭了连接 / the terminal closed the connection")
        self.heard_at = asyncio.get_running_loop().time()
        self._buffer += data
        packets, self._buffer, problems = split(self._buffer)
        self.problems.update(problems)
        if self.problems["out_of_step"] > 1:
            raise DeviceLost("收到的数据失步 / the terminal's bytes are out of step, twice")
        return packets

    async def write(self, packet: bytes) -> None:
        self._writer.write(wrap(packet))
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    def close(self) -> None:
        # Not close: that would wait for a peer whose cable is out.
        self._writer.transport.abort()


class _Udp(asyncio.DatagramProtocol):
    chunk = 16_384
    attempts = 3
    MOST_WAITING = 1024

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._error: Exception | None = None
        self.transport: asyncio.DatagramTransport
        self.heard_at = 0.0
        self.problems: Counter[str] = Counter()

    def datagram_received(self, data: bytes, _: object) -> None:
        if len(self._waiting) < self.MOST_WAITING:
            self._waiting.append(data)
        else:
            self.problems["datagrams_dropped"] += 1
        self._arrived.set()

    def error_received(self, exc: Exception) -> None:
        self._error = exc
        self._arrived.set()

    async def read(self) -> list[Packet]:
        await self._arrived.wait()
        self._arrived.clear()
        if self._error:
            raise DeviceLost(f"终端的 UDP 端口无应答 / UDP port unreachable: {self._error}")
        self.heard_at = asyncio.get_running_loop().time()
        packets = []
        while self._waiting:
            packet, problem = unpack(self._waiting.popleft())
            if packet:
                packets.append(packet)
            if problem:
                self.problems[problem] += 1
        return packets

    async def write(self, packet: bytes) -> None:
        self.transport.sendto(packet)

    def close(self) -> None:
        self.transport.abort()


class _Answer(NamedTuple):
    code: int
    session: int
    data: bytes
    """Of a burst of DATA packets, all of it."""


class _Silent(DeviceLost):
    """A request stayed without an answer."""


class _Damaged(DeviceLost):
    """Parts of an answer were lost on the way."""

    def __init__(self, what: str) -> None:
        super().__init__(f"数据不完整 / an answer came incomplete: {what}")
        self.what = what


class _Terminal:
    """A session with a terminal.  Requests go out one at a time; events come in between."""

    def __init__(self, stream: _Stream, heard: Callable[[], None], key: int | None) -> None:
        self._stream = stream
        self._heard = heard
        self._key = key
        self._session = 0
        self._next_id = 0
        self._expected: set[int] = set()
        self._packets: asyncio.Queue[Packet] = asyncio.Queue(16)
        self._opened = False
        self._proved = False
        self._buffer_open = False
        self._without_buffer = False
        self.identified = False
        """It let us in and is the one we want: from now on what it sends is a sign of life."""
        self.events: asyncio.Queue[Packet] = asyncio.Queue(256)
        self.stale = 0

    @property
    def problems(self) -> Mapping[str, int]:
        return self._stream.problems

    @property
    def troubles(self) -> int:
        """Packets that could not be read so far."""
        return sum(self.problems.values()) - self.problems.get(OFF_BY_ONE, 0)

    async def listen(self) -> None:
        """Sort what arrives until the connection ends, with ``DeviceLost``."""
        while True:
            try:
                packets = await self._stream.read()
            except OSError as error:
                raise DeviceLost(f"连接中断 / the connection broke: {error}") from error
            for packet in packets:
                if self.identified:
                    self._heard()
                if packet.command == EVENT:
                    await self.events.put(packet._replace(data=packet.data[:LONGEST_EVENT]))
                elif packet.reply_id in self._expected:
                    await self._packets.put(packet)
                else:
                    self.stale += 1

    async def open(self) -> None:
        """CONNECT and, if asked for it, the comm key.  Raises ``DeviceRefused`` on a wrong one."""
        answer = await self._ask(CONNECT)
        self._session = answer.session
        self._opened = True
        if answer.code == ACK_UNAUTH:
            await self._prove()
        elif answer.code != ACK_OK:
            raise DeviceLost(f"终端拒绝连接 / the terminal answered CONNECT with {answer.code}")

    async def _prove(self) -> None:
        if self._key is None:
            raise DeviceRefused(
                "终端设有通讯密码，设置中没有 / the terminal wants a comm key and the settings"
                " name none: expected comm_key_file"
            )
        answer = await self._ask(AUTH, scramble(self._key, self._session))
        if answer.code != ACK_OK:
            raise DeviceRefused("通讯密码错误 / the terminal refused the comm key")
        self._proved = True

    async def ask(
        self,
        command: int,
        data: bytes = b"",
        patience: float | None = None,
        most: int = LARGEST_BODY,
    ) -> _Answer:
        """The terminal's whole answer, whatever it says.

        ``patience`` is the longest time without a byte, ``most`` the longest data accepted.  Raises
        ``_Silent`` when it stays away, ``_Damaged`` when parts of it do.
        """
        answer = await self._ask(command, data, patience, most)
        if answer.code == ACK_UNAUTH:
            if self._proved:
                raise DeviceRefused("终端不再接受通讯密码 / the terminal went back to refusing us")
            await self._prove()
            answer = await self._ask(command, data, patience, most)
        if answer.code in (ACK_RETRY, ACK_REPEAT):
            answer = await self._ask(command, data, patience, most)
        return answer

    async def _ask(
        self,
        command: int,
        data: bytes = b"",
        patience: float | None = None,
        most: int = LARGEST_BODY,
    ) -> _Answer:
        patience = PATIENCE if patience is None else patience
        self._drop_leftovers()
        try:
            for _ in range(self._stream.attempts):
                # An answer that is merely late is as good to the second attempt as its own.
                self._expected.add(await self._send(command, data))
                try:
                    packet = await self._packet(patience / self._stream.attempts, patience * 6)
                except TimeoutError:
                    continue
                self._expected = {packet.reply_id}
                if packet.command != PREPARE_DATA:
                    return _Answer(packet.command, packet.session, packet.data)
                return await self._burst(packet, patience, most)
            raise _Silent(f"终端无应答 / no answer to command {command} in {patience:g} s")
        finally:
            self._expected = set()
            self._drop_leftovers()

    async def _burst(self, first: Packet, patience: float, most: int) -> _Answer:
        announced = int.from_bytes(first.data[:4], "little")
        if announced > most:
            raise _Damaged(f"{announced} bytes announced, at most {most} expected")
        clock = asyncio.get_running_loop().time
        ends = clock() + patience * 6 + announced / SLOWEST
        pause = patience if self._stream.attempts == 1 else PAUSE_IN_BURST
        parts: list[bytes] = []
        received = 0
        while received <= announced:
            # All data is here but for the closing word, which some boards forget.
            patience = PAUSE_IN_BURST if received == announced else pause
            try:
                packet = await self._packet(patience, ends - clock())
            except TimeoutError:
                break
            if packet.command == ACK_OK:
                break
            if packet.command not in (DATA, ACK_DATA):
                return _Answer(packet.command, packet.session, b"")
            parts.append(packet.data)
            received += len(packet.data)
        if received != announced:
            raise _Damaged(f"{received} of {announced} bytes")
        return _Answer(DATA, first.session, b"".join(parts))

    async def _packet(self, patience: float, most: float) -> Packet:
        """The next packet of the answer.  Raises ``TimeoutError`` after ``patience`` seconds
        without any byte (they may trickle in over a radio link), or after ``most`` seconds."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            until = min(max(began, self._stream.heard_at) + patience, began + most)
            try:
                async with asyncio.timeout_at(until):
                    packet = await self._packets.get()
            except TimeoutError:
                if clock() >= min(self._stream.heard_at + patience, began + most):
                    raise
                continue
            if packet.reply_id in self._expected:
                return packet
            self.stale += 1

    def _drop_leftovers(self) -> None:
        while not self._packets.empty():
            self._packets.get_nowait()
            self.stale += 1

    async def _send(self, command: int, data: bytes = b"") -> int:
        reply_id = self._next_id
        self._next_id = (reply_id + 1) % 0xFFFF
        await self._write(pack(command, self._session, reply_id, data))
        return reply_id

    async def acknowledge_event(self) -> None:
        await self._write(pack(ACK_OK, self._session, 0))

    async def _write(self, packet: bytes) -> None:
        try:
            await self._stream.write(packet)
        except OSError as error:  # TimeoutError is one
            raise DeviceLost(f"连接中断 / the connection broke: {error}") from error

    async def read_bulk(self, command: int, detail: int = 0) -> bytes | None:
        """A whole list, or none where the terminal refuses to give it.

        Never a part of one: raises ``DeviceLost`` when some of it does not arrive.
        """
        if not self._without_buffer:
            question = struct.pack("<BHII", 1, command, detail, 0)
            answer = await self.ask(PREPARE_BUFFER, question, BULK_PATIENCE)
            if answer.code in (DATA, ACK_DATA):
                return answer.data
            if answer.code == ACK_OK and len(answer.data) >= 5:
                return await self._read_buffer(int.from_bytes(answer.data[1:5], "little"))
        try:
            answer = await self._ask_at_length(command)
        except _Silent:
            return None
        if answer.code not in (DATA, ACK_DATA):
            return None
        self._without_buffer = True
        return answer.data

    async def _read_buffer(self, size: int) -> bytes:
        if size > LARGEST_BODY:
            raise _Damaged(f"the terminal announced {size} bytes")
        chunks = []
        self._buffer_open = True
        for at in range(0, size, self._stream.chunk):
            chunks.append(await self._chunk(at, min(self._stream.chunk, size - at)))
        await self.free_buffer()
        self._buffer_open = False
        return b"".join(chunks)

    async def _chunk(self, at: int, size: int) -> bytes:
        answer = await self._ask_at_length(READ_BUFFER, struct.pack("<II", at, size), size)
        if answer.code not in (DATA, ACK_DATA):
            raise _Damaged(f"answer {answer.code} to the request for bytes from {at} on")
        return answer.data

    async def _ask_at_length(
        self, command: int, data: bytes = b"", size: int | None = None
    ) -> _Answer:
        """The whole answer, of ``size`` bytes if that is known; what gets lost on the way is asked
        for twice more."""
        damage = ""
        for _ in range(3):
            try:
                answer = await self.ask(command, data, BULK_PATIENCE, size or LARGEST_BODY)
            except _Damaged as error:
                damage = error.what
                continue
            if answer.code not in (DATA, ACK_DATA) or size in (None, len(answer.data)):
                return answer
            damage = f"{len(answer.data)} of {size} bytes"
        raise _Damaged(f"command {command}, three times: {damage}")

    async def free_buffer(self) -> None:
        """Without it the next list would be the previous one.  Nobody waits for an answer."""
        await self._send(FREE_BUFFER)

    async def leave(self) -> None:
        """Say goodbye, best effort; needs ``listen`` to be running."""
        if not self._opened:
            return
        if self._buffer_open:
            await self.free_buffer()
        await self._ask(EXIT, patience=FAREWELL)


# --------------------------------------------------------------------------------------------
# The driver
# --------------------------------------------------------------------------------------------

CLOCK_MOVED = 5_000
"""Milliseconds by which the offset must move before it is journalled again within the hour."""
CLOCK_SET_FROM = 10_000
"""Milliseconds of offset from which on the clock is set, where that is allowed."""
BATCH = 5_000


class _LogState(NamedTuple):
    """What the last whole read of the log in this session gave."""

    read_at: Instant
    counted: int | None
    """Records by the terminal's own count; none if it is unknown or changed meanwhile."""
    events: int
    """Attendance events seen before the read began."""


class _Log(NamedTuple):
    """A log as read, and how much of it is known already."""

    records: bytes
    layout: Layout
    absent: int
    """Bytes the terminal announced and did not send."""
    known: int
    shrunk_from: int
    mark: str


class _Visit:
    """What is done in one session with a terminal."""

    def __init__(
        self, context: Context, device: str, options: ZkTecoOptions, terminal: _Terminal
    ) -> None:
        self._context = context
        self._device = device
        self._options = options
        self._terminal = terminal
        self._encoding = None if options.encoding == "auto" else options.encoding
        self._serial = ""
        self._people: dict[int, str] = {}
        self._told_people: dict[str, User] | None = None
        self._introduced = asyncio.Event()
        """The terminal is known, so its events can be understood."""
        self._offset = 0
        self._offset_told = 0
        self._offset_told_at: Instant | None = None
        self._sizes: dict[str, int] = {}
        self._log: _LogState | None = None
        self._complete_told_at: Instant | None = None
        self._complaint = ""
        self._events = 0
        self._repeats = 0
        self._wants_log = False
        self._wants_people = False

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[str, str] | None = None
    ) -> bool:
        """False if they could not be stored."""
        keyed = {(self._device, name): value for name, value in (marks or {}).items()}
        try:
            new = await self._context.emit(readings, keyed)
        except OSError as error:
            self._note(last_error=f"读数未能保存 / readings could not be stored: {error}")
            return False
        self._repeats += len(readings) - new
        return True

    async def talk(self) -> None:
        """Everything but the events, until cancelled or the terminal is lost."""
        self._note(state="identifying")
        await self._read_serial()
        await self._check_clock(tell=True)
        await self._register()
        await self._introduce()
        await self._read_people()
        self._introduced.set()
        await self._terminal.free_buffer()
        self._note(state="catching_up")
        await self._catch_up()
        self._note(state="live")
        since_sizes = since_catch_up = 0.0
        troubles = 0
        while True:
            await self._context.sleep(self._options.keepalive_s)
            since_sizes += self._options.keepalive_s
            since_catch_up += self._options.keepalive_s
            await self._check_clock()
            if self._wants_people:
                await self._read_people()
            if since_sizes >= self._options.sizes_s:
                since_sizes = 0
                await self._watch_count()
            # What could not be read may have been a punch.
            self._wants_log |= self._terminal.troubles > troubles
            troubles = self._terminal.troubles
            if self._wants_log or since_catch_up >= self._options.catch_up_s:
                since_catch_up = 0
                await self._catch_up_if_needed()
            self._note(
                decode_errors=troubles,
                checksums_off_by_one=self._terminal.problems.get(OFF_BY_ONE, 0),
                stale_answers=self._terminal.stale,
                repeats=self._repeats,
            )

    async def follow_events(self) -> None:
        """Journal what happens, then acknowledge it."""
        waiting = self._terminal.events
        while True:
            packets = [await waiting.get()]
            while not waiting.empty():
                packets.append(waiting.get_nowait())
            await self._introduced.wait()
            readings: list[Reading] = []
            for packet in packets:
                told = _readings_of_event(
                    packet,
                    self._people,
                    self._device,
                    self._serial,
                    self._context.now(),
                    self._context.zone,
                )
                self._events += packet.session == PUNCHED
                self._wants_log |= any(type(reading.body) is Unreadable for reading in told)
                self._wants_people |= packet.session in (USER_ENROLLED, FINGER_ENROLLED)
                readings += told
            if readings and not await self.emit(readings):
                self._wants_log = True
                continue
            for _ in packets:
                await self._terminal.acknowledge_event()

    # Who it is -----------------------------------------------------------------------------

    async def _read_serial(self) -> None:
        expected = self._options.serial
        self._serial = _plain(await self._option("~SerialNumber")) or expected
        if expected and self._serial != expected:
            raise DeviceRefused(
                f"此地址上是另一台终端 / the terminal at {self._options.host} has serial number"
                f" {self._serial}, expected {expected}"
            )
        self._terminal.identified = True
        self._context.contact(self._device)

    async def _option(self, name: str) -> bytes:
        """Empty if the terminal does not know it."""
        answer = await self._terminal.ask(GET_OPTION, name.encode() + b"\0")
        return option_value(answer.data) if answer.code in (ACK_OK, ACK_DATA) else b""

    async def _register(self) -> None:
        for mask in (WANTED_EVENTS, PUNCHED):
            answer = await self._terminal.ask(REGISTER, struct.pack("<I", mask))
            if answer.code == ACK_OK:
                break
        self._note(live_events=answer.code == ACK_OK)

    async def _introduce(self) -> None:
        version = await self._terminal.ask(GET_VERSION)
        await self._read_sizes()
        told: dict[str, str | int] = {
            "serial": self._serial,
            "model": decode_name(await self._option("~DeviceName"), self._encoding)[:64],
            "firmware": _plain(version.data) if version.code == ACK_OK else "",
            "platform": _plain(await self._option("~Platform")),
            "mac": _plain(await self._option("MAC")),
            "user_capacity": self._sizes.get("user_capacity", 0),
            "record_capacity": self._sizes.get("record_capacity", 0),
        }
        facts = {name: value for name, value in told.items() if value}
        self._note(**{name: facts.get(name) for name in ("serial", "model", "firmware")})
        digest = _digest(repr(facts).encode())
        if digest != self._context.mark(self._device, "info"):
            await self.emit([self._reading(DeviceInfo(facts))], {"info": digest})

    async def _read_sizes(self) -> None:
        answer = await self._terminal.ask(GET_FREE_SIZES)
        self._sizes = free_sizes(answer.data) if answer.code in (ACK_OK, ACK_DATA, DATA) else {}
        records, capacity = self._sizes.get("records", 0), self._sizes.get("record_capacity", 0)
        self._note(
            users=self._sizes.get("users"),
            records=records,
            capacity_percent=round(100 * records / capacity) if capacity else None,
        )

    async def _read_people(self) -> None:
        self._wants_people = False
        body = await self._terminal.read_bulk(READ_USERS, 5)
        if body is None:
            self._note(users_error="终端拒绝给出人员名单 / the terminal refuses to list its users")
            return
        records, count, _ = records_in(body)
        counts = (self._sizes.get("users", 0), count)
        try:
            users = await asyncio.to_thread(read_users, records, counts, self._encoding)
        except BadFrame as error:
            self._note(users_error=str(error))
            return
        self._note(users_error=None)
        self._people = {user.uid: user.person for user in users}
        by_person = {user.person: user for user in users}
        digest = _digest(repr(sorted(by_person.values())).encode())
        if digest == self._context.mark(self._device, "users"):
            self._told_people = by_person
            return
        before = self._told_people or {}
        changed = [
            self._reading(TerminalUser(user.person, user.name, user.privilege))
            for user in by_person.values()
            if before.get(user.person) != user
        ]
        if await self.emit(changed, {"users": digest}):
            self._told_people = by_person

    # Its clock -----------------------------------------------------------------------------

    async def _check_clock(self, tell: bool = False) -> None:
        clock = asyncio.get_running_loop().time
        asked = clock()
        answer = await self._terminal.ask(GET_TIME)
        if answer.code not in (ACK_OK, ACK_DATA) or len(answer.data) < 4:
            self._note(clock_error=f"answer {answer.code} to the request for the time")
            return
        try:
            at = instant_of(int.from_bytes(answer.data[:4], "little"), self._context.zone)
        except ValueError as error:
            self._note(clock_error=f"the terminal's clock shows no time: {error}")
            return
        now = self._context.now()
        self._offset = at - now
        self._note(clock_offset_s=round(self._offset / 1000), clock_error=None)
        # A slow answer looks like a slow clock.
        moved = abs(self._offset - self._offset_told) - (clock() - asked) * 1000
        stale = self._offset_told_at is None or now - self._offset_told_at >= HOUR
        if tell or stale or moved >= CLOCK_MOVED:
            told = Reading(self._device, at, ClockCheck(), serial=self._serial)
            if await self.emit([told]):
                self._offset_told, self._offset_told_at = self._offset, now

    async def _set_clock(self) -> None:
        """Only after the log was read: what is in it was stamped by the clock as it was."""
        offset = self._offset
        if not self._options.set_clock or abs(offset) < CLOCK_SET_FROM:
            return
        wall = datetime.fromtimestamp(self._context.now() / 1000, self._context.zone)
        answer = await self._terminal.ask(SET_TIME, struct.pack("<I", time_value(wall)))
        if answer.code != ACK_OK:
            self._note(clock_error=f"answer {answer.code} to setting the clock")
            return
        await self._terminal.ask(REFRESH)
        await self.emit([self._reading(DeviceEvent("time_set", detail=f"offset {offset} ms"))])
        await self._check_clock(tell=True)

    # Its log -------------------------------------------------------------------------------

    async def _watch_count(self) -> None:
        """More records than events: the terminal has forgotten that it should tell them."""
        await self._read_sizes()
        if self._log is None or self._log.counted is None:
            return
        grown = self._sizes.get("records", 0) - self._log.counted
        seen = self._events - self._log.events
        if grown > seen:
            await self._register()
        self._wants_log |= grown > seen or grown < 0

    async def _catch_up_if_needed(self) -> None:
        """Read the log, unless nothing can have happened: there is no asking for a part of it."""
        began = self._context.now()
        await self._read_sizes()
        records = self._sizes.get("records", 0)
        unchanged = (
            not self._wants_log
            and self._log is not None
            and records == self._log.counted
            and self._events == self._log.events
            # A full log may overwrite its oldest records without counting on.
            and 0 < records < self._sizes.get("record_capacity", 0)
            and began - self._log.read_at < DAY
        )
        if unchanged:
            await self._tell_complete(began, anew=False)
        else:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Journal everything in the log that is not known yet."""
        self._wants_log = False
        began, events = self._context.now(), self._events
        await self._read_sizes()
        before = self._sizes.get("records", 0)
        body = await self._terminal.read_bulk(READ_LOG)
        await self._read_sizes()
        after = self._sizes.get("records", 0)
        if body is None:
            self._complain(
                "终端拒绝给出考勤记录 / the terminal refuses to give its log" + ACCESS_MODE
            )
            return
        if len(body) <= 4:
            await self._empty_log(began, events, before)
            return
        try:
            log = await asyncio.to_thread(self._understand, body, (before, after))
        except BadFrame as error:
            if self._complain(str(error)):
                await self.emit([self._reading(Unreadable(str(error)), body[4:132])])
            return
        if log.layout.size == 8:
            # These records name people by a number that is given to others later, so the list
            # must be as young as they are.
            await self._read_people()
        if log.shrunk_from:
            detail = f"{log.shrunk_from} bytes -> {len(log.records)}"
            if not await self.emit([self._reading(DeviceEvent("log_cleared", detail=detail))]):
                self._wants_log = True
                return
        if not await self._journal(log):
            self._wants_log = True
            return

        count = len(log.records) // log.layout.size
        anew = log.known < len(log.records) or bool(log.shrunk_from)
        marks = {"log": log.mark} if anew else {}
        if log.absent or count < before:
            self._complain(
                f"考勤记录不完整 / the terminal counts {before} records and gave {count},"
                f" {log.absent} bytes short"
            )
            await self.emit((), marks)
        else:
            self._complain("")
            self._log = _LogState(began, before if before == after else None, events)
            await self._tell_complete(began, anew, marks)
        await self._set_clock()

    def _understand(self, body: bytes, counts: tuple[int, int]) -> _Log:
        records, count, absent = records_in(body)
        zone = self._context.zone
        newest = max(self._context.now(), self._context.now() + self._offset) + DAY
        latest = time_value(datetime.fromtimestamp(newest / 1000, zone))
        layout = choose_layout(records, (*counts, count), latest, str(self._options.record_layout))
        told = f"{layout.name} {zone.key} {self._serial}"
        kept = (self._context.mark(self._device, "log") or "").rsplit(" ", 2)
        known = shrunk_from = 0
        if len(kept) == 3 and kept[0] == told:
            length = int(kept[1])
            if len(records) < length:
                shrunk_from = length
            elif _digest(records[:length]) == kept[2]:
                known = length
        mark = f"{told} {len(records)} {_digest(records)}"
        return _Log(records, layout, absent, known, shrunk_from, mark)

    async def _journal(self, log: _Log) -> bool:
        readings = read_log(
            log.records,
            log.layout,
            self._context.zone,
            device=self._device,
            serial=self._serial,
            people=self._people,
            start=log.known,
        )
        while batch := await asyncio.to_thread(lambda: list(islice(readings, BATCH))):
            if not await self.emit(batch):
                return False
        return True

    async def _empty_log(self, began: Instant, events: int, counted: int) -> None:
        """Nothing follows from an empty log alone: terminals in access-control mode keep their
        punches elsewhere and count none.  One that has shown its punches before was cleared."""
        if counted or events > (self._log.events if self._log else 0):
            self._complain(
                "终端给出的考勤记录为空 / the log came empty though there are punches" + ACCESS_MODE
            )
            return
        kept = (self._context.mark(self._device, "log") or "").rsplit(" ", 2)
        if len(kept) < 3 or not kept[0].endswith(f" {self._serial}"):
            return
        marks = {}
        if kept[1] != "0":
            cleared = DeviceEvent("log_cleared", detail=f"{kept[1]} bytes -> 0")
            marks = {"log": f"{kept[0]} 0 {_digest(b'')}"}
            if not await self.emit([self._reading(cleared)]):
                self._wants_log = True
                return
        self._log = _LogState(began, None, events)
        await self._tell_complete(began, bool(marks), marks)

    async def _tell_complete(
        self, began: Instant, anew: bool, marks: Mapping[str, str] | None = None
    ) -> None:
        told = self._complete_told_at
        if anew or told is None or began - told >= HOUR:
            complete = Reading(self._device, began, LogComplete(), serial=self._serial)
            if await self.emit([complete], marks):
                self._complete_told_at = began

    # Words ---------------------------------------------------------------------------------

    def _complain(self, sentence: str) -> bool:
        """Whether this is a new complaint about the log."""
        new = sentence != self._complaint
        self._complaint = sentence
        self._note(log_error=sentence or None)
        return new

    def _note(self, **facts: object) -> None:
        self._context.note(self._device, **facts)

    def _reading(self, body: Body, raw: bytes = b"") -> Reading:
        return Reading(self._device, self._context.now(), body, raw, self._serial)


ACCESS_MODE = "；若为门禁模式请改用 PUSH / ; in access-control mode use PUSH instead"


def _digest(told: bytes) -> str:
    return blake2b(told, digest_size=16).hexdigest()


class ZkTeco:
    """One terminal.  Its log is the truth; live events only tell the same earlier."""

    options: ClassVar[type] = ZkTecoOptions
    attendance: ClassVar[bool] = True

    def __init__(self, devices: Sequence[Device]) -> None:
        if len(devices) != 1:
            raise ValueError(
                f"{len(devices)} devices at one address and port; expected one terminal"
            )
        self._device = devices[0]
        self._unanswered = 0
        """How often in a row the terminal took the connection and did not answer."""

    async def run(self, context: Context) -> None:
        device = self._device.id
        options: ZkTecoOptions = self._device.options
        context.note(device, state="connecting")
        key = await asyncio.to_thread(_read_key, options.comm_key_file)
        protocol, stream = await _connect(options, context.mark(device, "protocol"))
        terminal = _Terminal(stream, lambda: context.contact(device), key)
        visit = _Visit(context, device, options, terminal)
        listening = asyncio.create_task(terminal.listen())
        tasks = [listening]
        try:
            tasks.append(opening := asyncio.create_task(terminal.open()))
            try:
                await _first_of(tasks)
            except DeviceLost as error:
                if context.mark(device, "protocol"):
                    await visit.emit((), {"protocol": ""})
                raise self._explained(protocol, error) from error
            tasks.remove(opening)
            self._unanswered = 0
            if protocol != context.mark(device, "protocol"):
                await visit.emit((), {"protocol": protocol})
            tasks += map(asyncio.create_task, (visit.follow_events(), visit.talk()))
            await _first_of(tasks)
        finally:
            await _end(tasks[1:])
            if not listening.done():
                goodbye = asyncio.create_task(terminal.leave())
                tasks.append(goodbye)
                await asyncio.wait(
                    (goodbye, listening), timeout=FAREWELL, return_when=asyncio.FIRST_COMPLETED
                )
            await _end(tasks)
            stream.close()
            context.note(device, state="down")

    def _explained(self, protocol: str, error: DeviceLost) -> DeviceLost:
        """These terminals serve one client at a time and let others wait."""
        self._unanswered += 1
        if protocol == "udp" or self._unanswered < BUSY_FROM:
            return error
        return DeviceLost(
            "设备被占用：可能有其他软件正在连接 / busy: the terminal takes connections without"
            f" answering, {self._unanswered} times now; other software may be connected"
        )


async def _first_of(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for the first to end, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _read_key(path: str) -> int | None:
    if not path:
        return None
    try:
        return int(Path(path).read_text("ascii").strip())
    except OSError as error:
        raise DeviceRefused(f"通讯密码文件无法读取 / comm_key_file: {error}") from error
    except ValueError:
        raise DeviceRefused(
            f"通讯密码文件内容无效 / comm_key_file {path}: expected one whole number"
        ) from None


async def _connect(options: ZkTecoOptions, known: str | None) -> tuple[str, _Stream]:
    """A connection by the first protocol that can be had, the known one first.

    That a terminal listens on UDP shows only when it answers.
    """
    refusal: Exception | None = None
    if options.protocol == "tcp" or (options.protocol == "auto" and known != "udp"):
        try:
            async with asyncio.timeout(PATIENCE):
                return "tcp", _Tcp(*await asyncio.open_connection(options.host, options.port))
        except OSError as error:
            refusal = error
    if options.protocol != "tcp":
        try:
            transport, stream = await asyncio.get_running_loop().create_datagram_endpoint(
                _Udp, remote_addr=(options.host, options.port)
            )
        except OSError as error:
            refusal = error
        else:
            stream.transport = transport
            # Boards send a whole log in one go where it can only be read in one.
            link: socket.socket = transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            return "udp", stream
    where = f"{options.host}:{options.port}"
    raise DeviceLost(f"无法连接终端 / no connection to {where}: {refusal or 'timed out'}")


DRIVER = ZkTeco
