"""Names, person codes and wall times as terminals write them."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.text import decode_name, is_citizen_id, wall_instant

SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("d5 c5 c8 fd", "张三"),
        ("c3 ab c3 ab", "毛毛"),  # valid UTF-8 for "ëë"
        ("d6 a3 d6 a5", "郑芝"),  # valid UTF-8 for two Hebrew accents
        ("c5 b7 d1 f4 c4 c8 c4 c8", "欧阳娜娜"),  # fills a field of 8
        ("e5 bc a0 e4 b8 89", "张三"),  # valid GBK for 寮犱笁
        ("e6 ac a7 e9 98 b3", "欧阳"),
        ("b0 a2 b2 bb b6 bc a1 a4 c8 c8 ba cf c2 fc", "阿不都·热合曼"),
        ("c0 ee 4a 75 6e", "李Jun"),
    ],
)
def test_a_name_is_chinese_in_whichever_encoding_it_was_written(raw: str, name: str) -> None:
    decoded = decode_name(bytes.fromhex(raw), None)

    assert decoded == name
    assert decode_name(bytes.fromhex(raw), "auto") == name


def test_what_stands_behind_the_first_nul_is_garbage() -> None:
    assert decode_name(bytes.fromhex("d5 c5 c8 fd 00 ff 31 b0"), None) == "张三"


def test_a_character_cut_in_half_by_the_field_is_left_out() -> None:
    assert decode_name(bytes.fromhex("d5 c5 c8"), None) == "张"
    assert decode_name(bytes.fromhex("d5 c5 c8"), "gbk") == "张"
    assert decode_name("张三".encode()[:5], "utf-8") == "张"


def test_the_configured_encoding_decides() -> None:
    raw = bytes.fromhex("c3 ab c3 ab")

    assert decode_name(raw, "utf-8") == "ëë"
    assert decode_name(raw, "gbk") == "毛毛"


def test_a_latin_name_needs_no_decision() -> None:
    assert decode_name(b" Li Jun \0", None) == "Li Jun"


def test_unreadable_bytes_become_replacement_characters() -> None:
    assert "\ufffd" in decode_name(b"\xff\xff", None)
    assert "\ufffd" in decode_name(b"\xff\xff", "utf-8")


@given(st.binary(max_size=64), st.sampled_from([None, "auto", "gbk", "utf-8"]))
def test_no_bytes_make_it_fail(raw: bytes, encoding: str | None) -> None:
    decode_name(raw, encoding).encode()


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1, max_size=8))
def test_every_chinese_name_in_utf8_is_read_back(name: str) -> None:
    assert decode_name(name.encode(), None) == name


def test_wall_time_is_read_in_the_zone_of_the_hall() -> None:
    assert wall_instant(2025, 3, 14, 9, 26, 53, SHANGHAI) == 1_741_915_613_000
    assert wall_instant(2025, 3, 14, 9, 26, 53, ZoneInfo("UTC")) == 1_741_944_413_000


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)))  # noqa: DTZ001
def test_wall_time_and_instant_are_two_names_for_one_moment(wall: datetime) -> None:
    at = wall_instant(
        wall.year, wall.month, wall.day, wall.hour, wall.minute, wall.second, SHANGHAI
    )

    assert datetime.fromtimestamp(at / 1000, SHANGHAI).replace(tzinfo=None) == wall.replace(
        microsecond=0
    )


@pytest.mark.parametrize(
    "wall", [(2025, 2, 31, 1, 2, 3), (2025, 13, 1, 0, 0, 0), (2025, 1, 1, 24, 0, 0)]
)
def test_a_wall_time_that_no_calendar_has_is_an_error(wall: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        wall_instant(*wall, SHANGHAI)  # type: ignore[arg-type, call-arg]


ID_NUMBER = "11010519491231002X"
"""The example that the standard for ID numbers prints; nobody's."""


@pytest.mark.parametrize("number", [ID_NUMBER, ID_NUMBER.lower()])
def test_the_check_digit_tells_an_id_number(number: str) -> None:
    assert is_citizen_id(number)


@pytest.mark.parametrize(
    "code",
    ["", "9001", "110105194912310021", f"1{ID_NUMBER}", "１１０１０５１９４９１２３１００２X"],
)
def test_a_person_code_is_no_id_number(code: str) -> None:
    assert not is_citizen_id(code)
