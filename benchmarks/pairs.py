"""Pairs of about 150 tokens a prompt, made from the bundled collection, for the benchmarks."""

from __future__ import annotations

import dataclasses

from relscope.data import load_pairs
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair, PromptRenderer, PromptTemplate, align_all

N_TOKENS = 150


def pairs_of_150_tokens(judge: JudgeModel, n_pairs: int) -> list[AlignedPair]:
    """Pairs whose documents are two passages each, cut so that a prompt has 150 tokens or a few fewer."""
    pairs = load_pairs("demo").pairs
    doubled = [
        dataclasses.replace(
            pair,
            positive_text=f"{pair.positive_text} {other.positive_text}",
            negative_text=f"{pair.negative_text} {other.negative_text}",
        )
        for pair, other in zip(pairs, pairs[1:] + pairs[:1], strict=True)
    ][:n_pairs]
    chosen = []
    for pair in doubled:
        at_most = 1024
        for _ in range(2):  # the first alignment tells how long the rest of the prompt is
            (aligned,), _ = align_all(
                PromptRenderer(judge.tokenizer, PromptTemplate(max_document_tokens=at_most)), [pair]
            )
            at_most = N_TOKENS - (len(aligned.clean.ids) - aligned.n_document_tokens)
        chosen.append(aligned)
    return chosen
