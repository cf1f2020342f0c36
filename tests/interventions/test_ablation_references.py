"""What stands in the place of an ablated activation: of which prompts and tokens it is, and what does not suit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ablations import ANSWERS, DOCUMENTS, QUERIES, SITES, TOLERANCE

import reference as slow
from relscope.errors import InputError
from relscope.interventions import Reference, Site, ablated, reference_of, references
from relscope.models import JudgeModel
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate, Span


def test_pairwise_documents_have_means_of_their_own(llama: JudgeModel, tiny_tokenizer: Any) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(format="pairwise"))
    first, second, judged = (
        renderer.render(QUERIES[0], [DOCUMENTS[i], DOCUMENTS[j]]) for i, j in [(0, 1), (1, 2), (2, 0)]
    )
    plain = slow.Reference(llama.model, "llama")
    runs = [(p, plain.activations(p.ids, "z", 1)) for p in (first, second)]
    values = torch.zeros(len(judged), runs[0][1].shape[1])
    for name in ("document_a", "document_b"):
        mean = torch.stack([run[position] for p, run in runs for position in p.region(name)]).mean(0)
        values[list(judged.region(name))] = mean
    wanted = plain.patched(judged.ids, ANSWERS, "z", 1, 0, judged.region("document"), values)
    with ablated(llama, [(1, 0, "document")], reference=reference_of(llama, [first, second])):
        assert llama.relevance([judged], ANSWERS).tolist() == pytest.approx([wanted], abs=TOLERANCE)


def test_resampled_values_are_of_another_query_and_depend_on_the_seed_alone(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    def relevance(of: Reference, prompts: list[Prompt]) -> list[float]:
        with ablated(llama, SITES, kind="resample", reference=of):
            return llama.relevance(prompts, ANSWERS).tolist()

    mixed = reference_of(llama, [*judged, *others], "resample")
    for prompt in judged:
        # Positions of the three others follow those of the three that are judged.
        assert min(mixed.cells(prompt)) >= sum(map(len, judged))
    forwards, backwards = relevance(mixed, judged), relevance(mixed, judged[::-1])
    assert forwards == pytest.approx(backwards[::-1], abs=TOLERANCE)
    seeds = [reference_of(llama, others, "resample", seed=seed) for seed in range(8)]
    assert len({tuple(of.cells(judged[0])) for of in seeds}) == len(others)
    with pytest.raises(InputError, match="all prompts have the query of a prompt that is judged"):
        relevance(reference_of(llama, judged, "resample"), judged)


def test_only_the_layers_that_are_asked_for_are_kept(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    of = reference_of(llama, others, "resample", sites=[Site("z", 2, "all", 0)])
    with ablated(llama, [(2, 1, "last")], kind="resample", reference=of):
        llama.relevance(judged, ANSWERS)
    with (
        pytest.raises(InputError, match="z of layer 1 was not gathered"),
        ablated(llama, [(1, 1, "last")], kind="resample", reference=of),
    ):
        pass


def test_too_little_memory_is_said_with_how_much_is_needed_and_what_takes_less(
    llama: JudgeModel, others: list[Prompt]
) -> None:
    least = 4 * sum(map(len, others)) * llama.shape.n_layers * llama.shape.n_heads * llama.shape.d_head
    reference_of(llama, others, "resample", memory_bytes=least)
    with pytest.raises(InputError) as refused:
        reference_of(llama, others, "resample", memory_bytes=least - 1)
    assert str(refused.value) == (
        f"memory: {(least - 1) / 2**20:.3g} MiB are too little for the reference's values, which take up to "
        f"{math.ceil(least / 2**20)} MiB: give at least that (--memory, in Python memory_bytes), fewer reference "
        "prompts (--reference of relscope circuit), or means of them (--kind mean)"
    )
    with pytest.raises(InputError, match=r"or means by region \(--positions region\) of fewer layers \(sites\)"):
        reference_of(llama, others, positions="relative", memory_bytes=1000)


def test_references_that_do_not_suit_are_refused(llama: JudgeModel, judged: list[Prompt], others: list[Prompt]) -> None:
    of = reference_of(llama, others)
    with pytest.raises(InputError, match="takes none"), ablated(llama, SITES, kind="zero", reference=of):
        pass
    with (
        pytest.raises(InputError, match="gathered for 'mean' and the ablation is 'resample'"),
        ablated(llama, SITES, kind="resample", reference=of),
    ):
        pass
    with pytest.raises(InputError, match="there are no prompts"):
        reference_of(llama, [])
    with pytest.raises(InputError, match="fixed needs reference prompts of one length"):
        reference_of(llama, others, positions="fixed")
    with pytest.raises(InputError, match="positions 'middle' do not exist: use one of: region"):
        reference_of(llama, others, positions="middle")
    with (
        pytest.raises(InputError, match="fixed positions are of"),
        ablated(llama, SITES, reference=reference_of(llama, others[:1], positions="fixed")),
    ):
        llama.relevance(judged[:1], ANSWERS)


def test_a_region_that_no_reference_prompt_has_is_refused(
    llama: JudgeModel, judged: list[Prompt], tiny_tokenizer: Any
) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(format="pairwise"))
    of = reference_of(llama, [renderer.render(QUERIES[0], list(DOCUMENTS[:2]))])
    with (
        pytest.raises(InputError, match="no value for region 'document' of a prompt that is judged"),
        ablated(llama, SITES, reference=of),
    ):
        llama.relevance(judged, ANSWERS)


def made_of(words: str) -> Prompt:
    """A prompt of one token a word: d is of the document, q of the query, "." the last; all else is the template's."""
    tokens = words.split()
    parts = {name: Span(tokens.index(name[0]), tokens.index(name[0]) + tokens.count(name[0]))
             for name in ("document", "query")}  # fmt: skip
    return Prompt(tuple(range(len(tokens))), "", ((0, 0),) * len(tokens), parts, {})


def test_a_token_of_the_template_is_found_by_its_place_before_the_next_part() -> None:
    whole, merged = made_of("bos turn : d d d x Q : q q ."), made_of("bos turn : d d Q : q .")
    layout = references._Parts.of([whole, merged], 1)
    texts = ((whole, "bos turn A d d d x Q : q q ."), (merged, "bos turn A d d Q : q ."))
    places = [
        {word: layout.cells(of)[at] for at, word in enumerate(text.split()) if word not in "dq."} for of, text in texts
    ]
    assert {name: cell for name, cell in places[0].items() if name != "x"} == places[1]
    assert len(set(places[0].values())) == 6
    weights = layout.weights(whole)
    assert weights[0].sum() == 2.0  # its own, and that of all tokens of the template
    assert weights[3].sum() == 1.0


def test_a_token_of_the_template_that_no_reference_prompt_has_is_given_the_mean_of_all() -> None:
    layout = references._Parts.of([made_of("bos turn : d d Q : q .")], 1)
    cells = layout.cells(made_of("bos turn : d d x Q : q ."))
    (whole,) = layout._cells_of("other")
    assert [at for at, cell in enumerate(cells) if cell == whole] == [5]
    donors = references._Donors.of([made_of("bos turn : d d d d d d Q : q .")], 0)
    assert set(donors.cells(made_of("bos turn : d d x Q : q ."))) <= set(range(13))


def test_a_whole_region_is_one_part_of_itself() -> None:
    weights = references._Parts({"document": 1, "query": 1, "last": 1}).weights(made_of("d d d d q q q ."))
    assert weights.sum(dim=0).tolist() == [4.0, 3.0, 1.0]
    assert weights.sum(dim=1).tolist() == [1.0] * 8
