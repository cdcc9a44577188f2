"""The gates of a callable: what is known of it is held fast."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from callables import small_decoder
from command import in_this_process
from record_builders import cell, counted, record, sample

from tpprof.profiler.gate import exact
from tpprof.profiler.gate.arms import Arm, MissingError, callables_in
from tpprof.profiler.gate.pairs import Session
from tpprof.profiler.gate.pytest_plugin import GateResults
from tpprof.profiler.gate.timing import GateOptions, begun, run_ab
from tpprof.reports.gate.baseline import Counts, Snapshot, load_baseline
from tpprof.reports.gate.counts import compare_counts
from tpprof.reports.gate.render import headline
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.tolerant_record import reading
from tpprof.reports.gate.verdicts import Gate, Judged, Verdict
from tpprof.reports.record.cell import CallableInfo
from tpprof.reports.record.environment import Environment
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.schema import Span
from tpprof.reports.record.spec import Subject
from tpprof.reports.record.spec_files import relative, rooted, with_file

pytestmark = pytest.mark.usefixtures("warm_children")
SMALL = ["--visual-tokens", "8", "--model", "tiny-llava", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of a callable beside vanilla."""
    made = tmp_path_factory.mktemp("gate")
    (made / "fork.py").write_text(Path(small_decoder.__file__).read_text())
    update = ["gate", "check", "b.json", "--update", "--callable", "fork=fork.py:model", *SMALL]
    done = in_this_process(*update, cwd=made)
    assert done.returncode == 0, done.stderr + done.stdout
    return made


def counts_of(folder: Path) -> Counts:
    found = load_baseline(folder / "b.json").snapshot.cells
    return next(counts for counts in found if counts.cell == "fork")


def test_the_baseline_holds_what_is_known(folder: Path) -> None:
    counts = counts_of(folder)
    assert counts.tokens_per_layer == [48, 48, 48]
    assert counts.kv_bytes_prefill == [2 * 48 * 96 * 4] * 3
    assert counts.counted_flops is not None
    assert counts.operators is not None
    assert counts.flops == {}
    assert load_baseline(folder / "b.json").subject.cells.callables == ("fork=fork.py:model",)


def test_an_update_says_what_will_never_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callable without products of matrices has no FLOPs that torch counts."""
    info = CallableInfo(reference="plain:f", process="own")
    given = counted(0) | {"counted_flops": {}, "callable": info, "reads_attention": False}
    plain = cell("f", "own", 1.0, 0, **given)
    found = Snapshot.of(reading(record(plain)))
    monkeypatch.setattr(exact, "count_cells", lambda subject, folder: found)
    for subject in (Subject.of(callable=["f=plain:f"]), None):  # anew, and again
        gate = exact.update_baseline(tmp_path / "b.json", subject)
        left = [(row.metric, row.rule) for row in gate.rows if row.verdict is Verdict.NOT_JUDGED]
        assert left == [("FLOPs, counted", "counted on neither side")]
        assert gate.code == 0
        assert "NOT JUDGED: FLOPs, counted of f" in headline(gate)
        assert "cannot judge FLOPs, counted of f (counted on neither side)" in " ".join(gate.notes)
    assert exact.check_baseline(tmp_path / "b.json").code == 4


def test_it_fails_by_name_where_it_grew(folder: Path) -> None:
    text = (folder / "fork.py").read_text()
    (folder / "fork.py").write_text(text + GROWN)
    done = in_this_process("gate", "check", "b.json", "--json", "out.json", cwd=folder)
    (folder / "fork.py").write_text(text)
    assert done.returncode == 1, done.stdout
    rows = json.loads((folder / "out.json").read_text())["rows"]
    failed = {row["metric"]: row["rule"] for row in rows if row["verdict"] == "FAIL"}
    assert failed["tokens, sum of layers"].endswith("layers 0 to 2 48 -> 49")
    assert {"KV bytes, prefill", "FLOPs, counted"} <= set(failed)
    assert {row["cell"] for row in rows if row["verdict"] == "FAIL"} == {"fork"}


GROWN = '\nmodel.inputs = {"input_ids": torch.arange(TOKENS + 1)[None]}\n'


def rows(before: Counts, after: Counts, folder: Path) -> dict[str, Judged]:
    held = load_baseline(folder / "b.json").snapshot
    held.cells = [before]
    now = load_baseline(folder / "b.json").snapshot
    now.cells = [after]
    return {row.metric: row for row in compare_counts(held, now)}


def test_what_is_no_longer_known_is_no_pass(folder: Path) -> None:
    blind = counts_of(folder)
    blind.tokens_per_layer, blind.kv_bytes_prefill = [], []
    found = rows(counts_of(folder), blind, folder)
    assert found["tokens, sum of layers"].verdict is Verdict.NO_VERDICT
    assert found["KV bytes, prefill"].verdict is Verdict.NO_VERDICT
    found = rows(blind, blind, folder)
    assert "tokens, sum of layers" not in found
    assert "FLOPs" not in found, "no formula knows a callable"
    assert found["FLOPs, counted"].verdict is Verdict.PASS


def test_its_memory_is_that_of_its_own_process(folder: Path) -> None:
    """And is not measured against vanilla's, which is in another one."""
    counts = counts_of(folder)
    assert counts.resident_bytes is not None
    grown = counts_of(folder)
    grown.resident_bytes = counts.resident_bytes + 2**29
    assert rows(counts, grown, folder)["host memory"].verdict is Verdict.FAIL


