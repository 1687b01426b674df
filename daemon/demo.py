"""The demo hall: emulated terminals that speak their real protocols to the real daemon.

The people are invented.  A day of the script has somebody on time, late, very late, leaving
early, forgetting a punch, staying away, on leave, and excused afterwards; a terminal that loses its
network and delivers its log late, and one whose clock is fast.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from rich.console import Console
from rich.table import Table

from api.views import VERDICT_ZH
from config.load import Hall, load
from daemon.app import App
from daemon.control import Request, change_tokens, new_secret
from daemon.database import FILE_NAME, open_reader
from daemon.simulation import Simulation, simulate
from daemon.store import stored_record
from drivers.emulators.zk_push import PushTerminal, PushUser
from drivers.emulators.zkteco import ZkTerminal, ZkUser
from rules.model import MINUTE, Absence, Instant, Person, Reading, Slot
from rules.workdays import at_minute

FIRST_DAY = date(2026, 3, 2)
ZONE = ZoneInfo("Asia/Shanghai")
PEOPLE = (
    ("1001", "林一鸣", "civil", "01"), ("1002", "周二妮", "civil", "02"),
    ("1003", "吴三省", "tax", "03"), ("1004", "郑四喜", "tax", "04"),
    ("1005", "王五味", "land", "05"), ("1006", "冯六月", "land", "06"),
    ("1007", "陈七夕", "social", "07"), ("1008", "褚八方", "social", "08"),
    ("1009", "卫九如", "market", "09"), ("1010", "蒋十全", "market", "10"),
    ("1011", "沈小满", "market", "11"),
)  # fmt: skip
UNITS = {
    "civil": "民政局",
    "tax": "税务局",
    "land": "自然资源局",
    "social": "人社局",
    "market": "市场监管局",
}

SCRIPT = """
08:12:10 east  1001
08:21:40 east  1005
08:22:05 west  1010
08:23:30 door  1009
08:24:15 cable off
08:26:02 north 1008
08:27:44 south 1004
08:28:50 east  1011
08:28:55 east  1011
08:42:20 east  1002
08:52:00 south 1003
09:20:00 cable on
12:01:10 east  1001
12:02:20 east  1002
12:03:00 south 1003
12:03:30 south 1004
12:04:00 west  1010
12:04:40 north 1008
12:05:00 door  1009
12:06:00 east  1011
14:10:00 west  7777
14:18:00 east  1001
14:19:00 east  1002
14:20:00 south 1003
14:21:00 south 1004
14:22:00 east  1005
14:22:30 west  7777
14:23:00 north 1007
14:24:00 north 1008
14:25:00 door  1009
14:38:00 west  1010
14:27:00 east  1011
15:10:00 leave 1010 14:30 15:00
16:00:00 west  7777
17:52:00 south 1004
18:01:00 east  1001
18:02:00 east  1002
18:02:30 south 1003
18:03:00 east  1005
18:03:30 north 1007
18:04:00 north 1008
18:05:00 door  1009
18:06:00 west  1010
18:07:00 east  1011
"""
"""What happens: at a terminal somebody punches; north's cable is pulled and plugged in again; leave
is entered afterwards.  1006 never comes; 1007 has leave in the morning."""


class DemoHall:
    """The terminals and their settings."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        clock, sleep = self.wall, simulation.clock.sleep
        users = [ZkUser(n, code, name) for n, (code, name, *_) in enumerate(PEOPLE, 1)]
        self.polled = {
            "east": ZkTerminal("DEMO20250001", clock=clock, users=users, sleep=sleep),
            "north": ZkTerminal(
                "DEMO20250002", clock=clock, users=users, transport="tcp", sleep=sleep
            ),
            "door": ZkTerminal(
                "DEMO20250003", clock=clock, users=users, transport="udp", record_layout=16,
                comm_key=1234, sleep=sleep,
            ),
        }  # fmt: skip
        self.polled["door"].set_clock_offset(95)
        self.pushing: dict[str, PushTerminal] = {}

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self._simulation.clock.now() / 1000, ZONE).replace(
            tzinfo=None
        )

    async def start_polled(self) -> dict[str, int]:
        return {name: await terminal.start() for name, terminal in self.polled.items()}

    async def start_pushing(self, port: int) -> None:
        users = [PushUser(code, name) for code, name, *_ in PEOPLE]
        for number, name in ((4, "west"), (5, "south")):
            terminal = self.pushing[name] = PushTerminal(
                f"DEMO2025000{number}", ("127.0.0.1", port), clock=self.wall, users=users,
                sleep=self._simulation.clock.sleep,
            )  # fmt: skip
            await terminal.start()

    async def stop(self) -> None:
        for polled in self.polled.values():
            await polled.stop()
        for pushing in self.pushing.values():
            await pushing.stop()

    async def act(self, app: App, day: date, line: str) -> None:
        """One line of the script, without its time."""
        what, *words = line.split()
        if what == "cable":
            north = self.polled["north"]
            await (north.plug_in() if words[0] == "on" else north.unplug())
        elif what == "leave":
            person, starts, ends = words
            await app.pipeline.tell((self.leave(day, person, starts, ends),))
        else:
            terminal = self.polled.get(what) or self.pushing[what]
            if isinstance(terminal, ZkTerminal):
                await terminal.punch(words[0])
            else:
                terminal.record(words[0])

    def leave(self, day: date, person: str, starts: str, ends: str) -> Reading:
        absence = Absence(
            f"demo-{day}-{person}", (person,), "personal", _at(day, starts), _at(day, ends),
            approved_by="演示分管领导", source="demo",
        )  # fmt: skip
        return Reading("api", self._simulation.clock.now(), absence)


