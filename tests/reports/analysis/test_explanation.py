"""The gap between promise and clock, split: on records whose every millisecond is known."""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace

import pytest
from record_builders import cell, record, sample, work
from rich.console import Console

from tpprof.reports.analysis import layers
from tpprof.reports.analysis.counterparts import counterparts_of
from tpprof.reports.analysis.explanation import _doubt, explain, explain_all
from tpprof.reports.analysis.run_view import RunView
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.schema import Activity, Cell, Peaks, Record, Span
from tpprof.reports.record.spec import changed
from tpprof.reports.sanitize import for_markdown
from tpprof.reports.text import waterfall
from tpprof.reports.text.screen import Screen

LAYERS, PRUNE = 4, 1  # layer 1 is the first that sees fewer tokens
PARTS = [
    ("preprocess", "preprocess", None),
    ("vision", "tower", None),
    *[("prefill", "layer", layer) for layer in range(LAYERS)],
    ("prefill", "score", PRUNE - 1),
    ("prefill", "select", PRUNE),
    ("head", "head", None),
    ("decode", "token", 0),
]
SECONDS = {
    "preprocess": 0.010,
    "vision": 0.100,
    "layer": 0.200,
    "score": 0.0,
    "select": 0.0,
    "head": 0.005,
    "decode": 0.040,
}


def made(method: str = "vanilla", attention: str = "rows", **changed: float) -> Cell:
    """A cell of known times, in seconds: by phase, part, `layer0` or `rest` (outside all parts).

    Every method but vanilla keeps a quarter of the tokens, and of the FLOPs, from layer 1 on.
    """
    pruned = not method.startswith("vanilla")
    cost = [work("vision", "tower", None, "ffn", 1000)]
    times = []
    for phase, part, index in PARTS:
        spent = SECONDS.get(part, SECONDS.get(phase, 0.0))
        if part == "layer":
            assert index is not None
            full_map = attention != "rows" and index == PRUNE - 1
            kept = 250 if pruned and index >= PRUNE else 1000
            operator = "attention map" if full_map else "attention"
            cost.append(work(phase, part, index, operator, kept))
            spent = SECONDS["layer"] * kept / 1000
        spent = changed.get(phase, spent) if part != "layer" else spent
        times.append(changed.get(part if index is None else f"{part}{index}", spent))
    return cell(
        method,
        attention,
        1.0,
        0,
        cost=cost,
        parts=[Span(phase=p, part=q, index=i) for p, q, i in PARTS],
        tokens_per_layer=[100] + [25 if pruned else 100] * (LAYERS - 1),
        samples=[
            sample(number, sum(times) + changed.get("rest", 0.0), parts=list(times))
            for number in range(6)
        ],
    )


def parts_of(run: Record, which: int) -> dict[str, float]:
    told = explain(run, run.cells[which])
    assert told is not None
    return {part.name: part.seconds for part in told.contributions}


def counted(which: Cell, place: int, **figures: float) -> None:
    """Activity of the part at `place` of PARTS, for a GPU or not."""
    phase, part, index = PARTS[place]
    which.activity.append(Activity(phase=phase, part=part, index=index, **figures))  # type: ignore[arg-type]


VANILLA = 0.010 + 0.100 + 4 * 0.200 + 0.005 + 0.040
CLAIM = (1000 + 3 * 250) / 4000


def test_a_perfectly_pruned_request_keeps_its_promise_and_not_the_claim() -> None:
    run = record(made(), made("fastv"))
    told = explain(run, run.cells[1])
    assert told is not None
    assert told.claimed_seconds == pytest.approx(CLAIM * VANILLA)
    assert told.promised_seconds == pytest.approx(VANILLA - 3 * 0.75 * 0.200)
    assert told.promised_seconds == pytest.approx(told.measured_seconds)
    assert told.over_promise.value == pytest.approx(1.0)
    found = parts_of(run, 1)
    assert found["outside the decoder"] == pytest.approx(0.115 * (1 - CLAIM))
    assert found["decode, but its cache"] == pytest.approx(0.040 * (1 - CLAIM))
    assert found["unequal layers"] == pytest.approx(0.0, abs=1e-12)
    for part in told.causes:
        assert part.seconds == pytest.approx(0.0, abs=1e-12), part.name
    assert all(part.seconds >= -1e-12 for part in told.contributions), "no step cancels another"


