"""The house: who imports whom, and what starts without torch."""

from __future__ import annotations

import ast
import io
import re
import runpy
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from record_builders import cell, record

import tpprof
from tpprof.reports.record.files import save

ROOT = Path(tpprof.__file__).parent
FLOORS = ("methods", "reports", "profiler")
ALLOWED = {"methods": {"methods"}, "reports": {"reports"}, "profiler": set(FLOORS)}
STAIRS = {
    "methods": ("contract", "selection", "engine", ""),
    "reports": (
        "units",
        "sanitize",
        "outputs",
        "record",
        "json_schema",
        "analysis",
        "text",
        "stopwatches",
        "gate",
        "figures",
        "page",
        "sweep",
    ),
    "profiler": (
        "subprocesses",
        "git",
        "seer",
        "smol_dino",
        "models",
        "prompts",
        "workload",
        "meters",
        "machine",
        "cost",
        "accuracy",
        "probe",
        "subjects",
        "tensor_parallel",
        "run",
        "sweep",
        "api",
        "authoring",
        "gate",
        "commands",
        "cli",
    ),
}
"""The folders of each floor, and the modules that lie beside them, from the lowest step up: each
imports what stands below it. A method is no step: it imports its floor's own `__init__` alone."""
MOST_MODULES = 15  # in one folder
MOST_LINES = 120  # of code in a method's file
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
MODULES = {path.relative_to(ROOT).with_suffix("").parts: path for path in SOURCES}
PYTHON = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted(ROOT.glob("benchmarks/*.py"))]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[ast.ImportFrom, tuple[str, ...]]]:
    """Imports of our own in a source file, with the module that each names as a path from the
    root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield node, (*base, *(node.module.split(".") if node.module else ()))
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("tpprof"), f"{path}: import relatively"


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of ours that a source file imports, as paths from the root."""
    found: set[tuple[str, ...]] = set()
    for node, base in imports(path):
        for alias in node.names:
            found.add((*base, alias.name) if (*base, alias.name) in MODULES else base)
    return found


def step(module: tuple[str, ...]) -> int:
    """How high a module stands on the stairs of its floor."""
    floor, *rest = module
    name = rest[0] if rest else ""
    return STAIRS[floor].index(name if name in STAIRS[floor] else "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_floors_and_folders_import_downwards_only(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts
    for module in imported(path):
        assert module[0] in ALLOWED[own[0]], module
        if module[0] == own[0] and len(module) > 1 and own[1:] != ("__init__",):
            assert step(module) <= step(own), module


def test_every_folder_is_a_step() -> None:
    for floor, steps in STAIRS.items():
        found = {module[1] for module in MODULES if module[0] == floor and len(module) > 2}
        assert found <= set(steps)


def test_no_modules_import_each_other() -> None:
    """But for types, which are read by the checker alone."""
    edges = {module: _needed(path) for module, path in MODULES.items()}
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], above: list[tuple[str, ...]]) -> None:
        assert module not in above, [".".join(m) for m in above[above.index(module) :]]
        if module not in done:
            for other in sorted(edges.get(module, ())):
                visit(other, [*above, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])


def _needed(path: Path) -> set[tuple[str, ...]]:
    """Modules that it imports as it is imported itself."""
    nodes = [
        node
        for node in tree(path).body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    lines = {line for node in nodes for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    found = set()
    for node, base in imports(path):
        if node.col_offset == 0 and node.lineno in lines:
            for alias in node.names:
                module = (*base, alias.name)
                found.add(module if module in MODULES else base)
    return {module for module in found if module in MODULES}


def test_no_folder_is_a_corridor() -> None:
    for folder in {path.parent for path in SOURCES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        limit = 10**6 if folder.name == "methods" else MOST_MODULES  # there is one file a method
        assert len(modules) <= limit, folder


def test_a_class_name_stands_once() -> None:
    names = [
        node.name
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_own_imports_keep_their_names(path: Path) -> None:
    for node in ast.walk(tree(path)):
        ours = isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").startswith("tpprof")
        )
        if isinstance(node, ast.ImportFrom) and ours:
            assert [alias.name for alias in node.names if alias.asname] == []


def test_no_method_imports_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        if path.name != "__init__.py":
            assert imported(path) == {("methods",)}, path


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_stay_short(path: Path) -> None:
    if path.name != "__init__.py":
        assert code_lines(path) <= (20 if path.stem == "fastv" else MOST_LINES)


def code_lines(path: Path) -> int:
    """Lines of code, imports and knobs among them: all but blank lines, comments and docstrings."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    text, lines = path.read_text(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank and token.string:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_code_is_counted_without_what_is_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text('"""What it\nis."""\n\nimport os  # why\n\n# how\nNAME = (\n    "a",\n)\n')
    assert code_lines(path) == 4


def test_only_the_clock_reads_time() -> None:
    for path in SOURCES:
        text = path.read_text()
        if path.name != "clock.py":
            assert "perf_counter" not in text, path
            assert "cuda.Event" not in text, path


def test_intervals_have_one_form() -> None:
    """(low to high), by one function: a dash beside a minus reads badly."""
    texts = r"\((\{[^{}]+\}) (-|to) (\{[^{}]+\})\)"
    for path in SOURCES:
        found = re.search(texts, path.read_text())
        assert found is None or path.name == "units.py", (path, found)
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    for path in pages:
        assert re.findall(r"\([-+]?\d+\.\d+ ?-[-+ \d.]+\)", path.read_text()) == [], path


def test_only_one_file_asks_nvml() -> None:
    for path in SOURCES:
        if path.name != "nvml.py":
            assert not re.search(r"import pynvml|\bnvml[A-Z]", path.read_text()), path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_find_what_they_import(path: Path) -> None:
    assert callable(runpy.run_path(str(path), run_name="imported")["main"])


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(
        r"(?:src|href|srcset)=\"([^\"]+)", text
    )
    places = [link.partition("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]
    assert [place for place in places if not (page.parent / place).exists()] == []


def test_nothing_else_lies_at_the_root() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]
    assert not (ROOT / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["methods"],
        ["models"],
        ["flops", "fastv", "--model", "qwen2-vl-72b"],
        ["gate", "--help"],
        ["report", "no-such-file.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_starts_without_torch(arguments: list[str]) -> None:
    done = without_torch(*arguments)
    assert done.returncode == (2 if arguments[0] == "report" else 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "latex"])
def test_a_record_is_shown_without_torch(form: str, tmp_path: Path) -> None:
    saved = tmp_path / "run.json"
    save(record(cell("vanilla", "rows", 2.0, 1000), cell("fastv", "maps", 1.6, 200)), saved)
    shown = without_torch("report", str(saved), "--format", form)
    assert shown.returncode == 0, shown.stderr
    assert "fastv" in shown.stdout
    explained = without_torch("explain", str(saved), "--format", form)
    assert explained.returncode == 0, explained.stderr


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where torch and transformers cannot be imported."""
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"sys.argv = ['tpprof', *{arguments!r}]\n"
        "from tpprof.profiler.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_importing_tpprof_imports_nothing_heavy() -> None:
    program = "import sys, tpprof; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_tests_that_the_docs_name_are_there() -> None:
    named = {
        word
        for page in (ROOT / "docs").glob("*.md")
        for word in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text())
    }
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []
