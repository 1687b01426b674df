"""Requests as they are checked, and answers as OpenAPI describes them.

Only what comes in is validated by these models.  The models of answers are for the document alone:
the rows themselves are made by ``api.views``.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from drivers.counter_json import BATCH_LIMIT, CHANNELS, ID_LIMIT, ORIGINS
from rules.model import DAY, FOLLOW_UP_STEPS, QUEUE_EVENTS, QUEUE_SOURCES, Instant

# --------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.IGNORECASE | re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def _instant(value: object) -> Instant:
    # A plus sign that was not escaped in a query arrives as a space.
    text = value.replace(" ", "+") if isinstance(value, str) else ""
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
        if not _EARLIEST <= moment < _LATEST:
            raise ValueError
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "instant",
            "must be an RFC 3339 time with offset from 2000 to 2099,"
            " such as 2026-03-02T08:30:00+08:00",
        ) from None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND


def _date(value: object) -> date:
    try:
        if not isinstance(value, str) or not _DATE.fullmatch(value):
            raise ValueError
        day = date.fromisoformat(value)
        if not 2000 <= day.year < 2100:
            raise ValueError
    except ValueError:
        raise PydanticCustomError(
            "date", "must be a date from 2000 to 2099, such as 2026-03-02"
        ) from None
    return day


_MILLISECOND = datetime(1970, 1, 1, 0, 0, 0, 1000) - datetime(1970, 1, 1)  # noqa: DTZ001

Time = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "example": "2026-03-02T08:30:00+08:00"}
    ),
]
"""RFC 3339 with offset outside, milliseconds inside."""

Day = Annotated[
    date,
    BeforeValidator(_date),
    WithJsonSchema({"type": "string", "format": "date", "example": "2026-03-02"}),
]


def _month(value: object) -> date:
    try:
        return _date(f"{value}-01")
    except PydanticCustomError:
        raise PydanticCustomError(
            "month", "must be a month from 2000-01 to 2099-12, such as 2026-03"
        ) from None


Month = Annotated[
    date,
    BeforeValidator(_month),
    WithJsonSchema(
        {"type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])$", "example": "2026-03"}
    ),
]
"""``YYYY-MM`` outside, its first date inside."""

Code = Annotated[
    str, StringConstraints(min_length=1, max_length=32, pattern=r"^[^\x00-\x20\x7f/]+$")
]
"""工号: a person's user id on the terminals, as text."""
Name = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, StringConstraints(max_length=16, pattern=r"^[a-z0-9][a-z0-9-]{0,15}$")]
OptionalId = Annotated[str, StringConstraints(max_length=16, pattern=r"^([a-z0-9][a-z0-9-]*)?$")]
AbsenceId = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Note = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]

AbsenceKind = Literal[
    "personal", "sick", "annual", "marriage", "maternity", "paternity", "bereavement",
    "home_visit", "injury", "nursing", "comp_off",
    "official", "field_visit", "site_survey", "meeting", "training", "bureau_errand",
    "group_exemption",
]  # fmt: skip
OUTINGS = frozenset(
    ("official", "field_visit", "site_survey", "meeting", "training", "bureau_errand")
)
LONGEST_ABSENCE = 400 * DAY
LONGEST_RANGE = 31
"""Days that one list of days, slots, violations or punches may span."""
LONGEST_FIGURES = 366
"""Days that figures may be added up over."""

# --------------------------------------------------------------------------------------------
# Queries
# --------------------------------------------------------------------------------------------


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class _Page(_Query):
    limit: int = Field(100, ge=1, le=500, description="每页条数 · rows in the answer")
    cursor: str = Field("", max_length=400, description="上一页的 next · `next` of the page before")


def _people() -> Any:
    return Field(
        default_factory=list, max_length=500, description="工号,可重复 · person code, repeatable"
    )


class _Dates(_Page):
    from_: Day | None = Field(None, alias="from", description="起始日期(含) · first work date")
    to: Day | None = Field(None, description="截止日期(含) · last work date")

    @model_validator(mode="after")
    def _bounded(self) -> _Dates:
        if self.from_ and self.to:
            if self.from_ > self.to:
                raise PydanticCustomError(
                    "range", "`from` must not be after `to`", {"field": "from"}
                )
            if (self.to - self.from_).days >= LONGEST_RANGE:
                raise PydanticCustomError(
                    "range", "`from` and `to` may span at most 31 days", {"field": "to"}
                )
        return self


