"""Keys of published configs are taken; any that nobody knows is refused by its name."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from micro_models import MICRO, SHAPES, config
from transformers import CONFIG_MAPPING

from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import load, shape_of

WRITTEN_BY_OLD_VERSIONS: dict[str, Any] = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "do_sample": False,
    "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20,
    "output_attentions": False,
    "pruned_heads": {},
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "torch_dtype": None,
    "torchscript": False,
    "use_bfloat16": False,
}
CLIP = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
VICUNA = {
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "torch_dtype": "float16",
    "vocab_size": 32064,
}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": VICUNA,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": CLIP,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
LLAVA_NEXT = LLAVA | {
    "architectures": ["LlavaNextForConditionalGeneration"],
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "model_type": "llava_next",
    "text_config": MISTRAL,
    "use_image_newline_parameter": True,
}
EVERY_KEY = LLAVA | {
    "text_config": WRITTEN_BY_OLD_VERSIONS | VICUNA | {"tie_word_embeddings": False},
    "vision_config": WRITTEN_BY_OLD_VERSIONS | CLIP | {"dropout": 0.0},
}
TRAINED = LLAVA | {
    "text_config": VICUNA
    | {
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
        "unfreeze_mm_vision_tower": True,
    }
}
QWEN_TOWER = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "in_chans": 3,
    "mlp_ratio": 4,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
}
QWEN_TEXT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
    "vision_token_id": 151654,
}
QWEN: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "bos_token_id": 151643,
    "model_type": "qwen2_vl",
    "transformers_version": "4.41.2",
    "vision_config": QWEN_TOWER,
    **QWEN_TEXT,
    **QWEN_TOKENS,
}
QWEN_SMALL = QWEN | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vision_config": QWEN_TOWER | {"hidden_size": 1536},
    "vocab_size": 151936,
}
QWEN_TUNED = QWEN | {  # by a version that wrote the text model's keys twice
    "text_config": QWEN_TEXT
    | QWEN_TOKENS
    | {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "image_token_id": None,
        "layer_types": ["full_attention"] * 28,
        "model_type": "qwen2_vl_text",
        "sliding_window": None,
        "video_token_id": None,
    },
    "unsloth_fixed": True,
    "unsloth_version": "2025.3",
    "vision_config": QWEN_TOWER | {"in_channels": 3, "model_type": "qwen2_vl"},
}
QWEN2_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
}
ONEVISION: dict[str, Any] = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "ignore_index": -100,
    "image_grid_pinpoints": [[384 * n, 384 * m] for n in range(1, 7) for m in range(1, 7)],
    "image_token_index": 151646,
    "model_type": "llava_onevision",
    "projector_hidden_act": "gelu",
    "text_config": QWEN2_7B | {"max_window_layers": 28, "vocab_size": 152128},
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_image_newline_parameter": True,
    "video_token_index": 151647,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
INTERN_VIT: dict[str, Any] = {
    "architectures": ["InternVisionModel"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1024,
    "image_size": [448, 448],
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-06,
    "layer_scale_init_value": 0.1,
    "model_type": "internvl_vision",
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": [14, 14],
    "projection_dropout": 0.0,
    "torch_dtype": "bfloat16",
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
    "use_qk_norm": False,
}
INTERN_VIT_6B = INTERN_VIT | {
    "attention_bias": False,
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "norm_type": "rms_norm",
    "num_attention_heads": 25,
    "num_hidden_layers": 45,
    "use_qk_norm": True,
}
INTERNVL: dict[str, Any] = {
    "architectures": ["InternVLForConditionalGeneration"],
    "downsample_ratio": 0.5,
    "image_seq_length": 256,
    "image_token_id": 151667,
    "model_type": "internvl",
    "projector_hidden_act": "gelu",
    "text_config": QWEN2_7B
    | {
        "max_window_layers": 70,
        "moe_config": None,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "use_bfloat16": True,
        "vocab_size": 151674,
    },
    "torch_dtype": "bfloat16",
    "vision_config": INTERN_VIT,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
QWEN2_32B = {
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
}
INTERNVL_38B = INTERNVL | {
    "text_config": INTERNVL["text_config"] | QWEN2_32B,
    "vision_config": INTERN_VIT_6B,
}
CONVERTED = {
    "llava-onevision-7b": ONEVISION,
    "internvl3-8b": INTERNVL,
    "internvl3-38b": INTERNVL_38B,
}
"""As the scripts write them that convert the released checkpoints, by the shape of that name."""
PUBLISHED = {
    "llava-1.5-7b-hf": (LLAVA, 7_063_427_072),
    "llava-1.5-7b-hf, every key": (EVERY_KEY, 7_063_427_072),
    "llava-1.5-7b-hf, tuned": (TRAINED, 7_063_427_072),
    "llava-v1.6-mistral-7b-hf": (LLAVA_NEXT, 7_566_747_648),
    "Qwen2-VL-7B-Instruct": (QWEN, 8_291_375_616),
    "Qwen2-VL-7B-Instruct, tuned": (QWEN_TUNED, 8_291_375_616),
    "Qwen2-VL-2B-Instruct": (QWEN_SMALL, 2_208_985_600),
}
"""As they lie on the hub, and how many parameters they have there."""


def written(folder: Path, given: dict[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps(given))
    return str(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_taken(name: str, tmp_path: Path) -> None:
    given, parameters = PUBLISHED[name]
    assert shape_of(written(tmp_path, given), pictures=False).parameters == parameters


@pytest.mark.parametrize("name", CONVERTED)
def test_converted_configs_are_the_shapes_of_their_name(name: str, tmp_path: Path) -> None:
    read = shape_of(written(tmp_path, CONVERTED[name]), pictures=False)
    assert replace(read, name=name, about=SHAPES[name].about) == SHAPES[name]


def changed(given: dict[str, Any], section: str, changes: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(given)
    (other[section] if section else other).update(changes)
    return other


UNKNOWN: list[tuple[dict[str, Any], str, dict[str, Any], str]] = [
    *(
        (given, section, {key: value}, f"'{key}' is nothing that transformers'")
        for given in (LLAVA, LLAVA_NEXT, QWEN)
        for section in ("", "vision_config")
        for key, value in (("skip_layer_attn", [3]), ("parallel_ffn", True), ("dim_ratio", 0))
    ),
    (LLAVA, "text_config", {"skip_layer_mlp": [27]}, "'skip_layer_mlp' is nothing"),
    (LLAVA, "text_config", {"num_hidden_layer": 9}, "(did you mean 'num_hidden_layers'?)"),
    (LLAVA, "text_config", {"use_gate": False}, "'use_gate' is nothing"),
    (LLAVA, "text_config", {"a": 1, "b": 2, "c": 3}, "'a' is nothing"),
    (LLAVA, "text_config", {"a": 1, "b": 2, "c": 3}, "(and 2 more keys)"),
    (LLAVA, "", {"audio_config": {"hidden_size": 9}}, "'audio_config' is nothing"),
    (LLAVA, "", {"hidden_size": 8192}, "hidden_size is 8192 here and 4096 in text_config"),
    (LLAVA, "", {"num_hidden_layers": 40}, "num_hidden_layers is 40 here and 32 in text_config"),
    (LLAVA, "", {"sliding_window": 64, "model_type": "llava"}, "'sliding_window' is nothing"),
    (LLAVA, "text_config", {"pruned_heads": {"3": [1]}}, "'pruned_heads' is nothing"),
    (LLAVA, "text_config", {"add_cross_attention": True}, "add_cross_attention True is not"),
    (LLAVA, "text_config", {"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not"),
    (LLAVA, "text_config", {"mm_vision_select_layer": -1}, "is -1 here and -2 in vision_feature"),
    (LLAVA_NEXT, "", {"use_image_newline_parameter": False}, "parameter False is not supported"),
    (LLAVA_NEXT, "", {"sliding_window": 64}, "sliding_window is 64 here and None in text_config"),
    (QWEN, "vision_config", {"spatial_patch_size": 16}, "spatial_patch_size is 16 here and 14 in"),
    (QWEN, "vision_config", {"in_chans": 4}, "in_chans 4 is not supported; known: 3"),
    (QWEN, "vision_config", {"model_type": "siglip"}, "model_type 'siglip' is not supported here"),
    (QWEN, "vision_config", {"model_type": "clip_vision_model"}, "is not supported here"),
    (QWEN, "", {"n_experts": 4}, "'n_experts' is nothing that transformers' qwen2_vl reads"),
    (QWEN, "rope_scaling", {"rotary_base": 5}, "'rotary_base' in its rotary embedding is nothing"),
    (LLAVA, "text_config", {"per_layer_config": {"1": {"intermediate_size": 8}}}, "per_layer"),
    *(
        (given, section, {"architectures": said}, f"architectures says {said[0]!r}, which is no")
        for given, section, said in (
            (LLAVA, "", ["Other"]),
            (LLAVA, "", ["LlavaNextForConditionalGeneration"]),
            (LLAVA, "", ["LlavaLlamaForCausalLM"]),
            (LLAVA, "text_config", ["MixtralForCausalLM"]),
            (LLAVA, "text_config", ["Other"]),
            (LLAVA, "vision_config", ["SiglipVisionModel"]),
            (LLAVA_NEXT, "", ["LlavaForConditionalGeneration"]),
            (QWEN, "", ["Qwen2_5_VLForConditionalGeneration"]),
        )
    ),
]


@pytest.mark.parametrize(
    ("given", "section", "changes", "told"), UNKNOWN, ids=lambda v: str(v)[:40]
)
def test_what_nobody_knows_is_refused_by_name(
    given: dict[str, Any], section: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    name = written(tmp_path, changed(given, section, changes))
    with pytest.raises(ModelError) as planned:
        shape_of(name, pictures=False)
    with pytest.raises(ModelError) as measured:
        load(name, device="cpu")
    assert str(planned.value) == str(measured.value)
    assert told in str(planned.value)
    assert "\n" not in str(planned.value)


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
@pytest.mark.parametrize("said", [{}, None, {"torch_dtype": "float16"}, "absent"], ids=str)
@pytest.mark.parametrize("given", [LLAVA, LLAVA_NEXT, QWEN_TUNED], ids=["llava", "next", "qwen"])
def test_a_section_that_gives_no_size_is_not_planned_by_defaults(
    section: str, said: Any, given: dict[str, Any], tmp_path: Path
) -> None:
    other = copy.deepcopy(given)
    other[section] = said
    if said == "absent":
        del other[section]
    if given is QWEN_TUNED and section == "text_config" and said == "absent":
        assert shape_of(written(tmp_path, other), pictures=False).text.hidden == 3584
        return
    with pytest.raises(ModelError, match=section):
        shape_of(written(tmp_path, other), pictures=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Micro checkpoints, config and weights alone."""
    import torch
    from transformers import LlavaForConditionalGeneration, Qwen2VLForConditionalGeneration

    made = {"llava": LlavaForConditionalGeneration, "qwen2-vl": Qwen2VLForConditionalGeneration}
    folders = {}
    for architecture, kind in made.items():
        torch.manual_seed(0)
        folders[architecture] = tmp_path_factory.mktemp("saved")
        kind(config(MICRO[architecture])).save_pretrained(folders[architecture])
    return folders


