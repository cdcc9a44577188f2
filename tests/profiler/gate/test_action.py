"""The composite action: its steps run as plain shell, as a runner would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import tpprof

ACTION = Path(tpprof.__file__).parent / "action.yml"
TOOL = """\
#!/bin/sh
echo "$@" >> calls
case "$2" in
  check) echo exact >> "$TPPROF_SUMMARY"; code=${EXACT_CODE:-0};;
  ab) code=${TIMING_CODE:-0};;
esac

while [ $# -gt 0 ]; do
  [ "$1" = --help ] && exit 0
  if [ "$1" = --json ]; then
    mkdir -p "$(dirname "$2")"
    { echo '"exit_code":' "$code"; echo "${ROWS:-}"; } > "$2"
  fi
  shift
done
exit $code
"""


class Runner:
    """Runs the steps in order. tool: whether a stand-in takes the place of the real command."""

    def __init__(self, folder: Path, inputs: dict[str, str], *, tool: str | None = TOOL) -> None:
        self.action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
        defaults = {name: given["default"] for name, given in self.action["inputs"].items()}
        assert set(inputs) <= set(defaults)
        self.folder, self.inputs = folder, {**defaults, "install": "", **inputs}
        self.outputs: dict[str, dict[str, str]] = {}
        self.told = ""
        binaries = folder / "bin"
        binaries.mkdir()
        command = tool or (f"#!{sys.executable}\nfrom tpprof.profiler.cli import main\nmain()\n")
        (binaries / "tpprof").write_text(command)
        (binaries / "tpprof").chmod(0o755)
        self.path = f"{binaries}{os.pathsep}{os.environ['PATH']}"

    def run(self, **environment: str) -> int:
        """The exit code of the first step that fails, or 0."""
        for step in self.action["runs"]["steps"]:
            if "if" in step and not self._true(step["if"]):
                continue
            out = self.folder / "output"
            out.write_text("")
            given = {name: self._filled(text) for name, text in step.get("env", {}).items()}
            summary = str(self.folder / "summary.md")
            done = subprocess.run(
                [step["shell"], "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.folder,
                capture_output=True,
                text=True,
                env={
                    **os.environ,
                    **given,
                    "PATH": self.path,
                    "GITHUB_OUTPUT": str(out),
                    "GITHUB_STEP_SUMMARY": summary,
                    "TPPROF_SUMMARY": summary,
                    **environment,
                },
            )
            self.told += done.stdout + done.stderr
            if done.returncode:
                return done.returncode
            pairs = [line.partition("=") for line in out.read_text().splitlines()]
            self.outputs[step.get("id", "")] = {name: value for name, _, value in pairs}
        return 0

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ *([^ }]+) *\}\}", lambda found: self._value(found[1]), text)

    def _value(self, name: str) -> str:
        kind, *rest = name.split(".")
        if kind == "inputs":
            return self.inputs[rest[0]]
        step, outputs, output = rest
        assert (kind, outputs) == ("steps", "outputs")
        return self.outputs.get(step, {}).get(output, "")

    def _true(self, condition: str) -> bool:
        found = re.fullmatch(r"([\w.]+) != ''", condition)
        assert found, condition
        return self._value(found[1]) != ""

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(("given", "installed"), [("action", "/the action"), ("a b", "a b")])
def test_what_is_installed(given: str, installed: str, tmp_path: Path) -> None:
    runner = Runner(tmp_path, {"install": given, "baseline": "b.json"})
    stand_in = tmp_path / "bin" / "python"
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word" >> installed; done\n')
    stand_in.chmod(0o755)
    assert runner.run(GITHUB_ACTION_PATH="/the action") == 0, runner.told
    assert (tmp_path / "installed").read_text().splitlines()[-1] == installed


def test_nothing_of_the_inputs_is_pasted_into_a_script() -> None:
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_both_gates_run_with_their_arguments(tmp_path: Path) -> None:
    inputs = {
        "baseline": "my file.json",
        "base": "origin/main",
        "arguments": "fastv* --metric latency",
        "config": "gate.toml",
    }
    runner = Runner(tmp_path, inputs)
    (tmp_path / "fastv.txt").write_text("")  # which the shell must not put in the place of fastv*
    assert runner.run() == 0, runner.told
    exact, timing = runner.calls
    begun = "gate check my file.json --since origin/main --json tpprof-gate/exact.json"
    assert exact.startswith(begun)
    assert timing.startswith("gate ab origin/main . fastv* --metric latency --config gate.toml")
    assert (runner.outputs["exact"], runner.outputs["timing"]) == ({"code": "0"}, {"code": "0"})


@pytest.mark.parametrize(
    ("exact", "timing", "inconclusive", "wanted"),
    [
        ("0", "0", "pass", 0),
        ("1", "0", "pass", 1),
        ("0", "1", "pass", 1),
        ("3", "0", "pass", 3),
        ("0", "3", "pass", 3),
        ("2", "0", "pass", 2),
        ("0", "4", "pass", 0),
        ("0", "4", "fail", 4),
        ("0", "4", "fial", 4),
        ("3", "1", "pass", 1),
        ("4", "3", "fail", 3),
        ("4", "0", "pass", 4),
    ],
)
def test_codes_become_the_jobs(
    exact: str, timing: str, inconclusive: str, wanted: int, tmp_path: Path
) -> None:
    runner = Runner(tmp_path, {"baseline": "b", "base": "main", "inconclusive": inconclusive})
    assert runner.run(EXACT_CODE=exact, TIMING_CODE=timing) == wanted
    assert len(runner.calls) == 2, "one gate does not hide the other"
    if wanted:
        assert "::error::" in runner.told


@pytest.mark.parametrize(
    "inputs",
    [
        {"base": "main", "arguments": "--help"},
        {"base": "--help"},
        {"base": "main", "head": "--help"},
        {"baseline": "--help"},
    ],
)
def test_help_instead_of_a_verdict_is_no_pass(inputs: dict[str, str], tmp_path: Path) -> None:
    stale = tmp_path / "tpprof-gate"
    stale.mkdir()
    for name in ("exact", "timing"):
        (stale / f"{name}.json").write_text('"exit_code": 0')
    order = TOOL.replace(
        'echo "$@" >> calls', 'for word in "$@"; do [ "$word" = --help ] && exit 0; done'
    )
    runner = Runner(tmp_path, inputs, tool=order)
    assert runner.run() == 3, runner.told


def test_what_was_not_judged_is_not_waved_through_as_inconclusive(tmp_path: Path) -> None:
    runner = Runner(tmp_path, {"base": "main", "inconclusive": "pass"})
    assert runner.run(TIMING_CODE="4", ROWS='"verdict": "not judged"') == 3


def test_a_job_that_gates_nothing_is_no_pass(tmp_path: Path) -> None:
    assert Runner(tmp_path, {}).run() == 2


def test_the_real_command_leaves_its_results(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"schema": 1')
    runner = Runner(tmp_path, {"baseline": "b.json"}, tool=None)
    assert runner.run() == 3, runner.told
    assert "NO VERDICT" in (tmp_path / "summary.md").read_text()
    assert "<error" in (tmp_path / "tpprof-gate" / "exact.xml").read_text()
