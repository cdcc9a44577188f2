"""Pictures processed on the device: the host's pixels, nothing waited for, or a refusal by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro_models import SHAPES, SIZE
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision_here import needs_torchvision

import tpprof
from tpprof.methods import parse
from tpprof.profiler import cli
from tpprof.profiler.meters.host_waits import HostWaits
from tpprof.profiler.models import device_pixels
from tpprof.profiler.models.device_pixels import DevicePixels, device_processor, require_same
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.processors import default_processor
from tpprof.profiler.run import comparison
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import OptionError, RunSpec, Workload

ON_DEVICE = {"preprocess": "device", "image_size": SIZE, "text_tokens": (4, 9)}


class FakeProcessor:
    """What a torchvision processor takes and gives, by PIL; `shift`: added to each pixel."""

    backend = "fake"

    def __init__(self, processor: Any, shift: float = 0.0) -> None:
        self.processor, self.shift = processor, shift
        self.given: list[torch.Tensor] = []

    def __call__(self, images: list[torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
        assert options["input_data_format"] == "channels_last"
        self.given += images
        pictures = [Image.fromarray(image.cpu().numpy()) for image in images]
        made = dict(self.processor(images=pictures, return_tensors="pt"))
        return made | {"pixel_values": made["pixel_values"] + self.shift}


@pytest.fixture
def fake(model: Model, monkeypatch: pytest.MonkeyPatch) -> FakeProcessor:
    made = FakeProcessor(model.image_processor)
    monkeypatch.setattr(device_pixels, "device_processor", lambda processor: made)
    monkeypatch.setattr(comparison, "require_device_processor", lambda name: None)
    return made


def test_the_raw_picture_goes_to_the_device_in_each_request(
    model: Model, fake: FakeProcessor
) -> None:
    prepare = Preparation(model, Workload(batch_size=2, **ON_DEVICE))
    fake.given.clear()
    inputs = prepare()
    assert [(tuple(given.shape), given.dtype) for given in fake.given] == 2 * [
        ((*SIZE, 3), torch.uint8)
    ]
    host = Preparation(model, Workload(batch_size=2, **ON_DEVICE | {"preprocess": "host"}))()
    assert inputs.keys() == host.keys()
    assert all(torch.equal(inputs[name], host[name]) for name in host)


@pytest.mark.parametrize("model", ["qwen2-vl"], indirect=True)
def test_a_picture_that_a_method_makes_smaller_goes_there_smaller(
    model: Model, fake: FakeProcessor
) -> None:
    whole = Preparation(model, Workload(batch_size=2, **ON_DEVICE))
    prepare = whole.resized(parse("downsample:keep=1/2"))
    fake.given.clear()
    prepare()
    assert [tuple(given.shape) for given in fake.given] == 2 * [(126, 126, 3)]
    assert prepare.preprocessing is not None
    assert prepare.preprocessing.apart == 0.0


def test_the_record_says_where_pictures_were_processed(model: Model, fake: FakeProcessor) -> None:
    spec = RunSpec.of(methods=["random"], keep="1/2", rounds=1, **ON_DEVICE)
    on_device = Comparison(spec, model=model).record.request.preprocessing
    assert on_device is not None
    assert (on_device.device, on_device.processor) == ("cpu", "FakeProcessor")
    assert (on_device.backend, on_device.apart) == ("fake", 0.0)
    spec = RunSpec.of(methods=["random"], keep="1/2", rounds=1, image_size=SIZE)
    on_host = Comparison(spec, model=model).record.request.preprocessing
    assert on_host is not None
    assert (on_host.device, on_host.backend, on_host.apart) == ("host", "pil", None)
    assert on_host.processor == type(default_processor(model.shape)).__name__


def test_no_picture_no_preprocessing(model: Model) -> None:
    assert Preparation(model, Workload(visual_tokens=64)).preprocessing is None
    with pytest.raises(OptionError, match="device needs a picture, which visual_tokens skips"):
        Workload(visual_tokens=64, preprocess="device")


@pytest.mark.parametrize("shift", [0.1, -0.1, float("nan")])
def test_other_pixels_are_refused_by_name(model: Model, fake: FakeProcessor, shift: float) -> None:
    fake.shift = shift
    with pytest.raises(
        ModelError, match=r"other pixels than on the host, up to (7.0|12.8|nan) of 255"
    ):
        Preparation(model, Workload(**ON_DEVICE))


def test_rounding_is_let_pass_and_told(model: Model, fake: FakeProcessor) -> None:
    fake.shift = 0.02
    known = Preparation(model, Workload(**ON_DEVICE)).preprocessing
    assert known is not None
    deviation = max(model.image_processor.image_std)
    assert known.apart == pytest.approx(0.02 * 255 * deviation, rel=1e-3)


def test_pixels_of_another_shape_are_refused(model: Model) -> None:
    host = model.pixels([Image.new("RGB", SIZE)])
    other = host | {"pixel_values": host["pixel_values"][..., :1]}
    said = f"{model.name}: preprocessing on the device gives .*, 1\\)"
    with pytest.raises(ModelError, match=said):
        require_same(model.name, model.image_processor, host, other)
    for sizes in host.keys() - {"pixel_values"}:
        other = host | {sizes: host[sizes] + 1}
        with pytest.raises(ModelError, match="other pixels"):
            require_same(model.name, model.image_processor, host, other)


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: object, **options: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(comparison, "load", load)
    monkeypatch.setattr(comparison, "load_plugins", load)


@pytest.mark.usefixtures("nothing_loads")
def test_without_torchvision_it_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    arguments = ["compare", "fastv:keep=64", "--model", "tiny", "--device", "cpu"]
    arguments += ["--preprocess", "device", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["tpprof", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tpprof: --preprocess device: torchvision does not import (")
    assert line.endswith(f"torch {torch.__version__}, or leave --preprocess at host")
    assert not (tmp_path / "runs").exists()


def test_a_torchvision_of_another_torch_is_said(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OptionError, match=r"\(RuntimeError: operator nms does not exist\)"):
        Preparation(model, Workload(**ON_DEVICE))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("filter_", [0, 1, 4, 5])
def test_a_checkpoint_whose_filter_no_device_has_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter_: int
) -> None:
    monkeypatch.setattr(device_pixels, "require_torchvision", lambda: None)
    monkeypatch.setattr("tpprof.profiler.models.load.require_torchvision", lambda: None)
    monkeypatch.setattr(device_pixels, "transformers_class", lambda name: type(name, (), {}))
    model.module.config.save_pretrained(tmp_path)
    model.image_processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resample": filter_}))
    with pytest.raises(OptionError, match=r"resample .*gives other pixels there; known: 2 \(bil"):
        Comparison(RunSpec.of(methods=["fastv"], model=str(tmp_path), preprocess="device"))


def test_a_processor_without_a_form_for_devices_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OddImageProcessorPil:
        resample = 3

    monkeypatch.setattr(device_pixels, "require_torchvision", lambda: None)
    with pytest.raises(OptionError, match="transformers has no OddImageProcessor that works on"):
        device_processor(OddImageProcessorPil())


def pictures(height: int, width: int) -> list[Image.Image]:
    """Noise, hard edges in random places, a board of squares."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    edges = (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    board = np.repeat(((rows // 7 + columns // 7) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    return [Image.fromarray(pixels) for pixels in (noise, edges, board)]


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision resizes whole numbers on some CPUs, and floats on a GPU."""
    if request.param == "as on a GPU":
        import torchvision.transforms.v2.functional._geometry as geometry

        monkeypatch.setattr(geometry, "_do_native_uint8_resize_on_cpu", lambda *given: False)


@needs_torchvision
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("size", [(168, 168), (150, 129), (75, 250), (225, 83), (30, 400)], ids=str)
def test_pixels_are_those_of_the_host(model: Model, size: tuple[int, int]) -> None:
    on_device = DevicePixels(model)
    for picture in pictures(*size):
        host, own = model.pixels([picture] * 2), on_device([picture] * 2)
        assert {name: value.dtype for name, value in own.items()} == {
            name: value.dtype for name, value in host.items()
        }
        assert require_same(model.name, model.image_processor, host, own) <= 2.2


@needs_torchvision
def test_pixels_without_rescaling_or_normalising_too(model: Model) -> None:
    kind, given = type(model.image_processor), model.image_processor.to_dict()
    (picture, *_) = pictures(150, 129)
    for off in ({"do_normalize": False}, {"do_rescale": False}):
        host = kind.from_dict(given | off)
        own = device_processor(host)
        made = own(images=[picture], return_tensors="pt")
        require_same("odd", host, dict(host(images=[picture], return_tensors="pt")), dict(made))


@needs_torchvision
def test_checkpoints_have_the_same_pixels_on_both(model: Model, tmp_path: Path) -> None:
    model.module.save_pretrained(tmp_path)
    model.image_processor.save_pretrained(tmp_path)
    loaded = tpprof.load(str(tmp_path), device="cpu")
    own, host = (
        tpprof.inputs(each, **ON_DEVICE | {"preprocess": place})
        for each, place in ((loaded, "device"), (model, "host"))
    )
    assert own.keys() == host.keys()
    apart = (own["pixel_values"] - host["pixel_values"]).abs().max()
    assert float(apart) <= 2.2 / 255 / 0.26


@needs_torchvision
def test_nothing_waits_for_the_device(model: Model) -> None:
    on_device = DevicePixels(model)
    picture = Image.new("RGB", (150, 129))
    on_device([picture])  # from the second call on
    with HostWaits({device_pixels.__file__}) as waits:
        on_device([picture])
    assert not waits.seen


class Launches(TorchDispatchMode):
    """Counts the operators that compute: each is a launch on a GPU."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        aliases = [given.alias_info for given in func._schema.returns]
        self.count += not any(alias and not alias.is_write for alias in aliases)
        return func(*args, **(kwargs or {}))


