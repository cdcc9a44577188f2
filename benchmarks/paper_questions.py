"""The paper's questions about accuracy, asked of seer: Tables 1, 4, 5 and 6, and Figure 2.

Prints Markdown: F1 with 95 % intervals over pictures, the differences that the paper speaks of on
the same pictures, and where in the picture the kept tokens lie. Answers are kept in --output, and
gone on with. What it prints is about this model and drawn pictures, and about no other.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tpprof
from tpprof.profiler.accuracy.drawn import drawn_exam, exam_about
from tpprof.profiler.accuracy.exam import Exam
from tpprof.profiler.accuracy.resumable import ResumableEvaluation
from tpprof.profiler.run.kept_tokens import selections
from tpprof.profiler.seer.questions import TEST, more
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores
from tpprof.reports.analysis.intervals import Estimate
from tpprof.reports.analysis.position_bias import by_chance, divergence, offset
from tpprof.reports.record.accuracy import Accuracy
from tpprof.reports.record.kept import Kept, pruned
from tpprof.reports.record.spec import RunSpec
from tpprof.reports.sanitize import say
from tpprof.reports.text.accuracy import accuracy_table
from tpprof.reports.text.table import Column, Table

RULE = "llava"
BUDGETS = (144, 64)
SELECTING = ("fastv", "fastv-window", "fastv-reverse", "fastv-vis", "sparsevlm")
METHODS = ("random", "pooling", *SELECTING, "mustdrop")
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PAIRS = (
    ("random", "fastv"),
    ("pooling", "fastv"),
    ("random", "sparsevlm"),
    ("pooling", "sparsevlm"),
    ("fastv-window", "fastv"),
    ("fastv-window", "random"),
    ("fastv-reverse", "fastv"),
    ("fastv-vis", "fastv"),
)
"""What the paper compares: the first less the second."""


@dataclass(frozen=True)
class Question:
    """A table of the paper. pairs: of method names, the first less the second."""

    title: str
    exam: Exam
    methods: Sequence[str]
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Difference:
    first: str
    second: str
    estimate: Estimate | None


@dataclass(frozen=True)
class Position:
    """Where the tokens lie that a method keeps, over pictures."""

    method: str
    kept: Sequence[Kept]

    def thirds(self) -> list[float]:
        """Shares of the kept tokens in the upper, middle and lower third of the sequence."""
        parts = [0, 0, 0]
        for entry in self.kept:
            for token in entry.tokens:
                parts[3 * token // entry.visual] += 1
        return [part / sum(parts) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="seer", help="a checkpoint that was trained as seer is")
    parser.add_argument("--output", type=Path, default=Path("runs/paper-questions"))
    parser.add_argument("--questions", type=int, default=1200, help="at most, for each table")
    parser.add_argument("--pictures", type=int, default=50, help="for Figure 2")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    options = parser.parse_args()
    for budget in options.budgets:
        for question in questions(options.questions, budget):
            print(f"### {question.title}, {budget} of 576 visual tokens\n")
            if blind := by_chance_alone(question, budget, options):
                print(f"{blind}\n")
                continue
            accuracy = ask(question, budget, options.model, options.output)
            print(accuracy_table(accuracy, RULE).to_markdown())
            print(differences(accuracy, question.pairs).to_markdown())
    for budget in options.budgets:
        print(f"### Figure 2: where kept tokens lie, {budget} of 576 visual tokens\n")
        print(positions(options.model, budget, options.pictures).to_markdown())


def questions(most: int, budget: int) -> list[Question]:
    """What is asked at a budget."""

    def kind(category: str, about: str) -> Exam:
        pictures, listed = more(TEST, category, max(1, most // 4))
        source = f"{len(pictures)} held-out pictures drawn for seer"
        return exam_about(about, source, pictures, listed)

    pope = drawn_exam(most)
    alphas = [f"fastv-alpha:alpha={alpha}" for alpha in ALPHAS]
    spatial = ("random", "pooling", "fastv", "fastv-window", "sparsevlm")
    return [
        Question("Table 1: POPE", pope, METHODS, PAIRS),
        Question(
            "Table 4: where an object lies",
            kind("where", "where, drawn"),
            spatial,
            [
                (f"{even}", other)
                for even in ("random", "pooling", "fastv-window")
                for other in ("fastv", "sparsevlm")
            ],
        ),
        Question(
            "Table 5: which of four pictures, guided by the text",
            kind("which", "which, drawn"),
            ("random", "fastv", "fastv-vis", "sparsevlm"),
            [("fastv-vis", "fastv"), ("sparsevlm", "fastv"), ("random", "fastv")],
        ),
        Question(
            "Size and texture of an object",
            kind("attributes", "attributes, drawn"),
            (*spatial, "fastv-vis"),
            [("random", "fastv"), ("fastv-vis", "fastv"), ("fastv-window", "fastv")],
        ),
        Question(
            "Table 6: attention against dissimilarity (alpha), POPE",
            pope,
            alphas,
            [(alphas[0], alphas[-1]), (alphas[2], alphas[-1]), (alphas[2], alphas[0])],
        ),
    ]


def by_chance_alone(question: Question, budget: int, options: argparse.Namespace) -> str:
    """Why no method is compared: the unpruned model is right no more often than by chance; "" where
    it is."""
    unpruned = dataclasses.replace(question, methods=("vanilla",))
    accuracy = ask(unpruned, budget, options.model, options.output)
    (score,) = scores(accuracy, RULES[RULE], beside=accuracy.answers[0].method)
    most = 0.5 + 1.96 * math.sqrt(0.25 / score.questions)  # 95 % of who says yes to half of them
    assert score.accuracy is not None
    if score.accuracy > most:
        return ""
    return (
        f"Not asked: unpruned, the model is right {score.accuracy:.3f} of {score.questions}, as by "
        f"chance (up to {most:.3f}), so that pruning can take nothing from it."
    )


def ask(question: Question, budget: int, model: str, folder: Path) -> Accuracy:
    """The answers, of which those that are there are not given again."""
    spec = RunSpec.of(methods=question.methods, keep=str(budget), model=model, attention=["rows"])
    stem = question.exam.benchmark.lower().replace(", ", "-")  # vanilla is asked once in it
    asked = ResumableEvaluation(
        spec, folder / stem, new_tokens=4, batch_size=16, exam=question.exam
    )
    asked.run(lambda label, done, total: say(f"{question.title}: {label} ({done} of {total})"))
    return asked.accuracy


def differences(accuracy: Accuracy, pairs: Sequence[tuple[str, str]]) -> Table[Difference]:
    """F1 of one method less that of another, on the same resampled pictures."""
    rows = []
    for first, second in pairs:
        named = {_bare(row.method): row.method for row in accuracy.answers}
        listed = scores(accuracy, RULES[RULE], beside=named[_bare(second)])
        found = {score.method: score for score in listed}[named[_bare(first)]]
        rows.append(Difference(first, second, found.difference))
    return Table(
        [
            Column("method", lambda r: r.first, kind="words"),
            Column("less", lambda r: r.second, kind="words"),
            Column("F1 difference", lambda r: _told(r.estimate)),
            Column("told apart", lambda r: _apart(r.estimate), kind="words"),
        ],
        rows,
    )


def positions(model: str, budget: int, pictures: int) -> Table[Position]:
    """Of each method that selects tokens: where those lie that it keeps, at its last prune."""
    exam, loaded = drawn_exam(12 * pictures), tpprof.load(model)
    first = {question.picture: question for question in reversed(exam.questions)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("random", *SELECTING):
            kept = []
            for number, question in first.items():
                path = Path(folder) / f"{number}.png"
                if not path.exists():
                    exam.pictures.image(number).save(path)
                inputs = tpprof.inputs(loaded, image=str(path), prompt=question.prompt)
                seed = f",seed={number}" if name == "random" else ""  # or all share one draw
                method = f"{name}:keep={budget}{seed}"
                trace = tpprof.forward(loaded, inputs, method, new_tokens=1, verify=False)
                kept += pruned(selections(trace, inputs.request.visual))[-1:]
            rows.append(Position(f"{name}:keep={budget}", kept))
    return Table(
        [
            Column("method", lambda r: r.method, kind="words"),
            Column("pictures", lambda r: str(len(r.kept))),
            Column("thirds, top to bottom", lambda r: " / ".join(f"{t:.2f}" for t in r.thirds())),
            Column("offset (0 is even)", lambda r: f"{offset(r.kept) or 0:+.3f}"),
            Column("divergence, bit", lambda r: f"{divergence(r.kept) or 0:.3f}"),
            Column("by chance, bit", lambda r: f"{by_chance(r.kept) or 0:.3f}"),
        ],
        rows,
    )


def _bare(method: str) -> str:
    """A method without its budget, which all of a table share."""
    name, _, knobs = method.partition(":")
    rest = [knob for knob in knobs.split(",") if knob and not knob.startswith("keep=")]
    return ":".join([name, ",".join(rest)]) if rest else name


def _told(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "n/a"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _apart(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "n/a"
    return "yes" if estimate.low > 0 or estimate.high < 0 else "no"


if __name__ == "__main__":
    main()
