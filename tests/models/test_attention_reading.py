"""What heads attend to from query to document: as in the patterns that the model itself gives out, and early."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from families import FAMILIES, N_HEADS, N_LAYERS, tiny_judge
from reference_readouts import ReadoutReference
from relscope.errors import InputError
from relscope.interventions import Site, ablated
from relscope.models import Contract, JudgeModel, attention_reading, query_attention
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate

# Patterns are of order 1 in float32, after up to four layers of another attention code.
TOLERANCE = 1e-5
TEXTS = [
    "The cat sat on the mat near the river.",
    "Bread rises because yeast makes gas, and the dog ran to the hill.",
    "A hill.",
    "The dog sat near the mat.",
]
QUERIES = ["where did the cat sit?", "N/A"]
ALL_HEADS = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


def prompts_of(tokenizer: Any, order: Any = "dqi", queries: list[str] = QUERIES, **fields: Any) -> list[list[Prompt]]:
    renderer = PromptRenderer(tokenizer, PromptTemplate(order=order, **fields))
    return [[renderer.render(query, [text]) for query in queries] for text in TEXTS]


def slow(judge: JudgeModel, family: str, prompts: list[list[Prompt]]) -> torch.Tensor:
    """[reading, document, prompt, head] in loops, from one whole pass of each prompt with `output_attentions`."""
    reference = ReadoutReference(judge.model, family)

    def of(prompt: Prompt) -> list[list[float]]:
        query, document = prompt.region("query"), prompt.region("document")
        patterns = [head for layer in reference.patterns(prompt.ids) for head in layer.double()]
        return [
            [sum(sum(float(p[i, k]) for i in query) / len(query) for k in document) for p in patterns],
            [sum(max(float(p[i, k]) for k in document) for i in query) / len(query) for p in patterns],
        ]

    return torch.tensor([[of(prompt) for prompt in of_document] for of_document in prompts]).permute(2, 0, 1, 3)


def assert_equal(found: Any, wanted: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    # The comparison says little unless heads differ.
    assert wanted.std() > 1e-2
    torch.testing.assert_close(torch.stack([found.total, found.largest]), wanted.float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("order", ["dqi", "idq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_the_patterns_that_the_model_gives_out(
    family: str, order: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompts = tiny_judge(family, tiny_tokenizer), prompts_of(tiny_tokenizer, order)
    wanted = slow(judge, family, prompts)
    assert_equal(query_attention(judge, prompts, ALL_HEADS), wanted)
    # and where what all begin with is run once
    assert judge.contract.continuable
    monkeypatch.setattr(attention_reading, "WORTH_SHARING", 1)
    assert_equal(query_attention(judge, prompts, ALL_HEADS), wanted)


def test_nothing_is_run_behind_the_last_layer_that_is_read(tiny_tokenizer: Any) -> None:
    judge, prompts = tiny_judge("llama", tiny_tokenizer), prompts_of(tiny_tokenizer)
    assert judge.contract.continuable  # its own passes are not to be counted
    called: list[str] = []
    for layer in judge.layers:
        for name in ("out_proj", "mlp", "norm_before_attention"):
            said = f"{layer.index} {name}"
            getattr(layer, name).register_forward_hook(lambda _m, _a, _o, said=said: called.append(said))
    judge.final_norm.register_forward_hook(lambda _m, _a, _o: called.append("final norm"))
    before = judge.config._attn_implementation
    query_attention(judge, prompts, [(1, 2), (0, 1), (1, 0)])
    assert set(called) == {"0 norm_before_attention", "0 out_proj", "0 mlp", "1 norm_before_attention"}
    assert judge.config._attn_implementation == before  # also after a pass that was left


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_that_was_left_changes_no_verdict_that_follows(family: str, tiny_tokenizer: Any) -> None:
    judge, prompts = tiny_judge(family, tiny_tokenizer), prompts_of(tiny_tokenizer)
    ids = [prompts[0][0].ids]
    before = judge.logit_diff(ids, [(7, 70)])
    query_attention(judge, prompts, [(0, 0)])
    assert judge.logit_diff(ids, [(7, 70)]).equal(before)


def test_a_document_is_run_once_for_all_its_queries_and_nothing_behind_them(tiny_tokenizer: Any) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    prompts = prompts_of(tiny_tokenizer)[:1]
    assert judge.contract.continuable  # its own passes are not to be counted
    sizes: list[int] = []
    judge.decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    query_attention(judge, prompts, [(1, 0)])
    one, free = prompts[0]
    start = one.parts["query"].start
    # The two queries begin with different tokens; what stands before them is the same.
    assert one.ids[:start] == free.ids[:start]
    assert sizes == [one.parts["query"].stop + len(free.parts["query"])]


def test_heads_come_in_the_order_given(tiny_tokenizer: Any) -> None:
    judge, prompts = tiny_judge("gemma2", tiny_tokenizer), prompts_of(tiny_tokenizer)
    whole = query_attention(judge, prompts, ALL_HEADS)
    some = [(3, 1), (0, 2), (3, 0)]
    found = query_attention(judge, prompts, some)
    at = [ALL_HEADS.index(head) for head in some]
    # The same products, up to the layer where reading ends.
    torch.testing.assert_close(found.total, whole.total[..., at], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.largest, whole.largest[..., at], atol=1e-6, rtol=0)


def test_rows_are_batched_by_length_and_give_the_same(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, prompts = tiny_judge("mistral", tiny_tokenizer), prompts_of(tiny_tokenizer)
    whole = query_attention(judge, prompts, ALL_HEADS)
    monkeypatch.setattr("relscope.models.judge.TOKENS_PER_BATCH", 1)
    alone = query_attention(judge, prompts, ALL_HEADS)
    # Batches round float32 products differently.
    torch.testing.assert_close(alone.total, whole.total, atol=1e-6, rtol=0)
    torch.testing.assert_close(alone.largest, whole.largest, atol=1e-6, rtol=0)


def test_where_the_length_of_a_pass_matters_each_prompt_is_run_alone_and_whole(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompts = tiny_judge("llama", tiny_tokenizer), prompts_of(tiny_tokenizer)
    wanted = slow(judge, "llama", prompts)
    assert judge.contract.continuable  # its own passes are not to be counted
    monkeypatch.setattr(judge, "length_matters", True)
    sizes: list[tuple[int, ...]] = []
    judge.decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    assert_equal(query_attention(judge, prompts, ALL_HEADS), wanted)
    assert sorted(sizes) == sorted((1, len(prompt)) for of in prompts for prompt in of)


def test_what_cannot_be_read_is_refused(tiny_tokenizer: Any) -> None:
    judge, prompts = tiny_judge("gpt2", tiny_tokenizer), prompts_of(tiny_tokenizer)
    with pytest.raises(InputError, match="layer 4, head 0 does not exist: the model has 4 layers of 4 heads"):
        query_attention(judge, prompts, [(0, 0), (N_LAYERS, 0)])
    with pytest.raises(InputError, match="none is given"):
        query_attention(judge, prompts, [])
    with pytest.raises(InputError, match=r"use an order with d before q \('dqi' or 'idq'\)"):
        query_attention(judge, prompts_of(tiny_tokenizer, "qdi"), [(0, 0)])
    long = PromptRenderer(tiny_tokenizer, PromptTemplate(max_document_tokens=2000)).render("a", ["the cat " * 600])
    with pytest.raises(InputError, match=r"a prompt has \d+ tokens and the model reads at most 512"):
        query_attention(judge, [[long]], [(0, 0)])
    with ablated(judge, [Site("z", 0, "all", 0)], kind="zero"), pytest.raises(InputError, match="leave ablated"):
        query_attention(judge, prompts, [(0, 0)])


def test_a_model_whose_patterns_do_not_sum_to_1_is_refused(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = tiny_judge("llama", tiny_tokenizer)
    clauses = [replace(clause, ok=clause.name != "patterns") for clause in judge.contract.clauses]
    monkeypatch.setattr(judge, "contract", Contract(tuple(clauses)))
    with pytest.raises(InputError, match="fails the contract's clause 'patterns'"):
        query_attention(judge, prompts_of(tiny_tokenizer), [(0, 0)])


def test_no_documents_have_no_attention(tiny_tokenizer: Any) -> None:
    assert query_attention(tiny_judge("llama", tiny_tokenizer), [], [(0, 0)]).total.shape == (0, 0, 1)
