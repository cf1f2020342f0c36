"""Path patching finds the paths between planted parts, each whole, and no others.

The models are in `planted`. In them each part hands on to the next:

    stage  sender                          receivers that read it directly
    0      the embedding, at the document  layer 0 at the document; the matcher's keys there; its z at the query
    1      the matcher, at the query       layers up to the carrier at the query; its keys there; its z at the last
    2      the carrier, at the last token  layers up to the writer at the last token; its values and z there
    3      the writer, at the last token   the logits

Frozen, a path has the whole effect if its sender and receiver are of one stage, and else none. Open, what a sender
writes also comes to the receivers of all later stages.
"""

from __future__ import annotations

from typing import Any

import pytest

from planted import LD_CLEAN, LD_CORRUPTED, N_HEADS, N_LAYERS, Planted, matching_model, mlp_writing_model
from relscope.errors import InputError
from relscope.interventions import Path, Site, all_sites, direct_effects, patch_paths

# As in test_planted_models: float32's rounding of sums of a few terms of order 1.
TOLERANCE = 1e-5
REGIONS = ("document", "query", "last", "all")


@pytest.fixture(scope="module", params=[4, 2])
def planted(request: pytest.FixtureRequest) -> Planted:
    return matching_model(request.param)


def sender_stages(planted: Planted) -> dict[Site, int]:
    (at_match, match), (at_carry, carry), (at_write, write) = planted.matcher, planted.carriers[0], planted.writer
    written: list[tuple[str, list[tuple[str, int, int | None]]]] = [
        ("document", [("resid_pre", 0, None)]),
        ("query", [("z", at_match, match), ("attn_out", at_match, None)]),
        ("last", [("z", at_carry, carry), ("attn_out", at_carry, None)]),
        (
            "last",
            [("mlp_out", at_write, None)] if write is None else [("z", at_write, write), ("attn_out", at_write, None)],
        ),
    ]
    return {
        Site(component, layer, where, head): stage
        for stage, (region, parts) in enumerate(written)
        for component, layer, head in parts
        for where in (region, "all")
    }


def receiver_stages(planted: Planted) -> dict[Any, int]:
    (at_match, match), (at_carry, carry), (at_write, write) = planted.matcher, planted.carriers[0], planted.writer
    group = N_HEADS // planted.judge.shape.n_kv_heads
    stages: dict[Any, int] = {"logits": 3}
    reading = [(match, at_match, "document", "query"), (carry, at_carry, "query", "last")]
    for stage, (head, layer, src, dest) in enumerate(reading):
        for where in (src, "all"):
            stages[Site("k", layer, where, head // group)] = stage
            stages[Site("k_view", layer, where, head)] = stage
        for where in (dest, "all"):
            stages[Site("z", layer, where, head)] = stage
    for where in ("last", "all"):
        if write is not None:
            for component, head in (("v", write // group), ("v_view", write), ("z", write)):
                stages[Site(component, at_write, where, head)] = 2
    for layer in range(N_LAYERS):
        stage = 0 if layer <= at_match else 1 if layer <= at_carry else 2
        for where in (("document", "query", "last")[stage], "all"):
            stages[Site("resid_pre", layer, where)] = stage
    return stages


def every_path(planted: Planted, variant: Any) -> list[Path]:
    n_kv_heads = planted.judge.shape.n_kv_heads
    senders = all_sites(["z", "attn_out", "mlp_out"], REGIONS, N_LAYERS, N_HEADS)
    senders += all_sites(["resid_pre"], REGIONS, 1, N_HEADS)
    components = ["resid_pre", "z", "q", "k", "v", "k_view", "v_view"]
    receivers = [*all_sites(components, REGIONS, N_LAYERS, N_HEADS, n_kv_heads), "logits"]
    paths = []
    for sender in senders:
        for receiver in receivers:
            try:
                paths.append(Path(sender, receiver, variant))  # type: ignore[arg-type]
            except InputError:
                continue  # the receiver comes first
    return paths


def wanted_values(planted: Planted, paths: list[Path], direction: str) -> list[float]:
    base, source = (LD_CORRUPTED, LD_CLEAN) if direction == "denoise" else (LD_CLEAN, LD_CORRUPTED)
    sent, read = sender_stages(planted), receiver_stages(planted)
    values = []
    for path in paths:
        of_sender, of_receiver = sent.get(path.sender), read.get(path.receiver)
        arrives = of_sender is not None and of_receiver is not None and of_receiver >= of_sender
        values.append(source if arrives and (path.variant == "open" or of_receiver == of_sender) else base)
    return values


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", ["frozen", "open"])
def test_the_paths_between_planted_parts_and_no_others_have_effects(
    planted: Planted, variant: str, direction: Any
) -> None:
    # Every eleventh of those without an effect, and all with one.
    paths = every_path(planted, variant)
    base = LD_CORRUPTED if direction == "denoise" else LD_CLEAN
    wanted = dict(zip(paths, wanted_values(planted, paths, direction), strict=True))
    chosen = [path for n, path in enumerate(paths) if wanted[path] != base or n % 11 == 0]
    assert sum(wanted[path] != base for path in chosen) > 40
    found = patch_paths(planted.judge, planted.pairs[0], chosen, direction=direction).ld_patched.tolist()
    assert dict(zip(chosen, found, strict=True)) == pytest.approx({p: wanted[p] for p in chosen}, abs=TOLERANCE)


@pytest.mark.parametrize("variant", ["frozen", "open"])
def test_a_verdict_that_an_mlp_writes_comes_along_the_same_paths(variant: Any) -> None:
    planted = mlp_writing_model()
    sent, read = sender_stages(planted), receiver_stages(planted)
    paths = [path for path in every_path(planted, variant) if path.sender in sent and path.receiver in read]
    wanted = wanted_values(planted, paths, "denoise")
    for pair in planted.pairs:
        found = patch_paths(planted.judge, pair, paths).ld_patched.tolist()
        assert dict(zip(paths, found, strict=True)) == pytest.approx(
            dict(zip(paths, wanted, strict=True)), abs=TOLERANCE
        )


@pytest.mark.parametrize("build", [matching_model, mlp_writing_model])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_writer_alone_acts_on_the_verdict_directly(build: Any, direction: Any) -> None:
    planted = build()
    sites = all_sites(["z", "attn_out", "mlp_out"], REGIONS, N_LAYERS, N_HEADS)
    stages = sender_stages(planted)
    base, source = (LD_CORRUPTED, LD_CLEAN) if direction == "denoise" else (LD_CLEAN, LD_CORRUPTED)
    found = direct_effects(planted.judge, planted.pairs[0], sites, direction=direction).ld_patched.tolist()
    wanted = {site: source if stages.get(site) == 3 else base for site in sites}
    assert dict(zip(sites, found, strict=True)) == pytest.approx(wanted, abs=TOLERANCE)
