"""Hikvision's bytes: Digest, documents, events, pages and multipart streams."""

from __future__ import annotations

import json
import re
from datetime import datetime
from hashlib import md5
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drivers.hikvision import (
    HikvisionOptions,
    body_of,
    decode,
    event_of,
    page_limit,
    page_of,
    reading_of,
)
from drivers.isapi import (
    Challenge,
    Multipart,
    Part,
    boundary_of,
    challenge_of,
    digest_answer,
    document,
    instant_of,
    is_heartbeat,
    scrub,
)
from rules.model import DeviceEvent, Punch, Unreadable, reading_id

ZONE = ZoneInfo("Asia/Shanghai")
NINE = int(datetime(2025, 3, 14, 8, 59, 1, tzinfo=ZONE).timestamp()) * 1000
TARGET = "/ISAPI/AccessControl/AcsEvent?format=json"

SEARCHED = """{"AcsEvent":{"searchID":"9f1c","totalMatches":57,"responseStatusStrg":"MORE","numOfMatches":30,
 "InfoList":[{"major":5,"minor":75,"time":"2025-03-14T08:59:01+08:00","employeeNoString":"9001","name":"张三",
 "serialNo":4711,"userType":"normal","currentVerifyMode":"faceOrFpOrCardOrPw","attendanceStatus":"checkIn",
 "statusValue":0,"label":"上班","cardReaderNo":1,"doorNo":1,"cardType":1,"mask":"no","pictureURL":"http://x"}]}}"""  # noqa: E501

PUSHED = {
    "ipAddress": "192.168.1.64",
    "macAddress": "24:28:fd:00:00:01",
    "dateTime": "2025-03-14T08:59:01+08:00",
    "activePostCount": 1,
    "eventType": "AccessControllerEvent",
    "eventState": "active",
    "AccessControllerEvent": {
        "majorEventType": 5,
        "subEventType": 75,
        "name": "张三",
        "cardNo": "3141592653",
        "employeeNoString": "9001",
        "serialNo": 4711,
        "frontSerialNo": 4710,
        "currentEvent": True,
        "currentVerifyMode": "faceOrFpOrCardOrPw",
        "attendanceStatus": "checkIn",
        "currTemperature": 36.5,
        "FaceRect": {"x": 0.1, "y": 0.1, "width": 0.2, "height": 0.2},
        "pictureURL": "http://192.168.1.64/picture/1.jpg",
    },
}
BEAT = {"eventType": "videoloss", "eventState": "inactive", "activePostCount": 0}
JPEG = b"\xff\xd8\xff\xe0JFIF" + bytes(range(256)) * 20 + b"\xff\xd9"


def pushed(**inner: object) -> dict[str, object]:
    outer = {name: inner.pop(name) for name in ("dateTime",) if name in inner}
    event = {**PUSHED["AccessControllerEvent"], **inner}  # type: ignore[dict-item]
    kept = {name: value for name, value in event.items() if value is not None}
    return {**PUSHED, **outer, "AccessControllerEvent": kept}


# -- Digest

VECTOR = Challenge("DS-HALL01", "4e6f6e6365303031", qop=True)


def response_of(header: str) -> str:
    match = re.search(r'response="([0-9a-f]+)"', header)
    assert match
    return match.group(1)


def test_the_published_check_vector_is_answered_as_published() -> None:
    header = digest_answer(VECTOR, "admin", "Abc12345", "POST", TARGET, 1, "0a4f113b")

    assert response_of(header) == "c1ed2f0682b11674621b75fb9ce4c9de"
    assert header == (
        'Digest username="admin", realm="DS-HALL01", nonce="4e6f6e6365303031", '
        f'uri="{TARGET}", response="c1ed2f0682b11674621b75fb9ce4c9de", qop=auth, nc=00000001, '
        'cnonce="0a4f113b"'
    )


def test_without_qop_the_old_answer_is_given() -> None:
    ha1, ha2 = "e537a09ba64ec98409864aaf95a4da23", "92b3b2be5651e5a6a5bd162536d8b433"
    header = digest_answer(
        VECTOR._replace(qop=False), "admin", "Abc12345", "POST", TARGET, 1, "0a4f113b"
    )

    assert response_of(header) == md5(f"{ha1}:4e6f6e6365303031:{ha2}".encode()).hexdigest()
    assert "nc=" not in header
    assert "cnonce" not in header


