"""Training in stages, each with its own pictures, losses and schedule."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import new_tokenizer, save
from ..pictures import KINDS
from ..questions import POPE, VALIDATION, sample
from . import forward
from .batches import (
    GROUPS,
    LOOKS,
    NONE,
    YES,
    PictureBatch,
    QuestionBatch,
    asked,
    ids,
    pictures_of,
    seen,
)
from .stages import STAGES, TOKENS, StepData, TrainingStage, given_to
from .start import saved_module, starting_module

Losses = tuple[Tensor, dict[str, Tensor]]
"""What is learnt from, and what the log tells."""
T = TypeVar("T")

BEFORE = ids("<s>", "USER", ":")
EVERY = 150.0  # seconds between checkpoints
TALK = 25  # steps between lines of the log
VALIDATE = 200  # steps between validations


class Trainer:
    """The model, what is thrown away behind it, and how far training has come."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        stages: tuple[TrainingStage, ...] = STAGES,
        device: str = "cpu",
        workers: int = 0,
        start: int = 0,
        weights: Path | None = None,
    ) -> None:
        """start: the first stage, of those that follow `weights`, a folder of an earlier end."""
        self.folder, self.seed, self.stages = folder, seed, stages
        self.device, self.workers, self.start = torch.device(device), workers, start
        module = starting_module(seed) if weights is None else saved_module(weights)
        self.module = module.to(self.device)
        self.vision = self.module.model.vision_tower
        self.projector = self.module.model.multi_modal_projector
        self.language = self.module.model.language_model
        self.kinds = nn.Linear(self.vision.config.hidden_size, len(KINDS))
        nn.init.zeros_(self.kinds.bias)
        self.kinds.to(self.device)
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
        self.cache = None
        shown: dict[str, list[Tensor]] = {}
        drawn = given_to(stage, self.seed, first, self.workers)
        for step, given in enumerate(drawn, first):
            for group in optimiser.param_groups:
                group["lr"] = stage.rate_at(step) * group["share"]
            losses, told = loss_of(stage, step, given.to(self.device))
            optimiser.zero_grad()
            losses.backward()
            weights = [w for group in optimiser.param_groups for w in group["params"]]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            for name, value in {"loss": losses.detach(), **told}.items():
                shown.setdefault(name, []).append(value)
            if (step + 1) % TALK == 0:
                means = "  ".join(
                    f"{name} {torch.stack(v).mean():.3f}" for name, v in shown.items()
                )
                self.say(f"{stage.name} {step + 1}/{stage.steps}  {means}")
                shown = {}
            if stage.name in ("decoder", "joint") and (step + 1) % VALIDATE == 0:
                self._validate(40)
            if time.monotonic() - self.saved > EVERY or step + 1 == stage.steps:
                self._keep(index, step + 1, optimiser)

    def _crops(self, stage: TrainingStage, step: int, given: StepData) -> Losses:
        """Patches look like their words: a piece of a quarter of each picture's size."""
        pictures = _there(given.pictures)
        patches, _ = forward.tower(self.vision, pictures.pixels, given.corner)
        return self._patch_loss(self.projector(patches), pictures)

    def _whole(self, stage: TrainingStage, step: int, given: StepData) -> Losses:
        """The same in whole pictures, and the class token knows which kinds are there."""
        loss, told, _ = self._seen(_there(given.pictures))
        return loss["patches"] + 10 * loss["kinds"], told

    def _decoder(self, stage: TrainingStage, step: int, given: StepData) -> Losses:
        """Questions, answered from some of the patches; the tower rests."""
        if self.cache is None:
            self.cache = self._features(stage)
        places, text = _there(given.places), _there(given.text)
        start = step % (stage.kept // stage.pictures) * stage.pictures
        patches = self.cache[start : start + stage.pictures].float()
        index = places[..., None].expand(-1, -1, patches.shape[2])
        logits, nouns = self._answers(self.projector(patches.gather(1, index)), places, text)
        loss, told = _answer_loss(logits, text)
        if not stage.looks:
            return loss, told
        look, right = self._look_loss(nouns, text)
        return loss + stage.looks * look, {**told, **right}

    def _joint(self, stage: TrainingStage, step: int, given: StepData) -> Losses:
        """Everything together, from all patches."""
        places, text = _there(given.places), _there(given.text)
        loss, told, visual = self._seen(_there(given.pictures))
        answer, right = _answer_loss(self._answers(visual, places, text)[0], text)
        told = {**right, "shape": told["shape"], "kinds": told["kinds"]}
        return answer + 0.3 * loss["patches"] + 3 * loss["kinds"], told

    def _seen(self, pictures: PictureBatch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The tower's losses, what is told of them, and the visual tokens of whole pictures."""
        patches, first = forward.tower(self.vision, pictures.pixels)
        visual = self.projector(patches)
        loss, told = self._patch_loss(visual, pictures)
        there = F.binary_cross_entropy_with_logits(self.kinds(first), pictures.kinds)
        return {"patches": loss, "kinds": there}, {**told, "kinds": 10 * there.detach()}, visual

    def _answers(
        self, visual: Tensor, places: Tensor, text: QuestionBatch
    ) -> tuple[Tensor, Tensor]:
        return forward.answers(
            self.language,
            self.module.lm_head.weight,
            BEFORE.to(self.device),
            visual,
            places,
            text.tokens,
            text.wanted,
            text.nouns,
            TOKENS,
        )

    def _patch_loss(self, visual: Tensor, given: PictureBatch) -> Losses:
        """Cross entropy of each group of words, and how many patches of objects are right."""
        words = self.language.embed_tokens.weight
        loss, told = visual.new_zeros(()), {}
        for name, (group, weight) in GROUPS.items():
            logits = visual @ words[group.to(self.device)].T / math.sqrt(words.shape[1])
            label, last = given.labels[name], len(group) - 1
            balance = torch.ones(len(group), device=self.device)
            if name not in ("row", "column"):
                balance[last] = 0.25
            loss = loss + weight * F.cross_entropy(logits.flatten(0, 1), label.flatten(), balance)
            if name in ("colour", "shape"):
                objects = label != last
                right = logits.detach()[..., :last].argmax(-1) == label
                told[name] = (right & objects).sum() / objects.sum()
        return loss, told

    def _look_loss(self, nouns: Tensor, text: QuestionBatch) -> Losses:
        """Cross entropy of the words that nouns look like, as of patches."""
        words = self.language.embed_tokens.weight
        normed = F.rms_norm(nouns, nouns.shape[-1:])
        loss, told = nouns.new_zeros(()), {}
        for index, (name, (group, weight)) in enumerate(LOOKS.items()):
            label = text.looks[..., index]
            logits = normed @ words[group.to(self.device)].T / math.sqrt(words.shape[1])
            loss = loss + weight * F.cross_entropy(
                logits.flatten(0, -2), label.flatten(), ignore_index=NONE
            )
            right = logits.detach().argmax(-1) == label
            told[name] = right.sum() / (label != NONE).sum()
        return loss, told

    def _features(self, stage: TrainingStage) -> Tensor:
        """The tower's patches of the stage's pictures: [kept, 576, C], half precision."""
        self.say(f"features of {stage.kept} pictures")
        parts = []
        with torch.no_grad():
            for step in range(stage.kept // stage.pictures):
                drawn = pictures_of(stage.stream, step, stage.pictures, stage.of_four)
                given = seen(drawn).to(self.device)
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
            text = asked(local, self.tokenizer, some, suffix=True, most=12).to(self.device)
            pixels = seen(some).to(self.device).pixels
            visual = self.projector(forward.tower(self.vision, pixels)[0])
            places = torch.arange(TOKENS, device=self.device).expand(len(some), -1)
            said = self._answers(visual, places, text)[0][:, :, 0].argmax(-1) == YES
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
        return torch.optim.AdamW(
            groups,
            lr=stage.rate,
            betas=(0.9, 0.98),
            weight_decay=0.02,
            fused=self.device.type == "cuda",
        )

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
            return self.start, 0, None
        state = torch.load(path, weights_only=True, map_location=self.device)
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


def _there(part: T | None) -> T:
    """A part that the stage's steps are given."""
    assert part is not None
    return part


def _answer_loss(logits: Tensor, text: QuestionBatch) -> Losses:
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
    right = logits.detach()[:, :, 0].argmax(-1) == text.targets[:, :, 0]
    return answer + 0.1 * end + 0.5 * named, {
        "answer": answer.detach(),
        "named": named.detach(),
        "right": (right & counted).sum() / counted.sum(),
    }


def _f1(answers: list[tuple[bool, bool]]) -> float:
    hits = sum(said and true for said, true in answers)
    return 2 * hits / max(1, sum(said + true for said, true in answers))


def compile_layers() -> None:
    """One kernel for what stands between two products: training takes about half the time."""
    torch._dynamo.config.recompile_limit = 64
    forward.decoder_layer = torch.compile(forward.decoder_layer, dynamic=False)
    forward.tower_layer = torch.compile(forward.tower_layer, dynamic=False)
