"""The bytes of ZKTeco PUSH: examples from the vendor's documents and oddities seen in the field."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.zk_push import (
    ZkPushOptions,
    attlog_row,
    command_results,
    decode,
    endpoint,
    errorlog_row,
    info_facts,
    lines,
    operlog_row,
    option_block,
    option_facts,
    packed_time,
    parse_query,
    query_punch,
    rows,
    rtlog_row,
    rtstate_row,
    scrub,
    session_token,
    tabledata_row,
    zone_option,
)
from rules.model import DeviceEvent, Punch, Reading, TerminalUser, Unreadable, reading_id

FRAMES = Path(__file__).parents[1] / "frames" / "zk_push"
ZONE = ZoneInfo("Asia/Shanghai")


def at(text: str, zone: ZoneInfo = ZONE) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1000


NINE = at("2025-03-14 08:59:01")


def frame(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def body_of(name: str) -> bytes:
    return frame(name).partition(b"\r\n\r\n")[2]


# -- routing


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/iclock/cdata", "cdata"),
        ("/iclock/cdata.aspx", "cdata"),
        ("//iclock//cdata", "cdata"),
        ("/ICLOCK/CData.ASPX", "cdata"),
        ("/iclock/getrequest/", "getrequest"),
        ("/some/proxy/iclock/ping", "ping"),
        ("/cdata", None),
        ("/iclock", None),
        ("/", None),
        ("", None),
    ],
)
def test_the_last_path_segment_decides(path: str, name: str | None) -> None:
    assert endpoint(path) == name


def test_query_keys_are_read_in_any_case_and_the_first_of_two_holds() -> None:
    assert parse_query(b"sn=HW20250001&SN=OTHER1&Table=attlog&INFO=Ver%202.0,7") == {
        "sn": "HW20250001",
        "table": "attlog",
        "info": "Ver 2.0,7",
    }


# -- ATTLOG


def test_the_vendors_two_punches_are_read() -> None:
    body = body_of("attlog.http")

    assert len(body) == 71
    assert [(row.at, row.body) for row in rows("attlog", body, ZONE)] == [
        (NINE, Punch("9001", verify=1, state=0)),
        (at("2025-03-14 08:59:07"), Punch("9002", verify=15, state=1)),
    ]


def test_a_row_of_twelve_columns_is_read_by_its_own_offset_from_utc() -> None:
    body = frame("attlog_12_columns.txt")
    (row,) = rows("attlog", body, ZoneInfo("Asia/Kolkata"))

    assert len(body) == 56
    assert row.body == Punch("9001", verify=15, state=0)
    assert row.at == NINE


def test_temperatures_and_places_are_not_kept() -> None:
    line = b"9001\t2025-03-14 08:59:01\t0\t15\t0\t0\t0\t1\t36.4\t36.4\t+28800\teyJHUFNJbmZvIjp7fX0="

    assert (
        attlog_row(line, ZONE).raw == b"9001\t2025-03-14 08:59:01\t0\t15\t0\t0\t0\t\t\t\t+28800\t"
    )


@pytest.mark.parametrize(
    ("line", "punch"),
    [
        (b"9001\t2025-03-14 08:59:01", Punch("9001")),
        (b"9001\t2025-03-14 08:59:01\t0\t1", Punch("9001", verify=1, state=0)),
        (b"9001\t2025-03-14 08:59:01\t255\t1\t7", Punch("9001", 1, 255, work_code="7")),
        (b"9001\t2025-03-14 08:59:01\t0\t1\t0\t0", Punch("9001", verify=1, state=0)),
        (b"9001\t20250314085901\t0\t1", Punch("9001", verify=1, state=0)),
        (b"ATTLOG\t9001\t2025-03-14 08:59:01\t0\t1", Punch("9001", verify=1, state=0)),
        (b"9001 2025-03-14 08:59:01\t0\t1", Punch("9001", verify=1, state=0)),
        (b"9001 2025-03-14 08:59:01 0 1 0 0", Punch("9001", verify=1, state=0)),
        (b"9001\t2025-03-14\t08:59:01\t0\t1", Punch("9001", verify=1, state=0)),
        (b" 9001 \t2025-03-14 08:59:01 \t0\t1", Punch("9001", verify=1, state=0)),
        (b"0042\t2025-03-14 08:59:01\t0\t1", Punch("0042", verify=1, state=0)),
        (b"A-17\t2025-03-14 08:59:01\t\t", Punch("A-17")),
        (b"9001\t2025-03-14 08:59:01\t0\t1" + b"\t" * 30, Punch("9001", verify=1, state=0)),
    ],
)
def test_every_way_to_write_one_punch_is_understood(line: bytes, punch: Punch) -> None:
    row = attlog_row(line, ZONE)

    assert (row.body, row.at) == (punch, NINE)


@pytest.mark.parametrize(
    "body",
    [
        b"9001\t2025-03-14 08:59:01\t0\t1\r\n9002\t2025-03-14 08:59:01\t0\t1\r\n",
        b"9001\t2025-03-14 08:59:01\t0\t1\r9002\t2025-03-14 08:59:01\t0\t1\r",
        b"\xef\xbb\xbf9001\t2025-03-14 08:59:01\t0\t1\n\n9002\t2025-03-14 08:59:01\t0\t1\n\x1a",
        b"9001\t2025-03-14 08:59:01\t0\t1\0\n\0\0\n  \n9002\t2025-03-14 08:59:01\t0\t1\0",
    ],
)
def test_line_ends_and_rubbish_of_all_kinds_leave_two_punches(body: bytes) -> None:
    told = list(rows("attlog", body, ZONE))

    assert [row.body for row in told] == [
        Punch("9001", verify=1, state=0),
        Punch("9002", verify=1, state=0),
    ]
    assert {row.at for row in told} == {NINE}


@pytest.mark.parametrize(
    "day", ["2000-01-01 00:00:00", "2099-12-31 23:59:59", "2009-07-01 08:00:00"]
)
def test_a_punch_of_a_wrong_clock_is_still_a_punch(day: str) -> None:
    row = attlog_row(f"9001\t{day}\t0\t1".encode(), ZONE)

    assert (row.body, row.at) == (Punch("9001", verify=1, state=0), at(day))


@pytest.mark.parametrize(
    "line",
    [
        b"9001\t2025-02-31 08:59:01\t0\t1",
        b"9001\t2025-03-14 24:00:00\t0\t1",
        b"9001\t0000-00-00 00:00:00\t0\t1",
        b"9001",
        b"9001,2025-03-14 08:59:01,0,1",
        b"9001\tyesterday\t0\t1",
        b"\xd5\xc5\xc8\xfd\t2025-03-14 08:59:01\t0\t1",
        b"x" * 33 + b"\t2025-03-14 08:59:01\t0\t1",
    ],
)
def test_a_row_that_cannot_be_read_is_kept_with_its_bytes(line: bytes) -> None:
    row = attlog_row(line, ZONE)

    assert isinstance(row.body, Unreadable)
    assert row.body.reason.startswith("ATTLOG row: ")
    assert row.raw == line


def test_nobody_known_is_an_event_and_not_a_punch() -> None:
    for person in (b"", b"0", b"000"):
        row = attlog_row(person + b"\t2025-03-14 08:59:01\t0\t15", ZONE)

        assert (row.body, row.at) == (DeviceEvent("unknown_person"), NINE)


ID_NUMBER = b"11010519491231002X"
"""The example that the standard for ID numbers prints; nobody's."""


