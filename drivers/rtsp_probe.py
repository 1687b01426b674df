"""Why an RTSP camera cannot be opened: a few requests of our own, for OpenCV does not tell.

    OPTIONS rtsp://host/path RTSP/1.0      is anybody there who speaks RTSP
    DESCRIBE ... Accept: application/sdp   path and password; a 401 is answered once
    SETUP track, interleaved 0-1           is there a session left; only when asked for (``setup``)
    PLAY                                   do packets come, whatever is in them; only for ``flows``
    TEARDOWN                               ends what was set up

    answer                                 cause
    no address for the name                dns
    connection refused or reset            refused
    no route, no answer in time            timeout
    something that is not RTSP             decode
    401, 403                               auth
    453, 500 to 599                        sessions
    any other but 200                      not_found

Blocking sockets, for a thread of the worker; one connection, one deadline, one wrong password.
As FFmpeg does, ``rtsps`` accepts any certificate: cameras have none that could be checked.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Generator
from dataclasses import dataclass, field
from secrets import token_hex
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from drivers.isapi import challenge_of, digest_answer
from drivers.video_lines import Cause

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024
PACKETS = 3
"""So many interleaved packets are a stream that flows."""


class Found(NamedTuple):
    """``cause`` is none where nothing speaks against the stream."""

    cause: Cause | None = None
    status: int = 0


class Reply(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")


# --------------------------------------------------------------------------------------------
# Pure functions
# --------------------------------------------------------------------------------------------

_STATUS = re.compile(r"RTSP/\d\.\d (\d{3})(?: |$)", re.ASCII)


def split(data: bytes) -> tuple[Reply | bytes | None, bytes]:
    """The first reply, or the first interleaved packet, and the rest; none where more must come.

    Raises ``ValueError`` with what was expected.
    """
    if data[:1] == b"$":
        if len(data) < 4:
            return None, data
        end = 4 + int.from_bytes(data[2:4])
        return (data[:end], data[end:]) if len(data) >= end else (None, data)
    known = b"RTSP/"
    if not data.startswith(known[: len(data)]):
        raise ValueError("expected RTSP/1.0, a status and a reason")
    head, ended, rest = data.partition(b"\r\n\r\n")
    if not ended:
        if len(data) > HEAD_LIMIT:
            raise ValueError(f"expected the head of a reply to end within {HEAD_LIMIT} bytes")
        return None, data
    first, *fields = head.decode("latin-1").split("\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise ValueError("expected RTSP/1.0, a status and a reason")
    headers = []
    for one in fields:
        name, colon, value = one.partition(":")
        if colon:
            headers.append((name.strip().lower(), value.strip()))
    length = next((value for name, value in headers if name == "content-length"), "0")
    if not re.fullmatch("[0-9]{1,6}", length) or int(length) > BODY_LIMIT:
        raise ValueError(f"Content-Length: expected a number up to {BODY_LIMIT}")
    if len(rest) < int(length):
        return None, data
    reply = Reply(int(status.group(1)), tuple(headers), rest[: int(length)])
    return reply, rest[int(length) :]


def cause_of(status: int) -> Cause | None:
    if status in (401, 403):
        return "auth"
    if status == 453 or status >= 500:
        return "sessions"
    return None if status == 200 else "not_found"


def video_track(reply: Reply, url: str) -> str | None:
    """The address to SETUP for the first video track that a DESCRIBE tells of, if there is one."""
    base = reply.one("content-base") or reply.one("content-location") or url
    found = False
    for row in reply.body.decode("latin-1").splitlines():
        if row.startswith("m="):
            if found:
                return base
            found = row.startswith("m=video")
        elif found and row.startswith("a=control:"):
            control = row.removeprefix("a=control:").strip()
            if control in ("", "*"):
                return base
            if control.startswith(("rtsp://", "rtsps://")):
                return control
            # Appended, not joined: cameras keep the track behind a query too.
            return base.rstrip("/") + "/" + control
    return base if found else None


def authorization(
    challenges: list[str], username: str, password: str, method: str, target: str, nc: int = 1
) -> str | None:
    """The Authorization field that answers these WWW-Authenticate fields, if any can be."""
    if challenge := challenge_of(challenges):
        return digest_answer(challenge, username, password, method, target, nc, token_hex(8))
    if any(re.match(r"\s*basic\b", one, re.IGNORECASE) for one in challenges):
        return "Basic " + b64encode(f"{username}:{password}".encode()).decode("ascii")
    return None


class Login(httpx.Auth):
    """The same for pictures by HTTP: no password before it is asked for, and of each request one
    refusal: an answer to a nonce that may have run out is none."""

    def __init__(self, username: str, password: str) -> None:
        self._username, self._password = username, password
        self._challenges: list[str] = []
        self._nc = 0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        known = bool(self._challenges)
        if known:
            self._answer(request)
        response = yield request
        if response.status_code != 401 or not self._username:
            return
        # A refused answer to an old challenge may only mean that its nonce has run out, which not
        # every device says.
        fresh = _asked(response)
        again = not known or _stale(fresh) or _nonce(fresh) != _nonce(self._challenges)
        self._challenges, self._nc = (fresh if again else []), 0
        if again and self._answer(request):
            response = yield request
            if response.status_code == 401:
                fresh = _asked(response)
                self._challenges, self._nc = (fresh if _stale(fresh) else []), 0

    def _answer(self, request: httpx.Request) -> bool:
        self._nc += 1
        target = request.url.raw_path.decode("ascii")
        answer = authorization(
            self._challenges, self._username, self._password, request.method, target, self._nc
        )
        if answer is not None:
            request.headers.encoding = "latin-1"
            request.headers["Authorization"] = answer
        return answer is not None


def _asked(response: httpx.Response) -> list[str]:
    raw = response.headers.raw
    return [value.decode("latin-1") for key, value in raw if key.lower() == b"www-authenticate"]


def _stale(challenges: list[str]) -> bool:
    return any(re.search(r"stale\s*=\s*\"?true", one, re.I) for one in challenges)


def _nonce(challenges: list[str]) -> str:
    challenge = challenge_of(challenges)
    return challenge.nonce if challenge else ""


# --------------------------------------------------------------------------------------------
# The conversation
# --------------------------------------------------------------------------------------------


@dataclass
class Conversation:
    """One connection to the camera; raises ``OSError`` (``TimeoutError`` at the deadline) and
    ``ValueError``."""

    url: str
    username: str
    password: str = field(repr=False)
    timeout: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "rtsps"
        self._host = parts.hostname or ""
        self._port = parts.port or (322 if secure else 554)
        self._secure = secure
        self._cseq = 0
        self._buffer = b""
        self._challenges: list[str] = []
        self._until = time.monotonic() + self.timeout
        self._socket: socket.socket | None = None

    def __enter__(self) -> Conversation:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        # Looking a name up can not be limited; it does not count.
        self._until = time.monotonic() + self.timeout
        failed: OSError = TimeoutError("no address")
        for *_, address in found:
            try:
                plain = socket.create_connection((str(address[0]), self._port), self._left())
            except OSError as error:
                failed = error
                continue
            try:
                self._socket = _secured(plain, self._host) if self._secure else plain
            except OSError:
                plain.close()
                raise
            return self
        raise failed

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    def ask(self, method: str, target: str, **headers: str) -> Reply:
        """The reply; a first 401 is answered with the password."""
        reply = self._ask(method, target, headers)
        if reply.status != 401 or not self.username or self._challenges:
            return reply
        self._challenges = reply.all("www-authenticate")
        return self._ask(method, target, headers)

    def packets(self, count: int) -> bool:
        """Whether so many interleaved packets come before the deadline."""
        while count:
            if isinstance(self._next(), bytes):
                count -= 1
        return True

    def send(self, method: str, target: str, headers: dict[str, str]) -> None:
        self._cseq += 1
        rows = [f"{method} {target} RTSP/1.0", f"CSeq: {self._cseq}", "User-Agent: hallwatch"]
        if self._challenges:
            answer = authorization(
                self._challenges, self.username, self.password, method, target, self._cseq
            )
            if answer is not None:
                rows.append(f"Authorization: {answer}")
        rows += [f"{name}: {value}" for name, value in headers.items()]
        assert self._socket is not None
        self._socket.settimeout(self._left())
        self._socket.sendall(("\r\n".join(rows) + "\r\n\r\n").encode("latin-1", "replace"))

    def _ask(self, method: str, target: str, headers: dict[str, str]) -> Reply:
        self.send(method, target, headers)
        while not isinstance(reply := self._next(), Reply):
            pass
        return reply

    def _next(self) -> Reply | bytes:
        assert self._socket is not None
        while True:
            one, self._buffer = split(self._buffer)
            if one is not None:
                return one
            self._socket.settimeout(self._left())
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("the camera closed the connection")
            self._buffer += chunk

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left


def _secured(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def probe(
    url: str, username: str = "", password: str = "", timeout: float = 5, setup: bool = False
) -> Found:
    """What speaks against opening this stream.  Counts as one wrong password where it is wrong."""
    try:
        with Conversation(url, username, password, timeout) as camera:
            reply = camera.ask("OPTIONS", url)
            if cause_of(reply.status) == "auth":
                # Asking on would be a second wrong password.
                return Found("auth", reply.status)
            reply = camera.ask("DESCRIBE", url, Accept="application/sdp")
            if (cause := cause_of(reply.status)) or not setup:
                return Found(cause, reply.status)
            return _set_up(camera, reply, url)
    except (OSError, ValueError) as error:
        return Found(_cause(error))


def flows(url: str, username: str = "", password: str = "", timeout: float = 1) -> bool:
    """Whether the camera sends packets, though perhaps no pictures for a long time."""
    try:
        with Conversation(url, username, password, timeout) as camera:
            reply = camera.ask("DESCRIBE", url, Accept="application/sdp")
            if reply.status != 200:
                return False
            track = video_track(reply, url)
            if track is None:
                return False
            session = _session(camera.ask("SETUP", track, Transport=_TRANSPORT))
            if not session:
                return False
            camera.send("PLAY", reply.one("content-base") or url, {"Session": session})
            came = camera.packets(PACKETS)
            camera.send("TEARDOWN", url, {"Session": session})
            return came
    except (OSError, ValueError):
        return False


_TRANSPORT = "RTP/AVP/TCP;unicast;interleaved=0-1"


def _set_up(camera: Conversation, described: Reply, url: str) -> Found:
    track = video_track(described, url)
    if track is None:
        return Found("decode", described.status)
    reply = camera.ask("SETUP", track, Transport=_TRANSPORT)
    if session := _session(reply):
        camera.send("TEARDOWN", url, {"Session": session})
    return Found(cause_of(reply.status), reply.status)


def _session(reply: Reply) -> str:
    session = reply.one("session").partition(";")[0].strip()
    return session if reply.status == 200 and re.fullmatch(r"[!-~]{1,128}", session) else ""


def _cause(error: Exception) -> Cause:
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ConnectionError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "decode" if isinstance(error, (ssl.SSLError, ValueError)) else "timeout"
