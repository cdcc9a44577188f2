"""Between shapes and transformers' configs. What is not understood is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from .errors import ModelError
from .rotary import require_stateless_config
from .shapes import Architecture, Shape, Text, Vision


def mrope_section(head_dim: int) -> list[int]:
    """Frequencies given to time, height and width: a quarter, and three eighths twice."""
    quarter = head_dim // 8
    side = (head_dim // 2 - quarter) // 2
    return [head_dim // 2 - 2 * side, side, side]


def config(shape: Shape) -> Any:
    """The transformers config of `shape`."""
    return _qwen_config(shape) if shape.architecture == "qwen2-vl" else _llava_config(shape)


def _llava_config(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

    text, vision = shape.text, shape.vision
    options: dict[str, Any] = {
        "text_config": LlamaConfig(
            vocab_size=text.vocabulary,
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        ),
        "vision_config": CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image,
            patch_size=vision.patch,
        ),
        "image_token_index": min(32000, text.vocabulary - 1),
        "image_seq_length": vision.side**2,
    }
    if shape.architecture == "llava":
        return LlavaConfig(**options)
    pinpoints = [list(size) for size in shape.pinpoints]
    return LlavaNextConfig(image_grid_pinpoints=pinpoints, **options)


def _qwen_config(shape: Shape) -> Any:
    from transformers import Qwen2VLConfig

    text, vision = shape.text, shape.vision
    special = text.vocabulary - 1
    published = text.vocabulary > 151656
    return Qwen2VLConfig(
        text_config={
            "vocab_size": text.vocabulary,
            "hidden_size": text.hidden,
            "intermediate_size": text.intermediate,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 151643 if published else 1,
            "eos_token_id": 151645 if published else 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": mrope_section(text.head_dim),
            },
        },
        vision_config={
            "depth": vision.layers,
            "embed_dim": vision.hidden,
            "hidden_size": text.hidden,
            "mlp_ratio": vision.intermediate // vision.hidden,
            "num_heads": vision.heads,
            "patch_size": vision.patch,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": vision.temporal,
        },
        image_token_id=151655 if published else special,
        video_token_id=151656 if published else special - 1,
        vision_start_token_id=151652 if published else special - 2,
        vision_end_token_id=151653 if published else special - 3,
    )


@dataclass(frozen=True)
class DecoderKind:
    """What a text model of transformers has beside its products. Each was held against what
    transformers makes of it: parameters, FLOPs, logits.

    biases: of q, k, v and o: "never", of "qkv" alone, or as `attention_bias` says ("config").
    norms: vectors of the hidden width in a layer. qk_norm: weights of the norms of queries and keys
    in a layer, from heads, kv heads and head_dim.
    """

    biases: Literal["never", "qkv", "config"] = "never"
    norms: int = 2
    qk_norm: Callable[[int, int, int], int] = lambda heads, kv_heads, head_dim: 0


DECODERS: dict[str, DecoderKind] = {
    "llama": DecoderKind("config"),
    "mistral": DecoderKind(),
    "qwen2": DecoderKind("qkv"),
    "qwen2_vl_text": DecoderKind("qkv"),
    "qwen3": DecoderKind("config", qk_norm=lambda heads, kv_heads, head_dim: 2 * head_dim),
    "gemma": DecoderKind("config"),
    "phi3": DecoderKind(),
    "granite": DecoderKind("config"),
    "olmo2": DecoderKind(
        "config", qk_norm=lambda heads, kv_heads, head_dim: (heads + kv_heads) * head_dim
    ),
    "cohere": DecoderKind(
        "config", norms=1, qk_norm=lambda heads, kv_heads, head_dim: (heads + kv_heads) * head_dim
    ),
}
COSTLY = (
    "adapter",
    "expert",
    "linear_attn",
    "lora",
    "mamba",
    "moe",
    "mtp",
    "nextn",
    "quant",
    "sliding",
    "window",
)
"""Words of keys that say something of what a model costs: one that transformers does not read is
not passed over."""
NEUTRAL = {"embedding_multiplier": 1.0, "use_bidirectional_attention": False}
"""What the text model's own forward would do with other values, and the engine does not."""
MOST = {"layers": 1024, "width": 2**17, "heads": 1024, "words": 2**23, "pixels": 2**14}


class _Reader:
    """Reads one section of a config; whatever is not as it must be is a ModelError with its key."""

    def __init__(self, name: str, section: str, config: Any) -> None:
        self.name, self.section, self.config = name, section, config

    def refuse(self, reason: str) -> NoReturn:
        raise ModelError(f"{self.name}: {self.section}: {reason}")

    def count(self, key: str, most: int, least: int = 1) -> int:
        value = getattr(self.config, key, None)
        if type(value) is not int or not least <= value <= most:
            self.refuse(f"{key} is {value!r}; known: a whole number from {least} to {most:,}")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        value = getattr(self.config, key, allowed[0])
        if value not in allowed:
            known = ", ".join(map(str, allowed))
            self.refuse(f"{key} {value!r} is not supported; known: {known}")

    def flag(self, key: str) -> bool:
        return bool(getattr(self.config, key, False))