@pytest.mark.parametrize("number", [ID_NUMBER, b"110105491231002"])
def test_an_id_number_in_the_eighth_column_is_not_kept(number: bytes) -> None:
    row = attlog_row(b"9001\t2025-03-14 08:59:01\t0\t15\t0\t0\t0\t" + number + b"\t0", ZONE)

    assert row.body == Punch("9001", verify=15, state=0)
    assert number not in row.raw
    assert row.raw == b"9001\t2025-03-14 08:59:01\t0\t15\t0\t0\t0\t\t"


def test_a_visitor_compared_with_his_card_is_no_punch() -> None:
    row = attlog_row(b"1\t2025-03-14 08:59:01\t2\t1\t0\t0\t0\t" + ID_NUMBER + b"\t1", ZONE)

    assert row.body == DeviceEvent("identity_check", 2)
    assert ID_NUMBER not in row.raw


@pytest.mark.parametrize(
    "line",
    [
        ID_NUMBER + b"\t2025-03-14 08:59:01\t0\t1",
        b"9001 " + ID_NUMBER + b" not a row",
        ID_NUMBER,
    ],
)
def test_an_id_number_is_masked_wherever_it_stands(line: bytes) -> None:
    row = attlog_row(line, ZONE)

    assert isinstance(row.body, Unreadable)
    assert ID_NUMBER not in row.raw + row.body.reason.encode()
    assert b"*" * 18 in row.raw


