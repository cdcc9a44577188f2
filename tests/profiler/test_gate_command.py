"""`tpprof gate` as a user runs it: real repositories, real processes, the pytest plug-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from made import cell, record, sample

import tpprof as package
from tpprof.methods.core.errors import InputError
from tpprof.profiler.gate.arms import Arm, arm
from tpprof.profiler.gate.options import Named, subject_of
from tpprof.profiler.gate.session import in_a_fresh_process
from tpprof.reports.gate import config as configuration
from tpprof.reports.gate.journal import Ran, read
from tpprof.reports.gate.reading import decoded
from tpprof.reports.gate.snapshot import Subject
from tpprof.reports.gate.told import from_json
from tpprof.reports.gate.verdicts import NoVerdictError, Verdict
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
    done = subprocess.run(
        ["git", "status", "--short"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout == "", "the index of the repository is as it was"
    with pytest.raises(NoVerdictError, match="has no plug-in"), arm("b", "HEAD", ["lib/none.py"]):
        pass
    with arm("base", sys.executable, ["lib/mine.py"]) as interpreter:
        assert interpreter.python == sys.executable


def test_a_folder_has_its_own_plug_in(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the repository at hand, it is looked for in the other one."""
    other = repository.parent / "other tree"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(other)], check=True)
    (other / "lib" / "mine.py").write_text(PLUGIN.read_text().replace("KEEP = 7", "KEEP = 9"))
    monkeypatch.chdir(repository)
    with arm("base", "../other tree", ["lib/mine.py"]) as base:
        assert "KEEP = 9" in Path(base.plugins[0]).read_text()
    (other / "lib" / "mine.py").unlink()
    with (
        pytest.raises(NoVerdictError, match="has no plug-in"),
        arm("base", "../other tree", ["lib/mine.py"]),
    ):
        pass


def test_what_may_be_two_things_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    subprocess.run(["git", "branch", "lib"], check=True)
    with (
        pytest.raises(InputError, match=r"give ./lib for one, refs/heads/lib"),
        arm("b", "lib", []),
    ):
        pass
    with arm("base", "./lib", []) as folder, arm("base", "refs/heads/lib", []) as commit:
        assert (folder.told, commit.told[:6]) == ("working tree ./lib", "commit")


def test_an_environment_that_cannot_be_started(repository: Path) -> None:
    python = repository / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/no/such/python\n")
    with (
        pytest.raises(InputError, match="cannot be executed"),
        arm("b", str(repository / "env"), []),
    ):
        pass
    python.chmod(0o755)
    with (
        arm("base", str(repository / "env"), []) as base,
        pytest.raises(InputError, match="cannot be started"),
    ):
        in_a_fresh_process(base, {})


@pytest.mark.parametrize("text", ["no-such-commit", "none.py", "--help"])
def test_an_arm_that_is_nothing(
    text: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=r"is no commit|no such plug-in"), arm("base", text, []):
        pass


TASK: dict[str, Any] = {
    "root": None, "paths": [], "plugins": [str(PLUGIN)], "methods": ["loudest"], "requests": 2,
    "passes": True, "workload": {"visual_tokens": 64, "size": [672, 672]},
    "options": {"model": "tiny-llava", "device": "cpu", "attention": ["rows"]},
}  # fmt: skip


def test_a_commit_of_tpprof_is_imported_and_nothing_else(tmp_path: Path) -> None:
    """A real process in a checkout of its own; what that lacks is not filled from the installed
    one."""
    root, copy = Path(package.__file__).parent, tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "__pycache__", "runs")
    shutil.copytree(root, copy, ignore=ignored)
    code, failure, content = in_a_fresh_process(Arm("base", "copy"), {**TASK, "root": str(copy)})
    assert (code, failure) == (0, "")
    found = decoded(content)
    origins = found.environment["origins"]
    assert origins["tpprof"] == str(copy / "__init__.py")
    assert origins["method vanilla"] == str(copy / "methods" / "vanilla.py")
    assert origins["method loudest"] == str(PLUGIN)
    loudest = found.cells[1]
    assert loudest.visual_per_layer[3:] == [7] * 13
    assert len(loudest.samples) == 2
    assert loudest.counted_flops["prefill"] == sum(
        item.flops for item in loudest.cost if item.phase == "prefill"
    )
    (copy / "profiler" / "plan_table.py").unlink()
    plugin = tmp_path / "mine.py"
    plugin.write_text("import tpprof.profiler.plan_table\n")
    task = {**TASK, "root": str(copy), "plugins": [str(plugin)]}
    code, failure, _ = in_a_fresh_process(Arm("base", "copy"), task)
    assert (code, "plan_table" in failure) == (1, True), failure


