"""Ablated verdicts against one prompt at a time with plain hooks and values worked out one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import reference as slow
from families import N_HEADS, N_LAYERS, as_judge, tiny_judge, tiny_model
from relscope.errors import InputError
from relscope.interventions import Reference, Site, ablated, reference_of, references
from relscope.models import JudgeModel, scoring
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate, Span

ANSWERS = (70, 7)
# LD is of order 1 to 10 and float32; batches add in another order than single prompts do.
TOLERANCE = 1e-4
QUERIES = ("where did the cat sit", "why does bread rise when it is warm")
DOCUMENTS = (
    "The cat sat on the mat near the river all day.",
    "Bread rises because yeast makes gas.",
    "The cat sat by the dog; the dog ran to the hill, and there it sat until noon came and the river was low.",
)
SITES = [
    Site("z", 0, "document", 1), Site("z", 1, "query", 0), Site("z", 1, "document", 0), Site("z", 2, "last", 3),
    Site("z", 2, "instruction", 2), Site("z", 3, "all", 1), Site("z", 3, "query.first", 1), Site("z", 0, "other", 2),
]  # fmt: skip
OF_LAYERS = [Site("attn_out", 1, "document"), Site("mlp_out", 2, "last"), Site("mlp_out", 0, "query")]


def prompts_of(tokenizer: Any, query: int, order: Any = "dqi") -> list[Prompt]:
    renderer = PromptRenderer(tokenizer, PromptTemplate(order=order))
    return [renderer.render(QUERIES[query], [document]) for document in DOCUMENTS]


def region_at(prompt: Prompt, position: int) -> str:
    names = [name for name in ("last", "query", "document", "instruction", "other") if position in prompt.region(name)]
    return names[0]


@pytest.fixture
def judged(tiny_tokenizer: Any) -> list[Prompt]:
    return prompts_of(tiny_tokenizer, 0)


@pytest.fixture
def others(tiny_tokenizer: Any) -> list[Prompt]:
    return prompts_of(tiny_tokenizer, 1)


def n_hooks(judge: JudgeModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in judge.model.modules())


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
        seen = self.seen(component, layer)
        rows = []
        for position in range(len(prompt)):
            region = region_at(prompt, position)
            place = prompt.region("other").index(position) if region == "other" else None  # all prompts have as many
            rows.append(torch.stack(
                [run[p] for run, of in zip(seen, self.of, strict=True) for p in range(len(of))
                 if region_at(of, p) == region and (place is None or of.region("other")[place] == p)]
            ).mean(0))  # fmt: skip
        return torch.stack(rows)

    def zero(self, component: str, layer: int, prompt: Prompt) -> Tensor:
        return torch.zeros(len(prompt), self.seen(component, layer)[0].shape[1])

    def resample(self, component: str, layer: int, prompt: Prompt) -> Tensor:
        """Of the only other prompt, the position in the middle of which that of a position lies."""
        (run,), (of,) = self.seen(component, layer), self.of
        rows = []
        for position in range(len(prompt)):
            region = region_at(prompt, position)
            here = [p for p in range(len(prompt)) if region_at(prompt, p) == region]
            there = [p for p in range(len(of)) if region_at(of, p) == region]
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


@pytest.mark.parametrize("kind", ["mean", "zero", "resample"])
@pytest.mark.parametrize("order", ["qdi", "idq"])
def test_shared_beginnings_change_no_ablated_verdict(
    judge: JudgeModel, tiny_tokenizer: Any, order: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = prompts_of(tiny_tokenizer, 0, order)
    of = None if kind == "zero" else reference_of(judge, prompts_of(tiny_tokenizer, 1, order), kind)
    alone, sizes = [], []
    with ablated(judge, SITES, kind=kind, reference=of):
        for prompt in judged:
            alone += judge.relevance([prompt], ANSWERS).tolist()
        monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
        handle = judge.decoder.register_forward_pre_hook(
            lambda _m, _a, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        together = judge.relevance(judged, ANSWERS).tolist()
        handle.remove()
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
    sizes: list[tuple[int, int]] = []
    with ablated(judge, sites, kind="resample", reference=of):
        alone = [judge.relevance([prompt], ANSWERS).item() for prompt in judged]
        monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
        handle = judge.decoder.register_forward_pre_hook(
            lambda _m, _a, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        together = judge.relevance(judged, ANSWERS).tolist()
        handle.remove()
    assert together == pytest.approx(alone, abs=TOLERANCE)
    assert sizes[0] == (1, judged[0].parts["document"].start)


# One model is enough for what does not depend on the layout of its layers.


@pytest.fixture(scope="module")
def llama(tiny_tokenizer: Any) -> JudgeModel:
    return tiny_judge("llama", tiny_tokenizer)


def test_an_inner_ablation_adds_to_the_outer_one(llama: JudgeModel, judged: list[Prompt]) -> None:
    with ablated(llama, SITES, kind="zero"):
        both = llama.relevance(judged, ANSWERS)
        outer = n_hooks(llama)
    with ablated(llama, SITES[:3], kind="zero"):
        first = llama.relevance(judged, ANSWERS)
        with ablated(llama, SITES[3:], kind="zero"):
            assert llama.relevance(judged, ANSWERS).tolist() == both.tolist()
        assert llama.relevance(judged, ANSWERS).tolist() == first.tolist()
    assert outer > n_hooks(llama) == 0


def test_where_both_ablate_the_inner_values_stand(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    of = reference_of(llama, others)
    with ablated(llama, SITES, kind="zero"), ablated(llama, SITES, reference=of):
        found = llama.relevance(judged, ANSWERS)
    with ablated(llama, SITES, reference=of):
        assert llama.relevance(judged, ANSWERS).tolist() == found.tolist()


class StopError(Exception):
    pass


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    with contextlib.suppress(StopError):
        yield


def test_everything_is_restored_after_an_exception(llama: JudgeModel, judged: list[Prompt]) -> None:
    plain = llama.relevance(judged, ANSWERS)
    with stopped(), ablated(llama, SITES, kind="zero"), ablated(llama, OF_LAYERS, kind="zero"):
        raise StopError
    # Within a pass, and while the context is being entered.
    handle = llama.layers[2].mlp.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(StopError()))
    with stopped(), ablated(llama, SITES, kind="zero"):
        llama.relevance(judged, ANSWERS)
    handle.remove()
    with pytest.raises(InputError), ablated(llama, [*SITES, Site("q", 0, "last", 0)], kind="zero"):
        pass
    assert (n_hooks(llama), llama.edits) == (0, [])
    assert llama.relevance(judged, ANSWERS).tolist() == plain.tolist()


def test_a_context_can_be_used_after_a_pass_failed_in_it(llama: JudgeModel, judged: list[Prompt]) -> None:
    with ablated(llama, SITES, kind="zero"):
        wanted = llama.relevance(judged, ANSWERS)
        too_long = Prompt((1,) * 600, "", ((0, 0),) * 600, judged[0].parts, {})
        with pytest.raises(InputError, match="600 tokens"):
            llama.relevance([too_long], ANSWERS)
        assert llama.relevance(judged, ANSWERS).tolist() == wanted.tolist()


@pytest.mark.parametrize("sites", [SITES, []])
def test_passes_that_know_no_regions_are_refused(llama: JudgeModel, judged: list[Prompt], sites: Any) -> None:
    ids = judged[0].ids
    with ablated(llama, sites, kind="zero"):
        for judge_it in (
            lambda: llama.logit_diff([ids], [ANSWERS]),
            lambda: llama.record(ids),
            lambda: llama.next_token_probabilities(ids),
            lambda: reference_of(llama, judged),
        ):
            with pytest.raises(InputError, match=r"judged by judge.relevance\(prompts, answer_ids\)"):
                judge_it()


def test_pairwise_documents_have_means_of_their_own(llama: JudgeModel, tiny_tokenizer: Any) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(format="pairwise"))
    first, second, judged = (
        renderer.render(QUERIES[0], [DOCUMENTS[i], DOCUMENTS[j]]) for i, j in [(0, 1), (1, 2), (2, 0)]
    )
    plain = slow.Reference(llama.model, "llama")
    runs = [(p, plain.activations(p.ids, "z", 1)) for p in (first, second)]
    values = torch.zeros(len(judged), runs[0][1].shape[1])
    for name in ("document_a", "document_b"):
        mean = torch.stack([run[position] for p, run in runs for position in p.region(name)]).mean(0)
        values[list(judged.region(name))] = mean
    wanted = plain.patched(judged.ids, ANSWERS, "z", 1, 0, judged.region("document"), values)
    with ablated(llama, [(1, 0, "document")], reference=reference_of(llama, [first, second])):
        assert llama.relevance([judged], ANSWERS).tolist() == pytest.approx([wanted], abs=TOLERANCE)


def test_half_precision_rounds_no_further_than_the_model_does(tiny_tokenizer: Any, judged: list[Prompt]) -> None:
    model = tiny_model("llama", len(tiny_tokenizer))
    exact, half = as_judge(model), as_judge(tiny_model("llama", len(tiny_tokenizer)).bfloat16())
    found = []
    for judge in (exact, half):
        with ablated(judge, SITES, reference=reference_of(judge, judged)):
            found.append(judge.relevance(judged, ANSWERS))
    plain = [judge.relevance(judged, ANSWERS) for judge in (exact, half)]
    # bf16 keeps 8 bits: the rounding of the plain model, a few times over.
    assert (found[1] - found[0]).abs().max() <= 3 * (plain[1] - plain[0]).abs().max()


def test_resampled_values_are_of_another_query_and_depend_on_the_seed_alone(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    def relevance(of: Reference, prompts: list[Prompt]) -> list[float]:
        with ablated(llama, SITES, kind="resample", reference=of):
            return llama.relevance(prompts, ANSWERS).tolist()

    mixed = reference_of(llama, [*judged, *others], "resample")
    for prompt in judged:
        # Positions of the three others follow those of the three that are judged.
        assert min(mixed.cells(prompt)) >= sum(map(len, judged))
    forwards, backwards = relevance(mixed, judged), relevance(mixed, judged[::-1])
    assert forwards == pytest.approx(backwards[::-1], abs=TOLERANCE)
    seeds = [reference_of(llama, others, "resample", seed=seed) for seed in range(8)]
    assert len({tuple(of.cells(judged[0])) for of in seeds}) == len(others)
    with pytest.raises(InputError, match="all prompts have the query of a prompt that is judged"):
        relevance(reference_of(llama, judged, "resample"), judged)


def test_only_the_layers_that_are_asked_for_are_kept(
    llama: JudgeModel, judged: list[Prompt], others: list[Prompt]
) -> None:
    of = reference_of(llama, others, "resample", sites=[Site("z", 2, "all", 0)])
    with ablated(llama, [(2, 1, "last")], kind="resample", reference=of):
        llama.relevance(judged, ANSWERS)
    with (
        pytest.raises(InputError, match="z of layer 1 was not gathered"),
        ablated(llama, [(1, 1, "last")], kind="resample", reference=of),
    ):
        pass
    with pytest.raises(InputError, match="give fewer prompts, or the sites that are ablated"):
        reference_of(llama, others, "resample", memory_bytes=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mean"}, r"a mean ablation needs one: reference_of\(judge, prompts, 'mean'\)"),
        ({"kind": "middle"}, "kind 'middle' of an ablation does not exist: use one of: mean, zero, resample"),
    ],
)
def test_ablations_without_what_they_need_are_refused(llama: JudgeModel, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message), ablated(llama, SITES, **options):
        pass


def test_references_that_do_not_suit_are_refused(llama: JudgeModel, judged: list[Prompt], others: list[Prompt]) -> None:
    of = reference_of(llama, others)
    with pytest.raises(InputError, match="takes none"), ablated(llama, SITES, kind="zero", reference=of):
        pass
    with (
        pytest.raises(InputError, match="gathered for 'mean' and the ablation is 'resample'"),
        ablated(llama, SITES, kind="resample", reference=of),
    ):
        pass
    with pytest.raises(InputError, match="there are no prompts"):
        reference_of(llama, [])
    with pytest.raises(InputError, match="fixed needs reference prompts of one length"):
        reference_of(llama, others, positions="fixed")
    with pytest.raises(InputError, match="positions 'middle' do not exist: use one of: region"):
        reference_of(llama, others, positions="middle")
    with (
        pytest.raises(InputError, match="fixed positions are of"),
        ablated(llama, SITES, reference=reference_of(llama, others[:1], positions="fixed")),
    ):
        llama.relevance(judged[:1], ANSWERS)


def test_a_region_that_no_reference_prompt_has_is_refused(
    llama: JudgeModel, judged: list[Prompt], tiny_tokenizer: Any
) -> None:
    renderer = PromptRenderer(tiny_tokenizer, PromptTemplate(format="pairwise"))
    of = reference_of(llama, [renderer.render(QUERIES[0], list(DOCUMENTS[:2]))])
    with (
        pytest.raises(InputError, match="no value for region 'document' of a prompt that is judged"),
        ablated(llama, SITES, reference=of),
    ):
        llama.relevance(judged, ANSWERS)


@pytest.mark.parametrize(
    "site", [Site("z", 4, "last", 0), (0, 4, "last"), (-1, 0, "last"), Site("resid_pre", 0, "last")]
)
def test_sites_that_cannot_be_ablated_are_refused(llama: JudgeModel, site: Any) -> None:
    with (
        pytest.raises(InputError, match=r"(layer|head) -?[14] does not exist: |cannot be ablated; choose from z"),
        ablated(llama, [site], kind="zero"),
    ):
        pass


def made_of(words: str) -> Prompt:
    """A prompt of one token a word: d is of the document, q of the query, "." the last; all else is the template's."""
    tokens = words.split()
    parts = {name: Span(tokens.index(name[0]), tokens.index(name[0]) + tokens.count(name[0]))
             for name in ("document", "query")}  # fmt: skip
    return Prompt(tuple(range(len(tokens))), "", ((0, 0),) * len(tokens), parts, {})


