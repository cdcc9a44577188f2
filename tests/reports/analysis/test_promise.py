"""The three promises and the bound, each against a computation of its own."""

from __future__ import annotations

import math
import random

import pytest
from record_builders import cell, record, sample, work

from tpprof.methods.contract.plan import Plan
from tpprof.methods.engine.ledger import planned
from tpprof.profiler import cost
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.workload import Preparation
from tpprof.reports.analysis.explanation import explain
from tpprof.reports.analysis.promise import (
    bound_of,
    over_promise,
    promise_of,
    promised_seconds,
    touched_share,
)
from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.schema import Bandwidth, Cell, Peaks, Record, Span
from tpprof.reports.record.spec import RunSpec, Workload
from tpprof.reports.text import sentences

SPANS = [
    Span(phase="vision", part="tower"),
    Span(phase="prefill", part="layer", index=0),
    Span(phase="prefill", part="layer", index=1),
    Span(phase="decode", part="token", index=0),
]
FULL = (100, 500, 500, 50)  # FLOPs of vanilla, part by part
LEFT = (100, 500, 100, 40)


def made(method: str, flops: tuple[int, ...], times: list[list[float]]) -> Cell:
    """A cell of known FLOPs and times, a list of the latter for each round."""
    return cell(
        method,
        "rows",
        1.0,
        0,
        parts=SPANS,
        cost=[work(s.phase, s.part, s.index, "ffn", f) for s, f in zip(SPANS, flops, strict=True)],
        samples=[sample(n, sum(parts), parts=parts) for n, parts in enumerate(times)],
    )


def drifting(seed: int = 0, rounds: int = 9) -> Record:
    """The method takes exactly what its FLOPs promise, on a machine that slows down and shakes."""
    chance, full, own = random.Random(seed), [], []
    for number in range(rounds):
        slow = 1 + number / 2 + chance.random()
        times = [0.1 * slow, 0.4 * slow, 0.3 * slow, 0.2 * slow]
        full.append(times)
        shares = (left / whole for left, whole in zip(LEFT, FULL, strict=True))
        own.append([t * share for t, share in zip(times, shares, strict=True)])
    return record(made("vanilla", FULL, full), made("fastv", LEFT, own))


def test_the_claim_is_that_of_prefill_and_the_promise_phase_by_phase() -> None:
    run = drifting()
    promise = promise_of(run, run.cells[1], run.cells[0])
    assert promise is not None
    assert promise.claim == pytest.approx(600 / 1000)
    assert promise.share == pytest.approx(0.1 + 0.4 + 0.3 * 0.2 + 0.2 * 0.8)
    assert promise.floors is None
    row = rows(run)[1]
    assert row.claimed == pytest.approx(1000 / 600)
    assert row.promised == pytest.approx(1 / 0.72)


def test_drift_is_no_part_of_what_came_true() -> None:
    """The latency's interval is wide, that of the paired ratio has no width."""
    row = rows(drifting())[1]
    assert row.latency is not None
    assert row.latency.precision is not None
    assert row.latency.precision > 0.2
    assert row.over_promise is not None
    assert row.over_promise.low == pytest.approx(1.0)
    assert row.over_promise.high == pytest.approx(1.0)


def test_floors_promise_by_the_bytes_where_they_decide() -> None:
    """Decode moves a byte for each FLOP here: at this bandwidth that alone is what it takes."""
    run = drifting()
    for one, moved in zip(run.cells, (1000, 990), strict=True):
        one.cost[-1].read_bytes = moved  # weights, and a short cache
    run.peaks = Peaks(
        device="a machine",
        source="measured",
        flops_per_second={"float32": 1e6},
        bandwidth=[Bandwidth(footprint_bytes=0, bytes_per_second=1e6)],
    )
    promise = promise_of(run, run.cells[1], run.cells[0])
    assert promise is not None
    assert promise.floors == pytest.approx(0.1 + 0.4 + 0.3 * 0.2 + 0.2 * 0.99)


def test_a_promise_within_the_noise_is_not_held_against_the_clock() -> None:
    """A promise of 1.4 % cannot be seen in a speed-up that is known to 20 %."""
    noise = [0.8, 1.25, 0.9, 1.1, 1.0, 0.85, 1.2, 1.05]
    full = [[0.1, 0.4, 0.3, 0.2]] * len(noise)
    own = [[part * factor for part in full[0]] for factor in noise]
    nearly = (100, 500, 480, 50)
    run = record(made("vanilla", FULL, full), made("fastv", nearly, own))
    row = rows(run)[1]
    assert row.promised == pytest.approx(1 / (1 - 0.3 * 0.04))
    assert row.over_promise is None
    run = record(made("vanilla", FULL, full), made("fastv", LEFT, own))
    row = rows(run)[1]
    assert row.over_promise is not None
    assert row.speedup is not None
    assert row.promised is not None
    assert row.over_promise.value == pytest.approx(row.promised / row.speedup.value)


