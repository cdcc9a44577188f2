"""What goes with a model: image processor, tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .shapes import Architecture, Shape

_PROCESSORS: dict[Architecture, str] = {  # those that the checkpoints come with, PIL back end
    "llava": "CLIPImageProcessorPil",
    "llava-next": "LlavaNextImageProcessorPil",
    "qwen2-vl": "Qwen2VLImageProcessorPil",
}


def transformers_class(name: str) -> Any:
    """A class of transformers by name; only what is asked for is imported."""
    import transformers

    return getattr(transformers, name)


def default_processor(shape: Shape) -> Any:
    vision, processor = shape.vision, transformers_class(_PROCESSORS[shape.architecture])
    if shape.architecture == "qwen2-vl":
        # The area in pixels is given outright: transformers 5.17 takes the bounds of any
        # checkpoint that was loaded before for its default.
        return processor(
            size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
            patch_size=vision.patch,
            merge_size=vision.merge,
            temporal_patch_size=vision.temporal,
        )
    sizes = {
        "size": {"shortest_edge": vision.image},
        "crop_size": {"height": vision.image, "width": vision.image},
    }
    if shape.architecture == "llava":
        return processor(**sizes)
    pinpoints = [list(size) for size in shape.pinpoints]
    return processor(image_grid_pinpoints=pinpoints, **sizes)


def processors(source: str, architecture: Architecture) -> dict[str, Any]:
    """Image processor, tokenizer and chat template of a checkpoint.

    They are loaded apart: without torchvision, transformers cannot build Qwen2-VL's joint
    processor, whose video part needs it.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return {
        "image_processor": _image_processor(source, architecture),
        "tokenizer": tokenizer,
        "chat_template": getattr(tokenizer, "chat_template", None) or _legacy_template(source),
    }


def _image_processor(source: str, architecture: Architecture) -> Any:
    try:
        return transformers_class("AutoImageProcessor").from_pretrained(
            source, trust_remote_code=False
        )
    except ImportError:  # transformers 5.17 wants torchvision for the automatic choice alone
        return transformers_class(_PROCESSORS[architecture]).from_pretrained(source)


def _legacy_template(source: str) -> str | None:
    """The chat template of older checkpoints: a file that only the joint processor reads."""
    from transformers.utils.hub import cached_file

    path = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    template: str = json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]
    return template
