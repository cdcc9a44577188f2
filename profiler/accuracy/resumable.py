"""An evaluation whose answers lie in a folder: gone on with where it was ended."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...methods import Method, format_spec, load_plugins, parse
from ...methods.contract.errors import InputError
from ...methods.contract.plugins import contents
from ...methods.contract.policies import Policy, check_policy
from ...methods.contract.spec import require_once
from ...reports.record.accuracy import Accuracy
from ...reports.record.spec import RunSpec
from ...reports.sanitize import say
from ..machine.environment import own_version
from .answer_files import AnswerFiles, AnswerKey, digest_of_model
from .exam import SEER, Exam, Progress, blank_sheet, set_exam

if TYPE_CHECKING:
    from ..models.model import Model


@dataclasses.dataclass
class ResumableEvaluation:
    """The questions of a specification under its methods; `accuracy` holds what is answered.

    Everything that can be wrong is looked at before the model is loaded, and it is loaded only if
    something is left to ask.
    """

    spec: RunSpec
    folder: Path
    new_tokens: int
    batch_size: int
    exam: Exam | None = None
    """What is asked; None: what the specification says."""

    def __post_init__(self) -> None:
        """Reads what there is. Raises InputError for what does not exist, does not fit, or was
        answered by something else."""
        for note in load_plugins(self.spec.cells.plugin):
            say(note)
        self.attention = _policy(self.spec)
        self.methods = rows_of(self.spec)
        self.asked = self.exam or self._set_exam(pictures=False)
        self.accuracy: Accuracy = blank_sheet(
            self.asked,
            [format_spec(method) for method in self.methods],
            self.attention,
            new_tokens=self.new_tokens,
            batch_size=self.batch_size,
        )
        self.files = AnswerFiles(self.folder / "answers", self.accuracy, self._keys())

    def run(self, tell: Progress) -> None:
        """Ask what is not answered yet. Raises InputError, and OutputError for a full disk; what
        was answered until then is in the folder."""
        if self.files.complete:
            return
        exam = self.exam or self._set_exam()
        from ..models.load import load

        wanted = self.spec.model
        model = load(
            wanted.name or SEER,
            device=wanted.device,
            dtype=wanted.dtype,
            backend=wanted.backend,
            seed=wanted.seed,
        )
        self.files.require(self._keys_with(model))
        self._ask(model, exam, tell)

    def _set_exam(self, *, pictures: bool = True) -> Exam:
        return set_exam(self.spec.accuracy, self.spec.model.name, pictures=pictures)

    def _ask(self, model: Model, exam: Exam, tell: Progress) -> None:
        from .asking import Examinee
        from .evaluation import evaluate

        examinee = Examinee(
            model,
            exam.questions,
            exam.pictures,
            attention=self.attention,
            layout=self.spec.workload.layout,
            new_tokens=self.new_tokens,
            batch_size=self.batch_size,
        )
        try:
            evaluate(examinee, self.methods, self.files, tell)
        finally:
            self.files.close()

    def _keys(self) -> list[AnswerKey]:
        """One for each row, before the model is loaded."""
        spec, name = self.spec, self.spec.model.name or SEER
        key = AnswerKey(
            tpprof=own_version(),
            model=name,
            weights=digest_of_model(name),
            dtype=spec.model.dtype,
            device=spec.model.device and spec.model.device.partition(":")[0],
            backend=spec.model.backend,
            method="",
            attention=self.attention,
            layout=spec.workload.layout,
            plugins=contents(spec.cells.plugin),
            questions=self.asked.digest,
            pictures=self.asked.digest_of_pictures(),
            new_tokens=self.new_tokens,
            batch_size=self.batch_size,
        )
        names = map(format_spec, self.methods)
        return [msgspec.structs.replace(key, method=name) for name in names]

    def _keys_with(self, model: Model) -> list[AnswerKey]:
        """The same, now that it is loaded."""
        dtype = str(model.dtype).removeprefix("torch.")
        return [
            msgspec.structs.replace(key, dtype=dtype, device=model.device.type)
            for key in self.files.keys
        ]


def rows_of(spec: RunSpec) -> list[Method]:
    """The methods, vanilla first. Raises InputError for one that is listed twice or unknown."""
    vanilla = parse("vanilla")
    listed = [parse(method, spec.cells.keep) for method in spec.cells.methods]
    require_once(listed)
    return [vanilla, *(method for method in listed if method != vanilla)]


def _policy(spec: RunSpec) -> Policy:
    if len(spec.cells.attention) != 1:
        raise InputError("attention: answers are given under one policy, rows or another")
    return check_policy(spec.cells.attention[0])
