"""The main job: measure methods side by side, round by round, and keep every sample."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...methods import Method, format_spec, load_plugins, parse
from ...methods.contract.plugins import contents
from ...methods.contract.policies import check_policy, check_runtime
from ...reports.record import files, schema
from ...reports.record.base import RecordError
from ...reports.record.journal import Journal, encoded
from ...reports.record.labels import name
from ...reports.record.spec import PASSES, OptionError, RunSpec
from ...reports.sanitize import say
from .. import cost
from ..accuracy.beside import with_accuracy
from ..accuracy.exam import SEER, require_companions, set_exam
from ..machine import calibration, doctor
from ..machine.environment import describe_environment, own_version
from ..models.checkpoint.rotary import require_stateless
from ..models.forks import require_own_code
from ..models.load import default_name, load, require_device_processor
from ..models.model import Model
from ..workload import Preparation
from . import rounds
from .bench import Bench, steady
from .cells import BenchCell, make_cells, without_counts
from .equalize import equalize, unequal
from .kept_tokens import picture
from .memory_limit import require_room
from .rounds import Progress

NOT_ASKED = "not asked for (--passes)"
ISOLATED_WARMUPS = 2  # a fresh process is colder than its first request shows


class Comparison:
    """A model, a workload and the cells to measure; `record` holds what is measured so far.

    With a journal, each thing that becomes known is a line of it at once. With a trace, one request
    of the first pruned method is traced into that file when the rounds are over.
    """

    def __init__(self, spec: RunSpec, *, model: Model | None = None, command: str = "") -> None:
        """Loads torch, the plug-ins and the model. model: in the place of the one that the
        specification names. Raises InputError for what does not exist or does not fit."""
        for policy in spec.cells.attention:
            check_policy(policy)
        for runtime in spec.cells.runtime:
            check_runtime(runtime)
        if spec.workload.preprocess == "device":
            require_device_processor(spec.model.name if model is None else None)
        load_plugins(spec.cells.plugin)
        self.spec = spec
        chosen = [parse(method, spec.cells.keep) for method in spec.cells.methods]
        if spec.accuracy.accuracy:
            set_exam(spec.accuracy, spec.model.name)
        self.model, reason = (model, "given") if model is not None else _load(spec)
        require_own_code(self.model.name, self.model.module)
        require_stateless(self.model.name, self.model.module)
        if spec.accuracy.accuracy:
            require_companions(self.model)
        require_room(self.model, spec.workload)
        self.prepare = Preparation(self.model, spec.workload, spec.model.seed)
        self.notes: list[str] = []  # what a user should know before anything is measured
        if spec.cells.equalize:
            self.notes += unequal(chosen, self.prepare)
            chosen = equalize(chosen, self.prepare)
        policies: Any = spec.cells.attention
        runtimes: Any = spec.cells.runtime
        self.cells = make_cells(chosen, policies, runtimes, self.prepare)
        errors = dict.fromkeys(cell.saved.error for cell in self.cells if cell.saved.error)
        self.notes += [f"not measured: {error}" for error in errors]
        self.record = self._record(reason, command)
        self.journal: Journal | None = None
        self.trace: Path | None = None
        self.traced = False

    def calibrate(self) -> None:
        """See that the peaks of the device are in the record: measured now if they never were."""
        if self.record.peaks is None:
            say(f"calibrating {self.model.device}, once: a few seconds")
            self.record.peaks = calibration.calibrate(self.model.device)

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
        for number in wanted:
            self.cells[number].saved.setups = dict(self.cells[number].runtime.setups)
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
            pruned = [number for number in alive if self.cells[number].method.name != "vanilla"]
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
        with Bench(self.model, self.prepare, tokens=self.spec.extras.tokens) as bench:
            process, index = bench.joined(cell, number), len(self.record.processes)
            self.record.processes.append(process)
            self._write(files.Joined(index=index, process=process))
            try:
                yield bench, index
            finally:
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
        model, request = self.model, self.prepare.request
        encoder, shown = request.encoder, self.prepare.pictures
        created = datetime.datetime.now(datetime.timezone.utc)
        environment = describe_environment(model.device)
        environment.warnings = doctor.warnings(environment, broken=doctor.broken_packages())
        environment.plugins = contents(self.spec.cells.plugin)
        return schema.Record(
            schema=schema.SCHEMA,
            tpprof=own_version(),
            created=created.isoformat(timespec="seconds"),
            spec=self.spec,
            command=command,
            complete=False,
            environment=environment,
            model=schema.ModelInfo(
                name=model.name,
                architecture=model.shape.architecture.name,
                source=model.source,
                reason=reason,
                parameters=sum(weight.numel() for weight in model.module.parameters()),
                layers=request.layers,
                dtype=str(model.dtype).removeprefix("torch."),
                backend=model.backend,
                positions=getattr(model.text_config, "max_position_embeddings", None),
            ),
            request=schema.RequestInfo(
                before=request.before,
                visual=request.visual,
                after=request.after,
                batch=request.batch,
                new_tokens=request.new_tokens,
                tiles=encoder.tiles if encoder else None,
                patches=encoder.patches if encoder else None,
                positions=self.prepare().next_position + request.new_tokens - 1,
                between=request.text - request.before - request.after,
                pictures=0 if request.frames else len(request.spans),
                frames=request.frames,
                picture=[list(size) for size in self.prepare.whole_sizes] or None,
                notes=[note for picture in shown for note in picture.notes],
                preprocessing=self.prepare.preprocessing,
            ),
            cells=[cell.saved for cell in self.cells],
            text_only=cost.as_record(cost.text_only(model.shape, request, model.dtype.itemsize)),
            peaks=calibration.cached(model.device),
            picture=picture(model, self.prepare) if self.spec.extras.tokens else None,
        )


def compare(
    methods: str | Method | Sequence[str | Method],
    *,
    model: str | Model | None = None,
    passes: bool | Sequence[str] = True,
    **options: Any,
) -> schema.Record:
    """Measure methods side by side and return the record that `tpprof compare` saves.

    methods: spec strings or Methods; vanilla is always measured, first. model: a name, or a model
    that is loaded. passes: what is measured behind the rounds (`("energy", "flops")`), True for
    all, False for times alone. options: those of `tpprof compare`, by keyword (`rounds=6`,
    `attention=["rows"]`, `image_size=(336, 336)`).
    Raises InputError or OptionError for what does not exist or does not fit.
    """
    listed = [methods] if isinstance(methods, (str, Method)) else methods
    specs = [format_spec(m) if isinstance(m, Method) else m for m in listed]
    loaded = model if isinstance(model, Model) else None
    named = loaded.name if loaded is not None else model
    if isinstance(options.get("keep"), (int, float)):
        options["keep"] = str(options["keep"])
    if isinstance(passes, bool):
        passes = PASSES if passes else ()
    elif isinstance(passes, str):
        passes = [passes]
    spec = RunSpec.of(methods=specs, model=named, passes=passes, **options)
    if loaded is not None and spec.accuracy.accuracy:
        raise OptionError(
            "accuracy", "is asked for in a process of its own, which loads the model: name it"
        )
    record = Comparison(spec, model=loaded).run()
    return with_accuracy(record) if spec.accuracy.accuracy else record


def _load(spec: RunSpec) -> tuple[Model, str]:
    """The model, and why it is this one."""
    wanted = spec.model
    name, reason = wanted.name, "chosen"
    if name is None and spec.accuracy.accuracy:
        name, reason = SEER, "the default where accuracy is asked for: it sees"
    elif name is None:
        name, reason = default_name(wanted.device, wanted.dtype)
    loaded = load(
        name,
        device=wanted.device,
        dtype=wanted.dtype,
        backend=wanted.backend,
        seed=wanted.seed,
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