def test_what_an_arm_lacks_is_told_from_what_fails_in_it(tmp_path: Path) -> None:
    code, failure, _ = in_a_fresh_process(Arm("base", ""), {**TASK, "methods": ["loudets"]})
    assert (code, "did you mean 'loudest'" in failure) == (2, True), failure
    broken = tmp_path / "broken.py"
    broken.write_text("import\n")
    code, failure, _ = in_a_fresh_process(Arm("head", ""), {**TASK, "plugins": [str(broken)]})
    assert (code, "could not be loaded" in failure) == (1, True), failure
    code, _, _ = in_a_fresh_process(Arm("head", ""), {**TASK, "plugins": ["no_such_module"]})
    assert code == 2
    empty = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    with arm("head", str(empty), []) as bare:
        code, failure, _ = in_a_fresh_process(bare, TASK)
    assert (code, "No module named" in failure) == (2, True), failure


def test_another_environment_runs_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the folder at hand nor PYTHONPATH, which both sides would share, is asked."""
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (packages,) = env.glob("lib/python*/site-packages")
    ours = sysconfig.get_paths()["purelib"]
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    wrong = tmp_path / "wrong" / "tpprof"
    wrong.mkdir(parents=True)
    (wrong / "__init__.py").write_text("raise SystemError('the wrong one')\n")
    monkeypatch.chdir(wrong.parent)
    monkeypatch.setenv("PYTHONPATH", str(wrong.parent))
    with arm("head", str(env), [str(PLUGIN)]) as other:
        task = {**TASK, "requests": 1, "passes": False}
        code, failure, content = in_a_fresh_process(other, task)
    assert (code, failure) == (0, "")
    found = decoded(content)
    assert found.environment["origins"]["python"].startswith(str(env))
    assert found.cells[1].counted_flops == {}, "no passes were asked for"


AB = [
    "HEAD~1", ".", "loudest", "--plugin", "lib/mine.py", *SMALL, "--pairs", "8",
    "--requests", "1", "--metric", "latency", "--tolerance", "900%", "--out", "runs/j.jsonl",
]  # fmt: skip


def test_two_commits_are_timed(repository: Path) -> None:
    """From the command line to the verdict. The head keeps a token more, as it is meant to."""
    results = ["--json", "o.json", "--html", "o.html", "--accept-counts"]
    done = tpprof("gate", "ab", *AB, *results, cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    gate = from_json((repository / "o.json").read_bytes())
    verdicts = {row.metric: row.verdict for row in gate.rows if row.cell.startswith("loudest")}
    assert verdicts["latency ms"] is Verdict.PASS
    assert verdicts["visual tokens, sum of layers"] is Verdict.ACCEPTED
    assert verdicts["FLOPs, counted"] is Verdict.ACCEPTED
    lines = read(repository / "runs" / "j.jsonl")
    ran = [line for line in lines if isinstance(line, Ran)]
    assert "".join(line.arm for line in ran) == "AB" + "ABBABAAB" * 2
    assert all("tpprof-gate-" in ran[n].origins["method loudest"] for n in (0, 2, 5))
    assert {ran[n].origins["method loudest"] for n in (1, 3, 4)} == {
        str(repository / "lib" / "mine.py")
    }
    assert "Head against base, timed" in (repository / "o.html").read_text()


@pytest.mark.parametrize(
    ("victim", "number", "code", "told"),
    [("child", signal.SIGKILL, 3, "SIGKILL"), ("gate", signal.SIGHUP, 143, "interrupted")],
)
def test_what_is_killed_gives_no_pass_and_leaves_nothing_behind(
    victim: str, number: int, code: int, told: str, repository: Path
) -> None:
    scratch = repository.parent / "scratch"
    scratch.mkdir()
    gate = subprocess.Popen(
        [*RUN, "gate", "ab", *AB, "--accept-counts"], cwd=repository, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    journal = repository / "runs" / "j.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        assert gate.poll() is None, gate.communicate()
        time.sleep(0.05)
    own = psutil.Process(gate.pid)
    while not own.children():
        time.sleep(0.01)
    (own.children()[0] if victim == "child" else own).send_signal(number)
    output, errors = gate.communicate()
    assert gate.returncode == code, output + errors
    assert told in output + errors
    kept = [line for line in read(journal) if isinstance(line, Ran)]
    assert [line.arm for line in kept[:3]] == list("ABA")
    assert not list(scratch.glob("tpprof-gate-*"))


def test_options_change_what_a_file_says_field_by_field() -> None:
    kept = Subject(
        methods=["fastv"], model="tiny-llava", workload={"visual_tokens": 64, "new_tokens": 2},
        plugins=["lib/mine.py"],
    )  # fmt: skip
    named = Named(subject_of(device="cpu", new_tokens=2, seed=3), frozenset({"device", "seed"}))
    found = named.over(kept, Path("/there"))
    assert (found.methods, found.model, found.device) == (["fastv"], "tiny-llava", "cpu")
    assert found.plugins == [str(Path("/there/lib/mine.py"))]
    assert found.workload == {"visual_tokens": 64, "new_tokens": 2, "seed": 3}


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

    (plugin.parent / "test_mine.py").write_text("import mine\n\ndef test_it():\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tpprof-gate", "deep/b.json"],
        cwd=plugin.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "layers 3 to 15 7 -> 8" in done.stdout
    assert "1 failed, 3 passed" in done.stdout, "though a test has imported the plug-in already"

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

    longer = ["--update", "--new-tokens", "3", "--html", "o.html"]
    changed = tpprof("gate", "check", "deep/b.json", *longer, cwd=plugin.parent)
    assert changed.returncode == 0, changed.stdout
    subject = json.loads(baseline.read_text())["subject"]
    assert (subject["methods"], subject["model"]) == (["loudest"], "tiny-llava")
    assert (subject["workload"]["new_tokens"], subject["plugins"]) == (3, ["../mine.py"])
    assert "Counts against the baseline" in (plugin.parent / "o.html").read_text()
    damaged = json.loads(baseline.read_text())
    damaged["subject"]["workload"]["size"] = "x"
    baseline.write_text(json.dumps(damaged))
    damaged = tpprof("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (damaged.returncode, "workload" in damaged.stdout) == (3, True), damaged.stdout


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
        (["ab", ".", ".", "fastv", "--pairs", "8,x"], "is not a list of counts"),
        (["ab", ".", ".", "fastv", "--metric", "speed"], "known: latency, prefill, decode"),
        (["ab", ".", ".", "fastv", "--tolerance", "much"], "is not a share"),
        (["ab", ".", ".", "--config", "none.toml"], "see tpprof gate init"),
        (["ab", ".", "."], "name a METHOD"),
        (["ab", ".", ".", "fastv"], "not of a git repository"),
        (["ab", "m.py", "m.py", "fastv", "--out", "b.json/x.jsonl"], "cannot be written"),
        (["check", "b.json", "--update", "fastv", "--memory", "0"], "a share above 0"),
        (["check", "b.json", "--update", "fastv", "--memory", "x"], "is not a share"),
        (["init"], "name a METHOD"),
        (["compare", "a.json", "b.json"], "no such record"),
        (["calibrate"], "see tpprof gate init"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    for name in ("b.json", "m.py"):
        (tmp_path / name).write_text("")
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
