"""What a record keeps of the machine, and the warnings of `tpprof env`."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from tpprof.methods.contract.errors import InputError
from tpprof.profiler import cli
from tpprof.profiler.commands.machine import lines
from tpprof.profiler.machine import doctor
from tpprof.profiler.machine.doctor import warnings
from tpprof.profiler.machine.environment import (
    _sdpa_order,
    describe_environment,
    own_version,
    variables,
)
from tpprof.reports.record.environment import Commit, Environment
from tpprof.reports.record.gpu import GpuDescription, GpuProcess, GpuState

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
UUID = "11111111-2222-3333-4444-555555555555"


class Nvml:
    """A GPU without application clocks; `dead` gives an NVML without a driver."""

    def __init__(self, dead: bool = False, prefix: str = "GPU") -> None:
        self.dead, self.prefix, self.open = dead, prefix, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.dead:
            raise RuntimeError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != f"{self.prefix}-{UUID}":
            raise RuntimeError("Not Found")
        return self.prefix

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "GPU",
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetUUID": f"GPU-{UUID}",
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlSystemGetCudaDriverVersion_v2": 12080,
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=2**37),
            "nvmlDeviceGetEnforcedPowerLimit": 600_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetPersistenceMode": 0,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetMigMode": [0, 0],
        }

        def call(handle: str = "GPU", clock: int = 0) -> Any:
            assert handle == ("MIG" if name.endswith("FromMigDeviceHandle") else "GPU")
            if name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo"):
                return 345 if clock == 1 else 3201
            if name not in answers:
                raise RuntimeError("Not Supported")
            return answers[name]

        return call


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=2**37, uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def machine(root: Path, **files: str) -> Path:
    """A /proc and /sys with these files; `__` stands for `/`, and `_DOT_` for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_machine_is_described_without_touching_cuda(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__cpuinfo="processor : 0\nmodel name\t: Acme 9000 @ 3 GHz\n",
        sys__fs__cgroup__cpu_DOT_max="150000 100000\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
        sys__devices__system__cpu__intel_pstate__no_turbo="0\n",
        _DOT_dockerenv="",
    )
    found = describe_environment(CPU, root=root)
    assert found.cpu == "Acme 9000 @ 3 GHz"
    assert found.device == f"Acme 9000 @ 3 GHz, {torch.get_num_threads()} thread(s)"
    assert (found.governor, found.turbo, found.cores_quota) == ("powersave", True, 1.5)
    assert found.container == "docker"
    assert found.memory_bytes is not None
    assert found.memory_available_bytes is not None
    assert found.memory_bytes > found.memory_available_bytes > 2**20
    assert found.packages["torch"]
    assert found.determinism.deterministic_algorithms is False
    assert found.gpu is None
    assert found.reasons["gpu"] == "no CUDA device"
    assert msgspec.json.decode(msgspec.json.encode(found), type=Environment) == found
    assert not torch.cuda.is_initialized()


def test_what_is_unknown_is_none_with_a_reason(tmp_path: Path) -> None:
    found = describe_environment(None, root=tmp_path)
    for name in ("device", "device_type", "device_uuid", "governor", "turbo", "cores_quota", "gpu"):
        assert getattr(found, name) is None
        assert found.reasons[name]
    assert found.cpu


def test_boost_and_no_quota_are_read(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        sys__fs__cgroup__cpu_DOT_max="max 100000\n",
        sys__devices__system__cpu__cpufreq__boost="0\n",
    )
    found = describe_environment(CPU, root=root)
    assert found.turbo is False
    assert found.reasons["cores_quota"] == "no quota is set"


def test_a_broken_torch_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = describe_environment(None)
    assert found.threads is None
    assert "torch does not import" in found.reasons["threads"]
    assert "torch does not import" in found.determinism.reasons["sdpa_flash"]


def test_the_order_of_torchs_attention_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_get_sdp_priority_order", lambda: [3, 1, 2, 0, 9])
    assert describe_environment(CPU).determinism.sdpa_order == [
        "CUDNN_ATTENTION",
        "FLASH_ATTENTION",
        "EFFICIENT_ATTENTION",
        "MATH",
        "9",
    ]
    monkeypatch.delattr(torch._C, "_get_sdp_priority_order")
    found = describe_environment(CPU).determinism
    assert found.sdpa_order is None
    assert "does not tell" in found.reasons["sdpa_order"]


