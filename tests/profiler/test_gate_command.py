"""`tpprof gate` as a user runs it: real repositories, real processes, the pytest plug-in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made import cell, record, sample

import tpprof as package
from tpprof.methods.core.errors import InputError
from tpprof.profiler.gate.arms import Arm, arm
from tpprof.profiler.gate.session import in_a_fresh_process
from tpprof.reports.gate import config as configuration
from tpprof.reports.gate.reading import decoded
from tpprof.reports.gate.verdicts import NoVerdictError
from tpprof.reports.record import SCHEMA

RUN = [sys.executable, "-c", "from tpprof.profiler.cli import main; main()"]
SMALL = ["--model", "tiny-llava", "--device", "cpu", "--visual-tokens", "64"]
PLUGIN = Path(__file__).parent.parent / "onemore.py"


def tpprof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of somebody's own method, with a commit before the one at hand."""
    folder = tmp_path / "mine"
    (folder / "lib").mkdir(parents=True)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "--quiet")
    for keep in (7, 8):
        text = PLUGIN.read_text().replace("KEEP = 7", f"KEEP = {keep}")
        (folder / "lib" / "mine.py").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", f"keep {keep}")
    return folder


def test_the_arms_of_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    with arm("base", "HEAD~1", ["lib/mine.py"]) as base, arm("head", ".", ["lib/mine.py"]) as head:
        (old,), (new,) = base.plugins, head.plugins
        assert "KEEP = 7" in Path(old).read_text()
        assert "KEEP = 8" in Path(new).read_text()
        assert base.paths == (str(Path(old).parent.parent),)
        assert (base.root, base.told[:7]) == (None, "commit ")
    assert not Path(old).exists()
    done = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1, "nothing is left behind"
    with pytest.raises(NoVerdictError, match="has no plug-in"), arm("b", "HEAD", ["lib/none.py"]):
        pass
    with arm("base", sys.executable, ["lib/mine.py"]) as interpreter:
        assert interpreter.python == sys.executable


@pytest.mark.parametrize("text", ["no-such-commit", "none.py", "--help"])
def test_an_arm_that_is_nothing(
    text: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=r"is no commit|no such plug-in"), arm("base", text, []):
        pass


