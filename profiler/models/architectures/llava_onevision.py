"""LLaVA-OneVision: a SigLIP tower over the tiles of a picture, which are scaled down to a most of
visual tokens, and a Qwen2 decoder."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Encoder, Request, Segment, Size, VisualSpan
from ....reports.record.kept import Region
from ....reports.record.spec import Layout
from ..architecture import whole_picture
from ..checkpoint.reader import Reader
from ..decoders.qwen2 import MICRO_QWEN2, SMALL_QWEN2, qwen2_config, qwen2_text
from ..model import Model
from ..processors import transformers_class
from ..registry import register_architecture
from ..shapes import Shape, Text, Vision
from ..towers.siglip import (
    MICRO_SIGLIP,
    SIGLIP_400M,
    SMALL_SIGLIP,
    SiglipBlock,
    siglip_config,
    siglip_from,
)
from .llava_next import LlavaNext, LlavaNextModel, pinpoints_of, tile_grid, unpadded

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ....methods.engine.decoder import Inputs, Resample

MOST_TILES = 9  # `anyres_max_9` of the published configs
SCALED_FROM = 1.1
"""Times the side of `most_tiles` tiles from which transformers scales the joined tiles down."""
IMAGE_TOKEN = 151646
VIDEO = "pixel_values_videos"
RESIZING = (
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
"""What the processing of pictures and of frames has in common."""
ABOUT = "SigLIP, up to 36 tiles scaled down to 9"
VIDEO_ABOUT = "as LLaVA-OneVision, as which transformers loads it: --frames"


def grid_pinpoints(tile: int, most: int) -> tuple[Size, ...]:
    """All sizes of up to `most` x `most` tiles, as transformers lists them."""
    sides = range(tile, most * tile + 1, tile)
    return tuple(itertools.product(sides, sides))


@register_architecture
class LlavaOnevision(LlavaNext):
    """A base tile and the tiles of the picture at higher resolution, joined: padding cut away,
    scaled down bilinearly where they are too many, a newline token behind every row."""

    name = "llava-onevision"
    model_type = "llava_onevision"
    class_name = "LlavaOnevisionForConditionalGeneration"
    image_processor = "LlavaOnevisionImageProcessorPil"
    layouts = ("anyres",)

    def shapes(self) -> tuple[Shape, ...]:
        """Sizes of Qwen2's configs; the vocabularies are those of the conversion, which adds two
        tokens and fills up to a multiple of 64, but for LLaVA-Video, which is as released. Its own
        code pools frames to 13 x 13 with a newline a row; as LLaVA-OneVision it has 14 x 14."""
        return (
            self.scaled("tiny-llava-onevision", SMALL_QWEN2, SMALL_SIGLIP),
            self.scaled(
                "llava-onevision-0.5b",
                dataclasses.replace(qwen2_text(24, 896, 4864, 14, 2, 152000), tied=True),
                SIGLIP_400M,
            ),
            self.scaled(
                "llava-onevision-7b", qwen2_text(28, 3584, 18944, 28, 4, 152128), SIGLIP_400M
            ),
            self.scaled(
                "llava-onevision-72b", qwen2_text(80, 8192, 29568, 64, 8, 152128), SIGLIP_400M
            ),
            self.scaled(
                "llava-video-7b",
                qwen2_text(28, 3584, 18944, 28, 4, 152064),
                SIGLIP_400M,
                VIDEO_ABOUT,
            ),
        )

    def micro(self) -> Shape:
        text = MICRO_QWEN2
        pinpoints = grid_pinpoints(MICRO_SIGLIP.image, 4)
        shape = self.shape("micro-llava-onevision", text, MICRO_SIGLIP, pinpoints)
        return dataclasses.replace(shape, most_tiles=7)

    def scaled(self, name: str, text: Text, vision: Vision, about: str = ABOUT) -> Shape:
        """A published shape: all sizes of up to 6 x 6 tiles."""
        pinpoints = grid_pinpoints(vision.image, 6)
        shape = self.shape(name, text, vision, pinpoints, about)
        return dataclasses.replace(shape, most_tiles=MOST_TILES)

    def config(self, shape: Shape) -> Any:
        from transformers import LlavaOnevisionConfig

        text = shape.text
        token = min(IMAGE_TOKEN, text.vocabulary - 2)
        return LlavaOnevisionConfig(
            text_config=qwen2_config(text),
            vision_config=siglip_config(shape.vision),
            image_token_index=token,
            video_token_index=token + 1,
            image_grid_pinpoints=[list(size) for size in shape.pinpoints],
            vision_aspect_ratio=f"anyres_max_{shape.most_tiles}",
            tie_word_embeddings=text.tied,
        )

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        reader = Reader(name, "config.json", given)
        reader.require("vision_feature_select_strategy", "full")
        reader.activation("projector_hidden_act")
        ratio = str(given.vision_aspect_ratio)
        if not re.fullmatch("anyres_max_[1-9][0-9]{0,2}", ratio):
            reader.refuse(f"vision_aspect_ratio {ratio[:40]!r} is not known; known: anyres_max_9")
        bias = bool(given.multimodal_projector_bias)
        shape = self.shape(
            name, text, siglip_from(name, given), pinpoints_of(name, given), bias=bias
        )
        return dataclasses.replace(shape, most_tiles=int(ratio.rpartition("_")[2]))

    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        if several:
            return whole_tile(shape)
        base, joined = super().segments(shape, size, "anyres")
        height, width = scaled_size(shape, joined.height, joined.width - 1)
        return base, Segment(height, width + 1, newline=True)

    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        if several:
            return self.tower(shape, 1)
        joined = joined_size(shape, size)
        height, width = scaled_size(shape, *joined)
        crops = tile_grid(shape, *size)
        tower = self.tower(shape, 1 + crops[0] * crops[1], crops)
        resampled = height * width if (height, width) != joined else 0
        return dataclasses.replace(tower, resampled=resampled)

    def tower(self, shape: Shape, count: int, crops: Size = (0, 0)) -> Encoder:
        """The tower at work on `count` tiles."""
        return dataclasses.replace(
            self.tiles(shape, count, crops, mergeable=False),
            held_by="the layout sets them on a grid, with newlines",
        )

    def video(self, shape: Shape, frames: int, size: Size) -> tuple[VisualSpan, ...]:
        """A tile a frame, scaled down to half its sides, and one newline behind the last."""
        side = math.ceil(shape.vision.side / 2)
        frame, newline = Segment(side, side, frame=True), Segment(1, 1, newline=True)
        return (VisualSpan(0, ((frame,) * frames) + (newline,)),)

    def video_encoder(self, shape: Shape, frames: int, size: Size) -> Encoder:
        half = math.ceil(shape.vision.side / 2)
        return dataclasses.replace(self.tower(shape, frames), resampled=frames * half**2)

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        side = shape.vision.image
        pinpoints = [list(size) for size in shape.pinpoints]
        return {"image_grid_pinpoints": pinpoints, "size": {"height": side, "width": side}}

    def regions(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> list[Region]:
        """Of several pictures, each is filled up to a square with a border of one colour."""
        if not several:
            return super().regions(shape, size, "anyres")
        (height, width), side = size, max(size)
        region = whole_picture(whole_tile(shape)[0])
        x, y = (side / width - 1) / 2, (side / height - 1) / 2
        region.left, region.top, region.right, region.bottom = -x, -y, 1 + x, 1 + y
        return [region]

    def adapter(self) -> type[Model]:
        return LlavaOnevisionModel


class LlavaOnevisionModel(LlavaNextModel):
    """See `LlavaOnevision`."""

    def patch_embeddings(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self.module.model.vision_tower.embeddings(pixels)
        return embedded

    def block(self, layer: Any) -> SiglipBlock:
        return SiglipBlock(layer)

    def patches(self, hidden: Tensor) -> Tensor:
        return hidden

    def tiles_of(self, inputs: Inputs) -> Tensor:
        return inputs[VIDEO] if VIDEO in inputs else inputs["pixel_values"]

    def by_sample(self, images: list[Any], each: int) -> Any:
        """Several pictures of a sample, of which each is one tile, are told from single ones."""
        if each == 1:
            return images
        return [images[first : first + each] for first in range(0, len(images), each)]

    @functools.cached_property
    def _frame_processor(self) -> Any:
        settings = {name: getattr(self.image_processor, name) for name in RESIZING}
        return transformers_class("SiglipImageProcessorPil")(**settings)

    def video_pixels(self, videos: list[list[Image.Image]]) -> dict[str, Tensor]:
        """Frames resized as pictures are, but not cut: what transformers' video processor does,
        which needs torchvision."""
        frames = [frame for video in videos for frame in video]
        made = self._frame_processor(images=frames, return_tensors="pt")["pixel_values"]
        return {VIDEO: made.unflatten(0, (len(videos), -1))}

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        if VIDEO not in pixels:
            return super().visual_tokens(pixels, "anyres")
        frames, half = pixels[VIDEO].shape[1], math.ceil(self.shape.vision.side / 2)
        return [frames * half**2 + 1] * len(pixels[VIDEO])

    def extras(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        return {} if VIDEO in pixels else super().extras(pixels)

    def _tile_counts(self, pixels: dict[str, Tensor]) -> list[int]:
        if int(pixels["batch_num_images"][0]) > 1:
            return [1] * len(pixels["image_sizes"])
        return super()._tile_counts(pixels)

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        inputs = super().assemble(pixels, ids, request, "anyres")
        inputs.resample = self._resample(pixels, request)
        return inputs

    def order(self, pixels: dict[str, Tensor], request: Request, layout: Layout) -> Tensor | None:
        """Where transformers puts the patches; behind a resampling, the base tile, and the rows of
        the others with their newlines."""
        import torch

        encoder = request.encoder
        assert encoder is not None
        if VIDEO in pixels:
            return torch.arange(request.visual)  # the newline is the last
        if not encoder.resampled:
            return super().order(pixels, request, layout)
        base, joined = request.segments
        rows = torch.arange(joined.patches).view(joined.height, -1)
        newline = torch.full((joined.height, 1), joined.patches)
        order = torch.cat([rows, newline], 1).flatten() + base.tokens
        return torch.cat([torch.arange(base.tokens), order])

    def _resample(self, pixels: dict[str, Tensor], request: Request) -> Resample | None:
        """How the joined tiles are scaled down, or frames; None where tiles are few enough."""
        encoder, joined = request.encoder, request.segments[-1]
        assert encoder is not None
        if not encoder.resampled:
            return None
        if VIDEO in pixels:
            return functools.partial(halved, side=encoder.side)
        height, width = pixels["image_sizes"][0].tolist()
        return functools.partial(
            scale_down,
            crops=encoder.crops,
            side=encoder.side,
            before=joined_size(self.shape, (height, width)),
            after=(joined.height, joined.width - 1),
        )

    def _pack_options(self) -> dict[str, Any]:
        return {"vision_aspect_ratio": self.module.config.vision_aspect_ratio}


def joined_size(shape: Shape, size: Size) -> Size:
    """Rows and columns of patches of the joined tiles of a picture, without padding."""
    rows, columns = tile_grid(shape, *size)
    side = shape.vision.side
    return unpadded(rows * side, columns * side, size)


def scaled_size(shape: Shape, height: int, width: int) -> Size:
    """Rows and columns of the visual tokens that joined tiles of so many patches become."""
    ratio = math.sqrt(height * width / (shape.most_tiles * shape.vision.side**2))
    return (int(height // ratio), int(width // ratio)) if ratio > SCALED_FROM else (height, width)


def scale_down(values: Tensor, *, crops: Size, side: int, before: Size, after: Size) -> Tensor:
    """Values [B, tiles * patches, c] of a base tile and of `crops` tiles: those of the base tile,
    and those of the others, joined, cut to the `before` rows and columns in their middle and scaled
    to `after`, [B, n, c]."""
    import torch
    from torch.nn.functional import interpolate

    (rows, columns), (height, width) = crops, before
    batch, _, channels = values.shape
    base, tiles = values[:, : side**2], values[:, side**2 :]
    grid = tiles.reshape(batch, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
    grid = grid.reshape(batch, channels, rows * side, columns * side)
    top, left = (rows * side - height) // 2, (columns * side - width) // 2
    grid = grid[:, :, top : top + height, left : left + width]
    joined = interpolate(grid, after, mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat([base, joined], 1)


def halved(values: Tensor, *, side: int) -> Tensor:
    """Values [B, frames * patches, c] of frames, each scaled to half its sides, rounded up."""
    from torch.nn.functional import interpolate

    batch, _, channels = values.shape
    frames = values.reshape(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()
    half = interpolate(frames, (math.ceil(side / 2),) * 2, mode="bilinear")
    return half.flatten(2).transpose(1, 2).reshape(batch, -1, channels)


def whole_tile(shape: Shape) -> tuple[Segment, ...]:
    """One of several pictures: a tile, and a newline behind it."""
    side = shape.vision.side
    return Segment(side, side), Segment(1, 1, newline=True)
