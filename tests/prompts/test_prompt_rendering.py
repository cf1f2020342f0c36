"""Prompts: their text, their ids, and whose each token is."""

from __future__ import annotations

import copy
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from awkward import plain_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relscope.errors import InputError
from relscope.prompts import PartError, Prompt, PromptRenderer, PromptTemplate, Span

QUERY = "where did the cat sit?"
DOCUMENT = "The cat sat on the mat near the river."
SHAPES = [("pointwise", "dqi"), ("pointwise", "qdi"), ("pointwise", "idq"), ("pairwise", "dqi"), ("pairwise", "idq")]
# the tokenizers live as long as the session and do not change, so examples may share them
SHARED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def content_pieces(template: PromptTemplate, query: str, documents: list[str]) -> list[tuple[str, str | None]]:
    """The user's turn as the paper arranges it, written out by hand: (text, part)."""
    question = [("Query: ", None), (query, "query")]
    instruction = [(template.instruction, "instruction")]
    if template.format == "pointwise":
        document = [("Document: ", None), (documents[0], "document")]
    else:
        document = [("Document A: ", None), (documents[0], "document_a"), ("\n\nDocument B: ", None)]
        document += [(documents[1], "document_b")]
    blocks = {"d": document, "q": question, "i": instruction}
    pieces: list[tuple[str, str | None]] = []
    for letter in template.order:
        pieces += ([("\n\n", None)] if pieces else []) + blocks[letter]
    return pieces


def expected_text(tokenizer: Any, content: str, **variables: Any) -> str:
    """The prompt's text, from the whole content handed to the chat template in one piece."""
    if tokenizer.chat_template is None:
        return content + "\n\nAnswer:"
    turn = [{"role": "user", "content": content}]
    return str(
        tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, enable_thinking=False, **variables
        )
    )


def slow_parts(tokenizer: Any, text: str, content: list[tuple[str, str | None]]) -> dict[str, list[int]]:
    """Whose each token is, by labelling every single character; offsets from a tokenizer that does not trim them."""
    joined = "".join(piece for piece, _ in content)
    start = text.index(joined)
    label: list[str | None] = [None] * start
    for piece, part in content:
        label += [part] * len(piece)
    label += [None] * (len(text) - len(label))
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.post_processor = None
    backend.no_truncation()
    owned: dict[str, list[int]] = {}
    for position, (first, end) in enumerate(backend.encode(text, add_special_tokens=False).offsets):
        owner = label[first] if first < len(text) else None
        for character in range(first, end):
            if not text[character].isspace():
                owner = label[character]
                break
        if text[first:end] == " " and label[first] is None and end < len(text) and label[end] is not None:
            owner = label[end]  # the single space before a part's first word goes with it
        if owner is not None:
            owned.setdefault(owner, []).append(position)
    return owned


def render(tokenizer: Any, documents: list[str], query: str = QUERY, **fields: Any) -> Prompt:
    return PromptRenderer(tokenizer, PromptTemplate(**fields)).render(query, documents)


def words(tokenizer: Any, prompt: Prompt, region: str) -> str:
    return str(tokenizer.decode([prompt.ids[position] for position in prompt.region(region)]))


# --- text and ids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt_format", "order"), SHAPES)
def test_the_text_is_what_the_chat_template_writes(any_tokenizer: Any, prompt_format: str, order: str) -> None:
    template = PromptTemplate(format=prompt_format, order=order)
    documents = [DOCUMENT, "Bread rises."][: len(template.documents)]
    prompt = PromptRenderer(any_tokenizer, template).render(QUERY, documents)
    content = "".join(piece for piece, _ in content_pieces(template, QUERY, documents))
    assert prompt.text == expected_text(any_tokenizer, content)


def test_the_ids_are_those_of_the_tokenizers_own_chat_rendering(any_tokenizer: Any) -> None:
    if any_tokenizer.chat_template is None:
        pytest.skip("this tokenizer has no chat template")
    content = f"Document: {DOCUMENT}\n\nQuery: {QUERY}\n\n{PromptTemplate().instruction}"
    turn = [{"role": "user", "content": content}]
    ids = any_tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False, enable_thinking=False)
    assert render(any_tokenizer, [DOCUMENT]).ids == tuple(ids)


def test_the_ids_of_a_plain_prompt_are_those_of_its_text_without_an_end_token(any_tokenizer: Any) -> None:
    prompt = render(any_tokenizer, [DOCUMENT], style="plain")
    ids = any_tokenizer(prompt.text)["input_ids"]
    # only the BERT-like tokenizer puts a token behind the text
    assert prompt.ids == tuple(ids[:-1] if any_tokenizer.sep_token else ids)


