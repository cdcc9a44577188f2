"""Fixtures: a micro model of each architecture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
