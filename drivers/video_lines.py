"""What the video driver and its worker process write to each other: one JSON object a line.

    daemon to worker (stdin)
    start        first: how to decode, and what all cameras of this worker share
    camera       watch this camera; one that is watched already begins anew
    references   what was learned of a camera was changed: begin with this
    hours        whether the hall is closed; open until told otherwise
    analyse      a JPEG of a camera in snapshot mode; answered by lines up to ``done``
    stop         tell what was learned, and end; so does the end of the input

    worker to daemon (stdout)
    hello        the worker is ready
    beat         every second: alive; when which camera last gave a frame; which threads are stuck
    opened       first frame after a (re)connection
    lost         the camera gives no frames, and why
    picture      the state of the picture, on change and after every (re)connection
    seat         the state of a post, likewise
    facts        live health of a camera
    keep         what was learned, to be kept over restarts
    full         the camera needs a worker that decodes everything
    trouble      something went wrong that stops nothing
    done         end of the answer to ``analyse``

Times are whole milliseconds of the machine's monotonic clock, which both processes read alike; in
snapshot mode they are the daemon's own.  Binary values are base64.  A line is at most
``LINE_LIMIT`` bytes.  Passwords stand in ``camera`` and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

LINE_LIMIT = 12 * 1024 * 1024
"""The greatest is an ``analyse`` with ``PICTURE_LIMIT`` bytes in base64."""
PICTURE_LIMIT = 8 * 1024 * 1024
KEPT_LIMIT = 512 * 1024
"""Bytes of one evidence picture, and characters of what was learned about one thing."""

Decoding = Literal["keyframes", "full", "snapshot"]
Cause = Literal[
    "dns", "refused", "timeout", "auth", "not_found", "sessions", "stall", "ended", "decode"
]

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class PostSetup(Struct, frozen=True):
    window: str
    region: tuple[Point, ...]
    person_share: float = 0.35
    still_after: int = 300
    references: bytes = b""


class CameraSetup(Struct, frozen=True, tag="camera", tag_field="kind"):
    id: str
    url: str
    username: str = ""
    password: str = ""
    interval: float = 2
    open_timeout: float = 5
    read_timeout: float = 8
    may_switch: bool = False
    """Whether ``full`` may be asked for."""
    masks: tuple[Box, ...] = ()
    ignore: tuple[str, ...] = ()
    frozen_after: float = 30
    covered_after: float = 8
    blurred_after: float = 60
    moved_after: float = 60
    dark_after: float = 60
    posts: tuple[PostSetup, ...] = ()
    detector: str = ""
    reference: bytes = b""
    wait: float = 0
    """Seconds before the first try: a camera that refused the password is left alone."""
    refusals: int = 0

    def __repr__(self) -> str:
        return f"CameraSetup({self.id!r})"


class Start(Struct, frozen=True, tag="start", tag_field="kind"):
    decoding: Decoding
    snapshots: bool = False


class References(Struct, frozen=True, tag="references", tag_field="kind"):
    camera: str
    picture: bytes = b""
    posts: dict[str, bytes] = {}


class Analyse(Struct, frozen=True, tag="analyse", tag_field="kind"):
    camera: str
    at: int
    jpeg: bytes
    anew: bool = False
    """The camera was lost: tell everything."""
    closed: bool = False


class Hours(Struct, frozen=True, tag="hours", tag_field="kind"):
    closed: bool


class Stop(Struct, frozen=True, tag="stop", tag_field="kind"):
    pass


Command = Start | CameraSetup | References | Hours | Analyse | Stop


class Hello(Struct, frozen=True, tag="hello", tag_field="kind"):
    opencv: str


class Beat(Struct, frozen=True, tag="beat", tag_field="kind"):
    seen: dict[str, int] = {}
    """When each camera's last frame came, if it ever gave one."""
    stuck: dict[str, float] = {}
    """Cameras whose thread does not come back from native code, and for how many seconds."""
    load: float = 0
    """Share of the processor budget that is used."""


class Opened(Struct, frozen=True, tag="opened", tag_field="kind"):
    camera: str
    at: int


class LostSight(Struct, frozen=True, tag="lost", tag_field="kind"):
    camera: str
    cause: Cause
    at: int
    wait: float = 0
    """Seconds until it is tried again."""
    status: int = 0
    """What the camera answered, where it did."""
    refusals: int = 0


