"""``hallwatch camera``: aiming a camera at its posts, and teaching it what an empty one looks like.

The pictures are taken, judged and drawn in a process of its own (``drivers.aim``): native decoders
hang, and the command must not.  A password is read there from its file and stands nowhere else.
"""

from __future__ import annotations

import multiprocessing
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from config.load import DeviceSpec, Hall
from daemon.control import Request, ask
from daemon.database import FILE_NAME, open_reader
from rules.video import FAULT_ZH

if TYPE_CHECKING:
    from drivers.aim import Aimed, Learned

STARTING = 30.0
"""Seconds for a process to load OpenCV and to open a stream on a slow machine."""
_LOOKS = {True: ("有人", "occupied"), False: ("空岗", "empty")}
_BUCKETS = {"day": "白天 day", "night": "夜间 night"}


class CameraProblem(Exception):
    """Nothing can be seen, or learned; the message is a sentence."""


def camera_of(hall: Hall, id_: str) -> DeviceSpec:
    """The camera of this id.  ``CameraProblem`` where there is none."""
    known = [one.id for one in hall.devices if one.driver == "video"]
    found = next((one for one in hall.devices if one.id == id_), None)
    if found is not None and found.driver != "video":
        raise CameraProblem(
            f"{id_} 不是摄像头 / {id_} is no camera: its driver is {found.driver}, not video."
        )
    if found is None:
        listed = f"cameras: {', '.join(known)}" if known else "the settings have no camera"
        raise CameraProblem(f"没有设备 {id_!r} / there is no device {id_!r}; {listed}.")
    return found


def learned_of(hall: Hall, camera: str) -> dict[str, bytes]:
    """What the daemon has kept of a camera, by name: ``picture``, and ``post:`` and the window."""
    path = hall.state_dir / FILE_NAME
    if not path.exists():
        return {}
    with closing(open_reader(path)) as connection:
        rows = connection.execute(
            "SELECT name, value FROM mark WHERE device = ?"
            " AND (name = 'picture' OR name LIKE 'post:%')",
            (camera,),
        ).fetchall()
    learned = {}
    for name, value in rows:
        try:
            learned[name] = b64decode(value, validate=True)
        except ValueError:
            continue  # The driver passes over it, too.
    return learned


def store_learned(hall: Hall, camera: str, learned: Learned) -> None:
    """Have it kept, by the daemon if it runs.  ``CameraProblem`` where that cannot be done."""
    marks = {
        f"post:{window}": b64encode(blob).decode("ascii") for window, blob in learned.marks.items()
    }
    if learned.picture:
        marks["picture"] = b64encode(learned.picture).decode("ascii")
    answer = ask(hall, Request("marks", device=camera, marks=marks))
    if answer.error:
        raise CameraProblem(answer.error)


# --------------------------------------------------------------------------------------------
# The commands
# --------------------------------------------------------------------------------------------


def aim(out: Console, hall: Hall, id_: str, file: Path) -> tuple[str, ...]:
    """Show what the camera sees and what is thought of it; returns what must be said beside."""
    spec = camera_of(hall, id_)
    check_file(hall, file)
    aimed: Aimed = _apart("aim", spec.options, learned_of(hall, id_))
    _write(file, aimed.jpeg)
    _show(out, spec, aimed)
    out.print(f"\n图片 picture: {file}", markup=False, soft_wrap=True)
    return (
        *aimed.problems,
        f"{file} 上的人未打码，看完请删除 / the picture shows people: delete it when it was seen.",
    )


def teach(out: Console, hall: Hall, id_: str, window: str, *, occupied: bool) -> tuple[str, ...]:
    """Learn one post, or all; returns what must be said beside."""
    spec = camera_of(hall, id_)
    posts = {post.window: post for post in spec.options.posts}
    if not posts:
        raise CameraProblem(
            f"{id_} 没有配置 posts / {id_} watches no post: give it [[devices.posts]] first."
        )
    if window and window not in posts:
        raise CameraProblem(
            f"{id_} 不看窗口 {window} / {id_} does not watch window {window!r}; its windows: "
            f"{', '.join(posts)}."
        )
    windows = (window,) if window else tuple(posts)
    learned: Learned = _apart("learn", spec.options, learned_of(hall, id_), windows, occupied)
    store_learned(hall, id_, learned)
    what = "有人的岗位 the occupied post" if occupied else "空岗画面 the empty post"
    for one in learned.marks:
        out.print(f"已学习 learned: {one} {what}（{_BUCKETS[learned.bucket]}）", markup=False)
    if learned.picture:
        out.print(
            f"镜头已改变视角，画面已重新学习 learned anew: {id_} 画面 the picture: the camera looks"
            " elsewhere than before, and what it sees now counts as right",
            markup=False,
            soft_wrap=True,
        )
    return tuple(_doubts(learned, occupied))


