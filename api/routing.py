"""How a request is answered: who asks, may they, is it well formed, was it asked before.

FastAPI routes and documents; these routes read the request themselves, for three reasons: refusals
come in a fixed order (401, 403, 413, 415, 400, 422), a write must see the exact bytes to tell a
repeat from another request, and a list of 100 rows costs less than FastAPI's own reading of its
parameters.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from api.auth import Token, authenticate
from api.problems import Offence, Problem, invalid
from api.reader import Reader, Remembered
from rules.model import Reading

BODY_LIMIT = 1 << 20
JSON = "application/json"

encode = msgspec.json.Encoder().encode
T = TypeVar("T")


class Write(msgspec.Struct, frozen=True):
    """What a request wants journalled, and the answer once it is."""

    readings: Sequence[Reading]
    status: int
    row: dict[str, Any]


class Desk:
    """What the answers are made from: the daemon as ``Reader`` and read-only connections to its
    database.

    ``connection`` serves the event loop's thread: what it is asked must be found by an index.
    ``aside`` runs what has to look at many rows in one thread with a connection of its own, so that
    it delays nobody but its like.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.zone = reader.zone
        self.connection = reader.connect()
        self._aside = reader.connect()
        self._thread = ThreadPoolExecutor(1, "api-aside")
        self._writing: dict[tuple[str, str], asyncio.Future[None]] = {}
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Answers by method, path template and status."""

    async def aside(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, ask, self._aside)

    def close(self) -> None:
        self._thread.shutdown()
        self.connection.close()
        self._aside.close()

    async def write(
        self, request: Request, token: Token, body: bytes, answer: Callable[[], Any]
    ) -> Response:
        """Record what ``answer`` makes of the request; once only for each ``Idempotency-Key``."""
        key = request.headers.get("idempotency-key")
        if key is None:
            write: Write = await answer()
            if write.readings:
                await self._record(write, None)
            return Response(encode(write.row), write.status, media_type=JSON)
        if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
            detail = "must be 1 to 255 visible ASCII characters"
            raise Problem(
                422,
                f"Idempotency-Key: {detail}.",
                [Offence("Idempotency-Key", "header", detail)],
            )
        told = f"{request.method}\0{request.url.path}?{request.url.query}\0".encode() + body
        asked = sha256(told).digest()
        # The same request may arrive a second time while the first is being recorded.
        while (running := self._writing.get((token.id, key))) is not None:
            await asyncio.wait([running])
        done = self._writing[token.id, key] = asyncio.get_running_loop().create_future()
        try:
            if (known := self._remembered(token, key, asked)) is not None:
                return known
            write = await answer()
            text = encode(write.row)
            remember = Remembered(
                token.id, key, asked, write.status, text.decode(), self.reader.now()
            )
            await self._record(write, remember)
            return Response(text, write.status, media_type=JSON)
        finally:
            del self._writing[token.id, key]
            done.set_result(None)

    def _remembered(self, token: Token, key: str, asked: bytes) -> Response | None:
        row = self.connection.execute(
            "SELECT request, status, answer FROM idempotency WHERE token = ? AND key = ?",
            (token.id, key),
        ).fetchone()
        if row is None:
            return None
        if row[0] != asked:
            raise Problem(409, "This Idempotency-Key was used before, for another request.")
        headers = {"Idempotent-Replayed": "true"}
        return Response(row[2].encode(), row[1], headers, media_type=JSON)

    async def _record(self, write: Write, remember: Remembered | None) -> None:
        try:
            await self.reader.record(write.readings, remember)
        except OSError as error:
            raise Problem(
                503,
                f"Nothing was recorded, the state cannot be written: {error}.",
                headers={"Retry-After": "5"},
            ) from error


class Route(APIRoute):
    """A path that is answered by a coroutine with the parameters it names: ``request``, ``query``
    (a model), ``body`` (anything pydantic can check) and those of its path.

    It returns a ``Response``, or a ``Write`` to be recorded first.  The scope it needs stands in
    its ``security``, where the document shows it; without one it is open to everybody.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint
        template = self.path_format
        security = (self.openapi_extra or {}).get("security")
        scope: str | None = security[0]["bearer"][0] if security else None
        hints = get_type_hints(endpoint, include_extras=True)
        query = _query_reader(hints["query"]) if "query" in hints else None
        body = TypeAdapter(hints["body"]) if "body" in hints else None
        path = {
            name: TypeAdapter(hint)
            for name, hint in hints.items()
            if name not in ("request", "query", "body", "return")
        }
        writes = hints["return"] is Write

        async def answer(request: Request, desk: Desk) -> Response:
            values: dict[str, Any] = {"request": request} if "request" in hints else {}
            token = None
            if scope is not None:
                headers = request.headers
                token = authenticate(headers.get("authorization"), desk.connection)
                token.require(scope)
                request.scope["token"] = token
            raw = await _read_body(request) if writes else b""
            if body is not None:
                _require_json(request)
                try:
                    values["body"] = body.validate_json(raw)
                except ValidationError as error:
                    raise invalid(error, "body") from None
            if path:
                values |= _path_values(request, path)
            if query is not None:
                values["query"] = query(request)
            if token is not None and writes:
                return await desk.write(request, token, raw, lambda: endpoint(**values))
            response: Response = await endpoint(**values)
            return response

        async def handle(request: Request) -> Response:
            desk: Desk = request.app.state.desk
            try:
                response = await answer(request, desk)
            except Problem as problem:
                response = problem.response()
            except sqlite3.Error as error:
                response = Problem(
                    503,
                    f"The state cannot be read at the moment: {error}.",
                    headers={"Retry-After": "5"},
                ).response()
            desk.requests[request.method, template, response.status_code] += 1
            return response

        return handle


def _query_reader(hint: Any) -> Callable[[Request], BaseModel]:
    model: type[BaseModel] = get_args(hint)[0]
    lists = {
        field.alias or name
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is list
    }

    def read(request: Request) -> BaseModel:
        values: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if name in lists:
                values.setdefault(name, []).append(value)
            elif name in values:
                detail = "given more than once"
                raise Problem(422, f"{name}: {detail}.", [Offence(name, "query", detail)])
            else:
                values[name] = value
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise invalid(error, "query") from None

    return read


def _path_values(request: Request, path: dict[str, TypeAdapter[Any]]) -> dict[str, Any]:
    values = {}
    for name, adapter in path.items():
        try:
            values[name] = adapter.validate_python(request.path_params[name])
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]["msg"]
            raise Problem(422, f"{name}: {detail}.", [Offence(name, "path", detail)]) from None
    return values


def _require_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Problem(
            415, f"Send the body as {JSON}, not as {kind or 'something without a content type'}."
        )


async def _read_body(request: Request) -> bytes:
    """The body, at most 1 MiB of it: a longer one is refused before it is read to its end."""
    too_large = Problem(
        413, f"A body may have at most {BODY_LIMIT} bytes.", headers={"Connection": "close"}
    )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > BODY_LIMIT:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise too_large
    except ClientDisconnect:
        raise Problem(400, "The connection ended before the body did.") from None
    return bytes(body)
