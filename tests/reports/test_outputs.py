"""Files that are written: what the user had stays."""

from __future__ import annotations

import errno
import gzip
import os
import stat
from pathlib import Path

import pytest
from record_builders import cell, record

from tpprof.reports import outputs
from tpprof.reports.gate.render import as_json, as_junit
from tpprof.reports.gate.verdicts import Gate
from tpprof.reports.outputs import Kind, Output, OutputError, require_outputs, was_made, write
from tpprof.reports.page.render import render
from tpprof.reports.record import files


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"a picture")
    return path


def linked(input_file: Path, how: str) -> Path:
    """Another name of a file."""
    other = input_file.parent / "other"
    if how == "relative":
        return Path(os.path.relpath(input_file))
    if how == "dots":
        return input_file.parent / "x" / ".." / input_file.name
    if how == "hard link":
        os.link(input_file, other)
    elif how == "symbolic link":
        other.symlink_to(input_file)
    elif how == "link to its folder":
        other.symlink_to(input_file.parent)
        return other / input_file.name
    return other


WAYS = ["relative", "dots", "hard link", "symbolic link", "link to its folder"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_an_input_is_never_an_output(input_file: Path, how: str, *, overwrite: bool) -> None:
    (input_file.parent / "x").mkdir()
    output = Output("--html", linked(input_file, how), "page")
    with pytest.raises(OutputError, match=r"--html .* is read by this command"):
        require_outputs([output], [input_file], overwrite=overwrite)


@pytest.mark.parametrize("how", WAYS)
def test_two_outputs_are_two_files(input_file: Path, how: str) -> None:
    (input_file.parent / "x").mkdir()
    two = Output("--html", input_file, "page"), Output("--json", linked(input_file, how), "page")
    with pytest.raises(OutputError, match=r"--json .* and --html are one file"):
        require_outputs(two, overwrite=True)


def test_what_would_be_read_if_it_were_there_is_no_output(tmp_path: Path) -> None:
    """A journal beside a record is read before it."""
    with pytest.raises(OutputError, match=r"is read by this command"):
        require_outputs([Output("--json", tmp_path / "a.jsonl", "text")], [tmp_path / "a.jsonl"])


@pytest.mark.parametrize("handle", [1, 2])
def test_the_file_that_lines_go_into_is_no_output(handle: int, tmp_path: Path) -> None:
    """It would be moved away under them, and with it the verdict, or written over."""
    log = tmp_path / "log.txt"
    name = {1: "output", 2: "error"}[handle]
    before = os.dup(handle)
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), handle)
        for path in (log, Path(f"/dev/fd/{handle}"), Path(f"/proc/self/fd/{handle}")):
            for appended in (False, True):
                output = Output("--json", path, "text", appended)
                with pytest.raises(OutputError, match=f"the file that standard {name} goes into"):
                    require_outputs([output], overwrite=True)
    finally:
        os.dup2(before, handle)
        os.close(before)


def test_two_names_of_one_file_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    two = (
        Output("--html", tmp_path / "new", "page"),
        Output("--out", tmp_path / "link" / "new", "page"),
    )
    with pytest.raises(OutputError, match="one file"):
        require_outputs(two)
    (tmp_path / "pointer").symlink_to(tmp_path / "new")
    pointer = Output("--out", tmp_path / "pointer", "page")
    with pytest.raises(OutputError, match="one file"):
        require_outputs([two[0], pointer])


def test_a_file_of_a_folder_that_is_read_stays(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.json"
    config.write_text("{}")
    with pytest.raises(OutputError, match="belongs to what is read"):
        require_outputs([Output("--out", config, "record")], [tmp_path / "model"], overwrite=True)
    require_outputs([Output("--out", tmp_path / "model" / "new.json", "record")], [tmp_path])


def made() -> dict[Kind, bytes]:
    """A file of every kind that its content shows."""
    run, gate = record(cell("vanilla", "rows", 1.0, 1)), Gate("exact", "a", [], [])
    return {
        "page": render([run], ["a"]).encode(),
        "gate's JSON": as_json(gate),
        "JUnit XML": as_junit(gate),
        "journal": b'{"type":"begun","record":{}}\n',
        "trace": gzip.compress(b'{"traceEvents": [{"name": "tpprof|start|start|"}]}'),
    }


@pytest.mark.parametrize("kind", [*made(), "record", "baseline", "figure", "text"])
def test_only_what_tpprof_made_of_this_kind_is_replaced(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for other, content in [*made().items(), ("foreign", b'{"schema": 4}'), ("foreign", b"a,b\n")]:
        path.write_bytes(content)
        if other == kind:
            write(path, content, kind)
            continue
        with pytest.raises(OutputError, match=r"is there already.* --overwrite"):
            write(path, b"new", kind)
        with pytest.raises(OutputError, match="is there already"):
            require_outputs([Output("--x", path, kind)])
        assert path.read_bytes() == content
    write(path, b"new", kind, overwrite=True)
    assert path.read_bytes() == b"new"


def test_of_a_text_nothing_shows_who_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("a text of ours")
    with pytest.raises(OutputError, match=r"gate.toml' is there already; give another one, or"):
        require_outputs([Output("--config", tmp_path / "gate.toml", "text")])


def test_records_know_each_other(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.save(record(cell("vanilla", "rows", 1.0, 1)), path)
    assert was_made(path, "record")
    assert not was_made(path, "baseline")


def test_the_mode_is_kept_and_so_is_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write(path, b"a", "text")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        write(path, b"b", "text", overwrite=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_symbolic_link_goes_on_to_point_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"a")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", b"b", "text", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"b"


def test_a_full_disk_costs_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left"):
        write(path, b"after", "text", overwrite=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"before")]


def test_what_is_appended_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, really = tmp_path / "file", os.write
    outputs.append(path, b"before\n")

    def half(handle: int, content: bytes) -> int:
        if len(content) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(handle, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OutputError, match="No space left"):
        outputs.append(path, b"0123456789")
    assert path.read_bytes() == b"before\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "is a folder"), (".", "is a folder"), ("x" * 300, "too long"), ("a\0b", "null")],
)
def test_names_that_can_be_no_file(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=said) as refused:
        require_outputs([Output("--html", tmp_path / name if name else Path(), "page")])
    assert len(str(refused.value)) < 500


def test_a_pipe_is_written_as_it_is() -> None:
    """It has no name but that of its handle: /dev/stdout of a command whose output is read."""
    reading, writing = os.pipe()
    path = Path(f"/dev/fd/{writing}")
    require_outputs([Output("--json", path, "text")])
    write(path, b"a verdict", "text")
    os.close(writing)
    assert os.read(reading, 99) == b"a verdict"
    os.close(reading)


def test_what_is_no_plain_file_is_written_as_it_is() -> None:
    require_outputs([Output("--json", Path(os.devnull), "gate's JSON")])
    write(Path(os.devnull), b"x", "gate's JSON")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_device_that_is_full_is_named() -> None:
    """It is no plain file, and not standard output."""
    with pytest.raises(OutputError, match="'/dev/full' cannot be written"):
        write(Path("/dev/full"), b"x" * 10, "text", overwrite=True)
