"""Ranking methods on verdicts worked out by hand, and what each of them asks for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relscope.study import METHODS
from relscope.study.ranking_methods import Documents, most_prompts

PAIRWISE = list(METHODS["pairwise"])
Judge = Callable[[Documents], float]


def ranked(method: str, documents: str, judge: Judge, top: int = 99) -> tuple[str, list[float], list[Documents]]:
    """Run a method to its end: its order, its values, and the distinct prompts it asked for."""
    methods = METHODS["pointwise"] | METHODS["pairwise"]
    ranking = methods[method](list(documents), top)
    asked: dict[Documents, None] = {}
    answer = None
    while True:
        try:
            wanted = ranking.send(answer)  # type: ignore[arg-type]
        except StopIteration as end:
            order, values = zip(*end.value, strict=True) if end.value else ((), ())
            return "".join(order), list(values), list(asked)
        asked |= dict.fromkeys(wanted)
        answer = [judge(documents) for documents in wanted]


def by_strength(strength: dict[str, float], bias: float = 0.0) -> Judge:
    """Consistent verdicts; `bias` is what standing first adds."""

    def judge(documents: Documents) -> float:
        return strength[documents[0]] - (strength[documents[1]] if len(documents) > 1 else 0.0) + bias

    return judge


STRENGTHS = st.permutations("abcdefg").flatmap(lambda order: st.integers(0, 7).map(lambda n: order[:n]))


@given(STRENGTHS, st.integers(-50, 50))
def test_consistent_preferences_give_one_order_by_every_method_whatever_standing_first_adds(
    order: list[str], bias: int
) -> None:
    strength = {document: float(-place) for place, document in enumerate(order)}
    given_in = "".join(sorted(order))
    for method in ("pointwise", *PAIRWISE):
        found, values, _ = ranked(method, given_in, by_strength(strength, bias))
        assert found == "".join(order)
        assert values == sorted(values, reverse=True)


@given(STRENGTHS, st.integers(1, 8))
def test_the_first_top_places_are_the_best_documents_in_order(order: list[str], top: int) -> None:
    strength = {document: float(-place) for place, document in enumerate(order)}
    for method in ("sliding-window", "heapsort"):
        found, _, _ = ranked(method, "".join(sorted(order)), by_strength(strength), top)
        assert found[:top] == "".join(order)[:top]
        assert sorted(found) == sorted(order)
        if method == "heapsort":  # the others come as the first stage had them
            assert list(found[top:]) == sorted(found[top:])


def test_a_verdict_that_follows_the_place_alone_leaves_the_first_stage_as_it_is() -> None:
    for method in PAIRWISE:
        assert ranked(method, "dbca", lambda documents: 3.0)[0] == "dbca"


def test_all_pairs_counts_wins_by_hand() -> None:
    # margins: ab = 1 - 3 = -2, ac = 4 - 0 = +4, bc = 2 - 2 = 0; wins: a 1, b 1 + 1/2, c 1/2
    ld = {"ab": 1.0, "ba": 3.0, "ac": 4.0, "ca": 0.0, "bc": 2.0, "cb": 2.0}
    found, values, asked = ranked("all-pairs", "abc", lambda documents: ld["".join(documents)])
    assert (found, values) == ("bac", [1.5, 1.0, 0.5])
    assert asked == [tuple(pair) for pair in ("ab", "ba", "ac", "ca", "bc", "cb")]


def test_all_pairs_parts_a_cycle_by_the_sum_of_margins() -> None:
    # a beats b by 2, b beats c by 6, c beats a by 4: one win each; sums a 2 - 4, b 6 - 2, c 4 - 6
    margin = {"ab": 2.0, "bc": 6.0, "ca": 4.0}

    def judge(documents: Documents) -> float:
        pair = "".join(documents)
        return margin.get(pair, 0.0) / 2 - margin.get(pair[::-1], 0.0) / 2

    found, values, _ = ranked("all-pairs", "cab", judge)
    assert (found, values) == ("bca", [1.0, 1.0, 1.0])  # c and a have the sum -2 both: as the first stage has them


def test_one_pass_of_the_window_by_hand() -> None:
    # d c b a: b | a swap -> d c a b; c | a swap -> d a c b; d | a swap -> a d c b
    strength = dict(zip("abcd", (4.0, 3.0, 2.0, 1.0), strict=True))
    found, values, asked = ranked("sliding-window", "dcba", by_strength(strength), top=1)
    assert (found, values) == ("adcb", [4.0, 3.0, 2.0, 1.0])
    assert asked == [tuple(pair) for pair in ("ba", "ab", "ca", "ac", "da", "ad")]


def test_documents_that_meet_again_are_no_new_prompts() -> None:
    # sorted already: every pass meets the same neighbours
    strength = dict(zip("abcd", (4.0, 3.0, 2.0, 1.0), strict=True))
    _, _, asked = ranked("sliding-window", "abcd", by_strength(strength), top=3)
    assert len(asked) == 2 * 3 < most_prompts("sliding-window", 4, 3) == 2 * (3 + 2 + 1)


def test_a_heap_of_three_by_hand() -> None:
    # c b a: children b, a of c: a goes before b, a before c -> a b c; a is taken; c b: b goes before c
    strength = dict(zip("abc", (3.0, 2.0, 1.0), strict=True))
    found, _, asked = ranked("heapsort", "cba", by_strength(strength))
    assert found == "abc"
    assert asked == [tuple(pair) for pair in ("ab", "ba", "ca", "ac", "cb", "bc")]


VERDICTS = st.dictionaries(
    st.sampled_from(list(permutations("abcdefg", 2))), st.integers(-2, 2).map(float), min_size=0, max_size=42
)


@given(VERDICTS, st.integers(0, 7), st.integers(1, 8))
def test_whatever_the_verdicts_no_method_loses_a_document_or_asks_for_more_than_is_stated(
    verdicts: dict[tuple[str, str], float], n: int, top: int
) -> None:
    documents = "abcdefg"[:n]
    for method in ("pointwise", *PAIRWISE):
        found, _, asked = ranked(method, documents, lambda d: verdicts.get(d, 0.0), top)  # type: ignore[arg-type]
        assert sorted(found) == list(documents)
        assert len(asked) <= most_prompts(method, n, top)
        if method in ("pointwise", "all-pairs"):
            assert len(asked) == most_prompts(method, n, top)


@pytest.mark.parametrize(
    ("method", "n", "top", "most"),
    [
        ("pointwise", 100, 10, 100),
        ("all-pairs", 100, 10, 9_900),
        ("sliding-window", 100, 10, 2 * (99 + 98 + 97 + 96 + 95 + 94 + 93 + 92 + 91 + 90)),
        ("heapsort", 100, 10, 2 * (2 * 100 + 2 * 9 * 6)),
        ("heapsort", 1, 10, 0),
        ("sliding-window", 0, 10, 0),
    ],
)
def test_the_most_prompts_are_as_documented(method: str, n: int, top: int, most: int) -> None:
    assert most_prompts(method, n, top) == most
