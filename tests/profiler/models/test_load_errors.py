"""What cannot be loaded or prepared is refused with one line: what is wrong, and what is known."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from micro_models import SHAPES, load
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, MistralConfig, PreTrainedTokenizerFast, SiglipVisionConfig

import tpprof
from tpprof.profiler.cost.planning import Planner
from tpprof.profiler.models.checkpoint.embedded import EMBEDDED
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.model import Model
from tpprof.profiler.models.pictures import PictureError
from tpprof.profiler.models.shapes import ShapeError
from tpprof.profiler.prompts import WorkloadError
from tpprof.reports.record.spec import OptionError, Workload

TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of LLaVA."""
    model, folder = load("llava"), tmp_path_factory.mktemp("saved")
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    model.module.save_pretrained(folder)
    model.image_processor.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return Path(folder)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def refusal(error: type[Exception], call: Callable[[], Any], *parts: str) -> str:
    """The message of the refusal: one line that holds every part, of just this class."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    assert len(message) < 600
    missing = [part for part in parts if part not in message]
    assert not missing, message
    return message


def refused(name: Any, *parts: str, **options: Any) -> str:
    options.setdefault("device", "cpu")
    return refusal(ModelError, lambda: tpprof.load(name, **options), *parts)


def edit(folder: Path, **changes: Any) -> None:
    """Overwrite entries of the checkpoint's config."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("llava-next-7", "llava-next-7b"),
        ("qwen2-vl", "qwen2-vl-7b"),
        ("tinny", "tiny"),
        ("sear", "seer"),
    ],
)
def test_unknown_name(name: str, near: str) -> None:
    known = ("checkpoint folder", "hub id", *SHAPES, *EMBEDDED)
    refused(name, f"unknown model {name!r} (did you mean {near!r}?)", *known)
    refusal(ModelError, lambda: shape_of(name), f"did you mean {near!r}?", *known)


@pytest.mark.parametrize("name", ["zzz", "/no/such/folder", "./none/here", "~/not/here"])
def test_nothing_of_that_name(name: str) -> None:
    assert "did you mean" not in refused(name, f"unknown model {name!r}", "llava-next-7b", "hub id")


def test_hub_id_that_cannot_be_reached(offline: None) -> None:
    refused("nobody/no-such-model", "nobody/no-such-model: no readable model config", "connect")


def test_folder_without_config(tmp_path: Path) -> None:
    refused(str(tmp_path), str(tmp_path), "is no checkpoint: it holds no config.json")


def test_file_instead_of_a_folder(folder: Path) -> None:
    file = folder / "model.safetensors"
    refused(str(file), f"{file} is a file", "the checkpoint folder that holds config.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{not json", "no readable model config ("),
        ("", "no readable model config ("),
        ("[]", "no readable model config (config.json holds a list and no object)"),
        ("null", "no readable model config (config.json holds a NoneType and no object)"),
        ("{}", "architecture None (model_type) is not supported; known: internvl, "),
        (
            '{"model_type": "zzz"}',
            "architecture 'zzz' (model_type) is not supported; known: internvl",
        ),
        ('{"model_type": ["llava"]}', "architecture ['llava'] (model_type) is not supported"),
    ],
)
def test_config_that_is_none(folder: Path, text: str, told: str) -> None:
    (folder / "config.json").write_text(text)
    refused(str(folder), f"{folder}: {told}")


def test_architecture_that_is_not_supported(tmp_path: Path) -> None:
    BertConfig(vocab_size=9).save_pretrained(tmp_path)
    known = "known: internvl, llava, llava_next, llava_onevision, qwen2_vl"
    refused(str(tmp_path), f"{tmp_path}: architecture 'bert' (model_type) is not supported", known)


def test_vision_tower_that_is_not_supported(folder: Path) -> None:
    edit(folder, vision_config=SiglipVisionConfig().to_dict())
    refused(str(folder), str(folder), "'siglip_vision_model'", "known: clip_vision_model")


def test_feature_strategy_that_is_not_supported(folder: Path) -> None:
    edit(folder, vision_feature_select_strategy="full")
    refused(str(folder), str(folder), "strategy 'full' is not supported", "known: default")


