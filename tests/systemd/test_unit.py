from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "hallwatch.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def settings(name: str) -> list[str]:
    """The values of a setting, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as on a machine on which hallwatch is installed."""
    program = tmp_path / "hallwatch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (command,) = settings("ExecStart")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    unit.write_text(text.replace(command.split()[0], str(program)), encoding="utf-8")
    return unit


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False
    )


@needs_systemd
def test_systemd_understands_every_line(installed: Path) -> None:
    verified = analyze("verify", "--man=no", installed)

    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_systemd_would_complain_of_a_wrong_line(installed: Path) -> None:
    installed.write_text(installed.read_text() + "\n[Service]\nProtectEverything=yes\n")

    assert "ProtectEverything" in analyze("verify", "--man=no", installed).stderr


@needs_systemd
def test_the_exposure_is_at_most_two(installed: Path) -> None:
    report = analyze("security", "--offline=true", "--threshold=20", installed)

    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0
    assert report.returncode == 0


def test_the_sandbox_leaves_what_the_daemon_needs() -> None:
    """Serial ports, cameras, the network, systemd's own socket, and a place for the database."""
    assert {"char-ttyS rw", "char-ttyUSB rw", "char-ttyACM rw"} <= set(settings("DeviceAllow"))
    assert "char-video4linux rw" in settings("DeviceAllow")
    assert settings("PrivateDevices") == []
    # Device nodes belong to groups that a user namespace would hide.
    assert settings("PrivateUsers") == []
    assert {"dialout", "video"} == set(settings("SupplementaryGroups")[0].split())
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(settings("RestrictAddressFamilies")[0].split())
    assert settings("StateDirectory") == ["hallwatch"]
    # A denied call is an error in a library, not the end of the daemon.
    assert settings("SystemCallErrorNumber") == ["EPERM"]


def test_the_daemon_is_watched_reloaded_and_always_restarted() -> None:
    assert settings("Type") == ["notify"]
    assert settings("ExecStart") == [
        "/opt/hallwatch/bin/hallwatch run -c /etc/hallwatch/hallwatch.toml"
    ]
    assert settings("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert settings("WatchdogSec") == ["3min"]
    assert settings("Restart") == ["always"]
    assert settings("RestartPreventExitStatus") == ["2"]
    assert settings("StartLimitIntervalSec") == ["0"]


def test_no_secret_is_written_into_the_unit() -> None:
    examples = re.findall(r"^#LoadCredential=(\S+)$", UNIT.read_text("utf-8"), re.MULTILINE)

    assert examples
    assert all(re.fullmatch(r"[a-z-]+:/etc/hallwatch/credentials/[a-z-]+", e) for e in examples)