def test_a_gpu_is_asked_to_choose_before_it_tells_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch makes the order up by the GPU when it first chooses."""
    order = [1, 2, 0, 3, 4]

    def choose(*tensors: object) -> int:
        order[:] = [3, 1, 2, 0, 4]
        return 3

    monkeypatch.setattr(torch, "zeros", lambda *size, **options: None)
    monkeypatch.setattr(torch, "_fused_sdp_choice", choose)
    monkeypatch.setattr(torch._C, "_get_sdp_priority_order", lambda: order)
    assert _sdpa_order(torch, CUDA)[0] == "CUDNN_ATTENTION"


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("prefix", ["GPU", "MIG"])
def test_the_gpu_is_described_in_si_units(prefix: str) -> None:
    nvml = Nvml(prefix=prefix)
    found = describe_environment(CUDA, nvml)
    gpu = found.gpu
    assert gpu is not None
    assert (found.device, found.device_memory_bytes) == ("NVIDIA H200", 2**37)
    assert found.device_uuid == UUID
    assert gpu.uuid == f"GPU-{UUID}"
    assert (gpu.driver, gpu.cuda_driver, gpu.compute_capability) == (
        "580.1",
        "12.8",
        "9.0",
    )
    assert (gpu.sm_clock_hz, gpu.memory_clock_max_hz) == (345e6, 3201e6)
    assert (gpu.power_limit_watts, gpu.power_limit_default_watts) == (600, 700)
    assert (gpu.persistence, gpu.ecc, gpu.mig) == (False, True, False)
    assert gpu.sm_clock_application_hz is None
    assert "Not Supported" in gpu.reasons["sm_clock_application_hz"]
    assert set(gpu.reasons) == {"sm_clock_application_hz", "memory_clock_application_hz"}
    assert nvml.open == 0
    assert msgspec.json.decode(msgspec.json.encode(found), type=Environment) == found


@pytest.mark.usefixtures("cuda")
def test_without_nvml_every_figure_has_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for nvml, reason in ((Nvml(dead=True), "Driver Not Loaded"), (None, "pynvml does not import")):
        gpu = describe_environment(CUDA, nvml).gpu
        assert gpu is not None
        figures = {**msgspec.structs.asdict(gpu)}
        reasons = figures.pop("reasons")
        assert all(figures[name] is None and reason in reasons[name] for name in figures)


def test_no_secret_is_kept() -> None:
    kept = {
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "4",
        "PYTORCH_CUDA_ALLOC_CONF": "x",
        "TOKENIZERS_PARALLELISM": "false",
        "LD_PRELOAD": "libjemalloc.so",
        "MALLOC_ARENA_MAX": "2",
        "PYTHONHASHSEED": "0",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp",
        "HF_HUB_OFFLINE": "1",
    }
    left_out = {
        "HF_TOKEN": "s",
        "NVIDIA_API_KEY": "s",
        "TORCH_SECRET": "s",
        "NVIDIA_Auth": "s",
        "CUDA_PASSWORD": "s",
        "MKL_CREDENTIALS": "s",
        "TRANSFORMERS_TOKEN": "s",
        "HOME": "s",
        "PYTORCH_MIRROR": "https://me:s@example.org",
        "PATH": "s",
        "AWS_ACCESS_KEY_ID": "s",
    }
    assert variables({**left_out, **kept}) == kept


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def own_commit(monkeypatch: pytest.MonkeyPatch, root: Path, named: str | None) -> Commit:
    """tpprof's own commit, as if its sources lay in `root` and the variable named one."""
    monkeypatch.setattr("tpprof.profiler.machine.environment._ROOT", root)
    monkeypatch.delenv("TPPROF_COMMIT", raising=False)
    if named is not None:
        monkeypatch.setenv("TPPROF_COMMIT", named)
    return describe_environment(None).git.tpprof


