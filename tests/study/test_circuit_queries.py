"""No query is of two kinds, whatever its id, case or white space; and prompts whose regions overlap are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import planted
from relscope.data import Collection, PairSet
from relscope.errors import InputError
from relscope.prompts import AlignedPair, PromptRenderer, PromptTemplate, align
from relscope.study import CircuitOptions
from relscope.study.circuit_measuring import ablation_of
from relscope.study.circuit_queries import check_apart, first_ids, parted, without_queries
from relscope.study.circuit_steps import Work, _part, _ranked
from relscope.study.prepare import Prepared
from tiny_study import Told

MODEL = planted.matching_model()
JUDGE = MODEL.judge
TEXTS = ("cat river", "Cat  River", "dog bread", "hill cat", "HILL cat ", "bread")


def pair(number: int, text: str) -> AlignedPair:
    return dataclasses.replace(MODEL.pairs[0], pair_id=f"p{number}", query_id=f"q{number}", query_text=text)


def prepared(template: PromptTemplate | None = None) -> Prepared:
    pairs = [pair(number, text) for number, text in enumerate(TEXTS)]
    renderer = PromptRenderer(JUDGE.tokenizer, template or PromptTemplate())
    return Prepared(JUDGE, JUDGE.contract, renderer, PairSet("six", planted.PAIRS, (), "0", 0), pairs, [])


def ids(pairs: list[AlignedPair]) -> set[str]:
    return {one.query_id for one in pairs}


def test_queries_of_one_text_have_the_id_of_the_first_of_them() -> None:
    named = [(f"q{number}", text) for number, text in enumerate(TEXTS)]
    assert first_ids(named) == {"q0": "q0", "q1": "q0", "q2": "q2", "q3": "q3", "q4": "q3", "q5": "q5"}


@pytest.mark.parametrize("seed", range(8))
def test_a_text_is_on_one_side_only_under_whatever_ids(seed: int) -> None:
    told = Told()
    options = CircuitOptions(reference=2, seed=seed)
    reference, evaluation = parted(prepared(), ["BREAD\n"], options, told)
    assert told.warnings == ["1 pairs are of queries that selected the circuit, and are not evaluated"]
    assert ids(reference) | ids(evaluation) == {"q0", "q1", "q2", "q3", "q4"}
    for same in ({"q0", "q1"}, {"q3", "q4"}):
        assert len(same & ids(reference)) in (0, 2)
        assert len(same & ids(evaluation)) in (0, 2)
    assert not ids(reference) & ids(evaluation)
    with pytest.raises(InputError, match="six: 3 queries are left beside the 1 that selected, and 3 of them"):
        parted(prepared(), ["bread"], CircuitOptions(reference=3), told)


def test_a_collection_loses_queries_of_the_same_words() -> None:
    collection = Collection(
        "c", {"a": "Who?\x00 me", "b": "who? you"}, {"d": "text"}, {"a": {"d": 1}, "b": {"d": 1}},
        run={"a": ("d",), "b": ("d",)}, run_is_ordered=True,
    )  # fmt: skip
    left = without_queries(collection, ["who?  ME"])
    assert (list(left.queries), list(left.qrels), list(left.run or ())) == (["b"], ["b"], ["b"])


@pytest.mark.parametrize(("order", "part"), [("dqi", "instruction"), ("idq", "query"), ("qdi", "instruction")])
def test_prompts_that_end_within_a_part_cannot_have_that_part_and_last(order: Any, part: str) -> None:
    regions = ("query", "document", "instruction", "last")
    for prefix, overlap in (("\n\nAnswer:", False), ("", True)):
        template = PromptTemplate(order=order, style="plain", answer_prefix=prefix)
        pairs = [align(PromptRenderer(JUDGE.tokenizer, template), planted.PAIRS[0])]
        assert isinstance(pairs[0], AlignedPair)
        clean = pairs[0].clean
        assert (clean.region("last")[0] in clean.region(part)) == overlap
        check_apart(pairs, ("query", "document", "instruction", "other"))  # type: ignore[arg-type]
        if not overlap:
            check_apart(pairs, regions)  # type: ignore[arg-type]
            continue
        with pytest.raises(InputError) as refused:
            check_apart(pairs, regions)  # type: ignore[arg-type]
        assert str(refused.value) == (
            f"regions {part}, last: share a token in the prompts of cat:0, which end with the {part}; a circuit needs "
            "regions that share none: give a prompt whose answer_prefix begins with a token of its own, such as "
            r"'\n\nAnswer:', or a run of heads without one of the two among its --regions"
        )


def test_random_parts_of_no_members_are_none() -> None:
    assert _part((), 0, 0) == ()


def test_the_seed_decides_whose_activations_are_taken() -> None:
    pairs = [*MODEL.pairs]
    for seed in (0, 7):
        options = CircuitOptions(kind="resample", seed=seed)
        reference = ablation_of(JUDGE, options, pairs, [(0, 0, "last")], 1 << 20).reference  # type: ignore[list-item]
        assert reference is not None
        assert reference.identity["seed"] == seed


def test_rankings_under_ablations_are_by_heapsort_where_prompts_are_pairwise(tmp_path: Path) -> None:
    _, pairs = planted.saved(MODEL, tmp_path)
    for template, method in ((PromptTemplate(), "pointwise"), (PromptTemplate(format="pairwise"), "heapsort")):
        work = Work(prepared(template), CircuitOptions(rerank=str(pairs)), [], Told())
        ranked = _ranked(work, [])
        assert ranked is not None
        assert ranked.identity["method"] == ranked.options.method_of(template) == method
