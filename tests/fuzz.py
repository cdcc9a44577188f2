"""Malformed records, baselines, configurations, options and spec strings, from a seed.

`python tests/fuzz.py SECONDS [SEED]` runs the command on them in this process. Whatever they are,
its exit code is a documented one, stderr holds three short lines at most and no traceback, and no
file changes that was not named. A failure is printed with the seed that makes it again.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_records import full
from typer.main import get_command

from tpprof.methods import names
from tpprof.profiler import cli
from tpprof.profiler.commands import compare, supervised
from tpprof.reports.gate import config
from tpprof.reports.gate.baseline import SCHEMA, Baseline, Snapshot, save_baseline
from tpprof.reports.gate.config import Config, save_config
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.tolerant_record import reading
from tpprof.reports.record.files import save
from tpprof.reports.record.spec import RunSpec, Subject
from tpprof.reports.record.spec_files import as_toml

CODES = {0, 1, 2, 3, 4}
MOST_LINES, LONGEST = 3, 1100
PATIENCE = 150
NOWHERE = "no/such/folder/at/all"
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5, 1.5, 1e308),
    *(
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "NaN",
        "x" * 20_000,
        "9" * 5000,
        "²",
        "٣",
        "\x1b[31m",
        "\u202e",
    ),
    *("../../x", "a" * 300, "<b>", "[/b]", "=1+1", "%", "0%", "1/0", "1/9", "-1", "1e999", "0x10"),
    *([], [None], ["x"], [[]], {}, {"": 1}, {"x": None}, [0] * 100),
]
WORDS = [odd for odd in ODD if isinstance(odd, str)] + [
    *("1", "0", "2", "7", "64", "0.5", "50%", "2x", "24GiB", "100000x100000", "3x3", "1,1", "0,0"),
    *("rows", "maps", "published", "rows,rows", "eager", "graph", "cpu", "cuda", "float32", "json"),
    *("fastv", "tiny", "flat", "h100", "latency=5%", "8,16,24", "1,2", "latency", "decode,decode"),
]
Case = tuple[list[str], set[str]]
"""A command line, and the files that it may write."""


def mutate(chance: random.Random, value: Any) -> Any:
    """The same with one thing in it changed, wherever it lies."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        found, key = dict(value), chance.choice(list(value))
        roll = chance.random()
        if roll < 0.1:
            del found[key]
        elif roll < 0.15:
            found[chance.choice(["x", "", key + " ", key.upper()])] = chance.choice(ODD)
        else:
            found[key] = mutate(chance, value[key])
        return found
    if isinstance(value, list) and value and chance.random() < 0.9:
        listed, at = list(value), chance.randrange(len(value))
        roll = chance.random()
        if roll < 0.1:
            del listed[at]
        elif roll < 0.2:
            listed.insert(at, listed[at])
        else:
            listed[at] = mutate(chance, listed[at])
        return listed
    if isinstance(value, (int, float)) and chance.random() < 0.7:
        return type(value)(chance.choice([-1, 0, 1, 2, 1e-9, 1e9, 1e18]) * (value or 1))
    return chance.choice(ODD)


def mutate_field(chance: random.Random, value: Any) -> Any:
    """The same with another value in one field. Fields are equally likely, however many records of
    samples or cells hold them."""
    places: dict[tuple[str, ...], list[tuple[Any, Any]]] = {}

    def walk(part: Any, names: tuple[str, ...]) -> None:
        listed = part.items() if isinstance(part, dict) else enumerate(part)
        for key, inner in listed:
            field = (*names, key if isinstance(key, str) else "*")
            places.setdefault(field, []).append((part, key))
            if isinstance(inner, (dict, list)):
                walk(inner, field)

    if not isinstance(value, dict) or not value:
        return chance.choice(ODD)
    found = copy.deepcopy(value)
    walk(found, ())
    holder, key = chance.choice(places[chance.choice([*places])])
    holder[key] = chance.choice(ODD)
    return found


def damage(chance: random.Random, content: bytes) -> bytes:
    """Bytes with some of them changed, lost or doubled."""
    at = chance.randrange(len(content))
    end = min(len(content), at + chance.choice([1, 1, 3, 50, 5000]))
    new = chance.choice([b"", os.urandom(0), b"\xff", b"\x00", b"{", b'"', b"[" * 5000, b"1e999"])
    return chance.choice([content[:at], content[:at] + new + content[end:]])


