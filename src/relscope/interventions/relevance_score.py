"""How relevant is a document by the attention that some heads pay to it? A relevance score without a verdict.

    relevance_score(q, d) = mean over heads of a(q, d) - a(n, d)          n: a content-free query
    a = total             sum over document tokens of mean over query tokens of A[i, k]        A: the pattern
    a = largest           mean over query tokens of max over document tokens of A[i, k]

What a head pays to a document whatever is asked (for its length, its place, its first words) is in both terms and falls
out. Within one query's documents it is as good a score as any to sort by; between queries it means nothing.

Source: Chen, Jimenez Gutierrez and Su, Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers (arXiv
2410.02642): `total` over all heads, all documents in one prompt, calibrated by the query "N/A". Here each document has
a prompt of its own, and the heads are chosen. `largest` is the interaction score s(q, d) of Liu, Mao and Wen (arXiv
2504.07898), divided by the number of query tokens.

Cost: of a forward pass a document, the layers up to the last with a chosen head (`relscope.models.attention_reading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jaxtyping import Float
from torch import Tensor

from relscope.choices import READINGS
from relscope.errors import InputError, did_you_mean
from relscope.models import JudgeModel, query_attention
from relscope.prompts import Prompt

CONTENT_FREE_QUERY: Final = "N/A"


def relevance_scores(
    judge: JudgeModel,
    prompts: Sequence[tuple[Prompt, ...]],
    heads: Sequence[tuple[int, int]],
    reading: str = "total",
) -> Float[Tensor, " document"]:
    """The relevance score of each document, float32 on the CPU, between -1 and 1; where not calibrated, from 0 to 1.

    Args:
        judge: the model.
        prompts: of each document two, that of the query and that of a content-free query, such as CONTENT_FREE_QUERY;
            or that of the query alone: its attention is then not calibrated.
        heads: layer and head of each, each once.
        reading: what is made of a head's pattern; one of READINGS.

    Raises:
        InputError: there is no such reading, a head is given twice, some document has neither one prompt nor two, or
            as `query_attention`.
    """
    if reading not in READINGS:
        raise InputError(f"reading {reading!r} does not exist: {did_you_mean(reading, READINGS)}")
    if len(set(heads)) != len(heads):
        twice = next(head for n, head in enumerate(heads) if head in heads[:n])
        raise InputError(f"heads: layer {twice[0]}, head {twice[1]} is given twice")
    numbers = sorted({len(of_document) for of_document in prompts})
    if numbers not in ([], [1], [2]):
        raise InputError(f"prompts: each document has one, or each has two; here they have {numbers}")
    found: Tensor = getattr(query_attention(judge, prompts, heads), reading).mean(-1)
    return found[:, 0] - found[:, 1] if numbers == [2] else found.sum(-1)
