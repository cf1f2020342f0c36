"""Cleaning and cutting: what is left of a text, and that it is never more than a tokenizer can take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relscope.data.text import MAX_DOCUMENT_CHARACTERS, clean_text, cut_document, folded_words, same_words

# characters() leaves surrogates out unless told otherwise; here they are the point
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a b \n", "a b"),
        ("a\x00b", "a b"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nb c"),
        ("a\x1bb\x7fc", "a b c"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("\ufeff", "\ufeff"),
        ("\x00\x01 ", ""),
        ("naïve 日本語 😀", "naïve 日本語 😀"),
    ],
)
def test_what_cleaning_leaves_of_a_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@given(ANY_TEXT)
def test_a_clean_text_is_utf8_without_controls_and_stays_as_it_is(text: str) -> None:
    clean = clean_text(text)
    clean.encode("utf-8")
    assert not any(ord(c) < 32 and c not in "\n\t" for c in clean)
    assert clean == clean.strip()
    assert clean_text(clean) == clean


def test_a_document_at_the_limit_is_not_cut() -> None:
    text = "x" * MAX_DOCUMENT_CHARACTERS
    assert cut_document(text) == (text, False)


def test_a_megabyte_of_words_is_cut_after_a_whole_word() -> None:
    text, cut = cut_document("seven77 " * 131_072)
    # 8 characters a word: 20,000 / 8 = 2,500 whole words, the last without its space
    assert cut
    assert text == ("seven77 " * 2_500).rstrip()


def test_a_word_that_ends_exactly_at_the_limit_is_kept() -> None:
    text, cut = cut_document("a " + "b" * (MAX_DOCUMENT_CHARACTERS - 2) + " tail")
    assert cut
    assert text == "a " + "b" * (MAX_DOCUMENT_CHARACTERS - 2)


def test_one_endless_word_is_cut_at_the_limit() -> None:
    assert cut_document("x" * 1_000_000) == ("x" * MAX_DOCUMENT_CHARACTERS, True)


def test_a_space_in_the_first_half_does_not_cost_half_the_document() -> None:
    text, _ = cut_document("a " + "b" * 1_000_000)
    assert len(text) == MAX_DOCUMENT_CHARACTERS


def test_texts_that_differ_in_white_space_only_are_the_same_words() -> None:
    assert same_words(" one\n two\tthree ") == same_words("one two  three")
    assert same_words("one two") != same_words("onetwo")


def test_queries_are_the_same_whatever_their_case_white_space_and_control_characters() -> None:
    assert folded_words(" Wie\tGROSS\x00ist\n er?") == folded_words("wie groß ist er?") == "wie gross ist er?"
    assert folded_words("a bc") != folded_words("ab c")
