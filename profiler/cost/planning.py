"""Planning without running: what methods cost on any shape and device. No torch here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from ...methods import Method, format_spec, has_budget, parse, with_keep
from ...methods.contract.errors import InputError
from ...methods.contract.plan import Plan
from ...methods.contract.plan_checks import PlanError, plan_for, resized_for
from ...methods.contract.policies import Policy, check_policy
from ...methods.contract.request import BudgetError, Request, UnsupportedError
from ...methods.contract.spec import require_once
from ...methods.engine.ledger import Ledger, planned
from ...reports import units
from ...reports.analysis import promise, roofline
from ...reports.analysis.caveats import past_positions
from ...reports.record.schema import Peaks
from ...reports.record.spec import Workload
from .. import cost
from ..models.geometry import positions
from ..models.pictures import load_picture
from ..models.registry import known_shapes
from ..models.shapes import Shape
from ..models.weights.pipeline import DeviceShare, parts_of
from ..workload import by_size, request_sizes, resizing
from . import memory
from .conventions import Convention, Counting

ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
SWEEP = tuple(Fraction(1, n) for n in (1, 2, 3, 4, 6, 9, 18, 36))


@dataclass(frozen=True)
class Wanted:
    """Which budget is looked for: the largest that gives a speed-up, or whose peak fits so many
    bytes; neither of them asks for the whole curve."""

    speedup: float | None = None
    memory_bytes: float | None = None

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"a speed-up of {self.speedup:g}x"
        return f"a peak within {units.gibibytes(self.memory_bytes)}"

    @property
    def name(self) -> str:
        return "peak memory" if self.speedup is None else "the speed-up"

    def figure(self, row: Planned) -> float | None:
        return row.peak_bytes if self.speedup is None else row.speedup

    def met(self, row: Planned) -> bool:
        """Whether `row` gives what is wanted; what is not known does not."""
        figure = self.figure(row)
        if figure is None:
            return False
        if self.speedup is not None:
            return figure >= self.speedup
        return figure <= (self.memory_bytes or 0.0)


@dataclass(frozen=True)
class Planned:
    """What a method will cost; None where only the data tells, or where no device was named.

    visual_per_layer: visual tokens entering each decoder layer. flops: whole request;
    prefill_flops: its decoder layers in prefill. kv_bytes: after prefill. weight_bytes, peak_bytes:
    see `cost.memory`. floor_seconds: the least time that the device allows, and floor_speedup:
    vanilla's over it. touched_flops, touched_floor: the share of vanilla's FLOPs, and of its floor,
    in the phases and decoder layers in which the method has less work. largest_batch: that fits the
    memory of the device. counted: by convention. launches: operators that decisions call; None
    where one does not say. met: whether a budget gives what was wanted. All for the whole batch.
    """

    method: str
    visual_per_layer: list[int] | None = None
    flops: int | None = None
    flops_share: float | None = None
    prefill_flops: int | None = None
    prefill_flops_share: float | None = None
    kv_bytes: int | None = None
    weight_bytes: int | None = None
    peak_bytes: int | None = None
    floor_seconds: float | None = None
    floor_speedup: float | None = None
    touched_flops: float | None = None
    touched_floor: float | None = None
    largest_batch: int | None = None
    launches: int | None = None
    counted: dict[str, float] = field(default_factory=dict)
    note: str = ""
    met: bool = True

    @property
    def visual_last(self) -> int | None:
        return self.visual_per_layer[-1] if self.visual_per_layer else None

    @property
    def visual_mean(self) -> float | None:
        counts = self.visual_per_layer
        return sum(counts) / len(counts) if counts else None

    @property
    def speedup(self) -> float | None:
        """That of the floor if a device was named, else that of the FLOPs."""
        if self.floor_speedup is not None or self.flops_share is None:
            return self.floor_speedup
        return 1 / self.flops_share


@dataclass(frozen=True)
class _Cost:
    items: list[cost.Item]
    floor: float | None

    @property
    def flops(self) -> int:
        return cost.total(self.items).flops

    @property
    def prefill(self) -> int:
        return cost.total(self.items, "prefill").flops


class Planner:
    """Plans methods on one shape (a name, a checkpoint folder or a hub id) and request, perhaps for
    a device. tensor_parallel: over how many ranks, of one of which all figures are then. pipeline:
    over how many devices, of the fullest of which weights and peak memory are then. Raises
    InputError for what does not exist."""

    def __init__(
        self,
        model: str,
        workload: Workload,
        *,
        attention: str = "rows",
        dtype: str = "bfloat16",
        peaks: Peaks | None = None,
        conventions: Sequence[Convention] = (),
        tensor_parallel: int = 1,
        pipeline: int = 1,
    ) -> None:
        if dtype not in ITEMSIZES:
            raise InputError(f"unknown dtype {dtype!r}; known: {', '.join(ITEMSIZES)}")
        if "," in attention:
            raise InputError(f"--attention {attention}: a plan takes one policy, rows or another")
        self.policy: Policy = check_policy(attention)
        whole = _shape(model, pictures=workload.visual_tokens is None)
        self.shape, self.ranks = whole.share(tensor_parallel), tensor_parallel
        self.parts: Sequence[DeviceShare | None] = (
            parts_of(whole, pipeline) if pipeline > 1 else [None]
        )
        self.sizes = request_sizes(workload)
        self.by_size = functools.cache(by_size(whole, workload))
        self.request = self.by_size(self.sizes)
        files = workload.pictures if workload.image else ()
        self.pictures = [load_picture(*given) for given in files]
        self.dtype, self.itemsize = dtype, ITEMSIZES[dtype]
        self.peaks, self.conventions = peaks, conventions
        bare = parse("vanilla").plan(self.request)
        ledger = planned(bare, self.request, self.policy)
        self.vanilla = self._cost(self.request, bare, ledger)

    @property
    def warnings(self) -> list[str]:
        """What a run of this request would say above its table."""
        notes = [note for picture in self.pictures for note in picture.notes]
        shared = (
            f"of one of {self.ranks} ranks: equal shares of heads and FFN, the vision tower, the "
            "embedding and the head whole; what ranks tell each other takes time on top."
        )
        used, most = positions(self.shape, self.request), self.shape.text.positions
        laid = (
            f"over a pipeline of {len(self.parts)} devices: weights, peak memory and largest batch "
            "are those of the fullest one, the rest is of all; what one hands the next takes time "
            "on top."
        )
        told = [f"picture {note}." for note in notes]
        told += [shared] * (self.ranks > 1) + [laid] * (len(self.parts) > 1)
        return told + past_positions(used, most, self.shape.name)

    @property
    def bound(self) -> float | None:
        """Vanilla's floor over that of a request whose decoder sees no visual token; None where no
        device is named."""
        bare = self._floor(cost.text_only(self.shape, self.request, self.itemsize))
        return self.vanilla.floor / bare if self.vanilla.floor and bare else None

    def table(
        self, specs: Sequence[str], keep: str | None, wanted: Wanted | None = None
    ) -> list[Planned]:
        """Vanilla, then each method of `specs`: with its own budget or `keep`, or as `wanted`. One
        that cannot be planned is a row with the reason, which is raised where none can. Raises
        InputError for a method that is listed twice."""
        require_once([parse(spec, keep) for spec in specs])
        rows, refused = [self.plan(parse("vanilla"))], []
        others = [spec for spec in specs if spec != "vanilla"]
        for spec in others:
            try:
                rows += self._rows(spec, keep, wanted)
            except (BudgetError, PlanError, UnsupportedError) as error:
                refused.append(error)
                name = format_spec(parse(spec, keep))
                note = str(error).removeprefix(f"{name}: ")
                rows.append(Planned(name, note=note, met=False))
        if refused and len(refused) == len(others):
            raise refused[0]
        return rows

    def _rows(self, spec: str, keep: str | None, wanted: Wanted | None) -> list[Planned]:
        method = parse(spec)
        if wanted is None:
            return [self.plan(parse(spec, keep))]
        if not has_budget(method):
            note = "it has no budget: its row is as it stands"
            return [replace(self.plan(method), note=note, met=wanted == Wanted())]
        if keep or method != with_keep(method, _default_keep(method)):
            raise InputError(
                f"{format_spec(method)}: the budget is looked for; leave keep out, or leave "
                "--sweep, --for-speedup and --for-memory out"
            )
        return self.sweep(method) if wanted == Wanted() else [self.solve(method, wanted)]

    def plan(self, method: Method) -> Planned:
        """What `method` costs.

        Raises BudgetError where its budget cannot be met, PlanError where its plan does not fit.
        """
        name = format_spec(method)
        try:
            sizes, request = resized_for(method, self.sizes, self.by_size)
            schedule = plan_for(method, request)
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error
        try:
            ledger = planned(schedule, request, self.policy)
        except ValueError as error:
            return Planned(name, note=str(error))
        own, full = self._cost(request, schedule, ledger), self.vanilla
        flops, prefill = own.flops, own.prefill
        changed = resizing(self.sizes[0], sizes[0]) if request.whole is not None else ""
        touched_flops, touched_floor = self._touched(own)
        counting = Counting(self.shape, request, ledger, own.items, _budget(method, request))
        return Planned(
            method=name,
            visual_per_layer=ledger.visual,
            flops=flops,
            flops_share=flops / full.flops,
            prefill_flops=prefill,
            prefill_flops_share=prefill / full.prefill,
            kv_bytes=sum(cost.kv_bytes(self.shape, request, ledger.cached, self.itemsize)),
            weight_bytes=max(memory.weight_bytes(self.shape, self.itemsize, p) for p in self.parts),
            peak_bytes=self._peak(request, schedule, ledger),
            floor_seconds=own.floor,
            floor_speedup=full.floor / own.floor if full.floor and own.floor else None,
            touched_flops=touched_flops,
            touched_floor=touched_floor,
            largest_batch=self._largest_batch(request, schedule, ledger),
            launches=self._launches(schedule),
            counted={c.name: c.count(counting) for c in self.conventions},
            note="; ".join(filter(None, (changed, schedule.note))),
        )

    def sweep(self, method: Method) -> list[Planned]:
        """`method` over budgets from all visual tokens down; of those it cannot meet, a note."""
        found: list[Planned] = []
        for share in SWEEP:
            keep = f"{share.numerator}/{share.denominator}"
            try:
                row = self.plan(with_keep(method, keep))
            except BudgetError as error:
                name = _with_knob(format_spec(method), f"keep={keep}")
                told = format_spec(with_keep(method, keep))  # without a default budget
                found.append(Planned(name, note=str(error).removeprefix(f"{told}: ")))
                continue
            spec = row.method if "keep=" in row.method else _with_knob(row.method, f"keep={keep}")
            found.append(replace(row, method=spec))
        return found

    def solve(self, method: Method, wanted: Wanted) -> Planned:
        """`method` with the largest budget that gives what is wanted; a note where none does."""
        low, high = 0, self.request.visual  # low is known to do, or too small for the method
        if self._does(method, high, wanted):
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._does(method, middle, wanted) else (low, middle)
        try:
            best = self.plan(with_keep(method, str(max(low, 1))))
        except BudgetError as error:
            note = f"no budget gives {wanted}: {error}"
            return Planned(format_spec(method), note=note, met=False)
        if wanted.met(best):
            return best
        if wanted.figure(best) is None:
            unknown = best.note or f"{wanted.name} is not known under {self.policy}"
            return replace(best, note=f"{wanted} cannot be planned: {unknown}", met=False)
        note = f"no budget gives {wanted}: this is the nearest. {best.note}".rstrip()
        return replace(best, note=note, met=False)

    def _does(self, method: Method, keep: int, wanted: Wanted) -> bool:
        try:
            return wanted.met(self.plan(with_keep(method, str(keep))))
        except BudgetError:  # too small for this method: a larger one may do
            return True

    def _cost(self, request: Request, schedule: Plan, ledger: Ledger) -> _Cost:
        items = cost.items(self.shape, request, schedule, ledger, self.itemsize)
        return _Cost(items, self._floor(items))

    def _floor(self, items: list[cost.Item]) -> float | None:
        if self.peaks is None:
            return None
        return roofline.request_seconds(self.peaks, cost.as_record(items), self.dtype, eager=True)

    def _touched(self, own: _Cost) -> tuple[float, float | None]:
        """The shares of vanilla's FLOPs, and of its floor, that pruning can touch."""
        full = cost.as_record(self.vanilla.items)
        touched = promise.lessened(cost.as_record(own.items), full)
        places = [touched.get(promise.place_of_work(work), 0.0) for work in full]
        flops = sum(work.flops * share for work, share in zip(full, places, strict=True))
        if self.peaks is None:
            return flops / self.vanilla.flops, None
        floors = roofline.part_seconds(self.peaks, full, self.dtype)
        inside = sum(
            least * touched.get(promise.place_of(span), 0.0) for span, least in floors.items()
        )
        whole = sum(floors.values())
        return flops / self.vanilla.flops, inside / whole if whole else None

    def _peak(self, request: Request, schedule: Plan, ledger: Ledger) -> int | None:
        if self.policy == "published" and schedule.stages:
            return None  # released code holds whatever it likes while it decides
        return max(
            memory.peak_bytes(self.shape, request, ledger, self.itemsize, part)
            for part in self.parts
        )

    def _launches(self, schedule: Plan) -> int | None:
        """Operators that decisions call; None where one does not say."""
        counts = [stage.launches for stage in schedule.stages]
        if self.policy == "published" and counts:
            return None
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _largest_batch(self, request: Request, schedule: Plan, ledger: Ledger) -> int | None:
        if self.peaks is None or self.peaks.memory_bytes is None:
            return None
        if self._peak(request, schedule, ledger) is None:
            return None
        there = self.peaks.memory_bytes
        return min(
            memory.largest_batch(self.shape, request, ledger, self.itemsize, there, part)
            for part in self.parts
        )


def _budget(method: Method, request: Request) -> int | None:
    """The nominal one, in visual tokens; None for a method without."""
    keep = getattr(method, "keep", None)
    return request.budget(keep, request.whole) if isinstance(keep, (int, Fraction)) else None


def _default_keep(method: Method) -> str:
    default = next(knob.default for knob in method.knobs() if knob.name == "keep")
    return f"{default.numerator}/{default.denominator}" if isinstance(default, Fraction) else "1"


def _with_knob(spec: str, knob: str) -> str:
    return f"{spec},{knob}" if ":" in spec else f"{spec}:{knob}"


def _shape(model: str, *, pictures: bool) -> Shape:
    if known := known_shapes().get(model):
        return known
    from ..models.load import shape_of

    return shape_of(model, pictures=pictures)
