"""A small LLaVA as transformers 4.36 to 4.43 run it: one placeholder a picture, inputs of its own.

Runs under Python 3.9, without tpprof.
"""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE, LAYERS, SIDE = 500, 4, 84


def model():
    """A transformers model with inputs of its own: 36 visual tokens, 35 + 25 of text."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
    )
    made = LlavaForConditionalGeneration(LlavaConfig(vision, text, image_token_index=IMAGE)).eval()
    made.config.pad_token_id = made.pad_token_id = 0
    return made


def inputs():
    """Made anew for each request, on the clock."""
    ids = torch.cat([torch.arange(3, 38), torch.tensor([IMAGE]), torch.arange(40, 65)])[None]
    pixels = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


model.inputs = inputs
