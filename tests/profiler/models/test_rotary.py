"""Rotary embeddings: stateless ones are measured as transformers has them, all others refused, by
the plan and before a measurement alike."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_models import MICRO, SIZE, config, load, load_with_rope, rope
from transformers import (
    AutoConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import tpprof
from tpprof.profiler.models.checkpoint.rotary import STATEFUL, STATELESS
from tpprof.profiler.models.errors import ModelError
from tpprof.profiler.models.load import shape_of
from tpprof.profiler.models.shapes import ShapeError
from tpprof.profiler.workload import plan_request
from tpprof.reports.record.spec import Workload

ARCHITECTURES = tuple(MICRO)
CONFIGS = {
    "llava": LlavaConfig,
    "llava-next": LlavaNextConfig,
    "qwen2-vl": Qwen2VLConfig,
    "qwen2.5-vl": Qwen2_5_VLConfig,
    "qwen3-vl": Qwen3VLConfig,
}


def folder(path: Path, architecture: str, change: Any) -> str:
    """A checkpoint folder without weights, its config.json changed by `change`."""
    given = config(MICRO[architecture]).to_dict()
    given["text_config"].pop("rope_parameters", None)
    change(given)
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(given))
    return str(path)


def test_every_type_of_transformers_is_decided_on() -> None:
    assert {"default", *ROPE_INIT_FUNCTIONS} == {*STATELESS, *STATEFUL}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", STATELESS)
def test_stateless_types_give_what_transformers_gives(
    kind: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_with_rope(kind, architecture, monkeypatch)
    layout = "anyres" if architecture == "llava-next" else "flat"
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(3, 4), layout=layout)
    with torch.no_grad():
        expected = model.module(**inputs).logits[:, -1]
    torch.testing.assert_close(tpprof.forward(model, inputs).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", STATEFUL)
def test_stateful_types_are_refused_before_anything_runs(
    kind: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_with_rope(kind, architecture, monkeypatch)
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(3, 4))
    with pytest.raises(ModelError, match=f"rope_type '{kind}' .*: one request would change"):
        tpprof.forward(model, inputs)
    with pytest.raises(ModelError, match=f"rope_type '{kind}'"):
        tpprof.compare(["fastv"], model=model, rounds=1, image_size=SIZE)


def test_a_type_that_is_changed_after_loading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_with_rope("default", "llava", monkeypatch)
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(3, 4))
    own = model.text_config.rope_parameters
    model.text_config.rope_parameters = rope("dynamic")
    with pytest.raises(ModelError, match=r"language_model.rotary_emb: rope_type 'dynamic'"):
        tpprof.forward(model, inputs)
    model.text_config.rope_parameters = own
    model.language.rotary_emb.rope_type = "longrope"
    with pytest.raises(ModelError, match=r"language_model.rotary_emb: rope_type 'longrope'"):
        tpprof.forward(model, inputs)


def inside(**section: Any) -> Any:
    return lambda given: given["text_config"].update(copy.deepcopy(section))


def outside(**section: Any) -> Any:
    return lambda given: given.update(copy.deepcopy(section))


REFUSED = {
    "named type": (inside(rope_scaling=rope("dynamic", key="type")), "one request would change"),
    "older key": (inside(rope_scaling=rope("dynamic")), "one request would change"),
    "longrope": (inside(rope_parameters=rope("longrope")), "one request would change"),
    "two names": (inside(rope_scaling={**rope("default"), "type": "dynamic"}), "type 'dynamic'"),
    "by layer type": (
        inside(rope_parameters={"full_attention": rope("dynamic")}),
        "by layer type ('full_attention') are not supported",
    ),
    "by layer type, all default": (
        inside(rope_parameters={"full_attention": rope("default"), "other": rope("default")}),
        "by layer type ('full_attention') are not supported",
    ),
    "a variant": (inside(rope_scaling=rope("dynamic-ntk")), "one request would change"),
    "unknown": (inside(rope_scaling=rope("su")), "rope_type 'su' is not supported; known: default"),
    "a tower's": (inside(rope_scaling=rope("axial")), "rope_type 'axial' is not supported"),
    "outside": (outside(rope_scaling=rope("dynamic")), "one request would change"),
    "outside, named type": (outside(rope_scaling=rope("dynamic", key="type")), "one request would"),
    "outside, longrope": (outside(rope_scaling=rope("longrope")), "one request would change"),
    "outside, stateless": (outside(rope_parameters=rope("linear")), "stands outside text_config"),
}


BOUNDED = [REFUSED[name][0] for name in ("named type", "older key")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:.*rope_scaling.*:FutureWarning")
def test_a_config_is_refused_wherever_it_says_so(
    change: Any, told: str, architecture: str, tmp_path: Path
) -> None:
    if architecture == "internvl" and change in BOUNDED:
        pytest.skip("dynamic scaling is taken, and the length of requests bounded: see below")
    mine = folder(tmp_path / "mine", architecture, change)
    for refuse in (shape_of, lambda name: tpprof.load(name, device="cpu")):
        with pytest.raises(ModelError) as refused:
            refuse(mine)
        assert told in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", BOUNDED)
@pytest.mark.filterwarnings("ignore:.*rope_scaling.*:FutureWarning")
def test_dynamic_scaling_of_internvl_is_none_up_to_its_bound(change: Any, tmp_path: Path) -> None:
    """Its published configs have it: logits are those of transformers, whose own model scales."""
    mine = Path(folder(tmp_path / "mine", "internvl", change))
    written = (mine / "config.json").read_text()
    given = AutoConfig.from_pretrained(mine)
    assert given.text_config.rope_parameters["rope_type"] == "dynamic"
    torch.manual_seed(0)
    theirs = InternVLForConditionalGeneration._from_config(given).eval()
    theirs.save_pretrained(mine)
    (mine / "config.json").write_text(written)
    load("internvl").image_processor.save_pretrained(mine)
    model = tpprof.load(str(mine), device="cpu")
    assert model.text_config.rope_parameters["rope_type"] == "default"
    inputs = tpprof.inputs(model, image_size=SIZE, text_tokens=(3, 4))
    with torch.no_grad():
        expected = theirs(**inputs).logits[:, -1]
    torch.testing.assert_close(tpprof.forward(model, inputs).logits, expected, atol=1e-4, rtol=0)
    most = model.shape.text.positions
    longest = Workload(visual_tokens=9, new_tokens=1, text_tokens=(most - 10, 1))
    assert plan_request(model.shape, longest).length == most
    longer = Workload(visual_tokens=9, new_tokens=1, text_tokens=(most - 10, 2))
    with pytest.raises(ShapeError, match=f"a request of {most + 1:,} positions: mine is made for"):
        plan_request(model.shape, longer)


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_what_qwens_files_call_mrope_is_the_default(key: str, tmp_path: Path) -> None:
    change = inside(rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3], key: "mrope"})
    assert shape_of(folder(tmp_path / "mine", "qwen2-vl", change)).text.layers == 8
