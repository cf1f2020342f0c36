"""Reranking by the attention of chosen heads: every score one by one, and queries that chose the heads left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from reference_readouts import ReadoutReference
from relscope.analysis import Head, HeadSet, HeadSource
from relscope.data import Collection
from relscope.errors import InputError
from relscope.interventions import ablated
from relscope.models import JudgeModel
from relscope.prompts import PromptRenderer, PromptTemplate, render_cut
from relscope.study import Reranking, rerank
from tiny_study import SHORT, Told

HEADS = HeadSet("mine", (Head(2, 1, "query"), Head(0, 3, "query"), Head(2, 1, "last")), ("q01", "q03"))


@pytest.mark.parametrize(("order", "calibrated"), [("dqi", True), ("idq", True), ("dqi", False)])
def test_every_value_is_that_of_the_patterns_that_the_model_gives_out(
    judge: JudgeModel, demo: Collection, order: Any, calibrated: bool
) -> None:
    template = PromptTemplate(order=order, **SHORT)
    options = Reranking(method="attention", heads=HEADS, depth=6, queries=2, calibrated=calibrated)
    reranked = rerank(judge, demo, template, options)
    reference, renderer = ReadoutReference(judge.model, "llama"), PromptRenderer(judge.tokenizer, template)

    def paid(query_text: str, head: str) -> float:
        prompt = renderer.render(query_text, [head])
        patterns = reference.patterns(prompt.ids)
        query, document = prompt.region("query"), prompt.region("document")
        # a head that stands in the set at two regions is read once
        return sum(
            float(patterns[layer][head][i, k]) / len(query) for layer, head in [(2, 1), (0, 3)] for i in query
            for k in document
        ) / 2  # fmt: skip

    assert list(reranked.rankings) == ["q02", "q04"]
    assert (reranked.method, reranked.n_prompts) == ("attention", 12)
    for query_id, ranked in reranked.rankings.items():
        values = [value for _, value in ranked]
        assert values == sorted(values, reverse=True)
        for doc_id, value in ranked:
            head, _ = render_cut(renderer, demo.queries[query_id], demo.documents[doc_id])
            wanted = paid(demo.queries[query_id], head) - (paid("N/A", head) if calibrated else 0)
            assert value == pytest.approx(wanted, abs=1e-5)  # float32 of order 1, other batches


def test_queries_that_chose_the_heads_are_left_out_and_told(judge: JudgeModel, demo: Collection) -> None:
    told = Told()
    options = Reranking(method="attention", heads=HEADS, depth=2)
    reranked = rerank(judge, demo, PromptTemplate(**SHORT), options, progress=told)
    assert set(demo.queries) - set(reranked.rankings) == {"q01", "q03"}
    assert [(one.query_id, one.reason) for one in reranked.left_out] == [("q01", "held_out"), ("q03", "held_out")]
    assert '2 queries are left out: 2 held_out; for example query "q01" is one that chose the heads' in told.warnings
    unknown = dataclasses.replace(HEADS, chosen_on=())
    rerank(judge, demo, PromptTemplate(**SHORT), dataclasses.replace(options, heads=unknown, queries=1), progress=told)
    assert "mine: says of no query that it chose the heads; measure on none that did" in told.warnings


def test_queries_that_the_run_judged_and_did_not_patch_are_left_out_too(judge: JudgeModel, demo: Collection) -> None:
    heads = dataclasses.replace(HEADS, held_out=("q02",))
    options = Reranking(method="attention", heads=heads, depth=1, queries=1)
    reranked = rerank(judge, demo, PromptTemplate(**SHORT), options)
    assert list(reranked.rankings) == ["q04"]
    why = {one.query_id: one.detail for one in reranked.left_out}
    assert set(why) == {"q01", "q02", "q03"}
    assert "was judged by the run that chose the heads" in why["q02"]
    assert "is one that chose the heads" in why["q01"]


def test_a_query_is_known_by_its_text_and_by_its_id_only_where_its_text_is_not_known(
    judge: JudgeModel, demo: Collection
) -> None:
    texts = {"q01": f"  {demo.queries['q02'].upper()}", "q03": "a query of other data"}
    heads = dataclasses.replace(HEADS, chosen_on=("q01", "q03", "q04"), query_texts=texts)
    reranked = rerank(judge, demo, PromptTemplate(**SHORT), Reranking(method="attention", heads=heads, depth=1))
    assert [one.query_id for one in reranked.left_out] == ["q02", "q04"]


def test_no_query_is_left_where_all_chose_the_heads(judge: JudgeModel, demo: Collection) -> None:
    heads = dataclasses.replace(HEADS, chosen_on=tuple(demo.queries))
    with pytest.raises(InputError, match='no query can be ranked; for example query "q01" is one that chose the heads'):
        rerank(judge, demo, PromptTemplate(**SHORT), Reranking(method="attention", heads=heads))


def test_scores_are_kept_under_their_name_and_not_mixed_with_those_of_other_heads(
    judge: JudgeModel, demo: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, options = PromptTemplate(**SHORT), Reranking(method="attention", heads=HEADS, depth=3, queries=2)
    first = rerank(judge, demo, template, options, folder=tmp_path / "kept")
    rows = [json.loads(line) for line in (tmp_path / "kept" / "verdicts.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(set(row) == {"query_id", "documents", "relevance_score", "token_sha256"} for row in rows)
    with monkeypatch.context() as without:
        without.setattr("relscope.study.reranking.relevance_scores", None)
        assert rerank(judge, demo, template, options, folder=tmp_path / "kept").rankings == first.rankings
    other = dataclasses.replace(HEADS, members=HEADS.members[:1])
    for changed in ({"heads": other}, {"reading": "largest"}, {"calibrated": False}):
        with pytest.raises(InputError, match=f"reranking.{next(iter(changed))}"):
            rerank(judge, demo, template, dataclasses.replace(options, **changed), folder=tmp_path / "kept")


def test_heads_that_the_model_does_not_have_are_refused_before_anything_is_made(
    judge: JudgeModel, demo: Collection, tmp_path: Path
) -> None:
    heads = HeadSet("other", (Head(0, 0, "query"), Head(99, 0, "query")))
    with pytest.raises(InputError, match="layer 99, head 0 does not exist"):
        rerank(judge, demo, PromptTemplate(**SHORT), Reranking(method="attention", heads=heads), folder=tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_heads_of_another_model_are_refused_or_told_by_its_shape(judge: JudgeModel, demo: Collection) -> None:
    identity, shape, template = judge.identity, judge.shape, PromptTemplate(**SHORT)
    source = HeadSource(
        run="runs/one", run_identity="0", model=identity.name, adapter=None, revision=identity.revision,
        dtype=identity.dtype, fingerprint=identity.fingerprint, n_layers=shape.n_layers, n_heads=shape.n_heads,
    )  # fmt: skip
    options = Reranking(method="attention", heads=dataclasses.replace(HEADS, source=source), depth=1, queries=1)

    def told(**changed: Any) -> list[str]:
        heads = dataclasses.replace(HEADS, source=dataclasses.replace(source, **changed))
        progress = Told()
        rerank(judge, demo, template, dataclasses.replace(options, heads=heads), progress=progress)
        return [text for text in progress.warnings if text.startswith("mine: ")]

    assert told() == []
    (warning,) = told(fingerprint="f" * 64)
    assert "(weights ffffffffffff) and is used in" in warning
    with pytest.raises(InputError, match=f"with 99 layers of {shape.n_heads} heads, and .* has {shape.n_layers} of"):
        told(n_layers=99)
    progress = Told()
    rerank(judge, demo, template, dataclasses.replace(options, heads=HEADS), progress=progress)
    assert "mine: does not say in which model its heads were chosen; use them in no other" in progress.warnings
    # Whole head sets are checked where they are ablated, too.
    with (
        pytest.raises(InputError, match="with 99 layers"),
        ablated(judge, dataclasses.replace(HEADS, source=dataclasses.replace(source, n_layers=99)), kind="zero"),
    ):
        pass
    other = dataclasses.replace(HEADS, source=dataclasses.replace(source, fingerprint="f" * 64))
    with pytest.warns(UserWarning, match="another model of the same shape"), ablated(judge, other, kind="zero"):
        pass


def test_options_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"the method attention reads heads, and none are given: .* 'relscope heads RUN --out heads\.json'",
    ):
        Reranking(method="attention")
    with pytest.raises(InputError, match="only the method attention reads heads, and no method is named"):
        Reranking(heads=HEADS)
    with pytest.raises(InputError, match="reading: 'max' does not exist"):
        Reranking(method="attention", heads=HEADS, reading="max")
    attention = Reranking(method="attention", heads=HEADS)
    with pytest.raises(InputError, match="needs the query behind the document"):
        attention.method_of(PromptTemplate(order="qdi"))
    with pytest.raises(InputError, match="attention needs a pointwise prompt, and this one is pairwise"):
        attention.method_of(PromptTemplate(format="pairwise"))
