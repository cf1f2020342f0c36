"""Which token positions of a prompt belong to which of its parts?

A prompt is one sequence of token ids. Its parts (query, documents, instruction) are half-open spans of token
positions, fixed when the prompt is rendered; a region is a named set of positions worked out from those
spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from relscope.errors import InputError, did_you_mean

_PARTS = ("query", "document", "document_a", "document_b", "instruction")

REGIONS: tuple[str, ...] = (
    *_PARTS,
    "last",
    "all",
    "other",
    *(f"{part}.{end}" for part in _PARTS for end in ("first", "last")),
)
"""Every name that `Prompt.region` knows; those of documents A and B exist in pairwise prompts only."""

DEFAULT_REGIONS: tuple[str, ...] = ("query", "document", "instruction", "last", "all")


@dataclass(frozen=True, order=True)
class Span:
    """Half-open range `start <= position < stop`, of token positions or of characters."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a span needs 0 <= start <= stop, not start {self.start} and stop {self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __contains__(self, position: object) -> bool:
        return isinstance(position, int) and self.start <= position < self.stop


@dataclass(frozen=True)
class Prompt:
    """One prompt as the model reads it, with the place of each part.

    `text` is the whole prompt; special tokens that have no text (the BOS that a tokenizer puts before a plain
    prompt) are in `ids` only. `offsets[i]` are the characters of `text` that token i was made from, leading
    whitespace included even where the tokenizer leaves it out; tokens that share a character (the bytes of
    one emoji) share offsets. `parts` gives each part's span of token positions, `characters` its span of
    characters in `text`.
    """

    ids: tuple[int, ...]
    text: str
    offsets: tuple[tuple[int, int], ...]
    parts: Mapping[str, Span]
    characters: Mapping[str, Span]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def documents(self) -> tuple[str, ...]:
        """Names of the document parts: `document`, or `document_a` and `document_b`."""
        return tuple(name for name in ("document", "document_a", "document_b") if name in self.parts)

    def region(self, name: str) -> tuple[int, ...]:
        """Positions of a region, ascending.

        `document` of a pairwise prompt is both documents together; `X.first` and `X.last` are the first and
        the last position of X; `last` is the prompt's final token; `other` is what lies in none of query,
        document, instruction and last, and may be empty. Raises `InputError` on a name that this prompt does
        not have.
        """
        if name not in REGIONS:
            raise InputError(f"region {name!r} does not exist: {did_you_mean(name, REGIONS)}")
        if name == "all":
            return tuple(range(len(self.ids)))
        if name == "last":
            return (len(self.ids) - 1,)
        if name == "other":
            taken = {len(self.ids) - 1}.union(*map(self._part, ("query", "document", "instruction")))
            return tuple(position for position in range(len(self.ids)) if position not in taken)
        part, _, end = name.partition(".")
        positions = self._part(part)
        return {"first": positions[:1], "last": positions[-1:]}.get(end, positions)

    def _part(self, name: str) -> tuple[int, ...]:
        if name == "document":
            return tuple(position for document in self.documents for position in self.parts[document])
        if name not in self.parts:
            raise InputError(
                f"region {name!r} does not exist in a pointwise prompt, which has one document: "
                "use 'document', or the pairwise format"
            )
        return tuple(self.parts[name])

    def partition(self) -> tuple[str, ...]:
        """The one region of each position that shares no token with others.

        One of query, document (pairwise: document_a, document_b), instruction, last and other; last wins where it lies
        in a part.
        """
        region_of = ["other"] * len(self.ids)
        for name in ("query", *self.documents, "instruction"):
            for position in self.parts.get(name, ()):
                region_of[position] = name
        return (*region_of[:-1], "last")

    def segments(self) -> list[tuple[str, str]]:
        """Text of the prompt in order, cut wherever the region changes, as `(text, region)`.

        The regions are those of `partition`. The texts concatenate to `text`. A character belongs to the region of its
        token; one that is shared by several tokens to the first of them, and one that no token was made from to the
        token after it.
        """
        region_of = self.partition()
        segments: list[tuple[str, str]] = []
        done = 0
        last_position = len(self.ids) - 1
        for position, (_, end) in enumerate(self.offsets):
            stop = len(self.text) if position == last_position else end
            if stop <= done:
                continue
            piece = self.text[done:stop]
            if segments and segments[-1][1] == region_of[position]:
                segments[-1] = (segments[-1][0] + piece, region_of[position])
            else:
                segments.append((piece, region_of[position]))
            done = stop
        return segments