class DayQuery(_Dates):
    person: list[str] = _people()
    unit: str = Field("", max_length=64, description="单位 · unit id")
    updated_since: Time | None = Field(
        None, description="只要此后更新的 · only rows concluded anew since then"
    )


class ViolationQuery(DayQuery):
    code: str = Field("", max_length=16, description="规则编号,如 ATT-01 · catalogue number")
    state: Literal["active", "withdrawn", "any"] = Field(
        "active", description="withdrawn: 已撤销 · which state"
    )


class AlertQuery(_Dates):
    state: Literal[
        "open", "acknowledged", "resolved", "converted", "expired", "withdrawn", "any"
    ] = Field("any", description="告警状态 · which state")
    subject_kind: Literal["person", "device", "window", "area", "hall", ""] = Field(
        "", description="对象类别 · kind of subject"
    )
    subject: str = Field("", max_length=64, description="对象 · subject")
    severity: int = Field(0, ge=0, le=6, description="最低等级 · at least this severity")
    updated_since: Time | None = Field(None, description="只要此后更新的 · changed since then")


class PunchQuery(_Page):
    person: list[str] = _people()
    device: str = Field("", max_length=64, description="设备 · device id")
    event_from: Time | None = Field(None, description="发生时间起(含) · happened at or after")
    event_to: Time | None = Field(None, description="发生时间止(不含) · happened before")
    received_from: Time | None = Field(None, description="接收时间起(含) · received at or after")
    received_to: Time | None = Field(None, description="接收时间止(不含) · received before")

    @model_validator(mode="after")
    def _one_clock(self) -> PunchQuery:
        event = (self.event_from, self.event_to)
        received = (self.received_from, self.received_to)
        if event != (None, None) and received != (None, None):
            raise PydanticCustomError(
                "two_clocks",
                "filter by `event_from/to` or by `received_from/to`, not by both",
                {"field": "event_from" if event[0] is not None else "event_to"},
            )
        for name, (starts, ends) in (("event", event), ("received", received)):
            if starts is None or ends is None:
                continue
            if starts >= ends:
                raise PydanticCustomError(
                    "range",
                    "`{name}_from` must be before `{name}_to`",
                    {"name": name, "field": f"{name}_from"},
                )
            if ends - starts > LONGEST_RANGE * DAY:
                raise PydanticCustomError(
                    "range",
                    "`{name}_from` and `{name}_to` may span at most 31 days",
                    {"name": name, "field": f"{name}_to"},
                )
        return self


class AbsenceQuery(_Dates):
    person: list[str] = _people()
    state: Literal["approved", "revoked", "any"] = Field(
        "approved", description="revoked: 已撤销 · which state"
    )


class DeviceQuery(_Page):
    pass


class DeviceFiguresQuery(_Query):
    month: Month | None = Field(None, description="月份,默认为本月 · default: this month")


def _windows() -> Any:
    return Field(
        default_factory=list, max_length=500, description="窗口,可重复 · window id, repeatable"
    )


_AREA = Field("", max_length=64, description="服务区 · windows of this service area")


class QueueQuery(_Dates):
    """Without dates the present state; with ``from`` or ``to`` the rows of those dates."""

    window: list[str] = _windows()
    area: str = _AREA


class ServiceQuery(_Dates):
    window: list[str] = _windows()
    area: str = _AREA


class RatingQuery(_Dates):
    window: list[str] = _windows()
    level: int | None = Field(None, ge=1, le=5, description="评价等级 · 5 best, 1 worst")
    bad: bool | None = Field(
        None, description="差评 · levels 1 and 2 that a visitor gave; false: all others"
    )
    follow_up: Literal[
        "any", "opened", "assigned", "contacting", "unreachable", "classified", "acting",
        "fed_back", "rechecked", "closed", "reopened", "",
    ] = Field("", description="整改状态;any: 凡有整改 · state of the follow-up")  # fmt: skip
    channel: Literal["pad", "qr", "kiosk", "sms", "web", "app", "hotline", "paper", ""] = Field(
        "", description="评价渠道 · which way it came"
    )
    matched: bool | None = Field(
        None, description="是否对应到一次办理 · whether it belongs to a service"
    )


