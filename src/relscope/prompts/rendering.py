"""What exactly does the model read for a query and its documents, and which of its tokens are which part?

A prompt is tokenised once, as one text; each token is assigned by its character offsets to the part or the
stretch of scaffold that its first visible character lies in. Nothing is searched for and nothing is tokenised
apart, so a query that occurs inside the document, or a token that spans a part's edge, cannot be misplaced.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

from relscope.errors import InputError
from relscope.prompts.control_tokens import Encoder, Offsets, PartError
from relscope.prompts.regions import Prompt, Span
from relscope.prompts.scaffold import ChatTokenizer, Piece, build_scaffold, markup
from relscope.prompts.template import PromptTemplate


class AnswerTokenError(InputError):
    """An answer is not one single token right after the prompt."""


class PromptRenderer:
    """Turns queries and documents into prompts of one template for one tokenizer.

    Raises `InputError` where the template does not suit the tokenizer; see `build_scaffold`.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: PromptTemplate) -> None:
        self.tokenizer = tokenizer
        self.template = template
        if template.style == "chat" and not tokenizer.chat_template:
            raise InputError("style: this tokenizer has no chat template; use auto or plain")
        self.style = "chat" if template.style != "plain" and tokenizer.chat_template else "plain"
        """chat or plain, once auto is decided."""
        self._scaffold = build_scaffold(tokenizer, template, self.style)
        self._encoder = Encoder(tokenizer, self._scaffold, markup(tokenizer, template) + str(self._scaffold))

    @property
    def scaffold_text(self) -> str:
        """The prompt's text with `{query}` and the like in place of the data.

        It is what a run depends on: some chat templates write the current date, and so change from day to
        day.
        """
        return str(self._scaffold)

    @cached_property
    def prefix_ids(self) -> tuple[int, ...]:
        """Special tokens that go before the text: those that the tokenizer itself puts before a plain text.

        A chat template writes its own, so there are none.
        """
        if self.style == "chat":
            return ()
        probe = self.tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
        mask = list(probe["special_tokens_mask"])
        return tuple(probe["input_ids"][: mask.index(0)]) if 0 in mask else ()

    def render(self, query_text: str, documents: Sequence[str]) -> Prompt:
        """Build the prompt of one query with one document (pointwise), or with documents A and B (pairwise).

        Outer white space of each text is left out. Raises `PartError`, an `InputError`, on a text that cannot
        be a part of the prompt: it is empty, is not valid Unicode, gets no tokens of its own, or would become
        a control token.
        """
        names = self.template.documents
        if isinstance(documents, str) or len(documents) != len(names):
            raise InputError(f"a {self.template.format} prompt takes {len(names)} document(s), as a list of texts")
        texts = {"query": query_text.strip()}
        texts |= {name: text.strip() for name, text in zip(names, documents, strict=True)}
        for name, text in texts.items():
            _check_text(name, text)
        pieces = self._scaffold.fill(texts)
        encoding = self._encoder.encode(pieces)
        text = "".join(piece.text for piece in pieces)
        characters = {piece.name: span for piece, span in zip(pieces, _spans(pieces), strict=True) if piece.name}
        offsets = _with_leading_space(text, encoding.offsets)
        owners = _owners(text, offsets, pieces)
        prefix = self._prefix_for(encoding.ids)
        parts = {name: _span_of(name, owners, len(prefix)) for name in characters if name != "system"}
        return Prompt(
            ids=prefix + encoding.ids,
            text=text,
            offsets=((0, 0),) * len(prefix) + offsets,
            parts=parts,
            characters=characters,
        )

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text on its own, without special tokens around it."""
        return len(self._encoder.encode([Piece(text, "text")]).ids)

    def answer_ids(self, prompt: Prompt) -> tuple[int, int]:
        """Ids of the positive and the negative answer as the next token of a prompt.

        A plain prompt goes on with a space; a chat prompt without, or with the space that the chat template
        itself puts before an assistant's words, where that gives single tokens. An answer that is given with
        a leading space is taken as it is. Raises `AnswerTokenError` where prompt and answer together are not
        the prompt's tokens and one more, or both answers are the same token.
        """
        gap = self._scaffold.answer_gap
        gaps = [gap] if self.style == "plain" or not gap else [gap, ""]
        for number, before in enumerate(gaps, start=1):
            try:
                yes, no = (self._answer_id(prompt, before, answer) for answer in self.template.answers)
            except AnswerTokenError:
                if number == len(gaps):
                    raise
                continue
            if yes == no:
                raise AnswerTokenError(
                    f"answers: {list(self.template.answers)} are one and the same token for this tokenizer"
                )
            return yes, no
        raise AssertionError("there is at least one way to go on")

    def _answer_id(self, prompt: Prompt, before: str, answer: str) -> int:
        written = answer if answer[:1].isspace() else before + answer
        pieces = [*_pieces_of(prompt), Piece(written)]
        ids = self._encoder.encode(pieces).ids
        ids = self._prefix_for(ids) + ids
        n_prompt = len(prompt.ids)
        if ids[:n_prompt] != prompt.ids or len(ids) == n_prompt:
            raise AnswerTokenError(
                f"answers: {written!r} merges with the end of the prompt; change answer_prefix or the answers"
            )
        if len(ids) > n_prompt + 1:
            raise AnswerTokenError(
                f"answers: {written!r} is {len(ids) - n_prompt} tokens for this tokenizer; "
                "choose answers that are one token each"
            )
        return ids[-1]

    def _prefix_for(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        # A template's own text may begin with BOS: it is never put there twice.
        return () if ids[: len(self.prefix_ids)] == self.prefix_ids else self.prefix_ids


def _check_text(name: str, text: str) -> None:
    if not text:
        raise PartError("empty_part", f"the {name} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PartError(
            "invalid_unicode",
            f"the {name} is not valid Unicode (half a surrogate pair at character {error.start})",
        ) from error


def _spans(pieces: Sequence[Piece]) -> list[Span]:
    spans: list[Span] = []
    start = 0
    for piece in pieces:
        spans.append(Span(start, start + len(piece.text)))
        start += len(piece.text)
    return spans


def _pieces_of(prompt: Prompt) -> list[Piece]:
    """Cut a prompt's text into scaffold and parts again."""
    pieces: list[Piece] = []
    done = 0
    for name, span in sorted(prompt.characters.items(), key=lambda item: item[1]):
        pieces += [Piece(prompt.text[done : span.start]), Piece(prompt.text[span.start : span.stop], name)]
        done = span.stop
    return [*pieces, Piece(prompt.text[done:])]


