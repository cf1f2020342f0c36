"""A few relevance pairs, written for the tests, and their aligned prompts."""

from __future__ import annotations

from typing import Any

from relscope.data import RelevancePair
from relscope.prompts import AlignedPair, PromptRenderer, PromptTemplate, align

PAIRS = (
    RelevancePair(
        pair_id="cat:0",
        query_id="cat",
        query_text="where did the cat sit",
        positive_text="The cat sat on the mat near the river all day.",
        negative_text="The dog ran to the hill, and it sat there until noon.",
        negative_kind="hard",
    ),
    # Ragged: the negative is three times as long as the positive, and both begin with the same words.
    RelevancePair(
        pair_id="bread:0",
        query_id="bread",
        query_text="why does bread rise",
        positive_text="Bread rises because yeast makes gas.",
        negative_text=(
            "Bread rises in price when the harvest is poor; the river was low, the mill stood still, and the flour "
            "in the shops was gone before noon."
        ),
        negative_kind="hard",
    ),
)


def aligned(tokenizer: Any, number: int = 0, **template: Any) -> AlignedPair:
    """One of the pairs as prompts of a template, for a tokenizer."""
    pair = align(PromptRenderer(tokenizer, PromptTemplate(**template)), PAIRS[number])
    assert isinstance(pair, AlignedPair), pair
    return pair
