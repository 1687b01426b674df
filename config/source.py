"""The settings' files: read, merged, and where in them each value stands.

One TOML file and the ``conf.d/*.toml`` beside it, in order of name, make one document.  Tables
merge, arrays of tables append, and anything else that is given twice is an error that names both
places.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

KeyPath = tuple[str | int, ...]
"""Where a value is in the document: names of keys, and indexes from 0 in arrays."""


class Place(NamedTuple):
    """``line`` and ``column`` count from 1; 0 where unknown."""

    file: Path
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        numbers = [str(number) for number in (self.line, self.column) if number]
        return ":".join([str(self.file), *numbers])


class Problem(NamedTuple):
    """One thing wrong in the settings: ``zh`` and ``en`` say what was found and what was expected.

    ``at`` is a value's name such as ``devices[3].host`` (the third device; arrays count from 1) and
    ``label`` the id of the thing it belongs to.  Both are empty for a file as a whole.
    """

    place: Place
    at: str
    label: str
    zh: str
    en: str

    def __str__(self) -> str:
        label = f"（{self.label}）" if self.label else ""
        at = f" {self.at}{label}" if self.at else ""
        return f"{self.place}:{at} {self.zh} / {self.en}"


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` are all that was found wrong, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        super().__init__("\n".join(map(str, self.problems)))


class Document:
    """The merged files: ``data`` as one dictionary, ``folder`` of the main file."""

    def __init__(self, main: Path) -> None:
        self.main = main
        self.folder = main.absolute().parent
        self.data: dict[str, Any] = {}
        self._places: dict[KeyPath, Place] = {}

    def place(self, path: KeyPath) -> Place:
        """Where the value stands, or the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if place := self._places.get(path[:length]):
                return place
        return Place(self.main)

    def merge(self, file: Path, data: dict[str, Any], lines: dict[KeyPath, int]) -> list[Problem]:
        """Add one file; what is given twice is reported and the first one kept."""
        problems: list[Problem] = []

        def note(value: Any, theirs: KeyPath, ours: KeyPath) -> None:
            if line := lines.get(theirs):
                self._places.setdefault(ours, Place(file, line))
            for key, inner in _children(value):
                note(inner, (*theirs, key), (*ours, key))

        def add(into: dict[str, Any], more: dict[str, Any], path: KeyPath) -> None:
            for key, value in more.items():
                here = (*path, key)
                present = into.get(key)
                if key not in into:
                    into[key] = value
                    note(value, here, here)
                elif isinstance(present, dict) and isinstance(value, dict):
                    add(present, value, here)
                elif _is_tables(present) and _is_tables(value):
                    tables: list[Any] = into[key]
                    for index, item in enumerate(value):
                        note(item, (*here, index), (*here, len(tables)))
                        tables.append(item)
                else:
                    first = self.place(here)
                    problems.append(
                        Problem(
                            Place(file, lines.get(here, 0)),
                            spell(here),
                            "",
                            f"重复设置：{first} 已经设置过，请只保留一处。",
                            f"given twice: it stands at {first} already; keep one of the two.",
                        )
                    )

        add(self.data, data, ())
        return problems


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def spell(path: KeyPath) -> str:
    """``devices[3].host``: as technicians count, from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """The settings' file with its ``conf.d``; ``SettingsError`` with every file that cannot be read
    or is not TOML, and every value given twice."""
    problems: list[Problem] = []
    document = Document(path)
    files = [path, *sorted((document.folder / "conf.d").glob("*.toml"))]
    for file in files:
        try:
            text = _text(file)
            data = tomllib.loads(text)
            lines = value_lines(text)
        except _Unreadable as error:
            problems.append(Problem(error.place, "", "", error.zh, error.en))
        except RecursionError:
            problems.append(
                Problem(
                    Place(file), "", "", "嵌套太深，无法读取。", "nested too deeply to be read."
                )
            )
        except ValueError as error:
            problems.append(_syntax(file, str(error)))
        else:
            problems += document.merge(file, data, lines)
    if problems:
        raise SettingsError(problems)
    return document


class _Unreadable(Exception):
    def __init__(self, place: Place, zh: str, en: str) -> None:
        super().__init__(en)
        self.place, self.zh, self.en = place, zh, en


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise _Unreadable(
            Place(file), f"无法读取文件：{reason}。", f"cannot be read: {reason}."
        ) from None
    try:
        # Notepad begins its UTF-8 files with a byte order mark.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _Unreadable(
            Place(file, line),
            "不是 UTF-8 编码（可能是 GB18030/ANSI），请另存为 UTF-8。",
            "is not UTF-8 (GB18030 or ANSI perhaps): save it as UTF-8.",
        ) from None


def _syntax(file: Path, message: str) -> Problem:
    """``message`` is the parser's, which ends in ``(at line 3, column 5)``."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    place = Place(file)
    if found:
        message = message[: found.start()]
        if found[1]:
            place = Place(file, int(found[1]), int(found[2]))
        else:
            message += " (at the end of the file)"
    return Problem(place, "", "", f"TOML 语法错误：{message}。", f"not TOML: {message}.")


# --------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+|\#[^\n]*)
  | (?P<newline>\n)
  | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
  | (?P<mark>[\[\]{}=,.])
  | (?P<bare>[^\s\[\]{}=,.\#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        if kind != "space":
            yield _Token(kind, found[0], line)
        line += found[0].count("\n")


class _Lines:
    """Walks over a text that the TOML parser has accepted, and keeps the line of each value."""

    def __init__(self, text: str) -> None:
        self.tokens = [*_tokens(text), _Token("end", "", 0)]
        self.at = 0
        self.lines: dict[KeyPath, int] = {}

    def walk(self) -> None:
        table: KeyPath = ()
        counts: dict[KeyPath, int] = {}
        while (token := self.tokens[self.at]).kind != "end":
            if token.kind == "newline":
                self.at += 1
            elif token.text == "[":
                self.at += 1
                many = self.tokens[self.at].text == "["
                self.at += many
                table = self._header(self._keys("]"), counts, many, token.line)
                self.at += 1 + many
            else:
                self._pair(table)

    def _header(
        self, keys: list[str], counts: dict[KeyPath, int], many: bool, line: int
    ) -> KeyPath:
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if depth == len(keys) and many:
                counts[path] = counts.get(path, 0) + 1
            if path in counts:
                path = (*path, counts[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def _keys(self, end: str) -> list[str]:
        keys: list[str] = []
        while (token := self.tokens[self.at]).text != end and token.kind != "end":
            if token.kind == "string":
                keys.append(tomllib.loads(f"x={token.text}")["x"])
            elif token.kind == "bare":
                keys.append(token.text)
            self.at += 1
        return keys

    def _pair(self, table: KeyPath) -> None:
        line = self.tokens[self.at].line
        path = table
        for key in self._keys("="):
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at += 1
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self.tokens[self.at]
        self.lines.setdefault(path, first.line)
        if first.text not in ("[", "{"):
            while (token := self.tokens[self.at]).kind not in (
                "newline",
                "end",
            ) and token.text not in (",", "]", "}"):
                self.at += 1
            return
        self.at += 1
        index = 0
        while (token := self.tokens[self.at]).kind != "end":
            if token.text in ("]", "}"):
                self.at += 1
                return
            if token.kind == "newline" or token.text == ",":
                self.at += 1
            elif first.text == "[":
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)


def value_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table and value of a TOML text."""
    walk = _Lines(text)
    walk.walk()
    return walk.lines
