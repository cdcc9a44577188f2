"""The record of a run: every sample, and all that is needed to read them. JSON, versioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from .accuracy import Accuracy
from .base import Amount, Count, Positive, Struct, about
from .cell import Activity, Cell, Decision, Energy, Memory, NewLength, RankFigures, Sample, Span
from .cost import Bandwidth, Cost, Peaks
from .environment import Environment
from .gpu import GpuDescription, GpuProcess, GpuState, Telemetry
from .kept import Picture
from .spec import RunSpec

if TYPE_CHECKING:
    import pandas

__all__ = [
    "SCHEMA",
    "Activity",
    "Bandwidth",
    "Cell",
    "Cost",
    "Decision",
    "Energy",
    "Environment",
    "GpuDescription",
    "GpuProcess",
    "GpuState",
    "Memory",
    "ModelInfo",
    "NewLength",
    "Peaks",
    "Preprocessing",
    "Process",
    "RankFigures",
    "Record",
    "RequestInfo",
    "Sample",
    "Span",
    "Telemetry",
]

SCHEMA = 4


class ModelInfo(Struct):
    """The model."""

    name: Annotated[str, about("Name, or folder.")]
    architecture: Annotated[str, about("Architecture, such as `llava-next`.")]
    source: Annotated[str, about("Whence the weights are.")]
    reason: Annotated[str, about("Why this model was taken.")]
    parameters: Annotated[
        Count | None, about("Number of parameters; null where callables alone are measured.")
    ]
    layers: Annotated[
        Count | None, about("Number of decoder layers; null where callables alone are measured.")
    ]
    dtype: Annotated[str, about("Data type of the weights, as torch names it.")]
    backend: Annotated[str, about("Attention kernel asked for, as `--backend` names it.")]
    positions: Annotated[
        Count | None, about("Positions that it is made for, as its config says.")
    ] = None
    pipeline: Annotated[
        list[PipelinePart], about("The devices that it lies on, in turn; none where it is one.")
    ] = []


class PipelinePart(Struct):
    """What one device of a pipeline holds."""

    device: Annotated[str, about("The device, as torch numbers it: `cuda:1`.")]
    layers: Annotated[Count, about("How many decoder layers lie on it, one after another.")]
    parameters: Annotated[
        Count,
        about(
            "Number of parameters on it: the first holds the vision tower, the projector and the "
            "embedding too, the last one the last norm and, unless it is tied, the head."
        ),
    ]


class Preprocessing(Struct):
    """How pictures become what the vision tower is given."""

    device: Annotated[str, about("Where: `host`, or the device of the model as torch names it.")]
    processor: Annotated[str, about("Image processor, a class of transformers.")]
    backend: Annotated[str, about("Its back end, as transformers names it: `pil`, `torchvision`.")]
    apart: Annotated[
        Amount | None,
        about("Grey levels, of 255, by which a pixel differs at most from what the host makes."),
    ] = None


class RequestInfo(Struct):
    """The request: tokens of each sequence of the batch; null where callables make their own."""

    before: Annotated[Count | None, about("Text tokens before the picture.")]
    visual: Annotated[Count | None, about("Visual tokens.")]
    after: Annotated[Count | None, about("Text tokens after the last picture.")]
    batch: Annotated[Positive, about("Sequences in the batch.")]
    new_tokens: Annotated[Positive, about("Tokens to generate, the first one from prefill.")]
    tiles: Annotated[Count | None, about("Tiles that the vision tower sees, if there is one.")]
    patches: Annotated[Count | None, about("Patches of a tile.")]
    positions: Annotated[
        Count | None, about("Positions that the sequence takes, with the new tokens fed back.")
    ] = None
    between: Annotated[Count, about("Text tokens between pictures, or frames.")] = 0
    pictures: Annotated[Count, about("Pictures in the prompt; 0 of a video.")] = 1
    frames: Annotated[Count, about("Frames of the video in the prompt.")] = 0
    picture: Annotated[
        list[list[Count]] | None,
        about("Height and width in pixels of each picture as the image processor is given it."),
    ] = None
    notes: Annotated[list[str], about("What was done to the file on the way.")] = []
    preprocessing: Annotated[
        Preprocessing | None, about("How the picture is processed, in each request.")
    ] = None


class Process(Struct):
    """A process that measured."""

    pid: Annotated[Count, about("Its PID.")]
    started: Annotated[str, about("When it began to measure, ISO 8601.")]
    cell: Annotated[
        Count | None, about("The only cell that it measured, where cells are isolated.")
    ] = None
    round: Annotated[
        Count | None, about("The only round that it measured, where cells are isolated.")
    ] = None
    seconds: Annotated[
        Amount | None, about("How long it ran; unknown while it runs, and if it was killed.")
    ] = None
    load_before: Annotated[
        Amount | None, about("Mean number of runnable tasks over the minute before it began.")
    ] = None
    load_after: Annotated[
        Amount | None, about("Mean number of runnable tasks over its last minute.")
    ] = None
    gpu_before: Annotated[GpuState | None, about("The GPU as it began.")] = None
    gpu_after: Annotated[GpuState | None, about("The GPU as it ended.")] = None
    outcome: Annotated[str, about("How it ended, if not well.")] = ""


class Record(Struct):
    """A run. Seconds, bytes and FLOPs throughout."""

    schema: Annotated[int, about("Version of this format.", extra_json_schema={"const": SCHEMA})]
    tpprof: Annotated[str, about("Version of tpprof that measured.")]
    created: Annotated[str, about("When the run began, ISO 8601.")]
    spec: Annotated[RunSpec, about("What was asked for.")]
    command: Annotated[str, about("The command line; empty from Python.")]
    complete: Annotated[bool, about("Whether the run came to its end.")]
    environment: Annotated[Environment, about("Where it ran.")]
    model: Annotated[ModelInfo, about("The model.")]
    request: Annotated[RequestInfo, about("The request.")]
    cells: Annotated[list[Cell], about("The rows: vanilla first.")]
    processes: Annotated[list[Process], about("The processes that measured.")] = []
    text_only: Annotated[
        list[Cost],
        about(
            "Analytic work of vanilla's request if its decoder saw no visual token: what pruning "
            "in the decoder leaves at least."
        ),
    ] = []
    peaks: Annotated[
        Peaks | None, about("What the device can do at best, if it was calibrated.")
    ] = None
    picture: Annotated[
        Picture | None, about("A small copy of the picture, where kept tokens were asked for.")
    ] = None

    accuracy: Annotated[
        Accuracy | None, about("What was asked and answered, where accuracy was asked for.")
    ] = None

    def frame(self) -> pandas.DataFrame:
        """One row for every sample, phase and method; see frame.frame."""
        from .frame import frame

        return frame(self)
