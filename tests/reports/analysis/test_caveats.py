"""What stands above the table, and the table of phases."""

from __future__ import annotations

import io

import msgspec
import pytest
from record_builders import PARTS, cell, headings_and_lines, record, sample, work
from rich.console import Console

from tpprof.reports.analysis import caveats
from tpprof.reports.analysis.phases import host_bound, phase_rows
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record import labels
from tpprof.reports.record.schema import Activity, GpuProcess, GpuState, Process, Record, Telemetry
from tpprof.reports.record.spec import changed
from tpprof.reports.text import sentences
from tpprof.reports.text.phases import phases_table
from tpprof.reports.text.screen import Screen
from tpprof.reports.text.table7 import table7
from tpprof.reports.text.terminal import print_record


@pytest.fixture
def run() -> Record:
    return record(cell("vanilla", "rows", 2.0, 1000), cell("fastv", "maps", 1.6, 200))


def clocked(hertz: float | None, **more: object) -> list[object]:
    telemetry = Telemetry(readings=3, sm_clock_hz=hertz)
    return [sample(number, 1.0, telemetry=telemetry, **more) for number in range(6)]


def test_a_clean_run_has_no_warnings(run: Record) -> None:
    run.environment.warnings = []
    run.processes[0].gpu_before = GpuState(others=[])
    run.cells[0].samples = clocked(1.98e9)  # type: ignore[assignment]
    run.cells[1].samples = clocked(1.95e9)  # type: ignore[assignment]
    assert caveats.warnings(run) == []


def test_failed_cells_and_an_interrupted_run_come_first(run: Record) -> None:
    run.environment.warnings = ["a full disk"]
    run.cells[1].error, run.cells[1].samples = "out of memory\n" + "x" * 500, []
    run.complete = False
    failed, interrupted, *rest = caveats.warnings(run)
    assert failed.startswith("1 of 2 cells failed: fastv with maps: out of memory xxx")
    assert len(failed) < 200
    assert interrupted == ("the run was interrupted: 0 to 6 rounds a cell measured until then.")
    assert rest == ["a full disk"]


def test_what_was_done_to_the_picture_is_told(run: Record) -> None:
    run.environment.warnings = []
    run.request.notes = ["a.jpg: turned upright (EXIF orientation 6)"]
    assert caveats.warnings(run) == ["picture a.jpg: turned upright (EXIF orientation 6)."]


@pytest.mark.parametrize(("used", "most"), [(4097, 4096), (4096, 4096), (5000, None), (None, 9)])
def test_more_positions_than_the_model_is_made_for(
    run: Record, used: int | None, most: int | None
) -> None:
    run.environment.warnings = []
    run.request.positions, run.model.positions = used, most
    told = caveats.warnings(run)
    assert bool(told) == (used == 4097)
    assert all("takes 4,097 positions, and tiny is made for 4,096" in line for line in told)


def test_suspect_samples_are_counted(run: Record) -> None:
    run.cells[1].samples[0].marks = ["throttled (software power cap)", "cudaMalloc in the window"]
    run.cells[1].samples[3].marks = ["throttled (software power cap)"]
    (warning,) = caveats.warnings(run)
    assert "throttled (software power cap) in 2" in warning
    assert "cudaMalloc in the window in 1 of 12" in warning


def test_other_processes_on_the_gpu_are_named_once(run: Record) -> None:
    run.processes[0].gpu_before = GpuState(others=[GpuProcess(pid=42, bytes=2**31)])
    run.processes[0].gpu_after = GpuState(others=[GpuProcess(pid=42, bytes=2**31)])
    (warning,) = caveats.warnings(run)
    assert warning.count("42 (2.00 GiB)") == 1


def test_clocks_that_differ_between_cells_are_told(run: Record) -> None:
    run.cells[0].samples = clocked(1.98e9)  # type: ignore[assignment]
    run.cells[1].samples = clocked(1.755e9)  # type: ignore[assignment]
    (warning,) = caveats.warnings(run)
    assert "11.4 % lower in fastv with maps than in vanilla" in warning
    run.cells[1].samples = clocked(None)  # type: ignore[assignment]
    assert caveats.warnings(run) == []


def test_what_was_wrong_with_the_machine_is_told(run: Record) -> None:
    run.environment.warnings = ["the load average is 2.5 on 2 cores"]
    assert caveats.warnings(run) == ["the load average is 2.5 on 2 cores"]


