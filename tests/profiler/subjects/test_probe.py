"""The probe: one file that needs torch alone, in whatever Python it is given."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from callables import hostile
from command import in_this_process

import tpprof
from tpprof.profiler.probe.serve import PROTOCOL
from tpprof.profiler.subjects import bundle, remote
from tpprof.profiler.subjects.remote import Probe, ProbeError
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.text.sentences import origin

FOLDER = Path(hostile.__file__).parent
LINES = "import sys; print('nothing that a probe would say', flush=True); sys.stdin.read()"
OLD_PYTHON = "TPPROF_OLD_PYTHON"
"""Names a Python 3.9 or later with torch 1.12 or later and transformers 4.36 to 4.43."""


def python(tmp_path: Path, program: str) -> str:
    """An executable that runs `program` whatever it is asked to run, which is in sys.argv[2]."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S -c "{program}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def alone(tmp_path: Path) -> str:
    """This Python without its site, so that nothing that is installed as a link is found."""
    packages = [sysconfig.get_path("purelib"), str(Path(torch.__file__).parent.parent)]
    return python(tmp_path, f"import sys; sys.path += {packages}; exec(sys.argv[2])")


def both(other: str, callables: dict[str, str], **options: object) -> Record:
    """Callables in this Python and in another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER)
        return tpprof.measure(
            callables, python=["this", other], rounds=1, device="cpu", passes=["flops"], **options
        )


def test_one_code_in_two_environments(alone: str) -> None:
    """Interleaved, and the same to the count."""
    first, second = both(alone, {"same": "small_decoder.py:model"}, new_tokens=3).cells
    assert (first.error, second.error) == ("", "")
    assert first.method == "same@this"
    assert second.method.startswith("same@")
    assert first.tokens_per_layer == second.tokens_per_layer == [48, 48, 48]
    assert first.kv_bytes_prefill == second.kv_bytes_prefill == [2 * 48 * 96 * 4] * 3
    assert first.kv_bytes_decode == second.kv_bytes_decode == [2 * 50 * 96 * 4] * 3
    assert first.counted_flops == second.counted_flops
    assert first.counted_flops["prefill"] == 3 * 2 * 48 * 2 * 96 * 4 * 96
    assert first.parts == second.parts
    assert [(sample.round, sample.turn) for sample in first.samples[:2]] == [(0, 0), (0, 1)]
    assert [(sample.round, sample.turn) for sample in second.samples[:2]] == [(0, 1), (0, 0)]
    assert second.callable is not None
    assert "transformers" not in second.callable.packages
    assert origin(second).startswith("same@python: small_decoder.py:model, Decoder in a process of")


def test_tpprof_is_not_there(alone: str) -> None:
    with started("where_tpprof_is", alone) as probe:
        assert probe.counted()["looks"]["what it returned"] == "str of 0"


def test_the_bundle_needs_torch_alone(tmp_path: Path) -> None:
    """Whatever its files import as they are loaded lies in it, or is torch, or Python's own."""
    path = tmp_path / "probe.zip"
    bundle.write_bundle(path)
    with zipfile.ZipFile(path) as files:
        names = files.namelist()
        for name in names:
            tree = ast.parse(files.read(name), feature_version=bundle.OLDEST)
            for node in runtime_imports(tree):
                for module in imported(node, name):
                    inside = module.replace(".", "/") + ".py" in names
                    top = module.partition(".")[0]
                    assert inside or top == "torch" or top in sys.stdlib_module_names, module


def runtime_imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    typing = [
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    ]
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [node for node in found if node not in typing]


def imported(node: ast.Import | ast.ImportFrom, name: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not node.level:
        return [node.module or ""]
    package = name.split("/")[: -node.level]
    return [".".join([*package, *(node.module or "").split(".")])]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (LINES, "(it wrote 'nothing that a probe would say'): no answer for 1 s: it hangs"),
        ("import sys; sys.exit('no licence')", "ended with exit code 1: no licence"),
        ("print('y\\n' * 10**6)", "does not run the probe (it wrote 'y'): it writes on and on"),
        ("", "does not run the probe: its process ended with exit code 0"),
        ("import sys; exec(sys.argv[2])", "has no torch"),
        (
            "import sys; sys.version_info = (3, 6, 15); exec(sys.argv[2])",
            "Python 3.6 is too old: the probe needs 3.9",
        ),
    ],
)
def test_a_python_that_cannot_run_it_says_why(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program == LINES:
        monkeypatch.setattr(remote, "STARTING", 1.0)
    probe = Probe("hostile.py:good", python(tmp_path, program))
    with pytest.raises(ProbeError) as told:
        probe.load("good", device="cpu", new_tokens=1)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    probe.close()


def test_what_a_python_prints_as_it_starts_is_no_answer(tmp_path: Path) -> None:
    packages = [sysconfig.get_path("purelib"), str(Path(torch.__file__).parent.parent)]
    greeting = "print('{}', 'welcome', sep=chr(10), end='', flush=True)"
    start = f"import sys; sys.path += {packages}; {greeting}; exec(sys.argv[2])"
    with started("good", python(tmp_path, start)) as probe:
        assert probe.counted()["looks"]["what it returned"] == "Tensor[8, 8]"


@contextmanager
def started(name: str, executable: str = "") -> Iterator[Probe]:
    """The probe of a hostile callable, loaded."""
    probe = Probe(f"hostile.py:{name}", executable)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER)
        try:
            probe.load(name, device="cpu", new_tokens=1)
            yield probe
        finally:
            probe.close()


