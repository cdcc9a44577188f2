"""A made-up record that has data for every section of the page, and names that mean harm."""

from __future__ import annotations

import base64
import io

from PIL import Image
from record_builders import PARTS, cell, record, sample, work

from tpprof.reports.gate.verdicts import Gate, Judged, Verdict
from tpprof.reports.record.environment import Environment
from tpprof.reports.record.kept import Kept, Picture, Region
from tpprof.reports.record.schema import Activity, Bandwidth, Cell, Peaks, Record, Span, Telemetry
from tpprof.reports.record.spec import changed

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "\"'><img src=x onerror=window.pwned=1>",
    "{{ 7 * 7 }} {% raw %} $x_1$ \\textbf{x} %",
    "long " * 1000,
    "\u202eשלום עולם\u202c مرحبا",  # noqa: RUF001
    "😀 👩‍👩‍👧 \u0000\u001b[31m",
    "</svg></title></style><!-- -->",
    "https://example.org/evil.js",
    "font-family: x",
    "font: 8px y",
    'a="b: #1f2328" transform="rotate(-0 1)" d="1.23456" xlink:href',
    ".",
)


def full(*, rounds: int = 8) -> Record:
    """A vanilla and three cells, calibrated, counted, watched on a GPU, with a picture."""
    run = record(
        _cell("vanilla", "rows", 2.0, 1000, [2880, 2880], rounds),
        _cell("fastv", "maps", 1.6, 400, [2880, 320], rounds),
        _cell("fastv", "rows", 1.0, 400, [2880, 320], rounds),
        _cell("mustdrop", "rows", 0.9, 300, [1600, 130], rounds),
    )
    run.peaks = Peaks(
        device="a device",
        source="measured",
        flops_per_second={"float32": 1e6},
        bandwidth=[Bandwidth(footprint_bytes=10**8, bytes_per_second=1e6)],
        launch_seconds=1e-6,
    )
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 48)).convert("RGB").save(buffer, "JPEG")
    whole = Region(view="picture", first=0, rows=24, columns=24, stride=24)
    run.picture = Picture(jpeg=base64.b64encode(buffer.getvalue()).decode(), regions=[whole])
    for one in run.cells[1:]:
        one.kept = [
            Kept(layer=0, visual=2880, tokens=list(range(2880))),
            Kept(layer=1, visual=2880, tokens=list(range(0, 2880, 9))),
        ]
    return run


def hostile() -> Record:
    """The same with every string from outside replaced by one that means harm."""
    run = full()
    for number, one in enumerate(run.cells[1:]):
        one.method = one.name = HOSTILE[number]
        one.note = one.fallback = HOSTILE[number + 1]
        one.missing = {HOSTILE[number]: HOSTILE[3]}
        one.kernels = [HOSTILE[0], HOSTILE[6]]
        one.samples[0].marks = [HOSTILE[number]]
    run.cells += [
        _cell(name, "rows", 1.0 + number / 10, 500, [2880, 320], 8)
        for number, name in enumerate(HOSTILE)
    ]
    run.cells.append(cell(HOSTILE[1], "rows", 1.0, 1, samples=[], error=HOSTILE[0]))
    run.model.name, run.model.source, run.model.reason = HOSTILE[0], HOSTILE[3], HOSTILE[4]
    run.command = " ".join(HOSTILE)
    run.created = HOSTILE[1]
    run.spec = changed(run.spec, image=HOSTILE[1], keep=HOSTILE[0], device=HOSTILE[6])
    run.environment = Environment(
        device=HOSTILE[0],
        cpu=HOSTILE[5],
        platform=HOSTILE[6],
        packages={"torch": None, HOSTILE[0]: HOSTILE[1]},
        variables={HOSTILE[1]: HOSTILE[2]},
        warnings=list(HOSTILE),
    )
    assert run.peaks is not None
    run.peaks.device = HOSTILE[6]
    return run


def _cell(
    method: str, policy: str, seconds: float, flops: int, visual: list[int], rounds: int
) -> Cell:
    telemetry = Telemetry(readings=3, sm_clock_hz=1.7e9)
    samples = [
        sample(number, seconds * (1 + number / 100), telemetry=telemetry)
        for number in range(rounds)
    ]
    samples[-1].marks = ["throttled (heat)"]
    layers = [work("prefill", "layer", layer, "ffn", flops) for layer in range(2)]
    if policy == "maps":
        layers.append(work("prefill", "layer", 0, "attention map", 0))
    phases = [work("vision", "tower", None, "ffn", 100), work("decode", "token", 0, "ffn", 10)]
    counted = [
        Activity(
            phase=part.phase,
            part=part.part,
            index=part.index,
            operators=7,
            launches=9,
            kernels=9,
            syncs=1,
            busy_seconds=0.05,
        )
        for part in PARTS
    ]
    return cell(
        method,
        policy,
        seconds,
        flops,
        samples=samples,
        cost=layers + phases,
        activity=counted,
        visual_per_layer=visual,
        tokens_per_layer=[count + 60 for count in visual],
        parts=[*PARTS[:2], Span(phase="prefill", part="layer", index=1), *PARTS[3:]],
    )


def judged(called: str) -> Gate:
    """A gate over cells of that name: a count that grew, and a time of every verdict."""
    grown = Judged(called, "FLOPs", Verdict.FAIL, "10", "11", "+10.0 %", "an increase fails")
    same = Judged(called, "operators", Verdict.PASS, "7", "7", "0", "equal")
    timed = [
        Judged(
            called,
            f"{verdict.value} ms",
            verdict,
            "100.0",
            "105.0",
            f"+{place} %",
            f"rule {called}",
            {
                "log_ratio": place / 50,
                "low": place / 60,
                "high": place / 40,
                "tolerance": 0.05,
                "log_ratios": [place / 30, place / 70],
            },
        )
        for place, verdict in enumerate((Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.NO_VERDICT))
    ]
    return Gate("timing", f"base -> {called}", [grown, same, *timed], [f"a note, {called}"])
