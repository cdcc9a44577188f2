"""A model with a method for lmms-eval, which brings the tasks, the data and their scores.

Imported where lmms-eval runs, and nowhere else: importing it sets seeds and patches ssl, which has
no place in a process that measures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...methods import format_spec, load_plugins, parse
from ...methods.contract.errors import InputError
from ...methods.contract.policies import check_policy
from ...reports.record.spec import Layout
from ..models.load import load
from .asking import Examinee, RowFailedError
from .pictures import DrawnPictures

if TYPE_CHECKING:
    from PIL import Image

try:
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise InputError(f"lmms-eval is not here ({error}): pip install 'tpprof[lmms]'") from error
except RuntimeError as error:  # "operator torchvision::nms does not exist"
    raise InputError(
        f"the torchvision here does not fit this torch ({error}): uninstall it, or install the "
        "build that belongs to your torch"
    ) from error

NEW_TOKENS = 16
"""Of an answer at most, where a task does not say."""
GREEDY = {"temperature": (0, 0.0, None), "do_sample": (False, None), "num_beams": (1, None)}
"""What a task may say of how tokens are chosen."""


def manifest() -> Any:
    """What the entry point `lmms_eval.models` gives: the model `tpprof`."""
    return ModelManifest(model_id="tpprof", simple_class_path=f"{__name__}.{PrunedModel.__name__}")


@dataclass(frozen=True)
class HarnessQuestion:
    """A request of the harness. picture: its number. until: what ends its answer."""

    prompt: str
    picture: str
    new_tokens: int
    until: tuple[str, ...]


class PrunedModel(lmms):  # type: ignore[misc]
    """A checkpoint that answers under a method, greedily, through tpprof's engine.

    A request that the method or the model cannot answer ends the run: it is never an empty answer
    that is scored as 0.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        method: str = "vanilla",
        *,
        keep: str | int | None = None,
        attention: str = "rows",
        layout: Layout = "anyres",
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        plugin: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """pretrained: as `tpprof.load` takes it. method: a spec string; keep: its budget, where it
        names none. plugin: a .py file that registers methods. max_batch_size: of the harness, which
        hands it on; not used. Raises InputError."""
        super().__init__()
        load_plugins([plugin] if plugin else [])
        self.method = parse(method, None if keep is None else str(keep))
        self.attention, self.layout = check_policy(attention), layout
        self.batch_size = int(batch_size)
        self.model = load(pretrained, device=device, dtype=dtype)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, in their order. Raises InputError."""
        images: list[Callable[[], Image.Image]] = []
        questions = []
        for request in requests:
            context, options, doc_to_visual, doc_id, task, split = request.args
            documents = self.task_dict[task][split]
            images.append(functools.partial(_picture_of, doc_to_visual, documents, doc_id, task))
            questions.append(_question(context, options, len(images) - 1, task))
        found = self._answers(questions, images)
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args[:2], text)
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise InputError("tasks of several rounds are not supported: each request is one question")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise InputError("tasks that compare likelihoods are not supported: answers are generated")

    def clean(self) -> None:
        """The base would take the model away, which may be asked again."""

    def _answers(
        self, questions: Sequence[HarnessQuestion], images: Sequence[Callable[[], Image.Image]]
    ) -> list[str]:
        pictures = DrawnPictures(
            lambda number: images[int(number)]().convert("RGB"), kept=self.batch_size
        )
        found = [""] * len(questions)
        for new_tokens in sorted({question.new_tokens for question in questions}):
            places = [i for i, one in enumerate(questions) if one.new_tokens == new_tokens]
            examinee = Examinee(
                self.model,
                [questions[place] for place in places],
                pictures,
                attention=self.attention,
                layout=self.layout,
                new_tokens=new_tokens,
                batch_size=self.batch_size,
            )
            for own, text in self._asked(examinee):
                found[places[own]] = _cut(text, questions[places[own]].until)
        return found

    def _asked(self, examinee: Examinee) -> list[tuple[int, str]]:
        batches = examinee.batches(self.method)
        try:
            answers = list(examinee.answers(self.method, batches))
        except RowFailedError as error:
            raise InputError(f"{format_spec(self.method)}: {error}") from error
        return [
            pair
            for batch, texts in zip(batches, answers, strict=True)
            for pair in zip(batch.places, texts, strict=True)
        ]


def _picture_of(
    doc_to_visual: Callable[[Any], Any], documents: Any, doc_id: Any, task: str
) -> Image.Image:
    """The only picture of a document, decoded when it is asked for."""
    from PIL import Image

    listed = list(doc_to_visual(documents[doc_id]) or ())
    if len(listed) != 1 or not isinstance(listed[0], Image.Image):
        kinds = ", ".join(type(visual).__name__ for visual in listed) or "none"
        raise InputError(
            f"{task}, document {doc_id}: one picture is needed, and it has {len(listed)} ({kinds})"
        )
    return listed[0]


def _question(context: str, options: Mapping[str, Any], number: int, task: str) -> HarnessQuestion:
    for name, known in GREEDY.items():
        if options.get(name, known[0]) not in known:
            raise InputError(f"{task}: {name} is {options[name]!r}, and answers here are greedy")
    until = options.get("until") or ()
    return HarnessQuestion(
        prompt=context,
        picture=str(number),
        new_tokens=int(options.get("max_new_tokens") or NEW_TOKENS),
        until=(until,) if isinstance(until, str) else tuple(until),
    )


def _cut(text: str, until: Sequence[str]) -> str:
    for end in until:
        text = text.partition(end)[0] if end else text
    return text.strip()
