"""`tpprof gate`: its commands parse, call one function, print, and end with the gate's code."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...reports.gate.rules import METRICS, Rules, check_rules, split_level
from ...reports.outputs import Kind, Output, write
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.record.spec.texts import is_count
from ...reports.record.spec_files import rooted
from ...reports.sanitize import say
from . import output
from .options import Format, StrictCommand, Typed, fail, share, takes

if TYPE_CHECKING:
    from ...reports.gate.config import Config
    from ...reports.gate.verdicts import Gate
    from ...reports.record.schema import Record
    from ..run.rounds import Progress

CONFIG = Path("gate.toml")
CalibrationOption = Annotated[int, typer.Option(help="A/A pairs of processes (20).")]
JournalOption = Annotated[
    Path, typer.Option(help="Journal of every process: a .jsonl file, or a folder.")
]
Result = TypeVar("Result")
USUAL = {"model": "tiny", "attention": ("rows",)}
OMITTED = ("equalize", "tensor_parallel", "pipeline")
MOST_LOOKS = 10
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
ConfigOption = Annotated[
    Path | None, typer.Option(help="The gate.toml that `tpprof gate init` writes.")
]
AcceptOption = Annotated[
    bool, typer.Option("--accept-counts", help="Counts that changed are meant: judge time alone.")
]
UnjudgedOption = Annotated[
    bool,
    typer.Option("--accept-unjudged", help="What cannot be judged does not stand against a pass."),
]
SameOption = Annotated[
    bool,
    typer.Option("--allow-same", help="Base and head may be the same code: an A/A test."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the one at --out that was broken off.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all that was found.")]
JUnitOption = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page with the verdicts.")]
SummaryOption = Annotated[
    Path | None, typer.Option("--summary", help="Append Markdown ($GITHUB_STEP_SUMMARY).")
]


gate = typer.Typer(
    no_args_is_help=True,
    help="Fail a change that makes a method slower, or makes it keep, compute or allocate more. "
    "Exit codes: 0 pass, 1 regression, 2 bad input, 3 no verdict, 4 inconclusive.",
)


@gate.command(cls=StrictCommand)
@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
def check(
    typed: Typed,
    baseline: Annotated[Path, typer.Argument(help="The committed file of counts (JSON).")],
    update: Annotated[
        bool, typer.Option("--update", help="Count anew and accept: write the baseline.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="Tolerance of the allocator's peak, a share (1%).")
    ] = None,
    accept_unjudged: UnjudgedOption = False,
    since: Annotated[
        str, typer.Option(help="A commit: tell how the baseline differs from that one's.")
    ] = "",
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
    overwrite: output.OverwriteOption = False,
) -> None:
    """The exact gate: count tokens, FLOPs, bytes and operators again. No GPU needed."""
    from ..gate import exact
    from .progress import heartbeat

    if not update and (typed.values or memory is not None):
        fail("the baseline says what is counted; METHODs and their options go with --update")
    earlier, _ = exact.earlier_baseline(baseline)
    subject = None
    if update and typed.values:
        subject = _over(typed, earlier.subject, baseline.parent) if earlier else _whole(typed)
    judged = rooted(earlier.subject, baseline.parent) if earlier else None
    read = [path for each in (subject, judged) if each for path in output.read_by(each)]
    written = results(json, junit, summary, html)
    if update and (subject or earlier):  # else there is nothing to count
        written.append(Output("the baseline", baseline, "baseline"))
    output.require_outputs(written, read if update else [*read, baseline], overwrite=overwrite)
    allowed = None if memory is None else rules_of(Rules(memory=share("memory", memory))).memory
    counted = subject or judged
    with heartbeat(f"counting {', '.join(counted.cells.named)}") if counted else nullcontext():
        if update:
            gate = exact.update_baseline(baseline, subject, allowed, overwrite=overwrite)
        else:
            gate = exact.check_baseline(baseline, accept_unjudged=accept_unjudged, since=since)
    finish(gate, json, junit, summary, html, overwrite=overwrite)


@gate.command(cls=StrictCommand)
@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
def ab(
    typed: Typed,
    base: Annotated[str, typer.Argument(help="A commit, environment, plug-in file or folder.")],
    head: Annotated[str, typer.Argument(help="The same, of what is to be judged.")],
    config: ConfigOption = None,
    tolerance: ToleranceOption = None,
    metric: MetricOption = None,
    pairs: PairsOption = None,
    requests: RequestsOption = None,
    accept_counts: AcceptOption = False,
    accept_unjudged: UnjudgedOption = False,
    allow_same: SameOption = False,
    out: JournalOption = Path("runs"),
    resume: ResumeOption = False,
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
    overwrite: output.OverwriteOption = False,
) -> None:
    """The timing gate: base and head in the same job, in pairs of fresh processes (ABBA)."""
    from ..gate.timing import GateOptions, run_ab

    saved = read(config) if config else None
    subject = _over(typed, saved.subject, config.parent) if saved and config else _whole(typed)

    def adjusted(earlier: Rules | None) -> Rules:
        return rules_of(earlier, tolerance, metric, pairs, requests)

    options = GateOptions(
        base,
        head,
        subject,
        adjusted(saved.rules if saved else None),
        journal_in(out, resume=resume),
        accept_counts=accept_counts,
        accept_unjudged=accept_unjudged,
        allow_same=allow_same,
        resume=resume,
        config=config,
        adjusted=adjusted,
    )
    arms = [Path(text) for text in (base, head)]
    taken = [config, *output.read_by(subject), *(path for path in arms if path.is_file())]
    written = [_journal(options.out), *results(json, junit, summary, html)]
    output.require_outputs(written, taken, overwrite=overwrite)
    require_ended(options.out, resume=resume)
    gate = measured(options.out, lambda tell: run_ab(options, tell))
    finish(gate, json, junit, summary, html, overwrite=overwrite)


@gate.command(cls=StrictCommand)
def compare(
    base: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    head: Annotated[Path, typer.Argument(help="The same, of what is to be judged.")],
    config: ConfigOption = None,
    tolerance: ToleranceOption = None,
    accept_counts: AcceptOption = False,
    accept_unjudged: UnjudgedOption = False,
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
    overwrite: output.OverwriteOption = False,
) -> None:
    """Judge two saved records: counts exactly, time by the speed-ups over vanilla in each."""
    from ...reports.gate import records

    rules = rules_of(read(config).rules if config else None, tolerance)
    for path in (base, head):
        if not path.exists() and not path.with_suffix(".jsonl").exists():
            fail(f"{path}: no such record")
    taken = [config, *output.files_of([base, head])]
    output.require_outputs(results(json, junit, summary, html), taken, overwrite=overwrite)
    accepted = {"accept_counts": accept_counts, "accept_unjudged": accept_unjudged}
    gate = records.compare_record_files(base, head, rules, **accepted)
    finish(gate, json, junit, summary, html, [base, head], overwrite=overwrite)


@gate.command(cls=StrictCommand)
@takes(Cells, ModelSpec, Workload, omit=OMITTED, usual=USUAL)
def init(
    typed: Typed,
    config: Annotated[Path, typer.Option(help="The file to write.")] = CONFIG,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Find the tolerances of this machine as well.")
    ] = False,
    pairs: CalibrationOption = 20,
    metric: MetricOption = None,
    requests: RequestsOption = None,
    out: JournalOption = Path("runs"),
    overwrite: output.OverwriteOption = False,
) -> None:
    """Write gate.toml: what to measure, and by which rules."""
    from ..gate import tolerances

    subject = _whole(typed)
    written = Output("--config", config, "text")
    output.require_outputs([written], output.read_by(subject), overwrite=overwrite)
    rules = rules_of(None, metric=metric, requests=requests)
    tolerances.write_config(config, subject, rules, overwrite=overwrite)
    if calibrate:
        _calibrate(config, pairs, out)
        return
    say(
        f"{config} is written, with the usual tolerances of a kind of device: "
        f"`{shlex.join(['tpprof', 'gate', 'calibrate', str(config)])}` finds those of this machine"
    )


@gate.command("calibrate", cls=StrictCommand)
def calibrate_machine(
    config: Annotated[Path, typer.Argument(help="gate.toml, whose tolerances are found.")] = CONFIG,
    pairs: CalibrationOption = 20,
    out: JournalOption = Path("runs"),
    resume: ResumeOption = False,
) -> None:
    """Find tolerances that hold on this machine, from A/A pairs, and write them to gate.toml."""
    _calibrate(config, pairs, out, resume=resume)


def _calibrate(config: Path, pairs: int, out: Path, *, resume: bool = False) -> None:
    from ..gate.tolerances import calibrate_tolerances, doubt, tolerances_table

    out = journal_in(out, resume=resume, calibration=True)
    output.require_outputs([_journal(out)], [config])
    require_ended(out, resume=resume)
    found = measured(
        out, lambda tell: calibrate_tolerances(config, pairs, out, tell, resume=resume)
    )
    output.print_table(tolerances_table(found), Format.table)
    say(f"tolerances written to {config}")
    if doubted := doubt(found):
        say(f"! {doubted}")


def journal_in(out: Path, *, resume: bool = False, calibration: bool = False) -> Path:
    """The file that is named, or one in the folder: the newest that was broken off, or one of its
    own, so that no earlier one is lost."""
    if out.suffix == ".jsonl":
        return out
    if resume:
        from ..gate.resumption import unfinished

        if found := unfinished(out, calibration=calibration):
            return found
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return out / f"gate-{stamp}.jsonl"


def read(config: Path) -> Config:
    """gate.toml."""
    from ...reports.gate.config import load_config

    return load_config(config)


def measured(out: Path, work: Callable[[Progress], Result]) -> Result:
    """What `work` gives, with a bar on stderr; broken off, it says where the processes are."""
    from ..run.interrupts import Terminated, terminable
    from .progress import progress

    try:
        with terminable(), progress() as tell:
            return work(tell)
    except KeyboardInterrupt as stopped:
        kept = f"; what was measured is in {out}, --resume goes on" if out.exists() else ""
        say(f"tpprof: interrupted{kept}")
        raise typer.Exit(143 if isinstance(stopped, Terminated) else 130) from None


def results(
    json: Path | None, junit: Path | None, summary: Path | None, html: Path | None
) -> list[Output]:
    """The files in which a gate tells what was found."""
    found: list[tuple[str, Path | None, Kind]] = [
        ("--json", json, "gate's JSON"),
        ("--junit", junit, "JUnit XML"),
        ("--summary", summary, "text"),
    ]
    listed = [Output(n, path, kind, kind == "text") for n, path, kind in found if path is not None]
    return [*listed, *output.pages(html)]


def _journal(out: Path) -> Output:
    return Output("--out", out, "journal")


def require_ended(out: Path, *, resume: bool) -> None:
    """Ends the program where the journal at `out` is of a gate that did not come to its end, and is
    not gone on with."""
    from ...reports.gate.journal import Judgement, read
    from ...reports.record.journal import is_empty

    if resume or is_empty(out):
        return
    if not any(isinstance(line, Judgement) for line in read(out)):
        fail(f"{out} holds a gate that did not end; continue it with --resume, or remove it")


def finish(
    gate: Gate,
    json: Path | None,
    junit: Path | None,
    summary: Path | None,
    html: Path | None,
    files: Sequence[Path] = (),
    *,
    overwrite: bool = False,
) -> None:
    """Tell what was found in all the ways that were asked for; end with the gate's code.

    files: records that were judged, and follow on the page if they can be read.
    """
    from ...reports.gate import render
    from ...reports.text.screen import open_screen

    if json is not None:
        write(json, render.as_json(gate), "gate's JSON", overwrite=overwrite)
    if junit is not None:
        write(junit, render.as_junit(gate), "JUnit XML", overwrite=overwrite)
    if summary is not None:
        render.append_summary(gate, summary)
    if html is not None:
        output.write(*readable(files), html, gate=gate, overwrite=overwrite)
    render.print_gate(gate, open_screen())
    raise typer.Exit(gate.code)


def readable(files: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Records and what they are called; none where one of them cannot be read, which the gate
    says."""
    from ...reports.record.base import RecordError
    from ...reports.record.files import load
    from ...reports.text import side_by_side

    try:
        return [load(file) for file in files], side_by_side.names_of(files)
    except RecordError:
        return [], []


