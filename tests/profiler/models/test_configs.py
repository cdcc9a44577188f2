"""Configs that are understood give what transformers gives; all others are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from micro_models import MICRO, SIZE
from transformers import CONFIG_MAPPING, CLIPVisionConfig, LlavaConfig, LlavaNextConfig

import tpprof
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.run import run
from tpprof.profiler import cost
from tpprof.profiler.meters import flop_counter
from tpprof.profiler.models.architectures.llava import LlavaModel
from tpprof.profiler.models.architectures.llava_next import LlavaNextModel
from tpprof.profiler.models.checkpoint.decoders import DECODERS
from tpprof.profiler.models.configs import from_config
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.processors import default_processor, transformers_class

TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 84,
    "patch_size": 14,
}
KINDS = [kind for kind in DECODERS if not kind.endswith("vl_text")]


def config(text: str = "llama", *, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    """A config of LLaVA over a text model; keys of the text model's are given to it."""
    top = {key: more.pop(key) for key in list(more) if key in TOP}
    inner = CONFIG_MAPPING[text](**{**TEXT, **more})
    tower = CLIPVisionConfig(**{**VISION, **(vision or {})})
    return LlavaConfig(text_config=inner, vision_config=tower, image_token_index=511, **top)


TOP = (
    "vision_feature_layer",
    "multimodal_projector_bias",
    "vision_feature_select_strategy",
    "quantization_config",
    "tie_word_embeddings",
)


def loaded(given: Any) -> Model:
    """A model of random weights of this config."""
    torch.manual_seed(0)
    nxt = given.model_type == "llava_next"
    shape = from_config("mine", MICRO["llava-next" if nxt else "llava"].architecture, given)
    name = "LlavaNextForConditionalGeneration" if nxt else "LlavaForConditionalGeneration"
    module = transformers_class(name)._from_config(given, attn_implementation="sdpa")
    adapter = LlavaNextModel if nxt else LlavaModel
    return adapter(module, shape, backend="sdpa", image_processor=default_processor(shape))


def check(model: Model) -> None:
    """Parameters, logits, FLOPs and cache are those of transformers and torch."""
    assert model.shape.parameters == sum(w.numel() for w in model.module.parameters())
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(3, 4), layout=layout(model))
    with torch.no_grad():
        expected = model.module(**inputs).logits[:, -1]
    vanilla = tpprof.forward(model, inputs)
    torch.testing.assert_close(vanilla.logits, expected, atol=1e-4, rtol=1e-4)
    policies: tuple[Policy, ...] = ("rows", "maps")
    for policy in policies:
        method = tpprof.methods.parse("fastv:keep=1/2")
        request = inputs.request
        trace = run(model, inputs, method, attention=policy)
        items = cost.items(model.shape, request, method.plan(request), trace.ledger, 4)
        counted = flop_counter.flops(
            lambda lap, method=method, policy=policy: run(
                model, inputs, method, attention=policy, lap=lap
            )
        )
        tables = sum(counted.tables.values())  # products too, and no work of the request's
        assert sum(counted.by_phase.values()) - tables == cost.total(items).flops
        assert counted.uncounted == []
        assert trace.kv_bytes.prefill == cost.kv_bytes(model.shape, request, trace.ledger.cached, 4)


def layout(model: Model) -> str:
    return "anyres" if model.shape.architecture.name == "llava-next" else "flat"


@pytest.mark.parametrize("kind", KINDS)
def test_text_models_that_are_known_hold(kind: str) -> None:
    more = {"sliding_window": None} if kind == "mistral" else {}
    check(loaded(config(kind, **more)))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32}),
        ("mistral", {"head_dim": 8, "sliding_window": None}),
        ("qwen3", {"attention_bias": True, "head_dim": 24}),
        ("gemma", {"attention_bias": True, "head_dim": 32}),
        ("granite", {"mlp_bias": True, "residual_multiplier": 0.5, "attention_multiplier": 0.3}),
        ("olmo2", {"attention_bias": True, "num_key_value_heads": 1}),
        ("cohere", {"use_qk_norm": True, "attention_bias": True}),
        ("llama", {"multimodal_projector_bias": False}),
        ("llama", {"vision_feature_layer": [-3, -2]}),
        ("llama", {"vision_feature_layer": [0, 2, 4]}),
        ("llama", {"vision_feature_layer": -5}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
    ids=str,
)
def test_their_options_hold(kind: str, more: dict[str, Any]) -> None:
    check(loaded(config(kind, **more)))


