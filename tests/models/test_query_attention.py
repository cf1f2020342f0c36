"""What heads attend to from the query to the document: as in the patterns that the model itself gives out, and early."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from families import FAMILIES, N_HEADS, N_LAYERS, tiny_judge
from reference_readouts import ReadoutReference
from relscope.errors import InputError
from relscope.models import JudgeModel, query_attention
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate

# Patterns are of order 1 in float32, after up to four layers of another attention code.
TOLERANCE = 1e-5
TEXTS = [
    "The cat sat on the mat near the river.",
    "Bread rises because yeast makes gas, and the dog ran to the hill.",
    "A hill.",
    "The dog sat near the mat.",
]
QUERIES = ["where did the cat sit?", "N/A"]
ALL_HEADS = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


def prompts_of(tokenizer: Any, order: Any = "dqi", queries: list[str] = QUERIES, **fields: Any) -> list[list[Prompt]]:
    renderer = PromptRenderer(tokenizer, PromptTemplate(order=order, **fields))
    return [[renderer.render(query, [text]) for query in queries] for text in TEXTS]


def slow(judge: JudgeModel, family: str, prompts: list[list[Prompt]]) -> torch.Tensor:
    """[reading, document, prompt, head] in loops, from one whole pass of each prompt with `output_attentions`."""
    reference = ReadoutReference(judge.model, family)

    def of(prompt: Prompt) -> list[list[float]]:
        query, document = prompt.region("query"), prompt.region("document")
        patterns = [head for layer in reference.patterns(prompt.ids) for head in layer.double()]
        return [
            [sum(sum(float(p[i, k]) for i in query) / len(query) for k in document) for p in patterns],
            [sum(max(float(p[i, k]) for k in document) for i in query) / len(query) for p in patterns],
        ]

    return torch.tensor([[of(prompt) for prompt in of_document] for of_document in prompts]).permute(2, 0, 1, 3)


def assert_equal(found: Any, wanted: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    # The comparison says little unless heads differ.
    assert wanted.std() > 1e-2
    torch.testing.assert_close(torch.stack([found.total, found.largest]), wanted.float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("order", ["dqi", "idq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_the_patterns_that_the_model_gives_out(
    family: str, order: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompts = tiny_judge(family, tiny_tokenizer), prompts_of(tiny_tokenizer, order)
    wanted = slow(judge, family, prompts)
    assert_equal(query_attention(judge, prompts, ALL_HEADS), wanted)
    # and where what all begin with is run once
    assert judge.contract.continuable
    monkeypatch.setattr(module_of(), "_WORTH_SHARING", 1)
    assert_equal(query_attention(judge, prompts, ALL_HEADS), wanted)


def module_of() -> Any:
    import sys

    return sys.modules["relscope.models.query_attention"]
