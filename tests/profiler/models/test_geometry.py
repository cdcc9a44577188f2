"""What is planned from a shape alone is what transformers' processors and models really give."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from micro_models import MICRO, SHAPES, config, encoder, load, segments
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_window_index

import tpprof
from tpprof.methods.contract.request import Segment
from tpprof.profiler.models.architectures.llava_next import tile_grid
from tpprof.profiler.models.architectures.llava_onevision import joined_size, scale_down
from tpprof.profiler.models.configs import from_config
from tpprof.profiler.models.geometry import rectangle, request
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.pictures import picture_size
from tpprof.profiler.models.processors import default_processor
from tpprof.profiler.models.shapes import Shape
from tpprof.profiler.models.towers.qwen import dynamic_size
from tpprof.profiler.workload import plan_request
from tpprof.reports.record.spec import Layout, Workload

LENGTHS = (1, 13, 27, 84, 100, 168, 251, 335, 336, 337, 480, 500, 672, 673, 1008, 1343, 2000, 5003)
SIZES = list(itertools.product(LENGTHS, LENGTHS))
PICTURES = ((168, 168), (30, 20), (84, 168), (99, 168), (168, 61), (400, 97), (97, 400), (90, 84))
CLASSES = {
    "internvl": "InternVLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava-next": "LlavaNextForConditionalGeneration",
    "llava-onevision": "LlavaOnevisionForConditionalGeneration",
    "qwen2-vl": "Qwen2VLForConditionalGeneration",
    "qwen3-vl": "Qwen3VLForConditionalGeneration",
    "qwen2.5-vl": "Qwen2_5_VLForConditionalGeneration",
}


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((size[1], size[0]))


def packed(given: Any, size: tuple[int, int], tiles: int, side: int) -> Tensor:
    """Where transformers puts each patch of the tiles: their number, and -1 for a newline."""
    patches = torch.arange(tiles * side**2, dtype=torch.float64).view(tiles, side**2, 1)
    features, _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=given),
        [patches],
        torch.tensor([size]),
        vision_feature_select_strategy="default",
        image_newline=torch.tensor([-1.0], dtype=torch.float64),
    )
    places: Tensor = features[0][:, 0].long()
    return places


@pytest.fixture(params=["tiny", "llava-next-7b", "micro"])
def tiled(request: pytest.FixtureRequest, llava_next: Model) -> Shape:
    """A shape of LLaVA-NeXT with published tiles, and one with tiles of another size."""
    return SHAPES.get(request.param, llava_next.shape)


def test_tile_grid_is_the_best_resolution_of_transformers(tiled: Shape) -> None:
    side, pinpoints = tiled.vision.image, [list(size) for size in tiled.pinpoints]
    seen = set()
    for size in SIZES:
        height, width = select_best_resolution(size, pinpoints)
        assert tile_grid(tiled, *size) == (height // side, width // side), size
        seen.add((height, width))
    assert len(seen) == len(pinpoints)


def test_anyres_is_what_transformers_packs(tiled: Shape) -> None:
    """Count and place: a base tile, then rows that each end in a newline."""
    side, given = tiled.vision.side, config(tiled)
    cut = 0
    for size in SIZES:
        rows, columns = tile_grid(tiled, *size)
        base, joined = segments(tiled, size, "anyres")
        places = packed(given, size, 1 + rows * columns, side)
        assert base == Segment(side, side)
        assert base.tokens + joined.tokens == len(places), size
        grid = places[base.tokens :].view(joined.height, joined.width)
        assert (grid[:, -1] == -1).all(), size
        assert (grid[:, :-1] >= base.tokens).all(), size
        assert places[: base.tokens].tolist() == list(range(base.tokens))
        cut += joined.tokens < rows * side * (columns * side + 1)
    assert len(SIZES) / 4 < cut < len(SIZES)


@pytest.mark.parametrize("size", PICTURES, ids=str)
@pytest.mark.parametrize("layout", ["flat", "anyres"])
def test_plan_is_what_a_prepared_request_holds(
    model: Model, size: tuple[int, int], layout: Layout
) -> None:
    planned = plan_request(model.shape, Workload(image_size=size, layout=layout), texts=(4, 3))
    inputs = tpprof.inputs(model, image_size=size, layout=layout, text_tokens=(4, 3))
    assert inputs.request == planned
    assert inputs["input_ids"].shape == (1, planned.length)
    assert int((inputs["input_ids"] == model.image_token).sum()) == planned.visual

    pixels, tower = model.pixels([picture(size)]), planned.encoder
    assert tower is not None
    if model.shape.vision.dynamic:
        frames, rows, columns = pixels["image_grid_thw"][0].tolist()
        assert (tower.tiles, tower.patches) == (frames, rows * columns)
        assert planned.visual == rows * columns // planned.merger
        assert planned.segments == (Segment(rows // 2, columns // 2),)
    else:
        values = pixels["pixel_values"]
        tiles = pixels.pop(
            "num_patches", torch.tensor([1 if values.dim() == 4 else len(values[0])])
        )
        assert tower.tiles == int(tiles)
        assert tower.patches == (values.shape[-1] // 14) ** 2
    with torch.no_grad():
        features = model.module.model.get_image_features(**pixels, return_dict=True).pooler_output
    if model.shape.architecture.name == "internvl":
        assert planned.visual == features.shape[:2].numel()
    elif layout == "anyres" or model.shape.architecture.name != "llava-next":
        assert planned.visual == features[0].shape[0]
    else:
        assert planned.visual == tower.tiles * tower.patches


def test_order_is_the_packing_of_transformers(llava_next: Model) -> None:
    for size in PICTURES:
        inputs = tpprof.inputs(llava_next, image_size=size, layout="anyres", text_tokens=(4, 3))
        tower = inputs.request.encoder
        assert tower is not None
        assert inputs.order is not None
        expected = packed(llava_next.module.config, size, tower.tiles, 6)
        newline = tower.tiles * tower.patches
        assert inputs.order.tolist() == expected.masked_fill(expected < 0, newline).tolist()


@pytest.mark.parametrize("name", ["llava-onevision-7b", "micro"])
def test_onevision_scales_its_tiles_down_as_transformers_does(name: str) -> None:
    """Count for each size; and for some the places, by values that tell one patch from another."""
    shape = SHAPES.get(name, MICRO["llava-onevision"])
    given, side, scaled = config(shape), shape.vision.side, 0
    for size in SIZES:
        rows, columns = tile_grid(shape, *size)
        base, joined = segments(shape, size, "anyres")
        tower = encoder(shape, size, "anyres")
        assert (tower.tiles, tower.patches) == (1 + rows * columns, side**2)
        values = torch.rand(tower.tiles, side**2, 1, generator=torch.Generator().manual_seed(0))
        features, _ = LlavaOnevisionModel.pack_image_features(
            SimpleNamespace(config=given),
            [values],
            torch.tensor([size]),
            image_newline=torch.tensor([-1.0]),
            vision_aspect_ratio=given.vision_aspect_ratio,
        )
        packed = features[0][:, 0]
        assert base == Segment(side, side)
        assert base.tokens + joined.tokens == len(packed), size
        grid = packed[base.tokens :].view(joined.height, joined.width)
        assert (grid[:, -1] == -1).all(), size
        assert (grid[:, :-1] >= 0).all(), size
        if tower.resampled:
            scaled += 1
            assert joined.patches < joined_size(shape, size)[0] * joined_size(shape, size)[1]
            ours = scale_down(
                values.view(1, -1, 1),
                crops=(rows, columns),
                side=side,
                before=joined_size(shape, size),
                after=(joined.height, joined.width - 1),
            )
            assert torch.equal(ours[0, base.tokens :, 0], grid[:, :-1].flatten())
    assert scaled >= 10


def test_internvl_tiles_are_those_of_its_image_processor() -> None:
    """For all sizes by its own count of tiles, for some by what it makes of a picture."""
    model, drawn = load("internvl"), random.Random(0)
    for size in SIZES:
        tower = encoder(model.shape, size, "flat")
        assert tower.tiles == model.image_processor.get_number_of_image_patches(*size, {}), size
    for _ in range(60):
        size = drawn.randint(1, 400), drawn.randint(1, 400)
        pixels = model.pixels([picture(size)])
        tiles = encoder(model.shape, size, "flat").tiles
        assert pixels["pixel_values"].shape == (tiles, 3, 84, 84), size
        assert model.visual_tokens(pixels, "flat") == [9 * tiles]
        assert segments(model.shape, size, "flat") == (Segment(3, 3),) * tiles


@pytest.mark.parametrize("size", [(168, 168), (84, 84), (90, 400)])
def test_internvl_regions_cover_the_picture(size: tuple[int, int]) -> None:
    """Tile by tile as the image processor cuts, the thumbnail last."""
    model = load("internvl")
    pixels, regions = model.pixels([picture(size)])["pixel_values"], None
    regions = model.shape.architecture.regions(model.shape, size, "flat")
    assert [region.first for region in regions] == [9 * n for n in range(len(pixels))]
    whole = regions[-1]
    assert (whole.view, whole.left, whole.top, whole.right, whole.bottom) == ("picture", 0, 0, 1, 1)
    for region, tile in zip(regions, pixels, strict=True):  # a gradient: brighter further down
        assert (float(tile.mean()) < float(pixels[-1].mean())) == (region.bottom + region.top < 1)


def test_onevision_tiles_are_those_of_its_image_processor() -> None:
    model, drawn = load("llava-onevision"), random.Random(0)
    for _ in range(200):
        size = drawn.randint(1, 400), drawn.randint(1, 400)
        pixels = model.pixels([picture(size)])
        tower = encoder(model.shape, size, "anyres")
        assert pixels["pixel_values"].shape == (1, tower.tiles, 3, 56, 56), size
        (counted,) = model.visual_tokens(pixels, "anyres")
        assert counted == sum(part.tokens for part in segments(model.shape, size, "anyres")), size


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "tiny-qwen2-vl"])
def test_dynamic_size_is_the_smart_resize_of_transformers(name: str) -> None:
    shape = SHAPES[name]
    allowed = [size for size in SIZES if max(size) / min(size) <= 200]
    least, most = 56 * 56, 28 * 28 * (16384 if name == "qwen2-vl-7b" else 1280)
    sizes = [*allowed, *((9 * height, 9 * width) for height, width in allowed)]
    bounded = {least: 0, most: 0}
    for height, width in sizes:
        size = smart_resize(height, width, 28, least, most)
        assert dynamic_size(shape, height, width) == size
        (segment,) = segments(shape, (height, width), "flat")
        assert (segment.height, segment.width) == (size[0] // 28, size[1] // 28)
        assert encoder(shape, (height, width), "flat").patches == 4 * segment.tokens
        bounded[least] += math.prod(size) > 4 * height * width
        bounded[most] += math.prod(size) < height * width / 2
    assert min(bounded.values()) > 5


def test_windows_are_those_of_transformers() -> None:
    """Every grid up to 21 x 21 tokens, edges narrower than a window among them."""
    shape, seen = SHAPES["qwen2.5-vl-7b"], set()
    for rows, columns in itertools.product(range(2, 22), range(2, 22)):
        _, ends = get_vision_window_index(
            torch.tensor([[1, 2 * rows, 2 * columns]]), 2, window_size=112, patch_size=14
        )
        windows = encoder(shape, (28 * rows, 28 * columns), "flat").windows
        assert list(windows) == ends.diff().tolist()
        assert sum(windows) == 4 * rows * columns
        seen |= set(windows)
    assert seen == {4 * height * width for height in (1, 2, 3, 4) for width in (1, 2, 3, 4)}


@pytest.mark.parametrize("model", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"], indirect=True)
@pytest.mark.parametrize("size", [(20, 31), (225, 700), (2000, 1999), (60, 4000)], ids=str)
def test_image_grid_of_large_and_small_pictures(model: Model, size: tuple[int, int]) -> None:
    shape = model.shape
    given = model.pixels([picture(size)])
    frames, rows, columns = given["image_grid_thw"][0].tolist()
    assert frames == 1
    assert segments(shape, size, "flat") == (Segment(rows // 2, columns // 2),)
    assert encoder(shape, size, "flat").patches == given["pixel_values"].shape[0]


@pytest.mark.parametrize(
    "name", ["tiny-qwen2.5-vl", "qwen2.5-vl-7b", "tiny-qwen3-vl", "qwen3-vl-8b"]
)
def test_visual_tokens_are_those_of_the_image_processor(name: str) -> None:
    shape, counts = SHAPES[name], set[int]()
    processor = default_processor(shape)
    allowed = [size for size in SIZES if max(size) / min(size) <= 200]
    for height, width in [*allowed, *((7 * a, 7 * b) for a, b in allowed)]:
        patches = processor.get_number_of_image_patches(height, width, {})
        assert encoder(shape, (height, width), "flat").patches == patches
        (segment,) = segments(shape, (height, width), "flat")
        assert 4 * segment.tokens == patches
        counts.add(patches)
    assert len(counts) > 30


@pytest.mark.parametrize("visual", [1, 2, 7, 36, 37, 576, 2880, 2881])
def test_synthetic_features_fill_a_rectangle(visual: int) -> None:
    (segment,) = rectangle(visual)
    assert segment.tokens == visual
    assert segment.height <= segment.width
    assert not any(visual % side == 0 for side in range(segment.height + 1, math.isqrt(visual) + 1))
    shape = SHAPES["llava-next-7b"]
    planned = request(shape, before=3, after=2, size=(9, 9), visual_tokens=visual)
    assert (planned.visual, planned.length, planned.encoder) == (visual, visual + 5, None)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_transformers_model(name: str) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        module = getattr(transformers, CLASSES[shape.architecture.name])._from_config(config(shape))
    assert shape.parameters == sum(weight.numel() for weight in module.parameters())
    decoder = torch.nn.ModuleList([module.model.language_model, module.lm_head])
    assert shape.text.parameters == sum(weight.numel() for weight in decoder.parameters())


PUBLISHED = {
    "internvl3-1b": 938_193_024,
    "internvl3-8b": 7_944_373_760,
    "internvl3-38b": 38_388_164_992,
    "internvl3-78b": 78_408_318_336,
    "llava-1.5-7b": 7_063_427_072,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2-vl-72b": 73_405_560_320,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
    "qwen3-vl-32b": 66_714_780_128 // 2,
}
"""Counts of the checkpoints themselves, as others wrote them down in public repositories: the hub's
`safetensors` metadata (Qwen2.5-VL-3B and -7B, Qwen3-VL-2B and -8B; for InternVL3-1B, -38B and -78B
those of InternVL2.5, whose towers and decoders are of these sizes), the shards' index
(Qwen3-VL-32B, in bytes of bfloat16; Qwen2.5-VL-32B and InternVL3-8B, of finetuned copies),
parameters of the loaded model (the others).

