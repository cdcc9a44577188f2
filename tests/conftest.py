"""Fixtures: a micro model of each architecture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from micro_models import MICRO, load
from warm_children import WarmChildren

from tpprof.profiler import subprocesses
from tpprof.profiler.models.model import Model

# Models this small gain nothing from a second thread, and lose much on a busy machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests run
# Calibrations: none of the user's, one for all tests of a run.
os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/tpprof-tests-{os.getppid()}"


WHOLE = ("llava", "llava-next", "qwen2-vl")
"""Architectures on which every method runs under every policy and runtime."""
SEVERAL = ("vanilla", "fastv", "sparsevlm", "mustdrop", "divprune", "visionzip")
"""Methods that run so on the others, which share all but their tower or decoder with these."""
FOR_SEVERAL = (
    "test_a_batch_of_equal",
    "test_analytic_flops",
    "test_bytes_and_launches",
    "test_decode_is_finite",
    "test_graphs_give",
    "test_policies",
    "test_text_and_order",
    "test_the_same_request",
)
"""Tests of all methods for which these do. What each plans is what runs, and keeping everything is
vanilla, on every architecture."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    config.hook.pytest_deselected(items=[item for item in items if _told_elsewhere(item)])
    items[:] = [item for item in items if not _told_elsewhere(item)]


def _told_elsewhere(item: pytest.Item) -> bool:
    """Whether a test of one method on one architecture is left to the others: the time of a run
    grows with each of both."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if params.get("model") in (None, *WHOLE):
        return False
    method = str(params.get("spec", "vanilla")).partition(":")[0]
    if params.get("policy", "maps") != "maps":
        return True
    return item.name.startswith(FOR_SEVERAL) and method not in SEVERAL


@pytest.fixture(scope="session", params=list(MICRO))
def model(request: pytest.FixtureRequest) -> Model:
    """A micro model of each architecture in turn; float32 on the CPU, random weights."""
    return load(request.param)


@pytest.fixture(scope="session")
def llava_next() -> Model:
    return load("llava-next")


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmChildren]:
    with WarmChildren(tmp_path_factory.mktemp("warm")) as server:
        yield server


@pytest.fixture(scope="module")
def warm_children(warm_server: WarmChildren) -> Iterator[None]:
    """The children of these tests do not import torch anew: see `warm_children.py`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocesses, "_run", warm_server.run)
        yield
