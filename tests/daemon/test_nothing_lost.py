"""A short run of ``tests/soak/kill.py``: the daemon is killed a few times and loses nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "soak" / "kill.py"


def load_soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_kill", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak_kill"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(240)
def test_six_kills_lose_no_punch_and_no_event(tmp_path: Path) -> None:
    soak = load_soak()

    figures = soak.run(kills=6, seed=7, folder=tmp_path, show=lambda _: None)

    assert figures.lost_punches == []
    assert figures.double_punches == []
    assert figures.lost_events == []
    assert figures.wrong_events == []
    assert figures.verify == ""
    assert figures.kills == 6
    assert figures.broker_stops == 1
    assert figures.pushed > 100
    assert figures.polled > 100
    assert figures.checked_after_kills > figures.pushed
    assert all(figures.changes[kind] > 0 for kind in soak.TOPICS)
