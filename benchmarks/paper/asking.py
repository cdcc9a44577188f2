"""The asking: rows of answers and positions of kept tokens, several at once, gone on with."""

from __future__ import annotations

import functools
import hashlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

import tpprof
from tpprof import methods
from tpprof.methods.contract.errors import InputError
from tpprof.profiler.accuracy.answer_files import digest_of_model
from tpprof.profiler.accuracy.exam import Exam
from tpprof.profiler.accuracy.resumable import ResumableEvaluation
from tpprof.profiler.run.kept_tokens import selections
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores
from tpprof.reports.analysis.intervals import Estimate, t_quantile
from tpprof.reports.analysis.position_bias import by_chance, divergence, multiples, offset
from tpprof.reports.outputs import beside
from tpprof.reports.record.accuracy import Accuracy
from tpprof.reports.record.kept import Kept, pruned
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sanitize import say

from .questions import POPE, Examination, Question, made
from .results import RULE, Position, Results, TableResult, table_result

NEW_TOKENS, BATCH_SIZE = 4, 16
TABLE_7 = ("fastv", "sparsevlm", "mustdrop", "random", "pooling")


@dataclass(frozen=True)
class Asking:
    """An examination, and the folder of its answers, which are gone on with. workers: processes of
    one thread each."""

    examination: Examination
    folder: Path
    workers: int

    def run(self, command: str) -> Results:
        """Ask all that is not answered yet. Raises InputError and OutputError."""
        told = self.examination
        with self._pool() as pool:
            self._each(pool, [(_answer, exam, 0, "vanilla") for exam in told.exams])
            blind = {exam: self._blind(exam) for exam in told.exams}
            rows = {
                (_answer, table.exam, budget, method)
                for table in told.tables
                for budget in told.budgets
                for method in table.methods
                if not blind[table.exam]
            }
            places = [
                (_position, POPE, budget, method)
                for budget in told.budgets
                for method in told.located
            ]
            self._each(pool, [*sorted(rows, key=lambda row: row[1:]), *places])
        return Results(
            command,
            told.model,
            digest_of_model(told.model),
            RULE,
            list(told.budgets),
            [
                self._table(table, budget, blind[table.exam])
                for budget in told.budgets
                for table in told.tables
            ],
            [
                _position(self, POPE, budget, method)
                for budget in told.budgets
                for method in told.located
            ],
        )

    def time(self) -> Path:
        """The record of Table 7, taken where nothing else runs; taken once."""
        path = self.folder / "table-7.json"
        if not path.exists():
            say(f"Table 7: timing {', '.join(TABLE_7)}")
            part = path.with_suffix(".part.json").name
            program = "from tpprof.profiler.cli import main; main()"
            told = self.examination.timed or ()
            asked = ["compare", *TABLE_7, *told, "--keep", str(min(self.budgets))]
            done = subprocess.run(
                [sys.executable, "-c", program, *asked, "--out", part, "--overwrite"],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
            )
            if done.returncode:
                raise InputError(f"Table 7: its run ended with exit code {done.returncode}")
            (self.folder / part).replace(path)
        return path

    @property
    def budgets(self) -> Sequence[int]:
        return self.examination.budgets

    def evaluation(self, exam: Exam, budget: int, methods: Sequence[str]) -> ResumableEvaluation:
        """Of some methods; vanilla is asked once, whatever the budget."""
        keep = str(budget or min(self.budgets))
        spec = RunSpec.of(
            methods=methods, keep=keep, model=self.examination.model, attention=["rows"]
        )
        stem = exam.benchmark.lower().replace(", ", "-")
        return ResumableEvaluation(
            spec, self.folder / stem, new_tokens=NEW_TOKENS, batch_size=BATCH_SIZE, exam=exam
        )

    def _pool(self) -> ProcessPoolExecutor:
        """Processes of one thread each: two of these do more than one of two threads."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, context, initializer=_begin)

    def _each(self, pool: ProcessPoolExecutor, jobs: Iterable[tuple[Any, str, int, str]]) -> None:
        """Do all jobs. What ends one ends the others before they begin; all that was answered is
        kept."""
        running = {
            pool.submit(work, self, exam, budget, method): f"{exam}, {budget or 'all'}, {method}"
            for work, exam, budget, method in jobs
        }
        try:
            for number, done in enumerate(as_completed(running), 1):
                done.result()
                say(f"{running[done]}: done ({number} of {len(running)})")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    def _answered(self, exam: str, budget: int, methods: Sequence[str]) -> Accuracy:
        asked = self.evaluation(made(self.examination.exams[exam]), budget, methods)
        asked.run(lambda label, done, total: None)
        return asked.accuracy

    def _blind(self, exam: str) -> str:
        """Why no method is compared: the unpruned model is right no more often than by chance; ""
        where it is."""
        accuracy = self._answered(exam, 0, ["vanilla"])
        (score,) = scores(accuracy, RULES[RULE])
        most = 0.5 + 1.96 * math.sqrt(0.25 / score.questions)  # 95 % of who says yes to half
        if score.accuracy is None:
            return score.reason
        if score.accuracy > most:
            return ""
        return (
            f"Not asked: unpruned, the model is right {score.accuracy:.3f} of {score.questions}, "
            f"as by chance (up to {most:.3f}), so that pruning can take nothing from it."
        )

    def _table(self, table: Question, budget: int, blind: str) -> TableResult:
        methods = ["vanilla"] if blind else list(table.methods)
        accuracy = self._answered(table.exam, budget, methods)
        return table_result(table.name, table.title, budget, accuracy, table.pairs, blind)


def methods_digest() -> str:
    """SHA-256 of the source of the methods and the engine: what others kept answers nothing."""
    home = Path(methods.__file__).parent
    found = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _begin() -> None:
    """A worker: one thread; Ctrl-C ends it without a word, and the end of its parent does. What it
    answered is kept."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(asking: Asking, exam: str, budget: int, method: str) -> None:
    """Have a row answered."""
    asked = asking.evaluation(made(asking.examination.exams[exam]), budget, [method])
    asked.run(lambda label, done, total: None)


