"""One method over records: what belongs together, and where it steps."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
from command import in_this_process
from record_builders import cell, record

from tpprof.reports.record import files
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.schema import Record
from tpprof.reports.record.spec import changed
from tpprof.reports.sweep.trend import series, steps, trend_table


def noisy(levels: list[tuple[float, int]], noise: float = 0.01) -> list[float]:
    chance = random.Random(3)
    return [level * (1 + chance.gauss(0, noise)) for level, n in levels for _ in range(n)]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (noisy([(1.0, 30)]), []),
        (noisy([(1.0, 12), (1.1, 12)]), [12]),
        (noisy([(1.0, 8), (0.8, 2), (1.0, 8)]), [8, 10]),
        (noisy([(1.0, 10), (1.3, 1), (1.0, 10)]), []),  # one record may be an accident
        ([1.0] * 5 + [2.0] * 5, [5]),
        ([1.0] * 9, []),
        ([1.0, 2.0], []),
        ([], []),
    ],
)
def test_steps(values: list[float], found: list[int]) -> None:
    assert steps(values) == found


def test_a_step_is_seldom_seen_where_there_is_none() -> None:
    chance = random.Random(5)
    seen = sum(bool(steps([1 + chance.gauss(0, 0.02) for _ in range(30)])) for _ in range(200))
    assert seen <= 20


def dated(day: int, seconds: float, **more: object) -> Record:
    found = record(cell("vanilla", "rows", 2.0, 10), cell("fastv:keep=9", "rows", seconds, 5))
    found.created = f"2026-01-{day:02}T00:00:00+00:00"
    found.environment.git.tpprof.commit = f"c{day}" * 10
    for name, value in more.items():
        setattr(found.environment, name, value)
    return found


def test_records_stand_by_date_and_those_of_another_machine_are_left_out() -> None:
    days = [(4, 1.5), (1, 1.0), (3, 1.5), (2, 1.0), (6, 1.5)]
    records = [dated(*day) for day in days] + [dated(5, 9.0, device="another")]
    other = dated(6, 1.0)
    other.request.batch = 8
    records.insert(0, other)
    names = [f"{number}.json" for number in range(len(records))]
    found = series(records, names, "fastv")
    assert [point.created[8:10] for point in found.points] == ["01", "02", "03", "04", "06"]
    assert [point.step for point in found.points] == [None, None, pytest.approx(0.5), None, None]
    assert found.left_out[0].startswith("6.json: another machine (device is")
    assert "0.json: another request" in found.left_out
    table = trend_table(found)
    assert table.closing == "fastv:keep=9 with rows: +50.0 % at c3c3c3c3c3"
    gains = series(records, names, "fastv:keep=9", "speedup")
    assert gains.points[0].value.value == pytest.approx(2.0)
    with pytest.raises(RecordError, match="no record has 'dart' measured; known: vanilla"):
        series(records, names, "dart")


def test_another_cell_or_kernel_is_no_part_of_the_series() -> None:
    """Of the newest record `fastv:keep=9 with rows` is meant, and not its maps."""
    newest, other, kernel, host = (dated(day, 1.0) for day in (4, 1, 2, 3))
    other.cells[1].attention = "maps"
    kernel.model.backend = "flash_attention_2"
    host.spec = changed(host.spec, layout="anyres")
    found = series([newest, other, kernel, host], list("abcd"), "fastv")
    assert [point.record for point in found.points] == ["a"]
    left = " ".join(found.left_out)
    assert "c: another model, dtype or attention backend" in left
    assert "d: another picture, layout or way to process pictures" in left
    assert "b: " in left


def test_the_command_reads_a_folder(tmp_path: Path) -> None:
    for day, seconds in ((1, 1.0), (2, 1.0), (3, 1.5), (4, 1.5)):
        files.save(dated(day, seconds), tmp_path / f"r{day}.json")
    (tmp_path / "other.json").write_text("{}")
    done = in_this_process("trend", ".", "--method", "fastv:keep=9 with rows", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "+50.0 %" in done.stdout
    assert "left out" in done.stderr
    assert in_this_process("trend", "other.json", cwd=tmp_path).returncode == 2
    assert in_this_process("trend", ".", "--method", "dart", cwd=tmp_path).returncode == 2


def test_the_newest_record_with_the_method_says_what_belongs_to_it() -> None:
    """A later run of another model, in which it was not measured, hides none."""
    later = record(cell("vanilla", "rows", 2.0, 10))
    later.created, later.model.name = "2026-02-01T00:00:00+00:00", "another"
    found = series([later, dated(1, 1.0), dated(2, 1.1)], list("abc"), "fastv")
    assert [point.record for point in found.points] == ["b", "c"]
    assert found.left_out == ["a: another model, dtype or attention backend"]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "1 record tells of no step, 4 are needed"),
        (2, "2 records tell of no step, 4 are needed"),
        (4, "no step in 4 records"),
    ],
)
def test_what_is_said_where_there_is_no_step(count: int, told: str) -> None:
    records = [dated(day, 1.0) for day in range(1, count + 1)]
    found = trend_table(series(records, [str(n) for n in range(count)], "fastv"))
    assert found.closing == f"fastv:keep=9 with rows: {told}"


def test_what_ran_beside_its_commit_is_marked() -> None:
    changed_later = dated(2, 1.0)
    changed_later.environment.git.tpprof.dirty = True
    table = trend_table(series([dated(1, 1.0), changed_later], ["a", "b"], "fastv"))
    assert [line[1] for line in table.lines()] == ["c1c1c1c1c1", "c2c2c2c2c2+"]
    assert [values["dirty"] for values in table.to_values()] == [False, True]


def test_a_record_counts_once() -> None:
    """A copy under another name is no further point, from which a level could be made."""
    one = record(cell("fastv", "rows", 1.0, 4))
    found = series([one, copy.deepcopy(one)], ["a.json", "b.json"], "fastv")
    assert [point.record for point in found.points] == ["a.json"]
    assert found.left_out == ["b.json: the same record as a.json"]


def test_a_folder_without_records_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files.save(record(cell("vanilla", "rows", 1.0, 4)), tmp_path / "a.json")
    done = in_this_process("trend", "a.json", "empty", cwd=tmp_path)
    assert done.returncode == 2
    assert "empty holds no record" in done.stderr
