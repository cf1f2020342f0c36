"""Which queries of a circuit's data select, which give values, and which are evaluated; and may their prompts be used?

Two queries are one if their texts are the same but for case and white space, whatever their ids: the pairs of such
queries are all of one kind, and their documents are reranked, if at all, with the evaluation.

Cost: none in passes of a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from relscope.data import Collection
from relscope.data.text import folded_words
from relscope.errors import InputError
from relscope.prompts import AlignedPair
from relscope.study.circuit_options import CircuitOptions
from relscope.study.prepare import Prepared, Progress


def first_ids(queries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of each query, given as (id, text), the id of the first that is the same query."""
    id_of: dict[str, str] = {}
    return {query_id: id_of.setdefault(folded_words(text), query_id) for query_id, text in queries}


def parted(
    prepared: Prepared, selected: Iterable[str], options: CircuitOptions, progress: Progress
) -> tuple[list[AlignedPair], list[AlignedPair]]:
    """The pairs that give values, and those that are evaluated; of queries that did not select.

    Args:
        prepared: all pairs.
        selected: the texts of the queries that selected.
        options: how many queries give values, and at most how many pairs are evaluated.
        progress: is told how many pairs are of queries that selected.

    Raises:
        InputError: too few queries are left.
    """
    taken = {folded_words(text) for text in selected}
    pool = [pair for pair in prepared.aligned if folded_words(pair.query_text) not in taken]
    if n_gone := len(prepared.aligned) - len(pool):
        progress.warn(f"{n_gone} pairs are of queries that selected the circuit, and are not evaluated")
    same_as = first_ids((pair.query_id, pair.query_text) for pair in pool)
    queries = sorted(set(same_as.values()))
    n_reference = 0 if options.kind == "zero" else options.reference
    if len(queries) <= n_reference:
        raise InputError(
            f"{prepared.loaded.name}: {len(queries)} queries are left beside the {len(taken)} that selected, and "
            f"{n_reference} of them would give the ablation's values: give more data, a lower --reference, or a run of "
            "fewer pairs (--select 0.5 chooses by half of the run's queries)"
        )
    order = np.random.default_rng(options.seed).permutation(len(queries))
    giving = {queries[i] for i in order[:n_reference]}
    evaluated = [pair for pair in pool if same_as[pair.query_id] not in giving]
    return [pair for pair in pool if same_as[pair.query_id] in giving], evaluated[: options.pairs]


def without_queries(collection: Collection, texts: Iterable[str]) -> Collection:
    """A collection without the queries of some texts."""
    gone = {folded_words(text) for text in texts}
    kept = {query_id: text for query_id, text in collection.queries.items() if folded_words(text) not in gone}
    left_out = set(collection.queries) - set(kept)
    run = collection.run
    return dataclasses.replace(
        collection,
        queries=kept,
        qrels={query_id: grades for query_id, grades in collection.qrels.items() if query_id not in left_out},
        run=None if run is None else {query_id: docs for query_id, docs in run.items() if query_id not in left_out},
    )


def check_apart(pairs: Sequence[AlignedPair], regions: Sequence[str]) -> None:
    """Refuse prompts in which two regions of a circuit share a token.

    A head that is kept at one of them would be ablated there as one that is not kept at the other; nor can an effect
    that was measured at that token be told to belong to one of them.

    Raises:
        InputError: names the regions, a prompt and what would be right.
    """
    for pair in pairs:
        for prompt in (pair.clean, pair.corrupted):
            region_of: dict[int, str] = {}
            for region in regions:
                for position in prompt.region(region):
                    if (other := region_of.setdefault(position, region)) != region:
                        raise InputError(_shared(pair.pair_id, other, region))


def _shared(pair_id: str, one: str, other: str) -> str:
    part = one if other == "last" else other
    return (
        f"regions {one}, {other}: share a token in the prompts of {pair_id}, which end with the {part}; a circuit "
        "needs regions that share none: give a prompt whose answer_prefix begins with a token of its own, such as "
        "'\\n\\nAnswer:', or a run of heads without one of the two among its --regions"
    )
