"""Which method runs on which architecture, layout and attention backend: the table of the docs.

`python -m tpprof.profiler.authoring.support` writes it anew. Nothing runs: plans alone say it.
"""

from __future__ import annotations

from pathlib import Path

from ...methods import UnsupportedError, names, parse, with_keep
from ...methods.contract.plan import Entering, Leaving, Plan, Projected, Tower
from ...methods.contract.plan_checks import plan_for
from ..models.geometry import request
from .micro import CASES, MICRO, SIZE, case_name

PAGE = Path(__file__).resolve().parents[2] / "docs/methods.md"
BEGIN, END = "<!-- support -->\n", "<!-- end of support -->\n"
SITES = {Tower: "tower", Projected: "before the decoder", Entering: "decoder", Leaving: "decoder"}
BIASED = "sdpa, sdpa-efficient, eager"


def table() -> str:
    """The table in Markdown, and below it why a method cannot run somewhere."""
    headings = [case_name(*case) for case in CASES]
    lines = [
        f"| method | acts in | {' | '.join(headings)} | backends |",
        f"|---|---|{'---|' * len(headings)}---|",
    ]
    reasons: list[str] = []
    for name in names():
        plans = [_plan(name, *case) for case in CASES]
        made = [plan for plan in plans if isinstance(plan, Plan)]
        cells = []
        for plan in plans:
            if isinstance(plan, Plan):
                cells.append("yes")
                continue
            if plan not in reasons:
                reasons.append(plan)
            cells.append(f"no ({reasons.index(plan) + 1})")
        backends = BIASED if any(plan.proportional for plan in made) else "all"
        lines.append(f"| `{name}` | {_sites(made)} | {' | '.join(cells)} | {backends} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _plan(name: str, architecture: str, layout: str) -> Plan | str:
    """The plan of a method by its defaults, or of half the tokens; why there is none."""
    asked = request(MICRO[architecture], before=35, after=25, size=SIZE, layout=layout)  # type: ignore[arg-type]
    try:
        return plan_for(with_keep(parse(name), "1/2"), asked)
    except UnsupportedError as error:
        return str(error)


def _sites(plans: list[Plan]) -> str:
    """Where a method acts, on any architecture."""
    acting = {SITES[type(stage.site)] for plan in plans for stage in plan.stages}
    return ", ".join(site for site in dict.fromkeys(SITES.values()) if site in acting) or "-"


def page() -> str:
    """The page of the docs with the table as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
