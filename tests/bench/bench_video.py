"""Cameras over a real RTSP server: what the whole driver costs beside a loop that decodes every
frame and beside an ffmpeg child for each camera, as recorders have them; and how it grows with the
number of cameras.

Only what watches is counted: the driver's worker and its share in this process, never the server.
The clips are drawn, grainy and encoded as cameras do it (no B-frames, a key frame each 2 s); they
are made once and kept in the folder for temporary files.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zoneinfo import ZoneInfo

from rows import Row, at_least, at_most, limit

from drivers.base import Order
from drivers.emulators.scene import Scene
from drivers.picture import PictureOptions, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView
from drivers.video import Post, Video, VideoOptions
from rules.model import Picture, Reading, Seat

SERVER = Path(__file__).parents[1] / "drivers" / "rtsp_server.py"
CLIPS = Path(tempfile.gettempdir()) / "hallwatch-bench-clips-1"
SCENE = Scene(seed=3)
FPS, DRAWN, LENGTH = 25, 10, 120
"""Frames a second; seconds that are drawn; seconds that are played, the same again and again."""
WINDOW = 8.0
"""Seconds that are measured: four key frames of each camera."""
PATIENCE = 30.0


class Size(NamedTuple):
    name: str
    width: int
    height: int
    rate: str
    """Bits a second."""
    piped: str
    """What an ffmpeg child scales to."""
    counts: tuple[int, ...]
    compared: int
    """With how many cameras the driver is compared."""
    most_cpu: float
    """Per cent of a core for a camera."""
    most_memory: float
    """Megabytes for a camera."""


SIZES = (
    Size("1080p25", 1920, 1080, "4M", "1280:720", (1, 4, 8), 4, 2.0, 20.0),
    Size("360p25", 640, 360, "500k", "640:360", (1, 2, 4, 8, 16, 32), 8, 0.7, 5.0),
)


class Cost(NamedTuple):
    """Of one contender: per cent of a core and resident megabytes, all cameras together."""

    cpu: float
    memory: float
    daemon: float = 0.0
    """What of ``cpu`` this process used."""


# Clips and server ----------------------------------------------------------------------------


def clip(size: Size) -> Path:
    """The clip of this size; drawn if it is not there yet."""
    path = CLIPS / f"{size.name}.h264.mp4"
    if path.exists():
        return path
    CLIPS.mkdir(exist_ok=True)
    once, whole = path.with_suffix(".once.mp4"), path.with_suffix(".part.mp4")
    command = ["ffmpeg", "-loglevel", "error", "-y"]
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "640x360", "-r", str(FPS), "-i", "-"]
    h264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-sc_threshold", "0"]
    h264 += ["-g", str(2 * FPS), "-b:v", size.rate, "-maxrate", size.rate, "-bufsize", size.rate]
    look = f"scale={size.width}:{size.height},noise=alls=5:allf=t,format=yuv420p"
    encoder = subprocess.Popen(
        [*command, *raw, "-vf", look, *h264, str(once)], stdin=subprocess.PIPE
    )
    assert encoder.stdin is not None
    for number in range(DRAWN * FPS):
        encoder.stdin.write(SCENE.frame(number / FPS, noise=2.0).tobytes())
    encoder.stdin.close()
    if encoder.wait():
        raise RuntimeError("ffmpeg could not encode the clip")
    again = ["-stream_loop", str(LENGTH // DRAWN - 1), "-i", str(once), "-c", "copy"]
    subprocess.run([*command, *again, str(whole)], check=True)
    once.unlink()
    whole.rename(path)
    return path


@contextmanager
def rtsp(files: Mapping[str, Path]) -> Iterator[str]:
    """A GStreamer server in a process of its own; yields the beginning of its addresses."""
    paths = json.dumps({f"/{name}": str(file) for name, file in files.items()})
    process = subprocess.Popen(
        ["/usr/bin/python3", str(SERVER), paths],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        if not port:
            raise RuntimeError("the system's Python has no GStreamer RTSP server")
        yield f"rtsp://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


# Processes -----------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Seconds that a process has used, all its threads together."""
    return time.clock_gettime(~pid << 3 | 2)  # the process' own clock, as clock_getcpuclockid(3)


def memory_of(pid: int) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"video_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


# The driver ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    id: str
    options: VideoOptions
    window: str = ""


def learned() -> dict[str, str]:
    """The healthy picture and the empty post, so that everything is measured from the start."""
    watch = PictureWatch(PictureOptions())
    for number in range(90):
        state = watch.see(2000 * number, shrink(SCENE.luma((2 * number) % DRAWN)))
    view = PostView(PostOptions(SCENE.region))
    view.learn_empty([shrink(SCENE.luma(n, seated=False)) for n in range(15)], state.bucket)
    told = {"picture": watch.reference(), "post:w1": view.references()}
    return {name: b64encode(blob or b"").decode() for name, blob in told.items()}


