"""seer: a LLaVA-1.5-shaped model of 1.9 million parameters that was trained on drawn pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .pictures import COLOURS, PATCH, SHAPES, SIDE, SIZES, TEXTURES

FOLDER = Path(__file__).parent / "checkpoint"
"""Where config, tokenizer, image processor and weights lie, as transformers saves them."""

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
WORDS = (
    *("USER", ":", "ASSISTANT", "Yes", "No", "yes", "no", "?", ".", ","),
    *("Is", "is", "Are", "are", "there", "a", "an", "the", "in", "of", "image", "picture"),
    *("Answer", "question", "using", "single", "word", "or", "phrase"),
    *("For", "with", "and", "it", "that", "not", "one", "which", "where", "what"),
    *COLOURS,
    *SHAPES,
    *SIZES,
    *TEXTURES,
    *("top", "bottom", "left", "right", "background"),
)
VOCABULARY = (*SPECIAL, *WORDS)


def new_config() -> Any:
    """The config of the model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=96,
        ),
        text_config=LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            bos_token_id=VOCABULARY.index("<s>"),
            eos_token_id=VOCABULARY.index("</s>"),
            pad_token_id=VOCABULARY.index("<pad>"),
            tie_word_embeddings=True,
        ),
        image_token_index=VOCABULARY.index("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def new_module() -> Any:
    """The model with transformers' own random weights."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(new_config())


def new_tokenizer() -> Any:
    """One token a word of VOCABULARY; all others are <unk>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", VOCABULARY.index("<s>"))]
    )
    kind: Any = PreTrainedTokenizerFast
    return kind(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def new_image_processor() -> Any:
    """Pictures of any size become 96 x 96 pixels, values from -1 to 1."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def save(module: Any, folder: Path) -> None:
    """Config, weights in half precision, tokenizer and image processor."""
    import copy

    import torch

    copy.deepcopy(module).to(torch.float16).save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    new_image_processor().save_pretrained(folder)
