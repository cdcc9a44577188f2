"""A plug-in with methods that misbehave on purpose: --plugin tests/misbehaving_plugin.py."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from tpprof.methods import (
    Entering,
    Keep,
    Method,
    Plan,
    Request,
    Rows,
    Stage,
    View,
    knob,
    register,
)


@dataclass(frozen=True)
class Misbehaving(Method):
    """Keep every token, and do something else on the way."""

    def plan(self, request: Request) -> Plan:
        # Before the last layer: what runs next finds its caches cold, and there is little of it.
        return Plan([Stage(Entering(request.layers - 1), request.visual)])

    def decide(self, view: View, stage: Stage) -> Keep | None:
        self.misbehave()
        return None

    def misbehave(self) -> None:
        raise NotImplementedError


@register("burn")
@dataclass(frozen=True)
class Burn(Misbehaving):
    """Spin on the host for a given time."""

    seconds: float = knob(0.01, "seconds to burn")

    def misbehave(self) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            pass


@register("devour")
@dataclass(frozen=True)
class Devour(Misbehaving):
    """Allocate without bound."""

    def misbehave(self) -> None:
        held = []
        while True:
            held.append(torch.empty(256 * 2**20, dtype=torch.uint8))


@register("die")
@dataclass(frozen=True)
class Die(Misbehaving):
    """End the process by a signal, as a crash or the kernel would."""

    signal: int = knob(int(signal.SIGKILL), "number of the signal")
    rank: int = knob(-1, "the rank of tensor parallelism that ends; -1 for any process")

    def misbehave(self) -> None:
        if self.rank in (-1, int(os.environ.get("RANK", -1))):
            os.kill(os.getpid(), self.signal)


@dataclass(frozen=True)
class Everywhere(Method):
    """Keep every token, at a stage on entering every layer but the first."""

    reads: ClassVar[Rows | tuple[Rows, ...]] = ()

    def plan(self, request: Request) -> Plan:
        return Plan(
            [
                Stage(Entering(layer), request.visual, self.reads)
                for layer in range(1, request.layers)
            ]
        )

    def decide(self, view: View, stage: Stage) -> Keep | None:
        return None


@register("look")
@dataclass(frozen=True)
class Look(Everywhere):
    """Read attention before every layer: under `maps`, a full map in nearly every layer."""

    reads = Rows("last")


@register("wait")
@dataclass(frozen=True)
class Wait(Everywhere):
    """Make the host wait for the device before every layer."""

    def decide(self, view: View, stage: Stage) -> Keep | None:
        view.hidden.sum().item()
        return None
