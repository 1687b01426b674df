"""The InfluxDB sink against real servers: influxd 1 for /write and the dashboard's queries,
VictoriaMetrics for both ways of writing; and against one that answers what we tell it to."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import daemon.outbox as outbox_module
import daemon.sinks.influx as influx_module
from daemon.outbox import Change, Delivered, Outbox, SinkDown
from daemon.sinks.influx import VALUES_KEPT, InfluxSink, Points

DOCS = Path(__file__).resolve().parents[2] / "docs"
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = 1_740_974_400_000  # 2025-03-03T12:00:00+08:00, a Monday
MINUTE = 60_000
TAGS = {
    *("hall", "window", "area", "device", "kind", "rule", "code", "severity", "state"),
    *("channel", "scale", "level"),
}


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- rows as the API shows them, of invented people ------------------------------------------------


def change(seq: int, kind: str, row: dict[str, Any], **rest: Any) -> Change:
    values: dict[str, Any] = {"op": "amended", "at": NOON, "reason": "", "key": "k"} | rest
    return Change(seq=seq, kind=kind, row=json.dumps(row, ensure_ascii=False).encode(), **values)


def attendance(seq: int, **rest: Any) -> Change:
    row = {
        "person_code": "1001",
        "unit": "tax",
        "work_date": "2025-03-03",
        "verdict": "present",
        "attended": 0.5,
        "expected": 1,
        "points": 2.5,
        "finality": "final",
        "revision": 3,
        "slots": [{"person_code": "1001", "device": "term-1"}],
    }
    return change(seq, "attendance", row, key="1001/2025-03-03", op="opened", **rest)


def violation(seq: int, op: str = "opened", **rest: Any) -> Change:
    row = {
        "id": "0c3ab87712f04de1a9b2c4d5e6",
        "rule": "late_arrival",
        "code": "ATT-01",
        "person_code": "1001",
        "severity": 2,
        "points": 1.0,
        "minutes": 12,
        "state": "withdrawn" if op == "withdrawn" else "active",
        "title": "王小明 迟到 12 分钟",
        "revision": 1,
    }
    return change(seq, "violation", row, op=op, **rest)


def alert(seq: int, subject_kind: str = "device", subject: str = "term-1", **rest: Any) -> Change:
    row = {
        "id": "0f3a",
        "rule": "device_offline",
        "code": "DEV-01",
        "subject_kind": subject_kind,
        "subject": subject,
        "severity": 5,
        "opened_at": "2025-03-03T11:40:00+08:00",
        "ends_at": None,
        "state": "open",
        "inhibited_by": "",
        "title": "设备离线：1号考勤机",
        "revision": 1,
    } | rest.pop("row", {})
    return change(seq, "alert", row, op=rest.pop("op", "opened"), **rest)


def device(seq: int, key: str = "term-1", state: str = "online", **rest: Any) -> Change:
    row = {
        "id": key,
        "state": state,
        "clock_offset_ms": 1200,
        "complete_until": "2025-03-03T11:59:30+08:00",
        "punches": 412,
        "unreadable": 0,
        "reason": "user 1001 (王小明) refused",
        "info": {"firmware": "Ver 6.60"},
    }
    return change(seq, "device", row, key=key, **rest)


def adjustment(seq: int) -> Change:
    row = {
        "id": "a1",
        "person_code": "1001",
        "period": "2025-02",
        "points_before": 0,
        "points_after": 2,
        "verdict_before": "present",
        "verdict_after": "absent_half",
        "revision": 1,
    }
    return change(seq, "adjustment", row, op="opened")


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The figures as the rows of windows have them."""
    rated = flat["rated"]
    return {
        "called": 12,
        "rated": {"n": rated, "of": flat["rateable"]},
        "scales": [
            {"scale_id": "five"} | {
                name: {"n": flat[name], "of": rated} for name in ("satisfied", "strict", "bad")
            }
        ],
        "services": {"n": flat["services"], "minutes_sum": 55.5},
        "waits": {"n": flat["waits_n"], "minutes_sum": flat["wait_minutes_sum"]},
        "hours": [],
    }  # fmt: skip


def window(seq: int, key: str = "w01", **rest: Any) -> Change:
    row: dict[str, Any] = {
        "window": key,
        "area": "tax-hall",
        "state": "serving",
        "since": "2025-03-03T11:58:00+08:00",
        "ticket": "A012",
        "person": "1001",
        "call_seq": 17,
        "repeat": 0,
        "waiting": 6,
        "work_date": "2025-03-03",
        "figures": {
            "rated": 8, "rateable": 10, "satisfied": 7, "strict": 6, "bad": 1, "services": 10,
            "waits_n": 4, "wait_minutes_sum": 30, "by_hour": [1, 2],
        },
    }  # fmt: skip
    row["figures"] = nested(row["figures"] | rest.pop("figures", {}))
    return change(seq, "window", row | rest.pop("row", {}), key=key, **rest)


def area(seq: int) -> Change:
    row = {
        "area": "tax-hall",
        "work_date": "2025-03-03",
        "waiting": 7,
        "open_windows": 3,
        "waits": {"n": 20, "minutes_sum": 130.5, "mean_minutes": 6.5, "longest_minutes": 14.0},
        "hours": [],
    }
    return change(seq, "area", row, key="tax-hall/2025-03-03")


def post(seq: int) -> Change:
    row = {
        "window": "w01",
        "work_date": "2025-03-03",
        "state": "away",
        "state_zh": "离岗",
        "since": "2025-03-03T11:59:00.000+08:00",
        "evidence": ["difference"],
        "staffed_minutes": {"n": 118, "of": 120},
        "unknown_minutes": {"n": 5, "of": 125},
        "vacancies": [{"id": "v1", "person_code": "1001", "people": ["1001"]}],
    }
    return change(seq, "post", row, key="w01/2025-03-03")


def rating(seq: int, rating_id: str = "r-1", op: str = "opened", **rest: Any) -> Change:
    row = {
        "rating_id": rating_id,
        "window": "w01",
        "level": 5,
        "scale_id": "five",
        "channel": "pad",
        "pressed_at": "2025-03-03T11:59:58.250+08:00",
        "match": "matched",
        "person": "1001",
        "text": "窗口的王小明很热情",
        "service_ref": "A012",
    } | rest.pop("row", {})
    return change(seq, "rating", row, op=op, key=rating_id, **rest)


def reading(seq: int, **row: Any) -> Change:
    told = {"kind": "punch", "device": "term-1", "at": NOON - 5000, "received_at": NOON} | row
    return change(seq, "reading", told, op="opened", key="0" * 32)


ALL_KINDS = (
    attendance(1),
    violation(2),
    alert(3),
    device(4),
    adjustment(5),
    window(6),
    rating(7),
    reading(8),
    area(9),
    post(10),
)


# -- points ----------------------------------------------------------------------------------------


def line(told: Change) -> str:
    return Points("h1", SHANGHAI).line(told)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            attendance(1),
            "hallwatch_attendance,hall=h1,kind=opened,state=present attended=0.5,delta=1i,"
            "expected=1,finality=2i,points=2.5,revision=3i 1740974400000000001",
        ),
        (
            violation(2),
            "hallwatch_violation,code=ATT-01,hall=h1,kind=opened,rule=late_arrival,severity=2,"
            "state=active delta=1i,minutes=12i,points=1,revision=1i 1740974400000000002",
        ),
        (
            alert(3),
            "hallwatch_alert,code=DEV-01,device=term-1,hall=h1,kind=device,rule=device_offline,"
            "severity=5,state=open delta=1i,inhibited=0i,open=1i,revision=1i 1740974400000000003",
        ),
        (
            device(4),
            "hallwatch_device,device=term-1,hall=h1 clock_offset_ms=1200i,"
            "log_behind_s=30,punches=412i,state_code=1i,unreadable=0i 1740974400000000004",
        ),
        (
            adjustment(5),
            "hallwatch_adjustment,hall=h1,kind=opened,state=absent_half delta=1i,points_after=2,"
            "points_before=0 1740974400000000005",
        ),
        (
            window(6),
            "hallwatch_window,area=tax-hall,hall=h1,window=w01 bad=1i,call_seq=17i,"
            "rateable=10i,rated=8i,repeat=0i,satisfied=7i,services=10i,state_code=2i,strict=6i,"
            "wait_minutes_sum=30,waiting=6i,waits_n=4i 1740974400000000006",
        ),
        (
            post(7),
            "hallwatch_post,hall=h1,window=w01 known_minutes=120i,required_minutes=125i,"
            "staffed_minutes=118i,state_code=1i,unknown_minutes=5i,vacancies=1i"
            " 1740974400000000007",
        ),
        (
            reading(8),
            "hallwatch_reading,device=term-1,hall=h1,kind=punch count=1i,delay_ms=5000i"
            " 1740974395000000008",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Change) else "",
)
def test_a_change_becomes_this_line(told: Change, expected: str) -> None:
    assert line(told) == expected


def test_a_rating_is_one_point_at_the_moment_it_was_given_however_often_it_is_amended() -> None:
    first, amended = (
        rating(7, row={"match": "unmatched"}),
        rating(99, op="amended", at=NOON + MINUTE),
    )
    other = rating(8, "r-2")
    start = "hallwatch_rating,channel=pad,hall=h1,level=5,scale=five,window=w01 count=1i,defaulted"

    assert line(first).startswith(start)
    assert line(first).rpartition(" ")[2] == line(amended).rpartition(" ")[2]
    assert line(first).rpartition(" ")[2][:13] == str(NOON - 1750)
    assert line(other).rpartition(" ")[2] != line(first).rpartition(" ")[2]
    assert ("matched=0i" in line(first), "matched=1i" in line(amended)) == (True, True)


def test_a_withdrawn_rating_counts_nothing_in_its_place() -> None:
    gone = line(rating(9, op="withdrawn"))

    assert gone.replace("count=0i", "count=1i") == line(rating(7))


def test_silence_is_no_level_and_a_level_that_cannot_be_is_not_averaged() -> None:
    assert ",level=none," in line(rating(1, row={"level": None}))
    assert ",level=other," in line(rating(1, row={"level": 12}))
    assert "level_value" not in line(rating(1, row={"level": None}))
    assert "level_value" not in line(rating(1, row={"level": 12}))


def test_what_is_learned_later_about_a_day_that_is_over_stands_at_its_end() -> None:
    midnight = NOON + 12 * 60 * MINUTE
    before = line(window(10, at=midnight - 1)).split()[-1]
    late = line(window(11, at=midnight)).split()[-1]
    later = line(window(12, at=midnight + 3 * 24 * 60 * MINUTE)).split()[-1]

    assert int(before) == (midnight - 1) * 1_000_000 + 10
    assert int(late) == (midnight - 1000) * 1_000_000 + 11
    assert int(later) == int(late) + 1


@pytest.mark.parametrize(
    ("at", "charted"),
    [
        (NOON - 30 * 24 * 60 * MINUTE, NOON - 30 * 24 * 60 * MINUTE),
        (946_684_800_000, NOON),  # a terminal whose battery is empty says it is 2000
        (NOON + 1, NOON),
    ],
)
def test_a_reading_is_charted_when_it_was_said_to_be_where_that_can_be(at, charted) -> None:
    told = line(reading(1, at=at))

    assert told.endswith(f" {charted}000001")
    assert f"delay_ms={NOON - at}i" in told


