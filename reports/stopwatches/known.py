"""What the field times, stopwatch by stopwatch: each as it stands in a public repository's source.

A stopwatch is the parts of a request that lie between its two clicks, and what is made of several
readings. What it does besides, and no record holds, is said; where that is all, there is a reason
in the place of a figure.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..record.base import RecordError
from ..record.cell import Span

Statistic = Literal["median", "mean", "first", "mean since the start", "roofline"]
"""What is made of the readings: the median over rounds, as here; their mean; the first one alone;
the mean of all requests, warm-ups among them; or none is read, and a formula is printed."""
Inside = Callable[[Span], bool]


@dataclass(frozen=True)
class FieldStopwatch:
    """One of them. whose: repository, file and lines. times: what it times. fault: what is wrong
    with it. inside: which parts of a request lie between its clicks; None where no record can tell.
    besides: what it does that no record holds."""

    name: str
    whose: str
    times: str
    fault: str
    inside: Inside | None
    statistic: Statistic = "mean"
    besides: str = ""


def everything(span: Span) -> bool:
    return True


def nothing(span: Span) -> bool:
    return False


def prefill(span: Span) -> bool:
    return span.phase == "prefill"


def forward(span: Span) -> bool:
    return span.phase in ("prefill", "head")


def decode(span: Span) -> bool:
    return span.phase == "decode"


def generation(span: Span) -> bool:
    return span.phase in ("prefill", "head", "decode")


def embedded(span: Span) -> bool:
    return span.phase in ("embed", "prefill", "head")


STOPWATCHES = (
    FieldStopwatch(
        "request",
        "tpprof",
        "a whole request, from the decoded picture to the last token",
        "",
        everything,
        "median",
    ),
    FieldStopwatch(
        "uniprunebench-method",
        "UniPruneBench, custom_internvl.py:49-63",
        "the look-up of the pruning function in a dictionary; it is called after the second click",
        "about 0 ms for every method before the language model",
        nothing,
    ),
    FieldStopwatch(
        "uniprunebench-prefill",
        "UniPruneBench, custom_internvl.py:117-163",
        "from the first decoder layer to the last",
        "leaves out vision tower, projector and whatever prunes before the language model",
        prefill,
        besides="prints, and values that go through the host and the environment",
    ),
    FieldStopwatch(
        "aim-formula",
        "AIM, README and other_packages/LLM-Viewer",
        "nothing: the prefill time is a roofline formula",
        "a time that was never measured, with no host, no kernel and no pruning in it",
        prefill,
        "roofline",
    ),
    FieldStopwatch(
        "lightcompress-prefill",
        "LightCompress, llmc/eval/eval_vqa.py:33-57",
        "the first forward of the language model, head included",
        "leaves out vision tower, projector and pruning before the decoder; no warm-up, a mean",
        forward,
        besides="waits for the device around every forward, and the first call is in its mean",
    ),
    FieldStopwatch(
        "lightcompress-decode",
        "LightCompress, llmc/eval/eval_vqa.py:33-57",
        "all forwards of the language model after the first",
        "waits for the device around every step, so that host and device never overlap",
        decode,
        besides="the waits themselves",
    ),
    FieldStopwatch(
        "hiprune-decode",
        "HiPrune, bench_sys.py:76-90",
        "one step without a cache, which reads the whole sequence again",
        "a decode step that is a prefill: use_cache=False",
        forward,
        besides="500 new tokens, and a peak memory that is never reset",
    ),
    FieldStopwatch(
        "sttm-ttft",
        "STTM, llava_qwen.py:251-263",
        "from the embedded prompt to the first token",
        "a time to first token without vision tower and projector",
        embedded,
        besides="waits for the device in every step",
    ),
    FieldStopwatch(
        "vidcom2-generate",
        "VidCom2, llava_qwen.py:133-152; PACT, llava_qwen.py:134-141",
        "generate, once the pictures are encoded, compressed and joined to the text",
        "leaves out vision tower, projector and the compression itself, which run before",
        generation,
    ),
    FieldStopwatch(
        "v-cast-evaluate",
        "V-CAST, lmms_eval/evaluator.py:283-330",
        "the evaluation of a whole benchmark",
        "loading of data, decoding of video and scoring are in it, one number for all",
        None,
        besides="no benchmark is run here",
    ),
    FieldStopwatch(
        "framefusion-once",
        "FrameFusion, example_llava.py:131-168",
        "one request behind one warm one",
        "one reading, no interval, and answers of free length: other work",
        everything,
        "first",
        besides="answers as long as the method makes them; all are equally long here",
    ),
    FieldStopwatch(
        "divprune-mean",
        "DivPrune, eval_time.sh and extract_time.py",
        "whole requests, the mean of what was printed",
        "four processes at once, so that what they wait for each other is in the figure",
        everything,
        besides="the other three processes",
    ),
    FieldStopwatch(
        "cdpruner-sync",
        "CDPruner, clip_encoder.py:66-91",
        "nothing of its own: a full wait for the device stands in the middle of the vision tower",
        "every request pays for it, whoever times it",
        None,
        besides="the engine's own cdpruner does not wait there",
    ),
    FieldStopwatch(
        "lmms-eval-since-start",
        "lmms-eval, models/chat/vllm.py:226-240",
        "the mean over all requests since the engine started",
        "warm-ups, the first call and earlier tasks are in it",
        everything,
        "mean since the start",
    ),
)
NAMES = tuple(watch.name for watch in STOPWATCHES)
ALL = "all"


def named(names: Sequence[str]) -> list[FieldStopwatch]:
    """The stopwatches of these names, `all` for all of them; raises RecordError for another."""
    if ALL in names:
        return list(STOPWATCHES)
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RecordError(f"no stopwatch {name!r}; known: {ALL}, {', '.join(NAMES)}{hint}")
    return [watch for watch in STOPWATCHES if watch.name in names]
