"""What do rerankings say, each beside its first stage, and which of them can stand beside each other?

Two rerankings are of the same queries where they share some, and began there with the same documents and grades. Then
what they are worth and what they cost can be compared: on the queries that all of them rank, and on these alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from relscope.analysis import HeadSource, RankingComparison, compare_rankings
from relscope.errors import InputError
from relscope.report.contents import CONFIDENCE
from relscope.results import (
    FIRST_STAGE_SYSTEM,
    RERANKED,
    VERDICTS_NAME,
    JudgingCost,
    RerankingHeader,
    Run,
    Spent,
    read_costs,
    read_measures,
    read_reranking_header,
    run_file_of,
    verdicts_folder,
)

Kind = Literal["judge", "heads by effect", "heads by attention alone", "heads"]
_MAIN: Final = "nDCG@10"
_OF_RELSCOPE_HEADS = re.compile(r"(?P<by>[a-z_.]+(<-[a-z_.]+)?)-[0-9]+( below [0-9]+)?")


@dataclass(frozen=True)
class RerankingContents:
    """A reranking, read and measured.

    Attributes:
        run_file: the TREC run file.
        folder: of its verdicts, rows and costs.
        values: a row a system, query and measure.
        comparisons: a measure each; empty where no query is judged.
        doubts: why its heads, or its model, may not be what the run speaks of.
    """

    run_file: Path
    folder: Path
    header: RerankingHeader
    values: pd.DataFrame
    comparisons: tuple[RankingComparison, ...]
    cost: JudgingCost
    doubts: tuple[str, ...]

    @property
    def per_100_documents(self) -> Spent | None:
        """What judging takes for 100 documents; None where it is not known."""
        return self.cost.per_100_documents(self.header.n_prompts, self.header.n_documents)

    @property
    def kind(self) -> Kind:
        """What ranks; how heads were chosen is known where relscope chose and named them."""
        heads = self.header.heads
        if heads is None:
            return "judge"
        named = _OF_RELSCOPE_HEADS.fullmatch(heads.name)
        if heads.source is None or named is None:
            return "heads"
        return "heads by attention alone" if named["by"] == "interaction" else "heads by effect"

    @property
    def name(self) -> str:
        """What ranks, for a reader."""
        header = self.header
        if (heads := header.heads) is None:
            method = "" if header.method == "pointwise" else f", {header.method}"
            return f"judge, {header.prompt}{method}"
        how = heads.reading + ("" if heads.calibrated else ", uncalibrated")
        return f"heads {heads.name} ({how})"

    @property
    def measures(self) -> list[str]:
        """In the order in which they were asked for."""
        return [one.measure for one in self.comparisons]

    def differences(self, measure: str) -> pd.DataFrame:
        """Of each query, largest difference first: query_id, first, reranked and difference."""
        of = self.values[self.values["measure"] == measure].pivot(index="query_id", columns="system", values="value")
        found = pd.DataFrame({"first": of[FIRST_STAGE_SYSTEM], "reranked": of[RERANKED]}).reset_index()
        found["difference"] = found["reranked"] - found["first"]
        return found.sort_values(["difference", "query_id"], ascending=[False, True], ignore_index=True)


@dataclass(frozen=True)
class Together:
    """Rerankings of the same queries, as one measure sees them.

    Attributes:
        members: two or more.
        measure: nDCG@10, or the first that all have; None: they have none in common.
        queries: judged ones that all of them rank.
        compared: of each member beside the first stage, over these queries.
    """

    members: tuple[RerankingContents, ...]
    measure: str | None
    queries: tuple[str, ...]
    compared: tuple[RankingComparison, ...]


def is_reranking(path: Path) -> bool:
    """True for a TREC run file of `relscope rerank`, and for the folder of its verdicts."""
    return (reranking_folder(path) / VERDICTS_NAME).is_file()


def reranking_folder(path: Path) -> Path:
    """The folder of verdicts of a TREC run file; a folder is taken to be that itself."""
    return path if path.is_dir() else verdicts_folder(path)


def read_reranking(run: Run, path: Path) -> RerankingContents:
    """Read what `relscope rerank` left beside a run file, and compute what is told of it.

    Args:
        run: in whose report it is shown.
        path: the run file, or the folder of its verdicts.

    Raises:
        InputError: the reranking is not finished, its run file is gone, or it is of another model than the run.
        RunError: a part is damaged.
    """
    folder = reranking_folder(path)
    header, run_file = read_reranking_header(folder), run_file_of(folder)
    if not run_file.is_file():
        raise InputError(f"{folder}: has no {run_file.name} beside it; give its relscope rerank again")
    doubts = _require_same_model(run, folder, header)
    values = read_measures(folder)
    if set(values["query_id"]) != set(header.queries):
        raise InputError(f"{folder}: its rows and its header are of different queries; give its relscope rerank again")
    compared = (
        compare_rankings(values, FIRST_STAGE_SYSTEM, seed=header.seed, confidence=CONFIDENCE) if len(values) else []
    )
    return RerankingContents(run_file, folder, header, values, tuple(compared), read_costs(folder), doubts)


def stand_together(rerankings: Sequence[RerankingContents]) -> list[list[RerankingContents]]:
    """Rerankings in groups, those of a group all of the same queries; both in the order in which they are given."""
    groups: list[list[RerankingContents]] = []
    for one in rerankings:
        fitting = (group for group in groups if all(_same_queries(one, other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups


def together(group: Sequence[RerankingContents]) -> Together:
    """Two or more rerankings of a group of `stand_together`, over the queries that all of them rank."""
    measures = [name for name in group[0].measures if all(name in other.measures for other in group)]
    measure = _MAIN if _MAIN in measures else next(iter(measures), None)
    queries = tuple(query for query in group[0].header.queries if all(query in one.header.queries for one in group))
    if measure is None or not queries:
        return Together(tuple(group), measure, queries, ())
    frames = []
    for number, one in enumerate(group):
        of = one.values[(one.values["measure"] == measure) & one.values["query_id"].isin(queries)]
        frames.append(of[of["system"] == RERANKED].assign(system=str(number)))
        if not number:
            frames.append(of[of["system"] == FIRST_STAGE_SYSTEM])
    compared = compare_rankings(pd.concat(frames), FIRST_STAGE_SYSTEM, seed=group[0].header.seed, confidence=CONFIDENCE)
    return Together(tuple(group), measure, queries, tuple(sorted(compared, key=lambda of: int(of.system))))


def _same_queries(one: RerankingContents, other: RerankingContents) -> bool:
    """True where they share queries, and began with the same documents and grades of each."""
    here, there = one.header.queries, other.header.queries
    shared = here.keys() & there.keys()
    return bool(shared) and all(here[query] == there[query] for query in shared)


def _require_same_model(run: Run, folder: Path, header: RerankingHeader) -> tuple[str, ...]:
    """Refuse a reranking by another model than the run's; say what is to be known of where its heads come from."""
    of_run = HeadSource.of_run(run)
    shape = header.n_layers, header.n_heads
    try:
        other = of_run.check_use("the run", header.model, *shape)
    except InputError as error:
        raise InputError(_refusal(run, folder, of_run, header)) from error
    if other is not None:
        raise InputError(_refusal(run, folder, of_run, header))
    if (heads := header.heads) is None:
        return ()
    if heads.source is None:
        return (f"{heads.name} does not say in which model its heads were chosen, or by which run.",)
    source = HeadSource.from_fields(heads.source)
    doubts = []
    if (doubt := source.check_use(heads.name, header.model, *shape)) is not None:
        doubts.append(f"{doubt}.")
    if source.run_identity != run.manifest.identity_hash:
        doubts.append(f"The heads of {heads.name} were chosen by another run than this one, {source.run}.")
    return tuple(doubts)


def _refusal(run: Run, folder: Path, of_run: HeadSource, header: RerankingHeader) -> str:
    name, adapter = header.model["name"], header.model.get("adapter")
    here = f"{name} with {adapter}" if adapter else str(name)
    return (
        f"{folder}: is a reranking by {here} (weights {str(header.model['fingerprint'])[:12]}), and {run.directory} is "
        f"a run of {of_run.model_text} (weights {of_run.fingerprint[:12]}); give it with a run of its own model"
    )
