"""What seer sees: F1 in POPE's categories and accuracy in the others, on pictures that it was not
trained on, unpruned and under methods, through tpprof's engine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

import tpprof
from tpprof.methods import parse
from tpprof.profiler.accuracy.drawn import asked_of, exam_about
from tpprof.profiler.seer.questions import MORE, TEST, VALIDATION, more, sample
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import Score, scores
from tpprof.reports.analysis.intervals import Estimate

SPLITS = {"test": TEST, "validation": VALIDATION}
MORE_SEEN = 100  # pictures of each of the other categories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=["vanilla"])
    parser.add_argument("--model", default="seer", help="seer, or the folder of another training")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--more", type=int, default=MORE_SEEN, help="of the other categories")
    parser.add_argument("--split", choices=SPLITS, default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tpprof.load(options.model, device="cpu")
    split = SPLITS[options.split]
    drawn = {"POPE": sample(split, options.pictures)}
    if options.more:
        drawn |= {category: more(split, category, options.more) for category in MORE}
    for name, (pictures, questions) in drawn.items():
        exam = exam_about(name, options.split, pictures, questions)
        accuracy = asked_of(model, exam, [parse(method) for method in options.methods])
        for score in scores(accuracy, RULES["strict"], beside=options.methods[0]):
            print(f"{score.method:24} {name:11} {told(score)}", flush=True)


def told(score: Score) -> str:
    if score.reason:
        return score.reason
    parts: Sequence[str] = [
        f"{category} F1 {one.f1:.3f}" for category, one in score.categories.items() if one.f1
    ]
    return ", ".join(
        [
            *parts,
            f"mean {interval(score.f1)}",
            f"right {score.accuracy:.3f} of {score.questions}",
            f"yes {score.yes_ratio:.3f}",
            f"unreadable {score.unreadable}",
        ]
    )


def interval(value: Estimate | None) -> str:
    return "n/a" if value is None else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


if __name__ == "__main__":
    main()
