"""What goes with a model: image processor, tokenizer and chat template."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...methods.contract.errors import first_line
from .errors import ModelError
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
            size={"shortest_edge": vision.least_pixels, "longest_edge": vision.most_pixels},
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


@dataclass(frozen=True)
class Companions:
    """What a checkpoint brings beside its weights. Each may be missing, and `missing` says why:
    only what a request needs is asked for."""

    image_processor: Any
    tokenizer: Any
    chat_template: str | None
    missing: dict[str, str]


def companions(source: str, architecture: Architecture) -> Companions:
    """Image processor, tokenizer and chat template of a checkpoint.

    They are loaded apart: without torchvision, transformers cannot build Qwen2-VL's joint
    processor, whose video part needs it.
    """
    missing: dict[str, str] = {}

    def loaded(what: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except Exception as error:
            missing[what] = first_line(error)
            return None

    tokenizer = loaded("tokenizer", lambda: _tokenizer(source))
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if tokenizer is not None and not template:
        template = loaded("chat template", lambda: _legacy_template(source))
    processor = loaded("image processor", lambda: _image_processor(source, architecture))
    return Companions(processor, tokenizer, template, missing)


def fitted(name: str, shape: Shape, processor: Any) -> Shape:
    """The shape with what its checkpoint's image processor makes of pictures; raises ModelError
    where the two do not fit each other."""

    def own(key: str) -> Any:
        return getattr(processor, key, None)

    def require(what: str, given: Any, wanted: Any) -> None:
        if given != wanted:
            raise ModelError(
                f"{name}: its image processor has {what} {given}, and its config {wanted}"
            )

    vision = shape.vision
    if shape.architecture == "qwen2-vl":
        require("patch_size", own("patch_size"), vision.patch)
        require("merge_size", own("merge_size"), vision.merge)
        require("temporal_patch_size", own("temporal_patch_size"), vision.temporal)
        size = dict(own("size") or {})
        least, most = size.get("shortest_edge"), size.get("longest_edge")
        if not (isinstance(least, int) and isinstance(most, int) and 0 < least <= most):
            raise ModelError(
                f"{name}: its image processor gives no least and most pixels (shortest_edge and "
                f"longest_edge), but {size}"
            )
        vision = dataclasses.replace(vision, least_pixels=least, most_pixels=most)
        return dataclasses.replace(shape, vision=vision)
    cut = dict((own("crop_size") if own("do_center_crop") else own("size")) or {})
    sides = [cut.get(key, cut.get("shortest_edge")) for key in ("height", "width")]
    require("tiles of", sides, [vision.image] * 2)
    if shape.architecture == "llava-next":
        listed = [list(size) for size in own("image_grid_pinpoints") or ()]
        require("image_grid_pinpoints", listed, [list(size) for size in shape.pinpoints])
    return shape


def image_processor(source: str, architecture: Architecture) -> Any | None:
    """The image processor of a checkpoint; None where it brings none that can be read."""
    try:
        return _image_processor(source, architecture)
    except Exception:
        return None


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


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
