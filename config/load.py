"""Reads the settings and builds from them what the daemon runs on: ``load(path) -> Hall``.

Every error in the settings is found in one go; each is a sentence that names the file, the line,
the value, what was found and what was expected.  Nothing is connected to, and no secret is kept:
they stay in their own files, named by ``..._file`` keys, and are read by whoever uses them.

Drivers and rules are found by name: ``drivers.<name>`` has a ``DRIVER`` with its ``options``,
``rules.<name>`` has a ``RULE``.  There is no list to extend.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from string import Formatter
from typing import Annotated, Any, TypeVar, get_args, get_type_hints
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct, structs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

import drivers
import rules
from config.calendar import YearTable, build_calendar, read_table
from config.settings import (
    FROM_THE_BEGINNING,
    SINKS,
    WEEKDAYS,
    ApiSettings,
    BoardSettings,
    BoardTexts,
    BrokerSettings,
    CalendarSettings,
    CounterSettings,
    DeviceSettings,
    HallSettings,
    InfluxSinkSettings,
    LogSettings,
    PersonSettings,
    PolicySettings,
    PresenceSettings,
    RosterSettings,
    RuleVersion,
    Section,
    SegmentSettings,
    Settings,
    SinkSettings,
    SnapshotSettings,
    StorageSettings,
    TimetableSettings,
    UnitSettings,
    VersionSettings,
    WindowSettings,
)
from config.source import Document, KeyPath, Place, Problem, SettingsError, read_document, spell
from config.tables import TableErrors, read_people
from rules.counter import CounterPolicy
from rules.engine import Rulebook
from rules.model import DayKind, Instant, Person, Policy, RosterEntry, SegmentRule
from rules.post import PostPolicy
from rules.workdays import (
    Calendar,
    Timetable,
    TimetableVersion,
    appeal_ends,
    month_locks,
)

STANDARD = Timetable(
    "standard",
    (
        TimetableVersion(
            FROM_THE_BEGINNING,
            (SegmentRule("am", 510, 720), SegmentRule("pm", 870, 1080)),
        ),
    ),
)
"""08:30-12:00 and 14:30-18:00, unless the settings have a ``standard`` of their own."""

SAMPLE_TICKET = "A037"
"""Stands for any ticket where the length of a board's text is checked."""

_MAX_SECRET = 4096
_RESERVED = ("hallwatch", "api", "import")
"""What ``Reading.device`` says where there is no device."""


# --------------------------------------------------------------------------------------------
# What the daemon runs on
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device; ``options`` is its driver's own, ``driver`` the module's name in ``drivers``."""

    id: str
    name: str
    driver: str
    window: str
    place: str
    attendance: bool
    in_service: bool
    options: Any
    camera: bool = False
    watches: tuple[str, ...] = ()
    """The windows whose posts it sees."""
    maintainer: str = ""


class Roster(Struct, frozen=True):
    """One roster of the settings, for a person or a window; both dates included."""

    first: date
    until: date | None
    weekdays: tuple[int, ...] | None
    timetable: str
    duty: str

    def applies(self, day: date, kind: DayKind, weekday: int) -> bool:
        """A single date holds whatever the day is.  Rest holds on every date of its span, with
        ``weekdays`` on those.  Work with ``weekdays`` holds on those but on holidays and closed
        days, and without them on workdays."""
        if day < self.first or (self.until is not None and day > self.until):
            return False
        if self.first == self.until:
            return True
        if self.weekdays is not None:
            if weekday not in self.weekdays:
                return False
            return self.duty == "rest" or kind.kind not in ("holiday", "closed")
        return self.duty == "rest" or kind.works


@dataclass(frozen=True)
class Hall:
    """One hall as the settings describe it.

    ``people`` are those of the settings, not those who came by import or the API.  ``warnings``
    are sentences about settings that can be used but look wrong.  ``settings_hash`` changes with
    everything that judgements depend on, and with nothing else.
    """

    id: str
    name: str
    level: str
    parent: str
    language: str
    zone: ZoneInfo
    start_date: date | None
    units: Mapping[str, str]
    """Names by id."""
    windows: Mapping[str, WindowSettings]
    people: Mapping[str, Person]
    calendar: Calendar
    timetables: Mapping[str, Timetable]
    timetable: str
    rosters: Mapping[tuple[str, str], tuple[Roster, ...]]
    """By ``("person", code)`` or ``("window", id)``, the latest first."""
    policy: Policy
    counter: CounterPolicy
    presence: PostPolicy
    snapshots: SnapshotSettings
    rulebook: Rulebook
    devices: tuple[DeviceSpec, ...]
    boards: tuple[BoardSettings, ...]
    """Each with the windows that it shows."""
    sinks: tuple[SinkSettings, ...]
    broker: BrokerSettings
    api: ApiSettings
    storage: StorageSettings
    state_dir: Path
    log: LogSettings
    warnings: tuple[str, ...]
    settings_hash: str
    _appeals: dict[date, Instant] = field(default_factory=dict, init=False, repr=False)
    _locks: dict[date, Instant] = field(default_factory=dict, init=False, repr=False)
    _segments: dict[tuple[str, date], tuple[SegmentRule, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def segment_rules(
        self, person: Person, day: date, roster_entry: RosterEntry | None = None
    ) -> tuple[SegmentRule, ...]:
        """What the person is to do on the date, sorted as the timetable is; nothing on days off.

        The entry given (imported or pushed) comes before the person's roster of the settings, that
        before the window's, and that before the hall's own timetable.  ``duty`` adds the segments
        of the timetable it names, under the name ``duty``.  A timetable that no longer exists
        expects nothing.
        """
        kind = self.calendar.kind(day)
        entry = self._roster(person, day, kind) if _gone(roster_entry) else roster_entry
        if entry is None:
            return self._on(self.timetable, day) if kind.works else ()
        if entry.duty == "rest":
            return ()
        if entry.timetable:
            base = self._on(entry.timetable, day)
        else:
            base = self._on(self.timetable, day) if kind.works else ()
        return _with_duty(base, self._on(entry.duty, day)) if entry.duty else base

    def closed(self, at: Instant) -> bool:
        """Whether an instant lies outside the hall's working time."""
        local = datetime.fromtimestamp(at / 1000, self.zone)
        for back in (0, 1):  # a segment may end after midnight
            day = local.date() - timedelta(days=back)
            minute = local.hour * 60 + local.minute + back * 1440
            if any(one.starts <= minute < one.ends for one in self.segment_rules(Person(""), day)):
                return False
        return True

    def appeal_ends(self, day: date) -> Instant:
        """End of the appeal window for facts of the date."""
        if (ends := self._appeals.get(day)) is None:
            if len(self._appeals) > 5_000:
                self._appeals.clear()
            ends = appeal_ends(day, self.policy.appeal_workdays, self.calendar, self.zone)
            self._appeals[day] = ends
        return ends

    def locks_at(self, day: date) -> Instant:
        """When the date's month is closed: the end of the 5th workday of the next month."""
        month = day.replace(day=1)
        if (locks := self._locks.get(month)) is None:
            if len(self._locks) > 5_000:
                self._locks.clear()
            locks = month_locks(month, self.policy.lock_workday, self.calendar, self.zone)
            self._locks[month] = locks
        return locks

    def _on(self, timetable: str, day: date) -> tuple[SegmentRule, ...]:
        key = (timetable, day)
        if (segments := self._segments.get(key)) is None:
            if len(self._segments) > 5_000:
                self._segments.clear()
            found = self.timetables.get(timetable)
            segments = () if found is None else found.on(day, self.calendar.weekday(day))
            self._segments[key] = segments
        return segments

    def _roster(self, person: Person, day: date, kind: DayKind) -> Roster | None:
        if not self.rosters:
            return None
        weekday = self.calendar.weekday(day)
        if weekday >= 5 and kind.kind == "makeup_workday":
            # Worked like a Monday unless the calendar says like which day.
            weekday = 0
        for key in (("person", person.code), ("window", person.window)):
            for roster in self.rosters.get(key, ()):
                if roster.applies(day, kind, weekday):
                    return roster
        return None


