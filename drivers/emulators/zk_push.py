"""Plays a ZKTeco terminal that pushes to a server over HTTP ("ADMS", "cloud server").

For the demo, for commissioning without hardware, and for tests.  The terminal is the client and
writes its requests byte by byte, so that everything seen in the field can be played: odd paths and
headers, cut bodies, clones' rows.  Two dialects:

``att``  ``GET cdata?options=all`` is answered with the options; then ``POST cdata?table=ATTLOG``
         (rows of tab-separated columns), ``table=OPERLOG`` (users, operations), ``getrequest``
         polls whose answer may carry commands, ``devicecmd`` with their results.
``acc``  ``GET cdata?options=all`` is answered ``OK``; ``registry`` gives a RegistryCode, ``push``
         the options; then ``table=rtlog`` (``key=value`` pairs), ``rtstate``, ``tabledata``, polls.

An upload is done when the answer is 200 and begins with ``OK`` (``tabledata``: is
``<table>=<rows>``).  After anything else the terminal waits ErrorDelay and sends the same again.

Source: the vendor's descriptions of both dialects and field notes about real terminals.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import Literal, NamedTuple
from urllib.parse import quote

from drivers.emulators.clock import TerminalClock

ANSWER_LIMIT = 1 << 20
"""The terminal reads no longer answers than this."""
PIECE = 65_536


class PushRecord(NamedTuple):
    """One row of the log.  ``at`` is the terminal's wall time; ``event`` matters to the ``acc``
    dialect only (0: somebody was let in)."""

    user_id: str
    at: datetime
    verify: int = 1
    state: int = 0
    work_code: str = "0"
    event: int = 0


@dataclass(frozen=True, slots=True)
class PushUser:
    user_id: str
    name: str = ""
    privilege: int = 0
    card: int = 0
    password: str = ""
    fingers: int = 1


class NotAcknowledged(Exception):
    """The server answered something else than the terminal needs to go on."""


@dataclass(frozen=True, slots=True)
class _Upload:
    target: str
    body: bytes
    expected: bytes = b"OK"


class PushTerminal:
    """One terminal.  ``clock`` gives the true local wall time, naive; the terminal's own clock is
    ``terminal.clock`` and may be wrong.

    ``delay`` and ``error_delay`` (seconds) are used instead of what the server asks for.  Set an
    attribute at any time to play an oddity; all of them start harmless.
    """

    def __init__(
        self,
        serial: str,
        server: tuple[str, int],
        *,
        clock: Callable[[], datetime],
        users: Iterable[PushUser] = (),
        records: Iterable[PushRecord] = (),
        dialect: Literal["att", "acc"] = "att",
        pushver: str = "",
        language: int = 83,
        comm_key: str = "",
        encoding: str = "gbk",
        device_name: str = "SpeedFace-V5L",
        firmware: str = "Ver 2.0.12-20150625",
        mac: str = "00:17:61:12:34:56",
        address: str = "192.168.16.27",
        delay: float | None = None,
        error_delay: float | None = None,
        batch: int = 100,
        path_prefix: str = "/iclock",
        path_suffix: str = "",
        follows_server_clock: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.serial = serial
        self.server = server
        self.users = list(users)
        self.dialect = dialect
        self.pushver = pushver or ("2.4.1" if dialect == "att" else "3.1.2")
        self.language = language
        self.comm_key = comm_key
        self.encoding = encoding
        self.device_name = device_name
        self.firmware = firmware
        self.mac = mac
        self.address = address
        self.batch = batch
        """Rows in one upload."""
        self.path_prefix = path_prefix
        self.path_suffix = path_suffix
        self.follows_server_clock = follows_server_clock
        """The clock is set from the Date header of every answer and the server's TimeZone."""
        self.clock = TerminalClock(clock)

        # Oddities of the transport
        self.keep_alive = False
        self.http_version: Literal["1.1", "1.0"] = "1.1"
        self.host_header = True
        self.expect_continue = False
        self.connection_header = ""
        """Something else than ``close`` or ``keep-alive``, such as ``starting``."""
        self.content_type = "application/push;charset=UTF-8"
        """Empty: the header is left out."""
        self.split_writes: int | None = None
        """Requests go out in pieces of this many bytes."""
        self.slow = 0.0
        """Seconds before the last byte of every request."""
        self.cut_body_after: int | None = None
        """The connection breaks after this many bytes of the next upload's body."""
        self.timeout = 10.0
        """Seconds of real time the terminal waits for an answer."""

        # Oddities of what is sent
        self.columns = 7
        """2 to 12 columns in an ATTLOG row."""
        self.newline = "\n"
        self.row_style: Literal["tabs", "word", "first_space", "spaces"] = "tabs"
        """``word``: every row begins with ATTLOG; the others: a space for the first tab, or all."""
        self.compact_time = False
        self.junk = False
        """A byte order mark before the rows; NUL and 0x1A behind each."""
        self.punches_in_query = False
        """Punches come as ``GET cdata?Pin=...&DateTime=...&Status=...``, one by one."""
        self.repeat_batches = 0
        """So many acknowledged uploads are sent once more."""
        self.follows_stamps = False
        """True: counts its rows in Stamp and goes back to the server's; else Stamp is 9999."""
        self.insists_on_encryption = False
        """Asks for keys when the server's protocol version allows encryption."""
        self.info_every = 5
        """Every so many polls carry INFO."""

        self.requests: Counter[str] = Counter()
        """Answered requests, by last path segment, ``cdata`` by table."""
        self.commands: list[str] = []
        """Commands received, in order."""
        self.failures = 0
        self.online = False
        self.unplugged = False
        self.powered_off = False

        self._sleep = sleep
        self._fixed_delay = delay
        self._fixed_error_delay = error_delay
        self._options: dict[str, str] = {}
        self._records = list(records)
        self._sent = 0
        self._batch_end: int | None = None
        self._uploads: deque[_Upload] = deque()
        self._replies: deque[bytes] = deque()
        self._users_told = False
        self._ready = False
        self._failing = True
        self._registry_code = ""
        self._polls = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    # What happens at the terminal

    @property
    def records(self) -> Sequence[PushRecord]:
        return self._records

    @property
    def unacknowledged(self) -> int:
        """Rows of the log that the server has not acknowledged."""
        return len(self._records) - self._sent

    def record(
        self,
        user_id: str,
        at: datetime | None = None,
        verify: int = 1,
        state: int = 0,
        event: int = 0,
    ) -> bool:
        """A punch; it is sent when the terminal comes to it.  False: the terminal is off and the
        person could not punch."""
        if self.powered_off:
            return False
        when = self.clock.now().replace(microsecond=0) if at is None else at
        self._records.append(PushRecord(user_id, when, verify, state, event=event))
        self._wake.set()
        return True

    async def punch(
        self,
        user_id: str,
        at: datetime | None = None,
        verify: int = 1,
        state: int = 0,
        event: int = 0,
    ) -> bool:
        """A punch; returns when the server acknowledged it, or as soon as the terminal knows that
        it cannot deliver it now."""
        if not self.record(user_id, at, verify, state, event):
            return False
        mark = len(self._records)
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._sent >= mark or self._failing or not self._wanted("AttLog", 1)
            )
        return True

    def enrol(self, user: PushUser) -> None:
        """A user is added or changed on the terminal's keypad."""
        self.users = [known for known in self.users if known.user_id != user.user_id] + [user]
        self._tell_users([user])

    def operation(self, code: int, admin: str = "0", detail: str = "0\t0\t0\t0") -> None:
        """An operation of the terminal's own log: 0 power on, 3 alarm, 21 time set..."""
        row = f"OPLOG {code}\t{admin}\t{self._time(self.clock.now())}\t{detail}\n"
        self.upload("table=OPERLOG&Stamp=9999", row.encode("ascii", "replace"))

    def upload(self, query: str, body: bytes, expected: bytes = b"OK") -> None:
        """Any bytes to ``cdata?SN=...&query``, sent again until the answer is as expected."""
        self._uploads.append(_Upload(f"cdata?SN={self.serial}&{query}", body, expected))
        self._wake.set()

    def upload_biometrics(self, user_id: str) -> None:
        """A finger template and a photo that nobody asked for; no real ones."""
        template = "SW52ZW50ZWQgdGVtcGxhdGU="
        photo = b"\xff\xd8\xff\xe0\x00\x10JFIF"
        name = f"{self.clock.now():%Y%m%d%H%M%S}-{user_id}.jpg"
        head = f"PIN={name}\nSN={self.serial}\nsize={len(photo)}\nCMD=uploadphoto\0".encode()
        finger = f"FP PIN={user_id}\tFID=6\tSize=24\tValid=1\tTMP={template}\n"
        bio = f"BIODATA Pin={user_id}\tNo=0\tIndex=0\tValid=1\tType=9\tTmp={template}\n"
        self.upload("table=OPERLOG&Stamp=9999", finger.encode())
        self.upload("table=BIODATA&Stamp=9999", bio.encode())
        self.upload("table=ATTPHOTO&Stamp=9999", head + photo)

    def door_state(self, sensor: str = "01", relay: str = "00", alarm: str = "00" * 8) -> None:
        """``acc`` only: two bits a door, one bit a door, one byte a door, in hexadecimal."""
        time = self._time(self.clock.now())
        row = f"time={time}\tsensor={sensor}\trelay={relay}\talarm={alarm}{self.newline}"
        self.upload("table=rtstate", row.encode())

    def send_all_again(self) -> None:
        """The whole log counts as not sent."""
        self._sent = 0
        self._batch_end = None
        self._wake.set()

    def set_clock_offset(self, seconds: float) -> None:
        """The terminal's clock is so many seconds ahead of the true time from now on (until the
        server sets it, if ``follows_server_clock``)."""
        self.clock.offset = seconds

    async def delivered(self) -> None:
        """Returns when the terminal has introduced itself and everything is acknowledged."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._users_told and not (self.unacknowledged or self._uploads)
            )

    # Network and power

    async def start(self) -> None:
        if self._task is None and not (self.unplugged or self.powered_off):
            self._failing = False
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._close()
        self._ready = False
        await self._announce(online=False)

    async def unplug(self) -> None:
        """The network cable is out; people go on punching."""
        self.unplugged = True
        await self.stop()

    async def plug_in(self) -> None:
        self.unplugged = False
        await self.start()

    async def power_off(self) -> None:
        self.powered_off = True
        await self.stop()

    async def power_on(self) -> None:
        self.powered_off = False
        if self.dialect == "att":
            self.operation(0)
        else:
            self.record("0", event=206)
        await self.start()

    # The conversation

    async def _run(self) -> None:
        while True:
            try:
                self._wake.clear()
                if not self._ready:
                    await self._shake_hands()
                    self._ready = True
                await self._upload_all()
                await self._poll()
                await self._announce(online=True)
            except (OSError, EOFError, NotAcknowledged) as problem:
                if not isinstance(problem, NotAcknowledged):
                    self._ready = False
                await self._close()
                self.failures += 1
                await self._announce(online=False)
                await self._sleep(self._seconds("ErrorDelay", 30, self._fixed_error_delay))
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Until the next poll, or until there is something to send."""
        name = "Delay" if self.dialect == "att" else "RequestDelay"
        waits = {
            asyncio.ensure_future(self._sleep(self._seconds(name, 10, self._fixed_delay))),
            asyncio.ensure_future(self._wake.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _seconds(self, option: str, default: float, fixed: float | None) -> float:
        if fixed is not None:
            return fixed
        try:
            return float(self._options.get(option, default))
        except ValueError:
            return default

    async def _announce(self, *, online: bool) -> None:
        """Tell those who wait for the server's acknowledgement how things stand."""
        async with self._changed:
            self.online, self._failing = online, not online
            self._changed.notify_all()

    async def _shake_hands(self) -> None:
        query = f"SN={self.serial}&options=all&pushver={self.pushver}&language={self.language}"
        query += f"&DeviceType={self.dialect}"
        if self.comm_key:
            query += f"&pushcommkey={self.comm_key}"
        answer = await self._ask("GET", f"cdata?{query}")
        if self.dialect == "acc":
            await self._register(answer)
        else:
            first = answer.partition(b"\n")[0].strip()
            if first != f"GET OPTION FROM: {self.serial}".encode():
                raise NotAcknowledged(f"the first line of the options is {first!r}")
            self._options = _key_values(answer)
            if self.follows_stamps:
                self._go_back_to(self._options.get("ATTLOGStamp", self._options.get("Stamp", "")))
        if self.insists_on_encryption and self._may_encrypt():
            await self._ask("POST", f"exchange?SN={self.serial}&type=publickey", b"PublicKey=")
        if self._options.get("PushOptionsFlag") == "1":
            await self._deliver(
                _Upload(f"cdata?SN={self.serial}&table=options", self._facts(",").encode())
            )
        if not self._users_told:
            self._tell_users(self.users)
            self._users_told = True

    async def _register(self, answer: bytes) -> None:
        if answer.startswith(b"registry=ok"):
            self._options = _key_values(answer)
            self._registry_code = self._options.get("RegistryCode", "")
            if not self._registry_code:
                raise NotAcknowledged("registered, but no RegistryCode")
        else:
            body = f"DeviceType=acc,FirmVer={self.firmware},PushVersion=Ver {self.pushver},"
            body += f"LockCount=1,{self._facts(',')}"
            given = await self._ask("POST", f"registry?SN={self.serial}", body.encode())
            self._registry_code = _key_values(given).get("RegistryCode", "")
            if not self._registry_code:
                raise NotAcknowledged("the server gave no RegistryCode")
            self._options = _key_values(await self._ask("POST", f"push?SN={self.serial}"))

    def _go_back_to(self, stamp: str) -> None:
        """The server's stamp is the number of rows it has; ``None`` says nothing."""
        if stamp.isdecimal() and int(stamp) < self._sent:
            self._sent = int(stamp)
            self._batch_end = None

    def _may_encrypt(self) -> bool:
        version = self._options.get("PushProtVer", "2.2.14").split(".")
        limit = [2, 4, 0] if self.dialect == "att" else [3, 1, 1]
        return [int(part) for part in version if part.isdecimal()] >= limit

    def _wanted(self, word: str, bit: int) -> bool:
        """Whether TransFlag asks for it: by word, or by its place in the bit string."""
        flag = self._options.get("TransFlag")
        if flag is None:
            return True
        if set(flag) <= {"0", "1"}:
            return flag[bit - 1 : bit] == "1"
        return word.lower() in flag.lower().split()

    # Uploads

    async def _upload_all(self) -> None:
        first = True
        while True:
            if self._sent < len(self._records) and self._wanted("AttLog", 1):
                end = self._batch_end or min(self._sent + self.batch, len(self._records))
                if not first and self._options.get("SupportPing") == "1":
                    await self._ask("GET", f"ping?SN={self.serial}")
                self._batch_end = end  # the same rows again, whatever comes meanwhile
                await self._upload_rows(self._records[self._sent : end], end)
                if self.repeat_batches > 0:
                    self.repeat_batches -= 1
                    await self._upload_rows(self._records[self._sent : end], end)
                self._sent, self._batch_end = end, None
            elif self._uploads:
                await self._deliver(self._uploads[0])
                self._uploads.popleft()
            else:
                return
            first = False
            async with self._changed:
                self._changed.notify_all()

    async def _upload_rows(self, rows: Sequence[PushRecord], end: int) -> None:
        if self.punches_in_query:
            for row in rows:
                query = f"Pin={row.user_id}&DateTime={quote(self._time(row.at))}&Status={row.state}"
                answer = await self._ask("GET", f"cdata?SN={self.serial}&{query}")
                if not answer.startswith(b"OK"):
                    raise NotAcknowledged(repr(answer[:40]))
        else:
            await self._deliver(self._rows(rows, end))

    def _rows(self, rows: Sequence[PushRecord], end: int) -> _Upload:
        if self.dialect == "acc":
            first = end - len(rows) + 1
            lines = [self._rtlog_row(row, first + n) for n, row in enumerate(rows)]
            return _Upload(f"cdata?SN={self.serial}&table=rtlog", "".join(lines).encode())
        stamp = end if self.follows_stamps else 9999
        body = "".join(map(self._attlog_row, rows)).encode("ascii", "replace")
        if self.junk:
            body = b"\xef\xbb\xbf" + body.replace(self.newline.encode(), b"\0\x1a\n")
        return _Upload(f"cdata?SN={self.serial}&table=ATTLOG&Stamp={stamp}", body)

    def _attlog_row(self, row: PushRecord) -> str:
        fields = [
            row.user_id,
            self._time(row.at),
            str(row.state),
            str(row.verify),
            row.work_code,
            "0",
            "0",
            "0",  # mask
            "36.4",
            "36.4",
            f"{self._minutes_east() * 60:+d}",
            "",
        ][: self.columns]
        text = "\t".join(fields)
        match self.row_style:
            case "word":
                text = "ATTLOG\t" + text
            case "first_space":
                text = text.replace("\t", " ", 1)
            case "spaces":
                text = text.replace("\t", " ")
        return text + self.newline

    def _rtlog_row(self, row: PushRecord, index: int) -> str:
        return (
            f"time={self._time(row.at)}\tpin={row.user_id}\tcardno=0\tsitecode=0\tlinkid=0"
            f"\teventaddr=1\tevent={row.event}\tinoutstatus={row.state}\tverifytype={row.verify}"
            f"\tindex={index}\tmaskflag=0\ttemperature=0\tconvtemperature=0{self.newline}"
        )

    def _time(self, at: datetime) -> str:
        return f"{at:%Y%m%d%H%M%S}" if self.compact_time else f"{at:%Y-%m-%d %H:%M:%S}"

    def _tell_users(self, users: Sequence[PushUser]) -> None:
        if not users:
            return
        if self.dialect == "att":
            if self._wanted("EnrollUser", 5) or self._wanted("ChgUser", 7):
                body = b"".join(map(self._user_row, users))
                self.upload("table=OPERLOG&Stamp=9999", body)
            return
        if "user" in self._options.get("TransTables", "User").lower().split():
            body = b"".join(self._table_row(n, user) for n, user in enumerate(users, 1))
            count = len(users)
            query = f"table=tabledata&tablename=user&count={count}"
            self.upload(query, body, f"user={count}".encode())

    def _user_row(self, user: PushUser) -> bytes:
        card = f"[{user.card.to_bytes(4, 'little').hex().upper()}]" if user.card else ""
        row = (
            f"USER PIN={user.user_id}\tName={user.name}\tPri={user.privilege}"
            f"\tPasswd={user.password}\tCard={card}\tGrp=1\tTZ=0000000100000000"
            f"\tVerify=0\tViceCard=\n"
        )
        return row.encode(self.encoding, "replace")

    def _table_row(self, uid: int, user: PushUser) -> bytes:
        row = (
            f"user uid={uid}\tcardno={user.card or ''}\tpin={user.user_id}"
            f"\tpassword={user.password}\tgroup=1\tstarttime=0\tendtime=0\tname={user.name}"
            f"\tprivilege={user.privilege}\tdisable=0\tverify=0{self.newline}"
        )
        return row.encode(self.encoding, "replace")

    async def _deliver(self, upload: _Upload) -> None:
        answer = await self._ask("POST", upload.target, upload.body)
        exact = upload.expected != b"OK"
        if answer.strip() != upload.expected if exact else not answer.startswith(b"OK"):
            raise NotAcknowledged(f"{upload.target}: {answer[:40]!r}")

    # Commands

    async def _poll(self) -> None:
        target = f"getrequest?SN={self.serial}"
        if self._polls % self.info_every == 0:
            target += "&INFO=" + quote(self._info(), safe=",")
        self._polls += 1
        answer = await self._ask("GET", target)
        for line in answer.decode(self.encoding, "replace").splitlines():
            mark, _, rest = line.partition(":")
            number, _, command = rest.partition(":")
            if mark == "C" and number and command:
                self.commands.append(command)
                self._replies.append(self._obey(number, command.strip()))
        if self._replies:
            await self._upload_all()
        while self._replies:
            await self._deliver(_Upload(f"devicecmd?SN={self.serial}", self._replies[0]))
            self._replies.popleft()

    def _obey(self, number: str, command: str) -> bytes:
        """Do it and return the result to report."""
        code, name, more = 0, command.split(" ")[0], ""
        if command == "INFO":
            more = "\n" + self._facts("\n")
        elif command == "CHECK":
            self._ready = False
        elif command == "LOG":
            pass  # what is unsent goes out before the result
        elif command.startswith("DATA QUERY ATTLOG") and self.dialect == "att":
            rows = self._window(command)
            code = 0 if rows else -1
            for start in range(0, len(rows), self.batch):
                self._uploads.append(self._rows(rows[start : start + self.batch], self._sent))
        elif command.startswith("DATA QUERY USERINFO") and self.dialect == "att":
            wanted = _key_values(command[19:].replace("\t", "\n").encode()).get("PIN")
            users = [user for user in self.users if wanted in (None, user.user_id)]
            code = 0 if users else -1
            self._tell_users(users)
        elif command.startswith("VERIFY SUM ATTLOG"):
            fields = command[17:].strip().replace("\t", "\n")
            more = f"\n{fields}\nAttlogSum={len(self._window(command))}"
        elif command.startswith("GET OPTION FROM "):
            facts = _key_values(self._facts("\n").encode())
            key = command[16:].strip()
            code, more = (0, f"\n{key}={facts[key]}") if key in facts else (-1004, "")
        else:
            code = -1002 if self.dialect == "att" else -708
        return f"ID={number}&Return={code}&CMD={name}{more}\n".encode(self.encoding, "replace")

    def _window(self, command: str) -> list[PushRecord]:
        _, _, fields = command.partition("ATTLOG")
        times = _key_values(fields.strip().replace("\t", "\n").encode())
        try:
            start = datetime.fromisoformat(times["StartTime"])
            end = datetime.fromisoformat(times["EndTime"])
        except (KeyError, ValueError):
            return []
        return [row for row in self._records if start <= row.at <= end]

    def _facts(self, separator: str) -> str:
        return separator.join(
            (
                f"~DeviceName={self.device_name}",
                f"MAC={self.mac}",
                f"FWVersion={self.firmware}",
                f"UserCount={len(self.users)}",
                f"TransactionCount={len(self._records)}",
                "~MaxAttLogCount=10",
                "FaceFunOn=1",
            )
        )

    def _info(self) -> str:
        """Firmware, users, fingers, records, address, algorithms, faces and function bits."""
        fingers = sum(user.fingers for user in self.users)
        return (
            f"{self.firmware},{len(self.users)},{fingers},{len(self._records)},{self.address}"
            ",10,7,15,0,111"
        )

    # HTTP

    async def _ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """The body of the answer, if its status is 200."""
        async with asyncio.timeout(self.timeout):
            status, headers, answer = await self._exchange(method, target, body)
        kind = target.partition("?")[0]
        table = _query(target).get("table", "") if kind == "cdata" else ""
        self.requests[table or kind] += 1
        if status != 200:
            raise NotAcknowledged(f"{target}: status {status}")
        if self.follows_server_clock and "date" in headers:
            self._follow(headers["date"])
        return answer

    def _minutes_east(self) -> int:
        """TimeZone is whole hours, or minutes where hours do not suffice."""
        try:
            zone = int(self._options.get("TimeZone", "8"))
        except ValueError:
            return 480
        return zone * 60 if abs(zone) <= 14 else zone

    def _follow(self, date: str) -> None:
        if "TimeZone" not in self._options:
            return
        with suppress(ValueError):
            wall = parsedate_to_datetime(date).replace(tzinfo=None)
            wall += timedelta(minutes=self._minutes_east())
            if abs((wall - self.clock.now()).total_seconds()) > 1:  # the header has whole seconds
                self.clock.set(wall)

    def _head(self, method: str, target: str, length: int) -> bytes:
        name, _, query = target.partition("?")
        lines = [
            f"{method} {self.path_prefix}/{name}{self.path_suffix}?{query} HTTP/{self.http_version}"
        ]
        if self.host_header:
            lines.append(f"Host: {self.server[0]}:{self.server[1]}")
        lines.append("User-Agent: iClock Proxy/1.09")
        usual = "keep-alive" if self.keep_alive else "close"
        lines.append(f"Connection: {self.connection_header or usual}")
        lines.append("Accept: */*")
        if self._registry_code:
            told = f"{self._registry_code}{self.serial}{self._options.get('SessionID', '')}"
            lines.append(f"Cookie: token={md5(told.encode()).hexdigest()}")
        if method == "POST":
            if self.content_type:
                lines.append(f"Content-Type: {self.content_type}")
            lines.append(f"Content-Length: {length}")
            if self.expect_continue:
                lines.append("Expect: 100-continue")
        return "\r\n".join((*lines, "", "")).encode()

    async def _exchange(
        self, method: str, target: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        head = self._head(method, target, len(body))
        reused = self._link is not None
        if self._link is None:
            self._link = await asyncio.open_connection(*self.server)
        reader, writer = self._link
        try:
            if method == "POST" and self.expect_continue:
                await self._write(writer, head)
                status, headers = await _status(reader)
                if status == 100:
                    await self._write(writer, body)
                    status, headers = await _status(reader)
            else:
                if method == "POST" and self.cut_body_after is not None:
                    cut, self.cut_body_after = self.cut_body_after, None
                    await self._write(writer, head + body[:cut])
                    raise ConnectionAbortedError("cut in the middle of the body, as asked")
                await self._write(writer, head + body)
                status, headers = await _status(reader)
                while status == 100:
                    status, headers = await _status(reader)
        except (ConnectionError, EOFError):
            await self._close()
            if reused:  # the server may close an idle connection: once more on a new one
                return await self._exchange(method, target, body)
            raise
        if "chunked" in headers.get("transfer-encoding", ""):
            raise NotAcknowledged("the terminal does not understand chunked answers")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) <= ANSWER_LIMIT:
            answer = await reader.readexactly(int(length))
        elif not length:
            answer = b""
            while piece := await reader.read(PIECE):
                answer = (answer + piece)[:ANSWER_LIMIT]
        else:
            raise NotAcknowledged(f"an answer of {length} bytes")
        if not (self.keep_alive and length) or headers.get("connection", "").lower() == "close":
            await self._close()
        return status, headers, answer

    async def _write(self, writer: asyncio.StreamWriter, out: bytes) -> None:
        last = len(out) - 1 if self.slow else len(out)
        step = self.split_writes or PIECE
        for start in range(0, last, step):
            writer.write(out[start : min(start + step, last)])
            await writer.drain()
            if self.split_writes:
                await asyncio.sleep(0)
        if self.slow:
            await self._sleep(self.slow)
            writer.write(out[last:])
            await writer.drain()

    async def _close(self) -> None:
        if self._link:
            writer, self._link = self._link[1], None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _status(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
    except (asyncio.LimitOverrunError, ValueError, IndexError) as problem:
        raise NotAcknowledged("no HTTP answer") from problem
    pairs = (line.partition(":") for line in lines if line)
    return status, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _key_values(text: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.decode("utf-8", "replace").splitlines())
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def _query(target: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in target.partition("?")[2].split("&"))
    return {key: value for key, _, value in pairs}
