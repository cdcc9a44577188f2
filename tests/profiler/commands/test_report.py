"""Reports from the command line: page, figures, formats, traces and kept tokens."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import RUN, on_a_terminal, tpprof

from tpprof.methods import parse
from tpprof.profiler.models.model import Model
from tpprof.profiler.run.kept_tokens import TokenViewer, picture, selections
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.files import load
from tpprof.reports.record.spec import Workload

SMALL = ["--model", "tiny-llava", "--device", "cpu", "--keep", "0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short comparison with all that can be asked for."""
    place = tmp_path_factory.mktemp("run")
    done = tpprof(
        "compare",
        "fastv",
        *SMALL,
        "--rounds",
        "2",
        "--attention",
        "rows",
        "--out",
        "run.json",
        "--tokens",
        "--trace",
        "trace.json.gz",
        "--html",
        "new/page.html",
        "--figures",
        "figures",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert "report: new/page.html" in done.stderr
    return place


def test_compare_writes_page_and_figures(folder: Path) -> None:
    page = (folder / "new" / "page.html").read_text()
    assert 'id="r0-kept"' in page
    assert "data:image/jpeg" in page
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"promise.png", "promise.pdf", "positions.pdf"} <= names
    assert sum(name.startswith("kept-") for name in names) == 2


def test_the_record_holds_which_tokens_stay(folder: Path) -> None:
    record = load(folder / "run.json")
    vanilla, fastv = record.cells
    assert [len(entry.tokens) for entry in vanilla.kept] == [record.request.visual]
    assert [len(entry.tokens) for entry in fastv.kept] == [576, 144]
    assert fastv.kept[1].layer == fastv.visual_per_layer.index(144)
    assert record.picture is not None


def test_the_trace_opens_in_perfetto(folder: Path) -> None:
    events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert "tpprof|prefill|layer|0" in names
    assert any("tpprof|prefill|select" in str(name) for name in names), "of the pruned method"


