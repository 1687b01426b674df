"""Frames as data: every published frame, and what must not pass for one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import BadFrame
from drivers.frames import (
    CHECKSUMS,
    PROFILES,
    Frame,
    Profile,
    build,
    decode,
    load_profile,
    read_profile,
    shipped_profiles,
    split,
    with_scale,
)

FF68 = load_profile("caller-ff68")
AA55 = load_profile("sim-aa55")

SAMPLES = [
    # bytes, address, func, data, what it means
    ("FF 68 03 03 68 07 11 01 19 16", 7, "11", "01", ("rating", "01")),
    ("FF 68 03 03 68 07 01 01 09 16", 7, "01", "01", ("ack", "")),
    ("FF 68 03 03 68 16 11 00 27 16", 0x16, "11", "00", ("rating", "00")),
    ("FF 68 03 03 68 05 01 0B 11 16", 5, "01", "0B", ("staff_key", "finished")),
    ("FF 68 03 03 68 05 02 05 0C 16", 5, "02", "05", ("ignore", "")),
    ("FF 68 02 02 68 05 03 08 16", 5, "03", "", ("ignore", "")),
    ("FF 68 03 03 68 05 01 0C 12 16", 5, "01", "0C", ("staff_key", "called")),
    ("FF 68 03 03 68 05 01 0D 13 16", 5, "01", "0D", ("staff_key", "recalled")),
    ("FF 68 04 04 68 05 01 06 0F 1B 16", 5, "01", "060F", ("staff_key", "abandoned")),
    ("FF 68 04 04 68 05 01 00 0F 15 16", 5, "01", "000F", ("staff_key", "held")),
    ("FF 68 04 04 68 05 01 03 0F 18 16", 5, "01", "030F", ("staff_key", "called_back")),
    ("FF 68 03 03 68 05 01 12 18 16", 5, "01", "12", ("staff_key", "pause")),
    ("FF 68 03 03 68 05 01 13 19 16", 5, "01", "13", ("staff_key", "transferred")),
    ("FF 68 08 08 68 05 02 0A 0A 0A 00 03 07 2F 16", 5, "02", "0A0A0A000307", ("ignore", "")),
    ("FF 68 08 08 68 05 02 00 01 02 0A 0A 0A 28 16", 5, "02", "0001020A0A0A", ("ignore", "")),
]


def frames_of(profile: Profile, pieces: Sequence[bytes]) -> list[Frame]:
    """As they come out when the bytes arrive in these pieces."""
    found: list[Frame] = []
    rest = b""
    for piece in pieces:
        got = split(profile, rest + piece)
        found += got.frames
        rest = got.rest
    return found


# Checksums -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "expected"),
    [
        ("sum8neg", 0x23),
        ("crc16_modbus", 0x4B37),
        ("crc16_arc", 0xBB3D),
        ("crc16_xmodem", 0x31C3),
        ("crc8", 0xF4),
        ("sum8", 0xDD),
        ("sum16be", 0x01DD),
        ("sum16le", 0x01DD),
        ("xor8", 0x31),
    ],
)
def test_checksums_have_their_published_values_over_123456789(algo: str, expected: int) -> None:
    assert CHECKSUMS[algo](b"123456789") == expected


def test_every_checksum_is_tested_above() -> None:
    assert set(CHECKSUMS) == {
        "sum8", "sum8neg", "xor8", "sum16be", "sum16le", "crc8", "crc16_modbus", "crc16_arc",
        "crc16_xmodem",
    }  # fmt: skip


# FF 68 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "address", "func", "data", "meaning"), SAMPLES)
def test_a_published_frame_is_understood_whole_and_byte_by_byte(
    raw: str, address: int, func: str, data: str, meaning: tuple[str, str]
) -> None:
    sent = bytes.fromhex(raw)
    whole = split(FF68, sent)
    (frame,) = whole.frames
    told = decode(FF68, frame)

    assert whole.rest == b""
    assert whole.dropped == ()
    assert frame.raw == sent
    assert frame.address == address
    assert frame.values["func"] == bytes.fromhex(func)
    assert frame.data == bytes.fromhex(data)
    assert told is not None
    assert (told.emit, told.word or told.value.hex().upper()) == meaning
    assert frames_of(FF68, [bytes((byte,)) for byte in sent]) == [frame]


def test_published_frames_are_understood_glued_behind_noise_and_a_broken_frame() -> None:
    broken = bytes.fromhex("FF 68 03 03 68 07 11 01 18 16")
    everything = b"".join(bytes.fromhex(raw) for raw, *_ in SAMPLES)
    got = split(FF68, b"\x00\xff" + broken + everything)

    assert [frame.raw.hex(" ").upper() for frame in got.frames] == [raw for raw, *_ in SAMPLES]
    (lost,) = got.dropped
    assert lost.raw == b"\x00\xff" + broken
    assert lost.reason == "the checksum is 18, expected 19"
    assert lost.checksums == 1


@pytest.mark.parametrize("cut", range(1, 20))
def test_two_frames_may_be_cut_anywhere(cut: int) -> None:
    both = bytes.fromhex(SAMPLES[0][0] + SAMPLES[8][0])

    assert [frame.address for frame in frames_of(FF68, [both[:cut], both[cut:]])] == [7, 5]


def test_a_repeated_first_byte_and_a_frame_that_begins_within_a_broken_one_cost_nothing() -> None:
    good = bytes.fromhex(SAMPLES[0][0])
    repeated = split(FF68, b"\xff\xff\xff" + good)
    within = split(FF68, b"\xff\x68\x08\x08\x68\x05\x02" + good + good)

    assert [frame.raw for frame in repeated.frames] == [good]
    assert repeated.dropped[0].raw == b"\xff\xff\xff"
    assert [frame.raw for frame in within.frames] == [good, good]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("FF 68 03 04 68 07 11 01 19 16", "len2 is 04, expected 03 again"),
        ("FF 68 00 00 68 07 11 01 19 16", "len1 is 0, expected 2 to 8"),
        ("FF 68 09 09 68 07 11 01 19 16", "len1 is 9, expected 2 to 8"),
        ("FF 68 FF FF 68 07 11 01 19 16", "len1 is 255, expected 2 to 8"),
        ("FF 68 03 03 67 07 11 01 19 16", "sep is 67, expected 68"),
        ("FF 68 03 03 68 07 11 01 19 17", "end is 17, expected 16"),
        ("FF 68 03 03 68 07 11 01 1A 16", "the checksum is 1A, expected 19"),
    ],
)
def test_what_breaks_a_rule_is_dropped_and_the_next_frame_is_found(sent: str, reason: str) -> None:
    good = bytes.fromhex(SAMPLES[5][0])
    got = split(FF68, bytes.fromhex(sent) + good)

    assert [frame.raw for frame in got.frames] == [good]
    assert got.dropped[0].reason == reason


def test_half_a_frame_waits_and_is_given_up_when_the_line_stays_silent() -> None:
    half = bytes.fromhex("FF 68 03 03 68 07")
    waiting = split(FF68, half)
    given_up = split(FF68, half, stalled=True)

    assert waiting == ((), half, ())
    assert given_up.rest == b""
    assert given_up.dropped[0].raw == half
    assert given_up.dropped[0].reason == "the frame ends after 6 bytes"


def test_a_rating_without_its_value_is_refused_in_words() -> None:
    (frame,) = split(FF68, build(FF68, "ack_rating", address=7, data=b"")).frames
    empty = frame._replace(values={**frame.values, "func": b"\x11"})

    with pytest.raises(BadFrame, match="0 bytes of data, expected at least 1 for rating"):
        decode(FF68, empty)


def test_an_unknown_meaning_is_none() -> None:
    (frame,) = split(FF68, bytes.fromhex("FF 68 04 04 68 05 01 09 0F 1E 16")).frames

    assert decode(FF68, frame) is None


@pytest.mark.parametrize(
    ("action", "values", "expected"),
    [
        ("ack_rating", {"address": 7, "data": b"\x01"}, "FF 68 03 03 68 07 01 01 09 16"),
        ("prompt", {"address": 5}, "FF 68 03 03 68 05 01 0B 11 16"),
        ("set_stars", {"address": 5, "stars": 5}, "FF 68 03 03 68 05 02 05 0C 16"),
        ("beep", {"address": 5}, "FF 68 02 02 68 05 03 08 16"),
        (
            "show",
            {"address": 5, "waiting": b"\x0a\x0a\x0a", "ticket": b"\0\x03\x07"},
            "FF 68 08 08 68 05 02 0A 0A 0A 00 03 07 2F 16",
        ),
        (
            "show",
            {"address": 5, "waiting": b"\0\1\2", "ticket": b"\x0a\x0a\x0a"},
            "FF 68 08 08 68 05 02 00 01 02 0A 0A 0A 28 16",
        ),
        ("ack_key", {"raw": bytes.fromhex("FF 68 03 03 68 05 01 0C 12 16")}, SAMPLES[6][0]),
    ],
)
def test_frames_to_send_are_the_published_ones(
    action: str, values: dict[str, int | bytes], expected: str
) -> None:
    assert build(FF68, action, **values).hex(" ").upper() == expected


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="the profile caller-ff68 has no action sing"):
        build(FF68, "sing", address=1)
    with pytest.raises(ValueError, match="set_stars needs stars"):
        build(FF68, "set_stars", address=1)
    with pytest.raises(ValueError, match="show: len1 is 12, at most 8"):
        build(FF68, "show", address=1, waiting=bytes(4), ticket=bytes(6))


# AA 55 -----------------------------------------------------------------------------------------


def test_start_bytes_may_occur_inside_the_data_of_the_second_checksum() -> None:
    # len 5, address 9, command 11, data AA 55 02: 05^09^11^AA^55^02 = E0
    sent = bytes.fromhex("AA 55 05 09 11 AA 55 02 E0")
    got = split(AA55, b"\xaa\xaa" + sent + sent)

    assert [frame.data for frame in got.frames] == [b"\xaa\x55\x02"] * 2
    assert [frame.address for frame in got.frames] == [9, 9]
    assert frames_of(AA55, [bytes((byte,)) for byte in sent]) == [got.frames[0]]


# Payloads, lines, bytes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "raw", "emit", "value"),
    [
        ("bank-ascii", "53 45 30 30", "ack", ""),
        ("bank-ascii", "53 45 32 30 31", "rating", "31"),
        ("bank-ascii", "53 45 30 37", "refused", "3037"),
        ("bank-ascii-pj", "50 4B 30 30 30 32", "rating", "3032"),
        ("bank-ascii-pj", "50 4B 30 35", "refused", "3035"),
        ("bank-ascii-ph", "00 00 03", "rating", "03"),
    ],
)
def test_bank_payloads_are_understood_whole_byte_by_byte_and_glued(
    profile: str, raw: str, emit: str, value: str
) -> None:
    known = load_profile(profile)
    sent = bytes.fromhex(raw)
    (frame,) = split(known, sent).frames
    told = decode(known, frame)

    assert told is not None
    assert (told.emit, told.value.hex().upper()) == (emit, value)
    assert frames_of(known, [bytes((byte,)) for byte in sent]) == [frame]
    assert [one.raw for one in split(known, b"x" + sent * 3).frames] == [sent] * 3


def test_the_two_answers_of_the_compact_form_are_told_apart_by_what_follows() -> None:
    compact = load_profile("bank-ascii-ph")
    glued = split(compact, bytes.fromhex("00 00 00 00 02"))
    alone = split(compact, b"\0\0")

    assert [frame.raw.hex() for frame in glued.frames] == ["0000", "000002"]
    assert alone == ((), b"\0\0", ())
    assert [frame.raw for frame in split(compact, b"\0\0", stalled=True).frames] == [b"\0\0"]


def test_the_bank_prompt_is_the_published_one() -> None:
    sent = build(
        load_profile("bank-ascii"),
        "prompt",
        person="0012",
        photo="0012.jpg",
        name="张三",
        seconds=30,
    )

    assert len(sent) == 90
    assert (
        sent.hex(" ")
        .upper()
        .startswith(
            "53 45 30 34 30 30 31 32 30 30 38 30 30 31 32 2E 6A 70 67 30 36 E5 BC A0 E4 B8 89"
        )
    )
    assert sent.endswith("030请对我的服务进行评价005030".encode())


def test_the_older_bank_prompts_count_bytes_of_utf8() -> None:
    older = build(load_profile("bank-ascii-pj"), "prompt", seconds=30, options="好,Good|差,Bad")
    compact = build(load_profile("bank-ascii-ph"), "prompt", seconds=30, options="好|差")

    assert (
        older == "PJ100530003|||016好,Good|差,Bad015请您评价006谢谢".replace("015", "012").encode()
    )
    assert compact == b"PH\x0a\x05\x1e\x07" + "好|差".encode() + b"\x0c" + "请您评价".encode() + (
        b"\x06" + "谢谢".encode()
    )


def test_texts_too_long_for_their_length_lose_whole_characters() -> None:
    sent = build(load_profile("bank-ascii"), "prompt", person="好" * 40)

    assert sent.startswith(b"SE99" + "好".encode() * 33 + b"000")
    with pytest.raises(ValueError, match="8184"):
        build(
            read_profile(
                (PROFILES / "bank-ascii.toml")
                .read_text("utf-8")
                .replace("length = 3", "length = 4")
            ),
            "prompt",
            operation="好" * 3000,
        )


def test_of_bare_bytes_only_keys_of_the_scale_are_frames() -> None:
    got = split(load_profile("keybyte"), bytes.fromhex("41 33 00 7F 35"))

    assert [frame.data.hex() for frame in got.frames] == ["33", "00", "35"]
    assert [piece.raw.hex() for piece in got.dropped] == ["41", "7f"]


LINES = read_profile(
    """
    id = "lines"
    frame = { mode = "ascii_line", start = "24", end = "23", max_frame = 16 }
    """
)


def test_a_line_reaches_to_its_end_and_no_further_than_allowed() -> None:
    sent = bytes.fromhex("24 30 30 31 2C 41 30 33 37 23")
    endless = split(LINES, b"$" + b"1" * 40 + sent)

    assert frames_of(LINES, [bytes((byte,)) for byte in b"x" + sent]) == list(
        split(LINES, sent).frames
    )
    assert split(LINES, sent).frames[0].data == b"001,A037"
    assert [frame.raw for frame in endless.frames] == [sent]
    assert endless.dropped[0].reason == "the line has no end within 16 bytes"


LED = read_profile(
    """
    id = "led"
    [frame]
    mode = "binary"
    start = "A5"
    start_repeat = { min = 1, max = 8 }
    max_frame = 64
    checksum = { algo = "crc16_arc", over = ["length", "data"] }
    length_covers = ["data"]
    fields = [
      { name = "length", role = "length", size = 2, endian = "little", max = 20 },
      { name = "data", role = "data", size = "length" },
      { name = "crc", role = "checksum", size = 2, endian = "little" },
      { name = "end", role = "end", const = "5A" },
    ]
    escape = { fields = ["length", "data", "crc"], pairs = [
      { from = "A5", to = "A602" }, { from = "A6", to = "A601" },
      { from = "5A", to = "5B02" }, { from = "5B", to = "5B01" } ] }
    [actions]
    write = { data = "{text}" }
    """
)


def test_reserved_bytes_are_escaped_and_the_start_may_repeat() -> None:
    plain = bytes.fromhex("01 A5 5A A6 5B 02")
    crc = CHECKSUMS["crc16_arc"](b"\x06\x00" + plain).to_bytes(2, "little")
    sent = bytes.fromhex("A5" * 8 + "06 00 01 A6 02 5B 02 A6 01 5B 01 02") + crc + b"\x5a"
    once = sent[7:]

    assert build(LED, "write", text=plain) == sent
    assert [frame.data for frame in split(LED, sent).frames] == [plain]
    assert [frame.data for frame in split(LED, once + sent).frames] == [plain, plain]
    assert [frame.data for frame in frames_of(LED, [bytes((b,)) for b in sent])] == [plain]
    assert split(LED, b"\xa5" + sent).frames[0].raw == sent


def test_a_reserved_byte_that_is_no_escape_breaks_the_frame() -> None:
    got = split(LED, bytes.fromhex("A5 02 00 A6 07 11 22 5A"), stalled=True)

    assert got.frames == ()
    assert got.dropped[0].reason == "an escape in data is wrong"


# Profiles --------------------------------------------------------------------------------------


def test_every_shipped_profile_can_be_read() -> None:
    profiles = {name: load_profile(name) for name in shipped_profiles()}

    assert {name: profile.id for name, profile in profiles.items()} == {
        name: name
        for name in (
            "bank-ascii", "bank-ascii-ph", "bank-ascii-pj", "caller-ff68", "keybyte", "ocx-3key",
            "sim-aa55",
        )
    }  # fmt: skip
    assert profiles["caller-ff68"].transport.baud == 9600
    assert profiles["ocx-3key"].mode == ""
    assert profiles["ocx-3key"].scale.levels == {b"\1": 5, b"\2": 3, b"\3": 1, b"\5": "none"}


EXAMPLE = (PROFILES / "caller-ff68.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("found", "wanted", "complaint"),
    [
        ('mode = "binary"', 'mode = "morse"', "Invalid enum value 'morse' - at `$.frame.mode`"),
        ('start = "FF68"', 'start = "FF6"', "frame.start is 'FF6'; expected hexadecimal"),
        ('start = "FF68"', "colour = 1", "unknown field `colour` - at `$.frame`"),
        ("max_frame = 16", "max_frame = 0", "max_frame is 0; expected 1 to 8192"),
        ("inter_byte_ms = 200", "inter_byte_ms = 0", "inter_byte_ms is 0"),
        ('"sum8"', '"sum9"', "frame.checksum.algo is 'sum9'; expected one of sum8"),
        ('"sum8"', '"crc16_arc"', "frame.fields.chk.size: crc16_arc has 2 bytes"),
        ('over = ["addr"', 'over = ["adr"', "frame.checksum.over names 'adr'"),
        ('name = "len2"', 'name = "len1"', "frame.fields.len1 stands there twice"),
        ('role = "length", ', 'role = "seq", ', "len2: there is no length before its copy"),
        ('size = "len1-2"', 'size = "len3-2"', "expected a number, or an earlier length field"),
        ('size = "len1-2"', 'size = "len1-1"', "that does not fit frame.length_covers"),
        ('role = "const", const = "68"', 'role = "const"', "the role const needs const"),
        ('when = { func = "11" }', 'when = { fun = "11" }', "match[0].when.fun: expected"),
        ('value = "data[0]"', 'value = "level"', "expected data or data[N] for a rating"),
        ('value = "called"', 'value = "data"', "expected a word for a staff key"),
        ('emit = "ack"', 'emit = "shout"', "Invalid enum value 'shout'"),
        ('func = "02", data = "{stars}"', 'sound = "1"', "actions.set_stars.sound: expected copy"),
        ('"00" = "unset"', '"0" = "unset"', "scale is '0'; expected hexadecimal"),
        ('"00" = "unset"', '"00" = 6', "the key 00 has the level 6; expected 1 to 5"),
        ('id = "caller-ff68"', "", "missing required field `id`"),
        ('id = "caller-ff68"', "id =", "Invalid value"),
    ],
)
def test_an_error_in_a_profile_names_its_place(found: str, wanted: str, complaint: str) -> None:
    assert found in EXAMPLE
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        read_profile(EXAMPLE.replace(found, wanted, 1), "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")


def test_the_order_of_a_checksums_bytes_is_told_once() -> None:
    wide = EXAMPLE.replace('"chk", size = 1', '"chk", size = 2').replace('"sum8"', '"sum16le"')

    with pytest.raises(ValueError, match=r"frame.fields.chk.endian: the checksum's is little"):
        read_profile(wide)


def test_a_length_that_reaches_beyond_the_longest_frame_is_refused_at_once() -> None:
    wide = read_profile(EXAMPLE.replace("max = 8 }", "max = 200 }"))
    good = bytes.fromhex(SAMPLES[0][0])
    got = split(wide, bytes.fromhex("FF 68 C8 C8 68 07 11") + good)

    assert [frame.raw for frame in got.frames] == [good]
    assert got.dropped[0].reason == "the frame is longer than 16 bytes"


def test_a_profile_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'id = "\xe9"')

    with pytest.raises(ValueError, match=r"no profile 'acme'.*caller-ff68"):
        load_profile("acme")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        load_profile(str(tmp_path / "none.toml"))
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        load_profile(str(latin))


# Scales ----------------------------------------------------------------------------------------

FOUR = {"00": 5, "01": 4, "02": 3, "03": 2}


def test_the_levels_of_the_settings_replace_those_of_the_profile() -> None:
    scaled = with_scale(FF68, FOUR, "four-hall-2").scale

    assert scaled.levels == {b"\0": 5, b"\1": 4, b"\2": 3, b"\3": 2}
    assert scaled.id == "four-hall-2"
    assert with_scale(FF68, FOUR).scale.id == "four-installer"


@pytest.mark.parametrize(
    ("profile", "levels", "complaint"),
    [
        ("caller-ff68", {}, "does not say what 00, 01, 02, 03 of the profile caller-ff68 means"),
        ("caller-ff68", {"00": 5, "01": 4, "02": 3}, "does not say what 03 of the profile"),
        ("caller-ff68", {**FOUR, "03": "unset"}, "does not say what 03 of the profile"),
        ("caller-ff68", {**FOUR, "03": 0}, "the key 03 has the level 0; expected 1 to 5"),
        ("caller-ff68", {**FOUR, "03": 6}, "the key 03 has the level 6; expected 1 to 5"),
        ("caller-ff68", {**FOUR, "03": "bad"}, "the key 03 has the level 'bad'"),
        ("caller-ff68", {**FOUR, "3": 1}, "expected hexadecimal"),
        ("caller-ff68", {**FOUR, "04": 2}, "two keys of the scale have the same level"),
        (
            "sim-aa55",
            {"00": 1, "01": 5, "02": 4, "03": 3, "04": 2, "05": 1},
            "gives 00 a level, but that is what the device sends when nobody pressed",
        ),
        (
            "bank-ascii",
            {"31": 5, "32": 4, "33": 3, "34": 2, "35": 1},
            "gives 34 a level, but that is what the device sends when nobody pressed",
        ),
        ("bank-ascii", {}, "does not say what 31, 32, 33, 35"),
    ],
)
def test_a_scale_that_would_tell_wrong_levels_is_refused(
    profile: str, levels: dict[str, int | str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        with_scale(load_profile(profile), levels)


def test_few_keys_may_share_a_level_and_a_key_may_have_none() -> None:
    shared = with_scale(FF68, {**FOUR, "03": 3})
    without = with_scale(FF68, {**FOUR, "04": "none"})

    assert shared.scale.levels[b"\3"] == 3
    assert without.scale.levels[b"\4"] == "none"


# Anything --------------------------------------------------------------------------------------

EVERY = [*(load_profile(name) for name in shipped_profiles()), LINES, LED]
PIECES = [
    *(bytes.fromhex(raw) for raw, *_ in SAMPLES),
    b"\xff", b"\x68", b"\xff\x68\x03\x03", b"\xaa\x55", b"\xaa\x55\x05", b"SE", b"SE20", b"PK00",
    b"\0", b"\1", b"$", b"#", b"\xa5", b"\xa6", b"\x5a", b"3",
]  # fmt: skip
HOSTILE = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12)


@pytest.mark.parametrize("profile", [one for one in EVERY if one.mode], ids=lambda one: one.id)
@given(pieces=HOSTILE)
def test_no_byte_is_lost_or_told_twice_however_it_comes(
    profile: Profile, pieces: list[bytes]
) -> None:
    everything = b"".join(pieces)
    whole = split(profile, everything)
    told = sum(len(frame.raw) for frame in whole.frames) + sum(
        len(piece.raw) for piece in whole.dropped
    )
    ended = split(profile, everything, stalled=True)

    assert everything.endswith(whole.rest)
    assert told + len(whole.rest) == len(everything)
    assert len(whole.rest) < max(profile.max_frame, 2)
    assert frames_of(profile, pieces) == list(whole.frames)
    assert frames_of(profile, [bytes((byte,)) for byte in everything]) == list(whole.frames)
    assert ended.rest == b""
    for frame in ended.frames:
        with suppress(BadFrame):
            decode(profile, frame)


@given(address=st.integers(0, 255), data=st.binary(max_size=6))
def test_what_is_built_is_read_again(address: int, data: bytes) -> None:
    sent = build(FF68, "ack_rating", address=address, data=data)
    (frame,) = split(FF68, sent).frames

    assert frame.raw == sent
    assert frame.address == address
    assert frame.data == data


@given(st.text(max_size=400))
def test_no_text_breaks_the_reader_of_profiles(text: str) -> None:
    with pytest.raises(ValueError, match=r"^x: "):
        read_profile(text, "x")
