"""Specifications in files: TOML that says what each option is for; paths lead from the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomlkit
from tomlkit.exceptions import TOMLKitError

from .base import RecordError
from .spec import OptionField, RunSpec, Spec, Subject, changed, fields_of, read, value_of

SubjectT = TypeVar("SubjectT", bound=Subject)

THIS = "this"
"""What `--python` calls the Python that tpprof runs in."""
ABOUT = """\
What `tpprof compare --config` runs. Paths lead from this file.
Lines that begin with # hold what is usual: take the # away to change them."""


def parsed(path: Path, hint: str) -> tomlkit.TOMLDocument:
    """A TOML file, comments and all; raises RecordError with one line. hint: what makes one."""
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        told = "is a folder; give a file" if path.is_dir() else str(error.strerror or error)
        raise RecordError(f"{path}: {told}; see {hint}") from error
    except (TOMLKitError, ValueError) as error:
        # Its parser stands on a character of its own behind the last one.
        cut = "'\\x00'" in str(error)
        why = "it ends in the middle of a value" if cut else str(error)
        raise RecordError(f"{path} is no TOML ({why})") from error


def load(path: Path) -> RunSpec:
    """The specification in a file, its paths made absolute; raises RecordError with one line."""
    return _spec(path, parsed(path, "tpprof init").unwrap())


def load_axes(path: Path) -> tuple[RunSpec, dict[str, list[Any]]]:
    """The same, and the values of the options that its part [axes] lists, by keyword."""
    given = parsed(path, "tpprof init").unwrap()
    axes = given.pop("axes", {})
    if not isinstance(axes, dict) or not all(isinstance(v, list) and v for v in axes.values()):
        raise RecordError(f"{path}: [axes] holds lists: keep = [640, 320]")
    return _spec(path, given), axes


def _spec(path: Path, given: dict[str, Any]) -> RunSpec:
    try:
        return rooted(read(RunSpec, given), path.parent)
    except (OSError, ValueError) as error:  # of a text that can be no path, too
        raise RecordError(f"{path}: {error}") from error


def as_toml(spec: RunSpec) -> str:
    """A file with every option of a run, and what each is for; those at their defaults as comments,
    ready to be changed."""
    document = tomlkit.document()
    for line in ABOUT.splitlines():
        document.add(tomlkit.comment(line))
    for part in msgspec.structs.fields(spec):
        table = tomlkit.table()
        kind: type[Spec] = type(getattr(spec, part.name))
        for option in fields_of(kind).values():
            table.add(tomlkit.comment(option.about))
            _add(table, option, value_of(spec, option.keyword))
        document.add(tomlkit.nl())
        document.add(part.name, table)
    return tomlkit.dumps(document)


def _add(table: Any, option: OptionField, value: Any) -> None:
    if value != option.default:
        table.add(option.name, plain(value))
        return
    example = "" if value is None else tomlkit.item(plain(value)).as_string()
    table.add(tomlkit.comment(f"{option.name} = {example}".rstrip()))


def plain(value: Any) -> Any:
    """A value as TOML has it: it knows no tuples, and no None."""
    found = msgspec.to_builtins(value)
    if isinstance(found, dict):
        return {name: plain(part) for name, part in found.items() if part is not None}
    return list(found) if isinstance(found, (list, tuple)) else found


def rooted(subject: SubjectT, folder: Path) -> SubjectT:
    """The same with its paths, which lead from `folder`, made absolute."""

    def at(name: str) -> str:
        return str((folder / name).resolve())  # the folder may be one that is still to be made

    model, workload = subject.model.name, subject.workload
    return changed(
        subject,
        model=at(model) if model and _is_checkpoint(Path(at(model))) else model,
        image=tuple(map(at, workload.image)),
        video=at(workload.video) if workload.video else None,
        messages=at(workload.messages) if workload.messages else None,
        plugin=[at(name) if name.endswith(".py") else name for name in subject.cells.plugin],
        **{keyword: at(folder) for keyword, folder in _asked_folders(subject).items()},
        callable=[with_file(text, at) for text in subject.cells.callables],
        python=[_absolute(name, folder) for name in subject.cells.python],
    )


def relative(subject: SubjectT, folder: Path) -> SubjectT:
    """The same as it was named here, with paths that lead from `folder`. Raises RecordError for a
    plug-in that is not there."""

    def moved(name: str) -> str:
        return Path(os.path.relpath(Path(name).resolve(), folder.resolve())).as_posix()

    model, workload = subject.model.name, subject.workload
    files = [name for name in subject.cells.plugin if name.endswith(".py")]
    for name in files:
        if not Path(name).is_file():
            raise RecordError(f"plug-in {name!r}: no such file")
    return changed(
        subject,
        model=moved(model) if model and _is_checkpoint(Path(model)) else model,
        image=tuple(map(moved, workload.image)),
        video=moved(workload.video) if workload.video else None,
        messages=moved(workload.messages) if workload.messages else None,
        plugin=[moved(name) if name in files else name for name in subject.cells.plugin],
        **{keyword: moved(folder) for keyword, folder in _asked_folders(subject).items()},
        callable=[with_file(text, moved) for text in subject.cells.callables],
        python=[_relative(name, folder) for name in subject.cells.python],
    )


def with_file(text: str, moved: Callable[[str], str]) -> str:
    """`[NAME=]FILE.py:FUNCTION` with its file moved, and its name kept; a module stays as it is."""
    name, sign, reference = text.partition("=")
    if not sign:
        name = reference = text
    file, _, function = reference.rpartition(":")
    if not file.endswith(".py"):
        return text
    found = f"{moved(file)}:{function}"
    return found if name == found else f"{name}={found}"


def _relative(name: str, folder: Path) -> str:
    """The same from a folder."""
    if name == THIS:
        return name
    return Path(os.path.relpath(os.path.abspath(name), folder.resolve())).as_posix()


def _absolute(name: str, folder: Path) -> str:
    """A Python by its whole path; links stay, for that of a virtual environment is one."""
    return name if name == THIS else os.path.abspath(folder / name)


def _asked_folders(subject: Subject) -> dict[str, str]:
    """The folders of questions and their pictures, by option."""
    if not isinstance(subject, RunSpec):
        return {}
    found = {"annotations": subject.accuracy.annotations, "images": subject.accuracy.images}
    return {keyword: folder for keyword, folder in found.items() if folder is not None}


def _is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint folder, and not a folder that happens to be called so."""
    return (path / "config.json").is_file()