def _at(day: date, clock: str) -> Instant:
    hour, minute, *second = (int(part) for part in clock.split(":"))
    return at_minute(day, hour * 60 + minute, ZONE) + (second[0] if second else 0) * 1000


def write_settings(folder: Path, ports: dict[str, int], push_port: int) -> Path:
    """The demo's settings: an ordinary file that every command understands."""
    lines = ['[hall]\nid = "demo"\nname = "演示政务服务中心"\nstart_date = 2026-03-02\n']
    lines += [f'[[units]]\nid = "{id_}"\nname = "{name}"\n' for id_, name in UNITS.items()]
    for code, name, unit, window in PEOPLE:
        lines.append(f'[[windows]]\nid = "{window}"\nname = "{window}号窗口"\nunit = "{unit}"\n')
        lines.append(
            f'[[people]]\ncode = "{code}"\nname = "{name}"\nunit = "{unit}"\nwindow = "{window}"\n'
        )
    (folder / "comm_key").write_text("1234\n")
    names = {"east": "东门考勤机", "north": "北门考勤机", "door": "侧门考勤机"}
    for id_, port in ports.items():
        key = 'comm_key_file = "comm_key"\n' if id_ == "door" else ""
        lines.append(
            f'[[devices]]\nid = "{id_}"\nname = "{names[id_]}"\ndriver = "zkteco"\n'
            f'host = "127.0.0.1"\nport = {port}\nprotocol = "{"udp" if key else "tcp"}"\n'
            f"keepalive_s = 60\n{key}"
        )
    for number, id_, name in ((4, "west", "西门人脸机"), (5, "south", "南门人脸机")):
        lines.append(
            f'[[devices]]\nid = "{id_}"\nname = "{name}"\ndriver = "zk_push"\n'
            f'serial = "DEMO2025000{number}"\nport = {push_port}\ndelay = 30\n'
        )
    lines.append(
        '[broker]\nembedded = true\nport = 0\n[api]\nport = 0\n[storage]\nstate_dir = "."\n'
    )
    path = folder / "demo.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


def play(out: Console, *, once: bool, speed: float, state: Path | None) -> int:
    """Run the demo; returns the exit code.  ``speed`` matters only without ``once``."""
    with tempfile.TemporaryDirectory(prefix="hallwatch-demo-") as temporary:
        folder = state or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        day = _next_day(folder)

        async def played(simulation: Simulation) -> int:
            return await _play(simulation, out, folder, day, once=once, speed=speed)

        try:
            return simulate(_at(day, "07:20"), played)
        except KeyboardInterrupt:
            return 0


