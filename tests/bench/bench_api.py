"""100 attendance rows over HTTP, against FastAPI's usual way and against a bare ASGI handler."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from halls import StandingClock, make_hall, workdays, write_history
from rows import Row, at_least, per_second

from api import shapes
from api.reads import _day_body, _day_key, _slots
from api.routing import encode
from api.views import wire_day, wire_slot
from config.load import Hall
from daemon.app import App
from daemon.control import Request, change_tokens, new_secret
from daemon.database import FILE_NAME, open_reader
from daemon.replay import rejudge
from rules.model import DAY
from rules.workdays import local_midnight

PEOPLE = 250
START = date(2026, 3, 2)
CONNECTIONS = 16
SECONDS = 1.5
SLOTS = (
    "SELECT body, slots, revision, changed_at FROM attendance_day"
    " WHERE work_date >= ? AND work_date <= ? ORDER BY work_date, person"
)
DAYS = (
    "SELECT body, points, revision, changed_at FROM attendance_day"
    " WHERE work_date >= ? AND work_date <= ? ORDER BY work_date, person LIMIT 100"
)


class Query:
    """The rows of the two lists as the product makes them, without anything around."""

    def __init__(self, hall: Hall, day: date) -> None:
        self._connection = open_reader(hall.state_dir / FILE_NAME)
        self._zone = hall.zone
        self._span = (day.isoformat(), day.isoformat())

    def slots(self) -> list[Any]:
        found: list[Any] = []
        rows = self._connection.execute(SLOTS, self._span)
        for body, slots, revision, changed_at in rows:
            key = _day_key.decode(body)
            for slot in _slots.decode(slots):
                if len(found) == 100:
                    rows.close()
                    return found
                found.append(wire_slot(slot, key, self._zone, revision, changed_at))
        return found

    def days(self) -> list[Any]:
        return [
            wire_day(_day_body.decode(body), self._zone, revision, changed_at, points=points)
            for body, points, revision, changed_at in self._connection.execute(DAYS, self._span)
        ]


def bare(query: Query) -> Any:
    async def answer(scope: Any, _receive: Any, send: Any) -> None:
        rows = query.slots() if scope["path"].endswith("slots") else query.days()
        body = encode({"items": rows, "next": None})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def response_model(query: Query) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/attendance/slots", response_model=shapes.Listing[shapes.SlotRow])
    async def slots() -> Any:
        return {"items": msgspec.to_builtins(query.slots()), "next": None}

    @app.get("/v1/attendance/days", response_model=shapes.Listing[shapes.DayRow])
    async def days() -> Any:
        return {"items": msgspec.to_builtins(query.days()), "next": None}

    return app


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """As ``daemon.app.ApiServer`` serves."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=2,
        )
    )  # fmt: skip

    async def serve() -> None:
        await server._serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def requests_a_second(port: int, path: str, token: str) -> float:
    """Measured in another process."""
    told = subprocess.run(
        [sys.executable, __file__, str(port), path, token], capture_output=True, check=True
    ).stdout
    return float(told)


def measure(folder: Path) -> Iterator[Row]:
    hall = make_hall(folder / "api", PEOPLE, START, terminals=1)
    dates = workdays(hall, START, 10)
    write_history(hall, dates, PEOPLE)
    clock = StandingClock(local_midnight(dates[-1], hall.zone) + 2 * DAY)
    rejudge(hall.state_dir / FILE_NAME, hall, clock, None, None, lambda _a, _b: None)
    hall = dataclasses.replace(hall, devices=())  # nothing to connect to meanwhile
    yield from asyncio.run(_measure(hall, clock, dates[5]))


async def _measure(hall: Hall, clock: StandingClock, day: date) -> list[Row]:
    app = App(hall, clock)
    await app.start()
    token_id, secret, digest = new_secret()
    request = Request("token_add", token_id=token_id, name="b", scopes="admin", hash=digest)
    await asyncio.wrap_future(app.pipeline.call(lambda c: change_tokens(c, request, 0)))
    query = Query(hall, day)
    assert app.api is not None
    rows = []
    try:
        with serving(bare(query)) as bare_port, serving(response_model(query)) as model_port:
            for name in ("slots", "days"):
                path = f"/v1/attendance/{name}?limit=100&from={day}&to={day}"
                rates: list[list[float]] = [[], [], []]
                for _ in range(3):
                    for place, port in enumerate((app.api.port, model_port, bare_port)):
                        ask = partial(requests_a_second, port, path, secret)
                        rates[place].append(await asyncio.to_thread(ask))
                ours, model, plain = map(median, rates)
                what = f"API: 100 {name}, {CONNECTIONS} connections, against"
                rows += [
                    at_least(
                        2, f"{what} FastAPI's response model", per_second(ours),
                        per_second(model), ours / model,
                    ),
                    at_least(
                        0.7, f"{what} a bare ASGI handler", per_second(ours), per_second(plain),
                        ours / plain,
                    ),
                ]  # fmt: skip
    finally:
        await app.stop()
    return rows


class Asker(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._left = 0
        self._head = b""
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left = int(length) - len(body)
            self._head = b""
        else:
            self._left -= len(data)
        if self._left == 0:
            self.answers += 1
            self._wire.write(self._request)


async def _ask(port: int, path: str, token: str) -> float:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    askers = []
    for _ in range(CONNECTIONS):
        _, asker = await loop.create_connection(lambda: Asker(request), "127.0.0.1", port)
        askers.append(asker)
    await asyncio.sleep(0.2)
    before, begin = sum(asker.answers for asker in askers), loop.time()
    await asyncio.sleep(SECONDS)
    return (sum(asker.answers for asker in askers) - before) / (loop.time() - begin)


if __name__ == "__main__":
    print(asyncio.run(_ask(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
