"""Where the weights of the model that sees are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpprof import compare
from tpprof.methods import InputError
from tpprof.profiler import seer


def test_without_seers_weights_it_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(seer, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match=r"weights of seer.*--model.*--annotations"):
        compare("fastv", accuracy=True, passes=False)
