"""Vanilla is transformers' own forward: the same logits, the same tokens, the same cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tpprof
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.run import Trace
from tpprof.profiler.models.model import Model
from tpprof.tests.methods.reference import blocks_of

STEPS = 5
TEXT = (7, 5)
# Height and width of a picture; rows and columns that its joined tiles, 6 x 6 each, keep of it.
ANYRES = {
    (168, 168): (12, 12),
    (90, 84): (6, 6),
    (100, 168): (8, 12),
    (168, 100): (12, 8),
    (100, 400): (4, 12),
    (400, 100): (12, 4),
    (61, 200): (4, 12),
    (50, 160): (4, 12),
    (160, 50): (12, 4),
    (84, 1): (6, 0),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def generated(model: Model, tensors: dict[str, Tensor]) -> Any:
    """What transformers generates greedily: exactly STEPS tokens, whatever they are."""
    return model.module.generate(
        **tensors,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )


def assert_same(trace: Trace, model: Model, tensors: dict[str, Tensor]) -> None:
    """The trace of STEPS tokens against transformers' forward and generate on the same tensors."""
    close(trace.logits, model.module(**tensors).logits[:, -1])
    expected = generated(model, tensors)
    close(trace.step_logits, torch.stack(expected.logits[1:], 1))
    assert trace.tokens.tolist() == expected.sequences[:, -STEPS:].tolist()


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def layer_bytes(cache: Any) -> list[int]:
    return [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]


