"""Frames of a video as transformers' own processors have them: pixels, and the text between."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from micro_models import load
from micro_tokenizer import tokenizer_of
from torchvision_here import needs_torchvision

import tpprof
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.videos import load_frames

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message.content %}"
    "{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)


def with_tokenizer(name: str) -> Model:
    model = copy.copy(load(name))
    model.tokenizer, model.chat_template = tokenizer_of(model), TEMPLATE
    return model


def test_frames_of_internvl_are_numbered() -> None:
    """One string with all its placeholders, tokenized as a whole."""
    model = with_tokenizer("internvl")
    inputs = tpprof.inputs(model, frames=3, prompt="green ?")
    frame = "<img>" + "<IMG_CONTEXT>" * 9 + "</img>"
    video = "\n".join(f"Frame{n}: {frame}" for n in (1, 2, 3))
    wanted = model.tokenizer(f"USER: {video}\ngreen ? ASSISTANT:").input_ids
    assert inputs["input_ids"][0].tolist() == wanted
    spans = inputs.request.spans
    assert [span.tokens for span in spans] == [9, 9, 9]
    assert inputs.request.length == len(wanted)
    trace = tpprof.forward(model, inputs, new_tokens=2)
    with torch.no_grad():
        expected = model.module(**inputs).logits[:, -1]
    torch.testing.assert_close(trace.logits, expected, atol=1e-4, rtol=0)


def test_frames_of_internvl_are_planned_as_its_tokenizer_has_them() -> None:
    """A break, `Frame`, the digits, a colon and a space, between the end and the start."""
    shape = load("internvl").shape
    spans = shape.architecture.video(shape, 12, (84, 84))
    assert [span.before for span in spans] == [0, *[7] * 8, 8, 8, 8]


@pytest.mark.parametrize("name", ["internvl", "llava-onevision"])
@needs_torchvision
def test_frames_are_those_of_the_video_processor(name: str) -> None:
    """But for rounding: torchvision resizes in one pass, PIL in two."""
    import transformers

    kinds = {
        "internvl": "InternVLVideoProcessor",
        "llava-onevision": "LlavaOnevisionVideoProcessor",
    }
    model = load(name)
    frames = load_frames(None, 4, (90, 120))
    own = model.video_pixels([frames])
    mine = own.get("pixel_values_videos", own.get("pixel_values"))
    assert mine is not None
    given: dict[str, Any] = {"size": model.image_processor.size, "do_sample_frames": False}
    processor = getattr(transformers, kinds[name])(**given)
    video = torch.from_numpy(np.stack([np.array(frame) for frame in frames])).permute(0, 3, 1, 2)
    theirs = processor(videos=[video], return_tensors="pt")["pixel_values_videos"]
    assert theirs.flatten(0, 1).shape == mine.reshape(-1, *mine.shape[-3:]).shape
    apart = (theirs.flatten(0, 1) - mine.reshape(-1, *mine.shape[-3:])).abs()
    assert float(apart.mean()) < 0.03
