"""Checkpoints whose config.json cannot be: one line of ours, and nothing of transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from micro_models import MICRO, config

from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import load
from tpprof.profiler.workload import Preparation
from tpprof.reports.record.spec import Workload


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro LLaVA with its weights and nothing else; its image token is 3."""
    import torch
    from transformers import LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("checkpoint")
    given = config(MICRO["llava"])
    given.image_token_index = 3
    torch.manual_seed(0)
    LlavaForConditionalGeneration(given).save_pretrained(folder)
    return folder


def changed(folder: Path, into: Path, section: str, key: str, value: Any) -> Path:
    """The same weights under a config in which one value is another."""
    given = json.loads((folder / "config.json").read_text())
    (given[section] if section else given)[key] = value
    (into / "config.json").write_text(json.dumps(given))
    for path in folder.glob("*.safetensors"):
        (into / path.name).symlink_to(path)
    return into


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("text_config", "num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("text_config", "num_hidden_layers", -1, "num_hidden_layers is -1"),
        ("text_config", "num_hidden_layers", 10**12, "from 1 to 1,024"),
        ("text_config", "num_hidden_layers", 9, "weights are missing"),
        ("text_config", "num_hidden_layers", 7, "weights belong to no part"),
        ("text_config", "hidden_size", 0, "hidden_size is 0"),
        ("vision_config", "num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("", "text_config", None, "text_config is None"),
        ("", "vision_config", None, "vision_config is None"),
        ("", "vision_feature_layer", 99, "the tower has 4 layers"),
        ("", "vision_feature_layer", -99, "the tower has 4 layers"),
        ("", "vision_feature_layer", [], "the tower has 4 layers"),
        ("", "image_token_index", -5, "image_token_index. is -5"),
        ("", "image_token_index", 10**9, "image_token_index. is 1000000000"),
    ],
)
def test_one_line(
    checkpoint: Path,
    tmp_path: Path,
    section: str,
    key: str,
    value: Any,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ModelError, match=said) as refused:
        load(str(changed(checkpoint, tmp_path, section, key, value)), device="cpu")
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


def test_an_image_token_of_3_is_one_like_others(checkpoint: Path) -> None:
    model = load(str(checkpoint), device="cpu")
    workload = Workload(visual_tokens=9, text_tokens=(40, 40))
    before, after = Preparation(model, workload).text or ([], [])
    assert len(before) == len(after) == 40
    assert min(before + after) > 3
