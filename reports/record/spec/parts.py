"""The parts of what is run, and their options. A new option is one field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .options import NOT_BLANK, OptionError, Spec, _shown, option
from .texts import sizes

Layout = Literal["flat", "anyres"]
Place = Literal["host", "device"]
Side = Annotated[int, Meta(ge=1, le=2**16)]
Size = tuple[Side, Side]
"""Height and width in pixels."""
LONGEST, LONGEST_PROMPT = 4096, 2**20
"""Characters of what names something, as a file does, and of a question."""
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST,
        pattern=rf"^(?=.*\S)[^{_CONTROLS}]+$(?![\s\S])",
    ),
]
Question = Annotated[str, Meta(max_length=LONGEST_PROMPT, pattern=NOT_BLANK)]


ONE_REQUEST = (
    "is for one request, which every row of a batch repeats (batch_size): rows that differ would "
    "need padding, which is not measured; give each request a run of its own"
)
"""What is said where several requests are given."""


class ModelSpec(Spec, frozen=True):
    """Which model, where and how."""

    group = "model"

    name: Annotated[
        Text | None,
        option("Shape (see `tpprof models`), checkpoint folder or hub id.", keyword="model"),
    ] = None
    device: Annotated[Text | None, option("cpu, cuda, cuda:1, ...")] = None
    dtype: Annotated[Text | None, option("float32, float16 or bfloat16.")] = None
    backend: Annotated[
        Text,
        option(
            "Attention kernel: sdpa, sdpa-flash, sdpa-cudnn, sdpa-efficient, flash_attention_2, _3 "
            "or _4, eager."
        ),
    ] = "sdpa"
    seed: Annotated[int, option("Seed of random weights and text.", ge=0, le=2**32 - 1)] = 0
    tensor_parallel: Annotated[
        int, option("Devices over which each decoder layer is spread.", ge=1, le=2**10)
    ] = 1
    pipeline: Annotated[
        int,
        option("GPUs over which the decoder layers lie, one after another.", ge=1, le=2**10),
    ] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pipeline, self.tensor_parallel) > 1:
            raise OptionError(
                "pipeline", "and tensor_parallel exclude each other", "tensor_parallel"
            )


def _several(name: str, given: Any) -> Any:
    """A file or a size as it is given for one picture, as a list of one; None as none."""
    if given is None:
        return ()
    if isinstance(given, str):
        return sizes(name, given) if name == "image_size" else (given,)
    size = isinstance(given, (tuple, list)) and any(type(side) is int for side in given)
    return (tuple(given),) if size else given


class Workload(Spec, frozen=True):
    """One request, repeated: a picture or several or a video, a yes/no question, a few greedy
    tokens. Of one picture, its file and its size may be given as they are."""

    group = "workload"

    image: Annotated[
        tuple[Text, ...],
        option("Picture, once for each in the prompt; default: matplotlib's sample.", form="each"),
    ] = ()
    image_size: Annotated[
        tuple[Size, ...],
        option(
            "HEIGHTxWIDTH in pixels the picture is resized to, or one for each, by commas; "
            "default: its own, and 672x672 for the sample.",
            form="sizes",
        ),
    ] = ()
    video: Annotated[
        Text | None, option("Video whose frames are shown (needs the extra video).")
    ] = None
    frames: Annotated[
        Annotated[int, Meta(ge=1, le=2**16)] | None,
        option("Frames of the video, evenly spaced; without --video, of a moving sample."),
    ] = None
    messages: Annotated[
        Text | None,
        option("JSON file of a conversation, for the chat template, instead of a prompt."),
    ] = None
    prompt: Annotated[Question | None, option("Question (needs a tokenizer).")] = None
    text_tokens: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**24)], Annotated[int, Meta(ge=1, le=2**24)]] | None,
        option("BEFORE,AFTER: random text tokens instead of a prompt.", form="pair"),
    ] = None
    layout: Annotated[Layout, option("LLaVA-NeXT: flat (2880) or anyres (newlines).")] = "flat"
    preprocess: Annotated[
        Place, option("Where pictures are processed: host, or device (needs torchvision).")
    ] = "host"
    visual_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=2**24)] | None,
        option("Synthetic visual tokens, skipping the vision tower."),
    ] = None
    new_tokens: Annotated[int, option("Tokens to generate, greedy, exactly.", ge=1, le=2**20)] = 2
    batch_size: Annotated[int, option("Equal prompts in one batch.", ge=1, le=2**16)] = 1

    def __post_init__(self) -> None:
        require_one_request({name: getattr(self, name) for name in self.__struct_fields__})
        for name in ("image", "image_size"):
            msgspec.structs.force_setattr(self, name, _several(name, getattr(self, name)))
        super().__post_init__()
        texts = [name for name in ("prompt", "messages", "text_tokens") if getattr(self, name)]
        if len(texts) > 1:
            raise OptionError(texts[0], f"and {texts[1]} exclude each other", texts[1])
        if self.visual_tokens is not None and self.image:
            raise OptionError("visual_tokens", "skips the picture: leave image out", "image")
        for other in ("image", "visual_tokens"):
            if self.is_video and getattr(self, other):
                given = "video" if self.video is not None else "frames"
                raise OptionError(given, f"and {other} exclude each other", other)
        if self.is_video and self.preprocess == "device":
            raise OptionError("preprocess", "device takes pictures, and no video")
        if self.is_video and len(self.image_size) > 1:
            raise OptionError("image_size", "has one size for all frames of a video")
        files, sizes = len(self.image), len(self.image_size)
        if min(files, sizes) > 1 and files != sizes:
            raise OptionError(
                "image_size", f"gives {sizes} sizes, and image {files} pictures", "image"
            )
        if self.visual_tokens is not None and self.preprocess == "device":
            raise OptionError(
                "preprocess", "device needs a picture, which visual_tokens skips", "visual_tokens"
            )

    @property
    def is_video(self) -> bool:
        """Whether frames of a video are shown, and no pictures."""
        return self.video is not None or self.frames is not None

    @property
    def pictures(self) -> tuple[tuple[str | None, Size | None], ...]:
        """File and size of each picture of the prompt; None for the sample, and for its own."""
        count = max(1, len(self.image), len(self.image_size))
        files: tuple[str | None, ...] = self.image or (None,)
        sizes: tuple[Size | None, ...] = self.image_size or (None,)
        return tuple((files[n % len(files)], sizes[n % len(sizes)]) for n in range(count))


LISTED = {"image": 1, "image_size": 2, "text_tokens": 1}
"""Options of one request that are lists, and how deep."""


def require_one_request(given: Mapping[str, Any]) -> None:
    """Raises OptionError for an option of the request that is given as a list of them."""
    for name, value in given.items():
        if _depth(value) > LISTED.get(name, 0):
            raise OptionError(name, ONE_REQUEST, "batch_size")


def _depth(value: Any) -> int:
    """How many lists lie in each other; of an empty one, none."""
    if not isinstance(value, (list, tuple)) or not value:
        return 0
    return 1 + max(map(_depth, value))


class Cells(Spec, frozen=True):
    """What is compared: every method under every attention policy that concerns it, and runtime."""

    group = "cells"

    methods: Annotated[
        tuple[Text, ...],
        option("Spec strings: fastv, sparsevlm:version=1.5, fastv:keep=320", form="each"),
    ] = ()
    keep: Annotated[
        Text | None,
        option("Budget of the methods that name none: a count (320) or a share (0.25, 1/9)."),
    ] = None
    equalize: Annotated[
        bool, option("Solve all budgets for one mean over layers of the visual tokens.")
    ] = False
    attention: Annotated[
        tuple[Text, ...],
        option("Comma-separated: rows, maps, published.", form="list", min_length=1),
    ] = ("maps", "rows")
    runtime: Annotated[
        tuple[Text, ...],
        option(
            "Comma-separated: eager, graph (vision, prefill, decode), compile (layers).",
            form="list",
            min_length=1,
        ),
    ] = ("eager",)
    plugin: Annotated[
        tuple[Text, ...], option("A .py file or module that registers methods.", form="each")
    ] = ()
    callables: Annotated[
        tuple[Text, ...],
        option(
            "[NAME=]MODULE:FUNCTION: code of yours beside the methods, in a process of its own.",
            form="each",
            keyword="callable",
        ),
    ] = ()
    python: Annotated[
        tuple[Text, ...],
        option(
            "The Python that runs the callables (ENV/bin/python); `this` for tpprof's.", form="each"
        ),
    ] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """What is measured beside vanilla: methods, and callables."""
        return (*self.methods, *self.callables)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.python and not self.callables:
            raise OptionError("python", "is for code of yours: it needs callable", "callable")
        if len(set(self.python)) < len(self.python):
            raise OptionError("python", f"{','.join(self.python)} names one twice")
        for keyword in ("attention", "runtime"):
            listed = getattr(self, keyword)
            if len(set(listed)) < len(listed):
                raise OptionError(keyword, f"{','.join(listed)} names one twice")


MOST = 2**20
"""Rounds, or requests of a process."""


class Stopping(Spec, frozen=True):
    """How long is measured, and in how many processes.

    A round is one sample of every cell, or, where cells are isolated, one process of every cell
    with `samples` requests.
    """

    group = "stopping"

    target_ci: Annotated[
        float,
        option(
            "Stop when every 95 % interval of a speed-up is within +- this (0.05, 5%).",
            form="share",
            gt=0,
            le=1,
        ),
    ] = 0.05
    min_rounds: Annotated[int, option("Rounds at least (6 give an interval).", ge=1, le=MOST)] = 6
    max_rounds: Annotated[int, option("Rounds at most.", ge=1, le=MOST)] = 200
    max_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=10**7)] | None, option("Time for the rounds.")
    ] = 60.0
    rounds: Annotated[
        Annotated[int, Meta(ge=1, le=MOST)] | None,
        option("Just so many rounds, however long they take."),
    ] = None
    isolate: Annotated[bool, option("A fresh process for each cell in each round.")] = False
    samples: Annotated[int, option("Requests per process (--isolate).", ge=1, le=MOST)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds is None and self.max_rounds < self.min_rounds:
            reason = f"{self.max_rounds} is below min_rounds {self.min_rounds}"
            raise OptionError("max_rounds", reason, "min_rounds")
        if self.samples > 1 and not self.isolate:
            raise OptionError("samples", "is per process: it needs isolate", "isolate")

    @property
    def least(self) -> int:
        """Rounds at least."""
        return self.rounds or self.min_rounds

    @property
    def most(self) -> int:
        """Rounds at most."""
        return self.rounds or self.max_rounds

    @property
    def seconds(self) -> float | None:
        """Time for the rounds; None where their number decides."""
        return None if self.rounds else self.max_seconds


PASSES = ("energy", "flops", "activity", "lengths")
"""What is measured behind the rounds, each in requests of its own: joules, FLOPs as torch counts
them, launches and busy time, and the first request at a new length."""


class Extras(Spec, frozen=True):
    """What else the record keeps."""

    group = "extras"

    passes: Annotated[
        tuple[Text, ...],
        option(
            "What is measured behind the rounds, comma-separated: energy, flops, activity, lengths "
            "(the first request at a new length); none for times alone.",
            form="list",
        ),
    ] = PASSES
    tokens: Annotated[bool, option("Keep which tokens stay, and a small copy of the picture.")] = (
        False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes == ("none",):
            msgspec.structs.force_setattr(self, "passes", ())
        for name in self.passes:
            if name not in PASSES:
                known = f"known: {', '.join(PASSES)}, or none alone"
                raise OptionError("passes", f"{_shown(name)} is no pass; {known}")
        if len(set(self.passes)) < len(self.passes):
            raise OptionError("passes", f"{','.join(self.passes)} names one twice")


RuleName = Literal["llava", "strict", "words"]


class AccuracySpec(Spec, frozen=True):
    """Yes/no questions about pictures: what is asked, and how answers are read."""

    group = "accuracy"

    accuracy: Annotated[
        bool,
        option("Ask yes/no questions too, behind the timing and in a process of its own: POPE F1."),
    ] = False
    annotations: Annotated[
        Text | None,
        option("Folder with POPE's coco_pope_*.json; the model seer needs none: its are drawn."),
    ] = None
    images: Annotated[Text | None, option("Folder of the pictures of --annotations.")] = None
    questions: Annotated[
        Annotated[int, Meta(ge=3, le=2**24)] | None,
        option("Questions at most, a third a category; default: all, and 300 of drawn ones."),
    ] = None
    rule: Annotated[
        RuleName, option("How answers are read: llava (as papers do), strict or words.")
    ] = "llava"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.annotations is None) != (self.images is None):
            given, other = (
                ("annotations", "images") if self.annotations else ("images", "annotations")
            )
            raise OptionError(given, f"needs {other} beside it", other)
