"""The callables of a run, as cells: which there are, what they are called, and where they run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...methods.contract.errors import InputError
from ...reports.record import schema
from ...reports.record.cell import CallableInfo
from ...reports.record.spec_files import THIS
from ...reports.sanitize import quoted
from ..workload import Preparation
from .callable_cell import CallableCell, WorkerLike
from .here import Here
from .places import portable
from .remote import Probe

VANILLA = "vanilla"


@dataclass(frozen=True)
class Given:
    """Callables that are objects of this program, by name, and the inputs they are given: a
    mapping, a function that makes one, or None."""

    objects: Mapping[str, Any]
    inputs: Any = None


@dataclass(frozen=True)
class CallableRequest:
    """What a callable is asked for. whole: the record's request, None where there is no model of
    tpprof's. threads: of torch on a CPU."""

    new_tokens: int
    whole: Preparation | None = None
    threads: int | None = None


def callable_cells(
    listed: Sequence[str],
    pythons: Sequence[str],
    request: CallableRequest,
    *,
    beside_engine: bool,
    given: Given | None = None,
) -> list[CallableCell]:
    """Every callable under every Python; what all are compared with comes first.

    listed: `[NAME=]MODULE:FUNCTION`. beside_engine: whether the engine's own vanilla is measured,
    which all are compared with then; else it is the one that is called vanilla, or the first.
    Raises as `require_callables`.
    """
    objects = given.objects if given is not None else {}
    inputs = given.inputs if given is not None else None
    found: list[CallableCell] = []
    for text in listed:
        name, reference = parse_reference(text)
        if name in objects and callable_object(objects[name]):
            worker: WorkerLike = Here(objects[name])
            found.append(_cell(name, reference, "shared", worker, request, inputs))
            continue
        for python in pythons or [THIS]:
            label = f"{name}@{_label(python, pythons)}" if len(pythons) > 1 else name
            worker = Probe(reference, _executable(python))
            found.append(_cell(label, reference, "own", worker, request, inputs))
    if not beside_engine and found:
        first = next((cell for cell in found if _is_vanilla(cell.saved.method)), found[0])
        first.saved.name = VANILLA
        found.sort(key=lambda cell: cell is not first)  # stable: the rest as given
    return found


def require_callables(
    listed: Sequence[str], pythons: Sequence[str], *, beside_engine: bool
) -> None:
    """Raises InputError, before any model is loaded, for what names nothing, for names that stand
    twice, and for a Python that is not there."""
    names = [parse_reference(text)[0] for text in listed]
    for python in pythons:
        _executable(python)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two callables are called {', '.join(twice)}: name one NAME=MODULE:FUNCTION"
        )
    if beside_engine and VANILLA in names:
        raise InputError(
            "a callable is called vanilla, which the engine's own is beside a model: name it "
            "otherwise, or leave METHODs and --model out"
        )


def parse_reference(text: str) -> tuple[str, str]:
    """The name and the reference of `[NAME=]MODULE:FUNCTION`; raises InputError."""
    name, sign, reference = text.partition("=")
    if not sign:
        name = reference = text
    module, _, function = reference.rpartition(":")
    if not (name.strip() and module.strip() and re.fullmatch(r"\w+(\.\w+)*", function)):
        raise InputError(
            f"--callable {quoted(text)} is not [NAME=]MODULE:FUNCTION, as "
            "mine=my_fork.run:generate or fork.py:generate"
        )
    return name if sign else _told(reference), reference


def callable_object(found: Any) -> bool:
    """Whether it is an object to be called here, and no reference to one."""
    return not isinstance(found, str)


def _cell(
    name: str,
    reference: str,
    process: str,
    worker: WorkerLike,
    request: CallableRequest,
    inputs: Any,
) -> CallableCell:
    saved = schema.Cell(
        method=name,
        name=name,
        attention="own",
        reads_attention=False,
        callable=CallableInfo(reference=_told(reference), process=process),
    )
    return CallableCell(saved, worker, request.new_tokens, request.whole, inputs, request.threads)


def _told(reference: str) -> str:
    """The reference as a record says it."""
    file, _, function = reference.rpartition(":")
    return f"{portable(file)}:{function}" if os.path.isabs(file) else reference


def _executable(python: str) -> str:
    """The Python that is named; "" for this one. A folder is an environment. Raises InputError."""
    if python == THIS:
        return ""
    path = Path(python)
    inside = [path / "bin" / "python", path / "Scripts" / "python.exe"]
    if path.is_dir():
        found = next((each for each in inside if each.is_file()), None)
        if found is None:
            raise InputError(
                f"--python {quoted(python)} is a folder without a Python in it (bin/python); give "
                f"the folder of an environment, its bin/python, or `{THIS}`"
            )
        path = found
    if not path.is_file():
        raise InputError(
            f"--python {quoted(python)}: no such file; give ENV/bin/python, or `{THIS}`"
        )
    if not os.access(path, os.X_OK):
        raise InputError(f"--python {quoted(python)} cannot be executed")
    return str(path.absolute())


def _label(python: str, pythons: Sequence[str]) -> str:
    """What a Python is called beside others: its environment's folder, or all of its path."""
    names = [_folder(each) for each in pythons]
    return _folder(python) if names.count(_folder(python)) == 1 else portable(python)


def _folder(python: str) -> str:
    path = Path(python).absolute()
    if python == THIS or path.is_dir():
        return path.name
    return path.parent.parent.name if path.parent.name in ("bin", "Scripts") else path.name


def _is_vanilla(name: str) -> bool:
    return name.partition("@")[0] == VANILLA
