"""Changes to InfluxDB: points for charts, about windows, devices and rules, never about people.

docs/influx.md has the schema.  What a point may hold is decided by what is read of a row: the
structures below name numbers and words of fixed lists, so the person, the name, the ticket and the
text beside them are never even decoded.  All fields are numbers, each of one type for ever.

The same change always makes the same point: its time is that of the change, and the nanoseconds
below the millisecond tell changes apart.  So a batch may be sent again, whole or in halves.

``version`` 2 writes with the client's synchronous API (InfluxDB 2 and what speaks like it); 1 posts
the same lines to ``/write``, for servers that know nothing else.
"""

from __future__ import annotations

import base64
import re
import ssl
import threading
import time
from collections.abc import Container, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit
from zlib import crc32
from zoneinfo import ZoneInfo

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from msgspec import Struct
from msgspec import json as msgspec_json

from api.views import VERDICT_ZH
from daemon.outbox import Change, Delivered, SinkDown
from rules.model import DAY, MINUTE, Instant

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,15}")
WORD = re.compile(r"[\w.-]{1,32}")
METRIC = re.compile(r"[a-z][a-z0-9_.-]{0,63}")

OTHER = "other"
"""Stands for a tag's value that is not one we know the like of."""

VALUES_KEPT = 1000
"""Values of one tag, at most; what comes behind them is written as ``OTHER``.  A bound against
ids that somebody makes up: every value is a series for the server to keep."""

NS = 1_000_000
"""Nanoseconds in a millisecond."""

LATEST = (1 << 63) // NS - 1
"""The last millisecond that a point can have (in the year 2262)."""

CLOCK_TRUSTED = 31 * DAY
"""A reading is charted when the device says it was, unless that is in the future or older than
this: then when it was received."""

LEVELS = ("1", "2", "3", "4", "5")
CHANNELS = frozenset(("pad", "qr", "kiosk", "sms", "web", "app", "hotline", "paper"))
SUBJECTS = frozenset(("person", "device", "hall", "window", "area"))
OPS = {"opened": 1, "amended": 0, "withdrawn": -1}
FINALITY = {"pending": 0, "provisional": 1, "final": 2, "locked": 3}
VIOLATION_STATES = frozenset(("active", "withdrawn"))
ALERT_STATES = frozenset(
    ("open", "acknowledged", "resolved", "converted", "expired", "withdrawn"),
)
DEVICE_STATES = {"offline": 0, "online": 1}
WINDOW_STATES = {"idle": 0, "calling": 1, "serving": 2, "finished": 3, "paused": 4, "closed": 5}
POST_STATES = {"closed": 0, "away": 1, "learning": 2, "still": 3, "present": 4, "excused": 5}
"""Fields cannot be words on every server, and a tag would cut a window's series into one for each
state: so these are numbers.  ``unknown`` is -1."""

UNKNOWN = -1

SERIES_LIMIT = "limit exceeded"
"""In a refusal that is about the server's bounds on series and values: its administrator can raise
them, and then nothing is lost."""

LONGEST_RETRY_AFTER = 3600.0
ANSWER_LIMIT = 65_536
TEXT_LIMIT = 300


# -- what is read of the rows ----------------------------------------------------------------------


class _Attendance(Struct, frozen=True):
    verdict: str
    finality: str
    attended: float
    expected: float
    points: float
    revision: int


class _Violation(Struct, frozen=True):
    rule: str
    code: str
    severity: int
    state: str
    points: float
    minutes: int
    revision: int


class _Alert(Struct, frozen=True):
    rule: str
    code: str
    severity: int
    state: str
    subject_kind: str
    subject: str
    opened_at: datetime
    ends_at: datetime | None = None
    inhibited_by: str = ""
    revision: int = 0


class _Device(Struct, frozen=True):
    state: str
    punches: int = 0
    unreadable: int = 0
    clock_offset_ms: int | None = None
    complete_until: datetime | None = None


class _Adjustment(Struct, frozen=True):
    verdict_after: str
    points_before: float
    points_after: float


class _Ratio(Struct, frozen=True):
    n: int = 0
    of: int = 0


class _Durations(Struct, frozen=True):
    n: int = 0
    minutes_sum: float = 0.0


