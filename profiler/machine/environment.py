"""Where a run took place: what is needed to repeat it, and to see whether two records compare.

What cannot be known is None, and `reasons` beside it says why.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...reports.record.environment import Checkouts, Commit, Determinism, Environment
from .. import git
from ..meters.nvml import describe_gpu
from ..meters.readers import UnknownError, module_or_absent, read_fields

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "transformers",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "numpy",
    "accelerate",
    "nvidia-ml-py",
    "pynvml",
    "safetensors",
    "tokenizers",
    "torchvision",
    "triton",
)

_PREFIXES = (
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "FLASH_ATTENTION_",
    "GOMP_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCH",
    "TRANSFORMERS_",
    "TRITON_",
)
_NAMES = (
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "PYTHONDEVMODE",
    "PYTHONHASHSEED",
    "PYTHONMALLOC",
    "PYTHONOPTIMIZE",
    "TOKENIZERS_PARALLELISM",
)
_SECRETS = ("AUTH", "CREDENTIAL", "KEY", "PASSPHRASE", "PASSW", "SECRET", "TOKEN")
COMMIT_VARIABLE = "TPPROF_COMMIT"
"""Names the commit of tpprof where git tells nothing, as in a copy without `.git`."""
_ROOT = Path(__file__).parents[2]
_GIT_SECONDS = 2  # a run waits no longer than this for git


def describe_environment(
    device: torch.device | None, nvml: Any | None = None, root: Path = Path("/")
) -> Environment:
    """Machine, packages and settings.

    device: what a run uses; CUDA is left untouched if it is the CPU or None (none is known).
    nvml: the library to ask, default `pynvml`. root: where /proc and /sys lie.
    """
    torch = module_or_absent("torch")
    found = Environment(
        **_host(torch, root),
        device_type=device.type if device else None,
        packages={name: _version(name) for name in PACKAGES},
        git=Checkouts(working_directory=_git(Path.cwd()), tpprof=_own_checkout()),
        determinism=_determinism(torch, device),
        variables=variables(os.environ),
    )
    if device is not None and device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found.device = properties.name
        found.device_memory_bytes = properties.total_memory
        found.device_uuid = str(getattr(properties, "uuid", ""))
        found.gpu = describe_gpu(found.device_uuid, nvml)
        return found
    found.reasons |= dict.fromkeys(("device_memory_bytes", "device_uuid", "gpu"), "no CUDA device")
    if device is None:
        found.reasons |= dict.fromkeys(("device", "device_type"), "no device is known")
    else:
        found.device = f"{found.cpu}, {found.threads} thread(s)"
    return found


def variables(found: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change how fast or by which kernels a run goes.

    What looks like a secret, by its name or as a password inside an address, is left out.
    """
    return {
        name: value
        for name, value in sorted(found.items())
        if (name in _NAMES or name.startswith(_PREFIXES)) and not _secret(name, value)
    }


def _secret(name: str, value: str) -> bool:
    named = name not in _NAMES and any(word in name.upper() for word in _SECRETS)
    return named or ("://" in value and "@" in value)


def _host(torch: Any, root: Path) -> dict[str, Any]:
    """The machine without its GPU."""
    psutil = module_or_absent("psutil")
    system = root / "sys/devices/system/cpu"
    return read_fields(
        Environment,
        {
            "platform": platform.platform,
            "python": platform.python_version,
            "container": lambda: _container(root),
            "cpu": lambda: cpu_name(root),
            "cores": os.cpu_count,
            "cores_physical": lambda: psutil.cpu_count(logical=False),
            "cores_usable": lambda: len(os.sched_getaffinity(0)),
            "cores_quota": lambda: _quota(root),
            "governor": lambda: _text(system / "cpu0/cpufreq/scaling_governor"),
            "turbo": lambda: _turbo(system),
            "load_average": lambda: list(os.getloadavg()),
            "memory_bytes": lambda: psutil.virtual_memory().total,
            "memory_available_bytes": lambda: psutil.virtual_memory().available,
            "swap_used_bytes": lambda: psutil.swap_memory().used,
            "threads": lambda: torch.get_num_threads(),
            "cuda": lambda: torch.version.cuda,
            "cudnn": lambda: torch.backends.cudnn.version(),
        },
    )


