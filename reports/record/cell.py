"""One row of a run: a method under one attention policy and runtime, and all its samples."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .base import Amount, Count, Integer, Struct, about
from .cost import Cost
from .gpu import Telemetry
from .kept import Kept

SpanKey = tuple[str, str, int | None]
"""Phase, part and index of a span, as a key."""


class Span(Struct):
    """A part of a request."""

    phase: Annotated[str, about("Phase of the request, such as `prefill`.")]
    part: Annotated[str, about("Part of the phase, such as `layer` or `select`.")]
    index: Annotated[Count | None, about("Layer or decode step, where the part has one.")] = None


class Sample(Struct):
    """One timed request of a cell."""

    round: Annotated[Count, about("Round that it belongs to.")]
    turn: Annotated[Count, about("Its turn among the cells of that round.")]
    process: Annotated[Count, about("Index of the process that took it, in Record.processes.")]
    began: Annotated[float, about("When it began: seconds since 1970.")]
    latency: Annotated[
        float, about("Seconds on the host's clock, the wait for the device included.", gt=0)
    ]
    parts: Annotated[list[float], about("Seconds of each part, in the order of Cell.parts.")]
    host: Annotated[
        dict[str, Amount],
        about(
            "Seconds until the host had queued each phase, by phase; on a GPU only, on a CPU it is "
            "the phase itself."
        ),
    ] = {}
    ranks: Annotated[
        list[Amount],
        about("Seconds on each rank of tensor parallelism; latency is that of the slowest one."),
    ] = []
    marks: Annotated[list[str], about("Why it is suspect; empty for a good one.")] = []
    telemetry: Annotated[Telemetry | None, about("What the GPU did meanwhile.")] = None


class DeviceMemory(Struct):
    """Peak memory of one request on one of the devices of a pipeline."""

    name: Annotated[str, about("The device, as torch numbers it: `cuda:1`.")]
    uuid: Annotated[str, about("UUID of the GPU.")] = ""
    allocator: Annotated[
        Integer | None, about("Peak bytes of torch's CUDA allocator there, as of the row.")
    ] = None
    device: Annotated[
        Count | None, about("Bytes in use on that GPU after the request, from NVML.")
    ] = None


class Memory(Struct):
    """Peak memory of one request; over a pipeline, the sums of its devices."""

    allocator: Annotated[
        Integer | None,
        about("Peak bytes of torch's CUDA allocator, less what other cells held before it."),
    ] = None
    allocator_by_phase: Annotated[dict[str, Count], about("The same peak, by phase.")] = {}
    resident: Annotated[
        Count | None, about("Peak resident bytes of the process; on a CPU only.")
    ] = None
    device: Annotated[
        Count | None, about("Bytes in use on the whole GPU after the request, from NVML.")
    ] = None
    reasons: Annotated[dict[str, str], about("Why a field is unknown, by name.")] = {}
    devices: Annotated[
        list[DeviceMemory], about("Each device of a pipeline; none where there is one.")
    ] = []


class RankFigures(Struct):
    """What one rank of tensor parallelism held."""

    kv_bytes_prefill: Annotated[
        list[Count], about("Bytes of its KV cache of each decoder layer after prefill.")
    ]
    kv_bytes_decode: Annotated[
        list[Count], about("Bytes of its KV cache of each decoder layer after decode.")
    ]
    peak_bytes: Annotated[
        Count | None, about("Its peak memory, as `memory.allocator` or, on a CPU, `resident`.")
    ] = None


class Activity(Struct):
    """What one part asked of torch and of the device, counted in a pass of its own. What a machine
    does not have is None."""

    phase: Annotated[str, about("Phase of the request.")]
    part: Annotated[str, about("Part of the phase.")]
    index: Annotated[Count | None, about("Layer or decode step, where the part has one.")]
    operators: Annotated[Count, about("Outermost operators that the host called.")]
    launches: Annotated[Count | None, about("Kernel and graph launches.")] = None
    kernels: Annotated[Count | None, about("Kernels that ran.")] = None
    syncs: Annotated[Count | None, about("Calls that made the host wait for the device.")] = None
    busy_seconds: Annotated[
        Amount | None, about("Time for which the device was running something.")
    ] = None


class Decision(Struct):
    """What one decision of the method took in the first request, beside its FLOPs."""

    site: Annotated[
        str,
        about("Where: `tower layer 22`, `before the decoder`, `entering layer 2` and the like."),
    ]
    operators: Annotated[Count, about("Operators that it called.")]
    scratch_bytes: Annotated[
        Count, about("The most bytes that tensors of its own held at once, whole batch.")
    ]


class Energy(Struct):
    """Energy of a request, from the GPU's energy counter."""

    joules: Annotated[Amount | None, about("Joules per request, of the whole GPU.")] = None
    requests: Annotated[Count, about("Requests that were run for it.")] = 0
    seconds: Annotated[Amount, about("How long these requests took.")] = 0.0
    reason: Annotated[str, about("Why joules are unknown.")] = ""


