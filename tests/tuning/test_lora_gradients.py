"""Low-rank training on every family, against peft's own model with full logits and plain autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from families import FAMILIES, as_judge, tiny_model
from relscope.errors import InputError
from relscope.models import LoraSettings, TunableJudge, load_judge

ANSWERS = (5, 6)


def prompts(n_tokens: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, n_tokens, (n,), generator=generator).tolist() for n in (23, 31, 18, 40)]


def fill(weights: list[torch.nn.Parameter]) -> None:
    """Start away from B = 0, where the gradient of A vanishes."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_through_full_logits(family: str) -> None:
    tunable = TunableJudge(as_judge(tiny_model(family, 128)), LoraSettings(rank=2, alpha=4.0))
    fill(tunable.weights)
    ids = prompts(128 - 4)
    lds, log_answered = tunable.readout(ids, [ANSWERS] * len(ids), tokens_per_batch=64)
    (torch.nn.functional.softplus(-lds).sum() - log_answered.sum()).backward()
    fast = [weight.grad.clone() for weight in tunable.weights if weight.grad is not None]
    assert len(fast) == len(tunable.weights)

    for weight in tunable.weights:
        weight.grad = None
    slow_lds, slow_log_answered = [], []
    for prompt in ids:  # one at a time, unpadded, all logits of all positions
        logits = tunable.judge.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
        slow_lds.append(logits[ANSWERS[0]] - logits[ANSWERS[1]])
        slow_log_answered.append(logits.softmax(dim=0)[list(ANSWERS)].sum().log())
    (torch.nn.functional.softplus(-torch.stack(slow_lds)).sum() - torch.stack(slow_log_answered).sum()).backward()
    # float32, sums in another order; gradients are of order 0.01 to 10
    torch.testing.assert_close(lds, torch.stack(slow_lds), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_answered, torch.stack(slow_log_answered), rtol=1e-4, atol=1e-4)
    for got, weight in zip(fast, tunable.weights, strict=True):
        torch.testing.assert_close(got, weight.grad, rtol=2e-3, atol=2e-4)


def test_a_new_judge_answers_as_before_until_it_is_trained(tiny_tokenizer: Any) -> None:
    model = tiny_model("llama", 128)
    ids = prompts(128)
    before = as_judge(model).logit_diff(ids, [ANSWERS] * len(ids))
    tunable = TunableJudge(as_judge(model), LoraSettings(rank=8, alpha=16.0))
    after = tunable.readout(ids, [ANSWERS] * len(ids), 1000)[0].detach()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_a_saved_adapter_loads_as_the_judge_that_was_trained(tiny_model_folder: Path, tmp_path: Path) -> None:
    judge = load_judge(tiny_model_folder, device="cpu")
    tunable = TunableJudge(judge, LoraSettings(rank=3, alpha=16.0, target_modules=("q_proj", "down_proj")))
    fill(tunable.weights)
    ids = prompts(128)
    expected = tunable.readout(ids, [ANSWERS] * len(ids), 1000)[0].detach()
    tunable.save(tmp_path / "adapter", str(tiny_model_folder), None)
    loaded = load_judge(tmp_path / "adapter", device="cpu")
    # merging rounds the weights once more; LD is of order 1
    torch.testing.assert_close(loaded.logit_diff(ids, [ANSWERS] * len(ids)), expected, rtol=0, atol=1e-4)


def test_a_target_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InputError, match=r"c_attn are not in the model; its linear layers are down_proj"):
        TunableJudge(
            as_judge(tiny_model("llama", 128)), LoraSettings(rank=8, alpha=16.0, target_modules=("q_proj", "c_attn"))
        )
