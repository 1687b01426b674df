"""What the settings of a pad may say, and what is read from a capture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.frames import PROFILES
from drivers.rating_pad import RatingPad, RatingPadOptions, decode, display_digits
from rules.model import DeviceEvent, QueueEvent, Rating, Reading, Unreadable

SHANGHAI = ZoneInfo("Asia/Shanghai")
FOUR: dict[str, int | str] = {"00": 5, "01": 4, "02": 3, "03": 2}


@dataclass
class Box:
    id: str
    options: RatingPadOptions
    window: str = "05"


def options(**told: Any) -> RatingPadOptions:
    return RatingPadOptions(
        **{"port": "/dev/pads", "profile": "caller-ff68", "address": 7, "scale": FOUR, **told}
    )


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"port": ""}, "port is empty; expected one such as"),
        ({"profile": "acme"}, "there is no profile 'acme'; expected the path of a .toml file or"),
        ({"profile": "/nowhere/pad.toml"}, "cannot be read: No such file"),
        ({"profile": "ocx-3key", "address": None}, "has a scale and no frames"),
        ({"baud": -1}, "baud is -1"),
        ({"format": "8X1"}, "'8X1' is no line format"),
        ({"address": None}, "address is missing; devices of caller-ff68 share a bus"),
        ({"address": 256}, "address is 256; expected 0 to 255"),
        ({"profile": "keybyte", "scale": {}}, "address is 7, but devices of keybyte have none"),
        ({"scale": {}}, "the scale does not say what 00, 01, 02, 03"),
        ({"scale": {"00": 5}}, "the scale does not say what 01, 02, 03"),
        ({"scale": {**FOUR, "01": "unset"}}, "the scale does not say what 01"),
        ({"scale": {**FOUR, "01": 7}}, "the key 01 has the level 7; expected 1 to 5"),
        ({"role": "keypad", "scale": {"00": 5}}, "the scale does not say what 01, 02, 03"),
        ({"prompt_seconds": 0}, "prompt_seconds is 0; expected more than 0 seconds"),
        ({"repeat_seconds": -1}, "repeat_seconds is -1; expected more than 0 seconds"),
    ],
)
def test_wrong_options_are_refused_in_words(told: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        options(**told)


def test_a_keypad_needs_no_scale() -> None:
    assert options(role="keypad", scale={}).link() == ("/dev/pads",)


def test_a_profile_of_ones_own_is_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (PROFILES / "keybyte.toml").read_text("utf-8")
    own.write_text(text.replace('"33" = 4', '"41" = 4'), "utf-8")

    assert b"A" in options(profile=str(own), address=None, scale={}).ready().scale.levels


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"address": 7}, "b and a have the same address; a pad and a keypad in one are one device"),
        ({"address": 8, "baud": 19200}, "baud is 19200 for b and 0 for a; expected one for the"),
        ({"address": 8, "format": "8E1"}, "format is '8E1' for b and '' for a"),
        ({"address": 8, "listen_only": True}, "listen_only is True for b and False for a"),
        ({"address": 8, "profile": "sim-aa55", "scale": {}}, "profile is 'sim-aa55' for b"),
    ],
)
def test_devices_that_cannot_share_a_port_are_named(told: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RatingPad([Box("a", options()), Box("b", options(**told))])


def test_two_devices_without_addresses_cannot_share_a_port() -> None:
    keys = options(profile="keybyte", address=None, scale={})

    with pytest.raises(ValueError, match="b and a cannot share a port without addresses"):
        RatingPad([Box("a", keys), Box("b", keys)])


def test_pads_of_one_bus_may_have_scales_of_their_own() -> None:
    three: dict[str, int | str] = {"00": 4, "01": 3, "02": 2, "03": "none"}

    RatingPad([Box("a", options()), Box("b", options(address=8, scale=three, scale_id="three"))])


# A keypad's display ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "ticket", "digits"),
    [
        (None, "037", "0A0A0A 000307"),
        (12, "", "000102 0A0A0A"),
        (0, "A1037", "000000 000307"),
        (1000, "Ａ０３７号.", "090909 000307"),
        (-3, "VIP", "000000 0A0A0A"),
        (None, "7", "0A0A0A 0A0A07"),
    ],
)
def test_six_digits_are_people_waiting_and_the_end_of_the_ticket(
    waiting: int | None, ticket: str, digits: str
) -> None:
    left, right = display_digits(waiting, ticket)

    assert left + right == bytes.fromhex(digits)


# Captures ----------------------------------------------------------------------------------------


def test_a_capture_of_a_bus_is_read_in_order_with_what_was_lost() -> None:
    capture = bytes.fromhex(
        "00 FF"
        "FF 68 03 03 68 07 11 01 19 16"  # pad 7, key 01
        "FF 68 03 03 68 07 01 01 09 16"  # the host's answer
        "FF 68 03 03 68 05 01 0C 12 16"  # keypad 5, call
        "FF 68 03 03 68 05 01 12 18 16"  # pause
        "FF 68 03 03 68 05 01 12 19 16"  # a wrong checksum
        "FF 68 04 04 68 05 01 09 0F 1E 16"  # no known key
        "FF 68 02 02 68 05 11 16 16"  # a rating without a value
        "FF 68 03"
    )
    readings = list(decode(capture, SHANGHAI))

    assert b"".join(reading.raw for reading in readings) == capture
    assert [reading.serial for reading in readings] == ["", "7", "7", "5", "5", "", "5", "5", ""]
    assert {(reading.device, reading.at) for reading in readings} == {("capture", 0)}
    assert [reading.body for reading in readings] == [
        Unreadable("caller-ff68: noise"),
        Rating(
            "pad:capture:2:01",
            scale_id="four-installer",
            raw_key="01",
            origin="unknown",
            problem="unmapped_code",
        ),
        DeviceEvent("ack", detail="caller-ff68"),
        QueueEvent("capture:22:called", "called", source="bus"),
        DeviceEvent("pause", detail="caller-ff68"),
        Unreadable("caller-ff68: the checksum is 19, expected 18"),
        Unreadable("caller-ff68: a frame of unknown meaning"),
        Unreadable("caller-ff68: 0 bytes of data, expected at least 1 for rating"),
        Unreadable("caller-ff68: the frame ends after 3 bytes"),
    ]


@pytest.mark.parametrize(
    ("capture", "profile", "levels"),
    [
        ("AA 55 03 09 11 02 19 AA 55 03 09 11 00 1B", "sim-aa55", [4, None]),
        ("53 45 30 30 53 45 32 30 31 53 45 32 30 34", "bank-ascii", [None, None]),
        ("50 4B 30 30 30 32", "bank-ascii-pj", [4]),
        ("00 00 00 00 05", "bank-ascii-ph", [1]),
        ("33 35 00", "keybyte", [4, 2, None]),
    ],
)
def test_the_profile_of_a_capture_is_the_one_that_leaves_least(
    capture: str, profile: str, levels: list[int | None]
) -> None:
    readings = list(decode(bytes.fromhex(capture), SHANGHAI))
    ratings = [reading.body for reading in readings if isinstance(reading.body, Rating)]

    assert [rating.level for rating in ratings] == levels
    assert {rating.scale_id for rating in ratings} == {
        {
            "sim-aa55": "five",
            "bank-ascii": "bank-installer",
            "bank-ascii-pj": "five",
            "bank-ascii-ph": "five",
            "keybyte": "jtt905",
        }[profile]
    }
    assert not [reading for reading in readings if isinstance(reading.body, Unreadable)]


def test_a_code_for_nobody_pressed_is_shown_as_one() -> None:
    (reading,) = decode(b"\0", SHANGHAI)

    assert isinstance(reading.body, Rating)
    assert (reading.body.level, reading.body.problem) == (None, "timed_out")


def test_a_capture_of_something_else_is_unreadable_and_an_empty_one_is_empty() -> None:
    (reading,) = decode(b"GET / HTTP/1.1\r\n" * 500, SHANGHAI)

    assert reading.body == Unreadable("no frame of any known profile")
    assert len(reading.raw) == 4096
    assert list(decode(b"", SHANGHAI)) == []


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [
                    bytes.fromhex("FF 68 03 03 68 07 11 01 19 16"),
                    bytes.fromhex("FF 68 02 02 68 05 11 16 16"),
                    bytes.fromhex("AA 55 02 09 11 1A"),
                    b"SE201",
                    b"\0\0",
                ]
            ),
        ),
        max_size=8,
    )
)
def test_every_byte_of_any_capture_is_in_some_reading(pieces: list[bytes]) -> None:
    capture = b"".join(pieces)
    readings = list(decode(capture, SHANGHAI))

    assert b"".join(reading.raw for reading in readings) == capture
    assert all(isinstance(reading, Reading) for reading in readings)