class PresenceQuery(_Dates):
    """Without dates the present state; with ``from`` or ``to`` the rows of those dates."""

    window: list[str] = _windows()
    area: str = _AREA


class RatingFiguresQuery(_Query):
    from_: Day | None = Field(
        None, alias="from", description="起始日期(含),默认为截止日期 · first date; default: `to`"
    )
    to: Day | None = Field(None, description="截止日期(含),默认为今天 · last date; default: today")
    window: list[str] = _windows()
    area: str = _AREA


class RevokeQuery(_Query):
    reason: Note = Field("", description="撤销原因 · why")


class ChangeQuery(_Query):
    after: int = Field(0, ge=0, le=2**62, description="上次的 last · `last` of the answer before")
    limit: int = Field(100, ge=1, le=500, description="每页条数 · changes in the answer")


class StreamQuery(_Query):
    after: int | None = Field(
        None,
        ge=0,
        le=2**62,
        description="无 Last-Event-ID 时的起点 · start after this change, where no Last-Event-ID"
        " is sent; without both the stream starts now",
    )


# --------------------------------------------------------------------------------------------
# What other systems push
# --------------------------------------------------------------------------------------------


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AlertNote(_Body):
    by: Name = Field("", description="处理人;默认为令牌名称 · by whom; default: the token's name")
    note: Note = ""


class AbsenceIn(_Body):
    """An approved absence; sent again with the same id it replaces what was said before."""

    id: AbsenceId | None = Field(None, description="来源系统的编号 · the sender's id; or generated")
    people: list[Code] = Field(min_length=1, max_length=500)
    kind: AbsenceKind
    starts: Time
    ends: Time
    punch_required: bool | None = Field(
        None, description="外出须打卡;默认外出为 true · default: true for outings"
    )
    approved_by: Name = ""
    source: Name = ""
    note: Note = ""

    @model_validator(mode="after")
    def _interval(self) -> AbsenceIn:
        if self.starts >= self.ends:
            raise PydanticCustomError(
                "interval", "`starts` must be before `ends`", {"field": "starts"}
            )
        if self.ends - self.starts > LONGEST_ABSENCE:
            raise PydanticCustomError(
                "interval", "an absence may last at most 400 days", {"field": "ends"}
            )
        return self


class Spell(_Body):
    from_: Day = Field(alias="from")
    to: Day | None = None

    @model_validator(mode="after")
    def _order(self) -> Spell:
        if self.to and self.from_ > self.to:
            raise PydanticCustomError(
                "interval", "`from` must not be after `to`", {"field": "from"}
            )
        return self


class PersonIn(_Body):
    """工作人员, whole: what is left out gets its default."""

    name: Name = ""
    unit: OptionalId = ""
    window: OptionalId = ""
    attendance_required: bool = True
    employed: list[Spell] = Field(
        default_factory=list, max_length=50, description="在职期间;空为始终 · none: always"
    )
    devices: list[Id] = Field(
        default_factory=list, max_length=200, description="可用考勤机;空为全部 · none: all"
    )


class RosterIn(_Body):
    """排班: a timetable by name, or no obligation (``duty`` is ``rest``), or ``removed`` to go back
    to what the hall's timetable says."""

    timetable: Name = ""
    duty: Literal["", "rest"] = ""
    removed: bool = False

    @model_validator(mode="after")
    def _one(self) -> RosterIn:
        if bool(self.timetable) + bool(self.duty) + self.removed != 1:
            raise PydanticCustomError(
                "roster",
                "give exactly one of `timetable`, `duty` and `removed`",
                {"field": "timetable"},
            )
        return self


class ManualPunch(_Body):
    """纸质签到: from the paper sheet that was used while a terminal was out of order."""

    kind: Literal["manual_punch"]
    person: Code
    at: Time
    by: Name = ""
    note: Note = ""


