"""Scenes: the demo data set, rendered by this project.

Each scene is one bright shape on a dark, cluttered, textured background, 64 x 64 pixels, with a known
mask of the shape, so that attention can be scored against it. A scene depends only on its split and
index. Every random number comes from `Generator.random`, the one stream numpy does not change between
releases.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 64
SPLITS = {"train": 0, "calibration": 1, "test": 2}
TEST_IMAGES = 2000
CALIBRATION_IMAGES = 512

_OVERSAMPLE = 4  # shapes are drawn this many times larger, then averaged, for smooth edges
_MARGIN = 2  # pixels between a shape and the border

Points = NDArray[np.float64]  # vertices (x, y), inside the unit circle
Plane = NDArray[np.float64]  # SIZE x SIZE, 0 to 1
Colour = NDArray[np.float64]  # 3 values, 0 to 1


@dataclass(frozen=True)
class Scene:
    """One image (64 x 64 x 3, uint8), the class of its shape, and the shape's mask (64 x 64)."""

    image: NDArray[np.uint8]
    label: int
    mask: NDArray[np.bool_]


def _regular(count: int, start: float = -90.0) -> Points:
    angles = np.deg2rad(start + np.arange(count) * 360 / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _disc(radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Points:
    return _regular(48) * radius + (x, y)


def _star() -> Points:
    return _regular(10) * np.where(np.arange(10) % 2 == 0, 1.0, 0.42)[:, None]


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 17.5


def _cross() -> Points:
    a, b = 0.34, 0.94
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a)]
    return np.array([*corners, (-b, -a), (-a, -a)])


def _arrow() -> Points:
    return np.array([(1, 0), (0.05, 0.75), (0.05, 0.3), (-1, 0.3), (-1, -0.3), (0.05, -0.3), (0.05, -0.75)])


# Name -> outlines: the first is filled, the second, if any, is cut out of it.
SHAPES: dict[str, tuple[Points, ...]] = {
    "circle": (_disc(0.95),),
    "triangle": (_regular(3),),
    "square": (_regular(4, start=45.0),),
    "pentagon": (_regular(5),),
    "star": (_star(),),
    "heart": (_heart(),),
    "crescent": (_disc(), _disc(0.8, x=0.45)),
    "cross": (_cross(),),
    "ring": (_disc(), _disc(0.56)),
    "arrow": (_arrow(),),
}
CLASSES = tuple(SHAPES)


class _Dice:
    """Random draws from one seeded stream; `between(a, b)` is uniform in [a, b)."""

    def __init__(self, split: str, index: int) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if index < 0:
            raise ValueError(f"a scene's index must be 0 or more, got {index}")
        self.rng = np.random.Generator(np.random.PCG64([SPLITS[split], index]))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high - 1."""
        return low + int(self.rng.random() * (high - low))

    def plane(self, side: int) -> Plane:
        return self.rng.random((side, side))


def render(split: str, index: int) -> Scene:
    """Render scene `index` of a split. Classes alternate, so every split is balanced.

    Raises:
        ValueError: unknown split or negative index.
    """
    dice = _Dice(split, index)
    label = index % len(CLASSES)
    hue = dice.between(0, 1)
    canvas = _background(dice, hue)
    for _ in range(dice.whole(5, 10)):
        canvas = _fragment(dice, canvas, hue)
    coverage = _place(dice, SHAPES[CLASSES[label]])
    canvas = _shadow(canvas, coverage)
    canvas = _over(canvas, _object_paint(dice, hue), coverage)
    canvas = canvas + 0.02 * (dice.plane(SIZE)[..., None] - 0.5)
    image = np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return Scene(image, label, coverage >= 0.5)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _over(canvas: NDArray[np.float64], paint: NDArray[np.float64], coverage: Plane) -> NDArray[np.float64]:
    return canvas + (paint - canvas) * coverage[..., None]


def _resize(plane: Plane) -> Plane:
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)


def _ramp(angle: float) -> Plane:
    """A linear gradient from 0 to 1 along a direction."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    return 0.5 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)


def _waves(dice: _Dice, low: float, high: float) -> Plane:
    ramp = _ramp(dice.between(0, 2 * np.pi))
    return 0.5 + 0.5 * np.sin(2 * np.pi * (ramp * dice.between(low, high) + dice.between(0, 1)))