def test_processes_that_ended_badly_are_told(run: Record) -> None:
    run.processes.append(
        Process(pid=2, started="later", cell=1, outcome="process ended by SIGKILL")
    )
    (warning,) = caveats.warnings(run)
    assert "fastv with maps: process ended by SIGKILL" in warning


def test_throttling_before_the_run_is_told(run: Record) -> None:
    run.processes[0].gpu_before = GpuState(throttled=["hardware slowdown"])
    (warning,) = caveats.warnings(run)
    assert "throttled before anything ran: hardware slowdown" in warning


def test_a_row_says_when_it_missed_the_target(run: Record) -> None:
    run.cells[1].samples = [sample(number, 1.0 + number / 10) for number in range(6)]
    vanilla, fastv = rows(run)
    assert vanilla.reached
    assert not fastv.reached
    assert fastv.speedup is not None
    assert fastv.precision == fastv.speedup.precision
    assert vanilla.precision == 0, "it is compared with itself"
    (warning,) = caveats.warnings(run)
    assert "1 of 2 rows missed the target of ±5 %" in warning
    headings, (_, told) = headings_and_lines(table7(run))
    gain = next(n for n, heading in enumerate(headings) if heading.startswith("speed-up measured"))
    assert headings[gain].endswith("(target ±5 %)")
    assert told[gain].endswith("missed")
    assert table7(run).lines()[1][3] == "1,250 ±20.0 %"
    assert table7(run).lines()[0][3] == "2,000 ±0.0 %"
    output = io.StringIO()
    print_record(run, Screen(Console(file=output, width=200)))
    shown = output.getvalue()
    assert shown.index("missed the target") < shown.index("speed-up")


def test_a_target_is_not_missed_where_there_is_no_interval(run: Record) -> None:
    for one in run.cells:
        one.samples = one.samples[:1]
    (warning,) = caveats.warnings(run)
    assert warning.startswith("2 of 2 rows have no interval, for which 6 rounds are needed")
    stopping = msgspec.structs.replace(run.spec.stopping, isolate=True)
    run.spec = msgspec.structs.replace(run.spec, stopping=stopping)
    assert "for which 6 processes are needed" in caveats.warnings(run)[0]


def test_sentences_and_footnotes_know_nothing_of_what_failed(run: Record) -> None:
    """What a cell took before it failed is in the record, and in no line of what it came to."""
    failed = cell("fastv", "rows", 0.1, 4, error="RuntimeError: in round 7")
    failed.samples = failed.samples[:1]
    before = sentences.sentences(run), sentences.footnotes(run)[1]
    run.cells.append(failed)
    assert (sentences.sentences(run), sentences.footnotes(run)[1]) == before
    (last,) = [row for row in table7(run).to_values() if row["error"]]
    assert last["latency_seconds"] is None
    assert last["speedup"] is None


