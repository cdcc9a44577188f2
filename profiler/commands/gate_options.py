"""The options that say what a gate measures, once for all its commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ...reports.gate.baseline import Subject
from ...reports.gate.rules import METRICS, Rules, check, split_level
from .options import (
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


@dataclass(frozen=True)
class Named:
    """What a command line names of a subject. given: the options that were typed."""

    subject: Subject
    given: frozenset[str]

    def whole(self) -> Subject:
        """The subject that the options name by themselves; paths are absolute."""
        from ..gate import subject as subjects

        if not self.subject.methods:
            fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
        return subjects.rooted(self.subject, Path())

    def over(self, earlier: Subject, folder: Path) -> Subject:
        """`earlier`, whose paths lead from `folder`, but for what was typed; paths are absolute."""
        from ..gate import subject as subjects

        ours, theirs = subjects.rooted(self.subject, Path()), subjects.rooted(earlier, folder)
        changed: dict[str, Any] = {
            field: getattr(ours, field) for option, field in FIELDS.items() if option in self.given
        }
        workload = dict(theirs.workload)
        for option, key in WORKLOAD.items():
            if option in self.given:
                workload[key] = ours.workload.get(key)
                workload.pop(RIVALS.get(key, ""), None)
        changed["workload"] = workload
        return msgspec.structs.replace(theirs, **changed)


FIELDS = {
    "methods": "methods",
    "model": "model",
    "keep": "keep",
    "attention": "attention",
    "runtime": "runtimes",
    "plugin": "plugins",
    "device": "device",
    "dtype": "dtype",
    "backend": "backend",
    "seed": "seed",
}
WORKLOAD = {
    "image": "image",
    "image_size": "size",
    "prompt": "prompt",
    "text_tokens": "text_tokens",
    "layout": "layout",
    "visual_tokens": "visual_tokens",
    "new_tokens": "new_tokens",
    "batch_size": "batch_size",
    "seed": "seed",
}
"""Where an option goes."""
RIVALS = {
    "image": "visual_tokens",
    "visual_tokens": "image",
    "prompt": "text_tokens",
    "text_tokens": "prompt",
}
"""What a part of the workload takes the place of."""
MOST_LOOKS = 10


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
    """What the options name."""
    from ..workload import describe

    workload = workload_of(
        "pope",
        image,
        image_size,
        prompt,
        text_tokens,
        layout,
        visual_tokens,
        new_tokens,
        batch_size,
        seed,
    )
    return Subject(
        methods=methods or [],
        model=model or "tiny",
        device=device,
        dtype=dtype,
        backend=backend,
        attention=attention.split(","),
        runtimes=runtime.split(","),
        keep=keep,
        seed=seed,
        plugins=plugin or [],
        workload=describe(workload),
    )


def rules_of(
    earlier: Rules | None,
    tolerance: str | None = None,
    metric: str | None = None,
    pairs: str | None = None,
    requests: int | None = None,
) -> Rules:
    """The rules of gate.toml, or the usual ones, with what the options change."""
    rules = earlier or Rules()
    if tolerance is not None:
        rules.tolerance = {**rules.tolerance, **_tolerances(tolerance)}
    if metric is not None:
        rules.metrics = list(dict.fromkeys(name.strip() for name in metric.split(",")))
    if pairs is not None:
        if not all(part.strip().isdigit() for part in pairs.split(",")):
            fail(f"--pairs {pairs!r} is not a list of counts, as 8,16,24")
        rules.looks = [int(part) for part in pairs.split(",")]
        if len(rules.looks) > MOST_LOOKS:
            fail(f"--pairs {pairs!r}: {MOST_LOOKS} looks at most")
        rules.alphas = split_level(len(rules.looks), rules.alpha)
    if requests is not None:
        rules.requests = requests
    return check(rules)


def _tolerances(text: str) -> dict[str, float]:
    if "=" not in text:
        return dict.fromkeys(METRICS, share("--tolerance", text))
    parts = [part.partition("=") for part in text.split(",")]
    return {metric.strip(): share("--tolerance", value) for metric, _, value in parts}


def names_a_subject(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the parameters of `subject_of` in the place of its parameter `named`."""
    shared = inspect.signature(subject_of, eval_str=True).parameters
    own = dict(inspect.signature(command, eval_str=True).parameters)
    own.pop("named")

    @functools.wraps(command)
    def run(context: typer.Context, **given: Any) -> None:
        values = {name: given.pop(name) for name in shared}
        typed = (name for name in shared if _typed(context, name))
        command(named=Named(subject_of(**values), frozenset(typed)), **given)

    arguments = [p for p in own.values() if p.default is p.empty]
    options = [p for p in own.values() if p.default is not p.empty]
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    parameters = [
        p.replace(kind=keyword) for p in (context, *arguments, *shared.values(), *options)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