def test_layers_of_unlike_time_and_decode_shrink_by_their_own_flops() -> None:
    """Layer 0 takes twice as long as the others; of decode, half of the FLOPs are left."""
    vanilla, fastv = made(layer0=0.400), made("fastv", layer0=0.400, decode=0.030)
    for one, flops in ((vanilla, 100), (fastv, 50)):
        one.cost.append(work("decode", "token", 0, "attention", flops))
    told = explain(record(vanilla, fastv), fastv)
    assert told is not None
    found = {part.name: part.seconds for part in told.contributions}
    assert found["unequal layers"] == pytest.approx(0.400 + 0.150 - CLAIM * 1.000)
    assert found["decode, but its cache"] == pytest.approx(0.040 * (0.5 - CLAIM))
    assert found["decode steps"] == pytest.approx(0.030 - 0.020)
    assert told.promised_seconds == pytest.approx(0.115 + 0.400 + 0.150 + 0.020)


@pytest.mark.parametrize("seed", range(20))
def test_contributions_sum_to_the_gap_whatever_was_measured(seed: int) -> None:
    chance = random.Random(seed)
    cells = [made(), made("fastv", "rows"), made("fastv", "maps"), made("fastv", "published")]
    for one in cells:
        for taken in one.samples:
            taken.parts = [chance.uniform(0, 0.3) for _ in taken.parts]
            taken.latency = sum(taken.parts) + chance.uniform(0, 0.1)
    run = record(*cells)
    explained = explain_all(run, run.cells)
    assert [one for one, _ in explained.found] == run.cells[1:], "all others against vanilla"
    assert explained.failed == []
    for _, told in explained.found:
        gap = told.measured_seconds - told.promised_seconds
        assert math.fsum(part.seconds for part in told.causes) == pytest.approx(gap)
        gap = told.promised_seconds - told.claimed_seconds
        assert math.fsum(part.seconds for part in told.steps) == pytest.approx(gap)


def test_maps_are_what_they_take_beyond_rows() -> None:
    run = record(
        made(), made("fastv", "maps", layer0=0.500, score0=0.002), made("fastv", score0=0.001)
    )
    by_maps, by_rows = parts_of(run, 1), parts_of(run, 2)
    assert by_maps["attention maps"] == pytest.approx(0.301)
    assert by_rows.get("attention maps", 0.0) == 0
    rest = set(by_maps) - {"attention maps", "remainder"}
    assert {name: by_maps[name] for name in rest} == pytest.approx(
        {name: by_rows[name] for name in rest}
    ), "all else is told as for rows"
    assert by_maps["remainder"] == pytest.approx(0.0, abs=1e-12)
    advice = explain(run, run.cells[1]).advice  # type: ignore[union-attr]
    assert "Read rows instead of maps: 301.0 ms less" in advice[0]


def test_an_extra_map_is_an_attention_map_too() -> None:
    maps = made("fastv", "maps", layer0=0.250, layer2=0.080)
    maps.cost.append(work("prefill", "layer", 2, "attention map", 0))
    run = record(made(), maps, made("fastv"))
    assert parts_of(run, 1)["attention maps"] == pytest.approx(0.050 + 0.030)


def test_maps_without_rows_beside_them_are_not_told_apart() -> None:
    run = record(made(), made("fastv", "maps", layer0=0.500))
    told = explain(run, run.cells[1])
    assert told is not None
    assert any("measure `rows` beside them" in note for note in told.notes)
    assert parts_of(run, 1)["layers before the prune"] == pytest.approx(0.500 - 0.200)


