"""Training of projector and low-rank changes, for so many seconds.

For the first eighth of the time patches learn to look like the words for what they show, by the
language model's own embeddings; then questions are answered, all of them about a picture at once.
The tower is frozen throughout.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...seer.questions import POPE
from .. import trained
from ..packages import TRAINED
from . import forward, lora
from .batches import AskedTokens, Batches, Prompts, SceneBatch, put
from .nouns import NOUNS
from .questions import SceneQuestion, sample
from .scenes import Bank, Scene, render

ALIGNING = 0.12  # of the time
RATES = {"projector": 1e-3, "changes": 8e-4}
ALIGNING_RATE = 2e-3
WARM = 0.02  # of the time, in each stage
LAST = 0.02  # of the rate, at the end
SHARPNESS = 16.0  # of a cosine as a logit
GROUND = 0.1  # the weight of patches that show nothing
PATCHES = 0.3  # the weight of their loss beside that of answers
EVAL_PICTURES = 16  # at once
EVAL_SLOTS = 12  # questions about a picture at most: four in each category


@dataclass
class Log:
    """What is printed, and written to `log.json` as it is said."""

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def say(self, **entry: Any) -> None:
        self.entries.append(entry)
        print(
            " ".join(
                f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in entry.items()
            ),
            flush=True,
        )
        self.path.write_text(json.dumps(self.entries, indent=1))


class ChangesTrainer:
    """module: the LLaVA. banks: for training, and for the test. folder: what is made lies there."""

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        banks: tuple[Bank, Bank],
        folder: Path,
        *,
        seconds: float,
        device: torch.device,
        pictures: int,
        workers: int,
        seed: int,
        test: int,
    ) -> None:
        torch.manual_seed(seed)
        self.folder, self.seconds, self.device, self.seed = folder, seconds, device, seed
        self.pictures, self.workers, self.test = pictures, workers, test
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        module.to(device).requires_grad_(False)
        self.tower = module.model.vision_tower.to(
            torch.float16 if device.type == "cuda" else torch.float32
        )
        self.projector = module.model.multi_modal_projector.requires_grad_(True)
        self.language = module.model.language_model
        self.words = self._words(Prompts(tokenizer))
        self.changes = lora.add(self.language, self.dtype)
        self.ground = nn.Parameter(torch.tensor(0.3, device=device))
        self.prompts = Prompts(tokenizer)
        self.before = torch.tensor(self.prompts.before, device=device)
        self.banks = tuple(bank.to(device) for bank in banks)
        self.log = Log(folder / "log.json")

    def _words(self, prompts: Prompts) -> Tensor:
        """What patches of each noun are to look like: the mean embedding of its tokens, less that
        of all nouns, of length 1: [nouns, d]."""
        table = self.language.embed_tokens.weight
        ids = [prompts.tokenizer.encode(f" {noun}", add_special_tokens=False).ids for noun in NOUNS]
        means = torch.stack([table[torch.tensor(own, device=table.device)].mean(0) for own in ids])
        return F.normalize(means.float() - means.float().mean(0), dim=-1)

    def run(self) -> None:
        """Train, and look at the end how well it went."""
        loader = DataLoader(
            Batches(self.prompts, self.seed, self.pictures),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
        )
        optimiser = self._optimiser()
        self.log.say(
            event="start", pictures=self.pictures, seconds=self.seconds, seed=self.seed,
            trained=sum(p.numel() for p in self._trained()), device=str(self.device),
        )  # fmt: skip
        begun, step, told, shown = time.monotonic(), 0, 0.0, dict[str, Tensor]()
        looks = [0.25, 0.5, 0.75]
        for batch in loader:
            done = (time.monotonic() - begun) / self.seconds
            if done >= 1:
                break
            for name, value in self._step(optimiser, batch, done).items():
                shown[name] = 0.95 * shown[name] + 0.05 * value if name in shown else value
            step += 1
            if done - told > 0.02:
                told = done
                self._settle()
                rate = step / (time.monotonic() - begun)
                means = {name: round(float(value), 4) for name, value in shown.items()}
                self.log.say(done=round(done, 3), step=step, a_second=round(rate, 2), **means)
            if looks and done > looks[0]:
                looks.pop(0)
                self.save()
                self.log.say(
                    event="validation", step=step, **self.scores(2, max(8, self.test // 8))
                )
        self._settle()
        self.save()
        self.log.say(event="end", step=step, took=time.monotonic() - begun)
        self.log.say(event="test", pictures=self.test, **self.scores(3, self.test))

    def _trained(self) -> list[nn.Parameter]:
        return [*self.projector.parameters(), *self.changes]

    def _optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [
                {"params": [*self.projector.parameters(), self.ground], "of": "projector"},
                {"params": self.changes, "of": "changes"},
            ],
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )

    def _step(
        self, optimiser: torch.optim.Optimizer, batch: SceneBatch, done: float
    ) -> dict[str, Tensor]:
        """One step of training; its losses, detached. done: the share of the time that is over."""
        self._rates(optimiser, done)
        losses = self._losses(batch, aligning=done < ALIGNING)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained(), 1.0)
        optimiser.step()
        return {name: value.detach() for name, value in losses.items()}

    def save(self) -> None:
        trained.save(self.folder / TRAINED.name, self.projector, lora.changes(self.language))

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _rates(self, optimiser: Any, done: float) -> None:
        """A rise and a cosine in each of both stages."""
        aligning = done < ALIGNING
        part = done / ALIGNING if aligning else (done - ALIGNING) / (1 - ALIGNING)
        warm = WARM / (ALIGNING if aligning else 1 - ALIGNING)
        share = min(1.0, (part + 1e-3) / warm) * (
            LAST + (1 - LAST) * (1 + math.cos(math.pi * part)) / 2
        )
        for group in optimiser.param_groups:
            group["lr"] = share * (ALIGNING_RATE if aligning else RATES[group["of"]])

    def _losses(self, batch: SceneBatch, *, aligning: bool) -> dict[str, Tensor]:
        visual, owners = self._seen(batch.scenes, self.banks[0])
        patches, right = self._patch_loss(visual, owners, batch.nouns.to(self.device))
        told = {"patches": patches, "patches_right": right}
        if aligning:
            return {"loss": patches, **told}
        asked = batch.asked.to(self.device)
        logits = forward.answers(self.language, self.before, visual, asked.tokens, asked.rows)
        each = F.cross_entropy(logits.float(), asked.targets, reduction="none")
        answer = (each * asked.weights).sum() / asked.weights.sum()
        yes_no = asked.weights == 1
        correct = (logits.argmax(-1) == asked.targets)[yes_no].float().mean()
        return {"loss": answer + PATCHES * patches, "answers": answer, "right": correct, **told}

    def _seen(self, scenes: list[Scene], bank: Bank) -> tuple[Tensor, Tensor]:
        """Visual tokens [B, 576, d], and whose each patch is [B, 576]."""
        with torch.no_grad():
            pixels, owners = render(scenes, bank)
            patches = forward.features(self.tower, pixels).float()
        return self.projector(patches), owners.flatten(1)

    def _patch_loss(self, visual: Tensor, owners: Tensor, nouns: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of the noun that each patch shows, or none; how many of nouns are right."""
        logits = SHARPNESS * F.normalize(visual, dim=-1) @ self.words.T
        ground = (SHARPNESS * self.ground).expand(*logits.shape[:2], 1)
        logits = torch.cat([logits, ground], -1)
        label = nouns.gather(1, owners.clamp(min=0)).where(owners >= 0, len(NOUNS))
        balance = torch.ones(len(NOUNS) + 1, device=label.device)
        balance[-1] = GROUND
        loss = F.cross_entropy(logits.flatten(0, 1), label.flatten(), balance)
        right = (logits[..., :-1].argmax(-1) == label)[owners >= 0].float().mean()
        return loss, right

    @torch.no_grad()
    def scores(self, split: int, count: int) -> dict[str, float]:
        """F1 of POPE's categories on pictures of a split, and how often neither Yes nor No is the
        likeliest word."""
        scenes, questions = sample(split, count)
        bank = self.banks[1 if split == 3 else 0]
        said: list[tuple[SceneQuestion, bool]] = []
        unreadable = 0
        for start in range(0, count, EVAL_PICTURES):
            some = scenes[start : start + EVAL_PICTURES]
            own = [
                SceneQuestion(q.picture - start, q.category, q.text, q.answer)
                for q in questions
                if start <= q.picture < start + len(some)
            ]
            if own:
                asked = put(own, self.prompts, len(some), most=EVAL_SLOTS).to(self.device)
                logits, numbers = self._first_words(some, bank, asked)
                pair = logits[:, self._yes_no()]
                unreadable += int((logits.argmax(-1)[:, None] != self._yes_no()).all(-1).sum())
                answers = (pair[:, 0] > pair[:, 1]).tolist()
                said += [(own[n], yes) for n, yes in zip(numbers.tolist(), answers, strict=True)]
        found = {category: _f1([s for s in said if s[0].category == category]) for category in POPE}
        mean = sum(found.values()) / len(POPE)
        yes_ratio = sum(yes for _, yes in said) / len(said)
        return {
            **found,
            "mean": mean,
            "yes_ratio": yes_ratio,
            "unreadable": unreadable,
            "questions": len(said),
        }

    def _first_words(
        self, scenes: list[Scene], bank: Bank, asked: AskedTokens
    ) -> tuple[Tensor, Tensor]:
        """Logits of the first word of each answer, and whose it is."""
        visual, _ = self._seen(scenes, bank)
        first = asked.weights == 1
        logits = forward.answers(
            self.language, self.before, visual, asked.tokens, asked.rows[first]
        )
        return logits.float(), asked.places[first]

    def _yes_no(self) -> Tensor:
        ids = [self.prompts.tokenizer.token_to_id(word) for word in ("Yes", "No")]
        return torch.tensor(ids, device=self.device)


def _f1(said: list[tuple[SceneQuestion, bool]]) -> float:
    """Of the answer yes, as POPE counts it."""
    hits = sum(yes and question.answer == "Yes" for question, yes in said)
    wrong = sum(yes != (question.answer == "Yes") for question, yes in said)
    return 2 * hits / (2 * hits + wrong) if said else math.nan
