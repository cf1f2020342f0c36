"""How far heads and weights moved: against sums written out, planted changes, and what the weights do."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, as_judge, tiny_judge, tiny_model
from reference import Reference
from relscope.errors import InputError
from relscope.interventions import WeightChange, head_changes, weight_changes
from relscope.models import JudgeModel, parameter_parts
from relscope.prompts import Span

REGIONS = ("query", "last", "document")


def tuned_copy(judge: JudgeModel) -> JudgeModel:
    return as_judge(copy.deepcopy(judge.model), judge.tokenizer)


@pytest.fixture(scope="module")
def other(family: str, tiny_tokenizer: Any) -> JudgeModel:
    return tiny_judge(family, tiny_tokenizer, seed=1)


def test_distances_of_heads_are_those_summed_from_hooked_activations(
    family: str, judge: JudgeModel, other: JudgeModel, tiny_tokenizer: Any
) -> None:
    prompt = aligned(tiny_tokenizer).clean
    found = head_changes(judge.record(prompt.ids), other.record(prompt.ids), prompt, REGIONS)
    assert found.regions == REGIONS
    assert found.distance.shape == (len(REGIONS), N_LAYERS, N_HEADS)
    references = Reference(judge.model, family), Reference(other.model, family)
    for layer in (0, N_LAYERS - 1):
        base, tuned = (reference.activations(prompt.ids, "z", layer).double() for reference in references)
        width = base.shape[-1] // N_HEADS
        for number, region in enumerate(REGIONS):
            for head in range(N_HEADS):
                at = slice(head * width, (head + 1) * width)
                squares = [0.0, 0.0, 0.0]
                for position in prompt.region(region):
                    x, y = base[position, at], tuned[position, at]
                    for i, vector in enumerate((x, y, y - x)):
                        squares[i] += sum(value**2 for value in vector.tolist())
                place = number, layer, head
                norms = [float(norm[place]) for norm in (found.norm_base, found.norm_tuned, found.distance)]
                # float32 activations after four layers of two kinds of attention code
                assert norms == pytest.approx([math.sqrt(s) for s in squares], rel=1e-4)


def test_a_model_has_not_moved_from_itself(judge: JudgeModel, tiny_tokenizer: Any) -> None:
    prompt = aligned(tiny_tokenizer).corrupted
    run = judge.record(prompt.ids)
    found = head_changes(run, run, prompt, REGIONS)
    assert float(found.distance.abs().max()) == 0.0
    assert torch.equal(found.norm_base, found.norm_tuned)
    assert float(found.norm_base.min()) > 0
    assert {change.norm_change for change in weight_changes(judge, judge)} == {0.0}


def test_a_region_without_positions_has_norms_of_zero(llama: JudgeModel, tiny_tokenizer: Any) -> None:
    prompt = aligned(tiny_tokenizer).clean
    prompt = dataclasses.replace(prompt, parts={**prompt.parts, "query": Span(0, 0)})
    run = llama.record(prompt.ids)
    assert float(head_changes(run, run, prompt, ["query"]).norm_base.max()) == 0.0


def test_runs_of_two_shapes_are_refused(llama: JudgeModel, tiny_tokenizer: Any) -> None:
    prompt = aligned(tiny_tokenizer).clean
    with pytest.raises(InputError, match="heads differ in shape"):
        head_changes(llama.record(prompt.ids), llama.record(prompt.ids[:-1]), prompt, ["last"])


def test_every_value_of_the_model_is_in_one_whole_part(judge: JudgeModel, other: JudgeModel) -> None:
    whole = [change for change in weight_changes(judge, other) if change.head is None]
    assert sum(change.n_values for change in whole) == judge.shape.n_parameters
    names = dict(judge.model.named_parameters())
    assert {change.name for change in whole} == set(names)
    for name, parameter in names.items():
        # Independent: Frobenius norms of whole parameters, in float64.
        theirs = other.model.get_parameter(name).double()
        of_name = [change for change in whole if change.name == name]
        base = math.sqrt(sum(change.norm_base**2 for change in of_name))
        moved = math.sqrt(sum(change.norm_change**2 for change in of_name))
        assert base == pytest.approx(float(parameter.double().norm()), rel=1e-6)
        assert moved == pytest.approx(float((theirs - parameter.double()).norm()), rel=1e-5)


def test_the_shares_of_the_heads_make_up_the_whole_projection(judge: JudgeModel, other: JudgeModel) -> None:
    changes = weight_changes(judge, other)
    for layer in range(N_LAYERS):
        for part, n_heads in (
            ("q", N_HEADS),
            ("k", judge.shape.n_kv_heads),
            ("v", judge.shape.n_kv_heads),
            ("o", N_HEADS),
        ):
            of_part = [change for change in changes if (change.layer, change.part) == (layer, part)]
            heads = [change for change in of_part if change.head is not None]
            (whole,) = (change for change in of_part if change.head is None and change.name == heads[0].name)
            assert [change.head for change in heads] == list(range(n_heads))
            assert {change.n_values for change in heads} == {judge.shape.d_model * judge.shape.d_head}
            assert sum(change.n_values for change in heads) == whole.n_values
            for norm in ("norm_base", "norm_change"):
                total = math.sqrt(sum(getattr(change, norm) ** 2 for change in heads))
                assert total == pytest.approx(getattr(whole, norm), rel=1e-9)


@pytest.mark.parametrize("part", ["q", "k", "v", "o"])
def test_a_heads_share_of_the_weights_is_what_that_head_computes_with(
    judge: JudgeModel, part: str, tiny_tokenizer: Any
) -> None:
    # Only outputs of heads that read the changed entries may change in that layer.
    ids = aligned(tiny_tokenizer).clean.ids
    layer, n_heads = 1, N_HEADS if part in "qo" else judge.shape.n_kv_heads
    if judge.architecture.name == "olmo2":  # its norms of q and k go over all heads, and so mix them
        judge = tuned_copy(judge)
        for name in ("q_norm", "k_norm"):
            setattr(judge.layers[layer].attention, name, torch.nn.Identity())
    before = judge.record(ids)
    for head in range(n_heads):
        changed = tuned_copy(judge)
        (share,) = (p for p in parameter_parts(changed) if p.layer == layer and p.part == part and p.heads is not None)
        assert share.heads is not None
        parameter = changed.model.get_parameter(share.name)
        with torch.no_grad():
            parameter.index_fill_(share.axis, share.heads[head], 0.0)
        after = changed.record(ids)
        moved = {h for h in range(N_HEADS) if not torch.equal(after.z[layer, :, h], before.z[layer, :, h])}
        group = N_HEADS // n_heads
        if part == "o":
            assert moved == set()
            z = before.z[layer].clone()
            z[:, head] = 0.0
            without = judge.layers[layer].attn_out(z.flatten(-2))
            # The same sum without the terms that are zero: rounding of entries of order 1.
            torch.testing.assert_close(after.attn_out[layer], without, atol=1e-5, rtol=1e-5)
        else:
            assert moved == set(range(head * group, (head + 1) * group))


def test_parts_are_named_for_what_they_are(judge: JudgeModel) -> None:
    parts: dict[str, set[str]] = {}
    for part in parameter_parts(judge):
        parts.setdefault(part.part, set()).add(part.name)
    assert all("norm" in name or "ln_" in name for name in parts["norm"])
    assert not any("norm" in name or "ln_" in name for name in parts["mlp"])
    assert any("embed" in name or "wte" in name for name in parts["embedding"])
    assert all(
        f".{i}." in name for part in parameter_parts(judge) if (i := part.layer) is not None for name in [part.name]
    )
    text = {name for name in parts.get("other", set()) if "vision" not in name and "multi_modal" not in name}
    assert text == set()


def test_a_planted_change_of_one_head_is_found_there_and_nowhere_else(llama: JudgeModel) -> None:
    tuned = tuned_copy(llama)
    delta = torch.full((8, 32), 0.25)
    with torch.no_grad():
        tuned.model.get_parameter("model.layers.2.self_attn.q_proj.weight")[16:24] += delta  # head 2 of 8 rows each
    moved = {
        (change.name, change.head): change.norm_change for change in weight_changes(llama, tuned) if change.norm_change
    }
    name = "model.layers.2.self_attn.q_proj.weight"
    # 256 values of 0.25: sqrt(256 / 16) = 4
    assert moved == {(name, None): pytest.approx(4.0, rel=1e-6), (name, 2): pytest.approx(4.0, rel=1e-6)}


def test_norms_do_not_depend_on_how_many_values_are_read_at_once(
    llama: JudgeModel, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import relscope.interventions.changes as module

    other = tiny_judge("llama", tiny_tokenizer, seed=1)
    whole = weight_changes(llama, other)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 100)
    piecewise = weight_changes(llama, other)
    for found, wanted in zip(piecewise, whole, strict=True):
        assert (found.name, found.head, found.n_values) == (wanted.name, wanted.head, wanted.n_values)
        assert found.norm_base == pytest.approx(wanted.norm_base, rel=1e-12)
        assert found.norm_change == pytest.approx(wanted.norm_change, rel=1e-12)


def test_embeddings_of_two_vocabularies_are_compared_where_both_have_rows(tiny_tokenizer: Any) -> None:
    base = tiny_judge("llama", tiny_tokenizer)
    larger = copy.deepcopy(base.model)
    larger.resize_token_embeddings(len(tiny_tokenizer) + 8)
    with torch.no_grad():
        larger.get_input_embeddings().weight[3, 5] += 2.0
    changes = {change.name: change for change in weight_changes(base, as_judge(larger)) if change.head is None}
    embedding = changes["model.embed_tokens.weight"]
    assert embedding.n_values == len(tiny_tokenizer) * 32
    assert embedding.norm_change == pytest.approx(2.0, rel=1e-6)
    assert changes["lm_head.weight"].norm_change == 0.0


def test_a_tied_embedding_counts_once_and_an_untied_one_twice(tiny_tokenizer: Any) -> None:
    tied = as_judge(tiny_model("qwen2", len(tiny_tokenizer)))
    assert [c.name for c in embeddings(weight_changes(tied, tied))] == ["model.embed_tokens.weight"]
    model = copy.deepcopy(tied.model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1.0)
    untied = {c.name: c.norm_change for c in embeddings(weight_changes(tied, as_judge(model)))}
    n_values = len(tiny_tokenizer) * 32
    assert untied == {"model.embed_tokens.weight": 0.0, "lm_head.weight": pytest.approx(math.sqrt(n_values), rel=1e-6)}


def embeddings(changes: list[WeightChange]) -> list[WeightChange]:
    return [change for change in changes if change.part == "embedding"]


def test_parameters_of_other_names_or_sizes_are_refused(llama: JudgeModel, tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="only one of them has 'model"):
        weight_changes(llama, tiny_judge("gpt2", tiny_tokenizer))
    wider = copy.deepcopy(llama.model)
    wider.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 64)
    with pytest.raises(InputError, match=r"'model\.layers\.0\.mlp\.up_proj\.weight' has the sizes \(48, 32\) and"):
        weight_changes(llama, as_judge(wider))
