"""Rotary embeddings: those known to give a request the same positions whatever ran before it.

transformers' others change their frequencies with the lengths that they see, and keep them: one
request would change the next.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ....reports.sanitize import quoted
from ..errors import ModelError

if TYPE_CHECKING:
    from torch import nn

STATELESS = ("default", "linear", "yarn", "llama3", "proportional")
"""Rotary types whose frequencies are fixed when the model is made."""
STATEFUL = ("dynamic", "longrope")
"""Rotary types whose frequencies follow the longest sequence seen."""
IN_TOWERS = (*STATELESS, "axial")
"""Those of vision towers: Qwen2-VL's has one of its own."""
SECTIONS_ONLY = "mrope"  # what Qwen2-VL's files call `default`, for their three axes
DEFAULT_SECTIONS = [16, 24, 24]
"""What transformers takes where a config of Qwen2-VL does not say."""
KEYS = ("rope_parameters", "rope_scaling")
"""What the section is called, today and in older files."""


def require_stateless_config(name: str, given: Any, known: tuple[str, ...] = STATELESS) -> None:
    """Refuse a config whose rotary embedding is not known to be stateless; raises ModelError."""
    text, vision = given.text_config, given.vision_config
    for key in KEYS:
        _require(f"{name}: vision_config", _section(vision, key), IN_TOWERS)
        _require(f"{name}: text_config", _section(text, key), known)
        outer = _section(given, key)
        _require(f"{name}: config.json", outer, (*known, SECTIONS_ONLY))
        if outer and _plain(outer) not in [_plain(_section(text, inner)) for inner in KEYS]:
            raise ModelError(
                f"{name}: config.json: {key} stands outside text_config, where transformers does "
                "not read it: move it there, or remove it"
            )


def require_stateless_file(name: str, raw: dict[str, Any]) -> None:
    """The same for a config as its file has it: transformers passes over a part of what stands
    there, or fails on it, before it makes a config. Raises ModelError."""
    if not isinstance(raw.get("text_config"), dict):
        return  # the older, flat file, of which transformers makes sections
    outer = {key: raw.get(key) for key in KEYS}
    text, vision = raw["text_config"], raw.get("vision_config")
    require_stateless_config(
        name,
        SimpleNamespace(
            text_config=SimpleNamespace(**text),
            vision_config=SimpleNamespace(**vision) if isinstance(vision, dict) else None,
            **outer,
        ),
        (*STATELESS, SECTIONS_ONLY),
    )


def require_mrope_section(
    name: str, text: Any, head_dim: int, *, interleaved: bool = False
) -> None:
    """Refuse frequencies of time, height and width that are not those of a head of `head_dim`, or
    that do not lie as transformers lays them: in turn if `interleaved`. Raises ModelError."""
    section = text.rope_parameters or {}
    said = section.get("mrope_interleaved")
    if said not in (None, interleaved):
        raise ModelError(
            f"{name}: text_config: mrope_interleaved {quoted(said)} is not supported; known: "
            f"{interleaved}"
        )
    sections = section.get("mrope_section", DEFAULT_SECTIONS)
    whole = isinstance(sections, (list, tuple)) and all(type(n) is int and n > 0 for n in sections)
    if not whole or len(sections) != 3 or sum(sections) != head_dim // 2:
        raise ModelError(
            f"{name}: text_config: mrope_section is {quoted(sections)}; known: 3 whole numbers "
            f"that sum to {head_dim // 2}, half the width of a head"
        )


def require_stateless(name: str, module: nn.Module) -> None:
    """Refuse a model whose rotary embedding, as it is now, is not known to be stateless: it may
    have been changed after loading. Raises ModelError."""
    for path, part in module.named_modules():
        if not hasattr(part, "rope_type"):
            continue
        _require(f"{name}: {path}", {"rope_type": part.rope_type}, IN_TOWERS)
        _require(f"{name}: {path}", _section(part.config, "rope_parameters"), IN_TOWERS)


def _section(config: Any, key: str) -> dict[str, Any]:
    found = getattr(config, key, None) or {}
    return found if isinstance(found, dict) else {"rope_type": found}


def _plain(section: dict[str, Any]) -> dict[str, Any]:
    """A section without the names of what is the default."""
    plain = ("default", SECTIONS_ONLY)
    return {key: value for key, value in section.items() if value not in plain}


def _require(place: str, section: dict[str, Any], known: tuple[str, ...] = STATELESS) -> None:
    for key, value in section.items():
        if isinstance(value, dict):
            raise ModelError(
                f"{place}: rotary embeddings by layer type ({key!r}) are not supported; known: one "
                "for all layers"
            )
    _require_known_keys(place, section)
    for key in ("rope_type", "type"):
        kind = section.get(key, "default")
        if kind in known or (key == "type" and kind == SECTIONS_ONLY):
            continue
        why = ": one request would change the next" if _is_stateful(kind) else ""
        raise ModelError(
            f"{place}: {key} {str(kind)[:40]!r} is not supported{why}; known: "
            f"{', '.join(STATELESS)}"
        )


def _require_known_keys(place: str, section: dict[str, Any]) -> None:
    from transformers.modeling_rope_utils import RopeParameters

    known = {*RopeParameters.__annotations__, "type", "mrope_section", "mrope_interleaved"}
    for key in section:
        if key not in known:
            raise ModelError(
                f"{place}: {quoted(key)} in its rotary embedding is nothing that transformers "
                f"reads; known: {', '.join(sorted(known))}"
            )


def _is_stateful(kind: Any) -> bool:
    return any(word in str(kind) for word in STATEFUL)