class PunchCorrection(_Body):
    """补卡: an approved correction; the original readings stay."""

    kind: Literal["punch_correction"]
    person: Code
    at: Time
    by: Name = ""
    note: Note = ""


class SeenAtWork(_Body):
    """在岗证据: a ticket called, a case closed, or ``seen`` by a sensor."""

    kind: Literal["ticket_called", "case_closed", "seen"]
    person: Code
    at: Time
    window: OptionalId = ""
    sensor: Name = Field("", description="看到者(seen 必填) · what saw the person; for `seen`")

    @model_validator(mode="after")
    def _sensor(self) -> SeenAtWork:
        if self.kind == "seen" and not self.sensor:
            raise PydanticCustomError("sensor", "`seen` must name its sensor", {"field": "sensor"})
        return self


class ExplainedGap(_Body):
    """失联说明: whether a terminal that could not be reached was usable meanwhile."""

    kind: Literal["gap_explained"]
    device: Id
    starts: Time
    ends: Time
    usable: bool
    by: Name = ""

    @model_validator(mode="after")
    def _interval(self) -> ExplainedGap:
        if self.starts >= self.ends:
            raise PydanticCustomError(
                "interval", "`starts` must be before `ends`", {"field": "starts"}
            )
        return self


def _step(told: str) -> str:
    if told not in FOLLOW_UP_STEPS:
        raise PydanticCustomError("step", "must be one of " + ", ".join(FOLLOW_UP_STEPS))
    return told


class FollowUpIn(_Body):
    """差评整改: a step in the follow-up of a bad rating.  ``malicious`` counts when two different
    people said it."""

    kind: Literal["follow_up"] = "follow_up"
    rating_id: Annotated[str, StringConstraints(min_length=1, max_length=ID_LIMIT)]
    step: Annotated[str, AfterValidator(_step), WithJsonSchema({"enum": list(FOLLOW_UP_STEPS)})]
    at: Time
    by: Name = Field("", description="谁;默认为令牌名称 · by whom; default: the token's name")
    handler: Name = Field("", description="责任人 · who is to handle it, from now on")
    note: Note = ""


class VacancyReview(_Body):
    """空岗复核: a person looked at a vacancy and confirmed or dismissed it; the newest review
    holds.  ``vacancy`` is its id in ``/v1/presence``, which is its alert's too."""

    kind: Literal["post_review"]
    window: Id
    work_date: Day
    vacancy: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    verdict: Literal["confirmed", "dismissed"]
    at: Time
    by: Name = Field("", description="谁;默认为令牌名称 · by whom; default: the token's name")
    note: Note = ""


class StandIn(_Body):
    """顶岗: somebody stands in at a window.  The newest entry of an id holds."""

    kind: Literal["substitution"]
    substitution_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    window: Id
    substitute: Code
    starts: Time
    ends: Time
    person: Code | Literal[""] = Field("", description="被顶替者 · who is replaced; may be empty")
    revoked: bool = False

    @model_validator(mode="after")
    def _interval(self) -> StandIn:
        if self.starts >= self.ends:
            raise PydanticCustomError(
                "interval", "`starts` must be before `ends`", {"field": "starts"}
            )
        return self


StaffEvent = Annotated[
    ManualPunch | PunchCorrection | SeenAtWork | ExplainedGap | VacancyReview | StandIn,
    Field(discriminator="kind"),
]
EVENT_KINDS = frozenset(
    ("manual_punch", "punch_correction", "ticket_called", "case_closed", "seen", "gap_explained",
     "post_review", "substitution")
)  # fmt: skip


# ``drivers.counter_json`` reads these two; the models tell the document what it takes.
_Number = Annotated[int, Field(ge=0, le=99_999)]
_Word = Annotated[str, Field(max_length=64)]
_Choice = {"type": "string"}