def test_a_clone_may_send_the_punch_in_the_query() -> None:
    query = parse_query(b"SN=HW20250001&Pin=9001&DateTime=2025-03-14+08:59:01&Status=0")

    assert query_punch(query, ZONE)[:2] == (Punch("9001", state=0), NINE)


# -- OPERLOG


@pytest.mark.parametrize(("name", "size"), [("gb2312", 100), ("utf8", 102)])
def test_a_name_is_read_in_either_encoding(name: str, size: int) -> None:
    body = frame(f"operlog_user_{name}.txt")
    (row,) = rows("operlog", body, ZONE)

    assert len(body) == size
    assert row == (TerminalUser("9001", "张三"), None, b"")


def test_two_encodings_in_one_body_are_decided_for_each_line() -> None:
    body = "USER PIN=1\tName=张三\n".encode("gb2312") + "USER PIN=2\tName=张三\n".encode()

    assert [row.body for row in rows("operlog", body, ZONE)] == [
        TerminalUser("1", "张三"),
        TerminalUser("2", "张三"),
    ]


def test_a_user_row_leaves_no_password_and_no_card() -> None:
    line = b"USER Pin=9001\tName=a=b c\tPri=14\tPasswd=secret\tCard=[15CD5B07]\tViceCard=99"

    assert operlog_row(line, ZONE) == (TerminalUser("9001", "a=b c", 14), None, b"")
    assert b"secret" not in scrub(line)
    assert b"15CD5B07" not in scrub(line)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"OPLOG 0\t0\t2025-03-14 08:59:01\t0\t0\t0\t0", ("power_on", 0)),
        (b"OPLOG 3\t0\t2025-03-14 08:59:01\t55\t0\t0\t0", ("tamper", 3)),
        (b"OPLOG 3\t0\t2025-03-14 08:59:01\t54\t0\t0\t0", ("door_forced", 3)),
        (b"OPLOG 3\t0\t2025-03-14 08:59:01\t65535\t0\t0\t0", ("alarm_cancelled", 3)),
        (b"OPLOG 3\t0\t2025-03-14 08:59:01", ("alarm", 3)),
        (b"OPLOG 21\t1\t2025-03-14 08:59:01\t0\t0\t0\t0", ("time_set", 21)),
        (b"OPLOG 23\t1\t2025-03-14 08:59:01\t0\t0\t0\t0", ("attendance_log_deleted", 23)),
        (b"OPLOG 32\t\t2025-03-14 08:59:01\t0\t0\t0\t0", ("duress", 32)),
        (b"OPLOG 82 1 2025-03-14 08:59:01 0 0 0 0", ("server_address_changed", 82)),
        (b"OPLOG 60\t1\t20250314085901\t0\t0\t0\t0", ("operation", 60)),
    ],
)
def test_an_operation_has_a_name(line: bytes, event: tuple[str, int]) -> None:
    row = operlog_row(line, ZONE)

    assert isinstance(row.body, DeviceEvent)
    assert (row.body.name, row.body.code) == event
    assert row.at == NINE
    assert row.raw == line


def test_an_operation_on_a_card_or_password_keeps_no_objects() -> None:
    row = operlog_row(b"OPLOG 8\t1\t2025-03-14 08:59:01\t123456789\t0\t0\t0", ZONE)

    assert row == (DeviceEvent("card_enrolled", 8, "admin=1"), NINE, b"")


