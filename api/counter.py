"""The counter as it is and as it was: windows and service areas, services, ratings and their
figures.

Shares are told as ``n`` of ``of`` and never across scales.  Of who rated nothing is known here, and
what somebody wrote is told for one rating at a time only, never in a list.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Query, Response

from api.pages import seal, unseal
from api.problems import Offence, Problem, wrong
from api.reads import Where, following, local_date, midnight, page, work_dates
from api.routing import JSON, Desk, encode
from api.shapes import (
    LONGEST_FIGURES,
    QueueQuery,
    RatingFiguresQuery,
    RatingQuery,
    ServiceQuery,
)
from api.views import Row, instant_text, wire_area, wire_rating, wire_service, wire_window
from rules.counter import (
    AreaRecord,
    RatingRecord,
    Ratio,
    ScaleFigures,
    Service,
    Window,
    WindowDay,
    WindowRecord,
    follow_window,
    scale_figures,
)
from rules.model import FollowUpStep, Rating

LOOK_BACK = 31
"""Dates with rows among which a window's newest one is looked for."""
FAIR_WEIGHT = 20
"""So many ratings at the hall's rate are added to a window's, so that one with few of them ranks
neither first nor last by chance."""

_window = msgspec.json.Decoder(WindowRecord).decode
_area = msgspec.json.Decoder(AreaRecord).decode
_service = msgspec.json.Decoder(Service).decode
_rating = msgspec.json.Decoder(RatingRecord).decode
_told = msgspec.json.Decoder(Rating).decode
_step = msgspec.json.Decoder(FollowUpStep).decode

_WINDOW_DAY = "SELECT body, call_seq, revision, changed_at, work_date, window FROM window_day"
_AREA_DAY = "SELECT body, work_date, revision, changed_at, area FROM area_day"
_RATING = "SELECT body, work_date, revision, changed_at, window, at, rating_id FROM rating"


