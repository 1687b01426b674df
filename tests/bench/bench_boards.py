"""A call in, the number on the board out: how soon, in a hall of 200 windows."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from brokers import Listener, broker_latencies, mosquitto
from halls import ZONE
from rows import Row, percentile, seconds

from config.load import load
from daemon.app import App
from rules.model import QueueEvent, Reading

WINDOWS = 200
CALLS = 300
RATE = 20
"""Calls a second: each window calls every ten seconds, which no hall does."""


def write_settings(folder: Path, broker: int) -> Path:
    today = datetime.fromtimestamp(time.time(), ZONE).date()
    lines = [f'[hall]\nid = "bench"\nname = "测速大厅"\nstart_date = {today}\n']
    lines += [
        f'[[windows]]\nid = "w{n}"\nname = "{n}号窗口"\narea = "{"ABCD"[n % 4]}区"\n'
        for n in range(WINDOWS)
    ]
    lines.append('[[boards]]\nid = "main"\nlines = 4\nencoding = "gbk"\n')
    lines.append(f'[[sinks]]\ntype = "mqtt"\nname = "m"\nhost = "127.0.0.1"\nport = {broker}\n')
    lines.append('[api]\nport = 0\n[storage]\nstate_dir = "."\n[log]\nlevel = "error"\n')
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hall.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


def call_latencies(folder: Path, broker: int) -> tuple[list[float], int]:
    """Sorted seconds from handing a call to the pipeline to its ticket on the window's plain topic;
    and how many calls were never shown."""
    app = App(load(write_settings(folder, broker)))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(app.start(), loop).result()
    for n in range(WINDOWS):
        call(app, n, f"Z{n:03}")
    app.pipeline.settle().result()
    time.sleep(3.0)
    listener = Listener(folder, broker, "hallt/bench/w/#")
    told: dict[str, float] = {}
    began = time.monotonic()
    for n in range(CALLS):
        time.sleep(max(0.0, began + n / RATE - time.monotonic()))
        ticket = f"A{n:03}"
        told[ticket] = time.monotonic()
        call(app, n * 7 % WINDOWS, ticket)
    heard = listener.close(1.5)
    asyncio.run_coroutine_threadsafe(app.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    found: dict[str, float] = {}
    for at, _, payload in heard:
        found.setdefault(payload.decode(), at)
    took = sorted(found[ticket] - at for ticket, at in told.items() if ticket in found)
    return took, len(told) - len(took)


def call(app: App, window: int, ticket: str) -> None:
    body = QueueEvent(json.dumps([window, ticket]), "called", f"w{window}", ticket)
    app.pipeline.submit((Reading("api", app.clock.now(), body),), lambda _: None)


def measure(folder: Path) -> Iterator[Row]:
    with mosquitto(folder) as broker:
        took, lost = call_latencies(folder / "hall", broker)
        bare = broker_latencies(folder, broker, RATE, 20, 3.0)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            what = f"a call in a hall of {WINDOWS} windows on its board's topic, {name}"
            if lost:
                what += f" ({lost} never shown)"
            ours, floor = percentile(took, share), percentile(bare, share)
            yield Row(what, seconds(ours), f"{seconds(floor)} broker alone", ours / floor)
