"""A checkpoint folder gives the model, the pictures and the prompt that it was saved with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from micro_models import config, load
from micro_tokenizer import QUESTION, tokenizer_of

import tpprof
from tpprof.methods.engine.decoder import Inputs
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.model import Model
from tpprof.profiler.prompts import WorkloadError
from tpprof.reports.record.spec import OptionError


def save(model: Model, module: Any, folder: Path, **options: Any) -> Path:
    module.save_pretrained(folder, **options)
    model.image_processor.save_pretrained(folder)
    tokenizer_of(model).save_pretrained(folder)
    return folder


def variant(model: Model, given: Any, folder: Path) -> tuple[Any, Model]:
    """A transformers model of another config, and what is loaded of its checkpoint."""
    torch.manual_seed(0)
    module = type(model.module)._from_config(given).eval()
    return module, tpprof.load(str(save(model, module, folder)), device="cpu")


@pytest.fixture(scope="module")
def checkpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, model.module, tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Model:
    return tpprof.load(str(checkpoint), device="cpu")


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def prompt_of(model: Model, inputs: Inputs) -> tuple[str, str]:
    """The words before and after the image, whose placeholders must be one unbroken run."""
    ids, request = inputs["input_ids"][0].tolist(), inputs.request
    before, after = ids[: request.before], ids[request.before + request.visual :]
    visual = ids[request.before : request.before + request.visual]
    assert len(ids) == request.length
    assert visual == [model.image_token] * request.visual
    assert request.visual >= 36
    assert model.image_token not in before + after
    tokens = model.tokenizer.convert_ids_to_tokens
    return " ".join(tokens(before)), " ".join(tokens(after))


def framed(model: Model, before: str, after: str) -> tuple[str, str]:
    """With the markers that some models want around a picture."""
    if model.shape.vision.dynamic:
        return f"{before} <|vision_start|>", f"<|vision_end|> {after}"
    if model.shape.architecture.name == "internvl":
        return f"{before} <img>", f"</img> {after}"
    return before, after


@torch.no_grad()
def assert_same(module: Any, model: Model, tolerance: float = 1e-4, **options: Any) -> None:
    """What is loaded gives the logits of a transformers model."""
    inputs = tpprof.inputs(model, **({"image_size": (100, 168), "layout": "anyres"} | options))
    ours = tpprof.forward(model, inputs, "vanilla").logits
    theirs = module(**inputs).logits[:, -1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_weights_and_numbers_come_back(model: Model, loaded: Model, checkpoint: Path) -> None:
    saved, read = model.module.state_dict(), loaded.module.state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    numbers = dataclasses.replace(model.shape, name="mine", about="")
    assert (loaded.shape, loaded.shape.parameters) == (numbers, model.shape.parameters)
    assert (loaded.name, loaded.source) == ("mine", f"checkpoint {checkpoint}")
    assert (loaded.dtype, loaded.device.type, loaded.backend) == (torch.float32, "cpu", "sdpa")
    assert not loaded.module.training
    assert shape_of(str(checkpoint)) == loaded.shape


@pytest.mark.parametrize("options", [{}, {"prompt": "green ?"}, {"text_tokens": (4, 9)}], ids=str)
def test_logits_come_back(model: Model, loaded: Model, options: dict[str, Any]) -> None:
    inputs = tpprof.inputs(loaded, image_size=(100, 168), layout="anyres", batch_size=2, **options)
    mine = tpprof.forward(loaded, inputs, "vanilla", new_tokens=3)
    original = tpprof.forward(model, inputs, "vanilla", new_tokens=3)
    assert torch.equal(mine.logits, original.logits)
    assert torch.equal(mine.step_logits, original.step_logits)
    assert_same(model.module, loaded, batch_size=2, **options)


def test_pictures_are_processed_as_before(model: Model, loaded: Model) -> None:
    ours, theirs = (
        tpprof.inputs(each, image_size=(90, 168), text_tokens=(4, 9)) for each in (loaded, model)
    )
    assert ours.request == theirs.request
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_default_prompt_goes_through_the_chat_template(loaded: Model) -> None:
    inputs = tpprof.inputs(loaded, image_size=(168, 168))
    assert prompt_of(loaded, inputs) == framed(
        loaded, "<s> SYSTEM USER :", f"{QUESTION} ASSISTANT :"
    )


def test_a_prompt_of_ones_own(loaded: Model) -> None:
    inputs = tpprof.inputs(
        loaded, image_size=(168, 168), prompt="Is the person green?", batch_size=2
    )
    assert torch.equal(inputs["input_ids"][0], inputs["input_ids"][1])
    assert prompt_of(loaded, inputs) == framed(
        loaded, "<s> SYSTEM USER :", "Is the person green ? ASSISTANT :"
    )
    with pytest.raises(OptionError, match="prompt must be text with more than spaces in it"):
        tpprof.inputs(loaded, image_size=(168, 168), prompt="")


@pytest.mark.parametrize("lengths", [(0, 1), (3, 17)])
def test_text_tokens_instead_of_a_prompt(loaded: Model, lengths: tuple[int, int]) -> None:
    inputs = tpprof.inputs(loaded, image_size=(168, 168), text_tokens=lengths)
    assert (inputs.request.before, inputs.request.after) == lengths
    assert "SYSTEM" not in " ".join(prompt_of(loaded, inputs))


def test_no_chat_template(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    plain = tpprof.load(str(copy), device="cpu")
    assert plain.chat_template is None
    inputs = tpprof.inputs(plain, image_size=(168, 168))
    assert prompt_of(plain, inputs) == framed(plain, "<s> USER :", f"{QUESTION} ASSISTANT :")


def test_chat_template_of_the_joint_processor(model: Model, copy: Path) -> None:
    """Older checkpoints keep it in a file that only transformers' joint processor reads."""
    template = tokenizer_of(model).chat_template.replace("SYSTEM", "green")
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    old = tpprof.load(str(copy), device="cpu")
    assert prompt_of(old, tpprof.inputs(old, image_size=(168, 168))) == framed(
        old, "<s> green USER :", f"{QUESTION} ASSISTANT :"
    )


