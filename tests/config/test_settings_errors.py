"""What is wrong with the settings is said at once, with place and expectation."""

from __future__ import annotations

import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.load import load, read_secret
from config.settings import Settings
from config.source import Problem, SettingsError, value_lines

EXAMPLE = Path(__file__).parents[2] / "config" / "hallwatch.example.toml"
HALL = '[hall]\nid = "h"\nname = "大厅"\n'
ZK = '[[devices]]\nid = "g"\ndriver = "zkteco"\n'


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def problems(folder: Path, text: str | bytes, **more: str) -> tuple[Problem, ...]:
    """What ``load`` finds wrong; ``more`` are files of ``conf.d``."""
    path = folder / "hallwatch.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, extra in more.items():
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / f"{name}.toml").write_text(extra, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(path)
    return caught.value.problems


def one(folder: Path, text: str) -> Problem:
    found = problems(folder, text)

    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


# -- one error each

CASES = [
    # text, where, label, a part of the sentence in English
    ("[hall]\nid = 'h'\n", "hall.name", "", "required, but missing"),
    ("", "hall.id", "", "required"),
    (HALL + 'lvel = "x"\n', "hall.lvel", "", "did you mean level?"),
    (HALL + "[hal]\n", "hal", "", "unknown setting, did you mean hall?"),
    (HALL.replace('"h"', '"H all"'), "hall.id", "", "lower-case"),
    (HALL + 'zone = "Asia"\n', "hall.zone", "", "expected a zone"),
    (HALL + 'zone = "../etc/passwd"\n', "hall.zone", "", "expected a zone"),
    (HALL + 'weekly = ["mon", "mon"]\n', "hall.weekly", "", "only once"),
    (HALL + 'duty_only = ["fri"]\n', "hall.duty_only[1]", "", "stands in weekly, too"),
    (HALL + 'start_date = "tomorrow"\n', "hall.start_date", "", "expected a date"),
    (
        HALL + 'timetable = "x"\n',
        "hall.timetable",
        "",
        'unknown timetable "x"; there are: standard',
    ),
    (HALL + 'units = "x"\n', "hall.units", "", "unknown setting"),
    (HALL + "[[hall.x]]\n", "hall.x", "", "unknown setting"),
    (HALL + "[units]\n", "units", "", "expected [[units]] tables"),
    (HALL + '[[units]]\nid = "a"\n', "units[1].name", "a", "required"),
    (HALL + '[[windows]]\nid = "w"\nname = "w"\nunit = "u"\n', "windows[1].unit", "w", "unknown"),
    (HALL + '[[people]]\ncode = 7\nname = "a"\n', "people[1].code", "a", "expected text in quotes"),
    (HALL + '[[people]]\ncode = "1 2"\nname = "a"\n', "people[1].code", "1 2", "without spaces"),
    (
        HALL + '[[people]]\ncode = "1"\nname = "a"\nattendance_required = 1\n',
        "people[1].attendance_required",
        "1",
        "expected true or false",
    ),
    (
        HALL + '[[people]]\ncode = "1"\nname = "a"\ndevices = ["x"]\n',
        "people[1].devices[1]",
        "1",
        "unknown device",
    ),
    (HALL + 'people_file = "p.csv"\n', "hall.people_file", "", "not found"),
    (HALL + '[calendar]\ntables = ["y.toml"]\n', "calendar.tables[1]", "", "not found"),
    (
        HALL + '[[calendar.overrides]]\ndate = 2026-03-02\nkind = "open"\n',
        "calendar.overrides[1].kind",
        "",
        "expected one of",
    ),
    (
        HALL + '[[calendar.overrides]]\ndate = 2026-03-02\nkind = "closed"\nas_weekday = "mon"\n',
        "calendar.overrides[1].as_weekday",
        "",
        "is not worked",
    ),
    (HALL + "[policy]\nsettle = 1.5\n", "policy.settle", "", "expected a whole number, found 1.5"),
    (HALL + '[policy]\nsettle = "10"\n', "policy.settle", "", "expected a whole number"),
    (HALL + "[policy]\nlock_workday = 0\n", "policy.lock_workday", "", "at least 1, found 0"),
    (HALL + "[rules.late]\n", "rules.late", "", "late_arrival"),
    (HALL + "[rules.engine]\n", "rules.engine", "", "unknown setting"),
    (HALL + "[rules.late_arrival]\npts = 1\n", "rules.late_arrival.pts", "", "did you mean points"),
    (
        HALL + '[rules.late_arrival]\nenabled = "no"\n',
        "rules.late_arrival.enabled",
        "",
        "true or false",
    ),
    (HALL + "[rules]\nlate_arrival = 3\n", "rules.late_arrival", "", "expected [rules.late_arr"),
    (
        HALL + "[[rules.late_arrival]]\n[[rules.late_arrival]]\n",
        "rules.late_arrival[2]",
        "",
        "is used by rules.late_arrival[1]",
    ),
    (
        HALL + "[[rules.silent_device]]\nusual = 0\n",
        "rules.silent_device[1].usual",
        "",
        "more than",
    ),
    (HALL + ZK, "devices[1].host", "g", "required"),
    (HALL + ZK + 'host = "h"\nprt = 1\n', "devices[1].prt", "g", "did you mean port?"),
    (HALL + ZK + 'host = "h"\nport = 70000\n', "devices[1]", "g", "port is 70000"),
    (HALL + ZK + 'host = "h"\nprotocol = "x"\n', "devices[1].protocol", "g", "expected one of"),
    (HALL + ZK + 'host = "h"\nwindow = "w"\n', "devices[1].window", "g", "unknown window"),
    (HALL + ZK.replace('"g"', '"api"') + 'host = "h"\n', "devices[1].id", "api", "another id"),
    (HALL + ZK.replace("zkteco", "zkteko"), "devices[1].driver", "g", "there are:"),
    (HALL + ZK.replace("zkteco", "base"), "devices[1].driver", "g", "unknown driver"),
    (HALL + ZK.replace("zkteco", "../x"), "devices[1].driver", "g", "unknown driver"),
    (HALL + ZK + 'host = "h"\ncomm_key_file = "k"\n', "devices[1].comm_key_file", "g", "not found"),
    (HALL + ZK + 'host = "h"\ncomm_key = 1\n', "devices[1].comm_key", "g", "comm_key_file"),
    (
        HALL + '[[sinks]]\ntype = "mqtt"\nname = "m"\nhost = "h"\npassword = "geheim"\n',
        "sinks[1].password",
        "m",
        "password_file",
    ),
    (HALL + '[[sinks]]\ntype = "mqt"\n', "sinks[1].type", "", "expected one of influx, mqtt"),
    (HALL + "[broker]\nport = -1\n", "broker.port", "", "at least 0"),
    (HALL + "[broker]\nembedded = true\nport = 8470\n", "broker.port", "", "the API's"),
    (HALL + '[storage]\nsynchronous = "off"\n', "storage.synchronous", "", "'full' or 'normal'"),
    (HALL + '[log]\nlevel = "LOUD"\n', "log.level", "", 'found "LOUD"'),
]


@pytest.mark.parametrize(("text", "at", "label", "says"), CASES, ids=[case[1] for case in CASES])
def test_an_error_names_its_place_and_what_was_expected(
    tmp_path: Path, text: str, at: str, label: str, says: str
) -> None:
    found = problems(tmp_path, text)
    named = [problem for problem in found if problem.at == at]

    assert len(found) <= 2, "\n".join(map(str, found))
    assert len(named) == 1, "\n".join(map(str, found))
    assert named[0].label == label
    assert says in named[0].en
    assert named[0].zh.endswith("。")
    assert named[0].en.endswith(".")


SEGMENTS = [
    ('{ name = "a", starts = "8.30", ends = "12:00" }', "[1].starts", "a time in quotes"),
    ('{ name = "a", starts = "08:30", ends = "48:01" }', "[1].ends", '"48:00" the latest'),
    ('{ name = "a", starts = 830, ends = "12:00" }', "[1].starts", "a time in quotes"),
    ('{ name = "a", starts = "12:00", ends = "08:30" }', "[1].ends", "26:00"),
    ('{ name = "a", starts = "24:00", ends = "26:00" }', "[1].starts", "before 24:00"),
    ('{ name = "duty", starts = "08:00", ends = "09:00" }', "[1].name", "duty rosters"),
    ('{ name = "a", starts = "08:00", ends = "09:00", grace = 20 }', "[1]", "grace <= serious"),
    (
        '{ name = "a", starts = "08:00", ends = "09:00", accept_on = ["08:10", "08:00"] }',
        "[1].accept_on",
        "begin before",
    ),
    (
        '{ name = "a", starts = "08:00", ends = "10:00" }, '
        '{ name = "b", starts = "09:59", ends = "11:00" }',
        "[2].starts",
        "overlaps with the segment a",
    ),
    (
        '{ name = "a", starts = "08:00", ends = "10:00" }, '
        '{ name = "a", starts = "10:00", ends = "11:00" }',
        "[2].name",
        "is used by",
    ),
]


@pytest.mark.parametrize(("segments", "at", "says"), SEGMENTS)
def test_segments_that_cannot_be_kept_are_refused(
    tmp_path: Path, segments: str, at: str, says: str
) -> None:
    text = f'{HALL}[[timetables]]\nname = "t"\n[[timetables.versions]]\nsegments = [{segments}]\n'
    found = one(tmp_path, text)

    assert found.at == f"timetables[1].versions[1].segments{at}"
    assert says in found.en


ROSTERS = [
    ('person = "1"\nwindow = "w"\nduty = "rest"', "rosters[1]", "either a person or a window"),
    ('duty = "rest"', "rosters[1]", "either a person or a window"),
    ('person = "1"', "rosters[1]", "needs a timetable or a duty"),
    ('person = "1"\ntimetable = "x"', "rosters[1].timetable", "unknown timetable"),
    ('person = "1"\nduty = "x"', "rosters[1].duty", "unknown duty"),
    ('person = "1"\nduty = "rest"\ntimetable = "standard"', "rosters[1].duty", "cannot rest"),
    ('person = "1"\nduty = "rest"\nuntil = 2026-03-01', "rosters[1].until", "is before from"),
    ('person = "1"\nduty = "rest"\nweekdays = []', "rosters[1].weekdays", "at least 1"),
]


@pytest.mark.parametrize(("roster", "at", "says"), ROSTERS)
def test_rosters_that_make_no_sense_are_refused(
    tmp_path: Path, roster: str, at: str, says: str
) -> None:
    people = '[[windows]]\nid = "w"\nname = "w"\n[[people]]\ncode = "1"\nname = "a"\n'
    found = one(tmp_path, f"{HALL}{people}[[rosters]]\nfrom = 2026-03-02\n{roster}\n")

    assert found.at == at
    assert says in found.en


def test_two_rosters_of_one_person_from_one_date_are_refused(tmp_path: Path) -> None:
    roster = '[[rosters]]\nperson = "1"\nfrom = 2026-03-02\nduty = "rest"\n'
    found = one(tmp_path, HALL + roster + 'weekdays = ["mon"]\n' + roster)

    assert found.at == "rosters[2]"
    assert "rosters[1]" in found.en


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ('[[units]]\nid = "a"\nname = "a"\n' * 2, "units[2].id"),
        ('[[windows]]\nid = "a"\nname = "a"\n' * 2, "windows[2].id"),
        ('[[people]]\ncode = "1"\nname = "a"\n' * 2, "people[2].code"),
        ('[[timetables]]\nname = "a"\nversions = [{ segments = [] }]\n' * 2, "timetables[2].name"),
        ('[[sinks]]\ntype = "mqtt"\nname = "m"\nhost = "h"\n' * 2, "sinks[2].name"),
        (
            '[[calendar.overrides]]\ndate = 2026-03-02\nkind = "rest"\n' * 2,
            "calendar.overrides[2].date",
        ),
    ],
)
def test_an_id_given_twice_is_an_error_at_the_second_that_names_the_first(
    tmp_path: Path, text: str, at: str
) -> None:
    found = one(tmp_path, HALL + text)

    assert found.at == at
    assert at.replace("2", "1") in found.en