@pytest.mark.parametrize("name", ["llama3", "llama2", "gemma"])
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_bos_comes_once_where_template_and_tokenizer_both_add_it(zoo: Any, name: str, style: str) -> None:
    tokenizer = zoo(name)
    prompt = render(tokenizer, [DOCUMENT], style=style)
    assert prompt.ids.count(tokenizer.bos_token_id) == 1
    assert prompt.ids[0] == tokenizer.bos_token_id


def test_bos_comes_once_where_a_plain_prompt_writes_it_itself(zoo: Any) -> None:
    tokenizer = zoo("llama3")
    renderer = PromptRenderer(tokenizer, PromptTemplate(style="plain", document_label="<|begin_of_text|>Document: "))
    prompt = renderer.render(QUERY, [DOCUMENT])
    assert prompt.ids.count(tokenizer.bos_token_id) == 1
    assert renderer.answer_ids(prompt) == tuple(tokenizer.convert_tokens_to_ids(["Ġyes", "Ġno"]))


def test_bos_before_a_plain_prompt_belongs_to_no_part(zoo: Any) -> None:
    prompt = render(zoo("llama3"), [DOCUMENT], style="plain", order="idq")
    assert prompt.offsets[0] == (0, 0)
    assert prompt.parts["instruction"].start == 1
    assert 0 in prompt.region("other")


def test_the_tokenizers_own_truncation_does_not_cut_the_prompt(zoo: Any) -> None:
    tokenizer = copy.deepcopy(zoo("smol"))
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=300)
    assert render(tokenizer, [DOCUMENT]).ids == render(zoo("smol"), [DOCUMENT]).ids


# --- whose each token is ----------------------------------------------------------------------------------------


@SHARED
@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_spans_are_those_of_a_labelling_character_by_character(
    any_tokenizer: Any, data: Any, shape: tuple[str, str]
) -> None:
    template = PromptTemplate(format=shape[0], order=shape[1])
    query, *documents = (data.draw(plain_text()).strip() for _ in range(1 + len(template.documents)))
    try:
        prompt = PromptRenderer(any_tokenizer, template).render(query, documents)
    except PartError as error:
        if error.reason != "no_own_token":  # a part that a normaliser empties (a lone zero-width space) has none
            raise
        return
    content = content_pieces(template, query, documents)
    text = expected_text(any_tokenizer, "".join(piece for piece, _ in content))
    assert prompt.text == text
    assert prompt.ids == tuple(any_tokenizer(text, add_special_tokens=False)["input_ids"])
    expected = slow_parts(any_tokenizer, text, content)
    assert {name: list(span) for name, span in prompt.parts.items()} == expected


@SHARED
@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_segments_concatenate_to_the_text(any_tokenizer: Any, data: Any, shape: tuple[str, str]) -> None:
    template = PromptTemplate(format=shape[0], order=shape[1])
    query, *documents = (data.draw(plain_text()) for _ in range(1 + len(template.documents)))
    try:
        prompt = PromptRenderer(any_tokenizer, template).render(query, documents)
    except PartError:
        return
    segments = prompt.segments()
    assert "".join(text for text, _ in segments) == prompt.text
    assert all(one[1] != two[1] for one, two in pairwise(segments))


@pytest.mark.parametrize("name", ["smol", "qwen", "llama3", "llama2", "gemma", "gpt2"])
def test_the_separator_before_the_instruction_is_not_instruction(zoo: Any, name: str) -> None:
    tokenizer = zoo(name)
    prompt = render(tokenizer, [DOCUMENT])
    assert words(tokenizer, prompt, "instruction").strip(" ") == PromptTemplate().instruction
    first = prompt.region("instruction.first")[0]
    assert prompt.text[slice(*prompt.offsets[first])].startswith("Do")


@pytest.mark.parametrize("name", ["smol", "qwen", "llama3", "llama2", "gemma", "gpt2"])
def test_query_and_document_begin_at_their_first_word_whether_or_not_the_template_trims(zoo: Any, name: str) -> None:
    tokenizer = zoo(name)
    for order in ("dqi", "qdi", "idq"):
        prompt = render(tokenizer, [f"  \n{DOCUMENT}\n "], f"\n {QUERY} ", order=order)
        assert words(tokenizer, prompt, "document").strip() == DOCUMENT
        assert words(tokenizer, prompt, "query").strip() == QUERY
        assert prompt.text[slice(*prompt.offsets[prompt.region("document.first")[0]])] == " The"
        assert prompt.text[slice(*prompt.offsets[prompt.region("query.first")[0]])] == " where"


