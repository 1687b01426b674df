"""Cameras over real RTSP and HTTP, with the worker as the process that it is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import pytest

from drivers import video
from drivers.base import LookAgain, Order
from drivers.emulators.scene import Scene
from drivers.picture import PictureOptions, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView
from drivers.video import Post, Video, VideoOptions
from rules.model import DeviceEvent, Picture, Reading, Seat, Unreadable

SERVER = Path(__file__).parent / "rtsp_server.py"
PASSWORD = "s3cret:/@%密"
SCENE = Scene(320, 180, seed=3)
POST = Post("w1", SCENE.region)

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and Path("/usr/bin/python3").exists()),
    reason="needs ffmpeg and the system's Python with GStreamer",
)


@dataclass(frozen=True)
class Spec:
    id: str
    options: VideoOptions
    window: str = ""


class Hall:
    """A daemon in small."""

    zone = ZoneInfo("Asia/Shanghai")
    windows = ("w1",)
    snapshots = True
    closed = False

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.marks: dict[tuple[str, str], str] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.contacts: dict[str, float] = {}
        self.losses: dict[str, list[tuple[float, str]]] = {}
        self.pictures: dict[str, bytes] = {}
        self.orders: asyncio.Queue[tuple[str, Order]] = asyncio.Queue()
        self.disk_full = 0

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        if self.disk_full:
            self.disk_full -= 1
            raise OSError("no space left")
        self.readings += readings
        self.marks.update(marks or {})
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def keep_snapshot(self, device: str, at: int, subject: str, jpeg: bytes) -> str:  # noqa: ARG002
        self.pictures[name := f"{device}-{subject}"] = jpeg
        return name

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def contact(self, device: str) -> None:
        self.contacts[device] = time.monotonic()

    def lost(self, device: str, reason: str) -> None:
        self.losses.setdefault(device, []).append((time.monotonic(), reason))

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        return await self.orders.get()

    def up(self, device: str) -> bool:
        """Whether the last that was heard of it was a frame."""
        lost = self.losses.get(device, [(0.0, "")])[-1][0]
        return self.contacts.get(device, -1.0) > lost

    def why(self, device: str) -> str:
        return self.losses[device][-1][1] if device in self.losses else ""

    def last(self, device: str, kind: type) -> Any:
        found = (r.body for r in reversed(self.readings) if r.device == device)
        return next((body for body in found if type(body) is kind), None)

    def everything(self) -> str:
        """All that anybody could read."""
        return repr((self.readings, self.marks, self.notes, self.losses))


async def until(met: Callable[[], object], seconds: float = 15) -> float:
    """How long it took."""
    began = time.monotonic()
    while not met():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@asynccontextmanager
async def running(hall: Hall, *specs: Spec) -> Any:
    driver = Video(specs)
    task = asyncio.create_task(driver.run(hall))  # type: ignore[arg-type]
    try:
        yield driver
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def workers() -> list[int]:
    """The worker processes of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"video_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


# Clips and servers ---------------------------------------------------------------------------


