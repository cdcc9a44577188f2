"""Does anything beat its floor? Calibrates this device and measures models, methods, policies and
dtypes; prints for every phase the least that measured time over floor came to. Below 1 the floor
is wrong: exit code 1.
"""

from __future__ import annotations

import argparse

import tpprof
from tpprof.profiler.machine.calibration import calibrate
from tpprof.reports import units
from tpprof.reports.analysis.phases import PhaseRow, phase_rows
from tpprof.reports.record.labels import name

METHODS = ("fastv", "sparsevlm", "mustdrop", "pooling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="tiny-llava,tiny-qwen2-vl,tiny")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    beaten = 0
    for dtype in options.dtypes.split(","):
        for shape in options.models.split(","):
            model = tpprof.load(shape, device=options.device, dtype=dtype)
            calibrate(model.device)
            record = tpprof.compare(
                METHODS, model=model, attention=("rows", "maps"), rounds=options.rounds
            )
            found = [row for row in phase_rows(record) if row.over_floor is not None]
            beaten += show(f"{shape}, {dtype}, {model.device}", found)
    raise SystemExit(int(beaten > 0))


def show(title: str, found: list[PhaseRow]) -> int:
    """One line per phase: the cell that came nearest to its floor. Returns how many beat it."""
    print(title)
    for phase in dict.fromkeys(row.phase for row in found):
        rows = [row for row in found if row.phase == phase]
        nearest = min(rows, key=lambda row: row.over_floor or 0.0)
        print(
            f"  {phase:8} {units.times(nearest.over_floor):>8} of its floor: {name(nearest.cell)}"
        )
    return sum((row.over_floor or 0.0) < 1 for row in found)


if __name__ == "__main__":
    main()
