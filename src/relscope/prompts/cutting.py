"""Where can a document be cut, and what is the prompt of documents that are too long?

A document is cut as text, at the end of one of its tokens, and the prompt is tokenised again as a whole: ids are never
spliced. Here each document is cut alone, as in reranking; a clean and a corrupted prompt, which have to get the same
length, are cut by `relscope.prompts.alignment`.

Cost: one tokenisation a document, and one more for each cut that is tried: two or three for one that is too long.
"""

from __future__ import annotations

from relscope.prompts.control_tokens import PartError
from relscope.prompts.regions import Prompt
from relscope.prompts.rendering import PromptRenderer

# A document is first read this far for each token it may have, and four times as far where that was too little.
CHARACTERS_PER_TOKEN = 16


def cut_ends(prompt: Prompt, name: str) -> tuple[int | None, ...]:
    """How many characters the first 1, 2, ... tokens of a document have; None where they end inside a character."""
    span, characters = prompt.parts[name], prompt.characters[name]
    ends: list[int | None] = []
    reached = 0
    for position in span:
        reached = max(reached, prompt.offsets[position][1])
        following = prompt.offsets[position + 1][0] if position + 1 < len(prompt) else reached
        token_text = prompt.text[slice(*prompt.offsets[position])]
        # No cut inside a character that several tokens share, nor behind white space, which would be
        # stripped.
        inside = following < reached or not token_text.strip()
        ends.append(None if inside else min(reached, characters.stop) - characters.start)
    return tuple(ends)


def render_cut(renderer: PromptRenderer, query_text: str, text: str) -> tuple[str, Prompt]:
    """A document cut, from its end, to at most `max_document_tokens`, and its prompt; a pairwise one has it twice.

    Raises:
        PartError: a text cannot be a part of the prompt (see `PromptRenderer.render`), or no cut makes it short enough.
    """
    text = text.strip()
    names, most = renderer.template.documents, renderer.template.max_document_tokens

    def rendered(head: str) -> Prompt:
        return renderer.render(query_text, [head] * len(names))

    def fits(prompt: Prompt) -> bool:
        return all(len(prompt.parts[name]) <= most for name in names)

    n_characters = most * CHARACTERS_PER_TOKEN
    prompt = rendered(text[:n_characters])
    while n_characters < len(text) and fits(prompt):
        n_characters *= 4
        prompt = rendered(text[:n_characters])
    if fits(prompt):
        return text, prompt
    for end in reversed(cut_ends(prompt, names[0])[:most]):
        if end is not None and fits(cut := rendered(text[:end])):
            return text[:end], cut
    raise PartError("not_cuttable", f"no cut of the document has at most {most} tokens")
