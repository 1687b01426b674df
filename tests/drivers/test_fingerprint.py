"""The wire format of the EF 01 fingerprint modules, as the modules' manuals print it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import fingerprint
from drivers.fingerprint import (
    ACK,
    Fingerprint,
    FingerprintOptions,
    Op,
    Packet,
    auto_arguments,
    converter,
    decode,
    other_family,
    pack,
    page_in,
    pages_in,
    parameters_in,
    split,
)
from rules.model import Body, DeviceEvent, DeviceInfo, Unreadable

SHANGHAI = ZoneInfo("Asia/Shanghai")
EVERYBODY = 0xFFFFFFFF
HEAD = "ef 01 ff ff ff ff "

COMMANDS = {
    "01 00 07 13 00 00 00 00 00 1b": (Op.VERIFY, "00 00 00 00"),
    "01 00 03 0f 00 13": (Op.PARAMETERS, ""),
    "01 00 03 01 00 05": (Op.GET_IMAGE, ""),
    "01 00 04 02 01 00 08": (Op.FEATURES, "01"),
    "01 00 08 04 01 00 00 00 c8 00 d6": (Op.SEARCH, "01 00 00 00 c8"),
    "01 00 03 1d 00 21": (Op.TEMPLATES, ""),
    "01 00 04 1f 00 00 24": (Op.INDEX, "00"),
    "01 00 08 32 00 ff ff 00 06 02 3f": (Op.IDENTIFY, "00 ff ff 00 06"),
    "01 00 08 32 03 00 c8 01 01 01 08": (Op.IDENTIFY, "03 00 c8 01 01"),
    "01 00 03 30 00 34": (Op.CANCEL, ""),
    "01 00 03 36 00 3a": (Op.CHECK_SENSOR, ""),
}

ANSWERS = {
    "07 00 03 00 00 0a": "00",
    "07 00 03 13 00 1d": "13",
    "07 00 03 21 00 2b": "21",
    "07 00 03 fc 01 06": "fc",
    "07 00 13 00 00 00 00 09 00 c8 00 03 ff ff ff ff 00 02 00 06 04 f2": (
        "00 00 00 00 09 00 c8 00 03 ff ff ff ff 00 02 00 06"
    ),
    "07 00 03 02 00 0c": "02",
    "07 00 07 00 00 05 00 77 00 8a": "00 00 05 00 77",
    "07 00 07 09 00 00 00 00 00 17": "09 00 00 00 00",
    "07 00 05 00 00 03 00 0f": "00 00 03",
    "07 00 23 00 21 00 02" + " 00" * 29 + " 00 4d": "00 21 00 02" + " 00" * 29,
    "07 00 08 00 00 00 00 00 00 00 0f": "00 00 00 00 00 00",
    "07 00 08 00 01 00 00 00 00 00 10": "00 01 00 00 00 00",
    "07 00 08 00 05 00 05 00 77 00 90": "00 05 00 05 00 77",
    "07 00 08 09 05 00 00 00 00 00 1d": "09 05 00 00 00 00",
    "07 00 08 26 01 00 00 00 00 00 36": "26 01 00 00 00 00",
    "07 00 08 00 03 00 05 00 77 00 8e": "00 03 00 05 00 77",
    "07 00 03 55 00 5f": "55",
}

OTHERS = {
    "01 00 03 40 00 44": Packet(1, EVERYBODY, b"\x40"),
    "01 00 03 53 00 57": Packet(1, EVERYBODY, b"\x53"),
    "01 00 07 35 01 50 01 00 00 8f": Packet(1, EVERYBODY, b"\x35\x01\x50\x01\x00"),
    "01 00 03 3c 00 40": Packet(1, EVERYBODY, b"\x3c"),
    "01 00 03 33 00 37": Packet(1, EVERYBODY, b"\x33"),
    "01 00 03 3d 00 41": Packet(1, EVERYBODY, b"\x3d"),
    "02 00 0a 00 01 02 03 04 05 06 07 00 28": Packet(2, EVERYBODY, bytes(range(8))),
    "08 00 06 00 01 02 03 00 14": Packet(8, EVERYBODY, bytes(range(4))),
}

FRAMES = (
    {told: Packet(ACK, EVERYBODY, bytes.fromhex(content)) for told, content in ANSWERS.items()}
    | {
        told: Packet(1, EVERYBODY, bytes((op,)) + bytes.fromhex(arguments))
        for told, (op, arguments) in COMMANDS.items()
    }
    | OTHERS
)

DEBUG_TEXT = bytes.fromhex(
    "e3d0d6b53a31300a ef01ffffffff07000300000a 55"
    "ef01ffffffff07000302000c ef01 ef01ffffffff07000300000a"
)
"""GBK text that some modules print, a byte of a start, a doubled header."""

FALSE_HEADER = bytes.fromhex("ef01ffffffff0700ff")


def frame(told: str) -> bytes:
    return bytes.fromhex(HEAD + told)


def fed(stream: bytes, step: int, address: int | None = EVERYBODY) -> tuple[list[Packet], bytes]:
    """Packets and junk, with the stream coming in pieces."""
    packets: list[Packet] = []
    junk = buffer = b""
    for at in range(0, len(stream), step):
        found = split(buffer + stream[at : at + step], address)
        packets += found.packets
        junk += found.junk
        buffer = found.rest
        assert len(buffer) < 267
    return packets, junk + buffer


# Packets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", COMMANDS)
def test_a_command_is_written_as_the_manual_prints_it(told: str) -> None:
    op, arguments = COMMANDS[told]

    assert pack(op, bytes.fromhex(arguments)) == frame(told)


@pytest.mark.parametrize("told", FRAMES)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_frame_is_read_whole_and_byte_by_byte(told: str, step: int) -> None:
    assert fed(frame(told), step) == ([FRAMES[told]], b"")


@pytest.mark.parametrize("step", [1, 2, 3, 7, 11, 64, 10_000])
def test_glued_frames_come_apart_wherever_they_are_cut(step: int) -> None:
    assert fed(b"".join(map(frame, FRAMES)), step) == (list(FRAMES.values()), b"")


@pytest.mark.parametrize("step", range(1, 60))
def test_text_a_boot_byte_and_a_doubled_header_cost_eleven_bytes(step: int) -> None:
    packets, junk = fed(DEBUG_TEXT, step)

    assert [packet.content for packet in packets] == [b"\x00", b"\x02", b"\x00"]
    assert len(junk) == 11


def test_a_lone_ef_at_the_end_is_kept() -> None:
    assert split(b"\x00\xef").rest == b"\xef"
    assert split(b"\xef\x55").rest == b""


def test_a_frame_with_a_wrong_sum_is_searched_for_the_true_header() -> None:
    true = frame("07 00 03 00 00 0a")
    found = split(FALSE_HEADER[:7] + b"\x00\x10" + true + bytes(4))

    assert found.packets == [Packet(ACK, EVERYBODY, b"\x00")]
    assert found.wrong_sums == 1


def test_a_false_header_with_a_plausible_length_is_waited_for() -> None:
    stream = FALSE_HEADER + frame("07 00 03 00 00 0a")

    assert split(stream) == ([], stream, b"", 0)
    assert split(stream[1:]).packets == [Packet(ACK, EVERYBODY, b"\x00")]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("03 00 03 00 00 06", id="packet id"),
        pytest.param("07 02 03 00 00 0c", id="length over 258"),
        pytest.param("07 01 03 00 00 0b", id="length 259"),
        pytest.param("07 00 02 00 09", id="an acknowledgement without a code"),
        pytest.param("02 00 01 00 03", id="length 1"),
    ],
)
def test_what_no_packet_can_begin_with_is_not_waited_for(head: str) -> None:
    found = split(frame(head) + frame("07 00 03 02 00 0c"))

    assert found.packets == [Packet(ACK, EVERYBODY, b"\x02")]
    assert found.junk == frame(head)


def test_the_longest_packet_is_read() -> None:
    content = bytes(range(256))
    body = b"\x02\x01\x02" + content
    told = b"\xef\x01" + bytes(4) + body + (sum(body) % 65536).to_bytes(2, "big")

    assert split(told).packets == [Packet(2, 0, content)]


def test_only_the_modules_own_address_counts_unless_it_is_looked_for() -> None:
    told = bytes.fromhex("ef 01 12 34 56 78 07 00 03 00 00 0a")

    assert split(told, EVERYBODY).packets == []
    assert split(told, 0x12345678).packets == [Packet(ACK, 0x12345678, b"\x00")]
    assert split(told).packets == [Packet(ACK, 0x12345678, b"\x00")]


PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\xef", b"\xef\x01", FALSE_HEADER, *map(frame, FRAMES)]),
    st.sampled_from([*map(frame, FRAMES)]).flatmap(
        lambda told: st.integers(0, len(told)).map(lambda length: told[:length])
    ),
)


@given(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.integers(1, 40),
    st.sampled_from([None, EVERYBODY]),
)
def test_any_bytes_are_split_the_same_at_any_chunking(
    data: bytes, step: int, address: int | None
) -> None:
    whole = split(data, address)
    packets, lost = fed(data, step, address)

    assert packets == whole.packets
    assert lost == whole.junk + whole.rest
    assert len(lost) + sum(len(packet.content) + 11 for packet in packets) == len(data)


@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=6), st.binary(max_size=12))
def test_noise_before_frames_loses_none_of_them(told: list[str], noise: bytes) -> None:
    noise = noise.replace(b"\xef", b"\x00")
    stream = noise + b"".join(map(frame, told))

    assert split(stream).packets == [FRAMES[name] for name in told]
    assert split(stream).junk == noise


# What the answers say ------------------------------------------------------------------------


def test_the_parameters_are_read() -> None:
    content = bytes.fromhex("00 00 00 00 09 00 c8 00 03 ff ff ff ff 00 02 00 06")

    assert parameters_in(content) == (0, 9, 200, 3, EVERYBODY, 128, 57600)
    assert parameters_in(content[:-1]) is None
    assert parameters_in(b"\x01" + content[1:]) is None


def test_the_pages_of_an_index_table_are_read_lowest_bit_first() -> None:
    bitmap = bytes.fromhex("21 00 02" + "00" * 29)

    assert pages_in(bitmap) == {0, 5, 17}
    assert pages_in(bitmap, 1) == {256, 261, 273}


def test_a_page_counts_in_a_hit_only() -> None:
    assert page_in(bytes.fromhex("00 00 05 00 77")) == 5
    assert page_in(bytes.fromhex("09 00 05 00 77")) is None
    assert page_in(bytes.fromhex("00 00 05")) is None
    assert page_in(bytes.fromhex("00 05 00 05 00 77"), 2) == 5


def test_an_address_of_a_page_may_look_like_a_header() -> None:
    content = bytes.fromhex("00 ef 01 00 77")
    body = bytes.fromhex("07 00 07") + content
    told = frame(body.hex() + (sum(body) % 65536).to_bytes(2, "big").hex())

    assert [page_in(packet.content) for packet in split(told).packets] == [0xEF01]


def test_the_two_layouts_of_the_waiting_command_are_as_printed() -> None:
    assert auto_arguments("auto_zw", 3, 200).hex(" ") == "00 ff ff 00 06"
    assert auto_arguments("auto_r503", 3, 200).hex(" ") == "03 00 c8 01 01"


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ("55 aa 01 00 01 00 00 00 30 00 31 01", "GT-511"),
        ("f5 09 00 00 00 00 09 f5", "F5"),
        ("00 aa aa aa 96 69 05 08 00 00 90", "ID card"),
        ("e3 d0 d6 b5 3a 31 30 0a", ""),
    ],
)
def test_other_families_are_known_by_their_header(told: str, word: str) -> None:
    assert word in other_family(bytes.fromhex(told))
    assert bool(word) == bool(other_family(bytes.fromhex(told)))


def test_a_code_nobody_knows_is_shown_as_a_number() -> None:
    assert fingerprint.meaning(0x5A) == "0x5a"
    assert "no finger" in fingerprint.meaning(0x02)


# What must not be ----------------------------------------------------------------------------

CHANGES_OR_EXPOSES = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x12, 0x15, 0x18, 0x31}
SLEEPS_OR_RESETS = {0x33, 0x35, 0x3D}


def test_no_command_that_changes_or_exposes_anything_exists() -> None:
    assert not {int(op) for op in Op} & (CHANGES_OR_EXPOSES | SLEEPS_OR_RESETS)


def test_commands_are_built_in_one_place_and_from_the_known_ones_only() -> None:
    tree = ast.parse(Path(fingerprint.__file__).read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    packed = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "pack"]
    written = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "self._line.write"]
    asked = [
        call for call in calls if ast.unparse(call.func).endswith((".ask", "_exchange", "_send"))
    ]

    assert packed == ["pack(op, arguments, self.address)"]
    assert written == [f"self._line.write({packed[0]})"]
    assert {ast.unparse(call.args[0]) for call in asked} <= {"op", *(f"Op.{op.name}" for op in Op)}


# Captures ------------------------------------------------------------------------------------


def bodies(*frames: str) -> list[Body]:
    return [told.body for told in decode(b"".join(map(frame, frames)), SHANGHAI)]


HIT = DeviceEvent("unknown_page", 5, "page 5 has no person in the settings")
MISS = DeviceEvent("unknown_person", 9)
LOOK = ("01 00 03 01 00 05", "07 00 03 00 00 0a", "01 00 04 02 01 00 08", "07 00 03 00 00 0a")


def test_a_capture_of_both_directions_tells_hits_and_misses() -> None:
    told = bodies(
        *LOOK,
        "01 00 08 04 01 00 00 00 c8 00 d6",
        "07 00 07 00 00 05 00 77 00 8a",
        "01 00 08 04 01 00 00 00 c8 00 d6",
        "07 00 07 09 00 00 00 00 00 17",
        "01 00 08 32 00 ff ff 00 06 02 3f",
        "07 00 08 00 00 00 00 00 00 00 0f",
        "07 00 08 00 01 00 00 00 00 00 10",
        "07 00 08 00 05 00 05 00 77 00 90",
        "01 00 03 1d 00 21",
        "07 00 05 00 00 03 00 0f",
    )

    assert told == [HIT, MISS, HIT, DeviceInfo({"templates": 3})]


def test_a_capture_of_the_module_alone_tells_the_same() -> None:
    told = bodies(
        "07 00 03 02 00 0c",
        "07 00 07 00 00 05 00 77 00 8a",
        "07 00 08 26 01 00 00 00 00 00 36",
        "07 00 08 00 03 00 05 00 77 00 8e",
        "07 00 13 00 00 00 00 09 00 c8 00 03 ff ff ff ff 00 02 00 06 04 f2",
        "07 00 03 13 00 1d",
    )

    facts: dict[str, str | int] = {
        "address": "FFFFFFFF",
        "baud": 57600,
        "capacity": 200,
        "packet_size": 128,
        "security": 3,
        "system": 9,
    }
    assert told == [HIT, HIT, DeviceInfo(facts), DeviceEvent("wrong_password", 0x13)]


def test_what_was_transferred_leaves_no_trace() -> None:
    template = "02 00 0a 00 01 02 03 04 05 06 07 00 28", "08 00 06 00 01 02 03 00 14"
    capture = b"".join(map(frame, (LOOK[1], *template, LOOK[1]))) + frame(template[0])[:-1]
    told = list(decode(capture, SHANGHAI))

    assert [reading.body for reading in told] == [
        Unreadable("18 bytes that belong to no packet, 0 wrong sums")
    ]
    assert told[0].raw == b""


def test_a_capture_without_a_packet_says_what_it_may_be() -> None:
    (strange,) = decode(b"AT+OK\r\n", SHANGHAI)
    (card,) = decode(bytes.fromhex("aaaaaa9669050800009001") + b"\x01\x02", SHANGHAI)

    assert strange.body == Unreadable("no EF 01 packet in these bytes")
    assert strange.raw == b"AT+OK\r\n"
    assert strange.device == "capture"
    assert isinstance(card.body, Unreadable)
    assert "ID card" in card.body.reason
    assert card.raw == b""


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_any_capture_is_decoded(data: bytes) -> None:
    for told in decode(data, SHANGHAI):
        assert told.device == "capture"


@given(st.binary(min_size=1, max_size=40), st.sampled_from([None, *Op, 0x1B]))
def test_any_answer_is_understood_or_passed_over(content: bytes, asked: int | None) -> None:
    body = fingerprint._told(content, asked)

    assert body is None or isinstance(body, DeviceEvent | DeviceInfo)


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"port": "COM3"}, "expected the path of a serial port"),
        ({"port": "socket://10.0.0.9"}, "expected socket://host:port"),
        ({"port": "socket://10.0.0.9:0"}, "expected socket://host:port"),
        ({"baud": 14400}, "expected one of"),
        ({"address": "FFFF"}, "eight hexadecimal digits"),
        ({"pages": {"05": "9001"}}, "is no page"),
        ({"pages": {"70000": "9001"}}, "is no page"),
        ({"pages": {"5": "张 三"}}, "no person's code"),
        ({"poll_s": 0.0}, "expected 0.05 to 10"),
        ({"quiet_poll_s": 60.0}, "expected 0.05 to 10"),
        ({"quiet_hours": "19-7"}, "expected a span"),
        ({"quiet_hours": "24:00-07:00"}, "expected a span"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FingerprintOptions(**{"port": "/dev/ttyUSB0", **wrong})


def test_a_converter_is_named_by_a_url() -> None:
    assert converter("socket://10.0.0.9:4001") == ("10.0.0.9", 4001)
    assert converter("socket://[::1]:4001") == ("::1", 4001)
    assert converter("socket://hall-3.local:4001") == ("hall-3.local", 4001)


def test_the_lamp_is_spared_in_quiet_hours() -> None:
    night = FingerprintOptions("/dev/ttyUSB0", quiet_hours="19:00-07:00")
    noon = FingerprintOptions("/dev/ttyUSB0", quiet_hours="12:00-14:00", quiet_poll_s=1.0)

    assert [night.pause(hour * 60) for hour in (6, 7, 18, 19, 23)] == [2.0, 0.2, 0.2, 2.0, 2.0]
    assert [noon.pause(minute) for minute in (719, 720, 839, 840)] == [0.2, 1.0, 1.0, 0.2]
    assert FingerprintOptions("/dev/ttyUSB0").pause(0) == 0.2


def test_one_port_has_one_module() -> None:
    class Box:
        id = "finger-1"
        window = ""
        options = FingerprintOptions("/dev/ttyUSB0")

    assert Box.options.link() == FingerprintOptions("/dev/ttyUSB0", {"1": "9"}, 9600).link()
    with pytest.raises(ValueError, match="expected one module"):
        Fingerprint([Box(), Box()])
