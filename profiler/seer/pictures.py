"""Pictures drawn by code: shapes of several colours, sizes and textures on a cluttered ground.

Every picture follows from its seed alone. Numpy and PIL, no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "green": (45, 160, 65),
    "blue": (50, 85, 210),
    "yellow": (230, 210, 55),
    "purple": (140, 60, 170),
    "orange": (235, 130, 30),
    "white": (240, 240, 240),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")

SIDE = 96  # pixels along a picture
PATCH = 4  # pixels along a patch of the model's tower
RADII = {"small": (8.0, 9.5), "large": (12.0, 14.0)}  # pixels
PANEL_RADII = {"small": (7.0, 8.0), "large": (9.5, 11.0)}  # in a picture of four
COVERED = 0.25  # of a patch: from here on it belongs to the object
TURN = 0.25  # radians to either side
FINE = 4  # samples a pixel's side that outlines are drawn with

Kind = tuple[str, str]
"""Colour and shape."""
KINDS: tuple[Kind, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
RANKED: tuple[Kind, ...] = tuple(
    KINDS[index] for index in np.random.default_rng(48).permutation(len(KINDS))
)
"""All kinds, the most frequent in pictures first."""
POPULAR = frozenset(RANKED[:16])
_WEIGHTS = np.array([1 / (RANKED.index(kind) + 12) for kind in KINDS])
FREQUENCIES = _WEIGHTS / _WEIGHTS.sum()
"""How often each of KINDS is drawn: a mild Zipf law, 5 to 1 from the first to the last."""


@dataclass(frozen=True)
class Thing:
    """An object in a picture. x, y: its centre in pixels. radius: in pixels. angle: radians.
    panel: which of four pictures in one it lies in, 0 where there is one."""

    colour: str
    shape: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float
    panel: int = 0

    @property
    def kind(self) -> Kind:
        return self.colour, self.shape


@dataclass(frozen=True)
class Drawing:
    """things: no two of a kind. pixels: [96, 96, 3], uint8. owners: [24, 24], which thing covers
    over a quarter of each patch, -1 for none."""

    things: tuple[Thing, ...]
    pixels: NDArray[np.uint8]
    owners: NDArray[np.int8]

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(thing.kind for thing in self.things)

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


@functools.lru_cache(maxsize=1024)
def picture(seed: tuple[int, ...]) -> Drawing:
    """A picture of three to five objects."""
    rng = np.random.default_rng(list(seed))
    things: list[Thing] = []
    for kind in _kinds(rng, int(rng.integers(3, 6))):
        _place(rng, kind, things, RADII, (0, 0, SIDE, SIDE))
    return _drawn(rng, things, panels=False)


def four_pictures(seed: Sequence[int]) -> Drawing:
    """Four pictures of two objects each, in one, with a white line between them."""
    rng = np.random.default_rng(list(seed))
    kinds, half = _kinds(rng, 8), SIDE // 2
    things: list[Thing] = []
    for panel in range(4):
        left, top = panel % 2 * half, panel // 2 * half
        for kind in kinds[2 * panel : 2 * panel + 2]:
            _place(rng, kind, things, PANEL_RADII, (left, top, left + half, top + half), panel)
    return _drawn(rng, things, panels=True)


def _kinds(rng: np.random.Generator, count: int) -> list[Kind]:
    """Different kinds; half of them share colour or shape with one that is there already."""
    kinds: list[Kind] = []
    while len(kinds) < count:
        colour, shape = KINDS[rng.choice(len(KINDS), p=FREQUENCIES)]
        if kinds and rng.random() < 0.5:
            like = kinds[rng.integers(len(kinds))]
            colour, shape = (like[0], shape) if rng.random() < 0.5 else (colour, like[1])
        if (colour, shape) not in kinds:
            kinds.append((colour, shape))
    return kinds


def _place(
    rng: np.random.Generator,
    kind: Kind,
    things: list[Thing],
    radii: dict[str, tuple[float, float]],
    box: tuple[int, int, int, int],
    panel: int = 0,
) -> None:
    """Add an object where it touches no other; none where there is no room for it."""
    size = SIZES[rng.integers(len(SIZES))]
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    radius, angle = rng.uniform(*radii[size]), rng.uniform(-TURN, TURN)
    left, top, right, bottom = box
    margin = radius + 1
    for _ in range(40):
        x, y = (
            rng.uniform(left + margin, right - margin),
            rng.uniform(top + margin, bottom - margin),
        )
        if all(math.hypot(x - t.x, y - t.y) > radius + t.radius + 2 for t in things):
            things.append(Thing(*kind, size, texture, x, y, radius, angle, panel))
            return


def _drawn(rng: np.random.Generator, things: list[Thing], *, panels: bool) -> Drawing:
    canvas = _ground(rng)
    owners = np.full((SIDE // PATCH, SIDE // PATCH), -1, np.int8)
    for index, thing in enumerate(things):
        window, patches = _window(thing)
        mask = _outline(thing, window)
        part = canvas[window]
        part += mask[..., None] * (_surface(rng, thing, window) - part)
        rows, columns = (length // PATCH for length in mask.shape)
        cover = mask.reshape(rows, PATCH, columns, PATCH).mean((1, 3))
        owners[patches][cover > COVERED] = index
    if panels:
        canvas[SIDE // 2 - 1 : SIDE // 2 + 1] = 255
        canvas[:, SIDE // 2 - 1 : SIDE // 2 + 1] = 255
    canvas += 6 * rng.standard_normal(canvas.shape, np.float32)
    return Drawing(tuple(things), canvas.clip(0, 255).astype(np.uint8), owners)


def _ground(rng: np.random.Generator) -> NDArray[np.float64]:
    """Muted blocks and bars: [96, 96, 3]."""
    tone = rng.uniform(85, 165)
    blocks = (tone + rng.normal(0, 14, (6, 6, 3))).repeat(16, 0).repeat(16, 1)
    image = Image.fromarray(blocks.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 7)):
        ends = [tuple(end) for end in rng.uniform(0, SIDE, (2, 2)).tolist()]
        colour = tuple(int(c) for c in (rng.uniform(70, 180) + rng.normal(0, 12, 3)).clip(0, 255))
        pen.line(ends, fill=colour, width=int(rng.integers(1, 5)))
    ground: NDArray[np.float64] = np.asarray(image).astype(np.float64)
    return ground


Window = tuple[slice, slice]
"""Rows and columns of a part of the picture."""


def _window(thing: Thing) -> tuple[Window, Window]:
    """The pixels that an object may cover, in whole patches, and these patches."""
    patches = tuple(
        slice(
            max(0, int((centre - thing.radius - 1) // PATCH)),
            min(SIDE // PATCH, int((centre + thing.radius + 1) // PATCH) + 1),
        )
        for centre in (thing.y, thing.x)
    )
    rows, columns = (slice(part.start * PATCH, part.stop * PATCH) for part in patches)
    return (rows, columns), (patches[0], patches[1])


def _outline(thing: Thing, window: Window) -> NDArray[np.float64]:
    """How much of each pixel of the window the object covers, 0 to 1."""
    rows, columns = window
    size = (columns.stop - columns.start) * FINE, (rows.stop - rows.start) * FINE
    image = Image.new("L", size)
    pen = ImageDraw.Draw(image)
    x, y = (thing.x - columns.start) * FINE, (thing.y - rows.start) * FINE
    radius = thing.radius * FINE
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if thing.shape == "ring":
            hole = radius * 0.5
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:
        cos, sin = math.cos(thing.angle), math.sin(thing.angle)
        corners = [(radius * u, radius * v) for u, v in _CORNERS[thing.shape]]
        pen.polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners], fill=255)
    covered: NDArray[np.float64] = np.asarray(image.reduce(FINE), np.float64) / 255
    return covered


def _surface(rng: np.random.Generator, thing: Thing, window: Window) -> NDArray[np.float64]:
    """The colour of each pixel of an object, or one for all."""
    colour = np.array(COLOURS[thing.colour]) + rng.normal(0, 10, 3)
    if thing.texture == "plain":
        return colour
    second = colour * 0.55 + 255 * 0.45 if colour.mean() < 60 else colour * 0.58
    rows, columns = np.mgrid[window]
    u, v = columns - thing.x, rows - thing.y
    if thing.texture == "striped":
        marked = (u + v) % 6 < 3
    else:
        marked = np.hypot(u % 5 - 2.5, v % 5 - 2.5) < 1.5
    return np.where(marked[..., None], second, colour)


def _star() -> list[tuple[float, float]]:
    points = []
    for index in range(10):
        radius, angle = (1.0, 0.42)[index % 2], math.pi * index / 5 - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


_CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -1), (0.95, 0.75), (-0.95, 0.75)],
    "cross": [
        (-0.3, -1),
        (0.3, -1),
        (0.3, -0.3),
        (1, -0.3),
        (1, 0.3),
        (0.3, 0.3),
        (0.3, 1),
        (-0.3, 1),
        (-0.3, 0.3),
        (-1, 0.3),
        (-1, -0.3),
        (-0.3, -0.3),
    ],
    "star": _star(),
}
"""Corners of outlines around (0, 0) in units of the radius."""
