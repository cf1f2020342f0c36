"""A reranking from its configuration to its run file: what it measures, writes and tells."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import pytest
from replaced import replace

from relscope.data import Collection, read_run
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.study import Reranking, measure_reranked
from relscope.study.rerank_run import rerank_run
from tiny_study import Told, tiny_config


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
    replace(monkeypatch, "rerank_run", "load_model", None)
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
