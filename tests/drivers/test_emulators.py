"""The emulated terminals, seen by a foreign client and byte for byte against the wire formats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from zk import ZK
from zk.exception import ZKErrorResponse, ZKNetworkError

from drivers.emulators.zk_push import PushRecord, PushTerminal, PushUser
from drivers.emulators.zkteco import (
    ZkRecord,
    ZkTerminal,
    ZkUser,
    build,
    decode_time,
    encode_event,
    encode_record,
    encode_user,
    scramble,
    unwrap,
    wrap,
)

NOON = datetime(2025, 3, 14, 12, 0, 0)  # noqa: DTZ001
MORNING = datetime(2025, 3, 14, 8, 59, 1)  # noqa: DTZ001
PI_O_CLOCK = datetime(2025, 3, 14, 9, 26, 53)  # noqa: DTZ001
STAFF = [
    ZkUser(1, "9001", "张三", card=1001),
    ZkUser(2, "9002", "李四", password="1234"),
    ZkUser(3, "9003", "王芳", privilege=14),
]
RECORDS = [
    ZkRecord("9001", MORNING, verify=1, state=0),
    ZkRecord("9002", MORNING + timedelta(seconds=6), verify=15, state=1),
    ZkRecord("9003", MORNING + timedelta(hours=9), verify=4, state=255),
]


def noon() -> datetime:
    return NOON


def hexed(text: str) -> bytes:
    """``00*20`` stands for twenty zero bytes."""
    return b"".join(
        bytes.fromhex(word[:2]) * int(word[3:] or 1) if "*" in word else bytes.fromhex(word)
        for word in text.split()
    )


@contextmanager
def connected(port: int, *, udp: bool = False, key: int = 0, encoding: str = "gbk") -> Iterator[ZK]:
    """pyzk; it forgets to close the socket it was made with."""
    client = ZK("127.0.0.1", port, 5, key, force_udp=udp, ommit_ping=True, encoding=encoding)
    client._ZK__sock.close()
    try:
        client.connect()
        yield client
        client.disconnect()
    finally:
        client._ZK__sock.close()


def play(terminal: ZkTerminal, visit: Callable[[int], Awaitable[Any]]) -> Any:
    async def session() -> Any:
        port = await terminal.start()
        try:
            return await visit(port)
        finally:
            await terminal.stop()

    return asyncio.run(session())


def foreign(terminal: ZkTerminal, work: Callable[[ZK], Any], **options: Any) -> Any:
    """What pyzk got out of ``work``, in a thread of its own."""

    def visit(port: int) -> Any:
        with connected(port, **options) as client:
            return work(client)

    return play(terminal, lambda port: asyncio.to_thread(visit, port))


# A foreign client reads everything


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("key", [0, 1234])
@pytest.mark.parametrize("user_layout", [28, 72])
def test_pyzk_reads_people_time_and_sizes(udp: bool, key: int, user_layout: Any) -> None:
    terminal = ZkTerminal(
        "HW20250001",
        clock=noon,
        users=STAFF,
        records=RECORDS,
        comm_key=key,
        user_layout=user_layout,
        capacity=1000,
    )

    def work(client: ZK) -> None:
        assert client.get_serialnumber() == "HW20250001"
        assert client.get_time() == NOON
        assert client.get_firmware_version() == "Ver 6.60 Apr 28 2017"
        client.read_sizes()
        assert (client.users, client.records, client.rec_cap, client.rec_av) == (3, 3, 1000, 997)
        people = client.get_users()
        assert [(u.uid, u.user_id, u.name, u.privilege) for u in people] == [
            (1, "9001", "张三", 0),
            (2, "9002", "李四", 0),
            (3, "9003", "王芳", 14),
        ]
        assert people[0].card == 1001
        assert people[1].password == "1234"

    foreign(terminal, work, udp=udp, key=key)


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("layout", [8, 16, 40])
@pytest.mark.parametrize("count", [3, 10_000])
def test_pyzk_reads_the_log(udp: bool, layout: Any, count: int) -> None:
    records = [
        ZkRecord(STAFF[n % 3].user_id, MORNING + timedelta(seconds=n), n % 5, n % 2)
        for n in range(count)
    ]
    terminal = ZkTerminal(
        "HW20250001", clock=noon, users=STAFF, records=records, record_layout=layout
    )
    rows = foreign(terminal, lambda client: client.get_attendance(), udp=udp)
    assert [(row.user_id, row.timestamp, row.status, row.punch) for row in rows] == [
        (record.user_id, record.at, record.verify, record.state) for record in records
    ]


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("event_layout", [12, 32, 36])
def test_pyzk_hears_punches_as_they_happen(udp: bool, event_layout: int) -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, event_layout=event_layout)
    heard: list[tuple[str, datetime, int, int]] = []
    first = threading.Event()

    def listen(port: int) -> None:
        with connected(port, udp=udp) as client:
            for row in client.live_capture(new_timeout=5):
                assert row is not None
                heard.append((row.user_id, row.timestamp, row.status, row.punch))
                first.set()
                if len(heard) == 2:
                    break
            client.reg_event(0)

    async def visit(port: int) -> None:
        listening = asyncio.create_task(asyncio.to_thread(listen, port))
        await terminal.registered()
        assert await terminal.punch("9001")
        assert await terminal.punch("9002", verify=15, state=1)
        await listening

    play(terminal, visit)
    assert heard == [("9001", NOON, 1, 0), ("9002", NOON, 15, 1)]


def test_pyzk_with_a_wrong_comm_key_is_not_let_in() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, comm_key=1234)
    with pytest.raises(ZKErrorResponse, match="Unauthenticated"):
        foreign(terminal, lambda _: None, key=4321)


def test_pyzk_sets_the_clock_and_it_goes_on_from_there() -> None:
    now = NOON
    terminal = ZkTerminal("HW20250001", clock=lambda: now)
    foreign(terminal, lambda client: client.set_time(PI_O_CLOCK))
    now += timedelta(seconds=90)
    assert terminal.clock.now() == PI_O_CLOCK + timedelta(seconds=90)


def test_without_buffered_reads_pyzk_is_told_so() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS)
    terminal.buffered_read = False
    with pytest.raises(ZKErrorResponse, match="RWB Not supported"):
        foreign(terminal, lambda client: client.get_attendance())


def test_a_cut_in_the_middle_of_an_answer_is_noticed() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon)

    def work(client: ZK) -> None:
        terminal.cut_after = 10
        client.get_time()

    with pytest.raises(ZKNetworkError):
        foreign(terminal, work)
    assert terminal.cut_after is None


def test_pyzk_can_lock_the_terminal_and_nobody_can_punch() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF)

    def work(client: ZK) -> None:
        client.disable_device()
        assert not terminal.record("9001")
        client.enable_device()
        assert terminal.record("9001")

    foreign(terminal, work)


# The formats, byte for byte


class Wire:
    """A TCP peer without any notion of the protocol: sends bytes, takes whole packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, frame: str) -> None:
        self.writer.write(hexed(frame))
        await self.writer.drain()

    async def take(self) -> bytes:
        async with asyncio.timeout(5):
            head = await self.reader.readexactly(8)
            return head + await self.reader.readexactly(int.from_bytes(head[4:], "little"))

    async def ask(self, frame: str) -> bytes:
        await self.send(frame)
        return await self.take()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


