"""The main job: measure methods side by side, round by round, and keep every sample."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...methods import Method, parse, with_keep
from ...methods.contract.errors import InputError
from ...methods.contract.plugins import contents
from ...methods.contract.policies import Policy, RuntimeName
from ...reports.record import files, schema
from ...reports.record.labels import name
from ..machine import doctor
from ..machine.calibration import cached
from ..machine.environment import describe_environment
from ..meters.clock import now
from ..models.load import default_name, load
from ..models.model import Model
from ..workload import Preparation, Workload, describe, make_workload
from . import rounds
from .bench import Bench, steady
from .cells import BenchCell, make_cells
from .equalize import equalize
from .kept_tokens import picture
from .rounds import Progress

ISOLATED_WARMUPS = 2  # a fresh process is colder than its first request shows


class Comparison:
    """A model, a workload and the cells to measure; `record` holds what is measured so far.

    With a journal, each thing that becomes known is a line of it at once. With a trace, one request
    of the first pruned method is traced into that file when the rounds are over. Without passes,
    times are taken and nothing else: no energy, no counts of torch.
    """

    def __init__(
        self,
        methods: str | Method | Sequence[str | Method],
        *,
        model: str | Model | None = None,
        device: str | None = None,
        dtype: str | None = None,
        backend: str = "sdpa",
        workload: Workload | None = None,
        settings: schema.Settings | None = None,
        command: str = "",
    ) -> None:
        self.settings = rounds.check(settings or schema.Settings())
        self.workload = workload or Workload()
        listed = [methods] if isinstance(methods, (str, Method)) else methods
        chosen = [self._with_budget(method) for method in listed]
        if isinstance(model, Model):
            self.model, reason = model, "given"
        else:
            chosen_name, reason = (model, "chosen") if model else default_name(device, dtype)
            self.model = load(
                chosen_name, device=device, dtype=dtype, backend=backend, seed=self.settings.seed
            )
        self.prepare = Preparation(self.model, self.workload)
        request = self.prepare.request
        if self.settings.equalize:
            chosen = equalize(chosen, request)
        policies: Any = self.settings.attention
        runtimes: Any = self.settings.runtimes
        self.cells = make_cells(chosen, policies, runtimes, request, self.model)
        self.record = self._record(reason, command)
        self.passes = True
        self.journal: files.Journal | None = None
        self.trace: Path | None = None

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
            for _ in range(self.settings.samples):
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
        """Energy of all cells, and only then what torch counts, which slows it down."""
        for measure in (bench.energy, bench.flops, bench.activity) if self.passes else ():
            for done, number in enumerate(wanted):
                cell = self.cells[number]
                tell(f"{measure.__name__} of {name(cell.saved)}", done, len(wanted))
                if cell.alive:
                    measure(cell)
                self._write_cell(number)
        alive = [number for number in wanted if self.cells[number].alive]
        if self.trace is not None and alive:
            pruned = [number for number in alive if self.cells[number].method.name != "vanilla"]
            chosen = (pruned or alive)[0]
            tell(f"trace of {name(self.cells[chosen].saved)}", 0, 1)
            bench.trace(self.cells[chosen], self.trace)
            self._write_cell(chosen)

    def _rounds(self, bench: Bench, process: int, tell: Progress) -> None:
        began, first, number = now(), rounds.complete(self.record), rounds.begun(self.record)
        while any(cell.alive for cell in self.cells):
            spent, done = now() - began, rounds.complete(self.record)
            if rounds.enough(self.record, done, spent):
                break
            left = rounds.left(self.settings, done - first, spent)
            alive = [index for index, cell in enumerate(self.cells) if cell.alive]
            with steady():
                for turn, chosen in enumerate(rounds.order(len(alive), number)):
                    steps = (done * len(alive) + turn, (done + left) * len(alive))
                    tell(name(self.cells[alive[chosen]].saved), *steps)
                    self._sample(bench, alive[chosen], number, turn, process)
            number += 1

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
        with Bench(self.model, self.prepare, tokens=self.settings.tokens) as bench:
            process, index = bench.joined(cell, number), len(self.record.processes)
            self.record.processes.append(process)
            self._write(files.Joined(index=index, process=process))
            try:
                yield bench, index
            finally:
                self._write(files.Joined(index=index, process=bench.left(process)))

    def _write_cell(self, index: int) -> None:
        self._write(files.Known.of(index, self.cells[index].saved))

    def _write(self, line: files.Line) -> None:
        if self.journal is not None:
            self.journal.append(line)

    def _with_budget(self, method: str | Method) -> Method:
        parsed = parse(method) if isinstance(method, str) else method
        return with_keep(parsed, self.settings.keep) if self.settings.keep else parsed

    def _record(self, reason: str, command: str) -> schema.Record:
        model, request = self.model, self.prepare.request
        encoder = request.encoder
        created = datetime.datetime.now(datetime.timezone.utc)
        environment = describe_environment(model.device)
        environment.warnings = doctor.warnings(environment, broken=doctor.broken_packages())
        environment.plugins = contents(self.settings.plugins)
        return schema.Record(
            schema=schema.SCHEMA,
            tpprof=version("tpprof"),
            created=created.isoformat(timespec="seconds"),
            command=command,
            complete=False,
            environment=environment,
            model=schema.ModelInfo(
                name=model.name,
                architecture=model.shape.architecture,
                source=model.source,
                reason=reason,
                parameters=sum(weight.numel() for weight in model.module.parameters()),
                layers=request.layers,
                dtype=str(model.dtype).removeprefix("torch."),
                backend=model.backend,
            ),
            workload=describe(self.workload),
            request=schema.RequestInfo(
                before=request.before,
                visual=request.visual,
                after=request.after,
                batch=request.batch,
                new_tokens=request.new_tokens,
                tiles=encoder.tiles if encoder else None,
                patches=encoder.patches if encoder else None,
            ),
            settings=self.settings,
            cells=[cell.saved for cell in self.cells],
            peaks=cached(model.device),
            picture=picture(model, self.prepare) if self.settings.tokens else None,
        )


def compare(
    methods: str | Method | Sequence[str | Method],
    *,
    model: str | Model | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: str = "sdpa",
    seed: int = 0,
    attention: Sequence[Policy] = ("maps", "rows"),
    runtime: Sequence[RuntimeName] = ("eager",),
    keep: str | int | float | None = None,
    rounds: int | None = None,
    target: float = 0.02,
    max_seconds: float | None = 25.0,
    passes: bool = True,
    **workload: Any,
) -> schema.Record:
    """Measure methods side by side and return the record that `tpprof compare` saves.

    methods: spec strings or Methods; vanilla is always measured, first. keep: budget of all.
    attention: policies under which attention-based methods appear. runtime: runtimes under which
    all cells appear. rounds: fixed number of rounds, or None to go on until every cell is within
    `target` (half the 95 % interval over the median), or for `max_seconds`, at least 6 rounds.
    passes: whether energy and what torch counts are measured too, behind the rounds.
    workload: options of `tpprof.inputs`.
    Raises InputError for what does not exist or does not fit.
    """
    settings = schema.Settings(
        attention=list(attention),
        runtimes=list(runtime),
        target=target,
        seed=seed,
        keep=None if keep is None else str(keep),
        max_seconds=max_seconds,
    )
    if rounds is not None:
        settings.min_rounds = settings.max_rounds = rounds
    if rounds is not None and rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    comparison = Comparison(
        methods,
        model=model,
        device=device,
        dtype=dtype,
        backend=backend,
        workload=make_workload(seed=seed, **workload),
        settings=settings,
    )
    comparison.passes = passes
    return comparison.run()


def _uncounted(cell: BenchCell) -> bool:
    """Whether the passes behind the rounds are still to be made."""
    counted = cell.saved.activity or "activity" in cell.saved.missing
    return cell.alive and not counted


def _tell_nobody(label: str, done: int, total: int) -> None:
    return None
