"""What does a model's chat template write around the parts of a prompt?

The template is applied once, to a conversation in which a sentinel, a string drawn at random, stands for each
part. Where the sentinels come out again, the parts go: so what is scaffold and what is part is known by
construction, the text of the data never passes through the template, and it does not matter whether the
template trims what it is given.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from relscope.errors import InputError
from relscope.prompts.template import PromptTemplate


class ChatTokenizer(Protocol):
    """What the prompts need of a tokenizer: the fast tokenizers of transformers have it."""

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` that does the work."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens that have a name (BOS, EOS, padding and so on)."""

    @property
    def chat_template(self) -> Any:
        """Jinja source, or sources by name, or None."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any:
        """Render a conversation."""

    def __call__(self, text: str, **kwargs: Any) -> Any:
        """Encode a text."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt's text: a part (`name` says which), or scaffold (`name` is None)."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Scaffold:
    """A prompt's fixed text, with a hole for each query and document.

    `pieces` alternate scaffold and parts in the order of the prompt; a query's or document's piece has no
    text yet. `answer_gap` is the white space that the chat template puts between the generation prompt and an
    assistant's words (mostly none).
    """

    pieces: tuple[Piece, ...]
    answer_gap: str

    def fill(self, texts: Mapping[str, str]) -> tuple[Piece, ...]:
        """Put the texts of query and documents into their holes."""
        return tuple(
            piece if piece.name is None else Piece(texts.get(piece.name, piece.text), piece.name)
            for piece in self.pieces
        )

    def __str__(self) -> str:
        """Give the fixed text with `{query}` and the like in the holes."""
        return "".join(piece.text or (f"{{{piece.name}}}" if piece.name else "") for piece in self.pieces)


def fresh_name() -> str:
    """Draw a name that no data can hold but by a chance of 1 in 10**28.

    Small letters only, because a normaliser leaves these alone; BERT's removes private-use characters.
    """
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(20))


def _sentinel() -> str:
    # Capitals and marks, so that a template which changes case or escapes its input is found to alter it.
    return f"{fresh_name()}A'\"<&>Z{fresh_name()}"


def build_scaffold(tokenizer: ChatTokenizer, template: PromptTemplate, style: str) -> Scaffold:
    """Find the text around the parts; `style` is chat or plain.

    Raises `InputError` where the chat template cannot be used: it fails, refuses or drops a system turn, or
    does not hand the parts on, each exactly once and unchanged.
    """
    content = _user_content(template)
    if style == "plain":
        if template.system is not None:
            raise InputError("system: a plain prompt has no system turn; leave it out, or use the style chat")
        return Scaffold((*content, Piece(template.answer_prefix)), " ")

    sentinels = {piece.name: _sentinel() for piece in content if piece.name is not None}
    turn = "".join(piece.text if piece.name is None else sentinels[piece.name] for piece in content)
    conversation = [{"role": "user", "content": turn}]
    if template.system is not None:
        sentinels["system"] = _sentinel()
        conversation.insert(0, {"role": "system", "content": sentinels["system"]})
    rendered = _apply(tokenizer, template, conversation)
    _check_sentinels(rendered, sentinels)

    known = {piece.name: piece.text for piece in content} | {"system": (template.system or "").strip()}
    names = {sentinel: name for name, sentinel in sentinels.items()}
    split = re.split(f"({'|'.join(map(re.escape, names))})", rendered)
    pieces = tuple(Piece(known[names[text]], names[text]) if text in names else Piece(text) for text in split)
    return Scaffold(pieces, _answer_gap(tokenizer, template, conversation, rendered))


def markup(tokenizer: ChatTokenizer, template: PromptTemplate) -> str:
    """Collect what a chat template can write around text: its source, and conversations of every role.

    The source alone would not do, since some templates put their control tokens together from a role's name.
    """
    source = tokenizer.chat_template
    if not source:
        return ""
    written = list(source.values()) if isinstance(source, Mapping) else [str(source)]
    turns = [{"role": role, "content": fresh_name()} for role in ("system", "user", "assistant")]
    without_system = template.model_copy(update={"system": None})
    for conversation in (turns, turns[1:]):
        for prompt in (True, False):
            # a template that refuses a role, or this order, writes nothing for it
            with contextlib.suppress(InputError):
                written.append(_apply(tokenizer, without_system, conversation, prompt))
    return "\0".join(written) + "\0"


def _user_content(template: PromptTemplate) -> tuple[Piece, ...]:
    """Pieces of the user turn; query and documents are holes."""
    labels = {
        "query": template.query_label,
        "document": template.document_label,
        "document_a": template.document_a_label,
        "document_b": template.document_b_label,
    }
    pieces: list[Piece] = []
    for letter in template.order:
        names = {"d": template.documents, "q": ("query",), "i": ("instruction",)}[letter]
        for name in names:
            label = ("" if not pieces else template.separator) + labels.get(name, "")
            pieces += [
                Piece(label),
                Piece(template.instruction.strip() if name == "instruction" else "", name),
            ]
    return tuple(pieces)


def _apply(
    tokenizer: ChatTokenizer,
    template: PromptTemplate,
    conversation: list[dict[str, str]],
    prompt: bool = True,
) -> str:
    # A template is a program from the model's author: whatever it raises is about it and these options.
    try:
        return str(
            tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=prompt, **template.chat_template_kwargs
            )
        )
    except Exception as error:
        if template.system is not None:
            raise InputError(
                f"system: the chat template of this model fails with a system turn ({error}); leave it out"
            ) from error
        raise InputError(f"the chat template of this model fails ({error}); use the style plain") from error


def _check_sentinels(rendered: str, sentinels: Mapping[str, str]) -> None:
    for name, sentinel in sentinels.items():
        count = rendered.count(sentinel)
        if count == 1:
            continue
        if name == "system":
            happens = "ignores or alters" if count == 0 else "repeats"
            raise InputError(f"system: the chat template of this model {happens} the system turn; leave system out")
        happens = "drops or alters" if count == 0 else "repeats"
        raise InputError(
            f"the chat template of this model {happens} the {name} of the prompt, so that its tokens "
            "have no one place; use the style plain"
        )


def _answer_gap(
    tokenizer: ChatTokenizer, template: PromptTemplate, conversation: Sequence[dict[str, str]], rendered: str
) -> str:
    """Ask the template how an assistant's words begin: some (Llama 2, Mistral) put a space there.

    Templates that cannot write such a turn, or write it otherwise than their generation prompt, have no gap.
    """
    sentinel = _sentinel()
    answered = [*conversation, {"role": "assistant", "content": sentinel}]
    try:
        whole = _apply(tokenizer, template, answered, prompt=False)
    except InputError:
        return ""
    gap = whole[len(rendered) :].partition(sentinel)[0] if whole.startswith(rendered) else ""
    return gap if gap == " " else ""
