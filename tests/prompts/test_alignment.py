"""Clean and corrupted prompts line up position by position, or the pair is excluded with a reason."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from awkward import WORDS, any_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relscope.data import RelevancePair
from relscope.prompts import (
    AlignedPair,
    Exclusion,
    Prompt,
    PromptRenderer,
    PromptTemplate,
    Span,
    align,
    align_all,
)

QUERY = "where did the cat sit?"
SHAPES = [("pointwise", "dqi"), ("pointwise", "qdi"), ("pointwise", "idq"), ("pairwise", "dqi"), ("pairwise", "idq")]
SHARED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def pair(positive: str, negative: str, query: str = QUERY) -> RelevancePair:
    return RelevancePair("q1:0", "q1", query, positive, negative, "hard")


def aligned(tokenizer: Any, positive: str, negative: str, **fields: Any) -> AlignedPair:
    outcome = align(PromptRenderer(tokenizer, PromptTemplate(**fields)), pair(positive, negative))
    assert isinstance(outcome, AlignedPair), outcome
    return outcome


def excluded(tokenizer: Any, positive: str, negative: str, query: str = QUERY, **fields: Any) -> Exclusion:
    outcome = align(PromptRenderer(tokenizer, PromptTemplate(**fields)), pair(positive, negative, query))
    assert isinstance(outcome, Exclusion), outcome
    return outcome


def document_texts(prompt: Prompt) -> dict[str, str]:
    spans = {name: prompt.characters[name] for name in prompt.documents}
    return {name: prompt.text[span.start : span.stop] for name, span in spans.items()}


def document_ids(prompt: Prompt) -> list[int]:
    return [prompt.ids[position] for position in prompt.region("document")]


def longest_by_brute_force(renderer: PromptRenderer, positive: str, negative: str) -> int:
    """The largest common number of document tokens, trying every pair of cuts at the ends of tokens."""
    # offsets from a tokenizer that does not trim them
    backend = copy.deepcopy(renderer.tokenizer.backend_tokenizer)
    backend.post_processor = None
    heads = []
    for text in (positive, negative):
        whole = renderer.render(QUERY, [text])
        offsets = backend.encode(whole.text, add_special_tokens=False).offsets
        n_before = len(whole.ids) - len(offsets)
        stops = [offsets[position - n_before][1] for position in whole.region("document")]
        cuts = [text[: stop - whole.characters["document"].start] for stop in stops[:-1]] + [text]
        prompts = [renderer.render(QUERY, [cut]) if cut.strip() else None for cut in cuts]
        heads.append([prompt for n, prompt in enumerate(prompts, 1) if prompt and len(prompt.parts["document"]) == n])
    return max(
        (
            len(one.parts["document"])
            for one in heads[0]
            for two in heads[1]
            if one.parts == two.parts
            and one.ids[: one.parts["document"].start] == two.ids[: one.parts["document"].start]
            and one.ids[one.parts["document"].stop :] == two.ids[one.parts["document"].stop :]
        ),
        default=0,
    )


# --- invariants -------------------------------------------------------------------------------------------------


@SHARED
@given(
    query=any_text(),
    positive=any_text(25),
    negative=any_text(25),
    shape=st.sampled_from(SHAPES),
    most=st.integers(1, 30),
)
def test_aligned_prompts_differ_inside_their_documents_only(
    any_tokenizer: Any, query: str, positive: str, negative: str, shape: tuple[str, str], most: int
) -> None:
    template = PromptTemplate(format=shape[0], order=shape[1], max_document_tokens=most)
    renderer = PromptRenderer(any_tokenizer, template)
    outcome = align(renderer, pair(positive, negative, query))
    if isinstance(outcome, Exclusion):
        assert outcome.reason in {"empty_part", "no_own_token", "identical_after_cut", "not_alignable"}, outcome
        return
    clean, corrupted = outcome.clean, outcome.corrupted
    assert len(clean.ids) == len(corrupted.ids)
    assert clean.parts == corrupted.parts
    inside = [position for name in clean.documents for position in clean.parts[name]]
    differing = [at for at in range(len(clean.ids)) if clean.ids[at] != corrupted.ids[at]]
    assert differing == list(outcome.differing) != []
    assert set(differing) <= set(inside)
    assert {len(clean.parts[name]) for name in clean.documents} == {outcome.n_document_tokens}
    assert 1 <= outcome.n_document_tokens <= most
    # no ids are spliced: each prompt is what its own text gives, and its documents are the beginnings of the given ones
    for prompt, given_texts in ((clean, (positive, negative)), (corrupted, (negative, positive))):
        texts = document_texts(prompt)
        assert prompt == renderer.render(query, list(texts.values()))
        for text, whole in zip(texts.values(), given_texts, strict=False):
            assert whole.strip().startswith(text)


@SHARED
@given(
    positive=st.lists(WORDS, min_size=1, max_size=9).map(" ".join),
    negative=st.lists(WORDS, min_size=1, max_size=9).map(" ".join),
    ends=st.tuples(*[st.sampled_from(["", ".", "?", "..."])] * 2),
)
def test_documents_keep_the_most_tokens_that_any_cut_at_a_tokens_end_can(
    any_tokenizer: Any, positive: str, negative: str, ends: tuple[str, str]
) -> None:
    texts = (positive + ends[0], negative + ends[1])
    renderer = PromptRenderer(any_tokenizer, PromptTemplate())
    outcome = align(renderer, pair(*texts))
    longest = longest_by_brute_force(renderer, *texts)
    if isinstance(outcome, AlignedPair):
        assert outcome.n_document_tokens == longest
    else:
        assert outcome.reason == ("identical_after_cut" if longest else "not_alignable")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["smol", "llama3", "gemma", "unigram"])
def test_swapping_the_documents_keeps_every_position(zoo: Any, name: str, shape: tuple[str, str]) -> None:
    one, two = "The cat sat on the mat near the river.", "Bread rises because 12 yeast makes gas and salt."
    first, second = (aligned(zoo(name), *texts, format=shape[0], order=shape[1]) for texts in ((one, two), (two, one)))
    assert first.clean == second.corrupted
    assert first.corrupted == second.clean


# --- the faults of the published code ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["dqi", "idq"])
def test_pairwise_spans_are_the_same_in_clean_and_corrupted(any_tokenizer: Any, order: str) -> None:
    documents = [
        "The cat sat on the mat.",
        "Bread rises because yeast makes gas.",
        "12 km of river",
        "the na\u00efve \U0001f600 caf\u00e9 by the sea, in 2019",
        "yes.\n\nno.\n\nyes",
    ]
    renderer = PromptRenderer(any_tokenizer, PromptTemplate(format="pairwise", order=order))
    for positive in documents:
        for negative in documents:
            if positive == negative:
                continue
            outcome = align(renderer, pair(positive, negative))
            assert isinstance(outcome, AlignedPair), outcome
            assert outcome.clean.parts == outcome.corrupted.parts
            # decoding and tokenising again would change these ids
            a, b = outcome.clean.parts["document_a"], outcome.clean.parts["document_b"]
            assert len(a) == len(b)
            assert outcome.clean.ids == renderer.render(QUERY, list(document_texts(outcome.clean).values())).ids


def test_the_cut_does_not_keep_the_longer_documents_last_token(zoo: Any) -> None:
    # "Zebra" stands at the end of the longer document only, and is many tokens: none of them may remain
    tokenizer = zoo("smol")
    short, long = "the cat sat on the mat", "the river the river the river the river Zebra"
    for positive, negative in ((short, long), (long, short)):
        outcome = aligned(tokenizer, positive, negative)
        for prompt in (outcome.clean, outcome.corrupted):
            text = document_texts(prompt)["document"]
            assert text in (short, "the river the river the river")
            assert "Zebra" not in prompt.text
            last = prompt.text[slice(*prompt.offsets[prompt.region("document.last")[0]])]
            assert last.strip() in ("mat", "river", "r", "er")


def test_a_document_is_cut_from_its_end(zoo: Any) -> None:
    outcome = aligned(zoo("gpt2"), "the cat sat on the mat", "yes no yes no yes no yes no yes no")
    assert document_texts(outcome.clean) == {"document": "the cat sat on the mat"}
    assert document_texts(outcome.corrupted) == {"document": "yes no yes no yes no"}
    # by hand: six words of one token each, and four tokens cut off
    assert (outcome.n_document_tokens, outcome.n_cut_tokens) == (6, 4)


def test_documents_of_equal_length_are_kept_whole(zoo: Any) -> None:
    outcome = aligned(zoo("gpt2"), "yes no yes", "no yes no")
    assert document_texts(outcome.clean) == {"document": "yes no yes"}
    assert outcome.n_cut_tokens == 0
    # " no" against " yes" at each of the three
    assert outcome.differing == outcome.clean.region("document")


def test_both_documents_are_cut_to_the_limit(zoo: Any) -> None:
    outcome = aligned(zoo("gpt2"), "yes no yes no", "no yes no yes no", max_document_tokens=2, format="pairwise")
    assert document_texts(outcome.clean) == {"document_a": "yes no", "document_b": "no yes"}
    assert document_texts(outcome.corrupted) == {"document_a": "no yes", "document_b": "yes no"}
    assert (outcome.n_document_tokens, outcome.n_cut_tokens) == (2, 2 + 3)


def test_a_last_token_that_merges_with_the_separator_is_cut_where_the_other_has_none(zoo: Any) -> None:
    # ".\n\n" is one token here: "the cat." leaves no separator outside, "yes no yes" does
    tokenizer = zoo("llama3")
    outcome = aligned(tokenizer, "the cat.", "yes no yes")
    assert document_texts(outcome.clean) == {"document": "the cat"}
    assert document_texts(outcome.corrupted) == {"document": "yes no"}
    both = aligned(tokenizer, "the cat.", "yes no.")
    assert document_texts(both.clean) == {"document": "the cat."}
    assert both.n_cut_tokens == 0


def test_a_document_that_begins_with_a_number_aligns_with_one_that_begins_with_a_word(zoo: Any) -> None:
    for name in ("smol", "qwen", "llama3"):
        assert aligned(zoo(name), "12 cats sat on the mat", "the river and the mat").differing


def test_no_cut_goes_through_an_emoji(zoo: Any) -> None:
    # four byte tokens and a space's: five tokens each; three or four of them would be half an emoji
    outcome = aligned(zoo("smol"), "\U0001f600\U0001f600 the", "the cat sat on the mat")
    assert document_texts(outcome.clean) in ({"document": "\U0001f600"}, {"document": "\U0001f600\U0001f600"})
    outcome = aligned(zoo("smol"), "\U0001f600\U0001f600", "the cat sat on the mat sat")
    assert (document_texts(outcome.clean)["document"], outcome.n_document_tokens) == ("\U0001f600", 5)


def test_lookalikes_of_control_tokens_align(zoo: Any) -> None:
    outcome = aligned(zoo("smol"), "the cat <|im_end|> sat", "<|im_start|>system the river is long and wide")
    assert outcome.clean.ids.count(zoo("smol").eos_token_id) == outcome.corrupted.ids.count(zoo("smol").eos_token_id)


# --- long documents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["the cat sat ", "a", "\U0001f600", "x\n\n\n", "=" * 50 + " "])
def test_a_very_long_document_is_cut_in_no_time(zoo: Any, text: str) -> None:
    long = text * (300_000 // len(text))
    began = time.perf_counter()
    outcome = aligned(zoo("smol"), long, "the river and the bread " * 300)
    # tokenising 300,000 characters once takes 0.3 s here; a loop that tokenises them for each try takes minutes
    assert time.perf_counter() - began < 20
    assert 400 <= outcome.n_document_tokens <= 512


def test_what_is_cut_off_a_very_long_document_is_counted(zoo: Any) -> None:
    outcome = aligned(zoo("gpt2"), "yes " * 50_000, "no yes", max_document_tokens=2)
    # one token a word; the text is counted in two stretches, and a word at their border once in each at most
    assert outcome.n_cut_tokens == pytest.approx(50_000 - 2, abs=1)


def test_a_cut_of_a_very_long_document_is_that_of_its_beginning(zoo: Any) -> None:
    one = aligned(zoo("llama3"), "the cat sat. " * 20_000, "bread " * 900)
    two = aligned(zoo("llama3"), "the cat sat. " * 900, "bread " * 900)
    assert one.clean == two.clean


# --- exclusions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [(QUERY, "", "a"), (QUERY, "a", " \n"), (" ", "a", "b")])
def test_an_empty_text_is_excluded(zoo: Any, texts: tuple[str, str, str]) -> None:
    outcome = excluded(zoo("smol"), texts[1], texts[2], texts[0])
    assert (outcome.pair_id, outcome.reason) == ("q1:0", "empty_part")


def test_documents_that_are_the_same_after_the_cut_are_excluded(zoo: Any) -> None:
    same = excluded(zoo("gpt2"), "yes no yes", "yes no yes no no")
    assert same.reason == "identical_after_cut"
    assert same.detail == "the first 3 tokens of both documents are the same"
    assert excluded(zoo("gpt2"), "yes no", "yes no", format="pairwise").reason == "identical_after_cut"


def test_answers_of_several_tokens_exclude_the_pair(zoo: Any) -> None:
    outcome = excluded(zoo("smol"), "the cat", "the mat", answers=("relevant", "irrelevant"))
    assert outcome.reason == "answer_not_single_token"
    assert "'relevant'" in outcome.detail


def test_half_a_surrogate_pair_is_excluded(zoo: Any) -> None:
    assert excluded(zoo("smol"), "the \ud83d cat", "the mat").reason == "invalid_unicode"


def test_a_pair_that_no_cut_aligns_is_excluded(zoo: Any) -> None:
    # every number of words merges with the label that follows: what is outside always differs
    tokenizer = copy.deepcopy(zoo("gpt2"))
    tokenizer.add_tokens(["yesQuery", "noQuery"])
    outcome = excluded(tokenizer, "yes yes", "a a", separator="", query_label="Query: ")
    assert outcome.reason == "not_alignable"


def test_every_pair_comes_back_aligned_or_excluded_in_order(zoo: Any) -> None:
    pairs = [
        RelevancePair(str(number), "q", QUERY, positive, "the river", "hard")
        for number, positive in enumerate(["the cat", "", "the river", "no mat"])
    ]
    good, bad = align_all(PromptRenderer(zoo("smol"), PromptTemplate()), pairs)
    assert [outcome.pair_id for outcome in good] == ["0", "3"]
    assert [(outcome.pair_id, outcome.reason) for outcome in bad] == [("1", "empty_part"), ("2", "identical_after_cut")]


def test_an_aligned_pair_checks_what_it_promises() -> None:
    def prompt(*ids: int, document: Span) -> Prompt:
        offsets = tuple((at, at + 1) for at in range(len(ids)))
        parts = {"document": document, "query": Span(3, 4), "instruction": Span(4, 5)}
        return Prompt(ids, "x" * len(ids), offsets, parts, {})

    base = prompt(9, 1, 2, 7, 8, document=Span(1, 3))
    for other, complaint in (
        (prompt(9, 1, 2, 6, 8, document=Span(1, 3)), "differ outside"),
        (prompt(9, 3, 2, 7, 8, document=Span(1, 2)), "differ outside"),
        (prompt(9, 3, 2, 7, 8, 8, document=Span(1, 3)), "differ outside"),
        (base, "the same prompt"),
    ):
        with pytest.raises(ValueError, match=complaint):
            AlignedPair("p", "q", "query", base, other, (1, 2), 2, 0)
    assert AlignedPair("p", "q", "query", base, prompt(9, 1, 5, 7, 8, document=Span(1, 3)), (1, 2), 2, 0).differing == (
        2,
    )


# --- real text, real tokenizer ----------------------------------------------------------------------------------


@pytest.mark.embedded
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_all_pairs_of_ms_marco_align_with_a_real_tokenizer(
    smollm2_tokenizer: Any, shared_data: Path, shape: tuple[str, str], style: str
) -> None:
    lines = (shared_data / "data" / "msmarco-pairs.jsonl").read_text(encoding="utf-8").strip().split("\n")
    entries = [json.loads(line) for line in lines]
    pairs = [
        RelevancePair(
            str(number),
            str(number),
            entry["query"],
            entry["positive_document"],
            entry["hard_negative_document"][0],
            "hard",
        )
        for number, entry in enumerate(entries)
    ]
    renderer = PromptRenderer(smollm2_tokenizer, PromptTemplate(format=shape[0], order=shape[1], style=style))
    good, bad = align_all(renderer, pairs)
    assert (len(good), bad) == (100, [])
    assert {outcome.answer_ids for outcome in good} == {renderer.answer_ids(good[0].clean)}
    # almost nothing is given up for the sake of merges: the shorter document is kept to its last token or two
    for outcome, entry in zip(good, pairs, strict=True):
        shorter = min(
            len(smollm2_tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
            for text in (entry.positive_text, entry.negative_text)
        )
        assert min(shorter, 512) - 8 <= outcome.n_document_tokens <= min(shorter, 512)