def test_a_readings_times_may_be_texts() -> None:
    texts = {"at": "2025-03-03T11:59:55+08:00", "received_at": "2025-03-03T04:00:00Z"}

    assert line(reading(8, **texts)) == line(reading(8))


def test_an_alert_tells_what_it_is_about_unless_that_is_a_person() -> None:
    assert ",window=w07" in line(alert(1, "window", "w07"))
    assert ",area=A区" in line(alert(1, "area", "A区"))
    person = line(alert(1, "person", "1001"))
    assert "kind=person" in person
    assert "1001" not in person


def test_an_alert_that_is_over_tells_how_long_it_lasted() -> None:
    over = {"state": "resolved", "ends_at": "2025-03-03T11:55:30+08:00"}
    told = line(alert(1, row=over, op="amended"))

    assert "lasted_minutes=15.5" in told
    assert "open=0i" in told
    assert "delta=0i" in told


def test_two_changes_of_one_instant_are_two_points() -> None:
    assert line(violation(1)) != line(violation(2))


def test_values_nobody_knows_become_other() -> None:
    told = line(window(1, row={"state": "on fire", "window": "Window 1", "area": "a\nb"}))

    assert told.startswith("hallwatch_window,area=other,hall=h1,window=other ")
    assert "state_code=-1i" in told


def test_made_up_ids_do_not_make_more_series_than_the_bound() -> None:
    points = Points("h1", SHANGHAI)
    lines = [points.line(device(n, f"d{n}")) for n in range(VALUES_KEPT + 500)]
    devices = {re.search(r"device=([\w-]+)", told).group(1) for told in lines}  # type: ignore[union-attr]

    assert len(devices) == VALUES_KEPT + 1
    assert "other" in devices
    assert points.line(device(1, "d7")) == lines[7].replace("000007", "000001")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (change(1, "camera", {}), "there is no measurement for changes of kind 'camera'"),
        (change(1, "window", {"window": "w01"}), "missing required field `state`"),
        (window(1, row={"waiting": "six"}), r"Expected `int \| null`, got `str` - at `\$.waiting`"),
        (window(1, row={"waiting": 1 << 63}), "waiting is out of range|Integer value out of range"),
        (rating(1, row={"pressed_at": "2025-03-03T11:59:58"}), "has no offset"),
        (rating(1, row={"pressed_at": -1}), "is no time that a point can have"),
        (rating(1, row={"pressed_at": 1 << 62}), "is no time that a point can have"),
        (Change(1, "alert", "opened", "k", NOON, "", b"\xff{"), "JSON is malformed"),
        (Change(1, "alert", "opened", "k", NOON, "", b""), "truncated"),
    ],
)
def test_a_row_that_cannot_be_a_point_says_why(told: Change, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        line(told)


SECRET = "张三13800000000"
LINE = re.compile(
    r"hallwatch_[a-z]+(,[a-z]+=[\w.-]+)+ [a-z_]+=-?\d[\d.e+-]*i?(,[a-z_]+=-?\d[\d.e+-]*i?)* \d+"
)
PRIVATE = (
    *("person_code", "person", "name", "title", "detail", "text", "ticket", "service_ref"),
    *("note", "acknowledged_by", "reason", "handler", "info", "evidence", "id", "by", "unit"),
)
ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 64), 1 << 64),
    st.floats(allow_nan=False),
    st.text(),
    st.lists(st.integers(), max_size=2),
)


@given(
    told=st.sampled_from(ALL_KINDS),
    replaced=st.dictionaries(st.integers(0, 20), ANY, max_size=4),
    at=st.integers(-(1 << 40), 1 << 63),
)
@settings(max_examples=400, deadline=None)
def test_whatever_a_row_holds_a_line_has_known_tags_and_numbers_only(told, replaced, at) -> None:
    row = json.loads(told.row)
    for number, value in replaced.items():
        row[list(row)[number % len(row)]] = value
    hostile = row | dict.fromkeys(PRIVATE, SECRET)
    try:
        got = line(change(told.seq, told.kind, hostile, key=told.key, at=at))
    except (ValueError, OverflowError):
        return

    assert LINE.fullmatch(got), got
    assert SECRET not in got
    assert {tag.partition("=")[0] for tag in got.split(" ")[0].split(",")[1:]} <= TAGS


def test_the_daemons_figures_are_one_point_without_what_is_no_number() -> None:
    got = Points("h1", SHANGHAI).metrics(NOON, {"sink_lag.mqtt": 3, "a": 0.5, "b": float("nan")})

    assert got == "hallwatch_daemon,hall=h1 a=0.5,sink_lag.mqtt=3 1740974400000000000"


# -- a server that answers what it is told to -----------------------------------------------------