async def wired(port: int) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", port))


CONNECT = "50 50 82 7d 08 00 00 00 e8 03 17 fc 00 00 00 00"
AUTH_1234 = "50 50 82 7d 0c 00 00 00 4e 04 0f 40 2e 1f 01 00 41 36 32 66"
ASK_SERIAL = (
    "50 50 82 7d 16 00 00 00 0b 00 c1 97 2e 1f 02 00 7e 53 65 72 69 61 6c 4e 75 6d 62 65 72 00"
)
ASK_TIME = "50 50 82 7d 08 00 00 00 c9 00 05 e0 2e 1f 03 00"
TOLD_TIME = "50 50 82 7d 0c 00 00 00 d0 07 59 85 2e 1f 03 00 5d 23 48 30"
SET_TIME = "50 50 82 7d 0c 00 00 00 ca 00 57 8c 2e 1f 04 00 64 23 48 30"
PREPARE_LOG = "50 50 82 7d 13 00 00 00 df 05 eb cd 2e 1f 06 00 01 0d 00 00 00 00 00 00 00 00 00"
READ_FIRST = "50 50 82 7d 10 00 00 00 e0 05 29 db 2e 1f 07 00 00 00 00 00 c0 ff 00 00"
READ_LAST = "50 50 82 7d 10 00 00 00 e0 05 a0 cd 2e 1f 0a 00 40 ff 02 00 04 0e 00 00"
FREE = "50 50 82 7d 08 00 00 00 de 05 e8 da 2e 1f 0b 00"
REGISTER = "50 50 82 7d 0c 00 00 00 f4 01 d0 de 2e 1f 0c 00 01 00 00 00"
EVENT = "50 50 82 7d 28 00 00 00 f4 01 3e 90 01 00 00 00 39 30 30 31 00*20 01 00 19 03 0e 08 3b 01"
ACK_EVENT = "50 50 82 7d 08 00 00 00 d0 07 01 d9 2e 1f 00 00"
EXIT = "50 50 82 7d 08 00 00 00 e9 03 db dc 2e 1f 0d 00"


def test_the_worked_conversation_comes_out_byte_for_byte() -> None:
    true = PI_O_CLOCK
    terminal = ZkTerminal(
        "HW20250001",
        clock=lambda: true,
        users=STAFF,
        records=[ZkRecord("9001", MORNING)],
        comm_key=1234,
    )

    async def visit(port: int) -> None:
        wire = await wired(port)
        assert await wire.ask(CONNECT) == hexed("50 50 82 7d 08 00 00 00 d5 07 fc d8 2e 1f 00 00")
        assert await wire.ask(AUTH_1234) == hexed("50 50 82 7d 08 00 00 00 d0 07 00 d9 2e 1f 01 00")
        assert await wire.ask(ASK_SERIAL) == hexed(
            "50 50 82 7d 21 00 00 00 d0 07 ef 34 2e 1f 02 00 7e 53 65 72 69 61 6c 4e 75 6d 62 65"
            " 72 3d 48 57 32 30 32 35 30 30 30 31 00"
        )
        assert await wire.ask(ASK_TIME) == hexed(TOLD_TIME)
        assert (await wire.ask(SET_TIME))[8:10] == b"\xd0\x07"
        assert terminal.clock.now() == PI_O_CLOCK + timedelta(seconds=7)
        assert await wire.ask(PREPARE_LOG) == hexed(
            "50 50 82 7d 34 00 00 00 dd 05 0f 5b 2e 1f 06 00 28 00 00 00"
            " 01 00 39 30 30 31 00*20 01 d5 1c 48 30 00 00 00 00 00 ff 00 00 00"
        )
        assert (await wire.ask(REGISTER))[8:10] == b"\xd0\x07"
        punch = asyncio.create_task(
            terminal.punch("9001", datetime(2025, 3, 14, 8, 59, 1))  # noqa: DTZ001
        )
        assert await wire.take() == hexed(EVENT)
        assert not punch.done()
        await wire.send(ACK_EVENT)
        assert await punch
        assert (await wire.ask(EXIT))[8:10] == b"\xd0\x07"
        await wire.close()

    play(terminal, visit)
    assert terminal.rejected == 0
    assert terminal.sessions == 0


