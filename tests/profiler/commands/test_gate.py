"""`tpprof gate` as a user runs it: files, options, records, the pytest plug-in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import PLUGIN, PYTEST, SMALL, in_this_process, tpprof
from record_builders import cell, record, sample

from tpprof.profiler.commands.options import Typed
from tpprof.reports.gate.config import load_config
from tpprof.reports.record.environment import Environment
from tpprof.reports.record.schema import SCHEMA
from tpprof.reports.record.spec import Subject, Workload
from tpprof.reports.record.spec_files import rooted


def test_options_change_what_a_file_says_field_by_field() -> None:
    kept = Subject.of(
        methods=["fastv"],
        model="tiny-llava",
        visual_tokens=64,
        new_tokens=2,
        plugin=["lib/mine.py"],
    )
    found = Typed({"device": "cpu", "seed": 3}).over(rooted(kept, Path("/there")))
    assert found.cells.methods == ("fastv",)
    assert (found.model.name, found.model.device, found.model.seed) == ("tiny-llava", "cpu", 3)
    assert found.cells.plugin == (str(Path("/there/lib/mine.py")),)
    assert found.workload == kept.workload
    found = Typed({"image": str(PLUGIN)}).over(rooted(kept, Path("/there")))
    assert found.workload == Workload(new_tokens=2, image=str(PLUGIN))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, warm_children: None) -> Path:
    """A baseline of a plug-in method beside it."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "mine.py").write_text(PLUGIN.read_text())
    made = in_this_process(
        "gate",
        "check",
        "deep/b.json",
        "--update",
        "loudest",
        *SMALL,
        "--text-tokens",
        "1,1",
        "--plugin",
        "mine.py",
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    return folder / "deep" / "b.json"


def test_a_method_that_keeps_one_token_more_fails_with_its_layer(baseline: Path) -> None:
    """From another folder than it was made in: paths lead from the baseline."""
    assert json.loads(baseline.read_text())["subject"]["cells"]["plugin"] == ["../mine.py"]
    plugin = baseline.parent.parent / "mine.py"
    results = ["--json", "o.json", "--junit", "o.xml", "--summary", "s.md"]
    equal = in_this_process("gate", "check", str(baseline), cwd=plugin.parent.parent)
    assert equal.returncode == 0, equal.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 7", "KEEP = 8"))
    more = in_this_process("gate", "check", "deep/b.json", *results, cwd=plugin.parent)
    assert more.returncode == 1, more.stdout
    assert "layers 3 to 15 7 -> 8" in (plugin.parent / "s.md").read_text()
    assert json.loads((plugin.parent / "o.json").read_text())["verdict"] == "FAIL"

    (plugin.parent / "test_mine.py").write_text("import mine\n\ndef test_it():\n    pass\n")
    done = subprocess.run(
        [*PYTEST, "--tpprof-gate", "deep/b.json"],
        cwd=plugin.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert "layers 3 to 15 7 -> 8" in done.stdout
    assert "1 failed, 4 passed" in done.stdout, "though a test has imported the plug-in already"

    plugin.write_text(plugin.read_text().replace('"loudest"', '"louder"'))
    renamed = in_this_process("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (renamed.returncode, "missing here" in renamed.stdout) == (3, True), renamed.stdout
    plugin.write_text(plugin.read_text().replace('"louder"', '"loudest"'))

    accepted = in_this_process("gate", "check", "deep/b.json", "--update", cwd=plugin.parent)
    assert accepted.returncode == 0
    assert "accepted" in accepted.stdout
    plugin.write_text(plugin.read_text().replace("KEEP = 8", "KEEP = 7"))
    fewer = in_this_process("gate", "check", "deep/b.json", cwd=plugin.parent)
    assert (fewer.returncode, "update the baseline" in fewer.stdout) == (0, True)

    longer = ["--update", "--new-tokens", "3", "--html", "o.html"]
    changed = in_this_process("gate", "check", "deep/b.json", *longer, cwd=plugin.parent)
    assert changed.returncode == 0, changed.stdout
    subject = json.loads(baseline.read_text())["subject"]
    assert (subject["cells"]["methods"], subject["model"]["name"]) == (["loudest"], "tiny-llava")
    assert (subject["workload"]["new_tokens"], subject["cells"]["plugin"]) == (3, ["../mine.py"])
    assert "Counts against the baseline" in (plugin.parent / "o.html").read_text()
    more = json.loads(baseline.read_text())
    more["subject"]["cells"]["methods"].append("toil")
    baseline.write_text(json.dumps(more))
    done = subprocess.run(
        [*PYTEST, "--tpprof-gate", "deep/b.json"],
        cwd=plugin.parent,
        capture_output=True,
        text=True,
    )
    assert "1 failed, 4 passed" in done.stdout, "what the baseline lacks is no pass"
    damaged = json.loads(baseline.read_text())
    damaged["subject"]["workload"]["image_size"] = "x"
    baseline.write_text(json.dumps(damaged))
    damaged = in_this_process("gate", "check", "deep/b.json", cwd=plugin.parent)
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
    done = in_this_process("gate", "check", "b.json", cwd=tmp_path)
    assert (done.returncode, reason in done.stdout) == (3, True), done.stdout
    again = in_this_process("gate", "check", "b.json", "--update", cwd=tmp_path)
    assert again.returncode == 3, "what it counted is not known"
    tests = subprocess.run(
        [*PYTEST, "--tpprof-gate", "b.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert tests.returncode == 1
    assert "NO VERDICT" in tests.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "b.json", "fastv"], "go with --update"),
        (["check", "b.json", "--update", "fastw"], "did you mean 'fastv'"),
        (["check", "b.json", "--update", "x", "--plugin", "no.py"], "no such file"),
        (["ab", "none", "other", "fastv"], "is no .py file, no environment"),
        (["ab", "", ".", "fastv"], "BASE is empty (an unset variable?)"),
        (["ab", "m.py", "", "fastv"], "HEAD is empty (an unset variable?)"),
        (["check", "b.json", "--update", "fastv", "--memory", "90%"], "at most 0.25"),
        (["ab", ".", ".", "fastv", "--tolerance", "900%"], "at most 1"),
        (["ab", ".", ".", "fastv", "--pairs", "8,x"], "is not a list of counts"),
        (["ab", ".", ".", "fastv", "--metric", "speed"], "known: latency, prefill, decode"),
        (["ab", ".", ".", "fastv", "--tolerance", "much"], "is not a share"),
        (["ab", ".", ".", "--config", "none.toml"], "see tpprof gate init"),
        (["ab", ".", "."], "name a METHOD"),
        (["ab", ".", ".", "fastv"], "not of a git repository"),
        (["ab", "m.py", "n.py", "fastv", "--out", "b.json/x.jsonl"], "is not a folder"),
        (["check", "b.json", "--update", "fastv", "--memory", "0"], "a share above 0"),
        (["check", "b.json", "--update", "fastv", "--memory", "x"], "is not a share"),
        (["init"], "name a METHOD"),
        (["init", "fastw"], "did you mean 'fastv'"),
        (["check", "b.json", "--json", "b.json"], "is read by this command"),
        (["check", "b.json", "--html", "o", "--junit", "./o"], "are one file"),
        (["ab", ".", ".", "fastv", "--pairs", "8,10,12,14,16,18,20,22,24,26,28"], "at most"),
        (["ab", ".", ".", "fastv", "--tolerance", "5"], "did you mean 5%?"),
        (["compare", "a.json", "b.json"], "no such record"),
        (["calibrate"], "see tpprof gate init"),
        (["ab", "none.py", "none.py", "--config", "empty.toml"], "names no method"),
        (["calibrate", "empty.toml", "--pairs", "7"], "names no method"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    for name in ("b.json", "m.py", "n.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "empty.toml").write_text("schema = 2\n[subject]\n[rules]\n")
    done = tpprof("gate", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def saved() -> Any:
    """The record of vanilla and of fastv, eight rounds."""
    samples = [sample(number, 1.0 + 0.01 * (number % 3)) for number in range(8)]
    cells = [cell(m, "rows", 1.0, 1_000_000, samples=samples) for m in ("vanilla", "fastv")]
    whole = record(*cells)
    whole.environment = Environment(device_type="cpu")
    return whole


def test_records_that_cannot_be_read_have_no_verdict(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.json", tmp_path / "torn.json"
    whole.write_bytes(msgspec.json.encode(saved()))
    torn.write_bytes(whole.read_bytes()[:-100])
    same = tpprof("gate", "compare", "whole.json", "whole.json", cwd=tmp_path)
    assert (same.returncode, "of one run" in same.stdout) == (3, True)
    for pair in (("torn.json", "whole.json"), ("whole.json", "torn.json")):
        done = tpprof("gate", "compare", *pair, cwd=tmp_path)
        assert (done.returncode, "no tpprof record" in done.stdout) == (3, True), done.stdout
    torn.write_bytes(whole.read_bytes().replace(b'"schema":%d' % SCHEMA, b'"schema":99'))
    done = tpprof("gate", "compare", "whole.json", "torn.json", cwd=tmp_path)
    assert (done.returncode, "schema 99" in done.stdout) == (3, True), done.stdout


def test_gate_toml_is_begun(tmp_path: Path) -> None:
    done = tpprof("gate", "init", "fastv", "--visual-tokens", "64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "gate.toml")
    assert config.subject.cells.methods == ("fastv",)
    assert config.subject.workload.visual_tokens == 64


def test_pytest_without_the_option_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\n\ndef test_one():\n"
        "    assert 'tpprof.profiler.gate.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'msgspec', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run(PYTEST, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
