"""What does the judge make of pairs and rankings when a set of sites is ablated? Each set once, and kept on disk.

Progress is counted in prompts: two a pair, and those that a method may ask of each ranked query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import Head, ranking_values
from relscope.data import Collection, FirstStage, qrels_sha256, texts_sha256
from relscope.interventions import Reference, ablated, reference_of
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair, PromptTemplate
from relscope.results import CircuitFolder
from relscope.study.circuit_options import CircuitOptions
from relscope.study.prepare import Progress, Within
from relscope.study.ranking_methods import most_prompts
from relscope.study.rerank_options import Reranking
from relscope.study.reranking import first_of, rerank_first

SELECT, EVALUATE = "select", "evaluate"


@dataclass(frozen=True)
class Ablation:
    """How sites are ablated: as `ablated` takes it."""

    kind: str
    reference: Reference | None


@dataclass(frozen=True)
class RankedCollection:
    """What is reranked under each ablation, from the same first stage, and by which measure."""

    collection: Collection
    first: FirstStage
    template: PromptTemplate
    options: Reranking
    measure: str

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the values of a reranking beside the model and its prompt, as JSON values."""
        rankings = self.first.rankings
        return {
            "data": self.collection.name,
            "method": self.options.method_of(self.template),
            "first_stage": self.first.name,
            "texts_sha256": texts_sha256(self.collection, rankings),
            "qrels_sha256": qrels_sha256(self.collection, rankings),
        }

    @property
    def most_prompts(self) -> int:
        """The most prompts that one reranking asks."""
        method = self.options.method_of(self.template)
        return sum(most_prompts(method, len(documents), self.options.top) for documents in self.first.rankings.values())


class Measurer:
    """Measures sets of sites, from what is stored or with the judge.

    Args:
        judge: the model.
        ablation: what stands in for what is ablated.
        folder: keeps every measurement.
        pairs: of the step SELECT and of the step EVALUATE.
        progress: is told of every prompt.
    """

    def __init__(
        self,
        judge: JudgeModel,
        ablation: Ablation,
        folder: CircuitFolder,
        pairs: Mapping[str, Sequence[AlignedPair]],
        progress: Progress,
    ) -> None:
        self.judge, self.ablation, self.folder, self.pairs = judge, ablation, folder, pairs
        self.progress = Within(progress)
        self.n_measured = 0
        rows = folder.rows()
        self._stored = {name for name, _ in rows.groupby(["step", "set"])}
        self._known = {
            (str(step), str(ablated_set)): of.iloc[: len(pairs[str(step)])][["ld_clean", "ld_corrupted"]].to_numpy()
            for (step, ablated_set), of in rows.groupby(["step", "ablated"], sort=False)
        }
        self._ranked = {name for name, _ in folder.rows(ranking=True).groupby(["step", "set"])}

    def gap(self, step: str, name: str, removed: Sequence[Head]) -> float:
        """Mean LD of clean less mean LD of corrupted prompts without a set of sites, in logits."""
        lds = self.measure(step, name, removed)
        return float((lds[:, 0] - lds[:, 1]).mean(dtype=np.float64))

    def measure(self, step: str, name: str, removed: Sequence[Head]) -> np.ndarray:
        """LD of each pair's clean and corrupted prompt without a set of sites: [pair, 2].

        Args:
            step: whose pairs.
            name: of the set; stored once.
            removed: the sites that are ablated.
        """
        key = step, digest(removed)
        pairs = self.pairs[step]
        if key not in self._known:
            self._known[key] = self._judged(pairs, removed)
            self.n_measured += 1
        if (step, name) not in self._stored:
            lds = self._known[key]
            self.folder.add(
                _set_columns(step, name, removed, len(pairs))
                | {"pair_id": [p.pair_id for p in pairs], "ld_clean": lds[:, 0], "ld_corrupted": lds[:, 1]}
            )
            self._stored.add((step, name))
        self.progress.advance(n_prompts := 2 * len(pairs), float(n_prompts))
        return self._known[key]

    def rank(self, name: str, removed: Sequence[Head], ranked: RankedCollection, folder: Path) -> None:
        """Rerank a collection without a set of sites, and keep each query's measure; verdicts are kept in `folder`."""
        if (EVALUATE, name) in self._ranked:
            self.progress.advance(ranked.most_prompts, float(ranked.most_prompts))
            return
        with ablated(self.judge, removed, kind=self.ablation.kind, reference=self.ablation.reference):
            done = rerank_first(
                self.judge, ranked.collection, ranked.template, ranked.first, ranked.options,
                folder=folder / digest(removed)[:16], progress=self.progress,
            )  # fmt: skip
        judged = {q: ranked.collection.qrels[q] for q in done.rankings if ranked.collection.qrels.get(q)}
        values = ranking_values({name: done.documents}, judged, [ranked.measure])
        self.folder.add(
            _set_columns(EVALUATE, name, removed, len(values))
            | {column: values[column].tolist() for column in ("measure", "query_id", "value")},
            ranking=True,
        )
        self._ranked.add((EVALUATE, name))

    def _judged(self, pairs: Sequence[AlignedPair], removed: Sequence[Head]) -> np.ndarray:
        lds = np.zeros((len(pairs), 2), dtype=np.float32)
        with ablated(self.judge, removed, kind=self.ablation.kind, reference=self.ablation.reference):
            for answer_ids in dict.fromkeys(pair.answer_ids for pair in pairs):
                of = [i for i, pair in enumerate(pairs) if pair.answer_ids == answer_ids]
                prompts = [prompt for i in of for prompt in (pairs[i].clean, pairs[i].corrupted)]
                lds[of] = self.judge.relevance(prompts, answer_ids).numpy().reshape(-1, 2)
        return lds


def ablation_of(
    judge: JudgeModel,
    options: CircuitOptions,
    pairs: Sequence[AlignedPair],
    sites: Sequence[Head],
    memory_bytes: int,
) -> Ablation:
    """The ablation of a kind, with its values gathered from both prompts of some pairs.

    Raises:
        InputError: the values take more than `memory_bytes`.
    """
    if options.kind == "zero":
        return Ablation(options.kind, None)
    prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
    reference = reference_of(
        judge, prompts, options.kind, positions=options.positions, sites=sites, seed=options.seed,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    return Ablation(options.kind, reference)


def ranked_collection(
    collection: Collection, template: PromptTemplate, options: Reranking, measure: str
) -> RankedCollection:
    """A collection with the first stage that every reranking of it begins with.

    Raises:
        InputError: the first stage cannot be used, or no query is left.
    """
    return RankedCollection(collection, first_of(collection, options), template, options, measure)


def set_rows(folder: CircuitFolder, step: str, *, ranking: bool = False) -> pd.DataFrame:
    """The stored rows of one step."""
    rows = folder.rows(ranking=ranking)
    return rows[rows["step"] == step]


def digest(removed: Sequence[Head]) -> str:
    """SHA-256 of a set of sites, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(removed)).encode()).hexdigest()


def _set_columns(step: str, name: str, removed: Sequence[Head], n_rows: int) -> dict[str, list[object]]:
    return {"step": [step] * n_rows, "set": [name] * n_rows, "n_ablated": [len(removed)] * n_rows,
            "ablated": [digest(removed)] * n_rows}  # fmt: skip
