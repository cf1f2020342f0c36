"""What does the model make of many prompts at their last token, in as few and as large products as possible?

Prompts are batched by length and padded on the right, where causal attention cannot see it from a real token. So no
mask is needed and positions stay as they are. Cost: one forward pass a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.prompts import Prompt

if TYPE_CHECKING:
    from relscope.models.judge import JudgeModel

_TOKENS_PER_BATCH = 2048


def final_hidden(
    judge: JudgeModel, ids: Sequence[Sequence[int]], tokens_per_batch: int
) -> Float[Tensor, "prompt d_model"]:
    """Normed hidden state at each prompt's last token; `tokens_per_batch` bounds a batch's tokens, with padding."""
    hidden: dict[int, Tensor] = {}
    for batch in judge.batches(ids, tokens_per_batch):
        padded = judge.padded([ids[i] for i in batch])
        states = judge.decoder(input_ids=padded, use_cache=False).last_hidden_state
        hidden.update({i: states[row, len(ids[i]) - 1] for row, i in enumerate(batch)})
    return torch.stack([hidden[i] for i in range(len(ids))])


@torch.no_grad()
def final_hidden_of(judge: JudgeModel, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt d_model"]:
    """Normed hidden state at the last token of each rendered prompt."""
    if not prompts:
        return torch.zeros(0, judge.shape.d_model, device=judge.device)
    return final_hidden(judge, [prompt.ids for prompt in prompts], _TOKENS_PER_BATCH)