@pytest.mark.parametrize(
    "word", ["FP", "FACE", "FVEIN", "BIODATA", "USERPIC", "BIOPHOTO", "PALMX", "Fp"]
)
def test_a_template_is_counted_and_dropped(word: str) -> None:
    line = f"{word} PIN=9001\tFID=6\tSize=8\tTMP=".encode() + b"TVlTUzIx" * 200

    assert operlog_row(line, ZONE) == (None, None, b"")


def test_a_template_in_the_wrong_table_is_dropped_too() -> None:
    body = b"FP PIN=9001\tFID=6\tTMP=" + b"TVlTUzIx" * 200 + b"\n"

    assert list(rows("attlog", body, ZONE)) == [(None, None, b"")]


@pytest.mark.parametrize(
    "line", [b"OPLOG x\t0\t2025-03-14 08:59:01", b"OPLOG 4\t0\t2025-13-14 08:59:01", b"what is it"]
)
def test_an_operation_that_cannot_be_read_is_kept(line: bytes) -> None:
    row = operlog_row(line, ZONE)

    assert isinstance(row.body, Unreadable)
    assert row.raw == line


def test_a_fault_of_the_terminal_is_an_event() -> None:
    line = b"ERRORLOG ErrCode=17\tErrMsg=cannot write\tDataOrigin=flash\tCmdId=\tAdditional="

    assert errorlog_row(line).body == DeviceEvent("device_error", 17, "cannot write flash")


# -- access terminals


def test_the_vendors_access_event_is_a_punch() -> None:
    (row,) = rows("rtlog", frame("rtlog.txt"), ZONE)

    assert (row.body, row.at) == (Punch("9001", verify=15, state=0), NINE)
    assert row.raw == (
        b"time=2025-03-14 08:59:01\tpin=9001\tsitecode=0\tlinkid=0\teventaddr=1\tevent=0"
        b"\tinoutstatus=0\tverifytype=15\tindex=4711"
    )


def test_the_same_punch_by_attlog_and_rtlog_is_one_fact() -> None:
    attlog = attlog_row(b"9001\t2025-03-14 08:59:01\t0\t15\t0\t0\t0", ZONE)
    (rtlog,) = rows("rtlog", frame("rtlog.txt"), ZONE)
    pulled = Reading("gate", NINE, Punch("9001", verify=15, state=0), b"", "HW20250001")
    told = {
        reading_id(Reading(device, row.at or 0, row.body, row.raw, "HW20250001"))
        for device, row in (("gate", attlog), ("door", rtlog))
        if row.body is not None
    }

    assert told == {reading_id(pulled)}


@pytest.mark.parametrize(
    ("event", "pin", "body"),
    [
        (222, "9001", Punch("9001", verify=15)),
        (0, "0", DeviceEvent("unknown_person", 0)),
        (27, "", DeviceEvent("unknown_person", 27)),
        (21, "9001", DeviceEvent("refused", 21, "wrong time person=9001")),
        (5099, "", DeviceEvent("refused", 5099, "refused")),
        (100, "0", DeviceEvent("tamper", 100)),
        (28, "0", DeviceEvent("door_held", 28)),
        (199, "0", DeviceEvent("alarm", 199)),
        (6001, "0", DeviceEvent("alarm", 6001)),
        (206, "0", DeviceEvent("power_on", 206)),
        (200, "9001", None),
        (255, "0", None),
        (4001, "0", None),
    ],
)
def test_an_access_event_is_told_by_its_class(event: int, pin: str, body: object) -> None:
    line = f"event={event}\tpin={pin}\ttime=2025-03-14 08:59:01\tverifytype=15\tinoutstatus=2"

    assert rtlog_row(line.encode(), ZONE).body == body


def test_a_transaction_uses_months_of_31_days() -> None:
    assert packed_time(810032341, ZONE) == NINE
    assert packed_time(810034013, ZONE) == at("2025-03-14 09:26:53")
    line = (
        b"transaction cardno=77\tpin=9001\tverified=15\tdoorid=1\teventtype=0\tinoutstate=0"
        b"\ttime_second=810032341"
    )

    row = tabledata_row(line, ZONE)

    assert (row.body, row.at) == (Punch("9001", verify=15, state=0), NINE)
    assert b"77" not in row.raw


