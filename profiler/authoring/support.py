"""Which method runs on which architecture, layout and attention backend: the table of the docs.

`python -m tpprof.profiler.authoring.support` writes it anew. Nothing runs: plans alone say it.
"""

from __future__ import annotations

from pathlib import Path

from ...methods import Method, Request, UnsupportedError, method_class, names, parse
from ...methods.contract.plan import Entering, Leaving, Plan, Projected, Tower
from ...reports.record.spec import Layout
from .micro import affordable, case_name, every_case, planned_on

PAGE = Path(__file__).resolve().parents[2] / "docs/methods.md"
BEGIN, END = "<!-- support -->\n", "<!-- end of support -->\n"
SITES = {Tower: "tower", Projected: "before the decoder", Entering: "decoder", Leaving: "decoder"}
BIASED = "sdpa, sdpa-efficient, eager"


def table() -> str:
    """The table in Markdown, and below it why a method cannot run somewhere."""
    headings = [case_name(*case) for case in every_case()]
    lines = [
        f"| method | acts in | {' | '.join(headings)} | backends |",
        f"|---|---|{'---|' * len(headings)}---|",
    ]
    reasons: list[str] = []
    home = Method.__module__.partition(".contract")[0]
    ours = [name for name in names() if method_class(name).__module__.startswith(f"{home}.")]
    for name in ours:  # not those of plug-ins
        plans = [_plan(name, *case) for case in every_case()]
        made = [plan for plan in plans if isinstance(plan, tuple)]
        cells = []
        for plan in plans:
            if isinstance(plan, tuple):
                cells.append("yes")
                continue
            if plan not in reasons:
                reasons.append(plan)
            cells.append(f"no ({reasons.index(plan) + 1})")
        sites = "video: " * method_class(name).video + _sites(made)
        backends = BIASED if any(plan.proportional for plan, _ in made) else "all"
        lines.append(f"| `{name}` | {sites} | {' | '.join(cells)} | {backends} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _plan(name: str, architecture: str, layout: Layout) -> tuple[Plan, Request] | str:
    """The plan of a method, and the request that it is given; why there is none."""
    try:
        return planned_on(affordable(parse(name)), architecture, layout)
    except UnsupportedError as error:
        return str(error)


def _sites(made: list[tuple[Plan, Request]]) -> str:
    """Where a method acts, on any architecture."""
    acting = {SITES[type(stage.site)] for plan, _ in made for stage in plan.stages}
    sites = [site for site in dict.fromkeys(SITES.values()) if site in acting]
    resized = any(request.whole is not None for _, request in made)
    return ", ".join(["picture"] * resized + sites) or "-"


def page() -> str:
    """The page of the docs with the table as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
