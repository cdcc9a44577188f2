"""The arms of a timing gate: real repositories and environments, each with code of its own."""

from __future__ import annotations

import contextlib
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
from command import PLUGIN, RUN, SMALL, in_this_process

import tpprof as package
from tpprof.methods.contract.errors import InputError
from tpprof.profiler.gate import pairs, probe
from tpprof.profiler.gate.arms import Arm, arm
from tpprof.profiler.gate.base_rules import (
    base_config,
    baseline_changes,
    changes,
    no_longer_measured,
)
from tpprof.profiler.gate.pairs import in_a_fresh_process
from tpprof.profiler.gate.timing import GateOptions, _require_submodules, run_ab
from tpprof.profiler.subprocesses import SILENT
from tpprof.reports.gate.config import Config, load_config, save_config
from tpprof.reports.gate.journal import Ran, read
from tpprof.reports.gate.render import from_json
from tpprof.reports.gate.rules import Rules
from tpprof.reports.gate.tolerant_record import decoded
from tpprof.reports.gate.verdicts import NoVerdictError, Verdict
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import Subject

pytestmark = pytest.mark.usefixtures("warm_children")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of somebody's own method, with a commit before the one at hand."""
    folder = tmp_path / "mine"
    (folder / "lib").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for keep in (7, 8):
        text = PLUGIN.read_text().replace("KEEP = 7", f"KEEP = {keep}")
        (folder / "lib" / "mine.py").write_text(text)
        commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "a change")


def test_the_arms_of_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    with arm("base", "HEAD~1", ["lib/mine.py"]) as base, arm("head", ".", ["lib/mine.py"]) as head:
        (old,), (new,) = base.plugins, head.plugins
        assert "KEEP = 7" in Path(old).read_text()
        assert "KEEP = 8" in Path(new).read_text()
        assert base.paths == (str(Path(old).parent.parent),)
        assert (base.root, base.label[:7]) == (None, "commit ")
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


def test_no_arm_takes_from_the_other(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = repository.parent / "other"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(other)], check=True)
    monkeypatch.chdir(repository.parent)
    with arm("base", str(repository), []) as base, arm("head", str(other), []) as head:
        assert base.tops == head.tops == ()
        assert base.apart(head).tops == (str(other),)
        assert head.apart(base).tops == (str(repository),)
    assert base.apart(base) == base


