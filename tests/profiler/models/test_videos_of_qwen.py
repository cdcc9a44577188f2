"""Videos on Qwen's models: frames, patches, times and positions as transformers has them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from micro_models import MICRO, SHAPES, affordable, load
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_video

import tpprof
from tpprof import methods
from tpprof.methods.contract.plan_checks import plan_for
from tpprof.methods.contract.request import Request
from tpprof.methods.engine.ledger import planned
from tpprof.profiler.models.architectures.qwen2_vl import Qwen2VL
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.geometry import positions, request
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.shapes import Shape, ShapeError
from tpprof.profiler.models.videos import load_frames
from tpprof.profiler.run.described import request_info
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Workload
from tpprof.reports.text.sentences import lengths
from tpprof.tests.profiler.cost.test_cost import flops_of, sides

NAMES = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")
SIZE = (84, 140)
LENGTHS = (20, 97, 224, 480, 1080, 2300)
every_model = pytest.mark.parametrize("name", NAMES)


def inputs_of(model: Model, frames: int, **more: Any) -> Any:
    options = {"image_size": SIZE, "text_tokens": (5, 4), "new_tokens": 4}
    return tpprof.inputs(model, **{"frames": frames, **options, **more})


def architecture(shape: Shape) -> Qwen2VL:
    assert isinstance(shape.architecture, Qwen2VL)
    return shape.architecture


def test_a_record_counts_the_frames_that_were_given_and_no_pairs_of_them() -> None:
    workload = Workload(frames=4, image_size=SIZE, text_tokens=(5, 4), new_tokens=1)
    prepare = Preparation(load("qwen2-vl"), workload)
    assert prepare.request.frames == 2
    assert lengths(request_info(prepare, workload)).endswith("(4 frames)")


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen2.5-vl-7b"])
def test_frames_are_resized_as_transformers_does(name: str) -> None:
    shape, seen = SHAPES[name], set()
    for height in LENGTHS:
        for width in LENGTHS:
            wanted = smart_resize(height, width, 28, 3136, 12845056)
            assert architecture(shape).frame_size(shape, 8, (height, width)) == wanted
            seen.add(wanted)
    assert len(seen) > 20


def test_a_video_as_a_whole_is_bounded_on_qwen3() -> None:
    shape, bounded = SHAPES["qwen3-vl-8b"], set()
    for frames in (2, 3, 5, 8, 64, 300):
        for height in LENGTHS:
            for width in LENGTHS:
                wanted = resize_video(frames, height, width, 2, 32, 4096, 25165824)
                assert architecture(shape).frame_size(shape, frames, (height, width)) == wanted
                bounded.add(wanted[0] * wanted[1] < height * width / 2)
    assert bounded == {True, False}
    with pytest.raises(ShapeError, match="no video of fewer than 2 frames"):
        architecture(shape).frame_size(shape, 1, SIZE)


@every_model
@pytest.mark.parametrize("frames", [2, 5])
def test_patches_are_those_of_the_video_processor(name: str, frames: int) -> None:
    model = load(name)
    shown = load_frames(None, frames, SIZE)
    given = model.video_pixels([shown])
    single = model.image_processor(images=shown, do_resize=False, return_tensors="pt")
    grid = single["image_grid_thw"][0].tolist()
    whole = torch.stack([_picture(model, frame) for frame in shown])[None]
    patches, *sizes = Qwen3VLVideoProcessor.patchify(None, whole, 14, 2, 2)  # type: ignore[arg-type]
    torch.testing.assert_close(given["pixel_values_videos"], patches[0], rtol=0, atol=1e-5)
    assert given["video_grid_thw"].tolist() == [sizes] == [[-(-frames // 2), *grid[1:]]]


def _picture(model: Model, frame: Image.Image) -> Tensor:
    """A frame as the image processor normalises it, [3, height, width]."""
    processor = model.image_processor
    values = torch.tensor(np.array(frame)).permute(2, 0, 1) * processor.rescale_factor
    mean, std = (
        torch.tensor(getattr(processor, f"image_{n}"))[:, None, None] for n in ("mean", "std")
    )
    normal: Tensor = ((values - mean) / std).float()
    return normal


@every_model
@pytest.mark.parametrize(("frames", "batch"), [(6, 1), (5, 2)])
def test_vanilla_is_what_transformers_gives(name: str, frames: int, batch: int) -> None:
    model = load(name)
    inputs = inputs_of(model, frames, batch_size=batch)
    assert inputs.request.frames == 3
    trace = tpprof.forward(model, inputs)
    with torch.no_grad():
        expected = model.module(**inputs).logits[:, -1]
        mask = torch.ones_like(inputs["input_ids"])
        tokens = model.module.generate(
            **inputs, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False
        )
    torch.testing.assert_close(trace.logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(trace.tokens, tokens[:, -4:])
    assert positions(model.shape, inputs.request) == inputs.next_position + 3


@every_model
def test_frames_attend_one_by_one_and_are_counted_so(name: str) -> None:
    model = load(name)
    inputs = inputs_of(model, 6, new_tokens=3)
    assert inputs.request.tower.tiles == 3
    both = sides(model, inputs, "fastv")
    assert flops_of(both.derived) == flops_of(both.shown)
    assert sum(flops_of(both.derived).values()) == both.counted


@every_model
@pytest.mark.parametrize("spec", ["fastv", "sparsevlm", "fastervlm", "divprune", "visionzip"])
def test_methods_prune_all_frames_as_planned(name: str, spec: str) -> None:
    model, method = load(name), affordable(methods.parse(spec))
    inputs = inputs_of(model, 6)
    trace = tpprof.forward(model, inputs, method)
    assert trace.ledger == planned(plan_for(method, inputs.request), inputs.request, "rows")
    whole = tpprof.forward(model, inputs, methods.with_keep(method, "100%"))
    torch.testing.assert_close(
        whole.logits, tpprof.forward(model, inputs).logits, atol=1e-5, rtol=0
    )


class Words:
    """A tokenizer that writes words and signs as its models do: letters and digits one by one, but
    for ` seconds`."""

    def __call__(self, texts: list[str], **_: Any) -> Any:
        written = [text.replace(" seconds", "S") for text in texts]
        return SimpleNamespace(input_ids=[[ord(sign) for sign in text] for text in written])


def test_times_are_what_its_processor_writes() -> None:
    model = copy.copy(load("qwen3-vl"))
    model.tokenizer = Words()
    given = model.module.config
    asked = request(model.shape, before=4, after=2, size=SIZE, frames=46)
    before = model.video_start([7, 8, given.vision_start_token_id])
    parts = [before[2:], *model.video_text(asked)]
    told = Qwen3VLProcessor.replace_video_token(
        _processor(frames=46),
        {
            "video_grid_thw": torch.tensor([[23, 2, 2]]),
            "video_metadata": [SimpleNamespace(fps=24, frames_indices=list(range(0, 552, 12)))],
        },
        0,
    )
    special = {"A": given.vision_start_token_id, "Z": given.vision_end_token_id, "V": -1}
    wanted = [special.get(s, ord(s)) for s in told.replace(" seconds", "S")]
    found: list[int] = []
    for part in parts:
        found += [*part, -1]
    assert [*found, given.vision_end_token_id] == wanted
    assert [text for _, text in asked.breaks] == [8] * 9 + [9] * 13


def _processor(frames: int) -> Any:
    video = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    return SimpleNamespace(
        video_processor=video,
        vision_start_token="A",
        vision_end_token="Z",
        video_token="V",
        _calculate_timestamps=lambda *given: Qwen3VLProcessor._calculate_timestamps(None, *given),  # type: ignore[arg-type]
    )


def test_a_tokenizer_that_writes_times_otherwise_is_refused() -> None:
    model = copy.copy(load("qwen3-vl"))
    model.tokenizer = lambda texts, **_: SimpleNamespace(input_ids=[[1, 2] for _ in texts])
    asked: Request = request(model.shape, before=4, after=2, size=SIZE, frames=4)
    with pytest.raises(ModelError, match=r"writes '<1.2 seconds>' in 2 tokens, and 6 are planned"):
        model.video_text(asked)


def test_a_long_video_reaches_beyond_its_sides() -> None:
    """On Qwen2.5-VL a second is two positions, and text goes on behind the longer side."""
    shape = MICRO["qwen2.5-vl"]
    asked = request(shape, before=3, after=2, size=SIZE, frames=40, new_tokens=1)
    side = max(max(s.height, s.width) for s in asked.segments)
    assert positions(shape, asked) == 3 + 19 * 2 + 1 > 3 + side + 2


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, (3136, 9999999)),
        ({"video_preprocessor_config.json": {"size": {"shortest_edge": 784}}}, (784, 602112)),
        ({"video_preprocessor_config.json": {"max_pixels": 8000000}}, (100352, 8000000)),
        (
            {
                "processor_config.json": {"video_processor": {"min_pixels": 9}},
                "video_preprocessor_config.json": {"min_pixels": 1000},
            },
            (9, 602112),
        ),
    ],
    ids=str,
)
def test_bounds_are_read_where_transformers_reads_them(
    files: dict[str, Any], wanted: tuple[int, int], tmp_path: Path
) -> None:
    model = load("qwen2.5-vl")
    model.module.config.save_pretrained(tmp_path)
    pictures = {"min_pixels": 3136, "max_pixels": 9999999}
    for file, held in {"preprocessor_config.json": pictures, **files}.items():
        (tmp_path / file).write_text(json.dumps(held))
    assert shape_of(str(tmp_path)).vision.video_pixels == wanted


def test_a_video_processor_of_another_model_is_refused(tmp_path: Path) -> None:
    load("qwen2.5-vl").module.config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "video_preprocessor_config.json").write_text('{"patch_size": 16}')
    with pytest.raises(ModelError, match=r"has \(for videos\) patch_size 16, and its config 14"):
        shape_of(str(tmp_path))
