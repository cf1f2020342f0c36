"""Path patching against the definition by plain hooks and full forward passes, family by family."""

from __future__ import annotations

from typing import Any

import pytest

from example_pairs import aligned
from families import N_LAYERS
from reference_paths import PathReference
from relscope.errors import InputError
from relscope.interventions import Path, Site, patch_paths
from relscope.models import JudgeModel

# As in test_equals_reference: LD is of order 1, sums in another order differ by some 2e-6.
TOLERANCE = 2e-5

SENDERS = (
    Site("z", 0, "document", 1),
    Site("mlp_out", 0, "query"),
    Site("attn_out", 1, "all"),
    Site("z", 1, "instruction", 3),
    Site("mlp_out", 2, "last"),
    Site("resid_pre", 0, "document"),
)
OF_LAYERS = (("resid_pre", None), ("z", 0), ("q", 3), ("k", 1), ("v", 0), ("k_view", 2), ("v_view", 1))


def paths_into(region: str, layers: tuple[int, ...]) -> list[Path]:
    """From every sender to every receiver at a region, in both variants, where layers allow it; and to the logits."""
    receivers: list[Any] = [Site(component, layer, region, head) for layer in layers for component, head in OF_LAYERS]
    paths = []
    for sender in SENDERS:
        for receiver in (*receivers, "logits"):
            for variant in ("frozen", "open"):
                try:
                    paths.append(Path(sender, receiver, variant))
                except InputError:
                    assert receiver.layer <= sender.layer
    return paths


@pytest.fixture(scope="module")
def reference(family: str, judge: JudgeModel) -> PathReference:
    return PathReference(judge.model, family)


def largest_error(
    judge: JudgeModel, reference: PathReference, pair: Any, paths: list[Path], direction: Any = "denoise"
) -> float:
    found = patch_paths(judge, pair, paths, direction=direction)
    wanted = reference.sweep_paths(pair, paths, direction)
    # The comparison says little unless paths move the verdict, and by different amounts.
    assert wanted.std() > 1e-3
    assert wanted.unique().numel() > len(paths) // 3
    return float((found.ld_patched - wanted).abs().max())


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_paths_to_the_last_token_and_the_logits_equal_full_passes(
    judge: JudgeModel, reference: PathReference, tiny_tokenizer: Any, direction: str
) -> None:
    paths = paths_into("last", (2, N_LAYERS - 1))
    paths = paths[:: 3 if direction == "denoise" else 5]
    assert largest_error(judge, reference, aligned(tiny_tokenizer), paths, direction) <= TOLERANCE


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_paths_within_the_prompt_equal_full_passes(
    judge: JudgeModel, reference: PathReference, tiny_tokenizer: Any, direction: str
) -> None:
    paths = [*paths_into("document", (0, 1)), *paths_into("instruction", (2,)), *paths_into("all", (1, 3))]
    paths = paths[:: 5 if direction == "denoise" else 9]
    assert largest_error(judge, reference, aligned(tiny_tokenizer), paths, direction) <= TOLERANCE


def test_paths_between_two_documents_equal_full_passes(
    judge: JudgeModel, reference: PathReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer, 1, format="pairwise", order="idq")
    receivers = [
        Site("z", 2, "document_b", 1), Site("k", 3, "document_b", 0), Site("v", 2, "document_b.last", 1),
        Site("resid_pre", 2, "document"), Site("z", 2, "all", 3),
    ]  # fmt: skip
    senders = [Site("z", 0, "document_a", 2), Site("attn_out", 1, "document_b"), Site("mlp_out", 1, "query")]
    paths = [Path(s, r, variant) for s in senders for r in receivers for variant in ("frozen", "open")]
    assert largest_error(judge, reference, pair, paths) <= TOLERANCE
