"""The parts of a transformers model, told by hooks: vision tower, decoder layers, head, cache.

Nothing of the model is called or changed: what is patched runs as it was patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .caches import layer_bytes

LapFunction = Callable[..., None]
LAYERS = ("layers", "h", "blocks")
"""What the list of decoder layers is called."""
VISION = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_encoder", "vit")
PROJECTORS = ("multi_modal_projector", "mm_projector", "projector", "connector", "merger", "mlp1")
HEADS = ("lm_head", "output", "embed_out")


@dataclass
class Parts:
    """What of a model can be told apart; None where there is no such module.

    layers: the decoder layers. decoder: the module that walks them. lacking: why there are none.
    """

    layers: list[Any] = field(default_factory=list)
    decoder: Any = None
    vision: Any = None
    projector: Any = None
    head: Any = None
    lacking: str = ""


@dataclass
class SeenParts:
    """What the hooks saw of one request.

    tokens: entering each decoder layer in prefill. kv_prefill, kv_decode: bytes of the cache of
    each layer after prefill and at the end. answers: how often the head ran: prefill, then decode
    steps. passes: how often the first layer ran. vision: whether the vision tower ran.
    """

    tokens: dict[int, int] = field(default_factory=dict)
    kv_prefill: list[int] = field(default_factory=list)
    kv_decode: list[int] = field(default_factory=list)
    answers: int = 0
    passes: int = 0
    vision: bool = False


def parts_of(model: Any) -> Parts:
    """Find the parts of a model by the names and classes that the field uses."""
    parts = Parts()
    named = list(model.named_modules())
    parts.vision = _first(named, VISION)
    inside = (
        {id(module) for module in parts.vision.modules()} if parts.vision is not None else set()
    )
    lists = [
        (path, module)
        for path, module in named
        if path.rpartition(".")[2] in LAYERS and _is_list(module) and id(module) not in inside
    ]
    if not lists:
        parts.lacking = f"no list of decoder layers ({', '.join(LAYERS)}) in {type(model).__name__}"
        return parts
    path, found = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    parts.layers, parts.decoder = list(found), model.get_submodule(path.rpartition(".")[0])
    parts.projector = _first([(p, m) for p, m in named if id(m) not in inside], PROJECTORS)
    get = getattr(model, "get_output_embeddings", None)
    parts.head = (get() if callable(get) else None) or _first(named, HEADS)
    return parts


def _first(named: list[tuple[str, Any]], names: tuple[str, ...]) -> Any:
    """The outermost module that is called one of these; the first of them that is there."""
    found = [
        (path.count("."), module) for path, module in named if path.rpartition(".")[2] in names
    ]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _is_list(module: Any) -> bool:
    return type(module).__name__ == "ModuleList" and len(module) > 0


@contextmanager
def watching(parts: Parts, lap: LapFunction, *, caches: bool = False) -> Iterator[Watch]:
    """Have `lap` told as parts of the requests inside end, as the engine tells of its own.

    caches: read the bytes of the cache too, which no timed request does.
    """
    watch = Watch(lap)
    hooks: list[tuple[Any, Any]] = [
        (parts.vision, watch.vision),
        (parts.projector, watch.projected),
        (parts.head, watch.answered),
        (parts.decoder if caches else None, watch.decoded),
        *((layer, watch.left(index)) for index, layer in enumerate(parts.layers)),
    ]
    handles = [module.register_forward_hook(hook) for module, hook in hooks if module is not None]
    for index, layer in enumerate(parts.layers):
        handles.append(layer.register_forward_pre_hook(watch.entering(index)))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


class Watch:
    """The hooks of one request. Everything up to the first answer of the head is prefill, all after
    it decode: `embed` ends where the first layer begins, `between` is what runs between layers."""

    def __init__(self, lap: LapFunction) -> None:
        self.lap, self.seen = lap, SeenParts()

    def end(self) -> None:
        """The request is over: what ran since the last part belongs to the one it followed."""
        if not self.seen.passes:
            self.lap("request", "call")
        elif self.seen.answers > 1:
            self.lap("decode", "end")
        else:
            self.lap("head", "head")

    def vision(self, *_: Any) -> None:
        self.seen.vision = True
        self.lap("vision", "tower")

    def projected(self, *_: Any) -> None:
        self.lap("vision", "projector")

    def entering(self, index: int) -> Callable[..., None]:
        def hook(module: Any, given: Any) -> None:
            if index == 0:
                self.seen.passes += 1
            if self.seen.answers:
                return
            tokens = _tokens_in(given[0]) if given else None
            if tokens is not None:
                self.seen.tokens[index] = tokens
            if index == 0:
                self.lap("embed", "embed")
            else:
                self.lap("prefill", "between", index)

        return hook

    def left(self, index: int) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            if self.seen.answers:
                return
            if index not in self.seen.tokens:  # entered by keyword: as many left as entered
                tokens = _tokens_in(output[0] if isinstance(output, (tuple, list)) else output)
                if tokens is not None:
                    self.seen.tokens[index] = tokens
            self.lap("prefill", "layer", index)

        return hook

    def answered(self, *_: Any) -> None:
        if not self.seen.passes:
            return
        self.seen.answers += 1
        if self.seen.answers == 1:
            self.lap("head", "head")
        else:
            self.lap("decode", "token", self.seen.answers - 2)

    def decoded(self, module: Any, given: Any, output: Any) -> None:
        found = layer_bytes(output)
        if found and not self.seen.answers:
            self.seen.kv_prefill = found
        self.seen.kv_decode = found or self.seen.kv_decode


def _tokens_in(states: Any) -> int | None:
    """Tokens of hidden states [B, S, d], or [S, d] where no batch is kept apart; None of others."""
    dimensions = len(getattr(states, "shape", ()))
    return int(states.shape[dimensions - 2]) if dimensions in (2, 3) else None
