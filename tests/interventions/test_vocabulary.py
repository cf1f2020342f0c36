"""What heads write, in words, and the logit lens: against all logits of the Hugging Face model's own head."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, granite, tiny_judge
from reference_readouts import ReadoutReference
from relscope.errors import InputError
from relscope.interventions import direct_contributions, head_vocabulary, logit_lens, top_tokens, vocabulary
from relscope.models import JudgeModel, RecordedRun
from relscope.prompts import Prompt, Span

REGIONS = ("query", "last", "document.first")
# As in test_direct_contributions: logits of order 1 in float32, after another attention code.
TOLERANCE = 2e-5
K = 5


@pytest.fixture(scope="module")
def reference(family: str, judge: JudgeModel) -> ReadoutReference:
    return ReadoutReference(judge.model, family)


def assert_extremes(ids: torch.Tensor, logits: torch.Tensor, wanted: torch.Tensor, *, largest: bool) -> None:
    """The logits are the most extreme ones of all, in order, and each is its token's."""
    in_order = sorted(wanted.tolist(), reverse=largest)[:K]
    assert logits.tolist() == pytest.approx(in_order, abs=TOLERANCE)
    assert wanted[ids].tolist() == pytest.approx(logits.tolist(), abs=TOLERANCE)
    assert len(set(ids.tolist())) == K


