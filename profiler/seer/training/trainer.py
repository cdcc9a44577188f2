"""Training in stages, each with its own pictures, losses and schedule."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import new_tokenizer, save
from ..pictures import KINDS
from ..questions import POPE, VALIDATION, sample
from . import forward
from .batches import (
    GRID,
    GROUPS,
    NONE,
    YES,
    PictureBatch,
    QuestionBatch,
    asked,
    cropped,
    ids,
    pictures_of,
    questions_about,
    seen,
)
from .start import starting_module

BEFORE = ids("<s>", "USER", ":")
TOKENS = GRID * GRID
SPARSE = 144  # visual tokens of a picture in the decoder's stage
CACHED = 2048  # pictures of the decoder's stage
EVERY = 150.0  # seconds between checkpoints
TALK = 25  # steps between lines of the log
VALIDATE = 200  # steps between validations


@dataclass(frozen=True)
class TrainingStage:
    """rate: the highest rate of learning. It rises for `warm` steps, and falls along a cosine that
    would reach `last` times itself after `curve` steps, or after all. tower: the tower's rate, as a
    share of it. stream: of the pictures."""

    name: str
    steps: int
    rate: float
    last: float
    pictures: int
    stream: int
    warm: int = 100
    curve: int = 0
    tower: float = 1.0

    def rate_at(self, step: int) -> float:
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        done = (step - self.warm) / max(1, max(self.curve, self.steps) - self.warm)
        return self.rate * (self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2)


STAGES = (
    TrainingStage("crops", 1000, 2e-3, 0.2, pictures=32, stream=10),
    TrainingStage("crops", 1000, 1.5e-3, 0.2, pictures=32, stream=14),
    TrainingStage("whole", 700, 1.5e-3, 0.1, pictures=12, stream=11, curve=1000),
    TrainingStage("decoder", 600, 2e-3, 0.1, pictures=16, stream=12),
    TrainingStage("joint", 560, 8e-4, 0.02, pictures=8, stream=13, warm=60, tower=0.7),
)


class Trainer:
    """The model, what is thrown away behind it, and how far training has come."""

    def __init__(self, folder: Path, seed: int, stages: tuple[TrainingStage, ...] = STAGES) -> None:
        self.folder, self.seed, self.stages = folder, seed, stages
        self.module = starting_module(seed)
        self.vision = self.module.model.vision_tower
        self.projector = self.module.model.multi_modal_projector
        self.language = self.module.model.language_model
        self.kinds = nn.Linear(self.vision.config.hidden_size, len(KINDS))
        nn.init.zeros_(self.kinds.bias)
        self.tokenizer = new_tokenizer()
        self.cache: Tensor | None = None
        self.begun = self.saved = time.monotonic()
        self.before = 0.0  # seconds of runs that were stopped

    def run(self) -> None:
        """All stages, or what is left of them."""
        at, step, optimiser = self._resumed()
        for index in range(at, len(self.stages)):
            stage = self.stages[index]
            trained = self._optimiser(stage)
            if optimiser is not None:
                trained.load_state_dict(optimiser)
                optimiser = None
            self._stage(index, stage, trained, step)
            step = 0
        save(self.module, self.folder / "checkpoint")
        self.say(f"saved to {self.folder / 'checkpoint'}")

    def _stage(self, index: int, stage: TrainingStage, optimiser: Any, first: int) -> None:
        loss_of = getattr(self, f"_{stage.name}")
        shown: dict[str, list[float]] = {}
        for step in range(first, stage.steps):
            for group in optimiser.param_groups:
                group["lr"] = stage.rate_at(step) * group["share"]
            losses, told = loss_of(stage, step)
            optimiser.zero_grad()
            losses.backward()
            weights = [w for group in optimiser.param_groups for w in group["params"]]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            for name, value in {"loss": float(losses.detach()), **told}.items():
                shown.setdefault(name, []).append(value)
            if (step + 1) % TALK == 0:
                means = "  ".join(f"{name} {np.mean(v):.3f}" for name, v in shown.items())
                self.say(f"{stage.name} {step + 1}/{stage.steps}  {means}")
                shown = {}
            if stage.name in ("decoder", "joint") and (step + 1) % VALIDATE == 0:
                self._validate(40)
            if time.monotonic() - self.saved > EVERY or step + 1 == stage.steps:
                self._keep(index, step + 1, optimiser)

    def _crops(self, stage: TrainingStage, step: int) -> tuple[Tensor, dict[str, float]]:
        """Patches look like their words: a piece of a quarter of each picture's size."""
        rng = np.random.default_rng([self.seed, stage.stream, step])
        given = seen(pictures_of(stage.stream, step, stage.pictures))
        row, column = (int(place) for place in rng.integers(0, GRID // 2 + 1, 2))
        cut = cropped(given, (row, column), GRID // 2)
        patches, _ = forward.tower(self.vision, cut.pixels, (row, column))
        return self._patch_loss(self.projector(patches), cut)

    def _whole(self, stage: TrainingStage, step: int) -> tuple[Tensor, dict[str, float]]:
        """The same in whole pictures, and the class token knows which kinds are there."""
        given = seen(pictures_of(stage.stream, step, stage.pictures))
        patches, first = forward.tower(self.vision, given.pixels)
        loss, told = self._patch_loss(self.projector(patches), given)
        there = F.binary_cross_entropy_with_logits(self.kinds(first), given.kinds)
        return loss + 10 * there, {**told, "kinds": 10 * float(there.detach())}

    def _decoder(self, stage: TrainingStage, step: int) -> tuple[Tensor, dict[str, float]]:
        """Questions, answered from 144 of the patches; the tower is done with for now."""
        if self.cache is None:
            self.cache = self._features(stage)
        batches = CACHED // stage.pictures
        pictures = pictures_of(stage.stream, step % batches, stage.pictures)
        rng = np.random.default_rng([self.seed, stage.stream, step])
        places = torch.tensor(np.stack([_some(shown.owners, rng) for shown in pictures]))
        start = step % batches * stage.pictures
        patches = self.cache[start : start + stage.pictures].float()
        index = places[..., None].expand(-1, -1, patches.shape[2])
        text = asked(questions_about(pictures, rng), self.tokenizer, len(pictures), suffix=False)
        logits = self._answers(self.projector(patches.gather(1, index)), places, text)
        return _answer_loss(logits, text)

    def _joint(self, stage: TrainingStage, step: int) -> tuple[Tensor, dict[str, float]]:
        """Everything together, from all patches; every other step with POPE's suffix."""
        pictures = pictures_of(stage.stream, step, stage.pictures)
        rng = np.random.default_rng([self.seed, stage.stream, step])
        given = seen(pictures)
        text = asked(
            questions_about(pictures, rng), self.tokenizer, len(pictures), suffix=step % 2 == 1
        )
        patches, first = forward.tower(self.vision, given.pixels)
        visual = self.projector(patches)
        loss, told = self._patch_loss(visual, given)
        there = F.binary_cross_entropy_with_logits(self.kinds(first), given.kinds)
        places = torch.arange(TOKENS).expand(len(pictures), -1)
        answer, right = _answer_loss(self._answers(visual, places, text), text)
        return answer + 0.3 * loss + 3 * there, {
            **right,
            "shape": told["shape"],
            "kinds": 10 * float(there.detach()),
        }

    def _answers(self, visual: Tensor, places: Tensor, text: QuestionBatch) -> Tensor:
        return forward.answers(
            self.language,
            self.module.lm_head.weight,
            BEFORE,
            visual,
            places,
            text.tokens,
            text.wanted,
            TOKENS,
        )

    def _patch_loss(self, visual: Tensor, given: PictureBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of each group of words, and how many patches of objects are right."""
        words = self.language.embed_tokens.weight
        loss, told = visual.new_zeros(()), {}
        for name, (group, weight) in GROUPS.items():
            logits = visual @ words[group].T / math.sqrt(words.shape[1])
            label, last = given.labels[name], len(group) - 1
            balance = torch.ones(len(group))
            if name not in ("row", "column"):
                balance[last] = 0.25
            loss = loss + weight * F.cross_entropy(logits.flatten(0, 1), label.flatten(), balance)
            if name in ("colour", "shape"):
                objects = label != last
                right = (logits.detach()[..., :last].argmax(-1) == label)[objects]
                told[name] = float(right.float().mean())
        return loss, told

    def _features(self, stage: TrainingStage) -> Tensor:
        """The tower's patches of the decoder stage's pictures: [2048, 576, C], half precision."""
        self.say(f"features of {CACHED} pictures")
        parts = []
        with torch.no_grad():
            for step in range(CACHED // stage.pictures):
                given = seen(pictures_of(stage.stream, step, stage.pictures))
                parts.append(forward.tower(self.vision, given.pixels)[0].half())
        return torch.cat(parts)

    @torch.no_grad()
    def _validate(self, count: int) -> None:
        """F1 of POPE's categories on pictures of the validation split."""
        pictures, questions = sample(VALIDATION, count)
        score: dict[str, list[tuple[bool, bool]]] = {}
        for start in range(0, count, 8):
            some = pictures[start : start + 8]
            own = [q for q in questions if start <= q.picture < start + 8]
            local = [type(q)(q.picture - start, q.category, q.text, q.yes) for q in own]
            text = asked(local, self.tokenizer, len(some), suffix=True)
            visual = self.projector(forward.tower(self.vision, seen(some).pixels)[0])
            places = torch.arange(TOKENS).expand(len(some), -1)
            said = self._answers(visual, places, text)[:, :, 0].argmax(-1) == YES
            count_of = [0] * len(some)
            for question in local:
                answer = bool(said[question.picture, count_of[question.picture]])
                count_of[question.picture] += 1
                score.setdefault(question.category, []).append((answer, question.yes))
        values = {name: _f1(score[name]) for name in POPE}
        told = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.say(f"validation F1  {told}  mean {np.mean(list(values.values())):.3f}")

    def _optimiser(self, stage: TrainingStage) -> Any:
        """AdamW on what the stage trains; positions of the tower stay as they are."""
        tower = [
            weight
            for name, weight in self.vision.named_parameters()
            if "position_embedding" not in name
        ]
        rest = [*self.projector.parameters(), self.language.embed_tokens.weight]
        if stage.name in ("whole", "joint"):
            rest += self.kinds.parameters()
        if stage.name in ("decoder", "joint"):
            rest += [w for n, w in self.language.named_parameters() if "embed_tokens" not in n]
        groups = [{"params": rest, "share": 1.0}]
        if stage.name != "decoder":
            groups.append({"params": tower, "share": stage.tower})
        return torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)

    def _keep(self, index: int, step: int, optimiser: Any) -> None:
        last = step == self.stages[index].steps
        state = {
            "module": self.module.state_dict(),
            "kinds": self.kinds.state_dict(),
            "optimiser": None if last else optimiser.state_dict(),
            "stage": index + last,
            "step": 0 if last else step,
            "seconds": self.seconds,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "state.part"
        torch.save(state, part)
        part.replace(self.folder / "state.pt")
        self.saved = time.monotonic()

    def _resumed(self) -> tuple[int, int, Any]:
        """TrainingStage, step and optimiser to go on from."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return 0, 0, None
        state = torch.load(path, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.kinds.load_state_dict(state["kinds"])
        self.before = state["seconds"]
        self.say(f"goes on at stage {state['stage']}, step {state['step']}")
        return state["stage"], state["step"], state["optimiser"]

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.begun

    def say(self, line: str) -> None:
        text = f"{self.seconds:7.0f} s  {line}"
        print(text, flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "training.log").open("a") as file:
            file.write(text + "\n")


def _some(owners: Any, rng: np.random.Generator) -> Any:
    """144 of the 576 places in order, half of them from objects where there are so many."""
    flat = owners.reshape(-1)
    objects = rng.permutation(np.flatnonzero(flat >= 0))[: SPARSE // 2]
    rest = rng.permutation(np.setdiff1d(np.arange(TOKENS), objects))[: SPARSE - len(objects)]
    return np.sort(np.concatenate([objects, rest]))


def _answer_loss(logits: Tensor, text: QuestionBatch) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the answers, a tenth of that of the end behind them, and half of that of
    the words in a question that say what is there, as a caption would."""
    words = logits.shape[-1]
    answer, end, named = (
        F.cross_entropy(
            logits[:, :, slots].reshape(-1, words),
            text.targets[:, :, slots].flatten(),
            ignore_index=NONE,
        )
        for slots in (slice(0, 1), slice(1, 2), slice(2, 4))
    )
    counted = text.targets[:, :, 0] != NONE
    right = (logits.detach()[:, :, 0].argmax(-1) == text.targets[:, :, 0])[counted]
    return answer + 0.1 * end + 0.5 * named, {
        "answer": float(answer.detach()),
        "named": float(named.detach()),
        "right": float(right.float().mean()),
    }


def _f1(answers: list[tuple[bool, bool]]) -> float:
    hits = sum(said and true for said, true in answers)
    return 2 * hits / max(1, sum(said + true for said, true in answers))


def compile_layers() -> None:
    """One kernel for what stands between two products: training takes about half the time."""
    torch._dynamo.config.recompile_limit = 64
    forward.decoder_layer = torch.compile(forward.decoder_layer, dynamic=False)
    forward.tower_layer = torch.compile(forward.tower_layer, dynamic=False)
