"""What one process of an arm runs: some requests of each cell, and their record.

The text of this file is the program, in the arm's own Python and with the arm's own tpprof, which
may be another version: so it asks for the public API alone, and imports it by its name.
"""

from __future__ import annotations

import ast
import atexit
import configparser
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import sys
import sysconfig
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNKNOWN = 2
"""Exit code where the arm does not know what it is asked to measure."""
NEEDED = ("tpprof", "msgspec", "torch", "transformers")
INSTALLED = {"site-packages", "dist-packages"}
SKIPPED = {*INSTALLED, ".git", ".hg", ".tox", ".nox", ".eggs", "__pycache__", "node_modules"}
BUILT = {"build", "dist"}
COMPILED = (".so", ".pyd", ".pyx", ".c", ".cc", ".cpp", ".cxx", ".cu", ".rs")
SOURCES = (".py", *COMPILED, "pyproject.toml", "setup.cfg")
EDITABLE = re.compile("^__editable__|^_editable_impl_|_editable(_loader)?$")
"""Modules of editable installs, which find a project and are none of its own."""
LARGE = 2**25  # bytes
LIBRARY = os.path.realpath(sysconfig.get_path("stdlib"))


def main() -> None:
    """Do the task on stdin: the record is the answer (see `subprocesses.ask`). A failure is one
    line on stderr."""
    task = json.loads(sys.stdin.buffer.read())
    answers = answering(task["out"], task["token"])
    try:
        _put_first(task["root"], task["paths"])
        _move(task["tree"], task["tops"])
        answers.append(measure(task))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit among them: it is not for a method to end this
        lines = str(error).strip().splitlines()
        line = f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
        print(line, file=sys.stderr)
        raise SystemExit(UNKNOWN if _unknown(error) else 1) from None


def answering(out: str, token: str) -> list[bytes]:
    """A list for the one answer of this process, to be asked for before anything else is loaded.

    The answer is written as the very last thing, behind whatever else has been registered to run as
    the process ends: what ends it earlier leaves none.
    """
    answers: list[bytes] = []
    asked = os.getpid()

    def write() -> None:
        if answers and os.getpid() == asked:
            Path(out).write_bytes(f"{token} {len(answers[0])}\n".encode() + answers[0])

    atexit.register(write)
    return answers


def measure(task: dict[str, Any]) -> bytes:
    """The record of the task, as JSON."""
    import msgspec

    import tpprof

    load(task["plugins"])
    given = {name: value for name, value in task["options"].items() if value is not None}
    known = inspect.signature(tpprof.compare).parameters
    if "passes" in known:
        given["passes"] = task["passes"]
    if "fresh" in known:  # this process is: those of its callables live as long
        given["fresh"] = False
    record = tpprof.compare(task["methods"], rounds=task["requests"], **given)
    ran = callables(record)
    engine = [cell.name for cell in record.cells if cell.method not in ran]
    theirs = {name: _whole(info.file) for name, info in ran.items() if info.file}
    own, foreign = sources(task["tree"], task["tops"], theirs)
    files = {f"callable {name}": file for name, file in theirs.items()}
    code: dict[str, Any] = {"origins": {**origins(engine), **files}, "own": own}
    if task["passes"]:
        code["contents"] = {**contents(), **{name: ran[name].sha256 for name in ran}}
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


def _whole(file: str) -> str:
    """The file that a record names as a path from this folder, or from the home folder."""
    return os.path.abspath(os.path.expanduser(file))


def callables(record: Any) -> dict[str, Any]:
    """What is known of the callables of a record, by name; an earlier tpprof has none."""
    known = {cell.method: getattr(cell, "callable", None) for cell in record.cells}
    return {name: info for name, info in known.items() if info is not None}


