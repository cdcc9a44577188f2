"""The pruned model by hand: transformers' own layers, eager attention, a sequence that shrinks.

`Truth` holds the unpruned model as transformers runs it, `walk` runs its decoder layers over
whatever a rule leaves, with an explicit causal mask, and the vision tower is read likewise.
All that comes from the package is the model, a request's inputs and, in `run`, what is checked.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from micro_models import SIZE
from torch import Tensor
from transformers import DynamicCache
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_window_index

import tpprof
from tpprof.methods.contract.policies import Policy
from tpprof.methods.engine.decoder import Inputs
from tpprof.methods.engine.run import Trace
from tpprof.profiler.models.model import Model


@contextlib.contextmanager
def eager(model: Model) -> Iterator[None]:
    """transformers' own eager attention, and no gradients."""
    model.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        model.module.set_attn_implementation(model.backend)


@contextlib.contextmanager
def maps_of(module: Any) -> Iterator[list[Tensor]]:
    """The attention map [B, queries, keys] of each call of `module`, mean over heads."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _args, out: found.append(out[1].mean(1)))
    try:
        yield found
    finally:
        hook.remove()


@dataclass
class Truth:
    """One request through the unpruned model: maps [S, S] and hidden states [S, d] by layer.

    hidden[l] enters layer l. start, stop: the visual tokens. logits: [vocabulary], last token.
    deep: [V, d], what is added to the visual tokens behind each of the first layers.
    """

    model: Model
    inputs: Inputs
    start: int
    stop: int
    maps: list[Tensor]
    hidden: list[Tensor]
    logits: Tensor
    deep: list[Tensor] = field(default_factory=list)

    @property
    def visual(self) -> int:
        return self.stop - self.start

    @property
    def embeddings(self) -> Tensor:
        return self.hidden[0]

    def entering(self, layer: int) -> Tensor:
        """Hidden states [V, d] of the visual tokens that enter `layer`."""
        return self.hidden[layer][self.start : self.stop]


def observe(model: Model, inputs: Inputs) -> Truth:
    """transformers' forward pass; it knows no flat LLaVA-NeXT, whose tiles are laid here."""
    visual = (inputs["input_ids"][0] == model.image_token).nonzero()[:, 0]
    start, stop = int(visual[0]), int(visual[-1]) + 1
    wanted = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    with eager(model), entering_states(model) as entering:
        if model.shape.architecture.name == "llava-next" and inputs.order is None:
            embedded = model.module.get_input_embeddings()(inputs["input_ids"])
            embedded[0, start:stop] = project(model, clip(model, inputs).hidden_states[-2])
            out = model.module.model.language_model(inputs_embeds=embedded, **wanted)
        else:
            out = model.module.model(**inputs, **wanted)
        logits = model.module.lm_head(out.last_hidden_state)[0, -1]
        deep = deep_features(model, inputs)
    maps = [attention[0].mean(0) for attention in out.attentions]
    hidden = [*entering, out.hidden_states[-1][0]]
    return Truth(model, inputs, start, stop, maps, hidden, logits, deep)


@contextlib.contextmanager
def entering_states(model: Model) -> Iterator[list[Tensor]]:
    """The states [S, d] that enter each decoder layer: what lies between two is not in either's
    output."""
    found: list[Tensor] = []

    def enter(_module: Any, args: Any, kwargs: Any) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in model.layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def deep_features(model: Model, inputs: Inputs) -> list[Tensor]:
    """DeepStack's features, as transformers' tower gives them; none where it has none."""
    tower = getattr(model.module.model, "visual", None)
    if not hasattr(tower, "deepstack_visual_indexes"):
        return []
    out = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"], return_dict=True)
    deep: list[Tensor] = out.deepstack_features
    return deep


@dataclass
class Choice:
    """What goes on after a layer: places among its visual tokens, and the states they take.

    merged: how many of the last ones stand for several tokens.
    """

    index: Tensor
    states: Tensor
    merged: int = 0


Decide = Callable[[Tensor, Tensor], Choice]
"""From attention [tokens after the image, n] and visual states [n, d] of a layer to a choice."""


@dataclass
class Walk:
    """By decoder layer: the visual tokens kept, the states [S, d] and cosines that enter it, and
    the tokens in its cache when decode begins. Logits of prefill and of one decode step."""

    kept: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    cosines: list[Tensor] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    step_logits: Tensor = field(default_factory=lambda: torch.empty(0))


