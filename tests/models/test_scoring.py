"""Scoring many prompts at once: the same verdicts as one plain pass for each, in the order given."""

from __future__ import annotations

import pytest
import torch

from families import FAMILIES, as_judge, tiny_model
from reference import Reference
from relscope.errors import InputError
from relscope.models import JudgeModel, scoring
from relscope.models.prefixes import Beginning, shared_beginnings
from relscope.prompts import Prompt, Span

V = 120
ANSWERS = (7, 70)
# LD is of order 1 and float32; batches add in another order than single prompts do.
TOLERANCE = 1e-4


def prompt_of(ids: list[int]) -> Prompt:
    """A prompt whose document is all but its last token."""
    document = Span(0, max(1, len(ids) - 1))
    return Prompt(tuple(ids), "", ((0, 0),) * len(ids), parts={"document": document}, characters={})


def random_ids(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, V - 3, (n,), generator=generator).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_is_the_verdict_of_single_plain_passes(family: str) -> None:
    judge = as_judge(tiny_model(family, V))
    reference = Reference(judge.model, family)
    prompts = [random_ids(n, seed) for seed, n in enumerate([30, 5, 41, 17, 1, 41, 23])]
    found = judge.relevance([prompt_of(ids) for ids in prompts], ANSWERS)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert found.tolist() == pytest.approx([reference.logit_diff(ids, ANSWERS) for ids in prompts], abs=TOLERANCE)


def test_no_prompts_have_no_relevance() -> None:
    assert as_judge(tiny_model("llama", V)).relevance([], ANSWERS).shape == (0,)


# Two queries with several documents each, of several lengths; both begin with the same system turn, longer than the
# window of those families that have one.
SYSTEM = random_ids(20, 100)
QUERIES = [random_ids(8, 101), random_ids(11, 102)]
OF_QUERIES = [[*SYSTEM, *QUERIES[i % 2], *random_ids(n, i)] for i, n in enumerate([9, 30, 12, 12, 25, 1, 17])]


def passes_of(judge: JudgeModel) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    judge.decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_what_prompts_begin_with_is_run_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = as_judge(tiny_model(family, V))
    reference = Reference(judge.model, family)
    assert judge.contract.continuable
    monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
    sizes = passes_of(judge)
    found = judge.relevance([prompt_of(ids) for ids in OF_QUERIES], ANSWERS)
    assert sorted(sizes) == [(1, 28), (1, 31), (3, 30), (4, 25)]
    assert found.tolist() == pytest.approx([reference.logit_diff(ids, ANSWERS) for ids in OF_QUERIES], abs=TOLERANCE)


def test_nothing_is_shared_by_a_model_that_cannot_go_on_from_a_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = as_judge(tiny_model("llama", V))
    rotary = judge.decoder.rotary_emb.forward
    # Positions counted from the tokens that are given, as if there were none before them.
    monkeypatch.setattr(
        judge.decoder.rotary_emb, "forward", lambda x, position_ids: rotary(x, position_ids - position_ids.min())
    )
    monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
    assert not judge.contract.continuable
    sizes = passes_of(judge)
    judge.relevance([prompt_of(ids) for ids in OF_QUERIES], ANSWERS)
    assert sizes == [(7, max(map(len, OF_QUERIES)))]


def test_prompts_too_long_are_refused_whatever_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WORTH_SHARING", 1)
    judge = as_judge(tiny_model("gpt2", V))
    with pytest.raises(InputError, match="a prompt has 600 tokens and the model reads at most 512"):
        judge.relevance([prompt_of([7] * 300 + [token] * 300) for token in (8, 9)], ANSWERS)


def test_beginnings_are_those_that_save_most() -> None:
    one = [[1, 2, 3, 4, n] for n in range(10, 14)]
    other = [[1, 2, 9, 9, 9, n] for n in range(10, 13)]
    # Apart: 3 * 4 + 2 * 5 = 22 tokens; all seven together: 6 * 2 = 12.
    assert shared_beginnings([*one, *other], 1) == [Beginning(4, (0, 1, 2, 3)), Beginning(5, (4, 5, 6))]
    # Pairs that share one more: 4 groups save 5 each, all eight together 7 * 4.
    pairs = [[1, 2, 3, 4, n // 2, n] for n in range(8)]
    assert shared_beginnings(pairs, 1) == [Beginning(4, tuple(range(8)))]


def test_what_saves_little_is_not_shared() -> None:
    assert shared_beginnings([[1, 2, 3], [1, 2, 4], [5, 6]], 3) == [Beginning(0, (0, 1, 2))]
    assert shared_beginnings([[1, 2, 3], [1, 2, 4], [5, 6]], 2) == [Beginning(2, (0, 1)), Beginning(0, (2,))]


def test_the_last_token_is_never_shared() -> None:
    assert shared_beginnings([[1, 2, 3], [1, 2, 3], [1, 2, 3, 4]], 1) == [Beginning(2, (0, 1, 2))]


def test_no_prompts_have_no_beginnings() -> None:
    assert shared_beginnings([], 1) == []
