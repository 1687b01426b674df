"""Tables that halls keep in Excel: people, rosters and absences from CSV or XLSX.

A table has one row of column names, in Chinese or English, within its first ten rows; what stands
above it (a title) and columns whose names are not known here are passed over.  A table is taken
whole or not at all: ``TableErrors`` lists every bad row.  CSV is UTF-8, with or without a byte
order mark, or GB18030; of XLSX the first sheet is read.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from rules.model import MINUTE, Absence, Instant, Person, PersonEntry, RosterEntry, stable_id
from rules.workdays import at_minute

MAX_BYTES = 20 * 1024 * 1024
MAX_ROWS = 100_000
_LAST_ROW = 1_048_576
"""Of any sheet; blank rows up to there are common, from formatting whole columns."""
_MAX_COLUMNS = 64
_MAX_UNPACKED = 120 * 1024 * 1024
"""An XLSX is a ZIP archive, and a small one can unpack to more than the machine has."""
_MAX_CELL = 2_000
_HEADER_WITHIN = 10


class RowProblem(NamedTuple):
    """``row`` counts from 1 as the spreadsheet does, 0 for the file as a whole."""

    row: int
    column: str
    zh: str
    en: str

    def __str__(self) -> str:
        if not self.row:
            return f"{self.zh} / {self.en}"
        column = f"「{self.column}」" if self.column else ""
        return f"第 {self.row} 行{column}：{self.zh} / row {self.row}: {self.en}"


class TableErrors(Exception):
    """The table was refused; ``problems`` in order of rows."""

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.row))
        super().__init__("\n".join(map(str, self.problems)))


# --------------------------------------------------------------------------------------------
# Columns
# --------------------------------------------------------------------------------------------

_NAMES = {
    "code": ("工号", "人员编号", "编号", "考勤号", "code", "person", "person_code", "user_id"),
    "name": ("姓名", "name"),
    "unit": ("单位", "部门", "进驻单位", "unit"),
    "window": ("窗口", "窗口号", "window"),
    "attendance_required": ("是否考勤", "考勤", "attendance_required"),
    "employed_from": ("入职日期", "到岗日期", "employed_from"),
    "employed_until": ("离职日期", "离岗日期", "employed_until"),
    "devices": ("考勤机", "终端", "devices"),
    "date": ("日期", "date", "work_date"),
    "timetable": ("班次", "作息", "timetable", "shift"),
    "duty": ("值班", "duty"),
    "id": ("单号", "请假单号", "id", "absence_id"),
    "kind": ("类型", "类别", "假别", "请假类型", "kind"),
    "starts": ("开始", "开始时间", "起始时间", "start", "starts"),
    "ends": ("结束", "结束时间", "截止时间", "end", "ends"),
    "punch_required": ("是否打卡", "需打卡", "punch_required"),
    "approved_by": ("批准人", "审批人", "approved_by"),
    "note": ("备注", "事由", "note"),
}
_COLUMN_OF = {name: column for column, names in _NAMES.items() for name in names}

OUTINGS = {
    "official": "公务",
    "field_visit": "下乡",
    "site_survey": "踏勘",
    "meeting": "会议",
    "training": "培训",
    "bureau_errand": "回单位办事",
}
"""外出: the person is on duty away from the window, and punches out and back."""
LEAVES = {
    "personal": "事假",
    "sick": "病假",
    "annual": "年休假",
    "marriage": "婚假",
    "maternity": "产假",
    "paternity": "陪产假",
    "bereavement": "丧假",
    "home_visit": "探亲假",
    "injury": "工伤",
    "nursing": "哺乳假",
    "comp_off": "调休",
}
ABSENCE_KINDS = {**LEAVES, **OUTINGS, "group_exemption": "集体免责"}
"""Kinds of absence with their Chinese names."""
_KIND_OF = {
    **{kind: kind for kind in ABSENCE_KINDS},
    **{zh: kind for kind, zh in ABSENCE_KINDS.items()},
    "年假": "annual",
    "工伤假": "injury",
    "外出": "official",
    "外出公务": "official",
    "公差": "official",
    "开会": "meeting",
    "学习": "training",
}
_REST = ("rest", "休", "休息", "轮休")
_YES_NO = {
    **dict.fromkeys(("是", "yes", "y", "true", "1", "√", "需要"), True),
    **dict.fromkeys(("否", "no", "n", "false", "0", "×", "不需要"), False),
}


class _Wrong(Exception):
    """One cell that cannot be taken."""

    def __init__(self, column: str, zh: str, en: str) -> None:
        super().__init__(en)
        self.column, self.zh, self.en = column, zh, en


class _Row(NamedTuple):
    number: int
    cells: dict[str, Any]

    def text(self, column: str, *, needed: bool = False) -> str:
        value = self.cells.get(column)
        if isinstance(value, bool):
            text = "1" if value else "0"
        elif isinstance(value, float) and value.is_integer():
            # Excel keeps every number as a float: user id 1001 comes as 1001.0.
            text = str(int(value))
        else:
            text = "" if value is None else str(value).strip()
        if len(text) > _MAX_CELL:
            raise _Wrong(column, "内容太长", f"longer than {_MAX_CELL} characters")
        if needed and not text:
            raise _Wrong(column, "不能为空", "must not be empty")
        return text

    def date(self, column: str, *, needed: bool = False) -> date | None:
        value = self.cells.get(column)
        if isinstance(value, datetime):
            return value.date()
        if isinstance(value, date):
            return value
        text = self.text(column, needed=needed)
        if not text:
            return None
        day, rest = _date_in(text)
        if day is None or rest not in ("", "00:00", "00:00:00", "0:00"):
            raise _Wrong(
                column,
                f"“{_short(text)}”不是日期，应如 2026-03-02",
                f"{_short(text)!r} is no date; expected one such as 2026-03-02",
            )
        return day

    def moment(self, column: str, zone: ZoneInfo, *, end: bool = False) -> Instant:
        """A local time; a date alone is its beginning, or its end for ``end``."""
        value = self.cells.get(column)
        day: date | None
        minute: int | None
        if isinstance(value, datetime):
            day, minute = value.date(), value.hour * 60 + value.minute
            # A cell that holds a date alone comes as midnight.
            if value.time() == time(0):
                minute = None
        elif isinstance(value, date):
            day, minute = value, None
        else:
            text = self.text(column, needed=True)
            day, rest = _date_in(text)
            found = re.fullmatch(r"(?:([0-9]{1,2})[:：]([0-5][0-9])(?::[0-9]{2})?)?", rest)
            minute = int(found[1]) * 60 + int(found[2]) if found and found[1] else None
            if day is None or found is None or (minute or 0) > 1440:
                raise _Wrong(
                    column,
                    f"“{_short(text)}”不是时间，应如 2026-03-02 08:30",
                    f"{_short(text)!r} is no time; expected one such as 2026-03-02 08:30",
                )
        if minute is None:
            minute = 1440 if end else 0
        return at_minute(day, minute, zone)

    def yes(self, column: str, default: bool) -> bool:
        text = self.text(column)
        if not text:
            return default
        answer = _YES_NO.get(text.lower())
        if answer is None:
            raise _Wrong(column, f"“{_short(text)}”应为 是 或 否", "expected yes or no")
        return answer

    def listed(self, column: str) -> tuple[str, ...]:
        return tuple(part for part in re.split(r"[\s,，;；、]+", self.text(column)) if part)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _date_in(text: str) -> tuple[date | None, str]:
    """The date at the beginning and what follows it."""
    found = re.match(
        r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2})"
        r"|\.([0-9]{1,2})\.([0-9]{1,2})|年([0-9]{1,2})月([0-9]{1,2})日|([0-9]{2})([0-9]{2}))"
        r"T?\s*",
        text,
    )
    if not found:
        return None, text
    year, month, day = (int(part) for part in found.groups() if part)
    try:
        # Far years would overflow when they become instants.
        return (date(year, month, day) if 1970 < year < 9000 else None), text[found.end() :]
    except ValueError:
        return None, text


# --------------------------------------------------------------------------------------------
# The three tables
# --------------------------------------------------------------------------------------------


def read_people(
    source: Path | bytes,
    *,
    units: Mapping[str, str],
    windows: Mapping[str, str],
    devices: Collection[str],
) -> list[PersonEntry]:
    """Staff: 工号, 姓名 and, where wanted, 单位, 窗口, 是否考勤, 入职日期, 离职日期, 考勤机.

    ``units`` and ``windows`` map ids to names; a cell may hold either.  Raises ``TableErrors``.
    """
    seen: dict[str, int] = {}

    def entry(row: _Row) -> PersonEntry:
        code = row.text("code", needed=True)
        if not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,32}", code):
            raise _Wrong(
                "code",
                "工号应为 1 到 32 个字符，无空格",
                "expected 1 to 32 characters without spaces",
            )
        if (first := seen.setdefault(code, row.number)) != row.number:
            raise _Wrong(
                "code", f"工号 {code} 与第 {first} 行重复", f"{code} is in row {first} already"
            )
        since = row.date("employed_from")
        until = row.date("employed_until")
        if since and until and until < since:
            raise _Wrong("employed_until", "早于入职日期", "is before the first day")
        used = row.listed("devices")
        for device in used:
            if device not in devices:
                raise _Wrong(
                    "devices", f"没有考勤机“{_short(device)}”", f"unknown device {_short(device)!r}"
                )
        return PersonEntry(
            Person(
                code=code,
                name=row.text("name", needed=True),
                unit=_known(row, "unit", units, "单位"),
                window=_known(row, "window", windows, "窗口"),
                attendance_required=row.yes("attendance_required", True),
                employed=((since or date.min, until),) if since or until else (),
                devices=used,
            )
        )

    return _read(source, ("code", "name"), entry)


def read_roster(
    source: Path | bytes, *, people: Mapping[str, Person], timetables: Collection[str]
) -> list[RosterEntry]:
    """排班: 工号, 日期 and 班次 (a timetable, or 休) and/or 值班 (a timetable that is added).

    Raises ``TableErrors``.
    """
    seen: dict[tuple[str, date], int] = {}

    def entry(row: _Row) -> RosterEntry:
        code = _person(row, people)
        day = row.date("date", needed=True)
        if day is None:
            raise _Wrong("date", "不能为空", "must not be empty")
        if (first := seen.setdefault((code, day), row.number)) != row.number:
            raise _Wrong(
                "date",
                f"{code} 在 {day} 的排班与第 {first} 行重复",
                f"{code} on {day} is in row {first} already",
            )
        timetable, duty = row.text("timetable"), row.text("duty")
        if timetable in _REST or duty in _REST:
            if timetable and duty and not (timetable in _REST and duty in _REST):
                raise _Wrong("duty", "不能既休息又上班", "cannot rest and work at once")
            return RosterEntry(code, day, duty="rest")
        if not timetable and not duty:
            raise _Wrong("timetable", "班次和值班至少填一项", "needs a timetable or a duty")
        for column, value in (("timetable", timetable), ("duty", duty)):
            if value and value not in timetables:
                raise _Wrong(
                    column,
                    f"没有班次“{_short(value)}”；可用：{'、'.join(sorted(timetables))}",
                    f"unknown timetable {_short(value)!r}; "
                    f"there are: {', '.join(sorted(timetables))}",
                )
        return RosterEntry(code, day, timetable=timetable, duty=duty)

    return _read(source, ("code", "date"), entry)


def read_absences(
    source: Path | bytes, *, people: Mapping[str, Person], zone: ZoneInfo
) -> list[Absence]:
    """请假, 外出: 工号, 类型, 开始, 结束 and, where wanted, 单号, 是否打卡, 批准人, 备注.

    A date alone as 结束 includes that date.  Without 单号 the id depends on person, kind and span,
    so that the same table taken twice says the same.  Raises ``TableErrors``.
    """
    seen: dict[str, int] = {}

    def entry(row: _Row) -> Absence:
        code = _person(row, people)
        told = row.text("kind", needed=True)
        kind = _KIND_OF.get(told)
        if kind is None:
            raise _Wrong(
                "kind",
                f"不认识的类型“{_short(told)}”；可用：{'、'.join(ABSENCE_KINDS.values())}",
                f"unknown kind {_short(told)!r}; there are: {', '.join(ABSENCE_KINDS)}",
            )
        starts = row.moment("starts", zone)
        ends = row.moment("ends", zone, end=True)
        if starts + MINUTE > ends:
            raise _Wrong("ends", "结束应晚于开始", "must be after the start")
        absence_id = row.text("id") or stable_id("import", code, kind, starts, ends)
        if (first := seen.setdefault(absence_id, row.number)) != row.number:
            raise _Wrong("id", f"与第 {first} 行重复", f"is the same as row {first}")
        return Absence(
            absence_id=absence_id,
            people=(code,),
            kind=kind,
            starts=starts,
            ends=ends,
            punch_required=row.yes("punch_required", kind in OUTINGS),
            approved_by=row.text("approved_by"),
            source="import",
            note=row.text("note"),
        )

    return _read(source, ("code", "kind", "starts", "ends"), entry)


def _known(row: _Row, column: str, known: Mapping[str, str], zh: str) -> str:
    """The id for a cell that holds an id or a name."""
    text = row.text(column)
    if not text or text in known:
        return text
    ids = [key for key, name in known.items() if name == text]
    if len(ids) == 1:
        return ids[0]
    problem = "没有" if not ids else "不止一个叫"
    raise _Wrong(
        column,
        f"{problem}{zh}“{_short(text)}”",
        f"{'unknown' if not ids else 'ambiguous'} {column} {_short(text)!r}",
    )


def _person(row: _Row, people: Mapping[str, Person]) -> str:
    code = row.text("code", needed=True)
    person = people.get(code)
    if person is None:
        raise _Wrong("code", f"没有工号 {_short(code)}", f"unknown person code {_short(code)!r}")
    name = row.text("name")
    if name and person.name and name != person.name:
        raise _Wrong(
            "name",
            f"工号 {code} 是 {person.name}，不是“{_short(name)}”",
            f"{code} is {person.name}, not {_short(name)!r}",
        )
    return code


# --------------------------------------------------------------------------------------------
# Files to rows
# --------------------------------------------------------------------------------------------


_Entry = TypeVar("_Entry")


def _read(
    source: Path | bytes, needed: Sequence[str], entry: Callable[[_Row], _Entry]
) -> list[_Entry]:
    problems: list[RowProblem] = []
    entries: list[_Entry] = []
    for row in _rows(_bytes(source), needed):
        try:
            entries.append(entry(row))
        except _Wrong as wrong:
            column = _NAMES[wrong.column][0]
            problems.append(RowProblem(row.number, column, wrong.zh, f"{wrong.column} {wrong.en}"))
    if problems:
        raise TableErrors(problems)
    return entries


def _refuse(zh: str, en: str, row: int = 0) -> TableErrors:
    return TableErrors([RowProblem(row, "", zh, en)])


def _bytes(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            with source.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _refuse(
                f"无法读取 {source}：{reason}", f"{source} cannot be read: {reason}"
            ) from None
    if len(data) > MAX_BYTES:
        size = MAX_BYTES // (1024 * 1024)
        raise _refuse(f"文件超过 {size} MB", f"the file is larger than {size} MB")
    return data


def _rows(data: bytes, needed: Sequence[str]) -> Iterator[_Row]:
    """The rows below the column names that are not blank."""
    columns: list[str | None] | None = None
    filled = 0
    for number, cells in enumerate(_xlsx(data) if data[:2] == b"PK" else _csv(data), 1):
        if columns is None:
            columns = _columns(cells, needed, number)
            if columns is None and number >= _HEADER_WITHIN:
                break
            continue
        named = {
            column: cell
            for column, cell in zip(columns, cells, strict=False)
            if column is not None and cell is not None and cell != ""
        }
        if named:
            filled += 1
            if filled > MAX_ROWS:
                raise _refuse(f"超过 {MAX_ROWS} 行", f"more than {MAX_ROWS} rows")
            yield _Row(number, named)
    if columns is None:
        names = "、".join(_NAMES[column][0] for column in needed)
        raise _refuse(
            f"前 {_HEADER_WITHIN} 行里没有列名行；至少要有：{names}",
            f"no row of column names in the first {_HEADER_WITHIN} rows; "
            f"needed are: {', '.join(needed)}",
        )


def _columns(cells: Sequence[Any], needed: Sequence[str], number: int) -> list[str | None] | None:
    """What each column holds, or none if this is not the row of column names."""
    columns = [_COLUMN_OF.get(str(cell).strip().strip("*＊").lower()) for cell in cells]
    known = [column for column in columns if column is not None]
    if not set(needed) <= set(known):
        return None
    for column in known:
        if known.count(column) > 1:
            name = _NAMES[column][0]
            raise _refuse(
                f"“{name}”列出现了不止一次", f"the column {column} is there twice", number
            )
    return columns


def _csv(data: bytes) -> Iterator[Sequence[Any]]:
    if data[:4] == b"\xd0\xcf\x11\xe0":
        raise _refuse(
            "这是旧版 .xls 或加密的文件，请另存为不加密的 .xlsx 或 .csv",
            "this is an old .xls or an encrypted file: save it as plain .xlsx or .csv",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise _refuse(
                "既不是 UTF-8 也不是 GB18030 编码，也不是 .xlsx",
                "is neither UTF-8 nor GB18030 text nor .xlsx",
            ) from None
    head = text[:4096]
    reader = csv.reader(io.StringIO(text, ""), delimiter=max(",\t;", key=head.count))
    try:
        yield from reader
    except csv.Error as error:
        raise _refuse(f"CSV 格式错误：{error}", f"not CSV: {error}", reader.line_num) from None


def _xlsx(data: bytes) -> Iterator[Sequence[Any]]:
    # Half a second and 15 MB that the daemon never needs.
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > _MAX_UNPACKED:
            size = _MAX_UNPACKED // (1024 * 1024)
            raise _refuse(f"解压后超过 {size} MB", f"unpacks to more than {size} MB")
        with warnings.catch_warnings():
            # It warns of styles and validations that it does not know; they do not matter here.
            warnings.simplefilter("ignore")
            book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheet = book.worksheets[0]
            yield from sheet.iter_rows(max_row=_LAST_ROW, max_col=_MAX_COLUMNS, values_only=True)
    except TableErrors:
        raise
    except Exception as error:  # noqa: BLE001 - on broken files it raises whatever its parsers do
        raise _refuse(
            f"无法读取 XLSX 文件（{type(error).__name__}）",
            f"the XLSX file cannot be read ({type(error).__name__}: {error})",
        ) from None
