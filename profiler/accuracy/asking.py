"""Questions put to a model under a method: greedy answers, batch by batch, through the engine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...methods import Method, Request
from ...methods.contract.containment import MethodFaultError, contained, location
from ...methods.contract.errors import InputError, first_line, text_of
from ...methods.contract.plan_checks import resized_for
from ...methods.contract.policies import Policy
from ...methods.contract.request import Size
from ...methods.engine.decoder import Inputs
from ...methods.engine.run import encode, run
from ...methods.engine.verify import require_finite
from ...reports.record.spec import Layout, Workload
from ..models.model import Model
from ..prompts import WorkloadError, tokenize
from ..workload import by_size
from .exam import require_companions
from .features import FeatureCache, are_all, leaves_tower_alone
from .pictures import Pictures

if TYPE_CHECKING:
    from PIL import Image


class Prompted(Protocol):
    """A question about a picture, as the model is put it."""

    @property
    def prompt(self) -> str: ...

    @property
    def picture(self) -> str: ...


Tokens = tuple[list[int], list[int]]
"""Token ids before and after a picture."""


@dataclass(frozen=True)
class ExamBatch:
    """Questions of equal lengths that are asked at once. places: of the questions. sizes: height
    and width in pixels to which each picture is resized; its own where the method does not."""

    request: Request
    places: tuple[int, ...]
    sizes: tuple[Size, ...]


class RowFailedError(Exception):
    """A method that could not answer: one line, with its file and line where they are known."""


class Examinee:
    """A model that answers questions about pictures.

    Which questions share a batch depends on the questions, the method and `batch_size` alone, and
    nothing that depends on others is carried from one batch to the next: an evaluation that is gone
    on with gives what it would have given. A knob that is solved to meet a budget is solved in each
    batch. A method with a seed gets another one for each question, which is then alone in its
    batch: else all questions would share one draw. Where a method does nothing in the vision tower
    and the model's decoder is given nothing of a picture but its projected patches, the tower runs
    once a picture, alone.
    """

    def __init__(
        self,
        model: Model,
        questions: Sequence[Prompted],
        pictures: Pictures,
        *,
        attention: Policy = "rows",
        layout: Layout = "flat",
        new_tokens: int,
        batch_size: int,
    ) -> None:
        """Raises WorkloadError for a model without what questions need."""
        require_companions(model)
        self.model, self.questions, self.pictures = model, questions, pictures
        self.attention, self.new_tokens, self.batch_size = attention, new_tokens, batch_size
        self.workload = Workload(layout=layout, new_tokens=new_tokens)
        self.ends = _ends(model)
        self._tokens: dict[str, Tokens] = {}
        self._sizes: dict[str, Size] = {}
        self._features = FeatureCache()
        self._from_pixels = False  # whether a picture's features were not all that there is of it

    def batches(self, method: Method) -> list[ExamBatch]:
        """All questions, once each. Raises BudgetError or UnsupportedError for a method that cannot
        meet its budget on one of them."""
        groups: dict[Request, list[tuple[int, Size]]] = {}
        for place, question in enumerate(self.questions):
            before, after = self._tokenized(question.prompt)
            planned = by_size(self.model.shape, self.workload, texts=(len(before), len(after)))
            sizes, request = resized_for(method, (self._size(question.picture),), planned)
            groups.setdefault(request, []).append((place, sizes[0]))
        most = 1 if _is_seeded(method) else self.batch_size
        return [
            ExamBatch(
                dataclasses.replace(request, batch=len(part)),
                tuple(place for place, _ in part),
                tuple(size for _, size in part),
            )
            for request, listed in groups.items()
            for part in _parts(listed, most)
        ]

    def answers(self, method: Method, batches: Sequence[ExamBatch]) -> Iterator[list[str]]:
        """The answers to each batch, without what ends them. Raises RowFailedError."""
        own = copy.deepcopy(method)  # what a plug-in keeps on it reaches no other row
        for number, batch in enumerate(batches):
            try:
                yield self._answer(_seeded_for(own, batch.places[0]), batch, verify=not number)
            except Exception as error:
                why = text_of(error) if isinstance(error, InputError) else first_line(error)
                raise RowFailedError(why + location(error, method)) from error

    def _answer(self, method: Method, batch: ExamBatch, *, verify: bool) -> list[str]:
        with contained():
            trace = run(
                self.model,
                self._inputs(method, batch),
                method,
                attention=self.attention,
                new_tokens=self.new_tokens,
                verify=verify,
                ends=self.ends,
            )
        require_finite(trace.logits, "its logits")
        require_finite(trace.step_logits, "its logits of decode")
        if trace.tokens.shape[0] != len(batch.places):
            raise MethodFaultError(f"it answers {trace.tokens.shape[0]} of {len(batch.places)}")
        return [self._text(row) for row in trace.tokens.tolist()]

    def _inputs(self, method: Method, batch: ExamBatch) -> Inputs:
        """The requests of a batch, from features that are kept where the method allows it."""
        numbers = range(len(batch.places))
        if leaves_tower_alone(method, batch.request, self.attention):
            known: list[Tensor] = []
            while not self._from_pixels and len(known) < len(numbers):
                found = self._encoded(method, batch, len(known))
                self._from_pixels = found is None
                known += [] if found is None else [found]
            if not self._from_pixels:
                return self.model.synthetic(
                    batch.request, self._ids(batch, numbers), torch.cat(known)
                )
        return self._assembled(batch, numbers)

    def _encoded(self, method: Method, batch: ExamBatch, number: int) -> Tensor | None:
        """Projected patches [1, V, d] of the picture of one question of the batch; None where they
        are not all that the decoder is given of it."""
        picture = self.questions[batch.places[number]].picture, batch.sizes[number]
        found = self._features.get(picture)
        if found is not None:
            return found
        inputs = self._assembled(batch, [number])
        if not are_all(inputs):
            return None
        found = encode(self.model, inputs, method)
        self._features.put(picture, found)
        return found

    def _assembled(self, batch: ExamBatch, numbers: Sequence[int]) -> Inputs:
        """The requests of some questions of a batch, from pixels, where the model is."""
        pictures = [self.questions[batch.places[number]].picture for number in numbers]
        pixels = self.model.pixels(
            [
                _shown(self.pictures.image(picture), batch.sizes[number])
                for picture, number in zip(pictures, numbers, strict=True)
            ]
        )
        request = dataclasses.replace(batch.request, batch=len(numbers))
        counted = self.model.visual_tokens(pixels, self.workload.layout)
        if set(counted) != {request.visual}:
            raise WorkloadError(
                f"{self.model.name}: {request.visual} visual tokens were planned for "
                f"{pictures[0]}, and its image processor gives {counted[0]}"
            )
        ids = self._ids(batch, numbers)
        assembled = self.model.assemble(pixels, ids, request, self.workload.layout)
        return assembled.to(self.model.device)

    def _ids(self, batch: ExamBatch, numbers: Sequence[int]) -> Tensor:
        """Token ids [B, S] of some questions of a batch, with placeholders."""
        visual = [self.model.image_token] * batch.request.visual
        prompts = [self.questions[batch.places[number]].prompt for number in numbers]
        listed = [self._tokenized(prompt) for prompt in prompts]
        return torch.tensor([before + visual + after for before, after in listed])

    def _text(self, tokens: list[int]) -> str:
        ended = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        text: str = self.model.tokenizer.decode(tokens[:ended], skip_special_tokens=True)
        return text.strip()

    def _tokenized(self, prompt: str) -> Tokens:
        if prompt not in self._tokens:
            before, after = tokenize(self.model, prompt)
            self._tokens[prompt] = before, after
        return self._tokens[prompt]

    def _size(self, picture: str) -> Size:
        if picture not in self._sizes:
            self._sizes[picture] = self.pictures.size(picture)
        return self._sizes[picture]


def _ends(model: Model) -> tuple[int, ...]:
    """The tokens that end an answer, as the checkpoint says."""
    given: list[Any] = [getattr(model.tokenizer, "eos_token_id", None)]
    for config in (getattr(model.module, "generation_config", None), model.text_config):
        listed = getattr(config, "eos_token_id", None)
        given += listed if isinstance(listed, (list, tuple)) else [listed]
    return tuple(sorted({token for token in given if isinstance(token, int)}))


def _shown(image: Image.Image, size: Size) -> Image.Image:
    """A picture as the image processor is given it."""
    if (image.height, image.width) == size:
        return image
    from PIL.Image import Resampling

    return image.resize(size[::-1], Resampling.BICUBIC)


def _parts(listed: list[tuple[int, Size]], most: int) -> Iterator[list[tuple[int, Size]]]:
    for start in range(0, len(listed), most):
        yield listed[start : start + most]


def _is_seeded(method: Method) -> bool:
    return any(hasattr(part, "seed") for part in getattr(method, "parts", (method,)))


def _seeded_for(method: Method, place: int) -> Method:
    """The method as it is given to the question at `place`: with another seed for each."""
    if not _is_seeded(method):
        return method
    parts = getattr(method, "parts", None)
    if parts is not None:
        changed: Any = {"parts": tuple(_seeded_for(part, place) for part in parts)}
    else:
        changed = {"seed": method.seed * 2**20 + place}  # type: ignore[attr-defined]
    other: Method = dataclasses.replace(method, **changed)
    return other
