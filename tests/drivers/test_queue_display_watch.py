"""Profiles, texts and the rules that turn looks at a display into calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import BadFrame, Show
from drivers.modbus import encode_registers
from drivers.queue_display import (
    Profile,
    QueueDisplayOptions,
    Text,
    Watch,
    decode,
    load_profile,
    read_text,
    shown_text,
    spans,
)
from rules.model import DeviceEvent, DeviceInfo, QueueEvent, Shown, Unreadable

SHANGHAI = ZoneInfo("Asia/Shanghai")
NINE = 1_741_914_000_000
DISPLAYS = Path(__file__).parents[2] / "drivers" / "displays"
CHARS = Profile("char_per_register", 0, 6, paused=("PAUSE",))


def chars(text: str, size: int = 6) -> list[int]:
    return [ord(letter) for letter in text.ljust(size)]


# Profiles ------------------------------------------------------------------------------------


def test_every_profile_is_good() -> None:
    names = sorted(path.stem for path in DISPLAYS.glob("*.toml"))

    assert {"dm36", "meter4", "led485", "armfly", "embeddedart"} <= set(names)
    for name in names:
        profile = load_profile(name)
        assert profile.first(profile.address) + profile.count <= 0x10000
        options = QueueDisplayOptions(1, name, port="/dev/ttyS1", write=not profile.readable)
        assert options.shape == profile
        room = [0] * profile.count
        assert read_text(profile, room).state in ("blank", "unknown")


@pytest.mark.parametrize(
    ("name", "registers", "text", "state"),
    [
        ("dm36", chars("A037"), "A037", "ticket"),
        ("dm36_number", [1037], "1037", "ticket"),
        ("dm36_packed", [0x0001, 0xE240], "123456", "ticket"),
        ("meter4", [0xFFFE], "-1", "unknown"),
        ("meter4", [37], "37", "ticket"),
        ("led485", [8888], "8888", "lamp_test"),
        ("led485_segments", [0x773F, 0x4F07], "A037", "ticket"),
        ("armfly", [0x4120, 0x302E, 0x3320, 0x3720], "A037", "ticket"),
        ("armfly_number", [0], "0", "blank"),
        ("embeddedart", [0x4130, 0x3337] + [0x2020] * 14, "A037", "ticket"),
    ],
)
def test_displays_are_read_by_their_profiles(
    name: str, registers: list[int], text: str, state: str
) -> None:
    assert read_text(load_profile(name), registers)[:2] == (text, state)


@pytest.mark.parametrize(
    ("shown", "text", "state"),
    [
        ("A037  ", "A037", "ticket"), ("a037", "A037", "ticket"), ("A 037.", "A037", "ticket"),
        ("", "", "blank"), ("----", "----", "blank"), ("000000", "000000", "blank"),
        ("PAUSE", "PAUSE", "paused"), ("888888", "888888", "lamp_test"), ("A03", "A03", "unknown"),
        ("ERR 3", "ERR3", "unknown"), ("\0\0\0", "", "blank"),
    ],
)  # fmt: skip
def test_texts_have_a_state(shown: str, text: str, state: str) -> None:
    registers = chars(shown)

    assert read_text(CHARS, registers)[:2] == (text, state)


def test_chinese_and_full_width_tickets_are_normalised_and_kept_as_they_came() -> None:
    profile = Profile("char_pair", 0, 4, ticket_pattern="办?[0-9]{3}")
    data = "办 ０3７".encode("gbk")
    registers = [data[n] << 8 | data[n + 1] for n in range(0, 8, 2)]

    text = read_text(profile, registers)
    changed = Watch("d", "05", looks=1)
    changed.look(Text("", "blank", ""), NINE)

    assert text == ("办037", "ticket", "办 ０3７")
    _, (_, event) = changed.look(text, NINE + 500)
    assert (event.ticket, event.ticket_raw) == ("办037", "办 ０3７")


def test_bytes_that_are_no_gbk_are_shown_as_unknown() -> None:
    profile = Profile("char_pair", 0, 2)

    assert read_text(profile, [0xFFFF, 0x8130])[1] == "unknown"


def test_ambiguous_segments_are_read_as_the_ticket_pattern_wants() -> None:
    profile = Profile("segments", 0, 2, segments=(("7C", "B6"),), ticket_pattern="[A-F][0-9]{3}")

    assert read_text(profile, [0x7F7F, 0x3F07]).text == "B807"
    assert read_text(profile, [0x7C7C, 0x3F07]).text == "B607"
    assert read_text(profile, [0x7F7F, 0x3F07], "[0-9]{4}").text == "8807"
    with pytest.raises(BadFrame, match="segment code 12 in place 2"):
        read_text(profile, [0x7712, 0])


def test_words_in_the_wrong_order_are_out_of_range() -> None:
    profile = Profile("float32", 0, 2, range=(1, 9999))

    assert read_text(profile, [0x4481, 0xA000]).text == "1037"
    with pytest.raises(BadFrame, match="is the order right"):
        read_text(profile, [0xA000, 0x4481])


BAD_PROFILES = [
    ('decode = "uint16"\naddress = 0\ncount = 2', "count is 2; uint16 needs 1"),
    ('decode = "bcd"\naddress = 0\ncount = 124', "count is 124; bcd needs 1 to 123"),
    ('decode = "bcd"\naddress = 0\ncount = 0', "count is 0"),
    ('decode = "bcd"\naddress = 0\ncount = 1\nbase = 1', "base is 1; expected one of 0, 40001"),
    ('decode = "bcd"\naddress = 1\ncount = 1\nbase = 30001', "base 30001 goes with fc 4"),
    ('decode = "char_pair"\naddress = 0\ncount = 2\norder = "CDAB"', "order CDAB has no meaning"),
    ('decode = "bcd"\naddress = 0\ncount = 2\nwrite_fc = 6', "write_fc 6 writes one register"),
    ('decode = "bcd"\naddress = 0\ncount = 1\ndecimals = 10', "decimals is 10"),
    ('decode = "segments"\naddress = 0\ncount = 1\nsegments = [["7", "B"]]', "segments has '7'"),
    ('decode = "bcd"\naddress = 0\ncount = 1\nticket_pattern = "["', "is no pattern"),
    ('decode = "roman"\naddress = 0\ncount = 1', "Invalid enum value 'roman'"),
    ('decode = "bcd"\naddress = 0\ncount = 1\ncolour = "red"', "unknown field `colour`"),
    ("decode = ", "cannot be read"),
]


@pytest.mark.parametrize(("told", "problem"), BAD_PROFILES)
def test_a_wrong_profile_is_refused_with_the_reason(
    tmp_path: Path, told: str, problem: str
) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(told, "utf-8")

    with pytest.raises(ValueError, match=r"the profile .*ours\.toml") as refused:
        QueueDisplayOptions(1, str(path), port="/dev/ttyS1")
    assert problem in str(refused.value)


def test_addresses_as_printed_in_manuals_need_their_base(tmp_path: Path) -> None:
    def options(address: int, base: int, fc: int = 3) -> QueueDisplayOptions:
        path = tmp_path / "ours.toml"
        path.write_text(
            f'decode = "uint16"\naddress = {address}\ncount = 1\nbase = {base}\nfc = {fc}', "utf-8"
        )
        return QueueDisplayOptions(1, str(path), port="/dev/ttyS1")

    assert options(40001, 40001).first == 0
    assert options(40008, 40001).first == 7
    assert options(30001, 30001, fc=4).first == 0
    assert options(400001, 400001).first == 0
    assert options(9999, 0).first == 9999
    with pytest.raises(ValueError, match="address is 10000 with base 0"):
        options(10000, 0)
    with pytest.raises(ValueError, match="address is 40000; with base 40001 there is no such one"):
        options(40000, 40001)


# Options -------------------------------------------------------------------------------------

PORT: dict[str, Any] = {"port": "/dev/ttyS1"}
HOST: dict[str, Any] = {"host": "127.0.0.1"}


@pytest.mark.parametrize(
    ("given_", "problem"),
    [
        ({}, "either port"),
        (PORT | HOST, "either port"),
        (PORT | {"framing": "tcp"}, "framing is tcp on a serial port"),
        (HOST | {"framing": "rtu"}, "framing is rtu to a host"),
        (HOST | {"tcp_port": 0}, "tcp_port is 0"),
        (PORT | {"unit": 0}, "unit is 0; expected 1 to 247"),
        (PORT | {"unit": 248}, "unit is 248; expected 1 to 247"),
        (PORT | {"baud": 1}, "baud is 1"),
        (PORT | {"format": "8X1"}, "'8X1' is no line format"),
        (PORT | {"timeout_ms": -1}, "timeout_ms is -1"),
        (PORT | {"quiet_ms": 99999}, "quiet_ms is 99999"),
        (PORT | {"every_ms": 10}, "every_ms is 10; expected 50 to 3600000"),
        (PORT | {"ticket_pattern": "("}, "ticket_pattern '('"),
        (PORT | {"profile": "dm37"}, "there is no profile 'dm37'; there are armfly"),
        (PORT | {"profile": "my/dm37.toml"}, "expected a name or an absolute path"),
        (PORT | {"profile": "/nowhere/dm37.toml"}, "cannot be read"),
        (PORT | {"role": "listen", "write": True}, "only listens"),
        (HOST | {"role": "listen"}, "Modbus TCP cannot be overheard"),
        (PORT | {"profile": "embeddedart"}, "cannot be read; expected write = true"),
        (PORT | {"address": 10000}, "address is 10000 with base 0"),
    ],
)
def test_options_that_can_not_work_are_refused(given_: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        QueueDisplayOptions(**({"unit": 5, "profile": "dm36"} | given_))
    assert problem in str(refused.value)


def test_devices_of_one_line_have_one_link() -> None:
    one = QueueDisplayOptions(1, "dm36", port="/dev/ttyS1")
    other = QueueDisplayOptions(2, "dm36", port="/dev/ttyS1", baud=19200)

    assert one.link() == other.link()
    assert QueueDisplayOptions(1, "dm36", host="A").link() == ("a", 502)


def test_what_suits_the_line_is_chosen() -> None:
    serial = QueueDisplayOptions(1, "dm36", port="/dev/ttyS1").line()
    network = QueueDisplayOptions(1, "dm36", host="10.0.0.9").line()

    assert (serial.framing, serial.timeout_ms, serial.quiet_ms) == ("rtu", 300, 300)
    assert (network.framing, network.timeout_ms, network.quiet_ms) == ("tcp", 1000, 1000)


# Joined reads --------------------------------------------------------------------------------


def test_registers_near_each_other_are_read_in_one_go() -> None:
    assert spans([(3, 0, 6), (3, 14, 20)]) == [(3, 0, 20)]
    assert spans([(3, 0, 6), (3, 15, 20)]) == [(3, 0, 6), (3, 15, 20)]
    assert spans([(3, 0, 6), (4, 6, 12)]) == [(3, 0, 6), (4, 6, 12)]
    assert spans([(3, 32, 64), (3, 0, 32)]) == [(3, 0, 64)]
    assert spans([(3, 0, 32), (3, 32, 65)]) == [(3, 0, 32), (3, 32, 65)]
    assert spans([(3, 0, 100)]) == [(3, 0, 100)]


# Looks ---------------------------------------------------------------------------------------


def look(watch: Watch, told: str, at: int) -> list[str]:
    """What is told, briefly; time in ms after nine."""
    text = read_text(CHARS, chars(told))
    brief = []
    for when, body in watch.look(text, NINE + at):
        if isinstance(body, Shown):
            word = f"{body.state}:{body.text}{' baseline' if body.baseline else ''}"
        else:
            assert isinstance(body, QueueEvent)
            word = f"{body.event}:{body.ticket}"
        brief.append(f"{word}@{when - NINE}")
    return brief


def looks(watch: Watch, told: str, start: int = 0, every: int = 500) -> list[str]:
    """``told`` has a text for each look, separated by blanks; ``_`` is blank."""
    brief = []
    for number, one in enumerate(told.split()):
        brief += look(watch, one.replace("_", ""), start + number * every)
    return brief


def test_the_first_look_is_the_baseline_and_no_event() -> None:
    assert looks(Watch("d", "05"), "A037 A037 A037") == ["ticket:A037 baseline@0"]


def test_a_new_ticket_counts_when_two_looks_agree_and_is_dated_to_the_first() -> None:
    told = looks(Watch("d", "05"), "A037 A038 A038 A038")

    assert told[1:] == ["ticket:A038@500", "called:A038@500"]


def test_digits_being_rewritten_are_no_ticket() -> None:
    told = looks(Watch("d", "05"), "A037 A047 A048 A048")

    assert told[1:] == ["ticket:A048@1000", "called:A048@1000"]


def test_one_look_is_enough_where_they_are_rare() -> None:
    told = looks(Watch("d", "05", looks=1), "A037 A038", every=2000)

    assert told[1:] == ["ticket:A038@2000", "called:A038@2000"]


def test_a_ticket_that_goes_dark_for_less_than_five_seconds_blinks() -> None:
    assert looks(Watch("d", "05"), "A037 _ _ A037 A037 _ _ _ A037 A037")[1:] == []
    assert looks(Watch("d", "05"), "A037 _ _ _ _ _ _ _ _ _ A037 A037")[1:] == []


def test_a_call_that_flashes_is_seen() -> None:
    told = looks(Watch("d", "05"), "A037 A038 _ A038 _ A038 A038")

    assert told[1:] == ["ticket:A038@500", "called:A038@500"]


def test_dark_for_longer_is_blank_and_the_ticket_after_it_a_new_call() -> None:
    told = looks(Watch("d", "05"), "A037 " + "_ " * 13 + "A037 A037")

    assert told[1:] == ["blank:@500", "ticket:A037@7000", "called:A037@7000"]


def test_the_next_ticket_after_a_short_blank_is_a_call() -> None:
    assert looks(Watch("d", "05"), "A037 _ _ A038 A038")[1:] == [
        "ticket:A038@1500",
        "called:A038@1500",
    ]


def test_a_ticket_called_again_within_five_seconds_is_a_repeat() -> None:
    told = looks(Watch("d", "05"), "A037 A038 A038 A037 A037")

    assert told[1:] == ["ticket:A038@500", "called:A038@500", "ticket:A037@1500"]


def test_a_ticket_called_back_later_is_a_call() -> None:
    watch = Watch("d", "05")
    looks(watch, "A037 A038 A038")

    assert looks(watch, "A037 A037", start=60_000) == ["ticket:A037@60000", "called:A037@60000"]


def test_a_jump_in_the_numbers_is_no_error() -> None:
    assert looks(Watch("d", "05"), "A037 A099 A099")[-1] == "called:A099@500"


def test_pausing_and_resuming_are_events_and_the_ticket_after_it_no_call() -> None:
    told = looks(Watch("d", "05"), "A037 PAUSE PAUSE PAUSE A037 A037")

    assert told[1:] == [
        "paused:PAUSE@500",
        "window_paused:@500",
        "ticket:A037@2000",
        "window_resumed:@2000",
    ]


def test_another_ticket_after_a_pause_is_a_call() -> None:
    told = looks(Watch("d", "05"), "PAUSE A038 A038")

    assert told == [
        "paused:PAUSE baseline@0",
        "ticket:A038@500",
        "window_resumed:@500",
        "called:A038@500",
    ]


@pytest.mark.parametrize("between", ["888888", "ERR3"])
def test_a_lamp_test_or_rubbish_in_between_is_no_call(between: str) -> None:
    watch = Watch("d", "05")
    looks(watch, f"A037 {between} {between}")

    assert looks(watch, "A037 A037", start=60_000) == ["ticket:A037@60000"]


def test_the_same_text_for_hours_says_nothing() -> None:
    watch = Watch("d", "05")
    looks(watch, "A037")

    assert looks(watch, "A037 " * 100, start=10_000_000) == []


def test_after_an_absence_the_first_look_is_a_baseline_again() -> None:
    watch = Watch("d", "05")
    looks(watch, "A037 A038")
    watch.away()

    assert looks(watch, "A039 A039", start=9000) == ["ticket:A039 baseline@9000"]


def test_after_a_restart_the_known_ticket_is_not_called_again() -> None:
    watch = Watch("d", "05", ticket="A037")

    told = looks(watch, "PAUSE A037 A037")

    assert told == ["paused:PAUSE baseline@0", "ticket:A037@500", "window_resumed:@500"]


def test_the_same_call_has_the_same_id_and_says_how_sure_it_is() -> None:
    def called(device: str) -> QueueEvent:
        watch = Watch(device, "05")
        watch.uncertainty = 500
        watch.look(read_text(CHARS, chars("A037")), NINE)
        watch.look(read_text(CHARS, chars("A038")), NINE + 500)
        (_, (at, body)) = watch.look(read_text(CHARS, chars("A038")), NINE + 1000)
        assert isinstance(body, QueueEvent)
        assert at == NINE + 500
        return body

    assert called("d") == called("d")
    assert called("d").event_id != called("e").event_id
    assert (called("d").source, called("d").uncertainty, called("d").window) == (
        "display",
        500,
        "05",
    )
    assert called("d").call_no is None, "displays cannot count recalls"


def test_a_board_of_ours_tells_what_it_shows_but_no_calls() -> None:
    assert looks(Watch("d", "05", source=""), "A037 A038 A038 PAUSE PAUSE")[1:] == [
        "ticket:A038@500",
        "paused:PAUSE@1500",
    ]


WORDS = st.sampled_from(["A037", "A038", "", "----", "PAUSE", "888888", "ERR3"])


@given(st.lists(st.tuples(WORDS, st.integers(0, 9000)), max_size=60))
def test_no_text_is_told_twice_in_a_row_and_time_never_runs_back(
    seen: list[tuple[str, int]],
) -> None:
    watch, at, last, dated = Watch("d", "05"), NINE, None, 0
    for told, pause in seen:
        at += pause
        for when, body in watch.look(read_text(CHARS, chars(told)), at):
            assert dated <= when <= at
            dated = when
            if isinstance(body, Shown):
                assert (body.text, body.state) != last
                last = body.text, body.state


# Orders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "show", "text"),
    [
        (CHARS, Show(("请A037号到05号窗口",), "05", "A037", "calling"), ("A037", 0)),
        (CHARS, Show((), "05", "A037", "serving"), ("A037", 0)),
        (CHARS, Show((), "05", "A037", "idle"), ("", 0)),
        (CHARS, Show((), "05", "A037", "closed"), ("", 0)),
        (CHARS, Show((), "05", "A037", "paused"), ("PAUSE", 0)),
        (CHARS, Show((), "05", "AB123456", "calling"), ("123456", 2)),
        (load_profile("dm36_number"), Show((), "05", "A037", "calling"), ("A037", 0)),
        (load_profile("embeddedart"), Show(("请A037",), "05", "A037", "calling"), ("请A037", 0)),
        (load_profile("embeddedart"), Show(("请" * 20,)), ("请" * 20, 8)),
        (load_profile("embeddedart"), Show(()), ("", 0)),
    ],
)
def test_an_order_becomes_a_text(profile: Profile, show: Show, text: tuple[str, int]) -> None:
    assert shown_text(profile, show) == text
    registers = encode_registers(profile.decode, text[0], profile.count)
    assert len(registers) == profile.count


# A capture -----------------------------------------------------------------------------------

STREAM = bytes.fromhex(
    "00 FF 05 03 00 00 00 02 C5 8F 05 03 04 41 30 33 37 FE E6"
    "01 06 00 00 00 32 08 1F 01 06 00 00 00 32 08 1F"
)


def test_a_capture_is_told_as_readings() -> None:
    readings = list(decode(STREAM, SHANGHAI))

    assert {reading.device for reading in readings} == {"capture"}
    assert [reading.body for reading in readings] == [
        Shown("5", "A037", "ticket"),
        Shown("1", "0032", "unknown"),
        Unreadable("2 bytes that belong to no frame"),
    ]


def test_a_capture_of_writes_and_refusals() -> None:
    data = bytes.fromhex(
        "01 10 00 00 00 04 08 00 41 00 30 00 33 00 37 16 A3 01 10 00 00 00 04 C1 CA"
        "01 10 00 06 00 02 04 13 00 30 39 A3 13"
        "05 03 00 00 00 02 C5 8F 05 83 02 81 30"
    )

    bodies = [reading.body for reading in decode(data, SHANGHAI)]

    assert bodies[:2] == [
        Shown("1", "A037", "ticket"),
        Shown("1", "1300 3039", "unknown", confirmed=False),
    ]
    assert isinstance(bodies[2], DeviceInfo)
    assert bodies[2].facts["int32 ABCD"] == str(0x13003039)
    assert bodies[2].facts["int32 DCBA"] == str(0x39300013)
    assert bodies[3] == DeviceEvent("refused", 2, "exception 02 to function 03")


def test_two_registers_that_are_no_text_are_told_in_all_four_orders() -> None:
    data = bytes.fromhex("05 03 00 00 00 02 C5 8F 05 03 04 44 81 A0 00")
    data += b"\x00\x00"
    crc = encode_crc(data[8:15])
    data = data[:15] + crc

    shown, info = (reading.body for reading in decode(data, SHANGHAI))

    assert shown == Shown("5", "4481 A000", "unknown")
    assert isinstance(info, DeviceInfo)
    assert info.facts["float32 ABCD"] == "1037"
    assert {f"float32 {order}" for order in ("CDAB", "BADC", "DCBA")} <= set(info.facts)


def encode_crc(data: bytes) -> bytes:
    """Bit by bit, as the specification has it."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


@given(st.binary(max_size=600))
def test_any_bytes_are_a_capture(data: bytes) -> None:
    for reading in decode(data, SHANGHAI):
        assert reading.device == "capture"
