"""Qwen2-VL: a tower over any resolution, a 2x2 merger, a decoder with M-RoPE."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Encoder, Request, Segment, Size, VisualSpan
from ....reports.record.spec import Layout
from ..architecture import Architecture, require_equal, text_keys
from ..checkpoint.reader import MOST, Reader
from ..checkpoint.rotary import require_mrope_section
from ..decoders.qwen2 import MICRO_QWEN2, SMALL_QWEN2, qwen2_text
from ..errors import ModelError
from ..model import Model
from ..registry import register_architecture
from ..shapes import Projector, Shape, Text, Vision
from ..towers.qwen import QwenBlock, bounded_size, dynamic_size, tower_options

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ....methods.engine.decoder import BlockRunner, Inputs

LEAST_PIXELS, MOST_PIXELS = 56 * 56, 28 * 28 * 1280
MOST_PUBLISHED = 28 * 28 * 16384  # as the published checkpoints' preprocessor_config.json says
ABOUT = "grouped heads, M-RoPE, dynamic resolution"


@register_architecture
class Qwen2VL(Architecture):
    """One picture of any resolution; the visual tokens are its merged patches in raster order."""

    name = "qwen2-vl"
    model_type = "qwen2_vl"
    class_name = "Qwen2VLForConditionalGeneration"
    image_processor = "Qwen2VLImageProcessorPil"
    compactable = False
    usual_video_pixels = (28 * 28 * 128, 28 * 28 * 768)
    """Where a checkpoint says nothing, as transformers' video processor has them."""
    between = 2  # the end of one vision part, and the start of the next
    flat_config = True

    def shapes(self) -> tuple[Shape, ...]:
        small, published = (
            self.tower(4, 256, 1024, 4),
            self.tower(32, 1280, 5120, 16, MOST_PUBLISHED),
        )
        return (
            self.shape("tiny-qwen2-vl", SMALL_QWEN2, small, ABOUT),
            self.shape("qwen2-vl-7b", qwen2_text(28, 3584, 18944, 28, 4, 152064), published, ABOUT),
            self.shape(
                "qwen2-vl-72b", qwen2_text(80, 8192, 29568, 64, 8, 152064), published, ABOUT
            ),
        )

    def micro(self) -> Shape:
        text = MICRO_QWEN2
        return self.shape("micro-qwen2-vl", text, self.tower(4, 48, 96, 3))

    def tower(
        self,
        layers: int,
        hidden: int,
        intermediate: int,
        heads: int,
        most_pixels: int = MOST_PIXELS,
        *,
        patch: int = 14,
        merge: int = 2,
        temporal: int = 2,
    ) -> Vision:
        """A tower of this architecture."""
        return Vision(
            layers,
            hidden,
            intermediate,
            heads,
            patch=patch,
            image=0,
            merge=merge,
            temporal=temporal,
            feature_layers=(-1,),
            least_pixels=LEAST_PIXELS,
            most_pixels=most_pixels,
            video_pixels=(LEAST_PIXELS, most_pixels),
            class_token=False,
            joined=True,
            rotary=True,
        )

    def shape(self, name: str, text: Text, vision: Vision, about: str = "") -> Shape:
        """A shape with the merger of this architecture."""
        joined = vision.hidden * vision.merge**2
        projector = Projector(
            joined, joined, text.hidden, normed=vision.hidden, norm_vectors=vision.norm_vectors
        )
        return Shape(name, self, text, vision, projector, about=about)

    def config(self, shape: Shape) -> Any:
        from transformers import Qwen2VLConfig

        vision = shape.vision
        return Qwen2VLConfig(
            text_config=text_options(shape.text),
            vision_config={
                **tower_options(vision),
                "embed_dim": vision.hidden,
                "hidden_size": shape.text.hidden,
                "mlp_ratio": vision.intermediate // vision.hidden,
            },
            **special_tokens(shape.text),
        )

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        require_mrope_section(name, given.text_config, text.head_dim)
        return self.shape(name, text, self._tower_from(name, given, text))

    def _tower_from(self, name: str, given: Any, text: Text) -> Vision:
        reader = Reader(name, "vision_config", given.vision_config)
        reader.require("in_channels", 3)
        reader.activation("hidden_act")
        reader.require("hidden_size", text.hidden)
        width, ratio = reader.count("embed_dim", MOST["width"]), given.vision_config.mlp_ratio
        if not isinstance(ratio, (int, float)) or not 0 < ratio <= MOST["width"]:
            reader.refuse(f"mlp_ratio is {ratio!r}")
        return self.tower(
            reader.count("depth", MOST["layers"]),
            width,
            int(width * ratio),
            reader.count("num_heads", MOST["heads"]),
            patch=reader.count("patch_size", MOST["pixels"]),
            merge=reader.count("spatial_merge_size", 64),
            temporal=reader.count("temporal_patch_size", 64),
        )

    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        rows, columns = dynamic_size(shape, *size)
        return (Segment(rows // shape.vision.unit, columns // shape.vision.unit),)

    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        return self.at_work(shape, dynamic_size(shape, *size))

    def at_work(self, shape: Shape, size: Size, tiles: int = 1) -> Encoder:
        """The vision tower at work on `tiles` pictures or frames that were resized to `size`."""
        (rows, columns), vision = size, shape.vision
        return Encoder(
            tiles=tiles,
            patches=(rows // vision.patch) * (columns // vision.patch),
            layers=vision.layers,
            width=vision.hidden,
            has_cls=False,
            mergeable=False,
            heads=vision.heads,
        )

    def video(self, shape: Shape, frames: int, size: Size) -> tuple[VisualSpan, ...]:
        """One span: frames stand one behind another, as many as a patch spans in one segment."""
        rows, columns = self.frame_size(shape, frames, size)
        unit = shape.vision.unit
        segment = Segment(rows // unit, columns // unit, frame=True)
        return (VisualSpan(0, (segment,) * grids(shape, frames)),)

    def video_encoder(self, shape: Shape, frames: int, size: Size) -> Encoder:
        resized = self.frame_size(shape, frames, size)
        return self.at_work(shape, resized, tiles=grids(shape, frames))

    def frame_size(self, shape: Shape, frames: int, size: Size) -> Size:
        """The size in pixels to which each frame of a video is resized. Raises ShapeError."""
        return bounded_size(shape, size, *shape.vision.video_pixels)

    def positions(self, segments: tuple[Segment, ...]) -> int:
        """As many as the longer side of the grid (M-RoPE)."""
        return max(max(segment.height, segment.width) for segment in segments)

    def reach(self, shape: Shape, segments: tuple[Segment, ...]) -> int:
        """In time a long video reaches beyond its sides, and the text behind it does not wait."""
        lasts = (len(segments) - 1) * shape.vision.frame_step + 1
        return max(self.positions(segments), lasts)

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        """The area in pixels is given outright: transformers 5.17 takes the bounds of any
        checkpoint that was loaded before for its default."""
        vision = shape.vision
        return {
            "size": {"shortest_edge": vision.least_pixels, "longest_edge": vision.most_pixels},
            "patch_size": vision.patch,
            "merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
        }

    def fitted(self, name: str, shape: Shape, processor: Any) -> Shape:
        vision = shape.vision
        for key, wanted in (
            ("patch_size", vision.patch),
            ("merge_size", vision.merge),
            ("temporal_patch_size", vision.temporal),
        ):
            require_equal(name, key, getattr(processor, key, None), wanted)
        size = dict(getattr(processor, "size", None) or {})
        least, most = size.get("shortest_edge"), size.get("longest_edge")
        if not (isinstance(least, int) and isinstance(most, int) and 0 < least <= most):
            raise ModelError(
                f"{name}: its image processor gives no least and most pixels (shortest_edge and "
                f"longest_edge), but {size}"
            )
        vision = dataclasses.replace(vision, least_pixels=least, most_pixels=most)
        return dataclasses.replace(shape, vision=vision)

    def fitted_video(self, name: str, shape: Shape, described: dict[str, Any]) -> Shape:
        vision, usual = shape.vision, self.usual_video_pixels
        for key, wanted in (
            ("patch_size", vision.patch),
            ("merge_size", vision.merge),
            ("temporal_patch_size", vision.temporal),
        ):
            require_equal(name, f"(for videos) {key}", described.get(key, wanted), wanted)
        size = described.get("size") or {}
        least = described.get("min_pixels", size.get("shortest_edge", usual[0]))
        most = described.get("max_pixels", size.get("longest_edge", usual[1]))
        if not (isinstance(least, int) and isinstance(most, int) and 0 < least <= most):
            raise ModelError(
                f"{name}: its video processor gives no least and most pixels (shortest_edge and "
                f"longest_edge), but {size}"
            )
        vision = dataclasses.replace(vision, video_pixels=(least, most))
        return dataclasses.replace(shape, vision=vision)

    def adapter(self) -> type[Model]:
        return Qwen2VLModel


class Qwen2VLModel(Model):
    """See `Qwen2VL`."""

    @property
    def image_text(self) -> str:
        return "<|vision_start|><|image_pad|><|vision_end|>"

    @property
    def packs(self) -> bool:
        """Whether the tower hands all pictures or windows over in one call of attention."""
        return self.backend.startswith("flash")

    def patches(self, inputs: Inputs) -> Tensor:
        """Patches of pictures, or of a video, embedded: [patches, width]."""
        found = inputs.get("pixel_values_videos", inputs.get("pixel_values"))
        assert found is not None
        embedded: Tensor = self.module.model.visual.patch_embed(found.to(self.dtype))
        return embedded

    def ends(self, inputs: Inputs, name: str) -> tuple[Tensor | None, int | None]:
        """Where pictures or windows end, where the attention backend wants it, and their longest,
        which FlashAttention alone asks for."""
        on_host: Tensor | None = getattr(inputs, name)
        if on_host is None or name not in inputs.extras:
            return on_host, None
        return inputs.extras[name], int(on_host.diff().max())

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        visual, hidden = self.module.model.visual, self.patches(inputs)
        rotary = visual.rotary_pos_emb(hidden, inputs.extras["vision_positions"])
        ends, longest = self.ends(inputs, "sequence_ends")
        for index, layer in enumerate(visual.blocks):
            hidden = tower(index, QwenBlock(layer, ends, rotary, longest), hidden)
        tower.leave(hidden)
        merged: Tensor = visual.merger(hidden)
        return merged.view(inputs.request.batch, -1, merged.shape[-1])

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        merged = self.shape.vision.merge**2
        return [
            frames * rows * columns // merged for frames, rows, columns in grid_of(pixels).tolist()
        ]

    def video_pixels(self, videos: list[list[Image.Image]]) -> dict[str, Tensor]:
        """Frames are resized and normalised as pictures are, by the same image processor: that of
        videos needs torchvision."""
        import torch

        done = [self._video(frames) for frames in videos]
        return {
            "pixel_values_videos": torch.cat([patches for patches, _ in done]),
            "video_grid_thw": torch.tensor([grid for _, grid in done]),
        }

    def _video(self, frames: list[Image.Image]) -> tuple[Tensor, list[int]]:
        """Patches [n, values] of a video, each of as many frames as one spans, and its grid."""
        import torch
        from PIL.Image import Resampling

        shape, vision = self.shape, self.shape.vision
        size = frames[0].height, frames[0].width
        architecture = shape.architecture
        assert isinstance(architecture, Qwen2VL)
        rows, columns = architecture.frame_size(shape, len(frames), size)
        resized = [frame.resize((columns, rows), Resampling.BICUBIC) for frame in frames]
        resized += resized[-1:] * (-len(frames) % vision.temporal)
        given = self.image_processor(images=resized, do_resize=False, return_tensors="pt")
        # Of each frame's patches [n, 3, temporal, pixels], which repeat it, one time is taken.
        alone = given["pixel_values"].unflatten(-1, (3, vision.temporal, -1))
        alone = alone.view(-1, vision.temporal, len(alone) // len(resized), *alone.shape[1:])
        times = [alone[:, time, :, :, time] for time in range(vision.temporal)]
        patches = torch.stack(times, 3).flatten(3).flatten(0, 1).flatten(1)
        return patches, [len(alone), rows // vision.patch, columns // vision.patch]

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

        from ....methods.engine.decoder import Inputs

        grid = grid_of(pixels)
        kinds = (ids == self.image_token).int() + 2 * (ids == self.video_token).int()
        sizes = {name: value for name, value in pixels.items() if "pixel_values" not in name}
        positions, deltas = self.module.model.get_rope_index(ids, kinds, **sizes)
        merge = self.module.config.vision_config.spatial_merge_size
        ends = get_vision_cu_seqlens(grid)
        on_device = {"sequence_ends": ends} if self.packs else {}
        return Inputs(
            {"input_ids": ids, "mm_token_type_ids": kinds, **pixels},
            request=request,
            positions=positions,
            next_position=request.length + int(deltas[0]),
            extras={"vision_positions": get_vision_position_ids(grid, merge), **on_device},
            sequence_ends=ends,
        )

    def text_positions(self, request: Request) -> Tensor:
        import torch

        return torch.arange(request.length).expand(3, request.batch, -1)


def text_options(text: Text) -> dict[str, Any]:
    """The text section of the transformers config."""
    published = is_published(text)
    return {
        **text_keys(text),
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643 if published else 1,
        "eos_token_id": 151645 if published else 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": mrope_section(text.head_dim),
        },
    }


def special_tokens(text: Text) -> dict[str, Any]:
    """Ids of the placeholders, and of what stands around them."""
    special = text.vocabulary - 1
    published = is_published(text)
    return {
        "image_token_id": 151655 if published else special,
        "video_token_id": 151656 if published else special - 1,
        "vision_start_token_id": 151652 if published else special - 2,
        "vision_end_token_id": 151653 if published else special - 3,
    }


def is_published(text: Text) -> bool:
    """Whether the vocabulary holds the published special tokens."""
    return text.vocabulary > 151656


def mrope_section(head_dim: int) -> list[int]:
    """Frequencies given to time, height and width: a quarter, and three eighths twice."""
    quarter = head_dim // 8
    side = (head_dim // 2 - quarter) // 2
    return [head_dim // 2 - 2 * side, side, side]


def layer_numbers(reader: Reader, key: str, layers: int) -> tuple[int, ...]:
    """The layers of a tower that a key of its config names; refused where it has none such."""
    listed = getattr(reader.config, key)
    known = isinstance(listed, (list, tuple)) and all(
        type(number) is int and 0 <= number < layers for number in listed
    )
    if not known or len(set(listed)) < len(listed):
        reader.refuse(
            f"{key} is {listed!r}; known: numbers of layers, 0 to {layers - 1}, each once"
        )
    return tuple(listed)


def grid_of(pixels: dict[str, Tensor]) -> Tensor:
    """Patches of each picture or video [n, 3]: in time, height and width."""
    return pixels["video_grid_thw" if "video_grid_thw" in pixels else "image_grid_thw"]


def grids(shape: Shape, frames: int) -> int:
    """Grids of patches that so many frames become; what is left over makes one of its own."""
    return -(-frames // shape.vision.temporal)
