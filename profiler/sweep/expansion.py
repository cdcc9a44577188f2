"""A grid from a specification and the axes along which it varies; nothing runs."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...methods import InputError, Method, format_spec, parse
from ...reports.record.schema import Peaks
from ...reports.record.spec import OptionError, RunSpec, changed
from ...reports.sweep.grid import AXES, SCHEMA, Grid, GridBlock, GridCell
from ..accuracy.exam import set_exam
from ..cost.planning import Planner
from ..machine import calibration
from ..machine.environment import own_version

MOST_CELLS = 10_000
Axes = Mapping[str, Sequence[Any]]


def expand(spec: RunSpec, axes: Axes, command: str = "") -> Grid:
    """The grid of all values of `axes`, by keyword: a block for each combination, in which methods
    and budgets are compared; a value that is listed twice counts once. Where budgets are equalized,
    each is a block of its own.

    Raises OptionError for a value that an option cannot have, SpecError for a method that does not
    exist, InputError for a grid that is too large.
    """
    for name in axes:
        if name not in AXES:
            raise OptionError(name, f"is no axis of a sweep; known: {', '.join(AXES)}")
    budgets = axes.get("keep") or (spec.cells.keep,)
    apart = spec.cells.equalize
    outer = {name: _once(axes[name]) for name in AXES if name in axes and (apart or name != "keep")}
    blocks = []
    for values in itertools.product(*outer.values()):
        given = dict(zip(outer, values, strict=True))
        own = changed(spec, **given)
        cells = _cells(own.cells.methods, [own.cells.keep] if apart else budgets)
        if not apart:
            own = changed(own, methods=[cell.method for cell in cells], keep=None)
        named = {"model": own.model.name or "", **{name: _text(v) for name, v in given.items()}}
        blocks.append(GridBlock(spec=own, axes=named, cells=cells))
        if sum(len(block.cells) for block in blocks) > MOST_CELLS:
            raise InputError(f"the grid has more than {MOST_CELLS:,} cells: take fewer values")
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Grid(
        schema=SCHEMA, tpprof=own_version(), created=created, command=command, blocks=blocks
    )


def plan(grid: Grid) -> None:
    """Put into the grid what can be planned of it: peak memory, the least time where the device was
    calibrated, and why a cell or a whole block cannot be."""
    for block in grid.blocks:
        peaks = _peaks(block.spec.model.device)
        on_cpu = peaks is not None and peaks.threads is not None
        dtype = block.spec.model.dtype or ("float32" if on_cpu or not _has_gpu() else "bfloat16")
        try:
            planner = Planner(
                block.spec.model.name or "",
                block.spec.workload,
                attention=block.spec.cells.attention[0],
                dtype=dtype,
                peaks=peaks,
                tensor_parallel=block.spec.model.tensor_parallel,
                pipeline=block.spec.model.pipeline,
            )
            if block.spec.accuracy.accuracy:
                set_exam(block.spec.accuracy, block.spec.model.name)
        except (InputError, ValueError, OSError) as error:
            block.problem = error.as_flag if isinstance(error, OptionError) else str(error)
            continue
        for cell in block.cells:
            _plan(cell, planner)


def _plan(cell: GridCell, planner: Planner) -> None:
    try:
        row = planner.plan(parse(cell.method))
    except InputError as error:
        cell.problem = str(error).removeprefix(f"{cell.method}: ")
        return
    cell.peak_bytes, cell.floor_seconds = row.peak_bytes, row.floor_seconds


def _cells(methods: Iterable[str], budgets: Sequence[str | None]) -> list[GridCell]:
    """Each method with each budget, once; those that name their own, or have none, as they are."""
    found: dict[str, GridCell] = {}
    for base, keep in itertools.product(methods, budgets):
        method = parse(base, keep)
        name = format_spec(method)
        found.setdefault(name, GridCell(method=name, base=base, keep=_budget(method)))
    return list(found.values())


def _budget(method: Method) -> str | None:
    keep = getattr(method, "keep", None)
    return str(keep) if isinstance(keep, (int, Fraction)) else None


def _once(values: Sequence[Any]) -> list[Any]:
    """Each value once: what is named twice is measured once."""
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _text(value: Any) -> str:
    """A value of an axis; sizes of pictures as HEIGHTxWIDTH."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    nested = any(isinstance(part, (tuple, list)) for part in value)
    return (" and " if nested else "x").join(map(_text, value))


def _peaks(device: str | None) -> Peaks | None:
    """What a device of this machine can do, where it was calibrated."""
    kind = (device or ("cuda" if _has_gpu() else "cpu")).partition(":")[0]
    try:
        return calibration.named(kind)
    except InputError:
        return None


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
