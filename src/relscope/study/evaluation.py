"""How well does a judge judge, prompt by prompt and on hard and on random negatives?

Pointwise, both kinds of negatives are asked about, and ROC AUC is also given for both pooled. Pairwise, the right
document is preferred where the verdict on A is right, over both orders; a pair is consistent where swapping the
documents swaps the verdict. All with intervals over queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from relscope.analysis import JudgeQuality, judge_quality
from relscope.data import NegativeSampling, PairSet, load_pairs
from relscope.data.negatives import NegativeKind
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.prompts import PromptRenderer, PromptTemplate, align_all
from relscope.study.config import StudyConfig, prompt_fields
from relscope.study.judging import verdict_frame
from relscope.study.prepare import Progress, Silent, load_model

NEGATIVE_KINDS: tuple[NegativeKind, ...] = ("hard", "random")


@dataclass(frozen=True)
class Measured:
    """The quality of the verdicts on one data set with one prompt.

    `negatives` is "hard", "random", or "both" (their prompts pooled).
    """

    data: str
    prompt: str
    negatives: str
    quality: JudgeQuality


def evaluate_model(
    config: StudyConfig, sources: Sequence[str], prompts: Sequence[str], progress: Progress
) -> list[Measured]:
    """Load the configured model and judge every pair of the sources with every prompt.

    Of the configuration, the model, `pairs` (of each source) and the seed count; `prompts` are names or YAML files.

    Raises:
        InputError: model, sources or prompts cannot be used.
    """
    templates = [PromptTemplate(**prompt_fields(prompt)) for prompt in prompts]
    progress.stage(f"loading {config.model}")
    judge = load_model(config)
    progress.stage(f"judging {', '.join(sources)}")
    return evaluate(judge, sources, templates, limit=config.pairs, seed=config.seed, progress=progress)


def evaluate(
    judge: JudgeModel,
    sources: Sequence[str],
    templates: Sequence[PromptTemplate],
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Measured]:
    """Judge every pair of the sources with every prompt.

    Args:
        judge: the model.
        sources: what `load_pairs` reads.
        templates: prompts to ask with.
        limit: at most so many queries of each source.
        seed: decides which negatives are drawn.
        progress: is told how far it is, and of a kind of negatives that a source lacks; then only the other is judged.

    Raises:
        InputError: a source cannot be read, or none of its pairs can be asked about.
    """
    progress = Silent() if progress is None else progress
    results: list[Measured] = []
    all_loaded = [_both_kinds(source, limit, seed, progress) for source in sources]
    n_prompts = 2 * len(templates) * sum(len(pairs.pairs) for loaded in all_loaded for pairs in loaded.values())
    progress.start(n_prompts, float(n_prompts))
    for source, loaded in zip(sources, all_loaded, strict=True):
        name = next(iter(loaded.values())).name
        for template in templates:
            renderer = PromptRenderer(judge.tokenizer, template)
            frames = []
            for kind, pairs in loaded.items():
                aligned, _ = align_all(renderer, pairs.pairs)
                if not aligned:
                    raise InputError(f"{source}: no pair can be aligned for {template.format} {template.order}")
                frame = verdict_frame(judge, aligned, lambda n: progress.advance(2 * n, 2.0 * n))
                frames.append(frame.assign(pair_id=f"{kind}:" + frame["pair_id"]))
            kinds = [*loaded, "both"] if len(loaded) > 1 else [*loaded]
            for kind, frame in zip(kinds, (*frames, pd.concat(frames)), strict=False):
                quality = judge_quality(frame, dict(zip(frame["pair_id"], frame["query_id"], strict=True)))
                results.append(Measured(name, f"{template.format}-{template.order}", kind, quality))
    return results


def _both_kinds(source: str, limit: int | None, seed: int, progress: Progress) -> dict[str, PairSet]:
    """The pairs of a source with hard and with random negatives; a file of pairs may lack one of them."""
    loaded: dict[str, PairSet] = {}
    failures: list[InputError] = []
    for kind in NEGATIVE_KINDS:
        try:
            loaded[kind] = load_pairs(source, negatives=NegativeSampling(kind=kind, seed=seed), limit=limit)
        except InputError as failure:
            failures.append(failure)
    if not loaded:
        raise failures[0]
    for lacking in failures:
        progress.warn(f"{lacking}; only {', '.join(loaded)} negatives are judged")
    return loaded
