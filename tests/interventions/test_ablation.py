"""Ablated verdicts against one prompt at a time with plain hooks and values worked out one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from ablations import ANSWERS, OF_LAYERS, SITES, TOLERANCE, prompts_of
from torch import Tensor

import reference as slow
from families import N_HEADS, N_LAYERS
from relscope.interventions import Site, ablated, reference_of
from relscope.models import JudgeModel, scoring
from relscope.prompts import Prompt


def regions_of(prompt: Prompt) -> list[str]:
    """The region of each position."""
    at = {name: prompt.region(name) for name in ("last", "query", "document", "instruction", "other")}
    return [next(name for name, region in at.items() if position in region) for position in range(len(prompt))]


def cells_of(prompt: Prompt) -> list[tuple[str, int | None]]:
    """The region of each position, and its place in `other`: of that all prompts have as many tokens."""
    other = list(prompt.region("other"))
    return [(name, other.index(i) if name == "other" else None) for i, name in enumerate(regions_of(prompt))]


class Slow:
    """One prompt, one pass; what stands in the place of each activation is worked out position by position."""

    def __init__(self, model: Any, family: str, of: Sequence[Prompt]) -> None:
        self.plain, self.of = slow.Reference(model, family), of
        self._seen: dict[tuple[str, int], list[Tensor]] = {}

    def seen(self, component: str, layer: int) -> list[Tensor]:
        if (component, layer) not in self._seen:
            self._seen[component, layer] = [self.plain.activations(p.ids, component, layer) for p in self.of]
        return self._seen[component, layer]

    def mean(self, component: str, layer: int, prompt: Prompt) -> Tensor:
        """The mean over all positions of the same region; in `other`, over those at the same place."""
        given = [
            (value, cell)
            for run, of in zip(self.seen(component, layer), self.of, strict=True)
            for value, cell in zip(run, cells_of(of), strict=True)
        ]
        cells = cells_of(prompt)
        means = {cell: torch.stack([value for value, there in given if there == cell]).mean(0) for cell in set(cells)}
        return torch.stack([means[cell] for cell in cells])

    def zero(self, component: str, layer: int, prompt: Prompt) -> Tensor:
        return torch.zeros(len(prompt), self.seen(component, layer)[0].shape[1])

    def resample(self, component: str, layer: int, prompt: Prompt) -> Tensor:
        """Of the only other prompt, the position in the middle of which that of a position lies."""
        (run,), (of,) = self.seen(component, layer), self.of
        regions, regions_there = regions_of(prompt), regions_of(of)
        rows = []
        for position, region in enumerate(regions):
            here = [p for p, name in enumerate(regions) if name == region]
            there = [p for p, name in enumerate(regions_there) if name == region]
            rows.append(run[there[int((here.index(position) + 0.5) / len(here) * len(there))]])
        return torch.stack(rows)

    def logit_diff(self, prompt: Prompt, sites: Sequence[Site], kind: str, *, keep_only: bool = False) -> float:
        components = {site.component for site in sites}
        # Before any hook is in place.
        values_of = {(component, layer): getattr(self, kind)(component, layer, prompt)
                     for component in components for layer in range(N_LAYERS)}  # fmt: skip
        with contextlib.ExitStack() as stack:
            for component in components:
                for layer in range(N_LAYERS):
                    values = values_of[component, layer]
                    for head in range(N_HEADS) if component == "z" else (None,):
                        here = [s for s in sites if (s.component, s.layer, s.head) == (component, layer, head)]
                        chosen = {position for site in here for position in prompt.region(site.region)}
                        at = set(range(len(prompt))) - chosen if keep_only else chosen
                        stack.callback(self.plain.hook(component, layer, head, at, values).remove)
            return self.plain.logit_diff(prompt.ids, ANSWERS)


@pytest.mark.parametrize("keep_only", [False, True])
@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
def test_ablations_equal_plain_hooks_with_values_by_hand(
    family: str, judge: JudgeModel, judged: list[Prompt], others: list[Prompt], kind: Any, keep_only: bool
) -> None:
    if kind == "resample":
        others = others[1:2]
    by_hand = Slow(judge.model, family, others)
    of = None if kind == "zero" else reference_of(judge, others, kind)
    plain = judge.relevance(judged, ANSWERS)
    with ablated(judge, SITES, kind=kind, reference=of, keep_only=keep_only):
        found = judge.relevance(judged, ANSWERS)
    wanted = [by_hand.logit_diff(prompt, SITES, kind, keep_only=keep_only) for prompt in judged]
    assert found.tolist() == pytest.approx(wanted, abs=TOLERANCE)
    assert ((found - plain).abs() > 100 * TOLERANCE).any()


@pytest.mark.parametrize("keep_only", [False, True])
def test_whole_layers_are_ablated_too(
    family: str, judge: JudgeModel, judged: list[Prompt], others: list[Prompt], keep_only: bool
) -> None:
    by_hand = Slow(judge.model, family, others)
    with ablated(judge, OF_LAYERS, reference=reference_of(judge, others), keep_only=keep_only):
        found = judge.relevance(judged, ANSWERS)
    wanted = [by_hand.logit_diff(prompt, OF_LAYERS, "mean", keep_only=keep_only) for prompt in judged]
    assert found.tolist() == pytest.approx(wanted, abs=TOLERANCE)


def test_means_by_relative_position_are_those_of_tenths_of_each_region(
    family: str, judge: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    plain = slow.Reference(judge.model, family)
    site, prompt = Site("z", 1, "document", 2), judged[0]
    # Each token is cut into ten; tenths of the region are then as many pieces as the region has tokens.
    pieces: list[list[Tensor]] = [[] for _ in range(10)]
    for other in others:
        run, at = plain.activations(other.ids, "z", 1), other.region("document")
        cut = [run[position] for position in at for _ in range(10)]
        for part in range(10):
            pieces[part] += cut[part * len(at) : (part + 1) * len(at)]
    here = prompt.region("document")
    values = torch.zeros(len(prompt), run.shape[1])
    for i, position in enumerate(here):
        values[position] = torch.stack(pieces[int((i + 0.5) / len(here) * 10)]).mean(0)
    wanted = plain.patched(prompt.ids, ANSWERS, "z", 1, 2, here, values)
    with ablated(judge, [site], reference=reference_of(judge, others, positions="relative")):
        assert judge.relevance([prompt], ANSWERS).tolist() == pytest.approx([wanted], abs=TOLERANCE)


def test_the_fixed_positional_mean_is_the_mean_of_each_position(
    family: str, judge: JudgeModel, judged: list[Prompt]
) -> None:
    n = min(map(len, judged))
    cut = [Prompt(p.ids[:n], "", p.offsets[:n], {"document": p.parts["document"]}, {}) for p in judged]
    cut = [Prompt(p.ids, "", p.offsets, cut[0].parts, {}) for p in cut]
    plain, heads = slow.Reference(judge.model, family), [(1, 0, "all"), (2, 3, "last")]
    handles = []
    for layer, head, region in heads:
        mean = (plain.activations(cut[0].ids, "z", layer) + plain.activations(cut[1].ids, "z", layer)) / 2
        handles.append((layer, head, cut[2].region(region), mean))
    with contextlib.ExitStack() as stack:
        for layer, head, at, mean in handles:
            stack.callback(plain.hook("z", layer, head, at, mean).remove)
        wanted = plain.logit_diff(cut[2].ids, ANSWERS)
    with ablated(judge, heads, reference=reference_of(judge, cut[:2], positions="fixed")):
        assert judge.relevance(cut[2:], ANSWERS).tolist() == pytest.approx([wanted], abs=TOLERANCE)


def test_nothing_knocked_out_and_everything_kept_is_the_full_model(
    judge: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    plain, of = judge.relevance(judged, ANSWERS), reference_of(judge, others)
    everything = [Site("z", layer, "all", head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
    for sites, keep_only in (([], False), (everything, True)):
        with ablated(judge, sites, reference=of, keep_only=keep_only):
            assert judge.relevance(judged, ANSWERS).tolist() == pytest.approx(plain.tolist(), abs=1e-5)


def alone_and_together(
    judge: JudgeModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[float], list[tuple[int, ...]]]:
    """LD of prompts one by one, and in one call that shares their beginning; the shapes of the passes of that call."""
    alone = [judge.relevance([prompt], ANSWERS).item() for prompt in prompts]
    monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
    sizes: list[tuple[int, ...]] = []

    def seen(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(tuple(kwargs["input_ids"].shape))

    with judge.decoder.register_forward_pre_hook(seen, with_kwargs=True):
        together = judge.relevance(prompts, ANSWERS).tolist()
    return alone, together, sizes


@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
@pytest.mark.parametrize("order", ["qdi", "idq"])
def test_shared_beginnings_change_no_ablated_verdict(
    judge: JudgeModel, tiny_tokenizer: Any, order: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = prompts_of(tiny_tokenizer, 0, order)
    of = None if kind == "zero" else reference_of(judge, prompts_of(tiny_tokenizer, 1, order), kind)
    with ablated(judge, SITES, kind=kind, reference=of):
        alone, together, sizes = alone_and_together(judge, judged, monkeypatch)
    assert together == pytest.approx(alone, abs=TOLERANCE)
    if kind != "resample":
        # All that stands before the documents, which differ in their first word or later.
        assert sizes[0][0] == 1
        assert sizes[0][1] >= judged[0].parts["document"].start
        assert sizes[1][0] == len(judged)


def test_a_beginning_that_stays_as_it_is_is_shared_under_resampling_too(
    judge: JudgeModel, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, sites = prompts_of(tiny_tokenizer, 0, "qdi"), [(1, 0, "document"), (2, 3, "last")]
    of = reference_of(judge, prompts_of(tiny_tokenizer, 1, "qdi"), "resample")
    with ablated(judge, sites, kind="resample", reference=of):
        alone, together, sizes = alone_and_together(judge, judged, monkeypatch)
    assert together == pytest.approx(alone, abs=TOLERANCE)
    assert sizes[0] == (1, judged[0].parts["document"].start)
