"""What a model answers through the engine: transformers' own generation, batch or no batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pope_files import answering, write_pope

import tpprof
from tpprof.methods import Keep, Method, Plan, Request, View, parse
from tpprof.methods.contract.plan import Entering, Stage
from tpprof.profiler.accuracy import asking
from tpprof.profiler.accuracy.asking import Examinee, RowFailedError
from tpprof.profiler.accuracy.features import FeatureCache
from tpprof.profiler.accuracy.pictures import FolderPictures
from tpprof.profiler.accuracy.pope import read_pope
from tpprof.profiler.models.model import Model
from tpprof.profiler.prompts import WorkloadError
from tpprof.reports.record.accuracy import YesNoQuestion

STEPS = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pope(tmp_path_factory.mktemp("pope"), pictures=4)


@pytest.fixture(scope="module")
def questions(folders: tuple[Path, Path]) -> list[YesNoQuestion]:
    return read_pope(folders[0])[:8]


def examinee(
    model: Model, questions: list[YesNoQuestion], images: Path, **options: Any
) -> Examinee:
    given: dict[str, Any] = {"new_tokens": STEPS, "batch_size": 4, **options}
    return Examinee(model, questions, FolderPictures(images), **given)


def answers(asked: Examinee, spec: str | Method) -> list[str]:
    """By question."""
    method = parse(spec) if isinstance(spec, str) else spec
    batches = asked.batches(method)
    found = dict[int, str]()
    for batch, texts in zip(batches, asked.answers(method, batches), strict=True):
        found.update(zip(batch.places, texts, strict=True))
    return [found[place] for place in range(len(asked.questions))]


@pytest.mark.parametrize("architecture", ["llava", "llava-next", "qwen2-vl"])
def test_vanilla_answers_as_transformers_generates(
    architecture: str, questions: list[YesNoQuestion], folders: tuple[Path, Path]
) -> None:
    """One by one, each from its own picture and question."""
    model, images = answering(architecture), folders[1]
    asked = examinee(model, questions, images, layout="anyres")
    asked.ends = (model.tokenizer.convert_tokens_to_ids(_late(model, questions, images)),)
    expected = [_generated(model, q, images, ends=asked.ends, layout="anyres") for q in questions]
    assert answers(asked, "vanilla") == expected
    assert len(set(expected)) > 1
    assert any(len(text.split()) < STEPS for text in expected), "none ended early"


def _late(model: Model, questions: list[YesNoQuestion], images: Path) -> str:
    """A word that ends the answers of some questions early, and begins as few as can be."""
    told = [_generated(model, q, images, ends=(), layout="anyres").split() for q in questions]
    firsts = [words[0] for words in told]
    later = [word for words in told for word in words[1:-1]]
    return max(later, key=lambda word: (-firsts.count(word), later.count(word)))


def _generated(
    model: Model, question: YesNoQuestion, images: Path, *, ends: tuple[int, ...], layout: str
) -> str:
    inputs = tpprof.inputs(
        model, image=str(images / question.picture), prompt=question.prompt, layout=layout
    )
    with torch.no_grad():
        whole = model.module.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=0,
        )
    tokens = whole[0, inputs["input_ids"].shape[1] :].tolist()
    cut = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    text: str = model.tokenizer.decode(tokens[:cut], skip_special_tokens=True)
    return text.strip()


@pytest.mark.parametrize("spec", ["fastv:keep=9", "pooling:keep=9", "visionzip:keep=9"])
def test_a_batch_changes_no_answer(
    spec: str, questions: list[YesNoQuestion], folders: tuple[Path, Path]
) -> None:
    model = answering()
    alone = examinee(model, questions, folders[1], batch_size=1)
    together = examinee(model, questions, folders[1], batch_size=8)
    assert len(together.batches(parse(spec))) < len(alone.batches(parse(spec))) == 8
    assert answers(together, spec) == answers(alone, spec)


def test_only_questions_of_equal_length_share_a_batch(
    questions: list[YesNoQuestion], folders: tuple[Path, Path]
) -> None:
    asked = examinee(answering(), questions, folders[1], batch_size=8)
    batches = asked.batches(parse("vanilla"))
    assert sorted(place for batch in batches for place in batch.places) == list(range(8))
    for batch in batches:
        words = {len(questions[place].prompt.split()) for place in batch.places}
        assert len(words) == 1
        assert batch.request.batch == len(batch.places)
    assert len(batches) > 1


def test_a_method_with_a_seed_draws_anew_for_each_question(
    questions: list[YesNoQuestion],
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[list[int]] = []

    def watched(*given: Any, **options: Any) -> Any:
        trace = run(*given, **options)
        kept.append(trace.kept[-1][0].tolist())
        return trace

    run = asking.run
    monkeypatch.setattr(asking, "run", watched)
    asked = examinee(answering(), questions, folders[1])
    for spec in ("random:keep=6", "divprune:keep=20+random:keep=6"):
        kept.clear()
        first = answers(asked, spec)
        drawn = list(kept)
        assert len(drawn) == 8
        assert len({tuple(places) for places in drawn}) == 8
        kept.clear()
        assert answers(asked, spec) == first
        assert kept == drawn
    kept.clear()
    other = answers(asked, "random:keep=6,seed=1")
    assert len(other) == 8
    assert kept != drawn


@dataclasses.dataclass(frozen=True)
class Stumbling(Method):
    """Fails where the picture is the third."""

    calls: list[int] = dataclasses.field(default_factory=list)

    def plan(self, request: Request) -> Plan:
        return Plan([Stage(Entering(2), 9)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        self.calls.append(1)
        if len(self.calls) > 2:
            raise ValueError("no third one")
        return Keep(torch.arange(9).expand(view.hidden.shape[0], -1))


def test_a_method_that_raises_says_where(
    questions: list[YesNoQuestion], folders: tuple[Path, Path]
) -> None:
    method = Stumbling()
    asked = examinee(answering(), questions, folders[1], batch_size=1)
    with pytest.raises(RowFailedError, match=r"no third one \(test_asking.py line \d+\)"):
        answers(asked, method)
    assert method.calls == [], "the row has a method of its own"


def test_a_model_without_a_tokenizer_answers_nothing(
    questions: list[YesNoQuestion], folders: tuple[Path, Path]
) -> None:
    model = tpprof.load("tiny-llava", device="cpu")
    with pytest.raises(WorkloadError, match="random weights and no tokenizer"):
        examinee(model, questions, folders[1])


@pytest.mark.parametrize("architecture", ["llava", "llava-next", "qwen2-vl", "internvl"])
def test_a_tower_that_ran_before_changes_no_answer(
    architecture: str,
    questions: list[YesNoQuestion],
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = answering(architecture)
    shared = examinee(model, questions, folders[1])
    monkeypatch.setattr(asking, "leaves_tower_alone", lambda *given: False)
    alone = examinee(model, questions, folders[1])
    methods = ["vanilla", *(f"{name}:keep=1/2" for name in ("random", "pooling", "fastv"))]
    told = {spec: answers(alone, spec) for spec in methods}
    monkeypatch.undo()
    for spec, expected in told.items():
        assert answers(shared, spec) == expected, spec


def test_the_tower_runs_once_a_picture(
    questions: list[YesNoQuestion], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = answering()
    asked, encoded = examinee(model, questions, folders[1]), []
    encode = type(model).encode

    def watched(self: Model, inputs: Any, tower: Any) -> Any:
        encoded.append(inputs.request.batch)
        return encode(self, inputs, tower)

    monkeypatch.setattr(type(model), "encode", watched)
    pictures = len({question.picture for question in questions})
    answers(asked, "fastv:keep=9")
    answers(asked, "vanilla")
    answers(asked, "random:keep=9")
    assert encoded == [1] * pictures
    answers(asked, "visionzip:keep=9")
    assert sum(encoded) == pictures + len(questions)
    published = examinee(model, questions, folders[1], attention="published")
    answers(published, "sparsevlm:keep=18")
    assert sum(encoded) == pictures + 2 * len(questions)


def test_features_that_are_too_many_go_oldest_first() -> None:
    cache, picture = FeatureCache(most=3 * 8 * 4), torch.zeros(1, 1, 8)
    for name in "abc":
        cache.put(name, picture)
    assert cache.get("a") is not None
    cache.put("d", picture)
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    cache.put("large", torch.zeros(1, 100, 8))
    assert cache.get("d") is None
    assert cache.get("large") is not None