def test_released_code_is_what_it_takes_beyond_maps() -> None:
    published = made("fastv", "published", layer0=0.700, layer2=0.150, select1=0.030)
    for layer in range(LAYERS):
        published.cost.append(work("prefill", "layer", layer, "attention map", 0))
    maps = made("fastv", "maps", layer0=0.500, select1=0.010)
    run = record(made(), published, maps, made("fastv", select1=0.009))
    found = parts_of(run, 1)
    assert found["attention maps"] == pytest.approx(0.300)
    assert found["released code"] == pytest.approx(0.200 + 0.100 + 0.020)
    assert found["selection"] == pytest.approx(0.010)
    assert found["remainder"] == pytest.approx(0.0, abs=1e-12)


def test_scoring_and_selection_are_told_apart() -> None:
    found = parts_of(record(made(), made("fastv", score0=0.003, select1=0.050)), 1)
    assert found["scoring"] == pytest.approx(0.003)
    assert found["selection"] == pytest.approx(0.050)


def test_layers_that_run_less_efficiently_are_told_with_their_rates() -> None:
    run = record(made(), made("fastv", layer1=0.060, layer2=0.060, layer3=0.060))
    told = explain(run, run.cells[1])
    assert told is not None
    shorter = next(part for part in told.contributions if part.name == "shorter sequences")
    assert shorter.seconds == pytest.approx(3 * 0.010)
    assert "in vanilla" in shorter.about
    assert (shorter.low, shorter.high) == pytest.approx((0.030, 0.030))


def test_what_no_part_accounts_for_is_the_remainder() -> None:
    found = parts_of(record(made(rest=0.020), made("fastv", rest=0.050)), 1)
    assert found["remainder"] == pytest.approx(0.050 - 0.020)


def on_gpu(which: Cell, busy: float, syncs: dict[int, int] | None = None) -> None:
    """As if the device were busy for a share of every part, but where the host waits."""
    for place, spent in enumerate(which.samples[0].parts):
        waits = (syncs or {}).get(place, 0)
        share = 0.1 if waits else busy
        counted(
            which,
            place,
            operators=10,
            launches=10,
            kernels=10,
            syncs=waits,
            busy_seconds=spent * share,
        )


def test_time_in_which_the_gpu_idles_is_waiting_for_the_host() -> None:
    vanilla, fastv = made(), made("fastv", layer1=0.080, layer2=0.080, layer3=0.080)
    on_gpu(vanilla, 1.0)
    on_gpu(fastv, 0.625)  # 0.050 s of 0.080 s: as fast as vanilla's where it runs
    run = record(vanilla, fastv)
    found = parts_of(run, 1)
    assert found["waiting for the host"] == pytest.approx(3 * 0.030 + 0.200 * 0.375)
    assert found["shorter sequences"] == pytest.approx(0.0, abs=1e-12)
    assert found["layers before the prune"] == pytest.approx(0.200 * 0.625 - 0.200)
    advice = explain(run, run.cells[1]).advice  # type: ignore[union-attr]
    # The host takes 0.240 s whatever the batch, the device 0.150 s a sample: 90 % busy at 1.44.
    (said,) = [sentence for sentence in advice if "From batch 2 on" in sentence]
    assert said.endswith("As CUDA graphs (`--runtime graph`) they need not wait.")
    run.cells[1].host_waits = {"method.py line 3": 1}
    advice = explain(run, run.cells[1]).advice  # type: ignore[union-attr]
    assert any("hold no decision that makes the host wait" in sentence for sentence in advice)
    run.cells[0].runtime = run.cells[1].runtime = "graph"
    run.cells[1].eager_prefill = "it waits (method.py line 3)"
    advice = explain(run, run.cells[1]).advice  # type: ignore[union-attr]
    (said,) = [sentence for sentence in advice if "From batch 2 on" in sentence]
    assert said.endswith("They run eager: it waits (method.py line 3).")


