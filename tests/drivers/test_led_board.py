"""What boards are sent and what they say, byte for byte against the published frames."""

from __future__ import annotations

from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.emulators.led_board import Board
from drivers.frames import crc16_arc
from drivers.led_board import (
    LONGEST,
    MOST_A5,
    MOST_LINES,
    RESERVED,
    Heard,
    LedBoardOptions,
    LedBoards,
    Profile,
    board4,
    board_frame,
    board_number,
    board_text,
    board_texts,
    bx5_area,
    bx5_frame,
    bx5_ping,
    bx5_show,
    count_3a,
    decode,
    dollar_ascii,
    split,
    strip_a090,
    strip_aa,
    strip_fe,
    strip_nibble,
)
from rules.model import Shown, Unreadable

SHANGHAI = ZoneInfo("Asia/Shanghai")


def gbk(text: str) -> bytes:
    return text.encode("gbk")


class Sample(NamedTuple):
    profile: Profile
    address: int | None
    text: str | None
    frame: bytes
    ours: bytes
    """What our encoder makes of it."""


def sample(
    profile: Profile, address: int | None, text: str | None, frame: str, ours: bytes
) -> Sample:
    return Sample(profile, address, text, bytes.fromhex(frame), ours)


SAMPLES = [
    sample(
        "strip-aa",
        5,
        "请A037号到05号窗口",
        "AA 05 BB 51 54 5B 01 00 99 00 63 C7 EB 41 30 33 37 BA C5 B5 BD 30 35 BA C5 B4 B0 BF DA FF",
        strip_aa(5, gbk("请A037号到05号窗口")),
    ),
    sample(
        "strip-a090",
        5,
        "A037",
        "A0 90 05 A5 00 08 41 00 30 00 33 00 37 00 DD",
        strip_a090(5, b"A037"),
    ),
    sample(
        "strip-a090",
        5,
        "A037号",
        "A0 90 05 A5 00 0B 41 00 30 00 33 00 37 00 BA C5 00 A1",
        strip_a090(5, gbk("A037号")),
    ),
    sample(
        "strip-nibble",
        5,
        "A037号",
        "85 C0 44 41 30 33 37 0B 0A 0C 05 1A",
        strip_nibble(5, gbk("A037号")),
    ),
    sample("strip-nibble", 70, "A037", "86 C1 44 41 30 33 37 1A", strip_nibble(70, b"A037")),
    sample(
        "strip-fe",
        5,
        "A037",
        "05 FE 10 01 86 3C 00 05 00 41 30 33 37 00 01 59",
        strip_fe(5, 1, b"A037"),
    ),
    sample("count-3a", None, "888", "3A 00 78 03 01 B6 0A", count_3a(888)),
    sample("board4", 5, "999", "05 03 E7 EF", board4(5, 999)),
    sample("dollar-ascii", 1, "A037", "24 30 30 31 2C 41 30 33 37 23", dollar_ascii(1, b"A037")),
    sample(
        "bx5",
        1,
        None,
        "A5 A5 A5 A5 A5 A5 A5 A5 01 00 00 80 00 00 00 00 00 00 FE 02 05 00 A2 00 01 00 00 68 F8 5A",
        bx5_ping(1),
    ),
    sample(
        "bx5",
        0x5A,
        None,
        "A5 A5 A5 A5 A5 A5 A5 A5 5B 02 00 00 80 00 00 00 00 00 00 FE 02 05 00 A2 00 01 00 00 1F D1"
        " 5A",
        bx5_ping(0x5A),
    ),
    sample(
        "bx5",
        1,
        "请A037到05号",
        "A5 A5 A5 A5 A5 A5 A5 A5 01 00 00 80 00 00 00 00 00 00 FE 02 30 00 A3 06 01 00 00 00 01 27"
        " 00 00 00 80 00 00 80 80 10 00 00 00 00 00 00 00 00 01 01 01 01 00 01 05 0C 00 00 00 C7 EB"
        " 41 30 33 37 B5 BD 30 35 BA C5 49 00 5A",
        bx5_show(1, [bx5_area(0, 0, 128, 16, gbk("请A037到05号"))]),
    ),
]
NAMES = [f"{one.profile} {one.text or one.address}" for one in SAMPLES]
every_sample = pytest.mark.parametrize("one", SAMPLES, ids=NAMES)

