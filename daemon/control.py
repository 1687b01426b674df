"""Commands that change the state, whether the daemon runs or not.

One connection writes the database, so while the daemon runs a command asks it, over a socket in the
state directory that only the daemon's user can open.  Otherwise the command takes the lock and does
the same thing itself.  A request and its answer are one JSON line each.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sqlite3
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from config.load import Hall
from daemon.clock import Clock
from daemon.database import FILE_NAME, DatabaseProblem, StateLock, open_writer
from daemon.journal import Journal
from daemon.pipeline import Pipeline
from rules.model import Body, Instant, Reading

SOCKET_NAME = "control.sock"
LIMIT = 64 << 20
"""Bytes of one request: a table of 100,000 rows."""


class Request(Struct, frozen=True, omit_defaults=True):
    """``record``: journal the ``bodies`` as told by ``source``, all or none.  ``token_add`` and
    ``token_revoke`` change the API's tokens; the secret itself is never sent, only its hash.
    ``marks``: store a device's resume points (what a camera learned) and have them used."""

    op: Literal["record", "token_add", "token_revoke", "marks"]
    source: str = ""
    bodies: tuple[Body, ...] = ()
    token_id: str = ""
    name: str = ""
    scopes: str = ""
    hash: bytes = b""
    device: str = ""
    marks: dict[str, str] = {}


class Answer(Struct, frozen=True):
    """``count``: readings that were new, or tokens changed.  ``error`` is a sentence, or empty."""

    count: int = 0
    error: str = ""


def new_secret() -> tuple[str, str, bytes]:
    """``(token id, secret, hash)`` of a new token; the secret exists nowhere else."""
    secret = f"hw_{secrets.token_urlsafe(32)}"
    return secrets.token_hex(4), secret, sha256(secret.encode()).digest()


def change_tokens(connection: sqlite3.Connection, request: Request, now: Instant) -> Answer:
    """Add or revoke a token, inside the caller's transaction."""
    if request.op == "token_add":
        connection.execute(
            "INSERT INTO token (id, name, scopes, hash, created_at) VALUES (?, ?, ?, ?, ?)",
            (request.token_id, request.name, request.scopes, request.hash, now),
        )
        return Answer(1)
    revoked = connection.execute(
        "UPDATE token SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
        (now, request.token_id),
    ).rowcount
    if not revoked:
        return Answer(0, f"There is no valid token with the id {request.token_id}.")
    return Answer(revoked)


def store_marks(connection: sqlite3.Connection, request: Request) -> Answer:
    """Store a device's resume points, inside the caller's transaction."""
    rows = [(request.device, name, value) for name, value in request.marks.items()]
    connection.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", rows)
    return Answer(len(rows))


def readings_of(request: Request, now: Instant) -> list[Reading]:
    return [Reading(request.source, now, body) for body in request.bodies]


class ControlServer:
    """The daemon's side of the socket."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        directory: Path,
        marked: Callable[[str, Mapping[str, str]], None],
    ) -> None:
        """``marked`` is told of resume points that were stored for a device."""
        self._pipeline = pipeline
        self._clock = clock
        self._marked = marked
        self._path = directory / SOCKET_NAME
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._talk, self._path, limit=LIMIT)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            answer = await self._serve(msgspec.json.decode(line, type=Request))
        except (ValueError, OSError, msgspec.MsgspecError, sqlite3.Error) as error:
            answer = Answer(0, str(error))
        writer.write(msgspec.json.encode(answer) + b"\n")
        try:
            await writer.drain()
            writer.close()
        except OSError:
            pass

    async def _serve(self, request: Request) -> Answer:
        now = self._clock.now()
        if request.op == "record":
            return Answer(await self._pipeline.tell(readings_of(request, now)))
        if request.op == "marks":
            stored = await asyncio.wrap_future(
                self._pipeline.call(lambda connection: store_marks(connection, request))
            )
            self._marked(request.device, request.marks)
            return stored
        return await asyncio.wrap_future(
            self._pipeline.call(lambda connection: change_tokens(connection, request, now))
        )


def ask(hall: Hall, request: Request) -> Answer:
    """Have a request done, by the daemon if it runs.

    Raises ``DatabaseProblem`` when the state is in use but nobody answers.
    """
    answer = _ask_daemon(hall.state_dir / SOCKET_NAME, request)
    if answer is not None:
        return answer
    lock = StateLock(hall.state_dir)
    try:
        connection = open_writer(hall.state_dir / FILE_NAME, hall.storage.synchronous)
        try:
            return _apply(connection, hall, request)
        finally:
            connection.close()
    finally:
        lock.release()


def _apply(connection: sqlite3.Connection, hall: Hall, request: Request) -> Answer:
    now = Clock().now()
    connection.execute("BEGIN IMMEDIATE")
    if request.op == "record":
        # The daemon judges what it finds in the journal when it starts.
        journal = Journal(connection, hall.zone)
        answer = Answer(journal.append([(readings_of(request, now), now)]))
    elif request.op == "marks":
        answer = store_marks(connection, request)
    else:
        answer = change_tokens(connection, request, now)
    connection.execute("COMMIT")
    return answer


def _ask_daemon(path: Path, request: Request) -> Answer | None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        try:
            client.connect(str(path))
        except OSError:
            return None
        client.sendall(msgspec.json.encode(request) + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            more = client.recv(65536)
            if not more:
                raise DatabaseProblem("The daemon closed the connection without an answer.")
            received += more
    return msgspec.json.decode(received, type=Answer)
