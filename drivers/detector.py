"""A person detector that a site may drop in as an ONNX file; none is shipped.

What the file must be, told by the shapes of its one input and of its outputs (N is the number of
cells of 8, 16 and 32 pixels, C the number of classes, of which class 0 must be the person, or the
face):

input           float32 [1, 3, H, W]; H and W multiples of 32 up to 1280, or left open: then 320
YOLOv8, v11     [1, 4+C, N]: centre x, y, width, height in pixels of the input, a score per class;
                fed RGB 0 to 1, the picture in the middle of grey bars
YOLOX           [1, N, 5+C]: x, y as offsets in cells, width, height as logarithms of cells,
                objectness, a score per class; fed BGR 0 to 255, the picture in the upper left
                corner
YuNet           cls_8 cls_16 cls_32, and likewise obj, bbox and kps: faces, read by OpenCV itself

Of a face only the rectangle is told; its landmarks are dropped here.  Any other layout is refused
in words.  The network runs in ONNX Runtime where that is installed, else in OpenCV's own ``dnn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

LARGEST_FILE = 256 << 20
LARGEST_SIDE = 1280
OPEN_SIDE = 320
"""Side of the input where the file leaves it open: a post's crop shows a seated person large enough
at this size, at a quarter of the cost of 640."""
STRIDES = (8, 16, 32)
GREY = 114
"""What both YOLO families were trained to see beside the picture."""
OVERLAP = 0.45
"""Boxes that overlap more than this are one."""
CANDIDATES = 300
FLOAT = 1
_YUNET = {f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in STRIDES}


class DetectorProblem(Exception):
    """This file cannot be used as a detector; a sentence that names it."""


class Found(NamedTuple):
    """A box in pixels of the picture that was given, and within it."""

    x: float
    y: float
    w: float
    h: float
    score: float
    cls: int


# --------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    """An input or output as an ONNX file declares it.  ``kind``: 1 is float32.  A side that is left
    open is 0; a ``shape`` that is not told is none."""

    name: str
    kind: int
    shape: tuple[int, ...] | None


class Declared(NamedTuple):
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def declared(data: bytes) -> Declared:
    """The inputs, without the weights that old files count among them, and the outputs.

    Raises ``ValueError`` where the bytes are no ONNX model.
    """
    model = memoryview(data)
    graph = _field(model, 7)
    if not isinstance(_field(model, 1), int) or not isinstance(graph, memoryview):
        raise ValueError("no model with a graph")
    inputs, outputs, weights = [], [], set()
    for number, value in _fields(graph):
        if number == 5:
            weights.add(_text(_field(value, 8)))
        elif number == 11:
            inputs.append(_tensor(value))
        elif number == 12:
            outputs.append(_tensor(value))
    if not inputs or not outputs:
        raise ValueError("no input or no output")
    return Declared(tuple(one for one in inputs if one.name not in weights), tuple(outputs))


def _tensor(value: object) -> Tensor:
    tensor = _field(_field(value, 2), 1)
    kind, shape = _field(tensor, 1), _field(tensor, 2)
    sides: tuple[int, ...] | None = None
    if isinstance(shape, memoryview):
        found = (_field(side, 1) for number, side in _fields(shape) if number == 1)
        sides = tuple(side if isinstance(side, int) else 0 for side in found)
    return Tensor(_text(_field(value, 1)), kind if isinstance(kind, int) else 0, sides)


def _field(message: object, wanted: int) -> int | memoryview | None:
    """The last field of this number; none where there is none, or no message to have one."""
    found = None
    if isinstance(message, memoryview):
        for number, value in _fields(message):
            if number == wanted:
                found = value
    return found


def _text(value: object) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffers message: varints as numbers, all else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"field of unknown type {wire}")
        if number == 0 or length > len(message) - at:
            raise ValueError("a field reaches beyond the end")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError("a number without an end")


# --------------------------------------------------------------------------------------------
# Pictures in, boxes out
# --------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """How a picture was laid into the input: ``input = picture * scale + offset``."""

    scale: float
    left: int
    top: int


def letterbox(bgr: Pixels, width: int, height: int, *, centred: bool) -> tuple[Pixels, Fit]:
    """The whole picture at this size, its sides in proportion, grey beside it."""
    tall, wide = bgr.shape[:2]
    scale = min(width / wide, height / tall)
    w, h = max(1, round(wide * scale)), max(1, round(tall * scale))
    left, top = ((width - w) // 2, (height - h) // 2) if centred else (0, 0)
    canvas = np.full((height, width, 3), GREY, np.uint8)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + h, left : left + w] = cv2.resize(bgr, (w, h), interpolation=way)
    return canvas, Fit(scale, left, top)


def cells(width: int, height: int) -> Values:
    """For each cell of an input its column, row and stride, in the order of the rows of YOLOX."""
    rows = []
    for stride in STRIDES:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        rows.append(np.stack((x.ravel(), y.ravel(), np.full(x.size, stride)), 1))
    return np.concatenate(rows).astype(np.float32)


def read_yolo(told: Values) -> tuple[Values, Values]:
    """Boxes (left, top, width, height in pixels of the input) and scores per class of what a YOLOv8
    or v11 told: ``[4+C, N]``."""
    rows = told.T
    return np.hstack((rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4])), rows[:, 4:]


def read_yolox(told: Values, grid: Values) -> tuple[Values, Values]:
    """The same of what a YOLOX told: ``[N, 5+C]``; ``grid``: the ``cells`` of its input."""
    stride = grid[:, 2:]
    middle = (told[:, :2] + grid[:, :2]) * stride
    with np.errstate(over="ignore"):  # an absurd size becomes infinite, and is found out below
        size = np.exp(told[:, 2:4]) * stride
    return np.hstack((middle - size / 2, size)), told[:, 5:] * told[:, 4:5]


def choose(
    boxes: Values, scores: Values, conf: float, classes: Sequence[int]
) -> Iterator[tuple[Values, float, int]]:
    """The boxes of these classes with at least this score, best first in each class, those left out
    that overlap a better one.  Raises ``ValueError`` for what no detector tells."""
    if not -0.001 <= scores.min() <= scores.max() <= 1.001:  # and NaN is not
        raise ValueError("it told scores beyond 0 to 1: not a plain detector of boxes")
    best, score = scores.argmax(1), scores.max(1)
    for cls in classes:
        rows = np.flatnonzero((best == cls) & (score >= conf))
        if not np.isfinite(boxes[rows]).all():
            raise ValueError("it told a box without measure")
        told = score[rows].tolist()
        for kept in cv2.dnn.NMSBoxes(boxes[rows].tolist(), told, 0.0, OVERLAP, 1.0, CANDIDATES):
            yield boxes[rows[kept]], told[kept], cls


def _place(
    box: Sequence[float] | Values, score: float, cls: int, fit: Fit, picture: Pixels
) -> Found | None:
    """A box of the input as one of the picture; none where it lies in the bars beside it."""
    tall, wide = picture.shape[:2]
    x0 = (float(box[0]) - fit.left) / fit.scale
    y0 = (float(box[1]) - fit.top) / fit.scale
    x1, y1 = x0 + float(box[2]) / fit.scale, y0 + float(box[3]) / fit.scale
    x0, x1 = max(0.0, x0), min(float(wide), x1)
    y0, y1 = max(0.0, y0), min(float(tall), y1)
    if x1 <= x0 or y1 <= y0:
        return None
    return Found(x0, y0, x1 - x0, y1 - y0, min(1.0, max(0.0, score)), cls)


# --------------------------------------------------------------------------------------------
# The detector
# --------------------------------------------------------------------------------------------


class Detector:
    """The network of one file.  Not for two threads at once: the caller holds a lock.

    The constructor runs it once on a grey picture, so that what cannot run is known at the start.
    It and ``detect`` raise ``DetectorProblem``, and nothing else.
    """

    def __init__(
        self,
        path: str,
        conf: float = 0.4,
        *,
        backend: Literal["auto", "ort", "cv2"] = "auto",
        classes: Sequence[int] = (0,),
    ) -> None:
        self.path = path
        self.conf = conf
        self.classes = tuple(classes)
        self.kind = ""
        """``yolo``, ``yolox`` or ``yunet``."""
        self.backend = "cv2"
        """``ort`` or ``cv2``: what runs it."""
        told = self._declared()
        self.width, self.height = self._size(told)
        names = {one.name for one in told.outputs}
        if names >= _YUNET:
            self.kind = "yunet"
            self._faces = self._guarded(self._load_faces)
        elif len(names) > 1:
            raise self._problem(_several(told.outputs))
        else:
            runtime = None if backend == "cv2" else _runtime()
            if runtime is None and backend == "ort":
                raise self._problem("ONNX Runtime is not installed")
            if runtime is not None:
                self.backend = "ort"
            name = told.inputs[0].name
            load = self._load_cv2 if runtime is None else lambda: self._load_ort(runtime, name)
            self._run: Callable[[Values], Any] = self._guarded(load)
            self._grid = cells(self.width, self.height)
            self.kind = self._layout()
        self.detect(np.full((self.height, self.width, 3), GREY, np.uint8))

    def detect(self, picture: Pixels) -> list[Found]:
        """What is seen in this picture: BGR, or luma alone."""
        if not picture.size:
            return []
        return self._guarded(lambda: self._detect(picture))

    def _detect(self, picture: Pixels) -> list[Found]:
        bgr: Any = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture
        fitted, fit = letterbox(bgr, self.width, self.height, centred=self.kind == "yolo")
        if self.kind == "yunet":
            _, rows = self._faces.detect(fitted)
            seen = [(row[:4], float(row[14]), 0) for row in (() if rows is None else rows)]
            found = (_place(*one, fit, bgr) for one in seen if 0 in self.classes)
        else:
            told = self._forward(fitted)
            if self.kind == "yolo":
                boxes, scores = read_yolo(told)
            else:
                boxes, scores = read_yolox(told, self._grid)
            chosen = choose(boxes, scores, self.conf, self.classes)
            found = (_place(*one, fit, bgr) for one in chosen)
        return [one for one in found if one is not None]

    def _forward(self, fitted: Pixels) -> Values:
        if self.kind == "yolo":
            values = cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        else:
            values = fitted.astype(np.float32)
        told = self._run(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        return np.asarray(told[0], np.float32)

    # -- loading

    def _declared(self) -> Declared:
        try:
            file = Path(self.path)
            if file.stat().st_size > LARGEST_FILE:
                raise self._problem(f"it is larger than {LARGEST_FILE >> 20} MiB")
            return declared(file.read_bytes())
        except OSError as error:
            raise self._problem(f"it cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise self._problem(f"it is not an ONNX file ({error})") from error

    def _size(self, told: Declared) -> tuple[int, int]:
        if len(told.inputs) != 1:
            raise self._problem(f"it has {len(told.inputs)} inputs; one picture was expected")
        _, kind, shape = told.inputs[0]
        if kind != FLOAT:
            raise self._problem("its input is not float32; export it without quantised input")
        if shape is None or len(shape) != 4 or shape[0] > 1 or shape[1] not in (0, 3):
            raise self._problem(f"its input is {_sides(shape)}; 1x3xHxW was expected")
        height, width = (side or OPEN_SIDE for side in shape[2:])
        if any(side % 32 or not 32 <= side <= LARGEST_SIDE for side in (width, height)):
            raise self._problem(
                f"its input is {width} by {height} pixels; multiples of 32 up to {LARGEST_SIDE}"
                " were expected"
            )
        return width, height

    def _load_faces(self) -> Any:
        size = (self.width, self.height)
        return cv2.FaceDetectorYN.create(self.path, "", size, self.conf, OVERLAP, CANDIDATES)

    def _load_cv2(self) -> Callable[[Values], Any]:
        network = cv2.dnn.readNetFromONNX(self.path)

        def run(values: Values) -> Any:
            network.setInput(values)
            return network.forward()

        return run

    def _load_ort(self, runtime: Any, name: str) -> Callable[[Values], Any]:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = runtime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        return lambda values: session.run(None, {name: values})[0]

    def _layout(self) -> str:
        """Which family it is, by what it tells of a grey picture."""
        blank = np.zeros((1, 3, self.height, self.width), np.float32)
        shape: tuple[int, ...] = self._guarded(lambda: self._run(blank)).shape
        many = len(self._grid)
        if len(shape) == 3 and shape[0] == 1:
            _, rows, columns = shape
            if columns == many and rows >= 5:
                return "yolo"
            if rows == many and columns >= 6:
                return "yolox"
            if rows == 3 * many and columns >= 6:
                raise self._problem("it has the layout of YOLOv5; export a YOLOv8, v11 or YOLOX")
            if columns == 6:
                raise self._problem("it chooses its boxes itself; export it without NMS (end2end)")
        if len(shape) == 4 and shape[-1] == 7:
            raise self._problem("it has the layout of an SSD; export a YOLOv8, v11 or YOLOX")
        raise self._problem(
            f"it tells {_sides(shape)}; a YOLOv8 or v11 would tell 1x(4+C)x{many},"
            f" a YOLOX 1x{many}x(5+C)"
        )

    # -- problems

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except DetectorProblem:
            raise
        except Exception as error:
            told = " ".join(str(error).split())[:200] or type(error).__name__
            raise self._problem(f"it does not run ({told})") from error

    def _problem(self, reason: str) -> DetectorProblem:
        return DetectorProblem(f"{self.path} cannot be used as a detector: {reason}.")


def _runtime() -> Any:
    """ONNX Runtime, or none where it is not installed or cannot load its libraries."""
    try:
        return import_module("onnxruntime")
    except (ImportError, OSError):
        return None


def _several(outputs: Sequence[Tensor]) -> str:
    names = [one.name for one in outputs]
    if {"loc", "conf", "iou"} <= set(names):
        return "it is a YuNet of 2022; take one of 2023 or later"
    if any("detection_boxes" in name for name in names) or {"boxes", "scores"} <= set(names):
        return "it has the layout of an SSD; export a YOLOv8, v11 or YOLOX"
    told = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"it has {len(names)} outputs ({told}); one, or those of YuNet, were expected"


def _sides(shape: tuple[int, ...] | None) -> str:
    return "x".join(str(side) if side else "?" for side in shape or ()) or "of no told shape"