class QueueEventIn(BaseModel):
    """叫号事件, as over MQTT.  Without ``event_id`` it is known by window, ticket, type and time
    (and ``seq``).  A time more than 120 s ahead of ours is not believed: that of receipt is."""

    kind: Literal["queue"] = Field("queue", description="可省 · may be left out")
    type: Annotated[str, WithJsonSchema({**_Choice, "enum": list(QUEUE_EVENTS)})]
    at: Time
    event_id: str = Field("", max_length=ID_LIMIT)
    window: _Word | _Number = Field(
        "", description="窗口;5、05、5号相同;取号等可省 · needed but for ticket_taken"
    )
    ticket: _Word | _Number = Field("", description="号票 · needed for what happens to a ticket")
    queue: _Word = ""
    service_code: _Word = ""
    person: _Word = Field("", description="工号 · who was logged in")
    call_no: int | None = Field(None, ge=1, le=1_000)
    to: _Word = Field("", description="转移去向 · window or queue of a transfer")
    waiting: int | None = Field(
        None, ge=0, le=100_000, description="等候人数;未知为 null · never a guess"
    )
    priority: bool = False
    source: Annotated[str, WithJsonSchema({**_Choice, "enum": list(QUEUE_SOURCES)})] = "api"
    uncertainty: int = Field(0, ge=0, le=3_600_000, description="毫秒 · ms either way")


class RatingIn(BaseModel):
    """评价, as from pads.  Telephone and ID numbers in ``text`` are masked; names, telephones and
    documents of the rater have no field and are kept nowhere."""

    kind: Literal["rating"] = Field("rating", description="可省 · may be left out")
    rating_id: str = Field(min_length=1, max_length=ID_LIMIT)
    window: _Word | _Number
    level: int | None = Field(ge=1, le=5, description="5 非常满意 … 1;未评价为 null · or null")
    scale_id: _Word = Field("", description="five four three … · levels of two scales never mix")
    channel: Annotated[str, WithJsonSchema({**_Choice, "enum": list(CHANNELS)})]
    pressed_at: Time | None = Field(None, description="评价时间;默认为接收时间 · when")
    raw_key: str = Field("", max_length=32, pattern="^[0-9A-Fa-f]*$")
    person: _Word = Field("", description="工号 · who served")
    service_ref: _Word = Field("", description="号票或办件 · ticket or case")
    session: _Word = ""
    options: list[_Word] = Field(default_factory=list, max_length=50)
    indicator_version: _Word = ""
    text: str = ""
    named: bool = Field(False, description="实名 · to be called back")
    defaulted: bool = Field(False, description="他方默认评价 · silence counted as a level")
    origin: Annotated[str, WithJsonSchema({**_Choice, "enum": list(ORIGINS)})] = "unknown"


_AnyEvent = StaffEvent | QueueEventIn | RatingIn | FollowUpIn


def _batch(value: object) -> object:
    if not isinstance(value, dict | list):
        raise PydanticCustomError("batch", "must be an event or a list of events")
    if isinstance(value, list) and not 1 <= len(value) <= BATCH_LIMIT:
        raise PydanticCustomError("batch", "must have 1 to 500 events")
    return value


EventBatch = Annotated[
    Any,
    BeforeValidator(
        _batch,
        _AnyEvent | Annotated[list[_AnyEvent], Field(min_length=1, max_length=BATCH_LIMIT)],
    ),
]
"""One event or a list of them, each to be read by itself."""


# --------------------------------------------------------------------------------------------
# Answers, for the document only
# --------------------------------------------------------------------------------------------

_Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
_Date = Annotated[str, WithJsonSchema({"type": "string", "format": "date"})]
RowT = TypeVar("RowT")


class Listing(BaseModel, Generic[RowT]):
    items: list[RowT]
    next: str | None = Field(description="下一页的 cursor · cursor of the next page, if any")


class SlotRow(BaseModel):
    person_code: str
    unit: str
    work_date: _Date
    segment: str
    slot: str
    target: _Instant
    opens: _Instant
    closes: _Instant
    event_time: _Instant | None
    verdict: str
    verdict_zh: str
    minutes: int
    finality: str
    revision: int
    absence_ref: str
    evidence: list[str]
    device: str
    device_sn: str
    source: str
    path: str
    flags: list[str]
    rule_version: str
    updated_at: _Instant


class HalfRow(BaseModel):
    segment: str
    verdict: str
    verdict_zh: str
    findings: list[str]
    minutes_due: int
    weight: float
    excused_as: str
    finality: str
    live: str