def test_two_devices_of_one_id_are_an_error_even_if_one_is_faulty(tmp_path: Path) -> None:
    found = problems(tmp_path, HALL + ZK + ZK + 'host = "192.0.2.1"\n')

    assert [problem.at for problem in found] == ["devices[1].host", "devices[2].id"]


def test_two_devices_on_a_link_that_the_driver_refuses_to_share_are_an_error(
    tmp_path: Path,
) -> None:
    second = ZK.replace('"g"', '"g2"') + 'host = "192.0.2.1"\n'
    text = HALL + ZK + 'host = "192.0.2.1"\n' + second

    found = one(tmp_path, text)
    assert found.at == "devices[2]"
    assert "g, g2" in found.en

    # The one that was replaced may stay in the file.
    (tmp_path / "hallwatch.toml").write_text(text + "out_of_service = true\n")
    load(tmp_path / "hallwatch.toml")


def test_terminals_that_push_share_a_listener(tmp_path: Path) -> None:
    text = HALL
    for number in "12":
        text += f'[[devices]]\nid = "p{number}"\ndriver = "zk_push"\nserial = "SN0{number}A"\n'
    (tmp_path / "hallwatch.toml").write_text(text)

    assert len(load(tmp_path / "hallwatch.toml").devices) == 2


# -- all at once, and where