def require_understood(name: str, given: Any) -> None:
    """Refuse a config of which a part that costs is not understood; raises ModelError."""
    for section, config in (
        ("config.json", given),
        ("text_config", getattr(given, "text_config", None)),
        ("vision_config", getattr(given, "vision_config", None)),
    ):
        reader = _Reader(name, section, config)
        if config is None:
            reader.refuse("there is none")
        quantised = getattr(config, "quantization_config", None)
        if quantised:
            reader.refuse(
                f"quantised weights ({_quantisation(quantised)}) are not supported: what they "
                "weigh and compute is not known; known: float32, float16 and bfloat16 checkpoints"
            )
        known = {field.name for field in dataclasses.fields(config)}
        for key in sorted(set(vars(config)) - known):
            if any(word in key for word in COSTLY) and getattr(config, key):
                reader.refuse(
                    f"{key!r} is nothing that transformers' {config.model_type} reads: this may be "
                    "another model than config.json says"
                )


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
    text, called = _text(name, given), Path(name).name
    token = getattr(given, "image_token_index", None)
    token = getattr(given, "image_token_id", None) if token is None else token
    if type(token) is not int or not 0 <= token < text.vocabulary:
        _Reader(name, "config.json", given).refuse(
            f"the image token is {token!r}; known: a token of the vocabulary, 0 to "
            f"{text.vocabulary - 1:,}"
        )
    if architecture == "qwen2-vl":
        return Shape(called, architecture, text, _qwen_tower(name, given, text))
    pinpoints: tuple[tuple[int, int], ...] = ()
    if architecture == "llava-next":
        pinpoints = _pinpoints(name, given)
    return Shape(
        called,
        architecture,
        text,
        _clip_tower(name, given),
        pinpoints,
        projector_bias=bool(given.multimodal_projector_bias),
    )


def _text(name: str, given: Any) -> Text:
    config = given.text_config
    reader = _Reader(name, "text_config", config)
    if config.model_type not in DECODERS:
        known = ", ".join(DECODERS)
        reader.refuse(f"the text model {config.model_type!r} is not supported; known: {known}")
    for key, neutral in NEUTRAL.items():
        reader.require(key, neutral, None)
    if _slides(config):
        reader.refuse("sliding-window attention is not supported; known: full attention")
    require_stateless_config(name, given)
    decoder = DECODERS[config.model_type]
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
        vocabulary=reader.count("vocab_size", MOST["words"]),
        qkv_bias=biased or decoder.biases == "qkv",
        tied=bool(given.tie_word_embeddings),
        head_size=None if head_dim * heads == hidden else head_dim,
        output_bias=biased,
        ffn_bias=reader.flag("mlp_bias"),
        norms=decoder.norms,
        qk_norm=normed(heads, kv_heads, head_dim),
    )


def _heads(reader: _Reader) -> int:
    heads = reader.count("num_attention_heads", MOST["heads"])
    if not getattr(reader.config, "head_dim", None) and reader.config.hidden_size % heads:
        reader.refuse(f"{heads} heads do not divide hidden_size {reader.config.hidden_size}")
    return heads


def _slides(text: Any) -> bool:
    """Whether a decoder layer attends to a window only: the engine runs prefill without a mask."""
    kinds = getattr(text, "layer_types", None)
    return bool(set(kinds) - {"full_attention"} if kinds else getattr(text, "sliding_window", None))


def _clip_tower(name: str, given: Any) -> Vision:
    config = given.vision_config
    reader = _Reader(name, "vision_config", config)
    if config.model_type != "clip_vision_model":
        reader.refuse(f"the tower {config.model_type!r} is not supported; known: clip_vision_model")
    reader.require("num_channels", 3)
    whole = _Reader(name, "config.json", given)
    whole.require("vision_feature_select_strategy", "default")
    layers = reader.count("num_hidden_layers", MOST["layers"])
    chosen = given.vision_feature_layer
    listed = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    if not listed or not all(type(n) is int and -layers - 1 <= n <= layers for n in listed):
        whole.refuse(f"vision_feature_layer {chosen!r}: the tower has {layers} layers")
    patch = reader.count("patch_size", MOST["pixels"])
    return Vision(
        layers=layers,
        hidden=reader.count("hidden_size", MOST["width"]),
        intermediate=reader.count("intermediate_size", MOST["width"]),
        heads=reader.count("num_attention_heads", MOST["heads"]),
        patch=patch,
        image=reader.count("image_size", MOST["pixels"], least=patch),
        feature_layers=tuple(listed),
    )


def _qwen_tower(name: str, given: Any, text: Text) -> Vision:
    config = given.vision_config
    reader = _Reader(name, "vision_config", config)
    reader.require("in_channels", 3)
    reader.require("hidden_size", text.hidden)
    width = reader.count("embed_dim", MOST["width"])
    ratio = config.mlp_ratio
    if not isinstance(ratio, (int, float)) or not 0 < ratio <= MOST["width"]:
        reader.refuse(f"mlp_ratio is {ratio!r}")
    return Vision(
        layers=reader.count("depth", MOST["layers"]),
        hidden=width,
        intermediate=int(width * ratio),
        heads=reader.count("num_heads", MOST["heads"]),
        patch=reader.count("patch_size", MOST["pixels"]),
        image=0,
        merge=reader.count("spatial_merge_size", 64),
        temporal=reader.count("temporal_patch_size", 64),
        feature_layers=(-1,),
    )


def _pinpoints(name: str, given: Any) -> tuple[tuple[int, int], ...]:
    """The sizes in pixels, height and width, to which a picture may be resized."""
    listed, side = given.image_grid_pinpoints, given.vision_config.image_size
    reader = _Reader(name, "config.json", given)
    if not isinstance(listed, (list, tuple)) or not listed:
        reader.refuse("image_grid_pinpoints holds no size")
    for size in listed:
        fits = (
            isinstance(size, (list, tuple))
            and len(size) == 2
            and all(type(n) is int and 0 < n <= MOST["pixels"] and n % side == 0 for n in size)
        )
        if not fits:
            reader.refuse(f"image_grid_pinpoints: {size!r} is not made of tiles of {side} pixels")
    return tuple((size[0], size[1]) for size in listed)
