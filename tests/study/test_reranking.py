"""Reranking with a tiny model: verdicts one by one, and who stands behind the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from relscope.data import Collection
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.prompts import PromptRenderer, PromptTemplate, render_cut
from relscope.study import Reranking, rerank
from tiny_study import PAIRWISE, POINTWISE, SHORT, Told


@pytest.mark.parametrize("order", ["dqi", "qdi", "idq"])
def test_pointwise_is_every_documents_own_verdict(judge: JudgeModel, demo: Collection, order: Any) -> None:
    template = PromptTemplate(order=order, **SHORT)
    reranked = rerank(judge, demo, template, Reranking(depth=16, queries=3))
    renderer = PromptRenderer(judge.tokenizer, template)
    assert reranked.n_prompts == 48
    for query_id, ranked in reranked.rankings.items():
        for doc_id, value in ranked:  # slow: each prompt alone, in a batch of one
            prompt = render_cut(renderer, demo.queries[query_id], demo.documents[doc_id])[1]
            alone = judge.logit_diff([prompt.ids], [renderer.answer_ids(prompt)]).item()
            # 1e-5 logits: batches round float32 products differently
            assert value == pytest.approx(alone, abs=1e-5)
        values = [value for _, value in ranked]
        assert values == sorted(values, reverse=True)
        assert sorted(d for d, _ in ranked) == sorted(reranked.first.rankings[query_id])


@pytest.mark.parametrize(("order", "shares"), [("qdi", True), ("idq", True), ("dqi", False)])
def test_what_the_prompts_of_a_query_begin_with_is_run_once(
    judge: JudgeModel, demo: Collection, counted: list[tuple[int, ...]], order: Any, shares: bool
) -> None:
    assert judge.contract.continuable  # its own passes are not to be counted
    n_run = 0

    def count(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        nonlocal n_run
        n_run += kwargs["input_ids"].numel()

    with judge.decoder.register_forward_pre_hook(count, with_kwargs=True):
        rerank(judge, demo, PromptTemplate(order=order, **SHORT), Reranking(depth=20, queries=2))
    n_tokens = sum(map(len, counted))
    assert n_run < 0.8 * n_tokens if shares else n_run >= 0.8 * n_tokens


def test_all_pairs_are_both_orders_of_every_pair(
    judge: JudgeModel, demo: Collection, counted: list[tuple[int, ...]]
) -> None:
    reranked = rerank(judge, demo, PAIRWISE, Reranking(method="all-pairs", depth=4, queries=2))
    assert reranked.n_prompts == len(counted) == len(set(counted)) == 2 * 4 * 3
    renderer = PromptRenderer(judge.tokenizer, PAIRWISE)
    query_id, ranked = next(iter(reranked.rankings.items()))
    for doc_id, value in ranked:
        wins = 0
        for other, _ in ranked:
            if other == doc_id:
                continue
            texts = [render_cut(renderer, demo.queries[query_id], demo.documents[d])[0] for d in (doc_id, other)]
            prompts = [renderer.render(demo.queries[query_id], pair) for pair in (texts, texts[::-1])]
            one, two = judge.logit_diff([p.ids for p in prompts], [renderer.answer_ids(p) for p in prompts]).tolist()
            wins += one > two
        # equal wins are lowered by float32's least step, so that the file keeps the order
        assert value == pytest.approx(wins, abs=1e-5)


@pytest.mark.parametrize("method", ["sliding-window", "heapsort"])
def test_no_prompt_is_given_to_the_model_twice(
    judge: JudgeModel, demo: Collection, counted: list[tuple[int, ...]], method: str
) -> None:
    told = Told()
    reranked = rerank(judge, demo, PAIRWISE, Reranking(method=method, depth=6, queries=3, top=3), progress=told)
    assert reranked.n_prompts == len(counted) == len(set(counted))
    assert reranked.method == method
    assert len(counted) <= told.n_patches
    assert told.n_done <= told.n_patches


def test_documents_that_cannot_be_asked_about_stand_behind_the_others_in_their_order(
    judge: JudgeModel, demo: Collection
) -> None:
    (query_id, query_text), *_ = demo.queries.items()
    good = list(demo.documents)[:2]
    documents = {**{d: demo.documents[d] for d in good}, "empty": "", "broken": "half \ud83d"}
    run = {query_id: ["gone", good[0], "empty", good[1], "broken"], "q-none": []}
    collection = Collection("c", {query_id: query_text, "q-none": "a cat"}, documents, {query_id: {good[0]: 1}}, run)
    for template in (POINTWISE, PAIRWISE):
        reranked = rerank(judge, collection, template)
        ranked = reranked.rankings[query_id]
        assert {d for d, _ in ranked[:2]} == set(good)
        assert [d for d, _ in ranked[2:]] == ["gone", "empty", "broken"]
        values = np.array([value for _, value in ranked], dtype=np.float32)
        assert (np.diff(values) < 0).all()
        assert reranked.rankings["q-none"] == ()
        assert {(one.doc_id, one.reason) for one in reranked.left_out} == {
            ("gone", "missing_document"), ("empty", "empty_part"), ("broken", "invalid_unicode"),
        }  # fmt: skip


def test_a_document_longer_than_the_context_is_left_out_and_stands_behind_the_others(
    judge: JudgeModel, demo: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (query_id, query_text), *_ = demo.queries.items()
    documents = {"a": "The cat sat.", "long": "The dog ran to the hill. " * 8, "b": "Bread rises.", "c": "Yeast."}
    run = {query_id: ["a", "long", "gone", "b", "c"]}
    collection = Collection("c", {query_id: query_text}, documents, {query_id: {"a": 1}}, run)
    for template in (PromptTemplate(), PromptTemplate(format="pairwise")):
        renderer = PromptRenderer(judge.tokenizer, template)
        lengths = {doc_id: len(render_cut(renderer, query_text, text)[1]) for doc_id, text in documents.items()}
        limit = max(length for doc_id, length in lengths.items() if doc_id != "long")
        assert lengths["long"] > limit
        monkeypatch.setattr(judge.config, "max_position_embeddings", limit)
        reranked = rerank(judge, collection, template)
        ranked = [doc_id for doc_id, _ in reranked.rankings[query_id]]
        assert set(ranked[:3]) == {"a", "b", "c"}  # the longest that fits is among them
        assert ranked[3:] == ["long", "gone"]
        (found,) = (one for one in reranked.left_out if one.reason == "longer_than_context")
        assert (found.query_id, found.doc_id) == (query_id, "long")
        assert f"the prompt has {lengths['long']} tokens, the model reads {limit}; lower" in found.detail


def test_a_reranking_of_which_no_document_fits_the_context_is_refused(
    judge: JudgeModel, demo: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = PromptRenderer(judge.tokenizer, POINTWISE)
    query_id = next(iter(demo.queries))
    first = rerank(judge, demo, POINTWISE, Reranking(depth=4, queries=1)).first.rankings[query_id]
    lengths = {d: len(render_cut(renderer, demo.queries[query_id], demo.documents[d])[1]) for d in first}
    monkeypatch.setattr(judge.config, "max_position_embeddings", max(lengths.values()) - 1)
    with pytest.raises(InputError, match=r"no document can be asked about; for example .* lower max_document_tokens"):
        rerank(judge, demo, POINTWISE, Reranking(depth=4, queries=1))  # all are cut to the same 24 tokens


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"method": "heapsrt"},
            "method: 'heapsrt' does not exist: did you mean 'heapsort'? (one of: pointwise, attention, sliding-window, "
            "heapsort, all-pairs)",
        ),
        ({"depth": 0}, "depth: must be at least 1, not 0"),
        ({"top": 0}, "top: must be at least 1, not 0"),
        ({"queries": -1}, "queries: must be at least 1, not -1"),
    ],
)
def test_an_option_out_of_its_range_is_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as refused:
        Reranking(**fields)
    assert str(refused.value) == told


def test_a_method_of_the_other_format_is_refused_with_the_prompt_it_needs() -> None:
    with pytest.raises(InputError, match=r"all-pairs needs a pairwise prompt, .* use the prompt pairwise-idq, or the"):
        Reranking(method="all-pairs").method_of(PromptTemplate(order="idq"))
    with pytest.raises(InputError, match="use the prompt pointwise-dqi, or the method sliding-window or heapsort or"):
        Reranking(method="pointwise").method_of(PAIRWISE)
    assert Reranking().method_of(PAIRWISE) == "sliding-window"
    assert Reranking().method_of(POINTWISE) == "pointwise"