def _with_leading_space(text: str, offsets: Offsets) -> Offsets:
    """Give each token the white space before it.

    Some byte-level tokenizers leave it out of the offsets, so that a token which is only a space would seem
    to lie behind itself, in the part that begins there.
    """
    covered = 0
    result: list[tuple[int, int]] = []
    for start, stop in offsets:
        first = start
        while first > covered and text[first - 1].isspace():
            first -= 1
        result.append((first, stop))
        covered = max(covered, stop)
    return tuple(result)


def _owners(text: str, offsets: Offsets, pieces: Sequence[Piece]) -> list[str | None]:
    """For each token the part that owns its first visible character; None for scaffold.

    A token of white space only belongs where it starts; one without characters where it stands. Except that
    the one space before a part goes with it also where it is a token of its own: most words take it along,
    digits in many tokenizers do not, and a document that begins with a number would align with no other.
    """
    starts = [span.start for span in _spans(pieces)]
    openings = {start for start, piece in zip(starts, pieces, strict=True) if piece.name}
    owners: list[str | None] = []
    for start, stop in offsets:
        visible = text[start:stop].lstrip()
        at = stop - len(visible) if visible else start
        if text[start:stop] == " " and stop in openings:
            at = stop
        owners.append(pieces[bisect_right(starts, at) - 1].name)
    return owners


def _span_of(name: str, owners: Sequence[str | None], n_before: int) -> Span:
    positions = [position for position, owner in enumerate(owners) if owner == name]
    if not positions:
        raise PartError("no_own_token", f"the {name} has no token of its own: it merges with the text before it")
    if positions[-1] - positions[0] + 1 != len(positions):
        raise PartError("scattered_tokens", f"the tokens of the {name} are not contiguous in this tokenizer")
    return Span(positions[0] + n_before, positions[-1] + 1 + n_before)
