"""What a GPU is borrowed for, in one call: steps with time limits, the most valuable first.

Nothing is installed and no network is needed: the checkout is put on the path. Every step has a log
of its own, none stops the others, and what is done is on disk at once. It needs Python alone; its
steps need what tpprof needs.

    python benchmarks/gpu/run.py                     # all steps that fit into 8 minutes
    python benchmarks/gpu/run.py compare tests       # these
    python benchmarks/gpu/run.py --dry-run           # the same commands on a CPU, small
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 480.0
"""For all steps together: what one borrowed call lasts, less its start and its end."""
GRACE = 25.0
"""Seconds that a step has to save what it measured, once it is told to end."""
MEASURES = "real_gpu or calibrated or cuda_events or forced_wait or floor_on or comparison_has_all"
"""Tests that measure, for which the device must have nothing else to do (pytest -k)."""


@dataclass(frozen=True)
class Step:
    """least: seconds below which it is not begun. most: seconds after which it is ended. command:
    what follows `python`."""

    name: str
    least: float
    most: float
    command: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How a step ended: "" for well."""

    step: Step
    seconds: float
    wrong: str


def steps(folder: Path, *, dry: bool) -> list[Step]:
    """All steps, the most valuable first. folder: where records go. dry: on a CPU, as small as can
    be."""
    device = "cpu" if dry else "cuda"
    full, qwen = ("tiny-llava", "tiny-qwen2-vl") if dry else ("llava-next-7b", "qwen2-vl-7b")

    def compare(name: str, methods: str, *more: str, model: str = full) -> list[str]:
        given = [*methods.split(), "--model", model, "--device", device, "--phases"]
        small = ["--visual-tokens", "64", "--keep", "16", "--rounds", "1", "--passes", "none"]
        return tpprof("compare", *given, *more, *(small if dry else ["--keep", "320"]), out=name)

    def tpprof(*arguments: str, out: str = "") -> list[str]:
        program = "from tpprof.profiler.cli import main; main()"
        record = ["--out", str(folder / f"{out}.json")] if out else []
        return ["-c", program, *arguments, *record]

    def tests(chosen: str, *more: str) -> list[str]:
        files = sorted(ROOT.glob("tests/**/test_*.py"))
        marked = [str(path) for path in files if "mark.gpu" in path.read_text()]
        counted = ["--collect-only"] if dry else []
        flags = ["-p", "no:cacheprovider", "-q", "-ra", "--durations", "10"]
        return ["-m", "pytest", *flags, "-m", "gpu", "-k", chosen, *more, *counted, *marked]

    def callables() -> list[str]:
        size = ["--keep", "64", "--rounds", "1"] if dry else ["--keep", "320", "--seconds", "20"]
        given = ["--model", full, "--device", device, "--out", str(folder / "callables.json")]
        return [str(ROOT / "benchmarks" / "callables.py"), *given, *size]

    short = ("--min-rounds", "6", "--max-seconds", "10")
    both = ("--runtime", "eager,graph")
    policies = "rows" if dry else "rows,maps,published"
    pixels = ("--preprocess", "device") if importlib.util.find_spec("torchvision") else ()
    whole = (*both, "--attention", policies, *pixels, "--min-rounds", "6")
    methods = "fastv" if dry else "fastv sparsevlm mustdrop"
    workers = ("-p", "xdist", "-n", "8") if importlib.util.find_spec("xdist") and not dry else ()
    others = f"not ({MEASURES}) and not compiled_for"
    return [
        Step("env", 5, 30, tpprof("env", "--device", device)),
        Step("calibrate", 20, 75, tpprof("calibrate", "--device", device)),
        Step("compare", 60, 215, compare("compare", methods, *whole, "--max-seconds", "30")),
        Step("tests", 25, 110, tests(others, *workers)),
        Step("timed", 40, 130, tests(MEASURES)),
        Step("flash", 40, 80, compare("flash", "fastv", *both, *short, "--backend", "sdpa-flash")),
        Step("tokens", 100, 240, compare("tokens", methods, *whole, *short, "--new-tokens", "16")),
        Step("callables", 30, 60, callables()),
        Step("qwen", 40, 90, compare("qwen", "fastv", *both, *short, model=qwen)),
        Step("compiled", 60, 130, tests("compiled_for", *workers)),
        Step("compile", 60, 110, compare("compile", "fastv", *short, "--runtime", "eager,compile")),
    ]