def walk(
    truth: Truth,
    stages: Mapping[int, Decide],
    *,
    compact: bool,
    compressed: bool = False,
    embeddings: Tensor | None = None,
    kept: Tensor | None = None,
    places: Tensor | None = None,
) -> Walk:
    """Prefill and one decode step, `stages` deciding on leaving their layer.

    compact: positions count the current sequence, and decode goes on behind each layer's cache;
    M-RoPE always keeps its own. compressed: caches from the first to the last stage hold the
    survivors only. embeddings, kept: what enters layer 0, if not the model's own; places: the
    visual tokens whose positions it has with M-RoPE.
    """
    language, done = truth.model.module.model.language_model, Walk()
    cache: Any = DynamicCache()
    hidden = (truth.embeddings if embeddings is None else embeddings)[None]
    kept = torch.arange(truth.visual) if kept is None else kept
    after = truth.embeddings.shape[0] - truth.stop
    rope = truth.inputs.positions[..., : hidden.shape[1]]
    if places is not None and rope.dim() == 3:
        rope = truth.inputs.positions[..., _around(places, truth.start, truth.stop, after)]
    compact = compact and rope.dim() == 2
    survivors: dict[int, Tensor] = {}
    places = kept if places is None else places
    deep = [features[places] for features in truth.deep]
    with eager(truth.model):
        for number, layer in enumerate(language.layers):
            cos, sin = language.rotary_emb(hidden, rope)
            done.kept.append(kept)
            done.hidden.append(hidden[0])
            done.cosines.append(cos[0])
            hidden, attention = _layer(layer, hidden, (cos, sin), cache)
            start, stop = truth.start, hidden.shape[1] - after
            if number < len(deep):
                hidden[0, start:stop] += deep[number]
            if number not in stages:
                continue
            choice = stages[number](attention[stop:, start:stop], hidden[0, start:stop])
            place = _around(choice.index, start, stop, after)
            hidden = torch.cat([hidden[:, :start], choice.states[None], hidden[:, stop:]], 1)
            rope = rope[..., : len(place)] if compact else rope[..., place]
            deep = [features[choice.index] for features in deep]
            kept = kept[choice.index].clone()
            kept[len(kept) - choice.merged :] = -1
            survivors = {old: index[choice.index] for old, index in survivors.items()}
            survivors[number] = choice.index
        for number in range(min(stages), max(stages) + 1) if compressed else ():
            states = cache.layers[number]
            stop = states.keys.shape[2] - after
            place = _around(survivors[number], truth.start, stop, after)
            states.keys, states.values = states.keys[:, :, place], states.values[:, :, place]
        done.logits = _head(truth.model, hidden)
        done.cached = [states.keys.shape[2] for states in cache.layers]
        done.step_logits = _decode(truth, cache, done.logits.argmax()[None, None], compact)
    return done


def _layer(layer: Any, hidden: Tensor, rope: Any, cache: Any) -> tuple[Tensor, Tensor]:
    mask = torch.full((hidden.shape[1],) * 2, -math.inf).triu(1)[None, None]
    with maps_of(layer.self_attn) as found:
        hidden = layer(hidden, attention_mask=mask, past_key_values=cache, position_embeddings=rope)
    return hidden, found[0][0]


def _around(index: Tensor, start: int, stop: int, after: int) -> Tensor:
    return torch.cat([torch.arange(start), start + index, torch.arange(stop, stop + after)])


def _decode(truth: Truth, cache: Any, token: Tensor, compact: bool) -> Tensor:
    language = truth.model.module.model.language_model
    hidden = language.embed_tokens(token)
    for number, layer in enumerate(language.layers):
        behind = cache.layers[number].keys.shape[2]
        position = torch.tensor([[behind if compact else int(truth.inputs.positions.max()) + 1]])
        if truth.inputs.positions.dim() == 3:
            position = position.expand(3, 1, 1)
        rope = language.rotary_emb(hidden, position)
        hidden = layer(hidden, past_key_values=cache, position_embeddings=rope)
    return _head(truth.model, hidden)


def _head(model: Model, hidden: Tensor) -> Tensor:
    logits: Tensor = model.module.lm_head(model.module.model.language_model.norm(hidden))
    return logits[0, -1]