@pytest.mark.parametrize("named", ["a6000a5", "a6000a5b63dce68dae1b5c3840fdce683f23a258", "0" * 64])
def test_a_variable_names_the_commit_where_git_tells_nothing(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = own_commit(monkeypatch, tmp_path, named)
    assert (found.commit, found.dirty) == (named, None)
    assert found.reasons == {"dirty": "TPPROF_COMMIT names a commit and no more"}
    (tmp_path / ".git").write_text("gitdir: /gone")
    assert own_commit(monkeypatch, tmp_path, named).commit == named, "a checkout that is broken"


@pytest.mark.parametrize(
    "named",
    [
        "",
        "main",
        "a6000a",
        "A6000A5",
        "a6000a5\n",
        "0" * 65,
        "--help",
        "a6000a5 ",
        "\N{FULLWIDTH DIGIT ONE}" * 9,
    ],
)
def test_what_is_no_commit_is_not_taken(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = own_commit(monkeypatch, tmp_path, named)
    assert found.commit is None
    assert found.reasons["commit"] == ("TPPROF_COMMIT is no commit: 7 to 64 digits of 0-9 and a-f")


def test_git_goes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    found = own_commit(monkeypatch, tmp_path, "a" * 40)
    assert found.commit not in (None, "a" * 40)
    assert found.dirty is False
    assert "not a git checkout" in own_commit(monkeypatch, tmp_path / "x", None).reasons["commit"]


def test_the_version_is_known_without_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    installed = own_version()
    monkeypatch.setattr("tpprof.profiler.machine.environment.version", missing)
    assert own_version() == installed


def test_commit_and_dirtiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def here() -> Commit:
        return describe_environment(None).git.working_directory

    assert here().commit is None
    assert "not a git repository" in here().reasons["commit"]
    git(tmp_path, "init")
    assert here().reasons["dirty"] == "no commit yet"
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    assert len(here().commit or "") == 40
    assert here().dirty is False
    (tmp_path / "file").write_text("b")
    assert here().dirty is True


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "no git"), subprocess.TimeoutExpired("git", 2)]
)
def test_git_may_be_missing_or_hang(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    found = describe_environment(None).git.working_directory
    assert found.commit is None
    assert type(error).__name__ in found.reasons["commit"]


CALM = Environment(
    cores=8,
    cores_usable=8,
    threads=8,
    governor="performance",
    turbo=False,
    load_average=[4.0, 9.0, 9.0],
    memory_bytes=2**34,
    swap_used_bytes=0,
    packages={"torch": "2.13.0", "pynvml": None, "nvidia-ml-py": "13.0"},
    variables={"OMP_NUM_THREADS": "8", "CUDA_LAUNCH_BLOCKING": "0", "TORCH_LOGS": ""},
    gpu=GpuDescription(
        uuid=UUID,
        driver="580",
        persistence=True,
        mig=False,
        power_limit_watts=700.0,
        power_limit_default_watts=700.0,
    ),
)
UNKNOWN = Environment(packages={"torch": None, "pynvml": None})


@pytest.mark.parametrize("environment", [CALM, UNKNOWN], ids=["calm", "unknown"])
def test_nothing_to_warn_of(environment: Environment) -> None:
    calm = GpuState(others=[], throttled=[])
    assert warnings(environment) == warnings(environment, gpu=calm) == []
    assert warnings(environment, gpu=GpuState(others=None, throttled=None)) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("packages.pynvml", "11.5.0", "shadows nvidia-ml-py"),
        ("packages.pynvml", "13.0.1", "rides on nvidia-ml-py"),
        ("load_average", [4.1, 0, 0], "load average is 4.1 on 8 cores"),
        ("governor", "powersave", "governor is 'powersave'"),
        ("turbo", True, "turbo is on"),
        ("swap_used_bytes", 2**30, "1.00 GiB of memory are in swap"),
        ("threads", 9, "more threads than cores (torch 9; this process may use 8)"),
        ("cores_quota", 7.5, "torch 8, OMP_NUM_THREADS 8; this process may use 7.5"),
        ("variables.OMP_NUM_THREADS", "9,2", "OMP_NUM_THREADS 9"),
        ("variables.CUDA_LAUNCH_BLOCKING", "1", "CUDA_LAUNCH_BLOCKING=1: the host waits"),
        ("variables.PYTORCH_NO_CUDA_MEMORY_CACHING", "0", "costs a cudaMalloc"),
        ("variables.TORCH_SHOW_CPP_STACKTRACES", "1", "C++ stack"),
        ("gpu.persistence", False, "persistence mode is off"),
        ("gpu.mig", True, "MIG is on"),
        ("gpu.power_limit_watts", 600.0, "600 W instead of 700 W"),
        ("gpu", GpuDescription(reasons={"driver": "no driver"}), "(no driver)"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_cause_has_its_one_warning(path: str, value: Any, told: str) -> None:
    changed = copy.deepcopy(CALM)
    above, _, name = path.rpartition(".")
    part = getattr(changed, above) if above else changed
    if isinstance(part, dict):
        part[name] = value
    else:
        setattr(part, name, value)
    (line,) = warnings(changed)
    assert told in line
    assert "\n" not in line


def test_other_processes_throttling_and_broken_packages() -> None:
    others = [GpuProcess(pid=7, bytes=2**30), GpuProcess(pid=8)]
    (line,) = warnings(CALM, gpu=GpuState(others=others))
    assert "PID 7 with 1.00 GiB, PID 8)" in line
    (line,) = warnings(CALM, gpu=GpuState(throttled=["hardware slowdown"]))
    assert "throttled before any work (hardware slowdown)" in line
    (line,) = warnings(CALM, broken={"torchvision": "RuntimeError: no nms"})
    assert "torchvision does not import (RuntimeError: no nms)" in line
    (line,) = warnings(CALM, broken={"torch": "OSError: libfoo"})
    assert "nothing can be measured" in line


def test_a_torchvision_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.llava.modeling_llava  # noqa: F401  # with what is installed

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    found = doctor.examine("cpu").warnings
    assert any("torchvision does not import (RuntimeError: operator nms" in line for line in found)


@pytest.mark.usefixtures("cuda")
def test_a_gpu_is_asked_for_its_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = GpuState(others=[GpuProcess(pid=7)], throttled=[])
    monkeypatch.setattr(doctor, "_target", lambda device, broken: CUDA)
    monkeypatch.setattr(doctor, "_state", lambda device, uuid: busy if uuid == UUID else None)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    described = doctor.examine(None)
    assert described.gpu is not None
    assert described.gpu.persistence is False
    assert any("PID 7" in line for line in described.warnings)
    assert any("persistence" in line for line in described.warnings)


def test_lines_give_reasons_and_units() -> None:
    described = Environment(
        memory_bytes=2**30,
        load_average=[0.5, 1.0],
        turbo=True,
        packages={"pynvml": None},
        gpu=GpuDescription(sm_clock_hz=345e6),
        warnings=["told below"],
        reasons={"governor": "no file"},
    )
    told = dict(lines(described))
    assert told["governor"] == "n/a (no file)"
    assert told["memory_bytes"] == "1.00 GiB"
    assert told["load_average"] == "0.5, 1"
    assert told["turbo"] == "yes"
    assert told["packages.pynvml"] == "n/a (not installed)"
    assert told["gpu.sm_clock_hz"] == "345,000,000"
    assert told["gpu.ecc"] == "n/a (unknown)"
    assert "told below" not in told.values()
    assert not any(name.endswith("reasons") for name in told)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tpprof", "env", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(str(stopped.value.code or 0))


def test_the_command_prints_environment_and_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    monkeypatch.setenv("NVIDIA_API_KEY", "hush-hush")
    assert run(monkeypatch, "--device", "cpu") == 0
    table = capsys.readouterr().out
    assert "packages.torch" in table
    assert "CUDA_LAUNCH_BLOCKING=1: the host waits" in table
    assert run(monkeypatch, "--device", "cpu", "--format", "json") == 0
    written = capsys.readouterr().out
    assert "hush-hush" not in table + written
    answer = msgspec.json.decode(written, type=Environment)
    assert answer.device_type == "cpu"
    assert any("CUDA_LAUNCH_BLOCKING" in line for line in answer.warnings)


def test_a_missing_torch_is_a_warning(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['tpprof', 'env', '-f', 'json']\n"
        "from tpprof.profiler.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Environment)
    assert any("torch does not import" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--device", "tpu"], "unknown device"), (["--format", "csv"], "known: table, json")],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""


def test_a_device_that_does_not_exist_is_an_input_error() -> None:
    with pytest.raises(InputError, match="unknown device"):
        doctor.examine("tpu")