class Counter:
    """The answers to ``GET`` about windows, services and ratings."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._zone = desk.zone

    def _chosen(self, windows: Sequence[str], area: str) -> list[str] | None:
        """The windows that a filter by window and area means; none where it means all there are and
        ever were."""
        if not area:
            return list(dict.fromkeys(windows)) or None
        known = self._desk.reader.windows().values()
        return [one.id for one in known if one.area == area and (not windows or one.id in windows)]

    def _today(self) -> date:
        return local_date(self._desk.reader.now(), self._zone)

    # -- windows and areas

    async def queue(self, query: Annotated[QueueQuery, Query()]) -> Response:
        """叫号: the state of every window and of the service areas.

        Without dates the present state: each window's row of today, or its newest one.  With `from`
        or `to` the rows of those dates as they ended.
        """
        if query.from_ or query.to:
            items, following_page = self._past(query)
        else:
            items, following_page = self._present(query)
        listing = {
            "items": items,
            "next": following_page,
            "today": self._today(),
            "areas": self._areas(items, newest=not (query.from_ or query.to)),
        }
        return Response(encode(listing), media_type=JSON)

    def _past(self, query: QueueQuery) -> tuple[list[Row], str | None]:
        where = Where()
        work_dates(where, query.from_, query.to)
        if (chosen := self._chosen(query.window, query.area)) is not None:
            where.one_of("window", chosen)
            if not chosen:
                return [], None
        if query.cursor:
            where.add(
                "(work_date, window) > (?, ?)", *unseal("queue", query.cursor, tuple[str, str])
            )
        rows = self._desk.connection.execute(
            f"{_WINDOW_DAY}{where} ORDER BY work_date, window LIMIT ?",
            (*where.values, query.limit + 1),
        ).fetchall()
        items = [self._window_row(row) for row in rows[: query.limit]]
        return items, following("queue", rows, query.limit, 4, 5)

    def _present(self, query: QueueQuery) -> tuple[list[Row], str | None]:
        known = self._desk.reader.windows()
        chosen = self._chosen(query.window, query.area)
        after = unseal("queue-now", query.cursor, tuple[str])[0] if query.cursor else ""
        names = sorted(
            name for name in known if name > after and (chosen is None or name in chosen)
        )
        rows = self._newest(names[: query.limit])
        items = [
            self._window_row(rows[name]) if name in rows else self._untold(known[name])
            for name in names[: query.limit]
        ]
        more = len(names) > query.limit
        return items, seal("queue-now", (items[-1]["window"],)) if more else None

    def _newest(self, windows: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        """Each window's newest row.  Today's is nearly always there, so dates are gone back by one
        at a time."""
        missing = set(windows)
        found: dict[str, tuple[Any, ...]] = {}
        ask = self._desk.connection.execute
        day: str | None = self._today().isoformat()
        for _ in range(LOOK_BACK):
            if not missing or day is None:
                break
            where = Where()
            where.add("work_date = ?", day)
            where.one_of("window", sorted(missing))
            found |= {row[5]: row for row in ask(f"{_WINDOW_DAY}{where}", where.values)}
            missing -= found.keys()
            (day,) = ask(
                "SELECT max(work_date) FROM window_day WHERE work_date < ?", (day,)
            ).fetchone()
        return found

    def _window_row(self, row: tuple[Any, ...]) -> Row:
        body, call_seq, revision, changed_at, *_ = row
        return wire_window(_window(body), self._zone, call_seq, "", revision, changed_at)

    def _untold(self, window: Window) -> Row:
        """A window of which nothing was ever told."""
        today = self._today()
        day = WindowDay(
            hall=self._desk.reader.hall,
            window=window,
            work_date=today,
            midnight=midnight(today, self._zone),
            next_midnight=midnight(today + timedelta(days=1), self._zone),
            opens=None,
            closes=None,
            as_of=self._desk.reader.now(),
            works=False,
        )
        row = wire_window(follow_window(day), self._zone, None, "", 0, 0)
        return {**row, "updated_at": None}

    def _areas(self, items: Sequence[Row], *, newest: bool) -> list[Row]:
        """The areas of these windows on their dates; ``newest``: of each area its last one."""
        wanted = {(row["work_date"], row["area"]) for row in items}
        if newest:
            last: dict[str, str] = {}
            for day, area in wanted:
                last[area] = max(day, last.get(area, ""))
            wanted = {(day, area) for area, day in last.items()}
        if not wanted:
            return []
        rows = self._desk.connection.execute(
            f"{_AREA_DAY} WHERE work_date BETWEEN ? AND ? ORDER BY work_date, area",
            (min(wanted)[0], max(wanted)[0]),
        )
        return [
            wire_area(_area(body), self._zone, work_date, revision, changed_at)
            for body, work_date, revision, changed_at, area in rows
            if (work_date, area) in wanted
        ]

    async def services(self, query: Annotated[ServiceQuery, Query()]) -> Response:
        """办理: every ticket at a window from its call to its end; by date, window and time."""
        where = Where()
        work_dates(where, query.from_, query.to)
        if (chosen := self._chosen(query.window, query.area)) is not None:
            where.one_of("window", chosen)
            if not chosen:
                return page([], None)
        if query.cursor:
            where.add(
                "(work_date, window, number) > (?, ?, ?)",
                *unseal("services", query.cursor, tuple[str, str, int]),
            )
        sql = (
            f"SELECT body, work_date, window, number FROM service{where}"
            " ORDER BY work_date, window, number LIMIT ?"
        )
        values = (*where.values, query.limit + 1)
        rows = await self._rows(sql, values, sparse=chosen is not None and not query.from_)
        items = [
            wire_service(_service(body), self._zone, window, work_date)
            for body, work_date, window, _ in rows[: query.limit]
        ]
        return page(items, following("services", rows, query.limit, 1, 2, 3))

    async def _rows(
        self, sql: str, values: Sequence[Any], *, sparse: bool
    ) -> list[tuple[Any, ...]]:
        """``sparse``: a filter without a span of dates may have to pass over all there ever was."""

        def ask(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(sql, values).fetchall()

        return await self._desk.aside(ask) if sparse else ask(self._desk.connection)

    # -- ratings

    async def ratings(self, query: Annotated[RatingQuery, Query()]) -> Response:
        """评价: by the date of the service, the window and the time of pressing.

        What the visitor wrote is with the single rating alone.
        """
        where = Where()
        work_dates(where, query.from_, query.to)
        where.one_of("window", list(dict.fromkeys(query.window)))
        if query.level is not None:
            where.add("level = ?", query.level)
        # A level that others made of silence is nobody's complaint.
        defaulted = "json_extract(body, '$.defaulted')"
        if query.bad:
            where.add("level <= 2")
            where.add(f"NOT {defaulted}")
        elif query.bad is not None:
            where.add(f"(level IS NULL OR level > 2 OR {defaulted})")
        if query.follow_up == "any":
            where.add("follow_up <> ''")
        elif query.follow_up:
            where.add("follow_up = ?", query.follow_up)
        if query.channel:
            where.add("json_extract(body, '$.channel') = ?", query.channel)
        if query.matched is not None:
            where.add(f"json_extract(body, '$.match') {'<>' if query.matched else '='} 'unmatched'")
        filtered = bool(
            query.window or query.level or query.follow_up or query.channel
            or query.bad is not None or query.matched is not None
        )  # fmt: skip
        if query.cursor:
            where.add(
                "(work_date, window, at, rating_id) > (?, ?, ?, ?)",
                *unseal("ratings", query.cursor, tuple[str, str, int, str]),
            )
        rows = await self._rows(
            f"{_RATING} INDEXED BY rating_window{where}"
            " ORDER BY work_date, window, at, rating_id LIMIT ?",
            (*where.values, query.limit + 1),
            sparse=filtered and not (query.from_ and query.to),
        )
        items = [self._rating_row(row) for row in rows[: query.limit]]
        return page(items, following("ratings", rows, query.limit, 1, 4, 5, 6))

    def _rating_row(self, row: tuple[Any, ...]) -> Row:
        body, work_date, revision, changed_at, *_ = row
        return wire_rating(_rating(body), self._zone, work_date, revision, changed_at)

    async def rating(self, rating_id: str) -> Response:
        """One rating with its follow-up, the steps of that, and what the visitor wrote."""
        ask = self._desk.connection.execute
        row = ask(f"{_RATING} WHERE rating_id = ?", (rating_id,)).fetchone()
        if row is None:
            raise Problem(
                404,
                f"There is no rating '{rating_id}'.",
                [Offence("rating_id", "path", "not known")],
            )
        record = _rating(row[0])
        told = ask(
            "SELECT body FROM reading WHERE received_at = ? AND id = ?",
            (record.received_at, record.reading_id),
        ).fetchone()
        # What has been erased from the journal leaves the level, without words.
        body = _told(told[0]) if told else Rating(rating_id)
        steps = [
            (at, _step(step))
            for at, step in ask(
                "SELECT at, body FROM reading WHERE kind = 'follow_up' AND ref = ?"
                " AND kind <> 'punch' AND kind <> 'queue' ORDER BY at, seq",
                (rating_id,),
            )
        ]
        detail = self._rating_row(row) | {
            "options": body.options,
            "indicator_version": body.indicator_version,
            "text": body.text,
            "steps": [
                {
                    "at": instant_text(at, self._zone),
                    "step": step.step,
                    "by": step.by,
                    "handler": step.handler,
                    "note": step.note,
                }
                for at, step in steps
            ],
        }
        return Response(encode(detail), media_type=JSON)

    async def figures(self, query: Annotated[RatingFiguresQuery, Query()]) -> Response:
        """评价统计: the ratings of each window and of the hall over some dates, scales apart.

        A window without a row on these dates is left out.  ``days`` are those with rows.
        """
        last = query.to or self._today()
        first = query.from_ or last
        if first > last:
            raise wrong("from", "must not be after `to`", "query")
        if (last - first).days >= LONGEST_FIGURES:
            raise wrong("to", f"`from` and `to` may span at most {LONGEST_FIGURES} days", "query")
        sums = await self._desk.aside(partial(_sums, first=first, last=last))
        hall = _Sum()
        for one in sums.values():
            hall.add_all(one)
        rates = {
            scale: Ratio(sum(levels[2:]), sum(levels)) for scale, levels in hall.scales.items()
        }
        chosen = self._chosen(query.window, query.area)
        items = [
            {
                "window": name,
                "name": one.window.name,
                "area": one.window.area,
                "unit": one.window.unit,
                **one.row(rates),
            }
            for name, one in sorted(sums.items())
            if chosen is None or name in chosen
        ]
        told = {"from": first, "to": last, "hall": hall.row(rates), "items": items}
        return Response(encode(told), media_type=JSON)


class _Figures(msgspec.Struct, frozen=True):
    """What is added up of a window's figures."""

    rated: Ratio
    prompted: Ratio
    scales: tuple[ScaleFigures, ...]
    additional: int
    unmatched: int
    unrated_presses: int
    callbacks: Ratio
    rectified: Ratio
    in_time: Ratio