def beside_weights(saved: Path, folder: Path, section: str, changes: dict[str, Any]) -> str:
    given = json.loads((saved / "config.json").read_text())
    for path in saved.glob("*.safetensors"):
        (folder / path.name).symlink_to(path)
    return written(folder, changed(given, section, changes))


IN_WEIGHTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("llava", "", {"text_config": {}}, "by what its config says"),
    ("llava", "", {"vision_config": {}}, "by what its config says"),
    ("llava", "text_config", {"num_hidden_layers": 9}, "its weights hold 483,104 parameters, and"),
    ("llava", "text_config", {"vocab_size": 600}, "is (512, 64) in its weights, and (600, 64)"),
    ("llava", "text_config", {"intermediate_size": 128}, "(64, 112) in its weights, and (64, 128)"),
    ("llava", "", {"tie_word_embeddings": True}, "its weights hold 483,104 parameters, and"),
    ("llava", "vision_config", {"num_hidden_layers": 3}, "its weights hold 483,104 parameters"),
    ("qwen2-vl", "vision_config", {"depth": 5}, "its weights hold 519,776 parameters, and"),
    ("qwen2-vl", "text_config", {"num_key_value_heads": 1}, "its weights hold 519,776 parameters"),
]


def refusals(name: str) -> tuple[str, str]:
    """Why a folder is neither planned nor loaded."""
    with pytest.raises(ModelError) as planned:
        shape_of(name, pictures=False)
    with pytest.raises(ModelError) as measured:
        load(name, device="cpu")
    return str(planned.value), str(measured.value)