def ffmpeg(file: Path, *arguments: str, frames: Sequence[bytes] = ()) -> None:
    command = ["ffmpeg", "-loglevel", "error", "-y", *arguments, str(file)]
    subprocess.run(command, input=b"".join(frames), check=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "320x180", "-r", "10", "-i", "-"]
    frames = [SCENE.frame(n / 10).tobytes() for n in range(150)]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-sc_threshold", "0"]
    h264 += ["-pix_fmt", "yuv420p", "-crf", "18"]
    ffmpeg(folder / "once.h264.mp4", *raw, *h264, "-g", "10", frames=frames)
    again = ["-stream_loop", "7", "-i", str(folder / "once.h264.mp4"), "-c", "copy"]
    ffmpeg(folder / "hall.h264.mp4", *again)
    ffmpeg(folder / "short.h264.mp4", *raw, *h264, "-g", "10", frames=frames[:30])
    ffmpeg(folder / "rare.h264.mp4", *raw, *h264, "-g", "110", frames=frames * 2)
    x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    x265 += ["-x265-params", "log-level=none:keyint=10:min-keyint=10:bframes=0"]
    ffmpeg(folder / "hall.h265.mp4", *raw, *x265, frames=frames)
    odd = ["-vf", "scale=334:182,format=yuv444p", "-c:v", "libx264", "-preset", "ultrafast"]
    ffmpeg(folder / "odd.h264.mp4", *raw, *odd, "-g", "10", frames=frames)
    mjpeg = ["-vf", "scale=320:176,format=yuvj420p", "-c:v", "mjpeg", "-q:v", "5"]
    ffmpeg(folder / "hall.jpeg.mkv", *raw, *mjpeg, frames=frames)
    parts = [folder / "one.ts", folder / "two.ts"]
    for part, size, offset in zip(parts, ("320:180", "640:360"), ("0", "2"), strict=True):
        more = ["-vf", f"scale={size}", "-output_ts_offset", offset]
        ffmpeg(part, *raw, *h264, "-g", "10", *more, frames=frames[:20])
    (folder / "sizes.ts").write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    return folder


class Server:
    """A GStreamer RTSP server in a process of its own."""

    def __init__(self, clips: Path, *auth: str) -> None:
        names = ("hall.h264.mp4", "short.h264.mp4", "rare.h264.mp4", "hall.h265.mp4")
        names += ("hall.jpeg.mkv", "odd.h264.mp4")
        self._files = json.dumps({f"/{name}": str(clips / name) for name in names})
        self._auth = auth or ("", "", "")
        self.port = "0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["/usr/bin/python3", str(SERVER), self._files, *self._auth, self.port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().decode().strip()
        if not self.port:
            pytest.skip("the system's Python has no GStreamer RTSP server")

    def url(self, name: str = "hall.h264.mp4") -> str:
        return f"rtsp://127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def open_server(clips: Path) -> Iterator[Server]:
    server = Server(clips)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def digest_server(clips: Path) -> Iterator[Server]:
    server = Server(clips, "viewer", PASSWORD, "digest")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def basic_server(clips: Path) -> Iterator[Server]:
    server = Server(clips, "viewer", PASSWORD, "basic")
    yield server
    server.stop()


class Refusing:
    """A camera that refuses every password, and counts them."""

    def __init__(self) -> None:
        self.tries = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/s"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := client.recv(4096):
                self.tries += request.count(b"Authorization:")
                head = b"RTSP/1.0 401 Unauthorized\r\nCSeq: %d\r\n"
                number = int(request.partition(b"CSeq: ")[2].split(b"\r\n")[0])
                client.sendall(
                    head % number + b'WWW-Authenticate: Digest realm="IPC", nonce="n"\r\n\r\n'
                )

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    camera = Refusing()
    yield camera
    camera.close()


@pytest.fixture
def deaf() -> Iterator[tuple[str, str]]:
    """Addresses where connections are accepted and never answered, and where nobody accepts."""
    accepting = socket.create_server(("127.0.0.1", 0), backlog=50)
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    urls = [f"rtsp://127.0.0.1:{one.getsockname()[1]}/s" for one in (accepting, full)]
    yield urls[0], urls[1]
    for one in (accepting, full, *fillers):
        one.close()


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "camera-password"
    file.write_text(PASSWORD, "utf-8")
    return str(file)


def options(url: str, **more: Any) -> VideoOptions:
    quick = {"interval": 0.5, "open_timeout": 1.5, "read_timeout": 2.5}
    return VideoOptions(url, **quick | more)


def learned() -> dict[str, bytes]:
    watch = PictureWatch(PictureOptions())
    for n in range(90):
        state = watch.see(2000 * n, shrink(SCENE.luma((2 * n) % 15)))
    view = PostView(PostOptions(SCENE.region))
    view.learn_empty([shrink(SCENE.luma(n, seated=False)) for n in range(15)], state.bucket)
    reference, references = watch.reference(), view.references()
    assert reference is not None
    assert references is not None
    return {"picture": reference, "post:w1": references}