def test_sliding_window_is_not_supported(folder: Path) -> None:
    edit(folder, text_config=MistralConfig(**TEXT, sliding_window=20).to_dict())
    refused(str(folder), str(folder), "sliding-window attention is not supported")


@pytest.mark.parametrize("left", [0, 5, 2000, -1000])
def test_weights_cut_short(folder: Path, left: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    refused(str(folder), f"{folder}: no readable weights (Safetensor")


def test_weights_that_are_none(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    refused(str(folder), f"{folder}: no readable weights (Safetensor")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(str(folder), f"{folder}: no readable weights (", "model.safetensors")


def test_missing_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    gone = [name for name in weights if "layers.7." in name and "language_model" in name]
    assert len(gone) == 9
    kept = {name: weight for name, weight in weights.items() if name not in gone}
    save_file(kept, file, {"format": "pt"})
    refused(
        str(folder),
        f"{folder}: 9 weights are missing, "
        "'model.language_model.layers.7.input_layernorm.weight' first",
        "the checkpoint is incomplete",
    )


def test_weights_of_another_size(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, text_config=text | {"intermediate_size": 128})
    first = "'model.language_model.layers.0.mlp.down_proj.weight' first"
    refused(str(folder), f"{folder}: 24 weights", first, "(64, 112) instead of (64, 128)")


def test_no_tokenizer_is_needed_but_where_text_is_tokenised(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    model = tpprof.load(str(folder), device="cpu")
    call = lambda: tpprof.inputs(model)  # noqa: E731
    refusal(WorkloadError, call, "no readable tokenizer (", "--text-tokens")
    assert tpprof.inputs(model, text_tokens=(3, 4)).request.before == 3


def test_no_image_processor_is_needed_but_for_pictures(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    model = tpprof.load(str(folder), device="cpu")
    call = lambda: tpprof.inputs(model)  # noqa: E731
    refusal(WorkloadError, call, "no readable image processor (", "--visual-tokens")
    assert tpprof.inputs(model, visual_tokens=16, text_tokens=(3, 4)).request.visual == 16


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "JSONDecodeError"),
    "cut": (b'{"size":', "JSONDecodeError"),
    "no object": (b"[]", "preprocessor_config.json holds a list and no object"),
    "no text": (b"\xff\xfe\x00", "UnicodeDecodeError"),
    "of another class": (
        b'{"image_processor_type": "SiglipImageProcessor"}',
        "'SiglipImageProcessor' is not supported; known for this model: CLIPImageProcessor",
    ),
    "of a class that nobody knows": (
        b'{"image_processor_type": "Mine"}',
        "'Mine' is not supported",
    ),
    "a key that is not read": (b'{"max_tiles": 4}', "'max_tiles' is nothing that transformers'"),
    "code of its own": (b'{"auto_map": {"AutoImageProcessor": "mine.Mine"}}', "code of its own"),
    "no resizing": (b'{"do_resize": false}', "do_resize False is not supported"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_image_processor_that_is_not_understood(folder: Path, damage: str) -> None:
    """Planning and measuring say the same; without pictures, none is needed."""
    content, told = DAMAGED[damage]
    (folder / "preprocessor_config.json").write_bytes(content)
    workload = Workload(text_tokens=(3, 4))
    said = refusal(ModelError, lambda: Planner(str(folder), workload), "no readable image", told)
    assert said.endswith("use --visual-tokens N, which needs none")
    model = tpprof.load(str(folder), device="cpu")
    refusal(WorkloadError, lambda: tpprof.inputs(model, text_tokens=(3, 4)), told)
    assert tpprof.inputs(model, text_tokens=(3, 4), visual_tokens=9).request.visual == 9
    assert Planner(str(folder), Workload(visual_tokens=9)).request.visual == 9


def test_a_folder_without_an_image_processor_is_planned_by_its_config(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert Planner(str(folder), Workload()).request.visual == 36


def test_weights_that_git_lfs_was_to_fetch(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")
    refused(str(folder), "model.safetensors is a git-lfs pointer", "git lfs pull")


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_named_and_not_passed_over(folder: Path, alone: bool) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if alone:
        (folder / "config.json").unlink()
    refused(str(folder), "holds an adapter (adapter_config.json)", "merge it")
    with pytest.raises(ModelError, match="holds an adapter"):
        shape_of(str(folder))


def test_weights_that_belong_to_no_part_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**weights, name: torch.zeros(2, 64)}, file, {"format": "pt"})
    refused(str(folder), "1 weights belong to no part of the model", "lora_A", "adapter")


@pytest.mark.parametrize("device", ["gpu", "", "cpu0", "mps", "xpu", "hpu", "meta"])
def test_unknown_device(device: str) -> None:
    refused("tiny", "device", device, "known: cpu, cuda", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")], ids=str)
def test_cuda_without_a_gpu(device: str | torch.device) -> None:
    refused("tiny", f"device {device}: this torch sees no CUDA", "--device cpu", device=device)


def test_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused("tiny", "device cuda:2 does not", "known: cpu, cuda:0, cuda:1", device="cuda:2")


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.int8], ids=str)
def test_unknown_dtype(dtype: Any) -> None:
    refused("tiny", f"unknown dtype {dtype!r}", "float32, float16, bfloat16", dtype=dtype)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"layout": "round"}, ("--layout must be 'flat' or 'anyres', not 'round'",)),
        ({"mode": "gqa"}, ("--mode is no option", "known: image")),
        ({"batch_size": 0}, ("--batch-size must be a whole number at least 1", "not 0")),
        ({"new_tokens": 0}, ("--new-tokens must be a whole number at least 1", "not 0")),
        ({"visual_tokens": 0}, ("--visual-tokens must be a whole number at least 1", "not 0")),
        (
            {"image_size": (84, 0)},
            ("--image-size must be a list of 2 values, each", "not ((84, 0),)"),
        ),
        ({"text_tokens": (-1, 5)}, ("--text-tokens", "at least 0", "at least 1")),
        ({"text_tokens": (5, 0)}, ("--text-tokens", "at least 0", "at least 1")),
        ({"image": "/no/such.jpg"}, ("--image '/no/such.jpg': no such file",)),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_request_that_cannot_be(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as refused:
        tpprof.inputs(load("llava"), **options)
    assert all(part in refused.value.as_flag for part in parts), refused.value.as_flag


def test_file_that_is_no_picture(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    noise = random.Random(0).randbytes(90 * 60 * 3)
    Image.frombytes("RGB", (90, 60), noise).save(whole)
    content = bytearray(whole.read_bytes())
    broken = bytes(content[:36]) + bytes([content[36] ^ 255]) + bytes(content[37:])
    bad = tmp_path / "bad.png"
    for data in (b"", b"no picture", content[:60], content[: len(content) // 2], broken):
        bad.write_bytes(data)
        call = lambda: tpprof.inputs(load("llava"), image=str(bad))  # noqa: E731
        refusal(PictureError, call, f"{bad}: not a picture that can be read (")
    assert "pixel_values" in tpprof.inputs(load("llava"), image=str(whole))


def test_picture_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (90, 60)).save(tmp_path / "huge.png")
    call = lambda: tpprof.inputs(load("llava"), image=str(tmp_path / "huge.png"))  # noqa: E731
    refusal(PictureError, call, "huge.png: not a picture that can be read (", "pixels")


@pytest.mark.parametrize("size", [(10, 2010), (5000, 1)], ids=str)
def test_picture_that_the_model_does_not_take(size: tuple[int, int]) -> None:
    call = lambda: tpprof.inputs(load("qwen2-vl"), image_size=size)  # noqa: E731
    refusal(ShapeError, call, f"micro-qwen2-vl takes no picture of {size[1]}x{size[0]}", "200")


def test_prompt_without_a_tokenizer(model: Model) -> None:
    call = lambda: tpprof.inputs(model, prompt="Is it green?")  # noqa: E731
    parts = (model.name, "no tokenizer", "--text-tokens BEFORE,AFTER", "--prompt")
    refusal(WorkloadError, call, *parts)


def test_option_that_does_not_exist() -> None:
    for wrong in ({"colour": "green"}, {"keep": "1/9"}):
        call = lambda: tpprof.inputs(load("llava"), **wrong)  # noqa: B023, E731
        refusal(OptionError, call, f"{next(iter(wrong))} is no option", "text_tokens", "layout")


def test_code_that_a_checkpoint_brings_is_never_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *asked: pytest.fail("asked to run code"))
    refused(str(folder), "architecture 'mine' (model_type) is not supported")
    assert not ran.exists()
