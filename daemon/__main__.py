"""The commands.  Errors are sentences on stderr; exit 0 good, 1 something found, 2 wrong use."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from zoneinfo import ZoneInfo

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from config.load import Hall, load
from config.source import SettingsError

if TYPE_CHECKING:
    from daemon.app import App
    from daemon.notify import Notifier

cli = typer.Typer(
    help="Watches the hardware of a service hall. 政务大厅硬件监察。",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
tokens = typer.Typer(help="API tokens. 接口令牌。", no_args_is_help=True, rich_markup_mode=None)
cli.add_typer(tokens, name="token")
cameras = typer.Typer(
    help="Aiming and teaching cameras. 摄像头对准与学习。",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cli.add_typer(cameras, name="camera")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Settings = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", help="The settings' file (TOML).")
]


def fail(message: object, code: int = 2) -> NoReturn:
    """End the command with a sentence on stderr."""
    err.print(str(message), markup=False)
    raise typer.Exit(code)


def settings(path: Path) -> Hall:
    """The hall of a settings file, or the end of the command with everything that is wrong."""
    try:
        return load(path)
    except SettingsError as error:
        fail(error)


@contextmanager
def known_problems() -> Iterator[None]:
    """Problems with the state or an address end the command with their sentence."""
    from daemon.database import DatabaseProblem

    try:
        yield
    except DatabaseProblem as problem:
        fail(problem)
    except OSError as problem:
        fail(f"{problem}")


def set_up_logs(level: str, form: str) -> None:
    """One line an event on stderr; ``form`` is ``text`` or ``json``."""
    renderer: Any
    if form == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer]
        if form == "json"
        else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


@cli.command(epilog="Example: hallwatch run -c /etc/hallwatch/hallwatch.toml")
def run(config: Settings) -> None:
    """The daemon, in the foreground. 前台运行。"""
    hall = settings(config)
    set_up_logs(hall.log.level, hall.log.format)
    for warning in hall.warnings:
        err.print(warning, markup=False)
    with known_problems():
        raise typer.Exit(asyncio.run(_run(hall, config)))


async def _run(hall: Hall, config: Path) -> int:
    from daemon.app import App
    from daemon.control import ControlServer
    from daemon.notify import Notifier

    log = structlog.get_logger("hallwatch")
    notifier = Notifier()
    app = App(hall)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    reloads: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.put_nowait, None)
    await app.start()
    control = ControlServer(app.pipeline, app.clock, hall.state_dir, app.supervisor.set_marks)
    await control.start()
    assert app.api is not None
    log.info("started", version=app.version, api=app.api.address, state=str(hall.state_dir))
    notifier.ready(f"watching {len(hall.devices)} devices of {hall.name}")

    async def reload_when_asked() -> None:
        while True:
            await reloads.get()
            notifier.reloading()
            try:
                await app.reload(load(config))
                log.info("settings_reloaded")
            except SettingsError as error:
                log.error("settings_refused", reason=str(error))
            notifier.ready(f"watching {len(app.hall.devices)} devices of {app.hall.name}")

    tasks = [
        asyncio.create_task(reload_when_asked()),
        asyncio.create_task(_feed_watchdog(app, notifier, ending)),
    ]
    await ending.wait()
    notifier.stopping()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await control.stop()
    await app.stop()
    log.info("stopped")
    return 0 if app.pipeline.failures == 0 else 1


async def _feed_watchdog(app: App, notifier: Notifier, ending: asyncio.Event) -> None:
    """Tell systemd that the pipeline still commits; a daemon that hangs is restarted by it."""
    pause = (notifier.watchdog_seconds() or 180.0) / 3
    while not ending.is_set():
        committed = app.pipeline.call(lambda connection: connection.in_transaction)
        done, _ = await asyncio.wait([asyncio.wrap_future(committed)], timeout=pause)
        if done:
            notifier.watchdog()
        await asyncio.sleep(pause)


@cli.command(epilog="Example: hallwatch demo --once")
def demo(
    once: Annotated[bool, typer.Option(help="Play one working day, print it, and end.")] = False,
    speed: Annotated[float, typer.Option(min=1, help="How much faster than real time.")] = 60,
    state: Annotated[
        Path | None, typer.Option(help="Keep the demo's state in this folder.")
    ] = None,
) -> None:
    """The demo hall: emulated terminals, real protocols. 演示大厅。"""
    from daemon.demo import play

    set_up_logs(os.environ.get("HALLWATCH_LOG", "error"), "text")
    with known_problems():
        raise typer.Exit(play(out, once=once, speed=speed, state=state))


@cli.command(epilog="Example: hallwatch check -c hallwatch.toml --probe")
def check(
    config: Settings,
    probe: Annotated[bool, typer.Option(help="Also try devices, brokers and database.")] = False,
) -> None:
    """List every error in the settings. 检查配置。"""
    hall = settings(config)
    for warning in hall.warnings:
        err.print(warning, markup=False)
    out.print(
        f"{config}: 配置正确 settings are good — {len(hall.people)} people, "
        f"{len(hall.devices)} devices, {len(hall.sinks)} sinks",
        markup=False,
        soft_wrap=True,
    )
    if not probe:
        return
    from daemon.probe import probe as try_everything

    set_up_logs("error", "text")
    with err.status("probing…"), known_problems():
        found = asyncio.run(try_everything(hall))
    table = Table("", "what", box=None, pad_edge=False)
    table.add_column("where", overflow="fold")
    table.add_column("found", overflow="fold")
    for row in found:
        mark = {True: "✓", False: "✗", None: "?"}[row.good]
        table.add_row(mark, row.what, row.where, row.found)
    out.print(table)
    if any(row.good is False for row in found):
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is not a date; expected YYYY-MM-DD.")


@cli.command(epilog="Example: hallwatch replay -c hallwatch.toml --verify")
def replay(
    config: Settings,
    first: Annotated[str | None, typer.Option("--from", metavar="D")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="D")] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings whose rules to try; not stored.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare with what is stored.")] = False,
) -> None:
    """Judge the journal again. 重新计算。"""
    from daemon import replay as replays
    from daemon.clock import Clock
    from daemon.database import FILE_NAME, StateLock

    hall = settings(config)
    set_up_logs("error", "text")
    path = hall.state_dir / FILE_NAME
    if verify and rules:
        fail("--verify and --rules cannot go together.")
    if not path.exists():
        fail(f"There is no database at {path}.")
    span = (_day(first), _day(last))
    with known_problems():
        if not verify and rules is None:
            lock = StateLock(hall.state_dir)
            with _progress("judging") as show:
                changes = replays.rejudge(
                    path, hall, Clock(), *span, show, hall.storage.synchronous
                )
            lock.release()
            out.print(f"重算完成 judged again: {changes} changes")
            return
        found = 0
        table = Table("date", "who", "what", "stored", "judged", box=None, pad_edge=False)
        with _progress("judging") as show:
            differences = (
                replays.verify(path, hall, Clock(), *span, show)
                if rules is None
                else replays.what_if(path, hall, settings(rules), *span, show)
            )
            for row in differences:
                found += 1
                if found <= 50:
                    table.add_row(
                        row.work_date, row.subject, row.what, row.stored[:160], row.judged[:160]
                    )
    if found:
        out.print(table)
        more = " (the first 50 are shown)" if found > 50 else ""
        out.print(f"{found} 处不同 differences{more}", markup=False)
        raise typer.Exit(1 if verify else 0)
    out.print("没有不同 no differences")


@cli.command(epilog="Example: hallwatch decode zkteco capture.hex")
def decode(
    family: str,
    file: Annotated[Path | None, typer.Argument(help="Hex or raw; stdin without it.")] = None,
    zone: Annotated[str, typer.Option(help="The hall's zone.")] = "Asia/Shanghai",
) -> None:
    """Recorded bytes to readings, one JSON line each. 解码抓包。"""
    import msgspec

    from api.views import instant_text

    module = _family(family)
    try:
        data = file.read_bytes() if file else sys.stdin.buffer.read()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    where = _zone(zone)
    unreadable = 0
    for reading in module.decode(_bytes_of(data), where):
        body = msgspec.to_builtins(reading.body)
        unreadable += body.get("type") == "unreadable"
        line = {
            "device": reading.device,
            "serial": reading.serial,
            "at": instant_text(reading.at, where),
            **body,
            "raw": reading.raw.hex(),
        }
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    if unreadable:
        err.print(f"{unreadable} unreadable")
        raise typer.Exit(1)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        fail(f"{name!r} is not a time zone; expected a name such as Asia/Shanghai.")


def _bytes_of(data: bytes) -> bytes:
    """Hex text (with comments after #, spaces, line breaks) or raw bytes."""
    text = b"".join(line.partition(b"#")[0] for line in data.splitlines(keepends=True))
    try:
        return bytes.fromhex(text.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return data


def _family(name: str) -> Any:
    """The module of a device family."""
    try:
        module = import_module(f"drivers.{name}")
    except ImportError:
        module = None
    if module is None or not hasattr(module, "decode"):
        fail(f"There is no device family {name!r}; there are: {', '.join(_families())}.")
    return module


def _families() -> list[str]:
    folder = Path(__file__).parent.parent / "drivers"
    return sorted(
        path.stem for path in folder.glob("*.py") if "\nDRIVER = " in path.read_text("utf-8")
    )


@cli.command(epilog="Example: hallwatch emulate zkteco --port 4370 --serial HW20250001 --every 20")
def emulate(
    family: str,
    serial: Annotated[str, typer.Option(help="What the device calls itself.")] = "HW20250001",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; without one, devices of serial lines are on a"
            " pseudo-terminal.",
        ),
    ] = None,
    server: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Whom to call: hallwatch (zk_push, http_terminal, network_pad) or a broker"
            " (mqtt_counter).",
        ),
    ] = "",
    line: Annotated[
        str, typer.Option(metavar="PATH", help="Play on this real serial port instead.")
    ] = "",
    baud: Annotated[int, typer.Option(min=0, help="Speed of the line; 0: the usual one.")] = 0,
    profile: Annotated[
        str, typer.Option(help="Kind of pad, display or board, as in the settings.")
    ] = "",
    address: Annotated[int, typer.Option(min=0, help="Address on the line.")] = 1,
    root: Annotated[str, typer.Option(help="What topics begin with (mqtt_counter).")] = "hall/h1",
    people: Annotated[int, typer.Option(min=1, max=5000, help="Enrolled users.")] = 10,
    records: Annotated[int, typer.Option(min=0, help="Punches in the log already.")] = 0,
    every: Annotated[
        float, typer.Option(min=0.05, help="Seconds between punches, presses, tickets.")
    ] = 30,
    comm_key: Annotated[
        int, typer.Option(min=0, max=999_999, help="Comm key, or a module's password.")
    ] = 0,
    password: Annotated[
        str, typer.Option(help="Password (hikvision) or token (http_terminal, network_pad).")
    ] = "",
    clock_offset: Annotated[float, typer.Option(help="Seconds the clock is ahead.")] = 0,
    zone: Annotated[str, typer.Option(help="The device's zone.")] = "Asia/Shanghai",
) -> None:
    """Play one device, for commissioning without hardware. 模拟设备。"""
    from daemon.emulate import Wanted, play_device

    wanted = Wanted(
        family, serial, _zone(zone), host, port, server, line, baud, profile, address, root,
        people, records, comm_key, password, clock_offset,
    )  # fmt: skip
    with known_problems():
        try:
            asyncio.run(play_device(out, wanted, every))
        except KeyboardInterrupt:
            pass
        except ValueError as error:
            fail(error)


