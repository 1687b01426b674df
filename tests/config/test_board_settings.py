"""``[[boards]]`` in the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import Hall, load
from config.source import SettingsError

HALL = """
[hall]
id = "h"
name = "大厅"
[[windows]]
id = "05"
name = "5号窗口"
[[windows]]
id = "06"
name = "六号综合业务窗口"
[[devices]]
id = "led"
driver = "led_board"
profile = "strip-aa"
port = "/dev/ttyS9"
[[devices]]
id = "gate"
driver = "zkteco"
host = "192.0.2.9"
"""


def read(folder: Path, text: str) -> Hall:
    (folder / "hallwatch.toml").write_text(HALL + text, "utf-8")
    return load(folder / "hallwatch.toml")


def test_a_board_shows_all_windows_unless_it_names_some(tmp_path: Path) -> None:
    hall = read(
        tmp_path,
        '[[boards]]\nid = "main"\n[[boards]]\nid = "two"\nwindows = ["06"]\ndevice = "led"\n'
        'encoding = "gbk"\nmax_bytes = 20\nlines = 2\n',
    )

    main, two = hall.boards
    assert (main.windows, main.lines, main.encoding, main.max_bytes) == (
        ("05", "06"), 1, "utf-8", 64,
    )  # fmt: skip
    assert main.texts.call == "请{ticket}号到{window}号窗口"
    assert (two.windows, two.device) == (("06",), "led")


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        ('windows = ["07"]', "boards[1].windows[1]", 'unknown window "07"'),
        ('device = "led-2"', "boards[1].device", 'unknown device "led-2"'),
        ('device = "gate"', "boards[1].device", "expected a led_board"),
        ('texts = { call = "{tiket}" }', "boards[1].texts.call", "cannot have {tiket}"),
        ('texts = { call = "{ticket!r}" }', "boards[1].texts.call", "cannot have {ticket}"),
        ('texts = { call = "{}" }', "boards[1].texts.call", "cannot have {}"),
        ('texts = { call = "{window.id}" }', "boards[1].texts.call", "cannot have {window.id}"),
        ('texts = { idle = "{ticket}" }', "boards[1].texts.idle", "there are: {window}, {name}"),
        ('texts = { paused = "停 {" }', "boards[1].texts.paused", "braces in pairs"),
        ("max_bytes = 23", "boards[1].texts.call", "is 24 bytes in utf-8, more than max_bytes"),
        (
            'encoding = "gbk"\nmax_bytes = 18\ntexts = { call = "请{ticket}到{name}" }',
            "boards[1].texts.call",
            '"请A037到六号综合业务窗口" is 24 bytes in gbk',
        ),
        ('encoding = "big5"', "boards[1].encoding", "expected one of"),
        ("lines = 17", "boards[1].lines", "at most 16"),
        ('windows = ["05", "05"]', "boards[1].windows", "only once"),
        ('text = "x"', "boards[1].text", "did you mean texts?"),
    ],
)
def test_a_board_that_cannot_be_is_refused(
    tmp_path: Path, text: str, where: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, f'[[boards]]\nid = "main"\n{text}\n')

    (problem,) = caught.value.problems
    assert problem.at == where
    assert told in problem.en
    assert problem.zh


def test_two_boards_are_not_one_and_have_a_device_each(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, '[[boards]]\nid = "m"\ndevice = "led"\n' * 2)

    assert [problem.at for problem in caught.value.problems] == [
        "boards[2].id", "boards[2].device",
    ]  # fmt: skip
