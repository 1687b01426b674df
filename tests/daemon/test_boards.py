"""What boards show, from rows to texts, by a clock that the test holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import BoardSettings, BoardTexts
from daemon.boards import (
    COMPACT,
    LIVE,
    PACE,
    STAY,
    AtWindow,
    Call,
    Content,
    Counter,
    Places,
    Screen,
    area_topics,
    board_line,
    compact,
    instant,
    of_today,
    plain_ticket,
    printable,
    public_ticket,
)

TODAY = "2026-03-02"


def at(window: str, ticket: str = "", number: int | None = None, **more: Any) -> AtWindow:
    values = {"state": "calling" if ticket else "idle"} | more
    return AtWindow(window, TODAY, f"{window}号窗口", ticket=ticket, call_seq=number, **values)


def screen(*windows: str, **more: Any) -> Screen:
    return Screen(BoardSettings(id="main", windows=windows, **more))


def lines(board: Screen, now: int, *windows: AtWindow) -> tuple[str, ...] | None:
    content = board.show({one.window: one for one in windows}, {}, now)
    return None if content is None else content.lines


# -- texts


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("gbk", "C7 EB 41 30 33 37 BA C5 B5 BD 30 35 BA C5 B4 B0 BF DA"),
        (
            "utf-8",
            "E8 AF B7 41 30 33 37 E5 8F B7 E5 88 B0 30 35 E5 8F B7 E7 AA 97 E5 8F A3",
        ),
    ],
)
def test_a_line_has_the_bytes_of_the_manuals(encoding: str, expected: str) -> None:
    assert board_line("请A037号到05号窗口", encoding, 64) == (bytes.fromhex(expected), 0, 0)


@pytest.mark.parametrize("room", range(8, 20))
def test_a_line_is_cut_between_two_characters(room: int) -> None:
    told = board_line("请A037号到05号窗口", "gbk", room)

    assert len(told.data) <= room
    assert "请A037号到05号窗口".startswith(told.data.decode("gbk"))
    assert len(told.data.decode("gbk")) + told.cut == len("请A037号到05号窗口")


def test_what_a_board_s_characters_cannot_say_becomes_a_question_mark_and_is_counted() -> None:
    assert board_line("欢迎𠮷先生", "gbk", 64) == ("欢迎?先生".encode("gbk"), 1, 0)
    assert board_line("欢迎𠮷", "gb18030", 64) == ("欢迎𠮷".encode("gb18030"), 0, 0)
    assert board_line("A037😀?", "utf-8", 64) == (b"A037??", 1, 0)


def test_control_bytes_and_pictures_do_not_get_out() -> None:
    assert printable("A\x00\x1b0\u202e3\ud8007😀") == "A03?7?"


@given(st.text(), st.sampled_from(["utf-8", "gbk", "gb18030"]), st.integers(8, 256))
def test_any_text_gives_a_line_that_can_be_read(text: str, encoding: str, room: int) -> None:
    told = board_line(text, encoding, room)

    assert len(told.data) <= room
    assert (
        told.data.decode(encoding).isprintable()
        or "\u2028" in text
        or "\u2029" in text
        or (not text.isprintable())
    )
    assert told.replaced >= 0 <= told.cut


@pytest.mark.parametrize(
    ("state", "ticket", "shown"),
    [
        ("calling", "A037", "A037"),
        ("serving", "A037", "A037"),
        ("finished", "A037", "A037"),
        ("idle", "", "----"),
        ("unknown", "", "----"),
        ("paused", "", "STOP"),
        ("closed", "", "STOP"),
    ],
)
def test_a_simple_board_gets_the_ticket_alone(state: str, ticket: str, shown: str) -> None:
    assert plain_ticket(at("05", ticket, state=state)) == shown


def test_yesterday_says_nothing_about_now() -> None:
    assert of_today(at("05", "A037", 7), "2026-03-03") == AtWindow("05", "2026-03-03", "05号窗口")
    assert of_today(at("05", "A037", 7), TODAY).ticket == "A037"


def test_areas_become_parts_of_topics() -> None:
    assert area_topics(["A区", "B区", "A区", "", "一楼", "A厅", "Ｃ-1"]) == {
        "A区": "a", "B区": "b", "一楼": "area-3", "A厅": "area-4", "Ｃ-1": "c-1",
    }  # fmt: skip


# -- a board with a line for each window


def test_a_strip_shows_the_call_the_idle_text_and_the_pause() -> None:
    strip = screen("05")

    assert lines(strip, 0) == ("热情为您服务",)
    assert lines(strip, 1000, at("05", "A037", 1)) == ("请A037号到05号窗口",)
    assert lines(strip, 2000, at("05", "A037", 1, state="finished")) == ("请A037号到05号窗口",)
    assert lines(strip, 3000, at("05", state="paused")) == ("暂停服务",)
    assert lines(strip, 4000, at("05")) == ("热情为您服务",)


def test_each_window_keeps_its_line_where_there_are_enough() -> None:
    texts = BoardTexts(call="{ticket}→{name}", paused="{name}停")
    board = screen("06", "05", lines=3, texts=texts)

    assert lines(board, 0, at("05", "A037", 9), at("06", state="closed")) == (
        "06号窗口停", "A037→05号窗口", "热情为您服务",
    )  # fmt: skip


def test_the_same_content_is_not_told_twice_but_a_recall_is() -> None:
    strip = screen("05")
    assert lines(strip, 0, at("05", "A037", 1)) is not None

    assert lines(strip, 5000, at("05", "A037", 1)) is None
    assert strip.due is None
    assert lines(strip, 9000, at("05", "A037", 2)) == ("请A037号到05号窗口",)


def test_five_updates_a_second_at_most_and_the_newest_wins() -> None:
    strip = screen("05")
    told = []
    for now in range(0, 1000, 10):
        content = lines(strip, now, at("05", f"A{now:03}", now))
        if content:
            told.append((now, content[0]))
    while strip.due is not None:
        now = strip.due
        content = lines(strip, now, at("05", "A990", 990))
        if content:
            told.append((now, content[0]))

    assert [now for now, _ in told] == [0, 200, 400, 600, 800, 1000]
    assert told[-1][1] == "请A990号到05号窗口"


# -- a board with fewer lines than windows


def test_the_newest_calls_are_shown_the_newest_on_top() -> None:
    board = screen("01", "02", "03", lines=2)

    assert lines(board, 0, at("01", "A1", 1), at("02", "A2", 3), at("03", "A3", 2)) == (
        "请A2号到02号窗口", "请A3号到03号窗口",
    )  # fmt: skip


def test_a_called_ticket_stays_three_seconds_whatever_comes() -> None:
    names = [f"{n:02}" for n in range(1, 21)]
    board = screen(*names, lines=2)
    now, present = 0, [at(one) for one in names]
    lines(board, now, *present)
    shown: dict[int, list[int]] = {}
    called = {1000 + 100 * n: n for n in range(20)}
    for now in range(0, 40_000, 50):
        if now in called:
            n = called[now]
            present[n] = at(names[n], f"A{n}", n + 1)
        board.show({one.window: one for one in present}, {}, now)
        assert board.content is not None
        for call in board.content.calls:
            shown.setdefault(call.number, []).append(now)

    stays = {number: times[-1] - times[0] for number, times in shown.items()}
    assert len(shown) >= 4
    assert all(stay >= STAY - 50 for stay in stays.values()), stays
    assert [call.number for call in board.content.calls] == [20, 19]
    assert board.due is None


def test_a_ticket_that_is_done_at_once_still_stays_and_then_makes_room() -> None:
    board = screen("01", "02", lines=1)
    lines(board, 0, at("01"), at("02"))
    assert lines(board, 1000, at("01", "A1", 1), at("02")) == ("请A1号到01号窗口",)

    assert lines(board, 1500, at("01"), at("02")) is None
    assert board.due == 1000 + STAY
    assert lines(board, board.due, at("01"), at("02")) == ("热情为您服务",)


def test_a_newer_call_of_the_same_window_takes_its_line_at_once() -> None:
    board = screen("01", "02", lines=1)
    lines(board, 0, at("01"), at("02"))
    lines(board, 1000, at("01", "A1", 1), at("02"))

    assert lines(board, 1500, at("01", "A2", 2), at("02")) == ("请A2号到01号窗口",)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.sampled_from(["call", "end", "pause"]), st.integers(0, 900)
        ),
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_whatever_happens_a_board_comes_to_rest_on_the_newest_calls(
    steps: list[tuple[int, str, int]], room: int
) -> None:
    names = [f"{n:02}" for n in range(5)]
    board = screen(*names, lines=room)
    present, now, last = {one: at(one) for one in names}, 0, -PACE
    for number, (n, what, wait) in enumerate(steps, 1):
        now += wait
        present[names[n]] = {
            "call": at(names[n], f"A{number}", number),
            "end": at(names[n]),
            "pause": at(names[n], state="paused"),
        }[what]
        if board.show(present, {}, now) is not None:
            assert now - last >= PACE
            last = now
    for _ in range(40):
        if board.due is None:
            break
        now = max(now, board.due)
        board.show(present, {}, now)
    calls = sorted((one.call_seq for one in present.values() if one.ticket), reverse=True)
    board.show(present, {}, now + PACE)

    assert board.due is None
    assert board.content is not None
    assert [call.number for call in board.content.calls] == calls[:room]
    assert len(board.content.lines) == room


# -- compact


def content(calls: list[Call], areas: list[tuple[str, int | None]]) -> Content:
    return Content((), tuple(calls), tuple(areas), "", "", None)


def test_the_compact_state_is_that_of_the_manual() -> None:
    calls = [Call("A037", "05", 418), Call("B012", "02", 417), Call("A036", "01", 416)]
    told = compact(content(calls, [("A", 12), ("B", 3)]), {416, 418})

    assert told == (
        b'{"v":1,"n":418,"c":[["A037","05"],["B012","02"],["A036","01"]],"q":[["A",12],["B",3]]}'
    )
    assert len(told) == 86


@pytest.mark.parametrize(("live", "number"), [({417}, 417), ({400}, 0), (set(), 0)])
def test_the_compact_state_numbers_no_old_call(live: set[int], number: int) -> None:
    calls = [Call("A037", "05", 418), Call("B012", "02", 417)]

    told = json.loads(compact(content(calls, []), live))

    assert (told["n"], told["c"]) == (number, [["A037", "05"], ["B012", "02"]])


@given(
    st.lists(st.builds(Call, st.text(max_size=40), st.text(max_size=16), st.integers(0, 1 << 40))),
    st.lists(st.tuples(st.text(max_size=40), st.none() | st.integers(0, 999))),
)
def test_the_compact_state_never_grows_over_200_bytes(
    calls: list[Call], areas: list[tuple[str, int | None]]
) -> None:
    told = compact(content(calls, areas), {call.number for call in calls})

    assert len(told) <= COMPACT
    assert json.loads(told)["n"] == max((call.number for call in calls), default=0)


# -- rows


def test_a_row_of_another_window_or_an_older_date_changes_nothing() -> None:
    counter = Counter(Places(windows=("05",), areas=("A区",)))

    def row(**more: object) -> bytes:
        return json.dumps({"window": "05", "work_date": TODAY, "ticket": "A1"} | more).encode()

    counter.take_window(5, row())
    counter.take_window(9, row(work_date="2026-03-01", ticket="A9"))

    assert counter.take_window(10, row(window="06")) is None
    assert counter.take_window(4, row(ticket="A4")) is not None
    assert counter.window("05", TODAY)[1].ticket == "A1"
    with pytest.raises(ValueError, match="window"):
        counter.take_window(11, b'{"work_date":"2026-03-02"}')


def test_a_call_may_be_announced_for_a_minute_and_a_recall_for_another() -> None:
    counter = Counter(Places(windows=("05",)))
    called, recalled = f"{TODAY}T09:00:00+08:00", f"{TODAY}T09:05:00+08:00"
    row = {"window": "05", "work_date": TODAY, "ticket": "A1", "called_at": called}

    def take(seq: int, **more: object) -> None:
        counter.take_window(seq, json.dumps(row | more).encode())

    take(1, call_seq=418, event="called", event_at=called)
    assert counter.live(instant(called) + LIVE - 1) == {418}
    assert counter.live(instant(called) + LIVE) == set()
    take(2, call_seq=419, event="recalled", event_at=recalled, repeat=1)
    take(3, call_seq=419, waiting=7)
    take(4, call_seq=419, event="finished", event_at=f"{TODAY}T09:05:20+08:00")

    assert counter.live(instant(recalled) + LIVE - 1) == {419}
    assert counter.live(instant(recalled) + LIVE) == set()


def test_a_call_whose_moment_nobody_told_is_not_announced() -> None:
    counter = Counter(Places(windows=("05",)))

    counter.take_window(1, json.dumps({"window": "05", "work_date": TODAY, "call_seq": 4}).encode())

    assert counter.live(0) == set()


@pytest.mark.parametrize(
    ("ticket", "shown"),
    [
        ("A037", "A037"),
        ("2026001", "2026001"),
        ("13812345678", "*5678"),
        ("A13812345678", "*5678"),
        ("11010519900307123X", "*123X"),
        ("", ""),
    ],
)
def test_a_telephone_number_for_a_ticket_is_on_no_board(ticket: str, shown: str) -> None:
    counter = Counter(Places(windows=("05",)))
    row = {"window": "05", "work_date": TODAY, "ticket": ticket, "state": "calling"}
    told = counter.take_window(1, json.dumps(row).encode())

    assert public_ticket(ticket) == shown
    assert told is not None
    assert told.ticket == counter.window("05", TODAY)[1].ticket == shown
