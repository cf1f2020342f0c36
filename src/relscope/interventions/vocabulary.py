"""Which tokens does a head write, and what would the model answer, stopped after each layer? Readouts in words.

    head:         logits = W_U mean over a region of N(head's part)     (`relscope.interventions.contributions`)
    logit lens:   LD, and logits, of W_U norm(resid_post of layer l)    averaged over a region

A head's logits are what it adds to them directly, at the positions where it writes; not their difference from other
tokens', and before any soft cap. Sources: experiment 4 of Liu, Mao and Wen 2025 (arXiv 2504.07898); nostalgebraist
2020, "interpreting GPT: the logit lens".

Cost: no forward pass; one product with the unembedding for each vector that is read in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relscope.errors import InputError
from relscope.interventions.contributions import head_writes
from relscope.models import JudgeModel, RecordedRun
from relscope.prompts import Prompt

_LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class TokenLogits:
    """The tokens with the highest and with the lowest logits, the most extreme ones first; on the CPU."""

    top_ids: Int[Tensor, "*vector k"]
    top_logits: Float[Tensor, "*vector k"]
    bottom_ids: Int[Tensor, "*vector k"]
    bottom_logits: Float[Tensor, "*vector k"]


@dataclass(frozen=True)
class HeadVocabulary:
    """What every head writes at each region, averaged over runs.

    Attributes:
        regions: of the prompts, in the order of the other fields.
        n_runs: how many runs were averaged.
        tokens: [region, layer, head, k], what the heads add to the logits of single tokens.
        logit_diff: what they add to LD = logit(yes) - logit(no) at those positions, before any soft cap.
    """

    regions: tuple[str, ...]
    n_runs: int
    tokens: TokenLogits
    logit_diff: Float[Tensor, "region layer head"]


@dataclass(frozen=True)
class LogitLens:
    """What the model would answer, were each layer its last: the means over the positions of each region.

    Attributes:
        regions: of the prompt, in the order of the other fields.
        logit_diff: LD as the model makes it, soft cap included.
        tokens: [region, layer, k], by their logits before any soft cap.
    """

    regions: tuple[str, ...]
    logit_diff: Float[Tensor, "region layer"]
    tokens: TokenLogits


@torch.no_grad()
def head_vocabulary(
    judge: JudgeModel,
    runs: Iterable[tuple[RecordedRun, Prompt]],
    regions: Sequence[str],
    answer_ids: tuple[int, int],
    k: int = 10,
) -> HeadVocabulary:
    """The tokens that every head writes at each region, and its share of LD there, averaged over runs.

    Args:
        judge: the model of the runs.
        runs: each with its prompt; they are read one by one, so that they may be recorded as they are asked for.
        regions: of the prompts; each run counts the same, however many positions its region has.
        answer_ids: of the positive and of the negative answer of all the runs.
        k: how many top and how many bottom tokens.

    Raises:
        InputError: there is no run, a prompt has no such region or no position in it, `k` is not between 1 and the
            size of the vocabulary, or the model cannot be read out part by part (see `head_writes`).
    """
    n_runs, total = 0, None
    for run, prompt in runs:
        writes = head_writes(judge, run, region_positions(prompt, regions))
        total = writes if total is None else total + writes
        n_runs += 1
    if total is None:
        raise InputError("what heads write is averaged over runs: give at least one")
    mean = total / n_runs
    weight, _ = judge.answer_direction(answer_ids)
    return HeadVocabulary(tuple(regions), n_runs, top_tokens(judge, mean, k), (mean @ weight).cpu())


@torch.no_grad()
def logit_lens(
    judge: JudgeModel,
    run: RecordedRun,
    prompt: Prompt,
    regions: Sequence[str],
    answer_ids: tuple[int, int],
    k: int = 10,
) -> LogitLens:
    """Read `resid_post` of every layer through the final norm and the unembedding, at each region.

    At the last layer and the last token, that is the run's LD.

    Args:
        judge: the model of the run.
        run: of the prompt; it need not be recorded for restarts.
        prompt: has the regions.
        regions: to read at.
        answer_ids: of the positive and of the negative answer.
        k: how many top and how many bottom tokens.

    Raises:
        InputError: the prompt has no such region or no position in it, `k` is not between 1 and the size of the
            vocabulary, or the model's logits are not made of its final residual.
    """
    judge.contract.require_logits(judge.identity.name)
    logit_diffs, hidden = [], []
    for positions in region_positions(prompt, regions):
        resid = run.resid_post[:, list(positions)]
        logits = judge.answer_logits(resid, answer_ids)
        logit_diffs.append((logits[..., 0] - logits[..., 1]).mean(-1).cpu())
        hidden.append(judge.final_norm(resid).float().mean(1))
    tokens = top_tokens(judge, torch.stack(hidden), k, with_bias=True)
    return LogitLens(tuple(regions), torch.stack(logit_diffs), tokens)


@torch.no_grad()
def top_tokens(
    judge: JudgeModel, vectors: Float[Tensor, "*vector d_model"], k: int, *, with_bias: bool = False
) -> TokenLogits:
    """The top and bottom tokens of vectors in the place of the normed residual, such as `head_writes` gives.

    Args:
        judge: has the unembedding.
        vectors: any number of them; at most some 16 million logits are held at once.
        k: how many top and how many bottom tokens.
        with_bias: whether the vectors are whole residuals, to whose logits the unembedding's bias belongs.

    Raises:
        InputError: `k` is not between 1 and the size of the vocabulary.
    """
    if not 1 <= k <= judge.shape.d_vocab:
        raise InputError(f"{k} top tokens: use a number between 1 and {judge.shape.d_vocab}, the vocabulary's size")
    rows = vectors.flatten(0, -2)
    parts: list[tuple[Tensor, ...]] = []
    for chunk in rows.split(max(1, _LOGITS_AT_ONCE // judge.shape.d_vocab)):
        logits = judge.token_logits(chunk, with_bias=with_bias)
        top, bottom = logits.topk(k), logits.topk(k, largest=False)
        parts.append((top.indices, top.values, bottom.indices, bottom.values))
    shape = (*vectors.shape[:-1], k)
    return TokenLogits(*(torch.cat(of).cpu().view(shape) for of in zip(*parts, strict=True)))


def region_positions(prompt: Prompt, regions: Sequence[str]) -> list[tuple[int, ...]]:
    """The positions of each region.

    Raises:
        InputError: the prompt has no such region, or no position in it.
    """
    positions = [prompt.region(region) for region in regions]
    for region, of_region in zip(regions, positions, strict=True):
        if not of_region:
            raise InputError(f"region {region!r} has no positions in a prompt: nothing can be read there; leave it out")
    return positions