def test_a_commit_of_tpprof_is_imported_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process in a checkout of its own, with a mark that the installed tpprof lacks."""
    root, copy = Path(package.__file__).parent, tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "__pycache__", "runs")
    shutil.copytree(root, copy, ignore=ignored)
    vanilla = copy / "methods" / "vanilla.py"
    vanilla.write_text(
        vanilla.read_text().replace('@register("vanilla")', '@register("vanilla")\n')
    )
    environment = copy / "profiler" / "environment.py"
    environment.write_text(
        environment.read_text().replace(
            '"gpu": None,\n    }', '"gpu": None, "mark": __file__,\n    }', 1
        )
    )
    assert '"mark"' in environment.read_text()
    task = {
        "root": str(copy), "paths": [], "plugins": [str(PLUGIN)], "methods": ["loudest"],
        "requests": 2, "workload": {"visual_tokens": 64, "size": [672, 672]},
        "options": {"model": "tiny-llava", "device": "cpu", "attention": ["rows"]},
    }  # fmt: skip
    code, failure, content = in_a_fresh_process(Arm("base", "copy"), task)
    assert (code, failure) == (0, "")
    found = decoded(content)
    assert found.environment["mark"].startswith(str(copy))
    loudest = found.cells[1]
    assert loudest.visual_per_layer[3:] == [7] * 13
    assert len(loudest.samples) == 2
    code, failure, _ = in_a_fresh_process(Arm("base", ""), {**task, "methods": ["loudets"]})
    assert code == 2
    assert "did you mean 'loudest'" in failure


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of a plug-in method beside it."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "mine.py").write_text(PLUGIN.read_text())
    made = tpprof(
        "gate", "check", "deep/b.json", "--update", "loudest", *SMALL, "--plugin", "mine.py",
        cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "deep" / "b.json"


def test_a_method_that_keeps_one_token_more_fails_with_its_layer(baseline: Path) -> None:
    """From another folder than it was made in: paths lead from the baseline."""
    assert json.loads(baseline.read_text())["subject"]["plugins"] == ["../mine.py"]
    plugin = baseline.parent.parent / "mine.py"
    results = ["--json", "o.json", "--junit", "o.xml", "--summary", "s.md"]
    equal = tpprof("gate", "check", str(baseline), cwd=plugin.parent.parent)
    assert equal.returncode == 0, equal.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 7", "KEEP = 8"))
    more = tpprof("gate", "check", "deep/b.json", *results, cwd=plugin.parent)
    assert more.returncode == 1, more.stdout
    assert "layers 3 to 15 7 -> 8" in (plugin.parent / "s.md").read_text()
    assert json.loads((plugin.parent / "o.json").read_text())["verdict"] == "FAIL"

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", "deep/b.json"],
        cwd=plugin.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "layers 3 to 15 7 -> 8" in done.stdout
    assert "1 failed, 2 passed" in done.stdout

    plugin.write_text(plugin.read_text().replace('"loudest"', '"louder"'))
    renamed = tpprof("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (renamed.returncode, "missing here" in renamed.stdout) == (3, True), renamed.stdout
    plugin.write_text(plugin.read_text().replace('"louder"', '"loudest"'))

    accepted = tpprof("gate", "check", "deep/b.json", "--update", cwd=plugin.parent)
    assert accepted.returncode == 0
    assert "accepted" in accepted.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 8", "KEEP = 7"))
    fewer = tpprof("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (fewer.returncode, "update the baseline" in fewer.stdout) == (0, True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "damaged"), ('{"schema": 7}', "schema 7"), (None, "make it with --update")],
)
def test_a_baseline_that_cannot_be_read_has_no_verdict(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    done = tpprof("gate", "check", "b.json", cwd=tmp_path)
    assert (done.returncode, reason in done.stdout) == (3, True), done.stdout
    again = tpprof("gate", "check", "b.json", "--update", cwd=tmp_path)
    assert again.returncode == 3, "what it counted is not known"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", "b.json"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert tests.returncode == 1
    assert "NO VERDICT" in tests.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "b.json", "fastv"], "go with --update"),
        (["check", "b.json", "--update", "fastw"], "did you mean 'fastv'"),
        (["check", "b.json", "--update", "x", "--plugin", "no.py"], "no such file"),
        (["ab", "none", "other", "fastv"], "is no .py file, no environment"),
        (["ab", ".", ".", "--pairs", "8,x"], "is not a list of counts"),
        (["ab", ".", ".", "--metric", "speed"], "known: latency, prefill, decode"),
        (["ab", ".", ".", "--tolerance", "much"], "is not a share"),
        (["ab", ".", ".", "--config", "none.toml"], "see tpprof gate init"),
        (["compare", "a.json", "b.json"], "no such record"),
        (["calibrate"], "see tpprof gate init"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = tpprof("gate", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def saved() -> Any:
    """The record of vanilla and of fastv, eight rounds."""
    samples = [sample(number, 1.0 + 0.01 * (number % 3)) for number in range(8)]
    cells = [cell(m, "rows", 1.0, 1_000_000, samples=samples) for m in ("vanilla", "fastv")]
    whole = record(*cells)
    whole.environment = {"device_type": "cpu"}
    return whole


def test_records_that_cannot_be_read_have_no_verdict(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.json", tmp_path / "torn.json"
    whole.write_bytes(msgspec.json.encode(saved()))
    torn.write_bytes(whole.read_bytes()[:-100])
    assert tpprof("gate", "compare", "whole.json", "whole.json", cwd=tmp_path).returncode == 0
    for pair in (("torn.json", "whole.json"), ("whole.json", "torn.json")):
        done = tpprof("gate", "compare", *pair, cwd=tmp_path)
        assert (done.returncode, "no tpprof record" in done.stdout) == (3, True), done.stdout
    torn.write_bytes(whole.read_bytes().replace(b'"schema":%d' % SCHEMA, b'"schema":99'))
    done = tpprof("gate", "compare", "whole.json", "torn.json", cwd=tmp_path)
    assert (done.returncode, "schema 99" in done.stdout) == (3, True), done.stdout


def test_gate_toml_is_begun(tmp_path: Path) -> None:
    done = tpprof("gate", "init", "fastv", "--visual-tokens", "64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = configuration.load(tmp_path / "gate.toml")
    assert config.subject.methods == ["fastv"]
    assert config.subject.workload["visual_tokens"] == 64


def test_pytest_without_the_option_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\n\ndef test_one():\n"
        "    assert 'tpprof.profiler.gate.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'msgspec', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