def test_trimming_and_not_trimming_templates_give_the_same_spans(zoo: Any) -> None:
    trimming = copy.deepcopy(zoo("smol"))
    trimming.chat_template = trimming.chat_template.replace("message['content']", "message['content'] | trim")
    for shape in SHAPES:
        template = PromptTemplate(format=shape[0], order=shape[1])
        documents = [DOCUMENT, "Bread."][: len(template.documents)]
        assert PromptRenderer(trimming, template).render(QUERY, documents) == PromptRenderer(
            zoo("smol"), template
        ).render(QUERY, documents)


def test_a_query_inside_the_document_is_not_taken_for_the_query(zoo: Any) -> None:
    tokenizer = zoo("smol")
    document = f"{QUERY} {DOCUMENT} Query: {QUERY}"
    prompt = render(tokenizer, [document])
    assert words(tokenizer, prompt, "document").strip() == document
    assert words(tokenizer, prompt, "query").strip() == QUERY
    assert prompt.parts["query"].start >= prompt.parts["document"].stop


def test_a_query_equal_to_the_document_and_to_the_instruction_has_its_own_place(zoo: Any) -> None:
    instruction = PromptTemplate().instruction
    tokenizer = zoo("smol")
    prompt = render(tokenizer, [instruction], instruction)
    assert prompt.parts["document"].stop <= prompt.parts["query"].start
    assert prompt.parts["query"].stop <= prompt.parts["instruction"].start
    assert {words(tokenizer, prompt, name).strip() for name in prompt.parts} == {instruction}


def test_a_token_over_a_parts_edge_belongs_to_the_part_it_begins_in(zoo: Any) -> None:
    tokenizer = zoo("llama3")  # ".\n\n" is one token
    prompt = render(tokenizer, [DOCUMENT])
    last = prompt.region("document.last")[0]
    assert prompt.text[slice(*prompt.offsets[last])] == ".\n\n"
    assert prompt.offsets[last][0] < prompt.characters["document"].stop < prompt.offsets[last][1]


def test_a_space_on_its_own_before_a_number_goes_with_the_part(zoo: Any) -> None:
    tokenizer = zoo("llama3")  # trims offsets, and never merges a space with a digit
    prompt = render(tokenizer, ["12 cats"])
    first = prompt.region("document.first")[0]
    assert prompt.text[slice(*prompt.offsets[first])] == " "
    assert prompt.text[slice(*prompt.offsets[first + 1])] == "12"
    assert prompt.text[slice(*prompt.offsets[first - 1])] == ":"


def test_the_tokens_of_one_emoji_stay_together(zoo: Any) -> None:
    prompt = render(zoo("smol"), ["\U0001f600"])
    assert prompt.parts["document"] == Span(prompt.parts["document"].start, prompt.parts["document"].start + 5)
    assert prompt.segments()[1] == (" \U0001f600", "document")


def test_normalised_text_keeps_its_place_in_the_original(zoo: Any) -> None:
    document = "nai\u0308ve cafe\u0301 by the sea"
    tokenizer = zoo("qwen")
    prompt = render(tokenizer, [document])
    assert words(tokenizer, prompt, "document").strip() == unicodedata.normalize("NFC", document)
    assert document in prompt.text


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", "  ", "\n\t\u00a0"])
def test_an_empty_part_is_refused(zoo: Any, empty: str) -> None:
    for query, document in ((empty, DOCUMENT), (QUERY, empty)):
        with pytest.raises(PartError, match="is empty") as caught:
            render(zoo("smol"), [document], query)
        assert caught.value.reason == "empty_part"


def test_half_a_surrogate_pair_is_refused(zoo: Any) -> None:
    with pytest.raises(PartError, match=r"document is not valid Unicode .* character 3") as caught:
        render(zoo("smol"), ["cat\ud83d"])
    assert caught.value.reason == "invalid_unicode"


def test_a_part_that_merges_with_the_text_before_it_is_refused(zoo: Any) -> None:
    # "!" and the document's "!" become one token, which begins in the label
    tokenizer = copy.deepcopy(zoo("smol"))
    tokenizer.add_tokens(["!!!"])
    with pytest.raises(PartError, match="document has no token of its own") as caught:
        render(tokenizer, ["!"], document_label="Document!!")
    assert caught.value.reason == "no_own_token"


@pytest.mark.parametrize("documents", [[], [DOCUMENT, DOCUMENT], DOCUMENT])
def test_a_pointwise_prompt_takes_one_document(zoo: Any, documents: Any) -> None:
    with pytest.raises(InputError, match="pointwise prompt takes 1 document"):
        render(zoo("smol"), documents)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        chat_template = None
        all_special_ids: tuple[int, ...] = ()

    with pytest.raises(InputError, match="Slow gives no character offsets"):
        PromptRenderer(Slow(), PromptTemplate())
