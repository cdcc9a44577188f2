"""Sessions of the timing gate whose processes are made up: each arm may lie, fail or be killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from record_builders import cell, counted, record, sample

from tpprof.methods.contract.errors import InputError
from tpprof.profiler.gate.arms import Arm
from tpprof.profiler.gate.resumption import unfinished
from tpprof.profiler.gate.timing import GateOptions, run_ab, same_code
from tpprof.profiler.gate.tolerances import calibrate_tolerances, write_config
from tpprof.profiler.subprocesses import SILENT
from tpprof.reports.gate import config
from tpprof.reports.gate.journal import Judgement, Ran, read
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.verdicts import Gate, Verdict
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.environment import CodeOrigins, Environment
from tpprof.reports.record.schema import Record, Span, Telemetry
from tpprof.reports.record.spec import Subject, changed

PLUGIN = Path(__file__).parents[2] / "extra_plugin.py"
FLOPS = 1_000_000


def taken(seconds: float, count: int, device_type: str = "cpu", **origins: str) -> Record:
    """What a process gives: vanilla, and fastv whose requests take so long. origins: where its code
    lies."""
    whole = record(
        *(
            cell(
                name,
                "rows",
                own,
                FLOPS,
                samples=[sample(n, own) for n in range(count)],
                generated_tokens=2,
                **counted(FLOPS),
            )
            for name, own in (("vanilla", 1.0), ("fastv", seconds))
        )
    )
    code = CodeOrigins(origins=origins) if origins else None
    whole.environment = Environment(device="a machine", device_type=device_type, code=code)
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
        "base": str(PLUGIN),
        "head": str(PLUGIN),
        "subject": Subject.of(methods=["fastv"]),
        "rules": Rules(metrics=["latency"], tolerance={"latency": 0.05}, requests=3),
        "out": tmp_path / "gate.jsonl",
        "allow_same": True,
    }
    return run_ab(GateOptions(**{**given, **more}), lambda label, done, total: None, fake)


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
    assert isinstance(lines[-1], Judgement)


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
    record.cells[1].generated_tokens = 1


def other_workload(record: Record) -> None:
    record.spec = changed(record.spec, visual_tokens=65)


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


def test_arms_that_run_the_same_files_have_no_verdict(tmp_path: Path) -> None:
    def from_(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        origins = {"python": "/python", "method fastv": "/head/fastv.py"}
        given = taken(1.0, task["requests"], **origins)
        return 0, "", msgspec.json.encode(given)

    other = tmp_path / "other.py"
    other.write_text("")
    gate = judged(from_, tmp_path, base=str(other), allow_same=False)  # type: ignore[arg-type]
    assert gate.code == 3
    assert "the very same code (/head/fastv.py)" in told(gate)
    gate = judged(from_, tmp_path)  # type: ignore[arg-type]
    assert (gate.code, "compares a code with itself" in gate.notes[0]) == (0, True)
    gate = judged(Fake(), tmp_path, allow_same=False)
    assert (gate.code, "are the same" in told(gate)) == (3, True), "one file on both sides"
    one = Ran(block=-1, turn=0, arm="A", origins={"python": "/a"}, own=["/a/helper.py"])
    assert same_code(one, one)
    assert not same_code(one, msgspec.structs.replace(one, own=["/b/helper.py"]))
    assert not same_code(msgspec.structs.replace(one, origins={}), one)
    moved = {"origins": {"python": "/b"}, "contents": {"mine": "abc"}}
    other_place = msgspec.structs.replace(one, **moved)
    assert same_code(other_place, msgspec.structs.replace(one, contents={"mine": "abc"}))
    assert not same_code(other_place, msgspec.structs.replace(one, contents={"mine": "abd"}))


def test_a_time_that_the_request_does_not_have_has_no_verdict(tmp_path: Path) -> None:
    def one_token(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        given = taken(1.0, task["requests"])
        for each in given.cells:
            phases = [part.phase.replace("decode", "head") for part in each.parts]
            each.parts = [Span(phase=phase, part="x") for phase in phases]
        return 0, "", msgspec.json.encode(given)

    gate = judged(one_token, tmp_path, rules=Rules(requests=3))  # type: ignore[arg-type]
    assert gate.code == 3
    assert "no decode to be timed; leave it out: --metric latency, prefill" in told(gate)


def test_a_gpu_that_nobody_watched_is_told(tmp_path: Path) -> None:
    def unwatched(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        given = taken(1.0, task["requests"], device_type="cuda")
        given.cells[0].missing["telemetry"] = "no NVML"
        return 0, "", msgspec.json.encode(given)

    gate = judged(unwatched, tmp_path)  # type: ignore[arg-type]
    assert "throttling, clocks and other users of the GPU are n/a: no NVML" in gate.notes
    assert not any("throttling" in note for note in judged(Fake(), tmp_path).notes)


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
    fake = Fake()

    def interrupted(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        if len(fake.calls) == count:
            raise KeyboardInterrupt
        return fake(arm, task)

    for count in (1, 8):
        fake.calls.clear()
        with pytest.raises(KeyboardInterrupt):
            judged(interrupted, tmp_path)  # type: ignore[arg-type]
        kept = [line for line in read(tmp_path / "gate.jsonl") if isinstance(line, Ran)]
        assert len(kept) == count, "the looks at both sides among them"


@pytest.mark.parametrize("arm_", ["base", "head"])
@pytest.mark.parametrize("after", [0, 6])
def test_an_arm_that_ends_itself_has_no_verdict(arm_: str, after: int, tmp_path: Path) -> None:
    fake = Fake(fail={arm_: (SILENT, "ended the process")}, after=after)
    gate = judged(fake, tmp_path)
    assert gate.code == 3, told(gate)


def test_what_comes_from_elsewhere_in_a_later_process_has_no_verdict(tmp_path: Path) -> None:
    fake = Fake()

    def later(record: Record) -> None:
        if len(fake.calls) > 6:
            record.environment.code = CodeOrigins(foreign=["/installed/mine.py"])

    fake.change = later
    gate = judged(fake, tmp_path)
    assert (gate.code, "/installed/mine.py" in told(gate)) == (3, True), told(gate)


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


def test_what_neither_side_knows_is_bad_input(tmp_path: Path) -> None:
    unknown = (2, "unknown method 'fastv'")
    with pytest.raises(InputError, match="unknown method"):
        judged(Fake(fail={"base": unknown, "head": unknown}), tmp_path)
    assert judged(Fake(fail={"base": unknown}), tmp_path).code == 3


def test_a_retry_of_the_head_is_not_taken_for_the_base(tmp_path: Path) -> None:
    def failing(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        given = taken(1.0, task["requests"], python=f"/{arm.name}")
        if arm.name == "head":
            given.cells[1].error, given.cells[1].samples = "ValueError: boom", []
        return 0, "", msgspec.json.encode(given)

    other = tmp_path / "other.py"
    other.write_text("")
    gate = judged(failing, tmp_path, base=str(other))  # type: ignore[arg-type]
    assert (gate.code, "the very same code" in told(gate)) == (1, False), told(gate)


def test_a_head_that_does_not_know_the_method_has_no_verdict(tmp_path: Path) -> None:
    gate = judged(Fake(fail={"head": (2, "unknown method 'fastv'")}), tmp_path)
    assert gate.code == 3
    assert "unknown method" in told(gate)


def test_a_cell_that_fails_in_the_head_alone_is_a_regression(tmp_path: Path) -> None:
    def broken(record: Record) -> None:
        record.cells[1].error, record.cells[1].samples = "RuntimeError: no", []

    assert judged(Fake(change=broken), tmp_path).code == 1


def test_too_few_pairs_have_no_verdict(tmp_path: Path) -> None:
    few = Rules(metrics=["latency"], looks=[6], alphas=[0.01])
    gate = judged(Fake(), tmp_path, rules=few)
    assert gate.code == 3
    assert "can never fail" in told(gate)
    assert not (tmp_path / "gate.jsonl").exists(), "nothing was measured for it"


def test_counts_that_are_meant_leave_time_to_be_judged(tmp_path: Path) -> None:
    def more(record: Record) -> None:
        record.cells[1].visual_per_layer = [2880, 321]

    assert judged(Fake(change=more), tmp_path).code == 1
    meant = judged(Fake(change=more), tmp_path, accept_counts=True)
    assert (meant.code, meant.verdict) == (0, Verdict.ACCEPTED), told(meant)
    assert judged(Fake(1.1, change=more), tmp_path, accept_counts=True).code == 1
    assert judged(Fake(change=longer), tmp_path, accept_counts=True).code == 3
    reason = {"head": (1, "RuntimeError: no")}
    assert judged(Fake(fail=reason), tmp_path, accept_counts=True).code == 1


def test_tolerances_are_found_and_written(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    rules = Rules(metrics=["latency"], requests=2)
    write_config(path, Subject.of(methods=["fastv"]), rules)
    with pytest.raises(InputError, match="is there already"):
        write_config(path, Subject.of(methods=["fastv"]), rules)
    tell = lambda label, done, total: None  # noqa: E731
    (found,) = calibrate_tolerances(path, 8, tmp_path / "c.jsonl", tell, Fake())
    assert found.tolerance >= 2 * found.detectable > 0
    read_again = config.load_config(path)
    assert read_again.rules.tolerance == {"latency": found.tolerance}
    assert "8 A/A pairs" in read_again.calibrated
    with pytest.raises(InputError, match="an even number from 8"):
        calibrate_tolerances(path, 4, tmp_path / "c.jsonl", tell, Fake())


def test_what_is_edited_while_a_machine_is_calibrated_stays(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    write_config(path, Subject.of(methods=["fastv"]), Rules(metrics=["latency"], requests=2))

    def tell(label: str, done: int, total: int) -> None:
        path.write_text(path.read_text().replace("requests = 2", "requests = 5"))

    (found,) = calibrate_tolerances(path, 8, tmp_path / "c.jsonl", tell, Fake())
    rules = config.load_config(path).rules
    assert (rules.requests, rules.tolerance) == (5, {"latency": found.tolerance})


class Broken(Fake):
    """Processes of which one is broken off, as by Ctrl-C."""

    def __call__(self, arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        if len(self.calls) == self.after:
            raise KeyboardInterrupt
        return super().__call__(arm, task)


def broken_off(tmp_path: Path, after: int) -> bytes:
    """The journal of a gate that was broken off behind so many processes."""
    with pytest.raises(KeyboardInterrupt):
        judged(Broken(after=after), tmp_path)
    return (tmp_path / "gate.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("after", "measured"),
    [(0, "bhhbhbbh"), (1, "bhhbhbbh"), (5, "bhhbhbbh"), (6, "hbbh"), (9, "hbbh")],
)
def test_a_gate_that_was_broken_off_goes_on(after: int, measured: str, tmp_path: Path) -> None:
    """Both sides are looked at again; of blocks, those that were whole are not measured anew."""
    before = broken_off(tmp_path, after)
    fake = Fake()
    gate = judged(fake, tmp_path, resume=True)
    assert gate.code == 0, told(gate)
    assert "".join(name[0] for name in fake.calls) == "bh" + measured + "bhhbhbbh"
    lines = (tmp_path / "gate.jsonl").read_bytes().splitlines()
    assert lines[1 : 1 + after] == before.splitlines()[1:], "each process that ended is kept"
    assert len(lines) == 1 + after + len(fake.calls) + 1
    assert gate.rows[-1].values["pairs"] == 8


def test_a_gate_that_came_to_its_end_measures_no_pair_again(tmp_path: Path) -> None:
    first = judged(Fake(1.1), tmp_path)
    fake = Fake()
    again = judged(fake, tmp_path, resume=True)
    assert fake.calls == ["base", "head"]
    assert (first.code, again.code) == (1, 1), "what was found slow stays so"


def test_a_process_that_was_killed_is_measured_again(tmp_path: Path) -> None:
    killed = {"head": (-9, "process ended by SIGKILL (out of memory?)")}
    assert judged(Fake(fail=killed, after=8), tmp_path).code == 3
    fake = Fake()
    assert judged(fake, tmp_path, resume=True).code == 0
    assert "".join(name[0] for name in fake.calls) == "bh" + "hbbh" + "bhhbhbbh"


def other_device(record: Record) -> None:
    record.environment.device = "another machine"


def other_code(record: Record) -> None:
    record.environment.code = CodeOrigins(contents={"plug-ins": "abc"})


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"subject": Subject.of(methods=["fastv"], seed=1)}, "subject model seed 0 -> 1"),
        ({"rules": Rules(metrics=["latency"], requests=3)}, "rules tolerance latency 0.05 -> None"),
        ({"head": "other.py"}, "head plug-in .* -> plug-in other.py"),
        ({"change": other_device}, r"head is not what it was .*\(device\)"),
        ({"change": other_code}, r"head is not what it was .*\(plug-ins\)"),
    ],
)
def test_another_gate_is_not_gone_on_with(
    more: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = broken_off(tmp_path, 7)
    monkeypatch.chdir(tmp_path)
    Path("other.py").write_text("")
    fake = Fake(change=more.pop("change", lambda record: None))
    with pytest.raises(InputError, match=reason):
        judged(fake, tmp_path, resume=True, **more)
    assert (tmp_path / "gate.jsonl").read_bytes().startswith(before.partition(b"\n")[0])
    kept = [line for line in read(tmp_path / "gate.jsonl") if isinstance(line, Ran)]
    assert len(kept) >= 7


def test_a_calibration_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    path, out = tmp_path / "gate.toml", tmp_path / "gate-1.jsonl"
    write_config(path, Subject.of(methods=["fastv"]), Rules(metrics=["latency"], requests=2))
    tell = lambda label, done, total: None  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        calibrate_tolerances(path, 8, out, tell, Broken(after=11))
    assert unfinished(tmp_path, calibration=True) == out
    assert unfinished(tmp_path, calibration=False) is None
    fake = Fake()
    (found,) = calibrate_tolerances(path, 8, out, tell, fake, resume=True)
    assert (found.pairs, len(fake.calls)) == (8, 2 + 8)
    assert unfinished(tmp_path, calibration=True) is None, "it has come to its end"


@pytest.mark.parametrize("spoil", [b"{", b"\xff\n", b'{"type":"ran"}\n', b"[" * 100_000 + b"\n"])
def test_a_journal_of_a_gate_that_is_damaged_is_one_line(spoil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_bytes(broken_off(tmp_path, 3) + spoil)
    if not spoil.endswith(b"\n"):
        assert len(read(path)) == 4, "half a line was being written"
        return
    with pytest.raises(RecordError, match="no journal of a gate, or damaged"):
        judged(Fake(), tmp_path, resume=True)