PUBLISHED_TEXT = bytes.fromhex(
    "a5 a5 a5 a5 a5 a5 a5 a5 fe ff 00 80 00 00 00 00 00 00 fe 02 2c 00 a3 06 01 00 00 00 01 23 00"
    "00 00 80 00 00 80 80 20 00 00 00 00 0a 00 00 00 00 02 01 01 00 02 0a 08 00 00 00 bb b6 d3 ad"
    "b9 e2 c1 d9 3c 49 5a"
)
"""欢迎光临 for a 6K3 of 128 by 32, from a maker's protocol page."""
PUBLISHED_ACK = bytes.fromhex(
    "A5 A5 A5 A5 A5 A5 A5 A5 A5 00 80 FE FF 00 00 00 00 00 00 FE 02 05 00 A0 00 00 00 00 14 AC 5A"
)
"""A card's answer, from a maker's protocol page; there are nine A5."""


def heard(profile: Profile, data: bytes) -> list[tuple[int | None, str | None]]:
    return [(one.address, one.text) for one in split(profile, data, complete=True).heard]


# -- frames to send


@every_sample
def test_a_frame_is_the_published_one(one: Sample) -> None:
    assert one.ours.hex(" ").upper() == one.frame.hex(" ").upper()


@every_sample
def test_an_emulated_board_understands_the_published_frame(one: Sample) -> None:
    board = Board(one.profile, one.address or 0)

    board.feed(one.frame)

    assert board.history == ([one.text] if one.text else [])


def test_a_hall_screen_has_frames_of_its_own() -> None:
    # 08 + 02 + 99 + 63 + 41 + FF = 246
    assert strip_aa(5, b"A", hall=True).hex(" ") == "aa 05 bb 51 54 46 08 02 99 00 63 41 ff"
    frame = strip_fe(5, 1, b"A037", hall=True)
    assert frame[:-2].hex(" ") == "05 fe 0d 01 8c 00 41 30 33 37 00"
    assert heard("strip-fe", frame) == [(5, "A037")]
    assert heard("strip-aa", strip_aa(5, b"A", hall=True)) == [(5, "A")]


def test_a_count_board_can_be_told_its_colour() -> None:
    # 3A + 02 + 78 + 03 + 01 = B8
    assert count_3a(888, colour=2) == bytes.fromhex("3A 02 78 03 01 B8 0A")


def test_what_marks_a_frame_is_escaped_within_it() -> None:
    text = gbk("Z[α→") + b"\xa5\xa2\xa6\xa1"
    frame = bx5_show(1, [bx5_area(0, 0, 64, 16, text)])

    assert frame.count(b"\x5a") == 1
    assert frame.rstrip(b"\x5a").count(b"\xa5") == 8
    assert heard("bx5", frame) == [(1, text.decode("gbk"))]


def test_each_line_of_a_card_is_an_area_and_the_lines_it_has_no_more_are_deleted() -> None:
    options = LedBoardOptions("bx5", port="/dev/ttyS0", height=48, width=64, area=2)
    board = Board("bx5")

    board.feed(board_frame(options, [b"1", b"2", b"3", b"4"]))
    assert sorted(board.areas) == [2, 3, 4, 5]
    board.feed(board_frame(options, [b"A", b"B"], areas_before=4))

    assert {number: area.text for number, area in board.areas.items()} == {2: "A", 3: "B"}
    assert [(area.x, area.y, area.width, area.height) for area in board.areas.values()] == [
        (0, 0, 64, 24),
        (0, 24, 64, 24),
    ]
    assert all(area.timeout == 0 and area.mode == 1 for area in board.areas.values())


# -- texts


@pytest.mark.parametrize(
    ("text", "room", "data", "replaced", "cut"),
    [
        ("请A037号", 64, gbk("请A037号"), 0, 0),
        ("请A037号", 7, gbk("请A037"), 0, 1),
        ("请A037号到", 8, gbk("请A037号"), 0, 1),
        ("请A037号", 1, b"", 0, 6),
        ("㐀𠀀€张", 64, b"???" + gbk("张"), 3, 0),
        ("为什么?", 64, gbk("为什么?"), 0, 0),
        ("A\x1b\x1a\x00\r\n\t\x7f\x85037", 64, b"A037", 0, 0),
        ("A\u200b\u2028037\ufeff", 64, b"A037", 0, 0),
        ("\ud83d号", 64, b"?" + gbk("号"), 1, 0),
        ("", 64, b"", 0, 0),
    ],
)
def test_a_text_is_made_to_fit(text: str, room: int, data: bytes, replaced: int, cut: int) -> None:
    assert board_text(text, room) == (data, replaced, cut)


@given(st.text(st.characters()), st.integers(0, 40))
def test_no_text_breaks_a_frame(text: str, room: int) -> None:
    made = board_text(text, room)

    assert len(made.data) <= room
    assert len(made.data.decode("gbk")) <= len(text)
    assert not {*range(0x20), 0x7F, 0xFF} & set(made.data)


@given(st.text(st.characters()), st.sampled_from([one.profile for one in SAMPLES]))
def test_what_is_sent_is_what_a_board_shows(text: str, profile: Profile) -> None:
    options = LedBoardOptions(profile, port="/dev/ttyS0", address=0)
    texts = [one.data for one in board_texts(options, (text,))]
    frame = board_frame(options, texts)
    board = Board(profile, 0)

    board.feed(frame)

    shown = texts[0].decode("gbk") or (" " if profile == "bx5" else "")
    assert board.history == [shown]
    assert [one.text for one in split(profile, frame, complete=True).heard] == [shown]
    assert not set(RESERVED.get(profile, "")) & set(shown)


@pytest.mark.parametrize(
    ("text", "digits", "number"),
    [
        ("A037", 3, 37),
        ("请A1037号到05号窗口", 3, 37),
        ("请A1037号到05号窗口", 4, 1037),
        ("等候 １２ 人", 3, 12),
        ("暂停服务", 3, 0),
        ("", 3, 0),
        ("0" * 5000 + "7", 3, 7),
    ],
)
def test_a_number_board_shows_the_last_digits_of_the_first_number(
    text: str, digits: int, number: int
) -> None:
    assert board_number(text, digits) == number


def test_what_means_something_to_a_board_is_shown_full_width() -> None:
    def texts(profile: Profile) -> bytes:
        return board_texts(LedBoardOptions(profile, port="/dev/ttyS0"), (r"$#&\A",))[0].data

    assert texts("dollar-ascii").decode("gbk") == r"＄＃＆\A"
    assert texts("bx5").decode("gbk") == "$#&＼A"
    assert texts("strip-aa").decode("gbk") == r"$#&\A"


def test_a_strip_shows_several_lines_one_behind_the_other() -> None:
    texts = board_texts(LedBoardOptions("strip-aa", port="/dev/ttyS0"), ("A037 → 05", "B012 → 02"))

    assert [one.data.decode("gbk") for one in texts] == ["A037 → 05 B012 → 02"]


def test_a_card_has_no_room_for_more_lines_than_it_has_areas() -> None:
    options = LedBoardOptions("bx5", port="/dev/ttyS0")
    texts = board_texts(options, [str(number) for number in range(MOST_LINES + 3)])

    assert len(texts) == MOST_LINES
    assert sum(one.cut for one in texts) == 3


# -- frames that came


@every_sample
def test_a_frame_is_understood_whole(one: Sample) -> None:
    found = split(one.profile, one.frame)

    assert [(got.raw, got.address, got.text) for got in found.heard] == [
        (one.frame, one.address, one.text)
    ]
    assert (found.rest, found.dropped) == (b"", [])


@every_sample
def test_a_frame_is_understood_byte_by_byte(one: Sample) -> None:
    found: list[Heard] = []
    rest = b""
    for byte in one.frame:
        more, rest, dropped = split(one.profile, rest + bytes((byte,)))
        found += more
        assert not dropped

    assert [(got.address, got.text) for got in found] == [(one.address, one.text)]


