"""What to run, declared once: values are checked where they are declared, whoever gives them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tpprof.reports.record.base import RecordError
from tpprof.reports.record.spec import (
    AccuracySpec,
    Cells,
    OptionError,
    RunSpec,
    Spec,
    Stopping,
    Subject,
    Workload,
    changed,
    options_of,
    part_of,
    read,
    value_of,
)
from tpprof.reports.record.spec_files import as_toml, load, relative, rooted


def test_options_go_to_their_parts_by_keyword() -> None:
    spec = RunSpec.of(model="tiny", methods=["fastv"], image_size=[336, 672], rounds=3)
    assert spec.model.name == "tiny"
    assert spec.cells.methods == ("fastv",)
    assert spec.workload.image_size == ((336, 672),)
    assert (spec.stopping.least, spec.stopping.most, spec.stopping.seconds) == (3, 3, None)
    assert changed(spec, model=None, rounds=None) == RunSpec.of(
        methods=["fastv"], image_size=(336, 672)
    )
    assert hash(spec) == hash(changed(spec))


def test_every_option_says_what_it_is_for_and_has_a_keyword_of_its_own() -> None:
    options = options_of(RunSpec)
    fields = [
        name
        for part in msgspec.structs.fields(RunSpec)
        for name in type(part.default).__struct_fields__
    ]
    assert len(options) == len(fields)
    assert all(option.about.endswith((".", "320")) for option in options.values())
    assert all(value_of(RunSpec(), option) == known.default for option, known in options.items())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"visual_tokens": 0}, "visual_tokens must be a whole number at least 1 and at most"),
        ({"visual_tokens": 10**10}, "at most 16,777,216, not 10000000000"),
        ({"new_tokens": 10**9}, "new_tokens must be"),
        ({"new_tokens": 2.0}, "new_tokens must be a whole number"),
        ({"new_tokens": True}, "new_tokens must be a whole number"),
        ({"image_size": (84, 0)}, "image_size must be a list of 2 values, each a whole number"),
        ({"image_size": (10**5, 10**5)}, "image_size must be"),
        ({"image_size": 672}, "image_size must be"),
        ({"frames": 4, "preprocess": "device"}, "preprocess device takes pictures, and no video"),
        ({"text_tokens": (5, 0)}, "text_tokens must be 2 values"),
        ({"target_ci": float("nan")}, "target_ci must be a number above 0 and at most 1, not nan"),
        (
            {"max_seconds": float("inf")},
            "at least 0 and at most 10,000,000, not inf",
        ),
        ({"isolate": 1}, "isolate must be true or false, not 1"),
        ({"layout": "round"}, "layout must be 'flat' or 'anyres', not 'round'"),
        ({"methods": [""]}, "methods must be a list of text of 1 to 4,096 characters"),
        ({"methods": "fastv"}, "methods must be a list"),
        ({"attention": []}, "attention must be"),
        ({"runtime": ["eager", "eager"]}, "runtime eager,eager names one twice"),
        ({"keep": ""}, "keep must be text"),
        ({"device": ""}, "device must be text"),
        ({"prompt": "a", "text_tokens": (1, 1)}, "prompt and text_tokens exclude each other"),
        ({"image": "a.png", "visual_tokens": 4}, "visual_tokens skips the picture"),
        ({"samples": 2}, "samples is per process: it needs isolate"),
        ({"seed": -1}, "seed must be"),
        ({"colour": "red"}, "colour is no option; known: model, device"),
        ({"target": 0.1}, "target is no option (did you mean 'target_ci'?)"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_value_that_cannot_be_is_one_line_that_names_it(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError) as refused:
        RunSpec.of(**given)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_an_error_is_told_in_the_words_of_who_typed_it() -> None:
    with pytest.raises(OptionError) as refused:
        RunSpec.of(max_rounds=2)
    assert str(refused.value) == "max_rounds 2 is below min_rounds 6"
    assert refused.value.as_flag == "--max-rounds 2 is below --min-rounds 6"


def test_long_values_are_not_repeated_whole() -> None:
    with pytest.raises(OptionError) as refused:
        RunSpec.of(keep="x" * 20_000)
    assert len(str(refused.value)) < 200


def test_a_part_takes_its_own_options_alone() -> None:
    assert part_of(Workload, new_tokens=3) == Workload(new_tokens=3)
    with pytest.raises(OptionError, match="model is no option"):
        part_of(Workload, model="tiny")


@pytest.mark.parametrize(
    "wrong",
    [
        {"workload": {"new_tokens": 0}},
        {"workload": {"tokens": 1}},
        {"cells": {"methods": "fastv"}},
        {"stopping": {"max_rounds": 2}},
        {"more": {}},
        [],
    ],
    ids=str,
)
def test_plain_data_that_is_no_specification_is_refused(wrong: Any) -> None:
    with pytest.raises(RecordError):
        read(RunSpec, wrong)


def test_a_specification_survives_json_and_another_process() -> None:
    spec = RunSpec.of(methods=["fastv:keep=3"], text_tokens=(3, 4), attention=["rows"])
    assert msgspec.json.decode(msgspec.json.encode(spec), type=RunSpec) == spec
    assert read(RunSpec, json.loads(msgspec.json.encode(spec))) == spec


def test_the_gates_subject_is_a_run_without_its_end() -> None:
    assert set(options_of(RunSpec)) - set(options_of(Subject)) == {
        *Stopping.__struct_fields__,
        *AccuracySpec.__struct_fields__,
        "passes",
        "tokens",
    }


def test_a_file_holds_every_option_and_comes_back_as_it_was(tmp_path: Path) -> None:
    spec = RunSpec.of(
        methods=["fastv", 'odd "spec"'],
        keep="1/9",
        image_size=(336, 336),
        max_seconds=3,
        isolate=True,
    )
    text = as_toml(spec)
    for option in options_of(RunSpec).values():
        assert f"{option.name} =" in text
        assert f"# {option.about}" in text
    (tmp_path / "run.toml").write_text(text)
    assert load(tmp_path / "run.toml") == spec


def test_lines_that_are_commented_out_hold_what_is_usual(tmp_path: Path) -> None:
    lines = as_toml(RunSpec()).splitlines()
    used = [line.removeprefix("# ") if " = " in line else line for line in lines]
    (tmp_path / "run.toml").write_text("\n".join(used))
    assert load(tmp_path / "run.toml") == RunSpec()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model", "is no TOML"),
        ("[workload]\nnew_tokens = 0", "new_tokens"),
        ("[workload]\ntokens = 0", "tokens"),
        ("colour = 1", "unknown part `colour`"),
        ("rounds = 3", "`rounds` belongs under [stopping]"),
        ("cells = 3", "write [cells]"),
        ("[cels]", "did you mean `cells`?"),
        ("[stopping]\ntarget_ci = nan", "target_ci"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(RecordError) as refused:
        load(path)
    assert str(refused.value).startswith(str(path))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_paths_lead_from_the_file_that_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "ck").mkdir()
    (tmp_path / "ck" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    spec = Subject.of(model="ck", image="a.png", plugin=["mine.py", "my.module"])
    moved = relative(spec, tmp_path / "deep")
    assert moved.model.name == "../ck"
    assert moved.cells.plugin == ("../mine.py", "my.module")
    assert rooted(moved, tmp_path / "deep") == rooted(spec, tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        relative(Subject.of(plugin=["none.py"]), tmp_path)


def test_an_option_more_is_one_field() -> None:
    """What a new field of a part gets without another line: a keyword and a check."""

    class More(Cells, frozen=True):
        pass

    assert issubclass(More, Spec)
    assert part_of(More, keep="3").keep == "3"


def test_passes_that_are_wanted() -> None:
    assert RunSpec().extras.passes == ("energy", "flops", "activity", "lengths")
    assert RunSpec.of(passes=["flops"]).extras.passes == ("flops",)
    assert RunSpec.of(passes=["none"]).extras.passes == ()
    assert RunSpec.of(passes=[]).extras.passes == ()


@pytest.mark.parametrize(
    ("passes", "wrong"),
    [
        (["flop"], "'flop' is no pass; known: energy, flops, activity, lengths, or none alone"),
        (["none", "flops"], "'none' is no pass"),
        (["energy", "energy"], "energy,energy names one twice"),
        ([""], "must be a list of text of 1 to"),
        ("energy", "must be a list"),
    ],
)
def test_passes_that_do_not_exist(passes: Any, wrong: str) -> None:
    with pytest.raises(OptionError, match=re.escape(wrong)):
        RunSpec.of(passes=passes)