def test_waits_in_layers_that_see_every_token_are_found_too() -> None:
    """A method that prunes nothing, and after each of whose waits the device idles."""
    vanilla, waits = made(), made("vanilla:tag=a")
    for taken in waits.samples:
        taken.parts = [
            spent * 2 if p[1] == "layer" else spent
            for p, spent in zip(PARTS, taken.parts, strict=True)
        ]
        taken.latency = sum(taken.parts)
    on_gpu(vanilla, 1.0)
    on_gpu(waits, 0.5)
    found = parts_of(record(vanilla, waits), 1)
    assert found["waiting for the host"] == pytest.approx(4 * 0.200)
    assert found["layers before the prune"] == pytest.approx(0.0, abs=1e-12)


def test_the_half_of_attention_that_no_kernel_computes_is_told_apart() -> None:
    """The pruned layers keep a quarter of the dense FLOPs, but 200 of 500 causal ones."""
    vanilla, fastv = made(), made("fastv")
    for cell_, causal in ((vanilla, 500), (fastv, 200)):
        for item in cell_.cost:
            if item.part == "layer" and item.index != 0:
                item.causal_flops = causal
    found = parts_of(record(vanilla, fastv), 1)
    assert found["causal attention"] == pytest.approx(3 * 0.200 * (0.4 - 0.25))
    assert found["shorter sequences"] == pytest.approx(3 * 0.200 * (0.25 - 0.4))


def test_a_forced_wait_in_a_selection_is_waiting_for_the_host_and_a_slow_one_is_not() -> None:
    select = PARTS.index(("prefill", "select", PRUNE))
    vanilla, waits, slow = made(), made("fastv", select1=0.040), made("random", select1=0.040)
    on_gpu(vanilla, 1.0)
    on_gpu(waits, 1.0, syncs={select: 1})
    on_gpu(slow, 1.0)
    run = record(vanilla, waits, slow)
    assert parts_of(run, 1)["waiting for the host"] == pytest.approx(0.036)
    assert parts_of(run, 1)["selection"] == pytest.approx(0.004)
    assert parts_of(run, 2).get("waiting for the host", 0.0) == pytest.approx(0.0, abs=1e-12)
    assert parts_of(run, 2)["selection"] == pytest.approx(0.040)


def test_what_a_wait_takes_back_is_no_gain() -> None:
    """The map costs 0.3 s where it is built, and rows lose as much to the host elsewhere."""
    run = record(made(), made("fastv", "maps", layer0=0.500), made("fastv", rest=0.310))
    assert parts_of(run, 1)["attention maps"] == pytest.approx(0.3)
    told = explain(run, run.cells[1])
    assert told is not None
    assert not any("Read rows instead of maps" in line for line in told.advice)


def test_a_method_whose_selections_all_wait_is_advised_too() -> None:
    select = PARTS.index(("prefill", "select", PRUNE))
    vanilla, waits = made(), made("fastv", "maps", layer0=0.500, select1=0.150)
    rows_ = made("fastv", select1=0.150)
    for one in (vanilla, waits, rows_):
        on_gpu(one, 1.0, syncs={select: 3} if one is not vanilla else None)
    told = explain(record(vanilla, waits, rows_), waits)
    assert told is not None
    assert any("Read rows instead of maps" in line for line in told.advice)


def test_pictures_are_advised_to_be_processed_on_the_device_until_they_are() -> None:
    run = record(made(preprocess=0.200), made("fastv", preprocess=0.200))
    (plain,) = (explain(run, one).advice for one in run.cells[1:])  # type: ignore[union-attr]
    on_device = "Process pictures on the device (`--preprocess device`), or in another process: 200"
    assert any(line.startswith(on_device) for line in plain)
    run.spec = changed(run.spec, preprocess="device")
    (done,) = (explain(run, one).advice for one in run.cells[1:])  # type: ignore[union-attr]
    assert any(line.startswith("Prepare pictures in another process") for line in done)
    assert not any("--preprocess" in line for line in done)