def _next_day(folder: Path) -> date:
    """The first day of the script, or the one after what this state has seen already."""
    path = folder / FILE_NAME
    if not path.exists():
        return FIRST_DAY
    with closing(open_reader(path)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'rolled'").fetchone()
    return date.fromordinal(int(row[0]) + 1) if row else FIRST_DAY


async def _play(
    simulation: Simulation, out: Console, folder: Path, day: date, *, once: bool, speed: float
) -> int:
    demo = DemoHall(simulation)
    push_port = _free_port()
    hall = load(write_settings(folder, await demo.start_polled(), push_port))
    app = App(hall, simulation.clock)
    simulation.pipeline = app.pipeline
    token_id, secret, digest = new_secret()
    request = Request("token_add", token_id=token_id, name="demo", scopes="admin", hash=digest)
    try:
        await app.start()
        now = simulation.clock.now()
        await asyncio.wrap_future(
            app.pipeline.call(lambda connection: change_tokens(connection, request, now))
        )
        assert app.api is not None
        out.print(f"接口 API      {app.api.address}/docs", markup=False)
        out.print(f"令牌 token    {secret}", markup=False, soft_wrap=True)
        out.print(
            f"消息 broker   {app.broker_address}   主题 topic  hall/{hall.id}/#", markup=False
        )
        out.print(f"配置 settings {folder / 'demo.toml'}\n", markup=False)
        teller = Teller(out, app, quiet=once)
        await demo.start_pushing(push_port)
        while True:
            while not hall.calendar.kind(day).works:
                day += timedelta(days=1)
            await _play_day(simulation, demo, app, day, teller, 0 if once else speed)
            if once:
                show_day(out, app.path, hall, day)
                return 0
            day += timedelta(days=1)
    finally:
        await demo.stop()
        await app.stop()


async def _play_day(
    simulation: Simulation, demo: DemoHall, app: App, day: date, teller: Teller, speed: float
) -> None:
    """The script on one date; ``speed`` 0 is as fast as it can."""

    async def until(at: Instant) -> None:
        clock = simulation.clock
        while clock.now() < at:
            step = at if speed == 0 else min(at, clock.now() + max(1, round(100 * speed)))
            await simulation.play(step)
            teller.tell()
            if speed:
                await asyncio.sleep(0.1)

    await simulation.play(_at(day, "07:20"))
    await app.pipeline.tell((demo.leave(day, "1007", "08:30", "12:00"),))
    teller.headline(day)
    for line in sorted(SCRIPT.split("\n")):
        if line:
            clock, _, action = line.partition(" ")
            await until(_at(day, clock))
            await demo.act(app, day, action)
    await until(_at(day, "19:30"))


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Teller:
    """Prints a line for each thing that happens, Chinese with English beside."""

    def __init__(self, out: Console, app: App, *, quiet: bool) -> None:
        self._out = out
        self._quiet = quiet
        self._hall = app.hall
        self._reader = open_reader(app.path)
        self._readings = self._last("reading")
        self._changes = self._last("change")

    def _last(self, table: str) -> int:
        found: int = self._reader.execute(f"SELECT ifnull(max(seq), 0) FROM {table}").fetchone()[0]
        return found

    def headline(self, day: date) -> None:
        if not self._quiet:
            self._out.rule(f"{day:%Y-%m-%d}", align="left")

    def tell(self) -> None:
        if self._quiet:
            return
        lines: list[tuple[Instant, str]] = []
        devices = {device.id: device.name for device in self._hall.devices}
        for seq, device, person, event_at, received_at in self._reader.execute(
            "SELECT seq, device, person, event_at, received_at FROM reading"
            " WHERE seq > ? AND kind = 'punch' ORDER BY seq",
            (self._readings,),
        ):
            self._readings = seq
            known = self._hall.people.get(person)
            late = "" if received_at - event_at < 2 * MINUTE else "（补传 late）"
            name = known.name if known else "未登记 unknown"
            at = f"{_clock(event_at)}{late}"
            lines.append((received_at, f"打卡 punch      {person} {name}  {devices[device]}  {at}"))
        for seq, kind, op, at, reason, row in self._reader.execute(
            "SELECT seq, kind, op, at, reason, row FROM change WHERE seq > ? ORDER BY seq",
            (self._changes,),
        ):
            self._changes = seq
            line = _change_line(kind, op, reason, msgspec.json.decode(row))
            if line:
                lines.append((at, line))
        for moment, line in sorted(lines, key=lambda told: told[0]):
            self._out.print(f"{_clock(moment)}  {line}", markup=False, soft_wrap=True)


_OPS = {"opened": "新 new", "amended": "改 amended", "withdrawn": "撤销 withdrawn"}


def _change_line(kind: str, op: str, reason: str, row: dict[str, Any]) -> str:
    if kind == "violation" and (op != "amended"):
        why = f"（{reason}）" if reason else ""
        return f"违规 violation  {_OPS[op]}{why}: {row['title']} / {row['detail']}"
    if kind == "alert":
        return f"告警 alert      {row['state']}: {row['title']} / {row['detail']}"
    return ""


def _clock(at: Instant) -> str:
    return datetime.fromtimestamp(at / 1000, ZONE).strftime("%H:%M:%S")


def show_day(out: Console, path: Path, hall: Hall, day: date) -> None:
    """The day's attendance table, violations, alerts and devices."""
    with closing(open_reader(path)) as connection:
        _show_attendance(out, connection, hall, day)
        _show_violations(out, connection, hall, day)
        _show_alerts(out, connection, day)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "what")
    return table


