"""Patching finds the parts of a mechanism that was planted, where they act, and nothing else.

The models, their numbers and their arithmetic are in `planted`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from planted import (
    CARRIED,
    LD_CLEAN,
    LD_CORRUPTED,
    MATCH,
    MATCHED_WORD,
    N_HEADS,
    N_LAYERS,
    REGIONS,
    VERDICT,
    Planted,
    causal_sites,
    decoy_model,
    matching_model,
    mlp_writing_model,
    redundant_model,
)
from reference_attention import AttentionReference
from relscope.interventions import COMPONENTS, Direction, Joint, Patch, Site, all_sites, patch_pair
from relscope.interventions.sites import sites_of
from relscope.models import RecordedRun, check_contract
from relscope.prompts import AlignedPair

# LD is 4 or -4. Patterns are 0 or 1 to within 2e-9; what remains is float32's rounding of sums of a few terms of order
# 1 (and of scores up to 100, which moves no pattern), some 1e-6.
TOLERANCE = 1e-5
DIRECTIONS: tuple[Direction, ...] = ("denoise", "noise")
MODELS = {
    (build.__name__, n_kv_heads): build
    for build in (matching_model, mlp_writing_model, redundant_model, decoy_model)
    for n_kv_heads in (N_HEADS, N_HEADS // 2)
}


@pytest.fixture(scope="module", params=MODELS, ids=lambda key: f"{key[0]}-{key[1]}-kv-heads")
def planted(request: pytest.FixtureRequest) -> Planted:
    return MODELS[request.param](request.param[1])


def base_and_source(direction: Direction) -> tuple[float, float]:
    return (LD_CORRUPTED, LD_CLEAN) if direction == "denoise" else (LD_CLEAN, LD_CORRUPTED)


def patched(planted: Planted, pair: AlignedPair, patches: Sequence[Patch], direction: Direction) -> list[float]:
    return patch_pair(planted.judge, pair, patches, direction=direction).ld_patched.tolist()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_planted_parts_and_nothing_else_have_effects(planted: Planted, direction: Direction) -> None:
    components = [component for component in COMPONENTS if component != "pattern_renormalised"]
    n_kv_heads = planted.judge.shape.n_kv_heads
    sites = all_sites(components, REGIONS, N_LAYERS, N_HEADS, n_kv_heads, sources=REGIONS)
    causal = causal_sites(planted, direction)
    assert causal < set(sites)
    base, source = base_and_source(direction)
    wanted = {site: source if site in causal else base for site in sites}
    found = dict(zip(sites, patched(planted, planted.pairs[0], sites, direction), strict=True))
    assert found == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_plain_full_passes_find_the_planted_parts_too(planted: Planted, direction: Direction) -> None:
    # The slow reference knows neither the views nor the library: the mechanism is the model's, not the patching's.
    causal = sorted((s for s in causal_sites(planted, direction) if not s.component.endswith("_view")), key=repr)
    patches = [*causal, Joint(planted.steps[1])]
    reference, pair = AttentionReference(planted.judge.model, "llama"), planted.pairs[0]
    found = reference.sweep_patches(pair, [sites_of(patch) for patch in patches], direction)
    assert found.tolist() == pytest.approx([base_and_source(direction)[1]] * len(patches), abs=TOLERANCE)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_only_the_matched_word_of_the_query_has_effects(direction: Direction) -> None:
    planted = matching_model()
    (at_match, match), (at_carry, carry) = planted.matcher, planted.carriers[0]
    base, source = base_and_source(direction)
    for pair in planted.pairs:
        for word in ("query.first", "query.last"):
            sites = [
                Site("z", at_match, word, match),
                Site("scores", at_match, word, match, "document"),
                Site("resid_post", at_match, word),
                Site("k", at_carry, word, carry),
                Site("scores", at_carry, "last", carry, word),
            ]
            wanted = source if word == MATCHED_WORD[pair.pair_id] else base
            assert patched(planted, pair, sites, direction) == pytest.approx([wanted] * 5, abs=TOLERANCE)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_only_the_matching_word_of_the_document_has_effects(direction: Direction) -> None:
    planted = matching_model()
    layer, head = planted.matcher
    sites = [Site("k", layer, "document.first", head), Site("scores", layer, "query", head, "document.first")]
    base, source = base_and_source(direction)
    for pair in planted.pairs:
        # "summit" is the first word of the positive document, and "hill" one of the query.
        wanted = source if pair.pair_id == "hill:0" else base
        assert patched(planted, pair, sites, direction) == pytest.approx([wanted] * 2, abs=TOLERANCE)


def test_renormalised_patterns_give_what_they_give_on_paper() -> None:
    # Denoised, the row has 1 at what was found and still has 1 at <bos>, so 1/2 each after division by 2; noised, from
    # <bos>, likewise. What the matcher then writes, match = -1 + 2/2 = 0, is below the carrier's threshold. The
    # carrier's half leaves carried = 0 and the residual's square at 5 in place of 6, so that norms stretch it by
    # sqrt(6/5): the writer's value is sqrt(6/5)/2 = 0.5477, verdict = -1 + 2 * 0.5477 = 0.0954, the final square
    # 4 + 0.0954^2 = 4.0091, and LD = 4 * 0.0954 * sqrt(6/4.0091) = 0.4670.
    # Noised, from what was found: the row has nothing there, and what little it has, 2e-9 at <bos>, is divided by
    # itself: nothing was found.
    planted = matching_model()
    (at_match, match), (at_carry, carry) = planted.matcher, planted.carriers[0]
    wanted = {
        Site("pattern_renormalised", at_match, "query", match, "document"): (LD_CORRUPTED, LD_CORRUPTED),
        Site("pattern_renormalised", at_match, "query", match, "other"): (LD_CORRUPTED, LD_CORRUPTED),
        Site("pattern_renormalised", at_match, "query", match, "all"): (LD_CLEAN, LD_CORRUPTED),
        Site("pattern_renormalised", at_carry, "last", carry, "query"): (0.4670, LD_CORRUPTED),
        Site("pattern_renormalised", at_carry, "last", carry, "other"): (LD_CORRUPTED, 0.4670),
        Site("pattern_renormalised", at_carry, "last", carry, "all"): (LD_CLEAN, LD_CORRUPTED),
    }
    edges = all_sites(["pattern_renormalised"], REGIONS[:-1], N_LAYERS, N_HEADS, sources=REGIONS)
    nothing = (LD_CORRUPTED, LD_CLEAN)
    wanted = {edge: wanted.get(edge, nothing) for edge in edges}
    for number, direction in enumerate(DIRECTIONS):
        found = dict(zip(edges, patched(planted, planted.pairs[0], edges, direction), strict=True))
        # 0.4670 is rounded to four digits.
        assert found == pytest.approx({edge: both[number] for edge, both in wanted.items()}, abs=1e-4)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_single_patches_of_two_redundant_heads_understate_what_their_joint_patch_does(n_kv_heads: int) -> None:
    planted = redundant_model(n_kv_heads)
    carriers = planted.steps[1]
    assert len(carriers) == 2
    patches = [*carriers, Joint(carriers)]
    for pair in planted.pairs:
        noised, denoised = (patched(planted, pair, patches, direction) for direction in ("noise", "denoise"))
        assert noised == pytest.approx([LD_CLEAN, LD_CLEAN, LD_CORRUPTED], abs=TOLERANCE)
        # The other way round each does everything: singles add up to twice the joint effect.
        assert denoised == pytest.approx([LD_CLEAN, LD_CLEAN, LD_CLEAN], abs=TOLERANCE)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_steps_of_one_chain_stand_in_for_each_other(planted: Planted, direction: Direction) -> None:
    # In a row, any step gives the whole effect, and so do all of them together: singles add up to thrice the joint.
    steps = [Joint(step) for step in planted.steps]
    every = Joint(tuple(site for step in planted.steps for site in step))
    found = patched(planted, planted.pairs[0], [*steps, every], direction)
    assert found == pytest.approx([base_and_source(direction)[1]] * 4, abs=TOLERANCE)


def interaction_score(run: RecordedRun, layer: int, head: int, pair: AlignedPair) -> float:
    """s(q, d): over query tokens, the sum of the largest attention to a document token; computed word by word."""
    q, k = run.q[layer][head], run.k[layer][head // (N_HEADS // len(run.k[layer]))]
    total = 0.0
    for dest in pair.clean.region("query"):
        scores = [math.exp(float(q[dest] @ k[src]) / math.sqrt(len(q[dest]))) for src in range(dest + 1)]
        total += max(scores[src] for src in pair.clean.region("document")) / sum(scores)
    return total


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_a_head_that_only_attends_interacts_as_strongly_as_the_matcher_and_has_no_effect(n_kv_heads: int) -> None:
    planted = decoy_model(n_kv_heads)
    assert planted.decoy is not None
    heads = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
    gaps = torch.zeros(len(planted.pairs), len(heads))
    for row, pair in enumerate(planted.pairs):
        clean, corrupted = (planted.judge.record(prompt.ids) for prompt in (pair.clean, pair.corrupted))
        for column, head in enumerate(heads):
            gaps[row, column] = interaction_score(clean, *head, pair) - interaction_score(corrupted, *head, pair)
        # It reads what the matcher reads: for want of an output, and not of a difference, it has no effect.
        (layer, decoy), positions = planted.decoy, pair.clean.region(MATCHED_WORD[pair.pair_id])
        assert (clean.z[layer] - corrupted.z[layer])[positions, decoy].norm() == pytest.approx(1, abs=TOLERANCE)
    # One query word is matched: all of its attention, or none, falls on the document.
    wanted = {head: 1.0 if head in (planted.matcher, planted.decoy) else 0.0 for head in heads}
    assert dict(zip(heads, gaps.mean(0).tolist(), strict=True)) == pytest.approx(wanted, abs=TOLERANCE)

    sites = [Site("z", planted.decoy[0], region, planted.decoy[1]) for region in REGIONS]
    for pair in planted.pairs:
        for direction in DIRECTIONS:
            unmoved = [base_and_source(direction)[0]] * len(sites)
            assert patched(planted, pair, sites, direction) == pytest.approx(unmoved, abs=TOLERANCE)


def test_the_residual_stream_is_as_the_table_says(planted: Planted) -> None:
    n_carriers = len(planted.carriers)
    for pair in planted.pairs:
        (matched,) = pair.clean.region(MATCHED_WORD[pair.pair_id])
        for prompt, is_clean in ((pair.clean, True), (pair.corrupted, False)):
            run = planted.judge.record(prompt.ids)
            wanted = run.resid_pre[0].repeat(N_LAYERS + 1, 1, 1)
            wanted[1:, :, VERDICT] = -1
            if is_clean:
                wanted[planted.matcher[0] + 1 :, matched, MATCH] = 1
                wanted[planted.carriers[0][0] + 1 :, -1, CARRIED[:n_carriers]] = 1
                wanted[planted.writer[0] + 1 :, -1, VERDICT] = 1
            torch.testing.assert_close(torch.stack(run.resid_post), wanted[1:], rtol=0, atol=TOLERANCE)
            squares = wanted.square().sum(-1)
            assert (squares[0] == 5).all()
            assert (squares[1:] == 6).all()


def test_the_planted_models_fulfil_the_contract(planted: Planted) -> None:
    assert all(clause.ok for clause in check_contract(planted.judge).clauses)


def test_the_judge_tells_relevant_documents_from_others(planted: Planted) -> None:
    for pair in planted.pairs:
        found = planted.judge.logit_diff([pair.clean.ids, pair.corrupted.ids], [pair.answer_ids] * 2)
        assert found.tolist() == pytest.approx([LD_CLEAN, LD_CORRUPTED], abs=TOLERANCE)


@pytest.mark.parametrize("build", [matching_model, mlp_writing_model, redundant_model, decoy_model])
def test_without_any_one_step_every_verdict_is_no(build: Any) -> None:
    for number in range(3):
        planted = build()
        for site in planted.steps[number]:
            layer = planted.judge.layers[site.layer]
            (layer.mlp.down_proj if site.component == "mlp_out" else layer.out_proj).weight.zero_()
        pair = planted.pairs[0]
        # Without a writer, and without what it reads, the default verdict stays: -4.
        found = planted.judge.logit_diff([pair.clean.ids, pair.corrupted.ids], [pair.answer_ids] * 2)
        assert found.tolist() == pytest.approx([LD_CORRUPTED] * 2, abs=TOLERANCE)
