"""Ablations within one another, what is left when they end, and passes and sites that they refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from ablations import ANSWERS, OF_LAYERS, SITES

from families import as_judge, tiny_model
from relscope.errors import InputError
from relscope.interventions import Site, ablated, reference_of
from relscope.models import JudgeModel
from relscope.prompts import Prompt


def n_hooks(judge: JudgeModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in judge.model.modules())


def test_an_inner_ablation_adds_to_the_outer_one(llama: JudgeModel, judged: list[Prompt]) -> None:
    with ablated(llama, SITES, kind="zero"):
        both = llama.relevance(judged, ANSWERS)
        outer = n_hooks(llama)
    with ablated(llama, SITES[:3], kind="zero"):
        first = llama.relevance(judged, ANSWERS)
        with ablated(llama, SITES[3:], kind="zero"):
            assert llama.relevance(judged, ANSWERS).tolist() == both.tolist()
        assert llama.relevance(judged, ANSWERS).tolist() == first.tolist()
    assert outer > n_hooks(llama) == 0


def test_where_both_ablate_the_inner_values_stand(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    of = reference_of(llama, others)
    with ablated(llama, SITES, kind="zero"), ablated(llama, SITES, reference=of):
        found = llama.relevance(judged, ANSWERS)
    with ablated(llama, SITES, reference=of):
        assert llama.relevance(judged, ANSWERS).tolist() == found.tolist()


class StopError(Exception):
    pass


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    with contextlib.suppress(StopError):
        yield


def test_everything_is_restored_after_an_exception(llama: JudgeModel, judged: list[Prompt]) -> None:
    plain = llama.relevance(judged, ANSWERS)
    with stopped(), ablated(llama, SITES, kind="zero"), ablated(llama, OF_LAYERS, kind="zero"):
        raise StopError
    # Within a pass, and while the context is being entered.
    handle = llama.layers[2].mlp.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(StopError()))
    with stopped(), ablated(llama, SITES, kind="zero"):
        llama.relevance(judged, ANSWERS)
    handle.remove()
    with pytest.raises(InputError), ablated(llama, [*SITES, Site("q", 0, "last", 0)], kind="zero"):
        pass
    assert (n_hooks(llama), llama.edits) == (0, [])
    assert llama.relevance(judged, ANSWERS).tolist() == plain.tolist()


def test_a_context_can_be_used_after_a_pass_failed_in_it(llama: JudgeModel, judged: list[Prompt]) -> None:
    with ablated(llama, SITES, kind="zero"):
        wanted = llama.relevance(judged, ANSWERS)
        too_long = Prompt((1,) * 600, "", ((0, 0),) * 600, judged[0].parts, {})
        with pytest.raises(InputError, match="600 tokens"):
            llama.relevance([too_long], ANSWERS)
        assert llama.relevance(judged, ANSWERS).tolist() == wanted.tolist()


@pytest.mark.parametrize("sites", [SITES, []])
def test_passes_that_know_no_regions_are_refused(llama: JudgeModel, judged: list[Prompt], sites: Any) -> None:
    ids = judged[0].ids
    with ablated(llama, sites, kind="zero"):
        for judge_it in (
            lambda: llama.logit_diff([ids], [ANSWERS]),
            lambda: llama.record(ids),
            lambda: llama.next_token_probabilities(ids),
            lambda: reference_of(llama, judged),
        ):
            with pytest.raises(InputError, match=r"judged by judge.relevance\(prompts, answer_ids\)"):
                judge_it()


def test_half_precision_rounds_no_further_than_the_model_does(tiny_tokenizer: Any, judged: list[Prompt]) -> None:
    model = tiny_model("llama", len(tiny_tokenizer))
    exact, half = as_judge(model), as_judge(tiny_model("llama", len(tiny_tokenizer)).bfloat16())
    found = []
    for judge in (exact, half):
        with ablated(judge, SITES, reference=reference_of(judge, judged)):
            found.append(judge.relevance(judged, ANSWERS))
    plain = [judge.relevance(judged, ANSWERS) for judge in (exact, half)]
    # bf16 keeps 8 bits: the rounding of the plain model, a few times over.
    assert (found[1] - found[0]).abs().max() <= 3 * (plain[1] - plain[0]).abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mean"}, r"a mean ablation needs one: reference_of\(judge, prompts, 'mean'\)"),
        ({"kind": "middle"}, "kind 'middle' of an ablation does not exist: use one of: mean, zero, resample"),
    ],
)
def test_ablations_without_what_they_need_are_refused(llama: JudgeModel, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message), ablated(llama, SITES, **options):
        pass


@pytest.mark.parametrize(
    "site", [Site("z", 4, "last", 0), (0, 4, "last"), (-1, 0, "last"), Site("resid_pre", 0, "last")]
)
def test_sites_that_cannot_be_ablated_are_refused(llama: JudgeModel, site: Any) -> None:
    with (
        pytest.raises(InputError, match=r"(layer|head) -?[14] does not exist: |cannot be ablated; choose from z"),
        ablated(llama, [site], kind="zero"),
    ):
        pass
