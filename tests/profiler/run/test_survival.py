"""Runs that are killed, crash, run out of memory, and are taken up again: nothing is lost."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import RUN, SMALL
from record_builders import cell, record

from tpprof.reports.record.files import Begun, journal_of, load
from tpprof.reports.record.journal import Journal, in_use
from tpprof.reports.record.schema import Record

PLUGIN = str(Path(__file__).parents[2] / "misbehaving_plugin.py")
ENDLESS = ["--rounds", "100000"]
GIGABYTE = 2**30


def tpprof(*arguments: str, out: Path, limit: int = 0) -> subprocess.CompletedProcess[str]:
    """The command to its end; `limit`: bytes of address space that it may use."""

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [*RUN, *arguments, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)


def interrupted(
    number: signal.Signals, enough: Callable[[Record], bool], *arguments: str, out: Path
) -> tuple[int, str]:
    """Start the command, send it `number` once its record so far is `enough`; code and stderr."""
    process = subprocess.Popen(
        [*RUN, *arguments, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if journal_of(out).exists() and enough(load(out)):
                process.send_signal(number)
                break
            time.sleep(0.02)
        _, complaints = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, complaints


def taken(record: Record) -> int:
    return sum(len(cell.samples) for cell in record.cells)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_run_that_is_ended_loses_no_sample_and_goes_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "run.json"
    arguments = ["compare", "random", *SMALL]
    seen = [0]

    def enough(record: Record) -> bool:
        seen[0] = taken(record)
        return seen[0] >= 5

    returned, complaints = interrupted(number, enough, *arguments, *ENDLESS, out=out)
    assert returned == code, complaints
    assert "Traceback" not in complaints
    assert out.exists() == (number != signal.SIGKILL)
    before = load(out)
    assert not before.complete
    assert taken(before) >= seen[0]
    report = subprocess.run([*RUN, "report", str(out)], capture_output=True, text=True)
    assert report.returncode == 0
    assert "interrupted" in report.stdout

    anew = tpprof(*arguments, out=out)
    assert anew.returncode == 2
    assert "continue it with --resume" in anew.stderr
    again = tpprof(*arguments, "--rounds", "12", "--resume", out=out)
    assert again.returncode == 0, again.stderr
    after = load(out)
    assert after.complete
    for old, new in zip(before.cells, after.cells, strict=True):
        assert new.samples[: len(old.samples)] == old.samples
    assert len(after.processes) == 2
    assert not journal_of(out).exists()


def test_a_terminal_that_is_lost_ends_the_run(tmp_path: Path) -> None:
    """The kernel tells the process that leads its session alone, and the table cannot be shown."""
    out = tmp_path / "run.json"
    ours, its = pty.openpty()

    def led() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as under nohup, which children inherit
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*RUN, "compare", "random", *SMALL, *ENDLESS, "--out", str(out)],
        stdin=its,
        stdout=its,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=led,
    )
    os.close(its)
    deadline = time.monotonic() + 240
    while not (journal_of(out).exists() and taken(load(out)) > 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = load(out)
    os.close(ours)
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 141, complaints
    assert "Traceback" not in complaints
    after = load(out)
    assert not after.complete
    for old, new in zip(before.cells, after.cells, strict=True):
        assert new.samples[: len(old.samples)] == old.samples


def test_a_run_that_did_not_end_is_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    code, complaints = interrupted(
        signal.SIGKILL,
        lambda record: taken(record) > 0,
        "compare",
        "random",
        *SMALL,
        *ENDLESS,
        out=out,
    )
    assert code == -signal.SIGKILL, complaints
    kept = journal_of(out).read_bytes()
    other = tpprof("compare", "random", *SMALL, "--keep", "9", "--resume", out=out)
    assert other.returncode == 2
    assert "keep is 9, was none" in other.stderr
    folder = tpprof("compare", "fastv", *SMALL, "--resume", out=tmp_path)
    assert folder.returncode == 2
    assert "same configuration only" in folder.stderr
    assert journal_of(out).read_bytes() == kept
    assert not out.exists()


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    empty = record(cell("vanilla", "rows", 1.0, 1))
    journal = Journal.begin(journal_of(out), Begun(record=empty))
    assert in_use(journal.path)
    refused = tpprof("compare", "random", *SMALL, out=out)
    assert refused.returncode == 2
    assert "still goes on" in refused.stderr
    journal.close()
    assert not in_use(journal.path)


def test_resume_in_a_folder_finds_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    interrupted(
        signal.SIGINT,
        lambda record: taken(record) > 2,
        "compare",
        "random",
        *SMALL,
        *ENDLESS,
        out=out,
    )
    done = tpprof("compare", "random", *SMALL, "--rounds", "8", "--resume", out=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(out).complete
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    fresh = tpprof("compare", "random", *SMALL, "--rounds", "1", "--resume", out=tmp_path)
    assert "nothing to resume" in fresh.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cell_that_runs_out_of_memory_ends_alone(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    done = tpprof(
        "compare",
        "devour",
        "random",
        *SMALL,
        "--rounds",
        "1",
        "--plugin",
        PLUGIN,
        out=out,
        limit=5 * GIGABYTE,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    vanilla, devour, random = load(out).cells
    assert "memory" in devour.error
    assert devour.samples == []
    assert len(vanilla.samples) == len(random.samples) == 1
    assert "failed:" in done.stdout
    resumed = tpprof(
        "compare",
        "devour",
        "random",
        *SMALL,
        "--rounds",
        "1",
        "--plugin",
        PLUGIN,
        "--resume",
        out=out,
    )
    assert resumed.returncode == 1, "it is complete: nothing is tried again, nothing is forgotten"
    assert load(out).cells[1].error == devour.error


def test_isolated_cells_run_in_processes_of_their_own(tmp_path: Path) -> None:
    """Two rounds, ABBA; cells that die of a signal or of want of memory hold up no other."""
    out = tmp_path / "run.json"
    done = tpprof(
        "compare",
        "random",
        "die",
        "devour",
        *SMALL,
        "--rounds",
        "2",
        "--samples",
        "3",
        "--isolate",
        "--plugin",
        PLUGIN,
        out=out,
        limit=5 * GIGABYTE,
    )
    assert done.returncode == 1, done.stderr
    record = load(out)
    vanilla, random, die, devour = record.cells
    assert die.error == "process ended by SIGKILL (out of memory?)"
    assert "memory" in devour.error
    assert devour.samples == []
    for alive in (vanilla, random):
        assert [sample.round for sample in alive.samples] == [0, 0, 0, 1, 1, 1]
        assert alive.activity, "counted in the first process"
    assert len({process.pid for process in record.processes}) == len(record.processes) == 6
    assert os.getpid() not in {process.pid for process in record.processes}
    went_on = [(p.cell, p.round) for p in record.processes if p.cell in (0, 1)]
    assert went_on == [(0, 0), (1, 0), (1, 1), (0, 1)]
    (killed,) = [process for process in record.processes if process.outcome]
    assert (killed.cell, killed.seconds) == (2, None)
    assert record.spec.stopping.isolate
    assert record.complete


def test_an_isolated_run_is_taken_up_again(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    arguments = ["compare", "random", *SMALL, "--isolate"]
    code, complaints = interrupted(
        signal.SIGTERM, lambda record: taken(record) > 0, *arguments, "--rounds", "50", out=out
    )
    assert code == 143, complaints
    before = load(out)
    done = tpprof(*arguments, "--rounds", "2", "--resume", out=out)
    assert done.returncode == 0, done.stderr
    after = load(out)
    assert after.complete
    assert after.cells[0].samples[: len(before.cells[0].samples)] == before.cells[0].samples


def test_options_of_isolated_cells_are_named_as_they_are_typed(tmp_path: Path) -> None:
    given = ["compare", "fastv", "--isolate", "--model", "tiny-llava", "--device", "cpu"]
    said = tpprof(*given, "--image", "no-such.png", out=tmp_path)
    assert said.returncode == 2
    assert "--image 'no-such.png': no such file" in said.stderr
