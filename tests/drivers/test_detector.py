"""The detector over ONNX files made here: networks small enough to know by hand what they tell."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import drivers.detector
from drivers.detector import (
    OPEN_SIDE,
    Detector,
    DetectorProblem,
    Found,
    cells,
    declared,
    letterbox,
)

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIDE = 64
MANY = 64 + 16 + 4
"""Cells of 8, 16 and 32 pixels in 64 by 64."""
ORT = pytest.param(
    "ort", marks=pytest.mark.skipif(find_spec("onnxruntime") is None, reason="no onnxruntime")
)
both = pytest.mark.parametrize("backend", ["cv2", ORT])
Backend = Literal["cv2", "ort"]


def save(
    path: Path,
    nodes: Sequence[Any],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Any] | None = None,
    shape: Sequence[int | str] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[Any] = (),
) -> str:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("images", kind, shape), *inputs],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
            for name, sides in outputs.items()
        ],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (weights or {}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def same(name: str, told: Any) -> tuple[list[Any], dict[str, Any]]:
    """A network that tells ``told`` of every picture."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], [f"{name}_mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", [f"{name}_mean", f"{name}_none"], [f"{name}_zero"]),
        helper.make_node("Add", [f"{name}_told", f"{name}_zero"], [name]),
    ]
    weights = {f"{name}_none": np.zeros(1, np.float32), f"{name}_told": np.float32(told)}
    return nodes, weights


def constant(path: Path, told: Any, **more: Any) -> str:
    nodes, weights = same("output0", told)
    return save(path, nodes, {"output0": np.shape(told)}, weights, **more)


def yolo(*boxes: tuple[int, Sequence[float]], classes: int = 2) -> Any:
    told = np.zeros((1, 4 + classes, MANY), np.float32)
    for cell, values in boxes:
        told[0, : len(values), cell] = values
    return told


def yolox(*boxes: tuple[int, Sequence[float]], classes: int = 2) -> Any:
    told = np.zeros((1, MANY, 5 + classes), np.float32)
    for cell, values in boxes:
        told[0, cell, : len(values)] = values
    return told


def told(found: Sequence[Found]) -> list[tuple[float, ...]]:
    return [tuple(round(value, 3) for value in one) for one in found]


def picture(width: int, height: int, bgr: Sequence[int] = (0, 0, 0)) -> Any:
    return np.full((height, width, 3), bgr, np.uint8)


# -- the layouts


@both
def test_a_yolo_tells_boxes_in_pixels_of_the_picture(tmp_path: Path, backend: Backend) -> None:
    """128 by 64 is laid at half size into the middle of 64 by 64, with 16 rows of grey above."""
    path = constant(tmp_path / "y.onnx", yolo((10, (32, 32, 16, 20, 0.9, 0.1))))
    detector = Detector(path, backend=backend)

    assert (detector.kind, detector.backend) == ("yolo", backend)
    # x: (32 - 8) * 2; y: (32 - 10 - 16) * 2
    assert told(detector.detect(picture(128, 64))) == [(48, 12, 32, 40, 0.9, 0)]


@both
def test_a_yolox_tells_offsets_in_cells(tmp_path: Path, backend: Backend) -> None:
    """The picture lies in the upper left corner; row 70 is column 2, row 1 of the cells of 16."""
    values = (0.5, 0.25, np.log(1.5), np.log(0.5), 0.8, 0.9, 0.2)
    path = constant(tmp_path / "x.onnx", yolox((64 + 4 + 2, values)))
    detector = Detector(path, backend=backend)

    assert detector.kind == "yolox"
    # middle (2.5, 1.25) * 16 = (40, 20), size (24, 8); doubled; score 0.8 * 0.9
    assert told(detector.detect(picture(128, 64))) == [(56, 32, 48, 16, 0.72, 0)]


