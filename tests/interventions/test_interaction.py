"""The attention interaction score: by hand, and from the patterns that the Hugging Face model gives out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import N_LAYERS, tiny_judge
from reference_readouts import ReadoutReference
from relscope.errors import InputError
from relscope.interventions import (
    InteractionScores,
    interaction,
    interaction_scores,
    mean_interaction,
    pair_interaction,
)
from relscope.models import JudgeModel, RecordedRun
from relscope.models.recording import ByLayer
from relscope.prompts import Prompt, Span

# Patterns are of order 1 in float32, after up to four layers of another attention code.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference(family: str, judge: JudgeModel) -> ReadoutReference:
    return ReadoutReference(judge.model, family)


def slow_scores(reference: ReadoutReference, prompt: Prompt, document: str) -> torch.Tensor:
    """The formula in loops, over patterns that the model gives out."""
    query, columns = prompt.region("query"), prompt.region(document)
    return torch.tensor(
        [
            [sum(max(float(of_head[i, k]) for k in columns) for i in query) for of_head in pattern]
            for pattern in reference.patterns(prompt.ids)
        ],
        dtype=torch.float64,
    )


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    # The comparison says little unless heads differ.
    assert wanted.std() > 1e-2
    torch.testing.assert_close(found.double(), wanted, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("order", ["dqi", "idq"])
def test_scores_of_a_pair_are_those_of_the_patterns_that_the_model_gives_out(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any, order: str
) -> None:
    pair = aligned(tiny_tokenizer, order=order)
    found = pair_interaction(pair, judge.record(pair.clean.ids), judge.record(pair.corrupted.ids))
    assert (found.pair_id, found.query_id) == (pair.pair_id, pair.query_id)
    positive, negative = (slow_scores(reference, prompt, "document") for prompt in (pair.clean, pair.corrupted))
    assert_close(found.positive, positive)
    assert_close(found.negative, negative)
    assert_close(found.difference, positive - negative)


def test_of_two_documents_in_a_prompt_each_counts_at_both_places(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer, format="pairwise")
    found = pair_interaction(pair, judge.record(pair.clean.ids), judge.record(pair.corrupted.ids))
    # Clean holds the positive as A, corrupted as B.
    of = {
        (name, document): slow_scores(reference, getattr(pair, name), document)
        for name in ("clean", "corrupted")
        for document in ("document_a", "document_b")
    }
    assert_close(found.positive, (of["clean", "document_a"] + of["corrupted", "document_b"]) / 2)
    assert_close(found.negative, (of["clean", "document_b"] + of["corrupted", "document_a"]) / 2)


def run_of(q: list[list[float]], k: list[list[float]], n_heads: int = 1) -> RecordedRun:
    """A run of one layer whose heads, on one shared key/value head, all have these queries and keys."""
    queries, keys = torch.tensor(q), torch.tensor(k)
    n_pos, nothing = len(q), ByLayer([torch.zeros(len(q), 2)])
    return RecordedRun(
        resid_pre=nothing, attn_out=nothing, mlp_out=nothing, resid_post=nothing,
        z=ByLayer([torch.zeros(n_pos, n_heads, queries.shape[1])]), q=(queries.expand(n_heads, -1, -1),),
        k=(keys[None],), v=(keys[None],), mask=(torch.ones(n_pos, n_pos, dtype=torch.bool).tril(),), scaling=(1.0,),
        softcap=(None,), layer_kwargs=({},),
    )  # fmt: skip


def prompt_of(query: Span, document: Span, n_tokens: int) -> Prompt:
    parts = {"query": query, "document": document, "instruction": Span(n_tokens, n_tokens)}
    return Prompt(tuple(range(n_tokens)), "", ((0, 0),) * n_tokens, parts, parts)


def test_the_score_is_the_sum_of_the_largest_weights_by_hand() -> None:
    # Keys 0, log 2, log 4, 0 of positions 0 to 3; documents at 0 and 1, queries at 2 and 3. Position 2 asks for a
    # key: weights 1 : 2 : 4 of 7, of which the document's largest is 2/7. Position 3 asks for the opposite: weights
    # 1 : 1/2 : 1/4 : 1 of 11/4, and the largest is 4/11.
    log2 = 0.6931471805599453
    run = run_of([[0.0], [0.0], [1.0], [-1.0]], [[0.0], [log2], [2 * log2], [0.0]], n_heads=3)
    found = interaction_scores(run, prompt_of(Span(2, 4), Span(0, 2), 4))
    # float32 of order 1
    assert found.tolist() == [pytest.approx([2 / 7 + 4 / 11] * 3, rel=1e-6)]


def test_what_a_window_hides_counts_as_nothing() -> None:
    run = run_of([[0.0]] * 3, [[0.0]] * 3)
    # Position 1 sees the document at 0 and itself; position 2 only itself and position 1.
    hidden = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
    run = dataclasses.replace(run, mask=(hidden,))
    found = interaction_scores(run, prompt_of(Span(1, 3), Span(0, 1), 3))
    assert found.tolist() == [[0.5]]


def test_scores_do_not_depend_on_how_many_heads_are_read_at_once(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompt = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer).clean
    run = judge.record(prompt.ids)
    whole = interaction_scores(run, prompt)
    n_heads: list[int] = []
    source_edges = interaction.source_edges

    def counted(run: Any, component: str, layer: int, heads: Any, positions: Any) -> torch.Tensor:
        n_heads.append(len(heads))
        assert list(positions) == list(prompt.region("query"))
        return source_edges(run, component, layer, heads, positions)

    monkeypatch.setattr(interaction, "_SCORES_AT_ONCE", 3 * len(prompt.region("query")) * run.n_positions)
    monkeypatch.setattr(interaction, "source_edges", counted)
    # Softmax row by row: only the products' batches differ.
    torch.testing.assert_close(interaction_scores(run, prompt), whole, atol=1e-6, rtol=1e-6)
    assert n_heads == [3, 1] * N_LAYERS


def scores_of(query_id: str, positive: float, negative: float) -> InteractionScores:
    return InteractionScores("pair", query_id, torch.tensor([[positive]]), torch.tensor([[negative]]))


def test_the_mean_is_over_queries_and_not_over_pairs() -> None:
    # Query a: differences 1 and 3, mean 2; query b: -1. Their mean is 0.5; over pairs it would be 1.
    scores = [scores_of("a", 2.0, 1.0), scores_of("a", 5.0, 2.0), scores_of("b", 1.0, 2.0)]
    assert mean_interaction(scores).tolist() == [[0.5]]
    with pytest.raises(InputError, match="at least one pair"):
        mean_interaction([])


def test_a_query_before_its_document_is_refused_with_the_orders_that_work(tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer, order="qdi")
    run = judge.record(pair.clean.ids)
    with pytest.raises(InputError, match=r"query behind the region 'document'.*'dqi' or 'idq'"):
        interaction_scores(run, pair.clean)
    # The reason: causality leaves nothing to be measured.
    assert float(slow_scores(ReadoutReference(judge.model, "llama"), pair.clean, "document").max()) == 0.0


def test_a_run_without_its_attention_is_refused(tiny_tokenizer: Any) -> None:
    judge, prompt = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer).clean
    with pytest.raises(InputError, match="for_restart=True"):
        interaction_scores(judge.record(prompt.ids, for_restart=False), prompt)


@pytest.mark.embedded
def test_scores_of_the_embedded_model_are_those_of_the_patterns_that_it_gives_out(embedded_judge: Any) -> None:
    pair = aligned(embedded_judge.tokenizer, 1)
    found = pair_interaction(
        pair, embedded_judge.record(pair.clean.ids), embedded_judge.record(pair.corrupted.ids)
    ).difference
    reference = ReadoutReference(embedded_judge.model, "llama")
    positive, negative = (slow_scores(reference, prompt, "document") for prompt in (pair.clean, pair.corrupted))
    assert (positive - negative).std() > 1e-2
    # Rounding of 30 layers in float32, of patterns of order 1, summed over the query's tokens.
    torch.testing.assert_close(found.double(), positive - negative, atol=1e-4, rtol=0)