def _doubts(learned: Learned, occupied: bool) -> list[str]:
    from drivers.aim import RESTLESS, THRESHOLD

    said = []
    for window, share in learned.restless.items():
        score = learned.score[window]
        if occupied:
            continue
        if share > RESTLESS:
            said.append(
                f"{window}: 学习时岗位区域内有动作（{share:.0%}），请确认无人后重学 / something"
                " moved in the region meanwhile: make sure that nobody is there, and learn again."
            )
        if score is not None and score >= THRESHOLD:
            said.append(
                f"{window}: 与以前学到的空岗不同（{score:.2f}）/ it does not look like the empty"
                " post that was learned before: look with aim whether this one is empty."
            )
    return said


def check_file(hall: Hall, file: Path) -> None:
    """``CameraProblem`` where the picture may not be written there."""
    if file.resolve().is_relative_to(hall.state_dir.resolve()):
        raise CameraProblem(
            f"{file}: 图片有人像，不能存入数据目录 / the picture shows people and must not lie in"
            " the state directory; give another file with -o."
        )
    if not file.absolute().parent.is_dir():
        raise CameraProblem(f"{file}: 目录不存在 / there is no such folder.")


def _write(file: Path, jpeg: bytes) -> None:
    """Readable by its owner only, whoever could read what was there before."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(file, flags, 0o600), "wb") as picture:
            os.fchmod(picture.fileno(), 0o600)
            picture.write(jpeg)
    except OSError as error:
        raise CameraProblem(f"{file} cannot be written: {error.strerror}") from None


def _show(out: Console, spec: DeviceSpec, aimed: Aimed) -> None:
    from drivers.aim import RESTLESS, THRESHOLD

    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    name = "" if spec.name == spec.id else f" {spec.name}"
    facts.add_row("摄像头 camera", f"{spec.id}{name}")
    facts.add_row("画面 picture", f"{aimed.width}x{aimed.height} {aimed.codec}".rstrip())
    facts.add_row("光线 light", _BUCKETS[aimed.bucket])
    faults = "、".join(f"{FAULT_ZH[one]} {one}" for one in aimed.faults) or "无 none"
    if not aimed.known:
        faults += "（画面尚未学习 the picture has not been learned yet）"
    facts.add_row("异常 faults", faults)
    if aimed.shift is not None:
        facts.add_row("移位 shift", f"{aimed.shift[0]:g} %, {aimed.shift[1]:g} %")
    for name, value in aimed.measures.items():
        facts.add_row(name, f"{value:g}")
    out.print(facts)
    if not aimed.posts:
        out.print("\n没有配置 posts / no posts are configured", markup=False)
        return
    table = Table(
        "\n窗口\nwindow", "\n得分\nscore", "\n阈值\nthreshold", "\n看来\nlooks",
        "\n已学空岗\nempty known", "\n动作\nmotion", "\n说明\nnote",
        box=None, pad_edge=False,
    )  # fmt: skip
    for post in aimed.posts:
        looks = "" if post.score is None else " ".join(_LOOKS[post.score >= THRESHOLD])
        table.add_row(
            post.window,
            "-" if post.score is None else f"{post.score:.2f}",
            f"{THRESHOLD:.2f}",
            looks or "未知 unknown",
            "、".join(_BUCKETS[one] for one in post.learned) or "无 none",
            f"{post.restless:.0%}{' 有动作 moves' if post.restless > RESTLESS else ''}",
            post.reason,
        )
    out.print(table)


# --------------------------------------------------------------------------------------------
# The process that looks
# --------------------------------------------------------------------------------------------


def _apart(work: str, options: Any, learned: Mapping[str, bytes], *more: object) -> Any:
    """What ``drivers.aim`` makes of the camera.  ``CameraProblem`` where that is nothing."""
    if find_spec("cv2") is None:
        raise CameraProblem("没有安装视频组件 / OpenCV is not installed; install hallwatch[video].")
    from drivers.aim import AIM_SECONDS, LEARN_SECONDS

    lasts = AIM_SECONDS if work == "aim" else LEARN_SECONDS
    seconds = STARTING + lasts + 2 * options.open_timeout + 2 * options.read_timeout
    return in_time(seconds, _look, work, options, dict(learned), more)


def in_time(seconds: float, work: Callable[..., Any], *words: Any) -> Any:
    """What ``work`` returns in a process of its own, which is killed after so many seconds.

    Raises ``CameraProblem`` for that, for a process that dies, and for what ``work`` says.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, words), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise CameraProblem(
                f"摄像头 {seconds:.0f} 秒内没有给出画面 / the camera gave no pictures in"
                f" {seconds:.0f} s."
            )
        good, result = ours.recv()
    except EOFError:
        raise CameraProblem(
            "解码进程意外结束 / the process that decodes pictures ended without an answer."
        ) from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if not good:
        raise CameraProblem(result)
    return result


def _child(answer: Connection, work: Callable[..., Any], words: Sequence[Any]) -> None:
    try:
        answer.send((True, work(*words)))
    except ValueError as error:
        answer.send((False, str(error)))
    answer.close()
    # A stream may still be in native code, and would abort an interpreter that ends.
    os._exit(0)


def _look(work: str, options: Any, learned: Mapping[str, bytes], more: Sequence[Any]) -> Any:
    from drivers import aim, capture

    try:
        return getattr(aim, work)(options, learned, *more)
    except capture.NoPicture as problem:
        raise ValueError(f"没有画面 / no picture: {problem}") from None
