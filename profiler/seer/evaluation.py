"""seer's answers through tpprof's own engine, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..models.geometry import request
from .pictures import SIDE, Drawing
from .questions import SUFFIX, Question

if TYPE_CHECKING:
    from ...methods.contract.method import Method
    from ..models.model import Model

NEW_TOKENS = 2  # the answer, and what ends it
RESAMPLES = 2000


def answers(
    model: Model,
    pictures: Sequence[Drawing],
    questions: Sequence[Question],
    method: Method,
    *,
    batch_size: int = 24,
) -> list[str]:
    """What the model says to each question with POPE's suffix, greedily: "Yes</s>".

    Questions of equal length are asked together, the tower runs for each. A method with a seed
    draws once a batch.
    """
    lengths: dict[int, list[int]] = {}
    tokens = [_tokens(model, question) for question in questions]
    for index, (_, after) in enumerate(tokens):
        lengths.setdefault(len(after), []).append(index)
    said = [""] * len(questions)
    for group in lengths.values():
        for start in range(0, len(group), batch_size):
            part = group[start : start + batch_size]
            shown = [pictures[questions[index].picture] for index in part]
            for index, text in zip(
                part, _answered(model, shown, [tokens[i] for i in part], method), strict=True
            ):
                said[index] = text
    return said


def _answered(
    model: Model, shown: list[Drawing], tokens: list[tuple[list[int], list[int]]], method: Method
) -> list[str]:
    import torch

    from ...methods.engine.run import run

    planned = request(
        model.shape,
        before=len(tokens[0][0]),
        after=len(tokens[0][1]),
        size=(SIDE, SIDE),
        batch=len(shown),
        new_tokens=NEW_TOKENS,
    )
    visual = [model.image_token] * planned.visual
    ids = torch.tensor([before + visual + after for before, after in tokens])
    pixels = model.pixels([drawing.image for drawing in shown])
    inputs = model.assemble(pixels, ids, planned, "flat").to(model.device)
    found = run(model, inputs, method, new_tokens=NEW_TOKENS)
    texts: list[str] = model.tokenizer.batch_decode(found.tokens)
    return texts


def _tokens(model: Model, question: Question) -> tuple[list[int], list[int]]:
    """Ids before and after the picture."""
    text = f"USER: {model.image_text}\n{question.text}\n{SUFFIX} ASSISTANT:"
    ids = model.tokenizer(text).input_ids
    place = ids.index(model.image_token)
    return ids[:place], ids[place + 1 :]


def f1(said: Sequence[bool], true: Sequence[bool]) -> float:
    """F1 of yes; 0 where nothing is said or true."""
    hits = sum(a and b for a, b in zip(said, true, strict=True))
    return 2 * hits / max(1, sum(said) + sum(true))


def f1_with_interval(
    questions: Sequence[Question], said: Sequence[bool], categories: Sequence[str]
) -> tuple[float, float, float]:
    """Mean F1 of the categories, and the ends of its 95 % interval: a bootstrap over pictures,
    whose questions hang together."""
    count = max(question.picture for question in questions) + 1
    parts = np.zeros((len(categories), count, 3))  # hits, said, true of each picture
    for question, answer in zip(questions, said, strict=True):
        if question.category in categories:
            row = parts[categories.index(question.category), question.picture]
            row += (answer and question.yes, answer, question.yes)

    def mean(weights: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
        hits, yes, true = np.einsum("cpk,p->kc", parts, weights)
        return float(np.mean(2 * hits / np.maximum(1, yes + true)))

    rng = np.random.default_rng(0)
    draws = rng.multinomial(count, [1 / count] * count, RESAMPLES)
    low, high = np.quantile([mean(draw) for draw in draws], [0.025, 0.975])
    return mean(np.ones(count, np.int64)), float(low), float(high)