def clip(model: Model, inputs: Inputs) -> Any:
    """The CLIP tower's output; its hidden_states[l + 1] leave layer l, class token first."""
    pixels = inputs["pixel_values"]
    pixels = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
    tower = model.module.model.vision_tower
    return tower(pixels, output_hidden_states=True, output_attentions=True)


def project(model: Model, hidden: Tensor) -> Tensor:
    """Tower states [tiles, 1 + n, width] as decoder inputs [tiles * n, d]."""
    projected: Tensor = model.module.model.multi_modal_projector(hidden[:, 1:])
    return projected.flatten(0, 1)


def largest_share(rows: Tensor) -> Tensor:
    """Flags of the 8 % of each of `rows` [tiles, n] that are largest."""
    count = math.ceil(0.08 * rows.shape[1])
    return torch.zeros_like(rows, dtype=torch.bool).scatter(1, rows.topk(count).indices, True)


def class_keys(truth: Truth) -> Tensor:
    """Flags [V]: the tokens that the class token of their tile attends to most, at the end."""
    with eager(truth.model):
        out = clip(truth.model, truth.inputs)
        patches = project(truth.model, out.hidden_states[-2])
    flags = largest_share(out.attentions[-1].mean(1)[:, 0, 1:]).flatten()
    if truth.inputs.order is None:
        return flags
    newline = truth.model.module.model.image_newline.detach()[None]
    sources = torch.cat([patches, newline])  # the packed layout is known by its features
    places = torch.cdist(truth.entering(0), sources).argmin(1)
    return torch.cat([flags, torch.tensor([False])])[places]


def patch_keys(truth: Truth) -> Tensor:
    """Flags [V] on Qwen's towers: without a class token, what all patches attend to, by merged
    token."""
    last = len(truth.model.module.model.visual.blocks) - 1
    return largest_share(tiles_at(truth, last).attention.view(1, truth.visual, -1).sum(2))[0]


def joined_keys(truth: Truth) -> Tensor:
    """Flags [V] on InternVL: what the class token of its tile attends to, by visual token."""
    last = truth.inputs.request.tower.layers - 1
    return largest_share(shuffled(truth, tiles_at(truth, last).attention)).flatten()


