"""Fixtures: a micro model of each architecture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch
from micro_models import MICRO, THOROUGH, load
from warm_children import WarmChildren

from tpprof.profiler import subprocesses
from tpprof.profiler.models.model import Model

# Models this small gain nothing from a second thread, and lose much on a busy machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests run
# Calibrations: none of the user's, one for all tests of a run.
os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/tpprof-tests-{os.getppid()}"


FIRST = {"policy": "rows", "dtype": "float32", "batch": 1}
"""What is run on architectures that are not thorough, of what a test is parametrized by."""
SAMPLE = ("vanilla", "fastv", "pooling", "sparsevlm", "divprune", "visionzip", "vscan", "tome")
"""The methods with which they show what follows from the engine alone."""
OF_THE_ENGINE = (
    "test_graphs_give_what_eager_requests_give",
    "test_the_same_request_gives_the_same_tokens",
    "test_text_and_order_survive",
    "test_decode_is_finite_and_caches_grow_by_one_token_a_step",
    "test_policies_select_the_same_tokens",
)
OF_MODELS = {"methods", "cost", "models", "authoring"}
"""Folders whose tests are of each architecture; those of others are of what is measured of any."""


def _left_out(item: pytest.Item) -> bool:
    """Whether a test shows on this architecture what it shows on a thorough one."""
    given = getattr(item, "callspec", None)
    if given is None or given.params.get("model", THOROUGH[0]) in THOROUGH:
        return False
    if getattr(item, "originalname", "") in OF_THE_ENGINE:
        return given.params["spec"] not in SAMPLE
    own = [mark.args[0] for mark in item.iter_markers("parametrize")]
    if any("model" in names for names in own):  # a test that names its models runs on them
        return False
    if not OF_MODELS & set(item.path.parts):
        return True
    return any(given.params.get(name, first) != first for name, first in FIRST.items())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each method meets each architecture once; ALL_PAIRS=1 runs every test on all of them."""
    if not os.environ.get("ALL_PAIRS"):
        config.hook.pytest_deselected(items=[item for item in items if _left_out(item)])
        items[:] = [item for item in items if not _left_out(item)]
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
