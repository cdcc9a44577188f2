"""What the words of a page mean: its columns and its causes say it themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..analysis.explanation import CAUSES, ENDS, STEPS
from ..text.cells import CELL
from .blocks import Section, TableBlock

TERMS = {
    "cell": CELL,
    "rounds": "A round is one sample of every cell, in balanced order; with --isolate one process "
    "of every cell. The unit of all intervals.",
    "±": "Half the width of the 95 % interval over the median. From fewer than six rounds there is "
    "none.",
    "pruning": "Time of scoring, selecting, moving, merging and compressing tokens, wherever.",
    "suspect samples": "Throttled to lower clocks, beside another process on the GPU, or with an "
    "allocation or a compilation in their window. They are kept and count.",
    "roof": "The most work per second that the device allows: the lesser of its peak and its "
    "bandwidth times the work per byte.",
    "offset": "How far kept tokens lie to the end: mean of their relative positions (0 first, 1 "
    "last) less 0.5, times 2; 0 is even, +1 all at the end.",
    "divergence": "Jensen-Shannon divergence, in bits, of the histogram of kept tokens over 32 "
    "bins (fewer of fewer tokens) from the even one; 0 is even, 1 the most.",
    "by chance": "The divergence that an even random choice of as many tokens comes to on average "
    "(hypergeometric, exact).",
    "n/a": "Not measured or not known; never zero.",
}
"""Words that head no column and are no cause; explained where the page says them."""


def glossary(
    sections: Sequence[Section],
    said: Iterable[str] = (),
    known: Iterable[tuple[str, str]] = (),
) -> Section:
    """The words of these sections, and of what else is `said` on the page, but for those that are
    explained already."""
    entries = list(known)
    found: dict[str, list[str]] = {}
    for term, about in [*_shown(sections), *_declared(sections, said)]:
        if about and (term, about) not in entries:
            entries.append((term, about))
            found.setdefault(term, []).append(about)
    pairs = [(term, " ".join(abouts)) for term, abouts in found.items()]
    pairs.sort(key=lambda pair: pair[0].casefold())
    return Section(id="glossary", title="What the words mean", pairs=pairs)


def cause_terms(names: Iterable[str]) -> list[tuple[str, str]]:
    """What a waterfall begins and ends with, and its causes, in their own words."""
    words = {**STEPS, **CAUSES, **ENDS}
    return [(name, _sentence(words[name])) for name in (*ENDS, *names) if name in words]


def _shown(sections: Sequence[Section]) -> Iterator[tuple[str, str]]:
    for section in sections:
        for table in _tables(section):
            yield from ((heading.term, heading.about) for heading in table.headings)
        yield from section.terms


def _declared(sections: Sequence[Section], said: Iterable[str]) -> Iterator[tuple[str, str]]:
    text = "\n".join([*said, *(part for section in sections for part in _texts(section))])
    for term, about in TERMS.items():
        pattern = re.escape(term)
        if term[0].isalpha():
            pattern = rf"\b{pattern}\b"
        if re.search(pattern, text):
            yield term, about


def _texts(section: Section) -> Iterator[str]:
    """All that a section says."""
    yield from (section.title, section.headline, section.lead, *section.lines, *section.notes)
    for figure in section.figures:
        yield from (re.sub(r"<[^>]*>", "\n", str(figure.picture)), figure.title, figure.note)
    for name, value in section.pairs:
        yield from (name, value)
    for table in _tables(section):
        yield from (table.caption, *(heading.text for heading in table.headings))
        yield from (field.text for line in table.lines for field in line)


def _tables(section: Section) -> list[TableBlock]:
    return [*section.tables, *section.folded]


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
