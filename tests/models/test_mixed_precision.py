"""Matrices in bfloat16 and activations in float32: as the same weights in float32 throughout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from lora_folders import write_lora

from example_pairs import aligned
from families import FAMILIES, N_HEADS, N_LAYERS, as_judge, tiny_model
from relscope.interventions import all_sites, patch_cost, patch_pair
from relscope.models import load_judge, load_judges
from relscope.models.mixed import LINEAR_TYPES, widen_activations

# As in test_equals_reference: LD is of order 1, sums in another order differ by some 2e-6.
TOLERANCE = 2e-5


def rounded_and_mixed(family: str, vocab_size: int) -> tuple[Any, Any]:
    """One model with weights that bfloat16 holds, in float32 throughout and with matrices in bfloat16."""
    low = tiny_model(family, vocab_size).to(torch.bfloat16)
    whole = copy.deepcopy(low).float()
    widen_activations(low)
    return whole, low


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_float32(family: str) -> None:
    whole, mixed = rounded_and_mixed(family, 120)
    ids = torch.arange(3, 60)[None]
    wanted, found = (model(input_ids=ids).logits for model in (whole, mixed))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_of_layers_stay_small(family: str) -> None:
    _, mixed = rounded_and_mixed(family, 120)
    judge = as_judge(mixed)
    assert judge.dtype == torch.float32
    matrices = [m.weight for layer in judge.layers for m in layer.module.modules() if type(m) in LINEAR_TYPES]
    assert {weight.dtype for weight in matrices} == {torch.bfloat16}
    kept = {id(weight) for weight in matrices} | {id(judge.unembedding.weight)}
    assert {p.dtype for p in judge.decoder.parameters() if id(p) not in kept} == {torch.float32}


@pytest.mark.parametrize("precision", ["exact", "delta"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3", "gpt_neox parallel"])
def test_patches_are_those_of_float32(family: str, precision: Any, tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    judges = [as_judge(model, tiny_tokenizer) for model in rounded_and_mixed(family, len(tiny_tokenizer))]
    assert all(clause.ok for clause in judges[1].contract.clauses)
    sites = all_sites(["z", "mlp_out", "k"], ["query", "last"], N_LAYERS, N_HEADS, judges[1].shape.n_kv_heads)
    wanted, found = (patch_pair(judge, pair, sites, precision=precision).ld_patched for judge in judges)
    # With delta, a sum in another order may fall on the other side of a rounding to bfloat16.
    assert float((found - wanted).abs().max()) <= (TOLERANCE if precision == "exact" else 5e-3)


def test_products_of_differences_take_no_copies_of_weights(tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    whole, mixed = (as_judge(model, tiny_tokenizer) for model in rounded_and_mixed("llama", len(tiny_tokenizer)))
    sites = all_sites(["z"], ["last"], N_LAYERS, N_HEADS)
    run = mixed.record(pair.clean.ids, with_products=True)
    for layer, products in zip(mixed.layers, run.products, strict=True):
        for name, product in products.items():
            assert product.weight.data_ptr() == layer.module.get_submodule(name).weight.data_ptr()
    low, copies = (patch_cost(judge, pair, sites, restart=True, precision="delta") for judge in (mixed, whole))
    assert low.chunk_bytes < copies.chunk_bytes


def test_a_folder_is_loaded_so(llama_folder: Path) -> None:
    whole, mixed = (load_judge(llama_folder, device="cpu", dtype=d) for d in ("bfloat16", "bfloat16-weights"))
    assert mixed.identity.dtype == "bfloat16-weights"
    ids, answers = [list(range(3, 40))], [(5, 6)]
    wanted = as_judge(copy.deepcopy(whole.model).float()).logit_diff(ids, answers)
    torch.testing.assert_close(mixed.logit_diff(ids, answers), wanted, rtol=1e-5, atol=1e-5)


def test_two_models_that_share_weights_share_them_still(llama: Any, llama_folder: Path, tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "lora", llama, str(llama_folder), target_modules=["q_proj"])
    base, tuned = load_judges(llama_folder, adapter=adapter, device="cpu", dtype="bfloat16-weights")
    ours, theirs = (dict(judge.model.named_parameters()) for judge in (base, tuned))
    shared = [name for name in ours if ours[name] is theirs[name]]
    assert 0 < len(shared) < len(ours)
    alone = load_judge(llama_folder, adapter=adapter, device="cpu", dtype="bfloat16-weights")
    ids, answers = [list(range(3, 40))], [(5, 6)]
    assert torch.equal(tuned.logit_diff(ids, answers), alone.logit_diff(ids, answers))


def test_a_model_that_accelerate_has_placed_computes_so_too() -> None:
    whole, _ = rounded_and_mixed("llama", 120)
    mixed = copy.deepcopy(whole).to(torch.bfloat16)
    for module in mixed.modules():
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    widen_activations(mixed)
    ids = torch.arange(3, 60)[None]
    torch.testing.assert_close(mixed(input_ids=ids).logits, whole(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
