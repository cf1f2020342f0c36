"""Reading a verdict: logits, ragged batches, precision, records."""

from __future__ import annotations

import pytest
import torch

from families import FAMILIES, N_LAYERS, as_judge, tiny_model
from reference import Reference
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.models import judge as judge_module

V = 120
# LD is of order 1 and float32; batches add in another order than single prompts do.
TOLERANCE = 2e-5


def prompts_of(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, V - 3, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batches_equal_single_prompts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = as_judge(tiny_model(family, V))
    reference = Reference(judge.model, family)
    # Longer and shorter than the sliding windows; answers differ from prompt to prompt.
    prompts = prompts_of([30, 5, 41, 17, 1, 41, 23])
    answers = [(7 + i, 70 - i) for i in range(len(prompts))]
    wanted = [reference.logit_diff(ids, pair) for ids, pair in zip(prompts, answers, strict=True)]
    for tokens_per_batch in (2048, 64, 1):
        monkeypatch.setattr(judge_module, "TOKENS_PER_BATCH", tokens_per_batch)
        found = judge.logit_diff(prompts, answers)
        assert found.dtype == torch.float32
        assert found.tolist() == pytest.approx(wanted, abs=TOLERANCE)


def test_no_prompts_have_no_verdicts() -> None:
    assert as_judge(tiny_model("llama", V)).logit_diff([], []).shape == (0,)


def test_batches_hold_no_more_tokens_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = as_judge(tiny_model("llama", V))
    sizes: list[tuple[int, int]] = []
    judge.decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(judge_module, "TOKENS_PER_BATCH", 60)
    judge.logit_diff(prompts_of([10, 20, 30, 29, 70]), [(5, 6)] * 5)
    assert sizes == [(1, 70), (2, 30), (2, 20)]


@pytest.fixture(scope="module")
def loud() -> JudgeModel:
    """A bf16 model whose answer logits lie between 16 and 32, where bf16 has steps of 0.125."""
    model = tiny_model("llama", V)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
        model.lm_head.weight[10:20] += 1.5
        model.model.norm.weight.copy_(model.model.norm.weight.abs())
        model.model.embed_tokens.weight.abs_().add_(2)
    return as_judge(model.to(torch.bfloat16))


def test_logits_are_subtracted_in_float32(loud: JudgeModel) -> None:
    prompts = prompts_of([20] * 40)
    answers = [(10 + i % 5, 15 + i % 5) for i in range(40)]
    own = torch.stack([loud.model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in prompts])
    rows = torch.arange(40)
    logits = own[rows[:, None], torch.tensor(answers)]
    assert logits.dtype == torch.bfloat16
    assert (logits.abs() >= 16).all()
    assert (logits.abs() < 32).all()
    in_bf16 = (logits[:, 0] - logits[:, 1]).float()
    assert (in_bf16 % 0.125 == 0).all()  # what subtracting the model's own logits would give

    found = loud.logit_diff(prompts, answers)
    assert (found % 0.125 != 0).float().mean() > 0.9
    with torch.no_grad():
        hidden = loud.decoder(input_ids=torch.tensor(prompts), use_cache=False).last_hidden_state[:, -1].double()
    weight = loud.unembedding.weight.double()  # type: ignore[union-attr, operator]
    wanted = torch.stack([h @ (weight[yes] - weight[no]) for h, (yes, no) in zip(hidden, answers, strict=True)])
    # float32 sums of 32 products, each up to 20: rounding of about 1e-6 of that.
    assert (found.double() - wanted).abs().max() < 1e-4


def test_records_keep_the_verdict_of_the_forward_pass(loud: JudgeModel) -> None:
    ids = prompts_of([20])[0]
    logits = loud.answer_logits(loud.record(ids, for_restart=False).resid_post[-1, -1], (10, 15))
    assert logits.dtype == torch.float32
    assert float(logits[0] - logits[1]) == pytest.approx(loud.logit_diff([ids], [(10, 15)]).item(), abs=1e-4)


@pytest.mark.parametrize("for_restart", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_record_holds_what_the_reference_sees(family: str, for_restart: bool) -> None:
    judge = as_judge(tiny_model(family, V))
    reference = Reference(judge.model, family)
    ids = prompts_of([30])[0]
    run = judge.record(ids, for_restart=for_restart)
    assert run.n_positions == 30
    for component in ("attn_out", "mlp_out", "resid_post", "z"):
        for layer in range(N_LAYERS):
            wanted = reference.activations(ids, component, layer)
            found = getattr(run, component)[layer].reshape(wanted.shape)
            # float32 rounding of values of up to 100
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-4, msg=f"{component} of layer {layer}")
    for read, handed_on in zip(run.resid_pre[1:], run.resid_post[:-1], strict=True):
        torch.testing.assert_close(read, handed_on, rtol=0, atol=0)


def test_recomputing_the_last_position_alone_gives_the_same_value() -> None:
    judge = as_judge(tiny_model("gpt_neox parallel", V))
    base = judge.record(prompts_of([30])[0])
    items = base.resid_pre[2, 20:] + torch.randn(3, 10, 32, generator=torch.Generator().manual_seed(0))
    whole = judge.recompute_layer(2, items, base)
    last = judge.recompute_layer(2, items, base, only_last=True)
    assert last.shape == (3, 1, 32)
    torch.testing.assert_close(last[:, 0], whole[:, -1])


def test_probabilities_of_the_next_token_are_the_models_own() -> None:
    judge = as_judge(tiny_model("gemma2", V))
    ids = prompts_of([12])[0]
    found = judge.next_token_probabilities(ids)
    logits = judge.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    torch.testing.assert_close(found.double(), logits.exp() / logits.exp().sum())
    assert float(found.sum()) == pytest.approx(1)


def test_verdict_reads_two_rows_of_the_unembedding_with_bias_and_softcap() -> None:
    model = tiny_model("gemma2", V)
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, V), requires_grad=False)
    judge = as_judge(model)
    ids = prompts_of([12])[0]
    own = model(input_ids=torch.tensor([ids])).logits[0, -1]
    assert judge.logit_diff([ids], [(5, 90)]).item() == pytest.approx(float(own[5] - own[90]), abs=TOLERANCE)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_longer_than_the_model_reads_is_refused(family: str) -> None:
    judge = as_judge(tiny_model(family, V))
    judge.record([5] * 512)
    for read in (judge.record, judge.next_token_probabilities, lambda ids: judge.logit_diff([[5], ids], [(1, 2)] * 2)):
        with pytest.raises(InputError, match="513 tokens and the model reads at most 512"):
            read([5] * 513)
