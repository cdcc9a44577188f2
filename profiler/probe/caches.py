"""Bytes of a key-value cache by layer, in whatever form transformers keeps it."""

from __future__ import annotations

from typing import Any


def layer_bytes(output: Any) -> list[int]:
    """Bytes of keys and values of each layer, from what a decoder returned; [] where it holds no
    cache that is known."""
    cache = getattr(output, "past_key_values", None)
    if cache is None and isinstance(output, (tuple, list)):
        cache = next((part for part in output[1:] if _pairs(part)), None)
    return [sum(map(_bytes, pair)) for pair in _pairs(cache)]


def _pairs(cache: Any) -> list[tuple[Any, ...]]:
    """Keys and values of each layer. transformers 5: `layers`, 4.36: two lists, before: tuples."""
    if cache is None or hasattr(cache, "shape"):
        return []
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    keys, values = getattr(cache, "key_cache", None), getattr(cache, "value_cache", None)
    if keys is not None and values is not None:
        return list(zip(keys, values))  # noqa: B905 (Python 3.9)
    if isinstance(cache, (tuple, list)) and cache and all(_is_pair(pair) for pair in cache):
        return [tuple(pair[:2]) for pair in cache]
    return []


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, (tuple, list)) and len(pair) >= 2 and hasattr(pair[0], "shape")


def _bytes(tensor: Any) -> int:
    if tensor is None or not hasattr(tensor, "numel"):
        return 0
    return int(tensor.numel() * tensor.element_size())
