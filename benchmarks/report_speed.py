"""How long a report takes: a made record of so many cells and samples, loaded and rendered."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tpprof.reports.page.render import render
from tpprof.reports.record import files
from tpprof.reports.record.schema import (
    SCHEMA,
    Activity,
    Cell,
    Cost,
    Environment,
    Memory,
    ModelInfo,
    Process,
    Record,
    RequestInfo,
    Sample,
    Span,
)
from tpprof.reports.record.spec import RunSpec

LAYERS = 32
PARTS = [
    Span(phase="preprocess", part="preprocess"),
    Span(phase="transfer", part="transfer"),
    Span(phase="vision", part="tower"),
    Span(phase="embed", part="embed"),
    *(Span(phase="prefill", part="layer", index=layer) for layer in range(LAYERS)),
    Span(phase="prefill", part="score", index=1),
    Span(phase="prefill", part="select", index=2),
    Span(phase="head", part="head"),
    Span(phase="decode", part="token", index=0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path, help="keep the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.json"
        files.save(made(options.cells, options.samples), path)
        began = time.perf_counter()
        record = files.load(path)
        loaded = time.perf_counter()
        page = render([record], ["made"])
        done = time.perf_counter()
        print(
            f"{options.cells} cells x {options.samples} samples, "
            f"{path.stat().st_size / 1e6:.1f} MB of JSON: loaded in {loaded - began:.2f} s, "
            f"rendered in {done - loaded:.2f} s; the page is {len(page.encode()) / 1e6:.2f} MB"
        )
    if options.out:
        options.out.write_text(page, encoding="utf-8")


def made(cells: int, samples: int) -> Record:
    """A record with the parts of a model of 32 layers, a vanilla and methods under two policies."""
    chance = random.Random(0)
    return Record(
        schema=SCHEMA,
        tpprof="0",
        created="2026-01-01T00:00:00+00:00",
        command="tpprof compare",
        complete=True,
        environment=Environment(device="a machine"),
        model=ModelInfo(
            name="made",
            architecture="llava-next",
            source="random weights",
            reason="chosen",
            parameters=7_000_000_000,
            layers=LAYERS,
            dtype="bfloat16",
            backend="sdpa",
        ),
        spec=RunSpec(),
        request=RequestInfo(
            before=35, visual=2880, after=25, batch=1, new_tokens=2, tiles=5, patches=576
        ),
        cells=[_cell(number, samples, chance) for number in range(cells)],
        processes=[Process(pid=1, started="2026-01-01T00:00:00+00:00", seconds=60.0)],
    )


def _cell(number: int, samples: int, chance: random.Random) -> Cell:
    vanilla = number == 0
    kept = 2880 if vanilla else 100 + 10 * number
    policy = "rows" if vanilla or number % 2 else "maps"
    share = (kept + 60) / 2940
    times = [0.02 if part.part == "layer" and not vanilla else 0.03 for part in PARTS]
    listed = []
    for round_ in range(samples):
        parts = [seconds * chance.uniform(0.97, 1.05) for seconds in times]
        listed.append(
            Sample(
                round=round_,
                turn=number,
                process=0,
                began=1.8e9 + round_ * 100 + number,
                latency=sum(parts) * 1.001,
                parts=parts,
            )
        )
    return Cell(
        method="vanilla" if vanilla else f"fastv:keep={kept}",
        name="vanilla" if vanilla else "fastv",
        attention=policy,
        reads_attention=not vanilla,
        visual_per_layer=[2880, 2880] + [kept] * (LAYERS - 2),
        tokens_per_layer=[2940, 2940] + [kept + 60] * (LAYERS - 2),
        kv_bytes_prefill=[1_000_000] * LAYERS,
        cost=[
            Cost(
                phase="prefill",
                part="layer",
                index=layer,
                operator="ffn",
                flops=int(1e12 * (1 if layer < 2 else share)),
                causal_flops=int(1e12 * share),
                read_bytes=10**9,
                written_bytes=10**8,
                launches=9,
            )
            for layer in range(LAYERS)
        ],
        memory=Memory(resident=2**34),
        activity=[
            Activity(phase=part.phase, part=part.part, index=part.index, operators=60)
            for part in PARTS
        ],
        parts=PARTS,
        samples=listed,
    )


if __name__ == "__main__":
    main()
