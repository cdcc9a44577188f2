"""Videos from files, and files that are none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from micro_models import SHAPES

from tpprof.profiler.cost.planning import Planner
from tpprof.profiler.models.pictures import PictureError
from tpprof.profiler.models.videos import frame_places, frame_size, load_frames
from tpprof.reports.record.spec import Workload

av = pytest.importorskip("av")
FRAMES, SIZE = 10, (48, 64)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten frames, each lighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=Fraction(5))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(FRAMES):
            shown = np.full((*SIZE, 3), 20 * number + 20, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        made.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize(
    ("there", "count", "places"),
    [(10, 1, [0]), (10, 2, [0, 9]), (10, 4, [0, 3, 6, 9]), (3, 3, [0, 1, 2])],
)
def test_frames_are_spread_from_the_first_to_the_last(
    there: int, count: int, places: list[int]
) -> None:
    assert frame_places(there, count) == places


def test_frames_of_a_file_are_those_of_their_places(video: str) -> None:
    found = load_frames(video, 4, None)
    assert [frame.size for frame in found] == [SIZE[::-1]] * 4
    light = [float(np.asarray(frame).mean()) for frame in found]
    assert light == pytest.approx([20, 80, 140, 200], abs=4)


def test_frames_are_resized(video: str) -> None:
    assert {frame.size for frame in load_frames(video, 3, (28, 56))} == {(56, 28)}
    assert frame_size(video, None, 3) == SIZE
    assert frame_size(video, (28, 56), 3) == (28, 56)


def test_more_frames_than_there_are_is_one_line_in_a_plan_too(video: str) -> None:
    told = "it has 10 frames, and 11 are asked for"
    with pytest.raises(PictureError, match=told):
        load_frames(video, 11, None)
    workload = Workload(video=video, frames=11)
    with pytest.raises(PictureError, match=told):
        Planner(SHAPES["qwen3-vl-8b"].name, workload)


@pytest.mark.parametrize("cut", ["missing", "empty", "text", "truncated"])
def test_what_is_no_video_is_one_line(video: str, tmp_path: Path, cut: str) -> None:
    path = tmp_path / "given.mp4"
    whole = Path(video).read_bytes()
    given = {"empty": b"", "text": b"no video", "truncated": whole[: len(whole) // 3]}
    if cut in given:
        path.write_bytes(given[cut])
    with pytest.raises(PictureError, match=r"not a video that can be read|it has \d+ frames") as no:
        load_frames(str(path), 8, None)
    assert "\n" not in str(no.value)
