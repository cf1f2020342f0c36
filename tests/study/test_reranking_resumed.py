"""Rerankings that go on: interrupted, of other settings, and of what the stored verdicts are not about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relscope.data import Collection
from relscope.errors import InputError
from relscope.interventions import Reference, ablated, reference_of
from relscope.models import JudgeModel, load_judge
from relscope.prompts import PromptRenderer, PromptTemplate, render_cut
from relscope.study import Reranking, rerank
from tiny_study import PAIRWISE, POINTWISE, interrupted_after


def test_an_interrupted_reranking_goes_on_and_judges_nothing_again(
    judge: JudgeModel, demo: Collection, tmp_path: Path, counted: list[tuple[int, ...]]
) -> None:
    options = Reranking(method="heapsort", depth=5, queries=4, top=2)
    whole = rerank(judge, demo, PAIRWISE, options)
    n_whole = len(counted)
    counted.clear()
    with interrupted_after(3, judge), pytest.raises(KeyboardInterrupt):
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
        (POINTWISE, {"depth": 7, "queries": 3}, {"depth": 4, "queries": 1, "first_stage": "bm25"}),
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