class _Scale(Struct, frozen=True):
    satisfied: _Ratio = _Ratio()
    strict: _Ratio = _Ratio()
    bad: _Ratio = _Ratio()


class _Figures(Struct, frozen=True):
    rated: _Ratio = _Ratio()
    scales: tuple[_Scale, ...] = ()
    waits: _Durations = _Durations()
    services: _Durations = _Durations()

    def fields(self) -> dict[str, int | float | None]:
        """Counts since the window's day began.  Each rate's numerator and denominator are here; the
        rate itself is left to the query, because rates cannot be added up over windows.  Where a
        window has pads of two scales there are no levels: they cannot be added up either."""
        levels: dict[str, int | None] = dict.fromkeys(("satisfied", "strict", "bad"))
        if len(self.scales) < 2:
            one = self.scales[0] if self.scales else _Scale()
            levels = {"satisfied": one.satisfied.n, "strict": one.strict.n, "bad": one.bad.n}
        return {
            "rated": self.rated.n,
            "rateable": self.rated.of,
            **levels,
            "services": self.services.n,
            "waits_n": self.waits.n,
            "wait_minutes_sum": self.waits.minutes_sum,
        }


class _Window(Struct, frozen=True):
    window: str
    state: str
    work_date: date
    area: str = ""
    waiting: int | None = None
    call_seq: int | None = None
    repeat: int | None = None
    figures: _Figures | None = None


class _Area(Struct, frozen=True):
    area: str
    open_windows: int
    waiting: int | None = None
    waits: _Durations = _Durations()


class _Post(Struct, frozen=True):
    window: str
    state: str
    staffed_minutes: _Ratio = _Ratio()
    unknown_minutes: _Ratio = _Ratio()
    vacancies: tuple[dict[str, object], ...] = ()


class _Rating(Struct, frozen=True):
    rating_id: str
    pressed_at: datetime | int
    window: str = ""
    level: int | None = None
    scale_id: str = ""
    channel: str = ""
    match: str = ""
    defaulted: bool = False


class _Reading(Struct, frozen=True):
    kind: str
    device: str
    at: datetime | int
    received_at: datetime | int
    window: str = ""
    level: int | None = None


def _instant(told: datetime | int) -> Instant:
    if isinstance(told, int):
        return told
    if told.tzinfo is None:
        raise ValueError(f"{told.isoformat()} has no offset")
    return int(told.timestamp() * 1000)


def _time(at: Instant, below: int) -> int:
    """A point's time: ``below`` are the nanoseconds that tell it from others at ``at``."""
    if not 0 <= at <= LATEST:
        raise ValueError(f"{at} ms is no time that a point can have")
    return at * NS + below % NS


# -- points ----------------------------------------------------------------------------------------


