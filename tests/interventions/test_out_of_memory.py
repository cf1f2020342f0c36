"""Where the device's memory does not suffice, the same numbers come in halves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, tiny_judge
from relscope.errors import InputError
from relscope.interventions import (
    VARIANTS,
    Path,
    Site,
    all_sites,
    direct_effects,
    patch_pair,
    patch_paths,
    patching,
    paths,
    routes,
    wavefront,
)
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair


def with_room_for(n_patches: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let sweeps of more patches run out of memory; the sizes of those that did not."""
    done: list[int] = []

    def sweep(judge: Any, jobs: Any) -> Any:
        n = sum(len(job.placed) for job in jobs)
        if n > n_patches:
            raise torch.OutOfMemoryError
        done.append(n)
        return wavefront.sweep(judge, jobs)

    monkeypatch.setattr(patching, "sweep", sweep)
    return done


def test_patches_go_on_in_halves(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["z", "mlp_out"], ["query", "last"], N_LAYERS, N_HEADS)
    wanted = patch_pair(judge, pair, sites).ld_patched
    done = with_room_for(7, monkeypatch)
    with pytest.warns(UserWarning, match="go on in halves"):
        found = patch_pair(judge, pair, sites).ld_patched
    assert sum(done) == len(sites)
    assert max(done) <= 7
    assert float((found - wanted).abs().max()) <= 1e-5


def test_one_patch_that_does_not_fit_is_an_error(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    with_room_for(0, monkeypatch)
    sites = all_sites(["z"], ["last"], N_LAYERS, N_HEADS)
    with (
        pytest.warns(UserWarning, match="in halves"),
        pytest.raises(InputError, match="does not suffice for the recorded runs of one pair and one"),
    ):
        patch_pair(judge, aligned(tiny_tokenizer), sites)


@pytest.fixture
def paths_between(tiny_tokenizer: Any) -> tuple[JudgeModel, AlignedPair, list[Path], torch.Tensor]:
    """Of both variants into several layers, heads' inputs and the verdict; and their LDs where memory suffices."""
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer)
    receivers: list[Any] = ["logits", Site("resid_pre", 2, "all"), Site("z", 2, "last", 1), Site("q", 3, "last", 2)]
    receivers += [Site("v_view", 2, "document", 3), Site("k", 3, "all", 0)]
    senders = all_sites(["z", "mlp_out"], ["document", "last"], 2, N_HEADS)
    of = [Path(*ends) for ends in itertools.product(senders, receivers, VARIANTS)]
    return judge, pair, of, patch_paths(judge, pair, of).ld_patched


def test_paths_go_on_in_halves_from_what_no_stopped_sweep_has_overwritten(
    paths_between: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, pair, of, wanted = paths_between
    done: list[int] = []

    def sweep(judge: Any, jobs: Any) -> Any:
        swept = wavefront.sweep(judge, jobs)  # a device may run out after the last layer as well
        done.append(sum(len(job.resid_pre) for job in jobs))
        if done[-1] > 3:
            raise torch.OutOfMemoryError
        return swept

    monkeypatch.setattr(paths, "sweep", sweep)
    with pytest.warns(UserWarning, match="paths at once; they go on in halves"):
        found = patch_paths(judge, pair, of).ld_patched
    assert max(done) > 3
    # Other batches, other rounding of float32 products.
    assert float((found - wanted).abs().max()) <= 1e-5


def test_paths_whose_senders_do_not_fit_together_go_on_in_halves(
    paths_between: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, pair, of, wanted = paths_between

    def changed_residuals(judge: Any, job: Any, variant: str, layers: Any) -> Any:
        if len(job.placed) > 2:
            raise torch.OutOfMemoryError
        return routes.changed_residuals(judge, job, variant, layers)

    monkeypatch.setattr(paths, "changed_residuals", changed_residuals)
    with pytest.warns(UserWarning, match="paths at once; they go on in halves"):
        found = patch_paths(judge, pair, of).ld_patched
    assert float((found - wanted).abs().max()) <= 1e-5


def test_one_path_that_does_not_fit_is_an_error(paths_between: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, pair, of, _ = paths_between

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    message = "does not suffice for the recorded runs of one pair and one"
    monkeypatch.setattr(paths, "sweep", full)
    with pytest.raises(InputError, match=message):
        patch_paths(judge, pair, of[-1:])
    with pytest.warns(UserWarning, match="in halves"), pytest.raises(InputError, match=message):
        patch_paths(judge, pair, of)
    monkeypatch.setattr(JudgeModel, "record_all", full)
    with pytest.raises(InputError, match=message):
        direct_effects(judge, pair, [Site("z", 0, "last", 0)])
