"""`tpprof compare`: measure methods side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from .options import (
    BackendOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    EqualizeOption,
    FiguresOption,
    Format,
    FormatOption,
    HtmlOption,
    ImageOption,
    IsolateOption,
    KeepOption,
    LayoutOption,
    MaxRoundsOption,
    MaxSecondsOption,
    Methods,
    MinRoundsOption,
    ModelOption,
    NewTokensOption,
    OutOption,
    PhasesOption,
    PluginOption,
    PoliciesOption,
    PromptOption,
    ResumeOption,
    RoundsOption,
    RuntimeOption,
    SamplesOption,
    SeedOption,
    SizeOption,
    TargetOption,
    TextOption,
    TokensOption,
    TraceOption,
    VisualOption,
    WorkloadOption,
    check_trace,
    fail,
    share,
    workload_of,
)


def compare(
    methods: Methods,
    model: ModelOption = None,
    keep: KeepOption = None,
    equalize: EqualizeOption = None,
    attention: PoliciesOption = "maps,rows",
    workload: WorkloadOption = "pope",
    image: ImageOption = None,
    image_size: SizeOption = "672x672",
    prompt: PromptOption = None,
    text_tokens: TextOption = None,
    layout: LayoutOption = "flat",
    visual_tokens: VisualOption = None,
    new_tokens: NewTokensOption = 2,
    batch_size: BatchOption = 1,
    runtime: RuntimeOption = "eager",
    target_ci: TargetOption = "2%",
    min_rounds: MinRoundsOption = 6,
    max_rounds: MaxRoundsOption = 200,
    max_seconds: MaxSecondsOption = 25.0,
    rounds: RoundsOption = None,
    isolate: IsolateOption = False,
    samples: SamplesOption = 1,
    resume: ResumeOption = False,
    plugin: PluginOption = None,
    phases: PhasesOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = "sdpa",
    seed: SeedOption = 0,
    out: OutOption = Path("runs"),
    tokens: TokensOption = False,
    trace: TraceOption = None,
    html: HtmlOption = None,
    figures: FiguresOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure methods side by side and print Table 7: time beside FLOPs."""
    if equalize not in (None, "layer-mean"):
        fail(f"unknown --equalize {equalize!r}; known: layer-mean")
    settings = workload_of(
        workload,
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
    from ...reports.analysis.explanation import explain_all
    from ...reports.record.schema import Settings
    from ..run.recording import measure
    from ..run.rounds import check
    from ..run.worker import Job
    from ..workload import describe
    from . import output
    from .progress import progress

    measured = Settings(
        attention=attention.split(","),
        runtimes=runtime.split(","),
        keep=keep,
        equalize=equalize is not None,
        isolate=isolate,
        samples=samples,
        target=share("--target-ci", target_ci),
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        max_seconds=max_seconds,
        seed=seed,
        plugins=plugin or [],
        tokens=tokens,
    )
    if rounds is not None and rounds < 1:
        fail(f"--rounds must be at least 1, not {rounds}")
    if rounds is not None:
        measured.min_rounds, measured.max_rounds, measured.max_seconds = rounds, rounds, None
    check_trace(trace, isolate=isolate)
    output.require_writable(html, figures, [out])
    job = Job(
        methods=methods,
        model=model,
        device=device,
        dtype=dtype,
        backend=backend,
        workload=describe(settings),
        settings=check(measured),
        command=shlex.join(["tpprof", *sys.argv[1:]]),
    )
    with progress() as tell:
        outcome = measure(job, out, tell, resume=resume, trace=trace)
    output.show(outcome.record, format_, by_phase=phases)
    output.write([outcome.record], [outcome.path.stem], html, figures)
    print(f"record: {outcome.path}", file=sys.stderr)
    if explain_all(outcome.record, outcome.record.cells).found:
        again = shlex.join(["tpprof", "explain", str(outcome.path)])
        print(f"where the time went: {again}", file=sys.stderr)
    raise typer.Exit(outcome.code)
