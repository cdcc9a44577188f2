"""What a user should know before anything is measured."""

from __future__ import annotations

from micro_models import SIZE, load

from tpprof.methods import parse
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.run.equalize import unequal
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Cells, RunSpec, Workload

WORKLOAD = Workload(image_size=SIZE)


def test_what_is_not_equalized_is_said() -> None:
    prepare = Preparation(load("llava"), WORKLOAD)
    specs = ["vanilla", "fastv", "mustdrop:similarity=0.8", "fastervlm:keep=1/2+fastv:keep=1/2"]
    assert unequal([parse(spec) for spec in specs], prepare) == [
        "--equalize: mustdrop:similarity=0.8 stays as it is, for only the data tells its counts",
        "--equalize: fastervlm:keep=1/2+fastv:keep=1/2 stays as it is, for it has no budget",
    ]


def test_what_cannot_run_is_said_once_and_at_once() -> None:
    methods = ("fastv", "globalcom2", "fastv:keep=999")
    cells = Cells(methods=methods, runtime=("eager", "graph"), attention=("rows", "maps"))
    comparison = Comparison(RunSpec(cells=cells, workload=WORKLOAD), model=load("llava"))
    told = [note.partition(": ")[2].partition(": ")[0] for note in comparison.notes]
    assert all(note.startswith("not measured: ") for note in comparison.notes)
    assert told == ["globalcom2", "fastv:keep=999"]
