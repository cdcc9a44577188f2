"""A mark for tests that need a torchvision which works: CI has none, `make test-oldest` has."""

from __future__ import annotations

import importlib

import pytest


def _works() -> bool:
    try:
        importlib.import_module("torchvision.transforms.v2")
    except Exception:  # one made for another torch raises more than ImportError
        return False
    return True


needs_torchvision = pytest.mark.skipif(not _works(), reason="needs torchvision")
