"""Plays a ZKTeco terminal on its own port (4370), over TCP and UDP.

For the demo, for commissioning without hardware, and for tests: it is written from the wire format
alone and shares nothing with the driver, so that one mistake cannot hide in both.

======  ====  =====================================================================
offset  size  field, little-endian; TCP puts ``50 50 82 7D`` and a u32 length before
======  ====  =====================================================================
0       2     command or reply code
2       2     ones' complement of the folded sum of all 16-bit words (itself as 0)
4       2     session id; the event's code in an event
6       2     reply id, echoed in every packet of the answer; 0 in an event
8       n     data
======  ====  =====================================================================

Source: public descriptions of the standalone protocol and captures of real terminals.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from struct import Struct
from struct import error as StructError
from typing import Literal, NamedTuple

from drivers.emulators.clock import TerminalClock

CONNECT, EXIT, AUTH = 1000, 1001, 1102
ENABLE, DISABLE, REFRESH_DATA, REFRESH_OPTIONS = 1002, 1003, 1013, 1014
GET_VERSION, READ_OPTION, WRITE_OPTION = 1100, 11, 12
FREE_SIZES, PIN_WIDTH, STATE, GET_TIME, SET_TIME = 50, 69, 64, 201, 202
PREPARE_BUFFER, READ_BUFFER, FREE_BUFFER = 1503, 1504, 1502
READ_LOG, READ_USERS, READ_OPERATIONS = 13, 9, 34
REGISTER, START_VERIFY, CANCEL_CAPTURE = 500, 60, 62

ACK_OK, ACK_ERROR, ACK_DATA, RETRY, UNAUTHORISED = 2000, 2001, 2002, 2003, 2005
PREPARE_DATA, DATA = 1500, 1501
UNKNOWN, ERROR_DATA = 65535, 65531

MAGIC = b"\x50\x50\x82\x7d"
INLINE = 1016
"""Bodies up to this many bytes come in the first answer: a packet of 1 KiB."""
DATAGRAM = 1024
"""Data bytes in one packet of a bulk transfer over UDP."""
ANNOUNCED_PACKET = 4096
"""Packet size in PREPARE_DATA; a hint that terminals do not keep to."""

RecordLayout = Literal[8, "8alt", 16, 40, 49]
UserLayout = Literal[28, 72]

_HEADER = Struct("<4H")
_WRAPPER = Struct("<4sI")
_U32 = Struct("<I")
_U32_PAIR = Struct("<II")
_RECORD_8 = Struct("<HBIB")  # uid, verify, time, state
_RECORD_8_ALT = Struct("<HBBI")  # uid, verify, state, time
_RECORD_16 = Struct("<IIBBxxI")  # user id, time, verify, state, work code
_RECORD_40 = Struct("<H24sBIB8s")  # uid, user id, verify, time, state, reserved
_RESERVED = bytes.fromhex("00000000ff000000")
_TAIL_49 = bytes.fromhex("ff3235350000000000")
_USER_28 = Struct("<HB5s8sIxBHI")  # uid, privilege, password, name, card, group, zone, user id
_USER_72 = Struct("<HB8s24sIB8s24s")  # the same order, four time zone words before the user id


class ZkRecord(NamedTuple):
    """One row of the log.  ``at`` is the terminal's wall time, or the raw number for times that no
    calendar has.  ``uid`` 0 stands for the uid the user list gives to ``user_id``."""

    user_id: str
    at: datetime | int
    verify: int = 1
    state: int = 0
    uid: int = 0
    work_code: int = 0


@dataclass(frozen=True, slots=True)
class ZkUser:
    """A person enrolled on the terminal; ``fingers`` only counts their templates."""

    uid: int
    user_id: str
    name: str = ""
    privilege: int = 0
    card: int = 0
    password: str = ""
    group: int = 1
    fingers: int = 1


def checksum(packet: bytes) -> int:
    """Of a packet whose checksum field is zero."""
    return ~_fold(packet) & 0xFFFF


def _fold(packet: bytes) -> int:
    """The 16-bit words added with the carry brought round: as one number, modulo 65535."""
    number = int.from_bytes(packet, "little")
    return number % 0xFFFF or (0xFFFF if number else 0)


def build(command: int, session: int, reply: int, data: bytes = b"") -> bytes:
    """A packet, without the wrapper of TCP."""
    blank = _HEADER.pack(command, 0, session, reply) + data
    return _HEADER.pack(command, checksum(blank), session, reply) + data


def wrap(packet: bytes) -> bytes:
    return _WRAPPER.pack(MAGIC, len(packet)) + packet


def encode_time(at: datetime | int) -> int:
    """Seconds in months that all have 31 days, since 2000."""
    if isinstance(at, int):
        return at
    days = (at.year % 100) * 372 + (at.month - 1) * 31 + at.day - 1
    return ((days * 24 + at.hour) * 60 + at.minute) * 60 + at.second


def decode_time(number: int) -> datetime:
    """``ValueError`` for the days that no month has."""
    number, second = divmod(number, 60)
    number, minute = divmod(number, 60)
    number, hour = divmod(number, 24)
    number, day = divmod(number, 31)
    year, month = divmod(number, 12)
    return datetime(2000 + year, month + 1, day + 1, hour, minute, second)  # noqa: DTZ001


def scramble(comm_key: int, session: int, ticks: int) -> bytes:
    """What a client that knows the comm key sends with AUTH."""
    mirrored = int(f"{comm_key:032b}"[::-1], 2)
    _, b1, b2, b3 = _U32.pack((mirrored + session) & 0xFFFFFFFF)
    return bytes((b2 ^ 0x53 ^ ticks, b3 ^ 0x4F ^ ticks, ticks, b1 ^ 0x4B ^ ticks))


def encode_record(record: ZkRecord, layout: RecordLayout) -> bytes:
    user_id, at, verify, state, uid, work_code = record
    time = encode_time(at)
    match layout:
        case 8:
            return _RECORD_8.pack(uid, verify, time, state)
        case "8alt":
            return _RECORD_8_ALT.pack(uid, verify, state, time)
        case 16:
            return _RECORD_16.pack(_number(user_id), time, verify, state, work_code)
    text = user_id.encode("ascii", "replace")
    row = _RECORD_40.pack(uid, text, verify, time, state, _RESERVED)
    return row if layout == 40 else row + _TAIL_49


def encode_user(user: ZkUser, layout: UserLayout, encoding: str) -> bytes:
    """Names are cut to their field by bytes, if need be in the middle of a character."""
    name = user.name.encode(encoding, "replace")
    password = user.password.encode("ascii", "replace")
    if layout == 28:
        number = _number(user.user_id)
        return _USER_28.pack(
            user.uid, user.privilege, password, name, user.card, user.group, 0, number
        )
    text = user.user_id.encode("ascii", "replace")
    return _USER_72.pack(user.uid, user.privilege, password, name, user.card, user.group, b"", text)


def encode_event(record: ZkRecord, length: int) -> bytes:
    """An attendance event; ``length`` 10, 12 or 14 carries a number, 32 and more the id's text."""
    at = record.at
    assert isinstance(at, datetime)
    seconds = bytes((at.year % 100, at.month, at.day, at.hour, at.minute, at.second))
    codes = bytes((record.verify, record.state))
    if length == 12:
        who = _U32.pack(_number(record.user_id))
    elif length < 32:
        who = (_number(record.user_id) & 0xFFFF).to_bytes(2, "little")
    else:
        who = record.user_id.encode("ascii", "replace")[:24].ljust(24, b"\0")
    return (who + codes + seconds).ljust(length, b"\0")