def test_a_tower_that_is_pruned_is_not_advised_to_be() -> None:
    vanilla, fastv, merging = made(), made("fastv"), made("mustdrop", vision=0.060)
    merging.cost[0].flops = 500
    run = record(vanilla, fastv, merging)
    plain, pruned = (explain(run, one).advice for one in (fastv, merging))  # type: ignore[union-attr]
    assert any(line.startswith("Prune in the vision tower") for line in plain)
    assert any(line.startswith("Make the vision tower faster: 60.00 ms") for line in pruned)


def test_on_a_cpu_launching_is_operators_times_the_least_time_of_one() -> None:
    vanilla, fastv = made(), made("fastv", layer1=0.060, layer2=0.060, layer3=0.060)
    for one in (vanilla, fastv):
        for place in range(len(PARTS)):
            counted(one, place, operators=100)
    run = record(vanilla, fastv)
    told = explain(run, run.cells[1])
    assert told is not None
    assert "tpprof calibrate" in told.notes[0]
    run.peaks = Peaks(
        device="a machine",
        source="measured",
        flops_per_second={},
        bandwidth=[],
        kernel_seconds=1e-5,
        launch_seconds=1e-5,
    )
    found = parts_of(run, 1)
    launching = 100 * 1e-5
    waiting = 3 * launching * (1 - 0.25)  # layer 0 launches as much as vanilla's
    assert found["waiting for the host"] == pytest.approx(waiting)
    assert found["shorter sequences"] == pytest.approx(3 * 0.010 - 3 * 100 * 1e-5 * (1 - 0.25))


def test_a_launch_bound_decode_should_be_captured() -> None:
    vanilla, fastv = made(), made("fastv", decode=0.200)
    decode = PARTS.index(("decode", "token", 0))
    counted(fastv, decode, operators=9, launches=9, kernels=9, syncs=0, busy_seconds=0.05)
    advice = explain(record(vanilla, fastv), fastv).advice  # type: ignore[union-attr]
    assert any("busy for 25 %" in line and "--runtime graph" in line for line in advice)


def test_each_layer_before_the_prune_has_its_price() -> None:
    vanilla, late = made(), made("fastv", layer1=0.200, layer2=0.200)
    late.tokens_per_layer = [100, 100, 100, 25]
    for item in late.cost:
        if item.index in (1, 2):
            item.flops = 1000
    advice = explain(record(vanilla, late), late).advice  # type: ignore[union-attr]
    told = next(line for line in advice if line.startswith("Prune earlier"))
    assert "3 layers see every token" in told
    assert "150.0 ms" in told


def test_a_twin_is_the_same_method_under_the_same_runtime() -> None:
    other = made("fastv", layer0=0.1)
    other.runtime = "graph"
    run = record(made(), made("fastv", "maps"), other, made("fastv:keep=64"))
    beside = counterparts_of(run, run.cells[1])
    assert beside is not None
    assert beside.rows is None
    run.cells.append(made("fastv"))
    beside = counterparts_of(run, run.cells[1])
    assert beside is not None
    assert beside.rows is run.cells[-1]


def test_only_cells_that_were_measured_together_are_compared() -> None:
    run = record(made(), made("fastv", "maps", layer0=0.5), made("fastv"))
    for taken in run.cells[2].samples:
        taken.round += 100
    beside = counterparts_of(run, run.cells[1])
    assert beside is not None
    assert beside.rows is None
    for taken in run.cells[0].samples:
        taken.round += 100
    assert explain(run, run.cells[1]) is None
    assert explain(run, run.cells[2]) is not None


def test_nothing_is_explained_without_times_or_vanilla() -> None:
    alone = record(made("fastv"))
    assert explain(alone, alone.cells[0]) is None
    with pytest.raises(RecordError, match="not measured together with vanilla"):
        waterfall.chosen(alone, None)
    alone.complete = False
    with pytest.raises(RecordError, match="--resume"):
        waterfall.chosen(alone, "fastv")
    with pytest.raises(RecordError, match="name another method"):
        waterfall.chosen(record(made(), made("fastv")), "vanilla")
    with pytest.raises(RecordError, match="did you mean fastv"):
        waterfall.chosen(record(made(), made("fastv")), "fastw")
    failed = record(made(), made("fastv"))
    failed.cells[1].samples = []
    assert explain(failed, failed.cells[1]) is None


