"""What no memory holds is refused before it is asked for, with what it would take."""

from __future__ import annotations

from typing import Any

import pytest

import tpprof
from tpprof.methods import InputError
from tpprof.profiler.models.model import Model
from tpprof.profiler.run import comparison, memory_limit
from tpprof.reports.record.spec import Workload


@pytest.mark.parametrize(
    "options",
    [
        {"visual_tokens": 16_000_000},
        {"visual_tokens": 16, "text_tokens": (5, 16_000_000)},
        {"visual_tokens": 64, "batch_size": 65_536, "text_tokens": (5, 4_000)},
        {"image_size": (13_000, 13_000), "batch_size": 60_000},
        {"visual_tokens": 64, "batch_size": 8_192, "new_tokens": 1_000_000},
    ],
    ids=str,
)
def test_what_no_memory_holds_is_refused_first(
    options: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "_memory", lambda device: 16 * 2**30)
    monkeypatch.setattr(comparison, "Preparation", lambda *_: pytest.fail("it was prepared"))
    with pytest.raises(InputError, match=r"needs about [\d,]+ GiB.* has 16 GiB") as refused:
        tpprof.compare(["fastv"], model=model, rounds=1, **options)
    assert "\n" not in str(refused.value)


def test_what_fits_is_not(model: Model) -> None:
    memory_limit.require_room(model, Workload(visual_tokens=64, text_tokens=(3, 4)))
