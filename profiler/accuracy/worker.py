"""The process that asks the questions of a comparison, as plain data.

It reads its task from stdin, appends what is answered to the journal, and says nothing. It measures
nothing: no time is taken where questions are asked, and none are asked where time is taken.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...methods import load_plugins, parse
from ...methods.contract.errors import InputError
from ...methods.contract.policies import check_policy
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.accuracy import Accuracy
from ...reports.record.base import RecordError, Struct
from ...reports.record.journal import Journal
from ...reports.sanitize import say
from ..subprocesses import UNWRITABLE


class AccuracyTask(Struct):
    """out: the journal. parent: PID of the process that asks for it."""

    out: str
    parent: int


class JournalSheet:
    """Answers as lines of a journal."""

    def __init__(self, journal: Journal, accuracy: Accuracy) -> None:
        self.journal, self.accuracy = journal, accuracy

    def known(self, row: int) -> set[int]:
        texts = self.accuracy.answers[row].texts
        return {place for place, text in enumerate(texts) if text is not None}

    def keep(self, row: int, places: Sequence[int], texts: Sequence[str]) -> None:
        self.journal.append(files.Answered(row=row, places=list(places), texts=list(texts)))

    def fail(self, row: int, error: str) -> None:
        self.journal.append(files.Answered(row=row, error=error))


def main() -> None:
    """Do the task on stdin. Exit code 2 and one line for bad input, UNWRITABLE for a full disk."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=AccuracyTask)
    if os.getppid() != task.parent:  # it was killed, and the journal may be another run's by now
        return
    try:
        _ask(Path(task.out))
    except (InputError, RecordError) as error:
        say(str(error))
        raise SystemExit(2) from None
    except OutputError as error:
        say(str(error))
        raise SystemExit(UNWRITABLE) from None


def _ask(path: Path) -> None:
    from ..models.load import load
    from ..models.weights.pipeline import devices_of
    from .asking import Examinee
    from .evaluation import evaluate
    from .exam import set_exam

    record = files.load_run(path)
    spec, accuracy = record.spec, record.accuracy
    assert accuracy is not None
    load_plugins(spec.cells.plugin)
    methods = [parse(row.method) for row in accuracy.answers]
    exam = set_exam(spec.accuracy, spec.model.name)
    model = load(
        spec.model.name or record.model.name,
        device=spec.model.device,
        dtype=spec.model.dtype,
        backend=spec.model.backend,
        seed=spec.model.seed,
        pipeline=devices_of(spec.model),
    )
    examinee = Examinee(
        model,
        accuracy.questions,
        exam.pictures,
        attention=check_policy(accuracy.attention),
        layout=spec.workload.layout,
        new_tokens=accuracy.new_tokens,
        batch_size=accuracy.batch_size,
    )
    journal = Journal(path)
    try:
        evaluate(examinee, methods, JournalSheet(journal, accuracy), lambda *_: None)
    finally:
        journal.close()