def test_what_a_plug_in_imports_is_of_its_own_tree(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper beside it, and a package that PYTHONPATH leads to; what is only elsewhere in the
    project is told."""
    plugin = repository / "lib" / "mine.py"
    package = repository / "pkg" / "budget"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("KEEP = 7\n")
    (plugin.parent / "helper.py").write_text("from budget import KEEP\n")
    plugin.write_text(plugin.read_text().replace("KEEP = 8\n", "from helper import KEEP\n"))
    commit(repository)
    (package / "__init__.py").write_text("KEEP = 8\n")
    link = repository.parent / "link"
    link.symlink_to(repository)
    monkeypatch.chdir(link)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", str(link / "pkg"), prepend=os.pathsep)
    task = {**TASK, "requests": 1, "passes": False}
    for text, kept in (("HEAD", 7), (".", 8)):
        with arm("base", text, ["lib/mine.py"]) as side:
            given = {"tree": side.tree, "tops": side.tops, "paths": side.paths}
            code, failure, content = in_a_fresh_process(
                side, {**task, **given, "plugins": side.plugins}
            )
            assert code == 0, failure
            found = decoded(content)
            assert found.cells[1].visual_per_layer[-1] == kept
            code = found.environment.code
            assert code is not None
            names = {Path(file).name for file in code.own}
            assert {"mine.py", "helper.py", "__init__.py"} <= names
            assert code.foreign == []
    (repository / "pkg").rename(repository / "moved")
    monkeypatch.setenv("PYTHONPATH", before)
    elsewhere = f"import sys; sys.path.append({str(repository / 'moved')!r})\nfrom helper"
    plugin.write_text(plugin.read_text().replace("from helper", elsewhere))
    commit(repository)
    asked = GateOptions(
        "HEAD",
        ".",
        Subject.of(
            methods=["loudest"],
            model="tiny-llava",
            device="cpu",
            attention=["rows"],
            plugin=[str(plugin)],
            visual_tokens=16,
            text_tokens=(1, 1),
            new_tokens=1,
        ),
        Rules(metrics=["latency"]),
        repository.parent / "j.jsonl",
        allow_same=True,
    )
    gate = run_ab(asked, lambda label, done, total: None)
    assert gate.code == 3
    assert "base imports what its own tree holds, or another one" in gate.rows[-1].rule
    assert "moved/budget/__init__.py" in gate.rows[-1].rule


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
        assert (folder.label, commit.label[:6]) == ("working tree ./lib", "commit")


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


HELD = {
    "python/mypkg/core.py": "mypkg.core",
    "lib/mypkg/__init__.py": "mypkg",
    "packages/one/src/space/plugin/core.py": "space.plugin.core",
    "python/mypkg/_native.pyx": "mypkg._native",
    "crates/mypkg/_native.rs": "mypkg._native",
    "tools/single.py": "single",
}
"""Where a module may lie in a source tree, and its name."""


@pytest.mark.parametrize("place", HELD)
def test_a_module_that_the_tree_holds_too_is_known_by_its_content(
    place: str, tmp_path: Path
) -> None:
    name = HELD[place]
    own = tmp_path / "tree" / place
    suffix = ".cpython-312-x86_64-linux-gnu.so" if "_native" in name else ".py"
    package = own.name == "__init__.py"
    stem = name.replace(".", "/") + ("/__init__" if package else "")
    installed = tmp_path / "site-packages" / f"{stem}{suffix}"
    for file in (own, installed):
        file.parent.mkdir(parents=True)
        file.write_text("KEEP = 7\n")
    files = {name: str(installed), "other": str(tmp_path / "other.py"), "json": json.__file__}
    tree = str(tmp_path / "tree")
    assert probe._held_too(tree, files) == []
    installed.write_text("KEEP = 8\n")
    assert probe._held_too(tree, files) == [str(installed)]
    stale = tmp_path / "tree" / "build" / "lib" / f"{stem}.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("KEEP = 8\n")
    assert probe._held_too(tree, files) == [str(installed)], "what was built once is no source"


def test_an_installed_project_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is called otherwise than the folder in the tree."""
    tree, site = tmp_path / "tree", tmp_path / "site-packages"
    for folder in (tree / "source", site / "renamed", site / "my_project-1.0.dist-info"):
        folder.mkdir(parents=True)
    (tree / "pyproject.toml").write_text('[project]\nname = "My.Project"\n')
    (tree / "source" / "core.py").write_text("KEEP = 7\n")
    core, information = site / "renamed" / "core.py", site / "my_project-1.0.dist-info"
    core.write_text("KEEP = 7\n")
    (information / "METADATA").write_text("Name: my-project\nVersion: 1.0\n")
    (information / "RECORD").write_text("renamed/core.py,,\n")
    finder = site / "__editable___my_project_finder.py"
    finder.write_text("")
    with (information / "RECORD").open("a") as file:
        file.write(f"{finder.name},,\n")
    monkeypatch.syspath_prepend(str(site))
    assert probe._held_too(str(tree), {finder.stem: str(finder)}) == []
    assert probe._held_too(str(tree), {"renamed.core": str(core)}) == []
    core.write_text("KEEP = 8\n")
    assert probe._held_too(str(tree), {"renamed.core": str(core)}) == [str(core)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", 'project.name = "mine"\n'),
        ("pyproject.toml", '[ project ]  # of ours\n"name" = "mine"\n'),
        ("pyproject.toml", '[tool.poetry]\nname = "mine"\n'),
        ("pyproject.toml", '[tool.flit.metadata]\nmodule = "mine"\n'),
        ("setup.cfg", "[metadata]\nversion = 100%\nname: mine\n"),
        ("setup.py", 'import setuptools; setuptools.setup(name="mine")\n'),
        ("setup.py", 'NAME = "mine"\nsetup(name=NAME)\n'),
        ("setup.py", 'setup(**dict(version="1", name="mine"))\n'),
    ],
)
def test_what_a_project_calls_itself(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert probe._projects([tmp_path / file]) == {"mine"}
    for none in ("[[[", "name", "", "\0", '[project]\nname = ["mine"]\n', "project = 1\n"):
        (tmp_path / file).write_text(none)
        assert probe._projects([tmp_path / file]) == set()


def test_what_was_installed_from_a_tree_is_known_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, site = tmp_path / "my tree", tmp_path / "site-packages"
    information = site / "any-1.0.dist-info"
    for folder in (tree / "source", site / "renamed", information):
        folder.mkdir(parents=True)
    (tree / "source" / "core.py").write_text("KEEP = 7\n")
    core = site / "renamed" / "core.py"
    core.write_text("KEEP = 8\n")
    (information / "METADATA").write_text("Name: any\nVersion: 1.0\n")
    (information / "RECORD").write_text("renamed/core.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    files = {"renamed.core": str(core)}
    assert probe._held_too(str(tree), files) == []
    for given in ("{", "[]", '{"url": 1}', '{"url": "https://example.org/my tree"}'):
        (information / "direct_url.json").write_text(given)
        assert probe._held_too(str(tree), files) == []
    (information / "direct_url.json").write_text(json.dumps({"url": tree.as_uri()}))
    assert probe._held_too(str(tree), files) == [str(core)]
    other = tmp_path / "another"
    other.mkdir()
    (other / "core.py").write_text("KEEP = 9\n")
    assert probe._held_too(str(other), files) == []
    assert probe._held_too(str(other), files, [str(tree)]) == [str(core)]


def test_a_package_that_is_installed_is_not_that_of_the_trees(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in `python`, which is not searched: both sides would run the installed copy."""
    package = repository / "python" / "mypkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(PLUGIN.read_text())
    commit(repository)
    site = repository.parent / "site-packages"
    shutil.copytree(repository / "python", site)
    (package / "method.py").write_text(PLUGIN.read_text().replace("KEEP = 7", "KEEP = 60"))
    monkeypatch.chdir(repository)
    asked = GateOptions(
        "HEAD",
        ".",
        Subject.of(
            methods=["loudest"],
            model="tiny-llava",
            device="cpu",
            attention=["rows"],
            plugin=["mypkg.method"],
            visual_tokens=16,
            text_tokens=(1, 1),
            new_tokens=1,
        ),
        Rules(metrics=["latency"]),
        repository.parent / "j.jsonl",
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    gate = run_ab(asked, lambda label, done, total: None)
    assert gate.code == 3
    assert "head imports what its own tree holds" in gate.rows[-1].rule
    assert str(site / "mypkg" / "method.py") in gate.rows[-1].rule
    monkeypatch.setenv("PYTHONPATH", str(repository / "python"))
    with arm("base", "HEAD", ["mypkg.method"]) as base:
        given = {"tree": base.tree, "tops": base.tops, "paths": base.paths}
        task = {**TASK, **given, "plugins": base.plugins, "requests": 1, "passes": False}
        code, failure, content = in_a_fresh_process(base, task)
    assert code == 0, failure
    assert decoded(content).cells[1].visual_per_layer[-1] == 7, "of its own tree"


@pytest.mark.parametrize("sides", [("", "."), (".", " "), (".", "."), ("HEAD", "same")])
def test_sides_that_are_none_or_the_same_are_no_pass(
    sides: tuple[str, str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    git(repository, "branch", "same", "HEAD~1")
    subject = Subject.of(methods=["fastv"])
    asked = GateOptions(*sides, subject, Rules(), repository.parent / "j.jsonl")
    if not (sides[0].strip() and sides[1].strip()):
        with pytest.raises(InputError, match="an unset variable"):
            run_ab(asked, lambda label, done, total: None)
        return
    gate = run_ab(asked, lambda label, done, total: None)
    assert (gate.code, "are the same" in gate.rows[-1].rule) == (3, True)


def test_the_rules_of_the_base_judge(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    config = repository / "gate.toml"
    subject = Subject.of(methods=["loudest", "toil"], plugin=["lib/mine.py"])
    save_config(Config(schema=2, subject=subject, rules=Rules()), config)
    commit(repository)
    loose = Rules(tolerance={"latency": 1.0}, floor={"latency": 1e-3})
    fewer = Subject.of(methods=["loudest"], plugin=["lib/mine.py"], visual_tokens=9)
    save_config(Config(schema=2, subject=fewer, rules=loose), config)
    with arm("base", "HEAD", []) as base:
        theirs, note = base_config(config, base)
        assert theirs is not None
        assert note == ""
        assert theirs.rules == Rules()
        told = changes(theirs, load_config(config))
        assert "THE HEAD CHANGES THE RULES" in told
        assert "floor latency 5e-05 -> 0.001" in told
        rows = no_longer_measured(theirs, load_config(config))
        assert [(row.cell, row.verdict) for row in rows] == [
            ("toil", Verdict.NOT_JUDGED),
            ("all cells", Verdict.NOT_JUDGED),
        ]
        assert "visual_tokens None -> 9" in rows[1].rule
    with arm("base", "HEAD~1", []) as before:
        assert base_config(config, before) == (
            None,
            "the base has no gate.toml: the rules are those of the head",
        )
    with arm("base", ".", []) as here:
        assert base_config(config, here) == (None, ""), "the same file"


@pytest.mark.parametrize(
    "how", ["to a new file", "outside", "of its folder", "a repository inside"]
)
def test_a_link_does_not_lead_away_from_the_rules_of_the_base(
    how: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head puts its own rules where a link leads, of which the base has nothing."""
    monkeypatch.chdir(repository)
    config, away = repository / "ci" / "gate.toml", repository / "away"
    config.parent.mkdir()
    subject = Subject.of(methods=["loudest"], plugin=["lib/mine.py"])
    save_config(Config(schema=2, subject=subject, rules=Rules()), config)
    commit(repository)
    loose = Config(schema=2, subject=subject, rules=Rules(tolerance={"latency": 1.0}))
    config.unlink()
    if how == "to a new file":
        save_config(loose, config.with_name("loose.toml"))
        config.symlink_to("loose.toml")
    elif how == "outside":
        save_config(loose, repository.parent / "loose.toml")
        config.symlink_to(repository.parent / "loose.toml")
    elif how == "of its folder":
        away.mkdir()
        save_config(loose, away / "gate.toml")
        config.parent.rmdir()
        config.parent.symlink_to(away)
    else:
        subprocess.run(["git", "init", "-q", str(config.parent)], check=True)
        save_config(loose, config)
    for path in (config, Path("ci/gate.toml")):
        with arm("base", "HEAD", []) as base:
            theirs, _ = base_config(path, base)
        assert theirs is not None
        assert theirs.rules == Rules()


def test_a_plugin_that_is_a_link_is_that_of_each_side(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "lib" / "mine.py").rename(repository.parent / "mine.py")
    (repository / "lib" / "mine.py").symlink_to(repository.parent / "mine.py")
    with arm("base", "HEAD", ["lib/mine.py"]) as base:
        assert base.plugins == (str(Path(str(base.tree)) / "lib" / "mine.py"),)


def test_a_commit_has_its_submodules(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were then, if they are here; else what the other side has in them is no comparison:
    an installed copy may have run in its place."""
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    subprocess.run(["git", "init", "-q", str(kernels)], check=True)
    (kernels / "fast.py").write_text("SPEED = 1\n")
    commit(kernels)
    monkeypatch.chdir(repository)
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    subprocess.run(["git", *add, str(kernels), "lib/kernels"], check=True)
    commit(repository)
    (repository / "lib" / "kernels" / "fast.py").write_text("SPEED = 2\n")
    with arm("base", "HEAD", []) as base:
        assert (Path(str(base.tree)) / "lib/kernels/fast.py").read_text() == "SPEED = 1\n"
        assert base.lacking == ()
    shutil.rmtree(repository / "lib" / "kernels" / ".git", ignore_errors=True)
    (repository / "lib" / "kernels" / ".git").unlink(missing_ok=True)
    with arm("base", "HEAD", []) as base, arm("head", ".", []) as head:
        assert base.lacking == ("lib/kernels",)
        ran = Ran(block=-1, turn=0, arm="B", own=[f"{head.tree}/lib/mine.py"])
        _require_submodules(base, head, ran)
        ran.own.append(f"{head.tree}/lib/kernels/fast.py")
        with pytest.raises(NoVerdictError, match=r"base has its submodule lib/kernels not here"):
            _require_submodules(base, head, ran)


@pytest.mark.parametrize(("here", "there"), [(".", "."), ("lib", "lib"), ("new", ".")])
def test_files_are_read_from_the_folder_of_each_side(
    here: str, there: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method may open its kernels by a relative path: each side has its own."""
    (repository / "new").mkdir()
    monkeypatch.chdir(repository / here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with arm("base", "HEAD", []) as base:
        probe._move(base.tree, list(base.tops))
        assert Path.cwd() == Path(str(base.tree)) / there
        os.chdir(repository / here)
        probe._move(None, [])
        assert Path.cwd() == repository / here, "an environment has no folder of its own"
    with arm("head", str(repository), []) as head:
        probe._move(head.tree, list(head.tops))
        assert Path.cwd() == repository / here


def test_a_baseline_that_was_changed_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    path = repository / "b.json"
    path.write_bytes((Path(package.__file__).parent / "tests" / "gate-baseline.json").read_bytes())
    commit(repository)
    assert baseline_changes(path, "HEAD") == ""
    text = path.read_text().replace('"memory": 0.01', '"memory": 0.2')
    path.write_text(text.replace('"generated_tokens": 2', '"generated_tokens": 3', 1))
    told = baseline_changes(path, "HEAD")
    assert "THE BASELINE DIFFERS" in told
    assert "memory 0.01 -> 0.2, vanilla generated tokens 2 -> 3" in told
    assert "has no b.json" in baseline_changes(path, "HEAD~1")
    with pytest.raises(InputError, match="is no commit"):
        baseline_changes(path, "no-such-commit")


@pytest.mark.parametrize("text", ["no-such-commit", "none.py", "--help"])
def test_an_arm_that_is_nothing(
    text: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=r"is no commit|no such plug-in"), arm("base", text, []):
        pass


TASK: dict[str, Any] = {
    "root": None,
    "paths": [],
    "plugins": [str(PLUGIN)],
    "methods": ["loudest"],
    "requests": 2,
    "passes": True,
    "tree": None,
    "tops": [],
    "options": {
        "model": "tiny-llava",
        "device": "cpu",
        "attention": ["rows"],
        "visual_tokens": 16,
        "text_tokens": [1, 1],
        "new_tokens": 1,
        "image_size": [672, 672],
    },
}


def test_a_commit_of_tpprof_is_imported_and_nothing_else(tmp_path: Path) -> None:
    """A real process in a checkout of its own; what that lacks is not filled from the installed
    one."""
    root, copy = Path(package.__file__).parent, tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "__pycache__", "runs")
    shutil.copytree(root, copy, ignore=ignored)
    code, failure, content = in_a_fresh_process(Arm("base", "copy"), {**TASK, "root": str(copy)})
    assert (code, failure) == (0, "")
    found = decoded(content)
    assert msgspec.json.decode(content, type=Record).environment.code is not None
    assert found.environment.code is not None
    origins = found.environment.code.origins
    assert origins["tpprof"] == str(copy / "__init__.py")
    assert origins["method vanilla"] == str(copy / "methods" / "vanilla.py")
    assert origins["method loudest"] == str(PLUGIN)
    loudest = found.cells[1]
    assert loudest.visual_per_layer[3:] == [7] * 13
    assert len(loudest.samples) == 2
    assert loudest.counted_flops["prefill"] == sum(
        item.flops for item in loudest.cost if item.phase == "prefill"
    )
    (copy / "profiler" / "commands" / "flops.py").unlink()
    plugin = tmp_path / "mine.py"
    plugin.write_text("import tpprof.profiler.commands.flops\n")
    task = {**TASK, "root": str(copy), "plugins": [str(plugin)]}
    code, failure, _ = in_a_fresh_process(Arm("base", "copy"), task)
    assert (code, "commands.flops" in failure) == (1, True), failure


def test_what_an_arm_lacks_is_told_from_what_fails_in_it(tmp_path: Path) -> None:
    code, failure, _ = in_a_fresh_process(Arm("base", ""), {**TASK, "methods": ["loudets"]})
    assert (code, "did you mean 'loudest'" in failure) == (2, True), failure
    broken = tmp_path / "broken.py"
    broken.write_text("import\n")
    code, failure, _ = in_a_fresh_process(Arm("head", ""), {**TASK, "plugins": [str(broken)]})
    assert (code, "could not be loaded" in failure) == (1, True), failure
    code, _, _ = in_a_fresh_process(Arm("head", ""), {**TASK, "plugins": ["no_such_module"]})
    assert code == 2
    broken.write_text("import os; os._exit(0)\n")
    code, failure, _ = in_a_fresh_process(Arm("head", ""), {**TASK, "plugins": [str(broken)]})
    assert (code, "ended the process" in failure) == (SILENT, True)
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
    where = Path(package.__file__).parents[1]  # of a tpprof that is on the path, not installed
    (packages / "ours.pth").write_text(f"{where}\nimport site; site.addsitedir({ours!r})\n")
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
    assert found.environment.code.origins["python"].startswith(str(env))
    assert found.cells[1].counted_flops == {}, "no passes were asked for"


AB = [
    "HEAD~1",
    ".",
    "loudest",
    "--plugin",
    "lib/mine.py",
    *SMALL,
    "--text-tokens",
    "1,1",
    "--pairs",
    "8",
    "--requests",
    "1",
    "--metric",
    "latency",
    "--tolerance",
    "100%",
    "--out",
    "runs/j.jsonl",
]


def test_two_commits_are_timed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to the verdict. The head keeps a token more, as it is meant to. The
    looks and the first block are measured; then it is broken off, and each arm says the same
    again."""
    really, answers, asked = pairs.ask, dict[Any, Any](), list[Any]()

    def ask(command: Any, task: Any, environment: Any) -> Any:
        asked.append((task["tree"] == str(repository), task["passes"]))
        if len(asked) <= 6:
            answers[asked[-1]] = really(command, task, environment)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return answers[asked[-1]]

    monkeypatch.setattr(pairs, "ask", ask)
    results = ["--json", "o.json", "--html", "o.html", "--accept-counts"]
    broken_off = in_this_process("gate", "ab", *AB, *results, cwd=repository)
    assert broken_off.returncode == 130
    assert broken_off.stderr.endswith("measured is in runs/j.jsonl, --resume goes on\n")
    anew = in_this_process("gate", "ab", *AB, cwd=repository)
    assert (anew.returncode, "continue it with --resume" in anew.stderr) == (2, True), anew.stderr
    done = in_this_process("gate", "ab", *AB, *results, "--resume", cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    gate = from_json((repository / "o.json").read_bytes())
    verdicts = {row.metric: row.verdict for row in gate.rows if row.cell.startswith("loudest")}
    assert verdicts["latency ms"] is Verdict.PASS
    assert verdicts["visual tokens, sum of layers"] is Verdict.ACCEPTED
    assert verdicts["FLOPs, counted"] is Verdict.ACCEPTED
    lines = read(repository / "runs" / "j.jsonl")
    ran = [line for line in lines if isinstance(line, Ran)]
    assert "".join(line.arm for line in ran) == "ABABBA" + "AB" + "BAAB" + "ABBABAAB"
    assert len({(line.arm, *line.seconds["loudest"]["latency"]) for line in ran}) == 6
    assert all("/lib/mine.py" in ran[n].origins["method loudest"] for n in range(20))
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
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as under nohup, which children inherit
    gate = subprocess.Popen(
        [*RUN, "gate", "ab", *AB, "--accept-counts"],
        cwd=repository,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    signal.signal(signal.SIGHUP, ignored)
    journal = repository / "runs" / "j.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert gate.poll() is None, gate.communicate()
        time.sleep(0.05)
    own = psutil.Process(gate.pid)
    while not (children := measuring(own)):
        assert gate.poll() is None, gate.communicate()
        time.sleep(0.01)
    (children[0] if victim == "child" else own).send_signal(number)
    output, errors = gate.communicate()
    assert gate.returncode == code, output + errors
    assert told in output + errors
    kept = [line for line in read(journal) if isinstance(line, Ran)]
    assert kept[0].arm == "A", "the look at the base, which had ended"
    assert not list(scratch.glob("tpprof-*"))


def measuring(gate: psutil.Process) -> list[psutil.Process]:
    """The children of a gate that are arms; others wait to remove its folders."""
    found = []
    for child in gate.children():
        with contextlib.suppress(psutil.Error):
            found += [child] if "'probe', 'exec'" in child.cmdline()[-1] else []
    return found
