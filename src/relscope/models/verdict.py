"""Does the model answer the question in the form that is read? Lints of the verdict.

The verdict is read as logit(yes) - logit(no). That is meaningful only if the model puts its probability there: not on
" Yes", "YES", or the start of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from relscope.models.judge import JudgeModel
from relscope.prompts import Prompt

# Below this share of probability on the answers and their variants the model is not answering yes or no at all.
_ENOUGH_MASS = 0.5


@dataclass(frozen=True)
class VerdictLint:
    """One observation about how the verdict is given; `ok` False is a warning, not a refusal."""

    name: str
    ok: bool
    message: str


def spelling_variants(tokenizer: Any, answer: str) -> list[int]:
    """Ids of single tokens that spell the answer in another case, or with a leading space or newline."""
    ids = set()
    bare = answer.strip()  # a template may give its answers with a leading space
    for word in {bare.lower(), bare.capitalize(), bare.upper()}:
        for text in (word, f" {word}", f"\n{word}"):
            encoded = tokenizer.encode(text, add_special_tokens=False)
            if len(encoded) == 1:
                ids.add(int(encoded[0]))
    return sorted(ids)


def lint_verdict(
    judge: JudgeModel, prompts: Sequence[Prompt], answers: tuple[str, str], answer_ids: tuple[int, int]
) -> list[VerdictLint]:
    """Check the verdict's form on a few prompts. Cost: one forward pass a prompt.

    Args:
        judge: the model.
        prompts: a handful of real prompts.
        answers: the texts of the positive and negative answer.
        answer_ids: their tokens.
    """
    probabilities = torch.stack([judge.next_token_probabilities(p.ids) for p in prompts]).mean(0)
    variants = {i for answer in answers for i in spelling_variants(judge.tokenizer, answer)} | set(answer_ids)
    exact = float(probabilities[list(answer_ids)].sum())
    spelled = float(probabilities[sorted(variants)].sum())
    top = probabilities.topk(3)
    likeliest = ", ".join(
        f"{judge.tokenizer.decode([int(i)])!r} {float(p):.2f}" for p, i in zip(top.values, top.indices, strict=True)
    )
    yes, no = answers
    return [
        VerdictLint("answer tokens", True, f"{yes!r} is token {answer_ids[0]}, {no!r} is token {answer_ids[1]}"),
        VerdictLint(
            "answer mass",
            exact >= _ENOUGH_MASS,
            f"{exact:.1%} of the probability is on {yes!r} and {no!r}, {spelled:.1%} with their spelling variants; "
            f"likeliest next tokens: {likeliest}"
            + (
                ""
                if exact >= _ENOUGH_MASS
                else "; the model mostly answers in another form, so LD compares rare tokens"
            ),
        ),
        _lint_bos(judge, prompts[0]),
    ]


def _lint_bos(judge: JudgeModel, prompt: Prompt) -> VerdictLint:
    bos = judge.tokenizer.bos_token_id
    doubled = bos is not None and tuple(prompt.ids[:2]) == (bos, bos)
    message = "the prompt begins with BOS twice" if doubled else "BOS is not doubled"
    return VerdictLint("single BOS", not doubled, message)
