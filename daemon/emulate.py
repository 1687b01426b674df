"""``hallwatch emulate``: one emulated device on a port, for commissioning without hardware."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from rich.console import Console

from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkRecord, ZkTerminal, ZkUser


async def play_device(
    out: Console,
    family: str,
    *,
    serial: str,
    host: str,
    port: int,
    server: str,
    people: int,
    records: int,
    every: float,
    comm_key: int,
    clock_offset: float,
    zone: ZoneInfo,
) -> None:
    """Play until cancelled, a punch every ``every`` seconds.

    Raises ``ValueError`` for a family without an emulator or a malformed ``server``.
    """
    codes = [str(1001 + number) for number in range(people)]

    def wall() -> datetime:
        return datetime.now(zone).replace(tzinfo=None)

    terminal: ZkTerminal | PushTerminal
    if family == "zkteco":
        terminal = ZkTerminal(
            serial,
            clock=wall,
            comm_key=comm_key,
            users=[ZkUser(1 + n, code, f"演示{code}") for n, code in enumerate(codes)],
            records=[
                ZkRecord(codes[n % people], wall() - timedelta(minutes=records - n), 1, 0)
                for n in range(records)
            ],
        )
        terminal.set_clock_offset(clock_offset)
        where = f"{host}:{await terminal.start(host, port)} (TCP, UDP)"
    elif family == "zk_push":
        name, colon, number = server.rpartition(":")
        if not colon or not number.isdigit():
            raise ValueError(f"--server {server!r}: expected HOST:PORT")
        terminal = PushTerminal(
            serial,
            (name, int(number)),
            clock=wall,
            users=[PushUser(code, f"演示{code}") for code in codes],
            follows_server_clock=clock_offset == 0,
        )
        terminal.clock.offset = clock_offset
        await terminal.start()
        where = f"→ {server}"
    else:
        raise ValueError(f"There is no emulator for {family!r}; there are: zk_push, zkteco.")
    out.print(f"{family} {serial} {where}; Ctrl-C ends it", markup=False)
    try:
        while True:
            await asyncio.sleep(every)
            code = random.choice(codes)
            done = await terminal.punch(code)
            out.print(f"{wall():%H:%M:%S} punch {code}{'' if done else ' (refused)'}")
    finally:
        await terminal.stop()