def test_the_published_sha256_example_is_answered_as_published() -> None:
    """RFC 7616, 3.9.1."""
    challenge = Challenge(
        "http-auth@example.org",
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
        "SHA-256",
        True,
    )
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    header = digest_answer(
        challenge, "Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, cnonce
    )

    assert response_of(header) == "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    assert "algorithm=SHA-256" in header
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in header


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            ['Digest qop="auth", realm="DS-HALL01", nonce="abc", opaque="", stale="FALSE"'],
            Challenge("DS-HALL01", "abc", "", None, True),
        ),
        (['Digest realm="x", nonce="abc"'], Challenge("x", "abc")),
        (
            ['Digest realm="DS (hall 1), east", nonce="a=b,c", stale=true, algorithm="MD5"'],
            Challenge("DS (hall 1), east", "a=b,c", None, "MD5", False, True),
        ),
        (
            ['Basic realm="x"', 'Digest realm="y", nonce="n", qop="auth-int,auth"'],
            Challenge("y", "n", qop=True),
        ),
        (
            ['Basic realm="x", Digest realm="y", nonce="n", algorithm=SHA-256, qop=auth'],
            Challenge("y", "n", None, "SHA-256", True),
        ),
        (
            ['Digest realm="y", nonce="1", algorithm=SHA-512-256, Digest realm="y", nonce="2"'],
            Challenge("y", "2"),
        ),
        (['Digest realm="y", nonce="n", qop="auth-int"'], None),
        (['Basic realm="x"'], None),
        (["Negotiate", ""], None),
        ([], None),
    ],
)
def test_challenges_are_understood_however_they_are_written(
    fields: list[str], expected: Challenge | None
) -> None:
    assert challenge_of(fields) == expected


@given(st.lists(st.text(), max_size=3))
def test_no_challenge_breaks_the_parser(fields: list[str]) -> None:
    challenge_of([*fields, *("Digest " + field for field in fields)])


# -- documents


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"name":"张三"}'.encode(), {"name": "张三"}),
        ('{"name":"张三"}'.encode("gb18030"), {"name": "张三"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1,}', {"a": 1}),
        (b'{"a":[1,2,\t],\x01"b":"x\ty",}', {"a": [1, 2], "b": "x y"}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"x\ty"}', {"a": "x\ty"}),
        (
            b'<?xml version="1.0"?>\n<D xmlns="urn:a"><b>1</b><c>2</c><c>3</c></D>',
            {"b": "1", "c": ["2", "3"]},
        ),
        (
            '<?xml version="1.0" encoding="GB2312"?><D><b>张三</b></D>'.encode("gb18030"),
            {"b": "张三"},
        ),
        (b"<D><a:x xmlns:a='urn:b'><a:y>1</a:y></a:x></D>", {"x": {"y": "1"}}),
    ],
)
def test_documents_are_read_tolerantly(data: bytes, expected: object) -> None:
    assert document(data) == expected


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'{"a":', "JSON: Expecting value"),
        (b"[1]", "expected { or <"),
        (b"", "expected { or <"),
        (b"<a><b></a>", "XML: mismatched tag"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document types are not accepted"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"<a>" * 100 + b"</a>" * 100, "nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"}", "limit"),
    ],
)
def test_what_is_no_document_is_refused_with_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        document(data)


@given(st.binary() | st.text().map(str.encode))
@example(b"{\xff\xfe")
def test_no_document_breaks_the_parser(data: bytes) -> None:
    for start in (b"", b"{", b"<", b'{"AcsEvent":', b"<AcsEvent>"):
        try:
            assert isinstance(document(start + data), dict)
        except ValueError:
            pass


