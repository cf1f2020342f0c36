"""Prompts of relevance questions: templates, rendering to ids and spans, alignment of clean with corrupted.

Start at `PromptTemplate`, `PromptRenderer` and `align_all`. They work on a tokenizer that is
passed in; neither torch nor transformers is imported here.
"""

from relscope.prompts.alignment import AlignedPair, Exclusion, align, align_all
from relscope.prompts.control_tokens import PartError
from relscope.prompts.cutting import render_cut
from relscope.prompts.display import coloured, print_prompt
from relscope.prompts.regions import DEFAULT_REGIONS, REGIONS, Prompt, Span
from relscope.prompts.rendering import AnswerTokenError, PromptRenderer
from relscope.prompts.template import PromptTemplate, read_yaml

__all__ = [
    "DEFAULT_REGIONS",
    "REGIONS",
    "AlignedPair",
    "AnswerTokenError",
    "Exclusion",
    "PartError",
    "Prompt",
    "PromptRenderer",
    "PromptTemplate",
    "Span",
    "align",
    "align_all",
    "coloured",
    "print_prompt",
    "read_yaml",
    "render_cut",
]