def test_a_date_that_31_day_months_can_write_but_nobody_lived_is_unreadable() -> None:
    line = b"transaction pin=9001\teventtype=0\ttime_second=808794123"

    assert tabledata_row(line, ZONE).body == Unreadable(
        "rtlog row: the time is not in the calendar"
    )


def test_a_user_of_an_access_terminal_is_read() -> None:
    assert [row.body for row in rows("tabledata", frame("tabledata_user.txt"), ZONE)] == [
        TerminalUser("4")
    ]


def test_the_alarm_byte_of_each_door_is_read() -> None:
    assert rtstate_row(frame("rtstate_tamper.txt").strip(), ZONE).alarms == {("tamper", 1)}
    state = rtstate_row(b"time=2025-03-14 08:59:01\tsensor=01\trelay=00\talarm=0081", ZONE)
    assert state.alarms == {("door_forced", 2), ("reader_tamper", 2)}
    with pytest.raises(ValueError, match="hexadecimal"):
        rtstate_row(b"time=2025-03-14 08:59:01\talarm=xx", ZONE)


def test_the_token_follows_the_stated_rule() -> None:
    token = session_token("RC7F3K2Q9A", "HW20250001", "5F2A")

    assert token == "f44931c89a84851e3939ed9b0f08f61a"


# -- what a terminal says of itself


def test_an_options_post_gives_facts_and_counts() -> None:
    assert option_facts(frame("options.txt")) == (
        {
            "model": "SpeedFace-V5L",
            "mac": "00:17:61:12:34:56",
            "firmware": "Ver 2.0.12-20150625",
            "record_capacity": "10",
        },
        {"users": 7, "records": 23},
    )


def test_the_info_of_a_poll_is_read_by_position() -> None:
    info = "Ver 2.0.12-20150625,7,4,23,192.168.16.27,10,7,15,3,111"

    assert info_facts(info) == (
        {"firmware": "Ver 2.0.12-20150625", "ip": "192.168.16.27"},
        {"users": 7, "fingers": 4, "records": 23, "faces": 3},
    )
    assert info_facts("Ver 1,x") == ({"firmware": "Ver 1"}, {})


def test_results_of_commands_come_in_three_shapes() -> None:
    batched = command_results(b"ID=1&Return=0&CMD=CHECK\nID=2&Return=-1002&CMD=DATA\n")
    (info,) = command_results(frame("devicecmd_info.txt"))
    (lined,) = command_results(b"ID=32\nReturn=0\nCMD=INFO\nMAC=00:11\n")

    assert [(result.id, result.code) for result in batched] == [("1", 0), ("2", -1002)]
    assert (info.id, info.code, info.values["mac"]) == ("17", 0, "00:17:61:12:34:56")
    assert (lined.id, lined.code, lined.values["mac"]) == ("32", 0, "00:11")


# -- what we answer


def test_the_option_block_is_the_vendors_byte_for_byte() -> None:
    block = option_block("HW20250001", {}, "2.4.1", 10, zone_option(ZONE, NINE))

    assert len(block) == 297
    assert block.encode() == frame("hello_answer.txt")


def test_old_firmware_is_given_the_stamps_under_their_old_names_too() -> None:
    block = option_block("HW20250001", {"ATTLOG": "82983982"}, "2.2.14", 10, 8)

    assert "ATTLOGStamp=82983982\n" in block
    assert "\nStamp=82983982\nOpStamp=None\nPhotoStamp=None\n" in block


@pytest.mark.parametrize(
    ("zone", "told"),
    [("Asia/Shanghai", 8), ("Asia/Kolkata", 330), ("America/New_York", -4), ("UTC", 0)],
)
def test_whole_hours_are_told_as_hours_and_others_as_minutes(zone: str, told: int) -> None:
    assert zone_option(ZoneInfo(zone), NINE) == told


