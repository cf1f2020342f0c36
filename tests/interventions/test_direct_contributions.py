"""What each part writes into LD: parts sum to the whole, each is what weights and norms written out make of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, as_judge, from_config, tiny_judge
from reference_readouts import ReadoutReference
from relscope.errors import InputError
from relscope.interventions import direct_contributions, head_writes
from relscope.models import JudgeModel

# Contributions are of order 1 and float32; the reference multiplies in float64, of activations that another attention
# code rounded.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def reference(family: str, judge: JudgeModel) -> ReadoutReference:
    return ReadoutReference(judge.model, family)


@pytest.mark.parametrize("template", [{}, {"format": "pairwise"}], ids=["pointwise", "pairwise"])
def test_contributions_sum_to_the_logit_difference_of_the_run(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any, template: dict[str, Any]
) -> None:
    pair = aligned(tiny_tokenizer, **template)
    for prompt in (pair.clean, pair.corrupted):
        found = direct_contributions(judge, judge.record(prompt.ids), pair.answer_ids)
        wanted = reference.logit_diff(prompt.ids, pair.answer_ids)
        assert found.ld == pytest.approx(wanted, abs=TOLERANCE)
        if judge.identity.model_type != "gemma2":
            assert found.ld_uncapped == pytest.approx(found.ld, abs=TOLERANCE)
        assert found.total == pytest.approx(found.ld_uncapped, abs=TOLERANCE)
        # The sum says little unless its parts differ.
        assert found.head.std() > 1e-2
        assert found.mlp.std() > 1e-2


def test_each_contribution_is_what_weights_and_norms_make_of_it(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer)
    ids, (yes, no) = pair.clean.ids, pair.answer_ids
    found = direct_contributions(judge, judge.record(ids), pair.answer_ids)
    weight = (reference.lm_head.weight[yes] - reference.lm_head.weight[no]).double()
    last = len(ids) - 1

    def contribution(part: torch.Tensor) -> float:
        return float(reference.final_part(ids, last, part) @ weight)

    embedding = reference.activations(ids, "resid_pre", 0)[last]
    assert found.embedding == pytest.approx(contribution(embedding), abs=TOLERANCE)
    bias = getattr(reference.final_norm, "bias", None)
    assert found.constant == pytest.approx(0.0 if bias is None else float(bias.double() @ weight), abs=TOLERANCE)
    for layer in range(N_LAYERS):
        mlp_out = reference.activations(ids, "mlp_out", layer)[last]
        assert float(found.mlp[layer]) == pytest.approx(contribution(mlp_out), abs=TOLERANCE)
        of_bias = contribution(reference.bias_part(ids, layer, last))
        assert float(found.attn_bias[layer]) == pytest.approx(of_bias, abs=TOLERANCE)
        wanted = [contribution(reference.head_part(ids, layer, head, last)) for head in range(N_HEADS)]
        assert found.head[layer].tolist() == pytest.approx(wanted, abs=TOLERANCE)
        attn_out = reference.activations(ids, "attn_out", layer)[last]
        assert sum(wanted) + of_bias == pytest.approx(contribution(attn_out), abs=TOLERANCE)


def test_what_heads_write_at_groups_of_positions_is_the_mean_over_them(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    prompt = aligned(tiny_tokenizer).clean
    groups = [prompt.region("query"), (3,), prompt.region("last")]
    found = head_writes(judge, judge.record(prompt.ids, for_restart=False), groups)
    for number, group in enumerate(groups):
        for layer in (0, N_LAYERS - 1):
            for head in range(N_HEADS):
                parts = [
                    reference.final_part(prompt.ids, p, reference.head_part(prompt.ids, layer, head, p)) for p in group
                ]
                wanted = (sum(parts) / len(parts)).float()
                torch.testing.assert_close(found[number, layer, head], wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_single_positions_average_to_their_region(judge: JudgeModel, tiny_tokenizer: Any) -> None:
    prompt = aligned(tiny_tokenizer).clean
    run = judge.record(prompt.ids)
    document = prompt.region("document")
    (region,) = head_writes(judge, run, [document])
    each = head_writes(judge, run, [(position,) for position in document])
    # The same sums in another order, of entries of order 1.
    torch.testing.assert_close(each.mean(0), region, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_soft_cap_comes_after_the_sum(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("gemma2", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    found = direct_contributions(judge, run, pair.answer_ids)
    without = copy.deepcopy(judge.model)
    without.config.final_logit_softcapping = None
    uncapped = direct_contributions(as_judge(without), run, pair.answer_ids)
    assert found.ld_uncapped == pytest.approx(uncapped.ld, abs=TOLERANCE)
    assert torch.equal(found.head, uncapped.head)
    assert abs(found.ld - found.ld_uncapped) > 1e-3


def test_an_unembedding_with_a_bias_has_it_in_the_constant(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    before = direct_contributions(judge, run, pair.answer_ids)
    bias = torch.zeros(judge.shape.d_vocab)
    bias[pair.answer_ids[0]], bias[pair.answer_ids[1]] = 0.75, 0.25
    judge.unembedding.bias = torch.nn.Parameter(bias)
    after = direct_contributions(judge, run, pair.answer_ids)
    # An RMS norm has no bias: the constant is that of the unembedding alone, 0.75 - 0.25.
    assert (before.constant, after.constant) == (0.0, 0.5)
    assert after.ld - before.ld == pytest.approx(0.5, abs=1e-6)  # float32 of order 1
    assert after.ld_uncapped == pytest.approx(after.ld, abs=1e-6)


def test_a_norm_after_attention_may_take_off_the_mean_and_have_a_bias(tiny_tokenizer: Any) -> None:
    model = copy.deepcopy(tiny_judge("olmo2", tiny_tokenizer).model)
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        layer.post_attention_layernorm = torch.nn.LayerNorm(32).requires_grad_(False)
        layer.post_attention_layernorm.bias.copy_(torch.randn(32, generator=generator))
    judge, pair = as_judge(model), aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    found = direct_contributions(judge, run, pair.answer_ids)
    assert found.total == pytest.approx(found.ld, abs=TOLERANCE)
    assert found.attn_bias.abs().min() > 1e-2


def test_an_adapter_on_the_output_projection_counts(tiny_tokenizer: Any) -> None:
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(copy.deepcopy(tiny_judge("qwen3", tiny_tokenizer).model), config).eval()
    judge, pair = as_judge(model.base_model.model), aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    found = direct_contributions(judge, run, pair.answer_ids)
    assert found.total == pytest.approx(found.ld, abs=TOLERANCE)
    with model.disable_adapter():
        base = direct_contributions(judge, run, pair.answer_ids)
    assert (found.head - base.head).abs().max() > 1e-2


def test_bfloat16_contributions_sum_to_its_own_precision(tiny_tokenizer: Any) -> None:
    judge = as_judge(tiny_judge("gemma2", tiny_tokenizer).model.to(torch.bfloat16))
    pair = aligned(tiny_tokenizer)
    found = direct_contributions(judge, judge.record(pair.clean.ids), pair.answer_ids)
    # 8 bits of mantissa: each of four layers rounds its residual by up to 0.4 %, of contributions of order 1.
    assert found.total == pytest.approx(found.ld_uncapped, abs=0.1)


def test_a_scaled_residual_is_refused(tiny_tokenizer: Any) -> None:
    config = transformers.GraniteConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, residual_multiplier=0.3,
    )  # fmt: skip
    judge, pair = as_judge(from_config(config)), aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    with pytest.raises(InputError, match=r"'residual sum'.*it cannot be read out part by part"):
        direct_contributions(judge, run, pair.answer_ids)
    with pytest.raises(InputError, match="'residual sum'"):
        head_writes(judge, run, [(0,)])


def test_an_empty_group_of_positions_is_refused(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    run = judge.record(aligned(tiny_tokenizer).clean.ids)
    with pytest.raises(InputError, match="group 1 of positions is empty"):
        head_writes(judge, run, [(0,), ()])


@pytest.mark.embedded
def test_contributions_sum_to_the_logit_difference_of_the_embedded_model(embedded_judge: Any) -> None:
    pair = aligned(embedded_judge.tokenizer, 1)
    reference = ReadoutReference(embedded_judge.model, "llama")
    found = direct_contributions(embedded_judge, embedded_judge.record(pair.clean.ids), pair.answer_ids)
    # 300 parts of up to 2 in float32 come within 1e-5; the bound set for the product is 1e-3.
    assert found.total == pytest.approx(reference.logit_diff(pair.clean.ids, pair.answer_ids), abs=1e-4)