class Scripted:
    """Answers each request by ``answer(lines)``: status, body, headers.  Keeps what it answered
    204 to, and everything it was asked."""

    def __init__(self, answer: Callable[[list[str]], tuple[int, bytes | str, dict[str, str]]]):
        self.written: list[str] = []
        self.asked: list[tuple[str, dict[str, str], list[str]]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                lines = body.split("\n")
                script.asked.append((self.path, dict(self.headers), lines))
                status, text, headers = answer(lines)
                if status == 204:
                    script.written += lines
                self.send_response(status)
                told = text.encode() if isinstance(text, str) else text
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    running: list[Scripted] = []

    def start(answer: Any) -> Scripted:
        made = answer if callable(answer) else lambda _: answer
        running.append(Scripted(made))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def sink_at() -> Iterator[Callable[..., InfluxSink]]:
    made: list[InfluxSink] = []

    def make(url: str, version: str = "2", **rest: Any) -> InfluxSink:
        where: dict[str, Any] = {"database": "halls"} if version == "1" else {"bucket": "halls"}
        sink = InfluxSink(
            "influx", url=url, zone=SHANGHAI, version=version, **{"hall": "h1"} | where | rest
        )
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()


both = pytest.mark.parametrize("version", ["2", "1"])
GOOD = (204, "", {})


def down(sink: InfluxSink, *changes: Change) -> str:
    with pytest.raises(SinkDown) as raised:
        sink.deliver(changes or (device(1),))
    return str(raised.value)


def test_version_2_asks_as_the_api_wants_it(scripted, sink_at) -> None:
    server = scripted(GOOD)
    sink = sink_at(server.url + "/", org="county", token="t0k3n")

    assert sink.deliver([device(4), window(6)]) == Delivered(6)
    path, headers, lines = server.asked[0]
    query = parse_qs(urlsplit(path).query)
    assert urlsplit(path).path == "/api/v2/write"
    assert query == {"org": ["county"], "bucket": ["halls"], "precision": ["ns"]}
    assert headers["Authorization"] == "Token t0k3n"
    assert lines == [line(device(4)), line(window(6))]


def test_version_1_asks_as_the_api_wants_it(scripted, sink_at) -> None:
    server = scripted(GOOD)
    sink = sink_at(server.url + "/influx", "1", username="hall", password="密:码")

    assert sink.deliver([device(4)]) == Delivered(4)
    path, headers, lines = server.asked[0]
    assert path == "/influx/write?db=halls&precision=ns"
    assert headers["Authorization"] == "Basic aGFsbDrlr4Y656CB"
    assert lines == [line(device(4))]


@both
def test_one_batch_is_one_request(version, scripted, sink_at) -> None:
    server = scripted(GOOD)
    changes = [device(n, f"d{n % 30}") for n in range(1, 501)]

    assert sink_at(server.url, version).deliver(changes) == Delivered(500)
    assert len(server.asked) == 1
    assert server.written == [line(told) for told in changes]


@both
def test_a_row_that_cannot_be_a_point_is_rejected_and_the_others_go_on(
    version, scripted, sink_at
) -> None:
    server = scripted(GOOD)
    broken = change(2, "window", {"window": "w01"})

    result = sink_at(server.url, version).deliver([device(1), broken, device(3)])

    assert result.accepted == 3
    assert [seq for seq, _ in result.rejected] == [2]
    assert result.rejected[0][1].startswith("cannot be a point: Object missing required field")
    assert server.written == [line(device(1)), line(device(3))]


def test_nothing_is_sent_when_no_row_can_be_a_point(scripted, sink_at) -> None:
    server = scripted(GOOD)

    assert sink_at(server.url).deliver([change(2, "camera", {})]).accepted == 2
    assert server.asked == []


def refusing(*bad: str, status: int, body: str) -> Callable[[list[str]], Any]:
    """Refuses requests that hold one of the devices, taking nothing of them."""

    def answer(lines: list[str]) -> tuple[int, str, dict[str, str]]:
        held = any(f"device={one}," in told for told in lines for one in bad)
        return (status, body, {}) if held else GOOD

    return answer


@both
@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, '{"code":"invalid","message":"unable to parse \'x\': bad"}', "unable to parse"),
        (
            422,
            '{"code":"unprocessable entity","message":"failure writing points to database: partial'
            ' write: points beyond retention policy dropped=1"}',
            "beyond retention policy",
        ),
        (
            400,
            '{"error":"partial write of line protocol occurred","data":[{"line_number":2}]}',
            "partial write of line protocol occurred",
        ),
        (413, '{"code":"request too large","message":"points batch is too large"}', "too large"),
        (400, "", "status 400"),
    ],
)
def test_lines_that_are_refused_are_found_and_listed(
    version, status, body, reason, scripted, sink_at
) -> None:
    server = scripted(refusing("d3", "d77", "d78", status=status, body=body))
    changes = [device(n, f"d{n}") for n in range(1, 101)]

    result = sink_at(server.url, version).deliver(changes)

    assert result.accepted == 100
    assert [seq for seq, _ in result.rejected] == [3, 77, 78]
    assert all(reason in told for _, told in result.rejected)
    good = {line(told) for told in changes if told.seq not in (3, 77, 78)}
    assert good <= set(server.written)
    assert len(server.asked) < 45


@both
def test_a_batch_that_is_dropped_as_a_whole_is_not_tried_line_by_line(
    version, scripted, sink_at
) -> None:
    """As after months without the server, when its retention is shorter than that."""

    def answer(lines: list[str]) -> tuple[int, str, dict[str, str]]:
        if "influx_probe" in lines[0]:
            return GOOD
        said = f"partial write: points beyond retention policy dropped={len(lines)}"
        return 400, json.dumps({"error": said, "message": said}), {}

    server = scripted(answer)

    result = sink_at(server.url, version).deliver([device(n) for n in range(1, 501)])

    assert len(result.rejected) == 500
    assert len(server.asked) == 2


@both
def test_a_server_that_refuses_everything_is_down_and_loses_nothing(
    version, scripted, sink_at
) -> None:
    server = scripted((400, '{"code":"invalid","message":"org or orgID required"}', {}))

    said = down(sink_at(server.url, version), *[device(n) for n in range(1, 501)])

    assert said == f"InfluxDB at {server.url} refuses whatever is sent: org or orgID required"
    assert len(server.asked) < 12


