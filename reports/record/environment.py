"""Where a run took place: what is needed to repeat it, and to see whether two records compare."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .base import Amount, Count, Struct, about
from .gpu import GpuDescription


class Commit(Struct):
    """The state of a git checkout."""

    commit: Annotated[str | None, about("Hash of the commit that is checked out.")] = None
    dirty: Annotated[bool | None, about("Whether a tracked file differs from it.")] = None
    reasons: Annotated[dict[str, str], about("Why a field is unknown, by name.")] = {}


class Checkouts(Struct):
    """The git checkouts that a run depends on."""

    working_directory: Annotated[
        Commit, about("The one around the folder that the run was started in.")
    ] = msgspec.field(default_factory=Commit)
    tpprof: Annotated[Commit, about("The one that tpprof runs from.")] = msgspec.field(
        default_factory=Commit
    )


class Determinism(Struct):
    """What decides whether the same seed gives the same numbers, and by which kernels: torch's
    switches."""

    deterministic_algorithms: Annotated[
        bool | None, about("Whether only deterministic operators are allowed.")
    ] = None
    cudnn_benchmark: Annotated[
        bool | None, about("Whether cuDNN tries several kernels and takes the fastest.")
    ] = None
    cudnn_deterministic: Annotated[
        bool | None, about("Whether cuDNN takes deterministic kernels alone.")
    ] = None
    cudnn_allow_tf32: Annotated[bool | None, about("Whether cuDNN may use TF32.")] = None
    matmul_allow_tf32: Annotated[
        bool | None, about("Whether matrix products in float32 may use TF32.")
    ] = None
    float32_matmul_precision: Annotated[
        str | None, about("Precision of matrix products in float32, as torch names it.")
    ] = None
    sdpa_flash: Annotated[bool | None, about("Whether attention may use the flash kernel.")] = None
    sdpa_memory_efficient: Annotated[
        bool | None, about("Whether attention may use the memory-efficient kernel.")
    ] = None
    sdpa_math: Annotated[bool | None, about("Whether attention may use plain operators.")] = None
    sdpa_cudnn: Annotated[bool | None, about("Whether attention may use cuDNN.")] = None
    sdpa_order: Annotated[
        list[str] | None,
        about("Kernels of torch's attention in the order in which torch tries them on the device."),
    ] = None
    reasons: Annotated[dict[str, str], about("Why a field is unknown, by name.")] = {}


class CodeOrigins(Struct):
    """Where the code lies that ran, noted for each process of a timing gate."""

    origins: Annotated[
        dict[str, str], about("Files of the interpreter, of packages and of each method, by name.")
    ] = {}
    own: Annotated[list[str], about("Imported files that lie in the arm's own source tree.")] = []
    foreign: Annotated[
        list[str],
        about("Imported files of the project that are not those of the arm's own tree."),
    ] = []
    contents: Annotated[
        dict[str, str], about("SHA-256 of what was imported, by package; of the first look alone.")
    ] = {}


class Environment(Struct):
    """The machine, its packages and its settings."""

    device: Annotated[str | None, about("What ran: the GPU's name, or the CPU's and threads.")] = (
        None
    )
    device_type: Annotated[str | None, about("`cpu` or `cuda`.")] = None
    device_memory_bytes: Annotated[Count | None, about("Memory of the GPU, from torch.")] = None
    device_uuid: Annotated[str | None, about("UUID of the GPU, from torch: no prefix.")] = None
    platform: Annotated[str | None, about("Operating system and its version.")] = None
    python: Annotated[str | None, about("Version of Python.")] = None
    container: Annotated[str | None, about("Kind of container, such as `docker`.")] = None
    cpu: Annotated[str | None, about("Name of the CPU.")] = None
    cores: Annotated[Count | None, about("Logical cores of the machine.")] = None
    cores_physical: Annotated[Count | None, about("Physical cores of the machine.")] = None
    cores_usable: Annotated[Count | None, about("Cores that the process may run on.")] = None
    cores_quota: Annotated[
        Amount | None, about("How much of them the container may use, in cores.")
    ] = None
    governor: Annotated[str | None, about("Governor of the CPU's clock.")] = None
    turbo: Annotated[
        bool | None, about("Whether clocks of the CPU may rise above the nominal one.")
    ] = None
    load_average: Annotated[
        list[Amount] | None, about("Mean number of runnable tasks over 1, 5 and 15 minutes.")
    ] = None
    memory_bytes: Annotated[Count | None, about("Memory of the machine.")] = None
    memory_available_bytes: Annotated[Count | None, about("Memory that was available.")] = None
    swap_used_bytes: Annotated[Count | None, about("Swap in use.")] = None
    threads: Annotated[Count | None, about("Threads that torch uses on the CPU.")] = None
    cuda: Annotated[str | None, about("Version of CUDA that torch was built with.")] = None
    cudnn: Annotated[Count | None, about("Version of cuDNN that torch uses, as a number.")] = None
    packages: Annotated[
        dict[str, str | None], about("Versions of packages; null for one that is not installed.")
    ] = {}
    git: Annotated[Checkouts, about("Git checkouts.")] = msgspec.field(default_factory=Checkouts)
    determinism: Annotated[Determinism, about("torch's switches.")] = msgspec.field(
        default_factory=Determinism
    )
    variables: Annotated[
        dict[str, str],
        about("Environment variables that change speed or kernels; secrets are left out."),
    ] = {}
    gpu: Annotated[GpuDescription | None, about("The GPU, from NVML.")] = None
    plugins: Annotated[
        dict[str, str], about("SHA-256 of each plug-in's file; empty where it has none.")
    ] = {}
    code: Annotated[CodeOrigins | None, about("Where the code lies, if the gate asked.")] = None
    warnings: Annotated[list[str], about("What would spoil a measurement here.")] = []
    reasons: Annotated[dict[str, str], about("Why a field is unknown, by name.")] = {}
