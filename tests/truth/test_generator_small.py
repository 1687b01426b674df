"""A small run of the truth generator: one week, twelve people, three terminals, a fixed seed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).with_name("generator.py")


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("truth_generator", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["truth_generator"] = module
    spec.loader.exec_module(module)
    return module


def test_a_week_of_known_movements_accuses_nobody_falsely(tmp_path: Path) -> None:
    generator = load_generator()

    figures = generator.run(
        3, weeks=1, people=12, show=lambda _: None, state=tmp_path, devices=("east", "door", "west")
    )

    assert figures.false == []
    assert figures.unexplained == []
    assert figures.different == []
    assert figures.facts["failed judgements"] == 0
    assert figures.person_days == 60
    assert figures.final > 150
    # It does find what is true, and something did go wrong in this week.
    assert figures.violations > 15
    assert figures.facts["punches that could not be made"] > 0
    assert sum(figures.held.values()) > 0