@pytest.mark.parametrize("form", ["latex", "long"])
def test_report_formats(folder: Path, form: str) -> None:
    done = tpprof("report", "run.json", "--format", form, cwd=folder)
    assert done.returncode == 0, done.stderr
    if form == "latex":
        assert done.stdout.startswith("% \\usepackage{booktabs}")
        return
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["method"] for row in rows} == {"vanilla", "fastv:keep=1/4"}
    assert len({(row["method"], row["round"], row["phase"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json", "long"])
def test_two_records_side_by_side(folder: Path, form: str) -> None:
    done = tpprof("report", "run.json", "run.json", "--format", form, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run (2)" in done.stdout
    warned = {"table": done.stdout, "markdown": done.stdout}.get(form, done.stderr)
    assert "run (2): " in warned.replace("! ", "").replace("> ", "")
    assert "rows have no interval" in warned


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "run.json"],
        ["report", "run.json", "run.json"],
        ["explain", "run.json", "fastv"],
        ["flops", "fastv:layer=2", "sparsevlm:keep=320", "--device", "h100"],
        ["gate", "compare", "run.json", "run.json"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_on_a_terminal_of_80_columns_no_line_is_longer(folder: Path, arguments: list[str]) -> None:
    assert max(map(len, on_a_terminal(arguments, folder, columns=80))) <= 80
    assert max(map(len, tpprof(*arguments, cwd=folder).stdout.splitlines())) > 80


def test_with_wide_the_table_is_not_made_to_fit(folder: Path) -> None:
    lines = on_a_terminal(["report", "run.json", "--wide"], folder, columns=80)
    (head,) = [line for line in lines if line.split()[:1] == ["method"]]
    assert head.split()[-1] == "(process)"
    assert len(head) > 80
    for command in ("compare", "report", "explain", "flops", "tokens"):
        assert "--wide" in tpprof(command, "--help", cwd=folder).stdout


def test_colours_make_no_terminal_of_a_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tpprof("report", "run.json", cwd=folder).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = tpprof("report", "run.json", cwd=folder).stdout
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_report_writes_the_same_page_without_torch(folder: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; " + RUN[2]
    pages = []
    for name in ("a.html", "b.html"):
        done = subprocess.run(
            [sys.executable, "-c", program, "report", "run.json", "--html", name],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        pages.append((folder / name).read_bytes())
    assert pages[0] == pages[1]


def test_a_plain_report_imports_nothing_that_draws(folder: Path) -> None:
    program = (
        "import sys\nfor name in ('matplotlib', 'jinja2', 'pandas', 'numpy', 'PIL', 'torch'):\n"
        "    sys.modules[name] = None\n" + RUN[2]
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "run.json"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "run.json", "--html", "figures"], "is a folder"),
        (["report", "run.json", "--figures", "run.json"], "is a file"),
        (["report", "run.json", "--html", "run.json/x.html"], "--html"),
        (["report", "run.json", "--html", "./run.json"], "is read by this command"),
        (["report", "run.json", "run.json", "--phases"], "for one record"),
        (
            ["compare", "fatsv", *SMALL, "--trace", "trace.json.gz", "--html", "other/x.html"],
            "did you mean",
        ),
        (["compare", "fastv", "--out", "run.json", "--html", "run.json"], "are one file"),
        (["compare", "fastv", "--trace", "x.txt"], ".json.gz"),
        (["compare", "fastv", "--trace", "x.json", "--isolate"], "--isolate"),
        (["explain", "run.json", "--format", "long"], "known: table"),
        (["flops", "fastv", "--format", "long"], "known: table"),
        (["tokens", "fastv", "--format", "long"], "known: table"),
        (["tokens", "fastv", "--image", "none.jpg"], "no such file"),
        (["tokens", "fatsv", "--device", "cpu", "--model", "tiny-llava"], "did you mean"),
        (["tokens", "fastv", "--attention", "some"], "known: rows"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, arguments: list[str], said: str) -> None:
    done = tpprof(*arguments, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (folder / "trace.json.gz").exists(), "an old trace stays until there is a new one"
    assert not (folder / "other").exists(), "nothing is left behind"


def test_tokens_draws_several_pictures(folder: Path) -> None:
    picture = str(next((folder / "figures").glob("*.png")))
    done = tpprof(
        "tokens",
        "fastv",
        "random",
        *SMALL,
        "--image",
        picture,
        "--image",
        picture,
        "--out",
        "kept",
        "--format",
        "json",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["kept"], row["prompts"]) for row in rows] == [(144, 2), (144, 2)]
    assert all(-1 <= row["offset"] <= 1 and 0 <= row["divergence_bits"] <= 1 for row in rows)
    assert len(list((folder / "kept").glob("kept-*.png"))) == 4
    assert (folder / "kept" / "positions.pdf").exists()


@pytest.mark.parametrize(("model", "random"), [("tiny-llava", True), ("seer", False)])
def test_tokens_says_where_weights_are_random(tmp_path: Path, model: str, random: bool) -> None:
    done = tpprof("tokens", "fastv:keep=9", "--model", model, cwd=tmp_path)
    assert (done.returncode, "The weights are random" in done.stdout) == (0, random), done.stderr


def test_scores_are_those_that_chose(model: Model) -> None:
    look = TokenViewer.__new__(TokenViewer)
    look.model, look.methods, look.attention = model, [parse("fastv:keep=0.25,layer=2")], "rows"
    look.workloads, look.pictures = [Workload(image_size=(168, 168))], {}
    (seen,) = look.seen()
    entry = seen.kept[-1]
    scores = [score or 0.0 for score in entry.scores]
    assert len(scores) == entry.visual
    lowest = min(scores[token] for token in entry.tokens)
    gone = set(range(entry.visual)) - set(entry.tokens)
    assert all(scores[token] <= lowest for token in gone)


@pytest.mark.parametrize("size", [(168, 168), (120, 168)])
def test_every_token_lies_in_one_region(model: Model, size: tuple[int, int]) -> None:
    layouts = ["flat", "anyres"] if model.shape.architecture.name == "llava-next" else ["flat"]
    for layout in layouts:
        prepare = Preparation(model, Workload(image_size=size, layout=layout))  # type: ignore[arg-type]
        shown = picture(model, prepare)
        assert shown is not None
        found = shown.regions
        tokens = [
            region.first + row * region.stride + column
            for region in found
            for row in range(region.rows)
            for column in range(region.columns)
        ]
        newlines = sum(region.rows * (region.stride - region.columns) for region in found)
        assert len(set(tokens)) == len(tokens) == prepare.request.visual - newlines
        for region in found:
            assert region.left < region.right
            assert region.top < region.bottom
        assert picture(model, prepare) is not None


def test_synthetic_tokens_have_no_picture(model: Model) -> None:
    prepare = Preparation(model, Workload(visual_tokens=16))
    assert picture(model, prepare) is None


def test_layers_that_keep_the_same_are_one_entry(model: Model) -> None:
    import tpprof

    inputs = tpprof.inputs(model, image_size=(168, 168))
    trace = tpprof.forward(model, inputs, "vanilla", new_tokens=1)
    (entry,) = selections(trace, inputs.request.visual)
    assert (entry.layer, entry.merged) == (0, 0)
    assert entry.tokens == list(range(inputs.request.visual))