def grid_network(path: Path, family: str, gain: float, shape: Sequence[int | str]) -> str:
    """Its score of a cell is the mean of the first colour it is fed there, times ``gain``, and of
    the second class that of the last colour; its boxes are the cells."""
    grid = cells(SIDE, SIDE)
    middle, size = (grid[:, :2] + 0.5) * grid[:, 2:], np.repeat(grid[:, 2:], 2, 1)
    nodes, scores = [], []
    weights: dict[str, Any] = {"flat": np.int64([1, 2, -1])}
    for stride in (8, 16, 32):
        kernel = np.zeros((2, 3, stride, stride), np.float32)
        kernel[0, 0] = kernel[1, 2] = gain / stride**2
        weights[f"kernel{stride}"] = kernel
        nodes += [
            helper.make_node(
                "Conv", ["images", f"kernel{stride}"], [f"map{stride}"],
                kernel_shape=[stride, stride], strides=[stride, stride],
            ),
            helper.make_node("Reshape", [f"map{stride}", "flat"], [f"score{stride}"]),
        ]  # fmt: skip
        scores.append(f"score{stride}")
    nodes.append(helper.make_node("Concat", scores, ["scores"], axis=2))
    if family == "yolo":
        weights["boxes"] = np.hstack((middle, size)).T[None].astype(np.float32)
        nodes.append(helper.make_node("Concat", ["boxes", "scores"], ["out"], axis=1))
        sides = (1, 6, MANY)
    else:
        raw = np.tile(np.float32([0.5, 0.5, 0, 0, 1]), (MANY, 1))
        weights["boxes"] = raw[None]
        nodes += [
            helper.make_node("Transpose", ["scores"], ["columns"], perm=[0, 2, 1]),
            helper.make_node("Concat", ["boxes", "columns"], ["out"], axis=2),
        ]
        sides = (1, MANY, 7)
    return save(path, nodes, {"out": sides}, weights, shape)


@both
@pytest.mark.parametrize(
    ("family", "gain", "first"), [("yolo", 1.0, "red"), ("yolox", 1 / 255, "blue")]
)
def test_each_family_is_fed_its_colours_and_finds_the_place(
    tmp_path: Path, backend: Backend, family: str, gain: float, first: str
) -> None:
    """YOLO wants RGB from 0 to 1, YOLOX wants BGR from 0 to 255."""
    path = grid_network(tmp_path / "g.onnx", family, gain, (1, 3, SIDE, SIDE))
    detector = Detector(path, 0.5, backend=backend, classes=(0, 1))
    seen = picture(SIDE, SIDE)
    seen[16:24, 40:48, 2] = 255  # red, exactly the cell of column 5, row 2
    seen[32:48, 0:16, 0] = 204  # blue, exactly a cell of 16 pixels and the four within it

    found = set(told(detector.detect(seen)))

    red, blue = (0, 1) if first == "red" else (1, 0)
    assert (40, 16, 8, 8, 1.0, red) in found
    assert (0, 32, 16, 16, 0.8, blue) in found
    assert {one[5] for one in found} == {0, 1}
    assert {one[:4] for one in found if one[5] == red} == {(40, 16, 8, 8)}