LEARNED = {name: b64encode(blob).decode() for name, blob in learned().items()}


def taught(hall: Hall, *cameras: str) -> None:
    for camera in cameras:
        hall.marks.update({(camera, name): text for name, text in LEARNED.items()})


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 90))


# Streams -------------------------------------------------------------------------------------


def test_good_and_dead_cameras_side_by_side(
    open_server: Server,
    digest_server: Server,
    basic_server: Server,
    refusing: Refusing,
    deaf: tuple[str, str],
    password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "PASSWORDS_EVERY", 1.0)
    login = {"username": "viewer", "password_file": password}
    with socket.create_server(("127.0.0.1", 0)) as one:
        closed = f"rtsp://127.0.0.1:{one.getsockname()[1]}/s"
    good = {
        "h264": options(open_server.url(), posts=(POST,)),
        "h265": options(open_server.url("hall.h265.mp4")),
        "jpeg": options(open_server.url("hall.jpeg.mkv")),
        "odd": options(open_server.url("odd.h264.mp4"), mode="full"),
        "digest": options(digest_server.url(), **login),
        "basic": options(basic_server.url(), **login),
    }
    bad = {
        "no-path": (options(open_server.url("none")), "(404)"),
        "refused": (options(closed), "refused the connection"),
        "dns": (options("rtsp://no-such-name.invalid/s"), "cannot be resolved"),
        "silent": (options(deaf[0]), "does not answer"),
        "hole": (options(deaf[1]), "does not answer"),
        "wrong": (options(refusing.url, **login), "refused the user name"),
        "no-login": (options(digest_server.url()), "refused the user name"),
        "no-file": (options("/no/such/clip.mp4"), "cannot be decoded"),
        "no-password": (
            options(closed, username="a", password_file="/no/such/file"), "无法读取",
        ),
    }  # fmt: skip
    # So many that they would take all places among those that may open at once.
    dead = {f"dead-{n}": options(deaf[n % 2]) for n in range(8)}

    async def test() -> None:
        hall = Hall()
        taught(hall, "h264")
        specs = {**dead, **good, **{name: told for name, (told, _) in bad.items()}}
        async with running(hall, *(Spec(name, told) for name, told in specs.items())):
            await until(lambda: all(hall.up(name) for name in good))
            await until(lambda: all(why in hall.why(name) for name, (_, why) in bad.items()))
            await until(lambda: len(hall.losses["wrong"]) == 2)
            await until(lambda: isinstance(hall.last("h264", Seat), Seat))
            await until(lambda: hall.last("h264", Seat).state == "occupied")
            assert hall.last("h264", Picture) == Picture()
            for pid in workers():
                for secret in ("cmdline", "environ"):
                    told = Path(f"/proc/{pid}/{secret}").read_bytes()
                    assert PASSWORD.encode() not in told
                    assert b"s3cret" not in told
            await asyncio.sleep(2)
            assert hall.notes["wrong"]["next_try_s"] == 1800
            assert refusing.tries == 2
            assert hall.notes["odd"]["mode"] == "full"
            assert (hall.notes["h265"]["codec"], hall.notes["jpeg"]["codec"]) == ("hevc", "MJPG")
            assert 60 < hall.notes["jpeg"]["brightness"] < 200
            assert "s3cret" not in hall.everything()
            assert hall.losses.keys() == bad.keys() | dead.keys()
            # A restart of everything does not forget that the password was refused.
        assert workers() == []
        again = Hall()
        again.marks = hall.marks
        async with running(again, Spec("wrong", specs["wrong"])):
            await until(lambda: "refused the user name" in again.why("wrong"))
            await asyncio.sleep(1.5)
            assert refusing.tries == 2
            # A new password may be right.
            Path(password).write_text("other")
            os.utime(password, (1, 1))
            await until(lambda: refusing.tries == 3, 15)

    run(test())


