"""Evidence pictures: the post as it was, everybody and everything else unrecognisable.

A picture is at most 640 pixels on its longer side, a JPEG of quality 80.  What lies outside the
post's region is given as blocks of 16x16 pixels of one colour each: about the size of a face in a
hall camera's picture.  Of an empty post no face is needed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LONGEST = 640
BLOCK = 16
QUALITY = 80


def snapshot(picture: NDArray[np.uint8], region: Sequence[tuple[float, float]] | None) -> bytes:
    """The JPEG of a picture (blue-green-red or grey); only ``region`` (a polygon, 0..1) is clear.

    Without a region nothing is clear; with the picture's four corners everything is.
    """
    small = _fitted(picture)
    shown = _blocks(small)
    if region is not None:
        height, width = small.shape[:2]
        inside = np.zeros((height, width), dtype=np.uint8)
        corners = np.array(region, dtype=np.float64) * (width - 1, height - 1)
        cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], (255,))
        shown[inside > 0] = small[inside > 0]
    done, jpeg = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError("the picture could not be written as JPEG")
    return jpeg.tobytes()


def _fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _bytes(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _blocks(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of every block, at the picture's size; blocks at the right and lower edge may be
    smaller."""
    height, width = picture.shape[:2]
    down = range(0, height, BLOCK)
    across = range(0, width, BLOCK)
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.float64), down, 0), across, 1)
    tall = np.diff([*down, height])[:, None]
    wide = np.diff([*across, width])[None, :]
    area = (tall * wide).reshape((len(down), len(across)) + (1,) * (picture.ndim - 2))
    means = np.rint(sums / area).astype(np.uint8)
    return np.repeat(np.repeat(means, tall[:, 0], axis=0), wide[0], axis=1)


def _bytes(picture: Any) -> NDArray[np.uint8]:
    return np.asarray(picture, dtype=np.uint8)
