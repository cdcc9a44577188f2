"""The files with which the docs start a sweep on Slurm and on Kubernetes."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from command import in_this_process

FILES = Path(__file__).parents[3] / "docs/ray"
SHIMS = {
    "scontrol": "printf 'nodea\\nnodeb\\nnodec\\n'",
    "srun": 'while [[ $1 == --* ]]; do echo -n "$1 " >> log; shift; done; exec "$@"',
    "hostname": "echo '10.0.0.7 fd00::7'",
    "sleep": "exit 0",
    "ray": 'echo "| ray $* | $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> log',
    "tpprof": 'wait_for() { until [[ $(grep -c "| ray" log) == 3 ]]; do :; done; }; wait_for; '
    'echo "| tpprof $* | $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> log',
}


def test_the_slurm_script_starts_a_worker_a_node_and_the_sweep(tmp_path: Path) -> None:
    for name, body in SHIMS.items():
        shim = tmp_path / name
        shim.write_text(f"#!/bin/bash\n{body}\n")
        shim.chmod(0o755)
    own = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    job = {"SLURM_JOB_NODELIST": "node[a-c]", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(
        ["bash", str(FILES / "slurm.sh")],
        env={**os.environ, **own, **job},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "log").read_text()
    for node in "abc":
        assert told.count(f"--nodelist=node{node}") == (3 if node == "a" else 1)
    assert told.count("--head --node-ip-address=10.0.0.7 --port=6379") == 1
    assert told.count("--address=10.0.0.7:6379") == 2
    assert told.count("--num-cpus=8 --num-gpus=4 --block") == 3
    tokens = {line.rpartition("| token ")[2] for line in told.splitlines() if "| token " in line}
    (token,) = tokens
    assert len(token) == 44


@pytest.mark.parametrize("file", ["slurm.sh", "rayjob.yaml"])
def test_what_they_run_is_a_sweep_that_can_be_planned(file: str, tmp_path: Path) -> None:
    if file == "slurm.sh":
        text = (FILES / file).read_text()
        command = text[text.index("tpprof sweep") :].replace("\\\n", " ")
    else:
        command = yaml.safe_load((FILES / file).read_text())["spec"]["entrypoint"]
    words = shlex.split(command)
    assert words[:2] == ["tpprof", "sweep"]
    assert words[words.index("--ray") + 1] == "auto"
    done = in_this_process(*words[1:], "--dry-run", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "visionzip" in done.stdout


def test_the_ray_job_has_a_gpu_and_the_same_image_and_folder_everywhere() -> None:
    job = yaml.safe_load((FILES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    containers = [group["template"]["spec"]["containers"] for group in (head, *workers)]
    assert {one["image"] for each in containers for one in each} == {"IMAGE"}
    folders = {
        mount["mountPath"] for each in containers for one in each for mount in one["volumeMounts"]
    }
    (folder,) = folders
    assert f"--out {folder}/" in job["spec"]["entrypoint"]
    limits = [one["resources"]["limits"] for each in containers[1:] for one in each]
    assert [limit["nvidia.com/gpu"] for limit in limits] == ["1"]
    assert cluster["authOptions"] == {"mode": "token"}
