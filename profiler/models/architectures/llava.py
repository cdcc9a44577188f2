"""LLaVA-1.5: CLIP tower, or DINOv2's, two-layer projector, Llama decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....methods.contract.request import Encoder, Request, Segment, Size
from ....reports.record.kept import Region
from ....reports.record.spec import Layout
from ..architecture import Architecture, at_work, require_equal, text_keys, whole_picture
from ..checkpoint.reader import Reader
from ..model import Model
from ..registry import register_architecture
from ..shapes import Projector, Shape, Text, Vision
from ..towers.clip import CLIP_LARGE, MICRO_CLIP, SMALL_CLIP, ClipBlock, clip_config, clip_from
from ..towers.dinov2 import DINOV2, Dinov2Block, dinov2_config, dinov2_from

if TYPE_CHECKING:
    from torch import Tensor

    from ....methods.engine.decoder import BlockRunner, Inputs, TowerBlock

VICUNA_VOCABULARY = 32064  # 32000 and the placeholders that the converted checkpoints add
VICUNA_7B = Text(32, 4096, 11008, 32, 32, VICUNA_VOCABULARY)
VICUNA_13B = Text(40, 5120, 13824, 40, 40, VICUNA_VOCABULARY)
SMALL_TEXT = Text(16, 320, 864, 5, 5, 12288)
MICRO_TEXT = Text(8, 64, 112, 4, 4, 512)
TOWERS = {"clip_vision_model": clip_from, DINOV2: dinov2_from}


@register_architecture
class Llava(Architecture):
    """One tile a picture; the visual tokens are its patches in raster order."""

    name = "llava"
    model_type = "llava"
    class_name = "LlavaForConditionalGeneration"
    image_processor = "CLIPImageProcessorPil"
    image_token_key = "image_token_index"

    def shapes(self) -> tuple[Shape, ...]:
        return (
            self.shape("tiny-llava", SMALL_TEXT, SMALL_CLIP, about="576 visual tokens"),
            self.shape("llava-1.5-7b", VICUNA_7B, CLIP_LARGE, about="Vicuna-7B, 576 visual tokens"),
            self.shape(
                "llava-1.5-13b", VICUNA_13B, CLIP_LARGE, about="Vicuna-13B, 576 visual tokens"
            ),
        )

    def micro(self) -> Shape:
        return self.shape("micro-llava", MICRO_TEXT, MICRO_CLIP)

    def shape(
        self,
        name: str,
        text: Text,
        vision: Vision,
        pinpoints: tuple[Size, ...] = (),
        about: str = "",
        *,
        bias: bool = True,
    ) -> Shape:
        """A shape with the projector of this architecture. bias: of its products."""
        inputs = len(vision.feature_layers) * vision.hidden
        projector = Projector(inputs, text.hidden, text.hidden, bias, newline=bool(pinpoints))
        return Shape(name, self, text, vision, projector, pinpoints, about=about)

    def config(self, shape: Shape) -> Any:
        from transformers import LlavaConfig

        return LlavaConfig(**self.config_options(shape))

    def config_options(self, shape: Shape) -> dict[str, Any]:
        """Sections and keys of the transformers config."""
        from transformers import LlamaConfig

        text, vision = shape.text, shape.vision
        tower = dinov2_config if vision.scaled else clip_config
        return {
            "text_config": LlamaConfig(
                **text_keys(text),
                rms_norm_eps=1e-5,
            ),
            "vision_config": tower(vision),
            "image_token_index": min(32000, text.vocabulary - 1),
            "image_seq_length": vision.side**2,
        }

    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        kind = given.vision_config.model_type
        if kind not in TOWERS:
            Reader(name, "vision_config", given.vision_config).refuse(
                f"the tower {kind!r} is not supported; known: {', '.join(TOWERS)}"
            )
        bias = bool(given.multimodal_projector_bias)
        return self.shape(name, text, TOWERS[kind](name, given), bias=bias)

    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        return (Segment(shape.vision.side, shape.vision.side),)

    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        return self.tiles(shape, 1)

    def tiles(
        self, shape: Shape, count: int, crops: Size = (0, 0), *, mergeable: bool = True
    ) -> Encoder:
        """The tower at work on `count` tiles."""
        return at_work(shape.vision, count, crops, mergeable=mergeable)

    def processor_options(self, shape: Shape) -> dict[str, Any]:
        side = shape.vision.image
        return {
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
        }

    def fitted(self, name: str, shape: Shape, processor: Any) -> Shape:
        cuts = getattr(processor, "do_center_crop", None)
        cut = dict(getattr(processor, "crop_size" if cuts else "size", None) or {})
        sides = [cut.get(key, cut.get("shortest_edge")) for key in ("height", "width")]
        require_equal(name, "tiles of", sides, [shape.vision.image] * 2)
        return shape

    def regions(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> list[Region]:
        """The picture is resized, then the middle square is cut out."""
        (height, width), side = size, min(size)
        region = whole_picture(self.segments(shape, size, layout)[0])
        x, y = (1 - side / width) / 2, (1 - side / height) / 2
        region.left, region.top, region.right, region.bottom = x, y, 1 - x, 1 - y
        return [region]

    def adapter(self) -> type[Model]:
        return LlavaModel


class LlavaModel(Model):
    """See `Llava`."""

    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        import torch

        layers = self.tower_layers
        pixels = self.tiles_of(inputs)
        if pixels.dim() == 5:
            pixels = pixels.flatten(0, 1)
        if "tiles" in inputs.extras:
            pixels = pixels[inputs.extras["tiles"]]
        hidden = self.patch_embeddings(pixels)
        wanted = self._feature_layers(len(layers))
        features = {0: hidden} if 0 in wanted else {}
        for index, layer in enumerate(layers):
            hidden = tower(index, self.block(layer), hidden)
            if index + 1 in wanted:
                features[index + 1] = hidden
        patches = torch.cat([self.patches(features[index]) for index in wanted], -1)
        tower.leave(patches)
        projected: Tensor = self.module.model.multi_modal_projector(patches)
        return projected.reshape(inputs.request.batch, -1, projected.shape[-1])

    def tiles_of(self, inputs: Inputs) -> Tensor:
        """Pixels of tiles, or of samples of tiles."""
        return inputs["pixel_values"]

    def patch_embeddings(self, pixels: Tensor) -> Tensor:
        """What the first layer of the tower is given of pixels [tiles, 3, side, side]."""
        vision = self.module.model.vision_tower
        embedded: Tensor = vision.embeddings(pixels)
        if self.vision_config.model_type != DINOV2:
            embedded = vision.pre_layrnorm(embedded)
        return embedded

    @property
    def tower_layers(self) -> Any:
        """The layers of the tower, first to last."""
        encoder = self.module.model.vision_tower.encoder
        return encoder.layer if self.vision_config.model_type == DINOV2 else encoder.layers

    def block(self, layer: Any) -> TowerBlock:
        """A layer of the tower as the engine runs it."""
        return (Dinov2Block if self.vision_config.model_type == DINOV2 else ClipBlock)(layer)

    def patches(self, hidden: Tensor) -> Tensor:
        """Tower states [tiles, tokens, width] without the class token."""
        return hidden[:, 1:]

    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        return [self.tile_tokens(pixels)] * len(pixels["pixel_values"])

    def tile_tokens(self, pixels: dict[str, Tensor]) -> int:
        """Visual tokens of one tile."""
        values, patch = pixels["pixel_values"], self.shape.vision.patch
        return int((values.shape[-2] // patch) * (values.shape[-1] // patch))

    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        from ....methods.engine.decoder import Inputs

        return Inputs(
            {"input_ids": ids, **pixels},
            request=request,
            positions=self.text_positions(request),
            next_position=request.length,
            order=self.order(pixels, request, layout),
            extras=self.extras(pixels),
        )

    def order(self, pixels: dict[str, Tensor], request: Request, layout: Layout) -> Tensor | None:
        """See Inputs.order; patches as they come need none."""
        return None

    def extras(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        """See Inputs.extras; `tiles` says which of the tiles are there, where some are padding."""
        return {}

    def _feature_layers(self, depth: int) -> list[int]:
        chosen: Any = self.module.config.vision_feature_layer
        layers = [chosen] if isinstance(chosen, int) else list(chosen)
        return [layer % (depth + 1) for layer in layers]
