"""A tokenizer of words for the micro models, so that they can be asked and answer."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tpprof.profiler.models.model import Model

QUESTION = "Is there a person in the image ? Answer the question using a single word or phrase ."
TEMPLATE = (
    "SYSTEM{% for message in messages %} USER: {% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %} {{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer_of(model: Model) -> PreTrainedTokenizerFast:
    """A word tokenizer as large as the vocabulary; special tokens have the ids of the config."""
    given = model.module.config
    special = {model.image_token: "<image>"}
    if model.shape.vision.dynamic:
        special = {
            given.image_token_id: "<|image_pad|>",
            given.vision_start_token_id: "<|vision_start|>",
            given.vision_end_token_id: "<|vision_end|>",
        }
    if model.shape.architecture.name == "internvl":
        last = model.image_token
        special = {last: "<IMG_CONTEXT>", last - 1: "<img>", last - 2: "</img>"}
    known = dict.fromkeys(f"{QUESTION} SYSTEM USER ASSISTANT : green Yes No dog cat car".split())
    words = iter([*known, *(f"word{index}" for index in range(model.shape.text.vocabulary))])
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for index in range(3, model.shape.text.vocabulary):
        vocabulary[special.get(index) or next(words)] = index
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(special.values()),
    )
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", model.image_text)
    return tokenizer
