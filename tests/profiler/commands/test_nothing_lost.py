"""What the user had stays, whatever ends a run; and nothing of it outlives its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import PLUGIN, RUN, SMALL, in_this_process, tpprof
from record_builders import cell, record, sample

from tpprof.profiler import cli
from tpprof.profiler.subprocesses import python
from tpprof.reports.record.files import Begun, journal_of, load, save
from tpprof.reports.record.journal import Journal


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.json"
    save(record(cell("vanilla", "rows", 2.0, 1000), cell("fastv", "maps", 1.6, 200)), path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "run.json", "--html", "run.json"],
        ["report", "run.json", "--html", "notes.txt"],
        ["report", "run.json", "--html", "run.jsonl"],
        ["report", "run.json", "--figures", "notes.txt"],
        ["gate", "compare", "run.json", "run.json", "--json", "run.json"],
        ["gate", "compare", "run.json", "run.json", "--json", "notes.txt"],
        ["gate", "compare", "run.json", "run.json", "--json", "a", "--junit", "./a"],
        ["gate", "compare", "run.json", "run.json", "--summary", "run.json"],
        ["gate", "init", "fastv", "--config", "notes.txt"],
        ["gate", "init", "fastv", "--plugin", "plug.py", "--config", "plug.py", "--overwrite"],
        ["gate", "init", "fastv:keep=0", "--config", "new.toml"],
        ["gate", "init", "fastv", "--keep", "0", "--config", "new.toml"],
        ["init", "fastv", "--out", "notes.txt"],
        ["compare", "fastv", "--out", "notes.json"],
        ["compare", "fastv", "--plugin", "plug.py", "--html", "plug.py", "--overwrite"],
        ["compare", "fastv", "--image", "notes.txt", "--html", "notes.txt", "--overwrite"],
        ["compare", "fastv", "--trace", "notes.json"],
        ["compare", "fastv", "--html", "x", "--trace", "x.json", "--out", "x.json"],
        ["gate", "check", "notes.json", "--update", "--html", "notes.json"],
        ["gate", "ab", "plug.py", "plug.py", "random", "--out", "notes.jsonl"],
    ],
    ids=" ".join,
)
def test_a_file_that_is_there_stays(
    arguments: list[str],
    saved: Path,
) -> None:
    for name in ("notes.txt", "notes.json", "notes.jsonl", "plug.py"):
        Path(name).write_text("# mine\n")
    Path("run.jsonl").write_text("mine\n")
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    done = in_this_process(*arguments, cwd=saved.parent)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


@pytest.mark.parametrize("option", ["--keep", "--text-tokens", "--dtype", "--device", "--out"])
@pytest.mark.parametrize("value", ["", "  ", "x" * 20_000, "a\x1b[31m", "\udcff"])
def test_a_text_that_can_be_none_is_refused(option: str, value: str, tmp_path: Path) -> None:
    done = in_this_process("compare", "fastv", option, value, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert option in line
    assert len(line) < 300


def test_a_run_that_is_broken_off_does_not_replace_one_that_ended(tmp_path: Path) -> None:
    done = tpprof("compare", "random", *SMALL, "--rounds", "2", "--out", "run.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "run.json").read_bytes()
    journal = tmp_path / "run.jsonl"
    process = subprocess.Popen(
        [*RUN, "compare", "random", *SMALL, "--rounds", "100000", "--out", "run.json"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not (journal.exists() and load(journal).cells[1].samples):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = tpprof("compare", "random", *SMALL, "--out", "run.json", cwd=tmp_path)
    assert second.returncode == 2
    assert "still goes on" in second.stderr
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "what was measured now is in run.jsonl" in complaints
    assert (tmp_path / "run.json").read_bytes() == before
    assert load(journal).cells[1].samples


@pytest.mark.parametrize("pages", ["/dev/full", "closed"])
def test_output_that_cannot_be_printed_is_one_line(pages: str, saved: Path) -> None:
    if pages == "closed":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(pages, os.O_WRONLY)
    arguments = [*RUN, "report", "run.json", "--html", "page.html"]
    done = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == cli.UNREAD, done.stderr
    assert "standard output" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert Path("page.html").exists(), "what was asked for is written first"


def test_a_journal_that_a_full_disk_cut_short_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpprof.reports.outputs import OutputError
    from tpprof.reports.record.files import Taken

    path, really = tmp_path / "run.json", os.write
    journal = Journal.begin(journal_of(path), Begun(record=record(cell("vanilla", "rows", 1.0, 1))))
    before = journal.path.read_bytes()

    def full(handle: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return really(handle, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="No space left on device; what was measured"):
        journal.append(Taken(index=0, sample=sample(9, 1.0)))
    assert journal.path.read_bytes() == before


@pytest.mark.usefixtures("warm_children")
def test_a_disk_that_is_full_for_an_isolated_cell_is_one_line(tmp_path: Path) -> None:
    """It fills up as `loudest` decides: no file may grow beyond what the journal has already."""
    full = "        import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    method = PLUGIN.read_text()
    at = method.index("        return top(")
    (tmp_path / "full.py").write_text(method[:at] + full + method[at:])
    done = in_this_process(
        *("compare", "loudest", "random", *SMALL, "--isolate", "--rounds", "1"),
        *("--plugin", "full.py", "--out", "run.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stdout
    assert "'run.jsonl': File too large; what was measured" in done.stderr.splitlines()[-1]
    vanilla, loudest, random = load(tmp_path / "run.jsonl").cells
    assert len(vanilla.samples) == 1, "what was measured until then"
    assert (loudest.error, random.error) == ("", ""), "it is not the fault of a cell"


def test_children_and_folders_go_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "from tpprof.profiler.subprocesses import python, temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'full').write_text('x')\n"
        "    child = subprocess.Popen(python('import time; time.sleep(600)'))\n"
        "    print(child.pid, folder, flush=True)\n"
        "    child.wait()\n"
    )
    parent = subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    assert Path(folder, "full").exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (Path(folder).exists() or _runs(int(pid))):
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert not _runs(int(pid))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_a_plug_in_gives_that_no_record_holds_ends_its_cell(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from tpprof.methods import *\n"
        "from tpprof.methods.vanilla import Vanilla\n"
        "@register('ill')\n"
        "@dataclass(frozen=True)\n"
        "class Ill(Vanilla):\n"
        "    def plan(self, request):\n"
        "        return replace(super().plan(request), note=5)\n"
    )
    done = tpprof(
        *("compare", "ill", "random", *SMALL, "--rounds", "2", "--plugin", "plug.py"),
        *("--out", "run.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    vanilla, ill, random = load(tmp_path / "run.json").cells
    assert "no file can hold" in ill.error or "note" in ill.error
    assert len(vanilla.samples) == len(random.samples) == 2
