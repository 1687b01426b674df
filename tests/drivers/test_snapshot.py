"""Evidence pictures show the post and nobody else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drivers.emulators.scene import Scene
from drivers.snapshot import snapshot

WHOLE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
MIDDLE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def shown(jpeg: bytes) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return np.asarray(picture, dtype=np.uint8)


def detail(picture: NDArray[np.uint8], left: int, top: int) -> float:
    """How much the pixels of one block differ."""
    return float(picture[top : top + 16, left : left + 16].std(axis=(0, 1)).max())


def noisy(width: int, height: int, colours: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, 3) if colours == 3 else (height, width)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def test_outside_the_region_no_block_keeps_detail() -> None:
    picture = shown(snapshot(noisy(640, 352), MIDDLE))

    blocks = [(x, y) for y in range(0, 352, 16) for x in range(0, 640, 16)]
    # A block that the region's border crosses is partly clear.
    outside = [(x, y) for x, y in blocks if x + 16 <= 144 or x >= 496 or y + 16 <= 80 or y >= 272]
    inside = [(x, y) for x, y in blocks if 160 <= x <= 464 and 96 <= y <= 240]

    assert len(outside) > 400
    # What is left is the ringing of the JPEG beside the clear region, of noise of deviation 74.
    assert max(detail(picture, x, y) for x, y in outside) < 6
    assert min(detail(picture, x, y) for x, y in inside) > 30


def test_a_block_has_the_mean_colour_of_its_pixels() -> None:
    half = np.zeros((32, 32, 3), dtype=np.uint8)
    half[:, 8:16] = (200, 100, 40)

    picture = shown(snapshot(half, None)).astype(int)

    assert np.abs(picture[8, 8] - (100, 50, 20)).max() <= 4
    assert picture[8, 24].max() <= 4


def test_without_a_region_nothing_is_clear() -> None:
    picture = shown(snapshot(noisy(640, 360), None))

    # 360 is no multiple of 16: the last row of blocks is 8 high.
    assert max(detail(picture, x, y) for y in range(0, 360, 16) for x in range(0, 640, 16)) < 6


def test_the_whole_picture_as_region_is_clear_up_to_its_corners() -> None:
    picture = shown(snapshot(noisy(640, 360), WHOLE))

    corners = [(0, 0), (624, 0), (0, 344), (624, 344)]
    assert min(detail(picture, x, y) for x, y in corners) > 30


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, (640, 360)),
        (1080, 1920, (360, 640)),
        (640, 360, (640, 360)),
        (320, 240, (320, 240)),
        (4000, 3, (640, 1)),
    ],
)
def test_the_longer_side_has_at_most_640_pixels(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    picture = shown(snapshot(noisy(width, height), MIDDLE))

    assert (picture.shape[1], picture.shape[0]) == expected


def test_blocks_are_of_the_given_picture_not_of_the_camera_s() -> None:
    picture = shown(snapshot(noisy(1920, 1080), None))

    assert max(detail(picture, x, 160) for x in range(0, 640, 16)) < 6


def test_a_grey_picture_stays_grey() -> None:
    assert shown(snapshot(noisy(320, 180, colours=1), MIDDLE)).shape == (180, 320)


def test_a_hall_s_picture_takes_tens_of_kilobytes() -> None:
    scene = Scene(1920, 1080, seed=3)

    assert 5_000 < len(snapshot(scene.frame(5.0), scene.region)) < 60_000


def test_the_given_picture_is_left_as_it_was() -> None:
    picture = noisy(320, 180)
    before = picture.copy()

    snapshot(picture, MIDDLE)

    assert (picture == before).all()


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 300),
    colours=st.sampled_from([1, 3]),
    region=st.none()
    | st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
)
def test_any_picture_and_region_give_a_jpeg(
    width: int, height: int, colours: int, region: list[tuple[float, float]] | None
) -> None:
    jpeg = snapshot(noisy(width, height, colours), region)

    assert jpeg.startswith(b"\xff\xd8")
    assert max(shown(jpeg).shape[:2]) <= 640