@needs_torchvision
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("size", [(672, 672), (600, 514)], ids=str)
def test_five_tiles_take_a_few_dozen_launches(
    llava_next: Model, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = default_processor(SHAPES["llava-next-7b"])
    monkeypatch.setattr(llava_next, "image_processor", processor)
    on_device = DevicePixels(llava_next)
    picture = Image.new("RGB", size[::-1])
    assert tuple(on_device([picture])["pixel_values"].shape) == (1, 5, 3, 336, 336)
    with Launches() as launches:
        on_device([picture])
    assert 8 <= launches.count <= 40


def test_the_order_of_the_passes_is_that_of_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    def columns_first(self: Image.Image, size: tuple[int, int], *given: Any) -> Image.Image:
        return resize(resize(self, (self.width, size[1]), *given), size, *given)

    def rows_first(self: Image.Image, size: tuple[int, int], *given: Any) -> Image.Image:
        return resize(resize(self, (size[0], self.height), *given), size, *given)

    resize: Callable[..., Image.Image] = Image.Image.resize
    for way, wanted in ((columns_first, (40, 90)), (rows_first, (60, 50))):
        device_pixels._between.cache_clear()
        monkeypatch.setattr(Image.Image, "resize", way)
        assert device_pixels._between((60, 90), (40, 50), 3) == wanted
    device_pixels._between.cache_clear()
    assert device_pixels._between((60, 90), (60, 50), 3) in ((60, 50), (60, 90))
    device_pixels._between.cache_clear()
