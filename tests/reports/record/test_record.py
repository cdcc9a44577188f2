"""The record as a file, and the table and sentences made from it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from page_records import full
from record_builders import cell, headings_and_lines, record
from rich.console import Console

from tpprof.reports.analysis.summary import rows
from tpprof.reports.record.base import RecordError
from tpprof.reports.record.files import load, save
from tpprof.reports.record.schema import Memory, Record
from tpprof.reports.text import sentences
from tpprof.reports.text.screen import Screen
from tpprof.reports.text.table7 import table7
from tpprof.reports.text.terminal import print_record


@pytest.fixture
def run() -> Record:
    return record(
        cell("vanilla", "rows", 2.0, 1000),
        cell("fastv", "maps", 1.6, 200),
        cell("fastv", "rows", 1.0, 200),
        cell("random", "rows", 0.9, 250, reads_attention=False),
    )


def test_a_saved_record_is_read_back_whole(run: Record, tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    save(run, path)
    assert load(path) == run
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(run: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(run, path)
    run.environment.device = object()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        save(run, path)
    assert load(path).environment.device == "a machine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no tpprof record"),
        (b"not json", "no tpprof record"),
        (b"{}", "no tpprof record"),
        (b'{"schema": 99}', "schema 99 is unknown"),
        (b'{"schema": 4}', "no tpprof record"),
        (b'{"schema": 3}', "schema 3 was written by an earlier tpprof; read it with that version"),
        (b"\xff\xfe", "no tpprof record"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=reason) as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_truncated_and_mistyped_records_are_refused(run: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(run, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError):
        load(path)
    changed = json.loads(whole)
    changed["cells"][0]["samples"][0]["latency"] = "fast"
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match="latency"):
        load(path)


def test_rows_derive_what_the_samples_say(run: Record) -> None:
    vanilla, maps, fastv, _ = rows(run)
    assert vanilla.speedup is not None
    assert vanilla.speedup.value == 1.0
    assert vanilla.over_promise is None
    assert fastv.speedup is not None
    assert fastv.speedup.value == pytest.approx(2.0)
    assert fastv.flops_share == pytest.approx(0.2)
    assert fastv.claimed == pytest.approx(5.0)
    promised = 2.0 - 1.6 * 0.8  # prefill takes 1.6 of 2 s, and a fifth of its FLOPs is left
    assert fastv.promised == pytest.approx(2.0 / promised)
    assert fastv.over_promise is not None
    assert fastv.over_promise.value == pytest.approx(1.0 / promised)
    assert maps.over_promise is not None
    assert maps.over_promise.value == pytest.approx(1.6 / promised)
    assert fastv.visual_last == 320
    assert fastv.visual_mean == 1600
    assert fastv.kv_bytes == 1_500_000
    assert fastv.peak_bytes == 2**30
    assert fastv.prefill is not None
    assert fastv.prefill.value == pytest.approx(0.7)
    assert fastv.decode is not None
    assert fastv.decode.value == pytest.approx(0.1)
    assert fastv.parts_sum is not None
    assert fastv.parts_sum.value == pytest.approx(1.0)


def test_speedups_pair_samples_of_one_round(run: Record) -> None:
    run.cells[0].samples[0].latency = 20.0
    run.cells[0].samples = run.cells[0].samples[:3]
    row = rows(run)[2]
    assert row.speedup is not None
    assert row.speedup.samples == 3
    assert row.speedup.value == pytest.approx(2.0)


def test_a_runtime_is_measured_against_its_own_vanilla(run: Record) -> None:
    run.cells += [
        cell("vanilla", "rows", 1.0, 1000, runtime="graph"),
        cell("fastv", "rows", 0.8, 200, runtime="graph"),
        cell("random", "rows", 1.0, 250, runtime="graph", fallback="no"),
    ]
    *_, vanilla, fastv, fallen = rows(run)
    assert vanilla.speedup is not None
    assert vanilla.speedup.value == 1.0
    assert fastv.speedup is not None
    assert fastv.speedup.value == pytest.approx(1.25)
    assert fastv.over_promise is not None
    assert fastv.over_promise.value == pytest.approx(0.8 / (1.0 - 0.6 * 0.8))
    assert fallen.speedup is not None
    assert fallen.speedup.value == pytest.approx(2.0), "it ran eager, and so did the first vanilla"


def test_methods_under_different_runtimes_are_not_ranked(run: Record) -> None:
    run.cells = [
        cell("vanilla", "rows", 2.0, 1000),
        cell("fastv", "rows", 1.0, 200),
        cell("random", "rows", 0.5, 400, runtime="graph"),
    ]
    assert not any("do not rank" in sentence for sentence in sentences.sentences(run))


def test_what_is_missing_is_not_available_and_never_zero() -> None:
    empty = record(
        cell("vanilla", "rows", 1.0, 10, samples=[], parts=[], memory=Memory()),
        cell("fastv", "rows", 1.0, 5, samples=[], parts=[], memory=Memory(), error="boom"),
    )
    headings, lines = headings_and_lines(table7(empty))
    assert len(headings) == len(lines[0]) == len(lines[1])
    assert lines[0][3:6] == ["n/a"] * 3
    assert lines[0][-1] == "n/a"
    assert lines[1][2] == "failed: boom"
    assert table7(empty).to_values()[0]["latency_seconds"] is None
    assert table7(empty).to_values()[0]["parts_over_latency"] is None


def test_formats_agree(run: Record) -> None:
    table = table7(run)
    plain = table.to_values()
    assert json.loads(table.to_json()) == plain
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [line["method"] for line in read] == ["vanilla", "fastv", "fastv", "random"]
    assert float(read[1]["latency_seconds"]) == plain[1]["latency_seconds"]
    told = table.to_markdown().splitlines()
    markdown = [line for line in told if line.startswith("|")]
    assert len(markdown) == 2 + len(run.cells)
    assert len({line.count("|") for line in markdown}) == 1


def test_hostile_names_do_not_break_a_table(run: Record) -> None:
    run.cells[1].method = "a|b\n[bold]c"
    run.model.name = "[red]x[/red]"
    assert "a\\|b \\[bold\\]c" in table7(run).to_markdown()
    output = io.StringIO()
    print_record(run, Screen(Console(file=output, width=200)))
    assert "[red]x[/red]" in output.getvalue()
    assert "[bold]c" in output.getvalue()


def test_sentences_say_what_the_data_says(run: Record) -> None:
    contrast, ranking, touched = sentences.sentences(run)
    assert "FLOPs promise 2.78x" in contrast
    assert "1.25x" in contrast
    assert "2.00x" in contrast
    assert "fastv with maps needs 20.0 %" in ranking
    assert "random 25.0 %" in ranking
    assert "yet fastv with maps takes 1.78x the time" in ranking
    assert touched.startswith("Of vanilla's time pruning can touch")
    (bound,) = sentences.bounds(run)
    assert bound.startswith("No pruning in the decoder can pass 10.00x (10.00 to 10.00) here")
    assert "vision (100.0 ms) and head (100.0 ms)" in bound


def test_methods_of_like_cost_or_time_are_not_ranked(run: Record) -> None:
    run.cells[3].cost[0].flops = 205
    assert not any("do not rank" in sentence for sentence in sentences.sentences(run))
    run.cells[3].cost[0].flops = 250
    run.cells[3].samples[0].latency = 1.7
    assert not any("do not rank" in sentence for sentence in sentences.sentences(run))


def test_sentences_keep_silent_where_there_is_nothing_to_say() -> None:
    alone = record(cell("vanilla", "rows", 1.0, 10, parts=[], samples=[]))
    assert sentences.sentences(alone) == []


def test_parts_that_do_not_add_up_are_called_out(run: Record) -> None:
    assert "within 2 %" in sentences.footnotes(run)[1]
    for sample in run.cells[1].samples:
        sample.latency *= 1.1
    assert "NOT within 2 %" in sentences.footnotes(run)[1]


def test_notes_and_interruption_are_shown(run: Record) -> None:
    run.cells[1].note = "it keeps more"
    run.complete = False
    assert "fastv: it keeps more." in sentences.sentences(run)
    assert "interrupted" in sentences.header(run)[1]


@pytest.mark.parametrize(("damage", "value"), [("parts", [0.1]), ("process", 7)])
def test_samples_that_contradict_their_cell_are_refused(
    run: Record, tmp_path: Path, damage: str, value: object
) -> None:
    path = tmp_path / "run.json"
    changed = msgspec.json.decode(msgspec.json.encode(run))
    changed["cells"][1]["samples"][2][damage] = value
    path.write_bytes(msgspec.json.encode(changed))
    with pytest.raises(RecordError, match="fastv"):
        load(path)


@pytest.mark.parametrize(
    ("damage", "value"),
    [("latency", 0.0), ("process", -1), ("turn", -1), ("host", {"prefill": -1})],
)
def test_what_cannot_be_is_refused_where_it_stands(
    run: Record, tmp_path: Path, damage: str, value: object
) -> None:
    path = tmp_path / "run.json"
    changed = msgspec.json.decode(msgspec.json.encode(run))
    changed["cells"][1]["samples"][2][damage] = value
    path.write_bytes(msgspec.json.encode(changed))
    with pytest.raises(RecordError, match=rf"\$\.cells\[1\]\.samples\[2\]\.{damage}") as refused:
        load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "at"),
    [
        (("peaks", "flops_per_second", "float32"), 0, r"peaks\.flops_per_second"),
        (("peaks", "bandwidth", 0, "bytes_per_second"), 0, r"peaks\.bandwidth\[0\]"),
        (("picture", "regions", 0, "left"), 1e308, r"picture\.regions\[0\]\.left"),
        (("picture", "regions", 0, "bottom"), -1e308, r"picture\.regions\[0\]\.bottom"),
    ],
)
def test_what_nothing_can_be_drawn_from_is_refused(
    place: tuple[str | int, ...], value: float, at: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    save(full(), path)
    changed = part = json.loads(path.read_bytes())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match=at):
        load(path)


def test_unknown_fields_are_refused(run: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    changed = msgspec.json.decode(msgspec.json.encode(run))
    changed["surprise"] = 1
    path.write_bytes(msgspec.json.encode(changed))
    with pytest.raises(RecordError, match="surprise"):
        load(path)
