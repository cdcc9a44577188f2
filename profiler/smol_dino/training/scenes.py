"""Composed pictures: cut-outs of things on photographs or clutter. Each follows from its seed.

What a scene holds is drawn with numpy; pixels are made of many scenes at once, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..build import PATCH, SIDE
from .nouns import FILES, GROUP, NOUNS

TRAIN, VALIDATION, TEST = 1, 2, 3
"""First number of the seeds of each: they share none."""
GRID = SIDE // PATCH
LEAST, MOST = 76.0, 150.0  # pixels of the longer side of a cut-out
COVERED = 0.4  # of a patch: from here on it belongs to the thing
BANK = 160  # pixels of the squares that cut-outs lie in
PHOTO = 448  # pixels of the squares that photographs lie in

RANKED = tuple(NOUNS[i] for i in np.random.default_rng(135).permutation(len(NOUNS)))
"""All nouns, the most frequent in pictures first."""
POPULAR = frozenset(RANKED[:40])
_WEIGHTS = np.array([1 / (RANKED.index(noun) + 40) for noun in NOUNS])
FREQUENCIES = _WEIGHTS / _WEIGHTS.sum()
FILES_OF = {noun: [i for i, (own, _) in enumerate(FILES) if own == noun] for noun in NOUNS}


@dataclass(frozen=True)
class Placed:
    """A cut-out in a picture. file: its index. x, y: its centre, and size: the longer side of its
    square, in pixels. angle: radians. mirrored: 1 or -1. gain: of its brightness."""

    file: int
    x: float
    y: float
    size: float
    angle: float
    mirrored: float
    gain: float

    @property
    def noun(self) -> str:
        return FILES[self.file][0]


@dataclass(frozen=True)
class Scene:
    """things: no two of a noun. photo: which photograph lies behind. window: its part that is
    shown: centre and half of its side, from -1 to 1. clutter: [3, 8, 8] colours from 0 to 255 that
    lie over the photograph, and how much they cover."""

    things: tuple[Placed, ...]
    photo: int
    window: tuple[float, float, float]
    clutter: NDArray[np.float32]
    covers: float

    @property
    def nouns(self) -> frozenset[str]:
        return frozenset(thing.noun for thing in self.things)


@dataclass(frozen=True)
class Bank:
    """stamps: [files, 4, 160, 160], red, green, blue and alpha. photos: [photos, 3, 448, 448]. Both
    uint8."""

    stamps: Tensor
    photos: Tensor

    def to(self, device: torch.device) -> Bank:
        return Bank(self.stamps.to(device), self.photos.to(device))


def scene(seed: Sequence[int]) -> Scene:
    """A scene of three to five things, often with a second one of a group."""
    rng = np.random.default_rng(list(seed))
    things: list[Placed] = []
    for noun in _nouns(rng, int(rng.integers(3, 6))):
        _place(rng, noun, things)
    half = rng.uniform(0.4, 0.95)
    x, y = rng.uniform(half - 1, 1 - half, 2)
    tone, spread = rng.uniform(40, 215), rng.uniform(5, 60)
    clutter = (tone + rng.normal(0, spread, (3, 8, 8))).astype(np.float32)
    covers = float(rng.choice([0.0, 0.0, 0.5, 1.0]))
    return Scene(tuple(things), int(rng.integers(2**31)), (x, y, half), clutter, covers)


def _nouns(rng: np.random.Generator, count: int) -> list[str]:
    """Different nouns; a third of them are of the group of one that is there already."""
    found: list[str] = []
    while len(found) < count:
        noun = NOUNS[rng.choice(len(NOUNS), p=FREQUENCIES)]
        if found and rng.random() < 0.33:
            group = GROUP[found[rng.integers(len(found))]]
            like = [own for own in NOUNS if GROUP[own] == group]
            noun = like[rng.integers(len(like))]
        if noun not in found:
            found.append(noun)
    return found


def _place(rng: np.random.Generator, noun: str, things: list[Placed]) -> None:
    """Add a thing where it hardly touches another; none where there is no room for it."""
    files = FILES_OF[noun]
    file = files[rng.integers(len(files))]
    size, angle = rng.uniform(LEAST, MOST), rng.uniform(-0.35, 0.35)
    mirrored, gain = rng.choice([-1.0, 1.0]), rng.uniform(0.75, 1.2)
    margin = 0.45 * size
    for _ in range(40):
        x, y = rng.uniform(margin, SIDE - margin, 2)
        if all(math.hypot(x - t.x, y - t.y) > 0.46 * (size + t.size) for t in things):
            things.append(Placed(file, x, y, size, angle, float(mirrored), gain))
            return


def render(scenes: Sequence[Scene], bank: Bank) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, 336, 336], whole numbers from 0 to 255 as float32, and whose each patch is
    [B, 24, 24]: the index of a thing in its scene, -1 for none. On the bank's device."""
    device = bank.stamps.device
    canvas = _ground(scenes, bank)
    most = max(len(s.things) for s in scenes)
    cover = torch.zeros(len(scenes), most, GRID, GRID, device=device)
    for place in range(most):
        holders = [i for i, s in enumerate(scenes) if len(s.things) > place]
        placed = [scenes[i].things[place] for i in holders]
        index = torch.tensor(holders, device=device)
        colour, alpha = _cut_out(placed, bank)
        canvas[index] += alpha * (colour - canvas[index])
        cover[index, place] = F.avg_pool2d(alpha, PATCH)[:, 0]
    covered, owner = cover.max(1)
    return canvas.clamp(0, 255).round(), torch.where(covered > COVERED, owner, -1)


