"""An evaluation: every question under every method, with what was answered kept at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...methods import Method, format_spec
from ...methods.contract.errors import InputError
from .asking import Examinee, RowFailedError
from .exam import Progress


class AnswerSheet(Protocol):
    """Where the answers of the rows are kept; rows by their number."""

    def known(self, row: int) -> set[int]:
        """The places of the questions that the row has answered."""
        ...

    def keep(self, row: int, places: Sequence[int], texts: Sequence[str]) -> None: ...

    def fail(self, row: int, error: str) -> None: ...


def evaluate(
    examinee: Examinee, methods: Sequence[Method], sheet: AnswerSheet, tell: Progress
) -> None:
    """Ask what is not answered yet, row by row. A method that cannot answer ends its own row."""
    each = len(examinee.questions)
    whole = each * len(methods)
    for row, method in enumerate(methods):
        known, name = sheet.known(row), format_spec(method)
        done = row * each + len(known)
        tell(f"accuracy of {name}", done, whole)
        try:
            for places, texts in _answered(examinee, method, known):
                sheet.keep(row, places, texts)
                done += len(places)
                tell(f"accuracy of {name}", done, whole)
        except (RowFailedError, InputError) as error:
            sheet.fail(row, str(error))


def _answered(
    examinee: Examinee, method: Method, known: set[int]
) -> Iterator[tuple[list[int], list[str]]]:
    """What is new of each batch that is not known whole; it is asked again whole, so that a run
    that is gone on with asks the same batches."""
    batches = [batch for batch in examinee.batches(method) if not known.issuperset(batch.places)]
    for batch, texts in zip(batches, examinee.answers(method, batches), strict=True):
        fresh = [place for place in batch.places if place not in known]
        said = dict(zip(batch.places, texts, strict=True))
        yield fresh, [said[place] for place in fresh]
