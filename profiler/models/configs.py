"""Shapes from transformers' configs. What is not understood is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...reports.sanitize import quoted
from .architecture import Architecture
from .checkpoint.decoders import DECODERS, DecoderKind, require_known_decoder
from .checkpoint.keys import require_known_keys
from .checkpoint.reader import MOST, Reader
from .checkpoint.rotary import require_stateless_config
from .shapes import Shape, Text

NEUTRAL = {"embedding_multiplier": 1.0, "use_bidirectional_attention": False}
"""What the text model's own forward would do with other values, and the engine does not."""


def require_understood(name: str, given: Any) -> None:
    """Refuse a config of which a part that costs is not understood; raises ModelError."""
    for section, config in (
        ("config.json", given),
        ("text_config", getattr(given, "text_config", None)),
        ("vision_config", getattr(given, "vision_config", None)),
    ):
        reader = Reader(name, section, config)
        if config is None:
            reader.refuse("there is none")
        quantised = getattr(config, "quantization_config", None)
        if quantised:
            reader.refuse(
                f"quantised weights ({_quantisation(quantised)}) are not supported: what they "
                "weigh and compute is not known; known: float32, float16 and bfloat16 checkpoints"
            )
    require_known_keys(name, given)


def _quantisation(config: Any) -> str:
    """What a quantisation is called, and its bits where they are said."""
    found = config if isinstance(config, dict) else vars(config)
    method = str(getattr(found.get("quant_method"), "value", found.get("quant_method", "unknown")))
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else None)
    bits = bits or (8 if found.get("load_in_8bit") else None)
    return f"{method[:40]}, {bits} bits" if bits else method[:40]


def from_config(name: str, architecture: Architecture, given: Any) -> Shape:
    """The shape that the transformers config of `name`, a folder or a hub id, describes. Raises
    ModelError for one of which a part that costs is not understood."""
    require_understood(name, given)
    text, key = _text(name, given), architecture.image_token_key
    token = getattr(given, key, None)
    if type(token) is not int or not 0 <= token < text.vocabulary:
        Reader(name, "config.json", given).refuse(
            f"the image token ({key}) is {token!r}; known: a token of the vocabulary, 0 to "
            f"{text.vocabulary - 1:,}"
        )
    shape = architecture.shape_from(name, given, text)
    return dataclasses.replace(shape, name=Path(name).name)


def _text(name: str, given: Any) -> Text:
    config = given.text_config
    reader = Reader(name, "text_config", config)
    require_known_decoder(reader, config.model_type)
    for key, neutral in NEUTRAL.items():
        reader.require(key, neutral, None)
    _require_full_attention(reader)
    reader.activation("hidden_act")
    require_stateless_config(name, given)
    decoder = DECODERS[config.model_type]
    vocabulary = reader.count("vocab_size", MOST["words"])
    if getattr(config, "pad_token_id", None) is not None:
        reader.count("pad_token_id", vocabulary - 1, least=1 - vocabulary)
    hidden, heads = reader.count("hidden_size", MOST["width"]), _heads(reader)
    kv_heads = reader.count("num_key_value_heads", heads)
    if heads % kv_heads:
        reader.refuse(f"num_key_value_heads {kv_heads} does not divide {heads} heads")
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    if type(head_dim) is not int or not 1 <= head_dim <= MOST["width"]:
        reader.refuse(f"head_dim is {head_dim!r}")
    biased = decoder.biases == "config" and reader.flag("attention_bias")
    normed = decoder.qk_norm if getattr(config, "use_qk_norm", True) else DecoderKind.qk_norm
    return Text(
        layers=reader.count("num_hidden_layers", MOST["layers"]),
        hidden=hidden,
        intermediate=reader.count("intermediate_size", MOST["width"]),
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
        qkv_bias=biased or decoder.biases == "qkv",
        tied=bool(given.tie_word_embeddings),
        head_size=None if head_dim * heads == hidden else head_dim,
        output_bias=biased,
        ffn_bias=reader.flag("mlp_bias"),
        norms=decoder.norms,
        qk_norm=normed(heads, kv_heads, head_dim),
        positions=reader.count("max_position_embeddings", MOST["positions"]),
    )


def _heads(reader: Reader) -> int:
    heads = reader.count("num_attention_heads", MOST["heads"])
    if not getattr(reader.config, "head_dim", None) and reader.config.hidden_size % heads:
        reader.refuse(f"{heads} heads do not divide hidden_size {reader.config.hidden_size}")
    return heads


def _require_full_attention(reader: Reader) -> None:
    """The engine runs prefill without a mask, and knows no other layers."""
    kinds = getattr(reader.config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention"] if getattr(reader.config, "sliding_window", None) else []
    elif not isinstance(kinds, (list, tuple)):
        reader.refuse(f"layer_types is {quoted(kinds)}; known: a list, one of each layer")
    for kind in sorted(set(map(str, kinds)) - {"full_attention"}):
        called = "sliding-window" if kind == "sliding_attention" else kind.partition("_")[0][:40]
        reader.refuse(f"{called} attention is not supported; known: full attention")
    if kinds and len(kinds) != reader.config.num_hidden_layers:
        reader.refuse(
            f"layer_types names {len(kinds)} layers, and num_hidden_layers is "
            f"{reader.config.num_hidden_layers}"
        )
