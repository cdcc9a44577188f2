"""Checkpoints that come with tpprof, by name. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ....methods.contract.errors import InputError
from ...smol_dino.packages import checkpoint
from ..errors import ModelError


@dataclass(frozen=True)
class Embedded:
    """A trained model. folder: gives it as transformers saves it. parameters: all its weights."""

    folder: Callable[[], Path]
    architecture: str
    parameters: int
    about: str


EMBEDDED: dict[str, Embedded] = {
    "seer": Embedded(
        lambda: Path(__file__).parents[2] / "seer" / "checkpoint",
        "llava",
        1_864_992,
        "576 visual tokens, trained on drawn pictures: it sees, and its answers count",
    ),
    "smol-dino": Embedded(
        checkpoint,
        "llava",
        157_125_312,
        "576 visual tokens, SmolLM2 and DINOv2-S, trained on composed pictures; needs tpprof[vlm]",
    ),
}


def folder_of(name: str) -> Path:
    """The folder of a checkpoint: of an embedded one, or the one that is named. Raises ModelError
    for an embedded one that cannot be built."""
    found = EMBEDDED.get(name)
    if found is None:
        return Path(name).expanduser()
    try:
        return found.folder()
    except InputError as error:
        raise ModelError(str(error)) from error
