"""Do these heads really carry relevance? From a run's effects to the verdicts and rankings without them.

    run -> head sets and their controls -> split of the queries -> reference values of the selection's prompts
        -> verdicts on the evaluation's pairs, and its documents ranked again, condition by condition

Rows go to disk as they are measured (`relscope.results.ablation`); measures are computed from them
(`relscope.analysis.ablation`).

Cost: for each condition, draw and prompt one forward pass for each prompt of the evaluation's pairs (two a pair), and
what reranking asks for; once for each prompt's template, a pass for each prompt of the selection.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relscope.analysis.head_sets import SET_REGIONS
from relscope.data import (
    Collection,
    NegativeSampling,
    load_pairs,
)
from relscope.errors import InputError
from relscope.interventions import Reference, Site, ablated, reference_of
from relscope.models import JudgeModel, lint_verdict
from relscope.prompts import PromptTemplate
from relscope.results import (
    AblationFolder,
    ConditionRecord,
    create_or_resume_ablation,
    require_same_ablation,
)
from relscope.study.ablation_evaluation import (
    Asked,
    Evaluation,
    ToRank,
    asked_with,
    header_of,
    identity_of_options,
    to_rank,
)
from relscope.study.ablation_options import AblationOptions
from relscope.study.ablation_plan import (
    Selection,
    conditions_of,
    evaluation_pairs,
    read_selection,
    set_regions,
)
from relscope.study.config import StudyConfig, prompt_fields
from relscope.study.prepare import Progress, Silent, Within, load_data, load_model
from relscope.study.ranking_methods import UNDER_ABLATION, most_prompts
from relscope.study.rerank_options import Reranking
from relscope.study.reranking import rerank

_TOP: Final = 10
_N_LINTED: Final = 4


@dataclass(frozen=True)
class Machine:
    """Where and in which number format it is computed; None: as the run was (dtype), or the default.

    `trust_remote_code` runs code that comes with the model; what the run was allowed does not count.
    """

    dtype: str | None = None
    device: str | None = None
    memory: str | int | None = None
    trust_remote_code: bool = False


class _Bench:
    """A model with its evaluation: judges and ranks under any condition."""

    def __init__(self, judge: JudgeModel, config: StudyConfig, options: AblationOptions, asked: list[Asked]) -> None:
        self.judge, self.config, self.options = judge, config, options
        self.asked = {one.name: one for one in asked}
        self._references: dict[str, Reference] = {}

    @contextlib.contextmanager
    def without(self, condition: ConditionRecord, asked: Asked) -> Iterator[None]:
        """Within the context, the model is that of a condition."""
        if condition.kind == "full":
            yield
            return
        options = self.options
        reference = None if options.kind == "zero" else self._reference(asked)
        with ablated(
            self.judge, condition.members, kind=options.kind, reference=reference, keep_only=options.keep_only
        ):
            yield

    def judged(self, condition: ConditionRecord, asked: Asked) -> dict[str, Any]:
        """The rows of one step: LD of both prompts of every pair."""
        lds: dict[str, tuple[float, float]] = {}
        with self.without(condition, asked):
            for answer_ids in dict.fromkeys(pair.answer_ids for pair in asked.pairs):
                pairs = [pair for pair in asked.pairs if pair.answer_ids == answer_ids]
                prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
                values = self.judge.relevance(prompts, answer_ids).tolist()
                for pair, clean, corrupted in zip(pairs, values[::2], values[1::2], strict=True):
                    lds[pair.pair_id] = clean, corrupted
        return {
            **_step_columns(condition, asked.name, len(lds)),
            "pair_id": list(lds),
            "ld_clean": [clean for clean, _ in lds.values()],
            "ld_corrupted": [corrupted for _, corrupted in lds.values()],
        }

    def ranked(
        self, condition: ConditionRecord, asked: Asked, collection: Collection, kept: Path, progress: Progress
    ) -> dict[str, Any]:
        """The rows of one step: every query's documents, best first."""
        template = asked.renderer.template
        with self.without(condition, asked):
            done = rerank(
                self.judge,
                collection,
                template,
                Reranking(method=UNDER_ABLATION[template.format], depth=self.options.depth, top=_TOP),
                folder=kept,
                progress=progress,
            )
        rows = [
            (query_id, doc_id, place, value)
            for query_id, ranking in done.rankings.items()
            for place, (doc_id, value) in enumerate(ranking, start=1)
        ]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(("query_id", "doc_id", "place", "value"))}
        return {**_step_columns(condition, asked.name, len(rows)), **columns}

    def _reference(self, asked: Asked) -> Reference:
        """Values of the selection's prompts with this template, gathered when they are first needed."""
        if asked.name not in self._references:
            self._references[asked.name] = reference_of(
                self.judge,
                [prompt for pair in asked.selection for prompt in (pair.clean, pair.corrupted)],
                self.options.kind,
                positions=self.options.positions,
                sites=[Site("z", layer, "all", 0) for layer in range(self.judge.shape.n_layers)],
                seed=self.options.seed,
                memory_bytes=self.config.memory,
            )
        return self._references[asked.name]


