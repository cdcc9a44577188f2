"""The journal of a timing gate: a line for each process as it ends, so that none is lost."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from ..record.base import RecordError, Struct, Versioned, decode_versioned
from ..record.journal import read_lines
from ..record.spec import Subject
from .rules import Rules
from .tolerant_record import TolerantRecord
from .verdicts import Judged

SCHEMA = 2
CALIBRATION = "A/A"
"""What either side of a calibration is called."""
HARMLESS = ("software power cap",)
"""A GPU under load runs into its power limit; whether that moved the clock is looked at apart."""


class GateBegun(Struct, tag="begun"):
    """What is compared: the arms, what they run and by which rules they are judged."""

    schema: int
    tpprof: str
    created: str
    base: str
    head: str
    subject: Subject
    rules: Rules


class Ran(Struct, tag="ran"):
    """A process. A is the base, B the head.

    block, turn: where it stood in the ABBA blocks, which are counted on through all looks and the
    confirmation; -1 is the look at what there is. seconds: of each request, by cell and metric.
    errors: cells that failed. failure: why there is nothing else; killed: by a signal from outside,
    or by what it ran, which ended it as if all were well; unknown: the arm does not know what it is
    asked for. origins: where the code lies that ran; own, foreign: imported files of the arm's
    tree, and of the project that are not; contents: of what was imported, hashes by package.
    device: what it ran on. clock_hz: median SM clock; throttled, others: what NVML saw beside us;
    unwatched: why it saw nothing of a GPU.
    """

    block: int
    turn: int
    arm: str
    seconds: dict[str, dict[str, list[float]]] = msgspec.field(default_factory=dict)
    errors: dict[str, str] = msgspec.field(default_factory=dict)
    device: str = ""
    clock_hz: float | None = None
    throttled: list[str] = msgspec.field(default_factory=list)
    others: list[int] = msgspec.field(default_factory=list)
    unwatched: str = ""
    origins: dict[str, str] = msgspec.field(default_factory=dict)
    own: list[str] = msgspec.field(default_factory=list)
    foreign: list[str] = msgspec.field(default_factory=list)
    contents: dict[str, str] = msgspec.field(default_factory=dict)
    failure: str = ""
    killed: bool = False
    unknown: bool = False

    def median(self, cell: str, metric: str) -> float | None:
        """What counts of a process: the median of its requests."""
        times = self.seconds.get(cell, {}).get(metric)
        return statistics.median(times) if times else None


class Judgement(Struct, tag="found"):
    """The verdicts, and the rules with the tolerances by which they were found."""

    rows: list[Judged]
    rules: Rules


Line = GateBegun | Ran | Judgement


def read(path: Path) -> list[Line]:
    """All whole lines of a journal; raises RecordError for one of another version, or that cannot
    be read."""
    try:
        lines = read_lines(path)
        for first in lines[:1]:
            decode_versioned(first, Versioned, SCHEMA, path, "journal of a gate", "judge again")
        return [msgspec.json.decode(line, type=Line) for line in lines]
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{path} is no journal of a gate, or damaged ({error})") from error


def observe(ran: Ran, record: TolerantRecord, metrics: list[str]) -> Ran:
    """What the record of a process says, noted in `ran`."""
    clocks: list[float] = []
    readings, reason = 0, "no reading fell into a request"
    ran.device = record.environment.device or ""
    if code := record.environment.code:
        ran.origins, ran.own, ran.foreign = code.origins, code.own, code.foreign
        ran.contents = code.contents
    for cell in record.cells:
        if cell.error:
            ran.errors[cell.title] = cell.error
            continue
        reason = cell.missing.get("telemetry", reason)
        times: dict[str, list[float]] = {}
        for sample in cell.samples:
            for metric in metrics:
                seconds = cell.seconds(metric, sample)
                if seconds is not None and seconds > 0:
                    times.setdefault(metric, []).append(seconds)
            seen = sample.telemetry
            if seen is None:
                continue
            readings += seen.readings
            clocks += [seen.sm_clock_hz] if seen.sm_clock_hz is not None else []
            ran.throttled += [r for r in seen.throttled if r not in (*HARMLESS, *ran.throttled)]
            ran.others += [pid for pid in seen.others if pid not in ran.others]
        ran.seconds[cell.title] = times
    ran.clock_hz = statistics.median(clocks) if clocks else None
    if record.environment.device_type == "cuda" and not readings:
        ran.unwatched = reason
    return ran


def disturbance(processes: list[Ran], spread: float) -> str:
    """Why processes were not measured on one steady machine; "" if they were."""
    for ran in processes:
        if ran.throttled:
            return f"the GPU was throttled: {', '.join(ran.throttled)}"
        if ran.others:
            return f"other processes used the GPU: {', '.join(map(str, ran.others))}"
    clocks = [
        [ran.clock_hz for ran in processes if ran.arm == arm and ran.clock_hz] for arm in "AB"
    ]
    if not all(clocks):
        return ""
    slow, fast = sorted(statistics.median(known) for known in clocks)
    change = 1 - slow / fast
    if change <= spread:
        return ""
    return (
        f"the SM clock differs by {change:.1%} between base and head, {spread:.0%} are allowed: "
        "lock it (nvidia-smi --lock-gpu-clocks)"
    )