# -- times


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2025-03-14T08:59:01+08:00", NINE),
        ("2025-03-14T08:59:01", NINE),
        ("2025-03-14 08:59:01", NINE),
        ("2025-03-14T00:59:01Z", NINE),
        ("2025-03-14T00:59:01.250Z", NINE),
        ("2025-03-13T19:59:01-0500", NINE),
        ("2025-3-14T8:59:01+8:00", NINE),
        # The sign is lost: the rest says nothing.
        ("2024-01-22T11:46:3100:00", 1705895191000),
        ("1970-01-01T00:00:00+08:00", 0),
    ],
)
def test_times_are_read_tolerantly(text: str, at: int) -> None:
    assert instant_of(text, ZONE) == at


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025-02-30T00:00:00", "0001-01-01T00:00:00", "2025-03-14T25:00:00",
             "2025-03-14T08:59:01+99:00"],
)  # fmt: skip
def test_impossible_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|hour|day|year"):
        instant_of(text, ZONE)


# -- events


def test_the_same_event_is_the_same_reading_however_it_came() -> None:
    searched = page_of(document(SEARCHED.encode()), ZONE).events[0]
    told = event_of(PUSHED, ZONE)
    readings = [
        reading_of(searched, "gate", "DS1"),
        reading_of(told, "gate", "DS1", live=True),
        *decode(json.dumps(PUSHED).encode(), ZONE),
    ]

    assert [reading.body for reading in readings[:2] if reading] == [
        Punch("9001", 75, 0, record_no="4711"),
        Punch("9001", 75, 0, live=True, record_no="4711"),
    ]
    assert readings[0]
    assert readings[1]
    assert readings[0].at == readings[1].at == NINE
    assert reading_id(readings[0]) == reading_id(readings[1])


def test_an_alarm_is_the_same_reading_however_it_came() -> None:
    searched = {"major": 5, "minor": 76, "time": "2025-03-14T08:59:01+08:00", "serialNo": 7,
                "employeeNoString": "9001", "cardType": 1}  # fmt: skip
    told = pushed(subEventType=76, serialNo=7, currentEvent=False)
    first, second = (reading_of(event_of(one, ZONE), "g", "S") for one in (searched, told))

    assert first
    assert second
    assert reading_id(first) == reading_id(second)
    assert first.body == DeviceEvent("refused", 76, "face wrong person=9001 serialNo=7")


def test_nothing_private_is_kept() -> None:
    reading = reading_of(event_of(PUSHED, ZONE), "gate", "DS1")

    assert reading
    for private in ("张三", "3141592653", "36.5", "picture", "FaceRect", "0.1"):
        assert private.encode() not in reading.raw
        assert private not in repr(reading)
    assert json.loads(reading.raw) == {
        "major": 5,
        "minor": 75,
        "time": "2025-03-14T08:59:01+08:00",
        "serialNo": 4711,
        "attendanceStatus": "checkIn",
        "currentVerifyMode": "faceOrFpOrCardOrPw",
        "employeeNoString": "9001",
    }


def test_what_cannot_be_read_is_kept_without_what_is_private() -> None:
    raw = (
        '{"name":"张三","cardNo": "3141592653","employeeNoString":"9001","x":110101199003070000,'
        '"pictureURL":"http://x","data":"' + "QUJD" * 20 + '"'
    ).encode()

    kept = scrub(raw).decode()

    assert "9001" in kept
    for private in ("张三", "3141592653", "110101199003070000", "http", "QUJDQUJD"):
        assert private not in kept
    assert scrub(JPEG) == b""


@pytest.mark.parametrize("minor", [1, 2, 16, 38, 40, 43, 46, 54, 57, 60, 63, 66, 69, 72, 75, 77,
                                   101, 105, 181, 156])  # fmt: skip
def test_a_verified_person_is_a_punch(minor: int) -> None:
    assert body_of(event_of(pushed(subEventType=minor), ZONE)) == Punch(
        "9001", minor, 0, record_no="4711"
    )


@pytest.mark.parametrize("minor", [3, 4, 6, 7, 8, 9, 10, 39, 41, 44, 47, 49, 55, 58, 61, 64, 67,
                                   76, 78, 80, 102, 104, 112, 113, 150, 151, 157])  # fmt: skip
