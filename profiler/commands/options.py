"""The options of the command, and how their texts are read."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ..cost.planning import Wanted
    from ..workload import Workload


class Format(str, Enum):
    """How a record is printed; `long` is CSV, one row for every sample, phase and method."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    long = "long"


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Shape (see `tpprof models`), checkpoint folder or hub id."),
]
KeepOption = Annotated[
    str | None, typer.Option(help="Budget of all methods: a count (320) or a share (0.25, 1/9).")
]
Methods = Annotated[
    list[str], typer.Argument(help="Spec strings: fastv, sparsevlm:version=1.5, fastv:keep=320")
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", help="How to print the result; long: CSV, sample by sample."),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write the report as one HTML file too.")
]
FiguresOption = Annotated[
    Path | None, typer.Option("--figures", help="Write its figures as PNG and PDF here too.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", help="Trace one request of the first pruned method (.json, .json.gz)."),
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option("--image", help="Picture, once or more; default: matplotlib's sample."),
]
TokensOption = Annotated[
    bool, typer.Option("--tokens", help="Keep which tokens stay, and a small copy of the picture.")
]
ImageOption = Annotated[str | None, typer.Option(help="Picture; default: matplotlib's sample.")]
SizeOption = Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels the picture is resized to.")]
PromptOption = Annotated[str | None, typer.Option(help="Question (needs a tokenizer).")]
TextOption = Annotated[
    str | None, typer.Option(help="BEFORE,AFTER: random text tokens instead of a prompt.")
]
LayoutOption = Annotated[str, typer.Option(help="LLaVA-NeXT: flat (2880) or anyres (newlines).")]
VisualOption = Annotated[
    int | None, typer.Option(help="Synthetic visual tokens, skipping the vision tower.")
]
NewTokensOption = Annotated[int, typer.Option(help="Tokens to generate, greedy, exactly.")]
BatchOption = Annotated[int, typer.Option(help="Equal prompts in one batch.")]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", help="A .py file or module that registers methods.")
]
PhasesOption = Annotated[
    bool, typer.Option("--phases", help="Add a row for every phase: launches, waits, busy time.")
]
EqualizeOption = Annotated[
    str | None, typer.Option(help="layer-mean: solve all budgets for one mean over layers.")
]
PoliciesOption = Annotated[str, typer.Option(help="Comma-separated: rows, maps, published.")]
WorkloadOption = Annotated[str, typer.Option(help="Workload: pope.")]
RuntimeOption = Annotated[
    str, typer.Option(help="Comma-separated: eager, graph (decode), compile (layers).")
]
TargetOption = Annotated[
    str, typer.Option(help="Stop when every 95 % interval is within +- this (0.02, 2%).")
]
MinRoundsOption = Annotated[int, typer.Option(help="Rounds at least (6 give an interval).")]
MaxRoundsOption = Annotated[int, typer.Option(help="Rounds at most.")]
MaxSecondsOption = Annotated[float, typer.Option(help="Time for the rounds.")]
RoundsOption = Annotated[
    int | None, typer.Option(help="Just so many rounds, however long they take.")
]
IsolateOption = Annotated[
    bool, typer.Option("--isolate", help="A fresh process for each cell in each round.")
]
SamplesOption = Annotated[int, typer.Option(help="Requests per process (--isolate).")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out that did not end.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
BackendOption = Annotated[
    str, typer.Option(help="Attention kernel: sdpa, flash_attention_2 or eager.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights and text.")
]
PlanDeviceOption = Annotated[
    str | None, typer.Option("--device", help="h100, a100-80gb, ...; cpu or cuda as calibrated.")
]
PlanDtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, float16, bfloat16 (default; on a CPU float32)."),
]
SweepOption = Annotated[str | None, typer.Option(help="keep: each method over many budgets.")]
ForSpeedupOption = Annotated[
    str | None, typer.Option(help="Find the largest budget for this speed-up (3x).")
]
ForMemoryOption = Annotated[
    str | None, typer.Option(help="Find the largest budget whose peak fits (24GiB, 24GB).")
]
ConventionOption = Annotated[
    str | None,
    typer.Option(help="Comma-separated: default, prefill, causal, fastv, sparsevlm, paper-kv."),
]
OutOption = Annotated[Path, typer.Option(help="Record: a .json file, or a folder.")]


def workload_of(
    name: str,
    image: str | None,
    size: str,
    prompt: str | None,
    text_tokens: str | None,
    layout: str,
    visual_tokens: int | None,
    new_tokens: int,
    batch_size: int,
    seed: int,
) -> Workload:
    from ..workload import Workload

    height, width = pair("--image-size", size, "x", "HEIGHTxWIDTH, as 672x672")
    return Workload(
        name=name,
        image=image,
        size=(height, width),
        prompt=prompt,
        text_tokens=pair("--text-tokens", text_tokens, ",", "BEFORE,AFTER, as 35,25")
        if text_tokens
        else None,
        layout=layout,  # type: ignore[arg-type]
        visual_tokens=visual_tokens,
        new_tokens=new_tokens,
        batch_size=batch_size,
        seed=seed,
    )


def pair(option: str, text: str, separator: str, wanted: str) -> tuple[int, int]:
    parts = text.split(separator)
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        fail(f"{option} {text!r} is not {wanted}")
    return int(parts[0]), int(parts[1])


def share(option: str, text: str) -> float:
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        fail(f"{option} {text!r} is not a share, as 0.02 or 2%")
    if found >= 1 and not text.endswith("%"):
        fail(f"{option} {text!r} is not a share, as 0.02 or 2%; did you mean {text}%?")
    return found


def wanted_of(sweep: str | None, speedup: str | None, memory: str | None) -> Wanted | None:
    """What budget is looked for; None for the one given."""
    from ..cost.planning import Wanted

    given = [option for option in (sweep, speedup, memory) if option is not None]
    if len(given) > 1:
        fail("--sweep, --for-speedup and --for-memory exclude each other")
    if sweep is not None and sweep != "keep":
        fail(f"unknown --sweep {sweep!r}; known: keep")
    if sweep is not None:
        return Wanted()
    if speedup is not None:
        return Wanted(speedup=_positive("--for-speedup", speedup, {"x": 1.0, "": 1.0}, "3x"))
    if memory is not None:
        scales = {"tib": 2.0**40, "gib": 2.0**30, "mib": 2.0**20, "tb": 1e12, "gb": 1e9, "mb": 1e6}
        return Wanted(memory_bytes=_positive("--for-memory", memory, scales, "24GiB or 24GB"))
    return None


def check_trace(trace: Path | None, *, isolate: bool) -> None:
    """Fail before anything is measured where no trace could be written."""
    if trace is None:
        return
    if isolate:
        fail("--trace needs a run in one process: leave --isolate out")
    if not trace.name.endswith((".json", ".json.gz")):
        fail(f"--trace {trace}: give a .json or .json.gz file")
    if trace.is_dir() or not trace.parent.is_dir():
        fail(f"--trace {trace}: no such folder, or a folder itself")


def _positive(option: str, text: str, scales: dict[str, float], example: str) -> float:
    """A number above 0 with one of the suffixes of `scales`."""
    word = text.strip().lower()
    suffix = next((suffix for suffix in scales if word.endswith(suffix)), None)
    try:
        value = 0.0 if suffix is None else float(word.removesuffix(suffix)) * scales[suffix]
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        fail(f"{option} {text!r} is not an amount above 0, as {example}")
    return value


def fail(message: str) -> NoReturn:
    print(f"tpprof: {message}", file=sys.stderr)
    raise SystemExit(2)
