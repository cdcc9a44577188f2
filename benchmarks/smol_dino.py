"""What smol-dino sees: F1 in POPE's categories on composed pictures of seeds that it was not
trained on, unpruned and under methods, through tpprof's engine.

    python benchmarks/smol_dino.py --bank bank.npz vanilla fastv:keep=64

`python -m tpprof.profiler.smol_dino.training.bank` makes the file of cut-outs and photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import tpprof
from tpprof.methods import parse
from tpprof.profiler.accuracy.drawn import asked_of
from tpprof.profiler.accuracy.exam import Exam
from tpprof.profiler.accuracy.pictures import DrawnPictures
from tpprof.profiler.smol_dino.training.bank import load
from tpprof.profiler.smol_dino.training.questions import sample, where
from tpprof.profiler.smol_dino.training.scenes import TEST, Bank, render
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores
from tpprof.reports.record.accuracy import YesNoQuestion


def main() -> None:
    from seer import told  # type: ignore[import-not-found]  # beside this script

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=["vanilla"])
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=30)
    options = parser.parse_args()
    model = tpprof.load("smol-dino")
    with torch.no_grad():
        exam = composed(load(options.bank, "test"), options.pictures)
        accuracy = asked_of(model, exam, [parse(method) for method in options.methods])
    for score in scores(accuracy, RULES["strict"], beside=options.methods[0]):
        print(f"{score.method:24} {told(score)}", flush=True)


def composed(bank: Bank, count: int, kind: str = "pope") -> Exam:
    """`count` pictures of the test, and what POPE asks of them; or in which quadrant things lie, by
    the kind "where"."""
    scenes, questions = sample(TEST, count)
    if kind == "where":
        rng = np.random.default_rng([TEST, 2**21, count])
        questions = where(scenes, rng, suffix=True)
    asked = [
        YesNoQuestion(
            id=str(number),
            category=question.category,
            picture=str(question.picture),
            prompt=question.text,
            label="yes" if question.answer == "Yes" else "no",
        )
        for number, question in enumerate(questions)
    ]

    def draw(name: str) -> Image.Image:
        pixels, _ = render([scenes[int(name)]], bank)
        return Image.fromarray(pixels[0].permute(1, 2, 0).byte().numpy())

    source = f"{count} held-out pictures composed for smol-dino"
    name = "POPE" if kind == "pope" else kind
    return Exam(f"{name}, composed", source, asked, DrawnPictures(draw))


if __name__ == "__main__":
    main()
