"""Which documents of the first stage can the judge be asked about, and what does it read of them?

Each document is cut alone, from its end, to the template's `max_document_tokens`. Cost: each document's prompt is
rendered, and no forward pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relscope.data import Collection, FirstStage, LeftOut
from relscope.data.text import cut_document
from relscope.models import JudgeModel
from relscope.prompts import PartError, PromptRenderer, render_cut


@dataclass(frozen=True)
class AskedQuery:
    """A query that is asked: its text, the documents that can be asked about, cut, and the ids of its answers.

    `token_sha256` is over what the model reads of each document's prompt, and the answers; a pairwise one has it twice.
    """

    text: str
    documents: Mapping[str, str]
    answer_ids: tuple[int, int] | None
    token_sha256: Mapping[str, str]

    def token_sha256_of(self, documents: Sequence[str]) -> str | None:
        """Over a prompt's tokens, by way of those of its documents; None where one of them cannot be asked about."""
        if any(doc_id not in self.token_sha256 for doc_id in documents):
            return None
        digests = " ".join(self.token_sha256[doc_id] for doc_id in documents)
        return hashlib.sha256(digests.encode()).hexdigest()


def asked_queries(
    judge: JudgeModel, renderer: PromptRenderer, collection: Collection, first: FirstStage
) -> tuple[dict[str, AskedQuery], list[LeftOut]]:
    """Cut every document, and find those that cannot be asked about."""
    queries: dict[str, AskedQuery] = {}
    left_out: list[LeftOut] = []
    limit = getattr(judge.config, "max_position_embeddings", None)
    for query_id, ranking in first.rankings.items():
        query_text = collection.queries[query_id]
        documents: dict[str, str] = {}
        token_sha256: dict[str, str] = {}
        answer_ids = None

        def leave_out(doc_id: str, reason: str, detail: str, query_id: str = query_id) -> None:
            left_out.append(LeftOut(query_id, doc_id, reason, f'query "{query_id}", document "{doc_id}": {detail}'))

        for doc_id in ranking:
            text = collection.documents.get(doc_id)
            if text is None:
                leave_out(doc_id, "missing_document", f"it is not in {collection.name}")
                continue
            try:
                head, prompt = render_cut(renderer, query_text, cut_document(text)[0])
            except PartError as error:
                leave_out(doc_id, error.reason, str(error))
                continue
            if limit is not None and len(prompt) > limit:
                detail = f"the prompt has {len(prompt)} tokens, the model reads {limit}; lower max_document_tokens"
                leave_out(doc_id, "longer_than_context", detail)
                continue
            documents[doc_id] = head
            # What follows the last document is the query's own, so that one prompt speaks for all.
            answer_ids = renderer.answer_ids(prompt) if answer_ids is None else answer_ids
            token_sha256[doc_id] = hashlib.sha256(json.dumps([prompt.ids, answer_ids]).encode()).hexdigest()
        queries[query_id] = AskedQuery(query_text, documents, answer_ids, token_sha256)
    return queries, left_out
