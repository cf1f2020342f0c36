"""How well does a judge judge, prompt by prompt and on hard and on random negatives?

Pointwise, both kinds of negatives are asked about, and ROC AUC is also given for both pooled. Pairwise, the right
document is preferred where the verdict on A is right, over both orders; a pair is consistent where swapping the
documents swaps the verdict. All with intervals over queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from relscope.analysis import JudgeQuality, judge_quality
from relscope.data import NegativeSampling, PairSet, is_pair_file, load_collection, load_pairs
from relscope.data.negatives import NegativeKind
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.prompts import PromptRenderer, PromptTemplate
from relscope.study.config import StudyConfig, prompt_fields
from relscope.study.judging import verdict_frame
from relscope.study.prepare import Progress, Silent, align_for, load_model

NEGATIVE_KINDS: tuple[NegativeKind, ...] = ("hard", "random")


@dataclass(frozen=True)
class Measured:
    """The quality of the verdicts on one data set with one prompt.

    Attributes:
        data: name of the source.
        prompt: its name, or its file.
        negatives: "hard", "random", or "both" (their prompts pooled).
        n_excluded: queries and pairs that could not be asked about, by reason.
        quality: with intervals over queries.
    """

    data: str
    prompt: str
    negatives: str
    n_excluded: dict[str, int]
    quality: JudgeQuality

    def as_dict(self) -> dict[str, Any]:
        """All fields for JSON."""
        return {
            "data": self.data, "prompt": self.prompt, "negatives": self.negatives, "n_excluded": self.n_excluded,
            **self.quality.as_dict(),
        }  # fmt: skip


def evaluate_model(
    config: StudyConfig, sources: Sequence[str], prompts: Sequence[str], progress: Progress
) -> list[Measured]:
    """Load the configured model and judge every pair of the sources with every prompt.

    Of the configuration, the model, `pairs` (of each source) and the seed count; `prompts` are names or YAML files.

    Raises:
        InputError: model, sources or prompts cannot be used.
    """
    _templates(prompts)  # what is wrong with them is said before the model is loaded
    progress.stage(f"loading {config.model}")
    judge = load_model(config)
    progress.stage(f"judging {', '.join(sources)}")
    return evaluate(judge, sources, prompts, limit=config.pairs, seed=config.seed, progress=progress)


def evaluate(
    judge: JudgeModel,
    sources: Sequence[str],
    prompts: Sequence[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Measured]:
    """Judge every pair of the sources with every prompt.

    Args:
        judge: the model.
        sources: what `load_pairs` reads.
        prompts: to ask with: names or YAML files.
        limit: at most so many queries of each source.
        seed: decides which negatives are drawn.
        progress: is told how far it is, of what cannot be asked about, and of a kind of negatives that a source lacks;
            then only the other is judged.

    Raises:
        InputError: a source cannot be read, none of its pairs can be asked about, or two sources or prompts have one
            name.
    """
    progress = Silent() if progress is None else progress
    templates = _templates(prompts)
    all_loaded = [_both_kinds(source, limit, seed, progress) for source in sources]
    names = [next(iter(loaded.values())).name for loaded in all_loaded]
    if twice := next((name for n, name in enumerate(names) if name in names[:n]), None):
        raise InputError(f"two sources are named {twice!r}; give their files different names")
    n_prompts = 2 * len(templates) * sum(len(pairs.pairs) for loaded in all_loaded for pairs in loaded.values())
    progress.start(n_prompts, float(n_prompts))
    results: list[Measured] = []
    for name, loaded in zip(names, all_loaded, strict=True):
        for prompt, template in templates.items():
            renderer = PromptRenderer(judge.tokenizer, template)
            frames, excluded = [], []
            for kind, pairs in loaded.items():
                aligned, exclusions = align_for(judge, renderer, pairs)
                if not aligned:
                    raise InputError(f"{name}: no pair can be asked about with {prompt}: {exclusions[0].detail}")
                frame = verdict_frame(judge, aligned, lambda n: progress.advance(2 * n, 2.0 * n))
                progress.advance(2 * len(exclusions), 2.0 * len(exclusions))
                frames.append(frame.assign(pair_id=f"{kind}:" + frame["pair_id"]))
                excluded.append(Counter([r.reason for r in pairs.refused] + [e.reason for e in exclusions]))
                if exclusions:
                    progress.warn(f"{name}, {prompt}: {len(exclusions)} pairs cannot be asked about and are left out")
            kinds = [*loaded, "both"] if len(loaded) > 1 else [*loaded]
            # Without a second kind, `zip` leaves the pooled frame out.
            of_kinds = zip(kinds, (*frames, pd.concat(frames)), (*excluded, sum(excluded, Counter())), strict=False)
            for kind, frame, reasons in of_kinds:
                quality = judge_quality(frame, dict(zip(frame["pair_id"], frame["query_id"], strict=True)))
                results.append(Measured(name, prompt, kind, dict(reasons), quality))
    return results


def query_texts(source: str) -> list[str]:
    """The queries of a source that can be asked about.

    Raises:
        InputError: the source cannot be read.
    """
    if not is_pair_file(source):
        return list(load_collection(source).queries.values())
    return [pair.query_text for pairs in _both_kinds(source, None, 0, Silent()).values() for pair in pairs.pairs]


def _templates(prompts: Sequence[str]) -> dict[str, PromptTemplate]:
    if twice := next((prompt for n, prompt in enumerate(prompts) if prompt in prompts[:n]), None):
        raise InputError(f"prompt {twice!r} is given twice")
    return {prompt: PromptTemplate(**prompt_fields(prompt)) for prompt in prompts}


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
