"""The wire format of port 4370: packets, logs, users and events as bytes."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import zkteco
from drivers.base import BadFrame
from drivers.zkteco import Packet, checksum, choose_layout, pack, read_log, split, unpack, wrap
from rules.model import DeviceEvent, Punch, Reading, TerminalUser, Unreadable

FRAMES = Path(__file__).parents[1] / "frames" / "zkteco"
SHANGHAI = ZoneInfo("Asia/Shanghai")
SESSION = 0x1F2E
AT_0859_01 = 1_741_913_941_000  # 2025-03-14 08:59:01 +08:00
LATEST = zkteco.time_value(datetime(2025, 3, 15, 9))  # noqa: DTZ001


def frame(name: str) -> bytes:
    return bytes.fromhex((FRAMES / f"{name}.hex").read_text())


SERIAL = b"~SerialNumber\0"
WORKED = {
    "connect": Packet(1000, 0, 0, b""),
    "connect_answer_unauthorised": Packet(2005, SESSION, 0, b""),
    "auth": Packet(1102, SESSION, 1, bytes.fromhex("41363266")),
    "auth_answer": Packet(2000, SESSION, 1, b""),
    "option_serial": Packet(11, SESSION, 2, SERIAL),
    "option_serial_answer": Packet(2000, SESSION, 2, b"~SerialNumber=HW20250001\0"),
    "get_time": Packet(201, SESSION, 3, b""),
    "get_time_answer": Packet(2000, SESSION, 3, bytes.fromhex("5d234830")),
    "set_time": Packet(202, SESSION, 4, bytes.fromhex("64234830")),
    "get_free_sizes": Packet(50, SESSION, 5, b""),
    "prepare_buffer": Packet(1503, SESSION, 6, bytes.fromhex("010d00") + bytes(8)),
    "prepare_buffer_answer_small": Packet(1501, SESSION, 6, b"\x28\0\0\0" + frame("record_40")),
    "prepare_buffer_answer_large": Packet(
        2000, SESSION, 6, bytes.fromhex("00 440d0300 440d0300 00000000")
    ),
    "read_buffer_first": Packet(1504, SESSION, 7, struct.pack("<II", 0, 65_472)),
    "read_buffer_answer_prepare": Packet(1500, SESSION, 7, struct.pack("<II", 65_472, 4096)),
    "read_buffer_last": Packet(1504, SESSION, 10, struct.pack("<II", 196_416, 3588)),
    "free_buffer": Packet(1502, SESSION, 11, b""),
    "register": Packet(500, SESSION, 12, b"\1\0\0\0"),
    "event_32": Packet(500, 1, 0, b"9001".ljust(24, b"\0") + bytes.fromhex("010019030e083b01")),
    "event_acknowledged": Packet(2000, SESSION, 0, b""),
    "exit": Packet(1001, SESSION, 13, b""),
    "odd_length": Packet(2000, SESSION, 9, b"\x09"),
}


# Packets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKED)
def test_a_recorded_frame_is_read_and_written_byte_for_byte(name: str) -> None:
    packets, rest, problems = split(frame(name))

    assert packets == [WORKED[name]]
    assert not rest
    assert problems == []
    assert wrap(pack(*WORKED[name])) == frame(name)


@pytest.mark.parametrize("name", WORKED)
def test_a_recorded_frame_may_come_byte_by_byte(name: str) -> None:
    buffer: bytes | bytearray = bytearray()
    packets: list[Packet] = []
    for byte in frame(name):
        buffer += bytes((byte,))
        new, buffer, problems = split(buffer)
        packets += new
        assert problems == []

    assert packets == [WORKED[name]]
    assert not buffer


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 11, 64, 10_000])
def test_glued_frames_come_apart_wherever_they_are_cut(pieces: int) -> None:
    stream = b"".join(map(frame, WORKED))
    buffer: bytes | bytearray = bytearray()
    packets: list[Packet] = []
    for at in range(0, len(stream), pieces):
        buffer += stream[at : at + pieces]
        new, buffer, problems = split(buffer)
        packets += new
        assert problems == []

    assert packets == list(WORKED.values())


def test_bytes_between_packets_are_dropped_and_counted() -> None:
    packets, rest, problems = split(
        b"AT+GARBAGE" + frame("auth_answer") + b"\x50\x50" + frame("exit") + b"\x50\x50\x82"
    )

    assert packets == [WORKED["auth_answer"], WORKED["exit"]]
    assert rest == b"\x50\x50\x82"
    assert problems == ["out_of_step", "out_of_step"]


@pytest.mark.parametrize("length", [0, 7, (1 << 20) + 1, 0xFFFFFFFF])
def test_an_impossible_length_loses_only_its_own_packet(length: int) -> None:
    packets, _, problems = split(zkteco.MAGIC + struct.pack("<I", length) + frame("exit"))

    assert packets == [WORKED["exit"]]
    assert problems == ["out_of_step"]


def test_a_packet_with_a_wrong_checksum_is_dropped_and_counted() -> None:
    broken = bytearray(frame("get_time_answer"))
    broken[-1] ^= 0x40

    packets, rest, problems = split(broken + frame("exit"))

    assert packets == [WORKED["exit"]]
    assert not rest
    assert problems == ["wrong_checksum"]


@pytest.mark.parametrize("error", [1, -1])
def test_a_checksum_off_by_one_is_accepted_and_counted(error: int) -> None:
    packet = bytearray(frame("get_time_answer")[8:])
    struct.pack_into("<H", packet, 2, struct.unpack_from("<H", packet, 2)[0] + error)

    assert unpack(bytes(packet)) == (WORKED["get_time_answer"], "checksum_off_by_one")


@given(st.binary(max_size=200).filter(any))
def test_the_checksum_is_the_plain_ones_complement_sum(packet: bytes) -> None:
    padded = packet + bytes(len(packet) % 2)
    total = sum(struct.unpack(f"<{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)

    assert checksum(packet) == ~total & 0xFFFF


def test_a_datagram_shorter_than_a_header_is_no_packet() -> None:
    assert unpack(b"\xd0\x07\x00") == (None, "short_packet")
    assert unpack(bytes(8)) == (None, "wrong_checksum")


@given(st.lists(st.binary(max_size=40) | st.sampled_from([*map(frame, WORKED), zkteco.MAGIC])))
def test_no_stream_of_bytes_makes_the_splitter_fail_or_hoard(pieces: list[bytes]) -> None:
    buffer: bytes | bytearray = bytearray()
    for piece in pieces:
        buffer += piece
        _, buffer, _ = split(buffer)
        assert len(buffer) <= 8 + zkteco.LONGEST_PACKET
        again, rest, problems = split(bytes(buffer))
        assert (again, rest, problems) == ([], buffer, [])


@pytest.mark.parametrize(
    ("key", "session", "scrambled"),
    [
        (0, 0x1F2E, "617d3266"),
        (1, 0x0001, "61fd3279"),
        (1234, 0x1F2E, "41363266"),
        (1234, 0x1F99, "41363266"),
        (5678, 0x1F2E, "09093266"),
        (123456, 0xABCD, "297f3252"),
        (999999, 0xFFFF, "22813296"),
    ],
)
def test_the_comm_key_is_scrambled_as_terminals_expect(
    key: int, session: int, scrambled: str
) -> None:
    assert zkteco.scramble(key, session).hex() == scrambled


# Times, options, counters --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded", "wall"),
    [
        (810034013, "5d234830", datetime(2025, 3, 14, 9, 26, 53, tzinfo=SHANGHAI)),
        (810032341, "d51c4830", datetime(2025, 3, 14, 8, 59, 1, tzinfo=SHANGHAI)),
        (0, "00000000", datetime(2000, 1, 1, tzinfo=SHANGHAI)),
    ],
)
def test_log_times_count_months_of_31_days(value: int, encoded: str, wall: datetime) -> None:
    assert struct.pack("<I", value).hex() == encoded
    assert zkteco.instant_of(value, SHANGHAI) == wall.timestamp() * 1000
    assert zkteco.time_value(wall) == value


@pytest.mark.parametrize("value", [808794123, 0xFFFFFFFF])  # the first says 31 February
def test_a_time_that_no_calendar_has_is_an_error(value: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        zkteco.instant_of(value, SHANGHAI)


@pytest.mark.parametrize("length", [80, 92, 100])
def test_counters_are_read_from_answers_of_every_length(length: int) -> None:
    answer = bytearray(length)
    for at, value in {16: 250, 32: 96_000, 60: 3000, 64: 100_000, 76: 4000}.items():
        struct.pack_into("<i", answer, at, value)

    assert zkteco.free_sizes(bytes(answer)) == {
        "users": 250,
        "records": 96_000,
        "user_capacity": 3000,
        "record_capacity": 100_000,
        "records_free": 4000,
    }


def test_counters_that_are_absent_or_negative_are_unknown() -> None:
    assert zkteco.free_sizes(bytes(16) + struct.pack("<ii", 7, 0)) == {"users": 7}
    assert zkteco.free_sizes(bytes(16) + struct.pack("<i", -1)) == {}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (b"~SerialNumber=HW20250001\0", b"HW20250001"),
        (b"~SerialNumber==HW1\0\xff\xff", b"HW1"),
        (b"~DeviceName=\0", b""),
        (b"", b""),
    ],
)
def test_the_value_of_an_option_stands_behind_the_equals_sign(answer: bytes, value: bytes) -> None:
    assert zkteco.option_value(answer) == value


# The log -------------------------------------------------------------------------------------


def rows(layout: str, count: int, start: str = "2025-03-01T08:00:00", seed: int = 1) -> bytes:
    """A plausible log, written by hand for each layout."""
    dice = random.Random(seed)
    at = datetime.fromisoformat(start)
    log = []
    for number in range(count):
        at += timedelta(seconds=dice.randrange(1, 900))
        days = (at.year - 2000) * 372 + (at.month - 1) * 31 + at.day - 1
        time = days * 86400 + at.hour * 3600 + at.minute * 60 + at.second
        uid = number % 40 + 1
        match layout:
            case "8":
                log.append(struct.pack("<HBIB", uid, 1, time, 0))
            case "8alt":
                log.append(struct.pack("<HBBI", uid, 1, 0, time))
            case "16":
                log.append(struct.pack("<IIBBHI", 1000 + uid, time, 1, 0, 0, 0))
            case _:
                who = str(9000 + uid).encode()
                row = struct.pack("<H24sBIB8s", uid, who, 15, time, 255, b"\0\0\0\0\xff\0\0\0")
                tail = bytes.fromhex("ff3235350000000000") + bytes(100)
                log.append(row + tail[: int(layout) - 40])
    return b"".join(log)


@pytest.mark.parametrize(
    ("name", "layout", "person", "verify", "state"),
    [
        ("record_8", "8", "9001", 1, 0),
        ("record_8alt", "8alt", "9001", 1, 0),
        ("record_16", "16", "1001", 1, 0),
        ("record_40", "40", "9001", 1, 0),
    ],
)
def test_a_recorded_record_becomes_a_punch(
    name: str, layout: str, person: str, verify: int, state: int
) -> None:
    record = frame(name)

    chosen = choose_layout(record, [1], LATEST)
    readings = list(read_log(record, chosen, SHANGHAI, device="t1", people={1: "9001"}))

    assert chosen.name == layout
    assert readings == [Reading("t1", AT_0859_01, Punch(person, verify, state), record)]


def test_a_record_of_49_bytes_is_one_of_40_and_a_tail() -> None:
    record = frame("record_40") + bytes.fromhex("ff3235350000000000")

    layout = choose_layout(record, [1], LATEST)
    (reading,) = read_log(record, layout, SHANGHAI, device="t1", serial="HW1")

    assert layout.name == "49"
    assert reading == Reading("t1", AT_0859_01, Punch("9001", 1, 0), record, "HW1")


def test_a_work_code_of_16_byte_records_is_kept() -> None:
    record = frame("record_16")[:12] + struct.pack("<I", 7)

    (reading,) = read_log(record, zkteco.LAYOUTS["16"], SHANGHAI, device="t1")

    assert reading.body == Punch("1001", 1, 0, work_code="7")


@pytest.mark.parametrize("layout", ["8", "8alt", "16", "40", "49", "52"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 40, 49, 500])
def test_the_record_size_is_found_when_the_count_is_known(layout: str, count: int) -> None:
    assert choose_layout(rows(layout, count), [count, count], LATEST).name == layout


@pytest.mark.parametrize("layout", ["8", "8alt", "16", "40", "49"])
@pytest.mark.parametrize("count", [1, 2, 5, 10, 40, 49, 500])
@pytest.mark.parametrize("counts", [[0, 0], [3, 7]])
def test_the_record_size_is_found_when_the_count_says_nothing(
    layout: str, count: int, counts: list[int]
) -> None:
    assert choose_layout(rows(layout, count), counts, LATEST).name == layout


@pytest.mark.parametrize(("layout", "count"), [("40", 2), ("16", 5), ("8", 10), ("8alt", 10)])
def test_eighty_bytes_are_told_apart(layout: str, count: int) -> None:
    log = rows(layout, count)

    assert len(log) == 80
    assert choose_layout(log, [0], LATEST).name == layout
    assert choose_layout(log, [count], LATEST).name == layout


@pytest.mark.parametrize(("layout", "count"), [("49", 40), ("40", 49)])
def test_1960_bytes_are_told_apart(layout: str, count: int) -> None:
    log = rows(layout, count)

    assert len(log) == 1960
    assert choose_layout(log, [0], LATEST).name == layout
    assert choose_layout(log, [count], LATEST).name == layout


def test_five_punches_of_49_bytes_are_five() -> None:
    log = rows("49", 5)

    layout = choose_layout(log, [5], LATEST)
    readings = list(read_log(log, layout, SHANGHAI, device="t1"))

    assert [reading.body.person for reading in readings if isinstance(reading.body, Punch)] == [
        "9001",
        "9002",
        "9003",
        "9004",
        "9005",
    ]


def test_a_count_that_is_half_the_truth_does_not_skip_every_other_record() -> None:
    assert choose_layout(rows("40", 100), [50, 50], LATEST).name == "40"


def test_a_punch_during_the_read_does_not_hide_the_record_size() -> None:
    assert choose_layout(rows("40", 101), [100, 102], LATEST).name == "40"


def test_a_log_full_of_lost_clocks_is_still_read_when_the_count_fits() -> None:
    log = rows("40", 10, start="2000-01-01T00:00:01") + rows("40", 10)

    assert choose_layout(log, [20], LATEST).name == "40"


@pytest.mark.parametrize("log", [b"\0" * 400, random.Random(5).randbytes(400), b"\xff" * 49])
def test_nothing_is_guessed_about_bytes_that_fit_no_layout(log: bytes) -> None:
    with pytest.raises(BadFrame, match=f"{len(log)} bytes .* {log[:128].hex(' ')}"):
        choose_layout(log, [len(log) // 40], LATEST)


def test_the_settings_can_name_the_layout() -> None:
    assert choose_layout(bytes(400), [0], LATEST, "16").name == "16"
    assert choose_layout(bytes(400), [0], LATEST, "8alt").name == "8alt"


@pytest.mark.parametrize("value", [808794123, 0, 0xFFFFFFFF])
def test_an_impossible_time_costs_one_record(value: int) -> None:
    good = frame("record_40")
    bad = good[:27] + struct.pack("<I", value) + good[31:]

    readings = list(read_log(good + bad + good, zkteco.LAYOUTS["40"], SHANGHAI, device="t1"))

    assert [type(reading.body) for reading in readings] == [Punch, Unreadable, Punch]
    assert readings[1].raw == bad
    assert readings[1].at == AT_0859_01  # a stable one, so that a second read tells nothing new


def test_a_record_without_a_user_id_is_unreadable() -> None:
    nobody = frame("record_40").replace(b"9001", b"\0\0\0\0")
    noise = frame("record_40").replace(b"9001", b"\xff\x019\0")

    readings = list(read_log(nobody + noise, zkteco.LAYOUTS["40"], SHANGHAI, device="t1"))

    assert [type(reading.body) for reading in readings] == [Unreadable, Unreadable]


def test_a_clock_that_was_lost_still_gives_a_punch() -> None:
    record = frame("record_40")[:27] + struct.pack("<I", 192) + frame("record_40")[31:]

    (reading,) = read_log(record, zkteco.LAYOUTS["40"], SHANGHAI, device="t1")

    assert reading.body == Punch("9001", 1, 0)
    assert reading.at == datetime(2000, 1, 1, 0, 3, 12, tzinfo=SHANGHAI).timestamp() * 1000


def test_leading_zeros_and_letters_of_a_user_id_are_kept() -> None:
    for who in ("0042", "A17b", "123456789012345678901234"):
        record = b"\1\0" + who.encode().ljust(24, b"\0") + frame("record_40")[26:]
        (reading,) = read_log(record, zkteco.LAYOUTS["40"], SHANGHAI, device="t1")
        assert reading.body == Punch(who, 1, 0)


def test_a_deleted_user_is_not_taken_for_another() -> None:
    (reading,) = read_log(
        frame("record_8"), zkteco.LAYOUTS["8"], SHANGHAI, device="t1", people={2: "1"}
    )

    assert reading.body == Punch("uid:1", 1, 0)
    assert reading.raw == frame("record_8")


def test_the_tail_of_a_log_reads_like_the_whole_of_it() -> None:
    log = rows("40", 50) + frame("record_40")[:27] + bytes(4) + frame("record_40")[31:]
    whole = list(read_log(log, zkteco.LAYOUTS["40"], SHANGHAI, device="t1"))

    tail = list(read_log(log, zkteco.LAYOUTS["40"], SHANGHAI, device="t1", start=50 * 40))

    assert tail == whole[50:]


def test_wall_times_are_right_on_days_when_clocks_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    log = b"".join(
        struct.pack("<IIBBHI", 7, zkteco.time_value(wall), 1, 0, 0, 0)
        for wall in (
            datetime(2025, 3, 30, 1, 59, tzinfo=berlin),
            datetime(2025, 3, 30, 3, 0, tzinfo=berlin),
            datetime(2025, 3, 31, 0, 0, tzinfo=berlin),
        )
    )

    readings = list(read_log(log, zkteco.LAYOUTS["16"], berlin, device="t1"))

    assert readings[1].at - readings[0].at == 60_000
    assert readings[2].at - readings[1].at == 21 * 3_600_000


@pytest.mark.parametrize(
    ("prefix", "body", "expected"),
    [
        (80, 80, (80, 0, 0)),
        (2, 80, (80, 2, 0)),  # the count instead of the length
        (80, 83, (80, 0, 0)),
        (120, 80, (80, 0, 40)),
    ],
)
def test_the_smaller_of_announced_and_present_is_trusted(
    prefix: int, body: int, expected: tuple[int, int, int]
) -> None:
    records, count, absent = zkteco.records_in(struct.pack("<I", prefix) + bytes(body))

    assert (len(records), count, absent) == expected


@given(st.binary(max_size=500), st.sampled_from(sorted(zkteco.LAYOUTS)), st.integers(0, 3))
def test_no_log_makes_the_reader_fail_or_lose_bytes(log: bytes, name: str, start: int) -> None:
    layout = zkteco.LAYOUTS[name]
    start = min(start, len(log) // layout.size) * layout.size

    readings = list(read_log(log, layout, SHANGHAI, device="t1", start=start))

    assert b"".join(reading.raw for reading in readings) == log[start:]
    json.dumps([reading.body.person for reading in readings if isinstance(reading.body, Punch)])


@given(st.binary(max_size=400), st.lists(st.integers(-5, 1 << 31), max_size=3))
def test_choosing_a_layout_either_works_or_says_why_not(log: bytes, counts: list[int]) -> None:
    try:
        layout = choose_layout(log or b"\0", counts, LATEST)
    except BadFrame:
        return
    assert 8 <= layout.size <= zkteco.WIDEST


# Users ---------------------------------------------------------------------------------------


def test_recorded_users_are_read_without_their_passwords_and_cards() -> None:
    with_password = bytearray(frame("user_72"))
    with_password[3:11] = b"\xff123456\0"

    (user,) = zkteco.read_users(bytes(with_password), [1], None)

    assert user == (1, "9001", "张三", 0)
    assert zkteco.read_users(frame("user_28"), [1], None) == [(1, "1001", "李四", 0)]


def users_of(size: int, count: int) -> bytes:
    if size == 28:
        return b"".join(
            struct.pack(
                "<HB5s8sIxBHI", n, 14 * (n == 1), b"", "王五".encode("gbk"), n, 1, 0, 700 + n
            )
            for n in range(1, count + 1)
        )
    return b"".join(
        struct.pack(
            "<HB8s24sIB8s24s", n, 0, b"", "王五".encode("gbk"), n, 1, b"", b"%d" % (700 + n)
        )
        for n in range(1, count + 1)
    )


@pytest.mark.parametrize(("size", "count"), [(28, 18), (72, 7)])
@pytest.mark.parametrize("counted", [True, False])
def test_504_bytes_of_users_are_told_apart(size: int, count: int, counted: bool) -> None:
    records = users_of(size, count)
    assert len(records) == 504

    users = zkteco.read_users(records, [count if counted else 0], None)

    assert [user.person for user in users] == [str(701 + n) for n in range(count)]
    assert {user.name for user in users} == {"王五"}


def test_users_in_no_known_layout_are_reported_without_their_bytes() -> None:
    with pytest.raises(BadFrame, match=r"^144 bytes of user list fit neither"):
        zkteco.read_users(b"I" * 144, [2], None)


@given(st.binary(max_size=600), st.lists(st.integers(-5, 100), max_size=2))
def test_no_user_list_makes_the_reader_fail(records: bytes, counts: list[int]) -> None:
    try:
        zkteco.read_users(records, counts, None)
    except BadFrame:
        pass


# Events --------------------------------------------------------------------------------------


def test_a_recorded_event_is_a_punch() -> None:
    event = zkteco.read_event(WORKED["event_32"].data, SHANGHAI)

    assert event == ("9001", 1, 0, AT_0859_01, 0)


@pytest.mark.parametrize("tail", [b"", b"\7\0\0\0", b"\0" * 5, b"\0" * 20, b"\0" * 30])
def test_longer_events_are_read_by_their_first_32_bytes(tail: bytes) -> None:
    event = zkteco.read_event(WORKED["event_32"].data + tail, SHANGHAI)

    assert event == ("9001", 1, 0, AT_0859_01, 7 if tail[:1] == b"\7" else 0)


def test_short_events_carry_a_number() -> None:
    assert zkteco.read_event(frame("event_12_data"), SHANGHAI) == (
        9003, 1, 0, AT_0859_01 + 2000, 0,
    )  # fmt: skip
    expected = (3, 1, 0, AT_0859_01 + 3000, 0)
    assert zkteco.read_event(frame("event_10_data"), SHANGHAI) == expected
    assert zkteco.read_event(frame("event_10_data") + bytes(4), SHANGHAI) == expected


@pytest.mark.parametrize("length", [0, 9, 11, 13, 15, 31])
def test_an_event_of_unknown_length_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"event of {length} bytes; expected 10, 12, 14 or 32"):
        zkteco.read_event(frame("event_32")[16 : 16 + length], SHANGHAI)


@given(st.binary(max_size=80), st.integers(0, 0xFFFF))
def test_no_event_makes_the_reader_fail(data: bytes, code: int) -> None:
    stream = wrap(pack(500, code, 0, data))

    for reading in zkteco.decode(stream, SHANGHAI):
        assert len(reading.raw) <= 49


@pytest.mark.parametrize(
    ("code", "data", "expected"),
    [
        (512, "3a000000", DeviceEvent("misoperation", 512)),
        (512, "37000000", DeviceEvent("tamper", 512)),
        (512, "35000000", DeviceEvent("exit_button", 512)),
        (512, "5400000000000000", DeviceEvent("door_closed", 512)),
        (512, "ffffffff0000000000000000", DeviceEvent("duress_or_passback", 512)),
        (512, "", DeviceEvent("alarm", 512)),
        (32, "", DeviceEvent("unlocked", 32)),
        (4, "0000 0100 393030310000000000 00", DeviceEvent("user_enrolled", 4, "9001")),
        (1024, "01", DeviceEvent("unknown_event", 1024)),
    ],
)
def test_other_events_have_names(code: int, data: str, expected: DeviceEvent) -> None:
    assert zkteco.other_event(code, bytes.fromhex(data)) == expected


# Captures ------------------------------------------------------------------------------------


def bodies(readings: Iterator[Reading]) -> list[object]:
    return [reading.body for reading in readings]


def test_a_capture_of_both_directions_gives_its_punches() -> None:
    capture = b"".join(map(frame, WORKED))

    readings = list(zkteco.decode(capture, SHANGHAI))

    assert [(reading.at, reading.body) for reading in readings] == [
        (AT_0859_01, Punch("9001", 1, 0)),
        (AT_0859_01, Punch("9001", 1, 0, live=True)),
    ]


def test_a_capture_of_the_terminal_alone_gives_lists_in_many_packets() -> None:
    log = rows("40", 3000)
    body = struct.pack("<I", len(log)) + log
    people = struct.pack("<I", 72) + frame("user_72")
    packets = [pack(1501, SESSION, 5, people), pack(2000, SESSION, 6, frame("exit")[8:])]
    for reply_id, at in enumerate(range(0, len(body), 65_472), 7):
        chunk = body[at : at + 65_472]
        packets.append(pack(1500, SESSION, reply_id, struct.pack("<II", len(chunk), 1024)))
        packets += [
            pack(1501, SESSION, reply_id, chunk[part : part + 1024])
            for part in range(0, len(chunk), 1024)
        ]
        packets.append(pack(2000, SESSION, reply_id))

    readings = bodies(zkteco.decode(b"".join(map(wrap, packets)), SHANGHAI))

    assert readings[0] == TerminalUser("9001", "张三")
    assert len(readings) == 3001
    assert all(type(body) is Punch for body in readings[1:])


def test_a_capture_with_user_list_and_short_records_joins_them() -> None:
    packets = [
        pack(1503, SESSION, 5, bytes.fromhex("0109000500000000000000")),
        pack(1501, SESSION, 5, struct.pack("<I", 72) + frame("user_72")),
        pack(1503, SESSION, 6, bytes.fromhex("010d000000000000000000")),
        pack(1501, SESSION, 6, struct.pack("<I", 8) + frame("record_8")),
    ]

    readings = bodies(zkteco.decode(b"".join(map(wrap, packets)), SHANGHAI))

    assert readings == [TerminalUser("9001", "张三"), Punch("9001", 1, 0)]


def test_bytes_without_a_packet_are_said_to_be_unreadable() -> None:
    (reading,) = zkteco.decode(b"GET / HTTP/1.1", SHANGHAI)

    assert isinstance(reading.body, Unreadable)
    assert reading.raw == b"GET / HTTP/1.1"


@given(st.lists(st.sampled_from([*map(frame, WORKED)]) | st.binary(max_size=60), max_size=12))
def test_no_capture_makes_the_decoder_fail(pieces: list[bytes]) -> None:
    for reading in zkteco.decode(b"".join(pieces), SHANGHAI):
        assert len(reading.raw) <= 4096


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": ""}, "host is empty"),
        ({"host": "10.0.0.5", "port": 0}, "port is 0; expected 1 to 65535"),
        ({"host": "10.0.0.5", "keepalive_s": 0}, "keepalive_s is 0; expected more than 0"),
    ],
)
def test_settings_that_can_not_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zkteco.ZkTecoOptions(**options)  # type: ignore[arg-type]


def test_the_key_is_in_a_file_and_no_forbidden_command_exists() -> None:
    codes = {value for name, value in vars(zkteco).items() if name.isupper() and type(value) is int}

    assert not codes & {14, 15, 18, 19, 31, 1002, 1003, 1004, 1005}
    assert "comm_key" not in zkteco.ZkTecoOptions.__dataclass_fields__