def cpu_name(root: Path = Path("/")) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _container(root: Path) -> str:
    for kind, sign in (("docker", ".dockerenv"), ("podman", "run/.containerenv")):
        if (root / sign).exists():
            return kind
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    raise UnknownError("no sign of a container")


def _quota(root: Path) -> float:
    quota, period = _text(root / "sys/fs/cgroup/cpu.max").split()
    if quota == "max":
        raise UnknownError("no quota is set")
    return int(quota) / int(period)


def _turbo(system: Path) -> bool:
    for path, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        if (system / path).exists():
            return _text(system / path) == on
    raise UnknownError("the kernel does not say")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise UnknownError(f"there is no {path}") from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def own_version() -> str:
    """The version of tpprof, from its sources where they lie on the path without installation."""
    try:
        return version("tpprof")
    except PackageNotFoundError:
        import tomlkit

        found = tomlkit.parse((_ROOT / "pyproject.toml").read_text()).unwrap()
        return str(found["project"]["version"])


def _own_checkout() -> Commit:
    if (_ROOT / ".git").exists():  # or git would find the project that holds the environment
        found = _git(_ROOT)
    else:
        found = _unknown_commit("tpprof is installed, not a git checkout")
    named = os.environ.get(COMMIT_VARIABLE)
    if found.commit is not None or named is None:
        return found
    if not re.fullmatch("[0-9a-f]{7,64}", named):
        return _unknown_commit(f"{COMMIT_VARIABLE} is no commit: 7 to 64 digits of 0-9 and a-f")
    return Commit(commit=named, reasons={"dirty": f"{COMMIT_VARIABLE} names a commit and no more"})


def _git(folder: Path) -> Commit:
    """Commit of the checkout around `folder`, and whether a tracked file differs from it."""
    try:
        around = git.ask(folder, "rev-parse", "--show-toplevel", seconds=_GIT_SECONDS)
        if around.returncode:
            return _unknown_commit(around.stderr.partition("\n")[0] or "git failed")
        top = Path(around.stdout.rstrip("\n"))
        commit = git.commit_named(top, "HEAD", _GIT_SECONDS)
        if not commit:
            return _unknown_commit("no commit yet")
        with git.unconfigured(top, _GIT_SECONDS) as ask:
            done = ask("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    except (OSError, subprocess.TimeoutExpired) as error:
        return _unknown_commit(f"git does not answer ({type(error).__name__})")
    if done.returncode:
        reason = done.stderr.partition("\n")[0] or "git failed"
        return Commit(commit=commit, reasons={"dirty": reason})
    return Commit(commit=commit, dirty=bool(done.stdout))


def _unknown_commit(reason: str) -> Commit:
    return Commit(reasons={"commit": reason, "dirty": reason})


def _determinism(torch: Any, device: torch.device | None) -> Determinism:
    figures = read_fields(
        Determinism,
        {
            "deterministic_algorithms": lambda: torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
            "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
            "cudnn_allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
            "matmul_allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
            "float32_matmul_precision": lambda: torch.get_float32_matmul_precision(),
            "sdpa_flash": lambda: torch.backends.cuda.flash_sdp_enabled(),
            "sdpa_memory_efficient": lambda: torch.backends.cuda.mem_efficient_sdp_enabled(),
            "sdpa_math": lambda: torch.backends.cuda.math_sdp_enabled(),
            "sdpa_cudnn": lambda: torch.backends.cuda.cudnn_sdp_enabled(),
            "sdpa_order": lambda: _sdpa_order(torch, device),
        },
    )
    return Determinism(**figures)


def _sdpa_order(torch: Any, device: torch.device | None) -> list[str]:
    """The order in which torch tries the kernels of its attention.

    torch makes it up on the first choice on a GPU, by the GPU (pytorch's sdp_utils.cpp), so that it
    is asked to choose first; nothing is computed.
    """
    from torch.nn.attention import SDPBackend

    if not hasattr(torch._C, "_get_sdp_priority_order"):
        raise UnknownError(f"torch {torch.__version__} does not tell")
    if device is not None and device.type == "cuda":
        query = torch.zeros(1, 1, 8, 64, device=device, dtype=torch.float16)
        torch._fused_sdp_choice(query, query, query)
    members: Mapping[str, Any] = SDPBackend.__members__
    known = {int(kernel): name for name, kernel in members.items()}
    return [known.get(number, str(number)) for number in torch._C._get_sdp_priority_order()]
