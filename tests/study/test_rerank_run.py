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
from relscope.results import read_costs, read_measures, read_reranking_header
from relscope.study import Reranking, measure_reranked
from relscope.study.rerank_run import rerank_run
from tiny_study import Told, interrupted_after, tiny_config


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
    qrels = list(ir_measures.read_trec_qrels(str(done.verdicts / "qrels.txt")))
    assert {(q.query_id, q.doc_id): q.relevance for q in qrels} == {
        (query_id, doc_id): grade
        for query_id in done.reranked.rankings
        for doc_id, grade in demo.qrels[query_id].items()
    }
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.AP(rel=2)], qrels, run)
    # 1e-12: the same numbers, added in another order
    assert {c.measure: c.value.value for c in done.comparisons} == {
        str(measure): pytest.approx(value, abs=1e-12) for measure, value in expected.items()
    }
    assert read_run(done.run_file) == done.reranked.documents
    assert (done.n_queries, done.n_documents) == (5, 30)
    assert done.comparisons == measure_reranked(done.reranked, demo, ["nDCG@10", "AP(rel=2)"])


def test_the_rows_that_are_kept_are_those_of_ir_measures_on_the_written_file(
    tiny_model_folder: Path, demo: Collection, tmp_path: Path
) -> None:
    done = rerank_run(
        tiny_config(tiny_model_folder), Reranking(depth=6, queries=5), ["nDCG@10", "AP(rel=2)"], tmp_path / "a.trec"
    )
    rows = read_measures(done.verdicts)
    first = [
        ir_measures.ScoredDoc(q, doc_id, -place)
        for q, ranking in done.reranked.first.rankings.items()
        for place, doc_id in enumerate(ranking)
    ]
    qrels = {q: dict(demo.qrels[q]) for q in done.reranked.rankings}
    measures = [ir_measures.nDCG @ 10, ir_measures.AP(rel=2)]
    for system, run in (("first stage", first), ("reranked", list(ir_measures.read_trec_run(str(done.run_file))))):
        of = rows[rows["system"] == system].set_index(["query_id", "measure"])["value"]
        expected = {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc(measures, qrels, run)}
        assert of.to_dict() == expected
        assert len(expected) == 10
    header = read_reranking_header(done.verdicts)
    assert header == done.header
    assert (header.n_prompts, header.last_layer, header.n_layers, header.depth) == (30, 3, 4, 6)
    assert list(header.queries) == list(done.reranked.rankings)


def test_what_is_told_while_it_is_measured_is_kept(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = Told()
    done = rerank_run(tiny_config(tiny_model_folder), Reranking(depth=2, queries=1), ["RR"], tmp_path / "a.trec", told)
    assert list(done.header.notes) == told.warnings
    assert told.warnings  # the tiny model hardly says yes or no


class _Clock:
    """Gives times that are `step` seconds apart."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_what_interrupted_and_resumed_calls_took_adds_up(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each part that is judged together the clocks are read before and after: 2 CPU seconds, 3 by the clock."""
    import time

    config, options, out = tiny_config(tiny_model_folder), Reranking(depth=20, queries=3), tmp_path / "a.trec"
    monkeypatch.setattr(time, "process_time", _Clock(2.0))
    monkeypatch.setattr(time, "perf_counter", _Clock(3.0))
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        rerank_run(config, options, ["nDCG@10"], out)
    before = read_costs(tmp_path / "a.trec.verdicts")
    assert (before.n_calls, before.cpu_seconds, before.wall_seconds) == (1, 2.0, 3.0)
    assert 0 < before.n_prompts < 60
    done = rerank_run(config, options, ["nDCG@10"], out)
    lines = (done.verdicts / "costs.jsonl").read_text().splitlines()
    assert (done.cost.n_calls, done.cost.n_prompts, done.cost.devices) == (2, 60, ("cpu",))
    assert (done.cost.cpu_seconds, done.cost.wall_seconds) == (2.0 * len(lines), 3.0 * len(lines))
    per_100 = done.per_100_documents
    assert per_100 is not None
    assert per_100.cpu_seconds == pytest.approx(100 * 2.0 * len(lines) / 60)
    assert rerank_run(config, options, ["nDCG@10"], out).cost == done.cost  # which judged nothing


def test_a_folder_of_a_version_that_kept_no_time_goes_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    config, out = tiny_config(tiny_model_folder), tmp_path / "a.trec"
    done = rerank_run(config, Reranking(depth=3, queries=2), ["RR"], out)
    for name in ("costs.jsonl", "reranking.json", "measures.parquet"):
        (done.verdicts / name).unlink()
    again = rerank_run(config, Reranking(depth=3, queries=2), ["RR"], out)
    assert (again.per_100_documents, again.cost.n_prompts, again.header.n_prompts) == (None, 0, 6)
    assert again.comparisons == done.comparisons
    more = rerank_run(config, Reranking(depth=3, queries=3), ["RR"], out)
    assert (more.cost.n_prompts, more.header.n_prompts) == (3, 9)
    assert more.per_100_documents is not None


def test_a_reranking_without_judgements_keeps_no_rows_and_says_so(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "topics.tsv").write_text("1\tthe cat\n")
    (folder / "passages.tsv").write_text("a\tThe cat sat.\n")
    (folder / "qrels.txt").write_text("9 0 a 1\n")
    (folder / "run.txt").write_text("1 Q0 a 1 2 t\n")
    done = rerank_run(tiny_config(tiny_model_folder, data=str(folder)), Reranking(), ["RR"], tmp_path / "a.trec")
    assert (done.comparisons, done.header.queries, len(read_measures(done.verdicts))) == ([], {}, 0)


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
