"""`sweep` and `trend`: many runs, measured or read as one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...reports.outputs import Output, require_folder
from ...reports.record.spec import (
    AccuracySpec,
    Cells,
    Extras,
    ModelSpec,
    RunSpec,
    Stopping,
    Workload,
)
from ...reports.sanitize import say
from ...reports.sweep.grid import AXES, journal_of
from .compare import ConfigOption, ResumeOption
from .options import SHOWN, Format, FormatOption, HtmlOption, Typed, fail, takes
from .output import OverwriteOption, WideOption, pages, print_table, require_format
from .supervised import guarded

if TYPE_CHECKING:
    from ...reports.sweep.grid import Sweep

SweepOutOption = Annotated[
    Path, typer.Option("--out", help="Folder of the sweep.", rich_help_panel=SHOWN)
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Spread comparisons by Ray: local, auto (the cluster here), or an address.",
        rich_help_panel="What runs",
    ),
]
PerHostOption = Annotated[
    int,
    typer.Option(
        "--per-host",
        min=1,
        help="Comparisons at once on a host (--ray).",
        rich_help_panel="What runs",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="List the cells with planned memory and time; nothing runs.",
        rich_help_panel="How long",
    ),
]


@takes(Cells, ModelSpec, Workload, Stopping, Extras, AccuracySpec, several=AXES)
@guarded
def sweep(
    typed: Typed,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = False,
    ray: RayOption = None,
    per_host: PerHostOption = 1,
    out: SweepOutOption = Path("runs/sweep"),
    html: HtmlOption = None,
    format_: FormatOption = Format.table,
    wide: WideOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure methods and budgets over a grid of models and requests, one comparison for each of
    these; what cannot be measured is a row with its reason."""
    from ...methods import load_plugins
    from ...reports.sweep.tables import plan_table, size_of
    from ..sweep.expansion import expand, plan
    from ..sweep.on_ray import Cluster
    from ..sweep.run import begin, run
    from .output import require_outputs
    from .progress import progress

    require_format(format_, "sweep", [Format.long])
    spec, axes = _asked(typed, config)
    for note in load_plugins(spec.cells.plugin):
        say(note)
    grid = expand(spec, axes, shlex.join(["tpprof", *sys.argv[1:]]))
    plan(grid)
    if dry_run:
        print_table(plan_table(grid, spec.stopping.least), format_, wide=wide)
        return
    require_folder("--out", out)
    require_outputs([*pages(html), *_journal(out)], [config], overwrite=overwrite)
    journal = begin(grid, out, resume=resume)
    say(f"measuring {size_of(grid)} into {out}")
    with progress() as tell:
        cluster = Cluster(ray, per_host) if ray is not None else None
        done, code = run(grid, out, journal, tell, cluster=cluster)
    show(done, out, html, format_, wide=wide, overwrite=overwrite)
    raise typer.Exit(code)


def show(
    sweep: Sweep, folder: Path, html: Path | None, format_: Format, *, wide: bool, overwrite: bool
) -> None:
    """Print a sweep, and write its page."""
    from ...reports import outputs
    from ...reports.sweep.rows import grid_rows
    from ...reports.sweep.tables import best_table, grid_table

    listed = grid_rows(sweep)
    print_table(grid_table(sweep, listed), format_, wide=wide)
    best = best_table(sweep, listed)
    if best.rows and format_ in (Format.table, Format.markdown):
        print_table(best, format_, wide=wide)
    if html is not None:
        from ...reports.sweep.page import render_sweep

        page = render_sweep(sweep, folder.name or "sweep").encode(errors="replace")
        outputs.write(html, page, "page", overwrite=overwrite)
        say(f"report: {html}")
    if not sweep.complete:
        say(f"{folder} holds what was measured until now; --resume goes on with it")


def _asked(typed: Typed, config: Path | None) -> tuple[RunSpec, dict[str, Any]]:
    """What is to be run, and over which values; ends the program where that is nothing."""
    from ...reports.record.spec_files import load_axes

    axes: dict[str, Any] = {}
    if config is not None:
        earlier, axes = load_axes(config)
        spec = typed.over(earlier)
    else:
        spec = typed.alone(RunSpec)
    axes = {**{name: _values(name, listed) for name, listed in axes.items()}, **typed.several}
    if not spec.cells.methods:
        fail("name a METHOD (fastv), as `tpprof methods` lists them")
    if not (spec.model.name or axes.get("model")):
        fail("name a model: --model tiny (several: a,b), as `tpprof models` lists them")
    return spec, axes


def _values(name: str, listed: list[Any]) -> tuple[Any, ...]:
    """The values of an axis as a file has them: budgets are texts, sizes pairs."""
    if name == "keep":
        return tuple(map(str, listed))
    return tuple(tuple(value) if isinstance(value, list) else value for value in listed)


def _journal(out: Path) -> list[Output]:
    return [Output("the journal of --out", journal_of(out), "journal")]


def trend(
    records: Annotated[
        list[Path], typer.Argument(help="Records of one machine, or folders of them.")
    ],
    method: Annotated[
        str, typer.Option(help="A spec string (fastv:keep=320), or a cell (fastv with rows).")
    ] = "vanilla",
    of: Annotated[
        Literal["latency", "speedup"], typer.Option("--of", help="latency or speedup.")
    ] = "latency",
    format_: FormatOption = Format.table,
    wide: WideOption = False,
) -> None:
    """Show a method over commits and dates, and where its times step."""
    from ...reports.record.base import RecordError
    from ...reports.record.files import load
    from ...reports.sanitize import say
    from ...reports.sweep.trend import series, trend_table
    from .output import print_table, require_format

    require_format(format_, "trend", [Format.long])
    paths = [
        found
        for path in records
        for found in (sorted(path.glob("*.json")) if path.is_dir() else [path])
    ]
    for folder in (path for path in records if path.is_dir()):
        if not any(path.parent == folder for path in paths):
            fail(f"{folder} holds no record; `tpprof compare` makes them")
    loaded, names = [], []
    for path in paths:
        try:
            loaded.append(load(path))
            names.append(path.name)
        except RecordError as error:
            if path in records:
                raise
            say(f"! left out: {error}")  # a folder may hold other files
    if not loaded:
        fail("no record there; `tpprof compare` makes them")
    print_table(trend_table(series(loaded, names, method, of)), format_, wide=wide)