def test_a_refusal_is_no_punch_though_it_names_a_person(minor: int) -> None:
    body = body_of(event_of(pushed(subEventType=minor), ZONE))

    assert isinstance(body, DeviceEvent)
    assert (body.name, body.code) == ("refused", minor)
    assert "person=9001" in body.detail


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [
        (5, 27, "door_forced"),
        (5, 28, "door_held"),
        (5, 200, "other"),
        (1, 1028, "alarm"),
        (2, 39, "network_down"),
        (2, 1024, "exception"),
        (3, 80, "local_login"),
        (3, 123, "reboot"),
        (3, 1, "operation"),
        (9, 1, "other"),
    ],
)
def test_other_events_have_names(major: int, minor: int, name: str) -> None:
    told = pushed(majorEventType=major, subEventType=minor, employeeNoString="")

    assert body_of(event_of(told, ZONE)) == DeviceEvent(name, minor, "serialNo=4711")


def test_an_unknown_minor_keeps_its_fields() -> None:
    reading = reading_of(event_of(pushed(subEventType=200), ZONE), "g", "S")

    assert reading
    assert json.loads(reading.raw)["minor"] == 200


@pytest.mark.parametrize(
    ("major", "minor"),
    [(5, 21), (5, 22), (5, 23), (5, 24), (5, 25), (5, 26), (5, 37), (3, 112), (3, 113)],
)
def test_doors_and_our_own_logins_are_not_kept(major: int, minor: int) -> None:
    assert body_of(event_of(pushed(majorEventType=major, subEventType=minor), ZONE)) is None


@pytest.mark.parametrize(
    ("fields", "person"),
    [
        ({"employeeNoString": "007A"}, "007A"),
        ({"employeeNoString": None, "employeeNo": 9002}, "9002"),
        ({"employeeNoString": "", "employeeNo": 9002}, "9002"),
        ({"employeeNoString": "0", "employeeNo": 0}, ""),
        ({"employeeNoString": None}, ""),
        ({"employeeNoString": 9003}, "9003"),
        ({"employeeNoString": "123456789012345678"}, "123456789012345678"),
    ],
)
def test_who_it_was(fields: dict[str, object], person: str) -> None:
    assert event_of(pushed(**fields), ZONE).person == person


def test_a_citizen_id_number_is_dropped() -> None:
    number = "11010519491231002X"  # the standard's own example
    reading = reading_of(event_of(pushed(employeeNoString=number), ZONE), "g", "S")

    assert reading
    assert reading.body == DeviceEvent("unknown_person", 75, "face serialNo=4711")
    assert number.encode() not in reading.raw


def test_a_verification_of_nobody_is_no_punch() -> None:
    told = pushed(subEventType=1, employeeNoString="0")

    assert body_of(event_of(told, ZONE)) == DeviceEvent("unknown_person", 1, "card serialNo=4711")