def test_several_feature_layers_hold_with_tiles() -> None:
    given = config(vision_feature_layer=[-4, -3, -2, -1])
    check(
        loaded(
            LlavaNextConfig(
                text_config=given.text_config,
                vision_config=given.vision_config,
                image_token_index=511,
                image_grid_pinpoints=[[84, 168], [168, 84], [168, 168]],
                vision_feature_layer=[-4, -3, -2, -1],
            )
        )
    )


UNKNOWN = "is not supported; known: llama, mistral"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *(
        (kind, {}, f"text_config: the text model {kind!r} {UNKNOWN}")
        for kind in ("mixtral", "phi", "qwen2_moe", "starcoder2", "stablelm", "gemma2", "opt")
    ),
    ("llama", {"num_local_experts": 8}, "'num_local_experts' is nothing that"),
    ("llama", {"moe_layers": [1]}, "'moe_layers' is nothing that"),
    ("mistral", {"sliding_window": 20}, "sliding-window attention is not supported"),
    ("qwen2", {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "sliding-window"),
    ("granite", {"embedding_multiplier": 12.0}, "embedding_multiplier 12.0 is not supported"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "rope_type 'dynamic' is not supported: one request would change the next",
    ),
    ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "(awq, 4 bits)"),
    ("llama", {"quantization_config": {"quant_method": "mystery"}}, "(mystery)"),
    ("llama", {"num_hidden_layers": -3}, "num_hidden_layers is -3; known: a whole number from 1"),
    ("llama", {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
    ("llama", {"intermediate_size": 0}, "intermediate_size is 0"),
    ("llama", {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    ("llama", {"num_attention_heads": 5}, "num_key_value_heads 2 does not divide 5 heads"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide 4 heads"),
    ("llama", {"vision_feature_layer": 9}, "vision_feature_layer 9: the tower has 4 layers"),
    ("llama", {"vision_feature_layer": [-2, 77]}, "the tower has 4 layers"),
    ("llama", {"vision_feature_layer": 0}, "vision_feature_layer 0 alone is taken for none"),
    ("llama", {"vision_feature_select_strategy": "full"}, "strategy 'full' is not supported"),
    ("llama", {"vision": {"num_channels": 4}}, "num_channels 4 is not supported; known: 3"),
    ("llama", {"vision": {"image_size": 7}}, "image_size is 7"),
    ("llama", {"vision": {"num_hidden_layers": 0}}, "num_hidden_layers is 0"),
]


@pytest.mark.parametrize(("kind", "more", "told"), REFUSED, ids=lambda given: str(given)[:40])
def test_what_is_not_understood_is_refused_by_name(
    kind: str, more: dict[str, Any], told: str
) -> None:
    given = config(**{key: value for key, value in more.items() if key in (*TOP, "vision")})
    inner = {key: value for key, value in more.items() if key not in (*TOP, "vision")}
    if kind != "llama":
        given.text_config = CONFIG_MAPPING[kind]()
    for key, value in inner.items():  # as a file that transformers does not look through
        setattr(given.text_config, key, value)
    with pytest.raises(ModelError) as refused:
        from_config("folder/mine", MICRO["llava"].architecture, given)
    assert str(refused.value).startswith("folder/mine: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_a_section_that_is_not_there_is_refused(section: str) -> None:
    given = config()
    setattr(given, section, None)
    with pytest.raises(ModelError, match=f"{section}: there is none"):
        from_config("mine", MICRO["llava"].architecture, given)
