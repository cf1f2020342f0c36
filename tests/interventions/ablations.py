"""What the tests of ablations take out, and the prompts that they judge without it."""

from __future__ import annotations

from typing import Any

from relscope.interventions import Site
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate

ANSWERS = (70, 7)
# LD is of order 1 to 10 and float32; batches add in another order than single prompts do.
TOLERANCE = 1e-4
QUERIES = ("where did the cat sit", "why does bread rise when it is warm")
DOCUMENTS = (
    "The cat sat on the mat near the river all day.",
    "Bread rises because yeast makes gas.",
    "The cat sat by the dog; the dog ran to the hill, and there it sat until noon came and the river was low.",
)
SITES = [
    Site("z", 0, "document", 1), Site("z", 1, "query", 0), Site("z", 1, "document", 0), Site("z", 2, "last", 3),
    Site("z", 2, "instruction", 2), Site("z", 3, "all", 1), Site("z", 3, "query.first", 1), Site("z", 0, "other", 2),
]  # fmt: skip
OF_LAYERS = [Site("attn_out", 1, "document"), Site("mlp_out", 2, "last"), Site("mlp_out", 0, "query")]


def prompts_of(tokenizer: Any, query: int, order: Any = "dqi") -> list[Prompt]:
    renderer = PromptRenderer(tokenizer, PromptTemplate(order=order))
    return [renderer.render(QUERIES[query], [document]) for document in DOCUMENTS]