def test_what_is_derived_never_costs_the_record() -> None:
    run = record(made(), made("fastv"), made("random"))
    run.cells[1].cost = run.cells[1].cost[:2]  # as if a layer's cost were missing
    explained = explain_all(run, run.cells)
    assert [one for one, _ in explained.found] == [run.cells[2]]
    (told,) = explained.failed
    assert told.startswith("fastv with rows cannot be explained: KeyError")
    output = io.StringIO()
    waterfall.print_explanations(run, Screen(Console(file=output, width=200)))
    assert f"! {told}" in output.getvalue()
    assert f"> {for_markdown(told)}" in waterfall.as_markdown(run, None)
    found = waterfall.explanations_table(run, waterfall.chosen(run, None).found).to_values()
    assert [cell_["method"] for cell_ in found] == ["random"]
    with pytest.raises(RecordError, match="fastv with rows cannot be explained"):
        waterfall.chosen(run, "fastv")
    assert RunView(run).unexplained == [told]


def test_the_waterfall_is_shown_with_bars_that_follow_one_another() -> None:
    quick = {"layer1": 0.010, "layer2": 0.010}
    run = record(made(), made("fastv", "maps", layer0=0.500, **quick), made("fastv", **quick))
    output = io.StringIO()
    waterfall.print_explanations(run, Screen(Console(file=output, width=200)), by_layer=True)
    shown = output.getvalue()
    assert "attention maps" in shown
    assert "FLOP/s" in shown
    assert "side by side" in shown
    assert "no roofline" in shown
    told = explain(run, run.cells[1])
    assert told is not None
    steps = waterfall.steps(run.cells[1], told)
    bars = [step.bar for step in steps]
    assert bars[0].startswith("█")
    assert max(len(bar.rstrip()) for bar in bars) == waterfall.BAR, "they fill the column"
    (credit,) = [step.bar for step in steps if step.part.name == "shorter sequences"]
    assert "░" in credit


def test_machines_get_every_part_and_its_sum() -> None:
    run = record(made(), made("fastv", "maps", layer0=0.500), made("fastv"))
    found = waterfall.chosen(run, "fastv").found
    cells = waterfall.explanations_table(run, found).to_values()
    assert [cell_["attention"] for cell_ in cells] == ["maps", "rows"]
    for cell_ in cells:
        gap = cell_["measured_seconds"] - cell_["claimed_seconds"]
        assert sum(part["seconds"] for part in cell_["contributions"]) == pytest.approx(gap)
        assert len(cell_["layers"]) == LAYERS
    rows = waterfall.explanation_table(found).to_values()
    for policy in ("maps", "rows"):
        first, *parts, last = [row for row in rows if row["attention"] == policy]
        assert (first["part"], last["part"]) == ("claimed", "measured")
        summed = first["seconds"] + sum(r["seconds"] for r in parts if r["part"] != "promised")
        assert summed == pytest.approx(last["seconds"])


def test_markdown_has_intervals_advice_and_the_unit() -> None:
    run = record(made(), made("fastv", "maps", layer0=0.500), made("fastv"))
    shown = waterfall.as_markdown(run, "fastv")
    assert "|  | ms | 95 % interval |  |" in shown
    assert "| attention maps | +300.0 | +300.0 to +300.0 |" in shown
    assert r"- \> Read rows instead of maps" in shown