class Hall:
    """A daemon without a journal; what the driver said."""

    zone = ZoneInfo("Asia/Shanghai")
    windows = ("w1",)
    snapshots = True
    closed = False

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks
        self.looked: set[str] = set()
        """Cameras of whose picture anything was told."""
        self.known: set[str] = set()
        """Those whose picture is known, and good."""
        self.posts: set[str] = set()

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        for reading in readings:
            body = reading.body
            if isinstance(body, Picture):
                self.looked.add(reading.device)
                if body.known and not body.faults:
                    self.known.add(reading.device)
            if isinstance(body, Seat):
                self.posts.add(reading.device)
        return len(readings) + len(marks or {})

    def mark(self, device: str, name: str) -> str | None:
        assert device
        return self._marks.get(name)

    def keep_snapshot(self, device: str, at: int, subject: str, jpeg: bytes) -> str:
        assert jpeg
        return f"{device}-{at}-{subject}"

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def contact(self, device: str) -> None:
        assert device

    def lost(self, device: str, reason: str) -> None:
        raise AssertionError(f"{device}: {reason}")

    def note(self, device: str, **facts: Any) -> None:
        assert device
        assert facts

    async def order(self) -> tuple[str, Order]:
        return await asyncio.Future()


async def driver(url: str, cameras: int, marks: Mapping[str, str]) -> Cost:
    hall = Hall(marks)
    options = VideoOptions(url, posts=(Post("w1", SCENE.region),))
    specs = [Spec(f"c{number}", options) for number in range(cameras)]
    task = asyncio.create_task(Video(specs).run(hall))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(PATIENCE):
            while len(hall.looked) < cameras:
                await asyncio.sleep(0.2)
                if task.done():
                    await task
            await asyncio.sleep(0.5)
        (worker,) = children()
        began, own, theirs = time.monotonic(), time.process_time(), cpu_of(worker)
        await asyncio.sleep(WINDOW)
        took = time.monotonic() - began
        own, theirs = time.process_time() - own, cpu_of(worker) - theirs
        # What is measured is a driver that sees.
        assert len(hall.known) == len(hall.posts) == cameras
        return Cost(100 * (own + theirs) / took, memory_of(worker), 100 * own / took)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# What it is compared with --------------------------------------------------------------------

LOOP = """
import cv2, sys, threading
def watch():
    capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
    for number in range(1_000_000):
        if not capture.read()[0]:
            return
        if number == 10:
            print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    threading.Thread(target=watch).start()
"""


def reading_all(url: str, cameras: int) -> Cost:
    """One Python process, a thread for each camera that reads every frame and does nothing."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, url, str(cameras)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for _ in range(cameras):
            assert process.stdout.readline()
        return watched([process.pid])
    finally:
        process.kill()
        process.wait()


def piping(url: str, cameras: int, size: str) -> Cost:
    """An ffmpeg child for each camera that pipes 5 raw pictures a second."""
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-rtsp_transport", "tcp", "-i", url]
    command += ["-an", "-vf", f"fps=5,scale={size}", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]
    with ExitStack() as stack:
        processes = []
        for _ in range(cameras):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.read(1)
            threading.Thread(target=drain, args=(process.stdout,), daemon=True).start()
        return watched([process.pid for process in processes])


def drain(pipe: BinaryIO) -> None:
    while pipe.read(1 << 20):
        pass


def watched(pids: Sequence[int]) -> Cost:
    time.sleep(1.0)
    began, used = time.monotonic(), sum(cpu_of(pid) for pid in pids)
    time.sleep(WINDOW)
    took = time.monotonic() - began
    used = sum(cpu_of(pid) for pid in pids) - used
    return Cost(100 * used / took, sum(memory_of(pid) for pid in pids))


def percent(share: float) -> str:
    return f"{share:.2f} % of a core"


def measure(folder: Path) -> Iterator[Row]:
    assert folder
    marks = learned()
    files = {size.name: clip(size) for size in SIZES}
    with rtsp(files) as server:
        for size in SIZES:
            url = f"{server}/{size.name}"
            found = {count: asyncio.run(driver(url, count, marks)) for count in size.counts}
            yield from compared(url, size, found[size.compared])
            yield from grown(size, found)


def compared(url: str, size: Size, ours: Cost) -> Iterator[Row]:
    cameras = size.compared
    each = ours.cpu / cameras
    what = f"{size.name}, picture and post each 2 s: CPU of a camera"
    note = f"{ours.daemon / cameras:.2f} % of that in the daemon"
    yield limit(what, each, size.most_cpu, "%", note)
    for name, cost in (
        ("all frames read", reading_all(url, cameras)),
        ("an ffmpeg child", piping(url, cameras, size.piped)),
    ):
        theirs = cost.cpu / cameras
        told = (percent(each), f"{percent(theirs)}, {cost.memory / cameras:.0f} MB")
        if size.name == "1080p25":
            yield at_least(5, f"{size.name}: against {name}", *told, theirs / each)
        else:
            yield Row(f"{size.name}: against {name}", *told, theirs / each)


def grown(size: Size, found: Mapping[int, Cost]) -> Iterator[Row]:
    few, many = min(found), max(found)
    first = found[few].cpu / few
    for count, cost in found.items():
        what = f"{size.name}, {count} camera{'s' if count > 1 else ''}: CPU of each"
        told = (percent(cost.cpu / count), f"{percent(first)} alone")
        ratio = cost.cpu / count / first
        if count == many:
            yield at_most(1.2, what, *told, ratio)
        else:
            yield Row(what, *told, ratio)
    base = found[few].memory
    each = (found[many].memory - base) / (many - few)
    told_of = f"worker with one camera {base:.0f} MB, with {many} {found[many].memory:.0f} MB"
    yield limit(f"{size.name}: memory of a camera", each, size.most_memory, "MB", told_of)