class NewLength(Struct):
    """Requests at a length that never ran before in their process, in a pass of their own."""

    more_tokens: Annotated[
        Count, about("Text tokens that the prompt was longer by: as few as make each length new.")
    ]
    seconds: Annotated[
        list[Amount],
        about(
            "Latency of the first one, and of those that followed at the same length.", min_length=2
        ),
    ]


class CallableInfo(Struct):
    """What ran, in which process, and what it said of itself."""

    reference: Annotated[
        str, about("What was named: `pkg.mod:function`, or a function of Python's.")
    ]
    process: Annotated[
        str, about("`own` where it ran in a process of its own, `shared` where in tpprof's.")
    ]
    kind: Annotated[str, about("`function`, or `model` where a transformers model generates.")] = ""
    python: Annotated[str, about("Version of the Python that ran it.")] = ""
    executable: Annotated[str, about("The name of that Python's executable.")] = ""
    packages: Annotated[dict[str, str], about("Versions of packages that it had loaded.")] = {}
    file: Annotated[
        str,
        about(
            "The file that it is from, as a path from the folder where tpprof ran, or from the "
            "home folder (`~/`); empty where there is none."
        ),
    ] = ""
    sha256: Annotated[str, about("SHA-256 of that file.")] = ""
    model_class: Annotated[str, about("Class of the model whose parts were watched.")] = ""
    parameters: Annotated[Count | None, about("Number of its parameters.")] = None
    layers: Annotated[Count | None, about("Number of its decoder layers.")] = None
    dtype: Annotated[str, about("Data type of its weights.")] = ""
    own_inputs: Annotated[bool, about("Whether it makes its own inputs.")] = False
    vision: Annotated[
        bool | None, about("Whether its vision tower was seen to run; null where it has none.")
    ] = None
    returned: Annotated[str, about("The form of what it returned.")] = ""
    kept_bytes: Annotated[
        Count, about("Bytes that each request keeps: a leak; 0 where none was seen.")
    ] = 0


