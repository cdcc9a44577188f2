"""The built wheel holds every module, and its command starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import tpprof

ROOT = Path(tpprof.__file__).parent


def test_the_wheel_holds_every_module_and_starts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    keep = ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "__main__.py", "py.typed")
    source.mkdir()
    for name in keep:
        shutil.copy(ROOT / name, source / name)
    for floor in ("methods", "profiler", "reports"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / floor, source / floor, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    expected = {
        str(Path("tpprof") / path.relative_to(source))
        for path in source.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed" or path.name.startswith("page.")
        if "build" not in path.relative_to(source).parts[:1]
        if "egg-info" not in str(path)
    }
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert expected <= held
    assert {"page.html.j2", "page.css", "page.js"} <= {Path(name).name for name in held}
    seer = "tpprof/profiler/seer/"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        assert f"{seer}checkpoint/{name}" in held
    assert {f"{seer}MODEL_CARD.md", f"{seer}training/training.log"} <= held
    smol_dino = "tpprof/profiler/smol_dino/"
    assert {f"{smol_dino}MODEL_CARD.md", f"{smol_dino}trained.safetensors"} <= held
    assert f"{smol_dino}training/training.log" in held
    assert not {name for name in held if name.startswith("tpprof/tests")}
    program = "from tpprof.profiler.cli import main; import sys; sys.argv[1:] = ['models']; main()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", _with_packages(program)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "llava-next-7b" in done.stdout


def _with_packages(program: str) -> str:
    """`program` with installed packages, but without the editable install of the source tree."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return f"import sys; sys.path += {packages!r}\n{program}"
