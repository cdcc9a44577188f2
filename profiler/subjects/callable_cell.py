"""A callable as a cell: a function, or a transformers model that generates."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...methods.contract.errors import InputError
from ...reports.record import schema
from ...reports.record.cell import CallableInfo, SpanKey
from ..meters import torch_profile
from ..meters.clock import Timing, now
from ..meters.memory import Peak, device_memory
from ..subprocesses import temporary_folder
from ..workload import Preparation
from .bench_cell import BenchCell, Instruments
from .places import portable

FAULTS = {
    "inputs": "changes its inputs in place: each request is given what the one before left",
    "nan": "returns numbers that are none (nan)",
    "gradients": "keeps what gradients need: call it under torch.no_grad()",
}
"""What one request showed that makes its figures doubtful."""
PADDED = (
    "padding: attention_mask hides {:,} of the {:,} positions of its inputs, which are counted as "
    "tokens in all its figures"
)
"""What is said of inputs whose rows were filled up to one length."""
OWN_LENGTHS = "only the engine makes a request longer"
ALONE = {
    "claimed": "what FLOPs promise needs the engine's formulas, which know no callable",
}


class WorkerLike(Protocol):
    """See `probe.worker.Worker`: it may run here, or in another process."""

    def load(self, name: str, **given: Any) -> dict[str, Any]: ...
    def timed(self) -> dict[str, Any]: ...
    def counted(self) -> dict[str, Any]: ...
    def untimed(self) -> dict[str, Any]: ...
    def kept(self) -> dict[str, Any]: ...
    def peak(self) -> dict[str, Any]: ...
    def flops(self) -> dict[str, Any]: ...
    def trace(self, *, path: str) -> dict[str, Any]: ...
    def close(self) -> None: ...


class CallableError(InputError):
    """A callable that does not do the same in each request, or not what was asked for."""


@dataclass
class CallableCell(BenchCell):
    """A callable in the place of the engine.

    prepare_request: the request of the record, whose picture is processed on the clock in each
    round, here, before the callable is given its tensors; None where there is none, or where the
    callable makes its own. given: inputs that were given in its place, a mapping or a function that
    makes one. looks: of the first request, what each must repeat. starting: seconds that it took to
    load. used: whether its process has been in a round.
    """

    saved: schema.Cell
    worker: WorkerLike
    new_tokens: int
    whole: Preparation | None = None
    given: Any = None
    threads: int | None = None
    looks: dict[str, Any] | None = None
    starting: float = 0.0
    used: bool = False

    @property
    def in_own_process(self) -> bool:
        return self.info.process == "own"

    @property
    def info(self) -> CallableInfo:
        assert self.saved.callable is not None
        return self.saved.callable

    def prepare(self, tools: Instruments) -> None:
        """Load it, and look at one request in a pass of its own."""
        self.looks = None
        self.start(tools)
        self._count()

    def start(self, tools: Instruments) -> None:
        """Load it, in a fresh process where it has one of its own."""
        began, info = now(), self.info
        described = self.worker.load(
            self.saved.method,
            device=str(tools.device),
            new_tokens=self.new_tokens,
            inputs=self._inputs(),
            threads=self.threads,
        )
        if info.sha256 and info.sha256 != described["sha256"]:
            raise InputError(f"{described['file']} is another file than it was when the run began")
        self.describe(described)
        self.starting, self.used = now() - began, False

    def describe(self, found: Mapping[str, Any]) -> None:
        """Save what its process says of it."""
        for name, value in found.items():
            setattr(self.info, name, value)
        self.info.file = portable(found["file"])
        self.info.executable = os.path.basename(found["executable"])

    def warm(self, tools: Instruments) -> Timing:
        return self._timing(tools)[0]

    def sample(self, tools: Instruments) -> tuple[Timing, list[str]]:
        return self._timing(tools)

    def peak(self, tools: Instruments) -> Peak:
        self._look_at_leaks()
        found = self.worker.peak()
        reasons = {}
        if tools.device.type == "cuda":
            import torch

            used, reason = device_memory(
                f"GPU-{torch.cuda.get_device_properties(tools.device).uuid}"
            )
            reasons = {"resident": "measured on CPU only"} | ({"device": reason} if reason else {})
            return Peak(found["allocator"], found["by_phase"], None, used, reasons)
        reasons = {"allocator": "no CUDA device", "device": "no CUDA device"}
        if found["resident"] is None:
            reasons["resident"] = "this system does not let the peak be reset"
        return Peak(None, {}, found["resident"], None, reasons)

    def untimed(self) -> None:
        self._require_alike(self.worker.untimed()["looks"])

    def flops(self, tools: Instruments) -> None:
        counted = self.worker.flops()
        self.saved.counted_flops = counted["by_phase"]
        self.saved.table_flops = counted["tables"]
        self.saved.uncounted_operators = counted["uncounted"]

    def activity(self, tools: Instruments) -> None:
        with temporary_folder() as folder:
            path = folder / "trace.json"
            self.worker.trace(path=str(path))
            events = torch_profile.events_in(path)
        counted = torch_profile.analyse(events, on_gpu=tools.device.type == "cuda")
        self.saved.activity, self.saved.kernels, self.saved.phase_kernels = counted

    def lengths(self, tools: Instruments) -> None:
        self.saved.missing["lengths"] = OWN_LENGTHS

    def trace(self, tools: Instruments, path: Path) -> None:
        self.worker.trace(path=str(path))

    def where(self, error: BaseException) -> str:
        """Where tpprof lays the picture out as transformers does not, the way out."""
        if self.whole is None or self.whole.workload.layout != "flat":
            return ""
        told = "image features and image tokens do not match" in str(error).lower()
        return " (transformers itself knows --layout anyres alone)" if told else ""

    def close(self) -> None:
        self.worker.close()

    release = close  # its process ends with the run, or with its first failure

    @property
    def _own_inputs(self) -> bool:
        return self.info.own_inputs

    def _inputs(self) -> Any:
        """What it is called with: the tensors of the request as transformers' processors give
        them, or what was given in their place."""
        if self.given is not None or self.whole is None:
            return self.given
        return as_processed(self.whole())

    def _timing(self, tools: Instruments) -> tuple[Timing, list[str]]:
        """The request on the clock. Where it is the record's, its picture is processed first: here,
        as the engine does it, and its time is the first part."""
        before = None
        if self.whole is not None and self.given is None and not self._own_inputs:
            tools.watch.start()
            self.whole()
            tools.watch.lap("preprocess", "preprocess")
            before = tools.watch.stop()
        found = self.worker.timed()
        self._require_alike(found["looks"])
        self._note_habits(found)
        parts: dict[SpanKey, float] = dict(before.parts) if before else {}
        for phase, part, index, seconds in found["parts"]:
            parts[phase, part, index] = parts.get((phase, part, index), 0.0) + seconds
        host = {**(before.host if before else {}), **found["host"]}
        earlier = before.latency if before else 0.0
        latency = found["latency"] + earlier
        return Timing(latency, parts, host, found["began"] - earlier), found["marks"]

    def _require_alike(self, looks: dict[str, Any]) -> None:
        """Raises CallableError where a request does not do what the first one did."""
        if self.looks is None:
            self.looks = looks
        for what, first in self.looks.items():
            if looks[what] != first:
                one, other = _shortly(first), _shortly(looks[what])
                raise CallableError(
                    f"it does not do the same in each request: {what}: {one} at first and {other} "
                    "later"
                )

    def _count(self) -> None:
        """Save what one request showed, but for its times."""
        found, saved, info = self.worker.counted(), self.saved, self.info
        looks = found["looks"]
        self._require_alike(looks)
        generated = looks["tokens generated"]
        for fault in found["faults"]:
            self._note(FAULTS[fault])
        if found["padding"]:
            self._note(PADDED.format(*found["padding"]))
        info.dtype = looks["dtype of its weights"]
        info.returned = looks["what it returned"][:600]
        info.vision = found["vision"] if info.model_class else None
        if info.kind == "model" and generated not in (None, self.new_tokens):
            raise CallableError(f"it gave {generated} tokens, and {self.new_tokens} were asked for")
        saved.generated_tokens = generated or 0
        saved.tokens_per_layer = looks["tokens entering the decoder layers"]
        saved.kv_bytes_prefill, saved.kv_bytes_decode = found["kv_prefill"], found["kv_decode"]
        saved.missing["promised"] = ALONE["claimed"]
        if found["lacking"]:
            saved.missing["parts"] = found["lacking"]
        elif not found["kv_prefill"]:
            saved.missing["kv"] = "its decoder returns no past_key_values"
        self._save_visual()

    def _save_visual(self) -> None:
        """Tokens that enter a layer less the text of the request: where all the text stays, and
        the request is the record's, those are the visual ones."""
        tokens, saved = self.saved.tokens_per_layer, self.saved
        if not tokens:
            return
        if self.whole is None or self.given is not None or self._own_inputs:
            saved.missing["visual tokens"] = "its inputs are its own: which are text is not known"
            return
        text = self.whole.request.text
        if min(tokens) < text:
            saved.missing["visual tokens"] = "fewer tokens than the text has enter a layer"
            return
        saved.visual_per_layer = [count - text for count in tokens]

    def _look_at_leaks(self) -> None:
        self.info.kept_bytes = kept = max(self.worker.kept().values())
        if kept:
            self._note(f"leaks: each request keeps {kept / 1e6:,.3g} MB more")

    def _note_habits(self, found: Mapping[str, Any]) -> None:
        if found["printed"]:
            self._note("prints in each request, on the clock")
        if found["forked"]:
            self._note("forks processes in each request, which take time of their own")
        if found["threads"] > 0:
            self._note("leaves threads running, whose work is not on the clock")

    def _note(self, text: str) -> None:
        notes = [note for note in self.saved.note.split("; ") if note]
        begins = text.partition(":")[0]
        if not any(note.partition(":")[0] == begins for note in notes):
            self.saved.note = "; ".join([*notes, text])


def as_processed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a request as transformers' processors return them, on the host."""
    import torch

    found = dict(inputs)
    ids = found.get("input_ids")
    if ids is not None and "attention_mask" not in found:
        found["attention_mask"] = torch.ones_like(ids)
    return found


def _shortly(value: Any) -> str:
    """A value in few words; a list by its runs of equal numbers."""
    if isinstance(value, list):
        runs = [(key, len(list(same))) for key, same in itertools.groupby(value)]
        return ", ".join(f"{key} x{times}" for key, times in runs[:6]) or "none"
    return str(value)[:200]
