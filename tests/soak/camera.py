"""A day before the cameras, and workers that are killed.

``tests/soak/camera.py`` plays 24 hours of two drawn halls, as fast as they can be drawn, to the
whole video driver with its worker process: a JPEG by HTTP every 5 and every 10 seconds of the
day's own time.  People come and go by a script, light changes, the camera goes over to infrared in
the evening, and cameras are covered, frozen, blacked out, blurred, knocked aside and taken off the
net.  Checked are what was told of the posts and of the pictures against the script, and that
memory, threads and descriptors of the worker do not grow after the second hour.

``tests/soak/camera.py --kills N`` watches real RTSP cameras and kills the worker at random moments,
now and then while it is starting: every post is unknown at once, right again in time, and no camera
is ever said to be lost.

Drawn people are no people: the figures say that nothing breaks, not how well a hall is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import cv2

from drivers import video
from drivers.base import Order
from drivers.emulators.scene import Scene
from drivers.picture import PictureOptions, PictureWatch, shrink
from drivers.post_view import PostOptions, PostView
from drivers.video import Post, Video, VideoOptions
from rules.model import DeviceEvent, Picture, Reading, Seat, Unreadable

SERVER = Path(__file__).parents[1] / "drivers" / "rtsp_server.py"
WINDOW = "w1"
MIDNIGHT = 1_772_380_800_000
"""Of a second of March, in Shanghai."""
HOUR = 3600
PRESENT = ("occupied", "still")
NEAR = 30
"""Seconds beside a coming or leaving in which nothing is judged."""
BEFORE = 20
AFTER = 150
"""Seconds after a fault in which it may still be told, and the post be unknown."""


@dataclass(frozen=True)
class Spec:
    id: str
    options: VideoOptions
    window: str = ""


class Hall:
    """A daemon in small, in real time."""

    zone = ZoneInfo("Asia/Shanghai")
    windows = (WINDOW,)
    snapshots = True
    closed = False

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.marks: dict[tuple[str, str], str] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.losses: list[tuple[int, str, str]] = []
        self.pictures = 0
        self.seats: dict[str, Seat] = {}
        """The last of each camera."""

    async def emit(
        self, readings: Sequence[Reading], marks: Mapping[tuple[str, str], str] | None = None
    ) -> int:
        self.readings += readings
        self.marks.update(marks or {})
        for reading in readings:
            if isinstance(reading.body, Seat):
                self.seats[reading.device] = reading.body
        return len(readings)

    def mark(self, device: str, name: str) -> str | None:
        return self.marks.get((device, name))

    def keep_snapshot(self, device: str, at: int, subject: str, jpeg: bytes) -> str:
        assert jpeg.startswith(b"\xff\xd8")
        self.pictures += 1
        return f"{device}-{at}-{subject}"

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def contact(self, device: str) -> None:
        pass

    def lost(self, device: str, reason: str) -> None:
        self.losses.append((self.now(), device, reason))

    def note(self, device: str, **facts: Any) -> None:
        self.notes.setdefault(device, {}).update(facts)

    async def order(self) -> tuple[str, Order]:
        return await asyncio.Future()


def workers() -> list[int]:
    """The worker processes of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"video_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


# --------------------------------------------------------------------------------------------
# A day
# --------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    begin: float
    end: float
    name: str
    """As it is to be told; ``lost``: no picture comes."""
    drawn: Mapping[str, Any]

    def near(self, second: float) -> bool:
        # A picture that stands still does so since the one before.
        return self.begin - BEFORE <= second < self.end + AFTER


class Spell(NamedTuple):
    begin: float
    end: float
    drawn: Mapping[str, Any]


FAULTS: tuple[tuple[float, int, str, dict[str, Any]], ...] = (
    (1.5, 10, "covered", {"covered": 1.0}),
    (3.0, 10, "frozen", {}),
    (4.5, 15, "moved", {"shift": (0.15, 0.05)}),
    (9.0, 5, "covered", {"covered": 1.0}),
    (9.7, 6, "frozen", {}),
    (10.4, 10, "moved", {"shift": (-0.12, 0.04)}),
    (11.1, 5, "lost", {}),
    (13.9, 4, "black", {"black": True}),
    (14.5, 8, "blurred", {"blur": 6.0}),
    (15.3, 8, "partly_covered", {"covered": 0.7}),
    (16.2, 5, "lost", {}),
    (19.0, 10, "view_changed", {"rotate": 25.0, "zoom": 1.5}),
    (22.0, 10, "blurred", {"blur": 6.0}),
    (23.0, 10, "lost", {}),
)
"""The hour, minutes, name, and what is drawn."""


