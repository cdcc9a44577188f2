"""Plug-ins: files and modules outside this package that register methods."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from . import registry
from .containment import contained
from .errors import InputError, first_line

_others: list[str] = []


def announce(name: str) -> None:
    """Say that something other than a method was registered, which a plug-in may have brought."""
    _others.append(name)


def load_plugins(names: Iterable[str]) -> list[str]:
    """Import each of `names`, a Python file or an importable module, so that its methods register.
    What is to be known of them: one line for each that registers none, which need be no mistake.

    Raises InputError for one that does not exist or fails.
    """
    notes = []
    registry.names()  # first: a plug-in must not take the name of a method of ours
    for name in names:
        before, loaded, others = registry.classes(), len(sys.modules), len(_others)
        try:
            with contained():
                if name.endswith(".py"):
                    _load_file(Path(name).resolve())
                elif _is_folder(importlib.import_module(name)):
                    raise ImportError("it is a folder without __init__.py, and holds no method")
        except Exception as error:
            at, advice = line_of(error, name), _advice(error, name)
            raise InputError(
                f"plug-in {name!r} could not be loaded ({first_line(error)}{at}){advice}"
            ) from error
        nothing = registry.classes() == before and len(_others) == others
        if len(sys.modules) > loaded and nothing:
            notes.append(
                f"plug-in {name!r} registers no method (@register) and no architecture: whatever "
                "else it changes, a kernel or a model, is measured in every row"
            )
    return notes


def _advice(error: Exception, name: str) -> str:
    """What to do about a plug-in that could not be loaded; "" where the error itself says it."""
    missing = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or name)
    if missing or isinstance(error, FileNotFoundError):
        return "; give a .py file, or a module that can be imported"
    if "non-frozen dataclass" in str(error):
        return "; a method is a frozen dataclass: write @dataclass(frozen=True) above it"
    return ""


def contents(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the file of each plug-in, "" where it has none: edited, it is another one."""
    found = {}
    for name in names:
        path = name if name.endswith(".py") else getattr(sys.modules.get(name), "__file__", None)
        found[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    return found


def _is_folder(module: ModuleType) -> bool:
    """Whether it is a namespace package: any folder is one, and nothing runs as it is imported."""
    return hasattr(module, "__path__") and getattr(module, "__file__", None) is None


def _load_file(path: Path) -> None:
    """Import a file once, under a name of its own: two plug-ins may be called alike. One that was
    imported under another name has registered its methods."""
    name = f"tpprof_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules or _is_imported(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import what lies beside it
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def line_of(error: BaseException, name: str) -> str:
    """The line of the plug-in's file that an error passed through; "" if there is none."""
    links = [error, *filter(None, [error.__cause__])]
    frames = [frame for link in links for frame in traceback.extract_tb(link.__traceback__)]
    lines = [f.lineno for f in frames if Path(f.filename).name == Path(name).name]
    return f", line {lines[-1]}" if lines else ""


def _is_imported(path: Path) -> bool:
    files = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
    return any(
        file and Path(file).name == path.name and Path(file).resolve() == path for file in files
    )