None was found for InternVL3-2B and -14B (of InternVL2.5 the one has another decoder, and the other
does not exist), LLaVA-1.5-13B, LLaVA-NeXT-7B, LLaVA-OneVision, LLaVA-Video and Qwen2.5-VL-72B:
these are held against transformers' classes alone."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_weights(name: str) -> None:
    assert SHAPES[name].parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_gives_its_shape_back(name: str) -> None:
    shape = SHAPES[name]
    again = from_config(name, shape.architecture, config(shape))
    most, video = again.vision.most_pixels, again.vision.video_pixels  # of other files
    vision = dataclasses.replace(shape.vision, most_pixels=most, video_pixels=video)
    assert (again.text, again.vision, again.pinpoints) == (shape.text, vision, shape.pinpoints)
    assert again.parameters == shape.parameters


def test_default_request_of_the_paper() -> None:
    shape = SHAPES["llava-next-7b"]
    flat, anyres = (plan_request(shape, Workload(layout=layout)) for layout in ("flat", "anyres"))
    assert picture_size(None, None) == (672, 672)
    assert (flat.visual, flat.length) == (2880, 2940)
    assert flat.segments == (Segment(24, 24),) * 5
    assert anyres.visual == 2928
    assert anyres.segments == (Segment(24, 24), Segment(48, 49, newline=True))
    assert plan_request(SHAPES["llava-1.5-7b"], Workload()).visual == 576
    assert plan_request(SHAPES["qwen2-vl-7b"], Workload()).visual == 576