@pytest.mark.parametrize(
    ("word", "state"),
    [("checkIn", 0), ("checkOut", 1), ("breakOut", 2), ("breakIn", 3), ("overtimeIn", 4),
     ("overtimeOut", 5), ("overTimeOut", 5), ("undefined", None), ("", None)],
)  # fmt: skip
def test_directions(word: str, state: int | None) -> None:
    assert event_of(pushed(attendanceStatus=word), ZONE).state == state


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (pushed(majorEventType="x"), "major and minor"),
        (pushed(dateTime=""), "YYYY-MM-DD"),
        (pushed(employeeNoString="9" * 33), "1 to 32"),
        (pushed(employeeNoString="a b"), "1 to 32"),
        ({"AccessControllerEvent": []}, "expected an object"),
        ({}, "major and minor"),
    ],
)
def test_events_that_say_too_little_are_refused(told: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        event_of(told, ZONE)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_FIELDS = st.sampled_from(
    ["majorEventType", "subEventType", "serialNo", "frontSerialNo", "employeeNoString",
     "employeeNo", "currentEvent", "attendanceStatus", "dateTime", "userType", "time"]
)  # fmt: skip


@given(st.dictionaries(_FIELDS, _VALUES), st.dictionaries(_FIELDS, _VALUES))
@example({}, {"employeeNoString": "\ud800"})
@example({"dateTime": "2025-03-14T08:59:01\ud800"}, {})
def test_no_event_breaks_the_parser(outer: dict[str, object], inner: dict[str, object]) -> None:
    try:
        event = event_of(pushed(**inner) | outer, ZONE)
    except ValueError:
        return
    reading = reading_of(event, "g", "S")
    if reading:
        reading_id(reading)
        assert len(reading.raw) <= 4096


def test_heartbeats() -> None:
    assert is_heartbeat(BEAT)
    assert is_heartbeat({"eventType": "heartBeat"})
    assert not is_heartbeat({"eventType": "videoloss", "eventState": "active"})
    assert not is_heartbeat(PUSHED)


# -- pages


def test_the_published_page() -> None:
    page = page_of(document(SEARCHED.encode()), ZONE)

    assert page.events[0].person == "9001"
    assert (page.received, page.matches, page.total, page.more) == (1, 30, 57, True)


@pytest.mark.parametrize(
    ("answer", "received", "more"),
    [
        ({"responseStatusStrg": "NO MATCH", "numOfMatches": 0, "totalMatches": 0}, 0, False),
        ({"responseStatusStrg": "MORE", "numOfMatches": 0}, 0, False),
        ({"responseStatusStrg": "OK", "numOfMatches": 1, "InfoList": {"major": 5, "minor": 75,
          "time": "2025-03-14T08:59:01"}}, 1, False),
        ({"responseStatusStrg": "MORE", "numOfMatches": 3, "InfoList": []}, 0, True),
        ({"InfoList": None}, 0, False),
    ],
)  # fmt: skip
def test_pages_may_lack_much(answer: dict[str, object], received: int, more: bool) -> None:
    page = page_of({"AcsEvent": answer}, ZONE)

    assert (page.received, page.more) == (received, more)


def test_an_unreadable_record_costs_the_others_nothing() -> None:
    items = [
        {"major": 5, "minor": 75, "time": "never", "employeeNoString": "9001", "name": "张三"},
        "what",
        {"major": 5, "minor": 75, "time": "2025-03-14T08:59:01", "employeeNoString": "9002"},
    ]
    page = page_of({"AcsEvent": {"InfoList": items}}, ZONE)

    assert [event.person for event in page.events] == ["9002"]
    assert [sentence[:11] for sentence, _ in page.problems] == ["InfoList[0]", "InfoList[1]"]
    assert b"9001" in page.problems[0][1]
    assert "张三".encode() not in page.problems[0][1]


@pytest.mark.parametrize("answer", [{}, {"AcsEvent": 1}, {"AcsEvent": {"InfoList": 3}}])
def test_what_is_no_page_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="answer to AcsEvent"):
        page_of(answer, ZONE)


def test_how_long_a_page_may_be() -> None:
    told = {"AcsEvent": {"AcsEventCond": {"maxResults": {"@min": 1, "@max": 50}}}}

    assert page_limit(told) == 50
    assert page_limit({"a": [{"maxResults": 3}]}) is None


# -- multipart


def part(
    body: bytes, *headers: str, newline: str = "\r\n", boundary: str = "MIME_boundary"
) -> bytes:
    head = newline.join([f"--{boundary}", *headers, "", ""]).encode()
    return head + body + newline.encode()


def text(told: object, *headers: str, **how: str) -> bytes:
    body = json.dumps(told, ensure_ascii=False).encode()
    sized = ('Content-Type: application/json; charset="UTF-8"', f"Content-Length: {len(body)}")
    return part(body, *(headers or sized), **how)


PICTURE = part(
    JPEG,
    'Content-Disposition: form-data; name="Picture"; filename="Picture.jpg"',
    "Content-Type: image/jpeg",
    f"Content-Length: {len(JPEG)}",
)


def fed(stream: bytes, size: int, boundary: bytes | None = b"MIME_boundary") -> list[Part]:
    parser = Multipart(boundary)
    parts: list[Part] = []
    for start in range(0, len(stream), size):
        parts += parser.feed(stream[start : start + size])
    return parts + parser.finish()


def said(parts: list[Part]) -> list[object]:
    return [one.problem or one.told for one in parts]