def _show_attendance(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table(
        f"{day} 考勤 attendance",
        "工号\ncode", "姓名\nname", "上班\non", "下班\noff", "上班\non", "下班\noff",
        "上午\nam", "下午\npm", "扣分\npoints",
    )  # fmt: skip
    for person, points, body, slots in connection.execute(
        "SELECT person, points, body, slots FROM attendance_day WHERE work_date = ?"
        " ORDER BY person",
        (day.isoformat(),),
    ):
        record = stored_record(body, slots)
        cells = {(slot.segment, slot.slot): _slot_cell(slot) for slot in record.slots}
        halves = {half.segment: VERDICT_ZH[half.verdict] for half in record.halves}
        table.add_row(
            person, _name(hall.people, person),
            *(cells.get((half, slot), "") for half in ("am", "pm") for slot in ("on", "off")),
            halves["am"], halves["pm"], f"{points:g}",
        )  # fmt: skip
    out.print(table)


def _name(people: Any, code: str) -> str:
    person: Person | None = people.get(code)
    return person.name if person else ""


_MARKS = {
    "ok": "", "late": "迟", "serious_late": "迟", "early_leave": "退",
    "serious_early_leave": "退", "absent_class": "×", "missing_punch": "缺",
}  # fmt: skip
"""As in the paper books of halls."""


def _slot_cell(slot: Slot) -> str:
    at = "--:--" if slot.event_time is None else _clock(slot.event_time)[:5]
    return f"{at} {_MARKS.get(slot.verdict, '?')}".rstrip()


def _show_violations(out: Console, connection: sqlite3.Connection, hall: Hall, day: date) -> None:
    table = _table("\n违规 violations", "code", "person", "points", "state", "what")
    for code, person, points, state, reason, body in connection.execute(
        "SELECT code, person, points, state, reason, body FROM violation WHERE work_date = ?"
        " ORDER BY person, code",
        (day.isoformat(),),
    ):
        row = msgspec.json.decode(body)
        shown = "有效" if state == "active" else "撤销"
        why = f" ({reason})" if reason else ""
        table.add_row(
            code, f"{person} {_name(hall.people, person)}", f"{points:g}", shown,
            f"{row['title']}{why}",
        )  # fmt: skip
    out.print(table)


def _show_alerts(out: Console, connection: sqlite3.Connection, day: date) -> None:
    table = _table("\n告警 alerts", "at", "code", "state", "what")
    for opened_at, code, state, body in connection.execute(
        "SELECT opened_at, code, state, body FROM alert WHERE work_date = ?"
        " ORDER BY opened_at, subject",
        (day.isoformat(),),
    ):
        table.add_row(_clock(opened_at)[:5], code, state, msgspec.json.decode(body)["title"])
    out.print(table)
