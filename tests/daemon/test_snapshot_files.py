"""Evidence pictures on a real disk."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.reader import Snapshot, SnapshotFolder
from daemon.snapshots import Snapshots
from daemon.supervisor import Pictures
from rules.model import DAY, HOUR

NOW = 1_772_412_135_123  # 2026-03-02 00:42:15.123 UTC
NAME = "20260302T004215123_hall-03_w07-empty.jpg"
JPEG = b"\xff\xd8" + bytes(1000) + b"\xff\xd9"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "snapshots"


@pytest.fixture
def kept(folder: Path) -> Snapshots:
    return Snapshots(folder, keep_days=7, max_mb=1)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full after so many bytes: the write stops with an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_is_what_the_supervisor_and_the_api_ask_for(kept: Snapshots) -> None:
    pictures: Pictures = kept
    shown: SnapshotFolder = kept

    assert pictures.wanted
    assert shown.all() == []


def test_a_picture_is_kept_under_a_name_that_tells_when_which_and_what(
    kept: Snapshots, folder: Path
) -> None:
    assert kept.keep("hall-03", NOW, "w07-empty", JPEG) == NAME

    assert (folder / NAME).read_bytes() == JPEG
    assert kept.all() == [Snapshot(NAME, "hall-03", NOW, "w07-empty", len(JPEG))]
    assert kept.read(NAME) == JPEG
    assert (kept.errors, kept.last_error) == (0, "")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_nobody_else_may_read_it(kept: Snapshots, folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        kept.keep("hall-03", NOW, "w07-empty", JPEG)
    finally:
        os.umask(before)

    assert S_IMODE(folder.stat().st_mode) == 0o700
    assert S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_a_folder_that_was_open_to_others_is_closed(kept: Snapshots, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)

    kept.keep("hall-03", NOW, "w07-empty", JPEG)

    assert S_IMODE(folder.stat().st_mode) == 0o700


def test_only_whole_pictures_are_there(kept: Snapshots, folder: Path) -> None:
    kept.keep("hall-03", NOW, "w07-empty", b"older")
    with files_of_at_most(500):
        assert kept.keep("hall-03", NOW, "w07-empty", JPEG) == ""

    assert kept.errors == 1
    assert "File too large" in kept.last_error
    assert os.listdir(folder) == [NAME]
    assert kept.read(NAME) == b"older"
    assert kept.keep("hall-03", NOW, "w07-empty", JPEG) == NAME
    assert kept.read(NAME) == JPEG


def test_what_a_crash_left_is_not_in_the_way(kept: Snapshots, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / (NAME + ".part")).write_text("half")

    assert kept.keep("hall-03", NOW, "w07-empty", JPEG) == NAME
    assert os.listdir(folder) == [NAME]


def test_a_folder_that_cannot_be_made_costs_pictures_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Snapshots(tmp_path / "file" / "snapshots", 7, 1)

    assert kept.keep("hall-03", NOW, "w07-empty", JPEG) == ""
    assert kept.errors == 1
    assert "Not a directory" in kept.last_error
    assert kept.all() == []
    assert kept.read(NAME) is None
    assert kept.tidy(NOW) == 0


@pytest.mark.parametrize(
    ("device", "at", "subject"),
    [
        ("../x", NOW, "w07-empty"),
        ("hall_03", NOW, "w07-empty"),
        ("", NOW, "w07-empty"),
        ("hall-03", NOW, "a/b"),
        ("hall-03", NOW, "七号窗口"),
        ("hall-03", NOW, ""),
        ("hall-03", NOW, "x" * 65),
        ("hall-03", NOW, "w07\n"),
        ("hall-03", 10**15, "w07-empty"),
        ("hall-03", -(10**18), "w07-empty"),
        ("hall-03", -(10**13) * 6, "w07-empty"),  # the year 68 has no four digits
    ],
)
def test_what_makes_no_name_is_not_kept(
    kept: Snapshots, folder: Path, device: str, at: int, subject: str
) -> None:
    assert kept.keep(device, at, subject, JPEG) == ""
    assert kept.errors == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../secret", "/etc/passwd", f"../snapshots/{NAME}", f"./{NAME}",
        NAME + "\n", NAME + "\0", NAME.upper(), NAME.removesuffix(".jpg"), NAME + ".part",
        NAME.replace("20260302", "20261302"), NAME.replace("T00", "T24"), NAME.replace("_", "-"),
        NAME.replace("2026", "２０２６"), "notes.txt",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(kept: Snapshots, folder: Path, name: str) -> None:
    kept.keep("hall-03", NOW, "w07-empty", JPEG)
    (folder.parent / "secret").write_text("secret")
    (folder / "notes.txt").write_text("secret")
    (folder / (NAME + ".part")).write_text("half")

    assert kept.read(name) is None


@given(name=st.text(max_size=60) | st.from_regex(r"[0-9T_a-z./-]{0,40}\.jpg", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_for_is_answered(kept: Snapshots, name: str) -> None:
    assert kept.read(name) is None


def test_a_link_to_elsewhere_is_no_picture(kept: Snapshots, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder.parent / "secret").write_text("secret")
    (folder / NAME).symlink_to(folder.parent / "secret")

    assert kept.read(NAME) is None
    assert kept.all() == []


def test_an_empty_file_left_by_a_power_cut_is_no_picture(kept: Snapshots, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).touch()

    assert kept.read(NAME) is None


def test_pictures_are_listed_by_time_and_device(kept: Snapshots) -> None:
    for device, at, subject in (
        ("hall-04", NOW, "frozen"),
        ("hall-03", NOW + 1, "w07-empty"),
        ("hall-03", NOW, "a-1-still"),
        ("hall-03", NOW - DAY, "w07-empty"),
    ):
        kept.keep(device, at, subject, JPEG)

    assert [(one.at - NOW, one.device, one.subject) for one in kept.all()] == [
        (-DAY, "hall-03", "w07-empty"),
        (0, "hall-03", "a-1-still"),
        (0, "hall-04", "frozen"),
        (1, "hall-03", "w07-empty"),
    ]


def test_what_is_older_than_the_days_is_removed(kept: Snapshots) -> None:
    for age in (8 * DAY, 7 * DAY + 1, 7 * DAY, HOUR, -HOUR):
        kept.keep("hall-03", NOW - age, "w07-empty", JPEG)

    assert kept.tidy(NOW) == 2
    assert [NOW - one.at for one in kept.all()] == [7 * DAY, HOUR, -HOUR]
    assert kept.tidy(NOW) == 0


def test_the_oldest_are_removed_until_the_rest_is_not_too_much(kept: Snapshots) -> None:
    for number in range(6):
        kept.keep("hall-03", NOW + number, "w07-empty", bytes(200 << 10))

    assert kept.tidy(NOW) == 1  # five of 200 KiB are less than 1 MiB
    assert [one.at - NOW for one in kept.all()] == [1, 2, 3, 4, 5]


def test_tidying_removes_what_a_crash_left_and_nothing_of_others(
    kept: Snapshots, folder: Path
) -> None:
    kept.keep("hall-03", NOW, "w07-empty", JPEG)
    (folder / (NAME + ".part")).write_text("half")
    (folder / "notes.txt").write_bytes(bytes(2 << 20))
    (folder / "notes.part").touch()
    (folder / "sub").mkdir()

    assert kept.tidy(NOW) == 0
    assert sorted(os.listdir(folder)) == [NAME, "notes.part", "notes.txt", "sub"]


def test_a_picture_that_cannot_be_removed_does_not_keep_the_others(
    kept: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in (9 * DAY, 8 * DAY):
        kept.keep("hall-03", NOW - age, "w07-empty", JPEG)
    stuck = kept.all()[0].name
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.name == stuck:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)

    assert kept.tidy(NOW) == 1
    assert kept.errors == 1
    assert [one.name for one in kept.all()] == [stuck]