def test_a_large_log_comes_in_the_worked_chunks() -> None:
    terminal = ZkTerminal(
        "HW20250001", clock=noon, users=STAFF, records=[ZkRecord("9001", MORNING)] * 5000
    )

    async def visit(port: int) -> None:
        wire = await wired(port)
        assert await wire.ask(CONNECT) == hexed("50 50 82 7d 08 00 00 00 d0 07 01 d9 2e 1f 00 00")
        # 5,000 rows of 40 bytes and the length word: 200,004 bytes.
        ready = hexed(
            "50 50 82 7d 15 00 00 00 d0 07 e1 4a 2e 1f 06 00 00 44 0d 03 00 44 0d 03 00 00*4"
        )
        assert await wire.ask(PREPARE_LOG) == ready
        assert await wire.ask(READ_FIRST) == hexed(
            "50 50 82 7d 10 00 00 00 dc 05 2d cb 2e 1f 07 00 c0 ff 00 00 00 10 00 00"
        )
        data = (await wire.take())[16:]
        assert len(data) == 65_472
        assert data[:44] == hexed(
            "40 0d 03 00 01 00 39 30 30 31 00*20 01 d5 1c 48 30 00 00 00 00 00 ff 00 00 00"
        )
        assert (await wire.take())[8:10] == b"\xd0\x07"
        await wire.send(READ_LAST)
        packets = [await wire.take() for _ in range(3)]
        assert len(packets[1][16:]) == 3588
        # The buffer stays as it was until it is freed.
        terminal.record("9002")
        assert await wire.ask(PREPARE_LOG) == ready
        await wire.ask(FREE)
        assert int.from_bytes((await wire.ask(PREPARE_LOG))[17:21], "little") == 200_044
        await wire.close()

    play(terminal, visit)


@pytest.mark.parametrize(
    ("layout", "user_id", "expected"),
    [
        (8, "9001", "01 00 01 d5 1c 48 30 00"),
        ("8alt", "9001", "01 00 01 00 d5 1c 48 30"),
        (16, "1001", "e9 03 00 00 d5 1c 48 30 01 00 00 00 00 00 00 00"),
        (40, "9001", "01 00 39 30 30 31 00*20 01 d5 1c 48 30 00 00 00 00 00 ff 00 00 00"),
        (
            49,
            "9001",
            "01 00 39 30 30 31 00*20 01 d5 1c 48 30 00 00 00 00 00 ff 00 00 00"
            " ff 32 35 35 00 00 00 00 00",
        ),
    ],
)
def test_records_look_as_on_the_wire(layout: Any, user_id: str, expected: str) -> None:
    assert encode_record(ZkRecord(user_id, MORNING, uid=1), layout) == hexed(expected)


def test_users_look_as_on_the_wire() -> None:
    assert encode_user(ZkUser(1, "1001", "李四"), 28, "gbk") == hexed(
        "01 00 00 00 00 00 00 00 c0 ee cb c4 00*4 00 00 00 00 00 01 00 00 e9 03 00 00"
    )
    assert encode_user(ZkUser(1, "9001", "张三", card=1001), 72, "gbk") == hexed(
        "01 00 00 00*8 d5 c5 c8 fd 00*20 e9 03 00 00 01 00*8 39 30 30 31 00*20"
    )
    full = encode_user(ZkUser(1, "1001", "欧阳娜娜"), 28, "gbk")
    assert full[8:16] == hexed("c5 b7 d1 f4 c4 c8 c4 c8")


def test_events_look_as_on_the_wire() -> None:
    at = datetime(2025, 3, 14, 8, 59, 3)  # noqa: DTZ001
    assert encode_event(ZkRecord("9003", at), 12) == hexed("2b 23 00 00 01 00 19 03 0e 08 3b 03")
    at += timedelta(seconds=1)
    assert encode_event(ZkRecord("3", at), 10) == hexed("03 00 01 00 19 03 0e 08 3b 04")
    assert [len(encode_event(ZkRecord("3", at), n)) for n in (14, 36, 37, 52)] == [14, 36, 37, 52]


@pytest.mark.parametrize(
    ("key", "session", "expected"),
    [
        (0, 0x1F2E, "61 7d 32 66"),
        (1, 0x0001, "61 fd 32 79"),
        (1234, 0x1F2E, "41 36 32 66"),
        (1234, 0x1F99, "41 36 32 66"),
        (5678, 0x1F2E, "09 09 32 66"),
        (123456, 0xABCD, "29 7f 32 52"),
        (999999, 0xFFFF, "22 81 32 96"),
    ],
)
def test_the_comm_key_is_scrambled_as_clients_do(key: int, session: int, expected: str) -> None:
    assert scramble(key, session, 50) == hexed(expected)


def test_odd_lengths_are_padded_for_the_checksum_only() -> None:
    assert wrap(build(2000, 0x1F2E, 9, b"\x09")) == hexed(
        "50 50 82 7d 09 00 00 00 d0 07 ef d8 2e 1f 09 00 09"
    )


def test_times_that_no_calendar_has_can_be_in_the_log() -> None:
    row = encode_record(ZkRecord("9001", 808794123, uid=1), 16)
    assert row[4:8] == hexed("0b 38 35 30")
    with pytest.raises(ValueError, match="day"):
        decode_time(808794123)


def test_requests_are_found_in_any_pieces_and_behind_junk() -> None:
    stream = b"noise" + hexed(CONNECT) + hexed("50 50 82 7d ff ff ff ff") + hexed(ASK_TIME)
    buffer = bytearray()
    found: list[bytes] = []
    for byte in stream:
        buffer.append(byte)
        found += unwrap(buffer)
    assert found == [hexed(CONNECT)[8:], hexed(ASK_TIME)[8:]]
    assert not buffer


# Faults