def _position(asking: Asking, exam: str, budget: int, method: str) -> Position:
    """Where the tokens lie that a method keeps at its last prune, of the first question about each
    picture."""
    told = asking.examination
    path = asking.folder / "kept" / f"{method}-{budget}-{told.pictures}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Position)
    asked = made(told.exams[exam])
    model = _model(told.model)
    first = {question.picture: question for question in reversed(asked.questions)}
    chosen = sorted(first.items(), key=lambda item: int(item[0]))[: told.pictures]
    kept: list[Kept] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, question in chosen:
            image = Path(folder) / f"{number}.png"
            asked.pictures.image(number).save(image)
            inputs = tpprof.inputs(model, image=str(image), prompt=question.prompt)
            seed = f",seed={number}" if method == "random" else ""  # or all share one draw
            spec = f"{method}:keep={budget}{seed}"
            trace = tpprof.forward(model, inputs, spec, new_tokens=1, verify=False)
            kept += pruned(selections(trace, inputs.request.visual))[-1:]
    found = Position(
        method,
        budget,
        len(kept),
        _thirds(kept),
        multiples(kept),
        _offset(kept),
        _known(divergence(kept)),
        _known(by_chance(kept)),
    )
    with beside(path) as part:
        part.write_bytes(msgspec.json.encode(found))
    return found


@functools.lru_cache
def _model(name: str) -> Any:
    return tpprof.load(name)


def _known(figure: float | None) -> float:
    """A figure of where kept tokens lie, which tokens without a place have not."""
    if figure is None:
        raise ValueError("no token that is kept has a place of its own: nothing says where it lies")
    return figure


def _thirds(kept: Sequence[Kept]) -> list[float]:
    """Shares of the kept tokens in the upper, middle and lower third of the sequence."""
    parts = [0, 0, 0]
    for entry in kept:
        for token in entry.tokens:
            parts[3 * token // entry.visual] += 1
    return [part / sum(parts) for part in parts]


def _offset(kept: Sequence[Kept]) -> Estimate:
    """Over all kept tokens, with Student's interval over the pictures."""
    whole, count = _known(offset(kept)), len(kept)
    each = [_known(offset([entry])) for entry in kept]
    if count < 6:
        return Estimate(whole, None, None, count)
    mean = sum(each) / count
    spread = math.sqrt(sum((one - mean) ** 2 for one in each) / (count - 1) / count)
    reach = t_quantile(count - 1) * spread
    return Estimate(whole, whole - reach, whole + reach, count)
