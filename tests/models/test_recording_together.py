"""Prompts that are run together, padded and with what they begin with run once, are recorded as each alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from families import CONFIGS, D_MODEL, FAMILIES, N_HEADS, as_judge, from_config, tiny_model
from relscope.errors import InputError
from relscope.models import JudgeModel, RecordedRun
from relscope.models import judge as judge_module
from relscope.models.recording import Recorder, record

V = 120
PREFIX = [7, 3, 9, 11, 4, 6, 8, 5, 2, 13, 17, 19]
# Of several lengths, more than the window of those families that have one.
PROMPTS = [PREFIX + list(range(20, 20 + n)) for n in (30, 12, 25)] + [PREFIX + [40] * 30]
# float32 sums in another order; activations are of order 1 to 10.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def judge(request: pytest.FixtureRequest) -> JudgeModel:
    return as_judge(tiny_model(request.param, V))


def assert_equal(found: RecordedRun, wanted: RecordedRun) -> None:
    for name in ("resid_pre", "attn_out", "mlp_out", "resid_post", "z", "q", "k", "v"):
        for mine, theirs in zip(getattr(found, name), getattr(wanted, name), strict=True):
            torch.testing.assert_close(mine, theirs, **TOLERANCE, msg=name)
    assert all(map(torch.equal, found.mask, wanted.mask))
    assert (found.scaling, found.softcap) == (wanted.scaling, wanted.softcap)
    for mine, theirs in zip(found.layer_kwargs, wanted.layer_kwargs, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, msg=name)
    for of_mine, of_theirs in zip(found.products, wanted.products, strict=True):
        assert of_mine.keys() == of_theirs.keys()
        for name, product in of_theirs.items():
            torch.testing.assert_close(of_mine[name].x, product.x, **TOLERANCE, msg=name)
            torch.testing.assert_close(of_mine[name].y, product.y, **TOLERANCE, msg=name)


@pytest.mark.parametrize("with_products", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_together_and_alone(judge: JudgeModel, with_products: bool, shared: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(judge_module, "WORTH_SHARING", 1 if shared else 10**6)
    monkeypatch.setattr(judge_module, "TOKENS_RECORDED_AT_ONCE", 90)  # two prompts at once
    assert judge.contract.continuable
    passes: list[tuple[int, int]] = []
    handle = judge.decoder.register_forward_pre_hook(
        lambda _m, _args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = judge.record_all(PROMPTS, with_products=with_products)
    handle.remove()
    n = len(PREFIX) if shared else 0
    assert passes == [(1, n)] * shared + [(2, 42 - n), (2, 37 - n)]
    for run, prompt in zip(found, PROMPTS, strict=True):
        for read, handed_on in zip(run.resid_pre[1:], run.resid_post[:-1], strict=True):
            assert read.data_ptr() == handed_on.data_ptr()  # no second copy
        (alone,) = record(judge, [prompt], Recorder(), with_products=with_products)
        assert_equal(run, alone)


def test_a_prompt_that_another_begins_with_keeps_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "WORTH_SHARING", 1)
    judge = as_judge(tiny_model("llama", V))
    prompts = [PREFIX, [*PREFIX, 30, 31], PREFIX]
    for run, prompt in zip(judge.record_all(prompts), prompts, strict=True):
        assert_equal(run, judge.record(prompt))


def test_nothing_is_shared_by_a_model_that_cannot_go_on_from_a_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "WORTH_SHARING", 1)
    judge = as_judge(tiny_model("llama", V))
    rotary = judge.decoder.rotary_emb.forward
    # Positions counted from the tokens that are given, as if there were none before them.
    monkeypatch.setattr(
        judge.decoder.rotary_emb, "forward", lambda x, position_ids: rotary(x, position_ids - position_ids.min())
    )
    assert [clause.name for clause in judge.contract.clauses if not clause.ok] == ["continuation"]
    assert judge.contract.restartable
    for run, prompt in zip(judge.record_all(PROMPTS), PROMPTS, strict=True):
        assert_equal(run, judge.record(prompt))


def test_prompts_are_run_alone_where_their_length_changes_the_rotary_frequencies() -> None:
    factors = [1.0] * (D_MODEL // N_HEADS // 2)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors,
            "long_factor": [4.0 * factor for factor in factors], "original_max_position_embeddings": 45}  # fmt: skip
    config = CONFIGS["phi3"](V)
    config.rope_parameters, config.original_max_position_embeddings = rope, 45
    judge = as_judge(from_config(config))
    short, long = [*PREFIX, *range(20, 40)], [*PREFIX, *range(20, 70)]
    together = judge.record_all([short] * 30 + [long])
    for run, prompt in ((together[0], short), (together[-1], long)):
        assert_equal(run, judge.record(prompt))
    answers = [(5, 6)]
    both = judge.logit_diff([short, long], answers * 2)
    assert both.tolist() == pytest.approx([judge.logit_diff([p], answers).item() for p in (short, long)], abs=1e-5)


def test_prompts_longer_than_the_model_are_refused_whatever_they_share() -> None:
    judge = as_judge(tiny_model("gpt2", V))
    prompts = [[7] * 300 + [token] * 300 for token in (8, 9)]
    with pytest.raises(InputError, match="a prompt has 600 tokens and the model reads at most 512"):
        judge.record_all(prompts)


def test_no_prompts_are_no_runs() -> None:
    assert as_judge(tiny_model("llama", V)).record_all([]) == []
