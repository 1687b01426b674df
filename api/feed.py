"""Every derived change in order: page by page, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from api.auth import Token
from api.problems import Offence, Problem
from api.routing import JSON, Desk, encode
from api.shapes import ChangeQuery, StreamQuery
from api.views import Row, instant_text

SCOPE_OF = {
    "attendance": "attendance:read",
    "adjustment": "attendance:read",
    "violation": "supervision:read",
    "alert": "supervision:read",
    "device": "devices:read",
    "window": "supervision:read",
    "rating": "supervision:read",
    "area": "supervision:read",
}
"""A token gets the changes of those kinds that it may also list."""

STREAMS = 64
"""How many streams are served at a time."""

BATCH = 500


class Feed:
    """The change feed.  ``heartbeat`` is in seconds: so often a silent stream shows that it lives,
    and so late at most a reader that went away is noticed."""

    def __init__(self, desk: Desk, heartbeat: float) -> None:
        self._desk = desk
        self._heartbeat = heartbeat
        self.streams = 0

    async def changes(self, request: Request, query: Annotated[ChangeQuery, Query()]) -> Response:
        """变更: ``opened``, ``amended`` and ``withdrawn`` rows after a change, in order.

        An attendance row carries its slots.  Ask again after ``last``; ``next`` is none when there
        is nothing more at present.
        """
        self._require_kept(query.after)
        latest = self._latest()  # before the rows: what comes in between is for the next answer
        rows = self._after(query.after, query.limit + 1, _kinds(request))
        more = len(rows) > query.limit
        items = rows[: query.limit]
        seen = items[-1]["seq"] if items else query.after
        last = seen if more else max(seen, latest)
        listing = {
            "items": items,
            "next": last if more else None,
            "last": last,
            "latest": max(last, latest),
        }
        return Response(encode(listing), media_type=JSON)

    async def stream(self, request: Request, query: Annotated[StreamQuery, Query()]) -> Response:
        """变更推送: the same as server-sent events; ``id`` is the change's number.

        Goes on after ``Last-Event-ID``; a line with a colon shows that the stream lives.
        """
        told = request.headers.get("last-event-id")
        if told is not None:
            if not (told.isascii() and told.isdigit() and len(told) < 19):
                detail = "must be the id of an event of this stream"
                raise Problem(
                    422, f"Last-Event-ID: {detail}.", [Offence("Last-Event-ID", "header", detail)]
                )
            after = int(told)
        else:
            after = self._latest() if query.after is None else query.after
        self._require_kept(after)
        if self.streams >= STREAMS:
            raise Problem(
                503, f"{STREAMS} streams are open already.", headers={"Retry-After": "30"}
            )
        return StreamingResponse(
            self._events(after, _kinds(request)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(self, after: int, kinds: list[str]) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            yield b": hallwatch\n\n"
            time = asyncio.get_running_loop().time
            spoke = time()
            while True:
                latest = self._latest()
                rows = self._after(after, BATCH, kinds)
                for row in rows:
                    after = row["seq"]
                    yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                        after, row["kind"].encode(), encode(row),
                    )  # fmt: skip
                if rows:
                    spoke = time()
                if len(rows) == BATCH:
                    continue
                # What this token may not see is passed over for good.
                after = max(after, latest)
                rest = spoke + self._heartbeat - time()
                await self._desk.reader.wait_change(after, max(rest, 0.01))
                if time() - spoke >= self._heartbeat:
                    yield b": \n\n"
                    spoke = time()
        finally:
            self.streams -= 1

    def _after(self, after: int, limit: int, kinds: list[str]) -> list[Row]:
        zone = self._desk.zone
        return [
            {
                "seq": seq,
                "kind": kind,
                "op": op,
                "key": key,
                "at": instant_text(at, zone),
                "reason": reason,
                "row": msgspec.Raw(row.encode()),
            }
            for seq, kind, op, key, at, reason, row in self._desk.connection.execute(
                "SELECT seq, kind, op, key, at, reason, row FROM change"
                f" WHERE seq > ? AND kind IN ({', '.join('?' * len(kinds))}) ORDER BY seq LIMIT ?",
                (after, *kinds, limit),
            )
        ]

    def _latest(self) -> int:
        return self._one("SELECT seq FROM sqlite_sequence WHERE name = 'change'")

    def _require_kept(self, after: int) -> None:
        """Whoever goes on after a change whose successors were erased has missed some."""
        earliest = self._one("SELECT min(seq) FROM change") or self._latest() + 1
        if after + 1 < earliest:
            raise Problem(
                410,
                f"The changes before {earliest} are no longer kept. Read the lists anew, then go"
                f" on after {earliest - 1}.",
                [Offence("after", "query", f"must be at least {earliest - 1}")],
            )

    def _one(self, sql: str) -> int:
        row: tuple[Any, ...] | None = self._desk.connection.execute(sql).fetchone()
        return (row[0] or 0) if row else 0


def _kinds(request: Request) -> list[str]:
    token: Token = request.scope["token"]
    return [kind for kind, scope in SCOPE_OF.items() if token.may(scope)]
