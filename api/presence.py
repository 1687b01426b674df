"""在岗: who was at the windows' posts, now and on past dates."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Response

from api.pages import unseal
from api.reads import Where, following, local_date, page, work_dates
from api.routing import Desk
from api.shapes import PresenceQuery
from api.views import Row, wire_post
from rules.post import PostRecord

_post = msgspec.json.Decoder(PostRecord).decode
_POST_DAY = "SELECT body, work_date, revision, as_of, window FROM post_day"


class Presence:
    """The answer to ``GET /v1/presence``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def presence(self, query: Annotated[PresenceQuery, Query()]) -> Response:
        """在岗状态: the posts that cameras watch.

        Without dates the present state of each; with `from` or `to` those dates as they ended, with
        every vacancy.
        """
        desk, where = self._desk, Where()
        if query.from_ or query.to:
            work_dates(where, query.from_, query.to)
        else:
            where.add("work_date = ?", local_date(desk.reader.now(), desk.zone).isoformat())
        windows = desk.reader.windows()
        chosen = [
            one.id
            for one in windows.values()
            if (not query.window or one.id in query.window)
            and (not query.area or one.area == query.area)
        ]
        if query.window or query.area:
            if not chosen:
                return page([], None)
            where.one_of("window", chosen)
        if query.cursor:
            where.add(
                "(work_date, window) > (?, ?)", *unseal("presence", query.cursor, tuple[str, str])
            )
        rows = desk.connection.execute(
            f"{_POST_DAY}{where} ORDER BY work_date, window LIMIT ?",
            (*where.values, query.limit + 1),
        ).fetchall()
        items = [self._row(row) for row in rows[: query.limit]]
        return page(items, following("presence", rows, query.limit, 1, 4))

    def _row(self, row: tuple[Any, ...]) -> Row:
        body, work_date, revision, as_of, _ = row
        return wire_post(_post(body), self._desk.zone, work_date, revision, as_of)
