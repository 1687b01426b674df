"""Ratings and queue events as JSON: what pads and queue systems tell over HTTP and MQTT.

    rating                                        queue event
    rating_id          text (or the caller's key) event_id     text, or made from the rest
    level              1..5, "1".."5" or null     type         one of rules.model.QUEUE_EVENTS
    scale_id           text                       at           RFC 3339 with offset
    raw_key            hexadecimal                window       text or number
    channel            one of CHANNELS            ticket       text or number
    pad_id             text                       to           window or queue of a transfer
    pressed_at         RFC 3339 with offset, null call_no      1 for the first call
    window, person     text or number             waiting      number or null (unknown)
    service_ref        text, ticket or case       queue, service_code, person   text
    session            text                       source       api bus display sniffed
    options            list of text               priority     true or false
    indicator_version  text                       uncertainty  ms either way
    text               free text
    named, defaulted   true or false              both: hall, and any further field, which is
    origin             visitor staff unknown      read by nobody and kept nowhere

Nothing here reads a clock or a file.  Telephone and citizen ID numbers in free text are masked; a
citizen ID number in any other field is left out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unicodedata import category, normalize

import msgspec
from msgspec import Struct

from rules.model import (
    QUEUE_EVENTS,
    QUEUE_SOURCES,
    Instant,
    QueueEvent,
    Rating,
    normal_ticket,
    stable_id,
)

CHANNELS = ("pad", "qr", "kiosk", "sms", "web", "app", "hotline", "paper")
ORIGINS = ("visitor", "staff", "unknown")

SKEW: Instant = 120_000
"""A clock that is further off than this is not believed."""
BATCH_LIMIT = 500
"""Queue events in one message."""
ID_LIMIT = 128
WORD_LIMIT = 64
TEXT_LIMIT = 2_000
OPTIONS_LIMIT = 50

_FIRST: Instant = 1_577_836_800_000
"""2020-01-01: no pad has lived through an earlier moment; a clock without a battery shows one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WINDOWLESS = frozenset({"ticket_taken", "batch_abandoned"})
_TICKETLESS = frozenset(
    {"window_paused", "window_resumed", "window_opened", "window_closed", "window_login"}
    | {"window_logout", "batch_abandoned"}
)


class FieldError(Struct, frozen=True):
    """``field`` is empty where the body as a whole is wrong."""

    field: str
    detail: str


