"""The steps of `make bench-gpu`: what runs, within which limits, and a dry run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import tpprof

ROOT = Path(tpprof.__file__).parent
SCRIPT = ROOT / "benchmarks" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_step_stops_the_next_and_each_has_its_limit(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails, one that is late, one that does not listen, one for which no time is left."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    bench.GRACE = 0.2
    chosen = [
        bench.Step("fails", 0, 30, ["-c", "print('said'); raise SystemExit(3)"]),
        bench.Step("late", 0, 0.5, ["-c", "import time; time.sleep(60)"]),
        bench.Step("deaf", 0, 1.5, ["-c", deaf]),
        bench.Step("long", 10_000, 10_000, ["-c", ""]),
        bench.Step("good", 0, 30, ["-c", "import os; print(os.environ['HERE'])"]),
    ]
    done = bench.run(chosen, tmp_path, 600.0, {**os.environ, "HERE": "there"})
    assert [outcome.wrong for outcome in done] == [
        "exit code 3",
        "ended after its 0 s",
        "ended after its 2 s, by force",
        f"skipped: {done[3].wrong.split()[1]} s left, it needs 10000",
        "",
    ]
    assert (tmp_path / "fails.log").read_text() == "said\n"
    assert (tmp_path / "good.log").read_text() == "there\n"
    assert len((tmp_path / "summary.txt").read_text().splitlines()) == 5
    text = bench.told(done, tmp_path)
    assert "said" in text
    assert "=== long" not in text, "it never ran"


def gone(pid: str) -> bool:
    """Whether a process ends by itself soon: the system takes a moment over one that is killed."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


@pytest.mark.parametrize("deaf", [True, False])
def test_what_a_late_step_started_ends_with_it(
    deaf: bool, bench: ModuleType, tmp_path: Path
) -> None:
    """The limit of all steps holds for each one, whatever it may take by itself."""
    child = f"open({str(tmp_path / 'alive')!r}, 'w').write(str(__import__('os').getpid()))"
    parent = (
        "import signal, subprocess, sys, time; "
        f"signal.signal(signal.SIGTERM, signal.{'SIG_IGN' if deaf else 'SIG_DFL'}); "
        f"subprocess.Popen([sys.executable, '-c', {child + '; import time; time.sleep(60)'!r}]); "
        "time.sleep(60)"
    )
    bench.GRACE = 0.2
    (done,) = bench.run([bench.Step("p", 0, 99, ["-c", parent])], tmp_path, 3.0, dict(os.environ))
    assert done.wrong == f"ended after its 3 s{', by force' if deaf else ''}"
    assert gone((tmp_path / "alive").read_text())


def test_every_step_is_a_command_that_exists(bench: ModuleType, tmp_path: Path) -> None:
    wet, dry = (bench.steps(tmp_path, dry=dry) for dry in (False, True))
    assert [step.name for step in wet] == [step.name for step in dry]
    assert [step.name for step in wet][:4] == ["env", "calibrate", "compare", "tests"]
    assert all(0 < step.least <= step.most for step in wet)
    words = [word for step in wet for word in step.command]
    assert "cpu" not in words
    assert not [word for step in dry for word in step.command if word == "cuda"]
    tests = next(step for step in wet if step.name == "tests").command
    assert str(ROOT / "tests" / "test_gpu.py") in tests


def test_wheels_are_unpacked_where_a_package_is_missing(bench: ModuleType, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("msgspec", "nowhere_to_be_found"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
    env = bench.environment(tmp_path / "out", wheels)
    site = Path(env["PYTHONPATH"].split(os.pathsep)[0])
    assert sorted(path.name for path in site.iterdir()) == ["nowhere_to_be_found", "tpprof"]
    assert (site / "tpprof").resolve() == ROOT.resolve()


def test_a_dry_run(tmp_path: Path) -> None:
    """As on a machine where tpprof was never installed: another folder, another name."""
    command = [sys.executable, str(SCRIPT), "env", "compare", "tests", "--dry-run"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["env", "compare", "tests"]
    assert (tmp_path / "out" / "compare.json").is_file()
    assert "tests/test_gpu.py::test_vanilla" in (tmp_path / "out" / "tests.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(["compar"], "'compar' is no step; known: env"), (["--wheels", "/no/such"], "no such folder")],
)
def test_what_does_not_exist_is_one_line(arguments: list[str], wrong: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert wrong in done.stderr
    assert "Traceback" not in done.stderr
