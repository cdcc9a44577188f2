"""What a gate measures, as the command's options and files say it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.gate.baseline import Subject
from ...reports.record.schema import Settings
from ..run.worker import Job
from ..workload import Workload


def rooted(subject: Subject, folder: Path) -> Subject:
    """The subject with its paths, which lead from `folder`, made absolute."""
    image = subject.workload.get("image")
    return msgspec.structs.replace(
        subject,
        model=_at(folder, subject.model) if _is_folder(folder / subject.model) else subject.model,
        plugins=[_at(folder, name) if name.endswith(".py") else name for name in subject.plugins],
        workload={**subject.workload, **({"image": _at(folder, image)} if image else {})},
    )


def workload(subject: Subject) -> Workload:
    """The workload that it names; raises InputError for one that does not exist."""
    try:
        return msgspec.convert(subject.workload, Workload, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"workload: {error}") from error


def job(subject: Subject, folder: Path) -> Job:
    """The subject as a job of `tpprof compare`."""
    whole = rooted(subject, folder)
    workload(whole)
    return Job(
        methods=whole.methods,
        model=whole.model,
        device=whole.device,
        dtype=whole.dtype,
        backend=whole.backend,
        workload=whole.workload,
        settings=Settings(
            attention=whole.attention,
            runtimes=whole.runtimes,
            keep=whole.keep,
            seed=whole.seed,
            plugins=whole.plugins,
        ),
    )


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


def _at(folder: Path, name: str) -> str:
    return str((folder / name).resolve())  # the folder may be one that is still to be made


def _is_folder(path: Path) -> bool:
    """Whether this is a checkpoint folder, and not a folder that happens to be called so."""
    return (path / "config.json").is_file()
