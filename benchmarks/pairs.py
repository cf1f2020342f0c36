"""Pairs for the benchmarks: of about 150 tokens from the bundled collection, and of random tokens in any number.

Random tokens serve where only time counts, which does not depend on the words, or where no tokenizer is at hand.
"""

from __future__ import annotations

import dataclasses

import torch

from relscope.data import load_pairs
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair, Prompt, PromptRenderer, PromptTemplate, Span, align_all

N_TOKENS = 150

# A chat template's tokens before the document, between the parts and after the instruction, and the parts' own.
_BEFORE, _BETWEEN, _AFTER = 28, 2, 6
_QUERY, _INSTRUCTION = 14, 16
_N_OUTSIDE = _BEFORE + 2 * _BETWEEN + _AFTER + _QUERY + _INSTRUCTION


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


def random_pair(n_tokens: int, d_vocab: int, seed: int) -> AlignedPair:
    """A pair of random tokens: document, query and instruction as in a chat prompt; the documents alone differ.

    Of `n_tokens`, 28 stand before the document and 40 after it: 14 of query and 16 of instruction, among others.
    """
    n_document = n_tokens - _N_OUTSIDE
    if n_document < 1:
        raise ValueError(f"a prompt of {n_tokens} tokens has no room for a document: {_N_OUTSIDE} are outside it")
    query = _BEFORE + n_document + _BETWEEN
    instruction = query + _QUERY + _BETWEEN
    parts = {
        "document": Span(_BEFORE, _BEFORE + n_document),
        "query": Span(query, query + _QUERY),
        "instruction": Span(instruction, instruction + _INSTRUCTION),
    }
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, d_vocab, (n_tokens,), generator=generator).tolist()
    # Another token at every position of the document.
    shifts = torch.randint(1, d_vocab, (n_document,), generator=generator).tolist()
    corrupted = list(clean)
    for position, shift in zip(parts["document"], shifts, strict=True):
        corrupted[position] = (clean[position] + shift) % d_vocab
    prompts = [Prompt(tuple(ids), "", ((0, 0),) * n_tokens, parts, {}) for ids in (clean, corrupted)]
    answer_ids = (d_vocab // 3, d_vocab // 2)
    return AlignedPair(f"random {seed}", f"random {seed}", "", *prompts, answer_ids, n_document, 0)
