"""What the field's stopwatches would have said, beside what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import in_this_process
from record_builders import cell, record, sample, work

from tpprof.reports.record.base import RecordError
from tpprof.reports.record.cell import CallableInfo, Span
from tpprof.reports.record.files import save
from tpprof.reports.record.schema import Bandwidth, Cell, Peaks, Record
from tpprof.reports.stopwatches.known import ALL, NAMES, STOPWATCHES, named
from tpprof.reports.stopwatches.readings import StopwatchReading, readings
from tpprof.reports.stopwatches.table import stopwatches_table

DOCS = Path(__file__).parents[3] / "docs" / "stopwatches.md"
PARTS = [
    Span(phase="preprocess", part="preprocess"),
    Span(phase="vision", part="tower"),
    Span(phase="vision", part="select", index=2),
    Span(phase="embed", part="embed"),
    Span(phase="prefill", part="layer", index=0),
    Span(phase="prefill", part="select", index=0),
    Span(phase="head", part="head"),
    Span(phase="decode", part="token", index=0),
    Span(phase="decode", part="token", index=1),
]


def row(method: str, *seconds: float, slow_last: float = 0.0, **more: Any) -> Cell:
    """A cell of six samples whose parts take so long; `slow_last` is added to the last one."""
    taken = [
        sample(n, sum(seconds) + slow_last * (n == 5), parts=[*seconds[:-1], seconds[-1]])
        for n in range(6)
    ]
    return cell(method, "rows", 1.0, 100, parts=PARTS, samples=taken, **more)


@pytest.fixture
def run() -> Record:
    vanilla = row("vanilla", 1, 8, 0, 1, 16, 0, 1, 2, 2, warmups=[40.0, 31.0])
    pruned = row("visionzip", 1, 8, 4, 1, 4, 0, 1, 1, 1, slow_last=6.0, warmups=[30.0, 21.0])
    return record(vanilla, pruned)


def read(run: Record, name: str) -> StopwatchReading:
    return readings(run, named([name]))[1]


@pytest.mark.parametrize(
    ("name", "seconds", "speedup"),
    [
        ("request", 21.0, 31 / 21),
        ("uniprunebench-prefill", 4.0, 16 / 4),
        ("lightcompress-prefill", 5.0, 17 / 5),
        ("lightcompress-decode", 2.0, 4 / 2),
        ("hiprune-decode", 5.0, 17 / 5),
        ("sttm-ttft", 6.0, 18 / 6),
        ("vidcom2-generate", 7.0, 21 / 7),
        ("framefusion-once", 21.0, 31 / 21),
        ("divprune-mean", 22.0, 31 / 22),
        ("lmms-eval-since-start", (30 + 21 + 6 * 22) / 8, (40 + 31 + 6 * 31) / 8 / (183 / 8)),
    ],
)
def test_it_says_what_lies_between_its_clicks(
    name: str, seconds: float, speedup: float, run: Record
) -> None:
    """A method that compresses for 4 s before the decoder: what leaves that out says 3 or 4 times,
    where the request is 1.48 times faster."""
    found = read(run, name)
    assert found.seconds == pytest.approx(seconds)
    assert found.speedup == pytest.approx(speedup)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(31 / 21, rel=0.01)


def test_what_it_leaves_out_is_told(run: Record) -> None:
    whole = 6 * 21 + 6
    assert read(run, "vidcom2-generate").outside == pytest.approx(1 - 6 * 7 / whole)
    assert read(run, "request").outside == 0.0
    nothing = read(run, "uniprunebench-method")
    assert (nothing.seconds, nothing.speedup, nothing.outside) == (0.0, None, 1.0)


@pytest.mark.parametrize("name", ["v-cast-evaluate", "cdpruner-sync"])
def test_what_no_record_can_tell_has_a_reason(name: str, run: Record) -> None:
    found = read(run, name)
    assert found.seconds is None
    assert found.reason


def test_a_formula_is_the_roofline_and_needs_peaks(run: Record) -> None:
    found = read(run, "aim-formula")
    assert (found.seconds, found.speedup) == (None, None)
    assert "calibrate" in found.reason
    run.peaks = Peaks(
        device="x",
        source="measured",
        flops_per_second={"float32": 100.0},
        bandwidth=[Bandwidth(footprint_bytes=2**30, bytes_per_second=1e9)],
    )
    run.cells[1].cost = [work("prefill", "layer", 0, "ffn", 10)]
    found = read(run, "aim-formula")
    assert found.seconds == pytest.approx(0.1)
    assert found.speedup == pytest.approx(10)


def test_of_a_callable_whose_parts_are_unknown_only_the_whole_is_told(run: Record) -> None:
    run.cells[1] = cell(
        "mine",
        "own",
        3.0,
        0,
        cost=[],
        parts=[Span(phase="request", part="call")],
        samples=[sample(n, 3.0, parts=[3.0]) for n in range(6)],
        missing={"parts": "a function says nothing of its parts"},
        callable=CallableInfo(reference="m:f", process="own"),
    )
    assert read(run, "request").seconds == pytest.approx(3.0)
    found = read(run, "vidcom2-generate")
    assert (found.seconds, found.outside) == (None, None)
    assert found.reason == "its parts cannot be told apart: a function says nothing of its parts"


def test_names() -> None:
    assert [watch.name for watch in named([ALL])] == list(NAMES)
    assert named([]) == []
    with pytest.raises(RecordError, match="did you mean vidcom2-generate"):
        named(["vidcom2-genrate"])


def test_the_docs_speak_of_every_one() -> None:
    page = DOCS.read_text()
    for watch in STOPWATCHES:
        assert f"`{watch.name}`" in page
        assert watch.whose.partition(",")[0] in page


def test_the_table_says_whose_and_what_is_wrong(run: Record) -> None:
    table = stopwatches_table(run, named(["vidcom2-generate"]))
    assert len(table.lines()) == 2
    (note,) = table.notes
    assert "llava_qwen.py:133-152" in note
    assert "the compression itself" in note
    (_, pruned) = json.loads(table.to_json())
    assert pruned["stopwatch"] == "vidcom2-generate"
    assert pruned["stopwatch_seconds"] == pytest.approx(7.0)
    assert pruned["speedup_low"] is not None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--window", "vidcom2-generate"], 0, "vidcom2-generate"),
        (["--window", "all", "--format", "csv"], 0, "lmms-eval-since-start"),
        (["--window", "nobody"], 2, "--window: no stopwatch 'nobody'; known: all, request"),
        (["--window", "all", "--phases", "--format", "csv"], 2, "give --phases or --window"),
    ],
)
def test_the_command(
    arguments: list[str], code: int, said: str, run: Record, tmp_path: Path
) -> None:
    save(run, tmp_path / "run.json")
    done = in_this_process("report", "run.json", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in (done.stderr if code else done.stdout)