def test_heads_write_the_tokens_that_the_unembedding_reads_in_them(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    pairs = [aligned(tiny_tokenizer, number) for number in (0, 1)]
    prompts = [pair.clean for pair in pairs]
    yes, no = pairs[0].answer_ids
    runs = ((judge.record(prompt.ids, for_restart=False), prompt) for prompt in prompts)
    found = head_vocabulary(judge, runs, REGIONS, (yes, no), K)
    assert (found.regions, found.n_runs) == (REGIONS, 2)
    for layer, head in ((0, 0), (1, N_HEADS - 1), (N_LAYERS - 1, 2)):
        for number, region in enumerate(REGIONS):
            of_runs = []
            for prompt in prompts:
                at = prompt.region(region)
                parts = [
                    reference.final_part(prompt.ids, p, reference.head_part(prompt.ids, layer, head, p)) for p in at
                ]
                of_runs.append(sum(parts) / len(parts))
            wanted = reference.lm_head.weight.double() @ (sum(of_runs) / 2)
            place, of = (number, layer, head), found.tokens
            assert_extremes(of.top_ids[place], of.top_logits[place], wanted, largest=True)
            assert_extremes(of.bottom_ids[place], of.bottom_logits[place], wanted, largest=False)
            assert float(found.logit_diff[place]) == pytest.approx(float(wanted[yes] - wanted[no]), abs=TOLERANCE)


def test_at_the_last_token_heads_write_their_contribution_to_the_verdict(
    judge: JudgeModel, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    found = head_vocabulary(judge, [(run, pair.clean)], ["query", "last"], pair.answer_ids)
    contributions = direct_contributions(judge, run, pair.answer_ids).head
    # The same vectors; products of other batches.
    torch.testing.assert_close(found.logit_diff[1], contributions, atol=1e-5, rtol=1e-5)


def test_the_lens_reads_what_the_model_would_answer_after_each_layer(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer)
    prompt, (yes, no) = pair.clean, pair.answer_ids
    run = judge.record(prompt.ids, for_restart=False)
    found = logit_lens(judge, run, prompt, REGIONS, pair.answer_ids, K)
    softcap = getattr(reference.model.config.get_text_config(), "final_logit_softcapping", None)
    for layer in range(N_LAYERS):
        logits = reference.lens_logits(prompt.ids, layer)
        for number, region in enumerate(REGIONS):
            at = list(prompt.region(region))
            wanted = logits[at].mean(0)
            place = number, layer
            assert float(found.logit_diff[place]) == pytest.approx(float(wanted[yes] - wanted[no]), abs=TOLERANCE)
            uncapped = logits[at] if softcap is None else softcap * torch.atanh(logits[at] / softcap)
            wanted = uncapped.mean(0)
            assert_extremes(found.tokens.top_ids[place], found.tokens.top_logits[place], wanted, largest=True)
            assert_extremes(found.tokens.bottom_ids[place], found.tokens.bottom_logits[place], wanted, largest=False)


def test_the_lens_ends_in_the_verdict_of_the_run(
    judge: JudgeModel, reference: ReadoutReference, tiny_tokenizer: Any
) -> None:
    pair = aligned(tiny_tokenizer, format="pairwise")
    run = judge.record(pair.corrupted.ids)
    found = logit_lens(judge, run, pair.corrupted, ["last"], pair.answer_ids)
    wanted = reference.logit_diff(pair.corrupted.ids, pair.answer_ids)
    assert float(found.logit_diff[0, -1]) == pytest.approx(wanted, abs=TOLERANCE)


def test_logits_do_not_depend_on_how_many_are_held_at_once(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    vectors = torch.randn(3, 4, judge.shape.d_model, generator=torch.Generator().manual_seed(0))
    whole = top_tokens(judge, vectors, K)
    n_rows: list[int] = []
    token_logits = JudgeModel.token_logits

    def counted(self: JudgeModel, hidden: torch.Tensor, **options: Any) -> torch.Tensor:
        n_rows.append(len(hidden))
        return token_logits(self, hidden, **options)

    monkeypatch.setattr(vocabulary, "_LOGITS_AT_ONCE", 5 * judge.shape.d_vocab)
    monkeypatch.setattr(JudgeModel, "token_logits", counted)
    chunked = top_tokens(judge, vectors, K)
    assert n_rows == [5, 5, 2]
    assert torch.equal(chunked.top_ids, whole.top_ids)
    assert torch.equal(chunked.bottom_ids, whole.bottom_ids)
    # Products of other batches: rounding of float32 sums.
    torch.testing.assert_close(chunked.top_logits, whole.top_logits, atol=1e-5, rtol=0)


def test_runs_are_read_one_by_one(tiny_tokenizer: Any) -> None:
    judge, prompt = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer).clean
    made: list[weakref.ref[RecordedRun]] = []
    alive: list[int] = []

    def recorded() -> Iterator[tuple[RecordedRun, Prompt]]:
        for _ in range(4):
            alive.append(sum(run() is not None for run in made))
            run = judge.record(prompt.ids, for_restart=False)
            made.append(weakref.ref(run))
            yield run, prompt

    head_vocabulary(judge, recorded(), ["last"], (0, 1))
    # While a run is recorded, the one before it may still be held; none that came earlier is.
    assert max(alive) <= 1


def test_an_unembedding_with_a_bias_adds_it_to_the_lens_but_to_no_head(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    pair = aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    heads = head_vocabulary(judge, [(run, pair.clean)], ["last"], pair.answer_ids, k=1)
    bias = torch.zeros(judge.shape.d_vocab)
    bias[7] = 1000.0
    judge.unembedding.bias = torch.nn.Parameter(bias, requires_grad=False)
    lens = logit_lens(judge, run, pair.clean, ["last"], pair.answer_ids, k=1)
    assert set(lens.tokens.top_ids.flatten().tolist()) == {7}
    again = head_vocabulary(judge, [(run, pair.clean)], ["last"], pair.answer_ids, k=1)
    assert 7 not in again.tokens.top_ids
    # 1000 added and taken off again in float32 leaves rounding of 1e-4 in that token alone, which is not at the top.
    torch.testing.assert_close(again.tokens.top_logits, heads.tokens.top_logits, atol=1e-6, rtol=0)


def test_top_tokens_of_known_vectors_are_read_off_the_unembedding(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    weight = torch.zeros_like(judge.unembedding.weight)
    weight[3, 0], weight[5, 0], weight[9, 0] = 2.0, 1.0, -4.0
    judge.unembedding.weight = torch.nn.Parameter(weight, requires_grad=False)
    vector = torch.zeros(1, judge.shape.d_model)
    vector[0, 0] = 0.5
    found = top_tokens(judge, vector, 2)
    assert (found.top_ids[0].tolist(), found.top_logits[0].tolist()) == ([3, 5], [1.0, 0.5])
    assert (int(found.bottom_ids[0, 0]), float(found.bottom_logits[0, 0])) == (9, -2.0)


@pytest.mark.parametrize("k", [0, -1, 10_000])
def test_a_number_of_tokens_that_the_vocabulary_has_not_is_refused(tiny_tokenizer: Any, k: int) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    with pytest.raises(InputError, match=f"{k} top tokens: use a number between 1 and {judge.shape.d_vocab}"):
        top_tokens(judge, torch.zeros(1, judge.shape.d_model), k)


def test_regions_without_positions_and_unknown_ones_are_refused(tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer)
    run = judge.record(pair.clean.ids)
    with pytest.raises(InputError, match="region 'qurey' does not exist"):
        logit_lens(judge, run, pair.clean, ["qurey"], pair.answer_ids)
    parts = {"query": Span(0, 0), "document": Span(0, len(pair.clean)), "instruction": Span(0, 0)}
    whole = dataclasses.replace(pair.clean, parts=parts)
    with pytest.raises(InputError, match="region 'other' has no positions in a prompt"):
        head_vocabulary(judge, [(run, whole)], ["last", "other"], pair.answer_ids)
    with pytest.raises(InputError, match="give at least one"):
        head_vocabulary(judge, [], ["last"], pair.answer_ids)


def test_the_lens_needs_no_sum_of_parts_but_the_models_logits(tiny_tokenizer: Any) -> None:
    pair = aligned(tiny_tokenizer)
    judge = granite(tiny_tokenizer, residual_multiplier=0.3)
    lens = logit_lens(judge, judge.record(pair.clean.ids), pair.clean, ["last"], pair.answer_ids)
    wanted = judge.logit_diff([pair.clean.ids], [pair.answer_ids])
    torch.testing.assert_close(lens.logit_diff[0, -1:], wanted, atol=TOLERANCE, rtol=0)
    scaled = granite(tiny_tokenizer, logits_scaling=8.0)
    with pytest.raises(InputError, match="'answer logits'"):
        logit_lens(scaled, scaled.record(pair.clean.ids), pair.clean, ["last"], pair.answer_ids)
