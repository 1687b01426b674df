"""People, rosters and absences as halls keep them in Excel."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from config import tables
from config.tables import TableErrors, read_absences, read_people, read_roster
from rules.model import Absence, Person, PersonEntry, RosterEntry

SHANGHAI = ZoneInfo("Asia/Shanghai")
UNITS = {"shebao": "社会保险局", "gongan": "公安局"}
WINDOWS = {"a01": "1号窗口", "a02": "2号窗口", "b02": "2号窗口"}
DEVICES = ["gate-1", "gate-2"]
PEOPLE = {"1001": Person("1001", "张晓明"), "0007": Person("0007", "李红梅")}
TIMETABLES = ["standard", "noon", "夜班"]


def people(source: Path | bytes | str) -> list[PersonEntry]:
    data = source.encode() if isinstance(source, str) else source
    return read_people(data, units=UNITS, windows=WINDOWS, devices=DEVICES)


def roster(source: bytes | str) -> list[RosterEntry]:
    data = source.encode() if isinstance(source, str) else source
    return read_roster(data, people=PEOPLE, timetables=TIMETABLES)


def absences(source: bytes | str) -> list[Absence]:
    data = source.encode() if isinstance(source, str) else source
    return read_absences(data, people=PEOPLE, zone=SHANGHAI)


def xlsx(*rows: Sequence[Any]) -> bytes:
    book = Workbook()
    sheet = book.active
    for row in rows:
        sheet.append(row)
    return saved(book)


def saved(book: Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def wall(*when: int) -> datetime:
    """As Excel has it: without a zone."""
    return datetime(*when)  # type: ignore[arg-type]  # noqa: DTZ001


def ms(*when: int) -> int:
    return int(datetime(*when, tzinfo=SHANGHAI).timestamp() * 1000)  # type: ignore[arg-type]


STAFF = "工号,姓名,单位,窗口,是否考勤,入职日期,离职日期,考勤机\n"
ONE = PersonEntry(
    Person(
        "0007",
        "李红梅",
        "shebao",
        "a01",
        False,
        ((date(2024, 7, 1), date(2026, 6, 30)),),
        ("gate-1", "gate-2"),
    )
)
ROW = "0007,李红梅,社会保险局,a01,否,2024年7月1日,2026/6/30,gate-1、gate-2\n"


# -- the same table in every form


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_csv_is_read_in_each_encoding_that_excel_writes(encoding: str) -> None:
    assert people((STAFF + ROW).encode(encoding)) == [ONE]


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_csv_may_be_delimited_by_tabs_or_semicolons(delimiter: str) -> None:
    assert people((STAFF + ROW).replace(",", delimiter)) == [ONE]


def test_xlsx_is_read_with_real_dates_and_numbers() -> None:
    data = xlsx(
        ("清河县政务服务中心人员表",),
        ("序号", " 姓名*", "工号", "单位", "电话", "入职日期", "是否考勤"),
        (1, "张晓明", 1001, "公安局", "000", wall(2024, 7, 1), "是"),
        (),
        (2, "李红梅", "0007", None, None, date(2025, 1, 6), None),
    )

    assert people(data) == [
        PersonEntry(Person("1001", "张晓明", "gongan", employed=((date(2024, 7, 1), None),))),
        PersonEntry(Person("0007", "李红梅", employed=((date(2025, 1, 6), None),))),
    ]


def test_what_openpyxl_warns_of_is_no_harm() -> None:
    """Files of other programs often have no default style."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SHEET)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name == "xl/styles.xml":
                part = re.sub(rb"<cellStyles.*</cellStyles>", b"", part)
            new.writestr(name, part)
    with pytest.warns(UserWarning, match="no default style"):
        load_workbook(io.BytesIO(file.getvalue()))

    assert people(file.getvalue()) == [PersonEntry(Person("1001", "张晓明"))]


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(STAFF + ROW, encoding="utf-8")

    assert people(path) == [ONE]


def test_english_column_names_do_too() -> None:
    assert people("Code,Name,unit\n1001,Zhang,gongan\n") == [
        PersonEntry(Person("1001", "Zhang", "gongan"))
    ]


def test_only_the_code_and_the_name_are_needed() -> None:
    assert people("姓名,工号\n张晓明,1001\n\n") == [PersonEntry(Person("1001", "张晓明"))]


# -- rosters


def test_a_roster_names_a_timetable_a_duty_or_rest() -> None:
    text = (
        "工号,姓名,日期,班次,值班\n"
        "1001,张晓明,2026-03-07,standard,\n"
        "1001,,20260308,,noon\n"
        "1001,,2026.3.9,休,\n"
        "0007,,2026-03-07,夜班,noon\n"
    )

    assert roster(text) == [
        RosterEntry("1001", date(2026, 3, 7), timetable="standard"),
        RosterEntry("1001", date(2026, 3, 8), duty="noon"),
        RosterEntry("1001", date(2026, 3, 9), duty="rest"),
        RosterEntry("0007", date(2026, 3, 7), timetable="夜班", duty="noon"),
    ]


