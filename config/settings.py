"""The shape of the settings' file: every section with its keys, types, limits and defaults.

What one value can say about itself is checked here; what needs two values (a window that a person
names) or the world outside (a file, a driver) is checked in ``config.load``.  Options of drivers
and rules are not here: each driver and rule has its own.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
FROM_THE_BEGINNING = datetime.date.min


def wrong(zh: str, en: str) -> PydanticCustomError:
    """An error whose sentence is ours, in both languages."""
    return PydanticCustomError("wrong", "{en}", {"zh": zh, "en": en})


def _minute(value: object) -> int:
    found = isinstance(value, str) and re.fullmatch(r"([0-9]{1,2}):([0-5][0-9])", value)
    minute = int(found[1]) * 60 + int(found[2]) if found else 2881
    if minute > 2880:
        raise wrong(
            '应为加引号的时刻，如 "08:30"；次日 02:00 写作 "26:00"，最晚 "48:00"',
            'expected a time in quotes such as "08:30"; 02:00 of the next day is "26:00", "48:00" '
            "the latest",
        )
    return minute


def _month_day(value: object) -> tuple[int, int]:
    found = isinstance(value, str) and re.fullmatch(r"([0-9]{2})-([0-9]{2})", value)
    if found:
        try:
            # 29 February counts: 2000 had one.
            day = datetime.date(2000, int(found[1]), int(found[2]))
        except ValueError:
            pass
        else:
            return day.month, day.day
    raise wrong('应为加引号的月-日，如 "05-01"', 'expected month and day in quotes such as "05-01"')


def _id(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,15}", value):
        raise wrong(
            "应为 1 到 16 个小写字母、数字或连字符，且不以连字符开头",
            "expected 1 to 16 lower-case letters, digits or hyphens, not beginning with a hyphen",
        )
    return value


def _code(value: str) -> str:
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,32}", value):
        raise wrong(
            "应为考勤机上的工号：1 到 32 个字符，无空格",
            "expected the user id on the terminals: 1 to 32 characters without spaces",
        )
    return value


def _name(value: str) -> str:
    if not value.strip() or len(value) > 64 or not value.isprintable():
        raise wrong("应为 1 到 64 个可见字符", "expected 1 to 64 printable characters")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise wrong(
            '应为时区名，如 "Asia/Shanghai"（系统需装有 tzdata）',
            'expected a zone such as "Asia/Shanghai" (the system needs its tzdata)',
        ) from None
    return value


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise wrong("每一项只能出现一次", "expected each only once")
    return value


Weekdays = Annotated[tuple[Weekday, ...], AfterValidator(_once)]
SomeWeekdays = Annotated[tuple[Weekday, ...], AfterValidator(_once), Field(min_length=1)]
Id = Annotated[str, AfterValidator(_id)]
Code = Annotated[str, AfterValidator(_code)]
Name = Annotated[str, AfterValidator(_name)]
Minute = Annotated[int, BeforeValidator(_minute)]
"""Minutes from midnight, written ``"08:30"``."""
Minutes = Annotated[int, Field(ge=0, le=1440)]
MonthDay = Annotated[tuple[int, int], BeforeValidator(_month_day)]
Host = Annotated[str, Field(min_length=1, max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
"""0 takes any free port."""


class Section(BaseModel):
    """Unknown keys are errors; a string is no number and 1 is no ``true``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class HallSettings(Section):
    """大厅."""

    id: Id
    name: Name
    level: Literal["city", "county", "township", "village"] = "county"
    zone: Annotated[str, AfterValidator(_zone)] = "Asia/Shanghai"
    parent: Id | None = None
    """Id of the hall above in the tree of halls."""
    start_date: datetime.date | None = None
    """First date that is judged; none: the date on which the database was made."""
    language: Literal["zh", "en"] = "zh"
    timetable: Name = "standard"
    weekly: Weekdays = ("mon", "tue", "wed", "thu", "fri")
    duty_only: Weekdays = ()
    """Weekdays without window service, on which only those with a roster have to come."""
    people_file: str = ""
    """CSV or XLSX with people, beside or instead of ``[[people]]``."""


class UnitSettings(Section):
    id: Id
    name: Name


class WindowSettings(Section):
    """窗口; ``area`` is the service area it belongs to."""

    id: Id
    name: Name
    unit: Id | None = None
    area: str = ""
    required_open: bool = True
    """Its post is to be staffed in the hall's working time."""


class PersonSettings(Section):
    """工作人员; ``code`` is the user id on the terminals.  No ``devices``: all of them."""

    code: Code
    name: Name
    unit: Id | None = None
    window: Id | None = None
    employed_from: datetime.date | None = None
    employed_until: datetime.date | None = None
    attendance_required: bool = True
    devices: tuple[Id, ...] = ()