class _Day(msgspec.Struct, frozen=True):
    """The parts of a ``WindowRecord`` that figures need."""

    window: Window
    figures: _Figures


_day = msgspec.json.Decoder(_Day).decode
_RATIOS = ("rated", "prompted", "callbacks", "rectified", "in_time")
_COUNTS = ("additional", "unmatched", "unrated_presses")


class _Sum:
    """Figures of several dates or windows together."""

    def __init__(self) -> None:
        self.window = Window("")
        self.days = 0
        self.ratios = {name: [0, 0] for name in _RATIOS}
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.scales: dict[str, list[int]] = {}

    def add(self, day: _Day) -> None:
        self.window = day.window
        self.days += 1
        for name, ratio in self.ratios.items():
            told: Ratio = getattr(day.figures, name)
            ratio[0] += told.n
            ratio[1] += told.of
        for name in self.counts:
            self.counts[name] += getattr(day.figures, name)
        for scale in day.figures.scales:
            self._add_levels(scale.scale_id, scale.levels)

    def add_all(self, other: _Sum) -> None:
        self.days += other.days
        for name, (n, of) in other.ratios.items():
            self.ratios[name][0] += n
            self.ratios[name][1] += of
        for name, count in other.counts.items():
            self.counts[name] += count
        for scale, levels in other.scales.items():
            self._add_levels(scale, levels)

    def _add_levels(self, scale: str, levels: Sequence[int]) -> None:
        sums = self.scales.setdefault(scale, [0] * 5)
        for place, count in enumerate(levels):
            sums[place] += count

    def row(self, hall: Mapping[str, Ratio]) -> Row:
        """``hall``: the satisfied rate of the whole hall by scale."""
        return {
            "days": self.days,
            **{name: Ratio(*ratio) for name, ratio in self.ratios.items()},
            **self.counts,
            "scales": [
                _scale_row(scale_figures(scale, levels), hall[scale])
                for scale, levels in sorted(self.scales.items())
            ],
        }


def _scale_row(scale: ScaleFigures, hall: Ratio) -> Row:
    satisfied = scale.satisfied
    return {
        "scale_id": scale.scale_id,
        "satisfied": satisfied,
        "strict": scale.strict,
        "bad": scale.bad,
        "levels": scale.levels,
        "mean": scale.mean,
        "fair": {
            "n": round(satisfied.n + FAIR_WEIGHT * hall.n / hall.of, 3),
            "of": satisfied.of + FAIR_WEIGHT,
        },
    }


def _sums(connection: sqlite3.Connection, first: date, last: date) -> dict[str, _Sum]:
    """The figures of each window over the dates from ``first`` to ``last``."""
    sums: dict[str, _Sum] = {}
    for window, body in connection.execute(
        "SELECT window, body FROM window_day WHERE work_date BETWEEN ? AND ? ORDER BY work_date",
        (first.isoformat(), last.isoformat()),
    ):
        sums.setdefault(window, _Sum()).add(_day(body))
    return sums