XML = (
    b'<?xml version="1.0"?><EventNotificationAlert xmlns="http://www.isapi.org/ver20/XMLSchema">'
    b"<eventType>videoloss</eventType><eventState>inactive</eventState></EventNotificationAlert>"
)
STREAMS = {
    "as documented": (b"", [text(PUSHED), PICTURE, text(BEAT)], [PUSHED, BEAT]),
    "a preamble": (b"hello\r\n\r\n", [text(PUSHED), text(BEAT)], [PUSHED, BEAT]),
    "LF alone": (b"", [text(PUSHED, newline="\n"), text(BEAT, newline="\n")], [PUSHED, BEAT]),
    "both line ends": (b"", [text(PUSHED, newline="\n"), text(BEAT)], [PUSHED, BEAT]),
    "blank lines between parts": (b"", [text(PUSHED), b"\r\n\r\n\n", text(BEAT)], [PUSHED, BEAT]),
    "blank lines before headers": (
        b"", [text(PUSHED).replace(b"boundary\r\n", b"boundary\r\n\r\n", 1), text(BEAT)],
        [PUSHED, BEAT],
    ),
    "no length": (b"", [text(PUSHED, "Content-Type: application/json"), text(BEAT)],
                  [PUSHED, BEAT]),
    "no headers": (b"", [part(json.dumps(PUSHED).encode()), text(BEAT)], [PUSHED, BEAT]),
    "no type": (b"", [text(PUSHED, 'Content-Disposition: form-data; name="event_log"'),
                      text(BEAT)], [PUSHED, BEAT]),
    "wrong type": (b"", [text(PUSHED, "Content-Type: application/xml"), text(BEAT)],
                   [PUSHED, BEAT]),
    "XML": (b"", [part(XML, f"Content-Length: {len(XML)}"), text(PUSHED)],
            [{"eventType": "videoloss", "eventState": "inactive"}, PUSHED]),
    "a picture without length": (b"", [text(PUSHED), part(JPEG, "Content-Type: image/jpeg"),
                                       text(BEAT)], [PUSHED, BEAT]),
    "an empty part": (b"", [text(PUSHED), part(b"", "Content-Length: 0"), text(BEAT)],
                      [PUSHED, BEAT]),
    "a delimiter twice": (b"--MIME_boundary\r\n", [text(PUSHED), text(BEAT)], [PUSHED, BEAT]),
    "the end and a new beginning": (b"", [text(PUSHED), b"--MIME_boundary--\r\n", text(BEAT)],
                                    [PUSHED, BEAT]),
    "no line end before the delimiter": (b"", [text(PUSHED)[:-2], text(BEAT)], [PUSHED, BEAT]),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1 << 20])
@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_cut_however_they_arrive(name: str, size: int) -> None:
    preamble, parts, expected = STREAMS[name]

    assert said(fed(preamble + b"".join(parts), size)) == expected


@pytest.mark.parametrize("size", [1, 13, 1 << 20])
@pytest.mark.parametrize("error", [-30, -5, -2, -1, 1, 2, 3, 16, 40])
def test_a_length_that_is_off_costs_nothing(error: int, size: int) -> None:
    body = json.dumps(PUSHED, ensure_ascii=False).encode()
    wrong = part(body, "Content-Type: application/json", f"Content-Length: {len(body) + error}")
    stream = text(BEAT) + wrong + text(BEAT) + text(PUSHED)

    assert said(fed(stream, size)) == [BEAT, PUSHED, BEAT, PUSHED]


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("error", [-100, -1, 1, 90, 300])
def test_a_pictures_length_that_is_off_costs_no_event(error: int, size: int) -> None:
    wrong = part(JPEG, "Content-Type: image/jpeg", f"Content-Length: {len(JPEG) + error}")
    stream = text(PUSHED) + wrong + text(BEAT) + text(PUSHED)

    assert said(fed(stream, size)) == [PUSHED, BEAT, PUSHED]


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=MIME_boundary", "MIME_boundary"),
        ("multipart/mixed; boundary=boundary", "boundary"),
        ("multipart/mixed; boundary=<boundary>", "<boundary>"),
        ("multipart/x-mixed-replace; boundary=--myboundary", "--myboundary"),
        ('multipart/mixed; boundary="MIME_boundary"; charset=utf-8', "MIME_boundary"),
        ("multipart/mixed", "MIME_boundary"),
        ("multipart/mixed; boundary=", "----x"),
    ],
)
def test_boundaries_are_taken_verbatim(content_type: str, boundary: str, size: int) -> None:
    stream = text(PUSHED, boundary=boundary) + text(BEAT, boundary=boundary)

    assert said(fed(stream, size, boundary_of(content_type))) == [PUSHED, BEAT]


