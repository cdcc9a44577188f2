"""Blocks of a sweep over the machines of a Ray cluster, each where it is the only one that times.

Ray places a block and waits for it; what measures is the same process as without Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import add_whole, beside
from ...reports.record import files
from ...reports.record.journal import is_empty, read_lines
from ...reports.sweep.grid import journal_of
from ..subprocesses import temporary_folder
from .blocks import BlockEnded, Indexed, in_a_process
from .worker import BlockTask

HERE = "local"
AHEAD = 4  # blocks handed over for each that can be measured at once


@dataclass(frozen=True)
class Cluster:
    """Where blocks run. address: `local` for one that is started here, `auto` for the one that runs
    here, or that of another. per_host: how many blocks a host times at once."""

    address: str
    per_host: int = 1

    def spread(
        self,
        tasks: Sequence[Indexed],
        begun: bytes,
        at_once: Callable[[int], None] = lambda count: None,
    ) -> Iterator[BlockEnded]:
        """Measure these blocks, each on a GPU where the cluster has any, or as many as its model is
        spread over; what ended, as it ends.
        begun: the first line of the sweep's journal, by which a worker knows its folder. at_once:
        told how many the cluster can measure at once, about.

        A worker that dies is the end of its block. Raises InputError where Ray is not there.
        """
        ray = _ray()
        self._join(ray)
        waiting: dict[Any, int] = {}
        try:
            options, largest = self._options(ray), _largest(ray)
            wanted = {index: options["num_gpus"] * _gpus(task) for index, task in tasks}
            for index, gpus in wanted.items():
                if gpus > largest:  # Ray would wait for such a host for ever
                    told = f"it wants {gpus} GPUs of one host, and the largest here has {largest}"
                    yield BlockEnded(index, 2, told)
            remote = ray.remote(max_calls=1, max_retries=0, **options)(_measure)
            fitting = (each for each in tasks if wanted[each[0]] <= largest)
            slots = self._slots(ray)
            at_once(slots)
            mark, coming, most = _mark(begun), fitting, AHEAD * slots
            paths = {index: Path(task.out) for index, task in tasks}
            while True:
                for index, task in itertools.islice(coming, most - len(waiting)):
                    placed = remote.options(num_gpus=wanted[index])
                    waiting[placed.remote(msgspec.json.encode(task), mark)] = index
                if not waiting:
                    break
                (done,), _ = ray.wait([*waiting])
                index = waiting.pop(done)
                yield _ended(ray, done, index, paths[index])
        finally:
            for left in waiting:
                with contextlib.suppress(Exception):
                    ray.cancel(left, force=True)
            ray.shutdown()

    def _join(self, ray: Any) -> None:
        try:
            ray.init(
                address=None if self.address == HERE else self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {self.address}: {str(error).splitlines()[0]}") from error

    def _slots(self, ray: Any) -> int:
        """How many blocks the cluster can measure at once, about: handed over are no more than a
        few times as many, so that the driver's work grows with their number and no faster."""
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(host.get("GPU", 0)) for host in hosts)
        return max(1, len(hosts) * self.per_host, gpus)

    def _options(self, ray: Any) -> dict[str, Any]:
        """What a block asks for: its share of the CPUs of the smallest host that can run it, and a
        GPU."""
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [host for host in hosts if host.get("GPU", 0) >= 1]
        cpus = min(host.get("CPU", 1) for host in with_gpu or hosts)
        return {
            "num_cpus": max(1, int(cpus) // self.per_host),
            "num_gpus": 1 if with_gpu else 0,
            "scheduling_strategy": "SPREAD",
        }


def _gpus(task: BlockTask) -> int:
    return max(task.spec.model.tensor_parallel, task.spec.model.pipeline)


def _largest(ray: Any) -> int:
    """GPUs of the host that has most."""
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max((int(host.get("GPU", 0)) for host in hosts), default=0)


def _mark(line: bytes) -> str:
    """What tells a sweep from others: of the first line of its journal, which is as long as the
    grid, and goes to no worker."""
    return hashlib.sha256(line).hexdigest()


def _measure(given: bytes, mark: str) -> tuple[int, str, bytes]:
    """On a worker: the block in a process of its own, into the sweep's folder where that is the
    same one here; else into one that goes, and the record comes back."""
    task = msgspec.json.decode(given, type=BlockTask)
    journal = journal_of(Path(task.out).parent)
    if not is_empty(journal) and _mark(read_lines(journal)[0] + b"\n") == mark:
        return *in_a_process(task, lambda step: None), b""
    with temporary_folder() as folder:
        task.out = str(folder / "block.json")
        code, failed = in_a_process(task, lambda step: None)
        path = Path(task.out)
        if not path.exists():
            path = files.journal_of(path)
        return code, failed, path.read_bytes() if path.exists() else b""


def _ended(ray: Any, done: Any, index: int, path: Path) -> BlockEnded:
    try:
        code, failed, content = ray.get(done)
    except ray.exceptions.RayError as error:
        return BlockEnded(index, -1, f"its worker ended: {str(error).strip().splitlines()[0]}")
    if content:
        whole = not content.startswith(b'{"type"')
        with beside(path if whole else files.journal_of(path)) as part:
            handle = os.open(part, os.O_WRONLY)
            try:
                add_whole(handle, content)
            finally:
                os.close(handle)
    return BlockEnded(index, code, failed)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'tpprof[ray]'") from error
    return ray