class DayRow(BaseModel):
    person_code: str
    unit: str
    work_date: _Date
    day_kind: str
    calendar: str
    verdict: str
    verdict_zh: str
    attended: float
    expected: float
    points: float
    halves: list[HalfRow]
    strays: list[str]
    finality: str
    favoured: bool
    rule_version: str
    revision: int
    updated_at: _Instant


class ViolationRow(BaseModel):
    id: str
    rule: str
    code: str
    person_code: str
    unit: str
    work_date: _Date
    segment: str
    window: str = Field(description="岗位所在窗口 · the window of a post, empty for attendance")
    severity: int = Field(description="0 normal, 1 notice, 2 yellow, 5 red, 6 serious")
    points: float
    minutes: int
    since: _Instant
    until: _Instant
    finality: str
    state: Literal["active", "withdrawn"]
    reason: str
    title: str
    detail: str
    flags: list[str]
    evidence: list[str]
    revision: int
    updated_at: _Instant


class VacancyRow(BaseModel):
    id: str
    segment: str
    began_at: _Instant
    ended_at: _Instant | None = Field(description="none while it goes on")
    minutes: int = Field(description="没有人的整分钟 · whole minutes in which nobody was there")
    left: bool = Field(description="此前有人 · somebody had been there before")
    person_code: str = Field(description="当班者;不能确定时为空 · empty where not certain")
    people: list[str] = Field(description="当时在班的人 · everybody on duty then")
    signals: list[str] = Field(description="一致的信号 · kinds of signal that agree")
    confirmed: bool = Field(description="两类信号一致或经人工确认 · more than a camera says so")
    review: Literal["confirmed", "dismissed", ""]
    waiting: int | None
    snapshots: list[str]
    evidence: list[str]


class PostRow(BaseModel):
    window: str
    work_date: _Date
    state: Literal["present", "still", "away", "excused", "learning", "unknown", "closed"]
    state_zh: str
    since: _Instant
    evidence: list[str]
    staffed_minutes: RatioRow
    unknown_minutes: RatioRow
    vacancies: list[VacancyRow]
    revision: int
    updated_at: _Instant


class AlertRow(BaseModel):
    id: str
    rule: str
    code: str
    subject_kind: str
    subject: str
    unit: str
    work_date: _Date
    severity: int
    opened_at: _Instant
    ends_at: _Instant | None
    state: Literal["open", "acknowledged", "resolved", "converted", "expired", "withdrawn"]
    reason: str
    title: str
    detail: str
    evidence: list[str]
    inhibited_by: str
    acknowledged_by: str
    acknowledged_at: _Instant | None
    note: str
    revision: int
    updated_at: _Instant


class AlertReceipt(BaseModel):
    alert_id: str
    action: Literal["acknowledge", "resolve"]
    by: str
    note: str
    at: _Instant


class PunchRow(BaseModel):
    id: str
    person_code: str
    device: str
    device_sn: str
    device_time: _Instant
    received_time: _Instant
    event_time: _Instant
    trust: Literal["device", "corrected", "received", "quarantined"]
    earliest: _Instant | None
    source: str
    live: bool
    verify: int | None
    state: int | None
    record_no: str
    work_code: str
    note: str


class DeviceRow(BaseModel):
    id: str
    name: str
    driver: str
    window: str
    attendance: bool
    in_service: bool
    state: Literal["online", "offline", "unknown"]
    since: _Instant | None
    reason: str
    clock_offset_ms: int | None
    clock_checked_at: _Instant | None
    complete_until: _Instant | None
    last_reading_at: _Instant | None
    punches: int
    unreadable: int
    info: dict[str, Any]
    last_error: str
    live: dict[str, Any] = Field(description="驱动的即时状态 · the driver's live facts")


class DeviceListing(Listing[DeviceRow]):
    seen_not_configured: list[dict[str, Any]] = Field(
        description="有通信但未在配置中 · called us without being in the settings"
    )


