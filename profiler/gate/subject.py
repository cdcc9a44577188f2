"""What a gate measures, as the command's options and files say it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ...methods.core.errors import InputError
from ...reports.gate.snapshot import Subject
from ...reports.record import Settings
from ..worker import Job


def job(subject: Subject, folder: Path) -> Job:
    """The subject as a job of `tpprof compare`; its paths lead from `folder`."""
    return Job(
        methods=subject.methods, model=_model(subject.model, folder), device=subject.device,
        dtype=subject.dtype, backend=subject.backend, workload=workload(subject, folder),
        settings=Settings(
            attention=subject.attention, runtimes=subject.runtimes, keep=subject.keep,
            seed=subject.seed, plugins=plugins(subject, folder),
        ),
    )  # fmt: skip


def plugins(subject: Subject, folder: Path) -> list[str]:
    """The plug-ins; those that are files lie where they lead from `folder`."""
    return [_at(folder, name) if name.endswith(".py") else name for name in subject.plugins]


def workload(subject: Subject, folder: Path) -> dict[str, Any]:
    """The options of the workload; its picture lies where it leads from `folder`."""
    image = subject.workload.get("image")
    return {**subject.workload, **({"image": _at(folder, image)} if image else {})}


def relative(subject: Subject, folder: Path) -> Subject:
    """The subject as it was named here, with paths that lead from `folder`."""

    def moved(name: str) -> str:
        return Path(os.path.relpath(Path(name).resolve(), folder.resolve())).as_posix()

    image, given = subject.workload.get("image"), msgspec.structs.asdict(subject)
    if image:
        given["workload"] = {**subject.workload, "image": moved(image)}
    given["plugins"] = [moved(n) if n.endswith(".py") else n for n in subject.plugins]
    for name in subject.plugins:
        if name.endswith(".py") and not Path(name).is_file():
            raise InputError(f"plug-in {name!r}: no such file")
    if _is_folder(Path(subject.model)):
        given["model"] = moved(subject.model)
    return Subject(**given)


def _model(name: str, folder: Path) -> str:
    return _at(folder, name) if _is_folder(folder / name) else name


def _at(folder: Path, name: str) -> str:
    return str((folder / name).resolve())  # the folder may be one that is still to be made


def _is_folder(path: Path) -> bool:
    """Whether this is a checkpoint folder, and not a folder that happens to be called so."""
    return (path / "config.json").is_file()
