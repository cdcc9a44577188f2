"""What config.json and the weights beside it say, held against each other before any is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ....methods.contract.errors import first_line
from ....reports.sanitize import quoted
from ..errors import ModelError
from ..shapes import Shape
from .decoders import DECODERS, require_known_decoder
from .keys import ROTARY
from .reader import MOST, Reader

SECTIONS = ("text_config", "vision_config")
COUNTS = {
    "depth": MOST["layers"],
    "embed_dim": MOST["width"],
    "head_dim": MOST["width"],
    "hidden_size": MOST["width"],
    "image_size": MOST["pixels"],
    "intermediate_size": MOST["width"],
    "max_position_embeddings": MOST["positions"],
    "num_attention_heads": MOST["heads"],
    "num_heads": MOST["heads"],
    "num_hidden_layers": MOST["layers"],
    "num_key_value_heads": MOST["heads"],
    "num_position_embeddings": MOST["width"],
    "out_hidden_size": MOST["width"],
    "patch_size": MOST["pixels"],
    "spatial_merge_size": 64,
    "temporal_patch_size": 64,
    "vocab_size": MOST["words"],
}
"""Keys that give a number of something, and the largest that is taken."""
SIZES = set(COUNTS) - {"max_position_embeddings"}
"""A section that holds none of these says nothing of its model's size."""
BUFFERS = ("inv_freq", "position_ids")
"""Ends of names under which older checkpoints save what is no weight."""
WHOLE = ("F64", "F32", "F16", "BF16")
"""What safetensors call the weights of which a parameter is one value."""
DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def require_object(name: str, path: Path) -> None:
    """Refuse a config.json that is JSON and no object; one that is no JSON is left to
    transformers."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return
    if not isinstance(found, dict):
        raise ModelError(
            f"{name}: no readable model config (config.json holds a {type(found).__name__} and no "
            "object)"
        )


def require_sections(name: str, written: dict[str, Any]) -> None:
    """Refuse a config of which a section is none, or gives a size that no model has: transformers
    takes its own in their place, or fails on it without a name. Raises ModelError."""
    for section in SECTIONS:
        if not isinstance(written.get(section, {}), dict):
            raise ModelError(
                f"{name}: config.json: {section} is {quoted(written[section])}; known: a section"
            )
    places = {"config.json": written, **{s: written.get(s, {}) for s in SECTIONS}}
    for place, keys in places.items():
        reader = Reader(name, place, SimpleNamespace(**{str(k): v for k, v in keys.items()}))
        for key in sorted(set(COUNTS) & set(keys)):
            if keys[key] is not None and not _is_pair(key, keys[key]):
                reader.count(key, COUNTS[key])
        _require_kinds(reader, keys)
    kind = places["text_config"].get("model_type")
    if kind not in (None, written.get("model_type")):  # older files call it as they call the whole
        require_known_decoder(Reader(name, "text_config", None), kind)


def _is_pair(key: str, value: Any) -> bool:
    """Whether a size in pixels is given as height and width."""
    pair = key in ("image_size", "patch_size") and isinstance(value, list) and len(value) == 2
    return pair and all(type(side) is int and 1 <= side <= COUNTS[key] for side in value)


def _require_kinds(reader: Reader, keys: dict[str, Any]) -> None:
    """What transformers looks up by a name must have one."""
    from transformers import CONFIG_MAPPING

    for key in ("dtype", "torch_dtype"):
        value = keys.get(key)
        if value is not None and value not in DTYPES:
            reader.refuse(f"{key} is {quoted(value)}; known: {', '.join(DTYPES)}")
    kind = keys.get("model_type")
    if kind is not None and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
        reader.refuse(f"model_type {quoted(kind)} is none of transformers'")
    for key in (*ROTARY, "quantization_config"):
        value = keys.get(key)
        if value is not None and not isinstance(value, dict):
            reader.refuse(f"{key} is {quoted(value)}; known: a section")


def require_sizes(name: str, written: dict[str, Any], *, flat: bool) -> None:
    """Refuse a config of which a section gives no size: transformers takes one of its own for it,
    of another model. flat: the older format has the text model's keys beside the sections. Raises
    ModelError."""
    for section in SECTIONS:
        said = written.get(section)
        whole = said is None and flat and section == "text_config"
        if whole:
            said = written
        if section == "text_config" and not whole and _unknown_decoder(said):
            continue  # refused by its name, which no size would mend
        if not SIZES & {key for key, value in (said or {}).items() if value is not None}:
            raise ModelError(
                f"{name}: config.json: {section} gives no size of the model, and no safetensors "
                "lie beside it to tell: transformers' default would be planned. Give its "
                "hidden_size, num_hidden_layers, ..."
            )


def _unknown_decoder(section: dict[str, Any] | None) -> bool:
    return (section or {}).get("model_type", "llama") not in DECODERS


def require_same_weights(name: str, files: list[Path], shape: Shape) -> None:
    """Hold the weights of these files against the shape that a config gives; only their headers are
    read. Raises ModelError."""
    if not files:
        return
    held: dict[str, tuple[str, list[int]]] = {}
    for path in files:
        held |= _weights(name, path)
    packed = sorted({kind for kind, _ in held.values() if kind not in WHOLE})
    if packed:
        raise ModelError(
            f"{name}: its weights are {', '.join(packed)}: quantised weights are not supported: "
            "what they weigh and compute is not known; known: float32, float16 and bfloat16 "
            "checkpoints"
        )
    for end, planned in _planned(shape):
        for key, (_, found) in held.items():
            if key.endswith(end) and "vis" not in key and found != planned:
                raise ModelError(
                    f"{name}: {quoted(key, 100)} is {tuple(found)} in its weights, and "
                    f"{tuple(planned)} by what its config says"
                )
    heads = [key for key in held if key.endswith("lm_head.weight")] if shape.text.tied else []
    if heads and not _same_values(files, heads[0]):
        heads = []  # transformers leaves a head that is not the embedding as it is
    count = sum(math.prod(s) for key, (_, s) in held.items() if key not in heads)
    if count != shape.parameters:
        raise ModelError(wrong_size(name, count, shape))


def wrong_size(name: str, held: int, shape: Shape) -> str:
    """What is said of weights that are not as many as the shape's parameters."""
    return (
        f"{name}: its weights hold {held:,} parameters, and {shape.parameters:,} by what its "
        "config says: a part of this model is not understood"
    )


