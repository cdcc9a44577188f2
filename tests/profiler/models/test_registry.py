"""Architectures: found in their folder, brought by a plug-in, each name once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tpprof
from tpprof.methods import InputError, load_plugins
from tpprof.profiler.models import registry
from tpprof.profiler.models.architectures.llava import Llava

PLUGIN = '''
from tpprof.profiler.models.architectures.llava import Llava
from tpprof.profiler.models.registry import register_architecture


@register_architecture
class Mine(Llava):
    """One of somebody else's."""

    name = "mine"
    model_type = "my_llava"

    def shapes(self):
        return (self.shape("my-micro", *map(self.micro().__getattribute__, ("text", "vision"))),)
'''


@pytest.fixture
def registered() -> Iterator[None]:
    """What is registered in a test is gone behind it."""
    before = registry.known_architectures()
    yield
    for name in set(registry.known_architectures()) - set(before):
        del registry._registry[name]


@pytest.mark.usefixtures("registered")
def test_a_plugin_brings_an_architecture(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    assert load_plugins([str(tmp_path / "mine.py")]) == []
    model = tpprof.load("my-micro", device="cpu")
    assert model.shape.architecture.name == "mine"
    trace = tpprof.forward(model, tpprof.inputs(model), "fastv:keep=9")
    assert trace.visual_per_layer[-1] == 9
    assert registry.by_model_type()["my_llava"].name == "mine"


@pytest.mark.parametrize(("name", "model_type"), [("llava", "other"), ("other", "llava")])
def test_a_name_that_is_taken_is_refused(name: str, model_type: str) -> None:
    registry.known_architectures()
    kind = type("Other", (Llava,), {"name": name, "model_type": model_type})
    with pytest.raises(InputError, match=r"llava is already known"):
        registry.register_architecture(kind)


def test_every_name_of_a_shape_stands_once() -> None:
    names = [s.name for each in registry.known_architectures().values() for s in each.shapes()]
    assert len(names) == len(set(names)) == len(registry.known_shapes())
