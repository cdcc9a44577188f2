"""Calibration: what this very device can do at best, from a few seconds of measuring.

Best of many, each over a batch of calls: matrix products over shapes and dtypes, copies and sums
over working sets, the smallest operator. Kept under the user's cache folder, by device.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ...methods.contract.errors import InputError
from ...reports.outputs import OutputError, write
from ...reports.record.schema import Bandwidth, Peaks
from ..meters.clock import now, on_device, wait_for
from .datasheets import DATASHEETS, datasheet

VERSION = 2  # of the method: another one measures anew
DTYPES = ("float32", "bfloat16", "float16")
SIDES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
MIB = 2**20
FOOTPRINTS = {
    "cpu": (MIB // 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB),
    "cuda": (4 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB),
}
WIDTH = 1024  # of the weights that one vector is multiplied with, in elements
SECONDS, FEWEST = 0.06, 3  # for each figure, and batches at least
BATCH_SECONDS = 0.004  # a batch of calls is at least so long, or one call
TOO_SLOW = 0.2  # a product that takes longer by the pace of a smaller one is left out

Repeat = Callable[[Callable[[], object], int], Callable[[], None]]
"""Makes what runs a call so many times, one after another."""


def cached(device: Any) -> Peaks | None:
    """The peaks of `device`, a torch.device, as an earlier calibration found them; or None."""
    return _read(calibration_file(device))


def on_file() -> list[Peaks]:
    """All calibrations of this machine's cache folder, the newest first. No torch here."""
    found = [peaks for path in _folder().glob("*.json") if (peaks := _read(path))]
    return sorted(found, key=lambda peaks: peaks.created, reverse=True)