def _gone(entry: RosterEntry | None) -> bool:
    return entry is None or entry.removed


def _with_duty(
    base: tuple[SegmentRule, ...], duty: tuple[SegmentRule, ...]
) -> tuple[SegmentRule, ...]:
    """Both, the duty only where the other segments leave time; by their length they weigh together
    what the other segments weighed."""
    added: list[SegmentRule] = []
    for rule in duty:
        starts, ends = rule.starts, rule.ends
        for other in sorted(base, key=lambda segment: segment.starts):
            if other.starts <= starts < other.ends:
                starts = other.ends
            elif starts < other.starts < ends:
                ends = other.starts
        if starts < ends:
            name = "duty" if not added else f"duty+{len(added) + 1}"
            added.append(structs.replace(rule, name=name, starts=starts, ends=ends))
    if not base:
        return tuple(added)
    both = [*base, *added]
    minutes = sum(rule.ends - rule.starts for rule in both)
    weight = sum(rule.weight for rule in base)
    return tuple(
        structs.replace(rule, weight=weight * (rule.ends - rule.starts) / minutes) for rule in both
    )


# --------------------------------------------------------------------------------------------
# Secrets
# --------------------------------------------------------------------------------------------

_SECRETS = {"password", "passwd", "passphrase", "secret", "token", "access_token"}
_SECRETS |= {"comm_key", "api_key", "private_key"}
"""Keys whose value may not stand in the settings; ``<key>_file`` names the file that has it."""


def read_secret(path: str | Path) -> str:
    """What a secret's file holds, without the line end.  Raises ``ValueError`` with a sentence,
    which never contains the secret."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_SECRET + 1)
        secret = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if not secret:
        raise ValueError(f"{path} is empty")
    if len(raw) > _MAX_SECRET:
        raise ValueError(f"{path} is larger than {_MAX_SECRET} bytes: not a secret")
    return secret


# --------------------------------------------------------------------------------------------
# Sentences
# --------------------------------------------------------------------------------------------

_EXPECTED = {
    "missing": ("缺少必填项", "required, but missing"),
    "string_type": ("应为加引号的文字", "expected text in quotes"),
    "string_too_short": ("不能为空", "must not be empty"),
    "string_too_long": ("最多 {max_length} 个字符", "expected at most {max_length} characters"),
    "int_type": ("应为整数", "expected a whole number"),
    "int_from_float": ("应为整数", "expected a whole number"),
    "float_type": ("应为数字", "expected a number"),
    "finite_number": ("应为有限的数字", "expected a finite number"),
    "bool_type": ("应为 true 或 false（不加引号）", "expected true or false, without quotes"),
    "date_type": ("应为日期，如 2026-03-02（不加引号）", "expected a date such as 2026-03-02"),
    "tuple_type": ("应为数组，如 [ ... ]", "expected an array, [ ... ]"),
    "list_type": ("应为数组，如 [ ... ]", "expected an array, [ ... ]"),
    "model_type": ("应为表，如 {{ ... }} 或 [...] 一节", "expected a table"),
    "dict_type": ("应为表，如 {{ ... }} 或 [...] 一节", "expected a table"),
    "literal_error": ("应为以下之一：{expected}", "expected one of {expected}"),
    "greater_than": ("应大于 {gt}", "expected more than {gt}"),
    "greater_than_equal": ("应不小于 {ge}", "expected at least {ge}"),
    "less_than": ("应小于 {lt}", "expected less than {lt}"),
    "less_than_equal": ("应不大于 {le}", "expected at most {le}"),
    "too_short": ("至少要有 {min_length} 项", "expected at least {min_length} items"),
    "too_long": ("最多 {max_length} 项", "expected at most {max_length} items"),
    "string_pattern_mismatch": ("格式应符合 {pattern}", "expected the form {pattern}"),
}


def _sentence(error: ErrorDetails) -> tuple[str, str]:
    """What was expected, in Chinese and English."""
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "wrong":
        return context["zh"], context["en"]
    if kind.startswith("date_"):
        kind = "date_type"
    if kind in _EXPECTED:
        zh, en = _EXPECTED[kind]
        choices = {"expected": str(context.get("expected", "")).replace(" or ", ", ")}
        return zh.format(**{**context, **choices}), en.format(**context)
    return f"值不合要求（{error['msg']}）", error["msg"]


def _shown(value: object) -> str:
    text = _json(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _json(value: object) -> str:
    """TOML has dates, JSON has none: as text they are read back."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _listed(names: Iterable[str]) -> tuple[str, str]:
    known = sorted(names)
    return "、".join(known), ", ".join(known)