def _whole(typed: Typed) -> Subject:
    """What the options name by themselves; paths are absolute."""
    subject = typed.alone(Subject)
    if not subject.cells.named:
        fail(
            "name a METHOD (fastv:keep=320), as `tpprof methods` lists them, or code of yours "
            "(--callable MODULE:FUNCTION)"
        )
    return rooted(subject, Path())


def _over(typed: Typed, earlier: Subject, folder: Path) -> Subject:
    """`earlier`, whose paths lead from `folder`, but for what was typed; paths are absolute."""
    return rooted(typed.over(rooted(earlier, folder)), Path())


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
        if not all(map(is_count, pairs.split(","))):
            fail(f"--pairs {pairs!r} is not a list of counts, as 8,16,24")
        rules.looks = [int(part) for part in pairs.split(",")]
        if len(rules.looks) > MOST_LOOKS:
            fail(f"--pairs {pairs!r}: {MOST_LOOKS} looks at most")
        rules.alphas = split_level(len(rules.looks), rules.alpha)
    if requests is not None:
        rules.requests = requests
    return check_rules(rules)


def _tolerances(text: str) -> dict[str, float]:
    if "=" not in text:
        return dict.fromkeys(METRICS, share("tolerance", text))
    parts = [part.partition("=") for part in text.split(",")]
    return {metric.strip(): share("tolerance", value) for metric, _, value in parts}
