"""A method's plan, asked for and held against the request once, before anything runs.

What does not fit would be measured all the same, or end somewhere in the engine: a layer that does
not exist is never reached, and rows read twice at one layer are the rows of one stage for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from .containment import contained, location, where_defined
from .errors import InputError, first_line
from .method import Method
from .plan import EncoderRows, EncoderStage, Moment, Plan, Positions, Published, Rows, Stage
from .request import BudgetError, Encoder, Request

MOST_FLOPS = 10**18  # of one decision: more is no count


class PlanError(InputError):
    """A plan that cannot be made, or that does not fit the request; names file and line."""


def plan_for(method: Method, request: Request) -> Plan:
    """The plan of `method` for `request`.

    Raises BudgetError where its knobs cannot be met, PlanError for a plan that cannot be made or
    that does not fit the request.
    """
    where = where_defined(type(method).plan)
    if type(method).plan is Method.plan:
        raise PlanError(f"it has no plan: define plan(self, request) -> Plan ({_home(method)})")
    try:
        with contained():
            plan = method.plan(request)
    except BudgetError:
        raise
    except Exception as error:
        at = location(error, method) or f" ({where})"
        raise PlanError(f"planning failed: {first_line(error)}{at}") from error
    fault = _plan_fault(plan, method, request)
    if fault:
        raise PlanError(f"planning failed: {fault} ({where})")
    return plan


def _home(method: Method) -> str:
    return where_defined(type(method))


def _plan_fault(plan: Any, method: Method, request: Request) -> str:
    """What is wrong with a plan; "" if nothing is."""
    if not isinstance(plan, Plan):
        forgotten = ": is a return forgotten?" if plan is None else ""
        return f"it is a {type(plan).__name__} and no Plan{forgotten}"
    if not isinstance(plan.note, str):
        return f"its note is {plan.note!r} and no text"
    for stages, kind in ((plan.stages, Stage), (plan.encoder_stages, EncoderStage)):
        if not isinstance(stages, (tuple, list)) or not all(isinstance(s, kind) for s in stages):
            return f"{stages!r} is no tuple of {kind.__name__}"
    undecided = [
        name
        for name, stages in (("select", plan.stages), ("encode", plan.encoder_stages))
        if stages and getattr(type(method), name) is getattr(Method, name)
    ]
    if undecided:
        return f"it has stages, and the method no {undecided[0]}(self, view, stage)"
    return (
        _whole_fault(plan, request)
        or _encoder_fault(plan.encoder_stages, request.encoder)
        or _entry_fault(plan, request)
        or _stages_fault(plan, request)
    )


def _whole_fault(plan: Plan, request: Request) -> str:
    if plan.positions not in get_args(Positions):
        return f"positions {plan.positions!r}; known: {_listed(get_args(Positions))}"
    if not isinstance(plan.published, (Published, type(None))):
        return f"published is {plan.published!r} and no Published"
    maps = plan.published.maps if plan.published else range(0)
    for what, layers in (("compressed", plan.compressed), ("published.maps", maps)):
        if not isinstance(layers, range):
            return f"{what} is {layers!r} and no range of layers"
        if layers and not 0 <= min(layers) <= max(layers) < request.layers:
            return f"{what} names {layers}, and the decoder has layers 0 to {request.layers - 1}"
    return ""


def _encoder_fault(stages: Iterable[EncoderStage], encoder: Encoder | None) -> str:
    """What is wrong with the stages of the tower."""
    listed = list(stages)
    if encoder is None:
        return "it has stages in the vision tower, and this request has none" if listed else ""
    left: int | None = encoder.patches
    for stage in listed:
        where = f"at layer {stage.layer} of the vision tower"
        fault = (
            _layer_fault(stage.layer, encoder.layers, "the vision tower")
            or _count_fault("tokens", stage.tokens, left, where)
            or _dropping_fault(stage, left, encoder)
            or _rows_fault(stage.rows, get_args(EncoderRows), where)
            or _flops_fault(stage.flops, where)
        )
        if fault:
            return fault
        if stage.rows == "cls" and not encoder.has_cls:
            return f"it reads the rows of a class token {where}, which has none; known: all"
        left = stage.tokens
    return _order_fault([(s.layer, 0) for s in listed]) or _reading_fault(
        [s.layer for s in listed if s.rows], "the vision tower"
    )


def _dropping_fault(stage: EncoderStage, left: int | None, encoder: Encoder) -> str:
    if stage.tokens == left:  # both may be None: it need not drop any
        return ""
    return undroppable(encoder, stage.layer)


def undroppable(encoder: Encoder, layer: int) -> str:
    """Why no token can be dropped at a layer of the tower; "" if any can."""
    if not encoder.mergeable:
        what = (
            "the layout sets them on a grid, with newlines (--layout flat does not)"
            if encoder.has_cls
            else "its merger joins neighbours on their grid"
        )
        return f"tokens cannot be dropped in this vision tower, for {what}: drop in the decoder"
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


def _entry_fault(plan: Plan, request: Request) -> str:
    """What is wrong with the visual tokens that are said to enter the decoder."""
    encoder, wanted = request.encoder, request.visual
    if plan.encoder_stages and encoder is not None and encoder.mergeable:
        tokens = plan.encoder_stages[-1].tokens
        if any(stage.tokens is None for stage in plan.encoder_stages):
            if plan.visual is None:
                return ""
            return f"visual is {plan.visual!r}, and only the data tells what the tower leaves: None"
        wanted = (tokens or 0) * encoder.tiles
    if type(plan.visual) is int and plan.visual == wanted:
        return ""
    return f"visual is {plan.visual!r}, and {wanted} visual tokens enter the decoder"


def _stages_fault(plan: Plan, request: Request) -> str:
    """What is wrong with the stages of the decoder."""
    left = plan.visual
    for stage in plan.stages:
        if stage.moment not in get_args(Moment):
            return f"moment {stage.moment!r}; known: {_listed(get_args(Moment))}"
        where = f"on {stage.moment} layer {stage.layer}"
        fault = (
            _layer_fault(stage.layer, request.layers, "the decoder")
            or _count_fault("visual", stage.visual, left, where)
            or _rows_fault(stage.rows, get_args(Rows), where)
            or _flops_fault(stage.flops, where)
            or _flops_fault(stage.published_flops or 0, where)
        )
        if fault:
            return fault
        if stage.rows and stage.scored_layer < 0:
            return f"it reads attention {where}, and no layer comes before that"
        left = left if stage.visual is None else stage.visual
    places = [(stage.layer, int(stage.moment == "leaving")) for stage in plan.stages]
    return _order_fault(places) or _reading_fault(
        [stage.scored_layer for stage in plan.stages if stage.rows], "the decoder"
    )


def _layer_fault(layer: Any, layers: int, what: str) -> str:
    if type(layer) is int and 0 <= layer < layers:
        return ""
    return f"it acts at layer {layer!r}, and {what} has layers 0 to {layers - 1}"


def _count_fault(what: str, count: Any, left: int | None, where: str) -> str:
    if count is None:
        return ""
    if type(count) is not int or count < 1:
        return f"{what} is {count!r} {where}; known: a whole number from 1, or None"
    if left is not None and count > left:
        return f"{what} is {count} {where}, and only {left} are left by then"
    return ""


def _rows_fault(rows: Any, known: tuple[str, ...], where: str) -> str:
    if rows is None or rows in known:
        return ""
    return f"rows {rows!r} {where}; known: {_listed(known)}"


def flops_fault(flops: Any) -> str:
    """What is wrong with FLOPs that a method declares; "" if nothing is."""
    if type(flops) is int and 0 <= flops <= MOST_FLOPS:
        return ""
    return f"its FLOPs are {flops!r}; known: a whole number from 0 to 10^18"


def _flops_fault(flops: Any, where: str) -> str:
    fault = flops_fault(flops)
    return f"{fault} ({where})" if fault else ""


def _order_fault(places: list[tuple[int, int]]) -> str:
    if places == sorted(places):
        return ""
    return f"its stages are not in the order of the layers ({_listed(p[0] for p in places)})"


def _reading_fault(layers: list[int], what: str) -> str:
    twice = next((layer for layer in layers if layers.count(layer) > 1), None)
    if twice is None:
        return ""
    return f"two stages read the attention of layer {twice} of {what}: one reading a layer"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
