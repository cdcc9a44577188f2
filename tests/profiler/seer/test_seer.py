"""The model that comes with tpprof: it loads by its name, sees, and says so in one word."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import tpprof
from tpprof.methods import parse
from tpprof.profiler.accuracy.drawn import asked_of, exam_about
from tpprof.profiler.models.checkpoint.embedded import EMBEDDED
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.model import Model
from tpprof.profiler.seer.model import FOLDER, new_config, new_tokenizer
from tpprof.profiler.seer.questions import MORE, SUFFIX, TEST, more, sample
from tpprof.reports.analysis.accuracy.rules import RULES
from tpprof.reports.analysis.accuracy.scores import scores

FIRST, PICTURES = 10_000, 20
"""Of the sample here, which shares no picture with the card's."""
LEAST_F1 = 0.97
LEAST_RIGHT = {"where": 0.8, "which": 0.7, "attributes": 0.7}


@pytest.fixture(scope="module")
def seer() -> Model:
    return tpprof.load("seer", device="cpu")


def test_it_is_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size < 8e6


def test_it_is_shaped_like_llava_1_5(seer: Model) -> None:
    shape = shape_of("seer")
    assert shape == seer.shape
    assert (shape.architecture.name, shape.text.layers, shape.vision.side**2) == ("llava", 12, 576)
    assert shape.parameters == EMBEDDED["seer"].parameters
    assert seer.source == "checkpoint seer"
    assert seer.missing == {}


def test_its_files_are_those_that_training_writes() -> None:
    written = json.loads((FOLDER / "config.json").read_text())
    for key, value in json.loads(new_config().to_json_string()).items():
        if key not in ("architectures", "dtype", "transformers_version"):
            found = written[key]
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if k not in ("dtype",)}
                found = {k: v for k, v in found.items() if k not in ("dtype",)}
            assert found == value, key
    tokens = json.loads((FOLDER / "tokenizer.json").read_text())
    assert tokens["model"]["vocab"] == new_tokenizer().get_vocab()


def test_it_knows_every_word_of_its_questions(seer: Model) -> None:
    texts = {question.text for question in sample(TEST, 60)[1]} | {
        SUFFIX,
        "USER: ASSISTANT: Yes No",
    }
    for text in texts:
        assert seer.tokenizer.unk_token_id not in seer.tokenizer(text).input_ids, text


def test_it_sees_what_it_was_not_trained_on(seer: Model) -> None:
    """A model without eyes is right half of the time and has at most 0.667 by saying yes. The bound
    lies below the 95 % interval that 20 pictures have around the card's F1. Pruned to the four
    tokens that are looked at least, it sees less."""
    exam = exam_about("POPE, drawn", "20 others", *sample(TEST, PICTURES, FIRST))
    found = asked_of(seer, exam, [parse("vanilla"), parse("fastv-reverse:keep=4")])
    assert {text for row in found.answers for text in row.texts} == {"Yes", "No"}
    vanilla, reverse = scores(found, RULES["strict"])
    assert vanilla.f1 is not None
    assert reverse.difference is not None
    assert reverse.difference.high is not None
    assert vanilla.f1.value > LEAST_F1
    assert reverse.difference.high < -0.1


@pytest.mark.parametrize("category", MORE)
def test_it_answers_the_other_kinds_of_questions(seer: Model, category: str) -> None:
    """By more than the 95 % interval around half of the answers, which is what chance gives."""
    exam = exam_about(category, "20 others", *more(TEST, category, PICTURES))
    (score,) = scores(asked_of(seer, exam, [parse("vanilla")]), RULES["strict"])
    assert score.accuracy is not None
    assert score.accuracy > 0.5 + 1.96 * math.sqrt(0.25 / score.questions)
    assert score.accuracy > LEAST_RIGHT[category]


def test_the_whole_command_takes_it(seer: Model) -> None:
    """Its own prompt and picture; words that it does not know are one token each."""
    inputs = tpprof.inputs(seer, prompt=f"Is there a red circle in the image?\n{SUFFIX}")
    trace = tpprof.forward(seer, inputs, "fastv:keep=64", new_tokens=2)
    assert trace.visual_per_layer[-1] == 64
    assert seer.tokenizer.batch_decode(trace.tokens)[0] in ("Yes</s>", "No</s>")


def test_it_is_what_transformers_makes_of_it(seer: Model) -> None:
    inputs = tpprof.inputs(seer, prompt="Is there a red circle in the image?")
    with torch.no_grad():
        expected = seer.module(**inputs).logits[:, -1]
    assert torch.allclose(tpprof.forward(seer, inputs).logits, expected, atol=1e-4)


def test_the_card_says_what_was_measured() -> None:
    card = (Path(FOLDER).parent / "MODEL_CARD.md").read_text()
    log = (Path(FOLDER).parent / "training" / "training.log").read_text()
    assert "python -m tpprof.profiler.seer.training" in card
    assert "benchmarks/seer.py" in card
    assert log.rstrip().splitlines()[-1].split("  ")[-1].startswith("saved to")
