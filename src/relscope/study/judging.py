"""How well does the model judge relevance, before anything is patched?

LD = logit(yes) - logit(no) at the last token, of each pair's clean and corrupted prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import JudgeQuality, PrecisionError, judge_quality, precision_error
from relscope.models import JudgeModel, VerdictLint, lint_verdict
from relscope.prompts import AlignedPair
from relscope.results import Run
from relscope.study.config import StudyConfig
from relscope.study.prepare import Prepared, Progress, Silent, prepare

_N_LINTED = 4
_PAIRS_PER_BATCH = 16


@dataclass(frozen=True)
class Judgement:
    """Verdicts of pairs, and the quality of all verdicts with intervals over queries.

    `verdicts` has one row a pair that passes the filter: pair_id, query_id, query_text, ld_clean, ld_corrupted.
    `quality` counts every pair that could be asked about, as in a run: a judge is not measured on what it gets right.
    `dtype` is the number format that it judged in.
    """

    verdicts: pd.DataFrame
    quality: JudgeQuality
    n_excluded: int
    lints: list[VerdictLint]
    dtype: str


def margin(logit_diff: float | np.ndarray[Any, Any]) -> Any:
    """P(yes) - P(no), with the softmax over the two answer tokens: tanh(LD / 2)."""
    return np.tanh(np.asarray(logit_diff) / 2)


def verdicts(judge: JudgeModel, pairs: list[AlignedPair]) -> list[tuple[float, float]]:
    """LD of the clean and of the corrupted prompt of each pair. Cost: two forward passes a pair."""
    ids = [run.ids for pair in pairs for run in (pair.clean, pair.corrupted)]
    answers = [pair.answer_ids for pair in pairs for _ in range(2)]
    values = judge.logit_diff(ids, answers).tolist()
    return list(zip(values[::2], values[1::2], strict=True))


def verdict_frame(
    judge: JudgeModel, pairs: Sequence[AlignedPair], on_batch: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Verdicts of pairs, a row each: pair_id, query_id, query_text, ld_clean, ld_corrupted.

    `on_batch` is called with the number of pairs that were judged since it was called last.
    """
    values: list[tuple[float, float]] = []
    for first in range(0, len(pairs), _PAIRS_PER_BATCH):
        batch = list(pairs[first : first + _PAIRS_PER_BATCH])
        values += verdicts(judge, batch)
        if on_batch is not None:
            on_batch(len(batch))
    return pd.DataFrame(
        {
            "pair_id": [pair.pair_id for pair in pairs],
            "query_id": [pair.query_id for pair in pairs],
            "query_text": [pair.query_text for pair in pairs],
            "ld_clean": [clean for clean, _ in values],
            "ld_corrupted": [corrupted for _, corrupted in values],
        }
    )


def judged_correctly(verdicts: pd.DataFrame) -> pd.Series[bool]:
    """Which pairs have both verdicts right: yes to the clean prompt (LD > 0), no to the corrupted one."""
    return (verdicts["ld_clean"] > 0) & (verdicts["ld_corrupted"] <= 0)


def lints_of(prepared: Prepared, config: StudyConfig) -> list[VerdictLint]:
    """Lints of the verdict, on the first few prompts."""
    first = prepared.aligned[:_N_LINTED]
    return lint_verdict(prepared.judge, [pair.clean for pair in first], config.prompt.answers, first[0].answer_ids)


def judge_pairs(config: StudyConfig, progress: Progress | None = None) -> Judgement:
    """Judge every pair with the configured model; writes nothing.

    With the filter `correct`, the verdicts are those of the pairs that a run would patch; the quality is of all pairs.

    Raises:
        InputError: data or model cannot be used.
    """
    progress = Silent() if progress is None else progress
    prepared = prepare(config, progress)
    progress.stage(f"judging {len(prepared.aligned)} pairs")
    progress.start(len(prepared.aligned), float(len(prepared.aligned)))
    frame = verdict_frame(prepared.judge, prepared.aligned, lambda n: progress.advance(n, float(n)))
    n_excluded = len(prepared.exclusions) + len(prepared.loaded.refused)
    quality = judge_quality(frame, dict(zip(frame["pair_id"], frame["query_id"], strict=True)))
    if config.filter == "correct":
        frame = frame[judged_correctly(frame)].reset_index(drop=True)
    return Judgement(frame, quality, n_excluded, lints_of(prepared, config), prepared.judge.identity.dtype)


def error_of(run: Run) -> PrecisionError | None:
    """How far a run's effects are from exact ones, where a sample was measured again."""
    return precision_error(run.rows())


def quality_of(run: Run) -> JudgeQuality:
    """The quality of a run's stored verdicts."""
    return judge_quality(run.rows("judge"), run.manifest.query_of)