def test_too_few_rounds_give_a_ratio_without_an_interval() -> None:
    run = drifting(rounds=3)
    gain, promise = rows(run)[1].speedup, promise_of(run, run.cells[1], run.cells[0])
    assert gain is not None
    assert promise is not None
    found = over_promise(run.cells[1], run.cells[0], gain, promise)
    assert (found.low, found.high, found.samples) == (None, None, 3)


def test_parts_that_exceed_their_latency_promise_nothing() -> None:
    run = drifting()
    for taken in run.cells[0].samples:
        taken.latency /= 2.5
    for work_ in run.cells[1].cost:
        work_.flops //= 100
    row = rows(run)[1]
    assert (row.promised, row.over_promise) == (None, None)


def test_phases_promise_what_the_whole_does_under_drift() -> None:
    """The cell was measured more often while the machine was slow; it kept its promise exactly."""
    run = drifting()
    run.cells[1].samples = run.cells[1].samples[4:]
    told = explain(run, run.cells[1])
    assert told is not None
    parts = [promised_seconds(run.cells[1], run.cells[0], s.phase) for s in (*SPANS[:2], SPANS[3])]
    assert sum(part or 0.0 for part in parts) == pytest.approx(told.promised_seconds)
    assert told.promised_seconds == pytest.approx(told.measured_seconds)


def test_the_claim_leaves_the_work_of_deciding_out() -> None:
    run = drifting()
    run.cells[1].cost.append(work("prefill", "score", 0, "rows", 10**6))
    promise = promise_of(run, run.cells[1], run.cells[0])
    assert promise is not None
    assert promise.claim == pytest.approx(600 / 1000)


def test_vanilla_beside_methods_that_failed_is_asked_for_its_latency() -> None:
    run = drifting()
    run.cells[1].error = "boom"
    row = rows(run)[0]
    assert row.latency is not None
    assert row.precision == row.latency.precision
    assert not row.reached


def test_the_bound_counts_what_is_outside_and_what_weights_and_text_take() -> None:
    run = drifting()
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.read_seconds is None
    assert bound.speedup.value == pytest.approx(1 / 0.1)
    assert "(`tpprof calibrate`)" in sentences.bounds(run)[0]
    run.peaks = Peaks(
        device="a machine",
        source="measured",
        flops_per_second={"float32": 1e3},
        bandwidth=[Bandwidth(footprint_bytes=0, bytes_per_second=1e9)],
    )
    run.text_only = [
        work("vision", "tower", None, "ffn", 100),
        work("prefill", "layer", 0, "ffn", 20),
        work("decode", "token", 0, "ffn", 30),
    ]
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.read_seconds == pytest.approx(0.050)
    whole = [sum(taken.parts) for taken in run.cells[0].samples]
    ratios = sorted(math.log(t / (0.1 * t + 0.050)) for t in whole)
    kept = ratios[1:-1]
    assert bound.speedup.value == pytest.approx(math.exp(sum(kept) / len(kept)))
    assert bound.beyond == []


def test_a_method_that_prunes_in_the_tower_is_not_bound() -> None:
    run = drifting()
    run.cells[1].cost[0].flops = 60
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.beyond == ["fastv"]
    assert "(fastv: not there alone)" in sentences.bounds(run)[0]


def test_a_runtime_that_failed_takes_nothing_of_what_another_one_showed() -> None:
    run = drifting()
    run.cells[1].cost[0].flops = 60
    failed = cell("fastv", "rows", 1.0, 0, runtime="graph", cost=[], error="boom")
    run.cells.append(failed)
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.beyond == ["fastv"]


def test_pruning_touches_the_time_in_which_it_has_less_work() -> None:
    """Of 0.1, 0.4, 0.3 and 0.2 of the time, it has less to do in the last two: half of it, to the
    last digit however the machine drifts."""
    run = drifting()
    touched = touched_share(run.cells[1], run.cells[0])
    assert touched is not None
    assert (touched.value, touched.low, touched.high) == pytest.approx((0.5, 0.5, 0.5))
    assert [row.touched for row in rows(run)] == [None, touched]
    told = [line for line in sentences.sentences(run) if "Amdahl" in line]
    assert told == [
        "Of vanilla's time pruning can touch 50.0 % (fastv); the rest stays as it is (Amdahl)."
    ]