def _cut_out(placed: list[Placed], bank: Bank) -> tuple[Tensor, Tensor]:
    """Colours [N, 3, 336, 336] and alpha [N, 1, 336, 336] from 0 to 1, each thing at its place."""
    device = bank.stamps.device
    rows = []
    for t in placed:
        scale, (cos, sin) = SIDE / t.size, (math.cos(t.angle), math.sin(t.angle))
        x, y = 2 * t.x / SIDE - 1, 2 * t.y / SIDE - 1
        across, down = (scale * cos, scale * sin), (-scale * sin, scale * cos)
        rows.append(
            [
                [t.mirrored * v for v in (*across, -across[0] * x - across[1] * y)],
                [*down, -down[0] * x - down[1] * y],
            ]
        )
    grid = F.affine_grid(
        torch.tensor(rows, dtype=torch.float32, device=device),
        [len(placed), 4, SIDE, SIDE],
        align_corners=False,
    )
    stamps = bank.stamps[torch.tensor([t.file for t in placed], device=device)].float()
    gains = torch.tensor([t.gain for t in placed], dtype=torch.float32, device=device)
    alpha = stamps[:, 3:] / 255
    whole = torch.cat([stamps[:, :3] * alpha * gains[:, None, None, None], alpha], 1)
    sampled = F.grid_sample(whole, grid, align_corners=False)
    alpha = sampled[:, 3:]
    return sampled[:, :3] / alpha.clamp(min=1e-3), alpha


def _ground(scenes: Sequence[Scene], bank: Bank) -> Tensor:
    """[B, 3, 336, 336], float32."""
    device = bank.photos.device
    rows = [[[half, 0, x], [0, half, y]] for x, y, half in (s.window for s in scenes)]
    theta = torch.tensor(rows, dtype=torch.float32, device=device)
    grid = F.affine_grid(theta, [len(scenes), 3, SIDE, SIDE], align_corners=False)
    index = torch.tensor([s.photo % len(bank.photos) for s in scenes], device=device)
    photo = F.grid_sample(bank.photos[index].float(), grid, align_corners=False)
    colours = torch.from_numpy(np.stack([s.clutter for s in scenes])).to(device)
    clutter = F.interpolate(colours, size=(SIDE, SIDE), mode="bilinear")
    blocks = F.interpolate(colours.flip(2), size=(SIDE, SIDE), mode="nearest")
    covers = torch.tensor([s.covers for s in scenes], device=device)[:, None, None, None]
    return photo + covers * ((clutter + blocks) / 2 - photo)
