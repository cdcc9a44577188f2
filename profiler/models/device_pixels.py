"""Pictures processed where the model is, by transformers' torchvision back end.

It gives the pixels that the host's PIL gives but for rounding, and that is held to.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ...methods.contract.errors import first_line
from ...reports.record.spec import OptionError
from .errors import ModelError
from .processors import transformers_class

if TYPE_CHECKING:
    from .model import Model

TOLERANCE = 3.0
"""Grey levels, of 255, by which a pixel may differ from the host's. Each of two passes rounds to
whole levels; up to 2 were seen on noise, edges and photographs."""
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
"""Filters of which torch has what PIL has."""
INSTEAD = "leave preprocess at host"
Size = tuple[int, int]


class DevicePixels:
    """Processes pictures as `Model.pixels` does, on the model's device. Nothing in it waits for the
    device, from the second call on."""

    def __init__(self, model: Model) -> None:
        """Raises OptionError where the model's image processor cannot work on a device."""
        self.device = model.device
        self.by_sample = model.by_sample
        self.processor = device_processor(model.image_processor)

    def __call__(self, images: list[Image.Image], each: int = 1) -> dict[str, Tensor]:
        """What the processor makes of RGB pictures, `each` a sample, under transformers' names.
        They go to the device as they are, 8 bits a channel; pixels are made there, sizes stay on
        the host."""
        pictures = [
            torch.from_numpy(np.array(image)).to(self.device, non_blocking=True) for image in images
        ]
        return dict(
            self.processor(
                images=self.by_sample(pictures, each),
                input_data_format="channels_last",
                disable_grouping=False,
                return_tensors="pt",
            )
        )


def device_processor(processor: Any) -> Any:
    """The form of an image processor that works on a device; raises OptionError where there is
    none."""
    require_torchvision()
    name = type(processor).__name__.removesuffix("Pil")
    try:
        kind = transformers_class(name)
    except AttributeError:
        raise _impossible(f"transformers has no {name} that works on one") from None
    if processor.resample not in FILTERS:
        known = ", ".join(f"{kept.value} ({kept.name.lower()})" for kept in FILTERS)
        raise _impossible(
            f"resample {processor.resample!r} of its image processor gives other pixels there; "
            f"known: {known}"
        )
    return _in_two_passes(kind).from_dict(processor.to_dict())


def require_same(
    name: str, processor: Any, host: dict[str, Tensor], own: dict[str, Tensor]
) -> float:
    """See that what was made on the device is what the host makes. Returns by how many grey levels
    a pixel differs at most; raises ModelError."""
    shapes = [{key: tuple(value.shape) for key, value in made.items()} for made in (host, own)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{name}: preprocessing on the device gives {shapes[1]}, and on the host {shapes[0]}; "
            f"{INSTEAD}"
        )
    worst = {key: float((own[key].cpu() - host[key]).abs().max()) for key in host}
    levels = worst.pop("pixel_values") * _levels(processor)
    if any(worst.values()) or not levels <= TOLERANCE:
        raise ModelError(
            f"{name}: preprocessing on the device gives other pixels than on the host, up to "
            f"{levels:.1f} of 255 grey levels apart (at most {TOLERANCE:g}); {INSTEAD}"
        )
    return levels


def _levels(processor: Any) -> float:
    """Grey levels that a difference of 1 between processed pixels stands for, at most."""
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
    return float(scale * (max(processor.image_std) if processor.do_normalize else 1.0))


def require_torchvision() -> None:
    """Raises OptionError where torchvision does not work."""
    try:
        importlib.import_module("torchvision.transforms.v2")
    except Exception as error:  # one made for another torch raises more than ImportError
        raise _impossible(
            f"torchvision does not import ({first_line(error)}): install the one made for torch "
            f"{torch.__version__}"
        ) from error


def _impossible(reason: str) -> OptionError:
    return OptionError("preprocess", f"device: {reason}, or {INSTEAD}", "preprocess")


def _in_two_passes(kind: type) -> Any:
    """A torchvision processor that resizes along one side after the other and rounds in between, as
    PIL does: in one pass, edges come out up to 30 grey levels apart."""
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.image_utils import SizeDict

    class TwoPasses(TorchvisionBackend):
        def resize(
            self,
            image: Tensor,
            size: Any,
            resample: Any = None,
            antialias: bool = True,
            **given: Any,
        ) -> Tensor:
            one_pass = functools.partial(super().resize, resample=resample, antialias=antialias)
            known = (image.shape, repr(size))
            if known not in sizes:
                sizes[known] = one_pass(image=image.to("meta"), size=size).shape[-2:]
            before, after = tuple(image.shape[-2:]), tuple(sizes[known])
            for height, width in (_between(before, after, int(resample)), after):
                image = one_pass(image=image, size=SizeDict(height=height, width=width))
            return image

    sizes: dict[Any, Any] = {}
    return type(kind.__name__, (kind, TwoPasses), {})


@functools.cache
def _between(before: Size, after: Size, resample: int) -> Size:
    """The size between PIL's two passes. Which side it resizes first depends on its version and on
    both sizes, so it is asked, once for each of them."""
    choices = [(before[0], after[1]), (after[0], before[1])]
    if before in choices or after in choices:
        return choices[0]
    noise = np.random.default_rng(0).integers(0, 2, (*before, 3), dtype=np.uint8) * np.uint8(255)
    wanted = np.array(Image.fromarray(noise).resize(after[::-1], resample))
    start = torch.from_numpy(noise).permute(2, 0, 1)[None].float()
    mode = Image.Resampling(resample).name.lower()

    def apart(middle: Size) -> float:
        made = start
        for size in (middle, after):
            made = interpolate(made, size, mode=mode, antialias=True).clamp(0, 255).round()
        return float((made[0].permute(1, 2, 0) - torch.from_numpy(wanted)).abs().mean())

    return min(choices, key=apart)