@every_sample
def test_frames_are_understood_glued_together(one: Sample) -> None:
    glued = b"".join(other.frame for other in SAMPLES if other.profile == one.profile)

    assert heard(one.profile, glued * 3) == 3 * [
        (other.address, other.text) for other in SAMPLES if other.profile == one.profile
    ]


@pytest.mark.parametrize("one", [one for one in SAMPLES if one.profile != "board4"])
def test_a_broken_frame_costs_nothing_but_itself(one: Sample) -> None:
    """Of board4, four bytes of any kind, nothing tells where a frame begins."""
    for place in range(len(one.frame)):
        for bit in range(8):
            broken = bytearray(one.frame)
            broken[place] ^= 1 << bit

            assert heard(one.profile, bytes(broken) + one.frame)[-1] == (one.address, one.text)
            cut_off = one.frame[:place] + one.frame
            assert heard(one.profile, cut_off)[-1] == (one.address, one.text)


@pytest.mark.parametrize("one", [SAMPLES[2], SAMPLES[5], SAMPLES[6], SAMPLES[11]])
def test_a_wrong_checksum_is_no_frame(one: Sample) -> None:
    start = 8 if one.profile == "bx5" else 0
    for place in range(start, len(one.frame)):
        broken = bytearray(one.frame)
        broken[place] ^= 0x04

        assert heard(one.profile, bytes(broken)) == []


def test_answers_of_a_card() -> None:
    def answer(command: str) -> tuple[str, int, int | None]:
        (one,) = split("bx5", bx5_frame(0x8000, bytes.fromhex(command), sender=3)).heard
        return one.answer, one.status, one.address

    assert answer("A0 00 00 00 00") == ("good", 0, 3)
    assert answer("A0 01 02 00 00") == ("refused", 2, 3)
    assert answer("A0 00 05 00 00") == ("refused", 5, 3)
    assert answer("A2 00 00 00 00 11 22") == ("good", 0, 3)


def test_a_card_that_says_another_length_than_it_sends_is_not_understood() -> None:
    def told(length: int) -> bytes:
        plain = bytes.fromhex("00 80 01 00 00 00 00 00 00 00 FE 02") + bytes((length, 0))
        plain += bytes.fromhex("A0 00 00 00 00")
        return b"\xa5" * 8 + plain + crc16_arc(plain).to_bytes(2, "little") + b"\x5a"

    assert len(split("bx5", told(5)).heard) == 1
    assert split("bx5", told(6)).heard == []


def test_a_published_answer_is_understood() -> None:
    (one,) = split("bx5", PUBLISHED_ACK).heard

    assert (one.raw, one.address, one.answer, one.text) == (PUBLISHED_ACK, 0xFFFE, "good", None)


def test_an_echo_of_what_we_sent_is_no_answer() -> None:
    assert [one.answer for one in split("bx5", bx5_ping(1)).heard] == [""]


@pytest.mark.parametrize("answer", ["3A 00 78 03 01 B6 0A", "2A 00 78 03 01 A6 0A"])
def test_a_count_board_answers_with_either_first_byte(answer: str) -> None:
    (one,) = split("count-3a", bytes.fromhex(answer)).heard

    assert (one.answer, one.text) == ("good", "888")


PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([one.frame for one in SAMPLES] + [PUBLISHED_ACK, PUBLISHED_TEXT]),
    st.sampled_from([b"\xa5" * 40, b"\xaa\x05\xbb\x51\x54", b"\xa0\x90\x01\xa5\x00\xff", b"$001,"]),
)