@pytest.mark.parametrize(("architecture", "section", "changes", "told"), IN_WEIGHTS, ids=str)
def test_weights_that_lie_there_are_held_against_the_plan(
    saved: dict[str, Path],
    tmp_path: Path,
    architecture: str,
    section: str,
    changes: dict[str, Any],
    told: str,
) -> None:
    planned, _ = refusals(beside_weights(saved[architecture], tmp_path, section, changes))
    assert told in planned


def test_weights_in_several_files_and_packed_ones(saved: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(saved["llava"] / "model.safetensors")
    names, half = sorted(weights), len(weights) // 2
    parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, listed in parts.items():
        save_file({key: weights[key] for key in listed}, tmp_path / file)
    index = {"weight_map": {key: file for file, listed in parts.items() for key in listed}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    given = json.loads((saved["llava"] / "config.json").read_text())
    assert shape_of(written(tmp_path, given), pictures=False).parameters == 483_104
    with pytest.raises(ModelError, match="483,104 parameters, and"):
        shape_of(written(tmp_path, changed(given, "text_config", {"num_hidden_layers": 9})))
    packed = {key: weights[key].to(torch.int8) for key in parts["b.safetensors"]}
    save_file(packed, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="its weights are I8: quantised weights are not supported"):
        shape_of(written(tmp_path, given), pictures=False)


REASONS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "llava",
        "text_config",
        {"num_attention_heads": 0},
        "num_attention_heads is 0; known: a whole",
    ),
    ("llava", "vision_config", {"num_attention_heads": 0}, "num_attention_heads is 0; known:"),
    ("llava", "vision_config", {"patch_size": 0}, "patch_size is 0; known: a whole number"),
    ("llava", "text_config", {"head_dim": 0}, "head_dim is 0; known: a whole number"),
    ("qwen2-vl", "vision_config", {"num_heads": 0}, "num_heads is 0; known: a whole number"),
    ("qwen2-vl", "vision_config", {"spatial_merge_size": 0}, "spatial_merge_size is 0; known:"),
    ("llava", "text_config", {"rms_norm_eps": "x"}, "Field 'rms_norm_eps' expected float, got str"),
    ("llava", "text_config", {"hidden_size": "64"}, "hidden_size is '64'; known: a whole number"),
    ("llava", "text_config", {"attention_bias": 1.5}, "Field 'attention_bias' expected bool, got"),
    ("llava", "", {"text_config": [1]}, "text_config is [1]; known: a section"),
    ("llava", "text_config", {"rope_parameters": [1]}, "rope_parameters is [1]; known: a section"),
    ("qwen2-vl", "text_config", {"rope_scaling": [1]}, "rope_scaling is [1]; known: a section"),
    ("llava", "", {"quantization_config": [1]}, "quantization_config is [1]; known: a section"),
    ("llava", "text_config", {"model_type": "zzz"}, "model_type 'zzz' is none of transformers'"),
    ("llava", "text_config", {"model_type": ["llama"]}, "model_type ['llama'] is none of"),
    ("llava", "text_config", {"dtype": "float7"}, "dtype is 'float7'; known: float32"),
    ("llava", "text_config", {"pad_token_id": 512}, "pad_token_id is 512; known: a whole number"),
    ("llava", "text_config", {"hidden_act": "swush"}, "hidden_act 'swush' is no activation"),
    ("llava", "text_config", {"hidden_act": "sillu"}, "did you mean 'silu'?"),
    ("llava", "vision_config", {"hidden_act": ""}, "hidden_act '' is no activation"),
    ("llava", "", {"projector_hidden_act": "nope"}, "projector_hidden_act 'nope' is no activation"),
    ("qwen2-vl", "vision_config", {"hidden_act": "zz"}, "hidden_act 'zz' is no activation"),
    *(
        ("qwen2-vl", "text_config", {"rope_parameters": {"mrope_section": sections}}, told)
        for sections, told in (
            ([2, 3, 4], "mrope_section is [2, 3, 4]; known: 3 whole numbers that sum to 8"),
            ([8], "mrope_section is [8]; known: 3 whole numbers"),
            ([-2, 5, 5], "mrope_section is [-2, 5, 5]; known: 3 whole numbers"),
            ("2,3,3", "mrope_section is '2,3,3'; known: 3 whole numbers"),
        )
    ),
    (
        "qwen2-vl",
        "text_config",
        {"layer_types": ["linear_attention"] * 8},
        "text_config: linear attention is not supported; known: full attention",
    ),
    (
        "qwen2-vl",
        "text_config",
        {"layer_types": ["full_attention"] * 7 + ["chunked_attention"]},
        "text_config: chunked attention is not supported; known: full attention",
    ),
    (
        "qwen2-vl",
        "text_config",
        {"layer_types": ["full_attention"] * 7 + ["sliding_attention"]},
        "text_config: sliding-window attention is not supported; known: full attention",
    ),
]