_Model = TypeVar("_Model", bound=BaseModel)


# --------------------------------------------------------------------------------------------
# Options of drivers and rules
# --------------------------------------------------------------------------------------------


@cache
def _options_model(options: type) -> type[BaseModel]:
    """A model with the fields of a dataclass or struct; what has a ``_file`` twin is left out."""
    hints = get_type_hints(options, include_extras=True)
    shape: dict[str, Any] = {}
    if is_dataclass(options):
        for entry in dataclass_fields(options):
            if entry.init:
                needed = entry.default is MISSING and entry.default_factory is MISSING
                shape[entry.name] = (_bounded(hints[entry.name]), ... if needed else None)
    else:
        for known in structs.fields(options):
            shape[known.name] = (_bounded(hints[known.name]), ... if known.required else None)
    for name in [name for name in shape if f"{name}_file" in shape]:
        del shape[name]
    return create_model(
        options.__name__,
        __config__=ConfigDict(**Section.model_config, protected_namespaces=()),
        **shape,
    )


def _bounded(hint: Any) -> Any:
    """msgspec's limits in the words of pydantic."""
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, msgspec.Meta):
            limits = {
                name: limit
                for name in ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
                if (limit := getattr(note, name)) is not None
            }
            return Annotated[get_args(hint)[0], Field(**limits)]
    return hint


def _construct(options: type, values: dict[str, Any]) -> Any:
    """Raises ``ValueError`` with the sentence of the options themselves."""
    if issubclass(options, Struct):
        return msgspec.convert(values, options)
    return options(**values)


def _rule_classes() -> dict[str, type]:
    """Every rule there is, by name."""
    names = [module.name for module in iter_modules(rules.__path__)]
    modules = {name: import_module(f"rules.{name}") for name in names}
    return {name: module.RULE for name, module in modules.items() if hasattr(module, "RULE")}


def _driver_names() -> list[str]:
    """Every driver there is, by its source: importing them all would load what only some need."""
    folder = Path(drivers.__path__[0])
    sources = {one.name: folder / f"{one.name}.py" for one in iter_modules(drivers.__path__)}
    return [
        name
        for name, source in sources.items()
        if source.is_file() and "\nDRIVER = " in source.read_text("utf-8")
    ]


# --------------------------------------------------------------------------------------------
# From the document to the hall
# --------------------------------------------------------------------------------------------


def load(path: str | Path) -> Hall:
    """The hall that the file (and the ``conf.d`` beside it) describes.

    Raises ``SettingsError`` with everything that is wrong.  Opens no connection.
    """
    document = read_document(Path(path))
    building = _Building(document)
    hall = building.hall()
    if building.problems or hall is None:
        raise SettingsError(building.problems)
    return hall


