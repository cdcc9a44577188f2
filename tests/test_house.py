"""The house: who imports whom, and what starts without torch."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import tpprof

ROOT = Path(tpprof.__file__).parent
FLOORS = ("methods", "reports", "profiler")
ALLOWED = {"methods": {"methods"}, "reports": {"reports"}, "profiler": set(FLOORS)}
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of tpprof that a source file imports, as paths from the root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            found.add((*base, *(node.module or "").split(".")))
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("tpprof"), f"{path}: import relatively"
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_floors_import_downwards_only(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    assert {module[0] for module in imported(path)} <= ALLOWED[floor]


def test_no_method_imports_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        if path.name != "__init__.py":
            assert imported(path) == {("methods", "")}, path


def test_only_the_clock_reads_time() -> None:
    for path in SOURCES:
        text = path.read_text()
        if path.name != "clock.py":
            assert "perf_counter" not in text, path
            assert "cuda.Event" not in text, path


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
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]
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
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"sys.argv = ['tpprof', *{arguments!r}]\n"
        "from tpprof.profiler.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == (2 if arguments[0] == "report" else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_importing_tpprof_imports_nothing_heavy() -> None:
    program = "import sys, tpprof; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
