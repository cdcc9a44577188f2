"""What came out: enough for the page and its pictures, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import Score, scores
from tpprof.reports.analysis.intervals import Estimate
from tpprof.reports.record.accuracy import Accuracy

RULE = "llava"


class Difference(msgspec.Struct, frozen=True):
    """F1 of the first less that of the second, on the same resampled pictures."""

    first: str
    second: str
    estimate: Estimate | None

    @property
    def apart(self) -> int:
        """1 where the first is higher, -1 where the second is, 0 where neither is told."""
        return sign(self.estimate)


class TableResult(msgspec.Struct, frozen=True):
    """A table of the paper at a budget.

    questions: of each category. blind: why no method is compared, or "". scores: vanilla first.
    """

    name: str
    title: str
    budget: int
    benchmark: str
    source: str
    questions: dict[str, int]
    blind: str
    scores: list[Score]
    differences: list[Difference]

    def score(self, method: str) -> Score | None:
        """Of a method by its name, without the budget."""
        return next((one for one in self.scores if bare(one.method) == method), None)


class Position(msgspec.Struct, frozen=True):
    """Where the tokens lie that a method keeps, over pictures.

    thirds: shares of the upper, middle and lower third of the sequence. multiples: kept tokens in
    each of 32 parts of it, over those of an even choice. offset: with its 95 % interval over
    pictures. divergence, by_chance: in bits.
    """

    method: str
    budget: int
    pictures: int
    thirds: list[float]
    multiples: list[float]
    offset: Estimate
    divergence: float
    by_chance: float


class Results(msgspec.Struct, frozen=True):
    """All that one command found. weights: digest of the checkpoint's files."""

    command: str
    model: str
    weights: str | None
    rule: str
    budgets: list[int]
    tables: list[TableResult]
    positions: list[Position]

    def table(self, name: str, budget: int) -> TableResult | None:
        return next((t for t in self.tables if (t.name, t.budget) == (name, budget)), None)


def sign(estimate: Estimate | None) -> int:
    """1 or -1 where the whole interval lies above or below 0, 0 where it does not, or is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > 0) - int(estimate.high < 0)


def load(path: Path) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def to_json(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def table_result(
    name: str,
    title: str,
    budget: int,
    accuracy: Accuracy,
    pairs: Sequence[tuple[str, str]],
    blind: str = "",
) -> TableResult:
    categories = [question.category for question in accuracy.questions]
    return TableResult(
        name,
        title,
        budget,
        accuracy.benchmark,
        accuracy.source,
        {category: categories.count(category) for category in dict.fromkeys(categories)},
        blind,
        scores(accuracy, RULES[RULE]),
        [] if blind else differences(accuracy, pairs),
    )


def differences(accuracy: Accuracy, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    named = {bare(row.method): row.method for row in accuracy.answers}
    found = []
    for first, second in pairs:
        listed = scores(accuracy, RULES[RULE], beside=named[bare(second)])
        (score,) = (one for one in listed if one.method == named[bare(first)])
        found.append(Difference(first, second, score.difference))
    return found


def bare(method: str) -> str:
    """A method without its budget, which all of a table share."""
    name, _, knobs = method.partition(":")
    rest = [knob for knob in knobs.split(",") if knob and not knob.startswith("keep=")]
    return ":".join([name, ",".join(rest)]) if rest else name
