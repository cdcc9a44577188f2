"""The checkpoint of smol-dino: both pretrained parts, and a projector between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

IMAGE_TOKEN_ID = 4  # language.UNUSED in SmolLM2's vocabulary
SIDE, PATCH = 336, 14  # pixels of a picture and of a patch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels that DINOv2 was given


def new_config() -> Any:
    """The config of the model."""
    from transformers import Dinov2Config, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=518,
            patch_size=PATCH,
            use_mask_token=False,
        ),
        text_config=LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=True,
        ),
        image_token_index=IMAGE_TOKEN_ID,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def new_image_processor() -> Any:
    """The shorter side becomes 336 pixels, and the middle square is cut out."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def assembled(language: Mapping[str, Any], tower: Mapping[str, Any], seed: int = 0) -> Any:
    """The model of both parts' weights (NumPy, under their own names), with a projector that is
    drawn by the seed."""
    import torch
    from transformers import LlavaForConditionalGeneration

    config = new_config()
    parts = {"language_model": language, "vision_tower": tower}
    state = {
        f"model.{part}.{name}": torch.from_numpy(np.array(value))
        for part, weights in parts.items()
        for name, value in weights.items()
    }
    state |= new_projector(config, seed)
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    made: Any = LlavaForConditionalGeneration
    module, report = made.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    wrong = {key: value for key, value in report.items() if value}
    if wrong:
        raise ValueError(f"the packages hold another model than expected: {str(wrong)[:200]}")
    return module.eval()


def new_projector(config: Any, seed: int) -> dict[str, Any]:
    """Weights of an untrained projector: its outputs are about as large as the embeddings."""
    import torch

    inputs, outputs = config.vision_config.hidden_size, config.text_config.hidden_size
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, scale: float) -> Any:
        return torch.randn(rows, columns, generator=generator) * scale

    name = "model.multi_modal_projector"
    return {
        f"{name}.linear_1.weight": normal(outputs, inputs, inputs**-0.5),
        f"{name}.linear_1.bias": torch.zeros(outputs),
        f"{name}.linear_2.weight": normal(outputs, outputs, 0.4 * outputs**-0.5),
        f"{name}.linear_2.bias": torch.zeros(outputs),
    }