def test_events_glued_to_an_answer_stand_behind_its_first_packet() -> None:
    terminal = ZkTerminal("HW20250001", clock=lambda: PI_O_CLOCK, users=STAFF)
    terminal.glue = 3
    terminal.ack_wait = 60

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        await wire.ask(REGISTER)
        punches = [asyncio.create_task(terminal.punch(who)) for who in ("9001", "9002")]
        await asyncio.sleep(0)
        assert await wire.ask(ASK_TIME) == hexed(TOLD_TIME)
        assert [(await wire.take())[16:20] for _ in range(2)] == [b"9001", b"9002"]
        await wire.send(ACK_EVENT)
        await wire.send(ACK_EVENT)
        assert all(await asyncio.gather(*punches))
        await wire.close()

    play(terminal, visit)


def test_an_event_nobody_acknowledged_is_the_last_one_where_acks_are_required() -> None:
    terminal = ZkTerminal("HW20250001", clock=lambda: PI_O_CLOCK, users=STAFF)
    terminal.event_ack_required = True
    terminal.ack_wait = 0.01

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        await wire.ask(REGISTER)
        assert await terminal.punch("9001")
        assert (await wire.take())[16:20] == b"9001"
        assert await terminal.punch("9002")
        assert await wire.ask(ASK_TIME) == hexed(TOLD_TIME)
        await wire.close()

    play(terminal, visit)
    assert [record.user_id for record in terminal.records] == ["9001", "9002"]


def test_an_unplugged_terminal_refuses_connections_but_people_punch() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF)

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        await wire.ask(REGISTER)
        await terminal.unplug()
        with pytest.raises((EOFError, ConnectionError)):
            await wire.take()
        await wire.close()
        with pytest.raises(ConnectionRefusedError):
            await wired(port)
        assert await terminal.punch("9001")
        await terminal.plug_in()
        wire = await wired(port)
        assert (await wire.ask(CONNECT))[12:14] == b"\x2f\x1f"
        await terminal.power_off()
        await wire.close()
        assert not await terminal.punch("9001")
        await terminal.power_on()
        assert await terminal.punch("9001")

    play(terminal, visit)
    assert len(terminal.records) == 2


@pytest.mark.parametrize(("habit", "kept"), [("hang", 1), ("kick", 1), ("allow", 2)])
def test_a_second_session_is_treated_as_the_terminal_likes(habit: Any, kept: int) -> None:
    terminal = ZkTerminal("HW20250001", clock=noon)
    terminal.second_session = habit

    async def visit(port: int) -> None:
        first, second = await wired(port), await wired(port)
        await first.ask(CONNECT)
        await second.send(CONNECT)
        if habit == "hang":
            await second.send(CONNECT)
            assert (await first.ask(ASK_TIME))[8:10] == b"\xd0\x07"
            assert not second.reader.at_eof()
        else:
            assert (await second.take())[12:14] == b"\x2f\x1f"
        if habit == "kick":
            assert await first.reader.read() == b""
        assert terminal.sessions == kept
        await first.close()
        await second.close()

    play(terminal, visit)


def test_a_session_outlives_a_pulled_cable_where_terminals_keep_it() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon)
    terminal.keeps_lost_sessions = True
    terminal.second_session = "hang"

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        await terminal.unplug()
        await wire.close()
        await terminal.plug_in()
        assert terminal.sessions == 1
        wire = await wired(port)
        taken = asyncio.Event()

        async def taking(_: int) -> None:
            taken.set()

        terminal.before_answer = taking
        await wire.send(CONNECT)
        await taken.wait()
        assert terminal.sessions == 1
        terminal.forget_sessions()
        assert (await wire.ask(CONNECT))[12:14] == b"\x2f\x1f"
        await wire.close()

    play(terminal, visit)


def test_a_silent_terminal_takes_connections_and_says_nothing() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon)
    terminal.silent = True

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.send(CONNECT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), 0.1)
        assert terminal.asked[1000] == 1
        await wire.close()

    play(terminal, visit)


def test_the_comm_key_may_be_asked_for_late_and_new_sessions_be_refused() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, comm_key=1234)
    terminal.late_auth = True

    async def visit(port: int) -> None:
        wire = await wired(port)
        assert (await wire.ask(CONNECT))[8:10] == b"\xd0\x07"
        assert (await wire.ask(ASK_TIME))[8:10] == b"\xd5\x07"
        assert (await wire.ask(AUTH_1234))[8:10] == b"\xd0\x07"
        assert (await wire.ask(ASK_TIME))[8:10] == b"\xd0\x07"
        terminal.refuse_new_sessions = True
        assert (await wire.ask(CONNECT))[8:10] == b"\xd1\x07"
        await wire.close()

    play(terminal, visit)


def test_unknown_options_and_commands_are_refused_each_in_its_way() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon)
    del terminal.options["~SerialNumber"]

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        assert (await wire.ask(ASK_SERIAL))[8:10] == b"\xd1\x07"
        assert (await wire.ask(wrap(build(15, 0x1F2E, 1)).hex(" ")))[8:10] == b"\xff\xff"
        assert (await wire.ask(wrap(build(201, 0x7777, 1)).hex(" ")))[8:10] == b"\xd5\x07"
        stranger = await wired(port)
        assert (await stranger.ask(ASK_TIME))[8:10] == b"\xd5\x07"
        await stranger.close()
        await wire.close()

    play(terminal, visit)


