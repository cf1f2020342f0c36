"""From a configuration to a TREC run file and its measures: reranking as the command line does it.

Beside `NAME.trec` stands the folder `NAME.trec.verdicts`: every LD that was measured, a line each, and what it depends
on (`relscope.results.verdicts`). A command that was interrupted goes on from there when it is given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from relscope.analysis import RankingComparison, check_measures, compare_rankings, ranking_values
from relscope.data import Collection, load_collection, run_text
from relscope.models import JudgeModel, lint_verdict
from relscope.prompts import PartError, PromptRenderer, PromptTemplate, render_cut
from relscope.results import make_folder, write_whole
from relscope.study.config import StudyConfig
from relscope.study.given import require_run_file
from relscope.study.prepare import Progress, Silent, load_model
from relscope.study.rerank_options import Reranking
from relscope.study.reranking import Reranked, first_of, rerank_first

RERANKED, FIRST_STAGE = "reranked", "first stage"
_N_LINTED = 4


@dataclass(frozen=True)
class RerankRun:
    """What a reranking left behind.

    Attributes:
        reranked: the rankings, and who was left out.
        comparisons: each measure of the rankings beside the first stage's; empty where no query is judged.
        run_file: the TREC run file.
        n_queries: that have a ranking, an empty one included.
        n_documents: that were ranked, of all queries.
        n_not_judged: those of them, of judged queries, that nobody judged; measures count them as not relevant.
    """

    reranked: Reranked
    comparisons: list[RankingComparison]
    run_file: Path
    n_queries: int
    n_documents: int
    n_not_judged: int


def rerank_run(
    config: StudyConfig, options: Reranking, measures: Sequence[str], out: str | Path, progress: Progress | None = None
) -> RerankRun:
    """Load the configured model, rerank the configured collection, write a TREC run file and measure it.

    Of the configuration the model, the data and the prompt count; the seed decides the resamples and sign flips.

    Raises:
        InputError: model, data, an option or a measure cannot be used, or the file is not one of a reranking.
    """
    progress = Silent() if progress is None else progress
    out = Path(out)
    folder = out.with_name(f"{out.name}.verdicts")
    require_run_file(out, folder)
    options.method_of(config.prompt)
    check_measures(measures)
    progress.stage(f"reading {config.data}")
    collection = load_collection(config.data)
    progress.stage("ranking the first stage")
    first = first_of(collection, options)
    # Before hours of work, rather than after them: can a run file hold these ids?
    run_text({query_id: [(doc_id, 0.0) for doc_id in ranking] for query_id, ranking in first.rankings.items()}, "-")
    progress.stage(f"loading {config.model}")
    judge = load_model(config)
    make_folder(out.parent)
    reranked = rerank_first(judge, collection, config.prompt, first, options, folder=folder, progress=progress)
    write_whole(out, run_text(reranked.rankings, "relscope").encode())
    progress.stage("measuring")
    if options.heads is None:  # else it says nothing
        _lint(judge, collection, config.prompt, reranked, progress)
    judged = {q: collection.qrels[q] for q in reranked.rankings if collection.qrels.get(q)}
    return RerankRun(
        reranked=reranked,
        comparisons=measure_reranked(reranked, collection, measures, seed=config.seed) if judged else [],
        run_file=out,
        n_queries=len(reranked.rankings),
        n_documents=sum(map(len, reranked.rankings.values())),
        n_not_judged=sum(doc_id not in judged[q] for q in judged for doc_id in reranked.first.rankings[q]),
    )


def measure_reranked(
    reranked: Reranked, collection: Collection, measures: Sequence[str] = ("nDCG@10",), *, seed: int = 0
) -> list[RankingComparison]:
    """The measures of the rankings beside those of the first stage, over the judged queries among them.

    Raises:
        InputError: a measure that ir-measures does not know or cannot compute, or no judged query.
    """
    judged = {q: collection.qrels[q] for q in reranked.rankings if collection.qrels.get(q)}
    rankings = {FIRST_STAGE: reranked.first.rankings, RERANKED: reranked.documents}
    return compare_rankings(ranking_values(rankings, judged, measures), FIRST_STAGE, seed=seed)


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