class SegmentSettings(Section):
    """班段; tolerances in minutes.  ``accept_on`` and ``accept_off`` are narrow bands in which the
    punch has to be, instead of ``open_before`` and ``close_after``.  Without ``weight`` two
    segments count half a day each, and any other number by their length."""

    name: Name
    starts: Minute
    ends: Minute
    grace: Minutes = 0
    serious: Minutes = 15
    absent: Minutes = 30
    open_before: Minutes = 60
    close_after: Minutes = 60
    min_gap: Minutes = 5
    residual: Minutes = 15
    accept_on: tuple[Minute, Minute] | None = None
    accept_off: tuple[Minute, Minute] | None = None
    weight: Annotated[float, Field(gt=0, le=1)] | None = None


class VersionSettings(Section):
    """A timetable from a date on, all the year or in a season, on all weekdays or some."""

    effective_from: datetime.date = FROM_THE_BEGINNING
    season: tuple[MonthDay, MonthDay] | None = None
    weekdays: SomeWeekdays | None = None
    segments: Annotated[tuple[SegmentSettings, ...], Field(max_length=8)]


class TimetableSettings(Section):
    name: Name
    versions: Annotated[tuple[VersionSettings, ...], Field(min_length=1)]


class RosterSettings(Section):
    """排班 of a person or a window, both dates included.

    ``timetable`` is followed instead of the hall's, ``duty`` names a timetable that is added, or
    says ``rest``.  A single date holds whatever the day is; with ``weekdays`` it holds on those but
    on holidays and closed days; otherwise on the hall's workdays.
    """

    person: Code | None = None
    window: Id | None = None
    first: Annotated[datetime.date, Field(alias="from")]
    until: datetime.date | None = None
    weekdays: SomeWeekdays | None = None
    timetable: str = ""
    duty: str = ""


class OverrideSettings(Section):
    """One date that is not as the calendar says: the hall's own exception or a local notice."""

    date: datetime.date
    kind: Literal["workday", "makeup_workday", "holiday", "rest", "closed", "duty_only"]
    name: str = ""
    as_weekday: Weekday | None = None


class CalendarSettings(Section):
    """``tables``: files in the form of ``config/workdays/2026.toml``, for years to come."""

    overrides: tuple[OverrideSettings, ...] = ()
    tables: tuple[str, ...] = ()


class PolicySettings(Section):
    """``rules.model.Policy``, with the limits of its values."""

    seconds_matter: bool = False
    single_lunch_punch: bool = False
    settle: Minutes = 10
    appeal_workdays: Annotated[int, Field(ge=0, le=60)] = 3
    missing_punch_as: Literal["missing", "late_or_early", "absent_half"] = "missing"
    outage_proof: Minutes = 10
    cluster_seconds: Annotated[int, Field(ge=0, le=600)] = 60
    contested_tickets: Annotated[int, Field(ge=1)] = 3
    contested_cases: Annotated[int, Field(ge=1)] = 2
    contested_sensors: Annotated[int, Field(ge=1)] = 2
    lock_workday: Annotated[int, Field(ge=1, le=15)] = 5


class CounterSettings(Section):
    """``rules.counter.CounterPolicy``, with the limits of its values."""

    same_event_seconds: Annotated[int, Field(ge=0, le=60)] = 5
    repeat_seconds: Annotated[int, Field(ge=0, le=60)] = 5
    skew_seconds: Annotated[int, Field(ge=0, le=3600)] = 120
    match_before: Minutes = 10
    match_after: Minutes = 2
    late_rating_days: Annotated[int, Field(ge=1, le=30)] = 30
    live_minutes: Minutes = 60
    assign_minutes: Minutes = 5
    contact_workdays: Annotated[int, Field(ge=1, le=15)] = 1
    close_workdays: Annotated[int, Field(ge=1, le=15)] = 5
    plan_workdays: Annotated[int, Field(ge=1, le=15)] = 10
    outer_workdays: Annotated[int, Field(ge=1, le=15)] = 15
    review_workdays: Annotated[int, Field(ge=1, le=15)] = 3
    contact_tries: Annotated[int, Field(ge=1, le=20)] = 3
    contact_days: Annotated[int, Field(ge=1, le=15)] = 2


class PresenceSettings(Section):
    """``rules.post.PostPolicy``, with the limits of its values."""

    return_seconds: Annotated[int, Field(ge=0, le=600)] = 10
    activity_seconds: Annotated[int, Field(ge=0, le=3600)] = 120
    pause_minutes: Minutes = 20
    still_counts_as_absent: bool = False


