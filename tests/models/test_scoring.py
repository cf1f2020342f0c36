"""Scoring many prompts at once: the same verdicts as one plain pass for each, in the order given."""

from __future__ import annotations

import pytest
import torch

from families import FAMILIES, as_judge, tiny_model
from reference import Reference
from relscope.prompts import Prompt, Span

V = 120
ANSWERS = (7, 70)
# LD is of order 1 and float32; batches add in another order than single prompts do.
TOLERANCE = 1e-4


def prompt_of(ids: list[int]) -> Prompt:
    """A prompt whose document is all but its last token."""
    document = Span(0, max(1, len(ids) - 1))
    return Prompt(tuple(ids), "", ((0, 0),) * len(ids), parts={"document": document}, characters={})


def random_ids(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, V - 3, (n,), generator=generator).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_is_the_verdict_of_single_plain_passes(family: str) -> None:
    judge = as_judge(tiny_model(family, V))
    reference = Reference(judge.model, family)
    prompts = [random_ids(n, seed) for seed, n in enumerate([30, 5, 41, 17, 1, 41, 23])]
    found = judge.relevance([prompt_of(ids) for ids in prompts], ANSWERS)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert found.tolist() == pytest.approx([reference.logit_diff(ids, ANSWERS) for ids in prompts], abs=TOLERANCE)


def test_no_prompts_have_no_relevance() -> None:
    assert as_judge(tiny_model("llama", V)).relevance([], ANSWERS).shape == (0,)
