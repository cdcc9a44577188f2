"""`tpprof methods` and `tpprof models`: what exists."""

from __future__ import annotations

from .options import PluginOption


def methods(plugin: PluginOption = None) -> None:
    """List the pruning methods with their papers and knobs."""
    from ...methods.contract.plugins import load_plugins

    load_plugins(plugin or [])
    from ...methods import method_class, names

    for name in names():
        cls = method_class(name)
        print(f"{name}\n    {cls.summary()}")
        for label in ("Paper", "Code"):
            if reference := cls.reference(label):
                print(f"    {label}: {reference}")
        for knob in cls.knobs():
            default = "auto" if knob.default is None else knob.default
            print(f"      {knob.name}={default}  {knob.metadata.get('about', '')}")
        print()


def models() -> None:
    """List the model shapes."""
    from ..models.shapes import SHAPES

    for shape in SHAPES.values():
        size = shape.parameters / 1e6
        text = f"{size / 1000:.1f} B" if size >= 1000 else f"{size:.0f} M"
        print(f"{shape.name:15} {shape.architecture:11} {text:>7} parameters  {shape.about}")
    print("\nalso: a checkpoint folder or a hub id of one of these architectures")
