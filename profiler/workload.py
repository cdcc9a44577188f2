"""The workload: what a request holds, and how it is prepared each time."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..methods.contract.plan_checks import Sizes, resized_for
from ..methods.contract.request import Request, Size
from ..reports.record.schema import Preprocessing
from ..reports.record.spec import OptionError, Workload
from ..reports.sanitize import quoted
from .models.geometry import request
from .models.pictures import SAMPLE_SIZE, RequestPicture, load_picture, picture_size
from .prompts import WorkloadError, read_conversation, tokenize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from torch import Tensor

    from ..methods.contract.method import Method
    from ..methods.engine.decoder import Inputs
    from .models.model import Model

SYNTHETIC_TEXT = (35, 25)  # tokens before and after the image where no tokenizer says otherwise


def require_request(workload: Workload) -> None:
    """Look at the files of a request, before any model is loaded. Raises OptionError for one that
    is not there, PictureError for one that is no picture or video by its head, and WorkloadError
    for one that is no conversation."""
    require_files(workload)
    for file in workload.image:
        picture_size(file, None)
    request_sizes(workload)
    if workload.messages is not None:
        read_conversation(workload.messages)


def require_files(workload: Workload) -> None:
    """Raises OptionError for a file of the request that is not there."""
    named: list[tuple[str, str | None]] = [("image", file) for file in workload.image]
    named += [("video", workload.video), ("messages", workload.messages)]
    for option, file in named:
        if file is not None and not Path(file).is_file():
            wrong = "is a folder" if Path(file).is_dir() else "no such file"
            raise OptionError(option, f"{quoted(file, 300)}: {wrong}")


class Preparation:
    """Prepares the same request again and again, as a server does with each one it gets.

    Calling it decodes nothing: pictures are in memory. It runs the image processor, on the host or
    on the model's device, and the tokenizer, and assembles the tensors.

    pictures: those of the prompt, or the frames of its video; none of synthetic features.
    """

    def __init__(self, model: Model, workload: Workload, seed: int = 0) -> None:
        """Raises WorkloadError for what does not exist or does not fit the model. seed: of random
        text and features."""
        self.model = model
        self.workload = workload
        self.seed = seed
        require_files(workload)
        self._require_companions()
        self.pictures = _pictures(workload)
        self.sizes: Sizes | None = None  # to which a method has the pictures resized
        self.pixels: Callable[[list[Image.Image], int], dict[str, Tensor]] = model.pixels
        self.preprocessing: Preprocessing | None = None
        self.request = self._request()
        self._process()
        self.features = self._features() if workload.visual_tokens else None
        self.text = self._random_text() if self._random else None

    def __call__(self) -> Inputs:
        """One request's tensors, on the host; synthetic features, and pixels that were made there,
        are where the model is."""
        ids = self._with_placeholders(self.text or self._tokenize())
        if self.features is not None:
            return self.model.synthetic(self.request, ids, self.features)
        samples = range(self.workload.batch_size)
        pixels = self._pixels([image for _ in samples for image in self._shown()])
        return self.model.assemble(pixels, ids, self.request, self.workload.layout)

    def longer(self, more: int) -> Preparation:
        """The same request with `more` text tokens at its end, repeated from its text."""
        *others, after = self.text or self._tokenize()
        again = itertools.islice(itertools.cycle(after or others[0]), more)
        longer = copy.copy(self)
        longer.text = [*others, [*after, *again]]
        longer.request = dataclasses.replace(self.request, after=len(longer.text[-1]))
        return longer

    def request_for(self, method: Method) -> Request:
        """The request as it is planned for `method`, which may have the pictures resized. Raises
        as `plan_checks.resized_for`."""
        return self._planned_for(method)[1]

    def resized(self, method: Method) -> Preparation:
        """The preparation of the request that `method` is given: where it has the pictures resized,
        that is done each time, for each sample, before the image processor; else this one.

        Raises BudgetError or UnsupportedError where the method cannot meet its budget, and
        WorkloadError where the image processor gives another number of tokens than was planned.
        """
        sizes, request = self._planned_for(method)
        if not self.pictures or sizes == self.whole_sizes:
            return self
        smaller = copy.copy(self)
        smaller.sizes, smaller.request = sizes, request
        smaller._process()
        return smaller

    @property
    def whole_sizes(self) -> Sizes:
        """Height and width in pixels of each picture of the prompt; of a video, of its frames."""
        sizes = tuple(picture.size for picture in self.pictures)
        return sizes[:1] if self.workload.is_video else sizes

    @property
    def note(self) -> str:
        """What a method does to the pictures; "" for nothing."""
        return resizing(self.whole_sizes[0], self.sizes[0]) if self.sizes else ""

    def _planned_for(self, method: Method) -> tuple[Sizes, Request]:
        if not self.pictures:
            return (), self.request
        *before, after = (len(ids) for ids in self.text or self._tokenize())
        planned = by_size(self.model.shape, self.workload, texts=(*before, after))
        return resized_for(method, self.whole_sizes, planned)

    def _shown(self) -> list[Image.Image]:
        """The pictures as the image processor is given them."""
        shown = [picture.image for picture in self.pictures]
        if self.sizes is None:
            return shown
        from PIL.Image import Resampling

        sizes = self.sizes * (len(shown) if self.workload.is_video else 1)
        return [
            image.resize(size[::-1], Resampling.BICUBIC)
            for image, size in zip(shown, sizes, strict=True)
        ]

    def _pixels(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """What the model is given of pictures, or of the frames of one video after another."""
        if not self.workload.is_video:
            return self.pixels(images, len(self.pictures))
        count = len(self.pictures)
        starts = range(0, len(images), count)
        return self.model.video_pixels([images[first : first + count] for first in starts])

    def _require_companions(self) -> None:
        """See that the model has what this request needs of it."""
        model, workload = self.model, self.workload
        asked = "prompt" if workload.prompt is not None else "messages"
        if getattr(workload, asked) is not None and model.tokenizer is None and not model.missing:
            raise WorkloadError(
                f"{model.name} has random weights and no tokenizer: "
                f"use --text-tokens BEFORE,AFTER instead of --{asked}"
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
        if self._random:
            return plan_request(self.model.shape, self.workload)
        texts = tuple(len(ids) for ids in self._tokenize())
        return plan_request(self.model.shape, self.workload, texts=texts)

    def _process(self) -> None:
        """See that the image processor makes of the pictures what was planned, and decide where
        pictures are processed."""
        if not self.pictures:
            return
        shown = self._shown()
        pixels = self._pixels(shown)
        counted = self.model.visual_tokens(pixels, self.workload.layout)
        if sum(counted) != self.request.visual:
            told = ", ".join(f"{image.width}x{image.height}" for image in shown[:3])
            raise WorkloadError(
                f"{self.model.name}: {self.request.visual} visual tokens were planned for "
                f"{_a_picture(len(shown), self.workload)} of {told}, and its image processor gives "
                f"{sum(counted)}: nothing is measured that was not planned"
            )
        if not self.workload.is_video:
            self._choose(shown, pixels)

    def _choose(self, shown: list[Image.Image], pixels: dict[str, Tensor]) -> None:
        """Decide where pictures are processed. pixels: what the host makes of those `shown`."""
        model, where, apart = self.model, "host", None
        processor = model.image_processor
        if self.workload.preprocess == "device":
            from .models.device_pixels import DevicePixels, require_same

            self.pixels = on_device = DevicePixels(model)
            made = on_device(shown, len(shown))
            apart = require_same(model.name, processor, pixels, made)
            processor, where = on_device.processor, str(model.device)
        self.preprocessing = Preprocessing(
            device=where,
            processor=type(processor).__name__,
            backend=processor.backend,
            apart=apart,
        )

    def _with_placeholders(self, texts: Sequence[list[int]]) -> Tensor:
        """Ids [B, S] of the prompt. texts: those before each span, and behind the last."""
        import torch

        model = self.model
        visual = model.video_token if self.workload.is_video else model.image_token
        ids: list[int] = []
        for text, span in zip(texts, self.request.spans, strict=False):
            ids += [*text, *[visual] * span.tokens]
        whole: Tensor = torch.tensor([[*ids, *texts[-1]]])
        return whole.expand(self.workload.batch_size, -1).contiguous()

    def _random_text(self) -> list[list[int]]:
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        token, end = self.model.image_token, self.model.shape.text.vocabulary - 4
        # Below the image's own token, or above it where nothing but special ones lies below.
        low, high = (3, min(token, end)) if token > 3 else (max(3, token + 1), end)
        request = self.request
        lengths = [*(span.before for span in request.spans), request.after]
        ids = torch.randint(low, high, (sum(lengths),), generator=generator).tolist()
        ends = list(itertools.accumulate(lengths))
        return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def _features(self) -> Tensor:
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.workload.batch_size, self.request.visual, self.request.hidden)
        scale = float(self.model.text_config.initializer_range)
        features = torch.randn(shape, generator=generator) * scale
        return features.to(self.model.device, self.model.dtype)

    def _tokenize(self) -> list[list[int]]:
        """Token ids before each span of visual tokens, and behind the last."""
        workload = self.workload
        parts = tokenize(
            self.model,
            workload.prompt,
            messages=workload.messages,
            pictures=max(1, len(self.pictures)),
            video=workload.is_video,
        )
        if not workload.is_video:
            return parts
        before, after = self.model.video_start(parts[0]), parts[-1]
        planned = by_size(self.model.shape, workload, texts=(len(before), len(after)))
        video = planned(self.whole_sizes)
        return [before, *self.model.video_text(video), after]


def _pictures(workload: Workload) -> list[RequestPicture]:
    """The pictures of a request, or the frames of its video; none of synthetic features."""
    if workload.visual_tokens:
        return []
    if not workload.is_video:
        return [load_picture(*given) for given in workload.pictures]
    from .models.videos import USUAL_FRAMES, load_frames

    size = next(iter(workload.image_size), None)
    frames = load_frames(workload.video, workload.frames or USUAL_FRAMES, size)
    return [RequestPicture(frame) for frame in frames]


def _a_picture(count: int, workload: Workload) -> str:
    if workload.is_video:
        return f"a video of {count} frames"
    return "a picture" if count == 1 else f"{count} pictures"


def plan_request(shape: Any, workload: Workload, *, texts: Sequence[int] | None = None) -> Request:
    """The lengths of `workload` on a shape, before any picture is processed. Raises OptionError for
    a file that is not there.

    texts: text tokens before each picture and behind the last; None for those of random text.
    """
    return by_size(shape, workload, texts=texts)(request_sizes(workload))


def request_sizes(workload: Workload) -> Sizes:
    """Height and width in pixels of each picture of a request, or of the frames of its video;
    raises OptionError for a file that is not there."""
    require_files(workload)
    if workload.visual_tokens:
        return (SAMPLE_SIZE,)
    if workload.is_video:
        from .models.videos import USUAL_FRAMES, frame_size

        size, count = next(iter(workload.image_size), None), workload.frames or USUAL_FRAMES
        return (frame_size(workload.video, size, count),)
    return tuple(picture_size(*given) for given in workload.pictures)


def by_size(
    shape: Any, workload: Workload, *, texts: Sequence[int] | None = None
) -> Callable[[Sizes], Request]:
    """The request of `workload` on a shape, for pictures of some sizes. texts: as
    `plan_request`."""
    before, *between, after = texts or workload.text_tokens or SYNTHETIC_TEXT
    frames = 0
    if workload.is_video:
        from .models.videos import USUAL_FRAMES

        frames = workload.frames or USUAL_FRAMES

    def planned(sizes: Sizes) -> Request:
        first, *others = sizes
        return request(
            shape,
            before=before,
            after=after,
            size=first,
            more=others,
            between=between if texts else None,
            frames=frames,
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
