"""Which prompts a question becomes, with which labels and weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from relscope.errors import InputError
from relscope.prompts import PromptRenderer, PromptTemplate
from relscope.tuning.config import Mix
from relscope.tuning.examples import ExampleMaker
from relscope.tuning.questions import Question, as_typed

QUESTION = Question("s:1", "s", "Where did the Cat sit?", "on the mat", ("in the hut", "by the sea"))
PASSAGES = {"s": ["on the mat", "a red bus", "two old men", "six big pigs"]}


def maker(tokenizer: Any, prompt_format: str = "pointwise", **mix: Any) -> ExampleMaker:
    values = {"hard": 1, "random": 1, "max_words": 60, "cut_share": 0.0, "plain_query_share": 0.0}
    renderer = PromptRenderer(tokenizer, PromptTemplate(format=prompt_format))
    return ExampleMaker([(renderer, 1.0)], PASSAGES, Mix().model_copy(update=values | mix), seed=0)


def texts(tokenizer: Any, examples: list[Any]) -> list[str]:
    return [tokenizer.decode(e.ids) for e in examples]


def test_a_pointwise_group_is_the_relevant_passage_then_hard_then_random(tiny_tokenizer: Any) -> None:
    examples = maker(tiny_tokenizer, hard=2).group(QUESTION, 0)
    assert [e.relevant for e in examples] == [True, False, False, False]
    # right and wrong weigh the same; a hard negative as much as three random ones
    assert [e.weight for e in examples] == pytest.approx([1.0, 3 / 7, 3 / 7, 1 / 7])
    prompts = texts(tiny_tokenizer, examples)
    assert "on the mat" in prompts[0]
    assert all(any(text in p for text in QUESTION.hard_negative_texts) for p in prompts[1:3])
    assert any(text in prompts[3] for text in PASSAGES["s"][1:])


def test_a_random_negative_is_never_the_relevant_passage(tiny_tokenizer: Any) -> None:
    make = maker(tiny_tokenizer, hard=0, random=3)
    prompts = texts(tiny_tokenizer, make.group(QUESTION, 0))
    assert sum("on the mat" in p for p in prompts) == 1
    assert {text for text in PASSAGES["s"] for p in prompts[1:] if text in p} == set(PASSAGES["s"][1:])


def test_a_random_negative_is_nothing_that_is_known_to_be_relevant(tiny_tokenizer: Any) -> None:
    known = Question("s:1", "s", "Who ran?", "on the mat", (), frozenset({"on the mat", "a red bus", "two old men"}))
    make = maker(tiny_tokenizer, hard=0, random=1)
    assert all("six big pigs" in texts(tiny_tokenizer, make.group(known, epoch))[1] for epoch in range(5))


def test_random_negatives_in_place_of_hard_ones_are_counted(tiny_tokenizer: Any) -> None:
    make = maker(tiny_tokenizer, hard=2, random=0)
    make.group(Question("s:1", "s", "Who ran?", "on the mat", ("in the hut",)), 0)
    assert make.n_substituted == 1


def test_a_pairwise_group_is_both_orders_of_one_pair(tiny_tokenizer: Any) -> None:
    first, second = maker(tiny_tokenizer, "pairwise", random=0).group(QUESTION, 0)
    assert (first.relevant, second.relevant) == (True, False)
    assert (first.weight, second.weight) == (1.0, 1.0)
    one, other = texts(tiny_tokenizer, [first, second])
    negative = next(text for text in QUESTION.hard_negative_texts if text in one)
    assert one.index("on the mat") < one.index(negative)
    assert other.index(negative) < other.index("on the mat")


def test_draws_depend_on_seed_epoch_and_question_alone(tiny_tokenizer: Any) -> None:
    make, again = (maker(tiny_tokenizer, cut_share=0.5, plain_query_share=0.5) for _ in range(2))
    other = Question("s:2", "s", "Who ran?", "a red bus", ("in the hut",))
    once = make.group(QUESTION, 3)
    make.group(other, 3)
    assert make.group(QUESTION, 3) == once == again.group(QUESTION, 3)
    assert len({tuple(make.group(QUESTION, epoch)) for epoch in range(12)}) > 3


def test_passages_are_cut_at_whole_words_and_queries_written_as_typed(tiny_tokenizer: Any) -> None:
    make = maker(tiny_tokenizer, max_words=2, plain_query_share=1.0)
    prompts = texts(tiny_tokenizer, make.group(QUESTION, 0))
    assert "Document: on the\n" in prompts[0]
    assert "where did the cat sit\n" in prompts[0]
    assert as_typed("?") == "?"


def test_templates_are_drawn_by_their_weights(tiny_tokenizer: Any) -> None:
    renderers = [(PromptRenderer(tiny_tokenizer, PromptTemplate(order=o)), w) for o, w in (("dqi", 3.0), ("qdi", 1.0))]
    make = ExampleMaker(renderers, PASSAGES, Mix(hard=1, random=0, cut_share=0.0, plain_query_share=0.0), 0)
    prompts = [tiny_tokenizer.decode(make.group(QUESTION, epoch)[0].ids) for epoch in range(400)]
    starts = Counter(prompt.index("Query:") < prompt.index("Document:") for prompt in prompts)
    assert 70 <= starts[True] <= 130  # 100 expected, standard deviation 8.7


def test_too_few_passages_for_random_negatives_are_an_error(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="data: s has too few different passages"):
        maker(tiny_tokenizer, hard=0, random=9).group(QUESTION, 0)


def test_a_question_that_cannot_be_rendered_is_counted(tiny_tokenizer: Any) -> None:
    make = maker(tiny_tokenizer)
    assert make.group(Question("s:3", "s", "   ", "on the mat", ("in the hut",)), 0) == []
    assert make.n_refused == 1