@pytest.mark.parametrize(("architecture", "section", "changes", "told"), REASONS, ids=str)
def test_planning_and_measuring_refuse_with_the_same_reason(
    saved: dict[str, Path],
    tmp_path: Path,
    architecture: str,
    section: str,
    changes: dict[str, Any],
    told: str,
) -> None:
    planned, measured = refusals(beside_weights(saved[architecture], tmp_path, section, changes))
    assert planned == measured
    assert told in planned
    assert "\n" not in planned


@pytest.mark.parametrize("kind", ["phi", "opt", "mixtral"])
def test_a_text_model_that_is_not_understood_is_refused_by_its_name(
    tmp_path: Path, kind: str
) -> None:
    """Whether its sizes are given or not: no size would mend it."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llava",
                "text_config": {"model_type": kind},
                "vision_config": {"model_type": "clip_vision_model", "hidden_size": 768},
            }
        )
    )
    with pytest.raises(ModelError, match=f"the text model '{kind}' is not supported; known: llama"):
        shape_of(str(tmp_path), pictures=False)


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo3"])
def test_a_text_model_is_refused_by_its_name_and_not_by_a_part_of_it(
    tmp_path: Path, kind: str
) -> None:
    """As transformers saves it, with a rotary embedding by layer type."""
    given = LLAVA | {"text_config": CONFIG_MAPPING[kind]().to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(ModelError, match=f"text_config: the text model '{kind}' is not supported"):
        shape_of(str(tmp_path), pictures=False)
