"""One request is what a run repeats: whoever asks for rows that differ, or gives files that are
none, is told in one line, before any model is loaded; padding is never counted in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import in_this_process
from micro_models import SIZE, load

import tpprof
from tpprof.methods import InputError
from tpprof.profiler.models.pictures import PictureError
from tpprof.profiler.prompts import WorkloadError
from tpprof.profiler.run.comparison import Comparison
from tpprof.profiler.run.kept_tokens import TokenViewer
from tpprof.reports.record.spec import ONE_REQUEST, OptionError, RunSpec, Subject, Workload, read

TURNS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "dog"}]}]
DIFFERENT: dict[str, Any] = {
    "image": [["a.png"], ["b.png", "c.png"]],
    "image_size": [[[84, 84]], [[56, 84]]],
    "video": ["a.mp4", "b.mp4"],
    "frames": [4, 8],
    "messages": ["a.json", "b.json"],
    "prompt": ["dog?", "cat?"],
    "text_tokens": [[3, 4], [5, 6]],
    "visual_tokens": [64, 32],
    "batch_size": [1, 2],
}


@pytest.mark.parametrize("option", DIFFERENT)
def test_rows_that_differ_are_refused_by_keyword_and_in_a_file(option: str) -> None:
    told = f"{option} {ONE_REQUEST}"
    with pytest.raises(OptionError) as by_keyword:
        RunSpec.of(**{option: DIFFERENT[option]})
    with pytest.raises(OptionError) as in_a_file:
        read(RunSpec, {"workload": {option: DIFFERENT[option]}})
    assert str(by_keyword.value) == str(in_a_file.value) == told
    as_typed = by_keyword.value.as_flag
    assert as_typed.startswith(f"--{option.replace('_', '-')} is for one request")
    assert "(--batch-size)" in as_typed


def test_several_workloads_in_a_file_are_refused() -> None:
    with pytest.raises(OptionError, match=r"^workload is for one request, .* \(batch_size\)"):
        read(RunSpec, {"workload": [{"prompt": "dog?"}, {"prompt": "cat?"}]})


def test_what_one_request_lists_is_no_batch() -> None:
    Workload(image=("a.png", "b.png"), image_size=((84, 84), (56, 84)), batch_size=2)
    Workload(image_size=(84, 84), text_tokens=(3, 4))
    with pytest.raises(OptionError, match="messages must be text"):
        RunSpec.of(messages=[])


@pytest.mark.parametrize("option", ["--messages", "--prompt", "--text-tokens", "--batch-size"])
def test_an_option_given_twice_says_that_it_is_for_one_request(option: str, tmp_path: Path) -> None:
    done = in_this_process("compare", "fastv", option, "3,4", option, "5,6", cwd=tmp_path)
    assert done.returncode == 2
    told = done.stderr
    assert f"{option} is given twice: it is for one request, which every row" in told
    assert "(--batch-size)" in told
    assert told.count("\n") == 1


def test_a_list_of_conversations_is_no_conversation(tmp_path: Path) -> None:
    file = tmp_path / "turns.json"
    file.write_text(json.dumps([TURNS, TURNS]))
    with pytest.raises(WorkloadError, match="holds a list of 2 conversations, and --messages is"):
        Comparison(RunSpec.of(methods=["fastv"], model="tiny-llava", messages=str(file)))


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    for module in ("comparison", "kept_tokens"):
        monkeypatch.setattr(f"tpprof.profiler.run.{module}.load", fail)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("start", [Comparison, TokenViewer])
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"video": "FILE"}, PictureError),
        ({"video": "FILE", "image_size": SIZE}, PictureError),
        ({"image": "FILE"}, PictureError),
        ({"image": "FILE", "image_size": SIZE}, PictureError),
        ({"messages": "FILE"}, WorkloadError),
        ({"messages": "none.json"}, OptionError),
    ],
    ids=str,
)
def test_files_that_are_none_are_told_before_a_model_is_loaded(
    given: dict[str, Any], error: type[Exception], start: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "given"
    file.write_text("nothing that could be shown")
    options = {name: str(file) if value == "FILE" else value for name, value in given.items()}
    usual = {"methods": ["fastv"], "model": "tiny-llava-onevision", "attention": ["rows"]}
    images = {} if start is Comparison else {"images": [options.get("image")]}
    spec: Any = (RunSpec if start is Comparison else Subject).of(**usual, **options)
    with pytest.raises(error) as told:
        start(spec, **images)
    assert "\n" not in str(told.value)


def padded(inputs: dict[str, Any], rows: int, left: int) -> dict[str, Any]:
    """Inputs whose first row has so many positions of padding before it."""
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, :left] = 0
    assert len(mask) == rows
    return {**inputs, "attention_mask": mask}


def test_the_engine_takes_no_padding_for_text() -> None:
    model = load("llava")
    inputs = tpprof.inputs(model, image_size=SIZE, batch_size=2)
    length = inputs.request.length
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    whole = tpprof.forward(model, inputs)
    inputs["attention_mask"][0, :3] = 0
    with pytest.raises(InputError, match=f"hides 3 of {2 * length} positions: the engine knows no"):
        tpprof.forward(model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(tpprof.forward(model, inputs).logits, whole.logits)
    inputs["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (3, 0))
    with pytest.raises(InputError, match=f"input_ids is 2 x {length + 3}, and its request 2 x"):
        tpprof.forward(model, inputs)


def test_inputs_take_no_mask() -> None:
    with pytest.raises(OptionError, match=r"^attention_mask is not taken: a prompt is for one"):
        tpprof.inputs(load("llava"), attention_mask=[[0, 1]])


@pytest.mark.parametrize("left", [0, 3])
def test_padding_in_the_inputs_of_a_callable_is_said(left: int) -> None:
    inputs = tpprof.inputs(load("llava"), image_size=SIZE, batch_size=2)
    given = padded(dict(inputs), 2, left)
    for made in (given, lambda: given):
        (cell,) = tpprof.measure(
            {"vanilla": load("llava").module}, inputs=made, rounds=1, passes=False, new_tokens=2
        ).cells
        assert cell.error == ""
        told = f"padding: attention_mask hides {left} of the {given['input_ids'].numel()} positions"
        assert (told in cell.note) == bool(left)
        assert cell.visual_per_layer == []
        assert "its inputs are its own" in cell.missing["visual tokens"]
        assert set(cell.tokens_per_layer) == {inputs.request.length}
