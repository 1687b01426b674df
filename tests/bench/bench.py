"""``make bench``: one table of speeds, each beside a reference measured in the same run.

``bench.py --only NAME`` runs one part.  Every part is a process of its own, so that none inherits
another one's memory, and is given up after a while; docs/performance.md explains the rows.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rows import Row

PARTS = {
    "journal": 60,
    "parse": 240,
    "rules": 30,
    "replay": 180,
    "api": 90,
    "pipeline": 150,
    "daemon": 180,
    "growth": 120,
    "counter": 120,
    "boards": 90,
    "bus": 150,
    "video": 240,
}
"""Seconds after which a part is given up."""
ROWS = "rows.jsonl"


def run_part(name: str) -> list[Row]:
    """In another process; a part that fails or takes too long is a row that says so."""
    with tempfile.TemporaryDirectory(prefix="hallwatch-bench-") as folder:
        process = subprocess.Popen(
            [sys.executable, __file__, "--part", name, "--folder", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=PARTS[name])
            problem = "failed: " + (errors.decode().strip().splitlines() or ["?"])[-1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            problem = f"given up after {PARTS[name]} s"
        told = (Path(folder) / ROWS).read_bytes()
        rows = [msgspec.json.decode(line, type=Row) for line in told.splitlines()]
        if process.returncode:
            rows.append(Row(name, problem[:200], met=False))
        return rows


def tell_rows(name: str, folder: Path) -> None:
    """What the part's process does: one JSON line a row, as soon as it is known."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with (folder / ROWS).open("wb", buffering=0) as told:
        for row in importlib.import_module(f"bench_{name}").measure(folder):
            told.write(msgspec.json.encode(row) + b"\n")


def show(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading, side in (
        ("what", "left"), ("measured", "right"), ("reference of the same run", "left"),
        ("ratio", "right"), ("goal", "left"), ("met", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.what, row.measured, row.reference, ratio, row.goal, met)
    Console(width=180, highlight=False, markup=False).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(PARTS), help="run this part alone")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        tell_rows(given.part, given.folder)
        return 0
    rows: list[Row] = []
    for name in [given.only] if given.only else PARTS:
        begin = time.monotonic()
        rows += run_part(name)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    )
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
