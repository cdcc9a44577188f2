"""The commands that measure no request: plan one, and calibrate the device."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import (
    BatchOption,
    ConventionOption,
    Format,
    FormatOption,
    ForMemoryOption,
    ForSpeedupOption,
    KeepOption,
    LayoutOption,
    Methods,
    ModelOption,
    NewTokensOption,
    PlanDeviceOption,
    PlanDtypeOption,
    PluginOption,
    SizeOption,
    SweepOption,
    TextOption,
    VisualOption,
    wanted_of,
    workload_of,
)


def flops(
    methods: Methods,
    model: ModelOption = "llava-next-7b",
    keep: KeepOption = None,
    attention: Annotated[str, typer.Option(help="rows, maps or published.")] = "rows",
    image_size: SizeOption = "672x672",
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    device: PlanDeviceOption = None,
    dtype: PlanDtypeOption = None,
    sweep: SweepOption = None,
    for_speedup: ForSpeedupOption = None,
    for_memory: ForMemoryOption = None,
    convention: ConventionOption = None,
    plugin: PluginOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Plan tokens, FLOPs, bytes, memory and the least time, without GPU or weights."""
    from ..methods.contract.plugins import load_plugins
    from .printing import known

    known(format_, "flops", [Format.long])
    load_plugins(plugin or [])
    settings = workload_of(
        "pope", None, image_size, None, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, 0,
    )  # fmt: skip
    from . import calibrate, planning
    from .cost.conventions import convention as named_convention
    from .plan_table import show

    conventions = [named_convention(name) for name in convention.split(",")] if convention else []
    peaks = calibrate.named(device) if device else None
    on_cpu = peaks is not None and peaks.threads is not None
    planner = planning.Planner(
        model or "", settings, attention=attention, peaks=peaks, conventions=conventions,
        dtype=dtype or ("float32" if on_cpu else "bfloat16"),
    )  # fmt: skip
    wanted = wanted_of(sweep, for_speedup, for_memory)
    planned = planner.table(methods, keep, wanted)
    show(planned, format_.value, peaks, conventions)
    raise typer.Exit(int(not all(row.met for row in planned)))


def calibrate_device(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure what this device can do at best, for the roofline; kept for later runs."""
    from .calibration_table import show
    from .printing import known

    known(format_, "calibrate", [Format.long])
    show(device, format_.value)