class BadBody(ValueError):
    """What is wrong with a body, every field at once."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(
            "; ".join(f"{one.field}: {one.detail}" if one.field else one.detail for one in errors)
        )
        self.errors = errors


# --------------------------------------------------------------------------------------------
# Scales
# --------------------------------------------------------------------------------------------


class Scale(Struct, frozen=True):
    """What a pad's keys mean.  With a ``table`` the pad tells its own codes (``raw_key``, or else
    ``level`` as it counts): an unlisted one is kept without a level.  Without, it tells levels, and
    only ``levels`` exist."""

    id: str
    levels: tuple[int, ...] = (5, 4, 3, 2, 1)
    table: Mapping[str, int | None] | None = None


SCALES = {
    scale.id: scale
    for scale in (
        Scale("five"),
        # 非常满意 满意 基本满意 不满意
        Scale("four", (5, 4, 3, 2)),
        # 满意 基本满意 不满意: a key that just says 满意 is 4
        Scale("three", (4, 3, 2)),
        # Three keys behind an ActiveX control: 1 very satisfied, 2 average, 3 very dissatisfied,
        # 5 nobody pressed
        Scale("sle300", (5, 3, 1), {"1": 5, "2": 3, "3": 1, "5": None}),
        # Taxi terminals: 0 none, 1 satisfied, 2 average, 3 dissatisfied, 4 complaint
        Scale("jtt905", (4, 3, 2, 1), {"0": None, "1": 4, "2": 3, "3": 2, "4": 1}),
    )
}


def _code(key: str) -> str:
    """01 and 1 are one key."""
    return key.upper().lstrip("0") or "0"


def scale_of(scale_id: str, table: Mapping[str, int | str]) -> Scale:
    """The scale of that id, or the one that ``table`` describes: the pad's codes, each with a level
    or ``none``.  Raises ``ValueError`` with a sentence."""
    if not table:
        if scale_id in SCALES:
            return SCALES[scale_id]
        raise ValueError(
            f"scale_id {scale_id!r}: expected one of {', '.join(SCALES)},"
            " or a scale that says what each key means"
        )
    if not scale_id or scale_id in SCALES:
        raise ValueError(f"scale needs a scale_id of its own; {scale_id!r} means another scale")
    levels: dict[str, int | None] = {}
    for key, level in table.items():
        if not re.fullmatch(r"[0-9A-Fa-f]{1,32}", key):
            raise ValueError(f"scale: key {key!r}: expected the pad's code in hexadecimal digits")
        code = _code(key)
        if code in levels:
            raise ValueError(f"scale: key {key} is there twice")
        if level == "none":
            levels[code] = None
        elif isinstance(level, int) and not isinstance(level, bool) and 1 <= level <= 5:
            levels[code] = level
        else:
            raise ValueError(f"scale: key {key} is {level!r}; expected a level 1 to 5 or 'none'")
    given = [level for level in levels.values() if level is not None]
    if not given:
        raise ValueError("scale: no key has a level")
    if len(levels) >= 5 and len(set(given)) < len(given):
        raise ValueError("scale: two keys of a pad with five or more have the same level")
    return Scale(scale_id, tuple(sorted(set(given), reverse=True)), levels)


# --------------------------------------------------------------------------------------------
# People's data
# --------------------------------------------------------------------------------------------

_SPACE = r"[ -]?"
_PERSONAL = re.compile(
    rf"(?<!\d)(?:"
    rf"\d{{6}}{_SPACE}(?:1[89]|20)\d{{2}}{_SPACE}\d{{4}}{_SPACE}\d{{3}}[\dXx]"  # citizen ID
    rf"|\d{{17}}[\dXx]|\d{{15}}"
    rf"|(?:0|\+?86{_SPACE})?1[3-9]\d(?:{_SPACE}\d){{8}}"  # mobile telephone
    rf"|0\d{{2,3}}{_SPACE}[2-9]\d{{6,7}}"  # telephone with its area code
    rf")(?!\d)",
    re.ASCII,
)
_FULL_WIDTH = str.maketrans("０１２３４５６７８９Ｘｘ＋－\u3000", "0123456789Xx+- ")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def masked(text: str) -> str:
    """The text with telephone and citizen ID numbers starred out."""
    for found in _PERSONAL.finditer(text.translate(_FULL_WIDTH)):
        text = text[: found.start()] + "*" * len(found.group()) + text[found.end() :]
    return text


def masked_bytes(data: bytes, limit: int = 4096) -> bytes:
    """The beginning of what could not be read, fit to be kept."""
    text = data[: 2 * limit].decode("utf-8", "replace")
    return masked(text).encode()[:limit].decode("utf-8", "ignore").encode()


def is_citizen_id(text: str) -> bool:
    """Eighteen characters with a date of birth and the right check digit."""
    if not re.fullmatch(r"\d{6}(?:1[89]|20)\d{2}[01]\d[0-3]\d{4}[\dXx]", text, re.ASCII):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


# --------------------------------------------------------------------------------------------
# Fields
# --------------------------------------------------------------------------------------------


def read(data: bytes) -> Any:
    """The JSON in a body.  It should be UTF-8; what is not is taken for GB18030."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise BadBody(FieldError("", "the body is empty; expected JSON"))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("gb18030", "replace")
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise BadBody(FieldError("", "not valid JSON: nested too deeply")) from None
    except (msgspec.DecodeError, UnicodeEncodeError, ValueError) as error:
        raise BadBody(FieldError("", f"not valid JSON: {error}")) from None


def cleaned(text: str) -> str:
    """Without control characters, private and unassigned ones, and blanks around it."""
    return "".join(one for one in text if category(one)[0] != "C" or one in "\n\t\u200d").strip()


