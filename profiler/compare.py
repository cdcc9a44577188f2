"""The main job: measure methods side by side, round by round, and keep every sample."""

from __future__ import annotations

import datetime
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ..methods import Method, parse, with_keep
from ..methods.core.context import no_lap
from ..methods.core.engine import Trace, run
from ..methods.core.errors import InputError, first_line
from ..methods.core.ledger import Policy, check_policy
from ..reports import record as schema
from . import memory
from .cells import Cell, label, make_cells, saved_cell
from .clock import Stopwatch, Timing, now, on_device
from .environment import environment
from .equalize import equalize
from .models.load import default_name, load
from .models.model import Model
from .workload import Preparation, Workload, describe, make_workload

MIN_ROUNDS = 6  # the fewest samples that give a 95 % interval of a median
MAX_ROUNDS = 30
WARMUPS_CPU, WARMUPS_GPU = 1, 4  # untimed requests of each cell; the last gives peak memory

Progress = Callable[[str, int, int], None]
"""Told what runs now, how many requests are done, and how many there are about."""


@dataclass(frozen=True)
class Options:
    """How to measure. rounds: fixed number of rounds; None measures for about `seconds`, at least
    6 and at most 30 rounds."""

    attention: tuple[Policy, ...] = ("maps", "rows")
    keep: str | None = None
    equalize: bool = False
    rounds: int | None = None
    seconds: float = 25.0

    def __post_init__(self) -> None:
        for policy in self.attention:
            check_policy(policy)
        if self.rounds is not None and self.rounds < 1:
            raise InputError(f"--rounds must be at least 1, not {self.rounds}")


