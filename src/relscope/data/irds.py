"""What does a data set of the ir_datasets catalogue hold, by its id?

Documents are not read into memory: they are looked up, one by one, in the store that ir_datasets keeps on
disk (built the first time, and the files fetched then, unless they are there). Queries are those that the
qrels judge. Hard negatives come from the data set's own ranking (`scoreddocs`) if it has one; only without
one is BM25 indexed over the whole corpus, which for millions of passages takes many GB of memory: choose an
id with scoreddocs then, or give a run as TREC files.

MS MARCO's sets list BM25's best 1000 without scores, in no order: there, `depth` takes the first ones
listed for negatives, and reranking asks for a run (`Collection.run_is_ordered`).
"""

from __future__ import annotations

import difflib
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from relscope.data.collection import Collection
from relscope.data.text import clean_text
from relscope.errors import InputError


def load_irds(dataset_id: str) -> Collection:
    """Read a data set by its ir_datasets id, for example `msmarco-passage/trec-dl-2019/judged`.

    A document that is judged more than once for a query (by subtopic) has its highest grade.

    Raises:
        InputError: ir_datasets is not installed, knows no such id, can't fetch the files, or the data set
            has no documents, queries or qrels.
    """
    dataset = _find(dataset_id)
    for part in ("docs", "queries", "qrels"):
        if not dataset.has(part):
            raise InputError(f"ir_datasets:{dataset_id}: has no {part}; choose a data set with docs, queries and qrels")
    try:
        qrels: dict[str, dict[str, int]] = {}
        for qrel in dataset.qrels_iter():
            grades = qrels.setdefault(qrel.query_id, {})
            grades[qrel.doc_id] = max(qrel.relevance, grades.get(qrel.doc_id, qrel.relevance))
        queries = {q.query_id: _default_text(q) for q in dataset.queries_iter() if q.query_id in qrels}
        run, ordered = _run(dataset, qrels) if dataset.has("scoreddocs") else (None, True)
        documents = StoredDocuments(dataset)
        if not qrels or not queries or not len(documents):
            raise InputError(f"ir_datasets:{dataset_id}: has no documents, or no query that is judged")
    except (OSError, RuntimeError) as error:  # no network, a file that must be asked for, a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"ir_datasets:{dataset_id}: its files cannot be read or fetched ({reason})") from error
    return Collection(f"ir_datasets:{dataset_id}", queries, documents, qrels, run, ordered)


class StoredDocuments(Mapping[str, str]):
    """The documents of a data set, id to cleaned text, read from its store on disk when asked for."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._store = dataset.docs_store()

    @property
    def ids(self) -> Sequence[str]:
        """The ids in the order of the corpus, each read when it is asked for."""
        return _StoredIds(self._dataset, len(self))

    @cached_property
    def _count(self) -> int:
        count = self._dataset.docs_count()
        return int(count) if count is not None else sum(1 for _ in self._dataset.docs_iter())

    def __getitem__(self, doc_id: str) -> str:
        return _default_text(self._store.get(doc_id))

    def __iter__(self) -> Iterator[str]:
        return (document.doc_id for document in self._dataset.docs_iter())

    def __len__(self) -> int:
        return self._count

    def items(self) -> ItemsView[str, str]:
        """Ids with texts, in one pass over the corpus instead of one look-up each."""
        return _StoredItems(self)

    def stream(self) -> Iterator[tuple[str, str]]:
        """What `items` goes through."""
        return ((document.doc_id, _default_text(document)) for document in self._dataset.docs_iter())


class _StoredItems(ItemsView[str, str]):
    _mapping: StoredDocuments

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._mapping.stream()


class _StoredIds(Sequence[str]):
    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset = dataset
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...

    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return [self[p] for p in range(*place.indices(self._count))]
        return str(self._dataset.docs_iter()[place].doc_id)


def _find(dataset_id: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise InputError(
            f"ir_datasets:{dataset_id}: ir_datasets is not installed; install it with: pip install 'relscope[datasets]'"
        ) from error
    try:
        return ir_datasets.load(dataset_id)
    except KeyError as error:
        close = difflib.get_close_matches(dataset_id, list(ir_datasets.registry), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; see https://ir-datasets.com"
        raise InputError(f"ir_datasets:{dataset_id}: ir_datasets knows no such id{hint}") from error


def _run(dataset: Any, qrels: Mapping[str, Any]) -> tuple[dict[str, list[str]], bool]:
    """The data set's own ranking, and whether it is one: MS MARCO's scoreddocs have no scores."""
    values: dict[str, dict[str, float]] = {}
    for row in dataset.scoreddocs_iter():
        if row.query_id in qrels:
            values.setdefault(row.query_id, {})[row.doc_id] = row.score
    ordered = any(len(set(ranked.values())) > 1 for ranked in values.values())
    run = {query_id: sorted(ranked, key=lambda d: -ranked[d]) for query_id, ranked in values.items()}
    return run, ordered or all(len(ranked) < 2 for ranked in values.values())


def _default_text(record: Any) -> str:
    return clean_text(record.default_text())
