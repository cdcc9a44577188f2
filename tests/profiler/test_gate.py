"""`tpprof gate` as a user runs it, and its sessions with processes that are made up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made import cell, record, sample

from tpprof.methods.core.errors import InputError
from tpprof.profiler.gate.ab import Asked, ab
from tpprof.profiler.gate.arms import Arm, arm
from tpprof.profiler.gate.calibrate import calibrate, write
from tpprof.profiler.gate.session import in_a_fresh_process
from tpprof.reports.gate import config as configuration
from tpprof.reports.gate.journal import Found, Ran, read
from tpprof.reports.gate.reading import decoded
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.snapshot import Subject
from tpprof.reports.gate.verdicts import Gate, NoVerdictError, Verdict
from tpprof.reports.record import Cell, Record, Telemetry

RUN = [sys.executable, "-c", "from tpprof.profiler.cli import main; main()"]
SMALL = ["--model", "tiny-llava", "--device", "cpu", "--visual-tokens", "64"]
PLUGIN = Path(__file__).parent.parent / "onemore.py"
FLOPS = 1_000_000


def tpprof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def taken(seconds: float, count: int, **more: Any) -> Record:
    """What a process gives: vanilla, and fastv whose requests take so long."""
    whole = record(
        cell("vanilla", "rows", 1.0, 2 * FLOPS, samples=[sample(n, 1.0) for n in range(count)]),
        cell("fastv", "rows", seconds, FLOPS, samples=[sample(n, seconds) for n in range(count)]),
    )
    whole.environment = {"device": "a machine", "device_type": "cpu", **more}
    return whole


@dataclass
class Fake:
    """Processes that are made up. head: how much longer the head takes. change: what is done to a
    record of the head. fail: what ends the process of an arm, as code and reason, from a number of
    processes on."""

    head: float = 1.0
    change: Callable[[Record], object] = lambda record: None
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    after: int = 0
    calls: list[str] = field(default_factory=list)

    def __call__(self, arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        self.calls.append(arm.name)
        if arm.name in self.fail and len(self.calls) > self.after:
            return (*self.fail[arm.name], b"")
        ours = arm.name == "head"
        wobble = 1 + 0.002 * (len(self.calls) % 3)
        given = taken((self.head if ours else 1.0) * wobble, task["requests"])
        if ours:
            self.change(given)
        return 0, "", msgspec.json.encode(given)


def judged(fake: Fake, tmp_path: Path, **more: Any) -> Gate:
    given: dict[str, Any] = {
        "base": str(PLUGIN), "head": str(PLUGIN), "subject": Subject(methods=["fastv"]),
        "rules": Rules(tolerance={"latency": 0.05}, requests=3), "folder": tmp_path,
        "out": tmp_path / "gate.jsonl", "metrics": ["latency"],
    }  # fmt: skip
    return ab(Asked(**{**given, **more}), lambda label, done, total: None, fake)


def told(gate: Gate) -> str:
    return "\n".join(f"{row.verdict.value}: {row.rule}" for row in gate.rows)


def test_equal_arms_pass_and_every_process_is_kept(tmp_path: Path) -> None:
    fake = Fake()
    gate = judged(fake, tmp_path)
    assert gate.code == 0, told(gate)
    assert "".join(name[0] for name in fake.calls) == "bh" + 2 * "bhhbhbbh"
    lines = read(tmp_path / "gate.jsonl")
    ran = [line for line in lines if isinstance(line, Ran)]
    assert [line.arm for line in ran[2:6]] == list("ABBA")
    assert len(ran[2].seconds["fastv with rows"]["latency"]) == 3
    assert isinstance(lines[-1], Found)


def test_a_slow_head_fails_and_a_fast_one_does_not(tmp_path: Path) -> None:
    slow = judged(Fake(1.1), tmp_path)
    assert (slow.code, "confirmed by 8" in told(slow)) == (1, True), told(slow)
    assert judged(Fake(0.9), tmp_path).verdict is Verdict.IMPROVED


def drop(record: Record) -> None:
    record.cells.pop()


def rename(record: Record) -> None:
    record.cells[1].method = "fastw"


def longer(record: Record) -> None:
    record.request.new_tokens = 3


def other_backend(record: Record) -> None:
    record.model.backend = "eager"


def other_kernel(record: Record) -> None:
    record.cells[1].kernels = ["math"]


def fewer_tokens(record: Record) -> None:
    record.cells[1].generated_tokens = -1


def other_workload(record: Record) -> None:
    record.workload = {"visual_tokens": 65}


def throttled(record: Record) -> None:
    for each in record.cells[1].samples:
        each.telemetry = Telemetry(readings=1, throttled=["hardware thermal slowdown"])


def shared(record: Record) -> None:
    for each in record.cells[1].samples:
        each.telemetry = Telemetry(readings=1, others=[4711])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop, "this cell is missing"),
        (rename, "this cell is missing"),
        (longer, "request new_tokens is 3, was 2"),
        (other_backend, "backend is eager"),
        (other_kernel, "another attention kernel"),
        (fewer_tokens, "fewer tokens"),
        (other_workload, "workload visual_tokens"),
        (throttled, "throttled: hardware thermal slowdown"),
        (shared, "other processes used the GPU: 4711"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_comparable_has_no_verdict(
    change: Callable[[Record], object], reason: str, tmp_path: Path
) -> None:
    gate = judged(Fake(change=change), tmp_path)
    assert gate.code == 3, told(gate)
    assert reason in told(gate)


def test_clocks_that_differ_have_no_verdict(tmp_path: Path) -> None:
    def slower(record: Record) -> None:
        record.cells[1].samples[0].telemetry = Telemetry(readings=1, sm_clock_hz=1.0e9)

    def clocked(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        given = taken(1.0, task["requests"])
        given.cells[1].samples[0].telemetry = Telemetry(readings=1, sm_clock_hz=1.1e9)
        if arm.name == "head":
            slower(given)
        return 0, "", msgspec.json.encode(given)

    gate = judged(clocked, tmp_path)  # type: ignore[arg-type]
    assert (gate.code, "SM clock differs by 9.1%" in told(gate)) == (3, True), told(gate)


def test_what_breaks_off_keeps_the_processes_that_ended(tmp_path: Path) -> None:
    fake, count = Fake(), 8

    def interrupted(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        if len(fake.calls) == count:
            raise KeyboardInterrupt
        return fake(arm, task)

    with pytest.raises(KeyboardInterrupt):
        judged(interrupted, tmp_path)  # type: ignore[arg-type]
    kept = [line for line in read(tmp_path / "gate.jsonl") if isinstance(line, Ran)]
    assert len(kept) == count


@pytest.mark.parametrize("arm_", ["base", "head"])
@pytest.mark.parametrize("after", [0, 6])
def test_a_killed_arm_has_no_verdict(arm_: str, after: int, tmp_path: Path) -> None:
    fake = Fake(fail={arm_: (-9, "process ended by SIGKILL (out of memory?)")}, after=after)
    gate = judged(fake, tmp_path)
    assert gate.code == 3, told(gate)
    assert "SIGKILL" in told(gate)
    assert len(fake.calls) <= after + 2


@pytest.mark.parametrize("after", [0, 6])
def test_a_head_that_fails_twice_is_a_regression_and_a_base_is_not(
    after: int, tmp_path: Path
) -> None:
    reason = (1, "OutOfMemoryError: CUDA out of memory")
    head, base = (judged(Fake(fail={a: reason}, after=after), tmp_path) for a in ("head", "base"))
    assert (head.code, base.code) == (1, 3), told(head) + told(base)
    assert "OutOfMemoryError" in told(head)


def test_a_head_that_does_not_know_the_method_has_no_verdict(tmp_path: Path) -> None:
    gate = judged(Fake(fail={"head": (2, "unknown method 'fastv'")}), tmp_path)
    assert gate.code == 3
    assert "unknown method" in told(gate)


def test_a_cell_that_fails_in_the_head_alone_is_a_regression(tmp_path: Path) -> None:
    def broken(record: Record) -> None:
        record.cells[1].error, record.cells[1].samples = "RuntimeError: no", []

    assert judged(Fake(change=broken), tmp_path).code == 1


def test_too_few_pairs_have_no_verdict(tmp_path: Path) -> None:
    few = Rules(tolerance={"latency": 0.05}, looks=[6], alphas=[0.01])
    gate = judged(Fake(), tmp_path, rules=few)
    assert gate.code == 3
    assert "can never fail" in told(gate)


def test_tolerances_are_found_and_written(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    rules = Rules(tolerance={"latency": 0.25}, requests=2)
    write(path, Subject(methods=["fastv"]), rules)
    with pytest.raises(InputError, match="is there already"):
        write(path, Subject(methods=["fastv"]), rules)
    tell = lambda label, done, total: None  # noqa: E731
    (found,) = calibrate(path, 8, tmp_path / "c.jsonl", tell, Fake())
    assert found.tolerance >= 2 * found.detectable > 0
    read_again = configuration.load(path)
    assert read_again.rules.tolerance == {"latency": found.tolerance}
    assert "8 A/A pairs" in read_again.calibrated
    with pytest.raises(InputError, match="an even number from 8"):
        calibrate(path, 4, tmp_path / "c.jsonl", tell, Fake())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of somebody's own method, with a commit before the one at hand."""
    folder = tmp_path / "mine"
    (folder / "lib").mkdir(parents=True)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "--quiet")
    for keep in (7, 8):
        text = PLUGIN.read_text().replace("KEEP = 7", f"KEEP = {keep}")
        (folder / "lib" / "mine.py").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", f"keep {keep}")
    return folder