def test_an_event_does_not_wait_for_its_picture_or_the_next_part() -> None:
    parser = Multipart(b"MIME_boundary")
    body = json.dumps(PUSHED).encode()
    for headers in (
        [f"Content-Length: {len(body)}"],
        [f"Content-Length: {len(body) + 4}"],
        [],
    ):
        whole = part(body, "Content-Type: application/json", *headers)

        assert said(parser.feed(whole[:-2])) == [PUSHED]
        assert parser.feed(b"\r\n") == []


def test_a_name_is_measured_in_bytes() -> None:
    told = pushed(name="欧阳" * 50)
    body = json.dumps(told, ensure_ascii=False).encode()
    assert len(body) > len(body.decode()) + 100

    assert said(fed(text(told) + text(BEAT), 3)) == [told, BEAT]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on() -> None:
    broken = part(b'{"a": "b', "Content-Type: application/json", "Content-Length: 8")
    stream = text(PUSHED) + broken + text(BEAT)
    parts = fed(stream, 11)

    assert said(parts)[0] == PUSHED
    assert parts[1].problem.startswith("JSON: ")
    assert parts[1].raw.startswith(b'{"a": "b')
    assert said(parts)[2] == BEAT


def test_limits() -> None:
    head = part(b"x", *(f"X-{n}: {'y' * 100}" for n in range(100)))
    huge = part(b'{"a":"' + b"x" * 300_000 + b'"}', "Content-Type: application/json")
    large = part(b"\xff" * 5_000_000, "Content-Type: image/jpeg", "Content-Length: 5000000")
    parts = fed(head + text(BEAT) + huge + text(BEAT) + large + text(PUSHED), 60_000)

    assert said(parts) == [
        "a part's headers exceed 8192 bytes",
        BEAT,
        "a document exceeds 262144 bytes",
        BEAT,
        PUSHED,
    ]
    assert said(fed(b"x" * 200_000 + b"\r\n" + text(BEAT), 5000)) == [
        "no delimiter within 65536 bytes",
        "no delimiter within 65536 bytes",
        BEAT,
    ]


def test_memory_stays_bounded() -> None:
    for headers in (
        (),
        ("Content-Type: application/json",),
        ("Content-Type: application/json", "Content-Length: 999999999"),
        ("Content-Type: image/jpeg",),
        ("Content-Type: image/jpeg", "Content-Length: 4000000"),
    ):
        parser = Multipart(b"MIME_boundary")
        parser.feed(part(b"", *headers))
        for _ in range(50):
            parser.feed(b"{" * 65_536)

            assert len(parser._buffer) <= 256 * 1024 + 65_536


def test_what_is_left_at_the_end_is_told() -> None:
    cut = text(PUSHED)[:-20]

    assert [one.problem[:5] for one in fed(cut, 10)] == ["JSON:"]
    assert fed(text(PUSHED) + b"--MIME_bou", 10)[1:] == []


_PIECES = st.sampled_from(
    [text(PUSHED), text(BEAT), PICTURE, b"--MIME_boundary", b"--MIME_boundary--", b"\r\n", b"\n",
     b"{", b"}", b"Content-Length: 5\r\n", b"\r\n\r\n", b"\xff\xd8"]
)  # fmt: skip


@given(st.lists(_PIECES | st.binary(max_size=20), max_size=12), st.integers(1, 400), st.booleans())
def test_no_stream_breaks_the_parser(pieces: list[bytes], size: int, known: bool) -> None:
    for one in fed(b"".join(pieces), size, b"MIME_boundary" if known else None):
        assert isinstance(one.told, dict)