class _Fields:
    """The fields of one object, and what is wrong with them."""

    def __init__(self, told: object) -> None:
        if not isinstance(told, dict):
            raise BadBody(FieldError("", f"expected an object, not {_kind(told)}"))
        self.told: dict[str, Any] = told
        self.errors: list[FieldError] = []

    def wrong(self, field: str, detail: str) -> None:
        self.errors.append(FieldError(field, detail))

    def finish(self) -> None:
        if self.errors:
            raise BadBody(*self.errors)

    def text(self, field: str, limit: int = WORD_LIMIT, *, needed: bool = False) -> str:
        value = self.told.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
            value = str(value)
        if value is None:
            value = ""
        if not isinstance(value, str):
            self.wrong(field, f"expected text, not {_kind(value)}")
            return ""
        value = cleaned(value)
        if len(value) > limit:
            self.wrong(field, f"expected at most {limit} characters, not {len(value)}")
            return ""
        if not value and needed:
            self.wrong(field, "required, but missing")
        return "" if is_citizen_id(value) else value

    def identity(self, field: str, otherwise: str = "") -> str:
        value = self.text(field, ID_LIMIT) or cleaned(otherwise)[: ID_LIMIT + 1]
        given = self.told.get(field)
        if is_citizen_id(value) or (isinstance(given, str) and is_citizen_id(given.strip())):
            self.wrong(field, "is a citizen ID number; expected an id that names nobody")
        elif len(value) > ID_LIMIT:
            self.wrong(field, f"expected at most {ID_LIMIT} characters")
        return value

    def free_text(self, field: str) -> str:
        value = self.told.get(field)
        if value is not None and not isinstance(value, str):
            self.wrong(field, f"expected text, not {_kind(value)}")
        if not isinstance(value, str):
            return ""
        return masked(cleaned(value))[:TEXT_LIMIT]

    def words(self, field: str) -> tuple[str, ...]:
        value = self.told.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.wrong(field, "expected a list of texts")
            return ()
        if len(value) > OPTIONS_LIMIT or any(len(word) > WORD_LIMIT for word in value):
            self.wrong(
                field, f"expected at most {OPTIONS_LIMIT} texts of {WORD_LIMIT} characters each"
            )
            return ()
        return tuple(word for word in (masked(cleaned(word)) for word in value) if word)

    def flag(self, field: str) -> bool:
        value = self.told.get(field, False)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.wrong(field, f"expected true or false, not {_kind(value)}")
        return False

    def number(self, field: str, lowest: int, highest: int) -> int | None:
        value = self.told.get(field)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        self.wrong(field, f"expected a whole number from {lowest} to {highest}")
        return None

    def choice(self, field: str, choices: Collection[str], otherwise: str) -> str:
        value = self.told.get(field)
        if value is None and otherwise:
            return otherwise
        if isinstance(value, str) and value in choices:
            return value
        shown = "required, but missing; " if value is None else ""
        self.wrong(field, f"{shown}expected one of {', '.join(choices)}")
        return otherwise

    def moment(self, field: str, *, needed: bool = False) -> tuple[Instant | None, str]:
        """The instant, and how it was written."""
        value = self.told.get(field)
        if value is None:
            if needed:
                self.wrong(field, "required, but missing")
            return None, ""
        try:
            if not isinstance(value, str) or len(value) > 40:
                raise ValueError
            moment = datetime.fromisoformat(value)
            if moment.utcoffset() is None:
                raise ValueError
            return (moment - _EPOCH) // timedelta(milliseconds=1), value
        except (ValueError, OverflowError):
            self.wrong(field, "expected a time with its offset, as 2026-03-02T09:14:05+08:00")
            return None, ""


def moment(told: object, field: str) -> Instant | None:
    """The instant in one field of an object, none if it is not told; raises ``BadBody``."""
    fields = _Fields(told)
    at, _ = fields.moment(field)
    fields.finish()
    return at


