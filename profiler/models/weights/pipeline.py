"""A pipeline: the decoder layers of a model over several devices of one process, which run one
after another. No torch here until weights are moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....reports.record.spec import ModelSpec, OptionError
from ..shapes import Shape, ShapeError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class DeviceShare:
    """What one device of a pipeline holds.

    layers: of the decoder. first: the vision tower, the projector and the embedding as well. head:
    the head as well, which is where its weights are: a tied one with the embedding. last: the last
    norm. parameters: all weights there.
    """

    layers: range
    first: bool
    last: bool
    head: bool
    parameters: int


def parts_of(shape: Shape, count: int) -> list[DeviceShare]:
    """The pipeline of a model over `count` devices: so many decoder layers on each that the fullest
    holds as few weights as can be. Raises ShapeError for more devices than layers."""
    text = shape.text
    if count > text.layers:
        raise ShapeError(f"{shape.name} has {text.layers} decoder layers, fewer than {count}")
    words, outside = text.vocabulary * text.hidden, shape.parameters - text.parameters
    held = [0] * count
    held[0] += outside + words
    held[-1] += text.hidden + (0 if text.tied else words)
    layers = [1] * count
    for _ in range(text.layers - count):
        lightest = min(range(count), key=lambda n: held[n] + layers[n] * text.layer_parameters)
        layers[lightest] += 1
    return [
        DeviceShare(
            layers=range(sum(layers[:n]), sum(layers[: n + 1])),
            first=n == 0,
            last=n == count - 1,
            head=n == (0 if text.tied else count - 1),
            parameters=held[n] + layers[n] * text.layer_parameters,
        )
        for n in range(count)
    ]


def devices_of(spec: ModelSpec) -> tuple[torch.device, ...]:
    """The GPUs of the pipeline that is asked for, the first of this process; none where one device
    has the model whole. Raises OptionError where there are not so many."""
    if spec.pipeline == 1:
        return ()
    if spec.device not in (None, "cuda"):
        raise OptionError(
            "pipeline", f"takes the first GPUs: give device cuda, not {spec.device}", "device"
        )
    import torch

    if (there := torch.cuda.device_count()) < spec.pipeline:
        raise OptionError("pipeline", f"wants {spec.pipeline} GPUs, and there are {there}")
    return tuple(torch.device("cuda", index) for index in range(spec.pipeline))


@dataclass(frozen=True)
class Pipeline:
    """A model of this shape over these devices."""

    shape: Shape
    devices: tuple[torch.device, ...]

    @property
    def parts(self) -> list[DeviceShare]:
        """What each of the devices holds."""
        return parts_of(self.shape, len(self.devices))

    def places(self, module: Any) -> dict[nn.Module, torch.device]:
        """The device of each part of a transformers model, however deep it lies."""
        language, found = module.model.language_model, {}
        for each in module.modules():
            found[each] = self.devices[0]
        for part, device in zip(self.parts, self.devices, strict=True):
            held = [language.layers[layer] for layer in part.layers]
            held += [language.norm] * part.last + [module.lm_head] * part.head
            found.update({each: device for whole in held for each in whole.modules()})
        return found

    def place(self, module: Any) -> None:
        """Move a transformers model to the devices."""
        for part, device in self.places(module).items():
            move(part, device)


def move(part: nn.Module, device: torch.device) -> None:
    """Move a module's own weights and buffers, and of none inside it."""
    apply: Any = part._apply
    apply(lambda tensor: tensor.to(device), recurse=False)