class _VideoFigures(BaseModel):
    online_rate: RatioRow = Field(
        description="在线率 · minutes in contact of the minutes of the hall's working time"
    )
    health_rate: RatioRow = Field(
        description="完好率 · camera-days without a fault of all camera-days"
    )
    recording_rate: RatioRow = Field(
        description="录像完整率 · minutes recorded of those that the recorder was asked about"
    )


class HallVideoFigures(_VideoFigures):
    cameras: int


class CameraFigures(_VideoFigures):
    device: str
    name: str


class DeviceFigures(BaseModel):
    month: str = Field(pattern=r"^\d{4}-\d{2}$")
    as_of: _Instant
    hall: HallVideoFigures
    items: list[CameraFigures]


class AbsenceRow(BaseModel):
    id: str
    people: list[str]
    kind: str
    starts: _Instant
    ends: _Instant
    punch_required: bool
    approved_by: str
    source: str
    note: str
    state: Literal["approved", "revoked"]
    reason: str
    received_at: _Instant


class SpellRow(BaseModel):
    from_: _Date = Field(alias="from")
    to: _Date | None


class PersonRow(BaseModel):
    code: str
    name: str
    unit: str
    window: str
    attendance_required: bool
    employed: list[SpellRow]
    devices: list[str]


class RosterRow(BaseModel):
    person_code: str
    work_date: _Date
    timetable: str
    duty: str
    removed: bool


class EventReceipt(BaseModel):
    recorded: int
    readings: list[str] = Field(description="reading ids; a repeat of a fact has the same id")


class ItemReceipt(BaseModel):
    status: Literal["stored", "duplicate", "rejected"]
    reading: str = Field("", description="not where it was rejected")
    field: str = Field("", description="what is wrong; empty for the whole item")
    reason: str = ""


class ItemReceipts(BaseModel):
    """逐条结果: the answer for events of the counter, in the order in which they were sent."""

    recorded: int
    items: list[ItemReceipt]


class RatioRow(BaseModel):
    n: int
    of: int


class FairRow(BaseModel):
    n: float
    of: int


class DurationsRow(BaseModel):
    n: int
    minutes_sum: float
    mean_minutes: float | None
    longest_minutes: float | None


class ScaleRow(BaseModel):
    scale_id: str
    satisfied: RatioRow = Field(description="满意率 · levels 3 to 5")
    strict: RatioRow = Field(description="levels 4 and 5")
    bad: RatioRow = Field(description="差评率 · levels 1 and 2")
    levels: list[int] = Field(min_length=5, max_length=5, description="counts of levels 1 to 5")
    mean: float


class HourRow(BaseModel):
    hour: int
    called: int
    finished: int
    abandoned: int
    waits: DurationsRow
    services: DurationsRow


class WindowFiguresRow(BaseModel):
    called: int
    finished: int
    abandoned: int
    held: int
    transferred: int
    ended_unknown: int
    rated: RatioRow = Field(description="测评率 · of the services that could be rated")
    prompted: RatioRow
    scales: list[ScaleRow]
    additional: int
    unmatched: int
    unrated_presses: int
    waits: DurationsRow
    services: DurationsRow
    callbacks: RatioRow
    rectified: RatioRow
    in_time: RatioRow
    hours: list[HourRow]


class UnmatchedRow(BaseModel):
    ticket: str
    since: _Instant
    device: str


class WindowRow(BaseModel):
    window: str
    name: str
    area: str
    unit: str
    work_date: _Date
    state: Literal["idle", "calling", "serving", "finished", "paused", "closed", "unknown"]
    state_zh: str
    since: _Instant | None
    ticket: str
    queue: str
    person_code: str
    called_at: _Instant | None
    repeat: int | None
    call_seq: int | None = Field(description="每次呼叫递增 · rises with every call of the hall")
    waiting: int | None = Field(description="等候人数,未知为 null")
    stale: bool
    event: str = Field(description="仅见于变更 · in changes: what just happened")
    event_at: _Instant | None
    figures: WindowFiguresRow
    unmatched_shown: list[UnmatchedRow]
    revision: int
    updated_at: _Instant | None


class AreaHourRow(BaseModel):
    hour: int
    taken: int
    called: int
    finished: int
    abandoned: int
    waits: DurationsRow
    waiting: int | None