def test_samples_of_one_process_count_as_one(run: Record) -> None:
    """Ten samples in each of three processes: three units, too few for an interval."""
    for measured in run.cells:
        measured.samples = [sample(n // 10, 1.0 + n / 100) for n in range(30)]
    row = rows(run)[1]
    assert row.latency is not None
    assert row.latency.samples == 3
    assert row.latency.value == pytest.approx(1.145)
    assert row.latency.low is None
    assert row.precision is None
    assert row.speedup is not None
    assert row.speedup.samples == 3
    for measured in run.cells:
        measured.samples = [sample(n // 10, 1.0 + n / 100) for n in range(300)]
    assert rows(run)[1].p95 is not None
    run.spec = changed(run.spec, isolate=True)
    assert rows(run)[1].p95 is None, "thirty processes, not three hundred samples"


def test_percentiles_are_shown_from_enough_samples_only(run: Record) -> None:
    assert not any("p95" in column.heading for column in table7(run).visible())
    assert table7(run).to_values()[0]["latency_p95_seconds"] is None
    run.cells[0].samples = [sample(number, 1.0 + number) for number in range(100)]
    headings, lines = headings_and_lines(table7(run))
    place = headings.index("p95\nms")
    assert lines[0][place] == "95,000"
    assert lines[1][place] == "n/a"
    assert not any("p99" in heading for heading in headings)


def test_phases_tell_host_bound_from_gpu_bound(run: Record) -> None:
    vanilla = run.cells[0]
    for taken in vanilla.samples:
        taken.host = {"vision": 0.01, "prefill": 0.2, "head": 0.1, "decode": 0.1}
    vanilla.activity = [
        Activity(
            phase="prefill",
            part="layer",
            index=0,
            operators=600,
            launches=500,
            kernels=520,
            syncs=1,
            busy_seconds=1.0,
        ),
        Activity(
            phase="prefill",
            part="score",
            index=0,
            operators=300,
            launches=300,
            kernels=300,
            syncs=2,
            busy_seconds=0.6,
        ),
        Activity(
            phase="decode",
            part="token",
            index=0,
            operators=500,
            launches=400,
            kernels=400,
            syncs=0,
            busy_seconds=0.04,
        ),
    ]
    by_phase = {row.phase: row for row in phase_rows(run) if row.cell is vanilla}
    assert list(by_phase) == ["vision", "prefill", "head", "decode"]
    assert by_phase["prefill"].busy_share == pytest.approx(1.6 / 1.7)
    assert by_phase["decode"].busy_share == pytest.approx(0.4)
    assert by_phase["vision"].busy_share is None
    sentence = host_bound(run)
    assert "decode (busy for 40 % of it)" in sentence
    assert "prefill" not in sentence
    assert sentence in sentences.sentences(run)
    table = phases_table(run)
    prefill = next(line for line in table.to_values() if line["phase"] == "prefill")
    assert prefill["launches"] == 800
    assert prefill["host_seconds"] == pytest.approx(0.2)
    headings, lines = headings_and_lines(table)
    assert lines[1][headings.index("syncs")] == "3"
    assert lines[0][headings.index("syncs")] == "n/a"


def test_without_a_gpu_nothing_is_said_of_waiting(run: Record) -> None:
    run.cells[0].activity = [Activity(phase="prefill", part="layer", index=0, operators=900)]
    assert host_bound(run) == ""
    (line,) = [row for row in phases_table(run).to_values() if row["operators"] is not None]
    assert line["launches"] is None
    assert line["host_seconds"] is None


def test_a_cell_without_samples_has_no_phases() -> None:
    assert phase_rows(record(cell("vanilla", "rows", 1.0, 1, samples=[]))) == []
    assert len(PARTS) == 5


def test_runtimes_are_shown_where_there_are_any(run: Record) -> None:
    assert "runtime" not in headings_and_lines(table7(run))[0]
    run.cells[1].runtime, run.cells[1].fallback = "graph", "needs a CUDA device"
    run.cells[0].warmups = [3.5, 1.0]
    headings, lines = headings_and_lines(table7(run))
    assert lines[1][headings.index("runtime")] == "eager, not graph"
    assert lines[0][headings.index("first call\nms")] == "3,500"
    assert "fastv with maps under graph ran eager: needs a CUDA device." in sentences.sentences(run)
    run.cells[1].fallback, run.cells[1].eager_prefill = "", "it waits"
    said = "fastv with maps under graph ran vision and prefill eager: it waits."
    assert said in sentences.sentences(run)
    assert labels.runtime(run.cells[1]) == "graph, prefill eager"


def test_the_attention_kernels_are_told(run: Record) -> None:
    run.cells[0].kernels = ["aten::_flash_attention_forward"] * 2 + ["softmax map"]
    told = sentences.footnotes(run)[-1]
    assert told == (
        "attention kernel of vanilla: _flash_attention_forward in 2, softmax map in 1 of 3 layers."
    )


def test_the_footer_says_where_departures_from_papers_are_told() -> None:
    def told(*methods: str) -> list[str]:
        cells = [cell(method, "rows", 2.0, 1000) for method in ("vanilla", *methods)]
        lines = sentences.footnotes(record(*cells))
        return [line.partition(": ")[2] for line in lines if line.startswith("departures")]

    assert told("fastv:keep=320", "dart", "fastv:keep=64", "visionzip+dart") == [
        "`tpprof methods fastv dart visionzip`."
    ]
    assert told(*"abcdefg") == ["`tpprof methods`."]
    assert told() == []
    brought = record(cell("vanilla", "rows", 2.0, 1000), cell("mine", "rows", 1.0, 500))
    cells = msgspec.structs.replace(brought.spec.cells, plugin=["mine.py"])
    brought.spec = msgspec.structs.replace(brought.spec, cells=cells)
    assert [line for line in sentences.footnotes(brought) if "`tpprof methods`" in line]


def test_the_footer_says_the_kernels_where_phases_differ() -> None:
    run = record(
        cell("vanilla", "rows", 2.0, 1000),
        cell("fastv:keep=320", "rows", 1.0, 500),
        cell("vanilla", "rows", 2.0, 1000, runtime="graph"),
    )
    same = {"vision": ["cuDNN"], "prefill": ["cuDNN"], "decode": ["cuDNN"]}
    for measured in run.cells:
        measured.phase_kernels = dict(same)
    assert not [line for line in sentences.footnotes(run) if "kinds of attention kernel" in line]
    assert sentences.kernels_by_phase(run.cells[0]) == "cuDNN"
    run.cells[2].phase_kernels["decode"] = ["memory-efficient"]
    run.cells[0].phase_kernels["prefill"] = ["cuDNN", "softmax map"]
    assert [line for line in sentences.footnotes(run) if "kinds of attention kernel" in line] == [
        "kinds of attention kernel in vanilla: vision cuDNN, prefill cuDNN and softmax map, decode "
        "cuDNN.",
        "kinds of attention kernel in vanilla under graph: vision cuDNN, prefill cuDNN, decode "
        "memory-efficient.",
    ]


def test_what_could_not_be_measured_is_told_once(run: Record) -> None:
    for measured in run.cells:
        measured.missing = {"activity": "no profiler here"}
    assert sentences.footnotes(run)[-1] == "not measured: activity (no profiler here)."


def of_flops(run: Record) -> list[str]:
    return [line for line in caveats.warnings(run) if "torch counted" in line]


def test_formulas_and_torch_are_held_against_each_other_both_ways(run: Record) -> None:
    cell, tables = run.cells[1], 77
    charged = sum(item.flops for item in cell.cost)
    cell.counted_flops, cell.table_flops = {"prefill": charged + tables}, {"prefill": tables}
    cell.decision_flops = 0
    assert of_flops(run) == []
    cell.counted_flops["decode"] = 1
    assert of_flops(run) == [
        "fastv with maps: outside its decisions torch counted 1 FLOPs more than the formulas hold, "
        "0.5 % of the request: a formula holds too little, and so does the table."
    ]
    cell.counted_flops = {"prefill": charged + tables - 40}
    assert of_flops(run) == [
        "fastv with maps: outside its decisions the formulas hold 40 FLOPs more than torch "
        "counted, 20.0 % of the request: a formula holds too much, and so does the table, or it "
        "runs where torch sees nothing."
    ]


def test_declared_flops_are_held_against_those_of_the_decisions(run: Record) -> None:
    cell = run.cells[1]
    cell.cost = [*cell.cost, work("prefill", "select", 2, "select", 10)]
    charged = sum(item.flops for item in cell.cost)
    cell.counted_flops, cell.decision_flops = {"prefill": charged}, 10
    assert of_flops(run) == []
    cell.counted_flops, cell.decision_flops = {"prefill": charged + 3390}, 3400
    (told,) = of_flops(run)
    assert told.startswith("fastv with maps: its decisions are declared as 10 FLOPs, and torch ")
    assert "counted 3,400 (340x)" in told
    assert told.endswith("its plan declares too little, and so does the table.")


def test_a_record_that_was_not_counted_is_not_judged(run: Record) -> None:
    run.cells[1].counted_flops = {"prefill": 1}
    assert of_flops(run) == []


def test_what_torch_cannot_count_and_where_the_host_waits_is_told(run: Record) -> None:
    cell = run.cells[1]
    cell.counted_flops, cell.decision_flops = {"prefill": 200}, 0
    cell.uncounted_operators = ["aten._grouped_mm"]
    cell.host_waits = {"fastv.py line 3": 2, "fastv.py line 9": 1}
    last = caveats.warnings(run)[-2:]
    assert last[0].startswith("torch counts no FLOPs of aten._grouped_mm in fastv with maps: ")
    assert "fastv with maps 3 times a request (fastv.py line 3: 2, fastv.py line 9: 1)" in last[1]
