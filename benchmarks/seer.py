"""What seer sees: F1 in POPE's categories and accuracy in the others, on pictures that it was not
trained on, unpruned and under methods, through tpprof's engine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

import tpprof
from tpprof.methods import parse
from tpprof.profiler.models.model import Model
from tpprof.profiler.seer.evaluation import answers, f1_with_interval
from tpprof.profiler.seer.pictures import Drawing
from tpprof.profiler.seer.questions import MORE, POPE, TEST, VALIDATION, Question, more, sample

SPLITS = {"test": TEST, "validation": VALIDATION}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=["vanilla"])
    parser.add_argument("--model", default="seer", help="seer, or the folder of another training")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--more", type=int, default=100, help="pictures of the other categories")
    parser.add_argument("--split", choices=SPLITS, default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tpprof.load(options.model, device="cpu")
    split = SPLITS[options.split]
    drawn = {"POPE": sample(split, options.pictures)}
    if options.more:
        drawn |= {category: more(split, category, options.more) for category in MORE}
    for method in options.methods:
        for name, (pictures, questions) in drawn.items():
            show(f"{method:24} {name:11}", model, method, pictures, questions)


def show(
    label: str,
    model: Model,
    method: str,
    pictures: Sequence[Drawing],
    questions: Sequence[Question],
) -> None:
    texts = answers(model, pictures, questions, parse(method))
    said = [text.startswith("Yes") for text in texts]
    readable = sum(text in ("Yes</s>", "No</s>") for text in texts)
    right = sum(a == question.yes for a, question in zip(said, questions, strict=True))
    asked = [name for name in POPE if any(q.category == name for q in questions)]
    parts = [f"F1 {name} {interval(questions, said, [name])}" for name in asked]
    if asked:
        parts.append(f"mean {interval(questions, said, asked)}")
    parts += [
        f"right {right / len(questions):.3f} of {len(questions)}",
        f"yes {sum(said) / len(said):.3f}",
        f"readable {readable}",
    ]
    print(f"{label} {', '.join(parts)}", flush=True)


def interval(questions: Sequence[Question], said: Sequence[bool], names: Sequence[str]) -> str:
    value, low, high = f1_with_interval(questions, said, names)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
