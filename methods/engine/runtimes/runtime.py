"""Under what the decoder layers run: eager, decode as a CUDA graph, or compiled.

A runtime belongs to one series of requests (one method, policy and workload) and is never mixed:
where it cannot do what its name says, it runs eagerly from then on and says why in `fallback`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from ...contract.policies import RuntimeName
from ..attention import Attention, in_force, tower_interface
from ..decode import decode
from ..decoder import Decoder
from ..layer import PositionEmbeddings, call_layer
from ..prefill import Prompt, prefill

if TYPE_CHECKING:
    from ..context import Context

Result = TypeVar("Result")


class Runtime:
    """The eager runtime, and what the others change of it.

    fallback: why it runs eagerly although its name says otherwise; "" while it does not.
    eager_prefill: why vision and prefill alone do; "" while they do not.
    """

    name: RuntimeName = "eager"

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.fallback = ""
        self.eager_prefill = ""

    @property
    def setups(self) -> dict[str, int]:
        """How often it has compiled or captured so far: not to be done in a timed request."""
        return {}

    def hidden_bytes(self) -> int:
        """Bytes that it uses and torch's allocator does not count as given out."""
        return 0

    def request(self, once: Callable[[], Result]) -> Result:
        """What `once`, a whole request, gives. It may be run a second time after a fallback."""
        return once()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The engine's attention under the decoder and the vision tower, while a request runs."""
        tower = tower_interface(self.decoder.backend)
        with (
            in_force(self.decoder.vision_config, name=tower),
            in_force(self.decoder.text_config),
        ):
            yield

    def new_cache(self) -> Any:
        """An empty cache: `layers[i].keys` and `.values` are [B, Hkv, tokens, head_dim]."""
        from transformers import DynamicCache

        return DynamicCache()

    def layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        cache: Any,
        position_embeddings: PositionEmbeddings,
        attention: Attention,
    ) -> Tensor:
        """Decoder layer `index` on hidden [B, S, d]: [B, S, d]."""
        return call_layer(self.decoder.layers[index], hidden, cache, position_embeddings, attention)

    def prefill(self, context: Context) -> Prompt:
        """From pixels to the first token, telling the laps of vision, prefill and head."""
        return prefill(context)

    def decode(
        self, context: Context, cache: Any, tokens: list[Tensor], new_tokens: int
    ) -> list[Tensor]:
        """Greedy decode, appending to `tokens`; returns the logits [B, vocabulary] of each step.

        Afterwards `cache` holds the keys and values of all tokens but the last.
        """
        return decode(context, cache, tokens, new_tokens)
