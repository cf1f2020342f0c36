"""A document that is cut alone keeps as much as fits, and not a token more."""

from __future__ import annotations

from typing import Any

import pytest

from relscope.prompts import PartError, PromptRenderer, PromptTemplate, render_cut

TEXT = "The naïve keeper's 1,234 lamps burnt — day & night; 日本 🙂👍🏽 were far away.  Salt.\n\nBread rises slowly."


@pytest.mark.parametrize("format", ["pointwise", "pairwise"])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 12, 25])
def test_the_cut_is_the_longest_beginning_that_fits(any_tokenizer: Any, format: str, most: int) -> None:
    renderer = PromptRenderer(any_tokenizer, PromptTemplate(format=format, max_document_tokens=most))
    names = renderer.template.documents

    def fits(text: str) -> bool:
        try:
            prompt = renderer.render("who lit the lamps", [text] * len(names))
        except PartError:
            return False
        return all(len(prompt.parts[name]) <= most for name in names)

    try:
        head, prompt = render_cut(renderer, "who lit the lamps", TEXT)
    except PartError:  # the first word alone is more tokens than that, or none of its own
        assert not fits("The") or most == 1
        return
    assert TEXT.startswith(head)
    assert prompt == renderer.render("who lit the lamps", [head] * len(names))
    assert fits(head)
    longest = max(n for n in range(1, len(TEXT) + 1) if fits(TEXT[:n]))
    # A longer beginning than this could only end inside one of the tokens of the text (of 12 characters at most), which
    # then falls into pieces.
    assert longest - 12 <= len(head) <= longest


def test_a_text_that_fits_is_left_as_it_is_however_long_it_is(tiny_tokenizer: Any) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(max_document_tokens=4))
    assert render_cut(renderer, "cat", "  The cat\n")[0] == "The cat"
    # one token of many characters: what is read first, 4 x 16 characters, is less than what fits
    spaces = "The" + " " * 500 + "cat"
    head, prompt = render_cut(renderer, "cat", spaces)
    assert len(prompt.parts["document"]) <= 4
    assert spaces.startswith(head)


def test_a_long_text_is_read_no_further_than_it_is_used(tiny_tokenizer: Any) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(max_document_tokens=10))
    text = "The cat sat on the mat. " * 1000
    prompt = render_cut(renderer, "cat", text)[1]
    assert len(prompt.parts["document"]) == 10
    # the same as of the whole text
    whole = renderer.render("cat", [text])
    ids = [whole.ids[position] for position in whole.parts["document"]][:10]
    assert [prompt.ids[position] for position in prompt.parts["document"]] == ids


@pytest.mark.parametrize(("text", "reason"), [("", "empty_part"), ("half \ud83d", "invalid_unicode")])
def test_what_cannot_be_asked_about_is_told_with_its_reason(tiny_tokenizer: Any, text: str, reason: str) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate())
    with pytest.raises(PartError) as refused:
        render_cut(renderer, "cat", text)
    assert refused.value.reason == reason