class _Spot(NamedTuple):
    """A point before it is text.  Tags that are empty and fields that are none are left out."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, int | float | None]
    time: int


class Points:
    """Changes to lines of InfluxDB's line protocol, each with its time in nanoseconds.

    ``zone`` is the hall's.  Remembers the values of tags, at most ``VALUES_KEPT`` of each.
    """

    def __init__(self, hall: str, zone: ZoneInfo) -> None:
        self._hall = hall
        self._zone = zone
        self._values: dict[str, set[str]] = {}
        self._of = {
            "attendance": self._attendance,
            "violation": self._violation,
            "alert": self._alert,
            "device": self._device,
            "adjustment": self._adjustment,
            "window": self._window,
            "area": self._area,
            "post": self._post,
            "rating": self._rating,
            "reading": self._reading,
        }

    def line(self, change: Change) -> str:
        """The change's point.  Raises ``ValueError`` with what is wrong with its row."""
        make = self._of.get(change.kind)
        if make is None:
            raise ValueError(f"there is no measurement for changes of kind {change.kind!r}")
        return self._text(make(change))

    def metrics(self, now: Instant | None, values: Mapping[str, float]) -> str:
        """The daemon's own figures, a field each; without ``now`` the server takes its own time.
        Empty when there is nothing to write.  Raises ``ValueError`` for a name that cannot be one.
        """
        for name in values:
            if not METRIC.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a metric")
        fields = {name: float(value) for name, value in values.items()}
        return self._text(_Spot("daemon", {}, dict(fields), -1 if now is None else _time(now, 0)))

    def _text(self, spot: _Spot) -> str:
        point: Any = Point(f"hallwatch_{spot.measurement}")  # type: ignore[no-untyped-call]
        point.tag("hall", self._hall)
        for tag, value in spot.tags.items():
            point.tag(tag, value)
        for field, number in spot.fields.items():
            if isinstance(number, int) and not -(1 << 63) <= number < 1 << 63:
                raise ValueError(f"{field} is out of range")
            point.field(field, number)
        if spot.time >= 0:
            point.time(spot.time)
        return str(point.to_line_protocol())

    def _tag(self, tag: str, value: str, like: re.Pattern[str]) -> str:
        if not value:
            return ""
        if not like.fullmatch(value):
            return OTHER
        known = self._values.setdefault(tag, set())
        if value not in known:
            if len(known) >= VALUES_KEPT:
                return OTHER
            known.add(value)
        return value

    def _rule(self, row: _Violation | _Alert) -> dict[str, str]:
        return {
            "rule": self._tag("rule", row.rule, WORD),
            "code": self._tag("code", row.code, WORD),
            "severity": str(row.severity) if 0 <= row.severity <= 9 else OTHER,
        }

    def _attendance(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Attendance)
        return _Spot(
            "attendance",
            {"kind": _op(change), "state": _one_of(VERDICT_ZH, row.verdict)},
            {
                "delta": OPS.get(change.op, 0),
                "attended": row.attended,
                "expected": row.expected,
                "points": row.points,
                "finality": FINALITY.get(row.finality, UNKNOWN),
                "revision": row.revision,
            },
            _time(change.at, change.seq),
        )

    def _violation(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Violation)
        return _Spot(
            "violation",
            {"kind": _op(change), "state": _one_of(VIOLATION_STATES, row.state)} | self._rule(row),
            {
                "delta": OPS.get(change.op, 0),
                "points": row.points,
                "minutes": row.minutes,
                "revision": row.revision,
            },
            _time(change.at, change.seq),
        )

    def _alert(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Alert)
        tags = {
            "kind": _one_of(SUBJECTS, row.subject_kind),
            "state": _one_of(ALERT_STATES, row.state),
        }
        if row.subject_kind in ("device", "window"):
            tags[row.subject_kind] = self._tag(row.subject_kind, row.subject, ID)
        elif row.subject_kind == "area":
            tags["area"] = self._tag("area", row.subject, WORD)
        lasted = (
            None
            if row.ends_at is None
            else (_instant(row.ends_at) - _instant(row.opened_at)) / MINUTE
        )
        return _Spot(
            "alert",
            tags | self._rule(row),
            {
                "delta": OPS.get(change.op, 0),
                "open": int(row.state in ("open", "acknowledged")),
                "inhibited": int(bool(row.inhibited_by)),
                "lasted_minutes": lasted,
                "revision": row.revision,
            },
            _time(change.at, change.seq),
        )

    def _device(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Device)
        complete = row.complete_until
        return _Spot(
            "device",
            {"device": self._tag("device", change.key, ID)},
            {
                "state_code": DEVICE_STATES.get(row.state, UNKNOWN),
                "punches": row.punches,
                "unreadable": row.unreadable,
                "clock_offset_ms": row.clock_offset_ms,
                "log_behind_s": None
                if complete is None
                else (change.at - _instant(complete)) / 1000,
            },
            _time(change.at, change.seq),
        )

    def _adjustment(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Adjustment)
        return _Spot(
            "adjustment",
            {"kind": _op(change), "state": _one_of(VERDICT_ZH, row.verdict_after)},
            {
                "delta": OPS.get(change.op, 0),
                "points_before": row.points_before,
                "points_after": row.points_after,
            },
            _time(change.at, change.seq),
        )

    def _window(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Window)
        midnight = datetime.combine(row.work_date + timedelta(1), datetime.min.time(), self._zone)
        over = _instant(midnight)
        # What is learned later about a day that is over belongs at its end, not among the figures
        # of the day it is learned on; a second holds the order of a thousand million changes.
        when = (
            _time(change.at, change.seq)
            if change.at < over
            else _time(over - 1000, 0) + change.seq % (1000 * NS)
        )
        fields: dict[str, int | float | None] = {
            "state_code": WINDOW_STATES.get(row.state, UNKNOWN),
            "waiting": row.waiting,
            "call_seq": row.call_seq,
            "repeat": row.repeat,
        }
        return _Spot(
            "window",
            {
                "window": self._tag("window", row.window, ID),
                "area": self._tag("area", row.area, WORD),
            },
            fields | (row.figures.fields() if row.figures else {}),
            when,
        )

    def _area(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Area)
        return _Spot(
            "area",
            {"area": self._tag("area", row.area, WORD)},
            {
                "waiting": row.waiting,
                "open_windows": row.open_windows,
                "waits_n": row.waits.n,
                "wait_minutes_sum": row.waits.minutes_sum,
            },
            _time(change.at, change.seq),
        )

    def _post(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Post)
        return _Spot(
            "post",
            {"window": self._tag("window", row.window, ID)},
            {
                "state_code": POST_STATES.get(row.state, UNKNOWN),
                "staffed_minutes": row.staffed_minutes.n,
                "known_minutes": row.staffed_minutes.of,
                "unknown_minutes": row.unknown_minutes.n,
                "required_minutes": row.unknown_minutes.of,
                "vacancies": len(row.vacancies),
            },
            _time(change.at, change.seq),
        )

    def _rating(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Rating)
        return _Spot(
            "rating",
            {
                "window": self._tag("window", row.window, ID),
                "level": "none" if row.level is None else _one_of(LEVELS, str(row.level)),
                "scale": self._tag("scale", row.scale_id, WORD),
                "channel": _one_of(CHANNELS, row.channel),
            },
            {
                "count": 0 if change.op == "withdrawn" else 1,
                "level_value": _level(row.level),
                "matched": int(row.match == "matched"),
                "defaulted": int(row.defaulted),
            },
            # Not the change's number: an amended rating takes the place of its former point.
            _time(_instant(row.pressed_at), crc32(row.rating_id.encode())),
        )

    def _reading(self, change: Change) -> _Spot:
        row = msgspec_json.decode(change.row, type=_Reading)
        at, received = _instant(row.at), _instant(row.received_at)
        trusted = received - CLOCK_TRUSTED <= at <= received
        return _Spot(
            "reading",
            {
                "device": self._tag("device", row.device, ID),
                "kind": self._tag("kind", row.kind, WORD),
                "window": self._tag("window", row.window, ID),
            },
            {"count": 1, "delay_ms": received - at, "level_value": _level(row.level)},
            _time(at if trusted else received, change.seq),
        )