class PictureTold(Struct, frozen=True, tag="picture", tag_field="kind"):
    camera: str
    since: int
    known: bool
    faults: tuple[str, ...] = ()
    shift: tuple[float, float] | None = None
    fault: str = ""
    """What ``jpeg`` shows."""
    jpeg: bytes = b""


class SeatTold(Struct, frozen=True, tag="seat", tag_field="kind"):
    camera: str
    window: str
    since: int
    state: str
    evidence: tuple[str, ...] = ()
    score: float | None = None
    reason: str = ""
    jpeg: bytes = b""


class Facts(Struct, frozen=True, tag="facts", tag_field="kind"):
    camera: str
    facts: dict[str, Any]


class Keep(Struct, frozen=True, tag="keep", tag_field="kind"):
    camera: str
    name: str
    """``picture``, or ``post:`` and the window."""
    learned: bytes


class NeedsFull(Struct, frozen=True, tag="full", tag_field="kind"):
    camera: str
    gop: float


class Trouble(Struct, frozen=True, tag="trouble", tag_field="kind"):
    text: str
    camera: str = ""


class Done(Struct, frozen=True, tag="done", tag_field="kind"):
    decoded: bool = True


Message = (
    Hello
    | Beat
    | Opened
    | LostSight
    | PictureTold
    | SeatTold
    | Facts
    | Keep
    | NeedsFull
    | Trouble
    | Done
)

_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def command(line: bytes) -> Command:
    """A line for the worker; ``ValueError`` where it is none."""
    try:
        return _commands.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no command: {error}") from None
    except RecursionError:
        raise ValueError("no command: nested too deeply") from None


def message(line: bytes) -> Message:
    """A line from the worker; ``ValueError`` where it is none."""
    try:
        return _messages.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no message of a worker: {error}") from None
    except RecursionError:
        raise ValueError("no message of a worker: nested too deeply") from None


def line(told: Command | Message) -> bytes:
    return msgspec.json.encode(told) + b"\n"


PAUSES = (1, 2, 4, 8, 15, 30)
STEADY = 60
"""Seconds of frames after which a loss counts as the first."""
PROVEN = 10
"""Seconds for which a password that was accepted is taken to be right."""
REFUSALS = 2
REFUSED_PAUSE = 1800
"""Hikvision shuts the source address out after five to seven wrong passwords, and with it every
other program that asks the same recorder from here."""


def pause(cause: Cause, failures: int, refusals: int) -> float:
    """Seconds to leave a camera alone after ``failures`` tries in a row, of which ``refusals`` were
    wrong passwords."""
    match cause:
        case "auth" if refusals >= REFUSALS:
            return REFUSED_PAUSE
        case "not_found" | "sessions":
            return 60
    return PAUSES[min(max(failures, 1), len(PAUSES)) - 1]


def account(url: str, username: str) -> tuple[str, int, str]:
    """Whom a device shuts out after wrong passwords, whatever channel was asked for."""
    parts = urlsplit(url)
    usual = {"rtsp": 554, "rtsps": 322, "https": 443}.get(parts.scheme, 80)
    return parts.hostname or "", parts.port or usual, username


WORDS: dict[Cause, tuple[str, str]] = {
    "dns": ("找不到摄像头的主机名", "the name of the camera cannot be resolved"),
    "refused": ("摄像头拒绝连接", "the camera refused the connection"),
    "timeout": ("摄像头没有应答", "the camera does not answer"),
    "auth": ("摄像头不接受用户名或密码", "the camera refused the user name or the password"),
    "not_found": (
        "摄像头没有这路视频，请检查通道号",
        "the camera has no such stream; check the channel",
    ),
    "sessions": (
        "摄像头连接数已满，请改从录像机取流或用抓图方式",
        "the camera has too many viewers; take the stream from the recorder, or use snapshots",
    ),
    "stall": ("摄像头停止传送画面", "the camera stopped sending pictures"),
    "ended": ("摄像头关闭了视频流", "the camera ended the stream"),
    "decode": ("画面无法解码", "the pictures cannot be decoded"),
}


def in_words(cause: Cause, status: int = 0) -> str:
    zh, en = WORDS[cause]
    return f"{zh} / {en}" + (f" ({status})" if status else "")


def read_password(path: str) -> str:
    """The first line of the file.  ``ValueError`` with a sentence."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"密码文件无法读取 / password_file {path}: {error}") from None
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password or len(password) > 256 or not password.isprintable():
        raise ValueError(
            f"密码文件内容无效 / password_file {path}: expected one line of at most 256 signs"
        )
    return password