class AreaRow(BaseModel):
    area: str
    work_date: _Date
    waiting: int | None
    open_windows: int
    waits: DurationsRow
    hours: list[AreaHourRow]
    revision: int
    updated_at: _Instant


class QueueListing(Listing[WindowRow]):
    today: _Date = Field(description="大厅当日 · the date at the hall")
    areas: list[AreaRow] = Field(description="本页窗口所属服务区 · of the windows on this page")


class ServiceRow(BaseModel):
    window: str
    work_date: _Date
    ticket: str
    queue: str
    service_code: str
    person_code: str
    taken_at: _Instant | None
    called_at: _Instant | None
    started_at: _Instant | None
    finished_at: _Instant | None
    ended: Literal["finished", "abandoned", "held", "transferred", "ended_unknown", "open"]
    ended_at: _Instant | None
    waited_seconds: float | None
    served_seconds: float | None
    recalls: int | None
    priority: bool
    to: str
    sources: list[str]
    prompted: bool
    rating_id: str
    additional: list[str]
    flags: list[str]
    evidence: list[str]


class DueRow(BaseModel):
    step: str
    at: _Instant | None
    done_at: _Instant | None


class FollowUpRow(BaseModel):
    state: str
    opened_at: _Instant
    taken_up_at: _Instant | None
    handler: str
    kind: str
    tries: int
    contacted: bool
    closed_at: _Instant | None
    reopened: int
    excluded: bool
    dues: list[DueRow]
    flags: list[str]


class RatingRow(BaseModel):
    rating_id: str
    work_date: _Date = Field(description="办理之日 · of the service it belongs to")
    window: str
    level: int | None
    scale_id: str
    channel: str
    pressed_at: _Instant
    received_at: _Instant
    person_code: str = Field(description="工作人员 · who served; the rater is not known")
    ticket: str
    match: Literal["matched", "additional", "unmatched"]
    counted: bool
    named: bool
    defaulted: bool
    origin: str
    problem: str
    live: bool
    flags: list[str]
    follow_up: FollowUpRow | None
    evidence: list[str]
    revision: int
    updated_at: _Instant


class StepRow(BaseModel):
    at: _Instant
    step: str
    by: str
    handler: str
    note: str


class RatingDetail(RatingRow):
    options: list[str]
    indicator_version: str
    text: str
    steps: list[StepRow]


class FairScaleRow(ScaleRow):
    fair: FairRow = Field(
        description="排名用满意率 · (satisfied + 20 × the hall's rate) of (rated + 20)"
    )


class _RatingTotals(BaseModel):
    days: int
    rated: RatioRow
    prompted: RatioRow
    additional: int
    unmatched: int
    unrated_presses: int
    callbacks: RatioRow
    rectified: RatioRow
    in_time: RatioRow
    scales: list[FairScaleRow]


class HallRatings(_RatingTotals):
    pass


class WindowRatings(_RatingTotals):
    window: str
    name: str
    area: str
    unit: str


class RatingFigures(BaseModel):
    from_: _Date = Field(alias="from")
    to: _Date
    hall: HallRatings = Field(
        description="全大厅 · the whole hall, whichever windows were asked for"
    )
    items: list[WindowRatings]


class ChangeRow(BaseModel):
    seq: int
    kind: Literal[
        "attendance", "violation", "alert", "device", "adjustment", "window", "rating", "area"
    ]
    op: Literal["opened", "amended", "withdrawn"]
    key: str
    at: _Instant
    reason: str
    row: dict[str, Any]


class ChangeListing(BaseModel):
    items: list[ChangeRow]
    next: int | None = Field(description="还有更多时的 after · `after` of the next page, if any")
    last: int = Field(description="已读到的序号 · where this answer ends; ask again after it")
    latest: int = Field(description="最新序号 · the newest change there is")


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    ready: Literal[True]
    reasons: list[str]


class Offence(BaseModel):
    field: str
    location: Literal["query", "path", "header", "body"]
    detail: str


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str = Field(description="中文")
    status: int
    detail: str
    errors: list[Offence] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)


def problem_schemas() -> dict[str, Any]:
    """The schemas of a problem, as OpenAPI components."""
    schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "ProblemBody": schema}