def test_the_least_and_the_most_that_pruning_can_touch_are_named() -> None:
    run = drifting()
    times = [list(taken.parts) for taken in run.cells[0].samples]
    run.cells += [made("deep", (100, 500, 499, 50), times), made("none", FULL, times)]
    run.cells.append(made("early", (100, 1, 1, 1), times))
    shares = [row.touched.value if row.touched else None for row in rows(run)]
    assert shares == [None, *map(pytest.approx, (0.5, 0.3, 0.0, 0.9))]
    (told,) = (line for line in sentences.sentences(run) if "Amdahl" in line)
    touched = "Of vanilla's time pruning can touch 0.0 % (none) to 90.0 % (early)"
    assert told == f"{touched}; the rest stays as it is (Amdahl)."
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.speedup.value == pytest.approx(10), "the same, while text and weights take no time"


def test_the_tower_is_touched_by_the_flops_of_its_layers() -> None:
    """It is timed as one, and pruned from its second layer on: 75 of 100 FLOPs of 0.1 of the
    time. What decides is no work of vanilla's."""
    run = drifting()
    full, own = run.cells
    full.cost[:1] = [work("vision", "tower", n, "ffn", f) for n, f in enumerate((25, 75))]
    own.cost[:1] = [work("vision", "tower", n, "ffn", f) for n, f in enumerate((25, 10))]
    own.cost.append(work("vision", "score", 0, "rows", 10**6))
    touched = touched_share(own, full)
    assert touched is not None
    assert touched.value == pytest.approx(0.5 + 0.75 * 0.1)


def test_what_has_no_flops_is_touched_by_the_bytes_that_it_reads() -> None:
    run = drifting()
    for one, moved in zip(run.cells, (1000, 990), strict=True):
        one.cost[0] = work("vision", "tower", None, "copy", 0)
        one.cost[0].read_bytes = moved
    touched = touched_share(run.cells[1], run.cells[0])
    assert touched is not None
    assert touched.value == pytest.approx(0.6)


def test_nothing_is_known_of_what_a_callable_can_touch() -> None:
    run = drifting()
    run.cells[1].cost = []
    assert touched_share(run.cells[1], run.cells[0]) is None
    assert not [line for line in sentences.sentences(run) if "Amdahl" in line]


def test_text_only_work_is_that_of_a_request_without_a_picture(model: Model) -> None:
    """Against the layers' own FLOPs: what a request of the text's length would cost."""
    request = Preparation(
        model, Workload(image_size=(84, 84), text_tokens=(7, 5), new_tokens=3)
    ).request
    found = cost.text_only(model.shape, request, 4)
    assert cost.total(found, "vision") == cost.total(
        cost.items(
            model.shape,
            request,
            Plan(),
            planned(Plan(), request, "rows"),
            4,
        ),
        "vision",
    ), "the tower sees the picture all the same"
    text, tokens, batch = model.shape.text, 12, request.batch
    width, ffn = text.hidden, text.intermediate
    projections = 2 * tokens * width * (2 * text.attention_width + 2 * text.kv_width)
    attention = 4 * tokens * tokens * text.attention_width
    layer = projections + attention + 6 * tokens * width * ffn
    assert cost.total(found, "prefill").flops == batch * request.layers * layer


KINDS: dict[str, dict[str, object]] = {
    "decode-heavy": {"new_tokens": 24, "text_tokens": (4, 4)},
    "batch-heavy": {"batch_size": 4},
    "prefill-heavy": {"text_tokens": (200, 200)},
    "tower-heavy": {"new_tokens": 1, "text_tokens": (1, 1), "keep": "1"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_measured_speedup_passes_the_bound(llava_next: Model, kind: str) -> None:
    options = {"keep": "1/4", "image_size": (84, 84), "rounds": 8, **KINDS[kind]}
    spec = RunSpec.of(methods=["fastv", "random"], attention=["rows"], **options)
    comparison = Comparison(spec, model=llava_next)
    comparison.calibrate()
    run = comparison.run()
    bound = bound_of(run, run.cells[0])
    assert bound is not None
    assert bound.speedup.high is not None
    for row in rows(run)[1:]:
        assert not row.cell.error
        assert row.speedup is not None
        assert row.speedup.low is not None
        assert row.speedup.low <= bound.speedup.high
