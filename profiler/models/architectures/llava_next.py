"""LLaVA-NeXT: LLaVA over a base tile and the tiles of the picture at higher resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from ....methods.contract.request import Encoder, Request, Segment, Size
from ....reports.record.kept import Region
from ....reports.record.spec import Layout
from ..architecture import require_equal, whole_picture
from ..checkpoint.reader import MOST, Reader
from ..model import Model
from ..registry import register_architecture
from ..shapes import Shape, Text
from ..towers.clip import CLIP_LARGE, MICRO_CLIP, SMALL_CLIP, clip_from
from .llava import MICRO_TEXT, SMALL_TEXT, VICUNA_7B, Llava, LlavaModel

if TYPE_CHECKING:
    from torch import Tensor

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@register_architecture
class LlavaNext(Llava):
    """A base tile and the tiles of the picture at higher resolution.

    Layout `flat` puts the tiles in a row (the paper's 2880); `anyres` is the layout that
    transformers knows: tiles joined, padding cut away, a newline token behind every row.
    """

    name = "llava-next"
    model_type = "llava_next"
    class_name = "LlavaNextForConditionalGeneration"
    image_processor = "LlavaNextImageProcessorPil"
    layouts: ClassVar[tuple[Layout, ...]] = ("flat", "anyres")

    def shapes(self) -> tuple[Shape, ...]:
        return (
            self.shape(
                "tiny",
                SMALL_TEXT,
                SMALL_CLIP,
                PINPOINTS,
                "2880 visual tokens on a model small enough for a CPU",
            ),
            self.shape(
                "llava-next-7b",
                VICUNA_7B,
                CLIP_LARGE,
                PINPOINTS,
                "Vicuna-7B, 2880 visual tokens: the model of the paper's Table 7",
            ),
        )

    def micro(self) -> Shape:
        pinpoints = ((84, 168), (168, 84), (168, 168))
        return self.shape("micro-llava-next", MICRO_TEXT, MICRO_CLIP, pinpoints)

    def config(self, shape: Shape) -> Any:
        from transformers import LlavaNextConfig

        pinpoints = [list(size) for size in shape.pinpoints]
        return LlavaNextConfig(image_grid_pinpoints=pinpoints, **self.config_options(shape))

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        bias = bool(given.multimodal_projector_bias)
        return self.shape(name, text, clip_from(name, given), pinpoints_of(name, given), bias=bias)

    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        side = shape.vision.side
        tile, (rows, columns) = Segment(side, side), tile_grid(shape, *size)
        if layout == "flat":
            return (tile,) * (1 + rows * columns)
        height, width = unpadded(rows * side, columns * side, size)
        return (tile, Segment(height, width + 1, newline=True))

    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        crops = tile_grid(shape, *size)
        return dataclasses.replace(
            self.tiles(shape, 1 + crops[0] * crops[1], crops, mergeable=layout == "flat"),
            held_by="the layout sets them on a grid, with newlines (--layout flat does not)",
        )

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        pinpoints = [list(size) for size in shape.pinpoints]
        return {"image_grid_pinpoints": pinpoints, **super().processor_options(shape)}

    def fitted(self, name: str, shape: Shape, processor: Any) -> Shape:
        super().fitted(name, shape, processor)
        listed = [list(size) for size in getattr(processor, "image_grid_pinpoints", None) or ()]
        wanted = [list(size) for size in shape.pinpoints]
        require_equal(name, "image_grid_pinpoints", listed, wanted)
        return shape

    def regions(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> list[Region]:
        segments = self.segments(shape, size, layout)
        whole = whole_picture(segments[0])
        if layout == "flat":
            return [whole, *tile_regions(segments[0], tile_grid(shape, *size), size)]
        grid = segments[1]  # without padding; the last of each row is a newline
        detail = whole_picture(grid)
        detail.view, detail.first = "tiles", segments[0].tokens
        return [whole, detail]

    def adapter(self) -> type[Model]:
        return LlavaNextModel


class LlavaNextModel(LlavaModel):
    """See `LlavaNext`."""

    @property
    def newline(self) -> Tensor | None:
        newline: Tensor = self.module.model.image_newline
        return newline

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        counts, patches = self._tile_counts(pixels), self.tile_tokens(pixels)
        if layout == "flat":
            return [count * patches for count in counts]
        return [len(self._packed(size, count, patches)) for size, count in _sized(pixels, counts)]

    def extras(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        import torch

        most, counts = pixels["pixel_values"].shape[1], self._tile_counts(pixels)
        if set(counts) == {most}:
            return {}
        there = [n * most + tile for n, count in enumerate(counts) for tile in range(count)]
        return {"tiles": torch.tensor(there)}

    def order(self, pixels: dict[str, Tensor], request: Request, layout: Layout) -> Tensor | None:
        import torch

        if layout == "flat":
            return None
        encoder, first, packed = request.encoder, 0, []
        assert encoder is not None
        newline = encoder.tiles * encoder.patches
        counts = self._tile_counts(pixels)
        for size, count in _sized(pixels, counts[: len(counts) // request.batch]):
            places = self._packed(size, count, encoder.patches)
            end, places = count * encoder.patches, places + first
            packed.append(torch.where(places == end + first, newline, places))
            first += end
        return torch.cat(packed)

    def _tile_counts(self, pixels: dict[str, Tensor]) -> list[int]:
        """Tiles of each picture; the image processor fills up to those of the one with most."""
        grids = [tile_grid(self.shape, *size) for size in pixels["image_sizes"].tolist()]
        return [1 + rows * columns for rows, columns in grids]

    def _packed(self, size: Tensor, tiles: int, patches: int) -> Tensor:
        """Where transformers puts the patches of a picture; see Inputs.order."""
        import torch

        places = torch.arange(tiles * patches, dtype=torch.float64)
        packed, _ = self.module.model.pack_image_features(
            [places.view(tiles, patches, 1)],
            size[None],
            image_newline=torch.tensor([float(tiles * patches)], dtype=torch.float64),
            **self._pack_options(),
        )
        order: Tensor = packed[0][:, 0].long()
        return order

    def _pack_options(self) -> dict[str, Any]:
        return {"vision_feature_select_strategy": "default"}


def _sized(pixels: dict[str, Tensor], counts: list[int]) -> Iterator[tuple[Tensor, int]]:
    """Size and tiles of the first pictures."""
    return zip(pixels["image_sizes"], counts, strict=False)


def tile_grid(shape: Shape, height: int, width: int) -> Size:
    """Rows and columns of tiles that a picture is cut into, besides the base tile.

    The layout that keeps most of the picture's pixels wins; among equals, the one that pads least.
    """

    def quality(layout: Size) -> Size:
        scale = min(layout[0] / height, layout[1] / width)
        covered = int(height * scale) * int(width * scale)
        useful = min(covered, height * width)
        return useful, -(layout[0] * layout[1] - useful)

    best = max(shape.pinpoints, key=quality)
    return best[0] // shape.vision.image, best[1] // shape.vision.image


def unpadded(rows: int, columns: int, size: Size) -> Size:
    """A grid of patches without the rows or columns that only cover padding."""
    height, width = size
    if width / height > columns / rows:
        padding = (rows - int(round(height * columns / width, 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * rows / height, 7))) // 2
    return rows, columns - 2 * padding


def tile_regions(tile: Segment, grid: Size, size: Size) -> list[Region]:
    """What of a picture each of its tiles covers, one behind another after the base tile."""
    (rows, columns), (height, width) = grid, size
    scale = min(columns / width, rows / height)  # tiles per pixel
    across, down = width * scale, height * scale  # of the picture, in tiles; the rest is padding
    found = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        x, y = column - (columns - across) / 2, row - (rows - down) / 2
        region = whole_picture(tile)
        region.view, region.first = "tiles", tile.tokens * (1 + number)
        region.left, region.top = x / across, y / down
        region.right, region.bottom = (x + 1) / across, (y + 1) / down
        found.append(region)
    return found


def pinpoints_of(name: str, given: Any) -> tuple[Size, ...]:
    """The sizes in pixels, height and width, to which a picture may be resized."""
    listed, side = given.image_grid_pinpoints, given.vision_config.image_size
    reader = Reader(name, "config.json", given)
    if not isinstance(listed, (list, tuple)) or not listed:
        reader.refuse("image_grid_pinpoints holds no size")
    for size in listed:
        fits = (
            isinstance(size, (list, tuple))
            and len(size) == 2
            and all(type(n) is int and 0 < n <= MOST["pixels"] and n % side == 0 for n in size)
        )
        if not fits:
            reader.refuse(f"image_grid_pinpoints: {size!r} is not made of tiles of {side} pixels")
    return tuple((size[0], size[1]) for size in listed)
