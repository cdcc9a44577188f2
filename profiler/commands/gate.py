"""`tpprof gate`: its commands parse, call one function, print, and end with the gate's code."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...reports.gate.rules import METRICS, Rules, check_rules, split_level
from ...reports.record.spec import Cells, ModelSpec, Subject, Workload
from ...reports.record.spec_files import rooted
from . import output
from .options import Format, OnceCommand, Typed, fail, is_count, share, takes

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
OMITTED = ("equalize",)
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


@gate.command(cls=OnceCommand)
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
) -> None:
    """The exact gate: count tokens, FLOPs, bytes and operators again. No GPU needed."""
    from ..gate import exact

    if not update and (typed.values or memory is not None):
        fail("the baseline says what is counted; METHODs and their options go with --update")
    require_results(html, [baseline], json, junit, summary)
    allowed = None if memory is None else rules_of(Rules(memory=share("memory", memory))).memory
    if update:
        earlier, _ = exact.earlier_baseline(baseline)
        subject = None
        if typed.values:
            subject = _over(typed, earlier.subject, baseline.parent) if earlier else _whole(typed)
        gate = exact.update_baseline(baseline, subject, allowed)
    else:
        gate = exact.check_baseline(baseline, accept_unjudged=accept_unjudged, since=since)
    finish(gate, json, junit, summary, html)


@gate.command(cls=OnceCommand)
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
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
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
        journal_in(out),
        accept_counts=accept_counts,
        accept_unjudged=accept_unjudged,
        allow_same=allow_same,
        config=config,
        adjusted=adjusted,
    )
    require_results(html, [options.out], json, junit, summary)
    gate = measured(options.out, lambda tell: run_ab(options, tell))
    finish(gate, json, junit, summary, html)


@gate.command()
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
) -> None:
    """Judge two saved records: counts exactly, time by the speed-ups over vanilla in each."""
    from ...reports.gate import records

    rules = rules_of(read(config).rules if config else None, tolerance)
    for path in (base, head):
        if not path.exists() and not path.with_suffix(".jsonl").exists():
            fail(f"{path}: no such record")
    require_results(html, [base, head], json, junit, summary)
    accepted = {"accept_counts": accept_counts, "accept_unjudged": accept_unjudged}
    gate = records.compare_record_files(base, head, rules, **accepted)
    finish(gate, json, junit, summary, html, [base, head])


@gate.command(cls=OnceCommand)
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
) -> None:
    """Write gate.toml: what to measure, and by which rules."""
    from ..gate import tolerances

    tolerances.write_config(config, _whole(typed), rules_of(None, metric=metric, requests=requests))
    if calibrate:
        _calibrate(config, pairs, out)
        return
    print(
        f"{config} is written, with the usual tolerances of a kind of device: "
        "`tpprof gate calibrate` finds those of this machine",
        file=sys.stderr,
    )


@gate.command("calibrate")
def calibrate_machine(
    config: Annotated[Path, typer.Argument(help="gate.toml, whose tolerances are found.")] = CONFIG,
    pairs: CalibrationOption = 20,
    out: JournalOption = Path("runs"),
) -> None:
    """Find tolerances that hold on this machine, from A/A pairs, and write them to gate.toml."""
    _calibrate(config, pairs, out)


def _calibrate(config: Path, pairs: int, out: Path) -> None:
    from ..gate import tolerances

    out = journal_in(out)
    found = measured(out, lambda tell: tolerances.calibrate_tolerances(config, pairs, out, tell))
    output.print_table(tolerances.tolerances_table(found), Format.table)
    print(f"tolerances written to {config}", file=sys.stderr)
    if doubt := tolerances.doubt(found):
        print(f"! {doubt}", file=sys.stderr)


def journal_in(out: Path) -> Path:
    """A journal of its own in a folder, so that no earlier one is lost, or the file that is
    named."""
    if out.suffix == ".jsonl":
        return out
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
        kept = f"; what was measured is in {out}" if out.exists() else ""
        print(f"tpprof: interrupted{kept}", file=sys.stderr)
        raise typer.Exit(143 if isinstance(stopped, Terminated) else 130) from None


def require_results(html: Path | None, taken: Sequence[Path], *others: Path | None) -> None:
    """Fail before anything is measured where a result could not be written."""
    output.require_writable(html, None, taken)
    known = {path.resolve() for path in [*taken, *([html] if html else [])]}
    for path in (path for path in others if path is not None):
        output.require_file(str(path), path)
        if path.resolve() in known:
            fail(f"{path} is a file of this gate already; give another one")
        known.add(path.resolve())


def finish(
    gate: Gate,
    json: Path | None,
    junit: Path | None,
    summary: Path | None,
    html: Path | None,
    files: Sequence[Path] = (),
) -> None:
    """Tell what was found in all the ways that were asked for; end with the gate's code.

    files: records that were judged, and follow on the page if they can be read.
    """
    from ...reports.gate import render
    from ...reports.text.screen import open_screen

    render.print_gate(gate, open_screen())
    for path, content in ((json, render.as_json), (junit, render.as_junit)):
        if path is not None:
            write(path, content(gate))
    if summary is not None:
        render.append_summary(gate, summary)
    if html is not None:
        output.write(*readable(files), html, gate=gate)
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


def write(path: Path, content: bytes) -> None:
    """One of the files that a gate leaves; one that cannot be written is bad input."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror or error})")


def _whole(typed: Typed) -> Subject:
    """What the options name by themselves; paths are absolute."""
    subject = typed.alone(Subject)
    if not subject.cells.methods:
        fail("name a METHOD (fastv:keep=320), as `tpprof methods` lists them")
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