def test_a_server_that_freezes_dies_and_comes_back(
    clips: Path, digest_server: Server, password: str
) -> None:
    server = Server(clips)

    async def test() -> None:
        hall = Hall()
        taught(hall, "hall", "other")
        login = {"username": "viewer", "password_file": password}
        specs = (
            Spec("hall", options(server.url(), posts=(POST,))),
            Spec("other", options(digest_server.url(), **login)),
        )
        async with running(hall, *specs):
            await until(lambda: hall.up("hall") and hall.up("other"))
            await until(lambda: (seat := hall.last("hall", Seat)) and seat.state == "occupied")

            server.process.send_signal(signal.SIGSTOP)
            took = await until(lambda: "stopped sending" in hall.why("hall"))
            assert took < 2.5 + 1 + 1.5  # one read timeout, the question whether packets flow
            assert hall.last("hall", Seat).state == "unknown"
            assert hall.last("hall", Picture) == Picture(known=False)
            server.process.send_signal(signal.SIGCONT)
            await until(lambda: hall.up("hall"), 10)
            await until(lambda: hall.last("hall", Picture) == Picture())

            server.stop()
            took = await until(lambda: not hall.up("hall"))
            assert took < 1
            assert hall.last("hall", Picture) == Picture(known=False)
            server.start()
            await until(lambda: hall.up("hall"), 10)
            await until(lambda: hall.last("hall", Picture) == Picture())
            for kind in (Seat, Picture):  # by their dates, what was told last holds
                told = [one for one in hall.readings if one.device == "hall"]
                dates = [one.at for one in told if type(one.body) is kind]
                assert dates == sorted(set(dates))
            assert "other" not in hall.losses
            assert hall.notes["hall"]["reconnects_1h"] >= 2

            # Leaving does not wait for a grab that waits for a frozen server.
            server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.5)
            began = time.monotonic()
        assert time.monotonic() - began < video.STOPPING + 1
        assert workers() == []

    try:
        run(test())
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_a_worker_that_dies_or_hangs_makes_posts_unknown_and_no_camera_lost(
    clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(video, "SILENT", 2.5)

    async def test() -> None:
        hall = Hall()
        taught(hall, "hall")
        file = str(clips / "hall.h264.mp4")

        def seat() -> Seat:
            return hall.last("hall", Seat) or Seat("w1", "")

        async with running(hall, Spec("hall", options(file, posts=(POST,)))):
            await until(lambda: seat().state == "occupied")
            for blow in (signal.SIGKILL, signal.SIGSTOP):
                await until(lambda: hall.last("hall", Picture) == Picture())
                (pid,) = workers()
                os.kill(pid, blow)
                await until(lambda: hall.last("hall", Picture) == Picture(known=False))
                await until(lambda: seat().state == "unknown")
            assert any("restarted" in r.body.reason for r in hall.readings if type(r.body) is Seat)
            await until(lambda: seat().state == "occupied")
            assert hall.last("hall", Picture) == Picture()
            assert hall.notes["hall"]["worker_restarts"] == 2
        assert hall.losses == {}
        # Nobody keeps a descriptor or a child.
        assert workers() == []

    run(test())
    assert "Unknown child process" not in caplog.text


def test_streams_that_end_or_have_rare_key_frames(open_server: Server, clips: Path) -> None:
    async def test() -> None:
        hall = Hall()
        specs = (
            Spec("short", options(open_server.url("short.h264.mp4"))),
            Spec("rare", options(open_server.url("rare.h264.mp4"), mode="keyframes")),
            Spec("auto", options(open_server.url("rare.h264.mp4"), posts=(POST,))),
            Spec("sizes", options(str(clips / "sizes.ts"))),
            Spec("clip", options(str(clips / "short.h264.mp4"))),
        )
        async with running(hall, *specs):
            await until(lambda: len(hall.losses.get("short", [])) == 2, 25)
            await until(lambda: hall.notes.get("auto", {}).get("mode") == "full", 25)
            await until(lambda: hall.notes.get("rare", {}).get("advice", ""), 25)
            assert hall.up("rare")
            assert hall.up("auto")
            assert hall.notes["sizes"]["brightness"] > 20

        # Each end of the stream is one loss, with a pause before the next look.
        assert {why for _, why in hall.losses["short"]} == {
            "摄像头关闭了视频流 / the camera ended the stream"
        }
        # Packets flow all the time, and a clip begins again without being lost.
        assert hall.losses.keys() == {"short"}
        pictures = [r for r in hall.readings if r.device == "clip"]
        assert len(pictures) == 1

    run(test())


# A worker that cannot be trusted -------------------------------------------------------------

HOSTILE = """
import sys, time
def say(text): sys.stdout.write(text + "\\n"); sys.stdout.flush()
sys.stdin.readline()
say('{"kind":"hello","opencv":"0"}')
for n in range(50): say("nonsense")
say('{"kind":"seat","camera":"c","window":"w9","since":1,"state":"empty"}')
say('{"kind":"seat","camera":"nobody","window":"w1","since":1,"state":"empty"}')
say('{"kind":"seat","camera":"c","window":"w1","since":1,"state":"dancing"}')
say('{"kind":"picture","camera":"c","since":-999999999999999999,"known":true,"faults":["ugly"]}')
say('{"kind":"picture","camera":"c","since":-999999999999999999,"known":true}')
say('{"kind":"keep","camera":"c","name":"password","learned":"AAAA"}')
say('{"kind":"facts","camera":"c","facts":{"device":"x","a b":1,"health":"ok"}}')
say('{"kind":"full","camera":"nobody","gop":1}')
for n in range(50): say('{"kind":"trouble","camera":"c","text":"again"}')
say('{"kind":"seat","camera":"c","window":"w1","since":1,"state":"occupied"}')
say('{"kind":"beat","stuck":{"c":4.0}}')
say('{"kind":"beat","stuck":{"c":400.0}}')
time.sleep(60)
"""


def test_what_a_worker_says_is_not_trusted(monkeypatch: pytest.MonkeyPatch, clips: Path) -> None:
    monkeypatch.setattr(video, "COMMAND", (sys.executable, "-c", HOSTILE))

    async def test() -> None:
        hall = Hall()
        hall.disk_full = 1
        async with running(hall, Spec("c", options(str(clips / "hall.h264.mp4"), posts=(POST,)))):
            hall.sleep = lambda _: asyncio.sleep(0.01)  # type: ignore[method-assign]
            await until(lambda: hall.notes.get("c", {}).get("worker_restarts", 0) >= 2)

        seats = [r.body for r in hall.readings if isinstance(r.body, Seat)]
        assert {one.window for one in seats} == {"w1"}
        assert [one.state for one in seats[:2]] == ["occupied", "unknown"]
        pictures = [r for r in hall.readings if isinstance(r.body, Picture)]
        assert {one.body for one in pictures} == {Picture(), Picture(known=False)}
        assert all(one.at > 0 for one in pictures)
        assert hall.marks == {}
        unreadable = [r for r in hall.readings if isinstance(r.body, Unreadable)]
        assert len(unreadable) == video.UNREADABLE_AN_HOUR
        troubles = [r for r in hall.readings if isinstance(r.body, DeviceEvent)]
        assert len(troubles) == video.TROUBLES_AN_HOUR
        assert hall.notes["c"]["health"] == "ok"
        assert "a b" not in hall.notes["c"]
        assert "stopped sending" in hall.why("c")
        assert "do not come back" in hall.notes["c"]["worker_error"]

    run(test())


@pytest.mark.parametrize(
    "worker", ["import time; time.sleep(60)", "pass", "print('x' * 20_000_000)"]
)
def test_a_worker_that_never_gets_ready_is_started_again(
    worker: str, monkeypatch: pytest.MonkeyPatch, clips: Path
) -> None:
    monkeypatch.setattr(video, "COMMAND", (sys.executable, "-c", worker))
    monkeypatch.setattr(video, "WAKING_UP", 0.5)

    async def test() -> None:
        hall = Hall()
        hall.sleep = lambda _: asyncio.sleep(0.01)  # type: ignore[method-assign]
        async with running(hall, Spec("c", options(str(clips / "hall.h264.mp4")))):
            await until(lambda: hall.notes.get("c", {}).get("worker_restarts", 0) >= 2)
            assert hall.losses == {}
            await until(lambda: "the video worker does not run" in hall.why("c"))
        assert workers() == []

    run(test())


# Snapshots in simulated time -----------------------------------------------------------------


class SlowHall(Hall):
    """Time passes only when everybody waits for it; faster than the hall's."""

    windows = ("w1", "w2")

    def __init__(self) -> None:
        super().__init__()
        self.at = 1_772_413_200_000

    def now(self) -> int:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.at += round(1000 * seconds)


@dataclass
class Still:
    """A camera that gives a JPEG of the scene by HTTP, with Digest; ``scene``: what it shows."""

    hall: Hall

    def __post_init__(self) -> None:
        self.scene: dict[str, Any] = {}
        self.answer: Callable[[], tuple[int, bytes]] | None = None
        self.tries = 0
        self._began = self.hall.now()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                camera.tries += bool(given)
                status, body = 200, b""
                if 'username="viewer"' not in given:
                    status = 401
                elif camera.answer is not None:
                    status, body = camera.answer()
                else:
                    body = camera.jpeg()
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Digest realm="r", nonce="n"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/picture"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def jpeg(self) -> bytes:
        second = (self.hall.now() - self._began) / 1000
        frame = SCENE.frame(second, **self.scene)
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def with_still(test: Callable[[SlowHall, Still], Awaitable[None]]) -> SlowHall:
    hall = SlowHall()
    camera = Still(hall)

    async def whole() -> None:
        await test(hall, camera)

    try:
        run(whole())
    finally:
        camera.close()
    return hall


async def passes(hall: SlowHall, seconds: float) -> None:
    end = hall.at + 1000 * seconds
    await until(lambda: hall.at >= end, 40)


def still(camera: Still, password: str, **more: Any) -> Spec:
    more = {"interval": 2.0, "posts": (POST,), "username": "viewer"} | more
    return Spec("c", options(camera.url, password_file=password, **more))


def test_snapshots_in_simulated_time_are_exact(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        taught(hall, "c")
        async with running(hall, still(camera, password)):
            await passes(hall, 60)
            assert hall.last("c", Seat).state == "occupied"
            left = hall.at
            camera.scene = {"seated": False}
            await passes(hall, 90)
            empty = hall.last("c", Seat)
            (at,) = (r.at for r in hall.readings if r.body is empty)
            assert (empty.state, empty.window, empty.snapshot) == ("empty", "w1", "c-w1-empty")
            assert abs(at - left) <= 6_000
            camera.scene = {"covered": 1.0}
            began = hall.at
            await passes(hall, 14)
            picture = hall.last("c", Picture)
            assert picture.faults[0] in ("covered", "black")
            assert picture.snapshot == f"c-{picture.faults[0]}"
            (at,) = (r.at for r in hall.readings if r.body is picture)
            assert abs(at - began) <= 14_000
            assert hall.last("c", Seat).state == "unknown"
            camera.scene = {}
            await passes(hall, 90)
            assert hall.last("c", Picture) == Picture()
            assert hall.last("c", Seat).state == "occupied"
        assert hall.losses == {}
        assert "s3cret" not in hall.everything()
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in hall.pictures.values())

    with_still(test)


def test_pictures_that_fail_lose_the_camera_at_the_second(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        taught(hall, "c")
        async with running(hall, still(camera, password)):
            await passes(hall, 60)
            once = iter([(200, b"no jpeg")])
            camera.answer = lambda: next(once, (200, camera.jpeg()))
            await passes(hall, 20)
            assert hall.losses == {}
            for answer, why in (
                ((200, b"\xff\xd8 no jpeg"), "cannot be decoded"),
                ((200, bytes(9_000_000)), "cannot be decoded"),
                ((404, b""), "no such stream; check the channel (404)"),
                ((503, b""), "too many viewers"),
                ((302, b""), "no such stream"),
            ):
                camera.answer = lambda answer=answer: answer  # type: ignore[misc]
                await until(lambda why=why: why in hall.why("c"))  # type: ignore[misc]
                assert hall.last("c", Seat).state == "unknown"
            camera.answer = None
            await until(lambda: hall.last("c", Seat).state == "occupied", 30)
            assert hall.up("c")

    with_still(test)


def test_a_wrong_password_by_http_is_tried_twice_and_then_after_half_an_hour(
    password: str,
) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        camera.answer = lambda: (401, b"")
        began = hall.at
        async with running(hall, still(camera, password)):
            await until(lambda: ("c", "refused") in hall.marks)
            await asyncio.sleep(0.5)
            assert camera.tries == 2
            assert len(hall.losses["c"]) == 2
            assert int(hall.marks[("c", "refused")].split(" ")[0]) == began + 1_801_000

    with_still(test)


def test_a_worker_that_dies_between_two_snapshots(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        taught(hall, "c")
        async with running(hall, still(camera, password)):
            await until(lambda: (s := hall.last("c", Seat)) and s.state == "occupied", 30)
            (pid,) = workers()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: hall.last("c", Seat).state == "unknown")
            await until(lambda: hall.last("c", Seat).state == "occupied", 30)
        assert hall.losses == {}
        assert workers() == []

    with_still(test)


def test_what_was_learned_is_kept_and_learned_anew_on_order(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        async with running(hall, still(camera, password)):
            await until(lambda: ("c", "picture") in hall.marks, 60)
            assert hall.last("c", Seat).state in ("learning", "unknown")
            taught(hall, "c")
            hall.orders.put_nowait(("c", LookAgain()))
            hall.orders.put_nowait(("nobody", LookAgain()))
            await until(lambda: hall.last("c", Seat).state == "occupied", 40)

    with_still(test)


def test_a_post_of_no_window_is_noted_and_left_out(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        post = Post("w-none", SCENE.region)
        async with running(hall, still(camera, password, posts=(POST, post))):
            await until(lambda: hall.last("c", Seat))
        assert hall.notes["c"]["unknown_windows"] == "w-none"
        assert {r.body.window for r in hall.readings if isinstance(r.body, Seat)} == {"w1"}

    with_still(test)


def test_a_wall_clock_that_jumps_changes_nothing(password: str) -> None:
    async def test(hall: SlowHall, camera: Still) -> None:
        taught(hall, "c")
        async with running(hall, still(camera, password)):
            await until(lambda: (s := hall.last("c", Seat)) and s.state == "occupied", 30)
            count = len(hall.readings)
            hall.at -= 3_600_000
            await passes(hall, 60)
            assert len(hall.readings) == count
            assert hall.up("c")

    with_still(test)


# Looking without a driver --------------------------------------------------------------------

LOOK = """
import sys, json
from drivers.capture import look, NoPicture
from drivers.video import VideoOptions
try:
    frames = look(VideoOptions(**json.loads(sys.argv[1])), 3, 1.0)
    print([list(one.shape) for one in frames])
except NoPicture as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hall.h264.mp4", "[[180, 320, 3], [180, 320, 3], [180, 320, 3]]"), ("none", "(404)")],
)
def test_looking_gives_colour_pictures(
    digest_server: Server, password: str, name: str, expected: str
) -> None:
    told = {"url": digest_server.url(name), "username": "viewer", "password_file": password}
    root = str(Path(video.__file__).parents[1])

    command = [sys.executable, "-P", "-c", LOOK, json.dumps(told)]
    where = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True, env=where
    )

    assert expected in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