def test_a_udp_terminal_refuses_tcp_and_someone_may_punch_during_a_read() -> None:
    terminal = ZkTerminal(
        "HW20250001", clock=noon, users=STAFF, records=RECORDS, transport="udp", record_layout=16
    )

    async def punch(command: int) -> None:
        if command == 1503:
            terminal.record("9001")

    terminal.before_answer = punch

    async def visit(port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            await wired(port)
        await asyncio.to_thread(read, port)

    def read(port: int) -> None:
        with connected(port, udp=True) as client:
            client.read_sizes()
            assert client.records == 3
            body, size = client.read_with_buffer(13)
            assert size == 4 + 4 * 16
            assert body[:4] == b"\x40\0\0\0"

    play(terminal, visit)


def test_a_clone_counts_rows_where_others_count_bytes() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS)
    terminal.prefix_counts = True
    body, _ = foreign(terminal, lambda client: client.read_with_buffer(13))
    assert body[:4] == b"\x03\0\0\0"
    assert len(body) == 4 + 3 * 40


def test_answers_in_pieces_wrong_checksums_and_stale_ones() -> None:
    terminal = ZkTerminal("HW20250001", clock=lambda: PI_O_CLOCK)

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        terminal.fragment = 1
        assert await wire.ask(ASK_TIME) == hexed(TOLD_TIME)
        terminal.stale_replies = 1
        assert (await wire.ask(ASK_TIME))[14:16] == b"\x02\x00"
        assert await wire.take() == hexed(TOLD_TIME)
        terminal.checksum_error = 1
        assert (await wire.ask(ASK_TIME))[10:12] == b"\x5a\x85"
        terminal.checksum_error = 0
        terminal.ask_to_repeat = 1
        assert (await wire.ask(ASK_TIME))[8:10] == b"\xd3\x07"
        await wire.send("50 50 82 7d 08 00 00 00 c9 00 05 e1 2e 1f 03 00")
        assert await wire.ask(ASK_TIME) == hexed(TOLD_TIME)
        assert terminal.rejected == 1
        await wire.close()

    play(terminal, visit)


def test_a_log_hidden_by_access_control_is_empty() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS)
    terminal.access_control_mode = True

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        assert (await wire.ask(PREPARE_LOG))[16:] == bytes(4)
        assert (await wire.ask(wrap(build(50, 0x1F2E, 7)).hex(" ")))[48:52] == bytes(4)
        await wire.close()

    play(terminal, visit)


def test_old_firmware_is_read_directly() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS * 20)

    async def visit(port: int) -> None:
        wire = await wired(port)
        await wire.ask(CONNECT)
        ask_log = wrap(build(13, 0x1F2E, 1)).hex(" ")
        assert (await wire.ask(ask_log))[8:10] + (await wire.take())[16:20] == hexed(
            "dc 05 60 09 00 00"
        )
        assert (await wire.take())[8:10] == b"\xd0\x07"
        terminal.clear_log()
        terminal.record("9001", MORNING)
        terminal.inline_code = 2002
        assert (await wire.ask(ask_log))[8:10] == b"\xd2\x07"
        await wire.close()

    play(terminal, visit)


def test_a_lost_datagram_leaves_a_hole_in_the_chunk() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS * 100)
    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Peer(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: Any) -> None:
            received.put_nowait(data)

    async def visit(port: int) -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Peer, remote_addr=("127.0.0.1", port)
        )
        for frame in (CONNECT, PREPARE_LOG):
            transport.sendto(hexed(frame)[8:])
            await asyncio.wait_for(received.get(), 5)
        sizes = []
        for lost in (1, 0):
            terminal.lose_next = lost
            transport.sendto(build(1504, 0x1F2E, 7, hexed("00*4 00 20 00 00")))
            packets: list[bytes] = []
            while not packets or packets[-1][:2] != b"\xd0\x07":
                packets.append(await asyncio.wait_for(received.get(), 5))
            sizes.append(sum(len(packet) - 8 for packet in packets[1:]))
        transport.close()
        assert sizes == [8192 - 1024, 8192]

    play(terminal, visit)


def test_a_full_log_refuses_or_overwrites() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS, capacity=3)
    assert not terminal.record("9001")
    terminal.overwrites_when_full = True
    assert terminal.record("9001")
    assert [record.user_id for record in terminal.records] == ["9002", "9003", "9001"]
    rows = foreign(terminal, lambda client: client.get_attendance())
    assert [row.user_id for row in rows] == ["9002", "9003", "9001"]
    terminal.record("9002")
    rows = foreign(terminal, lambda client: client.get_attendance())
    assert [row.user_id for row in rows] == ["9003", "9001", "9002"]


def test_duplicated_rows_are_exactly_alike() -> None:
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=RECORDS)
    terminal.replay(2)
    assert list(terminal.records) == [*RECORDS, *RECORDS[1:]]


def test_a_terminals_clock_may_be_ahead_and_drift() -> None:
    now = NOON
    terminal = ZkTerminal("HW20250001", clock=lambda: now)
    terminal.set_clock_offset(300)
    terminal.clock.drift = 10
    now += timedelta(days=2)
    assert terminal.clock.offset == 320
    assert terminal.clock.now() == NOON + timedelta(days=2, seconds=320)


def test_a_hundred_thousand_records_are_read_quickly() -> None:
    start = MORNING - timedelta(days=60)
    records = [ZkRecord("9001", start + timedelta(seconds=40 * n)) for n in range(100_000)]
    terminal = ZkTerminal("HW20250001", clock=noon, users=STAFF, records=records)
    data, size = foreign(terminal, lambda client: client.read_with_buffer(13))
    assert size == 4 + 40 * 100_000
    assert data[:4] == (40 * 100_000).to_bytes(4, "little")
    assert data[-40:] == encode_record(records[-1]._replace(uid=1), 40)


# Terminals that push


