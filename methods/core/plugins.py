"""Plug-ins: files and modules outside this package that register methods."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError, first_line


def load_plugins(names: Iterable[str]) -> None:
    """Import each of `names`, a Python file or an importable module, so that its methods register.

    Raises InputError for one that does not exist or fails.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _load_file(Path(name).resolve())
            else:
                importlib.import_module(name)
        except Exception as error:
            raise InputError(
                f"plug-in {name!r} could not be loaded ({first_line(error)}); "
                "give a .py file, or a module that can be imported"
            ) from error


def _load_file(path: Path) -> None:
    """Import a file once, under a name of its own: two plug-ins may be called alike."""
    name = "tpprof_plugin" + "".join(c if c.isalnum() else "_" for c in str(path.with_suffix("")))
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