def sources(
    tree: str | None, tops: list[str], more: dict[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Files of imported modules, and of what ran in other processes (`more`), that lie in the arm's
    own tree, and those of the project that do not: they lie in another of its trees, or the arm's
    own one holds the module too, with another content."""
    files = {**_imported(), **(more or {})}
    own = {file for file in files.values() if tree is not None and _inside(file, tree)}
    others = {file for file in files.values() if any(_inside(file, top) for top in tops)}
    if tree is not None:
        others |= set(_held_too(tree, {n: f for n, f in files.items() if f not in own}, tops))
    return sorted(own), sorted(others - own)


def contents() -> dict[str, str]:
    """Hashes of the files of all imported modules, by their package, and of this Python. Plug-in
    files, which have no name of their own, are one package."""
    found: dict[str, list[str]] = {"python": [sys.version]}
    for name, file in sorted(_imported().items()):
        if not _of_python(_real(file)):
            package = name.partition(".")[0]
            plugged = package.startswith("tpprof_plugin_")
            entry = _hash(file) if plugged else f"{name} {_hash(file)}"
            found.setdefault("plug-ins" if plugged else package, []).append(entry)
    return {
        name: hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()
        for name, entries in found.items()
    }


def _imported() -> dict[str, str]:
    """The file of each imported module that has one, compiled ones among them."""
    files = {n: getattr(module, "__file__", None) for n, module in [*sys.modules.items()]}
    return {n: str(file) for n, file in files.items() if file and os.path.isabs(str(file))}


def _held_too(tree: str, files: dict[str, str], tops: Sequence[str] = ()) -> list[str]:
    """Files of modules that a source tree holds too, with another content.

    The tree holds a module if a file lies in it where a package of that name would be searched, in
    whatever folder the package lies, or in whatever language it is written, or if the module is
    installed as the project that the tree says it is, or from a folder of it or of `tops`.
    """
    held = _tree_files(tree)
    projects = _projects(path for paths in held.values() for path in paths)
    installed = _installed(projects, [tree, *tops])
    found = []
    for name, file in files.items():
        real = _real(file)
        if _of_python(real) or EDITABLE.search(name):
            continue
        parts = name.split(".")
        named = [c for c in held.get(parts[-1], []) if _is_module(c, parts)]
        named += [c for c in held.get("__init__", []) if _is_module(c.parent, parts)]
        if named and any(_hash(str(candidate)) != _hash(file) for candidate in named):
            found.append(file)
        elif not named and real in installed:
            alike = held.get(Path(real).name.partition(".")[0], [])
            if not any(_hash(str(candidate)) == _hash(file) for candidate in alike):
                found.append(file)
    return found


def _tree_files(tree: str) -> dict[str, list[Path]]:
    """The source files of a tree by their names up to the first dot, without those of environments
    in it and of what was built from it."""
    found: dict[str, list[Path]] = {}
    for folder, folders, names in os.walk(tree):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if name not in SKIPPED
            and not (here / name / "pyvenv.cfg").exists()
            and not (name in BUILT and not (here / name / "__init__.py").exists())
        ]
        for name in names:
            if name.endswith(SOURCES):
                found.setdefault(name.partition(".")[0], []).append(here / name)
    return found


def _is_module(candidate: Path, parts: list[str]) -> bool:
    """Whether a file, or the folder of a package, is where a module of this name would be: in
    folders of the names of its packages, below one that is no package."""
    names = [candidate.name.partition(".")[0], *(parent.name for parent in candidate.parents)]
    if names[: len(parts)] != parts[::-1]:
        return False
    return not (candidate.parents[len(parts) - 1] / "__init__.py").exists()


def _projects(files: Any) -> set[str]:
    """What the projects of a tree call themselves, as far as that is written down."""
    readers = {"pyproject.toml": _toml_names, "setup.cfg": _ini_names, "setup.py": _setup_names}
    found: list[Any] = []
    for path in files:
        if reader := readers.get(path.name):
            with contextlib.suppress(OSError, ValueError, SyntaxError, configparser.Error):
                found += reader(path.read_text(encoding="utf-8", errors="replace"))
    return {str(name) for name in found if isinstance(name, str) and name}


def _toml_names(text: str) -> list[Any]:
    library = "tomllib" if importlib.util.find_spec("tomllib") else "tomlkit"  # before Python 3.11
    found = importlib.import_module(library).loads(text)
    places = ("project", "name"), ("tool", "poetry", "name"), ("tool", "flit", "metadata", "module")
    return [functools.reduce(_entry, place, found) for place in places]


def _entry(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None


def _ini_names(text: str) -> list[Any]:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.read_string(text)
    return [found.get("metadata", "name", fallback=None)]


def _setup_names(text: str) -> list[Any]:
    """The `name` of any call, and of a text that it may be."""
    nodes = [*ast.walk(ast.parse(text))]
    texts = {
        target.id: node.value.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    given = [n.value for n in nodes if isinstance(n, ast.keyword) and n.arg == "name"]
    return [
        value.value if isinstance(value, ast.Constant) else texts.get(getattr(value, "id", ""))
        for value in given
    ]


def _installed(projects: set[str], places: list[str]) -> set[str]:
    """All files of distributions of these names, and of those that were installed from a folder of
    these places, whatever they are called."""
    packages = [p for name in projects for p in importlib.metadata.distributions(name=name)]
    packages += [p for p in importlib.metadata.distributions() if _is_from(p, places)]
    return {
        os.path.realpath(str(package.locate_file(file)))
        for package in packages
        for file in package.files or []
    }


def _is_from(package: importlib.metadata.Distribution, places: list[str]) -> bool:
    """Whether a distribution was installed from a folder in one of these places (PEP 610)."""
    try:
        told = json.loads(package.read_text("direct_url.json") or "{}")
        url = urllib.parse.urlsplit(str(told["url"]))
    except (KeyError, TypeError, ValueError, OSError):
        return False
    folder = urllib.request.url2pathname(url.path) if url.scheme == "file" else ""
    return any(_inside(folder, place) for place in places)


def _hash(file: str) -> str:
    """Of the content; of a very large file, which no hand has written, of its size."""
    try:
        size = Path(file).stat().st_size
        content = Path(file).read_bytes() if size <= LARGE else str(size).encode()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()


def _of_python(real: str) -> bool:
    """Whether a file is of Python's own library."""
    return real.startswith(f"{LIBRARY}{os.sep}") and not INSTALLED & set(real.split(os.sep))


def _inside(file: str, folder: str) -> bool:
    """Whether it belongs to a source tree, and not to an environment that lies in it."""
    if not os.path.isabs(file):  # of a module that has no file
        return False
    real, inside = _real(file), folder.rstrip(os.sep) + os.sep
    if not f"{real}{os.sep}".startswith(inside):
        return False
    return not (INSTALLED & set(real.split(os.sep)) or _of_python(real))


def _real(file: str) -> str:
    """Its path without symbolic links; of thousands of files in some hundred folders."""
    folder, name = os.path.split(file)
    path = os.path.join(_real_folder(folder), name)
    return os.path.realpath(path) if os.path.islink(path) else path


@functools.cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _move(tree: str | None, tops: list[str]) -> None:
    """Let what is searched in another tree of the project be searched in the arm's own: PYTHONPATH
    and editable installs lead there, and so does the folder at hand, from which a method may read
    its kernels or its weights."""
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
    here = moved(os.getcwd())
    os.chdir(here if os.path.isdir(here) else tree)


def _unknown(error: BaseException) -> bool:
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
