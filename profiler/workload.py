"""The workload: what a request holds, and how it is prepared each time."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..methods.contract.errors import InputError, first_line
from ..methods.contract.plan_checks import resized_for
from ..methods.contract.request import Request, Size
from ..reports.record.schema import Preprocessing
from ..reports.record.spec import OptionError, Workload
from ..reports.sanitize import quoted
from .models.geometry import request
from .models.pictures import SAMPLE_SIZE, load_picture, picture_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image
    from torch import Tensor

    from ..methods.contract.method import Method
    from ..methods.engine.decoder import Inputs
    from .models.model import Model

QUESTION = "Is there a person in the image? Answer the question using a single word or phrase."
SYNTHETIC_TEXT = (35, 25)  # tokens before and after the image where no tokenizer says otherwise


class WorkloadError(InputError):
    """A workload that does not exist or does not fit the model."""


def require_picture(workload: Workload) -> None:
    """Raises OptionError for a picture file that is not there."""
    if workload.image is not None and not Path(workload.image).is_file():
        wrong = "is a folder" if Path(workload.image).is_dir() else "no such file"
        raise OptionError("image", f"{quoted(workload.image, 300)}: {wrong}")


class Preparation:
    """Prepares the same request again and again, as a server does with each one it gets.

    Calling it decodes nothing: the picture is in memory. It runs the image processor, on the host
    or on the model's device, and the tokenizer, and assembles the tensors.
    """

    def __init__(self, model: Model, workload: Workload, seed: int = 0) -> None:
        """Raises WorkloadError for what does not exist or does not fit the model. seed: of random
        text and features."""
        self.model = model
        self.workload = workload
        self.seed = seed
        require_picture(workload)
        self._require_companions()
        self.picture = None if workload.visual_tokens else load_picture(workload)
        self.size: Size | None = None  # to which a method has the picture resized
        self.pixels: Callable[[list[Image.Image]], dict[str, Tensor]] = model.pixels
        self.preprocessing: Preprocessing | None = None
        self.request = self._request()
        self._process()
        self.features = self._features() if workload.visual_tokens else None
        self.text = self._random_text() if self._random else None

    def __call__(self) -> Inputs:
        """One request's tensors, on the host; synthetic features, and pixels that were made there,
        are where the model is."""
        before, after = self.text or self._tokenize()
        ids = self._with_placeholders(before, after)
        if self.features is not None:
            return self.model.synthetic(self.request, ids, self.features)
        pixels = self.pixels([self._shown() for _ in range(self.workload.batch_size)])
        return self.model.assemble(pixels, ids, self.request, self.workload.layout)

    def longer(self, more: int) -> Preparation:
        """The same request with `more` text tokens at its end, repeated from its text."""
        before, after = self.text or self._tokenize()
        again = itertools.islice(itertools.cycle(after or before), more)
        longer = copy.copy(self)
        longer.text = before, [*after, *again]
        longer.request = dataclasses.replace(self.request, after=len(longer.text[1]))
        return longer

    def request_for(self, method: Method) -> Request:
        """The request as it is planned for `method`, which may have the picture resized. Raises
        as `plan_checks.resized_for`."""
        return self._planned_for(method)[1]

    def resized(self, method: Method) -> Preparation:
        """The preparation of the request that `method` is given: where it has the picture resized,
        that is done each time, for each sample, before the image processor; else this one.

        Raises BudgetError or UnsupportedError where the method cannot meet its budget, and
        WorkloadError where the image processor gives another number of tokens than was planned.
        """
        size, request = self._planned_for(method)
        if self.picture is None or size == self.picture.size:
            return self
        smaller = copy.copy(self)
        smaller.size, smaller.request = size, request
        smaller._process()
        return smaller

    @property
    def note(self) -> str:
        """What a method does to the picture; "" for nothing."""
        return resizing(self.picture.size, self.size) if self.picture and self.size else ""

    def _planned_for(self, method: Method) -> tuple[Size, Request]:
        if self.picture is None:
            return SAMPLE_SIZE, self.request
        planned = by_size(
            self.model.shape, self.workload, before=self.request.before, after=self.request.after
        )
        return resized_for(method, self.picture.size, planned)

    def _shown(self) -> Image.Image:
        """The picture as the image processor is given it."""
        assert self.picture is not None
        if self.size is None:
            return self.picture.image
        from PIL.Image import Resampling

        return self.picture.image.resize(self.size[::-1], Resampling.BICUBIC)

    def _require_companions(self) -> None:
        """See that the model has what this request needs of it."""
        model, workload = self.model, self.workload
        if workload.prompt is not None and model.tokenizer is None and not model.missing:
            raise WorkloadError(
                f"{model.name} has random weights and no tokenizer: "
                "use --text-tokens BEFORE,AFTER instead of --prompt"
            )
        if "tokenizer" in model.missing and workload.text_tokens is None:
            raise WorkloadError(
                f"{model.name}: no readable tokenizer ({model.missing['tokenizer']}); "
                "use --text-tokens BEFORE,AFTER, which needs none"
            )
        if "image processor" in model.missing and workload.visual_tokens is None:
            raise WorkloadError(
                f"{model.name}: no readable image processor ({model.missing['image processor']}); "
                "use --visual-tokens N, which needs none"
            )

    @property
    def _random(self) -> bool:
        return self.model.tokenizer is None or self.workload.text_tokens is not None

    def _request(self) -> Request:
        workload = self.workload
        if self._random:
            before, after = workload.text_tokens or SYNTHETIC_TEXT
        else:
            before, after = (len(ids) for ids in self._tokenize())
        return plan_request(self.model.shape, workload, before=before, after=after)

    def _process(self) -> None:
        """See that the image processor makes of the picture what was planned, and decide where
        pictures are processed."""
        if self.picture is None:
            return
        shown = self._shown()
        pixels = self.model.pixels([shown])
        counted = self.model.visual_tokens(pixels, self.workload.layout)
        if counted != self.request.visual:
            raise WorkloadError(
                f"{self.model.name}: {self.request.visual} visual tokens were planned for a "
                f"picture of {shown.width}x{shown.height}, and its image processor gives "
                f"{counted}: nothing is measured that was not planned"
            )
        self._choose(shown, pixels)

    def _choose(self, shown: Image.Image, pixels: dict[str, Tensor]) -> None:
        """Decide where pictures are processed. pixels: what the host makes of the one `shown`."""
        model, where, apart = self.model, "host", None
        processor = model.image_processor
        if self.workload.preprocess == "device":
            from .models.device_pixels import DevicePixels, require_same

            self.pixels = on_device = DevicePixels(model)
            made = on_device([shown])
            apart = require_same(model.name, processor, pixels, made)
            processor, where = on_device.processor, str(model.device)
        self.preprocessing = Preprocessing(
            device=where,
            processor=type(processor).__name__,
            backend=processor.backend,
            apart=apart,
        )

    def _with_placeholders(self, before: list[int], after: list[int]) -> Tensor:
        import torch

        visual = [self.model.image_token] * self.request.visual
        ids: Tensor = torch.tensor([before + visual + after])
        return ids.expand(self.workload.batch_size, -1).contiguous()

    def _random_text(self) -> tuple[list[int], list[int]]:
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        token, end = self.model.image_token, self.model.shape.text.vocabulary - 4
        # Below the image's own token, or above it where nothing but special ones lies below.
        low, high = (3, min(token, end)) if token > 3 else (max(3, token + 1), end)
        count = self.request.before + self.request.after
        ids = torch.randint(low, high, (count,), generator=generator).tolist()
        return ids[: self.request.before], ids[self.request.before :]

    def _features(self) -> Tensor:
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.workload.batch_size, self.request.visual, self.request.hidden)
        scale = float(self.model.text_config.initializer_range)
        features = torch.randn(shape, generator=generator) * scale
        return features.to(self.model.device, self.model.dtype)

    def _tokenize(self) -> tuple[list[int], list[int]]:
        """Token ids before and after the one image placeholder of the prompt."""
        tokenizer, placeholder = self.model.tokenizer, self.model.image_token
        name = str(tokenizer.convert_ids_to_tokens(placeholder))
        if name in (self.workload.prompt or ""):
            raise WorkloadError(
                f"--prompt itself holds {name}, where the picture goes: leave it out, the chat "
                "template puts it there"
            )
        text = self._rendered()
        starts = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        ids: list[int] = tokenizer(text, add_special_tokens=not starts).input_ids
        if ids.count(placeholder) != 1:
            raise WorkloadError(
                f"{self.model.name}: its prompt holds {ids.count(placeholder)} image "
                "placeholders, one is needed; check its chat template"
            )
        index = ids.index(placeholder)
        return ids[:index], ids[index + 1 :]

    def _rendered(self) -> str:
        prompt = QUESTION if self.workload.prompt is None else self.workload.prompt
        if not self.model.chat_template:
            return f"USER: {self.model.image_text}\n{prompt} ASSISTANT:"
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        try:
            rendered: str = self.model.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.model.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template is a program, which fails in any way
            raise WorkloadError(
                f"{self.model.name}: its chat template cannot be rendered ({first_line(error)}); "
                "use --text-tokens BEFORE,AFTER, which needs none"
            ) from error
        return rendered


def plan_request(shape: Any, workload: Workload, *, before: int, after: int) -> Request:
    """The lengths of `workload` on a shape, before any picture is processed. Raises OptionError for
    a picture that is not there."""
    planned = by_size(shape, workload, before=before, after=after)
    return planned(request_size(workload))


def request_size(workload: Workload) -> Size:
    """Height and width in pixels of the picture of a request; raises OptionError for a picture that
    is not there."""
    require_picture(workload)
    return SAMPLE_SIZE if workload.visual_tokens else picture_size(workload)


def by_size(
    shape: Any, workload: Workload, *, before: int, after: int
) -> Callable[[Size], Request]:
    """The request of `workload` on a shape, for a picture of some size."""

    def planned(size: Size) -> Request:
        return request(
            shape,
            before=before,
            after=after,
            size=size,
            layout=workload.layout,
            visual_tokens=workload.visual_tokens,
            batch=workload.batch_size,
            new_tokens=workload.new_tokens,
        )

    return planned


def resizing(before: Size, after: Size) -> str:
    """How a picture is resized, in words."""
    (height, width), (rows, columns) = before, after
    return f"picture resized from {width}x{height} to {columns}x{rows} (width x height)"
