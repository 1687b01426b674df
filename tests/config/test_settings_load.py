"""What the settings mean: the example, the hall that is built, and who has to be where when."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from config import settings
from config.load import Hall, load, read_secret
from config.settings import PolicySettings, Section, SegmentSettings, Settings
from rules.model import Person, Policy, RosterEntry, SegmentRule

EXAMPLE = Path(__file__).parents[2] / "config" / "hallwatch.example.toml"
SHANGHAI = ZoneInfo("Asia/Shanghai")
HALL = '[hall]\nid = "h"\nname = "大厅"\n'
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "hallwatch.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture(scope="module")
def example() -> Hall:
    return load(EXAMPLE)


def spans(hall: Hall, person: str, day: date, entry: RosterEntry | None = None) -> list[str]:
    """``am 08:30-12:00`` and so on, for reading."""

    def clock(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    who = hall.people.get(person) or Person(person)
    return [
        f"{rule.name} {clock(rule.starts)}-{clock(rule.ends)}"
        for rule in hall.segment_rules(who, day, entry)
    ]


STANDARD = ["am 08:30-12:00", "pm 14:30-18:00"]


def at(zone: ZoneInfo, *when: int) -> int:
    return int(datetime(*when, tzinfo=zone).timestamp() * 1000)  # type: ignore[arg-type]


# -- the example


def test_the_example_loads_without_warnings(example: Hall) -> None:
    assert example.warnings == ()
    assert example.id == "qinghe"
    assert example.zone == SHANGHAI
    assert example.start_date == date(2026, 3, 2)
    assert [device.id for device in example.devices][:3] == ["gate-1", "gate-2", "spare"]
    assert [device.in_service for device in example.devices][:3] == [True, True, False]
    assert example.devices[0].options.host == "192.0.2.21"
    assert example.sinks[0].port == 1883
    assert example.people["1001"].employed == ((date(2024, 7, 1), None),)
    assert example.people["1002"].devices == ("gate-1",)
    assert not example.people["2001"].attendance_required


def test_the_example_shows_every_section_and_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    sections = [f"[{name}" for name in Settings.model_fields if name != "rules"]
    models = [model for model in vars(settings).values() if isinstance(model, type)]
    keys = {
        field.alias or name
        for model in models
        if issubclass(model, Section) and model is not Settings
        for name, field in model.model_fields.items()
    }

    assert [section for section in sections if section not in text] == []
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}(\]\]| = )", text)] == []


def test_the_smallest_settings_are_a_hall_with_id_and_name(write: Write) -> None:
    hall = load(write(HALL))

    assert hall.zone == SHANGHAI
    assert hall.policy == Policy()
    assert (hall.api.host, hall.api.port) == ("127.0.0.1", 8470)
    assert hall.start_date is None
    assert spans(hall, "1", date(2026, 3, 2)) == STANDARD
    assert spans(hall, "1", date(2026, 3, 7)) == []


def test_the_defaults_are_those_of_the_model() -> None:
    assert PolicySettings().model_dump() == {
        name: getattr(Policy(), name) for name in Policy.__struct_fields__
    }
    segment = SegmentSettings.model_validate_json(
        '{"name": "am", "starts": "08:30", "ends": "12:00"}'
    ).model_dump()
    del segment["weight"]
    assert SegmentRule(**segment) == SegmentRule("am", 510, 720)
    assert {*segment, "weight"} == set(SegmentRule.__struct_fields__)


# -- the calendar's days


def test_holidays_are_free_and_make_up_workdays_are_worked(example: Hall) -> None:
    assert spans(example, "1001", date(2026, 10, 1)) == []
    assert spans(example, "1001", date(2026, 10, 10)) != []
    assert example.calendar.kind(date(2026, 10, 10)).name == "国庆节"


def test_an_override_closes_the_hall(example: Hall) -> None:
    kind = example.calendar.kind(date(2026, 3, 6))

    assert (kind.kind, kind.source, kind.name) == ("closed", "hall", "大厅搬迁")
    assert spans(example, "1001", date(2026, 3, 6)) == []


def test_a_make_up_workday_follows_the_weekday_it_is_given(example: Hall) -> None:
    """Saturday 2026-05-09 stands for a Friday, on which the hall closes at 17:00."""
    assert spans(example, "1002", date(2026, 5, 9)) == ["am 08:30-12:00", "pm 14:30-17:00"]
    assert spans(example, "1002", date(2026, 5, 11)) == ["am 08:30-12:00", "pm 15:00-18:00"]


def test_seasons_end_and_begin_on_their_dates(example: Hall) -> None:
    assert spans(example, "1002", date(2026, 4, 30)) == STANDARD
    assert spans(example, "1002", date(2026, 9, 30))[1] == "pm 15:00-18:00"
    assert spans(example, "1002", date(2026, 10, 8))[1] == "pm 14:30-18:00"


def test_a_year_nobody_has_a_table_for_is_unknown(example: Hall) -> None:
    assert not example.calendar.kind(date(2031, 3, 3)).known
    assert example.calendar.kind(date(2031, 10, 1)).kind == "holiday"


def test_an_operators_table_makes_a_year_known(write: Write) -> None:
    rows = '{ date = 2031-02-10, kind = "holiday", name = "春节" }'
    write(f'year = 2031\nnotice = "x〔2030〕1号"\nissued = 2030-11-01\ndays = [{rows}]', "y.toml")
    hall = load(write(HALL + '[calendar]\ntables = ["y.toml"]\n'))

    assert hall.calendar.kind(date(2031, 3, 3)).known
    assert hall.calendar.kind(date(2031, 2, 10)).source == "x〔2030〕1号"


def test_a_table_that_differs_from_the_package_is_warned_of_and_holds(write: Write) -> None:
    rows = '{ date = 2026-03-02, kind = "holiday", name = "x" }'
    write(f'year = 2026\nnotice = "n"\nissued = 2025-11-01\ndays = [{rows}]', "y.toml")
    hall = load(write(HALL + '[calendar]\ntables = ["y.toml"]\n'))

    assert len(hall.warnings) == 1
    assert "2026-03-02" not in hall.warnings[0].split(" / ")[0].split("：")[0]
    assert "2026-01-01" in hall.warnings[0]
    assert hall.calendar.kind(date(2026, 3, 2)).kind == "holiday"


def test_a_weekly_pattern_of_three_days_and_a_duty_day(write: Write) -> None:
    hall = load(
        write(
            HALL + 'weekly = ["mon", "wed", "fri"]\nduty_only = ["sat"]\n'
            '[[rosters]]\nwindow = "w"\nfrom = 2026-03-01\nweekdays = ["sat"]\n'
            'timetable = "standard"\n'
            '[[windows]]\nid = "w"\nname = "w"\n'
            '[[people]]\ncode = "1"\nname = "a"\nwindow = "w"\n'
        )
    )

    assert hall.calendar.kind(date(2026, 3, 7)).kind == "duty_only"
    assert spans(hall, "1", date(2026, 3, 7)) == STANDARD
    assert spans(hall, "2", date(2026, 3, 7)) == []
    assert spans(hall, "1", date(2026, 3, 3)) == []
    assert spans(hall, "1", date(2026, 3, 4)) == STANDARD


# -- rosters


def test_duty_is_added_to_what_is_worked_anyway(example: Hall) -> None:
    """Tuesday at window a01."""
    assert spans(example, "1001", date(2026, 3, 3)) == [*STANDARD, "duty 12:00-13:30"]
    assert spans(example, "1001", date(2026, 3, 4)) == STANDARD
    assert spans(example, "1001", date(2026, 4, 2)) == STANDARD
    assert spans(example, "1002", date(2026, 3, 3)) == STANDARD


def test_all_segments_with_duty_weigh_by_their_length_what_the_day_weighed(example: Hall) -> None:
    rules = example.segment_rules(example.people["1001"], date(2026, 3, 3))

    assert [rule.weight for rule in rules] == pytest.approx([210 / 510, 210 / 510, 90 / 510])


def test_duty_that_overlaps_counts_only_outside_the_other_segments(write: Write) -> None:
    hall = load(
        write(
            HALL + '[[timetables]]\nname = "noon"\nversions = [{ segments = [\n'
            '{ name = "n", starts = "11:30", ends = "15:00" }] }]\n'
        )
    )
    entry = RosterEntry("1", date(2026, 3, 3), duty="noon")

    assert spans(hall, "1", date(2026, 3, 3), entry) == [*STANDARD, "duty 12:00-14:30"]


def test_a_single_date_holds_on_a_day_off(example: Hall) -> None:
    assert spans(example, "1002", date(2026, 3, 7)) == STANDARD


def test_rest_takes_a_workday_away(example: Hall) -> None:
    assert spans(example, "1002", date(2026, 3, 9)) == []
    assert spans(example, "1001", date(2026, 3, 9)) == STANDARD


def test_a_roster_over_a_span_leaves_weekends_and_holidays_free(write: Write) -> None:
    hall = load(
        write(
            HALL + '[[timetables]]\nname = "long"\nversions = [{ segments = [\n'
            '{ name = "day", starts = "09:00", ends = "17:00" }] }]\n'
            '[[rosters]]\nperson = "1"\nfrom = 2026-09-01\nuntil = 2026-10-31\n'
            'timetable = "long"\n'
            '[[people]]\ncode = "1"\nname = "a"\n'
        )
    )

    assert spans(hall, "1", date(2026, 9, 30)) == ["day 09:00-17:00"]
    assert spans(hall, "1", date(2026, 10, 1)) == []
    assert spans(hall, "1", date(2026, 9, 27)) == []
    assert spans(hall, "1", date(2026, 9, 20)) == ["day 09:00-17:00"]
    assert spans(hall, "1", date(2026, 11, 2)) == STANDARD


def test_a_roster_for_weekdays_leaves_holidays_free(write: Write) -> None:
    """1 October 2026 is a Thursday, and Saturday the 10th is worked like a Monday."""
    hall = load(
        write(
            HALL + '[[timetables]]\nname = "short"\nversions = [{ segments = [\n'
            '{ name = "day", starts = "09:00", ends = "15:00" }] }]\n'
            '[[rosters]]\nperson = "1"\nfrom = 2026-09-01\nweekdays = ["mon", "thu"]\n'
            'timetable = "short"\n'
            '[[people]]\ncode = "1"\nname = "a"\n'
        )
    )

    assert spans(hall, "1", date(2026, 10, 1)) == []
    assert spans(hall, "1", date(2026, 10, 8)) == ["day 09:00-15:00"]
    assert spans(hall, "1", date(2026, 10, 9)) == STANDARD
    assert spans(hall, "1", date(2026, 10, 10)) == ["day 09:00-15:00"]


def test_the_entry_given_beats_person_beats_window_beats_hall(write: Write) -> None:
    def table(name: str, ends: str) -> str:
        return (
            f'[[timetables]]\nname = "{name}"\nversions = [{{ segments = [\n'
            f'{{ name = "s", starts = "09:00", ends = "{ends}" }}] }}]\n'
        )

    day = date(2026, 3, 3)
    hall = load(
        write(
            HALL
            + table("of-window", "10:00")
            + table("of-person", "11:00")
            + table("pushed", "12:00")
            + '[[windows]]\nid = "w"\nname = "w"\n'
            + '[[people]]\ncode = "1"\nname = "a"\nwindow = "w"\n'
            + '[[people]]\ncode = "2"\nname = "b"\nwindow = "w"\n'
            + '[[rosters]]\nwindow = "w"\nfrom = 2026-03-01\ntimetable = "of-window"\n'
            + '[[rosters]]\nperson = "1"\nfrom = 2026-03-02\ntimetable = "of-person"\n'
        )
    )

    assert spans(hall, "3", day) == STANDARD
    assert spans(hall, "2", day) == ["s 09:00-10:00"]
    assert spans(hall, "1", day) == ["s 09:00-11:00"]
    pushed = RosterEntry("1", day, timetable="pushed")
    assert spans(hall, "1", day, pushed) == ["s 09:00-12:00"]
    removed = RosterEntry("1", day, timetable="pushed", removed=True)
    assert spans(hall, "1", day, removed) == ["s 09:00-11:00"]
    assert spans(hall, "1", day, RosterEntry("1", day, duty="rest")) == []


def test_of_two_rosters_the_one_that_begins_later_holds(write: Write) -> None:
    hall = load(
        write(
            HALL + '[[people]]\ncode = "1"\nname = "a"\n'
            '[[rosters]]\nperson = "1"\nfrom = 2026-03-10\nduty = "rest"\n'
            '[[rosters]]\nperson = "1"\nfrom = 2026-03-01\ntimetable = "standard"\n'
        )
    )

    assert spans(hall, "1", date(2026, 3, 9)) == STANDARD
    assert spans(hall, "1", date(2026, 3, 10)) == []


def test_a_timetable_that_is_gone_expects_nothing(example: Hall) -> None:
    """It may be named by an entry that was pushed before the settings dropped it."""
    day = date(2026, 3, 3)

    assert spans(example, "1", day, RosterEntry("1", day, timetable="gone")) == []


def test_segments_past_midnight_and_alone_weigh_a_whole_day(example: Hall) -> None:
    (night,) = example.timetables["night"].on(date(2026, 3, 3))

    assert (night.starts, night.ends, night.weight) == (1200, 1560, 1.0)


def test_three_segments_weigh_by_their_length(write: Write) -> None:
    hall = load(
        write(
            HALL + '[[timetables]]\nname = "three"\nversions = [{ segments = [\n'
            '{ name = "a", starts = "08:00", ends = "10:00" },\n'
            '{ name = "b", starts = "11:00", ends = "12:00" },\n'
            '{ name = "c", starts = "14:00", ends = "15:00", weight = 0.4 }] }]\n'
        )
    )

    assert [rule.weight for rule in hall.timetables["three"].on(date(2026, 3, 3))] == [
        0.5,
        0.25,
        0.4,
    ]


def test_a_timetable_with_a_hole_is_warned_of(write: Write) -> None:
    hall = load(
        write(
            HALL + '[[timetables]]\nname = "standard"\n[[timetables.versions]]\n'
            'season = ["05-01", "09-30"]\n'
            'segments = [{ name = "am", starts = "08:30", ends = "12:00" }]\n'
        )
    )

    assert len(hall.warnings) == 1
    assert "2024-01-01" in hall.warnings[0]


# -- deadlines


def test_the_appeal_ends_with_the_third_workday_and_the_month_with_the_fifth(
    example: Hall,
) -> None:
    """2026: National Day is 1-7 October, and Saturday the 10th is worked."""
    assert example.appeal_ends(date(2026, 9, 30)) == at(SHANGHAI, 2026, 10, 11)
    assert example.locks_at(date(2026, 9, 1)) == at(SHANGHAI, 2026, 10, 14)
    assert example.locks_at(date(2026, 9, 30)) == at(SHANGHAI, 2026, 10, 14)


# -- rules


def test_every_rule_is_on_by_default(write: Write) -> None:
    hall = load(write(HALL))
    names = {type(rule).__name__ for rule in hall.rulebook.person_rules(date(2026, 3, 2))}
    names |= {type(rule).__name__ for rule in hall.rulebook.hall_rules(date(2026, 3, 2))}

    assert {"LateArrival", "DeviceOffline", "SilentDevice"} <= names


def test_a_rules_version_holds_from_its_date(example: Hall) -> None:
    def points(day: date) -> list[float]:
        rules = example.rulebook.person_rules(day)
        return [rule.points for rule in rules if type(rule).__name__ == "LateArrival"]  # type: ignore[attr-defined]

    assert points(date(2026, 6, 30)) == [1]
    assert points(date(2026, 7, 1)) == [0.5]


def test_a_first_version_with_a_date_leaves_the_default_before_it(write: Write) -> None:
    hall = load(
        write(HALL + "[rules.late_arrival]\neffective_from = 2026-07-01\nenabled = false\n")
    )

    def on(day: date) -> bool:
        rules = hall.rulebook.person_rules(day)
        return "LateArrival" in {type(rule).__name__ for rule in rules}

    assert on(date(2026, 6, 30))
    assert not on(date(2026, 7, 1))


def test_a_rule_can_be_switched_off(example: Hall) -> None:
    rules = example.rulebook.hall_rules(date(2026, 3, 2))

    assert "SilentDevice" not in {type(rule).__name__ for rule in rules}


# -- files beside the settings


def test_conf_d_is_merged_in(write: Write) -> None:
    path = write(HALL + '[[units]]\nid = "a"\nname = "甲"\n[log]\nlevel = "debug"\n')
    write('[[units]]\nid = "c"\nname = "丙"\n[log]\nformat = "json"\n', "conf.d/20-c.toml")
    write('[[units]]\nid = "b"\nname = "乙"\n', "conf.d/10-b.toml")
    write("not toml", "conf.d/readme.txt")
    hall = load(path)

    assert list(hall.units) == ["a", "b", "c"]
    assert (hall.log.level, hall.log.format) == ("debug", "json")


def test_people_can_come_from_a_table_beside_the_settings(write: Write) -> None:
    write("工号,姓名,单位\n0007,赵小明,社会保险局\n", "people.csv")
    hall = load(
        write(
            HALL + 'people_file = "people.csv"\n[[units]]\nid = "shebao"\nname = "社会保险局"\n'
            '[[people]]\ncode = "1"\nname = "钱小红"\n'
        )
    )

    assert hall.people["0007"] == Person("0007", "赵小明", "shebao")
    assert hall.people["1"].name == "钱小红"


def test_secrets_files_are_looked_for_among_the_credentials_first(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HALL + '[[sinks]]\ntype = "mqtt"\nname = "m"\nhost = "h"\npassword_file = "pw"\n'
    beside = write("beside\n", "pw")
    assert load(write(text)).sinks[0].password_file == str(beside)

    given = write("given\n", "credentials/pw")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given.parent))
    (sink,) = load(write(text)).sinks

    assert sink.password_file == str(given)
    assert read_secret(sink.password_file) == "given"
    assert "given" not in repr(sink)


def test_a_device_gets_the_absolute_name_of_its_secrets_file(write: Write) -> None:
    key = write("123456", "gate.key")
    hall = load(
        write(
            HALL + '[[devices]]\nid = "g"\ndriver = "zkteco"\nhost = "192.0.2.1"\n'
            'comm_key_file = "gate.key"\n'
        )
    )

    assert hall.devices[0].options.comm_key_file == str(key)


def test_the_state_is_where_systemd_says_unless_the_settings_say_otherwise(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(write(HALL)).state_dir == tmp_path / "state"

    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/hallwatch:/var/lib/other")
    assert load(write(HALL)).state_dir == Path("/var/lib/hallwatch")

    path = write(HALL + '[storage]\nstate_dir = "here"\n')
    assert load(path).state_dir == tmp_path / "here"


# -- the hash


def test_the_hash_changes_with_what_judgements_depend_on_and_with_nothing_else(
    write: Write,
) -> None:
    def hashed(more: str) -> str:
        return load(write(HALL + more)).settings_hash

    plain = hashed("")

    assert hashed("") == plain
    assert hashed('[log]\nlevel = "debug"\n[api]\nport = 1\n') == plain
    assert hashed('[[sinks]]\ntype = "mqtt"\nname = "m"\nhost = "h"\n') == plain
    for more in (
        "start_date = 2026-01-01\n",
        'weekly = ["mon"]\n',
        "[policy]\nsettle = 11\n",
        "[rules.late_arrival]\npoints = 3\n",
        '[[people]]\ncode = "1"\nname = "a"\n',
        '[[calendar.overrides]]\ndate = 2026-03-02\nkind = "closed"\n',
        '[[rosters]]\nperson = "1"\nfrom = 2026-03-02\nduty = "rest"\n',
        '[[devices]]\nid = "g"\ndriver = "zkteco"\nhost = "192.0.2.1"\n',
    ):
        assert hashed(more) != plain, more


def test_loading_opens_no_connection(example: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)

    assert load(EXAMPLE).settings_hash == example.settings_hash
    assert os.environ.get("CREDENTIALS_DIRECTORY") is None
