"""The cut-outs and photographs that pictures are composed of, in one file made of what Debian's
packages and others hold.

    python -m tpprof.profiler.smol_dino.training.bank --output bank.npz \\
        --stamps /usr/share/tuxpaint/stamps --train PHOTO... --test PHOTO...
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .nouns import FILES
from .scenes import BANK, PHOTO, Bank


def stamp(path: Path) -> Image.Image:
    """A cut-out without its empty margins, in the middle of a transparent square."""
    found = Image.open(path).convert("RGBA")
    found = found.crop(found.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
    scale = (BANK - 4) / max(found.size)
    size = [max(1, round(scale * side)) for side in found.size]
    found = found.convert("RGBa").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (BANK, BANK))
    square.paste(found.convert("RGBA"), ((BANK - size[0]) // 2, (BANK - size[1]) // 2))
    return square


def photo(path: Path) -> Image.Image:
    """The middle square of a photograph."""
    found = Image.open(path).convert("RGB")
    side = min(found.size)
    left, top = (found.width - side) // 2, (found.height - side) // 2
    cut = found.crop((left, top, left + side, top + side))
    return cut.resize((PHOTO, PHOTO), Image.Resampling.LANCZOS)


def pack(target: Path, stamps: Path, photos: dict[str, Iterable[Path]]) -> None:
    """Write all cut-outs of the folder `stamps` and photographs by the name of their split."""
    held: dict[str, Any] = {}
    for index, (_, file) in enumerate(FILES):
        held[f"stamp{index}"] = _bytes(stamp(stamps / f"{file}.png"), "PNG")
    for split, paths in photos.items():
        for index, path in enumerate(paths):
            held[f"{split}{index}"] = _bytes(photo(path), "JPEG", quality=88)
    np.savez(target, **held)


def load(path: Path, split: str) -> Bank:
    """What `pack` wrote: all cut-outs, and the photographs of a split."""
    with np.load(path) as held:
        stamps = [_pixels(held[f"stamp{index}"]) for index in range(len(FILES))]
        count = sum(name.startswith(split) for name in held.files)
        photos = [_pixels(held[f"{split}{index}"]) for index in range(count)]
    return Bank(_channels_first(stamps), _channels_first(photos))


def _channels_first(pictures: list[NDArray[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _bytes(image: Image.Image, kind: str, **options: Any) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _pixels(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Packs cut-outs and photographs.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True, help="tuxpaint's folder of stamps")
    for split in ("train", "test"):
        parser.add_argument(f"--{split}", type=Path, nargs="+", required=True, help="photographs")
    given = parser.parse_args()
    pack(given.output, given.stamps, {"train": given.train, "test": given.test})


if __name__ == "__main__":
    main()
