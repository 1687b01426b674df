"""Windows, queues, boards and ratings on a real broker, read as boards read them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

import daemon.sinks.mqtt as mqtt_module
from config.settings import BoardSettings, BoardTexts
from daemon.boards import Places
from daemon.outbox import Change, Delivered
from daemon.sinks.mqtt import MqttSettings, MqttSink

SHANGHAI = ZoneInfo("Asia/Shanghai")
TODAY = "2026-03-02"
CALLED = "2026-03-02T09:14:05+08:00"
NOW = int(datetime.fromisoformat(CALLED).timestamp() * 1000) + 120

MAIN = BoardSettings(
    id="main", windows=("05", "06"), lines=2, encoding="gbk",
    texts=BoardTexts(call="请{ticket}号到{window}号窗口", idle="欢迎"),
)  # fmt: skip
PLACES = Places(windows=("05", "06"), areas=("A区",), boards=(MAIN,))


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


def change(seq: int, kind: str, key: str, row: dict[str, Any], op: str = "amended") -> Change:
    return Change(seq, kind, op, key, NOW, "", json.dumps(row, ensure_ascii=False).encode())


def window(seq: int, ticket: str = "A037", name: str = "05", **more: Any) -> Change:
    """A row as the API shows it, of invented people."""
    row: dict[str, Any] = {
        "window": name,
        "name": f"{name}号窗口",
        "area": "A区",
        "work_date": TODAY,
        "state": "calling" if ticket else "idle",
        "state_zh": "叫号中",
        "since": CALLED,
        "ticket": ticket,
        "queue": "A",
        "person_code": "P1001",
        "called_at": CALLED if ticket else None,
        "repeat": 0,
        "call_seq": 400 + seq,
        "waiting": 12,
        "event": "called" if ticket else "",
        "event_at": CALLED,
        "updated_at": CALLED,
    } | more
    return change(seq, "window", f"{name}/{row['work_date']}", row)


def area(seq: int, waiting: int | None = 12) -> Change:
    row = {"area": "A区", "work_date": TODAY, "waiting": waiting, "open_windows": 2}
    return change(seq, "area", f"A区/{TODAY}", row | {"updated_at": CALLED})


def rating(seq: int, op: str = "opened") -> Change:
    row = {
        "rating_id": "pad-05:418:1", "window": "05", "level": 1, "scale_id": "five",
        "channel": "pad", "pressed_at": CALLED, "person_code": "P1001", "ticket": "A037",
        "problem": "态度不好", "named": True, "follow_up": {"handler": "王值班"},
    }  # fmt: skip
    return change(seq, "rating", "pad-05:418:1", row, op)


@dataclass(frozen=True)
class Heard:
    topic: str
    retained: bool
    qos: int
    payload: bytes


class Reader:
    """``mosquitto_sub`` on topics; ``version`` is the protocol's."""

    def __init__(self, port: int, *topics: str, version: str = "mqttv5") -> None:
        self.heard: list[Heard] = []
        self._ready = threading.Event()
        wanted = [part for topic in topics or ("#",) for part in ("-t", topic)]
        self._process = subprocess.Popen(
            [
                *("stdbuf", "-oL", "mosquitto_sub", "-p", str(port), "-q", "1", "-d"),
                *("-V", version, *wanted, "-F", "=>%r %q %t %x"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("Subscribed"):
                self._ready.set()
            if line.startswith("=>"):
                retained, qos, topic, *payload = line[2:].split()
                told = bytes.fromhex("".join(payload))
                self.heard.append(Heard(topic, retained == "1", int(qos), told))

    def on(self, topic: str) -> list[bytes]:
        return [heard.payload for heard in list(self.heard) if heard.topic == topic]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Board:
    """A smart board that keeps to the rules of docs/mqtt.md: it shows what was retained in silence,
    and announces an event, or a state that comes as it happens with a higher number than before."""

    def __init__(self, port: int, version: MQTTProtocolVersion) -> None:
        self.ready = threading.Event()
        self.announced: list[int] = []
        self.ticket = ""
        self.calls: list[list[str]] = []
        self.told = 0
        """States that came as they happened."""
        self._last = 0
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.reconnect_delay_set(0, 0)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [("hall/h1/win/05/+", 1), ("hall/h1/board/main/state", 1)]
        )
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_disconnect = lambda *_: self.ready.clear()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self.ready.wait(10)

    def _hear(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        if not message.payload:
            return
        told = json.loads(message.payload)
        number = told.get("n") if "n" in told else told.get("call_seq")
        called = not message.topic.endswith("/event") or told["type"] in ("called", "recalled")
        if number is not None and number > self._last:
            self._last = number
            if called and not message.retain:
                self.announced.append(number)
        if message.topic.endswith("/win/05/state"):
            self.ticket = told.get("ticket", "")
        elif message.topic.endswith("/board/main/state"):
            self.calls = told["c"]
        if message.topic.endswith("/state") and not message.retain:
            self.told += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Hall:
    def __init__(self, places: Places, states: list[Change], **settings: Any) -> None:
        self.states: Iterable[Change] = states
        self.now = NOW
        values: dict[str, Any] = {"hall": "h1", "host": "127.0.0.1", "retry_min": 0.05} | settings
        self.sink = MqttSink(
            MqttSettings(**values), zone=SHANGHAI, source="db7", version="1.0",
            snapshot=lambda: self.states, now=lambda: self.now, ready=lambda: None, places=places,
        )  # fmt: skip
        self.sink.start()

    def wait(self) -> None:
        until(lambda: self.sink.health().link == "ready")

    def deliver(self, *changes: Change) -> Delivered:
        return self.sink.deliver(changes)


@pytest.fixture
def open_hall() -> Iterator[Callable[..., Hall]]:
    halls: list[Hall] = []

    def start(*states: Change, places: Places = PLACES, **settings: Any) -> Hall:
        halls.append(Hall(places, list(states), **settings))
        halls[-1].wait()
        return halls[-1]

    yield start
    for hall in halls:
        hall.sink.close()


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(port: int, *topics: str, **more: str) -> Reader:
        readers.append(Reader(port, *topics, **more))
        return readers[-1]

    yield start
    for reader in readers:
        reader.close()


@pytest.fixture
def switch_on() -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def start(port: int, version: MQTTProtocolVersion) -> Board:
        boards.append(Board(port, version))
        return boards[-1]

    yield start
    for board in boards:
        board.close()


def end(port: int) -> None:
    subprocess.run(
        ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", "end", "-m", "x"], check=True
    )


def retained(port: int) -> dict[str, bytes]:
    reader = Reader(port)
    end(port)
    until(lambda: reader.on("end"))
    reader.close()
    return {heard.topic: heard.payload for heard in reader.heard if heard.retained}


GBK = bytes.fromhex("C7 EB 41 30 33 37 BA C5 B5 BD 30 35 BA C5 B4 B0 BF DA")


def test_a_call_is_on_every_topic_a_board_may_read(mosquitto, open_hall, read) -> None:
    hall = open_hall(port=mosquitto.port)
    reader = read(mosquitto.port)

    assert hall.deliver(area(1), window(2), rating(3)) == Delivered(3)
    until(lambda: reader.on("hall/h1/rating/event") and reader.on("hallt/h1/b/main/1")[1:])

    def told(topic: str) -> Any:
        return json.loads(reader.on(topic)[-1])

    assert told("hall/h1/win/05/state") == {
        "v": 1, "ts": CALLED, "window": "05", "state": "calling", "ticket": "A037", "queue": "A",
        "called_at": CALLED, "repeat": 0, "call_seq": 402, "waiting": 12, "stale": False,
    }  # fmt: skip
    assert told("hall/h1/win/05/event") == {
        "v": 1, "id": "db7-2", "ts": CALLED, "seq": 2, "type": "called", "window": "05",
        "ticket": "A037", "call_seq": 402,
    }  # fmt: skip
    assert told("hall/h1/queue/a/state") == {
        "v": 1, "ts": CALLED, "queue": "a", "area": "A区", "waiting": 12, "open_windows": 2,
        "last_ticket": "A037",
    }  # fmt: skip
    assert told("hall/h1/rating/event") == {
        "v": 1, "id": "pad-05:418:1", "ts": CALLED, "seq": 3, "window": "05", "level": 1,
        "channel": "pad", "scale_id": "five",
    }  # fmt: skip
    assert reader.on("hall/h1/board/main/state")[-1] == (
        '{"v":1,"n":402,"c":[["A037","05"]],"q":[["A区",12]]}'.encode()
    )
    assert reader.on("hallt/h1/w/05") == [b"A037"]
    assert reader.on("hallt/h1/b/main/1")[-1] == GBK
    assert reader.on("hallt/h1/b/main/2") == ["欢迎".encode("gbk")]
    assert reader.on("hallt/h1/flash/05") == [b"1"]
    qos = {heard.topic: heard.qos for heard in reader.heard}
    assert {topic for topic, level in qos.items() if level == 0} == {"hallt/h1/flash/05"}
    everything = b"".join(heard.payload for heard in reader.heard)
    assert not re.search("P1001|态度|王值班".encode(), everything)


def test_a_board_that_is_switched_on_late_shows_the_number_and_announces_nothing(
    mosquitto, open_hall, read
) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.deliver(window(2))
    until(lambda: "hallt/h1/b/main/1" in retained(mosquitto.port))

    board = read(
        mosquitto.port, "hall/h1/win/05/+", "hallt/h1/w/05", "hallt/h1/flash/05", version="mqttv311"
    )
    until(lambda: len(board.heard) >= 2)
    end(mosquitto.port)

    assert {(heard.topic, heard.retained) for heard in board.heard} == {
        ("hall/h1/win/05/state", True), ("hallt/h1/w/05", True),
    }  # fmt: skip
    assert board.on("hallt/h1/w/05") == [b"A037"]
    hall.deliver(window(3, "A038"))
    until(lambda: board.on("hallt/h1/flash/05") and board.on("hall/h1/win/05/event"))
    assert not any(heard.retained for heard in board.heard if heard.payload in (b"A038", b"1"))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_after_a_broker_restart_the_last_state_is_there_again(
    mosquitto, open_hall, protocol: str
) -> None:
    hall = open_hall(port=mosquitto.port, protocol=protocol)
    hall.deliver(window(2))
    hall.states = [window(2), area(1)]
    mosquitto.kill()
    until(lambda: hall.sink.health().link != "ready")
    mosquitto.start()
    hall.wait()

    until(lambda: retained(mosquitto.port).get("hallt/h1/b/main/1") == GBK)
    told = retained(mosquitto.port)

    assert told["hallt/h1/w/05"] == b"A037"
    assert json.loads(told["hall/h1/queue/a/state"])["last_ticket"] == "A037"
    assert json.loads(told["hall/h1/board/main/state"])["n"] == 402
    assert not any(topic.endswith("/event") for topic in told)


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_a_board_announces_no_call_that_was_made_while_the_broker_was_away(
    mosquitto, open_hall, switch_on, version: MQTTProtocolVersion
) -> None:
    hall = open_hall(port=mosquitto.port)
    board = switch_on(mosquitto.port, version)
    hall.deliver(window(2))
    until(lambda: board.announced)
    mosquitto.kill()
    until(lambda: hall.sink.health().link != "ready" and not board.ready.is_set())
    missed = [window(3, "A038"), window(4, "B007", "06")]

    def when_the_board_is_back() -> Iterator[Change]:
        until(board.ready.is_set)
        yield from missed

    hall.states = when_the_board_is_back()
    hall.now = NOW + 120_000
    before = board.told
    mosquitto.start()
    hall.wait()
    assert hall.deliver(*missed) == Delivered(4)
    until(lambda: board.ticket == "A038" and board.calls == [["B007", "06"], ["A038", "05"]])

    assert board.told > before
    assert board.announced == [402]
    late = switch_on(mosquitto.port, version)
    until(lambda: late.ticket == "A038" and late.calls == board.calls)
    called = "2026-03-02T09:16:05+08:00"
    hall.deliver(window(5, "A039", called_at=called, event_at=called))
    until(lambda: board.ticket == late.ticket == "A039")
    until(lambda: board.calls[0] == late.calls[0] == ["A039", "05"])
    assert (board.announced, late.announced) == ([402, 405], [405])


def test_what_was_called_just_before_the_broker_is_back_is_announced(
    mosquitto, open_hall, switch_on
) -> None:
    hall = open_hall(port=mosquitto.port)
    board = switch_on(mosquitto.port, MQTTProtocolVersion.MQTTv311)
    hall.deliver(window(2))
    until(lambda: board.announced)
    mosquitto.kill()
    until(lambda: hall.sink.health().link != "ready" and not board.ready.is_set())

    mosquitto.start()
    assert board.ready.wait(10)
    hall.wait()
    hall.now = NOW + 59_000
    hall.deliver(window(3, "A038"))
    until(lambda: board.announced == [402, 403])


def test_a_state_that_is_sent_again_later_has_no_number_any_more(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)
    hall.deliver(window(2))
    hall.now = NOW + 60_000
    hall.deliver(window(3, call_seq=402, event="", waiting=9))

    until(lambda: b'"waiting":9' in retained(mosquitto.port)["hall/h1/win/05/state"])
    told = json.loads(retained(mosquitto.port)["hall/h1/win/05/state"])

    assert (told["ticket"], "call_seq" in told) == ("A037", False)


def test_what_piled_up_collapses_to_the_newest_state_and_old_calls_are_not_told(
    mosquitto, open_hall, read
) -> None:
    hall = open_hall(port=mosquitto.port)
    reader = read(mosquitto.port)
    hall.now = NOW + 60_000
    old = [window(n, f"A{n:03}", f"{5 + n % 2:02}", since=CALLED) for n in range(1, 401)]

    assert hall.deliver(*old) == Delivered(400)
    until(lambda: reader.on("hallt/h1/b/main/2")[1:])

    assert reader.on("hallt/h1/w/05") == [b"A400"]
    assert reader.on("hallt/h1/w/06") == [b"A399"]
    assert len(reader.on("hall/h1/win/05/state")) == 1
    topics = {heard.topic for heard in reader.heard}
    assert not any(topic.endswith("/event") or "/flash/" in topic for topic in topics)


def test_a_repeated_delivery_has_the_same_id(mosquitto, open_hall, read) -> None:
    hall = open_hall(port=mosquitto.port)
    reader = read(mosquitto.port, "hall/h1/win/+/+")

    hall.deliver(window(2))
    hall.deliver(window(2))
    until(lambda: len(reader.on("hall/h1/win/05/event")) == 2)

    first, second = reader.on("hall/h1/win/05/event")
    assert first == second
    assert len(reader.on("hall/h1/win/05/state")) == 1


def test_late_news_of_yesterday_does_not_replace_today(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)

    hall.deliver(window(2), window(3, "Z999", work_date="2026-03-01"))
    hall.deliver(window(4, "Z998", work_date="2026-03-01", event=""))

    until(lambda: "hallt/h1/w/05" in retained(mosquitto.port))
    assert retained(mosquitto.port)["hallt/h1/w/05"] == b"A037"


def test_after_midnight_yesterday_s_number_is_gone(mosquitto, open_hall) -> None:
    open_hall(window(2, work_date="2026-03-01"), port=mosquitto.port)

    told = retained(mosquitto.port)

    assert told["hallt/h1/w/05"] == b"----"
    state = json.loads(told["hall/h1/win/05/state"])
    assert (state["state"], state["stale"], "ticket" in state) == ("unknown", True, False)
    assert told["hallt/h1/b/main/1"] == "欢迎".encode("gbk")


def test_windows_and_boards_that_left_the_settings_are_cleared_under_both_roots(
    mosquitto, open_hall, monkeypatch
) -> None:
    monkeypatch.setattr(mqtt_module, "SWEEP", 0.3)
    open_hall(window(2), area(3), port=mosquitto.port).sink.close()
    assert {"hallt/h1/w/05", "hallt/h1/b/main/2"} <= retained(mosquitto.port).keys()

    places = Places(windows=("06",), areas=())
    open_hall(window(2), area(3), window(4, name="06"), places=places, port=mosquitto.port)

    until(lambda: "hallt/h1/w/05" not in retained(mosquitto.port))
    until(lambda: "hallt/h1/b/main/2" not in retained(mosquitto.port))
    assert retained(mosquitto.port).keys() == {
        "hall/h1/bridge/state", "hall/h1/win/06/state", "hallt/h1/w/06",
    }  # fmt: skip


def test_a_board_is_told_five_times_a_second_at_most_and_the_newest_in_the_end(
    mosquitto, open_hall, read
) -> None:
    hall = open_hall(port=mosquitto.port)
    reader = read(mosquitto.port, "hall/h1/board/main/state")
    until(lambda: reader.heard)
    began = time.monotonic()
    for n in range(1, 61):
        hall.deliver(window(n, f"A{n:03}"))
    until(lambda: b'"A060"' in reader.on("hall/h1/board/main/state")[-1])
    lasted = time.monotonic() - began

    assert len(reader.heard) - 1 <= 2 + lasted / 0.2


def test_only_the_first_word_of_a_rating_is_told(mosquitto, open_hall, read) -> None:
    hall = open_hall(port=mosquitto.port)
    reader = read(mosquitto.port)

    hall.deliver(rating(1), rating(2, "amended"), rating(3, "withdrawn"), rating(4))
    until(lambda: len(reader.on("hall/h1/rating/event")) == 2)

    ids = [json.loads(told)["id"] for told in reader.on("hall/h1/rating/event")]
    assert ids == ["pad-05:418:1"] * 2


def test_a_row_that_cannot_be_read_is_rejected_and_the_others_go_on(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)

    told = hall.deliver(change(1, "window", "05/x", {"window": 5}), window(2))

    assert told.accepted == 2
    assert [seq for seq, _ in told.rejected] == [1]


def test_a_board_is_shown_again_on_demand(mosquitto, open_hall, read) -> None:
    hall = open_hall(window(2), port=mosquitto.port)
    reader = read(mosquitto.port, "hall/h1/ack/main", "hallt/h1/b/main/1")
    until(lambda: reader.heard)
    told = '{"id":"c-1","op":"refresh","expires":"2026-03-02T09:20:00+08:00"}'
    command = ["mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-t", "hall/h1/cmd/main"]
    subprocess.run([*command, "-m", told], check=True)

    until(lambda: reader.on("hall/h1/ack/main") and len(reader.on("hallt/h1/b/main/1")) == 2)

    assert json.loads(reader.on("hall/h1/ack/main")[0])["ok"] is True
    assert reader.heard[-1].retained is False
    assert hall.sink.health().replaced == 0


def test_characters_a_board_cannot_show_are_counted(mosquitto, open_hall) -> None:
    hall = open_hall(port=mosquitto.port)

    hall.deliver(window(2, "急😀1"))

    until(lambda: hall.sink.health().replaced == 1)
    told = "请急?1号".encode("gbk")
    until(lambda: retained(mosquitto.port)["hallt/h1/b/main/1"].startswith(told))
