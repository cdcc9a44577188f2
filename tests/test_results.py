"""The committed records of a GPU: what is said of them is in them, and they contradict nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpprof.methods import parse, with_keep
from tpprof.profiler.cost.planning import Planner
from tpprof.reports.analysis.by_round import by_round, paired_speedup, seconds_in
from tpprof.reports.analysis.intervals import Estimate, speedup
from tpprof.reports.analysis.phases import phase_rows
from tpprof.reports.analysis.summary import Row, rows
from tpprof.reports.record.files import load
from tpprof.reports.record.schema import Cell, Record
from tpprof.reports.record.spec import Workload

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "benchmarks/results").glob("**/*.json"))
GRID_RECORD = ROOT / "benchmarks/results/h200-grid/block-000.json"
SAID = [ROOT / "README.md", ROOT / "benchmarks/results/README.md"]


@pytest.fixture(scope="module")
def h100() -> Record:
    return load(ROOT / "benchmarks/results/h100-cudnn-2-tokens.json")


def row(record: Record, name: str, policy: str, runtime: str) -> Row:
    (found,) = [
        row
        for row in rows(record)
        if (row.cell.name, row.cell.attention, row.cell.runtime) == (name, policy, runtime)
    ]
    return found


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_parts_sum_and_nothing_beats_its_floor(path: Path) -> None:
    record = load(path)
    measured = [row for row in rows(record) if "cannot be the mean over" not in row.cell.error]
    assert all(not row.cell.error for row in measured)
    for row in measured:
        assert row.parts_sum is not None
        assert row.parts_sum.value == pytest.approx(1, abs=0.02)
    floors = [row for row in phase_rows(record) if row.floor is not None]
    assert floors or record.peaks is None
    for phase in floors:
        assert phase.span is not None
        assert phase.span.value > phase.floor, (phase.cell.method, phase.phase)


@pytest.mark.parametrize(
    ("name", "policy", "runtime"),
    [
        ("fastv", "rows", "eager"),
        ("fastv", "rows", "graph"),
        ("sparsevlm", "published", "eager"),
        ("sparsevlm", "rows", "graph"),
    ],
)
def test_the_speed_ups_of_readme_are_those_of_the_record(
    h100: Record, name: str, policy: str, runtime: str
) -> None:
    speedup = row(h100, name, policy, runtime).speedup
    assert speedup is not None
    said = f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
    for path in SAID:
        assert said in path.read_text(), path


ON_AN_H200 = [
    ("h200-flash-2-tokens", "fastv", "rows", "graph"),
    ("h200-flash-2-tokens", "fastv", "maps", "graph"),
    ("h200-qwen2-vl-7b", "fastv", "rows", "eager"),
    ("h200-qwen2-vl-7b", "fastv", "rows", "graph"),
    ("h200-cudnn-16-tokens", "mustdrop", "rows", "eager"),
    *(
        ("h200-cudnn-16-tokens", name, "rows", "graph")
        for name in ("fastv", "sparsevlm", "mustdrop")
    ),
]


@pytest.mark.parametrize(("name", "method", "policy", "runtime"), ON_AN_H200)
def test_the_speed_ups_on_the_second_card_are_those_of_its_records(
    name: str, method: str, policy: str, runtime: str
) -> None:
    record = load(ROOT / f"benchmarks/results/{name}.json")
    speedup = row(record, method, policy, runtime).speedup
    assert speedup is not None
    said = f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
    reading = " ".join((ROOT / "benchmarks/results/README.md").read_text().split())
    assert said in reading


METHODS = [
    ("FastV", "fastv:keep=320"),
    ("DART", "dart:keep=320"),
    ("VisionZip", "visionzip:keep=320"),
    ("FasterVLM", "fastervlm:keep=320"),
    ("GlobalCom2", "globalcom2:keep=320"),
    ("VisionZip to 640, then FastV", "visionzip:keep=640+fastv:keep=320"),
    ("HoloV", "holov:keep=320"),
    ("VScan", "vscan:keep=320"),
    ("ToMe before the decoder", "tome:keep=320,where=projected"),
    ("CDPruner", "cdpruner:keep=320"),
    ("VisPruner", "vispruner:keep=320"),
    ("DivPrune", "divprune:keep=320"),
    ("PruneSID", "prunesid:keep=320"),
]


@pytest.mark.parametrize(("title", "spec"), METHODS)
def test_the_table_of_methods_is_their_record(title: str, spec: str) -> None:
    record = load(ROOT / "benchmarks/results/h200-methods-2-tokens.json")
    (found,) = [row for row in rows(record) if row.cell.method == spec]
    assert found.speedup is not None
    assert found.latency is not None
    s, flops = found.speedup, f"{100 * found.flops_share:.1f} %"
    measured = f"{s.value:.2f}x ({s.low:.2f} to {s.high:.2f})"
    milliseconds = f"{found.latency.value * 1e3:.1f}"
    line = f"| {title} | {flops} | {found.promised:.2f}x | {measured} | {milliseconds} |"
    assert line in (ROOT / "benchmarks/results/README.md").read_text()


WAYS = [("FastV's way", "fastv_way"), ("SparseVLM's way", "sparsevlm_way")]


@pytest.mark.parametrize(("title", "name"), WAYS)
def test_the_table_of_patched_models_is_their_record(title: str, name: str) -> None:
    record = load(ROOT / "benchmarks/results/h200-callables.json")
    (fork,) = [cell for cell in record.cells if cell.name == name]
    (ours,) = [
        cell
        for cell in record.cells
        if cell.attention == "rows" and cell.method == "fastv:keep=320,layer=2"
    ]
    assert fork.tokens_per_layer == ours.tokens_per_layer
    assert fork.kv_bytes_decode == ours.kv_bytes_decode
    ratios = [paired_speedup(fork, ours), *(over(fork, ours, p) for p in PHASES)]
    told = [f"{r.value:.2f}x ({r.low:.2f} to {r.high:.2f})" for r in ratios if r is not None]
    assert (
        f"| {title} | {' | '.join(told)} |" in (ROOT / "benchmarks/results/README.md").read_text()
    )


PHASES = ("prefill", "decode", "vision")


def over(first: Cell, second: Cell, phase: str) -> Estimate | None:
    """The time of a phase in the first over that in the second, in pairs of a round."""
    one, other = (
        by_round(cell, seconds_in([n for n, part in enumerate(cell.parts) if part.phase == phase]))
        for cell in (first, second)
    )
    return speedup([(one[number], other[number]) for number in one if number in other])


GRID = {
    "FastV": "fastv",
    "SparseVLM": "sparsevlm",
    "MustDrop": "mustdrop",
    "VisionZip": "visionzip",
    "VisPruner": "vispruner",
    "DivPrune": "divprune",
    "CDPruner": "cdpruner",
    "DART": "dart",
}


def test_the_grid_of_the_reading_is_its_record() -> None:
    listed = {row.cell.method: row for row in rows(load(GRID_RECORD))}
    reading = (ROOT / "benchmarks/results/README.md").read_text()
    for title, name in GRID.items():
        parts = []
        for budget in (640, 320, 160):
            found = listed[f"{name}:keep={budget}"]
            if found.speedup is None:
                parts.append(" | ")
                continue
            parts.append(f" {found.speedup.value:.2f}x | {found.promised:.2f}x |")
        assert f"| {title} |{''.join(parts)}" in reading, title


RECENT = [
    (f"{title}, {method}", stem, spec)
    for title, stem in (
        ("InternVL3-8B", "h200-internvl3-8b"),
        ("LLaVA-OneVision-7B", "h200-llava-onevision-7b"),
    )
    for method, spec in (("FastV", "fastv"), ("VisionZip", "visionzip"), ("DivPrune", "divprune"))
]


@pytest.mark.parametrize(("title", "stem", "name"), RECENT)
def test_the_table_of_recent_models_is_their_records(title: str, stem: str, name: str) -> None:
    record = load(ROOT / f"benchmarks/results/{stem}.json")
    policy = "rows"
    eager, graph = (row(record, name, policy, runtime) for runtime in ("eager", "graph"))
    told = [
        f"{one.speedup.value:.2f}x ({one.speedup.low:.2f} to {one.speedup.high:.2f})"
        for one in (eager, graph)
        if one.speedup is not None
    ]
    line = f"| {title} | {graph.claimed:.2f}x | {graph.promised:.2f}x | {' | '.join(told)} |"
    assert line in (ROOT / "benchmarks/results/README.md").read_text()


TABLE = [
    ("vanilla", "vanilla", "rows", "eager"),
    ("FastV rows", "fastv", "rows", "eager"),
    ("SparseVLM rows", "sparsevlm", "rows", "eager"),
    ("SparseVLM as released", "sparsevlm", "published", "eager"),
    ("MustDrop rows", "mustdrop", "rows", "eager"),
    ("vanilla", "vanilla", "rows", "graph"),
    ("FastV rows", "fastv", "rows", "graph"),
    ("FastV maps", "fastv", "maps", "graph"),
    ("SparseVLM rows", "sparsevlm", "rows", "graph"),
    ("MustDrop rows", "mustdrop", "rows", "graph"),
]


@pytest.mark.parametrize(("title", "name", "policy", "runtime"), TABLE)
def test_the_table_of_the_reading_is_the_record(
    h100: Record, title: str, name: str, policy: str, runtime: str
) -> None:
    found = row(h100, name, policy, runtime)
    assert found.prefill is not None
    assert found.latency is not None
    ratios = " | | |"
    if (s := found.speedup) and name != "vanilla":
        measured = f"{s.value:.2f}x ({s.low:.2f} to {s.high:.2f})"
        ratios = f" {measured} | {found.promised:.2f}x | {found.claimed:.2f}x |"
    times = f"{found.prefill.value * 1e3:.1f} | {found.latency.value * 1e3:.1f}"
    joules = found.cell.energy.joules
    line = f"| {title}, {runtime} | {times} |{ratios} {joules:.1f} |"
    assert line in (ROOT / "benchmarks/results/README.md").read_text()


@pytest.mark.parametrize("policy", ["rows", "maps"])
def test_planned_peaks_err_high_and_little(h100: Record, policy: str) -> None:
    """Planned without a GPU, measured by torch's allocator on one."""
    planner = Planner("llava-next-7b", Workload(preprocess="device"), attention=policy)
    for name in ("vanilla", "fastv", "sparsevlm", "mustdrop"):
        measured = row(h100, name, "rows" if name == "vanilla" else policy, "eager").cell.memory
        planned = planner.plan(with_keep(parse(name), "320")).peak_bytes
        assert measured.allocator is not None
        assert planned is not None
        assert measured.allocator <= planned <= 1.01 * measured.allocator, name
