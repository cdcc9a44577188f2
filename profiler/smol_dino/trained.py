"""What was trained: the projector, and low-rank changes of the language model's products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RANKS = {
    "self_attn.q_proj": 12,
    "self_attn.k_proj": 12,
    "self_attn.v_proj": 12,
    "self_attn.o_proj": 12,
    "mlp.gate_proj": 8,
    "mlp.up_proj": 8,
    "mlp.down_proj": 8,
}
SCALE = 2.0  # of each change
PROJECTOR = "projector."


def save(path: Path, projector: Any, changes: dict[str, Any]) -> None:
    """Write the weights of a projector and the factors of the changes, in half precision."""
    import torch
    from safetensors.torch import save_file

    held = {f"{PROJECTOR}{name}": value for name, value in projector.state_dict().items()}
    halves = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in {**held, **changes}.items()
    }
    save_file(halves, path)


def apply(module: Any, path: Path) -> None:
    """Give a LLaVA what was trained; raises KeyError for a file of another model."""
    import torch
    from safetensors.torch import load_file

    held = load_file(path)
    language, projector = module.model.language_model, module.model.multi_modal_projector
    with torch.no_grad():
        for name, value in projector.state_dict().items():
            value.copy_(held.pop(f"{PROJECTOR}{name}"))
        for index, layer in enumerate(language.layers):
            for name in RANKS:
                a, b = (held.pop(f"layers.{index}.{name}.{factor}").float() for factor in "ab")
                layer.get_submodule(name).weight += SCALE * (b @ a)
    if held:
        raise KeyError(next(iter(held)))
