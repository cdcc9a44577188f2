"""Checkpoints that come with tpprof, by name. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Embedded:
    """A trained model. folder: as transformers saves it. parameters: all its weights."""

    folder: Path
    architecture: str
    parameters: int
    about: str


EMBEDDED: dict[str, Embedded] = {
    "seer": Embedded(
        Path(__file__).parents[2] / "seer" / "checkpoint",
        "llava",
        1_864_992,
        "576 visual tokens, trained on drawn pictures: it sees, and its answers count",
    )
}


def folder_of(name: str) -> Path:
    """The folder of a checkpoint: of an embedded one, or the one that is named."""
    found = EMBEDDED.get(name)
    return Path(name).expanduser() if found is None else found.folder