def _kind(value: object) -> str:
    for kind, name in ((bool, "true or false"), (str, "text"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return "a list" if isinstance(value, list) else "null" if value is None else "a number"


def window_id(told: str, known: Collection[str] = ()) -> str:
    """A window as it is called in the settings: 5, 05 and 5号 are one.  Without a window of that
    number among the ``known`` ones it gets two digits."""
    name = normalize("NFKC", told).strip().lower()
    name = re.sub(r"(?:号窗口|号窗|窗口|号|#)$", "", name).strip()
    if name in known or not re.fullmatch(r"[0-9]{1,9}", name):
        return name
    for one in known:
        if re.fullmatch(r"[0-9]{1,9}", one) and int(one) == int(name):
            return one
    return str(int(name)).zfill(2)


def placed(told: Instant | None, now: Instant, ahead: Instant = 0) -> tuple[Instant, bool]:
    """When a thing happened that was told ``now``, and whether the teller's clock is wrong.

    A teller that was offline tells old things, which is no fault of its clock: that shows only in a
    time to come, in one before 2020, and in ``ahead``, by how much the clock was seen to differ
    (``TellerClock`` sees it in what a teller tells as it happens).
    """
    if told is None:
        return now, False
    if told > now + SKEW or told < _FIRST or abs(ahead) > SKEW:
        return now, True
    return told, False


class TellerClock:
    """How slow the clock of somebody is who tells things as they happen.

    One telling that comes late may have been kept back; a clock that is slow makes every telling
    late by the same.  So of what comes within ``BURST`` the latest counts, and ``ALIKE`` such that
    differ by no more than ``SLOW`` show the clock.  Events after an outage, the oldest first, do
    not.  A slower clock is corrected from ``SLOW`` on, since after a minute a call is announced no
    more.
    """

    BURST: Instant = 10_000
    ALIKE = 3
    SLOW: Instant = 30_000

    def __init__(self, slow: Instant = 0) -> None:
        self.slow = slow
        """By so many ms, 0 while it seems right."""
        self._began: Instant = 0
        self._late: deque[Instant] = deque(maxlen=self.ALIKE)

    def placed(self, told: Instant | None, now: Instant) -> tuple[Instant, bool]:
        """As the function of that name."""
        at, wrong = placed(told, now)
        if told is None or wrong:
            return at, wrong
        self._learn(now - told, now)
        return (min(told + self.slow, now), True) if self.slow else (told, False)

    def _learn(self, late: Instant, now: Instant) -> None:
        if self._late and 0 <= now - self._began < self.BURST:
            self._late[-1] = min(self._late[-1], late)
        else:
            self._began = now
            self._late.append(late)
        if late < self.slow - self.SLOW:
            self.slow = 0  # the clock was set
        least = min(self._late)
        if len(self._late) == self.ALIKE and max(self._late) - least <= self.SLOW:
            self.slow = least if least > self.SLOW else 0


# --------------------------------------------------------------------------------------------
# Ratings
# --------------------------------------------------------------------------------------------


class ToldRating(NamedTuple):
    """A rating as told.  ``pressed_at`` is the teller's time, none if it has no clock, and
    ``pressed_text`` the way it was written.  ``pad`` and ``hall`` are empty if not told."""

    body: Rating
    pressed_at: Instant | None
    pressed_text: str
    pad: str
    hall: str


def pad_rating_id(pad: str, told: str) -> str:
    """The id of a pad's rating in the whole hall: many pads count from 1."""
    return told if told.startswith(f"pad:{pad}:") else f"pad:{pad}:{told}"


def rating(
    told: object,
    *,
    pad: str = "",
    key: str = "",
    scale: Scale | None = None,
    windows: Collection[str] = (),
) -> ToldRating:
    """A rating from decoded JSON; raises ``BadBody``.

    ``pad``: who sent it, by the way it came; a ``pad_id`` in the body must be the same, and ids
    count for this pad alone.  ``key``: the id it has where the body tells none.  ``scale``: the
    pad's; without one levels are taken as told.  ``windows``: those there are.
    """
    fields = _Fields(told)
    rating_id = fields.identity("rating_id", key)
    if not rating_id and not any(error.field == "rating_id" for error in fields.errors):
        fields.wrong("rating_id", "required, but missing")
    told_pad = fields.text("pad_id") or pad
    if pad and told_pad != pad:
        fields.wrong("pad_id", f"expected {pad}, the pad that sent it")
    level, raw_key, problem = _level(fields, scale)
    channel = fields.choice("channel", CHANNELS, "pad" if told_pad else "")
    session = fields.text("session")
    service_ref = fields.text("service_ref")
    related = bool(session or service_ref)
    pressed_at, pressed_text = fields.moment("pressed_at")
    body = Rating(
        rating_id=pad_rating_id(pad, rating_id) if pad else rating_id,
        window=window_id(fields.text("window"), windows),
        level=level,
        scale_id=fields.text("scale_id") if scale is None or scale.table is None else scale.id,
        raw_key=raw_key,
        channel=channel,
        person=fields.text("person"),
        service_ref=service_ref,
        session=session,
        options=fields.words("options"),
        indicator_version=fields.text("indicator_version"),
        text=fields.free_text("text"),
        named=fields.flag("named"),
        defaulted=fields.flag("defaulted"),
        origin=fields.choice("origin", ORIGINS, "visitor" if related else "unknown"),
        problem=problem or ("" if related or channel != "pad" else "no_session"),
    )
    if scale is not None and not body.scale_id:
        body = msgspec.structs.replace(body, scale_id=scale.id)
    hall = fields.text("hall")
    fields.finish()
    return ToldRating(body, pressed_at, pressed_text, told_pad, hall)


def _level(fields: _Fields, scale: Scale | None) -> tuple[int | None, str, str]:
    """Level, key in hexadecimal, and what is odd about them."""
    raw_key = fields.text("raw_key", 32).upper()
    if not re.fullmatch(r"[0-9A-F]*", raw_key):
        fields.wrong("raw_key", "expected hexadecimal digits")
        raw_key = ""
    value = fields.told.get("level")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value):
        value = int(value)
    if scale is not None and scale.table is not None:
        if not raw_key and "level" not in fields.told:
            fields.wrong("level", "required, but missing; expected the key's code or null")
        if raw_key:
            code = raw_key
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
            code = str(value)
            raw_key = code.encode().hex().upper()
        else:
            if value is not None:
                fields.wrong("level", f"expected the key's code or null, not {_kind(value)}")
            return None, raw_key, ""
        if (code := _code(code)) not in scale.table:
            return None, raw_key, "unmapped_code"
        level = scale.table[code]
        return level, raw_key, "timed_out" if level is None else ""
    levels = scale.levels if scale else (5, 4, 3, 2, 1)
    if "level" not in fields.told:
        fields.wrong("level", "required, but missing; null is for no answer")
    elif value is not None and (type(value) is not int or value not in levels):
        expected = ", ".join(map(str, sorted(levels)))
        shown = value if type(value) is int and abs(value) < 10_000 else _kind(value)
        fields.wrong("level", f"expected one of {expected} or null, not {shown}")
    else:
        return value, raw_key, ""
    return None, raw_key, ""


# --------------------------------------------------------------------------------------------
# Queue events
# --------------------------------------------------------------------------------------------


class ToldEvent(NamedTuple):
    """A queue event as told: ``at`` by its source's clock, ``at_text`` as it was written."""

    body: QueueEvent
    at: Instant
    at_text: str
    hall: str


def queue_items(told: object) -> list[object]:
    """The events of one body: one object, or a list of up to 500."""
    if not isinstance(told, list):
        return [told]
    if not 1 <= len(told) <= BATCH_LIMIT:
        raise BadBody(FieldError("", f"expected 1 to {BATCH_LIMIT} events, not {len(told)}"))
    return told


def queue_event(told: object, *, windows: Collection[str] = ()) -> ToldEvent:
    """A queue event from decoded JSON; raises ``BadBody``.  ``windows``: those there are."""
    fields = _Fields(told)
    event_id = fields.identity("event_id")
    event = fields.choice("type", QUEUE_EVENTS, "")
    at, at_text = fields.moment("at", needed=True)
    window = window_id(
        fields.text("window", needed=bool(event) and event not in _WINDOWLESS), windows
    )
    raw = fields.text("ticket", needed=bool(event) and event not in _TICKETLESS)
    ticket = normal_ticket(raw)
    to = fields.text("to")
    if not event_id:
        # The same event sent again has the same parts; ``seq`` tells two in one second apart.
        sequence = fields.told.get("seq") if isinstance(fields.told.get("seq"), int) else ""
        event_id = stable_id(window, ticket, event, at, sequence if _fits(sequence) else "")
    body = QueueEvent(
        event_id=event_id,
        event=event,
        window=window,
        ticket=ticket,
        ticket_raw=raw if raw != ticket else "",
        queue=fields.text("queue"),
        service_code=fields.text("service_code"),
        person=fields.text("person"),
        call_no=fields.number("call_no", 1, 1_000),
        to=to,
        waiting=fields.number("waiting", 0, 100_000),
        priority=fields.flag("priority"),
        source=fields.choice("source", QUEUE_SOURCES, "api"),
        uncertainty=fields.number("uncertainty", 0, 3_600_000) or 0,
    )
    hall = fields.text("hall")
    fields.finish()
    assert at is not None
    return ToldEvent(body, at, at_text, hall)


def _fits(number: object) -> bool:
    return isinstance(number, int) and abs(number) < 1 << 63
