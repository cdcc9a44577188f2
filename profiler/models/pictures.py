"""How a file becomes the picture of a request: upright, RGB with 8 bits, in the size asked for.

What is done to it on the way is told, so that nobody takes the result for the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...methods.contract.errors import InputError
from ...methods.contract.request import Size

if TYPE_CHECKING:
    from PIL import Image

SAMPLE_SIZE = (672, 672)
"""Height and width to which the sample photograph is resized."""
MOST_PIXELS = 178_956_970
"""Of a picture, before and after it is resized: above this PIL suspects a decompression bomb."""
ORIENTATION = 0x0112  # the EXIF tag
TURNED = range(2, 9)  # the orientations that are not upright; others mean nothing
SIDEWAYS = range(5, 9)  # those in which height and width change places


class PictureError(InputError):
    """A file that is no picture, or one of a size that cannot be."""


@dataclass(frozen=True)
class RequestPicture:
    """A picture as the model's image processor is given it. notes: what was done to the file."""

    image: Image.Image
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width


def picture_size(file: str | None, size: Size | None) -> Size:
    """Height and width in pixels of a picture as the model is given it; only the head of a file is
    read. file: None for the sample; size: to which it is resized, None for its own. Raises
    PictureError."""
    if size is not None:
        return _possible(size)
    if file is None:
        return SAMPLE_SIZE
    with _opened(Path(file)) as picture:
        # PIL itself gives the size of a TIFF as it stands upright.
        turned = picture.getexif().get(ORIENTATION) in SIDEWAYS and picture.format != "TIFF"
        width, height = picture.size[::-1] if turned else picture.size
    return _possible((height, width))


def load_picture(file: str | None, wanted: Size | None) -> RequestPicture:
    """A picture of a request, as `picture_size` takes it; raises PictureError for a file that is
    none."""
    from PIL import Image, ImageOps

    path = Path(file) if file else sample_picture()
    size, notes = picture_size(file, wanted), list[str]()
    with _opened(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            notes.append(f"the first of its {frames} frames is taken")
        orientation = picture.getexif().get(ORIENTATION)
        image: Image.Image = ImageOps.exif_transpose(picture)
        if orientation in TURNED:
            notes.append(f"turned upright (EXIF orientation {orientation})")
        image = _eight_bits(path, image, notes)
        if "A" in image.getbands() or "transparency" in image.info:
            notes.append("its transparency is dropped, as transformers does")
        image = image.convert("RGB")
    if (image.height, image.width) != size:
        before = f"{image.width}x{image.height}"
        distorted = abs(image.width * size[0] - image.height * size[1]) > max(size)
        shape = ", its aspect ratio changed" if distorted else ""
        notes.append(f"resized from {before} to {size[1]}x{size[0]} (width x height){shape}")
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    shown = notes if file else []  # the sample photograph is nobody's
    return RequestPicture(image, tuple(f"{path.name}: {note}" for note in shown))


def _eight_bits(path: Path, image: Image.Image, notes: list[str]) -> Image.Image:
    """Grey values of more than 8 bits, scaled: PIL would clip them to white."""

    if not image.mode.startswith(("I", "F")):
        return image
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if image.mode == "F" or low < 0 or high >= 2**16:
        raise PictureError(
            f"{path}: its grey values lie between {low:g} and {high:g}, of which neither 8 nor 16 "
            "bits are made; convert it to 8 bits a channel first"
        )
    if image.mode == "I" and high < 2**8:  # whole numbers of 32 bits, which hold 8
        return image.convert("L")
    notes.append("16 bits a channel scaled to 8")
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")


def _possible(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height * width > MOST_PIXELS:
        raise PictureError(
            f"a picture of {width}x{height} has {height * width:,} pixels; at most {MOST_PIXELS:,}"
        )
    return size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file; whatever is wrong with it is one line."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and of odd palettes
        try:
            with Image.open(path) as picture:
                yield picture
        except PictureError:
            raise
        except Exception as error:  # a decoder fails on damaged files in many ways
            lines = str(error).strip().splitlines()
            why = lines[0][:200] if lines else "damaged"
            raise PictureError(f"{path}: not a picture that can be read ({why})") from error


def sample_picture() -> Path:
    """The photograph that matplotlib ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