@both
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, '{"code":"unauthorized","message":"unauthorized access"}', "user or token"),
        (403, '{"error":"\\"hall\\" user is not authorized"}', "does not let us write to"),
        (404, '{"code":"not found","message":"bucket \\"halls\\" not found"}', "'halls'"),
        (500, '{"error":"retention policy not found: nope"}', "retention policy not found: nope"),
        (503, "<html>暂停服务</html>".encode("gb18030"), ""),
        (429, "", "takes no more for now"),
        (200, "<html>welcome</html>", "is no InfluxDB: it answered 200 to a write"),
        (302, "", "is no InfluxDB: it answered 302 to a write"),
        (500, "x" * 3_000_000, "answered 500: xxx"),
        (
            400,
            '{"error":"partial write: max-values-per-tag limit exceeded (9/9): dropped=1"}',
            "limit exceeded",
        ),
    ],
)
def test_a_server_that_takes_nothing_is_down_with_a_sentence(
    version, status, body, said, scripted, sink_at
) -> None:
    server = scripted((status, body, {"Location": "/login"} if status == 302 else {}))
    secret = {"token": "s3cr3t"} if version == "2" else {"username": "u", "password": "s3cr3t"}

    sentence = down(sink_at(server.url, version, **secret))

    assert said in sentence
    assert server.url in sentence
    assert len(sentence) < 400
    assert "\n" not in sentence
    assert "s3cr3t" not in sentence
    assert len(server.asked) == 1


@both
def test_after_retry_after_the_server_is_left_alone_that_long(
    version, scripted, sink_at, monkeypatch
) -> None:
    answers = [(429, "", {"Retry-After": "30"}), GOOD]
    server = scripted(lambda _: answers.pop(0))
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(influx_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    sink = sink_at(server.url, version)
    down(sink)

    clock.now += 29
    assert down(sink).endswith("asked to be left alone for 1 s")
    assert sink.metrics(NOON, {"a": 1.0}) is False
    assert len(server.asked) == 1

    clock.now += 1
    assert sink.deliver([device(1)]) == Delivered(1)


@both
@pytest.mark.parametrize("told", ["Fri, 31 Dec 1999 23:59:59 GMT", "-5", "soon", "9" * 30])
def test_a_retry_after_that_is_no_number_of_seconds_does_no_harm(
    version, told, scripted, sink_at
) -> None:
    answers = [(503, "", {"Retry-After": told}), GOOD]
    server = scripted(lambda _: answers.pop(0))
    sink = sink_at(server.url, version)
    down(sink)

    assert sink.deliver([device(1)]) == Delivered(1)


@both
def test_a_server_nobody_runs_is_down(version, sink_at) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    assert "Connection refused" in down(sink_at(url, version))


@both
@pytest.mark.parametrize(
    ("sends", "said"),
    [(None, "no answer from InfluxDB at"), (b"SSH-2.0-dropbear\r\n", "cannot talk to InfluxDB at")],
)
def test_a_peer_that_speaks_no_http_is_down(version, sends, said, sink_at) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        met: list[socket.socket] = []

        def accept() -> None:
            peer, _ = listener.accept()
            met.append(peer)
            if sends:
                peer.sendall(sends)
                peer.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=accept)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        assert said in down(sink_at(url, version, timeout=0.3))
        thread.join()
        met[0].close()


@both
def test_a_server_that_goes_down_on_the_way_has_settled_the_first_ones(
    version, scripted, sink_at
) -> None:
    """Here the batch is refused, then its first half is taken but for one, then it is over."""
    broken = threading.Event()

    def answer(lines: list[str]) -> tuple[int, str, dict[str, str]]:
        if broken.is_set() or "influx_probe" in lines[0]:
            return GOOD
        if any("device=d5," in told for told in lines):
            return 500, "engine: shutting down", {}
        return (400, "partial write", {}) if "device=d2," in "".join(lines) else GOOD

    server = scripted(lambda lines: (400, "", {}) if len(lines) > 4 else answer(lines))
    sink = sink_at(server.url, version)
    changes = [
        *(device(seq, f"d{seq}") for seq in range(1, 7)),
        change(7, "camera", {}),
        *(device(seq, f"d{seq}") for seq in range(8, 10)),
    ]

    assert sink.deliver(changes) == Delivered(4, ((2, "partial write"),))
    broken.set()
    result = sink.deliver(changes[4:])
    assert (result.accepted, [seq for seq, _ in result.rejected]) == (9, [7])
    assert set(server.written) >= {line(changes[n]) for n in (0, 2, 3, 4, 5, 7, 8)}
    assert line(changes[1]) not in server.written


@both
def test_the_daemons_own_figures_are_written_from_any_thread(version, scripted, sink_at) -> None:
    server = scripted(GOOD)
    sink = sink_at(server.url, version)
    taken: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: taken.append(sink.metrics(NOON + n, {"lag": 1.0})))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for n in range(10):
        sink.deliver([device(n + 1)])
    for thread in threads:
        thread.join()

    assert taken == [True] * 4
    assert len(server.written) == 14
    assert sink.metrics(NOON, {}) is True
    assert len(server.asked) == 14


