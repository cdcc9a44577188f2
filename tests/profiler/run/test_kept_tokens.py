"""What methods keep of the pictures of a prompt."""

from __future__ import annotations

from typing import Any

import pytest

from tpprof.profiler.run.kept_tokens import TokenViewer
from tpprof.reports.record.spec import Subject


@pytest.mark.parametrize(
    ("given", "pictures"),
    [
        ({"image_size": [(56, 84), (112, 112)]}, (6, 16)),
        ({"image_size": [(112, 112)]}, ()),
        ({"image_size": [(56, 84)], "frames": 4}, ()),
    ],
    ids=str,
)
def test_each_of_several_pictures_has_the_tokens_of_its_size(
    given: dict[str, Any], pictures: tuple[int, ...]
) -> None:
    """One of 28 x 28 pixels each; the frames of a video are no pictures."""
    methods = ["random:keep=1/2"]
    spec = Subject.of(methods=methods, model="tiny-qwen2.5-vl", attention=["rows"], **given)
    (seen,) = TokenViewer(spec, images=[None]).seen()
    assert seen.pictures == pictures
    assert not pictures or sum(pictures) == seen.kept[0].visual
