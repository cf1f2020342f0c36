"""Reranking with a tiny model: verdicts one by one, interrupted and continued, and who stands behind the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from relscope.data import Collection, load_collection, read_run
from relscope.errors import InputError
from relscope.models import JudgeModel, load_judge
from relscope.prompts import PromptRenderer, PromptTemplate, render_cut
from relscope.study import Reranking, measure_reranked, rerank, rerank_run
from tiny_study import SHORT, Told, tiny_config

PAIRWISE = PromptTemplate(format="pairwise", **SHORT)
POINTWISE = PromptTemplate(**SHORT)


@pytest.fixture(scope="module")
def judge(tiny_model_folder: Path) -> JudgeModel:
    return load_judge(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def demo() -> Collection:
    return load_collection("demo")


@pytest.fixture
def counted(judge: JudgeModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The ids of every prompt that the model was given."""
    seen: list[tuple[int, ...]] = []
    relevance = judge.relevance

    def remembering(prompts: Sequence[Any], answer_ids: tuple[int, int]) -> Any:
        seen.extend(prompt.ids for prompt in prompts)
        return relevance(prompts, answer_ids)

    monkeypatch.setattr(judge, "relevance", remembering)
    return seen


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


def test_an_interrupted_reranking_goes_on_and_judges_nothing_again(
    judge: JudgeModel, demo: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[tuple[int, ...]]
) -> None:
    options = Reranking(method="heapsort", depth=5, queries=4, top=2)
    whole = rerank(judge, demo, PAIRWISE, options)
    n_whole = len(counted)
    counted.clear()
    relevance, n_calls = judge.relevance, 0

    def interrupted(prompts: Sequence[Any], answer_ids: tuple[int, int]) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            raise KeyboardInterrupt
        return relevance(prompts, answer_ids)

    with monkeypatch.context() as patched:
        patched.setattr(judge, "relevance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rerank(judge, demo, PAIRWISE, options, folder=tmp_path / "verdicts")
    n_before = len(counted)
    assert 0 < n_before < n_whole
    resumed = rerank(judge, demo, PAIRWISE, options, folder=tmp_path / "verdicts")
    assert len(counted) == len(set(counted)) == n_whole
    assert resumed.documents == whole.documents
    assert resumed.n_prompts == whole.n_prompts == n_whole
    rerank(judge, demo, PAIRWISE, options, folder=tmp_path / "verdicts")
    assert len(counted) == n_whole


@pytest.mark.parametrize(
    ("changed", "template", "told"),
    [
        ({"depth": 4}, PAIRWISE, "reranking.depth: 5 in the folder, 4 now"),
        ({"method": "all-pairs"}, PAIRWISE, 'reranking.method: "heapsort" in the folder, "all-pairs" now'),
        ({}, PAIRWISE.model_copy(update={"order": "idq"}), 'prompt.order: "dqi" in the folder, "idq" now'),
    ],
)
def test_verdicts_of_other_settings_are_refused(
    judge: JudgeModel, demo: Collection, tmp_path: Path, changed: dict[str, Any], template: PromptTemplate, told: str
) -> None:
    options = Reranking(method="heapsort", depth=5, queries=1)
    rerank(judge, demo, PAIRWISE, options, folder=tmp_path / "verdicts")
    with pytest.raises(InputError, match=told):
        rerank(judge, demo, template, replace(options, **changed), folder=tmp_path / "verdicts")


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


def test_a_document_longer_than_the_context_is_left_out(
    judge: JudgeModel, demo: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = PromptRenderer(judge.tokenizer, POINTWISE)
    query_id = next(iter(demo.queries))
    first = rerank(judge, demo, POINTWISE, Reranking(depth=4, queries=1)).first.rankings[query_id]
    lengths = {d: len(render_cut(renderer, demo.queries[query_id], demo.documents[d])[1]) for d in first}
    monkeypatch.setattr(judge.config, "max_position_embeddings", max(lengths.values()) - 1)
    with pytest.raises(InputError, match=r"no document can be asked about; for example .* lower max_document_tokens"):
        rerank(judge, demo, POINTWISE, Reranking(depth=4, queries=1))  # all are cut to the same 24 tokens


def test_ties_keep_the_order_of_the_first_stage_also_in_the_file(
    judge: JudgeModel, demo: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> None:
    import torch

    monkeypatch.setattr(JudgeModel, "relevance", lambda self, prompts, answer_ids: torch.full((len(prompts),), 0.25))
    done = rerank_run(tiny_config(tiny_model_folder), Reranking(depth=30, queries=2), ["nDCG@10"], tmp_path / "a.trec")
    assert done.reranked.documents == {q: list(docs) for q, docs in done.reranked.first.rankings.items()}
    (found,) = done.comparisons
    assert found.difference.value == 0
    run = list(ir_measures.read_trec_run(str(tmp_path / "a.trec")))
    qrels = {q: dict(demo.qrels[q]) for q in done.reranked.rankings}
    assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run) == {
        ir_measures.nDCG @ 10: pytest.approx(found.baseline_value.value)
    }


@pytest.mark.parametrize(
    ("prompt", "method"), [("pointwise", None), ("pairwise", "sliding-window"), ("pairwise", "all-pairs")]
)
def test_measures_equal_those_of_ir_measures_on_the_written_file(
    tiny_model_folder: Path, demo: Collection, tmp_path: Path, prompt: str, method: str | None
) -> None:
    config = tiny_config(tiny_model_folder, prompt={"format": prompt})
    options = Reranking(method=method, depth=6, queries=5, top=2)
    done = rerank_run(config, options, ["nDCG@10", "AP(rel=2)"], tmp_path / "deep" / "run.trec")
    run = list(ir_measures.read_trec_run(str(done.run_file)))
    qrels = {q: dict(demo.qrels[q]) for q in done.reranked.rankings}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.AP(rel=2)], qrels, run)
    # 1e-12: the same numbers, added in another order
    assert {c.measure: c.value.value for c in done.comparisons} == {
        str(measure): pytest.approx(value, abs=1e-12) for measure, value in expected.items()
    }
    assert read_run(done.run_file) == done.reranked.documents
    assert (done.n_queries, done.n_documents) == (5, 30)
    assert done.comparisons == measure_reranked(done.reranked, demo, ["nDCG@10", "AP(rel=2)"])