# -- absences


def test_absences_are_half_open_and_a_last_date_is_included() -> None:
    text = (
        "单号,工号,类型,开始,结束,是否打卡,批准人,备注\n"
        "Q-1,1001,事假,2026-03-02,2026-03-03,,王建国,家事\n"
        ",0007,外出,2026-03-02 09:00,2026-03-02 11:30,,,\n"
        "Q-2,1001,training,2026/3/4 14:30,2026/3/4 24:00,否,,\n"
    )
    first, second, third = absences(text)

    assert first == Absence(
        "Q-1",
        ("1001",),
        "personal",
        ms(2026, 3, 2),
        ms(2026, 3, 4),
        approved_by="王建国",
        source="import",
        note="家事",
    )
    assert (second.kind, second.punch_required) == ("official", True)
    assert (second.starts, second.ends) == (ms(2026, 3, 2, 9), ms(2026, 3, 2, 11, 30))
    assert (third.kind, third.punch_required) == ("training", False)
    assert third.ends == ms(2026, 3, 5)


def test_dates_of_excel_are_whole_days_and_times_are_times() -> None:
    (leave, hours) = absences(
        xlsx(
            ("工号", "类型", "开始", "结束"),
            (1001, "病假", wall(2026, 3, 2), wall(2026, 3, 2)),
            (1001, "病假", wall(2026, 3, 3, 8, 30), wall(2026, 3, 3, 10, 0)),
        )
    )

    assert (leave.starts, leave.ends) == (ms(2026, 3, 2), ms(2026, 3, 3))
    assert (hours.starts, hours.ends) == (ms(2026, 3, 3, 8, 30), ms(2026, 3, 3, 10))


def test_an_absence_without_a_number_keeps_its_id_when_imported_again() -> None:
    text = "工号,类型,开始,结束\n1001,事假,2026-03-02,2026-03-02\n"
    other = text.replace("1001", "0007")

    assert absences(text) == absences(text)
    assert absences(text)[0].absence_id != absences(other)[0].absence_id


def test_every_kind_has_a_chinese_name_that_is_understood() -> None:
    for kind, name in tables.ABSENCE_KINDS.items():
        for told in (kind, name):
            text = f"工号,类型,开始,结束\n1001,{told},2026-03-02,2026-03-02\n"
            assert absences(text)[0].kind == kind


# -- what is wrong


def refused(read: Any, source: bytes | str) -> list[tuple[int, str]]:
    with pytest.raises(TableErrors) as caught:
        read(source)
    assert all(problem.zh and problem.en for problem in caught.value.problems)
    return [(problem.row, problem.column) for problem in caught.value.problems]


def test_every_bad_row_is_told_with_its_number_and_none_is_taken() -> None:
    text = (
        STAFF
        + ROW
        + "1001,张晓明,卫生局,a01,是,,,\n"
        + "1 2,赵小明,,,,,,\n"
        + ",钱小红,,,,,,\n"
        + "1003,,,,,,,\n"
        + "0007,孙小刚,,,,,,\n"
        + "1004,李小丽,,2号窗口,,,,\n"
        + "1005,周小军,,,也许,,,\n"
        + "1006,吴小芳,,,,去年,,\n"
        + "1007,郑小强,,,,2026-02-30,,\n"
        + "1008,王小燕,,,,2026-03-02,2026-03-01,\n"
        + "1009,冯小龙,,,,,,gate-9\n"
    )

    assert refused(people, text) == [
        (3, "单位"),
        (4, "工号"),
        (5, "工号"),
        (6, "姓名"),
        (7, "工号"),
        (8, "窗口"),
        (9, "是否考勤"),
        (10, "入职日期"),
        (11, "入职日期"),
        (12, "离职日期"),
        (13, "考勤机"),
    ]


def test_a_problem_reads_as_a_sentence_in_both_languages() -> None:
    with pytest.raises(TableErrors) as caught:
        people("工号,姓名,单位\n1001,张晓明,卫生局\n")

    assert str(caught.value) == (
        "第 2 行「单位」：没有单位“卫生局” / row 2: unit unknown unit '卫生局'"
    )


