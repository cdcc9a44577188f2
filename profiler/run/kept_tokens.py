"""Which visual tokens methods keep of pictures: what `tpprof tokens` looks at. Nothing is timed."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...methods import InputError, Method, format_spec, load_plugins, parse
from ...methods.contract.containment import contained, location
from ...methods.contract.errors import first_line
from ...methods.contract.method import Keep
from ...methods.contract.plan import Plan, Stage
from ...methods.contract.plan_checks import plan_for
from ...methods.contract.policies import check_policy
from ...methods.contract.request import Request
from ...methods.contract.spec import require_once
from ...methods.contract.view import View
from ...methods.engine.decoder import Inputs
from ...methods.engine.run import Trace, run
from ...reports.record.kept import Kept, Picture, Region
from ...reports.record.spec import Subject, Workload, changed
from ...reports.sanitize import say
from ..models.architecture import whole_picture
from ..models.load import default_name, load
from ..workload import Preparation, require_request

if TYPE_CHECKING:
    from PIL import Image

    from ..models.model import Model

LONGEST = 336  # pixels of the longer side of the picture that is kept
Scores = list[tuple[int, list[int], list[float]]]


@dataclass(frozen=True)
class Seen:
    """What a method keeps of a prompt. image: its file, or "" for the sample photograph. pictures:
    visual tokens of each picture, in their order, where there are several."""

    method: str
    image: str
    kept: list[Kept]
    pictures: tuple[int, ...] = ()


@dataclass(frozen=True)
class Watched(Method):
    """A method whose scores are looked at as it decides: it decides as it would alone."""

    inner: Method
    seen: Scores = field(default_factory=list)

    def plan(self, request: Request) -> Plan:
        return plan_for(self.inner, request)

    def decide(self, view: View, stage: Stage) -> Keep | None:
        if stage.rows and stage.in_decoder:
            scores = view.rows[0].flatten(0, -2).mean(0).tolist()
            self.seen.append((stage.first_layer_after, view.original[0].tolist(), scores))
        return self.inner.decide(view, stage)


class TokenViewer:
    """A model that is shown pictures; `pictures` holds those that it was shown, by file."""

    def __init__(self, spec: Subject, *, images: Sequence[str | None]) -> None:
        """Load what is needed; images: files, or None for the sample photograph. Raises InputError
        for what does not exist or does not fit."""
        for note in load_plugins(spec.cells.plugin):
            say(note)
        if len(spec.cells.attention) != 1:
            raise InputError("attention: one policy is looked at, rows or another")
        self.attention = check_policy(spec.cells.attention[0])
        self.methods = [parse(method, spec.cells.keep) for method in spec.cells.methods]
        require_once(self.methods)
        self.workloads = [changed(spec, image=image or ()).workload for image in images]
        for workload in self.workloads:
            require_request(workload)
        model = spec.model
        name = model.name or default_name(model.device, model.dtype)[0]
        self.model = load(name, device=model.device, dtype=model.dtype, seed=model.seed)
        self.pictures: dict[str, Picture] = {}

    def seen(self) -> list[Seen]:
        """What each method keeps of each picture."""
        found = []
        for workload in self.workloads:
            prepare = Preparation(self.model, workload)
            inputs = prepare().to(self.model.device)
            shown = picture(self.model, prepare)
            if shown is not None:
                self.pictures[_file(workload)] = shown
            for method in self.methods:
                _require_same_picture(method, prepare)
                watched = Watched(inner=method)
                trace = self._trace(inputs, watched)
                kept = selections(trace, prepare.request.visual, watched.seen)
                spans = [] if workload.is_video else prepare.request.spans
                each = tuple(span.tokens for span in spans) if len(spans) > 1 else ()
                found.append(Seen(format_spec(method), _file(workload), kept, each))
        return found

    def _trace(self, inputs: Inputs, watched: Watched) -> Trace:
        """One prefill; raises InputError for a method that fails."""
        name = format_spec(watched.inner)
        try:
            with contained():
                return run(
                    self.model,
                    inputs,
                    watched,
                    attention=self.attention,
                    new_tokens=1,
                    verify=True,
                )
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error
        except Exception as error:
            at = location(error, watched.inner)
            raise InputError(f"{name}: {first_line(error)}{at}") from error


def _require_same_picture(method: Method, prepare: Preparation) -> None:
    """Raises InputError for a method that has the picture resized."""
    name = format_spec(method)
    try:
        request = prepare.request_for(method)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    if request.whole is not None:
        raise InputError(
            f"{name}: it has the picture resized, whose visual tokens are then other ones than "
            "those that are looked at: leave it out"
        )


def selections(
    trace: Trace, visual: int, scores: Sequence[tuple[int, list[int], list[float]]] = ()
) -> list[Kept]:
    """The kept tokens of a trace, one entry wherever they change; `visual` original ones."""
    entries: list[Kept] = []
    by_layer = {layer: _by_token(origins, read, visual) for layer, origins, read in scores}
    for layer, kept in enumerate(trace.kept):
        listed = kept[0].tolist()
        tokens = [token for token in listed if token >= 0]
        merged = len(listed) - len(tokens)
        if entries and (entries[-1].tokens, entries[-1].merged) == (tokens, merged):
            continue
        entries.append(
            Kept(
                layer=layer,
                visual=visual,
                tokens=tokens,
                merged=merged,
                scores=by_layer.get(layer, []),
            )
        )
    return entries


def _file(workload: Workload) -> str:
    """The picture of a request, "" for the sample."""
    return next(iter(workload.image), "")


def picture(model: Model, prepare: Preparation) -> Picture | None:
    """A small copy of the request's pictures, of several side by side, and where their tokens lie;
    None for synthetic ones."""
    if not prepare.pictures:
        return None
    columns = math.ceil(len(prepare.pictures) ** 0.5)
    cell = LONGEST // columns
    rows = math.ceil(len(prepare.pictures) / columns)
    copies: list[Image.Image] = [shown.image.copy() for shown in prepare.pictures]
    for copy in copies:
        copy.thumbnail((cell, cell))
    width = copies[0].width if len(copies) == 1 else cell * columns
    height = copies[0].height if len(copies) == 1 else cell * rows
    sheet = copies[0].resize((width, height)) if len(copies) == 1 else _sheet(width, height)
    corners = [(n % columns * cell, n // columns * cell) for n in range(len(copies))]
    for copy, corner in zip(copies, corners, strict=True):
        sheet.paste(copy, corner)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    found = list[Region]()
    for region, number in _numbered(model.shape, prepare):
        copy, (x, y) = copies[number], corners[number]
        region.left = (x + region.left * copy.width) / width
        region.right = (x + region.right * copy.width) / width
        region.top = (y + region.top * copy.height) / height
        region.bottom = (y + region.bottom * copy.height) / height
        found.append(region)
    return Picture(jpeg=base64.b64encode(buffer.getvalue()).decode(), regions=found)


def _sheet(width: int, height: int) -> Image.Image:
    from PIL import Image

    return Image.new("RGB", (width, height), "white")


def _numbered(shape: Any, prepare: Preparation) -> Iterator[tuple[Region, int]]:
    """What each run of visual tokens covers, as the image processor cut it, and of which of the
    pictures or frames it is."""
    first, request = 0, prepare.request
    if request.frames:
        # A temporal patch of several frames is shown on the first of them.
        each = len(prepare.pictures) / request.frames
        for number, segment in enumerate(request.segments):
            if segment.frame:  # a newline behind the last shows nothing
                region = whole_picture(segment)
                region.first = first
                yield region, int(number * each)
            first += segment.tokens
        return
    for number, (span, shown) in enumerate(zip(request.spans, prepare.pictures, strict=True)):
        layout, several = prepare.workload.layout, len(request.spans) > 1
        cut = shape.architecture.regions(shape, shown.size, layout, several=several)
        for region in cut:
            region.first += first
            yield region, number
        first += span.tokens


def _by_token(origins: list[int], scores: list[float], visual: int) -> list[float | None]:
    found: list[float | None] = [None] * visual
    for token, score in zip(origins, scores, strict=True):
        if token >= 0:
            found[token] = score
    return found
