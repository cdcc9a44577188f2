"""`tpprof methods` and `tpprof models`: what exists."""

from __future__ import annotations

import textwrap
from dataclasses import Field
from typing import Annotated, Any

import typer

from ...methods.contract.method import BOUNDS
from ...reports import units
from ...reports.sanitize import one_line, say
from .options import PluginOption
from .supervised import guarded

WIDTH, BULLET, INDENT = 100, "    - ", "      "


@guarded
def methods(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="METHOD...", help="Of these alone; else of all.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """List the pruning methods with their papers and knobs, and where they depart from them."""
    from ...methods.contract.plugins import load_plugins

    for note in load_plugins(plugin or []):
        say(note)
    from ...methods import method_class, names

    for cls in [method_class(wanted) for wanted in name or names()]:
        print(f"{one_line(cls.name)}\n    {one_line(cls.summary())}")
        if cls.video:
            print("    For videos alone: --video or --frames")
        for label in ("Paper", "Code"):
            if reference := cls.reference(label):
                print(f"    {label}: {one_line(reference)}")
        for knob in cls.knobs():
            default = "auto" if knob.default is None else knob.default
            about = knob.metadata.get("about", "") + bounds(knob)
            print(one_line(f"      {knob.name}={default}  {about}"))
        for departure in cls.departures():
            text = one_line(departure)
            print(textwrap.fill(text, WIDTH, initial_indent=BULLET, subsequent_indent=INDENT))
        print()


def bounds(knob: Field[Any]) -> str:
    """What a knob may be, behind what it is; nothing where any value of its type will do."""
    least, most = (knob.metadata.get(bound) for bound in BOUNDS)
    if least is None and most is None:
        return ""
    if most is None:
        return f" (from {least:g})"
    return f" (up to {most:g})" if least is None else f" {units.interval(least, most, 'g')}"


def models() -> None:
    """List the model shapes, and the trained models that come with tpprof."""
    from ..models.checkpoint.embedded import EMBEDDED
    from ..models.registry import known_shapes

    named = known_shapes()
    listed = [(s.name, s.architecture.name, s.parameters, s.about) for s in named.values()]
    listed += [(name, m.architecture, m.parameters, m.about) for name, m in EMBEDDED.items()]
    for name, architecture, parameters, about in listed:
        size = parameters / 1e6
        text = f"{size / 1000:.1f} B" if size >= 1000 else f"{size:.0f} M"
        print(f"{name:20} {architecture:15} {text:>7} parameters  {about}")
    print("\nalso: a checkpoint folder or a hub id of one of these architectures")
