"""`make figures`: the pictures of README and docs are drawn again over those that are there."""

from __future__ import annotations

from pathlib import Path

import picture
import pytest
from page_records import full

from tpprof.reports.record.files import save

DRAWN = ("compare.svg", "explain.svg", "layers.svg", "phases.svg", "promise.svg", "waterfall-0.svg")


def test_pictures_take_the_place_of_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(full(), tmp_path / "run.json")
    for name in DRAWN:
        (tmp_path / name).write_text("<svg>of another day</svg>")
    monkeypatch.setattr(
        "sys.argv", ["picture.py", str(tmp_path), "--record", str(tmp_path / "run.json")]
    )
    picture.main()
    for name in DRAWN:
        assert "of another day" not in (tmp_path / name).read_text(), name
    assert "fastest" in (tmp_path / "compare.svg").read_text()
