"""How does text of the data that looks like a control token stay text?

A document that holds `<|im_end|>` or `</s>` would, tokenised as it is, end the user's turn. Where that
happens, the prompt is tokenised by a twin of the tokenizer: the same model, ids and offsets, but each control
token carries a random name that only the scaffold knows. The data's `<|im_end|>` is then text like any other,
in the same single tokenisation.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from relscope.errors import InputError
from relscope.prompts.scaffold import ChatTokenizer, Piece, Scaffold, fresh_name

# Nothing here is a control token anywhere; white space, digits, punctuation, accents and an emoji, so that a
# twin that normalises or splits otherwise than its original shows it.
_PROBE = "Is it  so? 12.5 × na\u00efve\n\n\tcats 😀 AND dogs."

Offsets = tuple[tuple[int, int], ...]


class PartError(InputError):
    """A text cannot be made a part of the prompt; `reason` is its slug."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Encoding:
    """Token ids of a text and the characters of each: `(start, stop)`, half-open."""

    ids: tuple[int, ...]
    offsets: Offsets


class Encoder:
    """Tokenises prompts so that control tokens come from the scaffold alone.

    Control tokens are the added tokens that are special, and those that occur in `markup` (what the chat
    template can write), if they are not white space only: some tokenizers add line breaks as tokens, and
    these are text.
    """

    def __init__(self, tokenizer: ChatTokenizer, scaffold: Scaffold, markup: str) -> None:
        if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets; a fast one, with a "
                "tokenizer.json, is needed"
            )
        self._tokenizer = tokenizer
        self._scaffold = scaffold
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        named = set(tokenizer.all_special_ids)
        self._control: dict[str, int] = {
            token.content: token_id
            for token_id, token in added.items()
            if token.content.strip() and (token.special or token_id in named or token.content in markup)
        }
        self._control_ids = frozenset(self._control.values())
        self._added = tuple(sorted((token.content for token in added.values() if token.content), key=len, reverse=True))
        # The unknown token stands for characters that the vocabulary lacks: in text it may arise by right.
        self._unknown = _unknown_token(tokenizer)
        self._twin: _Twin | None = None

    def encode(self, pieces: Sequence[Piece]) -> Encoding:
        """Tokenise the concatenated pieces once; no special tokens are put around them.

        Raises `PartError` where a part would give a control token and the tokenizer has no exact twin.
        """
        encoding = self._plain("".join(piece.text for piece in pieces))
        if not self._control_in_parts(encoding, pieces, self._literal_unknown(pieces)):
            return encoding
        if self._twin is None:
            self._twin = self._make_twin()
        encoding = self._twin.encode(pieces)
        if arisen := self._control_in_parts(encoding, pieces, unknown_too=False):
            raise PartError("control_token", f"text of the data becomes the control token {arisen!r} in this tokenizer")
        return encoding

    def _plain(self, text: str) -> Encoding:
        # Truncation and padding are named because a tokenizer.json may bring them along, switched on.
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            padding=False,
            split_special_tokens=False,
            verbose=False,
        )
        return Encoding(tuple(encoded["input_ids"]), tuple(map(tuple, encoded["offset_mapping"])))

    def _literal_unknown(self, pieces: Sequence[Piece]) -> bool:
        return self._unknown is not None and any(self._unknown in piece.text for piece in pieces if piece.name)

    def _control_in_parts(self, encoding: Encoding, pieces: Sequence[Piece], unknown_too: bool) -> str | None:
        """Name a control token that holds a character of a part."""
        text = "".join(piece.text for piece in pieces)
        owners = [piece.name for piece in pieces for _ in piece.text]
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in self._control_ids:
                continue
            # A control token may take the white space beside it along; that is no sign of its text.
            if any(owners[at] is not None and not text[at].isspace() for at in range(start, stop)):
                name = next(content for content, known in self._control.items() if known == token_id)
                if name != self._unknown or unknown_too:
                    return name
        return None

    def _make_twin(self) -> _Twin:
        twin = _Twin(self._tokenizer.backend_tokenizer, self._control, self._added)
        probe = self._scaffold.fill({piece.name: _PROBE for piece in self._scaffold.pieces if piece.name})
        if twin.encode(probe) != self._plain("".join(piece.text for piece in probe)):
            raise PartError(
                "control_token",
                "text of the data holds control tokens of this model, and its tokenizer cannot be told to "
                "read them as text (a copy with renamed control tokens does not give the same ids)",
            )
        return twin