@cli.command(name="import", epilog="Example: hallwatch import people staff.xlsx -c hallwatch.toml")
def import_table(what: str, file: Path, config: Settings) -> None:
    """people, roster or absences from CSV or XLSX; all rows or none. 导入。"""
    from config import tables
    from daemon.control import Request, ask

    hall = settings(config)
    people = _known_people(hall)
    try:
        data = file.read_bytes()
        if what == "people":
            bodies: list[Any] = list(
                tables.read_people(
                    data,
                    units=hall.units,
                    windows={id_: window.name for id_, window in hall.windows.items()},
                    devices=[device.id for device in hall.devices],
                )
            )
        elif what == "roster":
            bodies = list(tables.read_roster(data, people=people, timetables=hall.timetables))
        elif what == "absences":
            bodies = list(tables.read_absences(data, people=people, zone=hall.zone))
        else:
            fail(f"{what!r} cannot be imported; expected people, roster or absences.")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    except tables.TableErrors as errors:
        for problem in errors.problems:
            err.print(str(problem), markup=False)
        fail(f"{file}: 有 {len(errors.problems)} 处错误，未导入 / nothing was imported.", 1)
    with known_problems():
        answer = ask(hall, Request("record", source="import", bodies=tuple(bodies)))
    if answer.error:
        fail(answer.error, 1)
    out.print(f"已导入 imported: {len(bodies)} rows", markup=False)


