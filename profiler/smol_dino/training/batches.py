"""What one step of training is given. All of it follows from the seed and the step's number."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..language import IMAGE_TOKEN, TEMPLATE
from .nouns import NOUNS
from .questions import SceneQuestion, listed, pope, where
from .scenes import TRAIN, Scene, scene

MOST = 9  # questions about a picture
LONGEST = 40  # tokens of a question and its answer
END = "<|im_end|>"
WEIGHTS = {"answer": 1.0, "end": 0.1, "list": 0.3}
"""Of tokens in the loss: what is said of a question, what ends it, and a list of things."""


@dataclass(frozen=True)
class AskedTokens:
    """tokens: [B, Q, L], ids of questions and answers. rows: [R], which of all B * Q * L tokens
    stand before one that is to be said. targets: [R], its ids; weights: [R], of its loss. places:
    [R], the question that each is of, as they were given."""

    tokens: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor

    def to(self, device: torch.device) -> AskedTokens:
        return AskedTokens(*(value.to(device, non_blocking=True) for value in vars(self).values()))


@dataclass(frozen=True)
class SceneBatch:
    """scenes: B of them. nouns: [B, 5], indices of what is in each. asked: about them."""

    scenes: list[Scene]
    nouns: Tensor
    asked: AskedTokens


class Prompts:
    """Text as the chat template puts it, around the picture."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: of the package `tokenizers`."""
        import jinja2

        self.tokenizer, self.template = tokenizer, jinja2.Template(TEMPLATE)
        self.before = self._ids(self._parts("")[0])
        self._known = functools.lru_cache(maxsize=100_000)(self._after)

    def after(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of what stands between the picture and the answer, and of the answer with its end."""
        return self._known(question, answer)

    def _after(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        return self._ids(self._parts(question)[1]), self._ids(f"{answer}{END}")

    def _parts(self, question: str) -> tuple[str, str]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        given = [{"role": "user", "content": content}]
        before, _, after = self.template.render(
            messages=given, add_generation_prompt=True
        ).partition(IMAGE_TOKEN)
        return before, after

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class Batches(IterableDataset[SceneBatch]):
    """Batches without end, those of each worker in turn."""

    def __init__(self, prompts: Prompts, seed: int, pictures: int) -> None:
        self.prompts, self.seed, self.pictures = prompts, seed, pictures

    def __iter__(self) -> Iterator[SceneBatch]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in itertools.count(first, stride):
            yield self.batch(step)

    def batch(self, step: int) -> SceneBatch:
        """Every other step has POPE's suffix."""
        first, suffix = step * self.pictures, step % 2 == 1
        scenes = [scene((TRAIN, self.seed, first + index)) for index in range(self.pictures)]
        rng = np.random.default_rng([TRAIN, self.seed, 2**40, step])
        questions = [*pope(scenes, rng, 1, suffix=suffix), *where(scenes, rng, suffix=suffix)]
        questions += listed(scenes)
        asked = put(questions, self.prompts, self.pictures, most=MOST)
        return SceneBatch(scenes, nouns_of(scenes), asked)


def nouns_of(scenes: Sequence[Scene]) -> Tensor:
    """[B, 5], indices of what is in each; 0 behind the last."""
    listed = [[NOUNS.index(thing.noun) for thing in shown.things] for shown in scenes]
    return torch.tensor([[*own, 0, 0, 0, 0, 0][:5] for own in listed])


def put(
    questions: Sequence[SceneQuestion],
    prompts: Prompts,
    pictures: int,
    *,
    most: int,
) -> AskedTokens:
    """The questions as tensors; those that are too long, or more than `most`, are left out."""
    tokens = torch.zeros((pictures, most, LONGEST), dtype=torch.long)
    count = [0] * pictures
    rows: list[tuple[int, int, float, int]] = []
    for number, question in enumerate(questions):
        before, answer = prompts.after(question.text, question.answer)
        slot, ids = count[question.picture], [*before, *answer]
        if slot == most or len(ids) > LONGEST:
            continue
        count[question.picture] += 1
        tokens[question.picture, slot, : len(ids)] = torch.tensor(ids)
        start = (question.picture * most + slot) * LONGEST + len(before) - 1
        said = "list" if question.category == "list" else "answer"
        for place, token in enumerate(answer):
            weight = WEIGHTS["end" if place + 1 == len(answer) else said]
            rows.append((start + place, token, weight, number))
    places, targets, weights, numbers = zip(*rows, strict=True)
    return AskedTokens(
        tokens,
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights),
        torch.tensor(numbers),
    )