OPTIONS = (
    "GET OPTION FROM: HW20250001\nATTLOGStamp=None\nOPERLOGStamp=None\nATTPHOTOStamp=None\n"
    "ErrorDelay=30\nDelay=10\nTransTimes=00:00;14:05\nTransInterval=1\n"
    "TransFlag=TransData AttLog\tOpLog\tEnrollUser\tChgUser\nTimeZone=8\nRealtime=1\n"
    "Encrypt=None\nServerVer=2.4.1\nPushProtVer=2.4.1\nPushOptionsFlag=0\nSupportPing=1\n"
)
PUSHED = [
    PushRecord("9001", MORNING),
    PushRecord("9002", MORNING + timedelta(seconds=6), verify=15, state=1),
]
PUSHED_BODY = (
    b"9001\t2025-03-14 08:59:01\t0\t1\t0\t0\t0\n9002\t2025-03-14 08:59:07\t1\t15\t0\t0\t0\n"
)


class Server:
    """Keeps every request as it came; the n-th matching one of ``answers`` decides the answer."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.date = "Fri, 14 Mar 2025 04:00:00 GMT"
        self.port = 0
        self.connections = 0
        self.cut = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                if b"expect: 100-continue" in lower:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                length = 0
                if b"content-length:" in lower:
                    length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                writer.write(self.answer(head.split(b" ")[1].decode()))
                if b"connection: close" in lower:
                    break
        except asyncio.IncompleteReadError as problem:
            self.cut += bool(problem.partial)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def answer(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        fields = dict(part.partition("=")[::2] for part in query.split("&"))
        kind = path.rsplit("/")[-1].partition(".")[0]
        if kind == "cdata":
            kind = fields.get("table", "options_all" if "options" in fields else "cdata")
        usual = OPTIONS if kind == "options_all" else "OK"
        queue = self.answers.get(kind, [])
        status, _, text = (queue.pop(0) if queue else "200 " + usual).partition(" ")
        return (
            f"HTTP/1.1 {status} X\r\nDate: {self.date}\r\nContent-Length: {len(text.encode())}"
            f"\r\nContent-Type: text/plain\r\n\r\n{text}"
        ).encode()

    def targets(self, word: str = "") -> list[str]:
        lines = [request.split(b" ", 2)[1].decode() for request in self.requests]
        return [line for line in lines if word in line]

    def bodies(self, word: str) -> list[bytes]:
        return [
            request.partition(b"\r\n\r\n")[2]
            for request in self.requests
            if word.encode() in request.partition(b"\r\n")[0]
        ]


def push(
    server: Server,
    visit: Callable[[PushTerminal], Awaitable[Any]],
    configure: Callable[[PushTerminal], None] = lambda _: None,
    **settings: Any,
) -> PushTerminal:
    """A terminal that never waits: delays are one turn of the loop, and recorded."""

    async def session() -> PushTerminal:
        listener = await asyncio.start_server(server.serve, "127.0.0.1")
        server.port = listener.sockets[0].getsockname()[1]
        settings.setdefault("clock", noon)
        settings.setdefault("sleep", lambda _: asyncio.sleep(0.001))
        terminal = PushTerminal("HW20250001", ("127.0.0.1", server.port), **settings)
        configure(terminal)
        try:
            await terminal.start()
            async with asyncio.timeout(10):
                await visit(terminal)
        finally:
            await terminal.stop()
            listener.close()
        return terminal

    return asyncio.run(session())


async def delivered(terminal: PushTerminal) -> None:
    await terminal.delivered()


def test_a_pushing_terminal_introduces_itself_and_sends_the_worked_rows() -> None:
    server = Server()
    push(server, delivered, records=PUSHED, comm_key="77", delay=60, sleep=asyncio.sleep)
    host = f"Host: 127.0.0.1:{server.port}\r\nUser-Agent: iClock Proxy/1.09\r\nConnection: close"
    assert server.requests[0].decode() == (
        "GET /iclock/cdata?SN=HW20250001&options=all&pushver=2.4.1&language=83&DeviceType=att"
        f"&pushcommkey=77 HTTP/1.1\r\n{host}\r\nAccept: */*\r\n\r\n"
    )
    assert len(PUSHED_BODY) == 71
    assert (
        server.requests[1]
        == (
            "POST /iclock/cdata?SN=HW20250001&table=ATTLOG&Stamp=9999 HTTP/1.1\r\n"
            f"{host}\r\nAccept: */*\r\nContent-Type: application/push;charset=UTF-8\r\n"
            "Content-Length: 71\r\n\r\n"
        ).encode()
        + PUSHED_BODY
    )


@pytest.mark.parametrize("refusal", ["500 ERROR", "200 ", "200 ERROR", "301 OK", "200 <html>OK"])
def test_a_batch_comes_back_unchanged_until_it_is_acknowledged(refusal: str) -> None:
    server = Server(ATTLOG=[refusal, refusal])
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        terminals[0].record("9003")
        await asyncio.sleep(0)

    terminals: list[PushTerminal] = []
    terminal = push(
        server, delivered, terminals.append, records=PUSHED, error_delay=7, delay=1e6, sleep=sleep
    )
    first, second, third, rest = server.bodies("ATTLOG")[:4]
    assert first == second == third == PUSHED_BODY
    assert rest.count(b"\n") == 2
    assert waits[:2] == [7, 7]
    assert terminal.failures == 2


def test_a_cut_body_is_sent_again_in_full() -> None:
    server = Server()

    def configure(terminal: PushTerminal) -> None:
        terminal.cut_body_after = 30

    push(server, delivered, configure, records=PUSHED)
    assert server.cut == 1
    assert server.bodies("ATTLOG") == [PUSHED_BODY]
    assert len(server.targets("options=all")) == 2


def test_a_punch_returns_when_it_is_acknowledged_or_cannot_be() -> None:
    server = Server()

    async def visit(terminal: PushTerminal) -> None:
        assert await terminal.punch("9001", verify=15, state=1)
        assert server.bodies("ATTLOG") == [b"9001\t2025-03-14 12:00:00\t1\t15\t0\t0\t0\n"]
        await terminal.unplug()
        assert await terminal.punch("9002")
        assert terminal.unacknowledged == 1
        await terminal.power_off()
        assert not await terminal.punch("9003")
        await terminal.plug_in()
        await terminal.power_on()
        await terminal.delivered()
        assert b"9002\t" in server.bodies("ATTLOG")[1]
        assert server.bodies("OPERLOG") == [b"OPLOG 0\t0\t2025-03-14 12:00:00\t0\t0\t0\t0\n"]

    push(server, visit)


def test_a_punch_that_the_server_does_not_take_does_not_hold_up_people() -> None:
    server = Server(ATTLOG=["503 "] * 1000)

    async def visit(terminal: PushTerminal) -> None:
        assert await terminal.punch("9001")
        assert terminal.unacknowledged == 1
        assert not terminal.online

    push(server, visit, sleep=lambda _: asyncio.sleep(60))


def test_names_are_sent_in_the_terminals_encoding_with_what_must_not_be_kept() -> None:
    users = [PushUser("9001", "张三", card=123456789, password="4321")]
    for encoding, name in (("gbk", "d5 c5 c8 fd 09"), ("utf-8", "e5 bc a0 e4 b8 89 09")):
        server = Server()
        push(server, delivered, users=users, encoding=encoding)
        (body,) = server.bodies("OPERLOG")
        assert body.startswith(b"USER PIN=9001\tName=" + hexed(name))
        assert b"\tPasswd=4321\tCard=[15CD5B07]\t" in body


def test_rows_have_the_oddities_of_clones() -> None:
    def rows(**attributes: Any) -> bytes:
        server = Server()

        def configure(terminal: PushTerminal) -> None:
            for name, value in attributes.items():
                setattr(terminal, name, value)

        push(server, delivered, configure, records=PUSHED[:1])
        return server.bodies("ATTLOG")[0]

    twelve = rows(columns=12)
    assert twelve == (b"9001\t2025-03-14 08:59:01\t0\t1\t0\t0\t0\t0\t36.4\t36.4\t+28800\t\n")
    assert rows(columns=4, newline="\r\n") == b"9001\t2025-03-14 08:59:01\t0\t1\r\n"
    assert rows(columns=2, compact_time=True) == b"9001\t20250314085901\n"
    assert rows(columns=2, row_style="word") == b"ATTLOG\t9001\t2025-03-14 08:59:01\n"
    assert rows(columns=3, row_style="first_space") == b"9001 2025-03-14 08:59:01\t0\n"
    assert rows(columns=3, row_style="spaces") == b"9001 2025-03-14 08:59:01 0\n"
    assert rows(columns=2, junk=True) == b"\xef\xbb\xbf9001\t2025-03-14 08:59:01\0\x1a\n"


def test_a_punch_may_come_in_the_query() -> None:
    server = Server()

    def configure(terminal: PushTerminal) -> None:
        terminal.punches_in_query = True

    push(server, delivered, configure, records=PUSHED[:1])
    assert server.targets("Pin=") == [
        "/iclock/cdata?SN=HW20250001&Pin=9001&DateTime=2025-03-14%2008%3A59%3A01&Status=0"
    ]


@pytest.mark.parametrize(
    "oddity",
    [
        {"http_version": "1.0", "host_header": False},
        {"expect_continue": True},
        {"keep_alive": True},
        {"split_writes": 7},
        {"slow": 0.5},
        {"connection_header": "starting", "content_type": ""},
        {"path_prefix": "//iclock", "path_suffix": ".aspx"},
    ],
)
def test_requests_arrive_with_every_oddity_of_the_transport(oddity: dict[str, Any]) -> None:
    server = Server()

    def configure(terminal: PushTerminal) -> None:
        for name, value in oddity.items():
            setattr(terminal, name, value)

    push(server, delivered, configure, records=PUSHED)
    assert server.bodies("ATTLOG") == [PUSHED_BODY]
    head = server.requests[1].partition(b"\r\n\r\n")[0].decode()
    assert ("HTTP/1.0" in head) == ("http_version" in oddity)
    assert ("Host:" in head) != ("host_header" in oddity)
    assert ("Expect: 100-continue" in head) == ("expect_continue" in oddity)
    assert ("//iclock/cdata.aspx?" in head) == ("path_suffix" in oddity)
    assert ("Content-Type" in head) != ("content_type" in oddity)
    assert (server.connections == 1) == ("keep_alive" in oddity)


def test_a_keep_alive_connection_the_server_closed_is_opened_again() -> None:
    server = Server()

    def configure(terminal: PushTerminal) -> None:
        terminal.keep_alive = True

    async def visit(terminal: PushTerminal) -> None:
        assert await terminal.punch("9001")
        assert terminal._link is not None
        terminal._link[1].transport.abort()
        assert await terminal.punch("9002")
        assert terminal.failures == 0

    push(server, visit, configure)
    assert server.connections == 2


def test_commands_are_obeyed_and_reported() -> None:
    commands = (
        "C:17:INFO\nbare command\nX:16:LOG\nC:18:DATA QUERY ATTLOG StartTime=2025-03-14 08:59:05"
        "\tEndTime=2025-03-14 09:00:00\nC:19:DATA QUERY USERINFO PIN=9001\nC:20:REBOOT\n"
    )
    server = Server(getrequest=["200 OK", "200 " + commands])

    async def visit(_: PushTerminal) -> None:
        while len(server.bodies("devicecmd")) < 4:
            await asyncio.sleep(0.001)

    terminal = push(server, visit, records=PUSHED, users=[PushUser("9001", "张三")])
    assert server.targets("getrequest")[0] == (
        "/iclock/getrequest?SN=HW20250001"
        "&INFO=Ver%202.0.12-20150625,1,1,2,192.168.16.27,10,7,15,0,111"
    )
    assert server.targets("getrequest")[1] == "/iclock/getrequest?SN=HW20250001"
    info, query, people, reboot = server.bodies("devicecmd")
    assert info.startswith(b"ID=17&Return=0&CMD=INFO\n~DeviceName=SpeedFace-V5L\nMAC=")
    assert (query, people) == (b"ID=18&Return=0&CMD=DATA\n", b"ID=19&Return=0&CMD=DATA\n")
    assert reboot == b"ID=20&Return=-1002&CMD=REBOOT\n"
    assert server.bodies("ATTLOG") == [PUSHED_BODY, PUSHED_BODY.splitlines(True)[1]]
    assert len(server.bodies("OPERLOG")) == 2
    assert terminal.commands[-1] == "REBOOT"


def test_the_server_sets_the_clock() -> None:
    server = Server()
    server.date = "Thu, 13 Mar 2025 23:30:00 GMT"

    async def visit(terminal: PushTerminal) -> None:
        await terminal.punch("9001")
        assert f"{terminal.clock.now():%m-%d %H:%M}" == "03-14 07:30"

    push(server, visit)
    stubborn = push(server, visit=delivered, records=PUSHED, follows_server_clock=False)
    assert stubborn.clock.now() == NOON


def test_the_servers_stamp_makes_a_terminal_that_counts_send_again() -> None:
    back = OPTIONS.replace("ATTLOGStamp=None", "ATTLOGStamp=1")
    server = Server(options_all=["200 " + OPTIONS, "200 " + back])

    def configure(terminal: PushTerminal) -> None:
        terminal.follows_stamps = True

    async def visit(terminal: PushTerminal) -> None:
        await terminal.delivered()
        await terminal.unplug()
        await terminal.plug_in()
        while len(server.bodies("ATTLOG")) < 2:
            await asyncio.sleep(0.001)

    push(server, visit, configure, records=PUSHED)
    assert server.targets("ATTLOG")[0].endswith("Stamp=2")
    assert server.bodies("ATTLOG")[1] == PUSHED_BODY.splitlines(True)[1]


def test_a_backlog_of_five_megabytes_comes_in_batches_with_pings_between() -> None:
    records = [PushRecord("9001", MORNING + timedelta(seconds=n)) for n in range(130_000)]
    server = Server()
    push(server, delivered, records=records, batch=65_000)
    bodies = server.bodies("ATTLOG")
    assert sum(map(len, bodies)) > 4_500_000
    assert [body.count(b"\n") for body in bodies] == [65_000, 65_000]
    assert len(server.targets("ping")) == 1


def test_replayed_batches_and_unwanted_biometrics() -> None:
    server = Server()

    def configure(terminal: PushTerminal) -> None:
        terminal.repeat_batches = 1
        terminal.upload_biometrics("9001")

    push(server, delivered, configure, records=PUSHED)
    assert server.bodies("table=ATTLOG") == [PUSHED_BODY, PUSHED_BODY]
    assert server.bodies("OPERLOG")[0].startswith(b"FP PIN=9001\t")
    (photo,) = server.bodies("ATTPHOTO")
    head, _, image = photo.partition(b"\0")
    assert head.endswith(b"SN=HW20250001\nsize=10\nCMD=uploadphoto")
    assert len(photo) == len(head) + 11
    assert image == b"\xff\xd8\xff\xe0\x00\x10JFIF"


def test_a_wrong_first_line_of_options_is_asked_for_again() -> None:
    server = Server(options_all=["200 OK", "404 ", "200 " + OPTIONS])
    push(server, delivered, records=PUSHED)
    assert [target.count("options=all") for target in server.targets()[:4]] == [1, 1, 1, 0]


def test_a_terminal_that_insists_on_encryption_asks_for_keys_until_the_version_is_lower() -> None:
    lower = OPTIONS.replace("PushProtVer=2.4.1", "PushProtVer=2.3.0")
    server = Server(options_all=["200 " + OPTIONS, "200 " + lower], exchange=["404 "])

    def configure(terminal: PushTerminal) -> None:
        terminal.insists_on_encryption = True

    push(server, delivered, configure, records=PUSHED)
    assert len(server.targets("exchange")) == 1


def test_the_security_dialect_registers_and_sends_events() -> None:
    server = Server(
        options_all=["200 OK"],
        registry=["200 RegistryCode=RC7F3K2Q9A"],
        push=[
            "200 ServerVersion=3.1.2\nRequestDelay=5\nErrorDelay=60\nSessionID=5F2A\n"
            "TransTables=User Transaction\n"
        ],
        tabledata=["200 OK", "200 user=1"],
    )
    row = PushRecord("9001", MORNING, verify=15)
    users = [PushUser("9001", "张三")]

    def configure(terminal: PushTerminal) -> None:
        terminal.door_state(sensor="00", alarm="0200000000000000")

    push(server, delivered, configure, records=[row], users=users, dialect="acc")
    paths = [target.partition("?")[0].rpartition("/")[2] for target in server.targets()]
    assert paths[:4] == ["cdata", "registry", "push", "cdata"]
    assert server.bodies("registry")[0].startswith(b"DeviceType=acc,")
    assert server.bodies("table=rtlog") == [
        b"time=2025-03-14 08:59:01\tpin=9001\tcardno=0\tsitecode=0\tlinkid=0\teventaddr=1"
        b"\tevent=0\tinoutstatus=0\tverifytype=15\tindex=1\tmaskflag=0\ttemperature=0"
        b"\tconvtemperature=0\n"
    ]
    assert b"Cookie: token=f44931c89a84851e3939ed9b0f08f61a\r\n" in server.requests[3]
    assert server.bodies("rtstate")[0].endswith(b"\tsensor=00\trelay=00\talarm=0200000000000000\n")
    first, second = server.bodies("tabledata")
    assert first == second
    assert b"\tname=\xd5\xc5\xc8\xfd\t" in first