class Day:
    """What one camera sees in 24 hours, by the seed."""

    def __init__(self, seed: int, hours: float, night: float) -> None:
        """``night``: the exposure in infrared light."""
        rng = random.Random(seed)
        self._night = night
        self.scene = Scene(seed=seed)
        self.stays: list[Spell] = []
        for opens, closes in ((8.5, 12.0), (13.5, 17.5)):
            at = opens * HOUR + rng.uniform(0, 600)
            while at < closes * HOUR - 300:
                leaves = min(closes * HOUR + rng.uniform(0, 300), at + rng.uniform(600, 3600))
                looks = {"person": rng.randrange(3), "motion": rng.choice((0.3, 0.6, 1.0))}
                self.stays.append(Spell(at, leaves, looks))
                at = leaves + rng.uniform(90, 900)
        self._others: list[Spell] = []
        for pause, shortest, longest, names in (
            (180, 6, 6, ("passer",)), (400, 60, 300, ("customer",)), (1800, 10, 25, ("leaning",)),
            (2400, 300, 1200, ("crowd",)), (3600, 10, 300, ("flicker", "glare", "lamp")),
        ):  # fmt: skip
            at = 8.4 * HOUR
            while at < 18.5 * HOUR:
                at += rng.expovariate(1 / pause)
                length = rng.uniform(shortest, longest)
                name = rng.choice(names)
                most = {"crowd": rng.randint(3, 10), "flicker": 0.15}.get(
                    name, rng.uniform(0.3, 0.7)
                )
                self._others.append(Spell(at, at + length, {name: most}))
                at += length
        moments = ((f, f[0] * HOUR + rng.uniform(0, 300)) for f in FAULTS)
        self.faults = [
            Fault(at, at + 60 * minutes, name, drawn)
            for (_, minutes, name, drawn), at in moments
            if at + 60 * minutes < hours * HOUR
        ]

    def there(self, second: float) -> bool:
        return any(one.begin <= second < one.end for one in self.stays)

    def moments(self) -> list[float]:
        return [moment for one in self.stays for moment in (one.begin, one.end)]

    def fault(self, second: float) -> Fault | None:
        return next((one for one in self.faults if one.begin <= second < one.end), None)

    def drawn(self, second: float) -> dict[str, Any]:
        what: dict[str, Any] = {"seated": False, **self._light(second)}
        for one in (*self._others, *self.stays):
            if one.begin <= second < one.end:
                what |= one.drawn
                if "passer" in one.drawn:
                    what["passer"] = (second - one.begin) / (one.end - one.begin)
                if "motion" in one.drawn:
                    what["seated"] = True
        fault = self.fault(second)
        return what | dict(fault.drawn if fault else {})

    def _light(self, second: float) -> dict[str, Any]:
        hour = second / HOUR % 24
        if hour < 6.5 or hour >= 20:
            return {"infrared": True, "light": self._night}
        if hour < 7.5:
            return {"light": 0.55 + 0.45 * (hour - 6.5)}
        if hour >= 17.5:
            return {"light": 1.0 - 0.4 * (hour - 17.5) / 2.5}
        return {"light": 1 + 0.15 * math.sin(second / 1500)}


