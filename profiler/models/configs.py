"""Between shapes and transformers' configs. What is not understood is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...reports.sanitize import quoted
from .checkpoint.decoders import DECODERS, DecoderKind
from .checkpoint.keys import require_known_keys
from .checkpoint.reader import MOST, Reader
from .rotary import require_mrope_section, require_stateless_config
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
            max_position_embeddings=text.positions,
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
            "max_position_embeddings": text.positions,
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
    text, called = _text(name, given), Path(name).name
    key = "image_token_id" if architecture == "qwen2-vl" else "image_token_index"
    token = getattr(given, key, None)
    if type(token) is not int or not 0 <= token < text.vocabulary:
        Reader(name, "config.json", given).refuse(
            f"the image token ({key}) is {token!r}; known: a token of the vocabulary, 0 to "
            f"{text.vocabulary - 1:,}"
        )
    if architecture == "qwen2-vl":
        require_mrope_section(name, given.text_config, text.head_dim)
        return Shape(called, architecture, text, _qwen_tower(name, given, text))
    tower, pinpoints = _clip_tower(name, given), tuple[tuple[int, int], ...]()
    if architecture == "llava-next":
        pinpoints = _pinpoints(name, given)
    return Shape(
        called,
        architecture,
        text,
        tower,
        pinpoints,
        projector_bias=bool(given.multimodal_projector_bias),
    )


def _text(name: str, given: Any) -> Text:
    config = given.text_config
    reader = Reader(name, "text_config", config)
    if config.model_type not in DECODERS:
        known = ", ".join(DECODERS)
        reader.refuse(f"the text model {config.model_type!r} is not supported; known: {known}")
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


def _clip_tower(name: str, given: Any) -> Vision:
    config = given.vision_config
    reader = Reader(name, "vision_config", config)
    if config.model_type != "clip_vision_model":
        reader.refuse(f"the tower {config.model_type!r} is not supported; known: clip_vision_model")
    reader.activation("hidden_act")
    reader.require("num_channels", 3)
    whole = Reader(name, "config.json", given)
    whole.require("vision_feature_select_strategy", "default")
    whole.activation("projector_hidden_act")
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
    reader = Reader(name, "vision_config", config)
    reader.require("in_channels", 3)
    reader.activation("hidden_act")
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
    reader = Reader(name, "config.json", given)
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
