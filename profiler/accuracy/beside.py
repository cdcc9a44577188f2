"""The questions of a comparison: asked behind its timing, by a process of its own, whose answers
are lines of the run's journal."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError
from ...reports.record import files
from ...reports.record.accuracy import Accuracy, same_questions
from ...reports.record.journal import Journal
from ...reports.record.schema import Record
from ..subprocesses import UNWRITABLE, finish, python, temporary_folder
from .answer_files import digest_of_model
from .exam import Progress, blank_sheet, set_exam
from .worker import AccuracyTask

LOOK = 0.5  # seconds between two looks at how far it is
QUESTIONS = "accuracy, answers"
"""What is told while questions are asked."""


def ask(journal: Journal, tell: Progress) -> None:
    """Ask all that the run of this journal has not asked yet; it has come to its end then.

    Raises OutputError where the journal cannot be written. What else ends the process that asks is
    the reason of the rows that it has not finished.
    """
    record = files.load_run(journal.path)
    accuracy = wanted(record)
    if record.accuracy is None or not same_questions(record.accuracy, accuracy):
        journal.append(files.Asked(accuracy=accuracy))
        record = files.load_run(journal.path)
    _give_back()
    task = AccuracyTask(out=str(journal.path), parent=os.getpid())
    command = python("from tpprof.profiler.accuracy.worker import main; main()")
    with _watched(journal.path, record, tell):
        code, failed = finish(command, msgspec.json.encode(task))
    journal.mend()
    if code == UNWRITABLE:
        raise OutputError(failed)
    _note_unanswered(journal, failed or "the process that asks ended before all was answered")
    journal.append(files.Ended())


def require_same_checkpoint(record: Record) -> None:
    """Raises InputError where the model's files have changed since it was timed and asked."""
    known = record.accuracy
    if known is not None and known.weights not in (None, _digest(record)):
        raise InputError(
            "the checkpoint's files have changed since this run was timed and asked: put them "
            "back, or begin another run"
        )


def _digest(record: Record) -> str | None:
    return digest_of_model(record.spec.model.name or record.model.name)


def _give_back() -> None:
    """The memory of the model that was timed: another process loads it now."""
    gc.collect()
    torch = sys.modules.get("torch")  # an isolated run has not loaded it
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def with_accuracy(record: Record) -> Record:
    """The record of a run without a journal, with what is answered behind it."""
    with temporary_folder() as folder:
        path = folder / "run.json"
        journal = Journal.begin(files.journal_of(path), files.Begun(record=record))
        try:
            ask(journal, lambda label, done, total: None)
            return files.load_run(path)
        finally:
            journal.close()


def wanted(record: Record) -> Accuracy:
    """What is asked of the rows of a record, before anything is answered."""
    spec = record.spec
    exam = set_exam(spec.accuracy, spec.model.name)
    methods = list(dict.fromkeys(cell.method for cell in record.cells if cell.callable is None))
    listed = spec.cells.attention
    sheet = blank_sheet(exam, methods, "rows" if "rows" in listed else listed[0])
    sheet.pictures = exam.digest_of_pictures()
    sheet.weights = _digest(record)
    return sheet


def _note_unanswered(journal: Journal, reason: str) -> None:
    """Rows that are neither answered whole nor have a reason get this one."""
    accuracy = files.load_run(journal.path).accuracy
    assert accuracy is not None
    for row, answers in enumerate(accuracy.answers):
        if not answers.error and (not answers.texts or None in answers.texts):
            journal.append(files.Answered(row=row, error=reason))


def answers_in(line: bytes) -> int:
    """How many answers a line of the journal holds."""
    try:
        return len(msgspec.json.decode(line, type=files.Answered).places)
    except msgspec.ValidationError:  # a line of another kind
        return 0


@contextmanager
def _watched(path: Path, record: Record, tell: Progress) -> Iterator[None]:
    """Tell how many questions are answered, while another process answers them."""
    assert record.accuracy is not None
    rows = record.accuracy.answers
    total = len(rows) * len(record.accuracy.questions)
    done = sum(text is not None for row in rows for text in row.texts)
    ended = threading.Event()

    def look() -> None:
        answered = done
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            rest = b""
            while not ended.wait(LOOK):
                *lines, rest = (rest + file.read()).split(b"\n")
                answered += sum(map(answers_in, lines))
                tell(QUESTIONS, min(answered, total), total)

    tell(QUESTIONS, done, total)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