def _level(told: int | None) -> int | None:
    """A level that can be averaged."""
    return told if str(told) in LEVELS else None


def _op(change: Change) -> str:
    return _one_of(OPS, change.op)


def _one_of(words: Container[str], word: str) -> str:
    return word if word in words else OTHER


# -- writing ---------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    status: int
    text: str = ""
    retry_after: str = ""


class _Wire(Protocol):
    def post(self, lines: bytes) -> _Answer:
        """What the server answered, whatever it is.  Raises urllib3's errors, ``OSError`` or
        ``UnicodeDecodeError`` when there is no answer, or none that can be read."""
        ...

    def close(self) -> None: ...


class _Version2:
    """The client's synchronous write API.  It neither retries nor follows redirects."""

    def __init__(
        self,
        url: str,
        org: str,
        bucket: str,
        token: str,
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._client: Any = InfluxDBClient(
            url, token=token, org=org, timeout=int(timeout * 1000), ssl_context=tls
        )
        self._writer = self._client.write_api(write_options=SYNCHRONOUS)
        self._bucket = bucket

    def post(self, lines: bytes) -> _Answer:
        try:
            self._writer.write(self._bucket, record=lines)
        except ApiException as error:
            if not error.status:
                raise ConnectionError(str(error.reason)) from error
            return _Answer(error.status, str(error.body or ""), str(error.retry_after or ""))
        return _Answer(self._client.api_client.last_response.status)

    def close(self) -> None:
        self._client.close()


class _Version1:
    """``POST /write`` of InfluxDB 1."""

    def __init__(
        self,
        url: str,
        database: str,
        username: str,
        password: str,
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url = f"{url}/write?{urlencode({'db': database, 'precision': 'ns'})}"
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if username:
            secret = base64.b64encode(f"{username}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(total=timeout), retries=False, ssl_context=tls
        )

    def post(self, lines: bytes) -> _Answer:
        answer = self._pool.request(
            "POST", self._url, body=lines, headers=self._headers, preload_content=False
        )
        told = answer.read(ANSWER_LIMIT)
        if len(told) == ANSWER_LIMIT:
            answer.close()
        answer.release_conn()
        text = told.decode(errors="replace")
        return _Answer(answer.status, text, answer.headers.get("Retry-After", ""))

    def close(self) -> None:
        self._pool.clear()


class InfluxSink:
    """One InfluxDB as a sink.

    ``version`` 2 needs ``bucket``, and ``org`` and ``token`` where the server asks for them (an
    InfluxDB 1.8: token ``user:password``, bucket ``database/policy``); 1 needs ``database``, and
    ``username`` and ``password`` where the server asks for them.  ``ca_file`` is trusted instead of
    the system's authorities.  ``zone`` is the hall's.  ``timeout`` are seconds for one request.
    Raises ``ValueError`` with a sentence for what cannot be.  Connects when there is something to
    write.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        hall: str,
        zone: ZoneInfo,
        version: Literal["2", "1"] = "2",
        org: str = "",
        bucket: str = "",
        token: str = "",
        database: str = "",
        username: str = "",
        password: str = "",
        ca_file: str = "",
        timeout: float = 10.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"url {url!r} is not like http://127.0.0.1:8086")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("url must be without user, password, '?' and '#'")
        if ca_file and parts.scheme != "https":
            raise ValueError("ca_file is given, but url is not https")
        if not token.isascii() or not token.isprintable():
            raise ValueError("the token has characters that cannot be sent")
        if not ID.fullmatch(hall):
            raise ValueError(f"hall {hall!r} cannot be a tag: use a-z, 0-9 and '-'")
        if version == "2" and not bucket:
            raise ValueError('version "2" needs a bucket')
        if version == "2" and (database or username or password):
            raise ValueError('database, username and password are for version "1"')
        if version == "1" and not database:
            raise ValueError('version "1" needs a database')
        if version == "1" and (org or bucket or token):
            raise ValueError('org, bucket and token are for version "2"')
        if password and not username:
            raise ValueError("a password is given, but no username")
        self.name = name
        self._place = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        self._target = f"bucket {bucket!r}" if version == "2" else f"database {database!r}"
        self._points = Points(hall, zone)
        self._timeout = timeout
        tls = None
        if parts.scheme == "https":
            try:
                tls = ssl.create_default_context(cafile=ca_file or None)
            except OSError as error:
                raise ValueError(f"ca_file {ca_file} cannot be used: {error}") from error
        self._wire: _Wire
        if version == "2":
            self._wire = _Version2(self._place, org, bucket, token, timeout, tls)
        else:
            self._wire = _Version1(self._place, database, username, password, timeout, tls)
        self._one_at_a_time = threading.Lock()
        self._not_before = 0.0

    def deliver(self, changes: Sequence[Change]) -> Delivered:
        """See ``daemon.outbox.Sink``.  What has been written before the server went down is written
        again the next time, over itself."""
        rejected: list[tuple[int, str]] = []
        lines: list[tuple[int, str]] = []
        for change in changes:
            try:
                lines.append((change.seq, self._points.line(change)))
            except (ValueError, OverflowError) as error:
                rejected.append((change.seq, f"cannot be a point: {error}"))
        refused, settled = self._write(lines)
        accepted = changes[-1].seq if settled == len(lines) else lines[settled - 1][0]
        rejected += refused
        return Delivered(accepted, tuple(sorted(one for one in rejected if one[0] <= accepted)))

    def metrics(self, now: Instant, values: Mapping[str, float]) -> bool:
        """Write the daemon's own figures; returns whether the server took them.  They are not kept
        for later.  May be called from any thread; waits for the request under way, so up to twice
        ``timeout``.  Raises ``ValueError`` for a name that cannot be one."""
        line = self._points.metrics(now, values)
        try:
            return not line or self._post([(0, line)]).status == 204
        except SinkDown:
            return False

    def close(self) -> None:
        with self._one_at_a_time:
            self._wire.close()

    def _write(self, lines: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], int]:
        """Write the lines but those that the server refuses.  Returns these with its reason, and
        how many lines are settled from the first on: fewer than all when it went down on the way.

        A server names no line, or only the first, and may have taken the others: so what is refused
        is tried again in halves.
        """
        refused: list[tuple[int, str]] = []
        settled = 0
        waiting = [lines] if lines else []
        try:
            while waiting:
                part = waiting.pop()
                answer = self._post(part)
                reason = _said(answer)
                whole = len(part) == 1 or f"dropped={len(part)}" in reason.split()
                if answer.status != 204 and not whole:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                    continue
                if answer.status != 204:
                    if not settled:
                        self._try_good_line(reason)
                    refused += [(seq, reason) for seq, _ in part]
                settled += len(part)
        except SinkDown:
            if not settled:
                raise
        return refused, settled

    def _try_good_line(self, reason: str) -> None:
        """Settings can be refused with the same status as lines: then a good line is refused too,
        and the sink is down."""
        good = self._points.metrics(None, {"influx_probe": 1.0})
        if self._post([(0, good)]).status != 204:
            raise SinkDown(f"InfluxDB at {self._place} refuses whatever is sent: {reason}")

    def _post(self, lines: Sequence[tuple[int, str]]) -> _Answer:
        """204 when all lines are written, 400, 413 or 422 when lines were refused.  Raises
        ``SinkDown`` for all else."""
        with self._one_at_a_time:
            pause = self._not_before - time.monotonic()
            if pause > 0:
                raise SinkDown(
                    f"InfluxDB at {self._place} asked to be left alone for {pause:.0f} s"
                )
            try:
                answer = self._wire.post("\n".join(line for _, line in lines).encode())
            except urllib3.exceptions.NewConnectionError as error:
                cause = error.__cause__ or error
                raise SinkDown(f"cannot reach InfluxDB at {self._place}: {cause}") from error
            except urllib3.exceptions.TimeoutError as error:
                raise SinkDown(
                    f"no answer from InfluxDB at {self._place} within {self._timeout:g} s"
                ) from error
            except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
                raise SinkDown(
                    f"cannot talk to InfluxDB at {self._place}: {_cut(str(error))}"
                ) from error
            if answer.status in (429, 503) and re.fullmatch(r"\d{1,9}", answer.retry_after):
                seconds = min(float(answer.retry_after), LONGEST_RETRY_AFTER)
                self._not_before = time.monotonic() + seconds
        said = _said(answer)
        if answer.status == 204:
            return answer
        if answer.status in (400, 413, 422) and SERIES_LIMIT not in said:
            return answer
        raise SinkDown(self._why(answer.status, said))

    def _why(self, status: int, said: str) -> str:
        where = f"InfluxDB at {self._place}"
        if status == 401:
            return f"{where} does not know the user or token: {said}"
        if status == 403:
            return f"{where} does not let us write to {self._target}: {said}"
        if status == 404:
            return f"{where} has no {self._target}, or is no InfluxDB: {said}"
        if status == 429:
            return f"{where} takes no more for now: {said}"
        if status < 400:
            return f"{self._place} is no InfluxDB: it answered {status} to a write"
        return f"{where} answered {status}: {said}"


def _said(answer: _Answer) -> str:
    """The server's own words: one of the JSON forms of the versions, or the bare text."""
    text = answer.text
    try:
        told = msgspec_json.decode(text)
    except ValueError:
        told = None
    if isinstance(told, dict):
        text = str(told.get("message") or told.get("error") or text)
    return _cut(text) or f"status {answer.status}"


def _cut(text: str) -> str:
    """On one line, and short: without the middle, because the end says what was dropped."""
    text = " ".join(text.split())
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[: TEXT_LIMIT // 2]} ... {text[-TEXT_LIMIT // 2 :]}"