@given(st.lists(st.sampled_from(["event", "beat", "picture", "xml"]), max_size=8), st.data())
def test_chunks_do_not_matter(kinds: list[str], data: st.DataObject) -> None:
    made = {"event": text(PUSHED), "beat": text(BEAT), "picture": PICTURE,
            "xml": part(XML, f"Content-Length: {len(XML)}")}  # fmt: skip
    stream = b"".join(made[kind] for kind in kinds)
    size = data.draw(st.integers(1, len(stream) + 1))

    assert len(fed(stream, size)) == sum(kind != "picture" for kind in kinds)


# -- captures


def test_captures_of_every_kind_are_decoded() -> None:
    stream = text(PUSHED) + PICTURE + text(BEAT)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=MIME_boundary\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
        f"{len(stream[at : at + 999]):x}\r\n".encode() + stream[at : at + 999] + b"\r\n"
        for at in range(0, len(stream), 999)
    )
    body = json.dumps(PUSHED).encode()
    post = b"POST /hik/abcd HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for capture, times in (
        (stream, 1),
        (head + b"\r\n" + stream, 1),
        (head + chunked, 1),
        (body, 1),
        (SEARCHED.encode(), 1),
        (post + post, 2),
    ):
        found = list(decode(capture, ZONE))

        assert [one.body for one in found] == [Punch("9001", 75, 0, record_no="4711")] * times
        assert {one.device for one in found} == {"capture"}


def test_what_a_capture_has_that_is_unreadable_is_told() -> None:
    (reading,) = decode(b'{"AccessControllerEvent":{}}', ZONE)

    assert isinstance(reading.body, Unreadable)
    assert [type(one.body) for one in decode(b"what", ZONE)] == [Unreadable]


@given(st.binary() | st.lists(_PIECES).map(b"".join))
@example(b'{"AcsEvent":3}')
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n")
def test_no_capture_breaks_the_decoder(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
        for one in decode(start + data, ZONE):
            reading_id(one)


# -- settings


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"port": 70_000}, "port"),
        ({"user": 'a"b'}, "user"),
        ({"user": "a:b"}, "user"),
        ({"certificate_sha256": "12"}, "certificate_sha256"),
        ({"poll_s": 0}, "poll_s"),
        ({"first_days": 0}, "first_days"),
        ({"listen_port": 8090}, "token_file"),
        ({"listen_port": -1, "token_file": "/t"}, "listen_port"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(
    wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        HikvisionOptions(**{"host": "192.0.2.1", "password_file": "/p", **wrong})  # type: ignore[arg-type]


def test_links() -> None:
    alone = HikvisionOptions("192.0.2.1", "/p")
    posting = HikvisionOptions("192.0.2.1", "/p", listen_port=8090, token_file="/t")

    assert alone.link() == ("192.0.2.1", 80)
    assert HikvisionOptions("192.0.2.1", "/p", scheme="https").link() == ("192.0.2.1", 443)
    assert posting.link() == ("127.0.0.1", 8090)


@pytest.mark.parametrize("realm", ["摄像头", "Caméra"])
@pytest.mark.parametrize("user", ["admin", "管理员"])
def test_realms_and_users_of_any_signs_are_hashed_as_the_bytes_they_are(
    realm: str, user: str
) -> None:
    """And no error ever holds the password."""
    asked = f'Digest realm="{realm}", nonce="n1"'.encode().decode("latin-1")
    challenge = challenge_of([asked])
    assert challenge is not None

    header = digest_answer(challenge, user, "密码", "GET", "/p", 1, "c").encode("latin-1")

    secret = md5(f"{user}:{realm}:密码".encode()).hexdigest()
    expected = md5(f"{secret}:n1:{md5(b'GET:/p').hexdigest()}".encode()).hexdigest()
    assert response_of(header.decode()) == expected
    assert f'username="{user}", realm="{realm}"'.encode() in header
    decoded = digest_answer(Challenge(realm, "n1"), user, "密码", "GET", "/p", 1, "c")
    assert realm == "Caméra" or response_of(decoded) == expected
