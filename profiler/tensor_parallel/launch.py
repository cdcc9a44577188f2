"""A run over ranks as its parent sees it: torch's elastic launcher starts them, and ends all where
one dies. This process loads no model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ...methods.contract.errors import InputError
from ...reports.record.base import Struct
from ...reports.record.spec import OptionError, RunSpec
from ..models.registry import known_shapes
from ..subprocesses import UNWRITABLE, python, reason_of, temporary_folder

LOST = 75
"""Exit code of a rank that waits for another one in vain (EX_TEMPFAIL)."""
RANK = "from tpprof.profiler.run.worker import rank_main; rank_main()"
AGENT = "from tpprof.profiler.tensor_parallel.launch import agent; agent()"


class RankTask(Struct):
    """What ranks measure: the arguments of `recording.measure`. parent: its PID."""

    spec: RunSpec
    out: str
    command: str = ""
    resume: bool = False
    trace: str | None = None
    overwrite: bool = False


class RankStep(Struct):
    """What rank 0 says as it goes, a line of JSON each. path: of the record, once it is known.
    wrong: why nothing is measured."""

    label: str = ""
    done: int = 0
    total: int = 0
    path: str = ""
    wrong: str = ""
    code: Annotated[int | None, Meta(description="Exit code, with the last line.")] = None


class RanksEnded(Struct):
    """How a run over ranks ended. code: None where a rank was lost, for the reason `lost`. label:
    of the last step."""

    path: Path | None
    code: int | None
    lost: str = ""
    label: str = ""


def require_alone(spec: RunSpec) -> None:
    """Raises OptionError for what a run over ranks cannot do, and ShapeError where they cannot
    share the model."""
    cells, name = spec.cells, "tensor_parallel"
    if shape := known_shapes().get(spec.model.name or ""):
        shape.share(spec.model.tensor_parallel)
    if cells.callables:
        raise OptionError(name, "spreads models of tpprof's, and no callable", "callable")
    if any(runtime != "eager" for runtime in cells.runtime):
        raise OptionError(name, "runs eagerly: leave runtime out", "runtime")
    if spec.stopping.isolate:
        raise OptionError(name, "and isolate exclude each other", "isolate")
    if spec.accuracy.accuracy:
        raise OptionError(name, "and accuracy exclude each other", "accuracy")
    device = spec.model.device or "cuda"
    if device not in ("cpu", "cuda"):
        raise OptionError(name, f"takes the first GPUs: give device cuda, not {device}", "device")


def on_ranks(task: RankTask, tell: Callable[[str, int, int], None]) -> RanksEnded:
    """Measure it; `tell` is told the steps of rank 0. Where this process is stopped, so are the
    ranks, as a run in one process is: what they have is saved. Raises InputError where they cannot
    begin."""
    last, path, code, wrong = RankStep(), None, None, ""
    with temporary_folder() as folder, tempfile.TemporaryFile() as complaints:
        file = folder / "task"
        file.write_bytes(msgspec.json.encode(task))
        process = subprocess.Popen(
            [*python(AGENT), str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**_environment(task.spec.model.tensor_parallel), **os.environ},
            start_new_session=True,  # Ctrl-C comes from here alone, once
        )
        assert process.stdout is not None
        stopped: KeyboardInterrupt | None = None
        while True:
            try:
                for line in process.stdout:
                    with contextlib.suppress(msgspec.MsgspecError):  # a method may print
                        step = msgspec.json.decode(line, type=RankStep)
                        path, wrong = Path(step.path) if step.path else path, step.wrong or wrong
                        code = step.code if step.code is not None else code
                        if step.label:
                            last = step
                            tell(step.label, step.done, step.total)
                process.wait()
                break
            except KeyboardInterrupt as error:
                stopped = error
                process.terminate()
        process.stdout.close()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    if stopped is not None and code is None:
        raise stopped
    if stopped is None and code is not None and code >= 128:
        code = None  # ended by the launcher, since another rank had died
    if wrong and code != UNWRITABLE:
        raise InputError(wrong)
    lost = "" if code is not None else (lines[-1] if lines else reason_of(process.returncode, ""))
    return RanksEnded(path=path, code=code, lost=lost or wrong, label=last.label)


def _environment(size: int) -> dict[str, str]:
    """What ranks of one machine need, where the user has not said otherwise."""
    threads = max(1, (os.cpu_count() or 1) // size)
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(threads)}


def agent() -> None:
    """The process that holds the ranks: it ends when they have, and says which of them failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    file = Path(sys.argv[1])
    size = msgspec.json.decode(file.read_bytes(), type=RankTask).spec.model.tensor_parallel
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"tpprof-{os.getpid()}",
        max_restarts=0,
        local_addr="localhost",
    )
    try:
        elastic_launch(config, sys.executable)("-c", _SEARCHED + RANK, str(file))
    except ChildFailedError as error:
        ended_by_others = (LOST, -signal.SIGTERM)
        first = min(error.failures.items(), key=lambda one: one[1].exitcode in ended_by_others)
        rank, failure = first
        told = reason_of(failure.exitcode, "") or "it failed"
        print(f"rank {rank} of {size}: {told}", file=sys.stderr)
        raise SystemExit(1) from None


_SEARCHED = "import sys; sys.path = [p for p in sys.path if p]; "
"""The folder that the user is in, which may hold modules of any name, is not searched."""
