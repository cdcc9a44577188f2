"""The main job: measure methods side by side, round by round, and keep every sample."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...methods import load_plugins, parse
from ...methods.contract.plugins import contents
from ...methods.contract.policies import check_policy, check_runtime
from ...reports.record import files, schema
from ...reports.record.base import RecordError
from ...reports.record.journal import Journal, encoded
from ...reports.record.labels import name
from ...reports.record.spec import PASSES, OptionError, RunSpec, Workload
from ...reports.sanitize import say
from .. import cost
from ..accuracy.exam import SEER, require_companions, require_seer, set_exam
from ..cost.planning import ITEMSIZES
from ..machine import calibration, doctor
from ..machine.environment import describe_environment, own_version
from ..models.checkpoint.rotary import require_stateless
from ..models.forks import require_own_code
from ..models.load import (
    default_device,
    default_name,
    load,
    require_device_processor,
    shape_of,
)
from ..models.model import Model
from ..models.weights.pipeline import devices_of
from ..subjects.bench_cell import BenchCell
from ..subjects.callables import (
    CallableRequest,
    Given,
    callable_cells,
    require_callables,
)
from ..subjects.renewal import fresh_processes
from ..tensor_parallel.lockstep import Lockstep
from ..tensor_parallel.spread_cell import SpreadCell
from ..workload import Preparation, require_request
from . import rounds
from .bench import Bench, steady
from .cells import make_cells, without_counts
from .described import model_info, request_info
from .equalize import equalize, unequal
from .kept_tokens import picture
from .memory_limit import require_room, require_room_on
from .rounds import Progress

NOT_ASKED = "not asked for (--passes)"
NO_MODEL = "callables alone: none of tpprof's is measured"
ISOLATED_WARMUPS = 2  # a fresh process is colder than its first request shows


class Comparison:
    """A model, a workload and the cells to measure; `record` holds what is measured so far.

    With a journal, each thing that becomes known is a line of it at once. With a trace, one request
    of the first pruned method is traced into that file when the rounds are over.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        model: Model | None = None,
        given: Given | None = None,
        command: str = "",
        fresh: bool = True,
        lockstep: Lockstep | None = None,
    ) -> None:
        """Loads torch, the plug-ins and the model. model: in the place of the one that the
        specification names. given: callables of this program, which the specification lists.
        fresh: whether each round of a callable begins in a fresh process. lockstep: this process
        among the ranks over which the model is spread.
        Raises InputError for what does not exist or does not fit."""
        _require_known(spec)
        _require_spread(spec, model, lockstep)
        self.lockstep = lockstep
        ours = model is not None or _wants_model(spec)
        require_callables(spec.cells.callables, spec.cells.python, beside_engine=ours)
        if not ours:
            _require_no_request(spec.workload)
        else:
            require_request(spec.workload)
        if ours and spec.workload.preprocess == "device":
            require_device_processor(spec.model.name if model is None else None)
        load_plugins(spec.cells.plugin)
        self.spec, self.fresh = spec, fresh
        self.notes: list[str] = []  # what a user should know before anything is measured
        if spec.accuracy.accuracy and not ours:
            raise OptionError("accuracy", "asks a model of tpprof's: name a method or a model")
        if spec.accuracy.accuracy:
            set_exam(spec.accuracy, spec.model.name)
        self.model, reason = model, "given"
        if model is None:
            self.model, reason = _load(spec, lockstep) if ours else (None, NO_MODEL)
        self.prepare: Preparation | None = None
        self.cells: list[BenchCell] = []
        if self.model is not None:
            self._add_engine_cells(self.model)
        self.device = self.model.device if self.model else default_device(spec.model.device)
        self._add_callables(given)
        errors = dict.fromkeys(cell.saved.error for cell in self.cells if cell.saved.error)
        self.notes += [f"not measured: {error}" for error in errors]
        self.record = self._record(reason, command)
        self.journal: Journal | None = None
        self.trace: Path | None = None
        self.traced = False

    def _add_engine_cells(self, model: Model) -> None:
        """The methods in the engine, and vanilla before them."""
        spec = self.spec
        require_own_code(model.name, model.module)
        require_stateless(model.name, model.module)
        if spec.accuracy.accuracy:
            require_companions(model)
        require_room(model, spec.workload)
        self.prepare = prepare = Preparation(model, spec.workload, spec.model.seed)
        chosen = [parse(method, spec.cells.keep) for method in spec.cells.methods]
        if spec.cells.equalize:
            self.notes += unequal(chosen, prepare)
            chosen = equalize(chosen, prepare)
        policies: Any = spec.cells.attention
        runtimes: Any = spec.cells.runtime
        cells = make_cells(chosen, policies, runtimes, prepare)
        lockstep = self.lockstep
        self.cells += [
            cell if lockstep is None else SpreadCell(cell, index, lockstep)
            for index, cell in enumerate(cells)
        ]

    def _add_callables(self, given: Given | None) -> None:
        import torch

        threads = torch.get_num_threads() if self.device.type == "cpu" else None
        self.cells += callable_cells(
            self.spec.cells.callables,
            self.spec.cells.python,
            CallableRequest(self.spec.workload.new_tokens, self.prepare, threads),
            beside_engine=self.model is not None,
            given=given,
        )

    def calibrate(self) -> None:
        """See that the peaks of the device are in the record: measured now if they never were.
        Callables alone need none: what they are made of is not known."""
        if self.record.peaks is None and self.model is not None:
            say(f"calibrating {self.device}, once: a few seconds")
            self.record.peaks = calibration.calibrate(self.device)

    def adopt(self, record: schema.Record) -> None:
        """Go on with `record`, of an earlier run or another process of the same configuration."""
        self.record = record
        for cell, saved in zip(self.cells, record.cells, strict=True):
            cell.saved = saved

    def run(self, progress: Progress | None = None) -> schema.Record:
        """Warm up, measure round by round until it is enough, and return the record."""
        tell = progress or _tell_nobody
        done = rounds.complete(self.record)
        enough = bool(done) and rounds.enough(self.record, done, 0.0)
        wanted = [
            number for number, cell in enumerate(self.cells) if not enough or _uncounted(cell)
        ]
        if wanted:
            with self._joined() as (bench, process):
                self._warm_up(bench, wanted, tell)
                if not enough:
                    self._rounds(bench, process, tell)
                self._passes(bench, wanted, tell)
        if not self.spec.accuracy.accuracy:  # whose questions come behind
            self.record.complete = True
            self._write(files.Ended())
        return self.record

    def follow(self) -> None:
        """On another rank than the first: do what that one does, until it is done."""
        assert self.lockstep is not None
        with Bench(self.device, tokens=False) as bench:
            self.lockstep.follow(lambda what, index: self._act(bench, what, index))

    def _act(self, bench: Bench, what: str, index: int) -> None:
        cell = self.cells[index]
        assert isinstance(cell, SpreadCell)
        cell.act(what, bench.tools)

    def run_cell(
        self, index: int, number: int, turn: int, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Measure one cell for round `number`, as the only one of this process, while `wanted`."""
        cell = self.cells[index]
        with self._joined(index, number) as (bench, process):
            bench.warm_up(cell, least=ISOLATED_WARMUPS)
            for _ in range(self.spec.stopping.samples):
                if wanted():
                    with steady():
                        self._sample(bench, index, number, turn, process)
            if wanted():
                self._passes(bench, [index] if _uncounted(cell) else [], _tell_nobody)
                self._write_cell(index)

    def _warm_up(self, bench: Bench, wanted: list[int], tell: Progress) -> None:
        for done, number in enumerate(wanted):
            cell = self.cells[number]
            cell.saved.error = ""  # of an earlier run: it is given another try
            tell(f"warm-up {name(cell.saved)}", done, len(wanted))
            bench.warm_up(cell)
            self._write_cell(number)
        for number in wanted:
            bench.settle(self.cells[number])

    def _passes(self, bench: Bench, wanted: list[int], tell: Progress) -> None:
        """Energy of all cells; then what their decisions do, the first request at a new length, and
        only then what torch counts, which slows down what follows. What was not asked for is said
        to be so."""
        asked = self.spec.extras.passes
        for measure in (bench.energy, bench.decisions, bench.lengths, bench.flops, bench.activity):
            what = measure.__name__
            for done, number in enumerate(wanted):
                cell = self.cells[number]
                tell(f"{what} of {name(cell.saved)}", done, len(wanted))
                if cell.alive and (what in asked or (asked and what == "decisions")):
                    measure(cell)
                elif what in PASSES and what not in asked:
                    _note_not_asked(cell.saved, what)
                self._write_cell(number)
        alive = [number for number in wanted if self.cells[number].alive]
        if self.trace is not None and alive:
            pruned = [number for number in alive if self.cells[number].prunes]
            chosen = (pruned or alive)[0]
            tell(f"trace of {name(self.cells[chosen].saved)}", 0, 1)
            self.traced = bench.trace(self.cells[chosen], self.trace)
            self._write_cell(chosen)

    def _rounds(self, bench: Bench, process: int, tell: Progress) -> None:
        rounds.follow(
            lambda: self.record,
            lambda index, number, turn: self._sample(bench, index, number, turn, process),
            tell,
            lambda cell, number: name(cell),
            steady,
            lambda number: fresh_processes(self.cells, bench.renew, number) if self.fresh else 1,
        )

    def _sample(self, bench: Bench, index: int, number: int, turn: int, process: int) -> None:
        cell = self.cells[index]
        if not cell.alive:
            return
        known = bool(cell.saved.parts)
        sample = bench.sample(cell, number, turn, process)
        if sample is None or not known:
            self._write_cell(index)
        if sample is not None:
            cell.saved.samples.append(sample)
            self._write(files.Taken(index=index, sample=sample))

    @contextlib.contextmanager
    def _joined(
        self, cell: int | None = None, number: int | None = None
    ) -> Iterator[tuple[Bench, int]]:
        """A bench, and the number of this process in the record."""
        others = self.model.pipeline[1:] if self.model else ()
        with Bench(self.device, others=others, tokens=self.spec.extras.tokens) as bench:
            process, index = bench.joined(cell, number), len(self.record.processes)
            self.record.processes.append(process)
            self._write(files.Joined(index=index, process=process))
            try:
                yield bench, index
            finally:
                for each in self.cells:
                    each.close()
                self._write(files.Joined(index=index, process=bench.left(process)))

    def _write_cell(self, index: int) -> None:
        """What a method gave that no record can hold ends its cell, and nothing else."""
        cell = self.cells[index]
        try:
            encoded(files.Known.of(index, cell.saved))
        except RecordError as error:
            self.record.cells[index] = cell.saved = without_counts(cell.saved, str(error))
        self._write(files.Known.of(index, cell.saved))

    def _write(self, line: files.Line) -> None:
        if self.journal is not None:
            self.journal.append(line)

    def _record(self, reason: str, command: str) -> schema.Record:
        model, prepare = self.model, self.prepare
        created = datetime.datetime.now(datetime.timezone.utc)
        environment = describe_environment(self.device)
        environment.warnings = doctor.warnings(environment, broken=doctor.broken_packages())
        environment.plugins = contents(self.spec.cells.plugin)
        record = schema.Record(
            schema=schema.SCHEMA,
            tpprof=own_version(),
            created=created.isoformat(timespec="seconds"),
            spec=self.spec,
            command=command,
            complete=False,
            environment=environment,
            model=model_info(model, reason, prepare.request.layers if prepare else None),
            request=request_info(prepare, self.spec.workload),
            cells=[cell.saved for cell in self.cells],
        )
        if model is not None and prepare is not None:
            work = cost.text_only(model.share, prepare.request, model.dtype.itemsize)
            record.text_only = cost.as_record(work)
            record.peaks = calibration.cached(model.device)
            record.picture = picture(model, prepare) if self.spec.extras.tokens else None
        return record


def _require_known(spec: RunSpec) -> None:
    """Raises InputError for a policy or a runtime that does not exist."""
    for policy in spec.cells.attention:
        check_policy(policy)
    for runtime in spec.cells.runtime:
        check_runtime(runtime)


def _require_no_request(workload: Workload) -> None:
    """Raises OptionError for what shapes a request of tpprof's, where callables make their own."""
    usual = Workload()
    for field in ("image", "image_size", "video", "frames", "messages", "prompt", "text_tokens"):
        if getattr(workload, field) != getattr(usual, field):
            raise OptionError(
                field,
                "shapes a request of tpprof's, and callables alone make their own: name a METHOD "
                "or a model",
            )


def _require_spread(spec: RunSpec, model: Model | None, lockstep: Lockstep | None) -> None:
    """Raises OptionError for what cannot run over several devices."""
    if spec.model.tensor_parallel > 1 and lockstep is None:
        raise OptionError(
            "tensor_parallel",
            "starts processes of its own: use `tpprof compare` or `tpprof sweep`",
        )
    if spec.model.pipeline == 1 and (model is None or len(model.pipeline) == 1):
        return
    if spec.cells.callables:
        raise OptionError("pipeline", "lays out models of tpprof's, and no callable", "callable")
    if any(runtime != "eager" for runtime in spec.cells.runtime):
        raise OptionError("pipeline", "runs eagerly: leave runtime out", "runtime")


def _wants_model(spec: RunSpec) -> bool:
    """Whether a model of tpprof's is measured: only callables need none."""
    named = spec.cells.methods or spec.model.name is not None
    return bool(named) or not spec.cells.callables


def _load(spec: RunSpec, lockstep: Lockstep | None) -> tuple[Model, str]:
    """The model, and why it is this one."""
    wanted = spec.model
    name, reason = wanted.name, "chosen"
    if name is None and spec.accuracy.accuracy:
        require_seer()
        name, reason = SEER, "the default where accuracy is asked for: it sees"
    elif name is None:
        name, reason = default_name(wanted.device, wanted.dtype)
    devices = devices_of(wanted)
    if devices and (itemsize := ITEMSIZES.get(wanted.dtype or "bfloat16")):
        pictures = spec.workload.visual_tokens is None
        require_room_on(devices, shape_of(name, pictures=pictures), spec.workload, itemsize)
    loaded = load(
        name,
        device=wanted.device if lockstep is None else lockstep.device,
        dtype=wanted.dtype,
        backend=wanted.backend,
        seed=wanted.seed,
        ranks=None if lockstep is None else lockstep.ranks,
        pipeline=devices,
    )
    return loaded, reason


def _uncounted(cell: BenchCell) -> bool:
    """Whether the passes behind the rounds are still to be made."""
    counted = cell.saved.activity or "activity" in cell.saved.missing
    return cell.alive and not counted


def _note_not_asked(cell: schema.Cell, what: str) -> None:
    """The reason of a figure that was not to be measured; one of an earlier run stays."""
    if what == "energy":
        if cell.energy.joules is None:
            cell.energy = schema.Energy(reason=NOT_ASKED)
        return
    found = {
        "flops": cell.counted_flops,
        "activity": cell.activity,
        "lengths": cell.new_length,
    }
    if not found[what]:
        cell.missing[what] = NOT_ASKED


def _tell_nobody(label: str, done: int, total: int) -> None:
    return None