class SnapshotSettings(Section):
    """Evidence pictures: ``false`` for none at all; how long and how many are kept."""

    enabled: bool = True
    keep_days: Annotated[int, Field(ge=1, le=90)] = 7
    max_mb: Annotated[int, Field(ge=1, le=100_000)] = 200


class RuleVersion(Section):
    """What every version of a rule has beside the rule's own options."""

    enabled: bool = True
    effective_from: datetime.date = FROM_THE_BEGINNING


class DeviceSettings(Section):
    """What every device has beside its driver's own options."""

    id: Id
    name: str = ""
    driver: str
    window: Id | None = None
    place: str = ""
    attendance: bool = True
    """Its punches count and its outages excuse."""
    maintainer: str = ""
    """The named technician who mends it."""
    out_of_service: bool = False
    """Not watched, and nobody waits for its data."""


class BoardTexts(Section):
    """Templates of a board's lines; each may name ``{ticket}`` (in ``call`` alone), ``{window}``
    and ``{name}``, the window's."""

    call: Annotated[str, Field(max_length=256)] = "请{ticket}号到{window}号窗口"
    idle: Annotated[str, Field(max_length=256)] = "热情为您服务"
    paused: Annotated[str, Field(max_length=256)] = "暂停服务"


class BoardSettings(Section):
    """显示屏: finished texts over MQTT, and on the LED board ``device`` if it names one.  No
    ``windows``: all of them.  ``max_bytes`` is the room for a line in its ``encoding``."""

    id: Id
    windows: Annotated[tuple[Id, ...], AfterValidator(_once)] = ()
    lines: Annotated[int, Field(ge=1, le=16)] = 1
    texts: BoardTexts = BoardTexts()
    encoding: Literal["utf-8", "gbk", "gb18030"] = "utf-8"
    max_bytes: Annotated[int, Field(ge=8, le=256)] = 64
    device: Id | None = None


class MqttSinkSettings(Section):
    """A broker to deliver to."""

    type: Literal["mqtt"]
    name: Id
    host: Host
    port: Port | None = None
    """None: 1883, or 8883 with ``tls``."""
    client_id: str = ""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive: Annotated[int, Field(ge=5, le=3600)] = 30


class InfluxSinkSettings(Section):
    """An InfluxDB, or anything that takes its writes.  Version ``2`` writes to ``bucket`` with a
    token, ``1`` to ``database`` with a name and password."""

    type: Literal["influx"]
    name: Id
    url: str
    version: Literal["2", "1"] = "2"
    org: str = ""
    bucket: str = ""
    token_file: str = ""
    database: str = ""
    username: str = ""
    password_file: str = ""
    ca_file: str = ""


class BrokerSettings(Section):
    """The broker inside hallwatch, for a hall that has none."""

    embedded: bool = False
    host: Host = "127.0.0.1"
    port: ListenPort = 1883


class ApiSettings(Section):
    host: Host = "127.0.0.1"
    port: ListenPort = 8470


class StorageSettings(Section):
    """``state_dir``: where the database is; empty: ``$STATE_DIRECTORY``, else ``state`` beside the
    settings' file."""

    state_dir: str = ""
    synchronous: Literal["full", "normal"] = "full"
    outbox_limit_rows: Annotated[int, Field(ge=1000)] = 1_000_000
    min_free_mb: Annotated[int, Field(ge=0)] = 200


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


SinkSettings = MqttSinkSettings | InfluxSinkSettings
SINKS: dict[str, type[SinkSettings]] = {"mqtt": MqttSinkSettings, "influx": InfluxSinkSettings}


class Settings(Section):
    """The whole file.  ``rules``, ``devices`` and ``sinks`` are checked one by one, against the
    options of the rule, driver or sink they name."""

    hall: HallSettings
    units: tuple[UnitSettings, ...] = ()
    windows: tuple[WindowSettings, ...] = ()
    people: tuple[PersonSettings, ...] = ()
    timetables: tuple[TimetableSettings, ...] = ()
    rosters: tuple[RosterSettings, ...] = ()
    calendar: CalendarSettings = CalendarSettings()
    policy: PolicySettings = PolicySettings()
    counter: CounterSettings = CounterSettings()
    presence: PresenceSettings = PresenceSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    rules: dict[str, Any] = Field(default_factory=dict)
    devices: tuple[dict[str, Any], ...] = ()
    boards: tuple[BoardSettings, ...] = ()
    sinks: tuple[dict[str, Any], ...] = ()
    broker: BrokerSettings = BrokerSettings()
    api: ApiSettings = ApiSettings()
    storage: StorageSettings = StorageSettings()
    log: LogSettings = LogSettings()
