"""InternVL3: an InternViT tower over the tiles of a picture and its thumbnail, 2 x 2 patches to a
visual token, a Qwen2 decoder."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from ....methods.contract.request import Encoder, Request, Segment, Size, VisualSpan
from ....reports.record.kept import Region
from ....reports.record.spec import Layout
from ..architecture import Architecture, at_work, require_equal, whole_picture
from ..checkpoint.keys import ROTARY
from ..checkpoint.reader import Reader
from ..decoders.qwen2 import MICRO_QWEN2, SMALL_QWEN2, qwen2_config, qwen2_text
from ..errors import ModelError
from ..model import Model
from ..registry import register_architecture
from ..shapes import Projector, Shape, Text, Vision
from ..towers.internvit import (
    INTERNVIT_6B,
    INTERNVIT_300M,
    MICRO_INTERNVIT,
    SMALL_INTERNVIT,
    InternVitBlock,
    internvit_config,
    internvit_from,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ....methods.engine.decoder import BlockRunner, Inputs

VOCABULARY = 151674
IMAGE_TOKEN = 151667
MOST_TILES = 12
ABOUT = "InternViT, up to 12 tiles and a thumbnail"


@register_architecture
class InternVL(Architecture):
    """A picture is stretched over a grid of tiles whose sides are nearest to its own; a thumbnail
    comes last where there are several. A tile's visual tokens are its patches, 2 x 2 joined."""

    name = "internvl"
    model_type = "internvl"
    class_name = "InternVLForConditionalGeneration"
    image_processor = "GotOcr2ImageProcessorPil"
    processor_settings: ClassVar[dict[str, Any]] = {"crop_to_patches": True}
    bounded = True
    between = 3  # the end of one picture, a line break, and the start of the next

    def shapes(self) -> tuple[Shape, ...]:
        """Sizes of Qwen2.5's configs, the vocabulary of the conversion; no head shares weights."""
        small = SMALL_QWEN2
        return (
            self.tiled("tiny-internvl", small, SMALL_INTERNVIT, ABOUT),
            self.tiled(
                "internvl3-1b", qwen2_text(24, 896, 4864, 14, 2, VOCABULARY), INTERNVIT_300M, ABOUT
            ),
            self.tiled(
                "internvl3-2b", qwen2_text(28, 1536, 8960, 12, 2, VOCABULARY), INTERNVIT_300M, ABOUT
            ),
            self.tiled(
                "internvl3-8b",
                qwen2_text(28, 3584, 18944, 28, 4, VOCABULARY),
                INTERNVIT_300M,
                ABOUT,
            ),
            self.tiled(
                "internvl3-14b",
                qwen2_text(48, 5120, 13824, 40, 8, VOCABULARY),
                INTERNVIT_300M,
                ABOUT,
            ),
            self.tiled(
                "internvl3-38b", qwen2_text(64, 5120, 27648, 40, 8, VOCABULARY), INTERNVIT_6B, ABOUT
            ),
            self.tiled(
                "internvl3-78b", qwen2_text(80, 8192, 29568, 64, 8, VOCABULARY), INTERNVIT_6B, ABOUT
            ),
        )

    def micro(self) -> Shape:
        text = MICRO_QWEN2
        return self.tiled("micro-internvl", text, MICRO_INTERNVIT)

    def tiled(self, name: str, text: Text, vision: Vision, about: str = "") -> Shape:
        """A shape with the projector of this architecture and 1 to 12 tiles a picture."""
        joined = vision.hidden * vision.merge**2
        projector = Projector(joined, text.hidden, text.hidden, normed=joined)
        pinpoints = tile_sizes(vision.image, 1, MOST_TILES)
        return Shape(name, self, text, vision, projector, pinpoints, about=about)

    def config(self, shape: Shape) -> Any:
        from transformers import InternVLConfig

        text = shape.text
        return InternVLConfig(
            text_config=qwen2_config(text),
            vision_config=internvit_config(shape.vision),
            image_token_id=min(IMAGE_TOKEN, text.vocabulary - 1),
            image_seq_length=(shape.vision.side // shape.vision.merge) ** 2,
            tie_word_embeddings=text.tied,
        )

    def as_meant(self, written: dict[str, Any]) -> dict[str, Any]:
        """Whether the head shares the weights of the embedding stands in the text section, which
        transformers reads no more. Dynamic rotary scaling is none up to the positions that the text
        model is made for; requests beyond are refused."""
        text = written.get("text_config")
        if not isinstance(text, dict):
            return written
        meant = {"tie_word_embeddings": text.get("tie_word_embeddings", False), **written}
        sections = {key: _without_scaling(text[key]) for key in ROTARY if key in text}
        return {**meant, "text_config": {**text, **sections}}

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        reader = Reader(name, "config.json", given)
        reader.require("downsample_ratio", 0.5)
        reader.require("vision_feature_select_strategy", "default")
        reader.activation("projector_hidden_act")
        return self.tiled(name, text, internvit_from(name, given))

    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        side = shape.vision.side // shape.vision.merge
        return (Segment(side, side),) * tile_count(shape, size)

    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        return self.tower(shape, tile_count(shape, size))

    def tower(self, shape: Shape, tiles: int) -> Encoder:
        """The tower at work on `tiles` tiles."""
        tower = at_work(shape.vision, tiles, mergeable=False)
        return dataclasses.replace(tower, square=shape.vision.merge)

    def video(self, shape: Shape, frames: int, size: Size) -> tuple[VisualSpan, ...]:
        """A tile a frame; before each but the first, the end of the one before, a line break, its
        number in words (`Frame2: `) and its start."""
        side = shape.vision.side // shape.vision.merge
        frame = Segment(side, side, frame=True)
        first = VisualSpan(0, (frame,))
        return (first, *(VisualSpan(6 + len(str(n)), (frame,)) for n in range(2, frames + 1)))

    def video_encoder(self, shape: Shape, frames: int, size: Size) -> Encoder:
        return self.tower(shape, frames)

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        side = shape.vision.image
        return {
            "size": {"height": side, "width": side},
            "min_patches": 1,
            "max_patches": MOST_TILES,
            **self.processor_settings,
        }

    def fitted(self, name: str, shape: Shape, processor: Any) -> Shape:
        size = dict(getattr(processor, "size", None) or {})
        sides = [size.get("height"), size.get("width")]
        require_equal(name, "tiles of", sides, [shape.vision.image] * 2)
        least, most = (getattr(processor, f"{word}_patches", None) for word in ("min", "max"))
        if type(least) is not int or type(most) is not int or not 1 <= least <= most <= 1000:
            raise ModelError(
                f"{name}: its image processor cuts pictures into {least} to {most} tiles; known: "
                "min_patches from 1 to max_patches"
            )
        return dataclasses.replace(shape, pinpoints=tile_sizes(shape.vision.image, least, most))

    def regions(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> list[Region]:
        tile = self.segments(shape, size, layout)[0]
        rows, columns = tile_grid(shape, *size)
        found = []
        for number, (row, column) in enumerate(itertools.product(range(rows), range(columns))):
            region = whole_picture(tile)
            region.first = number * tile.tokens
            region.view = "tiles" if rows * columns > 1 else "picture"
            region.left, region.right = column / columns, (column + 1) / columns
            region.top, region.bottom = row / rows, (row + 1) / rows
            found.append(region)
        if len(found) > 1:
            thumbnail = whole_picture(tile)
            thumbnail.first = len(found) * tile.tokens
            found.append(thumbnail)
        return found

    def adapter(self) -> type[Model]:
        return InternVLModel


class InternVLModel(Model):
    """See `InternVL`."""

    @property
    def image_text(self) -> str:
        return "<IMG_CONTEXT>"

    @property
    def video_token(self) -> int:
        return self.image_token

    def framed(self, prompt: str) -> str:
        picture = f"<img>{self.image_text}</img>"
        return prompt.replace(self.image_text, picture).replace("<video>", f"Frame1: {picture}")

    def video_text(self, request: Request) -> list[list[int]]:
        numbers = range(2, len(request.spans) + 1)
        texts = [f"</img>\nFrame{number}: <img>" for number in numbers]
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False).input_ids
        return ids

    def pixels(self, images: list[Image.Image], each: int = 1) -> dict[str, Tensor]:
        """A picture that is 1 or 3 pixels wide has two sides that could hold its channels, which
        transformers warns of in each request, and then takes the right one."""
        if not any(image.width in (1, 3) for image in images):
            return super().pixels(images, each)
        logger = logging.getLogger("transformers.image_utils")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            return super().pixels(images, each)
        finally:
            logger.setLevel(before)

    def video_pixels(self, videos: list[list[Image.Image]]) -> dict[str, Tensor]:
        frames = [frame for video in videos for frame in video]
        made = self.image_processor(images=frames, crop_to_patches=False, return_tensors="pt")
        return dict(made)

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        model, vision = self.module.model, self.module.model.vision_tower
        hidden = vision.embeddings(inputs["pixel_values"].to(self.dtype))
        wanted = self.shape.vision.first_feature
        features = hidden
        for index, layer in enumerate(vision.encoder.layer):
            hidden = tower(index, InternVitBlock(layer), hidden)
            if index == wanted:
                features = hidden
        patches = features[:, 1:]
        tower.leave(patches)
        side = self.shape.vision.side
        grid = patches.reshape(len(patches), side, side, -1)
        joined = model.pixel_shuffle(grid, scale_factor=self.module.config.downsample_ratio)
        projected: Tensor = model.multi_modal_projector(joined.flatten(1, 2))
        return projected.reshape(inputs.request.batch, -1, projected.shape[-1])

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        side = self.shape.vision.side // self.shape.vision.merge
        return [tiles * side**2 for tiles in pixels["num_patches"].tolist()]

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        from ....methods.engine.decoder import Inputs

        return Inputs(
            {"input_ids": ids, "pixel_values": pixels["pixel_values"]},
            request=request,
            positions=self.text_positions(request),
            next_position=request.length,
        )


def _without_scaling(section: Any) -> Any:
    """A section of a rotary embedding, dynamic scaling left out."""
    if not isinstance(section, dict):
        return section
    kinds = {section.get(key, "dynamic") for key in ("rope_type", "type")}
    if kinds != {"dynamic"} or not {"rope_type", "type"} & set(section):
        return section
    theta = {key: value for key, value in section.items() if key == "rope_theta"}
    return {"rope_type": "default", **theta} if theta else None


def tile_sizes(tile: int, least: int, most: int) -> tuple[Size, ...]:
    """The sizes of all grids of `least` to `most` tiles, in the order in which transformers tries
    them: by their number, then by width."""
    sides = range(1, most + 1)
    grids = [(w, h) for w, h in itertools.product(sides, sides) if least <= w * h <= most]
    return tuple((h * tile, w * tile) for w, h in sorted(grids, key=lambda grid: grid[0] * grid[1]))


def tile_grid(shape: Shape, height: int, width: int) -> Size:
    """Rows and columns of tiles that a picture is cut into: those whose aspect ratio is nearest to
    its own, among equals the most, as long as they have less than twice its area."""
    chosen, least = shape.pinpoints[0], float("inf")
    for rows, columns in shape.pinpoints:
        apart = abs(width / height - columns / rows)
        if apart < least:
            chosen, least = (rows, columns), apart
        elif apart == least and width * height > 0.5 * rows * columns:
            chosen = rows, columns
    return chosen[0] // shape.vision.image, chosen[1] // shape.vision.image


def tile_count(shape: Shape, size: Size) -> int:
    """Tiles of a picture, the thumbnail included."""
    rows, columns = tile_grid(shape, *size)
    return rows * columns + (rows * columns > 1)
