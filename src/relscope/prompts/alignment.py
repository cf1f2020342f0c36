"""How do a clean and a corrupted prompt get the same length, token by token?

Both documents are cut, from their ends, to the largest common number of tokens for which everything outside
the documents is the same in both prompts: the same ids at the same positions. Ids are never spliced. A
document is cut as text, at the end of one of its tokens, and the prompt is tokenised again as a whole, since
the last token of a document often merges with what follows (`.` and two line breaks are one token in Llama 3
and Qwen). A pair for which no cut does it becomes an `Exclusion`.

Cost: no forward pass; some four tokenisations a pair, and two more for each length that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from relscope.data import RelevancePair
from relscope.prompts.control_tokens import PartError
from relscope.prompts.cutting import CHARACTERS_PER_TOKEN, cut_ends
from relscope.prompts.regions import Prompt
from relscope.prompts.rendering import AnswerTokenError, PromptRenderer

# Lengths are tried downward from the longest; text needs one or two tries, unless merges conspire.
_MAX_TRIES = 64
# Tokens beyond the longest cut that are looked at too: where a text breaks off, its last tokens change.
_MARGIN = 16


@dataclass(frozen=True)
class AlignedPair:
    """A clean and a corrupted prompt that differ inside their documents only, position by position.

    Pointwise, clean holds the positive document and corrupted the negative one; pairwise, clean holds the
    positive as A and the negative as B, and corrupted has them swapped. `answer_ids` are the ids of the
    positive and of the negative answer. `n_document_tokens` is the length of each document after the cut;
    `n_cut_tokens` is how many tokens were cut off, both documents together.
    """

    pair_id: str
    query_id: str
    query_text: str
    clean: Prompt
    corrupted: Prompt
    answer_ids: tuple[int, int]
    n_document_tokens: int
    n_cut_tokens: int

    def __post_init__(self) -> None:
        if not _same_outside(self.clean, self.corrupted):
            raise ValueError(f"pair {self.pair_id}: clean and corrupted differ outside their documents")
        if not self.differing:
            raise ValueError(f"pair {self.pair_id}: clean and corrupted are the same prompt")

    @property
    def differing(self) -> tuple[int, ...]:
        """Positions where the ids of clean and corrupted differ; at least one, and all in the documents."""
        pairs = zip(self.clean.ids, self.corrupted.ids, strict=True)
        return tuple(position for position, (clean, corrupted) in enumerate(pairs) if clean != corrupted)


@dataclass(frozen=True)
class Exclusion:
    """A pair that cannot be aligned, and why.

    `reason` is one of: empty_part, invalid_unicode, no_own_token, scattered_tokens, control_token,
    not_alignable, identical_after_cut, answer_not_single_token. `detail` says it in words.
    """

    pair_id: str
    reason: str
    detail: str


def align(renderer: PromptRenderer, pair: RelevancePair) -> AlignedPair | Exclusion:
    """Align one pair; see the module's docstring for how."""
    try:
        return _align(renderer, pair)
    except AnswerTokenError as error:
        return Exclusion(pair.pair_id, "answer_not_single_token", str(error))
    except PartError as error:
        return Exclusion(pair.pair_id, error.reason, str(error))


def align_all(renderer: PromptRenderer, pairs: Iterable[RelevancePair]) -> tuple[list[AlignedPair], list[Exclusion]]:
    """Align pairs, in order; every pair comes back either aligned or excluded."""
    aligned: list[AlignedPair] = []
    excluded: list[Exclusion] = []
    for pair in pairs:
        outcome = align(renderer, pair)
        if isinstance(outcome, AlignedPair):
            aligned.append(outcome)
        else:
            excluded.append(outcome)
    return aligned, excluded


@dataclass(frozen=True)
class _Document:
    """A document and where it can be cut: its first k tokens have `ends[k - 1]` characters."""

    text: str
    ends: tuple[int | None, ...]
    n_tokens: int

    def head(self, n_tokens: int) -> str | None:
        """The text of the first tokens, or None where it does not end at a character's end."""
        if n_tokens == self.n_tokens:
            return self.text
        end = self.ends[n_tokens - 1]
        return None if end is None else self.text[:end]


