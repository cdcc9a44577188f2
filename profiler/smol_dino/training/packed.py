"""Both pretrained parts in a few small files, for a machine that has no network and none of their
packages: the language model's blocks as they are, the tower in half precision.

`python -m tpprof.profiler.smol_dino.training.packed --gguf FILE --onnx FILE --parts DIR DIR DIR`
writes them. The tower's last layer, which nothing reads, is left out.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import language, tower

BLOCK = 32  # weights
MOST = 43 * 2**20  # bytes of a part
TOKENIZER = "tokenizer"
UNREAD = ("encoder.layer.11.", "layernorm.")

Item = tuple[str, str, list[int], bytes]
"""Name, kind, shape of the bytes, and the bytes, compressed."""


def dequantised(kind: str, data: NDArray[np.uint8]) -> Any:
    """Weights [rows, columns] of rows of blocks: Q8_0 is a scale and 32 signed bytes; Q4_1 a scale,
    a least value, and 32 halves of bytes, the lower ones first."""
    size = {"Q8_0": 34, "Q4_1": 20}[kind]
    blocks = data.reshape(len(data), -1, size)
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        return (scale * blocks[..., 2:].view(np.int8)).reshape(len(data), -1)
    least = blocks[..., 2:4].copy().view(np.float16).astype(np.float32)
    halves = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], -1)
    return (scale * halves.astype(np.float32) + least).reshape(len(data), -1)


def write(gguf_file: Path, onnx_file: Path, parts: Sequence[Path]) -> None:
    """Fill the folders `parts`, each with one file."""
    reader = language.read(gguf_file)
    raw = [
        (f"language/{language.name_of(t.name)}", t.tensor_type.name, language.rows(t.name, t.data))
        for t in reader.tensors
    ]
    raw += [
        (f"tower/{name}", "F16", value.astype(np.float16))
        for name, value in tower.weights(onnx_file).items()
        if not name.startswith(UNREAD)
    ]
    text = language.new_tokenizer(reader).backend_tokenizer.to_str().encode()
    raw.append((TOKENIZER, "text", np.frombuffer(text, np.uint8)))
    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(lambda one: _compressed(*one), raw))
    left: list[Item] = sorted(items, key=lambda item: -len(item[3]))
    for part in parts:
        chosen, size = [], 0
        for item in left:
            if size + len(item[3]) <= MOST - sum(f.stat().st_size for f in part.glob("*")):
                chosen.append(item)
                size += len(item[3])
        left = [item for item in left if item not in chosen]
        _save(part / "weights.npz", chosen)
    if left:
        raise ValueError(f"{sum(len(item[3]) for item in left):,} bytes do not fit")


def read(parts: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Weights of the language model and of the tower (NumPy, float32), and the tokenizer's JSON."""
    items: list[Item] = []
    for part in parts:
        with np.load(part / "weights.npz") as held:
            index = json.loads(held["index"].tobytes())
            items += [(*given, held[str(i)].tobytes()) for i, given in enumerate(index)]
    with ThreadPoolExecutor(16) as pool:
        found = dict(pool.map(_restored, items))
    text = found.pop(TOKENIZER).tobytes().decode()
    both: dict[str, dict[str, Any]] = {"language": {}, "tower": {}}
    for name, value in found.items():
        place, _, own = name.partition("/")
        both[place][own] = value
    zeros = {
        name.replace("layer.10.", "layer.11."): np.zeros_like(value)
        for name, value in both["tower"].items()
        if "layer.10." in name
    }
    width = len(zeros["encoder.layer.11.norm1.weight"])
    both["tower"] |= {
        **zeros,
        **dict.fromkeys(("layernorm.weight", "layernorm.bias"), np.zeros(width, np.float32)),
    }
    return both["language"], both["tower"], text


def _compressed(name: str, kind: str, data: NDArray[Any]) -> Item:
    """Bytes of a block, or of a number, that stand at one place come one after the other."""
    plain = np.ascontiguousarray(data).view(np.uint8)
    step = {"Q8_0": 34, "Q4_1": 20, "F16": 2, "F32": 4, "text": 1}[kind]
    if kind in ("F16", "F32"):
        plain = plain.reshape(-1, step).T
    packed = lzma.compress(np.ascontiguousarray(plain).tobytes(), preset=2)
    return name, kind, list(data.shape), packed


def _restored(item: Item) -> tuple[str, NDArray[Any]]:
    name, kind, shape, packed = item
    data = np.frombuffer(lzma.decompress(packed), np.uint8)
    if kind in ("F16", "F32"):
        step = {"F16": 2, "F32": 4}[kind]
        numbers = np.ascontiguousarray(data.reshape(step, -1).T).reshape(-1)
        return name, numbers.view(f"<f{step}").reshape(shape).astype(np.float32)
    return name, data if kind == "text" else dequantised(kind, data.reshape(shape))


def _save(path: Path, items: Sequence[Item]) -> None:
    index = np.frombuffer(json.dumps([item[:3] for item in items]).encode(), np.uint8)
    blobs: Any = {str(i): np.frombuffer(item[3], np.uint8) for i, item in enumerate(items)}
    np.savez(path, index=index, **blobs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Packs both pretrained parts.")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--parts", type=Path, nargs="+", required=True, help="folders to fill")
    given = parser.parse_args()
    write(given.gguf, given.onnx, given.parts)


if __name__ == "__main__":
    main()