def test_pytest_has_a_test_of_it(folder: Path) -> None:
    found = GateResults(folder / "b.json", accept_unjudged=False)
    assert "fork" in found.cells()
    same = rows(counts_of(folder), counts_of(folder), folder)
    found._rows = [*same.values()]
    judged = {row.metric: row.verdict for row in found.rows("fork")}
    assert "KV bytes, prefill" in judged
    assert set(judged.values()) == {Verdict.PASS}


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("fork.py:f", "fork.py:f=/x/fork.py:f"),
        ("mine=fork.py:f.g", "mine=/x/fork.py:f.g"),
        ("mine=pkg.mod:f", "mine=pkg.mod:f"),
        ("pkg.mod:f", "pkg.mod:f"),
    ],
)
def test_files_move_and_names_stay(text: str, moved: str) -> None:
    assert with_file(text, lambda file: f"/x/{file}") == moved
    there = with_file(moved, lambda file: file.removeprefix("/x/"))
    assert there == text


def test_paths_lead_from_the_file_that_names_them(tmp_path: Path) -> None:
    subject = Subject.of(callable=["m=fork.py:f"], python=["env/bin/python", "this"])
    found = rooted(subject, tmp_path)
    assert found.cells.callables == (f"m={tmp_path / 'fork.py'}:f",)
    assert found.cells.python == (str(tmp_path / "env/bin/python"), "this")
    assert relative(found, tmp_path).cells == subject.cells


def test_a_process_of_the_timing_gate_is_told_the_callables_beside_the_methods(
    tmp_path: Path,
) -> None:
    """Methods are asked for by name, callables all of them, as the side has them."""
    tasks: list[dict[str, Any]] = []
    fork = cell("fork", "own", 1.0, 0, cost=[], parts=[], samples=[])
    content = msgspec.json.encode(record(cell("vanilla", "rows", 2.0, 10), fork))

    def run(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        tasks.append(task)
        return 0, "", content

    subject = Subject.of(methods=["fastv"], callable=["fork=pkg:f"])
    arms = Arm("base", "one"), Arm("head", "other")
    journal = Journal.begin(tmp_path / "j.jsonl", begun(("one", "other"), subject, Rules()))
    session = Session(*arms, subject, Rules(), journal, run=run)
    session.scout("A")
    assert session.methods == {"vanilla": "vanilla"}
    session(2, [("vanilla", "latency"), ("fork", "latency")])
    assert tasks[0]["methods"] == ["fastv"]
    assert tasks[-1]["methods"] == ["vanilla"]
    assert all(task["options"]["callable"] == ["fork=pkg:f"] for task in tasks)
    journal.close()


def test_each_side_has_the_callable_of_its_own_tree(tmp_path: Path) -> None:
    for top in ("ours", "theirs"):
        (tmp_path / top).mkdir()
        (tmp_path / top / "fork.py").write_text("")
        subprocess.run(["git", "init", "-q", str(tmp_path / top)], check=True)
    ours = tmp_path / "ours" / "fork.py"
    theirs = Arm("base", "commit 1", tree=str(tmp_path / "theirs"))
    listed = [f"m={ours}:f", "k=pkg:f"]
    assert callables_in(theirs, listed) == [f"m={tmp_path / 'theirs' / 'fork.py'}:f", "k=pkg:f"]
    assert callables_in(Arm("base", "an environment"), listed) == listed
    (tmp_path / "theirs" / "fork.py").unlink()
    with pytest.raises(MissingError, match="has no file of the callable"):
        callables_in(theirs, listed)


def timed(fork: Path, tmp_path: Path, *, head: float, error: str = "") -> Gate:
    """The timing gate of a callable whose requests take `head` times as long in the head, or fail
    there; its processes are made up."""
    calls: list[str] = []

    def run(arm: Arm, task: dict[str, Any]) -> tuple[int, str, bytes]:
        calls.append(arm.name)
        assert task["options"]["callable"] == [f"fork={fork}:f"]
        ours, wobble = arm.name == "head", 1 + 0.002 * (len(calls) % 3)
        seconds = (head if ours else 1.0) * wobble
        taken = [sample(n, seconds, parts=[seconds]) for n in range(task["requests"])]
        info = CallableInfo(reference=f"{fork}:f", process="own")
        theirs = counted(0) | {
            "callable": info,
            "cost": [],
            "parts": [Span(phase="request", part="call")],
            "samples": taken,
            "error": error if ours else "",
        }
        whole = record(
            cell("vanilla", "rows", 1.0, 10, **counted(10)), cell("fork", "own", 1, 0, **theirs)
        )
        whole.environment = Environment(device="a machine", device_type="cpu")
        return 0, "", msgspec.json.encode(whole)

    options = GateOptions(
        base=str(fork),
        head=str(fork),
        subject=Subject.of(callable=[f"fork={fork}:f"]),
        rules=Rules(metrics=["latency"], tolerance={"latency": 0.05}, requests=3),
        out=tmp_path / "gate.jsonl",
        allow_same=True,
    )
    return run_ab(options, lambda label, done, total: None, run)


@pytest.mark.parametrize(
    ("head", "error", "verdict"),
    [
        (1.0, "", Verdict.PASS),
        (1.2, "", Verdict.FAIL),
        (0.8, "", Verdict.IMPROVED),
        (1.0, "ValueError: no such kernel", Verdict.FAIL),
    ],
    ids=["equal", "slower", "faster", "fails"],
)
def test_the_timing_gate_judges_a_callable(
    head: float, error: str, verdict: Verdict, tmp_path: Path
) -> None:
    fork = tmp_path / "plugin.py"
    fork.write_text("")
    gate = timed(fork, tmp_path, head=head, error=error)
    judged = [row.verdict for row in gate.rows if row.cell.startswith("fork")]
    assert verdict in judged, [vars(row) for row in gate.rows]
    assert gate.verdict is verdict
