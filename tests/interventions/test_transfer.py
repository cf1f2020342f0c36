"""Activations of one model in another: against plain hooks and full passes, and where the outcome is known."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from example_pairs import aligned
from families import (
    MODULE_COMPONENTS,
    N_HEADS,
    N_LAYERS,
    as_judge,
    draw_weights,
    from_config,
    granite,
    tiny_judge,
    tiny_model,
)
from paper_model import Q, Y, paper_model, prompt
from reference import Reference
from relscope.errors import InputError
from relscope.interventions import (
    Site,
    Transfer,
    all_sites,
    patch_pair,
    transfer_cost,
    transfer_pair,
)
from relscope.prompts import AlignedPair

# As for patches within a model: LD of order 1, summed in another order than the reference's; rounding is at most 2e-6.
TOLERANCE = 2e-5
REGIONS = ["query", "document", "last", "all", "other", "document.last"]
PAIRWISE_REGIONS = ["document_a", "document_b.first", "instruction", "all"]


def slowly(receiver: Reference, donor: Reference, pair: AlignedPair, sites: list[Site], prompt: str) -> torch.Tensor:
    """LD of the receiver with each site from the donor: two plain hooks and two full passes a site, float64."""
    read = pair.clean if prompt == "clean" else pair.corrupted
    kept: dict[tuple[str, int], torch.Tensor] = {}
    values = []
    for site in sites:
        key = site.component, site.layer
        if key not in kept:
            kept[key] = donor.activations(read.ids, *key)
        positions = read.region(site.region)
        values.append(receiver.patched(read.ids, pair.answer_ids, *key, site.head, positions, kept[key]))
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def models(family: str, tiny_tokenizer: Any) -> Transfer:
    """Two models of one family with nothing in common."""
    return Transfer(tiny_judge(family, tiny_tokenizer), tiny_judge(family, tiny_tokenizer, seed=1))


@pytest.fixture(scope="module")
def references(family: str, models: Transfer) -> tuple[Reference, Reference]:
    return Reference(models.receiver.model, family), Reference(models.donor.model, family)


@pytest.fixture(scope="module")
def llamas(tiny_tokenizer: Any) -> Transfer:
    return Transfer(tiny_judge("llama", tiny_tokenizer), tiny_judge("llama", tiny_tokenizer, seed=1))


@pytest.mark.parametrize(
    ("template", "prompt", "regions"),
    [({}, "clean", REGIONS), ({"format": "pairwise"}, "corrupted", PAIRWISE_REGIONS)],
    ids=["pointwise", "pairwise"],
)
def test_transfers_equal_full_passes_with_hooks(
    models: Transfer, references: Any, tiny_tokenizer: Any, template: dict[str, Any], prompt: Any, regions: list[str]
) -> None:
    pair = aligned(tiny_tokenizer, **template)
    sites = all_sites(MODULE_COMPONENTS, regions, N_LAYERS, N_HEADS)
    found = transfer_pair(models, pair, sites, prompt=prompt)
    wanted = slowly(*references, pair, sites, prompt)
    # The comparison says little unless transfers move the verdict, and by different amounts.
    assert wanted.std() > 1e-2
    assert (found.ld_patched - wanted).abs().max() <= TOLERANCE
    ids = pair.clean.ids if prompt == "clean" else pair.corrupted.ids
    receiver, donor = references
    assert found.ld_clean == pytest.approx(donor.logit_diff(ids, pair.answer_ids), abs=TOLERANCE)
    assert found.ld_corrupted == pytest.approx(receiver.logit_diff(ids, pair.answer_ids), abs=TOLERANCE)


def test_the_plain_way_equals_full_passes_with_hooks(models: Transfer, references: Any, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites(MODULE_COMPONENTS, ["query", "last"], N_LAYERS, N_HEADS)
    found = transfer_pair(models, pair, sites, prompt="corrupted", restart=False)
    assert (found.ld_patched - slowly(*references, pair, sites, "corrupted")).abs().max() <= TOLERANCE


def test_a_donor_that_is_the_receiver_changes_nothing(models: Transfer, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites(MODULE_COMPONENTS, REGIONS, N_LAYERS, N_HEADS)
    found = transfer_pair(Transfer(models.receiver, models.receiver), pair, sites, prompt="clean")
    assert found.ld_clean == found.ld_corrupted
    # The suffix is computed again in another batch: rounding of an LD of order 1.
    assert (found.ld_patched - found.ld_corrupted).abs().max() < TOLERANCE


@pytest.mark.parametrize("prompt", ["clean", "corrupted"])
def test_the_whole_final_residual_gives_the_donors_verdict_where_both_read_out_alike(
    family: str, models: Transfer, tiny_tokenizer: Any, prompt: Any
) -> None:
    donor = copy.deepcopy(models.receiver.model)
    judge = as_judge(donor, tiny_tokenizer)
    for layer in judge.layers:  # all but embeddings, final norm and unembedding
        draw_weights(layer.module, seed=7 + layer.index)
    pair = aligned(tiny_tokenizer)
    sites = [Site("resid_post", N_LAYERS - 1, region) for region in ("all", "last")]
    found = transfer_pair(Transfer(models.receiver, judge), pair, sites, prompt=prompt)
    # Nothing is computed but the read-out, of the same numbers.
    assert found.ld_patched.tolist() == [found.ld_clean] * 2
    assert abs(found.ld_clean - found.ld_corrupted) > 0.01


def test_the_receiver_reads_out_what_the_donor_gives(llamas: Transfer, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    found = transfer_pair(llamas, pair, [Site("resid_post", N_LAYERS - 1, "last")], prompt="clean")
    resid = llamas.donor.record(pair.clean.ids).resid_post[-1, -1]
    yes, no = llamas.receiver.answer_logits(resid, pair.answer_ids).tolist()
    assert found.ld_patched.item() == pytest.approx(yes - no, abs=1e-6)
    assert abs(found.ld_patched.item() - found.ld_clean) > 0.01


def test_what_lies_before_the_first_differing_token_counts_too(llamas: Transfer, tiny_tokenizer: Any) -> None:
    # Within one model, patching the query of such a prompt cannot change anything: both runs read the same tokens.
    pair = aligned(tiny_tokenizer, 1, order="qdi")
    sites = all_sites(["attn_out"], ["query"], N_LAYERS, N_HEADS)
    within = patch_pair(llamas.receiver, pair, sites)
    across = transfer_pair(llamas, pair, sites, prompt="corrupted")
    assert (within.ld_patched == within.ld_corrupted).all()
    moved = (across.ld_patched - across.ld_corrupted).abs()
    assert moved[:-1].min() > 1e-4
    assert moved[-1] < 1e-5  # too late to be read by the last token
    assert across.ld_corrupted == within.ld_corrupted


def test_both_directions_are_each_other_with_the_roles_exchanged(llamas: Transfer, tiny_tokenizer: Any) -> None:
    pair, sites = aligned(tiny_tokenizer), [Site("mlp_out", 1, "document")]
    there = transfer_pair(llamas, pair, sites, prompt="clean")
    back = transfer_pair(Transfer(llamas.donor, llamas.receiver), pair, sites, prompt="clean")
    assert (there.ld_clean, there.ld_corrupted) == (back.ld_corrupted, back.ld_clean)
    assert there.ld_patched.item() != back.ld_patched.item()


def test_little_memory_changes_no_value_and_every_site_is_reported(llamas: Transfer, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites(MODULE_COMPONENTS, ["document", "last"], N_LAYERS, N_HEADS)
    whole = transfer_pair(llamas, pair, sites, prompt="clean")
    told: list[Site] = []
    least = transfer_cost(llamas.receiver, pair, sites, restart=True).least_bytes
    one_by_one = transfer_pair(llamas, pair, sites, prompt="clean", memory_bytes=least, on_group=told.extend)
    # Other batch sizes let the matrix products add in another order: rounding of an LD of order 1.
    assert (one_by_one.ld_patched - whole.ld_patched).abs().max() < 1e-5
    assert sorted(told, key=sites.index) == sites


@pytest.mark.parametrize("region", ["query", "last", "all"])
def test_operations_are_those_that_torch_counts(llamas: Transfer, tiny_tokenizer: Any, region: str) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites(MODULE_COMPONENTS, [region], N_LAYERS, N_HEADS)
    cost = transfer_cost(llamas.receiver, pair, sites, restart=True)
    with FlopCounterMode(display=False) as counter:
        transfer_pair(llamas, pair, sites, prompt="clean", restart=True)
    # The answers' rows of the unembedding are left out of the count.
    assert counter.get_total_flops() == pytest.approx(cost.flops + cost.recording_flops, rel=0.02)
    assert cost.n_patches == len(sites)


def test_models_that_cannot_be_restarted_are_patched_the_plain_way_with_a_warning(tiny_tokenizer: Any) -> None:
    receiver = granite(tiny_tokenizer, residual_multiplier=0.3)
    transfer = Transfer(receiver, as_judge(from_config(receiver.model.config, seed=1), tiny_tokenizer))
    pair, sites = aligned(tiny_tokenizer), all_sites(MODULE_COMPONENTS, ["last"], 3, N_HEADS)
    with pytest.warns(UserWarning, match=r"residual sum.*each patch takes a full forward pass"):
        found = transfer_pair(transfer, pair, sites, prompt="clean")
    plain = transfer_pair(transfer, pair, sites, prompt="clean", restart=False)
    assert (found.ld_patched == plain.ld_patched).all()
    assert found.ld_patched.std() > 1e-2


def test_models_of_two_shapes_or_layouts_or_formats_are_refused(llamas: Transfer, tiny_tokenizer: Any) -> None:
    receiver = llamas.receiver
    with pytest.raises(InputError, match=r"n_kv_heads 2 and 4.* of the same shape"):
        Transfer(receiver, tiny_judge("gpt2", tiny_tokenizer))
    with pytest.raises(InputError, match="layers like llama and like olmo2"):
        Transfer(receiver, tiny_judge("olmo2", tiny_tokenizer))
    in_bf16 = as_judge(copy.deepcopy(receiver.model).to(torch.bfloat16))
    with pytest.raises(InputError, match=r"dtype torch\.float32 and torch\.bfloat16"):
        Transfer(receiver, in_bf16)


def test_a_larger_vocabulary_is_no_other_shape(llamas: Transfer, tiny_tokenizer: Any) -> None:
    larger = as_judge(tiny_model("llama", len(tiny_tokenizer) + 8, seed=1))
    pair = aligned(tiny_tokenizer)
    found = transfer_pair(Transfer(llamas.receiver, larger), pair, [Site("mlp_out", 0, "last")], prompt="clean")
    assert found.ld_patched.item() != found.ld_corrupted


def test_a_prompt_or_a_site_that_does_not_exist_is_refused(llamas: Transfer, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    plain = inspect.unwrap(transfer_pair)  # the tests' checks of annotations refuse the name before it is looked at
    with pytest.raises(InputError, match="'patched' does not exist: a pair has the prompts 'clean' and 'corrupted'"):
        plain(llamas, pair, [], prompt="patched")
    with pytest.raises(InputError, match="layer 4 does not exist"):
        transfer_pair(llamas, pair, [Site("mlp_out", 4, "last")], prompt="clean")


def test_the_model_on_paper_with_twice_the_attention(tiny_tokenizer: Any) -> None:
    receiver, donor = paper_model(1.0), paper_model(2.0)
    pair = AlignedPair("by hand", "q", "", prompt(Y, Q), prompt(1, Q), (Y, 1), n_document_tokens=1, n_cut_tokens=0)
    sites = [Site("attn_out", 0, "last"), Site("attn_out", 0, "document"), Site("mlp_out", 0, "all")]
    found = transfer_pair(Transfer(receiver, donor), pair, sites, prompt="clean")
    # The donor's attention adds twice what the receiver's adds. With coordinates (Y, N, Q), layer 0 of the receiver
    # leaves x0 = 2 Y, x1 = (0.5, 0, 1.5).
    wanted = [
        # x1 = Q + (Y + Q) = (1, 0, 2), n1 = x1 / 2.2361, attn_out = (Y + n1) / 2 = (0.7236, 0, 0.4472):
        # final (1.7236, 0, 2.4472), length 2.9933
        1.7236 / 2.9933,
        # x0 = 3 Y is normed to Y again: as unpatched
        0.5060,
        # the MLPs give nothing
        0.5060,
    ]
    assert found.ld_patched.tolist() == pytest.approx(wanted, abs=1e-4)
