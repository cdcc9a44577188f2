"""A method on a small model, as its contract is held."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from ...methods import Method
from ...methods.contract.plan import Plan
from ...methods.contract.plan_checks import plan_for
from ...methods.contract.policies import Policy
from ...methods.engine.decoder import Inputs
from ...methods.engine.run import Trace
from ...reports.record.spec import Workload
from ..api import forward
from ..models.model import Model
from ..workload import Preparation

NEW_TOKENS = 3


class BrokenError(Exception):
    """What of the contract does not hold, in plain words."""


@dataclass(frozen=True)
class Case:
    """A method on a model, and a request for it."""

    method: Method
    model: Model
    workload: Workload

    def shown(self, frames: int | None) -> Case:
        """The case with so many frames of a video; with a picture, where there are none."""
        return replace(self, workload=msgspec.structs.replace(self.workload, frames=frames))

    def inputs(self, batch: int = 1) -> Inputs:
        """A request as the method is given it."""
        whole = Preparation(self.model, msgspec.structs.replace(self.workload, batch_size=batch))
        return whole.resized(self.method)()

    def plan(self, inputs: Inputs) -> Plan:
        return plan_for(self.method, inputs.request)

    def run(
        self, inputs: Inputs, method: Method | str | None = None, policy: Policy = "rows"
    ) -> Trace:
        chosen = self.method if method is None else method
        return forward(self.model, inputs, chosen, attention=policy, new_tokens=NEW_TOKENS)
