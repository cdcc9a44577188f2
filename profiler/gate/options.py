"""The options that say what a gate measures, once for all its commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ...reports.gate.rules import METRICS, Rules, split_level
from ...reports.gate.snapshot import Subject
from ..options import (
    BackendOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    ImageOption,
    KeepOption,
    LayoutOption,
    ModelOption,
    NewTokensOption,
    PluginOption,
    PoliciesOption,
    PromptOption,
    RuntimeOption,
    SeedOption,
    SizeOption,
    TextOption,
    VisualOption,
    fail,
    share,
    workload_of,
)

ToleranceOption = Annotated[
    str | None, typer.Option(help="A share for all metrics (5%), or latency=5%,decode=7%.")
]
MetricOption = Annotated[
    str | None, typer.Option(help="Comma-separated: latency, prefill, decode.")
]
PairsOption = Annotated[
    str | None, typer.Option(help="Process pairs after which is judged: 8,16,24.")
]
RequestsOption = Annotated[int | None, typer.Option(help="Timed requests of each process (10).")]
MethodsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[METHOD]...", help="Spec strings: fastv:keep=320")
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="The gate.toml that `tpprof gate init` writes.")
]
AcceptOption = Annotated[
    bool, typer.Option("--accept-counts", help="Counts that changed are meant: judge time alone.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all that was found.")]
JUnitOption = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page with the verdicts.")]
SummaryOption = Annotated[
    Path | None, typer.Option("--summary", help="Append Markdown ($GITHUB_STEP_SUMMARY).")
]


def subject_of(
    methods: MethodsArgument = None,
    model: ModelOption = None,
    keep: KeepOption = None,
    attention: PoliciesOption = "rows",
    image: ImageOption = None,
    image_size: SizeOption = "672x672",
    prompt: PromptOption = None,
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    runtime: RuntimeOption = "eager",
    plugin: PluginOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = "sdpa",
    seed: SeedOption = 0,
) -> Subject:
    """What the options name; vanilla where they name no method."""
    from ..workload import describe

    workload = workload_of(
        "pope", image, image_size, prompt, text_tokens, layout, visual_tokens, new_tokens,
        batch_size, seed,
    )  # fmt: skip
    return Subject(
        methods=methods or ["vanilla"], model=model or "tiny", device=device, dtype=dtype,
        backend=backend, attention=attention.split(","), runtimes=runtime.split(","), keep=keep,
        seed=seed, plugins=plugin or [], workload=describe(workload),
    )  # fmt: skip


def rules_of(
    config: Rules | None, tolerance: str | None, pairs: str | None, requests: int | None
) -> Rules:
    """The rules of gate.toml, or the usual ones, with what the options change."""
    rules = config or Rules()
    if tolerance is not None:
        rules.tolerance = {**rules.tolerance, **_tolerances(tolerance)}
    if pairs is not None:
        if not all(part.strip().isdigit() for part in pairs.split(",")):
            fail(f"--pairs {pairs!r} is not a list of counts, as 8,16,24")
        rules.looks = [int(part) for part in pairs.split(",")]
        rules.alphas = split_level(len(rules.looks))
    if requests is not None:
        rules.requests = requests
    return rules


def _tolerances(text: str) -> dict[str, float]:
    if "=" not in text:
        return dict.fromkeys(METRICS, share("--tolerance", text))
    parts = [part.partition("=") for part in text.split(",")]
    return {metric.strip(): share("--tolerance", value) for metric, _, value in parts}


def names_a_subject(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the parameters of `subject_of` in the place of its parameter `subject`, which
    it is then called with; None where not one of them was given."""
    shared = inspect.signature(subject_of, eval_str=True).parameters
    own = dict(inspect.signature(command, eval_str=True).parameters)
    own.pop("subject")

    @functools.wraps(command)
    def run(**given: Any) -> None:
        named = {name: given.pop(name) for name in shared}
        # An argument that is repeated comes as an empty list where there is none.
        bare = all((named[name] or None) == (p.default or None) for name, p in shared.items())
        command(subject=None if bare else subject_of(**named), **given)

    arguments = [p for p in own.values() if p.default is p.empty]
    options = [p for p in own.values() if p.default is not p.empty]
    parameters = [
        p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for p in (*arguments, *shared.values(), *options)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
