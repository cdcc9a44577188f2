"""Answers as files: one JSON line a question, and beside them the key of what gave them.

The lines are those of LLaVA's own tools (question_id, prompt, text, model_id), with the category.
They are there as soon as they are given, so that a run which ends early can be gone on with, and
scored again by another rule without the model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import write
from ...reports.record.accuracy import Accuracy
from ...reports.record.base import Struct
from ...reports.record.journal import Journal, in_use, is_empty, read_lines
from ...reports.sanitize import quoted
from ..models.checkpoint.embedded import folder_of

WEIGHTS = (".safetensors", ".bin")
READ = (".json", ".jinja", ".model", ".txt", *WEIGHTS)
"""Of the files of a checkpoint, those that decide an answer."""
WHOLE = 2**26
"""Bytes up to which a file is read whole."""
PIECE, APART = 2**12, 2**20
"""Bytes of each piece of a larger file, and from one piece to the next: what changes all of
a matrix of more than a megabyte changes the digest."""


class AnswerKey(Struct):
    """What decides an answer: only answers of the same key are put together.

    weights: digest of the checkpoint's files. questions: digest of all questions. pictures: of the
    files of their pictures. batch_size: which questions share a batch depends on it, and what a
    method does to one may depend on the others. None: not known until the model is loaded, or not
    there, and not compared then.
    """

    tpprof: str
    model: str
    weights: str | None
    dtype: str | None
    device: str | None
    backend: str
    method: str
    attention: str
    layout: str
    plugins: dict[str, str]
    questions: str
    pictures: str | None
    new_tokens: int
    batch_size: int


class AnswerLine(Struct):
    """A line of an answers file."""

    question_id: str
    category: str
    prompt: str
    text: str
    model_id: str


class AnswerFiles:
    """The answers of an evaluation in a folder, a file a row; what is there is gone on with."""

    def __init__(self, folder: Path, accuracy: Accuracy, keys: Sequence[AnswerKey]) -> None:
        """Raises InputError for answers of another key, or that cannot be read."""
        self.accuracy, self.keys = accuracy, keys
        self.paths = [folder / f"{stem}.jsonl" for stem in _stems(keys)]
        self._places = {
            (question.category, question.id): place
            for place, question in enumerate(accuracy.questions)
        }
        self._journals: dict[int, Journal] = {}
        for row in range(len(keys)):
            self._read(row)

    @property
    def complete(self) -> bool:
        """Whether every row has answered every question."""
        every = set(range(len(self.accuracy.questions)))
        return all(self.known(row) == every for row in range(len(self.keys)))

    def known(self, row: int) -> set[int]:
        texts = self.accuracy.answers[row].texts
        return {place for place, text in enumerate(texts) if text is not None}

    def require(self, keys: Sequence[AnswerKey]) -> None:
        """Now that all is known, hold it against what is there; raises InputError."""
        self.keys = keys
        for path, key in zip(self.paths, keys, strict=True):
            if not is_empty(path):
                _require_key(path, key)

    def keep(self, row: int, places: Sequence[int], texts: Sequence[str]) -> None:
        """Raises OutputError where the disk is full."""
        journal = self._journals.get(row) or self._begin(row)
        for place, text in zip(places, texts, strict=True):
            journal.append(self._line(row, place, text))
            self.accuracy.answers[row].texts[place] = text

    def fail(self, row: int, error: str) -> None:
        """Only said in this run: the next one tries again."""
        self.accuracy.answers[row].error = error

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()

    def _begin(self, row: int) -> Journal:
        path = self.paths[row]
        if is_empty(path):
            content = msgspec.json.format(msgspec.json.encode(self.keys[row]), indent=1)
            write(_key_of(path), content, "text", overwrite=True)
        lines = [
            self._line(row, place, text)
            for place, text in enumerate(self.accuracy.answers[row].texts)
            if text is not None
        ]
        self._journals[row] = Journal.begin(path, *lines)
        return self._journals[row]

    def _line(self, row: int, place: int, text: str) -> AnswerLine:
        question, key = self.accuracy.questions[place], self.keys[row]
        return AnswerLine(
            question_id=question.id,
            category=question.category,
            prompt=question.prompt,
            text=text,
            model_id=f"{key.model} {key.method}",
        )

    def _read(self, row: int) -> None:
        path, answers = self.paths[row], self.accuracy.answers[row]
        answers.texts = [None] * len(self.accuracy.questions)
        if is_empty(path):
            return
        if in_use(path):
            raise InputError(f"{quoted(str(path), 300)} belongs to a run that still goes on")
        _require_key(path, self.keys[row])
        for number, content in enumerate(read_lines(path), 1):
            try:
                line = msgspec.json.decode(content, type=AnswerLine)
                place = self._places[line.category, line.question_id]
                if answers.texts[place] not in (None, line.text):
                    raise ValueError("another answer to the same question")
                answers.texts[place] = line.text
            except (msgspec.MsgspecError, ValueError, KeyError) as error:
                raise InputError(
                    f"{quoted(str(path), 300)} line {number} is no answer to one of the questions, "
                    "or another one to the same; move the file away to ask again"
                ) from error


def digest_of_model(name: str) -> str | None:
    """Of the files of a checkpoint by its name: a folder, an embedded one, or of a hub. None where
    there is none on this machine."""
    folder = folder_of(name)
    if folder.is_dir():
        return weights_digest(folder)
    if name.count("/") != 1:
        return None
    from ..models.load import local_folder

    found = local_folder(name)
    return None if found is None else weights_digest(found)


def weights_digest(folder: Path) -> str:
    """Of names and sizes, small files whole, and of large ones a piece of each megabyte."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix not in READ:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for start in (*range(0, size - PIECE, APART), size - PIECE):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def _require_key(path: Path, key: AnswerKey) -> None:
    """Raises InputError where answers were given by something else."""
    where = quoted(str(path), 300)
    try:
        found: Any = msgspec.json.decode(_key_of(path).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{where} holds answers, and no key beside it says whose; move it away to ask again"
        ) from error
    wanted = msgspec.to_builtins(key)
    given = found if isinstance(found, dict) else {}
    differs = [
        f"{name} {_cut(given.get(name))}, now {_cut(value)}"
        for name, value in wanted.items()
        if value is not None and given.get(name) != value
    ]
    if differs:
        raise InputError(
            f"{where} holds answers of another run: {'; '.join(differs)}. Give another --output, "
            "or move the file away"
        )


def _cut(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


def _key_of(path: Path) -> Path:
    return path.with_suffix(".key.json")


def _stems(keys: Sequence[AnswerKey]) -> list[str]:
    """Names of files: the method, what it keeps, and its other knobs."""
    found: list[str] = []
    for key in keys:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", key.method.replace("keep=", "")).strip("-.")
        stem = plain[:100] or "method"
        taken = sum(other == stem or other.startswith(f"{stem}~") for other in found)
        found.append(f"{stem}~{taken + 1}" if taken else stem)
    return found