def _known_people(hall: Hall) -> Any:
    """People of the settings and of the journal."""
    from daemon.database import FILE_NAME, open_reader
    from daemon.facts import Said

    path = hall.state_dir / FILE_NAME
    if not path.exists():
        return hall.people
    with closing(open_reader(path)) as connection:
        return {**hall.people, **Said(connection).people}


@tokens.command("add", epilog="Example: hallwatch token add board --scopes devices:read -c FILE")
def token_add(
    name: str,
    config: Settings,
    scopes: Annotated[
        str, typer.Option(help="Comma-separated, such as attendance:read,devices:read.")
    ],
) -> None:
    """Make a token; its secret is shown once. 新建令牌。"""
    from api.auth import SCOPES
    from daemon.control import Request, ask, new_secret

    hall = settings(config)
    wanted = [scope.strip() for scope in scopes.replace(" ", ",").split(",") if scope.strip()]
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        fail(f"Unknown scopes: {', '.join(unknown) or 'none given'}; known: {', '.join(SCOPES)}.")
    token_id, secret, digest = new_secret()
    with known_problems():
        answer = ask(
            hall,
            Request(
                "token_add", token_id=token_id, name=name, scopes=" ".join(wanted), hash=digest
            ),
        )
    if answer.error:
        fail(answer.error, 1)
    out.print(f"id {token_id}\n{secret}", markup=False, soft_wrap=True)
    err.print("只显示这一次 shown only this once")


