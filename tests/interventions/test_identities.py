"""What must hold whatever the weights are: patches that do nothing, or everything; order, memory, clean-up."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import FAMILIES, MODULE_COMPONENTS, N_HEADS, N_LAYERS, tiny_judge
from relscope.errors import InputError
from relscope.interventions import Site, all_sites, patch_cost, patch_pair, patching, wavefront
from relscope.interventions.placing import PlacedPatch
from relscope.models import JudgeModel, Replacement
from relscope.models.recording import RecordedRun
from relscope.prompts import AlignedPair


@pytest.fixture(scope="module")
def judge(tiny_tokenizer: Any) -> JudgeModel:
    return tiny_judge("llama", tiny_tokenizer)


@pytest.fixture(scope="module")
def pair(tiny_tokenizer: Any) -> AlignedPair:
    return aligned(tiny_tokenizer, 1, order="qdi")


def n_hooks(judge: JudgeModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in judge.model.modules())


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_sites_before_the_first_differing_token_give_exactly_the_base_verdict(
    judge: JudgeModel, pair: AlignedPair, direction: Any, restart: bool
) -> None:
    regions = ["query", "document.first"]
    assert pair.differing[0] > max(position for region in regions for position in pair.clean.region(region))
    sites = all_sites(MODULE_COMPONENTS, regions, N_LAYERS, N_HEADS)
    result = patch_pair(judge, pair, sites, direction=direction, restart=restart)
    base = result.ld_corrupted if direction == "denoise" else result.ld_clean
    assert (result.ld_patched == base).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("region", ["all", "last"])
def test_the_whole_final_residual_gives_the_source_verdict(family: str, region: str, tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge(family, tiny_tokenizer), aligned(tiny_tokenizer)
    site = Site("resid_post", N_LAYERS - 1, region)
    denoised, noised = (patch_pair(judge, pair, [site], direction=d) for d in ("denoise", "noise"))
    # Nothing is computed but the read-out, of the same numbers.
    assert denoised.ld_patched.item() == denoised.ld_clean
    assert noised.ld_patched.item() == noised.ld_corrupted
    assert denoised.ld_clean != denoised.ld_corrupted


def test_the_whole_residual_of_any_layer_gives_the_source_verdict(judge: JudgeModel, pair: AlignedPair) -> None:
    result = patch_pair(judge, pair, all_sites(["resid_post"], ["all"], N_LAYERS, N_HEADS))
    # The layers above are computed again, in another batch: rounding of an LD of order 1.
    assert (result.ld_patched - result.ld_clean).abs().max() < 1e-5


def test_results_follow_the_order_of_the_sites(judge: JudgeModel, pair: AlignedPair) -> None:
    sites = all_sites(MODULE_COMPONENTS, ["document", "last", "all", "query"], N_LAYERS, N_HEADS)
    result = patch_pair(judge, pair, sites)
    shuffled = torch.randperm(len(sites), generator=torch.Generator().manual_seed(0)).tolist()
    again = patch_pair(judge, pair, [sites[n] for n in shuffled])
    # Another order makes other batches: rounding of an LD of order 1.
    assert (again.ld_patched - result.ld_patched[shuffled]).abs().max() < 1e-5
    assert result.ld_patched.unique().numel() > len(sites) // 2


def test_a_site_given_twice_is_measured_twice(judge: JudgeModel, pair: AlignedPair) -> None:
    site = Site("z", 1, "document", 2)
    result = patch_pair(judge, pair, [site, Site("mlp_out", 0, "last"), site])
    assert result.ld_patched[0] == result.ld_patched[2]


def test_no_sites_are_no_values(judge: JudgeModel, pair: AlignedPair) -> None:
    assert patch_pair(judge, pair, []).ld_patched.shape == (0,)


def test_tiny_memory_changes_no_value(judge: JudgeModel, pair: AlignedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = all_sites(MODULE_COMPONENTS, ["document", "all"], N_LAYERS, N_HEADS)  # of one length
    whole = patch_pair(judge, pair, sites)
    widths = []
    real = JudgeModel.advance

    def watched(self: JudgeModel, layer: int, pieces: Any, joining: Any, **options: Any) -> Any:
        widths.append(sum(len(piece.resid_pre) for piece in pieces) + len(joining))
        return real(self, layer, pieces, joining, **options)

    monkeypatch.setattr(JudgeModel, "advance", watched)
    least = patch_cost(judge, pair, sites, restart=True).least_bytes
    one_by_one = patch_pair(judge, pair, sites, memory_bytes=least)
    assert set(widths) == {1}
    # Other batch sizes let the matrix products add in another order: rounding of an LD of order 1.
    assert (one_by_one.ld_patched - whole.ld_patched).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        (5 * 1280 + 2 * 640, [[5, 2]]),
        (5 * 1280 + 2 * 640 - 1, [[5, 1], [1]]),
        (5 * 1280, [[5], [2]]),
        (1280, [*[[1]] * 5, [2]]),
        (0, [[1]] * 7),
    ],
)
def test_memory_bounds_the_items_in_flight(judge: JudgeModel, memory: int, wanted: list[list[int]]) -> None:
    # 10 positions of 32 float32 values are 1280 bytes an item, 5 positions half of it.
    def placed(position: int, layer: int) -> PlacedPatch:
        return PlacedPatch(Site("resid_post", layer, "last"), (Replacement("resid_post", layer, None, (position,)),))

    items = [placed(30, layer) for layer in range(5)] + [placed(35, layer) for layer in range(2)]
    run = judge.record(range(3, 43))  # 40 positions
    batches = list(patching._batches(judge, [patching.Swap(range(3, 43), (5, 6), run, run, items)], memory))
    assert [[len(group.places) for group in batch] for batch in batches] == wanted
    assert sorted(place for batch in batches for group in batch for place in group.places) == list(range(7))


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_chunks_of_any_size_give_the_same_values(
    judge: JudgeModel, pair: AlignedPair, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    sites = all_sites(MODULE_COMPONENTS, ["document", "last"], N_LAYERS, N_HEADS)
    whole = patch_pair(judge, pair, sites)
    monkeypatch.setattr(wavefront, "ROWS_PER_CHUNK", rows)
    chunked = patch_pair(judge, pair, sites)
    # Other chunk sizes let the matrix products add in another order: rounding of an LD of order 1.
    assert (chunked.ld_patched - whole.ld_patched).abs().max() < 1e-5


@pytest.mark.parametrize("restart", [True, False])
def test_recorded_activations_are_untouched_by_a_sweep(
    judge: JudgeModel, pair: AlignedPair, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    runs: list[RecordedRun] = []
    before: list[dict[str, Any]] = []
    real = JudgeModel.record_all

    def kept(self: JudgeModel, prompts: Any, **options: Any) -> list[RecordedRun]:
        found = real(self, prompts, **options)
        for run in found:
            runs.append(run)
            before.append({field.name: copy.deepcopy(getattr(run, field.name)) for field in dataclasses.fields(run)})
        return found

    monkeypatch.setattr(JudgeModel, "record_all", kept)
    patch_pair(
        judge, pair, all_sites(MODULE_COMPONENTS, ["all", "document", "last"], N_LAYERS, N_HEADS), restart=restart
    )
    assert len(runs) == 2
    for run, then in zip(runs, before, strict=True):
        for name, value in then.items():
            torch.testing.assert_close(getattr(run, name), value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("restart", [True, False])
def test_hooks_and_attention_are_as_before_a_sweep(judge: JudgeModel, pair: AlignedPair, restart: bool) -> None:
    before = n_hooks(judge), judge.config._attn_implementation, judge.model.config._attn_implementation
    patch_pair(judge, pair, all_sites(MODULE_COMPONENTS, ["document"], N_LAYERS, N_HEADS), restart=restart)
    assert (n_hooks(judge), judge.config._attn_implementation, judge.model.config._attn_implementation) == before


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("module", ["layers.2.mlp", "layers.0.self_attn.o_proj", "norm"])
def test_hooks_and_attention_are_as_before_a_sweep_that_failed(
    tiny_tokenizer: Any, pair: AlignedPair, module: str, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    before = n_hooks(judge), judge.config._attn_implementation
    calls = 0
    broken = judge.decoder.get_submodule(module)
    real = broken.forward

    def fails_the_fifth_time(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MemoryError("no more")
        return real(*args, **kwargs)

    monkeypatch.setattr(broken, "forward", fails_the_fifth_time)
    sites = all_sites(MODULE_COMPONENTS, ["document", "last", "instruction"], N_LAYERS, N_HEADS)

    def three_sweeps() -> None:  # the final norm does not run five times in one that restarts
        for _ in range(3):
            patch_pair(judge, pair, sites, restart=restart)

    with pytest.raises(MemoryError):
        three_sweeps()
    assert (n_hooks(judge), judge.config._attn_implementation) == before


def test_the_model_answers_as_before_after_a_sweep(judge: JudgeModel, pair: AlignedPair) -> None:
    before = judge.next_token_probabilities(pair.clean.ids)
    patch_pair(judge, pair, all_sites(MODULE_COMPONENTS, ["document"], N_LAYERS, N_HEADS))
    patch_pair(judge, pair, all_sites(MODULE_COMPONENTS, ["last"], N_LAYERS, N_HEADS), restart=False)
    assert torch.equal(judge.next_token_probabilities(pair.clean.ids), before)


@pytest.mark.parametrize(
    "site", [Site("mlp_out", 4, "last"), Site("mlp_out", -1, "last"), Site("z", 0, "last", 4), Site("z", 0, "last", -1)]
)
@pytest.mark.parametrize("restart", [True, False])
def test_a_site_that_the_model_does_not_have_is_refused(
    judge: JudgeModel, pair: AlignedPair, site: Site, restart: bool
) -> None:
    with pytest.raises(InputError, match=r"does not exist.* 0 to 3"):
        patch_pair(judge, pair, [Site("mlp_out", 0, "last"), site], restart=restart)


def test_a_region_that_the_prompt_does_not_have_is_refused(judge: JudgeModel, pair: AlignedPair) -> None:
    with pytest.raises(InputError, match="document_b"):
        patch_pair(judge, pair, [Site("mlp_out", 0, "document_b")])