def merge_windows(truth: Truth, count: Callable[[Tensor], int]) -> tuple[Tensor, Tensor]:
    """The tower's states after layer 0, and their places, with the most alike 3x3 windows merged.

    count: windows to merge in every tile, from the similarities [tiles, windows]. Returns states
    [tiles, 1 + m, width], class tokens first, and places [tiles, m] in the tile, -1 for merged.
    """
    with eager(truth.model):
        leaving = clip(truth.model, truth.inputs).hidden_states[1]
    side = math.isqrt(leaving.shape[1] - 1)
    grid = torch.arange(side * side).view(side, side)
    found = torch.stack([w.flatten() for rows in grid.split(3) for w in rows.split(3, 1)])
    inside = leaving[:, 1:][:, found]  # [tiles, windows, 9, width]
    unit = inside / inside.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(-1, -2)
    likeness = (cosines.sum((-1, -2)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / 72
    merged = count(likeness)
    states, places = [], []
    for tile, order in enumerate(likeness.argsort(1, descending=True)[:, :merged]):
        rest = torch.tensor([place for place in range(side * side) if place not in found[order]])
        means = inside[tile, order].mean(1)
        states.append(torch.cat([leaving[tile, :1], means, leaving[tile, 1 + rest]]))
        places.append(torch.cat([torch.full((merged,), -1), rest]))
    return torch.stack(states), torch.stack(places)


def through_tower(truth: Truth, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Visual tokens [n, d] and key flags [n], from CLIP states that left the tower's layer 0."""
    layers = truth.model.module.model.vision_tower.encoder.layers
    with eager(truth.model), maps_of(layers[-1].self_attn) as found:
        for layer in layers[1:-1]:
            hidden = layer(hidden, attention_mask=None)
        layers[-1](hidden, attention_mask=None)
        tokens = project(truth.model, hidden)
    return tokens, largest_share(found[0][:, 0, 1:]).flatten()


@dataclass
class Run:
    """A trace, with the states [S, d] and cosines that entered each decoder layer in prefill."""

    trace: Trace
    hidden: list[Tensor]
    cosines: list[Tensor]


def run(truth: Truth, spec: str, policy: Policy = "rows") -> Run:
    hidden: dict[int, Tensor] = {}
    cosines: dict[int, Tensor] = {}

    def enter(number: int, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if states.shape[1] > 1:  # prefill; a layer that is read ahead is called again
            hidden[number], cosines[number] = states[0], kwargs["position_embeddings"][0][0]

    hooks = [
        layer.register_forward_pre_hook(
            lambda _module, args, kwargs, number=number: enter(number, args, kwargs),
            with_kwargs=True,
        )
        for number, layer in enumerate(truth.model.layers)
    ]
    try:
        trace = tpprof.forward(truth.model, truth.inputs, spec, attention=policy)
    finally:
        for hook in hooks:
            hook.remove()
    return Run(trace, list(hidden.values()), list(cosines.values()))


@dataclass
class Tiles:
    """What a layer of the vision tower shows, tile by tile, patches in the order of the tower.

    attention, scores: [tiles, n], of the class token or, without one, the mean over all patches,
    behind the softmax and before it. keys: [tiles, n, head_dim], mean over heads. cls, patches:
    states [tiles, 0 or 1, width] and [tiles, n, width] that leave the layer.
    """

    attention: Tensor
    scores: Tensor
    keys: Tensor
    cls: Tensor
    patches: Tensor


ATTENTION = {"internvl": "attention", "qwen2-vl": "attn"}
"""What a block of the vision tower calls its attention, where not `self_attn`."""


def blocks_of(model: Model) -> Any:
    """The blocks of the vision tower."""
    core = model.module.model
    if hasattr(core, "visual"):
        return core.visual.blocks
    tower = core.vision_tower.encoder
    return tower.layer if hasattr(tower, "layer") else tower.layers


def tiles_at(truth: Truth, layer: int) -> Tiles:
    """The tower's layer `layer`, worked out from what transformers' own projections give."""
    name, qwen = truth.model.shape.architecture.name, truth.model.shape.vision.dynamic
    module, tower = truth.model.module.model, truth.inputs.request.tower
    block = blocks_of(truth.model)[layer]
    attend, seen = getattr(block, "attn" if qwen else ATTENTION.get(name, "self_attn")), {}

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if not qwen:
            seen["q"], seen["k"] = attend.q_proj(states), attend.k_proj(states)
            return
        query, key, _ = attend.qkv(states).view(len(states), 3, attend.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
        seen["q"], seen["k"] = query.flatten(1)[None], key.flatten(1)[None]

    def behind(_module: Any, _args: Any, output: Any) -> None:
        seen["out"] = output if output.dim() == 3 else output[None]

    hooks = [
        attend.register_forward_pre_hook(before, with_kwargs=True),
        block.register_forward_hook(behind),
    ]
    with eager(truth.model):
        if qwen:
            module.visual(truth.inputs["pixel_values"], grid_thw=truth.inputs["image_grid_thw"])
        else:
            clip(truth.model, truth.inputs)
    for hook in hooks:
        hook.remove()
    if getattr(module.visual if qwen else module, "window_size", 0):
        seen = {name: states[:, in_raster_order(truth)] for name, states in seen.items()}
    query, key = (seen[n].unflatten(-1, (attend.num_heads, -1)).transpose(1, 2) for n in "qk")
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [tiles, heads, n, n]
    weights = scores.softmax(-1)
    if qwen and layer not in getattr(module.visual, "fullatt_block_indexes", [layer]):
        weights = scores.masked_fill(apart(truth), -math.inf).softmax(-1)
    own = int(tower.has_cls)
    asking = slice(0, 1) if own else slice(None)  # the class token, or all
    return Tiles(
        weights.mean(1)[:, asking, own:].mean(1),
        scores.mean(1)[:, asking, own:].mean(1),
        key.mean(1)[:, own:],
        seen["out"][:, :own],
        seen["out"][:, own:],
    )


def in_raster_order(truth: Truth) -> Tensor:
    """Where each patch [n], in the order of the visual tokens, stands in a windowed tower."""
    visual = truth.model.module.model.visual
    given = visual.spatial_merge_size, visual.window_size, visual.patch_size
    units, _ = get_vision_window_index(truth.inputs["image_grid_thw"], *given)
    inside = torch.arange(visual.spatial_merge_unit)
    return (units.argsort()[:, None] * len(inside) + inside).flatten()


def apart(truth: Truth) -> Tensor:
    """Flags [n, n], in the order of the visual tokens: which patches share no window."""
    visual = truth.model.module.model.visual
    _, rows, columns = truth.inputs["image_grid_thw"][0].tolist()
    merge, side = visual.spatial_merge_size, visual.window_size // visual.patch_size
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    window = row // side * columns + column // side
    blocks = window.view(rows // merge, merge, columns // merge, merge).transpose(1, 2).flatten()
    return blocks[:, None] != blocks


def shuffled(truth: Truth, values: Tensor) -> Tensor:
    """Values [tiles, n, ...] of InternVL's patches as those of its visual tokens [tiles, n / 4,
    ...], by the shuffling of transformers."""
    wide = values.unsqueeze(-1) if values.dim() == 2 else values
    side = math.isqrt(wide.shape[1])
    grid = wide.reshape(len(wide), side, side, -1)
    joined = truth.model.module.model.pixel_shuffle(grid, scale_factor=0.5).flatten(1, 2)
    mean: Tensor = joined.unflatten(-1, (4, -1)).mean(2)
    return mean.squeeze(-1) if values.dim() == 2 else mean


def feature_layer(truth: Truth) -> int:
    """The layer of the vision tower whose output is projected."""
    return truth.inputs.request.tower.feature_layer


def laid_out(truth: Truth, values: Tensor, newline: float) -> Tensor:
    """Values [tiles, n, ...] of patches as those of the visual tokens [V, ...]: means of the
    patches that the model joins, and under anyres what a newline has between them; of
    LLaVA-OneVision as transformers packs them."""
    if truth.model.shape.architecture.name == "llava-onevision":
        wide = values.unsqueeze(-1) if values.dim() == 2 else values
        packed, _ = truth.model.module.model.pack_image_features(
            [wide],
            truth.inputs["image_sizes"],
            image_newline=wide.new_full(wide.shape[-1:], newline),
            vision_aspect_ratio=truth.model.module.config.vision_aspect_ratio,
        )
        joined: Tensor = packed[0]
        return joined.squeeze(-1) if values.dim() == 2 else joined
    if truth.model.shape.architecture.name == "internvl":
        return shuffled(truth, values).flatten(0, 1)
    flat = values.flatten(0, 1)
    merger = truth.inputs.request.merger
    flat = flat.view(-1, merger, *flat.shape[1:]).mean(1) if merger > 1 else flat
    if truth.inputs.order is None:
        return flat
    return torch.cat([flat, torch.full_like(flat[:1], newline)])[truth.inputs.order]


def keys_of(truth: Truth, layer: int) -> Tensor:
    """The keys [S, heads of keys * head_dim] of a decoder layer, rotated, as its cache has them."""
    language, cache = truth.model.module.model.language_model, DynamicCache()
    hidden = truth.hidden[layer][None]
    with eager(truth.model):
        rope = language.rotary_emb(hidden, truth.inputs.positions)
        _layer(language.layers[layer], hidden, rope, cache)
    return cache.layers[layer].keys[0].transpose(0, 1).flatten(1)


def normed(truth: Truth, layer: int) -> Tensor:
    """Hidden states [S, d] entering a decoder layer, as the norm before the head makes them."""
    with torch.no_grad():
        states: Tensor = truth.model.module.model.language_model.norm(truth.hidden[layer])
    return states


def before_decoder(truth: Truth, index: Tensor) -> Walk:
    """The model when only the visual tokens at `index` enter the decoder, numbered anew but with
    M-RoPE."""
    after = truth.embeddings.shape[0] - truth.stop
    place, positions = _around(index, truth.start, truth.stop, after), truth.inputs.positions
    inputs = copy.copy(truth.inputs)
    inputs.positions = positions[..., place if positions.dim() == 3 else slice(len(place))]
    stop, entering = truth.start + len(index), [truth.embeddings[place]]
    pruned = replace(truth, inputs=inputs, stop=stop, hidden=entering)
    return walk(pruned, {}, compact=True, kept=index)


@functools.cache
def observed(model: Model, layout: str) -> Truth:
    """The unpruned model on a picture, once for all tests of a process."""
    return observe(model, tpprof.inputs(model, image_size=SIZE, layout=layout))
