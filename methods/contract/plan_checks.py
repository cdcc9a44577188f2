"""A method's plan, asked for and held against the request once, before anything runs.

What does not fit would be measured all the same, or end somewhere in the engine: a layer that does
not exist is never reached, and rows read twice at one layer are the rows of one stage for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from .containment import contained, location, where_defined
from .errors import InputError, first_line
from .method import Method
from .plan import (
    Entering,
    Heads,
    Keys,
    Plan,
    Positions,
    Published,
    Rows,
    Site,
    Stage,
    Tower,
)
from .request import BudgetError, Encoder, Request, Size, UnsupportedError

MOST_FLOPS = 10**18  # of one decision: more is no count


class PlanError(InputError):
    """A plan that cannot be made, or that does not fit the request; names file and line."""


def plan_for(method: Method, request: Request) -> Plan:
    """The plan of `method` for `request`.

    Raises BudgetError where its knobs cannot be met, UnsupportedError where this model cannot run
    it, PlanError for a plan that cannot be made or
    that does not fit the request.
    """
    where = where_defined(type(method).plan)
    if type(method).plan is Method.plan:
        raise PlanError(f"it has no plan: define plan(self, request) -> Plan ({_home(method)})")
    try:
        with contained():
            plan = method.plan(request)
    except (BudgetError, UnsupportedError):
        raise
    except Exception as error:
        at = location(error, method) or f" ({where})"
        raise PlanError(f"planning failed: {first_line(error)}{at}") from error
    fault = _plan_fault(plan, method, request)
    if fault:
        raise PlanError(f"planning failed: {fault} ({where})")
    return plan


Sizes = tuple[Size, ...]


def resized_for(
    method: Method, sizes: Sizes, request_for: Callable[[Sizes], Request]
) -> tuple[Sizes, Request]:
    """The sizes that `method` has pictures of `sizes` resized to, all alike, and the request that
    it is then given; where there is no picture, nothing is resized.

    Raises BudgetError and UnsupportedError as its `resized` does, PlanError for a size that cannot
    be made.
    """
    whole = request_for(sizes)
    if whole.encoder is None or type(method).resized is Method.resized:
        return sizes, whole
    where, size = where_defined(type(method).resized), sizes[0]
    if len(set(sizes)) > 1:
        raise UnsupportedError("it has pictures of one size resized, and these are of several")

    def planned(wanted: Size) -> Request:
        return request_for((wanted,) * len(sizes))

    try:
        with contained():
            chosen = method.resized(size, planned)
    except (BudgetError, UnsupportedError):
        raise
    except Exception as error:
        at = location(error, method) or f" ({where})"
        raise PlanError(f"resizing failed: {first_line(error)}{at}") from error
    if fault := _size_fault(chosen, size):
        raise PlanError(f"resizing failed: {fault} ({where})")
    if chosen == size:
        return sizes, whole
    return (chosen,) * len(sizes), replace(planned(chosen), whole=whole.visual)


def _size_fault(chosen: Any, size: Size) -> str:
    """What is wrong with the size that a picture is resized to; "" if nothing is."""
    sides = chosen if isinstance(chosen, tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        return f"its size is {chosen!r}; known: (height, width), whole numbers from 1"
    if sides[0] * sides[1] > size[0] * size[1]:
        return f"it makes a picture of {size} larger: {chosen} (height, width)"
    return ""


def _home(method: Method) -> str:
    return where_defined(type(method))


def _plan_fault(plan: Any, method: Method, request: Request) -> str:
    """What is wrong with a plan; "" if nothing is."""
    if not isinstance(plan, Plan):
        forgotten = ": is a return forgotten?" if plan is None else ""
        return f"it is a {type(plan).__name__} and no Plan{forgotten}"
    if not isinstance(plan.note, str):
        return f"its note is {plan.note!r} and no text"
    if not isinstance(plan.stages, tuple) or not all(isinstance(s, Stage) for s in plan.stages):
        return f"{plan.stages!r} is no tuple of Stage: write Plan([Stage(...), ...])"
    if plan.stages and type(method).decide is Method.decide:
        return "it has stages, and the method no decide(self, view, stage)"
    for stage in plan.stages:
        if not isinstance(stage.site, get_args(Site)):
            return (
                f"its site is {stage.site!r}; known: {_listed(c.__name__ for c in get_args(Site))}"
            )
    return (
        _whole_fault(plan, request)
        or _order_fault(plan)
        or _tower_fault(plan, request.encoder)
        or _before_fault(plan, request)
        or _decoder_fault(plan, request)
    )


def _whole_fault(plan: Plan, request: Request) -> str:
    if plan.positions not in get_args(Positions):
        return f"positions {plan.positions!r}; known: {_listed(get_args(Positions))}"
    if not isinstance(plan.published, (Published, type(None))):
        return f"published is {plan.published!r} and no Published"
    if not isinstance(plan.proportional, bool):
        return f"proportional is {plan.proportional!r}; known: True, False"
    maps = plan.published.maps if plan.published else range(0)
    tower = plan.published.tower_maps if plan.published else range(0)
    depth = request.encoder.layers if request.encoder else 0
    for what, layers, most, part in (
        ("compressed", plan.compressed, request.layers, "decoder"),
        ("published.maps", maps, request.layers, "decoder"),
        ("published.tower_maps", tower, depth, "vision tower"),
    ):
        if not isinstance(layers, range):
            return f"{what} is {layers!r} and no range of layers"
        if layers and request.encoder is None and part == "vision tower":
            continue  # nothing of it runs
        if layers and not 0 <= min(layers) <= max(layers) < most:
            return f"{what} names {layers}, and the {part} has layers 0 to {most - 1}"
    return ""


def _tower_fault(plan: Plan, encoder: Encoder | None) -> str:
    """What is wrong with the stages of the tower."""
    stages = plan.tower
    if encoder is None:
        return "it has stages in the vision tower, and this request has none" if stages else ""
    left: int | None = encoder.patches
    for stage in stages:
        inside = isinstance(stage.site, Tower) and stage.site.inside
        where = f"{'inside' if inside else 'at'} layer {stage.layer} of the vision tower"
        fault = (
            _layer_fault(stage.layer, encoder.layers, "the vision tower")
            or _count_fault("tokens", stage.tokens, left, where)
            or _dropping_fault(stage, left, encoder)
            or _reads_fault(stage, ("cls", "all"), ("own",), where)
            or _stage_fault(stage, where)
        )
        if fault:
            return fault
        if stage.rows and stage.rows.query == "cls" and not encoder.has_cls:
            return f"it reads the rows of a class token {where}, which has none; known: all"
        left = stage.tokens
    return _reading_fault([s.layer for s in stages if s.reads], "the vision tower") or _stale_fault(
        plan.tower, encoder.patches, "the vision tower"
    )


def _dropping_fault(stage: Stage, left: int | None, encoder: Encoder) -> str:
    if stage.tokens == left:  # both may be None: it need not drop any
        return ""
    return undroppable(encoder, stage.layer)


def undroppable(encoder: Encoder, layer: int) -> str:
    """Why no token can be dropped at a layer of the tower; "" if any can."""
    if not encoder.mergeable:
        return (
            f"tokens cannot be dropped in this vision tower, for {encoder.held_by}: drop in the "
            "decoder"
        )
    last = encoder.last_layer
    if last is None or layer <= last:
        return ""
    if last < 0:
        return (
            "tokens cannot be dropped in this vision tower, for the projector is given the patch "
            "embedding itself (vision_feature_layer)"
        )
    return (
        f"it drops tokens at layer {layer} of the vision tower, and the projector is given "
        f"the output of layer {last} (vision_feature_layer): drop there or before"
    )


_UNREAD = (
    "it reads attention before the decoder, where none is: read it in the tower and lay it on the "
    "tokens (view.set_tag), as scored_in_tower plans it"
)


def _before_fault(plan: Plan, request: Request) -> str:
    """What is wrong with the stages before the decoder."""
    left = replace(plan, stages=plan.tower).entering(request)
    for stage in plan.projected:
        fault = (
            _count_fault("tokens", stage.tokens, left, "before the decoder")
            or (_UNREAD if stage.reads else "")
            or _stage_fault(stage, "before the decoder")
        )
        if fault:
            return fault
        left = stage.tokens
    return ""


def _decoder_fault(plan: Plan, request: Request) -> str:
    """What is wrong with the stages of the decoder."""
    left, last = plan.entering(request), request.layers - 1
    for stage in plan.decoder:
        entering = isinstance(stage.site, Entering)
        where = f"on {'entering' if entering else 'leaving'} layer {stage.layer}"
        sources = ("previous", "next") if entering else ("own", "next")
        fault = (
            _layer_fault(stage.layer, request.layers, "the decoder")
            or _count_fault("tokens", stage.tokens, left, where, least=0)
            or _reads_fault(stage, ("last", "last-visual", "text"), sources, where)
            or _stage_fault(stage, where)
        )
        if fault:
            return fault
        if left == 0:
            return f"it acts {where}, and no visual token is left by then"
        if stage.reads and not 0 <= stage.read_layer <= last:
            side = "before" if stage.read_layer < 0 else "after"
            return f"it reads attention {where}, and no layer comes {side} that"
        left = left if stage.tokens is None else stage.tokens
    return _reading_fault(
        [s.read_layer for s in plan.decoder if s.reads and not s.ahead], "the decoder"
    ) or _stale_fault(plan.decoder, plan.entering(request), "the decoder")


def _stale_fault(stages: Sequence[Stage], left: int | None, what: str) -> str:
    """What is wrong where a stage drops tokens between a layer's attention and the stage that reads
    it: what was read is of other tokens."""
    dropped: Stage | None = None
    for stage in stages:
        read = stage.reads and not stage.ahead
        if read and dropped is not None and _behind(dropped, stage):
            return (
                f"it reads the attention of layer {stage.read_layer} of {what} at {stage.site}, "
                f"and drops tokens before that, at {dropped.site}: read there as well"
            )
        if stage.tokens != left or stage.tokens is None:
            dropped = stage
        left = stage.tokens
    return ""


def _behind(dropping: Stage, reading: Stage) -> bool:
    """Whether a stage drops tokens behind the attention that another one reads."""
    if isinstance(dropping.site, Tower):
        return dropping.layer == reading.read_layer
    return dropping.first_layer_after > reading.read_layer


def _layer_fault(layer: Any, layers: int, what: str) -> str:
    if type(layer) is int and 0 <= layer < layers:
        return ""
    if type(layer) is not int:
        return f"it acts at layer {layer!r}, which is no whole number"
    return f"it acts at layer {layer!r}, and {what} has layers 0 to {layers - 1}"


def _count_fault(what: str, count: Any, left: int | None, where: str, *, least: int = 1) -> str:
    if count is None:
        return ""
    if type(count) is not int or count < least:
        return (
            f"{what} is {count!r} {where}; known: a whole number from {least}, or None where only "
            "the data tells"
        )
    if left is not None and count > left:
        return f"{what} is {count} {where}, and only {left} are left by then"
    return ""


def _reads_fault(
    stage: Stage, queries: tuple[str, ...], sources: tuple[str, ...], where: str
) -> str:
    """What is wrong with what a stage reads."""
    reads = stage.read_list
    if not all(isinstance(read, (Rows, Keys)) for read in reads):
        return f"reads {stage.reads!r} {where}; known: Rows(...), Keys(...), or a tuple of them"
    if len({type(read) for read in reads}) < len(reads):
        return f"it reads rows or keys twice {where}: once each"
    if len({read.of for read in reads}) > 1:
        return f"it reads of two layers {where}: of one a stage"
    if reads and stage.source not in sources:
        return f"it reads of the {stage.source!r} layer {where}; known: {_listed(sources)}"
    if stage.rows is None:
        return ""
    if stage.rows.query not in queries:
        return f"rows {stage.rows.query!r} {where}; known: {_listed(queries)}"
    if stage.rows.heads not in get_args(Heads):
        return f"heads {stage.rows.heads!r} {where}; known: {_listed(get_args(Heads))}"
    return ""


def _stage_fault(stage: Stage, where: str) -> str:
    """What is wrong with what a decision is said to cost."""
    launches = stage.launches
    if launches is not None and (type(launches) is not int or launches < 0):
        return f"launches is {launches!r} {where}; known: a whole number from 0, or None"
    return _flops_fault(stage.flops, where) or _flops_fault(stage.published_flops or 0, where)


def flops_fault(flops: Any) -> str:
    """What is wrong with FLOPs that a method declares; "" if nothing is."""
    if type(flops) is int and 0 <= flops <= MOST_FLOPS:
        return ""
    return f"its FLOPs are {flops!r}; known: a whole number from 0 to 10^18"


def _flops_fault(flops: Any, where: str) -> str:
    fault = flops_fault(flops)
    return f"{fault} ({where})" if fault else ""


def _order_fault(plan: Plan) -> str:
    places = [stage.order for stage in plan.stages if isinstance(stage.layer, int)]
    if places == sorted(places):
        return ""
    sites = _listed(stage.site for stage in plan.stages)
    return f"its stages are not in the order of the forward pass ({sites})"


def _reading_fault(layers: list[int], what: str) -> str:
    twice = next((layer for layer in layers if layers.count(layer) > 1), None)
    if twice is None:
        return ""
    return f"two stages read the attention of layer {twice} of {what}: one reading a layer"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
