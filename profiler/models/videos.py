"""How a file becomes the frames of a request: evenly spaced over the video, as RGB pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...methods.contract.errors import first_line
from ...methods.contract.request import Size
from .pictures import SAMPLE_SIZE, PictureError, sample_picture

if TYPE_CHECKING:
    from PIL import Image

USUAL_FRAMES = 8
MOVED = 0.25
"""Of the sample's sides, how far the window that makes frames of it moves in all."""


def load_frames(file: str | None, count: int, size: Size | None) -> list[Image.Image]:
    """`count` frames, evenly spaced: of a video file, or of a window that moves over the sample
    photograph where none is given. size: height and width in pixels to which each is resized; None
    for their own. Raises PictureError for a file that holds no such frames."""
    if file is None:
        return _moving_sample(count, size or SAMPLE_SIZE)
    from PIL import Image

    found = _read(file, count)
    if size is None:
        return found
    return [frame.resize(size[::-1], Image.Resampling.BICUBIC) for frame in found]


def frame_size(file: str | None, size: Size | None, count: int) -> Size:
    """Height and width in pixels of the frames; only the head of a file is read. Raises
    PictureError for a file that is none, or whose head tells of fewer than `count` frames."""
    if file is None:
        return size or SAMPLE_SIZE
    with _opened(file) as video:
        stream = video.streams.video[0]
        if 0 < stream.frames < count:
            raise _too_few(file, stream.frames, count)
        return size or (int(stream.height), int(stream.width))


def frame_places(there: int, count: int) -> list[int]:
    """Which of the frames that are there are shown: the first, the last, and evenly between."""
    if count == 1:
        return [0]
    return [round(n * (there - 1) / (count - 1)) for n in range(count)]


def _read(file: str, count: int) -> list[Image.Image]:
    with _opened(file) as video:
        try:
            there = sum(1 for _ in video.decode(video=0))
            if there < count:
                raise _too_few(file, there, count)
            wanted, found = frame_places(there, count), list[Any]()
            video.seek(0)
            for number, frame in enumerate(video.decode(video=0)):
                if number == wanted[len(found)]:
                    found.append(frame.to_image().convert("RGB"))
                    if len(found) == count:
                        break
        except PictureError:
            raise
        except Exception as error:  # a decoder fails on damaged files in many ways
            raise _unreadable(file, error) from error
    if len(found) < count:
        raise PictureError(f"{file}: only {len(found)} of {count} frames can be read again")
    return found


def _opened(file: str) -> Any:
    """An open video file; raises PictureError."""
    try:
        import av
    except ImportError as error:
        raise PictureError(
            "reading a video needs PyAV: pip install 'tpprof[video]', or give --frames alone for "
            "frames of a moving sample"
        ) from error
    try:
        video = av.open(file)
    except Exception as error:
        raise _unreadable(file, error) from error
    if not video.streams.video:
        video.close()
        raise PictureError(f"{file}: it holds no video")
    return video


def _too_few(file: str, there: int, count: int) -> PictureError:
    return PictureError(f"{file}: it has {there} frames, and {count} are asked for")


def _unreadable(file: str, error: Exception) -> PictureError:
    return PictureError(f"{file}: not a video that can be read ({first_line(error)})")


def _moving_sample(count: int, size: Size) -> list[Image.Image]:
    """Frames of a window that moves from the upper left to the lower right of the sample."""
    from PIL import Image

    with Image.open(sample_picture()) as sample:
        whole = sample.convert("RGB")
    width, height = (round(side * (1 - MOVED)) for side in whole.size)
    frames = []
    for number in range(count):
        share = number / max(1, count - 1)
        left, top = round(share * (whole.width - width)), round(share * (whole.height - height))
        window = whole.crop((left, top, left + width, top + height))
        frames.append(window.resize(size[::-1], Image.Resampling.BICUBIC))
    return frames
