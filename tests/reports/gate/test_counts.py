"""The exact gate on made-up counts, its baseline file, and two stored records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from record_builders import cell, counted, record, sample

from tpprof.reports.gate import records, render
from tpprof.reports.gate.baseline import Baseline, Counts, Snapshot, load_baseline, save_baseline
from tpprof.reports.gate.counts import compare_counts, strangeness, uncounted
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.tolerant_record import decoded, reading
from tpprof.reports.gate.verdicts import Gate, Judged, NoVerdictError, Verdict
from tpprof.reports.record.environment import Environment
from tpprof.reports.record.files import save
from tpprof.reports.record.schema import Activity, Cell, Memory, Record, Telemetry
from tpprof.reports.record.spec import Subject, changed

FLOPS = 1_000_000


def counts(**more: Any) -> Counts:
    given: dict[str, Any] = {
        "cell": "fastv with rows",
        "flops": {"prefill ffn": 100, "decode ffn": 10},
        "visual_per_layer": [64, 64, 7, 7],
        "kv_bytes_prefill": [640, 640, 70, 70],
        "kv_bytes_decode": [650, 650, 80, 80],
        "generated_tokens": 2,
        "counted_flops": {"prefill": 99},
        "operators": {"prefill": 50},
        "kernels": ["flash"] * 4,
        "resident_bytes": 500 * 2**20,
    }
    return Counts(**{**given, **more})


def shot(*cells: Counts, **more: Any) -> Snapshot:
    given: dict[str, Any] = {
        "model": "tiny",
        "architecture": "llava",
        "dtype": "float32",
        "backend": "sdpa",
        "device": "cpu",
        "packages": {"torch": "2.13.0+cpu", "transformers": "5.23.0"},
        "parameter_bytes": 4000,
        "workload": {"new_tokens": 2},
        "request": {"visual": 64},
        "cells": list(cells or [counts()]),
    }
    return Snapshot(**{**given, **more})


def code(rows: list[Judged]) -> int:
    return Gate("exact", "", rows).code


def found(rows: list[Judged], metric: str) -> Judged:
    return next(row for row in rows if row.metric.startswith(metric))


def test_equal_counts_pass() -> None:
    rows = compare_counts(shot(), shot())
    assert {row.verdict for row in rows} == {Verdict.PASS}
    assert "no launches and no syncs" in uncounted(shot())
    assert uncounted(shot(device="cuda")) == ""


@pytest.mark.parametrize(
    ("more", "metric", "told"),
    [
        ({"visual_per_layer": [64, 64, 8, 8]}, "visual tokens", "layers 2 to 3 7 -> 8"),
        ({"visual_per_layer": [64, 64, 7, 8]}, "visual tokens", "layer 3 7 -> 8"),
        ({"visual_per_layer": [64, 63, 7, 8]}, "visual tokens", "layer 1 64 -> 63, layer 3 7 -> 8"),
        ({"kv_bytes_decode": [650, 650, 90, 80]}, "KV bytes, decode", "layer 2 80 -> 90"),
        ({"flops": {"prefill ffn": 101, "decode ffn": 10}}, "FLOPs", "prefill ffn 100 -> 101"),
        ({"flops": {"prefill ffn": 100, "decode ffn": 10, "prefill rows": 5}}, "FLOPs", "0 -> 5"),
        ({"generated_tokens": 3}, "generated tokens", "an increase fails"),
        ({"operators": {"prefill": 51}}, "operators", "prefill 50 -> 51"),
        ({"counted_flops": {"prefill": 100}}, "FLOPs, counted", "prefill 99 -> 100"),
    ],
)
def test_any_increase_fails_and_names_its_place(
    more: dict[str, Any], metric: str, told: str
) -> None:
    rows = compare_counts(shot(), shot(counts(**more)))
    row = found(rows, metric)
    assert row.verdict is Verdict.FAIL
    assert told in row.rule
    assert code(rows) == 1


def test_a_decrease_passes_and_is_told() -> None:
    fewer = counts(visual_per_layer=[64, 64, 6, 6])
    rows = compare_counts(shot(), shot(fewer))
    assert found(rows, "visual tokens").verdict is Verdict.IMPROVED
    assert (code(rows), Gate("exact", "", rows).verdict) == (0, Verdict.IMPROVED)


def test_launches_syncs_and_peak_memory_of_a_gpu() -> None:
    before = counts(launches={"prefill": 9}, syncs={"prefill": 0}, peak_bytes=1000)
    after = counts(launches={"prefill": 9}, syncs={"prefill": 1}, peak_bytes=1009)
    on_gpu = {"device": "cuda"}
    rows = compare_counts(shot(before, **on_gpu), shot(after, **on_gpu), memory=0.01)
    assert found(rows, "launches").verdict is Verdict.PASS
    assert found(rows, "syncs").verdict is Verdict.FAIL
    assert found(rows, "peak memory").verdict is Verdict.PASS
    more = shot(counts(peak_bytes=1011), **on_gpu)
    rows = compare_counts(shot(before, **on_gpu), more, memory=0.01)
    assert found(rows, "peak memory").verdict is Verdict.FAIL
    assert found(rows, "launches").verdict is Verdict.NO_VERDICT, "counted on one side only"


@pytest.mark.parametrize("metric", ["flops", "visual_per_layer", "kv_bytes_prefill", "peak_bytes"])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_one_side_did_not_count_is_no_pass(metric: str, swapped: bool) -> None:
    known = {"peak_bytes": 100}
    full, less = counts(**known), counts(**{**known, metric: None if "peak" in metric else {}})
    both = [less, full] if swapped else [full, less]
    sides = [shot(each, device="cuda") for each in both]
    assert code(compare_counts(*sides)) == 3


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [({"a": 1}, None, 4), (None, {"a": 1}, 4), ({"a": 1}, {}, 3), ({}, {"a": 1}, 3), ({}, {}, 4)],
)
def test_a_version_that_counts_no_flops_is_told_from_a_count_that_failed(
    before: Any, after: Any, wanted: int
) -> None:
    sides = [shot(counts(counted_flops=found)) for found in (before, after)]
    assert code(compare_counts(*sides)) == wanted
    if before is None:
        whole = compare_counts(*sides, complete=True)
        assert code(whole) == 3, "a baseline holds them"


def test_a_cell_that_a_baseline_lacks_is_no_pass() -> None:
    more = shot(counts(), counts(cell="other"))
    rows = compare_counts(shot(), more)
    assert code(rows) == 4, "head has a new method"
    assert Gate("stored", "", rows, accept_unjudged=True).code == 0
    rows = compare_counts(shot(), more, complete=True)
    assert (code(rows), found(rows, "all").cell) == (3, "other")


def test_a_field_that_one_version_does_not_know_is_no_difference() -> None:
    old, new = shot(request={"visual": 64}), shot(request={"visual": 64, "tiles": None})
    assert strangeness(old, new) == strangeness(new, old) == ""
    assert "tiles" in strangeness(old, shot(request={"visual": 64, "tiles": 5}))


def test_what_some_cells_lack_is_told() -> None:
    both = shot(counts(), counts(cell="other", operators=None, counted_flops=None))
    gate = Gate("exact", "", compare_counts(both, both))
    assert gate.unjudged == ["FLOPs, counted of other", "operators of other"]
    assert gate.code == 4


def test_operators_of_another_torch_are_shown_and_not_judged() -> None:
    other = {"torch": "2.14.0+cpu", "transformers": "5.23.0"}
    more = counts(operators={"prefill": 90}, kernels=["math"] * 4)
    rows = compare_counts(shot(), shot(more, packages=other))
    assert found(rows, "operators").verdict is Verdict.NOT_JUDGED
    assert "torch 2.14.0+cpu, was 2.13.0+cpu" in found(rows, "operators").rule
    assert code(rows) == 4
    assert Gate("exact", "", rows, accept_unjudged=True).code == 0
    products = counts(counted_flops={"prefill": 100})
    rows = compare_counts(shot(), shot(products, packages=other))
    assert (found(rows, "FLOPs, counted").verdict, code(rows)) == (Verdict.FAIL, 1)
    build = {"torch": "2.13.0+cu126", "transformers": "5.23.0"}
    assert found(compare_counts(shot(), shot(more, packages=build)), "operators").verdict is (
        Verdict.FAIL
    )


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (shot(workload={"new_tokens": 3}), "workload new_tokens is 3, was 2"),
        (shot(request={"visual": 65}), "request visual is 65, was 64"),
        (shot(backend="eager"), "backend is eager, was sdpa"),
        (shot(dtype="float16"), "dtype is float16"),
        (shot(device="cuda"), "device is cuda"),
        (shot(counts(cell="fastw")), "this cell is missing"),
        (shot(counts(kernels=["math"] * 4)), "another attention kernel"),
        (shot(counts(generated_tokens=1)), "fewer tokens"),
        (shot(counts(visual_per_layer=[64, 64, 7])), "3 layers, 4 before"),
    ],
)
def test_what_cannot_be_compared_has_no_verdict(after: Snapshot, told: str) -> None:
    rows = compare_counts(shot(), after)
    assert code(rows) == 3
    assert any(told in row.rule for row in rows)


def test_a_cell_that_fails_is_a_regression_and_a_new_one_is_not_judged() -> None:
    assert code(compare_counts(shot(), shot(counts(error="OutOfMemoryError")))) == 1
    rows = compare_counts(shot(), shot(counts(), counts(cell="new")))
    assert rows[-1].verdict is Verdict.NOT_JUDGED


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    subject = Subject.of(methods=["fastv"], new_tokens=2)
    held = Baseline(schema=3, tpprof="0", subject=subject, memory=0.01, snapshot=shot())
    save_baseline(held, path)
    return path


def test_a_baseline_comes_back_as_it_was(baseline: Path) -> None:
    assert load_baseline(baseline).snapshot == shot()
    assert baseline.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[:-40], "damaged"),
        (lambda content: content.replace(b'"schema": 3', b'"schema": 99'), "schema 99"),
        (lambda content: content.replace(b'"memory"', b'"memmory"'), "damaged"),
        (lambda content: content.replace(b"64", b'"64"'), "damaged"),
        (lambda content: content.replace(b'"memory": 0.01', b'"memory": -1'), "memory"),
        (lambda content: content.replace(b'"memory": 0.01', b'"memory": 1e308'), "memory"),
        (lambda content: content.replace(b"64", b"-64"), "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: b"[]", "damaged"),
        (lambda content: b"\xff\xfe", "damaged"),
    ],
)
def test_a_damaged_baseline_is_no_verdict(baseline: Path, damage: Any, told: str) -> None:
    baseline.write_bytes(damage(baseline.read_bytes()))
    with pytest.raises(NoVerdictError, match=told):
        load_baseline(baseline)


def test_a_missing_baseline_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(NoVerdictError, match="make it with --update"):
        load_baseline(tmp_path / "none.json")


def test_counts_are_those_of_the_record() -> None:
    part = Activity(phase="prefill", part="layer", index=0, operators=3)
    again = Activity(phase="prefill", part="layer", index=1, operators=4)
    whole = record(
        cell("fastv", "rows", 1.0, FLOPS, activity=[part, again], memory=Memory(allocator=5))
    )
    (own,) = Snapshot.of(reading(whole)).cells
    assert own.cell == "fastv with rows"
    assert (own.flops, own.operators) == ({"prefill ffn": FLOPS}, {"prefill": 7})
    assert (own.launches, own.peak_bytes) == (None, 5)
    assert Snapshot.of(reading(whole)).parameter_bytes == 120_000_000


def test_a_record_of_another_version_is_read_as_far_as_it_goes() -> None:
    plain = msgspec.to_builtins(record(cell("fastv", "rows", 1.0, FLOPS)))
    plain["schema"], plain["novelty"] = 99, {"more": 1}
    plain["cells"][0]["unheard"] = "of"
    plain["environment"] = {"device": "a machine", "packages": {"torch": "2.1"}, "future": {}}
    found = decoded(msgspec.json.encode(plain))
    assert found.cells[0].method == "fastv"
    assert found.packages == {"torch": "2.1", "transformers": "unknown"}
    assert (found.environment.device_type, found.environment.code) == (None, None)
    for lost in ("cost", "kv_bytes_prefill", "visual_per_layer", "method"):
        less = {**plain, "cells": [{**plain["cells"][0]}]}
        del less["cells"][0][lost]
        with pytest.raises(NoVerdictError, match="cannot be read"):
            decoded(msgspec.json.encode(less))


def pair(seconds: float, *, machine: str = "a machine", spread: float = 0.01) -> Record:
    """Vanilla of one second and fastv of `seconds`, ten rounds."""

    def samples(centre: float) -> list[Any]:
        return [sample(n, centre * (1 + spread * (n % 3 - 1))) for n in range(10)]

    cells: list[Cell] = [
        cell("vanilla", "rows", 1.0, FLOPS, samples=samples(1.0), **counted(FLOPS)),
        cell("fastv", "rows", seconds, FLOPS, samples=samples(seconds)[::-1], **counted(FLOPS)),
    ]
    whole = record(*cells)
    whole.environment = Environment(device=machine, device_type="cpu")
    return whole


@pytest.mark.parametrize(("head", "wanted"), [(0.5, 0), (0.55, 0), (0.7, 1), (0.3, 0)])
def test_records_are_judged_by_their_speedups(head: float, wanted: int) -> None:
    rules = Rules(tolerance={"latency": 0.2})
    gate = records.compare_records(pair(0.5), pair(head, machine="another"), rules, "")
    assert gate.code == (wanted or 4), "that both became slower is not seen"
    assert "latency of all cells" in render.headline(gate)
    gate.accept_unjudged = True
    assert gate.code == wanted
    assert "latency of all cells" in render.headline(gate), "said all the same"
    timed = [row for row in gate.rows if row.metric == "time over vanilla"]
    assert [row.cell for row in timed] == ["fastv with rows"]
    assert any("another machine" in note for note in gate.notes)


def throttled(record: Record) -> None:
    record.cells[1].samples[3].telemetry = Telemetry(readings=1, throttled=["thermal slowdown"])


def shared(record: Record) -> None:
    record.cells[1].samples[3].telemetry = Telemetry(readings=1, others=[4711])


def interrupted(record: Record) -> None:
    record.complete = False


@pytest.mark.parametrize("change", [throttled, shared, interrupted])
@pytest.mark.parametrize("side", [0, 1])
def test_times_of_a_disturbed_run_have_no_verdict(change: Any, side: int) -> None:
    both = [pair(0.5), pair(0.5)]
    change(both[side])
    gate = records.compare_records(*both, Rules(), "")
    assert (gate.code, gate.rows[-1].metric) == (3, "times")
    assert gate.rows[-1].rule.startswith(("base", "head")[side])


def test_what_was_not_measured_alike_has_no_absolute_times() -> None:
    apart = pair(0.5)
    apart.spec = changed(apart.spec, isolate=True)
    gate = records.compare_records(pair(0.5), apart, Rules(), "")
    assert {row.metric for row in gate.rows if "time" in row.metric} == {"time over vanilla"}
    assert gate.rows[-1].verdict is Verdict.NOT_JUDGED
    assert any("isolate is True, was False" in note for note in gate.notes)


def test_records_of_vanilla_on_two_machines_tell_nothing_of_time() -> None:
    one, other = pair(0.5), pair(0.5, machine="another")
    for each in (one, other):
        each.cells.pop()
    gate = records.compare_records(one, other, Rules(), "")
    assert (gate.code, "no time can be compared" in gate.rows[-2].rule) == (3, True)


def test_absolute_times_of_two_runs_prove_nothing() -> None:
    """Machines of a cloud have one name: what is slower there may be another machine."""
    rules = Rules(tolerance={"latency": 0.2})
    slow = pair(0.5)
    for each in slow.cells:
        each.samples = [sample(s.round, 2 * s.latency) for s in each.samples]
    gate = records.compare_records(pair(0.5), slow, rules, "")
    verdicts = {(row.cell, row.metric): row.verdict for row in gate.rows}
    assert verdicts["fastv with rows", "time over vanilla"] is Verdict.PASS
    assert verdicts["vanilla", "latency"] is Verdict.INCONCLUSIVE
    assert gate.code == 4
    quick = records.compare_records(slow, pair(0.5), rules, "")
    absolute = {row.verdict for row in quick.rows if row.metric == "latency"}
    assert (quick.verdict, absolute) == (Verdict.PASS, {Verdict.PASS}), "a gain is no proof"


def test_vanilla_alone_on_one_machine_leaves_it_open() -> None:
    one, other = pair(0.5), pair(0.5)
    for each in (one, other):
        each.cells.pop()
    gate = records.compare_records(one, other, Rules(tolerance={"latency": 0.2}), "")
    assert (gate.code, gate.rows[-1].verdict) == (4, Verdict.INCONCLUSIVE)
    assert "tpprof gate ab" in gate.rows[-1].rule


def test_records_with_too_few_rounds_or_other_requests_have_no_verdict() -> None:
    few, rules = pair(0.5), Rules(tolerance={"latency": 0.2})
    few.cells[1].samples = few.cells[1].samples[:5]
    gate = records.compare_records(few, pair(0.5), rules, "")
    assert (gate.code, "too few rounds" in gate.rows[-1].rule) == (3, True)
    other = pair(0.5)
    other.request.visual = 576
    assert records.compare_records(pair(0.5), other, rules, "").code == 3
    renamed = pair(0.5)
    renamed.cells[1].method = "fastv:tag=x"
    assert records.compare_records(pair(0.5), renamed, rules, "").code == 3


@pytest.mark.parametrize("side", [0, 1])
def test_a_cell_that_is_listed_twice_or_none_at_all_is_no_pass(side: int) -> None:
    twice = [shot(), shot()]
    twice[side] = shot(counts(), counts())
    (row,) = compare_counts(*twice)
    assert (row.verdict, "listed twice" in row.rule) == (Verdict.NO_VERDICT, True)
    none = [shot(), shot()]
    none[side].cells.clear()
    assert code(compare_counts(*none)) == 3


def test_memory_of_the_host_is_judged_beyond_that_of_vanilla() -> None:
    def both(own: int, vanilla: int) -> Snapshot:
        sizes = {"vanilla": vanilla, "fastv with rows": own}
        return shot(*(counts(cell=c, resident_bytes=s * 2**20) for c, s in sizes.items()))

    before = both(520, 500)
    assert code(compare_counts(before, both(580, 500))) == 0, "60 MiB more"
    rows = compare_counts(before, both(1320, 500))
    assert code(rows) == 1
    assert "beyond vanilla +800 MiB" in found(rows[-1:], "host memory").rule
    assert code(compare_counts(before, both(620, 600))) == 0, "another machine holds more"
    assert code(compare_counts(before, both(1320, 1300))) == 1, "whatever was imported"
    unknown = shot(counts(resident_bytes=None))
    assert code(compare_counts(unknown, unknown)) == 4


PARTS_OF_A_RUN: dict[str, Callable[[Any], None]] = {
    "other order": lambda cells: cells.reverse(),
    "a cell fewer": lambda cells: cells.pop(),
    "a round fewer": lambda cells: [cell["samples"].pop() for cell in cells],
    "one time changed": lambda cells: cells[0]["samples"][0].update(latency=1.25),
    "one cell new": lambda cells: [
        s.update(latency=1.25 + s["round"]) for s in cells[0]["samples"]
    ],
}


def test_a_record_judged_against_itself_is_no_pass(tmp_path: Path) -> None:
    base, copy, other = (tmp_path / f"{n}.json" for n in ("base", "copy", "other"))
    save(pair(0.5), base)
    copy.write_bytes(base.read_bytes().replace(b"tpprof compare", b"tpprof  compare"))
    save(pair(0.501, spread=0.011), other)
    rules = Rules(tolerance={"latency": 0.2})
    same = [base, copy]
    for name, change in PARTS_OF_A_RUN.items():
        plain = json.loads(base.read_bytes())
        change(plain["cells"])
        same.append(tmp_path / f"{name}.json")
        same[-1].write_text(json.dumps(plain))
    for one in same:
        for sides in ((base, one), (one, base)):
            gate = records.compare_record_files(*sides, rules)
            assert (gate.code, "of one run" in gate.rows[0].rule) == (3, True), one
    assert records.compare_record_files(base, other, rules).code == 0


def test_rows_are_plain() -> None:
    row = found(compare_counts(shot(), shot()), "FLOPs")
    assert dataclasses.asdict(row)["values"]["before"] == {"prefill ffn": 100, "decode ffn": 10}
