"""What an InfluxDB is fed: changes as every sink is, readings from the journal, our own figures.

The client package is an extra and heavy, so it is imported where such a sink is configured only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
import structlog

from config.load import read_secret
from config.settings import InfluxSinkSettings
from daemon.outbox import Change
from rules.model import Instant

if TYPE_CHECKING:
    from daemon.sinks.influx import InfluxSink

log = structlog.get_logger(__name__)

READINGS = "-readings"
"""Behind a sink's name: its cursor in the journal."""


class Charts:
    """The InfluxDB sinks of the settings, each twice: for changes and for readings."""

    def __init__(self, settings: Sequence[InfluxSinkSettings], hall: str, zone: ZoneInfo) -> None:
        self.changes: list[InfluxSink] = []
        self.readings: list[InfluxSink] = []
        if not settings:
            return
        from daemon.sinks.influx import InfluxSink

        for one in settings:
            for name, sinks in (
                (one.name, self.changes),
                (one.name + READINGS, self.readings),
            ):
                sinks.append(
                    InfluxSink(
                        name,
                        url=one.url,
                        hall=hall,
                        zone=zone,
                        version=one.version,
                        org=one.org,
                        bucket=one.bucket,
                        token=read_secret(one.token_file) if one.token_file else "",
                        database=one.database,
                        username=one.username,
                        password=read_secret(one.password_file) if one.password_file else "",
                        ca_file=one.ca_file,
                    )
                )

    def write_metrics(self, now: Instant, values: Mapping[str, float]) -> None:
        """Our own figures; blocks, and what is not taken is gone."""
        for sink in self.changes:
            sink.metrics(now, values)

    def close(self) -> None:
        for sink in (*self.changes, *self.readings):
            sink.close()


def readings_after(connection: sqlite3.Connection, seq: int, limit: int) -> list[Change]:
    """Journalled readings as changes of kind ``reading``, without anybody's name or text."""
    return [
        Change(
            number,
            "reading",
            "opened",
            id_.hex(),
            received_at,
            "",
            msgspec.json.encode(
                {
                    "kind": kind,
                    "device": device,
                    "at": at,
                    "received_at": received_at,
                    "window": window or "",
                    "level": level,
                }
            ),
        )
        for number, id_, kind, device, at, received_at, window, level in connection.execute(
            "SELECT seq, id, kind, device, at, received_at, window,"
            " CASE kind WHEN 'rating' THEN json_extract(body, '$.level') END"
            " FROM reading WHERE seq > ? ORDER BY seq LIMIT ?",
            (seq, limit),
        )
    ]
