"""What one process of an arm runs: some requests of each cell, and their record.

The text of this file is the program, in the arm's own Python and with the arm's own tpprof, which
may be another version: so it asks for the public API alone, and imports it by its name.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

UNKNOWN = 2
"""Exit code where the arm does not know what it is asked to measure."""
NEEDED = ("tpprof", "msgspec", "torch", "transformers")


def main() -> None:
    """Do the task on stdin: write the record to a file. A failure is one line on stderr."""
    task = json.loads(sys.stdin.buffer.read())
    _put_first(task["root"], task["paths"])
    _move(task["tree"], task["tops"])
    try:
        code, content = 0, measure(task)
    except Exception as error:
        lines = str(error).strip().splitlines()
        line = f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
        code, content = UNKNOWN if _unknown(error) else 1, line.encode()
    if code:
        print(content.decode(), file=sys.stderr)
        raise SystemExit(code)
    Path(task["out"]).write_bytes(content)


def measure(task: dict[str, Any]) -> bytes:
    """The record of the task, as JSON."""
    import msgspec

    import tpprof

    load(task["plugins"])
    given = {name: value for name, value in task["options"].items() if value is not None}
    if "passes" in inspect.signature(tpprof.compare).parameters:
        given["passes"] = task["passes"]
    record = tpprof.compare(task["methods"], rounds=task["requests"], **given)
    own, foreign = sources(task["tree"], task["tops"])
    code = {"origins": origins([cell.name for cell in record.cells]), "own": own}
    # As plain data: the environment is a struct in this version, a mapping in earlier ones.
    content: dict[str, Any] = msgspec.to_builtins(record)
    content["environment"]["code"] = {**code, "foreign": foreign}
    return msgspec.json.encode(content)


def load(plugins: list[str]) -> None:
    """Load the plug-ins. One that is there and broken is a failure, and not a plug-in that the arm
    does not have."""
    try:
        importlib.import_module("tpprof.methods").load_plugins(plugins)
    except Exception as error:
        if all(map(_is_there, plugins)):
            raise RuntimeError(str(error)) from error
        raise


def origins(methods: list[str]) -> dict[str, str]:
    """Where the code lies that ran: of the interpreter, of packages and of each method."""
    found = {"python": sys.executable}
    for name in NEEDED:
        found[name] = str(getattr(sys.modules.get(name), "__file__", None))
    parse = importlib.import_module("tpprof.methods").parse
    for name in methods:
        module = sys.modules[type(parse(name)).__module__]
        found[f"method {name}"] = str(getattr(module, "__file__", None))
    return found


def sources(tree: str | None, tops: list[str]) -> tuple[list[str], list[str]]:
    """Files of imported modules that lie in the arm's own tree, and those in another tree of the
    same project."""
    files = {str(getattr(module, "__file__", None)) for module in [*sys.modules.values()]}
    own = sorted(file for file in files if tree is not None and _inside(file, tree))
    others = sorted(file for file in files if any(_inside(file, top) for top in tops))
    return own, [file for file in others if file not in own]


def _inside(file: str, folder: str) -> bool:
    """Whether it belongs to a source tree, and not to an environment that lies in it."""
    if not Path(file).is_absolute():  # of a module that has no file
        return False
    path = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    of_python = path.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    return path.is_relative_to(folder) and not installed and not of_python


def _move(tree: str | None, tops: list[str]) -> None:
    """Let what is searched in another tree of the project be searched in the arm's own: PYTHONPATH
    and editable installs lead there."""
    if tree is None:
        return

    def moved(path: str) -> str:
        for top in tops:
            if _inside(path, top) and not _inside(path, tree):
                return str(tree / Path(path).resolve().relative_to(top))
        return path

    sys.path[:] = [moved(path) for path in sys.path]
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(_home(finder)), "MAPPING", None)
        if isinstance(mapping, dict):
            mapping.update({name: moved(str(path)) for name, path in mapping.items()})


def _unknown(error: Exception) -> bool:
    """Whether the arm lacks what it is asked for, rather than fails at it."""
    if isinstance(error, ModuleNotFoundError):
        return error.name in NEEDED
    return any(kind.__name__ == "InputError" for kind in type(error).__mro__)


def _is_there(plugin: str) -> bool:
    if plugin.endswith(".py"):
        return Path(plugin).is_file()
    try:
        return importlib.util.find_spec(plugin) is not None
    except ImportError:
        return False


def _put_first(root: str | None, paths: list[str]) -> None:
    """Let `root` be the package tpprof, whatever is installed, and search `paths` first."""
    sys.path[:0] = paths
    if root is None:
        return
    # An editable install answers for tpprof too: what this commit lacks it would fill from another.
    sys.meta_path[:] = [f for f in sys.meta_path if "__editable___tpprof" not in _home(f)]
    path = Path(root) / "__init__.py"
    spec = importlib.util.spec_from_file_location("tpprof", path, submodule_search_locations=[root])
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tpprof"] = module
    spec.loader.exec_module(module)


def _home(finder: Any) -> str:
    return str(getattr(finder, "__module__", ""))


if __name__ == "__main__":
    main()
