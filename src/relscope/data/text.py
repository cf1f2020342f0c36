"""What may a text from outside hold before it meets a tokenizer?

Every query and document passes `clean_text`; documents are cut by `cut_document` when they become part of a
pair. After that a text is valid UTF-8, has no control characters but line ends and tabs, and is never longer
than a prompt can use.
"""

from __future__ import annotations

import re

MAX_DOCUMENT_CHARACTERS = 20_000
"""Longer documents are cut: about 5,000 tokens of English, ten times the longest passage of the usual
collections."""

MAX_QUERY_CHARACTERS = 4_000
"""Longer queries are refused, because half a query is another query."""

# C0 controls and DEL, without tab and line feed; NUL ends a string in some tokenizers' native code
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clean_text(text: str) -> str:
    r"""Text that any tokenizer can take: the same words, without what would make it fail.

    `\r\n` becomes `\n`; other control characters except tab and line feed become a space each; a lone
    surrogate (from a broken JSON escape; it can't be encoded as UTF-8) becomes U+FFFD; white space at both
    ends goes. Cleaning twice changes nothing more.
    """
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n"))
    return _SURROGATE.sub("\ufffd", text).strip()


def cut_document(text: str) -> tuple[str, bool]:
    """Cut a text to `MAX_DOCUMENT_CHARACTERS`, at white space where there is any; say whether it was cut.

    The cut is at the last white space in the second half of what may stay, else (one endless word) at the
    limit.
    """
    if len(text) <= MAX_DOCUMENT_CHARACTERS:
        return text, False
    places = range(MAX_DOCUMENT_CHARACTERS, MAX_DOCUMENT_CHARACTERS // 2, -1)
    end = next((place for place in places if text[place].isspace()), MAX_DOCUMENT_CHARACTERS)
    return text[:end].rstrip(), True


def same_words(text: str) -> str:
    """The text with each run of white space as one space: two texts are the same if these are equal."""
    return " ".join(text.split())


def folded_words(text: str) -> str:
    """As `same_words` of the cleaned text, in lower case: two queries are the same if these are equal."""
    return same_words(clean_text(text)).casefold()
