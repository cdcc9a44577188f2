"""`tpprof tokens`: which visual tokens methods keep of pictures, and how unevenly."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...reports.analysis.position_bias import by_chance, divergence, offset
from ...reports.figures import kept
from ...reports.figures.canvas import save, style
from ...reports.record.kept import Kept, Picture, pruned
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.text import table
from ...reports.units import NA
from .options import Format, FormatOption, Typed, fail, takes
from .output import emit

if TYPE_CHECKING:
    from ..run.kept_tokens import Seen

OMITTED = (
    "equalize",
    "runtime",
    "backend",
    "image",
    "text_tokens",
    "visual_tokens",
    "new_tokens",
    "batch_size",
)
USUAL = {"attention": ("rows",), "new_tokens": 1}
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        help="Picture, once or more; default: matplotlib's sample.",
        rich_help_panel="The request",
    ),
]
HEADINGS = (
    "method",
    "from\nlayer",
    "pictures",
    "kept\ntokens",
    "merged",
    "offset",
    "divergence\nbit",
    "by chance\nbit",
)
NOTE = (
    "offset: 2 * (mean(i / (n - 1)) - 1/2) over kept tokens i of n, 0 is even, +1 all at the end. "
    "divergence: Jensen-Shannon, of the histogram over 32 parts of the token index (fewer of fewer "
    "tokens) from an even one; 0 is even, 1 the most. by chance: what an even random choice of as "
    "many tokens comes to on average. Random weights look at nothing: give a checkpoint."
)


@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
def tokens(
    typed: Typed,
    image: ImagesOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("runs/tokens"),
    format_: FormatOption = Format.table,
) -> None:
    """Draw which visual tokens methods keep of pictures, and how unevenly; nothing is timed."""
    from . import output

    output.require_format(format_, "tokens", [Format.long])
    output.require_writable(None, out)
    spec = typed.alone(Subject)
    if not spec.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
    from ..run.kept_tokens import TokenViewer

    viewer = TokenViewer(spec, images=image or [None])
    show(viewer.seen(), viewer.pictures, out, format_)


def show(seen: Sequence[Seen], pictures: Mapping[str, Picture], out: Path, format_: Format) -> None:
    """Print the bias of each method at each prune, and draw what it keeps."""
    rows = plain(seen)
    if format_ is Format.table:
        console = table.console()
        console.print(table.as_table(HEADINGS, _texts(rows)))
        console.print(NOTE, markup=False, highlight=False, style="dim", width=160)
    else:
        emit(format_, [], plain=lambda: rows, texts=lambda: (HEADINGS, _texts(rows)))
    written = draw(seen, pictures, out)
    print(f"figures: {len(written)} in {out}", file=sys.stderr)


def plain(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """One mapping per method and prune, over all pictures."""
    stages: dict[tuple[str, int], list[Kept]] = {}
    for one in seen:
        for entry in pruned(one.kept):
            stages.setdefault((one.method, entry.layer), []).append(entry)
    return [
        {
            "method": method,
            "layer": layer,
            "pictures": len(entries),
            "kept": sum(len(entry.tokens) for entry in entries) / len(entries),
            "merged": sum(entry.merged for entry in entries) / len(entries),
            "visual": max(entry.visual for entry in entries),
            "offset": offset(entries),
            "divergence_bits": divergence(entries),
            "divergence_by_chance_bits": by_chance(entries),
        }
        for (method, layer), entries in stages.items()
    ]


def draw(seen: Sequence[Seen], pictures: Mapping[str, Picture], out: Path) -> list[Path]:
    """Write the histogram of all methods, and each method over each picture, as PNG and PDF."""
    last: dict[str, list[Kept]] = {}
    charts = []
    out.mkdir(parents=True, exist_ok=True)
    with style():
        for number, one in enumerate(seen):
            entries = pruned(one.kept)
            last.setdefault(one.method, []).extend(entries[-1:])
            if one.image in pictures:
                stem = Path(one.image).stem or "sample"
                name = f"kept-{number}-{_plain(one.method)}-{_plain(stem)}"
                charts.append(kept.over_picture(name, one.method, pictures[one.image], one.kept))
        charts.append(kept.positions(last))
        return [path for chart in charts if chart is not None for path in save(chart, out)]


def _texts(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            row["method"],
            str(row["layer"]),
            str(row["pictures"]),
            f"{row['kept']:,.0f}",
            f"{row['merged']:,.0f}",
            _number(row["offset"], "+.3f"),
            _number(row["divergence_bits"], ".3f"),
            _number(row["divergence_by_chance_bits"], ".3f"),
        ]
        for row in rows
    ]


def _number(value: float | None, form: str) -> str:
    return NA if value is None else format(value, form)


def _plain(text: str) -> str:
    """A part of a file's name, from any text."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "method"