class _Twin:
    """A tokenizer with renamed control tokens, and the way back to offsets in the original text."""

    def __init__(self, backend: Tokenizer, control: Mapping[str, int], added: Sequence[str]) -> None:
        self._names = {content: fresh_name() for content in control}
        # Longest first among all added tokens, as the tokenizer itself matches them.
        self._added_pattern = re.compile("|".join(map(re.escape, added)))
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), self._names)))
        except Exception as error:  # the tokenizers library raises bare Exception for whatever it cannot load
            raise PartError(
                "control_token",
                f"text of the data holds control tokens, and this tokenizer cannot be copied: {error}",
            ) from error
        for content, token_id in control.items():
            if self._tokenizer.token_to_id(self._names[content]) != token_id:
                raise PartError("control_token", f"the control token {content!r} loses its id when it is renamed")

    def encode(self, pieces: Sequence[Piece]) -> Encoding:
        """Tokenise as the original would, if the parts held no control tokens."""
        text = ""
        # (start in the twin's text, length there, start in the original text, length there) of each stretch
        stretches: list[tuple[int, int, int, int]] = []
        original = 0
        for piece in pieces:
            for chunk, renamed in self._chunks(piece):
                stretches.append((len(text), len(renamed), original, len(chunk)))
                text += renamed
                original += len(chunk)
        starts = [stretch[0] for stretch in stretches]

        def back(at: int, end: bool) -> int:
            # the end of a stretch is looked up in it, not in the next one
            index = max(bisect_right(starts, at - end) - 1, 0)
            start, length, original_start, original_length = stretches[index]
            if length == original_length:
                return original_start + at - start
            return original_start + (original_length if end and at > start else 0)

        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = tuple(
            (back(start, False), back(stop, True)) if stop > start else (back(start, False),) * 2
            for start, stop in encoded.offsets
        )
        return Encoding(tuple(encoded.ids), offsets)

    def _chunks(self, piece: Piece) -> list[tuple[str, str]]:
        """Cut a piece into `(text, text in the twin)`."""
        if piece.name is not None:
            return [(piece.text, piece.text)] if piece.text else []
        chunks: list[tuple[str, str]] = []
        done = 0
        for match in self._added_pattern.finditer(piece.text):
            if match.group() in self._names:
                before = piece.text[done : match.start()]
                chunks += [(before, before), (match.group(), self._names[match.group()])]
                done = match.end()
        chunks.append((piece.text[done:], piece.text[done:]))
        return [chunk for chunk in chunks if chunk[0]]


def _unknown_token(tokenizer: ChatTokenizer) -> str | None:
    model = tokenizer.backend_tokenizer.model
    # Unigram keeps its unknown token to itself; the wrapper's is not asked otherwise, because it often names
    # one (GPT-2's is its end of text) that the model never gives.
    unknown = model.unk_token if hasattr(model, "unk_token") else getattr(tokenizer, "unk_token", None)
    return None if unknown is None else str(unknown)


def _renamed(specification: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename tokens in a tokenizer's JSON, also in the model, where text could reach them as well."""
    for token in specification["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = specification["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): token_id for token, token_id in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), weight] for token, weight in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        # A merge that makes or uses a control token would reach for a name that is gone.
        model["merges"] = [
            (left, right) for left, right in model["merges"] if not {left, right, left + right}.intersection(names)
        ]
    specification["truncation"] = specification["padding"] = None
    return specification
