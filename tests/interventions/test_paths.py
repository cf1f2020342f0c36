"""What must hold of paths whatever the weights are, and what is refused."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import nn

from example_pairs import aligned
from families import N_HEADS, N_KV_HEADS, N_LAYERS, as_judge, from_config, granite, tiny_judge
from relscope.errors import InputError
from relscope.interventions import (
    RECEIVERS,
    VARIANTS,
    Path,
    Site,
    all_sites,
    direct_effects,
    patch_pair,
    patch_paths,
    path_cost,
    paths,
    wavefront,
)
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair

# The same sums in other batches: rounding of an LD of order 1.
TOLERANCE = 1e-5
MODULES = ("attn_out", "mlp_out", "z")
REGIONS = ("document", "query", "last", "all")


@pytest.fixture(scope="module")
def pair(tiny_tokenizer: Any) -> AlignedPair:
    return aligned(tiny_tokenizer)


def some_paths() -> list[Path]:
    """Of both variants, to all kinds of receivers in several layers."""
    receivers: list[Any] = ["logits", Site("resid_pre", 2, "query"), Site("resid_pre", 3, "all")]
    receivers += [Site("z", 2, "last", 1), Site("z", 3, "query", 0), Site("q", 3, "last", 2), Site("k", 2, "all", 1)]
    receivers += [Site("v", 3, "document", 0), Site("v_view", 2, "document", 3), Site("k_view", 3, "last", 3)]
    senders = all_sites(MODULES, ["document", "last"], 2, N_HEADS)
    return [Path(*of) for of in itertools.product(senders, receivers, VARIANTS)]


def values(judge: JudgeModel, pair: AlignedPair, of: list[Path], **options: Any) -> torch.Tensor:
    return patch_paths(judge, pair, of, **options).ld_patched


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_paths_to_the_verdict_together_are_the_total_effect(
    judge: JudgeModel, pair: AlignedPair, direction: Any
) -> None:
    senders = [*all_sites(MODULES, REGIONS, N_LAYERS, N_HEADS), *all_sites(["resid_pre"], REGIONS, 1, N_HEADS)]
    total = patch_pair(judge, pair, senders, direction=direction)
    found = patch_paths(judge, pair, [Path(sender, "logits", "open") for sender in senders], direction=direction)
    assert (found.pair_id, found.ld_clean, found.ld_corrupted) == (total.pair_id, total.ld_clean, total.ld_corrupted)
    assert float((found.ld_patched - total.ld_patched).abs().max()) <= TOLERANCE


def test_all_paths_into_the_next_layer_together_are_the_total_effect(judge: JudgeModel, pair: AlignedPair) -> None:
    senders = all_sites(MODULES, REGIONS, N_LAYERS - 1, N_HEADS)
    into_next = [Path(sender, Site("resid_pre", sender.layer + 1, "all"), "open") for sender in senders]
    found, wanted = values(judge, pair, into_next), patch_pair(judge, pair, senders).ld_patched
    assert float((found - wanted).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_receiver_that_sees_the_other_runs_embedding_is_as_in_the_other_run(
    judge: JudgeModel, pair: AlignedPair, direction: Any
) -> None:
    receivers = all_sites(RECEIVERS, ["document", "last"], N_LAYERS, N_HEADS, judge.shape.n_kv_heads)
    embedding = Site("resid_pre", 0, "all")
    found = values(judge, pair, [Path(embedding, receiver, "open") for receiver in receivers], direction=direction)
    wanted = patch_pair(judge, pair, receivers, direction=direction).ld_patched
    assert wanted.std() > 1e-3
    assert float((found - wanted).abs().max()) <= TOLERANCE


def test_of_the_last_mlp_the_direct_effect_is_the_total_effect(judge: JudgeModel, pair: AlignedPair) -> None:
    sites = all_sites(["mlp_out"], REGIONS, N_LAYERS, N_HEADS)[N_LAYERS - 1 :: N_LAYERS]
    if judge.layers[0].parallel:  # nothing then comes after the heads of the last layer either
        sites += [Site("attn_out", N_LAYERS - 1, "last"), Site("z", N_LAYERS - 1, "last", 2)]
    direct, total = direct_effects(judge, pair, sites).ld_patched, patch_pair(judge, pair, sites).ld_patched
    assert float((direct - total).abs().max()) <= TOLERANCE


def test_with_nothing_in_between_frozen_and_open_paths_are_the_same(judge: JudgeModel, pair: AlignedPair) -> None:
    n_kv_heads = judge.shape.n_kv_heads
    of_variant = [
        [
            Path(Site("mlp_out", layer, "document"), receiver, variant)
            for layer in range(N_LAYERS - 1)
            for receiver in all_sites(["resid_pre", "z", "q", "k", "v"], ["query", "all"], N_LAYERS, 2, n_kv_heads)
            if receiver.layer == layer + 1
        ]
        for variant in VARIANTS
    ]
    frozen, open_ = (values(judge, pair, of) for of in of_variant)
    assert frozen.std() > 1e-3
    assert float((frozen - open_).abs().max()) <= TOLERANCE


def test_without_a_final_norm_direct_effects_add_up_to_the_whole_difference(
    tiny_tokenizer: Any, pair: AlignedPair
) -> None:
    model = tiny_judge("llama", tiny_tokenizer).model
    model.model.norm = nn.Identity()
    judge = as_judge(model, tiny_tokenizer)
    modules = all_sites(["attn_out", "mlp_out"], ["last"], N_LAYERS, N_HEADS)
    parts = direct_effects(judge, pair, [*modules, Site("resid_pre", 0, "last")])
    whole = parts.ld_clean - parts.ld_corrupted
    effects = parts.ld_patched - parts.ld_corrupted
    # LD without the norm is of order 10.
    assert float(effects.sum()) == pytest.approx(whole, abs=10 * TOLERANCE)
    assert effects.abs().max() > abs(whole) / 4
    # The embedding of the last token is the same in both runs.
    assert float(effects[-1]) == pytest.approx(0, abs=TOLERANCE)

    heads = direct_effects(judge, pair, all_sites(["z"], ["last"], N_LAYERS, N_HEADS))
    of_layers = (heads.ld_patched - heads.ld_corrupted).view(N_LAYERS, N_HEADS).sum(1)
    torch.testing.assert_close(of_layers, effects[:N_LAYERS], rtol=0, atol=10 * TOLERANCE)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_causality_cannot_reach_has_exactly_the_base_verdict(
    llama: JudgeModel, pair: AlignedPair, variant: Any, direction: Any
) -> None:
    assert max(pair.clean.region("document")) < min(pair.clean.region("query"))
    receivers = all_sites(["resid_pre", "z", "q", "k", "v"], ["document"], N_LAYERS, N_HEADS, N_KV_HEADS)
    of = [Path(Site("z", 0, "query", 1), receiver, variant) for receiver in receivers if receiver.layer > 0]
    # Of the last layer, what heads put out elsewhere than at the last token.
    of += [Path(Site("z", 0, "document", 1), Site(name, N_LAYERS - 1, "query", 0), variant) for name in ("z", "q")]
    found = patch_paths(llama, pair, of, direction=direction)
    base = found.ld_corrupted if direction == "denoise" else found.ld_clean
    assert (found.ld_patched == base).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_before_the_first_differing_token_nothing_is_sent(llama: JudgeModel, tiny_tokenizer: Any, variant: Any) -> None:
    ragged = aligned(tiny_tokenizer, 1)
    assert ragged.differing[0] > ragged.clean.region("document")[0]
    found = patch_paths(llama, ragged, [Path(Site("mlp_out", 0, "document.first"), Site("k", 1, "all", 0), variant)])
    assert (found.ld_patched == found.ld_corrupted).all()


def test_frozen_paths_do_not_leave_the_senders_positions_but_within_a_head(
    llama: JudgeModel, pair: AlignedPair
) -> None:
    sender = Site("mlp_out", 1, "document")
    beside = all_sites(["resid_pre", "q", "k", "v"], ["query", "last"], N_LAYERS, N_HEADS, N_KV_HEADS)
    found = patch_paths(llama, pair, [*(Path(sender, r) for r in beside if r.layer > 1), Path(sender)])
    assert (found.ld_patched == found.ld_corrupted).all()
    heads = [Path(sender, Site("z", 3, "last", head)) for head in range(N_HEADS)]
    opened = [Path(sender, r, "open") for r in beside if r.layer > 2 and r.region == "last"]
    assert (values(llama, pair, [*heads, *opened]) != found.ld_corrupted).all()


def test_results_follow_the_order_of_the_paths(llama: JudgeModel, pair: AlignedPair) -> None:
    of = some_paths()
    shuffled = torch.randperm(len(of), generator=torch.Generator().manual_seed(0)).tolist()
    found = values(llama, pair, of)
    again = values(llama, pair, [of[n] for n in shuffled])
    assert float((again - found[shuffled]).abs().max()) <= TOLERANCE
    assert found.unique().numel() > len(of) // 3
    twice = values(llama, pair, [of[0], of[25], of[0]])
    assert twice[0] == twice[2]
    assert values(llama, pair, []).shape == (0,)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_least_memory_changes_no_value(
    family: str, tiny_tokenizer: Any, pair: AlignedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, of = tiny_judge(family, tiny_tokenizer), some_paths()
    if family == "gpt2":
        of = of[::4]
    wanted = values(judge, pair, of)
    n_items: list[int] = []
    real = JudgeModel.advance

    def watched(self: JudgeModel, layer: int, pieces: Any, joining: Any, **options: Any) -> Any:
        n_items.append(sum(len(piece.resid_pre) for piece in pieces))
        return real(self, layer, pieces, joining, **options)

    monkeypatch.setattr(JudgeModel, "advance", watched)
    monkeypatch.setattr(paths, "ROWS_PER_CHUNK", 1)
    least = path_cost(judge, pair, of).least_bytes
    found = values(judge, pair, of, memory_bytes=least)
    # A document's suffix has room for one; at the last token alone, for one of each of its positions.
    longest = len(pair.clean.ids) - pair.differing[0]
    assert max(n_items) <= longest
    assert float((found - wanted).abs().max()) <= TOLERANCE
    with pytest.raises(InputError, match=r"too little for a pair of .* tokens.* give at least"):
        values(judge, pair, of, memory_bytes=least - 1)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_chunks_of_any_size_give_the_same_values(
    llama: JudgeModel, pair: AlignedPair, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    wanted = values(llama, pair, some_paths())
    monkeypatch.setattr(wavefront, "ROWS_PER_CHUNK", rows)
    monkeypatch.setattr(paths, "ROWS_PER_CHUNK", rows)
    assert float((values(llama, pair, some_paths()) - wanted).abs().max()) <= TOLERANCE


def test_the_model_is_as_before_afterwards(llama: JudgeModel, pair: AlignedPair) -> None:
    before = llama.next_token_probabilities(pair.clean.ids)
    patch_paths(llama, pair, some_paths())
    assert torch.equal(llama.next_token_probabilities(pair.clean.ids), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.model.modules())
    assert llama.config._attn_implementation != "relscope"


@pytest.mark.parametrize(
    ("sender", "receiver", "message"),
    [
        (
            Site("z", 2, "query", 0),
            Site("q", 2, "last", 0),
            "q of layer 2 reads the residual stream before z of layer 2",
        ),
        (Site("attn_out", 1, "all"), Site("resid_pre", 0, "all"), "the receiver must lie in layer 2 or later"),
        (Site("mlp_out", 1, "all"), Site("mlp_out", 2, "all"), "component 'mlp_out' cannot receive: a path ends in"),
        (Site("resid_post", 1, "all"), "logits", "resid_post of layer 1 cannot send: a path begins with attn_out"),
        (Site("resid_pre", 1, "all"), "logits", "resid_pre of layer 1 cannot send"),
        (Site("q", 1, "all", 0), "logits", "q of layer 1 cannot send"),
        (Site("z", 1, "all", 0), "verdict", "receiver 'verdict' does not exist: give a Site, or 'logits'"),
    ],
)
def test_a_path_that_cannot_be_is_refused(sender: Site, receiver: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Path(sender, receiver)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"variant 'opened' of a path does not exist: did you mean 'open'\?"):
        Path(Site("z", 0, "last", 0), variant="opened")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (Path(Site("z", 4, "last", 0)), "layer 4 does not exist: the model has layers 0 to 3"),
        (Path(Site("z", 0, "last", 0), Site("q", 4, "last", 0)), "layer 4 does not exist"),
        (Path(Site("z", 0, "last", 4)), "head 4 does not exist: a layer has heads 0 to 3"),
        (Path(Site("z", 0, "last", 0), Site("k", 1, "last", 2)), "head 2 does not exist: .* key/value heads 0 to 1"),
        (Path(Site("z", 0, "document_b", 0)), "region 'document_b' does not exist"),
        (Path(Site("z", 0, "last", 0), Site("k", 1, "document_b", 0)), "region 'document_b' does not exist"),
        (Path(Site("z", 0, "nowhere", 0), Site("k", 1, "last", 0)), "region 'nowhere' does not exist"),
    ],
)  # fmt: skip
def test_a_path_that_the_model_or_the_prompt_does_not_have_is_refused(
    llama: JudgeModel, pair: AlignedPair, path: Path, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        patch_paths(llama, pair, [Path(Site("mlp_out", 0, "last")), path])


def test_a_residual_stream_that_is_no_sum_has_no_paths(tiny_tokenizer: Any, pair: AlignedPair) -> None:
    judge = granite(tiny_tokenizer, residual_multiplier=0.3)
    with pytest.raises(InputError, match=r"clause 'residual sum'.*cannot be patched along paths"):
        patch_paths(judge, pair, [Path(Site("z", 0, "all", 0), Site("z", 1, "last", 0))])
    with pytest.raises(InputError, match=r"clause 'residual sum'.*cannot be read out part by part"):
        direct_effects(judge, pair, [Site("mlp_out", 0, "last")])


def test_direct_effects_ask_for_no_restart(tiny_tokenizer: Any, pair: AlignedPair) -> None:
    import transformers

    # Attention sinks, which a restart's attention does not model.
    config = transformers.GptOssConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=N_KV_HEADS, head_dim=8, num_local_experts=4,
        num_experts_per_tok=2, sliding_window=16, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    judge = as_judge(from_config(config), tiny_tokenizer)
    last = Site("mlp_out", N_LAYERS - 1, "last")
    direct = direct_effects(judge, pair, [last])
    assert float(direct.ld_patched) == pytest.approx(
        float(patch_pair(judge, pair, [last], restart=False).ld_patched), abs=TOLERANCE
    )
    assert float(direct.ld_patched) != direct.ld_corrupted
    with pytest.raises(InputError, match=r"clause 'restart'.*cannot be patched along paths"):
        patch_paths(judge, pair, [Path(last, variant="open")])
