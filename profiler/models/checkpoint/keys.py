"""Keys of a config: those that transformers reads, and those that are known to say nothing of what
a model computes. All others are refused by name: they may say that this is another model."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import re
from typing import Any

from ....reports.sanitize import quoted
from ..errors import ModelError
from .decoders import DECODERS

ANY = None
"""Whatever the value of a key is, it changes nothing that is computed."""

EVERYWHERE: dict[str, tuple[Any, ...] | None] = {
    # what older versions of transformers wrote into every section
    "_attn_implementation_autoset": ANY,
    "_flash_attn_2_enabled": ANY,
    "add_cross_attention": (False,),
    "base_model_tp_plan": ANY,  # transformers 5.17 gives one to models with a tied head
    "bos_token_id": ANY,
    "decoder_start_token_id": ANY,
    "eos_token_id": ANY,
    "finetuning_task": ANY,
    "is_decoder": ANY,
    "pad_token_id": ANY,
    "prefix": ANY,
    "sep_token_id": ANY,
    "task_specific_params": ANY,
    "tf_legacy_loss": ANY,
    "tie_encoder_decoder": (False,),
    "torchscript": ANY,
    "use_bfloat16": ANY,
    "use_cache": ANY,
    # what tokenizers and tools for training leave behind
    "ignore_index": ANY,
    "max_sequence_length": ANY,
    "model_max_length": ANY,
    "pretraining_tp": ANY,
    "tokenizer_class": ANY,
    "tokenizer_model_max_length": ANY,
    "tokenizer_padding_side": ANY,
    "transformers.js_config": ANY,
    "unsloth_fixed": ANY,
    "unsloth_version": ANY,
    "vision_token_id": ANY,
    # LLaVA's own names: they hold where they say what transformers does
    "freeze_mm_mlp_adapter": ANY,
    "image_aspect_ratio": ANY,
    "mm_patch_merge_type": ANY,
    "mm_projector_lr": ANY,
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": ("patch",),
    "mm_vision_tower": ANY,
    "mm_vision_tower_lr": ANY,
    "tune_mm_mlp_adapter": ANY,
    "unfreeze_mm_vision_tower": ANY,
    "use_image_newline_parameter": (True,),
    "use_mm_proj": (True,),
}
WHOLE: dict[str, tuple[Any, ...] | None] = {"vocab_size": ANY}
"""Harmless beside the sections alone, and in the vision tower's alone."""
VISION: dict[str, tuple[Any, ...] | None] = {
    "dropout": ANY,
    "in_chans": (3,),
    "initializer_factor": ANY,
    "tie_word_embeddings": ANY,
    "vision_use_head": (False,),  # no field of its class in transformers 5.17
    "vocab_size": ANY,  # of CLIP's text model, which is not there
}
TWICE = {
    "mm_hidden_size": "vision_config.hidden_size",
    "mm_vision_select_layer": "vision_feature_layer",
    "rope_theta": "text_config.rope_theta",
    "spatial_patch_size": "vision_config.patch_size",
}
"""What says the same as another key, and holds where it does."""
ROTARY = ("rope_parameters", "rope_scaling")
"""Held against what is known by `rotary`."""


def require_known_keys(name: str, given: Any) -> None:
    """Refuse a config with a key of which nothing is known, or that contradicts itself; raises
    ModelError."""
    sections = {"config.json": given, "text_config": given.text_config}
    sections["vision_config"] = given.vision_config
    for section, config in sections.items():
        if getattr(config, "is_heterogeneous", False):
            raise ModelError(
                f"{name}: {section}: layers with sizes of their own (per_layer_config) are not "
                "supported"
            )
        kind: Any = type(config)
        unknown = sorted(set(vars(config)) - _own(kind))
        faults = {key: _fault(key, section, sections) for key in unknown}
        found = [key for key in unknown if faults[key]]
        if found:
            more = f" (and {len(found) - 1} more keys)" if len(found) > 1 else ""
            raise ModelError(f"{name}: {section}: {faults[found[0]]}{more}")
        _require_architectures(name, section, config)


@functools.cache
def _own(kind: Any) -> frozenset[str]:
    """What a config of this class holds when nothing is said."""
    return frozenset(_fields(kind) | set(vars(kind())) | {"_commit_hash", "quantization_config"})


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _fault(key: str, section: str, sections: dict[str, Any]) -> str:
    """Why a key that the section's class does not have cannot be passed over; "" where it can."""
    value = vars(sections[section])[key]
    harmless = EVERYWHERE | {"config.json": WHOLE, "vision_config": VISION}.get(section, {})
    if value in (None, "", [], {}) or key in ROTARY:
        return ""
    if key == "model_type":
        return _wrong_type(value, sections[section], sections["config.json"])
    if key in harmless:
        allowed = harmless[key]
        if allowed is ANY or value in allowed:
            return ""
        return f"{key} {quoted(value)} is not supported; known: {allowed[0]!r}"
    place = TWICE.get(key) or _place(key, section, sections)
    if place:
        other = _at(place, sections["config.json"])
        if value == other or (other is None and value is False):
            return ""
        off = getattr(sections["text_config"], "use_sliding_window", None) is False
        if off and key in ("sliding_window", "max_window_layers"):
            return ""
        return f"{key} is {quoted(value)} here and {quoted(other)} in {place}"
    config = sections[section]
    if value is False and key in _fields_of_decoders():
        return ""
    near = difflib.get_close_matches(key, _fields(type(config)), n=1, cutoff=0.85)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"{quoted(key)} is nothing that transformers' {config.model_type} reads{meant}: this may "
        "be another model than config.json says"
    )


def _wrong_type(value: Any, config: Any, whole: Any) -> str:
    """Why a section cannot be called so; "" where it can: older files of Qwen2-VL call the tower as
    they call the whole."""
    own = type(config).model_type
    if value in (own, type(whole).model_type):
        return ""
    return f"model_type {quoted(value)} is not supported here; known: {own}"


def _place(key: str, section: str, sections: dict[str, Any]) -> str:
    """Where another section has this key; "" where none has."""
    for other, config in sections.items():
        if other != section and key in _fields(type(config)):
            return key if other == "config.json" else f"{other}.{key}"
    return ""


def _at(place: str, given: Any) -> Any:
    if place == "text_config.rope_theta":
        return (getattr(given.text_config, "rope_parameters", None) or {}).get("rope_theta")
    return operator.attrgetter(place)(given)


@functools.cache
def _fields_of_decoders() -> frozenset[str]:
    """What the text models that are known have: switches that are off say nothing."""
    from transformers import CONFIG_MAPPING

    return frozenset().union(*(_fields(CONFIG_MAPPING[kind]) for kind in DECODERS))


def _require_architectures(name: str, section: str, config: Any) -> None:
    """Refuse a section whose `architectures` are not those of its model type."""
    family = re.sub("(Text|Vision)?Config$", "", type(config).__name__)
    known, pattern = f"{family}...", rf"\w*{family}(Text|Vision)?(Model|For|LMHead)\w*"
    if family == "InternVL":
        known, pattern = "InternVisionModel", rf"InternVisionModel|{pattern}"
    if section == "config.json":
        known = pattern = f"{family}ForConditionalGeneration"
    listed = [] if config.architectures is None else config.architectures
    for said in listed if isinstance(listed, (list, tuple)) else [listed]:
        if not re.fullmatch(pattern, str(said)):
            raise ModelError(
                f"{name}: {section}: architectures says {quoted(said)}, which is no "
                f"{config.model_type}; known: {known}"
            )