def test_one_that_hangs_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("hangs") as probe:
        probe._longest = 0.0
        monkeypatch.setattr(remote, "PATIENCE", 1.0)
        with pytest.raises(ProbeError, match="no answer for 1 s: it hangs"):
            probe.timed()
        with pytest.raises(ProbeError, match="its process has ended"):
            probe.timed()


def test_what_it_prints_does_not_fill_the_disk() -> None:
    with started("floods") as probe:
        assert [probe.timed()["printed"] > 2**21 for _ in range(3)] == [True] * 3
        probe.kept()
        assert os.fstat(probe._complaints.fileno()).st_blocks * 512 <= 2**21


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PROTOCOL", PROTOCOL + 1)
    probe = Probe("hostile.py:good")
    with pytest.raises(ProbeError, match=f"speaks protocol {PROTOCOL}, and is asked in"):
        probe.load("good", device="cpu", new_tokens=1)
    probe.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--callable", "nowhere"], "--callable 'nowhere' is not [NAME=]MODULE:FUNCTION"),
        (["--callable", "a=m:f", "--callable", "a=m:g"], "two callables are called a"),
        (["--callable", "m:f", "--python", "/nowhere/python"], "no such file"),
        (["--callable", "m:f", "--python", "."], "'.' is a folder without a Python in it"),
        (["--callable", "m:f", "--python", "this", "--python", "this"], "names one twice"),
        (["fastv", "--python", "this"], "--python is for code of yours: it needs --callable"),
        (
            ["fastv", "--model", "tiny-llava", "--callable", "vanilla=m:f"],
            "a callable is called vanilla, which the engine's own is",
        ),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = in_this_process("compare", *arguments, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    """Killed as nothing can catch it; the probe is in a session of its own."""
    program = (
        "import os, signal\nfrom tpprof.profiler.subjects.remote import Probe\n"
        "probe = Probe('hostile.py:good')\nprobe._start()\n"
        "print(probe._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    left = Path(f"/proc/{int(done.stdout)}/status")
    ended = not left.exists() or "State:\tZ" in left.read_text() or wait_until_gone(left)
    assert ended


def wait_until_gone(status: Path) -> bool:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    for _ in range(100):
        try:
            if "State:\tZ" in status.read_text():
                return True
        except OSError:
            return True
        subprocess.run(["sleep", "0.05"], check=True)
    return False


@pytest.fixture(scope="module")
def old() -> dict[str, Cell]:
    other = os.environ.get(OLD_PYTHON)
    if not other:
        pytest.skip(f"{OLD_PYTHON} names no second Python")
    found = both(other, {"decoder": "small_decoder.py:model"}).cells
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER)
        fork = {"old": "old_llava.py:model"}
        found += tpprof.measure(fork, python=[other], rounds=1, device="cpu").cells
    return {cell.method: cell for cell in found}


def test_a_fork_of_old_transformers_in_its_own_python(old: dict[str, Cell]) -> None:
    cell = old["old"]
    assert cell.error == ""
    assert cell.tokens_per_layer == [96] * 4
    assert cell.kv_bytes_prefill == [2 * 96 * 64 * 4] * 4
    assert cell.kv_bytes_decode == [2 * 97 * 64 * 4] * 4
    assert cell.generated_tokens == 2
    assert {part.phase for part in cell.parts} >= {"vision", "embed", "prefill", "head", "decode"}
    assert cell.callable is not None
    assert cell.callable.packages["transformers"].startswith("4.")
    assert cell.counted_flops or "counts no FLOPs" in cell.missing["flops"]


def test_one_code_counts_alike_in_both(old: dict[str, Cell]) -> None:
    ours, theirs = (cell for name, cell in old.items() if name.startswith("decoder@"))
    assert (ours.error, theirs.error) == ("", "")
    assert ours.tokens_per_layer == theirs.tokens_per_layer
    assert ours.kv_bytes_decode == theirs.kv_bytes_decode