def run(chosen: Sequence[Step], out: Path, seconds: float, env: dict[str, str]) -> list[Outcome]:
    """Run the steps one after another within `seconds`; none stops those behind it."""
    began, done = time.monotonic(), []
    for step in chosen:
        left = seconds - GRACE - (time.monotonic() - began)
        if left < step.least:
            done.append(Outcome(step, 0.0, f"skipped: {left:.0f} s left, it needs {step.least:g}"))
        else:
            done.append(_run_one(step, out, min(step.most, left), env))
        print(_line(done[-1]), flush=True)
        (out / "summary.txt").write_text("".join(f"{_line(one)}\n" for one in done))
    return done


def _run_one(step: Step, out: Path, most: float, env: dict[str, str]) -> Outcome:
    """Run a step, and end it with all that it started after `most` seconds: by SIGTERM, at which
    tpprof saves what it has, and then by SIGKILL."""
    began, late = time.monotonic(), ""
    with (out / f"{step.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(most)
        except subprocess.TimeoutExpired:
            late = f"ended after its {most:.0f} s"
            process.terminate()
            try:
                process.wait(min(GRACE, most))
            except subprocess.TimeoutExpired:
                late += ", by force"
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever it started goes with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    code = process.returncode
    return Outcome(step, time.monotonic() - began, late or (f"exit code {code}" if code else ""))


def _line(outcome: Outcome) -> str:
    return f"{outcome.step.name:10} {outcome.seconds:6.1f} s  {outcome.wrong or 'done'}"


def environment(out: Path, wheels: Path | None) -> dict[str, str]:
    """Of all steps: the checkout and missing packages on the path, no network, the commit by name
    where the copy has none of its own."""
    site = out / "site"
    site.mkdir(parents=True, exist_ok=True)
    link = site / "tpprof"
    link.unlink(missing_ok=True)  # it may lead to another checkout
    link.symlink_to(ROOT, target_is_directory=True)
    for wheel in sorted(wheels.glob("*.whl")) if wheels else []:
        if importlib.util.find_spec(wheel.name.partition("-")[0]) is None:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site)
    path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "XDG_CACHE_HOME": str(out / "cache"),  # the calibration comes back with the records
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COLUMNS": "200",
    }


def told(done: Sequence[Outcome], out: Path) -> str:
    """The end of the output: of each step that ran its last lines, of each that failed more."""
    parts = []
    for outcome in done:
        log = out / f"{outcome.step.name}.log"
        if log.is_file() and outcome.seconds:
            lines = log.read_text(errors="replace").rstrip().splitlines()
            long = outcome.wrong or (out / f"{outcome.step.name}.json").exists()
            kept = lines[-40:] if long else lines[-6:]
            parts.append("\n".join([f"=== {_line(outcome)}", *(line[:200] for line in kept)]))
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="default: all, in their order")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="logs and records")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use where one is missing")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, small")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    known = {step.name: step for step in steps(out, dry=options.dry_run)}
    for name in options.steps:
        if name not in known:
            parser.error(f"{name!r} is no step; known: {', '.join(known)}")
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f"--wheels {options.wheels}: no such folder")
    env = environment(out, options.wheels)
    done = run([known[name] for name in options.steps or known], out, options.seconds, env)
    print(told(done, out))
    return int(any(outcome.wrong for outcome in done))


if __name__ == "__main__":
    raise SystemExit(main())
