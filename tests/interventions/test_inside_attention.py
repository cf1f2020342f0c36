"""Queries, keys, values and edges, and several sites at once: against the slow reference, family by family."""

from __future__ import annotations

from typing import Any

import pytest

from example_pairs import aligned
from families import N_HEADS, N_KV_HEADS, N_LAYERS, tiny_judge
from reference_attention import AttentionReference
from relscope.errors import InputError
from relscope.interventions import Joint, Site, all_sites, patch_cost, patch_pair
from relscope.interventions.sites import sites_of
from relscope.models import JudgeModel

# As in test_equals_reference: LD is of order 1, sums in another order differ by some 2e-6.
TOLERANCE = 2e-5
EDGES = ("scores", "pattern", "pattern_renormalised")


@pytest.fixture(scope="module")
def reference(family: str, judge: JudgeModel) -> AttentionReference:
    return AttentionReference(judge.model, "gemma3" if family == "gemma3" else family)


def largest_error(judge: JudgeModel, reference: AttentionReference, pair: Any, patches: Any, **options: Any) -> float:
    found = patch_pair(judge, pair, patches, **options)
    wanted = reference.sweep_patches(pair, [sites_of(p) for p in patches], options.get("direction", "denoise"))
    # The comparison says little unless patches move the verdict, and by different amounts.
    assert wanted.std() > 1e-3
    return float((found.ld_patched - wanted).abs().max())


def n_kv_heads(judge: JudgeModel) -> int:
    return judge.shape.n_kv_heads


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_queries_keys_and_values_equal_full_passes(
    judge: JudgeModel, reference: AttentionReference, tiny_tokenizer: Any, direction: str
) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["q", "k", "v", "k_view", "v_view"], ["document", "instruction", "last"], N_LAYERS, N_HEADS,
                      n_kv_heads(judge))  # fmt: skip
    assert (
        largest_error(judge, reference, pair, sites[:: 3 if direction == "noise" else 1], direction=direction)
        <= TOLERANCE
    )


@pytest.mark.parametrize("component", EDGES)
def test_edges_equal_full_passes(
    judge: JudgeModel, reference: AttentionReference, tiny_tokenizer: Any, component: str
) -> None:
    pair = aligned(tiny_tokenizer)
    sites = all_sites([component], ["query", "last"], N_LAYERS, N_HEADS, sources=["document"])
    sites += all_sites([component], ["all"], N_LAYERS, N_HEADS, sources=["all"])
    sites += all_sites([component], ["last"], N_LAYERS, N_HEADS, sources=["query", "instruction"])
    assert largest_error(judge, reference, pair, sites) <= TOLERANCE


def test_edges_between_two_documents_equal_full_passes(
    judge: JudgeModel, reference: AttentionReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer, format="pairwise")
    sites = all_sites(["scores", "pattern"], ["document_b"], N_LAYERS, N_HEADS, sources=["document_a", "document_b"])
    assert largest_error(judge, reference, pair, sites) <= TOLERANCE


JOINT = {
    "heads of one layer": [Site("z", 1, "last", 0), Site("z", 1, "last", 2)],
    "heads of several layers": [Site("z", 0, "document", 1), Site("z", 2, "last", 3), Site("z", 3, "all", 0)],
    "all of one layer": [Site("resid_pre", 1, "query"), Site("q", 1, "instruction", 0), Site("k", 1, "document", 0),
                         Site("v", 1, "all", 0), Site("z", 1, "document", 3), Site("attn_out", 1, "query.last"),
                         Site("mlp_out", 1, "document.first"), Site("resid_post", 1, "instruction.first")],
    "edges and outputs": [Site("scores", 0, "query", 1, "document"), Site("pattern", 2, "last", 2, "query"),
                          Site("pattern_renormalised", 2, "last", 3, "document"), Site("mlp_out", 3, "last")],
    "renormalised edges": [Site("pattern_renormalised", 1, "last", 0, "document"),
                           Site("pattern_renormalised", 1, "last", 0, "query")],
    "two edges of one head": [Site("scores", 1, "last", 1, "document"), Site("scores", 1, "last", 1, "query")],
    "views": [Site("k_view", 1, "document", 1), Site("v_view", 1, "document", 2), Site("v_view", 2, "query", 0)],
    "the residual twice": [Site("resid_pre", 0, "document"), Site("resid_pre", 3, "query")],
}  # fmt: skip


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_joint_patches_equal_full_passes(
    judge: JudgeModel, reference: AttentionReference, tiny_tokenizer: Any, direction: str
) -> None:
    pair = aligned(tiny_tokenizer)
    patches = [Joint(tuple(sites)) for sites in JOINT.values()]
    # beside single ones, with which they share a batch
    patches += all_sites(["resid_pre", "z"], ["query", "last"], N_LAYERS, N_HEADS)[::2]
    assert largest_error(judge, reference, pair, patches, direction=direction) <= TOLERANCE


def test_the_plain_way_equals_full_passes(
    judge: JudgeModel, reference: AttentionReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer)
    patches = [Joint(tuple(sites)) for sites in JOINT.values()]
    patches += all_sites(["q", "k", "v_view", "resid_pre"], ["document"], N_LAYERS, N_HEADS, n_kv_heads(judge))[::3]
    patches += all_sites(EDGES, ["last"], N_LAYERS, N_HEADS, sources=["document"])[::3]
    assert largest_error(judge, reference, pair, patches, restart=False) <= TOLERANCE


def test_a_small_bound_on_memory_changes_nothing(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    patches = [Joint(tuple(sites)) for sites in JOINT.values()] + all_sites(["z"], ["query"], N_LAYERS, N_HEADS)
    least = patch_cost(judge, pair, patches, restart=True).least_bytes
    one, other = (patch_pair(judge, pair, patches, memory_bytes=bound).ld_patched for bound in (least, 1 << 30))
    assert float((one - other).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("most_scores", [1, 2000])
def test_edited_attention_in_blocks_is_the_same(
    most_scores: int, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, pair = tiny_judge("mistral", tiny_tokenizer), aligned(tiny_tokenizer)
    patches = [*all_sites([*EDGES, "q", "v_view"], ["query"], N_LAYERS, N_HEADS, sources=["document"])]
    patches += [Joint(tuple(sites)) for sites in JOINT.values()]
    whole = patch_pair(judge, pair, patches).ld_patched
    monkeypatch.setattr("relscope.models.attention.MOST_SCORES", most_scores)
    monkeypatch.setattr("relscope.models.edits.MOST_SCORES", most_scores)
    for restart in (True, False):
        in_blocks = patch_pair(judge, pair, patches, restart=restart).ld_patched
        assert float((in_blocks - whole).abs().max()) <= TOLERANCE


def test_a_joint_patch_of_one_site_is_that_site(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("qwen3", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["attn_out", "mlp_out", "resid_post", "z"], ["query", "last"], N_LAYERS, N_HEADS)
    alone, joint = (patch_pair(judge, pair, patches).ld_patched for patches in (sites, [Joint((s,)) for s in sites]))
    assert (alone == joint).all()


def test_keys_have_as_many_heads_as_the_model_has_key_value_heads(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    patch_pair(judge, pair, [Site("k", 0, "document", N_KV_HEADS - 1)])
    with pytest.raises(InputError, match=f"a layer has key/value heads 0 to {N_KV_HEADS - 1}"):
        patch_pair(judge, pair, [Site("k", 0, "document", N_KV_HEADS)])
