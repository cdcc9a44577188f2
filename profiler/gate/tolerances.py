"""Tolerances that a machine allows: what A/A pairs of processes scatter by, and twice what can be
found in that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...methods.contract.errors import InputError
from ...reports import units
from ...reports.analysis.intervals import fenced
from ...reports.gate.config import SCHEMA, Config, load_config, save_config
from ...reports.gate.evidence import detectable
from ...reports.gate.journal import CALIBRATION, Judgement
from ...reports.gate.rules import MOST_PAIRS, Rules
from ...reports.gate.verdicts import NoVerdictError
from ...reports.record.journal import Journal
from ...reports.record.spec import Subject
from ...reports.record.spec_files import relative, rooted
from ...reports.text.cells import CELL
from ...reports.text.table import Column, Table
from ..run.rounds import Progress
from .arms import Arm
from .counting import require_methods
from .pairs import HeadFailsError, Probe, Session, in_a_fresh_process, keys_of, readings, timed
from .resumption import Earlier
from .timing import begun, with_tolerances

FEWEST = 8
LEAST = 0.01  # a tolerance below this would be chance itself
USELESS = 0.25
STEP = 0.005  # to which tolerances are rounded up


@dataclass(frozen=True)
class CellTolerance:
    """Of a cell and metric: standard deviation of the log-ratio of a pair as the studentised mean
    sees it, wild pairs pulled in; the smallest slow-down that one t-test of as many pairs as the
    first look has, at the level of the family, finds 80 times of 100; and the tolerance, twice
    that."""

    cell: str
    metric: str
    pairs: int
    deviation: float
    detectable: float
    tolerance: float


def calibrate_tolerances(
    path: Path,
    pairs: int,
    out: Path,
    tell: Progress,
    run: Probe = in_a_fresh_process,
    *,
    resume: bool = False,
) -> list[CellTolerance]:
    """Take A/A pairs of what gate.toml at `path` measures, and write the tolerances into it.

    resume: the journal at `out` may be of the same calibration, which is gone on with.

    Raises InputError for too few pairs, or where what it measures does not run.
    """
    config = load_config(path)
    if pairs < FEWEST or pairs % 2 or pairs > MOST_PAIRS:
        raise InputError(
            f"--pairs {pairs}: an even number from {FEWEST} to {MOST_PAIRS} says how times scatter"
        )
    with _session(config, path.parent, out, tell, run, resume=resume) as session:
        try:
            base, head = readings(session)
        except (NoVerdictError, HeadFailsError) as error:
            raise InputError(f"nothing to calibrate: {error}") from error
        rules = session.rules = with_tolerances(config.rules, base)
        keys, unmeasured = keys_of(timed(base, head, config.subject.cells.methods), rules.metrics)
        if unmeasured:
            raise InputError(f"{unmeasured[0].cell}: {unmeasured[0].rule}")
        if not keys:
            raise InputError("nothing to calibrate: every cell fails")
        batch = session(pairs, keys)
        if not (batch.stopped or batch.broken):
            session.journal.append(Judgement(rows=[], rules=rules))
    if batch.stopped or batch.broken:
        broken = [reason for _, reason in batch.broken.values()]
        raise InputError(f"nothing is calibrated: {batch.stopped or broken[0]}")
    found = [_found(key, batch.series[key].logs, config.rules) for key in keys]
    latest = load_config(path)  # which may have been edited meanwhile
    _keep(latest, found, base.environment.device, pairs)
    save_config(latest, path)
    return found


def write_config(path: Path, subject: Subject, rules: Rules, *, overwrite: bool = False) -> None:
    """A new gate.toml with the tolerances of this kind of device.

    Raises InputError for methods that do not exist or cannot be planned.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; change it, or remove it")
    require_methods(subject)
    config = Config(schema=SCHEMA, subject=relative(subject, path.parent), rules=rules)
    save_config(config, path)


def doubt(found: list[CellTolerance]) -> str:
    """What to know of tolerances too wide to gate anything; "" where they are narrow enough."""
    widest = max(f.tolerance for f in found)
    if widest <= USELESS:
        return ""
    return (
        f"a tolerance of {units.percent(widest)} gates little, this machine is too noisy for "
        "times: rely on the exact gate here (tpprof gate check)"
    )


def tolerances_table(found: list[CellTolerance]) -> Table[CellTolerance]:
    """One row per cell and metric."""
    return Table(COLUMNS, found)


COLUMNS: list[Column[CellTolerance]] = [
    Column(
        "cell",
        lambda r: r.cell,
        {"cell": lambda r: r.cell},
        CELL,
        "words",
    ),
    Column("metric", lambda r: r.metric, {"metric": lambda r: r.metric}, "What is timed.", "words"),
    Column(
        "A/A pairs",
        lambda r: str(r.pairs),
        {"pairs": lambda r: r.pairs},
        "Pairs of processes that run the same code.",
    ),
    Column(
        "SD of a pair",
        lambda r: units.percent(r.deviation),
        {"deviation": lambda r: r.deviation},
        "Standard deviation of the log-ratio of a pair, wild pairs pulled in.",
    ),
    Column(
        "detectable\nin 8 pairs",
        lambda r: units.percent(r.detectable),
        {"detectable": lambda r: r.detectable},
        "The smallest slow-down that is found 80 times of 100.",
    ),
    Column(
        "tolerance",
        lambda r: units.percent(r.tolerance),
        {"tolerance": lambda r: r.tolerance},
        "Twice what is detectable.",
    ),
]


@contextmanager
def _session(
    config: Config, folder: Path, out: Path, tell: Progress, run: Probe, *, resume: bool
) -> Iterator[Session]:
    subject, rules = rooted(config.subject, folder), config.rules
    base, head = (Arm(name, CALIBRATION, plugins=subject.cells.plugin) for name in ("base", "head"))
    first = begun((CALIBRATION, CALIBRATION), subject, rules)
    earlier = Earlier.of(out, first) if resume else Earlier()
    journal = Journal.begin(out, first, *earlier.processes)
    try:
        yield Session(base, head, subject, rules, journal, run=run, tell=tell, earlier=earlier)
    finally:
        journal.close()


def _found(key: tuple[str, str], logs: list[float], rules: Rules) -> CellTolerance:
    deviation = fenced(logs).error * math.sqrt(len(logs))
    effect = math.expm1(detectable(rules.looks[0], rules.alpha) * deviation)
    tolerance = max(LEAST, math.ceil(2 * effect / STEP) * STEP)
    return CellTolerance(*key, len(logs), deviation, effect, round(tolerance, 4))


def _keep(config: Config, found: list[CellTolerance], device: object, pairs: int) -> None:
    """The widest of each metric: one tolerance serves all cells."""
    for metric in {f.metric for f in found}:
        widest = max(f.tolerance for f in found if f.metric == metric)
        config.rules.tolerance[metric] = widest
    config.calibrated = f"{pairs} A/A pairs on {device}"
