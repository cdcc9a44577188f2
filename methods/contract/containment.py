"""Around the code of a method: what it may not do to the program, and where it went wrong."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .method import Method


class MethodFaultError(RuntimeError):
    """A method that does what none may: found while it runs, and told in place of its figures."""


class MethodExitError(MethodFaultError):
    """A method that would have ended the program, or that moved its working folder."""


@contextmanager
def contained() -> Iterator[None]:
    """Around code of a method: it may fail, but neither end the program nor move its folder; what
    it prints goes to stderr, for stdout is the program's."""
    folder = os.getcwd()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        name = type(error).__name__
        raise MethodExitError(
            f"it would end the program ({name}): return, or raise an error"
        ) from error
    finally:
        moved = _moved_from(folder)
    if moved:
        raise MethodExitError("it changes the working folder of the program (os.chdir)")


def location(error: BaseException, method: Method | type[Method]) -> str:
    """The file and line of a method's own code that an error passed through; "" if it did not."""
    files = own_files(method)
    seen: list[traceback.FrameSummary] = []
    link: BaseException | None = error
    while link is not None and not seen:
        seen = [f for f in traceback.extract_tb(link.__traceback__) if f.filename in files]
        link = link.__cause__
    return f" ({Path(seen[-1].filename).name} line {seen[-1].lineno})" if seen else ""


def own_files(method: Method | type[Method]) -> set[str]:
    """The source files of the method's class, and of those that it is made from."""
    package = __name__.rpartition(".")[0]
    parts = (method,) if isinstance(method, type) else getattr(method, "parts", (method,))
    own = [part if isinstance(part, type) else type(part) for part in parts]
    classes = [c for kind in own for c in kind.__mro__ if c.__module__ != "builtins"]
    found = [_source(c) for c in classes if not c.__module__.startswith(package)]
    return {file for file in found if file}


def where_defined(function: Any) -> str:
    """The name of a method's function, its file and its line."""
    name = getattr(function, "__qualname__", type(function).__name__)
    try:
        file, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return name
    return f"{name}, {Path(file or '').name} line {line}"


def _source(found: type) -> str | None:
    try:
        return inspect.getsourcefile(found)
    except (OSError, TypeError):
        return None


def _moved_from(folder: str) -> bool:
    """Whether the working folder is another one; it is set back."""
    try:
        if os.getcwd() == folder:
            return False
    except FileNotFoundError:  # it was moved to a folder that is gone
        pass
    os.chdir(folder)
    return True
