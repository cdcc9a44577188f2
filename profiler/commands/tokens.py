"""`tpprof tokens`: which visual tokens methods keep of pictures, and how unevenly."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...reports.analysis.position_bias import by_chance, divergence, offset
from ...reports.figures import kept
from ...reports.figures.canvas import save, style
from ...reports.outputs import require_folder
from ...reports.record.kept import Kept, Picture, pruned
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.sanitize import say
from ...reports.text.cells import METHOD
from ...reports.text.table import Column, Table, for_programs
from ...reports.units import NA
from ..models.model import RANDOM_WEIGHTS
from .options import Format, FormatOption, Typed, fail, takes
from .output import OverwriteOption, WideOption, print_table
from .supervised import guarded

if TYPE_CHECKING:
    from ..run.kept_tokens import Seen

OMITTED = (
    "equalize",
    "tensor_parallel",
    "pipeline",
    "callable",
    "python",
    "runtime",
    "backend",
    "image",
    "text_tokens",
    "visual_tokens",
    "new_tokens",
    "batch_size",
    "preprocess",
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
NOTE = (
    "offset: 2 * (mean(i / (n - 1)) - 1/2) over kept tokens i of n, 0 is even, +1 all at the end. "
    "divergence: Jensen-Shannon, of the histogram over 32 parts of the token index (fewer of fewer "
    "tokens) from an even one; 0 is even, 1 the most. by chance: what an even random choice of as "
    "many tokens comes to on average."
)
RANDOM = "The weights are random, and look at nothing: give a checkpoint, or --model seer."


@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
@guarded
def tokens(
    typed: Typed,
    image: ImagesOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("runs/tokens"),
    format_: FormatOption = Format.table,
    wide: WideOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw which visual tokens methods keep of pictures, and how unevenly; nothing is timed."""
    from . import output

    output.require_format(format_, "tokens", [Format.long])
    require_folder("--out", out)
    spec = typed.alone(Subject)
    if not spec.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
    from ..run.kept_tokens import TokenViewer

    viewer = TokenViewer(spec, images=image or [None])
    seen = viewer.seen()
    written = draw(seen, viewer.pictures, out, overwrite=overwrite)
    notes = [NOTE, RANDOM] if viewer.model.source == RANDOM_WEIGHTS else [NOTE]
    print_table(tokens_table(seen, notes), format_, wide=wide)
    say(f"figures: {len(written)} in {out}")


@dataclass(frozen=True)
class Pruned:
    """What a method keeps from a layer on, of each prompt. pictures: as `Seen`, of each prompt."""

    method: str
    layer: int
    entries: list[Kept]
    pictures: list[tuple[int, ...]]

    def mean(self, count: Callable[[Kept], int]) -> float:
        """Over prompts."""
        return sum(map(count, self.entries)) / len(self.entries)

    @property
    def by_picture(self) -> list[float]:
        """Tokens kept of each picture of a prompt, the mean over prompts; [] of one picture."""
        counts = [
            _of_each(entry.tokens, sizes)
            for entry, sizes in zip(self.entries, self.pictures, strict=True)
        ]
        return [sum(each) / len(counts) for each in zip(*counts, strict=True)]


def _of_each(tokens: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """How many tokens lie in each of pictures of these sizes, one behind another."""
    ends = zip(itertools.accumulate(sizes), sizes, strict=True)
    return [sum(end - size <= token < end for token in tokens) for end, size in ends]


def tokens_table(seen: Sequence[Seen], notes: Sequence[str] = (NOTE,)) -> Table[Pruned]:
    """One row per method and prune, over all prompts."""
    stages: dict[tuple[str, int], Pruned] = {}
    for one in seen:
        for entry in pruned(one.kept):
            key = one.method, entry.layer
            row = stages.setdefault(key, Pruned(*key, [], []))
            row.entries.append(entry)
            row.pictures.append(one.pictures)
    rows = list(stages.values())
    return Table([*_what_stays(), *_how_unevenly()], rows, notes=list(notes))


def draw(
    seen: Sequence[Seen], pictures: Mapping[str, Picture], out: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write the histogram of all methods, and each method over each picture, as PNG and PDF."""
    last: dict[str, list[Kept]] = {}
    charts = []
    with style():
        for number, one in enumerate(seen):
            entries = pruned(one.kept)
            last.setdefault(one.method, []).extend(entries[-1:])
            if one.image in pictures:
                stem = Path(one.image).stem or "sample"
                name = f"kept-{number}-{_plain(one.method)}-{_plain(stem)}"
                charts.append(kept.over_picture(name, one.method, pictures[one.image], one.kept))
        charts.append(kept.positions(last))
        return [
            path
            for chart in charts
            if chart is not None
            for path in save(chart, out, overwrite=overwrite)
        ]


def _what_stays() -> list[Column[Pruned]]:
    def kept_tokens(row: Pruned) -> float:
        return row.mean(lambda entry: len(entry.tokens))

    def merged(row: Pruned) -> float:
        return row.mean(lambda entry: entry.merged)

    return [
        Column("method", lambda r: r.method, {"method": lambda r: r.method}, METHOD, "words"),
        Column(
            "from\nlayer",
            lambda r: str(r.layer),
            {"layer": lambda r: r.layer},
            "The first decoder layer that sees what is kept.",
        ),
        Column(
            "prompts",
            lambda r: str(len(r.entries)),
            {"prompts": lambda r: len(r.entries)},
            "How many prompts the row is about: one for each --image.",
        ),
        Column(
            "kept\ntokens",
            lambda r: f"{kept_tokens(r):,.0f}",
            {"kept": kept_tokens},
            "Visual tokens that stay: the mean over prompts.",
        ),
        Column(
            "of each\npicture",
            lambda r: ", ".join(f"{count:,.4g}" for count in r.by_picture) or NA,
            {"kept_by_picture": lambda r: r.by_picture},
            "The same for each picture, in their order, where a prompt holds several; merged "
            "tokens are of none.",
            optional=True,
        ),
        Column(
            "merged",
            lambda r: f"{merged(r):,.0f}",
            {"merged": merged},
            "Tokens that hold several: the mean over pictures.",
        ),
        for_programs("visual", lambda r: max(entry.visual for entry in r.entries)),
    ]


def _how_unevenly() -> list[Column[Pruned]]:
    return [
        Column(
            "offset",
            lambda r: _number(offset(r.entries), "+.3f"),
            {"offset": lambda r: offset(r.entries)},
            "Mean of the relative positions of kept tokens (0 first, 1 last) less 0.5, times 2.",
        ),
        Column(
            "divergence\nbit",
            lambda r: _number(divergence(r.entries), ".3f"),
            {"divergence_bits": lambda r: divergence(r.entries)},
            "Jensen-Shannon divergence of their histogram from the even one.",
        ),
        Column(
            "by chance\nbit",
            lambda r: _number(by_chance(r.entries), ".3f"),
            {"divergence_by_chance_bits": lambda r: by_chance(r.entries)},
            "The divergence of an even random choice of as many tokens, on average.",
        ),
    ]


def _number(value: float | None, form: str) -> str:
    return NA if value is None else format(value, form)


def _plain(text: str) -> str:
    """A part of a file's name, from any text."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "method"