class Cell(Struct):
    """One method under one attention policy and runtime, or a callable: its counts, cost and
    samples."""

    method: Annotated[str, about("The method as a spec string, such as `fastv:keep=320`.")]
    name: Annotated[
        str, about("The method's name; `vanilla` of the callable that others are compared with.")
    ]
    attention: Annotated[
        str, about("Attention policy: `rows`, `maps` or `published`; `own` of a callable.")
    ]
    reads_attention: Annotated[bool, about("Whether the method reads attention at all.")]
    runtime: Annotated[str, about("Runtime asked for: `eager`, `graph` or `compile`.")] = "eager"
    fallback: Annotated[
        str, about("Why it ran eager where another runtime was asked for; empty if it did not.")
    ] = ""
    eager_prefill: Annotated[
        str,
        about("Why vision and prefill alone ran eager under `graph`; empty if they did not."),
    ] = ""
    setups: Annotated[
        dict[str, Count],
        about("How often graphs were compiled, captured, recompiled or broken, by name."),
    ] = {}
    warmups: Annotated[
        list[Amount],
        about("Seconds of the untimed requests of the first process, the first call first."),
    ] = []
    visual_per_layer: Annotated[
        list[Count], about("Visual tokens that enter each decoder layer.")
    ] = []
    tokens_per_layer: Annotated[list[Count], about("Tokens that enter each decoder layer.")] = []
    kv_bytes_prefill: Annotated[
        list[Count],
        about("Bytes of the KV cache of each decoder layer after prefill, whole batch."),
    ] = []
    kv_bytes_decode: Annotated[
        list[Count],
        about("Bytes of the KV cache of each decoder layer after decode, whole batch."),
    ] = []
    ranks: Annotated[
        list[RankFigures],
        about(
            "What each rank of tensor parallelism held. KV caches of the row are those of all, its "
            "memory, FLOPs and counts those of the first."
        ),
    ] = []
    generated_tokens: Annotated[Count, about("Tokens that each sequence generates.")] = 0
    cost: Annotated[list[Cost], about("Analytic work, by part and operator class.")] = []
    solved: Annotated[
        dict[str, float], about("Knobs that were solved on the warm-up request, by name.")
    ] = {}
    memory: Annotated[Memory, about("Peak memory of a request.")] = msgspec.field(
        default_factory=Memory
    )
    activity: Annotated[list[Activity], about("What torch.profiler counted, by part.")] = []
    kernels: Annotated[
        list[str],
        about("Attention kernel of each decoder layer in prefill, as torch names it."),
    ] = []
    phase_kernels: Annotated[
        dict[str, list[str]],
        about(
            "Kinds of attention kernel by phase, the most frequent first: `flash`, `cuDNN`, "
            "`memory-efficient`, `math`, or `softmax map` where the whole map is computed."
        ),
    ] = {}
    counted_flops: Annotated[
        dict[str, Count],
        about(
            "FLOPs by phase as torch counts the operators that really ran, rotary tables and all; "
            "under eager alone."
        ),
    ] = {}
    table_flops: Annotated[
        dict[str, Count],
        about("Of counted_flops: rotary tables, which no formula holds, by phase."),
    ] = {}
    decision_flops: Annotated[
        Count | None, about("Of counted_flops: what the method's own decisions take.")
    ] = None
    uncounted_operators: Annotated[
        list[str],
        about("Operators that ran, may hold products, and of which torch counts no FLOPs."),
    ] = []
    decisions: Annotated[
        list[Decision], about("What each decision took, in the order of the forward pass.")
    ] = []
    host_waits: Annotated[
        dict[str, Count],
        about(
            "How often a request's decisions read a value of a tensor, for which the host waits, "
            "by file and line of the method."
        ),
    ] = {}
    new_length: Annotated[
        NewLength | None, about("The first request at a new length, and those that followed.")
    ] = None
    energy: Annotated[Energy, about("Energy of a request.")] = msgspec.field(default_factory=Energy)
    parts: Annotated[list[Span], about("Parts of a request, in the order of their ends.")] = []
    samples: Annotated[list[Sample], about("Every timed request.")] = []
    callable: Annotated[
        CallableInfo | None, about("What ran, where it is no method of the engine's.")
    ] = None
    note: Annotated[
        str,
        about("Where the method could not do what its knobs ask, and how it resizes the picture."),
    ] = ""
    missing: Annotated[
        dict[str, str], about("Why something could not be measured, by what it is.")
    ] = {}
    error: Annotated[str, about("Why the cell was not measured; empty if it was.")] = ""
    kept: Annotated[list[Kept], about("Which visual tokens stay, where that was asked for.")] = []
