"""Tensor parallelism as transformers does it: its plan, its sharded modules, its collectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ....methods.engine.ranks import Ranks

ATTENTION = "layers.*.self_attn.k_proj"


@dataclass(frozen=True)
class Sharding:
    """A model of this shape over ranks: this process is one of `ranks`, and torch.distributed has
    begun."""

    shape: Shape
    ranks: Ranks

    @property
    def config(self) -> Any:
        """What transformers is told of it."""
        from transformers.distributed.configuration_utils import DistributedConfig

        return DistributedConfig(tp_size=self.ranks.size)

    def apply(self, module: Any) -> None:
        """Spread a model that has no memory yet, as transformers does when it loads one. Raises as
        `require_plan`."""
        self.require_plan(module)
        kind = type(module)
        config, _, mesh = kind.prepare_distribute_model(self.config)
        kind.maybe_distribute_model(module, config, mesh)

    def require_plan(self, module: Any) -> None:
        """Raises ModelError where transformers cannot spread a model, and ShapeError where these
        ranks cannot share it. module: of transformers, without memory."""
        plan: dict[str, str] = getattr(module, "tp_plan", None) or {}
        if not any(key.endswith(ATTENTION) for key in plan):
            kind = module.config.get_text_config().model_type
            raise ModelError(
                f"{self.shape.name}: this transformers has no tensor-parallel plan for its decoder "
                f"({kind})"
            )
        self.shape.share(self.ranks.size)


def spreads_words(module: Any) -> bool:
    """Whether the head of a model of transformers is spread, and its embedding with it."""
    return _is_spread(module.lm_head.weight)


def shard_of(whole: nn.Parameter | None, planned: Any) -> nn.Parameter | None:
    """This rank's share of a weight, in memory of its own, where `planned` is spread; else all of
    it."""
    if whole is None or not _is_spread(planned):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = planned.device_mesh, planned.placements
    local = distribute_tensor(whole.data, mesh, placements, src_data_rank=None).to_local()
    own = DTensor.from_local(
        local.clone(), mesh, placements, shape=planned.shape, stride=planned.stride()
    )
    return type(whole)(own, requires_grad=False)


def _is_spread(weight: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)