def test_all_errors_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
[hall]
id = "h"

[[people]]
code = "1"
name = "a"
window = "w9"

[[devices]]
id = "gate"
driver = "zkteco"
comm_key = 4711

[[devices]]
id = "Gate 2"
driver = "nothing"

[rules.late_arrival]
points = "many"

[policy]
settle = 10
settel = 10
"""
    found = problems(tmp_path, text)

    assert [(problem.place.line, problem.at) for problem in found] == [
        (1, "hall.name"),
        (7, "people[1].window"),
        (9, "devices[1].host"),
        (12, "devices[1].comm_key"),
        (15, "devices[2].id"),
        (16, "devices[2].driver"),
        (19, "rules.late_arrival.points"),
        (23, "policy.settel"),
    ]
    assert {problem.place.file for problem in found} == {tmp_path / "hallwatch.toml"}


def test_an_error_reads_as_a_line_with_file_line_value_label_and_both_languages(
    tmp_path: Path,
) -> None:
    found = one(tmp_path, HALL + ZK + 'host = "h"\nprotocol = "x"\n')

    assert str(found) == (
        f"{tmp_path}/hallwatch.toml:8: devices[1].protocol（g） "
        "应为以下之一：'auto', 'tcp', 'udp'，实为 \"x\"。 / "
        "expected one of 'auto', 'tcp' or 'udp', found \"x\"."
    )


def test_a_secret_is_never_repeated_in_an_error(tmp_path: Path) -> None:
    text = HALL + ZK + 'comm_key = 84715\npassword = "hunter2"\n[hall.token]\nx = "s3cret"\n'
    # A whole table is shown where an array of tables was expected.
    text += '[units]\npassword = "letmein"\n'
    found = problems(tmp_path, text)

    told = {problem.at: problem.en for problem in found}
    for at in ("devices[1].comm_key", "devices[1].password", "hall.token", "units.password"):
        assert at.split(".")[-1] + "_file" in told[at]
    for secret in ("84715", "hunter2", "s3cret", "letmein"):
        assert secret not in "\n".join(map(str, found))


def test_what_a_driver_can_take_from_a_file_may_not_stand_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import drivers

    (tmp_path / "safe.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Options:\n"
        "    pin: int = 0\n"
        "    pin_file: str = ''\n"
        "class Safe:\n"
        "    options = Options\n"
        "    attendance = False\n"
        "DRIVER = Safe\n"
    )
    monkeypatch.setattr(drivers, "__path__", [*drivers.__path__, str(tmp_path)])
    found = one(tmp_path, HALL + ZK.replace("zkteco", "safe") + "pin = 4711\n")

    assert found.at == "devices[1].pin"
    assert "pin_file" in found.en
    assert "4711" not in str(found)


def test_a_secrets_file_must_be_readable_text_and_not_empty(tmp_path: Path) -> None:
    text = HALL + ZK + 'host = "h"\ncomm_key_file = "k"\n'
    (tmp_path / "k").write_bytes(b"\n")
    assert "is empty" in one(tmp_path, text).en

    (tmp_path / "k").write_bytes(b"\xff\xfe1")
    assert "is not UTF-8" in one(tmp_path, text).en

    (tmp_path / "k").write_bytes(b"1" * 5000)
    assert "larger" in one(tmp_path, text).en

    (tmp_path / "k").write_bytes(b"12345\r\n")
    load(tmp_path / "hallwatch.toml")
    assert read_secret(tmp_path / "k") == "12345"


def test_a_driver_whose_needs_are_missing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import drivers

    (tmp_path / "needy.py").write_text("import nothing_of_that_name\n")
    monkeypatch.setattr(drivers, "__path__", [*drivers.__path__, str(tmp_path)])
    found = one(tmp_path, HALL + ZK.replace("zkteco", "needy"))

    assert found.at == "devices[1].driver"
    assert "nothing_of_that_name" in found.en


def test_a_people_file_with_bad_rows_is_told_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("工号,姓名,单位\n1,赵小明,无此单位\n1,钱小红,\n")
    found = problems(tmp_path, HALL + 'people_file = "p.csv"\n')

    assert [(problem.place.file.name, problem.place.line, problem.at) for problem in found] == [
        ("p.csv", 2, "「单位」"),
        ("p.csv", 3, "「工号」"),
    ]


def test_a_person_in_the_people_file_and_in_the_settings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("工号,姓名\n1,赵小明\n")
    text = HALL + 'people_file = "p.csv"\n[[people]]\ncode = "1"\nname = "a"\n'

    assert "in [[people]], too" in one(tmp_path, text).en


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("year = 2031", "missing required field"),
        ('year = 2031\nnotice = "n"\nissued = 2030-11-01\ndays = [{ date = 2030-01-01, kind = "holiday", name = "x" }]', "not in the year"),  # noqa: E501
        ('year = 2031\nnotice = "n"\nissued = 2030-11-01\ndays = [{ date = 2031-01-01, kind = "off", name = "x" }]', "Invalid enum value"),  # noqa: E501
        ("year = ", "Invalid value"),
    ],
)  # fmt: skip
def test_a_faulty_table_of_days_off_is_refused(tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "y.toml").write_text(table)
    found = one(tmp_path, HALL + '[calendar]\ntables = ["y.toml"]\n')

    assert found.at == "calendar.tables[1]"
    assert says in found.en


# -- the files themselves


def test_a_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    found = one(tmp_path, '[hall]\nid = "h"\nname = 大厅\n')

    assert found.place == (tmp_path / "hallwatch.toml", 3, 8)
    assert str(found).startswith(f"{tmp_path}/hallwatch.toml:3:8: ")
    assert "TOML 语法错误" in found.zh


def test_syntax_errors_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "[hall\n", a="x = \n", b="[log]\n", c="y = 1 2\n")

    assert [problem.place.file.name for problem in found] == ["a.toml", "c.toml", "hallwatch.toml"]


def test_a_gb18030_file_is_told_to_be_one(tmp_path: Path) -> None:
    found = problems(tmp_path, HALL.encode("gb18030"))

    assert len(found) == 1
    assert found[0].place.line == 3
    assert "UTF-8" in found[0].zh
    assert "GB18030" in found[0].en


def test_a_byte_order_mark_and_windows_line_ends_are_no_harm(tmp_path: Path) -> None:
    text = (HALL + "[policy]\nsettle = -1\n").replace("\n", "\r\n")
    found = problems(tmp_path, b"\xef\xbb\xbf" + text.encode())

    assert [(problem.place.line, problem.at) for problem in found] == [(5, "policy.settle")]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load(tmp_path / "nothing.toml")


def test_a_key_given_twice_in_two_files_names_both_places(tmp_path: Path) -> None:
    found = problems(tmp_path, HALL, extra='[hall]\nlevel = "city"\nname = "乙"\n')

    assert len(found) == 1
    assert found[0].place == (tmp_path / "conf.d" / "extra.toml", 3, 0)
    assert found[0].at == "hall.name"
    assert f"{tmp_path}/hallwatch.toml:3" in found[0].en


def test_a_plain_array_is_not_appended_to(tmp_path: Path) -> None:
    found = problems(tmp_path, HALL + 'weekly = ["mon"]\n', extra='[hall]\nweekly = ["tue"]\n')

    assert [problem.at for problem in found] == ["hall.weekly"]


def test_errors_in_conf_d_are_told_with_their_file_and_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        HALL + '[[units]]\nid = "a"\nname = "a"\n',
        extra='\n[[units]]\nid = "b"\nnmae = "b"\nname = "b"\n',
    )

    assert [(problem.place, problem.at) for problem in found] == [
        ((tmp_path / "conf.d" / "extra.toml", 4, 0), "units[2].nmae")
    ]


def test_lines_are_found_in_every_form_that_toml_has() -> None:
    text = '''# a comment with [brackets] and "quotes
[a]
x = 1
"b c".'d' = "]"   # [[no]]
e = { f = 1, g = [1, { h = 2 },
  3] }
s = """
[[not.a.table]]
y = "" \\" """"
l = \'\'\'
[no]\'\'\'\'
[[t]]
k = 1.5
[t.u]
v = 2026-01-01 08:00:00
[[t.w]]
[[t.w]]
z = -1
[[t]]
k = 2
'''
    lines = value_lines(text)

    assert tomllib.loads(text)["a"]["l"] == "[no]'"
    assert lines == {
        ("a",): 2,
        ("a", "x"): 3,
        ("a", "b c"): 4,
        ("a", "b c", "d"): 4,
        ("a", "e"): 5,
        ("a", "e", "f"): 5,
        ("a", "e", "g"): 5,
        ("a", "e", "g", 0): 5,
        ("a", "e", "g", 1): 5,
        ("a", "e", "g", 1, "h"): 5,
        ("a", "e", "g", 2): 6,
        ("a", "s"): 7,
        ("a", "l"): 10,
        ("t",): 12,
        ("t", 0): 12,
        ("t", 0, "k"): 13,
        ("t", 0, "u"): 14,
        ("t", 0, "u", "v"): 15,
        ("t", 0, "w"): 16,
        ("t", 0, "w", 0): 16,
        ("t", 0, "w", 1): 17,
        ("t", 0, "w", 1, "z"): 18,
        ("t", 1): 19,
        ("t", 1, "k"): 20,
    }


# -- whatever stands in the file

KEYS = sorted(
    {
        *Settings.model_fields,
        *("id", "name", "code", "driver", "host", "type", "versions", "segments", "starts", "ends"),
        *("weekly", "overrides", "tables", "late_arrival", "effective_from", "people_file", "from"),
        *("person", "window", "duty", "timetable", "weekdays", "port", "password", "comm_key_file"),
    }
)
VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.dates(),
        st.text(max_size=8),
        st.sampled_from(["zkteco", "zk_push", "mqtt", "standard", "rest", "mon", "08:30", "a"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


def toml(value: Any) -> str:
    """One value as TOML: tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(key)} = {toml(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list):
        return "[ " + ", ".join(map(toml, value)) + " ]"
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else "nan"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return value.isoformat() if isinstance(value, date) else str(value)


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
@example(document={"hall": {"id": "h", "name": "n"}, "devices": [{"driver": "zkteco", "host": ""}]})
@example(document={"hall": {"people_file": "\x00"}, "rules": {"late_arrival": [[]]}})
def test_whatever_stands_in_the_file_only_settings_errors_come_of_it(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    _load_or_be_told(tmp_path / "hallwatch.toml", document)


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_one_value_of_good_settings_becomes_only_settings_errors_come_of_it(
    tmp_path: Path, data: st.DataObject
) -> None:
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    table: Any = document
    while True:
        key = data.draw(st.sampled_from(range(len(table)) if isinstance(table, list) else [*table]))
        if not isinstance(table[key], dict | list) or not table[key] or data.draw(st.booleans()):
            break
        table = table[key]
    table[key] = data.draw(VALUES)

    _load_or_be_told(tmp_path / "hallwatch.toml", document)


def _load_or_be_told(path: Path, document: dict[str, Any]) -> None:
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    path.write_text(text, encoding="utf-8")
    told: tuple[Problem, ...] | None = None
    try:
        load(path)
    except SettingsError as error:
        told = error.problems

    assert told is None or (told and all(problem.zh and problem.en for problem in told))


@hypothesis_settings(max_examples=200, deadline=None)
@given(document=st.dictionaries(st.text(max_size=4), VALUES, max_size=5))
def test_every_value_has_a_line(document: dict[str, Any]) -> None:
    text = "".join(f"\n{toml(key)} = {toml(value)}\n" for key, value in document.items())
    data = tomllib.loads(text)
    lines = value_lines(text)

    for index, (key, value) in enumerate(data.items()):
        assert lines[(key,)] == 2 + 2 * index
        if isinstance(value, list | dict):
            children = range(len(value)) if isinstance(value, list) else value
            assert all(lines[(key, child)] == 2 + 2 * index for child in children)