def test_a_token_of_the_template_is_found_by_its_place_before_the_next_part() -> None:
    whole, merged = made_of("bos turn : d d d x Q : q q ."), made_of("bos turn : d d Q : q .")
    layout = references._Parts.of([whole, merged], 1)
    texts = ((whole, "bos turn A d d d x Q : q q ."), (merged, "bos turn A d d Q : q ."))
    places = [
        {word: layout.cells(of)[at] for at, word in enumerate(text.split()) if word not in "dq."} for of, text in texts
    ]
    assert {name: cell for name, cell in places[0].items() if name != "x"} == places[1]
    assert len(set(places[0].values())) == 6
    weights = layout.weights(whole)
    assert weights[0].sum() == 2.0  # its own, and that of all tokens of the template
    assert weights[3].sum() == 1.0


def test_a_token_of_the_template_that_no_reference_prompt_has_is_given_the_mean_of_all() -> None:
    layout = references._Parts.of([made_of("bos turn : d d Q : q .")], 1)
    cells = layout.cells(made_of("bos turn : d d x Q : q ."))
    (whole,) = layout._cells_of("other")
    assert [at for at, cell in enumerate(cells) if cell == whole] == [5]
    donors = references._Donors.of([made_of("bos turn : d d d d d d Q : q .")], 0)
    assert set(donors.cells(made_of("bos turn : d d x Q : q ."))) <= set(range(13))


def test_a_whole_region_is_one_part_of_itself() -> None:
    weights = references._Parts({"document": 1, "query": 1, "last": 1}).weights(made_of("d d d d q q q ."))
    assert weights.sum(dim=0).tolist() == [4.0, 3.0, 1.0]
    assert weights.sum(dim=1).tolist() == [1.0] * 8