class _Building:
    """Goes through the sections one by one, so that an error in one hides none in another."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data = document.data
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")

    # -- reporting

    def report(self, path: KeyPath, zh: str, en: str) -> None:
        self.problems.append(
            Problem(self.document.place(path), spell(path), self._label(path), f"{zh}。", f"{en}.")
        )

    def _label(self, path: KeyPath) -> str:
        """The id of the list's element in which the path lies."""
        value: Any = self.data
        label = ""
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
            if isinstance(part, int) and isinstance(value, dict):
                names = [value.get(key) for key in ("id", "code", "name")]
                label = next((name for name in names if isinstance(name, str) and name), label)
        return label if len(label) <= 40 else ""

    def unknown(self, path: KeyPath, key: str, known: Iterable[str]) -> None:
        names = sorted(known)
        zh, en = _listed(names)
        if f"{key}_file" in names:
            self.secret((*path, key))
        elif close := get_close_matches(key, names, 1):
            self.report(
                (*path, key),
                f"没有这个设置项，是否应为 {close[0]}？可用：{zh}",
                f"unknown setting, did you mean {close[0]}? There are: {en}",
            )
        else:
            self.report(
                (*path, key),
                f"没有这个设置项；可用：{zh}",
                f"unknown setting; there are: {en}",
            )

    def secret(self, path: KeyPath) -> None:
        key = path[-1]
        self.report(
            path,
            f"口令不能写在设置文件里；请写入单独的文件，用 {key}_file 指明文件名",
            f"a secret must not stand in the settings; put it into a file of its own and name that "
            f"with {key}_file",
        )

    def validate(
        self, model: type[_Model], value: object, path: KeyPath, more: Iterable[str] = ()
    ) -> _Model | None:
        """The value as the model; ``more`` are keys that are known beside the model's own."""
        try:
            return model.model_validate_json(_json(value))
        except ValidationError as error:
            details = error.errors(include_url=False)
            for one in details:
                # An array counts only its sound elements: what is wrong with the others is enough.
                within = [other["loc"][: len(one["loc"])] for other in details if other is not one]
                if one["type"] != "too_short" or one["loc"] not in within:
                    self._explain(model, value, path, one, more)
            return None

    def _explain(
        self,
        model: type[BaseModel],
        value: object,
        path: KeyPath,
        error: ErrorDetails,
        more: Iterable[str],
    ) -> None:
        place = path
        known = model
        inner: Any = value
        for part in error["loc"]:
            entry = known.model_fields.get(part) if isinstance(part, str) else None
            try:
                inner = inner[part]
            except (KeyError, IndexError, TypeError):
                # Either what is missing, or the name of a branch of a union.
                if error["type"] != "missing":
                    continue
            place = (*place, part)
            if entry is None and isinstance(part, str):
                entry = next((e for e in known.model_fields.values() if e.alias == part), None)
            if entry is not None:
                known = _model_in(entry.annotation) or known
        if error["type"] == "extra_forbidden":
            names = [entry.alias or name for name, entry in known.model_fields.items()]
            self.unknown(place[:-1], str(place[-1]), [*names, *more])
            return
        zh, en = _sentence(error)
        if error["type"] != "missing":
            found = _shown(inner)
            zh, en = f"{zh}，实为 {found}", f"{en}, found {found}"
        self.report(place, zh, en)

    # -- sections

    def section(self, name: str, model: type[_Model], default: _Model | None) -> _Model | None:
        if name not in self.data and default is not None:
            return default
        return self.validate(model, self.data.get(name, {}), (name,))

    def tables(self, name: str) -> list[tuple[KeyPath, dict[str, Any]]]:
        """The tables of an array of tables, with where they are."""
        value = self.data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.report(
                (name,),
                f"应写成 [[{name}]] 表，实为 {_shown(value)}",
                f"expected [[{name}]] tables, found {_shown(value)}",
            )
            return []
        return [((name, index), item) for index, item in enumerate(value)]

    def items(self, name: str, model: type[_Model]) -> list[tuple[KeyPath, _Model]]:
        found = []
        for path, table in self.tables(name):
            if (item := self.validate(model, table, path)) is not None:
                found.append((path, item))
        return found

    def texts(self, name: str, key: str) -> list[tuple[KeyPath, str]]:
        """Every text under a key in an array of tables, those in faulty tables, too."""
        value = self.data.get(name, [])
        found: list[tuple[KeyPath, str]] = []
        for index, table in enumerate(value if isinstance(value, list) else []):
            if isinstance(table, dict):
                text = table.get(key)
                path: KeyPath = (name, index, key)
                if isinstance(text, list):
                    inner = [((*path, n), part) for n, part in enumerate(text)]
                    found += [(place, part) for place, part in inner if isinstance(part, str)]
                elif isinstance(text, str):
                    found.append((path, text))
        return found

    def given(self, name: str, key: str) -> set[str]:
        """The ids that an array of tables gives out."""
        return {text for _, text in self.texts(name, key)}

    def unique(self, entries: Iterable[tuple[KeyPath, Hashable]], what: str, zh: str) -> None:
        seen: dict[Hashable, KeyPath] = {}
        for path, key in entries:
            first = seen.setdefault(key, path)
            if first != path:
                place = self.document.place(first)
                self.report(
                    path,
                    f"{zh} {key} 重复，{spell(first)}（{place}）已经用过",
                    f"{what} {key} is used by {spell(first)} ({place}) already",
                )

    def references(
        self, values: Iterable[tuple[KeyPath, str]], known: Iterable[str], zh: str, what: str
    ) -> None:
        """Each value names one of the known things, or nothing."""
        names = set(known)
        listed_zh, listed_en = _listed(names)
        for path, value in values:
            if value and value not in names:
                self.report(
                    path,
                    f"没有{zh} {_shown(value)}；已有：{listed_zh or '（无）'}",
                    f"unknown {what} {_shown(value)}; there are: {listed_en or 'none'}",
                )

    def file(self, path: KeyPath, name: str) -> Path | None:
        """The file that a setting names: absolute, or in the credentials' or settings' folder."""
        folders = [Path(self.credentials)] if self.credentials else []
        folders.append(self.document.folder)
        for folder in folders:
            try:
                if (folder / name).is_file():
                    return folder / name
            except OSError:
                break
        looked = ", ".join(map(str, [Path(name).parent] if Path(name).is_absolute() else folders))
        self.report(
            path,
            f"找不到文件 {_shown(name)}（找过：{looked}）",
            f"file {_shown(name)} not found (looked in {looked})",
        )
        return None

    def with_files(self, table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """The table with the names of its files resolved; secrets' files are tried."""
        resolved = dict(table)
        for key, name in table.items():
            if not key.endswith("_file") or not isinstance(name, str) or not name:
                continue
            file = self.file((*path, key), name)
            if file is None:
                continue
            resolved[key] = str(file)
            if key.removesuffix("_file") in _SECRETS:
                try:
                    read_secret(file)
                except ValueError as error:
                    self.report((*path, key), f"口令文件不能用：{error}", f"no use: {error}")
        return resolved

    def drop_secrets(self, value: Any, path: KeyPath) -> None:
        """Report and forget every secret that stands in the settings itself."""
        if isinstance(value, dict):
            for key in [key for key in value if key.lower() in _SECRETS]:
                self.secret((*path, key))
                del value[key]
            for key, inner in value.items():
                self.drop_secrets(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self.drop_secrets(inner, (*path, index))

    # -- the parts of the hall

    def hall(self) -> Hall | None:
        """The hall; none, or one not to be used, if there are problems."""
        self.drop_secrets(self.data, ())
        for key in self.data.keys() - Settings.model_fields.keys():
            self.unknown((), key, Settings.model_fields)

        hall = self.section("hall", HallSettings, None)
        policy = self.section("policy", PolicySettings, PolicySettings())
        counter = self.section("counter", CounterSettings, CounterSettings())
        presence = self.section("presence", PresenceSettings, PresenceSettings())
        snapshots = self.section("snapshots", SnapshotSettings, SnapshotSettings())
        broker = self.section("broker", BrokerSettings, BrokerSettings())
        api = self.section("api", ApiSettings, ApiSettings())
        storage = self.section("storage", StorageSettings, StorageSettings())
        log = self.section("log", LogSettings, LogSettings())
        units = self.units()
        windows = self.windows()
        timetables = self.timetables(hall)
        calendar = self.calendar(hall)
        devices = self.devices()
        people = self.people(hall, units, windows)
        rosters = self.rosters(timetables, people)
        rulebook, rule_entries = self.rules()
        boards = self.boards(windows, devices)
        sinks = self.sinks()
        self.ports(broker, api)
        if self.problems or not (
            hall and policy and counter and presence and snapshots
            and broker and api and storage and log
        ):  # fmt: skip
            return None
        self.gaps(timetables[hall.timetable], calendar)
        judged = (
            (hall.id, hall.zone, hall.start_date, hall.timetable),
            sorted(people.items()),
            sorted(calendar.exceptions.items()),
            sorted(calendar.official.items()),
            (sorted(calendar.years), calendar.weekly, sorted(calendar.as_weekday.items())),
            sorted(timetables.items()),
            sorted(rosters.items()),
            policy.model_dump(),
            counter.model_dump(),
            presence.model_dump(),
            rule_entries,
            [(one.id, one.name, one.attendance, one.in_service) for one in devices],
            [(one.id, one.camera, one.watches, one.maintainer) for one in devices],
            [one.id for one in windows.values() if one.required_open],
        )
        written = msgspec.json.encode(judged)
        return Hall(
            id=hall.id,
            name=hall.name,
            level=hall.level,
            parent=hall.parent or "",
            language=hall.language,
            zone=ZoneInfo(hall.zone),
            start_date=hall.start_date,
            units=units,
            windows=windows,
            people=people,
            calendar=calendar,
            timetables=timetables,
            timetable=hall.timetable,
            rosters=rosters,
            policy=Policy(**policy.model_dump()),
            counter=CounterPolicy(**counter.model_dump()),
            presence=PostPolicy(**presence.model_dump()),
            snapshots=snapshots,
            rulebook=rulebook,
            devices=devices,
            boards=boards,
            sinks=sinks,
            broker=broker,
            api=api,
            storage=storage,
            state_dir=self.state_dir(storage),
            log=log,
            warnings=tuple(self.warnings),
            settings_hash=blake2b(written, digest_size=16).hexdigest(),
        )

    def state_dir(self, storage: StorageSettings) -> Path:
        given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return self.document.folder / (storage.state_dir or given or "state")

    def units(self) -> dict[str, str]:
        units = self.items("units", UnitSettings)
        self.unique(self.texts("units", "id"), "unit", "单位")
        return {unit.id: unit.name for _, unit in units}

    def windows(self) -> dict[str, WindowSettings]:
        windows = self.items("windows", WindowSettings)
        self.unique(self.texts("windows", "id"), "window", "窗口")
        self.references(self.texts("windows", "unit"), self.given("units", "id"), "单位", "unit")
        return {window.id: window for _, window in windows}

    def calendar(self, hall: HallSettings | None) -> Calendar:
        settings = self.section("calendar", CalendarSettings, CalendarSettings())
        overrides = settings.overrides if settings else ()
        exceptions: dict[date, DayKind] = {}
        as_weekday: dict[date, int] = {}
        here: KeyPath = ("calendar", "overrides")
        self.unique(
            [((*here, n, "date"), override.date) for n, override in enumerate(overrides)],
            "date",
            "日期",
        )
        for index, override in enumerate(overrides):
            kind = DayKind(override.kind, "hall", override.name)
            exceptions[override.date] = kind
            if override.as_weekday is not None:
                as_weekday[override.date] = WEEKDAYS.index(override.as_weekday)
                if not kind.works:
                    self.report(
                        (*here, index, "as_weekday"),
                        f"kind = {_shown(override.kind)} 的日期不上班，不能设 as_weekday",
                        f"a date of kind {_shown(override.kind)} is not worked and follows no "
                        "weekday",
                    )
        added: list[YearTable] = []
        for index, name in enumerate(settings.tables if settings else ()):
            path: KeyPath = ("calendar", "tables", index)
            if (file := self.file(path, name)) is not None:
                try:
                    added.append(read_table(file.read_bytes()))
                except (OSError, ValueError) as error:
                    self.report(
                        path,
                        f"节假日表 {_shown(name)} 不能用：{error}",
                        f"no table of days off in {_shown(name)}: {error}",
                    )
        self.unique(
            [(("calendar", "tables", index), table.year) for index, table in enumerate(added)],
            "the year",
            "年份",
        )
        weekly = ["rest"] * 7
        if hall:
            for key, days, kind_name in (
                ("weekly", hall.weekly, "workday"),
                ("duty_only", hall.duty_only, "duty_only"),
            ):
                for index, weekday in enumerate(days):
                    if weekly[WEEKDAYS.index(weekday)] != "rest":
                        self.report(
                            ("hall", key, index),
                            f"{weekday} 已在 weekly 里",
                            "stands in weekly, too",
                        )
                    weekly[WEEKDAYS.index(weekday)] = kind_name
        calendar, warnings = build_calendar(tuple(weekly), exceptions, as_weekday, added)
        self.warnings += warnings
        return calendar

    # -- timetables and rosters

    def timetables(self, hall: HallSettings | None) -> dict[str, Timetable]:
        found = {STANDARD.name: STANDARD}
        entries = self.items("timetables", TimetableSettings)
        self.unique(self.texts("timetables", "name"), "timetable", "班次")
        for path, entry in entries:
            if entry.name == "rest":
                self.report(
                    (*path, "name"),
                    "rest 表示休息，不能用作班次名",
                    'the name "rest" means no obligation and cannot be a timetable\'s',
                )
            versions = []
            for index, version in enumerate(entry.versions):
                self.segments(version, (*path, "versions", index, "segments"))
                versions.append(_version(version))
            found[entry.name] = Timetable(entry.name, tuple(versions))
        if hall:
            known = found.keys() | self.given("timetables", "name")
            self.references([(("hall", "timetable"), hall.timetable)], known, "班次", "timetable")
        return found

    def segments(self, version: VersionSettings, path: KeyPath) -> None:
        """What makes segments impossible to keep."""
        names = [((*path, n, "name"), segment.name) for n, segment in enumerate(version.segments)]
        self.unique(names, "segment", "班段")
        previous: SegmentSettings | None = None
        order = sorted(enumerate(version.segments), key=lambda item: item[1].starts)
        for index, segment in order:
            here = (*path, index)
            if segment.name.split("+")[0] == "duty":
                self.report(
                    (*here, "name"),
                    "duty 是值班班段的保留名",
                    'segments named "duty" come from duty rosters only',
                )
            if segment.ends <= segment.starts:
                self.report(
                    (*here, "ends"),
                    "应晚于 starts；跨午夜时次日 02:00 写作 26:00",
                    "must be after starts; 02:00 of the next day is 26:00",
                )
            if segment.starts >= 1440:
                self.report(
                    (*here, "starts"),
                    "应早于 24:00：班段属于它开始的那一天",
                    "must be before 24:00: a segment belongs to the date on which it starts",
                )
            if previous and previous.ends > segment.starts:
                self.report(
                    (*here, "starts"),
                    f"与班段 {previous.name} 重叠",
                    f"overlaps with the segment {previous.name}",
                )
            if not segment.grace <= segment.serious <= segment.absent:
                self.report(
                    here,
                    f"应 grace ≤ serious ≤ absent，"
                    f"实为 {segment.grace}、{segment.serious}、{segment.absent}",
                    f"expected grace <= serious <= absent, "
                    f"found {segment.grace}, {segment.serious}, {segment.absent}",
                )
            for key, band in (("accept_on", segment.accept_on), ("accept_off", segment.accept_off)):
                if band and band[0] >= band[1]:
                    self.report((*here, key), "起点应早于终点", "must begin before it ends")
            previous = segment

    def gaps(self, timetable: Timetable, calendar: Calendar) -> None:
        """Warn of weekdays of service on which the hall's timetable expects nothing."""
        first = max(version.effective_from for version in timetable.versions)
        first = max(first, date(2024, 1, 1))
        for offset in range(366):
            day = first + timedelta(days=offset)
            weekday = day.weekday()
            if calendar.weekly[weekday] == "workday" and not timetable.on(day):
                self.warnings.append(
                    f"班次 {timetable.name} 在 {day}（{WEEKDAYS[weekday]}）没有班段，"
                    f"该日不考勤 / "
                    f"the timetable {timetable.name} has no segments on {day} "
                    f"({WEEKDAYS[weekday]}): nothing is expected of anybody then"
                )
                return

    def rosters(
        self, timetables: Mapping[str, Timetable], people: Mapping[str, Person]
    ) -> dict[tuple[str, str], tuple[Roster, ...]]:
        names = timetables.keys() | self.given("timetables", "name")
        self.references(
            self.texts("rosters", "window"), self.given("windows", "id"), "窗口", "window"
        )
        self.references(self.texts("rosters", "timetable"), names, "班次", "timetable")
        self.references(self.texts("rosters", "duty"), {*names, "rest"}, "班次", "duty")
        found: dict[tuple[str, str], list[Roster]] = {}
        seen: dict[tuple[tuple[str, str], date, int], KeyPath] = {}
        for path, entry in self.items("rosters", RosterSettings):
            if (entry.person is None) == (entry.window is None):
                self.report(
                    path,
                    "person 和 window 应填且只填一个",
                    "needs either a person or a window",
                )
                continue
            if entry.person is not None and entry.person not in people:
                self.warnings.append(
                    f"{spell(path)}：设置里没有工号 {entry.person} / "
                    f"{spell(path)}: the settings know no person {entry.person}"
                )
            if not entry.timetable and not entry.duty:
                self.report(path, "timetable 和 duty 至少填一项", "needs a timetable or a duty")
            if entry.timetable and entry.duty == "rest":
                self.report(
                    (*path, "duty"), "不能既休息又上班", "cannot rest and follow a timetable"
                )
            if entry.until is not None and entry.until < entry.first:
                self.report((*path, "until"), "早于 from", "is before from")
            key = ("person", entry.person) if entry.person else ("window", entry.window or "")
            weekdays = _weekdays(entry.weekdays)
            for weekday in range(7) if weekdays is None else weekdays:
                first = seen.setdefault((key, entry.first, weekday), path)
                if first != path:
                    place = self.document.place(first)
                    self.report(
                        path,
                        f"与 {spell(first)}（{place}）是同一对象、同一起始日的排班",
                        f"is for the same one from the same date as {spell(first)} ({place})",
                    )
                    break
            found.setdefault(key, []).append(
                Roster(entry.first, entry.until, weekdays, entry.timetable, entry.duty)
            )
        return {
            key: tuple(sorted(rosters, key=lambda roster: roster.first, reverse=True))
            for key, rosters in found.items()
        }

    # -- people

    def people(
        self,
        hall: HallSettings | None,
        units: Mapping[str, str],
        windows: Mapping[str, WindowSettings],
    ) -> dict[str, Person]:
        entries = self.items("people", PersonSettings)
        self.unique(self.texts("people", "code"), "code", "工号")
        known_devices = self.given("devices", "id")
        for key, known, zh in (
            ("unit", self.given("units", "id"), "单位"),
            ("window", self.given("windows", "id"), "窗口"),
            ("devices", known_devices, "设备"),
        ):
            self.references(self.texts("people", key), known, zh, key.removesuffix("s"))
        people: dict[str, Person] = {}
        for path, entry in entries:
            since, until = entry.employed_from, entry.employed_until
            if since and until and until < since:
                self.report((*path, "employed_until"), "早于 employed_from", "is before the first")
            people[entry.code] = Person(
                code=entry.code,
                name=entry.name,
                unit=entry.unit or "",
                window=entry.window or "",
                attendance_required=entry.attendance_required,
                employed=((since or FROM_THE_BEGINNING, until),) if since or until else (),
                devices=entry.devices,
            )
        if hall and hall.people_file:
            here: KeyPath = ("hall", "people_file")
            if (file := self.file(here, hall.people_file)) is not None:
                for row in self.people_of(file, units, windows, known_devices):
                    if row.code in people:
                        self.report(
                            here,
                            f"工号 {row.code} 在 {file.name} 和 [[people]] 里都有",
                            f"{row.code} is in {file.name} and in [[people]], too",
                        )
                    people[row.code] = row
        return people

    def people_of(
        self,
        file: Path,
        units: Mapping[str, str],
        windows: Mapping[str, WindowSettings],
        devices: set[str],
    ) -> list[Person]:
        names = {id_: window.name for id_, window in windows.items()}
        try:
            rows = read_people(file, units=units, windows=names, devices=devices)
        except TableErrors as errors:
            for problem in errors.problems:
                at = f"「{problem.column}」" if problem.column else ""
                self.problems.append(
                    Problem(Place(file, problem.row), at, "", f"{problem.zh}。", f"{problem.en}.")
                )
            return []
        return [row.person for row in rows]

    # -- rules

    def rules(self) -> tuple[Rulebook, list[tuple[str, date, bool, Any]]]:
        known = _rule_classes()
        entries = [(name, FROM_THE_BEGINNING, True, rule()) for name, rule in known.items()]
        section = self.data.get("rules", {})
        if not isinstance(section, dict):
            self.report(
                ("rules",), "应写成 [rules.<规则名>] 一节", "expected tables [rules.<name>]"
            )
            section = {}
        for name, value in section.items():
            if name not in known:
                self.unknown(("rules",), name, known)
                continue
            several = isinstance(value, list)
            dates: list[tuple[KeyPath, date]] = []
            for index, table in enumerate(value if several else [value]):
                path: KeyPath = ("rules", name, index) if several else ("rules", name)
                if not isinstance(table, dict):
                    self.report(
                        path,
                        f"应写成 [rules.{name}] 或 [[rules.{name}]]，实为 {_shown(table)}",
                        f"expected [rules.{name}] or [[rules.{name}]], found {_shown(table)}",
                    )
                    continue
                version, rule = self.configured(
                    RuleVersion, known[name], table, path, f"规则 {name}", f"the rule {name}"
                )
                if version is not None and rule is not None:
                    dates.append((path, version.effective_from))
                    entries.append((name, version.effective_from, version.enabled, rule))
            self.unique(dates, "the date", "生效日期")
        return Rulebook(entries), entries

    def configured(
        self,
        common: type[_Model],
        options: type,
        table: dict[str, Any],
        path: KeyPath,
        zh: str,
        en: str,
    ) -> tuple[_Model | None, Any]:
        """A table that holds both common keys and options: the two, none where they are wrong."""
        model = _options_model(options)
        ours = {key: value for key, value in table.items() if key in common.model_fields}
        theirs = {key: value for key, value in table.items() if key not in common.model_fields}
        first = self.validate(common, ours, path)
        values = self.validate(model, theirs, path, common.model_fields)
        if values is None:
            return first, None
        given = {name: getattr(values, name) for name in values.model_fields_set}
        try:
            return first, _construct(options, given)
        except ValueError as error:
            self.report(path, f"{zh} 不接受这些选项：{error}", f"{en} refuses: {error}")
            return first, None

    # -- devices and sinks

    def devices(self) -> tuple[DeviceSpec, ...]:
        tables = self.tables("devices")
        self.unique(self.texts("devices", "id"), "device id", "设备编号")
        self.references(
            self.texts("devices", "window"), self.given("windows", "id"), "窗口", "window"
        )
        found: list[tuple[KeyPath, DeviceSpec]] = []
        for path, table in tables:
            name = table.get("driver")
            driver = self.driver((*path, "driver"), name) if isinstance(name, str) else None
            if driver is None:
                ours = {key: table[key] for key in table if key in DeviceSettings.model_fields}
                self.validate(DeviceSettings, ours, path)
                continue
            common, options = self.configured(
                DeviceSettings,
                driver.options,
                self.with_files(table, path),
                path,
                f"驱动 {name}",
                f"the driver {name}",
            )
            if common is not None:
                spec = DeviceSpec(
                    id=common.id,
                    name=common.name or common.id,
                    driver=common.driver,
                    window=common.window or "",
                    place=common.place,
                    attendance=common.attendance and driver.attendance,
                    in_service=not common.out_of_service,
                    options=options,
                    camera=(camera := getattr(driver, "camera", False)),
                    watches=self.watched(path, common, options) if camera else (),
                    maintainer=common.maintainer,
                )
                found.append((path, spec))
            if common is not None and common.id in _RESERVED:
                self.report(
                    (*path, "id"),
                    f"{common.id} 是保留编号，请另取一个",
                    f"{common.id} means hallwatch's own readings; choose another id",
                )
        self.links([(path, spec) for path, spec in found if spec.in_service and spec.options])
        return tuple(spec for _, spec in found)

    def watched(self, path: KeyPath, common: DeviceSettings, options: Any) -> tuple[str, ...]:
        """The windows whose posts a camera sees: those of its options, and its own."""
        named = options.windows() if hasattr(options, "windows") else ()
        known = self.given("windows", "id")
        for window in named:
            if window not in known:
                self.report(
                    (*path, "posts"),
                    f"没有窗口 {_shown(window)}",
                    f"unknown window {_shown(window)}",
                )
        return tuple(dict.fromkeys((*named, *([common.window] if common.window else ()))))

    def driver(self, path: KeyPath, name: str) -> Any:
        """The ``DRIVER`` of that name, or none."""
        # Only what is named is imported: a driver may need much that a hall without it has not.
        if name.isidentifier() and find_spec(f"drivers.{name}"):
            try:
                module = import_module(f"drivers.{name}")
            except ImportError as error:
                self.report(
                    path, f"驱动 {name} 无法加载：{error}", f"{name} cannot be loaded: {error}"
                )
                return None
            if hasattr(module, "DRIVER"):
                return module.DRIVER
        zh, en = _listed(_driver_names())
        self.report(
            path,
            f"没有驱动 {_shown(name)}；可用：{zh}",
            f"unknown driver {_shown(name)}; there are: {en}",
        )
        return None

    def links(self, found: Sequence[tuple[KeyPath, DeviceSpec]]) -> None:
        """Ask each driver whether it can serve the devices that share a link."""
        groups: dict[tuple[str, Hashable], list[tuple[KeyPath, DeviceSpec]]] = {}
        for path, spec in found:
            groups.setdefault((spec.driver, spec.options.link()), []).append((path, spec))
        for (driver, _), group in groups.items():
            try:
                import_module(f"drivers.{driver}").DRIVER([spec for _, spec in group])
            except ValueError as error:
                ids = ", ".join(spec.id for _, spec in group)
                self.report(
                    group[-1][0],
                    f"驱动 {driver} 不能让 {ids} 共用一条连接：{error}",
                    f"the driver {driver} cannot serve {ids} over one link: {error}",
                )

    # -- boards

    def boards(
        self, windows: Mapping[str, WindowSettings], devices: Sequence[DeviceSpec]
    ) -> tuple[BoardSettings, ...]:
        entries = self.items("boards", BoardSettings)
        self.unique(self.texts("boards", "id"), "board id", "显示屏编号")
        known = self.given("windows", "id")
        self.references(self.texts("boards", "windows"), known, "窗口", "window")
        named = self.texts("boards", "device")
        self.references(named, self.given("devices", "id"), "设备", "device")
        self.unique(named, "the device", "设备")
        drivers_of = {device.id: device.driver for device in devices}
        found = []
        for path, board in entries:
            driver = drivers_of.get(board.device or "", "led_board")
            if driver != "led_board":
                self.report(
                    (*path, "device"),
                    f"设备 {board.device} 的驱动是 {driver}，应为 led_board",
                    f"the driver of {board.device} is {driver}; expected a led_board",
                )
            shown = [windows[one] for one in board.windows or windows if one in windows]
            for name in BoardTexts.model_fields:
                self.template((*path, "texts", name), getattr(board.texts, name), board, shown)
            found.append(board.model_copy(update={"windows": tuple(one.id for one in shown)}))
        return tuple(found)

    def template(
        self, path: KeyPath, text: str, board: BoardSettings, windows: Sequence[WindowSettings]
    ) -> None:
        """A board's text: nothing but known fields, and short enough for each of its windows."""
        known = ("ticket", "window", "name") if path[-1] == "call" else ("window", "name")
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            self.report(
                path,
                f"模板 {_shown(text)} 不能用：{error}；花括号应成对，本身要写成两个",
                f"the template {_shown(text)} is no use: {error}; expected braces in pairs, each "
                "that shall be shown doubled",
            )
            return
        for _, name, form, conversion in parts:
            if name is not None and (name not in known or form or conversion):
                listed = ", ".join(f"{{{one}}}" for one in known)
                self.report(
                    path,
                    f"模板 {_shown(text)} 里没有 {{{name}}} 可用；可用：{listed}",
                    f"the template {_shown(text)} cannot have {{{name}}}; there are: {listed}",
                )
                return
        for window in windows:
            shown = text.format(ticket=SAMPLE_TICKET, window=window.id, name=window.name)
            size = len(shown.encode(board.encoding, "replace"))
            if size > board.max_bytes:
                self.report(
                    path,
                    f"{_shown(shown)} 用 {board.encoding} 编码有 {size} 字节，"
                    f"超过 max_bytes = {board.max_bytes}",
                    f"{_shown(shown)} is {size} bytes in {board.encoding}, more than max_bytes = "
                    f"{board.max_bytes}",
                )
                return

    def sinks(self) -> tuple[SinkSettings, ...]:
        found: list[SinkSettings] = []
        for path, table in self.tables("sinks"):
            kind = table.get("type")
            model = SINKS.get(kind) if isinstance(kind, str) else None
            if model is None:
                zh, en = _listed(SINKS)
                self.report(
                    (*path, "type"),
                    f"应为以下之一：{zh}，实为 {_shown(kind)}",
                    f"expected one of {en}, found {_shown(kind)}",
                )
                continue
            sink = self.validate(model, self.with_files(table, path), path)
            if isinstance(sink, InfluxSinkSettings):
                self.check_influx(path, sink)
                found.append(sink)
            elif sink is not None:
                tls_only = [
                    name for name in ("ca_file", "cert_file", "key_file") if table.get(name)
                ]
                if tls_only and not sink.tls:
                    self.report(
                        (*path, tls_only[0]), "需要 tls = true", "certificates need tls = true"
                    )
                if bool(sink.cert_file) != bool(sink.key_file):
                    self.report(
                        path,
                        "cert_file 和 key_file 应同时填写",
                        "cert_file and key_file belong together",
                    )
                port = sink.port or (8883 if sink.tls else 1883)
                found.append(sink.model_copy(update={"port": port}))
        self.unique(self.texts("sinks", "name"), "sink name", "名称")
        return tuple(found)

    def check_influx(self, path: KeyPath, sink: InfluxSinkSettings) -> None:
        needed, other = ("bucket", "database") if sink.version == "2" else ("database", "bucket")
        if not getattr(sink, needed):
            self.report(
                (*path, needed),
                f'version = "{sink.version}" 时必须填写 {needed}',
                f"version {sink.version} needs a {needed}",
            )
        if getattr(sink, other):
            self.report(
                (*path, other),
                f'version = "{sink.version}" 时不能填写 {other}',
                f"version {sink.version} has no {other}",
            )
        if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?", sink.url):
            self.report(
                (*path, "url"),
                f"应为 http://主机:端口，不含用户名和口令，实为 {_shown(sink.url)}",
                f"expected http://HOST:PORT without a name or password, found {_shown(sink.url)}",
            )

    def ports(self, broker: BrokerSettings | None, api: ApiSettings | None) -> None:
        if not broker or not broker.embedded:
            return
        if find_spec("amqtt") is None:
            self.report(
                ("broker", "embedded"),
                "内置 MQTT 服务需要 amqtt，请安装 hallwatch[broker]",
                "the embedded broker needs amqtt: install hallwatch[broker]",
            )
        if broker.host != "localhost" and not _is_loopback(broker.host):
            self.report(
                ("broker", "host"),
                "内置 MQTT 服务没有访问控制，只能监听本机地址；其他机器要用请安装 Mosquitto",
                "the embedded broker has no access rules and listens on loopback addresses only; "
                "for other machines install a broker such as Mosquitto",
            )
        if api and broker.port and broker.port == api.port:
            self.report(
                ("broker", "port"),
                f"端口 {broker.port} 已由 [api] 使用",
                f"port {broker.port} is the API's already",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, or of the elements of an array."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _weekdays(names: Sequence[str] | None) -> tuple[int, ...] | None:
    return None if names is None else tuple(sorted({WEEKDAYS.index(name) for name in names}))


def _version(version: VersionSettings) -> TimetableVersion:
    minutes = sum(segment.ends - segment.starts for segment in version.segments)
    by_length = len(version.segments) != 2

    def weight(segment: SegmentSettings) -> float:
        if segment.weight is not None:
            return segment.weight
        return (segment.ends - segment.starts) / minutes if by_length and minutes > 0 else 0.5

    return TimetableVersion(
        effective_from=version.effective_from,
        segments=tuple(
            SegmentRule(**{**segment.model_dump(), "weight": weight(segment)})
            for segment in version.segments
        ),
        season=version.season,
        weekdays=_weekdays(version.weekdays),
    )