def _clouds(dice: _Dice) -> Plane:
    return 0.6 * _resize(dice.plane(5)) + 0.4 * _resize(dice.plane(16))


def _texture(dice: _Dice) -> Plane:
    """A random pattern with values from 0 to 1: a ramp, stripes, clouds or a weave."""
    patterns: tuple[Callable[[], Plane], ...] = (
        lambda: _ramp(dice.between(0, 2 * np.pi)),
        lambda: _waves(dice, 5, 11),
        lambda: _clouds(dice),
        lambda: _waves(dice, 5, 10) * _waves(dice, 5, 10),
    )
    return patterns[dice.whole(0, len(patterns))]()


def _background(dice: _Dice, hue: float) -> NDArray[np.float64]:
    dark = _colour(hue, dice.between(0.25, 0.6), dice.between(0.08, 0.16))
    light = _colour(hue + dice.between(-0.12, 0.12), dice.between(0.2, 0.5), dice.between(0.24, 0.36))
    blend = 0.55 * _clouds(dice) + 0.45 * _texture(dice)
    return dark + (light - dark) * blend[..., None]


def _fragment(dice: _Dice, canvas: NDArray[np.float64], hue: float) -> NDArray[np.float64]:
    """Add a small muted piece of clutter: a fragment of some shape, or a stroke."""
    outline = SHAPES[CLASSES[dice.whole(0, len(CLASSES))]][0]
    if dice.between(0, 1) < 0.5:
        first = dice.whole(0, len(outline))
        chip = np.roll(outline, -first, axis=0)[: max(3, len(outline) // 3)]
        points = chip * dice.between(3, 9)
    else:
        points = np.array([(-1, -0.12), (1, -0.12), (1, 0.12), (-1, 0.12)]) * dice.between(4, 13)
    centre = (dice.between(0, SIZE), dice.between(0, SIZE))
    coverage = _draw((_rotate(points, dice.between(0, 2 * np.pi)) + centre,))
    paint = _colour(hue + dice.between(-0.3, 0.3), dice.between(0.2, 0.5), dice.between(0.3, 0.48))
    return _over(canvas, paint, coverage * dice.between(0.6, 1.0))


def _object_paint(dice: _Dice, background_hue: float) -> NDArray[np.float64]:
    hue = background_hue + dice.between(0.15, 0.85)
    bright = _colour(hue, dice.between(0.3, 0.75), dice.between(0.92, 1.0))
    deep = _colour(hue + dice.between(-0.06, 0.06), dice.between(0.4, 0.8), dice.between(0.72, 0.85))
    return deep + (bright - deep) * _texture(dice)[..., None]


def _rotate(points: Points, angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([(c, s), (-s, c)])


def _place(dice: _Dice, outlines: tuple[Points, ...]) -> Plane:
    """Draw a shape at a random size, rotation (within 35 degrees) and position, entirely in the image."""
    radius = dice.between(13, 25)
    angle = np.deg2rad(dice.between(-35, 35))
    turned = [_rotate(points, angle) * radius for points in outlines]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    room = SIZE - 2 * _MARGIN - (high - low)
    corner = _MARGIN + room * (dice.between(0, 1), dice.between(0, 1))
    return _draw(tuple(points - low + corner for points in turned))


def _draw(outlines: tuple[Points, ...]) -> Plane:
    """Share of each pixel that is inside the first outline and outside the second."""
    large = Image.new("L", (SIZE * _OVERSAMPLE, SIZE * _OVERSAMPLE))
    pen = ImageDraw.Draw(large)
    for points, fill in zip(outlines, (255, 0), strict=False):
        pen.polygon([(float(x), float(y)) for x, y in points * _OVERSAMPLE], fill=fill)
    return np.asarray(large.reduce(_OVERSAMPLE), dtype=np.float64) / 255


def _shadow(canvas: NDArray[np.float64], coverage: Plane) -> NDArray[np.float64]:
    """Darken the pixels just below and to the right of the shape, which sets it off from the clutter."""
    soft = np.zeros_like(coverage)
    for step in (1, 2, 3):
        soft[step:, step:] += coverage[:-step, :-step] / 3
    return canvas * (1 - 0.5 * soft[..., None])