def test_who_is_left_out_or_not_judged_is_told(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "topics.tsv").write_text("1\tthe cat\n2\tthe dog\n3\tbread\n")
    (folder / "passages.tsv").write_text("a\tThe cat sat.\nb\tThe dog ran.\nc\tSalt.\n")
    (folder / "qrels.txt").write_text("1 0 a 1\n3 0 c 1\n9 0 c 1\n")
    (folder / "run.txt").write_text("1 Q0 b 1 2 t\n1 Q0 a 2 1 t\n1 Q0 x 3 0.5 t\n2 Q0 b 1 1 t\n")
    told = Told()
    done = rerank_run(
        tiny_config(tiny_model_folder, data=str(folder)), Reranking(), ["RR"], tmp_path / "run.trec", told
    )
    said = " ".join(told.warnings)
    for part in (
        '1 queries are left out: 1 unknown_query; for example query "9" has no text in c',
        '1 documents cannot be asked about and stand behind the others: 1 missing_document; for example query "1", '
        'document "x": it is not in c',
        "of 1 queries the first stage finds nothing, such as '3'",
        "1 queries have no judgement, such as '2'",
    ):
        assert part in said
    (found,) = done.comparisons
    assert found.n_queries == 2
    assert found.baseline_value.value == (1 / 2 + 0) / 2
    assert (done.n_queries, done.n_documents, done.n_not_judged) == (3, 4, 2)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "heapsrt"}, "method: 'heapsrt' does not exist: did you mean 'heapsort'?"),
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
