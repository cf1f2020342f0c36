"""The model that test_by_hand works out on paper, and its prompts of two tokens."""

from __future__ import annotations

import torch
import transformers

from families import as_judge
from relscope.models import JudgeModel
from relscope.prompts import Prompt, Span

Y, N, Q = 0, 1, 3


def prompt(*ids: int) -> Prompt:
    """A prompt of a document of one token and a last token."""
    document = Span(0, 1)
    return Prompt(ids, "YQ", ((0, 1), (1, 2)), parts={"document": document}, characters={"document": document})


@torch.no_grad()
def paper_model(output: float = 1.0) -> JudgeModel:
    """Two layers of one head that attends evenly, and MLPs that give nothing; attention's output scaled by `output`."""
    config = transformers.LlamaConfig(
        vocab_size=4, hidden_size=4, intermediate_size=4, num_hidden_layers=2, num_attention_heads=1,
        rms_norm_eps=1e-12, tie_word_embeddings=True, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(0.5)
        elif "embed" in name or "v_proj" in name:
            parameter.copy_(torch.eye(4))
        elif "o_proj" in name:
            parameter.copy_(output * torch.eye(4))
        else:
            parameter.zero_()
    return as_judge(model)