def _number(user_id: str) -> int:
    return int(user_id) & 0xFFFFFFFF if user_id.isdecimal() else 0


def unwrap(buffer: bytearray) -> Iterator[bytes]:
    """Take the complete packets off the front; bytes that cannot be one are skipped."""
    while True:
        start = buffer.find(MAGIC)
        if start < 0:
            del buffer[: max(0, len(buffer) - 3)]
            return
        del buffer[:start]
        if len(buffer) < 8:
            return
        length = _WRAPPER.unpack_from(buffer)[1]
        if not 8 <= length <= 1 << 20:
            del buffer[:4]
            continue
        if len(buffer) < 8 + length:
            return
        packet = bytes(buffer[8 : 8 + length])
        del buffer[: 8 + length]
        yield packet


class ZkTerminal:
    """One terminal.  ``clock`` gives the true local wall time, naive; the terminal's own clock is
    ``terminal.clock`` and may be wrong.

    Set an attribute at any time to play a fault; all of them start harmless.
    """

    def __init__(
        self,
        serial: str,
        *,
        clock: Callable[[], datetime],
        users: Iterable[ZkUser] = (),
        records: Iterable[ZkRecord] = (),
        comm_key: int = 0,
        transport: Literal["tcp", "udp", "both"] = "both",
        record_layout: RecordLayout = 40,
        user_layout: UserLayout = 72,
        event_layout: int = 32,
        encoding: str = "gbk",
        firmware: str = "Ver 6.60 Apr 28 2017",
        device_name: str = "iFace702",
        capacity: int = 100_000,
        user_capacity: int = 10_000,
        options: dict[str, str] | None = None,
        first_session: int = 0x1F2E,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.serial = serial
        self.users = list(users)
        self.comm_key = comm_key
        self.transport = transport
        self.record_layout: RecordLayout = record_layout
        self.user_layout: UserLayout = user_layout
        self.event_layout = event_layout
        self.encoding = encoding
        self.firmware = firmware
        self.capacity = capacity
        self.user_capacity = user_capacity
        self.clock = TerminalClock(clock)
        self._pin_width = 24 if user_layout == 72 else 9
        self.options = {
            "~SerialNumber": serial,
            "~DeviceName": device_name,
            "~Platform": "ZMM220_TFT",
            "~OS": "1",
            "~ZKFPVersion": "10",
            "~ExtendFmt": "0",
            "~UserExtFmt": "0",
            "~PIN2Width": str(self._pin_width),
            "MAC": "00:17:61:c8:ec:17",
            "DeviceID": "1",
            "Language": "83" if encoding == "gbk" else "69",
            "WorkCode": "0",
            **(options or {}),
        }
        """What OPTIONS_RRQ finds; any other name is answered with 2001."""

        self.slow = 0.0
        """Seconds before every answer."""
        self.silent = False
        """Takes connections and requests, and never says anything."""
        self.cut_after: int | None = None
        """The TCP connection ends after this many more bytes, once."""
        self.fragment: int | None = None
        """TCP bytes go out in pieces of this many."""
        self.glue = 1
        """Live events wait until so many are together; an answer takes the waiting ones along,
        behind its first packet."""
        self.tcp_packet = 0xFFC0
        """Data bytes in one packet of a bulk transfer over TCP."""
        self.buffered_read = True
        """False: 1503 and 1504 are unknown commands, only the old direct reads work."""
        self.inline_code = DATA
        """Reply code of a short direct read: DATA, or ACK_DATA on old firmware."""
        self.prefix_counts = False
        """The body's first word is the number of rows instead of bytes."""
        self.access_control_mode = False
        """The log is not shown to this protocol: no records in the sizes, nothing to read."""
        self.sizes_length = 92
        self.refuse_new_sessions = False
        self.second_session: Literal["allow", "hang", "kick"] = "allow"
        self.keeps_lost_sessions = False
        """A session whose connection broke lives on until ``forget_sessions`` or power off."""
        self.late_auth = False
        """CONNECT is answered with ACK_OK although there is a comm key; the next command is not."""
        self.answers_exit = True
        self.ask_to_repeat = 0
        """So many next commands are answered with RETRY."""
        self.stale_replies = 0
        """So many next answers come behind an answer to the request before."""
        self.lose_next = 0
        """So many next UDP packets of a bulk transfer get lost."""
        self.checksum_error = 0
        """Added to the checksum of everything sent; 1 is what some clones do."""
        self.event_ack_required = False
        """A session that did not acknowledge an event gets no more of them until it registers
        again."""
        self.ack_wait = 5.0
        """Seconds ``punch`` waits for the acknowledgement of its event."""
        self.overwrites_when_full = False
        """A full log loses its oldest row; otherwise the terminal refuses to punch."""
        self.before_answer: Callable[[int], Awaitable[None]] | None = None
        """Called with every command before it is answered: the moment to do something to it."""

        self.asked: Counter[int] = Counter()
        """How often each command was received."""
        self.rejected = 0
        """Packets received with a wrong checksum, dropped."""
        self.unplugged = False
        self.powered_off = False
        self.port = 0

        self._sleep = sleep
        self._records = list(records)
        self._encoded = bytearray()
        self._encoded_rows = 0
        self._disabled_until: datetime | None = None
        self._sessions: dict[int, _Session] = {}
        self._next_session = first_session
        self._registration: asyncio.Event
        self._host = ""
        self._anchor: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._connections: dict[asyncio.Task[None], _TcpLink] = {}
        self._datagrams: asyncio.Queue[tuple[bytes, _UdpLink]]
        self._udp_links: dict[tuple[str, int], _UdpLink] = {}
        self._udp_worker: asyncio.Task[None] | None = None

    # What happens at the terminal

    @property
    def records(self) -> Sequence[ZkRecord]:
        return self._records

    def record(
        self, user_id: str, at: datetime | int | None = None, verify: int = 1, state: int = 0
    ) -> bool:
        """A punch that goes to the log only, as if nobody were connected.  False: the terminal
        was off, disabled or full, and the person could not punch."""
        if self.powered_off or self.disabled:
            return False
        if len(self._records) >= self.capacity:
            if not self.overwrites_when_full:
                return False
            self._rows()
            row = len(self._encoded) // self._encoded_rows
            del self._records[0], self._encoded[:row]
            self._encoded_rows -= 1
        uid = self._uids().get(user_id, 0)
        when = self.clock.now().replace(microsecond=0) if at is None else at
        self._records.append(ZkRecord(user_id, when, verify, state, uid))
        return True

    async def punch(
        self, user_id: str, at: datetime | None = None, verify: int = 1, state: int = 0
    ) -> bool:
        """A punch, told to every session that registered for it; returns when they acknowledged
        it, or after ``ack_wait`` seconds."""
        if not self.record(user_id, at, verify, state):
            return False
        await self.send_event(1, encode_event(self._records[-1], self.event_layout))
        return True

    async def send_event(self, code: int, payload: bytes = b"") -> None:
        """Any event of the protocol: 1 attendance, 2 finger, 128 attempt, 512 alarm..."""
        if self.silent or self.unplugged:
            return
        packet = self._packet(REGISTER, code, 0, payload)
        listening = [s for s in self._sessions.values() if s.mask & code and not s.deaf]
        await asyncio.gather(*(session.tell(packet) for session in listening))

    def replay(self, rows: int) -> None:
        """The newest rows appear a second time, exactly alike."""
        self._records += self._records[-rows:]

    def clear_log(self) -> None:
        self._records.clear()
        self._encoded.clear()
        self._encoded_rows = 0

    def set_clock_offset(self, seconds: float) -> None:
        """The terminal's clock is so many seconds ahead of the true time from now on."""
        self.clock.offset = seconds

    @property
    def disabled(self) -> bool:
        """A client has locked the terminal: it shows "working" and takes no punch."""
        return self._disabled_until is not None and self.clock.now() < self._disabled_until

    # Network and power

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port, a free one for 0."""
        self._host = host
        self._registration = asyncio.Event()
        self._datagrams = asyncio.Queue(1000)
        # The anchor keeps the port while the terminal is unplugged: it is bound, never listening.
        self._anchor = _bound(host, port)
        self.port = self._anchor.getsockname()[1]
        if self.transport != "tcp":
            loop = asyncio.get_running_loop()
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self._received), local_addr=(host, self.port)
                )
            except OSError:
                self._anchor.close()
                if port:
                    raise
                return await self.start(host)  # free for TCP is not always free for UDP
            self._udp_worker = asyncio.create_task(self._serve_udp())
        await self._listen()
        return self.port

    async def stop(self) -> None:
        await self._hang_up()
        self.forget_sessions()
        if self._udp:
            self._udp.close()
            self._udp = None
        if self._anchor:
            self._anchor.close()
            self._anchor = None
        worker, self._udp_worker = self._udp_worker, None
        if worker:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    async def unplug(self) -> None:
        """The network cable is out: connections break, new ones are refused, people go on
        punching."""
        self.unplugged = True
        await self._hang_up()

    async def plug_in(self) -> None:
        self.unplugged = False
        if not self.powered_off:
            await self._listen()

    async def power_off(self) -> None:
        self.powered_off = True
        await self._hang_up()

    async def power_on(self) -> None:
        self.powered_off = False
        self._disabled_until = None
        if not self.unplugged:
            await self._listen()

    def forget_sessions(self) -> None:
        for session in list(self._sessions.values()):
            self._end(session)

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    async def registered(self) -> None:
        """Returns as soon as a session is registered for events."""
        await self._registration.wait()

    async def _listen(self) -> None:
        if self.transport != "udp" and not self._server:
            listener = _bound(self._host, self.port)
            self._server = await asyncio.start_server(self._serve_tcp, sock=listener)

    async def _hang_up(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for link in self._connections.values():
            link.abort()
        if others := self._connections.keys() - {asyncio.current_task()}:
            await asyncio.wait(others)
        if self.powered_off or not self.keeps_lost_sessions:
            self.forget_sessions()
            self._udp_links.clear()

    # Sessions

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _TcpLink(self, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = link
        buffer = bytearray()
        try:
            while received := await reader.read(65_536):
                buffer += received
                for packet in unwrap(buffer):
                    await self._take(packet, link)
        except OSError:
            pass
        finally:
            del self._connections[task]
            for session in list(self._sessions.values()):
                if session.link is link:
                    if self.keeps_lost_sessions and not self.powered_off:
                        session.mask = 0
                    else:
                        self._end(session)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _received(self, datagram: bytes, address: tuple[str, int]) -> None:
        if self.unplugged or self.powered_off or self._udp is None:
            return
        link = self._udp_links.get(address)
        if link is None:
            if len(self._udp_links) >= 100:
                del self._udp_links[next(iter(self._udp_links))]
            link = self._udp_links[address] = _UdpLink(self, self._udp, address)
        with suppress(asyncio.QueueFull):
            self._datagrams.put_nowait((datagram, link))

    async def _serve_udp(self) -> None:
        while True:
            await self._take(*await self._datagrams.get())

    async def _take(self, packet: bytes, link: _TcpLink | _UdpLink) -> None:
        if len(packet) < 8 or _fold(packet) != 0xFFFF:
            self.rejected += 1
            return
        command, _, session_id, reply_id = _HEADER.unpack_from(packet)
        session = self._sessions.get(session_id)
        if session and session.link is not link:
            session = None
        if command == ACK_OK:
            if session:
                session.acknowledged()
            return
        self.asked[command] += 1
        if self.before_answer:
            await self.before_answer(command)
        if self.slow:
            await self._sleep(self.slow)
        if self.silent:
            return
        if self.ask_to_repeat > 0:
            self.ask_to_repeat -= 1
            packets = [self._packet(RETRY, session_id, reply_id)]
        elif command == CONNECT:
            packets = self._connect(link, reply_id)
        elif session is None:
            packets = [self._packet(UNAUTHORISED, session_id, reply_id)]
        else:
            packets = self._answer(session, command, reply_id, packet[8:])
        if packets and self.stale_replies > 0:
            self.stale_replies -= 1
            packets.insert(0, self._packet(ACK_OK, session_id, (reply_id - 1) % 65_535))
        if packets:
            await link.answer(packets)

    def _packet(self, command: int, session: int, reply: int, data: bytes = b"") -> bytes:
        packet = build(command, session, reply, data)
        if self.checksum_error:
            wrong = (int.from_bytes(packet[2:4], "little") + self.checksum_error) & 0xFFFF
            packet = packet[:2] + wrong.to_bytes(2, "little") + packet[4:]
        return packet

    def _connect(self, link: _TcpLink | _UdpLink, reply_id: int) -> list[bytes]:
        if self.refuse_new_sessions:
            return [self._packet(ACK_ERROR, 0, reply_id)]
        for other in list(self._sessions.values()):
            if other.link is link or self.second_session == "kick":
                self._end(other)
                if other.link is not link:
                    other.link.abort()
        if self._sessions and self.second_session == "hang":
            return []
        session = _Session(self._next_session, link, self, authorised=not self.comm_key)
        self._sessions[session.id] = session
        self._next_session = self._next_session % 0xFFFF + 1
        code = ACK_OK if session.authorised or self.late_auth else UNAUTHORISED
        return [self._packet(code, session.id, reply_id)]

    def _end(self, session: _Session) -> None:
        self._sessions.pop(session.id, None)
        session.mask = 0
        while session.unacknowledged:
            session.acknowledged()
        self._note_registrations()

    def _note_registrations(self) -> None:
        if any(session.mask for session in self._sessions.values()):
            self._registration.set()
        else:
            self._registration.clear()

    # Commands

    def _answer(self, session: _Session, command: int, reply: int, data: bytes) -> list[bytes]:
        def packet(code: int, body: bytes = b"") -> bytes:
            return self._packet(code, session.id, reply, body)

        if command == EXIT:
            self._end(session)
            return [packet(ACK_OK)] if self.answers_exit else []
        if command == AUTH:
            ticks = data[2] if len(data) == 4 else 0
            session.authorised = data == scramble(self.comm_key, session.id, ticks)
            return [packet(ACK_OK if session.authorised else UNAUTHORISED)]
        if not session.authorised:
            return [packet(UNAUTHORISED)]
        if command in (PREPARE_BUFFER, READ_BUFFER, FREE_BUFFER):
            return self._answer_buffered(session, command, data, packet)
        if command in (READ_LOG, READ_USERS, READ_OPERATIONS):
            body = self._body(command)
            if len(body) <= INLINE:
                return [packet(self.inline_code, body)]
            return self._burst(session.link, body, _U32.pack(len(body)), packet)
        if command == READ_OPTION:
            name = data.split(b"\0")[0].decode("ascii", "replace")
            if name not in self.options:
                return [packet(ACK_ERROR)]
            text = f"{name}={self.options[name]}".encode(self.encoding, "replace")
            return [packet(ACK_OK, text + b"\0")]
        if command == GET_VERSION:
            return [packet(ACK_OK, self.firmware.encode("ascii", "replace") + b"\0")]
        if command == PIN_WIDTH:
            return [packet(ACK_OK, bytes((self._pin_width,)))]
        if command == STATE:  # the state, here "waiting", stands where the session id belongs
            return [self._packet(ACK_OK, 0, reply)]
        if command == FREE_SIZES:
            return [packet(ACK_OK, self._sizes())]
        if command == GET_TIME:
            return [packet(ACK_OK, _U32.pack(encode_time(self.clock.now())))]
        if command == SET_TIME:
            try:
                self.clock.set(decode_time(_U32.unpack(data)[0]))
            except (ValueError, StructError):
                return [packet(ERROR_DATA)]
        elif command == REGISTER:
            if len(data) != 4:
                return [packet(ERROR_DATA)]
            session.mask = _U32.unpack(data)[0]
            session.deaf = False
            self._note_registrations()
        elif command == DISABLE:
            seconds = int.from_bytes(data[:4], "little") or 365 * 86_400
            self._disabled_until = self.clock.now() + timedelta(seconds=seconds % (1 << 31))
        elif command == ENABLE:
            self._disabled_until = None
        elif command not in (REFRESH_DATA, REFRESH_OPTIONS, START_VERIFY, CANCEL_CAPTURE):
            return [packet(UNKNOWN)]
        return [packet(ACK_OK)]

    def _answer_buffered(
        self, session: _Session, command: int, data: bytes, packet: Callable[..., bytes]
    ) -> list[bytes]:
        if not self.buffered_read:
            return [packet(UNKNOWN)]
        if command == FREE_BUFFER:
            session.buffer = None
            return [packet(ACK_OK)]
        if command == PREPARE_BUFFER:
            if len(data) != 11:
                return [packet(ERROR_DATA)]
            if session.buffer is None:  # one that was not freed is offered again
                wanted = int.from_bytes(data[1:3], "little")
                if wanted not in (READ_LOG, READ_USERS, READ_OPERATIONS):
                    return [packet(ACK_ERROR)]
                body = self._body(wanted)
                if len(body) <= INLINE:
                    return [packet(DATA, body)]
                session.buffer = body
            total = _U32.pack(len(session.buffer))
            return [packet(ACK_OK, b"\0" + total + total + bytes(4))]
        if session.buffer is None or len(data) != 8:
            return [packet(ERROR_DATA)]
        start, size = _U32_PAIR.unpack(data)
        if start + size > len(session.buffer):
            return [packet(ERROR_DATA)]
        chunk = session.buffer[start : start + size]
        if size <= DATAGRAM:
            return [packet(DATA, chunk)]
        return self._burst(session.link, chunk, _U32_PAIR.pack(size, ANNOUNCED_PACKET), packet)

    def _burst(
        self,
        link: _TcpLink | _UdpLink,
        body: bytes,
        announced: bytes,
        packet: Callable[..., bytes],
    ) -> list[bytes]:
        step = DATAGRAM if isinstance(link, _UdpLink) else self.tcp_packet
        pieces = (body[start : start + step] for start in range(0, len(body), step))
        return [
            packet(PREPARE_DATA, announced),
            *(packet(DATA, piece) for piece in pieces),
            packet(ACK_OK),
        ]

    def _body(self, wanted: int) -> bytes:
        if wanted == READ_USERS:
            rows = b"".join(
                encode_user(user, self.user_layout, self.encoding) for user in self.users
            )
            count = len(self.users)
        elif wanted == READ_LOG and not self.access_control_mode:
            rows = self._rows()
            count = len(self._records)
        else:
            rows, count = b"", 0
        return _U32.pack(count if self.prefix_counts else len(rows)) + rows

    def _rows(self) -> bytes:
        """The log as the terminal keeps it; only rows not asked for before are encoded."""
        uids = self._uids()
        for record in self._records[self._encoded_rows :]:
            if not record.uid:
                record = record._replace(uid=uids.get(record.user_id, 0))
            self._encoded += encode_record(record, self.record_layout)
        self._encoded_rows = len(self._records)
        return bytes(self._encoded)

    def _uids(self) -> dict[str, int]:
        return {user.user_id: user.uid for user in self.users}

    def _sizes(self) -> bytes:
        fields = [0] * max(23, -(-self.sizes_length // 4))
        records = 0 if self.access_control_mode else len(self._records)
        fields[4] = len(self.users)
        fields[6] = fingers = sum(user.fingers for user in self.users)
        fields[8] = records
        fields[12] = sum(user.privilege & 0x0E != 0 for user in self.users)
        fields[13] = sum(user.password != "" for user in self.users)
        fields[14] = 3 * self.user_capacity
        fields[15] = self.user_capacity
        fields[16] = self.capacity
        fields[17] = fields[14] - fingers
        fields[18] = self.user_capacity - len(self.users)
        fields[19] = self.capacity - records
        fields[22] = 1500  # faces: none enrolled
        return b"".join(map(_U32.pack, fields))[: self.sizes_length]


class _Session:
    def __init__(
        self, number: int, link: _TcpLink | _UdpLink, terminal: ZkTerminal, authorised: bool
    ) -> None:
        self.id = number
        self.link = link
        self.authorised = authorised
        self.mask = 0
        self.deaf = False
        self.buffer: bytes | None = None
        self.unacknowledged: deque[asyncio.Future[None]] = deque()
        self._terminal = terminal

    async def tell(self, packet: bytes) -> None:
        answer = asyncio.get_running_loop().create_future()
        self.unacknowledged.append(answer)
        try:
            async with asyncio.timeout(self._terminal.ack_wait):
                await self.link.event(packet)
                await answer
        except TimeoutError:
            self.deaf = self._terminal.event_ack_required
        finally:
            if answer in self.unacknowledged:
                self.unacknowledged.remove(answer)

    def acknowledged(self) -> None:
        if self.unacknowledged:
            answer = self.unacknowledged.popleft()
            if not answer.done():
                answer.set_result(None)


class _TcpLink:
    def __init__(self, terminal: ZkTerminal, writer: asyncio.StreamWriter) -> None:
        self._terminal = terminal
        self._writer = writer
        self._held: list[bytes] = []
        self._writing = asyncio.Lock()

    async def answer(self, packets: Sequence[bytes]) -> None:
        first, *rest = packets
        held, self._held = self._held, []
        await self._write([first, *held, *rest])

    async def event(self, packet: bytes) -> None:
        self._held.append(packet)
        if len(self._held) >= self._terminal.glue:
            held, self._held = self._held, []
            await self._write(held)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _write(self, packets: Sequence[bytes]) -> None:
        terminal = self._terminal
        out = b"".join(map(wrap, packets))
        async with self._writing:
            cut, terminal.cut_after = terminal.cut_after, None
            if cut is not None and cut >= len(out):
                terminal.cut_after = cut - len(out)
                cut = None
            out = out[:cut]
            step = terminal.fragment or len(out) or 1
            with suppress(OSError):
                for start in range(0, len(out), step):
                    self._writer.write(out[start : start + step])
                    await self._writer.drain()
                    if terminal.fragment:
                        await asyncio.sleep(0)
            if cut is not None:
                self._writer.close()


class _UdpLink:
    def __init__(
        self,
        terminal: ZkTerminal,
        transport: asyncio.DatagramTransport,
        address: tuple[str, int],
    ) -> None:
        self._terminal = terminal
        self._transport = transport
        self._address = address

    async def answer(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            if self._terminal.lose_next > 0 and _HEADER.unpack_from(packet)[0] == DATA:
                self._terminal.lose_next -= 1
            else:
                self._transport.sendto(packet, self._address)

    async def event(self, packet: bytes) -> None:
        self._transport.sendto(packet, self._address)

    def abort(self) -> None:
        """A datagram peer notices nothing."""


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._received(data, address)


def _bound(host: str, port: int) -> socket.socket:
    """A TCP socket that holds a port; two of them may, as long as only one listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its number asyncio knows the protocol and sets TCP_NODELAY on each connection.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