def test_layers_stand_beside_those_of_vanilla() -> None:
    run = record(made(), made("fastv", layer2=0.060))
    first, second, third, _ = layers.layer_rows(run, run.cells[1])
    assert (first.flops_share, first.time_share) == pytest.approx((1.0, 1.0))
    assert (second.flops_share, second.time_share) == pytest.approx((0.25, 0.25))
    assert third.time_share == pytest.approx(0.3)
    assert third.rate == pytest.approx(250 / 0.060)
    assert third.floor is None


def noisy(which: Cell, spread: float) -> Cell:
    """The same cell, slower and faster in turn by a share of its time."""
    for number, taken in enumerate(which.samples):
        taken.parts = [spent * (1 + spread * (-1) ** number) for spent in taken.parts]
        taken.latency = sum(taken.parts)
    return which


def test_noise_is_called_noise_and_nothing_is_advised_from_it() -> None:
    run = record(
        made(), noisy(made("fastv", "maps", layer0=0.230), 0.4), noisy(made("fastv"), -0.4)
    )
    told = explain(run, run.cells[1])
    assert told is not None
    maps = next(part for part in told.contributions if part.name == "attention maps")
    assert maps.low is not None
    assert maps.low < 0
    assert not any("rows instead of maps" in line for line in told.advice)
    assert "within the noise of this run" in waterfall.headline(run.cells[1], told)
    output = io.StringIO()
    run.environment.warnings = ["the machine was busy"]
    waterfall.print_explanations(run, Screen(Console(file=output, width=200)), "fastv")
    assert "! the machine was busy" in output.getvalue()


def test_a_request_that_beats_its_promise_is_said_to() -> None:
    quick = made("fastv", layer1=0.001, layer2=0.001, layer3=0.001)
    quick.cost[2:] = [work("prefill", "layer", n, "attention", 990) for n in range(1, LAYERS)]
    quick.cost.insert(1, work("prefill", "layer", 0, "attention", 1000))
    run = record(made(), quick)
    told = explain(run, run.cells[1])
    assert told is not None
    assert "the promised time, most of all by shorter" in waterfall.headline(quick, told)
    assert told.over_promise.value < 0.6


def test_too_few_rounds_advise_nothing_and_say_so() -> None:
    """The median of five rounds has no interval of 95 %: a large part may be chance."""
    run = record(made(), made("fastv", "maps", layer0=0.500), made("fastv"))
    for each in run.cells:
        each.samples = each.samples[:3]
    told = explain(run, run.cells[1])
    assert told is not None
    assert max(part.seconds for part in told.contributions) > 0.2 * told.measured_seconds
    assert waterfall.remarks(told)[-1] == f"> {waterfall.TOO_FEW}"
    whole = record(made(), made("fastv"))
    calm = explain(whole, whole.cells[1])
    assert calm is not None
    assert waterfall.TOO_FEW not in " ".join(waterfall.remarks(calm))


def test_a_split_that_is_not_trusted_says_nothing_of_what_a_change_is_worth() -> None:
    whole = record(made(), made("fastv"))
    told = explain(whole, whole.cells[1])
    assert told is not None
    plain, doubted = (replace(told, advice=[], trusted=trusted) for trusted in (True, False))
    assert waterfall.remarks(plain)[-1] == f"> {waterfall.NOTHING}"
    assert waterfall.remarks(doubted)[-1] == f"> {waterfall.UNTOLD}"
    rest = told.causes[-1]
    large = replace(told, causes=[*told.causes[:-1], replace(rest, seconds=9.0)])
    assert _doubt(large) != ""


def test_a_split_with_a_large_remainder_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpprof.reports.analysis.explanation._doubt", lambda found: "so large")
    whole = record(made(), made("fastv"))
    told = explain(whole, whole.cells[1])
    assert told is not None
    assert not told.trusted
    assert waterfall.NOTHING not in " ".join(waterfall.remarks(told))


def test_rates_of_pruned_layers_are_said_to_hold_the_waits() -> None:
    whole = record(made(), made("fastv"))
    told = explain(whole, whole.cells[1])
    assert told is not None
    about = next(part.about for part in told.causes if part.name == "shorter sequences")
    assert "waits for the host included" in about
