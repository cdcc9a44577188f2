"""A loaded model: the transformers module, and the engine's view of it. Imports torch when used."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...methods.contract.request import Request
from ...reports.record.spec import Layout
from .shapes import Shape, ShapeError
from .weights.spread import spreads_words

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from ...methods.engine.decoder import BlockRunner, Inputs
    from ...methods.engine.ranks import Ranks


RANDOM_WEIGHTS = "random weights"
"""The source of a shape's weights."""


class Model(ABC):
    """Implements the engine's Decoder protocol over a transformers model, `module`.

    `tokenizer` and `chat_template` are None for shapes with random weights; where a checkpoint
    lacks one, or its image processor, `missing` says why. `ranks`: the processes over which its
    decoder is spread; `share` is the shape of what this one has and computes. `devices`: of each
    decoder layer, more than one of a pipeline.
    """

    def __init__(
        self,
        module: Any,
        shape: Shape,
        *,
        backend: str,
        image_processor: Any,
        tokenizer: Any = None,
        chat_template: str | None = None,
        missing: dict[str, str] | None = None,
        source: str = RANDOM_WEIGHTS,
        ranks: Ranks | None = None,
    ) -> None:
        self.module = module.eval()
        self.shape = shape
        self.backend = backend
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.missing = missing or {}
        self.source = source
        self.ranks = ranks
        self.share = shape
        self.devices: Sequence[torch.device] = [
            next(layer.parameters()).device for layer in self.layers
        ]
        self.head_device: torch.device = self.module.lm_head.weight.device
        self._apart = len(set(self.devices)) > 1
        self._copies: dict[tuple[str, torch.device], nn.Module] = {}
        if ranks is not None:
            self.share = shape.share(ranks.size, words=spreads_words(module))

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def device(self) -> torch.device:
        weight: Tensor = next(self.module.parameters())
        return weight.device

    @property
    def pipeline(self) -> list[torch.device]:
        """The devices that it lies on, in turn; one for most models."""
        return list(dict.fromkeys(self.devices))

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor = next(self.module.parameters())
        return weight.dtype

    @property
    def text_config(self) -> Any:
        return self.module.config.text_config

    @property
    def vision_config(self) -> Any:
        return self.module.config.vision_config

    @property
    def language(self) -> Any:
        return self.module.model.language_model

    @property
    def layers(self) -> Sequence[nn.Module]:
        layers: Sequence[nn.Module] = self.language.layers
        return layers

    @property
    def newline(self) -> Tensor | None:
        return None

    @property
    def image_token(self) -> int:
        """The id of the placeholder that stands for a visual token."""
        return int(getattr(self.module.config, self.shape.architecture.image_token_key))

    @property
    def video_token(self) -> int:
        """The id of the placeholder that stands for a visual token of a video."""
        return int(self.module.config.video_token_id)

    @property
    def image_text(self) -> str:
        """What a prompt holds where the picture belongs, if the chat template does not say."""
        return "<image>"

    def framed(self, prompt: str) -> str:
        """A rendered prompt as the model's joint processor has it, one placeholder a picture."""
        return prompt

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.embed_tokens(ids)
        return embedded

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._near("rotary_emb", hidden)(hidden, positions)
        return cos, sin

    def norm(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self._near("norm", hidden)(hidden)
        return normed

    def _near(self, name: str, hidden: Tensor) -> nn.Module:
        """A small part of the decoder where `hidden` is: of a pipeline a copy on each device."""
        part: nn.Module = getattr(self.language, name)
        if not self._apart:
            return part
        key = (name, hidden.device)
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(part).to(hidden.device)
        return self._copies[key]

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.lm_head(self.norm(hidden))
        return logits

    @abstractmethod
    def encode(self, inputs: Inputs, tower: BlockRunner) -> Tensor:
        """Projected patches [B, tiles * patches, d]; see the Decoder protocol."""

    def pixels(self, images: list[Image.Image], each: int = 1) -> dict[str, Tensor]:
        """What the image processor makes of `images`, under transformers' names, on the host. each:
        how many of them a sample has."""
        return dict(self.image_processor(images=self.by_sample(images, each), return_tensors="pt"))

    def by_sample(self, images: list[Any], each: int) -> Any:
        """Pictures as the image processor is given them, `each` a sample."""
        return images

    def video_pixels(self, videos: list[list[Image.Image]]) -> dict[str, Tensor]:
        """What the model is given of the frames of `videos`, as `pixels` says of pictures."""
        raise ShapeError(f"{self.name} takes no video; give pictures (--image)")

    def video_start(self, before: list[int]) -> list[int]:
        """Token ids before a video, of those that the chat template puts there."""
        return before

    def video_text(self, request: Request) -> list[list[int]]:
        """Token ids between the frames of a video, one list for each break of the request."""
        return [[] for _ in request.breaks]

    @abstractmethod
    def visual_tokens(self, pixels: dict[str, Tensor], layout: Layout) -> list[int]:
        """How many visual tokens each of the processed pictures really gives."""

    @abstractmethod
    def assemble(
        self, pixels: dict[str, Tensor], ids: Tensor, request: Request, layout: Layout
    ) -> Inputs:
        """Inputs on the host from processed pictures and token ids [B, S] with placeholders."""

    def synthetic(self, request: Request, ids: Tensor, features: Tensor) -> Inputs:
        """Inputs whose visual tokens are given features [B, V, d]: the vision tower is skipped."""
        import torch

        from ...methods.engine.decoder import Inputs

        embedded = self.embed(ids.to(self.device))
        start, stop = request.before, request.before + request.visual
        parts = [embedded[:, :start], features.to(embedded), embedded[:, stop:]]
        positions = self.text_positions(request)
        return Inputs(
            {"inputs_embeds": torch.cat(parts, 1).detach(), "position_ids": positions},
            request=request,
            positions=positions,
            next_position=request.length,
        ).to(self.device)

    def text_positions(self, request: Request) -> Tensor:
        """Positions 0, 1, ... of the whole sequence, as `rotary` takes them."""
        import torch

        return torch.arange(request.length)[None]
