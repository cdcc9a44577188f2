"""What goes with a model: image processor, tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...methods.contract.errors import first_line
from .architecture import Architecture
from .errors import ModelError
from .shapes import Shape

PREPROCESSOR, VIDEO = "preprocessor_config.json", "video_preprocessor_config.json"
PICTURE_PLACES = ((PREPROCESSOR, ""), ("processor_config.json", "image_processor"))
VIDEO_PLACES = (("processor_config.json", "video_processor"), (VIDEO, ""), (PREPROCESSOR, ""))
TELLING = (
    "aspect",
    "crop",
    "edge",
    "frame",
    "grid",
    "max_",
    "merge",
    "min_",
    "pad",
    "patch",
    "pixel",
    "resize",
    "scan",
    "size",
    "slice",
    "split",
    "tile",
)
"""Words of keys that say something of how many tokens a picture becomes: one that transformers does
not read is not passed over."""


def transformers_class(name: str) -> Any:
    """A class of transformers by name; only what is asked for is imported."""
    import transformers

    return getattr(transformers, name)


def default_processor(shape: Shape) -> Any:
    """The image processor of a shape with random weights."""
    architecture = shape.architecture
    made = transformers_class(architecture.image_processor)
    return made(**architecture.processor_options(shape))


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


def image_processor(name: str, source: str, architecture: Architecture) -> Any | None:
    """The image processor of a checkpoint; None where it brings none.

    Raises ModelError for one that cannot be read, or that is not the architecture's own.
    """
    try:
        if _described(source) is None:
            return None
        return _image_processor(source, architecture)
    except Exception as error:
        raise ModelError(
            f"{name}: no readable image processor ({first_line(error)}); use --visual-tokens N, "
            "which needs none"
        ) from error


def _described(
    source: str, places: Sequence[tuple[str, str]] = PICTURE_PLACES
) -> dict[str, Any] | None:
    """What a checkpoint says of its image processor, in the first of the places where transformers
    looks for it, each a file and a section in it; None where it says nothing."""
    from transformers.utils.hub import cached_file

    for file, section in places:
        path = cached_file(
            source,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            continue
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{file} holds a {type(found).__name__} and no object")
        described = found.get(section) if section else found
        if isinstance(described, dict):
            return described
    return None


def video_description(source: str) -> dict[str, Any]:
    """What a checkpoint says of its video processor: that of pictures speaks for both where no
    other does."""
    return _described(source, VIDEO_PLACES) or {}


def _require_understood(described: dict[str, Any], architecture: Architecture) -> None:
    """Refuse an image processor that may make of a picture what is not planned; ValueError."""
    own = architecture.image_processor.removesuffix("Pil")
    said = described.get("image_processor_type") or described.get("feature_extractor_type") or own
    called = str(said).removesuffix("Fast").removesuffix("Pil")
    if called not in (own, own.replace("ImageProcessor", "FeatureExtractor")):
        raise ValueError(f"{PREPROCESSOR}: {said!r} is not supported; known for this model: {own}")
    if described.get("auto_map"):
        raise ValueError(f"{PREPROCESSOR}: it brings code of its own (auto_map), never run")
    if described.get("do_resize") is False:
        raise ValueError(f"{PREPROCESSOR}: do_resize False is not supported; known: True")
    kind = transformers_class(architecture.image_processor)
    known = {*kind.valid_kwargs.__annotations__, *dir(kind)}
    for key in sorted(set(described) - known):
        if described[key] and not key.startswith("_") and any(word in key for word in TELLING):
            raise ValueError(f"{PREPROCESSOR}: {key!r} is nothing that transformers' {own} reads")


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _image_processor(source: str, architecture: Architecture) -> Any:
    """On the host all models have PIL's, which transformers' own choice would give only where
    torchvision is missing."""
    _require_understood(_described(source) or {}, architecture)
    kind = transformers_class(architecture.image_processor)
    return kind.from_pretrained(source, **architecture.processor_settings)


def _legacy_template(source: str) -> str | None:
    """The chat template of older checkpoints: a file that only the joint processor reads."""
    from transformers.utils.hub import cached_file

    path = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    template: str = json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]
    return template
