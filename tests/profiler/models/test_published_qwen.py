"""Configs as the published checkpoints of Qwen2.5-VL and Qwen3-VL have them, read as the shapes of
that name; what contradicts them is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from micro_models import SHAPES

from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import shape_of

QWEN25_3B: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
QWEN3_4B: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 151656,
    "vision_config": {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2560,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}
PUBLISHED = {"qwen2.5-vl-3b": QWEN25_3B, "qwen3-vl-4b": QWEN3_4B}


def folder(path: Path, name: str, section: str = "", **changes: Any) -> str:
    held = copy.deepcopy(PUBLISHED[name])
    (held[section] if section else held).update(changes)
    (path / "config.json").write_text(json.dumps(held))
    return str(path)


@pytest.mark.parametrize(
    ("name", "parameters"), [("qwen2.5-vl-3b", 3_754_622_976), ("qwen3-vl-4b", 4_437_815_808)]
)
def test_a_published_config_is_the_shape_of_its_name(
    name: str, parameters: int, tmp_path: Path
) -> None:
    read, known = shape_of(folder(tmp_path, name), pictures=False), SHAPES[name]
    vision = dataclasses.replace(
        known.vision,
        **{key: getattr(read.vision, key) for key in ("most_pixels", "video_pixels")},
    )
    assert (read.text, read.vision, read.projectors) == (known.text, vision, known.projectors)
    assert read.parameters == parameters


@pytest.mark.parametrize(
    ("name", "section", "changes", "told"),
    [
        ("qwen2.5-vl-3b", "vision_config", {"fullatt_block_indexes": [7, 32]}, "is \\[7, 32\\]"),
        (
            "qwen2.5-vl-3b",
            "vision_config",
            {"out_hidden_size": 3584},
            "out_hidden_size 3584 is not",
        ),
        ("qwen2.5-vl-3b", "vision_config", {"window_size": 14}, "window_size is 14; known"),
        (
            "qwen2.5-vl-3b",
            "",
            {"use_sliding_window": True, "max_window_layers": 20},
            "sliding-window attention is not",
        ),
        (
            "qwen3-vl-4b",
            "vision_config",
            {"deepstack_visual_indexes": [5, 5]},
            "deepstack_visual_indexes is \\[5, 5\\]; known: numbers of layers, 0 to 23, each once",
        ),
        (
            "qwen3-vl-4b",
            "vision_config",
            {"num_position_embeddings": 2300},
            "num_position_embeddings is 2300; known: the square of a number",
        ),
        (
            "qwen3-vl-4b",
            "text_config",
            {"rope_scaling": {"mrope_interleaved": False, "mrope_section": [24, 20, 20]}},
            "mrope_interleaved False is not supported; known: True",
        ),
        (
            "qwen2.5-vl-3b",
            "",
            {"rope_scaling": {"mrope_interleaved": True, "mrope_section": [16, 24, 24]}},
            "mrope_interleaved True is not supported; known: False",
        ),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(
    name: str, section: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        shape_of(folder(tmp_path, name, section, **changes), pictures=False)