def test_a_template_that_begins_the_sequence_itself(copy: Path) -> None:
    template = copy / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    begun = tpprof.load(str(copy), device="cpu")
    before, _ = prompt_of(begun, tpprof.inputs(begun, image_size=(168, 168)))
    assert before.split()[:2] == ["<s>", "SYSTEM"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('Only text') }}",
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}",
        "{% for m in messages %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_cannot_be_rendered(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    other = tpprof.load(str(copy), device="cpu")
    with pytest.raises(WorkloadError) as refused:
        tpprof.inputs(other, image_size=(168, 168))
    message = str(refused.value)
    assert "chat template cannot be rendered" in message
    assert "--text-tokens" in message
    assert "\n" not in message
    assert tpprof.inputs(other, image_size=(168, 168), text_tokens=(3, 4)).request.before == 3


def test_a_prompt_that_says_where_the_picture_goes(loaded: Model) -> None:
    with pytest.raises(WorkloadError, match=r"--prompt itself holds .*: leave it out"):
        tpprof.inputs(loaded, image_size=(168, 168), prompt=f"{loaded.image_text} What is it?")


@pytest.mark.parametrize("count", [0, 2])
def test_a_template_without_one_picture(loaded: Model, copy: Path, count: int) -> None:
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace(loaded.image_text, loaded.image_text * count))
    other = tpprof.load(str(copy), device="cpu")
    with pytest.raises(WorkloadError, match=f"copy: its prompt holds {count} image placeholders"):
        tpprof.inputs(other, image_size=(168, 168))
    assert tpprof.inputs(other, image_size=(168, 168), text_tokens=(3, 4)).request.before == 3


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16], ids=str)
def test_bfloat16(model: Model, checkpoint: Path, dtype: str | torch.dtype) -> None:
    half = tpprof.load(str(checkpoint), device="cpu", dtype=dtype)
    assert {weight.dtype for weight in half.module.parameters()} == {torch.bfloat16}
    inputs = tpprof.inputs(half, image_size=(100, 168), layout="anyres")
    trace = tpprof.forward(half, inputs, "vanilla")
    assert trace.logits.dtype == torch.bfloat16
    assert_same(half.module, half, tolerance=5e-3)
    whole = tpprof.forward(model, inputs, "vanilla")
    # SigLIP's queries and keys are drawn larger, and sharpened on top: rounding shows there most.
    most = 0.6 if model.shape.architecture.name == "llava-onevision" else 0.3
    assert (trace.logits - whole.logits).abs().max() < most * whole.logits.std()
    assert [2 * count for count in trace.kv_bytes.decode] == whole.kv_bytes.decode


def test_weights_in_several_files(model: Model, tmp_path: Path) -> None:
    save(model, model.module, tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    read = tpprof.load(str(tmp_path), device="cpu").module.state_dict()
    assert all(torch.equal(read[name], kept) for name, kept in model.module.state_dict().items())


def test_folder_named_from_where_one_stands(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    for name in ("mine", "mine/", "./mine", "~/mine"):
        assert tpprof.load(name, device="cpu").name == "mine"


def test_hub_id_from_the_cache_while_offline(
    checkpoint: Path, loaded: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cache, revision = tmp_path / "models--me--cached", 40 * "a"
    shutil.copytree(checkpoint, cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    cached = tpprof.load("me/cached", device="cpu")
    assert (cached.name, cached.source) == ("cached", "checkpoint me/cached")
    assert cached.chat_template == loaded.chat_template
    assert_same(loaded.module, cached)


@pytest.mark.parametrize("model", ["qwen2-vl"], indirect=True)
def test_bounds_of_the_checkpoints_own_image_processor(copy: Path) -> None:
    given: dict[str, Any] = {
        "min_pixels": 3136,
        "max_pixels": 28 * 28 * 9,
        "patch_size": 14,
        "merge_size": 2,
    }
    given |= {"temporal_patch_size": 2, "image_processor_type": "Qwen2VLImageProcessor"}
    (copy / "preprocessor_config.json").write_text(json.dumps(given))
    small = tpprof.load(str(copy), device="cpu")
    assert tpprof.inputs(small, image_size=(672, 672)).request.visual == 9
    assert_same(small.module, small, image_size=(672, 672))
    assert shape_of(str(copy)) == small.shape
    other = load("qwen2-vl")
    assert tpprof.inputs(other, image_size=(672, 672)).request.visual == 576


@pytest.mark.parametrize("model", ["llava", "llava-next"], indirect=True)
@pytest.mark.parametrize("layers", [-1, 2, [1, -2]], ids=str)
def test_other_vision_feature_layers(model: Model, tmp_path: Path, layers: int | list[int]) -> None:
    given = config(model.shape)
    given.vision_feature_layer = layers
    assert_same(*variant(model, given, tmp_path))


@pytest.mark.parametrize("model", ["qwen2-vl"], indirect=True)
def test_tied_head_is_counted_once(model: Model, tmp_path: Path) -> None:
    """Qwen2-VL-2B is published with a head that is the transposed embedding."""
    given = config(model.shape)
    given.tie_word_embeddings = given.text_config.tie_word_embeddings = True
    module, read = variant(model, given, tmp_path)
    assert_same(module, read)
    assert read.shape.parameters == sum(weight.numel() for weight in module.parameters())