def ablate_run(
    run_dir: str | Path,
    options: AblationOptions,
    out: str | Path,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluate the ablation of a run's head sets, or go on with it, and return its folder.

    Args:
        run_dir: a finished run with the experiment `heads`; its model and, unless others are given, data and prompt.
        options: what is ablated, and on what it is evaluated.
        out: the folder; made if absent, continued if it holds an ablation of the same identity.
        machine: where it is computed.
        progress: is told of stages, prompts and warnings.

    Raises:
        InputError: the run, the model, the data or an option cannot be used; no query is left to evaluate on; the
            folder holds other things or other settings.
    """
    told = Within(Silent() if progress is None else progress)
    progress = Silent() if progress is None else progress
    selection = read_selection(run_dir)
    regions = set_regions(selection, options)
    if missing := [region for region in SET_REGIONS if options.regions is None and region not in regions]:
        told.warn(f"the run has no heads at {', '.join(missing)}: the sets are of {', '.join(regions)}")
    options = dataclasses.replace(options, regions=regions)
    conditions = conditions_of(selection, options)
    config = _config(selection, machine or Machine())
    templates = _templates(selection, options)
    require_same_ablation(Path(out), identity_of_options(selection, options, templates))
    data = options.data or config.data
    negatives = options.negatives or config.negatives.kind
    of_run = load_data(config, progress)
    if of_run.sha256 != selection.run.manifest.identity["data"]["sha256"]:
        raise InputError(f"{config.data}: is not the data any more by which {run_dir} chose heads; run again")
    progress.stage(f"reading {data}")
    sampling = NegativeSampling(kind=negatives, seed=config.seed, depth=config.negatives.depth)  # type: ignore[arg-type]
    most = None if options.pairs is None else options.pairs + len(selection.seen.queries)
    loaded = load_pairs(data, negatives=sampling, limit=most)
    pairs, n_shared = evaluation_pairs(selection, loaded, options.pairs)
    loaded = dataclasses.replace(loaded, pairs=tuple(pairs))
    progress.stage("ranking the first stage")
    ranked = to_rank(selection, options, data)
    progress.stage(f"loading {config.model}")
    judge = load_model(config)
    _require_same_model(judge, selection)
    judge.contract.require_patching(judge.identity.name)
    asked = [asked_with(judge, name, template, of_run, loaded) for name, template in templates.items()]
    evaluation = Evaluation(loaded, pairs, n_shared, asked, ranked)
    header = header_of(selection, options, conditions, judge, evaluation)
    _lint(judge, asked, told)
    with create_or_resume_ablation(Path(out), header) as folder:
        _measure(folder, _Bench(judge, config, options, asked), ranked, told)
        folder.mark("complete", tuple(dict.fromkeys([*folder.header.notes, *told.notes])))
    return Path(out)


def _measure(folder: AblationFolder, bench: _Bench, ranked: ToRank | None, told: Within) -> None:
    """Judge and rank under every condition what is not stored yet."""
    steps = [
        (number, condition, asked)
        for number, (condition, asked) in enumerate(
            (condition, asked) for condition in folder.header.conditions for asked in bench.asked.values()
        )
    ]
    to_judge = [step for step in steps if not folder.has("judging", step[0])]
    to_rank = [
        step
        for step in (steps if ranked else ())
        if not folder.has("ranking", step[0]) and step[1].draw <= bench.options.rerank_draws
    ]
    if to_judge or to_rank:
        folder.mark("running", folder.header.notes)
    n_prompts = sum(2 * len(asked.pairs) for _, _, asked in to_judge)
    if ranked is not None:
        n_prompts += sum(_most_ranked(ranked, asked) for _, _, asked in to_rank)
        _write_qrels(folder, ranked.collection)
    progress = told.to
    progress.stage(f"{len(folder.header.conditions)} conditions and draws, at most {n_prompts:,} prompts")
    progress.start(n_prompts, float(n_prompts))
    for number, condition, asked in to_judge:
        folder.write("judging", number, bench.judged(condition, asked))
        progress.advance(2 * len(asked.pairs), 2.0 * len(asked.pairs))
    for number, condition, asked in to_rank:
        assert ranked is not None
        kept = folder.verdicts(number)
        folder.write("ranking", number, bench.ranked(condition, asked, ranked.collection, kept, told))


def _config(selection: Selection, machine: Machine) -> StudyConfig:
    given = {name: value for name, value in dataclasses.asdict(machine).items() if value is not None}
    return StudyConfig(**{**selection.config.model_dump(), **given})


def _templates(selection: Selection, options: AblationOptions) -> dict[str, PromptTemplate]:
    if options.prompts is None:
        return {selection.prompt: selection.config.prompt}
    return {name: PromptTemplate(**prompt_fields(name)) for name in options.prompts}


def _require_same_model(judge: JudgeModel, selection: Selection) -> None:
    """Refuse other weights than those whose heads were measured; another number format has another fingerprint."""
    of_run = selection.run.manifest.identity["model"]
    same_numbers = of_run["dtype"] == judge.identity.dtype
    if same_numbers and of_run["fingerprint"] != judge.identity.fingerprint:
        raise InputError(
            f"{selection.config.model}: has other weights than when {selection.run.directory} measured its heads; "
            "run again"
        )


def _most_ranked(ranked: ToRank, asked: Asked) -> int:
    method = UNDER_ABLATION[asked.renderer.template.format]
    return sum(most_prompts(method, len(documents), _TOP) for documents in ranked.record.rankings.values())


def _write_qrels(folder: AblationFolder, collection: Collection) -> None:
    rows = [(q, d, grade) for q, grades in collection.qrels.items() for d, grade in grades.items()]
    folder.write_qrels({name: [row[i] for row in rows] for i, name in enumerate(("query_id", "doc_id", "grade"))})


def _lint(judge: JudgeModel, asked: Sequence[Asked], told: Within) -> None:
    """Warn where the full model hardly says yes or no."""
    for one in asked:
        first = one.pairs[:_N_LINTED]
        answers = one.renderer.template.answers
        for lint in lint_verdict(judge, [pair.clean for pair in first], answers, first[0].answer_ids):
            if not lint.ok:
                told.warn(f"{one.name}: {lint.message}")


def _step_columns(condition: ConditionRecord, prompt: str, n: int) -> Mapping[str, list[Any]]:
    return {"condition": [condition.name] * n, "draw": [condition.draw] * n, "prompt": [prompt] * n}
