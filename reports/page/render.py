"""From records to one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..analysis.headline import Headline, headline_of
from ..analysis.run_view import RunView
from ..figures.canvas import style
from ..gate.verdicts import Gate
from ..record.schema import Record
from ..sanitize import visible
from ..text import sentences, side_by_side
from . import raw
from .blocks import Section
from .compared import compared
from .gated import gated
from .glossary import glossary
from .sections import build


@dataclass(frozen=True)
class Run:
    """One record as the template shows it."""

    name: str
    salt: str
    header: list[str]
    verdict: Headline
    warnings: list[str]
    sentences: list[str]
    sections: list[Section]
    raw: str
    file: str


def render(records: Sequence[Record], names: Sequence[str], gate: Gate | None = None) -> str:
    """The page for one record, or for several side by side; the same records give the same bytes.

    names: what each record is called, in the order of `records`. gate: its verdicts, above all
    others; a gate alone needs no record.
    """
    subjects = [RunView(record) for record in records]
    with style():
        runs = [
            _run(subject, name, f"r{number}")
            for number, (subject, name) in enumerate(zip(subjects, names, strict=True))
        ]
        compared_runs = [compared(subjects, names)] if len(runs) > 1 else []
        judged = [gated(gate)] if gate else []
        first = [*judged, *compared_runs]
        known = [pair for run in runs for pair in run.sections[-1].pairs]
        words = glossary(first, known=known)
    title = ", ".join(names) if len(runs) != 1 else records[0].model.name
    return _page(
        title or "regression gate",
        first,
        runs=runs,
        last=[words] if words.pairs else [],
        warnings=side_by_side.warnings(records, names) if len(runs) > 1 else [],
    )


def render_sections(title: str, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    """A page of these sections alone, and what their words mean."""
    return _page(title, sections, last=[glossary(sections)], warnings=warnings)


def _page(
    title: str,
    first: Sequence[Section],
    *,
    runs: Sequence[Run] = (),
    last: Sequence[Section] = (),
    warnings: Sequence[str] = (),
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template("page.html.j2").render(
        runs=runs,
        first=first,
        last=last,
        warnings=warnings,
        css=_source("page.css"),
        script=_source("page.js"),
        title=title,
    )


def _run(subject: RunView, name: str, salt: str) -> Run:
    record, listed = subject.record, subject.rows
    created = "".join(c for c in record.created[:19] if c.isalnum())
    return Run(
        name=name,
        salt=salt,
        header=[*sentences.header(record), *sentences.bounds(record)],
        verdict=headline_of(listed),
        warnings=subject.warnings,
        sentences=sentences.sentences(record, listed),
        sections=build(subject, salt),
        raw=raw.link(record),
        file=f"tpprof-{created or 'record'}.json.gz",
    )


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
