"""What is measured of a circuit, on whose queries?

Queries are of three kinds that share none, not even by their text (`relscope.study.circuit_queries`):

    selection     their effects rank the sites, their verdicts choose the size and prune; never evaluated, on any data
    reference     drawn at random; their prompts give the values that stand in for what is ablated
    evaluation    the others; everything that is reported is measured on these

Cost, in sets that are judged on the queries of the evaluation: two for each size and the circuit, one for each random
set, one for each member that is left out, two for each random part. A set costs two forward passes a pair, and with a
reranking (of sizes and of the circuit) one for each of its prompts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relscope.analysis import (
    Circuit,
    Head,
    SetMetrics,
    circuit_sizes,
    set_name,
    without,
)
from relscope.choices import DEFAULT_MEMORY_BYTES
from relscope.data import load_collection
from relscope.data.text import folded_words
from relscope.errors import InputError
from relscope.prompts import AlignedPair
from relscope.results import CircuitFolder, create_or_resume_circuit
from relscope.study.circuit_measuring import (
    EVALUATE,
    SELECT,
    Measurer,
    RankedCollection,
    ablation_of,
    digest,
    ranked_collection,
    set_rows,
)
from relscope.study.circuit_options import CircuitOptions
from relscope.study.circuit_queries import check_apart, parted, without_queries
from relscope.study.circuit_search import prune, smallest_size
from relscope.study.prepare import Prepared, Progress
from relscope.study.ranking_methods import UNDER_ABLATION
from relscope.study.rerank_options import Reranking
from relscope.version import __version__

CIRCUIT_NAME = "circuit.json"


@dataclasses.dataclass
class Work:
    """A model with its pairs, and, within `opened`, where measurements go.

    Attributes:
        prepared: the model and all pairs.
        options: of the search and the evaluation.
        selection: the pairs that select; none where a circuit is evaluated elsewhere.
        progress: is told of stages, sets and warnings.
        memory_bytes: what the values that stand in for what is ablated may take.
        measurer: measures sets.
        ranked: what is reranked besides, or None.
        evaluation: the pairs of the evaluation.
    """

    prepared: Prepared
    options: CircuitOptions
    selection: Sequence[AlignedPair]
    progress: Progress
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    measurer: Measurer = dataclasses.field(init=False)
    ranked: RankedCollection | None = dataclasses.field(init=False)
    evaluation: Sequence[AlignedPair] = dataclasses.field(init=False)

    @property
    def folder(self) -> CircuitFolder:
        """Where measurements go."""
        return self.measurer.folder

    def metrics(self) -> SetMetrics:
        """What was measured on the queries of the evaluation."""
        return SetMetrics(
            set_rows(self.folder, EVALUATE),
            {pair.pair_id: pair.query_id for pair in self.evaluation},
            set_rows(self.folder, EVALUATE, ranking=True),
            seed=self.options.seed,
        )

    def evaluate(
        self, what: str, ranked: Mapping[str, Sequence[Head]], judged: Mapping[str, Sequence[Head]] | None = None
    ) -> None:
        """Judge, and rerank, the pairs and the collection without each of some sets of sites.

        Args:
            what: the stage, for the progress.
            ranked: the sites of each set by its name; judged, and reranked where a collection is.
            judged: likewise, but these are judged alone.
        """
        judged = judged or {}
        n_prompts = 2 * len(self.evaluation) * (len(ranked) + len(judged))
        if self.ranked is not None:
            n_prompts += self.ranked.most_prompts * len(ranked)
        self.progress.stage(f"{what}, at most {n_prompts:,} prompts")
        self.progress.start(n_prompts, float(n_prompts))
        for name, removed in ranked.items():
            self.measurer.measure(EVALUATE, name, removed)
            if self.ranked is not None:
                self.measurer.rank(name, removed, self.ranked, self.folder.directory / "reranking")
        for name, removed in judged.items():
            self.measurer.measure(EVALUATE, name, removed)


@contextlib.contextmanager
def opened(out: Path, work: Work, circuit: Circuit, source: Mapping[str, Any]) -> Iterator[None]:
    """Within the context, `work` measures, and keeps what it measures in the folder `out`.

    Args:
        out: the folder.
        work: without its measurer.
        circuit: what is known of it: its sites, its ablation and the queries it was selected by.
        source: where the circuit comes from, as part of the folder's identity.

    Raises:
        InputError: too few queries are left, the circuit's regions share a token of a prompt, or the folder holds other
            things.
    """
    options, prepared, progress = work.options, work.prepared, work.progress
    check_apart(prepared.aligned, circuit.regions)
    reference, work.evaluation = parted(prepared, circuit.selection.values(), options, progress)
    work.ranked = _ranked(work, [*circuit.selection.values(), *(pair.query_text for pair in reference)])
    identity = {
        **source,
        "model": dataclasses.asdict(prepared.judge.identity),
        "prompt": prepared.renderer.template.model_dump(mode="json"),
        "data": {"name": prepared.loaded.name, "sha256": prepared.loaded.sha256},
        "token_sha256": prepared.token_sha256,
        "options": dataclasses.asdict(options),
        **({} if work.ranked is None else {"reranking": work.ranked.identity}),
        "relscope_version": __version__,
    }
    with create_or_resume_circuit(out, identity, {}) as folder:
        progress.stage("gathering what stands in for what is ablated")
        ablation = ablation_of(prepared.judge, options, reference, circuit.all_sites, work.memory_bytes)
        pairs = {SELECT: work.selection, EVALUATE: work.evaluation}
        work.measurer = Measurer(prepared.judge, ablation, folder, pairs, progress)
        folder.save(
            query_of={pair.pair_id: pair.query_id for pair in work.evaluation},
            n_reference_queries=len({folded_words(pair.query_text) for pair in reference}),
            n_selection_queries=len({folded_words(text) for text in circuit.selection.values()}),
            n_excluded=len(prepared.exclusions) + len(prepared.loaded.refused),
        )
        yield


def search(work: Work, blank: Circuit, ranked: Sequence[Head]) -> Circuit:
    """Grow and prune on the queries of the selection.

    Raises:
        InputError: there, the full model's LDs are no further apart than the empty one's.
    """
    options, measurer, all_sites = work.options, work.measurer, blank.all_sites
    full, empty = measurer.gap(SELECT, "full", ()), measurer.gap(SELECT, "empty", all_sites)
    if not full > empty:
        raise InputError(
            f"on the queries of the selection the full model's LDs are {full:.3f} apart, and {empty:.3f} without any "
            "head: there is nothing to keep; is the model a judge of these data?"
        )

    def faithfulness(members: Sequence[Head]) -> float:
        removed = without(all_sites, members)
        name = f"kept {len(members)}: {digest(removed)[:12]}"  # one name a set: pruning has many of a size
        return (measurer.gap(SELECT, name, removed) - empty) / (full - empty)

    work.progress.stage(f"growing a circuit of {len(all_sites)} sites to f = {options.threshold:g}")
    sizes = circuit_sizes(len(all_sites), options.shares)
    size = smallest_size(ranked, sizes, faithfulness, options.threshold)
    grown = ranked[:size]
    reached = faithfulness(grown)
    n_prompts = 2 * len(work.selection) * (options.prune_sets + 1)  # and the grown circuit itself
    work.progress.stage(f"pruning {size} sites, at most {options.prune_sets} sets and {n_prompts:,} prompts")
    work.progress.start(n_prompts, float(n_prompts))
    pruned = prune(grown, faithfulness, reached - options.tolerance, options.prune_sets)
    if pruned.n_untried:
        work.progress.warn(
            f"pruning measured {pruned.n_tried} sets, as many as it may; {pruned.n_untried} members were not tried "
            "alone: a larger --prune-sets may leave fewer"
        )
    work.folder.save(
        ranking=list(ranked[:size]),
        grown={"n_sites": size, "faithfulness": reached, "n_all_sites": len(all_sites)},
        pruned={"n_sites": len(pruned.kept), "faithfulness": pruned.faithfulness, "n_tried": pruned.n_tried,
                "n_untried": pruned.n_untried},
    )  # fmt: skip
    return dataclasses.replace(blank, members=pruned.kept)


def evaluate_sizes(work: Work, ranked: Sequence[Head]) -> None:
    """The curves: the first so many ranked sites kept alone, and knocked out."""
    sizes = circuit_sizes(len(ranked), work.options.shares)
    sets: dict[str, Sequence[Head]] = {"full": (), "empty": ranked}
    for size in sizes:
        for mode, removed in (("keep", ranked[size:]), ("knock_out", ranked[:size])):
            sets.setdefault(set_name(mode, size, len(ranked)), removed)
    work.evaluate(f"judging {len(sets)} sets of {', '.join(map(str, sizes))} sites", sets)
    work.folder.save(sizes=sizes, n_sites=len(ranked))


def evaluate_members(work: Work, circuit: Circuit, *, thoroughly: bool) -> None:
    """The circuit kept alone and knocked out, beside random sets; `thoroughly`, its minimality and completeness too."""
    options, members, all_sites = work.options, circuit.members, circuit.all_sites
    left_out = _drawn(members, options.minimality, options.seed) if thoroughly else ()
    n_draws = options.draws if thoroughly else 0
    whole = {"full": (), "empty": all_sites, "circuit": circuit.others, "circuit knocked out": members}
    others: dict[str, Sequence[Head]] = {}
    for number in range(options.randoms):
        others[f"random {number + 1}"] = without(all_sites, _random(circuit, options.seed, number))
    for site in left_out:
        others[f"without {site.name}"] = (*circuit.others, site)
    for number in range(n_draws):
        part = _part(members, options.seed, number)
        others[f"circuit without part {number + 1}"] = (*circuit.others, *part)
        others[f"model without part {number + 1}"] = part
    work.evaluate(f"judging the circuit of {len(members)} sites, {len(whole) + len(others)} sets", whole, others)
    work.folder.save(
        members=members, n_all_sites=len(all_sites), left_out=left_out, n_draws=n_draws, n_randoms=options.randoms
    )


def finish(work: Work, circuit: Circuit) -> Circuit:
    """Write the circuit with its faithfulness, and mark the folder as complete."""
    metrics, prepared = work.metrics(), work.prepared
    found = {
        metric: {
            "value": metrics.value("circuit", metric).as_dict(),
            "full": metrics.value("full", metric).as_dict(),
            "empty": metrics.value("empty", metric).as_dict(),
            "faithfulness": metrics.faithfulness("circuit", metric).as_dict(),
            "knocked_out": metrics.faithfulness("circuit knocked out", metric).as_dict(),
        }
        for metric in metrics.metrics
    }
    where = {
        "data": prepared.loaded.name, "negatives": prepared.loaded.pairs[0].negative_kind,
        "prompt": f"{prepared.renderer.template.format}-{prepared.renderer.template.order}",
        "n_queries": metrics.n_queries, "n_pairs": metrics.n_pairs,
    }  # fmt: skip
    done = dataclasses.replace(circuit, faithfulness={**where, "metrics": found})
    done.save(work.folder.directory / CIRCUIT_NAME)
    work.folder.save(status="complete")
    return done


def _ranked(work: Work, texts: Sequence[str]) -> RankedCollection | None:
    """What is reranked, without the queries of some texts; None where nothing is."""
    options, template = work.options, work.prepared.renderer.template
    if options.rerank is None:
        return None
    chosen = Reranking(method=UNDER_ABLATION[template.format], depth=options.depth, queries=options.queries)
    work.progress.stage(f"ranking the first stage of {options.rerank}")
    collection = without_queries(load_collection(options.rerank), texts)
    return ranked_collection(collection, template, chosen, options.measure)


def _drawn(members: Sequence[Head], most: int, seed: int) -> tuple[Head, ...]:
    """All members, or so many drawn at random, in their order."""
    if len(members) <= most:
        return tuple(members)
    drawn = np.random.default_rng(seed).choice(len(members), size=most, replace=False)
    return tuple(members[i] for i in sorted(drawn))


def _part(members: Sequence[Head], seed: int, number: int) -> tuple[Head, ...]:
    """Each member with probability one half, at least one; none of none."""
    generator = np.random.default_rng((seed, number))
    while members:
        taken = generator.random(len(members)) < 0.5
        if taken.any():
            return tuple(site for site, take in zip(members, taken, strict=True) if take)
    return ()


def _random(circuit: Circuit, seed: int, number: int) -> tuple[Head, ...]:
    """Sites drawn at random, as many at each region as the circuit has."""
    generator = np.random.default_rng((seed, number, 1))
    drawn: list[Head] = []
    for region, n in sorted(Counter(site.region for site in circuit).items()):
        here = [site for site in circuit.all_sites if site.region == region]
        drawn += [here[i] for i in generator.choice(len(here), size=n, replace=False)]
    return tuple(drawn)
