"""Restarts on differences: as close to exact as is claimed, for every family, and not exact by accident."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, tiny_judge
from relscope.errors import InputError
from relscope.interventions import Joint, Patch, Site, all_sites, patch_cost, patch_pair
from relscope.interventions.patching import check_precision
from relscope.models import JudgeModel, differences

# Differences are rounded by up to 2^-9 of them, at each of some 30 products on the way to the verdict. In models this
# narrow (32 wide) roundings hardly average out; of the embedded model 3 % is asked (test_embedded_model).
LARGEST_SHARE = 0.05
TOLERANCE = 2e-5  # as in test_equals_reference
PRECISIONS: tuple[Any, Any] = ("exact", "delta")
REGIONS = ("query", "document", "instruction", "last", "all")


def patches_of(judge: JudgeModel) -> dict[str, list[Patch]]:
    n_kv_heads = judge.shape.n_kv_heads
    components = ["z", "attn_out", "mlp_out", "resid_post", "resid_pre", "q", "k", "v"]
    patches: dict[str, list[Patch]] = {
        region: [*all_sites(components, [region], N_LAYERS, N_HEADS, n_kv_heads)] for region in REGIONS
    }
    patches["edges"] = [*all_sites(["scores", "pattern"], ["last"], N_LAYERS, N_HEADS, sources=["document"])]
    patches["joint"] = [
        Joint((Site("z", layer, "document", head), Site("mlp_out", layer + 1, "query")))
        for layer in range(N_LAYERS - 1)
        for head in range(N_HEADS)
    ]
    return patches


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_products_of_differences_add_up_to_the_whole(
    judge: JudgeModel, tiny_tokenizer: Any, direction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "LOW", torch.float32)
    pair = aligned(tiny_tokenizer)
    patches = [patch for of_region in patches_of(judge).values() for patch in of_region]
    exact, delta = (patch_pair(judge, pair, patches, direction=direction, precision=p) for p in PRECISIONS)
    assert float((delta.ld_patched - exact.ld_patched).abs().max()) <= TOLERANCE
    assert not torch.equal(delta.ld_patched, exact.ld_patched)  # as it would be if none were taken


def test_errors_are_within_a_few_percent_of_the_effects(judge: JudgeModel, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    for name, patches in patches_of(judge).items():
        exact, delta = (patch_pair(judge, pair, patches, precision=p) for p in PRECISIONS)
        assert (delta.ld_clean, delta.ld_corrupted) == (exact.ld_clean, exact.ld_corrupted)
        error, effect = delta.ld_patched - exact.ld_patched, exact.ld_patched - exact.ld_corrupted
        # Some effects are no larger than the rounding of float32.
        assert 0 < rms(error) <= LARGEST_SHARE * rms(effect) + 1e-6, name


def test_patches_within_both_documents_of_a_pairwise_prompt(judge: JudgeModel, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer, format="pairwise")
    sites = all_sites(["z", "mlp_out"], ["document_a", "document_b"], N_LAYERS, N_HEADS)
    exact, delta = (patch_pair(judge, pair, sites, precision=p).ld_patched for p in PRECISIONS)
    assert rms(delta - exact) <= LARGEST_SHARE * rms(exact - exact.mean())


def test_the_same_in_small_batches(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["z", "mlp_out"], REGIONS, N_LAYERS, N_HEADS)
    least = patch_cost(judge, pair, sites, restart=True, precision="delta").least_bytes
    one, other = (
        patch_pair(judge, pair, sites, precision="delta", memory_bytes=bound).ld_patched for bound in (least, 1 << 30)
    )
    # Sums in another order, before they are rounded to bfloat16.
    assert float((one - other).abs().max()) <= 1e-3


def test_weights_that_changed_are_read_again(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["z"], ["query"], N_LAYERS, N_HEADS)
    patch_pair(judge, pair, sites, precision="delta")
    for layer in judge.layers:
        layer.mlp.down_proj.weight.data.mul_(-1)  # type: ignore[operator, union-attr]
    exact, delta = (patch_pair(judge, pair, sites, precision=p) for p in PRECISIONS)
    assert rms(delta.ld_patched - exact.ld_patched) <= LARGEST_SHARE * rms(exact.ld_patched - exact.ld_corrupted)


def test_an_interruption_leaves_the_modules_as_they_were(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    own = judge.layers[0].mlp.down_proj.forward  # type: ignore[union-attr]
    judge.layers[0].mlp.down_proj.forward = own  # type: ignore[union-attr, method-assign]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(differences, "_by_item", interrupt)
    with pytest.raises(KeyboardInterrupt):
        patch_pair(judge, pair, all_sites(["z"], ["query"], N_LAYERS, N_HEADS), precision="delta")
    replaced = [module for module in judge.model.modules() if "forward" in module.__dict__]
    assert replaced == [judge.layers[0].mlp.down_proj]
    assert judge.layers[0].mlp.down_proj.forward == own  # type: ignore[union-attr]


def test_the_model_is_as_before_afterwards(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("gpt2", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    ids, answers = [pair.clean.ids], [pair.answer_ids]
    before = judge.logit_diff(ids, answers)
    patch_pair(judge, pair, all_sites(["z"], ["last"], N_LAYERS, N_HEADS), precision="delta")
    assert torch.equal(judge.logit_diff(ids, answers), before)
    assert not any("forward" in module.__dict__ for module in judge.model.modules())


def test_what_cannot_be_had_is_refused(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    with pytest.raises(InputError, match=r"precision 'detla' does not exist: did you mean 'delta'\?"):
        check_precision(judge, "detla", restart=True)
    with pytest.raises(InputError, match=r"precision 'delta' is one of restarts"):
        patch_pair(judge, pair, [], precision="delta", restart=False)
    judge.model.to(torch.bfloat16)
    with pytest.raises(InputError, match=r"differences of float32 activations; the model's are bfloat16"):
        patch_pair(judge, pair, [], precision="delta")


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
