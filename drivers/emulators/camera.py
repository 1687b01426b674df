"""Plays a camera that gives pictures by HTTP: of a drawn hall, at the moment it is asked.

For the demo, for commissioning without hardware, and for tests.

    GET /ISAPI/Streaming/channels/101/picture    200, image/jpeg
    GET anything else                            the same: each maker has a path of its own

    WWW-Authenticate: Digest realm="IP Camera", qop="auth", nonce="..."
    Authorization: Digest ... response = MD5(MD5(user:realm:password):nonce:nc:cnonce:qop:
                                             MD5(GET:path))
    Authorization: Basic base64(user:password)

Connections are kept until the client closes them.  OpenCV is loaded with the first picture.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import md5
from itertools import count
from typing import TYPE_CHECKING, Any

from drivers.emulators.http_peer import HttpPeer, read_request

if TYPE_CHECKING:
    from drivers.emulators.scene import Scene

PICTURE = "/ISAPI/Streaming/channels/101/picture"

Spell = tuple[int, int, str]
"""From and until (ms), and what is in the picture meanwhile."""

SHOWN: dict[str, dict[str, Any]] = {
    "seated": {},
    "away": {"seated": False},
    "passer": {"seated": False, "passer": 0.5},
    "coat": {"seated": False, "coat": True},
    "dummy": {"still": True},
    "night": {"seated": False, "light": 0.12},
    "black": {"black": True, "noise": 0.0},
    "covered": {"covered": 1.0},
    "partly_covered": {"covered": 0.6},
    "blurred": {"blur": 6.0},
    "moved": {"shift": (0.2, 0.0)},
    "frozen": {},
}
"""What may be in the picture: the clerk, nobody, somebody who passes, a coat on the chair, somebody
who does not move; and what may be wrong with it."""

QUALITY = 80
_HEAD_LIMIT = 16 * 1024
_REASONS = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
            405: "Method Not Allowed", 503: "Service Unavailable"}  # fmt: skip


class EmulatedCamera(HttpPeer):
    """One camera.  ``clock`` gives milliseconds; the recorder's text shows them as time of day.

    ``script``: what is in the picture when; outside its spells it is ``usual``.  Of two spells at
    one moment the later in the script counts.  Set an attribute at any time to play a fault.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        script: Sequence[Spell] = (),
        *,
        usual: str = "seated",
        user: str = "admin",
        password: str = "Abc12345",
        login: str = "digest",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        seed: int = 0,
    ) -> None:
        """``login``: ``digest``, ``basic`` or nothing.  A slow camera waits by ``sleep``."""
        super().__init__(head_limit=_HEAD_LIMIT)
        self._clock = clock
        self.script = list(script)
        self.usual = usual
        self.user, self.password, self.login = user, password, login
        self.realm = "IP Camera"
        self._sleep = sleep
        self._seed = seed
        self._scene: Scene | None = None
        self._drawn: tuple[tuple[int, str], bytes] | None = None
        self._nonces: set[str] = set()
        self._number = count(1)

        # faults
        self.status = 200
        """What every request is answered, if it is not 200: 401 403 404 503."""
        self.silent = False
        """Takes requests and never answers."""
        self.takes: Callable[[], float] = float
        """Seconds that it takes for the picture that is asked now."""
        self.part = 1.0
        """The share of a picture that it sends before it hangs up."""
        self.garbage = False
        """Sends what is no JPEG."""

        # what was asked of it
        self.requests: deque[str] = deque(maxlen=1000)
        self.pictures = 0
        self.wrong = 0
        """Requests with a wrong password."""

    # -- the picture

    @property
    def region(self) -> tuple[tuple[float, float], ...]:
        """The post in the picture: corners, 0..1."""
        return self._hall().region

    def shows(self, at: int) -> tuple[int, str]:
        """What is in the picture at ``at``, and since when."""
        for starts, ends, what in reversed(self.script):
            if starts <= at < ends:
                return starts, what
        return 0, self.usual

    def picture(self, at: int | None = None) -> bytes:
        """The JPEG of this moment."""
        at = self._clock() if at is None else at
        since, what = self.shows(at)
        if what == "frozen":
            at = since
        if self._drawn is None or self._drawn[0] != (at, what):
            from cv2 import IMWRITE_JPEG_QUALITY, imencode

            frame = self._hall().frame(at / 1000, neighbour=False, **SHOWN[what])
            _, jpeg = imencode(".jpg", frame, [IMWRITE_JPEG_QUALITY, QUALITY])
            self._drawn = (at, what), jpeg.tobytes()
        return self._drawn[1]

    def _hall(self) -> Scene:
        if self._scene is None:
            from drivers.emulators.scene import Scene

            self._scene = Scene(seed=self._seed)
        return self._scene

    # -- HTTP

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, fields, _ = await read_request(reader)
        self.requests.append(f"{method} {target}")
        if self.silent:
            await asyncio.Event().wait()
        status = self.status
        if method != "GET":
            status = 405
        elif status == 200 and not self._known(fields.get("authorization", ""), target):
            status = 401
        body, kind = b"", "text/html"
        if status == 200:
            if seconds := self.takes():
                await self._sleep(seconds)
            body, kind = self.picture(), "image/jpeg"
            self.pictures += 1
        elif status == 401:
            kind += f"\r\n{self._challenge()}"
        if self.garbage and body:
            body = b"<html>Not ready</html>"
        whole = len(body)
        body = body[: round(whole * self.part)]
        writer.write(
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {whole}\r\nConnection: keep-alive\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return len(body) == whole

    def _challenge(self) -> str:
        if self.login == "basic":
            return f'WWW-Authenticate: Basic realm="{self.realm}"'
        nonce = f"4d6b{next(self._number):08d}"
        self._nonces.add(nonce)
        return f'WWW-Authenticate: Digest realm="{self.realm}", qop="auth", nonce="{nonce}"'

    def _known(self, told: str, target: str) -> bool:
        shown = re.fullmatch(r"(\w+) +(.*)", told)
        if not self.login:
            return True
        if shown is None:
            return False
        if self.login == "basic":
            expected = b64encode(f"{self.user}:{self.password}".encode()).decode()
            good = shown[1].lower() == "basic" and shown[2] == expected
        else:
            good = self._digest(shown[2], target)
        self.wrong += not good
        return good

    def _digest(self, shown: str, target: str) -> bool:
        told = {
            name: quoted or plain
            for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', shown)
        }
        if told.get("nonce") not in self._nonces:
            return False
        secret = md5(f"{self.user}:{self.realm}:{self.password}".encode()).hexdigest()
        asked = md5(f"GET:{target}".encode()).hexdigest()
        middle = f"{told['nonce']}:{told.get('nc')}:{told.get('cnonce')}:auth"
        return told.get("response") == md5(f"{secret}:{middle}:{asked}".encode()).hexdigest()