def distinct(inputs: Inputs) -> Inputs:
    """Give the second of two samples another picture and other text around it."""
    pixels = inputs["pixel_values"]
    pixels[len(pixels) // 2 :] = pixels[len(pixels) // 2 :].roll(1, -1) * -0.7
    for text in (inputs["input_ids"][1, :4], inputs["input_ids"][1, -4:]):
        text.copy_(text.flip(0) // 2 + 1)
    return inputs


def flat_embeddings(model: Model, inputs: Inputs) -> Tensor:
    """The embedded prompt of layout flat, by transformers' modules: projected tiles in a row."""
    core = model.module.model
    tower = core.vision_tower(inputs["pixel_values"].flatten(0, 1), output_hidden_states=True)
    features = core.multi_modal_projector(tower.hidden_states[-2][:, 1:])
    embedded: Tensor = core.get_input_embeddings()(inputs["input_ids"])
    embedded[inputs["input_ids"] == model.image_token] = features.flatten(0, 1)
    return embedded


def implementations(model: Model) -> dict[str, str]:
    """The attention implementation that each module's config names."""
    return {
        name: part.config._attn_implementation
        for name, part in model.module.named_modules()
        if hasattr(part, "config")
    }


def twin(model: Model, backend: str) -> Model:
    """The same weights with another attention backend."""
    other = tpprof.load(model.shape, device="cpu", backend=backend)
    other.module.load_state_dict(model.module.state_dict())
    return other


@pytest.mark.parametrize("size", [(168, 168), (84, 200), (231, 90)])
def test_vanilla_is_the_transformers_forward(model: Model, size: tuple[int, int]) -> None:
    inputs = tpprof.inputs(model, image_size=size, layout="anyres", text_tokens=TEXT)
    trace = tpprof.forward(model, inputs, "vanilla", new_tokens=STEPS)
    assert trace.logits.shape == (1, model.shape.text.vocabulary)
    assert trace.step_logits.shape == (1, STEPS - 1, model.shape.text.vocabulary)
    assert_same(trace, model, inputs)


@pytest.mark.parametrize("size", ANYRES, ids=str)
def test_llava_next_anyres(llava_next: Model, size: tuple[int, int]) -> None:
    inputs = tpprof.inputs(llava_next, image_size=size, layout="anyres", text_tokens=TEXT)
    rows, columns = ANYRES[size]
    assert inputs.request.visual == 36 + rows * (columns + 1)
    trace = tpprof.forward(llava_next, inputs, "vanilla", new_tokens=STEPS)
    assert trace.visual_per_layer == [inputs.request.visual] * 8
    assert_same(trace, llava_next, inputs)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("size", [(168, 168), (84, 168), (200, 60)])
def test_llava_next_flat(llava_next: Model, size: tuple[int, int], batch_size: int) -> None:
    inputs = tpprof.inputs(llava_next, image_size=size, text_tokens=TEXT, batch_size=batch_size)
    if batch_size == 2:
        distinct(inputs)
    tiles = inputs["pixel_values"].shape[1]
    assert tiles == (5 if size == (168, 168) else 3)
    assert inputs.request.visual == 36 * tiles
    trace = tpprof.forward(llava_next, inputs, "vanilla", new_tokens=STEPS)
    assert_same(trace, llava_next, {"inputs_embeds": flat_embeddings(llava_next, inputs)})


def test_batch_of_two_different_samples(model: Model) -> None:
    inputs = tpprof.inputs(
        model,
        image_size=(100, 168),
        layout="anyres",
        text_tokens=TEXT,
        batch_size=2,
        new_tokens=STEPS,
    )
    trace = tpprof.forward(model, distinct(inputs), "vanilla")
    assert trace.tokens.shape == (2, STEPS)
    assert (trace.logits[0] - trace.logits[1]).abs().max() > 1e-2
    assert_same(trace, model, inputs)


def test_the_picture_reaches_the_logits(model: Model) -> None:
    inputs = tpprof.inputs(model, image_size=(168, 168), layout="anyres", text_tokens=TEXT)
    before = tpprof.forward(model, inputs, "vanilla", new_tokens=1).logits
    inputs["pixel_values"].mul_(-0.7)
    after = tpprof.forward(model, inputs, "vanilla", new_tokens=1)
    assert (before - after.logits).abs().max() > 1e-3
    close(after.logits, model.module(**inputs).logits[:, -1])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_eager_backend(model: Model, batch_size: int) -> None:
    eager = twin(model, "eager")
    inputs = tpprof.inputs(
        eager, image_size=(100, 168), layout="anyres", text_tokens=TEXT, batch_size=batch_size
    )
    trace = tpprof.forward(eager, inputs, "vanilla", new_tokens=STEPS)
    assert set(implementations(eager).values()) == {"eager"}
    assert_same(trace, eager, inputs)
    close(trace.logits, tpprof.forward(model, inputs, "vanilla").logits)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("count", [1, 37, 60])
def test_synthetic_features(model: Model, count: int, batch_size: int) -> None:
    inputs = tpprof.inputs(model, visual_tokens=count, text_tokens=TEXT, batch_size=batch_size)
    assert inputs.request.visual == count
    embed, embedded = model.module.get_input_embeddings(), inputs["inputs_embeds"]
    text = tpprof.inputs(model, image_size=(84, 84), text_tokens=TEXT)["input_ids"]
    assert torch.equal(embedded[:1, : TEXT[0]], embed(text[:, : TEXT[0]]))
    assert torch.equal(embedded[:1, -TEXT[1] :], embed(text[:, -TEXT[1] :]))
    trace = tpprof.forward(model, inputs, "vanilla", new_tokens=STEPS)
    close(trace.logits, model.module(**inputs).logits[:, -1])

    # Each decode step against a whole forward over the prompt and the tokens so far.
    embedded = torch.cat([embedded, embed(trace.tokens[:, :-1])], 1)
    length = embedded.shape[1]
    places = torch.arange(length).expand(*inputs["position_ids"].shape[:-1], length)
    whole = model.module(inputs_embeds=embedded, position_ids=places).logits[:, -STEPS:]
    close(trace.step_logits, whole[:, 1:])
    assert trace.tokens.tolist() == whole.argmax(-1).tolist()


def test_synthetic_samples_differ_and_the_seed_fixes_them(model: Model) -> None:
    first, again = (tpprof.inputs(model, visual_tokens=12, batch_size=2) for _ in range(2))
    other = tpprof.inputs(model, visual_tokens=12, batch_size=2, seed=1)
    assert torch.equal(first["inputs_embeds"], again["inputs_embeds"])
    assert not torch.equal(first["inputs_embeds"][0], first["inputs_embeds"][1])
    assert not torch.equal(first["inputs_embeds"], other["inputs_embeds"])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_cache_is_as_large_as_that_of_transformers(model: Model, batch_size: int) -> None:
    inputs = tpprof.inputs(
        model, image_size=(100, 168), layout="anyres", text_tokens=TEXT, batch_size=batch_size
    )
    trace = tpprof.forward(model, inputs, "vanilla", new_tokens=STEPS)
    prefill = model.module(**inputs, use_cache=True).past_key_values
    assert trace.kv_bytes.prefill == layer_bytes(prefill)
    assert trace.kv_bytes.decode == layer_bytes(generated(model, inputs).past_key_values)
    assert trace.kv_bytes.decode[0] > trace.kv_bytes.prefill[0]
    assert trace.ledger.cached == [layer.keys.shape[2] for layer in prefill.layers]
    assert trace.ledger.cached == [inputs.request.length] * 8
    assert [keys[0] for keys in trace.ledger.decode_keys] == [
        inputs.request.length + step for step in range(1, STEPS)
    ]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_attention_setting_comes_back(model: Model, backend: str) -> None:
    chosen = twin(model, backend)
    before = implementations(chosen)
    assert set(before.values()) == {backend}
    inputs = tpprof.inputs(chosen, image_size=(84, 168), layout="anyres", text_tokens=TEXT)
    expected = chosen.module(**inputs).logits
    tpprof.forward(chosen, inputs, "vanilla", new_tokens=2)
    assert implementations(chosen) == before
    assert torch.equal(chosen.module(**inputs).logits, expected)


@pytest.mark.parametrize("where", ["tower", "prefill", "decode"])
def test_attention_setting_comes_back_after_an_error(model: Model, where: str) -> None:
    before = implementations(model)
    inputs = tpprof.inputs(model, image_size=(84, 168), layout="anyres", text_tokens=TEXT)
    expected = model.module(**inputs).logits
    seen: list[str] = []

    def fail(part: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        if where != "decode" or given[0].shape[1] == 1:
            seen.extend(set(implementations(model).values()))
            raise RuntimeError("out of memory, say")

    parts = [part.mlp for part in blocks_of(model)] if where == "tower" else model.layers
    hook = parts[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory, say"):
            tpprof.forward(model, inputs, "vanilla", new_tokens=2)
    finally:
        hook.remove()
    assert "tpprof" in seen
    assert implementations(model) == before
    assert torch.equal(model.module(**inputs).logits, expected)
