"""A drawn service hall as a camera over the counter sees it: for the tests, the accuracy command
and the demo camera.

The picture is drawn at 640x360 and scaled to what is wanted.  From back to front: wall with
notices, cabinets and window signs; people walking behind the counter; the clerk's chair; what hangs
on it; the clerk; a colleague leaning in; the counter with its things; customers.  Then light, the
lens (blur, knocked aside, cover), the sensor's noise, and the recorder's text.

Everything follows from the seed and the second; there is no clock and no hidden state.  The people
are nobody.  A drawn hall has what the measures look at (texture, edges, light, movement) and
nothing of how people really look: figures got on it show that the arithmetic holds, not how well it
does in a hall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Drawn = NDArray[np.uint8]
"""A picture, blue-green-red or grey."""

_WIDE, _HIGH = 640, 360
_MARGIN = 200
"""Pixels drawn beyond every side of the picture, for a camera that is knocked aside."""

_DESK = 238
"""Where the counter's top begins: it hides what is behind and below."""


class Scene:
    """One hall, different for every seed.  ``posts`` is 1 or 2; ``region`` is the first one's."""

    def __init__(
        self, width: int = _WIDE, height: int = _HIGH, seed: int = 0, posts: int = 1
    ) -> None:
        self._size = (width, height)
        self._seed = seed
        rng = np.random.default_rng([seed, 1])
        if posts == 1:
            self._seats = [330.0 + float(rng.uniform(-40, 40))]
        else:
            self._seats = [190.0 + float(rng.uniform(-15, 15)), 450.0 + float(rng.uniform(-15, 15))]
        self._scale = float(rng.uniform(0.9, 1.08))
        self._hall = _hall(rng, self._seats)
        self._chair = _chair(rng)
        self._coat = _coat(rng)
        self._people = [_Figure(np.random.default_rng([seed, 2, n])) for n in range(6)]
        self._noise: dict[float, tuple[Drawn, Drawn]] = {}
        columns = np.linspace(0.0, 1.0, _WIDE, dtype=np.float32)
        self._lamp = np.repeat(((1.0 - columns) ** 2)[None, :, None], _HIGH, axis=0)

    @property
    def regions(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """The posts' polygons, 0..1: around chair and torso, down to the counter's edge."""
        return tuple(
            (
                ((x - 62) / _WIDE, 0.25),
                ((x + 62) / _WIDE, 0.25),
                ((x + 72) / _WIDE, _DESK / _HIGH),
                ((x - 72) / _WIDE, _DESK / _HIGH),
            )
            for x in self._seats
        )

    @property
    def region(self) -> tuple[tuple[float, float], ...]:
        return self.regions[0]

    def luma(self, second: float, **what: Any) -> Drawn:
        """``frame`` in grey."""
        return _u8(cv2.cvtColor(self.frame(second, **what), cv2.COLOR_BGR2GRAY))

    def frame(
        self,
        second: float,
        *,
        seated: bool | float = True,
        neighbour: bool | float = True,
        person: int = 0,
        motion: float = 1.0,
        still: bool = False,
        passer: float | None = None,
        leaning: float = 0.0,
        customer: float = 0.0,
        crowd: int = 0,
        coat: bool = False,
        chair: tuple[float, float] = (0.0, 0.0),
        furniture: bool = True,
        light: float = 1.0,
        lamp: float = 0.0,
        flicker: float = 0.0,
        glare: float = 0.0,
        infrared: bool = False,
        black: bool = False,
        noise: float = 4.0,
        blur: float = 0.0,
        covered: float = 0.0,
        shift: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        zoom: float = 1.0,
        clock: bool = True,
    ) -> Drawn:
        """The picture at ``second``.

        ``seated``: how far the clerk has come in, 0..1; ``neighbour`` the same of the second post.
        ``person``: which of six people sits there.  ``motion``: how much they move, 1 a busy clerk,
        0.3 one who reads; ``still``: not at all (a dummy).  ``passer``: where somebody walks behind
        the counter, 0 left to 1 right.  ``leaning``, ``customer``: how far a colleague leans in
        from the side, a customer over the counter, 0..1.  ``crowd``: customers in the foreground;
        from about 40 they hide the hall.  ``chair``: moved by so many pixels of 640.
        ``furniture`` false: the hall is being rebuilt, and the chair is gone.

        ``light``: exposure, 1 normal.  ``lamp``: one-sided light, share added at the left.
        ``flicker``: amplitude of the mains' beat.  ``glare``: a bright reflection, 0..1.
        ``infrared``: the night picture.  ``noise``: standard deviation in grey levels.
        ``blur``: sigma in pixels of 640.  ``covered``: share of the picture, from the left.
        ``shift``: the picture's contents are displaced by these shares of its width, right and
        down.  ``rotate`` in degrees.  ``clock``: the recorder's text runs; without it, none.
        """
        dx, dy = round(shift[0] * _WIDE), round(shift[1] * _WIDE)
        dx, dy = (max(-_MARGIN, min(_MARGIN, v)) for v in (dx, dy))
        across = slice(_MARGIN - dx, _MARGIN - dx + _WIDE)
        hall = self._hall[_MARGIN - dy : _MARGIN - dy + _HIGH, across]
        picture = hall.copy() if furniture else _u8(hall[::-1, ::-1].copy())
        when = 0.0 if still else second

        if passer is not None:
            x = -90 + passer * (_WIDE + 180)
            self._people[5].draw(picture, x + dx, 205 + dy, self._scale * 0.95, second, 2.0)
        for index, seat in enumerate(self._seats):
            inside = float(seated if index == 0 else neighbour)
            x, y = seat + dx, 205.0 + dy
            moved = chair if index == 0 else (0.0, 0.0)
            if furniture:
                _place(picture, self._chair, x + moved[0], y - 22 + moved[1], 0.0, self._scale)
            if coat and index == 0:
                _place(picture, self._coat, x + moved[0], y - 14 + moved[1], 4.0, self._scale)
            if inside > 0:
                figure = self._people[(person + index) % 5]
                aside = (1.0 - inside) * 190
                figure.draw(
                    picture, x + aside, y, self._scale, when + 137 * index, 0.0 if still else motion
                )
        if leaning > 0:
            x = self._seats[0] + 150 - 75 * leaning + dx
            self._people[4].draw(picture, x, 212 + dy, self._scale, second, 2.0, lean=-14 * leaning)
        edge = max(0, min(_HIGH, _DESK + dy))
        if furniture:
            picture[edge:] = hall[edge:]
        if customer > 0:
            x = self._seats[0] + 20 + dx
            y = 420 - 105 * customer + dy
            self._people[3].draw(picture, x, y, self._scale * 1.35, second, 1.5, back=True)
        self._draw_crowd(picture, crowd, second)

        picture = self._lit(picture, second, light, lamp, flicker, glare, infrared, black)
        if blur > 0:
            picture = _u8(cv2.GaussianBlur(picture, (0, 0), blur))
        if rotate or zoom != 1.0:
            turn = cv2.getRotationMatrix2D((_WIDE / 2, _HIGH / 2), rotate, zoom)
            picture = _u8(
                cv2.warpAffine(picture, turn, (_WIDE, _HIGH), borderMode=cv2.BORDER_REFLECT_101)
            )
        if covered > 0:
            hidden = round(covered * _WIDE)
            # A hand or a bag near the lens: no edges, some shading.
            shade = np.linspace(52, 68, _HIGH, dtype=np.float32) * min(1.3, max(0.4, light))
            picture[:, :hidden] = shade[:, None, None].astype(np.uint8)
        if noise > 0:
            picture = self._grainy(picture, second, noise * (2.0 if infrared else 1.0))
        if clock:
            _write_clock(picture, second)
        if self._size != (_WIDE, _HIGH):
            picture = _u8(cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA))
        return picture

    def _draw_crowd(self, picture: Drawn, crowd: int, second: float) -> None:
        for n in range(crowd):
            rng = np.random.default_rng([self._seed, 3, n])
            x = float(rng.uniform(0, _WIDE)) + 12 * _wander(second, 8.0, n)
            # The first stand in front; more of them stand ever further up the picture.
            y = 400 - (n % 8) * 6 - (n // 8) * 62 + 5 * _wander(second, 5.0, n + 50)
            figure = self._people[n % 5]
            figure.draw(picture, x, y, self._scale * 1.3, second + 17 * n, 1.0, back=n % 3 > 0)

    def _lit(
        self,
        picture: Drawn,
        second: float,
        light: float,
        lamp: float,
        flicker: float,
        glare: float,
        infrared: bool,
        black: bool,
    ) -> Drawn:
        if black:
            return np.zeros_like(picture)
        if infrared:
            # The ring of diodes: bright in the middle, dark corners, no colour; red cloth is white.
            grey = picture.astype(np.float32) @ np.array([0.1, 0.3, 0.6], dtype=np.float32)
            ys, xs = np.mgrid[0:_HIGH, 0:_WIDE].astype(np.float32)
            ring = np.exp(-(((xs - 320) / 300) ** 2) - ((ys - 190) / 200) ** 2)
            grey = (34 + 0.62 * grey) * (0.35 + 0.75 * ring)
            picture = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
        level = light * (1.0 + flicker * math.sin(second * 2.7 + 1.3 * math.sin(second * 7.1)))
        if level != 1.0:
            table = np.clip(np.arange(256, dtype=np.float32) * level, 0, 255).astype(np.uint8)
            picture = _u8(cv2.LUT(picture, table))
        if lamp:
            lit = picture.astype(np.float32) * (1.0 + lamp * self._lamp)
            picture = np.clip(lit, 0, 255).astype(np.uint8)
        if glare > 0:
            spot = np.zeros(picture.shape[:2], dtype=np.float32)
            centre = (round(self._seats[0] - 150), 120)
            cv2.ellipse(spot, centre, (85, 60), 20.0, 0.0, 360.0, (1.0,), -1)
            spot = cv2.GaussianBlur(spot, (0, 0), 14).astype(np.float32)
            bright = picture.astype(np.float32) + 190 * glare * spot[:, :, None]
            picture = np.clip(bright, 0, 255).astype(np.uint8)
        return picture

    def _grainy(self, picture: Drawn, second: float, sigma: float) -> Drawn:
        if sigma not in self._noise:
            rng = np.random.default_rng([self._seed, 4])
            grain = rng.normal(0, sigma, (_HIGH + 97, _WIDE + 97)).astype(np.float32)
            brighter = np.clip(np.rint(grain), 0, 255).astype(np.uint8)
            darker = np.clip(np.rint(-grain), 0, 255).astype(np.uint8)
            self._noise[sigma] = (
                _u8(cv2.merge([brighter] * 3)),
                _u8(cv2.merge([darker] * 3)),
            )
        moment = np.random.default_rng([self._seed, 5, round(second * 1000) & 0xFFFFFFFF])
        y, x = (int(v) for v in moment.integers(0, 97, 2))
        brighter, darker = (g[y : y + _HIGH, x : x + _WIDE] for g in self._noise[sigma])
        if moment.integers(2):
            brighter, darker = darker, brighter
        return _u8(cv2.subtract(cv2.add(picture, brighter), darker))


class _Figure:
    """Somebody with a torso, a head and two arms, each a flat sprite."""

    def __init__(self, rng: np.random.Generator) -> None:
        cloth = _colour(rng, 40, 210)
        # Uniforms are often as bright as the wall behind them; keep that possible, not the rule.
        self._torso = _torso(rng, cloth)
        self._head = _head(rng)
        self._arm = _arm(rng, cloth)
        self._phase = float(rng.uniform(0, 1000))

    def draw(
        self,
        picture: Drawn,
        x: float,
        y: float,
        scale: float,
        second: float,
        motion: float,
        lean: float = 0.0,
        back: bool = False,
    ) -> None:
        """``x, y`` is the middle of the chest; ``motion`` scales every movement."""
        t = second + self._phase
        sway = motion * (1.6 * _wander(t, 6.0, 1) + 0.5 * math.sin(t * 1.6))
        turn = motion * 3.0 * _wander(t, 9.0, 2)
        nod = motion * 2.5 * _wander(t, 7.0, 3)
        writing = max(0.0, _wander(t, 13.0, 4) + 0.35)
        hand = motion * writing * (5.0 * math.sin(t * 5.3) + 3.0 * math.sin(t * 2.1))
        x += lean * scale
        _place(picture, self._torso, x + sway * scale, y * 1.0, lean + 0.4 * turn, scale)
        for side in (-1, 1):
            reach = hand if side > 0 else 0.3 * hand
            _place(
                picture,
                self._arm,
                x + (side * 40 + sway + 0.6 * reach) * scale,
                y + (14 + 0.5 * abs(reach)) * scale,
                side * -12 + lean + 1.2 * reach,
                scale,
            )
        head = self._head[1 if back else 0]
        _place(
            picture,
            head,
            x + (sway * 1.4 + turn * 1.2 + lean * 0.8) * scale,
            y + (-72 + nod) * scale,
            lean + 1.5 * turn,
            scale,
        )


# --------------------------------------------------------------------------------------------
# What it is drawn of
# --------------------------------------------------------------------------------------------

_Sprite = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Colours, and how opaque each pixel is (0..1)."""


def _u8(picture: Any) -> Drawn:
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture, dtype=np.uint8)


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    blue, green, red = (int(v) for v in rng.integers(low, high, 3))
    return blue, green, red


def _wander(t: float, period: float, stream: int) -> float:
    """A smooth random walk in -1..1 that bends once per ``period``; the same for the same time."""
    cell = math.floor(t / period)
    part = t / period - cell
    part = part * part * (3 - 2 * part)
    before, after = _scatter(cell, stream), _scatter(cell + 1, stream)
    return before + (after - before) * part


def _scatter(cell: int, stream: int) -> float:
    mixed = (cell * 0x9E3779B1 + stream * 0x85EBCA77 + 0x27D4EB2F) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 15)) / 0x7FFFFFFF - 1.0


def _mottled(
    rng: np.random.Generator, height: int, width: int, cell: int, amplitude: float
) -> NDArray[np.float32]:
    """Soft blotches of about ``cell`` pixels."""
    coarse = rng.normal(0, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (amplitude * np.asarray(smooth)).astype(np.float32)


def _hall(rng: np.random.Generator, seats: Sequence[float]) -> Drawn:
    """Everything that never moves, with the margin."""
    high, wide = _HIGH + 2 * _MARGIN, _WIDE + 2 * _MARGIN
    m = _MARGIN
    wall = np.array(_colour(rng, 140, 190), dtype=np.float32)
    canvas = np.empty((high, wide, 3), dtype=np.float32)
    canvas[:] = wall
    canvas += _mottled(rng, high, wide, 90, 9.0)[:, :, None]
    canvas += _mottled(rng, high, wide, 5, 4.0)[:, :, None]
    hall = np.clip(canvas, 0, 255).astype(np.uint8)

    # Panels of the wall, then notices, a cabinet and shelves at places that vary.
    step = int(rng.integers(70, 110))
    for x in range(int(rng.integers(0, step)), wide, step):
        cv2.line(hall, (x, 0), (x, m + _DESK), tuple(float(v) for v in wall * 0.8), 2)
    for y in (m + 40, m - 60, m - 140):
        cv2.line(hall, (0, y), (wide, y), tuple(float(v) for v in wall * 0.85), 2)
    for _ in range(16):
        x, y = int(rng.integers(0, wide - 90)), int(rng.integers(0, m + 130))
        w, h = int(rng.integers(35, 95)), int(rng.integers(30, 80))
        _notice(hall, rng, x, y, w, h)
    for _ in range(3):
        x = int(rng.integers(0, wide - 120))
        w, h = int(rng.integers(60, 120)), int(rng.integers(80, 150))
        _cabinet(hall, rng, x, m + _DESK - h, w, h)

    # The counter: top, front, glass posts, things on it.
    wood = np.array(_colour(rng, 80, 170), dtype=np.float32)
    top = np.empty((high - m - _DESK, wide, 3), dtype=np.float32)
    top[:] = wood
    top += _mottled(rng, top.shape[0], wide, 40, 7.0)[:, :, None]
    top += np.repeat(rng.normal(0, 6, (top.shape[0], 1, 1)).astype(np.float32), wide, axis=1)
    top[58:] *= 0.7
    hall[m + _DESK :] = np.clip(top, 0, 255).astype(np.uint8)
    cv2.line(hall, (0, m + _DESK), (wide, m + _DESK), (50, 50, 50), 2)
    cv2.line(hall, (0, m + _DESK + 58), (wide, m + _DESK + 58), (40, 40, 40), 3)
    for seat in seats:
        x = m + round(seat)
        sign = (x - 40, m + 26, 80, 26)
        cv2.rectangle(hall, sign, (30, 30, 40), -1)
        text = f"{int(rng.integers(1, 30)):02d}"
        cv2.putText(hall, text, (x - 16, m + 46), cv2.FONT_HERSHEY_SIMPLEX, 0.75, (60, 60, 230), 2)
        cv2.rectangle(hall, (x - 125, m + 178, 48, 62), (35, 35, 35), -1)  # the monitor's back
        cv2.rectangle(hall, (x - 118, m + 184, 34, 46), (70, 66, 62), -1)
        cv2.rectangle(hall, (x - 50, m + 250, 100, 20), (90, 88, 85), -1)  # keyboard, papers
        for column in range(x - 46, x + 46, 8):
            cv2.line(hall, (column, m + 252), (column, m + 268), (150, 150, 150), 1)
        cv2.rectangle(hall, (x + 62, m + 246, 34, 26), (235, 235, 230), -1)
        for line in range(m + 250, m + 270, 5):
            cv2.line(hall, (x + 66, line), (x + 90, line), (120, 120, 120), 1)
        cv2.circle(hall, (x + 112, m + 262), 9, (60, 90, 60), -1)
    for x in range(m % 160, wide, 160):
        cv2.line(hall, (x, m + 296), (x, high), tuple(float(v) for v in wood * 0.5), 2)
    return _u8(hall)


def _notice(hall: Drawn, rng: np.random.Generator, x: int, y: int, w: int, h: int) -> None:
    cv2.rectangle(hall, (x, y, w, h), _colour(rng, 60, 250), -1)
    cv2.rectangle(hall, (x, y, w, h), (70, 70, 70), 1)
    ink = _colour(rng, 20, 120)
    for line in range(y + 8, y + h - 5, 9):
        end = x + w - 6 - int(rng.integers(0, max(1, w // 2)))
        cv2.line(hall, (x + 6, line), (max(x + 8, end), line), ink, 2)


def _cabinet(hall: Drawn, rng: np.random.Generator, x: int, y: int, w: int, h: int) -> None:
    cv2.rectangle(hall, (x, y, w, h), _colour(rng, 90, 180), -1)
    cv2.rectangle(hall, (x, y, w, h), (50, 50, 50), 2)
    for shelf in range(y + 22, y + h - 6, 26):
        cv2.line(hall, (x, shelf), (x + w, shelf), (60, 60, 60), 2)
        for book in range(x + 5, x + w - 8, 9):
            tall = int(rng.integers(8, 18))
            cv2.rectangle(hall, (book, shelf - tall, 7, tall), _colour(rng, 40, 230), -1)


def _sprite(
    outline: NDArray[np.uint8], colour: Sequence[float], texture: NDArray[np.float32]
) -> _Sprite:
    """A shape of one colour, shaded from the upper left, with soft edges."""
    height, width = outline.shape
    shade = np.linspace(1.1, 0.8, width, dtype=np.float32)[None, :]
    shade = shade * np.linspace(1.08, 0.88, height, dtype=np.float32)[:, None]
    body = np.array(colour, dtype=np.float32)[None, None, :] * shade[:, :, None]
    body = body + texture[:, :, None]
    soft = np.asarray(cv2.GaussianBlur(outline, (0, 0), 1.0), dtype=np.float32)
    return body.astype(np.float32), (soft / np.float32(255)).astype(np.float32)


def _torso(rng: np.random.Generator, cloth: tuple[int, int, int]) -> _Sprite:
    outline = np.zeros((136, 116), dtype=np.uint8)
    shape = np.array(
        [[12, 134], [8, 60], [20, 34], [44, 24], [72, 24], [96, 34], [108, 60], [104, 134]]
    )
    cv2.fillPoly(outline, [shape.astype(np.int32)], (255,))
    folds = _mottled(rng, 136, 116, 14, 9.0)
    body, soft = _sprite(outline, cloth, folds)
    other = tuple(float(255 - v) for v in cloth)
    cv2.line(body, (46, 24), (58, 58), other, 3)
    cv2.line(body, (70, 24), (58, 58), other, 3)
    cv2.rectangle(body, (70, 66, 16, 9), (235.0, 235.0, 235.0), -1)  # the badge
    return body, soft


def _head(rng: np.random.Generator) -> tuple[_Sprite, _Sprite]:
    """From the front, from behind."""
    skin = (
        float(rng.uniform(110, 150)),
        float(rng.uniform(140, 180)),
        float(rng.uniform(180, 225)),
    )
    hair = float(rng.uniform(18, 60))
    outline = np.zeros((68, 56), dtype=np.uint8)
    cv2.ellipse(outline, (28, 34), (21, 28), 0.0, 0.0, 360.0, (255,), -1)
    cv2.rectangle(outline, (20, 56, 16, 12), (255,), -1)
    texture = _mottled(rng, 68, 56, 9, 4.0)
    front, soft = _sprite(outline, skin, texture)
    cv2.ellipse(front, (28, 22), (25, 18), 0.0, 180.0, 360.0, (hair, hair, hair), -1)
    for x in (20, 36):
        cv2.ellipse(front, (x, 34), (4, 2), 0.0, 0.0, 360.0, (30.0, 30.0, 30.0), -1)
    cv2.line(front, (22, 50), (34, 50), (90.0, 90.0, 150.0), 2)
    behind, _ = _sprite(outline, (hair, hair, hair), texture)
    return (front, soft), (behind, soft)


def _arm(rng: np.random.Generator, cloth: tuple[int, int, int]) -> _Sprite:
    outline = np.zeros((84, 30), dtype=np.uint8)
    cv2.line(outline, (15, 14), (15, 70), (255,), 20)
    sleeve = tuple(0.85 * v for v in cloth)
    body, soft = _sprite(outline, sleeve, _mottled(rng, 84, 30, 8, 6.0))
    cv2.circle(body, (15, 74), 9, (135.0, 160.0, 205.0), -1)
    return body, soft


def _chair(rng: np.random.Generator) -> _Sprite:
    outline = np.zeros((124, 92), dtype=np.uint8)
    cv2.rectangle(outline, (8, 12, 76, 84), (255,), -1)
    cv2.ellipse(outline, (46, 14), (38, 11), 0.0, 0.0, 360.0, (255,), -1)
    cv2.rectangle(outline, (38, 94, 16, 28), (255,), -1)
    dark = float(rng.uniform(40, 95))
    texture = _mottled(rng, 124, 92, 10, 3.0)
    texture[::7] += 16
    return _sprite(outline, (dark, dark * 0.95, dark * 0.9), texture)


def _coat(rng: np.random.Generator) -> _Sprite:
    outline = np.zeros((120, 108), dtype=np.uint8)
    shape = np.array(
        [[14, 20], [40, 6], [70, 6], [96, 22], [104, 84], [92, 116], [58, 108], [24, 117], [4, 80]]
    )
    cv2.fillPoly(outline, [shape.astype(np.int32)], (255,))
    body, soft = _sprite(outline, _colour(rng, 60, 200), _mottled(rng, 120, 108, 12, 16.0))
    for x in (30, 52, 76):
        cv2.line(body, (x, 14), (x - 6, 108), (25.0, 25.0, 25.0), 3)
    return body, soft


def _place(picture: Drawn, sprite: _Sprite, x: float, y: float, angle: float, scale: float) -> None:
    """Draws the sprite with its middle at ``x, y``, to a fraction of a pixel."""
    body, soft = sprite
    height, width = soft.shape
    reach = int(math.hypot(height, width) * scale / 2) + 2
    left, top = math.floor(x) - reach, math.floor(y) - reach
    side = 2 * reach + 1
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(picture.shape[1], left + side), min(picture.shape[0], top + side)
    if x0 >= x1 or y0 >= y1:
        return
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, scale)
    turn[0, 2] += x - x0 - width / 2
    turn[1, 2] += y - y0 - height / 2
    size = (x1 - x0, y1 - y0)
    colours = cv2.warpAffine(body, turn, size, borderMode=cv2.BORDER_REPLICATE)
    opaque = cv2.warpAffine(soft, turn, size)[:, :, None]
    below = picture[y0:y1, x0:x1]
    mixed = below + opaque * (colours - below)
    picture[y0:y1, x0:x1] = np.clip(mixed, 0, 255).astype(np.uint8)


def _write_clock(picture: Drawn, second: float) -> None:
    """The recorder's text: a running clock at the upper left, a name at the lower right."""
    whole = int(second)
    text = f"2026-03-02 {whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    for place, words in (((8, 20), text), ((520, 350), "HALL 03")):
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 3)
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (245, 245, 245), 1)
