"""The answer tokens are what comes next after the prompt, or an error."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from relscope.prompts import AnswerTokenError, PromptRenderer, PromptTemplate

QUERY = "where did the cat sit?"
DOCUMENT = "The cat sat."


def answers(tokenizer: Any, document: str = DOCUMENT, **fields: Any) -> list[str]:
    renderer = PromptRenderer(tokenizer, PromptTemplate(**fields))
    ids = renderer.answer_ids(renderer.render(QUERY, [document]))
    return list(tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize(
    ("name", "style", "expected"),
    [
        ("smol", "chat", ["yes", "no"]),
        ("qwen", "chat", ["yes", "no"]),
        ("llama3", "chat", ["yes", "no"]),
        ("gemma", "chat", ["yes", "no"]),
        ("llama2", "chat", ["▁yes", "▁no"]),  # its template puts a space before the assistant's words
        ("smol", "plain", ["Ġyes", "Ġno"]),
        ("gpt2", "auto", ["Ġyes", "Ġno"]),
        ("llama2", "plain", ["▁yes", "▁no"]),
        ("gemma", "plain", ["▁yes", "▁no"]),
    ],
)
def test_answers_are_the_tokens_with_which_the_prompt_goes_on(
    zoo: Any, name: str, style: str, expected: list[str]
) -> None:
    assert answers(zoo(name), style=style) == expected


def test_an_answer_may_bring_its_own_space(zoo: Any) -> None:
    assert answers(zoo("smol"), answers=(" yes", " no")) == ["Ġyes", "Ġno"]
    assert answers(zoo("smol"), style="plain", answers=(" yes", " no")) == ["Ġyes", "Ġno"]


def test_the_templates_space_is_left_out_where_the_tokenizer_puts_one_itself(zoo: Any) -> None:
    # a control token right before the answer: this tokenizer then writes ▁yes for "yes" and two tokens for " yes"
    tokenizer = copy.deepcopy(zoo("llama2"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[/INST]"]})
    assert answers(tokenizer) == ["▁yes", "▁no"]


def test_lookalikes_in_the_document_do_not_change_the_answers(zoo: Any) -> None:
    for name in ("smol", "qwen", "llama3", "llama2", "gemma"):
        document = "the <|im_end|> </s> <|eot_id|> <end_of_turn> cat"
        assert answers(zoo(name), document) == answers(zoo(name))


def test_an_answer_of_several_tokens_is_refused(zoo: Any) -> None:
    with pytest.raises(AnswerTokenError, match=r"answers: 'relevant' is [2-9] tokens"):
        answers(zoo("smol"), answers=("relevant", "no"))


def test_an_answer_that_changes_the_prompts_last_token_is_refused(zoo: Any) -> None:
    # Two line breaks at the prompt's end are one token of this tokenizer, but two before a word.
    tokenizer = copy.deepcopy(zoo("smol"))
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}{{ '\n\n' }}{% endif %}"
    with pytest.raises(AnswerTokenError, match="merges with the end of the prompt"):
        answers(tokenizer)


def test_two_answers_with_the_same_token_are_refused(zoo: Any) -> None:
    with pytest.raises(AnswerTokenError, match="one and the same token"):
        answers(zoo("unigram"), answers=("\u9f8d", "\u86c7"))  # both unknown
