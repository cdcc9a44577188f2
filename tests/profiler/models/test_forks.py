"""A forked model is refused by name, however it was forked, and never measured as vanilla."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_models import MICRO

import tpprof
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.model import Model


def above(model: Model) -> dict[str, torch.nn.Module]:
    """The modules above the layers, by what the refusal calls them."""
    tower = "model.visual" if model.shape.vision.dynamic else "model.vision_tower"
    found = {"the model": model.module, "model": model.module.model}
    found |= {"model.language_model": model.language, tower: model.module.get_submodule(tower)}
    return found


def patched(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: own(*args, **kwargs))


def bound(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = types.MethodType(lambda self, *args, **kwargs: None, module)
    monkeypatch.setattr(module, "forward", forward)


def replaced(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(module), "forward", lambda self, *args, **kwargs: None)


def hooked(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module.register_forward_hook(lambda *_: None)


def hooked_before(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module.register_forward_pre_hook(lambda *_: None)


def subclassed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module.__class__ = type("Pruned", (type(module),), {"__module__": "my_fork"})


FORKS = [patched, bound, replaced, hooked, hooked_before, subclassed]


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("architecture", MICRO)
def test_a_fork_is_refused(
    architecture: str,
    fork: Callable[[Any, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = MICRO[architecture]
    for path in above(tpprof.load(shape, device="cpu")):
        model = tpprof.load(shape, device="cpu")
        inputs = tpprof.inputs(model, text_tokens=(4, 3))
        with monkeypatch.context() as patch:
            fork(above(model)[path], patch)
            for call in (
                lambda: tpprof.forward(model, inputs, new_tokens=1),  # noqa: B023
                lambda: tpprof.compare(["fastv"], model=model, rounds=1, text_tokens=(4, 3)),  # noqa: B023
            ):
                with pytest.raises(ModelError) as refused:
                    call()
                message = str(refused.value)
                assert message.startswith(f"{shape.name}: {path} (")
                assert "--callable MODULE:FUNCTION" in message
                assert "\n" not in message


def test_what_runs_inside_the_layers_runs_here_too() -> None:
    model = tpprof.load(MICRO["llava"], device="cpu")
    inputs = tpprof.inputs(model, text_tokens=(4, 3))
    seen: list[object] = []
    model.layers[3].register_forward_hook(lambda layer, *_: seen.append(layer))
    tpprof.forward(model, inputs, new_tokens=1)
    assert seen == [model.layers[3]]


def test_a_checkpoint_with_code_of_its_own(tmp_path: Path) -> None:
    model = tpprof.load(MICRO["llava"], device="cpu")
    model.module.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_mine.MyLlava"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | code))
    with pytest.raises(ModelError, match=r"brings code of its own \(auto_map\)"):
        tpprof.load(str(tmp_path), device="cpu")
