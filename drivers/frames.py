"""Serial frames described as data: one TOML file, a *profile*, for each family of devices.

    key of [frame]   value
    mode             binary      start, fields in order, checksum, end
                     payload     ``shapes``: fixed first bytes and so many data bytes, no frame
                     ascii_line  everything up to ``end``
                     keybyte     each byte that is a key of the scale; nothing around it
    start, end       hexadecimal, may be empty
    start_repeat     {min, max}: how often the start stands at the beginning
    fields           list of {name, role, size, const, endian, min, max}; the size is a number or an
                     earlier length field plus or minus a number, such as "len1-2"
                     roles: length length_copy const address command data seq checksum end
    length_covers    fields whose bytes the length counts
    checksum         {algo, over = [fields], init, poly, endian}; ``CHECKSUMS`` has the algorithms
    escape           {pairs = [{from, to}], fields}: ``from``, one byte, is sent as ``to``
    shapes           list of {start, size, min, max}: the first that fits is taken; min and max
                     bound each data byte
    max_frame        most bytes of a frame as sent, default 64
    inter_byte_ms    a longer gap ends a frame that has begun, default 200

``[transport]`` holds kind, baud, format, topology.

``[[match]]`` tells what a frame means, the first that fits: ``when`` compares fields by name,
``data_last``, ``data_size``; ``emit`` is one of ``EMITS``; ``value`` is ``data`` or ``data[N]`` for
a rating, a word for a staff key.

``[actions]`` are frames to send: values of fields in hexadecimal, with ``{name}`` for what is put
in; ``copy = true`` for the frame that came; or ``parts`` of a payload.

``[scale]`` maps keys (hexadecimal) to a level 1 to 5 or "none"; "unset" has to be set by whoever
installs the device.  ``timeout`` names the keys a device sends by itself when nobody pressed.

Everything here is a pure function over bytes, but for ``load_profile``, which reads a file.
"""

from __future__ import annotations

import binascii
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from drivers.base import BadFrame

# --------------------------------------------------------------------------------------------
# Checksums
# --------------------------------------------------------------------------------------------


def sum8(data: bytes, init: int = 0) -> int:
    return (init + sum(data)) & 0xFF


def sum8neg(data: bytes, init: int = 0) -> int:
    """Two's complement of the sum: data and checksum add up to 0 (the LRC of Modbus ASCII)."""
    return -(init + sum(data)) & 0xFF


def sum16(data: bytes, init: int = 0) -> int:
    return (init + sum(data)) & 0xFFFF


def xor8(data: bytes, init: int = 0) -> int:
    for byte in data:
        init ^= byte
    return init


def crc8(data: bytes, init: int = 0, poly: int = 0x07) -> int:
    for byte in data:
        init ^= byte
        for _ in range(8):
            init = (init << 1) ^ (poly if init & 0x80 else 0)
            init &= 0xFF
    return init


def _crc16_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_A001 = _crc16_table()


def crc16_arc(data: bytes, init: int = 0) -> int:
    for byte in data:
        init = (init >> 8) ^ _A001[(init ^ byte) & 0xFF]
    return init


def crc16_modbus(data: bytes, init: int = 0xFFFF) -> int:
    return crc16_arc(data, init)


def crc16_xmodem(data: bytes, init: int = 0) -> int:
    return binascii.crc_hqx(data, init)


CHECKSUMS: Mapping[str, Callable[..., int]] = {
    "sum8": sum8,
    "sum8neg": sum8neg,
    "xor8": xor8,
    "sum16be": sum16,
    "sum16le": sum16,
    "crc8": crc8,
    "crc16_modbus": crc16_modbus,
    "crc16_arc": crc16_arc,
    "crc16_xmodem": crc16_xmodem,
}
"""Each takes the bytes and, if need be, ``init``; ``crc8`` also ``poly``.  The order of the two
bytes of a 16-bit checksum is the field's affair."""

# --------------------------------------------------------------------------------------------
# Profiles
# --------------------------------------------------------------------------------------------

EMITS = ("rating", "staff_key", "heartbeat", "ack", "refused", "ignore")
"""What a frame may mean.  ``refused``: the device declined what it was asked for."""

