"""Evidence pictures on disk: small JPEG files in one folder that nobody else may read.

A file is called ``20260302T004215123_hall-03_w07-empty.jpg``: when (UTC, milliseconds), the device,
and what it shows.  Neither the pictures nor their names tell a person.  They are in no database:
what has been removed here is gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

from api.reader import Snapshot
from rules.model import DAY, Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = re.compile(
    r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})"
    r"_(?P<device>[a-z0-9][a-z0-9-]{0,15})_(?P<subject>[A-Za-z0-9-]{1,64})\.jpg",
    re.ASCII,
)
_UNFINISHED = ".part"


class Snapshots:
    """The folder of the evidence pictures.  It may be used from several threads.

    A full or broken disk costs pictures and nothing else: nothing here raises because of it.  A
    picture is not forced to the disk, so a power cut may cost the newest ones.
    """

    wanted = True

    def __init__(self, folder: Path, keep_days: int, max_mb: int) -> None:
        self._folder = folder
        self._keep = keep_days * DAY
        self._most = max_mb << 20
        self._lock = Lock()
        self.errors = 0
        """Pictures that could not be kept, and times that the folder could not be looked after."""
        self.last_error = ""

    def keep(self, device: str, at: Instant, subject: str, jpeg: bytes) -> str:
        """The name under which the picture is now kept; empty where it could not be."""
        try:
            name = _name(device, at, subject)
            with self._lock:
                self._write(name, jpeg)
        except (OSError, ValueError, OverflowError) as error:
            self._failed(error)
            return ""
        return name

    def _write(self, name: str, jpeg: bytes) -> None:
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_mode & 0o077:
            self._folder.chmod(0o700)
        unfinished = self._folder / (name + _UNFINISHED)
        try:
            unfinished.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(unfinished, flags, 0o600), "wb") as file:
                file.write(jpeg)
            unfinished.rename(self._folder / name)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def all(self) -> list[Snapshot]:
        """The pictures there are, oldest first."""
        try:
            return sorted(self._found(), key=lambda one: one.name)
        except OSError as error:
            self._failed(error)
            return []

    def read(self, name: str) -> bytes | None:
        """A picture; none where there is none of this name."""
        if _instant(name) is None:
            return None
        try:
            file = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW)
            with open(file, "rb") as picture:
                return picture.read() or None
        except OSError:
            return None

    def tidy(self, now: Instant) -> int:
        """Remove what is too old, then the oldest of what is too much; returns how many pictures.
        Anything else in the folder is left alone."""
        with self._lock:
            try:
                for path in self._folder.glob("*" + _UNFINISHED):
                    if _instant(path.name.removesuffix(_UNFINISHED)) is not None:
                        path.unlink()
            except OSError as error:
                self._failed(error)
        kept = self.all()
        much = sum(one.size for one in kept)
        removed = 0
        for one in kept:
            if one.at >= now - self._keep and much <= self._most:
                # They are in order of time: all that follow are younger, and not too much.
                break
            try:
                (self._folder / one.name).unlink(missing_ok=True)
            except OSError as error:
                self._failed(error)
                continue
            much -= one.size
            removed += 1
        return removed

    def _found(self) -> Iterator[Snapshot]:
        if not self._folder.exists():
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                at = _instant(entry.name)
                if at is None or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # removed since
                    continue
                _, device, subject = entry.name.removesuffix(".jpg").split("_")
                yield Snapshot(entry.name, device, at, subject, size)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self.last_error = str(error)


def _name(device: str, at: Instant, subject: str) -> str:
    moment = _EPOCH + timedelta(milliseconds=at)
    name = f"{moment:%Y%m%dT%H%M%S}{at % 1000:03}_{device}_{subject}.jpg"
    if _instant(name) is None:
        raise ValueError(f"a picture cannot be called {name!r}")
    return name


def _instant(name: str) -> Instant | None:
    """When the picture of this name was taken; none where no picture is called so."""
    told = _NAME.fullmatch(name)
    if told is None:
        return None
    year, month, day, hour, minute, second, milliseconds = map(int, told.groups()[:7])
    try:
        moment = datetime(year, month, day, hour, minute, second, milliseconds * 1000, UTC)
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1)
