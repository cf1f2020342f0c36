"""Which heads match the query with the document in what they attend to? The attention interaction score.

    s(q, d) = sum over query tokens i of max over document tokens k of A[i, k]       A: the pattern, post-softmax
    S       = mean over queries of (s(q, d_positive) - s(q, d_negative))

A readout: a head may attend and write nothing. Source: experiment 7 of Liu, Mao and Wen 2025 (arXiv 2504.07898). The
query must stand behind the document: attention is causal, and a query before the document cannot see it.

Cost: no forward pass beyond the two recorded runs of a pair; scores of query rows x all positions, some heads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.errors import InputError
from relscope.models import RecordedRun, source_edges
from relscope.prompts import AlignedPair, Prompt

_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class InteractionScores:
    """s(q, d) of every head, of a pair's query with its positive and with its negative document."""

    pair_id: str
    query_id: str
    positive: Float[Tensor, "layer head"]
    negative: Float[Tensor, "layer head"]

    @property
    def difference(self) -> Float[Tensor, "layer head"]:
        """`s(q, d_positive) - s(q, d_negative)`."""
        return self.positive - self.negative


def interaction_scores(run: RecordedRun, prompt: Prompt, document: str = "document") -> Float[Tensor, "layer head"]:
    """s(q, d) of every head of a run, float32 on the CPU; between 0 and the number of query tokens.

    Args:
        run: of the prompt, recorded for restarts: that keeps what patterns are computed from.
        prompt: has the regions `query` and `document`.
        document: the region of the document; of a pairwise prompt, `document_a` or `document_b`.

    Raises:
        InputError: the prompt has no such region, its query does not stand behind the document, or the run was not
            recorded for restarts.
    """
    if not run.q:
        raise InputError("the run was recorded without its attention: record it with for_restart=True")
    dest, src = prompt.region("query"), prompt.region(document)
    if not dest or not src or dest[0] <= src[-1]:
        raise InputError(
            f"the interaction score needs the query behind the region {document!r}: attention is causal, and a query "
            "before the document cannot see it; use an order with d before q ('dqi' or 'idq')"
        )
    n_heads = run.z[0].shape[1]
    at_once = max(1, _SCORES_AT_ONCE // (len(dest) * run.n_positions))
    chunks = torch.arange(n_heads).split(at_once)
    return torch.stack(
        [
            torch.cat([_of_heads(run, layer, heads.tolist(), dest, src) for heads in chunks])
            for layer in range(len(run.q))
        ]
    )


def pair_interaction(pair: AlignedPair, clean: RecordedRun, corrupted: RecordedRun) -> InteractionScores:
    """The scores of a pair's positive and negative document, from the recorded runs of its two prompts.

    Pointwise, the clean prompt has the positive and the corrupted prompt the negative document. Pairwise, both prompts
    have both, in either order: each score is then the mean over the document's two places.

    Raises:
        InputError: as `interaction_scores`.
    """
    first, last = pair.clean.documents[0], pair.clean.documents[-1]
    positive = interaction_scores(clean, pair.clean, first)
    negative = interaction_scores(corrupted, pair.corrupted, first)
    if first != last:
        positive = (positive + interaction_scores(corrupted, pair.corrupted, last)) / 2
        negative = (negative + interaction_scores(clean, pair.clean, last)) / 2
    return InteractionScores(pair.pair_id, pair.query_id, positive, negative)


def mean_interaction(scores: Sequence[InteractionScores]) -> Float[Tensor, "layer head"]:
    """S of every head: the mean over queries; of a query with several pairs, the mean of its differences counts.

    Raises:
        InputError: there is no pair.
    """
    if not scores:
        raise InputError("the interaction score S is a mean over queries: give the scores of at least one pair")
    of_query: dict[str, list[Tensor]] = {}
    for of_pair in scores:
        of_query.setdefault(of_pair.query_id, []).append(of_pair.difference)
    return torch.stack([torch.stack(differences).mean(0) for differences in of_query.values()]).mean(0)


def _of_heads(
    run: RecordedRun, layer: int, heads: Sequence[int], dest: Sequence[int], src: Sequence[int]
) -> Float[Tensor, "head"]:
    pattern = source_edges(run, "pattern", layer, heads, dest)
    return pattern[..., list(src)].amax(-1).sum(-1).cpu()