def yunet(path: Path, shape: Sequence[int | str] = (1, 3, SIDE, SIDE), side: int = SIDE) -> str:
    """A face at column 3, row 2 of the cells of 8 pixels, and in another cell a hint of one."""
    nodes: list[Any] = []
    outputs, weights = {}, {}
    for stride in (8, 16, 32):
        many = (side // stride) ** 2
        for part, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            values = np.zeros((1, many, columns), np.float32)
            if stride == 8:
                rows = {
                    "cls": [0.9], "obj": [0.9], "bbox": [0.5, 0.25, np.log(2), np.log(3)],
                    "kps": [1.0] * 10,
                }  # fmt: skip
                values[0, 2 * (side // 8) + 3] = rows[part]
                if part in ("cls", "obj"):
                    values[0, 50] = 0.3
            more, constants = same(f"{part}_{stride}", values)
            nodes += more
            weights |= constants
            outputs[f"{part}_{stride}"] = values.shape
    return save(path, nodes, outputs, weights, shape)


def test_a_yunet_tells_faces_without_their_landmarks(tmp_path: Path) -> None:
    detector = Detector(yunet(tmp_path / "f.onnx"))

    found = detector.detect(picture(128, 64))

    assert (detector.kind, detector.backend) == ("yunet", "cv2")
    # middle (3.5, 2.25) * 8 = (28, 18), size (16, 24); from (20, 6); doubled
    assert told(found) == [(40, 12, 32, 48, 0.9, 0)]
    assert all(len(one) == 6 for one in found)


def test_a_yunet_of_open_size_is_run_at_320(tmp_path: Path) -> None:
    detector = Detector(yunet(tmp_path / "f.onnx", (1, 3, "h", "w"), OPEN_SIDE))

    assert (detector.width, detector.height) == (320, 320)
    assert told(detector.detect(picture(640, 640))) == [(40, 12, 32, 48, 0.9, 0)]


def test_a_yunet_asked_for_another_class_tells_nothing(tmp_path: Path) -> None:
    assert Detector(yunet(tmp_path / "f.onnx"), classes=(1,)).detect(picture(64, 64)) == []


# -- which boxes


@both
def test_weak_overlapping_and_foreign_boxes_are_left_out(tmp_path: Path, backend: Backend) -> None:
    values = yolo(
        (0, (20, 20, 20, 20, 0.7, 0)),
        (1, (21, 20, 20, 20, 0.8, 0)),  # the same, seen better: 380 of 420 pixels overlap
        (2, (50, 50, 20, 20, 0.41, 0.1)),
        (3, (50, 20, 10, 10, 0.39, 0)),  # too weak
        (4, (20, 50, 10, 10, 0.5, 0.6)),  # rather the second class
    )
    path = constant(tmp_path / "y.onnx", values)
    seen = picture(SIDE, SIDE)

    assert told(Detector(path, backend=backend).detect(seen)) == [
        (11, 10, 20, 20, 0.8, 0),
        (40, 40, 20, 20, 0.41, 0),
    ]
    assert told(Detector(path, backend=backend, classes=(1,)).detect(seen)) == [
        (15, 45, 10, 10, 0.6, 1)
    ]
    assert Detector(path, 0.85, backend=backend).detect(seen) == []
    assert Detector(path, backend=backend, classes=(7,)).detect(seen) == []


def test_boxes_end_where_the_picture_does(tmp_path: Path) -> None:
    values = yolo(
        (0, (0, 32, 20, 60, 0.9)),  # over the left edge and into the bars
        (1, (40, 5, 10, 8, 0.8)),  # in the bar above alone
    )
    detector = Detector(constant(tmp_path / "y.onnx", values), backend="cv2")

    assert told(detector.detect(picture(128, 64))) == [(0, 0, 20, 64, 0.9, 0)]


def test_luma_alone_is_a_picture_too(tmp_path: Path) -> None:
    path = grid_network(tmp_path / "g.onnx", "yolo", 1.0, (1, 3, SIDE, SIDE))
    seen = np.zeros((SIDE, SIDE), np.uint8)
    seen[16:24, 40:48] = 255

    assert told(Detector(path, backend="cv2").detect(seen)) == [(40, 16, 8, 8, 1.0, 0)]


def test_a_picture_without_pixels_shows_nobody(tmp_path: Path) -> None:
    detector = Detector(constant(tmp_path / "y.onnx", yolo((0, (9, 9, 9, 9, 0.9)))), backend="cv2")

    assert detector.detect(np.zeros((0, 5, 3), np.uint8)) == []
    assert len(detector.detect(picture(1, 1))) <= 1


@both
@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (1, 3, 320, 320)])
def test_an_open_size_is_taken_as_320(
    tmp_path: Path, backend: Backend, shape: Sequence[int | str]
) -> None:
    many = 40 * 40 + 20 * 20 + 10 * 10
    values = np.zeros((1, 5, many), np.float32)
    values[0, :, 1] = (160, 160, 32, 64, 0.9)
    path = constant(tmp_path / "y.onnx", values, shape=shape)
    detector = Detector(path, backend=backend)

    assert (detector.width, detector.height) == (320, 320)
    assert told(detector.detect(picture(640, 640))) == [(288, 256, 64, 128, 0.9, 0)]


def test_a_wide_input_is_cut_into_cells_row_by_row() -> None:
    grid = cells(96, 32)

    assert len(grid) == 12 * 4 + 6 * 2 + 3
    assert grid[13].tolist() == [1, 1, 8]
    assert grid[48 + 7].tolist() == [1, 1, 16]
    assert grid[-1].tolist() == [2, 0, 32]


def test_a_picture_is_laid_in_whole_with_grey_beside_it() -> None:
    seen, fit = letterbox(picture(50, 100, (1, 2, 3)), 64, 64, centred=True)

    assert fit == (0.64, 16, 0)
    assert seen.shape == (64, 64, 3)
    assert (seen[:, :16] == 114).all()
    assert (seen[:, 48:] == 114).all()
    assert (seen[:, 16:48] == (1, 2, 3)).all()


# -- what cannot be used, in words


def refused(path: str, *words: str, backend: Backend = "cv2") -> None:
    with pytest.raises(DetectorProblem) as caught:
        Detector(path, backend=backend)

    sentence = str(caught.value)
    assert sentence.startswith(f"{path} cannot be used as a detector: ")
    assert sentence.endswith(".")
    for word in words:
        assert word in sentence


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(str(tmp_path / "none.onnx"), "cannot be read", "No such file")
    refused(str(tmp_path), "cannot be read", "Is a directory")


@pytest.mark.parametrize(
    "content",
    [b"", b"no model, but a text", b"\x08\x08", b"\x08\x08:\x00", b"\x89PNG\r\n\x1a\n" + b"0" * 9],
)
def test_what_is_no_onnx_is_told_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "person.onnx"
    path.write_bytes(content)

    refused(str(path), "not an ONNX file")


def test_half_a_file_is_told_so(tmp_path: Path) -> None:
    path = Path(constant(tmp_path / "y.onnx", yolo()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    refused(str(path), "not an ONNX file", "beyond the end")


def test_a_file_that_is_far_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers.detector, "LARGEST_FILE", 1 << 20)
    path = tmp_path / "huge.onnx"
    path.write_bytes(bytes((1 << 20) + 1))

    refused(str(path), "larger than 1 MiB")


@both
@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((1, 3 * MANY, 7), "YOLOv5"),
        ((1, 300, 6), "without NMS"),
        ((1, 1, 100, 7), "SSD"),
        ((1, 1000), "it tells 1x1000; a YOLOv8 or v11 would tell 1x(4+C)x84"),
        ((1, 4, MANY), "it tells 1x4x84"),
        ((1, MANY, 5), "it tells 1x84x5"),
        ((2, 6, MANY), "it tells 2x6x84"),
    ],
)
def test_an_unknown_layout_is_told_with_its_shape(
    tmp_path: Path, backend: Backend, shape: tuple[int, ...], word: str
) -> None:
    path = constant(tmp_path / "o.onnx", np.zeros(shape, np.float32))

    refused(path, word, backend=backend)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("loc", "conf", "iou"), "YuNet of 2022"),
        (("num_detections", "detection_boxes", "detection_scores"), "SSD"),
        (("boxes", "labels", "scores"), "SSD"),
        (("output0", "output1"), "it has 2 outputs (output0, output1)"),
        (("a", "b", "c", "d", "e"), "it has 5 outputs (a, b, c, d, ...)"),
    ],
)
def test_several_outputs_are_only_known_from_yunet(
    tmp_path: Path, names: Sequence[str], word: str
) -> None:
    nodes, weights = [], {}
    for name in names:
        more, constants = same(name, np.zeros((1, 4), np.float32))
        nodes += more
        weights |= constants
    path = save(tmp_path / "o.onnx", nodes, dict.fromkeys(names, (1, 4)), weights)

    refused(path, word)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((1, 3, 60, 64), "its input is 64 by 60 pixels; multiples of 32 up to 1280"),
        ((1, 3, 64, 1312), "its input is 1312 by 64 pixels"),
        ((1, 64, 64, 3), "its input is 1x64x64x3; 1x3xHxW was expected"),
        ((4, 3, 64, 64), "its input is 4x3x64x64"),
        ((1, 3, 64), "its input is 1x3x64"),
    ],
)
def test_an_input_that_is_no_picture_is_told_so(
    tmp_path: Path, shape: Sequence[int], word: str
) -> None:
    nodes = [helper.make_node("Identity", ["images"], ["out"])]

    refused(save(tmp_path / "i.onnx", nodes, {"out": shape}, shape=shape), word)


