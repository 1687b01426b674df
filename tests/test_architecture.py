"""Who may import whom.  Change the tables in a commit of its own, with the reason."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("daemon", "api", "config", "drivers", "rules")
"""Each package imports those to its right, and itself."""

PACKAGES = {
    "rules": {"msgspec"},
    "drivers": {
        "cv2", "httpx", "msgspec", "numpy", "paho", "pymodbus", "serial", "uvicorn", "websockets",
    },
    "config": {"chinese_calendar", "msgspec", "openpyxl", "pydantic", "pydantic_core"},
    "api": {"fastapi", "msgspec", "pydantic", "pydantic_core", "starlette"},
    "daemon": {
        "amqtt", "fastapi", "influxdb_client", "msgspec", "paho", "rich", "structlog", "typer",
        "urllib3", "uvicorn",
    },
}  # fmt: skip
"""What each package may import from elsewhere, beside the standard library."""

PURE = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "functools", "hashlib",
    "itertools", "operator", "statistics", "typing", "unicodedata", "zoneinfo",
}  # fmt: skip
"""What rules may import of the standard library: no clock, no I/O, no logging, no random."""

SHARED = {
    "rules": {
        "attendance", "counter", "engine", "findings", "losses", "model", "paths", "post", "trust",
        "video", "workdays",
    },
    "drivers": {
        "aim", "base", "capture", "counter_json", "detector", "emulators", "frames",
        "http_listener", "isapi", "modbus", "picture", "post_view", "rtsp_probe", "serial_line",
        "snapshot", "text", "video_lines", "video_worker",
    },
}  # fmt: skip
"""Modules that are no rule and no driver; rules and drivers may import them, never each other."""

CLOCKS = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today")
MAY_READ_THE_TIME = {"daemon/clock.py", "daemon/emulate.py", "drivers/emulators/clock.py"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: Path) -> Iterator[tuple[str, int]]:
    """Each module that a file imports, wherever in it, with the line."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: imports are absolute"
            assert node.module is not None
            inside = node.module in ORDER
            for name in node.names:
                yield f"{node.module}.{name.name}" if inside else node.module, node.lineno


def wrong(package: str, module: str) -> bool:
    top = module.partition(".")[0]
    if top in ORDER:
        return ORDER.index(top) < ORDER.index(package)
    if package == "rules" and top in sys.stdlib_module_names:
        return top not in PURE
    return top not in sys.stdlib_module_names and top not in PACKAGES[package]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_downwards_only(package: str) -> None:
    found = [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in sources(package)
        for module, line in imported(source)
        if wrong(package, module)
    ]

    assert found == []


@pytest.mark.parametrize("package", SHARED)
def test_two_rules_or_two_drivers_never_import_each_other(package: str) -> None:
    found = []
    for source in (ROOT / package).glob("*.py"):
        for module, line in imported(source):
            names = module.split(".")
            if names[0] != package or len(names) < 2 or names[1] in SHARED[package]:
                continue
            if names[1] != source.stem:
                found.append(f"{source.relative_to(ROOT)}:{line} imports {module}")

    assert found == []


def test_drivers_know_no_emulator() -> None:
    found = [
        f"{source.name}:{line}"
        for source in (ROOT / "drivers").glob("*.py")
        for module, line in imported(source)
        if module.startswith("drivers.emulators")
    ]

    assert found == []


@pytest.mark.parametrize("package", ORDER)
def test_only_the_clock_reads_the_time(package: str) -> None:
    found = []
    for source in sources(package):
        path = source.relative_to(ROOT).as_posix()
        if path in MAY_READ_THE_TIME:
            continue
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(CLOCKS):
                found.append(f"{path}:{node.lineno}")

    assert found == []


def test_every_rule_and_driver_declares_what_is_asked_of_it() -> None:
    lacking = []
    for package, name, wanted in (
        ("rules", "RULE", ("CODES", "SCOPE")),
        ("drivers", "DRIVER", ("FAMILY", "decode")),
    ):
        for source in (ROOT / package).glob("*.py"):
            tree = ast.parse(source.read_text("utf-8"))
            named = {ast.unparse(n.targets[0]) for n in tree.body if isinstance(n, ast.Assign)}
            named |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            if name in named:
                lacking += [f"{source.name}: {word}" for word in wanted if word not in named]
                assert ast.get_docstring(tree), f"{source.name} needs a docstring"
            elif source.stem != "__init__":
                assert source.stem in SHARED[package], f"{source.name} has no {name}"

    assert lacking == []