PROFILES = Path(__file__).with_name("profiles")

Level = int | Literal["none", "unset"]


class _Text(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Transport(_Text, frozen=True):
    kind: Literal["serial"] = "serial"
    baud: int = 9600
    format: str = "8N1"
    topology: Literal["point-to-point", "rs485-multidrop"] = "point-to-point"


class _FieldText(_Text, frozen=True):
    name: str
    role: Literal[
        "length", "length_copy", "const", "address", "command", "data", "seq", "checksum", "end"
    ]
    size: int | str = 1
    const: str = ""
    endian: Literal["big", "little"] = "big"
    min: int = 0
    max: int | None = None


class _ChecksumText(_Text, frozen=True):
    algo: str
    over: list[str] = []
    init: int | None = None
    poly: int | None = None
    endian: Literal["big", "little"] | None = None


class _PairText(_Text, frozen=True, rename={"plain": "from", "sent": "to"}):
    plain: str
    sent: str


class _EscapeText(_Text, frozen=True):
    pairs: list[_PairText]
    fields: list[str]


class _RepeatText(_Text, frozen=True):
    min: int
    max: int


class _ShapeText(_Text, frozen=True):
    start: str
    size: int = 0
    min: str = "00"
    max: str = "FF"


class _FrameText(_Text, frozen=True):
    mode: Literal["binary", "payload", "ascii_line", "keybyte"]
    start: str = ""
    start_repeat: _RepeatText | None = None
    fields: list[_FieldText] = []
    length_covers: list[str] = []
    checksum: _ChecksumText | None = None
    end: str = ""
    escape: _EscapeText | None = None
    shapes: list[_ShapeText] = []
    max_frame: int = 64
    inter_byte_ms: int = 200


class _MatchText(_Text, frozen=True):
    emit: Literal["rating", "staff_key", "heartbeat", "ack", "refused", "ignore"]
    when: dict[str, str | int] = {}
    value: str = ""


class _PartText(_Text, frozen=True):
    """One of: ``ascii`` as it is; ``text`` in UTF-8 with its length in bytes before it, as
    ``length`` decimal digits or, with ``binary``, one byte; ``number`` in ``digits`` decimal digits
    or, with ``binary``, one byte.  ``default`` stands where no value is given."""

    ascii: str = ""
    text: str = ""
    length: int = 0
    number: str = ""
    digits: int = 0
    binary: bool = False
    default: str | int = ""


class _ProfileText(_Text, frozen=True):
    id: str
    transport: Transport = Transport()
    frame: _FrameText | None = None
    match: list[_MatchText] = []
    actions: dict[str, dict[str, Any]] = {}
    scale: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    role: str
    size: int
    """Bytes; where ``size_of`` names a length field, what is added to its value."""
    size_of: str
    const: bytes
    endian: Literal["big", "little"]
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Checksum:
    algo: str
    over: tuple[str, ...]
    options: Mapping[str, int]

    def of(self, values: Mapping[str, bytes]) -> int:
        data = b"".join(values[name] for name in self.over)
        return CHECKSUMS[self.algo](data, **self.options)


@dataclass(frozen=True, slots=True)
class Shape:
    start: bytes
    size: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Rule:
    emit: str
    fields: Mapping[str, bytes]
    data_last: int | None
    data_size: int | None
    value: str


@dataclass(frozen=True, slots=True)
class Action:
    copy: bool
    fields: Mapping[str, str]
    parts: tuple[_PartText, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """``timeout``: keys the device sends when nobody pressed; they never have a level."""

    id: str = ""
    levels: Mapping[bytes, Level] = field(default_factory=dict)
    timeout: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Profile:
    """A family of devices, ready for use.  ``mode`` is empty where only the scale is known."""

    id: str
    transport: Transport
    mode: str = ""
    start: bytes = b""
    repeats: tuple[int, int] = (1, 1)
    fields: tuple[Field, ...] = ()
    length_covers: tuple[str, ...] = ()
    checksum: Checksum | None = None
    end: bytes = b""
    escapes: Mapping[int, bytes] = field(default_factory=dict)
    escaped: frozenset[str] = frozenset()
    shapes: tuple[Shape, ...] = ()
    max_frame: int = 64
    inter_byte_ms: int = 200
    rules: tuple[Rule, ...] = ()
    actions: Mapping[str, Action] = field(default_factory=dict)
    scale: Scale = Scale()

    @property
    def multidrop(self) -> bool:
        return self.transport.topology == "rs485-multidrop"


def shipped_profiles() -> tuple[str, ...]:
    """The names of the profiles that come with hallwatch."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.toml")))


def load_profile(told: str) -> Profile:
    """The shipped profile of that name, or the one in the file ``told``, a path ending in .toml.

    Raises ``ValueError`` with a sentence when there is none, or when it makes no sense.
    """
    if told in shipped_profiles():
        return _shipped(told)
    if not told.endswith(".toml"):
        raise ValueError(
            f"there is no profile {told!r}; expected the path of a .toml file or one of"
            f" {', '.join(shipped_profiles())}"
        )
    try:
        text = Path(told).read_text("utf-8")
    except OSError as error:
        raise ValueError(f"the profile {told} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the profile {told} is no UTF-8 text") from None
    return read_profile(text, told)


@cache
def _shipped(name: str) -> Profile:
    return read_profile((PROFILES / f"{name}.toml").read_text("utf-8"), name)


def read_profile(text: str, place: str = "profile") -> Profile:
    """A profile from TOML text; ``ValueError`` names ``place``, what is wrong and what was
    expected."""
    try:
        told = msgspec.convert(tomllib.loads(text), _ProfileText)
        return _profile(told)
    except (ValueError, KeyError) as error:
        # msgspec's and tomllib's own errors are ValueErrors.
        raise ValueError(f"{place}: {error}") from None


def _profile(told: _ProfileText) -> Profile:
    scale = _scale(told.scale)
    if told.frame is None:
        return Profile(told.id, told.transport, scale=scale)
    frame = told.frame
    if not 1 <= frame.max_frame <= 8192:
        raise ValueError(f"frame.max_frame is {frame.max_frame}; expected 1 to 8192")
    if frame.inter_byte_ms < 1:
        raise ValueError(f"frame.inter_byte_ms is {frame.inter_byte_ms}; expected 1 or more")
    fields = _fields(frame)
    if frame.mode == "binary" and not fields:
        raise ValueError("frame.fields is empty; a binary frame needs some")
    if frame.mode == "payload" and not frame.shapes:
        raise ValueError("frame.shapes is empty; payloads without a frame need some")
    if frame.mode == "ascii_line" and not frame.end:
        raise ValueError("frame.end is empty; a line needs one")
    repeats = (1, 1)
    if frame.start_repeat is not None:
        repeats = frame.start_repeat.min, frame.start_repeat.max
        if not 1 <= repeats[0] <= repeats[1] or not frame.start:
            raise ValueError("frame.start_repeat: expected a start, and 1 <= min <= max")
    names = {one.name for one in fields} or {"command", "data"}
    escape = frame.escape or _EscapeText([], [])
    return Profile(
        id=told.id,
        transport=told.transport,
        mode=frame.mode,
        start=_hex(frame.start, "frame.start"),
        repeats=repeats,
        fields=fields,
        length_covers=_known(frame.length_covers, names, "frame.length_covers"),
        checksum=_checksum(frame.checksum, fields),
        end=_hex(frame.end, "frame.end") if frame.mode == "ascii_line" else b"",
        escapes={_byte(one.plain): _hex(one.sent, "frame.escape.to") for one in escape.pairs},
        escaped=frozenset(_known(escape.fields, names, "frame.escape.fields")),
        shapes=tuple(
            Shape(_hex(one.start, "frame.shapes.start"), one.size, _byte(one.min), _byte(one.max))
            for one in frame.shapes
        ),
        max_frame=frame.max_frame,
        inter_byte_ms=frame.inter_byte_ms,
        rules=tuple(_rule(one, names, f"match[{n}]") for n, one in enumerate(told.match)),
        actions={name: _action(one, names, name) for name, one in told.actions.items()},
        scale=scale,
    )


_VALUE = re.compile(r"data\[(\d{1,3})\]")
_SIZE = re.compile(r"(\w+?)\s*(?:([+-])\s*(\d+))?")


def _fields(frame: _FrameText) -> tuple[Field, ...]:
    if frame.mode != "binary":
        return ()
    fields: list[Field] = []
    seen: dict[str, Field] = {}
    for told in frame.fields:
        place = f"frame.fields.{told.name}"
        if told.name in seen:
            raise ValueError(f"{place} stands there twice")
        const = _hex(told.const, f"{place}.const")
        size, size_of = 0, ""
        if isinstance(told.size, int):
            size = len(const) or told.size
            if size < 1:
                raise ValueError(f"{place}.size is {size}; expected 1 or more")
        else:
            parsed = _SIZE.fullmatch(told.size)
            size_of = parsed[1] if parsed else ""
            if parsed is None or size_of not in seen or seen[size_of].role != "length":
                raise ValueError(
                    f"{place}.size is {told.size!r}; expected a number, or an earlier length field"
                    " such as len-2"
                )
            size = int(f"{parsed[2]}{parsed[3]}") if parsed[2] else 0
            if covered := [name for name in frame.length_covers if name != told.name]:
                rest = sum(_size_told(one) for one in frame.fields if one.name in covered)
                if told.name not in frame.length_covers or rest != -size:
                    raise ValueError(
                        f"{place}.size is {told.size!r}; that does not fit frame.length_covers"
                    )
        if told.role in ("const", "end") and not const:
            raise ValueError(f"{place}: a field with the role {told.role} needs const")
        if told.role == "length_copy" and not any(one.role == "length" for one in fields):
            raise ValueError(f"{place}: there is no length before its copy")
        most = told.max if told.max is not None else frame.max_frame
        one = Field(told.name, told.role, size, size_of, const, told.endian, told.min, most)
        fields.append(one)
        seen[told.name] = one
    if frame.end:
        end = _hex(frame.end, "frame.end")
        fields.append(Field("end", "end", len(end), "", end, "big", 0, 0))
    return tuple(fields)


def _size_told(told: _FieldText) -> int:
    return told.size if isinstance(told.size, int) else 0


def _checksum(told: _ChecksumText | None, fields: tuple[Field, ...]) -> Checksum | None:
    holder = next((one for one in fields if one.role == "checksum"), None)
    if told is None or told.algo == "none":
        if holder is not None:
            raise ValueError(f"frame.checksum is missing; the field {holder.name} holds one")
        return None
    if told.algo not in CHECKSUMS:
        raise ValueError(
            f"frame.checksum.algo is {told.algo!r}; expected one of {', '.join(CHECKSUMS)}"
        )
    if holder is None:
        raise ValueError("frame.checksum is there, but no field with the role checksum")
    wanted = 2 if "16" in told.algo else 1
    if holder.size != wanted:
        raise ValueError(f"frame.fields.{holder.name}.size: {told.algo} has {wanted} bytes")
    order = told.endian or {"be": "big", "le": "little"}.get(told.algo[-2:], holder.endian)
    if order != holder.endian:
        raise ValueError(f"frame.fields.{holder.name}.endian: the checksum's is {order}")
    options = {"init": told.init, "poly": told.poly}
    return Checksum(
        told.algo,
        _known(told.over, {one.name for one in fields}, "frame.checksum.over"),
        {name: value for name, value in options.items() if value is not None},
    )


def _rule(told: _MatchText, names: set[str], place: str) -> Rule:
    fields: dict[str, bytes] = {}
    last = size = None
    for key, value in told.when.items():
        if key == "data_size" and isinstance(value, int):
            size = value
        elif key == "data_last" and isinstance(value, str):
            last = _byte(value)
        elif key in names and isinstance(value, str):
            fields[key] = _hex(value, f"{place}.when.{key}")
        else:
            raise ValueError(
                f"{place}.when.{key}: expected data_size with a number, or data_last or one of"
                f" {', '.join(sorted(names))} with hexadecimal"
            )
    of_data = told.value == "data" or _VALUE.fullmatch(told.value) is not None
    if told.emit == "rating" and not of_data:
        raise ValueError(f"{place}.value is {told.value!r}; expected data or data[N] for a rating")
    if told.emit == "staff_key" and (of_data or not told.value.isidentifier()):
        raise ValueError(f"{place}.value is {told.value!r}; expected a word for a staff key")
    return Rule(told.emit, fields, last, size, told.value)


def _action(told: Mapping[str, Any], names: set[str], name: str) -> Action:
    if "parts" in told:
        return Action(False, {}, tuple(msgspec.convert(told["parts"], list[_PartText])))
    if told.get("copy") is True:
        return Action(True, {}, ())
    for key, value in told.items():
        if key not in names or not isinstance(value, str):
            raise ValueError(
                f"actions.{name}.{key}: expected copy, parts, or hexadecimal for one of"
                f" {', '.join(sorted(names))}"
            )
        _hex(_PLACE.sub("", value), f"actions.{name}.{key}")
    return Action(False, dict(told), ())


def _scale(told: Mapping[str, Any]) -> Scale:
    levels = {key: value for key, value in told.items() if key not in ("id", "timeout")}
    timeout = told.get("timeout", [])
    if not isinstance(timeout, list):
        raise ValueError("scale.timeout: expected a list of keys")
    return Scale(
        str(told.get("id", "")),
        {_hex(key, "scale"): _level(key, value) for key, value in levels.items()},
        frozenset(_hex(str(key), "scale.timeout") for key in timeout),
    )


def _level(key: str, value: object) -> Level:
    if value == "none":
        return "none"
    if value == "unset":
        return "unset"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 5:
        return value
    raise ValueError(f'the key {key} has the level {value!r}; expected 1 to 5 or "none"')


def with_scale(profile: Profile, levels: Mapping[str, int | str], scale_id: str = "") -> Profile:
    """The profile with these levels instead of its own (none: its own), ready for use.

    Raises ``ValueError`` for a map that would tell wrong levels: a key of the device without one, a
    level outside 1 to 5, five keys or more of which two have the same, or a level for the code that
    the device sends when nobody pressed.
    """
    own = profile.scale
    scale = replace(own, id=scale_id or own.id)
    if levels:
        told = {_hex(key, "scale"): _level(key, value) for key, value in levels.items()}
        scale = replace(scale, levels=told)
    missing = [key for key in (*own.levels, *own.timeout) if key not in scale.levels]
    unset = [key for key, level in scale.levels.items() if level == "unset"]
    if missing or unset or not scale.levels:
        keys = ", ".join(key.hex().upper() for key in (missing or unset)) or "any key"
        raise ValueError(
            f"the scale does not say what {keys} of the profile {profile.id} means; expected a"
            ' level 1 to 5 (5 is 非常满意), or "none", for each, by the words printed on the keys'
        )
    for key in sorted(own.timeout):
        if scale.levels[key] != "none":
            raise ValueError(
                f"the scale gives {key.hex().upper()} a level, but that is what the device sends"
                ' when nobody pressed; expected "none"'
            )
    given = [level for level in scale.levels.values() if level != "none"]
    if len(given) >= 5 and len(set(given)) < len(given):
        raise ValueError("two keys of the scale have the same level; expected a level of its own")
    if not scale.id:
        raise ValueError("the scale has no name; expected scale_id, such as five or three")
    return replace(profile, scale=scale)


def _hex(told: str, place: str) -> bytes:
    try:
        return bytes.fromhex(told)
    except ValueError:
        raise ValueError(f"{place} is {told!r}; expected hexadecimal such as FF68") from None


def _byte(told: str) -> int:
    value = _hex(told, "one byte")
    if len(value) != 1:
        raise ValueError(f"{told!r} is not one byte; expected two hexadecimal digits")
    return value[0]


def _known(told: list[str], names: set[str], place: str) -> tuple[str, ...]:
    for name in told:
        if name not in names:
            raise ValueError(f"{place} names {name!r}; there are {', '.join(sorted(names))}")
    return tuple(told)


# --------------------------------------------------------------------------------------------
# Bytes to frames
# --------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One whole frame.  ``values`` are its fields by name, unescaped; a frame of a profile without
    fields has ``command`` and ``data``."""

    raw: bytes
    values: Mapping[str, bytes]
    address: int | None
    data: bytes


class Dropped(NamedTuple):
    """Bytes in a row that are no part of a frame; ``reason`` is what was wrong with the first frame
    that began among them, or ``noise``.  ``checksums``: how many wrong checksums there were."""

    raw: bytes
    reason: str
    checksums: int


class Split(NamedTuple):
    """``frames``, ``dropped`` and ``rest`` together are the bytes that were given, each once.
    ``rest`` may yet become a frame; it is shorter than ``max_frame``."""

    frames: tuple[Frame, ...]
    rest: bytes
    dropped: tuple[Dropped, ...]


class Meaning(NamedTuple):
    """What a frame says: ``emit`` is one of ``EMITS``, ``value`` the bytes that the rule names,
    ``word`` the word where it names none."""

    emit: str
    value: bytes
    word: str


NOISE = "noise"
_WRONG_SUM = "the checksum is "


def split(profile: Profile, buffer: bytes, stalled: bool = False) -> Split:
    """The frames in these bytes.

    ``stalled``: nothing more will come (the line was silent for ``inter_byte_ms``), so that a frame
    that has begun is given up, and nothing is left.  A frame that breaks a rule costs its first
    byte only: a good one may begin within it.
    """
    frames: list[Frame] = []
    dropped: list[Dropped] = []
    at = began = checksums = 0
    reason = NOISE

    def close() -> None:
        nonlocal checksums, reason
        if began < at:
            dropped.append(Dropped(buffer[began:at], reason, checksums))
        checksums, reason = 0, NOISE

    while at < len(buffer):
        found = _frame_at(profile, buffer, at, stalled)
        if isinstance(found, Frame):
            close()
            frames.append(found)
            at = began = at + len(found.raw)
            continue
        if found is None:
            break
        if reason == NOISE:
            reason = found
        checksums += found.startswith(_WRONG_SUM)
        at += 1
    close()
    return Split(tuple(frames), buffer[at:], tuple(dropped))


def _frame_at(profile: Profile, buffer: bytes, at: int, stalled: bool) -> Frame | str | None:
    """The frame that begins there, or why there is none, or none while it may still become one."""
    if profile.mode == "keybyte":
        key = buffer[at : at + 1]
        return Frame(key, {"data": key}, None, key) if key in profile.scale.levels else NOISE
    if profile.mode == "payload":
        return _payload_at(profile, buffer, at, stalled)
    if profile.mode == "ascii_line":
        found = _line_at(profile, buffer, at)
    else:
        found = _binary_at(profile, buffer, at)
    if found is None and stalled:
        return f"the frame ends after {len(buffer) - at} bytes"
    return found


def _payload_at(profile: Profile, buffer: bytes, at: int, stalled: bool) -> Frame | str | None:
    for shape in profile.shapes:
        ends = at + len(shape.start) + shape.size
        raw = buffer[at:ends]
        data = raw[len(shape.start) :]
        if not shape.start.startswith(raw[: len(shape.start)]) or not all(
            shape.least <= byte <= shape.most for byte in data
        ):
            continue
        if len(buffer) >= ends:
            return Frame(raw, {"command": shape.start, "data": data}, None, data)
        if not stalled:
            return None
    return NOISE


def _line_at(profile: Profile, buffer: bytes, at: int) -> Frame | str | None:
    start = profile.start
    if not start.startswith(buffer[at : at + len(start)]):
        return NOISE
    text = at + len(start)
    ends = buffer.find(profile.end, text, at + profile.max_frame)
    if ends < 0:
        if len(buffer) - at >= profile.max_frame:
            return f"the line has no end within {profile.max_frame} bytes"
        return None
    data = buffer[text:ends]
    return Frame(buffer[at : ends + len(profile.end)], {"data": data}, None, data)


def _binary_at(profile: Profile, buffer: bytes, at: int) -> Frame | str | None:
    cursor = _after_start(profile, buffer, at)
    if cursor is None or isinstance(cursor, str):
        return cursor
    values: dict[str, bytes] = {}
    length = b""
    for one in profile.fields:
        size = one.size
        if one.size_of:
            size += int.from_bytes(values[one.size_of], _order(profile, one.size_of))
            if size < 0:
                return f"the length leaves {size} bytes for {one.name}"
        value, cursor = _take(profile, one, buffer, cursor, size)
        if value is None:
            return f"an escape in {one.name} is wrong"
        if not one.const.startswith(value[: len(one.const)]):
            return f"{one.name} is {value.hex(' ').upper()}, expected {one.const.hex(' ').upper()}"
        lacking = size - len(value)
        if cursor + lacking - at > profile.max_frame:
            return f"the frame is longer than {profile.max_frame} bytes"
        if lacking:
            return None
        values[one.name] = value
        if one.role == "length":
            length = value
            number = int.from_bytes(value, one.endian)
            if not one.least <= number <= one.most:
                return f"{one.name} is {number}, expected {one.least} to {one.most}"
        elif one.role == "length_copy" and value != length:
            return f"{one.name} is {value.hex().upper()}, expected {length.hex().upper()} again"
    return _checked(profile, buffer[at:cursor], values)


def _checked(profile: Profile, raw: bytes, values: dict[str, bytes]) -> Frame | str:
    address: int | None = None
    data = b""
    for one in profile.fields:
        value = values[one.name]
        if one.role == "address":
            address = int.from_bytes(value, one.endian)
        elif one.role == "data":
            data += value
        elif one.role == "checksum" and profile.checksum is not None:
            expected = profile.checksum.of(values).to_bytes(one.size, one.endian)
            if value != expected:
                return f"{_WRONG_SUM}{value.hex().upper()}, expected {expected.hex().upper()}"
    return Frame(raw, values, address, data)


def _after_start(profile: Profile, buffer: bytes, at: int) -> int | str | None:
    """Where the fields begin."""
    start = profile.start
    if not start:
        return at
    least, most = profile.repeats
    for copies in range(most):
        piece = buffer[at : at + len(start)]
        if piece == start:
            at += len(start)
        elif copies >= least and piece:
            return at
        elif start.startswith(piece):
            return None
        else:
            return NOISE
    return at


def _order(profile: Profile, name: str) -> Literal["big", "little"]:
    return next(one.endian for one in profile.fields if one.name == name)


def _take(
    profile: Profile, one: Field, buffer: bytes, at: int, size: int
) -> tuple[bytes | None, int]:
    """Up to ``size`` bytes of a field and where they end; none for an escape that is none."""
    if one.name not in profile.escaped:
        value = buffer[at : at + size]
        return value, at + len(value)
    taken = bytearray()
    while len(taken) < size and at < len(buffer):
        for plain, sent in profile.escapes.items():
            piece = buffer[at : at + len(sent)]
            if piece == sent:
                taken.append(plain)
                at += len(sent)
                break
            if sent.startswith(piece) and at + len(piece) == len(buffer):
                return bytes(taken), at
        else:
            byte = buffer[at]
            if byte in profile.escapes or any(byte == sent[0] for sent in profile.escapes.values()):
                return None, at
            taken.append(byte)
            at += 1
    return bytes(taken), at


def decode(profile: Profile, frame: Frame) -> Meaning | None:
    """What the frame means; none where no rule of the profile fits.  ``BadFrame`` where a rule fits
    and the data it speaks of is not there."""
    for rule in profile.rules:
        if rule.data_size is not None and len(frame.data) != rule.data_size:
            continue
        if rule.data_last is not None and frame.data[-1:] != bytes((rule.data_last,)):
            continue
        if any(frame.values.get(name) != value for name, value in rule.fields.items()):
            continue
        indexed = _VALUE.fullmatch(rule.value)
        if rule.value != "data" and indexed is None:
            return Meaning(rule.emit, b"", rule.value)
        place = int(indexed[1]) if indexed else 0
        if place >= len(frame.data):
            raise BadFrame(
                f"{len(frame.data)} bytes of data, expected at least {place + 1} for {rule.emit}"
            )
        return Meaning(rule.emit, frame.data[place : place + 1] if indexed else frame.data, "")
    return None


# --------------------------------------------------------------------------------------------
# Frames to bytes
# --------------------------------------------------------------------------------------------

_PLACE = re.compile(r"\{(\w+)\}")


def build(profile: Profile, action: str, **values: int | bytes | str) -> bytes:
    """The bytes to send for one of the profile's actions.

    ``values``: ``address``, what the action's ``{name}`` stand for (a number is one byte), the
    ``raw`` frame that came for an action that copies it, texts and numbers of a payload.  Raises
    ``ValueError`` for an action the device does not have, or one that lacks a value.
    """
    if action not in profile.actions:
        raise ValueError(f"the profile {profile.id} has no action {action}")
    told = profile.actions[action]
    if told.copy:
        return _bytes_for(values, "raw", action)
    if told.parts:
        payload = b"".join(_part(part, values, action) for part in told.parts)
        if len(payload) > profile.max_frame:
            raise ValueError(
                f"{action} has {len(payload)} bytes; {profile.id} takes {profile.max_frame}"
            )
        return payload
    return _frame_of(profile, action, told, values)


def _frame_of(
    profile: Profile, action: str, told: Action, values: Mapping[str, int | bytes | str]
) -> bytes:
    parts: dict[str, bytes] = {}
    for one in profile.fields:
        if one.const:
            parts[one.name] = one.const
        elif one.name in told.fields:
            template = told.fields[one.name]
            parts[one.name] = bytes.fromhex(
                _PLACE.sub(lambda found: _bytes_for(values, found[1], action).hex(), template)
            )
        elif one.role == "address":
            parts[one.name] = _bytes_for(values, "address", action, one.size, one.endian)
        elif one.role == "seq":
            parts[one.name] = _bytes_for(values, "seq", action, one.size, one.endian)
        else:
            parts[one.name] = b"" if one.size_of else bytes(one.size)
    length = sum(len(parts[name]) for name in profile.length_covers)
    for one in profile.fields:
        if one.role in ("length", "length_copy"):
            if one.role == "length" and not one.least <= length <= one.most:
                raise ValueError(f"{action}: {one.name} is {length}, at most {one.most}")
            parts[one.name] = length.to_bytes(one.size, one.endian)
    for one in profile.fields:
        if one.role == "checksum" and profile.checksum is not None:
            parts[one.name] = profile.checksum.of(parts).to_bytes(one.size, one.endian)
    frame = profile.start * profile.repeats[1]
    for name, value in parts.items():
        if name in profile.escaped:
            value = b"".join(profile.escapes.get(byte, bytes((byte,))) for byte in value)
        frame += value
    return frame


def _bytes_for(
    values: Mapping[str, int | bytes | str],
    name: str,
    action: str,
    size: int = 1,
    endian: Literal["big", "little"] = "big",
) -> bytes:
    value = values.get(name)
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return value.to_bytes(size, endian)
    raise ValueError(f"{action} needs {name}, as bytes or a number")


def _part(part: _PartText, values: Mapping[str, int | bytes | str], action: str) -> bytes:
    if part.ascii:
        return part.ascii.encode("ascii")
    value = values.get(part.text or part.number, part.default)
    if part.text:
        text = str(value).encode()
        if part.binary:
            # One byte holds the length, so longer texts lose their end, never half a character.
            text = text[:255].decode("utf-8", "ignore").encode()
            return bytes((len(text),)) + text
        most = 10**part.length - 1
        text = text[:most].decode("utf-8", "ignore").encode()
        return f"{len(text):0{part.length}}".encode() + text
    if not isinstance(value, int):
        raise ValueError(f"{action} needs {part.number}, a number")
    if part.binary:
        return bytes((min(value, 255),))
    return f"{min(value, 10**part.digits - 1):0{part.digits}}".encode()