def test_the_arms_of_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    with arm("base", "HEAD~1", ["lib/mine.py"]) as base, arm("head", ".", ["lib/mine.py"]) as head:
        (old,), (new,) = base.plugins, head.plugins
        assert "KEEP = 7" in Path(old).read_text()
        assert "KEEP = 8" in Path(new).read_text()
        assert base.paths == (str(Path(old).parent.parent),)
        assert (base.root, base.told[:7]) == (None, "commit ")
    assert not Path(old).exists()
    done = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1, "nothing is left behind"
    with pytest.raises(NoVerdictError, match="has no plug-in"), arm("b", "HEAD", ["lib/none.py"]):
        pass
    with arm("base", sys.executable, ["lib/mine.py"]) as interpreter:
        assert interpreter.python == sys.executable


@pytest.mark.parametrize("text", ["no-such-commit", "none.py", "--help"])
def test_an_arm_that_is_nothing(
    text: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=r"is no commit|no such plug-in"), arm("base", text, []):
        pass


def test_a_commit_of_tpprof_is_imported_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process in a checkout of its own, with a mark that the installed tpprof lacks."""
    import shutil

    import tpprof

    root, copy = Path(tpprof.__file__).parent, tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "__pycache__", "runs")
    shutil.copytree(root, copy, ignore=ignored)
    vanilla = copy / "methods" / "vanilla.py"
    vanilla.write_text(
        vanilla.read_text().replace('@register("vanilla")', '@register("vanilla")\n')
    )
    environment = copy / "profiler" / "environment.py"
    environment.write_text(
        environment.read_text().replace(
            '"gpu": None,\n    }', '"gpu": None, "mark": __file__,\n    }', 1
        )
    )
    assert '"mark"' in environment.read_text()
    task = {
        "root": str(copy), "paths": [], "plugins": [str(PLUGIN)], "methods": ["loudest"],
        "requests": 2, "workload": {"visual_tokens": 64, "size": [672, 672]},
        "options": {"model": "tiny-llava", "device": "cpu", "attention": ["rows"]},
    }  # fmt: skip
    code, failure, content = in_a_fresh_process(Arm("base", "copy"), task)
    assert (code, failure) == (0, "")
    found = decoded(content)
    assert found.environment["mark"].startswith(str(copy))
    loudest: Cell = found.cells[1]  # type: ignore[assignment]
    assert loudest.visual_per_layer[3:] == [7] * 13
    assert len(loudest.samples) == 2
    code, failure, _ = in_a_fresh_process(Arm("base", ""), {**task, "methods": ["loudets"]})
    assert code == 2
    assert "did you mean 'loudest'" in failure


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of a plug-in method beside it."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "mine.py").write_text(PLUGIN.read_text())
    made = tpprof(
        "gate", "check", "deep/b.json", "--update", "loudest", *SMALL, "--plugin", "mine.py",
        cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "deep" / "b.json"


def test_a_method_that_keeps_one_token_more_fails_with_its_layer(baseline: Path) -> None:
    """From another folder than it was made in: paths lead from the baseline."""
    assert json.loads(baseline.read_text())["subject"]["plugins"] == ["../mine.py"]
    plugin = baseline.parent.parent / "mine.py"
    results = ["--json", "o.json", "--junit", "o.xml", "--summary", "s.md"]
    equal = tpprof("gate", "check", str(baseline), cwd=plugin.parent.parent)
    assert equal.returncode == 0, equal.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 7", "KEEP = 8"))
    more = tpprof("gate", "check", "deep/b.json", *results, cwd=plugin.parent)
    assert more.returncode == 1, more.stdout
    assert "layers 3 to 15 7 -> 8" in (plugin.parent / "s.md").read_text()
    assert json.loads((plugin.parent / "o.json").read_text())["verdict"] == "FAIL"

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", "deep/b.json"],
        cwd=plugin.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "layers 3 to 15 7 -> 8" in done.stdout
    assert "1 failed, 2 passed" in done.stdout

    accepted = tpprof("gate", "check", "deep/b.json", "--update", cwd=plugin.parent)
    assert accepted.returncode == 0
    assert "accepted" in accepted.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 8", "KEEP = 7"))
    fewer = tpprof("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (fewer.returncode, "update the baseline" in fewer.stdout) == (0, True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "damaged"), ('{"schema": 7}', "schema 7"), (None, "make it with --update")],
)
def test_a_baseline_that_cannot_be_read_has_no_verdict(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    done = tpprof("gate", "check", "b.json", cwd=tmp_path)
    assert (done.returncode, reason in done.stdout) == (3, True), done.stdout
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", "b.json"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert tests.returncode == 1
    assert "NO VERDICT" in tests.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "b.json", "fastv"], "go with --update"),
        (["check", "b.json", "--update", "fastw"], "did you mean 'fastv'"),
        (["check", "b.json", "--update", "x", "--plugin", "no.py"], "no such file"),
        (["ab", "none", "other", "fastv"], "is no .py file, no environment"),
        (["ab", ".", ".", "--pairs", "8,x"], "is not a list of counts"),
        (["ab", ".", ".", "--metric", "speed"], "known: latency, prefill, decode"),
        (["ab", ".", ".", "--tolerance", "much"], "is not a share"),
        (["ab", ".", ".", "--config", "none.toml"], "see tpprof gate init"),
        (["compare", "a.json", "b.json"], "no such record"),
        (["calibrate"], "see tpprof gate init"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = tpprof("gate", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_records_that_cannot_be_read_have_no_verdict(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.json", tmp_path / "torn.json"
    whole.write_bytes(msgspec.json.encode(taken(0.5, 8)))
    torn.write_bytes(whole.read_bytes()[:-100])
    assert tpprof("gate", "compare", "whole.json", "whole.json", cwd=tmp_path).returncode == 0
    for pair in (("torn.json", "whole.json"), ("whole.json", "torn.json")):
        done = tpprof("gate", "compare", *pair, cwd=tmp_path)
        assert (done.returncode, "no tpprof record" in done.stdout) == (3, True), done.stdout
    torn.write_bytes(whole.read_bytes().replace(b'"schema":3', b'"schema":99'))
    done = tpprof("gate", "compare", "whole.json", "torn.json", cwd=tmp_path)
    assert (done.returncode, "schema 99" in done.stdout) == (3, True), done.stdout


def test_gate_toml_is_begun(tmp_path: Path) -> None:
    done = tpprof("gate", "init", "fastv", "--visual-tokens", "64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = configuration.load(tmp_path / "gate.toml")
    assert config.subject.methods == ["fastv"]
    assert config.subject.workload["visual_tokens"] == 64


def test_pytest_without_the_option_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\n\ndef test_one():\n"
        "    assert 'tpprof.profiler.gate.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'msgspec', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
