"""The relevance score of heads' attention: arithmetic by hand, calibration, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from families import tiny_judge
from relscope.errors import InputError
from relscope.interventions import relevance_score, relevance_scores
from relscope.models import QueryAttention, query_attention
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate

TEXTS = ["The cat sat on the mat near the river.", "Bread rises because yeast makes gas.", "A hill."]


def prompts_of(tokenizer: Any, *queries: str) -> list[tuple[Prompt, ...]]:
    renderer = PromptRenderer(tokenizer, PromptTemplate())
    return [tuple(renderer.render(query, [text]) for query in queries) for text in TEXTS]


def test_it_is_the_mean_over_heads_less_what_the_content_free_query_pays(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One document, two heads: the query pays it 0.75 and 0.25, "N/A" 0.5 and 0.125: (0.25 + 0.125) / 2 = 0.1875.
    # By the largest weights: (0.5 - 0.25 + 0.125 - 0.25) / 2 = 0.0625.
    total = torch.tensor([[[0.75, 0.25], [0.5, 0.125]]])
    largest = torch.tensor([[[0.5, 0.125], [0.25, 0.25]]])
    monkeypatch.setattr(relevance_score, "query_attention", lambda *_: QueryAttention(total, largest))
    judge, prompts = tiny_judge("llama", tiny_tokenizer), prompts_of(tiny_tokenizer, "a", "N/A")[:1]
    assert relevance_scores(judge, prompts, [(0, 0), (1, 0)]).tolist() == [0.1875]
    assert relevance_scores(judge, prompts, [(0, 0), (1, 0)], "largest").tolist() == [0.0625]


def test_a_query_that_says_nothing_more_than_the_content_free_one_finds_nothing(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    found = relevance_scores(judge, prompts_of(tiny_tokenizer, "N/A", "N/A"), [(1, 0), (2, 3)])
    assert found.tolist() == pytest.approx([0.0] * 3, abs=1e-6)  # float32 of order 1


def test_without_a_content_free_query_it_is_the_attention_itself(tiny_tokenizer: Any) -> None:
    judge, heads = tiny_judge("llama", tiny_tokenizer), [(1, 0), (2, 3)]
    alone, both = prompts_of(tiny_tokenizer, "the cat?"), prompts_of(tiny_tokenizer, "the cat?", "N/A")
    found, read = relevance_scores(judge, alone, heads), query_attention(judge, both, heads).total
    # Rows of other lengths are rounded differently.
    torch.testing.assert_close(found, read[:, 0].mean(-1), atol=1e-6, rtol=0)
    assert relevance_scores(judge, [], heads).shape == (0,)


def test_what_cannot_be_scored_is_refused(tiny_tokenizer: Any) -> None:
    judge, prompts = tiny_judge("llama", tiny_tokenizer), prompts_of(tiny_tokenizer, "a", "N/A")
    with pytest.raises(InputError, match="reading 'totals' does not exist: did you mean 'total'"):
        relevance_scores(judge, prompts, [(0, 0)], "totals")
    with pytest.raises(InputError, match="layer 0, head 1 is given twice"):
        relevance_scores(judge, prompts, [(0, 1), (0, 0), (0, 1)])
    with pytest.raises(InputError, match=r"each document has one, or each has two; here they have \[1, 2\]"):
        relevance_scores(judge, [prompts[0], prompts[1][:1]], [(0, 0)])
