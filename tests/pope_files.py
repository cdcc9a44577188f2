"""POPE's files and a checkpoint that answers, as small as they can be."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from micro_models import load
from micro_tokenizer import tokenizer_of
from PIL import Image

from tpprof.profiler.models.model import Model

NOUNS = ("dog", "cat", "car", "person")
IN = ("", " in", " in in")  # questions of several lengths
PICTURES = 8


def write_pope(folder: Path, pictures: int = PICTURES) -> tuple[Path, Path]:
    """Folders of annotations and of pictures: two questions a picture in each category."""
    annotations, images = folder / "annotations", folder / "val2014"
    annotations.mkdir()
    images.mkdir()
    for number in range(pictures):
        shade = 30 * number
        width = 84 + 12 * (number % 2)
        picture = Image.effect_noise((width, 84), 20.0 * (number + 1)).convert("RGB")
        picture.paste((shade, 255 - shade, 90), (0, 0, 20 + 7 * number, 30))
        picture.save(images / f"COCO_{number}.png")
    for category in ("random", "popular", "adversarial"):
        lines = [
            {
                "question_id": 2 * number + index + 1,
                "image": f"COCO_{number}.png",
                "text": f"Is there a {NOUNS[(number + index) % 4]}{IN[number % 3]} the image?",
                "label": ("yes", "no")[index],
            }
            for number in range(pictures)
            for index in range(2)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (annotations / f"coco_pope_{category}.json").write_text(text)
    return annotations, images


def answering(architecture: str = "llava") -> Model:
    """A micro model with a tokenizer; its answers are words that mean nothing, but depend on the
    picture and the question: what attention adds is made large."""
    model = copy.copy(load(architecture))  # which other tests share
    model.module = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith(("v_proj.weight", "o_proj.weight")):
                weight.mul_(1.5)
    model.tokenizer = tokenizer_of(model)
    model.chat_template = model.tokenizer.chat_template
    return model


def save_checkpoint(folder: Path) -> Path:
    """A checkpoint whose answers are Yes and No in some order, and which often ends them."""
    model = answering()
    head = model.module.lm_head.weight
    ids = model.tokenizer.convert_tokens_to_ids(["Yes", "No", "</s>"])
    generator = torch.Generator().manual_seed(24)
    with torch.no_grad():
        head.zero_()
        head[ids] = torch.randn(3, head.shape[1], generator=generator)
    model.module.save_pretrained(folder)
    model.image_processor.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder
