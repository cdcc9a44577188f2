"""A chart as an SVG element for a page: small, without ids of its own, colours as CSS variables."""

from __future__ import annotations

import html
import io
import re

from ..sanitize import visible
from .canvas import VARIABLES, Chart


def svg(chart: Chart, salt: str) -> str:
    """The chart as an SVG element for a page; `salt` keeps its ids apart from other charts'."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        chart.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), chart)


def _for_page(text: str, chart: Chart) -> str:
    """matplotlib's SVG without its head, its own ids and fonts; colours as variables.

    Only tags are changed: names that look like style or colours stand in texts, and stay.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)
    pieces = re.split(r"(<[^>]*>)", text)  # text, tag, text, ...: < and > are escaped elsewhere
    viewed = re.search(r'viewBox="([^"]*)"', pieces[1])
    assert viewed is not None
    pieces[1] = (
        f'<svg viewBox="{viewed[1]}" role="img" aria-label="{html.escape(visible(chart.about))}">'
    )
    pieces[3::2] = [_tag(tag, chart.tips) for tag in pieces[3::2]]
    return re.sub(r"\n\s*", "\n", re.sub(_NO_XML, "", "".join(pieces)))


def _tag(tag: str, tips: dict[str, str]) -> str:
    """A tag as the page has it; what is to be hovered over is followed by its title."""
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (\d+ )?([\d.]+px) [^;\"]*", _without_family, tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    for colour, name in VARIABLES.items():
        tag = tag.replace(f": {colour}", f": var(--{name})")
    tag = re.sub(
        r'\b(d|x|y|transform|width|height|points)="([^"]*)"',
        lambda found: f'{found[1]}="{re.sub(_LONG, _rounded, found[2])}"',
        tag,
    )
    tag = tag.replace("xlink:href", "href")
    return re.sub(r'<g id="([^"]*)"([^>]*)>', lambda found: _group(found, tips), tag)


_NO_XML = "[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]"
_LONG = r"-?\d+\.\d{2,}"


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _without_family(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1].strip()}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}"


def _group(found: re.Match[str], tips: dict[str, str]) -> str:
    """A group without its id; what is to be hovered over becomes its title."""
    if found[1] not in tips:
        return f"<g{found[2]}>"
    return f'<g class="tip"{found[2]}><title>{html.escape(visible(tips[found[1]]))}</title>'
