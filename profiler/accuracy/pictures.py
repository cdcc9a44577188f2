"""Where the pictures of questions come from: a folder, or what draws them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...methods.contract.request import Size
from ..models.pictures import load_picture, picture_size

if TYPE_CHECKING:
    from PIL import Image


class Pictures(Protocol):
    """Pictures by name."""

    def size(self, name: str) -> Size:
        """Height and width in pixels."""
        ...

    def image(self, name: str) -> Image.Image:
        """The picture: upright, RGB with 8 bits."""
        ...

    def digest(self, names: Iterable[str]) -> str | None:
        """Of the files of these pictures; None where they are no files, or one is not there."""
        ...


class FolderPictures:
    """Pictures by the names of their files. Raises PictureError for a file that is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def size(self, name: str) -> Size:
        return picture_size(self._named(name), None)

    def image(self, name: str) -> Image.Image:
        return load_picture(self._named(name), None).image

    def digest(self, names: Iterable[str]) -> str | None:
        found = hashlib.sha256()
        try:
            for name in names:
                found.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        except OSError:
            return None
        return found.hexdigest()

    def _named(self, name: str) -> str:
        return str(self.folder / name)


class DrawnPictures:
    """Pictures that are drawn when they are asked for, the last few of them kept."""

    def __init__(self, draw: Callable[[str], Image.Image], kept: int = 64) -> None:
        self.image = functools.lru_cache(maxsize=kept)(draw)

    def size(self, name: str) -> Size:
        image = self.image(name)
        return image.height, image.width

    def digest(self, names: Iterable[str]) -> str | None:
        return None