def named(name: str) -> Peaks:
    """The peaks of a device by name: a GPU with a datasheet, or, as an earlier calibration on this
    machine found them, `cpu`, `cuda` or the device's own name. Raises InputError. No torch here."""
    known = name.lower()
    if known in DATASHEETS:
        return datasheet(known)
    for peaks in on_file():
        if known in (peaks.device.lower(), "cuda" if peaks.threads is None else "cpu"):
            return peaks
    if known in ("cpu", "cuda"):
        raise InputError(
            f"{known} was not calibrated on this machine: run `tpprof calibrate --device {known}`, "
            f"or name one with a datasheet: {', '.join(DATASHEETS)}"
        )
    near = difflib.get_close_matches(known, DATASHEETS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    devices = dict.fromkeys(peaks.device for peaks in on_file())
    measured = "".join(f", {device} (measured)" for device in devices)
    raise InputError(f"unknown device {name!r}; known: {', '.join(DATASHEETS)}{measured}{hint}")


def calibrate(device: Any) -> Peaks:
    """Measure the peaks of `device` and keep, figure by figure, the best that was ever measured.

    A busy machine spoils a calibration; another one on a quiet machine mends it. What could not be
    measured or kept is a note. Frees what it allocated.
    """
    with on_device(device):
        peaks = _best_of(_measure(device), cached(device))
        _free(device)
    content = msgspec.json.format(msgspec.json.encode(peaks), indent=1)
    try:
        write(calibration_file(device), content, "text", overwrite=True)
    except OutputError as error:
        peaks.notes.append(f"not kept for later runs: {error}")
    return peaks


def _free(device: Any) -> None:
    """Give back what the matrix products hold for the streams they ran on: 32 MiB each on Hopper,
    which would stand in every peak of a run in this process."""
    if device.type != "cuda":
        return
    import torch

    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def _best_of(new: Peaks, old: Peaks | None) -> Peaks:
    """`new`, with each figure of `old` that is better."""
    if old is None:
        return new
    for dtype, rate in old.flops_per_second.items():
        new.flops_per_second[dtype] = max(rate, new.flops_per_second.get(dtype, 0.0))
    kept = {level.footprint_bytes: level.bytes_per_second for level in old.bandwidth}
    for level in new.bandwidth:
        known = kept.get(level.footprint_bytes, 0.0)
        level.bytes_per_second = max(level.bytes_per_second, known)
    new.kernel_seconds = min(new.kernel_seconds, old.kernel_seconds)
    new.launch_seconds = min(new.launch_seconds, old.launch_seconds)
    return new


def _measure(device: Any) -> Peaks:
    import torch

    kind, notes = device.type, list[str]()
    repeat = _replayed if kind == "cuda" else _called
    flops = {dtype: _product_rate(device, dtype, repeat, notes) for dtype in DTYPES}
    levels = (_bandwidth(device, count, repeat, notes) for count in FOOTPRINTS[kind])
    bandwidth = [level for level in levels if level is not None]
    one = torch.ones(1, device=device)
    tiny = _best(device, lambda: torch.add(one, one, out=one), repeat)
    launch = _launch_seconds(device, lambda: torch.add(one, one, out=one)) if kind == "cuda" else 0
    if kind == "cuda":
        torch.cuda.empty_cache()
    return Peaks(
        device=_name(device),
        source="measured",
        flops_per_second={dtype: rate for dtype, rate in flops.items() if rate},
        bandwidth=bandwidth,
        kernel_seconds=tiny,
        launch_seconds=launch or tiny,
        memory_bytes=_memory(device),
        threads=torch.get_num_threads() if kind == "cpu" else None,
        torch=str(torch.__version__),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        notes=notes,
    )


def _product_rate(device: Any, dtype: str, repeat: Repeat, notes: list[str]) -> float:
    """The most FLOP/s of products with a matrix as it lies, and with a linear layer's weights,
    which lie transposed: other kernels serve them. 0 if none runs."""
    import torch

    best = {"as it lies": 0.0, "transposed": 0.0}
    for rows, inner, columns in _shapes(SIDES[device.type]):
        flops = 2 * rows * inner * columns
        try:
            left = torch.rand(rows, inner, device=device).to(getattr(torch, dtype))
            right = torch.rand(inner, columns, device=device).to(left.dtype)
            layouts = {"as it lies": right, "transposed": right.t().contiguous().t()}
            out = torch.empty(rows, columns, device=device, dtype=left.dtype)
            for layout, other in layouts.items():
                if best[layout] and flops / best[layout] > TOO_SLOW:
                    continue  # a fallback, some of which take minutes for the larger shapes
                call = functools.partial(torch.mm, left, other, out=out)
                best[layout] = max(best[layout], flops / _best(device, call, repeat))
        except RuntimeError as error:  # a dtype or size that this device does not take
            notes.append(f"{dtype} {rows}x{inner}x{columns}: {str(error).splitlines()[0]}")
    return max(best.values())


def _shapes(sides: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    for side in sides:
        yield side, side, side
    yield 2 * sides[-1], sides[0], 2 * sides[0]


def _bandwidth(device: Any, footprint: int, repeat: Repeat, notes: list[str]) -> Bandwidth | None:
    """The best of a copy, which reads half and writes half, of a sum, which only reads, and of a
    product with one vector, which reads weights as a decode step does."""
    import torch

    try:
        whole = torch.ones(footprint // 4, device=device)
        source, target = whole.chunk(2)
        copied = _best(device, lambda: target.copy_(source), repeat)
        summed = _best(device, whole.sum, repeat)
        weights = whole[: WIDTH * (len(whole) // WIDTH)].view(-1, WIDTH)
        vector, out = whole[:WIDTH].clone(), whole.new_empty(len(weights))
        multiplied = _best(device, lambda: torch.mv(weights, vector, out=out), repeat)
    except RuntimeError as error:  # out of memory
        notes.append(f"bandwidth on {footprint} bytes: {str(error).splitlines()[0]}")
        return None
    least = min(copied, summed, multiplied)
    return Bandwidth(footprint_bytes=footprint, bytes_per_second=footprint / least)


def _best(device: Any, call: Callable[[], object], repeat: Repeat) -> float:
    """Seconds of one call: the fastest batch of calls, over its length."""
    call()
    wait_for(device)
    once = _seconds(device, call)
    count = max(1, min(200, int(BATCH_SECONDS / max(once, 1e-9))))
    batch = repeat(call, count)
    batch()
    times: list[float] = []
    began = now()
    while len(times) < FEWEST or now() - began < SECONDS:
        times.append(_seconds(device, batch))
    return min(times) / count


def _seconds(device: Any, call: Callable[[], object]) -> float:
    wait_for(device)
    began = now()
    call()
    wait_for(device)
    return now() - began


def _called(call: Callable[[], object], count: int) -> Callable[[], None]:
    def batch() -> None:
        for _ in range(count):
            call()

    return batch


def _replayed(call: Callable[[], object], count: int) -> Callable[[], None]:
    """The calls as one CUDA graph: the host's time to launch them is not in it."""
    import torch

    from ...methods.engine.runtimes.capture import CudaCapture

    batch = _called(call, count)
    _, (replay,) = CudaCapture(torch.device("cuda", torch.cuda.current_device())).chain(
        lambda cut: batch()
    )
    return replay


def _launch_seconds(device: Any, call: Callable[[], object], count: int = 200) -> float:
    """Seconds that the host takes to launch one call, without waiting for it."""
    best = float("inf")
    for _ in range(20):
        wait_for(device)
        began = now()
        for _ in range(count):
            call()
        best = min(best, now() - began)
    wait_for(device)
    return best / count


def _name(device: Any) -> str:
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_properties(device).name)
    from .environment import cpu_name

    return cpu_name()


def _memory(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tpprof" / f"calibration-{VERSION}"


def calibration_file(device: Any) -> Path:
    """Where the calibration of `device` is kept: a file for each GPU, by its UUID, and for each CPU
    and number of torch's threads; and for each torch."""
    import torch

    if device.type == "cuda":
        identity = f"gpu-{torch.cuda.get_device_properties(device).uuid}"
    else:
        digest = hashlib.sha256(_name(device).encode()).hexdigest()[:12]
        identity = f"cpu-{digest}-{torch.get_num_threads()}-threads"
    return _folder() / f"{identity}-torch-{torch.__version__}.json"


def _read(path: Path) -> Peaks | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Peaks)
    except (OSError, msgspec.MsgspecError):
        return None
