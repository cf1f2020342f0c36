"""A judge of random weights, in the shape of a large model, made where it is used: nothing is downloaded or read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from relscope.models import JudgeModel, ModelIdentity
from relscope.models.loading import DTYPES, MIXED
from relscope.models.mixed import widen_activations

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
        "intermediate_size": 14336, "vocab_size": 128256,
    },
    "tiny": {
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64,
        "intermediate_size": 128, "vocab_size": 1024,
    },
}  # fmt: skip


def random_judge(shape: str, device: torch.device, dtype: str) -> JudgeModel:
    """A Llama with the weights that training would begin with, drawn on the device; it has no tokenizer.

    `dtype` is one that `load_judge` takes.
    """
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=False)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    model = model.eval().requires_grad_(False)
    if dtype == MIXED:
        widen_activations(model)
    return JudgeModel(model, None, ModelIdentity(f"random {shape}", "folder", None, None, dtype, "none", "llama"))
