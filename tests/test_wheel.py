"""What is installed is whole: run against the wheel alone, and in a development environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution, packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest

NAMES = ("api", "config", "daemon", "drivers", "rules")
INSTALLED: Distribution = distribution("hallwatch")
EDITABLE = (
    json.loads(INSTALLED.read_text("direct_url.json") or "{}")
    .get("dir_info", {})
    .get("editable", False)
)


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The console script of this environment, far from any source."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))
    }
    return subprocess.run(
        [Path(sys.executable).with_name("hallwatch"), *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_generic_names_are_ours_alone(name: str) -> None:
    owners = set(packages_distributions().get(name, ()))

    assert owners == (set() if EDITABLE else {"hallwatch"})


@pytest.mark.skipif(EDITABLE, reason="an editable installation runs from the sources")
@pytest.mark.parametrize("name", NAMES)
def test_the_packages_come_from_the_wheel(name: str) -> None:
    found = subprocess.run(
        [sys.executable, "-I", "-c", f"import {name}; print({name}.__file__)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert "site-packages" in Path(found.stdout.strip()).parts


def test_every_migration_is_there_and_the_first_makes_the_journal() -> None:
    schemas = sorted(entry.name for entry in (files("daemon") / "schema").iterdir())

    assert schemas == [f"{number:03}.sql" for number in range(1, len(schemas) + 1)]
    assert "CREATE TABLE reading" in (files("daemon") / "schema" / "001.sql").read_text("utf-8")


def test_the_calendar_is_there() -> None:
    table = tomllib.loads((files("config") / "workdays" / "2026.toml").read_text("utf-8"))

    assert table["year"] == 2026
    assert len(table["days"]) > 20


def test_the_documents_page_needs_nothing_from_elsewhere() -> None:
    page = (files("api") / "docs" / "index.html").read_text("utf-8")

    assert "openapi.json" in page
    assert "https://" not in page


def test_the_unit_file_is_there() -> None:
    told = [str(path) for path in INSTALLED.files or ()]

    assert EDITABLE or any(path.endswith("share/hallwatch/hallwatch.service") for path in told)


def test_the_command_says_what_it_can_do(tmp_path: Path) -> None:
    helped = run("--help", folder=tmp_path)

    assert helped.returncode == 0, helped.stderr
    assert "政务大厅" in helped.stdout
    assert {"run", "demo", "check", "replay"} <= set(helped.stdout.split())


def test_the_example_settings_are_good(tmp_path: Path) -> None:
    example = tmp_path / "hallwatch.toml"
    example.write_bytes((files("config") / "hallwatch.example.toml").read_bytes())
    checked = run("check", "-c", str(example), folder=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")
    assert "配置正确" in checked.stdout


def test_a_capture_is_decoded(tmp_path: Path) -> None:
    """The drivers are found by name, without their sources."""
    capture = tmp_path / "capture.http"
    capture.write_bytes(
        b"POST /iclock/cdata?SN=HW20250001&table=ATTLOG&Stamp=9999 HTTP/1.1\r\n"
        b"Content-Length: 35\r\n\r\n9001\t2025-03-14 08:59:01\t0\t1\t0\t0\t0\n"
    )
    decoded = run("decode", "zk_push", str(capture), folder=tmp_path)

    assert decoded.returncode == 0, decoded.stderr
    told = json.loads(decoded.stdout)
    assert (told["person"], told["at"]) == ("9001", "2025-03-14T08:59:01+08:00")