def test_bad_roster_rows() -> None:
    text = (
        "工号,姓名,日期,班次,值班\n"
        "9999,,2026-03-07,standard,\n"
        "1001,李红梅,2026-03-07,standard,\n"
        "1001,,2026-03-08,,\n"
        "1001,,2026-03-09,late,\n"
        "1001,,2026-03-10,,late\n"
        "1001,,2026-03-11,休,noon\n"
        "1001,,,standard,\n"
        "0007,,2026-03-07,standard,\n"
        "0007,,2026-03-07,noon,\n"
    )

    assert refused(roster, text) == [
        (2, "工号"),
        (3, "姓名"),
        (4, "班次"),
        (5, "班次"),
        (6, "值班"),
        (7, "值班"),
        (8, "日期"),
        (10, "日期"),
    ]


def test_bad_absence_rows() -> None:
    text = (
        "单号,工号,类型,开始,结束\n"
        ",9999,事假,2026-03-02,2026-03-02\n"
        ",1001,逛街,2026-03-02,2026-03-02\n"
        ",1001,事假,,2026-03-02\n"
        ",1001,事假,2026-03-02 25:00,2026-03-02\n"
        ",1001,事假,2026-03-02 8点,2026-03-02\n"
        ",1001,事假,2026-03-02 10:00,2026-03-02 10:00\n"
        ",1001,事假,2026-03-04,2026-03-02\n"
        "Q,1001,事假,2026-03-02,2026-03-02\n"
        "Q,0007,事假,2026-03-02,2026-03-02\n"
    )

    assert refused(absences, text) == [
        (2, "工号"),
        (3, "类型"),
        (4, "开始"),
        (5, "开始"),
        (6, "开始"),
        (7, "结束"),
        (8, "结束"),
        (10, "单号"),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no row of column names"),
        ("工号,单位\n1,x\n".encode(), "needed are: code, name"),
        ("姓名,工号,工号\n".encode(), "is there twice"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "old .xls or an encrypted"),
        (b"\xff\xff\xfe\xfe", "neither UTF-8 nor GB18030"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (f'工号,姓名\n1,"{"x" * 200_000}"\n'.encode(), "not CSV"),
        (f"工号,姓名\n1,{'x' * 3000}\n".encode(), "longer than 2000"),
        (b"x" * (20 * 1024 * 1024 + 1), "larger than 20 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_files_that_are_no_table_are_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(TableErrors, match=says):
        people(data)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableErrors, match="cannot be read: No such file"):
        people(tmp_path / "nothing.csv")


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 20)
    text = "工号,姓名\n" + "".join(f"{n},a\n" for n in range(40))

    with pytest.raises(TableErrors, match="more than 20 rows"):
        people(text)
    with pytest.raises(TableErrors, match="more than 20 rows"):
        people(xlsx(("工号", "姓名"), *[(n, "a") for n in range(40)]))


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for n in range(13):
            archive.writestr(f"xl/worksheets/sheet{n}.xml", b"\0" * (10 * 1024 * 1024))

    assert len(file.getvalue()) < 1024 * 1024
    with pytest.raises(TableErrors, match="unpacks to more than 120 MB"):
        people(file.getvalue())


def test_rows_are_read_to_the_end_of_the_sheet_and_blank_ones_do_not_count() -> None:
    book = Workbook()
    sheet = book.active
    for row in (("工号", "姓名"), ("1001", "张晓明")):
        sheet.append(row)
    sheet["XFD1048575"] = "x"
    sheet["B1048576"] = "李红梅"

    assert refused(people, saved(book)) == [(1_048_576, "工号")]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_whatever_the_file_holds_it_is_read_or_refused(data: bytes) -> None:
    for prefix in (b"", "工号,姓名,日期,班次,类型,开始,结束\n".encode(), b"PK\x03\x04"):
        for read in (people, roster, absences):
            try:
                read(prefix + data)
            except TableErrors:
                continue


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_broken_xlsx_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(SHEET)
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        people(bytes(whole[: len(whole) - cut // 4]))
    except TableErrors:
        pass


SHEET = xlsx(("工号", "姓名"), ("1001", "张晓明"))
CELLS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["2026-03-02", "2026-03-02 08:30", "8:30", "99990101", "事假", "1001", "休"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=5))
def test_whatever_the_cells_hold_the_rows_are_taken_or_refused(
    rows: list[tuple[str, str, str, str]],
) -> None:
    def csv(header: str) -> str:
        body = "\n".join(
            ",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows
        )
        return f"{header}\n{body}\n"

    for read, header in (
        (people, "工号,姓名,入职日期,考勤机"),
        (roster, "工号,日期,班次,值班"),
        (absences, "工号,类型,开始,结束"),
    ):
        try:
            assert len(read(csv(header))) <= len(rows)  # type: ignore[operator]
        except TableErrors as errors:
            told = errors.problems
            assert all(problem.row >= 0 for problem in told)