@tokens.command("list", epilog="Example: hallwatch token list -c hallwatch.toml")
def token_list(config: Settings) -> None:
    """Tokens without their secrets. 列出令牌。"""
    from api.views import instant_text
    from daemon.database import FILE_NAME, open_reader

    hall = settings(config)
    table = Table("id", "name", "scopes", "created", "revoked", box=None, pad_edge=False)
    with known_problems():
        path = hall.state_dir / FILE_NAME
        if not path.exists():
            fail(f"There is no database at {path}.")
        with closing(open_reader(path)) as connection:
            for id_, name, scopes, created, revoked in connection.execute(
                "SELECT id, name, scopes, created_at, revoked_at FROM token ORDER BY created_at"
            ):
                table.add_row(
                    id_, name, scopes, instant_text(created, hall.zone),
                    instant_text(revoked, hall.zone) if revoked else "",
                )  # fmt: skip
    out.print(table)


@tokens.command("revoke", epilog="Example: hallwatch token revoke 1a2b3c4d -c hallwatch.toml")
def token_revoke(token_id: str, config: Settings) -> None:
    """Make a token worthless at once. 吊销令牌。"""
    from daemon.control import Request, ask

    hall = settings(config)
    with known_problems():
        answer = ask(hall, Request("token_revoke", token_id=token_id))
    if answer.error:
        fail(answer.error, 1)
    out.print("已吊销 revoked")


@cameras.command("aim", epilog="Example: hallwatch camera aim hall-03 -o aim.jpg -c hallwatch.toml")
def camera_aim(
    camera: Annotated[str, typer.Argument(metavar="ID", help="The camera's id.")],
    config: Settings,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PICTURE.jpg", help="Without it ID-aim.jpg, here."),
    ] = None,
) -> None:
    """Look for 5 s: the picture with its posts, scores and faults. 对准岗位。"""
    from daemon.camera import aim

    hall = settings(config)
    with _camera_problems():
        _warn(aim(out, hall, camera, output or Path(f"{camera}-aim.jpg")))


@cameras.command("learn-empty", epilog="Example: hallwatch camera learn-empty hall-03 -c FILE")
def camera_learn_empty(
    camera: Annotated[str, typer.Argument(metavar="ID", help="The camera's id.")],
    config: Settings,
    window: Annotated[str, typer.Option(help="Only this window's post.")] = "",
) -> None:
    """Look for 30 s while nobody is there, and learn it, for the present light. 学习空岗。"""
    from daemon.camera import teach

    hall = settings(config)
    with _camera_problems():
        _warn(teach(out, hall, camera, window, occupied=False))


@cameras.command(
    "learn-occupied", epilog="Example: hallwatch camera learn-occupied hall-03 -c FILE"
)
def camera_learn_occupied(
    camera: Annotated[str, typer.Argument(metavar="ID", help="The camera's id.")],
    config: Settings,
    window: Annotated[str, typer.Option(help="Only this window's post.")] = "",
) -> None:
    """Look for 30 s while the clerk sits there: sets the thresholds. 学习有人。"""
    from daemon.camera import teach

    hall = settings(config)
    with _camera_problems():
        _warn(teach(out, hall, camera, window, occupied=True))


@contextmanager
def _camera_problems() -> Iterator[None]:
    from daemon.camera import CameraProblem

    try:
        with known_problems(), err.status("正在看画面 looking…"):
            yield
    except CameraProblem as problem:
        fail(problem, 1)


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        err.print(sentence, markup=False)


@cli.command(epilog="Example: hallwatch backup /var/backups/hallwatch.db -c hallwatch.toml")
def backup(file: Path, config: Settings) -> None:
    """A consistent copy of the state while the daemon runs. 备份。"""
    from daemon.database import FILE_NAME
    from daemon.database import backup as copy

    hall = settings(config)
    path = hall.state_dir / FILE_NAME
    if not path.exists():
        fail(f"There is no database at {path}.")
    with known_problems(), _progress("copying") as show:
        copy(path, file, show)
    out.print(f"已备份 copied to {file} ({file.stat().st_size:,} bytes)", markup=False)


def main() -> None:
    """The console script."""
    os.environ.setdefault("PYTHONUTF8", "1")
    cli()


if __name__ == "__main__":
    main()