class Comparison:
    """A model, a workload and the cells to measure; `record` gives what is measured so far."""

    def __init__(
        self,
        methods: str | Method | Sequence[str | Method],
        *,
        model: str | Model | None = None,
        device: str | None = None,
        dtype: str | None = None,
        backend: str = "sdpa",
        seed: int = 0,
        workload: Workload | None = None,
        options: Options | None = None,
        command: str = "",
    ) -> None:
        self.options = options or Options()
        self.workload = workload or Workload()
        listed = [methods] if isinstance(methods, (str, Method)) else methods
        chosen = [self._with_budget(method) for method in listed]
        if isinstance(model, Model):
            self.model, self.reason = model, "given"
        else:
            name, self.reason = (model, "chosen") if model else default_name(device, dtype)
            self.model = load(name, device=device, dtype=dtype, backend=backend, seed=seed)
        self.prepare = Preparation(self.model, self.workload)
        self.request = self.prepare.request
        if self.options.equalize:
            chosen = equalize(chosen, self.request)
        self.cells = make_cells(chosen, self.options.attention, self.request)
        self.complete = False
        self.created = datetime.datetime.now(datetime.timezone.utc)
        self.command = command
        self.watch = Stopwatch(self.model.device)

    def run(
        self,
        progress: Progress | None = None,
        after_round: Callable[[schema.Record], None] | None = None,
    ) -> schema.Record:
        """Warm up, measure and return the record; `after_round` gets it after every round."""
        with on_device(self.model.device):
            return self._run(progress or _tell_nobody, after_round)

    def _run(
        self, tell: Progress, after_round: Callable[[schema.Record], None] | None
    ) -> schema.Record:
        self._prepare_cells(tell)
        started, done = now(), 0
        while self._alive and not self._enough(done, now() - started):
            left = self._rounds_left(done, now() - started)
            alive = self._alive
            with _steady():
                for place, cell in enumerate(_order(alive, done)):
                    tell(label(cell), done * len(alive) + place, (done + left) * len(alive))
                    try:
                        cell.timings.append((done, place, self._timed(cell)))
                    except Exception as error:
                        cell.error = first_line(error)
            done += 1
            if after_round:
                after_round(self.record())
        self.complete = True
        return self.record()

    def record(self) -> schema.Record:
        """What has been measured so far."""
        model, request = self.model, self.request
        encoder = request.encoder
        return schema.Record(
            schema=schema.SCHEMA,
            tpprof=version("tpprof"),
            created=self.created.isoformat(timespec="seconds"),
            command=self.command,
            complete=self.complete,
            environment=environment(model.device),
            model=schema.ModelInfo(
                name=model.name,
                architecture=model.shape.architecture,
                source=model.source,
                reason=self.reason,
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
            cells=[saved_cell(cell, model, request) for cell in self.cells],
        )

    @property
    def _alive(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.error]

    def _with_budget(self, method: str | Method) -> Method:
        parsed = parse(method) if isinstance(method, str) else method
        return with_keep(parsed, self.options.keep) if self.options.keep else parsed

    def _prepare_cells(self, tell: Progress) -> None:
        """Solve, warm up and take the memory of each cell; a cell that fails keeps its reason."""
        warmups = WARMUPS_GPU if self.model.device.type == "cuda" else WARMUPS_CPU
        for number, cell in enumerate(self.cells):
            tell(f"warm-up {label(cell)}", number, len(self.cells))
            try:
                for _ in range(warmups - 1):
                    self._request(cell, no_lap)
                request = functools.partial(self._request, cell)
                cell.peak, cell.trace = memory.peak(self.model.device, request)
            except InputError:
                raise
            except Exception as error:
                cell.error = first_line(error)

    def _request(self, cell: Cell, lap: Callable[..., None]) -> Trace:
        """One request from picture to last token."""
        inputs = self.prepare()
        lap("preprocess", "preprocess")
        inputs = inputs.to(self.model.device)
        lap("transfer", "transfer")
        return run(
            self.model, inputs, cell.method, attention=cell.policy, solved=cell.solved, lap=lap
        )

    def _timed(self, cell: Cell) -> Timing:
        self.watch.start()
        trace = self._request(cell, self.watch.lap)
        timing = self.watch.stop()
        if trace.tokens.shape[1] != self.request.new_tokens:
            raise RuntimeError(f"{label(cell)} gave {trace.tokens.shape[1]} tokens")
        cell.trace = trace
        return timing

    def _enough(self, done: int, spent: float) -> bool:
        if self.options.rounds is not None:
            return done >= self.options.rounds
        return done >= MAX_ROUNDS or (done >= MIN_ROUNDS and spent >= self.options.seconds)

    def _rounds_left(self, done: int, spent: float) -> int:
        if self.options.rounds is not None:
            return self.options.rounds - done
        if not done:
            return MIN_ROUNDS
        fitting = int((self.options.seconds - spent) / (spent / done)) + 1
        return max(MIN_ROUNDS - done, min(fitting, MAX_ROUNDS - done), 1)


def compare(
    methods: str | Method | Sequence[str | Method],
    *,
    model: str | Model | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: str = "sdpa",
    seed: int = 0,
    attention: Sequence[Policy] = ("maps", "rows"),
    keep: str | int | float | None = None,
    rounds: int | None = None,
    **workload: Any,
) -> schema.Record:
    """Measure methods side by side and return the record that `tpprof compare` saves.

    methods: spec strings or Methods; vanilla is always measured, first. keep: budget of all.
    attention: policies under which attention-based methods appear. rounds: fixed number of
    rounds, or None for about 25 seconds, at least 6 rounds. workload: options of `tpprof.inputs`.
    Raises InputError for what does not exist or does not fit.
    """
    options = Options(
        attention=tuple(attention), keep=None if keep is None else str(keep), rounds=rounds
    )
    return Comparison(
        methods, model=model, device=device, dtype=dtype, backend=backend, seed=seed,
        workload=make_workload(seed=seed, **workload), options=options,
    ).run()  # fmt: skip


def _order(cells: list[Cell], done: int) -> list[Cell]:
    """The order of a round: turned by one each time, and reversed every other time."""
    turn = (done // 2) % max(len(cells), 1)
    turned = cells[turn:] + cells[:turn]
    return turned[::-1] if done % 2 else turned


@contextmanager
def _steady() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tell_nobody(label: str, done: int, total: int) -> None:
    return None
