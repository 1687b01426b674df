"""Names, person codes and wall times as terminals write them: for every driver whose device speaks
Chinese and has no time zone."""

from __future__ import annotations

import codecs
import re
from datetime import datetime
from zoneinfo import ZoneInfo

from rules.model import Instant


def decode_name(raw: bytes, encoding: str | None) -> str:
    """The text of a name field: up to the first NUL, without blanks around it.

    ``encoding`` is ``gbk``, ``utf-8``, or ``auto`` (or none) to decide by the bytes.  Never raises:
    what can not be read becomes U+FFFD.  Fields are cut by bytes, so the last character may be
    half; it is left out.
    """
    raw = raw.partition(b"\0")[0]
    if raw.isascii():
        return raw.decode("ascii").strip()
    if encoding in ("gbk", "utf-8"):
        codec = "gb18030" if encoding == "gbk" else "utf-8"
        text = _decoded(raw, codec)
        return (raw.decode(codec, "replace") if text is None else text).strip()

    utf8, gb = _decoded(raw, "utf-8"), _decoded(raw, "gb18030")
    whole = _is_whole(raw, "utf-8"), _is_whole(raw, "gb18030")
    # Many GBK names are valid UTF-8 of some other script (毛毛 reads as ëë), and some UTF-8 names
    # are valid GBK (张三 reads as 寮犱笁).  A Chinese name is Chinese; where both readings are,
    # UTF-8 is by far the less likely accident.
    readings = [
        (text, is_whole and _is_chinese(text), _is_chinese(text), is_whole)
        for text, is_whole in zip((utf8, gb), whole, strict=True)
        if text
    ]
    if not readings:
        return raw.decode("gb18030", "replace").strip()
    return max(readings, key=lambda reading: reading[1:])[0].strip()


def is_citizen_id(code: str) -> bool:
    """An 18-digit citizen ID number by its check digit (ISO 7064 MOD 11-2)."""
    if not re.fullmatch(r"\d{17}[\dXx]", code, re.ASCII):
        return False
    total = sum(int(code[17 - place]) * pow(2, place, 11) for place in range(1, 18))
    return "10X98765432"[total % 11] == code[17].upper()


def wall_instant(
    year: int, month: int, day: int, hour: int, minute: int, second: int, zone: ZoneInfo
) -> Instant:
    """The instant at which clocks in ``zone`` show this; the first of two where they are set back.

    Raises ``ValueError`` for a date or time that does not exist in the calendar.
    """
    wall = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    return int(wall.timestamp()) * 1000


def _decoded(raw: bytes, codec: str) -> str | None:
    """Strictly decoded, except that the last character may be cut off."""
    try:
        return codecs.getincrementaldecoder(codec)("strict").decode(raw, final=False)
    except UnicodeDecodeError:
        return None


def _is_whole(raw: bytes, codec: str) -> bool:
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(text: str) -> bool:
    return all(
        character.isascii()
        or "\u3400" <= character <= "\u9fff"
        or character in "·〇"
        or "\U00020000" <= character <= "\U000323af"
        for character in text
    )