class Fuzzer:
    """A folder with one good file of each kind, and what is done to copies of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run, subject = full(), Subject.of(model=NOWHERE, methods=["random"])
        save(run, folder / "good.json")
        snapshot = Snapshot.of(reading(run))
        baseline = Baseline(
            schema=SCHEMA, tpprof="0", subject=subject, memory=0.01, snapshot=snapshot
        )
        save_baseline(baseline, folder / "baseline.json")
        save_config(
            Config(schema=config.SCHEMA, subject=subject, rules=Rules(tolerance={"decode": 0.1})),
            folder / "gate.toml",
        )
        (folder / "run.toml").write_text(as_toml(RunSpec.of(model=NOWHERE, methods=["fastv"])))
        self.good = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.cases: list[Callable[[random.Random], Case]] = [
            *(self.record, self.record, self.journal, self.baseline, self.gate_toml),
            *(self.run_toml, self.options, self.options, self.spec),
        ]

    def spoiled(self, chance: random.Random, name: str) -> None:
        """Put a spoiled copy of a good file into its place."""
        content = self.good[name]
        if name.endswith(".json") and chance.random() < 0.85:
            value = json.loads(content)
            for _ in range(chance.randint(1, 3)):
                value = chance.choice([mutate, mutate_field])(chance, value)
            content = json.dumps(value).encode()
        elif name.endswith(".toml") and chance.random() < 0.8:
            lines = content.decode().splitlines()
            at = chance.choice([n for n, line in enumerate(lines) if " = " in line])
            key = lines[at].partition(" = ")[0].removeprefix("# ")
            odd = json.dumps(chance.choice([odd for odd in ODD if odd is not None]))
            lines[at] = f"{chance.choice([key, key, key, 'x'])} = {odd}"
            content = "\n".join(lines).encode()
        else:
            content = damage(chance, content)
        (self.folder / name).write_bytes(content)

    def record(self, chance: random.Random) -> Case:
        self.spoiled(chance, "good.json")
        form = chance.choice(["table", "json", "csv", "markdown", "latex", "long"])
        known = chance.choice(
            [
                *(["report", "good.json", "-f", form], ["explain", "good.json", "-f", form]),
                *(["report", "good.json", "--phases"], ["report", "good.json", "good.json"]),
                ["report", "good.json", "--html", "page.html"],
                ["explain", "good.json", "fastv", "--layers"],
                ["gate", "compare", "good.json", "good.json", "--html", "page.html"],
            ]
        )
        return known, {"page.html"}

    def journal(self, chance: random.Random) -> Case:
        record = json.loads(self.good["good.json"])
        cells = record["cells"]
        samples = [(index, s) for index, cell in enumerate(cells) for s in cell.pop("samples", [])]
        lines = [{"type": "begun", "record": record}]
        lines += [{"type": "sample", "index": index, "sample": s} for index, s in samples[:20]]
        at = chance.randrange(len(lines))
        lines[at] = mutate(chance, lines[at])
        content = "\n".join(map(json.dumps, lines)).encode() + b"\n"
        if chance.random() < 0.3:
            content = damage(chance, content)
        (self.folder / "run.jsonl").write_bytes(content)
        return ["report", chance.choice(["run.json", "run.jsonl"])], set()

    def baseline(self, chance: random.Random) -> Case:
        self.spoiled(chance, "baseline.json")
        more = chance.choice([[], ["--json", "result.json"], ["--junit", "junit.xml"]])
        return ["gate", "check", "baseline.json", *more], {"result.json", "junit.xml"}

    def gate_toml(self, chance: random.Random) -> Case:
        self.spoiled(chance, "gate.toml")
        known = chance.choice(
            [
                ["gate", "compare", "good.json", "good.json", "--config", "gate.toml"],
                ["gate", "ab", "no.py", "no.py", "--config", "gate.toml"],
                ["gate", "calibrate", "gate.toml", "--pairs", "7"],
            ]
        )
        return known, set()

    def run_toml(self, chance: random.Random) -> Case:
        self.spoiled(chance, "run.toml")
        return ["compare", "--config", "run.toml", "-m", NOWHERE, "--out", "out.json"], set()

    def options(self, chance: random.Random) -> Case:
        start = chance.choice(
            [
                *(["flops", "fastv"], ["flops", "random"], ["init", "fastv", "--out", "new.toml"]),
                ["gate", "init", "fastv", "--config", "new.toml"],
                ["compare", "fastv", "--model", NOWHERE, "--out", "out.json"],
                *(["tokens", "fastv", "--model", NOWHERE], ["env"], ["report", "good.json"]),
                ["gate", "compare", "good.json", "good.json"],
            ]
        )
        known = options(start[0]) if start[0] != "gate" else options(*start[:2])
        typed = [
            text
            for option in chance.sample(known, min(len(known), chance.randint(1, 3)))
            for text in chance.choice([[option, chance.choice(WORDS)], [option]])
        ]
        return [*start, *(text for text in typed if "\0" not in text)], {"new.toml", *typed}

    def spec(self, chance: random.Random) -> Case:
        knobs = ["keep", "layer", "version", "tag", "x", "", "keep keep", "rank"]
        text = chance.choice([*names(), "", "x", ":", "fastv "]) + chance.choice([":", "", ","])
        text += ",".join(
            f"{chance.choice(knobs)}={chance.choice(WORDS)}" for _ in range(chance.randint(0, 3))
        )
        start = chance.choice([["flops"], ["gate", "init", "--config", "new.toml"]])
        return [*start, text], {"new.toml"}

    def once(self, seed: int) -> str:
        """One command; "" or what is wrong about what it did."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, content in self.good.items():
            (self.folder / name).write_bytes(content)
        chance = random.Random(seed)
        arguments, named = chance.choice(self.cases)(chance)
        before = self.contents()
        code, complaints = run(arguments)
        changed = {n for n, content in self.contents().items() if before.get(n) != content}
        changed |= before.keys() - self.contents().keys()
        problems = _problems(code, complaints)
        changed -= {Path(name).parts[0] for name in named if Path(name).parts} | {"runs"}
        if changed:
            problems.append(f"changed {sorted(changed)}")
        if not problems:
            return ""
        shown = shlex.join(text[:80] for text in arguments)
        return f"seed {seed}: tpprof {shown}\n  {'; '.join(problems)}\n{complaints[-1500:]}"

    def contents(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() if p.is_file() else b"" for p in self.folder.iterdir()}