def _align(renderer: PromptRenderer, pair: RelevancePair) -> AlignedPair | Exclusion:
    positive, negative = _measure(renderer, pair)
    longest = min(positive.n_tokens, negative.n_tokens, renderer.template.max_document_tokens)
    tries = 0
    for n_tokens in range(longest, 0, -1):
        heads = positive.head(n_tokens), negative.head(n_tokens)
        if heads[0] is None or heads[1] is None:
            continue
        if tries == _MAX_TRIES:
            break
        tries += 1
        clean, corrupted = _render_both(renderer, pair.query_text, heads[0], heads[1])
        if not _fits(clean, corrupted, n_tokens):
            continue
        if clean.ids == corrupted.ids:
            return Exclusion(
                pair.pair_id,
                "identical_after_cut",
                f"the first {n_tokens} tokens of both documents are the same",
            )
        answer_ids = renderer.answer_ids(clean)
        if renderer.answer_ids(corrupted) != answer_ids:
            raise AnswerTokenError("answers: they are other tokens after the corrupted prompt than after the clean one")
        n_cut = positive.n_tokens + negative.n_tokens - 2 * n_tokens
        return AlignedPair(pair.pair_id, pair.query_id, pair.query_text, clean, corrupted, answer_ids, n_tokens, n_cut)
    return Exclusion(
        pair.pair_id,
        "not_alignable",
        f"no common length of at most {longest} document tokens leaves the rest of both prompts the same "
        f"(tried: {tries})",
    )


def _render_both(renderer: PromptRenderer, query: str, positive: str, negative: str) -> tuple[Prompt, Prompt]:
    if renderer.template.format == "pointwise":
        return renderer.render(query, [positive]), renderer.render(query, [negative])
    return renderer.render(query, [positive, negative]), renderer.render(query, [negative, positive])


def _fits(clean: Prompt, corrupted: Prompt, n_tokens: int) -> bool:
    lengths = {len(prompt.parts[name]) for prompt in (clean, corrupted) for name in prompt.documents}
    return lengths == {n_tokens} and _same_outside(clean, corrupted)


def _same_outside(clean: Prompt, corrupted: Prompt) -> bool:
    """Whether two prompts have the same spans and, outside their documents, the same ids."""
    if len(clean) != len(corrupted) or clean.parts != corrupted.parts:
        return False
    inside = set(clean.region("document"))
    return all(
        position in inside or pair[0] == pair[1]
        for position, pair in enumerate(zip(clean.ids, corrupted.ids, strict=True))
    )


def _measure(renderer: PromptRenderer, pair: RelevancePair) -> tuple[_Document, _Document]:
    """Tokenise both documents in their place, no further than their longest cut can reach."""
    texts = (pair.positive_text.strip(), pair.negative_text.strip())
    reach = renderer.template.max_document_tokens + _MARGIN
    n_characters = reach * CHARACTERS_PER_TOKEN
    while True:
        heads = tuple(text[:n_characters].rstrip() for text in texts)
        prompts = _render_both(renderer, pair.query_text, heads[0], heads[1])
        name = renderer.template.documents[0]  # each text is the first document of one of the two prompts
        enough = all(
            head == text or len(prompt.parts[name]) >= reach
            for head, text, prompt in zip(heads, texts, prompts, strict=True)
        )
        if enough:
            break
        n_characters *= 4
    positive, negative = (
        _document(renderer, text, head, prompt, name) for text, head, prompt in zip(texts, heads, prompts, strict=True)
    )
    return positive, negative


def _document(renderer: PromptRenderer, text: str, head: str, prompt: Prompt, name: str) -> _Document:
    rest = text[len(head) :]
    n_tokens = len(prompt.parts[name]) + (renderer.count_tokens(rest) if rest else 0)
    return _Document(text, cut_ends(prompt, name), n_tokens)
