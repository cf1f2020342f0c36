"""Lints of the verdict: does the model answer in the form that is read?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import as_judge, tiny_model
from relscope.models import JudgeModel, VerdictLint, lint_verdict
from relscope.models.verdict import spelling_variants
from relscope.prompts import Prompt, Span

ANSWERS = ("yes", "no")


@pytest.fixture
def judge(tiny_tokenizer: Any) -> JudgeModel:
    return as_judge(tiny_model("llama", len(tiny_tokenizer)), tiny_tokenizer)


def answering(judge: JudgeModel, shares: dict[str, float]) -> JudgeModel:
    """The judge, made to give these tokens these probabilities whatever it is asked."""
    logits = torch.full((judge.shape.d_vocab,), -30.0)
    for text, share in shares.items():
        (token,) = judge.tokenizer.encode(text, add_special_tokens=False)
        logits[token] = torch.tensor(share).log()
    judge.model.lm_head.register_forward_hook(lambda _m, _a, output: logits.expand_as(output))
    return judge


def linted(judge: JudgeModel, prompts: list[Prompt] | None = None) -> dict[str, VerdictLint]:
    pair = aligned(judge.tokenizer)
    ids = tuple(judge.tokenizer.convert_tokens_to_ids(list(ANSWERS)))
    return {lint.name: lint for lint in lint_verdict(judge, prompts or [pair.clean, pair.corrupted], ANSWERS, ids)}


def test_mass_on_the_answers_is_well(judge: JudgeModel) -> None:
    lints = linted(answering(judge, {"yes": 0.55, "no": 0.35, "Yes": 0.04, ".": 0.06}))
    assert all(lint.ok for lint in lints.values())
    message = lints["answer mass"].message
    assert "90.0% of the probability is on 'yes' and 'no'" in message
    assert "94.0% with their spelling variants" in message
    assert "'yes' 0.55, 'no' 0.35, '.' 0.06" in message


@pytest.mark.parametrize("variant", ["Yes", " yes"])
def test_mass_on_a_spelling_variant_is_reported(judge: JudgeModel, variant: str) -> None:
    lint = linted(answering(judge, {"yes": 0.1, "no": 0.1, variant: 0.7, ".": 0.1}))["answer mass"]
    assert not lint.ok
    assert "20.0%" in lint.message
    assert "90.0% with their spelling variants" in lint.message
    assert repr(variant) in lint.message


def test_mass_elsewhere_is_reported_with_the_likeliest_tokens(judge: JudgeModel) -> None:
    lint = linted(answering(judge, {"The": 0.8, "yes": 0.1, "no": 0.1}))["answer mass"]
    assert not lint.ok
    assert "20.0% with their spelling variants; likeliest next tokens: 'The' 0.80" in lint.message


def test_mass_is_the_mean_over_prompts(judge: JudgeModel) -> None:
    pair = aligned(judge.tokenizer)
    yes, no = judge.tokenizer.convert_tokens_to_ids(list(ANSWERS))
    shares = [
        float(judge.next_token_probabilities(prompt.ids)[[yes, no]].sum()) for prompt in (pair.clean, pair.corrupted)
    ]
    assert f"{sum(shares) / 2:.1%} of the probability" in linted(judge)["answer mass"].message


def test_a_doubled_bos_is_detected(judge: JudgeModel) -> None:
    bos = judge.tokenizer.bos_token_id
    whole = aligned(judge.tokenizer).clean

    def beginning(*first: int) -> Prompt:
        return Prompt((*first, *whole.ids), whole.text, (), {"document": Span(0, 1)}, {})

    assert linted(judge, [beginning()])["single BOS"].ok
    assert linted(judge, [beginning(bos)])["single BOS"].ok
    doubled = linted(judge, [beginning(bos, bos)])["single BOS"]
    assert not doubled.ok
    assert "BOS twice" in doubled.message


def test_a_tokenizer_without_bos_cannot_double_it(judge: JudgeModel) -> None:
    judge.tokenizer = judge.tokenizer.__class__(tokenizer_object=judge.tokenizer.backend_tokenizer)
    judge.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert judge.tokenizer.bos_token_id is None
    assert linted(judge)["single BOS"].ok


@pytest.mark.parametrize("answer", ["yes", " yes", "YES"])
def test_variants_are_single_tokens_of_any_case_and_leading_space(tiny_tokenizer: Any, answer: str) -> None:
    texts = {tiny_tokenizer.decode([token]) for token in spelling_variants(tiny_tokenizer, answer)}
    # " Yes" and "YES" are more than one token for this tokenizer.
    assert texts == {"yes", " yes", "Yes", " Yes"} & texts
    assert {"yes", " yes", "Yes"} <= texts