@given(
    st.lists(PIECES, max_size=8).map(b"".join),
    st.sampled_from([one.profile for one in SAMPLES]),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_nothing_that_comes_does_harm(data: bytes, profile: Profile, sizes: list[int]) -> None:
    at_once = split(profile, data)
    kept = b"".join(one.raw for one in at_once.heard) + b"".join(at_once.dropped) + at_once.rest
    assert sorted(kept) == sorted(data)
    assert len(at_once.rest) <= LONGEST + MOST_A5

    found: list[Heard] = []
    rest, at = b"", 0
    for size in [*sizes, len(data)]:
        more, rest, _ = split(profile, rest + data[at : at + size])
        found += more
        at += size
    assert (found, rest) == (at_once.heard, at_once.rest)

    board = Board(profile, 5)
    board.feed(data)
    assert all(one.device == "capture" for one in decode(data, SHANGHAI))


@pytest.mark.parametrize("profile", sorted({one.profile for one in SAMPLES}))
def test_a_flood_is_neither_kept_nor_slow(profile: Profile) -> None:
    for piece in (b"\xa5", b"\xa5\x5a", b"\xaa\x05\xbb\x51\x54\x00\x01\x00\x99\x00\x63", b"$000,"):
        rest = b""
        for _ in range(5):
            rest = split(profile, rest + piece * (4096 // len(piece))).rest
            assert len(rest) <= LONGEST + MOST_A5


# -- captures


def shown(data: bytes) -> list[tuple[str, str, str, bool]]:
    return [
        (one.body.window, one.body.text, one.body.state, one.body.confirmed)
        for one in decode(data, SHANGHAI)
        if isinstance(one.body, Shown)
    ]


@every_sample
def test_a_capture_tells_what_was_shown(one: Sample) -> None:
    address = "" if one.address is None else str(one.address)
    expected = [(address, one.text, "ticket", False)] if one.text else []

    assert shown(one.frame) == expected
    assert [reading.raw for reading in decode(one.frame, SHANGHAI)] == [one.frame] * len(expected)


def test_a_capture_of_both_directions_tells_what_was_taken() -> None:
    one = SAMPLES[11]
    good = bx5_frame(0x8000, b"\xa0\x00\x00\x00\x00", sender=1)
    refused = bx5_frame(0x8000, b"\xa0\x01\x02\x00\x00", sender=1)
    another = bx5_frame(0x8000, b"\xa0\x00\x00\x00\x00", sender=2)
    data = one.frame + good + one.frame + refused + one.frame + another + bx5_ping(1) + good

    assert [confirmed for *_, confirmed in shown(data)] == [True, False, False]


def test_a_count_board_that_says_the_number_again_has_taken_it() -> None:
    eight, nine = count_3a(8), count_3a(9)
    with_2a = bytes.fromhex("2A 00 09 00 01 34 0A")

    assert shown(eight + eight + nine + with_2a + eight) == [
        ("", "8", "ticket", True),
        ("", "9", "ticket", True),
        ("", "8", "ticket", False),
    ]


def test_a_published_text_is_understood() -> None:
    assert shown(PUBLISHED_TEXT) == [("65534", "欢迎光临", "unknown", False)]


@pytest.mark.parametrize(
    ("text", "state"),
    [("暂停服务", "paused"), ("----", "blank"), ("", "blank"), ("热情为您服务", "unknown")],
)
def test_a_capture_tells_a_text_that_is_no_ticket(text: str, state: str) -> None:
    assert shown(strip_aa(5, gbk(text))) == [("5", text, state, False)]


def test_what_is_not_gbk_is_replaced_and_its_bytes_are_kept() -> None:
    (one,) = decode(strip_aa(5, b"A\x81 037"), SHANGHAI)

    assert isinstance(one.body, Shown)
    assert one.body.text == "A\ufffd 037"
    assert one.raw == strip_aa(5, b"A\x81 037")


def test_what_is_no_frame_is_told_with_its_bytes() -> None:
    data = b"\x01\x02" + strip_aa(5, b"A037") + b"\x03"
    told = [(type(one.body), one.raw) for one in decode(data, SHANGHAI)]

    assert told[1:] == [(Unreadable, b"\x01\x02"), (Unreadable, b"\x03")]
    assert [type(one.body) for one in decode(b"hello", SHANGHAI)] == [Unreadable]
    assert list(decode(b"", SHANGHAI)) == []


def test_a_query_for_model_or_version_shows_nothing() -> None:
    assert shown(b"$001,02&$001,03&" + dollar_ascii(1, b"A037")) == [("1", "A037", "ticket", False)]


# -- settings


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "port is empty"),
        ({"transport": "tcp"}, "host is empty"),
        ({"port": "/dev/ttyS0", "host": "192.0.2.7"}, "host is for the transports tcp and udp"),
        (
            {"transport": "tcp", "host": "192.0.2.7", "port": "/dev/ttyS0"},
            "port is for the transport serial",
        ),
        ({"transport": "udp", "host": "192.0.2.7"}, "boards of strip-aa never answer"),
        ({"port": "/dev/ttyS0", "format": "9Z1"}, "no line format"),
        ({"port": "/dev/ttyS0", "baud": -1}, "baud is -1; expected 0 to"),
        ({"port": "/dev/ttyS0", "address": 256}, "address is 256; expected 0 to 255"),
        ({"port": "/dev/ttyS0", "max_bytes": 244}, "max_bytes is 244; expected 0 to 243"),
        ({"port": "/dev/ttyS0", "min_gap_ms": -1}, "min_gap_ms is -1"),
        ({"port": "/dev/ttyS0", "tries": 0}, "tries is 0; expected 1 to 10"),
        ({"port": "/dev/ttyS0", "flash": 7}, "boards of strip-aa cannot flash"),
        ({"port": "/dev/ttyS0", "profile": "bx5", "address": 0x8000}, "hallwatch's own"),
        ({"port": "/dev/ttyS0", "profile": "bx5", "width": 0}, "width is 0"),
        ({"port": "/dev/ttyS0", "profile": "bx5", "height": 7}, "height is 7"),
        ({"port": "/dev/ttyS0", "profile": "bx5", "area": 250}, "area is 250"),
        ({"port": "/dev/ttyS0", "profile": "count-3a", "max_bytes": 5}, "max_bytes is 5"),
        ({"port": "/dev/ttyS0", "profile": "dollar-ascii", "address": 1000}, "address is 1000"),
        ({"port": "/dev/ttyS0", "profile": "strip-nibble", "address": 4096}, "address is 4096"),
        ({"transport": "tcp", "host": "192.0.2.7", "ip_port": 0}, "ip_port is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_sentence(
    told: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        LedBoardOptions(**{"profile": "strip-aa", **told})


class Box(NamedTuple):
    options: LedBoardOptions
    id: str
    window: str = ""


def boxes(*told: dict[str, Any]) -> list[Box]:
    return [
        Box(LedBoardOptions(**{"profile": "strip-aa", "port": "/dev/ttyS0", **one}), f"board-{n}")
        for n, one in enumerate(told, 1)
    ]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([{}, {}], "address 1 is that of board-1 and of board-2"),
        ([{}, {"address": 2, "baud": 4800}], "baud and format of board-1 and board-2 differ"),
        ([{}, {"address": 2, "format": "8E1"}], "baud and format of board-1 and board-2 differ"),
        (
            [{}, {"address": 2, "profile": "strip-fe"}],
            "strip-aa for board-1 and strip-fe for board-2",
        ),
        ([{"profile": "count-3a"}, {"profile": "count-3a", "address": 2}], "have no address"),
    ],
)
def test_boards_that_cannot_share_a_line_are_refused_with_a_sentence(
    told: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        LedBoards(boxes(*told))


def test_boards_on_one_line_share_it() -> None:
    one, two = boxes({}, {"address": 2, "baud": 9600})
    LedBoards([one, two])

    assert one.options.link() == two.options.link() == ("serial", "/dev/ttyS0")
    card = LedBoardOptions("bx5", "tcp", host="192.0.2.7")
    assert card.link() == ("tcp", "192.0.2.7", 5005)
    assert LedBoardOptions("bx5", port="/dev/ttyS0").speed == 57_600


# -- the emulated board


def test_an_emulated_board_waits_for_silence_where_frames_have_no_mark() -> None:
    board = Board("board4", 5)

    board.feed(b"\x99\x98", now=1.0)
    board.feed(board4(5, 7), now=1.001)
    assert board.history == []
    board.feed(board4(5, 8), now=1.007)

    assert board.history == ["8"]


def test_an_emulated_board_leaves_what_is_meant_for_others() -> None:
    board = Board("strip-aa", 6, label="欢迎光临")

    board.feed(strip_aa(5, b"A037"))

    assert board.text == "欢迎光临"
