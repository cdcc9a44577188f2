"""What is asked: exams, methods, and the pairs of methods that the paper compares."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpprof.profiler.accuracy.drawn import drawn_exam, exam_about
from tpprof.profiler.accuracy.exam import Exam
from tpprof.profiler.seer.questions import TEST, more

SELECTING = ("fastv", "fastv-window", "fastv-reverse", "fastv-vis", "sparsevlm")
METHODS = ("random", "pooling", *SELECTING, "mustdrop")
SPATIAL = ("random", "pooling", "fastv", "fastv-window", "sparsevlm")
ALPHAS = tuple(f"fastv-alpha:alpha={alpha}" for alpha in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
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
POPE, WHERE, WHICH, ATTRIBUTES = "pope", "where", "which", "attributes"
"""Exams by name."""


@dataclass(frozen=True)
class Question:
    """A table of the paper. pairs: of method names, the first less the second."""

    name: str
    title: str
    exam: str
    methods: Sequence[str]
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ExamSource:
    """What an exam is made of: questions of seer's (or pictures, where they are composed), at most,
    and the file of cut-outs that pictures are composed of."""

    kind: str
    most: int
    bank: Path | None = None


@dataclass(frozen=True)
class Examination:
    """A model, and all that it is asked.

    exams: by name. tables: at each of the budgets. located: methods whose kept tokens are looked
    at, on `pictures` pictures of POPE's exam at most. timed: what Table 7's comparison is told
    beside methods and budget; None: it is not taken.
    """

    model: str
    exams: dict[str, ExamSource]
    tables: Sequence[Question]
    budgets: Sequence[int]
    located: Sequence[str] = ("random", *SELECTING)
    pictures: int = 57
    timed: Sequence[str] | None = None


TABLE_1 = Question("table-1", "Table 1: POPE", POPE, METHODS, PAIRS)
TABLE_4 = Question(
    "table-4",
    "Table 4: where an object lies",
    WHERE,
    SPATIAL,
    [
        (even, other)
        for even in ("random", "pooling", "fastv-window")
        for other in ("fastv", "sparsevlm")
    ],
)
TABLES = (
    TABLE_1,
    TABLE_4,
    Question(
        "table-5",
        "Table 5: which of four pictures, guided by the text",
        WHICH,
        ("random", "fastv", "fastv-vis", "sparsevlm"),
        [("fastv-vis", "fastv"), ("sparsevlm", "fastv"), ("random", "fastv")],
    ),
    Question(
        "attributes",
        "Size and texture of an object",
        ATTRIBUTES,
        (*SPATIAL, "fastv-vis"),
        [("random", "fastv"), ("fastv-vis", "fastv"), ("fastv-window", "fastv")],
    ),
    Question(
        "table-6",
        "Table 6: attention against dissimilarity (alpha), POPE",
        POPE,
        ALPHAS,
        [(ALPHAS[0], ALPHAS[-1]), (ALPHAS[2], ALPHAS[-1]), (ALPHAS[2], ALPHAS[0])],
    ),
)


def of_drawn(model: str, most: int, budgets: Sequence[int]) -> Examination:
    """What is asked of seer, or of a checkpoint that was trained as it is. most: questions of each
    exam, at most."""
    exams = {kind: ExamSource(kind, most) for kind in (POPE, WHERE, WHICH, ATTRIBUTES)}
    timed = ("--accuracy",) if model == "seer" else None
    return Examination(model, exams, TABLES, budgets, timed=timed)


def of_composed(bank: Path, pictures: int, budgets: Sequence[int]) -> Examination:
    """What is asked of smol-dino, about pictures that are composed of a file of cut-outs."""
    exams = {kind: ExamSource(kind, pictures, bank) for kind in (POPE, WHERE)}
    timed = ("--model", "smol-dino")
    return Examination(
        "smol-dino", exams, (TABLE_1, TABLE_4), budgets, pictures=pictures, timed=timed
    )


@functools.lru_cache
def made(source: ExamSource) -> Exam:
    """The exam itself, with what draws its pictures."""
    if source.bank is not None:
        from smol_dino import composed  # type: ignore[import-not-found]  # beside this folder

        from tpprof.profiler.smol_dino.training.bank import load

        exam: Exam = composed(load(source.bank, "test"), source.most, source.kind)
        return exam
    if source.kind == POPE:
        return drawn_exam(source.most)
    shown, listed = more(TEST, source.kind, max(1, source.most // 4))
    about = f"{len(shown)} held-out pictures drawn for seer"
    return exam_about(f"{source.kind}, drawn", about, shown, listed)
