"""What is a test collection here?

Queries, documents and graded judgements, and where there is one a first-stage ranking. Readers (`beir`,
`trec`, `irds`) make it; pairs are built from it, and reranking reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class IndexedDocuments(Protocol):
    """Documents that can tell their n-th id without listing all of them: a document store on disk."""

    @property
    def ids(self) -> Sequence[str]:
        """The document ids in the order of the corpus, read only where indexed."""


@dataclass(frozen=True)
class Collection:
    """Queries, documents and judgements under one name.

    Attributes:
        name: for display and manifests.
        queries: query id to text, in the order of the source.
        documents: document id to text, cleaned but not cut; may be a store on disk that looks up only what
            is asked.
        qrels: query id to document id to grade. May name queries and documents that the collection does not
            hold: pairs that would need them become refusals.
        run: query id to document ids, best first, of a first-stage ranking; None if there is none.
        run_is_ordered: False where the run only names the documents to be ranked, as MS MARCO's do.
    """

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    run: Mapping[str, Sequence[str]] | None = None
    run_is_ordered: bool = True

    def document_ids(self) -> Sequence[str]:
        """All document ids, in the order of the corpus."""
        if isinstance(self.documents, IndexedDocuments):
            return self.documents.ids
        return tuple(self.documents)