class Snapshots:
    """A server with a camera for each day: ``/0``, ``/1``.  What it shows follows from the hall's
    clock."""

    def __init__(self, hall: DayHall, days: Sequence[Day]) -> None:
        last: dict[int, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                number = int(self.path[1:])
                second = hall.second()
                fault = days[number].fault(second)
                if fault is not None and fault.name == "lost":
                    self.close_connection = True
                    return
                if fault is None or fault.name != "frozen":
                    frame = days[number].scene.frame(second, **days[number].drawn(second))
                    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
                    last[number] = cv2.imencode(".jpg", frame, quality)[1].tobytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(last[number])))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(last[number])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class DayHall(Hall):
    """Time passes when every camera waits for it, to the next that is due."""

    def __init__(self, cameras: int, hours: float) -> None:
        super().__init__()
        self.over = asyncio.Event()
        self.hourly: Callable[[int], None] = lambda _: None
        self._at = MIDNIGHT
        self._end = MIDNIGHT + round(hours * HOUR * 1000)
        self._cameras = cameras
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> int:
        return self._at

    def second(self) -> float:
        return (self._at - MIDNIGHT) / 1000

    @property
    def closed(self) -> bool:  # type: ignore[override]
        hour = self.second() / HOUR % 24
        return not 8.3 <= hour < 18

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._at + round(1000 * seconds), self._count, woken))
        if len(self._sleepers) == self._cameras:
            due, _, first = heapq.heappop(self._sleepers)
            hour = due // 3_600_000
            if hour != self._at // 3_600_000:
                self.hourly((due - MIDNIGHT) // 3_600_000)
            self._at = max(self._at, due)
            if due >= self._end:
                self.over.set()
            elif not first.done():
                first.set_result(None)
        await woken


class Sample(NamedTuple):
    """What the worker takes."""

    memory: float
    threads: int
    descriptors: int


def sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()

    def number(name: str) -> int:
        return int(status.partition(f"{name}:")[2].split()[0])

    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(number("VmRSS") / 1000, number("Threads"), descriptors)


@dataclass
class Verdicts:
    """What was told of one camera, against the script; minutes, but for what is counted."""

    there: float = 0
    away: float = 0
    wrongly_empty: float = 0
    wrongly_present: float = 0
    unknown: float = 0
    told: int = 0
    true: int = 0
    faults: int = 0
    otherwise: list[str] = field(default_factory=list)
    """Faults that were told by another name."""
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    """Faults that were none, and losses."""
    odd: Counter[str] = field(default_factory=Counter)
    """Readings that should not be."""

    @property
    def good(self) -> bool:
        judged = self.there + self.away
        wrong = self.wrongly_empty + self.wrongly_present
        few = wrong <= judged / 100 and self.unknown <= judged / 50
        return few and not (self.missed or self.false or self.odd) and self.told <= self.true


STEP = 5


def verdicts(hall: DayHall, camera: str, day: Day, hours: float) -> Verdicts:
    found = Verdicts()
    mine = [one for one in hall.readings if one.device == camera]
    seats = [((one.at - MIDNIGHT) / 1000, one.body) for one in mine if isinstance(one.body, Seat)]
    pictures = [
        ((one.at - MIDNIGHT) / 1000, one.body) for one in mine if isinstance(one.body, Picture)
    ]
    for one in mine:
        if isinstance(one.body, DeviceEvent | Unreadable):
            found.odd[repr(one.body)[:100]] += 1
    _judge_seats(found, seats, day, hours)
    _judge_pictures(found, hall, camera, pictures, day)
    return found


def _judge_seats(
    found: Verdicts, seats: Sequence[tuple[float, Seat]], day: Day, hours: float
) -> None:
    moments = day.moments()
    number, state = 0, "unknown"
    # Half an hour for what an unknown hall must be taught first.
    for second in range(HOUR // 2, round(hours * HOUR) - 60, STEP):
        # A post is empty since the last picture that showed somebody: that one is not.
        while (
            number < len(seats) and seats[number][0] + (seats[number][1].state == "empty") <= second
        ):
            state = seats[number][1].state
            number += 1
        if any(fault.near(second) for fault in day.faults):
            continue
        if any(abs(second - moment) < NEAR for moment in moments):
            continue
        there, minutes = day.there(second), STEP / 60
        if there:
            found.there += minutes
            found.wrongly_empty += minutes * (state == "empty")
        else:
            found.away += minutes
            found.wrongly_present += minutes * (state in PRESENT)
        found.unknown += minutes * (state in ("unknown", "learning"))
    told = [
        seat.state in PRESENT
        for at, seat in seats
        if at >= HOUR // 2
        and seat.state in (*PRESENT, "empty")
        and not any(fault.near(at) for fault in day.faults)
    ]
    found.told = sum(before is not after for before, after in pairwise(told))
    found.true = sum(moment < hours * HOUR for moment in moments)


def _judge_pictures(
    found: Verdicts,
    hall: DayHall,
    camera: str,
    pictures: Sequence[tuple[float, Picture]],
    day: Day,
) -> None:
    losses = [(at - MIDNIGHT) / 1000 for at, device, _ in hall.losses if device == camera]
    before: tuple[str, ...] = ()
    for at, picture in pictures:
        for fault in picture.faults:
            if fault not in before and not any(one.near(at) for one in day.faults):
                found.false.append(f"{clock(at)} {fault}")
        before = picture.faults
    for at in losses:
        if not any(one.name == "lost" and one.near(at) for one in day.faults):
            found.false.append(f"{clock(at)} lost")
    for one in day.faults:
        found.faults += 1
        told = [name for at, picture in pictures if one.near(at) for name in picture.faults]
        if one.name == "lost":
            told = ["lost" for at in losses if one.near(at)]
        if not told:
            found.missed.append(f"{clock(one.begin)} {one.name}")
        elif one.name not in told:
            found.otherwise.append(f"{clock(one.begin)} {one.name}: {told[0]}")


def clock(second: float) -> str:
    return f"{int(second) // HOUR:02}:{int(second) // 60 % 60:02}:{int(second) % 60:02}"


async def whole_day(hours: float, seed: int, show: Callable[[str], None]) -> bool:
    hall = DayHall(2, hours)
    days = [Day(seed, hours, night=0.45), Day(seed + 1, hours, night=0.4)]
    server = Snapshots(hall, days)
    samples: dict[int, Sample] = {}

    def hourly(hour: int) -> None:
        (pid,) = workers()
        samples[hour] = sample(pid)
        show(f"{hour:02}:00  {samples[hour]}, {len(hall.readings)} readings")

    hall.hourly = hourly
    specs = [
        Spec(
            f"c{number}",
            VideoOptions(
                f"{server.address}/{number}",
                interval=interval,
                posts=(Post(WINDOW, day.scene.region),),
            ),
        )
        for number, (day, interval) in enumerate(zip(days, (5.0, 10.0), strict=True))
    ]
    task = asyncio.create_task(Video(specs).run(hall))
    over = asyncio.create_task(hall.over.wait())
    try:
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        (pid,) = workers()
        samples[math.ceil(hours)] = sample(pid)
    finally:
        for one in (task, over):
            one.cancel()
        await asyncio.gather(task, over, return_exceptions=True)
        server.close()
    good = not workers()
    for number, day in enumerate(days):
        found = verdicts(hall, f"c{number}", day, hours)
        good &= found.good
        print(f"camera c{number}, a picture each {specs[number].options.interval:g} s")
        for name, value in vars(found).items():
            print(f"  {name:<20} {value if not isinstance(value, float) else round(value, 1)}")
    first, last = samples.get(2, min(samples.values())), samples[max(samples)]
    restarts = max(note.get("worker_restarts", 0) for note in hall.notes.values())
    print(f"worker in hour 2 {first}, at the end {last}; restarts {restarts}")
    print(f"evidence pictures {hall.pictures}, readings {len(hall.readings)}")
    steady = last.threads <= first.threads and last.descriptors <= first.descriptors
    return good and steady and last.memory - first.memory <= 5 and restarts == 0


# --------------------------------------------------------------------------------------------
# Kills
# --------------------------------------------------------------------------------------------

KNOWN_IN = 25.0
"""Seconds until somebody at a post is seen again, with the pause before the next worker."""
EMPTY_IN = 90.0
"""Likewise for an empty post: nothing is concluded of it in the first minute."""
SCENE = Scene(320, 180, seed=3)


def clip(folder: Path, name: str, **what: Any) -> Path:
    """Half a minute of the hall, again and again for five minutes."""
    once, whole = folder / f"{name}.once.mp4", folder / f"{name}.h264.mp4"
    command = ["ffmpeg", "-loglevel", "error", "-y"]
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "320x180", "-r", "10", "-i", "-"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "10", "-crf", "20"]
    frames = b"".join(SCENE.frame(n / 10, **what).tobytes() for n in range(300))
    subprocess.run(
        [*command, *raw, "-pix_fmt", "yuv420p", *h264, str(once)], input=frames, check=True
    )
    subprocess.run(
        [*command, "-stream_loop", "9", "-i", str(once), "-c", "copy", str(whole)], check=True
    )
    return whole


@contextmanager
def rtsp(files: Mapping[str, Path]) -> Iterator[str]:
    paths = json.dumps({f"/{name}": str(file) for name, file in files.items()})
    process = subprocess.Popen(
        ["/usr/bin/python3", str(SERVER), paths],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"rtsp://127.0.0.1:{process.stdout.readline().decode().strip()}"
    finally:
        process.kill()
        process.wait()


def learned() -> dict[str, str]:
    watch = PictureWatch(PictureOptions())
    for number in range(90):
        state = watch.see(2000 * number, shrink(SCENE.luma((2 * number) % 30)))
    view = PostView(PostOptions(SCENE.region))
    view.learn_empty([shrink(SCENE.luma(n, seated=False)) for n in range(15)], state.bucket)
    told = {"picture": watch.reference(), f"post:{WINDOW}": view.references()}
    return {name: b64encode(blob or b"").decode() for name, blob in told.items()}


async def kill_often(kills: int, seed: int, folder: Path, show: Callable[[str], None]) -> bool:
    rng = random.Random(seed)
    # So that a worker which lived for a few seconds does not count as one that cannot run.
    vars(video)["STEADY"] = 5
    hall = Hall()
    truth = {"occupied-1": "occupied", "occupied-2": "occupied", "empty": "empty"}
    for camera in truth:
        hall.marks |= {(camera, name): text for name, text in learned().items()}
    files = {"occupied": clip(folder, "occupied"), "empty": clip(folder, "empty", seated=False)}
    wrong: list[str] = []
    took: dict[str, list[float]] = {"unknown": [], "occupied": [], "empty": []}

    def state(camera: str) -> str:
        seat = hall.seats.get(camera)
        return seat.state if seat else ""

    async def comes(what: str, limit: float, *cameras: str, began: float = 0) -> None:
        """Until these posts are so, or are to be called wrong."""
        began = began or time.monotonic()
        while any(state(one) != (what if what == "unknown" else truth[one]) for one in cameras):
            if time.monotonic() - began > limit:
                wrong.append(f"not {what} within {limit:g} s: { ({c: state(c) for c in cameras}) }")
                return
            await asyncio.sleep(0.02)
        took[what].append(time.monotonic() - began)

    async def kill() -> None:
        while not (found := workers()):
            await asyncio.sleep(0.02)
        os.kill(found[0], signal.SIGKILL)
        while workers() == found:
            await asyncio.sleep(0.01)

    with rtsp(files) as server:
        specs = [
            Spec(
                camera,
                VideoOptions(
                    f"{server}/{camera.partition('-')[0]}",
                    interval=0.5, read_timeout=3, posts=(Post(WINDOW, SCENE.region),),
                ),
            )
            for camera in truth
        ]  # fmt: skip
        task = asyncio.create_task(Video(specs).run(hall))
        try:
            began = time.monotonic()
            await comes("occupied", KNOWN_IN, "occupied-1", "occupied-2")
            await comes("empty", EMPTY_IN, "empty", began=began)
            for number in range(1, kills + 1):
                await kill()
                await comes("unknown", 2.0, *truth)
                if rng.random() < 0.25:
                    await asyncio.sleep(rng.uniform(0.0, 2.5))
                    await kill()
                began = time.monotonic()
                await comes("occupied", KNOWN_IN, "occupied-1", "occupied-2")
                if number == kills or rng.random() < 0.4:
                    await comes("empty", EMPTY_IN, "empty", began=began)
                elif state("empty") == "occupied":
                    wrong.append("the empty post is occupied")
                await asyncio.sleep(rng.uniform(0.0, 6.0))
                show(f"kill {number} of {kills}, {len(wrong)} wrong")
                if task.done():
                    await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    restarts = max(note.get("worker_restarts", 0) for note in hall.notes.values())
    lost = [f"{device} was said to be lost: {reason}" for _, device, reason in hall.losses]
    false = {
        f"{reading.device}: {reading.body}"
        for reading in hall.readings
        if (isinstance(reading.body, Picture) and reading.body.faults)
        or (
            isinstance(reading.body, Seat)
            and reading.body.state not in ("unknown", truth[reading.device])
        )
    }
    wrong += [*lost, *sorted(false), *(f"left behind: {pid}" for pid in workers())]
    print(f"worker restarts {restarts}")
    for what, times in took.items():
        if times:
            print(f"{what} after {min(times):.2f} to {max(times):.2f} s, {len(times)} times")
    for one in wrong:
        print(one)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--kills", type=int, help="kill the worker so often, and play no day")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    began = time.monotonic()

    def show(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", flush=True)

    if given.kills:
        with tempfile.TemporaryDirectory(prefix="hallwatch-soak-") as folder:
            good = asyncio.run(kill_often(given.kills, given.seed, Path(folder), show))
    else:
        good = asyncio.run(whole_day(given.hours, given.seed, show))
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