def test_an_input_of_bytes_is_told_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["images"], ["out"], to=TensorProto.FLOAT)]
    path = save(tmp_path / "i.onnx", nodes, {"out": (1, 3, SIDE, SIDE)}, kind=TensorProto.UINT8)

    refused(path, "its input is not float32")


def test_a_second_input_is_told_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["images", "more"], ["out"])]
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, (1, 3, SIDE, SIDE))
    path = save(tmp_path / "i.onnx", nodes, {"out": (1, 3, SIDE, SIDE)}, inputs=[more])

    refused(path, "it has 2 inputs")


@both
def test_weights_that_an_old_file_lists_as_inputs_are_none(
    tmp_path: Path, backend: Backend
) -> None:
    nodes, weights = same("output0", yolo((10, (32, 32, 16, 20, 0.9))))
    listed = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in weights.items()
    ]
    path = save(tmp_path / "y.onnx", nodes, {"output0": (1, 6, MANY)}, weights, inputs=listed)

    assert len(Detector(path, backend=backend).detect(picture(64, 64))) == 1


@both
def test_a_network_that_cannot_run_is_found_out_at_the_start(
    tmp_path: Path, backend: Backend
) -> None:
    nodes = [helper.make_node("Reshape", ["images", "sides"], ["out"])]
    path = save(
        tmp_path / "r.onnx", nodes, {"out": ("a", "b", "c")}, {"sides": np.int64([1, 7, 11])}
    )

    refused(path, "it does not run", backend=backend)