def test_figures_that_are_not_taken_are_dropped_without_a_fuss(scripted, sink_at) -> None:
    refusing_all = scripted((400, "", {}))

    assert sink_at(refusing_all.url).metrics(NOON, {"a": 1}) is False
    assert sink_at(f"http://127.0.0.1:{free_port()}").metrics(NOON, {"a": 1}) is False
    with pytest.raises(ValueError, match="cannot be the name of a metric"):
        sink_at(refusing_all.url).metrics(NOON, {'lag{sink="mqtt"}': 1})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "influx.local:8086"}, "is not like http://127.0.0.1:8086"),
        ({"url": "http://user:pw@127.0.0.1:8086"}, "without user"),
        ({"url": "http://127.0.0.1:8086/?db=x"}, "without user, password, '[?]'"),
        ({"url": "http://127.0.0.1:80", "ca_file": "/etc/ca.pem"}, "url is not https"),
        ({"hall": "Hall 1"}, "cannot be a tag"),
        ({"url": "http://127.0.0.1:70000"}, "Port out of range"),
        ({"url": "https://a.b", "ca_file": "/nowhere/ca.pem"}, "ca_file /nowhere/ca.pem cannot"),
        ({"token": "two\nlines"}, "the token has characters that cannot be sent"),
        ({"bucket": ""}, "needs a bucket"),
        ({"database": "x"}, 'are for version "1"'),
        ({"version": "1", "bucket": ""}, "needs a database"),
        ({"version": "1", "database": "x"}, 'are for version "2"'),
        ({"version": "1", "bucket": "", "database": "x", "password": "p"}, "no username"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_sentence(settings, why) -> None:
    values = {"url": "http://127.0.0.1:8086", "hall": "h1", "bucket": "b", "zone": SHANGHAI}

    with pytest.raises(ValueError, match=why):
        InfluxSink("influx", **values | settings)


@both
def test_over_https_only_the_authority_named_is_trusted(
    version, tmp_path, scripted, sink_at
) -> None:
    certificate, key = tmp_path / "crt.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = scripted(GOOD)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
    url = server.url.replace("http:", "https:")

    assert "CERTIFICATE_VERIFY_FAILED" in down(sink_at(url, version))
    trusting = sink_at(url, version, ca_file=str(certificate))
    assert trusting.deliver([device(1)]) == Delivered(1)


# -- VictoriaMetrics -------------------------------------------------------------------------------


class Process:
    """A server of somebody else's.  ``probe`` is a path that answers once it is ready."""

    def __init__(self, command: Sequence[str], url: str, probe: str, log: Path) -> None:
        self.url = url
        self._command, self._probe, self._log = command, probe, log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._ready)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            self.get(self._probe)
        except OSError:
            return False
        return True

    def get(self, path: str, **query: str) -> bytes:
        with urlopen(f"{self.url}{path}?{urlencode(query)}", timeout=10) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def installed(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if not found:
        pytest.skip(f"{name} is not installed (apt install {package})")
    return found


class Victoria(Process):
    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = [
            installed("victoria-metrics", "victoria-metrics"),
            *("-retentionPeriod", "100y", "-storageDataPath", str(folder / "data")),
            *("-httpListenAddr", f"127.0.0.1:{port}", "-loggerLevel", "ERROR"),
        ]
        super().__init__(command, f"http://127.0.0.1:{port}", "/health", folder / "log")

    def export(self, hall: str = "h1") -> dict[str, list[tuple[dict[str, str], list[float]]]]:
        """Series of the hall: name to labels and values."""
        self.get("/internal/force_flush")
        told = self.get("/api/v1/export", **{"match[]": f'{{hall="{hall}"}}'}).decode()
        found: dict[str, list[tuple[dict[str, str], list[float]]]] = {}
        for one in map(json.loads, told.splitlines()):
            name = one["metric"].pop("__name__")
            found.setdefault(name, []).append((one["metric"], one["values"]))
        return found


@pytest.fixture(scope="module")
def victoria(tmp_path_factory) -> Iterator[Victoria]:
    server = Victoria(tmp_path_factory.mktemp("victoria"))
    yield server
    server.stop()


@both
def test_victoria_metrics_keeps_every_kind(version, victoria, sink_at) -> None:
    hall = f"v{version}"
    sink = sink_at(victoria.url, version, hall=hall)

    assert sink.deliver(ALL_KINDS) == Delivered(len(ALL_KINDS))
    assert sink.metrics(NOON, {"sink_lag": 4}) is True

    kept = victoria.export(hall)
    assert {name.split("_")[1] for name in kept} == {
        *(told.kind for told in ALL_KINDS),
        "daemon",
    }
    labels, values = kept["hallwatch_window_wait_minutes_sum"][0]
    labels.pop("db", None)
    assert labels == {"hall": hall, "window": "w01", "area": "tax-hall"}
    assert values == [30]
    assert kept["hallwatch_device_state_code"][0][1] == [1]
    assert kept["hallwatch_daemon_sink_lag"][0][1] == [4]


def test_the_manuals_questions_to_victoria_metrics_are_answered(victoria, sink_at) -> None:
    day = NOON - 7 * 24 * 60 * MINUTE
    early = {"rated": 1, "satisfied": 0}
    told = [
        window(1, at=day - MINUTE, figures=early, row={"state": "paused"}),
        window(2, at=day),
        window(3, "w02", at=day, row={"state": "paused"}),
        rating(4, row={"pressed_at": day - MINUTE}),
    ]
    sink_at(victoria.url).deliver(told)
    victoria.get("/internal/force_flush")
    (block,) = re.findall(
        r"```promql\n(.*?)```", (DOCS / "influx.md").read_text("utf-8"), re.DOTALL
    )
    answers = [
        json.loads(victoria.get("/api/v1/query", query=query, time=str(day // 1000 + 600)))
        for query in re.split(r"^# .*$", block, flags=re.M)[1:]
    ]

    rates, levels, paused = ([one["value"][1] for one in a["data"]["result"]] for a in answers)
    assert rates == ["87.5"]
    assert levels == ["1"]
    assert paused == ["4"]


def test_what_came_while_the_server_was_down_is_written_when_it_is_back(
    tmp_path, sink_at, monkeypatch
) -> None:
    monkeypatch.setattr(outbox_module, "SHORTEST_WAIT", 0.05)
    server = Victoria(tmp_path)
    feed: list[Change] = [device(1)]
    settled = [0]

    def advance(_sink: str, seq: int, _rejected: Sequence[tuple[int, str]]) -> None:
        settled[0] = seq

    outbox = Outbox(
        [sink_at(server.url)],
        read=lambda after, limit: [told for told in feed if told.seq > after][:limit],
        cursor=lambda _: 0,
        advance=advance,
        now=lambda: NOON,
    )
    outbox.start()
    try:
        until(lambda: settled[0] == 1)
        server.stop()
        feed += [device(seq, at=NOON + seq * 1000) for seq in range(2, 1001)]
        outbox.notify(1000)
        until(lambda: outbox.state()[0].down_since)
        server.start()

        until(lambda: settled[0] == 1000)
        kept = server.export()["hallwatch_device_state_code"]
    finally:
        outbox.close()
        server.stop()
    assert len(kept[0][1]) == 1000


# -- InfluxDB 1 ------------------------------------------------------------------------------------


class Influx(Process):
    """influxd with accounts: ``root`` may all, ``hall`` may write to ``halls``, ``guest``
    nothing."""

    def __init__(self, folder: Path) -> None:
        port, inner = free_port(), free_port()
        settings = folder / "influxdb.conf"
        settings.write_text(
            f"""
            reporting-disabled = true
            bind-address = "127.0.0.1:{inner}"
            [meta]
            dir = "{folder}/meta"
            [data]
            dir = "{folder}/data"
            wal-dir = "{folder}/wal"
            max-values-per-tag = 200
            [monitor]
            store-enabled = false
            [http]
            bind-address = "127.0.0.1:{port}"
            auth-enabled = true
            """
        )
        command = [installed("influxd", "influxdb"), "-config", str(settings)]
        super().__init__(command, f"http://127.0.0.1:{port}", "/ping", folder / "log")

    def add_accounts(self) -> None:
        self.query("CREATE USER root WITH PASSWORD 'root' WITH ALL PRIVILEGES")
        self.query("CREATE DATABASE halls")
        self.query("CREATE USER hall WITH PASSWORD '密码'")
        self.query("GRANT WRITE ON halls TO hall")
        self.query("CREATE USER guest WITH PASSWORD 'guest'")

    def query(self, text: str, database: str = "halls") -> list[dict[str, Any]]:
        """The series of the answer."""
        account = urlencode({"db": database, "u": "root", "p": "root"})
        asked = Request(f"{self.url}/query?{account}", urlencode({"q": text}).encode())
        with urlopen(asked, timeout=20) as answer:
            (result,) = json.load(answer)["results"]
        assert "error" not in result, f"{result['error']}: {text}"
        return list(result.get("series", []))

    def rows(self, text: str, database: str = "halls") -> list[list[Any]]:
        return [row for series in self.query(text, database) for row in series["values"]]

    def write(self, text: str, database: str = "halls") -> None:
        query = urlencode({"db": database, "u": "root", "p": "root"})
        urlopen(Request(f"{self.url}/write?{query}", text.encode()), timeout=10).close()


@pytest.fixture(scope="module")
def influx(tmp_path_factory) -> Iterator[Influx]:
    server = Influx(tmp_path_factory.mktemp("influx"))
    try:
        server.add_accounts()
        yield server
    finally:
        server.stop()


@pytest.fixture
def to_influx(influx) -> Iterator[Callable[..., InfluxSink]]:
    made: list[InfluxSink] = []

    def make(**rest: Any) -> InfluxSink:
        values = {"username": "hall", "password": "密码", "database": "halls", "hall": "h1"} | rest
        made.append(InfluxSink("influx", url=influx.url, version="1", zone=SHANGHAI, **values))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def test_influxdb_1_keeps_every_kind_with_its_types(influx, to_influx) -> None:
    assert to_influx(hall="kinds").deliver(ALL_KINDS) == Delivered(len(ALL_KINDS))

    for told in ALL_KINDS:
        name = f"hallwatch_{told.kind}"
        (row,) = influx.rows(f"SELECT * FROM {name} WHERE hall = 'kinds'")
        assert str(row[0]).startswith("2025-03-03T0")
    (window_row,) = influx.rows(
        "SELECT wait_minutes_sum / waits_n, window FROM hallwatch_window WHERE hall = 'kinds'"
    )
    assert window_row[1:] == [7.5, "w01"]
    types = {
        name: kind for series in influx.query("SHOW FIELD KEYS") for name, kind in series["values"]
    }
    assert set(types.values()) == {"integer", "float"}
    assert {tag for series in influx.query("SHOW TAG KEYS") for (tag,) in series["values"]} <= TAGS


def test_delivered_twice_is_there_once(influx, to_influx) -> None:
    sink = to_influx(hall="twice")
    changes = [*ALL_KINDS, *(violation(seq, at=NOON) for seq in range(20, 50))]
    sink.deliver(changes)
    sink.deliver(changes)
    sink.deliver(changes[3:])

    assert influx.rows("SELECT count(delta) FROM hallwatch_violation WHERE hall = 'twice'") == [
        ["1970-01-01T00:00:00Z", 31]
    ]
    assert len(influx.rows("SELECT * FROM hallwatch_rating WHERE hall = 'twice'")) == 1
    assert len(influx.rows("SELECT * FROM hallwatch_reading WHERE hall = 'twice'")) == 1


def test_a_field_that_has_another_type_there_rejects_those_points_alone(influx, to_influx) -> None:
    influx.query("CREATE DATABASE mixed")
    influx.write("hallwatch_window,hall=old rated=1.5 1740974400000000000", "mixed")
    sink = to_influx(username="root", password="root", database="mixed")

    result = sink.deliver([device(1), window(2), device(3), window(4), rating(5)])

    assert result.accepted == 5
    assert [seq for seq, _ in result.rejected] == [2, 4]
    assert 'field type conflict: input field "rated"' in result.rejected[0][1]
    assert len(influx.rows("SELECT * FROM hallwatch_device", "mixed")) == 2
    assert len(influx.rows("SELECT * FROM hallwatch_rating", "mixed")) == 1


def test_points_older_than_the_retention_are_rejected_and_the_others_kept(
    influx, to_influx
) -> None:
    influx.query("CREATE DATABASE short WITH DURATION 52w REPLICATION 1")
    sink = to_influx(username="root", password="root", database="short")
    today = int(time.time() * 1000)
    old = [device(seq, at=MINUTE) for seq in range(1, 300)]

    result = sink.deliver([*old, device(300, at=today), *[device(301, at=MINUTE)]])

    assert result.accepted == 301
    assert len(result.rejected) == 300
    assert "beyond retention policy" in result.rejected[0][1]
    assert len(influx.rows("SELECT * FROM hallwatch_device", "short")) == 1


def test_a_bound_on_series_is_for_the_administrator_to_raise(influx, to_influx) -> None:
    influx.query("CREATE DATABASE full")
    sink = to_influx(username="root", password="root", database="full")

    sink.deliver([device(seq, f"d{seq}") for seq in range(1, 201)])

    said = down(sink, device(201, "d1"), device(202, "one-more"))

    assert "max-values-per-tag limit exceeded" in said


def test_influxdb_1_says_what_is_wrong_with_the_account_or_the_database(to_influx) -> None:
    assert "does not know the user or token: authorization failed" in down(
        to_influx(password="wrong")
    )
    assert "does not let us write to database 'halls'" in down(
        to_influx(username="guest", password="guest")
    )
    assert "has no database 'nowhere'" in down(
        to_influx(username="root", password="root", database="nowhere")
    )


# -- the dashboard and the manual ------------------------------------------------------------------

DASHBOARD = json.loads((DOCS / "grafana-hallwatch.json").read_text("utf-8"))
QUERIES = {
    f"{panel['title']} {target['refId']}": target["query"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}


def filled(query: str) -> str:
    """A panel's query as Grafana would send it."""
    for name, value in {
        "$timeFilter": f"time >= {NOON - 24 * 60 * MINUTE}ms and time <= {NOON + 60 * MINUTE}ms",
        "$__interval": "10m",
        "$hall": "dash",
        "$window": ".*",
        "$zone": "Asia/Shanghai",
    }.items():
        query = query.replace(name, value)
    assert "$" not in query.replace("$/", "")
    return query


@pytest.fixture(scope="module")
def charted(influx) -> Influx:
    """A morning at two windows, told the way the daemon tells it."""
    sink = InfluxSink(
        "influx", url=influx.url, version="1", zone=SHANGHAI,
        username="root", password="root", database="halls", hall="dash",
    )  # fmt: skip
    earlier = {"rated": 2, "satisfied": 1, "rateable": 4, "services": 4, "waits_n": 1}
    changes = [
        *(told for told in ALL_KINDS if told.kind != "window"),
        window(20, "w01", at=NOON - 40 * MINUTE, figures=earlier, row={"state": "calling"}),
        window(21, "w01"),
        window(22, "w02", figures={"rated": 2, "satisfied": 2, "wait_minutes_sum": 10}),
        violation(23, "withdrawn", at=NOON + MINUTE),
        violation(24, at=NOON + MINUTE),
        rating(25, "r-9", row={"level": 1}),
        rating(26, "r-8", row={"defaulted": True}),
    ]
    assert sink.deliver(changes).rejected == ()
    assert sink.metrics(NOON, {"sink_lag": 4.0})
    sink.close()
    return influx


@pytest.mark.parametrize("name", QUERIES)
def test_every_panel_of_the_dashboard_shows_something(name, charted) -> None:
    series = charted.query(filled(QUERIES[name]))

    assert series, QUERIES[name]
    assert any(value is not None for one in series for row in one["values"] for value in row[1:])


def values(server: Influx, title: str) -> list[Any]:
    (query,) = (query for name, query in QUERIES.items() if title in name)
    rows = server.rows(filled(query))
    return [value for _, value in rows if value is not None]


def test_rates_on_the_dashboard_are_of_the_days_last_figures_over_all_windows(charted) -> None:
    assert values(charted, "Satisfied rate A") == [100 * (7 + 2) / (8 + 2)]
    assert values(charted, "Satisfied rate D") == [100 * (8 + 2) / (10 + 10)]
    assert values(charted, "Mean wait") == [(30 + 10) / (4 + 4)]
    assert values(charted, "Services a day") == [20]
    assert values(charted, "Attendance rate") == [50]
    assert values(charted, "Violations A") == [1]
    assert sorted(values(charted, "Ratings by level")) == [1, 1]


def test_the_dashboard_can_be_imported() -> None:
    assert [one["name"] for one in DASHBOARD["__inputs"]] == ["DS_HALLWATCH"]
    assert DASHBOARD["id"] is None
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = [panel["datasource"] for panel in panels if panel["type"] != "row"]
    assert all(source["uid"] == "${DS_HALLWATCH}" for source in sources)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_its_variables_find_the_halls_and_windows(charted) -> None:
    halls, windows = (
        charted.rows(filled(one["query"]))
        for one in DASHBOARD["templating"]["list"]
        if one["type"] == "query"
    )

    assert ["hall", "dash"] in halls
    assert windows == [["window", "w01"], ["window", "w02"]]


def test_the_manual_has_every_measurement_with_its_tags_and_fields() -> None:
    manual = (DOCS / "influx.md").read_text("utf-8").partition("## Cardinality")[0]
    described = {
        name: (set(re.findall(r"`(\w+)`", tags)), set(re.findall(r"`(\w+)`", fields)))
        for name, tags, fields in re.findall(
            r"^\| `(hallwatch_\w+)` \|([^|]*)\|([^|]*)\|", manual, re.MULTILINE
        )
    }
    told = [
        *ALL_KINDS,
        alert(1, "window", "w01", row={"ends_at": "2025-03-03T12:00:00+08:00"}),
        alert(1, "area", "a"),
        reading(1, window="w01", level=3),
    ]
    written: dict[str, tuple[set[str], set[str]]] = {}
    for one in told:
        name, numbers, _ = line(one).split(" ")
        name, *tags = name.split(",")
        kept = written.setdefault(name, (set(), set()))
        kept[0].update(tag.partition("=")[0] for tag in tags if not tag.startswith("hall="))
        kept[1].update(field.partition("=")[0] for field in numbers.split(","))
    described.pop("hallwatch_daemon")

    assert described == written
