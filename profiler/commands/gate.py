"""`tpprof gate`: its commands parse, call one function, print, and end with the gate's code."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...reports.gate.rules import Rules
from . import output
from .gate_options import (
    AcceptOption,
    ConfigOption,
    HtmlOption,
    JsonOption,
    JUnitOption,
    MetricOption,
    Named,
    PairsOption,
    RequestsOption,
    SummaryOption,
    ToleranceOption,
    names_a_subject,
    rules_of,
)
from .options import fail, share

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

gate = typer.Typer(
    no_args_is_help=True,
    help="Fail a change that makes a method slower, or makes it keep, compute or allocate more. "
    "Exit codes: 0 pass, 1 regression, 2 bad input, 3 no verdict, 4 inconclusive.",
)


@gate.command()
@names_a_subject
def check(
    named: Named,
    baseline: Annotated[Path, typer.Argument(help="The committed file of counts (JSON).")],
    update: Annotated[
        bool, typer.Option("--update", help="Count anew and accept: write the baseline.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="Tolerance of the allocator's peak, a share (1%).")
    ] = None,
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
) -> None:
    """The exact gate: count tokens, FLOPs, bytes and operators again. No GPU needed."""
    from ..gate import counts

    if not update and (named.given or memory is not None):
        fail("the baseline says what is counted; METHODs and their options go with --update")
    can_write(html, [baseline], json, junit, summary)
    allowed = None if memory is None else rules_of(Rules(memory=share("--memory", memory))).memory
    if update:
        earlier, _ = counts.earlier(baseline)
        kept = named.over(earlier.subject, baseline.parent) if earlier else None
        subject = (kept or named.whole()) if named.given else None
        gate = counts.update(baseline, subject, allowed)
    else:
        gate = counts.check(baseline)
    finish(gate, json, junit, summary, html)


@gate.command()
@names_a_subject
def ab(
    named: Named,
    base: Annotated[str, typer.Argument(help="A commit, environment, plug-in file or folder.")],
    head: Annotated[str, typer.Argument(help="The same, of what is to be judged.")],
    config: ConfigOption = None,
    tolerance: ToleranceOption = None,
    metric: MetricOption = None,
    pairs: PairsOption = None,
    requests: RequestsOption = None,
    accept_counts: AcceptOption = False,
    out: JournalOption = Path("runs"),
    json: JsonOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    html: HtmlOption = None,
) -> None:
    """The timing gate: base and head in the same job, in pairs of fresh processes (ABBA)."""
    from ..gate.timing import Asked
    from ..gate.timing import ab as timing_gate

    told = read(config) if config else None
    subject = named.over(told.subject, config.parent) if told and config else named.whole()
    rules = rules_of(told.rules if told else None, tolerance, metric, pairs, requests)
    asked = Asked(base, head, subject, rules, journal_in(out), accept_counts)
    can_write(html, [asked.out], json, junit, summary)
    gate = measured(asked.out, lambda tell: timing_gate(asked, tell))
    finish(gate, json, junit, summary, html)


@gate.command()
def compare(
    base: Annotated[Path, typer.Argument(help="A record that `tpprof compare` saved.")],
    head: Annotated[Path, typer.Argument(help="The same, of what is to be judged.")],
    config: ConfigOption = None,
    tolerance: ToleranceOption = None,
    accept_counts: AcceptOption = False,
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
    can_write(html, [base, head], json, junit, summary)
    gate = records.compare_files(base, head, rules, accept_counts=accept_counts)
    finish(gate, json, junit, summary, html, [base, head])


@gate.command()
@names_a_subject
def init(
    named: Named,
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

    tolerances.write(config, named.whole(), rules_of(None, metric=metric, requests=requests))
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
    from ...reports.text import table
    from ..gate import tolerances

    out = journal_in(out)
    found = measured(out, lambda tell: tolerances.calibrate(config, pairs, out, tell))
    table.console().print(table.as_table(*tolerances.texts(found), words=(0, 1)))
    print(f"tolerances written to {config}", file=sys.stderr)
    if told := tolerances.doubt(found):
        print(f"! {told}", file=sys.stderr)


def journal_in(out: Path) -> Path:
    """A journal of its own in a folder, so that no earlier one is lost, or the file that is
    named."""
    if out.suffix == ".jsonl":
        return out
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return out / f"gate-{stamp}.jsonl"


def read(config: Path) -> Config:
    """gate.toml."""
    from ...reports.gate.config import load

    return load(config)


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


def can_write(html: Path | None, taken: Sequence[Path], *others: Path | None) -> None:
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
    from ...reports.text.table import console

    render.show(gate, console())
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
    from ...reports.record import files as saved
    from ...reports.record.base import RecordError
    from ...reports.text import side_by_side

    try:
        return [saved.load(file) for file in files], side_by_side.names_of(files)
    except RecordError:
        return [], []


def write(path: Path, content: bytes) -> None:
    """One of the files that a gate leaves; one that cannot be written is bad input."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror or error})")
