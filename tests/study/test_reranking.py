"""Reranking with a tiny model: verdicts one by one, interrupted and continued, and who stands behind the others."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from relscope.data import Collection, load_collection, read_run
from relscope.errors import InputError
from relscope.interventions import Reference, ablated, reference_of
from relscope.models import JudgeModel, load_judge
from relscope.prompts import PromptRenderer, PromptTemplate, render_cut
from relscope.study import Reranking, measure_reranked, rerank
from relscope.study.rerank_run import rerank_run
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
        ({"method": "pointwise"}, POINTWISE, 'prompt.format: "pairwise" in the folder, "pointwise" now'),
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


@pytest.mark.parametrize(
    ("template", "before", "now"),
    [
        (POINTWISE, {"top": 10, "depth": 4}, {"top": 5, "depth": 7, "queries": 3}),
        (POINTWISE, {"depth": 7, "queries": 3}, {"depth": 4, "queries": 1, "run": "bm25"}),
        (PAIRWISE, {"method": "heapsort", "top": 2}, {"method": "all-pairs", "top": 3}),
    ],
)
def test_settings_that_change_no_verdict_go_on_from_those_that_are_stored(
    judge: JudgeModel,
    demo: Collection,
    tmp_path: Path,
    counted: list[tuple[int, ...]],
    template: PromptTemplate,
    before: dict[str, Any],
    now: dict[str, Any],
) -> None:
    base, folder = Reranking(depth=4, queries=2), tmp_path / "verdicts"
    rerank(judge, demo, template, replace(base, **before), folder=folder)
    n_before = len(counted)
    done = rerank(judge, demo, template, replace(base, **now), folder=folder)
    asked = set(counted)
    assert len(counted) == len(asked)  # none is judged twice
    counted.clear()
    fresh = rerank(judge, demo, template, replace(base, **now))
    assert (done.documents, done.n_prompts) == (fresh.documents, fresh.n_prompts)
    assert done.n_prompts == len(counted)
    assert asked >= set(counted)
    assert len(asked) - n_before < len(counted)


@pytest.mark.parametrize("template", [POINTWISE, PAIRWISE])
def test_a_verdict_on_another_text_is_refused_by_its_query_and_document(
    judge: JudgeModel, demo: Collection, tmp_path: Path, template: PromptTemplate
) -> None:
    options, folder = Reranking(depth=3, queries=2), tmp_path / "verdicts"
    first = rerank(judge, demo, template, options, folder=folder).first
    fixed = replace(demo, run={q: list(docs) for q, docs in first.rankings.items()}, run_is_ordered=True)
    rerank(judge, fixed, template, options, folder=folder)
    (_, _), (query_id, (_, doc_id, _)) = first.rankings.items()
    told = f'query "{query_id}", document .*: the texts or the tokenizer are others than when this was measured'
    changed_document = replace(fixed, documents={**demo.documents, doc_id: f"Not {demo.documents[doc_id]}"})
    changed_query = replace(fixed, queries={**demo.queries, query_id: "a cat"})
    for changed in (changed_document, changed_query):
        with pytest.raises(InputError, match=told):
            rerank(judge, changed, template, options, folder=folder)


def test_verdicts_on_tokens_of_another_tokenizer_are_refused(
    tiny_model_folder: Path, demo: Collection, tmp_path: Path
) -> None:
    from tokenizers import normalizers

    judge = load_judge(str(tiny_model_folder), device="cpu")
    options, folder = Reranking(depth=3, queries=2), tmp_path / "verdicts"
    first = rerank(judge, demo, POINTWISE, options, folder=folder)
    judge.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert rerank(judge, demo, POINTWISE, options).rankings != first.rankings
    with pytest.raises(InputError, match="the texts or the tokenizer are others than when this was measured"):
        rerank(judge, demo, POINTWISE, options, folder=folder)


HEADS = [(layer, head, "all") for layer in (1, 2) for head in range(4)]


def _reference(judge: JudgeModel, demo: Collection, kind: str, n_prompts: int = 3, seed: int = 0) -> Reference:
    renderer = PromptRenderer(judge.tokenizer, POINTWISE)
    texts = list(zip(demo.queries.values(), demo.documents.values(), strict=False))[-n_prompts:]
    return reference_of(judge, [render_cut(renderer, *pair)[1] for pair in texts], kind, seed=seed)


def test_verdicts_of_the_model_and_of_an_ablated_one_are_not_mixed(
    judge: JudgeModel, demo: Collection, tmp_path: Path
) -> None:
    options = Reranking(depth=4, queries=2)
    plain = rerank(judge, demo, POINTWISE, options, folder=tmp_path / "plain")
    with ablated(judge, HEADS, kind="zero"):
        without = rerank(judge, demo, POINTWISE, options)
        assert without.rankings != plain.rankings
        with pytest.raises(
            InputError, match=r'edits.1: \(absent\) in the folder, {"keep_only": false, "kind": "zero", .* now'
        ):
            rerank(judge, demo, POINTWISE, options, folder=tmp_path / "plain")
        assert rerank(judge, demo, POINTWISE, options, folder=tmp_path / "without").rankings == without.rankings
    with pytest.raises(InputError, match=r"edits\.1: .* in the folder, \(absent\) now"):
        rerank(judge, demo, POINTWISE, options, folder=tmp_path / "without")


def test_verdicts_of_one_ablation_and_of_another_are_not_mixed(
    judge: JudgeModel, demo: Collection, tmp_path: Path, counted: list[tuple[int, ...]]
) -> None:
    options, folder = Reranking(depth=3, queries=1), tmp_path / "verdicts"
    with ablated(judge, HEADS, reference=_reference(judge, demo, "mean")):
        first = rerank(judge, demo, POINTWISE, options, folder=folder)
    counted.clear()
    with ablated(judge, HEADS[::-1], reference=_reference(judge, demo, "mean")):  # gathered again, as by a new process
        assert rerank(judge, demo, POINTWISE, options, folder=folder).rankings == first.rankings
    assert not counted
    for heads, keep_only, reference, told in [
        (HEADS[1:], False, _reference(judge, demo, "mean"), "edits.1.sites"),
        (HEADS, True, _reference(judge, demo, "mean"), "edits.1.keep_only: false in the folder, true now"),
        (HEADS, False, _reference(judge, demo, "mean", 2), "edits.1.reference.n_prompts: 3 in the folder, 2 now"),
        (HEADS, False, _reference(judge, demo, "resample"), 'edits.1.kind: "mean" in the folder, "resample" now'),
    ]:
        with (
            ablated(judge, heads, kind=reference.kind, reference=reference, keep_only=keep_only),
            pytest.raises(InputError, match=told),
        ):
            rerank(judge, demo, POINTWISE, options, folder=folder)
    assert _reference(judge, demo, "resample").identity != _reference(judge, demo, "resample", seed=1).identity


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


def _folder_with_ids(folder: Path, *, first: str, other: str, document: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": first, "text": "the cat"}, {"_id": other, "text": "the dog"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    documents = [{"_id": document, "text": "The cat sat."}, {"_id": "b", "text": "The dog ran."}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{first}\t{document}\t1\n{other}\tb\t1\n")
    return folder


def test_an_id_that_a_run_file_cannot_hold_is_refused_before_the_model_is_loaded(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by its name in full it is the function that hides the module
    monkeypatch.setattr(importlib.import_module("relscope.study.rerank_run"), "load_model", None)
    for name, ids in {
        "doc": {"first": "1", "other": "2", "document": "doc 1"},
        "query": {"first": "query 1", "other": "2", "document": "a"},
    }.items():
        config = tiny_config(tiny_model_folder, data=str(_folder_with_ids(tmp_path / name, **ids)))
        with pytest.raises(InputError, match=f'a TREC run file cannot hold the id "{name}'):
            rerank_run(config, Reranking(), ["RR"], tmp_path / "run.trec")
    assert not list(tmp_path.glob("run.trec*"))


def test_the_id_of_a_query_that_is_not_ranked_may_be_anything(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = _folder_with_ids(tmp_path / "c", first="1", other="query 2", document="a")
    config = tiny_config(tiny_model_folder, data=str(folder))
    done = rerank_run(config, Reranking(queries=1), ["RR"], tmp_path / "run.trec")
    assert set(read_run(done.run_file)) == {"1"}


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
