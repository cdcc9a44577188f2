"""Records and journals on disk: nothing is lost, and nothing damaged is believed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from page_records import full
from record_builders import cell, record, sample

import tpprof
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.compatibility import differences
from tpprof.reports.record.files import (
    Begun,
    Ended,
    Joined,
    Known,
    Taken,
    finish,
    journal_of,
    load,
    load_run,
    save,
)
from tpprof.reports.record.journal import Journal
from tpprof.reports.record.schema import Process, Record
from tpprof.reports.record.spec import changed

ROOT = Path(tpprof.__file__).parent
JOINED = Process(pid=7, started="2026-01-01T00:00:00+00:00")


@pytest.fixture
def empty() -> Record:
    run = record(cell("vanilla", "rows", 2.0, 100, samples=[]), cell("random", "rows", 1.0, 50))
    run.cells[1].samples, run.processes, run.complete = [], [], False
    return run


def written(path: Path, empty: Record) -> Journal:
    """A journal of a process that took one sample of each cell."""
    journal = Journal.begin(journal_of(path), Begun(record=empty))
    journal.append(Joined(index=0, process=JOINED))
    for index in (0, 1):
        journal.append(Taken(index=index, sample=sample(0, 1.0 + index)))
    return journal


def latencies(run: Record) -> list[list[float]]:
    return [[sample.latency for sample in cell.samples] for cell in run.cells]


def test_what_is_appended_is_there_at_once(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    journal = written(path, empty)  # neither closed nor finished: as if killed here
    found = load(path)
    assert latencies(found) == [[1.0], [2.0]]
    assert found.processes == [JOINED]
    assert not found.complete
    journal.append(Ended())
    assert load(path).complete


def test_half_a_line_at_the_end_is_dropped(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    written(path, empty).close()
    with journal_of(path).open("ab") as file:
        file.write(b'{"type":"sample","index":0,"sam')
    found = load(path)
    assert latencies(found) == [[1.0], [2.0]]
    journal = Journal.begin(journal_of(path), Begun(record=found))
    journal.append(Taken(index=0, sample=sample(1, 3.0)))
    assert latencies(load(path)) == [[1.0, 3.0], [2.0]]


def test_a_writer_that_is_killed_costs_its_own_line_only(empty: Record, tmp_path: Path) -> None:
    """A worker dies as it writes; the process that started it goes on with the same journal."""
    path = tmp_path / "run.json"
    journal = written(path, empty)
    with journal_of(path).open("ab") as worker:
        worker.write(b'{"type":"cell","index":0,"ce')
    journal.mend()
    journal.append(Taken(index=0, sample=sample(1, 3.0)))
    with journal_of(path).open("ab") as worker:
        worker.write(b'{"type":"cell"')
    Journal(journal_of(path)).append(Taken(index=1, sample=sample(1, 4.0)))
    assert latencies(load(path)) == [[1.0, 3.0], [2.0, 4.0]]


def test_what_becomes_known_of_a_cell_keeps_its_samples(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    journal = written(path, empty)
    empty.cells[0].error = "out of memory"
    journal.append(Known.of(0, empty.cells[0]))
    assert load(path).cells[0].error == "out of memory"
    assert latencies(load(path)) == [[1.0], [2.0]]


def test_a_process_is_known_once(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    journal = written(path, empty)
    journal.append(Joined(index=0, process=Process(pid=7, started="now", seconds=3.0)))
    assert [process.seconds for process in load(path).processes] == [3.0]


def test_the_record_takes_the_journals_place(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(record(cell("vanilla", "rows", 9.0, 1)), path)
    journal = written(path, empty)
    earlier, found = load(path), load_run(path)
    assert latencies(earlier) == [[9.0] * 6], "of a run that ended"
    assert latencies(found) == [[1.0], [2.0]]
    assert not finish(journal, found, path), "it did not end: it takes no finished record's place"
    assert load(path) == earlier
    assert load(journal_of(path)) == found
    found.complete = True
    assert finish(Journal(journal_of(path)), found, path)
    assert list(tmp_path.iterdir()) == [path]
    assert load(path) == found


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda lines: [b"", *lines], "damaged"),
        (lambda lines: lines[1:], "damaged"),
        (lambda lines: [lines[0].replace(b'"schema":4', b'"schema":99'), b""], "schema 99"),
    ],
)
def test_a_damaged_journal_is_refused(
    empty: Record,
    tmp_path: Path,
    damage,  # type: ignore[no-untyped-def]
    reason: str,
) -> None:
    path = tmp_path / "run.json"
    written(path, empty).close()
    journal_of(path).write_bytes(b"\n".join(damage(journal_of(path).read_bytes().split(b"\n"))))
    with pytest.raises(RecordError, match=reason) as refused:
        load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"x", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"type":"sample","index":9,"sample":SAMPLE}', "out of range"),
        (b'{"type":"sample","index":-9,"sample":SAMPLE}', "out of range"),
        (b'{"type":"sample","index":0,"sample":{"round":0}}', "latency|turn"),
        (b'{"type":"cell","index":0,"cell":{"method":5}}', "method"),
    ],
)
def test_one_bad_line_of_a_journal_is_told_and_the_rest_is_kept(
    bad: bytes, why: str, empty: Record, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    journal = written(path, empty)
    lines = journal_of(path).read_bytes().split(b"\n")
    taken = lines[2].partition(b'"sample":')[2][:-1]
    lines.insert(3, bad.replace(b"SAMPLE", taken))
    journal_of(path).write_bytes(b"\n".join(lines))
    journal.append(Taken(index=0, sample=sample(1, 3.0)))
    found = load(path)
    assert latencies(found) == [[1.0, 3.0], [2.0]]
    (told,) = found.environment.warnings
    assert "line 4 of" in told
    assert re.search(why, told)


def test_what_could_not_be_read_again_is_not_written(empty: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    journal = written(path, empty)
    before = journal_of(path).read_bytes()
    for solved in ({"alpha": float("nan")}, {"alpha": "x"}, {"\ud800": 1.0}):
        bad = cell("vanilla", "rows", 1.0, 1, solved=solved)
        with pytest.raises(RecordError, match="no file can hold"):
            journal.append(Known.of(0, bad))
    assert journal_of(path).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: setattr(run.picture, "jpeg", "not base64!"), "no JPEG"),
        (lambda run: setattr(run.picture, "jpeg", "bm8ganBlZw=="), "no JPEG"),
        (lambda run: setattr(run.picture.regions[0], "stride", 0), r"regions\[0\]\.stride"),
        (lambda run: setattr(run.picture.regions[0], "stride", 23), "no JPEG, or its tokens"),
        (lambda run: setattr(run.picture.regions[0], "columns", 0), r"regions\[0\]\.columns"),
        (lambda run: setattr(run.cells[1].kept[1], "visual", 0), r"cells\[1\]\.kept\[1\]\.visual"),
        (lambda run: run.cells[1].kept[1].tokens.append(2880), "kept tokens of fastv"),
        (lambda run: run.cells[1].kept[1].scores.append(0.5), "kept tokens of fastv"),
    ],
)
def test_kept_tokens_that_cannot_be_drawn_are_refused(
    tmp_path: Path,
    damage,  # type: ignore[no-untyped-def]
    said: str,
) -> None:
    run = full()
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run
    damage(run)
    save(run, tmp_path / "run.json")
    with pytest.raises(RecordError, match=said) as refused:
        load(tmp_path / "run.json")
    assert "\n" not in str(refused.value)


def test_runs_of_one_configuration_do_not_differ(empty: Record) -> None:
    later = record(*empty.cells)
    later.spec = changed(later.spec, max_seconds=3.0)
    later.created, later.model.reason = "later", "given"
    assert differences(empty, later) == []


def test_every_difference_is_named(empty: Record) -> None:
    later = record(cell("vanilla", "rows", 2.0, 100), cell("fastv", "maps", 1.0, 50))
    later.spec, later.model.dtype = changed(later.spec, keep="320"), "float16"
    later.environment.device = "another"
    listed = "; ".join(differences(empty, later))
    assert "model dtype is float16, was float32" in listed
    assert "keep is 320, was none" in listed
    assert "device is another, was a machine" in listed
    assert "only in the first: random (rows, eager); only in the second: fastv (maps" in listed


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_without_a_name_has_no_journal(name: str) -> None:
    with pytest.raises(RecordError, match="is a folder"):
        load(Path(name))
    assert journal_of(Path(name)) == Path(name)


def test_a_journal_that_is_a_folder_or_too_deep_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    journal_of(path).mkdir()
    with pytest.raises(RecordError, match=r"run\.jsonl: Is a directory"):
        load(path)
    journal_of(path).rmdir()
    journal_of(path).write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RecordError, match="no journal of tpprof"):
        load(path)
    journal_of(path).unlink()
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(RecordError, match="no tpprof record"):
        load(path)


@pytest.mark.parametrize("value", [2**63, 10**400, -1])
@pytest.mark.parametrize("field", ["kv_bytes_prefill", "visual_per_layer"])
def test_a_count_that_no_ratio_can_be_made_of_is_refused(
    field: str, value: int, empty: Record, tmp_path: Path
) -> None:
    content = msgspec.to_builtins(empty)
    content["cells"][0][field][0] = value
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"Expected `int` [<>]= .*cells\[0\]\.{field}\[0\]"):
        load(tmp_path / "run.json")


def test_every_whole_number_of_a_record_is_bounded() -> None:
    """But for the version, which is compared alone."""
    found = json.loads((ROOT / "docs" / "record.schema.json").read_text())
    free: list[str] = []

    def look(part: object, name: str) -> None:
        if isinstance(part, dict):
            if part.get("type") == "integer" and not {"maximum", "const"} & part.keys():
                free.append(name)
            for key, value in part.items():
                look(value, key if key not in ("anyOf", "items") else name)
        elif isinstance(part, list):
            for value in part:
                look(value, name)

    look(found, "")
    assert free == []