# -- settings


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"serial": "abc"}, "4 to 32 letters"),
        ({"serial": ";drop table"}, "4 to 32 letters"),
        ({"serial": "HW20250001", "port": 70000}, "port 70000"),
        ({"serial": "HW20250001", "delay": 1}, "delay 1"),
        ({"serial": "HW20250001", "addresses": ("hall",)}, "'hall' is not an IP address"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(
    wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        ZkPushOptions(**wrong)  # type: ignore[arg-type]


# -- captures


def test_a_capture_of_several_requests_is_decoded() -> None:
    capture = frame("hello.http") + frame("attlog.http") + frame("attphoto.http")
    readings = list(decode(capture + frame("operlog.http"), ZONE))

    assert {reading.serial for reading in readings} == {"HW20250001"}
    assert [type(reading.body) for reading in readings] == [
        Punch,
        Punch,
        DeviceEvent,
        DeviceEvent,
        TerminalUser,
    ]
    assert readings[0].at == NINE
    assert not any(b"JFIF" in reading.raw or b"TVlT" in reading.raw for reading in readings)


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        (body_of("attlog.http"), [Punch, Punch]),
        (body_of("operlog.http"), [DeviceEvent, DeviceEvent, TerminalUser]),
        (frame("rtlog.txt"), [Punch]),
        (frame("tabledata_user.txt"), [TerminalUser]),
        (body_of("attphoto.http"), []),
    ],
)
def test_the_bare_body_of_an_upload_is_decoded(body: bytes, kinds: list[type]) -> None:
    assert [type(reading.body) for reading in decode(body, ZONE)] == kinds


# -- hostile bytes

TABLES = ["attlog", "operlog", "errorlog", "rtlog", "tabledata", "other"]
WORDS = [
    *(b"9001", b"0", b"\t", b" ", b"\n", b"\r", b"2025-03-14 08:59:01", b"20250314085901"),
    *(
        b"9999-99-99 99:99:99",
        b"0001-01-01 00:00:00",
        b"9999-12-31 23:59:59",
        b"+99999",
        b"=",
        b"&",
    ),
    *(b"OPLOG 3", b"USER PIN=1", b"Name=\xd5\xc5\xc8", b"FP PIN=1", b"\0", b"\xef\xbb\xbf", b"-1"),
    *(b"time=2025-03-14 08:59:01", b"event=0", b"pin=9001", b"alarm=02", b"ID=1", b"Return=-9"),
    *(b"transaction time_second=9999999999", b"eventtype=0", ID_NUMBER, b"\x1f\x8b"),
]
PIECES = st.lists(st.sampled_from(WORDS) | st.binary(max_size=12), max_size=40).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(table=st.sampled_from(TABLES), body=PIECES)
def test_no_bytes_make_a_table_raise_and_every_line_gives_one_row(table: str, body: bytes) -> None:
    told = list(rows(table, body, ZONE))

    if body[:2] != b"\x1f\x8b" and b"CMD=uploadphoto" not in body:
        assert len(told) == sum(1 for _ in lines(body))
    for row in told:
        assert len(row.raw) <= 4096
        assert ID_NUMBER not in row.raw


@settings(max_examples=300, deadline=None)
@given(body=PIECES, query=st.binary(max_size=60))
def test_no_bytes_make_any_other_parser_raise(body: bytes, query: bytes) -> None:
    command_results(body)
    option_facts(body)
    info_facts(body.decode("latin-1"))
    query_punch(parse_query(query), ZONE)
    endpoint(body.decode("latin-1"))
    for line in lines(body):
        try:
            rtstate_row(line, ZONE)
        except ValueError:
            pass
    list(decode(body, ZONE))
    list(decode(b"POST /iclock/cdata?SN=HW20250001&table=ATTLOG HTTP/1.1\r\n" + body, ZONE))


@given(
    person=st.from_regex(r"[1-9A-Za-z][0-9A-Za-z]{0,8}", fullmatch=True),
    moment=st.datetimes(datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2099-12-31")),
    verify=st.integers(0, 255),
    state=st.sampled_from([0, 1, 2, 3, 4, 5, 255]),
)
def test_any_punch_written_as_the_document_says_is_read_back(
    person: str, moment: datetime, verify: int, state: int
) -> None:
    line = f"{person}\t{moment:%Y-%m-%d %H:%M:%S}\t{state}\t{verify}\t0\t0\t0"
    row = attlog_row(line.encode(), ZONE)

    assert row.body == Punch(person, verify=verify, state=state)
    assert row.at == at(f"{moment:%Y-%m-%d %H:%M:%S}")
    assert row.raw == line.encode()
