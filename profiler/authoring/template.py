"""The file that a new method begins as, and its test."""

from __future__ import annotations

import re

METHOD = '''"""{title}."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpprof.methods import Rows, Scorer, View, register

if TYPE_CHECKING:
    from torch import Tensor


@register("{name}")
@dataclass(frozen=True)
class {cls}(Scorer):
    """On entering one layer, keep the visual tokens that the last token attends to most.

    Paper: https://arxiv.org/abs/...
    """

    reads = Rows("last")

    def score(self, view: View) -> Tensor:
        return view.rows[:, 0]  # [batch, visual tokens]: the highest stay
'''

TEST = '''"""{title}: the contract of every method, and its own rule."""

from pathlib import Path

import tpprof
from tpprof.methods import load_plugins, parse
from tpprof.profiler.authoring.contract import findings
from tpprof.profiler.authoring.micro import SIZE, micro_model

load_plugins([str(Path(__file__).with_name("{module}.py"))])


def test_the_contract() -> None:
    assert [found for found in findings(parse("{name}")) if found.fault] == []


def test_it_keeps_as_many_as_it_is_told() -> None:  # leave out for a method without `keep`
    model = micro_model("llava")
    trace = tpprof.forward(model, tpprof.inputs(model, image_size=SIZE), "{name}:keep=9")
    assert trace.visual_per_layer[-1] == 9
'''


def files(name: str) -> dict[str, str]:
    """The names and texts of a new method's file and of its test."""
    module = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    given = {
        "name": name,
        "module": module,
        "title": name,
        "cls": "".join(part.capitalize() for part in module.split("_")),
    }
    return {f"{module}.py": METHOD.format(**given), f"test_{module}.py": TEST.format(**given)}