@both
@pytest.mark.parametrize(
    ("values", "word"),
    [
        (yolo((3, (9, 9, 9, 9, 37.0))), "scores beyond 0 to 1"),
        (yolo((3, (9, 9, 9, 9, -2.0))), "scores beyond 0 to 1"),
        (yolo((3, (9, 9, 9, 9, np.nan))), "scores beyond 0 to 1"),
        (yolo((3, (np.inf, 9, 9, 9, 0.9))), "a box without measure"),
        (yolox((3, (0, 0, 1e4, 0, 1, 0.9))), "a box without measure"),
    ],
)
def test_what_no_detector_tells_is_found_out_at_the_start(
    tmp_path: Path, backend: Backend, values: Any, word: str
) -> None:
    """A pose model has the layout of a YOLO, with coordinates where scores are expected."""
    refused(constant(tmp_path / "p.onnx", values), "it does not run", word, backend=backend)


@both
def test_a_network_that_throws_later_is_told_then(tmp_path: Path, backend: Backend) -> None:
    """Its scores are good for the grey picture of the start and not for a bright one."""
    path = grid_network(tmp_path / "g.onnx", "yolo", 1.5, (1, 3, SIDE, SIDE))
    detector = Detector(path, backend=backend)

    with pytest.raises(DetectorProblem, match=r"g\.onnx cannot be used .* scores beyond 0 to 1"):
        detector.detect(picture(64, 64, (255, 255, 255)))
    assert detector.detect(picture(64, 64)) == []


def test_a_picture_of_a_foreign_shape_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    detector = Detector(constant(tmp_path / "y.onnx", yolo()), backend="cv2")

    with pytest.raises(DetectorProblem, match="does not run"):
        detector.detect(np.zeros((9, 9, 7), np.uint8))


# -- what runs it


@pytest.mark.parametrize("error", [ImportError("absent"), OSError("libgomp.so.1: no such file")])
def test_without_onnx_runtime_opencv_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def absent(_name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(drivers.detector, "import_module", absent)
    path = constant(tmp_path / "y.onnx", yolo((10, (32, 32, 16, 20, 0.9))))

    assert Detector(path).backend == "cv2"
    with pytest.raises(DetectorProblem, match="ONNX Runtime is not installed"):
        Detector(path, backend="ort")


def test_onnx_runtime_is_preferred_with_one_thread_that_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the same names, for where the real one is not installed."""
    sessions: list[Any] = []

    class Options:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}

        def add_session_config_entry(self, name: str, value: str) -> None:
            self.entries[name] = value

    class Session:
        def __init__(self, path: str, options: Any, providers: Sequence[str]) -> None:
            assert providers == ["CPUExecutionProvider"]
            sessions.append((path, options))

        def run(self, _names: None, feed: Mapping[str, Any]) -> list[Any]:
            (values,) = feed.values()
            assert list(feed) == ["images"]
            assert (values.dtype, values.shape) == (np.float32, (1, 3, SIDE, SIDE))
            return [yolo((10, (32, 32, 16, 20, 0.9)))]

    stand_in = ModuleType("onnxruntime")
    stand_in.SessionOptions = Options  # type: ignore[attr-defined]
    stand_in.InferenceSession = Session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    path = constant(tmp_path / "y.onnx", yolo())
    detector = Detector(path)

    assert detector.backend == "ort"
    assert told(detector.detect(picture(64, 64))) == [(24, 22, 16, 20, 0.9, 0)]
    ((used, options),) = sessions
    assert used == path
    assert options.intra_op_num_threads == 1
    assert options.entries == {"session.intra_op.allow_spinning": "0"}


# -- the file's own words


def test_inputs_and_outputs_are_read_from_the_file(tmp_path: Path) -> None:
    path = constant(tmp_path / "y.onnx", yolo(), shape=("batch", 3, SIDE, "width"))

    found = declared(Path(path).read_bytes())

    assert found.inputs == (("images", TensorProto.FLOAT, (0, 3, SIDE, 0)),)
    assert found.outputs == (("output0", TensorProto.FLOAT, (1, 6, MANY)),)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = constant(tmp_path_factory.mktemp("sound") / "y.onnx", yolo())
    return Path(path).read_bytes()


def reads(data: bytes) -> None:
    try:
        declared(data)
    except ValueError:
        pass


@given(st.binary(max_size=200))
@example(b"\xff" * 30)
@example(b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reads(data)


@given(where=st.integers(0, 400), change=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    sound: bytes, where: int, change: bytes, cut: bool
) -> None:
    """Lengths and kinds are told near the beginning and the end of a model."""
    for at in (where, len(sound) - 1 - where):
        reads(sound[:at] + change + (b"" if cut else sound[at + len(change) :]))


def test_a_number_of_more_than_ten_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="without an end"):
        declared(b"\x08" + b"\x80" * 10 + b"\x01")
