"""Kills at random moments, and what is left: no process, no temporary folder, every sample.

`python tests/kills.py KILLS [SEED]` starts a comparison, an isolated one, one of many cells or a
timing gate, ends it at a random moment by a random signal, looks for what is left, and goes on with
`--resume` to the end. What was in the journal then has to be in the result.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from command import PLUGIN, RUN, SMALL

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MARK = "TPPROF_KILLS"
GONE = 2.0  # seconds after which nothing may be left
SHORT = [*SMALL, "--text-tokens", "1,1"]
CASES = {
    "compare": ["compare", "random", *SHORT, "--rounds", "12"],
    "isolate": ["compare", "random", *SHORT, "--isolate", "--rounds", "2"],
    "many cells": [
        *("compare", "fastv:layer=1", "fastv:layer=2", "fastv:layer=3", "random", "pooling"),
        *(*SHORT, "--attention", "maps,rows,published", "--rounds", "2"),
    ],
    "gate": [
        *("gate", "ab", "a.py", "b.py", "loudest", *SHORT, "--requests", "1", "--pairs", "8"),
        *("--metric", "latency", "--tolerance", "100%"),
    ],
}


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    chance, failures = random.Random(seed), 0
    for number in range(kills):
        case = [*CASES][number % len(CASES)]
        after, by = chance.uniform(0.2, 20.0), chance.choice(SIGNALS)
        with tempfile.TemporaryDirectory() as folder:
            problems, kept = once(case, after, by, Path(folder).resolve())
        failures += bool(problems)
        print(
            f"{number + 1:3} {case}, {by.name} after {after:.1f} s, {kept} samples kept: "
            f"{'; '.join(problems) or 'fine'}",
            flush=True,
        )
    print(f"{kills} kills from seed {seed}: {failures} failed")
    raise SystemExit(bool(failures))


def once(case: str, after: float, by: signal.Signals, folder: Path) -> tuple[list[str], int]:
    """What is wrong behind one kill, and how many samples or processes were kept."""
    scratch, mark = folder / "tmp", f"{os.getpid()}-{time.monotonic_ns()}"
    scratch.mkdir()
    for name in ("a.py", "b.py"):
        (folder / name).write_text(f"{PLUGIN.read_text()}\n# {name}\n")
    gate = case == "gate"
    out = folder / ("run.jsonl" if gate else "run.json")
    command = [*RUN, *CASES[case], "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_hear,
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(by)
    process.wait(60)
    problems = _left(mark, scratch)
    before = samples(out)
    done = subprocess.run(
        [*command, *([] if before is None else ["--resume"])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode not in ((0, 3, 4) if gate else (0,)):
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        problems.append(f"exit code {done.returncode} of --resume: {last}")
    if "Traceback" in done.stderr:
        problems.append("a traceback")
    known = samples(out) or []
    lost = [sample for sample in before or [] if sample not in known]
    if lost:
        problems.append(f"{len(lost)} of {len(before or [])} samples lost")
    problems += _left(mark, scratch)
    return problems, len(before or [])


def samples(out: Path) -> list[Any] | None:
    """All that was measured: samples by their cells, or processes of a gate; None for nothing that
    can be gone on with."""
    journal = out.with_suffix(".jsonl")
    if journal.exists():
        lines = journal.read_bytes().split(b"\n")[:-1]
    elif out.exists():
        lines = [json.dumps({"record": json.loads(out.read_text())}).encode()]
    else:
        return None
    found: list[Any] = []
    for line in map(json.loads, lines):
        for index, cell in enumerate(line.get("record", {}).get("cells", [])):
            found += [(index, sample) for sample in cell["samples"]]
        if line.get("type") == "sample":
            found.append((line.get("index", 0), line["sample"]))
        if line.get("type") == "ran":
            found.append(line)
    return found


def _hear() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # which a job in the background ignores
        signal.signal(number, signal.SIG_DFL)


def _left(mark: str, scratch: Path) -> list[str]:
    """Processes and temporary folders that are there a moment later."""
    deadline = time.monotonic() + GONE
    while True:
        processes, folders = _marked(mark), [path.name for path in scratch.glob("tpprof-*")]
        if not (processes or folders) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    found = [f"processes left: {processes}"] if processes else []
    found += [f"folders left: {folders}"] if folders else []
    for path in scratch.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    return found


def _marked(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes() and state != "Z":
                found.append(place.name)
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
