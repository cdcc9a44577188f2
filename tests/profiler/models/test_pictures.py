"""How a file becomes the picture of a request, and that nothing is done to it unsaid."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro_models import MICRO, load
from PIL import Image

import tpprof
from tpprof.methods import InputError
from tpprof.profiler.models.load import ModelError, shape_of
from tpprof.profiler.models.pictures import (
    MOST_PIXELS,
    PictureError,
    RequestPicture,
    load_picture,
    picture_size,
)
from tpprof.profiler.prompts import WorkloadError
from tpprof.profiler.workload import Preparation, plan_request
from tpprof.reports.record.spec import Workload

ORIENTATION = 0x0112


def opened(workload: Workload) -> RequestPicture:
    return load_picture(*workload.pictures[0])


def size_of(workload: Workload) -> tuple[int, int]:
    return picture_size(*workload.pictures[0])


def gradient(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    red, green = rows * 255 // (height - 1), columns * 255 // (width - 1)
    return Image.fromarray(np.stack([red, green, red // 2], -1).astype(np.uint8))


def saved(picture: Image.Image, file: Path, **options: Any) -> str:
    picture.save(file, **options)
    return str(file)


def test_a_file_keeps_its_own_size_and_its_pixels(tmp_path: Path) -> None:
    picture = gradient(30, 47)
    workload = Workload(image=saved(picture, tmp_path / "own.png"))
    read = opened(workload)
    assert (read.size, size_of(workload), read.notes) == ((30, 47), (30, 47), ())
    assert np.array_equal(np.asarray(read.image), np.asarray(picture))


def test_a_file_is_resized_where_that_is_asked_and_told(tmp_path: Path) -> None:
    file = saved(gradient(30, 60), tmp_path / "wide.png")
    read = opened(Workload(image=file, image_size=(20, 40)))
    assert read.size == (20, 40)
    assert read.notes == ("wide.png: resized from 60x30 to 40x20 (width x height)",)
    (note,) = opened(Workload(image=file, image_size=(40, 40))).notes
    assert note.endswith(", its aspect ratio changed")


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path: Path, orientation: int, form: str) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose that undoes what is saved
    upright = gradient(24, 40)
    stored = upright
    if orientation > 1:
        undo = {6: 2, 8: 4}.get(orientation, turns[orientation])
        stored = upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    workload = Workload(image=saved(stored, tmp_path / f"photo.{form}", exif=exif))
    read = opened(workload)
    assert size_of(workload) == read.size == (24, 40)
    assert np.array_equal(np.asarray(read.image), np.asarray(upright))
    assert read.notes == (
        (f"photo.{form}: turned upright (EXIF orientation {orientation})",)
        if orientation > 1
        else ()
    )


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_is_none_changes_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    read = load_picture(
        *Workload(image=saved(gradient(24, 40), tmp_path / "odd.png", exif=exif)).pictures[0]
    )
    assert (read.size, read.notes) == ((24, 40), ())


def test_whole_numbers_that_hold_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    read = load_picture(
        *Workload(image=saved(Image.fromarray(values), tmp_path / "whole.tiff")).pictures[0]
    )
    assert np.array_equal(np.asarray(read.image)[..., 1], values)
    assert read.notes == ()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    read = load_picture(
        *Workload(image=saved(Image.fromarray(values), tmp_path / "deep.png")).pictures[0]
    )
    eight = np.asarray(read.image)[..., 0].astype(int)
    assert abs(eight - values / 257).max() <= 1
    assert (eight.min(), eight.max()) == (0, 255)
    assert read.notes == ("deep.png: 16 bits a channel scaled to 8",)


def test_grey_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    file = saved(Image.fromarray(np.full((9, 9), 0.5, np.float32)), tmp_path / "float.tiff")
    with pytest.raises(PictureError, match=r"float\.tiff: its grey values lie between 0.5 and 0.5"):
        opened(Workload(image=file))


def test_frames_and_transparency_are_told(tmp_path: Path) -> None:
    frames = [gradient(9, 12), gradient(9, 12).rotate(180)]
    moving = saved(frames[0], tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    assert "m.gif: the first of its 2 frames is taken" in opened(Workload(image=moving)).notes
    glass = gradient(9, 12)
    glass.putalpha(100)
    (note,) = opened(Workload(image=saved(glass, tmp_path / "g.png"))).notes
    assert note == "g.png: its transparency is dropped, as transformers does"


def test_no_size_beyond_what_a_decoder_of_pictures_takes() -> None:
    side = int(MOST_PIXELS**0.5)
    assert size_of(Workload(image_size=(side, side))) == (side, side)
    with pytest.raises(PictureError, match="has 400,000,000 pixels; at most 178,956,970"):
        size_of(Workload(image_size=(20000, 20000)))


def test_sample_is_planned_without_reading_a_file() -> None:
    assert size_of(Workload()) == opened(Workload()).size == (672, 672)
    assert opened(Workload()).notes == ()


def test_plan_is_the_request_for_a_file_of_its_own_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = saved(gradient(120, 200), tmp_path / "photo.jpg", exif=exif)
    for name in ("llava", "llava-next", "qwen2-vl"):
        model = tpprof.load(MICRO[name], device="cpu")
        layout = "anyres" if name == "llava-next" else "flat"
        workload = Workload(image=file, layout=layout, text_tokens=(4, 3))
        planned = plan_request(model.shape, workload, texts=(4, 3))
        assert Preparation(model, workload).request == planned
        inputs = tpprof.inputs(model, image=file, layout=layout, text_tokens=(4, 3))
        assert inputs.request == planned


def test_a_processor_that_disagrees_with_the_plan_is_not_measured() -> None:
    model = tpprof.load(MICRO["qwen2-vl"], device="cpu")
    wider = dataclasses.replace(model.shape.vision, most_pixels=28 * 28 * 16384)
    model.shape = dataclasses.replace(model.shape, vision=wider)
    with pytest.raises(WorkloadError, match=r"2500 visual tokens were planned .* gives 1225"):
        tpprof.inputs(model, image_size=(1400, 1400))


@pytest.mark.parametrize(
    ("name", "change", "wrong"),
    [
        ("llava", {"size": {"shortest_edge": 56}}, "tiles of"),
        ("llava", {"crop_size": {"height": 56, "width": 56}}, "tiles of"),
        ("llava-next", {"image_grid_pinpoints": [[84, 168]]}, "image_grid_pinpoints"),
        ("qwen2-vl", {"patch_size": 7}, "patch_size 7"),
        ("qwen2-vl", {"merge_size": 4}, "merge_size 4"),
        ("qwen2-vl", {"image_processor_type": "CLIPImageProcessor"}, "'CLIPImageProcessor' is not"),
        ("llava-next", {"image_processor_type": "CLIPImageProcessor"}, "is not supported"),
    ],
)
def test_processor_that_does_not_fit_its_config(
    tmp_path: Path, name: str, change: dict[str, Any], wrong: str
) -> None:
    model = tpprof.load(MICRO[name], device="cpu")
    model.module.save_pretrained(tmp_path)
    model.image_processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    assert shape_of(str(tmp_path)).vision == model.shape.vision
    changed = json.loads(file.read_text()) | change
    if "image_processor_type" in change:
        changed = change  # and nothing of what the other class is told
    if "size" in change:
        changed["do_center_crop"] = False
    file.write_text(json.dumps(changed))
    with pytest.raises(ModelError, match=wrong):
        shape_of(str(tmp_path))
    with pytest.raises(InputError, match=wrong):
        _measured(tmp_path)


def _measured(folder: Path) -> None:
    loaded = tpprof.load(str(folder), device="cpu")
    tpprof.inputs(loaded, image_size=(84, 84), text_tokens=(4, 4))


@pytest.mark.parametrize("size", [(40, 1), (40, 3), (3, 3), (40, 2)])
def test_a_picture_as_wide_as_channels_are_many_is_taken_in_silence(
    size: tuple[int, int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1 or 3 columns transformers warns that they might be the channels, and takes the right
    ones: a picture of one colour becomes tiles of that colour."""
    logger = logging.getLogger("transformers.image_utils")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    model, level = load("internvl"), logger.level
    image = Image.new("RGB", size[::-1], (200, 100, 20))
    pixels = model.pixels([image])["pixel_values"]
    assert not caplog.records
    assert logger.level == level
    wide = Image.new("RGB", (40, 40), (200, 100, 20))
    whole = model.image_processor(images=[wide], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, whole[:1, :, :1, :1].expand_as(pixels))
    model.image_processor(images=[image], return_tensors="pt")
    assert bool(caplog.records) == (2 not in size), "transformers itself still warns"
