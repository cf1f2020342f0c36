"""From a configuration to a TREC run file and its measures: reranking as the command line does it.

Beside `NAME.trec` stands the folder `NAME.trec.verdicts`: every LD that was measured, a line each, and what it depends
on (`relscope.results.verdicts`); the measures of every query, and what judging took (`relscope.results.reranking`);
`qrels.txt`, the judgements as trec_eval reads them. A command that was interrupted goes on from there when it is given
again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pandas as pd

from relscope.analysis import RankingComparison, check_measures, compare_rankings, ranking_values
from relscope.data import Collection, load_collection, qrels_text, run_text
from relscope.errors import InputError
from relscope.models import JudgeModel, lint_verdict
from relscope.prompts import PartError, PromptRenderer, PromptTemplate, render_cut
from relscope.results import (
    FIRST_STAGE_SYSTEM,
    RERANKED,
    HeadsRecord,
    JudgingCost,
    RerankingHeader,
    Spent,
    make_folder,
    read_costs,
    verdicts_folder,
    write_reranking,
    write_whole,
)
from relscope.study.config import StudyConfig
from relscope.study.given import require_run_file
from relscope.study.prepare import Noting, Progress, Silent, load_model
from relscope.study.rerank_options import Reranking
from relscope.study.reranking import Reranked, first_of, rerank_first
from relscope.version import __version__

QRELS_NAME = "qrels.txt"
_N_LINTED = 4


@dataclass(frozen=True)
class RerankRun:
    """What a reranking left behind.

    Attributes:
        reranked: the rankings, and who was left out.
        comparisons: each measure of the rankings beside the first stage's; empty where no query is judged.
        run_file: the TREC run file.
        header: facts of the reranking, as they are kept beside its rows.
        cost: what judging took, in all calls.
    """

    reranked: Reranked
    comparisons: list[RankingComparison]
    run_file: Path
    header: RerankingHeader
    cost: JudgingCost

    @property
    def verdicts(self) -> Path:
        """The folder of the verdicts, the rows and the costs."""
        return verdicts_folder(self.run_file)

    @property
    def n_queries(self) -> int:
        """Queries that have a ranking, an empty one included."""
        return self.header.n_queries

    @property
    def n_documents(self) -> int:
        """Documents that were ranked, of all queries."""
        return self.header.n_documents

    @property
    def n_not_judged(self) -> int:
        """Those of them, of judged queries, that nobody judged; measures count them as not relevant."""
        return self.header.n_not_judged

    @property
    def per_100_documents(self) -> Spent | None:
        """What judging takes for 100 documents; None where it is not known."""
        return self.cost.per_100_documents(self.header.n_prompts, self.header.n_documents)


def rerank_run(
    config: StudyConfig, options: Reranking, measures: Sequence[str], out: str | Path, progress: Progress | None = None
) -> RerankRun:
    """Load the configured model, rerank the configured collection, write a TREC run file, measure it and keep the rows.

    Of the configuration the model, the data and the prompt count; the seed decides the resamples and sign flips.

    Raises:
        InputError: model, data, an option or a measure cannot be used, or the file is not one of a reranking.
    """
    told = Noting(Silent() if progress is None else progress)
    out = Path(out)
    folder = verdicts_folder(out)
    require_run_file(out, folder)
    options.method_of(config.prompt)
    check_measures(measures)
    told.stage(f"reading {config.data}")
    collection = load_collection(config.data)
    told.stage("ranking the first stage")
    first = first_of(collection, options)
    # Before hours of work, rather than after them: can a run file hold these ids?
    run_text({query_id: [(doc_id, 0.0) for doc_id in ranking] for query_id, ranking in first.rankings.items()}, "-")
    told.stage(f"loading {config.model}")
    judge = load_model(config)
    make_folder(out.parent)
    reranked = rerank_first(judge, collection, config.prompt, first, options, folder=folder, progress=told)
    write_whole(out, run_text(reranked.rankings, "relscope").encode())
    told.stage("measuring")
    if options.heads is None:  # else it says nothing
        _lint(judge, collection, config.prompt, reranked, told)
    judged = _judged(reranked, collection)
    _write_qrels(folder, judged, told)
    values = _values(reranked, judged, measures) if judged else pd.DataFrame(columns=_COLUMNS)
    header = _header(config, options, judge, reranked, judged, tuple(told.notes))
    write_reranking(folder, header, {name: values[name] for name in _COLUMNS})
    return RerankRun(
        reranked=reranked,
        comparisons=compare_rankings(values, FIRST_STAGE_SYSTEM, seed=config.seed) if judged else [],
        run_file=out,
        header=header,
        cost=read_costs(folder),
    )


def measure_reranked(
    reranked: Reranked, collection: Collection, measures: Sequence[str] = ("nDCG@10",), *, seed: int = 0
) -> list[RankingComparison]:
    """The measures of the rankings beside those of the first stage, over the judged queries among them.

    Raises:
        InputError: a measure that ir-measures does not know or cannot compute, or no judged query.
    """
    values = _values(reranked, _judged(reranked, collection), measures)
    return compare_rankings(values, FIRST_STAGE_SYSTEM, seed=seed)


def _write_qrels(folder: Path, judged: _Grades, progress: Progress) -> None:
    """The judgements that the measures rest on, for ir_measures and trec_eval."""
    try:
        write_whole(folder / QRELS_NAME, qrels_text(judged).encode())
    except InputError as error:  # of a document that is not ranked: the run file was written
        progress.warn(f"{folder / QRELS_NAME} is not written: {error}")


_COLUMNS = ("system", "query_id", "measure", "value")
_Grades = Mapping[str, Mapping[str, int]]


def _judged(reranked: Reranked, collection: Collection) -> _Grades:
    return {q: collection.qrels[q] for q in reranked.rankings if collection.qrels.get(q)}


def _values(reranked: Reranked, judged: _Grades, measures: Sequence[str]) -> pd.DataFrame:
    """A row a system, judged query and measure."""
    rankings = {FIRST_STAGE_SYSTEM: reranked.first.rankings, RERANKED: reranked.documents}
    return ranking_values(rankings, judged, measures)


def _header(
    config: StudyConfig,
    options: Reranking,
    judge: JudgeModel,
    reranked: Reranked,
    judged: _Grades,
    notes: tuple[str, ...],
) -> RerankingHeader:
    """What a reader of the rows must know."""
    first, n_layers = reranked.first, judge.shape.n_layers
    return RerankingHeader(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        relscope_version=__version__,
        asked=config.model + (f" with {config.adapter}" if config.adapter else ""),
        model=dataclasses.asdict(judge.identity),
        n_layers=n_layers,
        n_heads=judge.shape.n_heads,
        last_layer=max((layer for layer, _ in options.model_heads), default=n_layers - 1),
        data=config.data,
        prompt=f"{config.prompt.format}-{config.prompt.order}",
        method=reranked.method,
        first_stage=first.name,
        depth=options.depth,
        top=options.top,
        queries={query_id: _sha256_of(first.rankings[query_id], grades) for query_id, grades in judged.items()},
        n_queries=len(reranked.rankings),
        n_documents=sum(map(len, reranked.rankings.values())),
        n_prompts=reranked.n_prompts,
        n_not_judged=sum(doc_id not in judged[q] for q in judged for doc_id in first.rankings[q]),
        n_left_out=dict(Counter(one.reason for one in reranked.left_out)),
        heads=_heads(options),
        seed=config.seed,
        notes=notes,
    )


def _heads(options: Reranking) -> HeadsRecord | None:
    if options.heads is None:
        return None
    heads = options.heads
    return HeadsRecord(
        name=heads.name,
        members=heads.members,
        reading=options.reading,
        calibrated=options.calibrated,
        n_chosen_on=len(heads.chosen_on),
        source=None if heads.source is None else dataclasses.asdict(heads.source),
    )


def _sha256_of(ranking: Sequence[str], grades: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps([list(ranking), sorted(grades.items())]).encode()).hexdigest()


def _lint(
    judge: JudgeModel, collection: Collection, template: PromptTemplate, reranked: Reranked, progress: Progress
) -> None:
    """Warn where the model hardly says yes or no to the first prompts."""
    renderer = PromptRenderer(judge.tokenizer, template)
    prompts = []
    for query_id, doc_id in islice(
        ((q, doc_id) for q, ranked in reranked.rankings.items() for doc_id, _ in ranked[:1]), _N_LINTED
    ):
        try:
            prompts.append(render_cut(renderer, collection.queries[query_id], collection.documents[doc_id])[1])
        except (KeyError, PartError):
            continue  # it is among those left out, and told as such
    if prompts:
        for lint in lint_verdict(judge, prompts, template.answers, renderer.answer_ids(prompts[0])):
            if not lint.ok:
                progress.warn(lint.message)
