"""LLaVA with DINOv2's tower: vanilla is transformers' forward, and methods read its class token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_models import MICRO_DINO, config, sharpen

import tpprof
from tpprof.profiler.models.configs import from_config
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.model import Model

SIZE = (84, 84)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    made = tpprof.load(MICRO_DINO, device="cpu", seed=1)
    sharpen(made)
    with torch.no_grad():  # all alike as they are drawn: a mistake with them would not be seen
        for name, weight in made.module.named_parameters():
            if "lambda1" in name or "cls_token" in name:
                weight.normal_(0.5, 0.3)
            if name.endswith(("query.weight", "key.weight")):
                weight.mul_(6.0)
    return made


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tower made for pictures of 112 pixels, which gets pictures of 84."""
    given: Any = config(MICRO_DINO)
    given.vision_config.image_size = 112
    given.vision_config.use_mask_token = True
    torch.manual_seed(3)
    from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("dino") / "stretched"
    LlavaForConditionalGeneration(given).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84}
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_vanilla_is_transformers_forward(model: Model, backend: str) -> None:
    other = tpprof.load(MICRO_DINO, device="cpu", backend=backend)
    other.module.load_state_dict(model.module.state_dict())
    inputs = tpprof.inputs(other, image_size=SIZE, text_tokens=(7, 5), batch_size=2)
    trace = tpprof.forward(other, inputs, "vanilla")
    expected = other.module(**inputs).logits[:, -1]
    torch.testing.assert_close(trace.logits, expected, rtol=0, atol=1e-4)


def test_positions_are_stretched_as_transformers_does(stretched: Path) -> None:
    shape = shape_of(str(stretched))
    assert (shape.vision.image, shape.vision.side) == (84, 6)
    loaded = tpprof.load(str(stretched), device="cpu")
    inputs = tpprof.inputs(loaded, image_size=(200, 120), text_tokens=(7, 5))
    assert inputs.request.visual == 36
    trace = tpprof.forward(loaded, inputs, "vanilla")
    expected = loaded.module(**inputs).logits[:, -1]
    torch.testing.assert_close(trace.logits, expected, rtol=0, atol=1e-4)


def test_a_method_reads_the_class_tokens_attention(model: Model) -> None:
    """The patches that FasterVLM keeps are those that the class token attends to most, by a map
    that is worked out here."""
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(7, 5))
    trace = tpprof.forward(model, inputs, "fastervlm:keep=6")
    tower = model.module.model.vision_tower
    hidden = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    layer = model.tower_layers[-2]  # type: ignore[attr-defined]
    attention = layer.attention
    own = getattr(attention, "attention", attention)
    query, key = (
        getattr(own, new if hasattr(own, new) else old)(layer.norm1(hidden[-3]))
        .unflatten(-1, (3, 16))
        .transpose(1, 2)
        for new, old in (("q_proj", "query"), ("k_proj", "key"))
    )
    mapped = (query[:, :, :1] @ key.transpose(2, 3) / 4).softmax(-1).mean((1, 2))[0, 1:]
    assert trace.kept[0][0].tolist() == sorted(mapped.topk(6).indices.tolist())


def test_parameters_are_those_that_transformers_makes(model: Model, stretched: Path) -> None:
    assert MICRO_DINO.parameters == sum(weight.numel() for weight in model.module.parameters())
    assert shape_of(str(stretched)).parameters > MICRO_DINO.parameters


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("use_swiglu_ffn", True, "use_swiglu_ffn True is not supported; known: False"),
        ("num_channels", 4, "num_channels 4 is not supported"),
        ("mlp_ratio", 0, "mlp_ratio is 0"),
    ],
)
def test_another_tower_is_refused_by_name(key: str, value: Any, told: str) -> None:
    given: Any = config(MICRO_DINO)
    setattr(given.vision_config, key, value)
    with pytest.raises(ModelError, match=told):
        from_config("some", MICRO_DINO.architecture, given)


def test_patches_must_be_those_of_a_square() -> None:
    given: Any = config(MICRO_DINO)
    given.image_seq_length = 35
    with pytest.raises(ModelError, match="image_seq_length is 35; known: the patches of a square"):
        from_config("some", MICRO_DINO.architecture, given)
