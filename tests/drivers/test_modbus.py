"""Frames, values in registers, the ear, and the guard of a line against a peer that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import BadFrame, DeviceLost
from drivers.emulators.queue_display import DisplayLine, DisplayUnit, Fault
from drivers.modbus import (
    BusMaster,
    Ear,
    Heard,
    ModbusLine,
    Refusal,
    Silent,
    WrongAnswer,
    answer_in,
    crc16,
    decode_registers,
    encode_registers,
    gap_ms,
    is_sealed,
    poll_ms,
    spellings,
    tcp_answer_in,
)

READ_5 = bytes.fromhex("05 03 00 00 00 02 C5 8F")
ANSWER_5 = bytes.fromhex("05 03 04 41 30 33 37 FE E6")
READ_1 = bytes.fromhex("01 03 00 00 00 06 C5 C8")
ANSWER_1 = bytes.fromhex("01 03 0C 00 41 00 30 00 33 00 37 00 20 00 20 60 99")
WRITE_CHARS = bytes.fromhex("01 10 00 00 00 04 08 00 41 00 30 00 33 00 37 16 A3")
WRITTEN_CHARS = bytes.fromhex("01 10 00 00 00 04 C1 CA")
WRITE_PACKED = bytes.fromhex("01 10 00 06 00 02 04 13 00 30 39 A3 13")
WRITE_50 = bytes.fromhex("01 06 00 00 00 32 08 1F")
NO_ADDRESS = bytes.fromhex("05 83 02 81 30")
BUSY = bytes.fromhex("05 83 06 80 F3")
TCP_READ = bytes.fromhex("1A 2B 00 00 00 06 05 03 00 00 00 02")
TCP_ANSWER = bytes.fromhex("1A 2B 00 00 00 07 05 03 04 41 30 33 37")
TCP_0B = bytes.fromhex("1A 2B 00 00 00 03 05 83 0B")

FRAMES = [
    READ_5, ANSWER_5, READ_1, ANSWER_1, WRITE_CHARS, WRITTEN_CHARS, WRITE_PACKED, WRITE_50,
    NO_ADDRESS, BUSY,
]  # fmt: skip


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


# Frames --------------------------------------------------------------------------------------


def test_the_crc_of_the_digits_is_the_published_one() -> None:
    assert crc16(b"123456789") == 0x4B37


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.hex())
def test_every_published_frame_is_sealed_and_any_flipped_bit_breaks_it(frame: bytes) -> None:
    assert is_sealed(frame)
    for bit in range(len(frame) * 8):
        number = int.from_bytes(frame, "big") ^ 1 << bit
        assert not is_sealed(number.to_bytes(len(frame), "big"))


ECHOED_5 = READ_5 + ANSWER_5


@pytest.mark.parametrize(
    ("request_", "came", "answer"),
    [
        (READ_5, ANSWER_5, ANSWER_5),
        (READ_1, ANSWER_1, ANSWER_1),
        (READ_5, NO_ADDRESS, NO_ADDRESS),
        (READ_5, BUSY, BUSY),
        (WRITE_CHARS, WRITTEN_CHARS, WRITTEN_CHARS),
        (WRITE_CHARS, WRITE_CHARS + WRITTEN_CHARS, WRITTEN_CHARS),
        (WRITE_50, WRITE_50, WRITE_50),
        (READ_5, b"\x00" + ANSWER_5, ANSWER_5),
        (READ_5, b"\xff\x00\x55" + ANSWER_5, ANSWER_5),
        (READ_5, ANSWER_1 + ANSWER_5, ANSWER_5),
        (READ_5, ECHOED_5, ANSWER_5),
        (READ_5, ANSWER_5 + b"\x00\xff", ANSWER_5),
        (READ_5, ANSWER_1, b""),
        (READ_5, ANSWER_5[:-1] + b"\x00", b""),
        (READ_5, WRITTEN_CHARS, b""),
    ],
)
def test_the_answer_is_found_whole_and_byte_by_byte(
    request_: bytes, came: bytes, answer: bytes
) -> None:
    steps = [answer_in(came[:end], request_) for end in range(len(came) + 1)]

    assert answer_in(came, request_) == answer
    assert {step for step in steps if step} == ({answer} if answer else set())


def test_an_odd_number_of_bytes_is_no_answer_though_its_crc_fits() -> None:
    odd = bytes.fromhex("05 03 03 41 30 33")
    odd += crc16(odd).to_bytes(2, "little")

    assert is_sealed(odd)
    assert answer_in(odd, READ_5) == b""


@pytest.mark.parametrize("answer", [TCP_ANSWER, TCP_0B])
def test_a_tcp_answer_is_known_by_its_transaction(answer: bytes) -> None:
    late = b"\x1a\x2a" + TCP_ANSWER[2:]

    assert tcp_answer_in(answer, TCP_READ) == answer
    assert tcp_answer_in(late + answer, TCP_READ) == answer
    assert tcp_answer_in(late, TCP_READ) == b""
    for end in range(len(answer)):
        assert tcp_answer_in(answer[:end], TCP_READ) == b""


@pytest.mark.parametrize("header", ["1A 2B 00 01 00 07", "1A 2B 00 00 00 FF", "1A 2B 00 00 00 02"])
def test_a_tcp_stream_out_of_step_is_told(header: str) -> None:
    with pytest.raises(BadFrame, match="expected protocol 0 and a length of 3 to 254"):
        tcp_answer_in(bytes.fromhex(header) + TCP_ANSWER[6:], TCP_READ)


@given(st.binary(max_size=300), st.sampled_from([READ_5, WRITE_CHARS, WRITE_50]))
def test_hostile_bytes_give_an_answer_only_with_a_good_crc(data: bytes, request_: bytes) -> None:
    answer = answer_in(data, request_)

    assert answer == b"" or (is_sealed(answer) and answer in data)


@given(st.binary(max_size=300))
def test_hostile_tcp_bytes_raise_nothing_but_bad_frame(data: bytes) -> None:
    for came in (data, TCP_READ[:4] + data):
        try:
            answer = tcp_answer_in(came, TCP_READ)
        except BadFrame:
            continue
        assert answer in came


# Times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baud", "registers", "delay", "bits", "expected"),
    [
        (2400, 2, 5, 10, 105), (2400, 2, 20, 10, 120), (2400, 2, 50, 10, 150),
        (4800, 2, 20, 10, 70), (9600, 1, 5, 10, 27.9), (9600, 1, 20, 10, 42.9),
        (9600, 2, 20, 10, 45.0), (9600, 2, 50, 10, 75.0), (9600, 6, 20, 10, 53.3),
        (9600, 2, 20, 11, 47.5), (19200, 2, 20, 10, 32.5), (38400, 2, 20, 10, 27.9),
        (115200, 2, 5, 10, 10.0),
    ],
)  # fmt: skip
def test_a_poll_takes_as_long_as_the_table_says(
    baud: int, registers: int, delay: int, bits: int, expected: float
) -> None:
    # The table is rounded to whole milliseconds below 9600 Bd, and for 9600 8E1 counts the gaps
    # with 10 bits.
    assert poll_ms(baud, registers, delay, bits) == pytest.approx(expected, abs=0.8)


def test_the_gap_is_three_and_a_half_characters() -> None:
    assert gap_ms(9600) == pytest.approx(3.65, abs=0.01)
    assert gap_ms(115200) == 1.75


# Values --------------------------------------------------------------------------------------

VALUES = [
    ("uint16", "ABCD", "040D", "1037"),
    ("bcd", "ABCD", "1037", "1037"),
    ("bcd", "ABCD", "0007 0000", "70000"),
    ("int32", "ABCD", "0000 040D", "1037"),
    ("int32", "CDAB", "040D 0000", "1037"),
    ("int32", "BADC", "0000 0D04", "1037"),
    ("int32", "DCBA", "0D04 0000", "1037"),
    ("int32", "ABCD", "0001 1170", "70000"),
    ("int32", "CDAB", "1170 0001", "70000"),
    ("int32", "BADC", "0100 7011", "70000"),
    ("int32", "DCBA", "7011 0100", "70000"),
    ("float32", "ABCD", "4481 A000", "1037"),
    ("float32", "CDAB", "A000 4481", "1037"),
    ("dm_packed", "ABCD", "0001 E240", "123456"),
    ("dm_packed", "ABCD", "1300 3039", "-12.345"),
    ("int16_ones", "ABCD", "FFFE", "-1"),
    ("int16", "ABCD", "FFFE", "-2"),
    ("uint32", "ABCD", "FFFF FFFF", "4294967295"),
    ("int64", "ABCD", "FFFF FFFF FFFF FFFE", "-2"),
    ("char_pair", "ABCD", "4130 3337", "A037"),
    ("char_pair", "BADC", "3041 3733", "A037"),
    ("char_per_register", "ABCD", "0041 0030 0033 0037", "A037"),
    ("segments", "ABCD", "773F 4F07", "A037"),
]


def words(told: str) -> list[int]:
    return [int(word, 16) for word in told.split()]


@pytest.mark.parametrize(("kind", "order", "registers", "text"), VALUES)
def test_registers_are_read_and_written_as_the_documents_have_them(
    kind: Any, order: Any, registers: str, text: str
) -> None:
    assert decode_registers(kind, words(registers), order) == text
    assert encode_registers(kind, text, len(words(registers)), order) == words(registers)


def test_decimals_move_the_point() -> None:
    assert decode_registers("uint16", [1037], decimals=1) == "103.7"
    assert encode_registers("uint16", "103.7", 1, decimals=1) == [1037]


def test_bits_are_told_in_full() -> None:
    assert decode_registers("bits", [0x8001]) == "1000000000000001"


@pytest.mark.parametrize(
    ("kind", "registers"),
    [
        ("float32", "7FC0 0000"), ("float32", "7F80 0000"), ("bcd", "10A7"),
        ("dm_packed", "2000 0001"), ("dm_packed", "0600 0001"), ("segments", "7712"),
        ("int32", "0001"), ("uint16", ""),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_bad_frame_and_not_zero(kind: Any, registers: str) -> None:
    with pytest.raises(BadFrame):
        decode_registers(kind, words(registers))


@pytest.mark.parametrize(
    ("kind", "text", "count"),
    [("uint16", "70000", 1), ("uint16", "-1", 1), ("int16_ones", "40000", 1), ("bcd", "12345", 1),
     ("bcd", "-1", 1), ("dm_packed", "99999999", 2), ("dm_packed", "0.1234567", 2),
     ("bits", "1", 1), ("float32", "9" * 50, 2)],
)  # fmt: skip
def test_what_does_not_fit_is_not_written(kind: Any, text: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"fit|read only"):
        encode_registers(kind, text, count)


def test_a_display_of_numbers_gets_the_number_of_a_ticket() -> None:
    assert encode_registers("uint16", "A037", 1) == [37]
    assert encode_registers("uint16", "", 1) == [0]


def test_texts_are_filled_up_and_cut_between_characters() -> None:
    assert encode_registers("char_per_register", "A037", 6) == words("41 30 33 37 20 20")
    assert encode_registers("char_pair", "办037", 2) == words("B0EC 3033")
    assert encode_registers("char_pair", "0办", 1) == words("3020")
    assert encode_registers("segments", "A037", 3) == words("773F 4F07 0000")


def test_segments_that_stand_for_two_characters_have_two_spellings() -> None:
    assert list(spellings(bytes.fromhex("7F 3F"))) == ["80", "8O", "B0", "BO"]
    assert list(spellings(bytes.fromhex("77 86"))) == ["A1."]


def test_spellings_have_an_end() -> None:
    assert len(list(spellings(b"\x7f" * 30))) == 4096


@given(
    st.sampled_from([value[0] for value in VALUES] + ["bits"]),
    st.lists(st.integers(0, 0xFFFF), max_size=8),
    st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]),
    st.integers(0, 5),
)
def test_any_registers_are_a_text_or_a_bad_frame(
    kind: Any, registers: list[int], order: Any, decimals: int
) -> None:
    try:
        assert decode_registers(kind, registers, order, decimals)
    except BadFrame:
        pass


# The ear -------------------------------------------------------------------------------------

STREAM = bytes.fromhex("00 FF") + READ_5 + ANSWER_5 + WRITE_50 + WRITE_50
IN_STREAM = [
    Heard("request", 5, 3, 0, ()),
    Heard("answer", 5, 3, 0, (0x4130, 0x3337)),
    Heard("request", 1, 6, 0, (50,)),
    Heard("answer", 1, 6, 0, (50,)),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_line_is_overheard_whatever_the_chunks(size: int) -> None:
    ear = Ear()

    heard = []
    for begin in range(0, len(STREAM), size):
        heard += ear.hear(STREAM[begin : begin + size], 10)

    assert heard == IN_STREAM
    assert ear.noise == 2


def test_a_write_of_several_registers_and_its_answer_are_overheard() -> None:
    ear = Ear()

    heard = ear.hear(WRITE_CHARS + WRITTEN_CHARS + WRITE_PACKED, 0)

    chars = (0x41, 0x30, 0x33, 0x37)
    assert heard == [
        Heard("request", 1, 16, 0, chars),
        Heard("answer", 1, 16, 0, chars),
        Heard("request", 1, 16, 6, (0x1300, 0x3039)),
    ]


def test_a_refusal_is_overheard() -> None:
    assert Ear().hear(READ_5 + NO_ADDRESS, 0)[1:] == [Heard("refusal", 5, 3, 0, (2,))]


def test_the_same_write_after_a_second_is_a_request_again() -> None:
    ear = Ear()

    first, late, answer = (
        ear.hear(WRITE_50, 0) + ear.hear(WRITE_50, 1500) + ear.hear(WRITE_50, 2000)
    )

    assert (first.role, late.role, answer.role) == ("request", "request", "answer")


def test_another_value_is_another_write_and_no_answer() -> None:
    other = bytes.fromhex("01 06 00 00 00 33")
    other += crc16(other).to_bytes(2, "little")

    heard = Ear().hear(WRITE_50 + other + other, 0)

    assert [(one.role, one.values) for one in heard] == [
        ("request", (50,)),
        ("request", (51,)),
        ("answer", (51,)),
    ]


def test_a_repeated_read_is_not_taken_for_its_own_answer() -> None:
    # As an answer, address 0003 would announce three bytes and be just as long.
    asked = bytes.fromhex("05 03 00 03 00 02")
    asked += crc16(asked).to_bytes(2, "little")

    assert [one.role for one in Ear().hear(asked + asked, 0)] == ["request", "request"]


def test_half_a_frame_is_given_up_after_a_second() -> None:
    ear = Ear()
    assert ear.hear(bytes.fromhex("01 10 00 00 00 7B F6 00 41"), 0) == []

    assert ear.hear(WRITE_50, 1500) == [Heard("request", 1, 6, 0, (50,))]
    assert ear.noise == 9


@given(st.lists(st.one_of(st.sampled_from(FRAMES), st.binary(max_size=20)), max_size=12), st.data())
@settings(max_examples=150)
def test_chunks_never_change_what_is_overheard(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    whole, torn = Ear(), Ear()
    expected = whole.hear(stream, 0) + whole.finish(0)

    heard, at = [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 30))
        heard += torn.hear(stream[at : at + size], 0)
        at += size
    heard += torn.finish(0)

    assert heard == expected
    assert torn.noise == whole.noise
    assert len(torn._buffer) <= 512


# The guard -----------------------------------------------------------------------------------

TIMEOUT = 120


@asynccontextmanager
async def line_of(
    *units: DisplayUnit, framing: Any = "rtu-over-tcp", quiet_ms: int = 150, **how: Any
) -> AsyncIterator[tuple[BusMaster, DisplayLine]]:
    peer = DisplayLine(units, "tcp" if framing == "tcp" else "rtu", **how)
    if framing == "rtu":
        line = ModbusLine(
            "rtu", port=peer.start_pty(), baud=115200, timeout_ms=TIMEOUT, quiet_ms=quiet_ms
        )
    else:
        await peer.start_tcp()
        line = ModbusLine(
            framing,
            host="127.0.0.1",
            tcp_port=peer.port,
            baud=115200,
            timeout_ms=TIMEOUT,
            quiet_ms=quiet_ms,
        )
    bus = BusMaster(line)
    await bus.open()
    try:
        yield bus, peer
    finally:
        await bus.close()
        await peer.stop()


def counting_unit(number: int = 5) -> DisplayUnit:
    """Register n holds n."""
    return DisplayUnit(number, {place: place for place in range(300)})


FRAMINGS = ["rtu", "rtu-over-tcp", "tcp"]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_registers_are_read_and_written(framing: str) -> None:
    async def test() -> None:
        unit = counting_unit()
        async with line_of(unit, framing=framing) as (bus, _):
            assert await bus.read(5, 3, 10, 3) == (10, 11, 12)
            assert await bus.read(5, 4, 10, 1) == (10,)
            await bus.write(5, 0, [7, 8])
            await bus.write(5, 2, [9], function=6)

            assert [unit.registers[place] for place in range(4)] == [7, 8, 9, 3]
            assert bus.counts["polls"] == 4

    run(test)


def test_the_bytes_on_the_line_are_the_published_ones() -> None:
    async def test() -> None:
        one, five = DisplayUnit(1, dict.fromkeys(range(8), 0)), DisplayUnit(5, {0: 0, 1: 0})
        async with line_of(one, five) as (bus, peer):
            await bus.read(5, 3, 0, 2)
            await bus.read(1, 3, 0, 6)
            await bus.write(1, 0, [0x41, 0x30, 0x33, 0x37])
            await bus.write(1, 6, [0x1300, 0x3039])
            await bus.write(1, 0, [50], function=6)

            assert peer.heard == [READ_5, READ_1, WRITE_CHARS, WRITE_PACKED, WRITE_50]

    run(test)


@pytest.mark.parametrize("framing", ["rtu", "rtu-over-tcp"])
def test_a_late_answer_is_not_taken_for_the_next_one(framing: str) -> None:
    """Same unit, same function, same length: only the quiet time can tell."""

    async def test() -> None:
        unit = counting_unit()
        unit.fails("late", times=1, seconds=TIMEOUT / 1000 + 0.08)
        async with line_of(unit, framing=framing) as (bus, _):
            with pytest.raises(Silent):
                await bus.read(5, 3, 100, 1, retry=False)
            after = [await bus.read(5, 3, place, 1) for place in (200, 201, 202)]

            assert after == [(200,), (201,), (202,)]
            assert bus.counts["late"] == 1

    run(test)


def test_without_the_quiet_time_the_late_answer_is_believed() -> None:
    """What the guard is for: the proof that the test above can fail."""

    async def test() -> None:
        unit = counting_unit()
        unit.fails("late", times=1, seconds=TIMEOUT / 1000 + 0.08)
        async with line_of(unit, quiet_ms=0) as (bus, _):
            with pytest.raises(Silent):
                await bus.read(5, 3, 100, 1, retry=False)
            unit.delay = 0.3

            assert await bus.read(5, 3, 200, 1, retry=False) == (100,)

    run(test)


def test_the_line_is_kept_quiet_for_as_long_as_the_slowest_late_answer() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("late", times=1, seconds=0.5)
        async with line_of(unit, quiet_ms=600) as (bus, _):
            with pytest.raises(Silent):
                await bus.read(5, 3, 100, 1, retry=False)
            await bus.read(5, 3, 1, 1)
            assert bus._quiet == 0.6
            unit.fails("late", times=1, seconds=0.65)
            with pytest.raises(Silent):
                await bus.read(5, 3, 100, 1, retry=False)
            await bus.read(5, 3, 1, 1)

            assert bus.counts["late"] == 2
            assert bus._quiet > 0.65

    run(test)


def test_with_transactions_a_late_answer_is_skipped_at_once() -> None:
    async def test() -> None:
        unit = counting_unit()
        async with line_of(unit, framing="tcp", quiet_ms=0) as (bus, _):
            unit.fails("late", times=1, seconds=TIMEOUT / 1000 + 0.05)
            with pytest.raises(Silent):
                await bus.read(5, 3, 100, 1, retry=False)
            unit.delay = 0.2
            bus._timeout = 2

            assert await bus.read(5, 3, 200, 1, retry=False) == (200,)

    run(test)


@pytest.mark.parametrize("framing", ["rtu", "rtu-over-tcp"])
def test_a_caller_who_gives_up_does_not_shift_the_answers(framing: str) -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.delay = 0.03
        async with line_of(unit, framing=framing) as (bus, _):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(bus.read(5, 3, 10, 1), 0.01)

            assert await bus.read(5, 3, 20, 1) == (20,)
            assert await bus.read(5, 3, 30, 1) == (30,)

    run(test)


def test_callers_at_the_same_time_are_served_one_after_another() -> None:
    async def test() -> None:
        async with line_of(counting_unit()) as (bus, _):
            told = await asyncio.gather(*(bus.read(5, 3, place, 1) for place in range(20)))

            assert told == [(place,) for place in range(20)]

    run(test)


SPOILED = [
    Fault("noisy"), Fault("noisy", data=b"\xff\x00\x55"), Fault("glued"), Fault("echo"),
    Fault("split"),
]  # fmt: skip


@pytest.mark.parametrize("framing", ["rtu", "rtu-over-tcp"])
@pytest.mark.parametrize("fault", SPOILED, ids=lambda fault: f"{fault.trouble}-{fault.data.hex()}")
def test_a_disturbed_answer_is_read_at_the_first_go(framing: str, fault: Fault) -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.faults.append(fault)
        async with line_of(unit, framing=framing) as (bus, _):
            assert await bus.read(5, 3, 10, 2, retry=False) == (10, 11)
            assert await bus.read(5, 3, 20, 2, retry=False) == (20, 21)
            if fault.trouble == "noisy":
                assert bus.counts["noise_bytes"] == 2 * len(fault.data)

    run(test)


def test_an_echoed_write_of_several_registers_is_told_from_its_answer() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.writable = False
        unit.fails("echo")
        async with line_of(unit) as (bus, _):
            with pytest.raises(Refusal, match="no such register"):
                await bus.write(5, 0, [1, 2])

    run(test)


def test_tcp_frames_come_in_any_pieces() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("split", times=2)
        unit.fails("glued")
        async with line_of(unit, framing="tcp") as (bus, _):
            for place in range(6):
                assert await bus.read(5, 3, place, 2, retry=False) == (place, place + 1)

    run(test)


def test_glued_answer_byte_by_byte() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("glued")
        async with line_of(unit, baud=19200) as (bus, _):
            assert await bus.read(5, 3, 10, 2, retry=False) == (10, 11)

    run(test)


WRONG = [
    ("short", "1 registers came when 2 were asked"),
    ("long", "3 registers came when 2 were asked"),
    ("wrong_unit", "unit 99 answered in place of 5"),
    ("wrong_crc", "damaged answer of unit 5"),
    ("wrong_function", "damaged answer of unit 5"),
]


@pytest.mark.parametrize(("trouble", "told"), WRONG)
def test_a_wrong_answer_is_refused_and_the_retry_is_right(trouble: Any, told: str) -> None:
    async def test() -> None:
        unit = counting_unit()
        async with line_of(unit) as (bus, peer):
            unit.fails(trouble, times=1)
            with pytest.raises(WrongAnswer, match=told):
                await bus.read(5, 3, 10, 2, retry=False)
            unit.fails(trouble, times=1)

            assert await bus.read(5, 3, 10, 2) == (10, 11)
            assert len(peer.heard) == 3

    run(test)


@pytest.mark.parametrize("trouble", ["short", "long", "wrong_unit"])
def test_a_wrong_answer_over_tcp_is_refused(trouble: Any) -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails(trouble, times=1)
        async with line_of(unit, framing="tcp") as (bus, _):
            with pytest.raises(WrongAnswer):
                await bus.read(5, 3, 10, 2, retry=False)
            assert await bus.read(5, 3, 10, 2, retry=False) == (10, 11)

    run(test)


def test_an_acknowledgement_of_another_register_is_refused() -> None:
    async def test() -> None:
        unit = counting_unit()
        async with line_of(unit) as (bus, _):
            unit.fails("wrong_address", times=2)
            with pytest.raises(WrongAnswer, match="was acknowledged instead of 0"):
                await bus.write(5, 0, [1, 2])

    run(test)


def test_the_second_wrong_answer_in_a_row_makes_the_connection_anew() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("short", times=4)
        async with line_of(unit) as (bus, peer):
            for _ in range(2):
                with pytest.raises(WrongAnswer):
                    await bus.read(5, 3, 10, 2)

            assert await bus.read(5, 3, 10, 2) == (10, 11)
            assert peer.connections == 2, "but not at every wrong answer"
            assert bus.counts["reopened"] == 1

    run(test)


def test_a_tcp_stream_out_of_step_is_dropped() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("bad_header", times=1)
        async with line_of(unit, framing="tcp") as (bus, peer):
            with pytest.raises(WrongAnswer, match="expected protocol 0"):
                await bus.read(5, 3, 10, 2, retry=False)

            assert await bus.read(5, 3, 10, 2) == (10, 11)
            assert peer.connections == 2

    run(test)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_silence_costs_one_retry_and_not_the_connection(framing: str) -> None:
    async def test() -> None:
        async with line_of(counting_unit(), framing=framing, quiet_ms=10) as (bus, peer):
            for _ in range(5):
                with pytest.raises(Silent, match="unit 6 does not answer"):
                    await bus.read(6, 3, 0, 1)
            assert await bus.read(5, 3, 1, 1) == (1,)

            assert len(peer.heard) == 11
            assert peer.connections == (framing != "rtu")

    run(test)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_refusals_are_told_and_not_repeated(framing: str) -> None:
    async def test() -> None:
        unit = counting_unit()
        async with line_of(unit, framing=framing) as (bus, peer):
            with pytest.raises(Refusal, match="no such register") as told:
                await bus.read(5, 3, 1000, 1)
            assert told.value.code == 2
            unit.fails("busy", times=1)
            with pytest.raises(Refusal, match="busy"):
                await bus.read(5, 3, 0, 1)

            assert len(peer.heard) == 2

    run(test)


def test_the_gateway_speaks_for_a_silent_unit_without_a_retry() -> None:
    async def test() -> None:
        async with line_of(counting_unit(), framing="tcp", gateway=True) as (bus, peer):
            with pytest.raises(Refusal, match="the gateway got no answer from it") as told:
                await bus.read(6, 3, 0, 1)

            assert told.value.code == 0x0B
            assert (len(peer.heard), peer.connections) == (1, 1)

    run(test)


def test_noise_between_two_requests_is_counted_and_harmless() -> None:
    async def test() -> None:
        async with line_of(counting_unit()) as (bus, peer):
            await bus.read(5, 3, 0, 1)
            (writer,) = peer._writers
            writer.write(b"\x05\x03\x02\x00")
            await asyncio.sleep(0.02)

            assert await bus.read(5, 3, 7, 1, retry=False) == (7,)
            assert bus.counts["noise_bytes"] == 4

    run(test)


def test_a_flood_of_noise_takes_no_memory_and_no_good_answer() -> None:
    async def test() -> None:
        async with line_of(counting_unit()) as (bus, peer):
            await bus.read(5, 3, 0, 1)
            (writer,) = peer._writers
            writer.write(bytes(range(256)) * 400)
            await asyncio.sleep(0.05)

            assert len(bus._seen) <= 264
            assert await bus.read(5, 3, 7, 1) == (7,)

    run(test)


def test_the_line_is_left_alone_for_three_and_a_half_characters() -> None:
    async def test() -> None:
        unit = counting_unit()
        peer = DisplayLine([unit])
        path = peer.start_pty()
        bus = BusMaster(ModbusLine("rtu", port=path, baud=1200, timeout_ms=200))
        await bus.open()
        for _ in range(3):
            await bus.read(5, 3, 0, 1)
        by_speed = [then[0] - last[1] for last, then in pairwise(peer.asked_at)]
        await bus.read(5, 3, 0, 1, gap_ms=80)
        await bus.close()
        await peer.stop()

        assert min(by_speed) >= 0.0290
        assert peer.asked_at[3][0] - peer.asked_at[2][1] >= 0.0795

    run(test)


def test_a_missing_port_is_named() -> None:
    async def test() -> None:
        bus = BusMaster(ModbusLine("rtu", port="/dev/serial/by-id/usb-EXAMPLE"))
        with pytest.raises(DeviceLost, match="There is no serial port /dev/serial/by-id/usb-EXA"):
            await bus.open()

    run(test)


def test_a_port_that_another_program_holds_is_named() -> None:
    async def test() -> None:
        async with line_of(counting_unit(), framing="rtu") as (_, peer):
            second = BusMaster(ModbusLine("rtu", port=peer.path))
            with pytest.raises(DeviceLost, match="Another program holds the serial port"):
                await second.open()

    run(test)


def test_a_refused_connection_is_told_with_the_reason() -> None:
    async def test() -> None:
        peer = DisplayLine([])
        port = await peer.start_tcp()
        await peer.stop()
        bus = BusMaster(ModbusLine("tcp", host="127.0.0.1", tcp_port=port))
        with pytest.raises(DeviceLost, match=rf"127.0.0.1:{port}: .*one client only"):
            await bus.open()

    run(test)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_line_that_is_cut_is_lost(framing: str) -> None:
    async def test() -> None:
        async with line_of(counting_unit(), framing=framing) as (bus, peer):
            await bus.read(5, 3, 0, 1)
            await peer.stop()

            with pytest.raises(DeviceLost, match=r"connection to .* (lost|closed)"):
                await bus.read(5, 3, 0, 1)

    run(test)


def test_a_gateway_that_hangs_up_is_lost() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.fails("close")
        async with line_of(unit, framing="tcp") as (bus, _):
            with pytest.raises(DeviceLost, match="one client only"):
                await bus.read(5, 3, 0, 1)

    run(test)


def test_closing_waits_for_the_write_that_has_begun() -> None:
    async def test() -> None:
        unit = counting_unit()
        unit.delay = 0.04
        async with line_of(unit) as (bus, _):
            task = asyncio.create_task(bus.write(5, 0, [77, 78]))
            await asyncio.sleep(0.01)
            task.cancel()
            await bus.close()

            assert (unit.registers[0], unit.registers[1]) == (77, 78)
            assert bus.counts["polls"] == 1

    run(test)


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=40), st.binary(min_size=1, max_size=300))
def test_a_hostile_peer_breaks_nothing(pdu: bytes, junk: bytes) -> None:
    """Answers with a good header or CRC around anything, and bytes without either."""
    sealed = b"\x05\x03" + pdu
    sealed += crc16(sealed).to_bytes(2, "little")
    headed = b"\x00\x01\x00\x00" + (len(pdu) + 2).to_bytes(2, "big") + b"\x05\x03" + pdu

    async def test() -> None:
        for framing, data in (("rtu-over-tcp", sealed), ("tcp", headed), ("tcp", junk)):
            unit = counting_unit()
            unit.fails("raw", times=1, data=data)
            async with line_of(unit, framing=framing, quiet_ms=0) as (bus, _):
                bus._timeout = 0.01
                with suppress(Silent, WrongAnswer, Refusal):
                    values = await bus.read(5, 3, 0, 2, retry=False)
                    assert pdu[:1] == b"\x04"
                    assert len(values) == 2

                assert await bus.read(5, 3, 7, 1) == (7,)

    run(test)