def options(*names: str) -> list[str]:
    """The options of a command."""
    found: Any = get_command(cli.app)
    for name in names:
        found = found.commands[name]
    return [option for parameter in found.params for option in parameter.opts if "--" in option]


def _problems(code: object, complaints: str) -> list[str]:
    lines = complaints.splitlines()
    found = [f"exit code {code}"] if code not in CODES else []
    found += ["a traceback"] if "Traceback" in complaints else []
    found += [f"{len(lines)} lines on stderr"] if len(lines) > MOST_LINES else []
    found += ["a long line"] if any(len(line) > LONGEST for line in lines) else []
    found += (
        ["control characters"] if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", complaints) else []
    )
    return found


def run(arguments: list[str]) -> tuple[object, str]:
    """The command in this process: its exit code and stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["tpprof", *arguments]
    code: object = "none"
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    except TimeoutError:
        code = "none: it hangs"
    finally:
        signal.alarm(0)
    return code, err.getvalue()


def _here(lost: Callable[[], str], kept: Callable[[], str] = str) -> Callable[[], None]:
    """In the place of `in_a_child`: all is run in this process, which must go on."""
    return lambda: None


def _hangs(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**9)
    once = len(sys.argv) > 3
    signal.signal(signal.SIGALRM, _hangs)
    compare.in_a_child = supervised.in_a_child = _here  # a process for each would take seconds
    began, done, failures, here = time.monotonic(), 0, list[str](), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        deep = Path(folder) / "a" / "b" / "c"  # paths that lead upwards stay inside
        deep.mkdir(parents=True)
        fuzzer = Fuzzer(deep)
        os.chdir(deep)
        while time.monotonic() - began < seconds and len(failures) < 20:
            if failure := fuzzer.once(seed + done):
                failures.append(failure)
                print(failure, flush=True)
            done += 1
            if once:
                break
        os.chdir(here)
    print(f"{done} commands from seed {seed}: {len(failures)} failed")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