def _planned(shape: Shape) -> Iterator[tuple[str, list[int]]]:
    """Ends of names of the decoder's weights, and their shapes; those of towers, which are called
    `visual` or `vision_...`, may end likewise."""
    text = shape.text
    yield "embed_tokens.weight", [text.vocabulary, text.hidden]
    yield "mlp.down_proj.weight", [text.hidden, text.intermediate]
    yield "self_attn.o_proj.weight", [text.hidden, text.attention_width]


def weight_files(folder: Path | None) -> list[Path]:
    """The safetensors that transformers would load; none where one is missing."""
    if folder is None:
        return []
    index = folder / INDEX
    names = [SINGLE]
    if not (folder / SINGLE).is_file() and index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return []
    found = [folder / str(name) for name in names]
    return found if all(path.is_file() for path in found) else []


def _weights(name: str, path: Path) -> dict[str, tuple[str, list[int]]]:
    """Kind and shape of each weight of a safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no dict)
            return {
                key: (weight.get_dtype(), weight.get_shape())
                for key, weight in weights.items()
                if not key.endswith(BUFFERS)
            }
    except Exception as error:  # its errors have no common class
        raise ModelError(f"{name}: no readable weights ({first_line(error)})") from error


def _same_values(files: list[Path], head: str) -> bool:
    """Whether the head's weights are those of the embedding, which are read for it."""
    import torch
    from safetensors import safe_open

    found = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no dict)
                if key == head or key.endswith("embed_tokens.weight"):
                    found[key == head] = file.get_tensor(key)
    return len(found) == 1 or torch.equal(found[True], found[False])
